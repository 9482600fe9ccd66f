"""
Tests for the servers and the proxy that the other tests here use.
"""

import time

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from twisted.trial.unittest import SynchronousTestCase

from tests.postgres import ground
from tests.postgres.proxy import Proxy

# A stop of the whole server takes its time on a busy machine.
pytestmark = [pytest.mark.timeout(120), pytest.mark.proof]


class ServerTests(SynchronousTestCase):
    """
    Tests for C{tests/postgres/ground.py}.
    """

    def test_killed(self) -> None:
        """
        A server that was killed has what was committed when it is started again, at
        the same port.
        """
        server = ground.start()
        self.addCleanup(server.kill)
        database = server.database()
        database.rows("CREATE TABLE fact (number int)")
        database.rows("INSERT INTO fact VALUES (1)")
        port = server.port
        server.restart()
        self.assertEqual(database.rows("SELECT number FROM fact"), [(1,)])
        self.assertEqual(server.port, port)

    def test_failover(self) -> None:
        """
        A standby that a commit has waited for has it, and goes on as the primary.
        """
        server = ground.start()
        self.addCleanup(server.kill)
        database = server.database()
        standby = server.standby()
        self.addCleanup(standby.kill)
        server.replicateSynchronously()
        database.rows("CREATE TABLE fact (number int)")
        database.rows("INSERT INTO fact VALUES (1)")
        server.kill()
        standby.promote()
        standby.rows("INSERT INTO fact VALUES (2)", database=database.name)
        self.assertEqual(
            standby.rows("SELECT number FROM fact", database=database.name),
            [(1,), (2,)],
        )

    def test_terminated(self) -> None:
        """
        The connections of one application can be terminated.
        """
        database = ground.database()
        self.addCleanup(database.drop)
        one = psycopg.connect(database.dsn(application_name="one"))
        self.addCleanup(one.close)
        other = psycopg.connect(database.dsn(application_name="other"))
        self.addCleanup(other.close)
        self.assertEqual(database.terminateBackends("one"), 1)
        with self.assertRaises(psycopg.OperationalError):
            one.execute("SELECT 1")
        other.execute("SELECT 1")
        self.assertEqual(list(database.backends()), ["other"])

    def test_frozen(self) -> None:
        """
        A frozen server answers nothing, and goes on later.
        """
        server = ground.start()
        self.addCleanup(server.kill)
        with server.frozen(), self.assertRaises(psycopg.OperationalError):
            psycopg.connect(server.dsn(), connect_timeout=2)
        self.assertEqual(server.rows("SELECT 1"), [(1,)])


class ProxyTests(SynchronousTestCase):
    """
    Tests for C{tests/postgres/proxy.py}.
    """

    def setUp(self) -> None:
        """
        Put a proxy in front of the shared server.
        """
        self.database = ground.database()
        self.addCleanup(self.database.drop)
        self.proxy = Proxy(self.database.server.port)
        self.addCleanup(self.proxy.close)

    def connect(self) -> "psycopg.Connection[tuple[int]]":
        """
        Connect through the proxy.
        """
        dsn = make_conninfo(self.database.dsn(), port=self.proxy.port)
        connection = psycopg.connect(dsn, autocommit=True)
        self.addCleanup(connection.close)
        return connection

    def test_cut(self) -> None:
        """
        Connections can be cut, and others come through after that.
        """
        connection = self.connect()
        self.assertEqual(self.proxy.cut(), 1)
        with self.assertRaises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        self.assertEqual(self.connect().execute("SELECT 1").fetchall(), [(1,)])

    def test_cutAfter(self) -> None:
        """
        A connection can be cut behind a byte of what the client sends, or the server.
        """
        for way in ("toServer", "toClient"):
            self.proxy.unlimited()
            connection = self.connect()
            before = getattr(self.proxy, way)
            self.proxy.cutAfter(way, 10)
            with self.assertRaises(psycopg.OperationalError):
                connection.execute("SELECT 1")
            self.assertEqual(getattr(self.proxy, way) - before, 10)

    def test_stalled(self) -> None:
        """
        What is sent while the proxy is stalled comes later.
        """
        connection = self.connect()
        self.proxy.stall()
        connection.pgconn.send_query(b"SELECT 1")
        time.sleep(0.1)
        connection.pgconn.consume_input()
        self.assertTrue(connection.pgconn.is_busy())
        self.proxy.resume()
        while connection.pgconn.is_busy():
            connection.pgconn.consume_input()
        result = connection.pgconn.get_result()
        assert result is not None
        self.assertEqual(result.get_value(0, 0), b"1")

    def test_muted(self) -> None:
        """
        A muted proxy swallows notifications, and nothing else.
        """
        heard = []
        for self.proxy.isMuted in (False, True):
            connection = self.connect()
            connection.execute("LISTEN door")
            self.database.rows("NOTIFY door, 'bell'")
            self.assertEqual(connection.execute("SELECT 1").fetchall(), [(1,)])
            notified = list(connection.notifies(timeout=0.2, stop_after=1))
            heard.append([each.payload for each in notified])
        self.assertEqual(heard, [["bell"], []])
