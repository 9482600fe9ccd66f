"""
The groups of accounts, at hand: rights are asked for each event and request.

Every move of an account to another group is a row of the table C{moved}, in the order
of the moves, which each node reads as it reads the journal.
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
