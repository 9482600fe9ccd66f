"""
Reading a ledger, whether or not a server has it open.

L{reading} opens a connection that can't write and begins a transaction, so
everything is read as it is at one moment. As long as the transaction is open the
server can't reuse its C{-wal} file, so it should be short.

A reader leaves no files behind. Where a ledger has no C{-wal} and C{-shm} files,
SQLite would create them. They would belong to the reader, and a server of another
user could not start with them. So a ledger without them, which no server has open,
is read as a file that does not change (C{immutable}). If a server does change it
meanwhile, which is rare, the reader gets an error and has to try again.
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
from creditsync.ledger._source import Source
from creditsync.records import Account, Trade

_CANT_OPEN: Final = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)

# Later than any time of a trade.
_NEVER: Final = MAX_SAFE_INTEGER + 1


@contextmanager
def reading(path: str) -> Iterator[sqlite3.Connection]:
    """
    Open a ledger to read it as it is at this moment.

    @raise LedgerDamaged: It is not a ledger, or part of it is unreadable.
    @raise LedgerProblem: It can't be read for another reason.
    """
    path = os.path.realpath(path)
    if not os.path.isfile(path):
        raise LedgerProblem(f"there is no ledger {path}: name another file")
    with _explainErrors(path), ExitStack() as stack:
        # A server that stops deletes its -wal and -shm files, but not while this
        # lock is held.
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
                f"the ledger {path} has version {version}, but this creditsync reads"
                f" version {len(SCRIPTS)}: run creditsync upgrade, or start the server"
            )
        yield connection


def _isAtRest(path: str) -> bool:
    """
    Whether all of a ledger is in its main file, and no process has it open for
    writing.

    @raise LedgerProblem: Part of it is in another file, and reading that would leave
        a file behind with which the server can't start.
    """
    if all(os.path.exists(path + end) for end in ("-wal", "-shm")):
        return False
    if not any(map(_hasContent, (f"{path}-wal", f"{path}-journal"))):
        return True
    # Files that root creates are given to the ledger's owner, by SQLite.
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
    Check that a ledger did not change while it was read as C{immutable}.

    @raise LedgerProblem: It did.
    """
    before = _state(path)
    cause = None
    try:
        yield
    except sqlite3.DatabaseError as e:
        # An old page beside a new one looks like damage.
        if _state(path) == before:
            raise
        cause = e
    if _state(path) != before:
        raise LedgerProblem(
            f"the ledger {path} was changed while it was being read, so the result"
            " is inconsistent: try again"
        ) from cause


def _state(path: str) -> tuple[int, int, int]:
    now = os.stat(path)
    return now.st_ino, now.st_size, now.st_mtime_ns


@contextmanager
def _explainErrors(path: str) -> Iterator[None]:
    """
    Turn errors of SQLite into a sentence that says what to do.
    """
    try:
        yield
    except sqlite3.OperationalError as e:
        raise LedgerProblem(f"the ledger {path} can't be read: {_why(e, path)}") from e
    except sqlite3.DatabaseError as e:
        raise LedgerDamaged(
            f"{path} is not a readable SQLite database: {e}; name another file, or"
            " restore a backup"
        ) from e


def _why(error: sqlite3.OperationalError, path: str) -> str:
    if error.sqlite_errorcode & 0xFF in _CANT_OPEN:
        for file in (path, f"{path}-wal", f"{path}-shm"):
            if os.path.exists(file) and not mayUse(file, os.R_OK):
                owner = ownerOf(file)
                return f"{file} belongs to user {owner}, and this user may not read it"
    return str(error)


def trades(
    connection: Source,
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
    connection: Source,
    login: int | None,
    start: int | None,
    end: int | None,
    order: str,
) -> Iterator[Trade]:
    # The only index is the order, so any selection is one scan of the table.
    return (
        Trade(*row)
        for row in connection.execute(
            f"SELECT {COLUMNS} FROM trade WHERE login = coalesce(?, login)"
            f" AND open_time >= ? AND open_time < ? ORDER BY {order}",
            (login, 0 if start is None else start, _NEVER if end is None else end),
        )
    )


@define
class Statement:
    """
    An account's trades in a period, with the totals before and after each.

    @ivar opening: The totals before the first line.
    @ivar lines: The trades by C{open_time}, each with the totals after it. They are
        read lazily.
    """

    opening: Account
    lines: Iterator[tuple[Trade, Account]]


def statement(
    connection: Source,
    login: int,
    start: int | None = None,
    end: int | None = None,
) -> Statement:
    """
    Read an account's trades with C{start <= open_time < end}.

    They are as they are now: an updated trade has its new amount at its old time,
    and a deleted one counts for nothing.

    @raise LedgerProblem: There is no such account.
    """
    checkAccount(connection, login)
    account, totals = Account(login), totalOf(connection)
    trades = _select(connection, login, None, end, 'open_time, "order"')
    for trade in trades:
        if start is None or trade.openTime >= start:
            trades = chain([trade], trades)
            break
        _count(account, trade, totals)
    return Statement(replace(account), _lines(account, trades, totals))


def accounts(connection: Source) -> Iterator[Account]:
    """
    All accounts, by their logins.
    """
    for row in connection.execute(
        'SELECT login, balance, credit, "group" FROM account ORDER BY login'
    ):
        yield Account(*row)


def checkAccount(connection: Source, login: int) -> None:
    """
    @raise LedgerProblem: There is no such account.
    """
    if not connection.execute(
        "SELECT 1 FROM account WHERE login = ?", (login,)
    ).fetchone():
        raise LedgerProblem(f"there is no account {login}")


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


def counts(connection: Source) -> dict[str, int]:
    """
    The numbers of trades, accounts and keys.
    """
    return {
        name: connection.execute(f"SELECT count(*) FROM {what}").fetchone()[0]
        for name, what in [
            ("trades", "trade"),
            ("accounts", "account"),
            ("keys", "journal WHERE key IS NOT NULL"),
        ]
    }
