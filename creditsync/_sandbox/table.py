"""
The faults of the sandbox, as one table.

A row of L{FAULTS} is a fault: its name, where it acts, and what it does to a line
there. Those of the booking have no line; L{creditsync._sandbox.booking} asks whether
they happen. Those of a look-up change its request and its reply, whatever else happens
to them; that is L{creditsync._sandbox.times}.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

from attrs import define

from creditsync import _wire as wire
from creditsync._sandbox.lines import Connection, Line, memberOf, orderOf
from creditsync.codes import (
    EV_RECORD_ADD,
    EV_RECORD_UPDATE,
    TS_CLOSED_NORMAL,
    TS_FINANCE_OPEN_PENDING,
)
from creditsync.errors import Refusal, TechProblem, TooManyRequests, Unauthorized


class Where(Enum):
    """
    Where a fault acts.
    """

    # A request that has arrived.
    REQUEST = "request"
    # A reply that is to be sent.
    REPLY = "reply"
    # The times in a look-up and in its reply.
    LOOKUP = "look-up"
    # A trade event that is to be sent on one connection.
    EVENT = "event"
    # Before a line that is sent.
    BETWEEN = "between"
    # The trading runtime and its ledger.
    BOOKING = "booking"


_Does = Callable[[Connection, Line], None]


@define(frozen=True)
class Fault:
    """
    One fault.

    @ivar help: What it does, in a sentence.
    @ivar does: What happens to the line, instead of its being passed on; L{None} for
        those of a look-up and of the booking.
    @ivar seconds: The time that it takes, unless it is set.
    @ivar rate: How often it happens, unless it is set.
    @ivar mayHappen: Whether it may happen to a line with these members.
    """

    name: str
    where: Where
    help: str
    does: _Does | None = None
    seconds: float = 0.0
    rate: float = 0.0
    mayHappen: Callable[[Mapping[str, Any]], bool] = lambda members: True


def _hasError(members: Mapping[str, Any]) -> bool:
    return "error" in members


def _hasRows(members: Mapping[str, Any]) -> bool:
    rows = memberOf(members, "rows")
    return isinstance(rows, list) and len(rows) > 1 and "count" in members["data"]


def _hasOpenTime(members: Mapping[str, Any]) -> bool:
    return type(memberOf(members, "open_time")) is int


def _hasOrder(members: Mapping[str, Any]) -> bool:
    return orderOf(members) is not None


def _isOfRequest(members: Mapping[str, Any]) -> bool:
    """
    Whether this is the event of a finance request that waits.
    """
    return bool(memberOf(members, "state") == TS_FINANCE_OPEN_PENDING)


def _isBookedUpdate(members: Mapping[str, Any]) -> bool:
    isUpdate = members.get("type") == EV_RECORD_UPDATE
    return bool(isUpdate and memberOf(members, "state") == TS_CLOSED_NORMAL)


def _lose(connection: Connection, line: Line) -> None:
    pass


def _handOnLater(connection: Connection, line: Line) -> None:
    connection.later(line.seconds, connection.handOn, line.data)


def _handOnTwice(connection: Connection, line: Line) -> None:
    connection.handOn(line.data)
    connection.handOn(line.data)


def _deliverLater(connection: Connection, line: Line) -> None:
    connection.later(line.seconds, connection.deliver, line.data)


def _deliverTwice(connection: Connection, line: Line) -> None:
    connection.deliver(line.data)
    connection.deliver(line.data)


def _hold(connection: Connection, line: Line) -> None:
    connection.hold(line)


def _cut(connection: Connection, line: Line) -> None:
    connection.cut(b"")


def _cutInside(connection: Connection, line: Line) -> None:
    connection.cut(line.data[: line.part])


def _crash(connection: Connection, line: Line) -> None:
    connection.crash(line.seconds)


def _deliverAndCrash(connection: Connection, line: Line) -> None:
    connection.deliver(line.data)
    connection.crash(line.seconds)


def _sayNothing(connection: Connection, line: Line) -> None:
    connection.deliver(wire.success(line.extID, {}))


def _sayErrorAsObject(connection: Connection, line: Line) -> None:
    members = dict(line.members)
    name, message = members["error"], members.pop("message", "")
    error = {"code": members["status"], "name": name, "message": message}
    _deliverMembers(connection, {**members, "error": error})


def _halve(rows: list[Any]) -> list[Any]:
    return rows[: len(rows) // 2]


def _reverse(rows: list[Any]) -> list[Any]:
    return rows[::-1]


def _give(change: Callable[[list[Any]], list[Any]]) -> _Does:
    def does(connection: Connection, line: Line) -> None:
        data = line.members["data"]
        changed = {**data, "rows": change(data["rows"])}
        _deliverMembers(connection, {**line.members, "data": changed})

    return does


def _handOnMinutes(connection: Connection, line: Line) -> None:
    data = dict(line.members["data"])
    for name in ("open_time", "close_time"):
        if type(data.get(name)) is int:
            data[name] -= data[name] % 60
    connection.handOn(wire.encodeData({**line.members, "data": data}) + b"\r\n")


def _deliverMembers(connection: Connection, members: Mapping[str, Any]) -> None:
    connection.deliver(wire.encodeData(members) + b"\r\n")


def _add(connection: Connection, line: Line) -> None:
    update, add = (b'"type":%d,' % each for each in (EV_RECORD_UPDATE, EV_RECORD_ADD))
    connection.deliver(line.data.replace(update, add, 1))


def _refuse(refusal: Refusal) -> _Does:
    def does(connection: Connection, line: Line) -> None:
        connection.deliver(wire.refusal(line.extID, refusal))

    return does


def _say(data: bytes) -> _Does:
    def does(connection: Connection, line: Line) -> None:
        connection.deliver(data)

    return does


# What no client may log: gateways are tested with it.
SECRET: Final = b"sandbox-secret"

_QUOTE: Final = b'["t","EURUSD",1.08421,1.08433,1767225600]\r\n'
_NOTICE: Final = b'["n",1767225600,"The market closes in an hour"]\r\n'
_STAFF: Final = b'["m",7,"manager","%b","%b"]\r\n' % (SECRET, SECRET)

_BUSY: Final = TooManyRequests("too many requests, by a fault of the sandbox")
_FAULT: Final = TechProblem("a technical problem, by a fault of the sandbox")
_TOKEN: Final = Unauthorized("the token is not accepted, by a fault of the sandbox")

FAULTS: Final = (
    Fault(
        "lose-request",
        Where.REQUEST,
        "The request is not carried out, and there is no reply.",
        _lose,
    ),
    Fault(
        "late-request",
        Where.REQUEST,
        "The request is carried out later, even if its connection is lost by then.",
        _handOnLater,
        seconds=2.0,
    ),
    Fault(
        "refuse-429",
        Where.REQUEST,
        "429 TOO_MANY_REQUESTS; nothing happens.",
        _refuse(_BUSY),
    ),
    Fault(
        "refuse-500",
        Where.REQUEST,
        "500 TECH_PROBLEM; nothing happens.",
        _refuse(_FAULT),
    ),
    Fault(
        "refuse-401",
        Where.REQUEST,
        "401 UNAUTHORIZED, whatever the token; nothing happens.",
        _refuse(_TOKEN),
    ),
    Fault(
        "minute-times",
        Where.REQUEST,
        "open_time and close_time of the request are cut to the minute.",
        _handOnMinutes,
        mayHappen=_hasOpenTime,
    ),
    Fault(
        "cut-request",
        Where.REQUEST,
        "The connection is closed, and the request is not carried out.",
        _cut,
    ),
    Fault(
        "double-request",
        Where.REQUEST,
        "The request is carried out twice, and has two replies.",
        _handOnTwice,
    ),
    Fault(
        "crash-request",
        Where.REQUEST,
        "The platform crashes before it carries the request out.",
        _crash,
        seconds=0.5,
    ),
    Fault(
        "lose-reply",
        Where.REPLY,
        "The request is carried out, and there is no reply.",
        _lose,
    ),
    Fault(
        "late-reply",
        Where.REPLY,
        "The reply is sent later.",
        _deliverLater,
        seconds=2.0,
    ),
    Fault(
        "double-reply",
        Where.REPLY,
        "The reply is sent twice.",
        _deliverTwice,
    ),
    Fault(
        "overtaken-reply",
        Where.REPLY,
        "The reply is sent after the event of its order, or when the time is over.",
        _hold,
        seconds=5.0,
        mayHappen=_hasOrder,
    ),
    Fault(
        "odd-reply",
        Where.REPLY,
        "The request is carried out, and the reply is a 200 without an order.",
        _sayNothing,
    ),
    Fault(
        "failed-reply",
        Where.REPLY,
        "The request is carried out, and the reply is 500 TECH_PROBLEM.",
        _refuse(_FAULT),
    ),
    Fault(
        "object-error",
        Where.REPLY,
        "The error of a refusal is an object, with the name and the message in it.",
        _sayErrorAsObject,
        mayHappen=_hasError,
    ),
    Fault(
        "short-page",
        Where.REPLY,
        "MngGetTradesByFilter gives half of the rows.",
        _give(_halve),
        mayHappen=_hasRows,
    ),
    Fault(
        "unsorted-page",
        Where.REPLY,
        "MngGetTradesByFilter gives the rows in the opposite order.",
        _give(_reverse),
        mayHappen=_hasRows,
    ),
    Fault(
        "cut-reply",
        Where.REPLY,
        "The connection is closed at any byte of the reply.",
        _cutInside,
    ),
    Fault(
        "crash-reply",
        Where.REPLY,
        "The platform crashes when it has accepted the request, before the reply.",
        _crash,
        seconds=0.5,
    ),
    Fault(
        "crash-accepted",
        Where.REPLY,
        "The platform crashes after the reply, before what it accepted is booked.",
        _deliverAndCrash,
        seconds=0.5,
    ),
    Fault(
        "millisecond-times",
        Where.LOOKUP,
        "Its times, and those in the conditions of a search, count milliseconds; the"
        " time of a change has 250 more than its whole seconds.",
    ),
    Fault(
        "fraction-times",
        Where.LOOKUP,
        "The time of a change has a quarter more than its whole seconds, also in the"
        " conditions of a search.",
    ),
    Fault(
        "lose-event",
        Where.EVENT,
        "The event is not sent on this connection.",
        _lose,
    ),
    Fault(
        "late-event",
        Where.EVENT,
        "The event is sent later.",
        _deliverLater,
        seconds=2.0,
    ),
    Fault(
        "double-event",
        Where.EVENT,
        "The event is sent twice.",
        _deliverTwice,
    ),
    Fault(
        "cut-event",
        Where.EVENT,
        "The connection is closed at any byte of the event.",
        _cutInside,
    ),
    Fault(
        "crash-event",
        Where.EVENT,
        "The platform crashes when it has booked, before the event.",
        _crash,
        seconds=0.5,
    ),
    Fault(
        "silent-request",
        Where.EVENT,
        "That a finance request was made is not an event.",
        _lose,
        mayHappen=_isOfRequest,
    ),
    Fault(
        "added-update",
        Where.EVENT,
        "The event of an update, or of an approval, has the type of a new trade.",
        _add,
        mayHappen=_isBookedUpdate,
    ),
    Fault(
        "quotes",
        Where.BETWEEN,
        'A line of quotes, ``["t",...]``, is sent before another line.',
        _say(_QUOTE),
        rate=0.2,
    ),
    Fault(
        "notices",
        Where.BETWEEN,
        'A notice, ``["n",...]``, is sent before another line.',
        _say(_NOTICE),
        rate=0.05,
    ),
    Fault(
        "staff",
        Where.BETWEEN,
        'A record of the staff, ``["m",...]``, is sent before another line.',
        _say(_STAFF),
        rate=0.05,
    ),
    Fault(
        "slow-queue",
        Where.BOOKING,
        "What was accepted is booked later than usual.",
        seconds=2.0,
    ),
    Fault(
        "unseen-queue",
        Where.BOOKING,
        "An order that is accepted and not booked is not found: a look-up, a deletion"
        " and an approval are a 404, and an update makes a new trade.",
    ),
    Fault(
        "hidden-deletions",
        Where.BOOKING,
        "A look-up does not find a trade that is deleted.",
    ),
    Fault(
        "cut-comments",
        Where.BOOKING,
        "A comment is cut after 31 characters.",
    ),
    Fault(
        "swapped-orders",
        Where.BOOKING,
        "Of two new orders the first gets the number that the second would have, and"
        " the second the lower one.",
    ),
    Fault(
        "approve-twice",
        Where.BOOKING,
        "A finance request that was approved can be approved again, and books again.",
    ),
    Fault(
        "lost-tail",
        Where.BOOKING,
        "What is booked is on disk only later, and a crash before that loses it.",
        seconds=1.0,
    ),
    Fault(
        "repeat-order",
        Where.BOOKING,
        "The number of an order that a crash has lost is given to another one.",
    ),
)
