"""Topic names and filters; `matches` and `covers` against plain restatements of the specification."""

import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import MalformedPacket, ProtocolError
from broker.limits import TOPIC_BYTES_MAX, TOPIC_LEVELS_MAX
from broker.wire.topics import (
    check_filter,
    check_topic_name,
    check_wildcards,
    covers,
    filter_fits,
    matches,
    parse_shared,
)

# -- validity --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "topic",
    ["a", "/", "a/b", "//", " ", "$SYS/x", "é/€", "a" * TOPIC_BYTES_MAX, "/" * (TOPIC_LEVELS_MAX - 1), "\ufeff", "*"],
)
def test_topic_name(topic: str) -> None:
    check_topic_name(topic.encode())


@pytest.mark.parametrize(
    "topic",
    [
        b"",
        b"+",
        b"#",
        b"a/+",
        b"a/#",
        b"a#",
        b"+a",
        "é#".encode(),
        b"a" * (TOPIC_BYTES_MAX + 1),
        b"/" * TOPIC_LEVELS_MAX,
    ],
)
def test_topic_name_invalid(topic: bytes) -> None:
    """[MQTT-3.3.2-2, MQTT-4.7.0-1, MQTT-4.7.3-1, -3], 3.1.1 [MQTT-4.7.1-1]."""
    with pytest.raises(ProtocolError) as caught:
        check_topic_name(topic)
    assert caught.value.reason == 0x90


@pytest.mark.parametrize("topic", [b"\0", b"a\0b", "é\0".encode(), b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"a\xc3"])
def test_topic_name_malformed(topic: bytes) -> None:
    """[MQTT-3.3.2-1, MQTT-4.7.3-2], 3.1.1 [MQTT-1.5.3-1]."""
    with pytest.raises(MalformedPacket) as caught:
        check_topic_name(topic)
    assert caught.value.reason == 0x81


@pytest.mark.parametrize(
    "topic_filter",
    [
        "a",
        "#",
        "+",
        "/",
        "a/#",
        "/#",
        "+/#",
        "+/+",
        "/+",
        "a/+/b",
        "//#",
        "$SYS/#",
        "$share",
        "$shared/a",
        "$share/g/a",
        "$share/g/#",
        "$share/g//",
        "$share/$g/+/a",
        "é/+",
        "a" * TOPIC_BYTES_MAX,
        "/" * (TOPIC_LEVELS_MAX - 1),
        "$share/g/" + "/" * (TOPIC_LEVELS_MAX - 1),
    ],
)
def test_filter(topic_filter: str) -> None:
    """3.1.1 [MQTT-4.7.1-2, -3]."""
    check_filter(topic_filter)
    check_wildcards(topic_filter)
    assert filter_fits(topic_filter)


@pytest.mark.parametrize(
    "topic_filter",
    [
        "",
        "a#",
        "#a",
        "##",
        "++",
        "+a",
        "a+",
        "#/",
        "#/a",
        "a/#/b",
        "#/#",
        "a/b#",
        "a/+b/c",
        "+#",
        "\0",
        "a\0",
        "\ud800",
        "$share/",
        "$share/g",
        "$share/g/",
        "$share//a",
        "$share/+/a",
        "$share/#/a",
        "$share/g+/a",
        "$share/g/a#",
        "$share/g\0/a",
    ],
)
def test_filter_invalid(topic_filter: str) -> None:
    """[MQTT-4.7.3-1, -2], 3.1.1 [MQTT-4.7.1-2, -3]."""
    with pytest.raises(ProtocolError) as caught:
        check_filter(topic_filter)
    assert caught.value.reason == 0x8F


@pytest.mark.parametrize(
    "topic_filter",
    [
        "a" * (TOPIC_BYTES_MAX + 1),
        "é" * (TOPIC_BYTES_MAX // 2 + 1),
        "/" * TOPIC_LEVELS_MAX,
        "$share/g/" + "/" * TOPIC_LEVELS_MAX,
    ],
)
def test_filter_over_our_bounds(topic_filter: str) -> None:
    """[MQTT-4.7.3-3]: ours are lower."""
    check_filter(topic_filter)
    assert not filter_fits(topic_filter)


@given(st.text("a/+#$", min_size=1, max_size=8))
def test_wildcards_stand_alone_and_a_hash_stands_last(topic_filter: str) -> None:
    """[MQTT-4.7.1-1, -2], restated level by level."""
    levels = topic_filter.split("/")
    alone = all(level in ("+", "#") or not {"+", "#"} & set(level) for level in levels)
    if alone and "#" not in levels[:-1]:
        check_wildcards(topic_filter)
    else:
        with pytest.raises(ProtocolError):
            check_wildcards(topic_filter)


def test_parse_shared() -> None:
    assert parse_shared("a/b") is None
    assert parse_shared("$share") is None
    assert parse_shared("$shared/g/a") is None
    assert parse_shared("$share/g/a/b") == ("g", "a/b")
    assert parse_shared("$share/g//") == ("g", "/")
    with pytest.raises(ProtocolError):
        parse_shared("$share/g")


# -- matching --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [  # the examples of §4.7
        ("sport/tennis/player1/#", "sport/tennis/player1", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
        ("sport/#", "sport", True),
        ("sport/tennis/+", "sport/tennis/player1", True),
        ("sport/tennis/+", "sport/tennis/player1/ranking", False),
        ("sport/+", "sport", False),
        ("sport/+", "sport/", True),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("+", "/finance", False),
        ("#", "$SYS/x", False),
        ("+/monitor/Clients", "$SYS/monitor/Clients", False),
        ("$SYS/#", "$SYS/x", True),
        ("$SYS/#", "$SYS", True),
        ("$SYS/monitor/+", "$SYS/monitor/Clients", True),
        ("ACCOUNTS", "Accounts", False),
        ("#", "a", True),
        ("a/#", "ab", False),
        ("a/b", "a/b", True),
        ("a/b", "a/b/", False),
        ("a/+", "a/$x", True),
    ],
)
def test_matches(topic_filter: str, topic: str, expected: bool) -> None:
    """[MQTT-4.7.2-1]."""
    assert matches(topic_filter, topic) is expected


def matches_by_regex(topic_filter: str, topic: str) -> bool:
    """§4.7 once more, by other means."""
    if topic.startswith("$") and topic_filter[0] in "+#":
        return False
    if topic_filter == "#":
        return True
    levels = topic_filter.split("/")
    tail = ""
    if levels[-1] == "#":
        levels.pop()
        tail = "(/.*)?"
    pattern = "/".join("[^/]*" if level == "+" else re.escape(level) for level in levels) + tail
    return re.fullmatch(pattern, topic) is not None


def filters_of(levels: tuple[str, ...], depth: int) -> list[str]:
    """Every valid filter of up to `depth` levels."""
    found = []
    for count in range(depth):
        for before in product((*levels, "+"), repeat=count):
            found += ["/".join((*before, last)) for last in (*levels, "+", "#")]
    return [one for one in found if one]


def topics_of(levels: tuple[str, ...], depth: int) -> list[str]:
    """Every topic name of up to `depth` levels."""
    names = ("/".join(parts) for count in range(1, depth + 1) for parts in product(levels, repeat=count))
    return [name for name in names if name]


# A level of the filters' own, one that begins with '$', an empty one; the topics have one more that no filter names.
FILTERS = filters_of(("a", "$a", ""), 3)
TOPICS = topics_of(("a", "$a", "", "z"), 5)


def test_matches_like_the_regex_everywhere() -> None:
    for topic_filter in FILTERS:
        check_filter(topic_filter)
        for topic in TOPICS:
            assert matches(topic_filter, topic) == matches_by_regex(topic_filter, topic), (topic_filter, topic)


# -- covering --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wider", "narrower", "expected"),
    [
        ("#", "a/b", True),
        ("#", "#", True),
        ("#", "$SYS/x", False),
        ("#", "+/x", True),
        ("+/#", "#", True),  # the same topics
        ("+/+/#", "#", False),
        ("/+/#", "/#", True),  # the same topics, for the parent would be the empty one
        ("/+/+/#", "/#", False),
        ("+", "#", False),
        ("a/#", "a", True),
        ("a/#", "a/+", True),
        ("a/#", "a/#", True),
        ("a/+", "a/#", False),
        ("a/+/#", "a/#", False),
        ("a", "a/#", False),
        ("a/b", "a/+", False),
        ("+/b", "a/b", True),
        ("+/b", "$a/b", False),
        ("$a/+", "$a/b", True),
        ("$a/#", "$a/#", True),
        ("acme/topic/+", "acme/topic/news", True),
        ("acme/topic/+", "acme/topic/#", False),
        ("acme/topic/+", "acme/+/news", False),
        ("acme/topic/+", "+/topic/news", False),
        ("acme/#", "#", False),
        ("acme/#", "+/#", False),
    ],
)
def test_covers(wider: str, narrower: str, expected: bool) -> None:
    assert covers(wider, narrower) is expected


def test_covers_is_exact() -> None:
    """Against all topics, for all pairs of filters over a small alphabet.

    One level more than the filters have, and one name that they do not, are enough: a filter cannot tell apart names
    that it does not mention, nor depths beyond its own.
    """
    matched = {
        topic_filter: sum(1 << bit for bit, topic in enumerate(TOPICS) if matches_by_regex(topic_filter, topic))
        for topic_filter in FILTERS
    }
    for wider, narrower in product(FILTERS, repeat=2):
        expected = matched[narrower] & ~matched[wider] == 0
        assert covers(wider, narrower) == expected, (wider, narrower)


LEVEL = st.sampled_from(["", "a", "b", "$a", "$"])
DEEP_FILTER = st.builds(
    lambda levels, last: "/".join((*levels, last)),
    st.lists(LEVEL | st.just("+"), max_size=6),
    LEVEL | st.sampled_from("+#"),
).filter(bool)
DEEP_TOPIC = st.lists(st.sampled_from(["", "a", "b", "$a", "z"]), min_size=1, max_size=8).map("/".join).filter(bool)


@given(DEEP_FILTER, DEEP_FILTER, st.data())
def test_covers_is_never_too_generous(wider: str, narrower: str, data: st.DataObject) -> None:
    """Whatever `narrower` is made to match, `wider` must match, if it is said to cover it."""
    levels: list[str] = []
    for level in narrower.split("/"):
        if level == "#":
            levels += data.draw(st.lists(st.sampled_from(["", "a", "z", "$a"]), max_size=4))
        elif level == "+":
            levels.append(data.draw(st.sampled_from(["", "a", "b", "z", "$a"])))
        else:
            levels.append(level)
    topic = "/".join(levels)
    if topic and matches(narrower, topic) and covers(wider, narrower):
        assert matches(wider, topic)


@given(DEEP_FILTER, DEEP_TOPIC)
def test_a_topic_is_covered_by_what_matches_it(topic_filter: str, topic: str) -> None:
    """A topic name is a filter, too: for it, covering is matching."""
    assert covers(topic_filter, topic) == matches(topic_filter, topic) == matches_by_regex(topic_filter, topic)


@given(DEEP_FILTER, DEEP_FILTER, DEEP_FILTER)
def test_covers_is_an_order(one: str, two: str, three: str) -> None:
    assert covers(one, one)
    if covers(one, two) and covers(two, three):
        assert covers(one, three)
