"""
Nodes as real processes, on a real PostgreSQL, with a proxy in between where a suite
disturbs what is between them.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from json import dumps, loads
from pathlib import Path
from typing import Any, Final

from attrs import define, field

from creditsync.auth import mint
from tests.integration.processes import CHECKOUT, SECRET, SERVE
from tests.postgres import ground
from tests.postgres.judge import Violation
from tests.postgres.told import PRINCIPAL

# Seconds that a node has to start.
_PATIENCE: Final = 30.0


@define(eq=False)
class Node:
    """
    One node, started as often as it has to be.

    @ivar ledger: Where that is.
    @ivar plant: A bug of L{tests.planted.bugs}, or L{None}.
    @ivar web: The port of its site.
    """

    name: str
    ledger: str
    folder: Path
    plant: str | None = None
    options: Sequence[str] = ()
    port: int = field(factory=ground.freePort)
    web: int = field(factory=ground.freePort)
    process: "subprocess.Popen[bytes] | None" = field(init=False, default=None)

    def start(self, *, wait: bool = True) -> None:
        """
        Start it, and wait until it answers.
        """
        self.folder.mkdir(exist_ok=True)
        key = self.folder / "creditsync.key"
        key.write_text(SECRET)
        key.chmod(0o600)
        command = SERVE
        if self.plant is not None:
            command = [sys.executable, "-m", "tests.planted.server", self.plant]
        command = [*command, "--listen", f"tcp:{self.port}:interface=127.0.0.1"]
        command += ["--ledger", self.ledger, "--node", self.name]
        command += ["--web", f"tcp:{self.web}:interface=127.0.0.1"]
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *self.options],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if wait:
            self.waitUntilReady()

    def waitUntilReady(self) -> None:
        """
        Wait until it answers.

        @raise Violation: It does not.
        """
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            if not self.isRunning:
                break
            with suppress(OSError, ValueError):
                self.ask("HealthCheck", {})
                return
            time.sleep(0.02)
        raise Violation(f"node {self.name} does not start: {self.log()}")

    @property
    def isRunning(self) -> bool:
        """
        Whether there is a process.
        """
        return self.process is not None and self.process.poll() is None

    def ask(
        self, command: str, data: dict[str, Any], timeout: float = 10.0, **members: Any
    ) -> dict[str, Any]:
        """
        Ask one thing on a connection of its own.

        @return: The reply.
        """
        now = time.time()
        token = mint(SECRET, id=PRINCIPAL, role=1, expires=86400, now=now)
        line = {"command": command, "extID": "x", "__token": token, "data": data}
        with socket.create_connection(("127.0.0.1", self.port), timeout) as connection:
            connection.sendall(dumps({**line, **members}).encode() + b"\r\n")
            for each in connection.makefile("rb"):
                message: dict[str, Any] = loads(each)
                if "event" not in message:
                    return message
        raise OSError("the connection has ended")

    def ready(self) -> int:
        """
        See L{readiness}.
        """
        return readiness(self.web)

    def kill(self) -> None:
        """
        End it by SIGKILL.
        """
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait(10)

    def signal(self, number: signal.Signals) -> None:
        """
        Send it a signal, if it runs.
        """
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def log(self, lines: int = 8) -> str:
        """
        The end of its log.
        """
        text = (self.folder / "log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])


def readiness(web: int) -> int:
    """
    The status of C{/ready}.

    @param web: The port of that site.
    """
    try:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{web}/ready", timeout=5
        ) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as e:
        return e.code


def address(database: ground.Database, port: int | None = None) -> str:
    """
    What C{--ledger} says.

    @param port: Of what is between a node and the server, if anything is.
    """
    port = port or database.server.port
    return (
        f"postgresql://{ground.SUPERUSER}@127.0.0.1:{port}/{database.name}"
        "?sslmode=disable&gssencmode=disable"
    )


@define(eq=False)
class Cluster:
    """
    Some nodes.
    """

    nodes: list[Node]

    def ports(self) -> list[int]:
        """
        Where those that run listen.
        """
        return [each.port for each in self.nodes if each.isRunning]

    def check(self) -> None:
        """
        @raise Violation: A node has ended.
        """
        for each in self.nodes:
            if not each.isRunning:
                raise Violation(f"node {each.name} has ended: {each.log()}")


@contextmanager
def nodes(
    *ledgers: str, plant: str | None = None, options: Sequence[str] = ()
) -> Iterator[Cluster]:
    """
    Run nodes, whose names are C{a}, C{b}, C{c} ...

    @param ledgers: Where the ledger is for each.
    """
    with tempfile.TemporaryDirectory(prefix="nodes-") as folder:
        cluster = Cluster(
            [
                Node(name, ledger, Path(folder) / name, plant, options)
                for name, ledger in zip("abcdefgh", ledgers, strict=False)
            ]
        )
        try:
            for each in cluster.nodes:
                each.start(wait=False)
            for each in cluster.nodes:
                each.waitUntilReady()
            yield cluster
        finally:
            for each in cluster.nodes:
                each.kill()
