"""
What is looked up, on connections that book nothing.

There is one for each use, so that a search of seconds does not delay the look-up of one
order. Each is made when it is first needed, and again when it was lost. Then another
server may answer, which has failed over and lost what was acknowledged: it proves first
that it has not.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import psycopg
from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from creditsync.errors import Busy
from creditsync.postgres._connection import Connection, ConnectionLost
from creditsync.postgres._feed import HEAD, Feed
from creditsync.postgres._groups import Groups
from creditsync.postgres._lane import Lane, Lost
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
    SELECT event.seq, event."order" FROM keyed JOIN event
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
_ACCOUNT: Final = f"""
    SELECT ({HEAD.replace("%s", str(STREAM))}), login, balance, credit, "group"
    FROM account WHERE login = %s
"""


@define(eq=False)
class Readers:
    """
    The connections of a node for reading.

    @ivar _failed: Called if something is lost.
    @ivar areChecked: Whether a server has to prove that it has what was acknowledged
        and published: not before there are tables.
    """

    _connect: Callable[[str], Deferred[Connection]]
    _feed: Feed
    _lanes: Collection[Lane]
    _failed: Callable[[Failure], None]
    areChecked: bool = field(init=False, default=False)
    _made: dict[str, Deferred[Any]] = field(init=False, factory=dict)

    def of(self, use: str) -> Deferred[Connection]:
        """
        The connection for a use.

        @return: Fires with it, or fails with L{ConnectionLost}.
        """
        waiting: Deferred[Connection] = Deferred()
        made = self._made.get(use)
        if made is None:
            made = self._made[use] = Deferred.fromCoroutine(self._checked(use))
            made.addCallback(self._connected, use)
            made.addErrback(self._notMade, use)

        def fire(result: Connection | Exception) -> Connection | Exception:
            if isinstance(result, Exception):
                waiting.errback(result)
            else:
                waiting.callback(result)
            # Others may wait for the same.
            return result

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

    async def _checked(self, use: str) -> Connection:
        connection = await self._connect(use)
        try:
            if self.areChecked:
                await self._check(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _check(self, connection: Connection) -> None:
        try:
            await self._feed.checkSource(connection)
            for lane in self._lanes:
                await lane.checkLoss(connection)
        except Lost as e:
            self._failed(Failure())
            raise ConnectionLost(str(e)) from e
        except psycopg.Error as e:
            raise ConnectionLost(str(e)) from e

    def _connected(self, connection: Connection, use: str) -> Connection:
        connection.whenLost().addErrback(lambda _: self._made.pop(use, None))
        return connection

    def _notMade(self, why: Failure, use: str) -> Exception:
        self._made.pop(use, None)
        assert isinstance(why.value, Exception)
        return why.value


def _closed(made: Connection | Exception) -> None:
    if not isinstance(made, Exception):
        made.close()


@define(eq=False)
class Lookups:
    """
    The look-ups of a node. Each fails with L{Busy} if the server can't be reached.

    @ivar problem: Why none is answered any more. What is not there may be what was
        acknowledged and is lost, and nobody is told that it was not booked.
    """

    _readers: Readers
    _feed: Feed
    _groups: Groups
    problem: str | None = field(init=False, default=None)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except ConnectionLost as e:
            raise Busy(self.problem or UNREACHABLE) from e
        if self.problem is not None:
            raise Busy(self.problem)

    async def reader(self) -> Connection:
        """
        A connection, for a change that is not booked.
        """
        with self._answering():
            return await self._readers.of("reader")

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
            await self._proven(place)
            return place, Trade(*members)
        return None

    async def orderOf(self, principal: int, key: str) -> int | None:
        """
        The order that was booked under a key.
        """
        for place, order in await self._read(_ORDER_OF, [principal, key]):
            await self._proven(place)
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
        # They are shown by the groups of now.
        await self.moves()
        return [
            TradeEvent(type, Trade(*members), place=place)
            for place, type, *members in rows
        ]

    async def published(self, place: int) -> None:
        """
        Wait until a place is published, if any node has booked so far.
        """
        [(head,)] = await self._read(HEAD, [STREAM])
        if place <= head:
            reached: Deferred[None] = Deferred()
            self._feed.whenPublished(place, lambda: reached.callback(None))
            await reached

    async def _proven(self, place: int) -> None:
        """
        Wait until what was found at a place can't be lost any more.
        """
        with self._answering():
            await self._feed.whenProven(place)

    async def moves(self) -> None:
        """
        Learn which accounts were moved to other groups so far.
        """
        with self._answering():
            try:
                await self._groups.whenRead(await self._readers.of("reader"))
            except ConnectionLost:
                await self._groups.whenRead(await self._readers.of("reader"))

    async def account(self, login: int) -> Account | None:
        """
        An account.
        """
        for head, *members in await self._read(_ACCOUNT, [login]):
            await self._proven(head)
            return Account(*members)
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
            found = await search(await self._readers.of("search"), filter, page)
        [(head,)] = await self._read(HEAD, [STREAM])
        await self._proven(head)
        return found
