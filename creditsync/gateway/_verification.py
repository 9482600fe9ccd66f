"""
Looking again at what was booked.

A platform may lose in a crash what it has reported as booked, or be restored from a
backup. The gateway can't repair that, and never books anew: it tells people.
"""

from collections.abc import Callable
from typing import Final

from attrs import Factory, define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from creditsync.codes import TS_DELETED
from creditsync.gateway._foreign import FINAL
from creditsync.gateway._intents import IIntentLog
from creditsync.gateway._interfaces import IUpstream
from creditsync.gateway._journal import Journal
from creditsync.gateway._looking import lookAt
from creditsync.gateway._seeing import SETTLED

# The operations booked last that are looked at.
LAST: Final = 100

_log = Logger()


@define
class Verified:
    """
    What a verification has found.

    @ivar time: When it began, in UNIX seconds.
    @ivar looked: How many operations it has looked at.
    @ivar findings: What differs, one sentence for each order.
    """

    time: int
    looked: int = 0
    findings: list[str] = Factory(list)


class Verification:
    """
    Compares what was booked last with the platform.

    @ivar last: What the last one has found that was not interrupted, or L{None}.
    """

    def __init__(
        self,
        clock: IReactorTime,
        upstream: IUpstream,
        log: IIntentLog,
        journal: Journal,
        alarm: Callable[[str], object],
        now: Callable[[], float],
        isUnderWay: Callable[[int], bool],
    ) -> None:
        """
        @param isUnderWay: Whether an operation on an order is not final: what is looked
            up may be what it does.
        """
        self._clock = clock
        self._upstream = upstream
        self._intents = log
        self._journal = journal
        self._alarm = alarm
        self._now = now
        self._isUnderWay = isUnderWay
        self._isRunning = False
        self.last: Verified | None = None
        # Of each order an alarm is given once.
        self._told: set[int] = set()

    def start(self) -> None:
        """
        Look at the operations booked last, unless that is just being done.
        """
        if not self._isRunning and self._upstream.isConnected:
            self._isRunning = True
            done = Deferred.fromCoroutine(self._verify())
            done.addErrback(lambda why: _log.failure("the verification failed", why))
            done.addBoth(self._ended)

    def _ended(self, _: object) -> None:
        self._isRunning = False

    async def _verify(self) -> None:
        verified = Verified(int(self._now()))
        for intent in self._intents.lastBooked(LAST):
            order = intent.order
            look = await lookAt(self._upstream, order)
            isFinal = look.trade is not None and look.trade.state in FINAL
            if look.isKnown and not isFinal and self._isFresh(order):
                # Look-ups may lag behind events.
                await deferLater(self._clock, SETTLED)
                look = await lookAt(self._upstream, order)
            if not look.isKnown:
                return
            verified.looked += 1
            trade = look.trade
            if self._isUnderWay(order):
                continue
            isShown = trade is not None or look.isOther or look.unread
            if not isShown and self._isDeleted(order):
                # Some platforms don't show what is deleted.
                continue
            if look.unread:
                self._tell(
                    verified,
                    order,
                    f"has a record there that is not kept: {look.unread}",
                )
            elif trade is None or trade.state not in FINAL:
                self._tell(verified, order, "is not booked there any more")
            elif trade.timestamp + SETTLED >= self._now():
                # Its event may still come.
                continue
            elif self._journal.isChange(trade):
                self._tell(verified, order, "was changed there without an event")
                self._journal.book(trade)
            elif self._journal.tags.plain(trade) != self._journal.current(order):
                self._tell(verified, order, "is there as it was before its last change")
        self.last = verified

    def _isFresh(self, order: int) -> bool:
        """
        Whether an order was booked just now.
        """
        current = self._journal.current(order)
        return current is not None and abs(self._now() - current.timestamp) <= SETTLED

    def _isDeleted(self, order: int) -> bool:
        """
        Whether the journal has the deletion of an order.
        """
        current = self._journal.current(order)
        return current is not None and current.state == TS_DELETED

    def _tell(self, verified: Verified, order: int, what: str) -> None:
        text = f"order {order}, which the platform had booked, {what}"
        verified.findings.append(text)
        if order not in self._told:
            self._told.add(order)
            self._alarm(text)
