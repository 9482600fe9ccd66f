"""
Tests for C{docs/embedding.rst}: the code on the page works.
"""

import gc
import io
import json
import math
import socket
import time
import unittest
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from docutils import nodes  # type: ignore[import-untyped]
from docutils.core import (  # type: ignore[import-untyped]
    publish_doctree,
    publish_string,
)
from prometheus_client.registry import CollectorRegistry
from twisted.application.service import IService
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from creditsync._auditfile import INTERVAL
from creditsync.errors import LedgerProblem
from creditsync.interfaces import IAccountGroups, ITradeEvents, ITradingRuntime
from creditsync.ledger.memory import MemoryLedger
from creditsync.records import Principal
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator, FakeTradingRuntime

PAGE = Path(__file__).parent.parent / "docs" / "embedding.rst"
KEY = b"0123456789abcdef0123456789abcdef"


def settings(warnings: io.StringIO) -> dict[str, object]:
    """
    Settings for docutils that collect every warning.
    """
    return {"report_level": 1, "syntax_highlight": "none", "warning_stream": warnings}


def execute() -> dict[str, Any]:
    """
    Run every piece of Python on the page, from top to bottom.

    @return: The names that it has defined.
    """
    page = publish_doctree(
        PAGE.read_text("utf-8"), settings_overrides=settings(io.StringIO())
    )
    defined: dict[str, Any] = {"__name__": "embedding"}
    for block in page.findall(nodes.literal_block):
        exec(compile(block.astext(), str(PAGE), "exec"), defined)
    return defined


def command(
    name: str, extID: object, token: str, key: str | None = None, **data: object
) -> bytes:
    """
    The line of one command.
    """
    members = {"command": name, "extID": extID, "__token": token, "data": data}
    if key is not None:
        members["idempotencyKey"] = key
    return json.dumps(members).encode() + b"\r\n"


class PageTests(SynchronousTestCase):
    """
    Tests for the page itself.
    """

    def test_renders(self) -> None:
        """
        Plain docutils renders the page without a warning.
        """
        warnings = io.StringIO()
        rendered = publish_string(
            PAGE.read_text("utf-8"),
            writer="html5",
            settings_overrides=settings(warnings),
        )
        self.assertIn(b"Embedding the server", rendered)
        self.assertEqual(warnings.getvalue(), "")

    def test_allIsPython(self) -> None:
        """
        Each code block on the page is executed by these tests.
        """
        text = PAGE.read_text("utf-8")
        self.assertEqual(text.count(".. code-block:: python\n"), 9)
        self.assertEqual(text.count("::\n"), 0)
        self.assertEqual(text.count(".. code-block::"), 9)


class GroupTests(SynchronousTestCase):
    """
    Tests for a runtime of an application that says the groups of its accounts.
    """

    def setUp(self) -> None:
        """
        Mount a server on it.
        """
        self.defined = execute()
        self.authenticator = FakeAuthenticator()
        self.groups = {1001: "shop-1", 1002: "back office"}
        self.mount("GroupedRuntime", self.groups)

    def mount(self, runtime: str, logins: object, requireGroups: bool = False) -> None:
        """
        Mount a server on a runtime of the page.
        """
        self.reactor = MemoryReactorClock()
        events = self.defined["ExampleEvents"]()
        self.runtime = self.defined[runtime](self.reactor, events, logins)
        self.server = CreditSync(
            self.reactor,
            runtime=self.runtime,
            events=events,
            authenticator=self.authenticator,
            listen=[],
            requireGroups=requireGroups,
        )
        self.server.startService()

    def call(self, login: int, groups: str | None, command: str = "CreditIn") -> Any:
        """
        Make a request of a manager with these groups.

        @return: The status.
        """
        data = {"login": login, "amount": 5, "comment": "gift", "group": "x"}
        role = 3 if command == "MngSetAccountGroup" else 1
        principal = Principal(13, role, math.inf, groups=groups)
        asked = self.server.call(command, data, principal)
        self.reactor.advance(0)
        failed: list[Any] = []
        asked.addErrback(failed.append)
        self.successResultOf(asked)
        return failed[0].value.status if failed else 200

    def test_interface(self) -> None:
        """
        It provides both interfaces.
        """
        verifyObject(ITradingRuntime, self.runtime)
        verifyObject(IAccountGroups, self.runtime)

    def test_requests(self) -> None:
        """
        A request is judged by the groups that the runtime says at the time.
        """
        self.assertEqual(self.call(1001, "shop*"), 200)
        self.assertEqual(self.call(1002, "shop*"), 403)
        self.groups[1002] = "shop-2"
        self.assertEqual(self.call(1002, "shop*"), 200)
        self.assertEqual(self.call(1002, None), 200)

    def test_required(self) -> None:
        """
        The claim can be required.
        """
        self.mount("GroupedRuntime", self.groups, requireGroups=True)
        self.assertEqual(self.call(1001, None), 403)
        self.assertEqual(self.call(1001, "*"), 200)

    def test_events(self) -> None:
        """
        A restricted session receives the records of its accounts.
        """
        principal = Principal(13, 1, math.inf, "shop", "shop*")
        self.authenticator.accept("shop", principal)
        protocol = self.server.factory.buildProtocol(None)
        assert protocol is not None
        wire = StringTransport(lenient=True)
        protocol.makeConnection(wire)
        protocol.dataReceived(command("HealthCheck", 1, "shop"))
        self.reactor.advance(0)
        wire.clear()
        for login in (1002, 1001):
            self.call(login, None)
        [event] = map(json.loads, wire.value().splitlines())
        self.assertEqual(event["data"]["login"], 1001)

    def test_moves(self) -> None:
        """
        Who may move accounts is the runtime's decision; one without groups knows no
        such command.
        """
        self.assertEqual(self.call(1001, None, "MngSetAccountGroup"), 403)
        self.mount("ExampleRuntime", {1001})
        self.assertEqual(self.call(1001, None, "MngSetAccountGroup"), 404)

    def test_withoutGroups(self) -> None:
        """
        Where the runtime says no groups, accounts have none.
        """
        self.mount("ExampleRuntime", {1001})
        self.assertEqual(self.call(1001, "*"), 200)
        self.assertEqual(self.call(1001, "shop*"), 403)


class ExampleTests(SynchronousTestCase):
    """
    Tests for a runtime and an event stream of an application, with the server
    mounted in it.
    """

    def setUp(self) -> None:
        """
        Mount the server as the page says.
        """
        self.defined = execute()
        self.reactor = MemoryReactorClock()
        application = self.defined["makeApplication"](self.reactor, KEY)
        self.application = application
        application.privilegedStartService()
        application.startService()
        self.server: CreditSync = application.getServiceNamed("creditsync")
        self.token = self.defined["managerToken"](KEY)
        self.wire = StringTransport(lenient=True)
        protocol = self.server.factory.buildProtocol(None)
        assert protocol is not None
        self.protocol = protocol
        self.protocol.makeConnection(self.wire)

    def heard(self) -> list[Any]:
        """
        The lines received since the last call.
        """
        lines = [json.loads(line) for line in self.wire.value().splitlines()]
        self.wire.clear()
        return lines

    def ask(
        self, name: str, extID: object, key: str | None = None, **data: object
    ) -> list[Any]:
        """
        Send one command with a valid token.

        @return: What the client receives, after the runtime has booked.
        """
        self.wire.clear()
        self.protocol.dataReceived(command(name, extID, self.token, key, **data))
        self.reactor.advance(0)
        return self.heard()

    def test_interfaces(self) -> None:
        """
        The page's runtime and events provide their interfaces.
        """
        events = self.defined["ExampleEvents"]()
        verifyObject(ITradeEvents, events)
        verifyObject(
            ITradingRuntime, self.defined["ExampleRuntime"](self.reactor, events, set())
        )

    def test_listens(self) -> None:
        """
        The server listens on the given endpoint.
        """
        [(port, factory, _, interface)] = self.reactor.tcpServers
        self.assertEqual((port, interface), (8080, "127.0.0.1"))
        self.assertIs(factory, self.server.factory)

    def test_credit(self) -> None:
        """
        The reply has all data of the runtime's own event.
        """
        data = {
            "order": 1242281,
            "login": 1001,
            "cmd": 7,
            "state": 3,
            "profit": 300.0,
            "comment": "Promotion credit",
            "desk": "example",
        }
        self.assertEqual(
            self.ask(
                "CreditInSync",
                "credit-req-1001",
                login=1001,
                amount=300.0,
                comment="Promotion credit",
            ),
            [
                {"event": "trade:event", "type": 0, "data": data},
                {"extID": "credit-req-1001", "status": 200, "data": data},
            ],
        )

    def test_exactAmount(self) -> None:
        """
        An amount that a double can't represent is written exactly.
        """
        self.protocol.dataReceived(
            b'{"command":"CreditInSync","extID":1,"__token":"%b","data":'
            b'{"login":1001,"amount":9999999999.99999999,"comment":"x"}}\n'
            % self.token.encode()
        )
        self.reactor.advance(0)
        self.assertIn(b'"profit":9999999999.99999999,', self.wire.value())

    def test_update(self) -> None:
        """
        The named order is updated, and another login's order is not.
        """
        self.ask("CreditInSync", 1, login=1001, amount=1, comment="x")
        event, reply = self.ask(
            "CreditInSync", 2, login=1001, amount=2, comment="y", order=1242281
        )
        self.assertEqual((event["type"], reply["data"]["profit"]), (1, 2.0))
        [reply] = self.ask(
            "CreditInSync", 3, login=1002, amount=2, comment="y", order=1242281
        )
        self.assertEqual((reply["status"], reply["error"]), (409, "INCORRECT_ORDER"))

    def test_accepted(self) -> None:
        """
        C{CreditIn} is answered after the runtime has booked.
        """
        _, reply = self.ask("CreditIn", 1, login=1001, amount=5, comment="x")
        self.assertEqual((reply["status"], reply["data"]["accepted"]), (200, True))

    def test_replayed(self) -> None:
        """
        A repetition under the same key books nothing.
        """
        credit = {"login": 1001, "amount": 5, "comment": "x"}
        self.ask("CreditInSync", 1, key="k", **credit)
        [reply] = self.ask("CreditInSync", 2, key="k", **credit)
        self.assertEqual(
            (reply["extID"], reply["data"]["order"], reply["data"]["profit"]),
            (2, 1242281, 5.0),
        )
        self.assertIs(reply["replayed"], True)
        [reply] = self.ask("CreditInSync", 3, key="k", **{**credit, "amount": 6})
        self.assertEqual((reply["status"], reply["data"]), (422, {"order": 1242281}))

    def test_attached(self) -> None:
        """
        A repetition while the first request is pending gets the same outcome.
        """
        credit = {"login": 1001, "amount": 5, "comment": "x"}
        for name in ("CreditInSync", "CreditIn"):
            lines = [command(name, n, self.token, name, **credit) for n in (1, 2)]
            self.wire.clear()
            self.protocol.dataReceived(b"".join(lines))
            self.reactor.advance(0)
            event, one, two = self.heard()
            self.assertEqual(event["event"], "trade:event")
            self.assertEqual((one["extID"], two["extID"]), (1, 2))
            self.assertEqual(one["data"], two["data"])

    def test_deleted(self) -> None:
        """
        An order can be deleted once, and only by the deletion for its kind.
        """
        self.ask("CreditInSync", 1, login=1001, amount=5, comment="x")
        [reply] = self.ask("DeleteBalanceSync", 2, order=1242281)
        self.assertEqual(reply["error"], "INCORRECT_ORDER")
        event, reply = self.ask("DeleteCreditSync", 3, order=1242281)
        self.assertEqual((event["type"], reply["data"]["state"]), (2, 6))
        [reply] = self.ask("DeleteCreditSync", 4, order=1242281)
        self.assertEqual(reply["error"], "INCORRECT_ORDER")
        [reply] = self.ask("DeleteCreditSync", 5, order=5)
        self.assertEqual(reply["error"], "NOT_FOUND")

    def test_getOperation(self) -> None:
        """
        C{GetOperation} finds the runtime's own record by its order or its key, first
        as a request and then as it was booked.
        """
        credit = {"login": 1001, "amount": 5, "comment": "x"}
        self.protocol.dataReceived(
            command("CreditInSync", 1, self.token, "k", **credit)
            + command("GetOperation", 2, self.token, order=1242281)
        )
        self.reactor.advance(0)
        found, _, _ = self.heard()
        self.assertEqual((found["extID"], found["data"]["state"]), (2, 10))
        [reply] = self.ask("GetOperation", 3, idempotencyKey="k")
        self.assertEqual(
            (reply["data"]["order"], reply["data"]["state"], reply["data"]["desk"]),
            (1242281, 3, "example"),
        )
        for data in ({"order": 5}, {"idempotencyKey": "l"}):
            [reply] = self.ask("GetOperation", 4, **data)
            self.assertEqual(reply["error"], "NOT_FOUND")

    def test_call(self) -> None:
        """
        The application makes a request itself. Its clients receive the event.
        """

        def bonus(login: int) -> "Deferred[str]":
            give = self.defined["giveBonus"](self.server, login, 4711)
            return Deferred.fromCoroutine(give)

        self.ask("HealthCheck", 1)
        result = bonus(1001)
        self.assertNoResult(result)
        self.reactor.advance(0)
        self.assertEqual(self.successResultOf(result), "order 1242281 is booked")
        self.reactor.advance(0)
        [event] = self.heard()
        self.assertEqual(
            (event["event"], event["data"]["profit"]), ("trade:event", 20.5)
        )
        self.assertEqual(
            self.successResultOf(bonus(1002)),
            "IDEMPOTENCY_KEY_REUSED: data.login differs from the first request with"
            " this idempotencyKey, which has order 1242281",
        )

    def test_callOfUnknownOutcome(self) -> None:
        """
        The application learns of an order that may be booked after the timeout.
        """
        self.patch(self.server.runtime, "_book", lambda reservation: None)
        give = self.defined["giveBonus"](self.server, 1001, 4711)
        result = Deferred.fromCoroutine(give)
        self.reactor.advance(5)
        self.assertEqual(
            self.successResultOf(result), "order 1242281 may be booked: ask again"
        )

    def test_refused(self) -> None:
        """
        The client gets the refusal that the runtime raises.
        """
        [reply] = self.ask("CreditInSync", 1, login=5, amount=5, comment="x")
        self.assertEqual(
            reply,
            {
                "extID": 1,
                "status": 404,
                "error": "USER_NOT_FOUND",
                "message": "there is no account 5",
            },
        )

    def test_stop(self) -> None:
        """
        The server stops with the application, and leaves nothing behind.
        """
        stopped = self.application.stopService()
        self.reactor.advance(0.2)
        self.protocol.connectionLost()
        self.successResultOf(stopped)
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class EndTests(SynchronousTestCase):
    """
    Tests for a runtime that can't book any more.
    """

    def test_endWith(self) -> None:
        """
        If the runtime fails the application logs the cause and stops its
        reactor.
        """
        defined = execute()
        clock = MemoryReactorClock()
        stopped: list[str] = []
        self.patch(clock, "stop", lambda: stopped.append("stopped"))
        events = defined["TradeEvents"]()
        runtime = FakeTradingRuntime(events)
        server = CreditSync(
            clock,
            runtime=runtime,
            events=events,
            authenticator=FakeAuthenticator(),
            listen=[],
        )
        server.startService()
        defined["endWith"](server, clock)
        runtime.fail(LedgerProblem("disk"))
        self.assertEqual(stopped, ["stopped"])


class ObservedTests(SynchronousTestCase):
    """
    Tests for a server with metrics, web pages and an audit trail.
    """

    def test_observed(self) -> None:
        """
        A credit is counted in the registry and appears in the audit trail.
        """
        defined = execute()
        clock = MemoryReactorClock()
        clock.getThreadPool = lambda: None  # type: ignore[attr-defined]
        written: SimpleQueue[object] = SimpleQueue()
        clock.callFromThread = lambda *call: written.put(call)  # type: ignore[method-assign]
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        trail = Path(folder.name, "audit.log")
        registry = CollectorRegistry()
        server, root = defined["makeObserved"](
            clock, MemoryLedger(), FakeAuthenticator(), trail, registry
        )
        self.assertIn(b"metrics", root.children)
        server.startService()
        connection = server.factory.buildProtocol(None)
        connection.makeConnection(StringTransport())
        connection.dataReceived(
            command("CreditInSync", 1, "manager", login=1, amount=5, comment="gift")
        )
        clock.advance(0)
        clock.advance(0)
        labels = {"command": "CreditInSync", "status": "200", "error": ""}
        self.assertEqual(
            registry.get_sample_value("creditsync_requests_total", labels), 1
        )
        clock.advance(INTERVAL)
        written.get(timeout=20)
        [line] = trail.read_text("utf-8").splitlines()
        self.assertEqual(json.loads(line)["outcome"], "booked")


class FakesTests(SynchronousTestCase):
    """
    Tests for the test case on the page.
    """

    def test_passes(self) -> None:
        """
        The test case on the page passes.
        """
        case = execute()["CashierTests"]("test_credit")
        result = unittest.TestResult()
        case.run(result)
        self.assertEqual((result.testsRun, result.errors, result.failures), (1, [], []))


# The tests below use real sockets and threads, and so a real reactor.


async def credit(ledger: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """
    Book a credit on the embedded runtime and one of the page's ledgers.

    @return: The reply.
    """
    defined = execute()
    server = defined["makeServer"](
        reactor,
        ledger(defined),
        defined["TokenAuthenticator"](KEY),
        ["tcp:0:interface=127.0.0.1"],
    )
    verifyObject(IService, server)
    server.startService()
    port = server.ports[0].getHost().port
    line = command(
        "CreditInSync",
        1,
        defined["managerToken"](KEY),
        login=1001,
        amount=300.0,
        comment="Promotion credit",
    )

    def client() -> bytes:
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            connection.sendall(line)
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as lines:
                return lines.read()

    with capturedLogs() as logs:
        _, reply = (await deferToThread(client)).splitlines()
        await server.stopService()
        gc.collect()
    assert [log for log in logs if "log_failure" in log] == []
    assert reactor.getDelayedCalls() == []
    answer: dict[str, Any] = json.loads(reply)
    return answer


@pytest.mark.timeout(20)
@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_inMemory() -> None:
    """
    A new ledger in memory assigns its first order.
    """
    reply = await credit(lambda defined: defined["inMemory"](reactor))
    assert reply["status"] == 200
    assert (reply["data"]["order"], reply["data"]["profit"]) == (1, 300.0)


@pytest.mark.timeout(20)
@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_onDisk(tmp_path: Path) -> None:
    """
    A trade in a ledger on disk is there at the next start.
    """
    path = str(tmp_path / "creditsync.db")
    started = int(time.time())
    reply = await credit(lambda defined: defined["onDisk"](reactor, path))
    assert reply["status"] == 200
    ledger = execute()["onDisk"](reactor, path)
    await maybeDeferred(ledger.open)
    trade = ledger.trade(reply["data"]["order"])
    ledger.close()
    assert (trade.login, trade.profit) == (1001, 30000000000)
    assert trade.openTime >= started
