"""
The audit trail: who asked for which money operation, and what became of it.

One JSON object a line, appended to a file: one for each operation after it was
booked, in the ledger's own order, and one for each request of the finance family
that was not carried out. No token is ever written.

The ledger is the record, and the trail a trail beside it: it is written after
the commit, and it is the kernel that brings it to disk. A disk that is full
costs lines of the trail, which are counted and told, and nothing else.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from json import JSONEncoder
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from creditsync import wire
from creditsync.errors import OutcomeUnknown, Refusal, Unauthorized
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
    from creditsync.session import Session
    from creditsync.waiters import Waiter

_MONEY: Final = frozenset(
    name for method in FINANCE_METHODS for name in (method.name, syncName(method))
)
_encode = JSONEncoder().encode

# Operations of which it is remembered who asked, at once. Ours are all booked, but a
# foreign runtime may never say what became of one, or not mark its event.
_MOST_ASKERS: Final = 200_000

_DONE: Final = ("add", "update", "delete")
# What is told of the data of a request that was refused, where it is a number.
_ASKED: Final = ("order", "login", "amount")


@define(eq=False)
class AuditTrail:
    """
    The trail of one server.

    @ivar now: The UNIX time.
    @ivar lost: The lines that could not be written.
    """

    path: Path
    _clock: IReactorTime
    _now: Callable[[], float]
    lost: int = field(init=False, default=0)
    _file: int | None = field(init=False, default=None)
    # Which session asked for what is not booked yet, and under which extID.
    _askers: "OrderedDict[Operation | Deletion, tuple[Session, ExtID | None]]" = field(
        init=False, factory=OrderedDict
    )
    _lines: list[bytes] = field(init=False, factory=list)
    _write: IDelayedCall | None = field(init=False, default=None)
    # Lines lost since the last that was written, and whether that one lacks its end.
    _gap: int = field(init=False, default=0)
    _isTorn: bool = field(init=False, default=False)

    _log = Logger()

    def open(self) -> None:
        """
        Begin to write, where the last process ended.

        @raise OSError: The file can't be written to.
        """
        self._file = self._opened()

    def _opened(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        return os.open(self.path, flags, 0o640)

    def reopen(self) -> None:
        """
        Go on in a file of the same name, as the old one may have been moved
        away. If that can't be, go on in the old one.
        """
        if self._file is None:
            return
        try:
            file = self._opened()
        except OSError as e:
            self._log.error(
                "The audit trail {path} can't be opened again, the old file goes on:"
                " {why}",
                path=str(self.path),
                why=e.strerror,
            )
            return
        os.close(self._file)
        self._file = file

    def close(self) -> None:
        """
        Write what is left, and end.
        """
        self.flush()
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

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
                f',"amount":{wire.fromUnits(trade.profit)}'
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
                f',"session":{session.number},"peer":"{_address(session.peer)}"'
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
            "peer": _address(session.peer),
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
        Write what was told.
        """
        if self._write is not None:
            if self._write.active():
                self._write.cancel()
            self._write = None
        lines, self._lines = self._lines, []
        if not lines or self._file is None:
            return
        try:
            if self._isTorn:
                os.write(self._file, b"\n")
                self._isTorn = False
            if self._gap:
                gap = {"time": self._time(), "outcome": "lost", "lines": self._gap}
                os.write(self._file, wire.encodeData(gap) + b"\n")
                self._found()
        except OSError as e:
            self._missed(len(lines), e)
        else:
            self._append(self._file, b"\n".join(lines) + b"\n")

    def _append(self, file: int, data: bytes) -> None:
        written = 0
        try:
            while written < len(data):
                written += os.write(file, data[written:])
        except OSError as e:
            self._missed(data.count(b"\n", written), e)
        self._isTorn = data[:written][-1:] not in (b"", b"\n")

    def _missed(self, count: int, why: OSError) -> None:
        """
        Count lines, and say so once.
        """
        if not self._gap:
            self._log.error(
                "The audit trail {path} can't be written, its lines are lost until it"
                " can; money is not concerned: {why}",
                path=str(self.path),
                why=why.strerror,
            )
        self._gap += count
        self.lost += count

    def _found(self) -> None:
        """
        The trail has said itself how many are missing; say so once more.
        """
        self._log.warn(
            "The audit trail {path} is written again; {count} lines were lost.",
            path=str(self.path),
            count=self._gap,
        )
        self._gap = 0


def _of(refusal: Refusal) -> dict[str, Any]:
    """
    What is told of a refusal.
    """
    return {
        "status": refusal.status,
        "error": refusal.error,
        "message": refusal.message,
    }


def _address(peer: Any) -> str:
    """
    Where a client is, for people to read.
    """
    host = getattr(peer, "host", None)
    return "local" if host is None else f"{host}:{peer.port}"
