"""
Whether the platform still sends events.

A connection may answer every request while its events have stopped: some platforms take
a token as expired for events alone. Nothing tells, except that look-ups show changes
whose event does not come.
"""

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from creditsync.gateway._interfaces import IUpstream
from creditsync.gateway._records import MAX_APART
from creditsync.records import Trade

# Seconds after a look-up has shown a change within which its event may come.
GRACE: Final = 10

# Checks in a row that find changes whose event has not come, nor any later event, until
# the gateway connects again. They are twice as many each time that this did not help:
# the platform may send no events at all.
_FIRST: Final = 2
_MOST: Final = 64

_log = Logger()


class Listening:
    """
    Compares what is shown with what is heard.

    @ivar missed: Changes whose event did not come.
    @ivar renewals: How often the gateway has connected again for that.
    """

    def __init__(
        self,
        clock: IReactorTime,
        now: Callable[[], float],
        upstream: IUpstream,
        alarm: Callable[[str], object],
    ) -> None:
        """
        @param alarm: Called with what a person should know.
        """
        self._clock = clock
        self._now = now
        self._upstream = upstream
        self._alarm = alarm
        self.missed = self.renewals = 0
        self._since = 0.0
        # When a look-up has shown the changes of these orders, and when they were made.
        self._awaited: dict[int, tuple[float, int]] = {}
        self._heardAt = 0.0
        self._silent = 0
        self._allowed = _FIRST

    def connected(self) -> None:
        """
        From now on events come, or should.
        """
        self._since = self._now()
        self._silent = 0
        self._awaited.clear()

    def heard(self, order: object) -> None:
        """
        A trade event has come.
        """
        self._silent, self._allowed = 0, _FIRST
        self._heardAt = self._now()
        if isinstance(order, int):
            self._awaited.pop(order, None)

    def shown(self, trade: Trade) -> None:
        """
        A look-up shows a change of which no event has come yet. There need not be one
        if it was made before the connection.
        """
        if trade.timestamp > self._since + MAX_APART:
            at = self._clock.seconds(), trade.timestamp
            self._awaited.setdefault(trade.order, at)

    def check(self) -> None:
        """
        Find out whether events have stopped.
        """
        latest = self._clock.seconds() - GRACE
        due = [order for order, at in self._awaited.items() if at[0] <= latest]
        made = [self._awaited.pop(order)[1] for order in due]
        self.missed += len(due)
        self._silent += any(time > self._heardAt for time in made)
        if self._silent < self._allowed or not self._upstream.isConnected:
            return
        self._silent = 0
        if self._allowed > _FIRST:
            self._tell()
        self._allowed = min(2 * self._allowed, _MOST)
        self.renewals += 1
        self._upstream.renew("the platform does not send events any more")

    def _tell(self) -> None:
        text = "the platform sends no events, even on a new connection"
        if self._allowed == 2 * _FIRST:
            self._alarm(f"{text}: look at the rights of the gateway's token")
        else:
            _log.warn("{text}", text=text)
