"""
Tests with servers as processes of their own, on a real PostgreSQL: what their command
line says, and that several of them act as one.
"""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.integration.processes import CHECKOUT, LISTEN, SERVE, Client, Server, Site
from tests.postgres import ground

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """
    A folder for servers, which end with the test.
    """
    site = Site(tmp_path)
    yield site
    site.killAll()


@pytest.fixture
def database() -> Iterator[ground.Database]:
    """
    An empty database.
    """
    database = ground.database()
    yield database
    database.drop()


def address(database: ground.Database) -> str:
    """
    What C{--ledger} says.
    """
    port = database.server.port
    return f"postgresql://{ground.SUPERUSER}@127.0.0.1:{port}/{database.name}"


def start(site: Site, database: ground.Database, node: str) -> Server:
    """
    Start a node.
    """
    return site.start(*SERVE, *LISTEN, "--ledger", address(database), "--node", node)


def event(client: Client, extID: str) -> dict[str, Any]:
    """
    The event of a credit that was requested with this extID.
    """
    for message in client.messages():
        if "event" in message and message["data"]["comment"] == f"for {extID}":
            return message["data"]  # type: ignore[no-any-return]
    raise AssertionError(f"no event for {extID}")


def test_eventOnBoth(site: Site, database: ground.Database) -> None:
    """
    A credit of one node is answered there, and its event is the same on both. A cursor
    of one is good on the other.
    """
    one, other = (start(site, database, node) for node in ("one", "other"))
    here, there = one.connect(), other.connect()
    there.sendUntilTaken("first")
    first = event(there, "first")
    here.send("second")
    seen = [event(here, "second"), event(there, "second")]
    assert seen[0] == seen[1]
    reply = next(here.replies())
    assert (reply["status"], reply["data"]) == (200, seen[0])
    later = other.connect()
    data = {"chanels": ["trade:event"], "since": first["cursor"]}
    later.send("since", command="Subscribe", data=data)
    assert event(later, "second") == seen[0]
    [(credit,)] = database.rows("SELECT credit FROM account WHERE login = 1001")
    assert credit == 600_00000000


def test_metrics(site: Site, database: ground.Database) -> None:
    """
    What operators see of a node.
    """
    port = ground.freePort()
    command = [*SERVE, *LISTEN, "--ledger", address(database), "--node", "one"]
    one = site.start(*command, "--web", f"tcp:{port}")
    other = start(site, database, "other")

    def metrics() -> dict[str, float]:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as page:
            text = page.read().decode()
        found = re.findall(r"^creditsync_node_(\w+) (\S+)$", text, re.MULTILINE)
        return {name: float(value) for name, value in found}

    ground.until(lambda: metrics()["doorbell_heard"])
    client = other.connect()
    client.send("a")
    assert next(client.replies())["status"] == 200
    ground.until(lambda: metrics()["doorbell_rings_total"] >= 1)
    found = metrics()
    assert found["read_age_seconds"] < 5
    assert found["lanes"] == 1
    for name in ("cannot_book", "synchronous", "held_events", "lock_retries_total"):
        assert found[name] == 0, name
    assert found["unknowns_settled_total"] == 0
    assert one.process.poll() is None


def test_cannotBook(site: Site) -> None:
    """
    A node whose PostgreSQL is gone is not ready, which it says by itself, and is ready
    again when that is back: it books what it could not.
    """
    server = ground.start()
    database = server.database()
    port = ground.freePort()
    command = [*SERVE, *LISTEN, "--ledger", address(database), "--node", "one"]
    node = site.start(*command, "--web", f"tcp:{port}")

    def ready() -> str:
        try:
            with urlopen(f"http://127.0.0.1:{port}/ready", timeout=20) as page:
                return str(page.read(), "utf-8")
        except HTTPError as e:
            return str(e.read(), "utf-8")

    client = node.connect()
    client.send("before")
    assert next(client.replies())["status"] == 200
    server.kill()
    ground.until(lambda: "PostgreSQL can't be reached" in ready())
    client.send("meanwhile")
    server.start()
    ground.until(lambda: '"ready"' in ready())
    reply = next(each for each in client.replies() if each["extID"] == "meanwhile")
    assert reply["status"] in (200, 504)
    ground.until(lambda: database.rows("SELECT count(*) FROM event") == [(2,)])
    server.kill()


def test_retryOnAnother(site: Site, database: ground.Database) -> None:
    """
    What a node has booked before it was killed is found on another one by its key.
    """
    one, other = (start(site, database, node) for node in ("one", "other"))
    client = one.connect()
    client.send("a", idempotencyKey="k")
    order = next(client.replies())["data"]["order"]
    one.signal(signal.SIGKILL)
    one.end()
    client = other.connect()
    client.send("a", idempotencyKey="k")
    assert next(client.replies())["data"]["order"] == order
    assert database.rows("SELECT count(*) FROM event") == [(1,)]


def test_sameName(site: Site, database: ground.Database) -> None:
    """
    A node that is started a second time shuts the first one out, which ends.
    """
    first = start(site, database, "same")
    second = start(site, database, "same")
    client = first.connect()
    client.send("a", "b")
    assert first.end() == 1
    client = second.connect()
    client.send("c")
    assert next(client.replies())["status"] == 200


def test_stops(site: Site, database: ground.Database) -> None:
    """
    SIGTERM ends a node in order: what was requested is answered, and its connections
    are closed.
    """
    server = start(site, database, "one")
    client = server.connect()
    client.sendUntilTaken("last")
    server.signal(signal.SIGTERM)
    assert [each["extID"] for each in client.replies()] == ["last"]
    client.close()
    assert server.end() == -signal.SIGTERM
    ground.until(lambda: not database.backends())


def test_unreachable(site: Site) -> None:
    """
    A start without a PostgreSQL ends with a sentence and status 1.
    """
    place = f"postgresql://me@127.0.0.1:{ground.freePort()}/x"
    done = site.run(*SERVE, *LISTEN, "--ledger", place, "--node", "one")
    assert done.returncode == 1
    assert f"PostgreSQL can't be used at {place}: connection to server at" in (
        done.stdout + done.stderr
    )
    assert "Traceback" not in done.stdout + done.stderr


def test_passwords(site: Site, database: ground.Database) -> None:
    """
    No password is in the log, whether the server can use it or not.
    """
    role = f"role_{database.name}"
    database.rows(f"CREATE ROLE {ground.BY_PASSWORD}")
    database.rows(f"CREATE ROLE {role} LOGIN PASSWORD 's3cret'")
    database.rows(f"GRANT {ground.BY_PASSWORD} TO {role}")
    database.rows(f"GRANT CREATE ON SCHEMA public TO {role}")
    place = address(database).replace(f"//{ground.SUPERUSER}@", f"//{role}@")
    config = site.folder / "site.toml"
    try:
        config.write_text(
            f'ledger = "{place.replace("@", ":s3cret@")}"\nnode = "one"\n'
        )
        server = site.start(*SERVE, *LISTEN, "--config", str(config))
        database.terminateBackends()
        client = server.connect()
        client.send("a")
        assert next(client.replies())["status"] == 200
        said = server.output.read_text() + server.errors.read_text()
        assert "has no synchronous replication" in said
        server.signal(signal.SIGKILL)
        server.end()
        config.write_text(f'ledger = "{place.replace("@", ":wr0ng@")}"\nnode = "one"\n')
        done = site.run(*SERVE, *LISTEN, "--config", str(config))
        assert done.returncode == 1
        assert "check PGPASSWORD or ~/.pgpass" in done.stdout + done.stderr
        for word in ("s3cret", "wr0ng"):
            assert word not in said + done.stdout + done.stderr
    finally:
        database.terminateBackends()
        database.rows(f"DROP OWNED BY {role}")
        database.rows(f"DROP ROLE {role}")
        database.rows(f"DROP ROLE {ground.BY_PASSWORD}")


def take(client: Client, count: int) -> list[dict[str, Any]]:
    """
    The next messages of a client.
    """
    return list(islice(client.messages(), count))


def data(comment: str, amount: int = 300, **members: Any) -> dict[str, Any]:
    """
    The data of a request.
    """
    return {"login": 1001, "amount": amount, "comment": comment, **members}


def test_oneServer(site: Site, database: ground.Database) -> None:
    """
    The second node updates what the first has booked, refuses what the sum of both does
    not allow, and the first hears of it.
    """
    one, other = (start(site, database, node).connect() for node in ("one", "other"))
    other.send("up", command="HealthCheck", data={})
    take(other, 1)
    one.send("a")
    added, reply = take(one, 2)
    assert added["data"] == reply["data"]
    assert take(other, 1) == [added]
    order = reply["data"]["order"]
    assert order % 64 == 1001 % 64
    other.send("b", data=data("less", 200, order=order))
    updated, reply = take(other, 2)
    assert (updated["type"], reply["data"]["profit"]) == (1, 200.0)
    assert take(one, 1) == [updated]
    other.send("c", command="CreditOutSync", data=data("all", -201))
    [refusal] = take(other, 1)
    assert (refusal["status"], refusal["error"]) == (409, "TRADE_NO_MONEY")


def test_terminated(site: Site, database: ground.Database) -> None:
    """
    All connections of a node are terminated while it books: it goes on by itself, and
    each request is booked once.
    """
    client = start(site, database, "one").connect()
    for number in range(5):
        names = [f"{number}-{each}" for each in range(40)]
        client.send(*names)
        database.terminateBackends("creditsync one %")
        replies = {reply["extID"]: reply for reply in islice(client.replies(), 40)}
        assert {reply["status"] for reply in replies.values()} == {200}
        assert set(replies) == set(names)
    rows = database.rows('SELECT count(*), count(DISTINCT "order") FROM event')
    assert rows == [(200, 200)]


def test_disturbed() -> None:
    """
    Three nodes whose connections are terminated all the time book each key once, and
    publish the same journal.
    """
    command = [sys.executable, "-m", "tests.postgres.disturbed", "--seconds", "2"]
    done = subprocess.run(
        command, cwd=CHECKOUT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
