"""
The trading runtime that has another platform book.

It takes requests, hands them to L{Operations}, and gives the journal to those who
subscribe. What is known of an operation at any moment it tells from what is durable.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from creditsync._failing import FailureNotifier
from creditsync._rulebook import RuleBook
from creditsync.codes import EV_RECORD_ADD, EV_RECORD_DELETE, SECONDS_PER_DAY
from creditsync.errors import (
    Busy,
    IdempotencyKeyReused,
    NotFound,
    OutcomeUnknown,
    Refusal,
    ShuttingDown,
    UnknownCommand,
)
from creditsync.gateway._catchup import MARGIN, SHORT_MARGIN, CatchUp
from creditsync.gateway._courses import Course
from creditsync.gateway._intents import IIntentLog, Intent
from creditsync.gateway._journal import Journal
from creditsync.gateway._looking import isAbsence
from creditsync.gateway._operations import Operations
from creditsync.gateway._outcomes import Kind, Outcome
from creditsync.gateway._passing import PassesOn, PassThrough
from creditsync.gateway._records import shown, tradeOf
from creditsync.gateway._settling import Timing
from creditsync.gateway._states import State
from creditsync.gateway._twophase import TwoPhases
from creditsync.gateway._upstream import IUpstream, IUpstreamObserver
from creditsync.gateway._verification import Verification
from creditsync.gateway._views import Views
from creditsync.interfaces import (
    IAccountGroups,
    IHeldOperations,
    IJournal,
    ILookups,
    IOperations,
    IPassThrough,
    IReadiness,
    ITradeEvents,
    ITradingRuntime,
)
from creditsync.records import (
    AnyOperation,
    Decision,
    Deletion,
    Operation,
    Reservation,
    Response,
    Trade,
    difference,
)

# The ways to have a platform make a new trade.
ONE_SHOT: Final = "one-shot"
TWO_PHASE: Final = "two-phase"
WAYS: Final[Mapping[str, type[Operations]]] = {
    ONE_SHOT: Operations,
    TWO_PHASE: TwoPhases,
}

_log = Logger()


def _logAlarm(text: str) -> None:
    _log.critical("{text}", text=text)


@implementer(
    ITradingRuntime,
    IJournal,
    ILookups,
    IOperations,
    IHeldOperations,
    IAccountGroups,
    IPassThrough,
    IReadiness,
    IUpstreamObserver,
)
class GatewayRuntime(Views, PassesOn, Service):
    """
    A trading runtime in front of a platform. It is a service: starting opens the log
    and connects, stopping disconnects and closes the log.
    """

    name = "gateway"

    def __init__(
        self,
        clock: IReactorTime,
        log: IIntentLog,
        upstream: IUpstream,
        events: ITradeEvents,
        *,
        now: Callable[[], float],
        maxQueued: int,
        way: str = ONE_SHOT,
        timing: Timing | None = None,
        read: "Callable[[Callable[[], Any]], Deferred[Any]]" = maybeDeferred,
        rules: RuleBook | None = None,
        alarm: Callable[[str], object] = _logAlarm,
        passThrough: PassThrough | None = None,
    ) -> None:
        """
        @param now: The UNIX time.
        @param maxQueued: How many operations may be under way.
        @param way: One of L{WAYS}: how a new trade is made.
        @param read: Calls a blocking function that reads the ledger, in another thread
            or at once, and fires with its result.
        @param rules: Bounds what may be booked, or L{None}.
        @param alarm: Called with what a person should know; by default the log has it.
        @param passThrough: Passes on commands of the platform, if there are any.
        """
        timing = timing or Timing()
        self._log = log
        self._upstream = upstream
        self._passThrough = passThrough
        self._maxQueued = maxQueued
        self._read = read
        self._rules = rules
        if rules is not None:
            rules.groupOf = self.groupOf
        self._clock = clock
        self._failing = FailureNotifier()
        self._now = now
        self._tell = alarm
        self._alarms = 0
        alarm = self._alarm
        self.journal = Journal(clock, log, events, self._failing.fail, alarm)
        self.operations = WAYS[way](
            clock,
            upstream,
            log,
            self.journal,
            now=now,
            alarm=alarm,
            timing=timing,
            rules=rules,
        )
        self.catchUp = CatchUp(
            upstream,
            self.journal,
            self.operations.looked,
            now,
            self.operations.oldestKept,
        )
        self.verification = Verification(
            upstream,
            log,
            self.journal,
            alarm,
            now,
            lambda order: self.operations.courses.withOrder(order) is not None,
        )
        self._verifying = LoopingCall(self.verification.start)
        self._verifying.clock = clock
        self._tick = LoopingCall(self._look)
        self._tick.clock = clock
        self._interval = timing.interval
        self._sweeping = LoopingCall(self.operations.sweep)
        self._sweeping.clock = clock
        self._sweepInterval = timing.sweep
        self._opening: Deferred[None] | None = None
        log.interrupted = self._prove

    @property
    def problem(self) -> str | None:
        """
        See L{IReadiness}.
        """
        return self._log.problem

    def gatewayFigures(self) -> dict[str, float]:
        """
        What the metrics show: how many operations are C{unsettled} and C{held}, the age
        of the C{oldest} unsettled one in seconds, C{alarms} so far, whether the
        platform is C{connected}, and replies that were C{lost}, C{late} or C{doubled}.
        """
        intents = [each.intent for each in self.operations.courses]
        unsettled = [
            each for each in intents if each.isOpen and each.state is not State.HELD
        ]
        oldest = min((each.sentAt for each in unsettled), default=None)
        figures = self._upstream.figures
        return {
            "connected": int(self._upstream.isConnected),
            "unsettled": len(unsettled),
            "oldest": 0.0 if oldest is None else max(0.0, self._now() - oldest),
            "held": sum(each.state is State.HELD for each in intents),
            "alarms": self._alarms,
            "lost": figures.lost,
            "late": figures.late,
            "doubled": figures.doubled,
        }

    def _alarm(self, text: str) -> None:
        self._alarms += 1
        self._tell(text)
        self.journal.note(int(self._now()), text)

    # The service.

    def startService(self) -> "Deferred[None]":
        """
        Open the log, and begin to connect.

        @return: Fires when requests are taken, whether or not the platform is there.
        """
        opening = self._log.open()
        if self._rules is not None:
            rules = self._rules
            opening.addCallback(lambda _: rules.start())
        self._opening = opening.addCallback(self._opened)
        return self._opening

    def _opened(self, _: object) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        # A new gateway begins now. If it is killed before its first catch-up ends, the
        # next one begins here too.
        self.journal.mark = self._log.mark or int(self._now())
        self.journal.touch()
        for intent in self._log.unfinished():
            self.operations.courses.resume(Course(intent, self._clock.seconds()))
        self._upstream.start(self)
        self._startPassing()
        self._tick.start(self._interval, now=False)
        self._verifying.start(SECONDS_PER_DAY, now=False)
        self._sweeping.start(self._sweepInterval, now=False).addErrback(
            lambda why: _log.failure("the sweep failed", why)
        )

    def stopService(self) -> "Deferred[None]":
        """
        Disconnect, commit what is queued, and close the log.

        @return: Fires when the log is closed.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        self.operations.isRunning = False
        if not self._tick.running:
            # It is being opened, which ends with this.
            self._log.close()
            return succeed(None)
        self._tick.stop()
        self._verifying.stop()
        if self._sweeping.running:
            self._sweeping.stop()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        try:
            await self._stopPassing()
            await self._upstream.stop()
            await self.journal.stop()
        finally:
            # A commit on PostgreSQL may take longer than a stop.
            self.operations.stop()
            self._log.close()

    def whenFailed(self) -> "Deferred[None]":
        """
        See L{ITradingRuntime.whenFailed}.
        """
        return self._failing.whenFailed()

    # What clients request.

    def submit(self, operation: AnyOperation) -> "Reservation | Deferred[Reservation]":
        """
        See L{ITradingRuntime.submit}.

        @raise UnknownCommand: Finance requests are made and decided at the platform.
        @raise IdempotencyKeyReused: The key was used for a different request.
        @raise Busy: Nothing was sent: the platform can't be reached, or the account is
            blocked by an operation whose outcome is unknown.
        @raise ShuttingDown: The gateway is stopping, or has failed.
        """
        if not self.running or self._failing.cause is not None:
            raise ShuttingDown()
        if isinstance(operation, Decision) or getattr(operation, "isRequest", False):
            raise UnknownCommand(
                "finance requests are made and decided at the platform itself"
            )
        if operation.key is not None:
            earlier = self._earlier(operation, operation.key)
            if earlier is not None:
                return earlier
        if not self._upstream.isConnected:
            raise Busy(f"the platform can't be reached: {self._upstream.problem}")
        if self.problem is not None:
            raise Busy(f"nothing can be sent: {self.problem}")
        courses = self.operations.courses
        if len(courses) >= self._maxQueued:
            raise Busy("too many operations are under way", "max-queued")
        if isinstance(operation, Deletion):
            return self._delete(operation)
        self._checkBlocked(operation.login)
        course = Course(self._intentOf(operation), self._clock.seconds())
        return self._requested(course)

    def _requested(self, course: Course) -> "Deferred[Reservation]":
        reserved: Deferred[Reservation] = Deferred()
        course.callers.append(reserved)
        self.operations.request(course)
        return reserved

    def _checkBlocked(self, login: int) -> None:
        blocking = self.operations.courses.blocking(login)
        if blocking is not None:
            number, state = blocking.intent.number, blocking.intent.state.value
            raise Busy(
                f"account {login} is blocked by operation {number}, which is {state}"
            )

    def _intentOf(self, operation: Operation) -> Intent:
        return Intent(
            self._log.nextNumber(),
            EV_RECORD_ADD,
            operation,
            operation.login,
            operation.cmd,
            operation.amount,
            operation.comment,
            operation.openTime,
            operation.closeTime,
        )

    def _delete(self, deletion: Deletion) -> "Deferred[Reservation]":
        """
        Find out whose turn a deletion has to wait for, and then request it.
        """
        intent = Intent(
            self._log.nextNumber(),
            EV_RECORD_DELETE,
            deletion,
            login=0,
            cmd=0,
            amount=0,
            comment="",
        )
        course = Course(intent, self._clock.seconds())
        reserved: Deferred[Reservation] = Deferred()
        course.callers.append(reserved)
        self.operations.courses.index(course)
        finding = Deferred.fromCoroutine(self._findOwner(course, deletion.order))
        finding.addErrback(self._notFound, course)
        return reserved

    async def _findOwner(self, course: Course, order: int) -> None:
        trade = self.journal.current(order)
        if trade is None:
            trade = await self.operations.existing(order)
        if trade is None:
            raise NotFound(f"there is no order {order}")
        self._checkBlocked(trade.login)
        course.intent.login = trade.login
        self.operations.request(course)

    def _notFound(self, why: Failure, course: Course) -> None:
        why.trap(Refusal)
        assert isinstance(why.value, Refusal)
        course.intent.move(State.REFUSED, why.value.message)
        self.operations.refuse(course, why.value)

    def _earlier(
        self, operation: Operation | Deletion, key: str
    ) -> "Reservation | Deferred[Reservation] | None":
        """
        What an earlier request with the same key gets, or L{None}.

        @raise IdempotencyKeyReused: That was a different request.
        """
        course = self.operations.courses.withKey(operation.principal, key)
        intent = self._log.withKey(operation.principal, key)
        if course is not None:
            intent = course.intent
        if intent is None:
            return None
        member = difference(intent.operation, operation)
        if member is not None:
            raise IdempotencyKeyReused(member, intent.order)
        if course is None:
            return self._replay(intent)
        if intent.state is State.HELD:
            return fail(
                OutcomeUnknown(
                    "the operation is held until a person decides", intent.order or None
                )
            )
        if course.reservation is not None:
            return course.reservation
        reserved: Deferred[Reservation] = Deferred()
        course.callers.append(reserved)
        return reserved

    def _replay(self, intent: Intent) -> Reservation:
        assert intent.state is State.BOOKED and intent.place is not None
        [event] = self._log.ledger.events(intent.place - 1, 1)
        assert isinstance(event.data, Trade)
        return Reservation(
            intent.type, event.data, intent.operation, isReplay=True, place=event.place
        )

    # What people decide.

    def resolve(
        self, number: int, order: int | None, principal: int
    ) -> "Deferred[Response]":
        """
        See L{IHeldOperations.resolve}.

        @raise NotFound: There is no such operation, or it is not held.
        @raise IncorrectOrder: That order can't be its trade.
        @raise Busy: The platform does not show the order.
        """
        return Deferred.fromCoroutine(self._resolve(number, order, principal))

    async def _resolve(
        self, number: int, order: int | None, principal: int
    ) -> Response:
        course = self.operations.courses.withNumber(number)
        if course is None or course.intent.state is not State.HELD:
            raise NotFound(f"there is no held operation {number}")
        who = f"principal {principal}"
        if order is None:
            await self.operations.decideAbsent(course, who)
        else:
            await self.operations.decideBooked(course, order, who)
        intent = course.intent
        _log.warn(
            "{who} has decided that operation {number} of account {login} is {state}",
            who=who,
            number=number,
            login=intent.login,
            state=intent.state.value,
        )
        return {"operation": number, "outcome": intent.state.value}

    # What clients look up.

    def trade(self, order: int) -> "Deferred[Trade | Mapping[str, Any] | None]":
        """
        See L{ITradingRuntime.trade}. Fails with L{Busy} if only the platform may know,
        and does not answer.
        """
        course = self.operations.courses.withOrder(order)
        if course is not None:
            return succeed(shown(course.intent))
        trade = self._log.ledger.trade(order)
        if trade is not None:
            return succeed(trade)
        return Deferred.fromCoroutine(self._atPlatform(order))

    async def _atPlatform(self, order: int) -> Trade | Mapping[str, Any] | None:
        outcome = await self._upstream.request("GetTradeByOrder", {"order": order})
        if isAbsence(outcome):
            return None
        if outcome.kind is not Kind.DONE or outcome.order != order:
            raise Busy("the platform does not answer a look-up")
        # Of other trades than those of the finance kind nothing is passed on.
        return tradeOf(outcome.data)

    def orderOf(self, principal: int, key: str) -> "Deferred[int | None]":
        """
        See L{ITradingRuntime.orderOf}. Fails with L{Busy} if it is not known whether
        another gateway has taken over.
        """
        known = maybeDeferred(self._known, principal, key)
        return known.addCallback(lambda found: (found and found.order) or None)

    def operation(
        self, principal: int, key: str
    ) -> "Deferred[Trade | Mapping[str, Any] | None]":
        """
        See L{IOperations.operation}. Fails as L{orderOf} does.
        """
        return maybeDeferred(self._operation, principal, key)

    def _operation(
        self, principal: int, key: str
    ) -> "Deferred[Trade | Mapping[str, Any] | None]":
        intent = self._known(principal, key)
        if intent is None:
            return succeed(None)
        if self.operations.courses.withNumber(intent.number) is not None:
            return succeed(shown(intent))
        return self.trade(intent.order)

    def _known(self, principal: int, key: str) -> Intent | None:
        course = self.operations.courses.withKey(principal, key)
        if course is not None:
            return course.intent
        found = self._log.withKey(principal, key)
        if found is None and self.problem is not None:
            # Another gateway may have taken over, and have sent it.
            raise Busy(f"the operation can't be looked up: {self.problem}")
        return found

    # What the platform tells.

    def connected(self) -> None:
        """
        See L{IUpstreamObserver.connected}.
        """
        _log.info("the platform is connected")
        self.catchUp.interrupted()
        self.catchUp.start()
        self._look()
        self.verification.start()

    def _look(self) -> None:
        """
        Look at all that is not final, and for all that was missed.
        """
        with _log.failureHandler("a look at what is not final failed"):
            self.operations.releaseKept()
            self.operations.reconcileAll()
            self.catchUp.start(MARGIN if not self.catchUp.isComplete else SHORT_MARGIN)
            self._prove()

    def _prove(self) -> None:
        """
        If another gateway has taken over, this one learns of it and ends.
        """
        if self.running and self.problem is None:
            self.journal.prove()

    def interrupted(self) -> None:
        """
        See L{IUpstreamObserver.interrupted}.
        """
        _log.warn("the platform can't be reached: {why}", why=self._upstream.problem)
        self.catchUp.interrupted()

    def eventReceived(self, type: int, data: Mapping[str, Any]) -> None:
        """
        See L{IUpstreamObserver.eventReceived}. What the type is does not matter: the
        record says what there is now.
        """
        trade = tradeOf(data)
        if trade is not None:
            self.operations.seen(trade)

    def repliedLate(self, tag: object, outcome: Outcome) -> None:
        """
        See L{IUpstreamObserver.repliedLate}.
        """
        assert isinstance(tag, int)
        self.operations.repliedLate(tag, outcome)
