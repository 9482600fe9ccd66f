"""
C{creditsync serve} with a wall clock that steps on command:

    python -m tests.load.stepping FILE NAME [options of creditsync serve]

C{FILE} is as long as one C{double}: the seconds by which the clock is wrong,
which whoever started this may change at any time. C{NAME} is that of a bug to
plant, or empty. What reads the clock in C, such as SQLite, is not deceived.
"""

import datetime
import mmap
import sys
import time
from collections.abc import Callable
from pathlib import Path


def shared(path: Path) -> "memoryview[float]":
    """
    The one number in this file, mapped into memory, so that a change is
    visible at once.
    """
    with path.open("r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 8)).cast("d")


def deceive(offset: Callable[[], float]) -> None:
    """
    Shift this process's wall clock by that number, in every module that is
    imported from now on.
    """
    seconds, nanoseconds = time.time, time.time_ns
    time.time = lambda: seconds() + offset()
    time.time_ns = lambda: nanoseconds() + int(offset() * 1e9)

    class Stepped(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Stepped":
            return cls.fromtimestamp(time.time(), tz)

        @classmethod
        def utcnow(cls) -> "Stepped":
            return cls.now(datetime.UTC).replace(tzinfo=None)

    datetime.datetime = Stepped  # type: ignore[misc]


def main() -> None:
    """
    Serve.
    """
    clock = shared(Path(sys.argv[1]))
    deceive(lambda: clock[0])
    # Twisted takes time.time as it finds it: nothing of it was imported before.
    assert "twisted" not in sys.modules
    from creditsync._cli import serve
    from tests.planted.bugs import plant

    plant(sys.argv[2] or None)
    serve.run(sys.argv[3:])


if __name__ == "__main__":
    main()
