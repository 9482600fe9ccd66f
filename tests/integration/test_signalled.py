"""
Tests for signals to a server process at each moment of its life, also as
process 1, as in a container.
"""

import errno
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from processes import CONTAINER, LISTEN, SERVE, Server, inContainer
from test_operations import OperationsTestCase, waitUntil

pytestmark = [pytest.mark.proof, pytest.mark.timeout(60, method="thread")]


def childOf(process: "subprocess.Popen[bytes]") -> int:
    """
    The process id, outside its namespace, of the process 1 that C{unshare} has
    created.
    """
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    waitUntil(lambda: children.read_text().split())
    return int(children.read_text().split()[0])


def waitUntilAsleep(pid: int) -> None:
    """
    Wait until a process has slept for a tenth of a second.
    """
    status = Path(f"/proc/{pid}/status")

    def slept() -> bool:
        before = status.read_text()
        time.sleep(0.1)
        return "State:\tS" in before and status.read_text() == before

    waitUntil(slept)


class StartTests(OperationsTestCase):
    """
    Tests with a slow start: the configuration comes from a pipe.
    """

    def setUp(self) -> None:
        super().setUp()
        self.pipe = self.site.folder / "c.toml"
        os.mkfifo(self.pipe)

    def starts(self, *command: str) -> tuple[Server, int]:
        """
        Start a server, and wait until it reads its configuration.

        @return: The server, and the descriptor to write the configuration to.
        """
        server = self.launch(*command, *SERVE, *LISTEN, "--config", str(self.pipe))
        deadline = time.monotonic() + 20
        while True:
            try:
                return server, os.open(self.pipe, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as e:
                assert e.errno == errno.ENXIO and time.monotonic() < deadline, self.log(
                    server
                )
                time.sleep(0.02)

    def test_hangUp(self) -> None:
        """
        A SIGHUP during the start is handled once the configuration is read and
        the ledger is open.
        """
        server, pipe = self.starts()
        server.signal(signal.SIGHUP)
        os.close(pipe)
        server.waitForPort()
        self.waitForLine(server, "Reloaded.")
        self.assertServes(server)

    def test_others(self) -> None:
        """
        SIGTERM and SIGINT during the start end the server at once, without a
        traceback.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            # Pytest may have been started with SIGINT ignored.
            before = signal.signal(number, signal.SIG_DFL)
            self.addCleanup(signal.signal, number, before)
            server, pipe = self.starts()
            server.signal(number)
            assert server.end() == -number
            os.close(pipe)
            assert self.log(server) == ""

    @inContainer
    def test_first(self) -> None:
        """
        SIGTERM and SIGINT during the start end process 1 at once too.
        """
        for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
            before = signal.signal(number, signal.SIG_DFL)
            self.addCleanup(signal.signal, number, before)
            server, pipe = self.starts(*CONTAINER)
            child = childOf(server.process)
            # The handler of a signal that comes in the instant before the read
            # would run after it.
            waitUntilAsleep(child)
            os.kill(child, number)
            assert server.end() == status
            os.close(pipe)
            assert self.log(server) == ""


class StopTests(OperationsTestCase):
    """
    Tests with a slow stop: the ledger can't be written, and a request is
    pending.
    """

    def stops(self, *command: str) -> Server:
        """
        Start a server and let its stop begin.
        """
        server = self.site.start(*command, *SERVE, *LISTEN, "--timeout=30")
        self.addCleanup(self.site.holdLedger().close)
        client = server.connect()
        self.addCleanup(client.close)
        client.sendUntilTaken("a")
        self.sends(server, signal.SIGTERM)
        self.waitForLine(server, "Received SIGTERM, shutting down.")
        return server

    def sends(self, server: Server, number: signal.Signals) -> None:
        """
        Send a signal to the server, which may run inside C{unshare}.
        """
        inside = server.process.args[0] == CONTAINER[0]  # type: ignore[index]
        os.kill(childOf(server.process) if inside else server.process.pid, number)

    def assertEndsAtOnce(self, server: Server, status: int) -> None:
        """
        Assert that the next signal ends the server long before the stop would
        be over.
        """
        began = time.monotonic()
        self.sends(server, signal.SIGTERM)
        assert server.end() == status
        assert time.monotonic() - began < 5

    def test_secondSignal(self) -> None:
        """
        A second signal ends the server at once.
        """
        self.assertEndsAtOnce(self.stops(), -signal.SIGTERM)

    @inContainer
    def test_first(self) -> None:
        """
        A second signal ends the server at once if it is process 1.
        """
        self.assertEndsAtOnce(self.stops(*CONTAINER), 143)

    def test_hangUp(self) -> None:
        """
        A SIGHUP during the stop changes nothing, and the status is that of the
        SIGTERM.
        """
        server = self.stops()
        for _ in range(100):
            server.signal(signal.SIGHUP)
        assert server.process.poll() is None
        assert "Reloaded." not in self.log(server)
        self.assertEndsAtOnce(server, -signal.SIGTERM)

    def test_hangUpToTheEnd(self) -> None:
        """
        A SIGHUP at any moment of the stop does not change the exit status.
        """
        server = self.site.start(*SERVE, *LISTEN)
        server.signal(signal.SIGTERM)
        while server.process.poll() is None:
            server.signal(signal.SIGHUP)
        assert server.end() == -signal.SIGTERM
