"""
Tests for L{creditsync._conversation.broadcast}.
"""

from creditsync.records import Principal
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

    def test_anyRoleListens(self) -> None:
        """
        Every session with an accepted token receives events, whatever its role.
        """
        self.assertListens(self.listening("user"))

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
