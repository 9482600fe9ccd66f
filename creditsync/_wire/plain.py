"""
The short way of most lines: requests that have nothing unusual in them.

What this accepts, L{decoding<creditsync._wire.decoding>} and the schema of requests
would accept with the same values; anything else is left to them. A property test
proves that the two agree.
"""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from creditsync._wire.decoding import exactNumber
from creditsync.codes import MAX_MARKS, MAX_SAFE_INTEGER
from creditsync.errors import InvalidJSON
from creditsync.records import Request


class _Plain(
    msgspec.Struct,
    forbid_unknown_fields=True,
    rename={"token": "__token", "key": "idempotencyKey"},
):
    """
    A request as C{schemas/request.json} defines it, in a line without escapes.
    """

    command: Annotated[str, Meta(min_length=1)]
    token: str
    data: dict[str, Any]
    extID: (
        Annotated[str, Meta(min_length=1, max_length=128)]
        | Annotated[int, Meta(ge=-MAX_SAFE_INTEGER, le=MAX_SAFE_INTEGER)]
        | UnsetType
    ) = UNSET
    key: Annotated[str, Meta(min_length=1, max_length=128)] | UnsetType = UNSET


_parse = msgspec.json.Decoder(_Plain, float_hook=exactNumber).decode

# What a plain line doesn't have. As numbers: a byte is found four times as
# fast by its number as by a string of one byte.
_ESCAPE, _DELETE, _ARRAY = b"\\\x7f["


def plainRequest(line: bytes) -> Request | None:
    """
    Read a line that has nothing unusual: short, ASCII without escapes, no
    other members than the protocol's, and nothing nested in its data.

    @return: The request, its envelope checked; or L{None}: then L{decode} and
        the schema have to judge the line.
    """
    # As short as MAX_MARKS, so that it can't have more of them either.
    if len(line) > MAX_MARKS or not line.isascii():
        return None
    if _ESCAPE in line or _DELETE in line or _ARRAY in line:
        return None
    try:
        plain = _parse(line)
    except (msgspec.DecodeError, InvalidJSON, RecursionError):
        return None
    data = plain.data
    extID = None if plain.extID is UNSET else plain.extID
    key = None if plain.key is UNSET else plain.key
    members = 3 + len(data) + (extID is not None) + (key is not None)
    # A member that comes twice has a colon too many, and so does a nested one.
    # A colon in a string sends the line the long way needlessly.
    if line.count(b":") != members:
        return None
    for value in data.values():
        kind = value.__class__
        if kind is int:
            if not -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
                return None
        elif kind is dict:
            return None
    return Request(plain.command, extID, plain.token, data, key)
