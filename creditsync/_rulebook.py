"""
The rules in force, and what counts for each of them today.

The runtime asks L{RuleBook.judge} in the same step in which it reserves an operation,
and then has it counted with L{RuleBook.reserved}. So nothing can come between the two,
and what is not on disk yet counts like what is. Once it is counted an operation stays
so: it is booked, or the runtime fails and the next start counts what is on disk.

At the start, and when the rules change, the sums of the day are read from the ledger.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from attrs import Factory, define, field
from twisted.internet.defer import Deferred, maybeDeferred, succeed

from creditsync._bookingrules import Rule
from creditsync._money import fromUnits
from creditsync.codes import (
    MAX_SET_BACK,
    SECONDS_PER_DAY,
    TS_FINANCE_DECLINED,
    TS_FINANCE_OPEN_PENDING,
)
from creditsync.errors import LimitExceeded
from creditsync.interfaces import ILedger
from creditsync.methods import METHOD_OF
from creditsync.records import (
    AnyOperation,
    Decision,
    Deletion,
    Movement,
    Reservation,
    Trade,
)

# In 10⁻⁸ units, by the number of the rule and the key of the sum.
_Sums: TypeAlias = defaultdict[tuple[int, int | None], int]

# Days whose sums are kept. With the one before, a clock that is set back over midnight
# finds what it has left.
_DAYS: Final = 2


class _Excess(NamedTuple):
    """
    Why a rule does not allow a movement.
    """

    rule: Rule
    sentence: str


@define(eq=False)
class _Day:
    """
    Rules, and their sums for the last days on which something counted.
    """

    rules: tuple[Rule, ...]
    _sums: dict[int, _Sums] = field(default=Factory(dict), init=False)

    def excess(self, movement: Movement, day: int, isRequested: bool) -> _Excess | None:
        """
        Why a movement is not allowed, if it is not: by the first rule for which no
        request helps, or else by the first.

        @param isRequested: Whether it is a finance request.
        """
        sums = self._on(day)
        found = None
        for number, rule in enumerate(self.rules):
            if isRequested and rule.mayBeRequested:
                continue
            sentence = _broken(rule, number, movement, sums)
            if sentence is not None:
                excess = _Excess(rule, sentence)
                if not rule.mayBeRequested:
                    return excess
                found = found or excess
        return found

    def count(self, movement: Movement, day: int) -> None:
        """
        Add a movement to the sums.
        """
        _add(self.rules, movement, self._on(day))

    def takeBack(self, movement: Movement, day: int) -> None:
        """
        Take a movement off the sums again, if they are still kept.
        """
        sums = self._sums.get(day)
        if sums is not None:
            _add(self.rules, movement, sums, -1)

    def restore(self, sums: _Sums, day: int) -> None:
        """
        Put the sums of what was booked before under what was counted since.
        """
        for key, units in self._on(day).items():
            sums[key] += units
        self._sums[day] = sums

    def _on(self, day: int) -> _Sums:
        sums = self._sums.get(day)
        if sums is None:
            sums = self._sums[day] = defaultdict(int)
            while len(self._sums) > _DAYS:
                del self._sums[next(iter(self._sums))]
        return sums


@define(eq=False)
class RuleBook:
    """
    The rules of a runtime.

    @ivar groupOf: The group of an account.
    @ivar _read: Calls a blocking function that reads the ledger, in another thread or
        at once, and fires with its result.
    @ivar _coming: Rules that are to come into force when their sums are read, the last
        ones at the end. What is reserved counts for them already.
    @ivar _last: The last operation that was reserved.
    @ivar _promised: What another platform is to book, with its day: see L{promise}.
    """

    _ledger: ILedger
    _rules: Sequence[Rule]
    _now: Callable[[], float]
    _read: "Callable[[Callable[[], Any]], Deferred[Any]]" = maybeDeferred
    groupOf: Callable[[int], str] = lambda login: ""
    _day: _Day = field(default=Factory(lambda: _Day(())), init=False)
    _coming: list[_Day] = field(default=Factory(list), init=False)
    _isStarted: bool = field(default=False, init=False)
    _last: Reservation | None = field(default=None, init=False)
    _promised: dict[int, tuple[Movement, int]] = field(factory=dict, init=False)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """
        The rules in force.
        """
        return self._day.rules

    def judge(
        self, operation: AnyOperation, trade: Trade, change: int
    ) -> Movement | None:
        """
        Apply the rules to an operation. To the making of a finance request, and to its
        approval, only those apply for which no request helps.

        @param trade: What it makes.
        @param change: Of the account's total, in 10⁻⁸ units.
        @return: What the operation moves, if it moves anything.
        @raise LimitExceeded: A rule does not allow it.
        """
        if trade.state == TS_FINANCE_DECLINED:
            return None
        movement = self.movementOf(
            operation, trade.login, trade.cmd, trade.profit, change
        )
        makesRequest = trade.state == TS_FINANCE_OPEN_PENDING
        excess = self._day.excess(
            movement,
            trade.timestamp // SECONDS_PER_DAY,
            makesRequest or isinstance(operation, Decision),
        )
        if excess is not None:
            raise LimitExceeded(excess.sentence, excess.rule.name)
        return None if makesRequest else movement

    def movementOf(
        self, operation: AnyOperation, login: int, cmd: int, profit: int, change: int
    ) -> Movement:
        """
        What an operation moves.

        @param profit: The amount of its trade, in 10⁻⁸ units.
        @param change: What it changes the account's total by.
        """
        return Movement(
            operation.principal,
            operation.role,
            login,
            METHOD_OF[cmd, isinstance(operation, Deletion)],
            # An update may take away more than it leaves.
            max(abs(profit), abs(change)),
            self.groupOf(login),
        )

    def reserved(self, reservation: Reservation, movement: Movement) -> None:
        """
        Count an operation that was judged in this step.
        """
        self._last = reservation
        self._count(movement, reservation.data.timestamp // SECONDS_PER_DAY)

    def promise(self, number: int, movement: Movement, time: int) -> None:
        """
        Count an operation that another platform is to book, at a time that nobody
        knows, or to refuse.

        @param number: Identifies it, for L{settle}.
        @param time: When it was judged, in UNIX seconds.
        """
        day = time // SECONDS_PER_DAY
        if day in self._days():
            self._promised[number] = movement, day
            self._count(movement, day)

    def settle(self, number: int, isBooked: bool) -> None:
        """
        An operation that was promised is in the journal, or will never be: then it does
        not count.
        """
        promised = self._promised.pop(number, None)
        if promised is not None and not isBooked:
            for each in (self._day, *self._coming):
                each.takeBack(*promised)

    def _count(self, movement: Movement, day: int) -> None:
        for each in (self._day, *self._coming):
            each.count(movement, day)

    def _days(self) -> range:
        """
        The present day. Near midnight the other one too: something may have been booked
        on it before the clock was set back, or it may come again.
        """
        now = int(self._now())
        first = (now - MAX_SET_BACK) // SECONDS_PER_DAY
        final = (now + MAX_SET_BACK) // SECONDS_PER_DAY
        return range(first, final + 1)

    def start(self) -> "Deferred[None]":
        """
        Put the first rules into force. The ledger has just been opened.

        @return: As L{use}.
        """
        self._isStarted = True
        return self.use(self._rules)

    def use(self, rules: Sequence[Rule]) -> "Deferred[None]":
        """
        Put rules into force as soon as it is known what counts for them today. Until
        then the former ones are. Before L{start} they take the place of the first ones.

        @return: Fires when they are, or others that were to be used later. It fails if
            the ledger can't be read, and then the former ones stay.
        """
        if not self._isStarted:
            self._rules = rules
            return succeed(None)
        return Deferred.fromCoroutine(self._use(_Day(tuple(rules))))

    async def _use(self, coming: _Day) -> None:
        self._coming.append(coming)
        present = self._days()
        for movement, day in self._promised.values():
            if day in present:
                coming.count(movement, day)
        try:
            days = await self._summedUp(coming.rules)
            # Others that were to be used later may be in force already.
            if coming in self._coming:
                for day, sums in days.items():
                    coming.restore(sums, day)
                self._day = coming
                del self._coming[: self._coming.index(coming)]
        finally:
            if coming in self._coming:
                self._coming.remove(coming)

    async def _summedUp(self, rules: Sequence[Rule]) -> dict[int, _Sums]:
        """
        The sums of the present day, or days, up to the last operation that was reserved
        when this was called.
        """
        last, upTo = self._last, self._ledger.head
        if last is not None and not last.operation.isBooked:
            # It is not in the ledger yet. What is reserved after it gets later places.
            await last.whenDurable()
            assert last.place is not None
            upTo = last.place
        present = self._days()
        days: dict[int, _Sums] = await self._read(
            lambda: {
                day: _summed(rules, self._ledger.movements(day, upTo))
                for day in present
            }
        )
        return days


def _broken(rule: Rule, number: int, movement: Movement, sums: _Sums) -> str | None:
    """
    A sentence about why a rule does not allow a movement, if it does not.
    """
    if not rule.binds(movement):
        return None
    if rule.maxAmount is not None and movement.amount > rule.maxAmount:
        return tooMuchInOne(rule, movement.amount)
    if rule.maxPerDay is not None:
        # Not [], which would add a sum for each that is refused.
        before = sums.get((number, rule.keyOf(movement)), 0)
        if before + movement.amount > rule.maxPerDay:
            return tooMuchOnOneDay(rule)
    return None


def tooMuchInOne(rule: Rule, amount: int) -> str:
    """
    Why a rule does not allow a movement of this amount.
    """
    return _allows(rule, f"{rule.inOne}, and this counts {fromUnits(amount)}")


def tooMuchOnOneDay(rule: Rule) -> str:
    """
    Why a rule does not allow a movement after all that was moved on the day.
    """
    return _allows(rule, f"{rule.onOneDay}, which this would exceed")


def _allows(rule: Rule, atMost: str) -> str:
    request = "; ask for it with MngCreateFinanceRequest" * rule.mayBeRequested
    return f'the limit "{rule.name}" allows at most {atMost}{request}'


def _add(
    rules: Sequence[Rule], movement: Movement, sums: _Sums, times: int = 1
) -> None:
    for number, rule in enumerate(rules):
        if rule.maxPerDay is not None and rule.binds(movement):
            sums[number, rule.keyOf(movement)] += times * movement.amount


def _summed(rules: Sequence[Rule], movements: Iterable[Movement]) -> _Sums:
    sums: _Sums = defaultdict(int)
    for movement in movements:
        _add(rules, movement, sums)
    return sums
