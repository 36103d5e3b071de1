"""What may become of a conversation: its states, and the one table of moves between them.

    automated ──hand_over, assign──→ waiting ──take, reply──→ agent
        ↑  └────────take, reply──────────│──────────────────────↑ │
        └───────────────────────────hand_back─────────────────────┘
    and each of them ──close──→ closed

Nothing leads out of a closed one: who asks again begins another.
"""

from typing import Final, Literal

from broker.errors import NotFound, Refused
from broker.store.conversations import State

Move = Literal["hand_over", "take", "reply", "hand_back", "assign", "close"]

MOVES: Final[dict[tuple[State, Move], State]] = {
    ("automated", "hand_over"): "waiting",
    ("automated", "assign"): "waiting",
    ("automated", "take"): "agent",
    ("automated", "reply"): "agent",
    ("automated", "close"): "closed",
    ("waiting", "assign"): "waiting",
    ("waiting", "take"): "agent",
    ("waiting", "reply"): "agent",
    ("waiting", "hand_back"): "automated",
    ("waiting", "close"): "closed",
    ("agent", "assign"): "waiting",
    ("agent", "take"): "agent",
    ("agent", "reply"): "agent",
    ("agent", "hand_back"): "automated",
    ("agent", "close"): "closed",
}
# What only the agent may do who has it, where one has.
_OWN: Final[tuple[Move, ...]] = ("take", "reply", "hand_back", "close")


class InboxRefused(Refused):
    """What an agent cannot do. `code` says why, for programs; `field` is what is at fault."""

    def __init__(self, code: str, field: str, message: str, remedy: str = "") -> None:
        super().__init__(message, reason=0x83, remedy=remedy)
        self.code = code
        self.field = field


class InboxUnknown(InboxRefused, NotFound):
    """What they name is not there."""


def moved(state: State, move: Move, *, has: str = "", by: str = "") -> State:
    """The state after a move by the agent `by` of a conversation that the agent `has` has. Raises `InboxRefused`."""
    after = MOVES.get((state, move))
    if after is None:
        what = "is closed" if state == "closed" else "is with the automation"
        remedy = "When the customer asks again, another one begins." if state == "closed" else ""
        raise InboxRefused("bad_state", "conversation", f"the conversation {what}", remedy)
    if state == "agent" and by and has != by and move in _OWN:
        raise InboxRefused("taken", "conversation", f"{has} has the conversation", "Assign it first.")
    return after
