"""
Tests for L{creditsync._conversation.lookupqueue}.
"""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from creditsync._conversation.lookupqueue import LookupQueue
from creditsync.errors import Busy, TookTooLong
from creditsync.records import Principal


class FakeSession:
    """
    A session, as far as the queue needs one.
    """

    def __init__(self, id: int) -> None:
        self.principal = Principal(id, 1, 0.0)
        self.isStalled = False
        self.isIdle = False


class LookupQueueTests(SynchronousTestCase):
    """
    Tests for L{LookupQueue}.
    """

    def setUp(self) -> None:
        """
        Make a queue in which two look-ups of a principal may wait for a second, and
        one may take three.
        """
        self.clock = Clock()
        self.queue = LookupQueue(self.clock, 2, 1.0, 3.0, 0.5)
        self.begun: list[tuple[str, Deferred[Any]]] = []

    def add(self, session: FakeSession, name: str) -> "Deferred[Any]":
        """
        Have a look-up wait for its turn.
        """

        def begin() -> Deferred[Any]:
            done: Deferred[Any] = Deferred()
            self.begun.append((name, done))
            return done

        return self.queue.add(session, begin)  # type: ignore[arg-type]

    def names(self) -> list[str]:
        """
        The look-ups that have begun.
        """
        return [name for name, _ in self.begun]

    def end(self, result: Any = None) -> None:
        """
        End the last one that has begun, and let the next one begin.
        """
        self.begun[-1][1].callback(result)
        self.clock.advance(0.5)

    def test_notAtOnce(self) -> None:
        """
        A look-up begins in the next turn of the reactor, when its request waits.
        """
        result = self.add(FakeSession(1), "a")
        self.assertEqual(self.names(), [])
        self.clock.advance(0)
        self.assertEqual(self.names(), ["a"])
        self.end(7)
        self.assertEqual(self.successResultOf(result), 7)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_oneAtATime(self) -> None:
        """
        The next one begins a while after the one before has ended.
        """
        session = FakeSession(1)
        self.add(session, "a")
        self.add(session, "b")
        self.clock.advance(0.25)
        self.assertEqual(self.names(), ["a"])
        self.begun[0][1].callback(None)
        self.clock.advance(0.25)
        self.assertEqual(self.names(), ["a"])
        self.clock.advance(0.25)
        self.assertEqual(self.names(), ["a", "b"])

    def test_turns(self) -> None:
        """
        Principals take turns, however many look-ups and connections one has.
        """
        self.queue = LookupQueue(self.clock, 9, 99.0, 3.0, 0.5)
        many = FakeSession(1)
        for name in ("a1", "a2", "a3"):
            self.add(many, name)
        self.add(FakeSession(1), "a4")
        self.add(FakeSession(2), "b1")
        self.add(FakeSession(3), "c1")
        self.clock.advance(0)
        for _ in range(6):
            self.end()
            # The last one has no successor.
            if len(self.begun) == 6:
                break
        self.assertEqual(self.names(), ["a1", "b1", "c1", "a2", "a3", "a4"])

    def test_mostOfOne(self) -> None:
        """
        A principal may have two waiting; another one's don't count.
        """
        self.add(FakeSession(1), "a")
        self.clock.advance(0)
        self.add(FakeSession(1), "b")
        self.add(FakeSession(1), "c")
        refused = self.assertRaises(Busy, self.add, FakeSession(1), "d")
        self.assertEqual(refused.limit, "max-lookups")
        self.add(FakeSession(2), "e")

    def test_patience(self) -> None:
        """
        One that has waited for too long is refused when it is its turn.
        """
        self.add(FakeSession(1), "a")
        self.clock.advance(0)
        late = self.add(FakeSession(2), "b")
        self.clock.advance(1)
        soon = self.add(FakeSession(3), "c")
        self.clock.advance(0.25)
        self.end()
        self.failureResultOf(late, Busy)
        self.assertNoResult(soon)
        self.assertEqual(self.names(), ["a", "c"])

    def test_stalled(self) -> None:
        """
        A look-up of a client that does not read waits until it does.
        """
        session = FakeSession(1)
        session.isStalled = True
        self.add(session, "a")
        self.add(FakeSession(2), "b")
        self.clock.advance(0)
        self.assertEqual(self.names(), ["b"])
        self.end()
        self.clock.advance(0.1)
        self.assertEqual(self.names(), ["b"])
        session.isStalled = False
        self.clock.advance(0.1)
        self.assertEqual(self.names(), ["b", "a"])

    def test_stalledTooLong(self) -> None:
        """
        It is refused if the client still does not read after the patience.
        """
        session = FakeSession(1)
        session.isStalled = True
        result = self.add(session, "a")
        self.clock.pump([0.1] * 12)
        self.failureResultOf(result, Busy)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_gone(self) -> None:
        """
        One whose session has ended does not begin.
        """
        session = FakeSession(1)
        result = self.add(session, "a")
        session.isIdle = True
        self.clock.advance(0)
        self.failureResultOf(result, Busy)
        self.assertEqual(self.names(), [])

    def test_neverEnds(self) -> None:
        """
        One that never ends is given up, and the next one begins.
        """
        self.queue = LookupQueue(self.clock, 9, 99.0, 3.0)
        stuck = self.add(FakeSession(1), "a")
        self.add(FakeSession(2), "b")
        self.clock.advance(0)
        self.clock.advance(3)
        self.failureResultOf(stuck, TookTooLong)
        self.assertEqual(self.names(), ["a", "b"])

    def test_raises(self) -> None:
        """
        If it can't begin, its caller is told, and the next one begins.
        """

        def begin() -> Deferred[Any]:
            raise ZeroDivisionError

        result = self.queue.add(FakeSession(1), begin)  # type: ignore[arg-type]
        self.add(FakeSession(2), "b")
        self.clock.pump([0, 0.5])
        self.failureResultOf(result, ZeroDivisionError)
        self.assertEqual(self.names(), ["b"])
