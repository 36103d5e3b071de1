"""What a client may do where that does not follow from who it is: somebody outside is asked, and answers later.

    a packet names a topic or a filter
      known, and not for longer than DECISION_S   → it is served
      not known                                   → it waits, its connection is not read, `ask` goes out
    the answer has come                           → it is served, and reading goes on, in order

Nothing of this is on the way of a message: a topic that was allowed is in the channel's routes like everybody's, and
leaves them when what is known is forgotten, all of it together, DECISION_S after the first of it was learnt.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from broker.errors import ProtocolError
from broker.limits import DECISION_S, DECISIONS_MAX
from broker.session import publish, subscribe
from broker.session.channel import ASKING
from broker.wire.packets import Publish, Subscribe
from broker.wire.topics import covers

if TYPE_CHECKING:
    from broker.session.channel import Channel

Action = Literal["publish", "subscribe"]
# For each name whether that is allowed; None: there was no answer, which is a no that is not remembered.
Verdicts = Sequence[bool | None]
# Asks whether an action is allowed on each name, and has the verdicts given to the callback, later, never at once.
Ask = Callable[[Action, Sequence[str], Callable[[Verdicts], None]], None]


def is_open(opened: Sequence[str], name: str) -> bool:
    """Whether a topic, or all that a filter matches, is within `opened`."""
    return any(covers(filter, name) for filter in opened)


class Rights:
    """The rights of one connection. `opened` are the filters beyond which nobody need be asked: the answer is no."""

    __slots__ = ("_ask", "_known", "_opened", "_packet", "channel", "wheel_at")

    def __init__(self, channel: "Channel", opened: Sequence[str], ask: Ask) -> None:
        self.channel = channel
        self.wheel_at = 0
        self._opened = opened
        self._ask = ask
        self._known: dict[tuple[Action, str], bool] = {}
        self._packet: Publish | Subscribe | None = None

    @property
    def asking(self) -> bool:
        """Whether a packet waits for an answer. Until then the channel is held."""
        return self._packet is not None

    def allowed(self, action: Action, names: Sequence[str], packet: Publish | Subscribe) -> set[str] | None:
        """Those of `names` that are allowed; None if that has to be asked: then `packet` is served again."""
        known = self._known
        open_ones = [name for name in dict.fromkeys(names) if is_open(self._opened, name)]
        unknown = [name for name in open_ones if (action, name) not in known]
        if not unknown:
            return {name for name in open_ones if known[action, name]}
        if len(known) + len(unknown) > DECISIONS_MAX:
            self._forget()
            unknown = open_ones
        channel = self.channel
        self._packet = packet
        channel.held |= ASKING
        channel.pause()
        self._ask(action, unknown, lambda verdicts: self._answered(action, unknown, verdicts))
        return None

    def _answered(self, action: Action, names: Sequence[str], verdicts: Verdicts) -> None:
        channel, packet, known = self.channel, self._packet, self._known
        session, core = channel.session, channel.core
        if session is None or packet is None:
            return  # the connection is gone
        core.wheel.schedule(self, core.now + DECISION_S)
        known.update({(action, name): bool(verdict) for name, verdict in zip(names, verdicts, strict=True)})
        self._packet = None
        channel.held &= ~ASKING
        channel.seen = core.now  # that nothing was read of it is not its silence
        try:
            if isinstance(packet, Publish):
                publish.serve(channel, session, packet)
            else:
                subscribe.subscribe(channel, session, packet)
        except ProtocolError as error:
            channel.fail(error)
        for name, verdict in zip(names, verdicts, strict=True):
            if verdict is None:
                del known[action, name]
        if not channel.held:
            core.after_round(channel)

    def _forget(self) -> None:
        self._known.clear()
        self.channel.routes.clear()

    def due(self, now: float) -> float:  # noqa: ARG002 - the wheel's word
        """What is known has been so for long enough (the wheel calls this)."""
        self._forget()
        return 0.0
