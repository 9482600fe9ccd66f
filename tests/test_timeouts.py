"""
Tests for L{creditsync._timeouts}.
"""

from attrs import define
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from creditsync._timeouts import EqualTimeouts, TimedTable


class EqualTimeoutsTests(SynchronousTestCase):
    """
    Tests for L{EqualTimeouts}, with waits of 5 seconds.
    """

    def setUp(self) -> None:
        """
        Record the items that expire.
        """
        self.clock = Clock()
        self.expired: list[str] = []
        self.timeouts = EqualTimeouts(self.clock, 5.0, self.expired.append)

    def tearDown(self) -> None:
        """
        Once no item waits, nothing is scheduled.
        """
        for item in self.timeouts.waiting():
            self.timeouts.end(item)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nothingAtFirst(self) -> None:
        """
        Without an item nothing is scheduled.
        """
        self.assertEqual(len(self.timeouts), 0)
        self.assertEqual(self.timeouts.waiting(), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_expires(self) -> None:
        """
        An item expires when its seconds are over, and not earlier.
        """
        self.timeouts.start("a")
        self.clock.advance(4.75)
        self.assertEqual(self.expired, [])
        self.clock.advance(0.25)
        self.assertEqual(self.expired, ["a"])

    def test_rounded(self) -> None:
        """
        An item expires although its end is rounded: 0.01 + 5.0 - 5.0 is less than
        0.01.
        """
        self.clock.advance(0.01)
        self.timeouts.start("a")
        self.clock.advance(5.0)
        self.assertEqual(self.expired, ["a"])

    def test_expiresOnce(self) -> None:
        """
        An expired item no longer waits, and leaves no timer.
        """
        self.timeouts.start("a")
        self.clock.advance(5)
        self.assertEqual(len(self.timeouts), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(5)
        self.assertEqual(self.expired, ["a"])

    def test_eachAtItsTime(self) -> None:
        """
        Items that were started one after the other expire one after the
        other, each after the same time.
        """
        self.timeouts.start("a")
        self.clock.advance(1)
        self.timeouts.start("b")
        self.clock.advance(4)
        self.assertEqual(self.expired, ["a"])
        self.clock.advance(0.75)
        self.assertEqual(self.expired, ["a"])
        self.clock.advance(0.25)
        self.assertEqual(self.expired, ["a", "b"])

    def test_together(self) -> None:
        """
        Items that were started at the same time expire together, the first
        one first.
        """
        for item in "cab":
            self.timeouts.start(item)
        self.clock.advance(5)
        self.assertEqual(self.expired, ["c", "a", "b"])

    def test_lateClock(self) -> None:
        """
        After a long turn of the reactor all overdue items expire at once, in
        their order, and the others keep waiting.
        """
        self.timeouts.start("a")
        self.clock.advance(1)
        self.timeouts.start("b")
        self.clock.rightNow += 4.5
        self.timeouts.start("c")
        self.clock.rightNow += 1
        self.clock.advance(0)
        self.assertEqual(self.expired, ["a", "b"])
        self.assertEqual(self.timeouts.waiting(), ["c"])

    def test_oneDelayedCall(self) -> None:
        """
        However many items wait, the clock has one call.
        """
        for item in "abc":
            self.timeouts.start(item)
            self.clock.advance(1)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_length(self) -> None:
        """
        The length is the number of items that wait.
        """
        self.timeouts.start("a")
        self.timeouts.start("b")
        self.assertEqual(len(self.timeouts), 2)

    def test_waiting(self) -> None:
        """
        The items that wait are listed with the longest waiting first.
        """
        for item in "cab":
            self.timeouts.start(item)
        self.timeouts.end("a")
        self.assertEqual(self.timeouts.waiting(), ["c", "b"])

    def test_end(self) -> None:
        """
        An item that was ended does not expire.
        """
        self.timeouts.start("a")
        self.assertIs(self.timeouts.end("a"), True)
        self.clock.advance(5)
        self.assertEqual(self.expired, [])

    def test_endTwice(self) -> None:
        """
        Ending an item that does not wait any more, or never did, does nothing.
        """
        self.timeouts.start("a")
        self.timeouts.end("a")
        self.assertIs(self.timeouts.end("a"), False)
        self.assertIs(self.timeouts.end("b"), False)

    def test_endExpired(self) -> None:
        """
        An item that has expired was not waiting.
        """
        self.timeouts.start("a")
        self.clock.advance(5)
        self.assertIs(self.timeouts.end("a"), False)

    def test_endLast(self) -> None:
        """
        Ending the last item removes the delayed call.
        """
        self.timeouts.start("a")
        self.timeouts.start("b")
        self.timeouts.end("a")
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.timeouts.end("b")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_endOldest(self) -> None:
        """
        When the oldest item is ended, the next one still waits its full time.
        """
        self.timeouts.start("a")
        self.clock.advance(2)
        self.timeouts.start("b")
        self.timeouts.end("a")
        self.clock.advance(4.75)
        self.assertEqual(self.expired, [])
        self.clock.advance(0.25)
        self.assertEqual(self.expired, ["b"])

    def test_endMiddle(self) -> None:
        """
        An item in the middle may be ended.
        """
        for item in "abc":
            self.timeouts.start(item)
        self.timeouts.end("b")
        self.clock.advance(5)
        self.assertEqual(self.expired, ["a", "c"])

    def test_startAgain(self) -> None:
        """
        An item that was ended and started again waits its full time anew,
        behind those that came between.
        """
        self.timeouts.start("a")
        self.timeouts.start("b")
        self.timeouts.end("a")
        self.clock.advance(1)
        self.timeouts.start("a")
        self.clock.advance(4)
        self.assertEqual(self.expired, ["b"])
        self.clock.advance(1)
        self.assertEqual(self.expired, ["b", "a"])

    def test_startAfterRest(self) -> None:
        """
        After all items were ended, the next item is timed from its own start.
        """
        self.timeouts.start("a")
        self.clock.advance(3)
        self.timeouts.end("a")
        self.timeouts.start("b")
        self.clock.advance(4.75)
        self.assertEqual(self.expired, [])
        self.clock.advance(0.25)
        self.assertEqual(self.expired, ["b"])

    def test_startTwice(self) -> None:
        """
        An item that waits can't be started.
        """
        self.timeouts.start("a")
        self.assertRaises(AssertionError, self.timeouts.start, "a")

    def test_manyExpire(self) -> None:
        """
        Of very many items, those that are due expire and the others stay.
        """
        for number in range(5000):
            self.timeouts.start(str(number))
        self.clock.advance(1)
        self.timeouts.start("later")
        self.clock.advance(4)
        self.assertEqual(len(self.expired), 5000)
        self.assertEqual(self.expired[-1], "4999")
        self.assertEqual(self.timeouts.waiting(), ["later"])


class ReentrantTimeoutsTests(SynchronousTestCase):
    """
    Tests for callbacks of L{EqualTimeouts} that call back into it.
    """

    def setUp(self) -> None:
        """
        When an item expires, run the function that the test has set for it.
        """
        self.clock = Clock()
        self.expired: list[str] = []
        self.timeouts = EqualTimeouts(self.clock, 5.0, self.expire)

    def expire(self, item: str) -> None:
        """
        Record the item, then run its function.
        """
        self.expired.append(item)
        if item == "failing":
            raise ZeroDivisionError
        if item == "starting":
            self.timeouts.start("started")
        if item == "looking":
            self.seen = self.timeouts.waiting()
        if item == "ending":
            self.ended = [self.timeouts.end("due"), self.timeouts.end("later")]

    def test_start(self) -> None:
        """
        An item that is started while another one expires waits its full time.
        """
        self.timeouts.start("starting")
        self.clock.advance(5)
        self.clock.advance(4.75)
        self.assertEqual(self.expired, ["starting"])
        self.clock.advance(0.25)
        self.assertEqual(self.expired, ["starting", "started"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_startBesideLater(self) -> None:
        """
        An item that is started while another one expires shares the delayed
        call of the items that wait already.
        """
        self.timeouts.start("starting")
        self.clock.advance(1)
        self.timeouts.start("later")
        self.clock.advance(4)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(1)
        self.assertEqual(self.expired, ["starting", "later"])
        self.clock.advance(4)
        self.assertEqual(self.expired, ["starting", "later", "started"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_noneOfTheDueWaits(self) -> None:
        """
        All items that are due have left the table before the first callback
        runs.
        """
        self.timeouts.start("looking")
        self.timeouts.start("due")
        self.clock.advance(5)
        self.assertEqual(self.seen, [])

    def test_end(self) -> None:
        """
        An item that is due at the same time can't be ended any more; a later
        one can, and its delayed call is cancelled.
        """
        self.timeouts.start("ending")
        self.timeouts.start("due")
        self.clock.advance(1)
        self.timeouts.start("later")
        self.clock.advance(4)
        self.assertEqual(self.ended, [False, True])
        self.assertEqual(self.expired, ["ending", "due"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_failing(self) -> None:
        """
        If the callback of one item raises, this is logged, and the others
        expire all the same, now and later.
        """
        self.timeouts.start("failing")
        self.timeouts.start("due")
        self.clock.advance(1)
        self.timeouts.start("later")
        self.clock.advance(4)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.expired, ["failing", "due"])
        self.clock.advance(1)
        self.assertEqual(self.expired, ["failing", "due", "later"])
        self.assertEqual(self.clock.getDelayedCalls(), [])


@define(eq=False)
class Timed:
    """
    What has a timeout in a L{TimedTable}.
    """

    name: str
    since: float


class TimedTableTests(SynchronousTestCase):
    """
    Tests for L{TimedTable}, with timeouts of 5 seconds, whose entries are added and
    removed by others.
    """

    def setUp(self) -> None:
        """
        Record what expires.
        """
        self.clock = Clock()
        self.expired: list[str] = []
        self.table = TimedTable(self.clock, 5.0, self.expire)

    def tearDown(self) -> None:
        """
        With no entry left, and that told, nothing is scheduled.
        """
        self.table.entries.clear()
        self.table.relax()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def expire(self, entry: Timed) -> None:
        """
        Record an entry.
        """
        self.expired.append(entry.name)

    def add(self, key: object, since: float | None = None) -> None:
        """
        Add an entry.
        """
        began = self.clock.seconds() if since is None else since
        self.table.entries[key] = Timed(str(key), began)
        self.table.arm()

    def test_anyKey(self) -> None:
        """
        Entries have any keys, and expire in their order, each at its time.
        """
        self.add(7)
        self.clock.advance(1)
        self.add("a")
        self.add((1, 2))
        self.clock.advance(3.75)
        self.assertEqual(self.expired, [])
        self.clock.advance(0.25)
        self.assertEqual(self.expired, ["7"])
        self.assertEqual(list(self.table.entries), ["a", (1, 2)])
        self.clock.advance(1)
        self.assertEqual(self.expired, ["7", "a", "(1, 2)"])
        self.assertEqual(self.table.entries, {})
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_removed(self) -> None:
        """
        An entry that was removed does not expire, and the next one does at its own
        time, though the clock calls at the first one's.
        """
        self.add(1)
        self.clock.advance(2)
        self.add(2)
        del self.table.entries[1]
        self.table.relax()
        self.clock.advance(3)
        self.assertEqual(self.expired, [])
        self.assertEqual([c.getTime() for c in self.clock.getDelayedCalls()], [7])
        self.clock.advance(2)
        self.assertEqual(self.expired, ["2"])

    def test_relax(self) -> None:
        """
        The delayed call goes with the last entry.
        """
        self.add(1)
        self.add(2)
        del self.table.entries[1]
        self.table.relax()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        del self.table.entries[2]
        self.table.relax()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.table.relax()

    def test_armTwice(self) -> None:
        """
        However often it is armed there is one delayed call.
        """
        self.add(1)
        self.table.arm()
        self.add(2)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_calledInVain(self) -> None:
        """
        If nothing is left when the clock calls, though nobody told, that is all.
        """
        self.add(1)
        self.table.entries.clear()
        self.clock.advance(5)
        self.assertEqual(self.expired, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_replaced(self) -> None:
        """
        A key whose entry has expired may be used again.
        """
        self.add(1)
        self.clock.advance(5)
        self.add(1)
        self.clock.advance(4.75)
        self.assertEqual(self.expired, ["1"])
        self.clock.advance(0.25)
        self.assertEqual(self.expired, ["1", "1"])

    def test_beganBefore(self) -> None:
        """
        An entry that began before it was added expires at the next call of the
        clock, no later than its time after it was added.
        """
        self.clock.advance(10)
        self.add(1, since=7)
        self.clock.advance(5)
        self.assertEqual(self.expired, ["1"])
