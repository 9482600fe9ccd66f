"""
Many timeouts of equal length with a single delayed call.

Items are added at the end and expire from the front, so only the oldest one needs
a delayed call. A C{callLater} for each would cost several times as much, and the
reactor's heap would grow with the number of pending requests.
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
    Calls C{expired} with each item that was not ended within C{seconds} after its
    start.

    @ivar _started: The clock's time at the start of each item.
    """

    _clock: IReactorTime
    _seconds: float
    _expired: Callable[[_Item], object]
    _started: dict[_Item, float] = Factory(dict)
    _call: IDelayedCall | None = None

    _log = Logger()

    def start(self, item: _Item) -> float:
        """
        Start the timeout of C{item}, which must not have one yet.

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
        End the timeout of C{item}.

        @return: Whether it had one.
        """
        found = self._started.pop(item, None) is not None
        if not self._started and self._call is not None:
            self._call.cancel()
            self._call = None
        return found

    def waiting(self) -> list[_Item]:
        """
        All items that wait, the oldest first.
        """
        return list(self._started)

    def _expire(self) -> None:
        self._call = None
        now = self._clock.seconds()
        expired = []
        # First collected, then deleted: finding the first item of a dict gets slower
        # with each item that is deleted from its front.
        for item, started in self._started.items():
            left = started + self._seconds - now
            if left > 0:
                self._call = self._clock.callLater(left, self._expire)
                break
            expired.append(item)
        for item in expired:
            del self._started[item]
        for item in expired:
            with self._log.failureHandler("the function of a timeout failed"):
                self._expired(item)
