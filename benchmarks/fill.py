"""
A ledger of a great many trades, made in SQL.

The ledger itself creates the tables. Then the trigger for the totals is
dropped, the trades are written in order and the totals in one step, and the
trigger is restored word for word: at its start the server checks that
everything is as the ledger would have made it.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from twisted.internet.defer import maybeDeferred

from creditsync.ledger.sqlite import SQLiteLedger

# The accounts of the load are among them: their logins begin at 1000.
ACCOUNTS: Final = 100_000

_TRADES: Final = """
    WITH RECURSIVE serial (n) AS (SELECT ? UNION ALL SELECT n + 1 FROM serial LIMIT ?)
    INSERT INTO trade ("order", login, cmd, state, profit, comment,
                       open_time, close_time, timestamp)
    SELECT n, 1000 + n % ?, 7, 3, 100000000 * (100 + n % 900), 'Promotion credit',
           1700000000, 1700000000, 1700000000
    FROM serial
"""
_TOTALS: Final = """
    INSERT INTO account (login, balance, credit)
    SELECT login, 0, sum(profit) FROM trade GROUP BY login
"""


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
        triggers = connection.execute(
            "SELECT name, sql FROM sqlite_schema"
            " WHERE type = 'trigger' AND tbl_name = 'trade'"
        ).fetchall()
        connection.execute("BEGIN IMMEDIATE")
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(_TRADES, (1, trades, accounts))
        connection.execute(_TOTALS)
        for _, statement in triggers:
            connection.execute(statement)
        connection.execute("UPDATE order_mark SET next_order = ?", (trades + 1,))
        connection.execute("COMMIT")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_mode = wal")
    part.rename(path)
    for file in path.parent.glob(part.name + "*"):
        file.unlink()
