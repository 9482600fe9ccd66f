"""
The finance commands: the methods of L{creditsync.methods}, carried out.

Each method gives two commands: the asynchronous one, which is answered once its
operation can no longer be lost, and its C{Sync} form, which is answered with
the data of the trade event. Both take the same way through the runtime; they
differ in what their C{__deferred} waits for.
"""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from creditsync._money import fromUnits, toUnits
from creditsync.codes import FINANCE_SESSIONS, REQUEST_STATES
from creditsync.errors import InvalidData, MethodProblem, OutcomeUnknown, Refusal
from creditsync.interfaces import ICommand, ITradingRuntime
from creditsync.methods import (
    BOOKING_METHODS,
    FINANCE_METHODS,
    BookingMethod,
    DeletingMethod,
    flaw,
    syncName,
)
from creditsync.records import (
    Deferral,
    Deletion,
    Operation,
    Replay,
    Request,
    Reservation,
)
from creditsync.validation import Schemas

if TYPE_CHECKING:
    from creditsync._conversation.session import Session


def operation(
    method: BookingMethod | DeletingMethod,
    command: str,
    data: dict[str, Any],
    principal: int,
    key: str | None,
) -> Operation | Deletion:
    """
    What a request asks of the runtime, after the rules that no schema can say.

    @param command: The name of one of the method's two forms.
    @param data: What has passed the method's schema.
    @raise InvalidData: It breaks one of those rules.
    """
    if isinstance(method, DeletingMethod):
        return Deletion(command, int(data["order"]), method.cmds, principal, key)
    try:
        amount = toUnits(data["amount"])
    except ValueError:
        raise InvalidData("data.amount must have at most 8 decimals") from None
    openTime, closeTime = data.get("open_time"), data.get("close_time")
    if openTime is not None and closeTime is not None and closeTime < openTime:
        raise InvalidData("data.close_time must not be before data.open_time")
    # JSON Schema takes 1001.0 for an integer, and so does int(). Where a method
    # has no comment of its own, its schema requires one.
    return Operation(
        command,
        method.cmd,
        int(data["login"]),
        amount,
        data.get("comment", method.comment or ""),
        int(data.get("order", 0)),
        None if openTime is None else int(openTime),
        None if closeTime is None else int(closeTime),
        principal,
        key,
    )


def prove(schemas: Schemas, methods: Sequence[BookingMethod] = BOOKING_METHODS) -> None:
    """
    See that the table of methods is sound, and that our schemas take from
    clients what its rows say and nothing else.

    @raise MethodProblem: It isn't so.
    """
    problem = flaw(tuple(methods))
    if problem is not None:
        raise MethodProblem(problem)
    for method in methods:
        data = {"login": 1, "amount": method.sign}
        for isTaken, asked in (
            (True, {**data, "comment": "x"}),
            (method.comment is not None, data),
            (False, {**data, "comment": "x", "amount": -method.sign}),
        ):
            if schemas.isOurs(method.schema, asked) != isTaken:
                raise MethodProblem(
                    f"{method.name} is to {'take' if isTaken else 'refuse'} {asked},"
                    f" and schemas/{method.schema}.json says otherwise"
                )


@implementer(ICommand)
@define(eq=False)
class FinanceCommand:
    """
    One command of the finance family: a method in one of its two forms.
    """

    _method: BookingMethod | DeletingMethod
    _runtime: ITradingRuntime
    _isSync: bool
    _isExtIDIdempotent: bool = False
    name: str = field(init=False)
    schema: str = field(init=False)
    needsExtID: bool = field(init=False)
    roles = FINANCE_SESSIONS

    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self.name = syncName(self._method) if self._isSync else self._method.name
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
        asked = operation(
            self._method,
            self.name,
            request.data,
            session.principal.id,
            self._key(request),
        )
        reservation = self._runtime.submit(asked)
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
