"""
The embedded trading runtime: reserve, queue, C{mainLoop}.

An operation is judged when it is submitted, against what is committed and
what is under way; once it has its order nothing can refuse it any more, and
it is booked in the order of submission. The main loop takes all that has
queued since the last commit, has the ledger book it in one transaction, and
publishes the events: one commit serves many requests, and nobody waits for a
full batch.
"""

from collections import OrderedDict
from collections.abc import Callable

from attrs import define, evolve
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from creditsync.codes import (
    CREDIT_OPERATIONS,
    EV_RECORD_ADD,
    EV_RECORD_UPDATE,
    MAX_TOTAL,
    TS_CLOSED_NORMAL,
    TS_DELETED,
)
from creditsync.errors import (
    Busy,
    IncorrectOrder,
    InvalidData,
    NoMoney,
    OutcomeUnknown,
    Refusal,
    ShuttingDown,
    UserNotFound,
)
from creditsync.interfaces import ILedger, ITradeEvents, ITradingRuntime
from creditsync.records import Account, Operation, Reservation, Trade, TradeEvent

# Accounts kept at hand beyond those that are under way, so that a busy one is
# not read again for each of its operations.
ACCOUNTS_AT_HAND = 100_000


@define(eq=False)
class _Booking:
    """
    A reservation on its way to the ledger, and the trade that it makes.
    """

    reservation: Reservation
    trade: Trade

    @property
    def event(self) -> TradeEvent:
        return TradeEvent(
            self.reservation.eventType, self.trade, self.reservation.operation
        )


@define(eq=False)
class _AccountAtHand:
    """
    An account as it will be once all that is under way is committed.

    @ivar changedIn: The number of the batch that last changes it.
    """

    account: Account
    changedIn: int


@implementer(ITradingRuntime)
class TradingRuntime(Service):
    """
    A trading runtime on a ledger; as a service it opens the ledger, and when
    it stops it commits what is queued and closes it.
    """

    name = "trading runtime"
    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        ledger: ILedger,
        events: ITradeEvents,
        *,
        now: Callable[[], float],
        maxQueued: int,
        knownAccountsOnly: bool = False,
    ) -> None:
        """
        @param now: The time of booking, in UNIX seconds.
        @param maxQueued: How many operations may be waiting for their commit.
        @param knownAccountsOnly: Refuse a login that has no account, instead
            of opening one with its first operation.
        """
        self._clock = clock
        self._ledger = ledger
        self._events = events
        self._now = now
        self._maxQueued = maxQueued
        self._knownAccountsOnly = knownAccountsOnly
        self._queue: list[_Booking] = []
        self._committing: list[_Booking] = []
        # What the ledger can't tell yet: trades that are not committed, and
        # accounts with what is under way counted in.
        self._underWay: dict[int, Trade] = {}
        self._accounts: OrderedDict[int, _AccountAtHand] = OrderedDict()
        self._batch = 1
        self._lastOnDisk = 0
        self._wake: IDelayedCall | None = None
        self._loop: Deferred[None] | None = None
        self._accepting = False
        self._failed: Deferred[None] = Deferred()

    def startService(self) -> None:
        """
        Open the ledger.

        @raise creditsync.errors.LedgerProblem: It can't be used.
        """
        self._ledger.open()
        super().startService()  # type: ignore[no-untyped-call]
        self._accepting = True

    def stopService(self) -> "Deferred[None]":
        """
        Commit what is queued, then close the ledger.

        @return: Fires when the ledger is closed.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        self._accepting = False
        return Deferred.fromCoroutine(self._drain())

    async def _drain(self) -> None:
        if self._wake is not None:
            self._wake.cancel()
            self._start()
        if self._loop is not None:
            await self._loop
        self._ledger.close()

    def whenFailed(self) -> "Deferred[None]":
        """
        See L{ITradingRuntime.whenFailed}.
        """
        return self._failed

    def submit(self, operation: Operation) -> "Deferred[Reservation]":
        """
        See L{ITradingRuntime.submit}.

        @return: Has fired already, or failed with
            L{IncorrectOrder<creditsync.errors.IncorrectOrder>},
            L{NoMoney<creditsync.errors.NoMoney>},
            L{UserNotFound<creditsync.errors.UserNotFound>},
            L{InvalidData<creditsync.errors.InvalidData>},
            L{Busy<creditsync.errors.Busy>} or
            L{ShuttingDown<creditsync.errors.ShuttingDown>}.
        """
        try:
            return succeed(self._reserve(operation))
        except Refusal as refusal:
            return fail(refusal)

    def _reserve(self, operation: Operation) -> Reservation:
        if not self._accepting:
            raise ShuttingDown()
        if len(self._queue) + len(self._committing) >= self._maxQueued:
            raise Busy("too many operations are waiting to be booked")
        atHand = self._accountAtHand(operation.login)
        existing = self._existing(operation)
        if existing is None:
            eventType, trade, change = self._added(operation)
        else:
            eventType, trade, change = self._updated(operation, existing)
        kind = "credit" if trade.cmd in CREDIT_OPERATIONS else "balance"
        total = _totalAfter(atHand.account, kind, change)
        if existing is None:
            trade.order = self._ledger.newOrder()
        # The order is reserved: from here on nothing refuses.
        setattr(atHand.account, kind, total)
        atHand.changedIn = self._batch
        self._underWay[trade.order] = trade
        reservation = Reservation(trade.order, eventType, operation)
        self._enqueue(_Booking(reservation, trade))
        return reservation

    def _accountAtHand(self, login: int) -> _AccountAtHand:
        atHand = self._accounts.get(login)
        if atHand is not None:
            self._accounts.move_to_end(login)
            return atHand
        account = self._ledger.account(login)
        if account is None:
            if self._knownAccountsOnly:
                raise UserNotFound(f"there is no account {login}")
            account = Account(login)
        self._accounts[login] = atHand = _AccountAtHand(account, 0)
        if len(self._accounts) > ACCOUNTS_AT_HAND:
            self._putAway()
        return atHand

    def _putAway(self) -> None:
        """
        Let go of the account not used for the longest time, unless the ledger
        can't tell its totals yet.
        """
        login, oldest = next(iter(self._accounts.items()))
        if oldest.changedIn <= self._lastOnDisk:
            del self._accounts[login]

    def _existing(self, operation: Operation) -> Trade | None:
        """
        The trade to update, or L{None} if a new one is to be made: seed,
        "Request Parameters".
        """
        order = operation.order
        if not order:
            return None
        trade = self._underWay.get(order) or self._ledger.trade(order)
        if trade is None:
            return None
        if trade.login != operation.login:
            raise IncorrectOrder(f"order {order} is not of login {operation.login}")
        if trade.cmd != operation.cmd:
            raise IncorrectOrder(f"order {order} is of another kind of operation")
        if trade.state == TS_DELETED:
            raise IncorrectOrder(f"order {order} was deleted")
        return trade

    def _added(self, operation: Operation) -> tuple[int, Trade, int]:
        """
        The new trade of an operation, yet without its order.

        @return: The event type, the trade, and by how much it moves its
            account's total.
        """
        now = int(self._now())
        trade = Trade(
            order=0,
            login=operation.login,
            cmd=operation.cmd,
            state=TS_CLOSED_NORMAL,
            profit=operation.amount,
            comment=operation.comment,
            openTime=now if operation.openTime is None else operation.openTime,
            closeTime=now if operation.closeTime is None else operation.closeTime,
            timestamp=now,
        )
        _checkTimes(trade)
        return EV_RECORD_ADD, trade, trade.counted

    def _updated(self, operation: Operation, existing: Trade) -> tuple[int, Trade, int]:
        """
        The next state of a trade; times that are not given stay as they are.

        @return: As L{_added}.
        """
        trade = evolve(existing, profit=operation.amount, comment=operation.comment)
        trade.timestamp = int(self._now())
        if operation.openTime is not None:
            trade.openTime = operation.openTime
        if operation.closeTime is not None:
            trade.closeTime = operation.closeTime
        _checkTimes(trade)
        return EV_RECORD_UPDATE, trade, trade.counted - existing.counted

    def _enqueue(self, booking: _Booking) -> None:
        self._queue.append(booking)
        if self._wake is None and self._loop is None:
            # Not at once: what else arrives in this reactor turn shares the
            # commit, and the session has to register its waiter first.
            self._wake = self._clock.callLater(0, self._start)

    def _start(self) -> None:
        self._wake = None
        self._loop = Deferred.fromCoroutine(self._mainLoop())
        self._loop.addErrback(self._fail)
        self._loop.addCallback(self._rest)

    def _rest(self, _: None) -> None:
        self._loop = None

    async def _mainLoop(self) -> None:
        booked: list[_Booking] = []
        while self._queue or booked:
            self._committing, self._queue = self._queue, []
            self._batch += 1
            committed = None
            if self._committing:
                committed = self._ledger.commit([b.trade for b in self._committing])
            # The last batch is published while the next one goes to disk.
            self._publish(booked)
            if committed is not None:
                await committed
            booked, self._committing = self._committing, []
            self._settle(booked)

    def _settle(self, booked: list[_Booking]) -> None:
        """
        Let go of what the ledger can tell by itself from now on.
        """
        self._lastOnDisk = self._batch - 1
        for booking in booked:
            trade = booking.trade
            if self._underWay.get(trade.order) is trade:
                del self._underWay[trade.order]

    def _publish(self, booked: list[_Booking]) -> None:
        if not booked:
            return
        self._events.publish([booking.event for booking in booked])
        for booking in booked:
            booking.reservation.booked()

    def _fail(self, why: Failure) -> None:
        """
        The commit erred, and its outcome is unknown: acknowledge nothing any
        more. The next start finds out what is on disk.
        """
        self._accepting = False
        self._log.failure("the ledger failed, nothing more is booked", why)
        lost, self._committing, self._queue = self._committing + self._queue, [], []
        for booking in lost:
            order = booking.reservation.order
            unknown = OutcomeUnknown("the ledger failed", order)
            booking.reservation.lost(Failure(unknown))
        self._failed.errback(why)


def _totalAfter(account: Account, kind: str, change: int) -> int:
    """
    The account's total of this kind once it has moved by C{change} units.
    """
    total: int = getattr(account, kind) + change
    if total < 0:
        raise NoMoney(f"account {account.login} has not enough {kind}")
    if total > MAX_TOTAL:
        raise InvalidData(
            f"data.amount would take the {kind} of account {account.login} over"
            " 92233720368.54775807"
        )
    return total


def _checkTimes(trade: Trade) -> None:
    if trade.closeTime < trade.openTime:
        raise InvalidData(
            "data.close_time must not be before data.open_time"
            f" ({trade.closeTime} is before {trade.openTime})"
        )
