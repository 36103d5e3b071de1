"""A broker that is obviously right: lists and loops, everything at once, no disk. It says what each client must get.

A test tells it what the clients send (`connect`, `packet`, `drop`, `advance`) and then what they received (`saw`);
`settled` is called when nothing more will come. All three raise `AssertionError` when a client got something wrong.

Where MQTT leaves a choice, it takes the one that we document: overlapping subscriptions give one message with the
highest QoS and all identifiers. Where a choice cannot be foreseen (which member of a group gets a message), it takes
any that is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import msgspec

from broker.wire.encode import encode
from broker.wire.packets import (
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Pubcomp,
    Publish,
    Pubrec,
    Pubrel,
    Request,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
    Will,
)
from broker.wire.topics import matches

ALIASES_MAX = 32
KEEP_ALIVE_MAX_S = 3600
EXPIRY_MAX_S = 90 * 86400
ANY_SUCCESS = -1


def show(value: object) -> str:
    """For people: what is not at its default."""
    if isinstance(value, list):
        return f"[{', '.join(map(show, value))}]"
    if not isinstance(value, msgspec.Struct):
        return repr(value)
    required = len(value.__struct_fields__) - len(value.__struct_defaults__)
    defaults = ([None] * required) + [getattr(default, "factory", default) for default in value.__struct_defaults__]
    fields = []
    for name, default in zip(value.__struct_fields__, defaults, strict=True):
        given = getattr(value, name)
        if given != (default() if callable(default) else default):
            fields.append(f"{name}={show(given)}")
    return f"{type(value).__name__}({', '.join(fields)})"


@dataclass(eq=False)
class Sent:
    """A message as it was published."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: Properties
    publisher: str  # client id
    expires_at: float = math.inf


@dataclass(eq=False)
class Copy:
    """What one client must get of it; `forms` are the ways it may come: QoS, retain flag, subscription identifiers."""

    sent: Sent
    forms: list[tuple[int, bool, list[int]]]
    required: bool = True
    uncertain: bool = False  # it may have gone out on a connection that ended before it arrived
    retained: Sub | None = None  # it was sent for a new subscription
    shares: list[Share] = field(default_factory=list)  # it need not come if it came for one of these
    id: int = 0
    qos: int = 0  # it has come with
    released: bool = False
    here: bool = False  # it has come on this connection

    def __repr__(self) -> str:
        sent = self.sent
        return f"{sent.payload!r} on {sent.topic} of {sent.publisher} as {self.forms}"


@dataclass(eq=False)
class Sub:
    request: Request
    id: int
    group: str
    filter: str

    @property
    def ids(self) -> list[int]:
        return [self.id] if self.id else []


@dataclass(eq=False)
class Share:
    """A message for a group: one of its members must get it."""

    sent: Sent
    name: tuple[str, str]  # of the group, and its filter
    members: list[tuple[Session, Copy]]
    at_once: bool  # somebody can take it now
    firm: bool  # nobody may lose it
    got: Session | None = None


@dataclass(eq=False)
class Link:
    """A connection."""

    session: Session
    version: int
    keep_alive_s: float
    window: int
    size_max: float
    seen_at: float
    aliases: dict[int, str] = field(default_factory=dict)
    answers: list[Packet] = field(default_factory=list)
    zero: list[Copy] = field(default_factory=list)
    again: list[Copy] = field(default_factory=list)  # in flight, to be sent once more
    closed: bool = False
    goodbye: int | None = None


@dataclass(eq=False)
class Session:
    client_id: str
    expiry_s: int = 0
    link: Link | None = None
    subs: dict[str, Sub] = field(default_factory=dict)
    waiting: list[Copy] = field(default_factory=list)
    inflight: list[Copy] = field(default_factory=list)
    retained: list[Copy] = field(default_factory=list)
    due: list[Copy] = field(default_factory=list)  # retained, and not got when the connection ended
    received: set[int] = field(default_factory=set)
    will: Will | None = None
    will_at: float = math.inf
    ends_at: float = math.inf

    @property
    def room(self) -> bool:
        assert self.link is not None
        return sum(copy.here for copy in self.inflight) < self.link.window


class Reference:
    def __init__(self, now: float) -> None:
        self.now = now
        self.sessions: dict[str, Session] = {}
        self.retained: dict[str, Sent] = {}
        self.shares: list[Share] = []

    # -- connections -------------------------------------------------------------------------------------------------

    def connect(self, packet: Connect) -> Link:
        name, v5, asked = packet.client_id, packet.version == 5, packet.properties
        session = self.sessions.get(name)
        if session is not None and session.link is None:
            if session.will_at <= self.now:
                self._publish_will(session)
            if session.ends_at <= self.now:
                self._end(session)
            session = self.sessions.get(name)
        if session is not None and session.link is not None:
            self._close(session.link, 0x8E)
            session = self.sessions.get(name)
        if session is not None and packet.clean_start:
            self._end(session)
            session = None
        present = session is not None
        if session is None:
            session = self.sessions[name] = Session(name)
        wanted = (asked.session_expiry or 0) if v5 else (0 if packet.clean_start else EXPIRY_MAX_S)
        session.expiry_s = min(wanted, EXPIRY_MAX_S)
        session.will, session.will_at, session.ends_at = packet.will, math.inf, math.inf
        keep_alive = packet.keep_alive
        if v5 and not 0 < keep_alive <= KEEP_ALIVE_MAX_S:
            keep_alive = KEEP_ALIVE_MAX_S
        link = Link(
            session,
            packet.version,
            keep_alive * 1.5 or math.inf,
            asked.receive_maximum or 65535,
            asked.maximum_packet_size or math.inf,
            self.now,
        )
        session.link = link
        for share in self.shares:
            share.firm &= link.size_max == math.inf or all(member is not session for member, _ in share.members)
        link.answers.append(Connack(present))
        for copy in session.inflight:
            copy.here = False
        link.again = list(session.inflight)
        if session.due:
            self._retained_again(session)
        return link

    def _retained_again(self, session: Session) -> None:
        """What is retained and had not all been got is sent again: at least what is missing, perhaps all of it."""
        missing = {(copy.sent, copy.retained) for copy in session.due}
        session.due = []
        for sub in session.subs.values():
            for copy in self._retained_for(session, sub):
                # A change of its form, or QoS 0, leaves it open.
                copy.required &= (copy.sent, sub) in missing and copy.forms[0][0] > 0
                copy.required &= all(known.sent is not copy.sent for known in (*session.inflight, *session.waiting))
                session.retained.append(copy)

    def drop(self, link: Link) -> None:
        """The network connection breaks."""
        if not link.closed:
            self._close(link, None)

    def _close(self, link: Link, reason: int | None) -> None:
        session = link.session
        link.closed, link.goodbye = True, reason
        session.link = None
        for share in self.shares:
            for member, copy in share.members:
                if member is session:
                    share.at_once, copy.uncertain = False, True
        for copy in session.waiting:
            copy.uncertain = True
            copy.required &= not self._lost(link, copy)  # it may have been its turn already
        session.due += session.retained
        session.retained = []
        if session.will is not None:
            delay = min(session.will.properties.will_delay or 0, session.expiry_s)
            session.will_at = self.now + delay
            if not delay:
                self._publish_will(session)
        session.ends_at = self.now + session.expiry_s
        if not session.expiry_s:
            self._end(session)

    def _end(self, session: Session) -> None:
        del self.sessions[session.client_id]
        session.subs = {}
        for share in self.shares:
            for copy in [copy for member, copy in share.members if member is session]:
                self._hand_on(share, copy)
        if session.will_at < math.inf:
            self._publish_will(session)

    def _hand_on(self, share: Share, had: Copy) -> None:
        """The session of a member has ended: what it had not acknowledged may go to any who is a member now."""
        share.firm = share.at_once = False
        share.got = None
        for session in self.sessions.values():
            for sub in session.subs.values():
                request = sub.request
                if (sub.group, sub.filter) != share.name or not request.qos or not had.forms[0][0]:
                    continue
                qos = min(max(form[0] for form in had.forms), request.qos)
                form = qos, share.sent.retain and request.retain_as_published, sub.ids
                share.members.append((session, Copy(share.sent, [form])))
                for copy in session.waiting:
                    if copy.sent is share.sent:
                        copy.shares.append(share)

    def _publish_will(self, session: Session) -> None:
        will, session.will, session.will_at = session.will, None, math.inf
        if will is not None:
            topic = will.topic.decode()
            sent = Sent(topic, will.payload, will.qos, will.retain, will.properties, session.client_id)
            self._publish(sent)

    # -- time --------------------------------------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Time passes. A deadline is seen at the next full second."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + 0.5, end)
            for session in list(self.sessions.values()):
                link = session.link
                if link is not None and self._due(link.seen_at + link.keep_alive_s):
                    self._close(link, 0x8D)
                if self._due(session.will_at):
                    self._publish_will(session)
                if session.link is None and self._due(session.ends_at):
                    self._end(session)

    def _due(self, deadline: float) -> bool:
        return deadline < math.inf and self.now >= math.floor(deadline) + 1

    # -- what clients send -------------------------------------------------------------------------------------------

    def packet(self, link: Link, packet: Packet) -> None:
        """A client sends this."""
        link.seen_at = self.now
        session, answers = link.session, link.answers
        match packet:
            case Publish():
                self._received(link, packet)
            case Puback() | Pubrec() | Pubcomp():
                self._acknowledged(link, packet)
            case Pubrel(packet_id=id):
                answers.append(Pubcomp(id, 0 if id in session.received or link.version == 4 else 0x92))
                session.received.discard(id)
            case Subscribe():
                self._subscribe(link, packet)
            case Unsubscribe(filters=filters) if any(self._malformed(link, name) for name in filters):
                self._close(link, 0x8F)
            case Unsubscribe(packet_id=id, filters=filters):
                reasons = [0 if session.subs.pop(name, None) else 0x11 for name in filters]
                self._forms_changed(session)
                answers.append(Unsuback(id, reasons if link.version == 5 else []))
            case Pingreq():
                answers.append(Pingresp())
            case Disconnect(reason=reason, properties=properties):
                expiry = properties.session_expiry
                if expiry and not session.expiry_s:
                    self._close(link, 0x82)
                    return
                if expiry is not None:
                    session.expiry_s = expiry
                if not reason:
                    session.will = None
                self._close(link, None)
            case _:
                self._close(link, 0x82)

    def _received(self, link: Link, packet: Publish) -> None:
        session, properties = link.session, packet.properties
        topic, alias = packet.topic.decode(), properties.topic_alias
        if properties.subscription_ids:
            return self._close(link, 0x82)
        if alias is not None:
            if alias > ALIASES_MAX:
                return self._close(link, 0x94)
            if topic:
                link.aliases[alias] = topic
            elif alias not in link.aliases:
                return self._close(link, 0x82)
            topic = link.aliases[alias]
        answer = {1: Puback, 2: Pubrec}.get(packet.qos)
        if packet.qos == 2 and packet.packet_id in session.received:
            link.answers.append(Pubrec(packet.packet_id, ANY_SUCCESS))
            return None
        reason = 0x87
        if topic[0] != "$":
            if packet.qos == 2:
                session.received.add(packet.packet_id)
            sent = Sent(topic, packet.payload, packet.qos, packet.retain, properties, session.client_id)
            reason = 0 if self._publish(sent) else 0x10
        if answer is not None:
            if reason >= 0x80 and link.version == 4:
                return self._close(link, None)
            link.answers.append(answer(packet.packet_id, reason if link.version == 5 else 0))
        return None

    def _acknowledged(self, link: Link, packet: Puback | Pubrec | Pubcomp) -> None:
        session = link.session
        copy = next((copy for copy in session.inflight if copy.id == packet.packet_id), None)
        if copy is None:
            if isinstance(packet, Pubrec):
                link.answers.append(Pubrel(packet.packet_id, 0x92 if link.version == 5 else 0))
            return
        wrong = {
            Puback: copy.qos == 2,
            Pubrec: copy.qos == 1,
            Pubcomp: not copy.released,
        }
        if wrong[type(packet)]:
            self._close(link, 0x82)
        elif isinstance(packet, Pubrec) and packet.reason < 0x80:
            if not copy.released:
                session.inflight.remove(copy)
                session.inflight.append(copy)  # PUBREL in the order of PUBREC
                copy.released = True
            link.answers.append(Pubrel(packet.packet_id))
        else:
            session.inflight.remove(copy)

    # -- subscriptions -----------------------------------------------------------------------------------------------

    def _subscribe(self, link: Link, packet: Subscribe) -> None:
        session = link.session
        id = next(iter(packet.properties.subscription_ids), 0)
        reasons, new = [], []
        for request in packet.requests:
            if self._malformed(link, request.filter):
                return self._close(link, 0x8F)
            if request.no_local and request.filter.startswith("$share/"):
                return self._close(link, 0x82)
        for request in packet.requests:
            _, group, name = request.filter.split("/", 2) if request.filter.startswith("$share/") else ("", "", "")
            name = name or request.filter
            if request.filter.startswith("$share//"):
                reasons.append(0x8F)
                continue
            if name[0] == "$":
                reasons.append(0x87)
                continue
            known = request.filter in session.subs
            # An old one is replaced, the new one is the last.
            session.subs.pop(request.filter, None)
            sub = session.subs[request.filter] = Sub(request, id, group, name)
            reasons.append(request.qos)
            if not group and (not request.retain_handling or (request.retain_handling == 1 and not known)):
                new.append(sub)
        link.answers.append(Suback(packet.packet_id, [min(r, 0x80) if link.version == 4 else r for r in reasons]))
        self._forms_changed(session)
        for sub in new:
            session.retained += list(self._retained_for(session, sub))
        return None

    @staticmethod
    def _malformed(link: Link, name: str) -> bool:
        """3.1.1 does not know of groups."""
        return "#" in name[:-1] or (link.version == 5 and name.startswith("$share//"))

    def _retained_for(self, session: Session, sub: Sub) -> Iterator[Copy]:
        request = sub.request
        for sent in self.retained.values():
            if sub.group or not matches(sub.filter, sent.topic) or sent.expires_at <= self.now:
                continue
            if request.no_local and sent.publisher == session.client_id:
                continue
            # What is on its way at QoS 2 is not sent twice: exactly once is worth more than once for each subscription.
            under_way = [*session.inflight, *session.waiting, *session.retained]
            twice = sent.qos == 2 and any(copy.sent is sent for copy in under_way)
            copy = Copy(sent, [(min(sent.qos, request.qos), True, sub.ids)], not twice, retained=sub)
            copy.shares = [s for s in self.shares if s.sent is sent and any(m is session for m, _ in s.members)]
            yield copy

    def _forms_changed(self, session: Session) -> None:
        """What has not gone out may come as its subscriptions are now; or not at all, if there is none any more."""
        for copy in session.waiting:
            form = self._form(session, copy.sent)
            if form is None or not form[0]:
                copy.required &= any(matches(sub.filter, copy.sent.topic) for sub in session.subs.values())
            elif form not in copy.forms:
                copy.forms.append(form)
        for copy in session.retained:
            if copy.retained not in session.subs.values():
                copy.required = False
        for share in self.shares:
            if any(member is session for member, _ in share.members):
                share.firm = False

    @staticmethod
    def _form(session: Session, sent: Sent) -> tuple[int, bool, list[int]] | None:
        """How a session gets a message by its own subscriptions."""
        subs = [sub for sub in session.subs.values() if not sub.group and matches(sub.filter, sent.topic)]
        mine = sent.publisher == session.client_id
        if not subs or (mine and all(sub.request.no_local for sub in subs)):
            return None
        qos = min(sent.qos, max(sub.request.qos for sub in subs))
        retain = sent.retain and any(sub.request.retain_as_published for sub in subs)
        return qos, retain, sorted(id for sub in subs for id in sub.ids)

    # -- publishing --------------------------------------------------------------------------------------------------

    def _publish(self, sent: Sent) -> bool:
        """Give a message to all. True: somebody subscribes to its topic."""
        expiry = sent.properties.message_expiry
        if expiry is not None:
            sent.expires_at = self.now + expiry
        found = False
        ready = {session.client_id: self._ready(session) for session in self.sessions.values()}
        groups: dict[tuple[str, str], list[tuple[Session, Copy]]] = {}
        for session in self.sessions.values():
            for sub in session.subs.values():
                if matches(sub.filter, sent.topic):
                    found = True
                    if sub.group:
                        request = sub.request
                        form = min(sent.qos, request.qos), sent.retain and request.retain_as_published, sub.ids
                        groups.setdefault((sub.group, sub.filter), []).append((session, Copy(sent, [form])))
            own = self._form(session, sent)
            if own is not None:
                self._give(session, Copy(sent, [own]))
        for name, members in groups.items():
            lasting = all(m.expiry_s and copy.forms[0][0] for m, copy in members)
            # One for whom it is too large may be chosen, and then nobody gets it (§3.1.2.11.4).
            any_size = all(m.link is None or m.link.size_max == math.inf for m, _ in members)
            at_once = any_size and any(ready[m.client_id] for m, _ in members)
            self.shares.append(Share(sent, name, members, at_once, any_size and lasting))
            # A session that is behind gets a message once, be it as a member or by a subscription of its own.
            for member, _ in members:
                if not ready[member.client_id] and member.waiting and member.waiting[-1].sent is sent:
                    self.shares[-1].firm = False
                    member.waiting[-1].shares.append(self.shares[-1])
        if sent.retain:
            self._retain(sent)
        return found

    @staticmethod
    def _ready(session: Session) -> bool:
        link = session.link
        if link is None or link.size_max < math.inf or link.again or session.waiting or session.retained:
            return False
        groups = sum(bool(sub.group) for sub in session.subs.values())
        return len(session.inflight) + 1 + groups <= link.window

    @staticmethod
    def _give(session: Session, copy: Copy) -> None:
        if copy.forms[0][0]:
            session.waiting.append(copy)
        elif session.link is not None:
            session.link.zero.append(copy)

    def _retain(self, sent: Sent) -> None:
        self.retained.pop(sent.topic, None)
        if sent.payload:
            self.retained[sent.topic] = sent
        for session in self.sessions.values():
            # Those who are still to get what was retained may get this one instead, or both.
            for sub in {copy.retained for copy in session.retained}:
                assert sub is not None
                for copy in session.retained:
                    copy.required &= copy.sent.topic != sent.topic
                for copy in self._retained_for(session, sub):
                    if copy.sent is sent:
                        copy.required = False
                        session.retained.append(copy)

    # -- what clients get --------------------------------------------------------------------------------------------

    def saw(self, link: Link, packet: Packet) -> None:
        """A client got this."""
        if isinstance(packet, Publish):
            self._saw_message(link, packet)
        elif isinstance(packet, Disconnect):
            assert link.closed, f"{show(packet)} without a reason"
            assert packet.reason == link.goodbye, f"{show(packet)} instead of {link.goodbye}"
            link.goodbye = None
        elif isinstance(packet, Pubrel) and any(c.id == packet.packet_id and c.released for c in link.again):
            copy = next(copy for copy in link.again if copy.released)
            assert copy.id == packet.packet_id, f"{show(packet)} before that of {copy}"
            link.again.remove(copy)
            copy.here = True
        else:
            same = [answer for answer in link.answers if type(answer) is type(packet)]
            assert same, f"{show(packet)}, which answers nothing"
            expected = same[0]
            link.answers.remove(expected)
            if isinstance(packet, Connack):
                assert (packet.session_present, packet.reason) == (expected.session_present, 0), packet
            elif isinstance(expected, Pubrec) and expected.reason == ANY_SUCCESS:
                assert isinstance(packet, Pubrec)
                assert (packet.packet_id, packet.reason < 0x80) == (expected.packet_id, True), packet
            else:
                assert packet == expected, f"{show(packet)} instead of {show(expected)}"

    def _saw_message(self, link: Link, packet: Publish) -> None:
        session = link.session
        known = next((c for c in session.inflight if packet.qos and c.id == packet.packet_id), None)
        if known is not None:
            assert known in link.again, f"the packet id of {packet} is in use for {known}"
            first = next(copy for copy in link.again if copy is known or not (copy.released or self._lost(link, copy)))
            assert known is first, f"{show(packet)} before {first}"
            assert self._fits(link, known, packet), f"{show(packet)} instead of {known}"
            assert packet.dup, f"{show(packet)} without DUP"
            link.again.remove(known)
            known.here = True
            return
        assert (packet.packet_id > 0) == (packet.qos > 0), packet
        copy = self._find(link, packet)
        assert not packet.dup or copy.uncertain, f"{show(packet)} with DUP"
        if packet.qos:
            copy.id, copy.qos, copy.here = packet.packet_id, packet.qos, True
            session.inflight.append(copy)
            assert sum(c.here for c in session.inflight) <= link.window, f"{show(packet)} is over the receive maximum"

    def _find(self, link: Link, packet: Publish) -> Copy:
        session = link.session
        places = (session.waiting if packet.qos else link.zero, session.retained)
        fitting = [(place, copy) for place in places for copy in place if self._fits(link, copy, packet)]
        for place, copy in sorted(fitting, key=lambda one: not one[1].required):
            if not copy.retained:
                self._check_order(link, place, copy)
            place.remove(copy)
            for other in session.waiting if copy.retained and packet.qos == 2 else ():
                other.required &= other.sent is not copy.sent  # exactly once, be it as the one or as the other
            return copy
        for share in self.shares:
            for member, copy in share.members:
                if member is session and self._fits(link, copy, packet) and self._assign(share, session, []):
                    return replace(copy)
        raise AssertionError(f"{show(packet)}, which {session.client_id} must not get")

    def _assign(self, share: Share, session: Session, tried: list[Share]) -> bool:
        """Say that `session` got this share; who had it must then have got another one that looks the same."""
        tried.append(share)
        other = share.got
        if other is not None:
            mine = next(copy for member, copy in share.members if member is other)
            if not any(
                self._assign(elsewhere, other, tried)
                for elsewhere in self.shares
                if elsewhere not in tried and elsewhere.sent is share.sent
                for member, copy in elsewhere.members
                if member is other and self._same(other, copy, mine)
            ):
                return False
        share.got = session
        return True

    @staticmethod
    def _same(session: Session, one: Copy, other: Copy) -> bool:
        """Whether a client cannot tell them apart: 3.1.1 knows no identifiers."""
        v4 = session.link is not None and session.link.version == 4
        return one.forms == other.forms or (v4 and one.forms[0][:2] == other.forms[0][:2])

    def _check_order(self, link: Link, place: list[Copy], copy: Copy) -> None:
        sent = copy.sent
        for earlier in place[: place.index(copy)]:
            other = earlier.sent
            if (other.topic, other.publisher, other.qos) == (sent.topic, sent.publisher, sent.qos):
                assert not earlier.required or self._lost(link, earlier), f"{copy} before {earlier}"

    def _fits(self, link: Link, copy: Copy, packet: Publish) -> bool:
        sent, given = copy.sent, packet.properties
        form = packet.qos, packet.retain, sorted(given.subscription_ids)
        forms = copy.forms if link.version == 5 else [(q, r, []) for q, r, _ in copy.forms]
        if (sent.topic.encode(), sent.payload) != (packet.topic, packet.payload) or form not in forms:
            return False
        if sent.expires_at <= self.now and not (copy.uncertain or copy.id):
            return False
        return link.version == 4 or given == self._given(copy, given.subscription_ids)

    def _given(self, copy: Copy, ids: list[int]) -> Properties:
        """The properties that a message goes out with."""
        asked, left = copy.sent.properties, copy.sent.expires_at - self.now
        return Properties(
            payload_format=asked.payload_format,
            message_expiry=None if left == math.inf else max(0, math.ceil(left)),
            content_type=asked.content_type,
            response_topic=asked.response_topic,
            correlation_data=asked.correlation_data,
            subscription_ids=ids,
            user_properties=asked.user_properties,
        )

    def _lost(self, link: Link, copy: Copy) -> bool:
        """It may not be sent any more, or not to this one. What has been sent is sent again, expired or not."""
        if copy.sent.expires_at <= self.now and not copy.id:
            return True
        if not copy.id and any(share.got is link.session for share in copy.shares):
            return True
        sizes = []
        for qos, retain, ids in copy.forms:
            given = self._given(copy, ids) if link.version == 5 else Properties()
            packet = Publish(copy.sent.topic.encode(), copy.sent.payload, qos, retain, False, 1, given)
            sizes.append(len(encode(packet, link.version)))
        return max(sizes) > link.size_max

    def settled(self, link: Link) -> None:
        """Nothing more will come for now: a client must have got all that it can."""
        session = link.session
        if link.closed:
            assert link.goodbye is None or link.version == 4, f"closed without {link.goodbye}"
            return
        assert not link.answers, f"{show(link.answers)} did not come"
        missing = [copy for copy in link.zero if not self._lost(link, copy)]
        assert not missing, f"{missing} did not come"
        link.zero = []
        while link.again and not link.again[0].released and self._lost(link, link.again[0]):
            session.inflight.remove(link.again.pop(0))
        if link.again:
            assert not session.room, f"{link.again} did not come again"
            return
        for place in (session.retained, session.waiting):
            while place and session.room:
                copy = place.pop(0)
                assert not copy.required or self._lost(link, copy), f"{copy} did not come"

    def finished(self) -> None:
        """Everybody has come and acknowledged everything."""
        for session in self.sessions.values():
            if session.link is not None:
                assert not session.waiting
        self.all_shared(lambda share: share.firm)

    def all_shared(self, must: Callable[[Share], bool] = lambda share: share.at_once) -> None:
        """What went to groups has come to somebody, where that could be at once."""
        for share in self.shares:
            sent = share.sent
            assert share.got is not None or not must(share) or sent.expires_at <= self.now, f"{share} came to nobody"
