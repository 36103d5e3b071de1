"""What a brand sends, from keyword arguments to a PUBLISH; and what comes back, from receipts to who waits for them."""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypedDict, TypeVar, Unpack

from client_sdk.message import Receipt, Summary
from client_sdk.notification import CONTENT_TYPE, Action, Notification, Priority
from client_sdk.packets import Publish
from client_sdk.topics import target

# Receipts can overtake the PUBACK that tells the message's id, as a device may be faster than the broker's disk.
_EARLY_MAX: Final = 1_000
_RECEIPTS_MAX: Final = 10_000


class SendOptions(TypedDict, total=False):
    """What `send` takes: one `to_…`, and either the fields of a notification or a `payload`.

    `payload` is bytes, or text, sent as it is with `content_type`. `ttl` (seconds or a timedelta) is how long the
    message is worth delivering: the broker drops it after that, and so does the device. With `receipt` (the default)
    the broker reports each delivery. `user_properties` travel along unchanged.
    """

    to_user: str
    to_device: str
    to_store: str
    to_topic: str
    notification: Notification
    title: str
    body: str
    image: str
    click: str
    actions: Sequence[Action]
    data: Mapping[str, Any]
    priority: Priority
    collapse_key: str
    expires_at: datetime
    payload: bytes | str
    content_type: str
    user_properties: Sequence[tuple[str, str]]
    ttl: float | timedelta
    receipt: bool


_TARGETS: Final = ("user", "device", "store", "topic")
_FIELDS: Final = frozenset(
    {"title", "body", "image", "click", "actions", "data", "priority", "collapse_key", "expires_at"}
)


def compose(brand: str, now: datetime, **options: Unpack[SendOptions]) -> Publish:
    """The PUBLISH that the options describe. Raises `ValueError` when they do not describe one."""
    targets = [(kind, options[f"to_{kind}"]) for kind in _TARGETS if f"to_{kind}" in options]  # type: ignore[literal-required]
    if len(targets) != 1:
        raise ValueError("name one receiver: to_user=, to_device=, to_store= or to_topic=")
    if unknown := options.keys() - SendOptions.__annotations__.keys():
        raise ValueError(f"send does not know {', '.join(sorted(unknown))}")

    expiry_s = None
    if "ttl" in options:
        ttl = options["ttl"]
        expiry_s = int(ttl.total_seconds() if isinstance(ttl, timedelta) else ttl)
        if not 0 < expiry_s < 1 << 32:
            raise ValueError("ttl must be at least one second")

    fields = {name: value for name, value in options.items() if name in _FIELDS}
    if ("payload" in options) + ("notification" in options) + bool(fields) != 1:
        raise ValueError("give the fields of a notification (title=, body=, …), or notification=, or payload=")
    if "payload" in options:
        payload = options["payload"]
        content_type = options.get("content_type", "text/plain; charset=utf-8" if isinstance(payload, str) else "")
        content = payload.encode() if isinstance(payload, str) else bytes(payload)
    else:
        if "content_type" in options:
            raise ValueError("content_type= goes with payload=: a notification has its own")
        if "notification" in options:
            notification = options["notification"]
        else:
            if expiry_s is not None:  # on the device the JSON counts, too: a message can expire in flight
                fields.setdefault("expires_at", now.astimezone(UTC) + timedelta(seconds=expiry_s))
            fields["actions"] = tuple(options.get("actions", ()))
            notification = Notification(**fields)  # type: ignore[arg-type]
        content, content_type = notification.to_json(), CONTENT_TYPE

    properties = [(str(name), str(value)) for name, value in options.get("user_properties", ())]
    if options.get("receipt", True):
        properties.append(("receipt", "delivered"))
    return Publish(
        topic=target(brand, *targets[0]),
        payload=content,
        content_type=content_type,
        expiry_s=expiry_s,
        user_properties=tuple(properties),
    )


class Tracked:
    """An accepted message, and what has become of it so far. Safe to use from any thread."""

    def __init__(self, message_id: str) -> None:
        self.message_id = message_id
        self._lock = threading.Lock()
        self._receipts: list[Receipt] = []
        self._known: set[tuple[str, ...]] = set()
        self._waiting: list[tuple[str, Future[Receipt]]] = []
        self.summary: Summary | None = None
        """The newest counts, of a push with `receipts="summary"`."""

    @property
    def receipts(self) -> tuple[Receipt, ...]:
        """All receipts so far, one for each device and event (up to 10,000)."""
        with self._lock:
            return tuple(self._receipts)

    def expect(self, event: str) -> Future[Receipt]:
        """A future that gets the first receipt for `event`, an earlier one too."""
        future: Future[Receipt] = Future()
        with self._lock:
            for receipt in self._receipts:
                if receipt.event == event:
                    future.set_result(receipt)
                    return future
            self._waiting = [(name, other) for name, other in self._waiting if not other.cancelled()]
            self._waiting.append((event, future))
        return future

    def learn(self, receipt: Receipt | Summary) -> None:
        """Add a receipt, once: at QoS 1 it may come again. Of summaries the newest counts."""
        with self._lock:
            if isinstance(receipt, Summary):
                if self.summary is None or self.summary.at <= receipt.at:
                    self.summary = receipt
                return
            known = _which(receipt)
            if known in self._known or len(self._known) >= _RECEIPTS_MAX:
                return
            self._known.add(known)
            self._receipts.append(receipt)
            met = [future for event, future in self._waiting if event == receipt.event]
            self._waiting = [(event, future) for event, future in self._waiting if event != receipt.event]
        for future in met:
            if future.set_running_or_notify_cancel():
                future.set_result(receipt)


def _which(receipt: Receipt) -> tuple[str, ...]:
    return (receipt.event, receipt.device, receipt.recipient, receipt.action)


class PlainSend(Tracked):
    """An accepted message on one topic."""

    def __init__(self, message_id: str, topic: str, *, no_subscribers: bool) -> None:
        super().__init__(message_id)
        self.topic = topic
        self.no_subscribers = no_subscribers
        """Nobody listens to the topic: no device of that name ever connected, or its session has expired."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(message_id={self.message_id!r}, topic={self.topic!r})"


S = TypeVar("S", bound=Tracked)


class Ledger:
    """Brings receipts to the messages that are still held by somebody. For one thread only."""

    def __init__(self) -> None:
        self._sent: weakref.WeakValueDictionary[str, Tracked] = weakref.WeakValueDictionary()
        self._early: OrderedDict[str, list[Receipt | Summary]] = OrderedDict()

    def accepted(self, sent: S) -> S:
        """A message has got its id."""
        for receipt in self._early.pop(sent.message_id, ()):
            sent.learn(receipt)
        if sent.message_id:
            self._sent[sent.message_id] = sent
        return sent

    def received(self, receipt: Receipt | Summary) -> None:
        """A receipt came; one for a message that nobody here knows (yet) is kept for a while."""
        sent = self._sent.get(receipt.message_id)
        if sent is not None:
            sent.learn(receipt)
            return
        self._early.setdefault(receipt.message_id, []).append(receipt)
        self._early.move_to_end(receipt.message_id)
        if len(self._early) > _EARLY_MAX or len(self._early[receipt.message_id]) > _EARLY_MAX:
            self._early.popitem(last=False)
