"""
Tests for the commands that read a ledger, with one on PostgreSQL: what they print is
what they print of the same ledger in a file.
"""

import json
import os

import pytest

from creditsync.postgres._picture import RULES
from tests.postgres import ground
from tests.postgres.engine import NOW, Node
from tests.postgres.test_importing import ImportCase, change

pytestmark = pytest.mark.timeout(120)


class ReadingTests(ImportCase):
    """
    The same ledger in both.
    """

    def setUp(self) -> None:
        """
        Make a ledger, and import it.
        """
        super().setUp()
        self.fill()
        self.import_()

    def both(self, *arguments: str) -> str:
        """
        What a command prints of both, which has to be the same.
        """
        here = self.run_(*arguments, "--ledger=ledger.db")
        there = self.run_(*arguments, "--ledger", self.address)
        self.assertEqual(there.replace(self.address, "ledger.db"), here)
        self.assertEqual(self.said, "")
        return there

    def test_statement(self) -> None:
        """
        The statement of an account, its history, and its totals at a time.
        """
        for login in ("1001", "1002", "1003", str(2**53 - 1)):
            self.assertGreater(self.both("statement", login).count("\n"), 2)
            self.both("statement", login, "--from", "20", "--to", str(NOW))
            self.both("statement", login, "--history")
            self.both("statement", login, "--at", str(NOW))
        sentence = self.fails("statement", "5", "--ledger", self.address)
        self.assertEqual(sentence, "creditsync statement: there is no account 5")

    def test_export(self) -> None:
        """
        Trades as CSV, and the journal as JSON lines.
        """
        self.assertGreater(self.both("export").count("\n"), 5)
        self.both("export", "--login", "1001", "--iso")
        lines = self.both("export", "--journal").splitlines()
        self.assertEqual(len(lines), self.head)
        cursor = json.loads(lines[3])["cursor"]
        later = self.both("export", "--journal", "--since", cursor)
        self.assertEqual(later.splitlines(), lines[4:])
        self.both("export", "--journal", "--login", "1001")
        gone = ("export", "--journal", "--since", "00000000-1")
        sentence = self.fails(*gone, "--ledger", self.address)
        self.assertIn(f"00000000-1 is not one of the {self.address}", sentence)

    def test_accounts(self) -> None:
        """
        Accounts are listed; new ones can be added while nodes run, which hear of their
        group.
        """
        self.assertIn("vip", self.both("account", "list"))
        arguments = ("account", "add", "77", "1001", "77", "--group", "new")
        said = self.run_(*arguments, "--ledger", self.address)
        self.assertEqual(said, "77 added\n1001 already exists\n")
        rows = self.database.rows(
            'SELECT login, "group", balance, credit FROM account WHERE login IN (77)'
        )
        self.assertEqual(rows, [(77, "new", 0, 0)])
        moved = 'SELECT number, login, "group" FROM moved'
        self.assertEqual(self.database.rows(moved), [(1, 77, "new")])
        self.run_("check", "--ledger", self.address)

    def test_check(self) -> None:
        """
        It is as sound as the file was, and has the same hash.
        """
        sound = self.both("check")
        hash = sound.split()[-1]
        self.both("check", "--head", hash)
        self.assertEqual(json.loads(self.both("check", "--json"))["sound"], True)
        other = "00" * 31 + "01"
        code = self.fails("check", "--head", other, "--ledger", self.address)
        self.assertEqual(code, "1")

    def test_checkGoesOn(self) -> None:
        """
        It is sound after a node has booked, too.
        """
        node = Node(self.database, number=3)
        self.addCleanup(node.connection.close)
        self.database.rows("UPDATE block SET next = 64000000")
        for batch in ("abc", "def", "ghi"):
            node.book(*(change(0, 0, 7, key).operation for key in batch))
        said = self.run_("check", "--ledger", self.address)
        self.assertIn(f"head: place {self.head + 9}, hash ", said)

    def test_wrong(self) -> None:
        """
        Whatever is changed in the tables is found.
        """
        found = set()
        for statement, rule in (
            ("UPDATE event SET comment = 'x' WHERE seq = 2", "chain"),
            ("DELETE FROM event WHERE seq = 2", "place"),
            ("UPDATE account SET credit = credit + 1 WHERE login = 1001", "total"),
            ("UPDATE trade SET comment = 'x' WHERE \"order\" = 1", "trade"),
            ("UPDATE block SET next = 1", "order-mark"),
            ("UPDATE operation SET sign = -sign WHERE cmd = 7", "operation"),
            ("UPDATE link SET lo = lo + 1 WHERE batch = 2", "link"),
            ("UPDATE event SET batch = 99 WHERE seq = 2", "item"),
            ("UPDATE keyed SET seq = 1 WHERE key = 'first'", "key"),
            ("DELETE FROM keyed WHERE key = 'first'", "key"),
            ("UPDATE stream SET epoch = '00000000'", "epoch"),
        ):
            copy = self.database.copy()
            self.addCleanup(copy.drop)
            copy.rows(statement)
            address = self.address.replace(self.database.name, copy.name)
            arguments = ("check", "--json", "--ledger", address)
            said = self.prints(*arguments)
            rules = {each["rule"] for each in json.loads(said)["problems"]}
            self.assertIn(rule, rules, statement)
            found |= rules
        self.assertLessEqual({name for name, _, _ in RULES}, found)

    def prints(self, *arguments: str) -> str:
        """
        What a command prints that ends with status 1.
        """
        self.assertEqual(self.fails(*arguments), "1")
        return self.output

    def test_standby(self) -> None:
        """
        A standby can be read as well.
        """
        role = f"reader_{self.database.name}"
        self.database.rows(f"CREATE ROLE {role} LOGIN")
        self.database.rows(f"ALTER ROLE {role} SET default_transaction_read_only = on")
        self.database.rows(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
        self.addCleanup(self.database.rows, f"DROP ROLE {role}")
        self.addCleanup(self.database.rows, f"DROP OWNED BY {role}")
        address = self.address.replace(f"//{ground.SUPERUSER}@", f"//{role}@")
        self.assertIn("is sound: ", self.run_("check", "--ledger", address))

    def test_otherwise(self) -> None:
        """
        What is not for a PostgreSQL says what is.
        """
        for arguments, expected in (
            (("backup", "copy.db"), "pg_basebackup"),
            (("upgrade",), "creditsync init brings"),
        ):
            sentence = self.fails(*arguments, "--ledger", self.address)
            self.assertIn(expected, sentence)
        self.assertEqual(
            sorted(os.listdir()), ["ledger.db", "ledger.db.lock", "ledger.db.v2"]
        )

    def test_passwords(self) -> None:
        """
        A password on the command line is refused.
        """
        address = "postgresql://me:s3cret@db/x"
        for command in (("check",), ("statement", "1"), ("account", "add", "1")):
            self.assertEqual(self.fails(*command, "--ledger", address), "2")
            self.assertIn("PGPASSWORD", self.said)
            self.assertNotIn("s3cret", self.said)


class NoLedgerTests(ImportCase):
    """
    A database without a ledger.
    """

    def test_none(self) -> None:
        """
        It is said, and nothing is made.
        """
        for command in (("check",), ("export",), ("account", "add", "5")):
            sentence = self.fails(*command, "--ledger", self.address)
            self.assertIn("has no tables: run creditsync init", sentence)
        made = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        self.assertEqual(self.database.rows(made), [])
