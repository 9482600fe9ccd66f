"""
Tests for L{tests.gateway_simulation}: a seed has one history, and its judge sees what
would be wrong.
"""

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.gateway_simulation import setting
from tests.gateway_simulation.running import simulate
from tests.gateway_simulation.setting import ONE_SHOT, TWO_PHASE, Plan

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
