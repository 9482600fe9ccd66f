"""
Waits that all last equally long, behind one delayed call.

Items enter at the end and expire from the front, so that only the oldest
needs the clock. One C{callLater} for each would cost several times as much
and a heap that grows with what is outstanding.
"""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from attrs import Factory, define
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

_Item = TypeVar("_Item")


@define(eq=False)
class EqualTimeouts(Generic[_Item]):
    """
    Calls C{expired} with each item that was not ended C{seconds} after it
    was started.

    @ivar _started: The clock's time at which each began to wait.
    """

    _clock: IReactorTime
    _seconds: float
    _expired: Callable[[_Item], object]
    _started: dict[_Item, float] = Factory(dict)
    _call: IDelayedCall | None = None

    _log = Logger()

    def start(self, item: _Item) -> float:
        """
        Let C{item}, which is not waiting yet, wait from now on.

        @return: The clock's time.
        """
        assert item not in self._started
        now = self._started[item] = self._clock.seconds()
        if self._call is None:
            self._call = self._clock.callLater(self._seconds, self._expire)
        return now

    def __len__(self) -> int:
        return len(self._started)

    def __iter__(self) -> Iterator[_Item]:
        return iter(self._started)

    def __contains__(self, item: _Item) -> bool:
        return item in self._started

    def end(self, item: _Item) -> bool:
        """
        Let C{item} wait no longer.

        @return: Whether it was waiting.
        """
        waited = self._started.pop(item, None) is not None
        if not self._started and self._call is not None:
            self._call.cancel()
            self._call = None
        return waited

    def waiting(self) -> list[_Item]:
        """
        All that wait, the longest waiting first.
        """
        return list(self._started)

    def _expire(self) -> None:
        self._call = None
        now = self._clock.seconds()
        expired = []
        # One pass: a dict is slow to give its first item again and again
        # while items are taken from its front.
        for item, started in self._started.items():
            left = started + self._seconds - now
            if left > 0:
                self._call = self._clock.callLater(left, self._expire)
                break
            expired.append(item)
        for item in expired:
            del self._started[item]
        for item in expired:
            with self._log.failureHandler("what a timeout calls has failed"):
                self._expired(item)
