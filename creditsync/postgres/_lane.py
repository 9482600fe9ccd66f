"""
What books: one connection, on which one batch is under way at a time.

If the connection breaks before the answer, the outcome of the batch is unknown. The
lane then connects again and raises its incarnation. That waits for a batch which the
server is still carrying out, and shuts one out which it has not begun. So after that
the journal tells: it has the batch by its number, or else the same batch is sent again.
Nobody is told anything meanwhile.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import psycopg
from attrs import Factory, define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from creditsync.errors import LedgerProblem
from creditsync.postgres._booking import (
    BOOK,
    FENCED,
    VERDICTS,
    Site,
    Submission,
    Verdict,
    values,
)
from creditsync.postgres._connection import Connection, ConnectionLost, retryDelay
from creditsync.postgres._groups import Groups
from creditsync.postgres._limits import UNREGISTERED, register
from creditsync.postgres._schema import AGAIN, STREAM
from creditsync.postgres._session import causeOf

_T = TypeVar("_T")

_log = Logger()

# Operations of a batch at most.
MAX_BATCH: Final = 200

# The node takes part from now on, and whoever had its name before is shut out.
_ENLIST: Final = """
    INSERT INTO node (id, name, lane, incarnation, owner)
    SELECT coalesce(max(id), 0) + 1, %s, %s, 1, %s FROM node
    ON CONFLICT (name, lane) DO UPDATE
    SET incarnation = node.incarnation + 1, owner = excluded.owner
    RETURNING id, incarnation
"""
_LAST_BATCH: Final = "SELECT coalesce(max(batch), 0) FROM link WHERE node = %s"
_RAISE: Final = """
    UPDATE node SET incarnation = incarnation + 1
    WHERE id = %s AND owner = %s RETURNING incarnation
"""
_INCARNATION: Final = (
    "SELECT incarnation FROM node WHERE id = %s AND name = %s AND lane = %s"
)
_LINK: Final = "SELECT lo, hi FROM link WHERE node = %s AND batch = %s"
# A commit of its own that changes nothing; when it is replicated, all before it is.
_PROVE: Final = "SELECT durable_1() FROM node WHERE id = %s FOR UPDATE"

# The classes of SQLSTATE that are the server's state and may pass: resources, operator
# intervention, system errors, a transaction that may only read after a failover.
_PASSING: Final = ("08", "25", "40", "53", "55", "57", "58")
# A number that was assigned before.
_TAKEN: Final = "trade_pkey"


class Fenced(LedgerProblem):
    """
    Another process has this node's name, or all nodes were shut out.
    """


class Lost(Exception):
    """
    The server lacks what it had acknowledged.
    """


class NumberTaken(Exception):
    """
    A new order's number was assigned before; nothing has happened.
    """


@define(eq=False)
class Lane:
    """
    One connection that books.

    @ivar node: Its number in the journal.
    @ivar batch: The number of the last batch.
    @ivar incarnation: Raised by each connection that books.
    @ivar unknowns: How many batches of unknown outcome were settled.
    @ivar retries: How many times a batch was judged again, because of a lock.
    @ivar site: What is allowed from the next batch on.
    @ivar judgedBy: What was allowed in the last one.
    @ivar problem: Why nothing can be booked just now, or L{None}.
    """

    _clock: IReactorTime
    _connect: Callable[[str], Deferred[Connection]]
    name: str
    number: int
    _owner: str
    _now: Callable[[], float]
    _random: Callable[[], float]
    site: Site
    _groups: Groups = Factory(Groups)
    node: int = field(init=False, default=0)
    batch: int = field(init=False, default=0)
    incarnation: int = field(init=False, default=0)
    unknowns: int = field(init=False, default=0)
    retries: int = field(init=False, default=0)
    problem: str | None = field(init=False, default=None)
    judgedBy: Site = field(init=False, factory=Site)
    _connection: Connection | None = field(init=False, default=None)
    # The last move of an account that comes before what is to be published.
    _moves: int = field(init=False, default=0)
    # The last batch that was acknowledged, and its last place.
    _acknowledged: tuple[int, int] | None = field(init=False, default=None)
    _pause: Deferred[None] | None = field(init=False, default=None)
    _isClosed: bool = field(init=False, default=False)

    async def open(self) -> None:
        """
        Connect, and shut out whoever has booked under this name.

        @raise ConnectionLost: The server can't be reached.
        @raise psycopg.Error: It refuses.
        """
        connection = await self._connect("writer")
        try:
            await self._admit(connection)
            [(self.node, self.incarnation)] = await self._enlist(connection)
            [(self.batch,)] = await connection.execute(_LAST_BATCH, [self.node])
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    async def _admit(self, connection: Connection) -> None:
        """
        Check that a new connection may book.

        @raise ConnectionLost: Not now.
        """

    async def _enlist(self, connection: Connection) -> list[tuple[Any, ...]]:
        while True:
            try:
                return await connection.execute(
                    _ENLIST, [self.name, self.number, self._owner]
                )
            except (
                # Another new node has taken the same number.
                psycopg.errors.UniqueViolation,
                # A batch of whoever had this name is still under way.
                psycopg.errors.LockNotAvailable,
            ):
                continue

    def close(self) -> None:
        """
        End the connection, and what is under way.
        """
        self._isClosed = True
        if self._pause is not None:
            self._pause.cancel()
        self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _wait(self, failures: int) -> None:
        """
        Wait before the next try.

        @raise CancelledError: The lane was closed.
        """
        if self._isClosed:
            raise CancelledError
        self._pause = deferLater(self._clock, retryDelay(failures, self._random()))
        try:
            await self._pause
        finally:
            self._pause = None

    async def book(self, submissions: Sequence[Submission]) -> list[Verdict | None]:
        """
        Book a batch, however long that takes.

        @return: The verdict on each; L{None} for one that was not booked, and whose
            verdict is lost with a connection: it has to be submitted again.
        @raise Fenced: Another process has this node's name.
        @raise Lost: The server has lost something.
        @raise NumberTaken: Nothing is booked.
        @raise psycopg.Error: A fault of this program.
        """
        self.batch += 1
        found = await self.carryOut(
            lambda connection: self._book(connection, submissions),
            lambda connection: self._found(connection, submissions),
        )
        places = [each.seq for each in found if each and each.verdict == "booked"]
        if places:
            last = max(place for place in places if place is not None)
            self._acknowledged = self.batch, last
        return found

    async def carryOut(
        self,
        carry: Callable[[Connection], Awaitable[_T]],
        find: Callable[[Connection], Awaitable[_T | None]],
    ) -> _T:
        """
        Carry a batch out, however long that takes.

        @param carry: Carries it out, in one transaction.
        @param find: Its result if it was carried out, or L{None}.
        @raise Fenced: See L{book}, and so on.
        """
        isUnknown = False
        failures = 0
        while True:
            try:
                connection = self._connection or await self._again()
                found = None
                if isUnknown:
                    found = await find(connection)
                    isUnknown = False
                    self.unknowns += 1
                if found is None:
                    found = await carry(connection)
                # Whatever fails from here on, it may be booked.
                isUnknown = True
                await self._prove(connection)
                await self._groups.readUpTo(connection, self._moves)
            except ConnectionLost as lost:
                isUnknown = isUnknown or lost.wasSent
                self._broken(str(lost))
                continue
            except psycopg.Error as error:
                failures += 1
                await self._refused(error, failures)
                continue
            return found

    @property
    def server(self) -> str:
        """
        The server to which it is connected; see L{Connection.server}.
        """
        return "" if self._connection is None else self._connection.server

    async def prove(self) -> None:
        """
        Make sure that whatever any node has committed so far is where it has to be.

        @raise Fenced: This node was shut out.
        @raise Lost: The server lacks what it had acknowledged.
        @raise psycopg.Error: A fault of this program.
        """
        failures = 0
        while True:
            try:
                connection = self._connection or await self._again()
                await connection.execute(_PROVE, [self.node])
                await self._prove(connection)
                return
            except ConnectionLost as lost:
                self._broken(str(lost))
            except psycopg.Error as error:
                failures += 1
                await self._refused(error, failures)

    async def _book(
        self, connection: Connection, submissions: Sequence[Submission]
    ) -> list[Verdict | None]:
        now, self.judgedBy = int(self._now()), self.site
        rows = await connection.execute(
            BOOK,
            values(
                self.node,
                self.incarnation,
                self.batch,
                now,
                self.judgedBy,
                submissions,
            ),
        )
        return [*self._verdicts(rows)]

    async def _found(
        self, connection: Connection, submissions: Sequence[Submission]
    ) -> list[Verdict | None] | None:
        """
        What was booked of a batch whose answer was lost, or L{None} if it was not
        carried out.
        """
        link = await connection.execute(_LINK, [self.node, self.batch])
        if not link:
            return None
        [(lo, hi)] = link
        verdicts: list[Verdict | None] = [None] * len(submissions)
        rows = await connection.execute(VERDICTS, [STREAM, lo, hi])
        for verdict in self._verdicts(rows):
            verdicts[verdict.item - 1] = verdict
        return verdicts

    def _verdicts(self, rows: Sequence[tuple[Any, ...]]) -> list[Verdict]:
        verdicts = [Verdict(*row) for row in rows]
        self._moves = verdicts[-1].moves if verdicts else 0
        return verdicts

    async def _prove(self, connection: Connection) -> None:
        """
        Make sure that what was committed is where it has to be.
        """
        warned = False
        while connection.isDoubtful:
            if not warned:
                warned = True
                _log.warn(
                    "PostgreSQL has given up waiting for its synchronous standby:"
                    " nothing is acknowledged until a commit has reached it."
                )
            await self._wait(0)
            await connection.execute(_PROVE, [self.node])

    async def _refused(self, error: psycopg.Error, failures: int) -> None:
        """
        Wait, if the statement can be tried again.
        """
        state = error.sqlstate or ""
        if state == FENCED:
            raise self.fenced() from error
        if state == UNREGISTERED and self._connection is not None:
            with suppress(ConnectionLost):
                await register(self._connection, self.site.rules, int(self._now()))
            return
        if error.diag.constraint_name == _TAKEN:
            raise NumberTaken from error
        if state in AGAIN:
            self.retries += 1
            if state == "40001":
                return
        elif state.startswith(_PASSING):
            # Another server may be the one to write to now.
            self._broken(causeOf(error))
        else:
            raise error
        await self._wait(failures - 1)

    def fenced(self) -> Fenced:
        return Fenced(
            f"another process books as node {self.name}: give each its own --node;"
            " or creditsync init --restored has shut out all nodes: start them again"
        )

    def _broken(self, why: str) -> None:
        """
        Go on with another connection.
        """
        if self.problem is None:
            self.problem = "PostgreSQL can't be reached"
            _log.warn("The connection that books is lost: {why}", why=why)
        self._disconnect()

    async def _again(self) -> Connection:
        """
        Connect again, however long it takes, and raise the incarnation.
        """
        failures = 0
        while not self._isClosed:
            connection = None
            try:
                connection = await self._connect("writer")
                if self._isClosed:
                    raise CancelledError
                raised = await connection.execute(_RAISE, [self.node, self._owner])
                if not raised:
                    raise await self._shutOut(connection)
                [(self.incarnation,)] = raised
                await self._admit(connection)
                await self._prove(connection)
                await self.checkLoss(connection)
            except (ConnectionLost, psycopg.Error) as error:
                if connection is not None:
                    connection.close()
                if self.problem is None:
                    self._broken(causeOf(error))
                await self._wait(failures)
                failures += 1
                continue
            except BaseException:
                if connection is not None:
                    connection.close()
                raise
            self._connection = connection
            self.problem = None
            _log.info("The connection that books is there again.")
            return connection
        raise CancelledError

    async def _shutOut(self, connection: Connection) -> Fenced:
        """
        Make sure that this node was shut out, which has raised its incarnation. A
        server that does not know as high a one has lost even the start of this node.

        @raise Lost: It has, or it lacks what was acknowledged.
        """
        found = await connection.execute(
            _INCARNATION, [self.node, self.name, self.number]
        )
        if all(incarnation <= self.incarnation for (incarnation,) in found):
            raise Lost(
                f"node {self.name} has incarnation {self.incarnation}, but PostgreSQL"
                f" knows {'only ' + str(found[0][0]) if found else 'none'}"
            )
        await self.checkLoss(connection)
        return self.fenced()

    async def checkLoss(self, connection: Connection) -> None:
        """
        Prove that the server still has what was acknowledged last.

        @raise Lost: It does not.
        """
        if self._acknowledged is None:
            return
        batch, hi = self._acknowledged
        link = await connection.execute(_LINK, [self.node, batch])
        if [each[1] for each in link] == [hi]:
            return
        [(last,)] = await connection.execute(_LAST_BATCH, [self.node])
        raise Lost(
            f"node {self.name} has acknowledged batch {batch} with place {hi}, but"
            f" PostgreSQL has its batches only up to {last}"
        )
