"""
Tests for the gateway in worlds in which everything can go wrong, and for the judge.
"""

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.gatewaymodel import World, violations

pytestmark = pytest.mark.proof


class ModelTests(SynchronousTestCase):
    """
    Tests for L{tests.gatewaymodel}.
    """

    def test_sound(self) -> None:
        """
        In no world is a request booked twice, a client told something wrong, a change
        missed, or an operation held without a cause.
        """
        self.assertEqual(list(violations(range(100))), [])

    def test_somethingHappens(self) -> None:
        """
        In the worlds there are bookings, refusals, operations that are held, and
        clients that never learn anything.
        """
        booked = held = 0
        answers = set()
        for seed in range(60):
            world = World(seed)
            world.run(150)
            booked += len(world.platform.applied)
            held += len(world.log.unfinished())
            answers |= {a.answer for each in world.requests for a in each.attempts}
        self.assertGreater(booked, 100)
        self.assertGreater(held, 5)
        self.assertEqual(answers, {"booked", "refused", "unknown", "lost"})
