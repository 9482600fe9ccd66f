"""
Tests for L{creditsync.runtime}.
"""

import os
import random
import tempfile
from collections.abc import Mapping, Sequence
from typing import TypeVar

from twisted.application.service import IService
from twisted.internet.defer import Deferred, execute, fail, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from creditsync import _accounts
from creditsync.errors import (
    Busy,
    IdempotencyKeyReused,
    IncorrectOrder,
    InvalidData,
    LedgerProblem,
    NoMoney,
    NotFound,
    OutcomeUnknown,
    Refusal,
    ShuttingDown,
    UserNotFound,
)
from creditsync.events import TradeEvents
from creditsync.interfaces import IAccountGroups, ILedger, ITradingRuntime
from creditsync.ledger.memory import MemoryLedger
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.records import (
    Account,
    Deletion,
    Operation,
    Reservation,
    Trade,
    TradeEvent,
)
from creditsync.runtime import TradingRuntime
from creditsync.testing import HeldLedger
from tests.totals import withTotals

BALANCE_IN, CREDIT_IN, BALANCE_OUT, CREDIT_OUT = 6, 7, 8, 9
ADD, UPDATE = 0, 1
BOOKED, DELETED = 3, 6
ONE = 100_000_000
NOW = 1767225600

_Refusal = TypeVar("_Refusal", bound=Refusal)


def credit(
    amount: int = 300 * ONE,
    order: int = 0,
    login: int = 1001,
    cmd: int = CREDIT_IN,
    comment: str = "Promotion credit",
    openTime: int | None = None,
    closeTime: int | None = None,
    principal: int = 7,
    key: str | None = None,
) -> Operation:
    """
    An operation; by default that of C{docs/protocol.rst}, "A credit".
    """
    return Operation(
        command="CreditInSync",
        cmd=cmd,
        login=login,
        amount=amount,
        comment=comment,
        order=order,
        openTime=openTime,
        closeTime=closeTime,
        principal=principal,
        key=key,
    )


def deletion(order: int, key: str | None = None) -> Deletion:
    """
    The operation of a C{DeleteCreditSync}.
    """
    cmds = frozenset({CREDIT_IN, CREDIT_OUT})
    return Deletion("DeleteCreditSync", order, cmds, 7, key)


def trade(
    order: int,
    profit: int = 300 * ONE,
    login: int = 1001,
    cmd: int = CREDIT_IN,
    state: int = BOOKED,
) -> Trade:
    """
    A trade that was booked before the test began.
    """
    return Trade(order, login, cmd, state, profit, "Old credit", 1700, 1800, 1900)


def reserved(each: Trade) -> Reservation:
    """
    The reservation under which a trade is committed.
    """
    return Reservation(ADD, each, credit())


class SlowLedger(HeldLedger):
    """
    A ledger that is open when the test says so.

    @ivar closings: How often it was closed.
    """

    def __init__(self, memory: MemoryLedger) -> None:
        super().__init__(memory)
        self.opening: Deferred[None] = Deferred()
        self.closings = 0

    def open(self) -> "Deferred[None]":  # type: ignore[override]
        """
        See L{ILedger.open}.
        """
        return self.opening

    def close(self) -> None:
        """
        See L{ILedger.close}.
        """
        self.closings += 1


class RuntimeCase(SynchronousTestCase):
    """
    A runtime whose commits end when the test says so, and whose first order is
    1242281.
    """

    maxQueued = 100
    knownAccountsOnly = False

    def setUp(self) -> None:
        """
        Start the runtime, and record what it publishes.
        """
        self.clock = Clock()
        self.now = NOW + 0.75
        self.memory = MemoryLedger(nextOrder=1242281)
        self.ledger = HeldLedger(self.memory)
        self.events = TradeEvents()
        self.published: list[TradeEvent] = []
        self.events.addObserver(self.published.extend)
        self.runtime = TradingRuntime(
            self.clock,
            self.ledger,
            self.events,
            now=lambda: self.now,
            maxQueued=self.maxQueued,
            knownAccountsOnly=self.knownAccountsOnly,
        )
        self.runtime.startService()

    def tearDown(self) -> None:
        """
        After every test the runtime can be stopped, leaves no delayed call,
        and each total is the sum of its account's trades.
        """
        stopped = self.runtime.stopService()
        while self.ledger.commits:
            self.ledger.release()
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        sums: dict[int, Account] = {}
        for each in self.trades():
            group = self.memory.account(each.login).group
            account = sums.setdefault(each.login, Account(each.login, group=group))
            if each.state == BOOKED and each.cmd in (BALANCE_IN, BALANCE_OUT):
                account.balance += each.profit
            if each.state == BOOKED and each.cmd in (CREDIT_IN, CREDIT_OUT):
                account.credit += each.profit
        self.assertEqual(sums, {login: self.memory.account(login) for login in sums})

    def trades(self) -> list[Trade]:
        """
        The committed trades.
        """
        found = [self.memory.trade(order) for order in self.memory._places]
        return [trade for trade in found if trade is not None]

    def submit(self, operation: Operation | Deletion) -> Reservation:
        """
        Submit an operation that is accepted.
        """
        reservation: Reservation = self.successResultOf(
            maybeDeferred(self.runtime.submit, operation)
        )
        return reservation

    def refused(
        self, kind: type[_Refusal], operation: Operation | Deletion
    ) -> _Refusal:
        """
        Submit an operation that is refused with exactly this error.
        """
        why = self.failureResultOf(
            maybeDeferred(self.runtime.submit, operation), kind
        ).value
        assert type(why) is kind
        return why

    def had(self, *trades: Trade) -> None:
        """
        Book these trades before the test.
        """
        self.memory.nextOrder = max(each.order for each in trades) + 1
        self.successResultOf(
            self.memory.commit(
                withTotals(self.memory, [reserved(each) for each in trades])
            )
        )
        self.memory.nextOrder = 1242281

    def turn(self) -> None:
        """
        Let the reactor turn, so that the main loop takes the queued
        operations.
        """
        self.clock.advance(0)

    def book(self) -> None:
        """
        Let everything that was submitted be booked.
        """
        self.turn()
        while self.ledger.commits:
            self.ledger.release()

    def underCommit(self) -> list[list[int]]:
        """
        The orders in each commit that has not ended.
        """
        return [[each.order for each in batch] for batch, _ in self.ledger.commits]

    def underWay(self) -> tuple[set[int], set[str]]:
        """
        The orders and the keys of all that is not in the ledger yet.
        """
        batches = self.runtime._queue, self.runtime._committing
        orders = {order for batch in batches for order in batch.orders}
        return orders, {key for batch in batches for _, key in batch.keys}

    def told(self) -> list[tuple[int, int, int]]:
        """
        Order, type and profit of each published event.
        """
        return [
            (event.order, event.type, event.data.profit)
            for event in self.published
            if isinstance(event.data, Trade)
        ]


class InterfaceTests(RuntimeCase):
    """
    Tests for the interfaces of L{TradingRuntime}.
    """

    def test_interface(self) -> None:
        """
        L{TradingRuntime} provides the whole interface.
        """
        verifyObject(ITradingRuntime, self.runtime)

    def test_service(self) -> None:
        """
        L{TradingRuntime} is a service, which the server starts and stops.
        """
        self.assertTrue(IService.providedBy(self.runtime))


class NewOrderTests(RuntimeCase):
    """
    Tests for operations that make a new finance transaction.
    """

    def test_reservation(self) -> None:
        """
        Without an order a fresh one is reserved, and an ADD will follow.
        """
        operation = credit()
        reservation = self.submit(operation)
        self.assertEqual((reservation.order, reservation.eventType), (1242281, 0))
        self.assertIs(reservation.operation, operation)

    def test_freshOrders(self) -> None:
        """
        Each new operation gets an order of its own.
        """
        orders = [self.submit(credit()).order for _ in range(3)]
        self.assertEqual(orders, [1242281, 1242282, 1242283])

    def test_orderNotFound(self) -> None:
        """
        An unknown order is not an error: a new transaction is created under a
        fresh number, not under the requested one.
        """
        reservation = self.submit(credit(order=42))
        self.assertEqual((reservation.order, reservation.eventType), (1242281, 0))

    def test_orderNotYetGiven(self) -> None:
        """
        An order that will be assigned only later is unknown too.
        """
        reservation = self.submit(credit(order=1242282))
        self.assertEqual((reservation.order, reservation.eventType), (1242281, 0))

    def test_trade(self) -> None:
        """
        A new operation books a closed trade whose times are that of its
        booking, in whole seconds.
        """
        operation = credit()
        reservation = self.submit(operation)
        self.book()
        expected = Trade(
            order=1242281,
            login=1001,
            cmd=7,
            state=3,
            profit=30000000000,
            comment="Promotion credit",
            openTime=1767225600,
            closeTime=1767225600,
            timestamp=1767225600,
        )
        self.assertEqual(self.memory.trade(1242281), expected)
        self.assertEqual(self.published, [reservation])
        self.assertEqual((reservation.type, reservation.data), (0, expected))
        self.assertIs(reservation.operation, operation)
        self.assertEqual(reservation.place, 1)

    def test_times(self) -> None:
        """
        Given times are kept, and the timestamp is that of the booking.
        """
        self.submit(credit(openTime=1600000000, closeTime=1900000000))
        self.book()
        booked = self.memory.trade(1242281)
        self.assertEqual(booked.openTime, 1600000000)
        self.assertEqual(booked.closeTime, 1900000000)
        self.assertEqual(booked.timestamp, 1767225600)

    def test_timesOfZero(self) -> None:
        """
        A time of 0 counts as given.
        """
        self.submit(credit(openTime=0, closeTime=0))
        self.book()
        booked = self.memory.trade(1242281)
        self.assertEqual((booked.openTime, booked.closeTime), (0, 0))

    def test_closeAtOpen(self) -> None:
        """
        A transaction may close in the second in which it opened.
        """
        self.submit(credit(openTime=1600000000, closeTime=1600000000))

    def test_closeBeforeOpen(self) -> None:
        """
        A transaction can't close before it opened.
        """
        why = self.refused(InvalidData, credit(openTime=1700, closeTime=1699))
        self.assertEqual(
            why.message,
            "data.close_time must not be before data.open_time (1699 is before 1700)",
        )

    def test_closeBeforeBooking(self) -> None:
        """
        A close time alone is compared with the time of booking.
        """
        self.submit(credit(closeTime=1767225600))
        self.refused(InvalidData, credit(closeTime=1767225599))

    def test_openAfterBooking(self) -> None:
        """
        An open time alone is compared with the time of booking.
        """
        self.submit(credit(openTime=1767225600))
        self.refused(InvalidData, credit(openTime=1767225601))

    def test_durable(self) -> None:
        """
        The reservation's Deferred fires when the operation is on disk.
        """
        durable = self.submit(credit()).whenDurable()
        self.turn()
        self.assertNoResult(durable)
        self.ledger.release()
        self.assertIs(self.successResultOf(durable), None)


class UpdateTests(RuntimeCase):
    """
    Tests for operations that name an existing finance transaction.
    """

    def test_reservation(self) -> None:
        """
        The order of an update is reused, and an UPDATE will follow.
        """
        self.had(trade(5))
        operation = credit(order=5)
        reservation = self.submit(operation)
        self.assertEqual((reservation.order, reservation.eventType), (5, 1))
        self.assertIs(reservation.operation, operation)

    def test_usesNoNumber(self) -> None:
        """
        An update takes no new number.
        """
        self.had(trade(5))
        self.submit(credit(order=5))
        self.assertEqual(self.submit(credit()).order, 1242281)

    def test_trade(self) -> None:
        """
        An update has a new amount, comment and timestamp; times that are not
        given are kept.
        """
        self.had(trade(5))
        operation = credit(250 * ONE, order=5, comment="New credit")
        reservation = self.submit(operation)
        self.book()
        expected = Trade(
            order=5,
            login=1001,
            cmd=7,
            state=3,
            profit=25000000000,
            comment="New credit",
            openTime=1700,
            closeTime=1800,
            timestamp=1767225600,
        )
        self.assertEqual(self.memory.trade(5), expected)
        self.assertEqual(self.published, [reservation])
        self.assertEqual((reservation.type, reservation.data), (1, expected))
        self.assertIs(reservation.operation, operation)
        self.assertEqual(reservation.place, 2)

    def test_times(self) -> None:
        """
        Times that are given with an update are stored, including 0.
        """
        self.had(trade(5))
        self.submit(credit(order=5, openTime=0, closeTime=0))
        self.book()
        booked = self.memory.trade(5)
        self.assertEqual((booked.openTime, booked.closeTime), (0, 0))

    def test_closeBeforeOpen(self) -> None:
        """
        A given time of an update is compared with the one that is kept.
        """
        self.had(trade(5))
        self.refused(InvalidData, credit(order=5, closeTime=1699))
        self.refused(InvalidData, credit(order=5, openTime=1801))
        self.submit(credit(order=5, openTime=1800))

    def test_total(self) -> None:
        """
        An update moves the total by the difference.
        """
        self.had(trade(5, 300 * ONE))
        self.submit(credit(250 * ONE, order=5))
        self.book()
        self.assertEqual(self.memory.account(1001), Account(1001, 0, 250 * ONE))
        self.refused(NoMoney, credit(-250 * ONE - 1, cmd=CREDIT_OUT))
        self.submit(credit(-250 * ONE, cmd=CREDIT_OUT))

    def test_otherLogin(self) -> None:
        """
        A transaction of another login is not updated.
        """
        self.had(trade(5))
        why = self.refused(IncorrectOrder, credit(order=5, login=1002))
        self.assertEqual(why.message, "order 5 does not belong to login 1002")
        self.assertEqual((why.status, why.error), (409, "INCORRECT_ORDER"))

    def test_otherKind(self) -> None:
        """
        A credit-in can only be updated by a credit-in.
        """
        self.had(
            trade(5, cmd=BALANCE_IN),
            trade(6),
            trade(7, -ONE, cmd=CREDIT_OUT),
            trade(8, -ONE, cmd=BALANCE_OUT),
        )
        for order in (5, 7, 8):
            why = self.refused(IncorrectOrder, credit(order=order))
            self.assertEqual(
                why.message, f"order {order} is a different kind of transaction"
            )
        self.submit(credit(order=6))

    def test_deleted(self) -> None:
        """
        A transaction that was deleted is not updated.
        """
        self.had(trade(5, state=DELETED))
        why = self.refused(IncorrectOrder, credit(order=5))
        self.assertEqual(why.message, "order 5 was deleted")


class UnderWayTests(RuntimeCase):
    """
    Tests for updates of orders that are not yet committed.
    """

    def test_sameBatch(self) -> None:
        """
        A new order and its update may share a commit; each event has the data
        of its own operation.
        """
        add, update = credit(300 * ONE), credit(200 * ONE, order=1242281)
        self.submit(add)
        self.assertEqual(self.submit(update).eventType, UPDATE)
        self.turn()
        self.assertEqual(self.underCommit(), [[1242281, 1242281]])
        self.ledger.release()
        self.assertEqual(
            self.told(), [(1242281, 0, 300 * ONE), (1242281, 1, 200 * ONE)]
        )
        self.assertIs(self.published[0].operation, add)
        self.assertIs(self.published[1].operation, update)
        self.assertEqual(self.memory.account(1001), Account(1001, 0, 200 * ONE))

    def test_addGoingToDisk(self) -> None:
        """
        An order whose first commit is still under way can be updated.
        """
        self.submit(credit())
        self.turn()
        reservation = self.submit(credit(200 * ONE, order=1242281))
        self.assertEqual((reservation.order, reservation.eventType), (1242281, 1))
        self.book()
        self.assertEqual(
            self.told(), [(1242281, 0, 300 * ONE), (1242281, 1, 200 * ONE)]
        )

    def test_addJustCommitted(self) -> None:
        """
        An order whose first event is being published can be updated.
        """
        seen: list[Reservation] = []

        def update(events: object) -> None:
            self.events.removeObserver(update)
            seen.append(self.submit(credit(200 * ONE, order=1242281)))

        self.events.addObserver(update)
        self.submit(credit())
        self.book()
        self.assertEqual((seen[0].order, seen[0].eventType), (1242281, 1))
        self.book()
        self.assertEqual(self.memory.account(1001), Account(1001, 0, 200 * ONE))

    def test_concurrentUpdates(self) -> None:
        """
        Updates of one order before its commit build on one another; each has
        its own event.
        """
        self.had(trade(5, 300 * ONE))
        operations = [credit(units * ONE, order=5) for units in (100, 400, 250)]
        self.submit(operations[0])
        self.turn()
        self.submit(operations[1])
        self.submit(operations[2])
        self.book()
        self.assertEqual(
            self.told(), [(5, 1, 100 * ONE), (5, 1, 400 * ONE), (5, 1, 250 * ONE)]
        )
        self.assertEqual([event.operation for event in self.published], operations)
        self.assertEqual(self.memory.account(1001), Account(1001, 0, 250 * ONE))

    def test_settledBeforeTheNext(self) -> None:
        """
        When one update of an order is committed, the next update builds on a
        later pending one.
        """
        self.had(trade(5, 300 * ONE))
        self.submit(credit(100 * ONE, order=5))
        self.turn()
        self.submit(credit(400 * ONE, order=5))
        self.ledger.release()
        self.assertEqual(self.underCommit(), [[5]])
        self.submit(credit(ONE, order=5, comment="Last"))
        self.refused(NoMoney, credit(-ONE - 1, cmd=CREDIT_OUT))
        self.submit(credit(-ONE, cmd=CREDIT_OUT))
        self.book()
        self.assertEqual(self.memory.account(1001), Account(1001, 0, 0))

    def test_timesOfTheAdd(self) -> None:
        """
        An update keeps the times of a pending new order.
        """
        self.submit(credit(openTime=1, closeTime=2))
        self.now = NOW + 60
        self.submit(credit(order=1242281))
        self.book()
        booked = self.memory.trade(1242281)
        self.assertEqual((booked.openTime, booked.closeTime), (1, 2))
        self.assertEqual(booked.timestamp, 1767225660)

    def test_otherLogin(self) -> None:
        """
        A pending order can be updated by its own login only.
        """
        self.submit(credit())
        self.refused(IncorrectOrder, credit(order=1242281, login=1002))

    def test_otherKind(self) -> None:
        """
        A pending order can be updated by its own kind only.
        """
        self.submit(credit())
        self.refused(IncorrectOrder, credit(order=1242281, cmd=BALANCE_IN))


class DeletionTests(RuntimeCase):
    """
    Tests for operations that delete a finance transaction.
    """

    def test_reservation(self) -> None:
        """
        The order of a deletion is reused, a DELETE will follow, and no number
        is used.
        """
        self.had(trade(5))
        operation = deletion(5)
        reservation = self.submit(operation)
        self.assertEqual((reservation.order, reservation.eventType), (5, 2))
        self.assertIs(reservation.operation, operation)
        self.assertEqual(self.submit(credit()).order, 1242281)

    def test_trade(self) -> None:
        """
        A deletion changes only the state and the timestamp.
        """
        self.had(trade(5))
        operation = deletion(5)
        reservation = self.submit(operation)
        self.book()
        expected = Trade(
            order=5,
            login=1001,
            cmd=7,
            state=6,
            profit=30000000000,
            comment="Old credit",
            openTime=1700,
            closeTime=1800,
            timestamp=1767225600,
        )
        self.assertEqual(self.memory.trade(5), expected)
        self.assertEqual(self.published, [reservation])
        self.assertEqual((reservation.type, reservation.data), (2, expected))
        self.assertIs(reservation.operation, operation)
        self.assertEqual(reservation.place, 2)
        self.assertEqual(self.memory.account(1001), Account(1001, 0, 0))

    def test_unknown(self) -> None:
        """
        An unknown order can't be deleted.
        """
        why = self.refused(NotFound, deletion(1242281))
        self.assertEqual((why.status, why.error), (404, "NOT_FOUND"))
        self.assertEqual(why.message, "there is no order 1242281")

    def test_otherKind(self) -> None:
        """
        An order of another kind than the command deletes is refused.
        """
        self.had(
            trade(5, cmd=BALANCE_IN),
            trade(6, -ONE, cmd=BALANCE_OUT),
            trade(7),
            trade(8, -ONE, cmd=CREDIT_OUT),
        )
        for order in (5, 6):
            why = self.refused(IncorrectOrder, deletion(order))
            self.assertEqual(
                why.message, f"order {order} is a different kind of transaction"
            )
        for order in (8, 7):
            self.submit(deletion(order))

    def test_twice(self) -> None:
        """
        An order can be deleted once, whether the deletion is booked or
        pending.
        """
        self.had(trade(5))
        self.submit(deletion(5))
        for _ in range(3):
            why = self.refused(IncorrectOrder, deletion(5))
            self.assertEqual(why.message, "order 5 was deleted")
            self.refused(IncorrectOrder, credit(order=5))
            self.turn()
            if self.ledger.commits:
                self.book()

    def test_addUnderWay(self) -> None:
        """
        A pending order can be deleted.
        """
        self.submit(credit())
        self.submit(deletion(1242281))
        self.refused(NoMoney, credit(-1, cmd=CREDIT_OUT))
        self.turn()
        self.assertEqual(self.underCommit(), [[1242281, 1242281]])
        self.book()
        self.assertEqual(
            self.told(), [(1242281, 0, 300 * ONE), (1242281, 2, 300 * ONE)]
        )
        self.assertEqual([event.data.state for event in self.published], [3, 6])
        self.assertEqual(self.memory.account(1001), Account(1001, 0, 0))

    def test_noMoney(self) -> None:
        """
        A deletion may not take back money that was spent, and then changes
        nothing.
        """
        self.had(trade(5, 300 * ONE), trade(6, -ONE, cmd=CREDIT_OUT))
        why = self.refused(NoMoney, deletion(5))
        self.assertEqual(why.message, "account 1001 does not have enough credit")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.memory.trade(5), trade(5, 300 * ONE))
        self.refused(NoMoney, credit(-299 * ONE - 1, cmd=CREDIT_OUT))
        self.submit(credit(-299 * ONE, cmd=CREDIT_OUT))

    def test_outOfADeletion(self) -> None:
        """
        The deletion of a withdrawal returns the money at once.
        """
        self.had(trade(5, 300 * ONE), trade(6, -200 * ONE, cmd=CREDIT_OUT))
        self.submit(deletion(6))
        self.refused(NoMoney, credit(-300 * ONE - 1, cmd=CREDIT_OUT))
        self.submit(credit(-300 * ONE, cmd=CREDIT_OUT))

    def test_tooGreat(self) -> None:
        """
        A deletion may not take a total over its bound.
        """
        self.had(trade(5, 2**63 - 1), trade(6, -ONE, cmd=CREDIT_OUT), trade(7, ONE))
        self.refused(InvalidData, deletion(6))
        self.assertEqual(self.clock.getDelayedCalls(), [])


class LookUpTests(RuntimeCase):
    """
    Tests for looking up trades and keys.
    """

    def look(self, order: int) -> Trade | None:
        """
        Look a trade up.
        """
        told: Trade | None = self.successResultOf(self.runtime.trade(order))
        return told

    def orderOf(self, key: str, principal: int = 7) -> int | None:
        """
        Look a key up.
        """
        order: int | None = self.successResultOf(self.runtime.orderOf(principal, key))
        return order

    def test_none(self) -> None:
        """
        Unknown trades and keys are L{None}.
        """
        self.had(trade(5))
        self.assertIs(self.look(6), None)
        self.assertIs(self.orderOf("promo-1"), None)

    def test_committed(self) -> None:
        """
        A committed trade is returned as it is.
        """
        self.had(trade(5), trade(6, state=DELETED))
        self.assertEqual(self.look(5), trade(5))
        self.assertEqual(self.look(6), trade(6, state=DELETED))

    def test_underWay(self) -> None:
        """
        A pending trade is returned as requested, with the state of a request.
        """
        self.had(trade(5), trade(6, ONE))
        self.submit(credit())
        self.submit(credit(200 * ONE, order=5, comment="Less"))
        self.submit(deletion(6))
        for _ in range(2):
            self.assertEqual(
                self.look(1242281),
                Trade(
                    1242281, 1001, 7, 10, 300 * ONE, "Promotion credit", NOW, NOW, NOW
                ),
            )
            self.assertEqual(
                self.look(5),
                Trade(5, 1001, 7, 11, 200 * ONE, "Less", 1700, 1800, NOW),
            )
            self.assertEqual(
                self.look(6), Trade(6, 1001, 7, 12, ONE, "Old credit", 1700, 1800, NOW)
            )
            self.turn()
        self.book()
        told = [self.look(order) for order in (1242281, 5, 6)]
        self.assertEqual([each and each.state for each in told], [3, 3, 6])

    def test_lookingChangesNothing(self) -> None:
        """
        Looking up a pending trade does not change what is booked.
        """
        reservation = self.submit(credit())
        self.look(1242281)
        self.assertEqual(reservation.trade.state, 3)
        self.book()
        self.assertEqual(self.published[0].data.state, 3)

    def test_byTheEvent(self) -> None:
        """
        An observer that looks up the trade of an event finds it booked.
        """
        seen: list[object] = []
        self.events.addObserver(
            lambda events: seen.append((self.look(1242281), self.orderOf("promo-1")))
        )
        self.submit(credit(key="promo-1"))
        self.book()
        self.assertEqual(seen, [(self.published[0].data, 1242281)])

    def test_key(self) -> None:
        """
        A key yields its order while it is queued, being committed and booked,
        for its own principal only.
        """
        self.submit(credit(key="promo-1"))
        for _ in range(3):
            self.assertEqual(self.orderOf("promo-1"), 1242281)
            self.assertIs(self.orderOf("promo-1", 8), None)
            self.assertIs(self.orderOf("promo-2"), None)
            self.turn()
            if self.ledger.commits and not self.published:
                self.assertEqual(self.orderOf("promo-1"), 1242281)
                self.book()

    def test_refused(self) -> None:
        """
        The key of a refused operation has no order.
        """
        self.refused(NoMoney, credit(-1, cmd=CREDIT_OUT, key="promo-1"))
        self.assertIs(self.orderOf("promo-1"), None)


class KeyTests(RuntimeCase):
    """
    Tests for operations that are repeated under their key.
    """

    def test_underWay(self) -> None:
        """
        While an operation is pending, a repetition gets the same reservation,
        and nothing is queued.
        """
        reservation = self.submit(credit(key="promo-1"))
        self.assertIs(self.submit(credit(key="promo-1")), reservation)
        self.turn()
        self.assertIs(self.submit(credit(key="promo-1")), reservation)
        self.assertIs(reservation.isReplay, False)
        self.assertEqual(self.underCommit(), [[1242281]])
        self.ledger.release()
        self.assertEqual(self.ledger.commits, [])
        self.assertEqual(self.told(), [(1242281, 0, 300 * ONE)])

    def test_durableForEach(self) -> None:
        """
        Every repetition is notified when the operation is on disk.
        """
        first = self.submit(credit(key="promo-1")).whenDurable()
        self.turn()
        second = self.submit(credit(key="promo-1")).whenDurable()
        self.assertNoResult(first)
        self.assertNoResult(second)
        self.ledger.release()
        self.assertIs(self.successResultOf(first), None)
        self.assertIs(self.successResultOf(second), None)

    def test_committed(self) -> None:
        """
        Once an operation is committed, a repetition gets a replay with the
        trade as it was booked, and nothing is queued.
        """
        operation = credit(key="promo-1")
        self.submit(operation)
        self.book()
        self.submit(credit(ONE, order=1242281))
        self.book()
        self.now = NOW + 60
        replay = self.submit(credit(key="promo-1"))
        self.assertIs(replay.isReplay, True)
        self.assertEqual((replay.order, replay.eventType), (1242281, 0))
        self.assertEqual(
            replay.trade,
            Trade(1242281, 1001, 7, 3, 300 * ONE, "Promotion credit", NOW, NOW, NOW),
        )
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_otherContent(self) -> None:
        """
        Another request under the same key is refused, and leaves no trace.
        """
        self.submit(credit(key="promo-1"))
        for _ in range(2):
            for other in (credit(ONE, key="promo-1"), deletion(1242281, "promo-1")):
                why = self.refused(IdempotencyKeyReused, other)
                self.assertEqual((why.status, why.data), (422, {"order": 1242281}))
            self.book()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.memory.nextOrder, 1242282)

    def test_rest(self) -> None:
        """
        When all is booked no key is kept in memory.
        """
        self.had(trade(5))
        self.submit(credit(key="promo-1"))
        self.submit(credit(order=5, key="promo-2"))
        self.turn()
        self.submit(deletion(5, "promo-3"))
        self.assertEqual(
            self.underWay(), ({1242281, 5}, {"promo-1", "promo-2", "promo-3"})
        )
        self.book()
        self.assertEqual(self.underWay(), (set(), set()))

    def test_refusedIsForgotten(self) -> None:
        """
        The key of a refused operation is not kept.
        """
        self.refused(NoMoney, credit(-1, cmd=CREDIT_OUT, key="promo-1"))
        self.refused(NotFound, deletion(5, "promo-1"))
        self.assertEqual(self.underWay(), (set(), set()))
        self.assertIs(self.submit(credit(key="promo-1")).isReplay, False)

    def test_afterAFailure(self) -> None:
        """
        After a failed commit its keys stay known, so that no requester is told
        that nothing happened; an earlier booking is still replayed.
        """
        self.submit(credit(key="promo-1"))
        self.book()
        lost = self.submit(credit(key="promo-2"))
        self.turn()
        self.ledger.fail(OSError("EIO"))
        self.flushLoggedErrors(OSError)
        self.failureResultOf(self.runtime.whenFailed(), OSError)
        self.assertIs(self.submit(credit(key="promo-2")), lost)
        self.assertIs(self.submit(credit(key="promo-1")).isReplay, True)
        self.refused(ShuttingDown, credit(key="promo-3"))


class TotalTests(RuntimeCase):
    """
    Tests for checks against the totals of an account.
    """

    def test_takeOutAll(self) -> None:
        """
        The whole total can be withdrawn, to the last unit.
        """
        self.had(trade(5, 300 * ONE))
        self.submit(credit(-300 * ONE, cmd=CREDIT_OUT))
        self.book()
        self.assertEqual(self.memory.account(1001), Account(1001, 0, 0))

    def test_takeOutMore(self) -> None:
        """
        A withdrawal of one unit more than the total is refused.
        """
        self.had(trade(5, 300 * ONE))
        why = self.refused(NoMoney, credit(-300 * ONE - 1, cmd=CREDIT_OUT))
        self.assertEqual((why.status, why.error), (409, "TRADE_NO_MONEY"))
        self.assertEqual(why.message, "account 1001 does not have enough credit")

    def test_newAccount(self) -> None:
        """
        An unknown account has nothing to withdraw.
        """
        why = self.refused(NoMoney, credit(-1, cmd=BALANCE_OUT))
        self.assertEqual(why.message, "account 1001 does not have enough balance")

    def test_balanceIsNoCredit(self) -> None:
        """
        Balance and credit are separate totals.
        """
        self.submit(credit(300 * ONE, cmd=BALANCE_IN))
        self.refused(NoMoney, credit(-1, cmd=CREDIT_OUT))
        self.submit(credit(20 * ONE, cmd=CREDIT_IN))
        self.refused(NoMoney, credit(-20 * ONE - 1, cmd=CREDIT_OUT))
        self.submit(credit(-100 * ONE, cmd=BALANCE_OUT))
        self.book()
        self.assertEqual(self.memory.account(1001), Account(1001, 200 * ONE, 20 * ONE))

    def test_accountsApart(self) -> None:
        """
        Each login has totals of its own.
        """
        self.submit(credit(300 * ONE, login=1001))
        self.refused(NoMoney, credit(-1, login=1002, cmd=CREDIT_OUT))

    def test_underWay(self) -> None:
        """
        Queued withdrawals and those being committed count, so the same credit
        can't be withdrawn twice.
        """
        self.had(trade(5, 300 * ONE))
        self.submit(credit(-200 * ONE, cmd=CREDIT_OUT))
        self.refused(NoMoney, credit(-200 * ONE, cmd=CREDIT_OUT))
        self.turn()
        self.refused(NoMoney, credit(-200 * ONE, cmd=CREDIT_OUT))
        self.book()
        self.refused(NoMoney, credit(-200 * ONE, cmd=CREDIT_OUT))
        self.submit(credit(-100 * ONE, cmd=CREDIT_OUT))

    def test_updateBelowSpent(self) -> None:
        """
        An update can't withdraw more than the total.
        """
        self.had(trade(5, 300 * ONE), trade(6, -200 * ONE, cmd=CREDIT_OUT))
        self.refused(NoMoney, credit(200 * ONE - 1, order=5))
        self.submit(credit(200 * ONE, order=5))
        self.refused(NoMoney, credit(-1, cmd=CREDIT_OUT))

    def test_greatestTotal(self) -> None:
        """
        A total may reach the maximum of SQLite's INTEGER, and not a unit more.
        """
        self.had(trade(5, 2**63 - 1 - ONE))
        why = self.refused(InvalidData, credit(ONE + 1))
        self.assertEqual(
            why.message,
            "data.amount would take the credit of account 1001 above"
            " 92233720368.54775807",
        )
        self.submit(credit(ONE))
        self.book()
        self.assertEqual(
            self.memory.account(1001), Account(1001, 0, 9223372036854775807)
        )

    def test_tooGreatByUpdate(self) -> None:
        """
        An update can't exceed the maximum of a total.
        """
        self.had(trade(5, 2**63 - 1 - ONE), trade(6, ONE))
        self.refused(InvalidData, credit(ONE + 1, order=6))


class RefusalTests(RuntimeCase):
    """
    Tests that a refusal changes nothing.
    """

    def untouched(self) -> None:
        """
        Assert that nothing is queued, no number was used, and the account
        still has its 300.
        """
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.ledger.commits, [])
        self.assertEqual(self.memory.nextOrder, 1242281)
        self.refused(NoMoney, credit(-300 * ONE - 1, cmd=CREDIT_OUT))
        self.submit(credit(-300 * ONE, cmd=CREDIT_OUT))
        self.book()
        self.assertEqual(self.told(), [(1242281, 0, -300 * ONE)])

    def test_noMoney(self) -> None:
        """
        L{NoMoney} leaves no trace.
        """
        self.had(trade(5, 300 * ONE))
        self.refused(NoMoney, credit(-301 * ONE, cmd=CREDIT_OUT))
        self.untouched()

    def test_noMoneyByUpdate(self) -> None:
        """
        L{NoMoney} for an update leaves the transaction as it was.
        """
        self.had(
            trade(5, 500 * ONE), trade(6, -200 * ONE, cmd=CREDIT_OUT), trade(7, ONE)
        )
        self.had(trade(7, 0, state=DELETED))
        self.refused(NoMoney, credit(100 * ONE, order=5))
        self.assertEqual(self.memory.trade(5), trade(5, 500 * ONE))
        self.untouched()

    def test_incorrectOrder(self) -> None:
        """
        L{IncorrectOrder} leaves no trace.
        """
        self.had(trade(5, 300 * ONE), trade(6, ONE, login=1002))
        self.refused(IncorrectOrder, credit(order=6))
        self.refused(IncorrectOrder, credit(order=5, cmd=BALANCE_IN))
        self.untouched()

    def test_times(self) -> None:
        """
        L{InvalidData} for the times leaves no trace, of an add or an update.
        """
        self.had(trade(5, 300 * ONE))
        self.refused(InvalidData, credit(openTime=2, closeTime=1))
        self.refused(InvalidData, credit(order=5, openTime=2, closeTime=1))
        self.assertEqual(self.memory.trade(5), trade(5, 300 * ONE))
        self.untouched()

    def test_tooGreat(self) -> None:
        """
        L{InvalidData} for the total leaves no trace.
        """
        self.had(trade(5, 300 * ONE))
        self.refused(InvalidData, credit(2**63 - 300 * ONE))
        self.untouched()

    def test_noNumbersLeft(self) -> None:
        """
        A ledger without free order numbers refuses, and the refusal leaves no
        trace.
        """

        def usedUp() -> int:
            raise Busy("all reserved order numbers are given out")

        self.had(trade(5, 300 * ONE))
        patch = self.patch(MemoryLedger, "newOrder", lambda _: usedUp())
        self.refused(Busy, credit(ONE))
        self.refused(Busy, credit(2 * ONE))
        patch.restore()
        self.untouched()

    def test_laterAddIsNotRefused(self) -> None:
        """
        After a refused update of a pending order, the order is booked as it
        was.
        """
        self.submit(credit(300 * ONE))
        self.submit(credit(-200 * ONE, cmd=CREDIT_OUT))
        self.refused(NoMoney, credit(ONE, order=1242281, comment="Refused"))
        self.submit(credit(250 * ONE, order=1242281, comment="Accepted"))
        self.refused(NoMoney, credit(-50 * ONE - 1, cmd=CREDIT_OUT))
        self.book()
        self.assertEqual(
            [event.data.comment for event in self.published],
            ["Promotion credit", "Promotion credit", "Accepted"],
        )


class AccountsAtHandTests(RuntimeCase):
    """
    Tests for accounts that are evicted, in a runtime that caches one.
    """

    def setUp(self) -> None:
        """
        Cache one account.
        """
        super().setUp()
        self.patch(_accounts, "MAX_CACHED_ACCOUNTS", 1)

    def others(self) -> None:
        """
        Use enough other accounts to evict an idle one.
        """
        for login in range(2000, 2005):
            self.refused(NoMoney, credit(-1, login=login, cmd=CREDIT_OUT))

    def test_queued(self) -> None:
        """
        An account with a queued operation is not evicted.
        """
        self.submit(credit(300 * ONE))
        self.others()
        self.refused(NoMoney, credit(-300 * ONE - 1, cmd=CREDIT_OUT))
        self.submit(credit(-300 * ONE, cmd=CREDIT_OUT))

    def test_goingToDisk(self) -> None:
        """
        An account with an operation being committed is not evicted.
        """
        self.had(trade(5, 300 * ONE))
        self.submit(credit(-300 * ONE, cmd=CREDIT_OUT))
        self.turn()
        self.others()
        self.refused(NoMoney, credit(-1, cmd=CREDIT_OUT))

    def test_queuedBehindCommit(self) -> None:
        """
        An account is not evicted until the last of its operations is on disk.
        """
        self.had(trade(5, 300 * ONE))
        self.submit(credit(-100 * ONE, cmd=CREDIT_OUT))
        self.turn()
        self.submit(credit(-200 * ONE, cmd=CREDIT_OUT))
        self.ledger.release()
        self.others()
        self.refused(NoMoney, credit(-1, cmd=CREDIT_OUT))
        self.assertEqual(self.underCommit(), [[1242282]])

    def test_whilePublishing(self) -> None:
        """
        An operation that is submitted while the last batch is published keeps
        its account, too.
        """

        def takeOut(events: object) -> None:
            self.events.removeObserver(takeOut)
            self.submit(credit(-300 * ONE, cmd=CREDIT_OUT))

        self.events.addObserver(takeOut)
        self.submit(credit(300 * ONE))
        self.book()
        self.others()
        self.refused(NoMoney, credit(-1, cmd=CREDIT_OUT))

    def test_committed(self) -> None:
        """
        An account without pending operations is evicted, and read again from
        the ledger.
        """
        self.submit(credit(300 * ONE))
        self.book()
        self.others()
        self.had(trade(1242282, -100 * ONE, cmd=CREDIT_OUT))
        self.memory.nextOrder = 1242283
        self.refused(NoMoney, credit(-200 * ONE - 1, cmd=CREDIT_OUT))
        self.submit(credit(-200 * ONE, cmd=CREDIT_OUT))

    def test_busyOneStays(self) -> None:
        """
        The account that was not used for the longest time is evicted first.
        """
        self.patch(_accounts, "MAX_CACHED_ACCOUNTS", 2)
        reads = self.reads()
        for login in (1001, 1002, 1001, 1003, 1001, 1002):
            self.refused(NoMoney, credit(-1, login=login, cmd=CREDIT_OUT))
        self.assertEqual(reads, [1001, 1002, 1003, 1002])

    def test_kept(self) -> None:
        """
        An account that is used again and again is read from the ledger once.
        """
        reads = self.reads()
        for _ in range(3):
            self.submit(credit())
            self.book()
        self.assertEqual(reads, [1001])

    def reads(self) -> list[int]:
        """
        Record the logins that are read from the ledger from now on.
        """
        reads: list[int] = []
        account = MemoryLedger.account

        def read(ledger: MemoryLedger, login: int) -> Account | None:
            reads.append(login)
            return account(ledger, login)

        self.patch(MemoryLedger, "account", read)
        return reads

    def test_bounded(self) -> None:
        """
        After a burst of accounts with pending operations, the cache shrinks to
        its bound again.
        """
        for login in range(3000, 3010):
            self.submit(credit(login=login))
        self.book()
        self.others()
        self.assertEqual(len(self.runtime._accounts.cached), 1)


class KnownAccountsTests(RuntimeCase):
    """
    Tests for a runtime that does not open accounts by itself.
    """

    knownAccountsOnly = True

    def test_unknown(self) -> None:
        """
        An operation on an unknown account is refused, and leaves no trace.
        """
        why = self.refused(UserNotFound, credit())
        self.assertEqual((why.status, why.error), (404, "USER_NOT_FOUND"))
        self.assertEqual(why.message, "there is no account 1001")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.memory.nextOrder, 1242281)

    def test_known(self) -> None:
        """
        An operation on a known account is booked.
        """
        self.memory.addAccounts([1001])
        self.submit(credit())
        self.book()
        self.assertEqual(self.told(), [(1242281, 0, 300 * ONE)])

    def test_openedLater(self) -> None:
        """
        An account that is added after a refusal is found.
        """
        self.refused(UserNotFound, credit())
        self.memory.addAccounts([1001])
        self.submit(credit())


class QueueTests(RuntimeCase):
    """
    Tests for the bound of uncommitted operations, here three.
    """

    maxQueued = 3

    def test_busy(self) -> None:
        """
        Queued operations are bounded.
        """
        for _ in range(3):
            self.submit(credit())
        why = self.refused(Busy, credit())
        self.assertEqual((why.status, why.error), (503, "BUSY"))
        self.assertEqual(why.data, {"retry_after_ms": 250})
        self.assertEqual(self.memory.nextOrder, 1242284)

    def test_goingToDisk(self) -> None:
        """
        Operations being committed count for the bound.
        """
        self.submit(credit())
        self.submit(credit())
        self.turn()
        self.submit(credit())
        self.refused(Busy, credit())

    def test_room(self) -> None:
        """
        After a commit new operations are accepted again, and a refused one was
        not booked.
        """
        for _ in range(3):
            self.submit(credit())
        self.refused(Busy, credit())
        self.book()
        self.assertEqual(self.submit(credit()).order, 1242284)
        self.book()
        self.assertEqual(len(self.published), 4)


class MainLoopTests(RuntimeCase):
    """
    Tests for the way from the queue to the ledger and to the observers.
    """

    def test_reservedFirst(self) -> None:
        """
        In the turn in which an order is reserved nothing is booked or
        published: its waiter can be registered before its event.
        """
        self.submit(credit())
        self.assertEqual(self.ledger.commits, [])
        self.assertEqual(self.published, [])
        self.turn()
        self.assertEqual(self.underCommit(), [[1242281]])

    def test_nextTurn(self) -> None:
        """
        A single operation is committed in the next turn, without waiting for a
        full batch.
        """
        self.submit(credit())
        self.assertEqual(
            [call.getTime() for call in self.clock.getDelayedCalls()], [0.0]
        )

    def test_oneCommitForATurn(self) -> None:
        """
        All operations of one turn share a commit, in the order of their
        submission.
        """
        self.had(trade(5))
        self.submit(credit())
        self.submit(credit(order=5))
        self.submit(credit())
        self.turn()
        self.assertEqual(self.underCommit(), [[1242281, 5, 1242282]])

    def test_groupCommit(self) -> None:
        """
        All operations that are queued during one commit share the next, which
        begins as soon as the first has ended.
        """
        self.submit(credit())
        self.turn()
        for _ in range(3):
            self.submit(credit())
            self.turn()
        self.assertEqual(self.underCommit(), [[1242281]])
        self.ledger.release()
        self.assertEqual(self.underCommit(), [[1242282, 1242283, 1242284]])

    def test_afterTheCommit(self) -> None:
        """
        Nothing is published before its commit has ended, and then at once.
        """
        self.submit(credit())
        self.turn()
        self.clock.advance(60)
        self.assertEqual(self.published, [])
        self.ledger.release()
        self.assertEqual(self.told(), [(1242281, 0, 300 * ONE)])

    def test_bookingOrder(self) -> None:
        """
        Events come in booking order, over all batches, each of them once.
        """
        self.had(trade(5))
        for operation in (credit(ONE), credit(2 * ONE, order=5), credit(3 * ONE)):
            self.submit(operation)
        self.turn()
        self.submit(credit(4 * ONE, order=5))
        self.submit(credit(5 * ONE))
        self.book()
        self.assertEqual(
            self.told(),
            [
                (1242281, 0, 1 * ONE),
                (5, 1, 2 * ONE),
                (1242282, 0, 3 * ONE),
                (5, 1, 4 * ONE),
                (1242283, 0, 5 * ONE),
            ],
        )

    def test_oneCallForABatch(self) -> None:
        """
        The events of a commit are published in one call.
        """
        sizes: list[int] = []
        self.events.addObserver(lambda events: sizes.append(len(events)))
        for _ in range(3):
            self.submit(credit())
        self.book()
        self.assertEqual(sizes, [3])

    def test_publishBesideCommit(self) -> None:
        """
        A batch is published while the next one is already being committed.
        """
        beside: list[list[list[int]]] = []
        self.events.addObserver(lambda events: beside.append(self.underCommit()))
        self.submit(credit())
        self.turn()
        self.submit(credit())
        self.ledger.release()
        self.assertEqual(beside, [[[1242282]]])
        self.assertEqual([event.order for event in self.published], [1242281])

    def test_eventBeforeDurable(self) -> None:
        """
        An event is published before its operation is reported as durable: the
        requester gets the event line first.
        """
        seen: list[str] = []
        self.events.addObserver(lambda events: seen.append("event"))
        durable = self.submit(credit()).whenDurable()
        durable.addCallback(lambda _: seen.append("durable"))
        self.book()
        self.assertEqual(seen, ["event", "durable"])

    def test_failingObserver(self) -> None:
        """
        An observer that raises does not keep an operation from being reported
        as durable.
        """

        def failing(events: object) -> None:
            raise ZeroDivisionError

        self.events.addObserver(failing)
        durable = self.submit(credit()).whenDurable()
        self.book()
        self.assertIs(self.successResultOf(durable), None)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_rest(self) -> None:
        """
        When all is booked nothing is scheduled and nothing is kept; the next
        operation starts the loop again.
        """
        self.submit(credit())
        self.book()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.underWay(), (set(), set()))
        self.submit(credit())
        self.book()
        self.assertEqual([event.order for event in self.published], [1242281, 1242282])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_submitWhilePublishing(self) -> None:
        """
        An operation that an observer submits is booked after the one that it
        observes.
        """

        def again(events: Sequence[TradeEvent]) -> None:
            if events[0].order < 1242284:
                self.submit(credit())
                self.assertEqual(self.ledger.commits, [])

        self.events.addObserver(again)
        self.submit(credit())
        self.book()
        self.assertEqual(
            [event.order for event in self.published],
            [1242281, 1242282, 1242283, 1242284],
        )


class FirstAtOnce(HeldLedger):
    """
    A ledger whose first commit ends at once.
    """

    def commit(self, reservations: Sequence[Reservation]) -> "Deferred[None]":
        """
        See L{HeldLedger.commit}.
        """
        done: Deferred[None] = super().commit(reservations)
        if reservations[0].order == 1242281:
            self.release()
        return done


class ImmediateCommitTests(RuntimeCase):
    """
    Tests for commits that have ended when C{commit} returns.
    """

    def setUp(self) -> None:
        """
        Start a runtime on such a ledger.
        """
        super().setUp()
        self.ledger = FirstAtOnce(self.memory)
        self.runtime = TradingRuntime(
            self.clock, self.ledger, self.events, now=lambda: NOW, maxQueued=100
        )
        self.runtime.startService()

    def test_booked(self) -> None:
        """
        The operation is booked, and nothing is left.
        """
        durable = self.submit(credit()).whenDurable()
        self.assertEqual(self.published, [])
        self.turn()
        self.successResultOf(durable)
        self.assertEqual(self.told(), [(1242281, 0, 300 * ONE)])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_oneCommitAtATime(self) -> None:
        """
        An operation submitted while such a batch is published starts no second
        loop: a commit begins only when the previous one has ended.
        """

        def again(events: Sequence[TradeEvent]) -> None:
            self.events.removeObserver(again)
            self.submit(credit())

        self.events.addObserver(again)
        self.submit(credit())
        self.turn()
        self.assertEqual(self.underCommit(), [[1242282]])
        self.turn()
        self.submit(credit())
        self.turn()
        self.assertEqual(self.underCommit(), [[1242282]])

    def test_stopWaits(self) -> None:
        """
        A stop waits for the commit under way after one that ended at once.
        """

        def again(events: Sequence[TradeEvent]) -> None:
            self.events.removeObserver(again)
            self.submit(credit())

        self.events.addObserver(again)
        self.submit(credit())
        self.turn()
        stopped = self.runtime.stopService()
        self.assertNoResult(stopped)
        self.ledger.release()
        self.successResultOf(stopped)


class FailureTests(RuntimeCase):
    """
    Tests for a failed commit, whose outcome is unknown.
    """

    def commitFails(self) -> None:
        """
        Let the oldest commit fail.
        """
        self.ledger.fail(OSError("EIO"))
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        self.failureResultOf(self.runtime.whenFailed(), OSError)

    def test_notBefore(self) -> None:
        """
        C{whenFailed} does not fire as long as commits succeed.
        """
        self.submit(credit())
        self.book()
        self.assertNoResult(self.runtime.whenFailed())

    def test_whenFailed(self) -> None:
        """
        C{whenFailed} fires with the cause of the failure, which is also
        logged.
        """
        why = OSError("EIO")
        failed = self.runtime.whenFailed()
        self.submit(credit())
        self.turn()
        self.ledger.fail(why)
        self.assertIs(self.failureResultOf(failed, OSError).value, why)
        self.assertEqual(
            [failure.value for failure in self.flushLoggedErrors(OSError)], [why]
        )

    def test_reservationsLost(self) -> None:
        """
        All operations of the failed commit, and all queued behind it, have an
        unknown outcome, each with its own order.
        """
        first = self.submit(credit()).whenDurable()
        self.turn()
        second = self.submit(credit()).whenDurable()
        self.commitFails()
        why = self.failureResultOf(first, OutcomeUnknown).value
        self.assertEqual((why.status, why.data), (504, {"order": 1242281}))
        self.assertEqual(
            why.message,
            "the ledger failed: the outcome of order 1242281 is unknown, it may still "
            "be booked; ask with GetOperation, or repeat the request under its "
            "idempotencyKey",
        )
        why = self.failureResultOf(second, OutcomeUnknown).value
        self.assertEqual((why.status, why.data), (504, {"order": 1242282}))

    def test_lostBeforeTheEndIsTold(self) -> None:
        """
        Operations that wait for their commit fail before C{whenFailed} fires.
        """
        seen: list[str] = []
        durable = self.submit(credit()).whenDurable()
        durable.addErrback(lambda _: seen.append("lost"))
        self.runtime.whenFailed().addErrback(lambda _: seen.append("failed"))
        self.turn()
        self.ledger.fail(OSError("EIO"))
        self.flushLoggedErrors(OSError)
        self.assertEqual(seen, ["lost", "failed"])

    def test_nothingPublished(self) -> None:
        """
        Neither the failed nor the queued operations are booked or published,
        then or later.
        """
        self.submit(credit())
        self.turn()
        self.submit(credit())
        self.commitFails()
        self.turn()
        self.clock.advance(60)
        self.assertEqual(self.published, [])
        self.assertEqual(self.ledger.commits, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nothingAccepted(self) -> None:
        """
        After a failure nothing is reserved.
        """
        self.submit(credit())
        self.turn()
        self.commitFails()
        self.refused(ShuttingDown, credit())
        self.assertEqual(self.memory.nextOrder, 1242282)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_committedBefore(self) -> None:
        """
        Operations that were committed before the failure are published and
        durable, once.
        """
        first = self.submit(credit()).whenDurable()
        self.turn()
        second = self.submit(credit()).whenDurable()
        self.ledger.release()
        self.commitFails()
        self.successResultOf(first)
        self.failureResultOf(second, OutcomeUnknown)
        self.assertEqual([event.order for event in self.published], [1242281])

    def test_stop(self) -> None:
        """
        A runtime that has failed can be stopped.
        """
        self.submit(credit())
        self.turn()
        self.commitFails()
        self.successResultOf(self.runtime.stopService())

    def test_whileStopping(self) -> None:
        """
        A commit that fails during the stop ends the stop too.
        """
        durable = self.submit(credit()).whenDurable()
        stopped = self.runtime.stopService()
        self.assertNoResult(stopped)
        self.commitFails()
        self.successResultOf(stopped)
        self.failureResultOf(durable, OutcomeUnknown)

    def test_raising(self) -> None:
        """
        A ledger that raises has the same effect as one that fails later; what
        it has committed before is published and durable.
        """

        def raising(reservations: object) -> Deferred[None]:
            raise OSError("EIO")

        first = self.submit(credit()).whenDurable()
        self.turn()
        second = self.submit(credit()).whenDurable()
        self.patch(HeldLedger, "commit", lambda _, batch: raising(batch))
        self.ledger.release()
        self.flushLoggedErrors(OSError)
        self.failureResultOf(self.runtime.whenFailed(), OSError)
        self.failureResultOf(second, OutcomeUnknown)
        self.assertEqual([event.order for event in self.published], [1242281])
        self.successResultOf(first)


class NotedLedger(HeldLedger):
    """
    A ledger that records its opening and closing.
    """

    def __init__(self, memory: MemoryLedger, problem: Exception | None = None) -> None:
        super().__init__(memory)
        self.noted: list[str] = []
        self.problem = problem

    def open(self) -> None:
        """
        See L{HeldLedger.open}.
        """
        if self.problem is not None:
            raise self.problem
        self.noted.append("open")

    def close(self) -> None:
        """
        See L{HeldLedger.close}.
        """
        self.noted.append("close")


class ServiceTests(RuntimeCase):
    """
    Tests for the start and the stop.
    """

    def setUp(self) -> None:
        """
        Make a runtime that is not started yet.
        """
        super().setUp()
        self.ledger: NotedLedger = NotedLedger(self.memory)
        self.runtime = self.made(self.ledger)

    def made(self, ledger: ILedger) -> TradingRuntime:
        """
        A runtime on this ledger.
        """
        return TradingRuntime(
            self.clock, ledger, self.events, now=lambda: NOW, maxQueued=100
        )

    def test_notStarted(self) -> None:
        """
        Before the start nothing is accepted, and the ledger is not used.
        """
        self.refused(ShuttingDown, credit())
        self.assertEqual(self.ledger.noted, [])

    def test_start(self) -> None:
        """
        The start opens the ledger.
        """
        self.runtime.startService()
        self.assertEqual(self.ledger.noted, ["open"])
        self.submit(credit())

    def test_cannotStart(self) -> None:
        """
        With a ledger that can't be used the start fails, and nothing is
        accepted.
        """
        ledger = NotedLedger(self.memory, LedgerProblem("no space"))
        runtime = self.made(ledger)
        self.assertRaises(LedgerProblem, runtime.startService)
        self.assertFalse(runtime.running)
        self.failureResultOf(maybeDeferred(runtime.submit, credit()), ShuttingDown)

    def test_slowStart(self) -> None:
        """
        Nothing is accepted until a ledger that takes its time is open.
        """
        ledger = SlowLedger(self.memory)
        runtime = self.made(ledger)
        started = runtime.startService()
        assert started is not None
        self.assertNoResult(started)
        self.failureResultOf(maybeDeferred(runtime.submit, credit()), ShuttingDown)
        ledger.opening.callback(None)
        self.successResultOf(started)
        self.assertTrue(runtime.running)

    def test_cannotStartLater(self) -> None:
        """
        If such a ledger turns out to be wrong the start fails, and nothing is
        accepted.
        """
        ledger = SlowLedger(self.memory)
        runtime = self.made(ledger)
        started = runtime.startService()
        assert started is not None
        ledger.opening.errback(LedgerProblem("wrong"))
        self.failureResultOf(started, LedgerProblem)
        self.failureResultOf(maybeDeferred(runtime.submit, credit()), ShuttingDown)
        self.successResultOf(runtime.stopService())

    def test_stopWhileItStarts(self) -> None:
        """
        A stop closes a ledger that is not open yet, and waits until it has ended.
        """
        ledger = SlowLedger(self.memory)
        runtime = self.made(ledger)
        runtime.startService()
        stopped = runtime.stopService()
        self.assertEqual(ledger.closings, 1)
        self.assertNoResult(stopped)
        ledger.opening.errback(LedgerProblem("interrupted"))
        self.successResultOf(stopped)
        self.assertFalse(runtime.running)

    def test_stopAtRest(self) -> None:
        """
        With an empty queue the stop closes the ledger at once.
        """
        self.runtime.startService()
        self.successResultOf(self.runtime.stopService())
        self.assertEqual(self.ledger.noted, ["open", "close"])
        self.assertFalse(self.runtime.running)

    def test_stopRefuses(self) -> None:
        """
        From the stop on nothing is accepted.
        """
        self.runtime.startService()
        self.submit(credit())
        self.runtime.stopService()
        why = self.refused(ShuttingDown, credit())
        self.assertEqual((why.status, why.error), (503, "SHUTDOWN"))
        self.assertEqual(why.data, {"retry_after_ms": 5000})
        self.assertEqual(self.memory.nextOrder, 1242282)

    def test_stopCommitsQueued(self) -> None:
        """
        Queued operations are committed and published before the ledger closes,
        without another turn of the reactor.
        """
        self.runtime.startService()
        durable = self.submit(credit()).whenDurable()
        stopped = self.runtime.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.underCommit(), [[1242281]])
        self.assertNoResult(stopped)
        self.assertEqual(self.ledger.noted, ["open"])
        self.ledger.release()
        self.successResultOf(stopped)
        self.successResultOf(durable)
        self.assertEqual(self.told(), [(1242281, 0, 300 * ONE)])
        self.assertEqual(self.ledger.noted, ["open", "close"])

    def test_stopDrains(self) -> None:
        """
        The stop waits for the commit under way and for those behind it.
        """
        self.runtime.startService()
        self.submit(credit())
        self.turn()
        self.submit(credit())
        stopped = self.runtime.stopService()
        self.ledger.release()
        self.assertNoResult(stopped)
        self.assertEqual(self.underCommit(), [[1242282]])
        self.assertEqual(self.ledger.noted, ["open"])
        self.ledger.release()
        self.successResultOf(stopped)
        self.assertEqual([event.order for event in self.published], [1242281, 1242282])

    def test_keyOnAClosedLedger(self) -> None:
        """
        Before the start and after the stop an operation with a key is refused
        as any other is; its ledger, which is closed, is not used.
        """
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = os.path.join(folder.name, "ledger.db")
        runtime = self.made(SQLiteLedger(path, execute))
        self.failureResultOf(
            maybeDeferred(runtime.submit, credit(key="promo-1")), ShuttingDown
        )
        runtime.startService()
        self.successResultOf(runtime.stopService())
        self.failureResultOf(
            maybeDeferred(runtime.submit, credit(key="promo-1")), ShuttingDown
        )

    def test_closedAfterPublication(self) -> None:
        """
        The ledger is closed only when everything is published.
        """
        self.events.addObserver(lambda events: self.ledger.noted.append("event"))
        self.runtime.startService()
        self.submit(credit())
        stopped = self.runtime.stopService()
        self.ledger.release()
        self.successResultOf(stopped)
        self.assertEqual(self.ledger.noted, ["open", "event", "close"])


class SimulationTests(RuntimeCase):
    """
    Tests for the totals after many operations in random order.
    """

    def test_totals(self) -> None:
        """
        However submissions, turns and commits are interleaved, each operation
        is accepted or refused as if it were the only one and booked at once.
        """
        self.patch(_accounts, "MAX_CACHED_ACCOUNTS", 2)
        chance = random.Random(1242281)
        profits: dict[int, int] = {}
        owners: dict[int, tuple[int, int]] = {}
        for _ in range(3000):
            login, isOut = chance.randint(1, 6), chance.random() < 0.5
            amount = -chance.randint(1, 20) if isOut else chance.randint(1, 20)
            cmd = CREDIT_OUT if isOut else CREDIT_IN
            mine = [order for order in owners if owners[order] == (login, cmd)]
            isUpdate = bool(mine) and chance.random() < 0.4
            order = chance.choice(mine) if isUpdate else 0
            total = sum(p for o, p in profits.items() if owners[o][0] == login)
            operation = credit(amount, order, login, cmd)
            if total - profits.get(order, 0) + amount < 0:
                self.refused(NoMoney, operation)
            else:
                taken = self.submit(operation)
                profits[taken.order] = amount
                owners[taken.order] = (login, cmd)
            if chance.random() < 0.3:
                self.turn()
            if self.ledger.commits and chance.random() < 0.2:
                self.ledger.release()
            if len(profits) > 60 and chance.random() < 0.1:
                self.book()
            self.assertLessEqual(len(self.ledger.commits), 1)
        self.book()
        booked = {trade.order: trade.profit for trade in self.trades()}
        self.assertEqual(booked, profits)
        self.assertGreater(len(booked), 500)


class GroupTests(RuntimeCase):
    """
    Tests for the groups of accounts.
    """

    def test_interface(self) -> None:
        """
        L{TradingRuntime} says and sets the groups of accounts.
        """
        verifyObject(IAccountGroups, self.runtime)

    def test_none(self) -> None:
        """
        An account that has no group, or does not exist, is in "".
        """
        self.memory.addAccounts([1001])
        self.assertEqual(self.runtime.groupOf(1001), "")
        self.assertEqual(self.runtime.groupOf(1002), "")

    def test_ledgers(self) -> None:
        """
        The groups of a ledger are known from the beginning, also of an account that has
        been used.
        """
        self.memory.addAccounts([1001], "real")
        self.assertEqual(self.runtime.groupOf(1001), "real")
        self.submit(credit())
        self.assertEqual(self.runtime.groupOf(1001), "real")
        self.book()
        self.assertEqual(self.memory.account(1001).group, "real")

    def test_set(self) -> None:
        """
        An account is moved in the next turn, and from then on it is in its group, also
        if it is being used.
        """
        self.memory.addAccounts([1001, 1002], "real")
        self.submit(credit())
        moved = [self.runtime.setGroup(login, "demo") for login in (1001, 1002)]
        self.assertNoResult(moved[0])
        self.assertEqual(self.runtime.groupOf(1001), "real")
        self.turn()
        for each in moved:
            self.assertIsNone(self.successResultOf(each))
        self.assertEqual(self.runtime.groupOf(1001), "demo")
        self.assertEqual(self.runtime.groupOf(1002), "demo")
        self.assertEqual(self.memory.account(1001).group, "demo")

    def test_last(self) -> None:
        """
        Of several moves of one account the last one counts.
        """
        moved = [self.runtime.setGroup(1001, group) for group in ("a", "b")]
        self.turn()
        for each in moved:
            self.successResultOf(each)
        self.assertEqual(self.runtime.groupOf(1001), "b")

    def test_betweenCommits(self) -> None:
        """
        A move waits for the commit that is running, whose events are published before
        it, and the next commit waits for the move.
        """
        seen: list[object] = []
        setGroups = self.memory.setGroups
        moving: Deferred[None] = Deferred()

        def slow(ledger: HeldLedger, groups: Mapping[int, str]) -> Deferred[None]:
            seen.append((dict(groups), len(self.published)))
            setGroups(groups)
            return moving

        self.patch(HeldLedger, "setGroups", slow)
        self.submit(credit())
        self.turn()
        moved = self.runtime.setGroup(1001, "real")
        self.submit(credit())
        self.turn()
        self.assertEqual(seen, [])
        self.ledger.release()
        self.assertEqual(seen, [({1001: "real"}, 1)])
        self.assertNoResult(moved)
        self.assertEqual(self.ledger.commits, [])
        moving.callback(None)
        self.successResultOf(moved)
        self.assertEqual(self.underCommit(), [[1242282]])
        self.ledger.release()
        self.assertEqual([each[0] for each in self.told()], [1242281, 1242282])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_alone(self) -> None:
        """
        A move without any operation begins and ends the loop.
        """
        for group in ("a", "b"):
            moved = self.runtime.setGroup(1001, group)
            self.turn()
            self.successResultOf(moved)
            self.assertEqual(self.clock.getDelayedCalls(), [])
        self.submit(credit())
        self.book()
        self.assertEqual(len(self.published), 1)

    def test_opens(self) -> None:
        """
        An account that does not exist is opened, as by an operation.
        """
        moved = self.runtime.setGroup(1001, "real")
        self.turn()
        self.successResultOf(moved)
        self.assertEqual(self.memory.account(1001), Account(1001, 0, 0, "real"))

    def test_knownOnly(self) -> None:
        """
        If accounts must exist, one that doesn't is refused.
        """
        self.runtime._accounts._knownOnly = True
        self.memory.addAccounts([1001])
        why = self.assertRaises(UserNotFound, self.runtime.setGroup, 1002, "real")
        self.assertEqual(why.message, "there is no account 1002")
        moved = self.runtime.setGroup(1001, "real")
        self.turn()
        self.successResultOf(moved)

    def test_bound(self) -> None:
        """
        Only so many moves can wait.
        """
        self.runtime._maxQueued = 2
        for _ in range(2):
            self.runtime.setGroup(1001, "real")
        self.assertRaises(Busy, self.runtime.setGroup, 1001, "real")
        self.turn()
        self.runtime.setGroup(1001, "real")

    def test_failed(self) -> None:
        """
        If the ledger fails at a move, its outcome and that of what is queued are
        unknown, what was booked before is published, and nothing more is accepted.
        """
        why = OSError("EIO")
        self.patch(HeldLedger, "setGroups", lambda ledger, groups: fail(why))
        self.submit(credit())
        self.turn()
        first = self.runtime.setGroup(1001, "real")
        lost = self.submit(credit()).whenDurable()
        self.ledger.release()
        self.failureResultOf(first, OutcomeUnknown)
        self.failureResultOf(lost, OutcomeUnknown)
        self.failureResultOf(self.runtime.whenFailed(), OSError)
        self.assertEqual([each[0] for each in self.told()], [1242281])
        self.assertEqual(self.runtime.groupOf(1001), "")
        self.assertRaises(ShuttingDown, self.runtime.setGroup, 1001, "real")
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_stop(self) -> None:
        """
        A stop carries out the moves that are queued, and accepts no more.
        """
        moved = self.runtime.setGroup(1001, "real")
        stopped = self.runtime.stopService()
        self.successResultOf(moved)
        self.successResultOf(stopped)
        self.assertRaises(ShuttingDown, self.runtime.setGroup, 1001, "real")
