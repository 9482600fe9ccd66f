"""
Records of the platform that are not of an operation under way: what people book there,
and what other programs do.
"""

from collections.abc import Callable, Coroutine
from typing import Any, Final

from attrs import define
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from creditsync.codes import EV_RECORD_UPDATE, TS_CLOSED_NORMAL, TS_DELETED
from creditsync.gateway._courses import Course
from creditsync.gateway._groups import Gate
from creditsync.gateway._listening import Listening
from creditsync.gateway._looking import lookAt
from creditsync.gateway._records import Unread, contentOf, isContentOf
from creditsync.gateway._settling import Settling
from creditsync.gateway._states import FREE
from creditsync.records import Trade

# States of a record that is final.
FINAL: Final = (TS_CLOSED_NORMAL, TS_DELETED)

# Look-ups of an order that may fail while the platform is connected.
_MAX_FAILURES: Final = 5

# Orders that are looked up at a time because of events that do not tell enough.
_MAX_TIES: Final = 1000

_log = Logger()


@define(eq=False)
class _Undecided:
    """
    A record of an order whose last record in the journal is of the same second.

    @ivar failures: Look-ups that have failed.
    """

    trade: Trade
    failures: int = 0


class Foreign(Settling):
    """
    What is done with records of others.

    @ivar listening: Whether events still come.
    @ivar gate: Where records wait for the groups of their accounts, or L{None}.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        """
        See L{Settling<creditsync.gateway._settling.Settling>}.
        """
        super().__init__(*args, **named)
        self.gate: Gate | None = None
        self.listening = Listening(self._clock, self._now, self._upstream, self._alarm)
        self._strangers: set[str] = set()
        # The orders that are being looked up, and the events that wait for that.
        self._ties: dict[int, list[Trade]] = {}
        # The records that a look-up has to decide about, until one has.
        self._undecided: dict[int, _Undecided] = {}

    def foreign(self, trade: Trade) -> None:
        """
        An event has a record that is not of an operation under way.
        """
        if trade.state not in FINAL:
            return
        if trade.order in self._ties:
            self._ties[trade.order].append(trade)
        elif self._journal.isNews(trade):
            self._enter(trade, self._bookNews)

    def foreignLooked(self, trade: Trade) -> None:
        """
        A look-up shows a record that is not of an operation under way.
        """
        if trade.state in FINAL and self._journal.isChange(trade):
            self.listening.shown(trade)
            self._enter(trade, self._bookChange)

    def _breaksTie(self, trade: Trade) -> bool:
        """
        Look an order up if the journal has another record of it with the same time:
        seconds don't tell which of the two was first, and events and pages may come in
        any order. A deletion is always the last.

        @return: Whether the look-up decides what is booked.
        """
        current = self._journal.current(trade.order)
        isTie = current is not None and current.timestamp == trade.timestamp
        if not isTie or trade.state == TS_DELETED:
            return False
        self._undecided.setdefault(trade.order, _Undecided(trade))
        self.lookUp(trade.order, self._lookAtTie(trade))
        return True

    def lookAgain(self) -> None:
        """
        Look up what no look-up has decided yet: a page need not have it again.
        """
        for each in list(self._undecided.values()):
            self.lookUp(each.trade.order, self._lookAtTie(each.trade))

    def _notDecided(self, order: int) -> None:
        """
        A look-up has failed. If it is not the connection, it may always fail.
        """
        undecided = self._undecided.get(order)
        if undecided is None or not self._upstream.isConnected:
            return
        undecided.failures += 1
        if undecided.failures >= _MAX_FAILURES:
            del self._undecided[order]
            self._alarm(
                f"a change of order {order} may be missing: the platform does not"
                " answer look-ups of it"
            )

    def settle(self, course: Course, trade: Trade) -> "Deferred[None]":
        """
        See L{Settling.settle<creditsync.gateway._settling.Settling.settle>}. If
        somebody has changed the trade since, and that is in the journal already, it
        has to come last there.
        """
        known = self._journal.current(trade.order)
        durable = super().settle(course, trade)
        isUpdate = course.intent.type == EV_RECORD_UPDATE
        isOthers = isUpdate and known is not None and known != course.former
        if isOthers and known is not None and known.timestamp >= trade.timestamp:
            self.lookUp(trade.order, self._lookAtTie(trade))
        return durable

    def lookUp(self, order: int, look: Coroutine[Any, Any, None]) -> None:
        """
        Look an order up, while events of it wait.
        """
        if order in self._ties or len(self._ties) >= _MAX_TIES:
            look.close()
            return
        self._ties[order] = []
        done = Deferred.fromCoroutine(look)
        done.addErrback(lambda why: _log.failure("a look-up failed", why))
        done.addCallback(self._decided, order)

    async def _lookAtTie(self, trade: Trade) -> None:
        look = await lookAt(self._upstream, trade.order)
        if not look.isKnown:
            self._notDecided(trade.order)
            return
        self._undecided.pop(trade.order, None)
        if look.unread:
            self.unread(Unread(trade.order, 0, look.unread))
            return
        if not self._isSuperseded(trade.order, look.trade):
            self._enter(trade, self._bookMissing)
            self._enterWaiting(trade.order, look.trade)
        if look.trade is not None and look.trade.state in FINAL:
            self._enter(look.trade, self._bookShown)

    def _enterWaiting(self, order: int, shown: Trade | None) -> None:
        """
        Book the events that have come meanwhile, up to what the platform shows.
        """
        waiting = self._ties[order]
        while waiting and shown is not None and self._journal.isChange(shown):
            self._enter(waiting.pop(0), self._bookMissing)

    def _isSuperseded(self, order: int, shown: Trade | None) -> bool:
        """
        Whether another record than the journal's last one was before that.
        """
        if shown is not None:
            return not self._journal.isChange(shown)
        current = self._journal.current(order)
        return current is not None and current.state == TS_DELETED

    def _decided(self, _: object, order: int) -> None:
        for trade in self._ties.pop(order):
            self.foreign(trade)

    def unread(self, record: Unread) -> None:
        """
        The platform has a record that can't be taken.
        """
        raise NotImplementedError

    def _enter(self, trade: Trade, book: Callable[[Trade], None]) -> None:
        """
        Book a record when the group of its account is known. While an operation of the
        account is under way nothing waits: what belongs to that is judged by what the
        journal has.

        @param book: Books it if the journal lacks it.
        """
        isBusy = bool(self.courses.openOf(trade.login))
        if self.gate is None or not self.gate.holds(trade, book, isBusy):
            book(trade)

    def _bookNews(self, trade: Trade) -> None:
        if self._journal.isNews(trade) and not self._breaksTie(trade):
            self._bookForeign(trade)

    def _bookChange(self, trade: Trade) -> None:
        if self._journal.isChange(trade) and not self._breaksTie(trade):
            self._bookForeign(trade)

    def _bookMissing(self, trade: Trade) -> None:
        if self._journal.isNews(trade):
            self._bookForeign(trade)

    def _bookShown(self, trade: Trade) -> None:
        if self._journal.isChange(trade):
            self._bookForeign(trade)

    def _bookForeign(self, trade: Trade) -> None:
        if self._journal.current(trade.order) is None:
            self._doubt(trade)
            self._recognize(trade)
        self._journal.book(trade)

    def _doubt(self, trade: Trade) -> None:
        """
        Tell people if a new trade is what was taken for never booked: its key is free
        again, and may have been used. And if it is as another one in everything by
        which an operation is recognized: the platform may have got that twice.
        """
        intent = self._log.withContent(contentOf(trade))
        if intent is None or not isContentOf(intent, trade) or self._isTaken(trade):
            return
        course = self.courses.withNumber(intent.number)
        if course is not None:
            # In the log its order may not be durable yet.
            intent = course.intent
        if intent.state in FREE:
            self._alarm(
                f"operation {intent.number}, which is {intent.state.value}, may be"
                f" booked as order {trade.order}"
            )
        elif intent.order:
            self._alarm(
                f"operation {intent.number}, which is order {intent.order}, may be"
                f" booked once more as order {trade.order}"
            )

    def _recognize(self, trade: Trade) -> None:
        """
        Tell people, once for each, if a new trade is of another gateway, or of one that
        has a copy of this log: the two don't know of each other's operations.
        """
        tags = self._journal.tags
        name = tags.stranger(trade.comment)
        text = f"has the tag of another gateway, {name}"
        if tags.isOwn(trade.comment):
            courses = self.courses.openOf(trade.login)
            isUnderWay = any(each.intent.isTagOf(trade.comment) for each in courses)
            if isUnderWay or self._log.withContent(contentOf(trade)) is not None:
                return
            name, text = "", "has a tag of this gateway, and is not in its log"
        if name is not None and name not in self._strangers:
            self._strangers.add(name)
            self._alarm(
                f"order {trade.order} {text}: does another gateway use this platform"
                " identity?"
            )

    def _isTaken(self, trade: Trade) -> bool:
        """
        Whether a trade was there before, or is of another operation.
        """
        if self._journal.current(trade.order) is not None:
            return True
        course = self.courses.withOrder(trade.order)
        logged = self._log.withOrder(trade.order)
        if course is None:
            return logged is not None
        if course.intent.state not in FREE:
            return True
        # It is about to be durable that this one is not its operation.
        return logged is not None and logged.number != course.intent.number

    def _isKnown(self, trade: Trade) -> bool:
        """
        Whether the journal has a trade, of whatever time.
        """
        current = self._journal.current(trade.order)
        return current is not None and not self._isGivenAgain(trade)

    def _isGivenAgain(self, trade: Trade) -> bool:
        """
        Whether the journal has another trade under the same number, which the platform
        has lost in a crash. No change that was not asked for moves the time of a trade.
        """
        current = self._journal.current(trade.order)
        return current is not None and current.openTime != trade.openTime
