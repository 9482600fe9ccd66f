"""
Tests for what is counted up and down: after each kind of end nothing is left.
"""

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from creditsync import audit
from creditsync._auditfile import INTERVAL
from creditsync.audit import AuditTrail
from creditsync.client import CreditClient
from creditsync.counters import Counters
from creditsync.errors import LedgerProblem, NoMoney
from creditsync.events import TradeEvents
from creditsync.records import Limits, Reservation, TradeEvent
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator, FakeTradingRuntime
from creditsync.web import _feed as feed
from tests import counts
from tests.observed import DATA, NOW, Client, LaterRuntime, ObservedTestCase
from tests.test_client import ClientTestCase
from tests.test_web import WebTestCase


def asked(client: Client, name: str = "a", **members: Any) -> None:
    """
    Have a client send one request of each kind: one for the booked trade, one
    that is answered when it is durable, one under a key, and one that is
    refused.
    """
    client.asks("CreditInSync", f"{name}-1")
    client.asks("CreditIn", f"{name}-2")
    client.asks("CreditInSync", f"{name}-3", idempotencyKey="k", **members)
    data = {"login": 1001, "amount": -1_000_000, "comment": "more than there is"}
    client.asks("CreditOutSync", f"{name}-4", data)


def trailed(test: SynchronousTestCase, server: CreditSync, clock: Clock) -> None:
    """
    Give a server an audit trail, for the sessions that come from now on.
    """
    folder = TemporaryDirectory()
    test.addCleanup(folder.cleanup)
    trail = AuditTrail(Path(folder.name, "audit"), clock, lambda: NOW, execute)
    trail.open()
    server.audit = server.sessions.audit = trail
    server._events.addObserver(trail.booked)


class RequestTests(ObservedTestCase):
    """
    Tests that requests leave no counts behind, however they end.
    """

    def serve(self, **limits: Any) -> None:
        """
        Start a server with an audit trail.
        """
        super().serve(**limits)
        trailed(self, self.server, self.reactor)

    def turns(self) -> None:
        """
        Run everything that is due on the reactor, and write the trail.
        """
        super().turns()
        self.reactor.advance(INTERVAL)

    def assertNothingLeft(self) -> None:
        """
        Assert that all counts are zero, before and after the clients
        disconnect.
        """
        self.turns()
        self.assertEqual(counts.left(self.server), {})
        for connection in list(self.server.factory.connections):
            connection.connectionLost()
        self.turns()
        self.assertEqual(counts.left(self.server, isClosed=True), {})
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_seen(self) -> None:
        """
        While requests are pending the counts are not zero.
        """
        client = Client(self.server)
        asked(client)
        self.turns()
        found = counts.left(self.server, isClosed=True)
        self.assertEqual(
            found,
            {
                "requests in flight": 3,
                "requests of sessions": 3,
                "timers of the waiters": 1,
                "operations queued": 3,
                "operations queued since": 1,
                "orders under way": 3,
                "keys under way": 1,
                "accounts that are ahead of the ledger": 1,
                "operations of which the audit trail has not heard": 3,
                "connections": 1,
                "sessions that get events": 1,
            },
        )

    def test_answered(self) -> None:
        """
        Answered requests leave no counts behind.
        """
        for name in "ab":
            asked(Client(self.server), name)
            self.commits()
        self.assertNothingLeft()

    def test_changes(self) -> None:
        """
        Requests that update an order and then delete it, in one commit and in
        several, leave no counts behind.
        """
        for isOneCommit in (True, False):
            client = Client(self.server)
            client.asks(extID="a")
            self.commits()
            *_, line = client.wire.value().splitlines()
            order = json.loads(line)["data"]["order"]
            client.wire.clear()
            for extID in "bc":
                client.asks(extID=extID, data={**DATA, "order": order})
                if not isOneCommit:
                    self.commits()
                    self.assertEqual(counts.left(self.server), {})
            client.asks("DeleteCreditSync", "d", {"order": order})
            self.commits()
            self.assertEqual(client.outcomes(), [("b", 200), ("c", 200), ("d", 200)])
            self.assertNothingLeft()

    def test_timedOut(self) -> None:
        """
        Requests that end in 504 and are booked later leave no counts behind.
        """
        client = Client(self.server)
        asked(client)
        self.turns()
        self.reactor.advance(5)
        self.assertEqual(self.server.sessions.pending, 0)
        self.commits()
        self.assertNothingLeft()

    def test_gone(self) -> None:
        """
        A session that ends with several pending requests leaves no counts
        behind, and another session keeps its own.
        """
        gone, other = Client(self.server), Client(self.server)
        asked(gone)
        asked(other, "b")
        gone.goes()
        self.assertEqual(self.server.sessions.pending, 3)
        self.assertEqual(len(self.server.waiters), 3)
        self.commits()
        self.assertNothingLeft()

    def test_goneAfterTimeout(self) -> None:
        """
        A session that ends when some of its requests have ended in 504 leaves
        no counts behind.
        """
        client = Client(self.server)
        asked(client)
        self.turns()
        self.reactor.advance(3)
        asked(client, "b")
        self.reactor.advance(2)
        self.assertEqual(self.server.sessions.pending, 3)
        client.goes()
        self.assertEqual(self.server.sessions.pending, 0)
        self.commits()
        self.assertNothingLeft()

    def test_full(self) -> None:
        """
        Sessions that end with as many pending requests as the server allows
        make room for as many others, however often.
        """
        self.serve(maxPending=3, maxPendingPerSession=3)
        for _ in range(5):
            client = Client(self.server)
            for number in range(4):
                client.asks(extID=number)
            self.turns()
            self.assertEqual(client.outcomes(), [(3, 429)])
            other = Client(self.server)
            other.asks(extID="full")
            self.turns()
            self.assertEqual(other.outcomes(), [("full", 503)])
            client.goes()
            self.commits()
        self.assertNothingLeft()

    def test_refused(self) -> None:
        """
        Requests that are refused at once, each for another reason, leave no
        counts behind.
        """
        client = Client(self.server)
        client.asks(token="nobody")
        client.asks(token="user")
        client.asks("Nonsense")
        client.asks(data={})
        client.asks(extID=None)
        client.says(b"nonsense")
        self.turns()
        self.assertEqual(len(client.outcomes()), 6)
        self.assertNothingLeft()

    def test_notAdmitted(self) -> None:
        """
        Requests beyond a limit, or whose extID is already pending, leave no
        counts behind.
        """
        for limit, status in (
            ("maxPending", 503),
            ("maxPendingPerSession", 429),
            ("maxQueued", 503),
        ):
            self.serve(**{limit: 1})
            client = Client(self.server)
            client.asks(extID="a")
            client.asks(extID="b")
            client.asks(extID="a")
            self.turns()
            self.assertEqual(client.outcomes()[0], ("b", status))
            self.commits()
            self.assertNothingLeft()

    def test_attached(self) -> None:
        """
        Requests that attach to a pending one, from a session that then ends,
        and replays leave no counts behind.
        """
        first, second = Client(self.server), Client(self.server)
        first.asks(extID="a", idempotencyKey="k")
        second.asks(extID="b", idempotencyKey="k")
        second.asks(extID="c", idempotencyKey="k")
        second.goes()
        self.assertEqual(self.server.sessions.pending, 1)
        self.commits()
        first.asks(extID="d", idempotencyKey="k")
        self.assertNothingLeft()

    def test_stopped(self) -> None:
        """
        Requests that are pending when the server stops leave no counts behind.
        """
        clients = [Client(self.server), Client(self.server)]
        for client in clients:
            asked(client)
        stopped = self.server.stopService()
        self.turns()
        self.reactor.advance(10)
        self.assertEqual(self.server.sessions.pending, 0)
        for client in clients:
            client.goes()
        while self.ledger.commits:
            self.ledger.release()
            self.turns()
        for _ in range(20):
            self.reactor.advance(1)
        self.successResultOf(stopped)
        self.assertNothingLeft()

    def test_failed(self) -> None:
        """
        Requests whose commit failed, with others queued behind it, leave no
        counts behind.
        """
        client, gone = Client(self.server), Client(self.server)
        asked(client)
        self.turns()
        asked(client, "b")
        asked(gone, "c")
        gone.goes()
        self.failureResultOf(self._failed(), OSError)
        self.flushLoggedErrors(OSError)
        statuses = [status for _, status in client.outcomes()]
        self.assertEqual(statuses.count(504), 6)
        # The audit trail keeps the requesters of operations that are never
        # booked.
        self.server.sessions.audit = self.server.audit = None
        self.assertNothingLeft()

    def _failed(self) -> "Deferred[None]":
        failed = self.server.whenFailed()
        self.ledger.fail(OSError("the disk is gone"))
        self.turns()
        return failed

    def test_lookUps(self) -> None:
        """
        Look-ups leave no counts behind.
        """
        client = Client(self.server)
        client.asks("HealthCheck", "a", {})
        client.asks("GetOperation", "b", {"order": 1})
        client.asks("Unsubscribe", "c", {"chanels": ["trade:event"]})
        client.asks("Subscribe", "d", {"chanels": ["trade:event"]})
        self.turns()
        self.assertEqual(
            sorted(client.outcomes()), [("a", 200), ("b", 404), ("c", 200), ("d", 200)]
        )
        self.assertNothingLeft()


class ConnectionTests(ObservedTestCase):
    """
    Tests that connections leave no counts behind, however they end.
    """

    def test_ends(self) -> None:
        """
        A connection leaves no counts behind if it ends in a line, in the
        middle of many, without reading, at the end of its input, refused for
        its line, or cut off.
        """
        line = b'{"command":"HealthCheck","__token":"manager"}\r\n'
        ends: list[Callable[[Client], object]] = [
            lambda client: client.protocol.dataReceived(line[:9]),
            lambda client: client.protocol.dataReceived(line * 200),
            lambda client: client.protocol.dataReceived(line * 200 + line[:9]),
            lambda client: client.protocol.pauseProducing(),
            lambda client: (
                client.protocol.pauseProducing(),
                client.protocol.dataReceived(line * 200),
            ),
            lambda client: (asked(client), client.protocol.readConnectionLost()),
            lambda client: client.says(b"x" * 70_000),
            lambda client: (asked(client), client.protocol.cutOff()),
            lambda client: (
                client.protocol.dataReceived(line[:9]),
                self.reactor.advance(31),
            ),
        ]
        for end in ends:
            for others in range(2):
                kept = [Client(self.server) for _ in range(others)]
                client = Client(self.server)
                end(client)
                client.goes()
                self.commits()
                self.assertEqual(counts.left(self.server), {})
                for other in kept:
                    other.goes()
                self.assertEqual(counts.left(self.server, isClosed=True), {})

    def test_lostWithSomethingToSay(self) -> None:
        """
        A last connection that ends in the turn in which something was sent to
        it leaves no counts behind.
        """
        client = Client(self.server)
        client.asks("HealthCheck", "a", {})
        client.goes()
        self.assertEqual(counts.left(self.server, isClosed=True), {})

    def test_full(self) -> None:
        """
        Connections beyond the limit leave no counts behind.
        """
        self.serve(maxConnections=2)
        for _ in range(3):
            clients = [Client(self.server) for _ in range(2)]
            unwelcome = self.server.factory.buildProtocol(clients[0].peer)
            self.assertNotEqual(type(unwelcome), type(clients[0].protocol))
            for client in clients:
                client.goes()
        self.assertEqual(counts.left(self.server, isClosed=True), {})


class ForeignTests(SynchronousTestCase):
    """
    Tests with a foreign trading runtime, which reserves later.
    """

    def setUp(self) -> None:
        """
        Start a server.
        """
        self.reactor = MemoryReactorClock()
        self.events = TradeEvents()
        self.runtime = LaterRuntime(self.events)
        self.runtime.asked = []
        self.server = CreditSync(
            self.reactor,
            runtime=self.runtime,
            events=self.events,
            authenticator=FakeAuthenticator(),
            listen=["tcp:8080"],
            limits=Limits(),
            counters=Counters(self.reactor, lambda: NOW),
        )
        self.server.startService()
        self.client = Client(self.server)

    def ask(self) -> list[tuple[Any, "Deferred[Reservation]"]]:
        """
        Send one request of each kind.

        @return: The operations, and the Deferreds that reserve them.
        """
        asked(self.client)
        self.reactor.advance(0)
        taken, self.runtime.asked = self.runtime.asked, []
        return taken

    def reserve(self, operation: Any) -> Reservation:
        """
        The reservation of an operation.
        """
        return FakeTradingRuntime.submit(self.runtime, operation)

    def assertNothingLeft(self) -> None:
        """
        Assert that all counts are zero.
        """
        self.reactor.advance(0)
        self.reactor.advance(0)
        self.assertEqual(counts.left(self.server), {})
        self.client.goes()
        self.assertEqual(counts.left(self.server, isClosed=True), {})
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_refusedLater(self) -> None:
        """
        Requests that are refused or fail after they have waited leave no
        counts behind.
        """
        taken = self.ask()
        for number, (_, reserved) in enumerate(taken):
            reserved.errback(NoMoney("no") if number % 2 else KeyError("a fault"))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 2)
        self.assertNothingLeft()

    def test_booked(self) -> None:
        """
        Requests that are reserved and booked leave no counts behind, even if
        one event comes twice.
        """
        for operation, reserved in self.ask():
            reservation = self.reserve(operation)
            reserved.callback(reservation)
            self.runtime.book(reservation)
            self.events.publish(
                [TradeEvent(reservation.eventType, reservation.trade, operation)]
            )
        self.assertNothingLeft()

    def test_reservedTooLate(self) -> None:
        """
        Requests that are reserved after their timeout or after their session
        has ended, and are never booked, leave no counts behind.
        """
        taken = self.ask()
        self.reactor.advance(5)
        for operation, reserved in taken:
            reserved.callback(self.reserve(operation))
        taken = self.ask()
        self.client.goes()
        for operation, reserved in taken:
            reserved.callback(self.reserve(operation))
        self.client = Client(self.server)
        self.assertNothingLeft()

    def test_neverBooked(self) -> None:
        """
        Requests that are reserved, some of them for one order, time out or
        lose their session, and never get an event, leave no counts behind.
        """
        for isGone in (True, False):
            for _ in range(2):
                for operation, reserved in self.ask():
                    reservation = self.reserve(operation)
                    reservation.trade.order = 1242281
                    reserved.callback(reservation)
                asked(Client(self.server), "others")
            if isGone:
                self.client.goes()
                self.client = Client(self.server)
            self.reactor.advance(5)
        for connection in list(self.server.factory.connections):
            if connection is not self.client.protocol:
                connection.connectionLost()
        self.assertNothingLeft()

    def test_neverHeardOf(self) -> None:
        """
        The audit trail remembers a bounded number of requesters whose event
        never comes, or comes without a mark.
        """
        self.patch(audit, "_MAX_ASKERS", 3)
        trailed(self, self.server, self.reactor)
        self.client = Client(self.server)
        for _ in range(5):
            for operation, reserved in self.ask():
                reserved.callback(self.reserve(operation))
            self.reactor.advance(5)
        self.reactor.advance(INTERVAL)
        self.assertEqual(
            counts.left(self.server),
            {"operations of which the audit trail has not heard": 3},
        )
        # The newest are remembered.
        self.runtime.book(self.runtime.reserved[-1])
        self.reactor.advance(INTERVAL)
        assert self.server.audit is not None
        *_, line = self.server.audit.path.read_text().splitlines()
        self.assertEqual(json.loads(line)["extID"], "a-4")

    def test_neverReserved(self) -> None:
        """
        Requests that are never reserved leave no counts behind.
        """
        self.ask()
        self.reactor.advance(5)
        self.assertNothingLeft()

    def test_unmarked(self) -> None:
        """
        Unmarked events, one of them matching no request, leave no counts
        behind.
        """
        for operation, reserved in self.ask():
            reservation = self.reserve(operation)
            reserved.callback(reservation)
            self.events.publish(
                [
                    TradeEvent(
                        0,
                        json.loads(
                            json.dumps({"order": reservation.order}),
                        ),
                    )
                ]
            )
            reservation.booked()
        self.events.publish([TradeEvent(0, {"order": 5})])
        self.assertNothingLeft()

    def test_notWritable(self) -> None:
        """
        Requests whose reply can't be written leave no counts behind.
        """
        taken = self.ask()
        for _, reserved in taken:
            reserved.callback({"nonsense": object()})
        self.assertEqual(len(self.flushLoggedErrors()), len(taken))
        self.assertNothingLeft()

    def test_failed(self) -> None:
        """
        A runtime that fails for good leaves no counts behind.
        """
        [(operation, reserved), *_] = self.ask()
        reserved.callback(self.reserve(operation))
        failed = self.server.whenFailed()
        self.runtime.fail(KeyError("gone"))
        self.failureResultOf(failed, KeyError)
        self.assertNothingLeft()


class SiteTests(WebTestCase):
    """
    Tests that readers of the console leave no counts behind.
    """

    def setUp(self) -> None:
        """
        Sign in.
        """
        super().setUp()
        self.signIn()

    def test_readers(self) -> None:
        """
        However a reader of the console ends, another one takes its place.
        """

        def stalls() -> None:
            for page in self.pages:
                if page.wire.producer is not None:
                    page.wire.producer.pauseProducing()
            for _ in range(12):
                self.reactor.advance(1)

        def isRevoked() -> None:
            self.authenticator.revoked.add("manager")
            self.reactor.advance(1)
            self.authenticator.revoked.clear()
            self.signIn()

        ends: list[Callable[[], object]] = [
            lambda: [page.goes() for page in self.pages],
            stalls,
            isRevoked,
            self.root.stop,
        ]
        for end in ends:
            self.pages = []
            for _ in range(feed.READERS):
                self.assertTrue(self.ask("/feed").events())
            self.assertEqual(self.get("/feed").status, 503)
            self.assertEqual(self.ask("/feed", "HEAD").answer().status, 200)
            self.assertEqual(counts.leftOfSite(self.root)["readers"], feed.READERS)
            end()
            self.assertEqual(counts.leftOfSite(self.root), {})

    def test_searches(self) -> None:
        """
        A search leaves no counts behind if it succeeds, fails, or loses its
        browser.
        """
        self.open("nowhere.db")
        self.signIn()
        for isGone in (False, True):
            page = self.ask("/search?login=1001")
            self.assertEqual(counts.leftOfSite(self.root), {"searches": 1})
            if isGone:
                page.goes()
            self.elsewhere.works()
            self.assertEqual(counts.leftOfSite(self.root), {})
            self.assertEqual(len(self.flushLoggedErrors(LedgerProblem)), 1)


class ClientTests(ClientTestCase):
    """
    Tests that requests of the client library leave no counts behind.
    """

    def assertNothingLeft(self, client: CreditClient) -> None:
        """
        Assert that nothing is in flight, queued or timed.
        """
        pipeline = client._pipeline
        self.assertEqual(
            (
                len(pipeline._inFlight),
                len(pipeline._queue),
                len(pipeline._timeouts),
                len(pipeline._patience),
            ),
            (0, 0, 0, 0),
        )

    def test_ends(self) -> None:
        """
        Requests of the client library leave no counts behind if they are
        answered, refused, cancelled before and after they were sent, never
        answered, cut off with several in flight, or stopped.
        """

        def answered() -> None:
            # The connection's own subscription counts too, after it was
            # repeated.
            for line in self.server.lines():
                self.server.answer(json.loads(line))

        def refused() -> None:
            for request in self.server.requests():
                self.server.refuse(request, 409, "TRADE_NO_MONEY")

        def cancelled() -> None:
            for each in results:
                each.cancel()
            answered()

        def unanswered() -> None:
            self.advanceTo(self.clock.seconds() + 60)

        def cutOff() -> None:
            self.server.lose()
            self.endpoint.isRefusing = True
            unanswered()

        def stopped() -> None:
            self.client.stopService()
            self.clock.advance(0)

        for end in (answered, refused, cancelled, unanswered, cutOff, stopped):
            client = self.start(maxInFlight=3)
            self.server.acknowledge()
            self.server.lines()
            results = [self.credit() for _ in range(5)]
            pipeline = client._pipeline
            self.assertEqual((len(pipeline._inFlight), len(pipeline._queue)), (3, 2))
            end()
            answered()
            self.clock.advance(0)
            self.assertNothingLeft(client)
