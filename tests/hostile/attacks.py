"""What hostile clients do, and what the others are promised meanwhile."""

import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from hostile.crowd import Crowd, Peer
from hostile.packets import connect, header, publish, subscribe, unsubscribe
from hostile.target import Target

Do = Callable[["Scene"], None]


@dataclass(frozen=True)
class Attack:
    """One attack. `latency_ms` and `memory_mib`: p99 of an ordinary message, and growth, on a machine that is not busy.

    counts: counters that must have gone up, by one at least.
    """

    name: str
    does: str
    run: Do
    latency_ms: int
    memory_mib: int
    counts: tuple[str, ...]


ATTACKS: list[Attack] = []


def attack(latency_ms: int = 200, memory_mib: int = 64, counts: tuple[str, ...] = ()) -> Callable[[Do], Do]:
    """Put a function into the table; what it does is its docstring."""

    def register(function: Do) -> Do:
        does = " ".join((function.__doc__ or "").split())
        ATTACKS.append(Attack(function.__name__, does, function, latency_ms, memory_mib, counts))
        return function

    return register


@dataclass
class Scene:
    """Where an attack happens. `scale` is the part of the numbers in its description that it is done with."""

    target: Target
    crowd: Crowd
    seconds: float
    scale: float = 1.0

    def some(self, number: int) -> int:
        return max(2, int(number * self.scale))

    def go(self, until: Callable[[], bool] | None = None, *, every_s: float = 0.0) -> None:
        self.crowd.run(self.seconds, until, every_s=every_s)

    def strangers(self, number: int, say: bytes = b"", *, tls: bool = False, drip: int = 0) -> list[Peer]:
        """Connections that say this, whatever it is."""
        peers = [Peer(say, drip=drip) for _ in range(self.some(number))]
        self.crowd.open(self.target.tls_port if tls else self.target.port, peers)
        return peers

    def members(
        self,
        number: int,
        *more: bytes,
        prefix: bytes = b"a",
        version: int = 4,
        clean: bool = True,
        reads: bool = True,
        wills: Callable[[int], tuple[bytes, bytes, int, bool]] | None = None,
    ) -> list[Peer]:
        """Clients that were let in and have said `more`, one after the other and answered; those who do not read stop
        then, and their kernel takes little."""
        peers = [
            Peer(connect(prefix + b"%d" % n, version, clean=clean, will=wills(n) if wills else None))
            for n in range(number)
        ]
        for at in range(0, number, 1000):
            part = peers[at : at + 1000]
            self.crowd.open(self.target.port, part, receive_bytes=0 if reads else 4096)
            self.crowd.run(20, lambda part=part: all(peer.got_bytes >= 4 for peer in part))
            for packet in more:
                before = {peer: peer.got_bytes for peer in part}
                for peer in part:
                    self.crowd.feed(peer, packet)
                self.crowd.run(20, lambda before=before: all(p.got_bytes > got for p, got in before.items()))
        for peer in peers:
            assert not peer.closed, bytes(peer.got)
            if not reads:
                self.crowd.deafen(peer)
        return peers

    def storm(self, number: int, make: Callable[[int], Peer], *, tls: bool = False, answer: int = 4) -> None:
        """Clients that come, get an answer of so many bytes, and go; `number` at a time."""
        crowd, end, count = self.crowd, time.monotonic() + self.seconds, 0
        waiting: list[Peer] = []
        while time.monotonic() < end:
            new = [make(n) for n in range(count, count + self.some(number) - len(waiting))]
            count += len(new)
            crowd.open(self.target.tls_port if tls else self.target.port, new)
            crowd.run(0.005)
            waiting += new
            for peer in waiting:
                if peer.got_bytes >= answer:
                    crowd.drop(peer)
            waiting = [peer for peer in waiting if not peer.closed]

    def fill(self, packets: Iterator[bytes]) -> None:
        """Have all of this done."""
        (filler,) = self.members(1, prefix=b"filler")
        self.crowd.feed(filler, b"".join(packets) + b"\xc0\0")
        self.crowd.run(60, lambda: filler.got_bytes >= 6)
        self.crowd.drop(filler)


def _client_hello() -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    out = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost").do_handshake()
    return out.read()


HELLO = _client_hello()
PING = b"\xc0\0"
SLASHES = b"/" * 60_000
FLOOD = 20_000  # packets that are sent over and over


# -- connections that say nothing, or too slowly -----------------------------------------------------------------------


@attack()
def half_open(scene: Scene) -> None:
    """3,000 connections that say nothing"""
    scene.strangers(3000)
    scene.go()


@attack()
def half_open_tls(scene: Scene) -> None:
    """3,000 connections to the TLS port that say nothing"""
    scene.strangers(3000, tls=True)
    scene.go()


@attack()
def connect_drip(scene: Scene) -> None:
    """1,000 CONNECTs, a byte at a time"""
    scene.strangers(1000, connect(b"x" * 200), drip=1)
    scene.go(every_s=0.02)


@attack()
def hello_drip(scene: Scene) -> None:
    """500 TLS handshakes, a byte at a time"""
    scene.strangers(500, HELLO, tls=True, drip=1)
    scene.go(every_s=0.02)


@attack()
def publish_drip(scene: Scene) -> None:
    """200 PUBLISHes of 900 KB, a byte at a time"""
    for peer in scene.members(scene.some(200)):
        peer.drip = 1
        scene.crowd.feed(peer, publish(b"t", bytes(900_000)))
    scene.go(every_s=0.005)


@attack(memory_mib=192, counts=("packets_unfinished",))
def unfinished(scene: Scene) -> None:
    """400 PUBLISHes of 1 MiB without their last byte"""
    peers = scene.members(max(160, scene.some(400)))
    for peer in peers:
        scene.crowd.feed(peer, publish(b"t", bytes((1 << 20) - 20))[:-1])
    scene.crowd.run(10, lambda: scene.target.counters["packets_unfinished"] > 0)


@attack(memory_mib=192)
def unfinished_connects(scene: Scene) -> None:
    """3,000 CONNECTs of 64 KiB without their last byte"""
    peers = scene.strangers(3000, connect(b"c", will=(b"w", bytes(65_000), 0, False))[:-1])
    scene.crowd.run(10, lambda: all(peer.closed or not peer.say for peer in peers))


@attack(counts=("protocol_errors",))
def huge(scene: Scene) -> None:
    """1,000 packets of 256 MiB announced, half of them before anybody is known"""
    endless = (1 << 28) - 1
    first = scene.strangers(500, header(0x10, endless))
    second = scene.members(scene.some(500), version=5)
    for peer in second:
        scene.crowd.feed(peer, header(0x30, endless))
    scene.crowd.run(10, lambda: not scene.crowd.peers)
    assert all(peer.got == b"" for peer in first)
    assert all(peer.got.endswith(b"\xe0\x02\x95\x00") or peer.got.endswith(b"\xe0\x01\x95") for peer in second)


# -- clients that do not read ------------------------------------------------------------------------------------------


def _not_read(scene: Scene, qos: int, size: int) -> None:
    scene.members(scene.some(1000), subscribe([b"deaf"], qos), reads=False)
    (sender,) = scene.members(1, prefix=b"sender")
    ids = range(1, 1001)
    packets = [publish(b"deaf", bytes(size), qos, packet_id=id) for id in ids]
    if qos == 2:
        packets = [packet + b"\x62\x02" + struct.pack(">H", id) for packet, id in zip(packets, ids, strict=True)]
    scene.crowd.flood(sender, b"".join(packets[: max(20, 2_000_000 // (size + 1))]))
    scene.go()


@attack(latency_ms=500, memory_mib=192)
def deaf_large(scene: Scene) -> None:
    """1,000 subscribers that do not read, messages of 60 KB at QoS 0"""
    _not_read(scene, 0, 60_000)


@attack()
def deaf_small(scene: Scene) -> None:
    """1,000 subscribers that do not read, messages of a byte at QoS 0"""
    _not_read(scene, 0, 1)


@attack(memory_mib=192)
def deaf_qos1(scene: Scene) -> None:
    """1,000 subscribers that do not read, messages of 10 bytes at QoS 1"""
    _not_read(scene, 1, 10)


@attack(latency_ms=400, memory_mib=192)
def deaf_qos2(scene: Scene) -> None:
    """1,000 subscribers that do not read, messages of 10 KB at QoS 2"""
    _not_read(scene, 2, 10_000)


@attack(latency_ms=400, memory_mib=256)
def sips(scene: Scene) -> None:
    """1,000 subscribers that read a little now and then, messages of 60 KB"""
    peers = scene.members(scene.some(1000), subscribe([b"sip"]), reads=False)
    (sender,) = scene.members(1, prefix=b"sender")
    scene.crowd.flood(sender, publish(b"sip", bytes(60_000)))
    end = time.monotonic() + scene.seconds
    while time.monotonic() < end:
        scene.crowd.run(0.1)
        for peer in peers:
            with suppress(OSError):
                peer.sock.recv(100_000)


@attack()
def pings_deaf(scene: Scene) -> None:
    """200 clients that send PINGREQ and do not read"""
    for peer in scene.members(scene.some(200), reads=False):
        scene.crowd.flood(peer, PING * FLOOD)
    scene.go()


@attack(memory_mib=128)
def unacknowledged(scene: Scene) -> None:
    """100 subscribers at QoS 1 that never acknowledge"""
    scene.members(scene.some(100), subscribe([b"w"], 1))
    (sender,) = scene.members(1, prefix=b"sender")
    scene.crowd.flood(sender, b"".join(publish(b"w", b"", 1, packet_id=id) for id in range(1, 65_536)))
    scene.go()


@attack(counts=("protocol_errors",))
def unreleased(scene: Scene) -> None:
    """100 publishers at QoS 2 that release nothing"""
    peers = scene.members(scene.some(100), version=5)
    for peer in peers:
        scene.crowd.feed(peer, b"".join(publish(b"t", b"", 2, packet_id=id, properties=b"") for id in range(1, 2000)))
    scene.crowd.run(10, lambda: not any(peer in scene.crowd.peers.values() for peer in peers))
    assert not scene.crowd.peers  # 0x93 or, before it was read, the end


# -- topics and filters ------------------------------------------------------------------------------------------------


@attack(latency_ms=500, memory_mib=192, counts=("protocol_errors",))
def many_levels(scene: Scene) -> None:
    """300 topics, filters, wills of 60,000 levels each"""
    crowd = scene.crowd
    publishers = scene.members(scene.some(300), version=5)
    subscribers = scene.members(scene.some(300), version=5, prefix=b"b")
    wills = scene.strangers(300, connect(b"w", will=(SLASHES, b"", 0, False)))
    for peer in publishers:
        crowd.feed(peer, publish(SLASHES, properties=b""))
    for peer in subscribers:
        crowd.feed(peer, subscribe([SLASHES] * 2, v5=True))
    crowd.run(
        10, lambda: all(p.closed for p in (*publishers, *wills)) and all(p.got.endswith(b"\x8f") for p in subscribers)
    )
    assert all(b"\x90" in peer.got[-4:] for peer in publishers)
    assert all(peer.got.endswith(b"\x8f" * 2) for peer in subscribers)
    assert all(peer.closed for peer in wills)


@attack(memory_mib=192, counts=("protocol_errors",))
def too_many_filters(scene: Scene) -> None:
    """200 SUBSCRIBEs with 200,000 filters each"""
    for peer in scene.members(scene.some(200)):
        scene.crowd.feed(peer, subscribe([b"a"] * 200_000))
    scene.crowd.run(10, lambda: not scene.crowd.peers)
    assert not scene.crowd.peers


@attack(latency_ms=400, counts=("subscriptions_refused",))
def filters(scene: Scene) -> None:
    """20 clients that subscribe to 1,000 new filters, over and over"""
    packets = [subscribe([b"f/%d/%d" % (k, n) for n in range(1000)]) for k in range(10)]
    for peer in scene.members(scene.some(20)):
        scene.crowd.flood(peer, b"".join(packets))
    scene.go()


@attack()
def resubscribe(scene: Scene) -> None:
    """20 clients with 300 subscriptions that subscribe to one more and unsubscribe, over and over"""
    for peer in scene.members(scene.some(20), subscribe([b"f/%d" % n for n in range(300)])):
        scene.crowd.flood(peer, (subscribe([b"g"]) + unsubscribe([b"g"])) * 2500)
    scene.go()


@attack(latency_ms=300, memory_mib=128)
def churn(scene: Scene) -> None:
    """5 clients that subscribe to # and unsubscribe, over and over, with 50,000 routes in the cache"""
    scene.fill(publish(b"route/%d/x" % n) for n in range(scene.some(50_000)))
    for peer in scene.members(scene.some(5)):
        scene.crowd.flood(peer, (subscribe([b"#"]) + unsubscribe([b"#"])) * 2000)
    scene.go()


@attack(latency_ms=400)
def deep_wildcards(scene: Scene) -> None:
    """20 clients with 1,000 filters of 15 levels + or a each, and a publisher whose topics are new and match all"""
    for k in range(scene.some(20)):
        bits = (format(n + 1000 * k, "015b") for n in range(1000))
        mine = [b"/".join(b"+" if bit == "1" else b"a" for bit in each) + b"/+" for each in bits]
        scene.members(1, subscribe(mine), prefix=b"deep%d-" % k)
    (sender,) = scene.members(1, prefix=b"sender")
    scene.crowd.flood(sender, b"".join(publish(b"a/" * 15 + b"%d" % n) for n in range(FLOOD)))
    scene.go()


@attack(memory_mib=128)
def new_topics(scene: Scene) -> None:
    """5 clients that publish to a new topic each time"""
    for k, peer in enumerate(scene.members(5)):
        scene.crowd.flood(peer, b"".join(publish(b"new/%d/%d" % (k, n)) for n in range(FLOOD * 3)))
    scene.go()


@attack(counts=("protocol_errors",))
def aliases(scene: Scene) -> None:
    """100 clients with 32 aliases for topics of 1 KB, and one more"""
    peers = scene.members(scene.some(100), version=5)
    for k, peer in enumerate(peers):
        topic = b"%d/" % k + b"x" * 1000
        numbers = [struct.pack(">H", n) for n in range(1, 34)]
        scene.crowd.feed(peer, b"".join(publish(topic + n.hex().encode(), properties=b"\x23" + n) for n in numbers))
    scene.crowd.run(10, lambda: not scene.crowd.peers)
    assert all(b"\x94" in peer.got[-4:] for peer in peers)


# -- floods ------------------------------------------------------------------------------------------------------------


@attack(latency_ms=300)
def flood_qos0(scene: Scene) -> None:
    """200 clients that publish as fast as they can, QoS 0"""
    for peer in scene.members(scene.some(200)):
        scene.crowd.flood(peer, publish(b"t") * FLOOD)
    scene.go()


@attack(latency_ms=400)
def flood_qos1(scene: Scene) -> None:
    """200 clients that publish as fast as they can, QoS 1"""
    for peer in scene.members(scene.some(200)):
        scene.crowd.flood(peer, publish(b"t", b"", 1, packet_id=7) * FLOOD)
    scene.go()


@attack(latency_ms=400)
def flood_qos2(scene: Scene) -> None:
    """200 clients that publish as fast as they can, QoS 2"""
    for peer in scene.members(scene.some(200)):
        scene.crowd.flood(peer, (publish(b"t", b"", 2, packet_id=7) + b"\x62\2\0\7") * FLOOD)
    scene.go()


@attack()
def flood_wide(scene: Scene) -> None:
    """1 client that publishes as fast as it can to 1,000 subscribers"""
    scene.members(scene.some(1000), subscribe([b"w"]))
    (sender,) = scene.members(1, prefix=b"sender")
    scene.crowd.flood(sender, publish(b"w") * FLOOD)
    scene.go()


@attack(latency_ms=400, memory_mib=128)
def everything(scene: Scene) -> None:
    """1,000 subscribers to #, who get the ordinary messages too, and 50 clients that publish as fast as they can"""
    scene.members(scene.some(1000), subscribe([b"#"]))
    for k, peer in enumerate(scene.members(scene.some(50), prefix=b"sender")):
        scene.crowd.flood(peer, publish(b"e/%d" % k, bytes(100)) * 1000)
    scene.go()


@attack(memory_mib=384)
def share(scene: Scene) -> None:
    """a shared subscription of 3,000 that do not read, and a client that publishes as fast as it can"""
    scene.members(scene.some(3000), subscribe([b"$share/g/s"], 1), reads=False)
    (sender,) = scene.members(1, prefix=b"sender")
    scene.crowd.flood(sender, publish(b"s", bytes(1000), 1, packet_id=7) * 1000)
    scene.go()


@attack()
def pings(scene: Scene) -> None:
    """50 clients that send PINGREQ as fast as they can"""
    for peer in scene.members(scene.some(50)):
        scene.crowd.flood(peer, PING * FLOOD)
    scene.go()


@attack()
def acks(scene: Scene) -> None:
    """50 clients that acknowledge what they were never sent"""
    kinds = (0x40, 0x50, 0x62, 0x70)
    once = b"".join(bytes((first, 2)) + struct.pack(">H", id) for id in range(1, 5000) for first in kinds)
    for peer in scene.members(scene.some(50)):
        scene.crowd.flood(peer, once)
    scene.go()


# -- coming and going --------------------------------------------------------------------------------------------------


@attack()
def connects(scene: Scene) -> None:
    """200 clients at a time connect and go"""
    scene.storm(200, lambda n: Peer(connect(b"c%d" % n)))


@attack(counts=("handshakes_failed",))
def hellos(scene: Scene) -> None:
    """200 clients at a time say ClientHello, have our side of the handshake done, and go"""
    scene.storm(200, lambda _: Peer(HELLO), tls=True)


@attack(counts=("sessions_taken_over",))
def takeover(scene: Scene) -> None:
    """200 clients at a time take over one lasting session with 1,000 wildcards"""
    scene.members(1, subscribe([b"x/+/%d" % n for n in range(1000)]), clean=False)
    scene.storm(200, lambda _: Peer(connect(b"a0", clean=False)))


@attack()
def sessions(scene: Scene) -> None:
    """200 clients at a time make a lasting session with a subscription, and go"""
    scene.storm(200, lambda n: Peer(connect(b"s%d" % n, clean=False) + subscribe([b"s/%d" % n])), answer=9)


@attack(latency_ms=300, memory_mib=256, counts=("wills_published",))
def wills(scene: Scene) -> None:
    """1,000 clients with wills of 60 KB go at once, and 1,000 subscribers do not read them"""
    scene.members(scene.some(1000), subscribe([b"will"]), reads=False)
    for peer in scene.members(scene.some(1000), prefix=b"w", wills=lambda _: (b"will", bytes(60_000), 0, False)):
        scene.crowd.drop(peer)
    scene.go()


@attack(memory_mib=256, counts=("connections_refused",))
def passwords(scene: Scene) -> None:
    """60 clients try passwords"""
    peers = scene.strangers(60, connect(b"c", username=b"acme/server/crm", password=b"wrong"))
    scene.crowd.run(20, lambda: any(peer.got for peer in peers))
    scene.go(lambda: not scene.crowd.peers)


@attack(memory_mib=128, counts=("connections_refused",))
def tokens(scene: Scene) -> None:
    """200 clients at a time try tokens"""
    scene.storm(200, lambda n: Peer(connect(b"c%d" % n, username=b"acme", password=b"pbt_wrong%d" % n)))


# -- what is no MQTT ---------------------------------------------------------------------------------------------------


@attack(counts=("handshakes_failed",))
def garbage_on_tls(scene: Scene) -> None:
    """200 clients at a time send garbage, or plain MQTT, to the TLS port"""
    scene.storm(200, lambda n: Peer(bytes(range(200)) if n % 2 else connect(b"x")), tls=True)


@attack(counts=("protocol_errors",))
def garbage_on_plain(scene: Scene) -> None:
    """200 clients at a time send HTTP, or TLS, to the plain port"""
    scene.storm(200, lambda n: Peer(b"GET / HTTP/1.1\r\n\r\n" if n % 2 else HELLO))


# -- retained messages: last, since they stay --------------------------------------------------------------------------


@attack(memory_mib=192, counts=("retained_refused",))
def retained_many(scene: Scene) -> None:
    """2 clients that retain on a new topic each time, QoS 0 and 1"""
    zero, one = scene.members(2, version=5)
    names = [b"m%d/%d" % (n % 2, n) for n in range(FLOOD * 4)]
    scene.crowd.flood(zero, b"".join(publish(name, b"x", retain=True, properties=b"") for name in names))
    scene.crowd.flood(
        one,
        b"".join(
            publish(b"n" + name, b"x", 1, packet_id=n % 1000 + 1, retain=True, properties=b"")
            for n, name in enumerate(names)
        ),
    )
    scene.crowd.run(30, lambda: scene.target.counters["retained_refused"] > 0)


@attack(latency_ms=400, memory_mib=128)
def retained_walks(scene: Scene) -> None:
    """20 clients that look for all of 50,000 retained messages, over and over"""
    scene.fill(publish(b"%c/%d" % (b"rs"[n % 2], n), b"x", retain=True) for n in range(scene.some(50_000)))
    packet = subscribe([b"+/+/nothing", b"r/#", b"+/+/+", b"#"])
    for peer in scene.members(scene.some(20)):
        scene.crowd.flood(peer, packet * 100)
    scene.go()


@attack(latency_ms=400, memory_mib=768)
def retained_large(scene: Scene) -> None:
    """5 clients that retain 100 KB on a new topic each time"""
    for k, peer in enumerate(scene.members(scene.some(5), version=5)):
        scene.crowd.flood(
            peer, b"".join(publish(b"b%d/%d" % (k, n), bytes(100_000), retain=True, properties=b"") for n in range(500))
        )
    scene.go()


@contextmanager
def attacking(target: Target, seconds: float, scale: float) -> Iterator[Scene]:
    """The clients of an attack, for as long as it lasts; afterwards they are gone, and the broker has noticed."""
    with Crowd() as crowd:
        yield Scene(target, crowd, seconds, scale)
    target.alone()
