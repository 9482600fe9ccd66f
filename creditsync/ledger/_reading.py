"""
A ledger for those who only read: beside the server that has it open, or
without one.

L{reading} gives a connection that can't write, in a transaction: all that is
read through it is of one moment. As long as it lasts the server can't reuse
its C{-wal} file, so it should not last long.

A reader leaves no file behind. SQLite would make a C{-wal} and a C{-shm} file where
there are none, which belong to the reader, and with which a server of another user
can't start. So a ledger that is at rest, which has no such files, is read as one that
does not change (C{immutable}); and if a server changes it meanwhile, which is rare,
whoever reads is told that it has to be done again.
"""

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from itertools import chain
from typing import Final

from attrs import define
from msgspec.structs import replace

from creditsync._locking import TOGETHER, folderLocked
from creditsync.codes import MAX_SAFE_INTEGER
from creditsync.errors import LedgerDamaged, LedgerProblem
from creditsync.ledger._opening import connectReader, mayUse, ownerOf, versionOf
from creditsync.ledger._operations import totalOf
from creditsync.ledger._schema import COLUMNS, SCRIPTS
from creditsync.records import Account, Trade

_CANT_OPEN: Final = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)

# Beyond all times that a trade may have.
_NEVER: Final = MAX_SAFE_INTEGER + 1


@contextmanager
def reading(path: str) -> Iterator[sqlite3.Connection]:
    """
    Open a ledger to read what is in it at this moment.

    @raise LedgerDamaged: It is no ledger, or can't be read through.
    @raise LedgerProblem: It can't be read for another reason.
    """
    path = os.path.realpath(path)
    if not os.path.isfile(path):
        raise LedgerProblem(f"there is no ledger {path}: name another file")
    with _explained(path), ExitStack() as stack:
        # No server ends meanwhile and takes the files away that were seen.
        with folderLocked(os.path.dirname(path), TOGETHER):
            mode = "mode=ro"
            if _isAtRest(path):
                stack.enter_context(_unchanged(path))
                mode += "&immutable=1"
            connection = stack.enter_context(closing(connectReader(path, mode)))
            connection.execute("BEGIN")
            version = versionOf(connection, path, len(SCRIPTS))
        if version == 0:
            raise LedgerDamaged(f"{path} is an empty file, not a ledger: name another")
        if version < len(SCRIPTS):
            raise LedgerProblem(
                f"the ledger {path} has version {version}, and this creditsync reads"
                f" version {len(SCRIPTS)}: start the server once, which upgrades it"
            )
        yield connection


def _isAtRest(path: str) -> bool:
    """
    Whether all of a ledger is in its one file, and nobody has it open for writing.

    @raise LedgerProblem: Part of it is elsewhere, and this user would leave a file
        behind that stops the server.
    """
    if all(os.path.exists(path + end) for end in ("-wal", "-shm")):
        return False
    if not any(map(_hasContent, (f"{path}-wal", f"{path}-journal"))):
        return True
    # The files of root SQLite gives to the ledger's owner.
    if os.geteuid() in (0, os.stat(path).st_uid):
        return False
    raise LedgerProblem(
        f"the ledger {path} was not closed, and its -shm file is missing, so that only"
        f" user {ownerOf(path)} can read it: start the server once"
    )


def _hasContent(path: str) -> bool:
    try:
        return os.path.getsize(path) > 0
    except FileNotFoundError:
        return False


@contextmanager
def _unchanged(path: str) -> Iterator[None]:
    """
    See that what was read of a ledger at rest is of one moment.

    @raise LedgerProblem: It is not.
    """
    before = _state(path)
    cause = None
    try:
        yield
    except sqlite3.DatabaseError as e:
        # A page of now beside one of then looks like damage.
        if _state(path) == before:
            raise
        cause = e
    if _state(path) != before:
        raise LedgerProblem(
            f"the ledger {path} was changed while it was read, so what was read is not"
            " of one moment: do it again"
        ) from cause


def _state(path: str) -> tuple[int, int, int]:
    now = os.stat(path)
    return now.st_ino, now.st_size, now.st_mtime_ns


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """
    Turn what SQLite raises into a sentence that says what to do.
    """
    try:
        yield
    except sqlite3.OperationalError as e:
        raise LedgerProblem(f"the ledger {path} can't be read: {_why(e, path)}") from e
    except sqlite3.DatabaseError as e:
        raise LedgerDamaged(
            f"{path} is not a readable SQLite database: {e}; name another file, or"
            " bring back a backup"
        ) from e


def _why(error: sqlite3.OperationalError, path: str) -> str:
    if error.sqlite_errorcode & 0xFF in _CANT_OPEN:
        for file in (path, f"{path}-wal", f"{path}-shm"):
            if os.path.exists(file) and not mayUse(file, os.R_OK):
                owner = ownerOf(file)
                return f"{file} belongs to user {owner}, and this user may not read it"
    return str(error)


def trades(
    connection: sqlite3.Connection,
    login: int | None = None,
    start: int | None = None,
    end: int | None = None,
) -> Iterator[Trade]:
    """
    Read the trades as they are now, in the order of their numbers.

    @param login: Only those of this account.
    @param start: Only those with this C{open_time} or a later one.
    @param end: Only those with an earlier C{open_time}.
    """
    yield from _select(connection, login, start, end, '"order"')


def _select(
    connection: sqlite3.Connection,
    login: int | None,
    start: int | None,
    end: int | None,
    order: str,
) -> Iterator[Trade]:
    # There is no index but the order's: whatever is asked for, one scan of the
    # table finds it.
    return (
        Trade(*row)
        for row in connection.execute(
            f"SELECT {COLUMNS} FROM trade WHERE login = ifnull(?, login)"
            f" AND open_time >= ? AND open_time < ? ORDER BY {order}",
            (login, 0 if start is None else start, _NEVER if end is None else end),
        )
    )


@define
class Statement:
    """
    What an account had, and how it came to that.

    @ivar opening: Its totals before the first of the lines.
    @ivar lines: The account's trades by C{open_time}, each with the totals
        after it. They are read as they are asked for.
    """

    opening: Account
    lines: Iterator[tuple[Trade, Account]]


def statement(
    connection: sqlite3.Connection,
    login: int,
    start: int | None = None,
    end: int | None = None,
) -> Statement:
    """
    Tell an account's trades from C{start} until before C{end}.

    It is the ledger as it is now: a trade that was updated has its new amount
    at its old time, and one that was deleted counts for nothing.

    @raise LedgerProblem: There is no such account.
    """
    if not connection.execute(
        "SELECT 1 FROM account WHERE login = ?", (login,)
    ).fetchone():
        raise LedgerProblem(f"there is no account {login}")
    account, totals = Account(login), totalOf(connection)
    trades = _select(connection, login, None, end, 'open_time, "order"')
    for trade in trades:
        if start is None or trade.openTime >= start:
            trades = chain([trade], trades)
            break
        _count(account, trade, totals)
    return Statement(replace(account), _lines(account, trades, totals))


def _lines(
    account: Account, trades: Iterator[Trade], totals: Mapping[int, str]
) -> Iterator[tuple[Trade, Account]]:
    for trade in trades:
        _count(account, trade, totals)
        yield trade, replace(account)


def _count(account: Account, trade: Trade, totals: Mapping[int, str]) -> None:
    """
    Add a trade to the total that it counts for.
    """
    name = totals[trade.cmd]
    setattr(account, name, getattr(account, name) + trade.counted)


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    """
    How much there is, by what it is.
    """
    return {
        name: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        for name, table in [
            ("trades", "trade"),
            ("accounts", "account"),
            ("keys", "keyed_operation"),
        ]
    }
