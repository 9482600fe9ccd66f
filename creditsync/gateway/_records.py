"""
From the platform's records to trades, and from intents to what is sent.
"""

from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from creditsync._money import fromUnits, toUnits
from creditsync.codes import (
    EV_RECORD_DELETE,
    EV_RECORD_UPDATE,
    MAX_SAFE_INTEGER,
    MAX_TOTAL,
    REQUEST_STATES,
)
from creditsync.gateway._intents import Intent
from creditsync.gateway._states import State
from creditsync.methods import METHOD_OF, TOTAL_OF
from creditsync.records import Operation, Trade

# From here on a time is in milliseconds: seconds would be those of the year 5138.
MILLISECONDS: Final = 10**11

_FINEST: Final = Decimal("1e-8")

# Seconds by which the clocks of the two machines may differ. Beyond it an event that is
# lost may not be noticed.
MAX_APART: Final = 60

# The same and some more.
CLOCKS: Final = 120


def tradeOf(data: Mapping[str, Any]) -> Trade | None:
    """
    The finance trade of a record of the platform, in any state, or L{None} if it is
    another trade or can't be read.
    """
    order, login, cmd, state = (
        data.get(name) for name in ("order", "login", "cmd", "state")
    )
    changed = secondsOf(changeOf(data))
    openTime = _whole(data.get("open_time", 0))
    closeTime = _whole(data.get("close_time", 0))
    comment = data.get("comment", "")
    numbers = (order, login, cmd, state, changed, openTime, closeTime)
    if not all(type(each) is int and each >= 0 for each in numbers):
        return None
    if cmd not in TOTAL_OF or not isinstance(comment, str):
        return None
    if not 0 < (order or 0) <= MAX_SAFE_INTEGER or not login:
        return None
    units = unitsOf(data.get("profit"))
    if units is None or abs(units) > MAX_TOTAL:
        return None
    return Trade(
        order or 0,
        login or 0,
        cmd or 0,
        state or 0,
        units,
        comment,
        openTime or 0,
        closeTime or 0,
        changed or 0,
    )


def isFinance(data: Mapping[str, Any]) -> bool:
    """
    Whether a record is of a finance trade, even if it can't be read.
    """
    cmd = data.get("cmd")
    return type(cmd) is int and cmd in TOTAL_OF


def changeOf(data: Mapping[str, Any]) -> Any:
    """
    The time of a record's last change, as the platform writes it.
    """
    changed = data.get("update_time")
    return data.get("timestamp") if changed is None else changed


def secondsOf(changed: Any) -> int | None:
    """
    The time of a change in seconds, or L{None} if it is none. Some platforms count in
    milliseconds.
    """
    time = _whole(changed)
    return time // 1000 if time is not None and time >= MILLISECONDS else time


def _whole(time: Any) -> int | None:
    """
    A time without its fractions of a second, or L{None} if it is none.
    """
    if type(time) not in (int, float, Decimal) or not 0 <= time <= MAX_SAFE_INTEGER:
        return None
    return int(time)


def unitsOf(profit: Any) -> int | None:
    """
    An amount of the platform in 10⁻⁸ units, or L{None} if it is none. A platform
    computes with doubles: what it writes beyond 8 decimals is noise.
    """
    if type(profit) not in (int, float, Decimal):
        return None
    try:
        return toUnits(profit)
    except ValueError:
        exact = Decimal(repr(profit)) if isinstance(profit, float) else profit
    try:
        return toUnits(exact.quantize(_FINEST))
    except InvalidOperation:
        return None


def rowsOf(data: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """
    The rows of a look-up by their names.
    """
    structure, rows = data.get("structure"), data.get("rows")
    if isinstance(structure, list) and isinstance(rows, list):
        for row in rows:
            if isinstance(row, list) and len(row) == len(structure):
                yield dict(zip(structure, row, strict=True))


def requestOf(intent: Intent) -> tuple[str, dict[str, Any]]:
    """
    The command that carries an intent out, and its data.
    """
    isDeletion = intent.type == EV_RECORD_DELETE
    command = METHOD_OF[intent.cmd, isDeletion]
    if isDeletion:
        return command, {"order": intent.order}
    data = _content(intent)
    if intent.type == EV_RECORD_UPDATE:
        data["order"] = intent.order
    elif "open_time" in data:
        # The platform's own time may be before it, if the clocks differ.
        data.setdefault("close_time", data["open_time"])
    return command, data


def creationOf(intent: Intent) -> dict[str, Any]:
    """
    The data of the finance request for an intent.
    """
    return {
        "cmd": intent.cmd,
        **_content(intent),
        "gw_source": "creditsync",
        "gw_uuid": str(intent.number),
    }


def _content(intent: Intent) -> dict[str, Any]:
    data: dict[str, Any] = {
        "login": intent.login,
        "amount": Decimal(fromUnits(intent.amount)),
        "comment": intent.comment,
    }
    if intent.openTime is not None:
        data["open_time"] = intent.openTime
    if intent.closeTime is not None:
        data["close_time"] = intent.closeTime
    return data


def isContentOf(intent: Intent, trade: Trade) -> bool:
    """
    Whether a trade is what an intent without an order may have made.
    """
    content = trade.login, trade.cmd, trade.profit, trade.comment, trade.openTime
    if content != intent.content:
        return False
    # No older trade has a time that the gateway has chosen. One that a client has given
    # may be that of a trade that the journal lacks, since it is older than the gateway.
    asked = intent.operation
    isChosen = isinstance(asked, Operation) and asked.openTime is None
    return isChosen or isSince(intent, trade)


def isSince(intent: Intent, trade: Trade) -> bool:
    """
    Whether a trade was changed since an intent was sent, as far as the clocks of the
    two machines tell.
    """
    return trade.timestamp >= intent.sentAt - CLOCKS


def isResultOf(intent: Intent, trade: Trade) -> bool:
    """
    Whether a trade is as an update was to make it.
    """
    asked = intent.operation
    return (
        isinstance(asked, Operation)
        and (trade.profit, trade.comment) == (asked.amount, asked.comment)
        and asked.openTime in (None, trade.openTime)
        and asked.closeTime in (None, trade.closeTime)
    )


def shown(intent: Intent) -> dict[str, Any]:
    """
    What is known of an intent that is not booked, as C{GetOperation} has it.
    """
    openTime = intent.openTime or 0
    data: dict[str, Any] = {
        "order": intent.order,
        "login": intent.login,
        "cmd": intent.cmd,
        "state": REQUEST_STATES[intent.type],
        "profit": Decimal(fromUnits(intent.amount)),
        "comment": intent.comment,
        "open_time": openTime,
        "close_time": openTime if intent.closeTime is None else intent.closeTime,
        "timestamp": intent.sentAt,
    }
    if intent.state is State.HELD:
        data["held"] = True
    return data
