"""
A lock on a folder, for those who look which files are in it and then act on what
they saw: two processes that did so at once would each take away what the other
has just made.

The kernel lets go of it when the process ends, however it ends. It leaves no file
behind, and no number of a process, which another process may have later and
process 1 of every container has.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

ALONE: Final = fcntl.LOCK_EX
TOGETHER: Final = fcntl.LOCK_SH

# Seconds after which whoever has the lock is not one of us, who need it for
# milliseconds.
_PATIENCE: Final = 2.0


@contextmanager
def folderLocked(folder: str, how: int) -> Iterator[None]:
    """
    Keep others who do the same away from a folder meanwhile.

    It only narrows races: where a folder can't be locked, because this user may not
    read it, its file system has no such locks, or somebody else never lets go, the
    work is done all the same.

    @param how: C{ALONE}, or C{TOGETHER} with others who only look.
    """
    try:
        file = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield
        return
    try:
        _wait(file, how)
        yield
    finally:
        os.close(file)


def _wait(file: int, how: int) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until:
                return
            time.sleep(0.005)
        except OSError:
            return
