"""
A ledger for those who only read: beside the server that has it open, or
without one.

L{reading} gives a connection that can't write, in a transaction: all that is
read through it is of one moment. As long as it lasts the server can't reuse
its C{-wal} file, so it should not last long.
"""

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import chain
from typing import Final

from attrs import define
from msgspec.structs import replace

from creditsync.codes import MAX_SAFE_INTEGER
from creditsync.errors import LedgerDamaged, LedgerProblem
from creditsync.ledger.opening import connectReader, versionOf
from creditsync.ledger.operations import totalOf
from creditsync.ledger.schema import COLUMNS, SCRIPTS
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
    with _explained(path), closing(connectReader(path)) as connection:
        connection.execute("BEGIN")
        version = versionOf(connection, path, len(SCRIPTS))
        if version == 0:
            raise LedgerDamaged(f"{path} is empty and no ledger: name another file")
        if version < len(SCRIPTS):
            raise LedgerProblem(
                f"the ledger {path} has version {version}, and this creditsync reads"
                f" version {len(SCRIPTS)}: start the server once, which upgrades it"
            )
        yield connection


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
            f"{path} is no readable SQLite database: {e}; name another file, or bring"
            " back a backup"
        ) from e


def _why(error: sqlite3.OperationalError, path: str) -> str:
    if error.sqlite_errorcode & 0xFF not in _CANT_OPEN:
        return str(error)
    if not _may(path, os.R_OK):
        return "this user may not read it"
    if _may(os.path.dirname(path), os.W_OK):
        return str(error)
    # Without a -shm file even a reader has to make one.
    return (
        "no server has it open, and then even a reader must be able to write in its"
        " folder; do it as another user, start the server, or read a copy that"
        " creditsync backup made"
    )


def _may(path: str, mode: int) -> bool:
    """
    Whether this user may; to find out by opening the file and closing it again
    would drop the locks that SQLite has on it in this process.
    """
    effective = os.access in os.supports_effective_ids
    return os.access(path, mode, effective_ids=effective)


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
