"""
The embedded trading runtime: reserve, queue, C{mainLoop}.

An operation is checked when it is submitted, against the ledger and the pending
operations. Once it has an order nothing can refuse it any more. Operations are
booked in the order of submission: the main loop takes everything that was queued
since the last commit, has the ledger book it in one transaction, and publishes
the events. So one commit serves many requests, and no request waits for a batch
to fill.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

from attrs import Factory, define
from incremental import Version
from msgspec.structs import replace
from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.deprecate import deprecatedKeywordParameter
from twisted.python.failure import Failure
from zope.interface import implementer

from creditsync._accounts import AccountCache
from creditsync._changes import changed, pendingState
from creditsync._failing import FailureNotifier
from creditsync._ledgerreader import LedgerReader
from creditsync._rulebook import RuleBook
from creditsync.codes import (
    MAX_TOTAL,
    TS_FINANCE_OPEN_PENDING,
)
from creditsync.counters import Counters
from creditsync.errors import (
    Busy,
    Forbidden,
    IdempotencyKeyReused,
    InvalidData,
    LedgerProblem,
    NoMoney,
    OutcomeUnknown,
    ShuttingDown,
)
from creditsync.interfaces import (
    IAccountGroups,
    IFinanceRequests,
    ILedger,
    ITradeEvents,
    ITradingRuntime,
)
from creditsync.methods import CREDIT, TOTAL_OF
from creditsync.records import (
    AnyOperation,
    Decision,
    Reservation,
    Trade,
    difference,
)

_T = TypeVar("_T")


@define(eq=False)
class _Batch:
    """
    Operations that are booked by one commit.

    @ivar since: When the first of them was queued.
    @ivar orders: The latest reservation of each order.
    @ivar keys: The reservation of each principal's key.
    @ivar groups: The groups to which accounts are moved before that.
    @ivar moves: Those who wait for it.
    """

    since: float = 0.0
    reservations: list[Reservation] = Factory(list)
    orders: dict[int, Reservation] = Factory(dict)
    keys: dict[tuple[int, str], Reservation] = Factory(dict)
    groups: dict[int, str] = Factory(dict)
    moves: list[Deferred[None]] = Factory(list)


@implementer(ITradingRuntime, IAccountGroups, IFinanceRequests)
class TradingRuntime(LedgerReader, Service):
    """
    A trading runtime on a ledger. It is a service: starting opens the ledger,
    stopping commits what is queued and closes the ledger.
    """

    name = "trading runtime"
    _log = Logger()

    @deprecatedKeywordParameter(Version("creditsync", 0, 2, 0), "tally", "counters")
    def __init__(
        self,
        clock: IReactorTime,
        ledger: ILedger,
        events: ITradeEvents,
        *,
        now: Callable[[], float],
        maxQueued: int,
        knownAccountsOnly: bool = False,
        counters: Counters | None = None,
        tally: Counters | None = None,
        read: "Callable[[Callable[[], Any]], Deferred[Any]]" = maybeDeferred,
        rules: RuleBook | None = None,
        selfApproval: bool = False,
    ) -> None:
        """
        @param now: The time of booking, in UNIX seconds.
        @param maxQueued: How many operations may be waiting for their commit.
        @param knownAccountsOnly: Refuse a login without an account, instead of
            opening one with its first operation.
        @param counters: Counts what is booked, or L{None}.
        @param read: Calls a blocking function that reads the ledger, in another
            thread or at once, and fires with its result.
        @param rules: Bounds what may be booked, or L{None}.
        @param selfApproval: Let a principal approve its own finance requests.
        """
        self._rules = rules
        self._selfApproval = selfApproval
        super().__init__(ledger, read)
        self._clock = clock
        self._events = events
        self._now = now
        self._maxQueued = maxQueued
        self._counters = counters = counters or tally
        if counters is not None:
            counters.books = True
        # What is not in the ledger yet.
        self._queue = _Batch()
        self._committing = _Batch()
        self._accounts = AccountCache(ledger, knownAccountsOnly)
        if rules is not None:
            rules.groupOf = self._accounts.groupOf
        # The number of the batch that is queued.
        self._batch = 1
        self._wake: IDelayedCall | None = None
        self._loop: Deferred[None] | None = None
        self._opening: Deferred[None] | None = None
        self._failing = FailureNotifier()

    def startService(self) -> "Deferred[None] | None":
        """
        Open the ledger.

        @return: As L{ILedger.open}.
        @raise creditsync.errors.LedgerProblem: It can't be used.
        """
        self._opening = self._ledger.open()
        if self._rules is not None:
            opening, rules = self._opening or succeed(None), self._rules
            self._opening = opening.addCallback(lambda _: rules.start())
        if self._opening is None:
            self._opened()
            return None
        return self._opening.addCallback(self._opened)

    def _opened(self, _: object = None) -> None:
        super().startService()  # type: ignore[no-untyped-call]

    def stopService(self) -> "Deferred[None]":
        """
        Commit what is queued, then close the ledger.

        @return: Fires when the ledger is closed.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._drain())

    async def _drain(self) -> None:
        if self._wake is not None:
            self._wake.cancel()
            self._start()
        if self._loop is not None:
            await self._loop
        await self._readingEnded()
        self._ledger.close()
        if self._opening is not None:
            # If it is not over, close() has just ended it.
            with suppress(LedgerProblem):
                await self._opening

    @property
    def queued(self) -> int:
        """
        How many operations are waiting to be committed.
        """
        return len(self._queue.reservations) + len(self._committing.reservations)

    @property
    def queuedSince(self) -> float | None:
        """
        When the oldest of them was queued, by the clock, or L{None}.
        """
        for batch in (self._committing, self._queue):
            if batch.reservations:
                return batch.since
        return None

    def whenFailed(self) -> "Deferred[None]":
        """
        See L{ITradingRuntime.whenFailed}.
        """
        return self._failing.whenFailed()

    def submit(self, operation: AnyOperation) -> Reservation:
        """
        See L{ITradingRuntime.submit}.

        @raise IncorrectOrder: The order exists, but this operation can't change
            it.
        @raise NotFound: There is no order to delete, or to decide.
        @raise Forbidden: A principal would approve its own finance request.
        @raise NoMoney: More would be taken out than there is.
        @raise UserNotFound: There is no such account.
        @raise LimitExceeded: A rule does not allow it.
        @raise InvalidData: The times are in the wrong order, or a total would
            exceed what the ledger can store.
        @raise IdempotencyKeyReused: The key was used for a different request.
        @raise Busy: Too many operations are queued.
        @raise ShuttingDown: The runtime is stopping, or has failed.
        """
        if not self.running:
            raise ShuttingDown()
        if operation.key is not None:
            earlier = self._earlier(operation, operation.key)
            if earlier is not None:
                return earlier
        return self._reserve(operation)

    def trade(self, order: int) -> "Deferred[Trade | Mapping[str, Any] | None]":
        """
        See L{ITradingRuntime.trade}.
        """
        latest = self._pending(order)
        if latest is None:
            return succeed(self._ledger.trade(order))
        return succeed(replace(latest.data, state=pendingState(latest)))

    def orderOf(self, principal: int, key: str) -> "Deferred[int | None]":
        """
        See L{ITradingRuntime.orderOf}.
        """
        found = self._withKey(principal, key)
        return succeed(None if found is None else found.order)

    def groupOf(self, login: int) -> str:
        """
        See L{IAccountGroups.groupOf}.
        """
        return self._accounts.groupOf(login)

    def setGroup(self, login: int, group: str) -> "Deferred[None]":
        """
        See L{IAccountGroups.setGroup}. An account that does not exist is opened, if
        one would open with its first operation.

        @raise UserNotFound: There is no such account, and none is opened.
        @raise ShuttingDown: The runtime is stopping, or has failed.
        @raise Busy: Too many changes are queued.
        """
        if not self.running or self._failing.cause is not None:
            raise ShuttingDown()
        self._accounts.checkKnown(login)
        queue = self._queue
        if len(queue.moves) >= self._maxQueued:
            raise Busy("too many accounts are waiting to be moved", "max-queued")
        if not queue.reservations:
            self._begin(queue)
        moved: Deferred[None] = Deferred()
        queue.groups[login] = group
        queue.moves.append(moved)
        return moved

    def makerOf(self, order: int) -> int | None:
        """
        See L{IFinanceRequests.makerOf}.
        """
        pending = self._pending(order)
        if pending is not None and pending.data.state == TS_FINANCE_OPEN_PENDING:
            return pending.operation.principal
        # If a decision is pending, what is on disk is still the request.
        return self._ledger.principalOf(order)

    def _withKey(self, principal: int, key: str) -> Reservation | None:
        return (
            self._queue.keys.get((principal, key))
            or self._committing.keys.get((principal, key))
            or self._ledger.replay(principal, key)
        )

    def _earlier(self, operation: AnyOperation, key: str) -> Reservation | None:
        """
        The reservation of an earlier request with the same key, or L{None}.

        @raise IdempotencyKeyReused: That was a different request.
        """
        earlier = self._withKey(operation.principal, key)
        if earlier is None:
            return None
        member = difference(earlier.operation, operation)
        if member is not None:
            raise IdempotencyKeyReused(member, earlier.order)
        return earlier

    def _reserve(self, operation: AnyOperation) -> Reservation:
        if self._failing.cause is not None:
            raise ShuttingDown()
        queue = self._queue
        queued = len(queue.reservations) + len(self._committing.reservations)
        if queued >= self._maxQueued:
            raise Busy("too many operations are waiting to be booked", "max-queued")
        existing = self._current(operation.order) if operation.order else None
        eventType, trade, change = changed(existing, operation, int(self._now()))
        if isinstance(operation, Decision) and operation.isApproval:
            self._checkApprover(operation)
        account = self._accounts.account(trade.login)
        isCredit = TOTAL_OF[trade.cmd] == CREDIT
        total = change + (account.credit if isCredit else account.balance)
        if not 0 <= total <= MAX_TOTAL:
            _refuseTotal(total, TOTAL_OF[trade.cmd], trade.login)
        movement = None
        if self._rules is not None:
            movement = self._rules.judge(operation, trade, change)
        if not trade.order:
            trade.order = self._ledger.newOrder()
        # The order is reserved: from here on nothing may refuse the operation.
        if isCredit:
            account.credit = total
        else:
            account.balance = total
        account.changedIn = self._batch
        reservation = Reservation(
            eventType,
            trade,
            operation,
            False,
            (),
            account.balance,
            account.credit,
        )
        if self._rules is not None and movement is not None:
            self._rules.reserved(reservation, movement)
        if not queue.reservations:
            self._begin(queue)
        queue.reservations.append(reservation)
        queue.orders[trade.order] = reservation
        if operation.key is not None:
            queue.keys[operation.principal, operation.key] = reservation
        return reservation

    def _current(self, order: int) -> Trade | None:
        """
        A trade as it will be after all pending operations are committed.
        """
        latest = self._pending(order)
        return self._ledger.trade(order) if latest is None else latest.data

    def _pending(self, order: int) -> Reservation | None:
        """
        The last operation on an order that is not in the ledger yet.
        """
        return self._queue.orders.get(order) or self._committing.orders.get(order)

    def _checkApprover(self, approval: Decision) -> None:
        """
        @raise Forbidden: It is the principal who has made the request.
        """
        maker = self.makerOf(approval.order)
        if maker == approval.principal and not self._selfApproval:
            raise Forbidden(
                f"finance request {approval.order} was made by this token's principal:"
                " another one has to approve it"
            )

    def _begin(self, queue: _Batch) -> None:
        """
        Begin a batch, and see that it will be committed.
        """
        queue.since = self._clock.seconds()
        if self._wake is None and self._loop is None:
            # Not now: whatever else arrives in this reactor turn shares the
            # commit, and the session has to register its waiter first.
            self._wake = self._clock.callLater(0, self._start)

    def _start(self) -> None:
        self._wake = None
        # Before the loop runs: an observer of its events may call submit().
        self._loop = Deferred()
        looping = Deferred.fromCoroutine(self._mainLoop())
        looping.addErrback(self._fail)
        looping.addCallback(self._loopEnded)

    def _loopEnded(self, _: None) -> None:
        ended, self._loop = self._loop, None
        assert ended is not None
        ended.callback(None)

    async def _mainLoop(self) -> None:
        booked: list[Reservation] = []
        while self._queue.reservations or self._queue.moves or booked:
            batch, self._queue = self._queue, _Batch()
            self._committing = batch
            self._batch += 1
            started = self._clock.seconds()
            committed = None
            if batch.moves:
                self._publish(booked)
                booked = []
                await self._move(batch)
            if batch.reservations:
                committed = maybeDeferred(self._ledger.commit, batch.reservations)
            # The previous batch is published while this one is written to disk.
            self._publish(booked)
            if committed is not None:
                await committed
                if self._counters is not None:
                    count = len(batch.reservations)
                    self._counters.committed(count, batch.since, started)
            self._committing = _Batch()
            self._accounts.lastOnDisk = self._batch - 1
            booked = batch.reservations
            for reservation in booked:
                reservation.operation.isBooked = True

    async def _move(self, batch: _Batch) -> None:
        await maybeDeferred(self._ledger.setGroups, batch.groups)
        self._accounts.move(batch.groups)
        moves, batch.moves = batch.moves, []
        for moved in moves:
            moved.callback(None)

    def _publish(self, booked: list[Reservation]) -> None:
        if not booked:
            return
        self._events.publish(booked)
        for reservation in booked:
            if reservation.awaited:
                reservation.booked()

    def _fail(self, why: Failure) -> None:
        """
        The commit failed, and its outcome is unknown: acknowledge nothing from
        now on. The next start finds out what is on disk.
        """
        self._log.failure("the ledger failed, no more operations are booked", why)
        lost = self._committing.reservations + self._queue.reservations
        # Their keys and orders stay: whoever asks again must not hear that nothing
        # happened.
        self._committing.reservations, self._queue.reservations = [], []
        for reservation in lost:
            unknown = OutcomeUnknown("the ledger failed", reservation.order)
            reservation.lost(Failure(unknown))
        for moved in self._committing.moves + self._queue.moves:
            moved.errback(OutcomeUnknown("the ledger failed"))
        self._failing.fail(why)


def _refuseTotal(total: int, kind: str, login: int) -> NoReturn:
    """
    Refuse an operation that would leave an account with this total.
    """
    if total < 0:
        raise NoMoney(f"account {login} does not have enough {kind}")
    raise InvalidData(
        f"data.amount would take the {kind} of account {login} above"
        " 92233720368.54775807"
    )
