"""
The finance commands, as one declarative table.

Each row gives two commands: the asynchronous one, which is answered once its
operation can no longer be lost, and its C{Sync} form, which is answered with
the data of the trade event. Both take the same way through the runtime; they
differ in what their C{__deferred} waits for. To add a method is to add a row.
"""

from collections.abc import Iterator
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from zope.interface import implementer

from creditsync.codes import (
    EV_RECORD_ADD,
    EV_RECORD_DELETE,
    EV_RECORD_UPDATE,
    FINANCE_SESSIONS,
    OP_CREDIT_IN,
    TS_FINANCE_DELETE_REQUEST,
    TS_FINANCE_OPEN_REQUEST,
    TS_FINANCE_UPDATE_REQUEST,
)
from creditsync.errors import InvalidData
from creditsync.interfaces import ICommand, ITradingRuntime
from creditsync.records import Deferral, Operation, Request, Reservation
from creditsync.wire import toUnits

# The state of an accepted operation while it is queued, by the event to come.
_REQUEST_STATES = {
    EV_RECORD_ADD: TS_FINANCE_OPEN_REQUEST,
    EV_RECORD_UPDATE: TS_FINANCE_UPDATE_REQUEST,
    EV_RECORD_DELETE: TS_FINANCE_DELETE_REQUEST,
}


@define
class FinanceMethod:
    """
    A row of the table.

    @ivar name: The asynchronous command; its C{Sync} form is named after it.
    @ivar schema: The schema of the data, which also holds the amount's sign.
    @ivar cmd: The C{OP_*} code of the trades that it makes.
    """

    name: str
    schema: str
    cmd: int


FINANCE_METHODS = (FinanceMethod("CreditIn", "credit_in", OP_CREDIT_IN),)


@implementer(ICommand)
@define(eq=False)
class FinanceCommand:
    """
    One command of the finance family: a method in one of its two forms.
    """

    _method: FinanceMethod
    _runtime: ITradingRuntime
    _isSync: bool
    name: str = field(init=False)
    schema: str = field(init=False)
    needsExtID: bool = field(init=False)
    roles = FINANCE_SESSIONS

    def __attrs_post_init__(self) -> None:
        self.name = self._method.name + ("Sync" if self._isSync else "")
        self.schema = self._method.schema
        self.needsExtID = self._isSync

    def execute(self, session: object, request: Request) -> "Deferred[dict[str, Any]]":
        """
        Hand the operation to the runtime.

        @return: Fires with the response of an accepted command, C{__deferred}
            in it.
        """
        operation = self._operation(request.data)
        return self._runtime.submit(operation).addCallback(
            self._accepted, request.data["amount"]
        )

    def _operation(self, data: dict[str, Any]) -> Operation:
        """
        What the data asks of the runtime, after the rules no schema can say.
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
            cmd=self._method.cmd,
            login=int(data["login"]),
            amount=amount,
            comment=data["comment"],
            order=int(data.get("order", 0)),
            openTime=None if openTime is None else int(openTime),
            closeTime=None if closeTime is None else int(closeTime),
        )

    def _accepted(self, reservation: Reservation, amount: object) -> dict[str, Any]:
        operation = reservation.operation
        return {
            "accepted": True,
            "order": reservation.order,
            "state": _REQUEST_STATES[reservation.eventType],
            "login": operation.login,
            "cmd": operation.cmd,
            "amount": amount,
            "__deferred": Deferral(
                reservation.order,
                reservation.eventType,
                operation,
                None if self._isSync else reservation.whenDurable(),
            ),
        }


def financeCommands(runtime: ITradingRuntime) -> Iterator[FinanceCommand]:
    """
    Every command of the table, in both its forms.
    """
    for method in FINANCE_METHODS:
        yield FinanceCommand(method, runtime, isSync=False)
        yield FinanceCommand(method, runtime, isSync=True)
