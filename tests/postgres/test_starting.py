"""
Tests for C{creditsync.postgres._starting}, with real servers: what a start says of
each that it can't use, and of each that it can.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psycopg
import pytest
import pytest_twisted
from psycopg.conninfo import make_conninfo
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import SynchronousTestCase

from creditsync.errors import LedgerProblem
from creditsync.postgres import _schema, _session
from creditsync.postgres._connection import Connection, ConnectionLost, connect
from creditsync.postgres._session import addressOf, causeOf, placeOf, unreachable
from creditsync.postgres._starting import RIGHTS, check
from tests.postgres import ground, pooler

pytestmark = pytest.mark.timeout(120)

UNSAFE = "fsync turned off"
ALONE = "no synchronous replication"


@pytest.fixture
def database() -> Iterator[ground.Database]:
    """
    An empty database.
    """
    database = ground.database()
    yield database
    database.drop()


@pytest.fixture
def role(database: ground.Database) -> Iterator[str]:
    """
    A role that owns nothing.
    """
    role = f"role_{database.name}"
    database.rows(f"CREATE ROLE {role} LOGIN PASSWORD 's3cret word'")
    yield role
    database.rows(f"DROP OWNED BY {role}")
    database.rows(f"DROP ROLE {role}")


async def connected(dsn: str) -> Connection:
    """
    Connect as a node does.
    """
    from twisted.internet import reactor

    return await connect(reactor, dsn, "creditsync test")


async def checked(dsn: str) -> list[str]:
    """
    Connect and check.
    """
    connection = await connected(dsn)
    try:
        return await check(connection, lambda: 1767225600.5)
    finally:
        connection.close()


async def problem(dsn: str) -> str:
    """
    What is said of a server that can't be used.
    """
    try:
        await checked(dsn)
    except ConnectionLost as e:
        said = str(e)
    except LedgerProblem as e:
        said = str(e)
    else:
        raise AssertionError("it can be used")
    # One sentence.
    assert "\n" not in said
    assert not said.endswith(".")
    assert "s3cret" not in said
    return said


def place(database: ground.Database, user: str = "postgres") -> str:
    """
    How a server is named.
    """
    return f"postgresql://{user}@127.0.0.1:{database.server.port}/{database.name}"


@pytest_twisted.ensureDeferred
async def test_makesTables(database: ground.Database) -> None:
    """
    The first start makes the tables and begins the journal; later ones leave them.
    """
    await checked(database.dsn())
    assert database.rows("SELECT number FROM version") == [(1,)]
    before = database.rows("SELECT id, epoch FROM stream")
    assert [len(epoch) for _, epoch in before] == [8]
    lives = "SELECT number, epoch, head, cause, timestamp FROM life"
    assert database.rows(lives) == [(1, before[0][1], 0, "created", 1767225600)]
    assert database.rows("SELECT cmd FROM operation ORDER BY cmd")[:2] == [(6,), (7,)]
    await checked(database.dsn())
    assert database.rows("SELECT id, epoch FROM stream") == before


@pytest_twisted.ensureDeferred
async def test_nodesAtOnce(database: ground.Database) -> None:
    """
    Of nodes that start for the first time at once one makes the tables, and all find
    them.
    """
    starts = [Deferred.fromCoroutine(checked(database.dsn())) for _ in range(8)]
    await gatherResults(starts)
    assert database.rows("SELECT count(*) FROM life") == [(1,)]


@pytest_twisted.ensureDeferred
async def test_warnings(database: ground.Database) -> None:
    """
    A start warns of a server that may lose what was acknowledged.
    """
    alone, unsafe = await checked(database.dsn())
    assert alone.startswith(f"{place(database)} has {ALONE}")
    assert unsafe.startswith(f"{place(database)} has {UNSAFE}")


@pytest_twisted.ensureDeferred
async def test_noWarnings() -> None:
    """
    A server with synchronous replication that waits for its disk is as it should be;
    its standby can't be used.
    """
    server = ground.start(fsync="on")
    standby = server.standby()
    server.replicateSynchronously()
    try:
        assert await checked(server.dsn()) == []
        assert await problem(standby.dsn()) == (
            f"postgresql://postgres@127.0.0.1:{standby.port}/postgres is a read-only"
            " standby: name its primary, or all hosts with"
            " target_session_attrs=read-write"
        )
        both = make_conninfo(
            server.dsn(),
            host="127.0.0.1,127.0.0.1",
            port=f"{standby.port},{server.port}",
            target_session_attrs="read-write",
        )
        assert await checked(both) == []
    finally:
        server.kill()
        standby.kill()


@pytest_twisted.ensureDeferred
async def test_notThere() -> None:
    """
    A server that does not run.
    """
    port = ground.freePort()
    said = await problem(f"postgresql://me:s3cret@127.0.0.1:{port}/creditsync")
    where = f"postgresql://me@127.0.0.1:{port}/creditsync"
    assert said.startswith(f"PostgreSQL can't be used at {where}: ")
    assert "Connection refused" in said
    assert said.endswith("; check the host and the port, and that it runs")


@pytest_twisted.ensureDeferred
async def test_noDatabase(database: ground.Database) -> None:
    """
    A server that does not have the database, or the role.
    """
    said = await problem(database.server.dsn("nowhere"))
    assert 'database "nowhere" does not exist' in said
    said = await problem(database.dsn(user="nobody_knows"))
    assert 'role "nobody_knows" does not exist' in said


@pytest_twisted.ensureDeferred
async def test_passwords(
    database: ground.Database, role: str, tmp_path: Path, monkeypatch: Any
) -> None:
    """
    Passwords are taken from where libpq takes them, and are in nothing that is said.
    """
    database.rows(f"CREATE ROLE {ground.BY_PASSWORD}")
    database.rows(f"GRANT {ground.BY_PASSWORD} TO {role}")
    database.rows(f"GRANT CREATE ON SCHEMA public TO {role}")
    dsn = database.dsn(user=role)
    said = await problem(dsn)
    assert said.endswith("; give it in PGPASSWORD or ~/.pgpass")
    monkeypatch.setenv("PGPASSWORD", "wrong s3cret")
    said = await problem(dsn)
    assert said.endswith("; check PGPASSWORD or ~/.pgpass")
    monkeypatch.setenv("PGPASSWORD", "s3cret word")
    await checked(dsn)
    monkeypatch.delenv("PGPASSWORD")
    file = tmp_path / "pgpass"
    file.write_text(f"127.0.0.1:{database.server.port}:*:{role}:s3cret word\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))
    await checked(dsn)
    monkeypatch.delenv("PGPASSFILE")
    services = tmp_path / "services"
    services.write_text(
        f"[broker]\nhost=127.0.0.1\nport={database.server.port}\nuser={role}\n"
        f"dbname={database.name}\npassword=s3cret word\nsslmode=disable\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    await checked("postgresql:///?service=broker")
    database.rows(f"DROP ROLE {ground.BY_PASSWORD}")


@pytest_twisted.ensureDeferred
async def test_mayNotMakeTables(database: ground.Database, role: str) -> None:
    """
    A role without the right to make tables, and none are there.
    """
    assert await problem(database.dsn(user=role)) == (
        f"{place(database, role)} has no tables, and the role {role} may not make new"
        " ones: run creditsync init as one that may, or GRANT CREATE ON SCHEMA"
        f' "public" TO "{role}"'
    )


@pytest_twisted.ensureDeferred
async def test_mayNotUseTables(database: ground.Database, role: str) -> None:
    """
    A role that lacks rights on the tables is told the statements that grant them all;
    with those, and none to change what was booked, it can be used.
    """
    await checked(database.dsn())
    said = await problem(database.dsn(user=role))
    owned, _, grants = said.partition("; as the owner of the tables: ")
    assert owned == f"the role lacks rights at {place(database, role)}"
    assert grants.split("; ") == [
        f"GRANT SELECT ON version, life, account, operation TO {role}",
        f"GRANT SELECT, UPDATE ON stream, block TO {role}",
        f"GRANT SELECT, INSERT, UPDATE ON node, trade TO {role}",
        f"GRANT SELECT, INSERT ON link, event, moved TO {role}",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON opened, keyed, rule, counted"
        f" TO {role}",
    ]
    database.rows(grants)
    await checked(database.dsn(user=role))
    database.rows(f"REVOKE UPDATE ON stream, block FROM {role}")
    said = await problem(database.dsn(user=role))
    assert said.endswith(f"tables: GRANT UPDATE ON stream, block TO {role}")
    assert "UPDATE" not in RIGHTS["event"]
    assert "UPDATE" not in RIGHTS["link"]


@pytest_twisted.ensureDeferred
async def test_mayNotUseTablesOfSchema(database: ground.Database, role: str) -> None:
    """
    Tables in a schema of their own are named with it.
    """
    database.rows('CREATE SCHEMA "the ledger"')
    options = '-csearch_path="the ledger"'.replace("the ledger", "the\\ ledger")
    await checked(database.dsn(options=options))
    database.rows(f'GRANT USAGE ON SCHEMA "the ledger" TO {role}')
    said = await problem(database.dsn(user=role, options=options))
    _, _, grants = said.partition("tables: ")
    assert 'GRANT SELECT, UPDATE ON "the ledger".stream, "the ledger".block TO' in said
    database.rows(grants)
    await checked(database.dsn(user=role, options=options))


def test_allTables(database: ground.Database) -> None:
    """
    Each table and view of the newest version has its rights.
    """
    database.rows(_schema.upgrade(0))
    statement = (
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'v') AND relnamespace ="
    )
    found = database.rows(f"{statement} current_schema()::regnamespace")
    assert {name for (name,) in found} == set(RIGHTS)


@pytest_twisted.ensureDeferred
async def test_readOnlyRole(database: ground.Database, role: str) -> None:
    """
    A role whose transactions are read-only.
    """
    database.rows(f"ALTER ROLE {role} SET default_transaction_read_only = on")
    said = await problem(database.dsn(user=role))
    assert said.startswith(f"{place(database, role)} is read-only for the role {role}")


@pytest_twisted.ensureDeferred
async def test_noSchema(database: ground.Database, role: str) -> None:
    """
    A role whose search path leads nowhere.
    """
    database.rows(f"ALTER ROLE {role} SET search_path = nowhere")
    said = await problem(database.dsn(user=role))
    assert said.startswith(f"the search_path of the role {role} names no schema")


@pytest_twisted.ensureDeferred
async def test_wrongEncoding() -> None:
    """
    A database that can't store every comment.
    """
    database = ground.database("LATIN1")
    said = await problem(database.dsn())
    assert said.startswith(f"{place(database)} has the encoding LATIN1")
    database.drop()


@pytest_twisted.ensureDeferred
async def test_tooOld(database: ground.Database) -> None:
    """
    A server that is too old.
    """
    with patch.object(_session, "LEAST_VERSION", 99):
        said = await problem(database.dsn())
    assert said.endswith("and 99 is the oldest that is supported: upgrade it")


@pytest_twisted.ensureDeferred
async def test_newerTables(database: ground.Database) -> None:
    """
    Tables of a newer creditsync.
    """
    await checked(database.dsn())
    database.rows("INSERT INTO version VALUES (2)")
    assert await problem(database.dsn()) == (
        f"the tables at {place(database)} have version 2, but this creditsync supports"
        " versions up to 1: run the newer creditsync that made them"
    )


@pytest_twisted.ensureDeferred
async def test_otherMethods(database: ground.Database) -> None:
    """
    Tables whose transactions this build would count differently.
    """
    await checked(database.dsn())
    database.rows("UPDATE operation SET balance = credit, credit = balance")
    assert "cmd 6, which this creditsync does not know" in await problem(database.dsn())


@pytest_twisted.ensureDeferred
async def test_newMethods(database: ground.Database) -> None:
    """
    Tables of a build that had fewer methods get those of this one.
    """
    await checked(database.dsn())
    everything = database.rows("SELECT * FROM operation ORDER BY cmd")
    database.rows("DELETE FROM operation WHERE cmd = 7")
    await checked(database.dsn())
    assert database.rows("SELECT * FROM operation ORDER BY cmd") == everything


@pytest_twisted.ensureDeferred
async def test_othersTables(database: ground.Database) -> None:
    """
    A schema in which another program has a table of one of the names.
    """
    database.rows("CREATE TABLE account (number int)")
    said = await problem(database.dsn())
    assert 'relation "account" already exists' in said
    assert said.endswith("give creditsync a database or a schema of its own")
    database.rows("DROP TABLE account; CREATE TABLE version (text text)")
    said = await problem(database.dsn())
    assert said.startswith('another program has a table "version" at ')
    database.rows("DROP TABLE version; CREATE TABLE version (number int)")
    database.rows("INSERT INTO version VALUES (1); CREATE TABLE event (number int)")
    assert await problem(database.dsn()) == (
        f'{place(database)} has a table "version", but not stream, link, trade,'
        " operation: if it is another program's, give creditsync a database or a"
        " schema of its own; otherwise restore a backup"
    )


@pytest_twisted.ensureDeferred
async def test_lost(database: ground.Database) -> None:
    """
    A connection that is lost during the check.
    """
    connection = await connected(database.dsn())
    lost = connection.whenLost()
    database.terminateBackends()
    with pytest.raises(ConnectionLost):
        await lost
    with pytest.raises(LedgerProblem) as raised:
        await check(connection)
    assert str(raised.value).startswith("the connection to postgresql://")


@pooler.needed
@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest_twisted.ensureDeferred
async def test_pooler(database: ground.Database, mode: str) -> None:
    """
    A start says that there is a pooler in between.
    """
    folder = database.server.folder / f"{database.name}-{mode}"
    folder.mkdir()
    between = pooler.Pooler(folder, database, mode)
    try:
        connection = await _patiently(between.dsn())
        first, *_ = await check(connection)
        assert first.startswith("A connection pooler answers at postgresql://")
        connection.close()
    finally:
        between.close()


async def _patiently(dsn: str) -> Connection:
    for _ in range(100):
        try:
            return await connected(dsn)
        except ConnectionLost as e:
            if "refused" not in str(e):
                raise
    raise AssertionError("it does not start")


class PlaceTests(SynchronousTestCase):
    """
    Tests for L{placeOf}.
    """

    def test_withoutPassword(self) -> None:
        """
        A server is named without its password, in whatever form that is given.
        """
        for conninfo, name in (
            ("postgresql://me:s3cret@db:1/name", "postgresql://me@db:1/name"),
            ("postgresql://db/name?password=s3cret", "postgresql://db/name"),
            ("host=a,b user=me password=s3cret", "postgresql://me@a,b/"),
            ("postgresql://a:1,b:2/name", "postgresql://a:1,b:2/name"),
            ("postgresql://a,b:2/name", "postgresql://a,b:2/name"),
            ("host=a,b port=3", "postgresql://a:3,b:3/"),
            ("postgresql:///?service=broker", "service broker"),
            ("postgresql://", "postgresql:///"),
        ):
            self.assertEqual(placeOf(conninfo), name)

    def test_address(self) -> None:
        """
        The address is shown as it may be given again, but for what is secret.
        """
        for conninfo, address in (
            ("postgresql://me:s3cret@db:1/name", "postgresql://me@db:1/name"),
            (
                "postgresql://a:1,b:2/x?target_session_attrs=read-write&password=s3cret",
                "postgresql://a:1,b:2/x?target_session_attrs=read-write",
            ),
            (
                "postgresql://db/x?options=-c%20a%3Db&sslpassword=s3cret",
                "postgresql://db/x?options=-c%20a%3Db",
            ),
            (
                "postgresql://db/x?hostaddr=10.0.0.1",
                "postgresql://db/x?hostaddr=10.0.0.1",
            ),
            ("postgresql:///?service=broker", "postgresql:///?service=broker"),
        ):
            self.assertEqual(addressOf(conninfo), address)

    def test_cause(self) -> None:
        """
        The log has what PostgreSQL says, and not where in its functions that was.
        """
        raising = "DO $$ BEGIN RAISE 'one line' USING DETAIL = 'another'; END $$"
        with self.assertRaises(psycopg.Error) as raised:
            ground.shared().rows(raising)
        self.assertIn("CONTEXT", str(raised.exception))
        self.assertEqual(causeOf(raised.exception), "one line")
        self.assertEqual(causeOf(OSError("of two\nlines ")), "of two lines")

    def test_malformed(self) -> None:
        """
        Nothing is repeated of what is not a connection string: it may have a password
        in the place of something else.
        """
        for conninfo in (
            "postgresql://me:pa@s3cret:x/name",
            "postgresql://me:%s3cret@db/name",
            "postgresql://me@db/name?s3cret=1",
            "host=db s3cret",
            "postgresql://me:pa@s3cret@db/name",
            "postgresql://me:pa/s3cret@db/name",
            "postgresql://me:12/s3cret@db/name",
        ):
            with self.assertRaises(LedgerProblem) as raised:
                placeOf(conninfo)
            self.assertNotIn("s3cret", str(raised.exception))
            self.assertIsNone(raised.exception.__cause__)
            self.assertIsNone(raised.exception.__context__)

    def test_hints(self) -> None:
        """
        What can be done about a refusal is said with it.
        """
        said = unreachable("postgresql://db/", "FATAL:  too many clients\n")
        self.assertEqual(
            said,
            "PostgreSQL can't be used at postgresql://db/: FATAL: too many clients;"
            " raise max_connections, or stop what holds connections",
        )
        self.assertEqual(len(_session._HINTS), 11)

    def test_severalHosts(self) -> None:
        """
        What is said of several hosts is said once of each, and asks nothing.
        """
        said = unreachable(
            "postgresql://a,b/",
            "connection to b failed: refused\n\tIs the server running on that host?\n"
            "Multiple connection attempts failed. All failures were:\n"
            "- host: 'a': timeout expired\n"
            "- host: 'b': connection to b failed: refused\n"
            "\tIs the server running on that host?\n",
        )
        self.assertEqual(
            said,
            "PostgreSQL can't be used at postgresql://a,b/: host: 'a': timeout expired;"
            " host: 'b': connection to b failed: refused; check the host and the port,"
            " and that no firewall is between",
        )
