"""
What stands between a ledger's file and its use: the lock, the owners of its files,
the schema and its versions, and a sentence for whatever is wrong.

An upgrade may be killed at any point. It begins with a copy of the ledger, which
gets its name when all of it is on disk; all scripts after that are one
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

from creditsync.errors import LedgerDamaged, LedgerInUse, LedgerProblem
from creditsync.ledger import _operations as operations
from creditsync.ledger._schema import APPLICATION_ID, changes

# What the connection that writes must say of itself; 2 is FULL.
_DURABLE: Final[dict[str, object]] = {
    "journal_mode": "wal",
    "synchronous": 2,
    "fullfsync": 1,
    "checkpoint_fullfsync": 1,
}


@contextmanager
def explained(path: str) -> Iterator[None]:
    """
    Turn what the system and SQLite raise into a sentence that says what to do.
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
            f"this user may not write the ledger {path}: give it the right to write "
            f"in that folder, or name another one"
        ) from error
    except (OSError, sqlite3.OperationalError) as error:
        raise LedgerProblem(
            f"the ledger {path} can't be used: {error}; see that it is a file on a "
            f"local disk with space left, that this user may write it and its folder, "
            f"and that no other program writes it"
        ) from error
    except sqlite3.DatabaseError as error:
        raise LedgerDamaged(
            f"{path} is not a readable SQLite database: {error}; name another file, or "
            f"bring back a backup"
        ) from error


def takeLock(path: str) -> int:
    """
    Keep every other process out, as long as the descriptor is open.

    @raise LedgerInUse: Another one was here first.
    """
    # Beside the database and never on it: POSIX locks belong to the process,
    # and closing any descriptor of the database file would drop SQLite's own.
    # The file stays when the lock ends: whoever opened it before its removal
    # would lock a file that nobody else can see.
    name = path + ".lock"
    try:
        lock = os.open(name, os.O_RDWR | os.O_CREAT, 0o644)
    except PermissionError:
        # Another user made it. It can be locked all the same.
        lock = os.open(name, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _note(lock, b"%d\n" % os.getpid())
        giveAway(name, path if os.path.exists(path) else os.path.dirname(path))
    except BlockingIOError:
        pid = os.read(lock, 20).decode("ascii", "replace").strip()
        os.close(lock)
        raise LedgerInUse(
            f"{f'process {pid}' if pid else 'another process'} has the ledger {path}"
            f" open: stop it first, or name another ledger"
        ) from None
    except BaseException:
        os.close(lock)
        raise
    return lock


def releaseLock(lock: int) -> None:
    """
    Let others have the ledger.
    """
    _note(lock, b"")
    os.close(lock)


def _note(lock: int, text: bytes) -> None:
    """
    Write down who has the lock, where this user may.
    """
    with suppress(OSError):
        os.ftruncate(lock, 0)
        os.write(lock, text)


def checkFiles(path: str) -> None:
    """
    See that this user may write what there is of a ledger.

    Without that SQLite would only say that it can't open a file, and not which.

    @raise LedgerProblem: It may not; the sentence names the file and its owner.
    @raise PermissionError: It may not make files in the folder.
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
    Why this file of a ledger, which need not be there, can't be used.
    """
    if not os.path.lexists(path) or mayUse(path, mode):
        return None
    return _notOurs(path)


def mayUse(path: str, mode: int) -> bool:
    """
    Whether this user may; to find out by opening the file and closing it again
    would drop the locks that SQLite has on it in this process.
    """
    effective = os.access in os.supports_effective_ids
    return os.access(path, mode, effective_ids=effective)


def ownerOf(path: str) -> str:
    """
    The name of the user to whom a file belongs, or the number if there is none.
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
    Let what root has made of a ledger belong to whom another file or the folder
    belongs to, whose server would stand before a file of root's otherwise. SQLite
    does so with the files that it makes beside the database.
    """
    if os.geteuid() == 0:
        owner = os.stat(like)
        os.chown(path, owner.st_uid, owner.st_gid)


def sync(path: str, flags: int = os.O_RDONLY) -> None:
    """
    Have a file on disk, or with a folder the names of the files in it.
    """
    file = os.open(path, flags)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def connectReader(path: str, mode: str = "mode=ro") -> sqlite3.Connection:
    """
    Open a connection that can't write, whatever it is asked.

    @param mode: The parameters of its URI.
    """
    return sqlite3.connect(
        # as_uri() quotes what means something in a URI.
        f"{Path(path).as_uri()}?{mode}",
        uri=True,
        check_same_thread=False,
        isolation_level=None,
    )


def prepare(writer: sqlite3.Connection, path: str, scripts: Sequence[str]) -> None:
    """
    See that the file is a ledger, or make it one, of the newest version.
    """
    version = versionOf(writer, path, len(scripts))
    # Durability is what these say, and SQLite answers a setting that it can't make
    # by doing nothing: so they are read back. On macOS fsync leaves data in the
    # cache of the disk, and only these two get past it; elsewhere they do nothing.
    writer.execute("PRAGMA journal_mode = wal")
    writer.execute("PRAGMA synchronous = FULL")
    writer.execute("PRAGMA fullfsync = 1")
    writer.execute("PRAGMA checkpoint_fullfsync = 1")
    for name, needed in _DURABLE.items():
        found = _value(writer, f"PRAGMA {name}")
        if found != needed:
            raise LedgerProblem(
                f"the ledger {path} can't be made durable: {name} is {found}, where"
                f" {needed} is needed; put it on a local disk"
            )
    if version:
        _checkSchema(writer, path, scripts[:version])
    if 0 < version < len(scripts):
        _backUp(writer, path, version)
    upgrade(writer, path, scripts, version)


def versionOf(connection: sqlite3.Connection, path: str, newest: int) -> int:
    """
    The version of the ledger, or 0 for a file that is empty or new.

    @raise LedgerDamaged: It is no ledger.
    @raise LedgerProblem: Its version is newer than the newest that is known.
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
        raise LedgerDamaged(
            f"{path} is a database of another program: name another file"
        )
    if version > newest:
        raise LedgerProblem(
            f"the ledger {path} has version {version}, and this creditsync knows "
            f"versions up to {newest}: run the newer creditsync that wrote it"
        )
    return version


def _checkSchema(writer: sqlite3.Connection, path: str, scripts: Sequence[str]) -> None:
    """
    See that tables and triggers are as they were made. An upgrade makes new
    ones, and after it nobody would notice that the old ones had not done their
    work.

    @raise LedgerDamaged: They aren't.
    """
    changed = next(changes(writer, scripts), None)
    if changed is not None:
        raise LedgerDamaged(
            f"{changed} in the ledger {path}: run the creditsync that made it, or "
            f"bring back a backup"
        )


def _backUp(writer: sqlite3.Connection, path: str, version: int) -> None:
    """
    Copy the ledger as it is, for those who may read it. The copy gets its name
    when it is whole and on disk, and has it there before this returns.
    """
    final = f"{path}.v{version}"
    part = final + ".part"
    # What a killed upgrade has left. SQLite itself removes a journal beside a
    # file that is empty.
    Path(part).unlink(missing_ok=True)
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    shutil.copymode(path, part)
    with closing(sqlite3.connect(part)) as copy:
        writer.backup(copy)
    sync(part, os.O_RDWR)
    os.replace(part, final)
    sync(os.path.dirname(final))


def upgrade(
    writer: sqlite3.Connection, path: str, scripts: Sequence[str], version: int = 0
) -> None:
    """
    Make the newest version from this one, and have the methods of this build in
    it: all of it or nothing.

    @param version: The version that it has, which may be the newest already; 0
        for an empty file.
    """
    # executescript() commits what is open and then starts no transaction of its
    # own: it has to be inside the script. If anything fails, open() closes the
    # connection, which rolls back.
    begin = "BEGIN IMMEDIATE;"
    if version < len(scripts):
        script = "\n".join(scripts[version:])
        begin += (
            f"\n{script}\n"
            f"PRAGMA application_id = {APPLICATION_ID};\n"
            f"PRAGMA user_version = {len(scripts)};"
        )
    writer.executescript(begin)
    operations.write(writer, path)
    writer.execute("COMMIT")


def _value(connection: sqlite3.Connection, statement: str) -> Any:
    """
    The one value that this statement gives.
    """
    return connection.execute(statement).fetchone()[0]
