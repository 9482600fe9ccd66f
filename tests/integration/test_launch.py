"""
The server as a process: its start, its end, and what is left of it.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from processes import FOREGROUND, LISTEN, SERVE, TWISTD, Completed, Server, Site
from twisted.trial.unittest import SynchronousTestCase

# A server whose wall clock goes forward by an hour at the first byte on stdin.
STEPPING = """
import sys, threading, time

real, steps = time.time, []
time.time = lambda: real() + sum(steps)

def wait():
    sys.stdin.read(1)
    steps.append(3600)

threading.Thread(target=wait, daemon=True).start()

from creditsync.__main__ import main
main()
"""


class ProcessTestCase(SynchronousTestCase):
    """
    A test of real processes in a folder of its own.
    """

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.site = Site(Path(folder.name))
        self.addCleanup(self.site.killAll)

    def waitUntil(self, isTrue: Callable[[], bool]) -> None:
        """
        Wait for something to become true.
        """
        deadline = time.monotonic() + 20
        while not isTrue():
            assert time.monotonic() < deadline
            time.sleep(0.02)


class _Face:
    """
    What holds for each command that starts the server.
    """

    command: list[str]
    site: Site

    def assertCannotStart(self, ended: Completed, sentence: str) -> None:
        """
        The process ended with a status and told why, once and in one sentence:
        C{creditsync} on stderr, and C{twistd} in its log, which is stdout.
        """
        assert ended.returncode == 1
        assert (ended.stdout + ended.stderr).count(sentence) == 1
        assert ended.stderr in ("", f"creditsync serve: {sentence}\n")
        assert "Traceback" not in ended.stdout

    def test_booksACredit(self) -> None:
        """
        A credit comes back as its event and then as its reply, and is in the
        ledger.
        """
        server = self.site.start(*self.command, *LISTEN)
        client = server.connect()
        client.send("credit-req-1001")
        messages = client.messages()
        event, reply = next(messages), next(messages)
        assert event["event"] == "trade:event"
        assert event["type"] == 0
        assert reply == {
            "extID": "credit-req-1001",
            "status": 200,
            "data": event["data"],
        }
        assert reply["data"]["profit"] == 300.0
        assert self.site.orders() == {
            reply["data"]["order"]: (30_000_000_000, "for credit-req-1001")
        }
        client.close()
        server.signal(signal.SIGTERM)
        assert server.end() == -signal.SIGTERM
        assert "Traceback" not in server.output.read_text()
        assert server.errors.read_text() == ""

    def test_takenPort(self) -> None:
        """
        A taken port ends the start with one sentence and a status.
        """
        port = self.site.start(*SERVE, *LISTEN).port
        second = self.site.run(
            *self.command,
            f"--listen=tcp:{port}:interface=127.0.0.1",
            "--ledger=other.db",
        )
        self.assertCannotStart(
            second,
            f"Couldn't listen on 127.0.0.1:{port}: [Errno 98] Address already in use.",
        )
        assert not (self.site.folder / "other.db").exists()

    def test_ledgerInUse(self) -> None:
        """
        A ledger that another server has open does so too.
        """
        first = self.site.start(*SERVE, *LISTEN)
        second = self.site.run(*self.command, *LISTEN)
        self.assertCannotStart(
            second,
            f"process {first.process.pid} has the ledger {self.site.ledger} open:"
            " stop it first, or name another ledger",
        )


class ServeTests(_Face, ProcessTestCase):
    """
    C{creditsync serve}.
    """

    command = SERVE


class TwistdTests(_Face, ProcessTestCase):
    """
    C{twistd --nodaemon --pidfile= creditsync}.
    """

    command = FOREGROUND


class CommandTests(ProcessTestCase):
    """
    The commands for people beside the server.
    """

    def test_firstStart(self) -> None:
        """
        Without a key the first start makes one, and C{creditsync token} mints a
        token with it that the server takes.
        """
        (self.site.folder / "creditsync.key").unlink()
        server = self.site.start(*SERVE, *LISTEN)
        minted = self.site.run(sys.executable, "-m", "creditsync", "token", "--id", "9")
        client = server.connect()
        client.token = minted.stdout.strip()
        client.send("first")
        assert next(client.replies())["status"] == 200
        client.close()

    def test_accountsOfAnOpenLedger(self) -> None:
        """
        No accounts are added to a ledger that a server has open.
        """
        first = self.site.start(*SERVE, *LISTEN)
        added = self.site.run(sys.executable, "-m", "creditsync", "account", "add", "1")
        assert added.returncode == 1
        assert added.stderr == (
            f"creditsync account add: process {first.process.pid} has the ledger"
            f" {self.site.ledger} open: stop it first, or name another ledger\n"
        )


class DaemonTests(ProcessTestCase):
    """
    The server as a daemon.
    """

    def test_daemon(self) -> None:
        """
        As a daemon the server opens its ledger after the fork, and stops by its
        pid file.
        """
        sock = self.site.folder / "sock"
        started = self.site.run(*TWISTD, "creditsync", f"--listen=unix:{sock}")
        assert (started.returncode, started.stderr) == (0, "")
        pidfile = self.site.folder / "twistd.pid"
        pid = int(pidfile.read_text())
        try:
            lock = Path(f"{self.site.ledger}.lock")
            self.waitUntil(lambda: lock.exists() and lock.read_text() == f"{pid}\n")
            # A signal that comes before the reactor runs would end it at once.
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(20)
                client.connect(str(sock))
                client.sendall(b"{}\n")
                self.assertIn(b"INVALID_DATA", client.recv(1000))
        finally:
            os.kill(pid, signal.SIGTERM)
        self.waitUntil(lambda: not pidfile.exists())

    def test_daemonCannotStart(self) -> None:
        """
        What waits for a daemon's start hears that it failed; the log has the
        whole sentence; no pid file is left.
        """
        first = self.site.start(*SERVE, *LISTEN)
        second = self.site.run(*TWISTD, "creditsync", *LISTEN)
        assert second.returncode == 1
        sentence = f"process {first.process.pid} has the ledger "
        assert sentence in second.stderr
        assert "Traceback" not in second.stderr
        # The daemon tells it first and writes its log then.
        self.waitUntil(
            lambda: sentence in (self.site.folder / "twistd.log").read_text()
        )
        assert not (self.site.folder / "twistd.pid").exists()


class SlowStartTests(ProcessTestCase):
    """
    A server whose ledger takes long to open, because another program has it
    locked.
    """

    def setUp(self) -> None:
        super().setUp()
        server = self.site.start(*SERVE, *LISTEN)
        server.signal(signal.SIGTERM)
        server.end()
        self.lock = self.site.holdLedger()
        self.addCleanup(self.lock.close)
        self.web = self.site.folder / "web"

    def starts(self) -> Server:
        """
        Start a server that has begun to open its ledger.
        """
        server = Server(self.site, [*SERVE, *LISTEN, f"--web=unix:{self.web}"])
        self.site.started.append(server)
        # The file of the lock names its owner.
        pid = f"{server.process.pid}\n"
        lock = Path(f"{self.site.ledger}.lock")
        self.waitUntil(lambda: lock.read_text() == pid and server.hasPort())
        # The reactor runs, so that a signal stops it in order.
        assert " 200 " in self.get("health")
        return server

    def get(self, page: str) -> str:
        """
        The answer of the site.
        """
        with socket.socket(socket.AF_UNIX) as browser:
            browser.settimeout(20)
            browser.connect(str(self.web))
            browser.sendall(f"GET /{page} HTTP/1.0\r\n\r\n".encode())
            with browser.makefile("rb") as answer:
                return answer.read().decode()

    def test_answersLate(self) -> None:
        """
        Meanwhile it accepts connections, whose requests it answers when the
        ledger is open, and its site tells what it does.
        """
        server = self.starts()
        client = server.connect()
        client.send("a", "b", command="HealthCheck", data={})
        client.send("credit")
        assert " 200 " in self.get("health")
        assert "creditsync_sessions{" in self.get("metrics")
        ready = self.get("ready")
        assert " 503 " in ready
        assert "the server is starting" in ready
        client.socket.settimeout(0.2)
        with self.assertRaises(TimeoutError):
            client.socket.recv(1)
        client.socket.settimeout(20)
        self.lock.close()
        replies = client.replies()
        got = [next(replies)["extID"] for _ in range(3)]
        assert got == ["a", "b", "credit"]
        assert " 200 " in self.get("ready")
        client.close()

    def test_stop(self) -> None:
        """
        SIGTERM refuses the requests that wait, and stops the server in order. A
        second one ends it at once.
        """
        server = self.starts()
        client = server.connect()
        client.send("a", "b")
        assert " 503 " in self.get("ready")
        server.signal(signal.SIGTERM)
        got = [(each["extID"], each["error"]) for each in client.replies()]
        assert got == [("a", "SHUTDOWN"), ("b", "SHUTDOWN")]
        client.close()
        # SQLite still waits for the lock.
        with self.assertRaises(subprocess.TimeoutExpired):
            server.end(0.5)
        server.signal(signal.SIGTERM)
        assert server.end(5) == -signal.SIGTERM
        assert "Traceback" not in server.output.read_text()

    def test_stopInOrder(self) -> None:
        """
        Without a second signal it ends when SQLite has returned, and nothing is
        left of it.
        """
        server = self.starts()
        server.signal(signal.SIGTERM)
        self.waitUntil(lambda: "Received SIGTERM" in server.output.read_text())
        self.lock.close()
        assert server.end() == -signal.SIGTERM
        assert "Traceback" not in server.output.read_text()
        assert Path(f"{self.site.ledger}.lock").read_text() == ""
        assert self.site.orders() == {}

    def test_damaged(self) -> None:
        """
        A ledger that is found to be wrong ends the server with its sentence and
        a status. What was sent is refused.
        """
        self.lock.execute("INSERT INTO account VALUES (1001, 0, 5, '')")
        server = self.starts()
        client = server.connect()
        client.send("a")
        self.lock.execute("COMMIT")
        got = [(each["extID"], each["error"]) for each in client.replies()]
        assert got == [("a", "SHUTDOWN")]
        client.close()
        assert server.end() == 1
        output = server.output.read_text()
        assert output.count("account 1001 of the ledger") == 1
        assert "Traceback" not in output


class StopTests(ProcessTestCase):
    """
    The end that somebody asks for.
    """

    def assertBooked(self, replies: list[dict[str, Any]]) -> None:
        """
        The ledger has what these replies say, no more and no less.
        """
        assert {reply["status"] for reply in replies} <= {200, 503}
        told = {
            reply["data"]["order"]: (30_000_000_000, f"for {reply['extID']}")
            for reply in replies
            if reply["status"] == 200
        }
        assert self.site.orders() == told

    def test_stopAnswersEverybody(self) -> None:
        """
        After SIGTERM each request that the server had read has one reply, and what
        was answered by 200 is in the ledger.
        """
        server = self.site.start(*SERVE, *LISTEN)
        client = server.connect()
        # What one read of a socket takes in.
        extIDs = [f"r{n}" for n in range(150)]
        client.send(*extIDs)
        replies = client.replies()
        got = [next(replies)]
        server.signal(signal.SIGTERM)
        got.extend(replies)
        client.close()
        assert server.end() == -signal.SIGTERM
        assert sorted(reply["extID"] for reply in got) == sorted(extIDs)
        self.assertBooked(got)

    def test_stopUnderLoad(self) -> None:
        """
        After SIGTERM nothing is in the ledger that its sender was not told of,
        and nobody is answered twice.
        """
        server = self.site.start(*SERVE, *LISTEN)
        client = server.connect()
        client.send(*(f"r{n}" for n in range(900)))
        replies = client.replies()
        got = [next(replies)]
        server.signal(signal.SIGTERM)
        got.extend(replies)
        client.close()
        assert server.end() == -signal.SIGTERM
        assert len({reply["extID"] for reply in got}) == len(got)
        self.assertBooked(got)

    def test_secondSignal(self) -> None:
        """
        While the stop waits for a commit, a second SIGTERM ends the process at
        once.
        """
        server = self.site.start(*SERVE, *LISTEN)
        client = server.connect()
        with closing(self.site.holdLedger()):
            client.sendUntilTaken("held")
            server.signal(signal.SIGTERM)
            with self.assertRaises(subprocess.TimeoutExpired):
                server.end(1)
            server.signal(signal.SIGTERM)
            assert server.end(1) == -signal.SIGTERM
        client.close()


class FaultTests(ProcessTestCase):
    """
    The end that nobody asks for, and a clock that lies.
    """

    def test_killUnderLoad(self) -> None:
        """
        After kill -9 every credit that was answered by 200 is in the ledger,
        none is there twice, and the next start goes on from there.
        """
        server = self.site.start(*SERVE, *LISTEN)
        client = server.connect()
        # No more than a session may have in flight.
        client.send(*(f"a{n}" for n in range(900)))
        got = {}
        for reply in client.replies():
            got[reply["data"]["order"]] = reply["extID"]
            if len(got) == 300:
                client.send(*(f"b{n}" for n in range(250)))
            if len(got) == 500:
                server.signal(signal.SIGKILL)
        assert server.end() == -signal.SIGKILL
        assert len(got) >= 500

        again = self.site.start(*SERVE, *LISTEN)
        after = again.connect()
        after.send("after")
        reply = next(after.replies())
        after.close()
        orders = self.site.orders()
        for order, extID in got.items():
            assert orders[order] == (30_000_000_000, f"for {extID}")
        comments = [comment for _, comment in orders.values()]
        assert len(comments) == len(set(comments))
        assert reply["status"] == 200
        assert reply["data"]["order"] not in got

    def test_clockStep(self) -> None:
        """
        A step of the wall clock by an hour moves no timeout.
        """
        server = self.site.start(sys.executable, "-c", STEPPING, *LISTEN, "--timeout=2")
        client = server.connect()
        with closing(self.site.holdLedger()):
            sent = time.monotonic()
            client.sendUntilTaken("held")
            server.step()
            reply = next(client.replies())
            waited = time.monotonic() - sent
        assert reply["status"] == 504
        assert reply["error"] == "SYNC_TIMEOUT"
        assert 1.9 < waited < 4
        client.close()

    def test_ledgerFails(self) -> None:
        """
        When a commit fails the outcome is unknown: who waits is told so, and the
        process ends by itself with a status and a line in its log.
        """
        server = self.site.start(*SERVE, *LISTEN, "--timeout=30")
        client = server.connect()
        self.site.spoilLedger()
        client.send("spoilt")
        reply = next(client.replies())
        assert server.end() == 1
        assert reply["status"] == 504
        assert "the trading runtime has failed" in server.output.read_text().lower()
        client.close()
