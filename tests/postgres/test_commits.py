"""
Tests for what the function of C{book.sql} costs, and for what its commit waits for.
"""

import psycopg

from creditsync._bookingrules import Rule
from creditsync.postgres._booking import Site
from creditsync.postgres._lane import _PROVE
from creditsync.postgres._limits import REGISTER, registered
from tests.postgres.engine import NOW
from tests.postgres.test_book import EngineCase, credit, deletion


class CommitTests(EngineCase):
    """
    Tests for one node.
    """

    def test_noVersionsOfAccounts(self) -> None:
        """
        The row of an account is locked and not updated. Each update would leave a
        version of it behind as long as an old snapshot is open.
        """
        self.node.book(credit(300))
        where = "SELECT ctid::text FROM opened WHERE login = 1001"
        [before] = self.node.rows(where)
        self.node.book(credit(5), credit(7))
        self.assertEqual(self.node.rows(where), [before])
        self.assertEqual(self.node.rows("SELECT credit FROM account"), [(312,)])

    def test_noVersionsOfSums(self) -> None:
        """
        The row of a rule's sum that is locked is not updated either: each batch
        replaces the one that has the sum, and those before it are behind it in the
        index.
        """
        site = Site(rules=(Rule("day", maxPerDay=1000, per="all"),))
        self.node.rows(REGISTER, *registered(site.rules, NOW))
        self.node.site = site
        self.node.book(credit(1))
        where = "SELECT ctid::text, amount FROM counted WHERE seq = 0"
        [before] = self.node.rows(where)
        self.node.book(credit(2), credit(3))
        self.node.book(deletion(5))
        self.assertEqual(self.node.rows(where), [before])
        sums = self.node.rows("SELECT seq, amount FROM counted WHERE seq > 0")
        self.assertEqual(sums, [(3, 6)])

    def test_plansByIndex(self) -> None:
        """
        What is found by its key is found by an index, whatever else is in the table,
        although plans are made while the tables are empty.
        """
        site = Site(rules=(Rule("day", maxPerDay=10**9, per="login"),))
        self.node.rows(REGISTER, *registered(site.rules, NOW))
        self.node.site = site
        for first in range(1, 2001, 200):
            self.node.book(
                *(
                    credit(1, login, key=f"{login}")
                    for login in range(first, first + 200)
                )
            )
        statement = (
            "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes"
            " WHERE schemaname = current_schema()"
        )
        read = []
        for _ in range(2):
            self.node.rows("SELECT pg_stat_force_next_flush()")
            [(sum_,)] = self.node.rows(statement)
            read.append(sum_)
            self.node.book(credit(1, 77, key="new"))
        self.assertLess(read[1] - read[0], 50)

    def test_durable(self) -> None:
        """
        Whatever its session has set, a commit that books, or that proves what was
        booked, waits for the disk and a standby at least.
        """
        for statement in (
            lambda: self.node.book(credit()),
            lambda: self.node.rows("SELECT move_1(1, 1001, 'vip', false)"),
            lambda: self.node.rows(_PROVE, 1),
        ):
            for former, then in (
                ("off", "on"),
                ("local", "on"),
                ("remote_write", "remote_write"),
                ("on", "on"),
                ("remote_apply", "remote_apply"),
            ):
                self.node.rows(f"SET synchronous_commit = {former}")
                show = "SHOW synchronous_commit"
                with self.node.connection.transaction():
                    statement()
                    self.assertEqual(self.node.rows(show), [(then,)])
                self.assertEqual(self.node.rows(show), [(former,)])

    def test_isolation(self) -> None:
        """
        Nothing is booked in a transaction that does not see what others have committed
        meanwhile.
        """
        self.node.rows("SET default_transaction_isolation = 'repeatable read'")
        with self.assertRaisesRegex(psycopg.Error, "default_transaction_isolation"):
            self.node.book(credit())
        self.assertEqual(self.node.rows("SELECT * FROM event"), [])
