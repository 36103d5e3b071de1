"""Who makes the broker work much goes on in the next turn, after the others were served. Nothing is lost by that."""

import pytest
from support.loopback import Client, Lab

from broker.limits import (
    DELIVERY_WORK,
    FLUSHED_MAX,
    OWN_WORK_MIN,
    RECEIVE_MAXIMUM,
    RESUMED_MAX,
    SUBSCRIPTIONS_MAX,
    TURN_WORK_MAX,
)
from broker.session.session import Session
from broker.wire.encode import encode
from broker.wire.packets import Connack, Pingreq, Pingresp, Publish, Request, Suback, Subscribe, Will

MOST = TURN_WORK_MAX * 3 // 2  # and what the last piece of work took


def lab_with(receivers: int, filter: str = "t", qos: int = 0) -> tuple[Lab, list[Client]]:
    """A lab that waits after each turn, and clients that subscribe."""
    lab = Lab()
    clients = [lab.connect(f"r{n}", 4) for n in range(receivers)]
    for client in clients:
        client.subscribe(filter, qos)
    lab.one_turn = True
    return lab, clients


def turns(lab: Lab) -> int:
    """Let everybody finish; how many turns that took. None of them was too long."""
    count = 0
    while lab.core.resting:
        before, count = lab.core.work, count + 1
        lab.core.turn()
        lab.flush()
        assert lab.core.work - before < MOST
        assert count < 1000
    return count


def test_subscribing_over_and_over() -> None:
    """5,000 SUBSCRIBEs in one read of a client with 1,000 subscriptions were 5 s in which nobody else was served."""
    lab = Lab()
    client, other = lab.connect("busy"), lab.connect("other")
    client.send(Subscribe(1, [Request(f"f/{n}") for n in range(SUBSCRIPTIONS_MAX - 1)]))
    client.packets()
    lab.one_turn = True
    before = lab.core.work
    client.send(*(Subscribe(2, [Request("g")]) for _ in range(1000)))
    assert lab.core.work - before < MOST
    assert client.channel.paused
    other.send(Pingreq())
    assert other.packets() == [Pingresp()]
    answered = len(client.packets())
    assert 0 < answered < 100
    assert turns(lab) > 10
    rest = client.packets()
    assert all(isinstance(packet, Suback) for packet in rest)
    assert answered + len(rest) == 1000
    assert not client.channel.paused


@pytest.mark.parametrize("qos", [0, 1])
def test_publishing_to_many(qos: int) -> None:
    """No more than 20,000 deliveries are put out in one turn, and they keep their order."""
    lab, clients = lab_with(200, qos=qos)
    sender = lab.connect("p", 4)
    sender.publish("t", b"first", qos)
    turns(lab)
    for client in clients:
        client.ack(*client.messages()) if qos else client.messages()
    sender.feed(b"".join(encode(Publish(b"t", b"%d" % n, qos, packet_id=qos and n + 1), 4) for n in range(500)))
    got = clients[0].payloads()
    assert len(got) <= TURN_WORK_MAX // 200 + 1
    assert turns(lab) >= 3
    got += clients[0].payloads()
    assert got == [b"%d" % n for n in range(500)]
    assert all(len(client.messages()) == 500 for client in clients[1:])


@pytest.mark.parametrize("qos", [0, 1])
def test_a_broadcast_is_written_out_in_turns(qos: int) -> None:
    """19,000 TLS connections are a fifth of a second; the others are served meanwhile, and who sends more waits."""
    lab, clients = lab_with(FLUSHED_MAX * 5 // 2, qos=qos)
    sender, other = lab.connect("p", 4), lab.connect("other")
    turns(lab)
    sender.packets()

    def reached(count: int) -> int:
        return sum(client.channel.raw.count(b"broadcast") == count for client in clients)

    sender.publish("t", b"broadcast", qos)
    assert reached(1) == FLUSHED_MAX
    sender.feed(b"".join(encode(Publish(b"t", b"broadcast", qos, packet_id=qos and n + 2), 4) for n in range(9)))
    assert lab.core.counters.messages_received == 2  # it rests after one more
    other.send(Pingreq())
    assert other.packets() == [Pingresp()]
    clients[-1].send(Pingreq())
    assert reached(0) == len(clients) - FLUSHED_MAX
    assert turns(lab) >= 3
    assert reached(10) == len(clients)
    assert [isinstance(packet, Pingresp) for packet in clients[-1].packets()].index(True) == 2  # as it came
    assert all(client.payloads() == [b"broadcast"] * 10 for client in clients[:-1])


def test_those_whom_a_commit_lets_go_on_are_read_in_turns() -> None:
    """A thousand publishers with 64 KiB each that was read before were several seconds in one go."""
    lab = Lab(queue_messages_max=10**6, queue_bytes_max=1 << 30)
    away = lab.connect("away", session_expiry=1000)
    away.subscribe("t", 1)
    away.drop()
    senders = [lab.connect(f"s{n}", 4) for n in range(3 * RESUMED_MAX)]
    lab.hold = True
    count = RECEIVE_MAXIMUM * 2
    data = b"".join(encode(Publish(b"t", b"x", 1, packet_id=n + 1), 4) for n in range(count))
    for sender in senders:
        sender.feed(data)
    assert all(sender.channel.paused for sender in senders)
    lab.one_turn = True
    first = lab.core.take()
    assert first is not None
    lab.journal.commit(first)
    lab.core.committed()
    lab.core.flush()
    assert sum(not sender.channel.tail for sender in senders) == RESUMED_MAX
    lab.one_turn = lab.hold = False
    lab.flush()
    assert lab.core.log.messages == len(senders) * count


def test_a_connection_that_closes_is_not_waited_for() -> None:
    lab, clients = lab_with(FLUSHED_MAX * 2)
    lab.connect("p", 4).publish("t", b"x")
    clients[-1].drop()
    clients[-2].disconnect()
    turns(lab)
    assert all(client.payloads() == [b"x"] for client in clients[:-2])
    assert lab.core.counters.unexpected_errors == 0


def test_new_topics_that_match_many_filters() -> None:
    """A route that is made for one message costs what it finds."""
    lab = Lab()
    for n in range(20):
        client = lab.connect(f"deep{n}")
        client.send(Subscribe(1, [Request(f"{'+/' * k}a/{'+/' * (10 - k)}#") for k in range(10)]))
    sender = lab.connect("p")
    lab.one_turn = True
    before = lab.core.work
    sender.feed(b"".join(encode(Publish(b"a/" * 12 + b"%d" % n, b""), 5) for n in range(500)))
    assert lab.core.work - before < MOST
    assert turns(lab) > 3
    assert lab.core.counters.messages_received == 500


def test_wills_of_many_at_once() -> None:
    """A thousand clients that go at the same time publish their wills one after the other."""
    lab, clients = lab_with(100)
    leaving = [lab.connect(f"w{n}", will=Will(b"t", b"%d" % n)) for n in range(200)]
    before = lab.core.work
    for client in leaving:
        client.channel.close()
    lab.flush()
    assert lab.core.work - before < MOST
    assert 0 < len(clients[0].messages()) <= TURN_WORK_MAX // (100 * DELIVERY_WORK) + 1
    turns(lab)
    assert lab.core.counters.wills_published == 200
    assert all(len(client.messages()) == 200 for client in clients[1:])


def test_large_messages_are_more_work() -> None:
    """The kernel copies them for each receiver."""
    lab, clients = lab_with(100)
    sender = lab.connect("p", 4)
    sender.publish("t")
    sender.feed(encode(Publish(b"t", bytes(400_000)), 4) * 10)
    assert len(clients[0].messages()) <= 4
    turns(lab)
    assert len(clients[1].messages()) == 11


def test_clients_that_connect_wait_when_much_is_done() -> None:
    lab, _ = lab_with(0)
    lab.core.work = lab.core.work_until + 1
    client = lab.client()
    client.channel.feed(bytes.fromhex("101000044d51545405020000000003") + b"abc")
    assert client.channel.session is None
    assert client.channel.paused
    turns(lab)
    assert isinstance(client.next(), Connack)
    assert not client.channel.paused


def test_who_asks_for_little_does_not_wait() -> None:
    """Not even when the others have used up the whole turn."""
    lab, clients = lab_with(1)
    sender = lab.connect("p")
    lab.core.work = lab.core.work_until + 1
    sender.channel.feed(encode(Publish(b"t", b"x", retain=True), 5) * 3 + b"\xc0\0")
    assert not sender.channel.paused
    sender.channel.feed(b"\xc0\0" * OWN_WORK_MIN)
    assert sender.channel.paused
    turns(lab)
    assert len(clients[0].messages()) == 3
    assert sender.packets() == [Pingresp()] * (OWN_WORK_MIN + 1)


def test_what_others_made_us_do_meanwhile_is_not_ones_own() -> None:
    """Whose packet is the last that is counted in a round, and the first again in a later one."""
    lab, _ = lab_with(0)
    client = lab.connect("p")
    for _ in range(3):
        client.channel.feed(b"\xc0\0")
        lab.core.work += 10 * OWN_WORK_MIN  # sessions that are resumed, say
        lab.core.flush()
        lab.core.work = lab.core.work_until + 1
    client.channel.feed(b"\xc0\0")
    assert not client.channel.paused


def test_who_leaves_while_it_rests() -> None:
    lab, _ = lab_with(0)
    client = lab.connect()
    client.feed(b"\xc0\0" * TURN_WORK_MAX)
    assert client.channel in lab.core.resting
    client.drop()
    turns(lab)
    assert not lab.core.resting
    assert client.closed


def test_a_bug_in_a_turn_costs_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    lab, _ = lab_with(0)
    client, other = lab.connect(), lab.connect("o")

    def broken(_: object) -> None:
        raise RuntimeError("a bug")

    lab.core.rest(client.session, client.channel)
    lab.core.rest(other.channel, other.channel)
    monkeypatch.setattr(Session, "go_on", broken)
    turns(lab)
    assert client.closed
    assert not other.closed
    assert lab.core.counters.unexpected_errors == 1
