"""
The trading runtime that has another platform book.

It is where the parts of a gateway meet: what clients request is in
L{creditsync.gateway._requests}, what they look up in L{creditsync.gateway._views}. What
the platform tells is handed on here, and so are the decisions of people.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import alsoProvides, implementer

from creditsync._failing import FailureNotifier
from creditsync._foreigngroups import IForeignGroups
from creditsync._rulebook import RuleBook
from creditsync.codes import SECONDS_PER_DAY
from creditsync.errors import NotFound
from creditsync.gateway._catchup import MARGIN, SHORT_MARGIN, CatchUp
from creditsync.gateway._groups import Gate, PlatformGroups
from creditsync.gateway._intents import Alarm, IIntentLog
from creditsync.gateway._interfaces import IUpstream, IUpstreamObserver
from creditsync.gateway._journal import Journal
from creditsync.gateway._operations import Operations
from creditsync.gateway._outcomes import Outcome
from creditsync.gateway._overview import MAX_ALARMS, Overviewed
from creditsync.gateway._passing import PassesOn, PassThrough
from creditsync.gateway._records import eventOf
from creditsync.gateway._requests import Requests
from creditsync.gateway._settling import Timing
from creditsync.gateway._states import State
from creditsync.gateway._tags import Tags
from creditsync.gateway._twophase import TwoPhases
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
from creditsync.records import Operation, Response

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
class GatewayRuntime(Overviewed, Requests, Views, PassesOn, Service):
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
        takesGroups: bool = False,
        tags: Tags | None = None,
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
        @param takesGroups: Whether the groups of accounts are the platform's.
        @param tags: Those of the comments; by default no new one gets one.
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
        self._recentAlarms: deque[Alarm] = deque(maxlen=MAX_ALARMS)
        alarm = self._alarm
        self.journal = Journal(clock, log, events, self._failing.fail, alarm, tags)
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
        self._groups: PlatformGroups | None = None
        if takesGroups:
            alsoProvides(self, IForeignGroups)
            self._groups = PlatformGroups(
                clock, upstream, self.journal, self._storedGroup
            )
            self.operations.groups = self._groups
            self.operations.gate = Gate(self._groups)
        self.catchUp = CatchUp(
            upstream,
            self.journal,
            self.operations.looked,
            now,
            self.operations.oldestKept,
        )
        self.verification = Verification(
            clock,
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
        self._sweeping = LoopingCall(self._sweep)
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

    def _alarm(self, text: str) -> None:
        time = int(self._now())
        self._alarms += 1
        self._recentAlarms.append((time, text))
        self._tell(text)
        self.journal.note(time, text)

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
        self.journal.tags.use(self._log.epochs())
        self.journal.mark = self._log.mark or int(self._now())
        self.catchUp.completeUpTo = float(self.journal.mark)
        self.journal.touch()
        for intent in self._log.unfinished():
            intent.operation = self.journal.tags.asked(intent.operation)
            if isinstance(intent.operation, Operation) and not intent.tag:
                # The profile may not have said, when it was sent, how much is kept.
                intent.comment = intent.comment[: self.journal.tags.longest]
            self.operations.resume(intent)
        self._upstream.start(self)
        self._startPassing()
        self._tick.start(self._interval, now=False)
        self._verifying.start(SECONDS_PER_DAY, now=False)
        self._sweeping.start(self._sweepInterval, now=False)

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

    # What the platform tells.

    def connected(self) -> None:
        """
        See L{IUpstreamObserver.connected}.
        """
        _log.info("the platform is connected")
        if self._groups is not None:
            self._groups.connected()
        self.operations.listening.connected()
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
            self.operations.lookAgain()
            self.operations.listening.check()
            self.catchUp.start(MARGIN if not self.catchUp.isComplete else SHORT_MARGIN)
            self._prove()

    def _sweep(self) -> "Deferred[None]":
        """
        Sweep once. Whatever goes wrong, the next one comes.
        """
        swept = Deferred.fromCoroutine(self.operations.sweep())
        return swept.addErrback(lambda why: _log.failure("the sweep failed", why))

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
        self.operations.interrupted()

    def eventReceived(self, type: int, data: Mapping[str, Any]) -> None:
        """
        See L{IUpstreamObserver.eventReceived}. What the type is does not matter: the
        record says what there is now.
        """
        self.operations.listening.heard(data.get("order"))
        self.operations.seen(eventOf(data))

    def repliedLate(self, tag: object, outcome: Outcome) -> None:
        """
        See L{IUpstreamObserver.repliedLate}.
        """
        assert isinstance(tag, int)
        self.operations.repliedLate(tag, outcome)
