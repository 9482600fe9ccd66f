"""
The wire contract's idea of a line, read anew on the standard library alone.

One JSON object of I-JSON (RFC 7493), as C{wire.md} section 1 has it. It is
slow, and shares nothing with what it judges. Numbers with a point or an
exponent are C{Decimal}s: exactly what was written.
"""

import json
from decimal import Decimal
from typing import Any, NoReturn

MOST_MARKS = 1000
LONGEST_NUMBER = 64
DEEPEST = 16
GREATEST = 2**53 - 1


class NotIJSON(ValueError):
    """
    The line is something else, and what.
    """


def decode(line: bytes) -> dict[str, Any]:
    """
    Read a line.

    @raise NotIJSON: It is not one I-JSON object.
    """
    if sum(map(line.count, (b",", b"[", b"{"))) > MOST_MARKS:
        raise NotIJSON("too many commas and brackets")
    try:
        value = _read(line.decode("utf-8"))
    except RecursionError:
        raise NotIJSON("too deep") from None
    except ValueError as e:
        raise NotIJSON(str(e)) from None
    if not isinstance(value, dict):
        raise NotIJSON("no object")
    _look(value, 1)
    return value


def _read(text: str) -> Any:
    return json.loads(
        text,
        object_pairs_hook=_members,
        parse_int=_integer,
        parse_float=_number,
        parse_constant=_constant,
    )


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise NotIJSON("a name twice")
    return members


def _integer(text: str) -> int:
    # Before int(), which refuses 4,301 digits and is slow with fewer.
    if len(text) > 17 or abs(int(text)) > GREATEST:
        raise NotIJSON("an integer beyond 2^53-1")
    return int(text)


def _number(text: str) -> Decimal:
    if len(text) > LONGEST_NUMBER:
        raise NotIJSON("a number that is too long")
    if abs(float(text)) == float("inf"):
        raise NotIJSON("beyond a double")
    mantissa = text.lower().partition("e")[0]
    if float(text) == 0:
        if any(digit in mantissa for digit in "123456789"):
            raise NotIJSON("nothing in a double, but not nothing")
        return Decimal("-0.0" if text.startswith("-") else "0.0")
    return Decimal(text)


def _constant(text: str) -> NoReturn:
    raise NotIJSON(f"{text} is no JSON")


def _look(value: Any, depth: int) -> None:
    """
    Look at every string, and at how deep it all is.
    """
    if isinstance(value, str):
        if not all(map(_isCharacter, value)):
            raise NotIJSON("no character of Unicode")
        return
    if not isinstance(value, dict | list):
        return
    if depth > DEEPEST:
        raise NotIJSON("too deep")
    inside = [*value, *value.values()] if isinstance(value, dict) else value
    for each in inside:
        _look(each, depth + 1)


def _isCharacter(character: str) -> bool:
    code = ord(character)
    isSurrogate = 0xD800 <= code <= 0xDFFF
    isNoncharacter = 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE
    return not isSurrogate and not isNoncharacter
