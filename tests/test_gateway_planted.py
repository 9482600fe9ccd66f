"""
Mistakes that are planted into the gateway on purpose, each of which a test or the model
has to find.

A judge that has never found anything proves nothing.
"""

import gc
import unittest
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from creditsync.gateway import _catchup
from creditsync.gateway._courses import Course
from creditsync.gateway._journal import Journal
from creditsync.gateway._looking import search
from creditsync.gateway._operations import Operations
from creditsync.gateway._outcomes import Kind, Outcome
from creditsync.gateway._runtime import GatewayRuntime
from creditsync.gateway._seeing import Seeing
from creditsync.gateway._states import State
from creditsync.gateway._twophase import TwoPhases
from creditsync.records import Trade
from tests import test_gateway_runtime, test_gateway_twophase
from tests.gatewaymodel import violations

Patch = tuple[Any, str, Any]


def _sentBeforeDurable() -> Iterable[Patch]:
    keep = Journal.keep

    def keepSoon(self: Journal, intent: Any) -> "Deferred[None]":
        keep(self, intent)
        return succeed(None)

    yield Journal, "keep", keepSoon


def _resentOnSilence() -> Iterable[Patch]:
    replied = Operations.replied

    async def sendAgain(self: Operations, course: Course, outcome: Outcome) -> None:
        if outcome.kind is Kind.UNKNOWN and course.intent.attempts < 3:
            await self.send(course)
        else:
            await replied(self, course, outcome)

    yield Operations, "replied", sendAgain


def _matchedByType() -> Iterable[Patch]:
    received = GatewayRuntime.eventReceived

    def takeAddition(self: GatewayRuntime, type: int, data: Any) -> None:
        received(self, type, {**data, "state": 3} if type == 0 else data)

    yield GatewayRuntime, "eventReceived", takeAddition


def _overtakingEventDropped() -> Iterable[Patch]:
    yield Seeing, "_keep", lambda self, course, trade: None


def _absentTakenForNever() -> Iterable[Patch]:
    def never(self: Operations, course: Course, why: str) -> None:
        course.intent.state = State.REFUSED
        self._journal.keep(course.intent)
        self._end(course)

    yield Seeing, "_unseen", never


def _absenceOfCommand() -> Iterable[Patch]:
    from creditsync.gateway import _looking

    yield _looking, "isAbsence", lambda outcome: outcome.kind is not Kind.DONE


def _chosenDeclined() -> Iterable[Patch]:
    def isLeftover(self: TwoPhases, trade: Trade) -> bool:
        return True

    yield TwoPhases, "_isLeftover", isLeftover


def _approvedBeforeChosen() -> Iterable[Patch]:
    choose = TwoPhases._choose

    async def chooseSoon(self: TwoPhases, course: Course, order: int) -> None:
        course.intent.order = order
        await self._approve(course)
        if course.intent.isOpen and course.intent.state is State.SENT:
            await choose(self, course, order)

    yield TwoPhases, "_choose", chooseSoon


def _catchUpByOffset() -> Iterable[Patch]:
    async def read(self: _catchup.CatchUp, gaps: int, margin: int) -> None:
        since, offset = self._journal.mark or int(self._now()), 0
        where = [["update_time", ">=", max(0, since - margin)]]
        while True:
            every: list[Trade | None] = []
            page = await search(self._upstream, where)
            if page is None:
                return
            # The platform of the tests knows no offset, so the rows are skipped here.
            last = [trade for trade in page if trade][-1:]
            if offset:
                more = await search(
                    self._upstream, [["update_time", ">", last[0].timestamp]]
                )
                every = list(more or ())
            for trade in every or page:
                if trade is not None:
                    self._seen(trade)
            if offset or len(page) < _catchup.PAGE:
                break
            offset += len(page)
        self.isComplete = True

    yield _catchup.CatchUp, "_read", read


def _eventAdvancesMark() -> Iterable[Patch]:
    received = GatewayRuntime.eventReceived

    def advance(self: GatewayRuntime, type: int, data: Any) -> None:
        received(self, type, data)
        self.journal.mark = max(self.journal.mark, data["timestamp"])

    yield GatewayRuntime, "eventReceived", advance


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
    "sent before it is durable": (_sentBeforeDurable, _model),
    "sent again on silence": (_resentOnSilence, _model),
    "matched by the type of an event": (_matchedByType, _model),
    "an event that overtakes is dropped": (_overtakingEventDropped, _model),
    "absent is taken for never": (_absentTakenForNever, _model),
    "a failed look-up is taken for absence": (
        _absenceOfCommand,
        _test(test_gateway_runtime.ChangeTests, "test_lookRefused"),
    ),
    "the sweep declines the chosen one": (
        _chosenDeclined,
        _test(test_gateway_twophase.TwoPhaseTests, "test_sweepSparesTheChosen"),
    ),
    "approved before the choice is durable": (_approvedBeforeChosen, _model),
    "catch-up by offset": (
        _catchUpByOffset,
        _test(test_gateway_runtime.CatchUpTests, "test_changeBetweenPages"),
    ),
    "an event moves the mark during a gap": (
        _eventAdvancesMark,
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
