"""`kill -9` at random instants under load. `make crash N=500` does it for longer."""

import random
from pathlib import Path

import pytest
from crash.chain import Chain

_LIVES = 12


async def _run(directory: Path, lives: int, how: str) -> Chain:
    seed = f"{random.SystemRandom().getrandbits(32):08x}"
    chain = Chain.of(how, directory, seed)
    await chain.run(lives)
    if chain.ledger.problems:
        again = f"make crash HOW={how} SEED={seed} N={lives}"
        pytest.fail(f"{chain.ledger.report()}\n\nagain: {again}", pytrace=False)
    return chain


@pytest.mark.parametrize("number", range(2))
async def test_nothing_that_was_acknowledged_is_lost(tmp_path: Path, number: int) -> None:
    chain = await _run(tmp_path, _LIVES, "kill")
    totals = chain.ledger.totals
    assert totals.kills > _LIVES / 2  # some stop before they are killed
    # What is looked at was there to see.
    assert min(totals.acknowledged, totals.sent_again, totals.redeliveries, totals.retained_checked) > 0, totals


async def test_nothing_comes_twice_without_a_crash(tmp_path: Path) -> None:
    await _run(tmp_path, 5, "stop")


async def test_a_power_cut_costs_nothing_either(tmp_path: Path) -> None:
    await _run(tmp_path, 8, "power")
