"""
Tests for C{creditsync/postgres/book.sql}: the verdicts, and what several nodes do to
one another.
"""

import random
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psycopg
from twisted.trial.unittest import SynchronousTestCase

from creditsync._bookingrules import Rule
from creditsync.ledger._journal import MEMBERS, NO_HASH, chained
from creditsync.ledger._schema import columns
from creditsync.postgres._booking import FENCED, Site, Verdict
from creditsync.postgres._limits import REGISTER, registered
from creditsync.records import Deletion, Operation
from tests.postgres import ground
from tests.postgres.engine import NOW, Node, emptied

# A row of the journal as the chain of hashes has it.
ROW = columns(["seq" if name == "place" else name for name in MEMBERS])


def credit(
    amount: int = 300,
    login: int = 1001,
    order: int = 0,
    key: str | None = None,
    comment: str = "Promotion credit",
    command: str = "CreditIn",
    cmd: int = 7,
    openTime: int | None = None,
) -> Operation:
    """
    The request of principal 7 for a credit.
    """
    return Operation(
        command,
        cmd,
        login,
        amount,
        comment,
        order,
        openTime,
        principal=7,
        role=1,
        key=key,
    )


def withdrawal(amount: int, login: int = 1001) -> Operation:
    """
    The request to take credit out.
    """
    return credit(-amount, login, command="CreditOut", cmd=9)


def deletion(order: int, key: str | None = None) -> Deletion:
    """
    The request to delete a credit.
    """
    return Deletion("DeleteCredit", order, frozenset({7, 9}), 7, key, role=1)


def words(verdicts: list[Verdict]) -> list[str]:
    """
    What became of the operations.
    """
    return [each.verdict for each in verdicts]


class EngineCase(SynchronousTestCase):
    """
    Tests with a database of their own.
    """

    def setUp(self) -> None:
        """
        Make the tables of a ledger, and a node.
        """
        self.database = emptied()
        self.node = self.another(1)

    def another(self, number: int) -> Node:
        """
        Connect a node.
        """
        node = Node(self.database, number)
        self.addCleanup(node.connection.close)
        return node

    def assertSound(self) -> None:
        """
        The journal has no gap, its chain of hashes is right, and trades and totals
        are what it adds up to.
        """
        rows = self.node.rows
        links = rows("SELECT lo, hi, hash FROM link ORDER BY hi")
        events = rows(f"SELECT {ROW} FROM event ORDER BY seq")
        self.assertEqual([row[0] for row in events], [*range(1, len(events) + 1)])
        hash, end = NO_HASH, 0
        for lo, hi, found in links:
            self.assertEqual(lo, end + 1)
            hash, end = chained(hash, events[lo - 1 : hi]), hi
            self.assertEqual(found, hash)
        self.assertEqual(end, len(events))
        self.assertEqual(
            rows(
                "SELECT account.login, balance, credit,"
                " coalesce(sum(profit) FILTER (WHERE cmd IN (6, 8)), 0)::bigint,"
                " coalesce(sum(profit) FILTER (WHERE cmd IN (7, 9)), 0)::bigint"
                " FROM account LEFT JOIN trade"
                " ON trade.login = account.login AND state = 3 GROUP BY 1, 2, 3"
                " HAVING balance <> coalesce(sum(profit) FILTER"
                " (WHERE cmd IN (6, 8)), 0)"
                " OR credit <> coalesce(sum(profit) FILTER (WHERE cmd IN (7, 9)), 0)"
            ),
            [],
        )
        self.assertEqual(
            rows(
                'SELECT trade."order", trade.seq, revision FROM trade EXCEPT'
                ' SELECT "order", max(seq), count(*) - 1 FROM event GROUP BY "order"'
            ),
            [],
        )


class BookTests(EngineCase):
    """
    Tests for one node.
    """

    def test_booked(self) -> None:
        """
        A new order is an event, a trade, and part of the account's total.
        """
        [verdict] = self.node.book(credit(key="a"))
        self.assertEqual(
            verdict,
            (
                *(1, "booked", None, 1, 0, 1_000_000, 1001, 7, 3, 300),
                *("Promotion credit", NOW, NOW, NOW, 0, 300, 0),
            ),
        )
        self.assertEqual(
            self.node.rows(
                "SELECT stream, node, batch, item, principal, role, key, command,"
                " asked_order, asked_open_time, asked_close_time FROM event"
            ),
            [(1, 1, 1, 1, 7, 1, "a", "CreditIn", 0, None, None)],
        )
        self.assertEqual(
            self.node.rows("SELECT lo, hi, node, batch FROM link"), [(1, 1, 1, 1)]
        )
        self.assertEqual(self.node.rows("SELECT * FROM keyed"), [(7, "a", 1, 1)])
        self.assertEqual(self.node.rows("SELECT * FROM account"), [(1001, "", 0, 300)])
        self.assertSound()

    def test_judgedOneAfterTheOther(self) -> None:
        """
        Each operation is judged by what those before it in its batch have left, and
        those that are refused leave nothing.
        """
        verdicts = self.node.book(
            withdrawal(1),
            credit(100),
            withdrawal(60),
            withdrawal(60),
            deletion(1_000_001),
            credit(200, order=1_000_001),
            deletion(1_000_001),
            withdrawal(140),
        )
        self.assertEqual(
            words(verdicts),
            [
                *("no money", "booked", "booked", "no money", "no money"),
                *("booked", "no money", "booked"),
            ],
        )
        self.assertEqual(self.node.rows("SELECT credit FROM account"), [(0,)])
        self.assertSound()

    def test_refusedLeavesNothing(self) -> None:
        """
        A batch in which all is refused has no place, no account and no key.
        """
        verdicts = self.node.book(withdrawal(5, 1002), deletion(9, "a"))
        self.assertEqual(words(verdicts), ["no money", "not found"])
        for table in ("event", "link", "opened", "keyed", "trade"):
            self.assertEqual(self.node.rows(f"SELECT * FROM {table}"), [], table)

    def test_replay(self) -> None:
        """
        A key that was booked gives what was booked then, also after an update, and
        another request under it is told which member differs.
        """
        [first] = self.node.book(credit(key="a"))
        self.node.book(credit(5, order=first.order))
        verdicts = self.node.book(
            credit(key="a"),
            credit(301, key="a"),
            credit(key="a", command="CreditInSync"),
            credit(key="a", order=4),
            credit(key="a", openTime=4),
            credit(login=1002, key="a"),
            credit(comment="x", key="a"),
        )
        self.assertEqual(verdicts[0][3:], first[3:])
        self.assertEqual(
            [(each.verdict, each.detail, each.order) for each in verdicts],
            [
                ("replay", None, 1_000_000),
                ("key reused", "data.amount", 1_000_000),
                ("key reused", "command", 1_000_000),
                ("key reused", "data.order", 1_000_000),
                ("key reused", "data.open_time", 1_000_000),
                ("key reused", "data.login", 1_000_000),
                ("key reused", "data.comment", 1_000_000),
            ],
        )
        self.assertSound()

    def test_replayIsWritten(self) -> None:
        """
        A batch of which nothing is booked has a commit that is written all the same:
        only such a one waits for a synchronous standby, and proves that what the
        replay tells is there, too.
        """
        self.node.book(credit(key="k"))
        with self.node.connection.transaction():
            [first] = self.node.rows("SELECT pg_current_wal_insert_lsn()")
            [verdict] = self.node.book(credit(key="k"))
            [(isNumbered, last)] = self.node.rows(
                "SELECT pg_current_xact_id_if_assigned() IS NOT NULL,"
                " pg_current_wal_insert_lsn()"
            )
        self.assertEqual(verdict.verdict, "replay")
        self.assertTrue(isNumbered)
        self.assertNotEqual(first, (last,))

    def test_twins(self) -> None:
        """
        A key twice in one batch is booked once; if the first is refused, the second is
        judged afresh.
        """
        verdicts = self.node.book(
            credit(key="a"),
            credit(key="a"),
            credit(key="a", openTime=1),
            Operation("CreditOut", 9, 1002, -5, "x", principal=7, key="b"),
            credit(key="b"),
            deletion(1_000_000, "c"),
            deletion(1_000_000, "c"),
        )
        self.assertEqual(
            [(each.verdict, each.detail, each.seq) for each in verdicts],
            [
                ("booked", None, 1),
                ("twin", None, 1),
                ("key reused", "data.open_time", 1),
                ("no money", None, None),
                ("booked", None, 2),
                ("booked", None, 3),
                ("twin", None, 6),
            ],
        )
        self.assertSound()

    def test_hostileComments(self) -> None:
        """
        What an auditor has to hash is written as other ledgers write it.
        """
        comments = (
            *("\t\r\n\x01\x0b\x1f\x7f", "\"'\\/,]}", "é€😀\u2028\ufeff"),
            *("", " ", "NULL", "{}", "\\", '\\"', "a\\b,c"),
        )
        for comment in comments:
            self.node.book(credit(comment=comment, key=f"{comment} key"))
        rows = self.node.rows("SELECT comment, key FROM event ORDER BY seq")
        self.assertEqual(rows, [(comment, f"{comment} key") for comment in comments])
        self.assertSound()

    def test_fenced(self) -> None:
        """
        A node whose incarnation was raised books no more.
        """
        self.node.rows("UPDATE node SET incarnation = 2")
        with self.assertRaises(psycopg.Error) as raised:
            self.node.book(credit())
        self.assertEqual(raised.exception.sqlstate, FENCED)
        self.assertEqual(self.node.rows("SELECT * FROM event"), [])

    def test_knownAccounts(self) -> None:
        """
        An operation may need an account that exists. That comes after the rules of
        the order.
        """
        self.node.site = Site(knownAccountsOnly=True)
        self.assertEqual(words(self.node.book(credit())), ["no account"])
        self.node.rows("INSERT INTO account (login) VALUES (1001)")
        self.assertEqual(words(self.node.book(credit())), ["booked"])
        self.assertEqual(
            words(self.node.book(credit(openTime=NOW + 1, login=5))), ["times"]
        )
        self.assertSound()

    def test_greatestTotal(self) -> None:
        """
        A total of 2^63-1 is possible, and one more is refused.
        """
        verdicts = self.node.book(credit(2**63 - 1), credit(1))
        self.assertEqual(words(verdicts), ["booked", "too great"])


class NodesTests(EngineCase):
    """
    Tests for several nodes.
    """

    def setUp(self) -> None:
        """
        Connect a second node.
        """
        super().setUp()
        self.other = self.another(2)
        self.pool = ThreadPoolExecutor(4)
        self.addCleanup(self.pool.shutdown)

    def held(self, node: Node, *operations: Any) -> "Future[list[Verdict]]":
        """
        Begin to book, in a thread; the batch has to wait for a lock.
        """
        booking = self.pool.submit(node.book, *operations)
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND datname = current_database()"
        )
        ground.until(lambda: self.database.rows(waiting) == [(1,)])
        return booking

    def test_twinWaits(self) -> None:
        """
        Of two nodes with the same key the second waits for the first, and then
        replays what that has booked.
        """
        with self.node.connection.transaction():
            [first] = self.node.book(credit(key="a"))
            booking = self.held(self.other, credit(key="a"))
        [second] = booking.result(10)
        self.assertEqual((second.verdict, second[3:]), ("replay", first[3:]))
        self.assertSound()

    def test_twinWaitsForNothing(self) -> None:
        """
        If the first was refused, or its node died, the second is booked.
        """
        with self.node.connection.transaction():
            self.node.book(deletion(5, key="a"))
            booking = self.held(self.other, credit(key="a"))
        self.assertEqual(words(booking.result(10)), ["booked"])
        with self.node.connection.transaction(force_rollback=True):
            self.node.book(credit(key="b"))
            booking = self.held(self.other, credit(key="b"))
        self.assertEqual(words(booking.result(10)), ["booked"])
        self.assertSound()

    def test_exactAcrossNodes(self) -> None:
        """
        What another node is about to take out is gone.
        """
        self.node.book(credit(100))
        with self.node.connection.transaction():
            self.node.book(withdrawal(60))
            booking = self.held(self.other, withdrawal(60))
        self.assertEqual(words(booking.result(10)), ["no money"])
        self.assertSound()

    def test_placesInOrder(self) -> None:
        """
        A batch has its place only when the one before it is committed.
        """
        with self.node.connection.transaction():
            self.node.book(credit(login=1))
            booking = self.held(self.other, credit(login=2))
        self.assertEqual([each.seq for each in booking.result(10)], [2])
        self.assertSound()

    def test_namedWhileItIsMade(self) -> None:
        """
        An order that another node makes while it is named here as one of another
        login is found: the batch has to be judged again.
        """
        with self.node.connection.transaction():
            [made] = self.node.book(credit(login=1))
            booking = self.held(self.other, credit(login=2, order=made.order))
        with self.assertRaises(psycopg.errors.SerializationFailure):
            booking.result(10)
        self.assertEqual(
            words(self.other.book(credit(login=2, order=made.order))), ["other login"]
        )
        self.assertSound()

    def test_raisedIncarnationWaits(self) -> None:
        """
        The incarnation can't be raised while a batch is under way.
        """
        with self.node.connection.transaction():
            self.node.book(credit())
            self.other.rows("SET lock_timeout = '50ms'")
            with self.assertRaises(psycopg.errors.LockNotAvailable):
                self.other.rows("UPDATE node SET incarnation = 2 WHERE id = 1")

    def test_rulesAcrossNodes(self) -> None:
        """
        What another node is about to book counts for a rule.
        """
        site = Site(rules=(Rule("day", maxPerDay=100, per="principal"),))
        self.node.rows(REGISTER, *registered(site.rules, NOW))
        self.node.site = self.other.site = site
        with self.node.connection.transaction():
            self.node.book(credit(60, login=1))
            booking = self.held(self.other, credit(60, login=2), credit(40, login=2))
        self.assertEqual(words(booking.result(10)), ["over day", "booked"])
        # A node without the rule counts for it too.
        self.assertEqual(words(self.another(3).book(credit(1))), ["booked"])
        self.assertEqual(
            self.node.rows("SELECT key, seq > 0, amount FROM counted"),
            [(7, False, 0), (7, True, 101)],
        )
        self.assertSound()

    def test_registeredMeanwhile(self) -> None:
        """
        A batch that has begun before a rule was registered, and ends after it, is
        judged again.
        """
        rules = (Rule("day", maxPerDay=100, per="all"),)
        self.node.book(credit(60))
        self.node.site = Site(rules=rules)
        with self.node.connection.transaction():
            self.node.rows(REGISTER, *registered(rules, NOW))
            booking = self.held(self.other, credit(30, login=2))
        with self.assertRaises(psycopg.errors.SerializationFailure):
            booking.result(10)
        self.assertEqual(words(self.other.book(credit(30, login=2))), ["booked"])
        self.assertEqual(words(self.node.book(credit(11))), ["over day"])

    def test_hammered(self) -> None:
        """
        Four nodes book on few accounts under few keys, in any order: there is no
        deadlock, no key is booked twice, and all is sound.
        """
        chance = random.Random(4)

        def operation() -> Operation | Deletion:
            login, kind = chance.randrange(1, 9), chance.random()
            key = f"{chance.randrange(80)}" if chance.random() < 0.5 else None
            if kind < 0.15:
                return deletion(chance.randrange(1, 5) * 1_000_000 + login, key)
            if kind < 0.5:
                return credit(chance.randrange(1, 99), login, key=key)
            return credit(
                *(chance.randrange(1, 99), login),
                order=chance.randrange(1, 5) * 1_000_000 + chance.randrange(20),
                key=key,
            )

        def drive(node: Node) -> None:
            for _ in range(12):
                operations = [operation() for _ in range(chance.randrange(1, 30))]
                try:
                    node.book(*operations)
                except psycopg.errors.SerializationFailure:
                    continue

        nodes = [self.node, self.other, self.another(3), self.another(4)]
        for done in [self.pool.submit(drive, node) for node in nodes]:
            done.result(30)
        self.assertSound()
        self.assertEqual(
            self.node.rows(
                "SELECT principal, key, seq FROM event WHERE key IS NOT NULL"
                " EXCEPT SELECT principal, key, seq FROM keyed"
            ),
            [],
        )
        self.assertEqual(
            self.node.rows("SELECT * FROM keyed WHERE seq IS NULL"),
            [],
        )
