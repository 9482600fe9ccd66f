"""
The state machine of C{tests/postgres/conformance.py}, for a short while, and some of
the bugs that it has to find.
"""

import psycopg
from twisted.trial.unittest import SynchronousTestCase

from tests.postgres.conformance import connected, run
from tests.postgres.planted import EXAMPLES, plant


class ConformanceTests(SynchronousTestCase):
    """
    Tests that all ledgers say the same.
    """

    def assertFound(self, name: str) -> None:
        """
        A planted bug is found.
        """
        with connected() as nodes:
            plant(nodes[0], name)
            self.assertRaises((AssertionError, psycopg.Error), run, EXAMPLES)

    def test_same(self) -> None:
        """
        Verdicts, records, totals, keys, searches, and the journal with its hashes are
        the same.
        """
        with connected():
            run(15)

    def test_moneyIsFound(self) -> None:
        """
        An engine that lets a total fall below zero is found.
        """
        self.assertFound("a total below zero")

    def test_timesAreFound(self) -> None:
        """
        An engine that lets a trade close before it opens is found.
        """
        self.assertFound("times in the wrong order")

    def test_hashIsFound(self) -> None:
        """
        An engine whose hashes are not chained is found.
        """
        self.assertFound("a hash")
