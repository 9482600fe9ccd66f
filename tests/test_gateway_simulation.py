"""
Tests for L{tests.gateway_simulation}: a seed has one history, and its judge sees what
would be wrong.
"""

from collections import Counter

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.gateway_simulation import setting
from tests.gateway_simulation.running import simulate
from tests.gateway_simulation.setting import (
    FAULTS,
    HABITS,
    ONE_SHOT,
    TWO_PHASE,
    Plan,
    settingOf,
)

pytestmark = pytest.mark.proof


class SimulationTests(SynchronousTestCase):
    """
    Tests for single seeds.
    """

    def test_repeatable(self) -> None:
        """
        A seed that runs again has the same history, and another one has not.
        """
        first, again, other = (simulate(Plan(seed, 20)) for seed in (5, 5, 6))
        self.assertEqual(first.digest, again.digest)
        self.assertNotEqual(first.digest, other.digest)

    def test_sound(self) -> None:
        """
        No rule is broken in either way, although much goes wrong.
        """
        for way in (ONE_SHOT, TWO_PHASE):
            for seed in range(3):
                outcome = simulate(Plan(seed, 20, way=way))
                self.assertIsNone(outcome.violation)

    def test_drawn(self) -> None:
        """
        Each fault is in so many worlds that it happens in a few hundred of them.
        """
        drawn = Counter(
            name for seed in range(300) for name in settingOf(Plan(seed)).faults
        )
        for name in FAULTS:
            self.assertGreaterEqual(drawn[name], 20, name)

    def test_habits(self) -> None:
        """
        What a platform always does it still does when nothing goes wrong any more, and
        no rule is broken by that, or by the rest that platforms of others do.
        """
        others = frozenset({"double-request", "swapped-orders", "lose-reply", "person"})
        for way in (ONE_SHOT, TWO_PHASE):
            for habit in sorted(HABITS):
                plan = Plan(7, 40, way=way, only=others | {habit})
                outcome = simulate(plan)
                self.assertIsNone(outcome.violation)
                self.assertGreater(outcome.counts[habit], 0)

    def test_moves(self) -> None:
        """
        A token for some groups sees an account by the group that it has lately had.
        """
        only = frozenset({"account-moves", "person"})
        plans = [Plan(seed, 20, only=only) for seed in range(9)]
        moving = [plan for plan in plans if settingOf(plan).isMoving]
        outcome = simulate(moving[0])
        self.assertIsNone(outcome.violation)
        self.assertGreater(outcome.counts["account-moves"], 3)

    def test_unsound(self) -> None:
        """
        On a platform that approves twice, two phases book twice, which is why they need
        a probe.
        """
        self.patch(setting, "UNSOUND", frozenset())
        faults = frozenset({"approve-twice", "late-request"})
        for seed in range(12):
            outcome = simulate(Plan(seed, 40, way=TWO_PHASE, only=faults))
            if outcome.violation is not None and outcome.violation.rule == "once":
                return
        self.fail("nothing is booked twice")
