"""
A copy of a ledger that is in use, which begins a life of its own.

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
from secrets import randbelow
from typing import Final

from creditsync.codes import MAX_SAFE_INTEGER
from creditsync.errors import LedgerDamaged, LedgerInUse, LedgerProblem
from creditsync.ledger._checking import findings
from creditsync.ledger._opening import sync
from creditsync.ledger._reading import reading
from creditsync.ledger._upgrading import beginLife

# Numbers of copies begin behind a multiple of this.
_ROUND: Final = 1_000_000_000


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
        _beginLife(target)


def _beginLife(copy: sqlite3.Connection) -> None:
    """
    Give the copy an epoch of its own, and move its order numbers on: the ledger goes
    on without it, so clients may know places and numbers that the copy lacks.
    """
    # An incomplete copy is thrown away, so a rollback journal on disk is not needed.
    copy.execute("PRAGMA journal_mode = MEMORY")
    copy.execute("BEGIN")
    [[head]] = copy.execute("SELECT ifnull(max(place), 0) FROM journal")
    beginLife(copy, head, "copied")
    for [mark] in copy.execute("SELECT next_order FROM order_mark").fetchall():
        copy.execute("UPDATE order_mark SET next_order = ?", (movedOn(mark),))
    copy.execute("COMMIT")


def movedOn(mark: int) -> int:
    """
    An order number so far behind the mark that the ledger never gets there. It is
    random, so that two copies of one ledger don't go on with the same number.

    Nothing about the copy's future is known, not even an upper bound of the numbers
    that the ledger will have assigned when the copy is restored. So the distance is
    a share of all numbers that are left, small enough for hundreds of copies of
    copies: from 3.5e13 numbers on in a young ledger.
    """
    left = MAX_SAFE_INTEGER - mark
    moved = mark + left // 256 + randbelow(left // 32 - left // 256 + 1)
    # Easier to read, as long as there are plenty.
    return moved if left < 1000 * _ROUND else (moved // _ROUND + 1) * _ROUND + 1


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
