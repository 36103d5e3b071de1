"""What hostile clients can do to the others: to how soon they are served, and to the broker's memory.

`make bench-hostile` does the same with all the numbers, on a broker of its own for each attack.
"""

from collections.abc import Iterator

import pytest
from hostile.attacks import ATTACKS, Attack, attacking
from hostile.target import Target, running
from hostile.witness import Witness, quantile
from support.kiosk import until

SECONDS = 0.3
SCALE = 0.1
# On a machine that does other things, too. Without what is tested here it is many seconds, or for ever.
LATENCY_S = 2.0
MIB = 1 << 20
# They share a broker: what one of them has made the allocator do shows in the next one, too.
BEFORE_MIB = 128


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with running("--overload-lag-ms", 10_000) as target:
        yield target


@pytest.fixture(scope="module")
def witness(target: Target) -> Iterator[Witness]:
    with Witness(target.port) as witness:
        yield witness


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_the_others_are_served(target: Target, witness: Witness, attack: Attack) -> None:
    before, rss = target.counters, target.rss
    target.forget_peak()
    witness.tell()
    with attacking(target, SECONDS, SCALE) as scene:
        attack.run(scene)
        took = witness.tell()
    after = target.counters
    assert quantile(took, 0.99) < LATENCY_S
    assert target.peak - rss < (attack.memory_mib + BEFORE_MIB) * MIB
    for counter in attack.counts:
        until(lambda counter=counter: target.counters[counter] > before[counter])
    assert after["unexpected_errors"] == 0, target.log[-3000:]
    assert len(target.log) < 1 * MIB
