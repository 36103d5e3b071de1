"""Mappings of topics: `crm/{user}/notify -> acme/user/{user}`. What they may be, and where they would go in circles.

`{name}` stands for exactly one level, `{name...}` at the end for one or more. Each side is a *pattern*; seen as a topic
filter, its placeholders are wildcards.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

from broker.errors import Refused
from broker.limits import LINK_MAPPINGS_MAX, TOPIC_BYTES_MAX, TOPIC_LEVELS_MAX

Direction = Literal["in", "out"]

_PLACEHOLDER: Final = re.compile(r"\{([a-z][a-z0-9_]{0,31})(\.\.\.)?\}")
_REMEDY: Final = "Write it as 'crm/{user}/notify -> acme/user/{user}': {name} is one level, {name...} all that follow."
# What only devices and the bridge say: nobody else may make it up (`route.access`).
_SAID_BY_OTHERS: Final = ("receipts/#", "device/+/up/#")
# Where a request for a rich send leads: a loop can go through it, too.
_SENDS: Final = ("send/answer", "receipts/+", "user/+", "device/#")


class Mapping(NamedTuple):
    """From topics on one side of a link to topics on its other side."""

    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}"

    @property
    def filter(self) -> str:
        """The topic filter to subscribe to."""
        return filter_of(self.source)

    def apply(self, topic: str) -> str | None:
        """Where `topic` goes; None if it is none of these."""
        return _fill(self.target, _values(self.source, topic))

    def back(self, topic: str) -> str | None:
        """The topic that goes to `topic`: None if there is none, or if not all of it can be told."""
        values = _values(self.target, topic)
        if values is None or not set(_names(self.source)) <= values.keys():
            return None
        return _fill(self.source, values)


def filter_of(pattern: str) -> str:
    """The filter that matches what a pattern can be; more, where a name stands there twice."""
    return "/".join("#" if level.endswith("...}") else "+" if level[:1] == "{" else level for level in _split(pattern))


def parse(text: str) -> Mapping:
    """A mapping as people write it. Raises `Refused` (0x90), saying what is wrong with it."""
    source, arrow, target = (part.strip() for part in text.partition("->"))
    if not arrow or not source or not target:
        raise _bad(text, "has no '->' between two topics")
    for side in (source, target):
        _check_pattern(text, side)
    unknown = set(_names(target)) - set(_names(source))
    if unknown:
        raise _bad(text, f"does not say where {{{min(unknown)}}} comes from")
    names = _names(source)
    if len(names) != len(set(names)):
        raise _bad(text, "has the same name twice in its source")
    ends = {level[1:-4] for level in _split(source) if level.endswith("...}")}
    wide = {level[1:-4] for level in _split(target) if level.endswith("...}")}
    if ends & set(_names(target)) != wide:
        raise _bad(text, "has {name...} on one side and {name} on the other")
    return Mapping(source, target)


def check(brand: str, inbound: Sequence[Mapping], outbound: Sequence[Mapping]) -> None:
    """Raise `Refused` for mappings that a link of `brand` cannot have."""
    for mappings in (inbound, outbound):
        if len(mappings) > LINK_MAPPINGS_MAX:
            raise Refused(
                f"{len(mappings)} mappings in one direction; {LINK_MAPPINGS_MAX} are allowed",
                reason=0x97,
                remedy="Say it with fewer placeholders, or add another link.",
            )
        for at, one in enumerate(mappings):
            for other in mappings[at + 1 :]:
                if overlap(one.filter, other.filter):
                    raise Refused(
                        f"a topic can match both {one} and {other}",
                        reason=0x90,
                        remedy="Make one of them narrower; to send a topic to two places, add another link.",
                    )
    for mapping in inbound:
        _check_ours(brand, mapping, mapping.target)
        for said in _SAID_BY_OTHERS:
            if overlap(f"{brand}/{said}", filter_of(mapping.target)):
                raise Refused(
                    f"{mapping}: a server of {brand} may not publish to all of {mapping.target}",
                    remedy=f"To {brand}/device/NAME/up/ only devices do, to {brand}/receipts/ only the bridge. "
                    "Write the levels before the placeholder in full.",
                )
    for mapping in outbound:
        _check_ours(brand, mapping, mapping.source)


def _check_ours(brand: str, mapping: Mapping, pattern: str) -> None:
    if not pattern.startswith(f"{brand}/"):
        raise Refused(
            f"{mapping}: {pattern} is not a topic of {brand}", remedy=f"On our side topics begin with {brand}/."
        )


# -- circles -----------------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """One way that a message can go: from a filter at one broker to one at another ('' is ours)."""

    words: str
    at: str
    source: str
    to: str
    target: str


def steps(link: str, broker: str, inbound: Iterable[Mapping], outbound: Iterable[Mapping]) -> list[Step]:
    """The ways through a link; `broker` says which one is at its other end."""
    return [
        *(Step(f"{link} in: {m}", broker, m.filter, "", filter_of(m.target)) for m in inbound),
        *(Step(f"{link} out: {m}", "", m.filter, broker, filter_of(m.target)) for m in outbound),
    ]


def check_circles(brand: str, ways: Sequence[Step]) -> None:
    """Raise `Refused` (0x90), with the circle in words, when a message could come back to where it was."""
    bridge = [
        Step(f"the bridge: {brand}/send -> {brand}/{target}", "", f"{brand}/send", "", f"{brand}/{target}")
        for target in _SENDS
    ]
    every = [*ways, *bridge]
    after = [
        [n for n, other in enumerate(every) if other.at == way.to and overlap(way.target, other.source)]
        for way in every
    ]
    circle = _circle(after)
    if circle:
        words = "; ".join(every[number].words for number in circle)
        raise Refused(
            f"messages would go in a circle: {words}; and again",
            reason=0x90,
            remedy="Change a topic so that what comes in by one mapping does not go out by another of the circle.",
        )


def _circle(after: Sequence[Sequence[int]]) -> list[int]:
    """The numbers on a circle in a graph, or nothing: a walk in depth, which remembers where it is (gray)."""
    done: set[int] = set()
    for start in range(len(after)):
        path: list[int] = []
        stack = [iter((start,))]
        while stack:
            at = next(stack[-1], None)
            if at is None:
                stack.pop()
                if path:
                    done.add(path.pop())
            elif at in path:
                return path[path.index(at) :]
            elif at not in done:
                path.append(at)
                stack.append(iter(after[at]))
    return []


def overlap(one: str, other: str) -> bool:
    """Whether a topic can match both filters."""
    if (one[:1] == "$") != (other[:1] == "$"):
        return False
    ones, others = one.split("/"), other.split("/")
    for a, b in zip(ones, others, strict=False):
        if "#" in (a, b):
            return True
        if a != b and "+" not in (a, b):
            return False
    # '#' matches its parent level, too.
    rest = ones[len(others) :] or others[len(ones) :]
    return not rest or rest == ["#"]


# -- patterns ----------------------------------------------------------------------------------------------------------


def _split(pattern: str) -> list[str]:
    return pattern.split("/")


def _names(pattern: str) -> list[str]:
    return [found[1] for level in _split(pattern) if (found := _PLACEHOLDER.fullmatch(level))]


def _values(pattern: str, topic: str) -> dict[str, str] | None:
    """What the placeholders stand for in `topic`. A level that is empty is none that a name could stand for."""
    values: dict[str, str] = {}
    levels = _split(topic)
    wanted = _split(pattern)
    for at, level in enumerate(wanted):
        if at >= len(levels):
            return None
        found = _PLACEHOLDER.fullmatch(level)
        if found is None:
            if level != levels[at]:
                return None
            continue
        value = "/".join(levels[at:]) if found[2] else levels[at]
        if not value or values.setdefault(found[1], value) != value:
            return None
        if found[2]:
            return values
    return values if len(levels) == len(wanted) else None


def _fill(pattern: str, values: dict[str, str] | None) -> str | None:
    if values is None:
        return None
    return "/".join(
        values[found[1]] if (found := _PLACEHOLDER.fullmatch(level)) else level for level in _split(pattern)
    )


def _check_pattern(text: str, pattern: str) -> None:
    levels = _split(pattern)
    for at, level in enumerate(levels):
        found = _PLACEHOLDER.fullmatch(level)
        if found is None:
            if set(level) & set("+#"):
                raise _bad(text, f"has a wildcard in {level!r}: give what it stands for a name")
            if set(level) & set("{}"):
                raise _bad(text, f"has a placeholder in {level!r} that is not a level of its own")
        elif found[2] and at != len(levels) - 1:
            raise _bad(text, f"has {level} before its end")
    if pattern.startswith("$share/"):
        raise _bad(text, "has a shared subscription, which cannot be followed")
    if "\0" in pattern or len(pattern.encode()) > TOPIC_BYTES_MAX or len(levels) > TOPIC_LEVELS_MAX:
        raise _bad(text, f"is longer than {TOPIC_BYTES_MAX} bytes or {TOPIC_LEVELS_MAX} levels")


def _bad(text: str, what: str) -> Refused:
    return Refused(f"the mapping {text!r} {what}", reason=0x90, remedy=_REMEDY)
