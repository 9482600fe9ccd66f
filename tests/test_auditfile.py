"""
Tests for L{creditsync._auditfile}.
"""

import json
import os
import socket
from collections.abc import Callable
from errno import ENOSPC
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, execute

from creditsync import _auditfile
from creditsync._auditfile import INTERVAL, checkKind
from creditsync.audit import AuditTrail
from tests.test_audit import NOW, AuditTestCase
from tests.test_tap import logTo


class FullDisk:
    """
    An C{os.write} on a disk with limited space.

    @ivar room: How many bytes can still be written.
    @ivar writes: How many writes there were.
    """

    def __init__(self) -> None:
        self.write = os.write
        self.room = 10**9
        self.writes = 0

    def __call__(self, file: int, data: bytes) -> int:
        self.writes += 1
        if not self.room:
            raise OSError(ENOSPC, "No space left on device")
        written = self.write(file, data[: self.room])
        self.room -= written
        return written


class FileTests(AuditTestCase):
    """
    Tests for the file, and for bookings when it can't be written.
    """

    def setUp(self) -> None:
        super().setUp()
        self.disk = FullDisk()
        self.patch(os, "write", self.disk)
        self.log = logTo(self)

    def credit(self, extID: str) -> None:
        """
        Book one credit, and check that it is answered.
        """
        self.asks(extID)
        self.commit()
        [reply] = self.client.replies()
        self.assertEqual((reply["extID"], reply["status"]), (extID, 200))

    def extIDs(self) -> list[Any]:
        """
        The extIDs of the lines, and in a gap the number of missing lines.
        """
        return [line.get("extID", line.get("lines")) for line in self.lines()]

    def test_appended(self) -> None:
        """
        A server continues in the file of the one before it. Other users can't
        read the file.
        """
        self.path.write_bytes(b'{"extID":"before"}\n')
        self.credit("a")
        self.assertEqual(self.extIDs(), ["before", "a"])
        self.path.unlink()
        self.trail.reopen()
        self.assertEqual(self.path.stat().st_mode & 0o027, 0)

    def test_reopened(self) -> None:
        """
        After the file was moved away and opened again the lines go to a new
        file, and none is lost.
        """
        self.credit("a")
        moved = self.path.rename(f"{self.path}.1")
        self.credit("b")
        self.server.reload()
        self.credit("c")
        self.assertEqual(self.extIDs(), ["c"])
        self.path = moved
        self.assertEqual(self.extIDs(), ["a", "b"])

    def test_reopenedAtOnce(self) -> None:
        """
        A line of a credit that was booked right before the file is opened again
        is in the old file.
        """
        self.asks("a")
        self.reactor.advance(0)
        self.ledger.release()
        self.reactor.advance(0)
        moved = self.path.rename(f"{self.path}.1")
        self.server.reload()
        self.assertEqual(self.path.read_bytes(), b"")
        self.path = moved
        self.assertEqual(self.extIDs(), ["a"])

    def test_collected(self) -> None:
        """
        The lines of all commits within the interval are written at once, and
        nothing is written while there are none.
        """
        for extID in ("a", "b", "c"):
            self.asks(extID)
            self.reactor.advance(0)
            self.ledger.release()
            self.reactor.advance(0)
        self.assertEqual(self.disk.writes, 0)
        self.reactor.advance(INTERVAL)
        self.assertEqual(self.disk.writes, 1)
        self.assertEqual(self.extIDs(), ["a", "b", "c"])
        self.assertEqual(self.disk.writes, 1)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_notReopened(self) -> None:
        """
        If the file can't be reopened, the old one stays in use, and that is logged.
        """
        self.credit("a")
        moved = self.path.rename(f"{self.path}.1")
        self.path.mkdir()
        self.server.reload()
        self.credit("b")
        self.assertEqual(
            self.log,
            [
                (
                    "error",
                    f"The audit trail {self.path} can't be reopened, the old file"
                    f" stays in use: {self.path} is a folder, and the trail needs a"
                    " regular file",
                )
            ],
        )
        self.path = moved
        self.assertEqual(self.extIDs(), ["a", "b"])

    def test_full(self) -> None:
        """
        With a full disk lines are dropped, and credits are booked all the same.
        That is logged once, and again when there is space; the trail says how
        many lines are missing.
        """
        self.credit("a")
        self.disk.room = 0
        for extID in ("b", "c", "d"):
            self.credit(extID)
        self.disk.room = 10**9
        self.credit("e")
        self.assertEqual(self.extIDs(), ["a", 3, "e"])
        self.assertEqual(self.trail.lost, 3)
        self.assertEqual(
            self.log,
            [
                (
                    "error",
                    f"The audit trail {self.path} can't be written, lines are dropped"
                    " until it can be written again; bookings are not affected: No"
                    " space left on device",
                ),
                (
                    "warn",
                    f"The audit trail {self.path} is written again; 3 lines were lost.",
                ),
            ],
        )

    def test_halfALine(self) -> None:
        """
        A line of which only a part could be written does not spoil the next.
        """
        self.credit("a")
        self.disk.room = 100
        self.credit("b")
        self.disk.room = 10**9
        self.credit("c")
        first, half, *rest = self.path.read_bytes().splitlines()
        self.assertEqual((json.loads(first)["extID"], len(half)), ("a", 100))
        self.path.write_bytes(b"".join(line + b"\n" for line in rest))
        self.assertEqual(self.extIDs(), [1, "c"])

    def test_halfALineOfBefore(self) -> None:
        """
        Half a line that an earlier server left, when it was killed or stopped on a
        full disk, does not spoil the first line.
        """
        self.path.write_bytes(b'{"extID":"before"}\n{"ext')
        self.trail.reopen()
        self.credit("a")
        self.credit("b")
        before, half, *rest = self.path.read_bytes().splitlines()
        self.assertEqual((before, half), (b'{"extID":"before"}', b'{"ext'))
        self.assertEqual([json.loads(line)["extID"] for line in rest], ["a", "b"])

    def test_halfABatch(self) -> None:
        """
        Of a batch that was cut off, only the lines that are not in the file count
        as missing.
        """
        self.credit("a")
        size = self.path.stat().st_size
        for extID in ("b", "c", "d"):
            self.asks(extID)
        self.disk.room = size + 50
        self.commit()
        self.disk.room = 10**9
        self.assertEqual(len(self.client.replies()), 3)
        self.credit("e")
        *whole, _, gap, last = self.path.read_bytes().splitlines()
        self.assertEqual([json.loads(line)["extID"] for line in whole], ["a", "b"])
        self.assertEqual(json.loads(gap)["lines"], 2)
        self.assertEqual(json.loads(last)["extID"], "e")


class KindTests(AuditTestCase):
    """
    Tests for files that can't be a trail.
    """

    def kinds(self) -> list[tuple[str, str]]:
        """
        A path of each kind, and the name of the kind.
        """
        folder = self.path.parent
        os.mkfifo(folder / "pipe")
        # A pipe that is being read could be opened, and would block later.
        os.mkfifo(folder / "read")
        reader = os.open(folder / "read", os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        bound = socket.socket(socket.AF_UNIX)
        self.addCleanup(bound.close)
        bound.bind(str(folder / "socket"))
        (folder / "link").symlink_to("pipe")
        return [
            (f"{folder}/pipe", "a pipe"),
            (f"{folder}/read", "a pipe"),
            (f"{folder}/link", "a pipe"),
            (f"{folder}/socket", "a socket"),
            ("/dev/null", "a device"),
            ("/dev/full", "a device"),
            (str(folder), "a folder"),
        ]

    def test_options(self) -> None:
        """
        Only a regular file is accepted, and any other is reported by its kind.
        """
        for path, kind in self.kinds():
            e = self.assertRaises(ValueError, checkKind, Path(path))
            self.assertEqual(
                str(e), f"{path} is {kind}, and the trail needs a regular file"
            )
        checkKind(self.path)
        checkKind(self.path.parent / "new")

    def test_opened(self) -> None:
        """
        A path that has become another kind since the options were read is
        reported too, and opening it does not block.
        """
        for path, kind in self.kinds():
            trail = AuditTrail(Path(path), self.reactor, lambda: NOW, execute)
            e = self.assertRaises(OSError, trail.open)
            self.assertIn(f"{path} is {kind}, and", str(e))

    def test_raced(self) -> None:
        """
        A path that becomes a pipe right before it is opened is refused without
        blocking, and nothing stays open.
        """
        self.kinds()
        self.patch(_auditfile, "checkKind", lambda path: None)
        before = os.listdir("/proc/self/fd")
        for name in ("pipe", "read"):
            path = self.path.parent / name
            trail = AuditTrail(path, self.reactor, lambda: NOW, execute)
            self.assertRaises(OSError, trail.open)
        self.assertEqual(os.listdir("/proc/self/fd"), before)

    def test_reopened(self) -> None:
        """
        If a rotation leaves something else in its place, the old file stays in use.
        """
        log = logTo(self)
        moved = self.path.rename(f"{self.path}.1")
        os.mkfifo(self.path)
        self.server.reload()
        self.asks("a")
        self.commit()
        self.assertEqual(len(self.client.replies()), 1)
        self.assertIn(f"{self.path} is a pipe, and the trail needs", log[0][1])
        self.path = moved
        self.assertEqual(len(self.lines()), 1)

    def test_noFolder(self) -> None:
        """
        A file that can't be created is reported in a sentence.
        """
        trail = AuditTrail(Path("/nowhere/audit"), self.reactor, lambda: NOW, execute)
        e = self.assertRaises(OSError, trail.open)
        self.assertEqual(
            str(e),
            "the audit trail /nowhere/audit can't be written: No such file or"
            " directory",
        )


class SlowTests(AuditTestCase):
    """
    Tests for a slow file system.
    """

    def setUp(self) -> None:
        super().setUp()
        self.log = logTo(self)
        self.waiting: list[tuple[Callable[[], None], Deferred[None]]] = []
        self.trail._file._run = self.hold

    def hold(self, function: Callable[[], None]) -> "Deferred[None]":
        """
        Run this function only when the test says so.
        """
        done: Deferred[None] = Deferred()
        self.waiting.append((function, done))
        return done

    def goOn(self) -> None:
        """
        Run the function that is waiting.
        """
        [(function, done)] = self.waiting
        self.waiting.clear()
        execute(function).chainDeferred(done)

    def credit(self, *extIDs: str) -> None:
        """
        Book credits in one commit, and check that they are answered.
        """
        for extID in extIDs:
            self.asks(extID)
        self.commit()
        self.assertEqual(
            [(reply["extID"], reply["status"]) for reply in self.client.replies()],
            [(extID, 200) for extID in extIDs],
        )

    def extIDs(self) -> list[Any]:
        """
        The extIDs of the lines, and in a gap the number of missing lines.
        """
        return [line.get("extID", line.get("lines")) for line in self.lines()]

    def test_nobodyWaits(self) -> None:
        """
        While a write takes its time, credits are booked and answered; then all
        their lines are written at once, in order.
        """
        self.credit("a")
        self.credit("b")
        self.credit("c", "d")
        self.assertEqual(self.extIDs(), [])
        self.goOn()
        self.assertEqual(self.extIDs(), ["a"])
        self.goOn()
        self.assertEqual(self.extIDs(), ["a", "b", "c", "d"])
        self.assertEqual(self.waiting, [])

    def test_interval(self) -> None:
        """
        Lines that come during a write wait for the end of their own interval.
        """
        self.credit("a")
        self.asks("b")
        self.reactor.advance(0)
        self.ledger.release()
        self.reactor.advance(0)
        self.goOn()
        self.assertEqual(self.waiting, [])
        self.reactor.advance(INTERVAL)
        self.goOn()
        self.assertEqual(self.extIDs(), ["a", "b"])

    def test_reopened(self) -> None:
        """
        Lines that were being written at a reload are in the old file, and those
        that came later in the new one.
        """
        self.credit("a")
        moved = self.path.rename(f"{self.path}.1")
        self.server.reload()
        self.credit("b")
        for _ in range(3):
            self.goOn()
        self.assertEqual(self.extIDs(), ["b"])
        self.path = moved
        self.assertEqual(self.extIDs(), ["a"])

    def test_bound(self) -> None:
        """
        The number of waiting lines is limited. Beyond it they are dropped and
        counted, and the trail says so in their place.
        """
        self.patch(_auditfile, "_MAX_WAITING", 3)
        self.credit("a")
        self.credit("b", "c", "d")
        self.credit("e")
        self.credit("f")
        self.goOn()
        self.goOn()
        self.assertEqual(self.extIDs(), ["a", 4, "f"])
        self.assertEqual(self.trail.lost, 4)
        self.assertEqual(
            self.log,
            [
                (
                    "error",
                    f"The audit trail {self.path} can't be written, lines are dropped"
                    " until it can be written again; bookings are not affected:"
                    " writing it is too slow",
                ),
                (
                    "warn",
                    f"The audit trail {self.path} is written again; 4 lines were lost.",
                ),
            ],
        )

    def test_stop(self) -> None:
        """
        The stop waits until everything is written.
        """
        self.credit("a")
        self.credit("b")
        self.client.goes()
        stopped = self.server.stopService()
        self.reactor.advance(0.2)
        self.assertNoResult(stopped)
        for _ in range(3):
            self.goOn()
        self.successResultOf(stopped)
        self.assertEqual(self.extIDs(), ["a", "b"])
        self.assertIsNone(self.trail._file._descriptor)

    def test_stopIsBounded(self) -> None:
        """
        The stop waits for 2 seconds at most, and logs that lines were dropped.
        """
        self.credit("a")
        self.credit("b")
        self.client.goes()
        stopped = self.server.stopService()
        self.reactor.advance(0.2)
        self.reactor.advance(2)
        self.successResultOf(stopped)
        self.assertIsNone(self.trail._file._descriptor)
        self.assertEqual(self.trail.lost, 2)
        self.assertIn("the server stopped before they were written", self.log[0][1])
        self.assertEqual(self.reactor.getDelayedCalls(), [])
