"""
Tests for several servers on one PostgreSQL, as real processes.
"""

import signal
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.integration.processes import FOREGROUND, LISTEN, Client, Server, Site
from tests.postgres.engine import emptied
from tests.postgres.ground import Database

pytestmark = pytest.mark.timeout(120)


class Nodes:
    """
    Servers on one database.
    """

    def __init__(self, folder: Path, database: Database) -> None:
        self.site = Site(folder)
        self.database = database
        server = database.server
        self.address = f"postgresql://postgres@127.0.0.1:{server.port}/{database.name}"

    def start(self, name: str) -> Server:
        """
        Start a node.
        """
        ledger = ["--ledger", self.address, "--node", name]
        return self.site.start(*FOREGROUND, *LISTEN, *ledger)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    """
    No server yet.
    """
    made = Nodes(tmp_path, emptied())
    yield made
    made.site.killAll()


def take(client: Client, count: int) -> list[dict[str, Any]]:
    """
    The next messages of a client.
    """
    return list(islice(client.messages(), count))


def test_oneServer(nodes: Nodes) -> None:
    """
    A credit on one node is answered there behind its event, and its event comes to the
    clients of the other too. The same request under the same key is booked once,
    whichever node it goes to.
    """
    servers = nodes.start("a"), nodes.start("b")
    one, other = (server.connect() for server in servers)
    for client in (one, other):
        client.send("up", command="HealthCheck", data={})
        take(client, 1)
    one.send("first", idempotencyKey="k")
    event, reply = take(one, 2)
    assert event["data"] == reply["data"]
    assert (event["data"]["profit"], event["data"]["order"] % 64) == (300.0, 1001 % 64)
    assert take(other, 1) == [event]
    other.send("again", idempotencyKey="k", data=_data("for first"))
    assert take(other, 1) == [
        {"extID": "again", "status": 200, "data": reply["data"], "replayed": True}
    ]
    order = reply["data"]["order"]
    other.send("update", data={**_data("less"), "amount": 200, "order": order})
    update, _ = take(other, 2)
    assert (update["type"], update["data"]["profit"]) == (1, 200.0)
    assert take(one, 1) == [update]
    other.send("out", command="CreditOutSync", data={**_data("all"), "amount": -201})
    [refusal] = take(other, 1)
    assert (refusal["status"], refusal["error"]) == (409, "TRADE_NO_MONEY")
    for client in (one, other):
        client.close()
    for server in servers:
        server.signal(signal.SIGTERM)
        assert server.end() in (0, -signal.SIGTERM, 143)


def test_resumedElsewhere(nodes: Nodes) -> None:
    """
    A node is killed; its client goes to the other, resumes there from its cursor, and
    finds by its key what the dead node booked.
    """
    first, second = nodes.start("a"), nodes.start("b")
    client = first.connect()
    client.send("one", idempotencyKey="k1")
    _, reply = take(client, 2)
    cursor = reply["data"]["cursor"]
    client.send("two", idempotencyKey="k2")
    two = take(client, 2)[1]
    first.process.kill()
    client.close()
    client = second.connect()
    client.send(
        "since", command="Subscribe", data={"chanels": ["trade:event"], "since": cursor}
    )
    subscribed, event = take(client, 2)
    assert subscribed["status"] == 200
    assert event["data"] == two["data"]
    client.send("two", idempotencyKey="k2")
    again = take(client, 1)[0]
    assert (again["data"], again["replayed"]) == (two["data"], True)
    client.close()
    rows = nodes.database.rows("SELECT count(*) FROM event")
    assert rows == [(2,)]


def test_terminated(nodes: Nodes) -> None:
    """
    All connections of a node are terminated while it books: it goes on by itself, and
    each request is booked once.
    """
    server = nodes.start("a")
    client = server.connect()
    for number in range(5):
        names = [f"{number}-{each}" for each in range(40)]
        client.send(*names)
        nodes.database.terminateBackends("creditsync a %")
        replies = {reply["extID"]: reply for reply in islice(client.replies(), 40)}
        assert {reply["status"] for reply in replies.values()} == {200}
        assert set(replies) == set(names)
    client.close()
    rows = nodes.database.rows('SELECT count(*), count(DISTINCT "order") FROM event')
    assert rows == [(200, 200)]


def _data(comment: str) -> dict[str, Any]:
    return {"login": 1001, "amount": 300.0, "comment": comment}
