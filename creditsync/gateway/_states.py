"""
What may become of an operation that is sent to another platform, as one table.

Only what is written here can happen: L{checkMove} is called for each change of state,
and a change that the table lacks is a fault of the gateway, never a booking.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final


class State(Enum):
    """
    How far an operation has come.

    @cvar NEW: Nothing was sent. It is only in memory: what is not in the log was never
        sent.
    @cvar SENT: It is in the log, and may have been sent. Its order is not known.
    @cvar PENDING: Its finance request has this order, and moves no money yet.
    @cvar ACCEPTED: The platform has it queued under this order.
    @cvar UNSEEN: It was sent, its outcome is not known, and the platform does not show
        it.
    @cvar HELD: That went on for so long, or what the platform shows is so
        contradictory, that a person has to decide. Evidence may still settle it.
    @cvar BOOKED: The platform's final record is in the journal.
    @cvar REFUSED: The platform has refused it, or it was never sent.
    @cvar ABSENT: A person has decided that it was never booked.
    """

    NEW = "new"
    SENT = "sent"
    PENDING = "pending"
    ACCEPTED = "accepted"
    UNSEEN = "unseen"
    HELD = "held"
    BOOKED = "booked"
    REFUSED = "refused"
    ABSENT = "absent"


_NEW, _SENT, _PENDING, _ACCEPTED, _UNSEEN, _HELD, _BOOKED, _REFUSED, _ABSENT = State

# To which states each leads, and by what.
MOVES: Final[Mapping[State, Mapping[State, str]]] = {
    _NEW: {
        _SENT: "it is durable, and will be sent",
        _REFUSED: "it can't be carried out or sent now",
    },
    _SENT: {
        _PENDING: "a finance request has an order",
        _ACCEPTED: "a reply or a look-up names the order",
        _BOOKED: "the final record is there before that",
        _REFUSED: "a definite no, or no byte of it was sent",
        _UNSEEN: "a look-up does not find it",
        _HELD: "look-ups find several or fail, or the reply names another order",
    },
    _PENDING: {
        _ACCEPTED: "its approval is accepted",
        _BOOKED: "the final record",
        _REFUSED: "it was declined, or its approval refused",
        _UNSEEN: "a look-up does not find it",
        _HELD: "its order is another trade's, look-ups fail, or nobody approves it",
    },
    _ACCEPTED: {
        _BOOKED: "the final record",
        _REFUSED: "the platform has declined it",
        _UNSEEN: "a look-up does not find it",
        _HELD: "its order is another trade's, look-ups fail, or nobody approves it",
    },
    _UNSEEN: {
        _PENDING: "a late reply or a look-up names the finance request",
        _ACCEPTED: "a late reply or a look-up names the order",
        _BOOKED: "the final record",
        _REFUSED: "a late reply is a definite no",
        _HELD: "look-ups have not found it for the quiet time, or find several",
    },
    _HELD: {
        _PENDING: "a late reply or a look-up names the finance request",
        _ACCEPTED: "a late reply or a look-up names the order",
        _BOOKED: "the final record, or a person",
        _REFUSED: "a late reply is a definite no",
        _HELD: "a look-up finds several at last",
        _ABSENT: "a person",
    },
    _BOOKED: {},
    _REFUSED: {},
    _ABSENT: {},
}

# From which nothing follows.
FINAL: Final = frozenset(state for state, moves in MOVES.items() if not moves)

# Whose outcome is not known.
OPEN: Final = frozenset(MOVES) - FINAL - {State.NEW}

# After which the same key is free again: nothing was booked under it.
FREE: Final = frozenset({State.REFUSED, State.ABSENT})


class IllegalMove(Exception):
    """
    The table has no such change of state.
    """


def checkMove(old: State, new: State) -> None:
    """
    Check a change of state.

    @raise IllegalMove: The table does not have it.
    """
    if new not in MOVES[old]:
        raise IllegalMove(f"what is {old.value} can't become {new.value}")
