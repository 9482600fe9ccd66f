"""
The audit trail: who requested which money operation, and its outcome.

One JSON object per line, appended to a file: one for each operation after it was
booked, in the ledger's own order, one for each finance request that was not carried
out, and one for each decision on an operation that was held. It never contains a token.

The ledger is the record, and the trail only accompanies it: its lines are written
after the commit, and it is left to the kernel when they reach the disk. A disk
that is full, or hangs, costs lines of the trail and nothing else
(L{creditsync._auditfile}).
"""

from collections.abc import Callable, Collection, Sequence
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, Final

from attrs import Factory, define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from creditsync import _wire as wire
from creditsync._auditfile import AuditFile, timestamp
from creditsync._conversation.waiter import Waiter
from creditsync.codes import TS_FINANCE_DECLINED, TS_FINANCE_OPEN_PENDING
from creditsync.errors import OutcomeUnknown, Refusal, Unauthorized
from creditsync.interfaces import ISession
from creditsync.ledger.thread import DaemonThread
from creditsync.methods import FINANCE_METHODS, REQUEST_METHODS, commands
from creditsync.records import (
    AnyOperation,
    BookedElsewhere,
    Decision,
    Deletion,
    ExtID,
    Principal,
    Request,
    Reservation,
    Trade,
    TradeEvent,
)

_MONEY: Final = frozenset(
    name for method in (*FINANCE_METHODS, *REQUEST_METHODS) for name in commands(method)
) | {"MngResolveOperation"}

# Operations whose requesters are remembered. Ours are all booked, but a foreign
# runtime may never book one, or publish its event without its operation.
_MAX_ASKERS: Final = 200_000

_DONE: Final = ("add", "update", "delete")
# What became of an operation, by the state of its trade; booked if it is not here.
_OUTCOMES: Final = {
    TS_FINANCE_OPEN_PENDING: "requested",
    TS_FINANCE_DECLINED: "declined",
}

# The data of a refused request that is recorded, if it is numbers.
_NUMBERS: Final = ("operation", "order", "login", "amount")


class _NoSession:
    """
    In place of a session where no request asked for an operation: its line lacks
    these members.
    """

    number = peer = wire.OMITTED


_NOBODY: Final[tuple[Any, Any]] = _NoSession(), wire.OMITTED


@define(eq=False)
class AuditTrail:
    """
    The trail of one server.

    @ivar now: The UNIX time.
    @ivar run: Executes a blocking function elsewhere, and fires when it has ended;
        by default a L{DaemonThread}.
    @ivar alsoRecorded: The commands that a gateway passes on.
    """

    path: Path
    _clock: IReactorTime
    _now: Callable[[], float]
    _run: Callable[[Callable[[], None]], "Deferred[None]"] = Factory(
        lambda self: DaemonThread(self._clock), takes_self=True
    )
    _file: AuditFile = field(
        init=False,
        default=Factory(
            lambda self: AuditFile(self.path, self._clock, self._now, self._run),
            takes_self=True,
        ),
    )
    alsoRecorded: Collection[str] = field(init=False, default=())
    # The session that requested each operation not booked yet, and its extID.
    _askers: dict[AnyOperation, tuple[ISession, ExtID | None]] = field(
        init=False, factory=dict
    )

    def open(self) -> None:
        """
        Open the file, to append to it.

        @raise OSError: It can't be written; the message is a sentence.
        """
        self._file.open()

    def reopen(self) -> None:
        """
        Continue in a file of the same name, as the old one may have been moved
        away. If it can't be opened, continue in the old one.
        """
        self._file.reopen()

    def close(self) -> "Deferred[None]":
        """
        Write what is left, and close the file.

        @return: Fires when that is done. It may be cancelled if it takes too long.
        """
        return self._file.close()

    @property
    def lost(self) -> int:
        """
        How many lines could not be written.
        """
        return self._file.lost

    # The life of a request: it is accepted and then booked, or a replay, or refused.

    def accepted(self, waiter: Waiter) -> None:
        """
        The operation of a request will be booked.
        """
        operation, asker = waiter.operation, (waiter.session, waiter.extID)
        assert operation is not None
        if self._askers.setdefault(operation, asker) is not asker:
            # A repetition, under the same key, of one that is not booked yet.
            self._record(
                "replayed",
                waiter.session,
                operation.command,
                waiter.extID,
                order=waiter.order,
            )
        elif len(self._askers) > _MAX_ASKERS:
            # Many at a time: a dict looks for its first past all that were removed.
            for oldest in list(islice(self._askers, _MAX_ASKERS // 2)):
                del self._askers[oldest]

    def booked(self, events: Sequence[TradeEvent]) -> None:
        """
        Operations were booked: an observer of the trade events.
        """
        time = timestamp(self._now())
        # What another node has booked is in the trail of that node.
        bookings = [
            self._booking(time, event)
            for event in events
            if not isinstance(event.operation, BookedElsewhere)
        ]
        if bookings:
            self._add(bookings)

    def _add(self, bookings: Sequence[wire.Booking]) -> None:
        """
        Write the lines of bookings. One that can't be encoded, as another runtime
        may publish it, is counted as lost, and does not stop the others.
        """
        try:
            self._file.add(wire.bookings(bookings), len(bookings))
        except Exception as e:
            if len(bookings) == 1:
                self._file.drop(1, f"a line can't be encoded: {e}")
                return
            for booking in bookings:
                self._add([booking])

    def _booking(self, time: str, event: TradeEvent) -> wire.Booking:
        # There is one for each credit: every member in its place, as members by
        # name take half as long again.
        operation, trade = event.operation, event.data
        command = principal = key = wire.OMITTED
        session, extID = _NOBODY
        outcome = "booked"
        if operation is not None:
            command, principal = operation.command, operation.principal
            session, extID = self._askers.pop(operation, _NOBODY)
            if operation.key is not None:
                key = operation.key
        if isinstance(trade, Trade):
            order, login, cmd = trade.order, trade.login, trade.cmd
            amount, comment = wire.amount(trade.profit), trade.comment
            outcome = _OUTCOMES.get(trade.state, outcome)
        else:
            order = event.order
            login = cmd = amount = comment = wire.OMITTED
        return wire.Booking(
            time,
            outcome,
            command,
            principal,
            session.number,
            session.peer,
            extID,
            key,
            _DONE[event.type],
            order,
            login,
            cmd,
            amount,
            comment,
            wire.OMITTED if event.place is None else event.place,
        )

    def replayed(
        self, session: ISession, asked: Request | Waiter, replay: Reservation
    ) -> None:
        """
        The operation of a request was booked before, under the same key.
        """
        self._record(
            "replayed", session, asked.command, asked.extID, order=replay.order
        )

    def resolved(self, session: ISession, principal: int, request: Request) -> None:
        """
        Somebody has decided what became of an operation that was held, and that is
        durable. The session may have ended since.
        """
        data = request.data
        order = {"order": data["order"]} if data["outcome"] == "booked" else {}
        self._record(
            "resolved",
            session,
            request.command,
            request.extID,
            principal=principal,
            operation=data["operation"],
            decision=data["outcome"],
            **order,
        )

    def answered(
        self, session: ISession, asked: Request | Waiter, outcome: Reservation | Refusal
    ) -> None:
        """
        A request got its reply, and that is no plain success.

        @param asked: The request; as a waiter, if it had waited.
        """
        if isinstance(outcome, Refusal):
            self._refused(session, asked, outcome)
        else:
            self.replayed(session, asked, outcome)

    def _refused(
        self, session: ISession, asked: Request | Waiter, refusal: Refusal
    ) -> None:
        """
        Record a refusal. An operation whose outcome is unknown may be booked all
        the same, and then has a second line.
        """
        if asked.command in self.alsoRecorded:
            if isinstance(asked, Waiter):
                # It was passed on, and has a line by what becomes of it.
                return
        elif asked.command not in _MONEY:
            return
        outcome, members = _outcomeOf(refusal)
        self._record(
            outcome,
            session,
            asked.command,
            asked.extID,
            **_numbers(asked),
            **members,
        )

    def passed(
        self,
        session: ISession,
        request: Request,
        principal: Principal,
        refusal: Refusal | None,
    ) -> None:
        """
        A command of the platform behind a gateway was passed on, or was to be.

        @param refusal: What came of it, if that is no success.
        """
        outcome, members = ("passed", {}) if refusal is None else _outcomeOf(refusal)
        self._record(
            outcome,
            session,
            request.command,
            request.extID,
            **_numbers(request),
            **members,
            # Another token may have come on this connection since then.
            principal=principal.id,
        )

    def _record(
        self,
        outcome: str,
        session: ISession,
        command: str,
        extID: ExtID | None,
        **members: Any,
    ) -> None:
        isKnown = members.get("status") != Unauthorized.status
        principal = session.principal if isKnown else None
        line = {
            "time": timestamp(self._now()),
            "outcome": outcome,
            "command": command,
            "principal": None if principal is None else principal.id,
            "session": session.number,
            "peer": session.peer,
            "extID": extID,
            **members,
        }
        self._file.add(wire.encodeData(line) + b"\n")


def _outcomeOf(refusal: Refusal) -> tuple[str, dict[str, Any]]:
    """
    The outcome that a refusal is recorded as, and its members.
    """
    isUnknown = refusal.status == OutcomeUnknown.status
    status, error = refusal.sent
    members = {"status": status, "error": error, "message": refusal.message}
    return "unknown" if isUnknown else "refused", members


def _numbers(asked: Request | Waiter) -> dict[str, Any]:
    """
    What is recorded of a refused request: its order, if that was reserved, or the
    numbers in its data.
    """
    if isinstance(asked, Waiter):
        return {} if asked.order is None else {"order": asked.order}
    operation = asked.operation
    if isinstance(operation, Deletion | Decision):
        return {"order": operation.order}
    if operation is not None:
        amount = wire.amount(operation.amount)
        order = {"order": operation.order} if operation.order else {}
        return {**order, "login": operation.login, "amount": amount}
    return {
        name: asked.data[name]
        for name in _NUMBERS
        if type(asked.data.get(name)) in (int, float, Decimal)
    }
