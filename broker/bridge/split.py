"""A/B splits: who is in which part of an audience, and whether what came of the parts differs.

Where somebody is follows from the name of the campaign and theirs alone: the same in every run, on every machine, and
independent of where they are in other campaigns.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Final, NamedTuple

PARTS: Final = 10_000  # a split is exact to a hundredth of a percent
# z at which a difference is said to be more than chance: two-sided, 95 %. With 1.96 + 0.84 a sample is large enough to
# find one with a probability of 80 %.
Z: Final = 1.96
_Z_POWER: Final = 0.84
# The normal distribution stands in for the binomial where so many of each outcome are expected in each part.
_EXPECTED_MIN: Final = 10


def place(of: str, kind: str, name: str) -> int:
    """Where in the audience of `of` a recipient is, from 0 to PARTS - 1."""
    digest = hashlib.blake2b(f"{of}\n{kind}\n{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % PARTS


def cut(weights: Mapping[str, int], holdout_percent: int) -> dict[str, tuple[int, int]]:
    """The first place of each part and that behind its last. What comes before the first part gets nothing."""
    begin = PARTS * holdout_percent // 100
    total, before, parts = sum(weights.values()), 0, {}
    for name, weight in weights.items():
        first = begin + (PARTS - begin) * before // total
        before += weight
        parts[name] = (first, begin + (PARTS - begin) * before // total)
    return parts


class Comparison(NamedTuple):
    """How one part does beside another. `lift`: relative, 0.2 is a fifth more; None where the other has none."""

    lift: float | None
    z: float | None
    p: float | None
    note: str


def compare(base: tuple[int, int], other: tuple[int, int]) -> Comparison:
    """Two parts, each as (how many did, of how many)."""
    (hits_a, of_a), (hits_b, of_b) = base, other
    if not of_a or not of_b:
        return Comparison(None, None, None, "nothing to compare yet")
    rate_a, rate_b = hits_a / of_a, hits_b / of_b
    lift = rate_b / rate_a - 1 if hits_a else None
    pooled = (hits_a + hits_b) / (of_a + of_b)
    expected = min(of_a, of_b) * min(pooled, 1 - pooled)
    if expected < _EXPECTED_MIN:
        return Comparison(lift, None, None, "too few to say anything")
    z = (rate_b - rate_a) / math.sqrt(pooled * (1 - pooled) * (1 / of_a + 1 / of_b))
    p = math.erfc(abs(z) / math.sqrt(2))
    if abs(z) >= Z:
        return Comparison(lift, z, p, f"more than chance (z = {z:.1f}, p {_small(p)})")
    note = f"may be chance (z = {z:.1f}, p {_small(p)})"
    if rate_a != rate_b:
        spread = rate_a * (1 - rate_a) + rate_b * (1 - rate_b)
        needed = math.ceil((Z + _Z_POWER) ** 2 * spread / (rate_a - rate_b) ** 2)
        if needed > min(of_a, of_b):
            note += f"; were it real, it would take some {_rounded(needed):,} in each part to see it"
    return Comparison(lift, z, p, note)


def _small(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _rounded(number: int) -> int:
    """Two figures of it: the rest would be a promise."""
    unit = int(10 ** max(len(str(number)) - 2, 0))
    return math.ceil(number / unit) * unit
