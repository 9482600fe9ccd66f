"""
Tests for the gateway behind the whole server: what its clients get, line by line.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet.defer import execute
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.trial.unittest import SynchronousTestCase

from creditsync.audit import AuditTrail
from creditsync.events import TradeEvents
from creditsync.gateway._memorylog import MemoryIntentLog
from creditsync.gateway._runtime import GatewayRuntime
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator
from tests.platforms import NOW, Link, Platform


class ServiceTests(SynchronousTestCase):
    """
    A client of a server whose runtime is a gateway.
    """

    def setUp(self) -> None:
        """
        Start the server, and connect.
        """
        self.clock = MemoryReactorClock()
        self.platform = Platform(lambda: NOW + self.clock.seconds())
        self.link = Link(self.clock, self.platform)
        self.log = MemoryIntentLog()
        events = TradeEvents()
        self.alarms: list[str] = []
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.trail = Path(folder.name) / "audit"
        gateway = GatewayRuntime(
            self.clock,
            self.log,
            self.link,
            events,
            now=lambda: NOW + self.clock.seconds(),
            maxQueued=100,
            alarm=self.alarms.append,
        )
        server = CreditSync(
            self.clock,
            runtime=gateway,
            events=events,
            authenticator=FakeAuthenticator(),
            listen=[],
            audit=AuditTrail(self.trail, self.clock, lambda: NOW, execute),
        )
        server.startService()
        self.connection = server.factory.buildProtocol(None)  # type: ignore[arg-type]
        self.transport = StringTransport()
        self.connection.makeConnection(self.transport)
        self.turn()

    def turn(self) -> None:
        """
        Let the reactor turn some times.
        """
        for _ in range(12):
            self.clock.advance(0)

    def wait(self, seconds: float) -> None:
        """
        Let time pass.
        """
        for _ in range(int(seconds * 2)):
            self.clock.advance(0.5)
            self.turn()

    def send(self, command: str, data: dict[str, Any], **members: Any) -> None:
        """
        Send a request.
        """
        line = {"command": command, "extID": "e", "__token": "manager", "data": data}
        self.connection.dataReceived(json.dumps(line | members).encode() + b"\r\n")
        self.turn()

    def credit(self, amount: int = 300, **members: Any) -> None:
        """
        Request a credit.
        """
        data = {"login": 1001, "amount": amount, "comment": "gift"}
        self.send("CreditInSync", data, **members)

    def received(self) -> list[dict[str, Any]]:
        """
        The lines that came since this was called last.
        """
        lines = self.transport.value().splitlines()
        self.transport.clear()
        return [json.loads(line) for line in lines]

    def test_creditInSync(self) -> None:
        """
        The client gets the event, and then the platform's final record as the reply.
        """
        self.credit()
        self.assertEqual(self.received(), [])
        self.platform.work()
        self.turn()
        event, reply = self.received()
        self.assertEqual((event["event"], event["type"]), ("trade:event", 0))
        self.assertEqual((reply["extID"], reply["status"]), ("e", 200))
        self.assertEqual(reply["data"], event["data"])
        data = reply["data"]
        self.assertEqual(
            (data["order"], data["login"], data["state"], data["profit"]),
            (5001, 1001, 3, 300),
        )

    def test_creditIn(self) -> None:
        """
        The other form is answered when the operation can't be lost any more.
        """
        data = {"login": 1001, "amount": 300, "comment": "gift"}
        self.send("CreditIn", data)
        self.assertEqual(self.received(), [])
        self.platform.work()
        self.turn()
        _, reply = self.received()
        self.assertEqual(
            (reply["data"]["accepted"], reply["data"]["order"], reply["data"]["state"]),
            (True, 5001, 10),
        )

    def test_timeout(self) -> None:
        """
        A 504 has the order, if the platform has named it, and then the outcome can be
        looked up.
        """
        self.credit(idempotencyKey="k")
        self.wait(5)
        [reply] = self.received()
        self.assertEqual((reply["status"], reply["data"]), (504, {"order": 5001}))
        self.platform.work()
        self.turn()
        self.received()
        self.send("GetOperation", {"idempotencyKey": "k"})
        [reply] = self.received()
        self.assertEqual((reply["data"]["order"], reply["data"]["state"]), (5001, 3))
        self.credit(idempotencyKey="k")
        [reply] = self.received()
        self.assertEqual((reply["status"], reply["replayed"]), (200, True))

    def test_held(self) -> None:
        """
        A held operation says so, under its key, and its repetition is a 504 at once.
        """
        self.link.losesRequest.append("CreditIn")
        self.credit(idempotencyKey="k")
        self.wait(5)
        [reply] = self.received()
        self.assertEqual((reply["status"], reply.get("data")), (504, None))
        self.wait(160)
        self.send("GetOperation", {"idempotencyKey": "k"})
        [reply] = self.received()
        self.assertEqual(
            (reply["status"], reply["data"]["order"], reply["data"]["held"]),
            (200, 0, True),
        )
        self.credit(idempotencyKey="k")
        [reply] = self.received()
        self.assertEqual(reply["status"], 504)
        self.credit(5)
        [reply] = self.received()
        self.assertEqual((reply["status"], reply["error"]), (503, "BUSY"))

    def test_resolved(self) -> None:
        """
        An admin decides what became of a held operation, which frees its key and its
        account, or answers its repetition.
        """
        self.link.losesRequest += ["CreditIn"] * 2
        self.credit(idempotencyKey="k")
        self.wait(160)
        absent = {"operation": 1, "outcome": "absent"}
        self.received()
        self.send("MngResolveOperation", absent)
        self.send("MngResolveOperation", absent, __token="admin")
        self.send("MngResolveOperation", absent, __token="admin")
        forbidden, done, again = self.received()
        self.assertEqual(forbidden["status"], 403)
        self.assertEqual(done["data"], absent)
        self.assertEqual((again["status"], again["error"]), (404, "NOT_FOUND"))
        self.credit(idempotencyKey="k")
        self.wait(160)
        self.received()
        order = self.platform.person(1001, 7, 300)
        self.platform.person(1002, 7, 300)
        self.turn()
        self.received()
        booked = {"operation": 2, "outcome": "booked"}
        for wrong in (order + 1, order + 2):
            self.send(
                "MngResolveOperation", {**booked, "order": wrong}, __token="admin"
            )
        self.assertEqual([each["status"] for each in self.received()], [409, 404])
        self.send("MngResolveOperation", booked, __token="admin")
        self.assertEqual([each["status"] for each in self.received()], [400])
        self.send("MngResolveOperation", {**booked, "order": order}, __token="admin")
        [done] = self.received()
        self.assertEqual(done["data"], booked)
        self.credit(idempotencyKey="k")
        [reply] = self.received()
        self.assertEqual((reply["data"]["order"], reply["replayed"]), (order, True))
        intent = self.log.withKey(7, "k")
        assert intent is not None
        self.assertEqual(intent.decidedBy, "principal 9")

    def test_audited(self) -> None:
        """
        The audit trail has who has decided what of which operation, and refusals.
        """
        self.link.losesRequest += ["CreditIn"] * 2
        self.credit()
        self.wait(160)
        absent = {"operation": 1, "outcome": "absent"}
        self.send("MngResolveOperation", absent)
        self.send("MngResolveOperation", absent, __token="admin")
        self.credit()
        self.wait(160)
        order = self.platform.person(1001, 7, 300)
        booked = {"operation": 2, "outcome": "booked", "order": order}
        self.send("MngResolveOperation", {**booked, "order": 1}, __token="admin")
        self.send("MngResolveOperation", booked, __token="admin")
        self.wait(1)
        lines = [json.loads(line) for line in self.trail.read_text().splitlines()]
        found = [each for each in lines if each["command"] == "MngResolveOperation"]
        members = ("outcome", "principal", "operation", "decision", "order", "status")
        self.assertEqual(
            [[each.get(name) for name in members] for each in found],
            [
                ["refused", 7, 1, None, None, 403],
                ["resolved", 9, 1, "absent", None, None],
                ["refused", 9, None, None, None, 404],
                ["resolved", 9, 2, "booked", order, None],
            ],
        )
        self.assertEqual(found[1]["extID"], "e")
        after = [each for each in lines if each.get("order") == order]
        self.assertEqual(
            [(each["outcome"], each["principal"]) for each in after],
            [("booked", 0), ("resolved", 9)],
        )

    def test_refused(self) -> None:
        """
        The client gets the platform's own refusal.
        """
        self.platform.refusals[1001] = 409, "TRADE_NO_MONEY"
        self.credit()
        [reply] = self.received()
        self.assertEqual((reply["status"], reply["error"]), (409, "TRADE_NO_MONEY"))

    def test_refusedUnknown(self) -> None:
        """
        An error that clients of this server do not know gets the name of one that they
        do.
        """
        self.platform.refusals[1001] = 423, "ACCOUNT_LOCKED"
        self.credit()
        [reply] = self.received()
        self.assertEqual(
            (reply["status"], reply["error"], reply["message"]),
            (409, "PLATFORM_REFUSED", "the platform: 423 ACCOUNT_LOCKED, because"),
        )

    def test_away(self) -> None:
        """
        Without the platform, the client gets to know that nothing was sent.
        """
        self.link.cut()
        self.credit()
        [reply] = self.received()
        self.assertEqual(
            (reply["status"], reply["error"], reply["data"]),
            (503, "BUSY", {"retry_after_ms": 250}),
        )

    def test_since(self) -> None:
        """
        A client resumes the stream behind a cursor, which the platform does not have.
        """
        self.platform.person(1001, 6, 1)
        self.turn()
        self.send("Subscribe", {"chanels": ["trade:event"], "since": "first"})
        reply, event = self.received()
        self.assertEqual(reply["data"]["cursor"], event["data"]["cursor"])
        self.assertEqual(event["data"]["order"], 5001)
