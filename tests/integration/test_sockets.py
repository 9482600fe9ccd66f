"""
The server on real sockets in the real reactor, and blocking clients in threads.

What the tests of the modules can't show: how a kernel and a TLS library end
connections, and how much they hold.

Their time limits are kept by a thread: what pytest-timeout's signal raises in
the reactor does not end a test that waits there.
"""

import datetime
import gc
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted  # type: ignore[import-untyped]
from attrs import Factory, define, field
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet import reactor as globalReactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.python import log

from creditsync._transport.protocol import LineProtocol
from creditsync.events import TradeEvents
from creditsync.interfaces import ILedger
from creditsync.ledger.memory import MemoryLedger
from creditsync.records import Limits, TradeEvent
from creditsync.runtime import TradingRuntime
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator, HeldLedger

reactor: Any = globalReactor

HEALTH = b'{"command":"HealthCheck","extID":"h","__token":"manager"}\r\n'
CREDIT = (
    b'{"command":"CreditInSync","extID":"c","__token":"manager",'
    b'"data":{"login":1001,"amount":300.0,"comment":"Promotion credit"}}\r\n'
)
# More than a write buffer holds at the moment when the input ends: 3000
# refusals and a 413 from one turn.
MUCH = b'{"command":"X"}\n' * 3000 + b"x" * 400 + b"\n"
MUCH_LIMITS = Limits(linesPerTurn=10_000, maxLineLength=300)


@define(eq=False)
class Running:
    """
    A server on a loopback port.

    @ivar pem: Its certificate, if it speaks TLS.
    """

    pem: Path | None = None
    limits: Limits | None = None
    ledger: ILedger = Factory(MemoryLedger)
    events: TradeEvents = field(init=False, factory=TradeEvents)
    server: CreditSync = field(init=False)
    port: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        tls = "" if self.pem is None else f":privateKey={self.pem}:certKey={self.pem}"
        self.server = CreditSync(
            reactor,
            runtime=TradingRuntime(
                reactor,
                self.ledger,
                self.events,
                now=lambda: 1767225600,
                maxQueued=10000,
            ),
            events=self.events,
            authenticator=FakeAuthenticator(),
            listen=[f"{'ssl' if tls else 'tcp'}:0:interface=127.0.0.1{tls}"],
            timeout=1.0,
            limits=self.limits,
        )
        self.server.startService()
        [port] = self.server.ports
        self.port = port.getHost().port  # type: ignore[attr-defined]

    def dial(self) -> socket.socket:
        """
        Connect, in a thread.
        """
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        if self.pem is None:
            return connection
        context = ssl.create_default_context(cafile=str(self.pem))
        context.check_hostname = False
        # An end without TLS's own good-bye is an error to this client.
        return context.wrap_socket(connection, suppress_ragged_eofs=False)

    async def becomes(self, isTrue: Callable[["Running"], object]) -> bool:
        """
        Wait, for at most a second, for this server to become so.

        @return: Whether it has.
        """
        deadline = reactor.seconds() + 1
        while not isTrue(self) and reactor.seconds() < deadline:
            await deferLater(reactor, 0.005)
        return bool(isTrue(self))


def isConnected(running: Running) -> bool:
    """
    Whether this server has a connection.
    """
    return bool(running.server.factory._connections)


def isAlone(running: Running) -> bool:
    """
    Whether none of this server's connections has outlived its client.
    """
    return not running.server.factory._connections


def hasPending(running: Running) -> bool:
    """
    Whether a request is in flight at this server.
    """
    return running.server.sessions.pending > 0


def readAll(connection: socket.socket) -> bytes:
    """
    Read until the server says good-bye.
    """
    chunks = []
    while chunk := connection.recv(65536):
        chunks.append(chunk)
    return b"".join(chunks)


@pytest.fixture
def quiet() -> Iterator[None]:
    """
    A test that logs an error or leaves a delayed call behind has failed.
    """
    errors: list[dict[str, Any]] = []

    def observe(event: dict[str, Any]) -> None:
        if event.get("isError"):
            errors.append(event)

    before = reactor.getDelayedCalls()
    log.addObserver(observe)
    yield
    # A Deferred logs its unhandled error when it is collected.
    gc.collect()
    log.removeObserver(observe)
    assert [log.textFromEventDict(error) for error in errors] == []
    assert [call for call in reactor.getDelayedCalls() if call not in before] == []


@pytest_twisted.async_yield_fixture  # type: ignore[untyped-decorator]
async def serve(quiet: None) -> AsyncIterator[Callable[..., Running]]:
    """
    Start servers, and stop those that the test has not stopped.
    """
    started: list[Running] = []

    def start(*args: Any, **kwargs: Any) -> Running:
        started.append(Running(*args, **kwargs))
        return started[-1]

    yield start
    for each in started:
        if each.server.running:
            await each.server.stopService()
    # abortConnection ends a connection in the next turn.
    await deferLater(reactor, 0)


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    A throw-away certificate for 127.0.0.1 and its key, in one file.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.mark.timeout(20)
@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_halfClose(serve: Callable[..., Running]) -> None:
    """
    A client that sends its request and closes its side gets its event, its
    reply, and the end, though the commit takes its time.
    """
    ledger = HeldLedger()
    running = serve(ledger=ledger)

    def client() -> bytes:
        with running.dial() as connection:
            connection.sendall(CREDIT)
            connection.shutdown(socket.SHUT_WR)
            return readAll(connection)

    asked = deferToThread(client)
    assert await running.becomes(hasPending)
    await deferLater(reactor, 0.05)
    ledger.release()
    event, reply, rest = (await asked).split(b"\r\n")
    assert event.startswith(b'{"event":"trade:event","type":0,')
    assert reply.startswith(b'{"extID":"c","status":200,')
    assert rest == b""
    assert await running.becomes(isAlone)


@pytest.mark.timeout(20)
@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_halfCloseOfMany(serve: Callable[..., Running]) -> None:
    """
    A client that closes its side after many requests at once still receives all
    of their replies.
    """
    running = serve()

    def client() -> bytes:
        with running.dial() as connection:
            connection.sendall(HEALTH * 1000)
            connection.shutdown(socket.SHUT_WR)
            return readAll(connection)

    assert len((await deferToThread(client)).splitlines()) == 1000


@pytest.mark.timeout(20)
@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_tooLongWhileSending(serve: Callable[..., Running]) -> None:
    """
    A client that sends on and on still reads its earlier reply and the 413,
    and then the end.
    """
    running = serve()

    def client() -> bytes:
        with running.dial() as connection:
            connection.sendall(HEALTH)
            for _ in range(100):
                connection.sendall(b"x" * 65536)
            return readAll(connection)

    first, second = (await deferToThread(client)).splitlines()
    assert first.startswith(b'{"extID":"h","status":200,')
    assert second.startswith(b'{"status":413,')


@pytest.mark.timeout(20)
@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_neverReads(
    serve: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A client that asks and never reads is cut off, at a bounded buffer.
    """
    running = serve(limits=Limits(maxUnread=100_000))
    lost: list[LineProtocol] = []
    closed = running.server.factory.closed

    def noticed(connection: LineProtocol) -> None:
        closed(connection)
        lost.append(connection)

    monkeypatch.setattr(running.server.factory, "closed", noticed)

    def client() -> socket.socket:
        connection = running.dial()
        connection.sendall(HEALTH)
        return connection

    event = TradeEvent(0, {"order": 1, "comment": "x" * 10_000})
    with await deferToThread(client):
        for _ in range(10_000):
            running.events.publish([event])
            if lost:
                break
            await deferLater(reactor, 0)
    assert len(lost) == 1


@pytest.mark.timeout(20)
@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_stop(serve: Callable[..., Running]) -> None:
    """
    When the server stops, a client that waits gets its reply and then an
    orderly end.
    """
    ledger = HeldLedger()
    running = serve(ledger=ledger)

    def client() -> bytes:
        with running.dial() as connection:
            connection.sendall(CREDIT)
            return readAll(connection)

    asked = deferToThread(client)
    assert await running.becomes(hasPending)
    stopped = running.server.stopService()
    await deferLater(reactor, 0.05)
    ledger.release()
    _, reply = (await asked).splitlines()
    await stopped
    assert reply.startswith(b'{"extID":"c","status":200,')


@pytest.mark.timeout(20)
@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_lastCall(serve: Callable[..., Running]) -> None:
    """
    What a client sends while the server stops is refused, and then comes an
    orderly end.
    """
    running = serve()

    def client(connection: socket.socket) -> bytes:
        with connection:
            connection.sendall(CREDIT)
            return readAll(connection)

    connection = await deferToThread(running.dial)
    assert await running.becomes(isConnected)
    stopped = running.server.stopService()
    [reply] = (await deferToThread(client, connection)).splitlines()
    assert reply.startswith(b'{"extID":"c","status":503,"error":"SHUTDOWN",')
    await stopped


@pytest.mark.timeout(20)
@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_muchToReadAtTheEnd(serve: Callable[..., Running]) -> None:
    """
    Replies that fill the write buffer at the very end all arrive before an
    orderly end, and the connection does not outlive its client.
    """
    running = serve(limits=MUCH_LIMITS)

    def client() -> bytes:
        with running.dial() as connection:
            connection.sendall(MUCH)
            return readAll(connection)

    assert len((await deferToThread(client)).splitlines()) == 3001
    assert await running.becomes(isAlone)


@pytest.mark.timeout(20)
@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_creditByTLS(serve: Callable[..., Running], pem: Path) -> None:
    """
    By TLS a credit is booked, and at the stop the connection closes cleanly.
    """
    running = serve(pem)

    def client() -> tuple[socket.socket, bytes]:
        connection = running.dial()
        connection.sendall(CREDIT)
        heard = b""
        while heard.count(b"\r\n") < 2:
            chunk = connection.recv(65536)
            assert chunk, heard
            heard += chunk
        return connection, heard

    connection, heard = await deferToThread(client)
    assert isinstance(connection, ssl.SSLSocket)
    event, reply, _ = heard.split(b"\r\n")
    assert event.startswith(b'{"event":"trade:event","type":0,')
    assert reply.startswith(b'{"extID":"c","status":200,')

    def end(connection: ssl.SSLSocket) -> bytes:
        with connection:
            rest = readAll(connection)
            connection.unwrap().close()
            return rest

    ending = deferToThread(end, connection)
    await running.server.stopService()
    assert await ending == b""


@pytest.mark.timeout(20)
@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_tooLongByTLS(serve: Callable[..., Running], pem: Path) -> None:
    """
    By TLS a 413 arrives, after what was said before, and then an orderly end.
    """
    running = serve(pem)

    def client() -> bytes:
        with running.dial() as connection:
            connection.sendall(HEALTH + b"x" * 70_000)
            return readAll(connection)

    first, second = (await deferToThread(client)).splitlines()
    assert first.startswith(b'{"extID":"h","status":200,')
    assert second.startswith(b'{"status":413,')


@pytest.mark.timeout(20)
@pytest_twisted.ensureDeferred  # type: ignore[untyped-decorator]
async def test_muchToReadAtTheEndByTLS(
    serve: Callable[..., Running], pem: Path
) -> None:
    """
    By TLS replies that fill the write buffer at the very end all arrive before
    an orderly end, and the connection does not outlive its client.
    """
    running = serve(pem, limits=MUCH_LIMITS)

    def client() -> bytes:
        with running.dial() as connection:
            connection.sendall(MUCH)
            return readAll(connection)

    assert len((await deferToThread(client)).splitlines()) == 3001
    assert await running.becomes(isAlone)
