"""
Tests for L{creditsync.ledger._reading}, L{creditsync.ledger._checking} and
L{creditsync.ledger._copying}.
"""

import fcntl
import hashlib
import json
import os
import pwd
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from unittest import skipIf

from twisted.internet.defer import execute
from twisted.trial.unittest import SynchronousTestCase

from creditsync._locking import ALONE, TOGETHER, folderLocked
from creditsync.errors import LedgerDamaged, LedgerInUse, LedgerProblem
from creditsync.ledger import _copying as copying
from creditsync.ledger import _opening as opening
from creditsync.ledger import _reading as reading
from creditsync.ledger._checking import findings
from creditsync.ledger._copying import backUp
from creditsync.ledger._journal import MEMBERS
from creditsync.ledger._schema import columns
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.records import Account, Deletion, Operation, Reservation, Trade
from tests.totals import withTotals

BALANCE_IN, CREDIT_IN, BALANCE_OUT, CREDIT_OUT = 6, 7, 8, 9
BOOKED, DELETED = 3, 6
ADD, UPDATE, DELETE = 0, 1, 2
# The columns of the journal.
_BUT_PLACE = f"{columns(MEMBERS[1:])}, hash"


def booking(
    order: int,
    profit: int,
    login: int = 1001,
    cmd: int = CREDIT_IN,
    type: int = ADD,
    key: str | None = None,
    time: int = 1800,
) -> Reservation:
    """
    The reservation that makes or changes this trade.
    """
    state = DELETED if type == DELETE else BOOKED
    trade = Trade(order, login, cmd, state, profit, "Bonus", time, time, time)
    asked: Operation | Deletion
    if type == DELETE:
        asked = Deletion("DeleteCredit", order, frozenset({cmd}), 7, key)
    else:
        asked = Operation(
            "CreditIn",
            cmd,
            login,
            profit,
            "Bonus",
            order if type == UPDATE else 0,
            principal=7,
            key=key,
        )
    return Reservation(type, trade, asked)


# Each row is a batch: account 1001 ends with balance 60 and credit 350,
# account 1002 with credit 0.
BATCHES = [
    [booking(1, 100, key="first", time=1800), booking(2, 200, time=1700)],
    [booking(3, 80, cmd=BALANCE_IN, time=1900), booking(4, 9, login=1002, key="gone")],
    [booking(5, -20, cmd=BALANCE_OUT, time=1950), booking(6, -50, cmd=CREDIT_OUT)],
    [booking(1, 200, type=UPDATE, key="more", time=1800)],
    [booking(4, 9, login=1002, type=DELETE, key="delete")],
]


class LedgerTestCase(SynchronousTestCase):
    """
    A ledger with a few trades, closed.
    """

    def setUp(self) -> None:
        """
        Make the ledger.
        """
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        self.folder = os.path.realpath(made.name)
        self.path = os.path.join(self.folder, "ledger.db")
        ledger = self.opened()
        for _ in range(6):
            ledger.newOrder()
        for batch in BATCHES:
            self.successResultOf(ledger.commit(withTotals(ledger, batch)))
        ledger.close()

    def opened(self) -> SQLiteLedger:
        """
        The ledger as a server has it, closed in the end.
        """
        ledger = SQLiteLedger(self.path, execute)
        ledger.open()
        self.addCleanup(ledger.close)
        return ledger

    def plant(self, script: str) -> None:
        """
        Change the file as no ledger would, bypassing its triggers and
        constraints.
        """
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            triggers = connection.execute(
                "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'"
            ).fetchall()
            for name, _ in triggers:
                connection.execute(f"DROP TRIGGER {name}")
            connection.executescript(script)
            for _, text in triggers:
                connection.execute(text)

    def sql(self, script: str) -> None:
        """
        Change the file, with its triggers as they are.
        """
        with closing(sqlite3.connect(self.path)) as connection:
            connection.executescript(script)

    def refused(self, kind: type[LedgerProblem]) -> str:
        """
        The message with which a ledger can't be read.
        """
        with self.assertRaises(kind) as raised, reading.reading(self.path):
            self.fail("it was read")
        return str(raised.exception)


class ReadingTests(LedgerTestCase):
    """
    Tests for L{reading.reading}.
    """

    def orders(self, *selection: Any) -> list[int]:
        """
        The orders of the selected trades.
        """
        with reading.reading(self.path) as ledger:
            return [each.order for each in reading.trades(ledger, *selection)]

    def test_trades(self) -> None:
        """
        Trades come in the order of their numbers, each in its current state.
        """
        with reading.reading(self.path) as ledger:
            first, *_, last = reading.trades(ledger)
        self.assertEqual(first, Trade(1, 1001, 7, 3, 200, "Bonus", 1800, 1800, 1800))
        self.assertEqual(last, Trade(6, 1001, 9, 3, -50, "Bonus", 1800, 1800, 1800))
        self.assertEqual(self.orders(), [1, 2, 3, 4, 5, 6])

    def test_tradesOfAccount(self) -> None:
        """
        The trades of one account can be selected.
        """
        self.assertEqual(self.orders(1002), [4])

    def test_tradesOfPeriod(self) -> None:
        """
        A period includes its first second and excludes its last.
        """
        self.assertEqual(self.orders(None, 1800), [1, 3, 4, 5, 6])
        self.assertEqual(self.orders(None, None, 1800), [2])
        self.assertEqual(self.orders(None, 1800, 1900), [1, 4, 6])
        self.assertEqual(self.orders(1002, 1801), [])

    def test_besideServer(self) -> None:
        """
        Trades that a running server has committed are read, from its WAL file
        too.
        """
        server = self.opened()
        self.successResultOf(
            server.commit(withTotals(server, [booking(server.newOrder(), 1)]))
        )
        self.assertEqual(self.orders(), [1, 2, 3, 4, 5, 6, 7])

    def test_oneMoment(self) -> None:
        """
        A commit during a read is not visible to it, and does not wait for it.
        """
        server = self.opened()
        with reading.reading(self.path) as ledger:
            self.assertEqual(reading.counts(ledger)["trades"], 6)
            self.successResultOf(
                server.commit(withTotals(server, [booking(server.newOrder(), 1)]))
            )
            self.assertEqual(reading.counts(ledger)["trades"], 6)
        self.assertEqual(self.orders(), [1, 2, 3, 4, 5, 6, 7])

    def test_cantWrite(self) -> None:
        """
        A reader can't write.
        """
        with (
            self.assertRaises(LedgerProblem) as raised,
            reading.reading(self.path) as ledger,
        ):
            ledger.execute("DELETE FROM trade")
        self.assertIn("readonly database", str(raised.exception))
        self.assertEqual(self.orders(), [1, 2, 3, 4, 5, 6])

    def test_counts(self) -> None:
        """
        Trades, accounts and keys are counted.
        """
        with reading.reading(self.path) as ledger:
            self.assertEqual(
                reading.counts(ledger), {"trades": 6, "accounts": 2, "keys": 4}
            )

    def test_missing(self) -> None:
        """
        A missing ledger is not created.
        """
        self.path += ".no"
        self.assertEqual(
            self.refused(LedgerProblem),
            f"there is no ledger {self.path}: name another file",
        )
        self.assertFalse(os.path.exists(self.path))

    def test_noDatabase(self) -> None:
        """
        A file that is not a database is refused.
        """
        Path(self.path).write_text("order,login\n" * 100)
        self.assertIn("not a readable SQLite database", self.refused(LedgerDamaged))

    def test_otherProgram(self) -> None:
        """
        Another program's database is refused.
        """
        self.sql("PRAGMA application_id = 17")
        self.assertIn("another program's database", self.refused(LedgerDamaged))

    def test_empty(self) -> None:
        """
        An empty file is refused, and not made a ledger.
        """
        self.path += ".empty"
        Path(self.path).touch()
        self.assertIn("is an empty file, not a ledger", self.refused(LedgerDamaged))
        self.assertEqual(os.path.getsize(self.path), 0)

    def test_newer(self) -> None:
        """
        A ledger of a newer version is refused.
        """
        self.sql(f"PRAGMA user_version = {len(reading.SCRIPTS) + 1}")
        self.assertIn("run the newer creditsync", self.refused(LedgerProblem))

    def test_older(self) -> None:
        """
        A ledger of an older version is refused, and not upgraded.
        """
        self.patch(reading, "SCRIPTS", (*reading.SCRIPTS, "SELECT 1;"))
        self.assertIn("run creditsync upgrade", self.refused(LedgerProblem))

    def asNobody(self) -> None:
        """
        Continue as a user who may read the folder and write nothing.
        """
        os.chmod(self.folder, 0o555)
        self.addCleanup(os.chmod, self.folder, 0o755)
        if os.geteuid() == 0:
            os.seteuid(65534)
            self.addCleanup(os.seteuid, 0)

    def test_nobodyAlone(self) -> None:
        """
        A user without write permission can read a ledger at rest.
        """
        self.asNobody()
        self.assertEqual(self.orders(), [1, 2, 3, 4, 5, 6])

    def test_nobodyBesideServer(self) -> None:
        """
        A user without write permission can read beside a server.
        """
        self.opened()
        self.asNobody()
        self.assertEqual(self.orders(), [1, 2, 3, 4, 5, 6])

    def test_nobodyHasCopy(self) -> None:
        """
        A user without write permission can read a copy.
        """
        backUp(self.path, self.path + ".copy")
        self.path += ".copy"
        self.asNobody()
        self.assertEqual(self.orders(), [1, 2, 3, 4, 5, 6])

    def test_noPermission(self) -> None:
        """
        A user without read permission gets a clear message.
        """
        os.chmod(self.path, 0)
        owner = pwd.getpwuid(os.geteuid()).pw_name
        self.asNobody()
        self.assertEqual(
            self.refused(LedgerProblem),
            f"the ledger {self.path} can't be read: {self.path} belongs to user"
            f" {owner}, and this user may not read it",
        )


class AtRestTests(LedgerTestCase):
    """
    Tests for reading a ledger that no server has open.
    """

    def test_nothingLeft(self) -> None:
        """
        A reader leaves no file behind, and creates none while it reads.
        """
        before = sorted(os.listdir(self.folder))
        with reading.reading(self.path) as ledger:
            self.assertEqual(reading.counts(ledger)["trades"], 6)
            self.assertEqual(sorted(os.listdir(self.folder)), before)
        self.assertEqual(sorted(os.listdir(self.folder)), before)

    def test_killedServer(self) -> None:
        """
        Commits of a killed server that are only in the WAL file are read, and
        no file is created or removed.
        """
        self.copyOfRunning()
        before = sorted(os.listdir(self.folder))
        with reading.reading(self.path) as ledger:
            self.assertEqual(reading.counts(ledger)["trades"], 7)
        self.assertEqual(sorted(os.listdir(self.folder)), before)

    def copyOfRunning(self) -> None:
        """
        Continue with the files that a killed server leaves.
        """
        server = self.opened()
        self.successResultOf(
            server.commit(withTotals(server, [booking(server.newOrder(), 1)]))
        )
        for end in ("", "-wal", "-shm"):
            shutil.copy(f"{self.path}{end}", f"{self.path}.killed{end}")
        self.path += ".killed"

    def test_emptyLeftovers(self) -> None:
        """
        An empty C{-wal} without its C{-shm} contains nothing.
        """
        Path(f"{self.path}-wal").touch()
        with reading.reading(self.path) as ledger:
            self.assertEqual(reading.counts(ledger)["trades"], 6)
        self.assertFalse(os.path.exists(f"{self.path}-shm"))

    def test_serverStarts(self) -> None:
        """
        A server can start meanwhile, and the reader sees one state as long as
        the server leaves the file itself alone.
        """
        with reading.reading(self.path) as ledger:
            server = self.opened()
            self.successResultOf(
                server.commit(withTotals(server, [booking(server.newOrder(), 1)]))
            )
            self.assertEqual(reading.counts(ledger)["trades"], 6)

    def test_changedMeanwhile(self) -> None:
        """
        If a server changes the file during a read, the reader reports it.
        """
        with (
            self.assertRaises(LedgerProblem) as raised,
            reading.reading(self.path) as ledger,
        ):
            reading.counts(ledger)
            server = self.opened()
            self.successResultOf(
                server.commit(withTotals(server, [booking(server.newOrder(), 1)]))
            )
            server.close()
        self.assertEqual(
            str(raised.exception),
            f"the ledger {self.path} was changed while it was being read, so the result"
            " is inconsistent: try again",
        )

    def test_looksDamaged(self) -> None:
        """
        If a server changes the file during a read, apparent damage is not
        reported as damage.
        """
        damage = sqlite3.DatabaseError("database disk image is malformed")
        with (
            self.assertRaises(LedgerProblem) as raised,
            reading.reading(self.path),
        ):
            os.utime(self.path)
            raise damage
        self.assertNotIsInstance(raised.exception, LedgerDamaged)
        with self.assertRaises(LedgerDamaged), reading.reading(self.path):
            raise damage

    def test_backUp(self) -> None:
        """
        If a server changes the file during a copy, the copy is not kept.
        """
        copy = os.path.join(self.folder, "copy")
        sync = self.patch(
            copying.shutil, "copymode", lambda source, part: os.utime(source)
        )
        self.assertRaises(LedgerProblem, backUp, self.path, copy)
        sync.restore()
        self.assertEqual(
            sorted(os.listdir(self.folder)), ["ledger.db", "ledger.db.lock"]
        )

    def test_waitsForTheEnd(self) -> None:
        """
        A server that closes the ledger removes its files before or after a
        reader opens it, never in between.
        """
        server = self.opened()
        order: list[str] = []

        @contextmanager
        def noting(folder: str, how: int) -> Iterator[None]:
            with folderLocked(folder, how):
                order.append(f"{how} begins")
                yield
                order.append(f"{how} ends")

        for module in (reading, opening):
            self.patch(module, "folderLocked", noting)
        with reading.reading(self.path):
            pass
        self.assertTrue(os.path.exists(f"{self.path}-wal"))
        server.close()
        self.assertFalse(os.path.exists(f"{self.path}-wal"))
        self.assertEqual(
            order,
            [
                f"{TOGETHER} begins",
                f"{TOGETHER} ends",
                f"{ALONE} begins",
                f"{ALONE} ends",
            ],
        )


# Users that need not have a name, and the group that they share.
SERVER, OTHER, GROUP = 54321, 65534, 54322


@skipIf(os.geteuid() != 0, "only root can be several users")
class OwnersTests(SynchronousTestCase):
    """
    Tests with a ledger in a folder of the server's user, whose group has other
    users.
    """

    def setUp(self) -> None:
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        self.folder = os.path.realpath(made.name)
        os.chown(self.folder, SERVER, GROUP)
        os.chmod(self.folder, 0o2770)
        self.path = os.path.join(self.folder, "ledger.db")
        self.addCleanup(os.umask, os.umask(0o002))
        self.addCleanup(os.setgroups, os.getgroups())
        self.addCleanup(self.be, 0)

    def be(self, user: int) -> None:
        """
        Continue as this user.
        """
        os.seteuid(0)
        os.setegid(GROUP if user else 0)
        os.setgroups([GROUP] if user else [])
        os.seteuid(user)

    def serves(self, user: int = SERVER) -> SQLiteLedger:
        """
        Open the ledger as a server of this user.
        """
        self.be(user)
        ledger = SQLiteLedger(self.path, execute)
        ledger.open()
        self.addCleanup(ledger.close)
        return ledger

    def books(self, ledger: SQLiteLedger) -> None:
        """
        Book a credit.
        """
        self.successResultOf(
            ledger.commit(withTotals(ledger, [booking(ledger.newOrder(), 100)]))
        )

    def killed(self) -> None:
        """
        Leave the files of a killed server.
        """
        pid = os.fork()
        if not pid:
            status = 1
            try:
                self.books(self.serves())
                status = 0
            finally:
                os._exit(status)
        self.assertEqual(os.waitpid(pid, 0)[1], 0)

    def files(self) -> dict[str, int]:
        """
        The owners of the files.
        """
        self.be(0)
        return {
            name.removeprefix("ledger.db"): os.stat(
                os.path.join(self.folder, name)
            ).st_uid
            for name in os.listdir(self.folder)
        }

    def trades(self, user: int) -> int:
        """
        The number of trades that this user can read.
        """
        self.be(user)
        with reading.reading(self.path) as ledger:
            return reading.counts(ledger)["trades"]

    def refused(self, user: int) -> str:
        """
        The reason why a server of this user can't open the ledger.
        """
        return str(self.assertRaises(LedgerProblem, self.serves, user))

    def test_readAtRest(self) -> None:
        """
        The server starts after any user has read or copied a ledger at rest.
        """
        ledger = self.serves()
        self.books(ledger)
        ledger.close()
        for user in (OTHER, 0, SERVER):
            self.assertEqual(self.trades(user), 1)
            self.be(user)
            backUp(self.path, os.path.join(self.folder, "copy"), True)
            os.unlink(os.path.join(self.folder, "copy"))
            self.assertEqual(self.files(), {"": SERVER, ".lock": SERVER})
            self.serves().close()

    def test_readKilled(self) -> None:
        """
        The server starts after any user has read the files of a killed server.
        """
        self.killed()
        before = {"": SERVER, "-wal": SERVER, "-shm": SERVER, ".lock": SERVER}
        for user in (OTHER, 0, SERVER):
            self.assertEqual(self.trades(user), 1)
            self.assertEqual(self.files(), before)
        self.books(self.serves())

    def test_readBesideServer(self) -> None:
        """
        Beside a server every user reads what it has booked, and leaves nothing
        behind.
        """
        ledger = self.serves()
        self.books(ledger)
        before = self.files()
        for user in (OTHER, 0, SERVER):
            self.assertEqual(self.trades(user), 1)
            self.assertEqual(self.files(), before)
        self.be(SERVER)
        self.books(ledger)
        ledger.close()
        self.assertEqual(self.files(), {"": SERVER, ".lock": SERVER})

    def test_indexMissing(self) -> None:
        """
        Where SQLite would have to create a file, only those users can read
        whose file does not stop the server.
        """
        self.killed()
        os.unlink(f"{self.path}-shm")
        before = {"": SERVER, "-wal": SERVER, ".lock": SERVER}
        e = self.assertRaises(LedgerProblem, self.trades, OTHER)
        self.assertIn("its -shm file is missing, so that only", str(e))
        self.assertEqual(self.files(), before)
        self.assertEqual(self.trades(0), 1)
        self.assertEqual(self.files(), {**before, "-shm": SERVER})
        self.books(self.serves())

    def test_inTheWay(self) -> None:
        """
        Files of another program that are in the way are named at the start,
        with their owner and a remedy; nothing else is touched.
        """
        ledger = self.serves()
        self.books(ledger)
        ledger.close()
        self.be(OTHER)
        uri = Path(self.path).as_uri() + "?mode=ro"
        # A file gets the mode of the ledger, which the group may not write.
        with closing(sqlite3.connect(uri, uri=True)) as other:
            other.execute("SELECT * FROM trade").fetchall()
        self.be(0)
        for end in ("-wal", "-shm"):
            os.chmod(self.path + end, 0o640)
            sentence = (
                f"{self.path}{end} is in the way: it belongs to user nobody, and user"
                " 54321, who runs this, may not read and write it; as root: chown"
                f" 54321 {self.path}{end}"
            )
            self.assertEqual(self.refused(SERVER), sentence)
            self.be(0)
            os.chown(self.path + end, SERVER, GROUP)
        self.books(self.serves())

    def test_ledgerOfOthers(self) -> None:
        """
        A ledger of another user, or a lock that can't even be read, is named
        at the start, with its owner and a remedy.
        """
        self.serves().close()
        self.be(0)
        for end in ("", ".lock"):
            os.chown(self.path + end, OTHER, OTHER)
            os.chmod(self.path + end, 0o600)
            self.assertIn(
                f"{self.path}{end} is in the way: it belongs to user nobody,",
                self.refused(SERVER),
            )
            self.be(0)
            os.chown(self.path + end, SERVER, GROUP)
        self.serves()

    def test_wrongUser(self) -> None:
        """
        Who is not the server's user is told to become it, and not to take the
        server's files away from it.
        """
        self.serves().close()
        self.be(0)
        os.chmod(self.path, 0o600)
        sentence = (
            f"{self.path} is in the way: it belongs to user 54321, and user nobody, who"
            " runs this, may not read and write it; run this as user 54321"
        )
        self.assertEqual(self.refused(OTHER), sentence)

    def test_readOnlyFolder(self) -> None:
        """
        If the user may not write to the ledger's folder, the start says so, whether
        or not there is a ledger.
        """
        os.chmod(self.folder, 0o2750)
        sentence = (
            f"this user may not write to the ledger {self.path}: give it write"
            " permission for that folder, or name another one"
        )
        self.assertEqual(self.refused(OTHER), sentence)
        self.serves().close()
        os.unlink(f"{self.path}.lock")
        self.assertEqual(self.refused(OTHER), sentence)

    def test_madeByRoot(self) -> None:
        """
        Files that root creates, as C{creditsync account add} does, belong to
        the owner of the folder, whose server starts.
        """
        ledger = self.serves(0)
        ledger.addAccounts([1001])
        self.assertEqual(set(self.files().values()), {SERVER})
        ledger.close()
        self.assertEqual(self.files(), {"": SERVER, ".lock": SERVER})
        self.books(self.serves())

    def test_lockOfOthers(self) -> None:
        """
        A lock that another user has created, as root did with older versions,
        works as well as one's own; only the number in it is not updated.
        """
        self.serves().close()
        self.be(0)
        os.chown(f"{self.path}.lock", 0, 0)
        os.chmod(f"{self.path}.lock", 0o644)
        ledger = self.serves()
        self.assertEqual(
            self.refused(SERVER),
            f"another process has the ledger {self.path} open: stop it first, or name"
            " another ledger",
        )
        ledger.close()
        # The next time that root has it, its owner is corrected.
        self.serves(0).close()
        self.assertEqual(self.files(), {"": SERVER, ".lock": SERVER})


class StatementTests(LedgerTestCase):
    """
    Tests for L{reading.statement}.
    """

    def statement(
        self, *period: int | None, login: int = 1001
    ) -> tuple[Account, list[tuple[int, int, int]]]:
        """
        The opening totals, and of each line the order and the totals after it.
        """
        with reading.reading(self.path) as ledger:
            found = reading.statement(ledger, login, *period)
            return found.opening, [
                (trade.order, after.balance, after.credit)
                for trade, after in found.lines
            ]

    def test_all(self) -> None:
        """
        Trades come by their time and then their number, with running totals
        that end as the account's.
        """
        self.assertEqual(
            self.statement(),
            (
                Account(1001, 0, 0),
                [(2, 0, 200), (1, 0, 400), (6, 0, 350), (3, 80, 350), (5, 60, 350)],
            ),
        )

    def test_period(self) -> None:
        """
        Trades before the period are included in the opening totals.
        """
        self.assertEqual(
            self.statement(1800, 1950),
            (Account(1001, 0, 200), [(1, 0, 400), (6, 0, 350), (3, 80, 350)]),
        )

    def test_nothingInPeriod(self) -> None:
        """
        A period without trades has opening totals too.
        """
        self.assertEqual(self.statement(1951), (Account(1001, 60, 350), []))

    def test_deleted(self) -> None:
        """
        A deleted trade has a line and does not count.
        """
        self.assertEqual(self.statement(login=1002), (Account(1002, 0, 0), [(4, 0, 0)]))

    def test_unknown(self) -> None:
        """
        An unknown account has no statement.
        """
        e = self.assertRaises(LedgerProblem, self.statement, login=1003)
        self.assertEqual(str(e), "there is no account 1003")


class CheckTests(LedgerTestCase):
    """
    Tests for L{problems}, each with one kind of fault planted.
    """

    def found(self) -> list[tuple[str, str]]:
        """
        The problems found.
        """
        with reading.reading(self.path) as ledger:
            return [(each.rule, each.message) for each in findings(ledger)]

    def rules(self) -> list[str]:
        """
        The rules that are broken.
        """
        return [rule for rule, _ in self.found()]

    def test_sound(self) -> None:
        """
        A ledger that was written normally has no problems, at rest or in use.
        """
        self.assertEqual(self.found(), [])
        self.opened()
        self.assertEqual(self.found(), [])

    def test_plantNothing(self) -> None:
        """
        Planting nothing causes no problem.
        """
        self.plant("")
        self.assertEqual(self.found(), [])

    def test_total(self) -> None:
        """
        Every total that isn't the sum of its trades is reported.
        """
        self.sql("UPDATE account SET credit = credit + 1, balance = balance + 2")
        self.assertEqual(
            self.found(),
            [
                (
                    "total",
                    "account 1001 has balance 62 and credit 351, but its trades add up"
                    " to balance 60 and credit 350",
                ),
                (
                    "total",
                    "account 1002 has balance 2 and credit 1, but its trades add up to"
                    " balance 0 and credit 0",
                ),
            ],
        )

    def test_tradePastTheTriggers(self) -> None:
        """
        A trade that moved no total is reported.
        """
        self.plant('UPDATE trade SET profit = profit + 1 WHERE "order" = 2')
        self.assertEqual(self.rules(), ["total", "trade"])

    def test_noAccount(self) -> None:
        """
        Logins that have trades and no account are reported, each once.
        """
        self.plant("DELETE FROM account")
        self.assertEqual(self.rules(), ["total", "total"])

    def test_negativeTotal(self) -> None:
        """
        A negative total is reported, even if it is the sum.
        """
        ledger = self.opened()
        taken = [booking(ledger.newOrder(), -450, cmd=CREDIT_OUT)]
        self.successResultOf(ledger.commit(withTotals(ledger, taken)))
        self.assertEqual(
            self.found(),
            [
                (
                    "negative-total",
                    "account 1001 has balance 60 and credit -100, and neither may be"
                    " below zero",
                )
            ],
        )

    def test_mark(self) -> None:
        """
        An order at the mark or above it is reported.
        """
        self.sql("UPDATE order_mark SET next_order = 6")
        self.assertEqual(
            self.found(), [("order-mark", "order 6 is not below the order mark 6")]
        )

    def test_noMark(self) -> None:
        """
        A missing mark is reported.
        """
        self.sql("DELETE FROM order_mark")
        self.assertEqual(self.found(), [("order-mark", "there is no order mark")])

    def test_sameOrderTwice(self) -> None:
        """
        One number for two trades is reported, which takes damage to the file
        itself.
        """
        with closing(sqlite3.connect(self.path)) as connection:
            [[page, size]] = connection.execute(
                "SELECT rootpage, page_size FROM sqlite_schema, pragma_page_size"
                " WHERE name = 'trade'"
            )
        data = bytearray(Path(self.path).read_bytes())
        start = (page - 1) * size
        # A cell has the length of its row and then the row's number; the list
        # of cells begins 8 bytes into the page.
        cell = start + int.from_bytes(data[start + 10 : start + 12], "big")
        self.assertEqual(data[cell + 1], 2)
        data[cell + 1] = 1
        Path(self.path).write_bytes(data)
        self.assertIn("Rowid 1 out of order", self.found()[0][1])
        self.assertEqual(self.found()[0][0], "integrity")

    def test_changedTrade(self) -> None:
        """
        A trade or a total that was changed past the journal is reported, whatever
        was changed, and so is a trade that was removed or added.
        """
        for script, rules in (
            ("UPDATE trade SET comment = 'x' WHERE \"order\" = 3", ["trade"]),
            ('UPDATE trade SET open_time = 17 WHERE "order" = 3', ["trade"]),
            ('UPDATE trade SET close_time = 17 WHERE "order" = 3', ["trade"]),
            ('UPDATE trade SET timestamp = 17 WHERE "order" = 3', ["trade"]),
            ('UPDATE trade SET cmd = 5 WHERE "order" = 3', ["total", "trade"]),
            ('UPDATE trade SET state = 6 WHERE "order" = 3', ["total", "trade"]),
            ('UPDATE trade SET profit = 81 WHERE "order" = 3', ["total", "trade"]),
            ('UPDATE trade SET revision = 1 WHERE "order" = 3', ["revision"]),
            ('UPDATE trade SET revision = 0 WHERE "order" = 1', ["revision"]),
            (
                'UPDATE trade SET place = 4 WHERE "order" = 3',
                ["trade"],
            ),
            (
                'UPDATE trade SET place = 1, profit = 100 WHERE "order" = 1',
                ["total", "last-change"],
            ),
            (
                'DELETE FROM trade WHERE "order" = 3',
                ["total", "last-change"],
            ),
            (
                "INSERT INTO trade SELECT 0, login, cmd, 6, profit, comment, open_time,"
                ' close_time, timestamp, 0, 1 FROM trade WHERE "order" = 3',
                ["trade"],
            ),
        ):
            before = Path(self.path).read_bytes()
            self.plant(script)
            self.assertEqual((script, self.rules()), (script, rules))
            Path(self.path).write_bytes(before)

    def test_changedJournal(self) -> None:
        """
        A row of the journal that was changed, removed, added or moved is reported,
        also by somebody who has put the triggers back.
        """
        row = (
            "SELECT {0}, type, 3, login, cmd, state, profit, comment, open_time,"
            " close_time, timestamp, 60, 350, principal, role, command, 0, NULL, NULL,"
            " NULL, {1} FROM journal WHERE place = 3"
        )
        for script, rules in (
            ("UPDATE journal SET comment = 'x' WHERE place = 2", ["trade", "chain"]),
            ("UPDATE journal SET command = 'x' WHERE place = 7", ["chain"]),
            ("UPDATE journal SET principal = 8 WHERE place = 7", ["chain"]),
            ("UPDATE journal SET role = 3 WHERE place = 7", ["chain"]),
            ("UPDATE journal SET key = 'x' WHERE place = 7", ["chain"]),
            ("UPDATE journal SET key = NULL WHERE place = 7", ["chain"]),
            (
                "UPDATE journal SET balance = 1 WHERE place = 7",
                ["total-after", "chain"],
            ),
            (
                "UPDATE journal SET balance = NULL WHERE place = 7",
                ["recorded", "chain"],
            ),
            ("UPDATE journal SET hash = zeroblob(32) WHERE place = 8", ["chain"]),
            # The next link follows from the changed one.
            ("UPDATE journal SET hash = zeroblob(32) WHERE place = 7", ["chain"] * 2),
            ("UPDATE journal SET hash = NULL WHERE place = 8", ["chain"]),
            ("DELETE FROM journal WHERE place = 8", ["trade", "revision", "life"][:2]),
            (
                "DELETE FROM journal WHERE place = 5",
                ["trade", "place", "total-after", "chain"],
            ),
            (
                "UPDATE journal SET place = 99 WHERE place = 3;"
                "UPDATE journal SET place = 3 WHERE place = 5;"
                "UPDATE journal SET place = 5 WHERE place = 99",
                ["trade"] * 2
                + ["last-change"]
                + ["total-after", "chain", "total-after", "total-after", "chain"],
            ),
            (
                f"INSERT INTO journal {row.format(9, 'NULL')}",
                ["last-change", "revision", "total-after", "chain"],
            ),
        ):
            before = Path(self.path).read_bytes()
            self.plant(script)
            self.assertEqual((script, self.rules()), (script, rules))
            Path(self.path).write_bytes(before)

    def rewritten(self, script: str) -> list[tuple[str, str]]:
        """
        The problems in a journal that was changed together with its hashes, as an
        auditor would compute them: without any code of the server.
        """
        self.plant(script)
        hash, rows = bytes(32), b""
        with closing(sqlite3.connect(self.path)) as connection:
            found = connection.execute(
                "SELECT * FROM journal ORDER BY place"
            ).fetchall()
        for *row, end in found:
            rows += json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()
            rows += b"\n"
            if end is not None:
                hash, rows = hashlib.sha256(hash + rows).digest(), b""
                self.plant(
                    f"UPDATE journal SET hash = x'{hash.hex()}' WHERE place = {row[0]}"
                )
        return self.found()

    def test_recomputed(self) -> None:
        """
        Somebody who recomputes the hashes with other tools gets those of the ledger.
        """
        with closing(sqlite3.connect(self.path)) as connection:
            before = connection.execute("SELECT * FROM link").fetchall()
        self.assertEqual(self.rewritten(""), [])
        with closing(sqlite3.connect(self.path)) as connection:
            self.assertEqual(
                connection.execute("SELECT * FROM link").fetchall(), before
            )
        self.assertEqual(
            [row[:2] for row in before], [(1, 2), (3, 4), (5, 6), (7, 7), (8, 8)]
        )

    def test_rules(self) -> None:
        """
        What no server would have booked is reported, although hashes and trades
        agree.
        """
        for script, problem in (
            (
                "SET login = 0 WHERE place = 4",
                (
                    "login",
                    "place 4 of the journal has login 0, which is not a valid login",
                ),
            ),
            (
                "SET cmd = 5 WHERE place = 3",
                (
                    "cmd",
                    "place 3 of the journal has cmd 5, which is not in the table"
                    " operation",
                ),
            ),
            (
                "SET profit = -80 WHERE place = 3",
                (
                    "sign",
                    "place 3 of the journal has cmd 6 and profit -80: the sign is"
                    " wrong",
                ),
            ),
            (
                "SET profit = 0 WHERE place = 6",
                (
                    "sign",
                    "place 6 of the journal has cmd 9 and profit 0: the sign is wrong",
                ),
            ),
            (
                "SET close_time = open_time - 1 WHERE place = 3",
                ("times", "place 3 of the journal opens at 1900 and closes at 1899"),
            ),
            (
                "SET asked_order = 2 WHERE place = 7",
                (
                    "asked",
                    "place 7 of the journal booked order 1, but requested another order"
                    " or other times",
                ),
            ),
            (
                "SET asked_open_time = 17 WHERE place = 1",
                (
                    "asked",
                    "place 1 of the journal booked order 1, but requested another order"
                    " or other times",
                ),
            ),
            (
                "SET asked_close_time = 17 WHERE place = 1",
                (
                    "asked",
                    "place 1 of the journal booked order 1, but requested another order"
                    " or other times",
                ),
            ),
            (
                "SET type = 0 WHERE place = 7",
                (
                    "total-after",
                    "place 7 has balance 60 and credit 350 of account 1001, expected"
                    " 60 and 450",
                ),
            ),
            (
                'SET type = 0, "order" = 4, login = 1002 WHERE place = 3',
                ("change", "place 4 adds order 4, which exists"),
            ),
            (
                "SET type = 1, asked_order = 3 WHERE place = 3",
                ("change", "place 3 changes order 3, which does not exist"),
            ),
            (
                "SET type = 2 WHERE place = 7",
                ("change", "place 7 has type 2, but state 3"),
            ),
            (
                "SET login = 1002 WHERE place = 7",
                ("change", "place 7 changes order 1 to another login or another cmd"),
            ),
            (
                "SET command = NULL WHERE place = 3",
                ("recorded", "place 3 has no command"),
            ),
            (
                "SET credit = 301 WHERE place = 3",
                (
                    "total-after",
                    "place 3 has balance 80 and credit 301 of account 1001, expected"
                    " 80 and 300",
                ),
            ),
        ):
            before = Path(self.path).read_bytes()
            found = self.rewritten(f"UPDATE journal {script}")
            self.assertIn(problem, found)
            self.assertNotIn("chain", [rule for rule, _ in found])
            Path(self.path).write_bytes(before)

    def test_changedAfterDeletion(self) -> None:
        """
        A trade that was changed after it was deleted is reported.
        """
        ledger = self.opened()
        again = [booking(4, 7, login=1002, type=UPDATE)]
        self.successResultOf(ledger.commit(withTotals(ledger, again)))
        self.assertEqual(
            self.found(), [("change", "place 9 changes order 4, which was deleted")]
        )

    def test_noted(self) -> None:
        """
        A hash that was noted earlier is found, unless the journal was rewritten
        before it or its end was removed. That of an empty journal proves nothing.
        """
        with closing(sqlite3.connect(self.path)) as connection:
            hashes = [hash for (hash,) in connection.execute("SELECT hash FROM link")]
        for hash, rules in ((bytes(32), ["head"]), *((each, []) for each in hashes)):
            with reading.reading(self.path) as ledger:
                self.assertEqual([each.rule for each in findings(ledger, hash)], rules)
        self.rewritten("UPDATE journal SET principal = 8 WHERE place = 3")
        for hash, rules in zip(hashes, [[], *[["head"]] * 4], strict=True):
            with reading.reading(self.path) as ledger:
                self.assertEqual([each.rule for each in findings(ledger, hash)], rules)

    def test_life(self) -> None:
        """
        Lives that the journal can't have had are reported.
        """
        for script in (
            "DELETE FROM life",
            "UPDATE life SET head = 9",
            "UPDATE life SET number = 2",
            "UPDATE life SET cause = 'copied'",
            "UPDATE life SET head = 8",
            "UPDATE life SET epoch = 'ABCDEF01'",
            "UPDATE life SET epoch = 'abcdef012'",
            "INSERT INTO life VALUES (2, 'abcdef01', 3, 'restored', 0)",
            "INSERT INTO life VALUES (2, 'abcdef01', 3, 'created', 0)",
            "INSERT INTO life VALUES (2, 'abcdef01', 3, 'copied', 0),"
            " (3, 'abcdef02', 2, 'copied', 0)",
        ):
            before = Path(self.path).read_bytes()
            self.plant(script)
            self.assertEqual((script, self.rules()), (script, ["life"]))
            Path(self.path).write_bytes(before)
        before = Path(self.path).read_bytes()
        self.plant("INSERT INTO life VALUES (2, 'abcdef01', 3, 'copied', 0)")
        self.assertEqual(self.found(), [])
        Path(self.path).write_bytes(before)
        # As if nothing had to be recorded up to place 2.
        self.plant("UPDATE life SET cause = 'upgraded', head = 2")
        self.assertEqual(
            self.found(),
            [
                ("recorded", f"place {place} has totals from before the upgrade")
                for place in (1, 2)
            ],
        )

    def test_account(self) -> None:
        """
        An account that no request can name is reported.
        """
        self.plant("INSERT INTO account VALUES (-1, 0, 0, '')")
        self.assertEqual(
            self.found(), [("account", "account -1 does not have a valid login")]
        )

    def test_refused(self) -> None:
        """
        The database itself refuses to change, delete or replace what is in the
        journal, and to change what lives the ledger had.
        """
        before = Path(self.path).read_bytes()
        for script in (
            "UPDATE journal SET comment = 'x'",
            "UPDATE OR REPLACE journal SET comment = 'x'",
            "DELETE FROM journal",
            "DELETE FROM journal WHERE place = 8",
            "INSERT OR REPLACE INTO journal SELECT * FROM journal WHERE place = 3",
            # The last one; one with the key of an older one, in the next place; and
            # one in a place further on.
            "INSERT OR REPLACE INTO journal"
            " SELECT * FROM journal ORDER BY place DESC LIMIT 1",
            f"INSERT OR REPLACE INTO journal SELECT"
            f" (SELECT max(place) + 1 FROM journal), {_BUT_PLACE}"
            f" FROM journal WHERE key = 'first'",
            f"INSERT INTO journal SELECT place + 2, {_BUT_PLACE}"
            f" FROM journal ORDER BY place DESC LIMIT 1",
            "UPDATE link SET hash = NULL",
            "DELETE FROM link",
            "UPDATE life SET epoch = 'x'",
            "DELETE FROM life",
            "INSERT OR REPLACE INTO life SELECT * FROM life",
            "INSERT OR REPLACE INTO life"
            " SELECT number + 1, epoch, head, cause, timestamp FROM life",
        ):
            e = self.assertRaises(sqlite3.Error, self.sql, script)
            self.assertIn(type(e), (sqlite3.IntegrityError, sqlite3.OperationalError))
        self.assertEqual(Path(self.path).read_bytes(), before)

    def test_triggerMissing(self) -> None:
        """
        A missing trigger is reported, since totals would no longer move.
        """
        for name in (
            "journal_appended",
            "journal_booked",
            "journal_updated",
            "journal_deleted",
            "trade_kept",
            "life_continued",
            "life_updated",
            "life_deleted",
        ):
            before = Path(self.path).read_bytes()
            self.sql(f"DROP TRIGGER {name}")
            self.assertEqual(
                self.found(), [("schema", f"the trigger {name} is missing")]
            )
            Path(self.path).write_bytes(before)

    def test_triggerChanged(self) -> None:
        """
        A trigger that was changed is reported.
        """
        self.sql(
            "DROP TRIGGER journal_updated;"
            "CREATE TRIGGER journal_updated BEFORE UPDATE ON journal"
            " BEGIN SELECT 1; END"
        )
        self.assertEqual(
            self.found(),
            [("schema", "the trigger journal_updated is not what creditsync made")],
        )

    def test_triggerAdded(self) -> None:
        """
        A trigger that was added is reported; an added index does no harm.
        """
        self.sql(
            "CREATE INDEX theirs ON trade (login);"
            "CREATE TRIGGER extra AFTER INSERT ON trade BEGIN SELECT 1; END"
        )
        self.assertEqual(self.found(), [("schema", "unexpected trigger extra")])

    def test_tableMissing(self) -> None:
        """
        Without a table the check ends early, and says so.
        """
        self.sql("DROP TABLE life")
        found = self.found()
        self.assertEqual(found[0], ("schema", "the table life is missing"))
        self.assertEqual(found[-1][0], "unreadable")
        self.assertIn("no such table: life", found[-1][1])

    def test_damagedPage(self) -> None:
        """
        A page that was overwritten ends the check early.
        """
        with closing(sqlite3.connect(self.path)) as connection:
            [[page, size]] = connection.execute(
                "SELECT rootpage, page_size FROM sqlite_schema, pragma_page_size"
                " WHERE name = 'journal'"
            )
        with open(self.path, "r+b") as file:
            file.seek((page - 1) * size)
            file.write(b"\xff" * size)
        self.assertEqual(self.rules()[-1], "unreadable")


class BackUpTests(LedgerTestCase):
    """
    Tests for L{backUp}.
    """

    def setUp(self) -> None:
        """
        Choose the name of the copy.
        """
        super().setUp()
        self.copy = os.path.join(self.folder, "copy.db")

    def refusedCopy(self, kind: type[LedgerProblem], **more: Any) -> str:
        """
        The message with which a copy fails; nothing is left of it.
        """
        e = self.assertRaises(kind, backUp, self.path, self.copy, **more)
        self.assertFalse(os.path.exists(self.copy + ".part"))
        return str(e)

    def files(self) -> list[str]:
        """
        The files of the copy.
        """
        return sorted(name for name in os.listdir(self.folder) if "copy" in name)

    def test_inUse(self) -> None:
        """
        A copy beside a server has the committed trades, in one file, and is a
        ledger that can be used.
        """
        server = self.opened()
        order = server.newOrder()
        self.successResultOf(server.commit(withTotals(server, [booking(order, 17)])))
        backUp(self.path, self.copy)
        self.successResultOf(
            server.commit(withTotals(server, [booking(server.newOrder(), 18)]))
        )
        self.assertEqual(self.files(), ["copy.db"])
        self.path = self.copy
        copy = self.opened()
        self.assertEqual(order, 7)
        self.assertEqual(copy.trade(7), booking(7, 17).trade)
        self.assertIsNone(copy.trade(8))
        self.assertEqual(copy.account(1001), Account(1001, 60, 367))

    def lives(self, path: str) -> list[Any]:
        """
        The lives of a ledger: the epochs, and the rest of each row.
        """
        with reading.reading(path) as ledger:
            return ledger.execute(
                "SELECT epoch, number, head, cause FROM life"
            ).fetchall()

    def test_newLife(self) -> None:
        """
        A copy has an epoch of its own, and so has a copy of it; the ledger goes on
        with the one it had.
        """
        backUp(self.path, self.copy)
        second = os.path.join(self.folder, "copy2.db")
        backUp(self.copy, second)
        [(epoch, *created)] = self.lives(self.path)
        self.assertEqual(created, [1, 0, "created"])
        first, (other, *copied) = self.lives(self.copy)
        self.assertEqual(first, (epoch, *created))
        self.assertEqual(copied, [2, 8, "copied"])
        *before, (third, *again) = self.lives(second)
        self.assertEqual(before, [first, (other, *copied)])
        self.assertEqual(again, [3, 8, "copied"])
        self.assertEqual(len({epoch, other, third}), 3)
        server = self.opened()
        self.assertEqual((server.epoch, server.newOrder()), (epoch, 7))
        self.path = second
        self.assertEqual(self.opened().epoch, third)

    def test_movedOn(self) -> None:
        """
        A copy assigns numbers that the ledger never reaches, and not those that
        another copy assigns.
        """
        second = os.path.join(self.folder, "copy2.db")
        backUp(self.path, self.copy)
        backUp(self.path, second)
        orders = []
        for path in (self.copy, second):
            self.path = path
            copy = self.opened()
            orders.append(copy.newOrder())
            copy.close()
        for order in orders:
            # 2^53 / 256 and / 32, to the next 10^9, and the first behind that.
            self.assertGreater(order, 35_184_372_088_832)
            self.assertLess(order, 281_474_976_710_656 + 1_000_000_000)
            self.assertEqual(order % 1_000_000_000, 1)
        self.assertNotEqual(*orders)

    def test_manyGenerations(self) -> None:
        """
        Hundreds of copies of copies have numbers left, each above all before.
        """
        mark = 7
        for _ in range(400):
            moved = copying.movedOn(mark)
            self.assertGreater(moved, mark + (2**53 - mark) // 256 - 1)
            mark = moved
        self.assertLess(mark, 2**53 - 100_000_000)

    def test_goesOn(self) -> None:
        """
        A server on a copy books behind what the copy has, and the journal of the
        copy continues.
        """
        backUp(self.path, self.copy)
        self.path = self.copy
        copy = self.opened()
        order = copy.newOrder()
        self.successResultOf(copy.commit(withTotals(copy, [booking(order, 17)])))
        self.assertEqual(copy.head, 9)
        with reading.reading(self.path) as ledger:
            self.assertEqual(list(findings(ledger)), [])

    def test_atRest(self) -> None:
        """
        A ledger that no server has open is copied too.
        """
        backUp(self.path, self.copy)
        with reading.reading(self.copy) as ledger:
            self.assertEqual(reading.counts(ledger)["trades"], 6)
            self.assertEqual(
                ledger.execute("PRAGMA journal_mode").fetchone(), ("delete",)
            )

    def test_notReplaced(self) -> None:
        """
        An existing file is not replaced.
        """
        Path(self.copy).write_text("precious")
        self.assertEqual(
            self.refusedCopy(LedgerProblem),
            f"{self.copy} already exists and is not replaced",
        )
        self.assertEqual(Path(self.copy).read_text(), "precious")

    def test_replaced(self) -> None:
        """
        An existing file is replaced if that is requested.
        """
        Path(self.copy).write_text("old")
        backUp(self.path, self.copy, overwrite=True)
        with reading.reading(self.copy) as ledger:
            self.assertEqual(reading.counts(ledger)["trades"], 6)

    def test_ledgerItself(self) -> None:
        """
        The ledger is never replaced by its own copy, nor is a file beside it.
        """
        ledger = self.path
        for self.copy in [ledger, f"{ledger}-wal", f"{ledger}-shm", f"{ledger}.lock"]:
            said = self.refusedCopy(LedgerProblem, overwrite=True)
            self.assertIn("is part of the ledger itself", said)
        os.symlink(ledger, os.path.join(self.folder, "link.db"))
        self.copy = os.path.join(self.folder, "link.db")
        self.assertIn(
            "is part of the ledger itself",
            self.refusedCopy(LedgerProblem, overwrite=True),
        )

    def test_inUseAsCopy(self) -> None:
        """
        A WAL file beside the copy's name is refused: it would be taken for a
        part of the copy.
        """
        Path(self.copy + "-wal").touch()
        self.assertIn(
            "copy.db may be in use", self.refusedCopy(LedgerProblem, overwrite=True)
        )

    def test_leftover(self) -> None:
        """
        The rest of a killed copy is not in the way.
        """
        Path(self.copy + ".part").write_text("half" * 5000)
        backUp(self.path, self.copy)
        self.assertEqual(self.files(), ["copy.db"])

    def test_twoAtOnce(self) -> None:
        """
        Two copies to one file don't mix.
        """
        with open(self.copy + ".part", "wb") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            e = self.assertRaises(LedgerInUse, backUp, self.path, self.copy)
        self.assertEqual(str(e), f"another process is copying to {self.copy}")
        self.assertEqual(self.files(), ["copy.db.part"])

    def test_renamedMeanwhile(self) -> None:
        """
        A part that was renamed between its opening and its lock is left alone:
        it is the other process's copy.
        """

        def flock(file: int, how: int) -> None:
            os.rename(self.copy + ".part", self.copy)

        Path(self.copy + ".part").write_text("whole")
        self.patch(fcntl, "flock", flock)
        self.assertRaises(LedgerInUse, backUp, self.path, self.copy)
        self.assertEqual(Path(self.copy).read_text(), "whole")

    def test_damaged(self) -> None:
        """
        A copy that doesn't pass the check is not kept.
        """
        self.sql("UPDATE account SET credit = 1")
        self.assertIn(
            "is not sound and was not kept: account 1001 has",
            self.refusedCopy(LedgerDamaged),
        )
        self.assertEqual(self.files(), [])

    def test_mode(self) -> None:
        """
        The copy is readable only by those who may read the ledger.
        """
        os.chmod(self.path, 0o600)
        backUp(self.path, self.copy)
        self.assertEqual(stat.S_IMODE(os.stat(self.copy).st_mode), 0o600)

    def test_noLedger(self) -> None:
        """
        Without a ledger there is no copy.
        """
        self.path += ".no"
        self.assertIn("there is no ledger", self.refusedCopy(LedgerProblem))

    def test_noFolder(self) -> None:
        """
        A missing folder is named.
        """
        self.copy = os.path.join(self.folder, "no", "copy.db")
        said = self.refusedCopy(LedgerProblem)
        self.assertIn(f"the copy {self.copy} can't be made", said)
        self.assertIn("No such file or directory", said)

    def test_noSpace(self) -> None:
        """
        If the disk of the copy is full the message names the copy, and not the
        ledger.
        """
        whole = sqlite3.connect

        class Full(sqlite3.Connection):
            """
            A connection to a disk with one page left.
            """

            def __init__(self, *arguments: Any, **more: Any) -> None:
                super().__init__(*arguments, **more)
                self.execute("PRAGMA max_page_count = 1")

        def connect(path: str, **more: Any) -> sqlite3.Connection:
            if path.endswith(".part"):
                more["factory"] = Full
            return whole(path, **more)

        self.patch(copying.sqlite3, "connect", connect)
        self.assertIn(
            f"the copy {self.copy}.part can't be made: database or disk is full",
            self.refusedCopy(LedgerProblem),
        )

    def test_onDisk(self) -> None:
        """
        The copy and then its new name are synced.
        """
        synced = []

        def fsync(file: int) -> None:
            synced.append(os.readlink(f"/proc/self/fd/{file}"))

        if not os.path.exists("/proc/self/fd"):
            self.skipTest("needs /proc")
        self.patch(os, "fsync", fsync)
        backUp(self.path, self.copy)
        self.assertEqual(synced, [self.copy + ".part", self.folder])

    def test_crashedLedger(self) -> None:
        """
        Commits that a killed server left in its WAL file are in the copy.
        """
        server = self.opened()
        self.successResultOf(
            server.commit(withTotals(server, [booking(server.newOrder(), 17)]))
        )
        crashed = os.path.join(self.folder, "crashed.db")
        for end in ("", "-wal"):
            shutil.copy(self.path + end, crashed + end)
        backUp(crashed, self.copy)
        with reading.reading(self.copy) as ledger:
            self.assertEqual(reading.counts(ledger)["trades"], 7)


class RevisionTests(LedgerTestCase):
    """
    Tests for how the ledger counts the changes of a trade.
    """

    def revisions(self, table: str) -> list[Any]:
        """
        The revision of each row, by order.
        """
        with reading.reading(self.path) as ledger:
            return ledger.execute(
                f'SELECT "order", revision FROM {table} ORDER BY "order", revision'
            ).fetchall()

    def test_changes(self) -> None:
        """
        Each change of a trade counts, with a key or without, and each of
        several in one batch.
        """
        ledger = self.opened()
        self.successResultOf(
            ledger.commit(
                withTotals(
                    ledger,
                    [
                        booking(2, 5, type=UPDATE),
                        booking(2, 6, type=UPDATE, key="second"),
                        booking(2, 7, type=UPDATE),
                    ],
                )
            )
        )
        self.successResultOf(
            ledger.commit(withTotals(ledger, [booking(2, 8, type=UPDATE)]))
        )
        self.assertEqual(
            self.revisions("trade"), [(1, 1), (2, 4), (3, 0), (4, 1), (5, 0), (6, 0)]
        )
