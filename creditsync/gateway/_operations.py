"""
What is done for an operation, and what follows from what is learned of it.

Before a byte of it is sent, its intent is durable. From then on there are four ways to
learn what became of it, at any time and in any order: the reply, an event, a look-up,
and a person. Each ends here, in a change of state that L{creditsync.gateway._states}
allows. It is never sent again because nothing is heard of it.
"""

from typing import Any, Final

from twisted.internet.task import deferLater
from twisted.logger import Logger

from creditsync._changes import changed
from creditsync._rulebook import RuleBook
from creditsync._timeouts import EqualTimeouts
from creditsync.codes import (
    EV_RECORD_ADD,
    EV_RECORD_DELETE,
    EV_RECORD_UPDATE,
    TS_DELETED,
    TS_FINANCE_DECLINED,
    TS_FINANCE_OPEN_PENDING,
)
from creditsync.errors import (
    Busy,
    IncorrectOrder,
    NotFound,
    OutcomeUnknown,
    Refusal,
)
from creditsync.gateway._courses import Course
from creditsync.gateway._foreign import FINAL
from creditsync.gateway._groups import PlatformGroups
from creditsync.gateway._intents import Intent
from creditsync.gateway._journal import NOBODY
from creditsync.gateway._looking import lookAt
from creditsync.gateway._outcomes import Kind, Outcome, ownOutcome
from creditsync.gateway._records import amountOf, isOutcomeOf, isSince, requestOf
from creditsync.gateway._refusals import declined, platformRefusal
from creditsync.gateway._seeing import Seeing
from creditsync.gateway._states import FREE, State
from creditsync.methods import METHOD_OF
from creditsync.records import Deletion, Operation, Trade

# How often an order is looked at that was made instead of a change, until it shows.
_STRAY_LOOKS: Final = 30

_log = Logger()


class Operations(Seeing):
    """
    The operations of one gateway.

    @ivar groups: Those of the platform's accounts, or L{None} if they are the site's.
    """

    def __init__(self, *args: Any, rules: RuleBook | None = None, **named: Any) -> None:
        """
        See L{Settling<creditsync.gateway._settling.Settling>}.

        @param rules: Bound what may be booked, or L{None}.
        """
        super().__init__(*args, **named)
        self._rules = rules
        self.groups: PlatformGroups | None = None
        self._patience: EqualTimeouts[Course] = EqualTimeouts(
            self._clock, self._timing.patience, self._outOfPatience
        )

    def ended(self, course: Course) -> None:
        """
        See L{Settling.ended<creditsync.gateway._settling.Settling.ended>}.
        """
        self._patience.end(course)
        super().ended(course)
        if self._rules is not None:
            isBooked = course.intent.state is State.BOOKED
            self._rules.settle(course.intent.number, isBooked)
        self._next(course.intent.login)

    def resume(self, intent: Intent) -> None:
        """
        Go on with what an earlier process has sent, or may have sent.
        """
        self.courses.resume(Course(intent, self._clock.seconds()))
        asked = intent.operation
        if self._rules is None or asked.principal == NOBODY:
            return
        former = self._journal.current(intent.order)
        isUpdate = intent.type == EV_RECORD_UPDATE
        before = former.counted if isUpdate and former is not None else 0
        movement = self._rules.movementOf(
            asked, intent.login, intent.cmd, intent.amount, intent.amount - before
        )
        self._rules.promise(intent.number, movement, intent.sentAt)

    def request(self, course: Course) -> None:
        """
        Carry an operation out when it is its turn.
        """
        self.courses.add(course)
        self._patience.start(course)
        self._next(course.intent.login)

    def _outOfPatience(self, course: Course) -> None:
        """
        Its client will not wait for much longer: it gets the order, if there is one,
        or that nothing was sent.
        """
        intent = course.intent
        if intent.state is State.PENDING:
            self.reveal(course)
        if intent.state is State.NEW:
            intent.move(State.REFUSED, "it had to wait for too long")
            busy = Busy(f"an operation of account {intent.login} is not finished yet")
            self.refuse(course, self.blocked(intent.login) or busy)

    def blocked(self, login: int) -> Busy | None:
        """
        Why nothing is begun for an account, if one of its operations is unseen or held.
        To try again is of use when that has been looked up again.
        """
        blocking = self.courses.blocking(login)
        if blocking is None:
            return None
        number, state = blocking.intent.number, blocking.intent.state.value
        return Busy(
            f"account {login} is blocked by operation {number}, which is {state}",
            retryAfter=int(self._timing.interval * 1000),
        )

    def _next(self, login: int) -> None:
        course = self.courses.next(login)
        if course is not None and self.isRunning:
            if self.gate is not None:
                self.gate.release(login)
            self._run(self._begin(course), course)

    async def _begin(self, course: Course) -> None:
        intent = course.intent
        try:
            trade = await self._prepare(course)
            await self._learnGroup(intent.login)
            if intent.state is not State.NEW:
                return
            if not self._upstream.isConnected:
                raise Busy(f"the platform can't be reached: {self._upstream.problem}")
            self._judge(course, trade)
            self._setTime(intent)
        except Refusal as e:
            if intent.state is State.NEW:
                intent.move(State.REFUSED, e.message)
                self.refuse(course, e)
            return
        intent.move(State.SENT, "sent")
        self.courses.note(course)
        await self.send(course)

    async def _learnGroup(self, login: int) -> None:
        """
        Have the group of an account known, by which rules of the site may judge.

        @raise Busy: There are such rules, and the platform does not tell it.
        """
        waiting = None if self.groups is None else self.groups.whenKnown(login)
        if waiting is None:
            return
        try:
            await waiting
        except Busy:
            if self._rules is not None:
                raise

    async def _prepare(self, course: Course) -> Trade:
        """
        Find out what an operation changes, and whether it can.

        @return: What it makes.
        """
        intent, existing = course.intent, None
        asked = intent.operation
        if asked.order:
            existing = await self.existing(asked.order)
            if intent.state is not State.NEW:
                # It was refused meanwhile, and another may be changing the trade.
                raise Busy("it had to wait for too long")
            if existing is None and self._journal.current(asked.order) is not None:
                # If it is only hidden, a new trade would be the second one.
                raise IncorrectOrder(
                    f"the platform does not show order {asked.order} any more"
                )
        type, trade, _ = changed(existing, asked, int(self._now()))
        intent.type = type
        intent.order = trade.order
        if existing is not None:
            if existing.login != intent.login:
                # The journal said otherwise, and whose it is decides what is allowed.
                raise IncorrectOrder(f"order {existing.order} is another account's")
            course.former = existing
            if self._journal.isChange(existing) and existing.state in FINAL:
                await self._journal.book(existing)
        if type == EV_RECORD_DELETE:
            intent.cmd, intent.amount = trade.cmd, trade.profit
            intent.comment = self._journal.tags.off(trade.comment)
        return trade

    async def existing(self, order: int) -> Trade | None:
        """
        The trade that an operation names.

        @raise Busy: The platform does not show it.
        """
        look = await lookAt(self._upstream, order)
        if not look.isKnown:
            raise Busy("the platform does not answer a look-up")
        if look.isOther:
            raise IncorrectOrder(f"order {order} is a different kind of transaction")
        if look.unread:
            raise IncorrectOrder(f"order {order} can't be used: {look.unread}")
        return look.trade

    def _judge(self, course: Course, trade: Trade) -> None:
        if self._rules is None:
            return
        asked = course.intent.operation
        before = 0 if course.former is None else course.former.counted
        movement = self._rules.judge(asked, trade, trade.counted - before)
        if movement is not None:
            self._rules.promise(course.intent.number, movement, trade.timestamp)

    def _setTime(self, intent: Intent) -> None:
        """
        Make the content of a new trade unique among those that may be booked.
        """
        asked = intent.operation
        if intent.type != EV_RECORD_ADD or not isinstance(asked, Operation):
            return
        intent.openTime = asked.openTime
        if asked.openTime is None:
            intent.openTime = self._time()
            while self._log.isTaken(intent.content):
                intent.openTime -= 1

    def _time(self) -> int:
        """
        The time of a new trade whose client has given none.
        """
        return int(self._now())

    async def send(self, course: Course) -> None:
        """
        Send an operation, when it is durable that it may be sent.
        """
        intent = course.intent
        intent.attempts += 1
        intent.sentAt = int(self._now())
        course.isAsking = True
        await self._journal.keep(intent)
        command, data = requestOf(intent)
        outcome = await self._upstream.request(command, data, intent.number)
        course.isAsking = False
        await self.replied(course, outcome)

    async def replied(self, course: Course, outcome: Outcome) -> None:
        """
        A reply to an operation has come, or will not come any more.
        """
        intent, outcome = course.intent, ownOutcome(course.intent, outcome)
        if not intent.isOpen:
            return
        if outcome.kind is Kind.UNSENT and intent.state is State.SENT:
            await self._neverHappened(course, Busy(outcome.message), "it was not sent")
        elif outcome.isNo and (order := course.shownAs):
            self.hold(
                course, f"the platform has refused it, and shows it as order {order}"
            )
        elif outcome.isNo:
            why = platformRefusal(outcome)
            text = f"the platform refused it: {outcome.error}, {outcome.message}"
            await self._neverHappened(course, why, text)
        elif outcome.kind is Kind.DONE and outcome.order is not None:
            self._named(course, outcome.order)
        else:
            if intent.state is not State.HELD:
                intent.why = outcome.message or "the reply names no order"
            self._releaseKept(course)
            self.reconcile(course)

    def repliedLate(self, number: int, outcome: Outcome) -> None:
        """
        A reply has come after its operation was taken for unknown.
        """
        course = self.courses.withNumber(number)
        if course is not None and course.intent.isOpen:
            if not course.isAsking:
                self._run(self.replied(course, outcome), course)
        elif outcome.order is not None:
            # The log may not have the end of a course yet.
            logged = self._log.withOrder(outcome.order)
            settled = logged if course is None else course.intent
            isIts = (
                settled is not None
                and (settled.number, settled.order) == (number, outcome.order)
                and settled.state not in FREE
            )
            if not isIts:
                self._alarm(
                    f"a late reply names order {outcome.order} for operation {number},"
                    " which was settled otherwise"
                )

    def _shown(self, course: Course, trade: Trade | None, isOther: bool) -> None:
        """
        See L{Seeing}: what was declined at the platform will not happen.
        """
        intent, state = course.intent, None if trade is None else trade.state
        if intent.type != EV_RECORD_ADD or isOther:
            super()._shown(course, trade, isOther)
        elif state == TS_FINANCE_DECLINED:
            refusal = course.refusal or declined(intent.order)
            self._run(self._neverHappened(course, refusal, refusal.message), course)
        elif state == TS_FINANCE_OPEN_PENDING and intent.isRequested:
            # It was sent before this start, by the way of two phases.
            why = f"finance request {intent.order} has to be decided at the platform"
            self.hold(course, why)
        else:
            super()._shown(course, trade, isOther)

    async def _neverHappened(self, course: Course, why: Refusal, text: str) -> None:
        intent = course.intent
        intent.move(State.REFUSED, text)
        await self._journal.keep(intent)
        self.refuse(course, why)

    def _named(self, course: Course, order: int) -> None:
        """
        The platform has accepted an operation, and names an order.
        """
        intent = course.intent
        if intent.type != EV_RECORD_ADD and order != intent.order:
            # It has made a new trade instead of changing one.
            self.hold(course, f"the platform has made order {order} instead")
            self._run(self._deleteStray(course, order), course)
        elif intent.type == EV_RECORD_ADD and self._isAnothers(intent, order):
            self.hold(course, f"the platform names order {order}, which is another's")
            # An event may have shown it by now, under a number that is given again.
            self.reconcile(course)
        else:
            self.accept(course, order)

    def _isAnothers(self, intent: Intent, order: int) -> bool:
        """
        Whether an order can't be that of a new trade.
        """
        if intent.order not in (0, order):
            return True
        other = self.courses.withOrder(order)
        if other is not None and other.intent is not intent:
            return True
        logged = self._log.withOrder(order)
        if logged is not None and logged.number != intent.number:
            return True
        trade = self._journal.current(order)
        return trade is not None and (trade.login, trade.cmd, amountOf(trade)) != (
            intent.login,
            intent.cmd,
            intent.amount,
        )

    # What people decide.

    async def decideAbsent(self, course: Course, who: str) -> None:
        """
        A person says that an operation was never booked, and never will be.
        """
        intent = course.intent
        intent.move(State.ABSENT, "a person has decided that it was never booked")
        intent.decidedBy = who
        await self._journal.keep(intent)
        # Those who have repeated the request meanwhile.
        self.refuse(course, OutcomeUnknown("a person has decided it meanwhile"))

    async def decideBooked(self, course: Course, order: int, who: str) -> None:
        """
        A person says that the platform has booked an operation as this order.

        @raise NotFound: There is no such order, or it is not booked.
        @raise IncorrectOrder: It can't be its trade.
        @raise Busy: The platform does not show it.
        """
        intent = course.intent
        trade = await self.existing(order)
        if trade is None or trade.state not in FINAL:
            raise NotFound(f"there is no booked order {order}")
        isFit = (trade.login, trade.cmd) == (intent.login, intent.cmd)
        isAnothers = self._isOfAnother(intent, trade)
        if not isFit or isAnothers or not isOutcomeOf(intent, trade):
            raise IncorrectOrder(
                f"order {order} can't be the trade of operation {intent.number}"
            )
        if intent.state is not State.HELD:
            raise NotFound(f"there is no held operation {intent.number}")
        unkept = self._journal.refusal(trade)
        if unkept is not None:
            raise IncorrectOrder(f"the record of order {order} is not kept: {unkept}")
        intent.decidedBy = who
        await self.settle(course, trade)

    async def _deleteStray(self, course: Course, order: int) -> None:
        """
        Delete what the platform has made by mistake, when it is booked if not before,
        unless the platform shows that the order is something else: a reply may name the
        order of another operation.
        """
        former = course.intent.order
        why = f"the platform does not show it as made instead of order {former}"
        for _ in range(_STRAY_LOOKS):
            look = await lookAt(self._upstream, order)
            if look.trade is not None and self._isStray(course.intent, look.trade):
                stray = self._strayOf(course.intent, order)
                await self._run(self.send(stray), stray)
                if stray.intent.state is not State.REFUSED:
                    return
                why = stray.intent.why
                if look.trade.state in FINAL:
                    break
                # While it is queued, a platform may refuse that.
            elif look.trade is not None or look.isOther or look.unread:
                break
            if not self.isRunning:
                break
            await deferLater(self._clock, self._timing.finalWait)
        self._alarm(f"order {order} is not deleted: {why}")

    def _strayOf(self, intent: Intent, order: int) -> Course:
        """
        Begin to delete what the platform has made instead of a change.
        """
        method = METHOD_OF[intent.cmd, True]
        deletion = Intent(
            self._log.nextNumber(),
            EV_RECORD_DELETE,
            Deletion(method, order, frozenset({intent.cmd}), NOBODY),
            intent.login,
            intent.cmd,
            intent.amount,
            intent.plainComment,
            order=order,
        )
        deletion.move(State.SENT, f"made instead of order {intent.order}")
        stray = Course(deletion, self._clock.seconds())
        self.courses.resume(stray)
        return stray

    def _isStray(self, intent: Intent, trade: Trade) -> bool:
        """
        Whether a trade is what the platform has made instead of changing another one.
        """
        if self.courses.withOrder(trade.order) or self._log.withOrder(trade.order):
            return False
        content = trade.login, trade.cmd, amountOf(trade), trade.comment
        return (
            content == (intent.login, intent.cmd, intent.amount, intent.comment)
            and trade.state != TS_DELETED
            and isSince(intent, trade)
        )

    async def sweep(self) -> None:
        """
        Remove from the platform what was made in vain.
        """

    def stop(self) -> None:
        """
        Wait for nothing any more.
        """
        for course in self.courses:
            self._patience.end(course)
            self._finalWaits.end(course)
