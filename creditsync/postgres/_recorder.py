"""
The connection on which a gateway makes durable what it sends and what the platform has
booked: one batch at a time, each in one transaction.

Only one gateway may send for a ledger. Two rules of the database see to that. A lock
that belongs to the connection tells whether a gateway is alive: another one does not
start beside it. It is not what keeps the other from sending, as it goes with the
connection, and a gateway may still believe that it has it. That is the incarnation of
the node, as with all that books: who starts raises those of all others, so nothing that
they write can be committed from then on; and what is not committed is not sent.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import psycopg
from attrs import define, field
from msgspec.json import encode
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from creditsync.errors import LedgerInUse, LedgerProblem
from creditsync.ledger._journal import MEMBERS, Row
from creditsync.postgres._connection import Connection, ConnectionLost
from creditsync.postgres._lane import Fenced, Lane, Lost
from creditsync.postgres._schema import STREAM

# Of this schema's table. It is held until the connection ends, or the process with it:
# the server notices by these settings that a machine is gone.
_LOCK: Final = "SELECT pg_try_advisory_lock('intent'::regclass::oid::integer, 1)"
_PATIENCE: Final = """
    SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2;
    SET tcp_keepalives_count = 3; SET tcp_user_timeout = 10000
"""
# The one that has shut out all others.
_HOLDER: Final = "SELECT name FROM node WHERE owner <> ''"
# How often it is tried at a start, and after how many seconds again: the server may not
# have noticed yet that the process before this one is gone.
_TRIES: Final = 15
_PAUSE: Final = 0.2

_FENCE: Final = """
    UPDATE node SET incarnation = incarnation + 1, owner = '' WHERE id <> %s
"""
_LAST: Final = """
    SELECT greatest(
        (SELECT coalesce(max(batch), 0) FROM intent),
        (SELECT coalesce(max(batch), 0) FROM alarm)
    )
"""
_RECORD: Final = (
    "SELECT record_1(%s::integer, %s::integer, %s::bigint, %s::bigint, %s::bigint,"
    " %s::json, %s::json, %s::json, %s::bigint)"
)
_LINK: Final = "SELECT hash FROM link WHERE node = %s AND batch = %s"
_MOVE: Final = "SELECT move_1(%s, %s, %s, false)"

_EVENT: Final = ("seq", *MEMBERS[1:])


@contextmanager
def explainRefusals() -> Iterator[None]:
    """
    Turn what a start fails with into a sentence.

    @raise LedgerProblem: PostgreSQL can't be reached, or refuses.
    """
    try:
        yield
    except ConnectionLost as e:
        raise LedgerProblem(str(e)) from e
    except psycopg.Error as e:
        raise LedgerProblem(f"PostgreSQL refuses: {str(e).strip()}") from e


@define
class Batch:
    """
    What becomes durable together.

    @ivar base: The last place before it.
    @ivar events: Rows of the journal.
    @ivar intents: Rows of the log, with the names of their columns.
    @ivar alarms: Each with its time.
    @ivar mark: Up to which the journal has all changes.
    """

    base: int
    events: Sequence[Row]
    intents: Sequence[dict[str, Any]]
    alarms: Sequence[tuple[int, str]]
    mark: int


@define(eq=False)
class Recorder(Lane):
    """
    See the module.

    @ivar interrupted: Called when the connection is lost, and with it the lock.
    """

    interrupted: Callable[[], object] = field(init=False, default=lambda: None)
    # The last batch that was acknowledged, of those with intents or alarms.
    _recorded: int = field(init=False, default=0)

    async def open(self) -> None:
        """
        See L{Lane.open}, and shut out whoever has sent for this ledger before.

        @raise LedgerInUse: Another gateway does.
        """
        await super().open()
        connection = self._connection
        assert connection is not None
        while True:
            try:
                await connection.execute(_FENCE, [self.node])
                break
            except psycopg.errors.LockNotAvailable:
                # One of its batches is still under way.
                continue
        # Batches of all gateways are in one order, so that the last one is known.
        [(last,)] = await connection.execute(_LAST)
        self.batch = max(self.batch, last)

    async def _admit(self, connection: Connection) -> None:
        await connection.execute(_PATIENCE)
        for _ in range(_TRIES):
            [(isAlone,)] = await connection.execute(_LOCK)
            if isAlone:
                connection.whenLost().addErrback(self._lost)
                return
            if self.node:
                # It was ours. Who has it now is about to shut this one out.
                raise ConnectionLost("another gateway is about to take over")
            await deferLater(self._clock, _PAUSE)
        names = [name for [name] in await connection.execute(_HOLDER)]
        raise LedgerInUse(
            f"the gateway {', '.join(names)} sends for the ledger at"
            f" {connection.place}, and only one may: stop it first. A gateway that is"
            " started after the end of another one takes over from it"
        )

    def _lost(self, why: Failure) -> None:
        if not self._isClosed:
            self.interrupted()

    def fenced(self) -> Fenced:
        """
        See L{Lane.fenced}.
        """
        return Fenced(
            f"another gateway has taken over from {self.name}, which sends nothing any"
            " more; or creditsync init --restored has shut it out: start it again"
        )

    async def record(self, batch: Batch) -> bytes | None:
        """
        Make a batch durable, however long that takes.

        @return: The new hash of the journal, or L{None} if there is none.
        @raise Fenced: Another gateway has taken over.
        @raise Lost: See L{Lane.book}.
        """
        self.batch += 1
        number = self.batch
        members = ("stream", *_EVENT, "node", "batch", "item")
        events = encode(
            [
                dict(zip(members, (STREAM, *row, self.node, number, item), strict=True))
                for item, row in enumerate(batch.events, 1)
            ]
        ).decode()
        intents = encode([{**each, "batch": number} for each in batch.intents]).decode()
        alarms = encode(batch.alarms).decode()

        async def carry(connection: Connection) -> tuple[bytes | None]:
            [(hash,)] = await connection.execute(
                _RECORD,
                [
                    STREAM,
                    self.node,
                    self.incarnation,
                    number,
                    batch.base,
                    events,
                    intents,
                    alarms,
                    batch.mark,
                ],
            )
            return (hash,)

        async def find(connection: Connection) -> tuple[bytes | None] | None:
            if batch.events:
                [*found] = await connection.execute(_LINK, [self.node, number])
                return (found[0][0],) if found else None
            if batch.intents or batch.alarms:
                [(last,)] = await connection.execute(_LAST)
                return (None,) if last == number else None
            # There is only the mark, which may be set twice.
            return None

        [hash] = await self.carryOut(carry, find)
        if batch.events:
            self._acknowledged = number, batch.base + len(batch.events)
        if batch.intents or batch.alarms:
            self._recorded = number
        return hash

    async def move(self, groups: Mapping[int, str]) -> None:
        """
        Move accounts to groups, however long that takes. What was moved may be moved
        again.
        """
        for login, group in sorted(groups.items()):
            moved = partial(_moved, login=login, group=group)
            await self.carryOut(moved, _unfound)

    async def checkLoss(self, connection: Connection) -> None:
        await super().checkLoss(connection)
        [(last,)] = await connection.execute(_LAST)
        if last < self._recorded:
            raise Lost(
                f"gateway {self.name} has recorded batch {self._recorded}, but"
                f" PostgreSQL has its batches only up to {last}"
            )


async def _moved(connection: Connection, login: int, group: str) -> int:
    [(number,)] = await connection.execute(_MOVE, [STREAM, login, group])
    return int(number)


async def _unfound(connection: Connection) -> None:
    """
    It is carried out again.
    """
