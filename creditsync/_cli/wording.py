"""
How trades are written for people, and as JSON for programs.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from creditsync import _wire as wire
from creditsync import codes
from creditsync._money import fromUnits
from creditsync.client import Answer
from creditsync.methods import DECISIONS, ofCmd

_TYPES: Final[dict[Any, str]] = {
    codes.EV_RECORD_ADD: "add",
    codes.EV_RECORD_UPDATE: "update",
    codes.EV_RECORD_DELETE: "delete",
}
_STATES: Final[dict[Any, str]] = {
    codes.TS_CLOSED_NORMAL: "booked",
    codes.TS_DELETED: "deleted",
    codes.TS_FINANCE_OPEN_PENDING: "waits for approval",
    codes.TS_FINANCE_DECLINED: "declined",
}
# What made a finance request so.
_REQUESTED: Final[dict[Any, str]] = {
    codes.TS_FINANCE_OPEN_PENDING: "request",
    codes.TS_FINANCE_DECLINED: "decline",
}


def cmdName(cmd: Any) -> str:
    """
    The subcommand that makes trades of a C{cmd}.
    """
    method = ofCmd(cmd)
    return f"cmd {cmd}" if method is None else method.subcommand


def changeName(type: Any, state: Any, command: Any) -> str:
    """
    What a row of the journal did to its trade.

    @param state: The state of the trade after it.
    @param command: The command that was asked for, or L{None}.
    """
    if DECISIONS.get(command):
        return "approve"
    return _REQUESTED.get(state, typeName(type))


def typeName(type: Any) -> str:
    """
    What an event of a type did to its trade.
    """
    return _TYPES.get(type, f"type {type}")


def printable(comment: str) -> str:
    """
    A comment with what moves the cursor, such as a line end, escaped.
    """
    return "".join(
        each if each.isprintable() else ascii(each)[1:-1] for each in comment
    )


def exact(units: int) -> str:
    """
    An amount, exactly, with at least two decimals.
    """
    text = fromUnits(units)
    return text + "0" if text[-2] == "." else text


def describe(data: Mapping[str, Any]) -> str:
    """
    A trade on one line, for people.
    """
    state = data.get("state")
    words = [
        f"order {data.get('order')}",
        f"login {data.get('login')}",
        f"{cmdName(data.get('cmd'))} {_plain(data.get('profit'))}",
        printable(str(data.get("comment", ""))),
        _STATES.get(state, f"state {state}"),
    ]
    return "  ".join(filter(None, words))


def _plain(profit: Any) -> str:
    return f"{profit:f}" if isinstance(profit, Decimal) else str(profit)


def answerLine(data: Answer, asJSON: bool) -> str:
    """
    The trade of a reply on one line, and whether it was booked before.
    """
    if asJSON:
        return wire.encodeData(data).decode("ascii")
    remark = ", earlier under the same key" if data.isReplay else ""
    return describe(data) + remark
