"""
Tests for L{creditsync._process.signals}.
"""

import os
import signal

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from creditsync._process import signals

INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


class Ended(BaseException):
    """
    The process would have ended.
    """


class Reactor(MemoryReactorClock):
    """
    A reactor that notes the signals passed to it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.told: list[int] = []

    def sigInt(self, number: int, frame: object) -> None:
        """
        Receive a SIGINT.
        """
        self.told.append(number)

    def sigTerm(self, number: int, frame: object) -> None:
        """
        Receive a SIGTERM.
        """
        self.told.append(number)


def keepSignals(test: SynchronousTestCase) -> None:
    """
    Restore the process's signal handlers after a test.
    """
    for number in (INT, TERM, HUP):
        test.addCleanup(signal.signal, number, signal.getsignal(number))


class SignalsTestCase(SynchronousTestCase):
    """
    A test with the signal handlers of a process that a shell runs in the
    foreground.
    """

    def setUp(self) -> None:
        keepSignals(self)
        signal.signal(INT, signal.default_int_handler)
        signal.signal(TERM, signal.SIG_DFL)
        signal.signal(HUP, signal.SIG_DFL)
        self.reloads: list[str] = []

    def reload(self) -> None:
        """
        Count a reload.
        """
        self.reloads.append("reload")

    def sends(self, number: int) -> None:
        """
        Send a signal to this process, which is handled before this returns.
        """
        signal.raise_signal(number)

    def beFirst(self) -> list[int]:
        """
        Pretend to be process 1.

        @return: The statuses with which it would have ended.
        """
        statuses: list[int] = []

        def exit(status: int) -> None:
            statuses.append(status)
            raise Ended

        self.patch(os, "getpid", lambda: 1)
        self.patch(os, "_exit", exit)
        return statuses


class StartTests(SignalsTestCase):
    """
    Signals while the server starts.
    """

    def test_hangUpWaits(self) -> None:
        """
        A SIGHUP during the start is held until the server can reload, and
        causes one reload, however many came.
        """
        signals.prepareServer()
        signals.prepareServer()
        self.sends(HUP)
        self.sends(HUP)
        self.assertEqual(self.reloads, [])
        signals.reloadAtHangUp(self.reload)
        self.assertEqual(self.reloads, ["reload"])
        self.sends(HUP)
        self.assertEqual(self.reloads, ["reload", "reload"])

    def test_othersEnd(self) -> None:
        """
        SIGTERM and SIGINT end the process by their default action, which does
        not depend on Python and prints no traceback.
        """
        signals.prepareServer()
        self.assertEqual(signal.getsignal(TERM), signal.SIG_DFL)
        self.assertEqual(signal.getsignal(INT), signal.SIG_DFL)

    def test_ignored(self) -> None:
        """
        A SIGINT that is ignored, as in the background of a shell, stays
        ignored.
        """
        signal.signal(INT, signal.SIG_IGN)
        signals.prepareServer()
        signals.stopInOrder(Reactor())
        signals.endAtNextSignal()
        self.assertEqual(signal.getsignal(INT), signal.SIG_IGN)

    def test_first(self) -> None:
        """
        Process 1, which has no default actions, ends as well.
        """
        statuses = self.beFirst()
        signals.prepareServer()
        for number in (TERM, INT):
            self.assertRaises(Ended, self.sends, number)
        self.assertEqual(statuses, [143, 130])

    def test_firstOfACommand(self) -> None:
        """
        Process 1 ends too if it is a command and not the server. Ctrl-C is
        left to Python there.
        """
        statuses = self.beFirst()
        signals.prepare()
        for number in (TERM, HUP):
            self.assertRaises(Ended, self.sends, number)
        self.assertEqual(statuses, [143, 129])
        self.assertEqual(signal.getsignal(INT), signal.default_int_handler)

    def test_command(self) -> None:
        """
        A command that is not process 1 keeps its signal actions.
        """
        signals.prepare()
        self.assertEqual(signal.getsignal(TERM), signal.SIG_DFL)
        self.assertEqual(signal.getsignal(HUP), signal.SIG_DFL)
        self.assertEqual(signal.getsignal(INT), signal.default_int_handler)


class StopTests(SignalsTestCase):
    """
    Signals while the server stops.
    """

    def test_inOrder(self) -> None:
        """
        The first signal stops the reactor; the next one ends the process, even
        before the reactor has handled the first.
        """
        for number in (TERM, INT):
            reactor = Reactor()
            signals.stopInOrder(reactor)
            self.sends(number)
            self.assertEqual(reactor.told, [number])
            self.assertEqual(signal.getsignal(TERM), signal.SIG_DFL)
            self.assertEqual(signal.getsignal(INT), signal.SIG_DFL)

    def test_first(self) -> None:
        """
        A second signal ends process 1 too.
        """
        statuses = self.beFirst()
        reactor = Reactor()
        signals.stopInOrder(reactor)
        self.sends(TERM)
        self.assertEqual((reactor.told, statuses), ([TERM], []))
        self.assertRaises(Ended, self.sends, TERM)
        self.assertEqual((reactor.told, statuses), ([TERM], [143]))

    def test_hangUp(self) -> None:
        """
        SIGHUP is ignored, without a handler that Python would remove at its
        end.
        """
        signals.reloadAtHangUp(self.reload)
        signals.ignoreHangUp()
        self.sends(HUP)
        self.assertEqual(self.reloads, [])
        self.assertEqual(signal.getsignal(HUP), signal.SIG_IGN)
