"""
Tests for L{creditsync._conversation.sessions}.
"""

from collections.abc import Sequence

from twisted.internet.defer import Deferred

from tests.test_session import SessionTestCase


class StopTests(SessionTestCase):
    """
    The server is stopping.
    """

    def test_refusesWhatIsNew(self) -> None:
        """
        A new request is 503 SHUTDOWN and says when to come again.
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
        It has stopped when each request that was taken has its answer.
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
        A session that is gone is not waited for.
        """
        client = self.client()
        client.asks()
        stopped = self.sessions.stop()
        client.session.ended()
        self.successResultOf(stopped)

    def test_twice(self) -> None:
        """
        Who asks twice is told both times.
        """
        client = self.client()
        client.asks()
        stops: Sequence[Deferred[None]] = [self.sessions.stop(), self.sessions.stop()]
        self.bookAll()
        for stopped in stops:
            self.successResultOf(stopped)
