"""
Many timeouts of equal length with a single delayed call.

Items are added at the end and expire from the front, so only the oldest one needs
a delayed call. A C{callLater} for each would cost several times as much, and the
reactor's heap would grow with the number of pending requests.
"""

from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

from attrs import Factory, define, field
from msgspec import Struct
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger


class Timed(Protocol):
    """
    What has a timeout.

    @ivar since: The clock's time at which it began.
    """

    since: float


_Timed = TypeVar("_Timed", bound=Timed)
_Item = TypeVar("_Item", bound=Hashable)


@define(eq=False)
class TimedTable(Generic[_Timed]):
    """
    Calls C{expired} with each entry that was not removed within C{seconds} after
    its start.

    @ivar entries: What has a timeout, under any key, in order of time. Whoever adds
        to it calls L{arm}, and whoever removes from it calls L{relax}.
    """

    clock: IReactorTime
    seconds: float
    _expired: Callable[[_Timed], object]
    entries: dict[Hashable, _Timed] = Factory(dict)
    _call: IDelayedCall | None = None

    _log = Logger()

    def arm(self) -> None:
        """
        Have the clock call, as there is an entry.
        """
        if self._call is None:
            self._call = self.clock.callLater(self.seconds, self._expire)

    def relax(self) -> None:
        """
        Have the clock not call if no entry is left.
        """
        if not self.entries and self._call is not None:
            self._call.cancel()
            self._call = None

    def _expire(self) -> None:
        self._call = None
        now = self.clock.seconds()
        expired = []
        # First collected, then deleted: finding the first item of a dict gets slower
        # with each item that is deleted from its front.
        for key, entry in self.entries.items():
            # Rounded as the clock rounds it, whose time would stand still otherwise.
            end = entry.since + self.seconds
            if now < end:
                self._call = self.clock.callLater(end - now, self._expire)
                break
            expired.append((key, entry))
        for key, _ in expired:
            del self.entries[key]
        for _, entry in expired:
            with self._log.failureHandler("the function of a timeout failed"):
                self._expired(entry)


class _Started(Struct, Generic[_Item]):
    """
    When the timeout of an item began.
    """

    item: _Item
    since: float


@define(eq=False)
class EqualTimeouts(Generic[_Item]):
    """
    Calls C{expired} with each item that was not ended within C{seconds} after its
    start.
    """

    _clock: IReactorTime
    _seconds: float
    _expired: Callable[[_Item], object]
    _table: TimedTable[_Started[_Item]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._table = TimedTable(
            self._clock, self._seconds, lambda started: self._expired(started.item)
        )

    def start(self, item: _Item) -> None:
        """
        Start the timeout of C{item}, which must not have one yet.
        """
        table = self._table
        assert item not in table.entries
        table.entries[item] = _Started(item, self._clock.seconds())
        table.arm()

    def __len__(self) -> int:
        return len(self._table.entries)

    def end(self, item: _Item) -> bool:
        """
        End the timeout of C{item}.

        @return: Whether it had one.
        """
        found = self._table.entries.pop(item, None) is not None
        self._table.relax()
        return found

    def waiting(self) -> list[_Item]:
        """
        All items that wait, the oldest first.
        """
        return [started.item for started in self._table.entries.values()]
