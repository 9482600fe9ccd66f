"""
A server as a real process, and a client on a real socket, on loopback.
"""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from creditsync.auth import mint

CHECKOUT = Path(__file__).parents[2]
SECRET = "0123456789abcdef0123456789abcdef"

SERVE = [sys.executable, "-m", "creditsync", "serve"]
TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
FOREGROUND = [*TWISTD, "--nodaemon", "--pidfile=", "creditsync"]

Completed: TypeAlias = "subprocess.CompletedProcess[str]"

LISTEN = ["--listen", "tcp:0:interface=127.0.0.1"]

# In front of a command: it is then process 1, and its mounts are private.
CONTAINER = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def _canUnshare() -> bool:
    try:
        return not subprocess.run([*CONTAINER, "true"], check=False).returncode
    except FileNotFoundError:
        return False


inContainer = pytest.mark.skipif(
    not _canUnshare(), reason="this user may not make namespaces"
)


class Site:
    """
    A folder with a key in which a server is run, as in a deployment.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = folder / "creditsync.db"
        self.started: list[Server] = []
        key = folder / "creditsync.key"
        key.write_text(SECRET)
        key.chmod(0o600)
        # twistd finds plugins only in folders of this name on sys.path, and a
        # bare checkout has ours in none of them.
        plugins = folder / "path" / "twisted" / "plugins"
        plugins.mkdir(parents=True)
        plugin = CHECKOUT / "twisted_plugins" / "creditsync_plugin.py"
        (plugins / plugin.name).write_text(plugin.read_text())
        path = os.pathsep.join([str(folder / "path"), str(CHECKOUT)])
        self.environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        self.environment.pop("CREDITSYNC_KEY", None)

    def run(self, *command: str) -> Completed:
        """
        Run a command to its end.
        """
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def start(self, *command: str) -> "Server":
        """
        Start a server in the foreground and wait until it answers.
        """
        server = Server(self, list(command))
        self.started.append(server)
        server.waitForPort()
        return server

    def killAll(self) -> None:
        """
        End the servers that still run.
        """
        for server in self.started:
            assert server.process.stdin is not None
            server.process.stdin.close()
            server.process.kill()
            server.process.wait(10)

    def orders(self) -> dict[int, tuple[int, str]]:
        """
        The trades in the ledger's file: profit and comment by order.
        """
        with closing(sqlite3.connect(f"file:{self.ledger}?mode=ro", uri=True)) as db:
            rows = db.execute('SELECT "order", profit, comment FROM trade').fetchall()
        assert len(rows) == len({order for order, _, _ in rows})
        return {order: (profit, comment) for order, profit, comment in rows}

    def holdLedger(self) -> sqlite3.Connection:
        """
        Keep the server from committing until this connection is closed.
        """
        other = sqlite3.connect(self.ledger, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        return other

    def spoilLedger(self) -> None:
        """
        Make every further commit of the server fail.
        """
        with closing(sqlite3.connect(self.ledger, isolation_level=None)) as other:
            other.execute("ALTER TABLE journal RENAME TO elsewhere")


class Server:
    """
    A server process and its output.
    """

    def __init__(self, site: Site, command: list[str]) -> None:
        self.output = site.folder / f"output-{len(site.started)}"
        self.errors = site.folder / f"errors-{len(site.started)}"
        with self.output.open("w") as output, self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                command,
                cwd=site.folder,
                env=site.environment,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=errors,
            )
        self.port = 0

    def waitForPort(self) -> None:
        """
        Wait for the line of the log that names the port, and for a reply.
        """
        # A busy machine takes its time, and a test is given a minute in all.
        deadline = time.monotonic() + 45
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.hasPort():
                self._waitForReply()
                return
            time.sleep(0.02)
        raise AssertionError(
            f"no server: {self.output.read_text()}{self.errors.read_text()}"
        )

    def hasPort(self) -> bool:
        """
        Whether the log names the port yet.
        """
        found = re.search(r"LineFactory starting on (\d+)", self.output.read_text())
        self.port = int(found[1]) if found else 0
        return found is not None

    def _waitForReply(self) -> None:
        """
        Wait until the server has opened its ledger too, and replies.
        """
        client = self.connect()
        client.send("up", command="HealthCheck", data={})
        assert next(client.replies())["extID"] == "up"
        client.close()

    def connect(self) -> "Client":
        """
        Open a connection.
        """
        return Client(self.port)

    def step(self) -> None:
        """
        Write a byte to its standard input.
        """
        assert self.process.stdin is not None
        self.process.stdin.write(b"x")
        self.process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        """
        Send a signal.
        """
        self.process.send_signal(number)

    def end(self, seconds: float = 20) -> int:
        """
        Wait for the end of the process, and give its status.
        """
        return self.process.wait(seconds)


class Client:
    """
    A minimal client: lines out, lines in.
    """

    def __init__(self, where: int | socket.socket) -> None:
        """
        @param where: The server's port, or a connection to it.
        """
        if isinstance(where, int):
            where = socket.create_connection(("127.0.0.1", where), timeout=20)
        self.socket = where
        self.lines = self.socket.makefile("rb")
        self.token = mint(SECRET, id=7, role=1, expires=86400, now=time.time())

    def send(self, *extIDs: str, **members: Any) -> None:
        """
        Ask for one credit of 300 for each of these, in one write.
        """
        data = {"login": 1001, "amount": 300.0}
        requests = [
            {
                "command": "CreditInSync",
                "extID": extID,
                "__token": self.token,
                "data": {**data, "comment": f"for {extID}"},
                **members,
            }
            for extID in extIDs
        ]
        self.socket.sendall(
            "".join(f"{json.dumps(request)}\r\n" for request in requests).encode()
        )

    def sendUntilTaken(self, extID: str) -> None:
        """
        Request one credit, and wait until the server has accepted the request.
        """
        self.send(extID)
        self.send("taken", command="HealthCheck", data={})
        assert next(self.replies())["extID"] == "taken"

    def messages(self) -> Iterator[dict[str, Any]]:
        """
        All messages until the connection ends.
        """
        try:
            for line in self.lines:
                # A message that was cut off by a kill is not one.
                if not line.endswith(b"\r\n"):
                    return
                yield json.loads(line)
        except ConnectionError:
            return

    def replies(self) -> Iterator[dict[str, Any]]:
        """
        The replies among the messages.
        """
        return (message for message in self.messages() if "event" not in message)

    def close(self) -> None:
        """
        End the connection.
        """
        self.lines.close()
        self.socket.close()
