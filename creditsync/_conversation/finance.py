"""
The finance commands: what carries out the methods of L{creditsync.methods}.

A method has up to two commands: the asynchronous one, which is answered once its
operation can no longer be lost, and its C{Sync} form, which is answered with
the data of the trade event. Both go the same way through the runtime. They differ in
the response that they have beside their C{__deferred}.
"""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, Final

from attrs import Factory, define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from creditsync._changes import pendingState
from creditsync._conversation.rights import Rights
from creditsync._money import fromUnits, toUnits
from creditsync.codes import FINANCE_SESSIONS, UNAPPROVED
from creditsync.errors import (
    Forbidden,
    InvalidData,
    MethodProblem,
    NotFound,
    OutcomeUnknown,
    Refusal,
)
from creditsync.interfaces import ICommand, IFinanceRequests, ISession, ITradingRuntime
from creditsync.methods import (
    BOOKING_METHODS,
    FINANCE_METHODS,
    REQUEST_METHODS,
    BookingMethod,
    DeletingMethod,
    Method,
    commands,
    flaw,
    ofCmd,
    syncName,
)
from creditsync.records import (
    DEFERRED,
    AnyOperation,
    Decision,
    Deletion,
    Operation,
    Principal,
    Request,
    Reservation,
    Response,
)
from creditsync.validation import Schemas


def operation(
    method: Method,
    command: str,
    data: dict[str, Any],
) -> AnyOperation:
    """
    The operation that the data of a request asks for. The rules that a schema can't
    express are checked here.

    @param command: The name of one of the method's commands.
    @param data: It has passed the method's schema.
    @raise InvalidData: It breaks one of those rules.
    """
    if isinstance(method, DeletingMethod):
        return Deletion(command, int(data["order"]), method.cmds)
    if isinstance(method, BookingMethod):
        return _booking(method, command, data)
    if method.isApproval is None:
        return _financeRequest(command, data)
    return Decision(
        command, int(data["order"]), method.isApproval, data.get("comment", "")
    )


def _booking(method: BookingMethod, command: str, data: dict[str, Any]) -> Operation:
    try:
        amount = toUnits(data["amount"])
    except ValueError:
        raise InvalidData("data.amount must have at most 8 decimals") from None
    openTime, closeTime = data.get("open_time"), data.get("close_time")
    if openTime is not None and closeTime is not None and closeTime < openTime:
        raise InvalidData("data.close_time must not be before data.open_time")
    # For JSON Schema 1001.0 is an integer too, hence int(). Where a method has no
    # default comment, its schema requires one.
    return Operation(
        command,
        method.cmd,
        int(data["login"]),
        amount,
        data.get("comment", method.comment or ""),
        int(data.get("order", 0)),
        None if openTime is None else int(openTime),
        None if closeTime is None else int(closeTime),
    )


def _financeRequest(command: str, data: dict[str, Any]) -> Operation:
    """
    @param data: C{cmd} says whose rules of the amount and the comment it has to meet.
    """
    method = ofCmd(int(data["cmd"]))
    assert method is not None, "the schema has passed an unknown cmd"
    if data["amount"] * method.sign <= 0:
        than = "greater" if method.sign > 0 else "less"
        raise InvalidData(f"data.amount must be {than} than 0 for cmd {method.cmd}")
    if method.comment is None and "comment" not in data:
        raise InvalidData(f"data.comment is required for cmd {method.cmd}")
    asked: dict[str, Any] = {name: data[name] for name in _REQUESTED if name in data}
    requested = _booking(method, command, asked)
    requested.isRequest = True
    return requested


# The members of a finance request that its trade gets.
_REQUESTED: Final = ("login", "amount", "comment", "open_time")


def prove(schemas: Schemas, methods: Sequence[BookingMethod] = BOOKING_METHODS) -> None:
    """
    Check the table of methods, and that the schemas accept exactly what its rows
    say.

    @raise MethodProblem: There is something wrong.
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
    One of the commands of a method.
    """

    _method: Method
    _runtime: ITradingRuntime
    _isSync: bool
    _isExtIDIdempotent: bool = False
    _rights: Rights = Factory(Rights)
    name: str = field(init=False)
    schema: str = field(init=False)
    needsExtID: bool = field(init=False)
    roles = FINANCE_SESSIONS
    isReadOnly = False

    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self.name = syncName(self._method) if self._isSync else self._method.name
        self.schema = self._method.schema
        self.needsExtID = self._isSync

    def execute(
        self, session: ISession, request: Request
    ) -> "Response | Deferred[Response]":
        """
        Submit the operation to the runtime.

        @return: The response, with its C{__deferred}.
        """
        principal = session.principal
        assert principal is not None
        asked = request.operation
        if asked is None:
            asked = operation(self._method, self.name, request.data)
            request.operation = asked
        asked.principal = principal.id
        asked.role = principal.role
        asked.key = self._key(request) if self._isExtIDIdempotent else request.key
        if self._rights.accounts(principal) is not None:
            if not isinstance(asked, Operation):
                return Deferred.fromCoroutine(self._change(principal, asked))
            waiting = self._rights.whenKnown(principal, asked.login)
            if waiting is not None:
                return waiting.addCallback(lambda _: self._restricted(principal, asked))
            return self._restricted(principal, asked)
        return self._submit(asked)

    def _restricted(
        self, principal: Principal, asked: Operation
    ) -> "Response | Deferred[Response]":
        """
        Submit what names an account, if the principal may see that.
        """
        if not self._rights.maySee(principal, asked.login):
            raise Forbidden(f"this token may not use account {asked.login}")
        return self._submit(asked)

    def _submit(self, asked: AnyOperation) -> "Response | Deferred[Response]":
        reservation = self._runtime.submit(asked)
        if isinstance(reservation, Reservation):
            return self._accepted(reservation)
        return reservation.addCallbacks(self._accepted, self._notAccepted)

    async def _change(
        self, principal: Principal, asked: Deletion | Decision
    ) -> Response:
        """
        Submit what names only an order, unless that is of an account that the principal
        may not see. Then there is no such order, as far as it is told.

        A repetition gets the reply of the first request all the same: a 404 says that
        nothing was booked under its key (docs/protocol.rst, "Safe retries").
        """
        earlier = None
        if asked.key is not None:
            earlier = await self._runtime.orderOf(asked.principal, asked.key)
        if earlier is None:
            trade = await self._runtime.trade(asked.order)
            mayChange = await self._rights.mayChange(principal, trade)
            # Both at once: how long it takes must not tell which it is.
            if trade is None or not mayChange:
                raise NotFound(f"there is no order {asked.order}")
        response = self._submit(asked)
        return await response if isinstance(response, Deferred) else response

    def _key(self, request: Request) -> str | None:
        """
        The idempotency key of a request, for which its C{extID} will do.
        """
        if request.key is not None:
            return request.key
        if request.extID is None:
            return None
        # 7 and 7.0 are the same integer, "7" is a different extID.
        extID = request.extID
        key = extID if isinstance(extID, str) else f"#{int(extID)}"
        if not (key.isascii() and key.isprintable()):
            raise InvalidData(
                "extID must be printable ASCII: here it is the idempotencyKey too"
            )
        return key

    def _accepted(self, reservation: Reservation) -> Response:
        # The reply to a Sync command is the event's data, and nothing more.
        if self._isSync:
            return {DEFERRED: reservation}
        return {**_usualSuccess(reservation), DEFERRED: reservation}

    def _notAccepted(self, why: Failure) -> Failure:
        """
        A runtime that does not reserve at once reserves elsewhere: unless it
        has refused, it is unknown what has happened there.
        """
        if why.check(Refusal):
            return why
        self._log.failure("the trading runtime failed", why)
        return Failure(OutcomeUnknown("the trading runtime failed"))


def _usualSuccess(reservation: Reservation) -> dict[str, Any]:
    """
    The data of the reply to an asynchronous command (docs/protocol.rst, "The
    finance family").
    """
    trade = reservation.data
    state = trade.state
    return {
        "accepted": True,
        "order": trade.order,
        "state": state if state in UNAPPROVED else pendingState(reservation),
        "login": trade.login,
        "cmd": trade.cmd,
        "amount": Decimal(fromUnits(trade.profit)),
    }


def financeCommands(
    runtime: ITradingRuntime,
    isExtIDIdempotent: bool = False,
    rights: Rights | None = None,
) -> Iterator[FinanceCommand]:
    """
    The commands of every method.

    @param isExtIDIdempotent: Use the C{extID} of a request that has no
        C{idempotencyKey} as one.
    @param rights: Which accounts a token may use.
    """
    rights = rights or Rights()
    methods: list[Method] = [*FINANCE_METHODS]
    if IFinanceRequests.providedBy(runtime):
        methods += REQUEST_METHODS
    for method in methods:
        for name in commands(method):
            isSync = name != method.name
            yield FinanceCommand(method, runtime, isSync, isExtIDIdempotent, rights)
