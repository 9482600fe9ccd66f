"""
The rules of a site: what may be booked in one operation and on one day
(C{docs/operations.rst}, "Limits of what may be booked").

What was booked never exceeds a rule, whatever was under way together. And a refusal
has its reason: what was booked and what may have been under way, with the operation
itself, is more than the rule allows.
"""

from collections import defaultdict
from collections.abc import Iterator
from random import Random

from attrs import define, field

from tests.family import DECLINED, DELETED, NAMES, WAITS, Trade
from tests.simulation.history import Attempt, Booking, History, Intent, Moment
from tests.simulation.rights import Rights, selects
from tests.simulation.world import Violation, World

_DAY = 86_400
# Seconds by which a clock may be set back without a day's sums being forgotten.
_SET_BACK = 3600
# A million, in 10⁻⁸ units.
_MILLION = 10**14
_ROLES = {1: "manager", 2: "dealer", 3: "admin"}
_DEPOSITS = ("CreditIn", "BalanceIn")


@define(frozen=True)
class SiteRule:
    """
    A rule.

    @ivar inOne: At most this in one operation, in 10⁻⁸ units.
    @ivar onOneDay: At most this on one day.
    @ivar mayAsk: Whether what it refuses may be asked for in another way.
    """

    name: str
    inOne: int | None = None
    onOneDay: int | None = None
    per: str = "principal"
    mayAsk: bool = False
    roles: tuple[int, ...] | None = None
    groups: str | None = None
    commands: tuple[str, ...] | None = None

    @property
    def text(self) -> str:
        """
        The table in the file.
        """
        lines = ["[[limit]]", f'name = "{self.name}"']
        if self.inOne is not None:
            lines.append(f"max-amount = {self.inOne // 10**8}")
        if self.onOneDay is not None:
            lines.append(f"max-per-day = {self.onOneDay // 10**8}")
            lines.append(f'per = "{self.per}"')
        if self.mayAsk:
            lines.append('over = "request"')
        if self.roles is not None:
            lines.append(f"roles = {[_ROLES[role] for role in self.roles]}")
        if self.groups is not None:
            lines.append(f'groups = "{self.groups}"')
        if self.commands is not None:
            lines.append(f"commands = {list(self.commands)}")
        return "\n".join(lines) + "\n"

    def keyOf(self, intent: Intent, login: int) -> int:
        """
        Whose sum an operation counts for.
        """
        token = intent.token
        keys = {"principal": token.principal, "login": login, "role": token.role}
        return keys.get(self.per, 0)

    def binds(self, intent: Intent, method: str) -> bool:
        """
        Whether it binds an operation, apart from the account's group.
        """
        isRole = self.roles is None or intent.token.role in self.roles
        return isRole and (self.commands is None or method in self.commands)


def rulesOf(random: Random) -> tuple[SiteRule, ...]:
    """
    Draw some rules.
    """
    few, many = random.randint(1, 40), random.randint(500, 3000)
    rules = (
        SiteRule("a day each", onOneDay=many * _MILLION),
        SiteRule("a day", onOneDay=4 * many * _MILLION, per="all", commands=_DEPOSITS),
        SiteRule("dealers", onOneDay=few * _MILLION, per="role", roles=(2,)),
        SiteRule("an account", onOneDay=many * _MILLION, per="login", mayAsk=True),
        SiteRule("large", inOne=900 * _MILLION, mayAsk=True),
        SiteRule("taken", inOne=few * _MILLION, commands=("CreditOut", "DeleteCredit")),
        SiteRule("real", inOne=few * _MILLION, groups="real*"),
    )
    return tuple(rule for rule in rules if random.random() < 0.4) or rules[:1]


@define(eq=False)
class Limiting:
    """
    The judge of what the rules allow.
    """

    _world: World
    _history: History
    _rights: Rights
    _rules: tuple[SiteRule, ...]
    # Of each order.
    _bookings: dict[int, list[Booking]] = field(
        init=False, factory=lambda: defaultdict(list)
    )
    # What each booking counts.
    _counted: dict[Booking, int] = field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        for each in self._history.bookings if self._rules else ():
            trade, before = each.trade, self._before(each)
            self._bookings[trade.order].append(each)
            self._counted[each] = _counts(trade, before)

    def _before(self, booking: Booking) -> Trade | None:
        earlier = [
            each
            for each in self._bookings[booking.trade.order]
            if not each.isLost or each.generation == booking.generation
        ]
        return earlier[-1].trade if earlier else None

    def check(self) -> None:
        """
        Check that what was booked is within the rules.
        """
        offsets = [offset for _, offset in self._world.steps]
        # After a clock was set back by more, a day that is over may come again.
        isSteady = max(offsets) - min(offsets) <= _SET_BACK
        for rule in self._rules:
            self._checkEach(rule)
            if rule.onOneDay is not None and isSteady:
                self._checkDays(rule, rule.onOneDay)

    def _checkEach(self, rule: SiteRule) -> None:
        for each in self._booked():
            amount = self._counted[each]
            if each.trade.state == WAITS:
                # It counts only when it is approved, but is judged already.
                amount = abs(each.trade.profit)
            if rule.inOne is None or amount <= rule.inOne:
                continue
            isExempt = rule.mayAsk and each.isOfRequests
            if self._isBound(rule, each) and rule.groups is None and not isExempt:
                raise Violation(
                    "limit",
                    f"{each.trade} is more than {rule.name!r} allows",
                    (str(each.trade.order),),
                )

    def _checkDays(self, rule: SiteRule, most: int) -> None:
        sums: dict[tuple[int, int], int] = defaultdict(int)
        for each in self._booked():
            if not self._isBound(rule, each):
                continue
            assert each.intent is not None
            day = each.trade.timestamp // _DAY
            key = day, rule.keyOf(each.intent, each.trade.login)
            sums[key] += self._counted[each]
            # An approval that need not keep to the rule counts for it all the same.
            if sums[key] > most and not (rule.mayAsk and each.isOfRequests):
                raise Violation(
                    "limit",
                    f"with {each.trade} it is more than {rule.name!r} allows:"
                    f" {sums[key]}",
                    (str(each.trade.order),),
                )

    def _booked(self) -> Iterator[Booking]:
        return (each for each in self._counted if each.intent and not each.isLost)

    def _isBound(self, rule: SiteRule, booking: Booking) -> bool:
        intent = booking.intent
        method = NAMES[booking.trade.cmd] if booking.isOfRequests else booking.command
        return intent is not None and rule.binds(intent, _methodOf(method))

    def isJustified(self, attempt: Attempt) -> bool:
        """
        Whether there was a reason for a refusal by a rule.
        """
        intent, reply = attempt.intent, attempt.reply
        assert attempt.delivered is not None and reply is not None
        message = str(reply.value["message"])
        named = [r for r in self._rules if message.startswith(f'the limit "{r.name}" ')]
        if len(named) != 1 or any(
            intent.key is not None and each.applied and each.applied < attempt.delivered
            for each in intent.bookings
        ):
            # It names no rule; or it was booked before, and should be told so.
            return False
        [rule] = named
        if rule.mayAsk and (intent.isRequest or intent.approves is not None):
            return False
        mayAsk = message.endswith("; ask for it with MngCreateFinanceRequest")
        return mayAsk == rule.mayAsk and any(
            self._isTooMuch(rule, attempt, login, counts)
            for login, counts in self._mayCount(attempt)
        )

    def _mayCount(self, attempt: Attempt) -> Iterator[tuple[int, int]]:
        """
        The accounts and the amounts with which an operation may have counted.
        """
        intent, reply = attempt.intent, attempt.reply
        assert reply is not None
        versions = [
            each.trade
            for each in self._bookings.get(intent.data.get("order", 0), ())
            if each.handed <= reply.written or self._mayBeUnderWay(each, reply.written)
        ]
        if intent.isOfOrder:
            if intent.approves is not False:
                yield from ((each.login, abs(each.profit)) for each in versions)
            return
        yield intent.data["login"], abs(intent.amount)
        for each in versions:
            yield each.login, max(abs(intent.amount), abs(intent.amount - each.counted))

    def _mayBeUnderWay(self, booking: Booking, moment: Moment) -> bool:
        return booking.intent is not None and any(
            each.delivered is not None and each.delivered <= moment
            for each in booking.intent.attempts
        )

    def _isTooMuch(
        self, rule: SiteRule, attempt: Attempt, login: int, counts: int
    ) -> bool:
        intent, delivered, reply = attempt.intent, attempt.delivered, attempt.reply
        assert delivered is not None and reply is not None
        methods = {_methodOf(intent.command)}
        if intent.isRequest:
            methods = {NAMES[intent.cmd]}
        elif intent.approves:
            told = self._bookings.get(intent.data["order"], ())
            methods = {NAMES[each.trade.cmd] for each in told}
        if not any(rule.binds(intent, method) for method in methods):
            return False
        if rule.groups is not None and not any(
            selects(rule.groups, group)
            for group in self._rights.groups(login, delivered, reply.written)
        ):
            return False
        if rule.inOne is not None:
            return counts > rule.inOne
        assert rule.onOneDay is not None
        generation = self._history.generations[attempt.talk.generation]
        if generation.hasCrashed or generation.hasFailed:
            # Operations that were reserved and then lost counted too.
            return True
        first, last = self._world.wallBetween(delivered[0], reply.written[0])
        key = rule.keyOf(intent, login)
        return any(
            self._mostOn(rule, day, key, attempt) + counts > rule.onOneDay
            for day in range(int(first) // _DAY, int(last) // _DAY + 1)
        )

    def _mostOn(self, rule: SiteRule, day: int, key: int, attempt: Attempt) -> int:
        """
        The greatest sum that there may have been.
        """
        assert attempt.reply is not None
        moment, process = attempt.reply.written, attempt.talk.generation
        return sum(
            counts
            for each, counts in self._counted.items()
            if each.trade.timestamp // _DAY == day
            and (each.generation == process or not each.isLost)
            and each.intent is not None
            and self._isBound(rule, each)
            and rule.keyOf(each.intent, each.trade.login) == key
            and self._mayBeUnderWay(each, moment)
        )


def _methodOf(command: str) -> str:
    return command.removesuffix("Sync")


def _counts(trade: Trade, before: Trade | None) -> int:
    """
    What an operation counts that made this trade of the one before.
    """
    if trade.state in (WAITS, DECLINED):
        return 0
    if trade.state == DELETED:
        return abs(trade.profit)
    change = trade.profit - (0 if before is None else before.counted)
    return max(abs(trade.profit), abs(change))
