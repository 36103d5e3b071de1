"""How much each may do in a second: token buckets of identities, addresses and listeners.

A bucket is kept as one number, the time at which it is full again (the generic cell rate algorithm in its virtual
scheduling form, ITU-T I.371 annex A): taking something out moves that time on, and nobody has to fill anything. Each
bucket holds what BURST_S seconds bring. Who takes more is not told, and nothing is lost: its connection is not read
until there is something in the bucket again, and TCP makes it wait.
"""

from typing import Final

import msgspec

from broker.identity import DEVICES, Identity, Role
from broker.limits import BURST_S, METERS_MAX

_SERVER: Final = Role.SERVER  # an enum's member costs 60 ns each time it is named
_SWEEP_MIN: Final = 1024


class Rates(msgspec.Struct, frozen=True):
    """What may be done in a second. 0: as much as one likes."""

    connects: int = 0
    messages: int = 0  # publishes, and topic filters in SUBSCRIBE and UNSUBSCRIBE
    bytes: int = 0


NO_RATES: Final = Rates()


class RatesOf(msgspec.Struct, frozen=True):
    """Those of each identity of a kind, and of each address."""

    device: Rates = NO_RATES
    server: Rates = NO_RATES
    address: Rates = NO_RATES

    def of(self, role: Role) -> Rates:
        """What one identity of `role` may do."""
        if role in DEVICES:
            return self.device
        return self.server if role is _SERVER else NO_RATES


class Meter:
    """Three buckets: when each is full again, in monotonic seconds."""

    __slots__ = ("bytes", "connects", "messages")

    def __init__(self) -> None:
        self.connects = self.messages = self.bytes = 0.0

    def may_connect(self, rates: Rates, now: float) -> bool:
        """Whether there is a connect left."""
        return not rates.connects or max(self.connects, now) + 1 / rates.connects <= now + BURST_S

    def connect(self, rates: Rates, now: float) -> bool:
        """Take a connect out; False, and nothing is taken, when there is none left."""
        if not self.may_connect(rates, now):
            return False
        self.charge(rates, now, 1)
        return True

    def charge(self, rates: Rates, now: float, connects: int) -> None:
        """Take connects out, more than there are if need be."""
        if rates.connects:
            self.connects = max(self.connects, now) + connects / rates.connects

    def spend(self, rates: Rates, now: float, messages: int, size: int) -> float:
        """Take messages and bytes out, more than there are if need be. Returns how many seconds then must pass."""
        over = 0.0
        if rates.messages:
            self.messages = max(self.messages, now) + messages / rates.messages
            over = self.messages - now - BURST_S
        if rates.bytes:
            self.bytes = max(self.bytes, now) + size / rates.bytes
            over = max(over, self.bytes - now - BURST_S)
        return over

    def full(self, now: float) -> bool:
        """Whether nothing is missing: a new one is as good."""
        return self.connects <= now and self.messages <= now and self.bytes <= now


class Meters:
    """The meters of those who did something lately, by name. Bounded: the full ones are forgotten, then the oldest."""

    __slots__ = ("_by_name", "_sweep_at")

    def __init__(self) -> None:
        self._by_name: dict[str, Meter] = {}
        self._sweep_at = _SWEEP_MIN

    def __len__(self) -> int:
        return len(self._by_name)

    def of(self, name: str, now: float) -> Meter:
        """The meter of `name`."""
        meter = self._by_name.get(name)
        if meter is None:
            if len(self._by_name) >= self._sweep_at:
                self._sweep(now)
            meter = self._by_name[name] = Meter()
        return meter

    def _sweep(self, now: float) -> None:
        kept = {name: meter for name, meter in self._by_name.items() if not meter.full(now)}
        if len(kept) > METERS_MAX // 2:
            kept = dict(list(kept.items())[-METERS_MAX // 2 :])
        self._by_name = kept
        self._sweep_at = max(_SWEEP_MIN, 2 * len(kept))


class Allowance:
    """What the connections of one kind of client on one listener may do; shared by all of them.

    `bounded`: whether anything of that has a bound at all.
    """

    __slots__ = ("_identities", "_listener", "_listener_bounded", "_listener_meter", "_rates", "bounded")

    def __init__(self, listener: Rates, meter: Meter, rates: Rates, identities: Meters) -> None:
        self._listener = listener
        self._listener_bounded = bool(listener.messages or listener.bytes)
        self._listener_meter = meter
        self._identities = identities
        self.change(rates)

    def change(self, rates: Rates) -> None:
        """From now on each identity may do this much."""
        self._rates = rates
        self.bounded = bool(rates.messages or rates.bytes or self._listener_bounded)

    def spend(self, identity: Identity, now: float, messages: int, size: int) -> float:
        """Something arrived. Returns for how many seconds (0 or less: none) its connection should not be read."""
        over = self._listener_meter.spend(self._listener, now, messages, size) if self._listener_bounded else 0.0
        if self._rates is not NO_RATES:
            meter = self._identities.of(identity.path, now)
            over = max(over, meter.spend(self._rates, now, messages, size))
        return over
