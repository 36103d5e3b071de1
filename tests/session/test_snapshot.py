"""Sessions and retained messages into a journal and back: a restart must not show."""

from collections.abc import AsyncIterator

import msgspec
import pytest
from support.loopback import START_S, Client, Lab

from broker.identity import ANONYMOUS, Identity, Role
from broker.journal import SavedMessage, SavedSession, Snapshot
from broker.session.core import Core
from broker.session.snapshot import WILL_GRACE_S, CoreSnapshot, restore_message, restore_session
from broker.wire.packets import Connect, Properties, Publish, Pubrec, Pubrel, Will

WALL = 1_800_000_000.0


class ListJournal:
    """A `Journal` in memory. What it keeps goes through msgspec, so that nothing live can hide in it."""

    def __init__(self) -> None:
        self.kept: tuple[list[SavedSession], list[SavedMessage], list[tuple[SavedMessage, int]]] = ([], [], [])

    async def save(self, snapshot: Snapshot) -> None:
        sessions, messages = [], []
        for session in snapshot.sessions():
            sessions.append(session)
            messages += snapshot.messages()
        whole = (sessions, messages, list(snapshot.retained()))
        self.kept = msgspec.msgpack.decode(msgspec.msgpack.encode(whole), type=type_of_kept)

    async def messages(self) -> AsyncIterator[SavedMessage]:
        for message in self.kept[1]:
            yield message

    async def sessions(self) -> AsyncIterator[SavedSession]:
        for session in self.kept[0]:
            yield session

    async def retained(self) -> AsyncIterator[tuple[SavedMessage, int]]:
        for one in self.kept[2]:
            yield one

    async def close(self) -> None:
        pass


type_of_kept = tuple[list[SavedSession], list[SavedMessage], list[tuple[SavedMessage, int]]]


async def restart(lab: Lab, *, down_s: float = 0.0, **limits: int) -> tuple[Lab, ListJournal]:
    """Stop the broker, and start another one `down_s` later; its monotonic clock begins somewhere else."""
    for session in list(lab.core.connected()):
        assert session.channel is not None
        session.channel.close()
    journal = ListJournal()
    await journal.save(CoreSnapshot(lab.core, now=lab.core.now, wall=WALL))
    fresh = Lab(admit=lab.admit, now=17.5, **limits)
    await load(fresh.core, journal, now=17.5, wall=WALL + down_s)
    return fresh, journal


async def load(core: Core, journal: ListJournal, *, now: float, wall: float) -> None:
    messages = {
        saved.number: restore_message(saved, qos=1, retain=False, now=now, wall=wall)
        async for saved in journal.messages()
    }
    async for session in journal.sessions():
        restore_session(core, session, messages, now=now, wall=wall)
    async for saved, qos in journal.retained():
        core.retained.set(restore_message(saved, qos=qos, retain=True, now=now, wall=wall))


def shown(client: Client) -> list[tuple[object, ...]]:
    """What came along with CONNACK, as far as a client can see it."""
    return [
        (p.payload, p.qos, p.retain, p.dup, p.packet_id, p.properties) if isinstance(p, Publish) else (p,)
        for p in client.early
    ]


def busy(lab: Lab) -> None:
    """Sessions with something in every state that there is."""
    lab.bridge.named = b"n"
    for name, version in (("5", 5), ("4", 4)):
        kept = {"session_expiry": 1000, "receive_maximum": 4} if version == 5 else {}
        client = lab.connect(name, version, clean=False, **kept)
        client.subscribe("a/+", 2, **({"id": 7, "rap": True} if version == 5 else {}))
        client.subscribe("$share/g/s", 1)
        client.publish("x", b"", 2, id=3)
    sender = lab.connect("p")
    for number, qos in enumerate((1, 2, 2, 1, 1, 2)):
        sender.publish(f"a/{number}", b"%d" % number, qos, retain=number == 3, content_type="t", message_expiry=500)
    for session in list(lab.core.sessions.values()):
        if session.client_id in "45" and session.channel is not None:
            session.channel.feed(b"\x50\x02\0\2")  # PUBREC for the second
            session.channel.feed(b"\x40\x02\0\1")  # PUBACK for the first
            session.channel.close()
    sender.publish("s", b"shared", 1)
    sender.publish("a/q", b"queued 0", 0)
    sender.publish("a/q", b"queued 1", 1, user_properties=[("k", "v")])


@pytest.mark.parametrize("client_id", ["5", "4"])
async def test_a_restart_does_not_show(client_id: str) -> None:
    """[MQTT-4.4.0-1]: the same messages, ids, order, DUP, identifiers and what is left of their time."""
    labs = []
    for restarted in (False, True):
        lab = Lab()
        busy(lab)
        labs.append((await restart(lab))[0] if restarted else lab)
    results = []
    for lab in labs:
        options = {"session_expiry": 1000, "receive_maximum": 4} if client_id == "5" else {}
        client = lab.connect(client_id, int(client_id), clean=False, **options)
        assert client.connack.session_present
        first = shown(client)
        assert len(first) > 3
        # What the client had sent half is still known, and nothing comes twice.
        client.send(Pubrel(3), Publish(b"x", b"", 2, packet_id=4))
        sender = lab.connect("p")
        sender.publish("a/1", b"now", 2, retain=True)
        sender.publish("s", b"shared now", 1)
        client.send(
            *(
                Pubrec(p.packet_id, 0x80 if client_id == "5" else 0)
                for p in client.early
                if isinstance(p, Publish) and p.qos == 2
            )
        )
        client.ack(*(p for p in client.early if isinstance(p, Publish) and p.qos == 1))
        results.append((first, client.packets(), sorted(s.key for s in lab.core.sessions.values() if s.expiry_s)))
    assert results[1] == results[0]


async def test_state_after_a_restart() -> None:
    lab = Lab()
    busy(lab)
    before = {s.key: s for s in lab.core.sessions.values() if s.expiry_s}
    fresh, journal = await restart(lab, down_s=100)
    assert list(fresh.core.sessions) == list(before)
    for key, old in before.items():
        new = fresh.core.sessions[key]
        for name in ("client_id", "identity", "v5", "expiry_s", "next_id", "received", "queue_bytes", "will"):
            assert getattr(new, name) == getattr(old, name), name
        assert list(new.inflight) == list(old.inflight)
        assert new.ends_at - 17.5 == pytest.approx(old.ends_at - START_S - 100)
        assert {s.name: (s.filter, s.group, s.options, s.id) for s in new.subscriptions} == {
            s.name: (s.filter, s.group, s.options, s.id) for s in old.subscriptions
        }
        assert new.channel is new.out is None
    assert fresh.core.router.subscriptions == sum(len(s.subscriptions) for s in before.values())
    assert [m.topic for m in fresh.core.retained] == [m.topic for m in lab.core.retained]
    # A message is stored once, whoever waits for it and in whatever form.
    topics = [m.topic for m in journal.kept[1]]
    assert sorted(topics) == sorted(set(topics))
    again, second = await restart(fresh)
    assert msgspec.msgpack.encode(journal.kept[1]) == msgspec.msgpack.encode(
        [
            msgspec.structs.replace(m, expires_at=e.expires_at)
            for m, e in zip(second.kept[1], journal.kept[1], strict=True)
        ]
    )
    assert list(again.core.sessions) == list(before)


async def test_sessions_that_end_with_their_connection_are_not_kept() -> None:
    lab = Lab()
    lab.connect("c").subscribe("a")
    lab.connect("4", 4)
    fresh, journal = await restart(lab)
    assert journal.kept == ([], [], [])
    assert fresh.core.sessions == {}


async def test_time_goes_on_while_the_broker_is_down() -> None:
    lab = Lab()
    for name, expiry in (("short", 50), ("long", 200)):
        client = lab.connect(name, session_expiry=expiry)
        client.subscribe("a", 1)
        client.drop()
    sender = lab.connect("p")
    for seconds in (30, 150):
        sender.publish("a", b"%d" % seconds, 1, retain=True, message_expiry=seconds)
        sender.publish(f"r/{seconds}", b"x", 0, retain=True, message_expiry=seconds)
    fresh, _ = await restart(lab, down_s=100)
    assert [s.client_id for s in fresh.core.sessions.values()] == ["long"]
    back = fresh.connect("long", clean=False, session_expiry=200)
    (message,) = [p for p in back.early if isinstance(p, Publish)]
    assert (message.payload, message.properties.message_expiry) == (b"150", 50)
    back.subscribe("#")
    assert {m.topic: m.properties.message_expiry for m in back.messages()} == {b"a": 50, b"r/150": 50}
    back.drop()
    fresh.advance(202)
    assert fresh.core.sessions == {}
    assert fresh.core.wheel._buckets == {}


async def test_a_session_expires_after_a_restart() -> None:
    lab = Lab()
    lab.connect("c", session_expiry=100).drop()
    lab.advance(30)
    fresh, _ = await restart(lab, down_s=40)
    fresh.advance(29)
    assert len(fresh.core.sessions) == 1
    fresh.advance(2)
    assert fresh.core.sessions == {}


@pytest.mark.parametrize("delay", [0, 30, 300])
async def test_a_will_that_was_due_gets_a_grace(delay: int) -> None:
    """The client could not come back while there was no broker: its will waits a while longer, or as it asks."""
    lab = Lab()
    properties = Properties(will_delay=delay or None, content_type="t", user_properties=[("k", "v")])
    will = Will(b"w", b"bye", 1, True, properties)
    for name in ("stays", "returns"):
        lab.connect(name, session_expiry=1000, will=will)
    _stop_without_goodbye(lab)
    fresh, _ = await restart(lab)
    watcher = fresh.connect("watcher", keep_alive=0)
    watcher.subscribe("w", 1, rap=True)
    back = fresh.connect("returns", clean=False, session_expiry=1000)
    fresh.advance(max(WILL_GRACE_S, delay) - 2)
    assert watcher.messages() == []
    fresh.advance(4)
    (message,) = watcher.messages()
    assert (message.payload, message.qos, message.retain) == (b"bye", 1, True)
    assert message.properties == Properties(content_type="t", user_properties=[("k", "v")])
    assert back.connack.session_present


def _stop_without_goodbye(lab: Lab) -> None:
    """As the broker closes at its stop: the wills of those who did not say goodbye wait."""
    for session in list(lab.core.sessions.values()):
        assert session.channel is not None
        kept, session.will = session.will, None
        session.channel.close()
        session.will = kept


@pytest.mark.parametrize("expiry", [10, 95, 130])
@pytest.mark.parametrize("delay", [0, 5000])
async def test_the_will_of_a_session_that_expired_meanwhile(expiry: int, delay: int) -> None:
    """It expired, or does so within the grace: its will is published then, not later, and nothing else is left."""
    lab = Lab()
    lab.connect("c", session_expiry=expiry, will=Will(b"w", b"bye", 1, False, Properties(will_delay=delay)))
    _stop_without_goodbye(lab)
    fresh, _ = await restart(lab, down_s=100)
    watcher = fresh.connect("watcher", keep_alive=0)
    watcher.subscribe("w", 1)
    fresh.advance(WILL_GRACE_S - 2)
    assert watcher.messages() == []
    fresh.advance(4)
    assert watcher.payloads() == [b"bye"]
    assert [s.client_id for s in fresh.core.sessions.values()] == ["watcher"]


async def test_retained_messages_that_were_still_to_be_sent() -> None:
    """A restart in the middle of the replay: the rest comes after it, before what came later, and nothing twice."""
    lab = Lab()
    sender = lab.connect("p")
    for number in range(8):
        sender.publish(f"r/{number}", b"kept", 1 + number % 2, retain=True)
        sender.publish(f"q/{number}", b"never promised", 0, retain=True)
    client = lab.connect("c", session_expiry=1000, receive_maximum=3)
    client.subscribe("#", 2)
    sender.publish("r/live", b"live", 1)
    first = [m for m in client.messages() if m.qos]
    assert len(first) == 3
    client.ack(*(m for m in first if m.qos == 1))
    client.send(*(Pubrec(m.packet_id, 0x80) for m in first if m.qos == 2))
    first += [m for m in client.messages() if m.qos]
    fresh, _ = await restart(lab)
    back = fresh.connect("c", clean=False, session_expiry=1000)
    again = [p for p in back.early if isinstance(p, Publish)]
    rest = [m for m in again if not m.dup]
    assert again[-1].topic == b"r/live"
    assert all(m.retain and m.payload == b"kept" for m in rest[:-1])
    assert not again[-1].retain
    topics = [m.topic for m in [*first, *rest]]
    assert sorted(topics) == sorted([b"r/live", *(b"r/%d" % n for n in range(8))])


@pytest.mark.parametrize("bound", [{"queue_messages_max": 4}, {"queue_bytes_max": 5000}])
async def test_what_is_retained_does_not_displace_what_was_accepted(bound: dict[str, int]) -> None:
    """The queue's bound holds for both; a message for which the publisher has its PUBACK goes first."""
    lab = Lab(**bound)
    sender = lab.connect("p")
    for number in range(20):
        sender.publish(f"r/{number}", b"x" * 1000, 1, retain=True)
    client = lab.connect("c", session_expiry=1000, receive_maximum=1)
    client.subscribe("#", 1)
    for number in range(3):
        sender.publish("live", b"%d" % number, 1)
    fresh, _ = await restart(lab, **bound)
    assert lab.core.counters.messages_dropped_queue_full >= 1
    assert fresh.core.counters.messages_dropped_queue_full == 0
    back = fresh.connect("c", clean=False, session_expiry=1000)
    got = [p.payload for p in back.early if isinstance(p, Publish) and not p.dup]
    assert got[-3:] == [b"0", b"1", b"2"]
    assert len(got) >= 4


async def test_identities_are_kept() -> None:
    """And a device that moved while the broker was down loses what it may no longer see."""
    users = iter(["ada", "ada", "bob"])

    def admit(packet: Connect) -> Identity:
        if packet.client_id != "k":
            return ANONYMOUS
        return Identity(Role.DEVICE, "acme", "k", next(users), "milano")

    lab = Lab(admit=admit)
    device = lab.connect("k", session_expiry=1000)
    device.subscribe("acme/user/ada", 1)
    device.drop()
    lab.connect("p").publish("acme/user/ada", b"1", 1)
    fresh, _ = await restart(lab)
    back = fresh.connect("k", clean=False, session_expiry=1000)
    assert back.connack.session_present
    assert [p.payload for p in back.early if isinstance(p, Publish)] == [b"1"]
    back.drop()
    fresh.connect("p").publish("acme/user/ada", b"2", 1)
    again, _ = await restart(fresh)
    back = again.connect("k", clean=False, session_expiry=1000)
    assert back.connack.session_present
    assert back.early == []
    assert again.core.router.subscriptions == 0


async def test_receipts_survive() -> None:
    server = Identity(Role.SERVER, "acme", "crm")
    lab = Lab(admit=lambda p: server if p.client_id == "s" else ANONYMOUS)
    lab.bridge.named = b"a"
    for qos in (1, 2):
        client = lab.connect(f"c{qos}", session_expiry=1000)
        client.subscribe("acme/a", qos)
        client.drop()
    lab.connect("s").publish("acme/a", b"x", 2, user_properties=[("receipt", "delivered")])
    fresh, _ = await restart(lab)
    for qos in (1, 2):
        client = fresh.connect(f"c{qos}", clean=False, session_expiry=1000)
        (message,) = [p for p in client.early if isinstance(p, Publish)]
        assert message.properties.user_properties == [("receipt", "delivered"), ("message-id", "m1")]
        if qos == 1:
            client.ack(message)
        else:
            client.send(Pubrec(message.packet_id))
    assert fresh.bridge.receipts == [("c1", "m1"), ("c2", "m1")]
