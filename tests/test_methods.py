"""
Tests for L{creditsync.methods}: that everything agrees with the one table.
"""

import inspect
import os
import sqlite3
import tempfile
from argparse import ArgumentParser
from contextlib import closing
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from creditsync import methods
from creditsync._cli import operations
from creditsync._cli.bulk import rows
from creditsync._cli.wording import cmdName
from creditsync._conversation.finance import financeCommands, prove
from creditsync.audit import _MONEY
from creditsync.client import CreditClient
from creditsync.errors import LedgerProblem, MethodProblem
from creditsync.events import TradeEvents
from creditsync.ledger import _operations as stored
from creditsync.ledger._checking import findings
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.methods import (
    BOOKING_METHODS,
    DELETING_METHODS,
    FINANCE_METHODS,
    BookingMethod,
)
from creditsync.records import DATA_MEMBERS, Account, Operation, Reservation, Trade
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator, FakeTradingRuntime
from creditsync.validation import Schemas, load
from tests import family
from tests.totals import withTotals

CREDIT_IN = BOOKING_METHODS[0]
BONUS = BookingMethod("BonusIn", 100, "credit", 1, "bonus in", "add a bonus")


class TableTests(SynchronousTestCase):
    """
    Tests for the table itself.
    """

    def test_rows(self) -> None:
        """
        The table is the platform's, written out once more.
        """
        self.assertEqual(
            [
                (each.name, each.cmd, each.total, each.sign, each.comment)
                for each in BOOKING_METHODS
            ],
            [
                ("CreditIn", 7, "credit", 1, None),
                ("CreditOut", 9, "credit", -1, None),
                ("BalanceIn", 6, "balance", 1, "Finance"),
                ("BalanceOut", 8, "balance", -1, "Finance"),
            ],
        )
        self.assertEqual(
            [(each.name, each.cmds) for each in DELETING_METHODS],
            [("DeleteCredit", {7, 9}), ("DeleteBalance", {6, 8})],
        )

    def test_model(self) -> None:
        """
        The suites' model of the finance methods has the same rows.
        """
        rows = {method.name: method for method in BOOKING_METHODS}
        for name, method in family.METHODS.items():
            row = rows[name]
            self.assertEqual((row.cmd, row.total, row.sign, row.schema), method)
        self.assertEqual(
            {method.total: method.name for method in DELETING_METHODS},
            family.DELETIONS,
        )

    def test_sound(self) -> None:
        """
        The table has no flaws.
        """
        self.assertIsNone(methods.flaw())

    def test_flaws(self) -> None:
        """
        Each kind of flawed row is reported, with the reason.
        """
        for row, flaw in (
            (
                evolve(BONUS, total="bonus"),
                "BonusIn counts for bonus, which is not a total",
            ),
            (evolve(BONUS, sign=0), "BonusIn has the sign 0, expected 1 or -1"),
            (evolve(BONUS, cmd=9), "CreditOut and BonusIn have the same cmd"),
            (
                evolve(BONUS, name="CreditIn"),
                "CreditIn and CreditIn have the same name",
            ),
            (
                evolve(BONUS, label="credit in"),
                "CreditIn and BonusIn have the same label",
            ),
        ):
            self.assertEqual(methods.flaw((*BOOKING_METHODS, row)), flaw)

    def test_totals(self) -> None:
        """
        The totals in the table are those of an account.
        """
        self.assertEqual(
            ("login", *methods.TOTALS, "group"),
            Account.__struct_fields__,
        )


class SchemaTests(SynchronousTestCase):
    """
    Tests for the schemas of what clients send.
    """

    def test_proved(self) -> None:
        """
        Each method's schema accepts what its row says.
        """
        prove(Schemas())

    def test_refused(self) -> None:
        """
        A row that contradicts its schema is reported.
        """
        for row, words in (
            (evolve(CREDIT_IN, sign=-1), "CreditIn is to take"),
            (evolve(CREDIT_IN, comment="Finance"), "CreditIn is to take"),
            (evolve(BOOKING_METHODS[2], comment=None), "BalanceIn is to refuse"),
        ):
            message = str(self.assertRaises(MethodProblem, prove, Schemas(), [row]))
            self.assertIn(words, message)
            self.assertIn(f"schemas/{row.schema}.json says otherwise", message)

    def test_flawed(self) -> None:
        """
        A flaw of the table is reported before any schema is read.
        """
        message = self.assertRaises(
            MethodProblem, prove, Schemas(), [evolve(CREDIT_IN, sign=0)]
        )
        self.assertIn("the sign 0", str(message))

    def test_noStart(self) -> None:
        """
        A server whose table contradicts a schema doesn't start, and frees its
        ports.
        """

        class Lenient(Schemas):
            def isOurs(self, name: str, value: object) -> bool:
                return True

        clock, events = Clock(), TradeEvents()
        server = CreditSync(
            clock,
            runtime=FakeTradingRuntime(events),
            events=events,
            authenticator=FakeAuthenticator(),
            listen=[],
            schemas=Lenient(),
        )
        message = str(self.assertRaises(MethodProblem, server.startService))
        self.assertIn("CreditIn is to refuse", message)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_missing(self) -> None:
        """
        A missing schema is named.
        """
        message = str(self.assertRaises(ValueError, load, "bonus_in"))
        self.assertEqual(message, "this creditsync has no schemas/bonus_in.json")

    def test_cmds(self) -> None:
        """
        The cmd of a trade record is one of the table's, and described by its
        label.
        """
        cmd = load("common")["$defs"]["cmd"]
        self.assertEqual(sorted(cmd["enum"]), sorted(methods.TOTAL_OF))
        for method in BOOKING_METHODS:
            self.assertIn(f"{method.cmd} {method.label}", cmd["description"])


class HandCopyTests(SynchronousTestCase):
    """
    Tests for the names that are derived from the table, and those that repeat
    it.
    """

    def test_commands(self) -> None:
        """
        Each method has its two commands, in the audit trail too, which also has those
        for finance requests and for what a gateway holds.
        """
        names = {
            method.name + form for method in FINANCE_METHODS for form in ("", "Sync")
        }
        runtime = FakeTradingRuntime(TradeEvents())
        self.assertEqual({each.name for each in financeCommands(runtime)}, names)
        decided = {
            "MngResolveOperation",
            "MngCreateFinanceRequest",
            "MngApproveFinanceRequest",
            "MngApproveFinanceRequestSync",
            "MngDeclineFinanceRequest",
        }
        self.assertEqual(_MONEY, names | decided)

    def test_subcommands(self) -> None:
        """
        Each method is a subcommand, or one of those that C{delete} stands for.
        """
        parser = ArgumentParser()
        commands = parser.add_subparsers()
        operations.addCommand(commands)
        self.assertEqual(
            set(commands.choices),
            {*(each.subcommand for each in BOOKING_METHODS), "delete"},
        )
        for method in DELETING_METHODS:
            options = parser.parse_args(["delete", method.total, "1"])
            self.assertEqual(options.kind, method.total)

    def test_bulk(self) -> None:
        """
        Each method that makes trades may be used in a bulk file.
        """
        self.assertEqual(
            rows.COMMANDS, tuple(f"{each.name}Sync" for each in BOOKING_METHODS)
        )

    def test_words(self) -> None:
        """
        A trade is described by the name of its subcommand, and one of another
        trading runtime by its cmd, whatever that is.
        """
        self.assertEqual(
            [cmdName(cmd) for cmd in (6, 7, 8, 9, 5, None, [7])],
            [
                "balance-in",
                "credit-in",
                "balance-out",
                "credit-out",
                "cmd 5",
                "cmd None",
                "cmd [7]",
            ],
        )

    def test_client(self) -> None:
        """
        The client sends the command of each method; the client's own methods
        require a comment where the table does.
        """

        class Asked(CreditClient):
            def __init__(self) -> None:
                self.asked: list[Any] = []

            def request(
                self, command: str, data: Any, key: str | None = None
            ) -> "Deferred[Any]":
                self.asked.append((command, data, key))
                return Deferred()

        named = 0
        for method in FINANCE_METHODS:
            client = Asked()
            name = method.name[0].lower() + method.name[1:]
            ask = getattr(client, name, None)
            if isinstance(method, BookingMethod):
                times = {"order": 3, "openTime": 1, "closeTime": 2}
                data = {
                    "login": 1001,
                    "amount": 5,
                    "comment": "Why",
                    "order": 3,
                    "open_time": 1,
                    "close_time": 2,
                }
                self.assertEqual(set(data), set(DATA_MEMBERS))
                client.book(method.name, 1001, 5, "Why", **times, key="k")
                if ask is not None:
                    ask(1001, 5, "Why", **times, key="k")
                    comment = inspect.signature(ask).parameters["comment"]
                    isNeeded = comment.default is comment.empty
                    self.assertEqual(isNeeded, method.comment is None, name)
            else:
                data = {"order": 3}
                client.delete(method.name, 3, key="k")
                if ask is not None:
                    ask(3, key="k")
            named += ask is not None
            self.assertEqual(
                client.asked, [(f"{method.name}Sync", data, "k")] * len(client.asked)
            )
            self.assertEqual(len(client.asked), 1 + (ask is not None))
        self.assertEqual(named, 6)


class LedgerTests(SynchronousTestCase):
    """
    Tests for the table C{operation} of a ledger.
    """

    def setUp(self) -> None:
        """
        Make a ledger with one credit, and close it.
        """
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(os.path.realpath(folder.name), "ledger.db")
        ledger = self.opened()
        trade = Trade(ledger.newOrder(), 1001, 7, 3, 500, "Gift", 1, 2, 3)
        asked = Operation("CreditIn", 7, 1001, 500, "Gift")
        self.successResultOf(
            ledger.commit(withTotals(ledger, [Reservation(0, trade, asked)]))
        )
        ledger.close()

    def opened(self) -> SQLiteLedger:
        """
        The opened ledger.
        """
        ledger = SQLiteLedger(self.path, execute)
        ledger.open()
        self.addCleanup(ledger.close)
        return ledger

    def sql(self, script: str) -> None:
        """
        Change the file past the server.
        """
        with closing(sqlite3.connect(self.path)) as connection:
            connection.executescript(script)

    def rows(self) -> list[Any]:
        """
        The rows of the table.
        """
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute("SELECT * FROM operation").fetchall()

    def found(self) -> list[tuple[str, str]]:
        """
        The problems that C{creditsync check} reports.
        """
        with closing(sqlite3.connect(self.path)) as connection:
            return [(each.rule, each.message) for each in findings(connection)]

    def written(self, *table: BookingMethod) -> None:
        """
        Write the rows of another table of methods.
        """
        with closing(sqlite3.connect(self.path)) as connection:
            stored.writeMethods(connection, self.path, table)
            connection.commit()

    def test_unusedMethod(self) -> None:
        """
        A method without trades is added and removed with the build.
        """
        self.written(*BOOKING_METHODS, BONUS)
        self.assertIn((100, 0, 1, 1, "bonus in"), self.rows())
        self.assertEqual(
            self.found(),
            [
                (
                    "operation",
                    "the table operation has {'cmd': 100, 'balance': 0, 'credit': 1,"
                    " 'sign': 1, 'label': 'bonus in'} for cmd 100, but this creditsync"
                    " has no row",
                )
            ],
        )
        self.opened().close()
        self.assertNotIn((100, 0, 1, 1, "bonus in"), self.rows())
        self.assertEqual(self.found(), [])

    def test_usedMethod(self) -> None:
        """
        A ledger with trades of a method that this build lacks is refused, with
        a message that says what to do, and left unchanged.
        """
        self.written(*BOOKING_METHODS, BONUS)
        self.sql(
            "INSERT INTO trade VALUES (2, 1001, 100, 3, 7, 'Bonus', 1, 2, 3, 0, 2)",
        )
        before = self.rows()
        message = str(self.assertRaises(LedgerProblem, self.opened))
        self.assertEqual(
            message,
            f"the ledger {self.path} has trades with cmd 100 (bonus in), which this"
            " creditsync does not know or counts differently: run the creditsync that"
            " wrote it",
        )
        self.assertEqual(self.rows(), before)

    def test_otherTotal(self) -> None:
        """
        The total of a cmd can't change once it has trades.
        """
        other = [
            evolve(each, total="balance") if each is CREDIT_IN else each
            for each in BOOKING_METHODS
        ]
        with closing(sqlite3.connect(self.path)) as connection:
            self.assertRaises(
                LedgerProblem, stored.writeMethods, connection, self.path, other
            )
        self.sql("UPDATE operation SET balance = 1, credit = 0 WHERE cmd = 7")
        self.assertIn(
            "trades with cmd 7", str(self.assertRaises(LedgerProblem, self.opened))
        )

    def test_otherLabel(self) -> None:
        """
        The label of a cmd may change once it has trades.
        """
        self.sql("UPDATE operation SET label = 'Kredit' WHERE cmd = 7")
        self.opened().close()
        self.assertIn((7, 0, 1, 1, "credit in"), self.rows())
