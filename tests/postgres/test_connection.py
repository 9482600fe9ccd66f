"""
Tests for C{creditsync.postgres._connection}, with real servers.
"""

import os
import time
from collections.abc import Awaitable
from typing import Any
from unittest.mock import patch

import psycopg
import pytest
import pytest_twisted
from psycopg.conninfo import make_conninfo
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater

from creditsync.postgres import _session
from creditsync.postgres._connection import (
    Connection,
    ConnectionLost,
    Notice,
    connect,
)
from tests.postgres import ground
from tests.postgres.proxy import Proxy

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def database() -> Any:
    """
    An empty database.
    """
    database = ground.database()
    yield database
    database.drop()


@pytest.fixture
def proxy(database: ground.Database) -> Any:
    """
    A proxy in front of its server.
    """
    proxy = Proxy(database.server.port)
    yield proxy
    proxy.close()


def through(proxy: Proxy, database: ground.Database, **parameters: str | int) -> str:
    """
    The way to the database through a proxy.
    """
    return make_conninfo(database.dsn(**parameters), port=proxy.port)


async def connected(where: "ground.Database | str") -> Connection:
    """
    Connect in the reactor of these tests.
    """
    from twisted.internet import reactor

    dsn = where if isinstance(where, str) else where.dsn()
    return await connect(reactor, dsn, "creditsync test")


async def sleep(seconds: float) -> None:
    """
    Let the reactor run.
    """
    from twisted.internet import reactor

    await deferLater(reactor, seconds)


async def error(awaitable: Awaitable[object], kind: Any) -> Any:
    """
    Wait for an error of this kind.
    """
    with pytest.raises(kind) as raised:
        await awaitable
    return raised.value


@pytest_twisted.ensureDeferred
async def test_rows(database: ground.Database) -> None:
    """
    Values go to the server and come back as they were.
    """
    connection = await connected(database)
    values = [7, -(2**62), "naïve", b"\x00\xff", None, True, [1, 2**40], "%"]
    text = "SELECT %s::int, %s::int8, %s::text, %s::bytea, %s::text, %s::bool"
    rows = await connection.execute(text + ", %s::int8[], %s::text", values)
    assert rows == [tuple(values)]
    assert await connection.execute("SELECT 1 WHERE false") == []
    assert await connection.execute("CREATE TABLE fact (number int)") == []
    connection.close()


@pytest_twisted.ensureDeferred
async def test_large(database: ground.Database) -> None:
    """
    A statement and rows that exceed all buffers are sent and read piece by piece.
    """
    connection = await connected(database)
    text = "x" * 8_000_000
    assert await connection.execute("SELECT %s::text", [text]) == [(text,)]
    connection.close()


@pytest_twisted.ensureDeferred
async def test_inOrder(database: ground.Database) -> None:
    """
    Statements that are submitted at once are executed one after another.
    """
    connection = await connected(database)
    done = [connection.execute("SELECT %s::int", [number]) for number in range(50)]
    rows = await gatherResults(done)
    assert rows == [[(number,)] for number in range(50)]
    connection.close()


@pytest_twisted.ensureDeferred
async def test_next(database: ground.Database) -> None:
    """
    Who has got rows may submit the next statement at once; it takes its turn.
    """
    connection = await connected(database)
    order: list[Any] = []

    def again(rows: Any) -> Any:
        order.append(rows)
        return connection.execute("SELECT 3").addCallback(order.append)

    first = connection.execute("SELECT 1").addCallback(again)
    second = connection.execute("SELECT 2").addCallback(order.append)
    await gatherResults([first, second])
    assert order == [[(1,)], [(2,)], [(3,)]]
    connection.close()


@pytest_twisted.ensureDeferred
async def test_script(database: ground.Database) -> None:
    """
    Several statements without values are one transaction.
    """
    connection = await connected(database)
    script = "CREATE TABLE fact (number int); SELECT 1; SELECT 2"
    assert await connection.execute(script) == [(2,)]
    failing = "INSERT INTO fact VALUES (1); SELECT 1 / 0"
    failure = await error(connection.execute(failing), psycopg.Error)
    assert failure.sqlstate == "22012"
    assert await connection.execute("SELECT * FROM fact") == []
    connection.close()


@pytest_twisted.ensureDeferred
async def test_refused(database: ground.Database) -> None:
    """
    An error of the server is certain, and the connection goes on.
    """
    connection = await connected(database)
    failure = await error(connection.execute("SELECT nothing"), psycopg.Error)
    assert failure.sqlstate == "42703"
    assert await connection.execute("SELECT 1") == [(1,)]
    connection.close()


@pytest_twisted.ensureDeferred
async def test_unsendable(database: ground.Database) -> None:
    """
    A value that can't be sent fails its statement, and no other.
    """
    connection = await connected(database)
    failing = connection.execute("SELECT %s", [object()])
    following = connection.execute("SELECT 1")
    await error(failing, psycopg.ProgrammingError)
    assert await following == [(1,)]
    connection.close()


@pytest_twisted.ensureDeferred
async def test_notices(database: ground.Database) -> None:
    """
    What the server says besides is there for the statement at which it was said. A
    warning that has no SQLSTATE of its own makes the statement doubtful.
    """
    connection = await connected(database)
    await connection.execute("DO $$ BEGIN RAISE NOTICE 'well'; END $$")
    assert connection.notices == [Notice("00000", "well")]
    assert not connection.isDoubtful
    await connection.execute("DO $$ BEGIN RAISE WARNING 'hm'; END $$")
    assert connection.notices == [Notice("01000", "hm")]
    assert connection.isDoubtful
    await connection.execute("SELECT 1")
    assert connection.notices == []
    assert not connection.isDoubtful
    connection.close()


@pytest_twisted.ensureDeferred
async def test_cancelledSynchronousWait() -> None:
    """
    A commit whose wait for the standby was cancelled returns like any other, and is
    doubtful.
    """
    server = ground.start()
    standby = server.standby()
    server.replicateSynchronously()
    connection = await connected(server.dsn())
    try:
        await connection.execute("CREATE TABLE fact (number int)")
        assert not connection.isDoubtful
        with standby.frozen():
            waiting = connection.execute("INSERT INTO fact VALUES (1)")
            await sleep(0.3)
            assert not waiting.called
            server.rows("SELECT pg_cancel_backend(%s)", connection.backend)
            await waiting
            assert connection.isDoubtful
            # To lock a row is a commit that waits as well, and changes nothing.
            proving = connection.execute("SELECT FROM fact FOR UPDATE")
            await sleep(0.3)
            assert not proving.called
        await proving
        assert not connection.isDoubtful
    finally:
        connection.close()
        server.kill()
        standby.kill()


@pytest_twisted.ensureDeferred
async def test_notifications(database: ground.Database) -> None:
    """
    Notifications are delivered while no statement is under way, and at one.
    """
    connection = await connected(database)
    heard = []
    connection.notified = lambda *what: heard.append(what)
    await connection.execute("LISTEN door")
    database.rows("NOTIFY door, 'one'")
    while len(heard) < 1:
        await sleep(0.01)
    await connection.execute("NOTIFY door, 'two'")
    while len(heard) < 2:
        await sleep(0.01)
    assert [payload for _, payload, _ in heard] == ["one", "two"]
    assert [channel for channel, _, _ in heard] == ["door", "door"]
    assert [who == connection.backend for _, _, who in heard] == [False, True]
    connection.close()


@pytest_twisted.ensureDeferred
async def test_statementFromNotification(database: ground.Database) -> None:
    """
    Who is notified may submit a statement at once, and all notifications come.
    """
    connection = await connected(database)
    done: list[Any] = []

    def notified(channel: str, payload: str, who: int) -> None:
        connection.execute("SELECT %s::text", [payload]).addCallback(done.append)

    connection.notified = notified
    await connection.execute("LISTEN door")
    texts = [str(number) for number in range(20)]
    database.rows("; ".join(f"NOTIFY door, '{text}'" for text in texts))
    while len(done) < 20:
        await sleep(0.01)
    assert done == [[(text,)] for text in texts]
    connection.close()


@pytest_twisted.ensureDeferred
async def test_closedByNotification(database: ground.Database) -> None:
    """
    Who is notified may close the connection, whatever else has come.
    """
    connection = await connected(database)
    heard = []

    def notified(channel: str, payload: str, who: int) -> None:
        heard.append(payload)
        connection.close()

    connection.notified = notified
    await connection.execute("LISTEN door")
    lost = connection.whenLost()
    database.rows("NOTIFY door, 'one'; NOTIFY door, 'two'")
    assert str(await error(lost, ConnectionLost)) == "the connection was closed"
    assert heard == ["one"]


@pytest_twisted.ensureDeferred
async def test_terminatedAtWork(database: ground.Database) -> None:
    """
    A statement whose backend is terminated has an unknown outcome; one that waits
    behind it was certainly not carried out.
    """
    connection = await connected(database)
    lost = connection.whenLost()
    working = connection.execute("SELECT pg_sleep(60)")
    waiting = connection.execute("SELECT 1")
    await sleep(0.1)
    assert database.terminateBackends("creditsync test") == 1
    failure = await error(working, ConnectionLost)
    assert failure.wasSent
    assert "terminating connection" in str(failure)
    assert not (await error(waiting, ConnectionLost)).wasSent
    await error(lost, ConnectionLost)
    later = await error(connection.execute("SELECT 1"), ConnectionLost)
    assert not later.wasSent
    await error(connection.whenLost(), ConnectionLost)


@pytest_twisted.ensureDeferred
async def test_terminatedAtRest(database: ground.Database) -> None:
    """
    A connection that is terminated at rest is lost at once.
    """
    connection = await connected(database)
    lost = connection.whenLost()
    database.terminateBackends()
    await error(lost, ConnectionLost)


@pytest_twisted.ensureDeferred
async def test_killed() -> None:
    """
    A server that is killed is lost, and one that was started again is found.
    """
    server = ground.start()
    connection = await connected(server.dsn())
    working = connection.execute("SELECT pg_sleep(60)")
    server.kill()
    assert (await error(working, ConnectionLost)).wasSent
    refused = await error(connected(server.dsn()), ConnectionLost)
    assert not refused.wasSent
    assert "refused" in str(refused)
    server.start()
    connection = await connected(server.dsn())
    assert await connection.execute("SELECT 1") == [(1,)]
    connection.close()
    server.kill()


@pytest_twisted.ensureDeferred
async def test_closed(database: ground.Database) -> None:
    """
    A statement under way when the connection is closed has an unknown outcome, and
    the server learns of the end.
    """
    connection = await connected(database)
    working = connection.execute("SELECT pg_sleep(60)")
    connection.close()
    connection.close()
    assert (await error(working, ConnectionLost)).wasSent
    ground.until(lambda: not database.backends())


@pytest_twisted.ensureDeferred
async def test_cancelled(database: ground.Database) -> None:
    """
    A statement that waits can be taken back; to give up one under way ends the
    connection.
    """
    connection = await connected(database)
    working = connection.execute("SELECT pg_sleep(60)")
    waiting = connection.execute("SELECT 1")
    waiting.cancel()
    await error(waiting, CancelledError)
    assert not working.called
    working.cancel()
    assert (await error(working, ConnectionLost)).wasSent


@pytest_twisted.ensureDeferred
async def test_stalled(database: ground.Database, proxy: Proxy) -> None:
    """
    Who waits no longer for a network that is silent gets an unknown outcome.
    """
    from twisted.internet import reactor

    connection = await connected(through(proxy, database))
    proxy.stall()
    working = connection.execute("SELECT 1")
    working.addTimeout(0.2, reactor)
    assert (await error(working, ConnectionLost)).wasSent


@pytest_twisted.ensureDeferred
async def test_patience(database: ground.Database, proxy: Proxy) -> None:
    """
    A statement that gets no answer from a silent network ends the connection after a
    while; one at rest lasts.
    """
    from twisted.internet import reactor

    dsn = through(proxy, database)
    connection = await connect(reactor, dsn, "creditsync test", patience=0.5)
    await connection.execute("SELECT 1")
    await sleep(0.8)
    assert await connection.execute("SELECT 2") == [(2,)]
    proxy.stall()
    failure = await error(connection.execute("SELECT 3"), ConnectionLost)
    assert failure.wasSent
    assert str(failure) == "there was no answer within 0.5 s"


@pytest_twisted.ensureDeferred
async def test_connectingTakesTooLong(database: ground.Database, proxy: Proxy) -> None:
    """
    A server that accepts connections and says nothing is given up, by who connects
    or after C{connect_timeout}.
    """
    proxy.stall()
    started = time.monotonic()
    connecting = Deferred.fromCoroutine(connected(through(proxy, database)))
    await sleep(0.1)
    connecting.cancel()
    await error(connecting, CancelledError)
    dsn = through(proxy, database, connect_timeout=2)
    assert "timeout" in str(await error(connected(dsn), ConnectionLost))
    assert time.monotonic() - started < 4


@pytest_twisted.ensureDeferred
async def test_abandoned(database: ground.Database, proxy: Proxy) -> None:
    """
    A connection that comes when nobody waits for it any more is closed.
    """
    proxy.stall()
    connecting = Deferred.fromCoroutine(connected(through(proxy, database)))
    await sleep(0.1)
    connecting.cancel()
    await error(connecting, CancelledError)
    proxy.resume()
    await sleep(0.3)
    assert database.backends() == {}


@pytest_twisted.ensureDeferred
async def test_severalHosts(database: ground.Database) -> None:
    """
    Of several hosts the first that can be used is.
    """
    port = database.server.port
    hosts = f"host=127.0.0.1,127.0.0.1 port={ground.freePort()},{port}"
    connection = await connected(
        f"{hosts} user=postgres dbname={database.name} sslmode=disable"
        " target_session_attrs=read-write"
    )
    assert await connection.execute("SELECT 1") == [(1,)]
    connection.close()


@pytest_twisted.ensureDeferred
async def test_settings(database: ground.Database) -> None:
    """
    What must hold for a session holds whatever its role has as its own; what the
    administrator may choose is left.
    """
    role = f"role_{database.name}"
    database.rows(f"CREATE ROLE {role} LOGIN")
    for setting in (
        "synchronous_commit = local",
        "default_transaction_isolation = serializable",
        "idle_session_timeout = 1000",
        "statement_timeout = '90s'",
    ):
        database.rows(f"ALTER ROLE {role} SET {setting}")
    connection = await connected(database.dsn(user=role))
    for name, value in (
        ("synchronous_commit", "on"),
        ("transaction_isolation", "read committed"),
        ("idle_session_timeout", "0"),
        ("lock_timeout", "2s"),
        ("statement_timeout", "90s"),
        ("client_encoding", "UTF8"),
        ("application_name", "creditsync test"),
    ):
        assert await connection.execute(f"SHOW {name}") == [(value,)], name
    connection.close()
    database.rows(f"ALTER ROLE {role} SET synchronous_commit = remote_apply")
    connection = await connected(database.dsn(user=role))
    rows = await connection.execute("SHOW synchronous_commit")
    assert rows == [("remote_apply",)]
    connection.close()
    database.rows(f"DROP ROLE {role}")


@pytest_twisted.ensureDeferred
async def test_tooOld(database: ground.Database) -> None:
    """
    A server of a version that is not supported is not used.
    """
    with patch.object(_session, "LEAST_VERSION", 99):
        failure = await error(connected(database), ConnectionLost)
    assert "and 99 is the oldest that is supported" in str(failure)
    ground.until(lambda: not database.backends())


@pytest_twisted.ensureDeferred
async def test_descriptors(database: ground.Database) -> None:
    """
    Connections that end in any way leave no descriptor open.
    """

    async def terminated() -> None:
        connection = await connected(database)
        lost = connection.whenLost()
        database.terminateBackends("creditsync test")
        await error(lost, ConnectionLost)

    async def closed() -> None:
        (await connected(database)).close()

    await terminated()
    await closed()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        await terminated()
        await closed()
    # Those of other tests may have gone meanwhile.
    assert len(os.listdir("/proc/self/fd")) <= before


async def _atEveryByte(database: ground.Database, proxy: Proxy, way: str) -> set[str]:
    """
    Cut a connection behind each byte of a statement, or of its answer, and compare
    what is told of it with what is so.
    """
    outcomes = set()
    size, number = 0, 0
    while "done" not in outcomes:
        number += 1
        proxy.unlimited()
        connection = await connected(through(proxy, database))
        proxy.cutAfter(way, size)
        try:
            await connection.execute("INSERT INTO fact VALUES (%s)", [number])
            outcome = "done"
        except ConnectionLost as e:
            assert e.wasSent
            outcome = "unknown"
        connection.close()
        proxy.unlimited()
        statement = "SELECT count(*) FROM fact WHERE number = %s"
        [(found,)] = database.rows(statement, number)
        if outcome == "done":
            assert found == 1
        outcomes.add(f"{outcome}, {found}" if outcome == "unknown" else outcome)
        size += 1
    return outcomes


@pytest.mark.parametrize(
    ("way", "unknown"), [("toServer", "unknown, 0"), ("toClient", "unknown, 1")]
)
@pytest_twisted.ensureDeferred
async def test_cutAtEveryByte(
    database: ground.Database, proxy: Proxy, way: str, unknown: str
) -> None:
    """
    Wherever a connection is cut, a statement of which it is said that it is done is
    so; all others are unknown.
    """
    database.rows("CREATE TABLE fact (number int)")
    outcomes = await _atEveryByte(database, proxy, way)
    assert outcomes == {"done", unknown}


@pytest_twisted.ensureDeferred
async def test_cutWhileConnecting(database: ground.Database, proxy: Proxy) -> None:
    """
    A connection that is cut while it is made was certainly of no use, and the next
    try is made as if nothing had been.
    """
    size = 0
    while True:
        proxy.unlimited()
        proxy.cutAfter("toClient", size)
        try:
            connection = await connected(through(proxy, database))
        except ConnectionLost:
            size += 7
            continue
        connection.close()
        break
    assert size > 200
