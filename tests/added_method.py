"""
Tests of a method that was added to L{creditsync.methods}: run by
C{tests/test_added_method.py} in a copy of the package that has C{BonusIn},
with the C{cmd} 100.
"""

import io
import json
import os
import shutil
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from twisted.internet.defer import execute
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from creditsync.__main__ import _parser, main
from creditsync._cli.bulk.rows import BulkFile, Row, check
from creditsync.events import TradeEvents
from creditsync.ledger._checking import findings
from creditsync.ledger.memory import MemoryLedger
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.records import Account
from creditsync.runtime import TradingRuntime
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator
from creditsync.validation import Schemas

NOW = 1767225600
STORED = Path(__file__).parent / "ledgers" / "v1.db"
BONUS = {"login": 1001, "amount": 300.5, "comment": "Happy new year"}


class AddedMethodCase(SynchronousTestCase):
    """
    A whole server, with one client.
    """

    def setUp(self) -> None:
        """
        Make a folder for ledgers.
        """
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        self.path = os.path.join(os.path.realpath(made.name), "ledger.db")

    def starts(self, ledger: Any) -> None:
        """
        Start a server on a ledger, and connect.
        """
        self.clock = Clock()
        events = TradeEvents()
        runtime = TradingRuntime(
            self.clock, ledger, events, now=lambda: NOW, maxQueued=1000
        )
        self.server = CreditSync(
            self.clock,
            runtime=runtime,
            events=events,
            authenticator=FakeAuthenticator(),
            listen=[],
        )
        self.server.startService()
        self.ledger = ledger
        self.connection = self.server.factory.buildProtocol(None)
        self.transport = StringTransport()
        self.connection.makeConnection(self.transport)

    def stops(self) -> None:
        """
        Stop the server, so that the ledger is closed.
        """
        stopped = self.server.stopService()
        self.clock.pump([0.1] * 100)
        self.successResultOf(stopped)

    def ask(self, command: str, data: Any, **members: Any) -> Any:
        """
        Send one command.

        @return: The reply; the lines before it are events.
        """
        line = {"command": command, "extID": 1, "__token": "manager", "data": data}
        self.connection.dataReceived(json.dumps({**line, **members}).encode() + b"\r\n")
        self.clock.pump([0.01] * 3)
        lines = [json.loads(each) for each in self.transport.value().splitlines()]
        self.transport.clear()
        [reply] = [each for each in lines if "event" not in each]
        self.events = [each for each in lines if "event" in each]
        return reply


class EveryLedgerTests:
    """
    Tests of the added method that hold for every ledger.
    """

    def test_endToEnd(self: Any) -> None:
        """
        The added method books, updates, replays, refuses and is deleted as the
        other methods are, in both forms, and counts for the credit.
        """
        reply = self.ask("BonusInSync", BONUS, idempotencyKey="new-year")
        self.assertEqual(
            (reply["status"], reply["data"]["cmd"], reply["data"]["profit"]),
            (200, 100, 300.5),
        )
        self.assertEqual(self.events[0]["data"], reply["data"])
        order = reply["data"]["order"]
        again = self.ask("BonusInSync", BONUS, idempotencyKey="new-year")
        self.assertEqual((again["data"], again["replayed"]), (reply["data"], True))
        accepted = self.ask("BonusIn", {**BONUS, "amount": 50})["data"]
        self.assertEqual((accepted["cmd"], accepted["state"]), (100, 10))
        self.assertEqual(self.total(), Account(1001, 0, 350_50000000))
        less = self.ask("BonusInSync", {**BONUS, "amount": 1, "order": order})
        self.assertEqual(less["data"]["order"], order)
        self.assertEqual(self.total(), Account(1001, 0, 51_00000000))
        out = {**BONUS, "amount": -52}
        self.assertEqual(self.ask("CreditOutSync", out)["error"], "TRADE_NO_MONEY")
        self.assertEqual(self.ask("BonusInSync", out)["error"], "INVALID_DATA")
        wrong = self.ask("CreditInSync", {**BONUS, "order": order})
        self.assertEqual(wrong["error"], "INCORRECT_ORDER")
        wrong = self.ask("DeleteBalanceSync", {"order": order})
        self.assertEqual(wrong["error"], "INCORRECT_ORDER")
        gone = self.ask("DeleteCreditSync", {"order": order})["data"]
        self.assertEqual((gone["state"], gone["cmd"]), (6, 100))
        self.assertEqual(self.total(), Account(1001, 0, 50_00000000))
        out = {**BONUS, "amount": -49}
        self.assertEqual(self.ask("CreditOutSync", out)["status"], 200)
        self.assertEqual(self.total(), Account(1001, 0, 1_00000000))

    def total(self: Any) -> Account:
        """
        The account's totals.
        """
        found: Account = self.ledger.account(1001)
        return found


class MemoryTests(EveryLedgerTests, AddedMethodCase):
    """
    The added method on a ledger in memory.
    """

    def setUp(self) -> None:
        """
        Start a server on a ledger in memory.
        """
        super().setUp()
        self.starts(MemoryLedger())


class SQLiteTests(EveryLedgerTests, AddedMethodCase):
    """
    The added method on a new ledger file.
    """

    def setUp(self) -> None:
        """
        Start a server on a new file.
        """
        super().setUp()
        self.starts(SQLiteLedger(self.path, execute))

    def test_sound(self) -> None:
        """
        C{check} finds nothing wrong with the added method's trades, nor does
        the next start.
        """
        self.test_endToEnd()
        self.stops()
        with closing(sqlite3.connect(self.path)) as connection:
            self.assertEqual(list(findings(connection)), [])
            self.assertIn(
                (100, 0, 1, 1, "bonus in"),
                connection.execute("SELECT * FROM operation").fetchall(),
            )
        self.starts(SQLiteLedger(self.path, execute))
        self.assertEqual(self.total(), Account(1001, 0, 1_00000000))

    def test_people(self) -> None:
        """
        A statement shows the added method's trades with its label.
        """
        self.ask("BonusInSync", BONUS)
        self.stops()
        said = io.TextIOWrapper(io.BytesIO())
        self.patch(sys, "stdout", said)
        self.patch(
            sys, "argv", ["creditsync", "statement", "1001", "--ledger", self.path]
        )
        main()
        said.seek(0)
        self.assertRegex(said.read(), r" bonus-in +300\.50 +0\.00 +300\.50 ")


class StoredTests(EveryLedgerTests, AddedMethodCase):
    """
    The added method on a stored ledger of version 1, which was made without
    it.
    """

    def setUp(self) -> None:
        """
        Start on a copy of the stored ledger, and withdraw the account's
        credit.
        """
        super().setUp()
        shutil.copyfile(STORED, self.path)
        self.starts(SQLiteLedger(self.path, execute))
        out = {"login": 1001, "amount": -150.5, "comment": "Out"}
        self.assertEqual(self.ask("CreditOutSync", out)["status"], 200)


class CommandLineTests(SynchronousTestCase):
    """
    The added method on the command line.
    """

    def test_subcommand(self) -> None:
        """
        The added method has a subcommand of its name, which requires a
        comment.
        """
        options = _parser().parse_args(["bonus-in", "1001", "300", "Happy new year"])
        self.assertEqual((options.login, options.name), (1001, "bonus-in"))

    def test_bulk(self) -> None:
        """
        A bulk file may contain the added method.
        """
        with tempfile.TemporaryFile() as file:
            file.write(
                b"login,amount,comment,command\n1001,300,Happy new year,BonusInSync\n"
            )
            file.seek(0)
            [row] = BulkFile(file, None, "7").rows()
        assert isinstance(row, Row)
        check(row, Schemas())
        self.assertEqual(row.command, "BonusInSync")
