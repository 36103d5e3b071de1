"""A few of the damaged conversations of `fuzz.live`, always the same. `make fuzz TARGET=live` tries others."""

from fuzz import live

SEED = 1
COUNT = 400


def test_damaged_conversations_harm_nobody() -> None:
    assert live.run(SEED, COUNT) == COUNT, f"again: make fuzz TARGET=live SEED={SEED}"
