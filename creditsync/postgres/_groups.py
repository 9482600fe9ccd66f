"""
The groups of accounts, at hand: rights are asked for each event and request.

Every move of an account to another group is a row of the table C{moved}, in the order
of the moves. Once it is acknowledged it has to hold on all nodes: before an event is
published, a node reads the moves that were committed before it, and before a request of
a restricted token is judged, those that were committed before it came.
"""

from collections.abc import Callable
from sys import intern
from typing import Final

import psycopg
from attrs import define, field
from twisted.internet.defer import Deferred

from creditsync.errors import Busy, UserNotFound
from creditsync.postgres._connection import Connection
from creditsync.postgres._schema import AGAIN, STREAM

_LAST: Final = "SELECT coalesce(max(number), 0) FROM moved"
_ALL: Final = 'SELECT login, "group" FROM account WHERE "group" <> \'\''
_MOVE: Final = "SELECT move_1(%s, %s, %s::text, %s)"
_MOVES: Final = """
    SELECT number, login, "group" FROM moved WHERE number > %s ORDER BY number
"""


@define(eq=False)
class Groups:
    """
    The group of each account that has one.
    """

    _groups: dict[int, str] = field(init=False, factory=dict)
    _last: int = field(init=False, default=0)
    _isReading: bool = field(init=False, default=False)
    # Those that need a read that has not begun yet.
    _waiting: "list[Deferred[None]]" = field(init=False, factory=list)

    def of(self, login: int) -> str:
        """
        The group of an account, "" if it has none.
        """
        return self._groups.get(login, "")

    async def start(self, connection: Connection) -> None:
        """
        Read all groups.
        """
        # First this: a move that comes between the two is read twice.
        [(self._last,)] = await connection.execute(_LAST)
        for login, group in await connection.execute(_ALL):
            self._groups[login] = intern(group)

    async def move(
        self,
        connection: Connection,
        login: int,
        group: str,
        knownOnly: bool,
        prove: Callable[[], Deferred[str]],
    ) -> None:
        """
        Move an account, and read that move.

        @param knownOnly: Whether accounts have to exist.
        @param prove: Makes sure that what was committed is where it has to be.
        @raise UserNotFound: There is no such account.
        @raise Busy: Its row is locked for too long.
        """
        try:
            [(number,)] = await connection.execute(
                _MOVE, [STREAM, login, group, knownOnly]
            )
        except psycopg.Error as e:
            if e.sqlstate not in AGAIN:
                raise
            raise Busy(f"another server is busy with account {login}") from e
        if number is None:
            raise UserNotFound(f"there is no account {login}")
        if connection.isDoubtful:
            await prove()
        await self.read(connection)

    async def read(self, connection: Connection) -> None:
        """
        Read the moves since the last time.
        """
        for number, login, group in await connection.execute(_MOVES, [self._last]):
            if number > self._last:
                self._last = number
                self._groups[login] = intern(group)

    async def readUpTo(self, connection: Connection, number: int) -> None:
        """
        Read the moves up to this one, unless they are known.
        """
        if number > self._last:
            await self.read(connection)

    def whenRead(self, connection: Connection) -> Deferred[None]:
        """
        Wait until all is known that was committed before this call. Calls that come
        while moves are read share the next read.

        @return: It fails as L{Connection.execute} does.
        """
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        if not self._isReading:
            self._isReading = True
            Deferred.fromCoroutine(self._readForAll(connection))
        return waiting

    async def _readForAll(self, connection: Connection) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            why = None
            try:
                await self.read(connection)
            except BaseException as e:
                why = e
            for each in waiting:
                if why is None:
                    each.callback(None)
                else:
                    each.errback(why)
        self._isReading = False
