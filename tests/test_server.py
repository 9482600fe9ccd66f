"""
Tests for L{creditsync._process.server} and L{creditsync._process.starting}.
"""

import atexit
import signal
from typing import Any

from attrs import define
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from creditsync._process import server
from creditsync._process.server import Server, SupervisedServer
from creditsync._process.starting import CannotStart
from creditsync.errors import LedgerInUse, LedgerProblem
from tests.test_signals import keepSignals
from tests.test_tap import logTo


class FakeCreditSync:
    """
    A L{CreditSync} whose start fails with a given error.
    """

    def __init__(self) -> None:
        self.binding: Exception | None = None
        self.starting: Exception | None = None
        self.failed: Deferred[None] = Deferred()
        self.ready: Deferred[None] = Deferred()
        self.started = False

    def privilegedStartService(self) -> None:
        if self.binding:
            raise self.binding

    def startService(self) -> None:
        if self.starting:
            raise self.starting
        self.started = True

    def stopService(self) -> Deferred[None]:
        self.started = False
        return succeed(None)

    def whenReady(self) -> Deferred[None]:
        return self.ready

    def whenFailed(self) -> Deferred[None]:
        return self.failed


def runs(reactor: MemoryReactorClock) -> None:
    """
    Do what a reactor does first.
    """
    for function, arguments, named in reactor.whenRunningHooks:
        function(*arguments, **named)


@define
class FakeSupervisor:
    """
    A L{Supervisor<creditsync._process.notify.Supervisor>} that records what it is
    told.
    """

    told: list[str]

    def starting(self) -> None:
        self.told.append("starting")

    def ready(self) -> None:
        self.told.append("ready")


class ServerTests(SynchronousTestCase):
    """
    The server as a process.
    """

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.creditSync: Any = FakeCreditSync()
        self.server = Server(self.reactor, self.creditSync)
        self.log = logTo(self)

    def test_startsAndStops(self) -> None:
        """
        Starting and stopping it starts and stops the service.
        """
        self.server.privilegedStartService()
        self.server.startService()
        self.assertTrue(self.creditSync.started)
        self.successResultOf(self.server.stopService())
        self.assertFalse(self.creditSync.started)

    def test_takenPort(self) -> None:
        """
        A taken port is one sentence with which the process ends. It is also an
        ordinary exception, which a daemon passes on to the process that waits
        for its start.
        """
        self.creditSync.binding = CannotListenError("127.0.0.1", 8080, OSError("taken"))
        e = self.assertRaises(CannotStart, self.server.privilegedStartService)
        sentence = "Couldn't listen on 127.0.0.1:8080: taken."
        self.assertEqual(e.code, sentence)
        self.assertIsInstance(e, Exception)

    def test_ledgerProblem(self) -> None:
        """
        A ledger that can't be used is one sentence with which the process
        ends.
        """
        for problem in (LedgerInUse("in use"), LedgerProblem("in use")):
            self.creditSync.starting = problem
            e = self.assertRaises(CannotStart, self.server.startService)
            self.assertEqual(e.code, "in use")

    def test_faultIsNoSentence(self) -> None:
        """
        A bug keeps its traceback.
        """
        self.creditSync.starting = ZeroDivisionError()
        self.assertRaises(ZeroDivisionError, self.server.startService)

    def test_secondSignal(self) -> None:
        """
        Once the stop has begun, the next signal ends the process at once.
        """
        keepSignals(self)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.server.startService()
        ((function, arguments, _),) = self.reactor.triggers["before"]["shutdown"]
        function(*arguments)
        self.assertEqual(signal.getsignal(signal.SIGINT), signal.SIG_DFL)
        self.assertEqual(signal.getsignal(signal.SIGTERM), signal.SIG_DFL)

    def test_failureStops(self) -> None:
        """
        When nothing can be booked any more, the reactor stops, the log has the
        cause, and the process will exit with status 1.
        """
        atEnd: list[object] = []
        self.patch(atexit, "register", atEnd.append)
        self.server.startService()
        keepSignals(self)
        self.creditSync.ready.callback(None)
        runs(self.reactor)
        self.creditSync.failed.errback(Failure(OSError("disk full")))
        self.assertTrue(self.reactor.hasStopped)
        self.assertEqual(atEnd, [server._exitFailed])
        ((level, text),) = self.log
        self.assertEqual(level, LogLevel.critical.name)
        self.assertIn("disk full", text)

    def test_failureToStart(self) -> None:
        """
        A ledger that turns out to be wrong when the reactor runs already ends the
        process in the same way, with one sentence in the log.
        """
        atEnd: list[object] = []
        self.patch(atexit, "register", atEnd.append)
        self.server.startService()
        self.creditSync.failed.errback(Failure(LedgerProblem("account 1001 is wrong")))
        self.assertTrue(self.reactor.hasStopped)
        self.assertEqual(atEnd, [server._exitFailed])
        self.assertEqual(self.log, [("critical", "account 1001 is wrong")])

    def test_faultAtStart(self) -> None:
        """
        A bug that shows when the reactor runs keeps its traceback.
        """
        self.patch(atexit, "register", lambda _: None)
        self.server.startService()
        self.creditSync.failed.errback(Failure(ZeroDivisionError()))
        self.assertTrue(self.reactor.hasStopped)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class SupervisedServerTests(SynchronousTestCase):
    """
    What systemd is told of a start.
    """

    def setUp(self) -> None:
        keepSignals(self)
        self.reactor: Any = MemoryReactorClock()
        self.reactor.callFromThread = lambda function: function()
        self.creditSync: Any = FakeCreditSync()
        self.told: list[str] = []
        supervisor: Any = FakeSupervisor(self.told)
        self.server = SupervisedServer(self.reactor, self.creditSync, supervisor, [])

    def test_readyLate(self) -> None:
        """
        It is told that the server is ready when requests are answered, and SIGHUP
        waits until then.
        """
        signal.signal(signal.SIGHUP, before := lambda *_: None)
        self.server.startService()
        runs(self.reactor)
        self.assertEqual(self.told, ["starting"])
        self.assertIs(signal.getsignal(signal.SIGHUP), before)
        self.reactor.whenRunningHooks.clear()
        self.creditSync.ready.callback(None)
        runs(self.reactor)
        self.assertEqual(self.told, ["starting", "ready"])
        self.assertIsNot(signal.getsignal(signal.SIGHUP), before)
