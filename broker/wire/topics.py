"""Topic names and topic filters (MQTT 5 §4.7, §4.8.2): what is valid, what matches, what covers what."""

import re
from typing import Final

from broker.errors import MalformedPacket, ProtocolError
from broker.limits import TOPIC_BYTES_MAX, TOPIC_LEVELS_MAX
from broker.wire.codes import Reason

SHARE_PREFIX: Final = "$share/"
_PLUS: Final = ord("+")
_HASH: Final = ord("#")
_MISPLACED: Final = re.compile("[^/][+#]|[+#][^/]|#/")


def has_wildcard(text: str) -> bool:
    """Whether `text` contains a wildcard character."""
    return "+" in text or "#" in text


def wild(filter: bytes) -> bool:
    """The same of a checked filter, encoded: wildcards stand alone in a level, so the byte is enough."""
    return b"+" in filter or b"#" in filter


def check_topic_name(topic: bytes) -> None:
    """Accept a topic that a message may be published to, as it came from the wire.

    Raises `MalformedPacket` (0x81) when it is not UTF-8 [MQTT-3.3.2-1], 3.1.1 [MQTT-1.5.3-1], or contains U+0000
    [MQTT-4.7.3-2]; `ProtocolError` 0x90 when it is empty [MQTT-4.7.3-1], contains a wildcard [MQTT-3.3.2-2,
    MQTT-4.7.0-1], 3.1.1 [MQTT-4.7.1-1], or is over our bounds, which are below those of MQTT [MQTT-4.7.3-3].
    """
    if not topic.isascii():
        try:
            topic.decode()
        except UnicodeDecodeError:
            raise MalformedPacket("a topic is not UTF-8") from None
    if 0 in topic:  # a number is found in a fifth of the time that a byte string takes
        raise MalformedPacket("a topic contains U+0000")
    if (
        not topic
        or _PLUS in topic
        or _HASH in topic
        or len(topic) > TOPIC_BYTES_MAX
        or topic.count(b"/") >= TOPIC_LEVELS_MAX
    ):
        raise ProtocolError(
            "a topic is empty, contains a wildcard, or is too long or too deep", Reason.TOPIC_NAME_INVALID
        )


def check_filter(topic_filter: str) -> None:
    """Accept a topic filter as MQTT 5 allows it, shared ones included; whether we take it says `filter_fits`.

    Raises `ProtocolError` 0x8F. A filter that came through `decode` is UTF-8 without U+0000 already; others are checked
    here.
    """
    try:
        topic_filter.encode()
    except UnicodeEncodeError:
        raise _bad_filter("is not UTF-8") from None
    if "\0" in topic_filter:
        raise _bad_filter("contains U+0000")  # [MQTT-4.7.3-2]
    check_wildcards(topic_filter)
    parse_shared(topic_filter)


def check_wildcards(topic_filter: str) -> None:
    """Accept a topic filter in which each wildcard is a whole level, and '#' the last one.

    Raises `ProtocolError` 0x8F, also when there is nothing in it.
    """
    if not topic_filter:
        raise _bad_filter("is empty")  # [MQTT-4.7.3-1]
    if _MISPLACED.search(topic_filter):
        raise _bad_filter("has a wildcard in the wrong place")  # [MQTT-4.7.1-1, -2], 3.1.1 [MQTT-4.7.1-2, -3]


def filter_fits(topic_filter: str) -> bool:
    """Whether a valid filter is within our bounds, lower than those of MQTT [MQTT-4.7.3-3]."""
    if len(topic_filter.encode()) > TOPIC_BYTES_MAX:
        return False
    shared = parse_shared(topic_filter)
    return (shared[1] if shared is not None else topic_filter).count("/") < TOPIC_LEVELS_MAX


def parse_shared(topic_filter: str) -> tuple[str, str] | None:
    """Share name and topic filter of `$share/{name}/{filter}`, or None for a filter that is not shared.

    Raises `ProtocolError` 0x8F when the share name is empty or contains a wildcard [MQTT-4.8.2-2], or no filter follows
    it [MQTT-4.8.2-1]. The filter itself is not checked.
    """
    if not topic_filter.startswith(SHARE_PREFIX):
        return None
    name, _, inner = topic_filter[len(SHARE_PREFIX) :].partition("/")
    if not name or not inner or has_wildcard(name):
        raise _bad_filter("is not $share/{name}/{filter}")
    return name, inner


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a valid filter, not a shared one, matches a topic name (§4.7).

    A filter that begins with a wildcard matches no topic that begins with '$' [MQTT-4.7.2-1].
    """
    if topic[:1] == "$" and topic_filter[:1] in ("+", "#"):
        return False
    wanted = topic_filter.split("/")
    levels = topic.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return True  # the parent level, too (§4.7.1.2): nothing need be left
        if index == len(levels) or (level != "+" and level != levels[index]):
            return False
    return len(wanted) == len(levels)


def covers(wider: str, narrower: str) -> bool:
    """Whether every topic that `narrower` can match is matched by `wider`. Both are valid and not shared."""
    if narrower[:1] == "$" and wider[:1] in ("+", "#"):
        return False  # [MQTT-4.7.2-1]
    wide = wider.split("/")
    narrow = narrower.split("/")
    if narrower in ("#", "/#"):
        narrow[-1:] = ["+", "#"]  # the same topics, for there is none without a level, and no empty one
    for index, level in enumerate(wide):
        if level == "#":
            return True
        # A '#' in `narrow` matches its parent, which ends here, and more levels than `wide` may have.
        if index == len(narrow) or narrow[index] == "#" or (level != "+" and level != narrow[index]):
            return False
    return len(wide) == len(narrow)


def _bad_filter(what: str) -> ProtocolError:
    """The error for a topic filter; the filter itself stays out of it, for it may be long."""
    return ProtocolError(f"a topic filter {what}", Reason.TOPIC_FILTER_INVALID)
