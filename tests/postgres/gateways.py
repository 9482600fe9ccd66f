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
from tests.gateways import Held
from tests.postgres import ground
from tests.postgres.engine import EMPTY, NOW, makeTables
from tests.postgres.ground import Database, until
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
    # The gateways of tests before this one are gone.
    database.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    untilFree(database)
    database.rows(
        f"{EMPTY} TRUNCATE intent, alarm; UPDATE caught_up SET update_time = 0"
    )
    database.rows("INSERT INTO life VALUES (1, 1, '0a1b2c3d', 0, 'created', %s)", NOW)
    return database


def untilFree(database: Database) -> None:
    """
    Wait until the server knows that a gateway is gone.
    """
    locks = "SELECT FROM pg_locks WHERE locktype = 'advisory'"
    until(lambda: not database.rows(locks))


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


class HeldPostgresLog(Held):
    """
    A log on PostgreSQL that can be held, and that outlives the gateways that use it:
    each of them has a copy and connections of its own.
    """

    def __init__(self) -> None:
        """
        Make a new database.
        """
        super().__init__()
        self._database = emptied()
        self._gateway: Gateway | None = None

    def __getattr__(self, name: str) -> Any:
        """
        What is not here, the log of the present gateway has.
        """
        return getattr(self.present, name)

    @property
    def present(self) -> PostgresIntentLog:
        """
        The log of the present gateway.
        """
        assert self._gateway is not None, "the log is not open"
        return self._gateway.log

    @property
    def mark(self) -> int:
        """
        See L{IIntentLog<creditsync.gateway._intents.IIntentLog>}.
        """
        return self.present.mark

    @mark.setter
    def mark(self, mark: int) -> None:
        self._database.rows("UPDATE caught_up SET update_time = %s", mark)
        self.present.mark = mark

    @property
    def alarms(self) -> list[tuple[Any, ...]]:
        """
        The alarms that are durable.
        """
        return self._database.rows("SELECT timestamp, text FROM alarm ORDER BY number")

    def open(self) -> "Deferred[None]":
        """
        Begin the life of another gateway.
        """
        self.lose()
        self._gateway = Gateway(self._database)
        return self._gateway.open()

    def lose(self) -> None:
        """
        See L{Held.lose}.
        """
        super().lose()
        if self._gateway is not None:
            self._gateway.log.close()
            untilFree(self._database)

    def writeNow(self, *write: Any) -> None:
        """
        See L{Held.writeNow}.
        """
        written: list[object] = []
        self.present.write(*write).addBoth(written.append)
        assert written == [None], written
