"""
Lines to values and values to lines: the only room that knows JSON.

L{decode} takes a line as it came and gives its object, or says what is wrong
with it. Input is I-JSON (RFC 7493): what two parsers could understand in two
ways is refused before anybody acts on it. Numbers keep their exact value, so
money is never rounded on its way in. Most lines have nothing unusual in them:
L{plainRequest} knows those at a glance, and makes of them what the long way
would. Of a line that is refused, L{salvage} reads the C{extID} if it can.

The way out is in two steps, because one event goes to many sessions and its
data into a reply as well: L{encodeData} gives a JSON text once, L{event} and
L{reply} put lines around it. What is written here survives every client of the
platform (wire contract, section 1): ASCII, with apostrophes and commas before a
closing bracket escaped where they stand inside a string.
"""

import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping
from decimal import MAX_PREC, ROUND_HALF_EVEN, Context, Decimal
from json.encoder import encode_basestring_ascii
from math import isinf, ulp
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from creditsync.codes import (
    MAX_DEPTH,
    MAX_MARKS,
    MAX_NUMBER,
    MAX_SAFE_INTEGER,
    TR_REASON_API,
    TRADE_EVENT,
    UNITS_PER_ONE,
)
from creditsync.errors import InvalidJSON, Refusal
from creditsync.records import ExtID, Request, Trade


class _Plain(
    msgspec.Struct,
    forbid_unknown_fields=True,
    rename={"token": "__token", "key": "idempotencyKey"},
):
    """
    A request as C{schemas/request.json} has it, in a line without escapes.
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


# What a plain line doesn't have. As numbers: a byte is found four times as
# fast by its number as by a string of one.
_ESCAPE, _DELETE, _ARRAY = b"\\\x7f["


def plainRequest(line: bytes) -> Request | None:
    """
    Read a line that has nothing unusual: short, ASCII without escapes, no
    members but the contract's, and nothing nested in its data.

    @return: The request, its envelope checked; or L{None}, and then L{decode}
        and the schema have to say what the line is.
    """
    # As short as MAX_MARKS, so that it can't have more of them either.
    if len(line) > MAX_MARKS or not line.isascii():
        return None
    if _ESCAPE in line or _DELETE in line or _ARRAY in line:
        return None
    try:
        plain = _parsePlain(line)
    except (msgspec.DecodeError, InvalidJSON, RecursionError):
        return None
    data = plain.data
    extID = None if plain.extID is UNSET else plain.extID
    key = None if plain.key is UNSET else plain.key
    members = 3 + len(data) + (extID is not None) + (key is not None)
    # A member that stands twice has a colon too many, and so has what is
    # nested; a colon in a string sends the line the long way, for nothing.
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


def decode(line: bytes) -> dict[str, Any]:
    """
    Read one line as one I-JSON object.

    A number with a point or an exponent becomes a C{float} where that has
    exactly the value which was written, and a C{Decimal} otherwise.

    @param line: The line, with or without its end.
    @raise InvalidJSON: It is anything else, and what.
    """
    if line.startswith(BOM_UTF8):
        raise InvalidJSON("the line begins with a byte order mark")
    if line.count(b",") + line.count(b"[") + line.count(b"{") > MAX_MARKS:
        raise InvalidJSON(
            f"the line has more than {MAX_MARKS} commas and opening brackets"
        )
    try:
        value = _parse(line)
    except UnicodeDecodeError:
        raise InvalidJSON("the line is not valid UTF-8") from None
    except RecursionError:
        raise InvalidJSON(_TOO_DEEP) from None
    except msgspec.ValidationError:
        # All that this parser says so of is an integer of a great many digits.
        raise InvalidJSON(_TOO_GREAT) from None
    except msgspec.DecodeError as e:
        raise InvalidJSON(f"the line is not valid JSON: {_cause(e, line)}") from None
    if not isinstance(value, dict):
        raise InvalidJSON("the line is not a JSON object")
    members = _audit(value, 1)
    # Each member that was sent has a colon, so with as many colons as members
    # kept no name came twice. More of them may also stand in strings.
    if line.count(b":") != members:
        _refuseRepeatedNames(line)
    if (_ESCAPE in line or not line.isascii()) and _isSuspect(line):
        _refuseNoncharacters(value)
    return value


_TOO_DEEP = f"the line is nested deeper than {MAX_DEPTH}"
_TOO_GREAT = f"an integer is not between {-MAX_SAFE_INTEGER} and {MAX_SAFE_INTEGER}"


def _cause(error: msgspec.DecodeError, line: bytes) -> str:
    """
    What the parser found wrong, as the end of a sentence.
    """
    cause = str(error).removeprefix("JSON is malformed: ")
    if cause != "Input data was truncated":
        return cause
    # The parser misses the other half, if the line has no room for it.
    if _HALF_PAIR.search(line):
        return "a string ends with half of a surrogate pair"
    return "it ends too early"


_HALF_PAIR = re.compile(rb'\\u[dD][89abAB][0-9a-fA-F]{2}"')


def _number(text: str) -> float | Decimal:
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
_parse = msgspec.json.Decoder(float_hook=_number).decode
_parsePlain = msgspec.json.Decoder(_Plain, float_hook=_number).decode


def _audit(value: dict[str, Any] | list[Any], depth: int) -> int:
    """
    Check the depth and the integers of what was parsed.

    @param depth: How deep C{value} stands, where the top is 1.
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
    Refuse a line that L{_parse} took, if an object in it names a member twice.
    """
    json.loads(line, object_pairs_hook=_onceEach)


def _onceEach(members: list[tuple[str, Any]]) -> None:
    """
    Refuse the members of one object if two of them have the same name.
    """
    if len(dict(members)) != len(members):
        raise InvalidJSON("an object has two members of the same name")


def _refuseNoncharacters(value: dict[str, Any]) -> None:
    """
    Refuse what was parsed if a name or a string in it has one of Unicode's 66
    noncharacters (RFC 7493, section 2.1).
    """
    text = _encode(value).decode()
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
    Whether a line may have one of them: U+FDD0 to U+FDEF or the last two of a
    plane begin or end like this in UTF-8, and like that as an escape.
    """
    if _ESCAPE in line:
        folded = line.lower()
        if any(map(folded.__contains__, (b"\\ufd", b"\\uff", b"\\udf"))):
            return True
    return any(map(line.__contains__, (b"\xef\xb7", b"\xbf\xbe", b"\xbf\xbf")))


def salvage(line: bytes) -> dict[str, Any]:
    """
    Read the C{extID} of a line that is refused, so that the client can tell
    which of its requests was.

    A value that is not I-JSON does no harm while it is clear where it ends:
    C{NaN}, a string that is not UTF-8, what is nested too deep. Where that is
    not clear the reading stops. What comes behind may be anything, so if the
    name occurs there as well nothing is taken.

    @return: The C{extID} as the line's only member, if it is I-JSON itself and
        the line has one at its top level.
    """
    opening = _OPENING.match(line)
    if opening is None:
        return {}
    at = opening.end()
    found: list[bytes | None] = []
    # Of a step for each member and each bracket, which cost some 0.3 us each.
    # A line of 64 KiB may consist of them.
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
        # Only now: what has no comma behind it may be half a value.
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
    @return: The place behind it; or L{None} if its brackets don't match, or it
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


# Nothing here is ever rounded: an operation that changes only the exponent
# is exact at this precision, whatever the thread's own context is set to.
_EXACT = Context(prec=MAX_PREC)


def toUnits(amount: int | float | Decimal) -> int:
    """
    Give an amount as an integer of 10⁻⁸ units.

    One of at most 8 decimals is exactly what it says. Programs write a double
    with up to 17 digits, the last of which are noise (C{3.1800000000000002}):
    one of more than 8 decimals is understood as the nearest of 8 if it is no
    further from that than a unit in the last place of a double.

    @param amount: As L{decode} yields it; or as a text has it, as a
        C{Decimal}. A C{float} has the digits that it is printed with.
    @raise ValueError: It is too fine, or not finite.
    """
    if isinstance(amount, int):
        return amount * UNITS_PER_ONE
    if isinstance(amount, float):
        if -1e7 < amount < 1e7:
            units = round(amount * UNITS_PER_ONE)
            # Of fewer than 16 digits there is only one such for each double.
            if units / UNITS_PER_ONE == amount:
                return units
        amount = Decimal(repr(amount))
    if amount.is_finite():
        # Not as_integer_ratio: 65,000 digits would keep it busy for 0.1 s.
        exact = amount.scaleb(8, _EXACT)
        nearest = exact.to_integral_value(ROUND_HALF_EVEN)
        if exact == nearest or _isNoise(amount, nearest.scaleb(-8, _EXACT)):
            return int(nearest)
    raise ValueError("an amount has at most 8 decimals")


def _isNoise(amount: Decimal, nearest: Decimal) -> bool:
    """
    Whether two numbers differ by no more than a unit in the last place.

    @param nearest: The one of at most 8 decimals, which is never 0 by noise.
    """
    if not nearest:
        return False
    unit = Decimal(ulp(float(nearest)))
    # The number as it is written, or the double that it is written for: the
    # digits that tell this double from others may be a little further away.
    return any(
        _EXACT.subtract(value, nearest).copy_abs() <= unit
        for value in (amount, Decimal(float(amount)))
    )


def fromUnits(units: int) -> str:
    """
    Write an amount in 10⁻⁸ units as a JSON number with a point, exactly.
    """
    whole, rest = divmod(abs(units), UNITS_PER_ONE)
    sign = "-" if units < 0 else ""
    if not rest:
        return f"{sign}{whole}.0"
    return f"{sign}{whole}.{rest:08}".rstrip("0")


class _TradeData(msgspec.Struct, gc=False):
    """
    A trade as clients see it.

    The first six members are the seed's, in its order; the neutral values are
    those which the platform's trade stream has for a finance trade.
    """

    order: int
    login: int
    cmd: int
    state: int
    profit: float | msgspec.Raw
    comment: str | msgspec.Raw
    symbol: str
    volume: int
    open_price: float
    close_price: float
    open_time: int
    close_time: int
    sl: float
    tp: float
    storage: float
    commission: float
    reason: int
    timestamp: int


def encodeData(data: Trade | Mapping[str, Any]) -> bytes:
    """
    Write the C{data} of an event or a reply as a JSON text.

    Of a mapping's values, a C{Decimal} is written exactly, and a float that is
    no number as C{null}.
    """
    if not isinstance(data, Trade):
        return _safe(dict(data))
    return _encode(
        _TradeData(
            data.order,
            data.login,
            data.cmd,
            data.state,
            _amount(data.profit),
            _text(data.comment),
            "",
            0,
            0.0,
            0.0,
            data.openTime,
            data.closeTime,
            0.0,
            0.0,
            0.0,
            0.0,
            TR_REASON_API,
            data.timestamp,
        )
    )


def _amount(units: int) -> float | msgspec.Raw:
    """
    What has to be encoded for an amount, to give the text of L{fromUnits}.
    """
    if 10_000 <= abs(units) < 10**15:
        # A double keeps 15 significant digits, and is written with no more of
        # them than it takes to know it by.
        return units / UNITS_PER_ONE
    return msgspec.Raw(fromUnits(units).encode("ascii"))


def _text(text: str) -> str | msgspec.Raw:
    """
    What has to be encoded for a string, to give the text of L{_quote}.
    """
    if text.isascii() and text.isprintable() and "'" not in text and "," not in text:
        return text
    return msgspec.Raw(_quote(text).encode("ascii"))


def event(type: int, data: bytes) -> bytes:
    """
    Write the line of a trade event.

    @param type: One of the C{EV_RECORD_*} codes.
    @param data: What L{encodeData} gave.
    """
    return _EVENT % (type, data)


_EVENT = f'{{"event":"{TRADE_EVENT}","type":%d,"data":%b}}\r\n'.encode("ascii")


def reply(extID: ExtID | None, data: bytes) -> bytes:
    """
    Write the line of a reply with status 200.

    @param extID: The request's, or L{None} where it had none.
    @param data: What L{encodeData} gave.
    """
    if extID is None:
        return b'{"status":200,"data":%b}\r\n' % data
    if extID.__class__ is int:
        return b'{"extID":%d,"status":200,"data":%b}\r\n' % (extID, data)
    quoted = _encode(_text(extID)) if isinstance(extID, str) else _safe(extID)
    return b'{"extID":%b,"status":200,"data":%b}\r\n' % (quoted, data)


def replay(extID: ExtID | None, data: bytes) -> bytes:
    """
    Write the line of a reply to a request that was carried out before, under
    the same key.

    @param data: What L{encodeData} gave.
    """
    return reply(extID, data).removesuffix(b"}\r\n") + b',"replayed":true}\r\n'


def success(extID: ExtID | None, data: Trade | Mapping[str, Any]) -> bytes:
    """
    Write the line of a reply with status 200 whose data nobody else needs.
    """
    return reply(extID, encodeData(data))


def refusal(extID: ExtID | None, refusal: Refusal) -> bytes:
    """
    Write the line that tells a client why not.
    """
    line: dict[str, Any] = {} if extID is None else {"extID": extID}
    line["status"] = refusal.status
    line["error"] = refusal.error
    line["message"] = refusal.message
    if refusal.data is not None:
        line["data"] = refusal.data
    return _safe(line) + b"\r\n"


_encode = msgspec.json.Encoder(decimal_format="number").encode
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_COMMA_BEFORE_CLOSER = re.compile(r",(?=\s*[}\]])")


def _safe(value: Any) -> bytes:
    """
    Write any JSON value so that every client can read it.
    """
    text = _encode(value).decode()
    if not text.isascii():
        # Outside of strings JSON is ASCII, so what is not stands inside one.
        text = _NOT_ASCII.sub(lambda run: encode_basestring_ascii(run[0])[1:-1], text)
    return _guard(text).encode("ascii")


def _quote(text: str) -> str:
    """
    Write a string so that every client can read it.
    """
    return _guard(encode_basestring_ascii(text))


def _guard(text: str) -> str:
    """
    Escape what one client "repairs" before it parses: apostrophes, and commas
    before a closing bracket.

    In a JSON text without needless white space both stand inside strings only.
    """
    if "'" in text:
        text = text.replace("'", "\\u0027")
    if "," in text and ("}" in text or "]" in text):
        text = _COMMA_BEFORE_CLOSER.sub("\\\\u002c", text)
    return text
