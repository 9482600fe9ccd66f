"""
How an operation ends: booked, refused, or held until a person decides.

L{Settling} is the base of L{creditsync.gateway._operations.Operations}; what is here
happens whichever way the end became known.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from attrs import define
from msgspec.structs import replace
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from creditsync.codes import (
    EV_RECORD_ADD,
    EV_RECORD_DELETE,
    TS_CLOSED_NORMAL,
    TS_DELETED,
)
from creditsync.errors import OutcomeUnknown, Refusal, TechProblem
from creditsync.gateway._courses import Course, Courses
from creditsync.gateway._intents import SEVERAL, IIntentLog, Intent
from creditsync.gateway._interfaces import IUpstream
from creditsync.gateway._journal import Journal
from creditsync.gateway._states import State
from creditsync.records import Reservation, Trade

_log = Logger()


@define(frozen=True)
class Timing:
    """
    Seconds.

    @ivar patience: How long an operation may wait for its turn. It has to be less than
        the time after which clients get a 504, so that they get a 503 before.
    @ivar finalWait: How long to wait for the final record of what was accepted before
        it is looked up.
    @ivar quiet: How long something that was sent may be unseen before it is held.
    @ivar interval: Between two look-ups of what is not final.
    @ivar sweep: Between two looks for what was made in vain.
    @ivar keep: How long events are kept that may belong to a reply to come.
    """

    patience: float = 4.0
    finalWait: float = 2.0
    quiet: float = 120.0
    interval: float = 30.0
    keep: float = 60.0
    sweep: float = 60.0


class Settling:
    """
    The ends of operations.
    """

    def __init__(
        self,
        clock: IReactorTime,
        upstream: IUpstream,
        log: IIntentLog,
        journal: Journal,
        *,
        now: Callable[[], float],
        alarm: Callable[[str], object],
        timing: Timing,
    ) -> None:
        """
        @param now: The UNIX time.
        @param alarm: Called with what a person should know.
        """
        self._clock = clock
        self._upstream = upstream
        self._log = log
        self._journal = journal
        self._now = now
        self._alarm = alarm
        self._timing = timing
        self.isRunning = True
        self.courses = Courses()

    def reveal(self, course: Course) -> None:
        """
        Tell those who wait which order it is: what they get is the event to come.
        """
        intent = course.intent
        if course.reservation is None:
            course.reservation = Reservation(
                intent.type, _expected(course), intent.operation
            )
        callers, course.callers = course.callers, []
        for each in callers:
            each.callback(course.reservation)

    def settle(self, course: Course, trade: Trade) -> "Deferred[None]":
        """
        The platform's final record is there.

        @return: Fires when that is durable, and published; at once if the journal can't
            keep it, so that the operation is held.
        """
        intent = course.intent
        refusal = self._journal.refusal(trade)
        if refusal is not None:
            self._journal.tellUnkept(trade.order, refusal)
            self.hold(course, unkept(trade.order, refusal))
            return succeed(None)
        intent.order = trade.order
        self.courses.note(course)
        intent.move(State.BOOKED, "the platform has booked it")
        known = self._journal.current(trade.order)
        isPublished = known == self._journal.tags.plain(trade)
        if (
            intent.type == EV_RECORD_ADD
            and known is not None
            and (isPublished or not course.reservation)
        ):
            # It was taken for another's, and published, before its reply came.
            if self._journal.isChange(trade):
                self._journal.book(trade)
            durable = self._journal.keep(intent)
        else:
            self.reveal(course)
            durable = self._journal.book(trade, intent)
        return durable.addCallback(self._booked, course)

    def _booked(self, _: None, course: Course) -> None:
        intent = course.intent
        intent.operation.isBooked = True
        if course.reservation is not None:
            course.reservation.place = intent.place
            course.reservation.booked()
        callers, course.callers = course.callers, []
        for each in callers:
            trade = self._log.ledger.trade(intent.order)
            assert trade is not None
            each.callback(
                Reservation(
                    intent.type,
                    trade,
                    intent.operation,
                    isReplay=True,
                    place=intent.place,
                )
            )
        self._end(course)

    def refuse(self, course: Course, why: Refusal) -> None:
        """
        An operation has not happened, and will not.
        """
        callers, course.callers = course.callers, []
        for each in callers:
            each.errback(why)
        if course.reservation is not None:
            course.reservation.lost(Failure(why))
        self._end(course)

    def _end(self, course: Course) -> None:
        self.courses.remove(course)
        self.ended(course)

    def hold(self, course: Course, why: str) -> None:
        """
        Nothing that the gateway can do tells what became of an operation. One that is
        held because it was unseen may turn out to be booked more than once.
        """
        intent = course.intent
        if intent.state is State.HELD and not why.startswith(SEVERAL):
            return
        intent.move(State.HELD, why)
        self._journal.keep(intent)
        self._alarm(
            f"operation {intent.number} of account {intent.login} is held: {why}"
        )
        callers, course.callers = course.callers, []
        unknown = isHeld(intent)
        for each in callers:
            each.errback(unknown)

    def ended(self, course: Course) -> None:
        """
        An operation has ended, and the next one of its login may begin.
        """
        raise NotImplementedError

    def _run(self, work: Coroutine[Any, Any, None], course: Course) -> "Deferred[None]":
        return Deferred.fromCoroutine(work).addErrback(self._fault, course)

    def _fault(self, why: Failure, course: Course) -> None:
        """
        The gateway itself has failed. What was sent remains to be looked up.
        """
        _log.failure("an operation failed", why)
        course.isAsking = course.isLooking = False
        if course.intent.state is State.NEW:
            course.intent.move(State.REFUSED, "a fault of the gateway")
            self.refuse(course, TechProblem("the gateway failed"))


def isHeld(intent: Intent) -> OutcomeUnknown:
    """
    What those are told who ask for an operation that is held.
    """
    return OutcomeUnknown(
        "the operation is held until a person decides", intent.toldOrder or None
    )


def unkept(order: int, why: str) -> str:
    """
    Why an operation is held whose record the journal can't keep.
    """
    return f"the platform's record of order {order} is not kept: {why}"


def _expected(course: Course) -> Trade:
    """
    What an operation makes, as far as it is known.
    """
    intent, former = course.intent, course.former
    if intent.type == EV_RECORD_DELETE and former is not None:
        return replace(former, state=TS_DELETED, comment=intent.comment)
    openTime = intent.openTime or (0 if former is None else former.openTime)
    return Trade(
        intent.order,
        intent.login,
        intent.cmd,
        TS_CLOSED_NORMAL,
        intent.amount,
        intent.plainComment,
        openTime,
        openTime if intent.closeTime is None else intent.closeTime,
        intent.sentAt,
    )
