"""
What is looked up, on connections that book nothing.

There is one for each use, so that a search of seconds does not delay the look-up of one
order. Each is made when it is first needed, and again when it was lost.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from creditsync.errors import Busy
from creditsync.postgres._connection import Connection, ConnectionLost
from creditsync.postgres._feed import HEAD, Feed
from creditsync.postgres._schema import STREAM
from creditsync.postgres._searching import COLUMNS, GROUPS, search
from creditsync.records import (
    Account,
    FoundTrades,
    GroupedTrade,
    Trade,
    TradeEvent,
    TradeFilter,
)

_T = TypeVar("_T")

# Where it is, and who connects, is in the log and no client's business.
UNREACHABLE: Final = "PostgreSQL can't be reached"

_TRADE: Final = f'SELECT seq, {COLUMNS} FROM trade WHERE "order" = %s'
_ORDER_OF: Final = """
    SELECT event."order" FROM keyed JOIN event
        ON event.stream = keyed.stream AND event.seq = keyed.seq
    WHERE keyed.principal = %s AND keyed.key = %s
"""
_EVENTS: Final = f"""
    SELECT seq, type, {COLUMNS} FROM event
    WHERE stream = %s AND seq > %s AND seq <= %s ORDER BY seq
"""
_WAITING: Final = """
    SELECT trade."order", event.principal FROM trade JOIN event
        ON event.stream = %s AND event.seq = trade.seq
    WHERE trade.state = 17
"""
_ACCOUNT: Final = """
    SELECT login, balance, credit, "group" FROM account WHERE login = %s
"""


@define(eq=False)
class Readers:
    """
    The connections of a node for reading.
    """

    _connect: Callable[[str], Deferred[Connection]]
    # Each fires with its connection, or with why there is none: not with a Failure, as
    # several may wait for it.
    _made: dict[str, Deferred[Any]] = field(init=False, factory=dict)

    def of(self, use: str) -> Deferred[Connection]:
        """
        The connection for a use.

        @return: Fires with it, or fails with L{ConnectionLost}.
        """
        waiting: Deferred[Connection] = Deferred()
        made = self._made.get(use)
        if made is None:
            made = self._made[use] = self._connect(use)
            made.addCallback(self._connected, use).addErrback(self._failed, use)

        def fire(outcome: Any) -> Any:
            if isinstance(outcome, BaseException):
                waiting.errback(outcome)
            else:
                waiting.callback(outcome)
            return outcome

        made.addCallback(fire)
        return waiting

    def close(self) -> None:
        """
        Close all of them.
        """
        made, self._made = self._made, {}
        for each in made.values():
            each.cancel()
            each.addCallback(_closed)

    def _connected(self, connection: Connection, use: str) -> Connection:
        connection.whenLost().addErrback(lambda _: self._made.pop(use, None))
        return connection

    def _failed(self, why: Failure, use: str) -> BaseException:
        self._made.pop(use, None)
        assert why.value is not None
        return why.value


def _closed(outcome: "Connection | BaseException") -> None:
    if not isinstance(outcome, BaseException):
        outcome.close()


@define(eq=False)
class Lookups:
    """
    The look-ups of a node. Each fails with L{Busy} if the server can't be reached.

    @ivar problem: Why none is answered any more. What is not there may be what was
        acknowledged and is lost, and nobody is told that it was not booked.
    """

    _readers: Readers
    problem: str | None = field(init=False, default=None)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except ConnectionLost as e:
            raise Busy(UNREACHABLE) from e
        if self.problem is not None:
            raise Busy(self.problem)

    async def _read(
        self, statement: str, values: Sequence[Any] = (), use: str = "reader"
    ) -> list[tuple[Any, ...]]:
        with self._answering():
            try:
                return await (await self._readers.of(use)).execute(statement, values)
            except ConnectionLost:
                # It may have been broken for long.
                return await (await self._readers.of(use)).execute(statement, values)

    async def trade(self, order: int) -> tuple[int, Trade] | None:
        """
        A trade as it is now, and the place of its last change.
        """
        for place, *members in await self._read(_TRADE, [order]):
            return place, Trade(*members)
        return None

    async def orderOf(self, principal: int, key: str) -> int | None:
        """
        The order that was booked under a key.
        """
        for (order,) in await self._read(_ORDER_OF, [principal, key]):
            assert isinstance(order, int)
            return order
        return None

    async def makers(self) -> dict[int, int | None]:
        """
        Who has made each finance request that waits for approval.
        """
        return dict(await self._read(_WAITING, [STREAM]))

    async def events(self, after: int, limit: int) -> Sequence[TradeEvent]:
        """
        The events at the next places after this one.
        """
        rows = await self._read(_EVENTS, [STREAM, after, after + limit])
        return [
            TradeEvent(type, Trade(*members), place=place)
            for place, type, *members in rows
        ]

    async def published(self, feed: Feed, place: int) -> None:
        """
        Wait until a place is published, if any node has booked so far.
        """
        [(head,)] = await self._read(HEAD, [STREAM])
        if place <= head:
            reached: Deferred[None] = Deferred()
            feed.whenPublished(place, lambda: reached.callback(None))
            await reached

    async def account(self, login: int) -> Account | None:
        """
        An account.
        """
        for row in await self._read(_ACCOUNT, [login]):
            return Account(*row)
        return None

    async def groups(self) -> Sequence[str]:
        """
        The groups of all accounts.
        """
        return [group for (group,) in await self._read(GROUPS, use="groups")]

    async def search(
        self, filter: TradeFilter, page: Callable[[Sequence[GroupedTrade]], _T]
    ) -> FoundTrades[_T]:
        """
        See L{search}. The next one may begin when this one has ended.
        """
        with self._answering():
            return await search(await self._readers.of("search"), filter, page)
