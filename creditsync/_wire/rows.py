"""
Trades as rows: one array for each, in the order of the fields of
L{creditsync._fields}.

They are encoded in pages, so that no call takes long, and a reply is put together of
its pages.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from creditsync._fields import FIELDS, TRADE_FIELDS, Field, Kind
from creditsync._wire.encoding import _text, amount, encodeData
from creditsync.records import FoundTrades, GroupedTrade, Trade

_encode: Final = msgspec.json.Encoder().encode


def _neutral(field: Field) -> Any:
    return 0.0 if field.kind is Kind.AMOUNT else field.neutral


_NEUTRAL: Final = {name: _neutral(field) for name, field in TRADE_FIELDS.items()}


def _values(trade: Trade | Mapping[str, Any]) -> tuple[Any, ...]:
    """
    The values of a trade, in the order of its fields.
    """
    if not isinstance(trade, Trade):
        # Of another runtime, whose amounts are decimal numbers.
        data = {**_NEUTRAL, **trade}
        encoded = (encodeData({name: data[name]}) for name in TRADE_FIELDS)
        return tuple(msgspec.Raw(each[each.index(b":") + 1 : -1]) for each in encoded)
    return (
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
        _NEUTRAL["reason"],
        trade.timestamp,
    )


def encodeRows(trades: Iterable[Trade | Mapping[str, Any]]) -> bytes:
    """
    Write a page of trades: their rows, separated by commas.
    """
    return _encode([_values(trade) for trade in trades])[1:-1]


def encodeGroupedRows(trades: Iterable[GroupedTrade]) -> bytes:
    """
    Write a page of trades that a search has found: with the group of the account, and
    the time of the last change once more.
    """
    rows = []
    for trade, group in trades:
        values = _values(trade)
        rows.append((*values, _text(group), values[-1]))
    return _encode(rows)[1:-1]


def encodeTable(pages: Sequence[bytes]) -> bytes:
    """
    Write the data of a reply that has rows.

    @param pages: What L{encodeRows} gave.
    """
    return _table(TRADE_FIELDS, pages, b"}")


def encodeFound(found: FoundTrades[bytes]) -> bytes:
    """
    Write the data of the reply to a search.

    @param found: With pages that L{encodeGroupedRows} gave.
    """
    totals = {"balance": amount(found.balance), "credit": amount(found.credit)}
    end = _encode({"count": found.count, "totals": totals})
    return _table(FIELDS, found.pages, b"," + end[1:])


def _table(fields: Mapping[str, Field], pages: Sequence[bytes], end: bytes) -> bytes:
    """
    Write an object with rows, and its end. A reply may have several megabytes, so
    they are copied once.
    """
    parts = [b'{"structure":', _encode(list(fields)), b',"rows":[']
    for page in pages:
        parts += (page, b",")
    if pages:
        parts.pop()
    return b"".join([*parts, b"]", end])
