"""
The lines of the protocol (C{docs/protocol.rst}) as the client writes and reads
them.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from creditsync import _wire as wire
from creditsync._client.outcomes import Answer, Data, Refused
from creditsync.codes import MAX_ROWS_SIZE
from creditsync.errors import InvalidJSON

# Bytes in a line that is sent, without its end: the server's own default.
MAX_LINE_LENGTH = 65536

# Bytes in a line that is received, without its end: the rows of a look-up, and what
# else a line has.
MAX_REPLY_LENGTH = MAX_ROWS_SIZE + MAX_LINE_LENGTH

# The members of a trade and of an accepted command that are money.
_MONEY = ("profit", "amount", "balance", "credit")


class UnexpectedLine(Exception):
    """
    The other side sent something that this protocol does not have.
    """


def present(members: Data) -> Data:
    """
    The members that have a value.
    """
    return {name: value for name, value in members.items() if value is not None}


def encode(command: str, data: Mapping[str, Any], key: str | None = None) -> bytes:
    """
    Encode what all tries of a request have in common, as a JSON object.

    It is checked against the rules of I-JSON here, because the server's reply to
    a line that breaks them has no C{extID}.

    @raise Refused: It breaks them.
    """
    members = {"command": command, "idempotencyKey": key, "data": dict(data)}
    body = wire.encodeData(present(members))
    try:
        wire.decode(body)
    except InvalidJSON as e:
        raise Refused(e.status, e.error, e.message) from None
    return body


def encodeTry(body: bytes, extID: str, token: str) -> bytes:
    """
    Encode one try of a request, with the end of its line.

    @param body: As L{encode} returns it.
    @raise ValueError: The token can't be sent.
    @raise Refused: The server would not accept a line of this length.
    """
    if not token.isascii():
        # Not every character may stand in a line, and no JWT has others.
        raise ValueError("the token is not ASCII")
    head = wire.encodeData({"extID": extID, "__token": token})
    line = head[:-1] + b"," + body[1:]
    if len(line) > MAX_LINE_LENGTH:
        raise Refused(
            413, "LINE_TOO_LONG", f"a line has at most {MAX_LINE_LENGTH} bytes"
        )
    return line + b"\r\n"


def isTooLong(line: bytes | bytearray) -> bool:
    """
    Whether a line, or the part of one that has arrived, is too long.
    """
    return len(line) > MAX_REPLY_LENGTH + len(b"\r")


def decodeReply(members: Data) -> Answer | Refused:
    """
    Decode a reply.

    @raise UnexpectedLine: It is not a reply.
    """
    status, data = members.get("status"), members.get("data")
    if status == 200 and isinstance(data, dict):
        return Answer(_exact(data), members.get("replayed") is True)
    return _decodeRefusal(members)


def decodePassed(members: Data) -> Answer | Refused:
    """
    Decode a reply whose data is the platform's, and may be anything.

    @return: It has the data as its member C{data}.
    @raise UnexpectedLine: It is not a reply.
    """
    if members.get("status") == 200 and "data" in members:
        return Answer({"data": members["data"]}, False)
    return _decodeRefusal(members)


def _decodeRefusal(members: Data) -> Refused:
    status, data = members.get("status"), members.get("data")
    error, message = members.get("error"), members.get("message")
    if (
        not isinstance(status, int)
        or not isinstance(error, str)
        or not isinstance(message, str)
        or not isinstance(data, dict | None)
    ):
        raise UnexpectedLine("a line is neither an event nor a reply")
    return Refused(status, error, message, data)


def decodeEvent(members: Data) -> tuple[int, Data]:
    """
    Decode the type and the data of a trade event.

    @raise UnexpectedLine: It lacks one of them.
    """
    type, data = members.get("type"), members.get("data")
    if not isinstance(type, int) or not isinstance(data, dict):
        raise UnexpectedLine("a trade event has no type or no data")
    return type, _exact(data)


def _exact(data: Data) -> Data:
    """
    Make all money C{Decimal}: L{wire} returns a C{float} where that has the same
    value, and the two types can't be added.
    """
    for name in _MONEY:
        if name in data:
            data[name] = _decimal(data[name])
    if isinstance(data.get("totals"), dict):
        _exact(data["totals"])
    structure, rows = data.get("structure"), data.get("rows")
    if isinstance(structure, list) and isinstance(rows, list):
        for at, name in enumerate(structure):
            if name in _MONEY:
                for row in rows:
                    row[at] = _decimal(row[at])
    return data


def _decimal(value: Any) -> Any:
    return Decimal(repr(value)) if isinstance(value, float) else value
