"""
A lock on a folder, for code that checks which files exist and then acts on the
result. Without it, one process could delete a file that another one has just
created.

The kernel releases the lock when the process ends, in whatever way. There is no
lock file, and no process id in it, which could later be another process's, and in a
container is always 1.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

ALONE: Final = fcntl.LOCK_EX
TOGETHER: Final = fcntl.LOCK_SH

# Seconds to wait. Our own processes hold the lock for milliseconds, so if it takes
# longer, another program has it.
_TIMEOUT: Final = 2.0


@contextmanager
def folderLocked(folder: str, how: int) -> Iterator[None]:
    """
    Hold the lock on a folder.

    This only makes races less likely: if the folder can't be locked, because this
    user may not read it, the file system has no such locks, or another program never
    releases it, the caller goes on without the lock.

    @param how: C{ALONE}, or C{TOGETHER} with other processes that only read.
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
    until = time.monotonic() + _TIMEOUT
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
