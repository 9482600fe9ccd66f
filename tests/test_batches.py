"""
Tests for how L{creditsync.ledger.sqlite} books a batch: of any size and content it
is one transaction, with the same result as in L{creditsync.ledger.memory}.
"""

import os
import sqlite3
from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import execute
from twisted.trial.unittest import SynchronousTestCase

from creditsync.ledger import sqlite
from creditsync.ledger._appending import appending
from creditsync.ledger._journal import rowsOf
from creditsync.ledger.memory import MemoryLedger
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.records import Account, Operation, Reservation, Trade
from tests.totals import withTotals

# Around each size for which there is a statement, and beyond the largest.
SIZES = sorted({2**n + more for n in range(11) for more in (-1, 0, 1)} - {0} | {2500})

COMMENT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ORDERS = 6
# An order, its amount and its state, a comment, and whether it has a key.
# Forty of these amounts fit into 64 bits.
CHANGE = st.tuples(
    st.integers(1, ORDERS),
    st.integers(-(10**17), 10**17),
    st.sampled_from((3, 3, 6, 10)),
    COMMENT,
    st.booleans(),
)


def reservation(
    order: int,
    profit: int = 100,
    state: int = 3,
    comment: str = "Promotion credit",
    key: str | None = None,
) -> Reservation:
    """
    A reservation as the runtime makes it; login and kind depend on the order.
    """
    login, cmd = 1001 + order % 3, 6 + order % 4
    asked = Operation(
        "CreditIn", cmd, login, profit, comment, order, principal=7, key=key
    )
    trade = Trade(order, login, cmd, state, profit, comment, 1700, 1800, 1900)
    return Reservation(0, trade, asked)


class BatchTests(SynchronousTestCase):
    """
    Tests for batches of all sizes and contents.
    """

    def setUp(self) -> None:
        """
        Make a folder.
        """
        made = TemporaryDirectory()
        self.addCleanup(made.cleanup)
        self.folder = made.name

    def opened(self, name: str = "ledger.db") -> SQLiteLedger:
        """
        An open ledger on an SQLite with the smallest limit of parameters that
        any SQLite has.
        """
        ledger = SQLiteLedger(os.path.join(self.folder, name), execute)
        ledger.open()
        self.addCleanup(ledger.close)
        writer = self.writer(ledger)
        writer.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 32766)
        return ledger

    def writer(self, ledger: SQLiteLedger) -> sqlite3.Connection:
        """
        The connection on which a ledger writes.
        """
        assert ledger._writer is not None
        return ledger._writer

    def commit(self, ledger: Any, batch: Sequence[Reservation]) -> None:
        """
        Commit a batch, and wait for it.
        """
        self.successResultOf(ledger.commit(withTotals(ledger, batch)))

    def _everySize(self, isKeyed: bool) -> None:
        """
        Book a batch of each size, and find all of it again. Up to 1,024 rows are
        one statement; more are BEGIN and one statement for each 1,024.
        """
        statements: list[str] = []

        class Telling(sqlite3.Connection):
            def execute(self, statement: str, *given: Any) -> sqlite3.Cursor:
                statements.append(statement)
                return super().execute(statement, *given)

        self.patch(
            sqlite,
            "connectWriter",
            lambda path: sqlite3.connect(path, isolation_level=None, factory=Telling),
        )
        ledger, booked = self.opened(), 0
        for size in SIZES:
            orders = [ledger.newOrder() for _ in range(size)]
            keys = [f"key-{order}" if isKeyed else None for order in orders]
            batch = [
                reservation(order, order, comment=f"No. {order}", key=key)
                for order, key in zip(orders, keys, strict=True)
            ]
            statements.clear()
            self.commit(ledger, batch)
            self.assertEqual(len(statements), {1025: 3, 2500: 4}.get(size, 1))
            for each in batch:
                self.assertEqual(ledger.trade(each.order), each.trade)
                if each.operation.key is not None:
                    replay = ledger.replay(7, each.operation.key)
                    assert replay is not None
                    self.assertEqual(replay.trade, each.trade)
            booked += size
            [count] = self.writer(ledger).execute("SELECT count(*) FROM trade")
            self.assertEqual(count, (booked,))
        accounts = [ledger.account(login) for login in (1001, 1002, 1003)]
        totals = [each.balance + each.credit for each in accounts if each is not None]
        self.assertEqual(sum(totals), booked * (booked + 1) // 2)

    def test_everySize(self) -> None:
        """
        A batch is booked as a whole by few statements, whatever its size.
        """
        self._everySize(isKeyed=False)

    def test_everySizeKeyed(self) -> None:
        """
        A batch with keys is booked as a whole by few statements, whatever its
        size.
        """
        self._everySize(isKeyed=True)

    def test_fewStatements(self) -> None:
        """
        A few statements are enough for batches of all sizes, and they all stay
        prepared.
        """
        batch = [reservation(order + 1) for order in range(1024)]
        rows = rowsOf(withTotals(MemoryLedger(), batch), 0)
        statements = {
            appending(rows[:size], bytes(32), size)[0] for size in range(1, 1025)
        }
        self.assertEqual(len(statements), 11)

    def test_sameOrder(self) -> None:
        """
        Several states of one order in one batch are applied in their order, in
        a large batch and in a small one.
        """
        ledger = self.opened()
        order = ledger.newOrder()
        for number, size in enumerate((2, 3, 4, 5, 1023, 1024, 1025), 1):
            batch = [reservation(order, profit) for profit in range(1, size)]
            self.commit(ledger, [*batch, reservation(order, number)])
            self.assertEqual(ledger.trade(order), reservation(order, number).trade)
            self.assertEqual(ledger.account(1002), Account(1002, 0, number))
        [[revision]] = self.writer(ledger).execute("SELECT revision FROM trade")
        self.assertEqual(revision, 2 + 3 + 4 + 5 + 1023 + 1024 + 1025 - 1)

    def test_refusedAsAWhole(self) -> None:
        """
        If SQLite or Python refuses one row of a batch, nothing of the batch is
        booked, neither the rows before it nor those after it.
        """
        for number, size in enumerate((1, 3, 8, 2049)):
            for wrong in (
                reservation(1, comment="a\ud800b"),
                reservation(1, 2**63),
                reservation(1, -(2**63) - 1),
                reservation(1, state=7),
            ):
                ledger = self.opened(f"{number}{id(wrong)}.db")
                batch = [reservation(ledger.newOrder()) for _ in range(size)]
                batch[size // 2] = wrong
                self.failureResultOf(ledger.commit(withTotals(ledger, batch)))
                rows = self.writer(ledger).execute("SELECT * FROM trade").fetchall()
                self.assertEqual(rows, [])

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.lists(CHANGE, min_size=1, max_size=10), max_size=4))
    def test_asInMemory(self, history: list[list[tuple[Any, ...]]]) -> None:
        """
        New trades, their updates and deletions, in any order and with any
        comments, with keys and without, leave the same as in a ledger in
        memory.
        """
        self.patch(sqlite, "MAX_ROWS", 4)
        with TemporaryDirectory(dir=self.folder) as folder:
            ledger = SQLiteLedger(os.path.join(folder, "ledger.db"), execute)
            ledger.open()
            try:
                self._compare(ledger, history)
            finally:
                ledger.close()

    def _compare(
        self, ledger: SQLiteLedger, history: list[list[tuple[Any, ...]]]
    ) -> None:
        memory, keys, states = MemoryLedger(), list[str](), dict[int, int]()
        for _ in range(ORDERS):
            ledger.newOrder(), memory.newOrder()
        for changes in history:
            batch = []
            for *change, isKeyed in changes:
                key = f"key-{len(keys)}" if isKeyed else None
                batch.append(reservation(*change, key))
                keys += [key] if key else []
                states[change[0]] = states.get(change[0], -1) + 1
            self.commit(ledger, batch)
            self.commit(memory, batch)
            for order in range(1, ORDERS + 1):
                self.assertEqual(ledger.trade(order), memory.trade(order))
            for login in (1001, 1002, 1003):
                self.assertEqual(ledger.account(login), memory.account(login))
        for key in keys:
            one, other = ledger.replay(7, key), memory.replay(7, key)
            assert one is not None and other is not None
            self.assertEqual(one.trade, other.trade)
        rows = self.writer(ledger).execute('SELECT "order", revision FROM trade')
        self.assertEqual(dict(rows.fetchall()), states)
