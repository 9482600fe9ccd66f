"""
How a gateway is doing: for the metrics and the console.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from attrs import define
from twisted.internet.interfaces import IReactorTime

from creditsync.gateway._catchup import CatchUp
from creditsync.gateway._courses import Course
from creditsync.gateway._figures import Figures
from creditsync.gateway._intents import Alarm, Intent
from creditsync.gateway._interfaces import IUpstream
from creditsync.gateway._operations import Operations
from creditsync.gateway._states import State
from creditsync.gateway._verification import Verification, Verified

# The last alarms, and the operations that are shown one by one.
MAX_ALARMS: Final = 50
MAX_SHOWN: Final = 50

# What may need a person, or soon will: the most urgent state first.
_UNCLEAR: Final = (State.HELD, State.UNSEEN)


@define(frozen=True)
class Overview:
    """
    A gateway at one moment.

    @ivar isConnected: Whether the platform is.
    @ivar since: Seconds for which that has been so.
    @ivar problem: Why it is not connected, for people.
    @ivar figures: What the connection counts.
    @ivar overtaking: Events that came before the reply that names their order.
    @ivar states: How many operations under way are in each state that one of them is
        in, and the seconds for which the oldest of them has been under way.
    @ivar unclear: How many are held or unseen.
    @ivar shown: Some of these: those that are held first, then by age.
    @ivar alarms: How many there were since the start.
    @ivar recentAlarms: The last of them, the newest first.
    @ivar completeUpTo: The UNIX time up to which the journal has all changes.
    @ivar verified: What the last verification has found, or L{None}.
    """

    isConnected: bool
    since: float
    problem: str
    figures: Figures
    overtaking: int
    states: Mapping[State, tuple[int, float]]
    unclear: int
    shown: Sequence[Intent]
    alarms: int
    recentAlarms: Sequence[Alarm]
    completeUpTo: float
    verified: Verified | None


class Overviewed:
    """
    The part of a gateway that tells how it is doing.
    """

    operations: Operations
    catchUp: CatchUp
    verification: Verification
    _clock: IReactorTime
    _now: Callable[[], float]
    _upstream: IUpstream
    _alarms: int
    _recentAlarms: "deque[Alarm]"

    def gatewayFigures(self) -> dict[str, Any]:
        """
        What the metrics show: how many operations are C{unsettled} and C{held}, the age
        of the C{oldest} unsettled one in seconds, C{alarms} so far, whether the
        platform is C{connected}, for how many seconds the journal may be
        C{incomplete}, replies that were C{lost}, C{late} or C{doubled}, C{overtaking}
        events, events C{missed}, C{renewals} of the connection because of these, and
        the histogram of what replies C{took}.
        """
        intents = [each.intent for each in self.operations.courses]
        unsettled = [
            each for each in intents if each.isOpen and each.state is not State.HELD
        ]
        oldest = min((each.sentAt for each in unsettled), default=None)
        figures = self._upstream.figures
        return {
            "connected": int(self._upstream.isConnected),
            "unsettled": len(unsettled),
            "oldest": 0.0 if oldest is None else max(0.0, self._now() - oldest),
            "held": sum(each.state is State.HELD for each in intents),
            "alarms": self._alarms,
            "incomplete": max(0.0, self._now() - self.catchUp.completeUpTo),
            "lost": figures.lost,
            "late": figures.late,
            "doubled": figures.doubled,
            "overtaking": self.operations.overtaking,
            "missed": self.operations.listening.missed,
            "renewals": self.operations.listening.renewals,
            "took": figures.took,
        }

    def gatewayOverview(self) -> Overview:
        """
        What the console shows.
        """
        figures = self._upstream.figures
        states: dict[State, tuple[int, float]] = {}
        unclear: list[Intent] = []
        for course in self.operations.courses:
            state = course.intent.state
            count, oldest = states.get(state, (0, 0.0))
            states[state] = count + 1, max(oldest, self._age(course))
            if state in _UNCLEAR:
                unclear.append(course.intent)
        unclear.sort(key=lambda each: (_UNCLEAR.index(each.state), each.sentAt))
        return Overview(
            self._upstream.isConnected,
            self._clock.seconds() - figures.since,
            self._upstream.problem,
            figures,
            self.operations.overtaking,
            states,
            len(unclear),
            unclear[:MAX_SHOWN],
            self._alarms,
            list(reversed(self._recentAlarms)),
            self.catchUp.completeUpTo,
            self.verification.last,
        )

    def _age(self, course: Course) -> float:
        """
        Seconds since an operation was sent, or requested if it was not sent yet.
        """
        if course.intent.isOpen:
            return max(0.0, self._now() - course.intent.sentAt)
        return self._clock.seconds() - course.since
