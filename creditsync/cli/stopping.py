"""
Commands that go on until Ctrl-C, and then end in order.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.defer import Deferred

from creditsync.signals import endAtNextSignal


@contextmanager
def untilStopped(reactor: Any) -> "Iterator[Deferred[None]]":
    """
    Have the reactor's stop wait for the end of this block; a second signal
    ends the process at once.

    @return: A context that gives a Deferred, which fires as the stop begins.
    """
    stopped: Deferred[None] = Deferred()
    ended: Deferred[None] = Deferred()

    def stop() -> "Deferred[None]":
        endAtNextSignal()
        stopped.callback(None)
        return ended

    trigger = reactor.addSystemEventTrigger("before", "shutdown", stop)
    try:
        yield stopped
    finally:
        if stopped.called:
            ended.callback(None)
        else:
            reactor.removeSystemEventTrigger(trigger)
