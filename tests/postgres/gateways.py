"""
The log of a gateway on a real PostgreSQL, for tests.
"""

from functools import cache
from typing import Any

import psycopg
from attrs import define, field
from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock

from creditsync.gateway._postgreslog import LedgerCopy, PostgresIntentLog
from creditsync.postgres._booking import Site
from creditsync.postgres._reading import reading
from creditsync.postgres._recorder import Recorder
from creditsync.postgres._schema import GATEWAY
from tests.postgres import ground
from tests.postgres.engine import EMPTY, NOW, makeTables
from tests.postgres.ground import Database
from tests.postgres.lines import Lines


@cache
def _used() -> Database:
    database = ground.database()
    makeTables(database)
    with psycopg.connect(database.dsn(), autocommit=True) as connection:
        connection.execute(GATEWAY.encode())
    return database


def emptied() -> Database:
    """
    A database with the tables of a new gateway. The tests of this process use it one
    after the other.
    """
    database = _used()
    database.rows(
        f"{EMPTY} TRUNCATE intent, alarm; UPDATE caught_up SET update_time = 0"
    )
    database.rows("INSERT INTO life VALUES (1, 1, '0a1b2c3d', 0, 'created', %s)", NOW)
    return database


@define(eq=False)
class Gateway:
    """
    The log of one gateway, and its connections.
    """

    database: Database
    name: str = "a"
    clock: Clock = field(factory=Clock)
    lines: Lines = field(init=False)
    recorder: Recorder = field(init=False)
    log: PostgresIntentLog = field(init=False)

    def __attrs_post_init__(self) -> None:
        """
        Make it, not yet opened.
        """
        self.lines = Lines(self.database)
        self.recorder = Recorder(
            self.clock,
            self.lines.connect,
            self.name,
            0,
            f"owner of {self.name}",
            lambda: NOW,
            lambda: 0.5,
            Site(),
        )
        self.log = PostgresIntentLog(
            LedgerCopy("", execute, isGateways=True),
            self.recorder,
            self.lines.connect,
            lambda: reading(self.database.dsn(), "copy"),
            execute,
        )

    def open(self) -> "Deferred[None]":
        """
        Open the log.
        """
        return self.log.open()

    def rows(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """
        What a statement selects.
        """
        return self.database.rows(statement, *parameters)
