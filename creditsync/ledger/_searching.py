"""
Searches in a ledger that is in use, in bounded time, for the console.

The only index is the order. The trades of an account are therefore searched from
the newest order down, in steps of one short read transaction each. The search ends
when enough is found or its time has expired, and reports how far it came.
"""

import time
from collections.abc import Callable
from typing import Final

from attrs import Factory, define

from creditsync.ledger._reading import reading
from creditsync.ledger._schema import COLUMNS
from creditsync.records import Trade

# Trades in one step.
_STEP: Final = 100_000

# Not a range of numbers, because after a backup was restored most are not used.
_STEP_START: Final = """
    SELECT "order" FROM trade WHERE "order" < ? ORDER BY "order" DESC LIMIT 1 OFFSET ?
"""

# The index of keys begins with the principal. Each principal is found from the one
# before by one look-up in the index, instead of a scan of all keys.
_BY_KEY: Final = f"""
    WITH RECURSIVE principals (principal) AS (
        SELECT min(principal) FROM journal WHERE key IS NOT NULL
        UNION ALL
        SELECT (SELECT min(k.principal) FROM journal AS k
                WHERE k.principal > principals.principal AND k.key IS NOT NULL)
        FROM principals WHERE principals.principal IS NOT NULL
    )
    SELECT {COLUMNS} FROM trade WHERE "order" IN (
        SELECT k."order" FROM principals
        JOIN journal AS k ON k.principal = principals.principal
        WHERE k.key = ?
    ) ORDER BY "order" DESC LIMIT ?
"""


@define
class Found:
    """
    The result of a search, newest trades first.

    @ivar downTo: The lowest order that was searched; 0 if all were.
    """

    trades: list[Trade] = Factory(list)
    downTo: int = 0


def tradesOf(
    path: str,
    login: int,
    most: int,
    seconds: float,
    now: Callable[[], float] = time.monotonic,
) -> Found:
    """
    Search the newest trades of an account.

    @param seconds: No further step is made after this time.
    @raise creditsync.errors.LedgerProblem: The ledger can't be read.
    """
    end = now() + seconds
    found = Found()
    with reading(path) as connection:
        last = connection.execute('SELECT max("order") FROM trade').fetchone()[0]
    found.downTo = (last or 0) + 1
    while found.downTo > 1 and len(found.trades) < most and now() < end:
        with reading(path) as connection:
            [start] = connection.execute(
                _STEP_START, (found.downTo, _STEP - 1)
            ).fetchone() or [1]
            rows = connection.execute(
                f'SELECT {COLUMNS} FROM trade WHERE "order" >= ? AND "order" < ?'
                ' AND login = ? ORDER BY "order" DESC LIMIT ?',
                (start, found.downTo, login, most - len(found.trades)),
            ).fetchall()
        found.trades += (Trade(*row) for row in rows)
        found.downTo = start
    if len(found.trades) == most:
        found.downTo = found.trades[-1].order
    elif found.downTo == 1:
        found.downTo = 0
    return found


def tradesByKey(path: str, key: str, most: int) -> Found:
    """
    Search the trades that any principal has booked with this key.

    @raise creditsync.errors.LedgerProblem: The ledger can't be read.
    """
    with reading(path) as connection:
        return Found([Trade(*row) for row in connection.execute(_BY_KEY, (key, most))])
