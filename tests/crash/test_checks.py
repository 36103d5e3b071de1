"""The checks themselves: each sees what it is for, and lets pass what MQTT allows."""

import pytest
from crash.inbox import Inbox
from crash.ledger import Ledger, Message
from crash.outbox import Outbox

from broker.wire.packets import Ack, Puback, Pubcomp, Publish, Pubrec, Pubrel


class Receiver:
    """An inbox that is subscribed to everything under t/, and a publisher whose messages it may get."""

    def __init__(self, qos: int = 2, **options: int) -> None:
        self.ledger = Ledger()
        self.inbox = Inbox(self.ledger, "receiver", **options)
        self.inbox.opened(False)
        self.inbox.subscribing("t/#", qos)
        self.inbox.subscribed("t/#")

    def publish(self, qos: int = 1, topic: str = "t/1", sends: int = 1, acknowledged: bool = True) -> Message:
        message = self.ledger.make("p", topic, qos)
        for _ in range(sends):
            self.ledger.sent(message)
        if acknowledged:
            self.ledger.acknowledged(message)
        return message

    def get(self, message: Message, id: int = 1, *, dup: bool = False, qos: int | None = None) -> None:
        qos = message.qos if qos is None else qos
        self.inbox.arrived(Publish(message.topic.encode(), message.payload, qos, False, dup, id))

    def answer(self, *acks: Ack) -> None:
        for ack in acks:
            self.inbox.acknowledged(ack)

    def reconnect(self, *, settled: bool = False, crash: bool = False, present: bool = True) -> None:
        self.inbox.closed(settled=settled)
        self.ledger.crashes += crash
        self.inbox.opened(present)

    @property
    def wrong(self) -> list[str]:
        return [problem.kind for problem in self.ledger.problems]


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


def test_what_comes_once_and_in_order_is_right(receiver: Receiver) -> None:
    first, second = receiver.publish(), receiver.publish()
    receiver.get(first, 1)
    receiver.get(second, 2)
    receiver.answer(Puback(1), Puback(2))
    receiver.get(receiver.publish(), 1)
    assert not receiver.inbox.missing()
    assert receiver.wrong == []


# -- loss --------------------------------------------------------------------------------------------------------------


def test_missing_is_what_was_acknowledged_while_it_was_subscribed(receiver: Receiver) -> None:
    lost = receiver.publish()
    receiver.publish(acknowledged=False)
    receiver.publish(topic="elsewhere")
    assert receiver.inbox.missing() == [lost]


def test_nothing_from_before_or_after_a_subscription_is_missing() -> None:
    receiver = Receiver()
    receiver.inbox.unsubscribing("t/#")
    receiver.publish()
    receiver.inbox.unsubscribed("t/#")
    receiver.publish()
    receiver.inbox.subscribing("t/#", 2)
    receiver.publish()
    receiver.inbox.subscribed("t/#")
    assert receiver.inbox.missing() == []
    lost = receiver.publish()
    assert receiver.inbox.missing() == [lost]


def test_a_lost_session(receiver: Receiver) -> None:
    receiver.publish()
    receiver.reconnect(present=False)
    assert receiver.wrong == ["its session is lost", "it was acknowledged, and is lost with the session"]


def test_a_session_that_was_promised_nothing_may_be_lost() -> None:
    inbox = Inbox(Ledger(), "receiver")
    inbox.opened(False)
    inbox.subscribing("t/#", 1)
    inbox.closed(settled=False)
    inbox.opened(False)
    assert inbox.ledger.problems == []


# -- what nobody asked for ---------------------------------------------------------------------------------------------


def test_what_nobody_published(receiver: Receiver) -> None:
    receiver.inbox.arrived(Publish(b"t/1", b"what?", 1, packet_id=1))
    assert receiver.wrong == ["nobody published that"]


def test_what_was_published_on_another_topic(receiver: Receiver) -> None:
    receiver.inbox.arrived(Publish(b"t/2", receiver.publish(topic="t/1").payload, 1, packet_id=1))
    assert receiver.wrong == ["nobody published that"]


def test_another_topic_than_was_subscribed(receiver: Receiver) -> None:
    receiver.get(receiver.publish(topic="u/1"))
    assert receiver.wrong == ["it is not subscribed to this, or not at this QoS"]


def test_another_qos_than_was_subscribed(receiver: Receiver) -> None:
    receiver.get(receiver.publish(qos=2), qos=1)
    assert receiver.wrong == ["it is not subscribed to this, or not at this QoS"]


def test_the_lower_qos_is_right() -> None:
    receiver = Receiver(qos=1)
    receiver.get(receiver.publish(qos=2), qos=1)
    assert receiver.wrong == []


def test_an_unsubscribe_that_does_not_hold(receiver: Receiver) -> None:
    before = receiver.publish()
    receiver.inbox.unsubscribing("t/#")
    meanwhile = receiver.publish()
    receiver.inbox.unsubscribed("t/#")
    receiver.get(before, 1)
    receiver.get(meanwhile, 2)
    assert receiver.wrong == []
    receiver.get(receiver.publish(), 3)
    assert receiver.wrong == ["it is not subscribed to this, or not at this QoS"]


# -- copies ------------------------------------------------------------------------------------------------------------


def test_qos_1_again_after_a_lost_connection(receiver: Receiver) -> None:
    message = receiver.publish()
    receiver.get(message)
    receiver.reconnect()
    receiver.get(message, dup=True)
    receiver.answer(Puback(1))
    receiver.reconnect()
    receiver.get(message, dup=True)  # the acknowledgement may not have arrived
    assert receiver.wrong == []


def test_qos_1_again_without_dup(receiver: Receiver) -> None:
    message = receiver.publish()
    receiver.get(message)
    receiver.reconnect(crash=True)
    receiver.get(message)
    assert receiver.wrong == ["it comes again without DUP"]


def test_qos_1_again_on_the_same_connection(receiver: Receiver) -> None:
    message = receiver.publish()
    receiver.reconnect()
    receiver.get(message)
    receiver.answer(Puback(1))
    receiver.get(message, dup=True)
    assert receiver.wrong == ["it comes again on the same connection"]


def test_qos_1_again_after_the_broker_has_the_acknowledgement(receiver: Receiver) -> None:
    message = receiver.publish()
    receiver.get(message)
    receiver.answer(Puback(1))
    receiver.reconnect(settled=True)
    receiver.get(message, dup=True)
    assert receiver.wrong == ["it comes again though it was acknowledged, and there was no crash"]


def test_a_crash_may_cost_an_acknowledgement(receiver: Receiver) -> None:
    message = receiver.publish()
    receiver.get(message)
    receiver.answer(Puback(1))
    receiver.reconnect(settled=True)
    receiver.reconnect(crash=True)
    receiver.get(message, dup=True)
    assert receiver.wrong == []


def test_qos_1_as_often_as_the_publisher_sent_it(receiver: Receiver) -> None:
    message = receiver.publish(sends=2)
    receiver.get(message, 1)
    receiver.get(message, 2)
    assert receiver.wrong == []
    receiver.get(message, 3)
    assert receiver.wrong == ["it comes again on the same connection"]


def test_qos_2_comes_once_though_the_publisher_sent_it_twice() -> None:
    receiver = Receiver(qos=1)
    message = receiver.publish(qos=2, sends=2)
    receiver.get(message, 1, qos=1)
    receiver.answer(Puback(1))
    receiver.get(message, 2, qos=1)
    assert receiver.wrong == ["it comes again on the same connection"]


@pytest.mark.parametrize(("qos", "wrong"), [(1, []), (2, ["QoS 2, and delivered again"])])
def test_what_was_sent_again_after_a_crash_may_be_new_to_the_broker(qos: int, wrong: list[str]) -> None:
    receiver = Receiver(qos=qos)
    message = receiver.publish(qos=2, acknowledged=False)
    receiver.get(message, 1, qos=qos)
    receiver.answer(Puback(1) if qos == 1 else Pubrec(1))
    receiver.inbox.released(Pubrel(1))
    receiver.reconnect(crash=True)
    receiver.ledger.sent(message)
    receiver.get(message, 1, qos=qos)
    assert receiver.wrong == wrong


def test_dup_on_what_cannot_have_been_sent_before(receiver: Receiver) -> None:
    receiver.get(receiver.publish(), 1, dup=True)
    receiver.reconnect()
    receiver.get(receiver.publish(), 2, dup=True)
    assert receiver.wrong == ["DUP, though it cannot have been sent before"] * 2


def test_qos_2_again_before_its_release(receiver: Receiver) -> None:
    message = receiver.publish(qos=2)
    receiver.get(message)
    receiver.answer(Pubrec(1))
    receiver.reconnect(crash=True)
    receiver.get(message, dup=True)
    receiver.answer(Pubrec(1))
    receiver.inbox.released(Pubrel(1))
    receiver.answer(Pubcomp(1))
    assert receiver.wrong == []


@pytest.mark.parametrize("crash", [False, True])
def test_qos_2_again_after_its_release(receiver: Receiver, crash: bool) -> None:
    message = receiver.publish(qos=2)
    receiver.get(message)
    receiver.answer(Pubrec(1))
    receiver.inbox.released(Pubrel(1))
    receiver.reconnect(crash=crash)
    receiver.get(message, dup=True)
    assert receiver.wrong == ["QoS 2, and delivered again"]


def test_qos_2_again_under_another_packet_id(receiver: Receiver) -> None:
    message = receiver.publish(qos=2)
    receiver.get(message, 1)
    receiver.reconnect(crash=True)
    receiver.get(message, 2, dup=True)
    assert "it comes again under another packet id" in receiver.wrong


# -- order and packet ids ----------------------------------------------------------------------------------------------


def test_out_of_order(receiver: Receiver) -> None:
    first, second = receiver.publish(), receiver.publish()
    receiver.get(second, 1)
    receiver.get(first, 2)
    assert receiver.wrong == ["out of order"]


def test_order_is_of_one_topic_and_one_qos(receiver: Receiver) -> None:
    messages = [receiver.publish(qos=qos, topic=topic) for qos, topic in ((1, "t/1"), (2, "t/1"), (1, "t/2"))]
    for id, message in enumerate(reversed(messages), 1):
        receiver.get(message, id)
    assert receiver.wrong == []


def test_a_copy_of_what_was_published_before_the_subscription_may_come_late() -> None:
    receiver = Receiver()
    receiver.inbox.unsubscribing("t/#")
    receiver.inbox.unsubscribed("t/#")
    early = receiver.publish(acknowledged=False)
    receiver.inbox.subscribing("t/#", 2)
    receiver.inbox.subscribed("t/#")
    receiver.get(receiver.publish(), 1)
    receiver.ledger.sent(early)
    receiver.get(early, 2)
    assert receiver.wrong == []


def test_a_packet_id_in_use(receiver: Receiver) -> None:
    receiver.get(receiver.publish())
    receiver.get(receiver.publish())
    assert receiver.wrong == ["packet id in use on this connection"]


def test_a_qos_2_packet_id_is_in_use_until_pubcomp(receiver: Receiver) -> None:
    receiver.get(receiver.publish(qos=2))
    receiver.answer(Pubrec(1))
    receiver.inbox.released(Pubrel(1))
    receiver.get(receiver.publish(qos=2))
    assert receiver.wrong == ["packet id in use on this connection"]


@pytest.mark.parametrize("crash", [False, True])
def test_a_qos_2_packet_id_is_in_use_on_the_next_connection(receiver: Receiver, crash: bool) -> None:
    receiver.get(receiver.publish(qos=2))
    receiver.reconnect(crash=crash)
    receiver.get(receiver.publish(qos=2))
    assert receiver.wrong == ["packet id in use, received and not released"]


@pytest.mark.parametrize("crash", [False, True])
def test_a_qos_1_packet_id_is_in_use_on_the_next_connection(receiver: Receiver, crash: bool) -> None:
    receiver.get(receiver.publish())
    receiver.reconnect(crash=crash)
    receiver.get(receiver.publish())
    assert receiver.wrong == ([] if crash else ["packet id in use, not acknowledged"])


def test_qos_1_again_under_another_packet_id(receiver: Receiver) -> None:
    message = receiver.publish()
    receiver.get(message, 1)
    receiver.reconnect()
    receiver.get(message, 2, dup=True)
    assert receiver.wrong == ["it comes again under another packet id"]


def test_more_in_flight_than_the_receive_maximum() -> None:
    receiver = Receiver(receive_maximum=2)
    receiver.get(receiver.publish(qos=2), 1)
    receiver.get(receiver.publish(), 2)
    receiver.answer(Pubrec(1))
    assert receiver.wrong == []
    receiver.get(receiver.publish(), 3)
    assert receiver.wrong == ["more in flight than its Receive Maximum"]


# -- publishers --------------------------------------------------------------------------------------------------------


class Publisher:
    """An outbox on its first connection."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.outbox = Outbox(self.ledger, "p", window=100, topics=["t/1"], retained=["kept/1"], seed="")
        self.outbox.opened(False)

    def publish(self, qos: int) -> Publish:
        return self.outbox.send(self.ledger.make("p", "t/1", qos))

    def retain(self, *, delete: bool = False, acknowledged: bool = True) -> bytes:
        message = self.ledger.make_retained("p", "kept/1", 1, delete=delete)
        packet = self.outbox.send(message)
        if acknowledged:
            self.outbox.got(Puback(packet.packet_id))
        return message.payload

    @property
    def wrong(self) -> list[str]:
        return [problem.kind for problem in self.ledger.problems]


@pytest.fixture
def publisher() -> Publisher:
    return Publisher()


def test_what_was_not_acknowledged_is_sent_again(publisher: Publisher) -> None:
    one, two, three, four = (publisher.publish(qos) for qos in (1, 2, 1, 2))
    assert publisher.outbox.got(Puback(one.packet_id)) is None
    assert publisher.outbox.got(Pubrec(two.packet_id)) == Pubrel(two.packet_id)
    three.dup = four.dup = True
    assert publisher.outbox.opened(True) == [Pubrel(two.packet_id), three, four]
    publisher.outbox.got(Pubcomp(two.packet_id))
    assert publisher.publish(2).packet_id == 1  # the lowest that is free
    assert publisher.wrong == []


def test_without_a_session_it_is_sent_as_new(publisher: Publisher) -> None:
    packets = [publisher.publish(1), publisher.publish(2)]
    assert publisher.outbox.opened(False) == packets
    assert publisher.wrong == []


def test_a_session_that_has_received_qos_2_is_there(publisher: Publisher) -> None:
    publisher.outbox.got(Pubrec(publisher.publish(2).packet_id))
    assert publisher.outbox.opened(False) == []
    assert publisher.wrong == ["its session is lost"]


def test_an_answer_that_nothing_waits_for(publisher: Publisher) -> None:
    one, two = publisher.publish(1), publisher.publish(2)
    publisher.outbox.got(Pubrec(one.packet_id))
    publisher.outbox.got(Puback(two.packet_id))
    publisher.outbox.got(Pubcomp(two.packet_id))
    publisher.outbox.got(Puback(77))
    assert publisher.wrong == ["nothing waits for that"] * 4


def test_a_refusal(publisher: Publisher) -> None:
    publisher.outbox.got(Puback(publisher.publish(1).packet_id, 0x97))
    assert publisher.wrong == ["refused"]


def test_a_release_that_the_broker_has_seen_before_is_right(publisher: Publisher) -> None:
    packet = publisher.publish(2)
    publisher.outbox.got(Pubrec(packet.packet_id))
    publisher.outbox.opened(True)
    publisher.outbox.got(Pubcomp(packet.packet_id, 0x92))  # §3.7.2.1: no error during recovery
    assert publisher.wrong == []


def test_retained_is_the_last_that_was_acknowledged_or_a_later_one(publisher: Publisher) -> None:
    payloads = [publisher.retain(), publisher.retain(), publisher.retain(acknowledged=False)]
    for payload in payloads:
        publisher.ledger.check_retained({"kept/1": payload})
    publisher.ledger.check_retained({})
    assert publisher.wrong == ["retained, but not the last"] * 2


def test_what_was_retained_and_taken_away(publisher: Publisher) -> None:
    payload = publisher.retain()
    publisher.retain(delete=True)
    publisher.ledger.check_retained({})
    assert publisher.wrong == []
    publisher.ledger.check_retained({"kept/1": payload})
    assert publisher.wrong == ["retained, but not the last"]


# -- the report --------------------------------------------------------------------------------------------------------


def test_the_report_shows_what_led_to_it(receiver: Receiver) -> None:
    receiver.publish()
    message = receiver.publish()
    receiver.get(message, 7)
    receiver.reconnect(crash=True)
    receiver.get(message, 8)
    timeline = receiver.ledger.report().splitlines()[3:]
    assert [line[12:] for line in timeline] == [
        "p            sends",
        "p            has it acknowledged",
        "receiver     gets it at qos1 as 7",
        "receiver     lost its connection",
        "receiver     is connected, session present 1",
        "receiver     gets it at qos1 as 8",
        "receiver     WRONG: it comes again without DUP",
    ]
