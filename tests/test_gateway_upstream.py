"""
Tests for L{creditsync.gateway._upstream} and L{creditsync.gateway._outcomes}.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from attrs import Factory, define
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import (
    ConnectionLost,
    ConnectionRefusedError,
    DNSLookupError,
    TimeoutError,
)
from twisted.internet.protocol import Factory as ProtocolFactory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from creditsync.gateway._interfaces import IUpstream, IUpstreamObserver
from creditsync.gateway._outcomes import Kind, Outcome, outcomeOf
from creditsync.gateway._tokenfile import TokenFile
from creditsync.gateway._upstream import Upstream


@define
class Endpoint:
    """
    Connects at once, to connections that the test has in its hands.
    """

    transports: list[StringTransport] = Factory(list)
    protocols: list[Any] = Factory(list)

    def connect(self, factory: ProtocolFactory) -> "Deferred[Any]":
        """
        Make a connection.
        """
        protocol = factory.buildProtocol(None)
        transport = StringTransport()
        transport.protocol = protocol
        self.transports.append(transport)
        self.protocols.append(protocol)
        protocol.makeConnection(transport)
        return succeed(protocol)


@implementer(IUpstreamObserver)
@define
class Observer:
    """
    Remembers what it hears.
    """

    heard: list[Any] = Factory(list)

    def connected(self) -> None:
        """
        See L{IUpstreamObserver.connected}.
        """
        self.heard.append("connected")

    def interrupted(self) -> None:
        """
        See L{IUpstreamObserver.interrupted}.
        """
        self.heard.append("interrupted")

    def eventReceived(self, type: int, data: Mapping[str, Any]) -> None:
        """
        See L{IUpstreamObserver.eventReceived}.
        """
        self.heard.append((type, data))

    def repliedLate(self, tag: object, outcome: Outcome) -> None:
        """
        See L{IUpstreamObserver.repliedLate}.
        """
        self.heard.append((tag, outcome.kind))


class OutcomeTests(SynchronousTestCase):
    """
    Tests for L{outcomeOf}.
    """

    def test_table(self) -> None:
        """
        A reply proves what its status and the name of its error say, and nothing if it
        has another shape.
        """
        for reply, kind in (
            ({"status": 200, "data": {"order": 5}}, Kind.DONE),
            ({"status": 200, "data": {}}, Kind.DONE),
            ({"status": 200, "data": {}, "error": ""}, Kind.DONE),
            ({"status": 200, "data": {}, "error": None}, Kind.DONE),
            ({"status": 200}, Kind.UNKNOWN),
            ({"status": 200, "data": [5]}, Kind.UNKNOWN),
            ({"status": 200, "data": {"order": 5}, "error": "X"}, Kind.UNKNOWN),
            ({"status": "200", "data": {"order": 5}}, Kind.UNKNOWN),
            ({"status": True, "data": {"order": 5}}, Kind.UNKNOWN),
            ({"status": 400, "error": "INVALID_DATA"}, Kind.REFUSED),
            ({"status": 403, "error": "FORBIDDEN"}, Kind.REFUSED),
            ({"status": 404, "error": "USER_NOT_FOUND"}, Kind.REFUSED),
            ({"status": 409, "error": "TRADE_NO_MONEY"}, Kind.REFUSED),
            ({"status": 423, "error": "LOCKED"}, Kind.REFUSED),
            ({"status": 429, "error": "TOO_MANY_REQUESTS"}, Kind.REFUSED),
            ({"status": 409}, Kind.UNKNOWN),
            ({"status": 409, "error": ""}, Kind.UNKNOWN),
            ({"status": 409, "error": 17}, Kind.UNKNOWN),
            ({"status": 409, "error": {"code": 409, "name": "NO_MONEY"}}, Kind.REFUSED),
            ({"status": 409, "error": {"error": "NO_MONEY"}}, Kind.REFUSED),
            ({"status": 409, "error": {"code": 409}}, Kind.UNKNOWN),
            ({"status": 409, "error": {}}, Kind.UNKNOWN),
            ({"status": 200, "data": {}, "error": {}}, Kind.UNKNOWN),
            ({"status": 401, "error": {"name": "TOKEN_EXPIRED"}}, Kind.TOKEN),
            ({"status": 500, "error": {"name": "TECH_PROBLEM"}}, Kind.UNKNOWN),
            ({"status": 401, "error": "UNAUTHORIZED"}, Kind.TOKEN),
            ({"status": 401, "error": "TOKEN_EXPIRED"}, Kind.TOKEN),
            ({"status": 401, "error": "ACCOUNT_DISABLED"}, Kind.REFUSED),
            ({"status": 401}, Kind.UNKNOWN),
            ({"status": 500, "error": "TECH_PROBLEM"}, Kind.UNKNOWN),
            ({"status": 503, "error": "BUSY"}, Kind.UNKNOWN),
            ({"status": 504, "error": "SYNC_TIMEOUT"}, Kind.UNKNOWN),
            ({}, Kind.UNKNOWN),
        ):
            self.assertEqual(outcomeOf(reply).kind, kind, reply)

    def test_order(self) -> None:
        """
        An order is a positive integer.
        """
        for order, expected in (
            (5, 5),
            (0, None),
            (-5, None),
            (True, None),
            (2**53, None),
        ):
            outcome = outcomeOf({"status": 200, "data": {"order": order}})
            self.assertEqual(outcome.order, expected)
        self.assertIsNone(outcomeOf({"status": 200, "data": {"order": "5"}}).order)

    def test_refusal(self) -> None:
        """
        A refusal keeps what the platform said.
        """
        said = outcomeOf({"status": 409, "error": "TRADE_NO_MONEY", "message": "no"})
        self.assertEqual(
            (said.status, said.error, said.message), (409, "TRADE_NO_MONEY", "no")
        )
        error = {"code": 409, "name": "TRADE_NO_MONEY", "message": "no"}
        self.assertEqual(outcomeOf({"status": 409, "error": error}), said)


class UpstreamTestCase(SynchronousTestCase):
    """
    A connection to a platform that the test has in its hands.
    """

    def setUp(self) -> None:
        """
        Begin to connect.
        """
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file = Path(os.path.join(folder.name, "token"))
        self.file.write_text("first\n")
        self.clock = Clock()
        self.endpoint = Endpoint()
        self.observer = Observer()
        self.upstream = Upstream(
            self.clock,
            self.endpoint,  # type: ignore[arg-type]
            TokenFile(self.file),
            random=lambda: 1.0,
            maxInFlight=2,
        )

    def connect(self) -> None:
        """
        Connect, and have the token accepted.
        """
        self.upstream.start(self.observer)
        self.reply(200, {"chanels": ["trade:event"]})

    def sent(self) -> list[dict[str, Any]]:
        """
        The lines that were sent since this was called last.
        """
        lines = self.endpoint.transports[-1].value().splitlines()
        self.endpoint.transports[-1].clear()
        self.last = [json.loads(line) for line in lines] or self.last
        return self.last

    last: list[dict[str, Any]] = []  # noqa: RUF012

    def receive(self, line: bytes) -> None:
        """
        Have the platform send a line.
        """
        self.endpoint.protocols[-1].dataReceived(line + b"\r\n")

    def reply(
        self,
        status: int,
        data: dict[str, Any] | None = None,
        error: str | None = None,
        at: int = -1,
    ) -> None:
        """
        Have the platform answer one of the lines that were sent last.
        """
        line = {"extID": self.sent()[at]["extID"], "status": status}
        line |= {"data": data} if data is not None else {}
        line |= {"error": error, "message": "because"} if error is not None else {}
        self.receive(json.dumps(line).encode())

    def lose(self) -> None:
        """
        Lose the connection.
        """
        self.endpoint.protocols[-1].connectionLost(Failure(ConnectionLost()))


class UpstreamTests(UpstreamTestCase):
    """
    Tests for L{Upstream}.
    """

    def test_interface(self) -> None:
        """
        It provides the interface.
        """
        verifyObject(IUpstream, self.upstream)

    def test_introduction(self) -> None:
        """
        It is connected when the platform has accepted its token, whether or not it has
        the command with which the token is shown.
        """
        self.upstream.start(self.observer)
        [line] = self.sent()
        self.assertEqual(
            (line["command"], line["__token"], line["data"]),
            ("Subscribe", "first", {"chanels": ["trade:event"]}),
        )
        self.assertEqual((self.upstream.isConnected, self.observer.heard), (False, []))
        self.reply(404, error="UNKNOWN_COMMAND")
        self.assertEqual(
            (self.upstream.isConnected, self.observer.heard), (True, ["connected"])
        )

    def test_replies(self) -> None:
        """
        Replies are found by extID, in any order.
        """
        self.connect()
        first = self.upstream.request("CreditIn", {"login": 1})
        second = self.upstream.request("CreditIn", {"login": 2})
        self.sent()
        self.reply(200, {"order": 2}, at=1)
        self.assertEqual(self.successResultOf(second).order, 2)
        self.assertNoResult(first)
        self.reply(200, {"order": 1}, at=0)
        self.assertEqual(self.successResultOf(first).order, 1)

    def test_window(self) -> None:
        """
        More requests than may be in flight wait, and are unsent if the connection is
        lost meanwhile; what was in flight is unknown.
        """
        self.connect()
        asked = [self.upstream.request("CreditIn", {"login": n}) for n in range(4)]
        self.assertEqual([each["data"]["login"] for each in self.sent()], [0, 1])
        self.reply(200, {"order": 5}, at=0)
        self.assertEqual([each["data"]["login"] for each in self.sent()], [2])
        self.lose()
        kinds = [self.successResultOf(each).kind for each in asked]
        self.assertEqual(kinds, [Kind.DONE, Kind.UNKNOWN, Kind.UNKNOWN, Kind.UNSENT])
        self.assertEqual(self.observer.heard, ["connected", "interrupted"])

    def test_notConnected(self) -> None:
        """
        Without a connection nothing is sent.
        """
        outcome = self.successResultOf(self.upstream.request("CreditIn", {}))
        self.assertEqual(outcome.kind, Kind.UNSENT)

    def test_neverAgain(self) -> None:
        """
        After the next connection no request is sent again.
        """
        self.connect()
        asked = self.upstream.request("CreditIn", {"login": 1})
        self.lose()
        self.assertEqual(self.successResultOf(asked).kind, Kind.UNKNOWN)
        self.clock.advance(1)
        self.assertEqual([each["command"] for each in self.sent()], ["Subscribe"])

    def test_names(self) -> None:
        """
        A command may have another name on the platform.
        """
        self.upstream = Upstream(
            self.clock,
            self.endpoint,  # type: ignore[arg-type]
            TokenFile(self.file),
            random=lambda: 1.0,
            names={"CreditIn": "MngCreditIn"},
        )
        self.connect()
        self.upstream.request("CreditIn", {"login": 1})
        self.assertEqual(self.sent()[-1]["command"], "MngCreditIn")

    def test_overdue(self) -> None:
        """
        A reply may be overdue long before a silent connection is given up.
        """
        self.upstream = Upstream(
            self.clock,
            self.endpoint,  # type: ignore[arg-type]
            TokenFile(self.file),
            random=lambda: 1.0,
            timeout=2.5,
        )
        self.connect()
        for _ in range(4):
            self.assertTrue(self.upstream.isConnected)
            asked = self.upstream.request("CreditIn", {"login": 1})
            self.clock.advance(2.5)
            self.assertEqual(self.successResultOf(asked).kind, Kind.UNKNOWN)
        self.assertFalse(self.upstream.isConnected)

    def test_silence(self) -> None:
        """
        A request without a reply is unknown, and one that came with the connection
        wholly silent ends that.
        """
        self.connect()
        asked = self.upstream.request("CreditIn", {"login": 1})
        self.clock.advance(9)
        self.assertNoResult(asked)
        self.clock.advance(1)
        self.assertEqual(self.successResultOf(asked).kind, Kind.UNKNOWN)
        self.assertTrue(self.endpoint.transports[0].disconnecting)
        self.assertEqual(self.upstream.figures.lost, 1)

    def test_lostReply(self) -> None:
        """
        If other lines come, one lost reply does not end the connection, and when it
        comes late it is told.
        """
        self.connect()
        asked = self.upstream.request("CreditIn", {"login": 1}, "tag")
        self.clock.advance(5)
        self.receive(b'["t",1]')
        self.clock.advance(5)
        self.assertEqual(self.successResultOf(asked).kind, Kind.UNKNOWN)
        self.assertTrue(self.upstream.isConnected)
        self.reply(200, {"order": 5})
        self.assertEqual(self.observer.heard, ["connected", ("tag", Kind.DONE)])
        self.assertEqual(self.upstream.figures.late, 1)
        self.reply(200, {"order": 5})
        self.assertEqual(self.observer.heard, ["connected", ("tag", Kind.DONE)])
        self.assertEqual(self.upstream.figures.doubled, 1)

    def test_delays(self) -> None:
        """
        It counts how long replies took, those that came in time, and since when it is
        connected or not.
        """
        figures = self.upstream.figures
        self.clock.advance(3)
        self.connect()
        self.assertEqual((list(figures.recent), figures.since), ([0.0], 3.0))
        for delay in (0.25, 10):
            self.upstream.request("CreditIn", {"login": 1})
            self.clock.advance(delay / 2)
            self.receive(b'["t",1]')
            self.clock.advance(delay / 2)
            self.reply(200, {"order": 5})
        self.assertEqual(list(figures.recent), [0.0, 0.25])
        self.assertEqual((figures.took.sum, sum(figures.took.counts)), (0.25, 2))
        self.clock.advance(1)
        self.lose()
        self.assertEqual((self.upstream.isConnected, figures.since), (False, 14.25))
        self.clock.advance(1)
        self.assertEqual(figures.since, 14.25)

    def test_twice(self) -> None:
        """
        A reply that comes twice counts once.
        """
        self.connect()
        asked = self.upstream.request("CreditIn", {"login": 1})
        self.reply(200, {"order": 5})
        self.reply(409, error="TRADE_NO_MONEY")
        self.assertEqual(self.successResultOf(asked).kind, Kind.DONE)
        self.assertEqual(self.upstream.figures.doubled, 1)

    def test_events(self) -> None:
        """
        Trade events are told, also those without a type: their record tells enough.
        """
        self.connect()
        self.receive(b'{"event":"trade:event","type":1,"data":{"order":5}}')
        self.receive(b'{"data":{"order":6},"type":"1","event":"trade:event"}')
        self.receive(b'{"event":"trade:event","data":{"order":7}}')
        self.assertEqual(
            self.observer.heard[1:],
            [(1, {"order": 5}), (0, {"order": 6}), (0, {"order": 7})],
        )

    def test_noConnection(self) -> None:
        """
        Why there is no connection is said in a sentence.
        """
        for error, why in (
            (ConnectionRefusedError(), "it refuses the connection: is that its port?"),
            (DNSLookupError("no such host"), "its name is not known"),
            (TimeoutError(), "it does not take the connection in time"),
            (OSError("the cable is cut"), "the cable is cut"),
        ):
            self.patch(Endpoint, "connect", lambda *_, error=error: fail(error))
            self.upstream.start(self.observer)
            self.assertEqual(
                self.upstream.problem, f"there is no connection to the platform: {why}"
            )
            self.successResultOf(self.upstream.stop())
        self.assertEqual(self.observer.heard, [])

    def test_tokenRefusedAndClosed(self) -> None:
        """
        If the platform refuses the token and closes the connection, the token is the
        problem.
        """
        self.upstream.start(self.observer)
        self.reply(401, error="UNAUTHORIZED")
        self.endpoint.protocols[-1].connectionLost(Failure(ConnectionLost()))
        self.assertEqual(
            self.upstream.problem,
            "the platform refuses the gateway's token: because",
        )

    def test_strangeValues(self) -> None:
        """
        A number that is too great or a string that is no text, as JSON should not have
        them, does not cost the rest of its line. A name that comes twice does.
        """
        self.connect()
        for line in (
            b'{"event":"trade:event","type":1,"data":{"order":5,"profit":1e999}}',
            b'{"event":"trade:event","type":1,"data":{"order":5,"id":18446744073709551616}}',
            b'{"event":"trade:event","type":1,"data":{"order":5,"profit":NaN}}',
            b'{"event":"trade:event","type":1,"data":{"order":5,"comment":"\xff\\uffff"}}',
            b'{"event":"trade:event","type":1,"data":{"order":5,"order":6,"id":1e999}}',
            b'{"event":"trade:event","type":1,"data":{"order":%s}}' % (b"9" * 5000),
        ):
            self.receive(line)
        self.assertEqual(
            self.observer.heard[1:],
            [
                (1, {"order": 5, "profit": Decimal("1e999")}),
                (1, {"order": 5, "id": 18446744073709551616}),
                (1, {"order": 5, "profit": None}),
                (1, {"order": 5, "comment": "\udcff\uffff"}),
            ],
        )
        self.assertEqual(self.upstream.figures.dropped, 2)

    def test_unknownLines(self) -> None:
        """
        What is not understood is dropped, and nothing of it is logged.
        """
        self.connect()
        logged: list[Any] = []
        from twisted.logger import globalLogPublisher

        globalLogPublisher.addObserver(logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, logged.append)
        for line in (
            b'["m",7,"boss","secret-password"]',
            b"secret-password",
            b'{"extID":"nobody","status":200,"data":{"secret-password":1}}',
            b'{"extID":7,"status":200}',
            b'{"event":"user:event","type":0,"data":{"secret-password":1}}',
            b'{"event":"trade:events","type":0,"data":{}}',
            b'{"event":"trade:event","type":0,"data":[]}',
            b"\xff\xfe",
            b"[" * 10_000,
        ):
            self.receive(line)
        self.assertEqual(self.upstream.figures.dropped, 9)
        self.assertEqual(self.observer.heard, ["connected"])
        self.assertEqual(logged, [])

    def test_tokenRenewed(self) -> None:
        """
        A request whose token is refused is sent again with the one that the file has by
        then. Events may be missing from before.
        """
        self.connect()
        self.file.write_text("second")
        asked = self.upstream.request("CreditIn", {"login": 1})
        self.reply(401, error="TOKEN_EXPIRED")
        subscribe, credit = self.sent()
        self.assertEqual(
            [subscribe["__token"], credit["__token"], credit["command"]],
            ["second", "second", "CreditIn"],
        )
        self.assertFalse(self.upstream.isConnected)
        self.reply(200, {}, at=0)
        self.reply(200, {"order": 5}, at=1)
        self.assertEqual(self.successResultOf(asked).order, 5)
        self.assertEqual(self.observer.heard, ["connected", "interrupted", "connected"])

    def test_renew(self) -> None:
        """
        A connection is made anew when what is in flight is answered, with the token
        that the file has then. What waits is not sent any more.
        """
        self.connect()
        asked = self.upstream.request("CreditIn", {"login": 1})
        self.sent()
        self.file.write_text("second")
        self.upstream.renew("no events")
        waiting = self.upstream.request("CreditIn", {"login": 2})
        self.assertTrue(self.upstream.isConnected)
        self.reply(200, {"order": 5})
        self.assertEqual(self.successResultOf(asked).order, 5)
        self.assertEqual(self.successResultOf(waiting).kind, Kind.UNSENT)
        self.assertEqual(self.observer.heard, ["connected", "interrupted"])
        self.lose()
        self.clock.advance(60)
        [subscribe] = self.sent()
        self.assertEqual(subscribe["__token"], "second")
        self.reply(200, {})
        self.assertTrue(self.upstream.isConnected)
        self.upstream.request("CreditIn", {"login": 3})
        self.assertEqual([each["data"]["login"] for each in self.sent()], [3])

    def test_renewAtOnce(self) -> None:
        """
        If nothing is in flight it is made anew at once, and if there is none nothing
        needs to be done.
        """
        self.connect()
        self.upstream.renew("no events")
        self.assertEqual(self.observer.heard, ["connected", "interrupted"])
        self.upstream.renew("no events")
        self.lose()
        self.clock.advance(60)
        self.reply(200, {})
        self.assertTrue(self.upstream.isConnected)

    def test_renewAfterSilence(self) -> None:
        """
        A reply that never comes does not keep the connection for ever.
        """
        self.connect()
        asked = self.upstream.request("CreditIn", {"login": 1})
        self.upstream.renew("no events")
        self.clock.advance(9)
        self.receive(b"{}")
        self.clock.advance(1)
        self.assertEqual(self.successResultOf(asked).kind, Kind.UNKNOWN)
        self.assertFalse(self.upstream.isConnected)

    def test_tokenNotRenewed(self) -> None:
        """
        If the file has no other token, nothing was done, and the file is read again
        until the platform accepts what it has.
        """
        self.connect()
        asked = self.upstream.request("CreditIn", {"login": 1})
        self.reply(401, error="UNAUTHORIZED")
        self.assertEqual(self.successResultOf(asked).kind, Kind.TOKEN)
        self.assertFalse(self.upstream.isConnected)
        self.clock.advance(5)
        self.reply(401, error="UNAUTHORIZED")
        self.file.write_text("second")
        self.clock.advance(5)
        self.assertEqual(self.sent()[-1]["__token"], "second")
        self.reply(200, {})
        self.assertTrue(self.upstream.isConnected)

    def test_onlyOneRequestRefused(self) -> None:
        """
        If the platform refuses the token for one request only, the others don't wait:
        whether it accepts the token is found out at once.
        """
        self.connect()
        asked = self.upstream.request("CreditIn", {"login": 1})
        self.reply(401, error="UNAUTHORIZED")
        self.assertEqual(self.successResultOf(asked).kind, Kind.TOKEN)
        [subscribe] = self.sent()
        self.assertEqual(subscribe["command"], "Subscribe")
        self.reply(200, {})
        self.assertTrue(self.upstream.isConnected)
        self.assertEqual(self.observer.heard, ["connected", "interrupted", "connected"])

    def test_noToken(self) -> None:
        """
        Without a token nothing is sent until there is one.
        """
        self.file.unlink()
        self.upstream.start(self.observer)
        self.assertEqual(self.endpoint.transports[0].value(), b"")
        self.assertIn("no token", self.upstream.problem)
        self.file.write_text("second")
        self.clock.advance(5)
        self.assertEqual(self.sent()[-1]["__token"], "second")

    def test_stop(self) -> None:
        """
        What is in flight at the stop is unknown, and nothing is left to do.
        """
        self.connect()
        asked = self.upstream.request("CreditIn", {"login": 1})
        stopped = self.upstream.stop()
        self.assertEqual(self.successResultOf(asked).kind, Kind.UNKNOWN)
        self.lose()
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_connectedTooLate(self) -> None:
        """
        A connection that is there only after the stop is closed, and nothing is sent.
        """
        self.connect()
        stopped = self.upstream.stop()
        self.lose()
        self.successResultOf(stopped)
        late = self.endpoint.protocols[0].factory.buildProtocol(None)
        transport = StringTransport()
        late.makeConnection(transport)
        self.assertEqual(transport.value(), b"")
        self.assertTrue(transport.disconnecting or transport.disconnected)

    def test_manyConnections(self) -> None:
        """
        The waits between useless connections grow.
        """
        self.upstream.start(self.observer)
        for wait in (0.1, 0.2, 0.4):
            self.lose()
            made = len(self.endpoint.protocols)
            self.clock.advance(wait * 0.99)
            self.assertEqual(len(self.endpoint.protocols), made)
            self.clock.advance(wait * 0.02)
            self.assertEqual(len(self.endpoint.protocols), made + 1)
