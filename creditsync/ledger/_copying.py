"""
A copy of a ledger that is in use.

SQLite copies page by page from one moment of the ledger, in one step: a copy in
several steps starts again whenever the server commits between two of them, and
beside a busy one it would never end. The server goes on meanwhile.
"""

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from creditsync.errors import LedgerDamaged, LedgerInUse, LedgerProblem
from creditsync.ledger._checking import problems
from creditsync.ledger._opening import sync
from creditsync.ledger._reading import reading


def backUp(ledger: str, copy: str, overwrite: bool = False) -> None:
    """
    Copy a ledger, prove that the copy is whole, and give it its name, all of
    it on disk.

    @param overwrite: Whether a file of that name is replaced.
    @raise LedgerProblem: It can't be copied; nothing of that name was touched.
    """
    ledger, copy = os.path.realpath(ledger), os.path.realpath(copy)
    if copy in {ledger + end for end in ("", "-wal", "-shm", "-journal", ".lock")}:
        raise LedgerProblem(f"{copy} belongs to the ledger itself: name another file")
    with _explained(copy), _part(copy) as part:
        _checkName(copy, overwrite)
        _copy(ledger, part)
        _checkCopy(part, ledger)
        _finish(part, copy)


@contextmanager
def _explained(copy: str) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as e:
        raise LedgerProblem(f"the copy {copy} can't be made: {e}") from e


@contextmanager
def _part(copy: str) -> Iterator[str]:
    """
    The name under which the copy is made: an empty file to which nobody else
    is copying.

    @raise LedgerInUse: Another process is.
    """
    part = f"{copy}.part"
    held = os.open(part, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # It may have got its final name since it was opened.
        if not os.path.samestat(os.stat(part), os.fstat(held)):
            raise BlockingIOError
    except (BlockingIOError, FileNotFoundError):
        os.close(held)
        raise LedgerInUse(f"another process is copying to {copy}") from None
    try:
        # What is in it was left by one that was killed.
        os.truncate(held, 0)
        yield part
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    finally:
        os.close(held)


def _checkName(copy: str, overwrite: bool) -> None:
    if os.path.exists(copy) and not overwrite:
        raise LedgerProblem(f"{copy} is there already, and is not replaced")
    # SQLite would take them for parts of the copy.
    for rest in (f"{copy}-wal", f"{copy}-journal"):
        if os.path.exists(rest):
            raise LedgerProblem(
                f"{rest} is there, so {copy} may be in use: name another file"
            )


def _copy(ledger: str, part: str) -> None:
    """
    Copy all of the ledger, for those who may read the ledger.
    """
    with (
        reading(ledger) as source,
        _explained(part),
        closing(sqlite3.connect(part, isolation_level=None)) as target,
    ):
        shutil.copymode(ledger, part)
        source.backup(target)
        # One file without -wal and -shm, which anybody can read.
        target.execute("PRAGMA journal_mode = DELETE")


def _checkCopy(part: str, ledger: str) -> None:
    # Nobody else has it, so it can be read without the files that keep readers
    # and writers apart.
    uri = f"{Path(part).as_uri()}?mode=ro&immutable=1"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        problem = next(problems(connection), None)
    if problem is not None:
        raise LedgerDamaged(
            f"the copy of the ledger {ledger} is not sound and was not kept:"
            f" {problem.message}; see what creditsync check says of the ledger"
        )


def _finish(part: str, copy: str) -> None:
    """
    Give the copy its name, once all of it is on disk.
    """
    sync(part, os.O_RDWR)
    os.replace(part, copy)
    sync(os.path.dirname(copy), os.O_RDONLY)
