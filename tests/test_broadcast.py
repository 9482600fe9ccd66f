"""
Tests for L{creditsync._conversation.broadcast}.
"""

from types import MappingProxyType
from typing import Any

from creditsync.records import Operation, Principal, Reservation, Trade, TradeEvent
from creditsync.testing import FakeAuthenticator
from tests.test_session import SEED_REPLY, SEED_REQUEST, Client, SessionTestCase


class StreamTests(SessionTestCase):
    """
    Which sessions receive trade events.
    """

    def listening(self, token: str = "manager") -> Client:
        """
        A client whose token was accepted, and which has received nothing since.
        """
        client = self.client()
        client.asks("HealthCheck", None, {}, token)
        client.hears()
        return client

    def assertListens(self, client: Client, listens: bool = True) -> None:
        """
        Assert that this client receives an event, or that it does not.
        """
        self.publish(0, {"order": 1})
        self.assertEqual(
            client.hears(),
            [{"event": "trade:event", "type": 0, "data": {"order": 1}}] * listens,
        )

    def test_strangersHearNothing(self) -> None:
        """
        A connection without an accepted token receives no events.
        """
        silent, refused = self.client(), self.client()
        refused.asks(token="forged")
        refused.hears()
        self.assertListens(silent, False)
        self.assertListens(refused, False)

    def test_unknownAccount(self) -> None:
        """
        An event that does not say its account is only for tokens that may see all.
        """
        for token in ("manager", "dealer", "admin"):
            self.assertListens(self.listening(token))
        self.assertListens(self.listening("user"), False)

    def test_refusedCommandListens(self) -> None:
        """
        A session receives events once its token is accepted, even if its
        command was refused.
        """
        client = self.client()
        client.asks("CreditUp")
        client.hears()
        self.assertListens(client)

    def test_unsubscribe(self) -> None:
        """
        C{Unsubscribe} stops the stream, and C{Subscribe} resumes it.
        """
        client = self.listening()
        client.asks("Unsubscribe", 1, {"chanels": ["trade:event"]})
        self.assertEqual(
            client.hears(),
            [{"extID": 1, "status": 200, "data": {"chanels": ["trade:event"]}}],
        )
        self.assertListens(client, False)
        client.asks("Subscribe", None, {"chanels": ["trade:event"]})
        self.assertEqual(
            client.hears(), [{"status": 200, "data": {"chanels": ["trade:event"]}}]
        )
        self.assertListens(client)

    def test_unsubscribedForTheConnection(self) -> None:
        """
        C{Unsubscribe} does not affect other connections.
        """
        client, other = self.listening(), self.listening()
        client.asks("Unsubscribe", 1, {"chanels": ["trade:event"]})
        self.assertListens(other)

    def test_unsubscribedWaitsAllTheSame(self) -> None:
        """
        An unsubscribed session still receives the reply to its pending request.
        """
        client = self.listening()
        client.asks("Unsubscribe", 1, {"chanels": ["trade:event"]})
        client.hears()
        client.says(SEED_REQUEST)
        self.bookAll()
        self.assertEqual(client.heard, [SEED_REPLY])

    def test_unsubscribedStaysSo(self) -> None:
        """
        Another valid token on an unsubscribed connection does not resume the
        stream.
        """
        client = self.listening()
        client.asks("Unsubscribe", 1, {"chanels": ["trade:event"]})
        client.asks("HealthCheck", None, {}, "admin")
        client.hears()
        self.assertListens(client, False)

    def test_unknownChannel(self) -> None:
        """
        An unknown channel is answered with 404, and the subscription does not
        change.
        """
        client = self.listening()
        client.asks("Unsubscribe", 1, {"chanels": ["trade:event", "quotes"]})
        self.assertEqual(client.outcomes(), [(1, 404, "NOT_FOUND")])
        self.assertListens(client)

    def test_channelsAreRequired(self) -> None:
        """
        The member is named as the platform spells it, and is required.
        """
        client = self.listening()
        client.asks("Subscribe", 1, {"channels": ["trade:event"]})
        [reply] = client.hears()
        self.assertEqual((reply["status"], reply["error"]), (400, "INVALID_DATA"))
        self.assertIn("data.chanels", reply["message"])

    def test_revoked(self) -> None:
        """
        When a session's token is revoked, its stream stops, and its next
        command is answered with 401.
        """
        client = self.listening()
        self.authenticator.revoked.add("manager")
        self.assertListens(client, False)
        client.asks("HealthCheck", 1, {})
        self.assertEqual(client.outcomes(), [(1, 401, "UNAUTHORIZED")])

    def test_resumesWithAGoodToken(self) -> None:
        """
        A valid token resumes a stream that a revocation stopped, whether it is
        another token or the same one.
        """
        client = self.listening()
        self.authenticator.revoked.add("manager")
        self.assertListens(client, False)
        client.asks("HealthCheck", 1, {}, "admin")
        client.hears()
        self.assertListens(client)
        self.authenticator.revoked = {"admin"}
        self.assertListens(client, False)
        client.asks("HealthCheck", 1, {}, "manager")
        client.hears()
        self.assertListens(client)

    def test_latestTokenCounts(self) -> None:
        """
        A stream depends on the token that its session used last.
        """
        client = self.listening("manager")
        client.asks("HealthCheck", None, {}, "admin")
        client.hears()
        self.authenticator.revoked = {"manager"}
        self.assertListens(client)
        self.authenticator.revoked = {"admin"}
        self.assertListens(client, False)

    def test_sameTokenGoodAgain(self) -> None:
        """
        A stopped stream resumes with the next command when the token is valid again.
        """
        client = self.listening()
        self.authenticator.revoked.add("manager")
        self.assertListens(client, False)
        self.authenticator.revoked.clear()
        self.assertListens(client, False)
        client.asks("HealthCheck", None, {})
        client.hears()
        self.assertListens(client)

    def test_badTokenOfAGoodSession(self) -> None:
        """
        A command with an invalid token does not stop the stream that a valid
        one started.
        """
        client = self.listening()
        client.asks(token="forged")
        client.hears()
        self.assertListens(client)

    def test_revokedWhileWaiting(self) -> None:
        """
        A request that is pending when its token is revoked still receives its
        reply.
        """
        client = self.client()
        client.says(SEED_REQUEST)
        self.authenticator.revoked.add("manager")
        self.bookAll()
        self.assertEqual(client.heard, [SEED_REPLY])

    def test_othersListenOn(self) -> None:
        """
        The end of one session's stream does not affect other sessions.
        """
        self.listening("manager")
        other = self.listening("admin")
        self.authenticator.revoked.add("manager")
        self.assertListens(other)

    def test_expired(self) -> None:
        """
        A token that expires stops the stream as a revoked one does.
        """
        expires = Principal(7, 1, 10.0, "brief")

        class Brief(FakeAuthenticator):
            now = 0.0

            def authenticate(self, token: str | None) -> Principal:
                return expires

            def isCurrent(self, principal: Principal) -> bool:
                return principal is expires and self.now < principal.expires

        brief = Brief()
        self.serve(self.runtime, authenticator=brief)
        client = self.listening()
        brief.now = 9.0
        self.assertListens(client)
        brief.now = 10.0
        self.assertListens(client, False)


class BatchTests(SessionTestCase):
    """
    Events that are published together.
    """

    def setUp(self) -> None:
        """
        Have a client that listens, and one that waits for three orders.
        """
        super().setUp()
        self.listening, self.asking = self.client(), self.client()
        self.listening.asks("HealthCheck", None, {})
        self.listening.hears()
        for extID in (1, 2, 3):
            self.asking.asks(extID=extID)

    def assertPublished(
        self, events: list[TradeEvent], orders: list[int], replies: list[int]
    ) -> None:
        """
        Assert that of these events those of these orders are sent, and that these
        requests are answered.
        """
        self.events.publish(events)
        self.assertEqual([e["data"]["order"] for e in self.listening.hears()], orders)
        self.assertEqual([r["extID"] for r in self.asking.replies()], replies)

    def test_reservations(self) -> None:
        """
        Those of the embedded runtime are the reservations themselves.
        """
        reserved: list[TradeEvent] = list(self.runtime.reserved)
        self.assertPublished(reserved, [1242281, 1242282, 1242283], [1, 2, 3])
        self.assertAtRest()

    def test_mixed(self) -> None:
        """
        They may be of different types, and have trades or another runtime's
        mappings as their data, with a mark or without.
        """
        first, _, third = self.runtime.reserved
        self.assertPublished(
            [
                first,
                TradeEvent(1, {"order": 9}),
                TradeEvent(0, MappingProxyType({"order": 1242282})),
                TradeEvent(2, Trade(8, 1, 7, 6, 1, "it's", 0, 0, 0)),
                TradeEvent(0, third.data, third.operation),
            ],
            [1242281, 9, 1242282, 8, 1242283],
            [1, 2, 3],
        )
        self.assertAtRest()

    def test_unspeakable(self) -> None:
        """
        Those that can't be encoded, wherever they are, are logged, and lose nobody
        else: the others are sent in their order and answer their requests.
        """
        odd: list[Any] = [
            {"order": 5, "what": object()},
            Trade(6, object(), 7, 3, 1, "x", 0, 0, 0),  # type: ignore[arg-type]
            Trade(7, 1, 7, 3, 1, None, 0, 0, 0),  # type: ignore[arg-type]
            None,
        ]
        events: list[TradeEvent] = [TradeEvent(0, data) for data in odd]
        for number, reservation in enumerate(self.runtime.reserved):
            events.insert(2 * number, reservation)
        self.assertPublished(events, [1242281, 1242282, 1242283], [1, 2, 3])
        self.assertEqual(len(self.flushLoggedErrors()), 4)
        self.assertAtRest()

    def test_onlyUnspeakable(self) -> None:
        """
        If none can be encoded nothing is sent, and nobody is answered.
        """
        self.assertPublished([TradeEvent(0, {"order": object()})] * 2, [], [])
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 2)

    def test_unspeakableOfAWaiter(self) -> None:
        """
        A request whose own event can't be encoded gets no reply by it, and times
        out with an unknown outcome.
        """
        first, second, third = self.runtime.reserved
        broken = Reservation(
            0,
            Trade(second.order, object(), 7, 3, 1, "x", 0, 0, 0),  # type: ignore[arg-type]
            second.operation,
        )
        self.assertPublished([first, broken, third], [1242281, 1242283], [1, 3])
        self.flushLoggedErrors(TypeError)
        self.clock.advance(5)
        self.assertEqual(self.asking.outcomes(), [(2, 504, "SYNC_TIMEOUT")])
        self.assertAtRest()

    def test_none(self) -> None:
        """
        No events are nothing.
        """
        self.assertPublished([], [], [])

    def test_othersOperation(self) -> None:
        """
        A marked event of an operation that nobody here asked for answers nobody.
        """
        other = Operation("CreditIn", 7, 1001, 1, "another")
        self.assertPublished([TradeEvent(0, {"order": 1242281}, other)], [1242281], [])
