"""
Tests for L{creditsync.ledger.thread}.
"""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from attrs import Factory, define
from twisted.internet.defer import gatherResults
from twisted.trial.unittest import SynchronousTestCase

from creditsync.ledger.thread import DaemonThread, OwnThread


@define(eq=False)
class Reactor:
    """
    The parts of a reactor that a thread needs; the test makes its turns.

    @ivar calls: The functions that the thread wants it to call.
    @ivar triggers: The functions to be called at its shutdown.
    """

    calls: "SimpleQueue[tuple[Any, ...]]" = Factory(SimpleQueue)
    triggers: list[Callable[[], None]] = Factory(list)

    def callFromThread(self, function: Callable[..., object], *given: object) -> None:
        """
        Record a function to be called.
        """
        self.calls.put((function, *given))

    def addSystemEventTrigger(
        self, phase: str, event: str, function: Callable[[], None]
    ) -> None:
        """
        Record a function to be called during the shutdown.
        """
        assert (phase, event) == ("during", "shutdown")
        self.triggers.append(function)

    def turn(self) -> None:
        """
        Wait for a function to be called, and call it.
        """
        function, *given = self.calls.get(timeout=20)
        function(*given)


class OwnThreadTests(SynchronousTestCase):
    """
    Tests for L{OwnThread}.
    """

    def setUp(self) -> None:
        """
        Make a thread whose reactor is shut down in the end.
        """
        self.reactor = Reactor()
        self.run = OwnThread(self.reactor)
        self.addCleanup(self.shutDown)

    def shutDown(self) -> None:
        """
        Shut the reactor down.
        """
        while self.reactor.triggers:
            self.reactor.triggers.pop()()

    def test_oneAfterAnother(self) -> None:
        """
        Functions are called one after the other in their order, in one other
        thread.
        """
        called: list[tuple[int, threading.Thread]] = []
        done = [
            self.run(lambda n=n: called.append((n, threading.current_thread())))
            for n in range(20)
        ]
        for _ in done:
            self.reactor.turn()
        self.successResultOf(gatherResults(done))
        numbers, threads = zip(*called, strict=True)
        self.assertEqual(numbers, tuple(range(20)))
        self.assertEqual(len(set(threads)), 1)
        self.assertNotIn(threading.current_thread(), threads)

    def test_inTheReactorsThread(self) -> None:
        """
        The result of a function is delivered in the reactor's thread.
        """
        ended = threading.Event()
        done = self.run(ended.set)
        # A function that is not finished is only waited for.
        self.assertTrue(ended.wait(20))
        self.shutDown()
        self.assertNoResult(done)
        self.reactor.turn()
        self.assertIsNone(self.successResultOf(done))

    def test_failure(self) -> None:
        """
        An exception of a function is delivered, and the next function is
        called.
        """

        def fail() -> None:
            raise OSError("the disk is full")

        failed, done = self.run(fail), self.run(lambda: None)
        self.reactor.turn()
        self.reactor.turn()
        self.assertEqual(
            str(self.failureResultOf(failed, OSError).value), "the disk is full"
        )
        self.successResultOf(done)

    def test_nothingToDo(self) -> None:
        """
        Without a call there is no thread, and nothing to end.
        """
        self.assertEqual(self.reactor.triggers, [])
        before = threading.active_count()
        OwnThread(self.reactor)
        self.assertEqual(threading.active_count(), before)

    def test_shutdown(self) -> None:
        """
        The reactor's shutdown waits for the functions that were submitted
        before it, and then the thread ends.
        """
        begun, goOn, called = threading.Event(), threading.Event(), list[int]()

        def slow() -> None:
            begun.set()
            assert goOn.wait(20)
            called.append(1)

        before = threading.active_count()
        self.run(slow)
        self.run(lambda: called.append(2))
        self.assertTrue(begun.wait(20))
        threading.Timer(0.05, goOn.set).start()
        self.shutDown()
        self.assertEqual(called, [1, 2])
        self.assertIsNotNone(self.run._thread)
        self.assertNotIn(self.run._thread, threading.enumerate())
        self.assertLessEqual(threading.active_count(), before + 1)

    def test_afterTheShutdown(self) -> None:
        """
        A function that is submitted after the shutdown is not called, and
        starts no other thread.
        """
        self.run(lambda: None)
        self.shutDown()
        done = self.run(self.fail)
        self.assertNotIn(self.run._thread, threading.enumerate())
        self.assertEqual(self.reactor.triggers, [])
        self.reactor.turn()
        self.assertTrue(self.reactor.calls.empty())
        self.assertNoResult(done)


class DaemonThreadTests(SynchronousTestCase):
    """
    Tests for L{DaemonThread}.
    """

    def test_shutdown(self) -> None:
        """
        Neither the reactor's shutdown nor the end of the process waits for a
        function that hangs; the thread ends when the function returns.
        """
        reactor = Reactor()
        begun, goOn = threading.Event(), threading.Event()

        def hang() -> None:
            begun.set()
            assert goOn.wait(20)

        run = DaemonThread(reactor)
        run(hang)
        self.assertTrue(begun.wait(20))
        [end] = reactor.triggers
        end()
        assert run._thread is not None
        self.assertTrue(run._thread.is_alive())
        self.assertTrue(run._thread.daemon)
        goOn.set()
        run._thread.join(20)
        self.assertFalse(run._thread.is_alive())
