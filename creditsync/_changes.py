"""
What an operation makes of the trade that it names, or of none.
"""

from msgspec.structs import replace

from creditsync.codes import (
    EV_RECORD_ADD,
    EV_RECORD_DELETE,
    EV_RECORD_UPDATE,
    REQUEST_STATES,
    TS_CLOSED_NORMAL,
    TS_DELETED,
    TS_FINANCE_DECLINED,
    TS_FINANCE_OPEN_PENDING,
    TS_FINANCE_OPEN_REQUEST,
    UNAPPROVED,
)
from creditsync.errors import IncorrectOrder, InvalidData, NotFound
from creditsync.records import (
    AnyOperation,
    Decision,
    Deletion,
    Operation,
    Reservation,
    Trade,
)


def changed(
    existing: Trade | None, operation: AnyOperation, now: int
) -> tuple[int, Trade, int]:
    """
    The trade that an operation makes: a new one, even if the operation names
    an order that does not exist (docs/protocol.rst, "The finance family"),
    or the next state of an existing one, which keeps the times that the
    operation does not give.

    @param existing: The trade that the operation names, as it is now.
    @param now: The time of booking, in UNIX seconds.
    @return: The event type, the trade, which has order 0 if it is new,
        and the change of its account's total.
    @raise IncorrectOrder: The order exists, but this operation can't change it.
    @raise NotFound: There is no order to delete, or to decide.
    @raise InvalidData: The times are in the wrong order.
    """
    if not isinstance(operation, Operation):
        if existing is None:
            raise NotFound(f"there is no order {operation.order}")
        if isinstance(operation, Deletion):
            return _deleted(existing, operation, now)
        return _decided(existing, operation, now)
    if existing is None:
        eventType, order, before = EV_RECORD_ADD, 0, 0
        openTime = closeTime = now
    else:
        _checkUpdate(existing, operation)
        order, before = existing.order, existing.counted
        eventType, openTime = EV_RECORD_UPDATE, existing.openTime
        closeTime = existing.closeTime
    if operation.openTime is not None:
        openTime = operation.openTime
    if operation.closeTime is not None:
        closeTime = operation.closeTime
    if closeTime < openTime:
        raise InvalidData(
            "data.close_time must not be before data.open_time"
            f" ({closeTime} is before {openTime})"
        )
    amount = operation.amount
    state, change = TS_CLOSED_NORMAL, amount - before
    if operation.isRequest:
        state, change = TS_FINANCE_OPEN_PENDING, 0
    trade = Trade(
        order,
        operation.login,
        operation.cmd,
        state,
        amount,
        operation.comment,
        openTime,
        closeTime,
        now,
    )
    return eventType, trade, change


def pendingState(reservation: Reservation) -> int:
    """
    The state of a trade whose last operation is not booked yet.
    """
    operation = reservation.operation
    if isinstance(operation, Decision) and operation.isApproval:
        return TS_FINANCE_OPEN_REQUEST
    return REQUEST_STATES[reservation.type]


def _deleted(existing: Trade, deletion: Deletion, now: int) -> tuple[int, Trade, int]:
    if existing.cmd not in deletion.cmds:
        raise IncorrectOrder(
            f"order {existing.order} is a different kind of transaction"
        )
    _checkBooked(existing)
    trade = replace(existing, state=TS_DELETED, timestamp=now)
    return EV_RECORD_DELETE, trade, -existing.counted


def _checkUpdate(existing: Trade, operation: Operation) -> None:
    if existing.login != operation.login:
        raise IncorrectOrder(
            f"order {existing.order} does not belong to login {operation.login}"
        )
    if existing.cmd != operation.cmd:
        raise IncorrectOrder(
            f"order {existing.order} is a different kind of transaction"
        )
    _checkBooked(existing)


def _checkBooked(existing: Trade) -> None:
    if existing.state == TS_DELETED:
        raise IncorrectOrder(f"order {existing.order} was deleted")
    if existing.state in UNAPPROVED:
        raise IncorrectOrder(
            f"order {existing.order} is a finance request that was not approved"
        )


def _decided(existing: Trade, decision: Decision, now: int) -> tuple[int, Trade, int]:
    """
    The trade that was requested, booked or declined. It keeps its opening time; it
    closes when it is booked.
    """
    if existing.state != TS_FINANCE_OPEN_PENDING:
        raise IncorrectOrder(
            f"order {existing.order} is not a finance request that waits for approval"
        )
    decision.comment = decision.comment or existing.comment
    trade = replace(existing, comment=decision.comment, timestamp=now)
    if not decision.isApproval:
        trade.state = TS_FINANCE_DECLINED
        return EV_RECORD_UPDATE, trade, 0
    trade.state = TS_CLOSED_NORMAL
    trade.closeTime = max(now, trade.openTime)
    return EV_RECORD_UPDATE, trade, trade.profit
