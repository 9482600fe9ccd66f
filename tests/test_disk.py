"""
Tests for the simulated disk of L{tests.crash}.
"""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from errno import EIO, ENOSPC
from pathlib import Path
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from tests.crash import vfs
from tests.crash.disk import Disk, Fault
from tests.crash.platter import (
    CREATE,
    LOSE,
    SYNC,
    SYNC_FOLDER,
    TRUNCATE,
    UNLINK,
    WRITE,
    Call,
    Platter,
    place,
)


def crashes(platter: Platter, name: str = "a", number: int = 200) -> set[bytes | None]:
    """
    The contents of a file that a power cut may leave.
    """
    return {platter.crash(Random(seed)).get(name) for seed in range(number)}


class PlatterTests(SynchronousTestCase):
    """
    Tests for the states that a power cut may leave.
    """

    def test_synced(self) -> None:
        """
        Synced data survive a power cut.
        """
        platter = Platter({"a": b"old"})
        platter.do(Call(WRITE, "a", 2, b"new"))
        platter.do(Call(SYNC, "a"))
        self.assertEqual(crashes(platter), {b"olnew"})

    def test_sectors(self) -> None:
        """
        Each sector of a write survives or not, and none in part.
        """
        platter = Platter({"a": b"-" * 1024})
        platter.do(Call(WRITE, "a", 0, b"+" * 1024))
        old, new = b"-" * 512, b"+" * 512
        self.assertEqual(crashes(platter), {old + old, old + new, new + old, new + new})

    def test_order(self) -> None:
        """
        A sector has no write without the earlier ones to the same sector;
        other sectors have any.
        """
        platter = Platter({"a": b"-" * 1024})
        platter.do(Call(WRITE, "a", 0, b"1"))
        platter.do(Call(WRITE, "a", 1, b"2"))
        platter.do(Call(WRITE, "a", 512, b"3"))
        found = {(each[:2], each[512:513]) for each in crashes(platter) if each}
        first = (b"--", b"1-", b"12")
        self.assertEqual(found, {(one, two) for one in first for two in (b"-", b"3")})

    def test_size(self) -> None:
        """
        A file that grew has its old or its new size, and zeros if the size was
        written before the data.
        """
        platter = Platter({"a": b"-" * 512})
        platter.do(Call(WRITE, "a", 512, b"+" * 512))
        old, new = b"-" * 512, b"+" * 512
        self.assertEqual(crashes(platter), {old, old + bytes(512), old + new})
        platter.do(Call(WRITE, "a", 1024, new))
        sizes = {len(each) for each in crashes(platter) if each}
        self.assertEqual(sizes, {512, 1024, 1536})

    def test_truncation(self) -> None:
        """
        A file that was truncated and grew again never has its old content at
        its new size only.
        """
        platter = Platter({"a": b"-" * 1024})
        platter.do(Call(TRUNCATE, "a", 512))
        self.assertIn(b"-" * 512, crashes(platter))
        self.assertIn(b"-" * 1024, crashes(platter))
        platter.do(Call(WRITE, "a", 1023, b"+"))
        self.assertEqual(platter.written(), {"a": b"-" * 512 + bytes(511) + b"+"})
        platter.do(Call(SYNC, "a"))
        self.assertEqual(platter.unsynced(), platter.written())

    def test_newFile(self) -> None:
        """
        A new file is there for certain only once its folder is synced, even if
        the file itself was synced.
        """
        platter = Platter({})
        for call in (Call(CREATE, "a"), Call(WRITE, "a", 0, b"new"), Call(SYNC, "a")):
            platter.do(call)
        self.assertEqual(crashes(platter), {None, b"new"})
        platter.do(Call(SYNC_FOLDER, ""))
        self.assertEqual(crashes(platter), {b"new"})

    def test_removedFile(self) -> None:
        """
        A file that was removed or replaced may come back.
        """
        platter = Platter({"a": b"old"})
        platter.do(Call(UNLINK, "a"))
        self.assertEqual(crashes(platter), {None, b"old"})
        platter.do(Call(CREATE, "a"))
        self.assertEqual(crashes(platter), {None, b"old", b""})
        platter.do(Call(SYNC_FOLDER, ""))
        self.assertEqual(crashes(platter), {b""})

    def test_failedSync(self) -> None:
        """
        Data that a failed sync has lost can still be read, and no later sync
        writes them.
        """
        platter = Platter({"a": b"-" * 1024})
        platter.do(Call(WRITE, "a", 0, b"1"))
        platter.do(Call(WRITE, "a", 512, b"2"))
        platter.do(Call(LOSE, "a", 1))
        platter.do(Call(SYNC, "a"))
        self.assertEqual(crashes(platter), {b"1" + b"-" * 1023})

    def test_plain(self) -> None:
        """
        The basic states are nothing, all, and each file without the others.
        """
        platter = Platter({"a": b"1", "b": b"1"})
        platter.do(Call(WRITE, "a", 0, b"2"))
        platter.do(Call(WRITE, "b", 0, b"2"))
        self.assertEqual(
            list(platter.plain()),
            [
                {"a": b"1", "b": b"1"},
                {"a": b"2", "b": b"2"},
                {"a": b"2", "b": b"1"},
                {"a": b"1", "b": b"2"},
            ],
        )


class DiskTests(SynchronousTestCase):
    """
    Tests for L{Disk} under SQLite.
    """

    def setUp(self) -> None:
        self.folder = self.newFolder()
        self.disk = Disk(self.folder)
        self.calls: list[tuple[str, str]] = []
        self.disk.watch = lambda call: self.calls.append((call.kind, call.name))

    def newFolder(self) -> Path:
        """
        A folder that lasts as long as the test.
        """
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        return Path(os.path.realpath(made.name))

    @contextmanager
    def database(
        self, synchronous: str = "FULL", journal: str = "WAL"
    ) -> Iterator[sqlite3.Connection]:
        """
        A database on the disk, with an empty table.
        """
        with (
            self.disk.installed(),
            closing(sqlite3.connect(self.folder / "db", isolation_level=None)) as made,
        ):
            made.execute(f"PRAGMA journal_mode = {journal}")
            made.execute(f"PRAGMA synchronous = {synchronous}")
            made.execute("CREATE TABLE t (n)")
            yield made

    def rows(self, files: dict[str, bytes]) -> list[int]:
        """
        The rows in a database made of these files.
        """
        folder = self.newFolder()
        place(files, folder)
        with closing(sqlite3.connect(folder / "db")) as connection:
            return [n for [n] in connection.execute("SELECT n FROM t")]

    def check(self) -> None:
        """
        Assert that the files are what was written through the disk.
        """
        files = {
            path.name: path.read_bytes()
            for path in self.folder.iterdir()
            if not path.name.endswith("-shm")
        }
        self.assertTrue(files == self.disk.written())

    def test_seesEverything(self) -> None:
        """
        The files are what was written through the disk, in each journal mode.
        """
        for journal in ("WAL", "DELETE", "TRUNCATE"):
            self.folder = self.newFolder()
            self.disk = Disk(self.folder)
            with self.database(journal=journal) as database:
                for _ in range(20):
                    database.execute("INSERT INTO t VALUES (randomblob(9000))")
                self.check()
            self.check()

    def test_full(self) -> None:
        """
        With synchronous=FULL committed rows survive a power cut.
        """
        with self.database() as database:
            database.execute("INSERT INTO t VALUES (1)")
            for seed in range(20):
                self.assertEqual(self.rows(self.disk.crash(Random(seed))), [1])

    def test_normal(self) -> None:
        """
        With synchronous=NORMAL committed rows may be lost.
        """
        with self.database("NORMAL") as database:
            database.execute("INSERT INTO t VALUES (1)")
            self.assertEqual(self.rows(self.disk.written()), [1])
            cuts = [self.disk.crash(Random(seed)) for seed in range(20)]
            files = {name for cut in cuts for name in cut}
            self.assertEqual(files, {"db", "db-wal"})
            self.assertIn((SYNC_FOLDER, ""), self.calls)
            with self.assertRaisesRegex(sqlite3.OperationalError, "no such table"):
                self.rows(self.disk.unsynced())

    def test_repeatable(self) -> None:
        """
        The same seed gives the same bytes, WAL headers included.
        """
        with vfs.repeatable(1), self.database() as database:
            database.execute("INSERT INTO t VALUES (1)")
            first = self.disk.crash(Random(7))
        self.disk = Disk(self.newFolder())
        self.folder = Path(self.disk.folder)
        with vfs.repeatable(1), self.database() as database:
            database.execute("INSERT INTO t VALUES (1)")
            self.assertEqual(self.disk.crash(Random(7)), first)

    def test_faults(self) -> None:
        """
        An injected fault reaches SQLite as a real one does.
        """
        faults = {
            SYNC: (EIO, "disk I/O error"),
            WRITE: (ENOSPC, "database or disk is full"),
        }
        with self.database() as database:
            for kind, (error, message) in faults.items():

                def fault(
                    call: Call, kind: str = kind, error: int = error
                ) -> Fault | None:
                    return Fault(error) if call.kind == kind else None

                self.disk.fault = fault
                with self.assertRaisesRegex(sqlite3.OperationalError, message):
                    database.execute("INSERT INTO t VALUES (1)")
                self.disk.fault = None
            database.execute("INSERT INTO t VALUES (2)")

    def test_noFile(self) -> None:
        """
        A file whose creation fails does not exist.
        """
        self.disk.fault = lambda call: Fault(ENOSPC) if call.kind == CREATE else None
        with (
            self.assertRaisesRegex(sqlite3.OperationalError, "unable to open"),
            self.database(),
        ):
            pass
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_partOfAWrite(self) -> None:
        """
        A failing write leaves as many bytes as the fault says.
        """
        with self.database() as database:
            size = len(self.disk.written()["db-wal"])
            self.disk.fault = lambda call: Fault(EIO, 7)
            with self.assertRaises(sqlite3.OperationalError):
                database.execute("INSERT INTO t VALUES (1)")
            self.disk.fault = None
            files = self.disk.written()
            self.assertEqual(len(files["db-wal"]), size + 7)
            self.assertEqual((self.folder / "db-wal").read_bytes(), files["db-wal"])

    def test_folderSync(self) -> None:
        """
        A folder is synced by SQLite, which ignores a failure, and by Python,
        which does not.
        """
        self.disk.fault = lambda call: Fault(EIO) if call.kind == SYNC_FOLDER else None
        with self.database():
            self.assertEqual(self.disk.unsynced(), {})
            descriptor = os.open(self.folder, os.O_RDONLY)
            self.addCleanup(os.close, descriptor)
            with self.assertRaises(OSError):
                os.fsync(descriptor)
            self.disk.fault = None
            os.fsync(descriptor)
            self.assertEqual(set(self.disk.unsynced()), {"db", "db-wal"})

    def test_powerOff(self) -> None:
        """
        After the power cut nothing is written.
        """
        with self.database() as database:
            before = self.disk.written()
            self.disk.powerOff()
            with self.assertRaises(sqlite3.OperationalError):
                database.execute("INSERT INTO t VALUES (1)")
        self.assertEqual(self.disk.written(), before)
        self.assertEqual((self.folder / "db-wal").read_bytes(), before["db-wal"])

    def test_elsewhere(self) -> None:
        """
        Other folders, and files that are opened later, bypass the simulated
        disk.
        """
        with self.database():
            self.calls.clear()
            with closing(sqlite3.connect(self.newFolder() / "db")) as other:
                other.execute("CREATE TABLE t (n)")
            self.assertEqual(self.calls, [])
        self.calls.clear()
        with closing(sqlite3.connect(self.folder / "later")) as later:
            later.execute("CREATE TABLE t (n)")
        self.assertEqual(self.calls, [])

    def test_noMap(self) -> None:
        """
        Nothing is written past the disk through a memory map.
        """
        with self.database() as database:
            database.execute("PRAGMA mmap_size = 1000000")
            self.assertEqual(
                database.execute("PRAGMA mmap_size").fetchone() or (0,), (0,)
            )

    def test_broken(self) -> None:
        """
        An exception in a fault is an error for SQLite, and is reported at the
        end.
        """

        def fault(call: Call) -> Fault | None:
            raise KeyError(call.kind)

        with self.assertRaises(KeyError), self.database() as database:
            self.disk.fault = fault
            with self.assertRaises(sqlite3.OperationalError):
                database.execute("INSERT INTO t VALUES (1)")
            self.disk.fault = None
