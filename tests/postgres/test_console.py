"""
Tests for what the console and the metrics show of a node.
"""

from prometheus_client.registry import CollectorRegistry

from creditsync.counters import Counters
from creditsync.events import TradeEvents
from creditsync.metrics import Metrics
from creditsync.postgres._console import tradesByKey, tradesOf
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator
from creditsync.web._history import History
from creditsync.web._snapshot import snapshot
from tests.postgres.test_book import credit
from tests.postgres.test_runtime import RuntimeCase


class SearchTests(RuntimeCase):
    """
    What the console finds.
    """

    def test_login(self) -> None:
        """
        The newest trades of an account, up to the last that was looked for.
        """
        for _ in range(3):
            self.booked(credit(login=1001))
        self.booked(credit(login=1002))
        address = self.database.dsn()
        found = tradesOf(address, 1001, 50, 1.0)
        self.assertEqual([trade.order for trade in found.trades], [233, 169, 105])
        self.assertEqual(found.downTo, 0)
        found = tradesOf(address, 1001, 2, 1.0)
        self.assertEqual([trade.order for trade in found.trades], [233, 169])
        self.assertEqual(found.downTo, 169)

    def test_key(self) -> None:
        """
        What any principal has booked with a key.
        """
        self.booked(credit(login=1001, key="k"))
        self.booked(credit(login=1001, key="other"))
        operation = credit(login=1001, key="k")
        operation.principal = 8
        self.booked(operation)
        address = self.database.dsn()
        found = tradesByKey(address, "k", 50, 1.0)
        self.assertEqual([trade.order for trade in found.trades], [233, 105])
        self.assertEqual(tradesByKey(address, "none", 50, 1.0).trades, [])


class NodeTests(RuntimeCase):
    """
    A node beside another one.
    """

    def setUp(self) -> None:
        """
        Start both.
        """
        super().setUp()
        self.other = self.start("b")
        clock = self.node.clock
        counters = Counters(clock, lambda: 0.0)
        service = CreditSync(
            clock,
            runtime=self.node.runtime,
            events=TradeEvents(),
            authenticator=FakeAuthenticator(),
            listen=[],
            counters=counters,
        )
        self.metrics = Metrics(clock, service, counters)

    def value(self, name: str, **labels: str) -> float | None:
        """
        The value of a metric.
        """
        registry = CollectorRegistry()
        registry.register(self.metrics)
        return registry.get_sample_value(f"creditsync_node_{name}", labels)

    def test_shown(self) -> None:
        """
        The console shows its name, and how well it follows.
        """
        self.node.clock.advance(0.02)
        shown = snapshot(self.metrics, History(self.metrics))["node"]
        self.assertEqual(
            shown,
            {
                "name": "a",
                "incarnation": 1,
                "behind": 0,
                "readAge": 0.02,
                "isHeard": False,
                "isSynchronous": False,
                "unknowns": 0,
                "retries": 0,
            },
        )

    def test_behind(self) -> None:
        """
        What others have booked, and is not published here, is counted.
        """
        self.assertEqual(self.value("behind_events"), 0)
        self.node.lines.held.add("feed")
        self.booked(credit(), self.other)
        self.node.clock.advance(5)
        self.assertEqual(self.value("behind_events"), 1)
        self.node.lines.held.clear()
        self.node.lines.statements.popleft().answer()
        self.node.clock.advance(1)
        self.assertEqual(self.value("behind_events"), 0)

    def test_polls(self) -> None:
        """
        So is each look without a notification, and each connection under its name.
        """
        before = self.value("polls_total")
        assert before is not None
        self.node.clock.advance(0.5)
        self.assertEqual(self.value("polls_total"), before + 1)
        self.assertEqual(self.value("incarnation", node="a"), 1)
        self.assertEqual(self.value("lanes"), 1)
