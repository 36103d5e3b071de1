"""What is measured: each scenario plays one thing that a broker does all day, and says for what its figures are."""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from costs.counting import Counts
from costs.stage import GOODBYE, PING, Client, Stage, answers, publish

from broker.wire.packets import Request, Subscribe, Unsubscribe

TOPIC: Final = "acme/user/ada"
MANY: Final = 100
TOGETHER: Final = (range(1, MANY + 1),)  # packet ids: all in one read
SINGLY: Final = tuple(range(n, n + 1) for n in range(1, 21))  # one in each

Play = Callable[[Stage], Counts]


class Scenario(msgspec.Struct, frozen=True):
    """For what the figures are, and what is played on a broker of its own."""

    unit: str
    play: Play
    memory: bool = False  # it looks at what is kept


SCENARIOS: Final[dict[str, Scenario]] = {}


def scenario(name: str, unit: str, *, memory: bool = False) -> Callable[[Play], Play]:
    """The function plays this scenario."""

    def add(play: Play) -> Play:
        SCENARIOS[name] = Scenario(unit, play, memory)
        return play

    return add


def exchange(
    stage: Stage,
    publishers: Sequence[Client],
    receivers: Sequence[Client],
    qos: int,
    pieces: Sequence[range] = TOGETHER,
) -> None:
    """Publish, a piece in each read, and take part in all handshakes until both sides are done."""
    for ids in pieces:
        count = len(ids)
        for publisher in publishers:
            publisher.send(publish(TOPIC, qos=qos, ids=ids))
        _get(stage, receivers, count * len(publishers), (0, 0x40, 0x50)[qos])
        if qos:
            _get(stage, publishers, count, 0x62 if qos == 2 else 0)
        if qos == 2:
            _get(stage, publishers, count, 0)
            _get(stage, receivers, count * len(publishers), 0x70)
        stage.heard()


def _get(stage: Stage, clients: Sequence[Client], count: int, answer: int) -> None:
    """Each client gets so many packets, and sends an answer to each if there is one."""
    stage.until(lambda: all(client.has(count) for client in clients))
    for client in clients:
        packets = client.take()
        assert len(packets) == count, packets
        if answer:
            client.send(answers(answer, packets))


# -- from one to one ---------------------------------------------------------------------------------------------------


def _pairs() -> None:
    for qos in (0, 1, 2):
        for how, pieces in (("together", TOGETHER), ("singly", SINGLY)):

            @scenario(f"pair QoS {qos} {how}", "message")
            def play(stage: Stage, qos: int = qos, pieces: Sequence[range] = pieces) -> Counts:
                receiver, publisher = stage.one("receiver", TOPIC, qos=qos), stage.one("publisher")
                units = sum(map(len, pieces))
                return stage.measure(lambda: exchange(stage, [publisher], [receiver], qos, pieces), units)


def _pairs_tls() -> None:
    for how, pieces in (("together", TOGETHER), ("singly", SINGLY)):

        @scenario(f"pair QoS 0 TLS {how}", "message")
        def play(stage: Stage, pieces: Sequence[range] = pieces) -> Counts:
            tls = stage.broker.authority.client_context()
            (receiver,), (publisher,) = stage.connect("receiver", TOPIC, tls=tls), stage.connect("publisher", tls=tls)
            units = sum(map(len, pieces))
            return stage.measure(lambda: exchange(stage, [publisher], [receiver], 0, pieces), units)


_pairs()
_pairs_tls()


# -- to many, from many ------------------------------------------------------------------------------------------------


def _fans() -> None:
    for qos in (0, 1):
        for how, pieces in (("together", (range(1, 11),)), ("singly", (range(1, 2),))):

            @scenario(f"to 100 QoS {qos} {how}", "recipient")
            def play(stage: Stage, qos: int = qos, pieces: Sequence[range] = pieces) -> Counts:
                receivers, publisher = stage.connect("receiver", TOPIC, qos=qos, count=MANY), stage.one("publisher")
                units = sum(map(len, pieces)) * MANY
                return stage.measure(lambda: exchange(stage, [publisher], receivers, qos, pieces), units)


_fans()


@scenario("from 100 QoS 0", "message")
def _from_many(stage: Stage) -> Counts:
    publishers, receiver = stage.connect("publisher", count=MANY), stage.one("receiver", TOPIC)
    return stage.measure(lambda: exchange(stage, publishers, [receiver], 0, [range(1)]), MANY)


@scenario("from 100 QoS 1", "message")
def _from_many_once(stage: Stage) -> Counts:
    publishers, receiver = stage.connect("publisher", count=MANY), stage.one("receiver", TOPIC, qos=1)
    return stage.measure(lambda: exchange(stage, publishers, [receiver], 1, [range(1, 2)]), MANY)


# -- sessions that last ------------------------------------------------------------------------------------------------


@scenario("lasting pair QoS 1 together", "message")
def _lasting_pair(stage: Stage) -> Counts:
    receiver, publisher = stage.one("receiver", TOPIC, qos=1, lasting=True), stage.one("publisher")
    return stage.measure(lambda: exchange(stage, [publisher], [receiver], 1), MANY)


@scenario("lasting to 100 QoS 1 singly", "recipient")
def _lasting_fan(stage: Stage) -> Counts:
    receivers, publisher = stage.connect("receiver", TOPIC, qos=1, count=MANY, lasting=True), stage.one("publisher")
    return stage.measure(lambda: exchange(stage, [publisher], receivers, 1, [range(1, 2)]), MANY)


def _away() -> None:
    for count in (10, 1000):

        @scenario(f"away {count} QoS 1 together", "message")
        def play(stage: Stage, count: int = count) -> Counts:
            stage.away("receiver", TOPIC, count=count)
            publisher = stage.one("publisher")
            return stage.measure(lambda: exchange(stage, [publisher], [], 1), MANY)


_away()


@scenario("back to 100 waiting QoS 1", "message")
def _back(stage: Stage) -> Counts:
    stage.away("receiver", TOPIC, count=1)
    publisher = stage.one("publisher")
    backs = iter(stage.clients(10))

    def play() -> None:
        with stage.uncounted():
            exchange(stage, [publisher], [], 1)
            stage.settle()
        client = next(backs)
        client.open()
        client.send(stage.hello("receiver0000", lasting=True))
        packets = client.expect(1 + MANY)
        client.send(answers(0x40, packets[1:]))
        stage.heard()
        client.send(GOODBYE)
        stage.until(client.gone)

    return stage.measure(play, MANY)


# -- coming, going, staying --------------------------------------------------------------------------------------------


def _come_and_go(stage: Stage, hellos: Sequence[bytes], clients: Sequence[Client]) -> None:
    for client, hello in zip(clients, hellos, strict=True):
        client.open()
        client.send(hello)
        client.admitted()
        client.send(GOODBYE)
        stage.until(client.gone)
        stage.settle()


def _visits() -> None:
    for how in ("anonymous", "token", "certificate", "lasting, 3 subscriptions"):

        @scenario(f"connect {how}", "connect and disconnect")
        def play(stage: Stage, how: str = how) -> Counts:
            tls = stage.device_context() if how == "certificate" else None
            lasting = how.startswith("lasting")
            if lasting:
                stage.away("visitor", TOPIC, "acme/topic/news", "acme/store/milano", count=1)
            visitors = iter(stage.clients(100, tls))
            hello = stage.hello("visitor0000", lasting=lasting, anonymous=how in ("anonymous", "certificate"))
            each = 10

            def visit() -> None:
                _come_and_go(stage, [hello] * each, [next(visitors) for _ in range(each)])

            return stage.measure(visit, each)


_visits()


@scenario("subscribe and unsubscribe", "pair of them")
def _subscribe(stage: Stage) -> Counts:
    client = stage.one("client")
    pairs = [(Subscribe(1, [Request(f"acme/user/u{n}", 1)]), Unsubscribe(2, [f"acme/user/u{n}"])) for n in range(20)]

    def play() -> None:
        for subscribe, unsubscribe in pairs:
            client.send(subscribe)
            client.expect()
            client.send(unsubscribe)
            client.expect()

    return stage.measure(play, len(pairs))


@scenario("ping", "ping")
def _ping(stage: Stage) -> Counts:
    client = stage.one("client")

    def play() -> None:
        for _ in SINGLY:
            client.send(PING)
            client.expect()

    return stage.measure(play, len(SINGLY))


def _idle() -> None:
    for count in (10, 500):

        @scenario(f"tick, {count} connections idle", "tick")
        def play(stage: Stage, count: int = count) -> Counts:
            stage.connect("client", TOPIC, count=count)
            return stage.measure(lambda: stage.ticks(20), 20)


_idle()


# -- what is kept ------------------------------------------------------------------------------------------------------

KEPT: Final = 64


@scenario("kept: idle connection", "connection", memory=True)
def _connections(stage: Stage) -> Counts:
    clients = stage.clients(2 * KEPT)

    def come(first: int, last: int) -> None:
        stage.enter(clients[first:last], "client", TOPIC, first=first)

    return stage.grown(come, KEPT)


@scenario("kept: session away", "session", memory=True)
def _sessions(stage: Stage) -> Counts:
    clients = stage.clients(2 * KEPT)

    def come_and_go(first: int, last: int) -> None:
        for n in range(first, last):  # so that each commit is as large: who writes holds on to the last one
            stage.enter(clients[n : n + 1], "client", TOPIC, qos=1, first=n, lasting=True)
            stage.leave(clients[n : n + 1])
            stage.settle()

    return stage.grown(come_and_go, KEPT)


@scenario("kept: message waiting", "message", memory=True)
def _messages(stage: Stage) -> Counts:
    stage.away("receiver", TOPIC, count=1)
    publisher = stage.one("publisher")

    def wait(first: int, last: int) -> None:
        exchange(stage, [publisher], [], 1, [range(first + 1, last + 1)])

    return stage.grown(wait, KEPT)


@scenario("kept: subscription", "subscription", memory=True)
def _subscriptions(stage: Stage) -> Counts:
    client = stage.one("client")

    def subscribe(first: int, last: int) -> None:
        client.send(Subscribe(1, [Request(f"acme/user/u{n:04}", 1) for n in range(first, last)]))
        client.expect()

    return stage.grown(subscribe, KEPT)


@scenario("kept: retained message", "message", memory=True)
def _retained(stage: Stage) -> Counts:
    publisher = stage.one("publisher")

    def retain(first: int, last: int) -> None:
        for n in range(first, last):
            publisher.send(publish(f"acme/user/u{n:04}", retain=True))
        stage.heard()

    return stage.grown(retain, KEPT)
