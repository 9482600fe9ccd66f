"""
The console's search: C{GET search?order=…}, C{?login=…} or C{?extID=…}.

The response is a JSON object::

    {"trades": [rows as under "trades" in a snapshot, the newest first, without
                "type", "command" and "principal"],
     "waiters": [rows of pending requests], "refusals": [rows of recent refusals],
     "note": "a sentence that says what was searched"}

An order is looked up in the trading runtime. A login is searched for in the ledger
from the newest order down, for a bounded time; on PostgreSQL by an index. An C{extID}
is not part of a trade: the search finds requests that are pending or were recently
answered or refused under it, and what was booked under it as C{idempotencyKey}. One
search at a time
reads the ledger, in a thread; further ones get 503.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, Final, TypeVar

from attrs import define
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request

from creditsync._process.address import isPostgres
from creditsync.errors import Busy, InvalidData, LedgerProblem
from creditsync.ledger._searching import Found, tradesByKey, tradesOf
from creditsync.metrics import Metrics
from creditsync.records import Trade
from creditsync.web import _rows as rows
from creditsync.web._responses import number, respond, respondError, respondLater
from creditsync.web._signing import SignedIn, SignIns

_T = TypeVar("_T")

# Trades in one response, and seconds that a search for them may take.
MAX_TRADES: Final = 50
MAX_SECONDS: Final = 1.0
# Pending requests that are looked at: more would hold up everybody.
_MAX_WAITERS: Final = 20_000


@define(eq=False)
class Searching:
    """
    The searches of one server.

    @ivar ledger: The path of the SQLite ledger, or the address of the PostgreSQL, if
        there is one.
    @ivar run: Runs a blocking function in a thread.
    """

    metrics: Metrics
    ledger: str | None
    run: "Callable[[Callable[[], Found]], Deferred[Found]]"
    _isReading: bool = False

    async def byOrder(self, order: int) -> rows.JSON:
        """
        The trade as it is now, and the requests pending for it.
        """
        found = await self.metrics.service.runtime.trade(order)
        trades = [] if found is None else [_shown(found)]
        return {
            "trades": trades,
            "waiters": self._waiting(lambda waiter: waiter["order"] == order),
            "refusals": self._refused(lambda refused: refused["order"] == order),
            "note": "" if trades else f"there is no order {order}",
        }

    async def byLogin(self, login: int) -> rows.JSON:
        """
        The account's newest trades.
        """
        found = await self._read(lambda ledger: _tradesOf(ledger, login))
        note = "the whole ledger was searched"
        if found.downTo:
            note = f"only orders down to {found.downTo} were searched"
        return {
            "trades": [rows.trade(trade) for trade in found.trades],
            "waiters": self._waiting(lambda waiter: waiter["login"] == login),
            "refusals": [],
            "note": note,
        }

    async def byExtID(self, extID: str) -> rows.JSON:
        """
        All that is known about an C{extID}.
        """
        booked = await self._read(lambda ledger: _tradesByKey(ledger, extID))
        orders = {trade.order: trade for trade in booked.trades}
        for waiter in list(self.metrics.counters.recentlyAnswered):
            order = waiter.order
            if str(waiter.extID) == extID and order is not None and order not in orders:
                found = await self.metrics.service.runtime.trade(order)
                if isinstance(found, Trade):
                    orders[order] = found
        newest = sorted(orders.values(), key=lambda trade: -trade.order)
        return {
            "trades": [rows.trade(trade) for trade in newest],
            "waiters": self._waiting(lambda waiter: str(waiter["extID"]) == extID),
            "refusals": self._refused(lambda refused: str(refused["extID"]) == extID),
            "note": "searched pending requests, the latest replies and refusals, and"
            " idempotency keys; the ledger does not store an extID",
        }

    async def _read(self, search: Callable[[str], Found]) -> Found:
        """
        Search the ledger, if there is one that can be searched.

        @raise Busy: Another search is reading it.
        """
        ledger = self.ledger
        if ledger is None:
            return Found()
        if self._isReading:
            raise Busy("another search is running, try again")
        self._isReading = True
        try:
            return await self.run(lambda: search(ledger))
        finally:
            self._isReading = False

    def _waiting(self, isWanted: Callable[[rows.JSON], bool]) -> list[rows.JSON]:
        now = self.metrics.clock.seconds()
        waiters = islice(self.metrics.service.waiters, _MAX_WAITERS)
        return _first(isWanted, (rows.waiting(each, now) for each in waiters))

    def _refused(self, isWanted: Callable[[rows.JSON], bool]) -> list[rows.JSON]:
        refusals = reversed(self.metrics.counters.recentlyRefused)
        return _first(isWanted, map(rows.refusal, refusals))


class SearchPage(SignedIn):
    """
    C{GET search}.
    """

    _log = Logger()

    def __init__(self, signIns: SignIns, searching: Searching) -> None:
        super().__init__(signIns)
        self._searching = searching

    def render_GET(self, request: Request) -> Any:
        """
        Search, and respond later.
        """
        return respondLater(request, self._search(request), self._failed)

    async def _search(self, request: Request) -> bytes:
        asked = {
            name: values[0].decode("utf-8", "replace").strip()
            for name, values in (request.args or {}).items()
        }
        searching = self._searching
        if b"order" in asked:
            found = await searching.byOrder(number("order", asked[b"order"]))
        elif b"login" in asked:
            found = await searching.byLogin(number("login", asked[b"login"]))
        elif asked.get(b"extID"):
            found = await searching.byExtID(asked[b"extID"])
        else:
            raise InvalidData("order, login or extID is required")
        return respond(request, 200, found)

    def _failed(self, request: Request, why: Failure) -> bytes:
        self._log.failure("a search failed", why)
        message = "the search failed"
        if why.check(LedgerProblem):
            message = why.getErrorMessage()
        return respondError(request, 500, "TECH_PROBLEM", message)


def _tradesOf(ledger: str, login: int) -> Found:
    if isPostgres(ledger):
        # What PostgreSQL needs is loaded only where it is used.
        from creditsync.postgres import _console

        return _console.tradesOf(ledger, login, MAX_TRADES, MAX_SECONDS)
    return tradesOf(ledger, login, MAX_TRADES, MAX_SECONDS)


def _tradesByKey(ledger: str, key: str) -> Found:
    if isPostgres(ledger):
        from creditsync.postgres import _console

        return _console.tradesByKey(ledger, key, MAX_TRADES, MAX_SECONDS)
    return tradesByKey(ledger, key, MAX_TRADES)


def _shown(found: Trade | Mapping[str, Any]) -> rows.JSON:
    if isinstance(found, Trade):
        return rows.trade(found)
    kind = rows.kind(found.get("cmd"))
    return {**found, "kind": kind, "time": found.get("timestamp")}


def _first(isWanted: Callable[[_T], bool], found: Iterable[_T]) -> list[_T]:
    return list(islice(filter(isWanted, found), MAX_TRADES))
