"""
Tests for L{creditsync._transport.fairness}.
"""

from attrs import Factory, define
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from creditsync._transport.fairness import FairScheduler, Share


@define(eq=False)
class Lines:
    """
    A client each of whose lines takes C{seconds}.

    @ivar left: How many lines it still has.
    @ivar handled: The names of those whose lines were handled, of all clients.
    """

    clock: Clock
    handled: list[str]
    name: str
    left: int = 0
    seconds: float = 0.0
    most: int = 1
    share: Share = Factory(Share)
    isQueued: bool = False

    @property
    def isWaiting(self) -> bool:
        """
        Whether it has lines.
        """
        return self.left > 0

    def handleLines(self, until: float) -> int:
        """
        Handle up to C{most}.
        """
        lines = 0
        while self.left and lines < self.most:
            self.left -= 1
            lines += 1
            self.handled.append(self.name)
            self.clock.rightNow += self.seconds
            if self.clock.seconds() >= until:
                break
        return lines


class TurnsTests(SynchronousTestCase):
    """
    Tests for L{FairScheduler}, whose turns have 1 ms.
    """

    def setUp(self) -> None:
        """
        Have nobody there.
        """
        self.clock = Clock()
        self.turns = FairScheduler(self.clock)
        self.handled: list[str] = []

    def client(self, name: str, left: int = 0, parts: float = 0.0) -> Lines:
        """
        Somebody with so many lines that each take so long: a turn has two parts
        and a half.
        """
        return Lines(self.clock, self.handled, name, left, parts * 0.0004)

    def everybody(self) -> str:
        """
        Let turns come until nobody waits any more.

        @return: Whose lines were handled in them.
        """
        del self.handled[:]
        while self.turns:
            self.turns.next()
        return "".join(self.handled)

    def test_atOnce(self) -> None:
        """
        As long as there is time a line is handled when it comes.
        """
        self.turns.serve(self.client("a", 1, 2.0))
        self.turns.serve(self.client("b", 1, 2.0))
        self.assertEqual(self.handled, ["a", "b"])
        self.assertFalse(self.turns)

    def test_spent(self) -> None:
        """
        When the time is spent it waits for the next turn.
        """
        self.turns.serve(self.client("a", 1, 3.0))
        self.turns.serve(self.client("b", 1))
        self.assertEqual(self.handled, ["a"])
        self.turns.next()
        self.assertEqual(self.handled, ["a", "b"])
        self.assertFalse(self.turns)

    def test_turnEnds(self) -> None:
        """
        A turn ends when its time is spent, whoever still waits.
        """
        for name in "abcd":
            self.turns.serve(self.client(name, 2, 1.0))
        self.assertEqual("".join(self.handled), "abc")
        del self.handled[:]
        self.turns.next()
        self.assertEqual((self.handled[0], len(self.handled)), ("d", 3))

    def test_longLine(self) -> None:
        """
        Time is looked at within a client's lines too.
        """
        client = self.client("a", 10, 1.0)
        client.most = 10
        self.turns.serve(client)
        self.assertEqual(self.handled, ["a"] * 3)

    def test_countedWithoutAClock(self) -> None:
        """
        A line costs 10 µs at least: no turn has more than 100 of one line each.
        """
        for number in range(300):
            self.turns.serve(self.client(str(number), 1))
        self.assertEqual(len(self.handled), 100)

    def test_leastUsedFirst(self) -> None:
        """
        Who has used little comes before those who have used much, however
        many they are.
        """
        dear = [self.client("x", 10, 1.0) for _ in range(50)]
        for each in dear:
            self.turns.serve(each)
        for _ in range(40):
            self.turns.next()
        late = self.client("o", 1, 0.02)
        self.turns.serve(late)
        del self.handled[:]
        self.turns.next()
        self.assertEqual(self.handled[0], "o")
        for _ in range(5):
            late.left = 1
            self.turns.serve(late)
            del self.handled[:]
            self.turns.next()
            self.assertIn("o", self.handled)

    def test_newcomers(self) -> None:
        """
        Who has worked for long while nobody queued has no debt to those who
        come later.
        """
        client = self.client("o", 0, 1.0)
        for _ in range(1000):
            client.left = 1
            self.turns.serve(client)
            self.turns.next()
        for _ in range(20):
            self.turns.serve(self.client("x", 100, 1.0))
        client.left = 1
        self.turns.serve(client)
        del self.handled[:]
        for _ in range(30):
            self.turns.next()
        self.assertIn("o", self.handled)

    def test_onePrincipal(self) -> None:
        """
        All connections of one principal have its share together.
        """
        one, other = self.turns.share(1), self.turns.share(2)
        self.assertIs(self.turns.share(1), one)
        for _ in range(9):
            client = self.client("m", 1000, 1.0)
            client.share = one
            self.turns.serve(client)
        single = self.client("s", 1000, 1.0)
        single.share = other
        self.turns.serve(single)
        for _ in range(20):
            self.turns.next()
        del self.handled[:]
        for _ in range(100):
            self.turns.next()
        self.assertApproximates(self.handled.count("s"), self.handled.count("m"), 30)

    def test_sharesEnd(self) -> None:
        """
        A share is forgotten with the last of its connections.
        """
        share = self.turns.share(1)
        share.used = 5.0
        del share
        self.assertEqual(self.turns.share(1).used, 0.0)

    def test_sharesAreEqual(self) -> None:
        """
        Those who always have lines have equal time, not equally many lines.
        """
        dear, cheap = self.client("d", 1000, 1.0), self.client("c", 1000, 0.1)
        self.turns.serve(dear)
        self.turns.serve(cheap)
        del self.handled[:]
        for _ in range(20):
            self.turns.next()
        self.assertApproximates(
            self.handled.count("c") / self.handled.count("d"), 10, 2
        )

    def test_nothingSavedUp(self) -> None:
        """
        Who was silent for long has no more than its share afterwards.
        """
        busy, silent = self.client("b", 1000, 1.0), self.client("s", 0, 1.0)
        self.turns.serve(busy)
        for _ in range(100):
            self.turns.next()
        silent.left = 100
        self.turns.serve(silent)
        del self.handled[:]
        for _ in range(10):
            self.turns.next()
        self.assertApproximates(self.handled.count("s"), 15, 3)

    def test_stalled(self) -> None:
        """
        Who has nothing to be handled when its turn comes is left out, and
        queues anew when it has.
        """
        self.turns.serve(self.client("a", 1, 3.0))
        client = self.client("b", 1)
        self.turns.serve(client)
        client.left = 0
        self.assertEqual(self.everybody(), "")
        client.left = 1
        self.turns.serve(client)
        self.assertEqual(self.handled, ["b"])

    def test_queuedOnce(self) -> None:
        """
        More lines of one who queues change nothing.
        """
        self.turns.serve(self.client("a", 1, 3.0))
        client = self.client("b", 1)
        self.turns.serve(client)
        client.left = 2
        self.turns.serve(client)
        self.assertEqual(self.everybody(), "bb")

    def test_clockPutForward(self) -> None:
        """
        A step of the clock is paid for with a second at most.
        """
        unlucky, other = self.client("u", 1000, 0.0), self.client("o", 10_000, 1.0)
        unlucky.seconds = 3600.0
        self.turns.serve(unlucky)
        unlucky.seconds = 0.0004
        self.turns.serve(other)
        del self.handled[:]
        for _ in range(2000):
            self.turns.next()
        self.assertGreater(self.handled.count("u"), 500)

    def test_clockPutBack(self) -> None:
        """
        A clock that is put back gives nobody time.
        """
        client = self.client("a", 2, 0.0)
        client.seconds = -3600.0
        self.turns.serve(client)
        self.assertGreater(client.share.used, 0)
