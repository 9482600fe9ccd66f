"""
Mistakes that are planted into the gateway on purpose, each of which a test or the model
has to find.

A judge that has never found anything proves nothing.
"""

import gc
import unittest
from collections.abc import Callable, Iterable

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests import test_gateway_runtime, test_gateway_twophase
from tests.gatewaymodel import violations
from tests.planted import gateway
from tests.planted.gateway import Patch

pytestmark = pytest.mark.proof


def _model() -> bool:
    """
    Whether the model finds something.
    """
    return next(violations(range(400)), None) is not None


def _test(case: type[unittest.TestCase], name: str) -> Callable[[], bool]:
    """
    What tells whether a test finds something.
    """

    def finds() -> bool:
        result = unittest.TestResult()
        case(name).run(result)
        return not result.wasSuccessful()

    return finds


# What each does, and what has to find it.
BUGS: dict[str, tuple[Callable[[], Iterable[Patch]], Callable[[], bool]]] = {
    "sent before it is durable": (gateway.sentBeforeDurable, _model),
    "sent again on silence": (gateway.resentOnSilence, _model),
    "matched by the type of an event": (gateway.matchedByType, _model),
    "an event that overtakes is dropped": (gateway.overtakingEventDropped, _model),
    "absent is taken for never": (gateway.absentTakenForNever, _model),
    "a failed look-up is taken for absence": (
        gateway.absenceOfCommand,
        _test(test_gateway_runtime.ChangeTests, "test_lookRefused"),
    ),
    "the sweep declines the chosen one": (
        gateway.chosenDeclined,
        _test(test_gateway_twophase.TwoPhaseTests, "test_sweepSparesTheChosen"),
    ),
    "approved before the choice is durable": (gateway.approvedBeforeChosen, _model),
    "made again after a person has approved it": (
        gateway.personNotSeen,
        _test(test_gateway_twophase.TwoPhaseTests, "test_approvedByAPerson"),
    ),
    "catch-up by offset": (
        gateway.catchUpByOffset,
        _test(test_gateway_runtime.CatchUpTests, "test_changeBetweenPages"),
    ),
    "an event moves the mark during a gap": (
        gateway.eventAdvancesMark,
        _test(test_gateway_runtime.CatchUpTests, "test_eventBeforeCatchUp"),
    ),
}


class PlantedTests(SynchronousTestCase):
    """
    Each mistake is found.
    """


def _found(name: str) -> Callable[[SynchronousTestCase], None]:
    def test(self: SynchronousTestCase) -> None:
        plant, finds = BUGS[name]
        for owner, attribute, value in plant():
            self.patch(owner, attribute, value)
        found = finds()
        # With a mistake, the gateway may fail in other ways too.
        gc.collect()
        self.flushLoggedErrors()
        self.assertTrue(found)

    test.__doc__ = f"Found: {name}."
    return test


for number, name in enumerate(BUGS):
    setattr(PlantedTests, f"test_{number}", _found(name))
