"""
Mistakes that anyone could make in the gateway in good faith, as what each replaces.
"""

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred, succeed

from creditsync.gateway import _catchup, _looking, _twophase
from creditsync.gateway._courses import Course
from creditsync.gateway._journal import Journal
from creditsync.gateway._looking import FINANCE
from creditsync.gateway._operations import Operations
from creditsync.gateway._outcomes import Kind, Outcome
from creditsync.gateway._records import rowsOf, tradeOf
from creditsync.gateway._runtime import GatewayRuntime
from creditsync.gateway._seeing import Seeing
from creditsync.gateway._states import State
from creditsync.gateway._twophase import TwoPhases
from creditsync.records import Trade

# An owner, the name of what is replaced there, and what it is replaced by.
Patch = tuple[Any, str, Any]


def sentBeforeDurable() -> Iterable[Patch]:
    keep = Journal.keep

    def keepSoon(self: Journal, intent: Any) -> "Deferred[None]":
        keep(self, intent)
        return succeed(None)

    yield Journal, "keep", keepSoon


def resentOnSilence() -> Iterable[Patch]:
    replied = Operations.replied

    async def sendAgain(self: Operations, course: Course, outcome: Outcome) -> None:
        if outcome.kind is Kind.UNKNOWN and course.intent.attempts < 3:
            await self.send(course)
        else:
            await replied(self, course, outcome)

    yield Operations, "replied", sendAgain


def matchedByType() -> Iterable[Patch]:
    received = GatewayRuntime.eventReceived

    def takeAddition(self: GatewayRuntime, type: int, data: Any) -> None:
        received(self, type, {**data, "state": 3} if type == 0 else data)

    yield GatewayRuntime, "eventReceived", takeAddition


def overtakingEventDropped() -> Iterable[Patch]:
    yield Seeing, "_keep", lambda self, course, trade: None


def absentTakenForNever() -> Iterable[Patch]:
    def never(self: Operations, course: Course, why: str) -> None:
        course.intent.state = State.REFUSED
        self._journal.keep(course.intent)
        self._end(course)

    yield Seeing, "_unseen", never


def absenceOfCommand() -> Iterable[Patch]:
    yield _looking, "isAbsence", lambda outcome: outcome.kind is not Kind.DONE


def chosenDeclined() -> Iterable[Patch]:
    isLeftover = TwoPhases._isLeftover

    def isOurs(self: TwoPhases, trade: Trade) -> bool:
        isChosen = self.courses.withOrder(trade.order) is not None
        return isChosen or isLeftover(self, trade)

    yield TwoPhases, "_isLeftover", isOurs


def approvedBeforeChosen() -> Iterable[Patch]:
    choose = TwoPhases._choose

    async def chooseSoon(self: TwoPhases, course: Course, order: int) -> None:
        course.intent.order = order
        await self._approve(course)
        if course.intent.isOpen and course.intent.state is State.SENT:
            await choose(self, course, order)

    yield TwoPhases, "_choose", chooseSoon


def personNotSeen() -> Iterable[Patch]:
    # A person may have approved a finance request in each of these states.
    yield _twophase, "UNAPPROVED", range(100)


def catchUpByOffset() -> Iterable[Patch]:
    async def read(self: _catchup.CatchUp, gaps: int, margin: int) -> None:
        greatest, offset = self._journal.mark, 0
        since = max(0, greatest - margin)
        while True:
            outcome = await self._upstream.request(
                "MngGetTradesByFilter",
                {
                    "tradeType": FINANCE,
                    "where": [["update_time", ">=", since]],
                    "orderBy": [["update_time", "asc"], ["order", "asc"]],
                    "limit": _looking.PAGE,
                    "offset": offset,
                },
            )
            if outcome.kind is not Kind.DONE or gaps != self._gaps:
                return
            page = [tradeOf(row) for row in rowsOf(outcome.data)]
            for trade in page:
                if trade is not None:
                    greatest = max(greatest, trade.timestamp)
                    self._seen(trade)
            if len(page) < _looking.PAGE:
                break
            offset += len(page)
        self.isComplete = True
        self._advance(greatest)

    yield _catchup.CatchUp, "_read", read


def eventAdvancesMark() -> Iterable[Patch]:
    received = GatewayRuntime.eventReceived

    def advance(self: GatewayRuntime, type: int, data: Any) -> None:
        received(self, type, data)
        self.journal.mark = max(self.journal.mark, data["timestamp"])

    yield GatewayRuntime, "eventReceived", advance


def planting(mistake: Callable[[], Iterable[Patch]]) -> Callable[[], None]:
    """
    What plants a mistake for good.
    """

    def plant() -> None:
        for owner, name, value in mistake():
            setattr(owner, name, value)

    return plant
