"""
The rows of the console's tables, as JSON objects: pending requests, trades,
refusals, sessions.
"""

from typing import Any, TypeAlias

from creditsync._conversation.waiter import Waiter
from creditsync._metrics.reading import roleOf
from creditsync._money import fromUnits
from creditsync._transport.protocol import LineProtocol
from creditsync.counters import RecentRefusal
from creditsync.methods import ofCmd
from creditsync.records import Operation, Principal, Trade, TradeEvent

JSON: TypeAlias = dict[str, Any]


def waiting(waiter: Waiter, now: float) -> JSON:
    """
    Show a pending request.

    @param now: The clock's time.
    """
    operation = waiter.operation
    return {
        "order": waiter.order,
        "login": operation.login if isinstance(operation, Operation) else None,
        "command": waiter.command,
        "extID": waiter.extID,
        "peer": waiter.session.peer,
        "age": round(now - waiter.since, 6),
    }


def event(event: TradeEvent) -> JSON:
    """
    Show a trade event. That of another source may lack any member.
    """
    operation = event.operation
    if isinstance(event.data, Trade):
        shown = trade(event.data)
    else:
        names = ("order", "login", "cmd", "state", "comment")
        shown = {name: event.data.get(name) for name in names}
        shown["kind"] = kind(event.data.get("cmd"))
        shown["time"] = event.data.get("timestamp")
        shown["profit"] = str(event.data.get("profit"))
    return {
        **shown,
        "type": event.type,
        "command": None if operation is None else operation.command,
        "principal": None if operation is None else operation.principal,
    }


def trade(trade: Trade) -> JSON:
    """
    Show a trade.
    """
    return {
        "time": trade.timestamp,
        "order": trade.order,
        "login": trade.login,
        "cmd": trade.cmd,
        "kind": kind(trade.cmd),
        "state": trade.state,
        "profit": fromUnits(trade.profit),
        "comment": trade.comment,
    }


def kind(cmd: object) -> str | None:
    """
    The label of the method that makes trades of this C{cmd}, if one does.
    """
    method = ofCmd(cmd)
    return None if method is None else method.label


def refusal(refused: RecentRefusal) -> JSON:
    """
    Show a refusal.
    """
    why = refused.refusal
    return {
        "time": refused.when,
        "peer": refused.session.peer,
        "principal": _id(refused.session.principal),
        "command": refused.command,
        "extID": refused.extID,
        "status": why.status,
        "error": why.error,
        "message": why.message,
        "order": (why.data or {}).get("order"),
    }


def session(connection: LineProtocol) -> JSON:
    """
    Show a session.
    """
    principal = connection.session.principal
    return {
        "peer": connection.session.peer,
        "role": roleOf(principal),
        "principal": _id(principal),
        "unread": connection.unread,
        "isStalled": connection.isStalled,
        "inFlight": connection.session.inFlight,
    }


def _id(principal: Principal | None) -> int | None:
    return None if principal is None else principal.id
