"""
Tests for C{docs/embedding.rst}: what it tells people to write works.
"""

import io
import json
import socket
import tempfile
import time
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docutils import nodes  # type: ignore[import-untyped]
from docutils.core import (  # type: ignore[import-untyped]
    publish_doctree,
    publish_string,
)
from twisted.application.service import IService
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from creditsync.errors import LedgerProblem
from creditsync.interfaces import ITradeEvents, ITradingRuntime
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator, FakeTradingRuntime

PAGE = Path(__file__).parent.parent / "docs" / "embedding.rst"
KEY = b"0123456789abcdef0123456789abcdef"


def settings(warnings: io.StringIO) -> dict[str, object]:
    """
    How the page is read: every complaint is kept.
    """
    return {"report_level": 1, "syntax_highlight": "none", "warning_stream": warnings}


def execute() -> dict[str, Any]:
    """
    Run every piece of Python on the page, from top to bottom.

    @return: What it has defined.
    """
    page = publish_doctree(
        PAGE.read_text("utf-8"), settings_overrides=settings(io.StringIO())
    )
    defined: dict[str, Any] = {"__name__": "embedding"}
    for block in page.findall(nodes.literal_block):
        exec(compile(block.astext(), str(PAGE), "exec"), defined)
    return defined


def command(name: str, extID: object, token: str, **data: object) -> bytes:
    """
    The line of one command.
    """
    members = {"command": name, "extID": extID, "__token": token, "data": data}
    return json.dumps(members).encode() + b"\r\n"


class PageTests(SynchronousTestCase):
    """
    The page itself.
    """

    def test_renders(self) -> None:
        """
        Plain docutils renders it and has nothing to complain of.
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
        Each code block is one that these tests execute.
        """
        text = PAGE.read_text("utf-8")
        self.assertEqual(text.count(".. code-block:: python\n"), 6)
        self.assertEqual(text.count("::\n"), 0)
        self.assertEqual(text.count(".. code-block::"), 6)


class HouseTests(SynchronousTestCase):
    """
    Somebody's own runtime and event stream, mounted in their application.
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

    def ask(self, name: str, extID: object, **data: object) -> list[Any]:
        """
        Send one command with a good token.

        @return: What is heard, once the house has booked.
        """
        self.wire.clear()
        self.protocol.dataReceived(command(name, extID, self.token, **data))
        self.reactor.advance(0)
        return [json.loads(line) for line in self.wire.value().splitlines()]

    def test_interfaces(self) -> None:
        """
        Both provide what they say they do.
        """
        events = self.defined["HouseEvents"]()
        verifyObject(ITradeEvents, events)
        verifyObject(
            ITradingRuntime, self.defined["HouseRuntime"](self.reactor, events, set())
        )

    def test_listens(self) -> None:
        """
        The server listens where it was told to.
        """
        [(port, factory, _, interface)] = self.reactor.tcpServers
        self.assertEqual((port, interface), (8080, "127.0.0.1"))
        self.assertIs(factory, self.server.factory)

    def test_credit(self) -> None:
        """
        The data of the house's event is the reply's, all of it.
        """
        data = {
            "order": 1242281,
            "login": 1001,
            "cmd": 7,
            "state": 3,
            "profit": 300.0,
            "comment": "Promotion credit",
            "desk": "house",
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
        An amount that no double holds is written exactly.
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
        The order that is named is updated; another login's is not.
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
        C{CreditIn} is answered once the house has booked.
        """
        _, reply = self.ask("CreditIn", 1, login=1001, amount=5, comment="x")
        self.assertEqual((reply["status"], reply["data"]["accepted"]), (200, True))

    def test_refused(self) -> None:
        """
        What the house refuses with is what its client is told.
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
        The server stops with the application, and leaves nothing.
        """
        stopped = self.application.stopService()
        self.reactor.advance(0)
        self.protocol.connectionLost()
        self.successResultOf(stopped)
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class EndTests(SynchronousTestCase):
    """
    When the runtime can't book any more.
    """

    def test_endWith(self) -> None:
        """
        The application logs the cause and stops its reactor.
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


class FakesTests(SynchronousTestCase):
    """
    The test case that the page shows.
    """

    def test_passes(self) -> None:
        """
        It passes.
        """
        case = execute()["CashierTests"]("test_credit")
        result = unittest.TestResult()
        case.run(result)
        self.assertEqual((result.testsRun, result.errors, result.failures), (1, [], []))


class LedgerTests(TestCase):
    """
    The embedded runtime on the ledgers that the page names, and on real
    sockets.
    """

    timeout = 20

    async def credit(self, ledger: Callable[[Any], Any]) -> dict[str, Any]:
        """
        Book a credit on such a ledger.

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

        asked: Deferred[bytes] = deferToThread(client)
        _, reply = (await asked).splitlines()
        await server.stopService()
        answer: dict[str, Any] = json.loads(reply)
        return answer

    async def test_inMemory(self) -> None:
        """
        In memory a new ledger gives out its first order.
        """
        reply = await self.credit(lambda defined: defined["inMemory"](reactor))
        self.assertEqual(
            (reply["status"], reply["data"]["order"], reply["data"]["profit"]),
            (200, 1, 300.0),
        )

    async def test_onDisk(self) -> None:
        """
        On disk what was booked is there at the next start.
        """
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = str(Path(folder.name, "creditsync.db"))
        started = int(time.time())
        reply = await self.credit(lambda defined: defined["onDisk"](reactor, path))
        self.assertEqual(reply["status"], 200)
        ledger = execute()["onDisk"](reactor, path)
        ledger.open()
        self.addCleanup(ledger.close)
        trade = ledger.trade(reply["data"]["order"])
        self.assertEqual((trade.login, trade.profit), (1001, 30000000000))
        self.assertGreaterEqual(trade.openTime, started)
