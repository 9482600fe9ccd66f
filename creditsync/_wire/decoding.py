"""
From a line to one I-JSON object (RFC 7493), or a sentence that says what is wrong.

What two parsers could understand in two ways is refused before anybody acts on
it. Numbers keep their exact value, so that money is never rounded on its way in.
"""

import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterable
from contextlib import suppress
from decimal import Decimal
from math import inf, isinf
from typing import Any, Final

import msgspec

from creditsync.codes import MAX_DEPTH, MAX_MARKS, MAX_NUMBER, MAX_SAFE_INTEGER
from creditsync.errors import InvalidJSON

_ESCAPE: Final = ord("\\")


def decode(line: bytes, maxMarks: float = MAX_MARKS) -> dict[str, Any]:
    """
    Read one line as one I-JSON object.

    A number with a point or an exponent becomes a C{float} where that has
    exactly the value which was written, and a C{Decimal} otherwise.

    @param line: The line, with or without its end.
    @param maxMarks: How many commas and opening brackets it may have: a reply may have
        any number.
    @raise InvalidJSON: It is anything else; the message says what.
    """
    if line.startswith(BOM_UTF8):
        raise InvalidJSON("the line begins with a byte order mark")
    if line.count(b",") + line.count(b"[") + line.count(b"{") > maxMarks:
        raise InvalidJSON(
            f"the line has more than {maxMarks} commas and opening brackets"
        )
    try:
        value = _parse(line)
    except UnicodeDecodeError:
        raise InvalidJSON("the line is not valid UTF-8") from None
    except RecursionError:
        raise InvalidJSON(_TOO_DEEP) from None
    except msgspec.ValidationError:
        # What it reports so is an integer with a great many digits.
        raise InvalidJSON(_TOO_GREAT) from None
    except msgspec.DecodeError as e:
        raise InvalidJSON(f"the line is not valid JSON: {_cause(e, line)}") from None
    if not isinstance(value, dict):
        raise InvalidJSON("the line is not a JSON object")
    members = _audit(value, 1)
    # Each member that was sent has a colon, so no name came twice if there are
    # as many colons as members. If there are more, some may be in strings.
    if line.count(b":") != members:
        _refuseRepeatedNames(line)
    if (_ESCAPE in line or not line.isascii()) and _isSuspect(line):
        _refuseNoncharacters(value)
    return value


def decodeTolerantly(line: bytes) -> dict[str, Any] | None:
    """
    Read a line of another program, in which single values may be such as I-JSON does
    not have. They must not cost the rest of the line, and whoever uses one has to check
    it: a number may be of any size, and L{None} stands for one that is not finite; a
    string may have bytes that are not UTF-8, each as a lone surrogate.

    @return: L{None} if it is not a JSON object, or if what it says is not certain.
    """
    with suppress(InvalidJSON):
        return decode(line, maxMarks=inf)
    try:
        value = json.loads(
            line.decode("utf-8", "surrogateescape"),
            object_pairs_hook=_onceEach,
            parse_float=Decimal,
            parse_constant=lambda name: None,
        )
    except (InvalidJSON, ValueError, ArithmeticError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def dataOf(line: bytes) -> bytes:
    """
    The C{data} of a line as it was written: C{{}} if the line has none.

    @param line: One that L{decode} accepts.
    """
    return bytes(_parseData(line).data)


class _Data(msgspec.Struct):
    """
    The only member of a line that is read.
    """

    data: msgspec.Raw = msgspec.Raw(b"{}")


_parseData = msgspec.json.Decoder(_Data).decode


_TOO_DEEP = f"the line is nested deeper than {MAX_DEPTH}"
_TOO_GREAT = f"an integer is not between {-MAX_SAFE_INTEGER} and {MAX_SAFE_INTEGER}"


def _cause(error: msgspec.DecodeError, line: bytes) -> str:
    """
    What the parser found wrong, as the end of a sentence.
    """
    cause = str(error).removeprefix("JSON is malformed: ")
    if cause != "Input data was truncated":
        return cause
    # If the line is too short to have the other half, the parser reports just that.
    if _HALF_PAIR.search(line):
        return "a string ends with half of a surrogate pair"
    return "it ends too early"


_HALF_PAIR = re.compile(rb'\\u[dD][89abAB][0-9a-fA-F]{2}"')


def exactNumber(text: str) -> float | Decimal:
    """
    Read a number that has a point or an exponent, and lose nothing of it.
    """
    if len(text) > MAX_NUMBER:
        raise InvalidJSON(f"a number has more than {MAX_NUMBER} characters")
    value = float(text)
    # A double keeps 15 significant digits, and 16 characters have no more.
    if len(text) <= 16 and (1e-300 < value < 1e300 or -1e300 < value < -1e-300):
        return value
    if isinf(value):
        raise InvalidJSON("a number is too great for a double")
    if not value:
        if _NOT_ZERO.match(text):
            raise InvalidJSON("a number is too small for a double")
        return value
    exact = Decimal(text)
    return value if exact == Decimal(repr(value)) else exact


_NOT_ZERO = re.compile(r"[-0.]*[1-9]")
_parse = msgspec.json.Decoder(float_hook=exactNumber).decode


def _audit(value: dict[str, Any] | list[Any], depth: int) -> int:
    """
    Check the depth and the integers of what was parsed.

    @param depth: The nesting level of C{value}, from 1.
    @return: How many members all its objects have together.
    """
    if depth > MAX_DEPTH:
        raise InvalidJSON(_TOO_DEEP)
    inside: Iterable[Any]
    if isinstance(value, dict):
        members, inside = len(value), value.values()
    else:
        members, inside = 0, value
    for each in inside:
        kind = each.__class__
        if kind is str:
            continue
        if kind is int:
            if not -MAX_SAFE_INTEGER <= each <= MAX_SAFE_INTEGER:
                raise InvalidJSON(_TOO_GREAT)
        elif kind is dict or kind is list:
            members += _audit(each, depth + 1)
    return members


def _refuseRepeatedNames(line: bytes) -> None:
    """
    Refuse a line that was parsed, if an object in it names a member twice.
    """
    json.loads(line, object_pairs_hook=_onceEach)


def _onceEach(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """
    Refuse the members of one object if two of them have the same name.
    """
    found = dict(members)
    if len(found) != len(members):
        raise InvalidJSON("an object has two members of the same name")
    return found


def _refuseNoncharacters(value: dict[str, Any]) -> None:
    """
    Refuse what was parsed if a name or a string in it has one of Unicode's 66
    noncharacters (RFC 7493, section 2.1).
    """
    text = msgspec.json.encode(value).decode()
    if any(map(text.__contains__, _NONCHARACTERS)):
        raise InvalidJSON("a string has a Unicode noncharacter")


_NONCHARACTERS = [
    *map(chr, range(0xFDD0, 0xFDF0)),
    *(
        chr(plane + last)
        for plane in range(0, 0x110000, 0x10000)
        for last in (0xFFFE, 0xFFFF)
    ),
]


def _isSuspect(line: bytes) -> bool:
    """
    Whether a line may have a noncharacter: those from U+FDD0 to U+FDEF all begin
    alike in UTF-8 and as an escape, and the last two of each plane end alike.
    """
    if _ESCAPE in line:
        folded = line.lower()
        if any(map(folded.__contains__, (b"\\ufd", b"\\uff", b"\\udf"))):
            return True
    return any(map(line.__contains__, (b"\xef\xb7", b"\xbf\xbe", b"\xbf\xbf")))
