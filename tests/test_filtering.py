"""
Tests for L{creditsync.ledger._filtering}. What filters select is tested by
L{tests.attack.filters}, against a plain reference.
"""

import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from itertools import chain
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from creditsync.errors import TookTooLong
from creditsync.ledger import _filtering
from creditsync.ledger._filtering import copied, search
from creditsync.ledger.memory import MemoryLedger
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.records import (
    Account,
    Condition,
    FoundTrades,
    GroupedTrade,
    Operation,
    Reservation,
    Trade,
    TradeFilter,
)
from tests.attack import filters


def asked(
    *conditions: Condition,
    orderBy: Sequence[tuple[str, bool]] = (),
    limit: int = 100,
    offset: int = 0,
    groups: frozenset[str] | None = None,
    seconds: float = 3.0,
) -> TradeFilter:
    """
    A filter.

    @param groups: Those that may be seen, or L{None} for all.
    """

    def seesGroup(group: str) -> bool:
        return groups is None or group in groups

    return TradeFilter(conditions, tuple(orderBy), limit, offset, seesGroup, seconds)


def orders(page: Sequence[GroupedTrade]) -> list[int]:
    """
    The orders of a page.
    """
    return [trade.order for trade, _ in page]  # type: ignore[union-attr]


def trade(order: int, profit: int = 100, cmd: int = 7, comment: str = "c") -> Trade:
    """
    A booked trade of the account with this number modulo 3.
    """
    return Trade(order, order % 3, cmd, 3, profit, comment, 1, 2, 3)


class SearchTests(SynchronousTestCase):
    """
    Tests for L{search}.
    """

    def search(
        self,
        trades: Sequence[Trade],
        filter: TradeFilter,
        page: Any = orders,
        **more: Any,
    ) -> FoundTrades[list[int]]:
        """
        Search among these trades, of accounts in the groups C{g0}, C{g1} and C{g2}.
        """
        accounts = [Account(login, group=f"g{login}") for login in range(3)]
        with closing(copied(trades, accounts)) as connection:
            return search(connection, filter, page, **more)

    def test_pages(self) -> None:
        """
        The trades come in pages, in their order.
        """
        self.patch(_filtering, "_PAGE", 2)
        trades = [trade(order) for order in range(1, 8)]
        found = self.search(trades, asked(orderBy=[("order", True)], limit=5, offset=1))
        self.assertEqual(found.pages, [[6, 5], [4, 3], [2]])
        self.assertEqual(found.count, 7)

    def test_none(self) -> None:
        """
        Where nothing is selected, or all of it is skipped, there is no page.
        """
        none = self.search([], asked())
        self.assertEqual(
            (none.pages, none.count, none.balance, none.credit), ([], 0, 0, 0)
        )
        skipped = self.search([trade(1)], asked(offset=1))
        self.assertEqual((skipped.pages, skipped.count), ([], 1))

    def test_greatSums(self) -> None:
        """
        Sums are exact beyond the integers of SQLite.
        """
        most = 10**18 - 1
        trades = [trade(order, most) for order in range(1, 21)]
        trades += [trade(order, -most, cmd=8) for order in range(21, 41)]
        found = self.search(trades, asked(limit=1))
        self.assertEqual((found.credit, found.balance), (20 * most, -20 * most))

    def test_constants(self) -> None:
        """
        A field that all finance trades have alike can be asked for, and orders
        nothing. Its number is not taken for that of a column.
        """
        trades = [trade(2, 5), trade(1, 9)]
        for name in ("reason", "symbol", "volume", "sl"):
            found = self.search(trades, asked(orderBy=[(name, True)]))
            self.assertEqual(found.pages, [[1, 2]], name)
        seven = Condition("reason", "==", (7,))
        self.assertEqual(self.search(trades, asked(seven)).count, 2)

    def test_wildcards(self) -> None:
        """
        Only the wildcards of C{like} are wildcards, and case counts.
        """
        comments = ["a*b", "a?b", "a[b", "axb", "A*B", "a]b", "a^b"]
        trades = [trade(n, comment=text) for n, text in enumerate(comments, 1)]
        for pattern, expected in [
            ("a_b", [1, 2, 3, 4, 6, 7]),
            ("a*b", [1]),
            ("a?b", [2]),
            ("a[b", [3]),
            ("a]b", [6]),
            ("a[^x]b", []),
            ("%B", [5]),
            ("%", [1, 2, 3, 4, 5, 6, 7]),
            ("", []),
        ]:
            found = self.search(trades, asked(Condition("comment", "like", (pattern,))))
            self.assertEqual([*chain(*found.pages)], expected, pattern)

    def test_groups(self) -> None:
        """
        Trades of groups that may not be seen are neither found nor counted.
        """
        trades = [trade(order) for order in range(1, 7)]
        found = self.search(trades, asked(groups=frozenset({"g1", "x"})))
        self.assertEqual((found.pages, found.count), ([[1, 4]], 2))
        self.assertEqual(found.credit, 200)
        self.assertEqual(self.search(trades, asked(groups=frozenset())).count, 0)

    def test_bounded(self) -> None:
        """
        A search whose time is over is given up in the middle of a statement, however
        expensive its conditions are: these take a minute.
        """
        texts = ["[" * 254 + "x"] * 10_000
        trades = [trade(order, comment=text) for order, text in enumerate(texts, 1)]
        likes = [
            *([Condition("comment", "like", ("%" + "[" * 126 + "x",))] * 16),
            *([Condition("comment", "like", ("%" + "[" * 127 + "y",), True)] * 16),
        ]
        started = time.monotonic()
        self.assertRaises(TookTooLong, self.search, trades, asked(*likes, seconds=0.1))
        self.assertLess(time.monotonic() - started, 10)

    def test_boundedPages(self) -> None:
        """
        So is one whose rows take too long.
        """
        self.patch(_filtering, "_PAGE", 1)
        found: list[int] = []
        self.assertRaises(
            TookTooLong,
            self.search,
            [trade(1), trade(2), trade(3)],
            asked(),
            page=lambda page: found.extend(orders(page)),
            now=lambda: 3.1 * len(found),
        )
        self.assertEqual(found, [1])

    def test_boundedGroups(self) -> None:
        """
        So is one whose groups take too long.
        """
        self.patch(_filtering, "_SLICE", -1)
        seen: list[str] = []

        def seesGroup(group: str) -> bool:
            seen.append(group)
            return True

        filter = TradeFilter((), (), 1, 0, seesGroup, 3.0)
        self.assertRaises(
            TookTooLong, self.search, [], filter, now=lambda: 3.1 * len(seen)
        )
        self.assertEqual(seen, ["g0"])

    def steps(
        self, trades: Sequence[Trade], *conditions: Condition, hidden: str = "g2"
    ) -> int:
        """
        Count the instructions of a search by one who may see the accounts 0 and 1,
        and finds nothing.

        @param hidden: The group of account 2.
        """
        count = 0

        def step() -> None:
            nonlocal count
            count += 1

        groups = ("g0", "g1", hidden)
        accounts = [Account(login, group=group) for login, group in enumerate(groups)]
        with closing(copied(trades, accounts)) as connection:
            connection.set_progress_handler(step, 1)
            seen = asked(*conditions, groups=frozenset({"g0", "g1"}))
            self.assertEqual(search(connection, seen, orders).count, 0)
        return count

    def test_hiddenTrades(self) -> None:
        """
        What a search costs does not depend on whether hidden trades meet its
        conditions, so its time does not tell.
        """
        like = Condition("comment", "like", ("%x%",))
        costs = set()
        for hidden in (100, 300):
            trades = [trade(n, hidden if n % 3 == 2 else 1) for n in range(1, 100)]
            costs.add(self.steps(trades, Condition("profit", ">", (200,)), like))
        self.assertEqual(len(costs), 1)

    def test_hiddenAccount(self) -> None:
        """
        How much a search for the trades of a hidden account costs does not depend on
        how many there are.
        """
        like = Condition("comment", "like", ("%x%",))
        differences = set()
        for count in (10, 1000):
            trades = [trade(n) for n in range(1, count)]
            hidden, missing = (
                self.steps(trades, Condition("login", "==", (login,)), like)
                for login in (2, 3)
            )
            differences.add(hidden - missing)
        # Of the look-up of the account.
        self.assertEqual(len(differences), 1)

    def test_hiddenGroup(self) -> None:
        """
        It does not depend on the names of hidden groups.
        """
        trades = [trade(n) for n in range(1, 100)]
        conditions = [
            Condition("group", "like", ("%2",)),
            Condition("group", "like", ("%x%",)),
        ]
        costs = {
            self.steps(trades, *conditions, hidden=group) for group in ("g2", "g3")
        }
        self.assertEqual(len(costs), 1)

    def test_accounts(self) -> None:
        """
        Conditions on the login and the group select accounts: several, one, or none.
        """
        trades = [trade(n) for n in range(1, 10)]
        for conditions, expected in [
            ([Condition("group", "==", ("g1",))], [1, 4, 7]),
            ([Condition("group", "!=", ("g1",))], [2, 3, 5, 6, 8, 9]),
            ([Condition("group", "like", ("g%",), True)], []),
            ([Condition("group", "in", ("g0", "x"))], [3, 6, 9]),
            ([Condition("login", "==", (1,)), Condition("order", ">", (1,))], [4, 7]),
            (
                [Condition("login", ">", (0,)), Condition("group", "<", ("g2",))],
                [1, 4, 7],
            ),
            ([Condition("login", "==", (1,), True)], [2, 3, 5, 6, 8, 9]),
            ([Condition("login", "==", (7,))], []),
        ]:
            for groups in (None, frozenset({"g0", "g1"})):
                seen = [n for n in expected if groups is None or n % 3 != 2]
                found = self.search(trades, asked(*conditions, groups=groups))
                self.assertEqual([*chain(*found.pages)], seen, conditions)
                self.assertEqual(found.count, len(seen), conditions)

    def test_otherErrors(self) -> None:
        """
        Another error of SQLite is not taken for the end of the time.
        """
        with closing(sqlite3.connect(":memory:")) as empty:
            self.assertRaises(sqlite3.OperationalError, search, empty, asked(), orders)

    def test_expensivePattern(self) -> None:
        """
        A pattern with as many wildcards as there can be takes no long time: nothing
        ends a statement in the middle of one comparison.
        """
        like = Condition("comment", "like", ("%a" * 127,))
        trades = [trade(order, comment="a" * 126 + "b" * 129) for order in range(1, 99)]
        self.assertEqual(self.search(trades, asked(like, seconds=2.0)).count, 0)


class LedgerTests(SynchronousTestCase):
    """
    Searches in both ledgers.
    """

    def ledgers(self) -> "list[MemoryLedger | SQLiteLedger]":
        """
        Ledgers with two trades of two accounts.
        """
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = os.path.join(folder.name, "creditsync.db")
        ledgers = [MemoryLedger(), SQLiteLedger(path, maybeDeferred)]
        for ledger in ledgers:
            ledger.open()
            self.addCleanup(ledger.close)
            reservations = []
            for login in (1001, 1002):
                operation = Operation("CreditIn", 7, login, 5, "c")
                booked = Trade(ledger.newOrder(), login, 7, 3, 5, "c", 1, 2, 3)
                reservations.append(
                    Reservation(0, booked, operation, balance=0, credit=5)
                )
            self.successResultOf(ledger.commit(reservations))
        return ledgers

    def test_same(self) -> None:
        """
        A ledger in memory finds what one on disk finds.
        """
        for ledger in self.ledgers():
            found = ledger.search(
                asked(Condition("login", ">", (1001,))), lambda page: list(page)
            )
            self.assertEqual(
                found.pages, [[(Trade(2, 1002, 7, 3, 5, "c", 1, 2, 3), "")]]
            )
            self.assertEqual((found.count, found.credit), (1, 5))
            self.assertEqual(ledger.groups(), [""])


class ReferenceTests(SynchronousTestCase):
    """
    L{tests.attack.filters} in short, and that its checks find faults.
    """

    def test_sound(self) -> None:
        """
        A short run agrees with the reference, and most of its filters are right.
        """
        self.patch(filters, "_LOOKUPS_PER_SITE", 300)
        outcomes, wrong = filters.run(7)
        self.assertEqual(wrong, [])
        self.assertEqual(outcomes.total(), 300)
        self.assertGreater(outcomes["found"], 50)
        self.assertGreater(outcomes["INVALID_DATA"], 50)
        self.assertGreater(outcomes["hidden"], 0)

    def test_wrong(self) -> None:
        """
        A server that takes C{>} for C{>=} is found.
        """
        self.patch(filters, "_LOOKUPS_PER_SITE", 300)
        forms = {**_filtering._FORMS, ">": "{} >= ?"}
        self.patch(_filtering, "_FORMS", forms)
        _, wrong = filters.run(7)
        self.assertNotEqual(wrong, [])
