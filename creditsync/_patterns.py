"""
Translation of regular expressions from ECMA-262, which JSON Schema uses, to Python.

Python accepts most of them, but with another meaning: its C{$} also matches before
a line feed at the end, its C{\\d}, C{\\w} and C{\\s} match characters of every
script, and its C{.} matches a carriage return. So a pattern is parsed here, as
ECMA-262 does with the flag C{u}, and each token is translated. A pattern without an
exact equivalent is refused: one with backreferences, Unicode properties (such as
C{\\pL}), inline flags, or syntax that ECMA-262 does not have.

Two things are accepted although the flag C{u} forbids them, because they can have
only one meaning: any punctuation may be escaped, and a closing bracket or brace may
stand for itself.
"""

import re
from collections.abc import Iterator

_LAST = 0x10FFFF
# Ranges of characters, ascending. White space is ECMA-262's WhiteSpace and
# LineTerminator.
_DIGIT = [(0x30, 0x39)]
_WORD = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
_SPACE = [
    (0x09, 0x0D),
    (0x20, 0x20),
    (0xA0, 0xA0),
    (0x1680, 0x1680),
    (0x2000, 0x200A),
    (0x2028, 0x2029),
    (0x202F, 0x202F),
    (0x205F, 0x205F),
    (0x3000, 0x3000),
    (0xFEFF, 0xFEFF),
]
_LINE_END = [(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)]


def _without(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """
    All other characters.
    """
    firsts = [0, *(last + 1 for _, last in ranges)]
    lasts = [*(first - 1 for first, _ in ranges), _LAST]
    return list(zip(firsts, lasts, strict=True))


def _character(code: int) -> str:
    return f"\\U{code:08x}"


def _text(ranges: list[tuple[int, int]]) -> str:
    """
    Write ranges for use inside square brackets.
    """
    return "".join(f"{_character(a)}-{_character(b)}" for a, b in ranges)


_CLASSES = {
    "d": _text(_DIGIT),
    "D": _text(_without(_DIGIT)),
    "w": _text(_WORD),
    "W": _text(_without(_WORD)),
    "s": _text(_SPACE),
    "S": _text(_without(_SPACE)),
}
_IN_WORD = f"[{_CLASSES['w']}]"
_BOUNDARY = f"(?<!{_IN_WORD})(?={_IN_WORD})|(?<={_IN_WORD})(?!{_IN_WORD})"
_INSIDE = f"(?<!{_IN_WORD})(?!{_IN_WORD})|(?<={_IN_WORD})(?={_IN_WORD})"
# Escapes that don't match a character, outside of square brackets.
_ASSERTIONS = {"b": f"(?:{_BOUNDARY})", "B": f"(?:{_INSIDE})"}
_CONTROLS = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D, "0": 0}
# Characters with a meaning, unless they are escaped; all others match themselves.
_SIGNS = {
    "^": "^",
    "$": r"\Z",
    ".": f"[{_text(_without(_LINE_END))}]",
    "|": "|",
    ")": ")",
}

_HEX = "[0-9A-Fa-f]"
_ESCAPE = (
    rf"\\(?P<escape>u\{{0*{_HEX}{{1,6}}\}}|u[dD][89abAB]{_HEX}{{2}}\\u[dD][c-fC-F]"
    rf"{_HEX}{{2}}|u{_HEX}{{4}}|x{_HEX}{{2}}|c[A-Za-z]|0(?![0-9])|[A-Za-z]|[\W_])"
)
_TOKEN = re.compile(
    rf"""{_ESCAPE}
    |(?P<set>\[\^?(?:\\.|[^\\\]])*\])
    |(?P<group>\((?:(?!\?)|\?(?:[:=!]|<[=!])))
    |(?P<name>\(\?<[A-Za-z_$][A-Za-z0-9_$]*>)
    |(?P<repeat>(?:[*+?]|\{{[0-9]+(?:,[0-9]*)?\}})\??(?![*+?{{]))
    |(?P<other>[^\\\[(*+?{{])""",
    re.VERBOSE | re.DOTALL,
)
_ITEM = re.compile(rf"{_ESCAPE}|(?P<other>[^\\])", re.DOTALL)


def fromECMA(pattern: str) -> str:
    """
    Translate a pattern of JSON Schema into one for C{re.search}.

    @raise ValueError: It is not valid, or has no exact equivalent.
    """
    try:
        written = "".join(_tokens(pattern))
        re.compile(written)
    except (re.error, OverflowError, RecursionError):
        raise ValueError(f"{pattern!r} can't be understood") from None
    return written


def _tokens(pattern: str) -> Iterator[str]:
    at = 0
    while at < len(pattern):
        token = _TOKEN.match(pattern, at)
        if token is None:
            raise _unknown(pattern, at)
        escape = token["escape"]
        if escape in _CLASSES:
            yield f"[{_CLASSES[escape]}]"
        elif escape in _ASSERTIONS:
            yield _ASSERTIONS[escape]
        elif escape is not None:
            yield _character(_code(pattern, at, escape))
        elif token["set"] is not None:
            yield _set(token["set"])
        elif token["name"] is not None:
            # A named group, but nothing can refer to it.
            yield "("
        elif token["other"] is not None:
            yield _SIGNS.get(token[0], _character(ord(token[0])))
        else:
            yield token[0]
        at = token.end()


def _set(text: str) -> str:
    """
    Translate a set in square brackets.
    """
    isNegated = text.startswith("[^")
    items = list(_items(text, 2 if isNegated else 1))
    if not items:
        return r"[\s\S]" if isNegated else "(?!)"
    return f"[{'^' * isNegated}{''.join(_joined(text, items))}]"


def _items(text: str, at: int) -> Iterator[str | int]:
    """
    The characters and classes in square brackets; C{-1} is a hyphen that is not
    escaped.
    """
    while at < len(text) - 1:
        item = _ITEM.match(text, at)
        if item is None:
            raise _unknown(text, at)
        escape = item["escape"]
        if escape in _CLASSES:
            yield _CLASSES[escape]
        elif escape == "b":
            yield 0x08
        elif escape is not None:
            yield _code(text, at, escape)
        else:
            yield -1 if item[0] == "-" else ord(item[0])
        at = item.end()


def _joined(text: str, items: list[str | int]) -> Iterator[str]:
    """
    Translate items; a hyphen between two of them makes a range.
    """
    at = 0
    while at < len(items):
        item = items[at]
        if at + 2 < len(items) and items[at + 1] == -1:
            first, last = (_hyphen(items[place]) for place in (at, at + 2))
            if isinstance(first, str) or isinstance(last, str):
                raise ValueError(f"{text!r} has an invalid range")
            yield _text([(first, last)])
            at += 3
        else:
            item = _hyphen(item)
            yield item if isinstance(item, str) else _character(item)
            at += 1


def _hyphen(item: str | int) -> str | int:
    return 0x2D if item == -1 else item


def _code(pattern: str, at: int, escape: str) -> int:
    """
    The character that an escape stands for.

    @raise ValueError: The escape is not valid.
    """
    if escape in _CONTROLS:
        return _CONTROLS[escape]
    kind, digits = escape[0], escape[1:]
    if kind == "c" and digits:
        return ord(digits) % 32
    if kind in "ux" and digits:
        if "\\" in digits:
            high, low = (int(each, 16) for each in digits.split("\\u"))
            return 0x10000 + (high - 0xD800) * 0x400 + low - 0xDC00
        code = int(digits.strip("{}"), 16)
        if code <= _LAST:
            return code
    elif not escape.isalnum() and escape.isascii():
        return ord(escape)
    raise _unknown(pattern, at)


def _unknown(pattern: str, at: int) -> ValueError:
    return ValueError(f"{pattern!r} can't be understood from {pattern[at : at + 8]!r}")
