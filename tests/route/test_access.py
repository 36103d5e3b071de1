"""Who may publish and subscribe where: the table of the rules, and that no brand can see or reach another."""

from itertools import product

import pytest

from broker.identity import ANONYMOUS, Identity, Role
from broker.route.access import may_publish, may_subscribe
from broker.wire.topics import check_filter, matches

KIOSK = Identity(Role.DEVICE, "acme", "k", "ada", "milano")
LOOSE = Identity(Role.DEVICE, "acme", "k")  # of nobody, nowhere
SERVER = Identity(Role.SERVER, "acme", "crm")
ENROLLING = Identity(Role.ENROLLING, "acme", "k")
ADMIN = Identity(Role.ADMIN, name="root")


@pytest.mark.parametrize(
    ("identity", "topic", "expected"),
    [
        (KIOSK, "acme/device/k/up/receipt", True),
        (KIOSK, "acme/device/k/up/a/b", True),
        (KIOSK, "acme/device/k/up/", True),
        (KIOSK, "acme/device/k/up", False),
        (KIOSK, "acme/device/k", False),
        (KIOSK, "acme/device/k/upward/x", False),
        (KIOSK, "acme/device/k2/up/receipt", False),
        (KIOSK, "acme/user/ada", False),
        (KIOSK, "other/device/k/up/receipt", False),
        (KIOSK, "$enrol/csr", True),
        (KIOSK, "$enrol/certificate", False),
        (KIOSK, "$control/x", False),
        (SERVER, "acme/user/ada", True),
        (SERVER, "acme/device/k", True),
        (SERVER, "acme/device/k/down", True),
        (SERVER, "acme/device/k/up", False),
        (SERVER, "acme/device/k/up/receipt", False),
        (SERVER, "acme/device/k/up/a/b/c", False),
        (SERVER, "acme/device/k/down/up", True),
        (SERVER, "acme/receipts/m1", False),
        (SERVER, "acme/receipts", False),
        (SERVER, "acme/topic/receipts", True),
        (SERVER, "acme", False),
        (SERVER, "acme/", True),
        (SERVER, "acm/user/ada", False),
        (SERVER, "acmes/user/ada", False),
        (SERVER, "other/user/ada", False),
        (SERVER, "/acme/user", False),
        (SERVER, "$enrol/csr", False),
        (SERVER, "$control/x", False),
        (ENROLLING, "$enrol/csr", True),
        (ENROLLING, "$enrol/csr/x", False),
        (ENROLLING, "$enrol/certificate", False),
        (ENROLLING, "acme/device/k/up/receipt", False),
        (ADMIN, "$control/x", True),
        (ADMIN, "$controlx", False),
        (ADMIN, "acme/user/ada", False),
        (ANONYMOUS, "anything", True),
        (ANONYMOUS, "acme/user/ada", True),
        (ANONYMOUS, "$SYS/x", False),
        (ANONYMOUS, "$enrol/csr", False),
        (ANONYMOUS, "a/$b", True),
    ],
)
def test_publishing(identity: Identity, topic: str, expected: bool) -> None:
    assert may_publish(identity, topic.encode()) is expected


@pytest.mark.parametrize(
    ("identity", "topic_filter", "expected"),
    [
        (KIOSK, "acme/device/k", True),
        (KIOSK, "acme/device/k/#", True),
        (KIOSK, "acme/device/k/+/x", True),
        (KIOSK, "acme/device/+", False),
        (KIOSK, "acme/device/k2", False),
        (KIOSK, "acme/user/ada", True),
        (KIOSK, "acme/user/ada/#", False),
        (KIOSK, "acme/user/bob", False),
        (KIOSK, "acme/user/+", False),
        (KIOSK, "acme/store/milano", True),
        (KIOSK, "acme/store/roma", False),
        (KIOSK, "acme/topic/news", True),
        (KIOSK, "acme/topic/+", True),
        (KIOSK, "acme/topic/#", False),
        (KIOSK, "acme/topic/news/x", False),
        (KIOSK, "acme/receipts/+", False),
        (KIOSK, "acme/#", False),
        (KIOSK, "+/user/ada", False),
        (KIOSK, "#", False),
        (KIOSK, "$enrol/certificate", True),
        (KIOSK, "$enrol/#", False),
        (LOOSE, "acme/user/ada", False),
        (LOOSE, "acme/user/", False),
        (LOOSE, "acme/store/", False),
        (LOOSE, "acme/device/k", True),
        (SERVER, "acme/#", True),
        (SERVER, "acme/receipts/+", True),
        (SERVER, "acme/+/+/up/#", True),
        (SERVER, "acme", True),
        (SERVER, "other/#", False),
        (SERVER, "+/#", False),
        (SERVER, "#", False),
        (SERVER, "$enrol/csr", False),
        (ENROLLING, "$enrol/certificate", True),
        (ENROLLING, "$enrol/csr", False),
        (ENROLLING, "acme/device/k", False),
        (ADMIN, "#", True),
        (ADMIN, "$control/#", True),
        (ANONYMOUS, "#", True),
        (ANONYMOUS, "acme/#", True),
        (ANONYMOUS, "$SYS/#", False),
        (ANONYMOUS, "$enrol/csr", False),
    ],
)
def test_subscribing(identity: Identity, topic_filter: str, expected: bool) -> None:
    assert may_subscribe(identity, topic_filter) is expected


LEVELS = ("acme", "other", "user", "device", "ada", "k", "$enrol", "")


def filters(depth: int) -> list[str]:
    found = []
    for count in range(depth):
        for before in product((*LEVELS, "+"), repeat=count):
            found += ["/".join((*before, last)) for last in (*LEVELS, "+", "#")]
    return [one for one in found if one]


FILTERS = filters(3)
TOPICS = [
    topic
    for count in (1, 2, 3, 4)
    for topic in map("/".join, product(("acme", "other", "device", "user", "k", "", "z"), repeat=count))
    if topic
]


@pytest.mark.parametrize("identity", [KIOSK, LOOSE, SERVER, ENROLLING], ids=lambda i: i.role.value)
def test_a_brand_sees_nothing_of_another(identity: Identity) -> None:
    """Whatever filter is allowed, brute force finds no topic of another brand that it matches."""
    allowed = [one for one in FILTERS if may_subscribe(identity, one)]
    assert allowed or identity is ENROLLING
    foreign = [topic for topic in TOPICS if topic.split("/")[0] != "acme"]
    for topic_filter in allowed:
        check_filter(topic_filter)
        assert not any(matches(topic_filter, topic) for topic in foreign), topic_filter


@pytest.mark.parametrize("identity", [KIOSK, SERVER, ENROLLING], ids=lambda i: i.role.value)
def test_a_brand_reaches_nothing_of_another(identity: Identity) -> None:
    for topic in TOPICS:
        if topic.split("/")[0] != "acme":
            assert not may_publish(identity, topic.encode()), topic


def test_a_filter_shows_no_more_than_its_topics_would() -> None:
    """What an allowed filter matches may be subscribed to alone: a wildcard opens nothing (and for devices, too)."""
    for identity in (KIOSK, SERVER):
        for topic_filter in (one for one in FILTERS if may_subscribe(identity, one)):
            for topic in TOPICS:
                if matches(topic_filter, topic):
                    assert may_subscribe(identity, topic), (topic_filter, topic)


def test_nobody_but_an_admin_sees_what_others_ask_of_the_broker() -> None:
    """CSRs and commands are on '$' topics; no role's wildcard reaches them [MQTT-4.7.2-1]."""
    for identity in (KIOSK, SERVER, ENROLLING, ANONYMOUS):
        for topic_filter in FILTERS:
            if may_subscribe(identity, topic_filter):
                assert not matches(topic_filter, "$enrol/csr")
                assert not matches(topic_filter, "$control/x")
