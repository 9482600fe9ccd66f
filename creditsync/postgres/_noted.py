"""
What a node notes of the events that it publishes, and is asked for at once.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from attrs import define, field

from creditsync.codes import TS_FINANCE_OPEN_PENDING
from creditsync.records import Trade, TradeEvent

# Places of orders that were looked up, or published, most recently.
_MAX_PLACES: Final = 10_000


@define(eq=False)
class Noted:
    """
    Places of orders, and who has made the finance requests that wait.

    @ivar makers: The principals, by the orders.
    """

    makers: dict[int, int | None] = field(init=False, factory=dict)
    _places: "OrderedDict[int, int]" = field(init=False, factory=OrderedDict)

    def note(self, events: Sequence[TradeEvent]) -> None:
        """
        Note events that are published.
        """
        for event in events:
            assert event.place is not None
            self.found(event.order, event.place)
            if isinstance(event.data, Trade):
                self._noteMaker(event, event.data)

    def found(self, order: int, place: int) -> None:
        """
        Note the place of the last change of an order.
        """
        places = self._places
        if place > places.get(order, 0):
            places[order] = place
            places.move_to_end(order)
            if len(places) > _MAX_PLACES:
                places.popitem(last=False)

    def placeOf(self, order: int) -> int | None:
        """
        The place of the last change of an order, if that is noted.
        """
        return self._places.get(order)

    def _noteMaker(self, event: TradeEvent, trade: Trade) -> None:
        if trade.state == TS_FINANCE_OPEN_PENDING:
            assert event.operation is not None
            self.makers[trade.order] = event.operation.principal
        else:
            self.makers.pop(trade.order, None)
