"""
Look-ups of real servers: long replies over sockets and TLS, searches in a thread of
their own.
"""

from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from test_client_cuts import reactor
from twisted.internet.defer import gatherResults, maybeDeferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.threads import deferToThread

from creditsync.client import CreditClient
from creditsync.events import TradeEvents
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.ledger.thread import OwnThread
from creditsync.limits import Limits
from creditsync.runtime import TradingRuntime
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator
from tests.certificates import Authority
from tests.load.filters import fill

pytestmark = [pytest.mark.proof, pytest.mark.timeout(60)]

__all__ = ["reactor"]

TRADES = 60_000


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    """
    A ledger with many trades.
    """
    path = str(tmp_path / "creditsync.db")
    made = SQLiteLedger(path, maybeDeferred)
    made.open()
    made.close()
    fill(path, TRADES)
    return path


@pytest.mark.parametrize(("isTLS", "most"), [(False, 50_000), (True, 10_000)])
@pytest_twisted.ensureDeferred
async def test_longReply(
    reactor: Any, tmp_path: Path, ledger: str, isTLS: bool, most: int
) -> None:
    """
    A reply of many rows arrives whole, although it is longer than what a client may
    leave unread; and credits beside it get their events and replies.
    """
    listen, connect = "tcp:0:interface=127.0.0.1", "tcp:127.0.0.1:{port}"
    if isTLS:
        authority = Authority("authority")
        trusted = tmp_path / "trusted"
        trusted.mkdir()
        (trusted / "authority.pem").write_bytes(authority.issued.pem())
        authority.issue().write(tmp_path / "good.pem")
        listen = f"ssl:0:interface=127.0.0.1:privateKey={tmp_path}/good.pem"
        connect = f"tls:localhost:{{port}}:trustRoots={trusted}"
    events = TradeEvents()
    server = CreditSync(
        reactor,
        runtime=TradingRuntime(
            reactor,
            SQLiteLedger(ledger, OwnThread(reactor)),
            events,
            now=lambda: 1767225600,
            maxQueued=1000,
            read=deferToThread,
        ),
        events=events,
        authenticator=FakeAuthenticator(),
        listen=[listen],
        limits=Limits(maxUnread=500_000),
    )
    await maybeDeferred(server.startService)
    await server.whenReady()
    port = server.ports[0].getHost().port
    seen: list[int] = []
    client = CreditClient(
        clientFromString(reactor, connect.format(port=port)),
        "manager",
        clock=reactor,
        observer=lambda type, data: seen.append(data["order"]),
    )
    client.startService()
    try:
        first, second, *booked = await gatherResults(
            [
                client.getTradesByFilter(orderBy=[["comment", "desc"]], limit=most),
                client.getTradesByFilter(
                    where=[["order", "<=", TRADES]], limit=5_000, offset=TRADES - 3_000
                ),
                *(client.creditIn(login, 1, "beside") for login in range(1, 100)),
            ],
            consumeErrors=True,
        )
    finally:
        await client.stopService()
        await server.stopService()
    assert len(first["rows"]) == most
    comments = [row[5] for row in first["rows"]]
    assert comments == sorted(comments, reverse=True)
    assert [row[0] for row in second["rows"]] == list(range(57_001, 60_001))
    assert second["count"] == TRADES
    orders = [trade["order"] for trade in booked]
    assert sorted(orders) == list(range(TRADES + 1, TRADES + 100))
    assert seen == sorted(orders)
