"""
Searches of the console, each on a connection of its own: those of clients don't wait
for them.
"""

from collections.abc import Sequence
from typing import Any, Final

from creditsync.ledger._schema import COLUMNS
from creditsync.ledger._searching import Found
from creditsync.postgres._reading import reading
from creditsync.records import Trade

_BY_LOGIN: Final = f"""
    SELECT {COLUMNS} FROM trade WHERE login = %s ORDER BY "order" DESC LIMIT %s
"""
# The index of keys begins with the principal. Each principal is found from the one
# before by one look-up in the index.
_BY_KEY: Final = f"""
    WITH RECURSIVE principals (principal) AS (
        SELECT min(principal) FROM keyed
        UNION ALL
        SELECT (SELECT min(k.principal) FROM keyed AS k
                WHERE k.principal > principals.principal)
        FROM principals WHERE principals.principal IS NOT NULL
    )
    SELECT {COLUMNS} FROM trade WHERE "order" IN (
        SELECT event."order" FROM principals
        JOIN keyed USING (principal) JOIN event USING (stream, seq)
        WHERE keyed.key = %s
    ) ORDER BY "order" DESC LIMIT %s
"""


def tradesOf(address: str, login: int, most: int, seconds: float) -> Found:
    """
    Search the newest trades of an account.

    @param seconds: How long it may take.
    @raise creditsync.errors.LedgerProblem: The ledger can't be read.
    """
    found = Found(_trades(address, seconds, _BY_LOGIN, (login, most)))
    if len(found.trades) == most:
        found.downTo = found.trades[-1].order
    return found


def tradesByKey(address: str, key: str, most: int, seconds: float) -> Found:
    """
    Search the trades that any principal has booked with this key.

    @param seconds: How long it may take.
    @raise creditsync.errors.LedgerProblem: The ledger can't be read.
    """
    return Found(_trades(address, seconds, _BY_KEY, (key, most)))


def _trades(
    address: str, seconds: float, statement: str, values: Sequence[Any]
) -> list[Trade]:
    with reading(address, "console") as source:
        limit = f"SET LOCAL statement_timeout = {int(seconds * 1000)}"
        source.session.rows(limit)
        return [Trade(*row) for row in source.select(statement, values)]
