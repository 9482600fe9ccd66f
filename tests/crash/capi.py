"""
The parts of SQLite's C interface that L{tests.crash.vfs} needs, and the library
that has them.
"""

import _sqlite3
import sqlite3
from ctypes import (
    CDLL,
    CFUNCTYPE,
    POINTER,
    PYFUNCTYPE,
    Structure,
    c_char_p,
    c_int,
    c_int64,
    c_void_p,
)
from typing import Any, Final

OK: Final = 0
IOERR: Final = 10
FULL: Final = 13
CANTOPEN: Final = 14
IOERR_WRITE: Final = 778
IOERR_FSYNC: Final = 1034
IOERR_DIR_FSYNC: Final = 1290
IOERR_TRUNCATE: Final = 1546
IOERR_DELETE: Final = 2570
OPEN_CREATE: Final = 4


class Unreachable(Exception):
    """
    The SQLite that Python uses can't be reached.
    """


class VFS(Structure):
    """
    C{sqlite3_vfs}.
    """

    _fields_ = (
        ("version", c_int),
        ("fileSize", c_int),
        ("longestPath", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("appData", c_void_p),
        ("open", c_void_p),
        ("delete", c_void_p),
        ("access", c_void_p),
        ("fullPathname", c_void_p),
        ("dl", c_void_p * 4),
        ("randomness", c_void_p),
        ("sleep", c_void_p),
        ("currentTime", c_void_p),
        ("lastError", c_void_p),
        ("currentTimeInt64", c_void_p),
        ("setSystemCall", c_void_p),
        ("getSystemCall", c_void_p),
        ("nextSystemCall", c_void_p),
    )


class Methods(Structure):
    """
    C{sqlite3_io_methods}, as far as version 2.
    """

    _fields_ = (
        ("version", c_int),
        ("close", c_void_p),
        ("read", c_void_p),
        ("write", c_void_p),
        ("truncate", c_void_p),
        ("sync", c_void_p),
        ("rest", c_void_p * 11),
    )


Open = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, POINTER(c_int))
Delete = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
Randomness = CFUNCTYPE(c_int, c_void_p, c_int, c_void_p)
Close = CFUNCTYPE(c_int, c_void_p)
Write = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
Truncate = CFUNCTYPE(c_int, c_void_p, c_int64)
Sync = CFUNCTYPE(c_int, c_void_p, c_int)
# These keep the GIL: releasing and reacquiring it takes longer than a write.
ReallyWrite = PYFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
ReallyTruncate = PYFUNCTYPE(c_int, c_void_p, c_int64)

OpenFolder = CFUNCTYPE(c_int, c_char_p, POINTER(c_int))
SetSystemCall = CFUNCTYPE(c_int, c_void_p, c_char_p, c_void_p)
GetSystemCall = CFUNCTYPE(c_void_p, c_void_p, c_char_p)


def library() -> CDLL:
    """
    The very SQLite that the module C{sqlite3} uses.

    @raise Unreachable: This Python hides its functions.
    """
    with sqlite3.connect(":memory:") as connection:
        [(source,)] = connection.execute("SELECT sqlite_source_id()")
    connection.close()
    # Looking up a name in a library also searches those that it was linked
    # with.
    for path in (getattr(_sqlite3, "__file__", None), None):
        library = CDLL(path)
        try:
            library.sqlite3_sourceid.restype = c_char_p
            found = library.sqlite3_sourceid()
        except AttributeError:
            continue
        if found.decode() == source:
            return library
    raise Unreachable(
        "the SQLite inside of this Python shows none of its functions: use a Python"
        " whose sqlite3 is linked with a shared libsqlite3"
    )


def addressOf(callback: Any) -> int:
    # A C function is its address, and the object has it as its value.
    return c_void_p.from_buffer(callback).value or 0
