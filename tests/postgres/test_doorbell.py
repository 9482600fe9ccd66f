"""
Tests for C{creditsync.postgres._doorbell}: with a fake connection, and with real
servers.
"""

from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest
import pytest_twisted
from attrs import define, field
from psycopg.conninfo import make_conninfo
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from creditsync._failing import FailureNotifier
from creditsync.postgres import _doorbell
from creditsync.postgres._connection import Connection, ConnectionLost, connect
from creditsync.postgres._doorbell import Doorbell
from tests.postgres import ground, pooler
from tests.postgres.proxy import Proxy

pytestmark = pytest.mark.timeout(120)


@define(eq=False)
class FakeConnection:
    """
    A connection that remembers what it is given.
    """

    notified: Any = None
    statements: list[tuple[str, list[str], Deferred[Any]]] = field(factory=list)
    lost: FailureNotifier = field(factory=FailureNotifier)
    isClosed: bool = False

    def execute(self, statement: str, values: Any = ()) -> Deferred[Any]:
        """
        See L{Connection.execute}.
        """
        done: Deferred[Any] = Deferred()
        self.statements.append((statement, list(values), done))
        return done

    def whenLost(self) -> Deferred[None]:
        """
        See L{Connection.whenLost}.
        """
        return self.lost.whenFailed()

    def close(self) -> None:
        """
        See L{Connection.close}.
        """
        if not self.isClosed:
            self.lose()

    def lose(self) -> None:
        """
        The connection ends.
        """
        self.isClosed = True
        why = Failure(ConnectionLost("cut"))
        for _, _, done in self.statements:
            if not done.called:
                done.errback(ConnectionLost("cut", True))
        self.lost.fail(why)

    def payloads(self) -> list[str]:
        """
        What was notified.
        """
        return [values[0] for _, values, _ in self.statements if values]


class DoorbellTests(SynchronousTestCase):
    """
    Tests with a fake connection and a clock.
    """

    def setUp(self) -> None:
        """
        Start a doorbell.
        """
        self.clock = Clock()
        self.tries: list[Deferred[Any]] = []
        self.heard: list[float] = []
        self.said: list[str] = []
        self.doorbell = Doorbell(
            self.clock,
            self.connect,
            self.hears,
            lambda: "epoch server 7",
            random=lambda: 1.0,
        )

    def hears(self, said: str) -> None:
        """
        Note what is heard, and when.
        """
        self.said.append(said)
        self.heard.append(round(self.clock.seconds(), 3))

    def connect(self) -> Deferred[Any]:
        """
        Try to connect.
        """
        self.tries.append(Deferred())
        return self.tries[-1]

    def connected(self) -> FakeConnection:
        """
        Let the last try succeed, and LISTEN. The two connections are one here.
        """
        connection = FakeConnection()
        self.tries[-1].callback(connection)
        self.tries[-1].callback(connection)
        [(statement, _, done)] = connection.statements
        self.assertEqual(statement, "LISTEN creditsync")
        done.callback([])
        return connection

    def hear(self, connection: FakeConnection, payload: str) -> None:
        """
        Let a notification come.
        """
        connection.notified("creditsync", payload, 1)

    def test_listenFirst(self) -> None:
        """
        A node reads after it has begun to listen, not only before: what was booked
        between the two would not be heard.
        """
        self.doorbell.start()
        connection = FakeConnection()
        self.tries[-1].callback(connection)
        self.tries[-1].callback(connection)
        self.heard.clear()
        [(_, _, done)] = connection.statements
        done.callback([])
        self.assertEqual(self.heard, [0])

    def test_heard(self) -> None:
        """
        A ring of another node is heard at once; one of its trials, and what comes
        back of our own, is not.
        """
        self.doorbell.start()
        connection = self.connected()
        [own] = connection.payloads()
        self.heard.clear()
        name = own.removesuffix("?")
        for payload in (own, name, f"{name} epoch server 7", "other?"):
            self.hear(connection, payload)
        self.assertEqual(self.heard, [])
        self.said.clear()
        self.hear(connection, "other")
        self.hear(connection, "other epoch server 9")
        self.assertEqual(self.heard, [0, 0])
        self.assertEqual(self.said, ["", "epoch server 9"])
        self.assertEqual(self.doorbell.heardRings, 2)

    def test_coalesced(self) -> None:
        """
        Rings that come while one is under way are one.
        """
        self.doorbell.start()
        connection = self.connected()
        for _ in range(10):
            self.doorbell.ring()
        self.assertEqual(len(connection.payloads()), 2)
        connection.statements[-1][2].callback([])
        self.assertEqual(len(connection.payloads()), 3)
        connection.statements[-1][2].callback([])
        self.assertEqual(len(connection.payloads()), 3)
        self.doorbell.ring()
        self.assertEqual(len(connection.payloads()), 4)

    def test_ringsBeforeThereIsAConnection(self) -> None:
        """
        A ring that can't be sent is sent when it can, with what is said then.
        """
        self.doorbell.start()
        self.doorbell.ring()
        connection = self.connected()
        trial, ring = connection.payloads()
        self.assertEqual(ring, trial.removesuffix("?") + " epoch server 7")

    def test_refusedRing(self) -> None:
        """
        A ring that the server refuses is logged, and the next one is tried.
        """
        self.doorbell.start()
        connection = self.connected()
        self.doorbell.ring()
        self.doorbell.ring()
        with capturedLogs() as logs:
            connection.statements[-1][2].errback(ValueError("the queue is full"))
        self.assertEqual([str(each["why"]) for each in logs], ["the queue is full"])
        self.assertEqual(len(connection.payloads()), 3)

    def test_polls(self) -> None:
        """
        A node that hears itself polls twice a second, and one that doesn't every 50
        milliseconds.
        """
        self.doorbell.start()
        connection = self.connected()
        self.heard.clear()
        self.clock.pump([0.05] * 4)
        self.assertEqual(self.heard, [0.05, 0.1, 0.15, 0.2])
        self.hear(connection, connection.payloads()[0])
        self.heard.clear()
        self.clock.pump([0.05] * 30)
        self.assertEqual(self.heard, [0.25, 0.75, 1.25])

    def test_deaf(self) -> None:
        """
        A node that does not hear itself within 5 seconds says so once, and connects
        again and again.
        """
        self.doorbell.start()
        self.connected()
        with capturedLogs() as logs:
            self.clock.advance(5.0)
            self.assertEqual(len(self.tries), 2)
            self.clock.advance(0.1)
            self.assertEqual(len(self.tries), 3)
            self.connected()
            self.clock.advance(5.0)
            self.clock.advance(0.1)
        self.assertEqual(len(self.tries), 5)
        [warning] = logs
        self.assertIn("don't arrive", warning["log_format"])
        self.assertFalse(self.doorbell.isHeard)
        connection = self.connected()
        with capturedLogs() as logs:
            self.hear(connection, connection.payloads()[0])
        self.assertTrue(self.doorbell.isHeard)
        self.assertEqual(len(logs), 1)

    def test_stillHeard(self) -> None:
        """
        A node that hears itself keeps its connection, and tries again every 5 seconds.
        """
        self.doorbell.start()
        connection = self.connected()
        for number in range(1, 4):
            self.assertEqual(len(connection.payloads()), number)
            self.hear(connection, connection.payloads()[-1])
            connection.statements[-1][2].callback([])
            self.clock.advance(5.0)
        self.assertEqual(len(self.tries), 2)

    def test_connectsAgain(self) -> None:
        """
        A lost connection is made again, after waits that grow to 5 seconds, which is
        said once.
        """
        self.doorbell.start()
        self.connected().lose()
        with capturedLogs() as logs:
            waits = []
            for _ in range(9):
                before = self.clock.seconds()
                number = len(self.tries)
                while len(self.tries) == number:
                    self.clock.advance(0.01)
                waits.append(round(self.clock.seconds() - before, 1))
                self.tries[-1].errback(ConnectionLost("refused"))
        self.assertEqual(waits, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0])
        self.assertEqual(logs, [])

    def test_lostIsSaid(self) -> None:
        """
        The cause of a lost connection is in the log.
        """
        self.doorbell.start()
        connection = self.connected()
        with capturedLogs() as logs:
            connection.lose()
        self.assertEqual([each["why"] for each in logs], ["cut"])

    def test_stopped(self) -> None:
        """
        A stop ends all that is under way, whenever it comes.
        """
        for steps in range(5):
            self.setUp()
            self.doorbell.start()
            connection = FakeConnection()
            for _ in range(min(steps, 2)):
                self.tries[-1].callback(connection)
            if steps > 2:
                connection.statements[0][2].callback([])
            if steps == 4:
                connection.lose()
            self.doorbell.stop()
            self.assertEqual(self.clock.getDelayedCalls(), [], steps)
            self.assertEqual(connection.isClosed, steps > 0)
            self.assertEqual(len(self.tries), min(steps, 1) + 1)

    def test_stoppedByWhoHears(self) -> None:
        """
        Who is told of a ring may stop the doorbell.
        """
        self.doorbell.start()
        connection = self.connected()
        self.doorbell._heard = lambda _: self.doorbell.stop()
        self.hear(connection, "other")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertTrue(connection.isClosed)


@define(eq=False)
class Node:
    """
    A doorbell with a real connection.
    """

    name: str
    dsn: str
    heard: int = 0
    doorbell: Doorbell = field(init=False)

    def __attrs_post_init__(self) -> None:
        """
        Start it.
        """
        from twisted.internet import reactor

        self.doorbell = Doorbell(reactor, self._connect, self._hear, str)
        self.doorbell.start()

    def _connect(self) -> Deferred[Connection]:
        from twisted.internet import reactor

        return connect(reactor, self.dsn, self.name)

    def _hear(self, said: str) -> None:
        self.heard += 1


@pytest.fixture
def nodes() -> Iterator[Callable[..., Node]]:
    """
    Start doorbells that don't poll while they are heard.
    """
    started: list[Node] = []

    def start(name: str, dsn: str) -> Node:
        started.append(Node(name, dsn))
        return started[-1]

    with patch.object(_doorbell, "POLL", 1000.0):
        yield start
        for each in started:
            each.doorbell.stop()


@pytest.fixture
def database() -> Iterator[ground.Database]:
    """
    An empty database.
    """
    database = ground.database()
    yield database
    database.drop()


async def becomes(condition: Callable[[], object]) -> None:
    """
    Wait for something to become so; the test's own time limits it.
    """
    from twisted.internet import reactor

    while not condition():
        await deferLater(reactor, 0.01)


@pytest_twisted.ensureDeferred
async def test_twoNodes(nodes: Any, database: ground.Database) -> None:
    """
    Each of two nodes hears the other, and not itself.
    """
    one, other = (nodes(name, database.dsn()) for name in ("one", "other"))
    await becomes(lambda: one.doorbell.isHeard and other.doorbell.isHeard)
    for ringing, hearing in ((one, other), (other, one)):
        before = ringing.doorbell.heardRings
        heard = hearing.doorbell.heardRings
        ringing.doorbell.ring()
        await becomes(lambda: hearing.doorbell.heardRings == heard + 1)  # noqa: B023
        assert ringing.doorbell.heardRings == before


@pytest_twisted.ensureDeferred
async def test_ringsAfterTermination(nodes: Any, database: ground.Database) -> None:
    """
    A node whose connection is terminated reads again when it listens again, and hears
    what is rung from then on.
    """
    one, other = (nodes(name, database.dsn()) for name in ("one", "other"))
    for _ in range(10):
        await becomes(lambda: one.doorbell.isHeard and other.doorbell.isHeard)
        before = one.heard
        database.terminateBackends("one")
        await becomes(lambda: not one.doorbell.isHeard)
        await becomes(lambda: one.doorbell.isHeard)
        assert one.heard > before
        rings = one.doorbell.heardRings
        other.doorbell.ring()
        await becomes(lambda: one.doorbell.heardRings > rings)  # noqa: B023


@pytest_twisted.ensureDeferred
async def test_doesNotWaitForTheStandby(nodes: Any) -> None:
    """
    A ring does not wait until a standby has it.
    """
    server = ground.start()
    standby = server.standby()
    server.replicateSynchronously()
    one, other = (nodes(name, server.dsn()) for name in ("one", "other"))
    await becomes(lambda: one.doorbell.isHeard and other.doorbell.isHeard)
    with standby.frozen():
        before = one.doorbell.heardRings
        other.doorbell.ring()
        await becomes(lambda: one.doorbell.heardRings > before)
    one.doorbell.stop()
    other.doorbell.stop()
    server.kill()
    standby.kill()


@pytest_twisted.ensureDeferred
async def test_muted(nodes: Any, database: ground.Database) -> None:
    """
    A node behind something that swallows notifications notices, and polls; it hears
    again when that is gone.
    """
    proxy = Proxy(database.server.port, isMuted=True)
    with patch.object(_doorbell, "TEST", 0.3):
        one = nodes("one", make_conninfo(database.dsn(), port=proxy.port))
        with capturedLogs() as logs:
            await becomes(lambda: logs)
        assert "don't arrive" in logs[0]["log_format"]
        before = one.heard
        await becomes(lambda: one.heard > before + 3)
        assert not one.doorbell.isHeard
        proxy.isMuted = False
        await becomes(lambda: one.doorbell.isHeard)
    proxy.close()


@pooler.needed
@pytest_twisted.ensureDeferred
async def test_pooled(nodes: Any, database: ground.Database) -> None:
    """
    A node behind a pooler that gives each transaction to another connection does not
    hear, and polls; its rings are heard by those that can.
    """
    folder = database.server.folder / database.name
    folder.mkdir()
    between = pooler.Pooler(folder, database, "transaction")
    with patch.object(_doorbell, "TEST", 0.5):
        deaf = nodes("deaf", between.dsn())
        hearing = nodes("hearing", database.dsn())
        with capturedLogs() as logs:
            await becomes(
                lambda: any("don't arrive" in each["log_format"] for each in logs)
            )
        before = deaf.heard
        await becomes(lambda: deaf.heard > before + 3)
        await becomes(lambda: hearing.doorbell.isHeard)
        rings = hearing.doorbell.heardRings
        deaf.doorbell.ring()
        await becomes(lambda: hearing.doorbell.heardRings > rings)
        assert not deaf.doorbell.isHeard
        deaf.doorbell.stop()
    between.close()
