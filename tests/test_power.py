"""
Tests for the power cuts and disk errors of L{tests.crash}.
"""

import os
import sqlite3
import tempfile
from contextlib import closing
from errno import EIO
from pathlib import Path
from random import Random
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python import log
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from creditsync.errors import TechProblem
from creditsync.ledger import sqlite
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.records import Reservation, TradeEvent
from tests.crash.dialogue import Dialogue
from tests.crash.disk import Disk
from tests.crash.disk_errors import FailureNotifier, Injection, attempt, healthy
from tests.crash.ledgers import Ledgers
from tests.crash.life import Life
from tests.crash.platter import SYNC, Call
from tests.crash.power import examine
from tests.crash.record import Violation
from tests.crash.run import LEDGER, Point, Run

pytestmark = pytest.mark.proof

OPERATIONS = 12
# This value has asynchronous commands among those whose commits fail.
SEED = 5

# How much of its work a failed sync has done.
NOTHING, ALL = 0, 10**9


class LifeTestCase(SynchronousTestCase):
    """
    A run of the server, in memory and on a ledger of its own.
    """

    def setUp(self) -> None:
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        self.folder = Path(os.path.realpath(made.name))
        self.path = self.folder / LEDGER
        self.dialogue = Dialogue("manager", Random(2))

    def live(self) -> None:
        """
        Book some operations, from start to stop.
        """
        life = Life(self.path, self.dialogue)
        self.assertTrue(life.start())
        life.talk(OPERATIONS)
        life.stop()


class LedgersTests(LifeTestCase):
    """
    Tests that each fault of a ledger is found.
    """

    def setUp(self) -> None:
        super().setUp()
        self.live()
        self.booked = self.dialogue.booked()
        self.ledgers = Ledgers(self.booked)
        self.count = len(self.booked)

    def check(self, fewest: int = 0, last: int = 0) -> None:
        """
        Compare the ledger with the replies.
        """
        self.ledgers.check(self.path, fewest or self.count, self.count, last)

    def refused(self, message: str, *statements: str, **demands: int) -> None:
        """
        Assert that a ledger with this change is found to be wrong.
        """
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            for statement in statements:
                other.execute(statement)
        with self.assertRaisesRegex(Violation, message):
            self.check(**demands)

    def test_sound(self) -> None:
        """
        A complete ledger is sound.
        """
        self.check(last=self.dialogue.last)

    def test_sent(self) -> None:
        """
        The operations in these tests are of every kind, with keys and without.
        """
        self.assertEqual({asked.type for asked in self.booked}, {0, 1, 2})
        self.assertEqual({asked.key is None for asked in self.booked}, {True, False})

    def test_lost(self) -> None:
        """
        An acknowledged operation that is missing is reported.
        """
        self.refused("were acknowledged", fewest=self.count + 1)

    def test_notAskedFor(self) -> None:
        """
        An operation that was not requested, or was booked twice, is reported.
        """
        twice = (
            'INSERT INTO journal SELECT max(place) + 1, 0, max("order") + 1, login,'
            " cmd, 6, profit, comment, open_time, close_time, timestamp, balance,"
            " credit, principal, role, command, 0, NULL, NULL, NULL, hash FROM journal"
        )
        self.refused(
            "asked for, and it has", "UPDATE order_mark SET next_order = 99", twice
        )

    def test_otherTrade(self) -> None:
        """
        A trade that is not the acknowledged one is reported.
        """
        self.refused("of its trades", "UPDATE trade SET comment = comment || '!'")

    def test_otherJournal(self) -> None:
        """
        A journal that was changed is reported, although the trades are right.
        """
        self.refused(
            "of its journal", *self.past("SET asked_order = 8 WHERE place = 2")
        )
        self.refused("of its journal", *self.past("SET balance = 1 WHERE place = 2"))

    def past(self, change: str) -> list[str]:
        """
        The statements that change the journal in spite of its trigger.
        """
        with closing(sqlite3.connect(self.path)) as connection:
            [[trigger]] = connection.execute(
                "SELECT sql FROM sqlite_schema WHERE name = 'journal_updated'"
            )
        return [
            "DROP TRIGGER journal_updated",
            f"UPDATE journal {change}",
            trigger,
        ]

    def test_otherCursor(self) -> None:
        """
        An operation that is at another place than its client was told is reported.
        """
        told = self.booked[1].cursor
        for wrong in ("0badcafe-2", f"{told[:9]}3"):
            self.booked[1].cursor = wrong
            self.refused(f"was told {wrong}, and is at 2 of {told[:8]}$")

    def test_otherEvents(self) -> None:
        """
        A journal that is read with an event left out, or as it became later, is
        reported.
        """
        read = SQLiteLedger.events

        def events(ledger: SQLiteLedger, after: int, limit: int) -> list[TradeEvent]:
            return read(ledger, after, limit)[1:]

        self.patch(SQLiteLedger, "events", events)
        self.refused("behind place 0 are")

        def later(ledger: SQLiteLedger, after: int, limit: int) -> list[TradeEvent]:
            found = read(ledger, after, limit)
            return [
                TradeEvent(each.type, ledger.trade(each.order), place=each.place)
                for each in found
            ]

        self.patch(SQLiteLedger, "events", later)
        self.refused("behind place 0 are")

    def test_lostKey(self) -> None:
        """
        A missing key is reported.
        """
        self.refused("of its keys", *self.past("SET key = NULL"))

    def test_changedKey(self) -> None:
        """
        A key that would be replayed with other data is reported.
        """
        self.refused("of its keys", *self.past("SET timestamp = 1"))

    def test_replay(self) -> None:
        """
        A ledger whose keys are only in its file is checked too.
        """
        self.patch(SQLiteLedger, "replay", lambda *_: None)
        self.refused("it tells None")

    def test_reusedNumber(self) -> None:
        """
        A number that was sent before, perhaps for an operation that was lost,
        and is assigned again is reported.
        """
        self.refused("is given out again", last=10_000)

    def test_damaged(self) -> None:
        """
        A ledger that does not open is reported.
        """
        self.refused("does not open", "UPDATE account SET credit = credit + 1")


class PowerTests(LifeTestCase):
    """
    Tests for power cuts of a run in memory.
    """

    def recorded(self) -> Run:
        """
        A recorded run, with one point before and one after its operations.
        """
        calls: list[Call] = []
        disk = Disk(self.folder)
        disk.watch = calls.append
        life = Life(self.path, self.dialogue)
        with disk.installed():
            self.assertTrue(life.start())
            before = len(calls)
            life.talk(OPERATIONS)
            after = len(calls)
            life.stop()
        booked = self.dialogue.booked()
        count = len(booked)
        points = [
            Point(0, most=count),
            Point(before, most=count),
            *(Point(calls, most=count) for calls in range(before, after)),
            *(
                Point(calls, count, count, self.dialogue.last)
                for calls in range(after, len(calls) + 1)
            ),
        ]
        return Run(calls, points, booked, 0)

    def examined(self) -> Any:
        """
        The outcome of many power cuts.
        """
        run = self.recorded()
        return examine(run, range(len(run.points)), 60, 1)

    def test_sound(self) -> None:
        """
        The ledger loses nothing in a power cut.
        """
        outcome = self.examined()
        self.assertEqual(outcome.violations, [])
        self.assertGreater(len(outcome.states), 50)
        self.assertGreaterEqual(outcome.opened, len(outcome.states))

    def test_normal(self) -> None:
        """
        With synchronous=NORMAL a power cut loses bookings, and that is
        reported.
        """
        prepare = sqlite.prepare

        def hasty(writer: sqlite3.Connection, *arguments: Any) -> tuple[int, int]:
            found = prepare(writer, *arguments)
            writer.execute("PRAGMA synchronous = NORMAL")
            return found

        self.patch(sqlite, "prepare", hasty)
        self.assertIn("were acknowledged", self.examined().violations[0])


class DiskErrorTests(LifeTestCase):
    """
    Tests for failing calls of the disk.
    """

    def failing(self, done: int) -> list[str | None]:
        """
        The outcomes of runs in which a sync fails, for each of the first
        commits of the second start.
        """
        calls = healthy(OPERATIONS, SEED)
        syncs = [number for number, kind in enumerate(calls) if kind == SYNC]
        found = [
            attempt(OPERATIONS, SEED, Injection(number, FailureNotifier(EIO, done)))
            for number in syncs[12:15]
        ]
        self.assertNotEqual(self.flushLoggedErrors(), [])
        return found

    def test_sound(self) -> None:
        """
        Whether a failed sync has done its work or not, no answer is false.
        """
        self.assertEqual(self.failing(NOTHING), [None] * 3)
        self.assertEqual(self.failing(ALL), [None] * 3)

    def test_forgiven(self) -> None:
        """
        A server that ignores a failed commit is detected.
        """
        book = SQLiteLedger._book

        def forgiving(ledger: SQLiteLedger, *what: Any) -> "Deferred[Any]":
            def forgive(why: Failure) -> Any:
                log.err(why)
                return ledger._mark, ledger._head, ledger._hash

            return book(ledger, *what).addErrback(forgive)

        self.patch(SQLiteLedger, "_book", forgiving)
        self.assertIn("were acknowledged", str(self.failing(NOTHING)))

    def test_refused(self) -> None:
        """
        A server that reports a failed commit as not booked is detected.
        """

        lost = Reservation.lost

        def nothing(reservation: Reservation, why: Failure) -> None:
            lost(reservation, Failure(TechProblem("it is not booked")))

        self.patch(Reservation, "lost", nothing)
        self.assertIn("asked for, and it has", str(self.failing(ALL)))
