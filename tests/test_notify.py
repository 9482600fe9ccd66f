"""
Tests for L{creditsync._process.notify}.
"""

import os
import socket
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from creditsync._process.notify import Supervisor
from tests.test_tap import logTo


class SupervisorTests(SynchronousTestCase):
    """
    The messages to systemd.
    """

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.address = str(Path(folder.name, "notify"))
        self.clock = Clock()

    def listen(self, address: str) -> None:
        """
        Listen as systemd does.
        """
        self.systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.systemd.close)
        self.systemd.bind(address)
        self.systemd.setblocking(False)

    def supervisor(self, **environment: str) -> Supervisor:
        """
        A supervisor in this environment.
        """
        return Supervisor(self.clock, {"NOTIFY_SOCKET": self.address, **environment})

    def heard(self) -> list[str]:
        """
        The first lines of the messages since the last call.
        """
        messages = []
        while True:
            try:
                messages.append(self.systemd.recv(4096).decode())
            except BlockingIOError:
                return [message.partition("\n")[0] for message in messages]

    def test_life(self) -> None:
        """
        systemd is notified of the start, of a reload and of the stop.
        """
        self.listen(self.address)
        supervisor = self.supervisor()
        supervisor.ready()
        supervisor.reloading()
        supervisor.ready()
        supervisor.stopping()
        supervisor.stopped()
        self.assertEqual(
            self.heard(), ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]
        )
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_reloadHasItsTime(self) -> None:
        """
        The message about a reload has the time of its beginning, by the
        monotonic clock in microseconds, which a unit of Type=notify-reload
        needs.
        """
        self.listen(self.address)
        before = time.monotonic_ns() // 1000
        self.supervisor().reloading()
        message = self.systemd.recv(4096).decode()
        first, second, _ = message.split("\n")
        self.assertEqual(first, "RELOADING=1")
        name, _, value = second.partition("=")
        self.assertEqual(name, "MONOTONIC_USEC")
        self.assertTrue(before <= int(value) <= time.monotonic_ns() // 1000 + 1)

    def test_watchdog(self) -> None:
        """
        From the start until the stop there are two watchdog messages in each
        interval; a reload does not add any.
        """
        self.listen(self.address)
        supervisor = self.supervisor(WATCHDOG_USEC="30000000")
        self.clock.advance(60)
        self.assertEqual(self.heard(), [])
        supervisor.ready()
        supervisor.ready()
        self.heard()
        self.clock.pump([14.9])
        self.assertEqual(self.heard(), [])
        self.clock.pump([0.2, 15, 15])
        self.assertEqual(self.heard(), ["WATCHDOG=1"] * 3)
        supervisor.stopped()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_watchdogOfThisProcess(self) -> None:
        """
        An interval that is meant for another process is ignored.
        """
        self.listen(self.address)
        for pid, calls in ((os.getpid(), 1), (1, 0)):
            supervisor = self.supervisor(WATCHDOG_USEC="1000", WATCHDOG_PID=str(pid))
            supervisor.ready()
            self.assertEqual(len(self.clock.getDelayedCalls()), calls)
            supervisor.stopped()

    def test_noWatchdog(self) -> None:
        """
        An invalid interval is ignored.
        """
        self.listen(self.address)
        for text in ("", "0", "-1", "soon"):
            self.supervisor(WATCHDOG_USEC=text).ready()
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_abstract(self) -> None:
        """
        The address may be in the abstract namespace.
        """
        name = f"creditsync-test-{os.getpid()}"
        self.listen(f"\0{name}")
        Supervisor(self.clock, {"NOTIFY_SOCKET": f"@{name}"}).ready()
        self.assertEqual(self.heard(), ["READY=1"])

    def test_nobody(self) -> None:
        """
        Without systemd no messages are sent, and no timer runs.
        """
        supervisor = Supervisor(self.clock, {})
        supervisor.ready()
        supervisor.reloading()
        supervisor.stopping()
        supervisor.stopped()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_deaf(self) -> None:
        """
        If systemd can't be notified, there is a line in the log, and nothing
        else happens.
        """
        log = logTo(self)
        self.supervisor().ready()
        self.assertEqual(
            log,
            [
                (
                    "warn",
                    "systemd was not notified of READY=1: No such file or directory",
                )
            ],
        )

    def test_busy(self) -> None:
        """
        The server does not wait for a systemd that does not read.
        """
        self.listen(self.address)
        log = logTo(self)
        supervisor = self.supervisor()
        for _ in range(5000):
            supervisor.stopping()
        self.assertIn("systemd was not notified of STOPPING=1: ", log[0][1])
