"""What peers make us log is bounded, and what was held back is told."""

from broker.limits import LOG_LINES_MAX, LOG_WINDOW_S
from broker.watch.throttle import Throttle


def test_each_event_has_its_lines_in_each_window() -> None:
    now = 1000.0
    throttle = Throttle(lambda: now)
    said = [throttle.admits("publish refused") for _ in range(LOG_LINES_MAX + 7)]
    assert said == [0] * LOG_LINES_MAX + [-1] * 7
    assert throttle.admits("protocol error") == 0  # one does not drown out another
    now += LOG_WINDOW_S - 0.01
    assert throttle.admits("publish refused") == -1
    now += 0.01
    assert throttle.admits("publish refused") == 8  # so many were held back
    assert throttle.admits("publish refused") == 0
    now += LOG_WINDOW_S
    assert throttle.admits("publish refused") == 0  # none was
