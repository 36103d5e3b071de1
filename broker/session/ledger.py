"""What was promised to whom, and what is to be written so that it is kept. Sans-I/O.

Whoever drives this takes what is to be written from time to time (`take`), writes it, and says how that went
(`committed`, `failed`); and reads from the disk what sessions want from there (`next_wanted`, `fetched`).
"""

from collections import deque
from collections.abc import Callable, Iterable
from math import inf
from typing import TYPE_CHECKING

import msgspec

from broker.counters import Counters
from broker.journal import Batch, Fact, SavedMessage
from broker.limits import FACTS_BYTES_MAX, UNWRITTEN_BYTES_MAX
from broker.message import Message, Promise
from broker.session.bounds import Limits
from broker.session.log import Log
from broker.session.recovery import saved_session
from broker.session.session import Session
from broker.session.windows import Windows
from broker.wire.codes import Reason

if TYPE_CHECKING:
    from broker.session.channel import Channel

_Staged = tuple[Session, "Channel", int, Message]
_After = tuple[Callable[[], object], bool]


class _Commit(msgspec.Struct):
    """A batch on its way to the disk, and what happens once it is there."""

    batch: Batch
    promised: list[Promise]
    staged: list[_Staged]
    after: list[_After]


class Ledger:
    """The part of the core that has to do with the journal.

    now: the monotonic time of this round; whoever drives it sets it.
    log(event, fields): something that an operator should see.
    """

    def __init__(self, *, now: float, wall: float, log: Callable[..., object], limits: Limits) -> None:
        self.now = now
        self.note = log
        self.limits = limits
        # Whether a publisher is told of success only once it is certain; that stays as it was at the start.
        self.durable = limits.durability == "commit"
        self.counters = Counters()
        self.sessions: dict[str, Session] = {}
        self.log = Log(self.counters, wall - now)
        self.failing = ""  # why nothing can be written at present
        self.changed: dict[Session, None] = {}  # to be written anew
        self.moved: dict[Session, None] = {}  # got on in the log, which the journal may learn later
        self.wanted: dict[Session, None] = {}  # wait for messages from the disk
        self._asked: set[int] = set()  # numbers of those that are being read
        self._windows = Windows()
        self._promised: list[Promise] = []  # settled by the next commit
        self._refused: deque[Promise] = deque()  # settled at the end of the round
        self._staged: list[_Staged] = []  # sent after the next commit
        self._after: list[_After] = []  # done after it
        self._committing: _Commit | None = None
        self.fact_head = 0  # the highest number of a fact so far
        self._facts: deque[tuple[int, int]] = deque()  # not applied yet: number and size of each
        self._facts_bytes = 0
        self.told: Callable[[list[Fact]], object] = lambda _: None  # these are on the disk: apply them

    # -- facts -------------------------------------------------------------------------------------------------------

    def record(self, body: bytes, *, firm: bool = False) -> int:
        """Put down something that happened. Returns its number.

        It goes to the bridge once it is on the disk, together with all else of this turn, and comes again after a crash
        if the bridge has not applied it.

        firm: it is true whatever becomes of the messages of this turn. Else it is gone when they cannot be written.
        """
        self.fact_head += 1
        self.log.batch.facts.append(Fact(self.fact_head, body, firm))
        self.expect_fact(self.fact_head, len(body))
        return self.fact_head

    def expect_fact(self, number: int, size: int) -> None:
        """A fact is on its way to the bridge."""
        self.fact_head = max(self.fact_head, number)
        self._facts.append((number, size))
        self._facts_bytes += size

    def applied(self, number: int) -> None:
        """The bridge has all facts up to this one in its own records."""
        while self._facts and self._facts[0][0] <= number:
            self._facts_bytes -= self._facts.popleft()[1]
        self.log.batch.applied = number

    @property
    def fact_awaited(self) -> int:
        """The number of the last fact that the bridge has yet to apply, or 0: later ones could not be written."""
        return self._facts[-1][0] if self._facts else 0

    @property
    def facts_waiting(self) -> int:
        """Facts that the bridge has not applied."""
        return len(self._facts)

    @property
    def facts_full(self) -> bool:
        """Whether those who would cause more of them are to be refused."""
        return self._facts_bytes > FACTS_BYTES_MAX

    # -- what was promised -------------------------------------------------------------------------------------------

    def owe(self, message: Message, times: int = 1) -> None:
        """So many receivers who must not lose `message` get it now."""
        promise = message.promise
        if promise is None or promise.logged:
            self.log.hold(message.seq, times)
        else:
            promise.waiting += times

    def hand_back(self, message: Message) -> None:
        """A receiver who was owed `message` has got it, or will not get it any more."""
        if not message.seq:
            return
        promise = message.promise
        if promise is None or promise.logged:
            self.log.release(message.seq)
            return
        promise.waiting -= 1
        if not promise.waiting:
            promise.message = promise.picks = None
            self._settle(promise)

    def release(self, session: Session, message: Message, id: int = 0) -> None:
        """`session` has done with `message`, in flight under packet id `id` or waiting, in one way or another."""
        self.hand_back(message)
        if not message.seq:
            if session.expiry_s:
                self.moved[session] = None  # what is retained for it has arrived, perhaps
        elif message.promise is None or message.promise.logged:
            session.drop_row(message.seq, id)
            self.moved[session] = None

    def kept(self, message: Message) -> bool:
        """Have `message` written, if it is not yet. False: it cannot be, and its publisher has been told so."""
        promise = message.promise
        if promise is None:
            return True
        return promise.reason < 0x80 if promise.logged else self._write(promise)

    def _write(self, promise: Promise) -> bool:
        """Its receivers have not answered in time: write the message. False: that cannot be done."""
        message = promise.message
        assert message is not None  # it waits, and is not logged
        log = self.log
        if self.failing or self._log_full(message.size):
            self._refuse(promise)
            return False
        for older in self._windows.older(message.topic, message.seq):
            self._write(older)
        log.append(message, listed=False)
        log.hold(message.seq, promise.waiting)
        promise.logged, promise.message = True, None
        for session, form in promise.picks or ():
            session.pick_row(form)
        promise.picks = None
        if not promise.settled and promise.reason < 0x80:
            self._promised.append(promise)
        return True

    def _settle(self, promise: Promise) -> None:
        """Tell the publisher what has become of its message, unless it is to be told of a refusal."""
        if not promise.settled and promise.reason < 0x80:
            self._tell(promise)

    @staticmethod
    def _tell(promise: Promise) -> None:
        promise.settled = True
        if promise.channel is not None:
            promise.channel.settle()
        if promise.then is not None:
            promise.then(promise.reason)

    def _refuse(self, promise: Promise) -> None:
        """What was to be kept cannot be kept.

        Its publisher is told so at the end of the round, for that may end its connection, and things with it.
        """
        if promise.settled or promise.reason >= 0x80:
            return
        promise.reason = Reason.QUOTA_EXCEEDED
        origin = promise.origin
        if promise.first == 0x50 and origin is not None:
            origin.unreceive(promise.packet_id)
        self._refused.append(promise)

    def stage(self, session: Session, channel: "Channel", id: int, message: Message) -> None:
        """Send a message whose packet id was taken once that is on the disk."""
        session.staged += 1
        self._staged.append((session, channel, id, message))

    def _unstage(self, staged: list[_Staged], *, send: bool) -> None:
        """Send what was staged, unless its publisher has been refused meanwhile; or not: then it cannot be kept."""
        for session, channel, id, message in staged:
            if session.channel is not channel:
                continue  # it is sent again, or not known any more
            session.staged -= 1
            if session.inflight.get(id) is not message:
                continue
            if send and (message.promise is None or message.promise.reason < 0x80):
                session.send_as(channel, message, id)
            else:
                del session.inflight[id]
                self.release(session, message, id)
                session.refill()

    def after_commit(self, work: Callable[[], object], *, needed: bool = True) -> None:
        """Do `work` once all that is to be written so far is on the disk: now, if that is nothing.

        Unless that is needed, it is done too when nothing can be written.
        """
        if self._idle or (self.failing and not needed):
            work()
        else:
            self._after.append((work, needed))

    def settled(self, work: Callable[[], object]) -> None:
        """Do `work` once all that is to be written so far is on the disk, and facts that were applied are off it."""
        self.log.batch.forgotten.append(0)  # which is no message's: there is something to be written
        self._after.append((work, True))

    @property
    def _idle(self) -> bool:
        """Nothing is to be waited for."""
        return not self.durable or not (self._committing or self.log.batch or self.changed)

    # -- to the disk and back ----------------------------------------------------------------------------------------

    @property
    def to_write(self) -> bool:
        """Whether there is something to be written now, or waited for."""
        return bool(self.log.batch or self.changed or self._promised or self._refused or self._staged or self._after)

    @property
    def unhurried(self) -> bool:
        """Whether what is to be written is what the bridge is to know, and no message that somebody waits for."""
        batch = self.log.batch
        return bool(batch.facts) and not (
            batch.messages or batch.received or batch.retained or self._staged or self._after
        )

    def window_closes(self) -> float:
        """When the next message whose receivers have not answered is to be written; 0 for none."""
        return self._windows.first_due()

    def take(self, *, all: bool = False) -> Batch | None:
        """What is to be written next; None for nothing. `committed` or `failed` must follow.

        all: the windows of those whose receivers have not answered close now.
        """
        for promise in self._windows.close(inf if all else self.now):
            self._write(promise)
        batch = self.log.batch
        for session in self.changed:
            if session.lasting and self.sessions.get(session.key) is session:
                batch.sessions[session.number] = saved_session(session, self.log.offset)
        self.changed.clear()
        if not self.to_write:
            return None
        self._committing = _Commit(batch, self._promised, self._staged, self._after)
        self.log.batch = Batch()
        self._promised, self._staged, self._after = [], [], []
        return batch

    def committed(self) -> None:
        """What was taken is on the disk: tell who waited for that."""
        done, self._committing = self._committing, None
        if self.failing:
            self.note("journal writes again")
            self.failing = ""
        if done is None:
            return  # it was only tried
        self.counters.journal_commits += 1
        self.counters.journal_rows += len(done.batch.messages)
        self.log.written(done.batch.messages)
        self._unstage(done.staged, send=True)
        for promise in done.promised:
            self._settle(promise)
        if done.batch.facts:
            self.told(done.batch.facts)
        self._do(work for work, _ in done.after)

    def _do(self, works: Iterable[Callable[[], object]]) -> None:
        for work in works:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - one client's bug is not the others' end
                self.unexpected(error)

    def failed(self, why: str, remedy: str = "") -> None:
        """What was taken could not be written. All is tried again with the next, but messages are refused.

        So are those that came after it, for their publishers send them again behind what was to be written. But none
        is where publishers have been told of success already.
        """
        done, self._committing = self._committing, None
        self.counters.journal_failures += 1
        if not self.failing:
            self.note("journal cannot be written", error=why, remedy=remedy)
        self.failing = why
        if done is None:
            return
        batch, later = done.batch, self.log.batch
        again = {saved.seq for saved in later.messages}
        batch.forgotten = [seq for seq in batch.forgotten if seq not in again]
        batch.messages += later.messages
        batch.add(later)
        self.log.batch = batch
        self._after[:0] = [one for one in done.after if one[1]]
        staged, self._staged = done.staged + self._staged, []
        promised, self._promised = done.promised + self._promised, []
        if self.durable:
            gone = {saved.seq for saved in batch.messages}
            self.log.undo(batch.messages)
            batch.messages = []
            void = {fact.number for fact in batch.facts if not fact.firm}
            batch.facts = [fact for fact in batch.facts if fact.firm]
            self._facts_bytes -= sum(size for number, size in self._facts if number in void)
            self._facts = deque(one for one in self._facts if one[0] not in void)
            batch.deliveries = {key: row for key, row in batch.deliveries.items() if row is None or key[1] not in gone}
            self._staged = [one for one in staged if one[3].seq not in gone]
            for promise in promised:
                self._refuse(promise)
            self._unstage([one for one in staged if one[3].seq in gone], send=False)
        self._do(work for work, needed in done.after if not needed)

    def next_wanted(self, messages_max: int) -> tuple[list[Session], list[int]]:
        """Sessions that wait for messages from the disk, and which ones, ascending."""
        sessions: list[Session] = []
        seqs: set[int] = set()
        for session in self.wanted:
            if len(seqs) >= messages_max:
                break
            sessions.append(session)
            seqs.update(m.seq for m in session.fetching or () if m.absent and self.log.body(m.seq) is None)
        for session in sessions:
            del self.wanted[session]
        self._asked = seqs
        return sessions, sorted(seqs)

    def fetched(self, sessions: list[Session], messages: list[SavedMessage]) -> None:
        """What `next_wanted` asked for has been read; what is missing below the last one is not there."""
        found = {}
        for saved in messages:
            message = found[saved.seq] = self.log.restored(saved)
            self.log.remember(message)
        up_to = messages[-1].seq if messages else self.log.head
        for session in sessions:
            if session.fetching and session.channel is not None:
                try:
                    session.fetched(found, self._asked, up_to)
                except Exception as error:  # noqa: BLE001 - one client's bug is not the others' end
                    self.unexpected(error, session.channel)

    @property
    def unable(self) -> bool:
        """Whether nothing more can be kept for anybody at present."""
        return bool(self.failing) or self._log_full(0)

    def _log_full(self, size: int) -> bool:
        log = self.log
        return log.bytes + size > self.limits.log_bytes_max or log.unwritten_bytes > UNWRITTEN_BYTES_MAX

    def unexpected(self, error: Exception, channel: "Channel | None" = None) -> None:
        """A bug of ours: tell it, and give up the connection that met it, and no other. 3.1.1 [MQTT-4.8.0-2]."""
        self.counters.unexpected_errors += 1
        self.note("unexpected error", client=channel.label if channel is not None else "", exc_info=error)
        if channel is not None:
            try:
                channel.close()
            except Exception as again:  # noqa: BLE001
                self.note("unexpected error", client=channel.label, exc_info=again)
