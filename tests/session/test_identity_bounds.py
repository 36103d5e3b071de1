"""What one identity can use up or take away, whatever client ids and share names it thinks of."""

import pytest
from support.loopback import Client, Lab

from broker.identity import ANONYMOUS, Identity, Role
from broker.limits import SESSIONS_OF_DEVICE_MAX, SESSIONS_OF_IDENTITY_MAX, SUBSCRIPTIONS_OF_DEVICE_MAX
from broker.session import connect
from broker.wire.packets import Connack, Connect, Request, Subscribe

KIOSK = Identity(Role.DEVICE, "acme", "kiosk-7", "ada")
TILL = Identity(Role.DEVICE, "acme", "till-3")
CRM = Identity(Role.SERVER, "acme", "crm")
ENROLLING = Identity(Role.ENROLLING, "acme", "kiosk-7")


def lab_of(*identities: Identity) -> Lab:
    """A lab that believes the user name."""
    known = {identity.path: identity for identity in identities}
    return Lab(admit=lambda packet: known.get(packet.username or "", ANONYMOUS))


@pytest.mark.parametrize(
    ("identity", "bound"),
    [(KIOSK, SESSIONS_OF_DEVICE_MAX), (ENROLLING, SESSIONS_OF_DEVICE_MAX), (CRM, SESSIONS_OF_IDENTITY_MAX)],
)
def test_an_identity_has_so_many_sessions(identity: Identity, bound: int) -> None:
    """With a random client id and an expiry of months each, one device would fill the table of all."""
    lab = lab_of(identity, TILL)
    mine = [lab.connect(f"c{n}", username=identity.path, session_expiry=1000) for n in range(bound)]
    assert all(client.connack.reason == 0 for client in mine)
    one_more = lab.connect("one more", username=identity.path)
    assert one_more.connack.reason == 0x97
    assert lab.core.counters.sessions_refused == 1
    assert lab.connect("c1", username=identity.path, clean=False).connack.reason == 0  # takes over
    assert lab.connect("c2", username=identity.path).connack.reason == 0  # begins anew in its place
    assert lab.connect("c1", username=TILL.path).connack.reason == 0  # others have their own
    mine[0].disconnect(session_expiry=0)
    assert lab.connect("one more", username=identity.path).connack.reason == 0


def test_sessions_that_expire_make_room() -> None:
    lab = lab_of(KIOSK)
    for number in range(SESSIONS_OF_DEVICE_MAX):
        lab.connect(f"c{number}", username=KIOSK.path, session_expiry=10).drop()
    assert lab.connect("late", username=KIOSK.path).connack.reason == 0x97
    lab.advance(12)
    assert lab.connect("late", username=KIOSK.path).connack.reason == 0


def test_open_mode_has_no_bound_of_its_own() -> None:
    lab = lab_of()
    for number in range(SESSIONS_OF_DEVICE_MAX + 1):
        assert lab.connect(f"c{number}").connack.reason == 0


def test_a_device_has_so_many_subscriptions() -> None:
    """Deep wildcards of one device made every new topic dear to route for all."""
    lab = lab_of(KIOSK)
    kiosk = lab.connect(username=KIOSK.path)
    kiosk.send(Subscribe(1, [Request(f"acme/topic/{n}") for n in range(SUBSCRIPTIONS_OF_DEVICE_MAX)]))
    kiosk.packets()
    assert kiosk.subscribe("acme/user/ada") == 0x97
    assert kiosk.subscribe("acme/topic/0", 1) == 1


def test_a_device_cannot_join_the_servers_that_share() -> None:
    """It may read the topic, but not take it away from those whose work it is."""
    lab = lab_of(KIOSK, TILL, CRM)
    workers = [lab.connect(f"w{n}", username=CRM.path) for n in range(2)]
    devices = [lab.connect("d", username=identity.path) for identity in (KIOSK, TILL)]
    for client in (*workers, *devices):
        assert client.subscribe("$share/work/acme/topic/orders", 0) == 0
    lab.connect("sender", username=CRM.path).publish("acme/topic/orders", b"1")
    lab.connect("sender", username=CRM.path).publish("acme/topic/orders", b"2")
    assert sorted(payload for worker in workers for payload in worker.payloads()) == [b"1", b"2"]
    assert sorted(payload for each in devices for payload in each.payloads()) == [b"1", b"2"]


# -- the end of what it was admitted with ------------------------------------------------------------------------------


def admitted_until(lab: Lab, until: float, *, version: int = 5, keep_alive: int = 0) -> Client:
    client = lab.client(version)
    client.send(Connect("c", version, True, keep_alive))
    connect.accepted(client.channel, KIOSK, until)
    lab.core.flush()
    assert isinstance(client.next(), Connack)
    return client


@pytest.mark.parametrize("keep_alive", [0, 10, 3600])
@pytest.mark.parametrize("left", [5, 100])
def test_a_connection_ends_with_its_proof(keep_alive: int, left: int) -> None:
    """A token or certificate that has ended opens nothing, and so must not keep open either."""
    lab = Lab(admit=lambda _: None)
    client = admitted_until(lab, lab.core.now + left, keep_alive=keep_alive)
    for _ in range(left - 1):
        lab.advance(1)
        client.feed(b"\xc0\0")
    assert not client.closed
    client.packets()
    lab.advance(3)
    assert client.goodbye() == 0xA0
    assert lab.core.counters.proofs_ended == 1
    assert lab.core.counters.keep_alive_timeouts == 0


def test_silence_still_ends_it_before() -> None:
    lab = Lab(admit=lambda _: None)
    client = admitted_until(lab, lab.core.now + 1000, keep_alive=10)
    lab.advance(20)
    assert client.goodbye() == 0x8D


def test_without_an_end_it_goes_on() -> None:
    lab = Lab(admit=lambda _: None)
    client = admitted_until(lab, 0.0, version=4)
    lab.advance(10_000)
    assert not client.closed
