"""
Signals for commands that run in the reactor: the first one stops a command in
order, the second one ends it at once.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning

# A terminal that is closed sends SIGHUP.
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def untilStopped(reactor: Any, status: Callable[[], int]) -> "Iterator[Deferred[None]]":
    """
    Have the reactor's stop wait for the end of this block. A first signal stops
    the reactor; a second one, or one after the reactor has stopped, ends the
    process at once.

    @param status: Returns the exit status for that.
    @return: A context that gives a Deferred, which fires as the stop begins.
    """
    stopped: Deferred[None] = Deferred()
    ended: Deferred[None] = Deferred()

    def stop() -> "Deferred[None]":
        stopped.callback(None)
        return ended

    trigger = reactor.addSystemEventTrigger("before", "shutdown", stop)
    handleSignals(reactor, status)
    try:
        yield stopped
    finally:
        if stopped.called:
            ended.callback(None)
        else:
            reactor.removeSystemEventTrigger(trigger)


def handleSignals(reactor: Any, status: Callable[[], int]) -> None:
    """
    Install the handlers, see L{untilStopped}.
    """
    isStopping = False

    def stop() -> None:
        with suppress(ReactorNotRunning):
            reactor.stop()

    def handle(*_: object) -> None:
        nonlocal isStopping
        if isStopping or not reactor.running:
            os._exit(status())
        isStopping = True
        reactor.callFromThread(stop)

    def install() -> None:
        for number in _SIGNALS:
            # Some are ignored under nohup, or where a script runs a command in
            # the background, and have to stay so.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, handle)

    install()
    # Twisted installs its own handler of SIGTERM when the reactor starts.
    reactor.callWhenRunning(lambda: reactor.callLater(0, install))


def blockSignals() -> None:
    """
    Block these signals, so that none changes the exit status of this process,
    which is about to end.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
