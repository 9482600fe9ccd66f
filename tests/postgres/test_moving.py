"""
Tests with servers as processes of their own: the sessions of a client move from a node
that is killed to another one, and everything is booked and received once.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from creditsync.auth import mint
from tests.integration.processes import SECRET, Site
from tests.postgres import ground
from tests.postgres.test_nodes import address, start

pytestmark = [pytest.mark.proof, pytest.mark.timeout(180)]

COMMAND = (sys.executable, "-m", "creditsync")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """
    A folder for servers, which end with the test.
    """
    site = Site(tmp_path)
    site.environment["CREDITSYNC_TOKEN"] = mint(
        SECRET, id=7, role=1, expires=86400, now=time.time()
    )
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


def credited(site: Site, *where: str) -> None:
    """
    Have a credit booked.
    """
    booked = site.run(*COMMAND, "credit-in", "1001", "1", "x", *where)
    assert booked.returncode == 0, booked.stderr


def test_watchMoves(site: Site, database: ground.Database) -> None:
    """
    Whoever watches receives each event once and in order, over the ends of all nodes.
    """
    nodes = {name: start(site, database, name) for name in ("one", "other")}
    ports = [f"127.0.0.1:{node.port}" for node in nodes.values()]
    where = [part for port in ports for part in ("--connect", port)]
    output = site.folder / "events"
    with output.open("w") as file:
        watch = subprocess.Popen(
            [*COMMAND, "watch", "--json", "--since", "first", *where],
            env=site.environment,
            stdout=file,
        )
    try:
        credited(site, *where)
        ground.until(lambda: output.read_text().count("\n") == 1)
        nodes["one"].signal(signal.SIGKILL)
        nodes["one"].end()
        # The first node does not answer, so it is another one that books.
        credited(site, *where)
        credited(site, *where)
        ground.until(lambda: output.read_text().count("\n") == 3)
    finally:
        watch.terminate()
        watch.wait(20)
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    places = [int(line["data"]["cursor"].split("-")[1]) for line in lines]
    assert places == [1, 2, 3]
    checked = site.run(*COMMAND, "check", "--ledger", address(database))
    assert "is sound: 3 trades, 1 accounts, 3 keys" in checked.stdout, checked


def test_bulkMoves(site: Site, database: ground.Database) -> None:
    """
    A file of credits is booked once, each row of it, though its node is killed in the
    middle.
    """
    one, other = (start(site, database, name) for name in ("one", "other"))
    where = [f"127.0.0.1:{node.port}" for node in (one, other)]
    rows = "".join(f"{1001 + n},1,row {n}\n" for n in range(2000))
    file = site.folder / "rows.csv"
    file.write_text(f"login,amount,comment\n{rows}")
    bulk = subprocess.Popen(
        [
            *(*COMMAND, "bulk", str(file), "--command", "CreditInSync"),
            *("--connect", where[0], "--connect", where[1]),
        ],
        cwd=site.folder,
        env=site.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    count = "SELECT count(*) FROM event"
    ground.until(lambda: database.rows(count)[0][0] > 100)
    one.signal(signal.SIGKILL)
    said, _ = bulk.communicate(timeout=120)
    assert bulk.returncode == 0, said
    assert database.rows(count) == [(2000,)]
    [(nodes,)] = database.rows("SELECT count(DISTINCT node) FROM event")
    assert nodes == 2
    checked = site.run(*COMMAND, "check", "--ledger", address(database))
    assert checked.returncode == 0, checked.stdout
