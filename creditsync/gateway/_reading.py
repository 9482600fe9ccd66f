"""
From a line of the platform to its members.

A platform is not bound by what this server asks of its clients' lines. It may have
integers of 64 bits and numbers that no double has, nest deeper, and cut a comment
within a character. If such a line were dropped, what it is about would be unknown for
ever, and with it each page of a look-up that has the same record. So a value that can't
be had exactly becomes C{null}, a character that is none becomes U+FFFD, and the rest of
the line counts.
"""

import json
from decimal import Decimal
from math import inf
from typing import Any, Final

from creditsync import _wire as wire
from creditsync._wire.decoding import NONCHARACTERS, exactNumber
from creditsync.codes import MAX_SAFE_INTEGER
from creditsync.errors import InvalidJSON

# An integer with more characters is not converted: it can't be a safe one.
_LONGEST_INTEGER: Final = len(str(-MAX_SAFE_INTEGER))

_REPLACED: Final = dict.fromkeys(map(ord, NONCHARACTERS), "\ufffd")


def membersOf(line: bytes) -> dict[str, Any] | None:
    """
    The members of a line, or L{None} if it is none of ours. Arrays are not even parsed.
    """
    if line.lstrip().startswith(b"["):
        return None
    try:
        return wire.decode(line, maxMarks=inf)
    except InvalidJSON:
        return _lenient(line)


def _lenient(line: bytes) -> dict[str, Any] | None:
    try:
        members = _clean(
            json.loads(
                line.decode("utf-8", "replace"),
                parse_int=_integer,
                parse_float=_number,
                parse_constant=lambda _: None,
                object_pairs_hook=_onceEach,
            )
        )
    except (ValueError, RecursionError):
        return None
    return members if isinstance(members, dict) else None


def _integer(text: str) -> int | None:
    if len(text) > _LONGEST_INTEGER:
        return None
    value = int(text)
    return value if abs(value) <= MAX_SAFE_INTEGER else None


def _number(text: str) -> float | Decimal | None:
    try:
        return exactNumber(text)
    except InvalidJSON:
        return None


def _onceEach(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """
    An object. Which of two members of the same name counts would be a guess.
    """
    found = dict(members)
    if len(found) != len(members):
        raise ValueError("an object has two members of the same name")
    return found


def _clean(value: Any) -> Any:
    """
    The same value, without halves of characters and without noncharacters.
    """
    if isinstance(value, str):
        text = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return text.translate(_REPLACED)
    if isinstance(value, list):
        return [_clean(each) for each in value]
    if isinstance(value, dict):
        return {_clean(name): _clean(each) for name, each in value.items()}
    return value
