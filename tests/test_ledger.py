"""
Tests for L{creditsync.ledger}.
"""

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Thread
from typing import Any

from attrs import Factory, define
from msgspec.structs import replace
from twisted.internet.defer import Deferred, execute, fail
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

import creditsync
from creditsync.errors import Busy, LedgerDamaged, LedgerInUse, LedgerProblem
from creditsync.interfaces import ILedger
from creditsync.ledger import sqlite
from creditsync.ledger.memory import MemoryLedger
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.records import (
    Account,
    Deletion,
    Movement,
    Operation,
    Reservation,
    Trade,
    TradeEvent,
    difference,
)
from tests.totals import withTotals

BALANCE_IN, CREDIT_IN, BALANCE_OUT, CREDIT_OUT = 6, 7, 8, 9
BOOKED, DELETED = 3, 6
ADD, UPDATE, DELETE = 0, 1, 2
# 2026-01-01T00:00:00Z, the day 20454.
DAY = 1767225600


def trade(
    order: int,
    profit: int = 300_00000000,
    login: int = 1001,
    cmd: int = CREDIT_IN,
    state: int = BOOKED,
    comment: str = "Promotion credit",
) -> Trade:
    """
    A trade as the runtime would make it.
    """
    return Trade(order, login, cmd, state, profit, comment, 1700, 1800, 1900)


def booking(*trades: Trade) -> list[Reservation]:
    """
    The batch that books these trades, none of them under a key.
    """
    asked = Operation("CreditIn", CREDIT_IN, 1001, 1, "")
    return [Reservation(ADD, each, asked) for each in trades]


def asked(
    key: str | None,
    principal: int = 7,
    order: int = 0,
    openTime: int | None = None,
    closeTime: int | None = None,
    each: Trade | None = None,
    command: str = "CreditInSync",
) -> Operation:
    """
    The request of a principal under a key; by default for a new L{trade}.
    """
    each = each or trade(1)
    return Operation(
        command=command,
        cmd=each.cmd,
        login=each.login,
        amount=each.profit,
        comment=each.comment,
        order=order,
        openTime=openTime,
        closeTime=closeTime,
        principal=principal,
        key=key,
    )


def folder(test: SynchronousTestCase) -> str:
    """
    A folder that lasts as long as the test.
    """
    made = tempfile.TemporaryDirectory()
    test.addCleanup(made.cleanup)
    return os.path.realpath(made.name)


@define(eq=False)
class Later:
    """
    A thread in which nothing runs until the test says so.

    @ivar jobs: What is to run in it.
    @ivar done: Is to fire when the next job has ended.
    """

    jobs: list[Callable[[], None]] = Factory(list)
    done: "Deferred[None]" = Factory(Deferred)

    def __call__(self, job: Callable[[], None]) -> "Deferred[None]":
        """
        Take a job.
        """
        self.jobs.append(job)
        return self.done


class LedgerBehaviour:
    """
    Tests for every provider of L{ILedger}; C{setUp} makes C{self.ledger},
    open, and with its first three order numbers assigned.
    """

    ledger: Any

    def commit(self, *trades: Trade) -> None:
        """
        Commit one batch, and wait for it.
        """
        self.successResultOf(
            self.ledger.commit(withTotals(self.ledger, booking(*trades)))
        )

    def test_interface(self) -> None:
        """
        The ledger provides the whole interface.
        """
        verifyObject(ILedger, self.ledger)

    def test_nothingThere(self) -> None:
        """
        An unknown order and an unknown account are L{None}.
        """
        self.assertIsNone(self.ledger.trade(1))
        self.assertIsNone(self.ledger.account(1001))

    def test_noPlaces(self) -> None:
        """
        The journal of a new ledger is empty, and the ledger has an epoch.
        """
        self.assertEqual(self.ledger.head, 0)
        self.assertEqual(self.ledger.events(0, 10), [])
        self.assertIsNone(self.ledger.placeOf(1))
        self.assertRegex(self.ledger.epoch, "^[0-9a-f]{8}$")

    def test_places(self) -> None:
        """
        Each reservation gets the next place, in the order of booking.
        """
        batch = booking(trade(2, 500), trade(1, 70))
        self.successResultOf(self.ledger.commit(withTotals(self.ledger, batch)))
        again = booking(trade(2, 400))
        self.successResultOf(self.ledger.commit(withTotals(self.ledger, again)))
        self.assertEqual([each.place for each in [*batch, *again]], [1, 2, 3])
        self.assertEqual(self.ledger.head, 3)
        self.assertEqual([self.ledger.placeOf(each) for each in (1, 2)], [2, 3])
        self.assertIsNone(self.ledger.placeOf(3))

    def test_events(self) -> None:
        """
        The journal has each event as it was, to be read from any place.
        """
        one, two, three = trade(2, 500), trade(1, 70), trade(2, 400)
        self.commit(one, two)
        change = Reservation(UPDATE, three, asked(None, order=2))
        self.successResultOf(self.ledger.commit(withTotals(self.ledger, [change])))
        self.assertEqual(
            self.ledger.events(0, 10),
            [
                TradeEvent(ADD, one, place=1),
                TradeEvent(ADD, two, place=2),
                TradeEvent(UPDATE, three, place=3),
            ],
        )
        self.assertEqual(self.ledger.events(0, 2), self.ledger.events(0, 3)[:2])
        self.assertEqual(self.ledger.events(1, 1), [TradeEvent(ADD, two, place=2)])
        self.assertEqual(self.ledger.events(2, 5), [TradeEvent(UPDATE, three, place=3)])
        self.assertEqual(self.ledger.events(3, 5), [])

    def moved(
        self,
        type: int,
        order: int,
        profit: int,
        timestamp: int,
        who: tuple[int, int] = (7, 1),
        cmd: int = CREDIT_IN,
    ) -> None:
        """
        Book what somebody asked for at this time.
        """
        state = DELETED if type == DELETE else BOOKED
        each = trade(order, profit, cmd=cmd, state=state)
        each.timestamp = timestamp
        principal, role = who
        operation = asked(None, principal, each=each)
        operation.role = role
        batch = [Reservation(type, each, operation)]
        self.successResultOf(self.ledger.commit(withTotals(self.ledger, batch)))

    def movements(self, day: int, upTo: int) -> list[tuple[object, ...]]:
        """
        The sums of a day, by principal, role and method.
        """
        sums: Counter[tuple[object, ...]] = Counter()
        for each in self.ledger.movements(day, upTo):
            self.assertIsInstance(each, Movement)
            sums[each.principal, each.role, each.login, each.method] += each.amount
        return sorted((*key, amount) for key, amount in sums.items())

    def test_movements(self) -> None:
        """
        The operations of a day are added up by principal, role, login and method,
        without their signs.
        """
        self.assertEqual(self.movements(20454, 0), [])
        self.moved(ADD, 1, 5, DAY - 1)
        self.moved(ADD, 2, 10**18, DAY)
        self.moved(ADD, 3, 9 * 10**18, DAY, cmd=BALANCE_IN)
        for _ in range(3):
            self.moved(UPDATE, 3, 9 * 10**18, DAY, cmd=BALANCE_IN)
        self.moved(ADD, self.ledger.newOrder(), 7, DAY, (8, 2))
        self.moved(ADD, self.ledger.newOrder(), 8, DAY, (8, 1))
        self.moved(ADD, self.ledger.newOrder(), -6, DAY + 86399, cmd=CREDIT_OUT)
        self.moved(DELETE, 2, 10**18, DAY + 86399, (9, 3))
        self.moved(ADD, self.ledger.newOrder(), 11, DAY + 86400)
        self.assertEqual(
            self.movements(20454, self.ledger.head),
            [
                (7, 1, 1001, "BalanceIn", 36 * 10**18),
                (7, 1, 1001, "CreditIn", 10**18),
                (7, 1, 1001, "CreditOut", 6),
                (8, 1, 1001, "CreditIn", 8),
                (8, 2, 1001, "CreditIn", 7),
                (9, 3, 1001, "DeleteCredit", 10**18),
            ],
        )
        self.assertEqual(
            self.movements(20453, self.ledger.head), [(7, 1, 1001, "CreditIn", 5)]
        )
        self.assertEqual(self.movements(20454, 2), [(7, 1, 1001, "CreditIn", 10**18)])

    def test_movedByUpdates(self) -> None:
        """
        An update moves its new amount, or the difference if that is more, also of a
        trade from before the day.
        """
        self.moved(ADD, 1, 500, DAY - 5 * 86400)
        self.moved(UPDATE, 1, 300, DAY - 2 * 86400)
        self.moved(UPDATE, 1, 20, DAY, (8, 1))
        self.moved(UPDATE, 1, 30, DAY + 1, (9, 1))
        self.assertEqual(
            self.movements(20454, self.ledger.head),
            [(8, 1, 1001, "CreditIn", 280), (9, 1, 1001, "CreditIn", 30)],
        )
        self.assertEqual(self.movements(20454, 3), [(8, 1, 1001, "CreditIn", 280)])

    def test_movedWhenClockWasSet(self) -> None:
        """
        What was booked before the clock was set back over midnight is not forgotten.
        """
        self.moved(ADD, 1, 10, DAY + 30)
        self.moved(ADD, 2, 11, DAY - 30)
        self.moved(ADD, 3, 12, DAY + 5)
        self.assertEqual(self.movements(20454, 3), [(7, 1, 1001, "CreditIn", 22)])

    def test_eventsOfAnyText(self) -> None:
        """
        The journal has each comment and each amount as it was.
        """
        texts = ["", "a\0b\x1f\x7f", "\u2028é😀\ufffe", "\"\\/'", ",]", "[1]", "null"]
        trades = [
            replace(trade(1 + at % 3, amount), comment=text)
            for at, text in enumerate(texts)
            for amount in (1, 2**53 - 1)
        ]
        for each in trades:
            self.commit(each)
        found = [each.data for each in self.ledger.events(0, 100)]
        self.assertEqual(found, trades)

    def test_noTotals(self) -> None:
        """
        A reservation without the totals after it is a fault of its creator.
        """
        with self.assertRaises(AssertionError):
            self.ledger.commit(booking(trade(1)))

    def test_newOrderCounts(self) -> None:
        """
        Each number is assigned once, in rising order.
        """
        self.assertEqual([self.ledger.newOrder() for _ in range(3)], [4, 5, 6])

    def test_tradeRoundTrip(self) -> None:
        """
        Every member of a trade comes back unchanged.
        """
        self.commit(Trade(2, 1001, 9, 6, -7, "Böni", 1, 2, 3))
        self.assertEqual(
            self.ledger.trade(2), Trade(2, 1001, 9, 6, -7, "Böni", 1, 2, 3)
        )

    def test_commentRoundTrip(self) -> None:
        """
        A comment comes back exactly, whatever its characters.
        """
        comment = (
            "\t\r\n'\"\\u0041\\u0000\\,}] {\x01\x7f\x85\u2028é€\ufeff\uffff😀[1,2]"
        )
        self.commit(trade(1, comment=comment), trade(2, comment="17"))
        self.assertEqual(self.ledger.trade(1).comment, comment)
        self.assertEqual(self.ledger.trade(2).comment, "17")

    def test_totals(self) -> None:
        """
        Operations on balance and on credit change one total each, in and out.
        """
        self.commit(
            trade(1, 500, cmd=BALANCE_IN),
            trade(2, 70, cmd=CREDIT_IN),
        )
        self.commit(trade(3, -200, cmd=BALANCE_OUT))
        self.assertEqual(self.ledger.account(1001), Account(1001, 300, 70))
        self.ledger.newOrder()
        self.commit(trade(4, -30, cmd=CREDIT_OUT))
        self.assertEqual(self.ledger.account(1001), Account(1001, 300, 40))

    def test_totalsPerAccount(self) -> None:
        """
        A trade changes its own account's totals and no other's.
        """
        self.commit(trade(1, 500, login=1001), trade(2, 70, login=1002))
        self.assertEqual(self.ledger.account(1001), Account(1001, 0, 500))
        self.assertEqual(self.ledger.account(1002), Account(1002, 0, 70))

    def test_update(self) -> None:
        """
        A later state of a trade replaces every member, and changes the total
        by the difference.
        """
        self.commit(trade(1, 500), trade(2, 10), trade(3, 7, cmd=BALANCE_IN))
        self.commit(Trade(1, 1001, 7, 3, 200, "Less", 1, 2, 3))
        self.commit(trade(3, 9, cmd=BALANCE_IN))
        self.assertEqual(
            self.ledger.trade(1), Trade(1, 1001, 7, 3, 200, "Less", 1, 2, 3)
        )
        self.assertEqual(self.ledger.account(1001), Account(1001, 9, 210))

    def test_delete(self) -> None:
        """
        A deleted trade stays, and no longer counts.
        """
        self.commit(trade(1, 500), trade(2, 10), trade(3, 7, cmd=BALANCE_IN))
        self.commit(
            trade(1, 500, state=DELETED), trade(3, 7, cmd=BALANCE_IN, state=DELETED)
        )
        self.assertEqual(self.ledger.trade(1).state, 6)
        self.assertEqual(self.ledger.account(1001), Account(1001, 0, 10))

    def test_sameOrderInOneBatch(self) -> None:
        """
        States of one trade in one batch are taken in their order.
        """
        self.commit(
            trade(1, 500),
            trade(2, 10),
            trade(1, 800),
            trade(1, 900, state=DELETED),
            trade(2, 20),
        )
        self.assertEqual(self.ledger.trade(1), trade(1, 900, state=DELETED))
        self.assertEqual(self.ledger.account(1001), Account(1001, 0, 20))

    def test_nearTheGreatestTotal(self) -> None:
        """
        A total may come as close to 64 bits as it likes: no intermediate step
        to a total that fits exceeds them.
        """
        greatest = 2**63 - 1
        self.commit(trade(1, greatest), trade(2, -1_000, cmd=CREDIT_OUT))
        self.commit(trade(3, 1_000))
        self.assertEqual(self.ledger.account(1001), Account(1001, 0, greatest))
        self.commit(trade(2, -1_001, cmd=CREDIT_OUT))
        self.assertEqual(self.ledger.account(1001), Account(1001, 0, greatest - 1))
        self.commit(trade(3, 1_000, state=6), trade(2, -1_001, cmd=CREDIT_OUT, state=6))
        self.commit(trade(1, 5))
        self.assertEqual(self.ledger.account(1001), Account(1001, 0, 5))

    def test_requestDoesNotCount(self) -> None:
        """
        A pending operation opens its account, with empty totals, and counts
        once it is booked.
        """
        self.commit(trade(1, 500, state=10), trade(2, 70, cmd=BALANCE_IN, state=10))
        self.assertEqual(self.ledger.account(1001), Account(1001, 0, 0))
        self.commit(trade(1, 500), trade(2, 70, cmd=BALANCE_IN))
        self.assertEqual(self.ledger.account(1001), Account(1001, 70, 500))

    def test_bigAmounts(self) -> None:
        """
        Amounts of eighteen digits and their sums are exact.
        """
        self.commit(
            trade(1, 999_999_999_999_999_999),
            trade(2, 999_999_999_999_999_998),
        )
        self.assertEqual(self.ledger.trade(1).profit, 999999999999999999)
        self.assertEqual(self.ledger.account(1001).credit, 1999999999999999997)

    def test_accountIsACopy(self) -> None:
        """
        A change of the returned account doesn't reach the ledger.
        """
        self.commit(trade(1, 500))
        self.ledger.account(1001).credit = 7
        self.assertEqual(self.ledger.account(1001).credit, 500)

    def test_emptyCommit(self) -> None:
        """
        An empty commit is refused.
        """
        with self.assertRaises(AssertionError):
            self.ledger.commit(withTotals(self.ledger, []))

    def test_orderNotGivenOut(self) -> None:
        """
        An order that was never assigned is refused: a later trade would get
        the same one.
        """
        with self.assertRaises(AssertionError):
            self.ledger.commit(withTotals(self.ledger, booking(trade(4))))

    def test_addAccounts(self) -> None:
        """
        Accounts are opened empty; existing ones are left unchanged.
        """
        self.commit(trade(1, 500, login=1001))
        self.assertEqual(
            self.ledger.addAccounts([1002, 1001, 1003, 1002]), [1002, 1003]
        )
        self.assertEqual(self.ledger.addAccounts([1002]), [])
        self.assertEqual(self.ledger.account(1001), Account(1001, 0, 500))
        self.assertEqual(self.ledger.account(1003), Account(1003, 0, 0))

    def test_addAccountsInGroup(self) -> None:
        """
        New accounts may have a group; an existing one keeps its own.
        """
        self.ledger.addAccounts([1001], "real")
        self.assertEqual(self.ledger.addAccounts([1001, 1002], "demo"), [1002])
        self.assertEqual(self.ledger.account(1001), Account(1001, 0, 0, "real"))
        self.assertEqual(self.ledger.account(1002), Account(1002, 0, 0, "demo"))

    def test_setGroups(self) -> None:
        """
        Accounts are moved to groups, and opened if they don't exist; their totals stay.
        """
        self.commit(trade(1, 500, login=1001))
        moved = self.ledger.setGroups({1001: "real", 1002: "it's \u20ac"})
        self.successResultOf(moved)
        self.assertEqual(self.ledger.account(1001), Account(1001, 0, 500, "real"))
        self.assertEqual(self.ledger.account(1002), Account(1002, 0, 0, "it's \u20ac"))
        self.successResultOf(self.ledger.setGroups({1001: ""}))
        self.assertEqual(self.ledger.account(1001), Account(1001, 0, 500))

    def test_groupStays(self) -> None:
        """
        Bookings leave the group of their account as it is, and give no place to a move.
        """
        self.ledger.setGroups({1001: "real"})
        self.assertEqual(self.ledger.head, 0)
        self.commit(trade(1, 500, login=1001), trade(2, 70, login=1002))
        self.assertEqual(self.ledger.account(1001), Account(1001, 0, 500, "real"))
        self.assertEqual(self.ledger.account(1002), Account(1002, 0, 70, ""))
        self.assertEqual(self.ledger.head, 2)


class KeyBehaviour:
    """
    Tests for the keys in every provider of L{ILedger}; C{setUp} makes
    C{self.ledger}, open, and with its first three order numbers assigned.
    """

    ledger: Any

    def book(self, *reservations: Reservation) -> None:
        """
        Commit one batch, and wait for it.
        """
        self.successResultOf(self.ledger.commit(withTotals(self.ledger, reservations)))

    def replay(self, key: str, principal: int = 7) -> Reservation:
        """
        The data that are stored for a key, which is a replay.
        """
        replay: Reservation = self.ledger.replay(principal, key)
        self.assertIs(replay.isReplay, True)
        return replay

    def test_nothingThere(self) -> None:
        """
        An unused key is L{None}.
        """
        self.assertIsNone(self.ledger.replay(7, "promo-1"))
        self.book(Reservation(ADD, trade(1), asked("promo-1")))
        self.assertIsNone(self.ledger.replay(7, "promo-2"))

    def test_place(self) -> None:
        """
        A replay has the place and the totals of then.
        """
        self.book(Reservation(ADD, trade(1, 500), asked("promo-1")))
        self.book(Reservation(UPDATE, trade(1, 70), asked(None, order=1)))
        replay = self.replay("promo-1")
        self.assertEqual((replay.place, replay.balance, replay.credit), (1, 0, 500))

    def test_withoutAKey(self) -> None:
        """
        An operation without a key is not stored under any.
        """
        self.book(Reservation(ADD, trade(1), asked(None)))
        for key in ("", "None", "null"):
            self.assertIsNone(self.ledger.replay(7, key))

    def test_add(self) -> None:
        """
        A key has the event's type, the trade as it was booked, and the
        request.
        """
        operation = asked("promo-1")
        operation.role = 2
        self.book(Reservation(ADD, trade(1), operation))
        replay = self.replay("promo-1")
        self.assertEqual(replay.operation.role, 2)
        self.assertEqual((replay.eventType, replay.trade), (0, trade(1)))
        self.assertIsNone(difference(operation, replay.operation))
        self.assertEqual(
            (replay.operation.principal, replay.operation.key), (7, "promo-1")
        )
        self.assertEqual(self.ledger.trade(1), trade(1))
        self.assertEqual(self.ledger.account(1001), Account(1001, 0, 300_00000000))

    def test_laterState(self) -> None:
        """
        A later state of the trade changes nothing of what is stored for a key.
        """
        self.book(Reservation(ADD, trade(1, 500), asked("promo-1")))
        self.book(Reservation(UPDATE, trade(1, 70), asked(None, order=1)))
        self.book(Reservation(UPDATE, trade(1, 60), asked("promo-2", order=1)))
        self.assertEqual(self.replay("promo-1").trade, trade(1, 500))
        self.assertEqual(self.replay("promo-2").trade, trade(1, 60))
        self.assertEqual(self.replay("promo-2").eventType, 1)
        self.assertEqual(self.ledger.trade(1), trade(1, 60))
        self.assertEqual(self.ledger.account(1001), Account(1001, 0, 60))

    def test_delete(self) -> None:
        """
        A deletion is stored with its order and its command.
        """
        deletion = Deletion("DeleteCredit", 1, frozenset({7, 9}), 7, "promo-1")
        self.book(*booking(trade(1)))
        self.book(Reservation(DELETE, trade(1, state=DELETED), deletion))
        replay = self.replay("promo-1")
        self.assertEqual((replay.eventType, replay.trade), (2, trade(1, state=DELETED)))
        self.assertIsInstance(replay.operation, Deletion)
        self.assertIsNone(difference(deletion, replay.operation))
        for other, member in (
            (Deletion("DeleteCreditSync", 1, frozenset({7, 9})), "command"),
            (Deletion("DeleteCredit", 2, frozenset({7, 9})), "data.order"),
        ):
            self.assertEqual(difference(other, replay.operation), member)

    def test_asAskedFor(self) -> None:
        """
        A request is stored as it was sent, which may differ from what was
        booked: an order that was not found, times that were left out.
        """
        operation = asked("promo-1", order=42)
        self.book(Reservation(ADD, trade(1), operation))
        remembered = self.replay("promo-1").operation
        self.assertEqual(remembered.order, 42)
        self.assertEqual((remembered.openTime, remembered.closeTime), (None, None))
        self.assertIsNone(difference(operation, remembered))

    def test_times(self) -> None:
        """
        The time 0 differs from an omitted time.
        """
        for order, times in ((1, (0, None)), (2, (None, 0)), (3, (5, 2**40))):
            key = f"promo-{order}"
            self.book(Reservation(ADD, trade(order), asked(key, 7, 0, *times)))
            remembered = self.replay(key).operation
            self.assertEqual((remembered.openTime, remembered.closeTime), times)

    def test_differences(self) -> None:
        """
        Other content differs from what is stored, and the first member that
        differs is named.
        """
        self.book(Reservation(ADD, trade(1), asked("promo-1", openTime=5, closeTime=6)))
        remembered = self.replay("promo-1").operation
        for member, other in (
            ("command", asked("promo-1", 7, 0, 5, 6, command="CreditIn")),
            ("data.login", asked("promo-1", 7, 0, 5, 6, trade(1, login=1002))),
            ("data.amount", asked("promo-1", 7, 0, 5, 6, trade(1, 300_00000001))),
            ("data.comment", asked("promo-1", 7, 0, 5, 6, trade(1, comment="x"))),
            ("data.order", asked("promo-1", 7, 1, 5, 6)),
            ("data.open_time", asked("promo-1", 7, 0, None, 6)),
            ("data.close_time", asked("promo-1", 7, 0, 5, None)),
        ):
            self.assertEqual(difference(other, remembered), member)

    def test_everyMember(self) -> None:
        """
        Every member of the trade comes back unchanged through a key too.
        """
        each = Trade(
            2, 2**53 - 1, 8, 3, -999_999_999_999_999_999, "\t\"'\\,} Böni 😀", 1, 2, 3
        )
        self.book(*booking(trade(1, 10**18, login=2**53 - 1, cmd=BALANCE_IN)))
        self.book(Reservation(ADD, each, asked("promo-1", each=each)))
        expected = Trade(
            2,
            9007199254740991,
            8,
            3,
            -999999999999999999,
            "\t\"'\\,} Böni 😀",
            1,
            2,
            3,
        )
        self.assertEqual(self.replay("promo-1").trade, expected)
        self.assertEqual(self.ledger.trade(2), expected)
        self.assertEqual(
            self.ledger.account(9007199254740991), Account(9007199254740991, 1, 0)
        )

    def test_principals(self) -> None:
        """
        Each principal has keys of its own.
        """
        self.book(
            Reservation(ADD, trade(1), asked("promo-1", 7)),
            Reservation(ADD, trade(2), asked("promo-1", 8)),
        )
        self.assertEqual(self.replay("promo-1", 7).order, 1)
        self.assertEqual(self.replay("promo-1", 8).order, 2)
        for other in (6, 9):
            self.assertIsNone(self.ledger.replay(other, "promo-1"))

    def test_keysAreExact(self) -> None:
        """
        A key is compared character by character.
        """
        printable = "".join(chr(each) for each in range(0x20, 0x7F))
        keys = ("1", "01", "1.0", "null", "a", "A", "a ", printable, "x" * 128)
        for _ in range(6):
            self.ledger.newOrder()
        self.book(
            *(
                Reservation(ADD, trade(order), asked(key))
                for order, key in enumerate(keys, 1)
            )
        )
        for order, key in enumerate(keys, 1):
            self.assertEqual(self.replay(key).order, order)
        for key in (" a", "x" * 127, "2", printable.lower()):
            self.assertIsNone(self.ledger.replay(7, key))

    def test_manyInOneBatch(self) -> None:
        """
        Each key of a batch has its own trade.
        """
        orders = [1, 2, 3, *(self.ledger.newOrder() for _ in range(497))]
        self.book(
            *(
                Reservation(ADD, trade(order, order), asked(f"promo-{order}"))
                for order in orders
            )
        )
        for order in orders:
            self.assertEqual(self.replay(f"promo-{order}").trade, trade(order, order))
        self.assertEqual(self.ledger.account(1001), Account(1001, 0, 125250))

    def test_mixedBatch(self) -> None:
        """
        Operations on one order, some with a key and some without, are booked
        in their order; each key has the data of its own.
        """
        deletion = Deletion("DeleteCredit", 1, frozenset({7, 9}), 7, "k3")
        self.book(
            Reservation(ADD, trade(1, 300), asked("k1")),
            Reservation(UPDATE, trade(1, 200), asked(None, order=1)),
            Reservation(UPDATE, trade(1, 250), asked("k2", order=1)),
            Reservation(ADD, trade(2, 10), asked(None)),
            Reservation(UPDATE, trade(1, 7), asked(None, order=1)),
            Reservation(DELETE, trade(1, 7, state=DELETED), deletion),
            Reservation(ADD, trade(3, 40, cmd=BALANCE_IN), asked("k4")),
            Reservation(UPDATE, trade(2, 20), asked(None, order=2)),
        )
        self.assertEqual(self.ledger.trade(1), trade(1, 7, state=DELETED))
        self.assertEqual(self.ledger.trade(2), trade(2, 20))
        self.assertEqual(self.ledger.account(1001), Account(1001, 40, 20))
        self.assertEqual(
            [self.replay(key).trade for key in ("k1", "k2", "k3", "k4")],
            [
                trade(1, 300),
                trade(1, 250),
                trade(1, 7, state=DELETED),
                trade(3, 40, cmd=BALANCE_IN),
            ],
        )
        self.assertEqual(
            [self.replay(key).eventType for key in ("k1", "k2", "k3", "k4")],
            [0, 1, 2, 0],
        )


class MemoryLedgerTests(LedgerBehaviour, KeyBehaviour, SynchronousTestCase):
    """
    Tests for L{MemoryLedger}.
    """

    def setUp(self) -> None:
        """
        Make a ledger that has assigned three numbers.
        """
        self.ledger = MemoryLedger()
        self.ledger.open()
        self.addCleanup(self.ledger.close)
        self.assertEqual([self.ledger.newOrder() for _ in range(3)], [1, 2, 3])

    def test_nextOrder(self) -> None:
        """
        The first number can be chosen.
        """
        self.assertEqual(MemoryLedger(nextOrder=1242281).newOrder(), 1242281)


class SQLiteBehaviourTests(LedgerBehaviour, KeyBehaviour, SynchronousTestCase):
    """
    The tests of every ledger, with L{SQLiteLedger}.
    """

    def setUp(self) -> None:
        """
        Make a ledger that has assigned three numbers.
        """
        self.ledger = SQLiteLedger(os.path.join(folder(self), "ledger.db"), execute)
        self.ledger.open()
        self.addCleanup(self.ledger.close)
        self.assertEqual([self.ledger.newOrder() for _ in range(3)], [1, 2, 3])


class SQLiteTestCase(SynchronousTestCase):
    """
    A folder for a ledger file, and the ways to reach it.
    """

    def setUp(self) -> None:
        """
        Make a folder whose name has a special meaning in a URI.
        """
        strange = Path(folder(self)) / "100% of?this#"
        strange.mkdir()
        self.path = str(strange / "ledger.db")

    def opened(
        self, run: Callable[[Callable[[], None]], Deferred[None]] = execute
    ) -> SQLiteLedger:
        """
        An open ledger, whose commits C{run} writes and which is closed in the
        end.
        """
        ledger = SQLiteLedger(self.path, execute)
        ledger.open()
        ledger._run = run
        self.addCleanup(ledger.close)
        return ledger

    def refused(self, kind: type[LedgerProblem]) -> str:
        """
        The message with which a ledger can't be opened.
        """
        return str(self.assertRaises(kind, SQLiteLedger(self.path, execute).open))

    def sql(self, script: str) -> None:
        """
        Change the file as no ledger would.
        """
        with closing(sqlite3.connect(self.path)) as connection:
            connection.executescript(script)

    def value(self, statement: str) -> Any:
        """
        One value, read while another connection has the file open.
        """
        uri = Path(self.path).as_uri() + "?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            return connection.execute(statement).fetchone()[0]

    def booked(self, *profits: int) -> None:
        """
        Make a ledger with these credits of one account, and close it.
        """
        ledger = SQLiteLedger(self.path, execute)
        ledger.open()
        for profit in profits:
            self.successResultOf(
                ledger.commit(
                    withTotals(ledger, booking(trade(ledger.newOrder(), profit)))
                )
            )
        ledger.close()


class SQLiteLedgerTests(SQLiteTestCase):
    """
    Tests for what L{SQLiteLedger} does beyond the interface.
    """

    def test_reopen(self) -> None:
        """
        A ledger that was closed comes back with everything, and continues with
        the next number.
        """
        self.booked(500, 70)
        ledger = self.opened()
        self.assertEqual(ledger.trade(2), trade(2, 70))
        self.assertEqual(ledger.account(1001), Account(1001, 0, 570))
        self.assertEqual(ledger.newOrder(), 3)

    def test_closeTwice(self) -> None:
        """
        Closing twice, or without opening, does nothing.
        """
        ledger = SQLiteLedger(self.path, execute)
        ledger.close()
        ledger.open()
        ledger.close()
        ledger.close()
        self.assertEqual(os.listdir(os.path.dirname(self.path)).count("ledger.db"), 1)

    def lose(self, how: Callable[[str], object], names: str = "*") -> None:
        """
        Do something to the files of a ledger that is open, and try to commit.
        """
        ledger = self.opened()
        order = ledger.newOrder()
        self.successResultOf(ledger.commit(withTotals(ledger, booking(trade(order)))))
        for each in Path(self.path).parent.glob(f"ledger.db{names}"):
            how(str(each))
        after = trade(ledger.newOrder())
        committed = ledger.commit(withTotals(ledger, booking(after)))
        why = self.failureResultOf(committed, LedgerProblem)
        self.assertEqual(
            why.getErrorMessage(),
            f"the ledger {self.path} was renamed, deleted or replaced while this"
            " server used it",
        )
        ledger.close()

    def test_deleted(self) -> None:
        """
        Nothing is committed into a file that was deleted, and no empty ledger takes its
        place by itself.
        """
        self.lose(os.unlink)
        self.assertEqual(
            self.refused(LedgerProblem),
            f"the ledger {self.path} was renamed or deleted while a server used it: put"
            f" it back, or restore a backup; to begin with an empty one, delete"
            f" {self.path}.lock first",
        )
        self.refused(LedgerProblem)
        os.unlink(self.path + ".lock")
        self.assertIsNone(self.opened().trade(1))

    def test_renamed(self) -> None:
        """
        A ledger that was renamed can be put back, with what was committed before.
        """
        self.lose(lambda name: os.rename(name, name + ".old"), "")
        self.refused(LedgerProblem)
        os.rename(self.path + ".old", self.path)
        self.assertEqual(self.opened().trade(1), trade(1))

    def test_replaced(self) -> None:
        """
        Nothing is committed after another file was put in the place of the ledger, and
        the next start uses that.
        """
        self.booked(500)
        shutil.copy(self.path, self.path + ".copy")
        self.lose(lambda name: os.rename(self.path + ".copy", name), "")
        self.assertEqual(self.opened().trade(1), trade(1, 500))

    def test_walDeleted(self) -> None:
        """
        Nothing is committed into a WAL file that was deleted, which a crash would lose.
        """
        self.lose(os.unlink, "-wal")
        self.assertEqual(self.opened().trade(1), trade(1))

    def test_goneIdle(self) -> None:
        """
        A ledger that was deleted under an idle server is not begun anew either.
        """
        ledger = self.opened()
        os.unlink(self.path)
        ledger.close()
        self.refused(LedgerProblem)

    def test_closed(self) -> None:
        """
        A closed ledger assigns, returns and accepts nothing more.
        """
        ledger = self.opened()
        order = ledger.newOrder()
        ledger.close()
        self.assertRaises(Busy, ledger.newOrder)
        self.assertRaises(AssertionError, ledger.trade, 1)
        [reservation] = booking(trade(order))
        reservation.balance = reservation.credit = 0
        self.failureResultOf(ledger.commit([reservation]), AssertionError)

    def test_closeEmptiesTheWAL(self) -> None:
        """
        After a clean end the database file alone contains everything.
        """
        self.booked(500)
        self.assertFalse(os.path.exists(self.path + "-wal"))
        self.assertEqual(self.value("SELECT profit FROM trade"), 500)

    def test_closeBesideReader(self) -> None:
        """
        Another reader keeps the WAL file in place, but the database file
        contains everything all the same.
        """
        ledger = self.opened()
        self.successResultOf(
            ledger.commit(withTotals(ledger, booking(trade(ledger.newOrder(), 500))))
        )
        uri = Path(self.path).as_uri() + "?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as reader:
            reader.execute("SELECT * FROM trade").fetchall()
            ledger.close()
            shutil.copy(self.path, self.path + ".copy")
        self.path += ".copy"
        self.assertEqual(self.value("SELECT profit FROM trade"), 500)

    def test_durable(self) -> None:
        """
        The writing connection syncs every commit.
        """
        ledger = self.opened()
        assert ledger._writer is not None
        for name, value in [
            ("synchronous", 2),
            ("fullfsync", 1),
            ("checkpoint_fullfsync", 1),
        ]:
            found = ledger._writer.execute(f"PRAGMA {name}").fetchone()
            self.assertEqual((name, found), (name, (value,)))
        self.assertEqual(self.value("PRAGMA journal_mode"), "wal")

    def test_notDurable(self) -> None:
        """
        A connection that can't be made durable is refused.
        """
        Path(self.path).touch()
        self.patch(
            sqlite, "connectWriter", lambda _: sqlite3.connect("", isolation_level=None)
        )
        self.assertIn("journal_mode is delete", self.refused(LedgerProblem))

    def test_notFullySynchronous(self) -> None:
        """
        A connection that doesn't take its synchronous setting is refused.
        """

        class Lazy(sqlite3.Connection):
            """
            A connection that leaves syncing to the system.
            """

            def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
                """
                Do as asked, except that C{FULL} becomes C{NORMAL}.
                """
                return super().execute(sql.replace("FULL", "NORMAL"), *parameters)

        self.patch(
            sqlite,
            "connectWriter",
            lambda path: sqlite3.connect(path, isolation_level=None, factory=Lazy),
        )
        self.assertIn("synchronous is 1", self.refused(LedgerProblem))

    def test_notPastTheDisksCache(self) -> None:
        """
        A connection that doesn't accept a setting that macOS needs is refused.
        """
        for name in ("fullfsync", "checkpoint_fullfsync"):

            class Lazy(sqlite3.Connection):
                """
                A connection that leaves one of the settings off.
                """

                setting = f"PRAGMA {name} = 1"

                def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
                    """
                    Execute all statements except for that one.
                    """
                    sql = "SELECT 1" if sql == self.setting else sql
                    return super().execute(sql, *parameters)

            self.patch(
                sqlite,
                "connectWriter",
                lambda path, lazy=Lazy: sqlite3.connect(
                    path, isolation_level=None, factory=lazy
                ),
            )
            self.assertIn(f": {name} is 0, but must be 1", self.refused(LedgerProblem))

    def test_readerCantWrite(self) -> None:
        """
        The reading connection refuses to write.
        """
        ledger = self.opened()
        assert ledger._reader is not None
        self.assertRaises(
            sqlite3.OperationalError, ledger._reader.execute, "DELETE FROM trade"
        )

    def test_commitRunsElsewhere(self) -> None:
        """
        A commit is written by the function given for that, and is neither
        visible nor acknowledged before.
        """
        later = Later()
        ledger = self.opened(later)
        committed = ledger.commit(
            withTotals(ledger, booking(trade(ledger.newOrder(), 500)))
        )
        self.assertIsNone(ledger.trade(1))
        [job] = later.jobs
        job()
        self.assertNoResult(committed)
        later.done.callback(None)
        self.assertIsNone(self.successResultOf(committed))
        self.assertEqual(ledger.trade(1), trade(1, 500))

    def test_overlappingCommits(self) -> None:
        """
        Starting a commit, or closing, while a commit is under way is an error
        of the caller.
        """
        done: Deferred[None] = Deferred()
        ledger = self.opened(lambda job: done)
        committed = ledger.commit(withTotals(ledger, booking(trade(ledger.newOrder()))))
        self.assertRaises(AssertionError, ledger.commit, booking(trade(1)))
        self.assertRaises(AssertionError, ledger.close)
        done.callback(None)
        self.successResultOf(committed)

    def test_failedCommit(self) -> None:
        """
        A batch that SQLite refuses leaves nothing behind, and nothing more is
        committed.
        """
        ledger = self.opened()
        orders = [ledger.newOrder(), ledger.newOrder()]
        failed = ledger.commit(
            withTotals(ledger, booking(trade(orders[0]), trade(orders[1], state=5)))
        )
        self.failureResultOf(failed, sqlite3.IntegrityError)
        self.assertIsNone(ledger.trade(1))
        self.failureResultOf(
            ledger.commit(withTotals(ledger, booking(trade(1)))), LedgerProblem
        )
        self.assertIsNone(ledger.trade(1))

    def test_placesAfterFailure(self) -> None:
        """
        A batch that failed leaves no gap: the next server goes on where the disk
        ends, in the same life.
        """
        ledger = self.opened()
        orders = [ledger.newOrder() for _ in range(4)]
        self.successResultOf(ledger.commit(withTotals(ledger, booking(trade(1)))))
        failed = ledger.commit(
            withTotals(ledger, booking(trade(orders[1]), trade(orders[2], state=5)))
        )
        self.failureResultOf(failed, sqlite3.IntegrityError)
        self.assertEqual(ledger.head, 1)
        ledger.close()
        again = self.opened()
        self.assertEqual((again.head, again.epoch), (1, ledger.epoch))
        order = again.newOrder()
        self.successResultOf(again.commit(withTotals(again, booking(trade(order)))))
        self.assertEqual([each.place for each in again.events(0, 9)], [1, 2])

    def test_headWhenDurable(self) -> None:
        """
        The head moves when a commit has ended, not before.
        """
        done: Deferred[None] = Deferred()
        ledger = self.opened(lambda job: done)
        committed = ledger.commit(withTotals(ledger, booking(trade(ledger.newOrder()))))
        self.assertEqual(ledger.head, 0)
        done.callback(None)
        self.successResultOf(committed)
        self.assertEqual(ledger.head, 1)

    def test_eventsInAnotherThread(self) -> None:
        """
        Another thread reads the journal while a commit is under way, and sees what
        was committed before.
        """
        later = Later()
        ledger = self.opened(later)
        first = ledger.commit(withTotals(ledger, booking(trade(ledger.newOrder()))))
        later.jobs.pop()()
        later.done.callback(None)
        self.successResultOf(first)
        later.done = Deferred()
        second = ledger.commit(withTotals(ledger, booking(trade(ledger.newOrder(), 2))))
        assert ledger._writer is not None
        found: list[Any] = []

        def read(statement: str) -> None:
            # In the middle of the commit.
            thread = Thread(target=lambda: found.append(ledger.events(0, 9)))
            thread.start()
            thread.join(10)

        ledger._writer.set_trace_callback(read)
        later.jobs.pop()()
        ledger._writer.set_trace_callback(None)
        later.done.callback(None)
        self.successResultOf(second)
        self.assertEqual([each.place for each in found[0]], [1])
        self.assertEqual([each.place for each in ledger.events(0, 9)], [1, 2])

    def test_tornJournal(self) -> None:
        """
        A ledger whose journal does not end as a commit leaves it is refused.
        """
        ledger = self.opened()
        trades = [trade(ledger.newOrder(), each, state=6) for each in (1, 2)]
        self.successResultOf(ledger.commit(withTotals(ledger, booking(*trades))))
        ledger.close()
        with closing(sqlite3.connect(self.path)) as connection:
            [[kept]] = connection.execute(
                "SELECT sql FROM sqlite_schema WHERE name = 'journal_deleted'"
            )
        for change in (
            "DELETE FROM journal WHERE place = 2",
            "DELETE FROM journal",
        ):
            with closing(sqlite3.connect(self.path)) as connection:
                connection.execute("DROP TRIGGER journal_deleted")
                connection.execute(change)
                connection.execute(kept)
                connection.commit()
            message = str(self.assertRaises(LedgerDamaged, self.opened))
            self.assertIn("rows are missing after it", message)

    def test_failedRun(self) -> None:
        """
        A pool that doesn't accept the commit makes it fail too.
        """
        ledger = self.opened(lambda job: fail(OSError("no thread")))
        self.failureResultOf(
            ledger.commit(withTotals(ledger, booking(trade(ledger.newOrder())))),
            OSError,
        )
        self.failureResultOf(
            ledger.commit(withTotals(ledger, booking(trade(1)))), LedgerProblem
        )

    def test_nulInComment(self) -> None:
        """
        A comment with a NUL character is stored whole, although SQLite's own
        text functions end at it.
        """
        ledger = self.opened()
        each = trade(ledger.newOrder(), comment="a\0b")
        self.successResultOf(ledger.commit(withTotals(ledger, booking(each))))
        self.assertEqual(ledger.trade(1), each)

    def test_totalTooGreat(self) -> None:
        """
        A total that exceeds 64 bits is refused and not rounded.
        """
        ledger = self.opened()
        ledger.newOrder(), ledger.newOrder()
        self.successResultOf(
            ledger.commit(withTotals(ledger, booking(trade(1, 2**63 - 1))))
        )
        failed = ledger.commit(withTotals(ledger, booking(trade(2, 1))))
        self.failureResultOf(failed, OverflowError)
        self.assertEqual(ledger.account(1001).credit, 9223372036854775807)

    def test_readWhileOpen(self) -> None:
        """
        Another program may read beside the server.
        """
        ledger = self.opened()
        self.successResultOf(
            ledger.commit(
                withTotals(ledger, booking(trade(ledger.newOrder(), 12345678)))
            )
        )
        self.assertEqual(self.value("SELECT profit / 1e8 FROM trade"), 0.12345678)


class GroupTests(SQLiteTestCase):
    """
    Tests for groups in L{SQLiteLedger}.
    """

    def test_kept(self) -> None:
        """
        Groups outlive the process.
        """
        ledger = self.opened()
        self.successResultOf(ledger.setGroups({1001: "real"}))
        ledger.close()
        self.assertEqual(self.opened().account(1001), Account(1001, 0, 0, "real"))

    def test_oneTransaction(self) -> None:
        """
        A move is written like a commit: none may begin before it has ended.
        """
        writes: list[Callable[[], None]] = []
        ended: Deferred[None] = Deferred()

        def run(write: Callable[[], None]) -> Deferred[None]:
            writes.append(write)
            return ended

        ledger = self.opened(run)
        moved = ledger.setGroups({1001: "real", 1002: "demo"})
        self.assertNoResult(moved)
        self.assertRaises(AssertionError, ledger.setGroups, {1001: "demo"})
        self.assertIsNone(ledger.account(1001))
        writes[0]()
        ended.callback(None)
        self.successResultOf(moved)
        self.assertEqual(self.value("SELECT count(*) FROM account"), 2)

    def test_failed(self) -> None:
        """
        If a move fails, it is unknown what is on disk, and nothing more is written.
        """
        ledger = self.opened(lambda write: fail(OSError("EIO")))
        self.failureResultOf(ledger.setGroups({1001: "real"}), OSError)
        self.failureResultOf(ledger.setGroups({1001: "real"}), LedgerProblem)

    def test_nothingElse(self) -> None:
        """
        A move leaves the place, the chain and the order numbers as they are.
        """
        self.booked(500)
        ledger = self.opened()
        before = ledger.head, ledger._hash, ledger._mark, ledger._next
        self.successResultOf(ledger.setGroups({1001: "real"}))
        self.assertEqual(
            (ledger.head, ledger._hash, ledger._mark, ledger._next), before
        )


class MovementsTests(SQLiteTestCase):
    """
    Tests for L{SQLiteLedger.movements} in another thread.
    """

    def test_closed(self) -> None:
        """
        A ledger that is closed while its day is added up ends that with an error.
        """
        ledger = self.opened()
        add = sqlite.movements

        def closing(*arguments: Any) -> list[Movement]:
            found = add(*arguments)
            ledger.close()
            return found

        self.patch(sqlite, "movements", closing)
        e = self.assertRaises(LedgerProblem, ledger.movements, 20454, 0)
        self.assertIn("was closed while it was read", str(e))

    def test_interrupted(self) -> None:
        """
        It does not keep the stop waiting for a long journal.
        """
        ledger = self.opened()
        self.patch(sqlite, "_PROGRESS", 1)

        def closing(connection: sqlite3.Connection, *_: int) -> list[Movement]:
            ledger.close()
            return connection.execute("SELECT count(*) FROM journal").fetchall()

        self.patch(sqlite, "movements", closing)
        e = self.assertRaises(LedgerProblem, ledger.movements, 20454, 0)
        self.assertIn("interrupted", str(e))

    def test_leavesNothing(self) -> None:
        """
        It leaves no lock and no connection: the next server can start.
        """
        ledger = self.opened()
        ledger.movements(20454, 0)
        ledger.close()
        self.assertEqual(
            os.listdir(os.path.dirname(self.path)).count("ledger.db-wal"), 0
        )
        self.opened()


class UniqueKeyTests(SQLiteTestCase):
    """
    Tests for keys in L{SQLiteLedger}: a booking is unique by its principal and
    key.
    """

    def test_oneBatch(self) -> None:
        """
        A batch with one key twice is not committed at all.
        """
        ledger = self.opened()
        orders = [ledger.newOrder() for _ in range(3)]
        failed = ledger.commit(
            withTotals(
                ledger,
                [
                    *booking(trade(orders[0])),
                    Reservation(ADD, trade(orders[1]), asked("promo-1")),
                    Reservation(ADD, trade(orders[2]), asked("promo-1")),
                ],
            )
        )
        self.failureResultOf(failed, sqlite3.IntegrityError)
        self.assertEqual([ledger.trade(order) for order in orders], [None] * 3)
        self.assertIsNone(ledger.account(1001))
        self.assertIsNone(ledger.replay(7, "promo-1"))

    def test_later(self) -> None:
        """
        A later batch with an existing key is not committed.
        """
        ledger = self.opened()
        orders = [ledger.newOrder() for _ in range(2)]
        first, second = (
            Reservation(ADD, trade(order), asked("promo-1")) for order in orders
        )
        self.successResultOf(ledger.commit(withTotals(ledger, [first])))
        self.failureResultOf(
            ledger.commit(withTotals(ledger, [second])), sqlite3.IntegrityError
        )
        self.assertIsNone(ledger.trade(2))
        self.assertEqual(ledger.account(1001), Account(1001, 0, 300_00000000))
        replay = ledger.replay(7, "promo-1")
        assert replay is not None
        self.assertEqual(replay.order, 1)

    def test_notBeforeItIsOnDisk(self) -> None:
        """
        A key is not visible before its batch is on disk, and then together
        with its trade.
        """
        later = Later()
        ledger = self.opened(later)
        order = ledger.newOrder()
        committed = ledger.commit(
            withTotals(ledger, [Reservation(ADD, trade(order), asked("promo-1"))])
        )
        self.assertIsNone(ledger.replay(7, "promo-1"))
        [job] = later.jobs
        job()
        self.assertIsNotNone(ledger.replay(7, "promo-1"))
        self.assertEqual(ledger.trade(1), trade(1))
        later.done.callback(None)
        self.successResultOf(committed)

    def test_failedBatch(self) -> None:
        """
        The keys of a batch that SQLite refuses are not stored.
        """
        ledger = self.opened()
        orders = [ledger.newOrder() for _ in range(2)]
        failed = ledger.commit(
            withTotals(
                ledger,
                [
                    Reservation(ADD, trade(orders[0]), asked("promo-1")),
                    *booking(trade(orders[1], state=5)),
                ],
            )
        )
        self.failureResultOf(failed, sqlite3.IntegrityError)
        self.assertIsNone(ledger.replay(7, "promo-1"))
        self.assertIsNone(ledger.trade(1))

    def test_nulInComment(self) -> None:
        """
        With a key, too, a comment with a NUL character is stored whole.
        """
        ledger = self.opened()
        each = trade(ledger.newOrder(), comment="a\0b")
        self.successResultOf(
            ledger.commit(
                withTotals(
                    ledger, [Reservation(ADD, each, asked("promo-1", each=each))]
                )
            )
        )
        replay = ledger.replay(7, "promo-1")
        assert replay is not None
        self.assertEqual(replay.trade, each)

    def test_reopen(self) -> None:
        """
        Keys are there when the ledger is opened again, and its totals are
        still the sums.
        """
        ledger = self.opened()
        orders = [ledger.newOrder() for _ in range(2)]
        add = asked("k1", 7, 42, None, 0)
        deletion = Deletion("DeleteCredit", 1, frozenset({7, 9}), 7, "k2")
        self.successResultOf(
            ledger.commit(
                withTotals(
                    ledger,
                    [
                        Reservation(ADD, trade(orders[0], 500), add),
                        Reservation(DELETE, trade(1, 500, state=DELETED), deletion),
                        *booking(trade(orders[1], 70)),
                    ],
                )
            )
        )
        ledger.close()
        ledger = self.opened()
        for key, operation, expected in (
            ("k1", asked("k1", 7, 42, None, 0, trade(1, 500)), trade(1, 500)),
            ("k2", deletion, trade(1, 500, state=DELETED)),
        ):
            replay = ledger.replay(7, key)
            assert replay is not None
            self.assertEqual(replay.trade, expected)
            self.assertIsNone(difference(operation, replay.operation))
        self.assertEqual(ledger.account(1001), Account(1001, 0, 70))


class OrderNumberTests(SQLiteTestCase):
    """
    Tests for the numbers that L{SQLiteLedger} assigns.
    """

    def test_firstOrder(self) -> None:
        """
        A fresh ledger begins with 1, and no number below the mark on disk was
        assigned before.
        """
        ledger = self.opened()
        self.assertEqual(self.value("SELECT next_order FROM order_mark"), 100001)
        self.assertEqual(ledger.newOrder(), 1)

    def test_uncleanEnd(self) -> None:
        """
        A ledger whose process was killed skips the numbers that it may have
        assigned.
        """
        ledger = self.opened()
        self.assertEqual(ledger.newOrder(), 1)
        self.successResultOf(ledger.commit(withTotals(ledger, booking(trade(1)))))
        for end in ("", "-wal"):
            shutil.copy(self.path + end, self.path + ".copy" + end)
        self.path += ".copy"
        again = self.opened()
        self.assertEqual(again.trade(1), trade(1))
        self.assertEqual(again.newOrder(), 100001)

    def test_cleanEnd(self) -> None:
        """
        A clean end gives the unused numbers back.
        """
        ledger = self.opened()
        self.assertEqual([ledger.newOrder(), ledger.newOrder()], [1, 2])
        ledger.close()
        self.assertEqual(self.value("SELECT next_order FROM order_mark"), 3)

    def test_blockUsedUp(self) -> None:
        """
        When the block is used up no number is assigned until the next commit.
        """
        self.patch(sqlite, "BLOCK", 4)
        ledger = self.opened()
        self.assertEqual([ledger.newOrder() for _ in range(4)], [1, 2, 3, 4])
        self.assertRaises(Busy, ledger.newOrder)
        self.successResultOf(ledger.commit(withTotals(ledger, booking(trade(1)))))
        self.assertEqual([ledger.newOrder() for _ in range(4)], [5, 6, 7, 8])
        self.assertRaises(Busy, ledger.newOrder)

    def test_markRaisedInTime(self) -> None:
        """
        A commit raises the mark as soon as less than half a block is left,
        and not before.
        """
        self.patch(sqlite, "BLOCK", 4)
        ledger = self.opened()
        ledger.newOrder(), ledger.newOrder()
        self.successResultOf(ledger.commit(withTotals(ledger, booking(trade(1)))))
        self.assertEqual(self.value("SELECT next_order FROM order_mark"), 5)
        ledger.newOrder()
        self.successResultOf(ledger.commit(withTotals(ledger, booking(trade(3)))))
        self.assertEqual(self.value("SELECT next_order FROM order_mark"), 8)

    def test_notBeforeItIsOnDisk(self) -> None:
        """
        Numbers of the next block are not assigned before the raised mark is on
        disk.
        """
        self.patch(sqlite, "BLOCK", 2)
        done: Deferred[None] = Deferred()
        ledger = self.opened(lambda job: done)
        ledger.newOrder(), ledger.newOrder()
        committed = ledger.commit(withTotals(ledger, booking(trade(1))))
        self.assertRaises(Busy, ledger.newOrder)
        done.callback(None)
        self.successResultOf(committed)
        self.assertEqual(ledger.newOrder(), 3)

    def test_failedEnd(self) -> None:
        """
        After a failed commit the mark stays where it is.
        """
        ledger = self.opened(lambda job: fail(OSError()))
        self.failureResultOf(
            ledger.commit(withTotals(ledger, booking(trade(ledger.newOrder()))))
        )
        ledger.close()
        self.assertEqual(self.value("SELECT next_order FROM order_mark"), 100001)


class OpenInThreadTests(SQLiteTestCase):
    """
    Tests for an opening that takes its time in another thread.
    """

    def setUp(self) -> None:
        """
        Make a ledger with one trade, and one that L{work} opens.
        """
        super().setUp()
        self.booked(500)
        self.jobs: list[tuple[Callable[[], None], Deferred[None]]] = []
        self.ledger = SQLiteLedger(self.path, self.later)
        self.addCleanup(self.ledger.close)

    def later(self, job: Callable[[], None]) -> Deferred[None]:
        """
        Accept a call that L{work} makes.
        """
        self.jobs.append((job, Deferred()))
        return self.jobs[-1][1]

    def work(self) -> "Deferred[None]":
        """
        Make the call.

        @return: Not fired yet; its result is in C{outcome}.
        """
        [(job, done)] = self.jobs
        self.outcome = execute(job)
        return done

    def opening(self) -> "Deferred[None]":
        """
        Begin to open the ledger.
        """
        opening = self.ledger.open()
        assert opening is not None
        self.assertNoResult(opening)
        return opening

    def test_open(self) -> None:
        """
        It is open when the thread is done and its Deferred fires, not before.
        """
        opening = self.opening()
        done = self.work()
        self.assertRaises(Busy, self.ledger.newOrder)
        self.outcome.chainDeferred(done)
        self.assertIsNone(self.successResultOf(opening))
        self.assertEqual(self.ledger.newOrder(), 2)
        self.assertEqual(self.ledger.trade(1), trade(1, 500))

    def test_knownAtOnce(self) -> None:
        """
        That another server has it, or that the file is no ledger, is raised at
        once, and nothing is left to the thread.
        """
        first = self.opened()
        self.assertRaises(LedgerInUse, self.ledger.open)
        first.close()
        self.sql("PRAGMA application_id = 1")
        self.assertRaises(LedgerDamaged, self.ledger.open)
        self.assertEqual(self.jobs, [])

    def test_damaged(self) -> None:
        """
        What only the proof finds out fails the Deferred, and the lock is free
        again.
        """
        self.sql("UPDATE account SET credit = 400")
        opening = self.opening()
        done = self.work()
        self.outcome.chainDeferred(done)
        self.failureResultOf(opening, LedgerDamaged)
        self.sql("UPDATE account SET credit = 500")
        self.opened()

    def test_twice(self) -> None:
        """
        A ledger that is being opened can't be opened.
        """
        self.opening()
        self.assertRaises(AssertionError, self.ledger.open)
        done = self.work()
        self.outcome.chainDeferred(done)

    def assertCloses(self, opening: "Deferred[None]", why: str) -> None:
        """
        Assert that the opening has failed for this reason, and that nothing is
        left of it.
        """
        self.assertIn(why, str(self.failureResultOf(opening, LedgerProblem).value))
        self.assertRaises(Busy, self.ledger.newOrder)
        self.assertEqual(self.opened().newOrder(), 2)

    def test_closedBefore(self) -> None:
        """
        A ledger that is closed while the thread is busy interrupts it.
        """
        self.patch(sqlite, "_PROGRESS", 1)
        opening = self.opening()
        self.ledger.close()
        done = self.work()
        self.outcome.chainDeferred(done)
        self.assertCloses(opening, "interrupted")

    def test_closedAfter(self) -> None:
        """
        One that is closed when the thread has just ended is closed again.
        """
        opening = self.opening()
        done = self.work()
        self.ledger.close()
        self.outcome.chainDeferred(done)
        self.assertCloses(opening, "was closed while it opened")


class OpenTests(SQLiteTestCase):
    """
    Tests for what L{SQLiteLedger.open} refuses.
    """

    def test_folderNotSynced(self) -> None:
        """
        If the folder can't be synced, so that a new file's name may be lost in
        a power cut, the ledger is refused.
        """

        def fsync(file: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        self.patch(os, "fsync", fsync)
        self.assertIn("Input/output error", self.refused(LedgerProblem))

    def test_inUse(self) -> None:
        """
        A second process is refused, with the id of the first, whatever name of
        the ledger it uses.
        """
        self.opened()
        held = self.path
        os.symlink(held, held + ".link")
        self.path += ".link"
        message = self.refused(LedgerInUse)
        self.assertIn(f"process {os.getpid()} has the ledger {held} open", message)

    def test_otherProcess(self) -> None:
        """
        A real second process is refused.
        """
        self.opened()
        second = subprocess.run(
            [sys.executable, "-c", OPEN, self.path],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=30,
        )
        self.assertEqual(second.stdout, f"LedgerInUse process {os.getpid()}\n")

    def test_lockEnds(self) -> None:
        """
        A failed open releases the lock and the file.
        """
        self.booked(500)
        self.sql("UPDATE account SET credit = 501")
        self.refused(LedgerDamaged)
        self.sql("UPDATE account SET credit = 500")
        self.assertEqual(self.opened().account(1001), Account(1001, 0, 500))

    def test_noFolder(self) -> None:
        """
        A missing folder is named, with a remedy.
        """
        self.path = os.path.join(self.path, "no", "ledger.db")
        self.assertEqual(
            self.refused(LedgerProblem),
            f"the folder of the ledger {self.path} does not exist: create it, or "
            f"name another one",
        )

    def test_noPermission(self) -> None:
        """
        A folder without write permission is named.
        """

        def denied(*args: Any) -> int:
            raise PermissionError

        self.patch(os, "open", denied)
        self.assertIn("this user may not write", self.refused(LedgerProblem))

    def test_folder(self) -> None:
        """
        A folder is refused, and so is a pipe, without waiting for it.
        """
        for make in (os.mkdir, os.mkfifo):
            make(self.path)
            self.assertEqual(
                self.refused(LedgerProblem),
                f"{self.path} is not a regular file: name another one",
            )
            os.rename(self.path, f"{self.path}.old")
            Path(f"{self.path}.lock").unlink()
            self.path += ".next"

    def test_noDatabase(self) -> None:
        """
        A file that is not a database is refused, and left unchanged.
        """
        Path(self.path).write_text("order,login,profit\n" * 100)
        self.assertIn("not a readable SQLite database", self.refused(LedgerDamaged))
        self.assertEqual(Path(self.path).read_text(), "order,login,profit\n" * 100)

    def test_otherProgram(self) -> None:
        """
        Another program's database is refused, and left unchanged.
        """
        self.sql("CREATE TABLE bookmark (url TEXT)")
        before = Path(self.path).read_bytes()
        self.assertIn("another program's database", self.refused(LedgerDamaged))
        self.assertEqual(Path(self.path).read_bytes(), before)

    def test_otherApplicationID(self) -> None:
        """
        An empty database with the mark of another program is refused.
        """
        self.sql("PRAGMA application_id = 17")
        self.assertIn("another program's database", self.refused(LedgerDamaged))

    def test_emptyFile(self) -> None:
        """
        An empty file becomes a ledger.
        """
        Path(self.path).touch()
        self.assertEqual(self.opened().newOrder(), 1)

    def test_newerVersion(self) -> None:
        """
        The ledger of a newer creditsync is refused.
        """
        self.booked(500)
        newest = len(sqlite.SCRIPTS)
        self.sql(f"PRAGMA user_version = {newest + 1}")
        self.assertEqual(
            self.refused(LedgerProblem),
            f"the ledger {self.path} has version {newest + 1}, but this creditsync "
            f"supports versions up to {newest}: run the newer creditsync that wrote it",
        )

    def test_oldSQLite(self) -> None:
        """
        An SQLite that doesn't support the statements is refused.
        """
        self.patch(sqlite3, "sqlite_version_info", (3, 37, 2))
        self.assertIn("3.38 or newer is needed", self.refused(LedgerProblem))

    def test_wrongTotal(self) -> None:
        """
        A total that isn't the sum of its trades is refused, with both figures.
        """
        self.booked(500, 70)
        self.sql("UPDATE account SET credit = 571")
        self.assertIn(
            "account 1001 of the ledger "
            f"{self.path} has balance 0 and credit 571, but its trades add up to "
            "balance 0 and credit 570 (10⁻⁸ units)",
            self.refused(LedgerDamaged),
        )

    def test_wrongBalance(self) -> None:
        """
        The balance is checked just as the credit is.
        """
        self.booked(500)
        self.sql("UPDATE account SET balance = -1")
        self.assertIn("has balance -1 and credit 500", self.refused(LedgerDamaged))

    def test_totalWithoutTrades(self) -> None:
        """
        A total without any trade is refused.
        """
        self.booked(500)
        self.sql("INSERT INTO account (login, balance) VALUES (1002, 0), (1003, 1)")
        self.assertIn("account 1003", self.refused(LedgerDamaged))

    def test_tradeBehindTheTriggers(self) -> None:
        """
        A trade that was written without the triggers is found.
        """
        self.booked(500)
        with closing(sqlite3.connect(self.path)) as other:
            [(trigger,)] = other.execute(
                "SELECT sql FROM sqlite_schema WHERE name = 'journal_booked'"
            )
        self.sql("DROP TRIGGER journal_booked; UPDATE trade SET profit = 1000000000001")
        self.assertIn(
            "the trigger journal_booked is missing", self.refused(LedgerDamaged)
        )
        self.sql(trigger)
        self.assertIn(
            "credit 500, but its trades add up to balance 0 and credit 1000000000001",
            self.refused(LedgerDamaged),
        )

    def test_tradeWithoutAccount(self) -> None:
        """
        A trade without an account is found, even if it counts nothing.
        """
        self.booked(500)
        self.sql("UPDATE trade SET state = 6; DELETE FROM account")
        self.assertIn(
            "account 1001 of the ledger "
            f"{self.path} has balance None and credit None, but its trades add up to "
            "balance 0 and credit 0",
            self.refused(LedgerDamaged),
        )

    def test_checkIsExact(self) -> None:
        """
        Sums that exceed 64 bits in between don't disturb the check.
        """
        ledger = self.opened()
        ledger.newOrder(), ledger.newOrder(), ledger.newOrder()
        self.successResultOf(
            ledger.commit(
                withTotals(
                    ledger,
                    booking(
                        trade(2, 9_000_000_000_000_000_001),
                        trade(3, -9_000_000_000_000_000_000, cmd=CREDIT_OUT),
                        trade(1, 9_000_000_000_000_000_001),
                    ),
                )
            )
        )
        ledger.close()
        self.assertEqual(self.opened().account(1001).credit, 9000000000000000002)

    def test_markBelowOrder(self) -> None:
        """
        An order mark that would assign an existing order again is refused.
        """
        self.booked(500, 70)
        self.sql("UPDATE order_mark SET next_order = 2")
        self.assertIn(
            "has order 2, but its order mark is 2", self.refused(LedgerDamaged)
        )

    def test_noMark(self) -> None:
        """
        A ledger without its order mark is refused.
        """
        self.booked(500)
        self.sql("DELETE FROM order_mark")
        self.assertIn("its order mark is None", self.refused(LedgerDamaged))


class UpgradeTests(SQLiteTestCase):
    """
    Tests for creating and upgrading a ledger, to a version that doesn't exist yet.
    """

    def setUp(self) -> None:
        """
        Find out the newest version.
        """
        super().setUp()
        self.newest = len(sqlite.SCRIPTS)

    def addScript(self) -> None:
        """
        Add a script for a newer version.
        """
        script = "ALTER TABLE trade ADD next_version TEXT;"
        self.patch(sqlite, "SCRIPTS", (*sqlite.SCRIPTS, script))

    def test_nextVersion(self) -> None:
        """
        An upgrade runs the new scripts and leaves a copy of the old ledger.
        """
        self.booked(500)
        self.addScript()
        self.opened().close()
        self.assertEqual(self.value("PRAGMA user_version"), self.newest + 1)
        self.assertEqual(self.value("SELECT count(next_version) FROM trade"), 0)
        self.path += f".v{self.newest}"
        self.assertEqual(self.value("PRAGMA user_version"), self.newest)
        self.assertEqual(self.value("SELECT profit FROM trade"), 500)

    def test_noBackupOfAFreshOne(self) -> None:
        """
        A new ledger needs no copy.
        """
        self.addScript()
        self.opened().close()
        self.assertEqual(
            sorted(os.listdir(os.path.dirname(self.path))),
            ["ledger.db", "ledger.db.lock"],
        )

    def test_oldCopyPart(self) -> None:
        """
        The rest of an unfinished copy is not in the way.
        """
        self.booked(500)
        Path(f"{self.path}.v{self.newest}.part").write_text("half")
        self.addScript()
        self.opened().close()
        self.path += f".v{self.newest}"
        self.assertEqual(self.value("SELECT profit FROM trade"), 500)

    def test_interruptedCreation(self) -> None:
        """
        After an interrupted creation the next start makes the file a ledger.
        """
        whole = sqlite.SCRIPTS
        self.patch(sqlite, "SCRIPTS", (whole[0] + "SELECT * FROM absent;",))
        self.assertIn("no such table: absent", self.refused(LedgerProblem))
        self.assertEqual(self.value("SELECT count(*) FROM sqlite_master"), 0)
        self.patch(sqlite, "SCRIPTS", whole)
        self.assertEqual(self.opened().newOrder(), 1)

    def test_interruptedUpgrade(self) -> None:
        """
        An interrupted upgrade leaves the old version.
        """
        self.booked(500)
        whole = sqlite.SCRIPTS
        broken = "ALTER TABLE trade ADD next_version TEXT; SELECT * FROM absent;"
        self.patch(sqlite, "SCRIPTS", (*whole, broken))
        self.refused(LedgerProblem)
        self.patch(sqlite, "SCRIPTS", whole)
        self.assertEqual(self.opened().trade(1), trade(1, 500))


class KillTests(SQLiteTestCase):
    """
    Tests with a process that is killed.
    """

    def test_kill(self) -> None:
        """
        After a process is killed while it commits, every acknowledged order is
        there, and its key if it has one, the totals are their sums, and no
        number is assigned again.
        """
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", COMMIT, self.path],
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        with process, process.stdout as output:
            said = [output.readline() for _ in range(200)]
            process.kill()
            said += output.readlines()
        acknowledged = [int(line) for line in said if line.endswith("\n")]
        self.assertEqual(acknowledged[:200], list(range(1, 201)))

        ledger = self.opened()
        for order in acknowledged:
            self.assertEqual(ledger.trade(order), trade(order, 100))
            replay = ledger.replay(7, str(order))
            if order % 2:
                assert replay is not None
                self.assertEqual(replay.trade, trade(order, 100))
            else:
                self.assertIsNone(replay)
        # One more may have been committed and not acknowledged.
        self.assertIn(ledger.account(1001).credit // 100 - len(acknowledged), (0, 1))
        self.assertEqual(ledger.newOrder(), 100001)


OPEN = """
import sys
from twisted.internet.defer import execute
from creditsync.errors import LedgerProblem
from creditsync.ledger.sqlite import SQLiteLedger

try:
    SQLiteLedger(sys.argv[1], execute).open()
except LedgerProblem as problem:
    print(type(problem).__name__, *str(problem).split()[:2])
"""

COMMIT = """
import sys
from twisted.internet.defer import execute
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.records import Operation, Reservation, Trade

ledger = SQLiteLedger(sys.argv[1], execute)
ledger.open()
while True:
    order = ledger.newOrder()
    trade = Trade(order, 1001, 7, 3, 100, "Promotion credit", 1700, 1800, 1900)
    key = str(order) if order % 2 else None
    asked = Operation(
        "CreditIn", 7, 1001, 100, "Promotion credit", principal=7, key=key
    )
    booked = Reservation(0, trade, asked, balance=0, credit=100 * order)
    ledger.commit([booked]).addCallback(lambda _: print(order))
"""


def environment() -> dict[str, str]:
    """
    The environment in which another process finds this C{creditsync}.
    """
    root = os.path.dirname(os.path.dirname(os.path.abspath(creditsync.__file__)))
    return {**os.environ, "PYTHONPATH": root}
