"""
From the data of C{MngGetTradesByFilter} to a filter.

The schema knows the names of fields and operators; here each value is checked against
the kind of its field, which no schema says.
"""

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final, TypeAlias

from creditsync._fields import FIELDS, LIKE, Kind
from creditsync._money import toUnits
from creditsync.codes import MAX_TOTAL
from creditsync.errors import InvalidData
from creditsync.records import Condition, TradeFilter

# The rows of a reply if the request does not say.
DEFAULT_LIMIT: Final = 1000

# What a request has as a condition, and what is made of it: field, operator, values.
_Item: TypeAlias = list[Any]
_Read: TypeAlias = tuple[str, str, tuple[int | str, ...]]


def filterOf(
    data: Mapping[str, Any], seesGroup: Callable[[str], bool], seconds: float
) -> TradeFilter:
    """
    The filter of a request whose data has passed the schema.

    @param seesGroup: Whether the trades of a group's accounts may be selected.
    @param seconds: How long the search may take.
    @raise InvalidData: A value is not of the kind of its field.
    """
    return TradeFilter(
        tuple(_conditions(data)),
        tuple((name, way == "desc") for name, way in data.get("orderBy", ())),
        int(data.get("limit", DEFAULT_LIMIT)),
        int(data.get("offset", 0)),
        seesGroup,
        seconds,
    )


def _compared(item: _Item, place: str) -> _Read:
    name, operator, value = item
    if operator == LIKE and FIELDS[name].kind is not Kind.TEXT:
        raise InvalidData(f"{place}[1] is {LIKE}, but {name} is not a string")
    return name, operator, (_value(name, value, f"{place}[2]"),)


def _listed(item: _Item, place: str) -> _Read:
    name, values = item
    return name, "in", _values(name, values, place)


def _ranged(item: _Item, place: str) -> _Read:
    name, values = item
    return name, "between", _values(name, values, place)


# The members that have conditions: how one of their items is read, and whether it is
# negated.
_FORMS: Final[Mapping[str, tuple[Callable[[_Item, str], _Read], bool]]] = {
    "where": (_compared, False),
    "whereNot": (_compared, True),
    "whereIn": (_listed, False),
    "whereNotIn": (_listed, True),
    "whereBetween": (_ranged, False),
    "whereNotBetween": (_ranged, True),
}


def _conditions(data: Mapping[str, Any]) -> Iterator[Condition]:
    for member, (read, isNegated) in _FORMS.items():
        for number, item in enumerate(data.get(member, ())):
            yield Condition(*read(item, f"data.{member}[{number}]"), isNegated)


def _values(name: str, values: _Item, place: str) -> tuple[int | str, ...]:
    return tuple(
        _value(name, value, f"{place}[1][{number}]")
        for number, value in enumerate(values)
    )


def _value(name: str, value: object, place: str) -> int | str:
    """
    A value as the ledger has it.

    @raise InvalidData: It is not of the kind of this field.
    """
    kind = FIELDS[name].kind
    if kind is Kind.TEXT:
        if isinstance(value, str):
            return value
    elif isinstance(value, int | float | Decimal):
        if kind is Kind.AMOUNT:
            return _units(value, place)
        if value == int(value):
            return int(value)
    raise InvalidData(f"{place} must be {kind.value}, as {name} is")


def _units(amount: int | float | Decimal, place: str) -> int:
    try:
        units = toUnits(amount)
    except ValueError:
        raise InvalidData(f"{place} must have at most 8 decimals") from None
    # No trade has so much, so a comparison with any such number gives the same.
    return max(-MAX_TOTAL, min(units, MAX_TOTAL))
