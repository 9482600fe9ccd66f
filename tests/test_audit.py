"""
Tests for L{creditsync.audit}.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import execute
from twisted.internet.testing import StringTransport
from twisted.protocols.haproxy._wrapper import HAProxyWrappingFactory
from twisted.trial.unittest import SynchronousTestCase

from creditsync import _wire as wire
from creditsync._auditfile import INTERVAL
from creditsync.audit import AuditTrail
from creditsync.errors import Busy
from creditsync.events import TradeEvents
from creditsync.interfaces import ITradingRuntime
from creditsync.records import Principal, Trade, TradeEvent
from creditsync.runtime import TradingRuntime
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator, FakeTradingRuntime, HeldLedger
from tests.test_service import Client, Reactor
from tests.test_session import SlowRuntime

# The time on the clock of the trail: 2026-01-01.
NOW = 1767225600.25
TIME = "2026-01-01T00:00:00.250000Z"
# The requester, in the first and the second session.
FIRST = {"principal": 7, "session": 1, "peer": "192.0.2.1:4242"}
SECOND = {"principal": 7, "session": 2, "peer": "192.0.2.1:4242"}


class AuditTestCase(SynchronousTestCase):
    """
    A server with an audit trail, on a ledger that commits when the test says so.
    """

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name, "audit")
        self.reactor = Reactor()
        self.authenticator = FakeAuthenticator()
        self.events = TradeEvents()
        self.ledger = HeldLedger()
        self.trail = AuditTrail(self.path, self.reactor, lambda: NOW, execute)
        self.server = self.start(
            TradingRuntime(
                self.reactor,
                self.ledger,
                self.events,
                now=lambda: NOW,
                maxQueued=100,
            )
        )
        self.client = self.connect()

    def start(self, runtime: ITradingRuntime) -> CreditSync:
        """
        Start a server on this runtime.
        """
        server = CreditSync(
            self.reactor,
            runtime=runtime,
            events=self.events,
            authenticator=self.authenticator,
            listen=["tcp:8080"],
            audit=self.trail,
        )
        server.startService()
        return server

    def connect(self) -> Client:
        """
        Connect another client.
        """
        address = IPv4Address("TCP", "192.0.2.1", 4242)
        return Client(self.server, StringTransport(peerAddress=address, lenient=True))

    def asks(self, extID: str, amount: float = 300.0, /, **members: Any) -> None:
        """
        Send one credit.
        """
        request = {
            "command": "CreditInSync" if amount > 0 else "CreditOutSync",
            "extID": extID,
            "__token": "manager",
            "data": {"login": 1001, "amount": amount, "comment": "Promotion"},
            **members,
        }
        request = {name: value for name, value in request.items() if value is not None}
        self.client.protocol.dataReceived(json.dumps(request).encode() + b"\n")

    def commit(self) -> None:
        """
        Book the operations that were requested, and write their lines.
        """
        self.reactor.advance(0)
        self.ledger.release()
        self.reactor.advance(0)
        self.reactor.advance(INTERVAL)

    def lines(self) -> list[dict[str, Any]]:
        """
        The lines of the trail, once all that were collected are written.
        """
        self.reactor.advance(INTERVAL)
        text = self.path.read_bytes()
        assert text.isascii() and text[-1:] in (b"", b"\n")
        return [json.loads(line) for line in text.splitlines()]


class TrailTests(AuditTestCase):
    """
    Tests for the lines of money operations.
    """

    def booked(self, extID: str, order: int, /, **members: Any) -> dict[str, Any]:
        """
        The line of a credit that was booked.
        """
        return {
            "time": TIME,
            "outcome": "booked",
            "command": "CreditInSync",
            **FIRST,
            "extID": extID,
            "done": "add",
            "order": order,
            "login": 1001,
            "cmd": 7,
            "amount": 300.0,
            "comment": "Promotion",
            "place": order,
            **members,
        }

    def test_financeRequests(self) -> None:
        """
        A finance request is not booked before it is approved, and its maker's own
        approval is refused.
        """
        data = {"login": 1001, "cmd": 7, "amount": 300, "comment": "Promotion"}
        for extID in ("a", "b"):
            self.asks(extID, command="MngCreateFinanceRequest", data=data)
        self.commit()
        self.authenticator.accept("other", Principal(8, 1, float("inf")))
        for extID, command, order, token in (
            ("c", "MngApproveFinanceRequestSync", 1, "manager"),
            ("d", "MngApproveFinanceRequestSync", 1, "other"),
            ("e", "MngDeclineFinanceRequest", 2, "other"),
        ):
            self.asks(extID, command=command, data={"order": order}, __token=token)
        self.commit()
        create, approve = "MngCreateFinanceRequest", "MngApproveFinanceRequestSync"
        self.assertEqual(
            self.lines(),
            [
                self.booked("a", 1, command=create, outcome="requested"),
                self.booked("b", 2, command=create, outcome="requested"),
                {
                    "time": TIME,
                    "outcome": "refused",
                    "command": approve,
                    **FIRST,
                    "extID": "c",
                    "order": 1,
                    "status": 403,
                    "error": "FORBIDDEN",
                    "message": "finance request 1 was made by this token's principal:"
                    " another one has to approve it",
                },
                self.booked(
                    "d", 1, command=approve, principal=8, done="update", place=3
                ),
                self.booked(
                    "e",
                    2,
                    command="MngDeclineFinanceRequest",
                    principal=8,
                    outcome="declined",
                    done="update",
                    place=4,
                ),
            ],
        )

    def refused(self, extID: str, /, **members: Any) -> dict[str, Any]:
        """
        The line of a request that was refused.
        """
        return {
            "time": TIME,
            "outcome": "refused",
            "command": "CreditOutSync",
            **FIRST,
            "extID": extID,
            "login": 1001,
            "amount": -300.0,
            **members,
        }

    def test_booked(self) -> None:
        """
        A credit has its line once it is on disk, and not before.
        """
        self.asks("a")
        self.reactor.advance(0)
        self.assertEqual(self.lines(), [])
        self.ledger.release()
        self.reactor.advance(0)
        self.assertEqual(self.lines(), [self.booked("a", 1)])

    def test_order(self) -> None:
        """
        The lines are in the ledger's order, over all sessions and commits.
        """
        self.asks("a")
        self.reactor.advance(0)
        first, self.client = self.client, self.connect()
        self.asks("b")
        self.client = first
        self.asks("c", data={"order": 1}, command="DeleteCreditSync")
        self.commit()
        self.commit()
        self.assertEqual(
            self.lines(),
            [
                self.booked("a", 1),
                self.booked("b", 2, **SECOND),
                self.booked("c", 1, command="DeleteCreditSync", done="delete", place=3),
            ],
        )

    def test_exact(self) -> None:
        """
        Amounts are exact, texts are what the client sent, and an extID keeps
        its type.
        """
        data = {
            "login": 1001,
            "amount": 9999999.00000001,
            "comment": 'a"\n\N{EURO SIGN}\\',
        }
        self.asks("a", data=data, extID=7)
        self.commit()
        self.assertIn(b'"amount":9999999.00000001,', self.path.read_bytes())
        [line] = self.lines()
        self.assertEqual(line["comment"], data["comment"])
        self.assertEqual(line["extID"], 7)

    def test_asynchronous(self) -> None:
        """
        An asynchronous command, which may have no extID, has a line too.
        """
        self.asks("a", command="CreditIn", extID=None)
        self.commit()
        self.assertEqual(
            self.lines(), [self.booked("a", 1, command="CreditIn", extID=None)]
        )

    def test_refused(self) -> None:
        """
        A request that the runtime refuses has a line with the cause.
        """
        self.asks("a", -300.0)
        self.reactor.advance(0)
        self.assertEqual(
            self.lines(),
            [
                self.refused(
                    "a",
                    status=409,
                    error="TRADE_NO_MONEY",
                    message="account 1001 does not have enough credit",
                )
            ],
        )

    def test_refusedBefore(self) -> None:
        """
        A request that is refused before it is executed has a line too. Without a
        valid token the line has no principal, and it never has the token.
        """
        self.asks("a")
        self.asks("b", -300.0, __token="stolen")
        self.asks("c", -300.0, __token="user")
        self.asks("d", 300.0, data={"login": "1001", "amount": -5})
        self.commit()
        unauthorized, forbidden, invalid, _ = self.lines()
        self.assertEqual(
            unauthorized,
            self.refused(
                "b",
                principal=None,
                status=401,
                error="UNAUTHORIZED",
                message="__token is not valid",
            ),
        )
        self.assertEqual((forbidden["principal"], forbidden["status"]), (10, 403))
        self.assertEqual(
            (invalid["extID"], invalid["status"], invalid["amount"]), ("d", 400, -5)
        )
        self.assertNotIn("login", invalid)
        self.assertNotIn(b"stolen", self.path.read_bytes())

    def test_onlyMoney(self) -> None:
        """
        Requests other than money operations, and lines that are not requests,
        have no line.
        """
        self.asks("a", command="HealthCheck")
        self.asks("b", command="GetOperation", data={"order": 5})
        self.asks("c", command="Nonsense")
        self.asks("d", command=["CreditIn"])
        self.client.protocol.dataReceived(b"rubbish\n")
        self.client.protocol.dataReceived(b"x" * 70_000)
        self.reactor.advance(0)
        self.assertEqual(self.lines(), [])

    def test_unknown(self) -> None:
        """
        A request that was answered with an unknown outcome has a line for that,
        and another one if it is booked all the same.
        """
        self.asks("a")
        self.reactor.advance(0)
        self.reactor.advance(5)
        self.commit()
        unknown, booked = self.lines()
        self.assertEqual(
            {name: unknown[name] for name in ("outcome", "extID", "order", "status")},
            {"outcome": "unknown", "extID": "a", "order": 1, "status": 504},
        )
        self.assertEqual(booked, self.booked("a", 1))

    def test_replayed(self) -> None:
        """
        A repetition under the same key is not booked again, and its line says
        so: both while the first is pending and after it was booked.
        """
        self.asks("a", idempotencyKey="k")
        self.asks("b", idempotencyKey="k")
        self.commit()
        self.asks("c", idempotencyKey="k")
        self.reactor.advance(0)
        attached, booked, replayed = self.lines()
        self.assertEqual(booked, self.booked("a", 1, idempotencyKey="k"))
        for line, extID in ((attached, "b"), (replayed, "c")):
            self.assertEqual(
                line,
                {
                    "time": TIME,
                    "outcome": "replayed",
                    "command": "CreditInSync",
                    **FIRST,
                    "extID": extID,
                    "order": 1,
                },
            )

    def test_withoutSession(self) -> None:
        """
        An operation that is booked after its session has ended keeps its
        requester.
        """
        self.asks("a")
        self.client.goes()
        self.commit()
        self.assertEqual(self.lines(), [self.booked("a", 1)])

    def test_stop(self) -> None:
        """
        An operation that is booked at the very end has its line, and the file is
        closed.
        """
        self.asks("a")
        self.client.goes()
        stopped = self.server.stopService()
        self.reactor.advance(0.2)
        self.ledger.release()
        self.successResultOf(stopped)
        self.assertEqual(self.lines(), [self.booked("a", 1)])
        self.assertIsNone(self.trail._file._descriptor)
        self.assertEqual(self.events._observers, [])

    def test_atRest(self) -> None:
        """
        Nothing is kept of requests that have ended.
        """
        self.asks("a")
        self.commit()
        self.asks("b", -900.0)
        self.reactor.advance(INTERVAL)
        self.assertEqual((self.trail._askers, self.trail._file._lines), ({}, []))
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class LaterTests(AuditTestCase):
    """
    Tests for the trail of a server whose trading runtime does not reserve at once.
    """

    def setUp(self) -> None:
        super().setUp()
        self.runtime = SlowRuntime()
        self.trail = AuditTrail(self.path, self.reactor, lambda: NOW, execute)
        self.server = self.start(self.runtime)
        self.client = self.connect()

    def replayed(self, extID: str, order: int, command: str) -> dict[str, Any]:
        """
        The line of a replay.
        """
        return {
            "time": TIME,
            "outcome": "replayed",
            "command": command,
            **FIRST,
            "extID": extID,
            "order": order,
        }

    def test_replayed(self) -> None:
        """
        A repetition that the runtime recognizes later has its line, once.
        """
        self.asks("a", idempotencyKey="k")
        self.asks("b", command="CreditIn", idempotencyKey="k")
        self.runtime.reserve(77, isReplay=True)
        self.runtime.reserve(77, isReplay=True)
        self.reactor.advance(0)
        self.assertEqual(
            self.lines(),
            [
                self.replayed("a", 77, "CreditInSync"),
                self.replayed("b", 77, "CreditIn"),
            ],
        )

    def test_attached(self) -> None:
        """
        A repetition of a request that is still pending has a line of its own.
        """
        self.asks("a", idempotencyKey="k")
        self.asks("b", idempotencyKey="k")
        reservation = self.runtime.reserve(77)
        [(_, answer)] = self.runtime.asked
        answer.callback(reservation)
        self.reactor.advance(0)
        self.assertEqual(self.lines(), [self.replayed("b", 77, "CreditInSync")])

    def test_afterItsTime(self) -> None:
        """
        A replay that is recognized after its request was answered with 504 has a
        line of its own.
        """
        self.asks("a", idempotencyKey="k")
        self.reactor.advance(5)
        self.runtime.reserve(77, isReplay=True)
        self.reactor.advance(0)
        unknown, replayed = self.lines()
        self.assertEqual((unknown["outcome"], unknown["extID"]), ("unknown", "a"))
        self.assertEqual(replayed, self.replayed("a", 77, "CreditInSync"))

    def test_unwritable(self) -> None:
        """
        A replay whose reply can't be encoded is a refusal, and has no other line.
        """
        self.patch(wire, "replay", lambda *_: 1 / 0)
        self.asks("a", idempotencyKey="k")
        self.runtime.reserve(77, isReplay=True)
        self.reactor.advance(0)
        self.flushLoggedErrors(ZeroDivisionError)
        [line] = self.lines()
        self.assertEqual((line["outcome"], line["extID"]), ("refused", "a"))


class ForeignTests(AuditTestCase):
    """
    Tests for the trail of a server on another trading runtime.
    """

    def setUp(self) -> None:
        super().setUp()
        self.events = TradeEvents()
        self.runtime = FakeTradingRuntime(self.events)
        self.trail = AuditTrail(self.path, self.reactor, lambda: NOW, execute)
        self.server = self.start(self.runtime)
        self.client = self.connect()

    def test_unmarked(self) -> None:
        """
        An event without an operation has a line without a requester.
        """
        self.events.publish([TradeEvent(1, {"order": 5, "login": 1})])
        [line] = self.lines()
        self.assertEqual(
            line, {"time": TIME, "outcome": "booked", "done": "update", "order": 5}
        )

    def test_unencodable(self) -> None:
        """
        A line that can't be encoded is counted as lost, the trail says so, and
        the other lines of the same publication are written.
        """
        self.events.publish(
            [
                TradeEvent(0, Trade(order, 1001, 7, 3, 1, comment, 0, 0, 0))
                for order, comment in enumerate(("a", "\ud83d", "c"))
            ]
        )
        # It can't be sent to clients either.
        self.flushLoggedErrors(UnicodeEncodeError)
        gap, *lines = self.lines()
        self.assertEqual((gap["outcome"], gap["lines"]), ("lost", 1))
        self.assertEqual([line["comment"] for line in lines], ["a", "c"])
        self.assertEqual(self.trail.lost, 1)

    def test_refused(self) -> None:
        """
        A request that it refuses has its line.
        """
        self.runtime.refusal = Busy("enough")
        self.asks("a")
        self.reactor.advance(0)
        [line] = self.lines()
        self.assertEqual((line["extID"], line["error"]), ("a", "BUSY"))


class PeerTests(AuditTestCase):
    """
    Tests for the client's address in the trail.
    """

    def peers(self, address: Any, *received: bytes, proxied: bool = True) -> list[str]:
        """
        The peers in the lines of a request that is booked and of one that is
        refused.

        @param address: Of the connection.
        @param received: What comes on it before the requests.
        """
        wire = StringTransport(peerAddress=address, lenient=True)
        factory: Any = self.server.factory
        if proxied:
            factory = HAProxyWrappingFactory(factory)
        protocol = factory.buildProtocol(address)
        protocol.makeConnection(wire)
        for data in received:
            protocol.dataReceived(data)
        self.client.protocol = protocol
        self.asks("a")
        self.asks("b", -900.0)
        self.commit()
        return [line["peer"] for line in self.lines()]

    def test_IPv6(self) -> None:
        """
        An IPv6 address is in brackets, which separate it from the port.
        """
        address = IPv6Address("TCP", "2001:db8::1", 4242)
        self.assertEqual(self.peers(address, proxied=False), ["[2001:db8::1]:4242"] * 2)

    def test_UNIX(self) -> None:
        """
        The client of a UNIX socket is local.
        """
        self.assertEqual(self.peers(UNIXAddress(None), proxied=False), ["local"] * 2)

    def test_proxied(self) -> None:
        """
        Behind a proxy that sends the PROXY header the address is the client's,
        whether the header comes in one piece or in two.
        """
        proxy = IPv4Address("TCP", "192.0.2.99", 80)
        self.assertEqual(
            self.peers(proxy, b"PROXY TCP4 203.0.113.5 192.0.2.99 51", b"23 8443\r\n"),
            ["203.0.113.5:5123"] * 2,
        )

    def test_proxiedIPv6(self) -> None:
        """
        The binary header of version 2 is understood too.
        """
        header = (
            b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24"
            + bytes.fromhex("20010db8000000000000000000000001")
            + bytes.fromhex("20010db8000000000000000000000002")
            + b"\x14\x03\x20\xfb"
        )
        proxy = IPv4Address("TCP", "192.0.2.99", 80)
        self.assertEqual(self.peers(proxy, header), ["[2001:db8::1]:5123"] * 2)

    def test_unknownClient(self) -> None:
        """
        Where the proxy does not report an address, as for a connection of its
        own, the address is the proxy's.
        """
        header = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"
        proxy = IPv4Address("TCP", "192.0.2.99", 80)
        self.assertEqual(self.peers(proxy, header), ["192.0.2.99:80"] * 2)

    def test_forged(self) -> None:
        """
        Whatever a header contains, a line of the trail stays one JSON object with
        the members that the server gave it.
        """
        proxy = IPv4Address("TCP", "192.0.2.99", 80)
        self.assertEqual(
            self.peers(proxy, b'PROXY TCP4 ","order":1,"x":" 192.0.2.99 1 2\r\n'),
            ['[","order":1,"x":"]:1'] * 2,
        )
