"""
Tests for C{creditsync init} and C{creditsync import}, with a real server.
"""

import io
import os
import shutil
import sqlite3
import sys
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import psycopg
import pytest
from twisted.internet.defer import execute
from twisted.trial.unittest import SynchronousTestCase

from creditsync.__main__ import main
from creditsync.gateway._sqlitelog import SQLiteIntentLog
from creditsync.gateway._states import State
from creditsync.ledger._journal import MEMBERS
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.postgres import _importing
from creditsync.postgres._restoring import blockAfter
from creditsync.records import Deletion, Operation, Reservation, Trade
from tests.postgres import ground
from tests.postgres.engine import NOW, Node, makeTables
from tests.postgres.gateways import Gateway
from tests.test_gateway_intents import booking, intent
from tests.totals import withTotals

pytestmark = pytest.mark.timeout(120)

LEDGERS = Path(__file__).parents[1] / "ledgers"


def change(
    type: int, order: int, profit: int, key: str | None = None, login: int = 1001
) -> Reservation:
    """
    A credit, or an update of one.
    """
    asked = order if type == 1 else 0
    return Reservation(
        type,
        Trade(order, login, 7, 3, profit, f"Böni 😀\t\\N {order}", NOW, NOW, NOW),
        Operation(
            *("CreditIn", 7, login, profit, f"Böni 😀\t\\N {order}"),
            order=asked,
            openTime=NOW if type == 1 else None,
            principal=7,
            key=key,
            role=1,
        ),
    )


class ImportCase(SynchronousTestCase):
    """
    A test with an empty database, and a ledger in the present folder.
    """

    def setUp(self) -> None:
        """
        Make both.
        """
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(folder.name)
        self.database = ground.database()
        self.addCleanup(self.database.drop)
        port = self.database.server.port
        self.address = (
            f"postgresql://{ground.SUPERUSER}@127.0.0.1:{port}/{self.database.name}"
        )
        self.said = self.output = ""

    def fill(self, source: str | None = "v2.db") -> None:
        """
        Make a ledger of what is typical of one: upgraded from an older version, with
        changed and deleted trades, keys, and groups.
        """
        if source is not None:
            shutil.copy(LEDGERS / source, "ledger.db")
        ledger = SQLiteLedger("ledger.db", execute)
        ledger.open()
        order = ledger.newOrder()
        for _ in range(2):
            ledger.newOrder()
        deleted = change(2, order + 1, 5)
        deleted.data.state = 6
        deleted.operation = Deletion("TradeRecordDelete", order + 1, {7}, 8, "k2")
        deleted.operation.role = 3
        for batch in (
            [change(0, order, 300_00000000, "first"), change(0, order + 1, 5)],
            [change(1, order, 200_00000000, "second"), deleted],
            [change(0, order + 2, 7, login=2**53 - 1)],
        ):
            self.successResultOf(ledger.commit(withTotals(ledger, batch)))
        self.successResultOf(ledger.setGroups({1001: "vip", 4: "new"}))
        self.head = ledger.head
        self.epoch = ledger.epoch
        self.order = order
        ledger.close()

    def run_(self, *arguments: str) -> str:
        """
        Run a command, and return what it prints.
        """
        self.patch(sys, "argv", ["creditsync", *arguments])
        output, errors = io.StringIO(), io.StringIO()
        with redirect_stdout(output), redirect_stderr(errors):
            try:
                main()
            finally:
                self.said, self.output = errors.getvalue(), output.getvalue()
        return self.output

    def import_(self) -> str:
        """
        Import the ledger.
        """
        return self.run_("import", "ledger.db", "--ledger", self.address)

    def fails(self, *arguments: str) -> str:
        """
        The sentence with which a command ends.
        """
        e = self.assertRaises(SystemExit, self.run_, *arguments)
        return str(e.code)

    def importFails(self) -> str:
        """
        The sentence with which the import ends, after which there is nothing.
        """
        sentence = self.fails("import", "ledger.db", "--ledger", self.address)
        for name in ("event", "link", "trade", "account", "keyed"):
            [(found,)] = self.database.rows(f"SELECT count(*) FROM {name}")
            self.assertEqual(found, 0, name)
        self.assertEqual(self.database.rows("SELECT next FROM block"), [(64,)])
        return sentence.removeprefix("creditsync import: ")

    def here(self, statement: str) -> list[Any]:
        """
        What a statement selects from the ledger.
        """
        with closing(sqlite3.connect("ledger.db")) as ledger:
            return ledger.execute(statement).fetchall()


class ImportTests(ImportCase):
    """
    C{creditsync import}.
    """

    def test_everything(self) -> None:
        """
        Everything of a ledger is there afterwards, as it was.
        """
        self.fill()
        said = self.import_()
        journal = ", ".join(f'"{each}"' for each in MEMBERS)
        [[hash]] = self.here("SELECT hash FROM journal ORDER BY place DESC LIMIT 1")
        self.assertIn(f"head: place {self.head}, hash {hash.hex()}\n", said)
        for here, there in (
            (
                f"SELECT {journal} FROM journal ORDER BY place",
                f"SELECT {journal.replace('place', 'seq')} FROM event ORDER BY seq",
            ),
            (
                "SELECT lo, hi, hash FROM link ORDER BY hi",
                "SELECT lo, hi, hash FROM link ORDER BY hi",
            ),
            (
                'SELECT "order", revision, place FROM trade ORDER BY "order"',
                'SELECT "order", revision, seq FROM trade ORDER BY "order"',
            ),
            (
                'SELECT login, "group", balance, credit FROM account ORDER BY login',
                'SELECT login, "group", balance, credit FROM account ORDER BY login',
            ),
            (
                "SELECT number, epoch, head, cause FROM life ORDER BY number",
                "SELECT number, epoch, head, cause FROM life ORDER BY number",
            ),
            (
                "SELECT principal, key, place FROM journal WHERE key IS NOT NULL"
                " ORDER BY place",
                "SELECT principal, key, seq FROM keyed ORDER BY seq",
            ),
        ):
            found = self.here(here)
            self.assertGreater(len(found), 0, here)
            self.assertEqual(self.database.rows(there), found)
        self.assertEqual(
            self.database.rows("SELECT id, epoch FROM stream"), [(1, self.epoch)]
        )
        [(first,)] = self.database.rows("SELECT next FROM block")
        [[mark]] = self.here("SELECT next_order FROM order_mark")
        self.assertEqual(first % 64, 0)
        self.assertTrue(mark <= first < mark + 64)

    def test_booksOn(self) -> None:
        """
        A node goes on where the ledger has ended: a request under a key that the
        ledger has is a repetition, and the next place and the next link follow.
        """
        self.fill()
        self.import_()
        node = Node(self.database, number=3)
        self.addCleanup(node.connection.close)
        same = change(0, 0, 300_00000000, "first").operation
        same.comment = f"Böni 😀\t\\N {self.order}"
        fresh = change(0, 0, 11).operation
        again, new = node.book(same, fresh)
        self.assertEqual((again.verdict, again.order), ("replay", self.order))
        self.assertEqual((new.verdict, new.seq), ("booked", self.head + 1))
        totals = "SELECT credit FROM account WHERE login = 1001"
        [(credit,)] = self.database.rows(totals)
        [[before]] = self.here(totals)
        self.assertEqual(credit, before + 11)
        self.assertEqual(
            self.database.rows("SELECT lo FROM link ORDER BY hi DESC LIMIT 1"),
            [(self.head + 1,)],
        )

    def test_gateway(self) -> None:
        """
        The ledger of a gateway is imported with its log, and a gateway goes on with
        it.
        """
        ledger = SQLiteLedger("ledger.db", execute, isGateways=True)
        log = SQLiteIntentLog(ledger)
        self.successResultOf(log.open())
        sent, booked = intent(1, "a", NOW), intent(2, "b", NOW + 1)
        booked.order = 55
        booked.move(State.BOOKED)
        row = booking(booked, 55)
        out = change(0, 77, -5_00000000, login=1002)
        out.data.cmd = 9
        log.noteOrder(77)
        rows = withTotals(ledger, [row, out])
        written = log.write([sent, booked], rows, NOW, [(NOW, "look")])
        self.successResultOf(written)
        log.close()
        self.import_()
        gateway = Gateway(self.database)
        self.successResultOf(gateway.open())
        self.addCleanup(gateway.log.close)
        self.assertEqual([each.number for each in gateway.log.unfinished()], [1])
        found = gateway.log.withKey(7, "b")
        assert found is not None
        self.assertEqual((found.order, found.place), (55, 1))
        self.assertEqual(gateway.log.mark, NOW)
        self.assertEqual(
            self.database.rows("SELECT login, credit FROM account WHERE credit < 0"),
            [(1002, -5_00000000)],
        )
        self.assertEqual(
            self.database.rows("SELECT timestamp, text FROM alarm"), [(NOW, "look")]
        )
        self.run_("check", "--ledger", self.address)
        self.assertNotIn("problem", self.output)

    def test_empty(self) -> None:
        """
        A ledger in which nothing was booked can be imported too.
        """
        ledger = SQLiteLedger("ledger.db", execute)
        ledger.open()
        epoch = ledger.epoch
        ledger.close()
        said = self.import_()
        self.assertIn(": 0 trades, 0 accounts\n", said)
        self.assertEqual(self.database.rows("SELECT epoch FROM stream"), [(epoch,)])

    def test_manyPages(self) -> None:
        """
        Neither side is held in memory as a whole.
        """
        self.patch(_importing, "_PAGE", 2)
        self.fill()
        self.import_()
        [(places,)] = self.database.rows("SELECT count(*) FROM event")
        self.assertEqual(places, self.head)

    def test_warns(self) -> None:
        """
        What a start would warn of is said too.
        """
        self.fill()
        self.import_()
        self.assertIn("creditsync import: warning: postgresql://", self.said)
        self.assertIn("has no synchronous replication", self.said)

    def test_twice(self) -> None:
        """
        A second import is refused.
        """
        self.fill()
        self.import_()
        sentence = self.fails("import", "ledger.db", "--ledger", self.address)
        self.assertIn('there are rows in "node"; import into a new database', sentence)

    def test_nodeHasStarted(self) -> None:
        """
        So is an import where a node has reserved numbers, which the ledger may have
        assigned.
        """
        self.fill()
        makeTables(self.database)
        self.database.rows("UPDATE block SET next = next + 64000")
        sentence = self.fails("import", "ledger.db", "--ledger", self.address)
        self.assertIn('there are rows in "block"', sentence)

    def test_serverRuns(self) -> None:
        """
        A ledger whose server runs is not imported.
        """
        self.fill()
        ledger = SQLiteLedger("ledger.db", execute)
        ledger.open()
        self.addCleanup(ledger.close)
        self.assertIn("has the ledger", self.importFails())

    def test_unsound(self) -> None:
        """
        A ledger that is not sound is not imported.
        """
        self.fill()
        with closing(sqlite3.connect("ledger.db")) as other:
            other.execute("UPDATE account SET credit = credit + 1 WHERE login = 1001")
            other.commit()
        sentence = self.importFails()
        self.assertIn("is not sound (account 1001 has balance", sentence)

    def test_older(self) -> None:
        """
        A ledger of an older version has to be upgraded first.
        """
        shutil.copy(LEDGERS / "v2.db", "ledger.db")
        self.assertIn("run creditsync upgrade", self.importFails())

    def test_none(self) -> None:
        """
        A file that isn't there, or is no ledger, leaves nothing behind.
        """
        self.assertIn("there is no ledger", self.importFails())
        Path("ledger.db").write_text("something else entirely, and long enough")
        self.assertIn("not a readable SQLite database", self.importFails())
        self.assertEqual(os.listdir(), ["ledger.db"])

    def spoils(self, statement: str) -> str:
        """
        Change one thing behind the copy's back, and give the sentence about it.
        """
        copy = _importing._Mover.copy

        def spoiled(mover: Any) -> None:
            copy(mover)
            mover._session.rows(statement)

        self.fill()
        patched = self.patch(_importing._Mover, "copy", spoiled)
        sentence = self.importFails()
        patched.restore()
        return sentence

    def test_comparedJournal(self) -> None:
        """
        A row of the journal that is not what it was is found before the commit.
        """
        sentence = self.spoils("UPDATE event SET comment = 'other' WHERE seq = 2")
        self.assertIn("the journal at postgresql://", sentence)
        self.assertIn("is not what was copied, so nothing was imported", sentence)

    def test_comparedEnd(self) -> None:
        """
        So is one that is missing at the end.
        """
        self.assertIn("the journal", self.spoils("DELETE FROM event WHERE type = 2"))

    def test_comparedLink(self) -> None:
        """
        So is a hash.
        """
        statement = "UPDATE link SET hash = sha256(hash) WHERE batch = 2"
        self.assertIn("the journal", self.spoils(statement))

    def test_comparedTables(self) -> None:
        """
        So is a row of any other table.
        """
        for statement, name in (
            ("UPDATE opened SET credit = credit + 1 WHERE login = 1001", "opened"),
            ("UPDATE opened SET \"group\" = 'x' WHERE login = 1001", "opened"),
            ("UPDATE trade SET profit = 1", "trade"),
            ("DELETE FROM keyed WHERE key = 'second'", "keyed"),
            ("UPDATE life SET head = 1", "life"),
        ):
            self.assertIn(f'"{name}" at postgresql', self.spoils(statement))

    def test_lost(self) -> None:
        """
        An import whose connection ends has moved nothing, and can be run again.
        """
        compare = _importing._Mover.compare

        def cut(mover: Any) -> None:
            self.database.terminateBackends("creditsync import")
            compare(mover)

        self.fill()
        patched = self.patch(_importing._Mover, "compare", cut)
        self.assertIn("PostgreSQL has failed at postgresql://", self.importFails())
        patched.restore()
        self.assertIn("was imported to postgresql://", self.import_())

    def test_blocks(self) -> None:
        """
        The first block begins behind all numbers of the ledger, at a multiple of 64.
        """
        marks = [1, 63, 64, 65, 128, 100_001]
        self.assertEqual(
            [blockAfter(mark) for mark in marks], [64, 64, 64, 128, 128, 100_032]
        )


class InitTests(ImportCase):
    """
    C{creditsync init}.
    """

    def test_tables(self) -> None:
        """
        It makes the tables, or finds them.
        """
        for _ in range(2):
            said = self.run_("init", "--ledger", self.address)
            self.assertEqual(said, f"{self.address} has the tables of a ledger\n")
        self.assertEqual(self.database.rows("SELECT number FROM version"), [(1,)])
        self.assertIn("creditsync init: warning: ", self.said)

    def test_gateway(self) -> None:
        """
        It makes the tables of a gateway, or finds them, unless servers have booked
        there.
        """
        for _ in range(2):
            self.run_("init", "--gateway", "--ledger", self.address)
        self.assertIn("does not know what was sent, and books it twice", self.said)
        self.assertEqual(
            self.database.rows("SELECT id, update_time FROM caught_up"), [(1, 0)]
        )
        self.database.rows("DROP TABLE intent, caught_up, alarm")
        node = Node(self.database)
        self.addCleanup(node.connection.close)
        node.book(change(0, 0, 5).operation)
        sentence = self.fails("init", "--gateway", "--ledger", self.address)
        self.assertIn("a gateway needs another database", sentence)

    def test_restored(self) -> None:
        """
        A database that was restored begins a life of its own: with another epoch, with
        order numbers that nobody can know, and without the nodes that still run.
        """
        self.run_("init", "--ledger", self.address)
        node = Node(self.database)
        self.addCleanup(node.connection.close)
        node.book(change(0, 0, 5).operation)
        [(_, before)] = self.database.rows("SELECT id, epoch FROM stream")
        said = self.run_("init", "--restored", "--ledger", self.address)
        [(_, epoch)] = self.database.rows("SELECT id, epoch FROM stream")
        self.assertNotEqual(epoch, before)
        self.assertIn(f"begins the life {epoch} behind place 1", said)
        lives = "SELECT number, epoch, head, cause FROM life ORDER BY number"
        self.assertEqual(
            self.database.rows(lives),
            [(1, before, 0, "created"), (2, epoch, 1, "copied")],
        )
        [(first,)] = self.database.rows("SELECT next FROM block")
        self.assertGreater(first, 10**12)
        self.assertEqual(first % 64, 0)
        with self.assertRaises(psycopg.Error) as raised:
            node.book(change(0, 0, 5).operation)
        self.assertEqual(raised.exception.sqlstate, "CS001")

    def test_rights(self) -> None:
        """
        A role is told at once all that it lacks, and not only for the first step.
        """
        self.run_("init", "--ledger", self.address)
        role = f"node_{self.database.name}"
        self.database.rows(f"CREATE ROLE {role} LOGIN")
        self.addCleanup(self.database.rows, f"DROP OWNED BY {role}; DROP ROLE {role}")
        address = self.address.replace(f"{ground.SUPERUSER}@", f"{role}@")
        refused = self.fails("init", "--restored", "--ledger", address)
        for grant in ("SELECT, INSERT ON life, link,", "SELECT, UPDATE ON stream,"):
            self.assertIn(f" GRANT {grant}", refused)
        self.database.rows(refused.partition("tables: ")[2])
        self.run_("init", "--restored", "--ledger", address)
        refused = self.fails("import", "ledger.db", "--ledger", address)
        self.assertIn(f"tables: GRANT DELETE ON life TO {role}", refused)

    def test_unreachable(self) -> None:
        """
        What is wrong is one sentence.
        """
        port = ground.freePort()
        sentence = self.fails("init", "--ledger", f"postgresql://me@127.0.0.1:{port}/x")
        self.assertTrue(
            sentence.startswith("creditsync init: PostgreSQL can't be used")
        )

    def test_withoutPsycopg(self) -> None:
        """
        Without psycopg it says what to install.
        """
        # The import of a module that is None here fails.
        with patch.dict(sys.modules, {"psycopg": None}):  # type: ignore[dict-item]
            for name in list(sys.modules):
                if name.startswith("creditsync.postgres."):
                    del sys.modules[name]
            sentence = self.fails("init", "--ledger", self.address)
        self.assertIn("needs the package psycopg (", sentence)
        self.assertTrue(sentence.endswith("pip install 'creditsync[postgres]'"))

    def test_addresses(self) -> None:
        """
        A file is refused, and so is a password, which is not repeated.
        """
        for address, expected in (
            ("ledger.db", "must be an address such as postgresql://"),
            ("postgresql://me:s3cret@db/x", "give it in PGPASSWORD or ~/.pgpass"),
            ("postgresql://db/x?password=s3cret", "give it in PGPASSWORD or"),
        ):
            self.assertEqual(self.fails("init", "--ledger", address), "2")
            self.assertIn(expected, " ".join(self.said.split()))
            self.assertNotIn("s3cret", self.said)
