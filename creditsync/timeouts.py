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
    """

    _clock: IReactorTime
    _seconds: float
    _expired: Callable[[_Item], object]
    _due: dict[_Item, float] = Factory(dict)
    _call: IDelayedCall | None = None

    _log = Logger()

    def start(self, item: _Item) -> float:
        """
        Let C{item}, which is not waiting yet, wait from now on.

        @return: The clock's time.
        """
        assert item not in self._due
        now = self._clock.seconds()
        self._due[item] = now + self._seconds
        if self._call is None:
            self._call = self._clock.callLater(self._seconds, self._expire)
        return now

    def __len__(self) -> int:
        return len(self._due)

    def __iter__(self) -> Iterator[_Item]:
        return iter(self._due)

    def __contains__(self, item: _Item) -> bool:
        return item in self._due

    def end(self, item: _Item) -> bool:
        """
        Let C{item} wait no longer.

        @return: Whether it was waiting.
        """
        waited = self._due.pop(item, None) is not None
        if not self._due and self._call is not None:
            self._call.cancel()
            self._call = None
        return waited

    def waiting(self) -> list[_Item]:
        """
        All that wait, the longest waiting first.
        """
        return list(self._due)

    def _expire(self) -> None:
        self._call = None
        now = self._clock.seconds()
        expired = []
        # One pass: a dict is slow to give its first item again and again
        # while items are taken from its front.
        for item, due in self._due.items():
            if due > now:
                self._call = self._clock.callLater(due - now, self._expire)
                break
            expired.append(item)
        for item in expired:
            del self._due[item]
        for item in expired:
            with self._log.failureHandler("what a timeout calls has failed"):
                self._expired(item)
