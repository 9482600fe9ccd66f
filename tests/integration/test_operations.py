"""
Tests for what operators do with a running server: certificates, signals,
systemd, logs.
"""

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from processes import (
    CONTAINER,
    LISTEN,
    SERVE,
    TWISTD,
    Client,
    Server,
    Site,
    inContainer,
)
from twisted.trial.unittest import SynchronousTestCase

from tests.certificates import Authority, Issued

# The work of systemd before it becomes the server: its sockets begin at 3.
ACTIVATE = """
import os, sys

os.dup2(int(sys.argv[1]), 3)
os.environ.update(
    LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="creditsync"
)
os.execv(sys.argv[2], sys.argv[2:])
"""


def waitUntil(isTrue: Callable[[], object]) -> None:
    """
    Wait until a condition is true.
    """
    deadline = time.monotonic() + 20
    while not isTrue():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class TLSClient(Client):
    """
    A client that speaks TLS.
    """

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        super().__init__(port)
        # This client treats an end without TLS's close_notify as an error.
        self.tls = context.wrap_socket(
            self.socket, server_hostname="localhost", suppress_ragged_eofs=False
        )
        self.socket = self.tls
        self.lines = self.tls.makefile("rb")

    def credit(self, extID: str) -> None:
        """
        Have one credit booked.
        """
        self.send(extID)
        reply = next(self.replies())
        assert (reply["extID"], reply["status"]) == (extID, 200), reply


class OperationsTestCase(SynchronousTestCase):
    """
    A test of a server process in a folder of its own.
    """

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.site = Site(Path(folder.name))
        self.addCleanup(self.site.killAll)

    def launch(self, *command: str) -> Server:
        """
        Start a server without waiting for it.
        """
        server = Server(self.site, list(command))
        self.site.started.append(server)
        return server

    def log(self, server: Server) -> str:
        """
        The log of the server.
        """
        return server.output.read_text() + server.errors.read_text()

    def waitForLine(self, server: Server, text: str, count: int = 1) -> None:
        """
        Wait until the log contains a text this many times.
        """
        waitUntil(lambda: self.log(server).count(text) >= count)

    def activate(self, listener: socket.socket, listen: str) -> Server:
        """
        Start a server with a listening socket that it inherits as from
        systemd.
        """
        number = listener.fileno()
        process = subprocess.Popen
        patch = self.patch(
            subprocess,
            "Popen",
            lambda *args, **kwargs: process(*args, pass_fds=[number], **kwargs),
        )
        activate = [sys.executable, "-c", ACTIVATE, str(number)]
        server = self.launch(*activate, *SERVE, "--listen", listen)
        patch.restore()
        if listener.family == socket.AF_INET:
            server.port = listener.getsockname()[1]
        return server

    def assertServes(self, server: Server, extID: str = "still") -> None:
        """
        Assert that the server books a credit.
        """
        client = server.connect()
        client.send(extID)
        assert next(client.replies())["status"] == 200
        client.close()


class TLSTests(OperationsTestCase):
    """
    Tests for the certificates of a running server.
    """

    def setUp(self) -> None:
        super().setUp()
        self.authority = Authority("authority")
        self.ca = self.site.folder / "ca.pem"
        self.ca.write_bytes(self.authority.issued.pem())
        self.pem = self.site.folder / "server.pem"
        self.authority.issue().write(self.pem)

    def serve(self, parameters: str = "", *options: str) -> Server:
        """
        Start a server that speaks TLS.
        """
        listen = f"ssl:0:interface=127.0.0.1:privateKey={self.pem}{parameters}"
        server = self.launch(*SERVE, "--listen", listen, *options)
        self.waitForLine(server, "LineFactory (TLS) starting on ")
        line = self.log(server).partition("(TLS) starting on ")[2]
        server.port = int(line.splitlines()[0].rstrip('"}'))
        return server

    def context(self, own: Issued | None = None) -> ssl.SSLContext:
        """
        A client's context that trusts the authority, with a certificate of its
        own if it has one.
        """
        context = ssl.create_default_context(cafile=str(self.ca))
        if own is not None:
            path = own.write(self.site.folder / "client.pem")
            context.load_cert_chain(path)
        return context

    def shownBy(self, server: Server) -> bytes | None:
        """
        The certificate that a new connection gets.
        """
        client = TLSClient(server.port, self.context())
        shown = client.tls.getpeercert(binary_form=True)
        client.close()
        return shown

    def renew(self, server: Server, issued: Issued) -> None:
        """
        Replace the certificate, and send the server a SIGHUP.
        """
        done = self.log(server).count("Reloaded.")
        draft = issued.write(self.site.folder / "draft.pem")
        draft.rename(self.pem)
        server.signal(signal.SIGHUP)
        self.waitForLine(server, "Reloaded.", done + 1)

    def test_expiresUnderLoad(self) -> None:
        """
        While credits are booked over TLS the certificate expires and is
        renewed several times: no connection ends, no credit is lost, and
        clients that connect after a renewal are accepted.
        """
        self.authority.issue().write(self.pem)
        server = self.serve()
        clients = [TLSClient(server.port, self.context()) for _ in range(4)]
        self.renew(server, self.authority.issue(seconds=1))
        stop, booked, faults = threading.Event(), [0] * len(clients), []

        def work(number: int) -> None:
            try:
                while not stop.is_set():
                    # Each client receives the events of all of them.
                    clients[number].credit(f"{number}-{booked[number]}")
                    booked[number] += 1
            except Exception as e:
                faults.append(e)

        workers = [
            threading.Thread(target=work, args=(number,))
            for number in range(len(clients))
        ]
        for worker in workers:
            worker.start()

        def hasExpired() -> bool:
            try:
                self.shownBy(server)
            except ssl.SSLCertVerificationError as e:
                assert "expired" in str(e)
                return True
            return False

        try:
            waitUntil(hasExpired)
            before = sum(booked)
            waitUntil(lambda: sum(booked) > before + 50)
            for _ in range(5):
                issued = self.authority.issue()
                self.renew(server, issued)
                shown = self.shownBy(server)
                assert shown == ssl.PEM_cert_to_DER_cert(issued.pem().decode())
            waitUntil(lambda: sum(booked) > before + 100)
        finally:
            stop.set()
            for worker in workers:
                worker.join(20)
        assert faults == []
        for client in clients:
            client.close()
        assert len(self.site.orders()) == sum(booked)
        assert "Traceback" not in self.log(server)

    def test_failedReload(self) -> None:
        """
        A certificate that can't be used leaves the old one in force, and the
        log has one line about it.
        """
        server = self.serve()
        client = TLSClient(server.port, self.context())
        shown = self.shownBy(server)
        self.pem.write_text("rubbish")
        server.signal(signal.SIGHUP)
        self.waitForLine(server, "Reloaded.")
        assert self.shownBy(server) == shown
        client.credit("a")
        client.close()
        sentence = (
            "The certificate was not renewed, the old one stays in use:"
            f" {self.pem} has no private key in PEM without passphrase"
        )
        assert self.log(server).count(sentence) == 1
        assert "Traceback" not in self.log(server)

    def test_mutual(self) -> None:
        """
        With an authority for clients, those without its certificate are
        refused before they can send anything, and the others are served.
        """
        server = self.serve(f":clientCA={self.ca}")
        friend = TLSClient(server.port, self.context(self.authority.issue("client")))
        friend.credit("a")
        friend.close()
        for own in (None, Authority("authority").issue("client")):
            # In TLS 1.3 a client learns of it only when it reads.
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                stranger = TLSClient(server.port, self.context(own))
                stranger.send("b")
                assert list(stranger.messages()) == []
        assert len(self.site.orders()) == 1

    def test_noHandshake(self) -> None:
        """
        A connection without a TLS handshake counts as one, and is closed after
        the time for a line; so is one that stops in the middle of the
        handshake. After it a client may be silent for longer.
        """
        server = self.serve("", "--line-timeout=1", "--max-connections=3")
        quiet = TLSClient(server.port, self.context())
        silent = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        begun = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        begun.sendall(b"\x16\x03\x01\x02\x00\x01")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            TLSClient(server.port, self.context())
        for connection in (silent, begun):
            with connection, contextlib.suppress(ConnectionError):
                assert connection.recv(100) == b""
        waitUntil(lambda: self.isServing(server))
        quiet.credit("quiet")
        quiet.close()

    def isServing(self, server: Server) -> bool:
        """
        Whether the server accepts one more client.
        """
        try:
            client = TLSClient(server.port, self.context())
        except (ssl.SSLError, ConnectionError):
            return False
        client.credit("a")
        client.close()
        return True

    def test_noCertificate(self) -> None:
        """
        A certificate file that can't be used is an error of the command line.
        """
        ended = self.site.run(
            *SERVE, "--listen=ssl:0:privateKey=nowhere.pem", "--ledger=x.db"
        )
        assert ended.returncode == 2
        assert ended.stderr == (
            "creditsync serve: --listen ssl:0:privateKey=nowhere.pem is not a valid"
            f" endpoint: {self.site.folder}/nowhere.pem can't be read (No such file or"
            " directory)\n"
        )

    def test_tlsFolder(self) -> None:
        """
        Twisted's own C{tls:} works too, with its folder of certificates.
        """
        folder = self.site.folder / "certificates"
        folder.mkdir()
        self.authority.issue().write(folder / "localhost.pem")
        server = self.launch(*SERVE, f"--listen=tls:{folder}:0:interface=127.0.0.1")
        self.waitForLine(server, "(TLS) starting on ")
        line = self.log(server).partition("(TLS) starting on ")[2]
        client = TLSClient(int(line.splitlines()[0]), self.context())
        client.credit("a")
        client.close()


class SignalTests(OperationsTestCase):
    """
    Tests for SIGHUP.
    """

    def test_everythingIsReadAgain(self) -> None:
        """
        On SIGHUP the server keeps running, the audit trail continues in a new
        file, and a token that was revoked meanwhile is refused.
        """
        revoked = self.site.folder / "revoked"
        revoked.touch()
        audit = self.site.folder / "audit"
        server = self.site.start(
            *SERVE, *LISTEN, "--revoked", str(revoked), "--audit", str(audit)
        )
        client = server.connect()
        client.send("a")
        assert next(client.replies())["status"] == 200
        moved = audit.rename(f"{audit}.1")
        server.signal(signal.SIGHUP)
        self.waitForLine(server, "Reloaded.")
        client.send("b")
        assert next(client.replies())["status"] == 200
        for path, extID in ((moved, "a"), (audit, "b")):
            # The trail is written after the reply.
            waitUntil(path.read_text)
            [line] = [json.loads(line) for line in path.read_text().splitlines()]
            assert (line["outcome"], line["extID"]) == ("booked", extID)
        client.close()
        assert server.process.poll() is None

    @inContainer
    def test_fullDisk(self) -> None:
        """
        A full disk under the audit trail affects neither bookings nor replies,
        and is logged once.
        """
        folder = self.site.folder / "full"
        folder.mkdir()
        fill = (
            'mount -t tmpfs -o size=4k tmpfs "$0" && head -c 4096 /dev/zero >"$0/fill"'
            ' && exec "$@"'
        )
        server = self.site.start(
            *CONTAINER,
            *("sh", "-c", fill, str(folder)),
            *(*SERVE, *LISTEN, f"--audit={folder}/audit"),
        )
        for extID in ("a", "b", "c"):
            self.assertServes(server, extID)
        assert len(self.site.orders()) == 3
        waitUntil(lambda: "can't be written" in self.log(server))
        assert self.log(server).count("can't be written") == 1
        assert "No space left on device" in self.log(server)
        assert "Traceback" not in self.log(server)


class SystemdTests(OperationsTestCase):
    """
    Tests for the server as a unit of systemd.
    """

    def setUp(self) -> None:
        super().setUp()
        address = str(self.site.folder / "notify")
        self.systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.systemd.close)
        self.systemd.bind(address)
        self.systemd.settimeout(20)
        self.site.environment["NOTIFY_SOCKET"] = address

    def told(self) -> str:
        """
        The first line of the next message.
        """
        return self.systemd.recv(4096).decode().partition("\n")[0]

    def assertBecomesReady(self) -> None:
        """
        Assert that a server reports its start and then that it is ready.
        """
        assert self.told() == "STATUS=Starting: opening the ledger."
        assert self.told() == "READY=1"

    def messages(self) -> Iterator[str]:
        """
        The messages received so far.
        """
        self.systemd.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            while True:
                yield self.told()

    def test_life(self) -> None:
        """
        The server reports that it is ready once it replies, and reports its
        reload and its stop.
        """
        server = self.launch(*SERVE, *LISTEN)
        self.assertBecomesReady()
        server.waitForPort()
        server.signal(signal.SIGHUP)
        assert [self.told(), self.told()] == ["RELOADING=1", "READY=1"]
        server.signal(signal.SIGTERM)
        assert self.told() == "STOPPING=1"
        assert server.end() == -signal.SIGTERM

    def test_notReady(self) -> None:
        """
        A server that can't start never reports that it is ready.
        """
        port = self.site.start(*SERVE, *LISTEN, "--ledger=other.db").port
        self.assertBecomesReady()
        ended = self.site.run(*SERVE, f"--listen=tcp:{port}:interface=127.0.0.1")
        assert ended.returncode == 1
        assert list(self.messages()) == []

    def test_watchdog(self) -> None:
        """
        The watchdog is notified while the reactor runs, and not when it hangs.
        """
        self.site.environment["WATCHDOG_USEC"] = "200000"
        server = self.launch(*SERVE, *LISTEN)
        self.assertBecomesReady()
        assert [self.told(), self.told(), self.told()] == ["WATCHDOG=1"] * 3
        server.signal(signal.SIGSTOP)
        assert len(list(self.messages())) < 3
        assert list(self.messages()) == []
        server.signal(signal.SIGCONT)
        self.systemd.settimeout(20)
        assert self.told() == "WATCHDOG=1"

    def test_socket(self) -> None:
        """
        A socket that systemd has opened is served, including clients that
        connected before the server was started.
        """
        with socket.create_server(("127.0.0.1", 0)) as listener:
            early = Client(listener.getsockname()[1])
            early.send("a")
            self.activate(listener, "systemd:domain=INET:name=creditsync")
            reply = next(early.replies())
            assert (reply["extID"], reply["status"]) == ("a", 200)
            early.close()

    def test_socketByTLS(self) -> None:
        """
        TLS works on a socket from systemd too.
        """
        authority = Authority("authority")
        ca, pem = self.site.folder / "ca.pem", self.site.folder / "server.pem"
        ca.write_bytes(authority.issued.pem())
        authority.issue().write(pem)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = self.activate(
                listener, f"ssl:systemd:domain=INET:index=0:privateKey={pem}"
            )
            context = ssl.create_default_context(cafile=str(ca))
            client = TLSClient(server.port, context)
            client.credit("a")
            client.close()


class LogTests(OperationsTestCase):
    """
    Tests for the log as JSON.
    """

    def assertJSON(self, server: Server) -> None:
        """
        Assert that the whole log is JSON, from the first line to the last.
        """
        server.waitForPort()
        server.signal(signal.SIGTERM)
        server.end()
        lines = [json.loads(line) for line in self.log(server).splitlines()]
        texts = [line["text"] for line in lines]
        assert any("starting on " in text for text in texts)
        assert texts[-1] == "Server Shut Down."
        assert {"time", "level", "namespace", "text"} <= set(lines[0])

    def test_serve(self) -> None:
        """
        C{creditsync serve --log-json}, and the same in a configuration file,
        write only JSON.
        """
        self.assertJSON(self.launch(*SERVE, *LISTEN, "--log-json"))
        (self.site.folder / "c.toml").write_text(
            'log-json = true\nlisten = ["tcp:0:interface=127.0.0.1"]'
        )
        self.assertJSON(self.launch(*SERVE, "--config=c.toml"))

    def test_twistd(self) -> None:
        """
        C{twistd --logger}, and the option of the plugin, write only JSON.
        """
        start = [*TWISTD, "--nodaemon", "--pidfile="]
        logger = "--logger=creditsync.logs.json"
        self.assertJSON(self.launch(*start, logger, "creditsync", *LISTEN))
        self.assertJSON(self.launch(*start, "creditsync", "--log-json", *LISTEN))


class SentenceTests(OperationsTestCase):
    """
    Tests for the messages about mistakes.
    """

    def test_unixFolder(self) -> None:
        """
        A UNIX socket in a missing folder is reported.
        """
        ended = self.site.run(*SERVE, "--listen=unix:/nowhere/sock")
        assert ended.returncode == 2
        assert ended.stderr == (
            "creditsync serve: --listen unix:/nowhere/sock is not a valid"
            " endpoint: the folder /nowhere is not there\n"
        )

    def test_audit(self) -> None:
        """
        An audit trail that can't be written keeps the server from starting.
        """
        ended = self.site.run(*SERVE, *LISTEN, "--audit=/nowhere/audit")
        assert ended.returncode == 2
        assert ended.stderr == (
            "creditsync serve: --audit: the folder /nowhere does not exist\n"
        )

    def test_auditKind(self) -> None:
        """
        A file that can't be an audit trail is reported by its type, and the
        start does not wait for it.
        """
        os.mkfifo(self.site.folder / "pipe")
        for path, kind in (
            (f"{self.site.folder}/pipe", "a pipe"),
            ("/dev/null", "a device"),
            ("/dev/stdout", "a pipe"),
            (str(self.site.folder), "a folder"),
        ):
            ended = self.site.run(*SERVE, *LISTEN, f"--audit={path}")
            assert ended.returncode == 2
            assert ended.stderr == (
                f"creditsync serve: --audit: {path} is {kind}, and the trail needs a"
                " regular file\n"
            )
