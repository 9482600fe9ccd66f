"""
What an operation makes of the trade that it names, or of none.
"""

from msgspec.structs import replace

from creditsync.codes import (
    EV_RECORD_ADD,
    EV_RECORD_DELETE,
    EV_RECORD_UPDATE,
    TS_CLOSED_NORMAL,
    TS_DELETED,
)
from creditsync.errors import IncorrectOrder, InvalidData, NotFound
from creditsync.records import Deletion, Operation, Trade


def changed(
    existing: Trade | None, operation: Operation | Deletion, now: int
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
    @raise NotFound: There is no order to delete.
    @raise InvalidData: The times are in the wrong order.
    """
    if isinstance(operation, Deletion):
        return _deleted(existing, operation, now)
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
    trade = Trade(
        order,
        operation.login,
        operation.cmd,
        TS_CLOSED_NORMAL,
        amount,
        operation.comment,
        openTime,
        closeTime,
        now,
    )
    return eventType, trade, amount - before


def _deleted(
    existing: Trade | None, deletion: Deletion, now: int
) -> tuple[int, Trade, int]:
    if existing is None:
        raise NotFound(f"there is no order {deletion.order}")
    if existing.cmd not in deletion.cmds:
        raise IncorrectOrder(
            f"order {existing.order} is a different kind of transaction"
        )
    _checkNotDeleted(existing)
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
    _checkNotDeleted(existing)


def _checkNotDeleted(existing: Trade) -> None:
    if existing.state == TS_DELETED:
        raise IncorrectOrder(f"order {existing.order} was deleted")
