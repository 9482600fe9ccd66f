"""
The changes of the time without a connection.

They are read from the platform's look-ups by C{(update_time, order)}: a page goes on
behind the last row of the one before it. An offset would skip a row for each one that
leaves the pages read so far because it changed again.

Where it begins is the mark: the greatest C{update_time} up to which the journal has all
changes, less a margin for clocks and for what was on its way. The mark is durable, and
only the end of a catch-up moves it: an event proves nothing about those before it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from creditsync.gateway._interfaces import IUpstream
from creditsync.gateway._journal import Journal
from creditsync.gateway._looking import page
from creditsync.gateway._records import (
    Unread,
    changeOf,
    isInMilliseconds,
    secondsOf,
    tradeOf,
)
from creditsync.records import Trade

# Seconds before the mark from which changes are read again.
MARGIN: Final = 120

# The same while the connection lives: only an event that was lost is looked for then,
# and at hundreds of bookings a second two minutes are many pages. It is more than the
# time between two catch-ups, so that each change is read once more when its second is
# over.
SHORT_MARGIN: Final = 60

# Seconds after the first failure until people are told that catch-ups fail.
LATE: Final = 300

_log = Logger()


class CatchUp:
    """
    Completes the journal.

    @ivar isComplete: Whether it has ended since the connection was made.
    @ivar completeUpTo: When the last one began that has ended: up to then the journal
        has all changes. Before the first it is the mark that was found at the start.
    """

    def __init__(
        self,
        upstream: IUpstream,
        journal: Journal,
        seen: Callable[[Trade | Unread], None],
        now: Callable[[], float],
        oldestKept: Callable[[], int | None],
    ) -> None:
        """
        @param seen: Called with each record, also with those that can't be taken.
        @param oldestKept: The time of the oldest change that was seen and is not in the
            journal yet, or L{None}.
        """
        self._upstream = upstream
        self._journal = journal
        self._seen = seen
        self._now = now
        self._oldestKept = oldestKept
        self.isComplete = False
        self.completeUpTo = 0.0
        # When the first of the catch-ups was begun that have failed since the last one
        # that has not.
        self._failsSince: float | None = None
        self._problem = ""
        self._isTold = False
        self._isRunning = False
        self._hasStopped = False
        # How often the stream was interrupted.
        self._gaps = 0

    def interrupted(self) -> None:
        """
        From now on changes may be missed.
        """
        self.isComplete = False
        self._gaps += 1

    def start(self, margin: int = MARGIN) -> None:
        """
        Read the changes since the mark, unless that is just being done.

        @param margin: Seconds before the mark from which they are read again.
        """
        if not self._isRunning and self._upstream.isConnected:
            self._isRunning = True
            began = self._now()
            self._problem = ""
            done = Deferred.fromCoroutine(self._read(self._gaps, margin))
            done.addErrback(self._failed)
            done.addCallback(self._judge, began)
            done.addBoth(self._ended, self._gaps)

    def _failed(self, why: Failure) -> bool:
        _log.failure("a catch-up failed", why)
        self._problem = "a fault of the gateway"
        return False

    def _judge(self, isComplete: bool, began: float) -> None:
        """
        Tell people, once, if none has ended for a long time: without an event that
        comes, nobody would notice what the journal lacks.
        """
        if isComplete:
            self.completeUpTo = max(self.completeUpTo, began)
            if self._isTold:
                _log.info("the changes at the platform can be read again")
            self._failsSince, self._isTold = None, False
            return
        if self._failsSince is None:
            self._failsSince = began
        late = self._now() - self._failsSince
        if late >= LATE and not self._isTold:
            self._isTold = True
            self._journal.alarm(
                f"the changes at the platform could not be read for {late:.0f} seconds:"
                f" {self._problem or 'the connection was lost each time'}; changes"
                " without an event are missed meanwhile"
            )

    def _ended(self, _: object, gaps: int) -> None:
        self._isRunning = False
        if gaps != self._gaps:
            # The stream was interrupted meanwhile.
            self.start()

    async def _read(self, gaps: int, margin: int) -> bool:
        """
        @return: Whether all was read.
        """
        greatest = self._journal.mark or int(self._now())
        since = max(0, greatest - margin)
        where = self._since(since)
        while True:
            rows = await page(self._upstream, where)
            if isinstance(rows, str):
                self._problem = rows
                return False
            if gaps != self._gaps:
                return False
            if not rows and len(where) == 1:
                break
            if self._journal.scale != 1000 and any(map(isInMilliseconds, rows)):
                self._journal.scale = 1000
                where = self._since(since)
                continue
            if rows and self._journal.scale is None:
                self._journal.scale = 1
            following = _following(rows, where)
            if following is None:
                self._stop(where)
                return False
            where = following
            for row in rows:
                trade = tradeOf(row)
                greatest = max(greatest, trade.timestamp)
                self._seen(trade)
        self.isComplete = True
        self._advance(greatest)
        return True

    def _since(self, time: int) -> list[list[Any]]:
        return [["update_time", ">=", time * (self._journal.scale or 1)]]

    def _stop(self, where: list[list[Any]]) -> None:
        self._problem = "a look-up gives other trades than asked for"
        if not self._hasStopped:
            self._hasStopped = True
            self._journal.alarm(
                "what changes without a connection is missed: a look-up of the platform"
                f" gives other trades than asked for, or in another order: {where}"
            )

    def _advance(self, greatest: int) -> None:
        # What is only in memory would be lost in a crash.
        kept = self._oldestKept()
        end = greatest if kept is None else min(greatest, kept)
        # One record with a time to come would hide what changes until then.
        end = min(end, int(self._now()))
        if end > self._journal.mark:
            self._journal.mark = end
            self._journal.touch()


def _following(
    rows: Sequence[Mapping[str, Any]], where: list[list[Any]]
) -> list[list[Any]] | None:
    """
    The conditions of the next page: the rest of the moment in which this one has ended,
    and when that is over what is after it.

    A page with fewer rows than were asked for need not be the last one, as a platform
    may give fewer at a time. Only an empty one is the end.

    @return: L{None} if the page is not what its conditions ask for.
    """
    _, operator, last = where[0]
    if not rows:
        return [["update_time", ">", last]]
    place = (last, 0)
    if operator == "==":
        place = (last, where[1][2])
    for row in rows:
        order, changed = row.get("order"), changeOf(row)
        if type(order) is not int or secondsOf(changed) is None:
            return None
        isNext = (changed, order) > place
        if not isNext or (operator == "==" and changed != last):
            return None
        if operator == ">" and changed == last:
            return None
        place = changed, order
    return [["update_time", "==", place[0]], ["order", ">", place[1]]]
