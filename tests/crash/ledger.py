"""What was said to whom, in one order of events, and what of it was wrong.

All clients of a chain live in one thread, so one count orders all that they saw: what one saw before another sent
something, the broker did before it got that.
"""

import math
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

# A report is to be read by a person.
_PROBLEMS_SHOWN = 4
_EVENTS_SHOWN = 40
_EVENTS_AROUND = 20_000

# Who notes what happens to the broker itself.
BROKER = "broker"


@dataclass(eq=False, slots=True)
class Message:
    """A message that a client publishes. `number` counts for each (publisher, topic, qos)."""

    publisher: str
    topic: str
    qos: int
    number: int
    payload: bytes
    retain: bool = False
    first_sent: int = 0  # the event; 0 = never
    sends: int = 0
    # How often the broker may take it for a new message: at QoS 1 each time that it was sent [MQTT-4.3.2-5], at QoS 2
    # when it was sent again after a crash, which may have taken what was not acknowledged.
    publications: int = 0
    crashes: int = 0  # that there had been when it was sent
    acknowledged: float = math.inf  # the event

    def __str__(self) -> str:
        return f"{self.topic} qos{self.qos} #{self.number}"


@dataclass(slots=True)
class _Event:
    at_s: float
    who: str
    what: str
    message: Message | None


@dataclass(slots=True)
class _Problem:
    event: int
    who: str
    what: str
    message: Message | None

    @property
    def kind(self) -> str:
        return self.what.partition(":")[0]


@dataclass
class Totals:
    """What a chain has seen, to show that there was something to see."""

    kills: int = 0
    kills_at_start: int = 0
    kills_with_unacknowledged: int = 0
    acknowledged: int = 0
    sent_again: int = 0
    arrivals: int = 0
    redeliveries: int = 0
    subscriptions_changed: int = 0
    retained_checked: int = 0

    def add(self, other: "Totals") -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def __str__(self) -> str:
        return ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in vars(self).items())


@dataclass
class Ledger:
    """The record of one chain. `crashes` counts what ends a life of the broker without its consent."""

    crashes: int = 0
    totals: Totals = field(default_factory=Totals)
    problems: list[_Problem] = field(default_factory=list)
    messages: dict[bytes, Message] = field(default_factory=dict)  # by payload
    retained: dict[str, list[Message]] = field(default_factory=dict)  # by topic, in the order published
    noted: Callable[[], None] = lambda: None  # called after each event
    _events: list[_Event] = field(default_factory=list)
    _numbers: dict[tuple[str, str, int], int] = field(default_factory=dict)
    _began_s: float = field(default_factory=time.monotonic)

    def note(self, who: str, what: str, message: Message | None = None) -> int:
        """Write down an event, and return its place in the order of all."""
        self._events.append(_Event(time.monotonic() - self._began_s, who, what, message))
        self.noted()
        return len(self._events)

    def wrong(self, who: str, what: str, message: Message | None = None) -> None:
        """Write down that something must not be. Of those that say the same before a colon the report shows one."""
        self.problems.append(_Problem(self.note(who, f"WRONG: {what}", message), who, what, message))

    # -- messages ------------------------------------------------------------------------------------------------------

    def make(self, publisher: str, topic: str, qos: int, padding: int = 0) -> Message:
        """The next message of a publisher on a topic; its payload says which it is."""
        number = self._numbers[publisher, topic, qos] = self._numbers.get((publisher, topic, qos), 0) + 1
        payload = f"{publisher} {topic} {qos} {number} ".encode()
        message = Message(publisher, topic, qos, number, payload + random.Random(payload).randbytes(padding))
        self.messages[message.payload] = message
        return message

    def make_retained(self, publisher: str, topic: str, qos: int, *, delete: bool) -> Message:
        """The next message that is to be retained, or that takes away what is."""
        message = self.make(publisher, topic, qos)
        message.retain = True
        if delete:
            del self.messages[message.payload]
            message.payload = b""
        self.retained.setdefault(topic, []).append(message)
        return message

    def sent(self, message: Message) -> None:
        """Its publisher sends it, perhaps again."""
        event = self.note(message.publisher, "sends again" if message.sends else "sends", message)
        self.totals.sent_again += message.sends > 0
        message.publications += message.qos == 1 or not message.sends or message.crashes != self.crashes
        message.crashes = self.crashes
        message.sends += 1
        message.first_sent = message.first_sent or event

    def acknowledged(self, message: Message) -> None:
        """Its publisher has got PUBACK or PUBREC for it."""
        self.totals.acknowledged += 1
        message.acknowledged = min(message.acknowledged, self.note(message.publisher, "has it acknowledged", message))

    def retained_now(self) -> dict[str, list[Message]]:
        """What a topic may have retained: the last that was acknowledged, or one sent after it. Empty: none of them."""
        found = {}
        for topic, history in self.retained.items():
            sent = [message for message in history if message.sends]
            acknowledged = [n for n, message in enumerate(sent) if message.acknowledged < math.inf]
            if acknowledged:
                found[topic] = sent[acknowledged[-1] :]
        return found

    def check_retained(self, found: dict[str, bytes]) -> None:
        """`found` is what somebody who has just subscribed was sent: payloads by topic."""
        for topic, messages in self.retained_now().items():
            self.totals.retained_checked += 1
            payload = found.get(topic, b"")
            if payload not in {message.payload for message in messages}:
                self.wrong("newcomer", f"retained, but not the last: {payload.decode() or 'nothing'}", messages[0])

    # -- the report ----------------------------------------------------------------------------------------------------

    def kinds(self) -> str:
        """How many problems there were, of each kind."""
        counts = Counter(problem.kind for problem in self.problems)
        return "\n".join(f"{count:6} x  {kind}" for kind, count in counts.most_common())

    def report(self) -> str:
        """The problems, with what led to the first of each kind."""
        firsts = {problem.kind: problem for problem in reversed(self.problems)}
        shown = sorted(firsts.values(), key=lambda problem: problem.event)[:_PROBLEMS_SHOWN]
        return "\n\n".join([self.kinds(), *map(self._timeline, shown)])

    def _timeline(self, problem: _Problem) -> str:
        """What its publisher and its receiver did with the message of a problem, and what the broker did meanwhile."""
        message = problem.message
        begin = max(message.first_sent if message else 0, problem.event - _EVENTS_AROUND)
        concerned = {problem.who, BROKER, message.publisher if message else BROKER}
        lines = []
        for n, event in enumerate(self._events[: problem.event], 1):
            about = event.message is message if event.message else n >= begin
            if about and event.who in concerned:
                lines.append(f"  {event.at_s:8.3f}  {event.who:12} {event.what}")
        if len(lines) > _EVENTS_SHOWN:
            lines[_EVENTS_SHOWN // 2 : -_EVENTS_SHOWN // 2] = ["  ..."]
        return "\n".join([f"{problem.who}: {problem.what}" + (f": {message}" if message else ""), *lines])
