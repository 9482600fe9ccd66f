"""
Tests for the command as a process: if its output can't be written, if its
locale lacks characters, and if signals end it. In every case its exit status
is the outcome of the operation.
"""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from processes import LISTEN, SECRET, SERVE, Server, Site
from twisted.trial.unittest import SynchronousTestCase

from creditsync.auth import mint

pytestmark = pytest.mark.timeout(120, method="thread")

COMMAND = [sys.executable, "-m", "creditsync"]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def fullPipe() -> Iterator[int]:
    """
    A pipe with an open reading end that is never read, already full.
    """
    reading, writing = os.pipe()
    flags = fcntl.fcntl(writing, fcntl.F_GETFL)
    fcntl.fcntl(writing, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    try:
        while True:
            os.write(writing, b"x" * 4096)
    except BlockingIOError:
        fcntl.fcntl(writing, fcntl.F_SETFL, flags)
    try:
        yield writing
    finally:
        os.close(reading)
        os.close(writing)


class CommandTestCase(SynchronousTestCase):
    """
    A test of the command beside a server.
    """

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.site = Site(Path(folder.name))
        self.addCleanup(self.site.killAll)
        self.server: Server = self.site.start(*SERVE, *LISTEN)
        self.environment = {
            **self.site.environment,
            "CREDITSYNC_CONNECT": f"127.0.0.1:{self.server.port}",
            "CREDITSYNC_TOKEN": mint(
                SECRET, id=7, role=1, expires=86400, now=time.time()
            ),
        }

    def begin(self, *arguments: str, **streams: Any) -> "subprocess.Popen[bytes]":
        """
        Start the command.
        """
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=self.site.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            **streams,
        )
        self.addCleanup(process.wait, 20)
        self.addCleanup(process.kill)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                self.addCleanup(stream.close)
        return process

    def end(self, *arguments: str, **streams: Any) -> tuple[int, bytes, bytes]:
        """
        Run the command, and return its status and its output.
        """
        process = self.begin(*arguments, **streams)
        out, errors = process.communicate(timeout=30)
        return process.returncode, out, errors


class OutputTests(CommandTestCase):
    """
    Tests for output that can't be written.
    """

    @pytest.mark.proof
    def test_fullDisk(self) -> None:
        """
        On a full disk a booking or a deletion still succeeds, with Python's
        buffer and without; a command that only reads fails.
        """
        for number, unbuffered in enumerate(("", "1"), 1):
            self.environment["PYTHONUNBUFFERED"] = unbuffered
            for status, arguments in [
                (0, ("credit-in", "1001", "300", "P")),
                (0, ("credit-in", "1001", "300", "P", "--json")),
                (0, ("delete", "credit", str(number))),
                (3, ("credit-out", "1001", "30000000", "P")),
                (1, ("show", "1")),
                (1, ("token", "--id=7")),
                (1, ("statement", "1001")),
                (1, ("export",)),
                (1, ("check",)),
                (1, ("check-config",)),
                (0, ("backup", f"copy{unbuffered}")),
                (0, ("account", "add", "1", "--ledger", f"other{unbuffered}")),
            ]:
                with open("/dev/full", "wb") as full:
                    ended, _, errors = self.end(*arguments, stdout=full)
                self.assertEqual((arguments, ended), (arguments, status), errors)
                self.assertNotIn(b"Traceback", errors)
        self.assertEqual(len(self.site.orders()), 4)

    def test_nowhere(self) -> None:
        """
        A booking succeeds and a look-up fails also if stderr is full too, if
        both are closed, or if the reader has gone.
        """
        credit = ("credit-in", "1001", "300", "P")
        with open("/dev/full", "wb") as full:
            self.assertEqual(self.end(*credit, stdout=full, stderr=full)[0], 0)
        shell = [*("sh", "-c", 'exec "$@" >&- 2>&-', "sh"), *COMMAND, *credit]
        closed = subprocess.run(
            shell, cwd=self.site.folder, env=self.environment, timeout=30, check=False
        )
        self.assertEqual(closed.returncode, 0)
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "wb") as unread:
            status, _, errors = self.end(*credit, stdout=unread)
        self.assertEqual(status, 0)
        self.assertIn(b"(Broken pipe): order 3  login 1001  credit-in 300.0", errors)
        self.assertEqual(len(self.site.orders()), 3)

    def test_help(self) -> None:
        """
        The help of a server ends quietly if nobody reads all of it, or its output is
        closed.
        """
        for command in ("serve", "sandbox", "check-config"):
            reading, writing = os.pipe()
            os.close(reading)
            with os.fdopen(writing, "wb") as unread:
                ended = self.end(command, "--help", stdout=unread)
            self.assertEqual((command, *ended), (command, 1, None, b""))
            shell = ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, command, "--help"]
            closed = subprocess.run(
                shell,
                cwd=self.site.folder,
                env=self.environment,
                stderr=subprocess.PIPE,
                timeout=30,
                check=False,
            )
            self.assertNotIn(b"Traceback", closed.stderr)

    def test_closedForTheServer(self) -> None:
        """
        Where all three are closed for the server, no file or socket of its own gets
        their numbers.
        """
        path = self.site.folder / "sock"
        serve = [*SERVE, "--ledger=closed.db", f"--listen=unix:{path}"]
        server = subprocess.Popen(
            ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *serve],
            cwd=self.site.folder,
            env=self.environment,
        )
        self.addCleanup(server.wait, 20)
        self.addCleanup(server.kill)
        deadline = time.monotonic() + 20
        while not path.exists():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)
        files = [os.readlink(f"/proc/{server.pid}/fd/{number}") for number in range(3)]
        self.assertEqual(files, [os.devnull] * 3)


class CharacterTests(CommandTestCase):
    """
    Tests for locales that lack characters.
    """

    COMMENT = "Łódź €"

    @pytest.mark.proof
    def test_escaped(self) -> None:
        """
        A character that can't be printed is escaped, and nothing fails for it.
        """
        self.environment["PYTHONIOENCODING"] = "latin-1"
        shown = b"\\u0141\xf3d\\u017a \\u20ac"
        watching = self.begin("watch")
        assert watching.stdout is not None
        # Its first health check has been answered once it prints a booking.
        while not self._isShown(watching, shown):
            pass
        for arguments in [
            ("show", "1"),
            ("delete", "credit", "1"),
            ("statement", "1001"),
            ("check", "--ledger", f"{self.COMMENT}.db"),
            ("credit-in", self.COMMENT, "1", "x"),
        ]:
            _, out, errors = self.end(*arguments)
            self.assertIn(shown, out + errors, arguments)
            self.assertNotIn(b"Traceback", errors)
        self.assertIn("Łódź €".encode(), self.end("export")[1])

    def _isShown(self, watching: "subprocess.Popen[bytes]", shown: bytes) -> bool:
        """
        Book a credit, and return whether the watcher has printed it.
        """
        status, out, _ = self.end("credit-in", "1001", "300", self.COMMENT)
        self.assertEqual(status, 0)
        self.assertIn(shown, out)
        assert watching.stdout is not None
        os.set_blocking(watching.stdout.fileno(), False)
        time.sleep(0.2)
        return shown in (watching.stdout.read() or b"")

    def test_bytes(self) -> None:
        """
        A comment that is not UTF-8 is refused by its name; one with characters
        that only the locale lacks is booked unchanged.
        """
        # Otherwise Python could read all of it.
        locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        self.environment.update(locale)
        credit = [os.fsencode(each) for each in (*COMMAND, "credit-in", "1001", "300")]
        for comment, status, said in [
            (b"caf\xe9", 2, b"argument COMMENT: must be UTF-8: caf\\xe9"),
            (self.COMMENT.encode(), 0, b"\\u0141\\xf3d\\u017a \\u20ac  booked"),
        ]:
            ended = subprocess.run(
                [*credit, comment],
                cwd=self.site.folder,
                env=self.environment,
                capture_output=True,
                timeout=30,
                check=False,
            )
            self.assertEqual(ended.returncode, status, ended.stderr)
            self.assertIn(said, ended.stdout + ended.stderr)
        self.assertEqual(self.site.orders(), {1: (30_000_000_000, "Łódź €")})


class SignalTests(CommandTestCase):
    """
    Tests for signals that end the command.
    """

    CREDIT = ("credit-in", "1001", "300", "P")

    def waitForOrders(self, count: int) -> None:
        """
        Wait until this many orders are booked.
        """
        deadline = time.monotonic() + 20
        while len(self.site.orders()) < count:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def test_afterTheAnswer(self) -> None:
        """
        An operation that is booked has succeeded, even if its reply is never
        printed.
        """
        for count, number in enumerate(SIGNALS, 1):
            with fullPipe() as pipe:
                process = self.begin(*self.CREDIT, stdout=pipe)
                self.waitForOrders(count)
                while process.poll() is None:
                    process.send_signal(number)
                    time.sleep(0.1)
            self.assertIn(process.returncode, (0, 4))
            if process.returncode == 4:
                # It was booked, and the reply was still on its way.
                assert process.stderr is not None
                self.assertIn(b"idempotencyKey", process.stderr.read())

    def test_inFlight(self) -> None:
        """
        A pending operation has an unknown outcome, however often the command
        is interrupted.
        """
        for number in SIGNALS:
            for times in (1, 2):
                with closing(self.site.holdLedger()):
                    client = self.server.connect()
                    self._waitForPending(client, 0)
                    process = self.begin(*self.CREDIT)
                    self._waitForPending(client, 1)
                    for _ in range(times):
                        process.send_signal(number)
                    self.assertEqual(process.wait(20), 4)
                # The server stops if a commit waits too long: let the one that was
                # held end before the ledger is held again.
                client.send("committed")
                self.assertEqual(next(client.replies())["status"], 200)
                client.close()

    def _waitForPending(self, client: Any, count: int) -> None:
        """
        Wait until the server has this many pending requests.
        """
        deadline = time.monotonic() + 20
        while True:
            client.send("health", command="HealthCheck", data={})
            if next(client.replies())["data"]["pending"] == count:
                return
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def test_beforeAnythingIsSent(self) -> None:
        """
        A command that is interrupted before it has sent anything has done
        nothing.
        """
        with socket.create_server(("127.0.0.1", 0)) as silent:
            where = f"127.0.0.1:{silent.getsockname()[1]}"
            for number in SIGNALS:
                process = self.begin(*self.CREDIT, "--connect", where)
                connection, _ = silent.accept()
                assert b"Unsubscribe" in connection.recv(65536)
                process.send_signal(number)
                self.assertEqual(process.wait(20), 130)
                connection.close()
        self.assertEqual(self.site.orders(), {})

    def test_ignored(self) -> None:
        """
        A signal that is ignored, as by nohup, stays ignored.
        """
        nohup = f'trap "" HUP; exec {" ".join(COMMAND)} watch --json'
        process = subprocess.Popen(
            ["sh", "-c", nohup],
            cwd=self.site.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        seen = b""
        while not seen:
            self.assertEqual(self.end(*self.CREDIT)[0], 0)
            time.sleep(0.2)
            seen = process.stdout.read() or b""
        self.assertEqual(json.loads(seen.splitlines()[0])["data"]["login"], 1001)
        process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        self.assertIsNone(process.poll())
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(20), 0)
        process.stdout.close()
