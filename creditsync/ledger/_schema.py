"""
The schema of a ledger: the script of each version, and the columns of its trades.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from importlib.resources import files
from typing import Final

from creditsync.records import TRADE_MEMBERS

# "CrSy" in the file's header tells a ledger from other databases.
APPLICATION_ID: Final = 0x43725379

# The nth script makes version n from version n - 1.
SCRIPTS: Final[tuple[str, ...]] = tuple(
    files(__package__).joinpath(name).read_text("utf-8")
    for name in ("001.sql", "002.sql")
)


def columns(names: Sequence[str]) -> str:
    """
    A list of columns in SQL, where C{order} is a keyword and has to be quoted.
    """
    return ", ".join(f'"{name}"' if name == "order" else name for name in names)


# The columns of the table trade, in the order of the members of a Trade.
COLUMNS: Final = columns(TRADE_MEMBERS)

# The columns that record a request with a key, besides those of its trade.
ASKED: Final = (
    "principal",
    "key",
    "command",
    "type",
    "asked_order",
    "asked_open_time",
    "asked_close_time",
)


def changes(connection: sqlite3.Connection, scripts: Sequence[str]) -> Iterator[str]:
    """
    Describe what is missing in the schema or differs from what these scripts make.
    An extra trigger is reported too, because it could change what is booked.
    """
    with closing(sqlite3.connect(":memory:")) as fresh:
        for script in scripts:
            fresh.executescript(script)
        wanted = _schema(fresh)
    found = _schema(connection)
    for (kind, name), text in wanted.items():
        if (kind, name) not in found:
            yield f"the {kind} {name} is missing"
        elif found[kind, name] != text:
            yield f"the {kind} {name} is not what creditsync made"
    for kind, name in found.keys() - wanted.keys():
        if kind == "trigger":
            yield f"unexpected trigger {name}"


def _schema(connection: sqlite3.Connection) -> dict[tuple[str, str], str]:
    """
    The statement that made each table, view and trigger, by kind and name.
    """
    return {
        (kind, name): text
        for kind, name, text in connection.execute(
            "SELECT type, name, sql FROM sqlite_schema"
        )
    }
