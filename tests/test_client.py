"""
Tests for L{creditsync.client}, on fake connections and a clock that is advanced by
hand.
"""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from attrs import Factory, define, field
from OpenSSL import SSL
from service_identity import VerificationError
from service_identity.exceptions import DNSMismatch
from service_identity.hazmat import DNS_ID
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.interfaces import (
    IProtocolFactory,
    ISSLTransport,
    IStreamClientEndpoint,
)
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides, implementer

from creditsync import errors
from creditsync._client.backoff import Backoff
from creditsync.client import (
    Amount,
    CreditClient,
    Data,
    Observer,
    OutcomeUnknown,
    Refused,
    Unanswered,
)

# As a server sends it, and as a client gives it.
TRADE = (
    b'"data":{"order":1242281,"login":1001,"cmd":7,"state":3,"profit":300.0,'
    b'"comment":"Promotion credit"}}\r\n'
)
DATA = {
    "order": 1242281,
    "login": 1001,
    "cmd": 7,
    "state": 3,
    "profit": Decimal("300.0"),
    "comment": "Promotion credit",
}


class FakeTransport(StringTransport):
    """
    Ends its connection in the next turn, as a real one does.

    @cvar isTLS: Whether it is one of TLS.
    """

    isTLS = False

    def __init__(self, clock: Clock, isPeerReading: bool) -> None:
        super().__init__()
        self.clock = clock
        self.isPeerReading = isPeerReading
        self.aborted = False
        if self.isTLS:
            directlyProvides(self, ISSLTransport)
        self.connection: Connection

    def loseConnection(self) -> None:
        """
        Ends only if the peer takes what is unsent.
        """
        if self.isPeerReading:
            self.clock.callLater(0, self.connection.lose)

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """
        See L{ITCPTransport.setTcpKeepAlive}.
        """

    def setTcpNoDelay(self, enabled: bool) -> None:
        """
        See L{ITCPTransport.setTcpNoDelay}.
        """

    def abortConnection(self) -> None:
        """
        Ends in any case.
        """
        if not self.aborted:
            self.aborted = True
            self.clock.callLater(0, self.connection.lose)


@define(eq=False)
class Connection:
    """
    The server's side of a connection.
    """

    protocol: Any
    transport: FakeTransport
    isLost: bool = False

    def lines(self) -> list[bytes]:
        """
        The lines that the client has sent since the last call.
        """
        value: bytes = self.transport.value()
        self.transport.clear()
        *lines, rest = value.split(b"\r\n")
        assert rest == b""
        return lines

    def requests(self) -> list[dict[str, Any]]:
        """
        The same, decoded, without those of the subscription.
        """
        requests = [json.loads(line) for line in self.lines()]
        return [r for r in requests if "chanels" not in r["data"]]

    def receive(self, data: bytes) -> None:
        """
        Send bytes to the client.
        """
        self.protocol.dataReceived(data)

    def acknowledge(self) -> None:
        """
        Answer the first connection's subscription.
        """
        self.receive(b'{"extID":"1","status":200,"data":{}}\r\n')

    def answer(self, request: dict[str, Any]) -> None:
        """
        Reply that the credit of L{TRADE} was booked.
        """
        head = b'{"extID":"%s","status":200,' % request["extID"].encode()
        self.receive(head + TRADE)

    def refuse(
        self, request: dict[str, Any], status: int, error: str, data: Any = None
    ) -> None:
        """
        Reply with a refusal.
        """
        reply = {
            "extID": request["extID"],
            "status": status,
            "error": error,
            "message": "a sentence",
        }
        if data is not None:
            reply["data"] = data
        self.receive(json.dumps(reply).encode() + b"\r\n")

    def lose(self) -> None:
        """
        End the connection.
        """
        if not self.isLost:
            self.isLost = True
            self.protocol.connectionLost(Failure(ConnectionDone()))


@implementer(IStreamClientEndpoint)
@define(eq=False)
class FakeEndpoint:
    """
    A server to connect to.

    @ivar isReading: Whether it takes what is sent.
    @ivar isRefusing: Whether it refuses the next connections.
    @ivar connections: All connections that were made, oldest first.
    @ivar attempts: The times at which a connection was asked for.
    """

    clock: Clock
    isReading: bool = True
    isRefusing: bool = False
    connections: list[Connection] = Factory(list)
    attempts: list[float] = Factory(list)

    def connect(self, protocolFactory: IProtocolFactory) -> "Deferred[Any]":
        """
        See L{IStreamClientEndpoint.connect}.
        """
        self.attempts.append(self.clock.seconds())
        if self.isRefusing:
            return fail(ConnectionRefusedError())
        connected: Deferred[Any] = Deferred()
        self.clock.callLater(0, self._accept, protocolFactory, connected)
        return connected

    def _accept(self, factory: IProtocolFactory, connected: "Deferred[Any]") -> None:
        protocol = factory.buildProtocol(None)  # type: ignore[arg-type]
        transport = FakeTransport(self.clock, self.isReading)
        connection = transport.connection = Connection(protocol, transport)
        self.connections.append(connection)
        connection.protocol.makeConnection(transport)
        connected.callback(protocol)


@define(eq=False)
class Observed:
    """
    An observer that keeps what it is told.
    """

    events: list[tuple[int, Data]] = field(factory=list)

    def __call__(self, type: int, data: Data) -> None:
        """
        Take an event.
        """
        self.events.append((type, data))


class ClientTestCase(SynchronousTestCase):
    """
    A client with a connection; after each test nothing may be left of it.
    """

    client: CreditClient

    def setUp(self) -> None:
        self.start()

    def tearDown(self) -> None:
        self.stop()

    def start(
        self,
        token: str | Callable[[], str] = "a.b.c",
        random: float = 1.0,
        observer: Observer | None = None,
        patience: float = 30.0,
        maxInFlight: int = 500,
        isReading: bool = True,
    ) -> CreditClient:
        """
        A client that has connected. With the greatest random number its waits
        are the longest: 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5 seconds.
        """
        if hasattr(self, "client"):
            self.stop()
        self.clock = Clock()
        self.endpoint = FakeEndpoint(self.clock, isReading)
        self.client = CreditClient(
            self.endpoint,
            token,
            clock=self.clock,
            random=lambda: random,
            observer=observer,
            patience=patience,
            maxInFlight=maxInFlight,
        )
        self.client.startService()
        self.clock.advance(0)
        return self.client

    def stop(self) -> None:
        """
        Stop the client, and check that no delayed call is left.
        """
        if self.client.running:
            stopped = self.client.stopService()
            self.clock.advance(0)
            self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    @property
    def server(self) -> Connection:
        """
        The last connection.
        """
        return self.endpoint.connections[-1]

    def ask(self, result: "Deferred[Data]") -> "Deferred[Data]":
        """
        Ignore a failure of this result that the test does not look at.
        """
        self.addCleanup(result.addErrback, lambda _: None)
        return result

    def credit(self, key: str | None = None) -> "Deferred[Data]":
        """
        Ask for a credit.
        """
        client = self.client
        return self.ask(client.creditIn(1001, 300, "Promotion credit", key=key))

    def sent(self) -> dict[str, Any]:
        """
        The one request that was sent.
        """
        (request,) = self.server.requests()
        return request

    def advanceTo(self, seconds: float) -> None:
        """
        Move the clock from call to call, so that each happens at its time.
        """
        while (left := seconds - self.clock.seconds()) > 0:
            calls = self.clock.getDelayedCalls()
            waits = [call.getTime() - self.clock.seconds() for call in calls]
            self.clock.advance(min([left, *(max(wait, 1e-6) for wait in waits)]))

    def warnings(self) -> list[LogEvent]:
        """
        What is logged as a warning from now on.
        """
        warnings: list[LogEvent] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            if event["log_level"].name == "warn":
                warnings.append(event)

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        return warnings


class LineTests(ClientTestCase):
    """
    What a request looks like on the wire.
    """

    def test_creditIn(self) -> None:
        """
        The line is that of C{docs/protocol.rst}, "A credit", with an C{extID} for
        the try, a token and a key.
        """
        self.server.lines()
        self.ask(
            self.client.creditIn(1001, Decimal("300.0"), "Promotion credit", key="k")
        )
        self.assertEqual(
            self.server.lines(),
            [
                b'{"extID":"2","__token":"a.b.c","command":"CreditInSync",'
                b'"idempotencyKey":"k","data":{"login":1001,"amount":300.0,'
                b'"comment":"Promotion credit"}}'
            ],
        )

    def test_allMembers(self) -> None:
        """
        An order and times are sent under their names on the wire.
        """
        self.ask(self.client.creditIn(1, 2, "c", order=3, openTime=0, closeTime=5))
        self.assertEqual(
            self.sent()["data"],
            {
                "login": 1,
                "amount": 2,
                "comment": "c",
                "order": 3,
                "open_time": 0,
                "close_time": 5,
            },
        )

    def assertAmount(self, amount: Amount, written: bytes) -> None:
        """
        An amount is sent with these digits.
        """
        self.server.lines()
        self.ask(self.client.creditIn(1, amount, "c"))
        (line,) = self.server.lines()
        self.assertIn(b'"amount":' + written + b",", line)

    def test_decimalIsExact(self) -> None:
        """
        A Decimal with more digits than a double has is not rounded.
        """
        self.assertAmount(Decimal("9999999999.12345678"), b"9999999999.12345678")

    def test_decimalWithCents(self) -> None:
        """
        A Decimal with cents is sent with its own digits.
        """
        self.assertAmount(Decimal("19.99"), b"19.99")

    def test_float(self) -> None:
        """
        A float is sent with the digits that Python prints.
        """
        self.assertAmount(19.99, b"19.99")

    def test_int(self) -> None:
        """
        An int is sent without a decimal point.
        """
        self.assertAmount(300, b"300")

    def test_operations(self) -> None:
        """
        Each operation has its command.
        """
        client = self.client
        self.ask(client.creditOut(1, -2, "c"))
        self.ask(client.balanceIn(1, 2))
        self.ask(client.balanceOut(1, -2, "c"))
        self.ask(client.deleteCredit(4))
        self.ask(client.deleteBalance(5))
        self.assertEqual(
            [(r["command"], r["data"]) for r in self.server.requests()],
            [
                ("CreditOutSync", {"login": 1, "amount": -2, "comment": "c"}),
                ("BalanceInSync", {"login": 1, "amount": 2}),
                ("BalanceOutSync", {"login": 1, "amount": -2, "comment": "c"}),
                ("DeleteCreditSync", {"order": 4}),
                ("DeleteBalanceSync", {"order": 5}),
            ],
        )

    def test_freshKeys(self) -> None:
        """
        Each operation has a key of its own: 32 hexadecimal digits.
        """
        self.credit()
        self.credit()
        one, other = (r["idempotencyKey"] for r in self.server.requests())
        self.assertNotEqual(one, other)
        self.assertRegex(one, "^[0-9a-f]{32}$")

    def test_readingNeedsNoKey(self) -> None:
        """
        Commands that change nothing are sent without a key.
        """
        self.ask(self.client.healthCheck())
        request = self.sent()
        self.assertEqual((request["command"], request["data"]), ("HealthCheck", {}))
        self.assertNotIn("idempotencyKey", request)

    def test_getOperationByOrder(self) -> None:
        """
        An operation can be looked up by its order.
        """
        self.ask(self.client.getOperation(order=7))
        self.assertEqual(self.sent()["data"], {"order": 7})

    def test_getOperationByKey(self) -> None:
        """
        An operation can be looked up by its key.
        """
        self.ask(self.client.getOperation(key="k"))
        self.assertEqual(self.sent()["data"], {"idempotencyKey": "k"})

    def test_lookups(self) -> None:
        """
        Each of the platform's look-ups is sent by its name, without a key.
        """
        client = self.client
        filter = {"where": [["login", "==", 1]], "limit": 2}
        for ask, command, data in (
            (lambda: client.getTradeByOrder(7), "GetTradeByOrder", {"order": 7}),
            (
                lambda: client.getTradeByOrders((7, 8)),
                "GetTradeByOrders",
                {"orders": [7, 8]},
            ),
            (
                lambda: client.getTradesByFilter(**filter),
                "MngGetTradesByFilter",
                filter,
            ),
            (lambda: client.getAccountByLogin(1), "GetAccountByLogin", {"login": 1}),
            (lambda: client.getGroups(), "GetGroups", {}),
        ):
            self.ask(ask())
            request = self.sent()
            self.assertEqual((request["command"], request["data"]), (command, data))
            self.assertNotIn("idempotencyKey", request)

    def test_rows(self) -> None:
        """
        Money is C{Decimal} in rows and totals too, however long the reply is.
        """
        result = self.client.getTradesByFilter()
        [request] = self.server.requests()
        rows = [[order, 0.5, "a, [b]"] for order in range(50_000)]
        data = {
            "structure": ["order", "profit", "comment"],
            "rows": rows,
            "count": 50_000,
            "totals": {"balance": 0.1, "credit": 3},
        }
        reply = {"extID": request["extID"], "status": 200, "data": data}
        self.server.receive(json.dumps(reply).encode() + b"\r\n")
        answer = self.successResultOf(result)
        self.assertEqual(len(answer["rows"]), 50_000)
        self.assertEqual(repr(answer["rows"][1]), "[1, Decimal('0.5'), 'a, [b]']")
        self.assertEqual(repr(answer["totals"]["balance"]), "Decimal('0.1')")

    def test_anyCommand(self) -> None:
        """
        A command without a method of its own can be sent by its name, with a
        key.
        """
        self.ask(self.client.request("CreditIn", {"login": 1}))
        request = self.sent()
        self.assertEqual(
            (request["command"], request["data"]), ("CreditIn", {"login": 1})
        )
        self.assertIn("idempotencyKey", request)

    def test_snapshot(self) -> None:
        """
        Changing the data after the request does not change further tries.
        """
        data = {"login": 1}
        self.credit()
        self.ask(self.client.request("CreditIn", data))
        self.server.lose()
        data["login"] = 2
        self.advanceTo(1)
        self.assertEqual(self.server.requests()[1]["data"], {"login": 1})


class UnsendableTests(ClientTestCase):
    """
    Requests that the server could not answer under their extID are never sent.
    """

    def assertNeverSent(self, result: "Deferred[Data]") -> Refused:
        """
        The request was refused at once, and nothing was sent.
        """
        self.assertEqual(self.server.requests(), [])
        return self.failureResultOf(result, Refused).value  # type: ignore[no-any-return]

    def test_notANumber(self) -> None:
        """
        Decimal("NaN") is refused, as JSON has no such number.
        """
        refused = self.assertNeverSent(self.client.creditIn(1, Decimal("NaN"), "c"))
        self.assertEqual((refused.status, refused.error), (400, "INVALID_JSON"))

    def test_noncharacter(self) -> None:
        """
        A noncharacter is refused, as I-JSON does not allow it.
        """
        refused = self.assertNeverSent(self.client.creditIn(1, 1, "\ufffe"))
        self.assertEqual((refused.status, refused.error), (400, "INVALID_JSON"))

    def test_tooLong(self) -> None:
        """
        A line that is too long is refused: the server would close the
        connection, with everything in flight.
        """
        result = self.client.request("CreditIn", {"comment": "c" * 65536})
        refused = self.assertNeverSent(result)
        self.assertEqual((refused.status, refused.error), (413, "LINE_TOO_LONG"))

    def test_longest(self) -> None:
        """
        A line of 65,536 bytes is sent.
        """
        self.server.lines()
        self.ask(self.client.request("X", {"c": "c" * 65454}, "k"))
        (line,) = self.server.lines()
        self.assertEqual(len(line), 65536)

    def test_oneTooLong(self) -> None:
        """
        A line of 65,537 bytes is refused.
        """
        self.assertNeverSent(self.client.request("X", {"c": "c" * 65455}, "k"))

    def test_loneSurrogate(self) -> None:
        """
        Text that can't be encoded fails with the encoder's own error.
        """
        self.failureResultOf(self.client.creditIn(1, 1, "\ud800"), UnicodeEncodeError)
        self.assertEqual(self.server.requests(), [])


class TokenTests(ClientTestCase):
    """
    The token that each try carries.
    """

    def test_renewed(self) -> None:
        """
        A function that returns the token is called for each try.
        """
        tokens = iter(["one", "two", "three", "four"])
        self.start(lambda: next(tokens))
        self.credit()
        lines = [json.loads(line) for line in self.server.lines()]
        self.server.lose()
        self.advanceTo(1)
        lines += [json.loads(line) for line in self.server.lines()]
        self.assertEqual(
            [(line["command"], line["__token"]) for line in lines],
            [
                ("Unsubscribe", "one"),
                ("CreditInSync", "two"),
                ("Unsubscribe", "three"),
                ("CreditInSync", "four"),
            ],
        )

    def test_none(self) -> None:
        """
        If the function that returns the token fails, the request fails with
        its error.
        """

        def token() -> str:
            raise KeyError("no token")

        client = self.start(token)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.failureResultOf(client.creditIn(1, 1, "c"), KeyError)
        self.assertEqual(self.server.lines(), [])

    def test_noneForTheNextTry(self) -> None:
        """
        If there is no token for a second try, the outcome of the first is
        unknown.
        """
        tokens = ["two", "one"]
        client = self.start(lambda: tokens.pop())
        result = client.creditIn(1, 1, "c", key="k")
        self.server.lose()
        self.advanceTo(1)
        self.assertEqual(len(self.flushLoggedErrors(IndexError)), 1)
        self.assertEqual(self.failureResultOf(result, OutcomeUnknown).value.key, "k")

    def test_notASCII(self) -> None:
        """
        A token that is not ASCII is not sent.
        """
        client = self.start("\ufffe")
        self.flushLoggedErrors(ValueError)
        self.failureResultOf(client.creditIn(1, 1, "c"), ValueError)
        self.assertEqual(self.server.lines(), [])


class ReplyTests(ClientTestCase):
    """
    Replies, and what the caller gets.
    """

    def test_data(self) -> None:
        """
        A request fires with the data of its reply, with exact money.
        """
        result = self.credit()
        self.server.answer(self.sent())
        data = self.successResultOf(result)
        self.assertEqual(data, DATA)
        self.assertIsInstance(data["profit"], Decimal)

    def test_cents(self) -> None:
        """
        19.99 in a reply becomes exactly Decimal("19.99").
        """
        result = self.credit()
        self.sent()
        self.server.receive(b'{"extID":"2","status":200,"data":{"profit":19.99}}\r\n')
        self.assertEqual(self.successResultOf(result), {"profit": Decimal("19.99")})

    def test_outOfOrder(self) -> None:
        """
        Each Deferred fires with the reply to its own request.
        """
        one, two = self.credit(), self.credit()
        self.server.receive(
            b'{"extID":"3","status":200,"data":{"order":3}}\r\n'
            b'{"extID":"2","status":200,"data":{"order":2}}\r\n'
        )
        self.assertEqual(self.successResultOf(one), {"order": 2})
        self.assertEqual(self.successResultOf(two), {"order": 3})

    def test_byteByByte(self) -> None:
        """
        A reply that arrives byte by byte is understood.
        """
        result = self.credit()
        for byte in b'\r\n{"extID":"2","status":200,' + TRADE:
            self.assertNoResult(result)
            self.server.receive(bytes([byte]))
        self.assertEqual(self.successResultOf(result), DATA)

    def test_refused(self) -> None:
        """
        Refused has everything that the server sent.
        """
        result = self.credit()
        self.server.refuse(self.sent(), 409, "TRADE_NO_MONEY", {"a": 1})
        refused = self.failureResultOf(result, Refused).value
        self.assertEqual(
            (
                refused.status,
                refused.error,
                refused.message,
                refused.data,
                str(refused),
            ),
            (
                409,
                "TRADE_NO_MONEY",
                "a sentence",
                {"a": 1},
                "409 TRADE_NO_MONEY: a sentence",
            ),
        )

    def test_keyReused(self) -> None:
        """
        422 is a refusal, with the order of the first request.
        """
        result = self.credit()
        self.server.refuse(self.sent(), 422, "IDEMPOTENCY_KEY_REUSED", {"order": 5})
        refused = self.failureResultOf(result, Refused).value
        self.assertEqual((refused.status, refused.data), (422, {"order": 5}))

    def test_unknownExtID(self) -> None:
        """
        A reply with an unknown extID is ignored, even if that is not a string.
        """
        result = self.credit()
        for extID in (b'"99"', b"2", b"2.0", b"true", b"[2]", b'{"a":2}', b"null"):
            self.server.receive(b'{"extID":%s,"status":200,"data":{}}\r\n' % extID)
        self.assertNoResult(result)
        self.assertFalse(self.server.transport.aborted)

    def test_twice(self) -> None:
        """
        A second reply to the same request is ignored.
        """
        result = self.credit()
        request = self.sent()
        self.server.answer(request)
        self.server.answer(request)
        self.server.refuse(request, 400, "INVALID_DATA")
        self.assertEqual(self.successResultOf(result), DATA)
        self.assertFalse(self.server.transport.aborted)

    def test_complaint(self) -> None:
        """
        A refusal without an extID is logged.
        """
        warnings = self.warnings()
        self.server.receive(
            b'{"status":413,"error":"LINE_TOO_LONG","message":"too long"}\r\n'
        )
        (warning,) = warnings
        self.assertEqual(str(warning["answer"]), "413 LINE_TOO_LONG: too long")

    def test_cancel(self) -> None:
        """
        A cancelled request fires no more, and is not tried again.
        """
        result = self.credit()
        request = self.sent()
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.server.answer(request)
        self.server.lose()
        self.advanceTo(1)
        self.assertEqual(self.server.requests(), [])

    def test_cancelWhileQueued(self) -> None:
        """
        A request that is cancelled while it is queued is never sent.
        """
        self.server.lose()
        self.credit().cancel()
        self.advanceTo(1)
        self.assertEqual(self.server.requests(), [])

    def test_cancelBetweenTries(self) -> None:
        """
        A request that is cancelled between two tries is not tried again.
        """
        result = self.credit()
        self.server.refuse(self.sent(), 429, "TOO_MANY_REQUESTS")
        result.cancel()
        self.advanceTo(1)
        self.assertEqual(self.server.requests(), [])


class RetryTests(ClientTestCase):
    """
    Which requests are tried again, when, and with which key and extID.
    """

    def test_lostConnection(self) -> None:
        """
        A request whose connection is lost is sent again on the next one, with
        the same key and another extID.
        """
        result = self.credit()
        first = self.sent()
        self.server.lose()
        self.advanceTo(0.15)
        second = self.sent()
        self.assertNotEqual(first.pop("extID"), second["extID"])
        self.server.answer(second)
        second.pop("extID")
        self.assertEqual(first, second)
        self.assertEqual(self.successResultOf(result), DATA)

    def test_inOrder(self) -> None:
        """
        After a lost connection, requests that were in flight go out first, in
        their order.
        """
        client = self.start(maxInFlight=6)
        for login in (1, 2, 3, 4, 5, 6):
            self.ask(client.creditIn(login, 1, "c"))
        self.server.lose()
        self.advanceTo(1)
        self.assertEqual([r["data"]["login"] for r in self.server.requests()], [1, 2])

    def test_insideAReply(self) -> None:
        """
        Half a reply is dropped with its connection, and not joined to the next
        one's bytes.
        """
        result = self.credit()
        self.server.receive(b'{"extID":"2","status":200,')
        self.server.lose()
        self.advanceTo(1)
        self.server.answer(self.sent())
        self.assertEqual(self.successResultOf(result), DATA)

    def test_reading(self) -> None:
        """
        A request that only reads is tried again without a key.
        """
        self.ask(self.client.getOperation(order=7))
        self.server.lose()
        self.advanceTo(1)
        self.assertEqual(self.sent()["data"], {"order": 7})

    def test_notForOthers(self) -> None:
        """
        Refusals other than 429, 503 and 504 are final.
        """
        for status in (400, 401, 403, 404, 409, 413, 422, 500):
            result = self.credit()
            self.server.refuse(self.sent(), status, "ERROR")
            refused = self.failureResultOf(result, Refused).value
            self.assertEqual(refused.status, status)

    def assertTriedAgainAt(self, seconds: float) -> dict[str, Any]:
        """
        The request is tried again at this time, and not before.
        """
        self.clock.advance(seconds - self.clock.seconds() - 0.001)
        self.assertEqual(self.server.requests(), [])
        self.clock.advance(0.002)
        return self.sent()

    def test_tooManyRequests(self) -> None:
        """
        After 429 the waits double, up to a maximum, and the key stays the
        same.
        """
        self.start(patience=1000.0)
        self.server.acknowledge()
        self.credit()
        request = self.sent()
        key, extIDs = request["idempotencyKey"], {request["extID"]}
        for wait in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5):
            self.server.refuse(request, 429, "TOO_MANY_REQUESTS")
            request = self.assertTriedAgainAt(self.clock.seconds() + wait)
            self.assertEqual(request["idempotencyKey"], key)
            extIDs.add(request["extID"])
        self.assertEqual(len(extIDs), 9)

    def test_jitter(self) -> None:
        """
        The smallest random number halves the wait before a retry.
        """
        self.start(random=0.0)
        self.credit()
        self.server.refuse(self.sent(), 429, "TOO_MANY_REQUESTS")
        self.assertTriedAgainAt(0.05)

    def test_busy(self) -> None:
        """
        After 503 the time that the server asks for is added to the client's
        own wait.
        """
        self.credit()
        self.server.refuse(self.sent(), 503, "BUSY", {"retry_after_ms": 250})
        self.assertTriedAgainAt(0.35)

    def test_strangeWishes(self) -> None:
        """
        A retry_after_ms that is not a valid time is ignored.
        """
        wishes: list[Any] = ["soon", -5000, None, [], 1.5]
        for wish in wishes:
            result = self.credit()
            self.server.refuse(self.sent(), 503, "BUSY", {"retry_after_ms": wish})
            self.assertTriedAgainAt(self.clock.seconds() + 0.1)
            result.cancel()

    def test_unknownOutcome(self) -> None:
        """
        After 504 the same key attaches to the pending operation, or replays
        it.
        """
        result = self.credit()
        first = self.sent()
        self.server.refuse(first, 504, "SYNC_TIMEOUT", {"order": 1242281})
        second = self.assertTriedAgainAt(0.1)
        self.assertEqual(second["idempotencyKey"], first["idempotencyKey"])
        self.server.receive(
            b'{"extID":"%s","status":200,"replayed":true,' % second["extID"].encode()
            + TRADE
        )
        answer = self.successResultOf(result)
        self.assertEqual(answer, DATA)
        self.assertIs(answer.isReplay, True)

    def test_noReplay(self) -> None:
        """
        An answer to the try that booked the operation is not a replay.
        """
        result = self.credit()
        self.server.receive(
            b'{"extID":"%s","status":200,' % self.sent()["extID"].encode() + TRADE
        )
        self.assertIs(self.successResultOf(result).isReplay, False)

    def test_waitsOutliveTheConnection(self) -> None:
        """
        A request that waits for its next try when the connection is lost is
        sent once.
        """
        self.credit()
        self.server.refuse(self.sent(), 429, "TOO_MANY_REQUESTS")
        self.server.lose()
        self.advanceTo(1)
        self.sent()


class PatienceTests(ClientTestCase):
    """
    How a request ends that gets no answer in time.
    """

    def test_unknown(self) -> None:
        """
        A request that was sent and not answered ends with OutcomeUnknown,
        which has its key.
        """
        result = self.credit("k")
        self.server.lose()
        self.endpoint.isRefusing = True
        self.advanceTo(29.9)
        self.assertNoResult(result)
        self.advanceTo(30.1)
        unknown = self.failureResultOf(result, OutcomeUnknown).value
        self.assertEqual((unknown.order, unknown.key), (None, "k"))
        self.assertIn("(idempotencyKey k)", str(unknown))

    def test_unknownWithOrder(self) -> None:
        """
        OutcomeUnknown has the order if one of the tries was told it.
        """
        result = self.credit("k")
        self.server.refuse(self.sent(), 504, "SYNC_TIMEOUT", {"order": 1242281})
        self.advanceTo(0.2)
        self.server.refuse(self.sent(), 504, "SYNC_TIMEOUT")
        self.advanceTo(0.5)
        self.server.refuse(self.sent(), 503, "BUSY", {"retry_after_ms": 60000})
        self.advanceTo(30.1)
        # By the server's own class too.
        unknown = self.failureResultOf(result, errors.OutcomeUnknown).value
        self.assertEqual((unknown.order, unknown.key), (1242281, "k"))
        self.assertIn("the outcome of order 1242281 is unknown", str(unknown))

    def test_strangeOrder(self) -> None:
        """
        An order in a 504 that is not a number is ignored.
        """
        result = self.credit()
        self.server.refuse(self.sent(), 504, "SYNC_TIMEOUT", {"order": "x"})
        self.endpoint.isRefusing = True
        self.server.lose()
        self.advanceTo(30.1)
        self.assertIsNone(self.failureResultOf(result, OutcomeUnknown).value.order)

    def test_inFlight(self) -> None:
        """
        A request with a try in flight ends with OutcomeUnknown.
        """
        self.start(patience=3.0)
        result = self.credit("k")
        self.advanceTo(3.1)
        self.failureResultOf(result, OutcomeUnknown)

    def test_silenceAfterwards(self) -> None:
        """
        A silent connection is dropped even if no request is pending any more.
        """
        self.start(patience=3.0)
        self.credit()
        self.server.acknowledge()
        self.advanceTo(7.9)
        self.assertFalse(self.server.transport.aborted)
        self.advanceTo(8.1)
        self.assertTrue(self.endpoint.connections[0].transport.aborted)

    def test_tooLate(self) -> None:
        """
        A reply that arrives after the end of its request is ignored.
        """
        self.start(patience=3.0)
        result = self.credit()
        request = self.sent()
        self.advanceTo(3.1)
        self.failureResultOf(result, OutcomeUnknown)
        self.server.answer(request)
        self.assertFalse(self.server.transport.aborted)

    def test_neverSent(self) -> None:
        """
        A request that was never sent ends with Unanswered.
        """
        self.endpoint.isRefusing = True
        self.server.lose()
        result = self.credit()
        self.advanceTo(30.1)
        self.failureResultOf(result, Unanswered)

    def test_reading(self) -> None:
        """
        A request that only reads ends with Unanswered.
        """
        result = self.client.getOperation(order=7)
        self.server.refuse(self.sent(), 504, "SYNC_TIMEOUT")
        self.advanceTo(0.2)
        self.endpoint.isRefusing = True
        self.server.lose()
        self.advanceTo(30.1)
        self.failureResultOf(result, Unanswered)

    def test_busy(self) -> None:
        """
        A request of which every try was refused ends with the last refusal.
        """
        result = self.credit()
        self.server.refuse(self.sent(), 503, "BUSY", {"retry_after_ms": 60000})
        self.advanceTo(30.1)
        self.assertEqual(self.failureResultOf(result, Refused).value.error, "BUSY")

    def end(self, error: str, *, order: int | None, isLost: bool) -> Exception:
        """
        How a request ends whose first try may be booked, and whose second is
        refused with this error.

        @param order: What the first try's 504 names, if it is not lost.
        """
        self.start()
        result = self.credit("k")
        if isLost:
            self.server.lose()
        else:
            data = None if order is None else {"order": order}
            self.server.refuse(self.sent(), 504, "SYNC_TIMEOUT", data)
        self.advanceTo(1)
        # The rule is the error's: a status may stand for both sides.
        self.server.refuse(self.sent(), 409, error)
        return self.failureResultOf(result).value  # type: ignore[no-any-return]

    def test_refusedBeforeTheKey(self) -> None:
        """
        A refusal that comes before the server looks up the key, or one that
        isn't known, proves nothing about an earlier try.
        """
        for error in (
            *("INVALID_JSON", "INVALID_DATA", "UNAUTHORIZED", "FORBIDDEN"),
            *("UNKNOWN_COMMAND", "DUPLICATE_EXTID", "LINE_TOO_LONG", "TECH_PROBLEM"),
            *("CURSOR_GONE", "TRADE_NOT_FOUND", "OF_A_LATER_VERSION"),
        ):
            for isLost in (False, True):
                end = self.end(error, order=7, isLost=isLost)
                assert isinstance(end, OutcomeUnknown), (error, end)
                self.assertEqual((end.key, end.order), ("k", None if isLost else 7))
                self.assertIn(f"409 {error}: a sentence", str(end))

    def test_refusedByTheKey(self) -> None:
        """
        If another request has the key, no try was booked under it, and none
        will be.
        """
        for isLost in (False, True):
            end = self.end("IDEMPOTENCY_KEY_REUSED", order=7, isLost=isLost)
            self.assertIsInstance(end, Refused)

    def test_refusedAfterTheKey(self) -> None:
        """
        If nothing was found under the key, a try that was answered was not
        booked. One that was lost may still arrive, as may one for which the
        server had no order yet.
        """
        for error in (
            *("USER_NOT_FOUND", "NOT_FOUND", "INCORRECT_ORDER", "TRADE_NO_MONEY"),
            *("LIMIT_EXCEEDED", "PLATFORM_REFUSED"),
        ):
            self.assertIsInstance(self.end(error, order=7, isLost=False), Refused)
            lost = self.end(error, order=None, isLost=True)
            self.assertIsInstance(lost, OutcomeUnknown)
            unreserved = self.end(error, order=None, isLost=False)
            self.assertIsInstance(unreserved, OutcomeUnknown)

    def test_everyRefusal(self) -> None:
        """
        The three tests above cover every error that is not tried again.
        """
        self.assertEqual(
            set(errors.SPOKEN),
            {
                *("INVALID_JSON", "INVALID_DATA", "UNAUTHORIZED", "FORBIDDEN"),
                *("UNKNOWN_COMMAND", "DUPLICATE_EXTID", "LINE_TOO_LONG"),
                *("TECH_PROBLEM", "IDEMPOTENCY_KEY_REUSED", "CURSOR_GONE"),
                "TRADE_NOT_FOUND",
                *("USER_NOT_FOUND", "NOT_FOUND", "INCORRECT_ORDER", "TRADE_NO_MONEY"),
                *("LIMIT_EXCEEDED", "TOO_MANY_REQUESTS", "BUSY", "SHUTDOWN"),
                *("SYNC_TIMEOUT", "PLATFORM_REFUSED"),
            },
        )

    def test_readingIsRefused(self) -> None:
        """
        A refusal ends a request that only reads, even after a lost try.
        """
        result = self.ask(self.client.getOperation(order=5))
        self.server.lose()
        self.advanceTo(1)
        self.server.refuse(self.sent(), 404, "NOT_FOUND")
        self.assertEqual(self.failureResultOf(result, Refused).value.status, 404)


class UselessTests(ClientTestCase):
    """
    Connections on which no creditsync server answers.
    """

    def startTLS(self) -> "Deferred[Data]":
        """
        A client on a transport with TLS, with a pending request.
        """
        self.stop()
        self.patch(FakeTransport, "isTLS", True)
        self.start()
        return self.credit()

    def assertNeverSent(self, result: "Deferred[Data]", cause: str) -> None:
        """
        The request has ended at once, and has certainly not happened.
        """
        why = self.failureResultOf(result, Unanswered).value
        self.assertEqual(str(why), f"CreditInSync: {cause}")
        self.assertEqual(self.clock.seconds(), 0)

    def loseTLS(self, why: Exception) -> None:
        """
        End the connection for this reason.
        """
        self.server.isLost = True
        self.server.protocol.connectionLost(Failure(why))

    def test_nothingBeforeTheHandshake(self) -> None:
        """
        Nothing is sent before the TLS handshake is complete.
        """
        result = self.startTLS()
        self.assertEqual(self.server.lines(), [])
        self.server.protocol.handshakeCompleted()
        self.server.answer(self.sent())
        self.assertEqual(self.successResultOf(result), DATA)

    def test_wrongCertificate(self) -> None:
        """
        A certificate that can't be verified is reported at once.
        """
        result = self.startTLS()
        reasons = [("SSL routines", "", "certificate verify failed")]
        self.loseTLS(SSL.Error(reasons))
        self.assertNeverSent(
            result,
            "the server's certificate can't be verified: certificate verify failed",
        )

    def test_wrongName(self) -> None:
        """
        A certificate for another name is reported at once.
        """
        result = self.startTLS()
        mismatch = DNSMismatch(mismatched_id=DNS_ID("credits.example"))
        self.loseTLS(VerificationError(errors=[mismatch]))
        self.assertNeverSent(
            result, "the server's certificate is not for credits.example"
        )

    def test_noTLS(self) -> None:
        """
        A server that does not speak TLS is reported at once.
        """
        result = self.startTLS()
        self.loseTLS(SSL.Error([("SSL routines", "", "wrong version number")]))
        self.assertNeverSent(
            result, "the server does not speak TLS there (wrong version number)"
        )

    def test_clientCertificate(self) -> None:
        """
        A server that requires a client certificate is reported at once,
        although the client's handshake is complete and its requests are sent.
        """
        result = self.startTLS()
        self.server.protocol.handshakeCompleted()
        alert = "tlsv13 alert certificate required"
        self.loseTLS(SSL.Error([("SSL routines", "", alert)]))
        self.assertNeverSent(result, f"TLS failed: {alert}")

    def test_cutInHandshake(self) -> None:
        """
        After a connection that is lost during its handshake the next one is
        tried; the cause is reported when the patience is over.
        """
        result = self.startTLS()
        self.loseTLS(ConnectionDone())
        self.assertNoResult(result)
        self.endpoint.isRefusing = True
        self.advanceTo(30.1)
        self.assertEqual(
            str(self.failureResultOf(result, Unanswered).value),
            "CreditInSync: no answer in time, the connection was closed during the"
            " TLS handshake",
        )

    def test_silentHandshake(self) -> None:
        """
        A handshake that does not end is given up like a silent connection.
        """
        self.startTLS()
        self.advanceTo(7.9)
        self.assertFalse(self.server.transport.aborted)
        self.advanceTo(8.05)
        self.assertTrue(self.endpoint.connections[0].transport.aborted)

    def test_notUnderstood(self) -> None:
        """
        If the server speaks TLS and the client does not, requests are reported
        as not sent at once. Our server replies with an error; others send an
        alert.
        """
        for said, cause in [
            (
                b'{"status":400,"error":"INVALID_JSON","message":"this port speaks TLS,'
                b' and the client does not"}\r\n',
                "this port speaks TLS, and the client does not",
            ),
            (
                b"\x15\x03\x01\x00\x02\x02\x46",
                "the server speaks TLS there, and this client does not",
            ),
        ]:
            self.start()
            result = self.credit()
            self.assertEqual(len(self.server.requests()), 1)
            self.server.receive(said)
            self.server.lose()
            self.assertNeverSent(result, cause)

    def test_proxyHeader(self) -> None:
        """
        A complaint about a line that isn't the client's, such as the header of a
        proxy before a port that expects none, says nothing of the client's own:
        they may be booked.
        """
        for acknowledged in (False, True):
            self.start()
            result = self.credit()
            self.server.receive(
                b'{"status":400,"error":"INVALID_JSON","message":"the line is not valid'
                b' JSON: invalid character (byte 0)"}\r\n'
            )
            if acknowledged:
                self.server.acknowledge()
            self.server.lose()
            self.assertNoResult(result)
            self.stop()
            self.failureResultOf(result, OutcomeUnknown)

    def test_understoodBefore(self) -> None:
        """
        After a reply, a refusal without an extID concerns one line, and what
        is lost with the connection may be booked.
        """
        result = self.credit()
        self.server.acknowledge()
        self.server.receive(b'{"status":400,"error":"INVALID_JSON","message":"m"}\r\n')
        self.server.lose()
        self.assertNoResult(result)
        self.stop()
        self.failureResultOf(result, OutcomeUnknown)

    def test_mayBeBooked(self) -> None:
        """
        An operation that may be booked is tried again on further connections.
        """
        result = self.credit()
        self.server.lose()
        self.advanceTo(0.5)
        self.server.receive(b'{"status":400,"error":"INVALID_JSON","message":"m"}\r\n')
        self.server.lose()
        self.assertNoResult(result)
        self.advanceTo(1)
        self.server.answer(self.sent())
        self.assertEqual(self.successResultOf(result), DATA)

    def test_healthCheck(self) -> None:
        """
        A health check ends with the first connection that is closed without an
        answer.
        """
        result = self.ask(self.client.healthCheck())
        self.server.lose()
        self.assertEqual(
            str(self.failureResultOf(result, Unanswered).value),
            "HealthCheck: the server closed the connection without an answer: does it"
            " speak TLS there, or is it stopping?",
        )


class SilenceTests(ClientTestCase):
    """
    Connections on which nothing arrives.
    """

    def test_dropped(self) -> None:
        """
        A try without a reply for 8 seconds ends its connection, and is
        repeated on another one, with all others in flight.
        """
        self.server.acknowledge()
        one = self.credit()
        self.advanceTo(5)
        two = self.credit()
        self.server.requests()
        self.advanceTo(7.9)
        self.assertFalse(self.server.transport.aborted)
        self.advanceTo(8.2)
        self.assertTrue(self.endpoint.connections[0].transport.aborted)
        first, second = self.server.requests()
        self.server.answer(first)
        self.server.answer(second)
        self.assertEqual(self.successResultOf(one), DATA)
        self.assertEqual(self.successResultOf(two), DATA)

    def test_idle(self) -> None:
        """
        A connection with nothing in flight may be silent for any time.
        """
        self.server.acknowledge()
        self.advanceTo(100)
        self.assertFalse(self.server.transport.aborted)

    def test_bothAtOnce(self) -> None:
        """
        Tries that time out together end their connection once.
        """
        self.credit()
        self.credit()
        warnings = self.warnings()
        self.clock.advance(8)
        self.assertEqual(len(warnings), 1)


class GarbageTests(ClientTestCase):
    """
    Lines that no creditsync server would send.
    """

    def assertGarbage(self, data: bytes) -> None:
        """
        These bytes end the connection, and requests in flight are sent on the
        next.
        """
        result = self.credit()
        warnings = self.warnings()
        self.server.receive(data)
        self.assertEqual(len(warnings), 1)
        self.assertTrue(self.server.transport.aborted)
        self.assertNoResult(result)
        self.advanceTo(self.clock.seconds() + 0.2)
        self.server.answer(self.server.requests()[-1])
        self.assertEqual(self.successResultOf(result), DATA)

    def test_notJSON(self) -> None:
        """
        Another protocol's greeting ends the connection.
        """
        self.assertGarbage(b"220 mail.example ESMTP\r\n")

    def test_notUTF8(self) -> None:
        """
        Bytes that are not UTF-8 end the connection.
        """
        self.assertGarbage(b"\xff\xfe\r\n")

    def test_notAnObject(self) -> None:
        """
        JSON that is not an object ends the connection.
        """
        self.assertGarbage(b"[]\r\n")

    def test_neither(self) -> None:
        """
        An object that is neither a reply nor an event ends the connection.
        """
        self.assertGarbage(b'{"hello":"world"}\r\n')

    def test_badReplies(self) -> None:
        """
        A reply to a pending request that lacks a member ends the connection.
        """
        for members in (
            b'"status":200',
            b'"status":200,"data":[]',
            b'"status":"200","data":{}',
            b'"status":409,"error":"X"',
            b'"status":409,"error":1,"message":"m"',
            b'"status":409,"error":"X","message":"m","data":1',
        ):
            extID = next(reversed(self.client._pipeline._inFlight), "1")
            self.assertGarbage(b'{"extID":"%s",%s}\r\n' % (extID.encode(), members))

    def test_tooLong(self) -> None:
        """
        A line that is longer than the reply of any look-up ends the connection.
        """
        self.assertGarbage(b'{"a":"' + b"a" * (16 * 1024 * 1024 + 65536) + b'"}\r\n')

    def test_endless(self) -> None:
        """
        A line without an end ends the connection instead of filling the
        memory.
        """
        self.server.receive(b" " * 65536)
        for _ in range(16):
            self.server.receive(b" " * 1024 * 1024)
        self.server.receive(b" ")
        self.assertFalse(self.server.transport.aborted)
        self.assertGarbage(b"  ")

    def test_nothingAfterIt(self) -> None:
        """
        Bytes after an invalid line are not read.
        """
        result = self.credit()
        self.server.receive(b'x\r\n{"extID":"2","status":200,' + TRADE)
        self.server.receive(b'{"extID":"2","status":200,' + TRADE)
        self.assertNoResult(result)

    def test_nothingSentAfterIt(self) -> None:
        """
        A request made while the connection is being closed waits for the next
        one, and was certainly not sent.
        """
        self.server.receive(b"x\r\n")
        result = self.credit()
        self.assertEqual(self.server.requests(), [])
        self.stop()
        self.failureResultOf(result, Unanswered)


class ReconnectTests(ClientTestCase):
    """
    When the client connects again.
    """

    def test_backoff(self) -> None:
        """
        The waits between connections double, up to 5 seconds.
        """
        self.endpoint.isRefusing = True
        self.server.lose()
        self.advanceTo(17)
        self.assertEqual(
            [round(at, 1) for at in self.endpoint.attempts],
            [0.0, 0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 11.3, 16.3],
        )

    def test_jitter(self) -> None:
        """
        The smallest random number halves the waits between connections.
        """
        self.start(random=0.0)
        self.endpoint.isRefusing = True
        self.server.lose()
        self.advanceTo(6)
        self.assertEqual(
            [round(at, 2) for at in self.endpoint.attempts],
            [0.0, 0.05, 0.15, 0.35, 0.75, 1.55, 3.15, 5.65],
        )

    def test_uselessConnections(self) -> None:
        """
        The waits grow if a server accepts connections and closes them, even if
        it answers a subscription.
        """
        for _ in range(4):
            self.server.acknowledge()
            self.server.lose()
            self.advanceTo(self.clock.seconds() + 1)
        waits = [at - 1 * n for n, at in enumerate(self.endpoint.attempts[1:])]
        self.assertEqual([round(wait, 1) for wait in waits], [0.1, 0.2, 0.4, 0.8])

    def test_reset(self) -> None:
        """
        A reply makes the next wait the first again.
        """
        self.endpoint.isRefusing = True
        self.server.lose()
        self.advanceTo(1)
        self.endpoint.isRefusing = False
        self.credit()
        self.advanceTo(2)
        self.server.answer(self.sent())
        self.server.lose()
        self.advanceTo(2.2)
        self.assertEqual(round(self.endpoint.attempts[-1], 1), 2.1)

    def test_forEver(self) -> None:
        """
        However many attempts have failed, another follows.
        """
        self.assertEqual(Backoff(lambda: 1.0).delay(5000), 5.0)


class EventTests(ClientTestCase):
    """
    Trade events for the observer.
    """

    EVENT = b'{"event":"trade:event","type":0,' + TRADE

    def setUp(self) -> None:
        super().setUp()
        self.observed = Observed()

    def test_subscribes(self) -> None:
        """
        With an observer each connection begins with a subscription.
        """
        self.start(observer=self.observed)
        expected = [
            b'{"extID":"1","__token":"a.b.c","command":"Subscribe",'
            b'"data":{"chanels":["trade:event"]}}'
        ]
        self.assertEqual(self.server.lines(), expected)
        self.server.lose()
        self.advanceTo(1)
        self.assertEqual(
            self.server.lines(), [expected[0].replace(b'"extID":"1"', b'"extID":"2"')]
        )

    def test_unsubscribes(self) -> None:
        """
        Without an observer each connection begins by unsubscribing.
        """
        self.credit()
        self.assertEqual(
            [json.loads(line)["command"] for line in self.server.lines()],
            ["Unsubscribe", "CreditInSync"],
        )

    def test_observed(self) -> None:
        """
        The observer gets an event's type and data, with exact money.
        """
        self.start(observer=self.observed)
        self.server.receive(self.EVENT)
        self.assertEqual(self.observed.events, [(0, DATA)])
        self.assertIsInstance(self.observed.events[0][1]["profit"], Decimal)

    def test_unobserved(self) -> None:
        """
        Without an observer an event is ignored.
        """
        result = self.credit()
        request = self.sent()
        self.server.receive(self.EVENT)
        self.server.answer(request)
        self.successResultOf(result)

    def test_otherChannels(self) -> None:
        """
        Events of channels that this client doesn't know are ignored.
        """
        self.start(observer=self.observed)
        self.server.receive(b'{"event":"quote:event","data":[]}\r\n')
        self.assertEqual(self.observed.events, [])
        self.assertFalse(self.server.transport.aborted)

    def test_garbage(self) -> None:
        """
        A trade event that lacks a member ends the connection.
        """
        self.start(observer=self.observed)
        for event in (b'"type":0', b'"data":{}', b'"type":"0","data":{}'):
            self.server.receive(b'{"event":"trade:event",' + event + b"}\r\n")
            self.assertTrue(self.server.transport.aborted)
            self.advanceTo(self.clock.seconds() + 6)
        self.assertEqual(self.observed.events, [])

    def test_observerFails(self) -> None:
        """
        An exception in the observer is logged, and it gets the next event.
        """
        calls: list[int] = []

        def observer(type: int, data: Data) -> None:
            calls.append(type)
            raise RuntimeError("observer")

        self.start(observer=observer)
        self.server.receive(self.EVENT + self.EVENT)
        self.assertEqual(calls, [0, 0])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)

    def test_renewal(self) -> None:
        """
        The subscription is renewed every 30 seconds, with the token of that
        moment.
        """
        tokens = iter(["one", "two"])
        self.start(lambda: next(tokens), observer=self.observed)
        self.server.acknowledge()
        self.server.lines()
        self.advanceTo(29.9)
        self.assertEqual(self.server.lines(), [])
        self.advanceTo(30.1)
        (line,) = self.server.lines()
        request = json.loads(line)
        self.assertEqual((request["command"], request["__token"]), ("Subscribe", "two"))

    def test_deadConnection(self) -> None:
        """
        A connection without a reply to the renewal is dropped.
        """
        self.start(observer=self.observed)
        observed = self.server
        observed.acknowledge()
        self.advanceTo(37.9)
        self.assertFalse(observed.transport.aborted)
        self.advanceTo(38.1)
        self.assertTrue(observed.transport.aborted)

    def test_refused(self) -> None:
        """
        A refused subscription is logged.
        """
        warnings = self.warnings()
        self.server.receive(
            b'{"extID":"1","status":401,"error":"UNAUTHORIZED","message":"m"}\r\n'
        )
        (warning,) = warnings
        self.assertEqual(str(warning["answer"]), "401 UNAUTHORIZED: m")


class InFlightTests(ClientTestCase):
    """
    How many requests are in flight at the same time.
    """

    def test_bound(self) -> None:
        """
        Requests above the bound queue, and follow in their order; the
        subscription counts.
        """
        client = self.start(maxInFlight=3)
        for login in (1, 2, 3, 4):
            self.ask(client.creditIn(login, 1, "c"))
        first, second = self.server.requests()
        self.assertEqual([r["data"]["login"] for r in (first, second)], [1, 2])
        self.server.answer(second)
        self.assertEqual(self.sent()["data"]["login"], 3)
        self.server.acknowledge()
        self.assertEqual(self.sent()["data"]["login"], 4)

    def test_fewerAfterALoss(self) -> None:
        """
        After a lost connection half as many may be in flight, and one more
        with each reply.
        """
        client = self.start(maxInFlight=6)
        for login in range(1, 9):
            self.ask(client.creditIn(login, 1, "c"))
        counts = [len(self.server.lines())]
        self.server.lose()
        self.advanceTo(1)
        lines = self.server.lines()
        counts.append(len(lines))
        # Three in flight; one is answered, two take its place.
        self.server.answer(json.loads(lines[-1]))
        counts.append(len(self.server.lines()))
        self.server.lose()
        self.advanceTo(2)
        counts.append(len(self.server.lines()))
        self.server.lose()
        self.advanceTo(3)
        counts.append(len(self.server.lines()))
        self.assertEqual(counts, [6, 3, 2, 2, 1])

    def test_neverNone(self) -> None:
        """
        At least one may always be in flight, and in the end as many as at the
        start.
        """
        client = self.start(maxInFlight=2)
        for _ in range(4):
            self.server.lose()
            self.advanceTo(self.clock.seconds() + 6)
        results = [self.ask(client.creditIn(1, 1, "c")) for _ in range(3)]
        (line,) = self.server.lines()
        self.server.answer(json.loads(line))
        self.assertEqual(len(self.server.requests()), 2)
        self.assertNoResult(results[0])

    def test_cancelledKeepsItsPlace(self) -> None:
        """
        A cancelled request stays in flight until its reply, as the server
        still works on it.
        """
        self.start(maxInFlight=2)
        one = self.credit()
        request = self.sent()
        one.cancel()
        self.credit()
        self.assertEqual(self.server.requests(), [])
        self.server.answer(request)
        self.sent()

    def test_default(self) -> None:
        """
        500 may be in flight by default, below the server's 1,000.
        """
        for _ in range(600):
            self.credit()
        self.assertEqual(len(self.server.lines()), 500)

    def test_fromACallback(self) -> None:
        """
        A callback may make another request at once.
        """
        results: list[Data] = []
        self.credit().addCallback(lambda _: self.credit()).addCallback(results.append)
        self.server.answer(self.sent())
        self.server.answer(self.sent())
        self.assertEqual(results, [DATA])


class StopTests(ClientTestCase):
    """
    The end of the service.
    """

    def test_underWay(self) -> None:
        """
        A request in flight ends with OutcomeUnknown, a queued one with
        Unanswered.
        """
        self.start(maxInFlight=2)
        sent, queued = self.credit(), self.credit()
        self.stop()
        self.failureResultOf(sent, OutcomeUnknown)
        unanswered = self.failureResultOf(queued, Unanswered).value
        self.assertEqual(str(unanswered), "CreditInSync: the client was stopped")

    def test_betweenTries(self) -> None:
        """
        A request that waits for its next try ends.
        """
        result = self.credit()
        self.server.refuse(self.sent(), 504, "SYNC_TIMEOUT", {"order": 5})
        self.stop()
        self.assertEqual(self.failureResultOf(result, OutcomeUnknown).value.order, 5)

    def test_withoutAConnection(self) -> None:
        """
        A request that waits for another connection ends.
        """
        result = self.credit()
        self.endpoint.isRefusing = True
        self.server.lose()
        self.stop()
        self.failureResultOf(result, OutcomeUnknown)

    def test_notRunning(self) -> None:
        """
        A client that is not running accepts no requests.
        """
        self.stop()
        result = self.client.creditIn(1, 1, "c")
        unanswered = self.failureResultOf(result, Unanswered).value
        self.assertEqual(str(unanswered), "CreditInSync: the client is not running")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_fromAnErrback(self) -> None:
        """
        A request made by an errback of the stop fails.
        """
        result = self.credit().addErrback(lambda _: self.credit())
        self.stop()
        self.failureResultOf(result, Unanswered)

    def test_deafServer(self) -> None:
        """
        A server that does not read delays the stop by 2 seconds at most.
        """
        client = self.start(isReading=False)
        stopped = client.stopService()
        self.clock.advance(1.9)
        self.assertNoResult(stopped)
        self.clock.advance(0.2)
        self.clock.advance(0)
        self.successResultOf(stopped)

    def test_nothingHeardAfterwards(self) -> None:
        """
        Bytes that arrive while the connection is being closed are ignored.
        """
        observed = Observed()
        stopped = self.start(observer=observed, isReading=False).stopService()
        self.server.receive(EventTests.EVENT)
        self.server.receive(b"garbage\r\ngarbage")
        self.assertEqual(self.server.protocol._partial, b"")
        self.clock.advance(2)
        self.clock.advance(0)
        self.successResultOf(stopped)
        self.assertEqual(observed.events, [])

    def test_startedAgain(self) -> None:
        """
        A client that was stopped can be started again.
        """
        self.stop()
        self.client.startService()
        self.clock.advance(0)
        result = self.credit()
        self.server.answer(self.sent())
        self.assertEqual(self.successResultOf(result), DATA)

    def test_connectedTooLate(self) -> None:
        """
        A connection that is made after the stop is closed at once.
        """
        self.client.running = False
        protocol = self.server.protocol
        transport = FakeTransport(self.clock, True)
        transport.connection = Connection(protocol, transport)
        self.client.running = False
        protocol.makeConnection(transport)
        self.assertTrue(transport.aborted)
        self.client.running = True
        self.clock.advance(0)
