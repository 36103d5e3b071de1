"""Every state, every move."""

from typing import get_args

import pytest

from broker.pull.moves import MOVES, InboxRefused, Move, moved
from broker.store.conversations import State

STATES = get_args(State)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("move", get_args(Move))
def test_each_move_of_each_state_is_in_the_table_or_refused(state: State, move: Move) -> None:
    if (state, move) in MOVES:
        assert moved(state, move) in STATES
    else:
        with pytest.raises(InboxRefused) as refused:
            moved(state, move)
        assert refused.value.code == "bad_state"


def test_nothing_leads_out_of_a_closed_one_and_only_a_close_leads_there() -> None:
    assert not [move for state, move in MOVES if state == "closed"]
    assert {move for (_, move), after in MOVES.items() if after == "closed"} == {"close"}


@pytest.mark.parametrize("move", ["take", "reply", "hand_back", "close"])
def test_what_one_agent_has_another_must_be_assigned_first(move: Move) -> None:
    with pytest.raises(InboxRefused, match="mia has the conversation"):
        moved("agent", move, has="mia", by="leo")
    assert moved("agent", move, has="mia", by="mia") == MOVES["agent", move]
    assert moved("agent", "assign", has="mia", by="leo") == "waiting"
