"""
The events of all nodes, in the order of their places.

What this node has booked is published from its reservations, as soon as all before it
is; what other nodes have booked is read from the journal. A reader may see this node's
own rows before the answer to their batch is here: they are held back until then,
because an event that is published before its request waits for it answers nobody.

What another node has booked may be lost with this server although it is seen, as
PostgreSQL shows a commit whose wait for the synchronous standby was cancelled, or cut
off by a crash. So a row is published only up to the place of which it is known that a
commit behind it has waited to the end, on the very server from which the row was read.
Nodes tell one another that place when they ring; if no ring comes, this node makes such
a commit of its own.

Places have no gaps, and a row is seen only after all rows before it. A gap would mean
that something is badly wrong, so it stops the node: what lies behind it is never
published.
"""

import heapq
from collections import deque
from collections.abc import Callable, Collection, Sequence
from itertools import count
from typing import Any, Final

import psycopg
from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from creditsync.errors import LedgerDamaged
from creditsync.postgres._connection import Connection, ConnectionLost, retryDelay
from creditsync.postgres._groups import Groups
from creditsync.postgres._lane import Lane, Lost
from creditsync.postgres._schema import STREAM
from creditsync.postgres._session import causeOf
from creditsync.records import (
    BookedElsewhere,
    Reservation,
    Trade,
    TradeEvent,
)

_log = Logger()

# Rows that are read at a time.
LIMIT: Final = 500

# Seconds for which a row waits for the ring of the node that has booked it: a row that
# was read because of another's ring is here a moment before its own ring.
PROOF: Final = 0.02

HEAD: Final = """
    SELECT coalesce(max(hi), 0) FROM link WHERE stream = %s
"""
_ROWS: Final = """
    SELECT seq, node, batch, item, type, "order", login, cmd, state, profit, comment,
           open_time, close_time, timestamp, command, principal, key, role,
           (SELECT coalesce(max(number), 0) FROM moved)
    FROM event WHERE stream = %s AND seq > %s ORDER BY seq LIMIT %s
"""
# Who has booked what was published last.
_SOURCE: Final = "SELECT node, batch, item FROM event WHERE stream = %s AND seq = %s"


@define(eq=False)
class _Row:
    event: TradeEvent
    source: tuple[int, int, int]


@define(eq=False)
class Feed:
    """
    What publishes.

    @ivar _publish: Takes the next events.
    @ivar _fail: Called with what must stop the node.
    @ivar _lanes: Of this node.
    @ivar _prove: Makes sure that all that is committed is where it has to be; fires
        with the server that says so.
    @ivar cursor: The last place that was published.
    @ivar proven: The last place of which is known that all up to there is where it has
        to be.
    @ivar readAt: When the journal was last read to its end, by the clock.
    """

    _clock: IReactorTime
    _connect: Callable[[str], Deferred[Connection]]
    _publish: Callable[[Sequence[TradeEvent]], None]
    _fail: Callable[[Failure], None]
    _lanes: Collection[Lane]
    _random: Callable[[], float]
    _prove: Callable[[], Deferred[str]]
    _groups: Groups
    cursor: int = field(init=False, default=0)
    proven: int = field(init=False, default=0)
    readAt: float = field(init=False, default=0.0)
    _source: tuple[int, int, int] | None = field(init=False, default=None)
    _own: dict[int, tuple[Reservation, tuple[int, int, int]]] = field(
        init=False, factory=dict
    )
    _rows: deque[_Row] = field(init=False, factory=deque)
    _later: list[tuple[int, int, Callable[[], None]]] = field(init=False, factory=list)
    _unproven: "list[tuple[int, int, Deferred[None]]]" = field(init=False, factory=list)
    _numbers: "count[int]" = field(init=False, factory=count)
    _connection: Connection | None = field(init=False, default=None)
    _isReading: bool = field(init=False, default=False)
    _isWanted: bool = field(init=False, default=False)
    _isRunning: bool = field(init=False, default=False)
    _failures: int = field(init=False, default=0)
    _timer: IDelayedCall | None = field(init=False, default=None)
    # Of the next proof.
    _proof: IDelayedCall | None = field(init=False, default=None)
    _isProving: bool = field(init=False, default=False)

    async def start(self) -> None:
        """
        Begin behind all that is there.

        @raise ConnectionLost: The server can't be reached.
        """
        connection = await self._connect("feed")
        try:
            [(self.cursor,)] = await connection.execute(HEAD, [STREAM])
            source: list[Any] = await connection.execute(_SOURCE, [STREAM, self.cursor])
        except BaseException:
            connection.close()
            raise
        for found in source:
            self._source = found
        self._connection = connection
        self.readAt = self._clock.seconds()
        self._isRunning = True

    def stop(self) -> None:
        """
        Publish nothing more.
        """
        self._isRunning = False
        for timer in (self._timer, self._proof):
            if timer is not None:
                timer.cancel()
        self._timer = self._proof = None
        unproven, self._unproven = self._unproven, []
        for _, _, waiting in unproven:
            waiting.errback(ConnectionLost("the node reads nothing more"))
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def isCut(self) -> bool:
        """
        Whether the journal can't be read just now.
        """
        return self._failures > 0

    @property
    def held(self) -> int:
        """
        How many events are here and can't be published yet.
        """
        return len(self._own) + len(self._rows)

    def heard(self) -> None:
        """
        Look whether there is anything new.
        """
        self._isWanted = True
        if self._isRunning and not self._isReading and self._timer is None:
            self._read()

    def settled(
        self,
        booked: Sequence[tuple[Reservation, tuple[int, int, int]]],
        server: str,
        place: int,
    ) -> None:
        """
        Publish what this node has booked, as soon as all before it is published.

        @param booked: With their places, and their node, batch and item.
        @param server: See L{isProven}.
        @param place: The same.
        """
        for reservation, source in booked:
            assert reservation.place is not None
            self._own[reservation.place] = reservation, source
        self._noteProof(server, place)
        self._advance()

    def isProven(self, server: str, place: int) -> None:
        """
        Publish what other nodes have booked up to a place.

        @param server: On which a commit behind that place has waited for the
            synchronous standby to the end. It proves nothing of what another server
            has there, which may have failed over.
        """
        if self._noteProof(server, place):
            self._advance()

    def _noteProof(self, server: str, place: int) -> bool:
        connection = self._connection
        if connection is None or connection.server != server or place <= self.proven:
            return False
        self.proven = place
        return True

    def whenProven(self, place: int) -> Deferred[None]:
        """
        Wait until L{proven} has reached a place at which there is an event.

        @return: Fails with L{ConnectionLost} if nothing is read any more.
        """
        proven: Deferred[None] = Deferred()
        if place <= self.proven:
            proven.callback(None)
        elif not self._isRunning:
            proven.errback(ConnectionLost("the node reads nothing more"))
        else:
            heapq.heappush(self._unproven, (place, next(self._numbers), proven))
            self.heard()
        return proven

    def whenPublished(self, place: int, call: Callable[[], None]) -> None:
        """
        Call something when a place is published: at once if it is.
        """
        if place <= self.cursor:
            call()
        else:
            heapq.heappush(self._later, (place, next(self._numbers), call))
            self.heard()

    def _advance(self) -> None:
        events: list[TradeEvent] = []
        cursor, rows, own = self.cursor, self._rows, self._own
        while True:
            cursor += 1
            row = rows[0] if rows else None
            assert row is None or row.event.place == cursor
            settled = own.pop(cursor, None)
            if settled is not None:
                event, self._source = settled
                events.append(event)
            elif row is None or self._isHeld(row):
                break
            else:
                self._source = row.source
                events.append(row.event)
            if row is not None:
                rows.popleft()
        self.cursor = cursor - 1
        if events:
            self._publish(events)
        while self._unproven and self._unproven[0][0] <= self.proven:
            heapq.heappop(self._unproven)[2].callback(None)
        while self._later and self._later[0][0] <= self.cursor:
            heapq.heappop(self._later)[2]()
        if own and not rows:
            # Another node has booked before it.
            self.heard()

    def _isHeld(self, row: _Row) -> bool:
        """
        Whether a row is this node's own, whose batch is not settled, or was not proven.
        """
        node, batch, _ = row.source
        for lane in self._lanes:
            if lane.node == node:
                if batch > lane.batch:
                    self._fail(Failure(lane.fenced()))
                return True
        assert row.event.place is not None
        return row.event.place > self.proven

    def _read(self) -> None:
        self._isReading, self._isWanted = True, False
        after = self.cursor + len(self._rows)
        reading = Deferred.fromCoroutine(self._next(after))
        reading.addCallback(self._taken, after)
        reading.addErrback(self._readFailed)

    async def _next(self, after: int) -> Sequence[tuple[Any, ...]]:
        connection = self._connection
        if connection is None:
            connection = await self._connect("feed")
            try:
                if not self._isRunning:
                    raise ConnectionLost("the node has stopped")
                await self.checkSource(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        rows = await connection.execute(_ROWS, [STREAM, after, LIMIT])
        if rows:
            # Whether an event may be seen depends on the moves that came before it.
            await self._groups.readUpTo(connection, rows[-1][-1])
        return rows

    async def checkSource(self, connection: Connection) -> None:
        """
        Prove that the server still has what was published last.

        @raise Lost: It does not.
        """
        cursor, source = self.cursor, self._source
        found = await connection.execute(_SOURCE, [STREAM, cursor])
        if source is not None and found != [source]:
            [(head,)] = await connection.execute(HEAD, [STREAM])
            raise Lost(
                f"this node has published events up to place {cursor}, but PostgreSQL"
                f" has others now, up to place {head}"
            )

    def _taken(self, rows: Sequence[tuple[Any, ...]], after: int) -> None:
        self._isReading = False
        self._failures = 0
        if not self._isRunning:
            return
        for place, *row, _ in rows:
            after += 1
            if place != after:
                raise LedgerDamaged(
                    f"the journal has place {place} where {after} should be: nothing"
                    " behind that is published; find out who has changed the tables"
                    " of the ledger, or restore a backup"
                )
            # What this node has booked may have been published meanwhile.
            if place > self.cursor + len(self._rows):
                self._rows.append(_row(place, row))
        self._advance()
        self._awaitProof()
        if len(rows) < LIMIT:
            self.readAt = self._clock.seconds()
        if len(rows) == LIMIT or self._isWanted:
            self.heard()

    def _awaitProof(self) -> None:
        """
        Have a commit of this node prove what was read, unless a ring does soon.
        """
        read = self.cursor + len(self._rows)
        if (
            self._isRunning
            and read > self.proven
            and self._proof is None
            and not self._isProving
        ):
            self._proof = self._clock.callLater(
                PROOF, self._proveNow, read, self._connection
            )

    def _proveNow(self, place: int, connection: Connection | None) -> None:
        self._proof = None
        if place <= self.proven or self._connection is not connection:
            self._awaitProof()
            return
        self._isProving = True
        proving = self._prove()

        def proven(server: str) -> None:
            self._isProving = False
            if connection is not None and self._connection is connection:
                if connection.server != server:
                    # Another server is the one to write to: read from that, too.
                    connection.close()
                self.isProven(server, place)
            self._awaitProof()

        # It fails if the node books nothing more.
        proving.addCallbacks(proven, lambda _: None)

    def _readFailed(self, why: Failure) -> None:
        self._isReading = False
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        # A server that dies may show a batch that its standby does not have: the places
        # of what is held here may be others' when it has failed over.
        self._rows.clear()
        if not self._isRunning:
            return
        if not why.check(ConnectionLost, psycopg.Error):
            self._isRunning = False
            self._fail(why)
            return
        if not self._failures:
            _log.warn(
                "The connection that reads the journal is lost: {why}",
                why=causeOf(why.value),
            )
        wait = retryDelay(self._failures, self._random())
        self._failures += 1
        self._timer = self._clock.callLater(wait, self._again)

    def _again(self) -> None:
        self._timer = None
        self.heard()


def _row(place: int, row: Sequence[Any]) -> _Row:
    node, batch, item, type, *trade = row[:-4]
    command, principal, key, role = row[-4:]
    booked = Trade(*trade)
    mark = BookedElsewhere(
        command or "",
        booked.order,
        frozenset(),
        principal or 0,
        key,
        isBooked=True,
        role=role,
    )
    return _Row(TradeEvent(type, booked, mark, place=place), (node, batch, item))
