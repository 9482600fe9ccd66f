"""
The finance commands, as one declarative table.

Each row gives two commands: the asynchronous one, which is answered once its
operation can no longer be lost, and its C{Sync} form, which is answered with
the data of the trade event. Both take the same way through the runtime; they
differ in what their C{__deferred} waits for. To add a method is to add a row.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from creditsync.codes import (
    BALANCE_OPERATIONS,
    CREDIT_OPERATIONS,
    FINANCE_SESSIONS,
    OP_BALANCE_IN,
    OP_BALANCE_OUT,
    OP_CREDIT_IN,
    OP_CREDIT_OUT,
    REQUEST_STATES,
)
from creditsync.errors import InvalidData, OutcomeUnknown, Refusal
from creditsync.interfaces import ICommand, ITradingRuntime
from creditsync.records import (
    Deferral,
    Deletion,
    Operation,
    Replay,
    Request,
    Reservation,
)
from creditsync.wire import fromUnits, toUnits

if TYPE_CHECKING:
    from creditsync.session import Session

# The comment where a balance operation comes without one (platform).
_BALANCE_COMMENT = "Finance"


@define
class Booking:
    """
    A row of the table: a method that makes or updates a trade.

    @ivar name: The asynchronous command; its C{Sync} form is named after it.
    @ivar schema: The schema of the data, which also holds the amount's sign.
    @ivar cmd: The C{OP_*} code of the trades that it makes.
    """

    name: str
    schema: str
    cmd: int

    def operation(
        self, command: str, data: dict[str, Any], principal: int, key: str | None
    ) -> Operation:
        """
        What a request asks of the runtime, after the rules no schema can say.

        @raise InvalidData: It breaks one of them.
        """
        try:
            amount = toUnits(data["amount"])
        except ValueError:
            raise InvalidData("data.amount must have at most 8 decimals") from None
        openTime, closeTime = data.get("open_time"), data.get("close_time")
        if openTime is not None and closeTime is not None and closeTime < openTime:
            raise InvalidData("data.close_time must not be before data.open_time")
        # JSON Schema takes 1001.0 for an integer, and so does int().
        return Operation(
            command,
            self.cmd,
            int(data["login"]),
            amount,
            data.get("comment", _BALANCE_COMMENT),
            int(data.get("order", 0)),
            None if openTime is None else int(openTime),
            None if closeTime is None else int(closeTime),
            principal,
            key,
        )


@define
class Deleting:
    """
    A row of the table: a method that deletes a trade.

    @ivar cmds: The C{OP_*} codes of the trades that it may delete.
    """

    name: str
    schema: str
    cmds: frozenset[int]

    def operation(
        self, command: str, data: dict[str, Any], principal: int, key: str | None
    ) -> Deletion:
        """
        What a request asks of the runtime.
        """
        return Deletion(command, int(data["order"]), self.cmds, principal, key)


FINANCE_METHODS = (
    Booking("CreditIn", "credit_in", OP_CREDIT_IN),
    Booking("CreditOut", "credit_out", OP_CREDIT_OUT),
    Booking("BalanceIn", "balance_in", OP_BALANCE_IN),
    Booking("BalanceOut", "balance_out", OP_BALANCE_OUT),
    Deleting("DeleteCredit", "delete", CREDIT_OPERATIONS),
    Deleting("DeleteBalance", "delete", BALANCE_OPERATIONS),
)


@implementer(ICommand)
@define(eq=False)
class FinanceCommand:
    """
    One command of the finance family: a method in one of its two forms.
    """

    _method: Booking | Deleting
    _runtime: ITradingRuntime
    _isSync: bool
    _isExtIDIdempotent: bool = False
    name: str = field(init=False)
    schema: str = field(init=False)
    needsExtID: bool = field(init=False)
    roles = FINANCE_SESSIONS

    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self.name = self._method.name + ("Sync" if self._isSync else "")
        self.schema = self._method.schema
        self.needsExtID = self._isSync

    def execute(
        self, session: "Session", request: Request
    ) -> "dict[str, Any] | Deferred[dict[str, Any]]":
        """
        Hand the operation to the runtime.

        @return: The response of an accepted command, C{__deferred} in it.
        """
        assert session.principal is not None
        operation = self._method.operation(
            self.name, request.data, session.principal.id, self._key(request)
        )
        reservation = self._runtime.submit(operation)
        if isinstance(reservation, Reservation):
            return self._accepted(reservation)
        return reservation.addCallbacks(self._accepted, self._notAccepted)

    def _key(self, request: Request) -> str | None:
        """
        What makes a repetition of this request safe, if anything.
        """
        if request.key is not None or not self._isExtIDIdempotent:
            return request.key
        if request.extID is None:
            return None
        # 7 and 7.0 are one integer, "7" is another extID.
        extID = request.extID
        key = extID if isinstance(extID, str) else f"#{int(extID)}"
        if not (key.isascii() and key.isprintable()):
            raise InvalidData(
                "extID must be printable ASCII: here it is the idempotencyKey too"
            )
        return key

    def _accepted(self, reservation: Reservation) -> dict[str, Any]:
        # What a client is told of a Sync command is the event's data alone.
        response = {} if self._isSync else _usualSuccess(reservation)
        if reservation.isReplay:
            trade = reservation.trade if self._isSync else None
            response["__deferred"] = Replay(reservation.order, trade)
        else:
            response["__deferred"] = Deferral(
                reservation.trade.order,
                reservation.eventType,
                reservation.operation,
                None if self._isSync else reservation.whenDurable(),
            )
        return response

    def _notAccepted(self, why: Failure) -> Failure:
        """
        Not to reserve at once is to reserve elsewhere: unless that was
        refused, nobody here knows what has happened there.
        """
        if why.check(Refusal):
            return why
        self._log.failure("the trading runtime failed", why)
        return Failure(OutcomeUnknown("the trading runtime failed"))


def _usualSuccess(reservation: Reservation) -> dict[str, Any]:
    """
    What the client of an asynchronous command is told (platform).
    """
    trade = reservation.trade
    return {
        "accepted": True,
        "order": trade.order,
        "state": REQUEST_STATES[reservation.eventType],
        "login": trade.login,
        "cmd": trade.cmd,
        "amount": Decimal(fromUnits(trade.profit)),
    }


def financeCommands(
    runtime: ITradingRuntime, isExtIDIdempotent: bool = False
) -> Iterator[FinanceCommand]:
    """
    Every command of the table, in both its forms.

    @param isExtIDIdempotent: Take the C{extID} of a request as its
        C{idempotencyKey} where it has none.
    """
    for method in FINANCE_METHODS:
        for isSync in (False, True):
            yield FinanceCommand(method, runtime, isSync, isExtIDIdempotent)
