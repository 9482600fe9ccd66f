"""
The table C{operation} of a ledger: the total that each C{cmd} counts for, as data.

Its rows are the methods of L{creditsync.methods}. L{writeMethods} adds new methods,
and refuses a ledger whose trades this build would count differently.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final

from creditsync.errors import LedgerProblem
from creditsync.ledger._source import Source
from creditsync.methods import BOOKING_METHODS, TOTALS, BookingMethod

_COLUMNS: Final = ("cmd", *TOTALS, "sign", "label")
_READ: Final = f"SELECT {', '.join(_COLUMNS)} FROM operation"
_WRITE: Final = (
    f"INSERT INTO operation ({', '.join(_COLUMNS)})"
    f" VALUES ({', '.join('?' * len(_COLUMNS))})"
)


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


def methodDifferences(connection: Source) -> Iterator[str]:
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


def totalOf(connection: Source) -> dict[int, str]:
    """
    The total that the trades of each C{cmd} count for.
    """
    return {
        cmd: TOTALS[counts.index(1)]
        for cmd, (*counts, _, _) in (
            (row[0], row[1:]) for row in connection.execute(_READ)
        )
    }


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


def _found(connection: Source) -> dict[int, tuple[Any, ...]]:
    return {row[0]: row for row in connection.execute(_READ)}


def _isUsed(connection: sqlite3.Connection, cmd: int) -> bool:
    found = connection.execute("SELECT 1 FROM trade WHERE cmd = ? LIMIT 1", (cmd,))
    return found.fetchone() is not None


def _described(row: tuple[Any, ...] | None) -> str:
    return "no row" if row is None else str(dict(zip(_COLUMNS, row, strict=True)))
