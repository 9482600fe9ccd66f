"""
The tables of a ledger on PostgreSQL: the script of each version, and the statements
that make a database one.
"""

from collections.abc import Sequence
from importlib.resources import files
from typing import Final

from creditsync.methods import BOOKING_METHODS, TOTALS, BookingMethod

# The nth makes version n from version n - 1. Nodes of two releases may book at the same
# time, so a script leaves alone what the one before it has made and its release uses: a
# new function has a new name.
SCRIPTS: Final[tuple[str, ...]] = tuple(
    "".join(files(__package__).joinpath(name).read_text("utf-8") for name in names)
    for names in (("001.sql", "book.sql"),)
)

# Makes what only a gateway has.
GATEWAY: Final = files(__package__).joinpath("gateway.sql").read_text("utf-8")
IS_GATEWAYS: Final = "SELECT to_regclass('intent') IS NOT NULL"

# The journal of a ledger. More than one is possible, as tables have them by number.
STREAM: Final = 1

# The SQLSTATEs of a statement that has certainly changed nothing and can be repeated: a
# lock was held for too long, or in a circle, or what was read has changed meanwhile.
AGAIN: Final = frozenset({"40001", "40P01", "55P03"})

# Whether there are tables, and which version they have.
IS_MADE: Final = "SELECT to_regclass('version') IS NOT NULL"
VERSION: Final = "SELECT coalesce(max(number), 0) FROM version"
# Of the tables that each version has, those that are not there.
MISSING: Final = """
    SELECT name FROM unnest(ARRAY['stream', 'link', 'event', 'trade', 'operation'])
        AS needed (name)
    WHERE to_regclass(name) IS NULL
"""
EPOCH: Final = "SELECT epoch FROM stream WHERE id = %s"

_COLUMNS: Final = ("cmd", *TOTALS, "sign", "label")
METHODS: Final = f"SELECT {', '.join(_COLUMNS)} FROM operation"


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
