"""
Tests for L{creditsync.gateway._postgreslog} and L{creditsync.postgres._recorder}, on a
real PostgreSQL whose answers come when the test says so.
"""

from twisted.trial.unittest import SynchronousTestCase

from tests.postgres.gateways import Gateway, emptied
from tests.test_gateway_intents import LogTests


class PostgresIntentLogTests(LogTests, SynchronousTestCase):
    """
    Tests for L{PostgresIntentLog}: what every log does.
    """

    def setUp(self) -> None:
        """
        Open a log in a new database.
        """
        self.database = emptied()
        self.begin()

    def begin(self) -> None:
        """
        Open the log.
        """
        gateway = Gateway(self.database)
        self.log = gateway.log
        self.successResultOf(gateway.open())
        self.addCleanup(self.log.close)

    def reopen(self) -> None:
        """
        See L{LogTests.reopen}.
        """
        self.log.close()
        self.begin()
