"""
The client against the real server, with a proxy between them that cuts.

Whatever is cut, each operation is booked once, and its Deferred fires with
what the ledger has.
"""

import random
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from decimal import Decimal
from functools import partial
from pathlib import Path
from runpy import run_path
from textwrap import dedent
from typing import Any, TypeAlias

import pytest
import pytest_twisted
from attrs import Factory as Fresh
from attrs import define
from twisted.internet.defer import gatherResults
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    connectProtocol,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from creditsync import _wire as wire
from creditsync.client import CreditClient, Data, OutcomeUnknown, Refused
from creditsync.codes import EV_RECORD_ADD, EV_RECORD_DELETE, EV_RECORD_UPDATE
from creditsync.events import TradeEvents
from creditsync.interfaces import ILedger
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.records import Limits
from creditsync.runtime import TradingRuntime
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator, HeldLedger

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = DOCS / "examples" / "client.py"

# What a proxy does to a request of the finance family, if anything.
Cut: TypeAlias = str | None
BEFORE = "before the request reached the server"
INSIDE_REQUEST = "inside the request"
REACHED = "as soon as the request has reached the server"
AFTER = "after the reply has left the server, before it reached the client"
INSIDE_REPLY = "inside the reply"
CUTS = (BEFORE, INSIDE_REQUEST, REACHED, AFTER, INSIDE_REPLY)


@pytest.fixture
def reactor() -> Any:
    """
    The reactor that runs the tests.
    """
    from twisted.internet import reactor

    return reactor


class Upstream(Protocol):
    """
    The proxy's connection to the server.
    """

    # What an endpoint gives: more than ITransport.
    transport: Any

    def __init__(self, downstream: "Downstream") -> None:
        self.downstream = downstream
        self.partial = b""

    def dataReceived(self, data: bytes) -> None:
        """
        Pass lines on, but for the reply that is to be cut.
        """
        *lines, self.partial = (self.partial + data).split(b"\n")
        for line in lines:
            self.downstream.replied(line + b"\n")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Pass the end on.
        """
        self.downstream.cut()


class Downstream(Protocol):
    """
    The client's connection to the proxy.
    """

    transport: Any

    def __init__(self, proxy: "Proxy") -> None:
        self.proxy = proxy
        self.upstream = Upstream(self)
        self.partial = b""
        self.cuts: dict[str, str] = {}
        self.isOver = False

    def connectionMade(self) -> None:
        """
        Read on when there is a server to pass it to.
        """
        self.transport.pauseProducing()
        endpoint = TCP4ClientEndpoint(
            self.proxy.reactor, "127.0.0.1", self.proxy.serverPort
        )
        connectProtocol(endpoint, self.upstream).addCallback(
            lambda _: self.transport.resumeProducing()
        )

    def dataReceived(self, data: bytes) -> None:
        """
        Pass lines on, but for the request that is to be cut.
        """
        *lines, self.partial = (self.partial + data).split(b"\n")
        for line in lines:
            if not self.isOver:
                self.requested(line + b"\n")

    def requested(self, line: bytes) -> None:
        """
        A request, which may be one to cut.
        """
        members = wire.decode(line)
        cut = None
        if "idempotencyKey" in members:
            cut = self.proxy.choose()
            self.proxy.tries[members["idempotencyKey"]] += 1
        if cut in (AFTER, INSIDE_REPLY):
            self.cuts[members["extID"]] = cut
        if cut == INSIDE_REQUEST:
            line = line[: len(line) // 2]
        if cut != BEFORE:
            self.upstream.transport.write(line)
        if cut in (BEFORE, INSIDE_REQUEST, REACHED):
            self.cut()

    def replied(self, line: bytes) -> None:
        """
        A reply, which may be one to cut.
        """
        self.proxy.lines.append(line)
        cut = self.cuts.get(wire.decode(line).get("extID", ""))
        if self.isOver:
            return
        if cut == INSIDE_REPLY:
            line = line[: len(line) // 2]
        if cut != AFTER:
            self.transport.write(line)
        if cut is not None:
            self.cut()

    def cut(self) -> None:
        """
        End both connections, once what was passed on is written.
        """
        self.isOver = True
        self.transport.loseConnection()
        if self.upstream.transport is not None:
            self.upstream.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Pass the end on.
        """
        self.cut()


@define(eq=False)
class Proxy(Factory):
    """
    Connections that are cut.

    @ivar choose: Called for each try of an operation, to say how it is cut.
    @ivar tries: How many tries of each operation came by, by its key.
    @ivar lines: What the server has said.
    """

    reactor: Any
    serverPort: int
    choose: Callable[[], Cut]
    tries: "Counter[str]" = Fresh(Counter)
    lines: list[bytes] = Fresh(list)
    noisy = False

    def buildProtocol(self, addr: object) -> Downstream:
        """
        Take a connection.
        """
        return Downstream(self)


@define(eq=False)
class Site:
    """
    A server with its ledger, and clients of it.

    @ivar proxy: What stands between them.
    @ivar events: What the client has observed.
    """

    ledger: Path
    proxy: Proxy
    client: CreditClient
    events: list[tuple[int, Data]]

    def rows(self) -> dict[str, tuple[int, int, int]]:
        """
        What the ledger has: order, state and units, by the comment.
        """
        with closing(sqlite3.connect(self.ledger)) as connection:
            rows = connection.execute(
                'SELECT comment, "order", state, profit FROM trade'
            ).fetchall()
        booked = {
            comment: (order, state, profit) for comment, order, state, profit in rows
        }
        assert len(booked) == len(rows)
        return booked


@asynccontextmanager
async def running(
    reactor: Any,
    path: Path,
    choose: Callable[[], Cut],
    observes: bool = False,
    ledger: ILedger | None = None,
    timeout: float = 5.0,
) -> AsyncIterator[Site]:
    """
    A server, a proxy and a client, and nothing left of them afterwards.
    """
    before = set(reactor.getDelayedCalls())
    file = path / "creditsync.db"
    run = partial(deferToThreadPool, reactor, reactor.getThreadPool())
    server = serverOn(reactor, ledger or SQLiteLedger(str(file), run), timeout)
    server.startService()
    port = server.ports[0].getHost().port
    proxy = Proxy(reactor, port, choose)
    listener = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(proxy)
    events: list[tuple[int, Data]] = []
    client = CreditClient(
        TCP4ClientEndpoint(reactor, "127.0.0.1", listener.getHost().port),
        "manager",
        clock=reactor,
        random=random.Random(7).random,
        observer=(lambda type, data: events.append((type, data))) if observes else None,
        patience=50.0,
    )
    client.startService()
    try:
        yield Site(file, proxy, client, events)
    finally:
        await client.stopService()
        await listener.stopListening()
        await server.stopService()
    assert set(reactor.getDelayedCalls()) <= before


def serverOn(
    reactor: Any,
    ledger: ILedger,
    timeout: float,
    listen: str = "tcp:0:interface=127.0.0.1",
) -> CreditSync:
    """
    The real server, on a port of its own.
    """
    events, limits = TradeEvents(), Limits()
    return CreditSync(
        reactor,
        runtime=TradingRuntime(
            reactor,
            ledger,
            events,
            now=time.time,
            maxQueued=limits.maxQueued,
        ),
        events=events,
        authenticator=FakeAuthenticator(),
        listen=[listen],
        timeout=timeout,
    )


def once(cut: str) -> Callable[[], Cut]:
    """
    Cut the first try, and no other.
    """
    cuts = iter([cut])
    return lambda: next(cuts, None)


def never() -> Cut:
    """
    Cut nothing.
    """
    return None


@pytest.mark.parametrize("cut", CUTS)
@pytest_twisted.ensureDeferred
async def test_cutOnce(reactor: Any, tmp_path: Path, cut: str) -> None:
    """
    An operation whose first try is cut is booked once, and its Deferred fires
    with that booking.
    """
    async with running(reactor, tmp_path, once(cut)) as site:
        data = await site.client.creditIn(1001, Decimal("19.99"), "cut", key="k")
        assert (data["login"], data["cmd"], data["state"]) == (1001, 7, 3)
        assert data["profit"] == Decimal("19.99")
        assert site.proxy.tries == {"k": 2}
        assert site.rows() == {"cut": (data["order"], 3, 1_999_000_000)}


@pytest.mark.parametrize("cut", CUTS)
@pytest_twisted.ensureDeferred
async def test_othersInFlight(reactor: Any, tmp_path: Path, cut: str) -> None:
    """
    What was in flight beside a try that is cut is booked once too.
    """
    cuts = iter([None, cut])
    async with running(reactor, tmp_path, lambda: next(cuts, None)) as site:
        results = await gatherResults(
            [site.client.creditIn(1001, n, f"{n}") for n in (1, 2, 3)]
        )
        assert site.rows() == {
            "1": (results[0]["order"], 3, 100_000_000),
            "2": (results[1]["order"], 3, 200_000_000),
            "3": (results[2]["order"], 3, 300_000_000),
        }


@pytest.mark.parametrize("cut", CUTS)
@pytest_twisted.ensureDeferred
async def test_deleteCut(reactor: Any, tmp_path: Path, cut: str) -> None:
    """
    A deletion whose first try is cut is not refused because it was carried
    out already.
    """
    cuts = iter([None, cut])
    async with running(reactor, tmp_path, lambda: next(cuts, None)) as site:
        order = (await site.client.balanceIn(1001, 5))["order"]
        assert (await site.client.deleteBalance(order))["state"] == 6
        assert site.rows() == {"Finance": (order, 6, 500_000_000)}


@pytest.mark.parametrize("cut", CUTS)
@pytest_twisted.ensureDeferred
async def test_refusedAfterACut(reactor: Any, tmp_path: Path, cut: str) -> None:
    """
    Whatever is cut, what the server refuses is not booked; but the client does
    not say so, as the lost try might still be on its way to the server.
    """
    async with running(reactor, tmp_path, once(cut)) as site:
        with pytest.raises(OutcomeUnknown) as unknown:
            await site.client.creditOut(1001, -1, "nothing there")
        assert "TRADE_NO_MONEY" in str(unknown.value)
        assert site.rows() == {}


@pytest_twisted.ensureDeferred
async def test_randomCuts(reactor: Any, tmp_path: Path) -> None:
    """
    Of several hundred operations, a good part of them cut, each is booked
    once with what its Deferred says; the account has their sum.
    """
    chance = random.Random(20260101)

    def choose() -> Cut:
        return chance.choice(CUTS) if chance.random() < 0.03 else None

    async with running(reactor, tmp_path, choose) as site:
        results: list[Data] = []
        # A few at a time, or one cut would hit them all.
        for start in range(0, 400, 20):
            results += await gatherResults(
                [
                    site.client.creditIn(1001, Decimal(n) / 100, f"{n}")
                    for n in range(start + 1, start + 21)
                ]
            )
        assert len(site.proxy.tries) == 400
        assert sum(site.proxy.tries.values()) > 450
        told = {
            data["comment"]: (data["order"], 3, int(data["profit"] * 10**8))
            for data in results
        }
        assert site.rows() == told
        assert {f"{n}": n * 1_000_000 for n in range(1, 401)} == {
            comment: units for comment, (_, _, units) in told.items()
        }
        with closing(sqlite3.connect(site.ledger)) as connection:
            (total,) = connection.execute("SELECT credit FROM account").fetchone()
        # 400 · 401 / 2 = 80,200 cents.
        assert total == 80_200_000_000


@pytest_twisted.ensureDeferred
async def test_operations(reactor: Any, tmp_path: Path) -> None:
    """
    Every operation does on the real server what its name says, and the
    observer sees each event before its reply.
    """
    async with running(reactor, tmp_path, never, observes=True) as site:
        client, events = site.client, site.events
        credit = await client.creditIn(1001, 300, "Promotion credit")
        assert events == [(EV_RECORD_ADD, credit)]
        changed = await client.creditIn(1001, 200.5, "less", order=credit["order"])
        assert changed["order"] == credit["order"]
        assert events[1:] == [(EV_RECORD_UPDATE, changed)]
        assert (await client.creditOut(1001, -100, "out"))["cmd"] == 9
        balance = await client.balanceIn(1001, 50, openTime=1, closeTime=2, key="b")
        assert (balance["comment"], balance["open_time"]) == ("Finance", 1)
        assert (await client.balanceOut(1001, -20, "out"))["cmd"] == 8
        assert await client.getOperation(key="b") == balance
        assert await client.getOperation(order=credit["order"]) == changed
        with pytest.raises(Refused, match="404 NOT_FOUND"):
            await client.getOperation(key="c")
        with pytest.raises(Refused, match="409 TRADE_NO_MONEY"):
            await client.deleteCredit(credit["order"])
        small = await client.creditIn(1001, Decimal("0.00000001"), "small")
        deleted = await client.deleteCredit(small["order"])
        assert events[-1] == (EV_RECORD_DELETE, deleted)
        assert deleted["profit"] == Decimal("0.00000001")
        accepted = await client.request(
            "CreditIn", {"login": 1001, "amount": 1, "comment": "async"}
        )
        assert (accepted["accepted"], accepted["amount"]) == (True, Decimal(1))
        assert (await client.healthCheck())["status"] == "ok"


@pytest_twisted.ensureDeferred
async def test_slowLedger(reactor: Any, tmp_path: Path) -> None:
    """
    What the server could not book in its time is asked for again under its
    key, and attaches to what is under way.
    """
    ledger = HeldLedger()
    async with running(reactor, tmp_path, never, ledger=ledger, timeout=0.3) as site:
        credit = site.client.creditIn(1001, 300, "slow", key="k")
        while site.proxy.tries["k"] < 2:
            await deferLater(reactor, 0.01)
        ledger.release()
        data = await credit
        assert len(ledger.commits) == 0
        assert await site.client.getOperation(key="k") == data


@pytest_twisted.ensureDeferred
async def test_noEventsUnobserved(reactor: Any, tmp_path: Path) -> None:
    """
    Without an observer no event comes down the wire.
    """
    async with running(reactor, tmp_path, never) as site:
        await site.client.creditIn(1001, 300, "Promotion credit")
        assert [b'"event":' in line for line in site.proxy.lines] == [False, False]


@pytest_twisted.ensureDeferred
async def test_example(
    reactor: Any, tmp_path: Path, capsys: "pytest.CaptureFixture[str]"
) -> None:
    """
    The example of the documentation does what it says.
    """
    main = run_path(str(EXAMPLE))["main"]
    async with running(reactor, tmp_path, once(INSIDE_REPLY)) as site:
        port = site.proxy.serverPort
        await main(reactor, f"tcp:127.0.0.1:{port}", "manager")
        ((order, state, units),) = site.rows().values()
    assert (state, units) == (3, 30_000_000_000)
    assert capsys.readouterr().out == (
        f"event 0: order {order}\nbooked: order {order}, 300.0\n"
    )


def test_documentation() -> None:
    """
    What the documentation shows is the example that was run.
    """
    text = (DOCS / "client.rst").read_text("utf-8")
    block = text.partition(".. code-block:: python\n\n")[2].partition("\n\nThe ")[0]
    assert dedent(block) + "\n" in EXAMPLE.read_text("utf-8")
