"""
Tests for the sandbox as long as nothing goes wrong:
L{creditsync._sandbox.service}, L{creditsync._sandbox.connection} and
L{creditsync._sandbox.booking}.
"""

import json

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.testing import StringTransport
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from creditsync._sandbox.script import Script
from creditsync._sandbox.service import OURS, REQUESTS
from creditsync.interfaces import IJournal, ILookups, ITradingRuntime
from creditsync.ledger.memory import MemoryLedger
from tests.piped import Piped
from tests.sandboxed import CREDIT, Platform

REQUEST = {"login": 1001, "cmd": 7, "amount": 300.0, "comment": "Promotion credit"}


class PlatformTests(SynchronousTestCase):
    """
    What it has in common with a platform.
    """

    def setUp(self) -> None:
        """
        Start one, and connect.
        """
        self.platform = Platform()
        self.client = self.platform.client()

    def test_acceptedFirst(self) -> None:
        """
        A credit is answered when it is accepted, and booked later, which every
        connection that has shown a token is told.
        """
        other, silent = self.platform.client(), self.platform.client()
        other.ask("HealthCheck", 0, {})
        reply = self.client.ask("CreditIn", 7)
        self.assertEqual(
            reply,
            {
                "extID": 7,
                "status": 200,
                "data": {
                    "accepted": True,
                    "order": 1242281,
                    "state": 10,
                    "login": 1001,
                    "cmd": 7,
                    "amount": 300.0,
                },
            },
        )
        self.assertEqual(self.platform.booked(), [])
        pending = self.client.ask("GetTradeByOrder", 8, {"order": 1242281})
        self.assertEqual(pending["data"]["state"], 10)
        self.assertEqual(self.client.told(), [("event", 1242281, 3)])
        self.assertEqual(other.told(0), [("event", 1242281, 3)])
        self.assertEqual(silent.told(0), [])
        self.assertEqual(self.platform.booked(), [(1242281, 3, "Promotion credit")])
        self.assertEqual(other.lines(), [])

    def test_family(self) -> None:
        """
        Updates and deletions are accepted first too.
        """
        self.client.ask("CreditIn", 1)
        self.client.told()
        updated = self.client.ask("CreditIn", 2, {**CREDIT, "order": 1242281})
        self.assertEqual(updated["data"]["state"], 11)
        self.assertEqual(self.client.told(), [("event", 1242281, 3)])
        deleted = self.client.ask("DeleteCredit", 3, {"order": 1242281})
        self.assertEqual(deleted["data"]["state"], 12)
        self.assertEqual(self.client.told(), [("event", 1242281, 6)])

    def test_unknownOrder(self) -> None:
        """
        An order that is not found makes a new trade.
        """
        reply = self.client.ask("CreditIn", 1, {**CREDIT, "order": 99})
        self.assertEqual((reply["status"], reply["data"]["order"]), (200, 1242281))

    def test_noKeys(self) -> None:
        """
        An C{idempotencyKey} is ignored.
        """
        for extID in (1, 2):
            self.client.send("CreditIn", extID, idempotencyKey="once")
        self.assertEqual(
            self.client.told(),
            [
                ("reply", 1, 200),
                ("reply", 2, 200),
                ("event", 1242281, 3),
                ("event", 1242282, 3),
            ],
        )

    def test_foreign(self) -> None:
        """
        It has commands that this server does not have, whose replies tell what came.
        """
        reply = self.client.ask("GetSymbols", 7, {"mask": 1.50}, "user")
        self.assertEqual((reply["extID"], reply["status"]), (7, 200))
        self.assertEqual(
            [each["symbol"] for each in reply["data"]["symbols"]], ["EURUSD", "XAUUSD"]
        )
        self.assertEqual(
            (reply["data"]["asked_by"], reply["data"]["asked"]), (10, {"mask": 1.5})
        )
        reply = self.client.ask("MngGetUserStats", 8, {})
        self.assertEqual(
            reply["data"], {"users": 2, "online": 1, "asked_by": 7, "asked": {}}
        )
        for token, data, status in (
            ("user", {}, 403),
            ("nobody", {}, 401),
            ("admin", [], 400),
            ("admin", {"x": "GetSymbols"}, 200),
        ):
            reply = self.client.ask("MngGetUserStats", 9, data, token)
            self.assertEqual(reply["status"], status)

    def test_foreignFaults(self) -> None:
        """
        Faults happen to them, and they can have other names.
        """
        self.client.fault("lose-reply", times=1, commands=["GetSymbols"])
        self.client.send("GetSymbols", 1, {})
        self.assertEqual(self.client.told(), [])
        self.client.fault("lose-request", times=1)
        self.client.send("GetSymbols", 2, {})
        self.assertEqual(self.client.told(), [])
        self.client.ask(
            "SandboxFault", 0, {"rename": {"GetSymbols": "MngGetSymbols"}}, "admin"
        )
        self.assertEqual(self.client.ask("GetSymbols", 3, {})["status"], 404)
        self.assertEqual(self.client.ask("MngGetSymbols", 4, {})["status"], 200)

    def test_noSync(self) -> None:
        """
        What only this server has is an unknown command.
        """
        self.assertIn("CreditInSync", OURS)
        self.assertIn("MngApproveFinanceRequestSync", OURS)
        for command in OURS:
            reply = self.client.ask(command, 1, {"order": 1242281})
            self.assertEqual(
                (reply["status"], reply["error"]), (404, "UNKNOWN_COMMAND")
            )
        self.assertEqual(self.client.told(), [])

    def test_noPlaces(self) -> None:
        """
        Events have no cursors, and the stream can't be resumed.
        """
        self.client.ask("CreditIn", 1)
        self.platform.passes(1)
        [event] = self.client.lines()
        self.assertNotIn("cursor", event["data"])
        since = {"chanels": ["trade:event"], "since": "first"}
        self.assertEqual(self.client.ask("Subscribe", 2, since)["status"], 400)

    def test_runtime(self) -> None:
        """
        Its trading runtime has look-ups, and no journal.
        """
        life = self.platform.sandbox.life
        assert life is not None
        runtime = life.server.runtime
        self.assertTrue(ITradingRuntime.providedBy(runtime))
        self.assertTrue(ILookups.providedBy(runtime))
        self.assertFalse(IJournal.providedBy(runtime))

    def test_lookups(self) -> None:
        """
        Orders, trades, accounts and groups can be looked up.
        """
        self.client.ask("CreditIn", 1)
        self.client.told()
        orders = self.client.ask("GetTradeByOrders", 2, {"orders": [1242281]})
        self.assertEqual(orders["data"]["rows"][0][:5], [1242281, 1001, 7, 3, 300.0])
        found = self.client.ask("MngGetTradesByFilter", 3, {"tradeType": 4})
        self.assertEqual(found["data"]["count"], 1)
        account = self.client.ask("GetAccountByLogin", 4, {"login": 1001})
        self.assertEqual(account["data"]["credit"], 300.0)
        groups = self.client.ask("GetGroups", 5, {})
        self.assertEqual(groups["status"], 200)

    def test_financeRequests(self) -> None:
        """
        A finance request is booked when it is approved, also by who has made it.
        """
        made = self.client.ask("MngCreateFinanceRequest", 1, REQUEST)
        self.assertEqual((made["data"]["order"], made["data"]["state"]), (1242281, 17))
        self.assertEqual(self.client.told(), [("event", 1242281, 17)])
        approval = {"order": 1242281}
        approved = self.client.ask("MngApproveFinanceRequest", 2, approval)
        self.assertEqual(approved["data"]["state"], 10)
        self.assertEqual(self.client.told(), [("event", 1242281, 3)])
        again = self.client.ask("MngApproveFinanceRequest", 3, approval)
        self.assertEqual((again["status"], again["error"]), (409, "INCORRECT_ORDER"))

    def test_noRequests(self) -> None:
        """
        A platform without finance requests does not know their commands.
        """
        client = Platform(unknown=OURS | REQUESTS).client()
        self.assertEqual(
            client.ask("MngCreateFinanceRequest", 1, REQUEST)["status"], 404
        )
        self.assertEqual(client.ask("CreditIn", 2)["status"], 200)

    def test_sync(self) -> None:
        """
        If it has the C{Sync} commands, they wait for the event.
        """
        client = Platform(unknown=frozenset()).client()
        client.send("CreditInSync", 1)
        self.assertEqual(client.told(), [("event", 1242281, 3), ("reply", 1, 200)])

    def test_between(self) -> None:
        """
        Unless that is switched off, arrays come between the other lines: quotes,
        notices, and records of the staff.
        """
        client = Platform(script=Script()).client()
        for extID in range(300):
            client.send("HealthCheck", extID, {})
            client.protocol.dataReceived(b"")
        client._platform.passes(1)
        kinds = [line[0] for line in client.lines() if isinstance(line, list)]
        self.assertEqual(set(kinds), {"t", "n", "m"})
        self.assertTrue(30 < kinds.count("t") < 90, kinds)

    def test_noRequest(self) -> None:
        """
        What is no request is refused as by the server.
        """
        for line in (b"nonsense\r\n", b"[1]\r\n", b'{"extID":5}\n'):
            self.client.protocol.dataReceived(line)
        self.client.protocol.dataReceived(b"x" * (1 << 20) + b"x")
        self.platform.passes(0.1)
        errors = [line["error"] for line in self.client.lines()]
        self.assertEqual(
            errors, ["INVALID_JSON", "INVALID_JSON", "INVALID_DATA", "LINE_TOO_LONG"]
        )

    def test_pieces(self) -> None:
        """
        A request may arrive in pieces, and several in one.
        """
        line = json.dumps(
            {"command": "HealthCheck", "extID": 1, "__token": "manager"}
        ).encode()
        self.client.protocol.dataReceived(line[:20])
        self.client.protocol.dataReceived(line[20:] + b"\n" + line + b"\r\n")
        self.assertEqual(self.client.told(0.1), [("reply", 1, 200), ("reply", 1, 200)])

    def test_halfClose(self) -> None:
        """
        A client that has closed its side gets its replies.
        """
        protocol = self.client.protocol
        self.assertTrue(IHalfCloseableProtocol.providedBy(protocol))
        self.client.send("CreditIn", 1)
        protocol.readConnectionLost()
        self.assertEqual(self.client.told(0.02), [("reply", 1, 200)])
        self.assertFalse(self.client.isOpen)
        self.platform.sandbox.crash()
        self.platform.passes(1)
        protocol.writeConnectionLost()

    def test_handshake(self) -> None:
        """
        The server learns of the end of a TLS handshake, which would time out otherwise.
        """
        protocol = self.client.protocol
        self.assertTrue(IHandshakeListener.providedBy(protocol))
        ended: list[bool] = []
        server = protocol.wrappedProtocol
        self.patch(type(server), "handshakeCompleted", lambda _: ended.append(True))
        protocol.handshakeCompleted()
        self.assertEqual(ended, [True])

    def test_lost(self) -> None:
        """
        What a client has asked for is booked when it is gone.
        """
        self.client.send("CreditIn", 1)
        self.client.close()
        self.platform.passes(1)
        self.assertEqual(len(self.platform.booked()), 1)
        self.assertEqual(self.client.lines(), [])

    def test_writeSequence(self) -> None:
        """
        What the server writes may be in pieces.
        """
        self.client.protocol.writeSequence([b'{"extID":1,', b'"status":200}\r\n'])
        self.assertEqual(self.client.lines(), [{"extID": 1, "status": 200}])


class Conversation(LineOnlyReceiver):
    """
    A client that is connected by an endpoint.
    """

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.isOpen = True

    def lineReceived(self, line: bytes) -> None:
        """
        Keep a line.
        """
        self.lines.append(line)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Keep that it has ended.
        """
        self.isOpen = False


class PipedTests(SynchronousTestCase):
    """
    A sandbox behind an endpoint in memory, where the suites of a gateway find it.
    """

    def test_conversation(self) -> None:
        """
        Requests, replies, events, and the end of a connection go through it, and
        another one can be made.
        """
        platform = Platform()
        factory = Factory.forProtocol(Conversation)
        endpoint = Piped(platform.clock, platform.sandbox.factory)
        client = self.successResultOf(endpoint.connect(factory))
        request = {"command": "CreditIn", "extID": 1, "__token": "manager"}
        client.sendLine(json.dumps({**request, "data": CREDIT}).encode())
        platform.passes(1)
        kinds = [line[:10] for line in client.lines]
        self.assertEqual(kinds, [b'{"extID":1', b'{"event":"'])
        platform.sandbox.crash()
        platform.passes(0.1)
        self.assertFalse(client.isOpen)
        refused = self.successResultOf(endpoint.connect(factory))
        platform.passes(1)
        self.assertFalse(refused.isOpen)
        again = self.successResultOf(endpoint.connect(factory))
        again.transport.loseConnection()
        platform.passes(0.1)
        self.assertFalse(again.isOpen)
        life = platform.sandbox.life
        assert life is not None
        self.assertEqual(life.connections, {})
        self.successResultOf(platform.stop())
        self.assertEqual(platform.clock.getDelayedCalls(), [])


class LifeTests(SynchronousTestCase):
    """
    Its start, its crashes and its end.
    """

    def setUp(self) -> None:
        """
        Start one, and connect.
        """
        self.platform = Platform()
        self.client = self.platform.client()

    def test_crash(self) -> None:
        """
        A crash closes the connections, and loses what is only in memory; after a while
        it is there again, with all that was on disk.
        """
        self.client.send("CreditIn", 1, {**CREDIT, "comment": "booked"})
        self.client.told()
        self.client.send("CreditIn", 2, {**CREDIT, "comment": "accepted"})
        self.client.told(0.02)
        self.platform.sandbox.crash(seconds=3.0)
        self.assertEqual(self.client.told(2.9), [])
        self.assertFalse(self.client.isOpen)
        self.assertFalse(self.platform.client().isOpen)
        self.platform.sandbox.crash()
        self.platform.passes(1)
        client = self.platform.client()
        self.assertEqual(
            client.ask("GetTradeByOrder", 1, {"order": 1242281})["status"], 200
        )
        self.assertEqual(
            client.ask("GetTradeByOrder", 2, {"order": 1242282})["status"], 404
        )
        self.assertEqual(client.ask("CreditIn", 3)["data"]["order"], 1242283)
        self.platform.passes(1)
        self.assertEqual(
            self.platform.booked(),
            [(1242281, 3, "booked"), (1242283, 3, "Promotion credit")],
        )
        self.assertEqual(self.platform.sandbox.crashes, 1)
        # The transport reports it only now.
        self.client.protocol.connectionLost(Failure(ConnectionDone()))

    def test_stop(self) -> None:
        """
        When it is stopped in order, what was accepted is booked first.
        """
        self.client.send("CreditIn", 1)
        self.client.close()
        self.successResultOf(self.platform.stop())
        self.assertEqual(len(self.platform.booked()), 1)
        self.assertEqual(self.platform.clock.getDelayedCalls(), [])
        self.assertFalse(self.platform.client().isOpen)
        self.platform.sandbox.reload()
        self.assertEqual(self.platform.sandbox.ports, [])

    def test_stopWhileDown(self) -> None:
        """
        It can be stopped while it is down, and while it is going down.
        """
        self.client.close()
        for seconds in (0.0, 0.1, 1.0):
            platform = Platform()
            platform.sandbox.crash(seconds=10.0)
            platform.passes(seconds)
            self.successResultOf(platform.stop())
            self.assertEqual(platform.clock.getDelayedCalls(), [])

    def test_ready(self) -> None:
        """
        It says when it is ready, which a ledger in memory is at once.
        """
        self.successResultOf(self.platform.sandbox.whenReady())
        later: Deferred[None] = Deferred()
        self.patch(MemoryLedger, "open", lambda _: later)
        ready = Platform().sandbox.whenReady()
        self.assertNoResult(ready)
        later.callback(None)
        self.successResultOf(ready)

    def test_ledgerFails(self) -> None:
        """
        If it can't begin again, it fails.
        """
        failed = self.platform.sandbox.whenFailed()
        self.platform.sandbox.crash()

        def fails() -> None:
            raise OSError("no disk")

        self.patch(type(self.platform.ledger), "open", lambda _: fails())
        self.platform.passes(2)
        self.failureResultOf(failed, OSError)
        self.successResultOf(self.platform.stop())

    def test_unwelcome(self) -> None:
        """
        A connection to one that does not run is closed.
        """
        platform = Platform()
        self.successResultOf(platform.stop())
        transport = StringTransport()
        platform.sandbox.factory.buildProtocol(None).makeConnection(transport)
        self.assertTrue(transport.disconnected)
