"""
What signals do at each stage of a process.

=================  =================  ==================  ==================
Signal             While it starts    While it serves     While it stops
=================  =================  ==================  ==================
SIGTERM, SIGINT    ends it at once    stops it in order   ends it at once
SIGHUP             waits              reads files again   is ignored
=================  =================  ==================  ==================

When the reactor runs and the ledger is still being opened, SIGTERM and SIGINT
already stop it in order, and SIGHUP still waits.

The kernel ignores signals for process 1 of a container unless it has a handler for
them, so there "at once" needs a handler. Python runs it only between two
instructions of its own, and so not before a call of SQLite in progress has
returned, nor, if the signal comes in the instant before a read begins, before
that read has.

This module imports only what loads quickly, so that a process can prepare for
signals before it imports the rest.
"""

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, NoReturn

_STOP: Final = (signal.SIGINT, signal.SIGTERM)


def endAtNextSignal() -> None:
    """
    Let the next SIGTERM or SIGINT end the process at once.
    """
    for number in _STOP:
        _endBy(number)


def prepare() -> None:
    """
    Let process 1 end by the signals that end any other process.
    """
    for number in (signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) == signal.SIG_DFL:
            _endBy(number)


def prepareServer() -> None:
    """
    Hold SIGHUP until L{reloadAtHangUp}, and let the other signals end the
    process at once. It may be called again.
    """
    prepare()
    # Python's own handler would print a traceback.
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        _endBy(signal.SIGINT)
    if not isinstance(signal.getsignal(signal.SIGHUP), _Held):
        signal.signal(signal.SIGHUP, _Held())


def stopInOrder(reactor: Any) -> None:
    """
    Let the first SIGTERM or SIGINT stop the reactor, and the second one end the
    process, even if the reactor hangs. Call it when the reactor runs, which
    installs handlers of its own as it starts.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        # At once: many of them could keep the reactor from ever stopping.
        ignoreHangUp()
        endAtNextSignal()
        handle = reactor.sigInt if number == signal.SIGINT else reactor.sigTerm
        handle(number, frame)

    for number in _STOP:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)


def reloadAtHangUp(reload: Callable[[], None]) -> None:
    """
    Call this at each SIGHUP, and at once if one was held.
    """
    before = signal.signal(signal.SIGHUP, lambda *_: reload())
    if isinstance(before, _Held) and before.came:
        reload()


class _Held:
    """
    Holds a SIGHUP that comes too early.

    @ivar came: Whether one has come.
    """

    came = False

    def __call__(self, *_: object) -> None:
        self.came = True


def ignoreHangUp() -> None:
    """
    Ignore SIGHUP to the very end of the process: Python restores the default
    action of signals that have a handler when it exits.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _endBy(number: signal.Signals) -> None:
    # Shells start background jobs with SIGINT ignored: a Ctrl-C in the terminal
    # is not meant for them.
    if signal.getsignal(number) != signal.SIG_IGN:
        # The default action also interrupts a call on a disk that hangs.
        signal.signal(number, _end if os.getpid() == 1 else signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(128 + number)
