"""
A ledger of a great many trades, made faster than by commits.

The ledger itself creates the tables. Then the rows are written into the journal, as
the server would have booked them in batches of 1,000, and its trigger fills the other
tables. Nothing is synced before the end.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import maybeDeferred

from creditsync.ledger._journal import MEMBERS, NO_HASH, Row, chained
from creditsync.ledger._schema import columns
from creditsync.ledger.sqlite import SQLiteLedger

# The accounts of the load are among them: their logins begin at 1000.
ACCOUNTS: Final = 100_000

_BATCH: Final = 1000

_TIME: Final = 1_700_000_000

_WRITE: Final = (
    f"INSERT INTO journal ({columns(MEMBERS)}, hash)"
    f" VALUES ({', '.join('?' * (len(MEMBERS) + 1))})"
)


def fill(path: Path, trades: int, accounts: int = ACCOUNTS) -> None:
    """
    Create a ledger with this many trades, spread evenly over this many
    accounts.
    """
    # The file gets its name only once it is complete.
    part = path.with_name(path.name + ".part")
    for file in path.parent.glob(path.name + "*"):
        file.unlink()
    empty = SQLiteLedger(str(part), maybeDeferred)
    empty.open()
    empty.close()
    with closing(sqlite3.connect(part, isolation_level=None)) as connection:
        # An incomplete ledger is thrown away, so a journal is not needed.
        connection.execute("PRAGMA journal_mode = off")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN IMMEDIATE")
        hash = NO_HASH
        for rows in _batches(trades, accounts):
            hash = chained(hash, rows)
            values: list[Any] = [(*row, None) for row in rows]
            values[-1] = (*rows[-1], hash)
            connection.executemany(_WRITE, values)
        connection.execute("UPDATE order_mark SET next_order = ?", (trades + 1,))
        connection.execute("COMMIT")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_mode = wal")
    part.rename(path)
    for file in path.parent.glob(part.name + "*"):
        file.unlink()


def _batches(trades: int, accounts: int) -> Iterator[list[Row]]:
    """
    The rows of the journal, without their hashes.
    """
    credit: Counter[int] = Counter()
    for first in range(1, trades + 1, _BATCH):
        rows: list[Row] = []
        for order in range(first, min(first + _BATCH, trades + 1)):
            login, profit = 1000 + order % accounts, 100_000_000 * (100 + order % 900)
            credit[login] += profit
            trade = (order, login, 7, 3, profit, "Promotion credit", *(_TIME,) * 3)
            asked = (7, 1, "CreditIn", 0, None, None, None)
            rows.append((order, 0, *trade, 0, credit[login], *asked))
        yield rows
