"""
Tests for L{creditsync.service}.
"""

import gc
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from attrs import Factory, define
from twisted.application.service import IService, MultiService, Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError, ConnectionDone
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

import creditsync
from creditsync.errors import LedgerProblem
from creditsync.events import TradeEvents
from creditsync.interfaces import ITradeEvents, ITradingRuntime, TradeObserver
from creditsync.records import (
    Deletion,
    Limits,
    Operation,
    Reservation,
    Trade,
    TradeEvent,
)
from creditsync.runtime import TradingRuntime
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator, FakeTradingRuntime, HeldLedger

DATA = {"login": 1001, "amount": 300.0, "comment": "Promotion credit"}


class RunningRuntime(FakeTradingRuntime, Service):
    """
    A runtime that is a service too.

    @ivar happened: The list in which it records its start and stop.
    @ivar stopped: The result of its C{stopService}.
    """

    happened: list[str]
    stopped: "Deferred[None]"

    def startService(self) -> None:
        """
        See L{IService.startService}.
        """
        self.happened.append("runtime started")
        super().startService()  # type: ignore[no-untyped-call]

    def stopService(self) -> "Deferred[None]":
        """
        See L{IService.stopService}.
        """
        self.happened.append("runtime stopped")
        super().stopService()  # type: ignore[no-untyped-call]
        return self.stopped


@define(eq=False, slots=False)
class Port:
    """
    A listening port that closes when the test says so.
    """

    happened: list[str]
    stopped: "Deferred[None]" = Factory(lambda: succeed(None))

    def stopListening(self) -> "Deferred[None]":
        """
        See L{IListeningPort.stopListening}.
        """
        self.happened.append("port closed")
        return self.stopped


class Reactor(MemoryReactorClock):
    """
    A reactor in memory that uses the test's ports.
    """

    def __init__(self) -> None:
        super().__init__()
        self.happened: list[str] = []
        self.ports: list[Port] = []
        self.taken: set[int] = set()

    def listenTCP(
        self, port: int, factory: Any, backlog: int = 50, interface: str = ""
    ) -> Any:
        """
        See L{IReactorTCP.listenTCP}.
        """
        if port in self.taken:
            raise CannotListenError(interface, port, OSError("in use"))
        self.happened.append(f"listening on {port}")
        self.ports.append(Port(self.happened))
        return self.ports[-1]


@define(eq=False)
class Client:
    """
    One client of a server in memory.
    """

    server: CreditSync
    wire: Any = Factory(lambda: StringTransport(lenient=True))
    protocol: Any = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.protocol = self.server.factory.buildProtocol(None)
        self.protocol.makeConnection(self.wire)

    def asks(
        self, command: str = "CreditInSync", extID: object = "a", data: object = DATA
    ) -> None:
        """
        Send one command.
        """
        members = {
            "command": command,
            "extID": extID,
            "__token": "manager",
            "data": data,
        }
        self.protocol.dataReceived(json.dumps(members).encode() + b"\r\n")

    def replies(self) -> list[Any]:
        """
        Return the replies received since the last call.
        """
        lines = [json.loads(line) for line in self.wire.value().splitlines()]
        self.wire.clear()
        return [line for line in lines if "event" not in line]

    def outcomes(self) -> list[tuple[Any, int, str | None]]:
        """
        Return the replies, each as its extID, status and error.
        """
        return [
            (reply.get("extID"), reply["status"], reply.get("error"))
            for reply in self.replies()
        ]

    def goes(self) -> None:
        """
        Close the connection.
        """
        self.protocol.connectionLost(Failure(ConnectionDone()))


@implementer(ITradingRuntime)
@define(eq=False)
class MuteRuntime:
    """
    A runtime that never reserves anything, and finds nothing.
    """

    failed: "Deferred[None]" = Factory(Deferred)

    def submit(self, operation: Operation | Deletion) -> "Deferred[Reservation]":
        """
        See L{ITradingRuntime.submit}.
        """
        return Deferred()

    def trade(self, order: int) -> "Deferred[Trade | Mapping[str, Any] | None]":
        """
        See L{ITradingRuntime.trade}.
        """
        return Deferred()

    def orderOf(self, principal: int, key: str) -> "Deferred[int | None]":
        """
        See L{ITradingRuntime.orderOf}.
        """
        return Deferred()

    def whenFailed(self) -> "Deferred[None]":
        """
        See L{ITradingRuntime.whenFailed}.
        """
        return self.failed


class ServiceTestCase(SynchronousTestCase):
    """
    A server in memory.
    """

    def setUp(self) -> None:
        """
        Make the parts of a server.
        """
        self.reactor = Reactor()
        self.happened = self.reactor.happened
        self.events: ITradeEvents = TradeEvents()
        self.runtime = RunningRuntime(self.events)
        self.runtime.happened = self.happened
        self.runtime.stopped = succeed(None)

    def make(
        self,
        runtime: ITradingRuntime | None = None,
        listen: Sequence[str] = ("tcp:8080", "tcp:8081:interface=127.0.0.1"),
        limits: Limits | None = None,
        timeout: float = 5.0,
    ) -> CreditSync:
        """
        Make a server.
        """
        return CreditSync(
            self.reactor,
            runtime=runtime or self.runtime,
            events=self.events,
            authenticator=FakeAuthenticator(),
            listen=listen,
            limits=limits,
            timeout=timeout,
        )

    def start(self, *args: Any, **kwargs: Any) -> CreditSync:
        """
        Make a server and start it.
        """
        server = self.make(*args, **kwargs)
        server.startService()
        return server

    def lastCall(self) -> None:
        """
        Let the time pass for which a stopping server still reads.
        """
        self.reactor.advance(0.2)

    def assertStops(self, server: CreditSync) -> None:
        """
        Assert that a server without connections and pending requests stops.
        """
        stopped = server.stopService()
        self.lastCall()
        self.successResultOf(stopped)

    def assertTimesOut(self, server: CreditSync, seconds: float) -> None:
        """
        Assert that a request that is pending at a stop gets a 504 after this
        time, and that the stop ends then.
        """
        client = Client(server)
        client.asks()
        stopped = server.stopService()
        self.reactor.advance(seconds)
        self.reactor.advance(0)
        self.assertEqual(client.outcomes(), [("a", 504, "SYNC_TIMEOUT")])
        self.lastCall()
        client.goes()
        self.successResultOf(stopped)
        self.assertAtRest()

    def assertAtRest(self) -> None:
        """
        Assert that nothing is scheduled.
        """
        self.reactor.advance(0)
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class StartTests(ServiceTestCase):
    """
    Tests for the start of a server.
    """

    def test_interface(self) -> None:
        """
        The server is a service.
        """
        server = self.make()
        verifyObject(IService, server)
        self.assertEqual(server.name, "creditsync")

    def test_nothingBeforeTheStart(self) -> None:
        """
        Making a server starts nothing.
        """
        self.make()
        self.assertEqual(self.happened, [])
        self.assertAtRest()

    def test_order(self) -> None:
        """
        The ports are open before the runtime is started, which may take long.
        """
        self.start()
        self.assertEqual(
            self.happened, ["listening on 8080", "listening on 8081", "runtime started"]
        )

    def test_privileged(self) -> None:
        """
        Ports that require privileges are opened first, and once.
        """
        server = self.make()
        server.privilegedStartService()
        self.assertEqual(self.happened, ["listening on 8080", "listening on 8081"])
        server.startService()
        self.assertEqual(self.happened[2:], ["runtime started"])

    def test_takenPort(self) -> None:
        """
        A port that is taken makes the start fail.
        """
        self.reactor.taken.add(8080)
        with self.assertRaises(CannotListenError):
            self.make().startService()

    def test_takenPortPrivileged(self) -> None:
        """
        A port that is taken makes the privileged start fail too, before the
        runtime is started, and the other ports are closed again.
        """
        self.reactor.taken.add(8081)
        server = self.make()
        self.assertRaises(CannotListenError, server.privilegedStartService)
        self.assertEqual(self.happened, ["listening on 8080", "port closed"])
        self.assertEqual(server.ports, [])

    def test_ports(self) -> None:
        """
        The server lists its ports, in the order of the endpoints, as long as
        they are open.
        """
        server = self.make()
        self.assertEqual(server.ports, [])
        server.startService()
        self.assertEqual(server.ports, self.reactor.ports)
        self.assertStops(server)
        self.assertEqual(server.ports, [])

    def test_stopAfterATakenPort(self) -> None:
        """
        A server whose first port was taken releases everything when it is
        stopped.
        """
        self.reactor.taken.add(8080)
        server = self.make()
        self.assertRaises(CannotListenError, server.startService)
        self.assertStops(server)
        self.assertEqual(self.happened, ["runtime stopped"])
        self.assertAtRest()

    def test_stopAfterALaterTakenPort(self) -> None:
        """
        A server whose last port was taken releases everything when it is
        stopped.
        """
        self.reactor.taken.add(8081)
        server = self.make()
        self.assertRaises(CannotListenError, server.startService)
        self.assertStops(server)
        self.assertEqual(
            self.happened,
            ["listening on 8080", "port closed", "runtime stopped"],
        )

    def test_ledgerProblem(self) -> None:
        """
        A ledger that can't be used makes the start fail, and no client can
        connect any more.
        """

        class Damaged(HeldLedger):
            def open(self) -> None:
                raise LedgerProblem("no ledger of ours")

        runtime = TradingRuntime(
            self.reactor, Damaged(), self.events, now=lambda: 0, maxQueued=1
        )
        server = self.make(runtime, listen=["tcp:8080"])
        self.assertRaises(LedgerProblem, server.startService)
        self.assertEqual(self.happened, ["listening on 8080", "port closed"])

    def test_stopAfterALedgerProblem(self) -> None:
        """
        A server whose ledger can't be used closes the ports that it opened
        before.
        """

        class Damaged(HeldLedger):
            def open(self) -> None:
                raise LedgerProblem("no ledger of ours")

        runtime = TradingRuntime(
            self.reactor, Damaged(), self.events, now=lambda: 0, maxQueued=1
        )
        server = self.make(runtime, listen=["tcp:8080"])
        server.privilegedStartService()
        self.assertRaises(LedgerProblem, server.startService)
        self.assertStops(server)
        self.assertEqual(self.happened, ["listening on 8080", "port closed"])

    def test_startAfterALedgerProblem(self) -> None:
        """
        A failed start leaves nothing behind: the next one publishes each event
        once.
        """
        problems = [LedgerProblem("in use")]

        class Once(HeldLedger):
            def open(self) -> None:
                if problems:
                    raise problems.pop()

        ledger = Once()
        runtime = TradingRuntime(
            self.reactor, ledger, self.events, now=lambda: 1767225600, maxQueued=1
        )
        server = self.make(runtime, listen=["tcp:8080"])
        self.assertRaises(LedgerProblem, server.startService)
        self.assertFalse(server.running)
        server.startService()
        client = Client(server)
        client.asks()
        self.reactor.advance(0)
        ledger.release()
        self.reactor.advance(0)
        events, replies = client.wire.value().count(b"event"), client.replies()
        self.assertEqual((events, len(replies)), (2, 1))
        client.goes()
        self.assertStops(server)

    def test_timeout(self) -> None:
        """
        The timeout is configurable.
        """
        client = Client(self.start(timeout=0.25))
        client.asks()
        self.reactor.advance(0.249)
        self.assertEqual(client.outcomes(), [])
        self.reactor.advance(0.001)
        self.reactor.advance(0)
        [reply] = client.replies()
        self.assertEqual(reply["status"], 504)
        self.assertTrue(reply["message"].startswith("no answer within 250 ms: "))


class SlowRuntime(RunningRuntime):
    """
    A runtime that is ready when the test says so.

    @ivar ready: What its C{startService} returns.
    """

    ready: "Deferred[None]"

    def startService(self) -> "Deferred[None]":  # type: ignore[override]
        """
        See L{ITradingRuntime}.
        """
        super().startService()
        return self.ready


class SlowStartTests(ServiceTestCase):
    """
    Tests for a server that listens before its runtime is ready.
    """

    def setUp(self) -> None:
        super().setUp()
        self.runtime = SlowRuntime(self.events)
        self.runtime.happened = self.happened
        self.runtime.stopped = succeed(None)
        self.runtime.ready = self.ready = Deferred()
        self.server = self.start()
        self.client = Client(self.server)

    def asks(self, *extIDs: str) -> None:
        """
        Ask for the server's health, in one read of the socket.
        """
        request = '{"command": "HealthCheck", "extID": "%s", "__token": "manager"}\r\n'
        lines = "".join(request % extID for extID in extIDs)
        self.client.protocol.dataReceived(lines.encode())

    def test_waits(self) -> None:
        """
        What comes before it is ready is answered then, in its order.
        """
        self.asks("a", "b")
        self.asks("c")
        self.reactor.advance(60)
        self.assertEqual(self.client.wire.value(), b"")
        self.ready.callback(None)
        self.reactor.advance(0)
        self.assertEqual(
            self.client.outcomes(),
            [("a", 200, None), ("b", 200, None), ("c", 200, None)],
        )
        self.asks("d")
        self.reactor.advance(0)
        self.assertEqual(self.client.outcomes(), [("d", 200, None)])

    def test_credit(self) -> None:
        """
        A credit that comes too early reaches the runtime once it is ready, and
        its timeout begins then.
        """
        self.client.asks()
        self.reactor.advance(60)
        self.assertEqual(self.runtime.reserved, [])
        self.ready.callback(None)
        self.assertEqual(len(self.runtime.reserved), 1)
        self.reactor.advance(4.9)
        self.assertEqual(self.client.outcomes(), [])

    def test_connections(self) -> None:
        """
        All connections that wait are answered, and one that is gone is not.
        """
        others = [Client(self.server) for _ in range(3)]
        for each in others:
            each.asks("HealthCheck", data={})
        others.pop().goes()
        self.ready.callback(None)
        self.reactor.advance(0)
        for each in others:
            self.assertEqual(each.outcomes(), [("a", 200, None)])

    def test_bounded(self) -> None:
        """
        A client that has lines waiting and sends more is not read on until it
        has its answers.
        """
        self.asks("a")
        self.assertEqual(self.client.wire.producerState, "producing")
        self.asks("b")
        self.assertEqual(self.client.wire.producerState, "paused")
        self.ready.callback(None)
        self.assertEqual(self.client.wire.producerState, "producing")

    def test_unfinishedLine(self) -> None:
        """
        The timeout of a line does not count while the server does not read.
        """
        self.asks("a")
        self.client.protocol.dataReceived(b'{"command"')
        self.assertEqual(self.client.wire.producerState, "paused")
        self.reactor.pump([10] * 20)
        self.assertTrue(self.client.wire.connected)
        self.ready.callback(None)
        self.reactor.advance(0)
        self.assertEqual(self.client.outcomes(), [("a", 200, None)])

    def test_halfClosed(self) -> None:
        """
        A client that has closed its side is answered too, however long that
        takes.
        """
        self.asks("a")
        self.client.protocol.readConnectionLost()
        self.reactor.pump([5] * 10)
        self.assertFalse(self.client.wire.disconnected)
        self.ready.callback(None)
        self.reactor.advance(0)
        self.assertEqual(self.client.outcomes(), [("a", 200, None)])
        self.client.goes()

    def test_stop(self) -> None:
        """
        A stop refuses what waits, in its order, and stops the runtime. That this
        ends the runtime's start is no failure.
        """
        self.runtime.stopped = Deferred()
        failed = self.server.whenFailed()
        self.asks("a", "b")
        stopped = self.server.stopService()
        self.reactor.advance(0)
        self.assertEqual(
            self.client.outcomes(), [("a", 503, "SHUTDOWN"), ("b", 503, "SHUTDOWN")]
        )
        self.lastCall()
        self.client.goes()
        self.ready.errback(LedgerProblem("interrupted"))
        self.runtime.stopped.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(self.happened[-1], "runtime stopped")
        self.assertNoResult(failed)
        self.assertAtRest()

    def test_fails(self) -> None:
        """
        If the runtime can't be started the server fails with its reason. What
        waits is refused: nothing has happened.
        """
        failed, ready = self.server.whenFailed(), self.server.whenReady()
        self.client.asks()
        self.ready.errback(LedgerProblem("account 1001 is wrong"))
        why = self.failureResultOf(failed, LedgerProblem)
        self.assertEqual(str(why.value), "account 1001 is wrong")
        self.reactor.advance(0)
        self.assertEqual(self.client.outcomes(), [("a", 503, "SHUTDOWN")])
        self.assertEqual(self.runtime.reserved, [])
        self.assertNoResult(ready)
        self.client.goes()
        self.assertStops(self.server)

    def test_problem(self) -> None:
        """
        That it is starting is a problem until it is ready.
        """
        self.assertEqual(
            self.server.problem,
            "the server is starting: the trading runtime is not ready yet",
        )
        self.ready.callback(None)
        self.assertIsNone(self.server.problem)

    def test_whenReady(self) -> None:
        """
        C{whenReady} fires when it is ready, and at once from then on.
        """
        before = self.server.whenReady()
        self.assertNoResult(before)
        self.ready.callback(None)
        self.successResultOf(before)
        self.successResultOf(self.server.whenReady())

    def test_notBeforeTheStart(self) -> None:
        """
        A server whose ports are open and that was not started answers nothing,
        and is not ready.
        """
        server = self.make()
        server.privilegedStartService()
        client = Client(server)
        client.asks("HealthCheck", data={})
        self.reactor.advance(0)
        self.assertEqual(client.wire.value(), b"")
        self.assertNoResult(server.whenReady())


class StopTests(ServiceTestCase):
    """
    Tests that a stop is ordered and bounded.
    """

    def test_idle(self) -> None:
        """
        An idle server stops after its last call: ports first, runtime last.
        """
        server = self.start()
        stopped = server.stopService()
        self.assertEqual(self.happened[3:], ["port closed", "port closed"])
        self.reactor.advance(0.1)
        self.assertNoResult(stopped)
        self.reactor.advance(0.1)
        self.successResultOf(stopped)
        self.assertEqual(
            self.happened[3:], ["port closed", "port closed", "runtime stopped"]
        )
        self.assertFalse(server.running)
        self.assertAtRest()

    def test_pendingFinish(self) -> None:
        """
        Pending requests get their event and reply before their session closes,
        and the runtime stops after that.
        """
        server = self.start()
        client = Client(server)
        client.asks()
        stopped = server.stopService()
        self.reactor.advance(1)
        self.assertFalse(client.wire.disconnecting)
        self.runtime.book(self.runtime.reserved[0])
        self.assertEqual(client.outcomes(), [("a", 200, None)])
        self.reactor.advance(0.1)
        self.assertFalse(client.wire.disconnecting)
        self.reactor.advance(0.1)
        self.assertTrue(client.wire.disconnecting)
        self.assertNotIn("runtime stopped", self.happened)
        client.goes()
        self.successResultOf(stopped)
        self.assertEqual(self.happened[-1], "runtime stopped")
        self.assertAtRest()

    def test_newRequests(self) -> None:
        """
        New requests during the stop get 503 SHUTDOWN.
        """
        server = self.start()
        waiting, late = Client(server), Client(server)
        waiting.asks()
        server.stopService()
        late.asks()
        self.reactor.advance(0)
        self.assertEqual(late.outcomes(), [("a", 503, "SHUTDOWN")])

    def test_lastCall(self) -> None:
        """
        Requests already on their way to an idle server get 503 SHUTDOWN; after
        that nothing is read.
        """
        server = self.start()
        early, late = Client(server), Client(server)
        server.stopService()
        self.reactor.advance(0.1)
        early.asks()
        self.reactor.advance(0.09)
        late.asks("HealthCheck", "b", {})
        self.assertEqual(early.outcomes(), [("a", 503, "SHUTDOWN")])
        self.assertFalse(early.wire.disconnecting)
        self.reactor.advance(0.01)
        self.reactor.advance(0)
        self.assertEqual(late.outcomes(), [("b", 503, "SHUTDOWN")])
        self.assertTrue(late.wire.disconnecting)
        late.asks()
        self.reactor.advance(0)
        self.assertEqual(late.outcomes(), [])

    def test_everyLineIsAnswered(self) -> None:
        """
        Each line that was received before the stop is answered, even if it had
        to wait for its turn.
        """
        server = self.start(limits=Limits(linesPerTurn=1))
        client = Client(server)
        line = b'{"command":"HealthCheck","extID":%d,"__token":"manager"}\n'
        client.protocol.dataReceived(b"".join(line % n for n in range(5)))
        stopped = server.stopService()
        self.reactor.advance(0)
        self.assertEqual(
            client.outcomes(),
            [(0, 200, None), *((n, 503, "SHUTDOWN") for n in range(1, 5))],
        )
        self.lastCall()
        client.goes()
        self.successResultOf(stopped)

    def test_runtimeThatNeverBooks(self) -> None:
        """
        A pending request ends with its own timeout, and then the stop
        continues.
        """
        server = self.start()
        self.assertTimesOut(server, 5)

    def test_stopTimeout(self) -> None:
        """
        A pending request ends with the stop's timeout if that is sooner; its
        outcome is unknown then.
        """
        server = self.start(timeout=60.0)
        client = Client(server)
        client.asks()
        stopped = server.stopService()
        with capturedLogs() as logs:
            self.reactor.advance(10)
        self.reactor.advance(0)
        self.assertEqual(
            client.replies(),
            [
                {
                    "extID": "a",
                    "status": 504,
                    "error": "SYNC_TIMEOUT",
                    "message": "the server is stopping: the outcome of order"
                    " 1242281 is unknown, it may still be booked; ask with"
                    " GetOperation, or repeat the request under its idempotencyKey",
                    "data": {"order": 1242281},
                }
            ],
        )
        self.assertEqual(
            [log["what"] for log in logs if "what" in log],
            ["answering pending requests"],
        )
        self.lastCall()
        client.goes()
        self.successResultOf(stopped)
        self.assertAtRest()

    def test_stopTimeoutBeforeAReservation(self) -> None:
        """
        A pending request without an order ends with the stop's timeout too.
        """
        server = self.start(MuteRuntime(), timeout=60.0)
        self.assertTimesOut(server, 10)

    def test_stopTimeoutOfALookup(self) -> None:
        """
        Nothing is unknown about a look-up that the stop has left unanswered: it has
        changed nothing, and can be sent to another server.
        """
        server = self.start(MuteRuntime(), timeout=60.0)
        client = Client(server)
        client.asks("GetOperation", "a", {"order": 1242281})
        client.asks("GetTradeByOrder", "b", {"order": 1242281})
        stopped = server.stopService()
        self.reactor.advance(10)
        self.reactor.advance(0)
        self.assertEqual(
            client.outcomes(), [("a", 503, "SHUTDOWN"), ("b", 503, "SHUTDOWN")]
        )
        self.lastCall()
        client.goes()
        self.successResultOf(stopped)
        self.assertAtRest()

    def test_sessionThatStays(self) -> None:
        """
        A client that does not disconnect is cut off.
        """
        server = self.start()
        client = Client(server)
        stopped = server.stopService()
        self.lastCall()
        self.reactor.advance(0)
        self.assertTrue(client.wire.disconnecting)
        self.reactor.advance(1.9)
        self.assertFalse(client.wire.disconnected)
        self.assertNoResult(stopped)
        self.reactor.advance(0.1)
        self.assertTrue(client.wire.disconnected)
        self.successResultOf(stopped)
        client.goes()
        self.assertAtRest()

    def test_sessionThatDoesNotRead(self) -> None:
        """
        A client that does not read is cut off at a stop.
        """
        server = self.start()
        client = Client(server)
        client.asks()
        client.protocol.pauseProducing()
        stopped = server.stopService()
        self.runtime.book(self.runtime.reserved[0])
        self.lastCall()
        self.reactor.advance(2)
        self.assertTrue(client.wire.disconnected)
        self.successResultOf(stopped)
        client.goes()
        self.assertAtRest()

    def test_portThatHangs(self) -> None:
        """
        A port that does not close does not block the stop for ever.
        """
        server = self.start(listen=["tcp:8080"])
        self.reactor.ports[0].stopped = Deferred()
        stopped = server.stopService()
        self.reactor.advance(1.9)
        self.assertNoResult(stopped)
        with capturedLogs() as logs:
            self.reactor.advance(0.1)
        self.lastCall()
        self.successResultOf(stopped)
        self.assertEqual(self.happened[-1], "runtime stopped")
        self.assertEqual([log["what"] for log in logs], ["closing a port"])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_portAfterPort(self) -> None:
        """
        The ports close one after the other, each in its own time.
        """
        server = self.start()
        first, second = self.reactor.ports
        first.stopped, second.stopped = Deferred(), Deferred()
        stopped = server.stopService()
        self.assertEqual(self.happened[3:], ["port closed"])
        first.stopped.callback(None)
        self.assertEqual(self.happened[3:], ["port closed", "port closed"])
        self.reactor.advance(1.9)
        second.stopped.callback(None)
        self.lastCall()
        self.successResultOf(stopped)
        self.assertAtRest()

    def test_portThatFails(self) -> None:
        """
        A port that fails to close does not block the stop, and is logged once.
        """
        server = self.start(listen=["tcp:8080"])
        self.reactor.ports[0].stopped = Deferred()
        self.reactor.ports[0].stopped.errback(ZeroDivisionError())
        self.assertStops(server)
        self.assertEqual(self.happened[-1], "runtime stopped")
        del self.reactor.ports[0]
        gc.collect()
        self.assertEqual(len(self.flushLoggedErrors()), 1)

    def test_portThatRaises(self) -> None:
        """
        A port that raises while closing does not block the stop.
        """
        server = self.start(listen=["tcp:8080"])

        def raises() -> None:
            raise ZeroDivisionError

        self.patch(self.reactor.ports[0], "stopListening", raises)
        self.assertStops(server)
        self.assertEqual(self.happened[-1], "runtime stopped")
        gc.collect()
        self.assertEqual(len(self.flushLoggedErrors()), 1)

    def test_runtimeThatHangs(self) -> None:
        """
        A runtime that does not stop is waited for no longer than the bound.
        """
        server = self.start()
        self.runtime.stopped = Deferred()
        stopped = server.stopService()
        self.lastCall()
        self.reactor.advance(9.9)
        self.assertNoResult(stopped)
        with capturedLogs() as logs:
            self.reactor.advance(0.1)
        self.successResultOf(stopped)
        self.assertEqual([log["what"] for log in logs], ["stopping the runtime"])
        self.assertAtRest()

    def test_runtimeThatRaises(self) -> None:
        """
        A runtime that fails to stop does not block the stop of the server.
        """
        server = self.start()
        self.runtime.stopped = Deferred()
        self.runtime.stopped.errback(ZeroDivisionError())
        self.assertStops(server)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_allBounds(self) -> None:
        """
        The stop ends even if every part of it hangs.
        """
        server = self.start(listen=["tcp:8080"], timeout=60.0)
        self.reactor.ports[0].stopped = Deferred()
        self.runtime.stopped = Deferred()
        client = Client(server)
        client.asks()
        client.protocol.pauseProducing()
        stopped = server.stopService()
        for seconds in (2, 10, 0.2, 2):
            self.reactor.advance(seconds)
            self.assertNoResult(stopped)
        self.reactor.advance(10)
        self.successResultOf(stopped)
        client.goes()
        self.assertAtRest()

    def test_commitBeforeTheLedgerCloses(self) -> None:
        """
        The embedded runtime commits its queue, and the ledger closes last.
        """
        happened = self.happened

        class Ledger(HeldLedger):
            def close(self) -> None:
                happened.append("ledger closed")

        ledger = Ledger()
        runtime = TradingRuntime(
            self.reactor, ledger, self.events, now=lambda: 1767225600, maxQueued=9
        )
        server = self.start(runtime, listen=[])
        client = Client(server)
        client.asks("CreditIn")
        stopped = server.stopService()
        self.reactor.advance(0)
        self.assertEqual(len(ledger.commits), 1)
        ledger.release()
        self.reactor.advance(0)
        self.assertEqual(client.outcomes(), [("a", 200, None)])
        self.lastCall()
        self.assertEqual(happened, [])
        client.goes()
        self.successResultOf(stopped)
        self.assertEqual(happened, ["ledger closed"])
        self.assertAtRest()

    def test_goneClientsCreditIsBooked(self) -> None:
        """
        The embedded runtime commits its queue even if no client is connected any
        more.
        """
        ledger = HeldLedger()
        runtime = TradingRuntime(
            self.reactor, ledger, self.events, now=lambda: 1767225600, maxQueued=9
        )
        server = self.start(runtime, listen=[])
        client = Client(server)
        client.asks()
        client.goes()
        stopped = server.stopService()
        self.lastCall()
        self.assertNoResult(stopped)
        ledger.release()
        self.successResultOf(stopped)
        trade = ledger.trade(1)
        assert trade is not None
        self.assertEqual((trade.login, trade.profit), (1001, 30000000000))
        self.assertAtRest()

    def test_observesNoMore(self) -> None:
        """
        After the stop the server no longer observes events.
        """
        added: list[TradeObserver] = []

        @implementer(ITradeEvents)
        class Events(TradeEvents):
            def addObserver(self, observer: TradeObserver) -> None:
                added.append(observer)
                super().addObserver(observer)

            def removeObserver(self, observer: TradeObserver) -> None:
                added.remove(observer)
                super().removeObserver(observer)

        self.events = Events()
        server = self.start()
        self.assertEqual(len(added), 2)
        self.assertStops(server)
        self.assertEqual(added, [])

    def test_noReservationForAGoneClient(self) -> None:
        """
        A runtime that has not reserved an order for a disconnected client does
        not block the stop and leaves nothing behind.
        """
        server = self.start(MuteRuntime(), listen=[])
        client = Client(server)
        client.asks()
        client.goes()
        self.assertStops(server)
        self.assertAtRest()


class FailureTests(ServiceTestCase):
    """
    Tests for a runtime that can't book any more.
    """

    def test_whenFailed(self) -> None:
        """
        The service reports the cause of the failure, once.
        """
        server = self.start()
        failed = server.whenFailed()
        self.assertNoResult(failed)
        cause = LedgerProblem("disk")
        self.runtime.fail(cause)
        self.assertIs(self.failureResultOf(failed, LedgerProblem).value, cause)

    def test_whoWaits(self) -> None:
        """
        Pending requests are answered at once that their outcome is unknown,
        before the service reports the failure.
        """
        server = self.start()
        sync, accepted = Client(server), Client(server)
        sync.asks()
        accepted.asks("CreditIn", 1)
        told: list[Any] = []
        server.whenFailed().addErrback(
            lambda _: told.extend([sync.replies(), accepted.replies()])
        )
        self.runtime.fail(LedgerProblem("secret"))
        [[first], [second]] = told
        self.assertEqual(
            first,
            {
                "extID": "a",
                "status": 504,
                "error": "SYNC_TIMEOUT",
                "message": "the trading runtime failed: the outcome of order"
                " 1242281 is unknown, it may still be booked; ask with"
                " GetOperation, or repeat the request under its idempotencyKey",
                "data": {"order": 1242281},
            },
        )
        self.assertEqual((second["extID"], second["status"]), (1, 504))
        self.assertEqual(second["data"], {"order": 1242282})

    def test_whoHasNoOrderYet(self) -> None:
        """
        A pending request without an order is answered that its outcome is
        unknown.
        """
        runtime = MuteRuntime()
        server = self.start(runtime)
        client = Client(server)
        client.asks()
        server.whenFailed().addErrback(lambda _: None)
        runtime.failed.errback(LedgerProblem("disk"))
        self.assertEqual(client.outcomes(), [("a", 504, "SYNC_TIMEOUT")])

    def test_newRequests(self) -> None:
        """
        Requests after the failure get 503.
        """
        server = self.start()
        client = Client(server)
        server.whenFailed().addErrback(lambda _: None)
        self.runtime.fail(LedgerProblem("disk"))
        client.asks()
        self.reactor.advance(0)
        self.assertEqual(client.outcomes(), [("a", 503, "SHUTDOWN")])

    def test_stopAfterIt(self) -> None:
        """
        The stop after a failure is as ordered as any other.
        """
        server = self.start()
        client = Client(server)
        client.asks()
        server.whenFailed().addErrback(lambda _: None)
        self.runtime.fail(LedgerProblem("disk"))
        stopped = server.stopService()
        self.lastCall()
        client.goes()
        self.successResultOf(stopped)
        self.assertEqual(self.happened[-1], "runtime stopped")
        self.assertAtRest()

    def test_whileStopping(self) -> None:
        """
        A runtime that fails during a stop does not make it wait for requests
        that were answered.
        """
        server = self.start()
        client = Client(server)
        client.asks()
        stopped = server.stopService()
        server.whenFailed().addErrback(lambda _: None)
        self.runtime.fail(LedgerProblem("disk"))
        self.reactor.advance(0)
        self.assertEqual(client.outcomes(), [("a", 504, "SYNC_TIMEOUT")])
        self.lastCall()
        self.assertTrue(client.wire.disconnecting)
        client.goes()
        self.successResultOf(stopped)
        self.assertAtRest()

    def test_embedded(self) -> None:
        """
        A failed commit is a failure of the embedded runtime.
        """
        ledger = HeldLedger()
        runtime = TradingRuntime(
            self.reactor, ledger, self.events, now=lambda: 1767225600, maxQueued=9
        )
        server = self.start(runtime, listen=[])
        client = Client(server)
        client.asks("CreditInSync", 1)
        client.asks("CreditIn", 2)
        failed = server.whenFailed()
        self.reactor.advance(0)
        ledger.fail(LedgerProblem("disk"))
        self.failureResultOf(failed, LedgerProblem)
        self.assertEqual(
            sorted(client.outcomes()),
            [(1, 504, "SYNC_TIMEOUT"), (2, 504, "SYNC_TIMEOUT")],
        )
        self.assertEqual(len(self.flushLoggedErrors(LedgerProblem)), 1)
        stopped = server.stopService()
        self.lastCall()
        client.goes()
        self.successResultOf(stopped)
        self.assertAtRest()


class MountTests(ServiceTestCase):
    """
    Tests for a server that is mounted in an application.
    """

    def test_parent(self) -> None:
        """
        The server starts and stops with its parent.
        """
        application = MultiService()
        server = self.make()
        server.setServiceParent(application)
        self.assertIs(application.getServiceNamed("creditsync"), server)
        application.privilegedStartService()
        application.startService()
        self.assertEqual(
            self.happened, ["listening on 8080", "listening on 8081", "runtime started"]
        )
        stopped = application.stopService()
        self.lastCall()
        self.successResultOf(stopped)
        self.assertEqual(
            self.happened[3:], ["port closed", "port closed", "runtime stopped"]
        )

    def test_runningParent(self) -> None:
        """
        The server starts at once in a parent that is already running.
        """
        application = MultiService()
        application.startService()
        self.make().setServiceParent(application)
        self.assertIn("runtime started", self.happened)

    def test_disown(self) -> None:
        """
        The server can be removed from its parent.
        """
        application = MultiService()
        application.startService()
        server = self.make()
        server.setServiceParent(application)
        stopped = server.disownServiceParent()
        self.lastCall()
        self.successResultOf(stopped)
        self.assertEqual(self.happened[-1], "runtime stopped")

    def test_foreignRuntime(self) -> None:
        """
        A runtime that is not a service is neither started nor stopped, and
        another provider of events works as well.
        """

        @implementer(ITradeEvents)
        class Stream:
            def __init__(self) -> None:
                self.observers: list[TradeObserver] = []

            def addObserver(self, observer: TradeObserver) -> None:
                self.observers.append(observer)

            def removeObserver(self, observer: TradeObserver) -> None:
                self.observers.remove(observer)

            def publish(self, events: Sequence[TradeEvent]) -> None:
                for observer in self.observers:
                    observer(events)

        self.events = verified = Stream()
        verifyObject(ITradeEvents, verified)
        server = self.start(FakeTradingRuntime(self.events), listen=[])
        client = Client(server)
        client.asks()
        verified.publish([TradeEvent(0, {"order": 1242281, "profit": 300.5})])
        self.assertEqual(
            client.replies(),
            [
                {
                    "extID": "a",
                    "status": 200,
                    "data": {"order": 1242281, "profit": 300.5},
                }
            ],
        )
        client.goes()
        self.assertStops(server)
        self.assertEqual(verified.observers, [])
        self.assertAtRest()

    def test_writtenInTheSameTurn(self) -> None:
        """
        The lines of a publication are written before C{publish} returns.
        """
        client = Client(self.start())
        client.asks()
        self.runtime.book(self.runtime.reserved[0])
        self.assertEqual(client.outcomes(), [("a", 200, None)])

    def test_twoServers(self) -> None:
        """
        Two servers in one process are independent.
        """
        first = self.start(listen=[])
        second = self.start(MuteRuntime(), listen=[])
        client = Client(first)
        client.asks()
        self.assertEqual((first.sessions.pending, second.sessions.pending), (1, 0))
        self.assertStops(second)
        self.runtime.book(self.runtime.reserved[0])
        self.assertEqual(client.outcomes(), [("a", 200, None)])


class ProcessTests(SynchronousTestCase):
    """
    Tests that the process belongs to the embedding application.
    """

    def test_noEffects(self) -> None:
        """
        Importing, starting, using and stopping the server installs no reactor,
        no signal handler and no log observer.
        """
        script = """
import logging, signal, sys, threading
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import globalLogPublisher

def state():
    return (
        [signal.getsignal(n) for n in sorted(signal.valid_signals())],
        list(globalLogPublisher._observers),
        list(logging.getLogger().handlers),
        sys.argv[:], sys.excepthook, sys.stdout, sys.stderr,
        sys.getswitchinterval(), threading.active_count(),
    )

before = state()
from creditsync.events import TradeEvents
from creditsync.ledger.memory import MemoryLedger
from creditsync.runtime import TradingRuntime
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator

clock = MemoryReactorClock()
events = TradeEvents()
server = CreditSync(
    clock,
    runtime=TradingRuntime(
        clock, MemoryLedger(), events, now=lambda: 0, maxQueued=9
    ),
    events=events,
    authenticator=FakeAuthenticator(),
    listen=["tcp:8080"],
)
server.privilegedStartService()
server.startService()
done = []
server.stopService().addCallback(done.append)
clock.advance(0.2)
assert done == [None]
assert "twisted.internet.reactor" not in sys.modules
assert state() == before
"""
        ran = subprocess.run(
            [sys.executable, "-c", script],
            cwd=Path(creditsync.__file__).parent.parent,
            capture_output=True,
            timeout=60,
            check=False,
        )
        self.assertEqual((ran.stderr.decode(), ran.returncode), ("", 0))
