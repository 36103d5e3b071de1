"""Facts: what happened, on the disk together with what else happened in the same turn, and then told to the bridge."""

from support.lasting import away, lasting, receive_all
from support.loopback import Client, Lab

from broker.limits import FACTS_BYTES_MAX
from broker.message import BOOKED, Message, Promise
from broker.session.session import Session
from broker.wire.codes import Reason
from broker.wire.packets import Packet, Puback, Publish


class Desk:
    """A bridge that writes down what it hears, and notes what it was told."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.told: list[bytes] = []
        lab.core.told = lambda facts: self.told.extend(fact.body for fact in facts)
        lab.core.log.gone = lambda seq: lab.core.record(b"gone %d" % seq, firm=True)
        lab.bridge.arrived = lab.core.log.booked.discard
        lab.core.router.serve(b"+/up", self.heard, writes=True)

    def heard(self, message: Message, origin: Session | None) -> None:
        self.lab.core.record(message.payload)


def desk() -> tuple[Lab, Desk]:
    lab = Lab(commit_window_ms=1000)
    return lab, Desk(lab)


def post(lab: Lab, topic: bytes, payload: bytes = b"x", *, fact: bytes = b"") -> Message:
    """Publish what the bridge keeps books on."""
    message = Message(topic, payload, 1, tracked=True, receipt=BOOKED)
    lab.core.publish(message, promise=Promise(), must=True)
    lab.core.log.booked.add(message.seq)
    if fact:
        lab.core.record(fact)
    lab.core.flush()
    return message


def payloads(packets: list[Packet]) -> list[bytes]:
    return [packet.payload for packet in packets if isinstance(packet, Publish)]


def acknowledged(client: Client) -> list[Packet]:
    return [packet for packet in client.packets() if isinstance(packet, Puback)]


def test_nobody_hurries_for_facts_alone() -> None:
    lab, _ = desk()
    device = lab.connect("d")
    away(lab, "absent", "acme/user/ada")
    lab.hold = True
    assert not lab.core.unhurried  # there is nothing
    device.publish("acme/up", b"one", 1)
    assert lab.core.unhurried
    post(lab, b"acme/user/ada")
    assert not lab.core.unhurried  # that is to be kept for who is away


def test_who_says_something_to_the_bridge_is_told_once_it_is_on_the_disk() -> None:
    lab, found = desk()
    device = lab.connect("d")
    lab.hold = True
    for payload in (b"one", b"two"):  # the second time by a route that is known
        device.publish("acme/up", payload, 1)
        assert acknowledged(device) == []
        assert payload not in found.told
        lab.commit()
        assert len(acknowledged(device)) == 1
    assert found.told == [b"one", b"two"]
    assert list(lab.journal.facts.values()) == [b"one", b"two"]


def test_what_the_bridge_has_applied_goes_with_the_next_commit() -> None:
    lab, _ = desk()
    device = lab.connect("d")
    lab.hold = True
    for payload in (b"one", b"two", b"three"):
        device.publish("acme/up", payload, 1)
    lab.commit()
    lab.core.applied(2)
    assert lab.core.facts_waiting == 1
    device.publish("acme/up", b"four", 1)
    lab.commit()
    assert list(lab.journal.facts.values()) == [b"three", b"four"]


def test_what_cannot_be_written_was_not_said() -> None:
    lab, found = desk()
    device = lab.connect("d")
    lab.hold = True
    lab.journal.broken = "disk full"
    device.publish("acme/up", b"one", 1)
    firm = lab.core.record(b"firm", firm=True)
    lab.core.record(b"void")
    lab.commit()
    assert acknowledged(device) == [Puback(1, Reason.QUOTA_EXCEEDED)]
    assert lab.core.fact_awaited == firm
    lab.journal.broken = ""
    lab.commit()
    lab.commit()
    assert found.told == [b"firm"]
    assert lab.core.facts_waiting == 1


def test_a_bridge_that_is_behind_hears_nothing_more() -> None:
    lab, found = desk()
    device = lab.connect("d")
    lab.hold = True
    lab.core.record(bytes(FACTS_BYTES_MAX + 1), firm=True)
    device.publish("acme/up", b"one", 1)
    assert acknowledged(device) == [Puback(1, Reason.QUOTA_EXCEEDED)]
    assert lab.core.counters.facts_refused == 1
    lab.commit()
    lab.core.applied(lab.core.fact_head)
    device.publish("acme/up", b"two", 1)
    lab.commit()
    assert found.told[-1] == b"two"


def test_a_message_and_the_fact_that_it_was_sent_are_on_the_disk_together() -> None:
    lab, _ = desk()
    away(lab, "c", "acme/user/ada")
    lab.hold = True
    message = post(lab, b"acme/user/ada", fact=b"sent")
    assert (lab.journal.messages, lab.journal.facts) == ({}, {})
    lab.commit()
    assert list(lab.journal.messages) == [message.seq]
    assert list(lab.journal.facts.values()) == [b"sent"]


def test_of_a_message_that_arrived_nothing_is_said_when_it_is_forgotten() -> None:
    lab, found = desk()
    away(lab, "c", "acme/user/ada")
    lab.hold = True
    post(lab, b"acme/user/ada", b"hello")
    lab.commit()
    lab.hold = False
    assert receive_all(lab) == [b"hello"]
    lab.advance(5)
    assert not lab.journal.messages
    assert found.told == []
    assert lab.bridge.receipts == [("c", "")]


def test_the_bridge_learns_which_message_was_forgotten_before_it_arrived() -> None:
    lab, found = desk()
    away(lab, "c", "acme/user/ada")
    lab.hold = True
    message = post(lab, b"acme/user/ada", fact=b"sent")
    lab.commit()
    lab.hold = False
    client = lab.connect("c", clean=True)  # the session ends, and what waited for it goes
    client.drop()
    lab.advance(5)
    lab.advance(5)
    assert found.told == [b"sent", b"gone %d" % message.seq]


def test_what_is_taken_back_reaches_nobody_who_was_away() -> None:
    lab, _ = desk()
    away(lab, "c", "acme/user/ada")
    lab.hold = True
    first, second = (post(lab, b"acme/user/ada", payload) for payload in (b"first", b"second"))
    lab.commit()
    assert lab.core.take_back(b"acme/user/ada", first.seq)
    lab.hold = False
    lab.commit()
    assert list(lab.journal.messages) == [second.seq]
    assert receive_all(lab) == [b"second"]


def test_what_is_taken_back_reaches_nobody_who_has_no_room_for_it_yet() -> None:
    lab, _ = desk()
    client = lasting(lab, receive_maximum=1)
    client.subscribe("acme/user/ada", 1)
    first, second, third = (post(lab, b"acme/user/ada", payload) for payload in (b"first", b"second", b"third"))
    (sent,) = [packet for packet in client.packets() if isinstance(packet, Publish)]
    assert sent.payload == b"first"
    assert not lab.core.take_back(b"acme/user/ada", first.seq)  # it is on its way
    assert lab.core.take_back(b"acme/user/ada", second.seq)
    client.send(Puback(sent.packet_id))
    assert payloads(client.packets()) == [b"third"]
    assert third.seq


def test_what_is_not_there_cannot_be_taken_back() -> None:
    lab, _ = desk()
    assert lab.core.take_back(b"acme/user/ada", 17)  # nobody has it


def test_what_may_not_come_twice_is_sent_once_it_is_on_the_disk() -> None:
    lab, _ = desk()
    client = lasting(lab)
    client.subscribe("acme/user/ada", 1)
    lab.hold = True
    promise = Promise()
    promise.deferred = True
    message = Message(b"acme/user/ada", b"hello", 1, tracked=True, receipt=BOOKED)
    lab.core.publish(message, promise=promise, must=True)
    lab.core.flush()
    assert client.packets() == []
    lab.commit()
    assert payloads(client.packets()) == [b"hello"]
