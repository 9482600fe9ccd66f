"""
Between SQLite and its files, in this process.

SQLite reaches files through a VFS, a table of C functions. The one that it uses
is copied here, with another C{xOpen}, C{xDelete} and C{xRandomness}, and made
the default; a file that is opened in a watched folder gets a copy of its methods,
with another C{xWrite}, C{xTruncate}, C{xSync} and C{xClose}. They ask the folder's
L{Disk <tests.crash.disk.Disk>} whether the call fails, do what the real ones do,
and tell the disk. Files elsewhere go the usual way.

Such a copy of methods says that it is of version 2, and for that SQLite never
maps a file into memory, where writes would be seen by nobody. The wal-index
(C{-shm}) is not seen: SQLite builds it anew after a crash. Of what Python does to
files by itself only a sync of the folder is seen.

Nothing is really synced, but for the first sync of each file that is opened:
whether that one syncs the folder too is known to the real one only.
"""

import atexit
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import (
    CDLL,
    POINTER,
    addressof,
    c_char_p,
    c_int,
    c_void_p,
    memmove,
    py_object,
    pythonapi,
    string_at,
)
from errno import ENOSPC
from functools import cache, wraps
from random import Random
from typing import Any, Final, Protocol

from tests.crash import capi
from tests.crash.platter import (
    CREATE,
    SYNC,
    SYNC_FOLDER,
    TRUNCATE,
    UNLINK,
    WRITE,
    Call,
)

_NAME: Final = b"creditsync-disk"
_OPEN_FOLDER: Final = b"openDirectory"


class WatchedDisk(Protocol):
    """
    The interface of a watched disk.
    """

    folder: str
    broken: BaseException | None

    def take(self, call: Call) -> int: ...

    def adopt(self, name: str) -> None: ...


# The disk under each watched folder; and by the address of each open file its
# disk, its name and its real methods.
_watched: dict[str, WatchedDisk] = {}
_opened: dict[int, tuple[WatchedDisk, str, int]] = {}
_reallyFsync: Final = os.fsync

# Files that have not been synced yet.
_fresh: set[int] = set()


def watch(disk: WatchedDisk) -> None:
    """
    Put a disk below the files of its folder that are opened from now on.

    @raise capi.Unreachable: This Python does not allow it.
    """
    shim = _shim()
    if not _watched:
        shim.beDefault(True)
        os.fsync = _fsync
    _watched[disk.folder] = disk


def unwatch(disk: WatchedDisk) -> None:
    """
    Stop watching the folder, except for files that are open.
    """
    del _watched[disk.folder]
    if not _watched:
        _shim().beDefault(False)
        os.fsync = _reallyFsync


def _fsync(descriptor: int) -> None:
    """
    Like C{os.fsync}, but a watched folder belongs to its disk.
    """
    status = os.fstat(descriptor)
    for folder, disk in _watched.items():
        if os.path.samestat(status, os.stat(folder)):
            error = disk.take(Call(SYNC_FOLDER, ""))
            if error:
                raise OSError(error, os.strerror(error))
            return
    _reallyFsync(descriptor)


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """
    While a disk is watched, make SQLite's random numbers, which are in the
    header of each WAL file, depend on this seed only.
    """
    shim = _shim()
    shim.random = Random(seed)
    shim.forgetRandomness()
    try:
        yield
    finally:
        shim.random = None
        shim.forgetRandomness()


@cache
def _shim() -> "_Shim":
    return _Shim(capi.library())


def _guarded(function: Callable[..., int]) -> Callable[..., int]:
    """
    An exception in a callback would only be printed, and count as success for
    SQLite.
    """

    @wraps(function)
    def guarded(*arguments: Any) -> int:
        try:
            return function(*arguments)
        except BaseException as why:
            for disk in _watched.values():
                disk.broken = why
            return capi.IOERR

    return guarded


class _Shim:
    """
    The copied VFS, and everything that must not be collected while SQLite uses
    it.
    """

    def __init__(self, library: CDLL) -> None:
        self._library = library
        self.random: Random | None = None
        library.sqlite3_vfs_find.restype = POINTER(capi.VFS)
        library.sqlite3_vfs_find.argtypes = [c_char_p]
        library.sqlite3_vfs_register.argtypes = [c_void_p, c_int]
        library.sqlite3_randomness.argtypes = [c_int, c_void_p]
        self._real: capi.VFS = library.sqlite3_vfs_find(None).contents
        if self._real.name not in (b"unix", b"unix-excl") or self._real.version < 3:
            raise capi.Unreachable(f"no VFS that is known here: {self._real.name}")
        self._open = capi.Open(self._real.open)
        self._delete = capi.Delete(self._real.delete)
        self._randomness = capi.Randomness(self._real.randomness)
        self._methods: dict[int, tuple[capi.Methods, list[Any]]] = {}
        self._callbacks = [
            capi.Open(_guarded(self._opens)),
            capi.Delete(_guarded(self._deletes)),
            capi.Randomness(_guarded(self._fills)),
        ]
        self._vfs = capi.VFS.from_buffer_copy(self._real)
        self._vfs.name = _NAME
        self._vfs.open, self._vfs.delete, self._vfs.randomness = map(
            capi.addressOf, self._callbacks
        )
        self._hearFolders()
        atexit.register(self._leave)
        # SQLite may still use it when everything else has gone.
        pythonapi.Py_IncRef(py_object(self._vfs))
        library.sqlite3_vfs_register(addressof(self._vfs), 0)
        # Registered with another copy of SQLite it would be unknown here.
        try:
            sqlite3.connect(f"file::memory:?vfs={_NAME.decode()}", uri=True).close()
        except sqlite3.OperationalError as e:
            raise capi.Unreachable(f"Python's SQLite is another one: {e}") from e

    def beDefault(self, isDefault: bool) -> None:
        """
        Make it the default for files that are opened from now on, or restore
        the usual one.
        """
        vfs = self._vfs if isDefault else self._real
        self._library.sqlite3_vfs_register(addressof(vfs), 1)

    def _leave(self) -> None:
        """
        Remove everything in Python from under the connections that are open
        when the process ends, and are closed after the last of its modules.
        """
        self.beDefault(False)
        for name in ("open", "delete", "randomness"):
            setattr(self._vfs, name, getattr(self._real, name))
        self._setSystemCall(None)
        for file, (_, _, methods) in _opened.items():
            c_void_p.from_address(file).value = methods

    def forgetRandomness(self) -> None:
        """
        Make SQLite ask for new randomness when it next needs some.
        """
        self._library.sqlite3_randomness(0, None)

    def _fills(self, vfs: int, size: int, buffer: int) -> int:
        if self.random is None:
            return self._randomness(addressof(self._real), size, buffer)
        memmove(buffer, self.random.randbytes(size), size)
        return size

    def _hearFolders(self) -> None:
        """
        Be notified when a sync of a file opens the folder to sync it too.
        """
        getSystemCall = capi.GetSystemCall(self._real.getSystemCall)
        openFolder = capi.OpenFolder(getSystemCall(addressof(self._real), _OPEN_FOLDER))

        def opensFolder(path: bytes, descriptor: Any) -> int:
            disk = _watched.get(os.path.dirname(os.fsdecode(path)))
            # SQLite ignores a folder that can't be opened here.
            if disk is not None and disk.take(Call(SYNC_FOLDER, "")):
                return capi.CANTOPEN
            return openFolder(path, descriptor)

        self._callbacks.append(capi.OpenFolder(_guarded(opensFolder)))
        self._setSystemCall(capi.addressOf(self._callbacks[-1]))

    def _setSystemCall(self, function: int | None) -> None:
        """
        Replace the function that opens a folder, or restore it.
        """
        capi.SetSystemCall(self._real.setSystemCall)(
            addressof(self._real), _OPEN_FOLDER, function
        )

    def _opens(self, vfs: int, path: int, file: int, flags: int, got: Any) -> int:
        real = addressof(self._real)
        folder, name = os.path.split(os.fsdecode(string_at(path)) if path else "")
        disk = _watched.get(folder)
        if disk is None:
            return self._open(real, path, file, flags, got)
        isNew = not os.path.lexists(os.path.join(folder, name))
        if isNew and flags & capi.OPEN_CREATE and disk.take(Call(CREATE, name)):
            return capi.CANTOPEN
        result = self._open(real, path, file, flags, got)
        if result == capi.OK:
            if not isNew:
                disk.adopt(name)
            # A sqlite3_file begins with the pointer to its methods.
            methods = c_void_p.from_address(file)
            _opened[file] = disk, name, methods.value or 0
            methods.value = self._watching(methods.value or 0)
            _fresh.add(file)
        return result

    def _deletes(self, vfs: int, path: int, syncsFolder: int) -> int:
        real = addressof(self._real)
        folder, name = os.path.split(os.fsdecode(string_at(path)))
        disk = _watched.get(folder)
        if disk is None or not os.path.lexists(os.path.join(folder, name)):
            return self._delete(real, path, syncsFolder)
        if disk.take(Call(UNLINK, name)):
            return capi.IOERR_DELETE
        result = _done(self._delete(real, path, 0))
        if syncsFolder & 1 and disk.take(Call(SYNC_FOLDER, "")):
            return capi.IOERR_DIR_FSYNC
        return result

    def _watching(self, real: int) -> int:
        """
        The address of a copy of a file's methods that reports to its disk.
        """
        if real not in self._methods:
            methods = capi.Methods.from_address(real)
            assert methods.version >= 2, "a file without shared memory"
            copied = capi.Methods.from_buffer_copy(methods)
            callbacks = self._callbacksOf(methods)
            copied.version = 2
            copied.close, copied.write, copied.truncate, copied.sync = map(
                capi.addressOf, callbacks
            )
            self._methods[real] = copied, callbacks
        return addressof(self._methods[real][0])

    def _callbacksOf(self, methods: capi.Methods) -> list[Any]:
        reallyClose = capi.Close(methods.close)
        reallyWrite = capi.ReallyWrite(methods.write)
        reallyTruncate = capi.ReallyTruncate(methods.truncate)
        reallySync = capi.Sync(methods.sync)

        def closes(file: int) -> int:
            del _opened[file]
            _fresh.discard(file)
            return reallyClose(file)

        def writes(file: int, buffer: int, size: int, offset: int) -> int:
            disk, name, _ = _opened[file]
            call = Call(WRITE, name, offset, string_at(buffer, size))
            error = disk.take(call)
            if error:
                # The part that was written before the error.
                size = len(call.data)
                if size:
                    reallyWrite(file, buffer, size, offset)
                return capi.FULL if error == ENOSPC else capi.IOERR_WRITE
            return _done(reallyWrite(file, buffer, size, offset))

        def truncates(file: int, size: int) -> int:
            disk, name, _ = _opened[file]
            if disk.take(Call(TRUNCATE, name, size)):
                return capi.IOERR_TRUNCATE
            return _done(reallyTruncate(file, size))

        def syncs(file: int, flags: int) -> int:
            disk, name, _ = _opened[file]
            if disk.take(Call(SYNC, name)):
                return capi.IOERR_FSYNC
            if file in _fresh:
                _fresh.remove(file)
                return _done(reallySync(file, flags))
            return capi.OK

        return [
            capi.Close(_guarded(closes)),
            capi.Write(_guarded(writes)),
            capi.Truncate(_guarded(truncates)),
            capi.Sync(_guarded(syncs)),
        ]


def _done(result: int) -> int:
    """
    Check that what was reported to the disk was done.
    """
    if result != capi.OK:
        raise RuntimeError(f"the real file system failed: {result}")
    return result
