"""
Each call of the disk in a run made to fail:

    python -m tests.crash.disk_errors [--operations N] [--seed N] [--jobs N]
                                      [--plant NAME] [--json FILE]

The server without its sockets, on a clock of its own, makes a ledger, books
operations, stops, starts again, books and stops. That is done once for each way
in which each call of the disk can fail: with EIO and ENOSPC, of a write nothing
or half of it done, of a sync some or none of it on disk, once or until the next
start. After a commit that failed the server must say so (C{whenFailed}) and book
nothing more. Then the ledger is opened as the next start would find it, and as it
would find it after a power cut: what was answered with 200 must be there, what
was refused must not, whatever was answered with 504
(L{tests.crash.ledgers}).
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from errno import EIO, ENOSPC, errorcode
from functools import partial
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final

from attrs import Factory, define, field
from twisted.logger import globalLogBeginner

from tests.crash.dialogue import Dialogue
from tests.crash.disk import Disk, Fault
from tests.crash.ledgers import Ledgers
from tests.crash.life import NOW, Life
from tests.crash.platter import (
    CREATE,
    SYNC,
    SYNC_FOLDER,
    TRUNCATE,
    UNLINK,
    WRITE,
    Call,
    inMemory,
    place,
)
from tests.crash.record import Violation
from tests.crash.recording import hurry
from tests.crash.run import LEDGER
from tests.figures import Figures
from tests.planted.bugs import plant

# Pages in the WAL after which it is checkpointed.
_CHECKPOINT: Final = 20
# Power cuts after each run, in addition to the basic ones.
_CUTS: Final = 3

# The maximum number of violations to look for.
_ENOUGH: Final = 3

# More bytes and calls than there can be.
_ALL: Final = 10**9


@define
class FailureNotifier:
    """
    A way in which a call can fail.

    @ivar lasts: Whether every later call of its kind fails too, until the next
        start.
    """

    error: int
    done: int = 0
    lasts: bool = False


# The ways in which each kind of call can fail.
WAYS: Final = {
    CREATE: [FailureNotifier(EIO), FailureNotifier(ENOSPC, lasts=True)],
    WRITE: [
        FailureNotifier(EIO),
        FailureNotifier(EIO, 2048),
        FailureNotifier(ENOSPC, 11),
        FailureNotifier(ENOSPC, lasts=True),
    ],
    TRUNCATE: [FailureNotifier(EIO), FailureNotifier(ENOSPC)],
    SYNC: [
        FailureNotifier(EIO),
        FailureNotifier(EIO, 3),
        FailureNotifier(EIO, _ALL),
        FailureNotifier(ENOSPC),
        FailureNotifier(EIO, lasts=True),
    ],
    SYNC_FOLDER: [FailureNotifier(EIO)],
    UNLINK: [FailureNotifier(EIO)],
}


@define(eq=False)
class Injection:
    """
    The call that fails, and how: a L{Disk.fault}.

    @ivar number: Which call of the run; none if it is negative.
    @ivar calls: The number of calls so far.
    """

    number: int = -1
    how: FailureNotifier = Factory(partial(FailureNotifier, EIO))
    calls: list[Call] = Factory(list)
    _isOver: bool = field(default=False, init=False)

    def __str__(self) -> str:
        """
        The call, so that it can be reproduced.
        """
        if not self.hasCome:
            return f"call {self.number}, which never came"
        call = self.calls[self.number]
        how = f"{errorcode[self.how.error]}, {self.how.done} done"
        return f"call {self.number} ({call.kind} {call.name}) failing with {how}"

    @property
    def hasCome(self) -> bool:
        """
        Whether the call was made.
        """
        return 0 <= self.number < len(self.calls)

    def __call__(self, call: Call) -> Fault | None:
        number = len(self.calls)
        self.calls.append(call)
        isNow = number == self.number
        isStill = self.hasCome and self.how.lasts and not self._isOver
        if isNow or (isStill and call.kind == self.calls[self.number].kind):
            return Fault(self.how.error, self.how.done)
        return None

    def end(self) -> None:
        """
        Let all later calls succeed.
        """
        self._isOver = True


def trial(folder: Path, operations: int, seed: int, injection: Injection) -> None:
    """
    Two lives on a new ledger, or as many as there are until the call fails,
    and the next start.

    @raise Violation: A reply was false.
    """
    disk = Disk(folder)
    disk.fault = injection
    dialogue = Dialogue("manager", Random(seed))
    with disk.installed():
        for _ in range(2):
            life = Life(folder / LEDGER, dialogue)
            if life.start():
                life.talk(operations // 2)
                life.stop()
            elif not injection.hasCome:
                raise Violation("the server does not start")
            if injection.hasCome:
                break
        injection.end()
    _restart(disk, dialogue, Random(seed))


def _restart(disk: Disk, dialogue: Dialogue, random: Random) -> None:
    """
    Check what the next start finds, also after a power cut.
    """
    known = [asked.trade is not None for asked in dialogue.booked()]
    fewest = len(known) - known[::-1].index(True) if any(known) else 0
    ledgers = Ledgers(dialogue.suppose(NOW))
    for files in chain(disk.plain(), (disk.crash(random) for _ in range(_CUTS))):
        with TemporaryDirectory(dir=inMemory()) as folder:
            place(files, folder)
            ledgers.check(Path(folder) / LEDGER, fewest, len(known), dialogue.last)


def healthy(operations: int, seed: int) -> list[str]:
    """
    The kinds of the calls of a run without failures.

    @raise Violation: That run is not sound.
    """
    nothing = Injection()
    _try(operations, seed, nothing)
    return [call.kind for call in nothing.calls]


def _try(operations: int, seed: int, injection: Injection) -> None:
    with TemporaryDirectory(dir=inMemory()) as folder:
        trial(Path(folder), operations, seed, injection)


def attempt(operations: int, seed: int, injection: Injection) -> str | None:
    """
    @return: The violation, if there was one.
    """
    try:
        _try(operations, seed, injection)
    except Violation as violation:
        return f"with {injection}: {violation}"
    assert injection.hasCome, injection
    return None


def _prepare(bug: str | None) -> None:
    # The server logs each failed commit.
    globalLogBeginner.beginLoggingTo([lambda event: None], redirectStandardIO=False)
    hurry(_CHECKPOINT)
    plant(bug)


def main(arguments: Sequence[str]) -> int:
    """
    @return: The exit status.
    """
    options = _options(arguments)
    start = time.monotonic()
    _prepare(options.plant)
    try:
        calls = healthy(options.operations, options.seed)
    except Violation as violation:
        print(f"VIOLATION: while no call failed: {violation}")
        return 1
    todo = [Injection(n, how) for n, kind in enumerate(calls) for how in WAYS[kind]]
    look = partial(attempt, options.operations, options.seed)
    with ProcessPoolExecutor(options.jobs, get_context("fork")) as pool:
        found = filter(None, pool.map(look, todo, chunksize=4))
        violations = list(islice(found, _ENOUGH))
        pool.shutdown(cancel_futures=True)
    figures = Figures()
    for kind, number in Counter(calls).items():
        figures[f"calls of the disk: {kind}"] = number
    figures["ways to fail, in all"] = len(todo)
    figures["seconds"] = round(time.monotonic() - start, 1)
    figures.show(options.json)
    for why in violations:
        print(f"VIOLATION: {why}")
    if violations:
        return 1
    print(f"sound: {len(todo)} runs, and no false answer in any")
    return 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.crash.disk_errors")
    add = parser.add_argument
    add("--operations", type=int, default=24, help="operations of each run")
    add("--seed", type=int, default=1)
    add("--jobs", type=int, default=os.cpu_count() or 1, help="processes that run")
    add("--plant", metavar="NAME", help="a bug to plant in the server")
    add("--json", type=Path, metavar="FILE", help="where to write the figures")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
