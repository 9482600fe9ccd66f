"""
What the tests of the rules have in common: the record of a sound run, a part of which
is then changed.
"""

from collections.abc import Callable
from typing import ClassVar

from twisted.trial.unittest import SynchronousTestCase

from tests.simulation.course import Course
from tests.simulation.history import Attempt, History
from tests.simulation.running import prepared
from tests.simulation.setting import Plan, faultsOf
from tests.simulation.world import Violation, World


class RecordTestCase(SynchronousTestCase):
    """
    A test that breaks a rule in the record of a sound run.
    """

    plan: ClassVar[Plan]
    course: Course
    history: History

    def setUp(self) -> None:
        """
        Run the seed.
        """
        plan = self.plan
        world = World(plan.seed, faultsOf(plan.seed) - plan.without)
        running = prepared(world, plan)
        self.course = running.__enter__()
        self.addCleanup(running.__exit__, None, None, None)
        self.course.go()
        self.history = self.course.history
        self.assertFalse(self.history.isForeign)

    def answered(self, isIt: Callable[[Attempt], object]) -> Attempt:
        """
        The first request with an answer that meets this condition.
        """
        return next(
            each
            for talk in self.history.talks
            for each in talk.attempts
            if each.reply is not None and isIt(each)
        )

    def assertBreaks(self, rule: str) -> Violation:
        """
        Check the record again, after a part of it was changed.
        """
        violation = self.assertRaises(Violation, self.course.judge)
        self.assertEqual(violation.rule, rule)
        return violation

    def assertLedgerBreaks(self, rule: str) -> None:
        """
        Check the ledger again, from the beginning.
        """
        for intent in self.history.intents:
            intent.bookings = []
        books = self.course.newBooks()
        violation = self.assertRaises(Violation, books.check, self.course.site.storage)
        self.assertEqual(violation.rule, rule)
