"""
The trading runtime of the sandbox: it accepts first, and books later.

An operation is accepted when it has its order, and that is when it is answered. The
main loop books what was accepted after a delay. Until then it exists only in memory,
as it does with the platform: a crash loses it (L{PlatformLedger.lose}). Its events
have no places, and idempotency keys mean nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from msgspec.structs import replace
from twisted.application.service import IService
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.components import proxyForInterface
from zope.interface import implementer_only

from creditsync._sandbox.script import Script
from creditsync.codes import EV_RECORD_ADD, TS_CLOSED_NORMAL, TS_DELETED
from creditsync.errors import NotFound
from creditsync.interfaces import (
    IAccountGroups,
    IFinanceRequests,
    ILedger,
    ILookups,
    ITradingRuntime,
)
from creditsync.methods import ofCmd
from creditsync.records import (
    Account,
    AnyOperation,
    Condition,
    Decision,
    FoundTrades,
    GroupedTrade,
    Operation,
    Reservation,
    Trade,
    TradeFilter,
)
from creditsync.runtime import TradingRuntime

_T = TypeVar("_T")

# Characters that are left of a comment.
MAX_CUT: Final = 31

_IS_THERE: Final = Condition("state", "!=", (TS_DELETED,))


class PlatformLedger(proxyForInterface(ILedger, "_ledger")):  # type: ignore[misc]
    """
    A ledger that takes its time: a commit ends after a delay, and what it has booked
    may be on disk only later than that.
    """

    _log = Logger()

    def __init__(
        self,
        ledger: ILedger,
        clock: IReactorTime,
        script: Script,
        delay: float,
        lost: Sequence[int] = (),
    ) -> None:
        """
        @param delay: Seconds from the beginning of a commit to its end.
        @param lost: The orders that the last crash has lost.
        """
        self._ledger = ledger
        self._lost = list(lost)
        # The new orders that are not on disk.
        self._given: dict[int, None] = {}
        # The number that the next order gets, if two are swapped.
        self._swapped = 0
        self._clock = clock
        self._script = script
        self._delay = delay
        # The commit that has begun and not ended.
        self._begun: list[Reservation] = []
        self._ended: Deferred[None] | None = None
        self._wake: IDelayedCall | None = None
        # What is booked and not on disk, in the order of booking.
        self._tail: list[Reservation] = []
        self._flushAt: IDelayedCall | None = None
        self._flushed: list[Deferred[None]] = []
        self._isFlushing = False
        self._isSettled = self._isLost = False

    @property
    def lost(self) -> list[int]:
        """
        The new orders that are not on disk, of this life and of those before it.
        """
        return [*self._lost, *self._given]

    def newOrder(self) -> int:
        """
        See L{ILedger.newOrder}. One that was lost may come again.
        """
        if self._lost and self._script.happens("repeat-order") is not None:
            order = self._lost.pop(0)
        elif self._swapped:
            order, self._swapped = self._swapped, 0
        else:
            order = self._ledger.newOrder()
            if self._script.happens("swapped-orders") is not None:
                self._swapped, order = order, self._ledger.newOrder()
        self._given[order] = None
        return order

    def commit(self, reservations: Sequence[Reservation]) -> "Deferred[None]":
        """
        See L{ILedger.commit}. When the process is gone, nothing is written.
        """
        if self._isLost:
            return succeed(None)
        self._begun, self._ended = list(reservations), Deferred()
        delay = self._delay + (self._script.happens("slow-queue") or 0.0)
        if self._isSettled:
            delay = 0.0
        self._wake = self._clock.callLater(delay, self._book)
        return self._ended

    def _book(self) -> None:
        self._wake = None
        begun, self._begun = self._begun, []
        ended, self._ended = self._ended, None
        assert ended is not None
        lag = None if self._isSettled else self._script.happens("lost-tail")
        if self._tail or lag is not None:
            self._tail += begun
            self._flushLater(lag or 0.0)
            ended.callback(None)
        else:
            self._write(begun).chainDeferred(ended)

    def _write(self, reservations: list[Reservation]) -> "Deferred[None]":
        written = maybeDeferred(self._ledger.commit, reservations)
        return written.addCallback(self._onDisk, reservations)

    def _onDisk(self, _: None, reservations: list[Reservation]) -> None:
        for each in reservations:
            self._given.pop(each.order, None)

    def _flushLater(self, seconds: float) -> None:
        if self._flushAt is None and not self._isFlushing:
            self._flushAt = self._clock.callLater(seconds, self._flush)

    def flush(self) -> "Deferred[None]":
        """
        Have all that is booked on disk.
        """
        if not self._tail:
            return succeed(None)
        flushed: Deferred[None] = Deferred()
        self._flushed.append(flushed)
        if not self._isFlushing:
            self._flush()
        return flushed

    def _flush(self) -> None:
        if self._flushAt is not None and self._flushAt.active():
            self._flushAt.cancel()
        self._flushAt = None
        self._isFlushing = True
        written = self._write(list(self._tail))
        written.addErrback(lambda why: self._log.failure("a flush failed", why))
        written.addCallback(self._written, len(self._tail))

    def _written(self, _: object, count: int) -> None:
        self._isFlushing = False
        del self._tail[:count]
        if self._isLost:
            self._tail.clear()
        if self._tail:
            self._flush()
            return
        flushed, self._flushed = self._flushed, []
        for each in flushed:
            each.callback(None)

    def settle(self) -> "Deferred[None]":
        """
        Take no more time from now on, and have all that is booked on disk.
        """
        self._isSettled = True
        if self._wake is not None:
            self._wake.reset(0)
        return self.flush()

    def lose(self) -> None:
        """
        The process is gone, and with it whatever is not on disk.
        """
        self._isLost = True
        if not self._isFlushing:
            # Otherwise it may get there, as with any crash.
            self._tail.clear()
        if self._flushAt is not None:
            self._flushAt.cancel()
            self._flushAt = None
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
            assert self._ended is not None
            self._ended.callback(None)

    def setGroups(self, groups: Any) -> "Deferred[None]":
        """
        See L{ILedger.setGroups}.
        """
        if self._isLost:
            return succeed(None)
        flushed = self.flush()
        return flushed.addCallback(lambda _: self._ledger.setGroups(groups))

    def trade(self, order: int) -> Trade | None:
        """
        See L{ILedger.trade}.
        """
        for booked in reversed(self._tail):
            if booked.order == order:
                return booked.data
        found: Trade | None = self._ledger.trade(order)
        return found

    def account(self, login: int) -> Account | None:
        """
        See L{ILedger.account}.
        """
        found: Account | None = self._ledger.account(login)
        for booked in reversed(self._tail):
            if booked.data.login == login:
                assert booked.balance is not None and booked.credit is not None
                found = found or Account(login)
                found.balance, found.credit = booked.balance, booked.credit
                break
        return found


class _Accepted(Reservation, eq=False):
    """
    A reservation that is answered at once. It is not the one that is published.
    """

    def whenDurable(self) -> "Deferred[None]":
        """
        Don't wait: see L{Reservation.whenDurable}.
        """
        return succeed(None)


@implementer_only(ITradingRuntime, IAccountGroups, IFinanceRequests, ILookups, IService)
class PlatformRuntime(TradingRuntime):
    """
    A trading runtime that answers before it books.

    @ivar script: What goes wrong.
    @ivar platform: Its ledger.
    """

    script: Script
    platform: PlatformLedger

    def submit(self, operation: AnyOperation) -> Reservation:
        """
        See L{ITradingRuntime.submit}.
        """
        operation.key = None
        if isinstance(operation, Operation):
            self._cutComment(operation)
        if self._isUnseen(operation.order):
            self._overlook(operation)
        if isinstance(operation, Decision) and self._isApprovedTwice(operation):
            return self._approveAgain(operation)
        made = super().submit(operation)
        return _Accepted(made.type, made.data, made.operation)

    def _cutComment(self, operation: Operation) -> None:
        isLong = len(operation.comment) > MAX_CUT
        if isLong and self.script.happens("cut-comments") is not None:
            operation.comment = operation.comment[:MAX_CUT]

    def _overlook(self, operation: AnyOperation) -> None:
        """
        @raise NotFound: It can't do without the order.
        """
        if isinstance(operation, Operation):
            operation.order = 0
        elif self._ledger.trade(operation.order) is None:
            raise NotFound(f"there is no order {operation.order}")

    def _isApprovedTwice(self, decision: Decision) -> bool:
        trade = self._current(decision.order)
        if trade is None or trade.state != TS_CLOSED_NORMAL or not decision.isApproval:
            return False
        return self.script.happens("approve-twice") is not None

    def _approveAgain(self, decision: Decision) -> Reservation:
        """
        Book what a request asked for once more. A ledger has each order once, so this
        is another one; the reply names that of the request.
        """
        trade = self._current(decision.order)
        assert trade is not None
        method = ofCmd(trade.cmd)
        assert method is not None
        again = Operation(
            method.name,
            trade.cmd,
            trade.login,
            trade.profit,
            trade.comment,
            principal=decision.principal,
            role=decision.role,
        )
        super().submit(again)
        return _Accepted(EV_RECORD_ADD, trade, again)

    def trade(self, order: int) -> "Deferred[Any]":
        """
        See L{ITradingRuntime.trade}.
        """
        if self._isUnseen(order):
            return succeed(self._ledger.trade(order))
        return super().trade(order).addCallback(self._shown)

    def _shown(self, trade: Any) -> Any:
        isDeleted = isinstance(trade, Trade) and trade.state == TS_DELETED
        return None if isDeleted and self._isHidden() else trade

    def _isHidden(self) -> bool:
        return self.script.happens("hidden-deletions") is not None

    def _isUnseen(self, order: int) -> bool:
        if self._pending(order) is None:
            return False
        return self.script.happens("unseen-queue") is not None

    def search(
        self, filter: TradeFilter, page: Callable[[Sequence[GroupedTrade]], _T]
    ) -> "Deferred[FoundTrades[_T]]":
        """
        See L{ILookups.search}.
        """
        found = super().search
        if self._isHidden():
            filter = replace(filter, conditions=(*filter.conditions, _IS_THERE))
        return self.platform.flush().addCallback(lambda _: found(filter, page))

    def stopService(self) -> "Deferred[None]":
        """
        Book what was accepted, have it on disk, and close the ledger.
        """
        stop = super().stopService
        return self.platform.settle().addCallback(lambda _: stop())
