"""
What the commands print, and what becomes of a command whose output fails.

Nothing that is printed can fail for its characters: those that the encoding of
the terminal, file or pipe lacks are shown escaped. Writing can still fail, on a
full disk or in a pipe that nobody reads. A command that only reads has then
failed too (L{printing}). One that has changed something has not: its exit status
is that of what it did, and never invites to do it again (L{say}).
"""

import io
import os
import sys
from argparse import ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, TextIO

FAILED: Final = 1
INTERRUPTED: Final = 130


def escapeCharacters() -> None:
    """
    Have stdout and stderr show what their encoding lacks escaped.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def occupyDescriptors() -> None:
    """
    Where a shell has closed stdin, stdout or stderr, have /dev/null there. The next
    file or socket would get the descriptor, and with it what a library or Python
    itself writes to stderr.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(descriptor)


def replaceClosedStreams() -> None:
    """
    Where a shell has closed stdout or stderr, have something in their place on
    which writing fails, as it does on others that can't be written.

    Python would drop what is printed without a word.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            closed = os.open(os.devnull, os.O_RDONLY)
            stream = os.fdopen(closed, "w", errors="backslashreplace")
            setattr(sys, name, stream)


def say(text: str, stream: TextIO | None = None) -> None:
    """
    Print a line. It does not fail; what can't be written to stdout goes to stderr,
    with the cause.
    """
    stream = sys.stdout if stream is None else stream
    try:
        print(text, file=stream, flush=True)
    except (OSError, ValueError) as e:
        silence(stream)
        if stream is not sys.stderr:
            cause = getattr(e, "strerror", None) or e
            say(
                f"creditsync: standard output can't be written ({cause}): {text}",
                sys.stderr,
            )


def silence(stream: TextIO) -> None:
    """
    Drop what a stream that can't be written still holds, and all that comes. If it
    is written at the end of Python, that ends with a status of its own, 120.
    """
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextmanager
def printing(name: str) -> Iterator[None]:
    """
    End with a sentence and status 1 if what is printed can't be written; or without
    the sentence, if only nobody reads it.

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
            silence(sys.stdout)
            if not e.code:
                raise _failed(name, unwritten) from unwritten
        raise
    except OSError as e:
        silence(sys.stdout)
        raise _failed(name, e) from e


def _failed(name: str, why: OSError) -> SystemExit:
    if isinstance(why, BrokenPipeError):
        return SystemExit(FAILED)
    return SystemExit(f"creditsync {name}: {why}")


def text(argument: str) -> str:
    """
    Read an argument that is text, and not the name of a file.

    @raise ArgumentTypeError: It is not UTF-8.
    """
    if not any("\udc80" <= each <= "\udcff" for each in argument):
        return argument
    # Python hands on as such characters what it could not decode. Under LC_ALL=C
    # that may be all that isn't ASCII, and UTF-8 all the same.
    given = os.fsencode(argument)
    try:
        return given.decode("utf-8")
    except UnicodeDecodeError:
        shown = given.decode("utf-8", "backslashreplace")
        raise ArgumentTypeError(f"must be UTF-8: {shown}") from None
