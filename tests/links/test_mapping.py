"""What goes where through a link, and which mappings are refused."""

import pytest

from broker.errors import Refused
from broker.limits import LINK_MAPPINGS_MAX
from broker.links.mapping import Mapping, check, check_circles, filter_of, overlap, parse, steps


@pytest.mark.parametrize(
    ("mapping", "topic", "result"),
    [
        ("crm/{user}/notify -> acme/user/{user}", "crm/ada/notify", "acme/user/ada"),
        ("crm/{user}/notify -> acme/user/{user}", "crm/ada/x/notify", None),
        ("crm/{user}/notify -> acme/user/{user}", "crm//notify", None),
        ("crm/{user}/notify -> acme/user/{user}", "crm/ada/notify/more", None),
        ("a/{x}/{y} -> acme/{y}/{x}", "a/1/2", "acme/2/1"),
        ("a/{rest...} -> acme/store/{rest...}", "a/b/c", "acme/store/b/c"),
        ("a/{rest...} -> acme/store/{rest...}", "a", None),
        ("crm/{anyone}/send -> acme/send", "crm/x/send", "acme/send"),
        ("$aws/things/{thing}/x -> acme/topic/{thing}", "$aws/things/t1/x", "acme/topic/t1"),
        ("plain -> acme/topic/plain", "plain", "acme/topic/plain"),
    ],
)
def test_a_topic_goes_where_the_mapping_says(mapping: str, topic: str, result: str | None) -> None:
    assert parse(mapping).apply(topic) == result


def test_the_way_back_is_told_where_all_of_it_is_known() -> None:
    out = parse("acme/send/answer/{id} -> crm/answers/{id}")
    assert out.back("crm/answers/7") == "acme/send/answer/7"
    assert out.back("crm/other/7") is None
    assert parse("acme/user/{user} -> archive").back("archive") is None


@pytest.mark.parametrize(
    "text",
    [
        "crm/{user}/notify",
        "-> acme/user/x",
        "crm/+/notify -> acme/user/x",
        "crm/# -> acme/user/x",
        "crm/x{user} -> acme/user/{user}",
        "crm/{user -> acme/user/x",
        "crm/{User} -> acme/user/{User}",
        "crm/{user} -> acme/user/{name}",
        "crm/{rest...}/x -> acme/user/x",
        "crm/{rest...} -> acme/user/{rest}",
        "crm/{x} -> acme/user/{x...}",
        "crm/{x}/{x} -> acme/user/{x}",
        "$share/g/crm -> acme/user/x",
        "crm/\0 -> acme/user/x",
        f"{'a/' * 40}b -> acme/user/x",
        f"{'a' * 1025} -> acme/user/x",
    ],
)
def test_what_is_no_mapping_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(Refused) as refused:
        parse(text)
    assert refused.value.reason == 0x90
    assert "->" in refused.value.remedy


@pytest.mark.parametrize(
    "text",
    [
        "crm/{user} -> rival/user/{user}",
        "crm/{user} -> acme",
        "crm/{brand}/{user} -> {brand}/user/{user}",
        "crm/{id} -> acme/receipts/{id}",
        "crm/{d} -> acme/device/{d}/up/state",
        "crm/{kind}/{x} -> acme/{kind}/{x}",
        "crm/{rest...} -> acme/device/{rest...}",
    ],
)
def test_where_no_server_of_the_brand_may_publish_nothing_leads(text: str) -> None:
    with pytest.raises(Refused):
        check("acme", [parse(text)], [])


@pytest.mark.parametrize("text", ["rival/user/{user} -> x/{user}", "{any}/user/{user} -> x/{user}"])
def test_only_topics_of_the_brand_go_out(text: str) -> None:
    with pytest.raises(Refused):
        check("acme", [], [parse(text)])


def test_good_ones_pass() -> None:
    inbound = [parse("crm/{user}/notify -> acme/user/{user}"), parse("crm/send -> acme/send")]
    check("acme", inbound, [parse("acme/receipts/{id} -> push/receipts/{id}")])


def test_a_topic_has_one_way_through_a_link() -> None:
    with pytest.raises(Refused, match="can match both"):
        check("acme", [parse("crm/{x} -> acme/user/{x}"), parse("crm/news -> acme/topic/news")], [])


def test_mappings_are_bounded() -> None:
    many = [Mapping(f"a/{n}", "acme/topic/x") for n in range(LINK_MAPPINGS_MAX + 1)]
    with pytest.raises(Refused) as refused:
        check("acme", many, [])
    assert refused.value.reason == 0x97


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("a/b", "a/b", True),
        ("a/+", "a/b", True),
        ("a/+/c", "a/b/+", True),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("#", "a/b", True),
        ("#", "$SYS/x", False),
        ("a/+", "a/b/c", False),
        ("a/b", "a/c", False),
        ("a/b/c", "a/b", False),
    ],
)
def test_filters_overlap_when_a_topic_matches_both(one: str, other: str, both: bool) -> None:
    assert overlap(one, other) is both
    assert overlap(other, one) is both


def test_a_pattern_is_a_filter() -> None:
    assert filter_of("a/{b}/c/{d...}") == "a/+/c/#"


def _ways(link: str, broker: str, inbound: list[str], outbound: list[str]) -> list:  # type: ignore[type-arg]
    return steps(link, broker, map(parse, inbound), map(parse, outbound))


def test_a_link_that_sends_back_what_it_got_is_refused_with_the_circle() -> None:
    ways = _ways("crm", "x:1883", ["crm/{u} -> acme/user/{u}"], ["acme/user/{u} -> crm/{u}"])
    with pytest.raises(Refused) as refused:
        check_circles("acme", ways)
    assert "circle: crm in: crm/{u} -> acme/user/{u}; crm out: acme/user/{u} -> crm/{u}" in refused.value.message


def test_a_circle_through_two_links_and_two_brokers_is_found() -> None:
    one = _ways("one", "x:1883", ["a/{u} -> acme/topic/{u}"], ["acme/store/{s} -> a/{s}"])
    two = _ways("two", "y:1883", ["b/{u} -> acme/store/{u}"], ["acme/topic/{u} -> b/{u}"])
    check_circles("acme", one)
    check_circles("acme", two)
    with pytest.raises(Refused, match="circle") as refused:
        check_circles("acme", one + two)
    assert all(f"{name} in" in refused.value.message for name in ("one", "two"))


def test_the_same_topics_at_another_broker_are_no_circle() -> None:
    one = _ways("one", "x:1883", ["a/{u} -> acme/topic/{u}"], [])
    two = _ways("two", "y:1883", [], ["acme/topic/{u} -> a/{u}"])
    check_circles("acme", one + two)
    with pytest.raises(Refused):
        check_circles("acme", one + _ways("two", "x:1883", [], ["acme/topic/{u} -> a/{u}"]))


def test_a_circle_can_lead_through_the_bridge() -> None:
    ways = _ways("crm", "x:1883", ["crm/send -> acme/send"], ["acme/send/answer -> crm/send"])
    with pytest.raises(Refused, match="the bridge: acme/send -> acme/send/answer"):
        check_circles("acme", ways)
