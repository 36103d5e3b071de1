"""The whole server side of MQTT without a socket: channels that collect what they flush, on a clock set by hand."""

from collections.abc import Callable
from typing import Any

from support.memory_journal import MemoryJournal

from broker.errors import Failed, Refused
from broker.identity import ANONYMOUS, Identity
from broker.message import Message
from broker.session import connect
from broker.session.bounds import Limits
from broker.session.channel import Channel
from broker.session.core import Core
from broker.session.session import Session
from broker.wire.decode import decode, split
from broker.wire.encode import encode
from broker.wire.packets import (
    Connack,
    Connect,
    Disconnect,
    Packet,
    Properties,
    Puback,
    Publish,
    Request,
    Suback,
    Subscribe,
    Will,
)

START_S = 1000.0
WALL_S = 1.7e9  # from the clock of a lab to the wall clock
Admit = Callable[[Connect], Identity | Refused | None]


class Loopback(Channel):
    """A channel whose peer is the test. `raw` is what went out; while `stuck`, the socket takes nothing more."""

    __slots__ = ("der", "paused", "pending", "raw", "shut_at", "stuck")

    def __init__(self, core: Core) -> None:
        super().__init__(core)
        self.raw = bytearray()
        self.pending = b""
        self.stuck = self.paused = False
        self.shut_at = 0.0
        self.der: bytes | None = None

    def flush(self) -> None:
        if not self.out or self.pending:
            return
        data = b"".join(self.out)
        self.out.clear()
        if self.stuck:
            self.pending = data
            if not self.closed:
                self.block(len(data))
        else:
            self.raw += data

    def unstick(self) -> None:
        """The socket takes all that waits."""
        self.stuck = False
        if self.pending:
            self.raw += self.pending + b"".join(self.out)
            self.pending = b""
            self.out.clear()
            self.unblock()
        self.core.flush()

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        if self.held:
            return
        self.paused = False
        if self.tail and not self.closed:
            rest, self.tail = self.tail, b""
            self.feed(bytes(rest))

    def shut(self) -> None:
        assert not self.shut_at, "closed twice"
        self.out.clear()
        self.pending = b""
        self.shut_at = self.core.now

    @property
    def address(self) -> str:
        return "loopback"

    @property
    def certificate(self) -> bytes | None:
        return self.der


class Recorder:
    """A bridge that names what is published under `named`, and notes what was delivered."""

    def __init__(self) -> None:
        self.named = b""
        self.count = 0
        self.receipts: list[tuple[str, str]] = []
        self.arrived: Callable[[int], object] = lambda _: None

    def stamp(self, topic: bytes) -> str:
        if not self.named or not topic.startswith(self.named):
            return ""
        self.count += 1
        return f"m{self.count}"

    def delivered(self, session: Session, message: Message) -> None:
        self.receipts.append((session.client_id, message.id))
        self.arrived(message.seq)


class Lab:
    """A core, its clock and its clients. `admit` says who a CONNECT is; None leaves it open (`Client.decide`).

    What is to be written is committed at the end of each round, unless `hold` is set: then `commit` does it. Receivers
    who are online are not waited for, unless `commit_window_ms` says so. A lab made with the `journal` of another
    begins with what that had committed, as after a crash.
    """

    def __init__(
        self,
        *,
        admit: Admit = lambda _: ANONYMOUS,
        now: float = START_S,
        wall: float = 0.0,
        journal: MemoryJournal | None = None,
        **limits: Any,
    ) -> None:
        self.bridge = Recorder()
        self.journal = journal or MemoryJournal()
        self.hold = self.one_turn = False
        self.admit = admit
        self.logged: list[str] = []
        self.core = Core(
            now=now,
            wall=wall or now + WALL_S,
            admit=self._admit,
            random_id=lambda: f"auto-{len(self.core.sessions)}",
            bridge=self.bridge,
            log=lambda event, **_: self.logged.append(event),
            limits=Limits(**{"commit_window_ms": 0, **limits}),
        )
        self.journal.restore(self.core)

    def commit(self) -> None:
        """Write what is to be written, and read what is wanted, until nothing is."""
        core = self.core
        while core.to_write or core.wanted or (0 < core.window_closes() <= core.now):
            batch = core.take()
            if batch is not None:
                try:
                    self.journal.commit(batch)
                except Failed as error:
                    core.failed(error.message)
                    core.flush()
                    return
                core.committed()
            if core.wanted:
                sessions, seqs = core.next_wanted(100)
                core.fetched(sessions, self.journal.fetch(seqs))
            core.flush()

    def flush(self) -> None:
        """The end of a round, and all turns that it takes, unless `one_turn` is set."""
        self.core.flush()
        while self.core.resting and not self.one_turn:
            self.core.turn()
            self.core.flush()
        if not self.hold:
            self.commit()

    def crash(self, **limits: Any) -> "Lab":
        """The process is gone; a new one begins with what was committed."""
        return Lab(admit=self.admit, now=self.core.now, journal=self.journal, **limits)

    def _admit(self, channel: Channel, packet: Connect) -> None:
        answer = self.admit(packet)
        if answer is None:
            channel.pause()
        elif isinstance(answer, Refused):
            connect.refused(channel, answer)
        else:
            connect.accepted(channel, answer)

    def advance(self, seconds: float) -> None:
        """Let time pass, a tick each half a second."""
        end = self.core.now + seconds
        while self.core.now < end:
            now = min(self.core.now + 0.5, end)
            self.core.tick(now)
            self.flush()

    def client(self, version: int = 5) -> "Client":
        """A connection that has not sent anything yet."""
        return Client(self, version)

    def connect(
        self,
        client_id: str = "c",
        version: int = 5,
        *,
        clean: bool = True,
        keep_alive: int = 60,
        will: Will | None = None,
        username: str | None = None,
        **properties: Any,
    ) -> "Client":
        """A client that has sent CONNECT; its answer is in `connack`."""
        client = self.client(version)
        packet = Connect(client_id, version, clean, keep_alive, username, None, will, Properties(**properties))
        client.send(packet)
        answer = client.packets()
        assert isinstance(answer[0], Connack), answer
        client.connack, client.early = answer[0], answer[1:]
        return client


class Client:
    """The far end of a loopback: sends packets, decodes what comes back. `early` came along with the CONNACK."""

    connack: Connack
    early: list[Packet]

    def __init__(self, lab: Lab, version: int) -> None:
        self.lab = lab
        self.core = lab.core
        self.version = version
        self.channel = Loopback(lab.core)
        self._id = 0
        self._read = 0

    # -- to the broker -----------------------------------------------------------------------------------------------

    def send(self, *packets: Packet) -> None:
        """Send packets in one piece, and let the round end."""
        self.feed(b"".join(encode(packet, self.version) for packet in packets))

    def feed(self, data: bytes) -> None:
        self.channel.feed(data)
        self.lab.flush()

    def decide(self, answer: Identity | Refused) -> None:
        """What comes of an admission that took its time."""
        if isinstance(answer, Refused):
            connect.refused(self.channel, answer)
        else:
            connect.accepted(self.channel, answer)
            self.channel.resume()
        self.lab.flush()

    def subscribe(
        self, filter: str, qos: int = 0, *, id: int = 0, no_local: bool = False, rap: bool = False, handling: int = 0
    ) -> int:
        """Subscribe and return the reason code; what is retained comes with the next `packets`."""
        properties = Properties(subscription_ids=[id] if id else [])
        self.send(Subscribe(self._next(), [Request(filter, qos, no_local, rap, handling)], properties))
        answer = self.next()
        assert isinstance(answer, Suback), answer
        assert len(answer.reasons) == 1
        return answer.reasons[0]

    def publish(
        self,
        topic: str,
        payload: bytes = b"x",
        qos: int = 0,
        *,
        retain: bool = False,
        id: int = 0,
        dup: bool = False,
        **properties: Any,
    ) -> int:
        """Publish; return the packet id."""
        id = (id or self._next()) if qos else 0
        self.send(Publish(topic.encode(), payload, qos, retain, dup, id, Properties(**properties)))
        return id

    def ack(self, *messages: Publish) -> None:
        """PUBACK."""
        self.send(*(Puback(m.packet_id) for m in messages))

    def disconnect(self, reason: int = 0, **properties: Any) -> None:
        """Say goodbye."""
        self.send(Disconnect(reason, Properties(**properties)))

    def drop(self) -> None:
        """The network connection breaks."""
        self.channel.close()
        self.lab.flush()

    def _next(self) -> int:
        self._id += 1
        return self._id

    # -- from the broker ---------------------------------------------------------------------------------------------

    @property
    def session(self) -> Session:
        assert self.channel.session is not None
        return self.channel.session

    @property
    def closed(self) -> bool:
        return self.channel.closed

    def next(self) -> Packet:
        """The next packet that came."""
        frame = split(self.channel.raw, self._read, 1 << 28)
        assert frame is not None, "nothing came"
        first, start, self._read = frame
        return decode(first, bytes(self.channel.raw[start : self._read]), self.version)

    def packets(self) -> list[Packet]:
        """All that came since the last time; nothing may be cut off."""
        found = []
        while self._read < len(self.channel.raw):
            found.append(self.next())
        return found

    def messages(self) -> list[Publish]:
        """All that came since the last time, which is PUBLISH and nothing else."""
        packets = self.packets()
        found = [packet for packet in packets if isinstance(packet, Publish)]
        assert len(found) == len(packets), packets
        return found

    def payloads(self) -> list[bytes]:
        """The payloads of all that came since the last time."""
        return [message.payload for message in self.messages()]

    def goodbye(self) -> int | None:
        """The reason of the DISCONNECT that came last before the connection was closed; None without one."""
        assert self.closed
        packets = self.packets()
        last = packets[-1] if packets else None
        return last.reason if isinstance(last, Disconnect) else None
