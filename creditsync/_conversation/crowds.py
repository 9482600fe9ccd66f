"""
The waiters that are not alone.

Nearly always one request is waiting for an event of an order. Those that come later,
and those whose order was not known at once, are here. However many there are, each
of them is found at once, both by age and by operation.
"""

from collections import OrderedDict

from attrs import Factory, define

from creditsync._conversation.waiter import Waiter
from creditsync.records import Reservation, TradeEvent


@define(eq=False)
class Crowd:
    """
    The waiters for one order and event type.
    """

    # Ordered so that its first is found at once, however many went before.
    byAge: OrderedDict[Waiter, None] = Factory(OrderedDict)
    byOperation: dict[object, dict[Waiter, None]] = Factory(dict)


class Crowds(dict[tuple[int, int], Crowd]):
    """
    Waiters by the order and the type of the event for which they are waiting.
    """

    def isFor(self, reservation: Reservation) -> bool:
        """
        Whether somebody is waiting for an event of this order and type.
        """
        return (reservation.data.order, reservation.type) in self

    def add(self, waiter: Waiter, reservation: Reservation) -> None:
        """
        Add a waiter as the youngest.
        """
        event = reservation.data.order, reservation.type
        crowd = self.get(event)
        if crowd is None:
            crowd = self[event] = Crowd()
        crowd.byAge[waiter] = None
        crowd.byOperation.setdefault(reservation.operation, {})[waiter] = None

    def discard(self, waiter: Waiter, reservation: Reservation) -> None:
        """
        Remove a waiter, if it is there.
        """
        event = reservation.data.order, reservation.type
        crowd = self.get(event)
        if crowd is None or waiter not in crowd.byAge:
            return
        del crowd.byAge[waiter]
        same = crowd.byOperation[reservation.operation]
        del same[waiter]
        if not same:
            del crowd.byOperation[reservation.operation]
        if not crowd.byAge:
            del self[event]

    def answeredBy(self, event: TradeEvent) -> list[Waiter]:
        """
        Those that are waiting for the operation of this event; if the event names
        none, the one that has been waiting longest.
        """
        crowd = self.get((event.order, event.type))
        if crowd is None:
            return []
        if event.operation is None:
            return [next(iter(crowd.byAge))]
        return list(crowd.byOperation.get(event.operation, ()))
