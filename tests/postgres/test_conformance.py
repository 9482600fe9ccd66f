"""
The state machine of C{tests/postgres/conformance.py}, for a short while, and some of
the bugs that it has to find.
"""

import psycopg
from twisted.trial.unittest import SynchronousTestCase

from tests.postgres import ground
from tests.postgres.conformance import ConformanceMachine
from tests.postgres.engine import Node, makeTables
from tests.postgres.planted import plant, run


class ConformanceTests(SynchronousTestCase):
    """
    Tests that all ledgers say the same.
    """

    def setUp(self) -> None:
        """
        Connect two nodes.
        """
        database = ground.database()
        self.addCleanup(database.drop)
        makeTables(database)
        nodes = [Node(database, 1), Node(database, 2)]
        for node in nodes:
            self.addCleanup(node.connection.close)
        self.node = nodes[0]
        self.patch(ConformanceMachine, "nodes", nodes)

    def test_same(self) -> None:
        """
        Verdicts, records, totals, keys, and the journal with its hashes are the same.
        """
        run(15)

    def test_moneyIsFound(self) -> None:
        """
        An engine that lets a total fall below zero is found.
        """
        plant(self.node, "a total below zero")
        self.assertRaises((AssertionError, psycopg.Error), run)

    def test_orderIsFound(self) -> None:
        """
        An engine that lets an order of another login be updated is found.
        """
        plant(self.node, "an order of another login")
        self.assertRaises((AssertionError, psycopg.Error), run)

    def test_hashIsFound(self) -> None:
        """
        An engine whose hashes are not chained is found.
        """
        plant(self.node, "a hash")
        self.assertRaises((AssertionError, psycopg.Error), run)
