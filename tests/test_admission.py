"""
Tests for L{creditsync._conversation.admission}.
"""

from creditsync.records import Limits
from tests.test_session import SessionTestCase


class LimitTests(SessionTestCase):
    """
    Every queue has a limit, and what exceeds it is refused.
    """

    def test_perSession(self) -> None:
        """
        A session above its limit is answered with 429; another one is served.
        """
        self.serve(self.runtime, limits=Limits(maxPendingPerSession=2))
        busy, other = self.client(), self.client()
        busy.asks(extID=1)
        busy.asks("CreditIn", None)
        busy.asks(extID=3)
        self.assertEqual(busy.outcomes(), [(3, 429, "TOO_MANY_REQUESTS")])
        other.asks(extID=3)
        self.assertEqual(other.heard, [])
        self.assertEqual(len(self.runtime.reserved), 3)

    def test_roomAgain(self) -> None:
        """
        Each reply makes room for one more request.
        """
        self.serve(self.runtime, limits=Limits(maxPendingPerSession=1))
        client = self.client()
        client.asks(extID=1)
        self.bookAll()
        client.hears()
        client.asks(extID=2)
        self.assertEqual(client.heard, [])

    def test_inAll(self) -> None:
        """
        A server above its limit answers with 503 BUSY and a time to retry
        after.
        """
        self.serve(self.runtime, limits=Limits(maxPending=1))
        first, second = self.client(), self.client()
        first.asks()
        second.asks()
        self.assertEqual(
            second.hears(),
            [
                {
                    "extID": "a",
                    "status": 503,
                    "error": "BUSY",
                    "message": "the server has too many requests in flight",
                    "data": {"retry_after_ms": 250},
                }
            ],
        )

    def test_endedSessionMakesRoom(self) -> None:
        """
        The pending requests of a session that has ended no longer count.
        """
        self.serve(self.runtime, limits=Limits(maxPending=1))
        first, second = self.client(), self.client()
        first.asks()
        first.session.ended()
        second.asks()
        self.assertEqual(second.heard, [])
