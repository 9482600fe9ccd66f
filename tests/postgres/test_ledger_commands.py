"""
Tests for the commands that read a ledger, or add to it, on a real PostgreSQL.
"""

import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from threading import Thread

import psycopg
import pytest

from creditsync.__main__ import main
from creditsync.postgres._reading import reading
from tests.postgres import ground
from tests.postgres.engine import NOW, Node, makeTables
from tests.postgres.test_book import credit, deletion
from tests.postgres.test_importing import ImportCase

pytestmark = pytest.mark.timeout(120)


class SameOutputTests(ImportCase):
    """
    A ledger that was imported is printed as it was on SQLite.
    """

    def setUp(self) -> None:
        """
        Import a ledger with the changes that are typical of one.
        """
        super().setUp()
        self.fill()
        self.run_("import", "ledger.db", "--ledger", self.address)

    def assertSame(self, *arguments: str) -> str:
        """
        Check that a command prints the same of both.

        @return: That.
        """
        there = self.run_(*arguments, "--ledger", self.address)
        self.assertEqual(there, self.run_(*arguments, "--ledger", "ledger.db"))
        return there

    def test_statement(self) -> None:
        """
        So is a statement, with or without a period.
        """
        lines = self.assertSame("statement", "1001").splitlines()
        self.assertIn("closing", lines[-1])
        self.assertIn(" 350.50", lines[-1])
        self.assertSame("statement", "1001", "--from", str(NOW), "--to", str(NOW + 1))

    def test_history(self) -> None:
        """
        So is each change.
        """
        lines = self.assertSame("statement", "1001", "--history").splitlines()
        self.assertIn("update credit-in", lines[-2])
        self.assertIn("delete credit-in", lines[-1])
        self.assertSame("statement", "1001", "--history", "--to", str(NOW))

    def test_totalsThen(self) -> None:
        """
        So are the totals at a time.
        """
        self.assertIn(" 350.50", self.assertSame("statement", "1001", "--at", str(NOW)))

    def test_export(self) -> None:
        """
        So are its trades and its journal, from the first place or a later one.
        """
        trades = self.assertSame("export").splitlines()
        self.assertTrue(trades[0].startswith("order,login,cmd"))
        self.assertSame("export", "--login", "1001", "--iso")
        rows = self.assertSame("export", "--journal").splitlines()
        self.assertEqual(len(rows), self.head)
        self.assertEqual(
            rows[-1],
            self.assertSame(
                "export", "--journal", "--since", json.loads(rows[-2])["cursor"]
            ).rstrip("\n"),
        )

    def test_goneCursor(self) -> None:
        """
        A cursor of another ledger is an error.
        """
        gone = ("export", "--journal", "--since", "00000000-1")
        sentence = self.fails(*gone, "--ledger", self.address)
        self.assertIn("00000000-1 is not one of the ledger", sentence)

    def test_goesOn(self) -> None:
        """
        It is sound after a node has booked, too.
        """
        node = Node(self.database, number=3)
        self.addCleanup(node.connection.close)
        self.database.rows("UPDATE block SET next = 64000000")
        for keys in ("abc", "def", "ghi"):
            node.book(*(credit(key=key) for key in keys))
        said = self.run_("check", "--ledger", self.address)
        self.assertIn(f"head: place {self.head + 9}, hash ", said)

    def test_accounts(self) -> None:
        """
        So are its accounts, with their groups.
        """
        self.assertIn("  vip\n", self.assertSame("account", "list"))

    def test_check(self) -> None:
        """
        It is sound, with as much in it and with the same head.
        """
        here = self.run_("check", "--ledger", "ledger.db")
        there = self.run_("check", "--ledger", self.address)
        self.assertEqual(there, here.replace("ledger.db", self.address))


class CommandTests(ImportCase):
    """
    The commands on a ledger in which nodes have booked.
    """

    def setUp(self) -> None:
        """
        Book what leaves a row in each table.
        """
        super().setUp()
        makeTables(self.database)
        node = Node(self.database)
        node.book(credit(key="a"), credit(500, login=1002))
        node.book(credit(200, order=1_000_000), credit(key="b", comment='"\x07 é😀'))
        Node(self.database, 2).book(deletion(1_000_001))
        self.database.rows("UPDATE block SET next = 64000000")
        node.rows("SELECT move_1(1, 1001, 'vip', true)")
        self.addCleanup(node.connection.close)

    def problems(self) -> list[tuple[str, str]]:
        """
        What check finds.
        """
        text = self.printedBy("check", "--json", "--ledger", self.address)
        found = json.loads(text)
        return [(each["rule"], each["message"]) for each in found["problems"]]

    def printedBy(self, *arguments: str) -> str:
        """
        What a command prints that ends with status 1.
        """
        self.patch(sys, "argv", ["creditsync", *arguments])
        output = io.StringIO()
        with redirect_stdout(output):
            e = self.assertRaises(SystemExit, main)
        self.assertEqual(e.code, 1)
        return output.getvalue()

    def test_sound(self) -> None:
        """
        What nodes have booked is sound, and the head can be noted.
        """
        said = self.run_("check", "--ledger", self.address)
        self.assertIn("is sound: 3 trades, 2 accounts, 2 keys\nhead: place 5,", said)
        head = said.split()[-1]
        self.run_("check", "--head", head, "--ledger", self.address)
        said = self.printedBy("check", "--head", "ab" * 32, "--ledger", self.address)
        self.assertIn("head: no commit has the hash abab", said)

    def assertFound(self, damage: str, *expected: tuple[str, str]) -> None:
        """
        Check that all of this is found after a change to the tables.
        """
        self.database.rows(damage)
        problems = self.problems()
        for each in expected:
            self.assertIn(each, problems)

    def test_changedRow(self) -> None:
        """
        A row that was changed does not have its hash, nor does its trade follow.
        """
        self.assertFound(
            "UPDATE event SET profit = 301 WHERE seq = 1",
            (
                "chain",
                "the hash of places 1 to 2 is not the hash of their rows after"
                " the one before",
            ),
            (
                "total-after",
                "place 1 has balance 0 and credit 300 of account 1001,"
                " expected 0 and 301",
            ),
        )

    def test_missingRow(self) -> None:
        """
        A row that is missing leaves a gap.
        """
        self.assertFound(
            "DELETE FROM event WHERE seq = 2",
            ("place", "the journal has place 3 where 2 should be"),
        )

    def test_trade(self) -> None:
        """
        A trade is what the journal's last row of it made it.
        """
        self.assertFound(
            "UPDATE trade SET comment = 'x' WHERE \"order\" = 1000000",
            ("trade", "order 1000000 is not what place 3 of the journal made it"),
        )

    def test_method(self) -> None:
        """
        The methods are those of this creditsync.
        """
        self.database.rows("UPDATE operation SET sign = -sign WHERE cmd = 7")
        self.assertLessEqual(
            {"operation", "sign"}, {rule for rule, _ in self.problems()}
        )

    def test_total(self) -> None:
        """
        A total that is not the sum of its trades is found.
        """
        self.assertFound(
            "INSERT INTO opened (login, credit) VALUES (1009, 7)",
            (
                "total",
                "account 1009 has balance 0 and credit 7, but its trades add up"
                " to balance 0 and credit 0",
            ),
        )

    def test_link(self) -> None:
        """
        Commits follow one another, and have the rows that name them.
        """
        self.assertFound(
            "UPDATE link SET lo = 2 WHERE lo = 1",
            (
                "link",
                "the commit of places 2 to 2 does not begin behind the one before it",
            ),
            ("batch", "place 1 of the journal is not in the commit that it names"),
        )

    def test_batch(self) -> None:
        """
        The commits of a node are in its order, and the rows of a commit in theirs.
        """
        self.assertFound(
            "UPDATE link SET batch = 9 WHERE lo = 1;"
            " UPDATE event SET batch = 9 WHERE seq <= 2;"
            " UPDATE event SET item = 1 WHERE seq = 2",
            (
                "batch",
                "the commit of places 3 to 4 was made before an earlier one of"
                " its node",
            ),
            ("batch", "place 2 of the journal is not in the order of its commit"),
        )

    def test_node(self) -> None:
        """
        A node that has booked is known.
        """
        self.assertFound(
            "DELETE FROM node WHERE id = 2",
            ("node", "node 2 has booked, but is not in the table node"),
        )

    def test_keys(self) -> None:
        """
        Keys are those of the journal.
        """
        self.assertFound(
            "UPDATE keyed SET key = 'c' WHERE key = 'b'",
            (
                "key",
                "principal 7 has the key c, under which the journal has booked nothing",
            ),
        )
        self.assertFound(
            "DELETE FROM keyed WHERE key = 'c'",
            ("key", "place 4 of the journal has a key that is not in the table keyed"),
        )

    def test_life(self) -> None:
        """
        The epoch is that of the last life.
        """
        self.assertFound(
            "UPDATE stream SET epoch = 'ffffffff'",
            (
                "life",
                "the journal has the epoch ffffffff, but its last life has 0a1b2c3d",
            ),
        )

    def test_group(self) -> None:
        """
        An account has the group to which it was moved last.
        """
        self.assertFound(
            """UPDATE opened SET "group" = 'others' WHERE login = 1001""",
            (
                "group",
                "account 1001 was moved to the group vip last, and has another one",
            ),
        )

    def test_mark(self) -> None:
        """
        All orders are of numbers that were reserved.
        """
        self.assertFound(
            "UPDATE block SET next = 64",
            ("order-mark", "order 1000003 is not below the order mark 64"),
        )

    def test_schema(self) -> None:
        """
        A function that was replaced, an index that was dropped, a trigger and a table
        that a crash empties are found.
        """
        self.assertFound(
            "CREATE OR REPLACE FUNCTION move_1(this_stream integer, this_login bigint,"
            " this_group text, known_only boolean) RETURNS bigint"
            " LANGUAGE sql AS 'SELECT 1::bigint';"
            " ALTER TABLE link DROP CONSTRAINT link_node_batch_key;"
            " CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql"
            "     AS 'BEGIN RETURN NEW; END';"
            " CREATE TRIGGER odd BEFORE INSERT ON event FOR EACH ROW"
            "     EXECUTE FUNCTION nothing();"
            " ALTER TABLE moved SET UNLOGGED",
            ("schema", "the function move_1 is not the one of this creditsync"),
            (
                "schema",
                "table link may have the same node,batch twice: an index is missing",
            ),
            ("schema", "table event has the trigger odd"),
            ("schema", "table moved is not kept over a crash: it is unlogged"),
        )

    def test_rightToRead(self) -> None:
        """
        A role that may only read is enough.
        """
        role = f"reader_{self.database.name}"
        self.database.rows(
            f"CREATE ROLE {role} LOGIN;"
            f" ALTER ROLE {role} SET default_transaction_read_only = on;"
            f" GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"
        )
        self.addCleanup(self.database.rows, f"DROP OWNED BY {role}; DROP ROLE {role}")
        address = self.address.replace(f"{ground.SUPERUSER}@", f"{role}@")
        self.assertIn("is sound", self.run_("check", "--ledger", address))
        self.assertIn("vip", self.run_("account", "list", "--ledger", address))
        self.database.rows(f"ALTER ROLE {role} RESET default_transaction_read_only")
        refused = self.fails("account", "add", "--ledger", address, "1003")
        self.assertIn(
            f"; as the owner of the tables: GRANT UPDATE ON stream TO {role};"
            f" GRANT INSERT, UPDATE ON opened TO {role};"
            f" GRANT INSERT ON moved TO {role}",
            refused,
        )

    def test_addAccounts(self) -> None:
        """
        Accounts are added beside nodes, which learn their groups; one that exists
        keeps its own.
        """
        add = ("account", "add", "--ledger", self.address, "--group", "new")
        said = self.run_(*add, "1003", "1001", "1003", "5")
        self.assertEqual(said, "1003 added\n1001 already exists\n5 added\n")
        self.assertEqual(
            self.database.rows('SELECT login, "group" FROM account ORDER BY login'),
            [(5, "new"), (1001, "vip"), (1002, ""), (1003, "new")],
        )
        self.assertEqual(
            self.database.rows('SELECT number, login, "group" FROM moved'),
            [(1, 1001, "vip"), (2, 5, "new"), (3, 1003, "new")],
        )
        self.assertIn("is sound", self.run_("check", "--ledger", self.address))

    def test_upgrade(self) -> None:
        """
        A ledger of the present version is left as it is.
        """
        said = self.run_("upgrade", "--ledger", self.address)
        self.assertEqual(said, f"{self.address} has version 1 already\n")

    def test_backup(self) -> None:
        """
        PostgreSQL has programs of its own for that.
        """
        said = self.fails("backup", "copy.db", "--ledger", self.address)
        self.assertIn("pg_basebackup", said)
        self.assertFalse(Path("copy.db").exists())

    def test_snapshot(self) -> None:
        """
        An export is of one moment, and nothing is written in its transaction.
        """
        with reading(self.address, "export") as source:
            [before] = source.execute("SELECT count(*) FROM trade")
            Node(self.database, 3).book(credit())
            self.assertEqual(
                list(source.execute("SELECT count(*) FROM trade")), [before]
            )
            with self.assertRaises(psycopg.errors.ReadOnlySqlTransaction):
                source.session.rows("DELETE FROM trade")


class StandbyTests(ImportCase):
    """
    A standby, on which nobody can write.
    """

    def test_read(self) -> None:
        """
        It can be read, and nothing can be added there.
        """
        primary = ground.start()
        self.addCleanup(primary.stop)
        standby = primary.standby()
        self.addCleanup(standby.stop)
        database = primary.database()
        makeTables(database)
        node = Node(database)
        self.addCleanup(node.connection.close)
        node.book(credit(key="a"))
        database.rows("UPDATE block SET next = 64000000")
        [(end,)] = primary.rows("SELECT pg_current_wal_lsn()")
        reached = f"SELECT pg_last_wal_replay_lsn() >= '{end}'"
        ground.until(lambda: standby.rows(reached) == [(True,)])
        address = f"postgresql://postgres@127.0.0.1:{standby.port}/{database.name}"
        self.assertIn("is sound", self.run_("check", "--ledger", address))
        self.assertIn("1001", self.run_("account", "list", "--ledger", address))
        sentence = self.fails("account", "add", "5", "--ledger", address)
        self.assertIn("read-only transaction", sentence)


class DoubtfulTests(ImportCase):
    """
    A commit whose wait for a standby is cancelled.
    """

    def run_(self, *arguments: str) -> str:
        """
        Run a command on a ledger that waits for a standby in vain, and cancel its
        wait.
        """
        server = ground.start()
        self.addCleanup(server.stop)
        database = server.database()
        makeTables(database)
        server.configure(synchronous_standby_names="nobody")
        waiting = """
            SELECT pid FROM pg_stat_activity
            WHERE application_name LIKE 'creditsync %' AND wait_event = 'SyncRep'
        """

        def cancel() -> None:
            ground.until(lambda: server.rows(waiting))
            server.rows(f"SELECT pg_cancel_backend(pid) FROM ({waiting}) AS it")

        address = f"postgresql://postgres@127.0.0.1:{server.port}/{database.name}"
        canceller = Thread(target=cancel)
        canceller.start()
        said = super().run_(*arguments, "--ledger", address)
        canceller.join()
        return said

    def test_add(self) -> None:
        """
        Accounts are added, and their operator is told.
        """
        self.assertEqual(self.run_("account", "add", "5"), "5 added\n")
        self.assertEqual(
            self.said,
            "creditsync account add: warning: the commit did not wait until a standby"
            " had it\n",
        )

    def test_restored(self) -> None:
        """
        A life is begun, and the operator is told to do it again.
        """
        self.assertIn("it begins the life", self.run_("init", "--restored"))
        self.assertIn(
            "creditsync init: warning: the commit did not wait until a standby had it:"
            " run it again before a node is started\n",
            self.said,
        )


class NoLedgerTests(ImportCase):
    """
    Addresses at which there is no ledger.
    """

    def test_noTables(self) -> None:
        """
        Each command says so.
        """
        for command in (["check"], ["upgrade"], ["export"], ["account", "add", "1"]):
            with self.subTest(command=command):
                e = self.assertRaises(
                    SystemExit, self.run_, *command, "--ledger", self.address
                )
                self.assertIn("has no tables: run creditsync init", str(e.code))

    def test_password(self) -> None:
        """
        A password on the command line is refused.
        """
        for command in (["check"], ["upgrade"], ["account", "add", "1"]):
            with self.subTest(command=command):
                e = self.assertRaises(
                    SystemExit,
                    *(self.run_, *command, "--ledger", "postgresql://a:b@127.0.0.1/c"),
                )
                self.assertEqual(e.code, 2)

    def test_newer(self) -> None:
        """
        Tables of a newer version are not read.
        """
        makeTables(self.database)
        self.database.rows("INSERT INTO version VALUES (99)")
        e = self.assertRaises(SystemExit, self.run_, "check", "--ledger", self.address)
        self.assertIn(
            "have version 99, but this creditsync supports versions up to 1: run the"
            " newer creditsync that made them",
            str(e.code),
        )
