"""
Tests for L{tests.crash.kill}: a few real kills leave nothing wrong, and faults
are found.
"""

import random
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.crash.driver import Trial
from tests.crash.kill import Kills, Outcome
from tests.crash.points import AFTER, BEFORE, COPYING, LOAD, NEW, POINTS, Point, target
from tests.crash.record import Violation
from tests.crash.rounds import hit
from tests.integration.processes import SERVE

pytestmark = pytest.mark.proof


class KillTests(SynchronousTestCase):
    """
    Tests with real servers that are killed a few times.
    """

    def setUp(self) -> None:
        """
        Make a folder.
        """
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def trial(self) -> Trial:
        """
        A new ledger.
        """
        trial = Trial(self.folder / "ledger", random.Random(1), SERVE)
        self.addCleanup(trial.end)
        return trial

    def outcome(self, command: list[str], kills: int) -> Outcome:
        """
        The outcome of this many kills.
        """
        return Kills(self.folder / "job", 1, command, kills, 60).run()

    def test_sound(self) -> None:
        """
        A few kills from outside leave nothing wrong.
        """
        outcome = self.outcome(SERVE, 2)
        self.assertIsNone(outcome.violation)
        self.assertGreaterEqual(outcome.counts["kills"], 2)
        self.assertGreaterEqual(outcome.counts["acknowledged"], 60)

    def test_planted(self) -> None:
        """
        A server that forgets the order numbers that it has sent is detected by
        the first kill between a number and its commit.
        """
        planted = [sys.executable, "-m", "tests.planted.server", "order-numbers-reused"]
        outcome = self.outcome(planted, 20)
        self.assertIn(" means operation", outcome.violation or "none")

    def test_endedByItself(self) -> None:
        """
        A server that ends without being killed is a violation.
        """
        trial = self.trial()
        trial.start("sh", "-c", "exit 3")
        trial.process.wait(10)
        with self.assertRaisesRegex(Violation, "ended by itself: its status is 3"):
            trial.kill()

    def test_point(self) -> None:
        """
        A server kills itself between its statement and its reply, and the next
        one replies with what it has booked.
        """
        trial = self.trial()
        # On a busy machine a commit may have nothing that is sent again.
        for _ in range(3):
            hit(trial, Point(LOAD, AFTER, "SQL:INSERT INTO journal", 2, 2))
        trial.finish()
        self.assertGreater(trial.record.replayed, 0)

    def test_pointIsNotReached(self) -> None:
        """
        A point that is never passed is a violation.
        """
        trial = self.trial()
        point = Point(COPYING, BEFORE, "SQL:VACUUM")
        with self.assertRaisesRegex(Violation, "was not reached"):
            hit(trial, point)

    def test_pointsAreThere(self) -> None:
        """
        Each point other than a statement still exists in the code.
        """
        for point in POINTS:
            if not point.where.startswith("SQL:"):
                owner, name = target(point)
                self.assertTrue(callable(getattr(owner, name)))

    def test_pointsAreNamed(self) -> None:
        """
        Each point has a name of its own.
        """
        self.assertEqual(len({point.name for point in POINTS}), len(POINTS))
        self.assertIn("after ledger.sqlite:prepare " + NEW, {p.name for p in POINTS})
