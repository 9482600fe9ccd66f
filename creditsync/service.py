"""
The service: what another Twisted application mounts, and C{twistd} runs.

It puts the parts together and owns their start and their stop. A
L{MultiService<twisted.application.service.MultiService>} would stop all its
children at once and swallow what they raise; here the order is part of the
promise, each step is bounded, and none is left out because another one failed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from incremental import Version
from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, TimeoutError, fail, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.deprecate import deprecatedKeywordParameter
from twisted.python.failure import Failure

from creditsync._approvals import Approvals
from creditsync._conversation.broadcast import Broadcast
from creditsync._conversation.commands import (
    GetOperation,
    HealthCheck,
    ResolveOperation,
    SetAccountGroup,
    Subscription,
)
from creditsync._conversation.finance import financeCommands, prove
from creditsync._conversation.lookups import Lookups, lookupCommands
from creditsync._conversation.passing import passedCommands
from creditsync._conversation.rights import Rights
from creditsync._conversation.sessions import Sessions
from creditsync._conversation.waiters import Waiters
from creditsync._failing import FailureNotifier
from creditsync._foreigngroups import IForeignGroups, ILearnedGroups
from creditsync._transport import listening
from creditsync._transport.factory import LineFactory
from creditsync.audit import AuditTrail
from creditsync.counters import Counters
from creditsync.errors import ShuttingDown
from creditsync.interfaces import (
    IAccountGroups,
    IAuthenticator,
    ICommand,
    IHeldOperations,
    IJournal,
    IPassThrough,
    IReadiness,
    ITradeEvents,
    ITradingRuntime,
    TradeObserver,
)
from creditsync.limits import Limits
from creditsync.records import Principal
from creditsync.validation import Schemas

# Seconds for which a stopping server still reads, to refuse with 503 what was
# sent before its clients could know.
LAST_CALL = 0.2
# Seconds that sessions have to take their last replies before they are cut
# off, when the server stops and whenever else a connection ends.
GOODBYE = 2.0


class CreditSync(Service):
    """
    The credit server on any trading runtime.
    """

    name = "creditsync"
    _log = Logger()

    @deprecatedKeywordParameter(Version("creditsync", 0, 2, 0), "tally", "counters")
    def __init__(
        self,
        reactor: Any,
        *,
        runtime: ITradingRuntime,
        events: ITradeEvents,
        authenticator: IAuthenticator,
        listen: Sequence[str],
        schemas: Schemas | None = None,
        timeout: float = 5.0,
        limits: Limits | None = None,
        isExtIDIdempotent: bool = False,
        requireGroups: bool = False,
        counters: Counters | None = None,
        audit: AuditTrail | None = None,
        tally: Counters | None = None,
    ) -> None:
        """
        @param reactor: Its clock, and what the endpoints of C{listen} need.
        @param runtime: Books the operations. If it is an
            L{IService} too, it is started and stopped with this one.
        @param events: Where the runtime publishes.
        @param listen: Twisted endpoint strings; for C{ssl:} see
            L{creditsync._transport.listening}.
        @param schemas: What requests have to pass; by default the published
            schemas.
        @param timeout: Seconds from a request to 504 (docs/protocol.rst,
            "Timeout").
        @param isExtIDIdempotent: Take the C{extID} of a finance command as
            its C{idempotencyKey} where it has none.
        @param requireGroups: A token whose role may be restricted to groups, and that
            has no claim C{groups}, has no accounts; otherwise it has all.
        @param counters: Where to count for L{creditsync.metrics}, if anywhere;
            a L{TradingRuntime<creditsync.runtime.TradingRuntime>} wants the
            same one.
        @param audit: The audit trail, or L{None}; it is opened and closed with
            this service.
        """
        counters = counters or tally
        self._reactor = reactor
        self.runtime = runtime
        self._events = events
        self._limits = limits = limits or Limits()
        self.timeout = timeout
        self._schemas = schemas = schemas or Schemas()
        self.waiters = Waiters(reactor, timeout, counters)
        # Nobody looks at it without metrics.
        self.approvals = None if counters is None else Approvals(runtime)
        moving: list[ICommand] = []
        rights = Rights(requireGroups=requireGroups)
        if IAccountGroups.providedBy(runtime):
            rights = Rights(runtime.groupOf, requireGroups)
            if ILearnedGroups.providedBy(runtime):
                rights = Rights(
                    runtime.groupOf,
                    requireGroups,
                    IForeignGroups.providedBy(runtime),
                    runtime.whenKnown,
                )
            moving = [SetAccountGroup(runtime)]
        if IHeldOperations.providedBy(runtime):
            decided = [] if audit is None else [audit.resolved]
            moving.append(ResolveOperation(runtime, *decided))
        passed: list[ICommand] = []
        if IPassThrough.providedBy(runtime):
            passed += passedCommands(runtime, rights, limits, audit)
        if audit is not None:
            audit.alsoRecorded = frozenset(each.name for each in passed)
        broadcast = Broadcast(authenticator, self.waiters, counters, rights)
        self._lookups = lookups = Lookups(
            reactor, runtime, broadcast, rights, limits, timeout
        )
        self.sessions = Sessions(
            commands=[
                # First: none of them can take the place of one of those below.
                *passed,
                *financeCommands(runtime, isExtIDIdempotent, rights),
                *moving,
                GetOperation(runtime, broadcast, rights),
                *lookupCommands(lookups),
                HealthCheck(reactor, self.waiters, broadcast),
                Subscription("Subscribe", True, broadcast),
                Subscription("Unsubscribe", False, broadcast),
            ],
            authenticator=authenticator,
            schemas=schemas,
            waiters=self.waiters,
            broadcast=broadcast,
            limits=limits,
            counters=counters,
            audit=audit,
        )
        self.audit = audit
        self._rights = rights
        self.factory = LineFactory(reactor, self.sessions, limits, timeout + GOODBYE)
        self._endpoints = [listening.endpoint(reactor, each) for each in listen]
        self._ports: list[IListeningPort] = []
        self._failing = FailureNotifier()
        # Those who wait until it is ready, or None once it is.
        self._starting: list[Deferred[None]] | None = []
        self._observing: list[TradeObserver] = []

    def isRestricted(self, principal: Principal) -> bool:
        """
        Whether a token is restricted to some of the accounts.
        """
        return self._rights.accounts(principal) is not None

    def whenReady(self) -> "Deferred[None]":
        """
        Wait until requests are answered.

        @return: Fires once the runtime has started, and at once if it has. If
            it can't be started it never fires: see L{whenFailed}.
        """
        ready: Deferred[None] = Deferred()
        if self._starting is None:
            ready.callback(None)
        else:
            self._starting.append(ready)
        return ready

    def whenFailed(self) -> "Deferred[None]":
        """
        Wait for the end of the service's ability to book.

        @return: Fails with the cause, once: with what the runtime's start has
            failed with after L{startService} had returned, or after all pending
            requests were answered with an unknown outcome. The process should
            end then: the next start finds out what was booked.
        """
        return self._failing.whenFailed()

    @property
    def ports(self) -> list[IListeningPort]:
        """
        The ports it listens on, in the order of C{listen}.
        """
        return list(self._ports)

    @property
    def problem(self) -> str | None:
        """
        Why it takes no requests now, if there is a reason.
        """
        if self._failing.cause is not None:
            return "the trading runtime has failed"
        if not self.running:
            return "the server is stopping or has not started"
        if self._starting is not None:
            return "the server is starting: the trading runtime is not ready yet"
        if IReadiness.providedBy(self.runtime) and self.runtime.problem is not None:
            return self.runtime.problem
        return None if self._ports else "the server does not listen"

    def call(
        self,
        command: str,
        data: Mapping[str, Any],
        principal: Principal,
        key: str | None = None,
    ) -> "Deferred[dict[str, Any]]":
        """
        Ask this server without a connection. The request is checked, carried out,
        counted and recorded like one that a client has sent.

        @param command: Any command, except C{Subscribe} and C{Unsubscribe}.
        @param data: Its data: what JSON has, and C{Decimal}.
        @param principal: Who asks, in place of a token. It is refused with
            L{Unauthorized<creditsync.errors.Unauthorized>} if the authenticator no
            longer finds it current.
        @param key: The C{idempotencyKey}, if any.
        @return: Fires with the C{data} of the reply, whose numbers are exact: C{int},
            C{float} where that has exactly the decimal value, otherwise C{Decimal}.
            It fails with a L{Refusal<creditsync.errors.Refusal>}; with
            L{OutcomeUnknown<creditsync.errors.OutcomeUnknown>} if the operation may
            be booked all the same. To cancel it is to lose interest: the operation
            is booked all the same.
        """
        if not self._observing:
            # Nothing could be counted or recorded.
            return fail(ShuttingDown("the server has not started or has stopped"))
        return self.sessions.call(command, data, principal, key)

    def privilegedStartService(self) -> None:
        """
        Take the ports.

        @raise twisted.internet.error.CannotListenError: One is taken; the
            others are free again.
        """
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        for endpoint in self._endpoints:
            self._listen(endpoint)

    def _listen(self, endpoint: IStreamServerEndpoint) -> None:
        # All of Twisted's own endpoints listen at once, so this has fired.
        listened: list[IListeningPort | Failure] = []
        endpoint.listen(self.factory).addBoth(listened.append)
        for port in listened:
            if isinstance(port, Failure):
                self._freePorts()
                port.raiseException()
            else:
                self._ports.append(port)
                if hasattr(port, "numberAccepts"):
                    self.factory.ports.append(port)

    def _freePorts(self) -> None:
        ports, self._ports = self._ports, []
        self.factory.ports.clear()
        for port in ports:
            port.stopListening()

    def startService(self) -> None:
        """
        Listen, and start the runtime. What clients send before it is ready waits,
        and is answered then.

        @raise creditsync.errors.MethodProblem: This build can't carry out one of
            its finance methods.
        @raise creditsync.errors.LedgerProblem: The embedded runtime's ledger
            can't be used. What is found out only later fails L{whenFailed}.
        @raise twisted.internet.error.CannotListenError: A port is taken.
        @raise OSError: The audit trail can't be written.
        """
        if self.audit is not None:
            self.audit.open()
        started = None
        try:
            prove(self._schemas)
            if not self._ports:
                self.privilegedStartService()
            if IService.providedBy(self.runtime):
                # IService knows no result of it, but ITradingRuntime does.
                started = self.runtime.startService()  # type: ignore[no-untyped-call]
        except BaseException:
            self._freePorts()
            raise
        super().startService()  # type: ignore[no-untyped-call]
        observers = [self.sessions.broadcast.tradeEvents, self._flush]
        if self.approvals is not None:
            observers.append(self.approvals.observe)
        for observer in observers:
            self._events.addObserver(observer)
            self._observing.append(observer)
        if self.audit is not None:
            # Last, so that no reply waits for its file.
            self._events.addObserver(self.audit.booked)
        self.runtime.whenFailed().addErrback(self._runtimeFailed)
        if isinstance(started, Deferred):
            started.addCallbacks(self._ready, self._startFailed)
        else:
            self._ready()

    def _ready(self, _: object = None) -> None:
        if IJournal.providedBy(self.runtime):
            # Not sooner: only now is it open.
            self.sessions.broadcast.start(self._reactor, self.runtime)
        if self.approvals is not None:
            lookups = self._lookups
            self.approvals.find(lookups.searchSeconds, lookups.searchItself)
        self.factory.serve()
        waiting, self._starting = self._starting or [], None
        for each in waiting:
            each.callback(None)

    def _startFailed(self, why: Failure) -> None:
        # Otherwise it is the stop that has ended the start.
        if self.running:
            self._runtimeFailed(why)

    def _flush(self, events: object) -> None:
        """
        Write the lines of a publication in the turn in which it was made.
        """
        self.factory.flush()

    def _runtimeFailed(self, why: Failure) -> None:
        self.sessions.stop()
        self.waiters.endAll("the trading runtime failed")
        self.factory.serve()
        self.factory.flush()
        self._failing.fail(why)

    @property
    def expiries(self) -> dict[str, int]:
        """
        When the certificates of its ports expire: UNIX times, by their files.
        """
        return listening.expiries(self._endpoints)

    def reload(self) -> None:
        """
        Read the certificates of the ports again, and open the audit trail
        again. New connections get the new certificates, open ones keep
        theirs; files that can't be used change nothing.
        """
        listening.reload(self._endpoints)
        if self.audit is not None:
            self.audit.reopen()

    def stopService(self) -> "Deferred[None]":
        """
        Stop in order, in bounded time: listeners close; new requests get
        503; pending requests are answered; sessions close; the runtime commits
        what is queued and closes its ledger.

        @return: Fires when all of it is done.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        ports, self._ports = self._ports, []
        for port in ports:
            await self._step("closing a port", maybeDeferred(port.stopListening))
        answered = self.sessions.stop()
        self.factory.serve()
        await self._step(
            "answering pending requests", answered, self._limits.stopTimeout
        )
        self.waiters.endAll("the server is stopping")
        await deferLater(self._reactor, LAST_CALL)
        await self._step("closing the sessions", self.factory.finish())
        self.factory.cutOff()
        # A connection that was cut off may be lost only in the next turn.
        self.sessions.broadcast.stop()
        while self._observing:
            observer = self._observing.pop()
            left = maybeDeferred(self._events.removeObserver, observer)
            await self._step("leaving the event stream", left)
        if IService.providedBy(self.runtime):
            stopped = maybeDeferred(self.runtime.stopService)
            await self._step("stopping the runtime", stopped, self._limits.stopTimeout)
        if self.audit is not None:
            # Last, as what was queued is booked only now.
            self._events.removeObserver(self.audit.booked)
            await self._step("writing the audit trail", self.audit.close())

    async def _step(
        self, what: str, done: "Deferred[Any]", seconds: float = GOODBYE
    ) -> None:
        """
        Wait for one step of the stop, for a bounded time; the next one follows
        in any case.
        """
        try:
            await done.addTimeout(seconds, self._reactor)
        except TimeoutError:
            self._log.info("{what} took too long", what=what)
        except Exception:
            self._log.failure("{what} failed", what=what)
