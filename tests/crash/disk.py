"""
A disk below SQLite that knows what was written and what of it is synced.

While it is installed, all that SQLite does in this process to the files of one
folder goes through it (L{tests.crash.vfs} says how). It can then say what a power
cut could leave of them (L{tests.crash.platter} says what that is), and it can let
a call fail.

    disk = Disk(folder)
    with disk.installed():
        ledger.open()
        ...
        files = disk.crash(random)
        disk.powerOff()
    platter.place(files, anotherFolder)

Several may be installed, each for its own folder. After a power cut go on in
another folder: connections that are still open when the power goes would remove
files by their names.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EIO
from pathlib import Path
from typing import Final, Self

from attrs import define

from tests.crash import vfs
from tests.crash.platter import LOSE, SYNC, WRITE, Call, Platter

# Files that are no part of what survives.
_PASSING: Final = ("-shm", ".lock")


@define
class Fault:
    """
    How a call fails.

    @ivar error: The C{errno}.
    @ivar done: Of a write, how many bytes of it are written all the same. Of a
        sync, how many of the calls since the last one reach the disk; the rest
        never does, though it can still be read: no later sync makes up for a
        failed one.
    """

    error: int
    done: int = 0


class Disk(Platter):
    """
    A disk below SQLite, for the files of one folder.

    @ivar folder: The folder, by its real path.
    @ivar fault: Called before each call; it may return how that one fails. It
        may not use SQLite.
    @ivar watch: Called after each call, and after each failed sync.
    @ivar broken: An exception in this class, if there was one. It is raised
        when the disk is uninstalled.
    """

    def __init__(self, folder: Path | str) -> None:
        """
        @param folder: What is in it counts as synced.
        """
        self.folder = str(Path(folder).resolve())
        super().__init__(
            {
                path.name: path.read_bytes()
                for path in Path(folder).iterdir()
                if path.is_file() and not path.name.endswith(_PASSING)
            }
        )
        self.fault: Callable[[Call], Fault | None] | None = None
        self.watch: Callable[[Call], None] | None = None
        self.broken: BaseException | None = None

    @contextmanager
    def installed(self) -> Iterator[Self]:
        """
        Be below SQLite, for all files of the folder that are opened meanwhile.

        @raise tests.crash.capi.Unreachable: This Python does not allow it.
        """
        self.install()
        try:
            yield self
        finally:
            self.uninstall()

    def install(self) -> None:
        """
        See L{installed}.
        """
        vfs.watch(self)

    def uninstall(self) -> None:
        """
        Don't watch the files that are opened from now on.
        """
        vfs.unwatch(self)
        if self.broken is not None:
            raise self.broken

    def powerOff(self) -> None:
        """
        Cut the power: every later call fails.
        """
        self.fault = lambda call: Fault(EIO)
        self.watch = None

    def adopt(self, name: str) -> None:
        """
        Take files that were written by others as synced.
        """
        if name not in self._files:
            self.put(name, (Path(self.folder) / name).read_bytes())

    def take(self, call: Call) -> int:
        """
        Carry out a call, or let it fail.

        @return: The C{errno}, or 0. For a write that fails, C{data} is then
            what is written nevertheless.
        """
        fault = None if self.fault is None else self.fault(call)
        if fault is None:
            self._note(call)
            return 0
        if call.kind == WRITE:
            call.data = call.data[: fault.done]
            if call.data:
                self._note(call)
        elif call.kind == SYNC:
            self._note(Call(LOSE, call.name, fault.done))
        return fault.error

    def _note(self, call: Call) -> None:
        self.do(call)
        if self.watch is not None:
            self.watch(call)
