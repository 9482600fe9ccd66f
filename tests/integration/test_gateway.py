"""
Tests for a gateway as a process, in front of a platform that is one too: a server of
this kind, of which the gateway uses only what a platform has.
"""

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import LISTEN, SECRET, SERVE, Client, Server, Site

from creditsync.auth import mint

pytestmark = pytest.mark.timeout(120, method="thread")


class Pair:
    """
    A platform and a gateway, each in a folder of its own.
    """

    def __init__(self, folder: Path) -> None:
        self.sites = []
        for name in ("platform", "gateway"):
            (folder / name).mkdir()
            self.sites.append(Site(folder / name))
        self.platformSite, self.gatewaySite = self.sites
        self.token = folder / "token"
        self.token.write_text(
            mint(SECRET, id=99, role=3, expires=86400, now=time.time())
        )
        self.platform = self.platformSite.start(*SERVE, *LISTEN)
        self.gateway = self.start()

    def start(self, *options: str) -> Server:
        """
        Start the gateway.
        """
        return self.gatewaySite.start(
            *SERVE,
            *LISTEN,
            f"--upstream=tcp:127.0.0.1:{self.platform.port}",
            f"--upstream-token={self.token}",
            *options,
        )

    def credit(self, client: Client, key: str) -> dict[str, Any]:
        """
        Request a credit under a key until something else than 503 is the reply.
        """
        deadline = time.monotonic() + 40
        while True:
            client.send(key, idempotencyKey=key)
            reply = next(client.replies())
            if reply["status"] != 503 or time.monotonic() > deadline:
                return reply
            time.sleep(0.2)

    def comments(self) -> list[str]:
        """
        The comments of what the platform has booked.
        """
        return [comment for _, comment in self.platformSite.orders().values()]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """
    Start both, and end them.
    """
    pair = Pair(tmp_path)
    yield pair
    for site in pair.sites:
        site.killAll()


def test_credit(pair: Pair) -> None:
    """
    A credit is booked by the platform, and the client gets its record; a repetition
    gets it again.
    """
    client = pair.gateway.connect()
    reply = pair.credit(client, "k1")
    assert reply["status"] == 200
    assert (reply["data"]["comment"], reply["data"]["state"]) == ("for k1", 3)
    again = pair.credit(client, "k1")
    assert (again["replayed"], again["data"]) == (True, reply["data"])
    assert pair.comments() == ["for k1"]
    client.close()


@pytest.mark.proof
def test_groups(pair: Pair) -> None:
    """
    A token is restricted to the platform's groups, from the first request on, and so
    are its events of what people book there.
    """
    admin = mint(SECRET, id=1, role=3, expires=3600, now=time.time())
    staff = pair.platform.connect()
    for login, group in ((1001, "real"), (1002, "demo")):
        data: dict[str, Any] = {"login": login, "group": group}
        staff.send("a", command="MngSetAccountGroup", data=data, __token=admin)
        assert next(staff.replies())["status"] == 200
    pair.gateway.signal(signal.SIGTERM)
    pair.gateway.end()
    client = pair.start("--upstream-groups").connect()
    client.token = mint(
        SECRET, id=7, role=1, expires=3600, now=time.time(), groups="!demo,*"
    )
    assert pair.credit(client, "k1")["status"] == 200
    other = {"login": 1002, "amount": 300.0, "comment": "for another"}
    client.send("k2", data=other)
    assert next(client.replies())["status"] == 403
    for extID, login in (("by hand", 1002), ("by hand too", 1001)):
        staff.send(extID, data={**other, "login": login, "comment": extID})
        assert next(staff.replies())["status"] == 200
    event = next(client.messages())
    assert (event["event"], event["data"]["comment"]) == ("trade:event", "by hand too")
    for each in (client, staff):
        each.close()


def test_gatewayKilled(pair: Pair) -> None:
    """
    A gateway that is killed while the platform has a request finds out afterwards what
    became of it, and books nothing again.
    """
    client = pair.gateway.connect()
    assert pair.credit(client, "k1")["status"] == 200
    held = pair.platformSite.holdLedger()
    client.send("k2", idempotencyKey="k2")
    time.sleep(1)
    pair.gateway.signal(signal.SIGKILL)
    pair.gateway.end()
    held.close()
    client = pair.start().connect()
    reply = pair.credit(client, "k2")
    assert (reply["status"], reply["data"]["comment"]) == (200, "for k2")
    assert sorted(pair.comments()) == ["for k1", "for k2"]
    client.close()


def test_platformAway(pair: Pair) -> None:
    """
    Without the platform nothing is sent, and what is repeated is booked when it is
    back.
    """
    pair.platform.signal(signal.SIGTERM)
    pair.platform.end()
    client = pair.gateway.connect()
    client.send("k1", idempotencyKey="k1")
    reply = next(client.replies())
    assert (reply["status"], reply["error"]) == (503, "BUSY")
    listen = f"--listen=tcp:{pair.platform.port}:interface=127.0.0.1"
    pair.platformSite.start(*SERVE, listen)
    assert pair.credit(client, "k1")["status"] == 200
    assert pair.comments() == ["for k1"]
    client.close()
