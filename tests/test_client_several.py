"""
Tests for L{creditsync.client} with several servers that act as one.
"""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from creditsync.client import CreditClient, Data, Unanswered
from tests.test_client import DATA, Connection, FakeEndpoint, Observed


@implementer(IStreamClientEndpoint)
class SilentEndpoint:
    """
    A machine that is gone.

    @ivar cancelled: How many attempts were given up.
    """

    cancelled = 0

    def connect(self, protocolFactory: IProtocolFactory) -> "Deferred[Any]":
        """
        See L{IStreamClientEndpoint.connect}.
        """
        return Deferred(self._cancel)

    def _cancel(self, _: object) -> None:
        self.cancelled += 1


class SeveralTests(SynchronousTestCase):
    """
    A client of two servers, of which it needs one.
    """

    def setUp(self) -> None:
        """
        Make both.
        """
        self.clock = Clock()
        self.one, self.other = FakeEndpoint(self.clock), FakeEndpoint(self.clock)

    def start(self, *endpoints: Any, observer: Any = None) -> CreditClient:
        """
        Start the client, which the end of the test stops.
        """
        self.client = client = CreditClient(
            endpoints or (self.one, self.other),
            "a.b.c",
            clock=self.clock,
            random=lambda: 1.0,
            observer=observer,
        )
        client.startService()
        self.clock.advance(0)
        self.addCleanup(self.stop)
        return client

    def stop(self) -> None:
        """
        Check that no delayed call is left.
        """
        stopped = self.client.stopService()
        self.clock.advance(0)
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def credit(self) -> "Deferred[Data]":
        """
        Ask for a credit.
        """
        asked = self.client.creditIn(1001, 300, "Promotion credit", key="k")
        self.addCleanup(asked.addErrback, lambda _: None)
        return asked

    def assertConnected(self, one: int, other: int) -> None:
        """
        Check how many connections each server has had.
        """
        counts = len(self.one.connections), len(self.other.connections)
        self.assertEqual(counts, (one, other))

    def test_first(self) -> None:
        """
        It connects to the first.
        """
        self.start()
        self.assertConnected(1, 0)

    def test_firstIsAway(self) -> None:
        """
        If that refuses, it connects to the next at once.
        """
        self.one.isRefusing = True
        self.start()
        self.assertConnected(0, 1)

    def test_allAreAway(self) -> None:
        """
        If all refuse, they are tried again after a wait.
        """
        self.one.isRefusing = self.other.isRefusing = True
        self.start()
        self.assertEqual((self.one.attempts, self.other.attempts), ([0.0], [0.0]))
        self.one.isRefusing = False
        self.clock.advance(0.1)
        self.clock.advance(0)
        self.assertConnected(1, 0)

    def test_machineIsGone(self) -> None:
        """
        One that does not even refuse is left after three seconds.
        """
        silent = SilentEndpoint()
        self.start(silent, self.other)
        self.clock.advance(2.9)
        self.assertConnected(0, 0)
        self.clock.advance(0.1)
        self.clock.advance(0)
        self.assertEqual(silent.cancelled, 1)
        self.assertConnected(0, 1)

    def test_stopWhileConnecting(self) -> None:
        """
        A stop ends the attempt.
        """
        silent = SilentEndpoint()
        self.start(silent, self.other)
        self.client.stopService()
        self.assertEqual(silent.cancelled, 1)
        self.assertConnected(0, 0)

    def test_moves(self) -> None:
        """
        After a lost connection the next server is asked, under the same key, and has
        what the first one may have booked.
        """
        self.start()
        asked = self.credit()
        [request] = self.one.connections[0].requests()
        self.one.connections[0].lose()
        self.clock.advance(0.1)
        self.clock.advance(0)
        self.assertConnected(1, 1)
        [again] = self.other.connections[0].requests()
        self.assertEqual(
            (request["idempotencyKey"], again["idempotencyKey"]), ("k",) * 2
        )
        self.other.connections[0].answer(again)
        self.assertEqual(self.successResultOf(asked), DATA)

    def test_goesOnBehindTheCursor(self) -> None:
        """
        Events go on behind the last one, whichever server had sent it.
        """
        observed = Observed()
        self.start(observer=observed)
        self.one.connections[0].receive(
            b'{"extID":"1","status":200,"data":{"cursor":"9f3c1a7e-4"}}\r\n'
            b'{"event":"trade:event","type":0,"data":{"order":7,"cursor":"9f3c1a7e-5"}}'
            b"\r\n"
        )
        self.clock.advance(0)
        self.one.connections[0].lose()
        self.clock.advance(0.1)
        self.clock.advance(0)
        [line] = self.other.connections[0].lines()
        self.assertIn(b'"since":"9f3c1a7e-5"', line.replace(b" ", b""))

    def test_refusesAll(self) -> None:
        """
        A server that is stopping, or takes nothing more, is left; what it has yet to
        answer is waited for.
        """
        self.start()
        first, second = self.credit(), self.credit()
        server = self.one.connections[0]
        server.acknowledge()
        requests = server.requests()
        server.refuse(requests[0], 503, "SHUTDOWN", {"retry_after_ms": 100})
        self.assertFalse(server.transport.aborted)
        server.answer(requests[1])
        self.successResultOf(second)
        self.clock.advance(0.2)
        [again] = server.requests()
        server.refuse(again, 503, "SHUTDOWN", {"retry_after_ms": 100})
        self.assertTrue(server.transport.aborted)
        self.clock.advance(0.1)
        self.clock.advance(0.1)
        self.clock.advance(0.2)
        [moved] = self.other.connections[0].requests()
        self.other.connections[0].answer(moved)
        self.successResultOf(first)

    def test_timesOut(self) -> None:
        """
        One that can't book in time is left, too: the next one finds by the key whether
        it is booked.
        """
        self.start()
        asked = self.credit()
        server = self.one.connections[0]
        server.acknowledge()
        [request] = server.requests()
        server.refuse(request, 504, "SYNC_TIMEOUT", {"order": 1242281})
        self.assertTrue(server.transport.aborted)
        self.clock.advance(0.1)
        self.clock.advance(0.1)
        [moved] = self.other.connections[0].requests()
        self.assertEqual(moved["idempotencyKey"], "k")
        self.other.connections[0].answer(moved)
        self.successResultOf(asked)

    def test_busy(self) -> None:
        """
        One that has too much to do is asked again.
        """
        self.start()
        self.credit()
        server = self.one.connections[0]
        [request] = server.requests()
        server.refuse(request, 503, "BUSY", {"retry_after_ms": 100})
        self.clock.advance(0.2)
        self.assertEqual(len(server.requests()), 1)
        self.assertConnected(1, 0)

    def talkTLS(self, connection: Connection) -> None:
        """
        Answer as a server does that speaks TLS, which no wait can change.
        """
        connection.receive(b"\x15\x03\x01\x00\x02\x02\x46")
        self.clock.advance(0)

    def test_oneCanNotBeUsed(self) -> None:
        """
        What is wrong with one server for good does not end a request that another may
        answer.
        """
        self.start()
        asked = self.credit()
        self.talkTLS(self.one.connections[0])
        self.assertNoResult(asked)
        self.clock.advance(0.1)
        self.clock.advance(0)
        [again] = self.other.connections[0].requests()
        self.other.connections[0].answer(again)
        self.successResultOf(asked)

    def test_noneCanBeUsed(self) -> None:
        """
        What is wrong with all of them does.
        """
        self.start()
        asked = self.credit()
        self.talkTLS(self.one.connections[0])
        self.clock.advance(0.1)
        self.clock.advance(0)
        self.talkTLS(self.other.connections[0])
        why = self.failureResultOf(asked, Unanswered).value
        self.assertIn("the server speaks TLS there", str(why))
