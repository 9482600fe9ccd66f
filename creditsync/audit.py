"""
The audit trail: who asked for which money operation, and what became of it.

One JSON object a line, appended to a file: one for each operation after it was
booked, in the ledger's own order, and one for each request of the finance family
that was not carried out. No token is ever written.

The ledger is the record, and the trail a trail beside it: it is written after
the commit, and it is the kernel that brings it to disk. A disk that is full
costs lines of the trail, which are counted and reported, and nothing else. Neither
does one that hangs: the file is written in a thread of its own, a batch at a time,
and what comes meanwhile is the next batch.
"""

import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from json import JSONEncoder
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attrs import Factory, define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from creditsync import _wire as wire
from creditsync._money import fromUnits
from creditsync.errors import OutcomeUnknown, Refusal, Unauthorized
from creditsync.ledger.thread import DaemonThread
from creditsync.methods import FINANCE_METHODS, syncName
from creditsync.records import (
    Deferral,
    Deletion,
    ExtID,
    Operation,
    Trade,
    TradeEvent,
)

if TYPE_CHECKING:
    from creditsync._conversation.session import Session
    from creditsync._conversation.waiters import Waiter

_MONEY: Final = frozenset(
    name for method in FINANCE_METHODS for name in (method.name, syncName(method))
)
_encode = JSONEncoder().encode

# Operations of which it is remembered who asked, at once. Ours are all booked, but a
# foreign runtime may never say what became of one, or not mark its event.
_MOST_ASKERS: Final = 200_000

_DONE: Final = ("add", "update", "delete")
# Lines that may wait for a file that can't be written as fast as they come: some
# 25 MB. Beyond it those that wait are lost.
_MAX_WAITING: Final = 100_000

# What a trail can't be, as a write to it may block for ever, or is read by
# somebody once and then is gone.
_KINDS: Final = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)

# What is told of the data of a request that was refused, where it is a number.
_ASKED: Final = ("order", "login", "amount")


def checkKind(path: Path) -> None:
    """
    See that a trail can be written to this file, if it is there.

    @raise ValueError: It is not a regular file.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    _checkMode(path, mode)


def _checkMode(path: Path, mode: int) -> None:
    for isIt, kind in _KINDS:
        if isIt(mode):
            raise ValueError(f"{path} is {kind}, and the trail needs a regular file")


@define(eq=False)
class AuditTrail:
    """
    The trail of one server.

    @ivar now: The UNIX time.
    @ivar run: Executes a blocking function elsewhere, and fires when it has ended;
        by default a L{DaemonThread}.
    @ivar lost: The lines that could not be written.
    """

    path: Path
    _clock: IReactorTime
    _now: Callable[[], float]
    _run: Callable[[Callable[[], None]], "Deferred[None]"] = Factory(
        lambda self: DaemonThread(self._clock), takes_self=True
    )
    lost: int = field(init=False, default=0)
    _file: int | None = field(init=False, default=None)
    # Which session asked for what is not booked yet, and under which extID.
    _askers: "OrderedDict[Operation | Deletion, tuple[Session, ExtID | None]]" = field(
        init=False, factory=OrderedDict
    )
    _lines: list[bytes] = field(init=False, factory=list)
    _write: IDelayedCall | None = field(init=False, default=None)
    # What is done with the file now, and whether it is to be opened again next.
    _working: "Deferred[None] | None" = field(init=False, default=None)
    _isMoved: bool = field(init=False, default=False)
    # Lines lost since the last that was written, and whether that one lacks its end.
    _gap: int = field(init=False, default=0)
    _isTorn: bool = field(init=False, default=False)

    _log = Logger()

    def open(self) -> None:
        """
        Begin to write, where the last process ended.

        @raise OSError: The file can't be written to; the message is a sentence.
        """
        try:
            self._file = self._opened()
        except (OSError, ValueError) as e:
            raise OSError(
                f"the audit trail {self.path} can't be written: {_reason(e)}"
            ) from e

    def _opened(self) -> int:
        checkKind(self.path)
        # Whatever has got the name in the meantime, to open it may neither block
        # nor make it the terminal of this process.
        file = os.open(
            self.path,
            os.O_WRONLY
            | os.O_APPEND
            | os.O_CREAT
            | os.O_CLOEXEC
            | os.O_NONBLOCK
            | os.O_NOCTTY,
            0o640,
        )
        try:
            _checkMode(self.path, os.fstat(file).st_mode)
        except ValueError:
            os.close(file)
            raise
        return file

    def reopen(self) -> None:
        """
        Go on in a file of the same name, as the old one may have been moved
        away. If that can't be, go on in the old one.
        """
        self._isMoved = True
        self._work()

    def close(self) -> "Deferred[None]":
        """
        Write what is left, and end.

        @return: Fires when that is done. It may be cancelled if it takes too long.
        """
        self.flush()
        return Deferred.fromCoroutine(self._close())

    async def _close(self) -> None:
        try:
            if self._working is not None:
                await self._working
        finally:
            file, self._file = self._file, None
            if self._lines:
                self._missed(len(self._lines), "it has not kept up until the end")
        if file is not None:
            await self._run(partial(os.close, file))

    # What happens, in the order in which it does.

    def asked(
        self, session: "Session", extID: ExtID | None, deferral: Deferral
    ) -> None:
        """
        A request was accepted, and its operation will be booked.
        """
        operation = deferral.operation
        if operation in self._askers:
            # It was asked for before, under the same key, and is on its way.
            self.replayed(session, operation.command, extID, deferral.order)
        else:
            self._askers[operation] = session, extID
            if len(self._askers) > _MOST_ASKERS:
                self._askers.popitem(last=False)

    def replayed(
        self, session: "Session", command: str, extID: ExtID | None, order: int
    ) -> None:
        """
        A request is answered by what was booked before under its key.
        """
        self._tell("replayed", session, command, extID, order=order)

    def refused(
        self,
        session: "Session",
        members: dict[str, Any],
        extID: ExtID | None,
        refusal: Refusal,
    ) -> None:
        """
        A request was refused at once, and nothing has happened.

        @param members: What could be read of it.
        """
        command = members.get("command")
        if not isinstance(command, str) or command not in _MONEY:
            return
        data = members.get("data")
        asked = data if isinstance(data, dict) else {}
        numbers = {
            name: asked[name]
            for name in _ASKED
            if type(asked.get(name)) in (int, float, Decimal)
        }
        self._tell("refused", session, command, extID, **numbers, **_of(refusal))

    def refusedLater(
        self, session: "Session", waiter: "Waiter", refusal: Refusal
    ) -> None:
        """
        A request was refused, or its outcome is unknown, after it had waited.
        If it is booked all the same, it has a second line then.
        """
        if waiter.command not in _MONEY:
            return
        outcome = "refused" if refusal.status != OutcomeUnknown.status else "unknown"
        order = {} if waiter.order is None else {"order": waiter.order}
        self._tell(
            outcome, session, waiter.command, waiter.extID, **order, **_of(refusal)
        )

    def booked(self, events: Sequence[TradeEvent]) -> None:
        """
        Operations were booked: an observer of the stream of events.
        """
        time = self._time()
        self._lines.extend([self._booking(time, event) for event in events])
        self.flush()

    def _booking(self, time: str, event: TradeEvent) -> bytes:
        # Written by hand: it comes once for each credit.
        operation, trade = event.operation, event.data
        asked = "" if operation is None else self._askedFor(operation)
        if isinstance(trade, Trade):
            done = (
                f',"order":{trade.order},"login":{trade.login},"cmd":{trade.cmd}'
                f',"amount":{fromUnits(trade.profit)}'
                f',"comment":{_encode(trade.comment)}'
            )
        else:
            done = f',"order":{event.order}'
        return (
            f'{{"time":"{time}","outcome":"booked"{asked}'
            f',"done":"{_DONE[event.type]}"{done}}}'
        ).encode("ascii")

    def _askedFor(self, operation: Operation | Deletion) -> str:
        """
        Who asked for an operation, as members of a line.
        """
        text = f',"command":"{operation.command}","principal":{operation.principal}'
        session, extID = self._askers.pop(operation, (None, None))
        if session is not None:
            text += (
                f',"session":{session.number},"peer":{_encode(session.peer)}'
                f',"extID":{_encode(extID)}'
            )
        if operation.key is not None:
            text += f',"idempotencyKey":{_encode(operation.key)}'
        return text

    def _tell(
        self,
        outcome: str,
        session: "Session",
        command: str,
        extID: ExtID | None,
        **members: Any,
    ) -> None:
        isKnown = members.get("status") != Unauthorized.status
        principal = session.principal if isKnown else None
        line = {
            "time": self._time(),
            "outcome": outcome,
            "command": command,
            "principal": None if principal is None else principal.id,
            "session": session.number,
            "peer": session.peer,
            "extID": extID,
            **members,
        }
        self._lines.append(wire.encodeData(line))
        if self._write is None:
            self._write = self._clock.callLater(0, self.flush)

    def _time(self) -> str:
        return f"{datetime.fromtimestamp(self._now(), UTC):%Y-%m-%dT%H:%M:%S.%fZ}"

    # The file.

    def flush(self) -> None:
        """
        Have what was told written.
        """
        if self._write is not None:
            if self._write.active():
                self._write.cancel()
            self._write = None
        if len(self._lines) > _MAX_WAITING:
            # Not the newest, so that the gap is where the trail says it is.
            self._missed(len(self._lines), "it is written too slowly")
            self._lines = []
        self._work()

    def _work(self) -> None:
        """
        Do what there is to do with the file, unless something is being done: then
        it comes after that.
        """
        if self._working is None and self._file is not None:
            work = Deferred.fromCoroutine(self._workOff(self._file))
            # It may have ended at once.
            self._working = None if work.called else work

    async def _workOff(self, file: int) -> None:
        try:
            while self._isMoved or self._lines:
                if self._isMoved:
                    self._isMoved = False
                    file = await self._openAgain(file)
                else:
                    await self._append(file)
        finally:
            self._working = None

    async def _openAgain(self, old: int) -> int:
        opened = [old]

        def replace() -> None:
            opened.append(self._opened())
            os.close(old)

        try:
            await self._run(replace)
        except (OSError, ValueError) as e:
            self._log.error(
                "The audit trail {path} can't be opened again, the old file goes on:"
                " {why}",
                path=str(self.path),
                why=_reason(e),
            )
        self._file = opened[-1]
        return opened[-1]

    async def _append(self, file: int) -> None:
        lines, self._lines = self._lines, []
        gap = self._gap
        head = b"\n" if self._isTorn else b""
        if gap:
            members = {"time": self._time(), "outcome": "lost", "lines": gap}
            head += wire.encodeData(members) + b"\n"
        data = head + b"\n".join(lines) + b"\n"
        written = [0]

        def write() -> None:
            while written[-1] < len(data):
                written.append(written[-1] + os.write(file, data[written[-1] :]))

        why: OSError | None = None
        try:
            await self._run(write)
        except OSError as e:
            why = e
        except CancelledError:
            self._lines = lines + self._lines
            raise
        end = written[-1]
        if gap and end >= len(head):
            self._found(gap)
        if why is not None:
            self._missed(data.count(b"\n", max(end, len(head))), _reason(why))
        if end:
            self._isTorn = data[end - 1 : end] != b"\n"

    def _missed(self, count: int, why: str) -> None:
        """
        Count lines, and say so once.
        """
        if not self._gap:
            self._log.error(
                "The audit trail {path} can't be written, lines are dropped until it"
                " can be written again; bookings are not affected: {why}",
                path=str(self.path),
                why=why,
            )
        self._gap += count
        self.lost += count

    def _found(self, count: int) -> None:
        """
        The trail has said itself how many are missing; say so once more.
        """
        self._log.warn(
            "The audit trail {path} is written again; {count} lines were lost.",
            path=str(self.path),
            count=count,
        )
        self._gap -= count


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)


def _of(refusal: Refusal) -> dict[str, Any]:
    """
    What is told of a refusal.
    """
    return {
        "status": refusal.status,
        "error": refusal.error,
        "message": refusal.message,
    }
