"""
A copy of a ledger that is in use.

SQLite copies all pages in one step, as they are at one moment; the server goes on
meanwhile. A copy in several steps starts again whenever the server commits between
two of them, so with a busy server it would never end.
"""

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from creditsync.errors import LedgerDamaged, LedgerInUse, LedgerProblem
from creditsync.ledger._checking import findings
from creditsync.ledger._opening import sync
from creditsync.ledger._reading import reading


def backUp(ledger: str, copy: str, overwrite: bool = False) -> None:
    """
    Copy a ledger, prove that the copy is sound, and only then give it its name.
    When this returns, all of it is on disk.

    @param overwrite: Whether to replace an existing file.
    @raise LedgerProblem: It can't be copied; an existing file is unchanged.
    """
    ledger, copy = os.path.realpath(ledger), os.path.realpath(copy)
    if copy in {ledger + end for end in ("", "-wal", "-shm", "-journal", ".lock")}:
        raise LedgerProblem(f"{copy} is part of the ledger itself: name another file")
    with _explainErrors(copy), _part(copy) as part:
        _checkName(copy, overwrite)
        _copy(ledger, part)
        _checkCopy(part, ledger)
        _finish(part, copy)


@contextmanager
def _explainErrors(copy: str) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as e:
        raise LedgerProblem(f"the copy {copy} can't be made: {e}") from e


@contextmanager
def _part(copy: str) -> Iterator[str]:
    """
    The temporary name of the copy: an empty file, locked by this process.

    @raise LedgerInUse: Another process is copying to it.
    """
    part = f"{copy}.part"
    held = os.open(part, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The other process may have finished since, and renamed what was opened
        # here: then this is a lock on a finished copy.
        if not os.path.samestat(os.stat(part), os.fstat(held)):
            raise BlockingIOError
    except (BlockingIOError, FileNotFoundError):
        os.close(held)
        raise LedgerInUse(f"another process is copying to {copy}") from None
    try:
        # It has content if an earlier copy was killed.
        os.truncate(held, 0)
        yield part
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    finally:
        os.close(held)


def _checkName(copy: str, overwrite: bool) -> None:
    if os.path.exists(copy) and not overwrite:
        raise LedgerProblem(f"{copy} already exists and is not replaced")
    # SQLite would read them as parts of the copy.
    for rest in (f"{copy}-wal", f"{copy}-journal"):
        if os.path.exists(rest):
            raise LedgerProblem(
                f"{rest} exists, so {copy} may be in use: name another file"
            )


def _copy(ledger: str, part: str) -> None:
    """
    Copy the whole ledger, with the permissions of its file.
    """
    with (
        reading(ledger) as source,
        _explainErrors(part),
        closing(sqlite3.connect(part, isolation_level=None)) as target,
    ):
        shutil.copymode(ledger, part)
        source.backup(target)
        # So that it can be read without -wal and -shm files, which need write
        # permission for the folder.
        target.execute("PRAGMA journal_mode = DELETE")


def _checkCopy(part: str, ledger: str) -> None:
    # No other process has it open, so it needs no files to synchronize with them.
    uri = f"{Path(part).as_uri()}?mode=ro&immutable=1"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        finding = next(findings(connection), None)
    if finding is not None:
        raise LedgerDamaged(
            f"the copy of the ledger {ledger} is not sound and was not kept:"
            f" {finding.message}; run creditsync check on the ledger"
        )


def _finish(part: str, copy: str) -> None:
    """
    Give the copy its name, after all of it is on disk.
    """
    sync(part, os.O_RDWR)
    os.replace(part, copy)
    sync(os.path.dirname(copy), os.O_RDONLY)
