"""
The journal of a gateway: what the platform has booked, in the order in which the
gateway learns it, and the group commit of that with the intent log.

All that is to become durable in one reactor turn, or while a commit is running, shares
a transaction. Events are published when theirs has ended. Each change of a trade is
published once: an event that comes again is recognized by the journal's own records.

The type of a published event is that of the journal, not the platform's: the first
record of an order is an addition. So clients see the same types, whether the platform
adds a trade when it accepts an operation or when it books it.
"""

from collections.abc import Callable
from typing import Final

from attrs import Factory, define
from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from creditsync.codes import (
    EV_RECORD_ADD,
    EV_RECORD_DELETE,
    EV_RECORD_UPDATE,
    MAX_TOTAL,
    TS_CLOSED_NORMAL,
    TS_DELETED,
)
from creditsync.errors import LedgerProblem
from creditsync.gateway._intents import Alarm, IIntentLog, Intent
from creditsync.gateway._tags import Tags
from creditsync.interfaces import ITradeEvents
from creditsync.methods import CREDIT, METHOD_OF, TOTAL_OF
from creditsync.records import Deletion, Operation, Reservation, Trade

# Seconds within which what nothing waits for becomes durable.
SOON: Final = 0.05

# Refusals that are remembered, so that each is told once.
_MAX_TOLD: Final = 10_000

# The principal of what was not requested from this server.
NOBODY: Final = 0

_log = Logger()


@define(eq=False)
class _Batch:
    """
    What is written by one commit.
    """

    intents: dict[int, Intent] = Factory(dict)
    reservations: list[Reservation] = Factory(list)
    orders: dict[int, Trade] = Factory(dict)
    totals: dict[int, list[int]] = Factory(dict)
    waiting: list[Deferred[None]] = Factory(list)
    groups: dict[int, str] = Factory(dict)
    alarms: list[Alarm] = Factory(list)


class Journal:
    """
    The journal, and the log, of one gateway.

    @ivar mark: The greatest C{update_time} up to which the journal has all changes,
        with what is not durable yet. Setting it makes it so with the next commit.
    @ivar tags: Those of the comments of its gateway.
    @ivar scale: What the time of a change counts for each second at the platform:
        1 or 1000, or L{None} as long as no catch-up has seen a change.
    @ivar alarm: Called with what a person should know.
    """

    def __init__(
        self,
        clock: IReactorTime,
        log: IIntentLog,
        events: ITradeEvents,
        failed: Callable[[Failure], object],
        alarm: Callable[[str], object],
        tags: Tags | None = None,
    ) -> None:
        """
        @param failed: Called if a commit fails. Nothing becomes durable then, and no
            Deferred fires any more.
        @param tags: Those of its comments, which the journal has without.
        """
        self._clock = clock
        self._log = log
        self._events = events
        self._failed = failed
        self.alarm = alarm
        self.tags = tags or Tags()
        self.mark = 0
        self.scale: int | None = None
        self._told: set[tuple[int, str]] = set()
        self._queue = _Batch()
        self._committing = _Batch()
        self._wake: IDelayedCall | None = None
        self._ended: Deferred[None] | None = None
        self._isBroken = False

    def current(self, order: int) -> Trade | None:
        """
        The last record of an order, with what is not durable yet.
        """
        return (
            self._queue.orders.get(order)
            or self._committing.orders.get(order)
            or self._log.ledger.trade(order)
        )

    def isChange(self, trade: Trade) -> bool:
        """
        Whether a record that was looked up differs from the journal's.
        """
        current, trade = self.current(trade.order), self.tags.plain(trade)
        return current is None or (
            current != trade and trade.timestamp >= current.timestamp
        )

    def isPast(self, trade: Trade) -> bool:
        """
        Whether the journal has this record of an order, and a later one.
        """
        current, trade = self.current(trade.order), self.tags.plain(trade)
        isOlder = current is not None and trade.timestamp < current.timestamp
        return isOlder and trade in self._log.versions(trade.order)

    def isNews(self, trade: Trade) -> bool:
        """
        Whether the journal does not have the record of an event, or a later one. An
        event that comes twice, with another of the same second between, is no news.
        """
        trade = self.tags.plain(trade)
        if not self.isChange(trade):
            return False
        queued = (self._queue.orders, self._committing.orders)
        if any(each.get(trade.order) == trade for each in queued):
            return False
        return trade not in self._log.versions(trade.order)

    def keep(self, intent: Intent) -> "Deferred[None]":
        """
        Make the present state of an intent durable.

        @return: Fires when it is.
        """
        self._queue.intents[intent.number] = intent
        return self._durable()

    def keepSoon(self, intent: Intent) -> None:
        """
        Make the present state of an intent durable with the next commit, or shortly:
        nothing waits for it, and if it is lost, a look-up finds it out again.
        """
        self._queue.intents[intent.number] = intent
        if self._wake is None and self._ended is None and not self._isBroken:
            self._wake = self._clock.callLater(SOON, self._start)

    def book(self, trade: Trade, intent: Intent | None = None) -> "Deferred[None]":
        """
        Append a record of the platform.

        @param intent: What has led to it, which becomes durable with it.
        @return: Fires when it is durable, and published.
        """
        operation, trade = None, self.tags.plain(trade)
        if intent is not None:
            self._queue.intents[intent.number] = intent
            operation = intent.operation
        before = self.current(trade.order)
        if before is None and trade.state == TS_DELETED:
            # It was added and deleted while the gateway did not listen.
            self._append(replace(trade, state=TS_CLOSED_NORMAL), None, operation)
            before, operation = self.current(trade.order), None
        self._append(trade, before, operation)
        return self._durable()

    def _append(
        self, trade: Trade, before: Trade | None, asked: Operation | Deletion | None
    ) -> None:
        refusal = self.refusal(trade)
        if refusal is not None:
            self.tellUnkept(trade.order, refusal)
            return
        totals = self._after(before, trade)
        type = _typeOf(before, trade)
        reservation = Reservation(
            type,
            trade,
            _foreign(type, trade) if asked is None else asked,
            balance=totals[0],
            credit=totals[1],
        )
        self._queue.totals[trade.login] = totals
        self._queue.orders[trade.order] = trade
        self._queue.reservations.append(reservation)
        self._log.noteOrder(trade.order)

    def refusal(self, trade: Trade) -> str | None:
        """
        Why a record can't be kept, if it can't.
        """
        before = self.current(trade.order)
        wrong = _contradiction(before, trade)
        if wrong is None and max(map(abs, self._after(before, trade))) > MAX_TOTAL:
            return "it would take a total beyond what the ledger can store"
        return wrong

    def tellUnkept(self, order: int, why: str) -> None:
        """
        Tell people, once, that a record of the platform is not kept.
        """
        if (order, why) not in self._told:
            if len(self._told) >= _MAX_TOLD:
                self._told.clear()
            self._told.add((order, why))
            of = f" of order {order}" if order else ""
            self.alarm(f"a record{of} is not kept: {why}")

    def _after(self, before: Trade | None, trade: Trade) -> list[int]:
        """
        The totals of an account with one more record.
        """
        totals = self._totals(trade.login)
        at = 1 if TOTAL_OF[trade.cmd] == CREDIT else 0
        totals[at] += trade.counted - (0 if before is None else before.counted)
        return totals

    def _totals(self, login: int) -> list[int]:
        """
        The sums of an account's trades in the journal: balance and credit.
        """
        for batch in (self._queue, self._committing):
            if login in batch.totals:
                return list(batch.totals[login])
        account = self._log.ledger.account(login)
        return [0, 0] if account is None else [account.balance, account.credit]

    def _durable(self) -> "Deferred[None]":
        durable: Deferred[None] = Deferred()
        self._queue.waiting.append(durable)
        self.touch()
        return durable

    def move(self, login: int, group: str) -> "Deferred[None]":
        """
        Move an account to a group.

        @return: Fires when that is durable.
        """
        self._queue.groups[login] = group
        return self._durable()

    def prove(self) -> "Deferred[None]":
        """
        Commit, whether or not there is something to commit.

        @return: Fires if no other gateway sent for this ledger when this was called.
        """
        return self._durable()

    def note(self, time: int, text: str) -> None:
        """
        Keep what people should know.
        """
        self._queue.alarms.append((time, text))
        self.touch()

    def touch(self) -> None:
        """
        See that what has changed is committed.
        """
        if self._ended is not None or self._isBroken:
            return
        if self._wake is None:
            self._wake = self._clock.callLater(0, self._start)
        else:
            # What was to be written soon is written now.
            self._wake.reset(0)

    def _start(self) -> None:
        self._wake = None
        self._ended = Deferred()
        Deferred.fromCoroutine(self._commitAll()).addErrback(self._break).addCallback(
            self._loopEnded
        )

    def _loopEnded(self, _: object) -> None:
        ended, self._ended = self._ended, None
        assert ended is not None
        ended.callback(None)

    def _hasWork(self) -> bool:
        queue = self._queue
        return bool(
            queue.waiting
            or queue.intents
            or queue.alarms
            or self.mark != self._log.mark
        )

    async def _commitAll(self) -> None:
        while self._hasWork():
            batch, self._queue = self._queue, _Batch()
            self._committing = batch
            if batch.groups:
                await maybeDeferred(self._log.setGroups, batch.groups)
            await maybeDeferred(
                self._log.write,
                list(batch.intents.values()),
                batch.reservations,
                self.mark,
                batch.alarms,
            )
            self._committing = _Batch()
            for reservation in batch.reservations:
                reservation.operation.isBooked = True
            if batch.reservations:
                self._events.publish(batch.reservations)
            for durable in batch.waiting:
                durable.callback(None)

    def _break(self, why: Failure) -> None:
        self._isBroken = True
        if why.check(CancelledError):
            # The log was closed before this commit had ended.
            return
        # Of these the sentence is enough that is logged with the end of the process.
        if not why.check(LedgerProblem):
            _log.failure("the ledger failed, and nothing is sent any more", why)
        self._failed(why)

    async def stop(self) -> None:
        """
        Commit what is queued.
        """
        if self._wake is not None:
            self._wake.cancel()
            self._start()
        if self._ended is not None:
            await self._ended


def _typeOf(before: Trade | None, trade: Trade) -> int:
    if trade.state == TS_DELETED:
        return EV_RECORD_DELETE
    return EV_RECORD_ADD if before is None else EV_RECORD_UPDATE


def _contradiction(before: Trade | None, trade: Trade) -> str | None:
    """
    Why a record can't follow the one before it, if it can't.
    """
    if before is None:
        return None
    if (before.login, before.cmd) != (trade.login, trade.cmd):
        return "it has another login or another cmd than before"
    if before.state == TS_DELETED:
        return "it comes after its deletion"
    return None


def _foreign(type: int, trade: Trade) -> Operation | Deletion:
    """
    What stands for the operation of a trade that was not requested from this server.
    """
    method = METHOD_OF[trade.cmd, type == EV_RECORD_DELETE]
    if type == EV_RECORD_DELETE:
        return Deletion(method, trade.order, frozenset({trade.cmd}), NOBODY)
    return Operation(
        method,
        trade.cmd,
        trade.login,
        trade.profit,
        trade.comment,
        0 if type == EV_RECORD_ADD else trade.order,
        principal=NOBODY,
    )
