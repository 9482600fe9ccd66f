"""
Tests for commands that a gateway passes on to a platform, both as processes.
"""

import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import LISTEN, SERVE, Client, Server, Site

from creditsync.sandbox import SandboxProcess

pytestmark = pytest.mark.timeout(120, method="thread")

PROFILE = """
two-phase = false

[pass]
GetSymbols = "client"
MngGetUserStats = "service"
"""


class Pair:
    """
    A sandbox, and a gateway that accepts the same tokens.
    """

    def __init__(self, folder: Path) -> None:
        (folder / "platform").mkdir()
        (folder / "gateway").mkdir()
        self.platform = SandboxProcess(folder=folder / "platform")
        self.platform.start()
        self.site = Site(folder / "gateway")
        key = self.site.folder / "creditsync.key"
        key.write_text((folder / "platform" / "creditsync.key").read_text())
        self.token = self.platform.token("admin", 99)
        self.path = self.site.folder / "token"
        self.path.write_text(self.token)
        self.profile = self.site.folder / "profile.toml"
        self.profile.write_text(PROFILE)
        self.gateway = Server(
            self.site,
            [
                *SERVE,
                *LISTEN,
                *("--upstream", f"tcp:127.0.0.1:{self.platform.port}"),
                *("--upstream-token", str(self.path)),
                *("--upstream-profile", str(self.profile)),
                *("--audit", "audit.jsonl"),
            ],
        )
        self.site.started.append(self.gateway)
        deadline = time.monotonic() + 20
        while not self.gateway.hasPort() and time.monotonic() < deadline:
            time.sleep(0.02)

    def connect(self) -> Client:
        """
        Open a connection of a client to the gateway.
        """
        where = ("127.0.0.1", self.gateway.port)
        client = Client(socket.create_connection(where, timeout=20))
        client.token = self.platform.token("manager", 7)
        return client

    def ask(self, client: Client, command: str, token: str, **data: Any) -> Any:
        """
        Send a request until something else than 503 is the reply.
        """
        deadline = time.monotonic() + 20
        while True:
            client.send("a", command=command, __token=token, data=data)
            reply = next(client.replies())
            if reply["status"] != 503 or time.monotonic() > deadline:
                return reply
            time.sleep(0.1)

    def end(self) -> None:
        """
        End both.
        """
        self.site.killAll()
        self.platform.kill()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """
    Start both, and end them.
    """
    pair = Pair(tmp_path)
    yield pair
    pair.end()


def test_passed(pair: Pair) -> None:
    """
    Commands reach the platform with the token that the profile says, and none of them
    changes which events the gateway gets: with a token that may see nothing, it would
    get none.
    """
    client = pair.connect()
    user, admin = (pair.platform.token(role, 55) for role in ("user", "admin"))
    passed = pair.ask(client, "GetSymbols", user, mask="EUR*", n=1.5)
    assert passed["data"]["asked_by"] == 55
    assert passed["data"]["asked"] == {"mask": "EUR*", "n": 1.5}
    stats = pair.ask(client, "MngGetUserStats", admin)
    assert stats["data"]["asked_by"] == 99
    assert pair.ask(client, "MngGetUserStats", client.token)["status"] == 403
    assert pair.ask(client, "MngGetUsers", admin)["error"] == "UNKNOWN_COMMAND"
    # What a person books at the platform still arrives.
    watching = pair.connect()
    assert pair.ask(watching, "HealthCheck", watching.token)["status"] == 200
    credit = {"login": 1001, "amount": 5, "comment": "by hand"}
    began = time.monotonic()
    assert pair.platform.ask("CreditIn", credit)["accepted"]
    event = next(each for each in watching.messages() if "event" in each)
    assert event["data"]["comment"] == "by hand"
    # Not only by the next look at what was missed, which is every 30 seconds.
    assert time.monotonic() - began < 15
    for each in (client, watching):
        each.close()


def test_lostReply(pair: Pair) -> None:
    """
    A reply that is lost is a 504, and the command is not sent again. No token is
    written anywhere.
    """
    client = pair.connect()
    assert pair.ask(client, "GetSymbols", client.token)["status"] == 200
    pair.platform.fault("lose-reply", times=1, commands=["GetSymbols"])
    lost = pair.ask(client, "GetSymbols", client.token)
    assert (lost["status"], lost["error"]) == (504, "SYNC_TIMEOUT")
    assert "may have been carried out" in lost["message"]
    assert pair.ask(client, "GetSymbols", client.token)["status"] == 200
    time.sleep(0.2)
    trail = (pair.site.folder / "audit.jsonl").read_text()
    outcomes = [json.loads(line)["outcome"] for line in trail.splitlines()]
    assert outcomes[-3:] == ["passed", "unknown", "passed"]
    written = trail + pair.gateway.output.read_text() + pair.gateway.errors.read_text()
    for token in (client.token, pair.token):
        assert token not in written
    client.close()


def test_command(pair: Pair) -> None:
    """
    C{creditsync call} prints the data of a reply. If the connection to the platform
    is cut before the reply is whole, its status says that the outcome is unknown, and
    the command is not sent again.
    """

    def call(*arguments: str) -> tuple[int, str, str]:
        where = ("--connect", f"127.0.0.1:{pair.gateway.port}")
        ended = pair.site.run(
            sys.executable, "-m", "creditsync", "call", *where, *arguments
        )
        return ended.returncode, ended.stdout, ended.stderr

    client = pair.connect()
    pair.site.environment["CREDITSYNC_TOKEN"] = client.token
    assert pair.ask(client, "GetSymbols", client.token)["status"] == 200
    status, printed, _ = call("GetSymbols", "--data", '{"mask":"EUR*"}')
    assert status == 0
    assert json.loads(printed)["asked"] == {"mask": "EUR*"}
    status, printed, why = call("MngGetUserStats")
    assert (status, printed) == (3, "")
    assert "(403 FORBIDDEN)" in why
    pair.platform.fault("cut-reply", times=1, commands=["GetSymbols"])
    status, printed, why = call("GetSymbols")
    assert (status, printed) == (4, "")
    assert "GetSymbols may have been carried out by the platform" in why
    assert why.count("the outcome is unknown") == 1
    trail = (pair.site.folder / "audit.jsonl").read_text()
    outcomes = [json.loads(line)["outcome"] for line in trail.splitlines()]
    assert outcomes[-4:] == ["passed", "passed", "refused", "unknown"]
    client.close()
