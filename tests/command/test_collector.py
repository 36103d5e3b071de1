"""The garbage collector of a broker with very many sessions."""

import gc
from collections.abc import Iterator

import pytest
from support.loopback import Lab

from broker.command.service import COLLECTOR_THRESHOLDS, sparing_the_collector


@pytest.fixture
def collector() -> Iterator[None]:
    """As it was, afterwards."""
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


@pytest.mark.usefixtures("collector")
def test_no_collection_looks_at_all_that_there_is() -> None:
    looked_at: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            looked_at.append(sum(len(gc.get_objects(generation)) for generation in range(info["generation"] + 1)))

    with sparing_the_collector():
        loaded = [[n] for n in range(100_000)]
        gc.callbacks.append(note)
    try:
        came = [[n] for n in range(600_000)]
    finally:
        gc.callbacks.remove(note)
    assert len(loaded) < len(came)
    assert looked_at, "it never ran"
    assert max(looked_at) < 5 * COLLECTOR_THRESHOLDS[0]


def test_nothing_of_a_session_waits_for_the_collector() -> None:
    """For it does not come to what has lived for a while."""
    lab = Lab()

    def live(name: str, *, lasting: bool) -> None:
        client = lab.connect(name, session_expiry=100 if lasting else 0)
        for filter in ("a/+", name, "$share/group/a/b"):
            client.subscribe(filter, 2)
        client.publish("a/b", qos=1)
        client.publish("a/b", qos=2)
        client.packets()
        client.drop()

    live("warm", lasting=True)
    gc.collect()
    gc.disable()
    try:
        for n in range(20):
            live(f"c{n}", lasting=bool(n % 2))
        lab.advance(200)
        assert not lab.core.sessions
        assert gc.collect() == 0
    finally:
        gc.enable()
