"""What a crash, or a stop and a start, leaves of sessions: all that they were promised, and little else."""

import pytest
from support.lasting import answer, lasting, receive_all
from support.loopback import START_S, WALL_S, Client, Lab

from broker.identity import ANONYMOUS, Identity, Role
from broker.session.recovery import WILL_GRACE_S
from broker.wire.packets import (
    Connect,
    Packet,
    Properties,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Request,
    Subscribe,
    Unsubscribe,
    Will,
)

BOOT_S = 17.5  # the monotonic clock begins anew


def restart(lab: Lab, *, down_s: float = 0.0, crash: bool = False, **limits: int) -> Lab:
    """Another process, `down_s` later. Unless it crashes, the first one says goodbye to all and writes what is left."""
    if not crash:
        for session in [s for s in lab.core.sessions.values() if s.connected]:
            assert session.channel is not None
            will, session.will = session.will, None
            session.channel.close()
            session.will = will
        lab.core.flush()
        lab.commit()
    return Lab(
        admit=lab.admit, now=BOOT_S, wall=lab.core.now + WALL_S + down_s, journal=lab.journal, **limits
    )  # fmt: skip


def shown(client: Client) -> list[tuple[object, ...]]:
    """What came along with CONNACK, as far as a client can see it."""
    return [
        (p.payload, p.qos, p.retain, p.dup, p.packet_id, p.properties) if isinstance(p, Publish) else (p,)
        for p in client.early
    ]


# -- a stop and a start ------------------------------------------------------------------------------------------------


def busy(lab: Lab) -> None:
    """Sessions with something in every state that there is, and nobody connected any more but the publisher."""
    lab.bridge.named = b"n"
    for name, version in (("5", 5), ("4", 4)):
        client = lasting(lab, name, version, receive_maximum=4)
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
            lab.flush()
            session.channel.close()
    sender.publish("s", b"shared", 1)
    sender.publish("a/q", b"queued 0", 0)
    sender.publish("a/q", b"queued 1", 1, user_properties=[("k", "v")])


@pytest.mark.parametrize("client_id", ["5", "4"])
def test_a_restart_does_not_show(client_id: str) -> None:
    """[MQTT-4.4.0-1]: the same messages, ids, order, DUP, identifiers and what is left of their time."""
    results = []
    for restarted in (False, True):
        lab = Lab()
        busy(lab)
        if restarted:
            lab = restart(lab)
        client = lasting(lab, client_id, int(client_id), receive_maximum=4)
        assert client.connack.session_present
        first = shown(client)
        assert len(first) > 3
        # What the client had sent half is still known, and nothing comes twice.
        client.send(Pubrel(3), Publish(b"x", b"", 2, packet_id=4))
        sender = lab.connect("p")
        sender.publish("a/1", b"now", 2, retain=True)
        client.send(
            *(
                Pubrec(p.packet_id, 0x80 if client_id == "5" else 0)
                for p in client.early
                if isinstance(p, Publish) and p.qos == 2
            )
        )
        client.ack(*(p for p in client.early if isinstance(p, Publish) and p.qos == 1))
        kept = sorted(s.key for s in lab.core.sessions.values() if s.expiry_s)
        # PUBLISH in its order, PUBREL in its own.
        results.append((sorted(first, key=len), client.packets(), kept))
    assert results[1] == results[0]


def test_state_after_a_restart() -> None:
    lab = Lab()
    busy(lab)
    before = {s.key: s for s in lab.core.sessions.values() if s.expiry_s}
    fresh = restart(lab, down_s=100)
    assert list(fresh.core.sessions) == list(before)
    for key, old in before.items():
        new = fresh.core.sessions[key]
        for name in (
            "client_id", "number", "identity", "v5", "expiry_s", "next_id", "will", "rows", "done", "cursor",
        ):  # fmt: skip
            assert getattr(new, name) == getattr(old, name), name
        assert list(new.received or ()) == list(old.received or ())
        assert sorted(new.inflight) == sorted(old.inflight)
        assert [m.seq for m in new.assigned or ()] == [m.seq for m in old.assigned or ()]
        assert new.ends_at - BOOT_S == pytest.approx(old.ends_at - START_S - 100)
        assert {s.name: (s.filter, s.group, s.options, s.id, s.since) for s in new.subscriptions} == {
            s.name: (s.filter, s.group, s.options, s.id, s.since) for s in old.subscriptions
        }
        assert new.channel is new.out is None
    assert fresh.core.router.subscriptions == sum(len(s.subscriptions) for s in before.values())
    assert [m.topic for m in fresh.core.retained] == [m.topic for m in lab.core.retained]
    assert (fresh.core.log.messages, fresh.core.log.bytes) == (lab.core.log.messages, lab.core.log.bytes)
    assert fresh.core.log._held == lab.core.log._held


def test_sessions_that_end_with_their_connection_are_not_kept() -> None:
    lab = Lab()
    lab.connect("c").subscribe("a")
    lab.connect("4", 4)
    assert restart(lab, crash=True).core.sessions == {}
    assert restart(lab).core.sessions == {}
    assert lab.journal.sessions == lab.journal.subscriptions == {}


def test_time_goes_on_while_the_broker_is_down() -> None:
    lab = Lab()
    for name, expiry in (("short", 50), ("long", 200)):
        client = lasting(lab, name, session_expiry=expiry)
        client.subscribe("a", 1)
        client.drop()
    sender = lab.connect("p")
    for seconds in (30, 150):
        sender.publish("a", b"%d" % seconds, 1, retain=True, message_expiry=seconds)
        sender.publish(f"r/{seconds}", b"x", 0, retain=True, message_expiry=seconds)
    fresh = restart(lab, down_s=100)
    assert [s.client_id for s in fresh.core.sessions.values()] == ["long"]
    back = lasting(fresh, "long", session_expiry=200)
    (message,) = [p for p in back.early if isinstance(p, Publish)]
    assert (message.payload, message.properties.message_expiry) == (b"150", 50)
    back.subscribe("#")
    assert {m.topic: m.properties.message_expiry for m in back.messages()} == {b"a": 50, b"r/150": 50}
    back.drop()
    fresh.advance(202)
    assert fresh.core.sessions == {}
    assert fresh.core.wheel._buckets == {}
    assert fresh.journal.sessions == fresh.journal.subscriptions == fresh.journal.messages == {}


def test_a_session_expires_after_a_restart() -> None:
    lab = Lab()
    lasting(lab, session_expiry=100).drop()
    lab.advance(30)
    fresh = restart(lab, down_s=40)
    fresh.advance(29)
    assert len(fresh.core.sessions) == 1
    fresh.advance(2)
    assert fresh.core.sessions == {}


@pytest.mark.parametrize("crash", [False, True])
def test_who_was_connected_gets_its_whole_expiry_again(crash: bool) -> None:
    """It could not come back while there was no broker; from a clean stop on it is away, as always."""
    lab = Lab()
    lasting(lab, session_expiry=100)
    fresh = restart(lab, down_s=1000 if crash else 50, crash=crash)
    fresh.advance(99 if crash else 49)
    assert len(fresh.core.sessions) == 1
    fresh.advance(3)
    assert fresh.core.sessions == {}
    assert fresh.journal.sessions == {}


# -- wills -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("delay", [0, 30, 300])
def test_a_will_that_was_due_gets_a_grace(delay: int, crash: bool) -> None:
    """The client could not come back while there was no broker: its will waits a while longer, or as it asks.

    [MQTT-3.1.2-10].
    """
    lab = Lab()
    properties = Properties(will_delay=delay or None, content_type="t", user_properties=[("k", "v")])
    for name in ("stays", "returns", "said goodbye"):
        client = lab.connect(name, session_expiry=1000, will=Will(b"w", b"bye", 1, True, properties))
    client.disconnect()
    fresh = restart(lab, crash=crash)
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
    # And it is not published again by the next process.
    again = restart(fresh, crash=crash)
    watcher = again.connect("watcher", keep_alive=0)
    watcher.subscribe("w", 1, handling=2)
    again.advance(max(WILL_GRACE_S, delay) + 10)
    assert watcher.messages() == []


@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("delay", [0, 10])
def test_a_will_that_was_published_is_gone(delay: int, qos: int, crash: bool) -> None:
    """[MQTT-3.1.2-10]: the next process does not publish it again, whatever its QoS."""
    lab = Lab()
    will = Will(b"w", b"bye", qos, properties=Properties(will_delay=delay))
    lab.connect("c", session_expiry=1000, will=will).drop()
    lab.advance(20)
    assert lab.core.counters.wills_published == 1
    fresh = restart(lab, crash=crash)
    fresh.advance(WILL_GRACE_S + 20)
    assert len(fresh.core.sessions) == 1
    assert fresh.core.counters.wills_published == 0


@pytest.mark.parametrize("expiry", [10, 95, 130])
@pytest.mark.parametrize("delay", [0, 5000])
def test_the_will_of_a_session_that_expired_meanwhile(expiry: int, delay: int) -> None:
    """It expired, or does so within the grace: its will is published then, not later, and nothing else is left."""
    lab = Lab()
    client = lab.connect("c", session_expiry=expiry, will=Will(b"w", b"bye", 1, False, Properties(will_delay=delay)))
    client.subscribe("a", 1)
    fresh = restart(lab, down_s=100)
    watcher = fresh.connect("watcher", keep_alive=0)
    watcher.subscribe("w", 1)
    fresh.advance(WILL_GRACE_S - 2)
    assert watcher.messages() == []
    fresh.advance(4)
    assert watcher.payloads() == [b"bye"]
    assert [s.client_id for s in fresh.core.sessions.values()] == ["watcher"]
    assert fresh.journal.sessions == fresh.journal.subscriptions == {}


# -- identities --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crash", [False, True])
def test_identities_are_kept(crash: bool) -> None:
    """And a device that moved while the broker was down loses what it may no longer see, in flight or not."""
    users = iter(["ada", "ada", "bob"])

    def admit(packet: Connect) -> Identity:
        if packet.client_id != "k":
            return ANONYMOUS
        return Identity(Role.DEVICE, "acme", "k", next(users), "milano")

    lab = Lab(admit=admit)
    device = lasting(lab, "k")
    device.subscribe("acme/user/ada", 1)
    device.drop()
    lab.connect("p").publish("acme/user/ada", b"1", 1)
    fresh = restart(lab, crash=crash)
    back = lasting(fresh, "k")
    assert back.connack.session_present
    assert [p.payload for p in back.early if isinstance(p, Publish)] == [b"1"]
    back.drop()
    fresh.connect("p").publish("acme/user/ada", b"2", 1)
    again = restart(fresh, crash=crash)
    back = lasting(again, "k")
    assert back.connack.session_present
    assert back.early == []
    assert back.packets() == []
    assert again.core.router.subscriptions == 0
    again.advance(2)
    assert again.journal.messages == again.journal.deliveries == again.journal.subscriptions == {}


@pytest.mark.parametrize("crash", [False, True])
def test_receipts_survive(crash: bool) -> None:
    server = Identity(Role.SERVER, "acme", "crm")
    lab = Lab(admit=lambda p: server if p.client_id == "s" else ANONYMOUS)
    lab.bridge.named = b"a"
    for qos in (1, 2):
        client = lasting(lab, f"c{qos}")
        client.subscribe("acme/a", qos)
        client.drop()
    lab.connect("s").publish("acme/a", b"x", 2, user_properties=[("receipt", "delivered")])
    fresh = restart(lab, crash=crash)
    for qos in (1, 2):
        client = lasting(fresh, f"c{qos}")
        (message,) = [p for p in client.early if isinstance(p, Publish)]
        assert message.properties.user_properties == [("message-id", "m1"), ("receipt", "delivered")]
        answer(client, client.early)
    assert fresh.bridge.receipts == [("c1", "m1"), ("c2", "m1")]


# -- a crash -----------------------------------------------------------------------------------------------------------

STEPS = ["sent", "PUBREC", "PUBREL sent", "PUBCOMP", "settled"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize("retained", [False, True])
def test_qos_2_is_exactly_once_for_a_receiver_whenever_the_process_ends(
    step: str, others: bool, retained: bool
) -> None:
    """Also while the message stays in the log for somebody else, and however often that happens."""
    lab = Lab()
    client = lasting(lab)
    client.subscribe("a" if not retained else "b", 2)
    if others:
        other = lasting(lab, "other")
        other.subscribe("a", 2)
        other.drop()
    lab.connect("p").publish("a", b"x", 2, retain=retained)
    if retained:
        client.subscribe("a", 2)
    (message,) = client.messages()
    taken = [message.payload]
    at = STEPS.index(step)
    if at >= 1:
        lab.hold = at == 1
        client.send(Pubrec(message.packet_id))
    if at >= 3:
        assert client.packets() == [Pubrel(message.packet_id)]
        client.send(Pubcomp(message.packet_id))
    if at >= 4:
        lab.advance(3)
    for _ in range(3):
        lab = lab.crash()
        client = lasting(lab)
        for packet in client.early:
            if isinstance(packet, Publish):
                assert at < 2
                assert packet.dup
                assert packet.packet_id == message.packet_id  # so it knows the message
    for packet in client.early:
        assert isinstance(packet, Publish | Pubrel)
        assert packet.packet_id == message.packet_id
    answer(client, client.early)
    assert lab.connect("p2").publish("a", b"y", 2)
    taken += [m.payload for m in answer(client, client.packets())]
    assert taken == [b"x", b"y"]
    if others:
        assert receive_all(lab, "other") == [b"x", b"y"]
    lab.advance(3)
    assert (lab.journal.messages, lab.journal.deliveries, lab.core.log._held) == ({}, {}, {})


def test_qos_2_that_was_got_between_others_does_not_come_again() -> None:
    """What is complete is known until the cursor on the disk has passed it, whatever older message still waits."""
    lab = Lab()
    for name in ("c", "other"):
        client = lasting(lab, name, receive_maximum=1)
        client.subscribe("a", 2)
        client.drop()
    sender = lab.connect("p")
    sender.publish("a", b"1", 2)
    client = lasting(lab, receive_maximum=1)
    (first,) = client.early
    assert isinstance(first, Publish)
    for number in range(2, 6):
        sender.publish("a", b"%d" % number, 2)
    client.drop()
    got = [b"1"]
    for _ in range(4):
        client = lasting(lab, receive_maximum=1)
        packets = client.early
        (message,) = [p for p in packets if isinstance(p, Publish)]
        client.send(Pubrec(message.packet_id), Pubcomp(message.packet_id))
        new = [p for p in client.packets() if isinstance(p, Publish)]
        lab.advance(2)
        got += [m.payload for m in new]
        lab = lab.crash()
    client = lasting(lab)
    got += [m.payload for m in answer(client, client.early) if not m.dup]
    assert got == [b"1", b"2", b"3", b"4", b"5"]
    assert receive_all(lab, "other") == [b"1", b"2", b"3", b"4", b"5"]


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("released", [False, True])
def test_qos_2_is_exactly_once_for_a_publisher_whenever_the_process_ends(written: bool, released: bool) -> None:
    lab = Lab()
    receiver = lasting(lab)
    receiver.subscribe("a", 2)
    receiver.drop()
    sender = lasting(lab, "p")
    lab.hold = not written
    sender.publish("a", b"x", 2, id=7)
    if released:
        sender.send(Pubrel(7))
    lab = lab.crash()
    sender = lasting(lab, "p")
    if released and written:
        sender.send(Pubrel(7))
        assert sender.packets() == [Pubcomp(7, 0x92)]
    else:
        sender.publish("a", b"x", 2, id=7, dup=True)
        sender.send(Pubrel(7))
        assert sender.packets() == [Pubrec(7), Pubcomp(7)]
    sender.publish("a", b"y", 2, id=7)
    assert receive_all(lab) == [b"x", b"y"]


@pytest.mark.parametrize("times", [1, 2])
def test_what_may_have_been_sent_before_a_crash_has_dup(times: int) -> None:
    """[MQTT-3.3.1-1]: and what was not, has not, for whoever was away all the time."""
    lab = Lab()
    for name in ("c", "away"):
        client = lasting(lab, name)
        client.subscribe("a", 1)
        client.drop()
    sender = lab.connect("p")
    sender.publish("a", b"1", 1)
    lasting(lab).drop()  # it got it
    client = lasting(lab)
    client.ack(*(p for p in client.early if isinstance(p, Publish)))
    sender.publish("a", b"2", 1)
    client.messages()
    for _ in range(times):
        lab = lab.crash()
        if times > 1:
            lab.commit()
    lab.connect("p").publish("a", b"3", 1)
    for name, old in (("c", True), ("away", False)):
        client = lasting(lab, name)
        got = {m.payload: m.dup for m in answer(client, client.early)}
        assert got.pop(b"1", old) == old
        assert got == {b"2": old, b"3": False}


def test_that_a_client_is_back_is_on_the_disk_before_it_gets_anything() -> None:
    """Else a crash would have it sent once more without DUP."""
    lab = Lab()
    client = lasting(lab)
    client.subscribe("a", 1)
    client.drop()
    lab.connect("p").publish("a", b"x", 1)
    lab.hold = True
    client = lasting(lab)
    assert client.early == []
    lab.commit()
    assert [(m.payload, m.dup) for m in client.messages()] == [(b"x", False)]
    client = lasting(lab.crash())
    assert [(m.payload, m.dup) for m in client.early if isinstance(m, Publish)] == [(b"x", True)]


@pytest.mark.parametrize("packet", [Unsubscribe(7, ["a", "b"]), Subscribe(8, [Request("b", 0)])], ids=repr)
def test_what_is_in_flight_or_queued_survives_the_end_of_its_subscription(packet: Packet) -> None:
    """[MQTT-3.10.4-3]: its subscription does not lead to it in the log any more."""
    lab = Lab()
    client = lasting(lab, receive_maximum=1)
    client.subscribe("a", 1)
    client.subscribe("b", 1)
    sender = lab.connect("p")
    sender.publish("a", b"1", 1)
    sender.publish("b", b"2", 1)
    lab.hold = True
    client.send(packet)
    lab.commit()
    assert receive_all(lab.crash()) == [b"1", b"2"]


@pytest.mark.parametrize(("qos", "no_local"), [(0, False), (1, True)])
def test_a_subscription_that_gives_less_loses_nothing_that_waited(qos: int, no_local: bool) -> None:
    """[MQTT-3.8.4-4]: application messages must not be lost due to replacing the subscription."""
    lab = Lab()
    client = lasting(lab)
    client.subscribe("a", 1)
    client.drop()
    lab.connect("p").publish("a", b"1", 1)
    lab.hold = True
    client = lasting(lab)
    client.publish("a", b"2", 1)
    client.send(Subscribe(8, [Request("a", qos, no_local)]))
    lab.hold = False
    lab.commit()
    assert [m.payload for m in answer(client, client.packets())] == [b"1", b"2"]
    lab.advance(2)
    assert lab.core.log.messages == 0


# -- retained ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crash", [False, True])
def test_retained_messages_that_were_still_to_be_sent(crash: bool) -> None:
    """An end in the middle of the replay: the rest comes after it, and nothing of QoS 2 twice."""
    lab = Lab()
    sender = lab.connect("p")
    for number in range(8):
        sender.publish(f"r/{number}", b"kept", 1 + number % 2, retain=True)
        sender.publish(f"q/{number}", b"never promised", 0, retain=True)
    client = lasting(lab, receive_maximum=3)
    client.subscribe("#", 2)
    sender.publish("r/live", b"live", 1)
    first = [m for m in client.messages() if m.qos]
    assert len(first) == 3
    client.ack(*(m for m in first if m.qos == 1))
    client.send(*(Pubrec(m.packet_id) for m in first if m.qos == 2))
    client.send(*(Pubcomp(m.packet_id) for m in first if m.qos == 2))
    first += [m for m in client.packets() if isinstance(m, Publish) and m.qos]
    lab.advance(2)
    fresh = restart(lab, crash=crash)
    back = lasting(fresh)
    again = answer(back, back.early)
    new = [m for m in again if not m.dup or m.topic not in {k.topic for k in first}]
    for message in new:
        assert message.payload in (b"kept", b"live", b"never promised")
        assert message.retain == (message.payload != b"live")
    twice = [m.topic for m in [*first, *new] if m.qos == 2]
    assert sorted(twice) == [b"r/%d" % n for n in range(1, 8, 2)]
    assert {m.topic for m in [*first, *again] if m.qos == 1} == {b"r/live", *(b"r/%d" % n for n in range(0, 8, 2))}
    fresh.advance(2)
    assert (fresh.journal.messages, fresh.journal.deliveries) == ({}, {})
    # All of it has arrived: it is not sent again.
    assert lasting(restart(fresh, crash=crash)).early == []


@pytest.mark.parametrize("shortly", [False, True])
def test_time_does_not_forget_retained_messages_that_were_still_to_be_sent(shortly: bool) -> None:
    """What has not gone out when the connection breaks is due, however long the client stays away.

    shortly: it was back, and gone before that was on the disk.
    """
    lab = Lab()
    sender = lab.connect("p", keep_alive=0)
    for number in range(8):
        sender.publish(f"r/{number}", b"x", 1, retain=True)
    client = lasting(lab, receive_maximum=2)
    client.subscribe("r/+", 1)
    first = client.messages()
    client.ack(first[0])
    first += client.messages()
    assert len(first) == 3
    client.drop()
    if shortly:
        lab.hold = True
        client = lasting(lab)
        assert client.early == []
        client.drop()
        lab.hold = False
    lab.advance(3)
    back = lasting(lab)
    assert {m.topic for m in answer(back, back.early)} >= {b"r/%d" % n for n in range(8)} - {first[0].topic}


def test_retained_messages_are_not_forgotten_with_a_full_disk() -> None:
    """What was in flight cannot be written: all of it is due again."""
    lab = Lab()
    lab.connect("p").publish("r", b"x", 1, retain=True)
    client = lasting(lab)
    client.subscribe("r", 1)
    lab.journal.broken = "disk full"
    lab.core.changed[client.session] = None
    lab.commit()
    client.drop()
    lab.advance(3)
    lab.journal.broken = ""
    lab.commit()
    assert receive_all(lab) == [b"x"]
    lab.advance(2)
    assert receive_all(lab) == []


@pytest.mark.parametrize("bound", [{"queue_messages_max": 4}, {"queue_bytes_max": 5000}])
def test_what_is_retained_does_not_displace_what_was_accepted(bound: dict[str, int]) -> None:
    """The queue's bound holds for what was accepted; what is retained waits where it is."""
    lab = Lab(**bound)
    sender = lab.connect("p")
    for number in range(20):
        sender.publish(f"r/{number}", b"x" * 1000, 1, retain=True)
    client = lasting(lab, receive_maximum=1)
    client.subscribe("#", 1)
    for number in range(3):
        sender.publish("live", b"%d" % number, 1)
    fresh = restart(lab, **bound)
    assert lab.core.counters.messages_dropped_queue_full == 0
    back = lasting(fresh)
    got = [p.payload for p in answer(back, back.early)]
    assert [payload for payload in got if len(payload) == 1] == [b"0", b"1", b"2"]
    assert len(got) == 23


def test_retained_messages_and_their_going_survive() -> None:
    lab = Lab()
    sender = lab.connect("p")
    for number in range(3):
        for qos in (0, 1, 2):
            sender.publish(f"r/{number}/{qos}", b"%d" % number, qos, retain=True)
    for qos in (0, 1, 2):
        sender.publish(f"r/0/{qos}", b"", qos, retain=True)
        sender.publish(f"r/1/{qos}", b"new", qos, retain=True)
    lab = restart(lab, crash=True)
    reader = lab.connect("reader")
    reader.subscribe("r/#", 2)
    assert {(m.topic, m.payload, m.qos) for m in reader.messages()} == {
        (b"r/%d/%d" % (number, qos), payload, qos) for number, payload in ((1, b"new"), (2, b"2")) for qos in (0, 1, 2)
    }
