"""What becomes of each message that arrives."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from client_sdk.inbox import Delivery, Inbox, Ticket, Verdict
from client_sdk.message import Message

NOW = datetime(2026, 11, 22, 8, tzinfo=UTC)


class Notes:
    """A memory of dicts."""

    def __init__(self) -> None:
        self.done: set[str] = set()
        self.begun: Counter[str] = Counter()
        self.shown: dict[str, str] = {}

    def handled(self, message_id: str) -> bool:
        return message_id in self.done

    def record(self, message_id: str, *, shown_as: str | None = None) -> None:
        self.done.add(message_id)
        del self.begun[message_id]
        if shown_as is not None:
            self.shown[message_id] = shown_as

    def newest(self, collapse_key: str) -> str:
        return max((one for one, key in self.shown.items() if key == collapse_key), default="")

    def on_screen(self, collapse_key: str) -> tuple[str, ...]:
        return tuple(one for one, key in self.shown.items() if key == collapse_key)

    def attempts(self, message_id: str) -> int:
        return self.begun[message_id]

    def attempt(self, message_id: str) -> None:
        self.begun[message_id] += 1

    def forgive(self, message_id: str) -> None:
        self.begun[message_id] -= 1


def make(notes: Notes | None = None, *, attempts_max: int = 3, concurrency: int = 1) -> Inbox:
    return Inbox(memory=notes or Notes(), attempts_max=attempts_max, concurrency=concurrency, waiting_max=10)


def message(message_id: str = "m1", *, key: str = "", expires_at: datetime | None = None) -> Message:
    return Message(
        id=message_id,
        topic="acme/user/ada",
        payload=b"",
        received_at=NOW,
        expires_at=expires_at,
        user_properties=(("collapse-key", key),) if key else (),
        _report=lambda *_: None,
    )


def ticket(packet_id: int = 1, *, connection: int = 1, qos: int = 1) -> Ticket:
    return Ticket(connection, packet_id, qos)


def never(_other: Delivery, verdict: Verdict) -> None:
    raise AssertionError(f"nothing is {verdict.value} here")


class Dropped(list[tuple[str, Verdict]]):
    """What was dropped, and why."""

    def __call__(self, delivery: Delivery, verdict: Verdict) -> None:
        self.append((delivery.message.id, verdict))


def begin(inbox: Inbox, dropped: Callable[[Delivery, Verdict], None] = never) -> Delivery:
    delivery = inbox.next(NOW, dropped)
    assert delivery is not None
    return delivery


def test_the_plain_way() -> None:
    inbox = make()
    assert inbox.arrived(message(), ticket(), NOW) is Verdict.WAIT
    delivery = begin(inbox)
    assert delivery.message.attempt == 1
    assert inbox.finished(delivery, failed=False) is Verdict.HANDLED
    assert Verdict.HANDLED.acknowledges
    assert not Verdict.WAIT.acknowledges


def test_one_at_a_time_in_order() -> None:
    inbox = make()
    for name in ("m1", "m2", "m3"):
        inbox.arrived(message(name), ticket(), NOW)
    seen = []
    while (delivery := inbox.next(NOW, never)) is not None:
        assert inbox.next(NOW, never) is None
        seen.append(delivery.message.id)
        inbox.finished(delivery, failed=False)
    assert seen == ["m1", "m2", "m3"]


def test_several_at_a_time() -> None:
    inbox = make(concurrency=2)
    for name in ("m1", "m2", "m3"):
        inbox.arrived(message(name), ticket(), NOW)
    begin(inbox)
    begin(inbox)
    assert inbox.next(NOW, never) is None


def test_a_duplicate_is_acknowledged_and_dropped() -> None:
    notes = Notes()
    inbox = make(notes)
    inbox.arrived(message(), ticket(), NOW)
    inbox.finished(begin(inbox), failed=False)
    assert inbox.arrived(message(), ticket(2), NOW) is Verdict.DUPLICATE
    assert make(notes).arrived(message(), ticket(3), NOW) is Verdict.DUPLICATE  # after a restart, too


def test_messages_without_id_are_never_duplicates() -> None:
    inbox = make()
    for _ in range(2):
        assert inbox.arrived(message(""), ticket(), NOW) is Verdict.WAIT
        assert inbox.finished(begin(inbox), failed=False) is Verdict.HANDLED


def test_a_copy_of_one_in_progress_takes_over_its_ticket() -> None:
    inbox = make()
    inbox.arrived(message(), ticket(1), NOW)
    delivery = begin(inbox)
    inbox.disconnected()
    again = ticket(7, connection=2)
    assert inbox.arrived(message(), again, NOW) is Verdict.WAIT
    assert inbox.next(NOW, never) is None
    assert inbox.finished(delivery, failed=False) is Verdict.HANDLED
    assert delivery.ticket == again


def test_expired_on_arrival() -> None:
    inbox = make()
    assert inbox.arrived(message(expires_at=NOW), ticket(), NOW) is Verdict.EXPIRED
    assert inbox.arrived(message("m2", expires_at=NOW + timedelta(seconds=1)), ticket(), NOW) is Verdict.WAIT


def test_expired_while_it_waited() -> None:
    inbox = make()
    inbox.arrived(message(expires_at=NOW + timedelta(seconds=1)), ticket(), NOW)
    dropped = Dropped()
    assert inbox.next(NOW + timedelta(seconds=2), dropped) is None
    assert dropped == [("m1", Verdict.EXPIRED)]
    assert inbox.arrived(message(), ticket(), NOW) is Verdict.DUPLICATE


def test_a_failed_message_rests_while_others_pass() -> None:
    inbox = make()
    inbox.arrived(message("m1"), ticket(1), NOW)
    inbox.arrived(message("m2"), ticket(2), NOW)
    first = begin(inbox)
    assert inbox.finished(first, failed=True) is Verdict.REST
    assert first.rest_s == 5
    assert begin(inbox).message.id == "m2"


def test_a_message_that_never_works_is_given_up() -> None:
    inbox = make(attempts_max=3)
    inbox.arrived(message(), ticket(), NOW)
    verdicts = []
    for attempt in (1, 2, 3):
        delivery = begin(inbox)
        assert delivery.message.attempt == attempt
        verdicts.append(inbox.finished(delivery, failed=True))
        inbox.again(delivery, connection=1) if verdicts[-1] is Verdict.REST else None
    assert verdicts == [Verdict.REST, Verdict.REST, Verdict.GIVEN_UP]
    assert inbox.arrived(message(), ticket(), NOW) is Verdict.DUPLICATE


def test_a_message_that_kills_the_process_is_given_up() -> None:
    notes = Notes()
    for _ in range(3):
        inbox = make(notes, attempts_max=3)
        assert inbox.arrived(message(), ticket(), NOW) is Verdict.WAIT
        begin(inbox)  # and the process dies
    assert make(notes, attempts_max=3).arrived(message(), ticket(), NOW) is Verdict.GIVEN_UP


def test_being_stopped_is_no_failure() -> None:
    notes = Notes()
    for _ in range(10):
        inbox = make(notes, attempts_max=3)
        assert inbox.arrived(message(), ticket(), NOW) is Verdict.WAIT
        inbox.interrupted(begin(inbox))


def test_waiting_in_the_queue_is_no_attempt() -> None:
    notes = Notes()
    for _ in range(10):
        assert make(notes, attempts_max=3).arrived(message(), ticket(), NOW) is Verdict.WAIT


def test_the_rest_grows_up_to_five_minutes() -> None:
    delivery = Delivery(message(), ticket())
    rests = []
    for delivery.failures in range(1, 10):
        rests.append(delivery.rest_s)
    assert rests == [5, 10, 20, 40, 80, 160, 300, 300, 300]


@pytest.mark.parametrize("resting", [False, True])
def test_without_id_only_the_new_copy_counts(resting: bool) -> None:
    """The broker sends it again after a reconnect, and nothing says that it is the same."""
    inbox = make()
    inbox.arrived(message(""), ticket(), NOW)
    delivery = None
    if resting:
        delivery = begin(inbox)
        inbox.finished(delivery, failed=True)
    inbox.disconnected()
    inbox.arrived(message(""), ticket(connection=2), NOW)
    if delivery is not None:
        inbox.again(delivery, connection=2)
    assert begin(inbox).ticket.connection == 2
    assert inbox.next(NOW, never) is None


def test_a_flood_at_qos_0_is_bounded() -> None:
    inbox = make()
    verdicts = Counter(inbox.arrived(message(""), ticket(0, qos=0), NOW) for _ in range(100))
    assert verdicts == {Verdict.WAIT: 10, Verdict.DROPPED: 90}


def test_a_newer_one_with_its_collapse_key_replaces_one_that_waits() -> None:
    inbox = make()
    for name, key in (("m1", "order"), ("m2", ""), ("m3", "order"), ("m4", "other")):
        inbox.arrived(message(name, key=key), ticket(), NOW)
    dropped = Dropped()
    seen = []
    while (delivery := inbox.next(NOW, dropped)) is not None:
        seen.append((delivery.message.id, delivery.message.replaces))
        inbox.finished(delivery, failed=False)
    assert seen == [("m2", ()), ("m3", ()), ("m4", ())]
    assert dropped == [("m1", Verdict.REPLACED)]
    assert inbox.arrived(message("m1", key="order"), ticket(), NOW) is Verdict.DUPLICATE


def test_one_on_the_screen_is_named_to_the_one_that_replaces_it() -> None:
    inbox = make()
    inbox.arrived(message("m1", key="order"), ticket(), NOW)
    inbox.finished(begin(inbox), failed=False)
    inbox.arrived(message("m2", key="order"), ticket(), NOW)
    assert begin(inbox).message.replaces == ("m1",)


def test_an_older_one_that_comes_late_is_replaced() -> None:
    notes = Notes()
    inbox = make(notes)
    inbox.arrived(message("m2", key="order"), ticket(), NOW)
    inbox.finished(begin(inbox), failed=False)
    assert make(notes).arrived(message("m1", key="order"), ticket(), NOW) is Verdict.REPLACED


def test_one_that_rests_is_replaced() -> None:
    inbox = make()
    inbox.arrived(message("m1", key="order"), ticket(1), NOW)
    older = begin(inbox)
    inbox.finished(older, failed=True)
    inbox.arrived(message("m2", key="order"), ticket(2), NOW)
    inbox.finished(begin(inbox), failed=False)
    inbox.again(older, connection=1)
    dropped = Dropped()
    assert inbox.next(NOW, dropped) is None
    assert dropped == [("m1", Verdict.REPLACED)]


def test_one_that_was_never_shown_replaces_nothing() -> None:
    inbox = make(attempts_max=1)
    inbox.arrived(message("m2", key="order"), ticket(2), NOW)
    assert inbox.finished(begin(inbox), failed=True) is Verdict.GIVEN_UP
    inbox.arrived(message("m1", key="order"), ticket(1), NOW)
    assert begin(inbox).message.id == "m1"


def test_withdrawn_before_the_handler_ran() -> None:
    inbox = make()
    inbox.arrived(message("m1"), ticket(1), NOW)
    assert not inbox.withdraw(["m1", "m2"])
    dropped = Dropped()
    assert inbox.next(NOW, dropped) is None
    assert dropped == [("m1", Verdict.WITHDRAWN)]
    assert inbox.arrived(message("m2"), ticket(2), NOW) is Verdict.DUPLICATE  # it was on its way


@pytest.mark.parametrize(("failed", "verdict"), [(False, Verdict.HANDLED), (True, Verdict.WITHDRAWN)])
def test_withdrawn_while_the_handler_ran(failed: bool, verdict: Verdict) -> None:
    inbox = make()
    inbox.arrived(message("m1"), ticket(1), NOW)
    delivery = begin(inbox)
    assert inbox.withdraw(["m1"])
    assert inbox.finished(delivery, failed=failed) is verdict
    assert not inbox.withdraw(["m1"])
    assert inbox.arrived(message("m1"), ticket(1), NOW) is Verdict.DUPLICATE


class Life(RuleBasedStateMachine):
    """Messages, failures, reconnects and restarts in any order: nothing is handled twice, nothing lost."""

    def __init__(self) -> None:
        super().__init__()
        self.notes = Notes()
        self.connection = 1
        self.unacknowledged: dict[str, Ticket] = {}  # what a broker with this session would hold
        self.returned: Counter[str] = Counter()
        self.given_up: set[str] = set()
        self.packet_ids = 0
        self.sent = 0
        self.restart()

    def settle(self, delivery_id: str, verdict: Verdict, ticket: Ticket) -> None:
        if verdict is Verdict.GIVEN_UP:
            self.given_up.add(delivery_id)
        if verdict.acknowledges and ticket.connection == self.connection:
            assert self.unacknowledged.pop(delivery_id) == ticket

    def deliver(self, message_id: str) -> None:
        self.packet_ids += 1
        ticket = self.unacknowledged[message_id] = Ticket(self.connection, self.packet_ids, 1)
        self.settle(message_id, self.inbox.arrived(message(message_id), ticket, NOW), ticket)

    @rule()
    def send(self) -> None:
        self.sent += 1
        self.deliver(f"m{self.sent}")

    @rule()
    def begin(self) -> None:
        delivery = self.inbox.next(NOW, never)
        if delivery is not None:
            self.running.append(delivery)

    @precondition(lambda self: self.running)
    @rule(failed=st.booleans())
    def finish(self, failed: bool) -> None:
        delivery = self.running.pop(0)
        if not failed:
            self.returned[delivery.message.id] += 1
        verdict = self.inbox.finished(delivery, failed=failed)
        if verdict is Verdict.REST:
            self.resting.append(delivery)
        self.settle(delivery.message.id, verdict, delivery.ticket)

    @precondition(lambda self: self.resting)
    @rule()
    def wake(self) -> None:
        self.inbox.again(self.resting.pop(0), connection=self.connection)

    @rule()
    def reconnect(self) -> None:
        self.connection += 1
        self.inbox.disconnected()
        for message_id in list(self.unacknowledged):
            self.deliver(message_id)

    @rule()
    def restart(self) -> None:
        self.inbox = make(self.notes, concurrency=2)
        self.running: list[Delivery] = []
        self.resting: list[Delivery] = []
        self.connection += 1
        for message_id in list(self.unacknowledged):
            self.deliver(message_id)

    @invariant()
    def nothing_twice(self) -> None:
        assert all(count == 1 for count in self.returned.values())

    def teardown(self) -> None:
        """Run until nothing is left: every message was handled once, or given up after failures."""
        while self.unacknowledged:
            self.begin()
            if self.running:
                self.finish(False)
            elif self.resting:
                self.wake()
        everything = {f"m{n}" for n in range(1, self.sent + 1)}
        assert set(self.returned) | self.given_up == everything
        assert not set(self.returned) & self.given_up


Life.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLife = Life.TestCase
