"""
What the platform shows of operations: by events, which may overtake replies, and by
look-ups.
"""

from collections import deque
from typing import Any, Final

from creditsync._timeouts import EqualTimeouts
from creditsync.codes import (
    EV_RECORD_ADD,
    EV_RECORD_UPDATE,
    REQUEST_STATES,
    TS_CLOSED_NORMAL,
    TS_DELETED,
    UNAPPROVED,
)
from creditsync.gateway._courses import Course, KeptEvent
from creditsync.gateway._foreign import FINAL, Foreign
from creditsync.gateway._intents import ANOTHERS, SEVERAL, Intent
from creditsync.gateway._looking import absence, lookAt, lookFor, ordersOf
from creditsync.gateway._records import (
    MAX_APART,
    Unread,
    amountOf,
    isContentOf,
    isResultOf,
)
from creditsync.gateway._settling import unkept
from creditsync.gateway._states import State
from creditsync.records import Trade

# Of one that is on its way.
_UNDER_WAY: Final = frozenset(REQUEST_STATES.values())

# Seconds after which the platform does not change anything of a past second.
SETTLED: Final = 5

# Events by which the platform's clock is known.
_CLOCK_EVENTS: Final = 20

# Events that are kept at most.
MAX_KEPT: Final = 10_000


class Seeing(Foreign):
    """
    What is shown of operations, and what follows from it.

    @ivar overtaking: Events that came before the reply that names their order.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        """
        See L{Settling<creditsync.gateway._settling.Settling>}.
        """
        super().__init__(*args, **named)
        self._kept = 0
        self.overtaking = 0
        self._haveClocksDiffered = False
        # How far the platform's clock seemed to be behind, by its last events.
        self._behind: deque[float] = deque(maxlen=_CLOCK_EVENTS)
        self._finalWaits: EqualTimeouts[Course] = EqualTimeouts(
            self._clock, self._timing.finalWait, self.reconcile
        )

    def ended(self, course: Course) -> None:
        """
        See L{Settling.ended<creditsync.gateway._settling.Settling.ended>}.
        """
        self._finalWaits.end(course)
        self._releaseKept(course)

    def seen(self, trade: Trade | Unread) -> None:
        """
        An event has this record.
        """
        if isinstance(trade, Unread):
            self._seenUnread(trade)
            return
        self._compareClocks(trade)
        if not self._isOurs(trade):
            self.foreign(trade)

    def _seenUnread(self, record: Unread) -> None:
        """
        An event that can't be taken tells that its order has changed: what a look-up
        shows of that counts.
        """
        if not record.order:
            self.unread(record)
        elif record.why:
            self.lookUp(record.order, self._lookAtUnread(record.order))

    async def _lookAtUnread(self, order: int) -> None:
        look = await lookAt(self._upstream, order)
        if look.unread:
            self.unread(Unread(order, 0, look.unread))
        if look.trade is not None and not self._isOurs(look.trade):
            self.foreign(look.trade)

    def _compareClocks(self, trade: Trade) -> None:
        """
        Tell people, once, if the platform's clock is so far behind that its changes
        seem older than the mark, or so far ahead that they seem to be to come.
        """
        now = self._now()
        ahead = trade.timestamp - int(now)
        self._behind.append(now - trade.timestamp)
        if abs(ahead) > MAX_APART and not self._haveClocksDiffered:
            self._haveClocksDiffered = True
            self._alarm(
                f"an event's time is {abs(ahead)} seconds"
                f" {'ahead' if ahead > 0 else 'ago'}: if the clocks of the two machines"
                " differ, changes may be missed that are made without a connection"
            )

    def unread(self, record: Unread) -> None:
        """
        See L{Foreign.unread}. If the record is of an operation under way, a person has
        to decide, unless a look-up shows another one.
        """
        if not record.why:
            return
        self._journal.tellUnkept(record.order, record.why)
        course = self.courses.withOrder(record.order)
        if course is not None and not course.isAsking and course.intent.isOpen:
            self.hold(course, unkept(record.order, record.why))

    def platformTime(self) -> int:
        """
        The platform's time, or a little less: of its events, one that was hardly late
        tells most. As long as there was none, a minute is taken off, by which the
        clocks may differ. It is never later than the gateway's own time.
        """
        behind = min(self._behind, default=MAX_APART)
        return int(self._now() - max(0.0, behind))

    def looked(self, trade: Trade | Unread) -> None:
        """
        A page of the catch-up has this record, as it is now.
        """
        if isinstance(trade, Unread):
            self.unread(trade)
            return
        if self._isOurs(trade):
            return
        # Of the present second, an event may already have brought a later record.
        if trade.timestamp + SETTLED < self._now():
            self.foreignLooked(trade)
        else:
            self.foreign(trade)

    def _isOurs(self, trade: Trade) -> bool:
        """
        Take a record that is, or may be, of an operation under way.
        """
        course = self.courses.withOrder(trade.order)
        if course is None or self._isReplaced(course.intent, trade):
            course = self._claimant(trade)
            if course is not None:
                self._keep(course, trade)
        elif course.isAsking:
            self._keep(course, trade)
        else:
            return self._isEvidence(course, trade)
        return course is not None

    def _claimant(self, trade: Trade) -> Course | None:
        if self._isKnown(trade):
            return None
        courses = self.courses.openOf(trade.login)
        for course in courses:
            if course.recognizes(trade):
                return course
        return next((each for each in courses if each.mayClaim(trade)), None)

    def _keep(self, course: Course, trade: Trade) -> None:
        if self._kept >= MAX_KEPT:
            self.releaseKept()
        course.kept.append(KeptEvent(trade, self._clock.seconds()))
        self._kept += 1
        if not course.isAsking:
            self.reconcile(course)

    def releaseKept(self) -> None:
        """
        Let go of the events that were kept for long enough, or of all if there are too
        many, unless they are what an operation has made by all that can be seen.
        """
        oldest = self._clock.seconds() - self._timing.keep
        isFull = self._kept >= MAX_KEPT
        for course in self.courses:
            kept, course.kept = course.kept, []
            for each in kept:
                isDue = isFull or each.since <= oldest
                if isDue and not course.recognizes(each.trade):
                    self._kept -= 1
                    self.foreign(each.trade)
                else:
                    course.kept.append(each)

    def _letGo(self, course: Course) -> None:
        """
        Nothing that was kept for an operation can tell what became of it.
        """
        kept, course.kept = course.kept, []
        self._kept -= len(kept)
        for each in kept:
            self.foreign(each.trade)

    def oldestKept(self) -> int | None:
        """
        The time of the oldest change that is kept, and so not in the journal yet.
        """
        times = [
            each.trade.timestamp for course in self.courses for each in course.kept
        ]
        times += [each.trade.timestamp for each in self._undecided.values()]
        waiting = None if self.gate is None else self.gate.oldest()
        return min([*times, *([] if waiting is None else [waiting])], default=None)

    def _releaseKept(self, course: Course) -> None:
        """
        The reply has come, or will not come: what was kept for it gets its meaning.
        """
        kept, course.kept = course.kept, []
        self._kept -= len(kept)
        for each in kept:
            trade = each.trade
            if not course.intent.order and course.recognizes(trade):
                course.kept.append(each)
                self._kept += 1
            elif (
                course.intent.isOpen
                and trade.order == course.intent.order
                and self._isEvidence(course, trade)
            ):
                self.overtaking += 1
            else:
                self.foreign(trade)

    def _isEvidence(self, course: Course, trade: Trade) -> bool:
        """
        Take a record of an operation's order, and settle it if that is final.

        @return: Whether that is all that the record is about.
        """
        intent = course.intent
        if not intent.isOpen:
            # It is booked, which is about to become durable.
            return False
        if trade.state not in FINAL:
            return True
        if intent.type == EV_RECORD_ADD:
            if not self._isSame(intent, trade):
                return False
        elif intent.type == EV_RECORD_UPDATE:
            if trade.state != TS_CLOSED_NORMAL or not isResultOf(intent, trade):
                return False
            if self._journal.isPast(trade):
                # It was like that before. An event may come again, and late.
                return False
        elif trade.state != TS_DELETED:
            return False
        self.settle(course, trade)
        return True

    def _isSame(self, intent: Intent, trade: Trade) -> bool:
        """
        Whether the trade of an order that was named for a new trade can be that: it may
        have been updated since.
        """
        if (trade.login, trade.cmd) != (intent.login, intent.cmd):
            return False
        content = amountOf(trade), trade.comment
        return intent.openTime == trade.openTime or content == (
            intent.amount,
            intent.comment,
        )

    def accept(self, course: Course, order: int) -> None:
        """
        The order of an operation is known.
        """
        intent = course.intent
        intent.order = order
        self.courses.note(course)
        if intent.state is not State.ACCEPTED:
            intent.move(State.ACCEPTED, "the platform has accepted it")
            self._journal.keepSoon(intent)
        if intent.type != EV_RECORD_ADD or self._journal.current(order) is None:
            self.reveal(course)
        self._releaseKept(course)
        self._lookLater(course)

    def _lookLater(self, course: Course) -> None:
        if not (course.intent.isOpen and self.isRunning):
            return
        self._finalWaits.end(course)
        self._finalWaits.start(course)

    def reconcileAll(self) -> None:
        """
        Look at all operations that are not final.
        """
        for course in self.courses:
            self.reconcile(course)

    def reconcile(self, course: Course) -> None:
        """
        Look at an operation, unless that is just being done.
        """
        isBusy = course.isAsking or course.isLooking
        if isBusy or not (self._upstream.isConnected and self.isRunning):
            return
        if course.intent.isOpen:
            course.isLooking = True
            self._run(self._look(course), course)

    async def _look(self, course: Course) -> None:
        intent = course.intent
        if intent.order:
            look = await lookAt(self._upstream, intent.order)
            course.isLooking = False
            if not look.isKnown:
                self._unanswered(course)
            elif intent.isOpen:
                course.unansweredSince = None
                if look.unread:
                    self.unread(Unread(intent.order, 0, look.unread))
                    return
                self._await(look.trade)
                isOther = look.isOther or self._isReplaced(intent, look.trade)
                self._shown(course, look.trade, isOther)
            return
        if intent.isAmbiguous:
            course.isLooking = False
            return
        found = await lookFor(self._upstream, intent, self._journal.scale)
        if found is not None:
            found += await self._lookAtCandidates(course, found)
        course.isLooking = False
        if found is None:
            self._unanswered(course)
        elif intent.isOpen and not intent.order:
            course.unansweredSince = None
            self._found(course, found)

    def _unanswered(self, course: Course) -> None:
        """
        The platform does not answer a look-up. If it answers none for as long as
        something may be unseen, only a person can find out what became of it.
        """
        self._lookLater(course)
        if not self._upstream.isConnected:
            return
        now = self._clock.seconds()
        since = course.unansweredSince = course.unansweredSince or now
        if now - since >= self._timing.quiet:
            self.hold(course, "the platform does not answer look-ups of it")

    def interrupted(self) -> None:
        """
        The connection is lost, which is no answer and not the lack of one.
        """
        for course in self.courses:
            course.unansweredSince = course.notMadeSince = None

    async def _lookAtCandidates(
        self, course: Course, found: list[Trade]
    ) -> list[Trade]:
        """
        What was recognized by its tag may have another time than was asked for.
        """
        missing = course.candidates - {trade.order for trade in found}
        looks = [await lookAt(self._upstream, order) for order in sorted(missing)]
        return [look.trade for look in looks if look.trade is not None]

    def _await(self, trade: Trade | None) -> None:
        """
        If a look-up shows what the journal lacks, there should be an event of it.
        """
        isFinal = trade is not None and trade.state in FINAL
        if trade is not None and isFinal and self._journal.isChange(trade):
            self.listening.shown(trade)

    def _shown(self, course: Course, trade: Trade | None, isOther: bool) -> None:
        """
        What the platform shows of the order of an operation.
        """
        intent = course.intent
        if isOther:
            self.hold(course, f"order {intent.order} {ANOTHERS}")
        elif trade is None:
            self._unseen(course, f"the platform has no order {intent.order}")
        elif trade.state in _UNDER_WAY:
            if intent.state in (State.UNSEEN, State.HELD):
                intent.move(State.ACCEPTED, "the platform has it queued")
                self._journal.keep(intent)
        elif trade.state not in FINAL and (
            trade.state not in UNAPPROVED or intent.type != EV_RECORD_ADD
        ):
            # Only a new trade may wait for a person's approval.
            self._unseen(course, f"order {intent.order} has the state {trade.state}")
        elif self._isEvidence(course, trade):
            return
        elif intent.type == EV_RECORD_ADD:
            self.hold(course, f"order {intent.order} {ANOTHERS}")
        else:
            if trade.state in FINAL and self._journal.isChange(trade):
                self._journal.book(trade)
            was = "as it was" if trade.state == TS_CLOSED_NORMAL else "deleted"
            self._unseen(course, f"order {intent.order} is {was}")

    def _isOfAnother(self, intent: Intent, trade: Trade) -> bool:
        """
        Whether the order of a trade is that of another operation, and the trade can be
        what that has made.
        """
        if self._isGivenAgain(trade):
            return not isContentOf(intent, trade)
        course = self.courses.withOrder(trade.order)
        others = [self._log.withOrder(trade.order)]
        if course is not None:
            others.append(course.intent)
        return any(
            other is not None
            and other.number != intent.number
            and not self._isReplaced(other, trade)
            for other in others
        )

    def _isReplaced(self, intent: Intent, trade: Trade | None) -> bool:
        """
        Whether the order of a new trade is another's, in whatever state that is. A
        platform may give the number of an order again that it has lost in a crash.
        """
        if trade is None or intent.type != EV_RECORD_ADD:
            return False
        return not self._isSame(intent, trade)

    def _found(self, course: Course, found: list[Trade]) -> None:
        """
        What the platform shows of the content of an operation without an order.
        """
        own = self._ownOf(course, found)
        if not own:
            self._unseen(course, absence(course.intent, found, course.candidates))
        elif len(own) > 1:
            self.hold(course, f"{SEVERAL}: {ordersOf(own)}")
            self._letGo(course)
            for trade in own:
                self.foreign(trade)
        elif own[0].state in FINAL and isContentOf(course.intent, own[0]):
            self.settle(course, own[0])
        else:
            # An event had its content, if somebody has changed it since.
            self.accept(course, own[0].order)

    def _ownOf(self, course: Course, found: list[Trade]) -> list[Trade]:
        """
        Those of the trades that an operation without an order may have made.
        """
        return [
            trade
            for trade in found
            if (isContentOf(course.intent, trade) or trade.order in course.candidates)
            and not self._isKnown(trade)
            and not self._isOfAnother(course.intent, trade)
        ]

    def _unseen(self, course: Course, why: str) -> None:
        intent = course.intent
        intent.looks += 1
        isQuiet = self._now() - intent.sentAt >= self._timing.quiet
        if intent.state in (State.SENT, State.PENDING, State.ACCEPTED):
            intent.move(State.UNSEEN, why)
        elif intent.state is State.HELD:
            return
        elif intent.looks >= 2 and isQuiet:
            self.hold(course, f"{why}, {intent.looks} times since it was sent")
            return
        self._journal.keep(intent)
