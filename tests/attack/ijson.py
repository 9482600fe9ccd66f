"""
A strict reader of lines, on the standard library alone.

A line is one JSON object of I-JSON (RFC 7493), as C{docs/protocol.rst}, "Lines",
has it. It is slow, and shares nothing with what it judges. Numbers with a point or
an exponent are C{Decimal}s: exactly what was written.
"""

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NoReturn

MOST_MARKS = 1100
LONGEST_NUMBER = 1000
DEEPEST = 16
GREATEST = 2**53 - 1


class NotIJSON(ValueError):
    """
    The line is not I-JSON; the message says why.
    """


def decode(line: bytes) -> dict[str, Any]:
    """
    Parse a line.

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
    Check every string, and the depth of nesting.
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


# What can still be read of a line that is no I-JSON.


def extIDs(line: bytes) -> list[Any]:
    """
    The C{extID}s that a refusal of a line may carry, L{None} for none: only one
    where there is no doubt.

    It is the one member of this name at the top level. If the line is JSON but
    for numbers, constants, characters, names that stand twice and its depth,
    that member has to be found. If not, it may be, unless there is more of that
    name to come.
    """
    text = line.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    reading = _Reading(text.strip(" \t\r\n"))
    found = [value for name, value in reading.members() if name == "extID"]
    rest = reading.text[reading.at :]
    if len(found) != 1 or "extID" in rest or _LETTER.search(rest):
        return [None]
    try:
        raw = f'{{"extID":{found[0]}}}'.encode("utf-8", "surrogateescape")
        extID = decode(raw)["extID"]
    except NotIJSON:
        return [None]
    marks = sum(map(line.count, (b",", b"[", b"{")))
    return [extID] if reading.isJSON and marks <= MOST_MARKS else [None, extID]


_LETTER = re.compile(r"\\u00(65|78|74|49|44)")
_ESCAPED = re.compile(r"\\.", re.DOTALL)
_STRING = re.compile('"[^"]*"')
_WORD = re.compile(r"[A-Za-z0-9_.+-]+")
_LENIENT = json.JSONDecoder(strict=False, parse_int=str, parse_float=str)


class _Reading:
    """
    A reading of one object, which goes on as long as it can.

    @ivar at: The place behind the last member that was read.
    @ivar isJSON: Whether it had no need to be lenient about brackets and words.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        # As long as that, and each quotation mark begins or ends a string.
        self._plain = _ESCAPED.sub("xx", text)
        self.at = 0
        self.isJSON = True

    def members(self) -> Iterator[tuple[Any, str]]:
        """
        Each member of the object: its name, and its value as it is written.
        """
        isOver, at = not self.text.startswith("{"), 1
        while not isOver:
            try:
                start = self._space(at)
                colon = self._space(self._match(_STRING, start))
                first = self._space(colon + 1)
                last = self._behind(first)
                end = self._space(last)
                if self.text[colon] != ":" or self.text[end] not in ",}":
                    break
            except (ValueError, IndexError):
                break
            isOver, at = self.text[end] == "}", end + 1
            self.at = at
            yield self._name(start), self.text[first:last]
        self.isJSON = self.isJSON and isOver and self.at == len(self.text)

    def _name(self, at: int) -> Any:
        try:
            return _LENIENT.raw_decode(self.text, at)[0]
        except ValueError:
            self.isJSON = False
            return None

    def _behind(self, at: int) -> int:
        """
        The place after a value.

        @raise ValueError: It can't be determined.
        """
        try:
            end = _LENIENT.raw_decode(self.text, at)[1]
            if self.text[self._space(end)] in ",}":
                return end
        except (ValueError, RecursionError):
            pass
        self.isJSON = False
        if self.text[at] == '"':
            return self._match(_STRING, at)
        if self.text[at] in "[{":
            return self._behindBrackets(at)
        return self._match(_WORD, at)

    def _behindBrackets(self, at: int) -> int:
        waiting = ""
        while True:
            character = self._plain[at]
            if character == '"':
                at = self._match(_STRING, at)
                continue
            if character in "[{":
                waiting += "]" if character == "[" else "}"
            elif character in "]}":
                if waiting[-1] != character:
                    raise ValueError("brackets that do not match")
                waiting = waiting[:-1]
            at += 1
            if not waiting:
                return at

    def _match(self, pattern: re.Pattern[str], at: int) -> int:
        found = pattern.match(self._plain, at)
        if found is None:
            raise ValueError("something else")
        return found.end()

    def _space(self, at: int) -> int:
        while self.text[at] in " \t\r":
            at += 1
        return at
