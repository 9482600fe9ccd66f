"""
Lines that were changed so that they might be trouble.

A line that is JSON is changed as a tree: members, names, values, types, numbers
at their bounds, escapes, names twice, nesting. Any line is changed as bytes.
"""

import json
from collections.abc import Callable
from random import Random
from typing import Any

from attrs import define

NUMBERS = [
    "0", "-0", "1", "-1", "7", "300.0", "1001.0", "1.5", "0.1", "1e0", "1E2",
    "1e-8", "1e-9", "0.00000001", "0.000000001", "10000000000",
    "10000000000.00000001", "-10000000000", "1e10", "1e22", "1e308", "1e309",
    "1e-308", "5e-324", "1e-400", "0e999", "-0.0", "9007199254740991",
    "9007199254740992", "-9007199254740992", "9007199254740991.0",
    "9007199254740992.0", "9007199254740993.5", "18446744073709551616",
    "253402300799", "253402300800", "99999999.99999999", "19.99", "300.000000000",
    "0.30000000000000004", "3.1800000000000002", "434.99999999999994",
    "3.180000000000002", "9999999999.123456789", "9.9999999999999995e-09",
    "NaN", "-Infinity", "01", ".5", "1e", "1_0",
]  # fmt: skip

STRINGS = [
    "", "x" * 128, "x" * 129, "x" * 255, "x" * 256, "\U0001f4b6" * 128,
    "\0", "\t\r\n", "\x1f", "\x7f", "\x9f", "\u2028", "it's", ",}", ", ]", "',  }'",
    "\ufeff", "\ufffe", "\ufdd0", "\U0010ffff", "\ud800", "\udfff", "\ud83d\udcb6",
    "é", "credit-req-1001", "trade:event", "__deferred", "null", "1001", "\\u0000",
]  # fmt: skip

NAMES = [
    "command", "extID", "__token", "data", "idempotencyKey", "login", "amount",
    "comment", "order", "open_time", "close_time", "chanels", "cmd", "__access",
    "__deferred", "event", "from", "", "é", "constructor", "__proto__",
]  # fmt: skip

CHUNKS = [
    b"\xef\xbb\xbf", b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80",
    b"\xf0\x9f", b"\x00", b"\x0b", b"\\u", b"\\ud800", b"\\uD83D\\uDCB6", b"\\x41",
    b'"', b"'", b",", b",,", b":", b"{", b"}", b"[", b"]", b"//", b"/**/", b"\r", b" ",
    b"\xc2\xa0", b"e999", b"true", b"null", b"[" * 17, b'{"a":' * 17, b"," * 1001,
]  # fmt: skip


class Number(str):
    """
    A number as it is written.
    """


@define
class Members:
    """
    An object that may have a name twice.
    """

    pairs: list[list[Any]]


@define
class Mutator:
    """
    Changes lines at random.

    @ivar commands: What there is to ask for.
    @ivar tokens: What there is to ask with.
    """

    _random: Random
    _commands: list[str]
    _tokens: list[str]

    def change(self, line: bytes, other: bytes) -> bytes:
        """
        Change a line, perhaps with parts of another one.
        """
        for _ in range(self._random.choice((1, 1, 1, 1, 2, 4))):
            line = self._changed(line, other)
        return line.replace(b"\n", b" ")[:9000]

    def _changed(self, line: bytes, other: bytes) -> bytes:
        if self._random.random() < 0.15:
            return self._changeBytes(line, other)
        try:
            tree, donor = _parse(line), _parse(other)
        except (ValueError, RecursionError):
            return self._changeBytes(line, other)
        return self._write(self._changeTree(tree, donor)).encode(
            "utf-8", "surrogatepass"
        )

    def _changeTree(self, tree: Any, donor: Any) -> Any:
        places = list(_places(tree))
        if not places:
            return self._value()
        holder, at = self._random.choice(places)
        change = self._random.choice(self._changes())
        change(holder, at, donor)
        return tree

    def _changes(self) -> list[Callable[[list[Any], int, Any], None]]:
        return [
            self._replace,
            self._replace,
            self._alter,
            self._alter,
            self._wrap,
            self._graft,
            self._insert,
            self._remove,
            self._repeat,
            self._rename,
        ]

    def _replace(self, holder: list[Any], at: int, donor: Any) -> None:
        _put(holder, at, self._value())

    def _alter(self, holder: list[Any], at: int, donor: Any) -> None:
        """
        Change the value and keep the type.
        """
        value = _get(holder, at)
        random = self._random
        if isinstance(value, Number):
            value = Number(random.choice(NUMBERS))
        elif isinstance(value, str):
            cut = random.randrange(len(value) + 1)
            value = random.choice(
                [value[:cut] + random.choice(STRINGS) + value[cut:], value[:cut]]
            )
        else:
            value = self._value()
        _put(holder, at, value)

    def _wrap(self, holder: list[Any], at: int, donor: Any) -> None:
        value = _get(holder, at)
        for _ in range(self._random.choice((1, 2, 12, 13, 14, 15, 16, 17, 40))):
            isList = self._random.random() < 0.5
            value = [value] if isList else Members([["a", value]])
        _put(holder, at, value)

    def _graft(self, holder: list[Any], at: int, donor: Any) -> None:
        places = list(_places(donor))
        _put(holder, at, _get(*self._random.choice(places)) if places else donor)

    def _insert(self, holder: list[Any], at: int, donor: Any) -> None:
        name = self._random.choice(NAMES)
        isPair = isinstance(holder[at], list) and _isPair(holder[at])
        holder.insert(at, _Pair([name, self._value()]) if isPair else self._value())

    def _remove(self, holder: list[Any], at: int, donor: Any) -> None:
        del holder[at]

    def _repeat(self, holder: list[Any], at: int, donor: Any) -> None:
        again = holder[at]
        if _isPair(again) and self._random.random() < 0.5:
            again = _Pair([again[0], self._value()])
        holder.insert(self._random.randrange(len(holder) + 1), again)

    def _rename(self, holder: list[Any], at: int, donor: Any) -> None:
        if _isPair(holder[at]):
            name = self._random.choice([*NAMES, *STRINGS, holder[at][0] + " "])
            holder[at] = _Pair([name, holder[at][1]])

    def _value(self) -> Any:
        random = self._random
        return random.choice(
            [
                Number(random.choice(NUMBERS)),
                Number(str(random.randrange(1, 60))),
                Number(repr(round(random.uniform(-500, 500), random.randrange(10)))),
                random.choice(STRINGS),
                random.choice(self._commands),
                random.choice(self._tokens),
                random.choice([True, False, None]),
                random.choice([[], Members([]), [Number("1")]]),
            ]
        )

    def _write(self, value: Any) -> str:
        """
        Write a tree, with white space and escapes wherever they are allowed.
        """
        space = self._random.choice(("", "", "", " ", "\t", "\r"))
        return space + self._text(value) + space

    def _text(self, value: Any) -> str:
        if isinstance(value, Members):
            pairs = (f"{self._quote(k)}:{self._write(v)}" for k, v in value.pairs)
            return "{" + ",".join(pairs) + "}"
        if isinstance(value, list):
            return "[" + ",".join(map(self._write, value)) + "]"
        if isinstance(value, Number):
            return str(value)
        if isinstance(value, str):
            return self._quote(value)
        return {True: "true", False: "false", None: "null"}[value]

    def _quote(self, text: str) -> str:
        if self._random.random() < 0.9:
            # A lone surrogate can't be written raw like this, and a pair is
            # joined.
            isAscii = self._random.random() < 0.5 or not _isEncodable(text)
            return json.dumps(text, ensure_ascii=isAscii)
        if not _isEncodable(text):
            return f'"{text}"'
        units = text.encode("utf-16-be").hex()
        return (
            '"'
            + "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
            + '"'
        )

    def _changeBytes(self, line: bytes, other: bytes) -> bytes:
        random = self._random
        at = random.randrange(len(line) + 1)
        end = min(len(line), at + random.choice((1, 1, 2, 4, 16, 64)))
        chunk = random.choice(
            [random.choice(CHUNKS), random.randbytes(1), random.randbytes(4)]
        )
        cut = random.randrange(len(other) + 1)
        return random.choice(
            [
                line[:at] + chunk + line[at:],
                line[:at] + chunk + line[end:],
                line[:at] + line[end:],
                line[:at] + line[at:end] * random.choice((2, 3, 300)) + line[end:],
                line[:at],
                line[:at] + other[cut:],
            ]
        )


class _Pair(list[Any]):
    """
    A name and its value.
    """


def _isPair(value: Any) -> bool:
    return isinstance(value, _Pair)


def _parse(line: bytes) -> Any:
    return json.loads(
        line.decode(),
        object_pairs_hook=lambda pairs: Members([_Pair(pair) for pair in pairs]),
        parse_int=Number,
        parse_float=Number,
        parse_constant=Number,
    )


def _places(tree: Any) -> "list[tuple[list[Any], int]]":
    """
    Each place in a tree: its list, and the index in it.
    """
    inside = tree.pairs if isinstance(tree, Members) else tree
    if not isinstance(inside, list):
        return []
    found = [(inside, at) for at in range(len(inside))]
    for each in inside:
        found += _places(each[1] if _isPair(each) else each)
    return found


def _get(holder: list[Any], at: int) -> Any:
    return holder[at][1] if _isPair(holder[at]) else holder[at]


def _put(holder: list[Any], at: int, value: Any) -> None:
    holder[at] = _Pair([holder[at][0], value]) if _isPair(holder[at]) else value


def _isEncodable(text: str) -> bool:
    return not any(0xD800 <= ord(character) <= 0xDFFF for character in text)
