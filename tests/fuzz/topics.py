"""Topic filters and topics: what is valid, what matches, what covers what, against regular expressions."""

import re
from collections.abc import Iterator

from fuzz.target import Target

from broker.errors import ProtocolError
from broker.identity import Identity, Role
from broker.route.access import may_subscribe
from broker.route.topictree import TopicTree
from broker.wire.codes import Reason
from broker.wire.topics import check_filter, check_topic_name, covers, filter_fits, matches, parse_shared

_VALID = re.compile(r"(?:(?:[^/+#\0]*|\+)/)*(?:[^/+#\0]*|\+|#)")
_SHARED = re.compile(r"\$share/([^/+#\0]+)/(.+)", re.DOTALL)
_DEVICE = Identity(Role.DEVICE, "a", "b", "c", "d")


def run(data: bytes) -> None:
    """Two filters and a topic, a line each."""
    texts = [line.decode("utf-8", "surrogatepass") for line in _lines(data)]
    if len(texts) < 3:
        return
    wide, narrow, topic = texts
    if _is_topic(topic):
        seen = [_matches(name, topic) for name in (wide, narrow)]
        if seen == [False, True]:
            assert not covers(wide, narrow), "it does not cover what it does not match"
    if _plain(narrow) and may_subscribe(_DEVICE, narrow) and _is_topic(topic) and matches(narrow, topic):
        mine = ("a/device/b/", "a/topic/", "a/user/c", "a/store/d", "$enrol/certificate")
        assert f"{topic}/".startswith(mine), "a device sees what is not its own"


def _lines(data: bytes) -> list[bytes]:
    lines = data.split(b"\n", 2)
    try:
        for line in lines:
            line.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return []
    return lines


def _expect(error: ProtocolError, *reasons: Reason) -> None:
    assert error.reason in reasons, error


def _check(name: str) -> bool:
    """Whether it is a filter, shared or not."""
    try:
        check_filter(name)
    except ProtocolError as error:
        _expect(error, Reason.TOPIC_FILTER_INVALID)
        return False
    shared = parse_shared(name)
    assert shared is None or f"$share/{shared[0]}/{shared[1]}" == name
    filter_fits(name)
    return True


def _plain(name: str) -> bool:
    """Whether it is a filter that is not shared; checked against what the specification says in one expression."""
    good = _check(name)
    encodable = not re.search("[\ud800-\udfff]", name)
    shared = _SHARED.fullmatch(name)
    if name.startswith("$share/"):
        expected = shared is not None and _VALID.fullmatch(shared[2]) is not None
    else:
        expected = bool(name) and _VALID.fullmatch(name) is not None
    assert good == (expected and encodable), "valid, or not"
    return good and not name.startswith("$share/")


def _is_topic(topic: str) -> bool:
    raw = topic.encode("utf-8", "surrogatepass")
    try:
        check_topic_name(raw)
    except ProtocolError as error:
        _expect(error, Reason.MALFORMED_PACKET, Reason.TOPIC_NAME_INVALID)
        return False
    assert raw.decode() == topic
    assert not set(topic) & set("+#\0")
    return True


def _matches(name: str, topic: str) -> bool | None:
    """Whether a filter matches, in three ways; None for what is no plain filter."""
    if not _plain(name):
        return None
    expression = re.escape(name).replace(r"\+", "[^/]*")
    expression = re.sub(r"(^|/)\\\#$", lambda found: "(?:/.*)?" if found[1] else ".*", expression)
    expected = re.fullmatch(expression, topic, re.DOTALL) is not None and not (topic[0] == "$" and name[0] in "+#")
    assert matches(name, topic) == expected
    tree = TopicTree[str]()
    tree.add(topic.encode(), topic)
    tree.add(b"$other/one", "")
    assert (topic in list(tree.match(name.encode()))) == expected
    tree.remove(topic.encode())
    tree.remove(b"$other/one")
    assert tree.nodes == 0
    return expected


def seeds() -> Iterator[bytes]:
    filters = ["a", "a/b", "+", "#", "a/+", "a/#", "+/+", "/", "/+", "$s/#", "$share/g/a/#", "$share/g", "a#", "#/a",
               "a/device/b/#", "a/user/c", "caffè/+"]  # fmt: skip
    for wide in filters:
        for narrow in filters:
            for topic in ("a", "a/b", "/", "$s/a", "a/b/c", "caffè/1", "a/device/b/x"):
                yield f"{wide}\n{narrow}\n{topic}".encode()


TARGET = Target("topics", "topic filters and topics", run, seeds, bytes_max=300, runs_in_ci=5000)
