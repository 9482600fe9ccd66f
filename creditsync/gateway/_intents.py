"""
The intent log: what was, or may have been, sent to the platform.

A row is durable before its first byte is sent, and it is changed by the same
transaction that appends its booking to the journal. So after a crash at any point the
log names everything that the platform may have, and nothing is booked here twice.

The log stands in the ledger's own database.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, TypeAlias

from attrs import define
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from creditsync.gateway._states import OPEN, State, checkMove
from creditsync.interfaces import ILedger
from creditsync.records import Deletion, Operation, Reservation, Trade

# How the reason begins for which an ambiguous operation is held.
SEVERAL: Final = "the platform has several such trades"

# How the reason ends for which an operation is held whose order is given to another.
ANOTHERS: Final = "is another trade's"

# The attempts of an operation that is not made by a finance request.
SENT_ITSELF: Final = 1


@define(eq=False)
class Intent:
    """
    An operation for the platform.

    @ivar number: Its number in the log, from 1.
    @ivar type: Of the trade event that it leads to: one of the C{EV_RECORD_*} codes.
    @ivar operation: As requested. Its own times may lack in it.
    @ivar amount: Signed, in 10⁻⁸ units.
    @ivar comment: As it is sent, with the tag; that of a deletion is the trade's,
        without.
    @ivar openTime: As it is sent, in UNIX seconds.
    @ivar order: The platform's, or 0 while it is not known.
    @ivar attempts: L{SENT_ITSELF} if it was sent as itself, which is done only once.
        Otherwise one more than the finance requests that were made for it.
    @ivar looks: How many look-ups have not found it since it was sent.
    @ivar sentAt: When it was sent last, in UNIX seconds.
    @ivar why: What led to the state, for people.
    @ivar decidedBy: The person who has decided, or "".
    @ivar place: Of its record in the journal, once that is durable.
    """

    number: int
    type: int
    operation: Operation | Deletion
    login: int
    cmd: int
    amount: int
    comment: str
    openTime: int | None = None
    closeTime: int | None = None
    state: State = State.NEW
    order: int = 0
    attempts: int = 0
    looks: int = 0
    sentAt: int = 0
    why: str = ""
    decidedBy: str = ""
    place: int | None = None

    def move(self, state: State, why: str = "") -> None:
        """
        Change the state.

        @raise IllegalMove: The table of L{creditsync.gateway._states} lacks that.
        """
        checkMove(self.state, state)
        self.state, self.why = state, why

    @property
    def content(self) -> tuple[int, int, int, str, int | None]:
        """
        What identifies it at the platform while its order is not known.
        """
        return self.login, self.cmd, self.amount, self.comment, self.openTime

    @property
    def tag(self) -> str:
        """
        What its comment was given besides, so that it can be recognized: "" if nothing.
        """
        if not isinstance(self.operation, Operation):
            return ""
        return self.comment[len(self.operation.comment) :]

    def isTagOf(self, comment: str) -> bool:
        """
        Whether a comment has its tag.
        """
        return bool(self.tag) and comment.endswith(self.tag)

    @property
    def isRequested(self) -> bool:
        """
        Whether finance requests were made for it. Only then may it be sent again: the
        way may have been another one before this start.
        """
        return self.state is State.PENDING or self.attempts > SENT_ITSELF

    @property
    def plainComment(self) -> str:
        """
        Its comment as clients see it.
        """
        return self.comment.removesuffix(self.tag)

    @property
    def isAmbiguous(self) -> bool:
        """
        Whether the platform has shown several trades that it may have made: then its
        content does not identify it any more.
        """
        return self.why.startswith(SEVERAL)

    @property
    def toldOrder(self) -> int:
        """
        The order that clients are told, or 0: not one that the platform shows as
        another trade, as after a crash that has lost this one.
        """
        isLost = self.state is State.HELD and self.why.endswith(ANOTHERS)
        return 0 if isLost else self.order

    @property
    def isOpen(self) -> bool:
        """
        Whether it was sent and its outcome is not known.
        """
        return self.state in OPEN


# The UNIX time, and what people should know.
Alarm: TypeAlias = tuple[int, str]


class IIntentLog(Interface):
    """
    The intents of a gateway, and the ledger in which they stand.

    Except for L{write} everything is about what is durable.
    """

    ledger: ILedger = Attribute("Has the journal.")
    mark: int = Attribute(
        "The platform's greatest update_time up to which the journal has all changes; 0"
        " if that is not known."
    )

    problem: str | None = Attribute(
        "Why nothing becomes durable just now, or L{None}. Nothing is sent then."
    )

    interrupted: Callable[[], object] = Attribute(
        "Called, if the gateway has set it, when another gateway may have taken over:"
        " the next L{write} tells."
    )

    def open() -> "Deferred[None]":
        """
        Open the ledger, and make the log where there is none.
        """

    def epochs() -> Sequence[str]:
        """
        Those of all lives of the ledger, the present one last.
        """

    def close() -> None:
        """
        Close the ledger. If it is being opened, that fails.
        """

    def setGroups(groups: Mapping[int, str]) -> "Deferred[None]":
        """
        Move accounts to groups, and open those that don't exist. As with L{write}, the
        next may begin only when this has ended.
        """

    def nextNumber() -> int:
        """
        A number for a new intent.
        """

    def unfinished() -> Sequence[Intent]:
        """
        The intents whose outcome is not known, in the order of their numbers.
        """

    def withKey(principal: int, key: str) -> Intent | None:
        """
        The one that was sent under a key, unless nothing was booked under it.
        """

    def withOrder(order: int) -> Intent | None:
        """
        The last one of an order that was not refused.
        """

    def isTaken(content: tuple[int, int, int, str, int | None]) -> bool:
        """
        Whether an intent has this content, of those that were not refused.
        """

    def withContent(
        content: tuple[int, int, int, str, int | None],
    ) -> Intent | None:
        """
        The last new trade of this content, refused or not.
        """

    def versions(order: int) -> Sequence[Trade]:
        """
        All records of an order in the journal.
        """

    def lastBooked(limit: int) -> Sequence[Intent]:
        """
        The last intents that are booked, the newest first.
        """

    def noteOrder(order: int) -> None:
        """
        An order of the platform is about to be written.
        """

    def write(
        intents: Collection[Intent],
        reservations: Sequence[Reservation],
        mark: int,
        alarms: Sequence[Alarm] = (),
    ) -> "Deferred[None]":
        """
        Make intents, reservations and alarms durable, in one transaction. The next may
        begin only when this has ended. An intent without a place that is booked gets
        the place of its order.

        @return: Fires when all of it is on disk. If it fails, it is unknown what is.
        """


def firstOf(found: Sequence[Intent]) -> Intent | None:
    """
    The first of them, if there is one.
    """
    return found[0] if found else None


def givePlaces(
    intents: Collection[Intent],
    reservations: Sequence[Reservation],
    placeOf: Callable[[int], int | None],
) -> None:
    """
    Give each booked intent the place of its record.
    """
    for intent in intents:
        if intent.state is not State.BOOKED or intent.place is not None:
            continue
        for each in reservations:
            if each.operation is intent.operation:
                intent.place = each.place
                break
        else:
            intent.place = placeOf(intent.order)
