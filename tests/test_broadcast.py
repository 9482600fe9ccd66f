"""
Tests for L{creditsync._conversation.broadcast}.
"""

from creditsync.records import Principal
from creditsync.testing import FakeAuthenticator
from tests.test_session import SEED_REPLY, SEED_REQUEST, Client, SessionTestCase


class StreamTests(SessionTestCase):
    """
    Who receives trade events.
    """

    def listening(self, token: str = "manager") -> Client:
        """
        A client whose token was accepted, and which heard nothing since.
        """
        client = self.client()
        client.asks("HealthCheck", None, {}, token)
        client.hears()
        return client

    def assertListens(self, client: Client, listens: bool = True) -> None:
        """
        This client receives an event, or does not.
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
        Every session with an accepted token does, whatever its role.
        """
        self.assertListens(self.listening("user"))

    def test_refusedCommandListens(self) -> None:
        """
        It is the token that must be accepted, not the command.
        """
        client = self.client()
        client.asks("CreditUp")
        client.hears()
        self.assertListens(client)

    def test_unsubscribe(self) -> None:
        """
        C{Unsubscribe} stops the stream, C{Subscribe} resumes it.
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
        Another connection goes on to listen.
        """
        client, other = self.listening(), self.listening()
        client.asks("Unsubscribe", 1, {"chanels": ["trade:event"]})
        self.assertListens(other)

    def test_unsubscribedWaitsAllTheSame(self) -> None:
        """
        Who does not listen still gets the reply that it waits for.
        """
        client = self.listening()
        client.asks("Unsubscribe", 1, {"chanels": ["trade:event"]})
        client.hears()
        client.says(SEED_REQUEST)
        self.bookAll()
        self.assertEqual(client.heard, [SEED_REPLY])

    def test_unsubscribedStaysSo(self) -> None:
        """
        Another good token on the connection does not resume the stream.
        """
        client = self.listening()
        client.asks("Unsubscribe", 1, {"chanels": ["trade:event"]})
        client.asks("HealthCheck", None, {}, "admin")
        client.hears()
        self.assertListens(client, False)

    def test_unknownChannel(self) -> None:
        """
        An unknown channel is 404, and nothing has changed.
        """
        client = self.listening()
        client.asks("Unsubscribe", 1, {"chanels": ["trade:event", "quotes"]})
        self.assertEqual(client.outcomes(), [(1, 404, "NOT_FOUND")])
        self.assertListens(client)

    def test_channelsAreRequired(self) -> None:
        """
        The platform's spelling is the member's name.
        """
        client = self.listening()
        client.asks("Subscribe", 1, {"channels": ["trade:event"]})
        [reply] = client.hears()
        self.assertEqual((reply["status"], reply["error"]), (400, "INVALID_DATA"))
        self.assertIn("data.chanels", reply["message"])

    def test_revoked(self) -> None:
        """
        When its token is revoked a session's stream stops, and its next
        command is 401.
        """
        client = self.listening()
        self.authenticator.revoked.add("manager")
        self.assertListens(client, False)
        client.asks("HealthCheck", 1, {})
        self.assertEqual(client.outcomes(), [(1, 401, "UNAUTHORIZED")])

    def test_resumesWithAGoodToken(self) -> None:
        """
        A good token resumes it, be it another or the same one again.
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
        It is the token that a session used last whose end stops its stream.
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
        So does the same token, once it is good again.
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
        A command with a bad token does not end the stream that a good one
        began.
        """
        client = self.listening()
        client.asks(token="forged")
        client.hears()
        self.assertListens(client)

    def test_revokedWhileWaiting(self) -> None:
        """
        Who waits when its token is revoked still gets its reply.
        """
        client = self.client()
        client.says(SEED_REQUEST)
        self.authenticator.revoked.add("manager")
        self.bookAll()
        self.assertEqual(client.heard, [SEED_REPLY])

    def test_othersListenOn(self) -> None:
        """
        One session's end of stream is not another's.
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
