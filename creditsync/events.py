"""
The stream of trade events inside the process.

The runtime publishes what it booked; sessions and other observers are called.
"""

from collections.abc import Sequence

from attrs import Factory, define
from twisted.logger import Logger
from zope.interface import implementer

from creditsync.interfaces import ITradeEvents, TradeObserver
from creditsync.records import TradeEvent


@implementer(ITradeEvents)
@define(eq=False)
class TradeEvents:
    """
    The event source of the embedded runtime, or of any other that publishes to it.
    """

    _observers: list[TradeObserver] = Factory(list)

    _log = Logger()

    def addObserver(self, observer: TradeObserver) -> None:
        """
        See L{ITradeEvents.addObserver}.
        """
        self._observers.append(observer)

    def removeObserver(self, observer: TradeObserver) -> None:
        """
        See L{ITradeEvents.removeObserver}.
        """
        self._observers.remove(observer)

    def publish(self, events: Sequence[TradeEvent]) -> None:
        """
        See L{ITradeEvents.publish}.
        """
        for observer in list(self._observers):
            with self._log.failureHandler("an observer of trade events failed"):
                observer(events)
