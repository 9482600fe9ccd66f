"""
Hands trade events to an observer, one after the other.

As long as the observer keeps up, it is called as soon as an event arrives. If it
is slow, events queue: while a Deferred that it returned is pending, and once it has
used up its share of the reactor's turn, so that replies don't have to wait for it.
"""

from collections import deque
from collections.abc import Callable
from inspect import iscoroutine
from typing import Any, TypeAlias

from attrs import Factory, define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from creditsync._client.cursors import cursorOf
from creditsync._client.outcomes import Data

# Called with the type of a trade event, one of the EV_RECORD_* codes, and its
# data. If it returns a Deferred or a coroutine, the next event waits for its end.
Observer: TypeAlias = Callable[[int, Data], object]

# Seconds that the observer may take before the reactor gets its turn.
SHARE = 0.01
# How many events may wait for the observer; more are fetched again later.
MAX_WAITING = 4096

_log = Logger("creditsync.client")


@define(eq=False)
class Deliveries:
    """
    The events for one observer.

    @ivar _drained: Called when no event is left.
    @ivar ended: Fails with the reason when the events end.
    @ivar cursor: The cursor of the last event that the observer is done with, or
        the place where the events begin.
    @ivar given: That of the last event that it was called with.
    @ivar isOver: Whether no further event is to come.
    """

    _clock: IReactorTime
    _observer: Observer
    _drained: Callable[[], object]
    ended: "Deferred[None]"
    cursor: str | None
    given: str | None = None
    isOver: bool = False
    _error: Exception | None = None
    _waiting: deque[tuple[int, Data]] = Factory(deque)
    _isBusy: bool = False
    _isDelivering: bool = False
    _spent: float = 0.0
    _turn: IDelayedCall | None = None

    def __attrs_post_init__(self) -> None:
        self.given = self.cursor

    @property
    def isFull(self) -> bool:
        """
        Whether enough events are waiting.
        """
        return len(self._waiting) >= MAX_WAITING

    def beginAt(self, cursor: str) -> None:
        """
        The events begin behind this place.
        """
        self.cursor = self.given = cursor

    def add(self, type: int, data: Data) -> None:
        """
        Hand over an event after those that wait.
        """
        self._waiting.append((type, data))
        self._deliver()

    def end(self, error: Exception) -> None:
        """
        No further event will come, for this reason. The observer still gets those
        that wait.
        """
        self._error = error
        self._deliver()

    def drop(self) -> None:
        """
        Forget the events that wait.
        """
        self._waiting.clear()
        if self._turn is not None:
            self._turn.cancel()
        self._endTurn()

    def _deliver(self) -> None:
        # An observer may cause further calls, before it returns.
        if self._isDelivering:
            return
        self._isDelivering = True
        while self._waiting and not self._isBusy and self._spent <= SHARE:
            self._give(*self._waiting.popleft())
        self._isDelivering = False
        if self._waiting or self._isBusy:
            return
        if self._error is not None:
            error, self._error = self._error, None
            self.ended.errback(error)
        else:
            self._drained()

    def _give(self, type: int, data: Data) -> None:
        self._isBusy = True
        self.given = cursorOf(data)
        result: object = None
        start = self._clock.seconds()
        with _log.failureHandler("the observer of trade events failed"):
            result = self._observer(type, data)
        self._spend(self._clock.seconds() - start)
        if iscoroutine(result):
            result = Deferred.fromCoroutine(result)
        if isinstance(result, Deferred):
            result.addErrback(_logFailure).addCallback(self._isDone)
        else:
            self._isDone(None)

    def _isDone(self, _: Any) -> None:
        """
        The observer is done with the last event.
        """
        self._isBusy = False
        self.cursor = self.given
        self._deliver()

    def _spend(self, seconds: float) -> None:
        if seconds > 0:
            self._spent += seconds
            if self._turn is None:
                self._turn = self._clock.callLater(0, self._endTurn)

    def _endTurn(self) -> None:
        self._turn = None
        self._spent = 0.0
        self._deliver()


def _logFailure(failure: Failure) -> None:
    _log.failure("the observer of trade events failed", failure)
