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
from creditsync._auditfile import checkKind
from creditsync.audit import AuditTrail
from tests.test_audit import NOW, AuditTestCase
from tests.test_tap import logTo


class FullDisk:
    """
    An C{os.write} on a disk with room for so many bytes.
    """

    def __init__(self) -> None:
        self.write = os.write
        self.room = 10**9

    def __call__(self, file: int, data: bytes) -> int:
        if not self.room:
            raise OSError(ENOSPC, "No space left on device")
        written = self.write(file, data[: self.room])
        self.room -= written
        return written


class FileTests(AuditTestCase):
    """
    The file, and what becomes of money when it can't be written.
    """

    def setUp(self) -> None:
        super().setUp()
        self.disk = FullDisk()
        self.patch(os, "write", self.disk)
        self.log = logTo(self)

    def credit(self, extID: str) -> None:
        """
        Have a credit booked and answered.
        """
        self.asks(extID)
        self.commit()
        [reply] = self.client.replies()
        self.assertEqual((reply["extID"], reply["status"]), (extID, 200))

    def told(self) -> list[Any]:
        """
        The extIDs of the lines, or how many lines are missing there.
        """
        return [line.get("extID", line.get("lines")) for line in self.lines()]

    def test_appended(self) -> None:
        """
        A server goes on where the one before it ended, in a file that not
        everybody can read.
        """
        self.path.write_bytes(b'{"extID":"before"}\n')
        self.credit("a")
        self.assertEqual(self.told(), ["before", "a"])
        self.path.unlink()
        self.trail.reopen()
        self.assertEqual(self.path.stat().st_mode & 0o027, 0)

    def test_reopened(self) -> None:
        """
        After the file was moved away and opened again the lines go to a new
        one, and none is lost.
        """
        self.credit("a")
        moved = self.path.rename(f"{self.path}.1")
        self.credit("b")
        self.server.reload()
        self.credit("c")
        self.assertEqual(self.told(), ["c"])
        self.path = moved
        self.assertEqual(self.told(), ["a", "b"])

    def test_notReopened(self) -> None:
        """
        If it can't be reopened, the old file stays in use, and the log says so.
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
        self.assertEqual(self.told(), ["a", "b"])

    def test_full(self) -> None:
        """
        A full disk costs lines and no money; the log says so once, and again
        when it is over; the trail itself says how many are missing.
        """
        self.credit("a")
        self.disk.room = 0
        for extID in ("b", "c", "d"):
            self.credit(extID)
        self.disk.room = 10**9
        self.credit("e")
        self.assertEqual(self.told(), ["a", 3, "e"])
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
        A line for which there was only half the room does not spoil the next.
        """
        self.credit("a")
        self.disk.room = 100
        self.credit("b")
        self.disk.room = 10**9
        self.credit("c")
        first, half, *rest = self.path.read_bytes().splitlines()
        self.assertEqual((json.loads(first)["extID"], len(half)), ("a", 100))
        self.path.write_bytes(b"".join(line + b"\n" for line in rest))
        self.assertEqual(self.told(), [1, "c"])

    def test_halfALineOfBefore(self) -> None:
        """
        Half a line that the server before had left, when it was killed or ended on
        a full disk, does not spoil the first line.
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
        Of a batch that was cut, the lines that are there are not missing.
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
    What can't be a trail.
    """

    def kinds(self) -> list[tuple[str, str]]:
        """
        A path of each kind, and what the kind is called.
        """
        folder = self.path.parent
        os.mkfifo(folder / "pipe")
        # A pipe that somebody reads could be opened, and would block later.
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
        Only a regular file is taken for one, and any other is told by its kind.
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
        It is found out too if it has become one since the options were read, and
        nothing waits for it.
        """
        for path, kind in self.kinds():
            trail = AuditTrail(Path(path), self.reactor, lambda: NOW, execute)
            e = self.assertRaises(OSError, trail.open)
            self.assertIn(f"{path} is {kind}, and", str(e))

    def test_raced(self) -> None:
        """
        So it is if it becomes one in the very last moment, where nothing is
        waited for, written to it or stays open.
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
        After a rotation that has put something else there the old file stays in use.
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
        A file that can't be made is told in a sentence.
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
    A file system that takes its time.
    """

    def setUp(self) -> None:
        super().setUp()
        self.log = logTo(self)
        self.waiting: list[tuple[Callable[[], None], Deferred[None]]] = []
        self.trail._file._run = self.hold

    def hold(self, function: Callable[[], None]) -> "Deferred[None]":
        """
        Have the file system take its time for this.
        """
        done: Deferred[None] = Deferred()
        self.waiting.append((function, done))
        return done

    def goOn(self) -> None:
        """
        Let it do one thing.
        """
        [(function, done)] = self.waiting
        self.waiting.clear()
        execute(function).chainDeferred(done)

    def credit(self, *extIDs: str) -> None:
        """
        Have credits booked and answered.
        """
        for extID in extIDs:
            self.asks(extID)
        self.commit()
        self.assertEqual(
            [(reply["extID"], reply["status"]) for reply in self.client.replies()],
            [(extID, 200) for extID in extIDs],
        )

    def told(self) -> list[Any]:
        """
        The extIDs of the lines, or how many lines are missing there.
        """
        return [line.get("extID", line.get("lines")) for line in self.lines()]

    def test_nobodyWaits(self) -> None:
        """
        Credits are booked and answered meanwhile, and their lines follow, in
        order and all at once.
        """
        self.credit("a")
        self.credit("b")
        self.credit("c", "d")
        self.assertEqual(self.told(), [])
        self.goOn()
        self.assertEqual(self.told(), ["a"])
        self.goOn()
        self.assertEqual(self.told(), ["a", "b", "c", "d"])
        self.assertEqual(self.waiting, [])

    def test_reopened(self) -> None:
        """
        What was booked before a reload but not yet written goes to the new file,
        and what was being written to the old one.
        """
        self.credit("a")
        moved = self.path.rename(f"{self.path}.1")
        self.server.reload()
        self.credit("b")
        for _ in range(3):
            self.goOn()
        self.assertEqual(self.told(), ["b"])
        self.path = moved
        self.assertEqual(self.told(), ["a"])

    def test_bound(self) -> None:
        """
        There is a bound to what waits. Beyond it lines are lost, which are
        counted, and the trail says so where they would have been.
        """
        self.patch(_auditfile, "_MAX_WAITING", 3)
        self.credit("a")
        self.credit("b", "c", "d")
        self.credit("e")
        self.credit("f")
        self.goOn()
        self.goOn()
        self.assertEqual(self.told(), ["a", 4, "f"])
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
        The stop waits for what is still to be written.
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
        self.assertEqual(self.told(), ["a", "b"])
        self.assertIsNone(self.trail._file._descriptor)

    def test_stopIsBounded(self) -> None:
        """
        But not for ever, and the log says how it ended.
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
