"""
The way of two phases: a finance request is made, which moves no money, and then exactly
one is approved.

A request whose reply is lost is looked for, and made again if the platform does not
show it, until one order is durable. Only that order is ever approved here, and a second
approval of it is harmless, because the platform approves only what is pending. If a
person has approved a request before its order was known here, that one is it. So the
outcome is unknown only as long as the platform can't be asked. Requests that were made
in vain are declined, once a minute, for ever.

All of this rests on the platform's refusing a second approval, which C{creditsync
gateway probe} tries.
"""

from typing import Final

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from creditsync.codes import (
    EV_RECORD_ADD,
    TS_DELETED,
    TS_FINANCE_DECLINED,
    TS_FINANCE_OPEN_PENDING,
    UNAPPROVED,
)
from creditsync.errors import Busy
from creditsync.gateway._courses import Course
from creditsync.gateway._intents import SENT_ITSELF, Intent
from creditsync.gateway._looking import lookAt, lookFor, ordersOf, searchAll
from creditsync.gateway._operations import Operations
from creditsync.gateway._outcomes import Kind, Outcome, ownOutcome
from creditsync.gateway._records import contentOf, creationOf, isContentOf, isSince
from creditsync.gateway._refusals import declined, platformRefusal
from creditsync.gateway._states import FINAL, FREE, State
from creditsync.records import Trade

_APPROVE: Final = "MngApproveFinanceRequest"
_DECLINE: Final = "MngDeclineFinanceRequest"

_log = Logger()


class TwoPhases(Operations):
    """
    The operations of a gateway to a platform on which two phases are sound.
    """

    async def send(self, course: Course) -> None:
        """
        See L{Operations.send}: a new trade begins as a finance request.
        """
        if course.intent.type == EV_RECORD_ADD:
            await self._create(course)
        else:
            await super().send(course)

    def _time(self) -> int:
        """
        See L{Operations._time}: a finance request with a time that is to come may be
        refused, so it is the platform's.
        """
        return self.platformTime()

    async def _create(self, course: Course) -> None:
        intent = course.intent
        intent.attempts = max(intent.attempts, SENT_ITSELF) + 1
        intent.sentAt = int(self._now())
        course.isAsking = True
        await self._journal.keep(intent)
        outcome = await self._upstream.request(
            "MngCreateFinanceRequest", creationOf(intent), intent.number
        )
        course.isAsking = False
        await self._created(course, outcome)

    async def _created(self, course: Course, outcome: Outcome) -> None:
        intent, outcome = course.intent, ownOutcome(course.intent, outcome)
        if not intent.isOpen or intent.order or intent.isAmbiguous:
            # The sweep declines this one if there is another.
            return
        if outcome.kind is Kind.DONE and outcome.order is not None:
            await self._choose(course, outcome.order)
        elif outcome.isNo:
            text = f"the platform refused it: {outcome.error}, {outcome.message}"
            await self._neverHappened(course, platformRefusal(outcome), text)
        elif outcome.kind is Kind.UNSENT and intent.attempts == SENT_ITSELF + 1:
            await self._neverHappened(course, Busy(outcome.message), "it was not sent")
        else:
            self._notMade(course, outcome.message or "the reply names no order")

    def _again(self, course: Course, what: str, outcome: Outcome) -> None:
        """
        Try again later, and tell people, once, if that does not help for a long time.
        """
        late, intent = self._clock.seconds() - course.since, course.intent
        if late >= self._timing.quiet and not course.isTold:
            course.isTold = True
            self._alarm(
                f"operation {intent.number} of account {intent.login} is not settled"
                f" after {late:.0f} seconds: {what} is not accepted"
                f" ({outcome.message or 'the reply names no order'})"
            )
        self._lookLater(course)

    async def _choose(self, course: Course, order: int) -> None:
        """
        Make durable which finance request is the one.
        """
        intent = course.intent
        approved = self._approvedAs(course)
        if self._isAnothers(intent, order):
            # The platform may have lost the other trade in a crash, and give its number
            # again.
            why = f"the platform names order {order}, which is another's"
            self._notMade(course, why)
            return
        if approved not in (0, order):
            self._notMade(course, f"events have shown it as order {approved} already")
            return
        intent.order = order
        self.courses.note(course)
        intent.move(State.PENDING, "its finance request is the chosen one")
        course.isAsking = True
        await self._journal.keep(intent)
        course.isAsking = False
        await self._approve(course)

    def _approvedAs(self, course: Course) -> int:
        """
        The order as which events have shown that a person has approved it while its
        order was not known here, or 0.
        """
        shown = (each.trade for each in course.kept)
        approved = (each for each in shown if each.state not in UNAPPROVED)
        own = (each.order for each in approved if course.mayHaveMade(each))
        return next(own, 0)

    def _mayBeIts(self, intent: Intent, trade: Trade) -> bool:
        """
        Whether a trade of an operation's account, kind and time may be what has become
        of a finance request for it, whatever a person has made of that.
        """
        return isSince(intent, trade) and not self._isOfAnother(intent, trade)

    def _notMade(self, course: Course, why: str) -> None:
        """
        No finance request is known that can be approved. None moves money, so another
        one is made, until there is one. If that takes long although the platform is
        connected, people have to know.
        """
        now = self._clock.seconds()
        since = course.notMadeSince = course.notMadeSince or now
        if self._upstream.isConnected and now - since >= self._timing.quiet:
            self.hold(course, why)
            return
        if course.intent.state is not State.HELD:
            course.intent.why = why
        self._lookLater(course)

    async def _approve(self, course: Course) -> None:
        intent = course.intent
        course.isAsking = True
        outcome = await self._upstream.request(_APPROVE, {"order": intent.order})
        course.isAsking = False
        if not intent.isOpen:
            return
        if outcome.kind is Kind.DONE and outcome.order == intent.order:
            self.accept(course, intent.order)
        elif outcome.kind is Kind.REFUSED:
            course.refusal = platformRefusal(outcome)
            self._releaseKept(course)
            self.reconcile(course)
        else:
            self._releaseKept(course)
            self._again(course, "its approval", outcome)

    async def _declineChosen(self, course: Course) -> None:
        """
        The platform refuses the approval. Only when it can't come into force any more,
        on whatever way, is that a definite no.
        """
        intent = course.intent
        course.isAsking = True
        outcome = await self._upstream.request(_DECLINE, {"order": intent.order})
        course.isAsking = False
        if intent.isOpen:
            # It is only accepted. A crash would lose that, and an approval that was
            # late could come into force.
            self._again(course, "that it is declined", outcome)

    def _shown(self, course: Course, trade: Trade | None, isOther: bool) -> None:
        """
        See L{Operations}: a finance request has one more state.
        """
        isPending = trade is not None and trade.state == TS_FINANCE_OPEN_PENDING
        if not course.intent.isRequested or isOther or not isPending:
            super()._shown(course, trade, isOther)
            isWaiting = course.intent.isOpen and course.intent.state is not State.HELD
            if course.refusal is not None and isWaiting:
                # Its request is still queued. Its login waits for its end.
                self._lookLater(course)
        elif course.refusal is not None:
            self._run(self._declineChosen(course), course)
        else:
            if course.intent.state in (State.UNSEEN, State.HELD):
                course.intent.move(State.PENDING, "its finance request is pending")
                self._journal.keep(course.intent)
            self._run(self._approve(course), course)

    async def _look(self, course: Course) -> None:
        intent = course.intent
        if intent.order or not intent.isRequested:
            await super()._look(course)
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
            return
        if not intent.isOpen or intent.order or course.isAsking:
            self._lookLater(course)
            return
        course.unansweredSince = None
        approved = [trade for trade in found if trade.state not in UNAPPROVED]
        if self._ownOf(course, approved):
            # A person was faster. To make it again would book it twice.
            self._found(course, approved)
            return
        if mayBe := [trade for trade in approved if self._mayBeIts(intent, trade)]:
            orders = ordersOf(mayBe)
            self.hold(course, f"a person may have approved and changed it: {orders}")
            return
        for trade in found:
            isPending = trade.state == TS_FINANCE_OPEN_PENDING
            isOwn = isContentOf(intent, trade)
            if isPending and isOwn and not self._isAnothers(intent, trade.order):
                await self._choose(course, trade.order)
                return
        for trade in found:
            isDeclined = trade.state == TS_FINANCE_DECLINED
            isOwn = isContentOf(intent, trade) and self._mayBeIts(intent, trade)
            if isDeclined and isOwn:
                why = declined(trade.order)
                await self._neverHappened(course, why, why.message)
                return
        if order := self._approvedAs(course):
            self._notMade(course, f"events have shown it as order {order} already")
            return
        # No order is durable, so the gateway has approved none.
        await self._create(course)

    def settle(self, course: Course, trade: Trade) -> "Deferred[None]":
        """
        See L{Foreign.settle<creditsync.gateway._foreign.Foreign.settle>}. A finance
        request that was deleted may never have been booked.
        """
        intent, order = course.intent, trade.order
        isDecided = intent.state is State.ACCEPTED or intent.decidedBy
        if (
            intent.isRequested
            and trade.state == TS_DELETED
            and not isDecided
            and self._journal.current(order) is None
        ):
            self.hold(course, f"order {order} is deleted, and may not have been booked")
            return succeed(None)
        return super().settle(course, trade)

    def _isEvidence(self, course: Course, trade: Trade) -> bool:
        isRefused = trade.state == TS_FINANCE_OPEN_PENDING and course.refusal
        if course.intent.isOpen and (isRefused or trade.state == TS_FINANCE_DECLINED):
            self.reconcile(course)
            return True
        return super()._isEvidence(course, trade)

    def _keep(self, course: Course, trade: Trade) -> None:
        isPending = trade.state == TS_FINANCE_OPEN_PENDING
        if not (isPending and course.intent.isRequested):
            super()._keep(course, trade)
        elif not course.isAsking and not course.intent.order:
            self._run(self._choose(course, trade.order), course)

    def repliedLate(self, number: int, outcome: Outcome) -> None:
        """
        See L{Operations.repliedLate}.
        """
        course = self.courses.withNumber(number)
        if course is None and outcome.order is not None:
            done = Deferred.fromCoroutine(self._settledBefore(number, outcome))
            done.addErrback(lambda why: _log.failure("a late reply", why))
        elif course is None or course.intent.type != EV_RECORD_ADD:
            super().repliedLate(number, outcome)
        elif not course.isAsking and outcome.kind is Kind.DONE:
            self._run(self._created(course, outcome), course)

    # Leftovers.

    async def _settledBefore(self, number: int, outcome: Outcome) -> None:
        """
        A late reply names an order for an operation that is settled. If that was made
        again after its reply was lost, this is what was made in vain.
        """
        assert outcome.order is not None
        look = await lookAt(self._upstream, outcome.order)
        trade = look.trade
        if trade is not None and trade.state == TS_FINANCE_OPEN_PENDING:
            if self._isLeftover(trade):
                await self._decline(trade)
                return
        elif not look.isKnown or (trade and trade.state == TS_FINANCE_DECLINED):
            # If it is pending, the sweep declines it.
            return
        super().repliedLate(number, outcome)

    async def _decline(self, trade: Trade) -> None:
        # Another gateway may have taken over, and may have chosen it. What that one has
        # made is seen only after this one was shut out, and then this does not fire.
        await self._journal.prove()
        _log.info("declining the leftover order {order}", order=trade.order)
        await self._upstream.request(_DECLINE, {"order": trade.order})

    async def sweep(self) -> None:
        """
        Decline the finance requests of this gateway that were not chosen. There may be
        many others that wait for people.
        """
        pending = [["state", "==", TS_FINANCE_OPEN_PENDING]]
        for trade in await searchAll(self._upstream, pending) or ():
            if self._isLeftover(trade):
                await self._decline(trade)

    def _isLeftover(self, trade: Trade) -> bool:
        """
        Whether a pending request is of an operation that has chosen another one, or has
        ended.
        """
        if self.courses.withOrder(trade.order) is not None:
            return False
        for course in self.courses.openOf(trade.login):
            intent = course.intent
            if intent.type == EV_RECORD_ADD and intent.content == contentOf(trade):
                return bool(intent.order)
        made = self._log.withContent(contentOf(trade))
        if made is None or made.state not in FINAL:
            return False
        return made.state in FREE or made.order != trade.order
