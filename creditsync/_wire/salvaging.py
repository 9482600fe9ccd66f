"""
The C{extID} of a line that is refused.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import Any

from creditsync._wire.decoding import decode
from creditsync.codes import MAX_MARKS
from creditsync.errors import InvalidJSON


def salvage(line: bytes) -> dict[str, Any]:
    """
    Read the C{extID} of a line that is refused, so that the client can tell
    which of its requests was.

    A value that is not I-JSON does no harm while it is clear where it ends:
    C{NaN}, a string that is not UTF-8, what is nested too deep. Where that is
    not clear the reading stops. What follows may be anything, so if the
    name occurs there as well nothing is taken.

    @return: The C{extID} as the line's only member, if it is I-JSON itself and
        the line has one at its top level.
    """
    opening = _OPENING.match(line)
    if opening is None:
        return {}
    at = opening.end()
    found: list[bytes | None] = []
    # A step for each member and each bracket, at some 0.3 us: a line of 64 KiB may
    # consist of nothing else.
    steps = iter(range(2 * MAX_MARKS))
    for _ in steps:
        member = _MEMBER.match(line, at)
        if member is None:
            break
        end: int | None = member.end()
        if member["value"] is None:
            end = _pastNested(line, member.end() - 1, steps)
        following = None if end is None else _FOLLOWING.match(line, end)
        if following is None:
            break
        # Only now: a value with no comma after it may be incomplete.
        at = following.end()
        if _EXTID.fullmatch(member["name"]):
            found.append(member["value"])
        if following[1] == b"}":
            break
    if len(found) != 1 or found[0] is None:
        return {}
    if b"extID" in line[at:] or _SPELT.search(line, at):
        return {}
    try:
        return decode(b'{"extID":%b}' % found[0])
    except InvalidJSON:
        return {}


_SPACE = rb"[ \t\r\n]*+"
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_OPENING = re.compile(rb"(?:%b)?%b\{" % (BOM_UTF8, _SPACE))
_MEMBER = re.compile(
    rb"%b(?P<name>%b)%b:%b(?:(?P<value>%b|[\w.+-]++)|[\[{])"
    % (_SPACE, _STRING, _SPACE, _SPACE, _STRING),
    re.DOTALL,
)
_FOLLOWING = re.compile(rb"%b([,}])" % _SPACE)
# Between two brackets: no apostrophe and no slash, since in what is almost JSON
# they begin a string or a comment, which may have brackets inside.
_BRACKET = re.compile(rb"(?:[\w \t\r\n.,:+-]++|%b)*+([\[\]{}])" % _STRING, re.DOTALL)
_CLOSERS = {b"[": b"]", b"{": b"}"}
# Each letter of the name may be written as an escape.
_SPELT = re.compile(rb"\\u00(?:65|78|74|49|44)")
_EXTID = re.compile(
    rb'"(?:e|\\u0065)(?:x|\\u0078)(?:t|\\u0074)(?:I|\\u0049)(?:D|\\u0044)"'
)


def _pastNested(line: bytes, at: int, steps: Iterator[int]) -> int | None:
    """
    Find where the array or object ends that begins here.

    @param steps: One is taken for each bracket.
    @return: The position after it; or L{None} if its brackets don't match, or it
        has something between them that no JSON has, or too many.
    """
    closers = []
    for _ in steps:
        found = _BRACKET.match(line, at)
        if found is None:
            return None
        at, bracket = found.end(), found[1]
        if bracket in _CLOSERS:
            closers.append(_CLOSERS[bracket])
        elif bracket != closers.pop():
            return None
        if not closers:
            return at
    return None
