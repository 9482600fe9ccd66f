"""
A new file that has what another ledger has: its journal with places, hashes and epoch,
its trades and its accounts.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import Final

from creditsync.ledger._journal import MEMBERS
from creditsync.ledger._opening import explainErrors
from creditsync.ledger._operations import writeMethods
from creditsync.ledger._schema import SCRIPTS, columns
from creditsync.ledger._source import Source
from creditsync.ledger._upgrading import runScripts
from creditsync.records import TRADE_MEMBERS

# The columns of each table.
_TABLES: Final = {
    "order_mark": "next_order",
    "life": "number, epoch, head, cause, timestamp",
    "journal": f"{columns(MEMBERS)}, hash",
    "trade": f"{columns(TRADE_MEMBERS)}, revision, place",
    "account": 'login, balance, credit, "group"',
}
_TRIGGERS: Final = "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'"

# Rows that are fetched at a time.
_PAGE: Final = 5000


def fill(
    path: str,
    source: Source,
    statements: Iterable[str] = (),
    others: Mapping[str, str] | None = None,
) -> None:
    """
    Make a file of what there is at this moment. What is in it is proved when it is
    opened.

    @param statements: Make the tables that only some ledgers have.
    @param others: The columns of these, by their names.
    """
    with (
        explainErrors(path),
        closing(sqlite3.connect(path, isolation_level=None)) as writer,
    ):
        # If the machine fails meanwhile, it is made anew.
        writer.execute("PRAGMA synchronous = OFF")
        runScripts(writer, SCRIPTS, 0)
        # They would bring up to date what is filled below, at each row.
        triggers = writer.execute(_TRIGGERS).fetchall()
        for name, _ in triggers:
            writer.execute(f"DROP TRIGGER {name}")
        for each in statements:
            writer.execute(each)
        for table, names in {**_TABLES, **(others or {})}.items():
            _copy(writer, source, table, names)
        for _, trigger in triggers:
            writer.execute(trigger)
        writeMethods(writer, path)
        writer.execute("COMMIT")


def _copy(writer: sqlite3.Connection, source: Source, table: str, names: str) -> None:
    writer.execute(f"DELETE FROM {table}")
    rows = source.execute(f"SELECT {names} FROM {table} ORDER BY 1")
    while page := rows.fetchmany(_PAGE):
        marks = ", ".join("?" * len(page[0]))
        writer.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", page)
