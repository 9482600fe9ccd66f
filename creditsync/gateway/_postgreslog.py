"""
The intent log on PostgreSQL.

PostgreSQL has the journal and the log, and what is not committed there is not durable.
What the gateway reads again and again, as whether a key was used and what an order was
before, it reads from a copy of its own: a file that is made at each start and goes with
the process. No other program writes what is copied, which the incarnation of the node
sees to, so the copy has what PostgreSQL has as soon as a commit there has ended.
"""

import shutil
import tempfile
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from attrs import define, evolve, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from creditsync.errors import LedgerDamaged, LedgerInUse
from creditsync.gateway._intents import Alarm, IIntentLog, Intent, givePlaces
from creditsync.gateway._sqlitelog import COLUMNS, SQLiteIntentLog, rowOf, script
from creditsync.ledger._journal import chained, rowsOf
from creditsync.ledger._opening import releaseLock, takeLock
from creditsync.ledger._replica import fill
from creditsync.ledger._source import Source
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.postgres._connection import Connection
from creditsync.postgres._kinds import makeGateway
from creditsync.postgres._lane import Lost
from creditsync.postgres._recorder import Batch, Recorder, explainRefusals
from creditsync.postgres._starting import GATEWAYS_LOSS, check
from creditsync.records import Reservation

_T = TypeVar("_T")

_NAMES: Final = tuple(each.strip('"') for each in COLUMNS)
_OTHERS: Final = {
    "intent": ", ".join(COLUMNS),
    "caught_up": "id, update_time",
    "alarm": "number, timestamp, text",
}

# Of the folder of a copy, in that of temporary files.
_PREFIX: Final = "creditsync-gateway-"
_FILE: Final = "copy.db"
# Of the lock there, to which ".lock" is appended.
_NAME: Final = "gateway"

_log = Logger()


class LedgerCopy(SQLiteLedger):
    """
    The copy. It need not outlive its process.
    """

    @property
    def hash(self) -> bytes:
        """
        Of the last commit.
        """
        return self._hash

    def begin(self) -> None:
        """
        Leave it to the system when what is written from now on comes to the disk.
        """
        assert self._writer is not None
        self._writer.execute("PRAGMA synchronous = OFF")


@implementer(IIntentLog)
@define(eq=False)
class PostgresIntentLog(SQLiteIntentLog):
    """
    The log on PostgreSQL, and its copy.

    @ivar ledger: The copy, which gets its path here.
    @ivar _connect: Connects, for the use that is its argument.
    @ivar _reading: Opens the ledger on PostgreSQL as it is at one moment.
    @ivar _run: Calls a blocking function, in another thread or at once.
    """

    ledger: LedgerCopy
    _recorder: Recorder
    _connect: Callable[[str], "Deferred[Connection]"]
    _reading: Callable[[], AbstractContextManager[Source]]
    _run: Callable[[Callable[[], None]], "Deferred[None]"]
    _opening: "Deferred[None] | None" = field(default=None, init=False)
    _folder: tuple[Path, int] | None = field(default=None, init=False)
    _loss: str | None = field(default=None, init=False)

    @property
    def problem(self) -> str | None:
        """
        See L{IIntentLog.problem}.
        """
        return self._loss or self._recorder.problem

    def open(self) -> "Deferred[None]":
        """
        See L{IIntentLog.open}. Whoever has sent for this ledger before is shut out.

        @raise creditsync.errors.LedgerInUse: Another gateway sends for it.
        @raise creditsync.errors.LedgerProblem: It can't be used for another reason.
        """
        self._opening = Deferred.fromCoroutine(self._open())
        return self._opening

    async def _open(self) -> None:
        try:
            with explainRefusals():
                await self._prepare()
                await self._recorder.open()
            self._folder = _newFolder()
            self.ledger.path = str(self._folder[0] / _FILE)
            await self._run(self._copy)
            await super().open()
        except BaseException:
            self._release()
            raise
        self._opening = None
        self.ledger.begin()
        self._recorder.interrupted = lambda: self.interrupted()

    async def _prepare(self) -> None:
        connection = await self._connect("reader")
        try:
            for warning in await check(connection, loss=GATEWAYS_LOSS):
                _log.warn("{warning}", warning=warning)
            await makeGateway(connection)
        finally:
            connection.close()

    def _copy(self) -> None:
        with self._reading() as source:
            fill(self.ledger.path, source, script(), _OTHERS)

    def close(self) -> None:
        """
        See L{IIntentLog.close}.
        """
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
        self._release()

    def _release(self) -> None:
        self._recorder.close()
        self.ledger.close()
        made, self._folder = self._folder, None
        if made is not None:
            folder, lock = made
            shutil.rmtree(folder, ignore_errors=True)
            releaseLock(lock)

    def write(
        self,
        intents: Collection[Intent],
        reservations: Sequence[Reservation],
        mark: int,
        alarms: Sequence[Alarm] = (),
    ) -> "Deferred[None]":
        """
        See L{IIntentLog.write}. It takes until PostgreSQL is there.
        """
        return Deferred.fromCoroutine(
            self._write(intents, reservations, mark, tuple(alarms))
        )

    async def _write(
        self,
        intents: Collection[Intent],
        reservations: Sequence[Reservation],
        mark: int,
        alarms: Sequence[Alarm],
    ) -> None:
        rows = rowsOf(reservations, self.ledger.head)
        givePlaces(intents, reservations, self.ledger.placeOf)
        # They may change again before it is known that this is durable.
        copies = [evolve(each) for each in intents]
        batch = Batch(
            self.ledger.head,
            rows,
            [_named(each) for each in copies],
            [(time, _storable(text)) for time, text in alarms],
            mark,
        )
        hash = await self._lossless(self._recorder.record(batch))
        if rows and hash != chained(self.ledger.hash, rows):
            raise LedgerDamaged(
                "the journal on PostgreSQL is not what this gateway has read and"
                " written: find out which other program has changed it"
            )
        await super().write(copies, reservations, mark, alarms)

    def setGroups(self, groups: Mapping[int, str]) -> "Deferred[None]":
        """
        See L{IIntentLog.setGroups}.
        """
        return Deferred.fromCoroutine(self._setGroups(groups))

    async def _setGroups(self, groups: Mapping[int, str]) -> None:
        await self._lossless(self._recorder.move(groups))
        await super().setGroups(groups)

    async def _lossless(self, done: Coroutine[Any, Any, _T]) -> _T:
        """
        The outcome, which never comes if PostgreSQL has lost what it had acknowledged:
        a process that was started now would not know what was sent.
        """
        try:
            return await done
        except Lost as e:
            self._loss = "PostgreSQL has lost acknowledged operations"
            _log.critical(
                "PostgreSQL has lost acknowledged operations, and this gateway sends"
                " nothing more: {why}. The copy {path} has them: see docs/gateway.rst"
                " before you stop this process.",
                why=str(e),
                path=self.ledger.path,
            )
            never: Deferred[_T] = Deferred()
            return await never


def _named(intent: Intent) -> dict[str, Any]:
    """
    The row of an intent, by its columns.
    """
    row = dict(zip(_NAMES, rowOf(intent), strict=True))
    return {**row, "why": _storable(intent.why)}


def _storable(text: str) -> str:
    """
    What the platform has said may have a character that PostgreSQL can't store.
    """
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _newFolder() -> tuple[Path, int]:
    """
    A new folder for a copy, and the lock that keeps other gateways from removing it.
    Those of gateways that were killed are removed.
    """
    temporary = Path(tempfile.gettempdir())
    for former in temporary.glob(f"{_PREFIX}*/{_NAME}.lock"):
        with suppress(LedgerInUse, OSError):
            lock = takeLock(str(former.with_suffix("")))
            shutil.rmtree(former.parent, ignore_errors=True)
            releaseLock(lock)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        # Before it is locked, one that is started at this moment may remove it.
        with suppress(LedgerInUse, OSError):
            lock = takeLock(str(folder / _NAME))
            if folder.exists():
                return folder, lock
            releaseLock(lock)
