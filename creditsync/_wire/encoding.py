"""
From values to lines.

What is written here survives every client of the platform (docs/protocol.rst,
"Lines"): it is ASCII, with apostrophes and commas before a closing bracket escaped
where they stand inside a string.
"""

import re
from collections.abc import Iterable, Sequence
from json.encoder import encode_basestring_ascii
from typing import Any

import msgspec
from twisted.logger import Logger

from creditsync._cursor import cursorOf
from creditsync._money import fromUnits
from creditsync.codes import TR_REASON_API, TRADE_EVENT, UNITS_PER_ONE
from creditsync.errors import Refusal
from creditsync.records import ExtID, Located, Response, Trade, TradeEvent

_log = Logger()


class _TradeData(msgspec.Struct, gc=False):
    """
    A trade as clients see it.

    The order of the members and the neutral values are those of the platform's
    trade stream for a finance trade (docs/protocol.rst, "A credit").
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
    cursor: str | msgspec.UnsetType


def encodeData(data: Response, cursor: str | None = None) -> bytes:
    """
    Write the C{data} of an event or a reply as a JSON text.

    Of a mapping's values, a C{Decimal} is written exactly, and a float that is
    no number as C{null}.

    @param cursor: The place of the event, if it has one.
    """
    if isinstance(data, Located):
        cursor, data = data.cursor, data.data
    if isinstance(data, Trade):
        return _encode(_tradeData(data, cursor or msgspec.UNSET))
    if isinstance(data, bytes):
        return data
    return _safe(dict(data) if cursor is None else {**data, "cursor": cursor})


def encodeEvents(
    events: Sequence[TradeEvent], epoch: str | None
) -> tuple[Sequence[TradeEvent], list[bytes]]:
    """
    Write the C{data} of many events, as L{encodeData} does: nearly always of all of
    them in one call. One that can't be encoded does not stop the others.

    @param epoch: The epoch of the journal in which they have their places, if they
        have any.
    @return: The events that could be encoded, and their data.
    """
    try:
        return events, _encodeTrades(events, epoch)
    except Exception:
        # Some are not trades, or can't be encoded.
        pass
    could, encoded = [], []
    for event in events:
        try:
            encoded.append(encodeData(event.data, _cursor(event, epoch)))
            could.append(event)
        except Exception:
            _log.failure("a trade event can't be encoded")
    return could, encoded


def _encodeTrades(events: Iterable[Any], epoch: str | None) -> list[bytes]:
    trades = [
        _tradeData(event.data, _cursor(event, epoch) or msgspec.UNSET)
        for event in events
    ]
    # A JSON text has no line ends inside.
    return _encodeLines(trades).splitlines()


def _cursor(event: TradeEvent, epoch: str | None) -> str | None:
    if epoch is None or event.place is None:
        return None
    return cursorOf(epoch, event.place)


def _tradeData(trade: Trade, cursor: str | msgspec.UnsetType) -> _TradeData:
    return _TradeData(
        trade.order,
        trade.login,
        trade.cmd,
        trade.state,
        amount(trade.profit),
        _text(trade.comment),
        "",
        0,
        0.0,
        0.0,
        trade.openTime,
        trade.closeTime,
        0.0,
        0.0,
        0.0,
        0.0,
        TR_REASON_API,
        trade.timestamp,
        cursor,
    )


def amount(units: int) -> float | msgspec.Raw:
    """
    What has to be encoded for an amount, to give the text of L{fromUnits}.
    """
    if 10_000 <= abs(units) < 10**15:
        # A double keeps 15 significant digits, and is written with as few as
        # identify it.
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


def events(types: Sequence[int], encoded: Sequence[bytes]) -> bytes:
    """
    Write the lines of trade events, each from a type and its data.
    """
    first = types[0]
    if types.count(first) < len(types):
        return b"".join(map(event, types, encoded))
    # Nearly always all of them are of one type. What stands between their data is
    # then the same everywhere.
    head, tail = event(first, b"\n").split(b"\n", 1)
    return head + (tail + head).join(encoded) + tail


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


def success(extID: ExtID | None, data: Response) -> bytes:
    """
    Write the line of a reply with status 200, from its data.
    """
    return reply(extID, encodeData(data))


def refusal(extID: ExtID | None, refusal: Refusal) -> bytes:
    """
    Write the line of a reply that refuses a request.
    """
    line: dict[str, Any] = {} if extID is None else {"extID": extID}
    line["status"], line["error"] = refusal.sent
    line["message"] = refusal.message
    if refusal.data is not None:
        line["data"] = refusal.data
    return _safe(line) + b"\r\n"


_encoder = msgspec.json.Encoder(decimal_format="number")
_encode, _encodeLines = _encoder.encode, _encoder.encode_lines
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_COMMA_BEFORE_CLOSER = re.compile(r",(?=\s*[}\]])")


def _safe(value: Any) -> bytes:
    """
    Write any JSON value so that every client can read it.
    """
    return rewritten(_encode(value))


def rewritten(written: bytes) -> bytes:
    """
    Write a JSON text of somebody else so that every client can read it. Its values stay
    as they were written.
    """
    # Outside of strings a carriage return is white space, and inside of them there is
    # none.
    text = written.decode().replace("\r", " ")
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
