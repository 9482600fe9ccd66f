"""
The file of the audit trail: opened, appended to, and opened again.

It is written in a thread, several times a second, with all the lines that came
since the last time. If it can't be written, lines are dropped and counted, and
nothing else is affected. The file itself tells how many are missing, and where.
"""

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from creditsync import _wire as wire

# Seconds for which lines are collected. Handing them to the thread and hearing of its
# end takes some 80 µs of processor time, however few they are: as much as to encode
# a hundred. After each commit that was most of what a trail costs.
INTERVAL: Final = 0.05

# Lines that may wait for a file which can't be written as fast as they come: some
# 25 MB. When there are more, all of them are dropped.
_MAX_WAITING: Final = 100_000

# The kinds of files that can't be a trail: a write to it could block for ever, or
# what was written is gone once it is read.
_KINDS: Final = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def checkKind(path: Path) -> None:
    """
    Check that a trail can be written to this file, if it exists.

    @raise ValueError: It is not a regular file.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    _checkMode(path, mode)


def _checkMode(path: Path, mode: int) -> None:
    for isIt, kind in _KINDS:
        if isIt(mode):
            raise ValueError(f"{path} is {kind}, and the trail needs a regular file")


def timestamp(now: float) -> str:
    """
    A UNIX time as the trail has it: C{2026-01-01T00:00:00.250000Z}.
    """
    text = datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")


@define(eq=False)
class AuditFile:
    """
    The file of one audit trail.

    @ivar now: The UNIX time.
    @ivar run: Executes a blocking function elsewhere, and fires when it has ended.
    @ivar lost: How many lines could not be written.
    """

    path: Path
    _clock: IReactorTime
    _now: Callable[[], float]
    _run: Callable[[Callable[[], None]], "Deferred[None]"]
    lost: int = field(init=False, default=0)
    _descriptor: int | None = field(init=False, default=None)
    # What is to be written, and how many lines that is.
    _lines: list[bytes] = field(init=False, factory=list)
    _waiting: int = field(init=False, default=0)
    _flushing: IDelayedCall | None = field(init=False, default=None)
    # What is being done with the file, whether to open it again next, and whether
    # to write then.
    _working: "Deferred[None] | None" = field(init=False, default=None)
    _isMoved: bool = field(init=False, default=False)
    _isDue: bool = field(init=False, default=False)
    # Lines dropped since the last one that was written, and whether that one is
    # incomplete.
    _gap: int = field(init=False, default=0)
    _isTorn: bool = field(init=False, default=False)

    _log = Logger()

    def open(self) -> None:
        """
        Open the file, to append to it.

        @raise OSError: It can't be written; the message is a sentence.
        """
        try:
            self._descriptor = self._opened()
        except (OSError, ValueError) as e:
            raise OSError(
                f"the audit trail {self.path} can't be written: {_reason(e)}"
            ) from e

    def _opened(self) -> int:
        checkKind(self.path)
        # In case it was replaced since: opening it must not block, nor make a
        # terminal the controlling one of this process.
        descriptor = os.open(
            self.path,
            os.O_WRONLY
            | os.O_APPEND
            | os.O_CREAT
            | os.O_CLOEXEC
            | os.O_NONBLOCK
            | os.O_NOCTTY,
            0o640,
        )
        try:
            _checkMode(self.path, os.fstat(descriptor).st_mode)
        except ValueError:
            os.close(descriptor)
            raise
        # A process that was killed, or had no room, may have left half a line.
        self._isTorn = _isTorn(self.path)
        return descriptor

    def add(self, lines: bytes, count: int = 1) -> None:
        """
        Write lines, each with its end, within L{INTERVAL}.

        @param count: How many they are.
        """
        self._lines.append(lines)
        self._waiting += count
        if self._flushing is None:
            self._flushing = self._clock.callLater(INTERVAL, self._flush)

    def reopen(self) -> None:
        """
        Continue in a file of the same name, as the old one may have been moved
        away. If it can't be opened, continue in the old one.
        """
        # What was booked before the file was moved belongs in that one.
        self._flush()
        self._isMoved = True
        self._work()

    def close(self) -> "Deferred[None]":
        """
        Write what is left, and close the file.

        @return: Fires when that is done. It may be cancelled if it takes too long.
        """
        self._flush()
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        try:
            if self._working is not None:
                await self._working
        finally:
            descriptor, self._descriptor = self._descriptor, None
            self._dropWaiting("the server stopped before they were written")
        if descriptor is not None:
            await self._run(partial(os.close, descriptor))

    def _flush(self) -> None:
        if self._flushing is not None:
            if self._flushing.active():
                self._flushing.cancel()
            self._flushing = None
        if self._waiting > _MAX_WAITING:
            # All of them, so that the gap is where the trail says it is.
            self._dropWaiting("writing it is too slow")
        self._isDue = bool(self._lines)
        self._work()

    def _work(self) -> None:
        """
        Do what there is to do with the file, unless something is being done: the
        rest comes after that.
        """
        if self._working is None and self._descriptor is not None:
            work = Deferred.fromCoroutine(self._workOff(self._descriptor))
            # It may have ended at once.
            self._working = None if work.called else work

    async def _workOff(self, descriptor: int) -> None:
        try:
            while self._isMoved or self._isDue:
                if self._isMoved:
                    self._isMoved = False
                    descriptor = await self._openAgain(descriptor)
                else:
                    self._isDue = False
                    await self._append(descriptor)
        finally:
            self._working = None

    async def _openAgain(self, old: int) -> int:
        opened = [old]

        def replace() -> None:
            opened.append(self._opened())
            os.close(old)

        try:
            await self._run(replace)
        except (OSError, ValueError) as e:
            self._log.error(
                "The audit trail {path} can't be reopened, the old file stays in use:"
                " {why}",
                path=str(self.path),
                why=_reason(e),
            )
        self._descriptor = opened[-1]
        return opened[-1]

    async def _append(self, descriptor: int) -> None:
        lines, self._lines = self._lines, []
        count, self._waiting = self._waiting, 0
        gap = self._gap
        head = b"\n" if self._isTorn else b""
        if gap:
            time = timestamp(self._now())
            members = {"time": time, "outcome": "lost", "lines": gap}
            head += wire.encodeData(members) + b"\n"
        data = b"".join((head, *lines))
        written = [0]

        def write() -> None:
            while written[-1] < len(data):
                rest = data[written[-1] :]
                written.append(written[-1] + os.write(descriptor, rest))

        why: OSError | None = None
        try:
            await self._run(write)
        except OSError as e:
            why = e
        except CancelledError:
            self._lines = lines + self._lines
            self._waiting += count
            raise
        end = written[-1]
        if gap and end >= len(head):
            self._gapWritten(gap)
        if why is not None:
            self.drop(data.count(b"\n", max(end, len(head))), _reason(why))
        if end:
            self._isTorn = data[end - 1 : end] != b"\n"

    def _dropWaiting(self, why: str) -> None:
        if self._waiting:
            self.drop(self._waiting, why)
        self._lines, self._waiting = [], 0

    def drop(self, count: int, why: str) -> None:
        """
        Count lines that are not written, and log the first of them.
        """
        if not self._gap:
            self._log.error(
                "The audit trail {path} can't be written, lines are dropped until it"
                " can be written again; bookings are not affected: {why}",
                path=str(self.path),
                why=why,
            )
        self._gap += count
        self.lost += count

    def _gapWritten(self, count: int) -> None:
        """
        Log that the file is written again, and that it tells how many lines are
        missing.
        """
        self._log.warn(
            "The audit trail {path} is written again; {count} lines were lost.",
            path=str(self.path),
            count=count,
        )
        self._gap -= count


def _isTorn(path: Path) -> bool:
    """
    Whether the last line of a file lacks its end, as far as this user may know.
    """
    with suppress(OSError):
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            size = os.fstat(file).st_size
            return size > 0 and os.pread(file, 1, size - 1) != b"\n"
        finally:
            os.close(file)
    return False


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
