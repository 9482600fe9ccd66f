"""
Noticing that the files of an open ledger were renamed, deleted or replaced.

SQLite does not: it goes on writing into files that no longer have their names, and of
deleted ones everything is lost when the process ends. The next start would find no
ledger, make an empty one, and book again what was booked under the same keys. So each
commit looks first, and notes in the lock file that the ledger is gone.
"""

import os
from contextlib import suppress
from typing import Final, Self

from attrs import define

from creditsync.errors import LedgerProblem

# What the lock file has when the ledger has lost its name.
_GONE: Final = b"gone"


@define(frozen=True)
class Presence:
    """
    The files that were opened, by the names that they had.

    @ivar _files: The device and the number of the database and of its WAL file.
    """

    _path: str
    _files: list[tuple[int, int] | None]

    @classmethod
    def now(cls, path: str) -> Self:
        """
        What there is under the name of a ledger.

        @param path: Without symbolic links.
        """
        return cls(path, [_identity(path + end) for end in ("", "-wal")])

    def check(self) -> None:
        """
        Check that these are still the files.

        @raise LedgerProblem: They are not.
        """
        path = self._path
        if Presence.now(path) == self:
            return
        if not os.path.exists(path):
            # The folder may be gone too.
            with suppress(OSError):
                _note(path + ".lock")
        raise LedgerProblem(
            f"the ledger {path} was renamed, deleted or replaced while this server"
            f" used it"
        )


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _note(lock: str) -> None:
    # Not by a rename: the server's lock is on this file.
    with open(lock, "wb") as file:
        file.write(_GONE)


def isGone(lock: int) -> bool:
    """
    Whether the lock file says that the ledger has lost its name.
    """
    return os.pread(lock, len(_GONE), 0) == _GONE


def checkReturned(path: str, lock: int) -> None:
    """
    Check that a ledger that has lost its name has it again.

    @raise LedgerProblem: It has not.
    """
    if isGone(lock) and not os.path.exists(path):
        raise LedgerProblem(
            f"the ledger {path} was renamed or deleted while a server used it: put it"
            f" back, or restore a backup; to begin with an empty one, delete"
            f" {path}.lock first"
        )
