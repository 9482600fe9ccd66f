"""
The sandbox in a process of its own, for the tests of those who integrate with a
platform (docs/sandbox.rst, "In the tests of an integrator").

It works with every test framework, as everything here blocks. For pytest see
L{creditsync.pytest_plugin}.
"""

import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Final

from creditsync import _wire as wire
from creditsync.auth import mint
from creditsync.codes import ROLES

# The account that is there from the beginning.
LOGIN: Final = 1001

# Seconds that a start, a stop or a reply may take.
_PATIENCE: Final = 30.0


class SandboxProcess:
    """
    A sandbox on a free port of this machine, with a ledger and a key of its own. It is
    a context manager.

    @ivar host: Where it listens.
    @ivar port: The port.
    @ivar folder: Where its ledger, its key and its log are.
    """

    host = "127.0.0.1"
    port = 0

    def __init__(
        self,
        options: Sequence[str] = (),
        folder: str | os.PathLike[str] | None = None,
        accounts: Mapping[int, str] = {LOGIN: "real"},
    ) -> None:
        """
        @param options: Those of C{creditsync sandbox}.
        @param folder: It must exist. Left out, a temporary one is used and removed.
        @param accounts: The accounts that are there from the beginning, with their
            groups.
        """
        self._options = list(options)
        self._temporary = None if folder is not None else TemporaryDirectory()
        self.folder = Path(folder or self._temporary.name)  # type: ignore[union-attr]
        self._accounts = accounts
        self._key = self.folder / "creditsync.key"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "SandboxProcess":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        why: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.stop()
        if self._temporary is not None:
            self._temporary.cleanup()

    @property
    def log(self) -> str:
        """
        What it has written so far.
        """
        path = self.folder / "sandbox.log"
        return path.read_text("utf-8") if path.exists() else ""

    def start(self) -> None:
        """
        Start it, and wait until it answers. After a L{kill} it is on the same port,
        with what is on disk.

        @raise RuntimeError: It does not start; the message has its log.
        """
        if not self._key.exists():
            self._key.touch(0o600)
            self._key.write_text(secrets.token_hex(32))
        place = f"tcp:{self.port}:interface={self.host}"
        command = [sys.executable, "-m", "creditsync", "sandbox", "--listen", place]
        files = ["--ledger", "creditsync.db", "--key", self._key.name]
        # The package that this process has found, wherever that is.
        path = os.pathsep.join(each for each in sys.path if each)
        with open(self.folder / "sandbox.log", "wb") as log:
            self._process = subprocess.Popen(
                [*command, *files, *self._options],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._waitForPort()
            for login, group in self._accounts.items():
                self.ask("MngSetAccountGroup", {"login": login, "group": group})
        except BaseException:
            self.kill()
            raise

    def _waitForPort(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline and self._process.poll() is None:
            found = re.search(r"The sandbox is ready on port (\d+)\.", self.log)
            if found:
                self.port = int(found[1])
                return
            time.sleep(0.02)
        raise RuntimeError(f"the sandbox does not start:\n{self.log}")

    def stop(self) -> None:
        """
        Stop it in order: what was accepted is booked.
        """
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_PATIENCE)
            finally:
                self.kill()

    def kill(self) -> None:
        """
        End it at once: what was accepted and not booked is lost.
        """
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def token(self, role: str = "manager", id: int = 7, **claims: Any) -> str:
        """
        A token that is valid for a day.

        @param role: C{"manager"}, C{"admin"}, C{"user"} ...
        @param claims: As L{creditsync.auth.mint} takes them.
        """
        return mint(
            self._key.read_bytes(),
            id=id,
            role=ROLES[role],
            expires=86400,
            now=time.time(),
            **claims,
        )

    def ask(
        self, command: str, data: Mapping[str, Any], role: str = "admin"
    ) -> dict[str, Any]:
        """
        Ask on a connection of its own, to prepare a test or to see what was booked.

        @return: The C{data} of the reply.
        @raise RuntimeError: It was refused, or there was no reply.
        """
        line = {"command": command, "extID": 1, "__token": self.token(role, 1)}
        reply = b""
        place = self.host, self.port
        with socket.create_connection(place, _PATIENCE) as connection:
            connection.sendall(wire.encodeData({**line, "data": data}) + b"\r\n")
            for reply in connection.makefile("rb"):
                if reply.startswith(b'{"extID":1,'):
                    break
        members = wire.decode(reply, float("inf")) if reply else {}
        if members.get("status") != 200:
            raise RuntimeError(f"{command} has failed: {reply.decode()}")
        found: dict[str, Any] = members["data"]
        return found

    def fault(self, name: str, **members: Any) -> None:
        """
        Set a fault.

        @param members: C{rate}, C{after}, C{times}, C{seconds} and C{commands}.
        """
        self.ask("SandboxFault", {"name": name, **members})

    def faults(self) -> dict[str, int]:
        """
        How often each fault has happened.
        """
        told = self.ask("SandboxFault", {})["faults"]
        return {each["name"]: each["happened"] for each in told}

    def reset(self) -> None:
        """
        Let nothing go wrong any more, and no line come in between.
        """
        self.ask("SandboxFault", {"reset": True})
