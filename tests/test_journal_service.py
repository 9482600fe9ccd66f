"""
Tests for the journal and the life of the service: when its head is read, and what a
stop does to the sessions that read it.
"""

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet.defer import Deferred, execute, maybeDeferred
from twisted.internet.error import ConnectionAborted
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from creditsync._conversation import catchups
from creditsync.events import TradeEvents
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.records import Limits, Operation
from creditsync.runtime import TradingRuntime
from creditsync.service import GOODBYE, LAST_CALL, CreditSync
from creditsync.testing import FakeAuthenticator
from tests.observed import NOW, Client, turnOnce
from tests.resuming import CHANNELS, SCHEMAS

# Places of the ledger, and of a page: to read all of it takes longer than a stop.
PLACES = 40
PAGE = 1

Held = tuple[Callable[[], Any], "Deferred[Any]"]


class Wire(StringTransport):
    """
    A connection that is lost one reactor turn after it was aborted, as a socket is.
    """

    def __init__(self, reactor: MemoryReactorClock) -> None:
        super().__init__(lenient=True)
        self._reactor = reactor
        self.client: Client | None = None

    def abortConnection(self) -> None:
        """
        Lose the connection in the next turn.
        """
        super().abortConnection()
        assert self.client is not None
        lost = self.client.protocol.connectionLost
        self._reactor.callLater(0, lost, Failure(ConnectionAborted()))


class JournalCase(SynchronousTestCase):
    """
    A server on a ledger that already has some places.
    """

    def setUp(self) -> None:
        """
        Fill the ledger.
        """
        self.patch(catchups, "_PAGE", PAGE)
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = str(Path(folder.name, "creditsync.db"))
        self.openings: list[Held] = []
        self.reads: list[Held] = []
        self.serve()
        for _ in range(PLACES):
            self.book()
        self.stop()

    def serve(self, holdsOpening: bool = False, holdsReads: bool = False) -> None:
        """
        Start a server.

        @param holdsOpening: The ledger opens when the test says so.
        @param holdsReads: So do page reads end.
        """
        self.reactor = MemoryReactorClock()
        ledger = SQLiteLedger(
            self.path, self.hold(self.openings) if holdsOpening else execute
        )
        events = TradeEvents()
        self.runtime = TradingRuntime(
            self.reactor,
            ledger,
            events,
            now=lambda: NOW,
            maxQueued=100,
            read=self.hold(self.reads) if holdsReads else maybeDeferred,
        )
        self.server = CreditSync(
            self.reactor,
            runtime=self.runtime,
            events=events,
            authenticator=FakeAuthenticator(),
            listen=["tcp:8080"],
            schemas=SCHEMAS,
            limits=Limits(stopTimeout=10.0),
        )
        self.server.startService()

    def hold(self, held: list[Held]) -> "Callable[[Callable[[], Any]], Deferred[Any]]":
        """
        Make what has functions called when the test says so.
        """

        def holding(function: Callable[[], Any]) -> "Deferred[Any]":
            held.append((function, Deferred()))
            return held[-1][1]

        return holding

    def end(self, held: list[Held]) -> None:
        """
        Call the oldest of those functions.
        """
        function, done = held.pop(0)
        maybeDeferred(function).chainDeferred(done)

    def book(self) -> None:
        """
        Book a credit.
        """
        self.runtime.submit(Operation("CreditIn", 7, 1001, 100_000_000, "x"))
        self.reactor.advance(0)

    def stop(self) -> None:
        """
        Stop the server, which takes a bounded time and leaves nothing.
        """
        stopped = self.server.stopService()
        self.pass_(LAST_CALL + GOODBYE + 1)
        self.successResultOf(stopped)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def pass_(self, seconds: float) -> None:
        """
        Let this time pass, with a turn of the reactor in each tenth of a second.
        """
        for _ in range(round(seconds / 0.1) + 1):
            self.reactor.rightNow += 0.1
            turnOnce(self.reactor)

    def client(self) -> Client:
        """
        Connect a client.
        """
        wire = Wire(self.reactor)
        wire.client = client = Client(self.server, wire=wire)
        return client

    def follow(self, since: str) -> Client:
        """
        Connect a client that subscribes from a place.
        """
        client = self.client()
        client.asks("Subscribe", data={**CHANNELS, "since": since})
        return client

    def heard(self, client: Client) -> list[Any]:
        """
        Take the lines that a client has received.
        """
        lines = [json.loads(line) for line in client.wire.value().splitlines()]
        client.wire.clear()
        return lines

    def cursors(self, client: Client) -> list[str]:
        """
        Take the cursors of the events that a client has received.
        """
        return [
            line["data"]["cursor"] for line in self.heard(client) if "event" in line
        ]


class SlowOpeningTests(JournalCase):
    """
    Tests for a ledger that takes its time to open.
    """

    def test_head(self) -> None:
        """
        The head of the journal is read when the ledger is ready, and not earlier: what
        the ledger had is not sent as new, and not held back from who resumes.
        """
        self.serve(holdsOpening=True)
        follower = self.follow("first")
        asking = self.client()
        asking.asks("HealthCheck", data={})
        self.pass_(60)
        self.assertEqual(self.heard(asking), [])
        self.end(self.openings)
        self.pass_(10)
        epoch = self.runtime.epoch
        self.assertRegex(epoch, "^[0-9a-f]{8}$")
        [health] = self.heard(asking)
        self.assertEqual(health["data"]["cursor"], f"{epoch}-40")
        reply, *events = self.heard(follower)
        self.assertEqual(reply["data"]["cursor"], f"{epoch}-40")
        self.assertEqual(
            [line["data"]["cursor"] for line in events],
            [f"{epoch}-{place}" for place in range(1, 41)],
        )


class StopTests(JournalCase):
    """
    Tests for a stop while sessions read the journal.
    """

    def assertResumes(self, got: list[str]) -> None:
        """
        Behind what a client has got before the stop comes exactly the rest.
        """
        self.serve()
        epoch = self.runtime.epoch
        client = self.follow(got[-1] if got else "first")
        self.pass_(10)
        got += self.cursors(client)
        self.assertEqual(got, [f"{epoch}-{place}" for place in range(1, 41)])
        client.goes()
        self.stop()

    def test_everyTurn(self) -> None:
        """
        In whatever turn of a catch-up the stop comes, it ends in time and without a
        traceback, and the client resumes where it was.
        """
        for turns in range(8):
            self.serve()
            client = self.follow("first")
            for _ in range(turns):
                turnOnce(self.reactor)
            self.stop()
            self.assertResumes(self.cursors(client))

    def test_whileAPageIsRead(self) -> None:
        """
        A page that is read when the stop comes is waited for, and the ledger closed
        after that.
        """
        for pages in range(3):
            self.serve(holdsReads=True)
            client = self.follow("first")
            self.pass_(1)
            for _ in range(pages):
                self.end(self.reads)
                self.pass_(1)
            stopped = self.server.stopService()
            self.pass_(LAST_CALL + GOODBYE + 1)
            self.assertNoResult(stopped)
            self.end(self.reads)
            self.pass_(1)
            self.successResultOf(stopped)
            self.assertEqual(self.reads, [])
            self.assertEqual(self.reactor.getDelayedCalls(), [])
            self.assertResumes(self.cursors(client))

    def test_stalled(self) -> None:
        """
        A client that does not read does not hold up the stop, and resumes where it
        was.
        """
        self.serve()
        client = self.follow("first")
        self.pass_(1)
        client.protocol.pauseProducing()
        self.stop()
        got = self.cursors(client)
        self.assertTrue(0 < len(got) < PLACES)
        self.assertResumes(got)

    def test_booksMeanwhile(self) -> None:
        """
        What is booked while the server stops is in the journal for who resumes.
        """
        self.serve()
        client = self.follow("first")
        turnOnce(self.reactor)
        self.runtime.submit(Operation("CreditIn", 7, 1001, 100_000_000, "x"))
        self.stop()
        got = self.cursors(client)
        self.serve()
        epoch = self.runtime.epoch
        again = self.follow(got[-1] if got else "first")
        self.pass_(10)
        got += self.cursors(again)
        self.assertEqual(got, [f"{epoch}-{place}" for place in range(1, 42)])

    def test_goodbye(self) -> None:
        """
        Nothing is read for a client to which the server has closed its side, however
        long that client keeps its own side open.
        """
        self.serve()
        client = self.follow("first")
        self.pass_(1)
        self.assertEqual(self.server.sessions.broadcast.catchingUp, 1)
        client.protocol.readConnectionLost()
        self.pass_(0.2)
        self.assertEqual(self.server.sessions.broadcast.catchingUp, 0)
        self.stop()
        self.assertResumes(self.cursors(client))
