"""
Tests of sessions whose clients repeat requests under their idempotency keys.
"""

from typing import Any

from creditsync.errors import LedgerProblem
from creditsync.records import TradeEvent
from creditsync.runtime import TradingRuntime
from creditsync.testing import HeldLedger
from tests.test_session import DATA, Client, SessionTestCase, SlowRuntime


class EmbeddedTestCase(SessionTestCase):
    """
    Sessions on the embedded runtime, which remembers keys.
    """

    def setUp(self) -> None:
        """
        Serve it on a ledger whose commits end when the test says so.
        """
        super().setUp()
        self.ledger = HeldLedger()
        self.embedded = TradingRuntime(
            self.clock, self.ledger, self.events, now=lambda: 1767225600, maxQueued=9
        )
        self.embedded.startService()
        self.serve(self.embedded)

    def commit(self) -> None:
        """
        Let the runtime book everything that is queued.
        """
        self.clock.advance(0)
        self.ledger.release()

    def bookedTwice(self, client: Client, **second: Any) -> list[Any]:
        """
        Book a credit under a key, and send the request again with these members
        changed.

        @return: The lines received for the second request.
        """
        client.asks(extID="first", idempotencyKey="k")
        self.commit()
        client.hears()
        client.asks(**{"idempotencyKey": "k", **second})
        return client.hears()


class ReplayTests(EmbeddedTestCase):
    """
    Requests that repeat a booked one are not booked again.
    """

    # What a client is told of the first credit under a key.
    data = (
        b'{"order":1,"login":1001,"cmd":7,"state":3,"profit":300.0,'
        b'"comment":"Promotion credit","symbol":"","volume":0,"open_price":0.0,'
        b'"close_price":0.0,"open_time":1767225600,"close_time":1767225600,"sl":0.0,'
        b'"tp":0.0,"storage":0.0,"commission":0.0,"reason":7,"timestamp":1767225600}'
    )

    def test_sync(self) -> None:
        """
        A repeated C{CreditInSync} is answered at once with the same data,
        marked as replayed at the top level, and causes no second event.
        """
        client = self.client()
        client.asks(extID=1, idempotencyKey="k")
        self.commit()
        client.heard.clear()
        client.asks(extID=2, idempotencyKey="k")
        self.assertEqual(
            client.heard,
            [
                b'{"extID":2,"status":200,"data":%b,"replayed":true}\r\n' % self.data,
            ],
        )
        self.assertAtRest()
        self.assertEqual(self.ledger.commits, [])

    def test_asynchronous(self) -> None:
        """
        A repeated C{CreditIn} is answered at once with its accepted command,
        marked as replayed.
        """
        client = self.client()
        client.asks("CreditIn", 1, idempotencyKey="k")
        self.commit()
        client.heard.clear()
        client.asks("CreditIn", 2, idempotencyKey="k")
        self.assertEqual(
            client.heard,
            [
                b'{"extID":2,"status":200,"data":{"accepted":true,"order":1,'
                b'"state":10,"login":1001,"cmd":7,"amount":300.0},"replayed":true}\r\n',
            ],
        )
        self.assertAtRest()

    def test_withoutExtID(self) -> None:
        """
        A repeated request without an extID is answered without one.
        """
        client = self.client()
        for _ in range(2):
            client.asks("CreditIn", None, idempotencyKey="k")
            self.clock.advance(0)
        self.ledger.release()
        client.hears()
        client.asks("CreditIn", None, idempotencyKey="k")
        [reply] = client.hears()
        self.assertNotIn("extID", reply)
        self.assertIs(reply["replayed"], True)

    def test_firstIsNoReplay(self) -> None:
        """
        The reply to the first request under a key is not marked as replayed.
        """
        client = self.client()
        client.asks(idempotencyKey="k")
        self.commit()
        [reply] = client.replies()
        self.assertEqual(sorted(reply), ["data", "extID", "status"])

    def test_anotherSession(self) -> None:
        """
        A key belongs to the principal: it is replayed on another connection
        too.
        """
        gone = self.client()
        gone.asks(idempotencyKey="k")
        gone.session.ended()
        self.commit()
        client = self.client()
        client.asks(extID="again", idempotencyKey="k")
        [reply] = client.hears()
        self.assertEqual(
            (reply["extID"], reply["data"]["order"], reply["replayed"]),
            ("again", 1, True),
        )

    def test_anotherPrincipal(self) -> None:
        """
        The same key of another principal is a different key.
        """
        client = self.client()
        self.assertEqual(self.bookedTwice(client, token="dealer"), [])
        self.commit()
        [reply] = client.replies()
        self.assertEqual(reply["data"]["order"], 2)
        self.assertNotIn("replayed", reply)

    def test_asItWasBooked(self) -> None:
        """
        A replay has the data as it was booked, though the order was updated
        since.
        """
        client = self.client()
        client.asks(extID=1, idempotencyKey="k")
        self.commit()
        client.asks(extID=2, data={**DATA, "amount": 7, "order": 1})
        self.commit()
        client.hears()
        client.asks(extID=3, idempotencyKey="k")
        [reply] = client.hears()
        self.assertEqual((reply["data"]["profit"], reply["replayed"]), (300.0, True))

    def test_otherContent(self) -> None:
        """
        The same key with other content is answered with 422, which names the
        member that differs and the first order.
        """
        client = self.client()
        self.assertEqual(
            self.bookedTwice(client, data={**DATA, "amount": 301}),
            [
                {
                    "extID": "a",
                    "status": 422,
                    "error": "IDEMPOTENCY_KEY_REUSED",
                    "message": "data.amount differs from the first request with this"
                    " idempotencyKey, which has order 1",
                    "data": {"order": 1},
                }
            ],
        )
        self.assertAtRest()

    def test_otherForm(self) -> None:
        """
        A C{CreditIn} under the key of a C{CreditInSync} is not the same
        request.
        """
        [reply] = self.bookedTwice(self.client(), command="CreditIn")
        self.assertEqual((reply["status"], reply["data"]), (422, {"order": 1}))
        self.assertTrue(reply["message"].startswith("command differs "))

    def test_afterA504(self) -> None:
        """
        A client that received a 504 learns the outcome by repeating the
        request.
        """
        client = self.client()
        client.asks(idempotencyKey="k")
        self.clock.advance(5)
        self.assertEqual(client.outcomes(), [("a", 504, "SYNC_TIMEOUT")])
        self.ledger.release()
        client.hears()
        client.asks(idempotencyKey="k")
        [reply] = client.hears()
        self.assertEqual((reply["data"]["order"], reply["replayed"]), (1, True))


class AttachTests(EmbeddedTestCase):
    """
    A request whose key is that of a pending one attaches to it, and is not
    booked twice.
    """

    def test_sync(self) -> None:
        """
        One event answers all requests for its operation, each on its own
        session.
        """
        first, second = self.client(), self.client()
        first.asks(extID=1, idempotencyKey="k")
        first.asks(extID=2, idempotencyKey="k")
        self.clock.advance(0)
        second.asks(extID=3, idempotencyKey="k")
        self.assertEqual(first.heard + second.heard, [])
        self.ledger.release()
        event, one, two = first.hears()
        self.assertEqual(
            [one, two],
            [
                {"extID": 1, "status": 200, "data": event["data"]},
                {"extID": 2, "status": 200, "data": event["data"]},
            ],
        )
        self.assertEqual(
            second.hears(),
            [event, {"extID": 3, "status": 200, "data": event["data"]}],
        )
        self.assertEqual(self.ledger.commits, [])
        self.assertAtRest()

    def test_asynchronous(self) -> None:
        """
        One commit answers all asynchronous requests for its operation.
        """
        client = self.client()
        client.asks("CreditIn", 1, idempotencyKey="k")
        self.clock.advance(0)
        client.asks("CreditIn", 2, idempotencyKey="k")
        self.assertEqual(client.heard, [])
        self.ledger.release()
        one, two = client.replies()
        self.assertEqual((one["extID"], two["extID"]), (1, 2))
        self.assertEqual((one["data"]["order"], two["data"]["order"]), (1, 1))
        self.assertNotIn("replayed", two)
        self.assertAtRest()

    def test_eachHasItsTime(self) -> None:
        """
        An attached request has its own timeout, counted from its arrival.
        """
        client = self.client()
        client.asks(extID=1, idempotencyKey="k")
        self.clock.advance(4)
        client.asks(extID=2, idempotencyKey="k")
        self.clock.advance(1)
        self.assertEqual(client.outcomes(), [(1, 504, "SYNC_TIMEOUT")])
        self.clock.advance(3.9)
        self.ledger.release()
        self.assertEqual(client.outcomes(), [(2, 200, None)])
        self.assertAtRest()

    def test_firstIsGone(self) -> None:
        """
        An attached request is answered even if the session of the first one has
        ended.
        """
        first, second = self.client(), self.client()
        first.asks(idempotencyKey="k")
        second.asks(idempotencyKey="k")
        first.session.ended()
        self.commit()
        self.assertEqual(first.heard, [])
        self.assertEqual(second.outcomes(), [("a", 200, None)])
        self.assertAtRest()

    def test_lost(self) -> None:
        """
        If the commit fails, each request for its operation has an unknown
        outcome.
        """
        client = self.client()
        client.asks("CreditIn", 1, idempotencyKey="k")
        client.asks("CreditIn", 2, idempotencyKey="k")
        self.clock.advance(0)
        self.ledger.fail(LedgerProblem("disk"))
        self.assertEqual(
            [
                (reply["extID"], reply["status"], reply["data"])
                for reply in client.hears()
            ],
            [(1, 504, {"order": 1}), (2, 504, {"order": 1})],
        )
        self.failureResultOf(self.embedded.whenFailed(), LedgerProblem)
        self.assertEqual(len(self.flushLoggedErrors(LedgerProblem)), 1)
        self.assertAtRest()


class SlowReplayTests(SessionTestCase):
    """
    A runtime that takes its time to recognise a key.
    """

    def setUp(self) -> None:
        """
        Serve a runtime that reserves when the test says so.
        """
        super().setUp()
        self.slow = SlowRuntime()
        self.serve(self.slow)

    def test_sync(self) -> None:
        """
        A C{CreditInSync} that is recognised later as a replay is answered then,
        and marked.
        """
        client = self.client()
        client.asks(idempotencyKey="k")
        [(operation, _)] = self.slow.asked
        self.assertEqual((operation.principal, operation.key), (7, "k"))
        self.assertEqual(client.heard, [])
        self.slow.reserve(77, isReplay=True)
        [reply] = client.hears()
        self.assertEqual(
            (reply["extID"], reply["status"], reply["replayed"]), ("a", 200, True)
        )
        self.assertEqual((reply["data"]["order"], reply["data"]["state"]), (77, 3))
        self.assertAtRest()

    def test_asynchronous(self) -> None:
        """
        A C{CreditIn} that is recognised later as a replay is answered then, and
        marked.
        """
        client = self.client()
        client.asks("CreditIn", None, idempotencyKey="k")
        self.slow.reserve(77, isReplay=True)
        self.assertEqual(
            client.heard,
            [
                b'{"status":200,"data":{"accepted":true,"order":77,"state":10,'
                b'"login":1001,"cmd":7,"amount":300.0},"replayed":true}\r\n'
            ],
        )
        self.assertAtRest()

    def test_afterTheTimeout(self) -> None:
        """
        A replay that is recognised after the 504 causes no reply.
        """
        client = self.client()
        client.asks(idempotencyKey="k")
        self.clock.advance(5)
        client.hears()
        self.slow.reserve(77, isReplay=True)
        self.assertEqual(client.heard, [])
        self.assertAtRest()

    def test_sessionEnded(self) -> None:
        """
        A replay that is recognised after its session has ended causes no reply.
        """
        client = self.client()
        client.asks(idempotencyKey="k")
        client.session.ended()
        self.slow.reserve(77, isReplay=True)
        self.assertEqual(client.heard, [])
        self.assertAtRest()

    def test_attach(self) -> None:
        """
        A reservation that the runtime returns for two requests answers both, in
        the order in which it was returned.
        """
        first, second = self.client(), self.client()
        first.asks(idempotencyKey="k")
        second.asks(idempotencyKey="k")
        reservation = self.slow.reserve(77)
        [(_, answer)] = self.slow.asked
        answer.callback(reservation)
        self.events.publish([TradeEvent(0, {"order": 77}, reservation.operation)])
        for client in (first, second):
            self.assertEqual(
                client.replies(),
                [{"extID": "a", "status": 200, "data": {"order": 77}}],
            )
        self.assertAtRest()


class IdempotentExtIDTests(EmbeddedTestCase):
    """
    A server that uses the extID of a request as its key.
    """

    def setUp(self) -> None:
        """
        Serve the embedded runtime with that setting.
        """
        super().setUp()
        self.serve(self.embedded, isExtIDIdempotent=True)

    def test_replayed(self) -> None:
        """
        The same request with the same extID is booked once.
        """
        client = self.client()
        client.asks()
        self.commit()
        client.hears()
        client.asks()
        [reply] = client.hears()
        self.assertEqual(
            (reply["extID"], reply["data"]["order"], reply["replayed"]), ("a", 1, True)
        )

    def test_otherContent(self) -> None:
        """
        A different request with the same extID is answered with 422.
        """
        client = self.client()
        client.asks()
        self.commit()
        client.hears()
        client.asks(data={**DATA, "amount": 301})
        self.assertEqual(client.outcomes(), [("a", 422, "IDEMPOTENCY_KEY_REUSED")])

    def test_attach(self) -> None:
        """
        A request on another connection attaches to the pending one with its
        extID; on the same connection it is refused as already pending.
        """
        first, second = self.client(), self.client()
        first.asks()
        first.asks()
        self.assertEqual(first.outcomes(), [("a", 409, "DUPLICATE_EXTID")])
        second.asks()
        self.commit()
        for client in (first, second):
            [reply] = client.replies()
            self.assertEqual((reply["status"], reply["data"]["order"]), (200, 1))
        self.assertAtRest()

    def test_ownKeyCounts(self) -> None:
        """
        A request's own key takes precedence over its extID.
        """
        client = self.client()
        for key in ("k", "l"):
            client.asks(idempotencyKey=key)
            self.commit()
        self.assertEqual([reply["data"]["order"] for reply in client.replies()], [1, 2])
        client.asks(extID="b", idempotencyKey="k")
        [reply] = client.hears()
        self.assertEqual((reply["data"]["order"], reply["replayed"]), (1, True))

    def test_number(self) -> None:
        """
        An integer extID is written as text to make a key, and is found by it.
        """
        client = self.client()
        client.asks(extID=5)
        self.commit()
        client.hears()
        client.asks("GetOperation", "g", {"idempotencyKey": "#5"})
        [reply] = client.hears()
        self.assertEqual((reply["status"], reply["data"]["order"]), (200, 1))

    def test_sameNumber(self) -> None:
        """
        The extIDs 5 and 5.0 are one integer, and so one key.
        """
        client = self.client()
        client.asks(extID=5)
        self.commit()
        client.hears()
        client.asks(extID=5.0)
        [reply] = client.hears()
        self.assertEqual((reply["data"]["order"], reply["replayed"]), (1, True))

    def test_withoutExtID(self) -> None:
        """
        A request that has neither a key nor an extID is booked each time.
        """
        client = self.client()
        client.asks("CreditIn", None)
        client.asks("CreditIn", None)
        self.commit()
        self.assertEqual([reply["data"]["order"] for reply in client.replies()], [1, 2])

    def test_badExtID(self) -> None:
        """
        An invalid extID is refused as such.
        """
        client = self.client()
        bad: list[object] = [True, 1.5, "", "x" * 129, [], {}]
        for extID in bad:
            client.asks(extID=extID)
            [reply] = client.hears()
            self.assertEqual((reply["status"], reply["error"]), (400, "INVALID_DATA"))
            self.assertTrue(reply["message"].startswith("extID "), reply["message"])

    def test_notUnlessAsked(self) -> None:
        """
        By default an extID is not a key: a request that reuses one is booked
        again.
        """
        self.serve(self.embedded)
        client = self.client()
        client.asks()
        self.commit()
        client.asks()
        self.commit()
        self.assertEqual([reply["data"]["order"] for reply in client.replies()], [1, 2])
