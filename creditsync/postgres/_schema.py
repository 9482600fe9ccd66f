"""
The tables of a ledger on PostgreSQL: the script of each version, and the statements
that make a database one.
"""

from collections.abc import Sequence
from importlib.resources import files
from typing import Final

import psycopg

from creditsync.errors import LedgerProblem
from creditsync.methods import BOOKING_METHODS, TOTALS, BookingMethod
from creditsync.postgres._connection import Connection

# The nth makes version n from version n - 1. Nodes of two releases may book at the same
# time, so a script leaves alone what the one before it has made and its release uses: a
# new function has a new name.
SCRIPTS: Final[tuple[str, ...]] = tuple(
    "".join(files(__package__).joinpath(name).read_text("utf-8") for name in names)
    for names in (("001.sql", "book.sql"),)
)

# The journal of a ledger. More than one is possible, as tables have them by number.
STREAM: Final = 1

# Whether there are tables, and which version they have.
_IS_MADE: Final = "SELECT to_regclass('version') IS NOT NULL"
_VERSION: Final = "SELECT coalesce(max(number), 0) FROM version"
_EPOCH: Final = "SELECT epoch FROM stream WHERE id = %s"

# Two nodes that make the same tables at the same time: one of them fails, and finds
# them made. As often as that, at most.
_TRIES: Final = 5

_COLUMNS: Final = ("cmd", *TOTALS, "sign", "label")
_METHODS: Final = f"SELECT {', '.join(_COLUMNS)} FROM operation"


def upgrade(version: int) -> str:
    """
    What brings the tables of a version up to date, as one statement and one
    transaction.

    @param version: 0 if there are none.
    """
    return ";\n".join(
        f"{script};\nINSERT INTO version VALUES ({number})"
        for number, script in enumerate(SCRIPTS[version:], version + 1)
    )


def newStream(epoch: str, timestamp: int) -> tuple[str, tuple[object, ...]]:
    """
    What begins the journal, unless it has begun.

    @param epoch: Random.
    """
    return (
        """
        WITH begun AS (
            INSERT INTO stream (id, epoch) VALUES (%s, %s)
            ON CONFLICT DO NOTHING RETURNING id, epoch
        )
        INSERT INTO life (stream, number, epoch, head, cause, timestamp)
        SELECT id, 1, epoch, 0, 'created', %s FROM begun
        """,
        (STREAM, epoch, timestamp),
    )


def newMethods(
    methods: Sequence[BookingMethod] = BOOKING_METHODS,
) -> tuple[str, tuple[object, ...]]:
    """
    What adds the methods of this build that the ledger does not have.
    """
    marks = ", ".join(["(" + ", ".join(["%s"] * len(_COLUMNS)) + ")"] * len(methods))
    return (
        f"INSERT INTO operation ({', '.join(_COLUMNS)}) VALUES {marks}"
        " ON CONFLICT DO NOTHING",
        tuple(value for method in methods for value in wanted(method)),
    )


def wanted(method: BookingMethod) -> tuple[object, ...]:
    """
    The row of a method.
    """
    counts = (int(name == method.total) for name in TOTALS)
    return (method.cmd, *counts, method.sign, method.label)


async def prepare(connection: Connection, epoch: str, timestamp: int) -> str:
    """
    Make the tables, or bring them up to date.

    @param epoch: For a new journal.
    @return: The journal's epoch.
    @raise LedgerProblem: They can't be used.
    """
    for left in reversed(range(_TRIES)):
        try:
            await _upgrade(connection)
            break
        except (psycopg.errors.UniqueViolation, psycopg.errors.ProgrammingError) as e:
            # A permission that is missing is a ProgrammingError too.
            if not left:
                raise LedgerProblem(
                    f"the tables of the ledger can't be made: {str(e).strip()}"
                ) from e
    for statement, values in (newStream(epoch, timestamp), newMethods()):
        await connection.execute(statement, values)
    wantedRows = {wanted(method) for method in BOOKING_METHODS}
    unknown = set(await connection.execute(_METHODS)) - wantedRows
    if unknown:
        described = ", ".join(f"cmd {row[0]} ({row[-1]})" for row in sorted(unknown))
        raise LedgerProblem(
            f"the ledger has methods that this creditsync does not know or counts"
            f" differently, {described}: run the creditsync that wrote it"
        )
    [(found,)] = await connection.execute(_EPOCH, [STREAM])
    assert isinstance(found, str)
    return found


async def _upgrade(connection: Connection) -> None:
    version = 0
    [(isMade,)] = await connection.execute(_IS_MADE)
    if isMade:
        [(version,)] = await connection.execute(_VERSION)
    if version > len(SCRIPTS):
        raise LedgerProblem(
            f"the ledger has version {version}, but this creditsync supports versions"
            f" up to {len(SCRIPTS)}: run the newer creditsync that wrote it"
        )
    if version < len(SCRIPTS):
        await connection.execute(upgrade(version))
