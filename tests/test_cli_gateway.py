"""
Tests for L{creditsync._cli.gateway} and L{creditsync.gateway._listing}.
"""

import json
import os
import tempfile
import tomllib
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from unittest.mock import patch

from twisted.internet.defer import execute
from twisted.trial.unittest import SynchronousTestCase

from creditsync.__main__ import main
from creditsync._cli.gateway import table
from creditsync.gateway._sqlitelog import SQLiteIntentLog
from creditsync.gateway._states import State
from creditsync.ledger.sqlite import SQLiteLedger
from tests.test_gateway_intents import intent


class GatewayCommandTests(SynchronousTestCase):
    """
    Tests for what reads the log of a gateway.
    """

    def setUp(self) -> None:
        """
        Have a log with three operations.
        """
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "gateway.db")
        ledger = SQLiteLedger(self.path, execute, isGateways=True)
        log = SQLiteIntentLog(ledger)
        self.successResultOf(log.open())
        one, two, three = intent(1, "a"), intent(2, "b"), intent(3, "c")
        one.move(State.HELD, "the platform does not show it")
        three.move(State.UNSEEN, "the platform does not show it")
        two.move(State.HELD)
        two.move(State.ABSENT, "a person has decided that it was never booked")
        two.decidedBy = "principal 9"
        alarm = (1767225600, "order 7 is gone")
        self.successResultOf(log.write([one, two, three], [], 1767225600, [alarm]))
        ledger.close()

    def run_(self, *arguments: str) -> str:
        """
        Run the command.

        @return: What it prints.
        """
        output = StringIO()
        command = patch("sys.argv", ["creditsync", "gateway", *arguments])
        with command, redirect_stdout(output):
            main()
        return output.getvalue()

    def test_held(self) -> None:
        """
        Those that wait for a person are listed, with what to look for.
        """
        self.assertEqual(
            self.run_("held", "--ledger", self.path),
            "1: CreditIn of account 1001, 300.00, 'gift', sent 2026-01-01 00:00:00"
            " UTC, is held: the platform does not show it\n",
        )

    def test_heldAsJSON(self) -> None:
        """
        The same for programs.
        """
        [found] = json.loads(self.run_("held", "--ledger", self.path, "--json"))
        self.assertEqual(
            found,
            {
                "operation": 1,
                "state": "held",
                "type": 0,
                "order": None,
                "login": 1001,
                "cmd": 7,
                "amount": "300.00",
                "comment": "gift",
                "open_time": 1767225600,
                "principal": 7,
                "key": "a",
                "sent_at": 1767225600,
                "why": "the platform does not show it",
                "decided_by": None,
            },
        )

    def test_report(self) -> None:
        """
        The report counts all, and lists what is not settled and who has decided.
        """
        lines = self.run_("report", "--ledger", self.path).splitlines()
        self.assertEqual(
            lines[:2],
            [
                "operations: 1 absent, 1 held, 1 unseen",
                "complete up to: 2026-01-01 00:00:00 UTC",
            ],
        )
        self.assertEqual(
            [line.split(",")[0] for line in lines[2:5]],
            [
                "unsettled: 1: CreditIn of account 1001",
                "unsettled: 3: CreditIn of account 1001",
                "decided: 2: CreditIn of account 1001",
            ],
        )
        self.assertEqual(lines[5], "alarm: 2026-01-01 00:00:00 UTC: order 7 is gone")
        self.assertTrue(lines[4].endswith("never booked, decided by principal 9"))
        found = json.loads(self.run_("report", "--ledger", self.path, "--json"))
        self.assertEqual(found["counts"], {"absent": 1, "held": 1, "unseen": 1})

    def test_notOne(self) -> None:
        """
        A ledger of another kind is refused.
        """
        path = os.path.join(os.path.dirname(self.path), "own.db")
        ledger = SQLiteLedger(path, execute)
        ledger.open()
        ledger.close()
        errors = StringIO()
        with redirect_stderr(errors):
            ended = self.assertRaises(SystemExit, self.run_, "held", "--ledger", path)
        self.assertIn("is not a gateway's", errors.getvalue() + str(ended))


class ProfileTests(SynchronousTestCase):
    """
    Tests for L{table}.
    """

    def test_kept(self) -> None:
        """
        What people have written into a profile means the same after a probe.
        """
        written = {
            "GetSymbols": "client",
            "GetUsers": {"token": "service", "roles": ["admin", "manager"]},
        }
        text = "two-phase = true\n" + table("commands", {"A": "B"})
        found = tomllib.loads(text + table("pass", written))
        self.assertEqual(
            found, {"two-phase": True, "commands": {"A": "B"}, "pass": written}
        )
