"""
Tests for L{creditsync._conversation.waiters} and L{creditsync._conversation.crowds}.
"""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from creditsync._conversation.crowds import Crowd, Crowds
from creditsync._conversation.waiter import Waiter
from creditsync._conversation.waiters import Waiters
from creditsync.errors import OutcomeUnknown, SessionEnded, ShuttingDown
from creditsync.records import Operation, Reservation, Trade, TradeEvent

ADD, UPDATE, DELETE = 0, 1, 2
ORDER = 1242281


def credit() -> Operation:
    """
    An operation; no two of them are equal.
    """
    return Operation("CreditInSync", 7, 1001, 300_00000000, "Promotion credit")


def reservationOf(
    operation: Operation, type: int = ADD, order: int = ORDER
) -> Reservation:
    """
    The reservation of an operation.
    """
    return Reservation(type, Trade(order, 1001, 7, 3, 1, "", 0, 0, 0), operation)


class DurableReservation(Reservation):
    """
    The reservation of an operation that is on disk already.
    """

    def whenDurable(self) -> "Deferred[None]":
        """
        See L{Reservation.whenDurable}.
        """
        return succeed(None)


class RecordingSession:
    """
    A session, as far as waiters need one.

    @ivar told: What it was told, in order: a waiter and its outcome.
    """

    def __init__(self) -> None:
        self.told: list[tuple[Waiter, object]] = []
        self._reactions: dict[Waiter, Callable[[], object]] = {}

    def then(self, waiter: Waiter, reaction: Callable[[], object]) -> None:
        """
        Call a function when the end of a wait is told.
        """
        self._reactions[waiter] = reaction

    def waitEnded(self, waiter: Waiter, data: bytes | None) -> None:
        """
        See L{ISession.waitEnded}.
        """
        self._hear(waiter, data)

    def waitFailed(self, waiter: Waiter, why: Failure) -> None:
        """
        See L{ISession.waitFailed}.
        """
        self._hear(waiter, why)

    def _hear(self, waiter: Waiter, outcome: object) -> None:
        self.told.append((waiter, outcome))
        if waiter in self._reactions:
            self._reactions.pop(waiter)()


class WaitersCase(SynchronousTestCase):
    """
    What the tests of L{Waiters} have in common: waits of 5 seconds.
    """

    def setUp(self) -> None:
        """
        Make the table.
        """
        self.clock = Clock()
        self.waiters = Waiters(self.clock, 5.0)
        self.session = RecordingSession()
        self.fired: list[tuple[Waiter, object]] = []

    def tearDown(self) -> None:
        """
        At rest no waiter and no delayed call is left, and every Deferred has fired
        with what the session was told.
        """
        self.assertEqual(self.waiters.entries, {})
        self.assertEqual(self.waiters._crowds, {})
        self.assertEqual(self.clock.getDelayedCalls(), [])
        for waiter, _ in self.session.told:
            self.outcome(waiter)
        self.assertEqual(len(self.fired), len(self.session.told))

    def waiter(
        self, reservation: Reservation | None, response: dict[str, Any] | None = None
    ) -> Waiter:
        """
        A waiter, which is not added.
        """
        waiter = Waiter(
            "credit-req-1001",
            self.session,  # type: ignore[arg-type]
            "CreditInSync",
            self.clock.seconds(),
            reservation,
            response,
        )
        waiter.addBoth(lambda result: self.fired.append((waiter, result)))
        return waiter

    def wait(
        self,
        operation: Operation | None = None,
        type: int = ADD,
        order: int = ORDER,
    ) -> Waiter:
        """
        Wait for the event of an operation.
        """
        waiter = self.waiter(reservationOf(operation or credit(), type, order))
        self.waiters.add(waiter)
        return waiter

    def committed(self, kind: type[Reservation] = Reservation) -> Waiter:
        """
        Wait for a commit.
        """
        trade = Trade(ORDER, 1001, 7, 3, 1, "", 0, 0, 0)
        waiter = self.waiter(kind(ADD, trade, credit()), {"accepted": True})
        self.waiters.add(waiter)
        return waiter

    def event(
        self, operation: Operation | None = None, type: int = ADD, order: int = ORDER
    ) -> TradeEvent:
        """
        An event, marked with the operation if one is given.
        """
        return TradeEvent(type, {"order": order}, operation)

    def match(self, event: TradeEvent, data: bytes) -> None:
        """
        Match one event.
        """
        self.waiters.match([event], [data])

    def book(self, waiter: Waiter) -> None:
        """
        End the commit for which a waiter is waiting.
        """
        assert waiter.reservation is not None
        waiter.reservation.booked()

    def lose(self, waiter: Waiter, why: Exception) -> None:
        """
        Fail the commit for which a waiter is waiting.
        """
        assert waiter.reservation is not None
        waiter.reservation.lost(Failure(why))

    def outcome(self, waiter: Waiter) -> object:
        """
        What the session was told of a wait, once, and the Deferred fired with.
        """
        [outcome] = [each for who, each in self.session.told if who is waiter]
        [fired] = [each for who, each in self.fired if who is waiter]
        self.assertIs(outcome, fired)
        return outcome

    def assertWaits(self, waiter: Waiter) -> None:
        """
        Assert that a wait has not ended.
        """
        self.assertNotIn(waiter, [each for each, _ in self.session.told])
        self.assertNoResult(waiter)
        self.assertIn(waiter, list(self.waiters))

    def assertEnded(self, waiter: Waiter, data: bytes | None) -> None:
        """
        Assert that a wait has ended once, with this data.
        """
        self.assertEqual(self.outcome(waiter), data)

    def assertGone(self, waiter: Waiter) -> None:
        """
        Assert that a wait has ended once, with its session.
        """
        why = self.outcome(waiter)
        assert isinstance(why, Failure)
        self.assertIsInstance(why.value, SessionEnded)

    def unknown(self, waiter: Waiter) -> OutcomeUnknown:
        """
        The 504 with which a wait has ended.
        """
        why = self.outcome(waiter)
        assert isinstance(why, Failure)
        assert isinstance(why.value, OutcomeUnknown)
        return why.value


class MatchTests(WaitersCase):
    """
    Tests for waits that end with their event.
    """

    def test_waiter(self) -> None:
        """
        A waiter knows its order, event type, C{extID} and session, as
        C{docs/protocol.rst}, "Runtime flow", has it.
        """
        waiter = self.wait(type=UPDATE)
        assert waiter.reservation is not None
        self.assertEqual((waiter.order, waiter.reservation.type), (1242281, 1))
        self.assertIs(waiter.operation, waiter.reservation.operation)
        self.assertEqual(waiter.extID, "credit-req-1001")
        self.assertIs(waiter.session, self.session)
        self.assertWaits(waiter)
        self.match(self.event(type=UPDATE), b"{}")
        self.assertEnded(waiter, b"{}")

    def test_length(self) -> None:
        """
        The length is the number of replies that wait, of either kind.
        """
        one, other = credit(), credit()
        self.wait(one)
        self.wait(other)
        waiter = self.committed()
        self.assertEqual(len(self.waiters), 3)
        self.book(waiter)
        self.assertEqual(len(self.waiters), 2)
        self.match(self.event(one), b"")
        self.assertEqual(len(self.waiters), 1)
        self.match(self.event(other), b"")

    def test_matched(self) -> None:
        """
        The event of its operation ends the wait with the event's data, at
        once, and takes the timer away.
        """
        operation = credit()
        waiter = self.wait(operation)
        self.match(self.event(operation), b'{"order":1242281}')
        self.assertEnded(waiter, b'{"order":1242281}')
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nobodyWaits(self) -> None:
        """
        An event that nobody waits for is none of our business, and is not
        kept for a wait that comes later.
        """
        operation = credit()
        self.match(self.event(operation), b"early")
        waiter = self.wait(operation)
        self.assertWaits(waiter)
        self.match(self.event(operation), b"late")
        self.assertEnded(waiter, b"late")

    def test_otherOrder(self) -> None:
        """
        An event of another order ends nothing.
        """
        waiter = self.wait()
        self.match(self.event(order=1242282), b"")
        self.assertWaits(waiter)
        self.waiters.abandon(waiter)
        self.assertGone(waiter)

    def test_otherType(self) -> None:
        """
        An event of the same order and another type ends nothing.
        """
        waiter = self.wait(type=UPDATE)
        self.match(self.event(type=ADD), b"")
        self.match(self.event(type=DELETE), b"")
        self.assertWaits(waiter)
        self.match(self.event(type=UPDATE), b"update")
        self.assertEnded(waiter, b"update")

    def test_addAndUpdate(self) -> None:
        """
        The add of an order and its update, both awaited, are told apart by
        their type.
        """
        add, update = self.wait(type=ADD), self.wait(type=UPDATE)
        self.match(self.event(type=UPDATE), b"update")
        self.assertWaits(add)
        self.match(self.event(type=ADD), b"add")
        self.assertEnded(add, b"add")
        self.assertEnded(update, b"update")

    def test_ownOperation(self) -> None:
        """
        Two waiters on one order and type each get the event of their own
        operation, whichever comes first.
        """
        first, second = credit(), credit()
        one, two = self.wait(first, UPDATE), self.wait(second, UPDATE)
        self.match(self.event(second, UPDATE), b"second")
        self.assertWaits(one)
        self.match(self.event(first, UPDATE), b"first")
        self.assertEnded(one, b"first")
        self.assertEnded(two, b"second")

    def test_othersOperation(self) -> None:
        """
        An event that is marked with an operation whose reply does not wait
        here leaves the other waiters of that order alone.
        """
        operation = credit()
        waiter = self.wait(operation, UPDATE)
        self.match(self.event(credit(), UPDATE), b"another's")
        self.assertWaits(waiter)
        self.match(self.event(operation, UPDATE), b"its own")
        self.assertEnded(waiter, b"its own")

    def test_unmarkedOldestFirst(self) -> None:
        """
        An event without a mark answers one waiter: the oldest of its order
        and type.
        """
        one, two = self.wait(), self.wait()
        self.match(self.event(), b"first")
        self.assertEnded(one, b"first")
        self.assertWaits(two)
        self.match(self.event(), b"second")
        self.assertEnded(two, b"second")

    def test_unmarkedOldestOfAnyOperation(self) -> None:
        """
        Of several who wait it answers the oldest, whichever operation that is
        for, and not one more of the first one's.
        """
        operation = credit()
        one, two, three = self.wait(operation), self.wait(), self.wait(operation)
        for name, waiter in ((b"1", one), (b"2", two), (b"3", three)):
            self.match(self.event(), name)
            self.assertEnded(waiter, name)

    def test_onceOnly(self) -> None:
        """
        A wait that has ended is not answered again.
        """
        operation = credit()
        waiter = self.wait(operation)
        self.match(self.event(operation), b"first")
        self.match(self.event(operation), b"second")
        self.match(self.event(), b"third")
        self.assertEnded(waiter, b"first")

    def test_outOfTheTableFirst(self) -> None:
        """
        The waiter has left the table when it is told, and may wait anew: for
        the next event, not for this one.
        """
        again: list[Waiter] = []
        waiter = self.wait()
        self.session.then(waiter, lambda: again.append(self.wait()))
        self.match(self.event(), b"first")
        self.assertEqual(len(self.waiters), 1)
        self.assertWaits(again[0])
        self.match(self.event(), b"second")
        self.assertEnded(again[0], b"second")


class SameOperationTests(WaitersCase):
    """
    Tests for several who wait for one operation, which was asked for again
    under the same key.
    """

    def test_everyone(self) -> None:
        """
        The one event of the operation answers each of them.
        """
        operation = credit()
        one, two, three = (self.wait(operation) for _ in range(3))
        self.match(self.event(operation), b"data")
        for waiter in (one, two, three):
            self.assertEnded(waiter, b"data")

    def test_oldestFirst(self) -> None:
        """
        Those who wait longest are told first.
        """
        operation, told = credit(), []
        for name in ("first", "second", "third"):
            waiter = self.wait(operation)
            self.session.then(waiter, lambda name=name: told.append(name))
        self.match(self.event(operation), b"")
        self.assertEqual(told, ["first", "second", "third"])

    def test_nobodyElse(self) -> None:
        """
        Others who wait for that order and type are left alone.
        """
        operation, other = credit(), credit()
        before = self.wait(other, UPDATE)
        one, two = self.wait(operation, UPDATE), self.wait(operation, UPDATE)
        after = self.wait(other, UPDATE)
        self.match(self.event(operation, UPDATE), b"theirs")
        self.assertEnded(one, b"theirs")
        self.assertEnded(two, b"theirs")
        self.assertWaits(before)
        self.assertWaits(after)
        self.match(self.event(other, UPDATE), b"others'")
        self.assertEnded(before, b"others'")
        self.assertEnded(after, b"others'")

    def test_afterATimeout(self) -> None:
        """
        Who asks again is answered by the event, although the time of the one
        who asked first is over.
        """
        operation = credit()
        first = self.wait(operation)
        self.clock.advance(4)
        second = self.wait(operation)
        self.clock.advance(1)
        self.unknown(first)
        self.match(self.event(operation), b"data")
        self.assertEnded(second, b"data")

    def test_oneIsGone(self) -> None:
        """
        When the session of one has gone, the other is answered.
        """
        operation = credit()
        first, second = self.wait(operation), self.wait(operation)
        self.waiters.abandon(first)
        self.assertGone(first)
        self.match(self.event(operation), b"data")
        self.assertEnded(second, b"data")

    def test_outOfTheTableFirst(self) -> None:
        """
        All of them have left the table when the first one is told.
        """
        operation, left = credit(), []
        one, two = self.wait(operation), self.wait(operation)
        self.session.then(one, lambda: left.append(len(self.waiters)))
        self.match(self.event(operation), b"data")
        self.assertEqual(left, [0])
        self.assertEnded(two, b"data")

    def test_abandonedMeanwhile(self) -> None:
        """
        A session that ends because one is told does not end the other wait
        twice.
        """
        operation = credit()
        one, two = self.wait(operation), self.wait(operation)
        self.session.then(one, lambda: self.waiters.abandon(two))
        self.match(self.event(operation), b"data")
        self.assertEnded(two, b"data")

    def test_withACommit(self) -> None:
        """
        One may wait for the event and another for the commit of the same
        operation.
        """
        commit = self.committed()
        waiter = self.wait(commit.operation)
        self.match(self.event(commit.operation), b"data")
        self.assertEnded(waiter, b"data")
        self.assertWaits(commit)
        self.book(commit)
        self.assertEnded(commit, None)

    def test_unmarkedAnswersOne(self) -> None:
        """
        An event without a mark answers only one of them: nobody knows that
        it is their operation's.
        """
        operation = credit()
        one, two = self.wait(operation), self.wait(operation)
        self.match(self.event(), b"first")
        self.assertEnded(one, b"first")
        self.assertWaits(two)
        self.match(self.event(operation), b"second")
        self.assertEnded(two, b"second")


class TimeoutTests(WaitersCase):
    """
    Tests for waits that end for want of an event.
    """

    def test_timedOut(self) -> None:
        """
        After the timeout, and no earlier, the wait ends with a 504 that has
        the order and says that the outcome is unknown.
        """
        waiter = self.wait()
        self.clock.advance(4.75)
        self.assertWaits(waiter)
        self.clock.advance(0.25)
        why = self.unknown(waiter)
        self.assertEqual((why.status, why.error), (504, "SYNC_TIMEOUT"))
        self.assertEqual(why.data, {"order": 1242281})
        self.assertEqual(
            why.message,
            "no answer within 5000 ms: the outcome of order 1242281 is unknown, "
            "it may still be booked; ask with GetOperation, or repeat the request "
            "under its idempotencyKey",
        )

    def test_lateEvent(self) -> None:
        """
        An event that comes after the timeout answers nobody.
        """
        operation = credit()
        waiter = self.wait(operation)
        self.clock.advance(5)
        self.unknown(waiter)
        self.match(self.event(operation), b"")

    def test_nextOldest(self) -> None:
        """
        Once the oldest has timed out, an event without a mark answers the
        next one.
        """
        one = self.wait()
        self.clock.advance(1)
        two = self.wait()
        self.clock.advance(4)
        self.unknown(one)
        self.match(self.event(), b"event")
        self.assertEnded(two, b"event")

    def test_eachAtItsTime(self) -> None:
        """
        Each wait has its own full time.
        """
        one = self.wait()
        self.clock.advance(3)
        two = self.wait(order=1242282)
        self.clock.advance(2)
        self.unknown(one)
        self.assertWaits(two)
        self.clock.advance(3)
        self.assertEqual(self.unknown(two).data, {"order": 1242282})

    def test_commitTimedOut(self) -> None:
        """
        A reply that waits for its commit times out in the same way; the
        commit that comes later answers nobody.
        """
        waiter = self.committed()
        self.clock.advance(5)
        self.assertEqual(self.unknown(waiter).data, {"order": 1242281})
        self.book(waiter)

    def test_outOfTheTableFirst(self) -> None:
        """
        All that are due have left the table when the first one is told.
        """
        left: list[int] = []
        one, two = self.wait(), self.wait()
        self.session.then(one, lambda: left.append(len(self.waiters)))
        self.clock.advance(5)
        self.unknown(two)
        self.assertEqual(left, [0])

    def test_abandonedMeanwhile(self) -> None:
        """
        A session that ends because of one timeout does not end another wait,
        due at the same time, twice.
        """
        one, two = self.wait(), self.wait()
        self.session.then(one, lambda: self.waiters.abandon(two))
        self.clock.advance(5)
        self.unknown(two)

    def test_matchedMeanwhile(self) -> None:
        """
        An event that is published because of one timeout does not end another
        wait, due at the same time, twice.
        """
        operation = credit()
        one, two = self.wait(), self.wait(operation)
        self.session.then(one, lambda: self.match(self.event(operation), b""))
        self.clock.advance(5)
        self.unknown(two)

    def test_unmarkedMeanwhile(self) -> None:
        """
        Such an event without a mark answers the oldest of those that are not
        due.
        """
        one, two = self.wait(), self.wait()
        self.clock.advance(1)
        three = self.wait()
        self.session.then(one, lambda: self.match(self.event(), b"event"))
        self.clock.advance(4)
        self.unknown(two)
        self.assertEnded(three, b"event")


class CommitTests(WaitersCase):
    """
    Tests for replies that wait for their commit.
    """

    def test_committed(self) -> None:
        """
        The commit ends the wait with L{None}.
        """
        waiter = self.committed()
        self.assertWaits(waiter)
        self.book(waiter)
        self.assertEnded(waiter, None)

    def test_committedAlready(self) -> None:
        """
        A commit that has happened already ends the wait at once.
        """
        waiter = self.committed(DurableReservation)
        self.assertEnded(waiter, None)

    def test_lost(self) -> None:
        """
        A commit that errs ends the wait with what the runtime says of it.
        """
        why = OutcomeUnknown("the ledger failed", ORDER)
        waiter = self.committed()
        self.lose(waiter, why)
        self.assertIs(self.unknown(waiter), why)

    def test_notByEvent(self) -> None:
        """
        An event, marked or not, does not answer what waits for a commit.
        """
        waiter = self.committed()
        self.match(self.event(waiter.operation), b"")
        self.match(self.event(), b"")
        self.assertWaits(waiter)
        self.book(waiter)
        self.assertEnded(waiter, None)

    def test_abandoned(self) -> None:
        """
        When the session has gone, the commit answers nobody.
        """
        waiter = self.committed()
        self.waiters.abandon(waiter)
        self.assertGone(waiter)
        self.book(waiter)

    def test_abandonedAndLost(self) -> None:
        """
        When the session has gone, a commit that errs is told to nobody, and
        is no unhandled error.
        """
        waiter = self.committed()
        self.waiters.abandon(waiter)
        self.assertGone(waiter)
        self.lose(waiter, OutcomeUnknown("the ledger failed", ORDER))


class AbandonTests(WaitersCase):
    """
    Tests for waits that end with their session.
    """

    def test_abandon(self) -> None:
        """
        The wait ends, and its timer; the event answers nobody.
        """
        operation = credit()
        waiter = self.wait(operation)
        self.waiters.abandon(waiter)
        self.assertGone(waiter)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.match(self.event(operation), b"")

    def test_others(self) -> None:
        """
        Others who wait for the same order and type are not touched.
        """
        one, two, three = self.wait(), self.wait(), self.wait()
        self.waiters.abandon(two)
        self.assertGone(two)
        self.match(self.event(), b"first")
        self.match(self.event(), b"second")
        self.assertEnded(one, b"first")
        self.assertEnded(three, b"second")

    def test_ended(self) -> None:
        """
        A wait that has ended can't be abandoned, which is no mistake.
        """
        waiter = self.wait()
        self.match(self.event(), b"event")
        self.waiters.abandon(waiter)
        self.assertEnded(waiter, b"event")

    def test_twice(self) -> None:
        """
        It ends only once.
        """
        waiter = self.wait()
        self.waiters.abandon(waiter)
        self.waiters.abandon(waiter)
        self.assertGone(waiter)

    def test_outOfTheTableFirst(self) -> None:
        """
        The waiter has left the table when it is told.
        """
        left: list[int] = []
        waiter = self.wait()
        self.session.then(waiter, lambda: left.append(len(self.waiters)))
        self.waiters.abandon(waiter)
        self.assertEqual(left, [0])


class EndAllTests(WaitersCase):
    """
    Tests for the end of every wait.
    """

    def test_nobody(self) -> None:
        """
        It needs nobody.
        """
        self.waiters.endAll("the server is stopping")

    def test_endAll(self) -> None:
        """
        Every wait, for an event or a commit, ends with a 504 that has its own
        order and begins with the cause.
        """
        update = self.wait(type=UPDATE, order=1242282)
        commit = self.committed()
        self.waiters.endAll("the server is stopping")
        why = self.unknown(update)
        self.assertEqual(
            why.message,
            "the server is stopping: the outcome of order 1242282 is unknown, "
            "it may still be booked; ask with GetOperation, or repeat the request "
            "under its idempotencyKey",
        )
        self.assertEqual(why.data, {"order": 1242282})
        self.assertEqual(self.unknown(commit).data, {"order": 1242281})

    def test_readOnly(self) -> None:
        """
        A request that changes nothing is refused with 503 and the cause.
        """
        waiter = self.wait()
        waiter.isReadOnly = True
        self.waiters.endAll("the server is stopping")
        why = self.outcome(waiter)
        assert isinstance(why, Failure)
        assert isinstance(why.value, ShuttingDown)
        self.assertEqual(why.value.message, "the server is stopping")
        self.assertEqual(why.value.data, {"retry_after_ms": 5000})

    def test_oldestFirst(self) -> None:
        """
        Those who wait longest are told first.
        """
        told: list[int] = []
        for order in (3, 1, 2):
            waiter = self.wait(order=order)
            self.session.then(waiter, lambda order=order: told.append(order))
        self.waiters.endAll("the server is stopping")
        self.assertEqual(told, [3, 1, 2])

    def test_late(self) -> None:
        """
        What comes afterwards answers nobody.
        """
        operation = credit()
        everyone = [self.wait(operation), self.committed(), self.committed()]
        _, fine, lost = everyone
        self.waiters.endAll("the server is stopping")
        self.match(self.event(operation), b"")
        self.book(fine)
        self.lose(lost, OutcomeUnknown("the ledger failed", ORDER))
        for waiter in everyone:
            self.unknown(waiter)

    def test_outOfTheTableFirst(self) -> None:
        """
        All have left the table when the first one is told.
        """
        left: list[int] = []
        one, two = self.wait(), self.wait(order=2)
        self.session.then(one, lambda: left.append(len(self.waiters)))
        self.waiters.endAll("the server is stopping")
        self.unknown(two)
        self.assertEqual(left, [0])

    def test_abandonedMeanwhile(self) -> None:
        """
        Sessions that end because of it do not end their waits twice.
        """
        one, two = self.wait(), self.wait()
        self.session.then(one, lambda: self.waiters.abandon(two))
        self.waiters.endAll("the server is stopping")
        self.unknown(two)

    def test_newOne(self) -> None:
        """
        A wait that begins because of it goes on.
        """
        again: list[Waiter] = []
        waiter = self.wait()
        self.session.then(waiter, lambda: again.append(self.wait()))
        self.waiters.endAll("the server is stopping")
        self.assertWaits(again[0])
        self.match(self.event(), b"event")
        self.assertEnded(again[0], b"event")


class Late:
    """
    The same where each order is reserved after its request began to wait.
    """

    waiters: Waiters
    waiter: Callable[..., Waiter]

    def wait(
        self,
        operation: Operation | None = None,
        type: int = ADD,
        order: int = ORDER,
    ) -> Waiter:
        """
        Wait for a reservation, and then for the event of its operation.
        """
        waiter = self.waiter(None)
        self.waiters.add(waiter)
        waiter.reservation = reservationOf(operation or credit(), type, order)
        self.waiters.reserved(waiter)
        return waiter


class Crowded:
    """
    The same while others are waiting for another order.
    """

    waiters: Waiters

    def setUp(self) -> None:
        """
        Make a crowd that nothing here is about.
        """
        super().setUp()  # type: ignore[misc]
        self.waiters._crowds[99, ADD] = Crowd()

    def tearDown(self) -> None:
        """
        The crowd is still there, and no other.
        """
        del self.waiters._crowds[99, ADD]
        super().tearDown()  # type: ignore[misc]


class Published:
    """
    The same where the event is the reservation itself, as with the embedded runtime.
    """

    waiters: Waiters
    waiter: Callable[..., Waiter]

    def setUp(self) -> None:
        """
        Nothing is reserved.
        """
        super().setUp()  # type: ignore[misc]
        self.reservations: dict[tuple[object, int, int], Reservation] = {}

    def _reservation(self, operation: Operation, type: int, order: int) -> Reservation:
        made = reservationOf(operation, type, order)
        return self.reservations.setdefault((operation, type, order), made)

    def wait(
        self,
        operation: Operation | None = None,
        type: int = ADD,
        order: int = ORDER,
    ) -> Waiter:
        """
        Wait for the event that is this operation's one reservation.
        """
        waiter = self.waiter(self._reservation(operation or credit(), type, order))
        self.waiters.add(waiter)
        return waiter

    def event(
        self, operation: Operation | None = None, type: int = ADD, order: int = ORDER
    ) -> TradeEvent:
        """
        The reservation of an operation; an event without a mark, if none is given.
        """
        if operation is None:
            return TradeEvent(type, {"order": order})
        return self._reservation(operation, type, order)


class LateMatchTests(Late, MatchTests):
    """
    Tests for waits that end with their event, for orders that are reserved later.
    """


class LateSameOperationTests(Late, SameOperationTests):
    """
    Tests for several who wait for one operation, for orders that are reserved later.
    """


class LateTimeoutTests(Late, TimeoutTests):
    """
    Tests for timeouts, for orders that are reserved later.
    """


class LateAbandonTests(Late, AbandonTests):
    """
    Tests for waits that end with their session, for orders that are reserved later.
    """


class LateEndAllTests(Late, EndAllTests):
    """
    Tests for the end of every wait, for orders that are reserved later.
    """


class CrowdedMatchTests(Crowded, MatchTests):
    """
    Tests for waits that end with their event, beside a crowd.
    """


class CrowdedSameOperationTests(Crowded, SameOperationTests):
    """
    Tests for several who wait for one operation, beside a crowd.
    """


class CrowdedTimeoutTests(Crowded, TimeoutTests):
    """
    Tests for timeouts, beside a crowd.
    """


class CrowdedAbandonTests(Crowded, AbandonTests):
    """
    Tests for waits that end with their session, beside a crowd.
    """


class CrowdedEndAllTests(Crowded, EndAllTests):
    """
    Tests for the end of every wait, beside a crowd.
    """


class PublishedMatchTests(Published, MatchTests):
    """
    Tests for waits that end with their event, with reservations as events.
    """


class PublishedSameOperationTests(Published, SameOperationTests):
    """
    Tests for several who wait for one operation, with reservations as events.
    """


class PublishedTimeoutTests(Published, TimeoutTests):
    """
    Tests for timeouts, with reservations as events.
    """


class PublishedAbandonTests(Published, AbandonTests):
    """
    Tests for waits that end with their session, with reservations as events.
    """


class PublishedEndAllTests(Published, EndAllTests):
    """
    Tests for the end of every wait, with reservations as events.
    """


class PlaceTests(WaitersCase):
    """
    Tests for where a waiter is: in one table, in order of time, by its order if it
    is alone.
    """

    def test_alone(self) -> None:
        """
        Whoever is alone is found by the order, and is in no crowd.
        """
        waiter = self.wait()
        self.assertEqual(self.waiters.entries, {ORDER: waiter})
        self.assertEqual(self.waiters._crowds, {})
        self.waiters.abandon(waiter)

    def test_others(self) -> None:
        """
        Those that come later, wait for a commit, or are not reserved yet are in the
        same table under themselves; a crowd has only those that wait for an event.
        """
        alone, second = self.wait(), self.wait()
        commit = self.committed()
        self.waiters.add(unreserved := self.waiter(None))
        self.assertEqual(
            list(self.waiters.entries.items()),
            [
                (ORDER, alone),
                (second, second),
                (commit, commit),
                (unreserved, unreserved),
            ],
        )
        self.assertEqual(list(self.waiters._crowds), [(ORDER, ADD)])
        self.assertEqual(list(self.waiters._crowds[ORDER, ADD].byAge), [second])
        self.waiters.endAll("the test is over")

    def test_oldestFirst(self) -> None:
        """
        All who are waiting are given with the oldest first, wherever they are.
        """
        everyone = [self.wait(), self.wait(), self.committed(), self.wait(order=5)]
        self.waiters.add(unreserved := self.waiter(None))
        self.assertEqual(list(self.waiters), [*everyone, unreserved])
        self.waiters.endAll("the test is over")

    def test_behindACrowd(self) -> None:
        """
        When the first has gone, whoever comes next is behind those that came
        second, although the place by the order is free.
        """
        first, second = self.wait(), self.wait()
        self.waiters.abandon(first)
        third = self.wait()
        self.match(self.event(), b"2")
        self.assertEnded(second, b"2")
        self.assertWaits(third)
        self.match(self.event(), b"3")
        self.assertEnded(third, b"3")

    def test_crowdOfAnotherType(self) -> None:
        """
        A crowd that waits for another type of event of an order leaves the place by
        the order to others, and both are answered by their own events.
        """
        first, second = self.wait(type=ADD), self.wait(type=ADD)
        self.waiters.abandon(first)
        update = self.wait(type=UPDATE)
        self.assertIs(self.waiters.entries[ORDER], update)
        self.match(self.event(type=ADD), b"add")
        self.assertEnded(second, b"add")
        self.assertWaits(update)
        self.match(self.event(type=UPDATE), b"update")
        self.assertEnded(update, b"update")

    def test_reservedLater(self) -> None:
        """
        The oldest for an event is the one whose order was known first, although
        another request began to wait before.
        """
        self.waiters.add(early := self.waiter(None))
        alone = self.wait()
        early.reservation = reservationOf(credit())
        self.waiters.reserved(early)
        self.match(self.event(), b"1")
        self.assertEnded(alone, b"1")
        self.match(self.event(), b"2")
        self.assertEnded(early, b"2")

    def test_reservedAfterTheEnd(self) -> None:
        """
        A reservation that comes after the wait has ended leaves nothing behind.
        """
        self.waiters.add(waiter := self.waiter(None))
        self.waiters.abandon(waiter)
        waiter.reservation = reservationOf(credit())
        self.waiters.reserved(waiter)
        self.assertEqual(self.waiters._crowds, {})
        self.assertGone(waiter)

    def test_committedAfterTheEnd(self) -> None:
        """
        A reservation whose commit was to be awaited, and the commit itself, leave
        nothing behind if they come after the wait has ended.
        """
        self.waiters.add(waiter := self.waiter(None))
        self.waiters.abandon(waiter)
        waiter.reservation = reservationOf(credit())
        waiter.response = {"accepted": True}
        self.waiters.reserved(waiter)
        self.book(waiter)
        self.assertGone(waiter)

    def test_timedOutInEveryPlace(self) -> None:
        """
        Waiters of each kind time out in order of time, each after its own 5
        seconds, with a single delayed call.
        """
        self.waiters.add(unreserved := self.waiter(None))
        self.clock.advance(1)
        alone = self.wait()
        self.clock.advance(1)
        crowd = self.wait()
        self.clock.advance(1)
        commit = self.committed()
        self.clock.advance(1)
        for waiter in (unreserved, alone, crowd, commit):
            self.assertEqual(len(self.clock.getDelayedCalls()), 1)
            self.clock.advance(0.75)
            self.assertWaits(waiter)
            self.clock.advance(0.25)
            self.unknown(waiter)

    def test_sinceTheRequest(self) -> None:
        """
        The timeout is counted from the time that the waiter has, not from when it
        was added.
        """
        waiter = self.waiter(reservationOf(credit()))
        self.clock.rightNow += 1
        self.waiters.add(waiter)
        self.clock.advance(5)
        self.unknown(waiter)


class BatchTests(WaitersCase):
    """
    Tests for events that are matched together.
    """

    def test_eachItsOwn(self) -> None:
        """
        Each event answers its own waiter with its own data, in order.
        """
        operations = [credit() for _ in range(3)]
        waiters = [self.wait(each, order=n) for n, each in enumerate(operations, 1)]
        order = [2, 0, 1]
        self.waiters.match(
            [self.event(operations[n], order=n + 1) for n in order],
            [b"%d" % n for n in order],
        )
        self.assertEqual(
            [each for each, _ in self.session.told], [*waiters[2:], *waiters[:2]]
        )
        for n, waiter in enumerate(waiters):
            self.assertEnded(waiter, b"%d" % n)

    def test_unequal(self) -> None:
        """
        It is an error if there are more or fewer data than events.
        """
        self.assertRaises(ValueError, self.waiters.match, [self.event()], [])

    def test_mixed(self) -> None:
        """
        Reservations, marked events, unmarked ones and those that nobody waits for
        may come together.
        """
        alone, marked, unmarked = self.wait(), self.wait(order=2), self.wait(order=3)
        second = self.wait(order=3)
        assert alone.reservation is not None
        self.waiters.match(
            [
                alone.reservation,
                self.event(credit(), order=7),
                self.event(marked.operation, order=2),  # type: ignore[arg-type]
                self.event(order=3),
                self.event(order=3),
            ],
            [b"1", b"7", b"2", b"3", b"4"],
        )
        self.assertEnded(alone, b"1")
        self.assertEnded(marked, b"2")
        self.assertEnded(unmarked, b"3")
        self.assertEnded(second, b"4")

    def test_twoOfOneOrder(self) -> None:
        """
        The events of an order and of its update, published together, each answer
        their own waiter.
        """
        add, update = self.wait(type=ADD), self.wait(type=UPDATE)
        assert add.reservation is not None
        assert update.reservation is not None
        self.waiters.match([add.reservation, update.reservation], [b"add", b"update"])
        self.assertEnded(add, b"add")
        self.assertEnded(update, b"update")

    def test_sessionRaises(self) -> None:
        """
        If a session raises when it is told, that is logged, its wait has ended, and
        the other events still answer their waiters.
        """
        one, two, three = self.wait(), self.wait(order=2), self.wait(order=2)
        for waiter in (one, two):
            self.session.then(waiter, lambda: 1 // 0)
        self.waiters.match(
            [self.event(), self.event(order=2), self.event(order=2)], [b"1", b"2", b"3"]
        )
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.assertEnded(one, b"1")
        self.assertEnded(two, b"2")
        self.assertEnded(three, b"3")

    def test_sessionRaisesOnFailure(self) -> None:
        """
        If a session raises when it is told of a timeout or of the server's stop, that
        is logged, and the others are told.
        """
        one, two = self.wait(), self.wait()
        self.session.then(one, lambda: 1 // 0)
        self.clock.advance(5)
        three, four = self.wait(), self.wait()
        self.session.then(three, lambda: 1 // 0)
        self.waiters.endAll("the server is stopping")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        for waiter in (one, two, three, four):
            self.unknown(waiter)

    def test_callbackRaises(self) -> None:
        """
        A callback that somebody has added to a wait, and that raises, disturbs no
        other wait.
        """
        one, two = self.wait(), self.wait(order=2)
        one.addCallback(lambda _: 1 // 0)
        self.waiters.match([self.event(), self.event(order=2)], [b"1", b"2"])
        self.assertEnded(one, b"1")
        self.assertEnded(two, b"2")
        self.failureResultOf(one, ZeroDivisionError)

    def test_abandonedMeanwhile(self) -> None:
        """
        A session that ends because of one event is not told of the next one in
        the batch.
        """
        one, two = self.wait(), self.wait(order=2)
        self.session.then(one, lambda: self.waiters.abandon(two))
        self.waiters.match([self.event(), self.event(order=2)], [b"1", b"2"])
        self.assertEnded(one, b"1")
        self.assertGone(two)

    def test_waitsAnewMeanwhile(self) -> None:
        """
        A request that begins to wait because of one event has its full time, and is
        not answered by that event.
        """
        again: list[Waiter] = []
        self.clock.advance(1)
        first = self.wait()
        self.clock.advance(2)
        self.session.then(first, lambda: again.append(self.wait()))
        assert first.reservation is not None
        self.waiters.match([first.reservation], [b"1"])
        [second] = again
        self.clock.advance(4.75)
        self.assertWaits(second)
        self.clock.advance(0.25)
        self.unknown(second)


class WaiterTests(WaitersCase):
    """
    Tests for L{Waiter}, which is a Deferred.
    """

    def test_callbacks(self) -> None:
        """
        Whoever is interested in a wait may add callbacks to it. They are called after
        its session was told.
        """
        told: list[object] = []
        waiter = self.wait()
        waiter.addBoth(lambda _: told.append("callback"))
        self.session.then(waiter, lambda: told.append("session"))
        self.match(self.event(), b"1")
        self.assertEqual(told, ["session", "callback"])

    def test_errbacks(self) -> None:
        """
        An errback that was added learns why a wait failed.
        """
        waiter = Waiter("1", self.session, "CreditInSync", 0)  # type: ignore[arg-type]
        whys: list[Failure] = []
        waiter.addErrback(whys.append)
        self.waiters.add(waiter)
        self.clock.advance(5)
        [why] = whys
        self.assertIsInstance(why.value, OutcomeUnknown)
        self.fired.append((waiter, why))

    def test_noUnhandledError(self) -> None:
        """
        A wait that fails and has no errback is not an unhandled error: its session
        was told.
        """
        waiter = Waiter("1", self.session, "CreditInSync", 0)  # type: ignore[arg-type]
        self.waiters.add(waiter)
        self.clock.advance(5)
        self.assertIs(self.successResultOf(waiter), None)
        [(_, why)] = self.session.told
        self.fired.append((waiter, why))

    def test_notReserved(self) -> None:
        """
        Without a reservation a waiter has no order and no operation.
        """
        waiter = self.waiter(None)
        self.assertIs(waiter.order, None)
        self.assertIs(waiter.operation, None)


class IdleTests(WaitersCase):
    """
    Tests for L{Waiters.whenIdle}.
    """

    def test_nobody(self) -> None:
        """
        If nobody is waiting, it has fired already.
        """
        self.assertIs(self.successResultOf(self.waiters.whenIdle()), None)

    def test_everyEnd(self) -> None:
        """
        It fires when the last wait ends, whichever way, and not sooner.
        """

        def time(_: Waiter) -> None:
            self.clock.advance(5)

        for end in (
            lambda waiter: self.match(self.event(waiter.operation), b""),
            lambda waiter: self.waiters.match([waiter.reservation], [b""]),
            self.waiters.abandon,
            lambda waiter: self.waiters.endAll("stopping"),
            time,
        ):
            other, waiter = self.wait(order=2), self.wait()
            idle, again = self.waiters.whenIdle(), self.waiters.whenIdle()
            self.waiters.abandon(other)
            self.assertNoResult(idle)
            end(waiter)
            self.assertIs(self.successResultOf(idle), None)
            self.assertIs(self.successResultOf(again), None)

    def test_commit(self) -> None:
        """
        It fires when the last commit has come.
        """
        waiter = self.committed()
        idle = self.waiters.whenIdle()
        self.assertNoResult(idle)
        self.book(waiter)
        self.assertIs(self.successResultOf(idle), None)

    def test_released(self) -> None:
        """
        It fires when the last waiter is released to be answered otherwise.
        """
        self.waiters.add(waiter := self.waiter(None))
        idle = self.waiters.whenIdle()
        self.assertIs(self.waiters.release(waiter), True)
        self.assertIs(self.waiters.release(waiter), False)
        self.assertIs(self.successResultOf(idle), None)

    def test_afterTheReplies(self) -> None:
        """
        It fires after the sessions of all who have ended were told.
        """
        one, two = self.wait(), self.wait(order=2)
        told: list[str] = []
        self.waiters.whenIdle().addCallback(lambda _: told.append("idle"))
        self.session.then(one, lambda: told.append("one"))
        self.session.then(two, lambda: told.append("two"))
        self.waiters.match([self.event(), self.event(order=2)], [b"", b""])
        self.assertEqual(told, ["one", "two", "idle"])

    def test_notWhileSomebodyBegins(self) -> None:
        """
        It does not fire if somebody begins to wait when the last one is told.
        """
        waiter, again = self.wait(), []
        idle = self.waiters.whenIdle()
        self.session.then(waiter, lambda: again.append(self.wait()))
        self.match(self.event(), b"1")
        self.assertNoResult(idle)
        self.match(self.event(), b"2")
        self.assertEnded(again[0], b"2")
        self.assertIs(self.successResultOf(idle), None)


class CrowdsTests(SynchronousTestCase):
    """
    Tests for L{Crowds}.
    """

    def setUp(self) -> None:
        """
        Make an empty one.
        """
        self.crowds = Crowds()

    def add(self, reservation: Reservation) -> Waiter:
        """
        Add a waiter for this.
        """
        session: Any = RecordingSession()
        waiter = Waiter("1", session, "CreditInSync", 0, reservation)
        self.crowds.add(waiter, reservation)
        return waiter

    def test_isFor(self) -> None:
        """
        It knows for which orders and types there is somebody.
        """
        reservation = reservationOf(credit())
        self.assertIs(self.crowds.isFor(reservation), False)
        waiter = self.add(reservation)
        self.assertIs(self.crowds.isFor(reservationOf(credit())), True)
        self.assertIs(self.crowds.isFor(reservationOf(credit(), UPDATE)), False)
        self.assertIs(self.crowds.isFor(reservationOf(credit(), ADD, 5)), False)
        self.crowds.discard(waiter, reservation)
        self.assertIs(self.crowds.isFor(reservation), False)
        self.assertEqual(self.crowds, {})

    def test_answeredBy(self) -> None:
        """
        A marked event answers all of its operation, oldest first; one without a mark
        the oldest; one of another order or type nobody.
        """
        one, other = reservationOf(credit()), reservationOf(credit())
        first, second, third = self.add(other), self.add(one), self.add(one)
        event = TradeEvent(ADD, {"order": ORDER}, one.operation)
        self.assertEqual(self.crowds.answeredBy(event), [second, third])
        self.assertEqual(self.crowds.answeredBy(one), [second, third])
        event = TradeEvent(ADD, {"order": ORDER})
        self.assertEqual(self.crowds.answeredBy(event), [first])
        for order, type in ((5, ADD), (ORDER, UPDATE)):
            event = TradeEvent(type, {"order": order}, one.operation)
            self.assertEqual(self.crowds.answeredBy(event), [])
        event = TradeEvent(ADD, {"order": ORDER}, credit())
        self.assertEqual(self.crowds.answeredBy(event), [])

    def test_discard(self) -> None:
        """
        Discarding one leaves the others of its operation, and of its event.
        """
        one, other = reservationOf(credit()), reservationOf(credit())
        first, second, third = self.add(one), self.add(one), self.add(other)
        self.crowds.discard(first, one)
        self.assertEqual(self.crowds.answeredBy(one), [second])
        self.crowds.discard(second, one)
        self.assertEqual(self.crowds.answeredBy(one), [])
        self.assertEqual(self.crowds.answeredBy(other), [third])
        self.assertEqual(list(self.crowds[ORDER, ADD].byOperation), [other.operation])
        self.crowds.discard(third, other)
        self.assertEqual(self.crowds, {})

    def test_discardNobody(self) -> None:
        """
        Discarding somebody who is not there does nothing, be there a crowd or not.
        """
        reservation = reservationOf(credit())
        session: Any = RecordingSession()
        stranger = Waiter("1", session, "CreditInSync", 0, reservation)
        self.crowds.discard(stranger, reservation)
        waiter = self.add(reservation)
        self.crowds.discard(stranger, reservation)
        self.assertEqual(self.crowds.answeredBy(reservation), [waiter])
