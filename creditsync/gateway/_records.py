"""
From the platform's records to trades, and from intents to what is sent.
"""

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from attrs import define

from creditsync._money import fromUnits, toUnits
from creditsync.codes import (
    EV_RECORD_ADD,
    EV_RECORD_DELETE,
    EV_RECORD_UPDATE,
    MAX_SAFE_INTEGER,
    MAX_TIME,
    MAX_TOTAL,
    REQUEST_STATES,
    TS_CLOSED_NORMAL,
    TS_DELETED,
)
from creditsync.gateway._intents import Intent
from creditsync.gateway._states import State
from creditsync.methods import METHOD_OF, TOTAL_OF, ofCmd
from creditsync.records import Operation, Trade

# From here on a time is in milliseconds: seconds would be those of the year 5138.
MILLISECONDS: Final = 10**11

# Members that are not needed, and that an event may lack although look-ups have them.
_OPTIONAL: Final = {"comment", "open_time", "close_time"}

_FINEST: Final = Decimal("1e-8")

_PLANES: Final = range(0, 0x110000, 0x10000)

# Seconds by which the clocks of the two machines may differ. Beyond it an event that is
# lost may not be noticed.
MAX_APART: Final = 60

# The same and some more.
CLOCKS: Final = 120


# Characters that can't be written as UTF-8, and Unicode's noncharacters, which a line
# must not have (RFC 7493, section 2.1); and the one that PostgreSQL can't store.
_STRANGE: Final = re.compile(
    "[\0\ud800-\udfff\ufdd0-\ufdef"
    + "".join(f"{chr(each + 0xFFFE)}{chr(each + 0xFFFF)}" for each in _PLANES)
    + "]"
)


@define(frozen=True)
class Unread:
    """
    A record of the platform that is not taken.

    @ivar order: Its order, or 0 if that can't be read.
    @ivar timestamp: Its last change, or 0 if that can't be read.
    @ivar why: What is wrong with it; "" if it is no finance trade.
    """

    order: int
    timestamp: int
    why: str = ""


def tradeOf(data: Mapping[str, Any]) -> Trade | Unread:
    """
    The finance trade of a record of the platform, in any state.
    """
    order = _number(data.get("order"))
    timestamp = secondsOf(changeOf(data))
    cmd = data.get("cmd")
    if type(cmd) is int and cmd not in TOTAL_OF:
        return Unread(order or 0, timestamp or 0)
    login, state = _number(data.get("login")), _number(data.get("state"))
    # A far time in seconds, such as the end of the year 9999, looks like milliseconds.
    read = secondsOf if isInMilliseconds(data) else _time
    # Some platforms write null for what a trade does not have.
    openTime, closeTime = (
        read(data.get("open_time") or 0),
        read(data.get("close_time") or 0),
    )
    units, comment = unitsOf(data.get("profit")), data.get("comment") or ""
    if type(cmd) is not int:
        wrong = "cmd"
    elif not order:
        wrong = "order"
    elif not login:
        wrong = "login"
    elif units is None:
        wrong = "profit"
    elif not isinstance(comment, str):
        wrong = "comment"
    elif state is None:
        wrong = "state"
    elif timestamp is None or openTime is None or closeTime is None:
        wrong = "time"
    else:
        return Trade(
            order,
            login,
            cmd,
            state,
            units,
            # Some platforms cut a comment within a character.
            _STRANGE.sub("\ufffd", comment),
            openTime,
            closeTime,
            timestamp,
        )
    return Unread(order or 0, timestamp or 0, f"its {wrong} can't be right")


def eventOf(data: Mapping[str, Any]) -> Trade | Unread:
    """
    The finance trade of an event. Where one lacks a member that a look-up has, the two
    would seem to be two records of the trade.
    """
    trade = tradeOf(data)
    if isinstance(trade, Trade) and not data.keys() >= _OPTIONAL:
        return Unread(trade.order, trade.timestamp, "it lacks a member")
    return trade


def _number(value: object) -> int | None:
    """
    A number from 0, or L{None} if it is not one.
    """
    return value if type(value) is int and 0 <= value <= MAX_SAFE_INTEGER else None


def changeOf(data: Mapping[str, Any]) -> Any:
    """
    The time of a record's last change, as the platform writes it.
    """
    changed = data.get("update_time")
    return data.get("timestamp") if changed is None else changed


def isInMilliseconds(record: Mapping[str, Any]) -> bool:
    """
    Whether the time of a record's last change counts milliseconds.
    """
    changed = changeOf(record)
    return secondsOf(changed) is not None and changed >= MILLISECONDS


def secondsOf(time: Any) -> int | None:
    """
    A time of a record in seconds, or L{None} if it is none. Some platforms count in
    milliseconds.
    """
    isNumber = type(time) in (int, float, Decimal)
    if isNumber and MILLISECONDS <= time <= MAX_SAFE_INTEGER:
        return int(time // 1000)
    return _time(time)


def _time(value: Any) -> int | None:
    """
    A time without its fractions of a second, or L{None} if it is none.
    """
    if type(value) not in (int, float, Decimal) or not 0 <= value <= MAX_TIME:
        return None
    return int(value)


def unitsOf(profit: Any) -> int | None:
    """
    An amount of the platform in 10⁻⁸ units, or L{None} if it is none. A platform
    computes with doubles: what it writes beyond 8 decimals is noise.
    """
    isNumber = type(profit) in (int, float, Decimal)
    if not isNumber or not -MAX_TOTAL <= profit <= MAX_TOTAL:
        return None
    try:
        units = toUnits(profit)
    except ValueError:
        exact = Decimal(repr(profit)) if isinstance(profit, float) else profit
        try:
            units = toUnits(exact.quantize(_FINEST))
        except InvalidOperation:
            return None
    return units if abs(units) <= MAX_TOTAL else None


def rowsOf(data: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """
    The rows of a look-up by their names.
    """
    structure, rows = data.get("structure"), data.get("rows")
    if not isinstance(structure, list) or not isinstance(rows, list):
        return
    if all(isinstance(name, str) for name in structure):
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


def contentOf(trade: Trade) -> tuple[int, int, int, str, int]:
    """
    What identifies a trade while its order is not known: see L{Intent.content}.
    """
    return trade.login, trade.cmd, amountOf(trade), trade.comment, trade.openTime


def amountOf(trade: Trade) -> int:
    """
    The amount of a trade with the sign of its kind, as intents have it. Some platforms
    write what is taken out without a sign.
    """
    method = ofCmd(trade.cmd)
    isOut = method is not None and method.sign < 0
    return -abs(trade.profit) if isOut else trade.profit


def isContentOf(intent: Intent, trade: Trade) -> bool:
    """
    Whether a trade is what an intent without an order may have made.
    """
    if intent.tag:
        # No other trade has it, and this one may have been changed otherwise.
        isOwners = (trade.login, trade.cmd) == (intent.login, intent.cmd)
        return isOwners and intent.isTagOf(trade.comment)
    if contentOf(trade) != intent.content:
        return False
    # Hardly any older trade has a time that the gateway has chosen. One of a client
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
        and (amountOf(trade), trade.comment) == (asked.amount, intent.comment)
        and asked.openTime in (None, trade.openTime)
        and asked.closeTime in (None, trade.closeTime)
    )


def isOutcomeOf(intent: Intent, trade: Trade) -> bool:
    """
    Whether a trade can be what an operation has made, as far as its type says.
    """
    if intent.type == EV_RECORD_ADD:
        return True
    if trade.order != intent.order:
        return False
    if intent.type == EV_RECORD_DELETE:
        return trade.state == TS_DELETED
    return trade.state == TS_CLOSED_NORMAL and isResultOf(intent, trade)


def shown(intent: Intent) -> dict[str, Any]:
    """
    What is known of an intent that is not booked, as C{GetOperation} has it.
    """
    openTime = intent.openTime or 0
    data: dict[str, Any] = {
        "order": intent.toldOrder,
        "login": intent.login,
        "cmd": intent.cmd,
        "state": REQUEST_STATES[intent.type],
        "profit": Decimal(fromUnits(intent.amount)),
        "comment": intent.plainComment,
        "open_time": openTime,
        "close_time": openTime if intent.closeTime is None else intent.closeTime,
        "timestamp": intent.sentAt,
    }
    if intent.state is State.HELD:
        data["held"] = True
    return data
