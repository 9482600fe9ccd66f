"""
Tests with a standby: what a node does when its server fails over. They take some
seconds each, and are not collected with the others::

    python -m pytest -n0 tests/postgres/failover.py
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import pytest_twisted
from psycopg.conninfo import make_conninfo
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from creditsync.errors import OutcomeUnknown
from creditsync.events import TradeEvents
from creditsync.postgres._connection import connect
from creditsync.postgres._runtime import PostgresRuntime
from creditsync.records import Operation, Reservation, TradeEvent
from tests.postgres import ground

pytestmark = pytest.mark.timeout(180)


class Site:
    """
    A primary with a standby, and a node.
    """

    def __init__(self) -> None:
        self.primary = ground.start()
        self.database = self.primary.database()
        self.standby = self.primary.standby()
        address = make_conninfo(
            self.database.dsn(),
            host="127.0.0.1,127.0.0.1",
            port=f"{self.primary.port},{self.standby.port}",
            target_session_attrs="read-write",
        )
        events = TradeEvents()
        self.published: list[TradeEvent] = []
        events.addObserver(self.published.extend)
        self.runtime = PostgresRuntime(
            reactor,  # type: ignore[arg-type]
            lambda use: connect(reactor, address, f"node {use}"),
            events,
            node="a",
            now=time.time,
            maxQueued=1000,
        )
        self.answers: list[Any] = []

    def submit(self, count: int = 1) -> "list[Deferred[None]]":
        """
        Request credits, and note the answers.
        """
        return [
            self.runtime.submit(
                Operation("CreditIn", 7, 1001, 1, "x", principal=7, role=1)
            ).addBoth(self.answers.append)
            for _ in range(count)
        ]

    async def answered(self, count: int) -> list[int | None]:
        """
        Wait for so many answers, all of which are reservations.

        @return: Their places.
        """
        while len(self.answers) < count:
            await pause(0.02)
        places = []
        for each in self.answers:
            assert isinstance(each, Reservation), each
            places.append(each.place)
        return places

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """
        What the standby has, after it was promoted.
        """
        return self.standby.rows(statement, database=self.database.name)


@contextmanager
def site() -> Iterator[Site]:
    """
    Make one, and end its servers.
    """
    made = Site()
    try:
        yield made
    finally:
        made.primary.kill()
        made.standby.kill()


def pause(seconds: float) -> "Deferred[None]":
    """
    Wait.
    """
    return deferLater(reactor, seconds)  # type: ignore[arg-type]


@pytest_twisted.ensureDeferred
async def test_cancelledWait() -> None:
    """
    A commit whose wait for the standby is cancelled has succeeded as far as PostgreSQL
    says. It is acknowledged and published when a later one has reached the standby.
    """
    with site() as it:
        it.primary.replicateSynchronously()
        await it.runtime.startService()
        it.submit(2)
        assert await it.answered(2) == [1, 2]
        cancel = (
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
            " WHERE wait_event = 'SyncRep'"
        )
        with it.standby.frozen():
            it.submit()
            cancelled = 0
            while cancelled < 3:
                await pause(0.1)
                cancelled += len(it.primary.rows(cancel))
            await pause(0.3)
            assert len(it.answers) == 2
            assert len(it.published) == 2
            # It is there, and would be lost with this machine.
            assert it.database.rows("SELECT count(*) FROM event") == [(3,)]
        assert await it.answered(3) == [1, 2, 3]
        assert [event.place for event in it.published] == [1, 2, 3]
        await it.runtime.stopService()


@pytest_twisted.ensureDeferred
async def test_synchronous() -> None:
    """
    With synchronous replication a failover loses nothing that was acknowledged, and the
    node goes on by itself, with what was under way booked once.
    """
    with site() as it:
        it.primary.replicateSynchronously()
        await it.runtime.startService()
        it.submit(50)
        await it.answered(20)
        it.submit(50)
        it.primary.kill()
        it.standby.promote()
        began = time.monotonic()
        assert sorted(await it.answered(100)) == [*range(1, 101)]
        print(f"back after {time.monotonic() - began:.2f} s")
        assert it.rows('SELECT count(*), count(DISTINCT "order") FROM event') == [
            (100, 100)
        ]
        assert [event.place for event in it.published] == [*range(1, 101)]
        await it.runtime.stopService()


@pytest_twisted.ensureDeferred
async def test_lost() -> None:
    """
    Without it a failover may lose acknowledged operations. The node notices, and
    acknowledges nothing more.
    """
    with site() as it:
        await it.runtime.startService()
        it.submit(10)
        await it.answered(10)
        [(position,)] = it.primary.rows("SELECT pg_current_wal_lsn()")
        ground.until(
            lambda: (
                it.standby.rows(
                    "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", position
                )
                == [(True,)]
            )
        )
        it.standby.kill()
        it.submit()
        await it.answered(11)
        it.primary.kill()
        it.standby.start()
        it.standby.promote()
        while it.runtime.problem != "PostgreSQL has lost acknowledged operations":
            if it.runtime.queued == 0:
                it.submit()
            await pause(0.05)
        assert isinstance(it.answers[-1].value, OutcomeUnknown)
        assert it.rows("SELECT count(*) FROM event") == [(10,)]
        await it.runtime.stopService()
