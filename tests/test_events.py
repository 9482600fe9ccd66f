"""
Tests for L{creditsync.events}.
"""

from collections.abc import Sequence

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from creditsync.events import TradeEvents
from creditsync.interfaces import ITradeEvents
from creditsync.records import TradeEvent

FIRST = TradeEvent(0, {"order": 1242281})
SECOND = TradeEvent(1, {"order": 1242281})


class TradeEventsTests(SynchronousTestCase):
    """
    Tests for L{TradeEvents}.
    """

    def setUp(self) -> None:
        """
        Two observers that record their calls.
        """
        self.events = TradeEvents()
        self.seen: list[tuple[str, list[TradeEvent]]] = []

    def a(self, events: Sequence[TradeEvent]) -> None:
        """
        Record the events as seen by the observer C{a}.
        """
        self.seen.append(("a", list(events)))

    def b(self, events: Sequence[TradeEvent]) -> None:
        """
        Record the events as seen by the observer C{b}.
        """
        self.seen.append(("b", list(events)))

    def test_interface(self) -> None:
        """
        L{TradeEvents} provides the whole interface.
        """
        verifyObject(ITradeEvents, self.events)

    def test_nobody(self) -> None:
        """
        Events without observers are discarded.
        """
        self.events.publish([FIRST])
        self.events.addObserver(self.a)
        self.assertEqual(self.seen, [])

    def test_bookingOrder(self) -> None:
        """
        An observer is called once for each publication, with its events in
        their order.
        """
        self.events.addObserver(self.a)
        self.events.publish([FIRST, SECOND])
        self.events.publish([SECOND])
        self.assertEqual(self.seen, [("a", [FIRST, SECOND]), ("a", [SECOND])])

    def test_orderOfObservers(self) -> None:
        """
        Observers are called in the order in which they were added.
        """
        self.events.addObserver(self.b)
        self.events.addObserver(self.a)
        self.events.publish([FIRST])
        self.assertEqual(self.seen, [("b", [FIRST]), ("a", [FIRST])])

    def test_removeObserver(self) -> None:
        """
        An observer that was removed is not called any more.
        """
        self.events.addObserver(self.a)
        self.events.addObserver(self.b)
        self.events.removeObserver(self.a)
        self.events.publish([FIRST])
        self.assertEqual(self.seen, [("b", [FIRST])])

    def test_removeStranger(self) -> None:
        """
        Removing an unknown observer raises an error.
        """
        self.assertRaises(ValueError, self.events.removeObserver, self.a)

    def test_failingObserver(self) -> None:
        """
        An observer that raises is logged, and the others are called, now and
        for later events.
        """

        def failing(events: object) -> None:
            raise ZeroDivisionError

        self.events.addObserver(failing)
        self.events.addObserver(self.a)
        self.events.publish([FIRST])
        self.events.publish([SECOND])
        self.assertEqual(self.seen, [("a", [FIRST]), ("a", [SECOND])])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_removesItself(self) -> None:
        """
        An observer may remove itself while it is called, and no other misses
        the event.
        """

        def once(events: Sequence[TradeEvent]) -> None:
            self.a(events)
            self.events.removeObserver(once)

        self.events.addObserver(once)
        self.events.addObserver(self.b)
        self.events.publish([FIRST])
        self.events.publish([SECOND])
        self.assertEqual(self.seen, [("a", [FIRST]), ("b", [FIRST]), ("b", [SECOND])])

    def test_addsAnother(self) -> None:
        """
        An observer that is added while events are published is called from the
        next publication on.
        """

        def adding(events: Sequence[TradeEvent]) -> None:
            self.events.removeObserver(adding)
            self.events.addObserver(self.a)

        self.events.addObserver(adding)
        self.events.publish([FIRST])
        self.events.publish([SECOND])
        self.assertEqual(self.seen, [("a", [SECOND])])
