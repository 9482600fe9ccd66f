"""
The state machine of C{tests/postgres/conformance.py}, for a short while, and some of
the planted bugs.
"""

from twisted.trial.unittest import SynchronousTestCase

from tests.postgres.conformance import connected, run
from tests.postgres.lives import LIVES
from tests.postgres.planted import PLANTED, isFound, plant


class ConformanceTests(SynchronousTestCase):
    """
    Tests that all ledgers say the same.
    """

    def assertFound(self, name: str) -> None:
        """
        Without a bug its life shows none, and with it one.
        """
        with connected() as [node, _]:
            self.assertFalse(isFound(name))
            plant(node, name)
            self.assertTrue(isFound(name))

    def test_same(self) -> None:
        """
        Verdicts, records, totals, keys, searches, and the journal with its hashes are
        the same.
        """
        with connected():
            run(15)

    def test_rules(self) -> None:
        """
        There is a life for each planted bug, and a bug for each life.
        """
        self.assertEqual({*LIVES}, {*PLANTED})

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
