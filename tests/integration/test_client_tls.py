"""
The client against real servers where TLS does not work out: the cause is told at
once, and nothing has been sent.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from test_client_cuts import reactor, serverOn
from twisted.internet.endpoints import clientFromString

from creditsync.client import CreditClient, Unanswered
from creditsync.ledger.memory import MemoryLedger
from tests.certificates import Authority

pytestmark = pytest.mark.timeout(60)

__all__ = ["reactor"]


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """
    A folder with the certificates of some servers, and one of their authority.
    """
    authority = Authority("authority")
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    (trusted / "authority.pem").write_bytes(authority.issued.pem())
    authority.issue().write(tmp_path / "good.pem")
    authority.issue(seconds=-60).write(tmp_path / "expired.pem")
    authority.issue(by=None).write(tmp_path / "selfsigned.pem")
    return tmp_path


@asynccontextmanager
async def asking(
    reactor: Any, folder: Path, listen: str, connect: str
) -> AsyncIterator[CreditClient]:
    """
    A server that listens, and a client that connects, so.
    """
    before = set(reactor.getDelayedCalls())
    listen = listen.format(folder=folder)
    server = serverOn(reactor, MemoryLedger(), 5.0, listen)
    server.startService()
    port = server.ports[0].getHost().port
    where = connect.format(port=port, trust=f"trustRoots={folder}/trusted")
    client = CreditClient(clientFromString(reactor, where), "manager", clock=reactor)
    client.startService()
    try:
        yield client
    finally:
        await client.stopService()
        await server.stopService()
    assert set(reactor.getDelayedCalls()) <= before


PLAIN = "tcp:0:interface=127.0.0.1"
TLS = "ssl:0:interface=127.0.0.1:privateKey={folder}/"


@pytest.mark.parametrize(
    ("listen", "connect", "cause"),
    [
        (
            f"{TLS}selfsigned.pem",
            "tls:localhost:{port}:{trust}",
            "the server's certificate can't be verified: self-signed certificate",
        ),
        (
            f"{TLS}good.pem",
            "tls:localhost:{port}",
            "the server's certificate can't be verified: unable to get local issuer"
            " certificate",
        ),
        (
            f"{TLS}expired.pem",
            "tls:localhost:{port}:{trust}",
            "the server's certificate can't be verified: certificate has expired",
        ),
        (
            f"{TLS}good.pem",
            "tls:127.0.0.1:{port}:{trust}",
            "the server's certificate is not for 127.0.0.1",
        ),
        (
            f"{TLS}good.pem:clientCA={{folder}}/trusted/authority.pem",
            "tls:localhost:{port}:{trust}",
            "TLS failed: tlsv13 alert certificate required",
        ),
        (
            f"{TLS}good.pem",
            "tcp:127.0.0.1:{port}",
            "this port speaks TLS, and the client does not",
        ),
        (
            PLAIN,
            "tls:localhost:{port}:{trust}",
            "the server does not speak TLS there (wrong version number)",
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_cause(
    reactor: Any, certificates: Path, listen: str, connect: str, cause: str
) -> None:
    """
    An operation ends at once with the cause, and has certainly not happened.
    """
    async with asking(reactor, certificates, listen, connect) as client:
        asked = time.monotonic()
        with pytest.raises(Unanswered) as raised:
            await client.creditIn(1001, 300, "Promotion credit")
        assert str(raised.value) == f"CreditInSync: {cause}"
        assert time.monotonic() - asked < 5


@pytest_twisted.ensureDeferred
async def test_works(reactor: Any, certificates: Path) -> None:
    """
    With the right certificate it is booked.
    """
    connect = "tls:localhost:{port}:{trust}"
    async with asking(reactor, certificates, f"{TLS}good.pem", connect) as client:
        assert (await client.creditIn(1001, 300, "Promotion credit"))["login"] == 1001
