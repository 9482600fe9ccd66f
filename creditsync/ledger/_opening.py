"""
The steps that open a ledger for writing: lock it, check who owns its files, check or
upgrade its schema, and explain what is wrong in a sentence.

An upgrade may be killed at any point. It begins with a copy of the ledger, which
gets its final name when all of it is on disk. Then all scripts run in one
transaction.
"""

import fcntl
import os
import pwd
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from creditsync._locking import ALONE, folderLocked
from creditsync.errors import LedgerDamaged, LedgerInUse, LedgerProblem
from creditsync.ledger._checking import firstOrder
from creditsync.ledger._operations import writeMethods
from creditsync.ledger._presence import checkReturned, isGone
from creditsync.ledger._schema import APPLICATION_ID
from creditsync.ledger._upgrading import Progress, changes, runScripts

# Seconds that a commit waits if another program has the database locked, which
# none should. After that the commit fails, and the server stops.
_LOCK_TIMEOUT: Final = 30.0

# The settings that the writing connection must have; 2 is FULL.
_DURABLE: Final[dict[str, object]] = {
    "journal_mode": "wal",
    "synchronous": 2,
    "fullfsync": 1,
    "checkpoint_fullfsync": 1,
}


@contextmanager
def explainErrors(path: str) -> Iterator[None]:
    """
    Turn errors of the system and of SQLite into a sentence that says what to do.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise LedgerProblem(
            f"the folder of the ledger {path} does not exist: create it, or name "
            f"another one"
        ) from error
    except PermissionError as error:
        if isinstance(error.filename, str) and os.path.exists(error.filename):
            raise LedgerProblem(_notOurs(error.filename)) from error
        raise LedgerProblem(
            f"this user may not write to the ledger {path}: give it write permission "
            f"for that folder, or name another one"
        ) from error
    except (OSError, sqlite3.OperationalError) as error:
        raise LedgerProblem(
            f"the ledger {path} can't be used: {error}; check that it is a file on a "
            f"local disk with free space, that this user may write to it and to its "
            f"folder, and that no other program writes to it"
        ) from error
    except sqlite3.IntegrityError as error:
        raise LedgerDamaged(
            f"the ledger {path} has a row that creditsync did not write: {error}; find"
            f" out which other program wrote to it, or restore a backup"
        ) from error
    except sqlite3.DatabaseError as error:
        raise LedgerDamaged(
            f"{path} is not a readable SQLite database: {error}; name another file, or "
            f"restore a backup"
        ) from error


def takeLock(path: str) -> int:
    """
    Keep other servers out, as long as the returned descriptor is open.

    @raise LedgerInUse: Another process has the lock.
    @raise LedgerProblem: A server has noticed that the ledger is gone.
    """
    # The lock is on a file of its own, never on the database: SQLite's POSIX locks
    # belong to the process, so closing any descriptor of the database file would
    # release them. The lock file is never removed: a process that opened it just
    # before would hold a lock on a file that no other process can find.
    name = path + ".lock"
    try:
        lock = os.open(name, os.O_RDWR | os.O_CREAT, 0o644)
    except PermissionError:
        if not os.path.exists(name):
            raise
        # Another user made it, but a descriptor for reading can be locked too.
        lock = os.open(name, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        checkReturned(path, lock)
        _note(lock, b"%d\n" % os.getpid())
        giveAway(name, path if os.path.exists(path) else os.path.dirname(path))
    except BlockingIOError:
        pid = os.read(lock, 20).decode("ascii", "replace").strip()
        os.close(lock)
        owner = f"process {pid}" if pid.isdigit() else "another process"
        raise LedgerInUse(
            f"{owner} has the ledger {path} open: stop it first, or name another ledger"
        ) from None
    except BaseException:
        os.close(lock)
        raise
    return lock


def releaseLock(lock: int) -> None:
    """
    Release the lock.
    """
    if not isGone(lock):
        _note(lock, b"")
    os.close(lock)


def _note(lock: int, text: bytes) -> None:
    """
    Write the lock's owner into its file, if this user has the permission.
    """
    with suppress(OSError):
        os.ftruncate(lock, 0)
        os.write(lock, text)


def checkFiles(path: str) -> None:
    """
    Check that this user may write to the files of a ledger that exist.

    SQLite would only report that it can't open a file, but not which one.

    @raise LedgerProblem: It may not; the sentence names the file and its owner.
    @raise PermissionError: It may not create files in the folder.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise LedgerProblem(f"{path} is not a regular file: name another one")
    if not mayUse(os.path.dirname(path), os.W_OK | os.X_OK):
        raise PermissionError
    for end in ("", "-wal", "-shm"):
        problem = inTheWay(path + end)
        if problem:
            raise LedgerProblem(problem)


def inTheWay(path: str, mode: int = os.R_OK | os.W_OK) -> str | None:
    """
    Why this file of a ledger can't be used, or L{None} if it can or does not
    exist.
    """
    if not os.path.lexists(path) or mayUse(path, mode):
        return None
    return _notOurs(path)


def mayUse(path: str, mode: int) -> bool:
    """
    Whether this user may use a file or folder in this way (a mode of C{os.access}).

    Opening the file to find out is no option: closing it again would release the
    locks that SQLite has on it in this process.
    """
    effective = os.access in os.supports_effective_ids
    return os.access(path, mode, effective_ids=effective)


def ownerOf(path: str) -> str:
    """
    The name of a file's owner, or the number of one without a name.
    """
    return _userName(os.lstat(path).st_uid)


def _userName(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _notOurs(path: str) -> str:
    owner, user = ownerOf(path), _userName(os.geteuid())
    if owner == user:
        remedy = f"as root: chmod u+rw {path}"
    elif owner == ownerOf(os.path.dirname(path)):
        # The server's: given to somebody else it would keep the server out.
        remedy = f"run this as user {owner}"
    else:
        remedy = f"as root: chown {user} {path}"
    return (
        f"{path} is in the way: it belongs to user {owner}, and user {user}, who runs"
        f" this, may not read and write it; {remedy}"
    )


def giveAway(path: str, like: str) -> None:
    """
    If root runs this, give a file of the ledger to the owner of another one, or of
    the folder: that user's server could not open a file that belongs to root.
    SQLite does the same with the files that it creates beside the database.
    """
    if os.geteuid() == 0:
        owner = os.stat(like)
        os.chown(path, owner.st_uid, owner.st_gid)


def sync(path: str, flags: int = os.O_RDONLY) -> None:
    """
    Write a file to disk, or with a folder the names of the files in it.
    """
    file = os.open(path, flags)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def connectWriter(path: str) -> sqlite3.Connection:
    """
    Open the one connection that writes.
    """
    if sqlite3.sqlite_version_info < (3, 38):
        raise LedgerProblem(
            f"SQLite {sqlite3.sqlite_version} is too old: 3.38 or newer is needed"
        )
    return sqlite3.connect(
        path, timeout=_LOCK_TIMEOUT, check_same_thread=False, isolation_level=None
    )


def closeAlone(writer: sqlite3.Connection, path: str) -> None:
    """
    Close the connection while nobody is about to read the ledger: the last one
    to close deletes the C{-wal} and C{-shm} files, and a reader that still needs
    them would create new ones, which may keep the server from starting.
    """
    with folderLocked(os.path.dirname(path), ALONE):
        writer.close()


def connectReader(path: str, mode: str = "mode=ro") -> sqlite3.Connection:
    """
    Open a connection that can't write.

    @param mode: The parameters of its URI.
    """
    return sqlite3.connect(
        # as_uri() quotes characters that have a meaning in a URI.
        f"{Path(path).as_uri()}?{mode}",
        uri=True,
        check_same_thread=False,
        isolation_level=None,
    )


def prepare(
    writer: sqlite3.Connection,
    path: str,
    scripts: Sequence[str],
    progress: Progress | None = None,
) -> tuple[int, int]:
    """
    Check that the file is a sound ledger of the newest version, or make it one.

    @return: The version that it had, 0 for a new one; and the first order number that
        may be assigned.
    """
    version = versionOf(writer, path, len(scripts))
    # Durability depends on these settings, and SQLite silently ignores one that it
    # can't apply, so they are read back. On macOS fsync leaves data in the disk's
    # cache, and the two fullfsync settings get past it; elsewhere they do nothing.
    writer.execute("PRAGMA journal_mode = wal")
    writer.execute("PRAGMA synchronous = FULL")
    writer.execute("PRAGMA fullfsync = 1")
    writer.execute("PRAGMA checkpoint_fullfsync = 1")
    for name, needed in _DURABLE.items():
        found = _value(writer, f"PRAGMA {name}")
        if found != needed:
            raise LedgerProblem(
                f"the ledger {path} can't be made durable: {name} is {found}, but"
                f" must be {needed}; put it on a local disk"
            )
    if version:
        _checkSchema(writer, path, scripts[:version])
    if 0 < version < len(scripts):
        _backUp(writer, path, version)
    return version, upgrade(writer, path, scripts, version, progress)


def versionOf(connection: sqlite3.Connection, path: str, newest: int) -> int:
    """
    The version of the ledger, or 0 for a file that is empty or new.

    @raise LedgerDamaged: It is not a creditsync ledger.
    @raise LedgerProblem: Its version is newer than C{newest}.
    """
    application = _value(connection, "PRAGMA application_id")
    version: int = _value(connection, "PRAGMA user_version")
    if not (
        application
        or version
        or _value(connection, "SELECT count(*) FROM sqlite_master")
    ):
        return 0
    if application != APPLICATION_ID:
        raise LedgerDamaged(f"{path} is another program's database: name another file")
    if version > newest:
        raise LedgerProblem(
            f"the ledger {path} has version {version}, but this creditsync supports "
            f"versions up to {newest}: run the newer creditsync that wrote it"
        )
    return version


def checkKind(connection: sqlite3.Connection, path: str, isGateways: bool) -> None:
    """
    Check that the orders of a ledger come from where they are to come from now: from
    this server, or from the platform behind it. Either would give an order twice that
    the other has given.

    @raise LedgerProblem: They don't.
    """
    tables = "SELECT count(*) FROM sqlite_schema WHERE name = 'intent'"
    isOne = bool(_value(connection, tables))
    if isOne and not isGateways:
        raise LedgerProblem(
            f"the ledger {path} is a gateway's: start with --upstream, or name another"
            f" ledger"
        )
    isUsed = _value(connection, "SELECT max(place) FROM journal") is not None
    if isGateways and isUsed and not isOne:
        raise LedgerProblem(
            f"the ledger {path} has bookings of this server's own: a gateway needs"
            f" another ledger"
        )


def _checkSchema(writer: sqlite3.Connection, path: str, scripts: Sequence[str]) -> None:
    """
    Check that tables and triggers are as their scripts made them. After an
    upgrade, which replaces them, nothing would show that the old ones were wrong.

    @raise LedgerDamaged: They aren't.
    """
    changed = next(changes(writer, scripts), None)
    if changed is not None:
        raise LedgerDamaged(
            f"{changed} in the ledger {path}: run the creditsync that made it, or "
            f"restore a backup"
        )


def _backUp(writer: sqlite3.Connection, path: str, version: int) -> None:
    """
    Copy the ledger, with the owner and the permissions of its file. The copy gets its
    final name when it is complete and on disk; when this returns, the name is on disk
    too.
    """
    final = f"{path}.v{version}"
    part = final + ".part"
    # A killed upgrade leaves this file. SQLite removes the journal of an empty file
    # by itself.
    Path(part).unlink(missing_ok=True)
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        giveAway(part, path)
        shutil.copymode(path, part)
        with closing(sqlite3.connect(part)) as copy:
            writer.backup(copy)
        sync(part, os.O_RDWR)
    except BaseException:
        # If the disk is full, it needs the space.
        Path(part).unlink()
        raise
    os.replace(part, final)
    sync(os.path.dirname(final))


def upgrade(
    writer: sqlite3.Connection,
    path: str,
    scripts: Sequence[str],
    version: int = 0,
    progress: Progress | None = None,
) -> int:
    """
    Upgrade to the newest version, write the methods of this build to the table
    C{operation}, and prove totals and mark, in one transaction: a later proof would
    find the damage in a ledger that the creditsync which made it can't open any more.

    @param version: The version of the ledger, which may be the newest already; 0
        for an empty file.
    @return: The first order number that may be assigned.
    @raise LedgerDamaged: The ledger was damaged before, and remains as it was.
    """
    # If anything fails, open() closes the connection, which rolls it back.
    runScripts(writer, scripts, version, progress)
    writeMethods(writer, path)
    order = firstOrder(writer, path)
    writer.execute("COMMIT")
    return order


def _value(connection: sqlite3.Connection, statement: str) -> Any:
    """
    The value that a statement selects.
    """
    return connection.execute(statement).fetchone()[0]
