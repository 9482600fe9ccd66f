"""
Tests for L{creditsync._conversation.waiters}.
"""

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from creditsync._conversation.waiter import Waiter
from creditsync._conversation.waiters import Waiters
from creditsync.errors import OutcomeUnknown, SessionEnded
from creditsync.records import Deferral, Operation, TradeEvent

ADD, UPDATE, DELETE = 0, 1, 2
ORDER = 1242281


def credit() -> Operation:
    """
    An operation; no two of them are equal.
    """
    return Operation("CreditInSync", 7, 1001, 300_00000000, "Promotion credit")


def event(
    operation: Operation | None = None, type: int = ADD, order: int = ORDER
) -> TradeEvent:
    """
    An event, marked with the operation if one is given.
    """
    return TradeEvent(type, {"order": order}, operation)


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
        self.session = object()

    def tearDown(self) -> None:
        """
        At rest no waiter and no delayed call is left.
        """
        self.assertEqual(len(self.waiters), 0)
        self.assertEqual(self.waiters._byEvent, {})
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def wait(
        self,
        operation: Operation | None = None,
        type: int = ADD,
        order: int = ORDER,
    ) -> Waiter:
        """
        Wait for the event of an operation.
        """
        deferral = Deferral(order, type, operation or credit())
        waiter = self.waiters.wait("credit-req-1001", self.session)
        self.waiters.expect(waiter, deferral)
        return waiter

    def committed(self, durable: "Deferred[None]") -> Waiter:
        """
        Wait for a commit.
        """
        deferral = Deferral(ORDER, ADD, credit(), durable)
        waiter = self.waiters.wait("credit-req-1001", self.session)
        self.waiters.expect(waiter, deferral)
        return waiter

    def unknown(self, waiter: Waiter) -> OutcomeUnknown:
        """
        The 504 with which a wait has ended.
        """
        why = self.failureResultOf(waiter.ended, OutcomeUnknown).value
        assert isinstance(why, OutcomeUnknown)
        return why


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
        assert waiter.deferral is not None
        deferral = waiter.deferral
        self.assertEqual((deferral.order, deferral.eventType), (1242281, 1))
        self.assertEqual(waiter.extID, "credit-req-1001")
        self.assertIs(waiter.session, self.session)
        self.assertNoResult(waiter.ended)
        self.waiters.match(event(type=UPDATE), b"{}")
        self.successResultOf(waiter.ended)

    def test_length(self) -> None:
        """
        The length is the number of replies that wait, of either kind.
        """
        one, other, durable = credit(), credit(), Deferred[None]()
        self.wait(one)
        self.wait(other)
        self.committed(durable)
        self.assertEqual(len(self.waiters), 3)
        durable.callback(None)
        self.assertEqual(len(self.waiters), 2)
        self.waiters.match(event(one), b"")
        self.assertEqual(len(self.waiters), 1)
        self.waiters.match(event(other), b"")

    def test_matched(self) -> None:
        """
        The event of its operation ends the wait with the event's data, at
        once, and takes the timer away.
        """
        operation = credit()
        waiter = self.wait(operation)
        self.waiters.match(event(operation), b'{"order":1242281}')
        self.assertEqual(self.successResultOf(waiter.ended), b'{"order":1242281}')
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nobodyWaits(self) -> None:
        """
        An event that nobody waits for is none of our business, and is not
        kept for a wait that comes later.
        """
        operation = credit()
        self.waiters.match(event(operation), b"early")
        waiter = self.wait(operation)
        self.assertNoResult(waiter.ended)
        self.waiters.match(event(operation), b"late")
        self.assertEqual(self.successResultOf(waiter.ended), b"late")

    def test_otherOrder(self) -> None:
        """
        An event of another order ends nothing.
        """
        waiter = self.wait()
        self.waiters.match(event(order=1242282), b"")
        self.assertNoResult(waiter.ended)
        self.waiters.abandon(waiter)
        self.failureResultOf(waiter.ended, SessionEnded)

    def test_otherType(self) -> None:
        """
        An event of the same order and another type ends nothing.
        """
        waiter = self.wait(type=UPDATE)
        self.waiters.match(event(type=ADD), b"")
        self.waiters.match(event(type=DELETE), b"")
        self.assertNoResult(waiter.ended)
        self.waiters.match(event(type=UPDATE), b"update")
        self.assertEqual(self.successResultOf(waiter.ended), b"update")

    def test_addAndUpdate(self) -> None:
        """
        The add of an order and its update, both awaited, are told apart by
        their type.
        """
        add, update = self.wait(type=ADD), self.wait(type=UPDATE)
        self.waiters.match(event(type=UPDATE), b"update")
        self.assertNoResult(add.ended)
        self.waiters.match(event(type=ADD), b"add")
        self.assertEqual(self.successResultOf(add.ended), b"add")
        self.assertEqual(self.successResultOf(update.ended), b"update")

    def test_ownOperation(self) -> None:
        """
        Two waiters on one order and type each get the event of their own
        operation, whichever comes first.
        """
        first, second = credit(), credit()
        one, two = self.wait(first, UPDATE), self.wait(second, UPDATE)
        self.waiters.match(event(second, UPDATE), b"second")
        self.assertNoResult(one.ended)
        self.waiters.match(event(first, UPDATE), b"first")
        self.assertEqual(self.successResultOf(one.ended), b"first")
        self.assertEqual(self.successResultOf(two.ended), b"second")

    def test_othersOperation(self) -> None:
        """
        An event that is marked with an operation whose reply does not wait
        here leaves the other waiters of that order alone.
        """
        operation = credit()
        waiter = self.wait(operation, UPDATE)
        self.waiters.match(event(credit(), UPDATE), b"another's")
        self.assertNoResult(waiter.ended)
        self.waiters.match(event(operation, UPDATE), b"its own")
        self.assertEqual(self.successResultOf(waiter.ended), b"its own")

    def test_unmarkedOldestFirst(self) -> None:
        """
        An event without a mark answers one waiter: the oldest of its order
        and type.
        """
        one, two = self.wait(), self.wait()
        self.waiters.match(event(), b"first")
        self.assertEqual(self.successResultOf(one.ended), b"first")
        self.assertNoResult(two.ended)
        self.waiters.match(event(), b"second")
        self.assertEqual(self.successResultOf(two.ended), b"second")

    def test_unmarkedOldestOfAnyOperation(self) -> None:
        """
        Of several who wait it answers the oldest, whichever operation that is
        for, and not one more of the first one's.
        """
        operation = credit()
        one, two, three = self.wait(operation), self.wait(), self.wait(operation)
        for name, waiter in ((b"1", one), (b"2", two), (b"3", three)):
            self.waiters.match(event(), name)
            self.assertEqual(self.successResultOf(waiter.ended), name)

    def test_onceOnly(self) -> None:
        """
        A wait that has ended is not answered again.
        """
        operation = credit()
        waiter = self.wait(operation)
        self.waiters.match(event(operation), b"first")
        self.waiters.match(event(operation), b"second")
        self.waiters.match(event(), b"third")
        self.assertEqual(self.successResultOf(waiter.ended), b"first")

    def test_outOfTheTableFirst(self) -> None:
        """
        The waiter has left the table when it is told, and may wait anew: for
        the next event, not for this one.
        """
        again: list[Waiter] = []
        waiter = self.wait()
        waiter.ended.addCallback(lambda _: again.append(self.wait()))
        self.waiters.match(event(), b"first")
        self.assertEqual(len(self.waiters), 1)
        self.assertNoResult(again[0].ended)
        self.waiters.match(event(), b"second")
        self.assertEqual(self.successResultOf(again[0].ended), b"second")


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
        self.waiters.match(event(operation), b"data")
        for waiter in (one, two, three):
            self.assertEqual(self.successResultOf(waiter.ended), b"data")

    def test_oldestFirst(self) -> None:
        """
        Those who wait longest are told first.
        """
        operation, told = credit(), []
        for name in ("first", "second", "third"):
            waiter = self.wait(operation)
            waiter.ended.addCallback(lambda _, name=name: told.append(name))
        self.waiters.match(event(operation), b"")
        self.assertEqual(told, ["first", "second", "third"])

    def test_nobodyElse(self) -> None:
        """
        Others who wait for that order and type are left alone.
        """
        operation, other = credit(), credit()
        before = self.wait(other, UPDATE)
        one, two = self.wait(operation, UPDATE), self.wait(operation, UPDATE)
        after = self.wait(other, UPDATE)
        self.waiters.match(event(operation, UPDATE), b"theirs")
        self.assertEqual(self.successResultOf(one.ended), b"theirs")
        self.assertEqual(self.successResultOf(two.ended), b"theirs")
        self.assertNoResult(before.ended)
        self.assertNoResult(after.ended)
        self.waiters.match(event(other, UPDATE), b"others'")
        self.assertEqual(self.successResultOf(before.ended), b"others'")
        self.assertEqual(self.successResultOf(after.ended), b"others'")

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
        self.waiters.match(event(operation), b"data")
        self.assertEqual(self.successResultOf(second.ended), b"data")

    def test_oneIsGone(self) -> None:
        """
        When the session of one has gone, the other is answered.
        """
        operation = credit()
        first, second = self.wait(operation), self.wait(operation)
        self.waiters.abandon(first)
        self.failureResultOf(first.ended, SessionEnded)
        self.waiters.match(event(operation), b"data")
        self.assertEqual(self.successResultOf(second.ended), b"data")

    def test_outOfTheTableFirst(self) -> None:
        """
        All of them have left the table when the first one is told.
        """
        operation, left = credit(), []
        one, two = self.wait(operation), self.wait(operation)
        one.ended.addCallback(lambda _: left.append(len(self.waiters)))
        self.waiters.match(event(operation), b"data")
        self.assertEqual(left, [0])
        self.assertEqual(self.successResultOf(two.ended), b"data")

    def test_abandonedMeanwhile(self) -> None:
        """
        A session that ends because one is told does not end the other wait
        twice.
        """
        operation = credit()
        one, two = self.wait(operation), self.wait(operation)
        one.ended.addCallback(lambda _: self.waiters.abandon(two))
        self.waiters.match(event(operation), b"data")
        self.assertEqual(self.successResultOf(two.ended), b"data")

    def test_withACommit(self) -> None:
        """
        One may wait for the event and another for the commit of the same
        operation.
        """
        durable = Deferred[None]()
        commit = self.committed(durable)
        waiter = self.wait(commit.deferral.operation)
        self.waiters.match(event(commit.deferral.operation), b"data")
        self.assertEqual(self.successResultOf(waiter.ended), b"data")
        self.assertNoResult(commit.ended)
        durable.callback(None)
        self.assertIs(self.successResultOf(commit.ended), None)

    def test_unmarkedAnswersOne(self) -> None:
        """
        An event without a mark answers only one of them: nobody knows that
        it is their operation's.
        """
        operation = credit()
        one, two = self.wait(operation), self.wait(operation)
        self.waiters.match(event(), b"first")
        self.assertEqual(self.successResultOf(one.ended), b"first")
        self.assertNoResult(two.ended)
        self.waiters.match(event(operation), b"second")
        self.assertEqual(self.successResultOf(two.ended), b"second")


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
        self.assertNoResult(waiter.ended)
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
        self.waiters.match(event(operation), b"")

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
        self.waiters.match(event(), b"event")
        self.assertEqual(self.successResultOf(two.ended), b"event")

    def test_eachAtItsTime(self) -> None:
        """
        Each wait has its own full time.
        """
        one = self.wait()
        self.clock.advance(3)
        two = self.wait(order=1242282)
        self.clock.advance(2)
        self.unknown(one)
        self.assertNoResult(two.ended)
        self.clock.advance(3)
        self.assertEqual(self.unknown(two).data, {"order": 1242282})

    def test_commitTimedOut(self) -> None:
        """
        A reply that waits for its commit times out in the same way; the
        commit that comes later answers nobody.
        """
        durable = Deferred[None]()
        waiter = self.committed(durable)
        self.clock.advance(5)
        self.assertEqual(self.unknown(waiter).data, {"order": 1242281})
        durable.callback(None)
        self.successResultOf(durable)

    def test_outOfTheTableFirst(self) -> None:
        """
        All that are due have left the table when the first one is told.
        """
        left: list[int] = []
        one, two = self.wait(), self.wait()
        one.ended.addErrback(lambda _: left.append(len(self.waiters)))
        self.clock.advance(5)
        self.unknown(two)
        self.assertEqual(left, [0])

    def test_abandonedMeanwhile(self) -> None:
        """
        A session that ends because of one timeout does not end another wait,
        due at the same time, twice.
        """
        one, two = self.wait(), self.wait()
        one.ended.addErrback(lambda _: self.waiters.abandon(two))
        self.clock.advance(5)
        self.unknown(two)

    def test_matchedMeanwhile(self) -> None:
        """
        An event that is published because of one timeout does not end another
        wait, due at the same time, twice.
        """
        operation = credit()
        one, two = self.wait(), self.wait(operation)
        one.ended.addErrback(lambda _: self.waiters.match(event(operation), b""))
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
        one.ended.addErrback(lambda _: self.waiters.match(event(), b"event"))
        self.clock.advance(4)
        self.unknown(two)
        self.assertEqual(self.successResultOf(three.ended), b"event")


class CommitTests(WaitersCase):
    """
    Tests for replies that wait for their commit.
    """

    def test_committed(self) -> None:
        """
        The commit ends the wait with L{None}.
        """
        durable = Deferred[None]()
        waiter = self.committed(durable)
        self.assertNoResult(waiter.ended)
        durable.callback(None)
        self.assertIs(self.successResultOf(waiter.ended), None)

    def test_committedAlready(self) -> None:
        """
        A commit that has happened already ends the wait at once.
        """
        waiter = self.committed(succeed(None))
        self.assertIs(self.successResultOf(waiter.ended), None)

    def test_lost(self) -> None:
        """
        A commit that errs ends the wait with what the runtime says of it.
        """
        durable, why = Deferred[None](), OutcomeUnknown("the ledger failed", ORDER)
        waiter = self.committed(durable)
        durable.errback(why)
        self.assertIs(self.unknown(waiter), why)

    def test_notByEvent(self) -> None:
        """
        An event, marked or not, does not answer what waits for a commit.
        """
        durable = Deferred[None]()
        waiter = self.committed(durable)
        self.waiters.match(event(waiter.deferral.operation), b"")
        self.waiters.match(event(), b"")
        self.assertNoResult(waiter.ended)
        durable.callback(None)
        self.assertIs(self.successResultOf(waiter.ended), None)

    def test_abandoned(self) -> None:
        """
        When the session has gone, the commit answers nobody.
        """
        durable = Deferred[None]()
        waiter = self.committed(durable)
        self.waiters.abandon(waiter)
        self.failureResultOf(waiter.ended, SessionEnded)
        durable.callback(None)
        self.successResultOf(durable)

    def test_abandonedAndLost(self) -> None:
        """
        When the session has gone, a commit that errs is told to nobody, and
        is no unhandled error.
        """
        durable = Deferred[None]()
        waiter = self.committed(durable)
        self.waiters.abandon(waiter)
        self.failureResultOf(waiter.ended, SessionEnded)
        durable.errback(OutcomeUnknown("the ledger failed", ORDER))
        self.successResultOf(durable)


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
        self.failureResultOf(waiter.ended, SessionEnded)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.waiters.match(event(operation), b"")

    def test_others(self) -> None:
        """
        Others who wait for the same order and type are not touched.
        """
        one, two, three = self.wait(), self.wait(), self.wait()
        self.waiters.abandon(two)
        self.failureResultOf(two.ended, SessionEnded)
        self.waiters.match(event(), b"first")
        self.waiters.match(event(), b"second")
        self.assertEqual(self.successResultOf(one.ended), b"first")
        self.assertEqual(self.successResultOf(three.ended), b"second")

    def test_ended(self) -> None:
        """
        A wait that has ended can't be abandoned, which is no mistake.
        """
        waiter = self.wait()
        self.waiters.match(event(), b"event")
        self.waiters.abandon(waiter)
        self.assertEqual(self.successResultOf(waiter.ended), b"event")

    def test_twice(self) -> None:
        """
        It ends only once.
        """
        waiter = self.wait()
        self.waiters.abandon(waiter)
        self.waiters.abandon(waiter)
        self.failureResultOf(waiter.ended, SessionEnded)

    def test_outOfTheTableFirst(self) -> None:
        """
        The waiter has left the table when it is told.
        """
        left: list[int] = []
        waiter = self.wait()
        waiter.ended.addErrback(lambda _: left.append(len(self.waiters)))
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
        commit = self.committed(Deferred())
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

    def test_oldestFirst(self) -> None:
        """
        Those who wait longest are told first.
        """
        told: list[int] = []
        for order in (3, 1, 2):
            waiter = self.wait(order=order)
            waiter.ended.addErrback(lambda _, order=order: told.append(order))
        self.waiters.endAll("the server is stopping")
        self.assertEqual(told, [3, 1, 2])

    def test_late(self) -> None:
        """
        What comes afterwards answers nobody.
        """
        operation = credit()
        fine, lost = Deferred[None](), Deferred[None]()
        everyone = [self.wait(operation), self.committed(fine), self.committed(lost)]
        self.waiters.endAll("the server is stopping")
        self.waiters.match(event(operation), b"")
        fine.callback(None)
        lost.errback(OutcomeUnknown("the ledger failed", ORDER))
        self.successResultOf(fine)
        self.successResultOf(lost)
        for waiter in everyone:
            self.unknown(waiter)

    def test_outOfTheTableFirst(self) -> None:
        """
        All have left the table when the first one is told.
        """
        left: list[int] = []
        one, two = self.wait(), self.wait(order=2)
        one.ended.addErrback(lambda _: left.append(len(self.waiters)))
        self.waiters.endAll("the server is stopping")
        self.unknown(two)
        self.assertEqual(left, [0])

    def test_abandonedMeanwhile(self) -> None:
        """
        Sessions that end because of it do not end their waits twice.
        """
        one, two = self.wait(), self.wait()
        one.ended.addErrback(lambda _: self.waiters.abandon(two))
        self.waiters.endAll("the server is stopping")
        self.unknown(two)

    def test_newOne(self) -> None:
        """
        A wait that begins because of it goes on.
        """
        again: list[Waiter] = []
        waiter = self.wait()
        waiter.ended.addErrback(lambda _: again.append(self.wait()))
        self.waiters.endAll("the server is stopping")
        self.assertNoResult(again[0].ended)
        self.waiters.match(event(), b"event")
        self.assertEqual(self.successResultOf(again[0].ended), b"event")
