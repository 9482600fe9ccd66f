"""
The lines of the audit trail for bookings, of which there is one for each credit.

Those of a commit are encoded in one call. They are ASCII, with everything else
escaped as Python's own JSON does it.
"""

import re
from collections.abc import Sequence
from json.encoder import encode_basestring_ascii
from typing import Any, Final

import msgspec

from creditsync.records import ExtID

# In place of a member that a line doesn't have.
OMITTED: Final[Any] = msgspec.UNSET


class Booking(msgspec.Struct, gc=False, rename={"key": "idempotencyKey"}):
    """
    The line of one operation that was booked.

    @ivar amount: What L{creditsync._wire.amount} gave.
    """

    time: str
    outcome: str
    command: str | msgspec.UnsetType
    principal: int | msgspec.UnsetType
    session: int | msgspec.UnsetType
    peer: str | msgspec.UnsetType
    extID: ExtID | msgspec.UnsetType | None
    key: str | msgspec.UnsetType
    done: str
    order: int
    login: int | msgspec.UnsetType
    cmd: int | msgspec.UnsetType
    amount: float | msgspec.Raw | msgspec.UnsetType
    comment: str | msgspec.UnsetType
    place: int | msgspec.UnsetType


def bookings(lines: Sequence[Booking]) -> bytes:
    """
    Write lines, each with its end.

    @raise Exception: One of them can't be written as JSON.
    """
    encoded = _encodeLines(lines)
    if encoded.isascii() and b"\x7f" not in encoded:
        return encoded
    # Outside of strings JSON is ASCII, so what is not stands inside one.
    return _UNUSUAL.sub(_escape, encoded.decode()).encode("ascii")


_encodeLines = msgspec.json.Encoder().encode_lines
_UNUSUAL = re.compile("[^\x00-\x7e]+")


def _escape(run: re.Match[str]) -> str:
    return encode_basestring_ascii(run[0])[1:-1]
