"""
What ends a start that fails: one sentence and status 1.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from twisted.internet.error import CannotListenError

from creditsync.errors import LedgerProblem, MethodProblem


class CannotStart(SystemExit, Exception):
    """
    The server can't start; the message is one sentence that says why.

    Being a C{SystemExit}, it ends the process without a traceback, with the
    sentence on stderr, which C{twistd} has redirected to its log. Being an
    C{Exception}, it is noticed by a C{twistd} that became a daemon, which
    passes it on to the process that waits for the start.
    """


@contextmanager
def startErrors() -> Iterator[None]:
    """
    Turn what a port, a ledger or this build raises when it can't be used into
    L{CannotStart}.
    """
    try:
        yield
    except (
        CannotListenError,
        LedgerProblem,
        MethodProblem,
        OSError,
        OverflowError,
    ) as e:
        raise CannotStart(str(e)) from e
