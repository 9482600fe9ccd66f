"""
Tests for a gateway whose ledger is renamed while it runs.
"""

import os
import tempfile
from pathlib import Path

from twisted.internet.defer import execute, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from creditsync.errors import LedgerProblem
from creditsync.events import TradeEvents
from creditsync.gateway._runtime import GatewayRuntime
from creditsync.gateway._sqlitelog import SQLiteIntentLog
from creditsync.ledger.sqlite import SQLiteLedger
from tests.gateways import operation
from tests.platforms import NOW, Link, Platform


class GoneTests(SynchronousTestCase):
    """
    A log that is a file.
    """

    def test_renamed(self) -> None:
        """
        Nothing is sent that is not in the log under its name, and the gateway stops
        with the reason. It does not begin with an empty log.
        """
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = Path(os.path.realpath(folder.name)) / "gateway.db"
        clock = Clock()
        platform = Platform(lambda: NOW + clock.seconds())
        ledger = SQLiteLedger(str(path), execute, isGateways=True)
        gateway = GatewayRuntime(
            clock,
            SQLiteIntentLog(ledger),
            Link(clock, platform),
            TradeEvents(),
            now=platform.now,
            maxQueued=9,
        )
        failed = gateway.whenFailed()
        self.successResultOf(gateway.startService())
        for _ in range(9):
            clock.advance(0)
        path.rename(path.with_suffix(".old"))
        reserved = maybeDeferred(gateway.submit, operation(key="k1"))
        for _ in range(9):
            clock.advance(0)
        self.assertNoResult(reserved)
        why = self.failureResultOf(failed, LedgerProblem).getErrorMessage()
        self.assertIn("was renamed, deleted or replaced", why)
        self.assertNotIn("CreditIn", [command for command, _ in platform.heard])
        self.flushLoggedErrors(LedgerProblem)
        gateway.stopService()
        again = SQLiteLedger(str(path), execute, isGateways=True)
        self.assertRaises(LedgerProblem, again.open)
