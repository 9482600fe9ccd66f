"""
Tests for L{creditsync._conversation.sessions}.
"""

from collections.abc import Sequence

from twisted.internet.defer import Deferred

from tests.test_session import SessionTestCase


class StopTests(SessionTestCase):
    """
    A server that is stopping.
    """

    def test_refusesWhatIsNew(self) -> None:
        """
        A new request is answered with 503 SHUTDOWN and a time to retry after.
        """
        client = self.client()
        self.successResultOf(self.sessions.stop())
        client.asks()
        self.assertEqual(
            client.hears(),
            [
                {
                    "extID": "a",
                    "status": 503,
                    "error": "SHUTDOWN",
                    "message": "the server is stopping",
                    "data": {"retry_after_ms": 5000},
                }
            ],
        )
        self.assertEqual(self.runtime.reserved, [])

    def test_waitsForAnswers(self) -> None:
        """
        The stop is complete once every accepted request has its reply.
        """
        first, second = self.client(), self.client()
        first.asks("CreditIn")
        second.asks()
        stopped = self.sessions.stop()
        accepted, booked = self.runtime.reserved
        self.runtime.book(accepted)
        self.assertNoResult(stopped)
        self.runtime.book(booked)
        self.successResultOf(stopped)
        self.assertEqual(first.outcomes(), [("a", 200, None)])
        self.assertEqual(second.outcomes(), [("a", 200, None)])

    def test_endedSessionsNeedNone(self) -> None:
        """
        The stop does not wait for requests of sessions that have ended.
        """
        client = self.client()
        client.asks()
        stopped = self.sessions.stop()
        client.session.ended()
        self.successResultOf(stopped)

    def test_twice(self) -> None:
        """
        Every caller that stops the sessions is notified, also the second one.
        """
        client = self.client()
        client.asks()
        stops: Sequence[Deferred[None]] = [self.sessions.stop(), self.sessions.stop()]
        self.bookAll()
        for stopped in stops:
            self.successResultOf(stopped)
