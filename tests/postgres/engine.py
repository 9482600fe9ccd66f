"""
A node without a server: what it sends to the engine, and what comes back.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import count
from typing import Any

import psycopg
from attrs import define, field

from creditsync.postgres._booking import BOOK, Site, Submission, Verdict, values
from creditsync.postgres._schema import newMethods, newStream, upgrade
from creditsync.records import AnyOperation, Operation
from tests.postgres import ground
from tests.postgres.ground import Database

# The time of booking: 2026-01-01T00:00:00Z.
NOW = 1767225600


def makeTables(database: Database) -> None:
    """
    Make the tables of a new ledger, whose epoch is C{0a1b2c3d}.
    """
    with psycopg.connect(database.dsn(), autocommit=True) as connection:
        connection.execute(upgrade(0).encode())
        for statement, parameters in (newStream("0a1b2c3d", NOW), newMethods()):
            connection.execute(statement.encode(), parameters)


@cache
def _used() -> Database:
    database = ground.database()
    makeTables(database)
    return database


# All but the tables "version" and "operation", which no test changes.
EMPTY = """
    TRUNCATE event, link, trade, opened, keyed, moved, rule, counted, node, life;
    TRUNCATE stream;
    UPDATE block SET next = 64;
    INSERT INTO stream VALUES (1, '0a1b2c3d');
"""


def emptied() -> Database:
    """
    A database with the tables of a new ledger. The tests of this process use it one
    after the other, which is faster than to make one for each.
    """
    database = _used()
    database.rows(EMPTY)
    return database


@define(eq=False)
class Node:
    """
    A node, which waits for each statement.

    @ivar number: Which gives it its order numbers, too: the nth million.
    @ivar site: What is allowed.
    """

    database: Database
    number: int = 1
    incarnation: int = 1
    site: Site = field(factory=Site)
    batch: int = 0
    connection: "psycopg.Connection[Any]" = field(init=False)
    _orders: Iterator[int] = field(init=False)

    def __attrs_post_init__(self) -> None:
        """
        Connect, and put the node into its table.
        """
        self.connection = psycopg.connect(self.database.dsn(), autocommit=True)
        self._orders = count(self.number * 1_000_000)
        self.connection.execute(
            "INSERT INTO node VALUES (%s, %s, 0, %s, 'test') ON CONFLICT DO NOTHING",
            (self.number, f"node {self.number}", self.incarnation),
        )

    def submitted(self, operations: Sequence[AnyOperation]) -> list[Submission]:
        """
        Reserve the orders of operations.
        """
        return [
            Submission(each, next(self._orders) if isinstance(each, Operation) else 0)
            for each in operations
        ]

    def book(self, *operations: AnyOperation, now: int = NOW) -> list[Verdict]:
        """
        Book one batch.
        """
        self.batch += 1
        parameters = values(
            self.number,
            self.incarnation,
            self.batch,
            now,
            self.site,
            self.submitted(operations),
        )
        rows = self.connection.execute(BOOK.encode(), parameters).fetchall()
        return [Verdict(*row) for row in rows]

    def rows(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """
        What a statement selects.
        """
        cursor = self.connection.execute(statement.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []
