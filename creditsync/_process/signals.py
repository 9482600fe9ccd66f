"""
What signals do to a process of ours, at each moment of its life.

=================  =================  ==================  ==================
Signal             While it starts    While it serves     While it stops
=================  =================  ==================  ==================
SIGTERM, SIGINT    ends it at once    stops it in order   ends it at once
SIGHUP             waits              reads files again   is ignored
=================  =================  ==================  ==================

The kernel ignores signals for process 1 of a container unless the process has a
handler for them, so there "at once" needs one; and as Python runs handlers
between two of its own steps, it is then after the call of SQLite that it is in.

This module imports nothing of ours and nothing that takes long to load, so that
a process can be prepared for signals before it imports the rest.
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
    Let process 1 end by the signals by which any other process ends.
    """
    for number in (signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) == signal.SIG_DFL:
            _endBy(number)


def prepareServer() -> None:
    """
    Keep SIGHUP waiting until L{reloadAtHangUp}, and let the others end the
    process at once. It may be called again.
    """
    prepare()
    # Python's own handler would show a traceback.
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        _endBy(signal.SIGINT)
    if not isinstance(signal.getsignal(signal.SIGHUP), _Held):
        signal.signal(signal.SIGHUP, _Held())


def stopInOrder(reactor: Any) -> None:
    """
    Let the first SIGTERM or SIGINT stop the reactor, and the second one end the
    process, even if the reactor hangs. The reactor has to run: it installs
    handlers of its own when it starts.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        # At once: many of them could keep the reactor from ever stopping.
        ignoreHangUp()
        endAtNextSignal()
        tell = reactor.sigInt if number == signal.SIGINT else reactor.sigTerm
        tell(number, frame)

    for number in _STOP:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)


def reloadAtHangUp(reload: Callable[[], None]) -> None:
    """
    Have this called at each SIGHUP, and at once if one has waited.
    """
    before = signal.signal(signal.SIGHUP, lambda *_: reload())
    if isinstance(before, _Held) and before.came:
        reload()


class _Held:
    """
    Notes a SIGHUP that can't be obeyed yet.
    """

    came = False

    def __call__(self, *_: object) -> None:
        self.came = True


def ignoreHangUp() -> None:
    """
    Let SIGHUP do nothing any more, to the very end: Python gives signals that
    have a handler their default action back when it ends.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _endBy(number: signal.Signals) -> None:
    # A background job of a shell is started with SIGINT ignored, and the Ctrl-C
    # of somebody else is not meant for it.
    if signal.getsignal(number) != signal.SIG_IGN:
        # The default action works in the middle of any call, also on a disk that
        # hangs.
        signal.signal(number, _end if os.getpid() == 1 else signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(128 + number)
