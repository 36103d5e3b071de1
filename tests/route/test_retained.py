"""Retained messages (§3.3.1.3) against a dict, and their bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.limits import RETAINED_OF_DEVICE_MAX, TREE_NODE_BYTES
from broker.message import Message
from broker.route.retained import Retained
from broker.wire.topics import matches


def message(topic: str, payload: bytes = b"x", expires_at: float = 0.0) -> Message:
    return Message(topic.encode(), payload, 1, True, expires_at=expires_at)


TOPIC = st.lists(st.sampled_from(["a", "b", "$a", ""]), min_size=1, max_size=3).map("/".join).filter(bool)
STEP = st.one_of(
    st.tuples(st.just("set"), TOPIC, st.binary(max_size=3), st.sampled_from([0.0, 30.0, 90.0])),
    st.tuples(st.just("purge"), st.just(""), st.just(b""), st.sampled_from([31.0, 60.0, 100.0, 120.0])),
)


@given(st.lists(STEP, max_size=25))
def test_keeps_the_last_of_each_topic(steps: list[tuple[str, str, bytes, float]]) -> None:
    """Replace, remove with an empty payload [MQTT-3.3.1-6], purge: the count, the bytes and the matches agree."""
    retained, model = Retained(), dict[str, Message]()
    for what, topic, payload, at in steps:
        if what == "set":
            one = message(topic, payload, at)
            retained.set(one)
            model.pop(topic, None)
            if payload:
                model[topic] = one
        else:
            gone = [topic for topic, one in model.items() if one.expires_at and one.expires_at // 60 < at // 60]
            found_gone = [topic for _ in range(len(gone) + 1) for topic in retained.purge(at, 1)]
            assert sorted(found_gone) == sorted(topic.encode() for topic in gone)
            for topic in gone:
                del model[topic]
        assert len(retained) == len(model)
        assert list(retained) == list(model.values())
        nodes = {tuple(topic.split("/")[: depth + 1]) for topic in model for depth in range(topic.count("/") + 1)}
        assert retained.bytes == sum(one.size for one in model.values()) + TREE_NODE_BYTES * len(nodes)
        for topic_filter in ("#", "+", "a/#", "$a/#", "+/+", "a", "/#"):
            for now in (0.0, 30.0, 50.0):
                expected = [
                    one
                    for topic, one in model.items()
                    if matches(topic_filter, topic) and not 0 < one.expires_at <= now
                ]
                found = retained.match(topic_filter.encode(), now)
                assert sorted(m.topic for m in found) == sorted(m.topic for m in expected)
                assert all(any(m is e for e in expected) for m in found)
    for topic in model:
        retained.set(message(topic, b""))
    assert retained.bytes == len(retained) == 0
    assert retained._tree._root == retained._of_brands == retained._expiring._minutes == {}


def taken(model: dict[str, Message]) -> tuple[int, int]:
    """The number and bytes of some messages, counted from nothing."""
    nodes = {tuple(topic.split("/")[: depth + 1]) for topic in model for depth in range(topic.count("/") + 1)}
    return len(model), sum(one.size for one in model.values()) + TREE_NODE_BYTES * len(nodes)


@given(
    st.lists(st.tuples(TOPIC, st.binary(max_size=900)), max_size=25),
    st.tuples(st.integers(0, 6), st.integers(0, 6000), st.integers(0, 4), st.integers(0, 4000)),
)
def test_what_fits_is_exact(steps: list[tuple[str, bytes]], bounds: tuple[int, int, int, int]) -> None:
    """Whatever was kept, replaced and taken away before: the same answer as from counting all and a brand's anew."""
    retained, model = Retained(*bounds), dict[str, Message]()
    for topic, payload in steps:
        one = message(topic, payload)
        after = {**model, topic: one}
        of_brand = {other: kept for other, kept in after.items() if other.split("/")[0] == topic.split("/")[0]}
        within = all(size <= bound for size, bound in zip((*taken(after), *taken(of_brand)), bounds, strict=True))
        no_more = not payload or (topic in model and one.size <= model[topic].size)
        assert retained.fits(one) == (within or no_more)
        if within or no_more:
            retained.set(one)
            model = {other: kept for other, kept in after.items() if kept.payload}
            assert (len(retained), retained.bytes) == taken(model)


def test_one_brand_cannot_use_up_what_all_share() -> None:
    """What it may keep is its own affair: another brand, whatever its name begins with, has all of its part."""
    for bounds in ({"brand_messages_max": 2}, {"brand_bytes_max": 2 * message("acme/a").size + 3 * TREE_NODE_BYTES}):
        retained = Retained(**bounds)
        for topic in ("acme/a", "acme/b"):
            assert retained.fits(message(topic))
            retained.set(message(topic))
        assert not retained.fits(message("acme/c"))
        assert retained.fits(message("acme/b", b"y"))  # replaces
        for topic in ("rival/a", "acmes/a", "/acme/a"):
            assert retained.fits(message(topic))
        retained.set(message("acme/a", b""))
        assert retained.fits(message("acme/c"))


def test_what_is_over_a_lowered_bound_may_be_replaced_by_what_is_no_larger() -> None:
    """Or else the states of a fleet would stand still for as long as there are too many of them."""
    retained = Retained()
    retained.set(message("acme/a", b"on"))
    retained.bound(0, 0, 0, 0)
    assert retained.fits(message("acme/a", b"no"))
    assert not retained.fits(message("acme/a", b"off"))
    assert not retained.fits(message("acme/b", b"on"))


def test_the_number_is_bounded() -> None:
    retained = Retained(messages_max=2)
    retained.set(message("a"))
    retained.set(message("b"))
    assert not retained.fits(message("c"))
    assert retained.fits(message("b", b"y"))  # replaces one
    assert retained.fits(message("c", b""))  # taking away is always possible
    retained.set(message("a", b""))
    assert retained.fits(message("c"))


def test_the_bytes_are_bounded() -> None:
    small, large = message("a"), message("a", b"x" * 2000)
    retained = Retained(bytes_max=large.size + TREE_NODE_BYTES)
    assert retained.fits(large)
    retained.set(large)
    assert not retained.fits(message("b"))
    assert retained.fits(message("a", b"y" * 2000))  # takes the place of the one that is there
    assert not retained.fits(message("a", b"y" * 2001))
    retained.set(small)
    assert retained.bytes == small.size + TREE_NODE_BYTES
    assert not retained.fits(message("b", b"x" * 2000))
    assert retained.fits(message("b"))


def test_deep_topics_count_for_what_they_cost() -> None:
    """A topic of 32 levels holds 9 KB of tree: 100,000 of them were 800 MB that no bound saw."""
    shallow, deep = message("a"), message("b" + "/x" * 31)
    retained = Retained(bytes_max=10 * TREE_NODE_BYTES)
    assert retained.fits(shallow)
    assert not retained.fits(deep)


def test_one_device_cannot_use_up_what_all_share() -> None:
    """A device's up/ has a bound of its own; what others say, and other devices, have nothing to do with it."""
    retained = Retained()
    for number in range(RETAINED_OF_DEVICE_MAX):
        one = message(f"acme/device/kiosk-7/up/{number}")
        assert retained.fits(one)
        retained.set(one)
    assert not retained.fits(message("acme/device/kiosk-7/up/one/more"))
    assert retained.fits(message("acme/device/kiosk-7/up/0", b"y"))  # replaces
    for topic in ("acme/device/kiosk-7", "acme/device/kiosk-77/up/0", "rival/device/kiosk-7/up/0", "acme/topic/a/up/b"):
        assert retained.fits(message(topic))
    retained.set(message("acme/device/kiosk-7/up/0", b""))
    assert retained.fits(message("acme/device/kiosk-7/up/one/more"))


def test_the_bounds_can_be_changed() -> None:
    """What is over them already stays, and may be replaced by what is not larger once there is room."""
    retained = Retained()
    for topic in "abc":
        retained.set(message(topic))
    retained.bound(2, 1 << 20, 9, 1 << 20)
    assert len(retained) == 3
    assert not retained.fits(message("d"))
    retained.set(message("a", b""))
    assert not retained.fits(message("d"))
    retained.set(message("b", b""))
    assert retained.fits(message("d"))


@pytest.mark.parametrize("topic_filter", [b"a", b"#", b"+"])
def test_expired_ones_do_not_match(topic_filter: bytes) -> None:
    """[MQTT-3.3.2-5], before they are purged, too."""
    retained = Retained()
    retained.set(message("a", expires_at=10.0))
    assert len(retained.match(topic_filter, 9.9)) == 1
    assert retained.match(topic_filter, 10.0) == []
