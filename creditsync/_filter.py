"""
A search for trades: what it selects, and what it has found.

L{creditsync.records} has these too, for those who import them from there.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

from msgspec import Struct

_T = TypeVar("_T")


class Condition(Struct, frozen=True, gc=False):
    """
    A condition that the trades of a filter have to meet. Fields and operators are
    those of L{creditsync._fields}.

    @ivar operator: One of those for a single value, C{"in"} or C{"between"}.
    @ivar values: One; for C{"between"} the least and the greatest, and any number
        for C{"in"}. Amounts are in 10⁻⁸ units.
    @ivar isNegated: Whether the trades must not meet it.
    """

    field: str
    operator: str
    values: tuple[int | str, ...]
    isNegated: bool = False


class TradeFilter(Struct, frozen=True, gc=False):
    """
    Which trades a search selects, and which of them it returns.

    @ivar conditions: A trade has to meet all of them.
    @ivar orderBy: Fields, each with whether it descends. Trades that are equal in all
        of them are in the order of their numbers, as all are if there is none.
    @ivar limit: How many trades to return at most.
    @ivar offset: How many of the selected trades to skip.
    @ivar seesGroup: Whether the trades of a group's accounts may be selected. It may
        be called in any thread.
    @ivar seconds: How long the search may take.
    """

    conditions: tuple[Condition, ...]
    orderBy: tuple[tuple[str, bool], ...]
    limit: int
    offset: int
    seesGroup: Callable[[str], bool]
    seconds: float


class FoundTrades(Struct, Generic[_T], gc=False):
    """
    What a search has found.

    @ivar pages: What was made of each page of the trades, in their order.
    @ivar count: How many trades are selected, with those that are not returned.
    @ivar balance: The sum of those of the selected trades that are booked and count
        for the balance, in 10⁻⁸ units.
    @ivar credit: The same for the credit.
    """

    pages: list[_T]
    count: int
    balance: int
    credit: int
