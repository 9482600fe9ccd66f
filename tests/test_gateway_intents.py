"""
Tests for L{creditsync.gateway._intents}.
"""

import os
import sqlite3
import tempfile
from typing import Any

from attrs import asdict
from msgspec.structs import asdict as members
from msgspec.structs import replace
from twisted.internet.defer import execute
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from creditsync.codes import EV_RECORD_ADD, EV_RECORD_DELETE, EV_RECORD_UPDATE
from creditsync.errors import LedgerProblem
from creditsync.gateway._intents import IIntentLog, Intent
from creditsync.gateway._memorylog import MemoryIntentLog
from creditsync.gateway._sqlitelog import SQLiteIntentLog
from creditsync.gateway._states import IllegalMove, State
from creditsync.ledger._checking import findings
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.records import Deletion, Operation, Reservation, Trade
from tests.totals import withTotals

ONE = 100_000_000
NOW = 1767225600
CREDIT_IN = 7


def asked(key: str | None = "k1", openTime: int | None = None) -> Operation:
    """
    A credit as a client requests it.
    """
    return Operation(
        "CreditInSync",
        CREDIT_IN,
        1001,
        300 * ONE,
        "gift",
        0,
        openTime,
        None,
        7,
        key,
        False,
        1,
    )


def intent(number: int = 1, key: str | None = "k1", openTime: int = NOW) -> Intent:
    """
    A credit that was sent.
    """
    made = Intent(
        number,
        EV_RECORD_ADD,
        asked(key),
        1001,
        CREDIT_IN,
        300 * ONE,
        "gift",
        openTime,
    )
    made.move(State.SENT, "sent")
    made.attempts, made.sentAt = 1, NOW
    return made


def described(found: Intent | None) -> dict[str, Any] | None:
    """
    Everything about an intent, in a form that can be compared.
    """
    if found is None:
        return None
    return {
        **asdict(found, recurse=False),
        "operation": {**members(found.operation), "isBooked": False},
    }


def booking(of: Intent, order: int) -> Reservation:
    """
    The row of the journal that books an intent.
    """
    trade = Trade(order, 1001, CREDIT_IN, 3, 300 * ONE, "gift", NOW, NOW, NOW)
    return Reservation(EV_RECORD_ADD, trade, of.operation)


class IntentTests(SynchronousTestCase):
    """
    Tests for L{Intent}.
    """

    def test_move(self) -> None:
        """
        A change of state keeps what led to it.
        """
        made = intent()
        made.move(State.UNSEEN, "a look-up did not find it")
        self.assertEqual(
            (made.state, made.why, made.isOpen),
            (State.UNSEEN, "a look-up did not find it", True),
        )

    def test_illegalMove(self) -> None:
        """
        A change of state that the table lacks changes nothing.
        """
        made = intent()
        made.move(State.REFUSED, "no")
        self.assertRaises(IllegalMove, made.move, State.BOOKED)
        self.assertEqual((made.state, made.why), (State.REFUSED, "no"))


class LogTests:
    """
    What every log does.
    """

    log: Any

    def write(self, *intents: Intent, booked: tuple[Reservation, ...] = ()) -> None:
        """
        Make intents and bookings durable.
        """
        for each in booked:
            self.log.noteOrder(each.order)
        withTotals(self.log.ledger, booked)
        self.case().successResultOf(self.log.write(intents, booked, self.log.mark))

    def reopen(self) -> None:
        """
        End the process, and begin another one.
        """
        raise NotImplementedError

    def case(self) -> SynchronousTestCase:
        """
        These tests as what trial takes them for.
        """
        assert isinstance(self, SynchronousTestCase)
        return self

    def test_interface(self) -> None:
        """
        It provides the interface.
        """
        verifyObject(IIntentLog, self.log)

    def test_unfinished(self) -> None:
        """
        After a restart the log has every intent whose outcome is not known, with all
        its members.
        """
        first, second, third = intent(1, "a"), intent(2, "b"), intent(3, None)
        second.move(State.UNSEEN, "not there")
        second.looks, second.attempts = 2, 3
        third.move(State.REFUSED, "no")
        self.write(first, second, third)
        self.reopen()
        self.case().assertEqual(
            [described(each) for each in self.log.unfinished()],
            [described(first), described(second)],
        )
        self.case().assertEqual(self.log.nextNumber(), 4)

    def test_deletion(self) -> None:
        """
        A deletion keeps what it may delete.
        """
        deletion = Deletion("DeleteCreditSync", 55, frozenset({7, 9}), 7, "d", role=3)
        made = Intent(
            1, EV_RECORD_DELETE, deletion, 1001, CREDIT_IN, 300 * ONE, "gift", order=55
        )
        made.move(State.SENT)
        self.write(made)
        self.reopen()
        self.case().assertEqual(
            [described(each) for each in self.log.unfinished()], [described(made)]
        )

    def test_change(self) -> None:
        """
        An intent that is written again replaces what the log had of it.
        """
        made = intent()
        self.write(made)
        made.move(State.ACCEPTED, "queued")
        made.order = 55
        self.write(made)
        [found] = self.log.unfinished()
        self.case().assertEqual(described(found), described(made))

    def test_booked(self) -> None:
        """
        A booked intent has the place of its record.
        """
        made = intent()
        self.write(made)
        made.order = 55
        made.move(State.BOOKED)
        self.write(made, booked=(booking(made, 55),))
        self.reopen()
        self.case().assertEqual(self.log.unfinished(), [])
        found = self.log.withKey(7, "k1")
        self.case().assertEqual((found.order, found.place), (55, 1))
        self.case().assertEqual(self.log.ledger.trade(55).profit, 300 * ONE)

    def test_bookedBefore(self) -> None:
        """
        An intent whose record was in the journal before has the place of that.
        """
        made = intent()
        self.write(booked=(booking(intent(2, None), 55),))
        made.order = 55
        made.move(State.BOOKED)
        self.write(made)
        self.case().assertEqual(self.log.withKey(7, "k1").place, 1)

    def test_withKey(self) -> None:
        """
        A key is of one principal, and free again once nothing was booked under it.
        """
        made = intent()
        self.write(made)
        self.case().assertIsNone(self.log.withKey(8, "k1"))
        self.case().assertIsNone(self.log.withKey(7, "k2"))
        self.case().assertEqual(self.log.withKey(7, "k1").number, 1)
        made.move(State.REFUSED, "no")
        self.write(made)
        self.case().assertIsNone(self.log.withKey(7, "k1"))
        self.write(intent(2))
        self.case().assertEqual(self.log.withKey(7, "k1").number, 2)

    def test_withOrder(self) -> None:
        """
        An order leads to the last intent that was not refused.
        """
        first, second, third = intent(1, "a"), intent(2, "b"), intent(3, "c")
        for each in (first, second, third):
            each.order = 55
        third.move(State.REFUSED, "no")
        self.write(first, second, third)
        self.case().assertEqual(self.log.withOrder(55).number, 2)
        self.case().assertIsNone(self.log.withOrder(56))

    def test_isTaken(self) -> None:
        """
        Content is taken by an intent that may have been booked.
        """
        made = intent()
        self.write(made)
        self.case().assertTrue(self.log.isTaken(made.content))
        for other in (
            (1002, CREDIT_IN, 300 * ONE, "gift", NOW),
            (1001, 6, 300 * ONE, "gift", NOW),
            (1001, CREDIT_IN, 301 * ONE, "gift", NOW),
            (1001, CREDIT_IN, 300 * ONE, "Gift", NOW),
            (1001, CREDIT_IN, 300 * ONE, "gift", NOW + 1),
        ):
            self.case().assertFalse(self.log.isTaken(other))
        made.move(State.REFUSED, "no")
        self.write(made)
        self.case().assertFalse(self.log.isTaken(made.content))

    def test_mark(self) -> None:
        """
        The mark of the catch-up survives.
        """
        self.case().assertEqual(self.log.mark, 0)
        self.case().successResultOf(self.log.write([intent()], [], NOW))
        self.reopen()
        self.case().assertEqual(self.log.mark, NOW)

    def test_versions(self) -> None:
        """
        The journal's records of an order can be looked up.
        """
        made = intent()
        self.write(booked=(booking(made, 55),))
        [found] = self.log.versions(55)
        self.case().assertEqual(
            found, Trade(55, 1001, CREDIT_IN, 3, 300 * ONE, "gift", NOW, NOW, NOW)
        )
        self.case().assertEqual(self.log.versions(56), [])

    def test_lastBooked(self) -> None:
        """
        What was booked last is listed, the newest first.
        """
        for number in (1, 2, 3):
            made = intent(number, None)
            made.order = 50 + number
            made.move(State.BOOKED)
            self.write(made, booked=(booking(made, 50 + number),))
        found = self.log.lastBooked(2)
        self.case().assertEqual([each.order for each in found], [53, 52])


class MemoryIntentLogTests(LogTests, SynchronousTestCase):
    """
    Tests for L{MemoryIntentLog}.
    """

    def setUp(self) -> None:
        """
        Open a log.
        """
        self.log = MemoryIntentLog()
        self.successResultOf(self.log.open())

    def reopen(self) -> None:
        """
        See L{LogTests.reopen}.
        """
        self.successResultOf(self.log.open())


class SQLiteIntentLogTests(LogTests, SynchronousTestCase):
    """
    Tests for L{SQLiteIntentLog}.
    """

    def setUp(self) -> None:
        """
        Open a log in a new file.
        """
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "ledger.db")
        self.begin()

    def begin(self) -> None:
        """
        Open the log.
        """
        ledger = SQLiteLedger(self.path, execute, isGateways=True)
        self.log = SQLiteIntentLog(ledger)
        self.successResultOf(self.log.open())
        self.addCleanup(ledger.close)

    def reopen(self) -> None:
        """
        See L{LogTests.reopen}.
        """
        self.log.ledger.close()
        self.begin()

    def test_oneTransaction(self) -> None:
        """
        An intent and its booking become durable together, or neither does.
        """
        made = intent()
        self.write(made)
        twin = intent(2)
        row = booking(made, 55)
        self.log.noteOrder(55)
        withTotals(self.log.ledger, [row])
        made.order = 55
        made.move(State.BOOKED)
        # Both have the same key, which the database refuses.
        self.failureResultOf(self.log.write([made, twin], [row], 0))
        self.reopen()
        self.assertEqual([each.state for each in self.log.unfinished()], [State.SENT])
        self.assertIsNone(self.log.ledger.trade(55))

    def test_kind(self) -> None:
        """
        A gateway's ledger is not for a server that books itself, nor the other way
        round.
        """
        self.write(intent())
        self.log.ledger.close()
        own = SQLiteLedger(self.path, execute)
        why = self.assertRaises(LedgerProblem, own.open)
        self.assertIn("start with --upstream", str(why))
        self.begin()
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "own.db")
            own = SQLiteLedger(path, execute)
            own.open()
            order = own.newOrder()
            rows = withTotals(own, [booking(intent(), order)])
            self.successResultOf(own.commit(rows))
            own.close()
            other = SQLiteLedger(path, execute, isGateways=True)
            why = self.assertRaises(LedgerProblem, other.open)
            self.assertIn("a gateway needs another ledger", str(why))

    def test_check(self) -> None:
        """
        A gateway's ledger is sound although the platform has a clock of its own, keeps
        no C{open_time}, and lets people correct the sign of an amount.
        """
        made = intent(openTime=NOW + 1)
        made.operation = asked(openTime=NOW + 1)
        made.order = 55
        made.move(State.BOOKED)
        row = booking(made, 55)
        later = replace(row.data, profit=-ONE, openTime=NOW + 5, timestamp=NOW + 1)
        change = Operation("CreditInSync", CREDIT_IN, 1001, -ONE, "gift", 55)
        self.write(made, booked=(row, Reservation(EV_RECORD_UPDATE, later, change)))
        with sqlite3.connect(self.path) as connection:
            self.assertEqual(list(findings(connection)), [])
            connection.execute("DROP TABLE intent")
            self.assertEqual(
                [each.rule for each in findings(connection)],
                ["negative-total", "sign", "times", "asked"],
            )
        connection.close()

    def test_ordersOfThePlatform(self) -> None:
        """
        A record may have any order of the platform, also one that is far ahead.
        """
        made = intent()
        made.order = 987_654_321
        made.move(State.BOOKED)
        self.write(made, booked=(booking(made, 987_654_321),))
        self.reopen()
        self.assertEqual(self.log.ledger.trade(987_654_321).login, 1001)
