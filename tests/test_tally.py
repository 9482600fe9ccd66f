"""
Tests for the names of the previous release.
"""

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from creditsync.counters import Counters
from creditsync.events import TradeEvents
from creditsync.ledger.memory import MemoryLedger
from creditsync.runtime import TradingRuntime
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator, FakeTradingRuntime


class FormerNamesTests(SynchronousTestCase):
    """
    Code of embedders for the previous release still works, with a deprecation
    warning.
    """

    def warned(self, *texts: str) -> None:
        """
        Assert that these warnings were given, and no others.
        """
        warnings = [each["message"] for each in self.flushWarnings()]
        self.assertEqual(len(warnings), len(texts), warnings)
        for text, warning in zip(texts, warnings, strict=True):
            self.assertIn(text, warning)

    def test_module(self) -> None:
        """
        C{creditsync.tally.Tally} is C{creditsync.counters.Counters}.
        """
        from creditsync import tally

        self.assertIs(tally.Tally, Counters)
        self.warned("Use creditsync.counters.Counters instead.")

    def test_arguments(self) -> None:
        """
        The argument C{tally} is C{counters}.
        """
        clock, events = MemoryReactorClock(), TradeEvents()
        counters = Counters(clock, clock.seconds)
        server = CreditSync(
            clock,
            runtime=FakeTradingRuntime(events),
            events=events,
            authenticator=FakeAuthenticator(),
            listen=[],
            tally=counters,
        )
        self.assertIs(server.sessions.counters, counters)
        TradingRuntime(
            clock,
            MemoryLedger(),
            events,
            now=clock.seconds,
            maxQueued=1,
            tally=counters,
        )
        self.assertTrue(counters.books)
        self.warned("please use counters instead", "please use counters instead")
