"""
A pytest plugin: each test ends within its time, even where it waits for a
Deferred that never fires.

pytest-timeout's alarm raises a failure in whatever code it interrupts. While a
test of pytest-twisted waits, that code is the reactor's main loop, which logs the
failure and keeps waiting. Here the alarm makes the reactor cancel what the test
waits for instead, so the test's C{finally} clauses run and the traceback shows the
line that waited.

Where that doesn't end the test, because it blocks the reactor or catches the
cancellation, the alarm comes again and raises its failure in place, as
pytest-timeout does. What no Python code can interrupt is left to pytest's
C{faulthandler_timeout}, which ends the process.
"""

import signal
from collections.abc import Callable, Generator
from typing import Any

import pytest
import pytest_twisted
from attrs import define, field
from pytest_timeout import Settings, is_debugging, timeout_sigalrm
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.trial.unittest import TestCase

# Seconds until the alarm comes again.
_AGAIN = 3.0


@define(eq=False)
class Deadline:
    """
    The time limit of a test, for each of its setup, its call and its teardown.

    @ivar waiting: What pytest waits for, and what that in turn waits for.
    @ivar isOver: Whether the time is over and the test has not failed for it yet.
    """

    item: pytest.Item
    settings: Settings
    waiting: "list[Deferred[Any]]" = field(init=False, factory=list)
    isOver: bool = field(init=False, default=False)

    def start(self) -> None:
        """
        Set the alarm.
        """
        self.isOver = False
        seconds = self.settings.timeout
        instance = getattr(self.item, "instance", None)
        if isinstance(instance, TestCase):
            # Trial runs the reactor itself here, and has its own way to stop it.
            instance.timeout = seconds
            seconds += _AGAIN
        signal.signal(signal.SIGALRM, self._ring)
        signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)

    def stop(self) -> None:
        """
        Cancel the alarm.
        """
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def _ring(self, number: int, frame: object) -> None:
        __tracebackhide__ = True
        if is_debugging():
            return
        mayWait = bool(self.waiting) and not self.isOver
        self.isOver = True
        if mayWait:
            from twisted.internet import reactor

            reactor.callFromThread(self._cancel)
        else:
            timeout_sigalrm(self.item, self.settings)

    def _cancel(self) -> None:
        for deferred in reversed(self.waiting.copy()):
            deferred.cancel()

    def check(self) -> None:
        """
        Fail the test if its time is over, whatever its outcome was.
        """
        __tracebackhide__ = True
        if self.isOver:
            self.isOver = False
            timeout_sigalrm(self.item, self.settings)


_DEADLINE = pytest.StashKey[Deadline]()
_current: Deadline | None = None


def pytest_timeout_set_timer(item: pytest.Item, settings: Settings) -> bool:
    """
    Set this plugin's limit instead of pytest-timeout's timer.
    """
    item.stash[_DEADLINE] = Deadline(item, settings)
    return True


def pytest_timeout_cancel_timer(item: pytest.Item) -> bool:
    """
    Nothing is cancelled: an alarm is only set where a failure can be raised,
    and not while pytest reports one, which may take its time.
    """
    return True


def _limited(item: pytest.Item) -> Generator[None, Any, Any]:
    """
    Limit the time of one part of a test. A test that passes after its time is
    over fails too: the code under test may have caught the failure.
    """
    global _current
    __tracebackhide__ = True
    _current = deadline = item.stash.get(_DEADLINE, None)
    if deadline is None:
        return (yield)
    deadline.start()
    try:
        result = yield
    finally:
        deadline.stop()
        _current = None
    deadline.check()
    return result


# The outermost hook is called first.
pytest_runtest_setup = pytest.hookimpl(_limited, wrapper=True, tryfirst=True)
pytest_runtest_call = pytest_runtest_setup
pytest_runtest_teardown = pytest_runtest_setup


_blockon = pytest_twisted.blockon_default
_runInReactor = pytest_twisted._run_inline_callbacks


def blockon(deferred: "Deferred[Any]") -> Any:
    """
    Wait for a Deferred, but no longer than the test's time.
    """
    __tracebackhide__ = True
    deadline = _current
    if deadline is None:
        return _blockon(deferred)
    deadline.waiting.append(deferred)
    try:
        return _blockon(deferred)
    finally:
        deadline.waiting.clear()
        deadline.check()


def runInReactor(function: Callable[..., Any], *arguments: Any) -> Any:
    """
    Run a test or a fixture in the reactor, and remember the Deferred that it
    waits for.
    """
    __tracebackhide__ = True

    def started(*arguments: Any) -> "Deferred[Any]":
        result = maybeDeferred(function, *arguments)
        if _current is not None and not result.called:
            _current.waiting.append(result)
        return result

    return _runInReactor(started, *arguments)


pytest_twisted.blockon_default = blockon
pytest_twisted._run_inline_callbacks = runInReactor
