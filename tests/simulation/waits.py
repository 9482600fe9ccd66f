"""
The rules of waiting on a foreign runtime (C{docs/protocol.rst}, "Event matching"):
which request gets which event.

An event that is marked with its operation answers the request of that
operation; one without a mark answers the request that has waited longest for
an event of its order and type.
"""

from attrs import define

from creditsync.records import Operation
from tests.family import eventData
from tests.simulation.foreign import ForeignRuntime
from tests.simulation.history import (
    Attempt,
    History,
    Intent,
    Moment,
    Publication,
)
from tests.simulation.world import Violation

_TIMEOUT = 5.0


@define(eq=False)
class _Wait:
    """
    A request that waits for its event.
    """

    attempt: Attempt
    operation: object
    type: int
    begin: Moment
    end: Moment
    event: Publication | None = None


@define(eq=False)
class Waits:
    """
    The pending requests and what each waits for.
    """

    _history: History
    _runtime: ForeignRuntime

    def check(self) -> None:
        """
        Assign each event to its request, and check that the request got it.
        """
        waits = self._waits()
        for event in self._history.publications:
            wait = self._answered(waits.get(event.data.order, []), event)
            if wait is not None:
                wait.event = event
        for sameOrder in waits.values():
            # For a connection that was held up it is unknown when its waits
            # began and ended.
            if not any(_isHeldUp(each) for each in sameOrder):
                for wait in sameOrder:
                    self._judge(wait)

    def _waits(self) -> dict[int, list[_Wait]]:
        """
        All waits, by order, with the longest first.
        """
        waits: dict[int, list[_Wait]] = {}
        deletions: dict[int, list[Intent]] = {}
        for intent in self._history.intents:
            if intent.isDelete:
                deletions.setdefault(intent.data["order"], []).append(intent)
        for operation, (begin, type, order) in self._runtime.reserved.items():
            if isinstance(operation, Operation):
                # What nobody has asked for is judged where the bookings are.
                maker = self._history.makerOf(operation.comment)
                asked = [] if maker is None else [maker]
            else:
                asked = deletions[order]
            # If several requests delete an order it is unknown which one did.
            if len(asked) != 1 or not asked[0].isSync:
                continue
            [intent] = asked
            attempt = intent.attempts[0]
            assert attempt.delivered is not None
            end = min((attempt.delivered[0] + _TIMEOUT, 0), attempt.talk.closed)
            wait = _Wait(attempt, operation, type, begin, end)
            waits.setdefault(order, []).append(wait)
        return waits

    def _answered(self, waits: list[_Wait], event: Publication) -> _Wait | None:
        """
        The requests that an event answers.
        """
        for wait in waits:
            isWaiting = wait.begin <= event.at < wait.end
            isItsOwn = event.operation in (None, wait.operation)
            if (
                wait.event is None
                and wait.type == event.type
                and isWaiting
                and isItsOwn
                and wait.attempt.talk.generation == event.generation
            ):
                return wait
        return None

    def _judge(self, wait: _Wait) -> None:
        attempt, event = wait.attempt, wait.event
        reply = attempt.reply
        if reply is None:
            return
        about = (attempt.extID, attempt.talk.name)
        if reply.status == 200 and event is None:
            raise Violation("own-event", f"no event for {reply.raw!r}", about)
        if event is None:
            return
        generation = self._history.generations[attempt.talk.generation]
        if reply.status != 200 and event.at[0] >= generation.stopping:
            return
        if reply.status != 200:
            raise Violation(
                "own-event", f"{event.data} was its event: {reply.raw!r}", about
            )
        if reply.value["data"] != eventData(event.data) or (
            event.dataText not in (None, reply.dataText)
        ):
            raise Violation(
                "own-event", f"{reply.raw!r} has another's event: {event.data}", about
            )


def _isHeldUp(wait: _Wait) -> bool:
    attempt = wait.attempt
    assert attempt.delivered is not None
    return attempt.talk.wasHeldUp(attempt.delivered[0], wait.end[0])
