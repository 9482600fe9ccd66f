"""
Tests for the example client for Node.js, C{docs/examples/client.js}, with the
real server: wherever the connection is cut, a credit is booked once.
"""

import contextlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, TypeAlias
from unittest import skipUnless

import pytest
from processes import CHECKOUT, LISTEN, SECRET, SERVE, Completed, Server, Site
from twisted.trial.unittest import SynchronousTestCase

from creditsync.auth import mint

pytestmark = pytest.mark.proof

CLIENT = CHECKOUT / "docs" / "examples" / "client.js"
NODE = shutil.which("node")

# Ways in which a proxy cuts the connection between a client and a server.
Cut: TypeAlias = Callable[[socket.socket, socket.socket], None]


def passOn(client: socket.socket, server: socket.socket) -> None:
    """
    Cut nothing.
    """

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    back = Thread(target=pump, args=(server, client), daemon=True)
    back.start()
    pump(client, server)
    back.join()


def beforeTheRequest(client: socket.socket, server: socket.socket) -> None:
    """
    The request does not reach the server.
    """
    line(client)


def insideTheRequest(client: socket.socket, server: socket.socket) -> None:
    """
    Half of the request reaches the server.
    """
    request = line(client)
    server.sendall(request[: len(request) // 2])


def afterTheRequest(client: socket.socket, server: socket.socket) -> None:
    """
    The request reaches the server, which books it, and the client is gone.
    """
    server.sendall(line(client))


def afterTheReply(client: socket.socket, server: socket.socket) -> None:
    """
    The server has replied, and the reply does not reach the client.
    """
    server.sendall(line(client))
    reply(server)


def insideTheReply(client: socket.socket, server: socket.socket) -> None:
    """
    Half of the reply reaches the client.
    """
    server.sendall(line(client))
    answer = reply(server)
    client.sendall(answer[: len(answer) // 2])


def line(source: socket.socket) -> bytes:
    """
    One whole line.
    """
    data = b""
    while not data.endswith(b"\n"):
        received = source.recv(65536)
        assert received
        data += received
    return data


def reply(source: socket.socket) -> bytes:
    """
    Lines up to the first reply.
    """
    data = line(source)
    while b'"status":' not in data:
        data += line(source)
    return data


class Proxy:
    """
    A proxy that cuts its connections in the given ways, one after the other,
    and then accepts no more.
    """

    def __init__(self, port: int, cuts: Sequence[Cut]) -> None:
        self._server = "127.0.0.1", port
        self._cuts = list(cuts)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._listener:
            while self._cuts:
                client, _ = self._listener.accept()
                with client, socket.create_connection(self._server, 20) as server:
                    client.settimeout(20)
                    self._cuts.pop(0)(client, server)

    def left(self) -> list[Cut]:
        """
        The cuts that are left to do.
        """
        self._thread.join(20)
        return self._cuts


class Script:
    """
    A server that answers each request with the next of these replies, and
    closes the connection for L{None}.

    @ivar requests: The requests and their times.
    """

    def __init__(self, *replies: dict[str, Any] | None) -> None:
        self._replies = list(replies)
        self.requests: list[tuple[float, dict[str, Any]]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with self._listener:
            while self._replies:
                client, _ = self._listener.accept()
                with client, contextlib.suppress(AssertionError):
                    self._converse(client)

    def _converse(self, client: socket.socket) -> None:
        client.settimeout(20)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while self._replies:
            request = json.loads(line(client))
            self.requests.append((time.monotonic(), request))
            answer = self._replies.pop(0)
            if answer is None:
                return
            said = json.dumps({"extID": request["extID"], **answer}).encode()
            client.sendall(said[:20])
            # Long enough for the client to see it in two pieces.
            time.sleep(0.05)
            client.sendall(said[20:] + b"\r\n")


@skipUnless(NODE, "there is no node on PATH")
class NodeClientTests(SynchronousTestCase):
    """
    Tests for C{node client.js}.
    """

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.site = Site(Path(folder.name))
        self.addCleanup(self.site.killAll)
        self.token = mint(SECRET, id=7, role=1, expires=86400, now=time.time())

    def serve(self, *options: str) -> Server:
        """
        Start the real server.
        """
        return self.site.start(*SERVE, *LISTEN, *options)

    def command(self, port: int, amount: str, key: str = "bonus-1") -> list[str]:
        """
        The command line for a credit to account 1001.
        """
        assert NODE is not None
        return [
            *(NODE, str(CLIENT), f"127.0.0.1:{port}", self.token),
            *("1001", amount, "It's a crédit", key),
        ]

    def credit(self, port: int, amount: str = "300.5") -> Completed:
        """
        Run the client to its end.
        """
        return self.site.run(*self.command(port, amount))

    def assertBookedOnce(self, ended: Completed) -> None:
        """
        Assert that the client has printed the one trade in the ledger.
        """
        assert (ended.returncode, ended.stderr) == (0, "")
        trade = json.loads(ended.stdout)
        assert trade["profit"] == 300.5
        assert trade["comment"] == "It's a crédit"
        assert self.site.orders() == {trade["order"]: (30_050_000_000, "It's a crédit")}

    def test_booksACredit(self) -> None:
        """
        The client prints the trade that was booked.
        """
        self.assertBookedOnce(self.credit(self.serve().port))

    def test_cuts(self) -> None:
        """
        A connection that is cut, wherever and however often, neither loses the
        credit nor books it twice.
        """
        cuts = [
            *(beforeTheRequest, insideTheRequest, afterTheRequest),
            *(afterTheReply, insideTheReply, passOn),
        ]
        proxy = Proxy(self.serve().port, cuts)
        self.assertBookedOnce(self.credit(proxy.port))
        assert proxy.left() == []

    def test_restart(self) -> None:
        """
        If the server is killed after it has booked, and restarted, the client
        prints the same trade.
        """
        server = self.serve()
        first = self.credit(server.port)
        server.process.kill()
        server.end()
        again = self.serve()
        second = self.credit(again.port)
        self.assertBookedOnce(first)
        assert second.stdout == first.stdout

    def test_outcomeUnknownAtFirst(self) -> None:
        """
        After a 504 the client repeats the request under its key until it knows
        the outcome.
        """
        server = self.serve("--timeout=0.2")
        assert NODE is not None
        with contextlib.closing(self.site.holdLedger()):
            client = subprocess.Popen(
                self.command(server.port, "300.5"),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            time.sleep(1)
            assert client.poll() is None
        output, complaints = client.communicate(timeout=20)
        ended = subprocess.CompletedProcess([], client.returncode, output, complaints)
        self.assertBookedOnce(ended)

    def test_refused(self) -> None:
        """
        A refusal ends the client with status 1 and the server's message.
        """
        ended = self.credit(self.serve().port, "0")
        assert (ended.returncode, ended.stdout, ended.stderr) == (
            *(1, ""),
            "400 INVALID_DATA: data.amount must be greater than 0\n",
        )
        assert self.site.orders() == {}

    def test_tooManyDigits(self) -> None:
        """
        An amount that a double can't represent exactly is not sent.
        """
        ended = self.credit(self.serve().port, "9999999999.12345678")
        assert (ended.returncode, ended.stderr) == (1, "AMOUNT has over 15 digits\n")
        assert self.site.orders() == {}

    def test_triesAreTheSame(self) -> None:
        """
        Each try has an C{extID} of its own, and is otherwise the same; none
        comes sooner than C{retryAfter}.
        """
        busy = {"status": 503, "error": "BUSY", "message": "busy"}
        script = Script(
            {**busy, "data": {"retry_after_ms": 700}},
            {"status": 429, "error": "TOO_MANY_REQUESTS", "message": "many"},
            None,
            {"status": 504, "error": "SYNC_TIMEOUT", "message": "unknown"},
            {"status": 200, "data": {"order": 5}},
        )
        ended = self.credit(script.port)
        assert (ended.returncode, ended.stdout) == (0, '{"order":5}\n')
        requests = [request for _, request in script.requests]
        extIDs = {request.pop("extID") for request in requests}
        assert len(extIDs) == 5
        assert requests == 5 * [
            {
                "command": "CreditInSync",
                "idempotencyKey": "bonus-1",
                "data": {"login": 1001, "amount": 300.5, "comment": "It's a crédit"},
                "__token": self.token,
            }
        ]
        times = [when for when, _ in script.requests]
        assert times[1] - times[0] >= 0.69

    def test_refusalAfterSilence(self) -> None:
        """
        A refusal that leaves the earlier tries open leaves the outcome
        unknown: status 2, and the key to continue with.
        """
        script = Script(
            None, {"status": 401, "error": "UNAUTHORIZED", "message": "expired"}
        )
        ended = self.credit(script.port)
        assert (ended.returncode, ended.stderr) == (
            *(2, "unknown, KEY bonus-1: 401 UNAUTHORIZED: expired\n"),
        )

    def test_refusalThatEndsAll(self) -> None:
        """
        A refusal that comes after the look-up of the key settles the earlier
        tries too.
        """
        script = Script(
            None, {"status": 409, "error": "TRADE_NO_MONEY", "message": "poor"}
        )
        ended = self.credit(script.port)
        assert (ended.returncode, ended.stderr) == (1, "409 TRADE_NO_MONEY: poor\n")

    def test_manyAtOnce(self) -> None:
        """
        One client can have many requests in flight on one connection, and each
        gets its own trade.
        """
        assert NODE is not None
        ended = self.site.run(
            *(NODE, "-e", MANY, str(CLIENT)),
            *(str(self.serve().port), self.token),
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        assert json.loads(ended.stdout) == [f"n{n}" for n in range(500)]
        assert len(self.site.orders()) == 500


MANY = """
const [, path, port, token] = process.argv;
const { Client } = require(path);
const client = new Client('127.0.0.1', port, token);
const credits = [...Array(500).keys()].map((n) =>
  client.creditIn({ login: n % 7 + 1, amount: n + 1, comment: `n${n}` }, `key-${n}`));
Promise.all(credits).then((trades) => {
  console.log(JSON.stringify(trades.map((trade) => trade.comment)));
  client.close();
});
"""
