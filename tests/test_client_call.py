"""
Tests for L{CreditClient.call}: commands that a gateway passes on to its platform.
"""

from decimal import Decimal
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from creditsync.client import CreditClient, OutcomeUnknown, Refused, Unanswered
from tests.test_client import ClientTestCase, FakeEndpoint, Observed

UNKNOWN = "GetSymbols: the connection ended before the reply: the outcome is unknown"


class CallTests(ClientTestCase):
    """
    What becomes of a command that is passed on.
    """

    def call(self) -> "Deferred[Any]":
        """
        Send one.
        """
        return self.ask(self.client.call("GetSymbols", {"group": "real"}))

    def reply(self, request: dict[str, Any], data: bytes) -> None:
        """
        Reply with status 200.
        """
        extID = request["extID"].encode()
        self.server.receive(
            b'{"extID":"%s","status":200,"data":%s}\r\n' % (extID, data)
        )

    def test_line(self) -> None:
        """
        It is sent without a key; C{data} is empty if there is none.
        """
        self.server.lines()
        self.call()
        self.ask(self.client.call("GetSymbols"))
        self.assertEqual(
            self.server.lines(),
            [
                b'{"extID":"2","__token":"a.b.c","command":"GetSymbols",'
                b'"data":{"group":"real"}}',
                b'{"extID":"3","__token":"a.b.c","command":"GetSymbols","data":{}}',
            ],
        )

    def test_data(self) -> None:
        """
        It fires with the data of the reply, whatever that is. No member of it is taken
        for money.
        """
        for written, data in (
            (b'[["EURUSD",5],["XAUUSD",2]]', [["EURUSD", 5], ["XAUUSD", 2]]),
            (
                b'{"profit":1.5,"rows":[{}],"structure":["profit"]}',
                {"profit": 1.5, "rows": [{}], "structure": ["profit"]},
            ),
            (b"null", None),
            (b"1.5", 1.5),
            (b"12345678901234567.5", Decimal("12345678901234567.5")),
            (b'"closed"', "closed"),
        ):
            called = self.call()
            self.reply(self.sent(), written)
            self.assertEqual(self.successResultOf(called), data)

    def test_refused(self) -> None:
        """
        A refusal has the platform's own status and error. Nothing is sent again, not
        even after 503, and no connection is given up.
        """
        self.server.acknowledge()
        for status, error in ((404, "NO_SYMBOLS"), (429, "SLOWLY"), (503, "BUSY")):
            called = self.call()
            self.server.refuse(self.sent(), status, error)
            refused = self.failureResultOf(called, Refused).value
            self.assertEqual((refused.status, refused.error), (status, error))
            self.advanceTo(self.clock.seconds() + 10)
            self.assertEqual(self.server.requests(), [])
        self.assertEqual(len(self.endpoint.connections), 1)

    def test_unknown(self) -> None:
        """
        After 504 the outcome is unknown, and nothing is sent again.
        """
        called = self.call()
        extID = self.sent()["extID"].encode()
        self.server.receive(
            b'{"extID":"%s","status":504,"error":"SYNC_TIMEOUT","message":"it may have'
            b' been carried out: the outcome is unknown"}\r\n' % extID
        )
        unknown = self.failureResultOf(called, OutcomeUnknown).value
        self.assertEqual(
            unknown.message,
            "GetSymbols: it may have been carried out: the outcome is unknown",
        )
        self.assertEqual((unknown.order, unknown.key), (None, None))
        self.advanceTo(10)
        self.assertEqual(self.server.requests(), [])

    def test_lost(self) -> None:
        """
        If the connection is lost before the reply, the outcome is unknown at once.
        Operations beside it are sent again, in their order, and it is not.
        """
        first, called, last = self.credit("k1"), self.call(), self.credit("k2")
        self.server.lose()
        self.assertEqual(
            self.failureResultOf(called, OutcomeUnknown).value.message, UNKNOWN
        )
        self.assertNoResult(first)
        self.assertNoResult(last)
        self.advanceTo(5)
        keys = [each["idempotencyKey"] for each in self.server.requests()]
        self.assertEqual(keys, ["k1", "k2"])

    def test_silence(self) -> None:
        """
        Without a reply the outcome is unknown when the connection is given up.
        """
        self.server.acknowledge()
        self.advanceTo(5)
        called = self.call()
        self.advanceTo(12.9)
        self.assertNoResult(called)
        self.advanceTo(13.1)
        self.failureResultOf(called, OutcomeUnknown)
        self.advanceTo(30)
        self.assertEqual(self.server.requests(), [])

    def test_queued(self) -> None:
        """
        One that could not be sent yet goes out on the next connection.
        """
        self.server.lose()
        called = self.call()
        self.advanceTo(5)
        self.reply(self.sent(), b"[]")
        self.assertEqual(self.successResultOf(called), [])

    def test_neverSent(self) -> None:
        """
        One that could not be sent in time has not happened.
        """
        self.endpoint.isRefusing = True
        self.server.lose()
        called = self.call()
        self.advanceTo(31)
        self.failureResultOf(called, Unanswered)

    def test_outOfPatience(self) -> None:
        """
        One that is with the server when the time is over has an unknown outcome.
        """
        self.start(patience=3.0)
        called = self.call()
        self.advanceTo(3.1)
        self.failureResultOf(called, OutcomeUnknown)

    def test_stopped(self) -> None:
        """
        When the client is stopped, the outcome of what was sent is unknown, and what
        was not is not sent any more.
        """
        self.start(maxInFlight=2)
        self.server.acknowledge()
        called, queued = self.call(), self.credit()
        waiting = self.call()
        self.stop()
        self.failureResultOf(called, OutcomeUnknown)
        self.failureResultOf(queued, OutcomeUnknown)
        self.failureResultOf(waiting, Unanswered)
        self.failureResultOf(self.client.call("GetSymbols"), Unanswered)

    def test_notUnderstood(self) -> None:
        """
        What a server of TLS got without TLS was not carried out.
        """
        called = self.call()
        self.server.receive(b"\x15\x03\x01\x00\x02\x02\x32")
        self.failureResultOf(called, Unanswered)

    def test_cancelled(self) -> None:
        """
        A cancelled one is not waited for.
        """
        called = self.client.call("GetSymbols")
        called.cancel()
        self.failureResultOf(called, CancelledError)

    def test_movesMoney(self) -> None:
        """
        What moves money by its name is not sent without a key.
        """
        for name in ("CreditInSync", "MngBalanceOut", "MngApproveFinanceRequest"):
            failure = self.failureResultOf(self.client.call(name), ValueError)
            self.assertEqual(
                str(failure.value),
                f"{name} moves money: send it by request, with a key",
            )

    def test_unsendable(self) -> None:
        """
        Data that I-JSON does not have is refused here.
        """
        called = self.client.call("GetSymbols", {"number": 2**60})
        self.assertEqual(
            self.failureResultOf(called, Refused).value.error, "INVALID_JSON"
        )

    def test_token(self) -> None:
        """
        That the platform refuses the token says nothing of the trade events: they are
        not asked for again.
        """
        self.start(observer=Observed())
        self.server.receive(
            b'{"extID":"1","status":200,"data":{"cursor":"0a1b2c3d4e5f6071-5"}}\r\n'
        )
        self.server.lines()
        called = self.call()
        (request,) = self.server.requests()
        self.server.refuse(request, 401, "UNAUTHORIZED")
        self.failureResultOf(called, Refused)
        called = self.call()
        (request,) = self.server.requests()
        self.reply(request, b"{}")
        self.successResultOf(called)
        self.assertEqual(self.server.lines(), [])

    def test_several(self) -> None:
        """
        A gateway whose platform has not replied is not left for another server.
        """
        self.stop()
        self.clock = Clock()
        endpoints = [FakeEndpoint(self.clock), FakeEndpoint(self.clock)]
        self.client = CreditClient(
            endpoints, "a.b.c", clock=self.clock, random=lambda: 1.0
        )
        self.endpoint = endpoints[0]
        self.client.startService()
        self.clock.advance(0)
        self.server.acknowledge()
        called = self.call()
        self.server.refuse(self.sent(), 504, "SYNC_TIMEOUT")
        self.failureResultOf(called, OutcomeUnknown)
        self.assertFalse(self.server.transport.aborted)
