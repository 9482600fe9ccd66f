"""
How the scripts make a ledger of the newest version from an older one or from nothing,
and the step that a script can't do: what version 2 had recorded becomes the journal of
version 3.

Version 2 had each trade as it is now, and each operation with a key as it was booked.
The two overlap where an operation with a key was the last to change its trade. All are
written as rows of the journal, by order and revision. What was not recorded is
C{NULL}: who requested an operation without a key, and the totals after any. Changes of
which neither table has a trace have no row.

All of it belongs to the transaction of the upgrade.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Final

from twisted.logger import Logger

from creditsync.ledger._journal import MEMBERS, NO_HASH, Row, chained
from creditsync.ledger._schema import APPLICATION_ID, columns
from creditsync.records import TRADE_MEMBERS

# Called with the number of rows that are written, and of all.
Progress = Callable[[int, int], None]

# Seconds between two reports in the log.
_PERIOD: Final = 5.0

# The version with a journal.
_JOURNAL: Final = 3

# Rows of one hash.
_PAGE: Final = 10_000

_TRADE: Final = columns(TRADE_MEMBERS)

# The type of a trade's last change is known from the trade itself.
_FORMER: Final = f"""
    SELECT type, {_TRADE}, NULL, NULL,
           principal, NULL, command, asked_order, key, asked_open_time,
           asked_close_time
    FROM (
        SELECT iif(revision = 0, 0, iif(state = 6, 2, 1)) AS type, {_TRADE}, revision,
               NULL AS principal, NULL AS key, NULL AS command, NULL AS asked_order,
               NULL AS asked_open_time, NULL AS asked_close_time
        FROM former_trade AS t
        WHERE NOT EXISTS (
            SELECT 1 FROM former_key AS k
            WHERE k."order" = t."order" AND k.revision = t.revision
        )
        UNION ALL
        SELECT type, {_TRADE}, revision, principal, key, command, asked_order,
               asked_open_time, asked_close_time
        FROM former_key
    ) ORDER BY "order", revision
"""
_COUNT: Final = """
    SELECT (SELECT count(*) FROM former_trade) + (
        SELECT count(*) FROM former_key AS k JOIN former_trade AS t USING ("order")
        WHERE k.revision <> t.revision
    )
"""
# The columns that a row without a key has; sqlite3 binds None slowly.
_KEY: Final = MEMBERS.index("key")
_FEW: Final = MEMBERS[: MEMBERS.index("balance")]
_WRITE_FEW: Final = (
    f"INSERT INTO journal ({columns(_FEW)}) VALUES ({', '.join('?' * len(_FEW))})"
)
_WRITE: Final = (
    f"INSERT INTO journal ({columns(MEMBERS)}, hash)"
    f" VALUES ({', '.join('?' * len(MEMBERS))}, ?)"
)
# What an insertion into the journal leads to.
_TRIGGERS: Final = """
    SELECT name, sql FROM sqlite_schema
    WHERE name IN ('journal_appended', 'journal_booked')
"""
# Rows of one order follow each other, and the last one has the last place.
_FILL_TRADE: Final = f"""
    INSERT INTO trade ({_TRADE}, revision, place)
    SELECT {", ".join(f'former."{name}"' for name in TRADE_MEMBERS)},
           former.revision, journal.place
    FROM journal CROSS JOIN former_trade AS former USING ("order")
    WHERE true ORDER BY journal.place
    ON CONFLICT ("order") DO UPDATE SET place = excluded.place
"""
_BEGIN_LIFE: Final = """
    INSERT INTO life (number, epoch, head, cause, timestamp)
    SELECT ifnull(max(number), 0) + 1, lower(hex(randomblob(4))), ?, ?, unixepoch()
    FROM life
"""


def loggedProgress() -> Progress:
    """
    Report the progress of an upgrade in the log, now and then.
    """
    log, reported = Logger(), time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal reported
        if time.monotonic() - reported >= _PERIOD:
            reported = time.monotonic()
            log.info(
                "upgrading the ledger: {done} of {total} rows", done=done, total=total
            )

    return report


def beginLife(writer: sqlite3.Connection, head: int, cause: str) -> None:
    """
    Give a ledger a new epoch.

    @param head: The last place of its journal.
    """
    writer.execute(_BEGIN_LIFE, (head, cause))


def runScripts(
    writer: sqlite3.Connection,
    scripts: Sequence[str],
    version: int,
    progress: Progress | None = None,
) -> None:
    """
    Make the newest version, in a transaction that is left open.

    @param version: The version of the ledger, which may be the newest already; 0
        for an empty file.
    """
    # executescript() commits an open transaction first and begins none, so the
    # script itself has to begin it.
    missing = scripts[version:]
    writer.executescript("\n".join(("BEGIN IMMEDIATE;", *missing)))
    if version < _JOURNAL <= len(scripts):
        _fillJournal(writer, version == 0, progress)
    if missing:
        writer.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        writer.execute(f"PRAGMA user_version = {len(scripts)}")


def changes(connection: sqlite3.Connection, scripts: Sequence[str]) -> Iterator[str]:
    """
    Describe what is missing in the schema or differs from what these scripts make.
    An extra trigger is reported too, because it could change what is booked.
    """
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh:
        runScripts(fresh, scripts, 0)
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
    The statement that made each table, view, index and trigger, by kind and name.
    """
    return {
        (kind, name): text
        for kind, name, text in connection.execute(
            "SELECT type, name, sql FROM sqlite_schema"
        )
    }


def _fillJournal(
    writer: sqlite3.Connection, isNew: bool, progress: Progress | None
) -> None:
    """
    Complete the script of version 3.

    @param isNew: Whether there was no older version.
    """
    place = 0 if isNew else _copy(writer, progress)
    writer.execute("DROP TABLE former_trade")
    writer.execute("DROP TABLE former_key")
    beginLife(writer, place, "created" if isNew else "upgraded")


def _copy(writer: sqlite3.Connection, progress: Progress | None) -> int:
    """
    Write the rows.

    @return: The last place.
    """
    [[total]] = writer.execute(_COUNT)
    # In one step at the end, trades are filled in a fraction of the time.
    triggers = writer.execute(_TRIGGERS).fetchall()
    for name, _ in triggers:
        writer.execute(f"DROP TRIGGER {name}")
    place, hash = 0, NO_HASH
    former = writer.execute(_FORMER)
    while page := former.fetchmany(_PAGE):
        rows: list[Row] = [
            (number, *row) for number, row in enumerate(page, start=place + 1)
        ]
        hash = chained(hash, rows)
        place += len(rows)
        _write(writer, rows, hash)
        if progress is not None:
            progress(place, total)
    writer.execute(_FILL_TRADE)
    for _, statement in triggers:
        writer.execute(statement)
    return place


def _write(writer: sqlite3.Connection, rows: Sequence[Row], hash: bytes) -> None:
    """
    Write the rows of one hash.
    """
    *others, last = rows
    few = [row[: len(_FEW)] for row in others if row[_KEY] is None]
    whole: list[Row] = [(*row, None) for row in others if row[_KEY] is not None]
    writer.executemany(_WRITE_FEW, few)
    writer.executemany(_WRITE, [*whole, (*last, hash)])
