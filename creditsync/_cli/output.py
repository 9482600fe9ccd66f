"""
What the commands print, and what happens if it can't be written.

No character makes printing fail: one that the encoding of the terminal, file or
pipe lacks is escaped. Writing can still fail, on a full disk or in a pipe that
nobody reads. A command that only reads has then failed too
(L{outputErrorsAsExit}). One that has changed something has not: its exit status is
that of what it did, and never invites anyone to repeat it (L{printLine}).
"""

import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from creditsync._cli.statuses import FAILED, INTERRUPTED


def escapeUnencodable() -> None:
    """
    Have stdout and stderr escape the characters that their encoding lacks.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def occupyDescriptors() -> None:
    """
    Open /dev/null as stdin, stdout or stderr if a shell has closed them. Otherwise
    the next file or socket would get the descriptor, and with it whatever Python or
    a library writes to stderr.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(descriptor)


def replaceClosedStreams() -> None:
    """
    Replace stdout and stderr, if a shell has closed them, by streams on which
    writing fails, as it does on others that can't be written to.

    Python would drop what is printed without an error.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            closed = os.open(os.devnull, os.O_RDONLY)
            stream = os.fdopen(closed, "w", errors="backslashreplace")
            setattr(sys, name, stream)


def printLine(line: str, stream: TextIO | None = None) -> None:
    """
    Print a line without ever raising. What can't be written to stdout goes to
    stderr, with the cause.
    """
    stream = sys.stdout if stream is None else stream
    try:
        print(line, file=stream, flush=True)
    except (OSError, ValueError) as e:
        discardOutput(stream)
        if stream is not sys.stderr:
            cause = getattr(e, "strerror", None) or e
            printLine(
                f"creditsync: standard output can't be written ({cause}): {line}",
                sys.stderr,
            )


def syncOutput() -> None:
    """
    Write what was printed to disk, if stdout is a file.

    @raise OSError: It can't be written.
    """
    with suppress(io.UnsupportedOperation):
        descriptor = sys.stdout.fileno()
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.fsync(descriptor)


def discardOutput(stream: TextIO) -> None:
    """
    Discard what a stream that can't be written still buffers, and all that is
    printed to it from now on. If Python fails to flush it at its end, the exit
    status is 120.
    """
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextmanager
def outputErrorsAsExit(name: str) -> Iterator[None]:
    """
    Exit with a sentence and status 1 if the output can't be written; without the
    sentence if it is a pipe that nobody reads any more.

    @param name: The subcommand.
    """
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except SystemExit as e:
        try:
            sys.stdout.flush()
        except OSError as unwritten:
            discardOutput(sys.stdout)
            if not e.code:
                raise _failed(name, unwritten) from unwritten
        raise
    except OSError as e:
        discardOutput(sys.stdout)
        raise _failed(name, e) from e


def _failed(name: str, why: OSError) -> SystemExit:
    if isinstance(why, BrokenPipeError):
        return SystemExit(FAILED)
    return SystemExit(f"creditsync {name}: {why}")
