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
from tests.observed import DATA, NOW, Client, ObservedTestCase
from tests.test_client import ClientTestCase
from tests.test_web import WebTestCase


def asked(client: Client, name: str = "a", **members: Any) -> None:
    """
    Have a client ask for one of each kind: for the booked trade, for what is
    answered when it is durable, under a key, and for what is refused.
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
    Requests, and how they may end.
    """

    def serve(self, **limits: Any) -> None:
        """
        Start a server with an audit trail.
        """
        super().serve(**limits)
        trailed(self, self.server, self.reactor)

    def assertNothingLeft(self) -> None:
        """
        All counts are zero, and so they are once the clients are gone.
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
        While something is under way the counts say so.
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
                "waiters": 3,
                "waiters by event": 2,
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
        Those that are answered.
        """
        for name in "ab":
            asked(Client(self.server), name)
            self.commits()
        self.assertNothingLeft()

    def test_changes(self) -> None:
        """
        Those that update an order and then delete it, in one commit and in several.
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
        Those that end in 504, and are booked later.
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
        Those whose session ends with several of them in flight; another session
        keeps its own.
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
        Those whose session ends when some of them have ended in 504.
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
        Sessions that end with as many in flight as the server takes leave room for
        as many others, however often.
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
        Those that are refused at once, each for another reason.
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
        Those for which there is no room, and those whose extID waits already.
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
        Those that attach to one under way, from a session that then ends, and those
        that are replays.
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
        Those that are in flight when the server stops.
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
        Those whose commit erred, with others queued behind it.
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
        # Who asked for what is never booked is told by nobody.
        self.server.sessions.audit = self.server.audit = None
        self.assertNothingLeft()

    def _failed(self) -> "Deferred[None]":
        failed = self.server.whenFailed()
        self.ledger.fail(OSError("the disk is gone"))
        self.turns()
        return failed

    def test_lookUps(self) -> None:
        """
        Those that only ask.
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
    Connections, and how they may end.
    """

    def test_ends(self) -> None:
        """
        In a line, in the middle of many, without reading, at the end of its input,
        refused for its line, cut off.
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
        The last connection goes in the turn in which something was said to it.
        """
        client = Client(self.server)
        client.asks("HealthCheck", "a", {})
        client.goes()
        self.assertEqual(counts.left(self.server, isClosed=True), {})

    def test_full(self) -> None:
        """
        Those for which there was no room leave none behind.
        """
        self.serve(maxConnections=2)
        for _ in range(3):
            clients = [Client(self.server) for _ in range(2)]
            unwelcome = self.server.factory.buildProtocol(clients[0].peer)
            self.assertNotEqual(type(unwelcome), type(clients[0].protocol))
            for client in clients:
                client.goes()
        self.assertEqual(counts.left(self.server, isClosed=True), {})


class LaterRuntime(FakeTradingRuntime):
    """
    Reserves when the test says so.
    """

    def submit(self, operation: Any) -> Any:
        """
        See L{ITradingRuntime.submit}.
        """
        self.asked.append((operation, Deferred()))
        return self.asked[-1][1]


class ForeignTests(SynchronousTestCase):
    """
    Requests on a trading runtime that is not ours, and reserves later.
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
        Ask for one of each kind.

        @return: The operations, and what reserves them.
        """
        asked(self.client)
        self.reactor.advance(0)
        taken, self.runtime.asked = self.runtime.asked, []
        return taken

    def reserve(self, operation: Any) -> Reservation:
        """
        What the runtime reserves for an operation.
        """
        return FakeTradingRuntime.submit(self.runtime, operation)

    def assertNothingLeft(self) -> None:
        """
        All counts are zero.
        """
        self.reactor.advance(0)
        self.reactor.advance(0)
        self.assertEqual(counts.left(self.server), {})
        self.client.goes()
        self.assertEqual(counts.left(self.server, isClosed=True), {})
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_refusedLater(self) -> None:
        """
        Some are refused and some fail after they have waited.
        """
        taken = self.ask()
        for number, (_, reserved) in enumerate(taken):
            reserved.errback(NoMoney("no") if number % 2 else KeyError("a fault"))
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 2)
        self.assertNothingLeft()

    def test_booked(self) -> None:
        """
        All are reserved and booked, and one event comes twice.
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
        All are reserved when their time is over or their session is gone, and
        nothing ever comes of it.
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
        All are reserved, some of them for one order, their session goes or their
        time is over, and no event ever comes.
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
        Of what never comes, or comes without a mark, the audit trail remembers who
        asked only for so many.
        """
        self.patch(audit, "_MAX_ASKERS", 3)
        trailed(self, self.server, self.reactor)
        self.client = Client(self.server)
        for _ in range(5):
            for operation, reserved in self.ask():
                reserved.callback(self.reserve(operation))
            self.reactor.advance(5)
        self.reactor.advance(0)
        self.assertEqual(
            counts.left(self.server),
            {"operations of which the audit trail has not heard": 3},
        )
        # The last are known.
        self.runtime.book(self.runtime.reserved[-1])
        assert self.server.audit is not None
        *_, line = self.server.audit.path.read_text().splitlines()
        self.assertEqual(json.loads(line)["extID"], "a-4")

    def test_neverReserved(self) -> None:
        """
        Nothing is ever said.
        """
        self.ask()
        self.reactor.advance(5)
        self.assertNothingLeft()

    def test_unmarked(self) -> None:
        """
        The events don't say whose they are, and one is of nobody.
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
        What a request waited for can't be written.
        """
        taken = self.ask()
        for _, reserved in taken:
            reserved.callback({"nonsense": object()})
        self.assertEqual(len(self.flushLoggedErrors()), len(taken))
        self.assertNothingLeft()

    def test_failed(self) -> None:
        """
        The runtime fails for good.
        """
        [(operation, reserved), *_] = self.ask()
        reserved.callback(self.reserve(operation))
        failed = self.server.whenFailed()
        self.runtime.fail(KeyError("gone"))
        self.failureResultOf(failed, KeyError)
        self.assertNothingLeft()


class SiteTests(WebTestCase):
    """
    Those who look at the console.
    """

    def setUp(self) -> None:
        """
        Sign in.
        """
        super().setUp()
        self.signIn()

    def test_readers(self) -> None:
        """
        However they end, as many others can look afterwards.
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
        A search ends found, failed, and after its browser has gone.
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
    The requests of the client library.
    """

    def assertNothingLeft(self, client: CreditClient) -> None:
        """
        Nothing is in flight, queued or timed.
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
        Answered, refused, cancelled before and after it was sent, without an
        answer, cut off with several in flight, stopped.
        """

        def answered() -> None:
            # The connection's own subscription too, after it was made again.
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
