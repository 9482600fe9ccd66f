"""
The fields of a trade, as look-ups name them (docs/protocol.rst, "Look-ups").

A row of the table is a field. C{structure} in a reply, the conditions and the order of
a filter, the SQL of a search and the rows of its reply are made of it.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final

from attrs import define

from creditsync.codes import TR_REASON_API


class Kind(Enum):
    """
    What the values of a field are.
    """

    INTEGER = "an integer"
    # With at most 8 decimals; an integer of 10⁻⁸ units inside.
    AMOUNT = "a number"
    TEXT = "a string"


@define(frozen=True)
class Field:
    """
    A field.

    @ivar member: The member of a trade that has its value, or L{None}.
    @ivar neutral: The value that every finance trade has, where it is no member of a
        trade in the ledger.
    """

    kind: Kind
    member: str | None = None
    neutral: int | str | None = None


_NO_AMOUNT: Final = Field(Kind.AMOUNT, neutral=0)

# Of a trade, in the order of its members on the wire.
TRADE_FIELDS: Final[Mapping[str, Field]] = {
    "order": Field(Kind.INTEGER, "order"),
    "login": Field(Kind.INTEGER, "login"),
    "cmd": Field(Kind.INTEGER, "cmd"),
    "state": Field(Kind.INTEGER, "state"),
    "profit": Field(Kind.AMOUNT, "profit"),
    "comment": Field(Kind.TEXT, "comment"),
    "symbol": Field(Kind.TEXT, neutral=""),
    "volume": Field(Kind.INTEGER, neutral=0),
    "open_price": _NO_AMOUNT,
    "close_price": _NO_AMOUNT,
    "open_time": Field(Kind.INTEGER, "open_time"),
    "close_time": Field(Kind.INTEGER, "close_time"),
    "sl": _NO_AMOUNT,
    "tp": _NO_AMOUNT,
    "storage": _NO_AMOUNT,
    "commission": _NO_AMOUNT,
    "reason": Field(Kind.INTEGER, neutral=TR_REASON_API),
    "timestamp": Field(Kind.INTEGER, "timestamp"),
}

# The group of the trade's account.
GROUP: Final = "group"

# Of a trade that a search finds.
FIELDS: Final[Mapping[str, Field]] = {
    **TRADE_FIELDS,
    GROUP: Field(Kind.TEXT),
    "update_time": Field(Kind.INTEGER, "timestamp"),
}

# The operators for a single value, as they are in SQL. In GLOB case counts, in
# SQLite's LIKE it doesn't.
LIKE: Final = "like"
OPERATORS: Final[Mapping[str, str]] = {
    "==": "=",
    "!=": "<>",
    ">": ">",
    "<": "<",
    ">=": ">=",
    "<=": "<=",
    LIKE: "GLOB",
}
