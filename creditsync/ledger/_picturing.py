"""
A ledger's file that is made of the rows of another ledger, as they are, for commands
that read files. No server may use it: it has another ledger's epoch.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any, Final

from creditsync.ledger._schema import SCRIPTS, columns
from creditsync.ledger._upgrading import runScripts

_TRIGGERS: Final = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"

# A table, its columns, and its rows.
Table = tuple[str, Sequence[str], Iterable[Sequence[Any]]]


def picture(path: str, tables: Iterable[Table]) -> None:
    """
    Make the file.

    @param tables: All rows that these tables are to have.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as new:
        # If it is not completed, it is thrown away.
        new.execute("PRAGMA journal_mode = OFF")
        new.execute("PRAGMA synchronous = OFF")
        runScripts(new, SCRIPTS, 0)
        # They would make of the journal what is to be compared with it.
        triggers = new.execute(_TRIGGERS).fetchall()
        for name, _ in triggers:
            new.execute(f"DROP TRIGGER {name}")
        for table, names, rows in tables:
            marks = ", ".join("?" * len(names))
            new.execute(f"DELETE FROM {table}")
            new.executemany(
                f"INSERT INTO {table} ({_quoted(names)}) VALUES ({marks})", rows
            )
        for _, statement in triggers:
            new.execute(statement)
        new.execute("COMMIT")


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(
        f'"{name}"' if name == "group" else columns([name]) for name in names
    )
