"""
The table C{operation} of a ledger: the total that each C{cmd} counts for, as data.

Its rows are the methods of L{creditsync.methods}. L{writeMethods} adds new methods,
and refuses a ledger whose trades this build would count differently. L{tryMethods}
proves at the start that a trade of each method can be booked. Otherwise the first
request would discover that it can't, and end the server.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final

from msgspec.structs import astuple

from creditsync.codes import TS_CLOSED_NORMAL
from creditsync.errors import LedgerProblem
from creditsync.ledger._schema import COLUMNS
from creditsync.methods import BOOKING_METHODS, TOTALS, BookingMethod
from creditsync.records import TRADE_MEMBERS, Trade

_COLUMNS: Final = ("cmd", *TOTALS, "sign", "label")
_READ: Final = f"SELECT {', '.join(_COLUMNS)} FROM operation"
_WRITE: Final = (
    f"INSERT INTO operation ({', '.join(_COLUMNS)})"
    f" VALUES ({', '.join('?' * len(_COLUMNS))})"
)
_TRY: Final = (
    f"INSERT INTO trade ({COLUMNS}) VALUES ({', '.join('?' * len(TRADE_MEMBERS))})"
)

# No account has this login.
_NOBODY: Final = 0


def writeMethods(
    writer: sqlite3.Connection,
    path: str,
    methods: Sequence[BookingMethod] = BOOKING_METHODS,
) -> None:
    """
    Make the rows those of the methods, within the open transaction.

    @raise LedgerProblem: Existing trades would then count differently.
    """
    wanted, found = _wanted(methods), _found(writer)
    if found == wanted:
        return
    for cmd, row in found.items():
        # If there are such trades, only the label may change.
        if row[:-1] != wanted.get(cmd, ())[:-1] and _isUsed(writer, cmd):
            raise LedgerProblem(
                f"the ledger {path} has trades with cmd {cmd} ({row[-1]}), which this "
                f"creditsync does not know or counts differently: run the creditsync "
                f"that wrote it"
            )
    writer.execute("DELETE FROM operation")
    writer.executemany(_WRITE, wanted.values())


def methodDifferences(connection: sqlite3.Connection) -> Iterator[str]:
    """
    Describe how the rows differ from the methods.
    """
    wanted, found = _wanted(BOOKING_METHODS), _found(connection)
    for cmd in sorted(wanted.keys() | found.keys()):
        if found.get(cmd) != wanted.get(cmd):
            yield (
                f"the table operation has {_described(found.get(cmd))} for cmd {cmd}, "
                f"but this creditsync has {_described(wanted.get(cmd))}"
            )


def totalOf(connection: sqlite3.Connection) -> dict[int, str]:
    """
    The total that the trades of each C{cmd} count for.
    """
    return {
        cmd: TOTALS[counts.index(1)]
        for cmd, (*counts, _, _) in (
            (row[0], row[1:]) for row in connection.execute(_READ)
        )
    }


def tryMethods(
    writer: sqlite3.Connection,
    path: str,
    methods: Sequence[BookingMethod] = BOOKING_METHODS,
) -> None:
    """
    Book a trade of each method, check that it counts for the right total, and roll
    all of it back.

    @raise LedgerProblem: One of them can't be booked.
    """
    writer.execute("BEGIN IMMEDIATE")
    try:
        for method in methods:
            problem = _try(writer, method)
            if problem is not None:
                raise LedgerProblem(
                    f"this creditsync can't book {method.name} (cmd {method.cmd}) in "
                    f"the ledger {path}: {problem}; run another version"
                )
    finally:
        # Some errors roll back by themselves.
        if writer.in_transaction:
            writer.execute("ROLLBACK")


def _try(writer: sqlite3.Connection, method: BookingMethod) -> str | None:
    """
    Book a trade.

    @return: What is wrong, if anything.
    """
    before = _totals(writer)
    last = writer.execute('SELECT ifnull(max("order"), 0) FROM trade').fetchone()[0]
    trade = Trade(
        order=last + 1,
        login=_NOBODY,
        cmd=method.cmd,
        state=TS_CLOSED_NORMAL,
        profit=method.sign,
        comment="",
        openTime=0,
        closeTime=0,
        timestamp=0,
    )
    try:
        writer.execute(_TRY, astuple(trade))
    except sqlite3.IntegrityError as e:
        return str(e)
    wanted = tuple(
        each + (method.sign if name == method.total else 0)
        for name, each in zip(TOTALS, before, strict=True)
    )
    found = _totals(writer)
    return None if found == wanted else f"it makes {TOTALS} {found}, expected {wanted}"


def _totals(writer: sqlite3.Connection) -> tuple[int, ...]:
    row: tuple[int, ...] | None = writer.execute(
        f"SELECT {', '.join(TOTALS)} FROM account WHERE login = ?", (_NOBODY,)
    ).fetchone()
    return row or (0,) * len(TOTALS)


def _wanted(methods: Sequence[BookingMethod]) -> dict[int, tuple[Any, ...]]:
    return {
        method.cmd: (
            method.cmd,
            *(int(name == method.total) for name in TOTALS),
            method.sign,
            method.label,
        )
        for method in methods
    }


def _found(connection: sqlite3.Connection) -> dict[int, tuple[Any, ...]]:
    return {row[0]: row for row in connection.execute(_READ)}


def _isUsed(connection: sqlite3.Connection, cmd: int) -> bool:
    found = connection.execute("SELECT 1 FROM trade WHERE cmd = ? LIMIT 1", (cmd,))
    return found.fetchone() is not None


def _described(row: tuple[Any, ...] | None) -> str:
    return "no row" if row is None else str(dict(zip(_COLUMNS, row, strict=True)))
