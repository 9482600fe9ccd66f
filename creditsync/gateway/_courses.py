"""
The operations that are under way, and whose turn it is.

Those of one login are carried out one after another, as the platform tells two alike
apart only by what they contain. One whose outcome is unknown blocks its login, and no
other.
"""

from collections import deque
from collections.abc import Iterator

from attrs import Factory, define
from twisted.internet.defer import Deferred

from creditsync.codes import EV_RECORD_ADD
from creditsync.errors import Refusal
from creditsync.gateway._intents import Intent
from creditsync.gateway._records import isContentOf
from creditsync.gateway._states import State
from creditsync.records import Reservation, Trade


@define(eq=False)
class KeptEvent:
    """
    An event that may belong to an operation whose order is not known yet.

    @ivar since: When it came, by the clock.
    """

    trade: Trade
    since: float


@define(eq=False)
class Course:
    """
    An operation on its way.

    @ivar since: When it was requested, by the clock.
    @ivar callers: Those that wait for its reservation.
    @ivar reservation: What they got.
    @ivar refusal: What the platform has refused its approval with.
    @ivar kept: Events that have overtaken its reply.
    @ivar isAsking: Whether a request for it is in flight.
    @ivar isLooking: Whether it is being looked up.
    @ivar isTold: Whether people were told that it takes long.
    @ivar unansweredSince: Since when the platform has not answered a look-up of it, by
        the clock, or L{None}.
    @ivar notMadeSince: Since when no finance request for it is known, by the clock, or
        L{None}.
    @ivar former: The trade that it changes.
    @ivar orders: Under which it is found.
    """

    intent: Intent
    since: float
    callers: list[Deferred[Reservation]] = Factory(list)
    reservation: Reservation | None = None
    refusal: Refusal | None = None
    kept: list[KeptEvent] = Factory(list)
    isAsking: bool = False
    isLooking: bool = False
    isTold: bool = False
    unansweredSince: float | None = None
    notMadeSince: float | None = None
    former: Trade | None = None
    orders: set[int] = Factory(set)

    def mayHaveMade(self, trade: Trade) -> bool:
        """
        Whether a trade may be what it has made, although its order is not known.
        """
        intent = self.intent
        isNameless = not intent.order and intent.type == EV_RECORD_ADD
        isSought = intent.isOpen and not intent.isAmbiguous
        return isNameless and isSought and isContentOf(intent, trade)

    def whenReserved(self) -> "Deferred[Reservation]":
        """
        Wait for its reservation, or for why there is none.
        """
        reserved: Deferred[Reservation] = Deferred()
        self.callers.append(reserved)
        return reserved

    def recognizes(self, trade: Trade) -> bool:
        """
        Whether a trade may be what it has made, by this record or by an earlier one of
        the same order: somebody may have changed it since.
        """
        return self.mayHaveMade(trade) or trade.order in self.candidates

    @property
    def candidates(self) -> set[int]:
        """
        The orders of the events that it may have caused.
        """
        kept = (each.trade for each in self.kept)
        return {trade.order for trade in kept if self.mayHaveMade(trade)}

    @property
    def shownAs(self) -> int:
        """
        The order as which the platform has shown a new trade, or 0.
        """
        if self.intent.type != EV_RECORD_ADD:
            return 0
        return self.intent.order or min(self.candidates, default=0)

    def mayClaim(self, trade: Trade) -> bool:
        """
        Whether the reply that it waits for may name the order of this trade.
        """
        intent = self.intent
        if not (self.isAsking and intent.isOpen and intent.login == trade.login):
            return False
        return intent.order in (0, trade.order)


@define(eq=False)
class _Lane:
    """
    The operations of a login.

    @ivar waiting: Those that nothing was done for yet.
    @ivar open: Those that are being carried out: nearly always one.
    """

    waiting: deque[Course] = Factory(deque)
    open: list[Course] = Factory(list)


@define(eq=False)
class Courses:
    """
    All operations that are under way.
    """

    _lanes: dict[int, _Lane] = Factory(dict)
    _ofKey: dict[tuple[int, str], Course] = Factory(dict)
    _ofOrder: dict[int, Course] = Factory(dict)
    _ofNumber: dict[int, Course] = Factory(dict)

    def __len__(self) -> int:
        return len(self._ofNumber)

    def __iter__(self) -> Iterator[Course]:
        """
        All of them, the oldest first.
        """
        return iter(list(self._ofNumber.values()))

    def withKey(self, principal: int, key: str) -> Course | None:
        """
        The one that was requested under a key.
        """
        return self._ofKey.get((principal, key))

    def withOrder(self, order: int) -> Course | None:
        """
        The one that makes or changes this order.
        """
        return self._ofOrder.get(order)

    def withNumber(self, number: int) -> Course | None:
        """
        The one of this intent.
        """
        return self._ofNumber.get(number)

    def openOf(self, login: int) -> list[Course]:
        """
        Those of a login that are being carried out.
        """
        lane = self._lanes.get(login)
        return [] if lane is None else list(lane.open)

    def blocking(self, login: int) -> Course | None:
        """
        The one that blocks a login, if one does.
        """
        for course in self.openOf(login):
            if course.intent.state in (State.UNSEEN, State.HELD):
                return course
        return None

    def add(self, course: Course) -> None:
        """
        Have an operation wait for its turn: see L{next}.
        """
        self.index(course)
        self._lane(course).waiting.append(course)

    def resume(self, course: Course) -> None:
        """
        Add one that is being carried out already.
        """
        self.index(course)
        self._lane(course).open.append(course)

    def _lane(self, course: Course) -> _Lane:
        return self._lanes.setdefault(course.intent.login, _Lane())

    def index(self, course: Course) -> None:
        """
        Have an operation found, before it is known whose turn it has to wait for.
        """
        intent, asked = course.intent, course.intent.operation
        self._ofNumber[intent.number] = course
        if asked.key is not None:
            self._ofKey[asked.principal, asked.key] = course
        self.note(course)

    def note(self, course: Course) -> None:
        """
        Its order is known.
        """
        intent = course.intent
        if intent.order and intent.state is not State.NEW:
            self._ofOrder[intent.order] = course
            course.orders.add(intent.order)

    def next(self, login: int) -> Course | None:
        """
        Begin the next one of a login, if none is being carried out.
        """
        lane = self._lanes.get(login)
        if lane is None or lane.open or not lane.waiting:
            return None
        course = lane.waiting.popleft()
        lane.open.append(course)
        return course

    def remove(self, course: Course) -> None:
        """
        An operation has ended.
        """
        intent, asked = course.intent, course.intent.operation
        self._ofNumber.pop(intent.number, None)
        if asked.key is not None:
            self._ofKey.pop((asked.principal, asked.key), None)
        for order in course.orders:
            if self._ofOrder.get(order) is course:
                del self._ofOrder[order]
        lane = self._lanes.get(intent.login)
        if lane is None:
            return
        for each in (lane.open, lane.waiting):
            if course in each:
                each.remove(course)
        if not lane.open and not lane.waiting:
            del self._lanes[intent.login]
