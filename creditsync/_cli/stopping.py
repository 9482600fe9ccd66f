"""
Commands that go on until Ctrl-C, and then end in order.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning

# SIGHUP is what a terminal sends that is closed.
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def untilStopped(reactor: Any, status: Callable[[], int]) -> "Iterator[Deferred[None]]":
    """
    Have the reactor's stop wait for the end of this block. A first signal stops
    the reactor; a second one, or one that comes when the reactor has ended, ends
    the process at once.

    @param status: Gives the exit status with which that is done.
    @return: A context that gives a Deferred, which fires as the stop begins.
    """
    stopped: Deferred[None] = Deferred()
    ended: Deferred[None] = Deferred()

    def stop() -> "Deferred[None]":
        stopped.callback(None)
        return ended

    trigger = reactor.addSystemEventTrigger("before", "shutdown", stop)
    takeSignals(reactor, status)
    try:
        yield stopped
    finally:
        if stopped.called:
            ended.callback(None)
        else:
            reactor.removeSystemEventTrigger(trigger)


def takeSignals(reactor: Any, status: Callable[[], int]) -> None:
    """
    See L{untilStopped}.
    """
    isStopping = False

    def stop() -> None:
        with suppress(ReactorNotRunning):
            reactor.stop()

    def take(*_: object) -> None:
        nonlocal isStopping
        if isStopping or not reactor.running:
            os._exit(status())
        isStopping = True
        reactor.callFromThread(stop)

    def install() -> None:
        for number in _SIGNALS:
            # nohup, and a script for what it runs in the background, have some
            # of them ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, take)

    install()
    # Twisted takes SIGTERM when the reactor starts.
    reactor.callWhenRunning(lambda: reactor.callLater(0, install))


def holdSignals() -> None:
    """
    From now on let no signal change the exit status of this process, which is
    about to end.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
