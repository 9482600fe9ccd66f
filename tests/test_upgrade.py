"""
Tests for the upgrade of stored ledgers of older versions: C{tests/ledgers/v1.db} and
C{v2.db}, which have the same content.
"""

import errno
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import skipIf

from twisted.internet.defer import execute
from twisted.trial.unittest import SynchronousTestCase

from creditsync.errors import LedgerDamaged, LedgerProblem
from creditsync.ledger import _opening as opening
from creditsync.ledger import _upgrading as upgrading
from creditsync.ledger import sqlite
from creditsync.ledger._checking import findings
from creditsync.ledger._proving import JournalProof
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.records import Account, Deletion, Operation, Reservation, Trade
from tests.totals import withTotals

STORED = Path(__file__).parent / "ledgers"

TRADES = [
    Trade(1, 1001, 7, 3, 20000000000, "Less", 10, 20, 40),
    Trade(2, 1001, 7, 3, 5050000000, "Bonus", 11, 21, 31),
    Trade(3, 1001, 9, 3, -10000000000, "Back", 12, 22, 32),
    Trade(4, 1002, 6, 3, 90000000001, "Less too", 13, 23, 41),
    Trade(5, 1002, 8, 3, -100000000, "Finance", 14, 24, 34),
    Trade(6, 9007199254740991, 6, 3, 1000000000000000000, "Most", 15, 25, 35),
    Trade(7, 1003, 7, 6, 7, "To be deleted", 16, 26, 42),
    Trade(8, 1003, 6, 6, 8, "This one too", 17, 27, 43),
]
ACCOUNTS = [
    Account(1001, 0, 15050000000),
    Account(1002, 89900000001, 0),
    Account(1003, 0, 0),
    Account(1009, 0, 0),
    Account(9007199254740991, 1000000000000000000, 0),
]
# By principal and key: the type of the event, the command, and the trade as it
# was booked.
KEYS = {
    (7, "bonus-1"): (0, "CreditInSync", TRADES[1]),
    (7, "deposit-1"): (
        0,
        "BalanceIn",
        Trade(4, 1002, 6, 3, 100000000001, "Böni 😀\t'", 13, 23, 33),
    ),
    (7, "fee-1"): (0, "BalanceOutSync", TRADES[4]),
    (7, "less-1"): (1, "CreditInSync", TRADES[0]),
    (8, "delete-1"): (2, "DeleteCreditSync", TRADES[6]),
}

# What the upgrade makes of them: type, order, profit, comment, timestamp, principal,
# command, order and open_time as requested, and key. Totals were not recorded, nor who
# requested what without a key; of the changes without a key only the last one was.
JOURNAL = [
    (1, 1, 20000000000, "Less", 40, 7, "CreditInSync", 1, 10, "less-1"),
    (0, 2, 5050000000, "Bonus", 31, 7, "CreditInSync", 0, None, "bonus-1"),
    (0, 3, -10000000000, "Back", 32, None, None, None, None, None),
    (0, 4, 100000000001, "Böni 😀\t'", 33, 7, "BalanceIn", 0, None, "deposit-1"),
    (1, 4, 90000000001, "Less too", 41, None, None, None, None, None),
    (0, 5, -100000000, "Finance", 34, 7, "BalanceOutSync", 0, None, "fee-1"),
    (0, 6, 1000000000000000000, "Most", 35, None, None, None, None, None),
    (2, 7, 7, "To be deleted", 42, 8, "DeleteCreditSync", 7, None, "delete-1"),
    (2, 8, 8, "This one too", 43, None, None, None, None, None),
]


class StoredLedgerCase(SynchronousTestCase):
    """
    A copy of a stored ledger.

    @cvar version: Its version.
    """

    version = 1

    def setUp(self) -> None:
        """
        Copy the stored ledger.
        """
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        self.folder = Path(os.path.realpath(made.name)) / "server"
        self.folder.mkdir()
        self.path = self.folder / "ledger.db"
        shutil.copyfile(STORED / f"v{self.version}.db", self.path)
        # The copy that the upgrade leaves.
        self.copy = f"ledger.db.v{self.version}"

    def opened(self) -> SQLiteLedger:
        """
        The ledger, opened and so upgraded.
        """
        ledger = SQLiteLedger(str(self.path), execute)
        ledger.open()
        self.addCleanup(ledger.close)
        return ledger

    def rows(self, path: Path, table: str) -> list[Any]:
        """
        All rows of a table.
        """
        with closing(sqlite3.connect(path)) as connection:
            return connection.execute(f"SELECT * FROM {table}").fetchall()

    def value(self, path: Path, statement: str) -> Any:
        """
        The one value that a statement returns.
        """
        with closing(sqlite3.connect(path)) as connection:
            return connection.execute(statement).fetchone()[0]

    def isWhole(self, ledger: SQLiteLedger) -> None:
        """
        Assert that everything in the old version is there, and that the checks find
        nothing wrong.
        """
        self.assertEqual([ledger.trade(each.order) for each in TRADES], TRADES)
        self.assertIsNone(ledger.trade(9))
        self.assertEqual([ledger.account(each.login) for each in ACCOUNTS], ACCOUNTS)
        for (principal, key), (type, command, trade) in KEYS.items():
            replay = ledger.replay(principal, key)
            assert replay is not None, key
            self.assertEqual(
                (replay.eventType, replay.operation.command, replay.trade),
                (type, command, trade),
            )
        with closing(sqlite3.connect(ledger.path)) as connection:
            self.assertEqual(list(findings(connection)), [])


class StoredLedgerTests(StoredLedgerCase):
    """
    Tests for upgrading a ledger of version 1.
    """

    def test_isOld(self) -> None:
        """
        The stored ledger stays one of its version.
        """
        self.assertEqual(self.value(self.path, "PRAGMA user_version"), self.version)

    def test_journal(self) -> None:
        """
        The journal has what the old version had recorded, by order and revision,
        and nothing that it had not.
        """
        ledger = self.opened()
        # All of it was booked on 1970-01-01: the amount of each row of JOURNAL, as
        # it is not known what its updates were before.
        moved = [each.amount for each in ledger.movements(0, ledger.head)]
        self.assertEqual(sum(moved), sum(abs(row[2]) for row in JOURNAL))
        self.assertEqual(ledger.movements(1, ledger.head), [])
        ledger.close()
        with closing(sqlite3.connect(self.path)) as connection:
            rows = connection.execute(
                'SELECT type, "order", profit, comment, timestamp, principal, command,'
                " asked_order, asked_open_time, key FROM journal ORDER BY place"
            ).fetchall()
            self.assertEqual(rows, JOURNAL)
            others = connection.execute(
                "SELECT DISTINCT balance, credit, asked_close_time FROM journal"
            )
            self.assertEqual(others.fetchall(), [(None, None, None)])
            places = connection.execute('SELECT "order", revision, place FROM trade')
            self.assertEqual(
                places.fetchall(),
                [
                    (1, 1, 1),
                    (2, 0, 2),
                    (3, 0, 3),
                    (4, 1, 5),
                    (5, 0, 6),
                    (6, 0, 7),
                    (7, 1, 8),
                    (8, 1, 9),
                ],
            )
            [(number, epoch, head, cause)] = connection.execute(
                "SELECT number, epoch, head, cause FROM life"
            )
            self.assertEqual((number, head, cause), (1, 9, "upgraded"))
            self.assertRegex(epoch, "^[0-9a-f]{8}$")

    def test_events(self) -> None:
        """
        The stream begins with the rows from the old version.
        """
        ledger = self.opened()
        events = ledger.events(0, 100)
        self.assertEqual([each.place for each in events], [*range(1, 10)])
        self.assertEqual(events[0].data, TRADES[0])
        self.assertEqual(ledger.head, 9)

    def test_pages(self) -> None:
        """
        An upgrade of many rows has a hash for each page, and reports its progress.
        """
        self.patch(upgrading, "_PAGE", 4)
        told: list[tuple[int, int]] = []
        with closing(sqlite3.connect(self.path, isolation_level=None)) as writer:
            opening.prepare(
                writer, str(self.path), sqlite.SCRIPTS, lambda *each: told.append(each)
            )
        self.assertEqual(told, [(4, 9), (8, 9), (9, 9)])
        with closing(sqlite3.connect(self.path)) as connection:
            links = connection.execute("SELECT lo, hi FROM link").fetchall()
        self.assertEqual(links, [(1, 4), (5, 8), (9, 9)])
        self.isWhole(self.opened())

    def test_whole(self) -> None:
        """
        After the upgrade trades, totals, accounts and keys are there, the
        numbers go on above the mark, and the next start has nothing to do.
        """
        ledger = self.opened()
        self.isWhole(ledger)
        self.assertEqual(ledger.newOrder(), 100001)
        ledger.close()
        version = self.value(self.path, "PRAGMA user_version")
        self.assertEqual(version, len(sqlite.SCRIPTS))
        self.patch(opening, "_backUp", None)
        self.isWhole(self.opened())

    def test_operations(self) -> None:
        """
        After the upgrade the total of each cmd is data.
        """
        self.opened().close()
        self.assertEqual(
            [row for row in self.rows(self.path, "operation") if row[0] < 10],
            [
                (6, 1, 0, 1, "balance in"),
                (7, 0, 1, 1, "credit in"),
                (8, 1, 0, -1, "balance out"),
                (9, 0, 1, -1, "credit out"),
            ],
        )

    def test_goesOn(self) -> None:
        """
        Each kind of operation can be booked on the upgraded ledger: new,
        updated and deleted.
        """
        ledger = self.opened()
        added = [
            Trade(ledger.newOrder(), 1003, cmd, 3, profit, "After", 1, 2, 3)
            for cmd, profit in ((6, 1000), (7, 2000), (8, -30), (9, -4))
        ]
        asked = Operation("CreditIn", 7, 1003, 1, "")
        self.successResultOf(
            ledger.commit(
                withTotals(ledger, [Reservation(0, each, asked) for each in added])
            )
        )
        self.assertEqual(ledger.account(1003), Account(1003, 970, 1996))
        less = Trade(1, 1001, 7, 3, 5, "Still less", 10, 20, 50)
        gone = Trade(4, 1002, 6, 6, 90000000001, "Less too", 13, 23, 51)
        deletion = Deletion("DeleteBalance", 4, frozenset({6, 8}))
        self.successResultOf(
            ledger.commit(
                withTotals(
                    ledger,
                    [Reservation(1, less, asked), Reservation(2, gone, deletion)],
                )
            )
        )
        self.assertEqual(ledger.account(1001), Account(1001, 0, -4949999995))
        self.assertEqual(ledger.account(1002), Account(1002, -100000000, 0))
        with closing(sqlite3.connect(self.path)) as connection:
            self.assertEqual(list(JournalProof(connection).problems()), [])

    def test_copy(self) -> None:
        """
        The old ledger is kept beside the new one, readable by those who may
        read that one and by nobody else.
        """
        before = {
            table: self.rows(self.path, table)
            for table in ("trade", "account", "keyed_operation", "order_mark")
        }
        os.chmod(self.path, 0o600)
        self.opened().close()
        copy = self.folder / self.copy
        self.assertEqual(self.value(copy, "PRAGMA user_version"), self.version)
        self.assertEqual(
            {table: self.rows(copy, table) for table in before},
            before,
        )
        self.assertEqual(copy.stat().st_mode & 0o777, 0o600)

    def test_leftovers(self) -> None:
        """
        The rest of a killed upgrade's copy, including a journal, is not in the
        way and is not used.
        """
        for end in (".part", ".part-journal", ".part-wal"):
            (self.folder / (self.copy + end)).write_bytes(b"rest" * 1000)
        self.isWhole(self.opened())
        old = self.value(self.folder / self.copy, "PRAGMA user_version")
        self.assertEqual(old, self.version)
        self.assertEqual(len(self.rows(self.folder / self.copy, "trade")), 8)

    def test_inItsWAL(self) -> None:
        """
        Commits that a killed server has left in the -wal file are upgraded
        too.
        """
        with closing(sqlite3.connect(self.path)) as killed:
            killed.execute(
                "UPDATE trade SET comment = 'In the WAL' WHERE \"order\" = 3"
            )
            killed.commit()
            lost = self.folder.with_name("killed")
            lost.mkdir()
            for end in ("", "-wal"):
                shutil.copyfile(f"{self.path}{end}", lost / f"ledger.db{end}")
        self.path = lost / "ledger.db"
        trade = self.opened().trade(3)
        assert trade is not None
        self.assertEqual(trade.comment, "In the WAL")

    def test_changed(self) -> None:
        """
        A ledger whose triggers were changed is refused: an upgrade would make
        new ones, and hide that the old ones did not do their work.
        """
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("DROP TRIGGER trade_updated")
        message = str(self.assertRaises(LedgerDamaged, self.opened))
        self.assertIn("the trigger trade_updated is missing", message)
        self.assertEqual(self.value(self.path, "PRAGMA user_version"), self.version)
        self.assertEqual(list(self.folder.glob("*.v[12]*")), [])

    def test_damaged(self) -> None:
        """
        A damaged ledger is refused and keeps its version, so that the creditsync
        that made it can still read it.
        """
        whole = self.path.read_bytes()
        for change, message in (
            (
                "UPDATE account SET credit = 5 WHERE login = 1001",
                "account 1001 of the ledger",
            ),
            ("UPDATE order_mark SET next_order = 3", "its order mark is 3"),
            (
                "UPDATE keyed_operation SET state = 4 WHERE key = 'bonus-1'",
                "has a row that creditsync did not write: CHECK constraint failed",
            ),
        ):
            self.path.write_bytes(whole)
            with closing(sqlite3.connect(self.path)) as connection, connection:
                connection.execute(change)
            self.assertIn(message, str(self.assertRaises(LedgerDamaged, self.opened)))
            version = self.value(self.path, "PRAGMA user_version")
            self.assertEqual(version, self.version)

    def test_diskFull(self) -> None:
        """
        If there is no space for the copy, nothing of it is left, and the ledger
        remains as it was.
        """

        def full(path: str, flags: int = 0) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

        syncing = self.patch(opening, "sync", full)
        message = str(self.assertRaises(LedgerProblem, self.opened))
        self.assertIn("No space left on device", message)
        self.assertEqual(list(self.folder.glob("*.v[12]*")), [])
        syncing.restore()
        self.isWhole(self.opened())

    @skipIf(os.geteuid() != 0, "only root can be several users")
    def test_byRoot(self) -> None:
        """
        If root upgrades a ledger, the copy of the old one belongs to its owner too.
        """
        for path in (self.folder, self.path):
            os.chown(path, 54321, 54322)
        self.opened().close()
        copy = (self.folder / self.copy).stat()
        self.assertEqual((copy.st_uid, copy.st_gid), (54321, 54322))


class StoredLedger2Tests(StoredLedgerTests):
    """
    Tests for upgrading a ledger of version 2.
    """

    version = 2


class KilledUpgradeTests(StoredLedgerCase):
    """
    Tests for an upgrade that is killed at any point.
    """

    def setUp(self) -> None:
        """
        Keep the files that a killed process would leave, before each step of
        an upgrade.
        """
        super().setUp()
        self.left: list[dict[str, bytes]] = []
        connect = sqlite.connectWriter

        def watched(path: str) -> sqlite3.Connection:
            connection = connect(path)
            connection.set_trace_callback(lambda _: self.keep())
            return connection

        self.patched = [self.patch(sqlite, "connectWriter", watched)]
        for module, name in (
            (os, "open"),
            (os, "replace"),
            (os, "fsync"),
            (shutil, "copymode"),
        ):
            kept = self.keeping(getattr(module, name))
            self.patched.append(self.patch(module, name, kept))

    def keeping(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """
        A function before which the files are kept.
        """

        def kept(*args: Any, **others: Any) -> Any:
            self.keep()
            return function(*args, **others)

        return kept

    def keep(self) -> None:
        """
        Keep the files, except for those that SQLite makes anew, if they have
        changed. Nothing that is patched may be used here.
        """
        files = {
            file.name: file.read_bytes()
            for file in self.folder.iterdir()
            if not file.name.endswith(("-shm", ".lock"))
        }
        if self.left[-1:] != [files]:
            self.left.append(files)

    def test_anywhere(self) -> None:
        """
        Whenever an upgrade is killed, the next start has the whole ledger, in
        the newest version, and the copy of the old one.
        """
        self.opened()
        for each in self.patched:
            each.restore()
        versions = set()
        for number, files in enumerate(self.left):
            folder = self.folder.with_name(f"killed{number}")
            folder.mkdir()
            for name, content in files.items():
                (folder / name).write_bytes(content)
            self.path = folder / "ledger.db"
            versions.add(self.value(self.path, "PRAGMA user_version"))
            ledger = SQLiteLedger(str(self.path), execute)
            ledger.open()
            self.isWhole(ledger)
            ledger.close()
            old = self.value(folder / self.copy, "PRAGMA user_version")
            self.assertEqual(old, self.version)
        # Before, in and after each step of the copy, and after the upgrade.
        self.assertGreaterEqual(len(self.left), 7)
        self.assertEqual(versions, {self.version, len(sqlite.SCRIPTS)})


class KilledUpgrade2Tests(KilledUpgradeTests):
    """
    Tests for an upgrade from version 2 that is killed at any point.
    """

    version = 2
