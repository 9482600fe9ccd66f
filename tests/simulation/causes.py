"""
The checks of refusals: whether each had a cause.
"""

from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal

from attrs import define, field

from creditsync.records import Limits
from tests.family import TOTALS, WAITS, Trade
from tests.simulation.history import Attempt, Booking, History, Intent, Moment
from tests.simulation.limiting import Limiting
from tests.simulation.permits import Permits
from tests.simulation.places import Places
from tests.simulation.setting import Setting
from tests.simulation.world import World


@define(eq=False)
class Causes:
    """
    The judge of refusals.
    """

    _world: World
    _history: History
    _setting: Setting
    _places: Places
    _permits: Permits
    _limiting: Limiting
    _byKey: dict[tuple[int, str], list[Intent]] = field(
        init=False, factory=lambda: defaultdict(list)
    )

    def __attrs_post_init__(self) -> None:
        for intent in self._history.intents:
            if intent.isFinance:
                for key in self.keysOf(intent):
                    self._byKey[key].append(intent)

    def keysOf(self, intent: Intent) -> Iterator[tuple[int, str]]:
        """
        The keys under which an intent was requested.
        """
        principal = intent.token.principal
        if intent.key is not None:
            yield principal, intent.key
        elif self._setting.isExtIDIdempotent:
            for attempt in intent.attempts:
                extID = attempt.extID
                isText = extID.startswith('"')
                key = extID.strip('"') if isText else f"#{int(float(extID))}"
                yield principal, key

    def isAllowed(self, attempt: Attempt, error: str) -> bool:
        """
        Whether there was a cause for an error.
        """
        intent, talk, reply = attempt.intent, attempt.talk, attempt.reply
        assert reply is not None and attempt.delivered is not None
        delivered, written = attempt.delivered[0], reply.written[0]
        limits, default = self._setting.limits, Limits()
        if error == "UNAUTHORIZED":
            return error in intent.allowed or self.wasBad(attempt, delivered, written)
        if error == "FORBIDDEN":
            # Each is judged already.
            return True
        if error == "LIMIT_EXCEEDED":
            self._world.happens("over-rule")
            return intent.isFinance and self._limiting.isJustified(attempt)
        if error == "SHUTDOWN":
            generation = self._history.generations[talk.generation]
            return written >= generation.stopping
        if error == "SYNC_TIMEOUT":
            mayLackOrder = intent.isMove or intent.waitsForTurn
            return mayLackOrder or (intent.isFinance and self._isTold(attempt))
        if error == "BUSY" and intent.waitsForTurn and self._mayWait(attempt):
            return True
        if error == "TECH_PROBLEM":
            # A page that can't be read.
            return intent.waitsForTurn and self._world.counts["page-errs"] > 0
        if error == "BUSY":
            self._world.happens("over-limit")
            return (limits.maxPending, limits.maxQueued) != (
                default.maxPending,
                default.maxQueued,
            )
        if error == "TOO_MANY_REQUESTS":
            self._world.happens("over-limit")
            return self._inFlight(attempt) >= limits.maxPendingPerSession
        if error == "DUPLICATE_EXTID":
            return self._isDuplicate(attempt)
        if error == "IDEMPOTENCY_KEY_REUSED":
            return self._isOther(attempt)
        if error == "INCORRECT_ORDER" and self._history.isForeign:
            return intent.isFinance
        if error == "INCORRECT_ORDER" and intent.approves is not None:
            return self._isNotWaiting(attempt)
        if error == "TRADE_NO_MONEY" and not self._history.isForeign:
            return error in intent.allowed and self._lacksMoney(attempt)
        if error == "CURSOR_GONE":
            return error in intent.allowed and self._places.isGone(attempt)
        isOurs = intent.isGood and not self._history.isForeign
        if error in ("NOT_FOUND", "TRADE_NOT_FOUND") and isOurs:
            return error in intent.allowed and self._permits.mayBeHidden(attempt)
        if error == "USER_NOT_FOUND":
            return error in intent.allowed and not self._permits.isKnown(attempt)
        return error in intent.allowed

    def wasBad(self, attempt: Attempt, first: float, last: float) -> bool:
        """
        Whether the token was invalid at any moment of this time.
        """
        token = attempt.token
        if token.revoked is not None and token.revoked < last:
            return True
        if token.expires is None:
            return False
        return self._world.wallBetween(first, last)[1] >= token.expires

    def _isTold(self, attempt: Attempt) -> bool:
        """
        Whether a 504 names the reserved order.
        """
        if self._history.isForeign:
            return True
        assert attempt.reply is not None
        order = attempt.reply.value.get("data", {}).get("order")
        return isinstance(order, int) and order > 0

    def _mayWait(self, attempt: Attempt) -> bool:
        """
        Whether a look-up may have waited too long for its turn: because others took
        their time, or its client did not read.
        """
        assert attempt.delivered is not None and attempt.reply is not None
        first, last = attempt.delivered[0], attempt.reply.written[0]
        isSlow = self._world.counts["slow-page"] > 0
        return isSlow or attempt.talk.wasHeldUp(first, last)

    def _inFlight(self, attempt: Attempt) -> int:
        """
        How many of a session's requests were pending when this one came.
        """
        assert attempt.delivered is not None and attempt.reply is not None
        moment, written = attempt.delivered, attempt.reply.written
        return sum(
            each.delivered is not None
            and each.delivered <= written
            and (each.reply is None or each.reply.written >= moment)
            for each in attempt.talk.attempts
            if each is not attempt
        )

    def _isDuplicate(self, attempt: Attempt) -> bool:
        return any(
            each is not attempt and each.extID == attempt.extID
            for each in attempt.talk.attempts
        )

    def _isOther(self, attempt: Attempt) -> bool:
        """
        Whether another request has the same key and the order in the reply,
        and differs in the member in the reply.
        """
        reply, intent = attempt.reply, attempt.intent
        assert reply is not None
        order = reply.value["data"]["order"]
        member = reply.value["message"].split(" ")[0]
        return any(
            _member(other, member) != _member(intent, member)
            and all(booking.trade.order == order for booking in other.bookings)
            for key in self.keysOf(intent)
            for other in self._byKey[key]
        )

    def _lacksMoney(self, attempt: Attempt) -> bool:
        """
        Whether the account may have had too little when this request came.
        """
        intent, delivered = attempt.intent, attempt.delivered
        assert delivered is not None and attempt.reply is not None
        generation = self._history.generations[attempt.talk.generation]
        if generation.hasCrashed or generation.hasFailed:
            # Operations that were reserved and then lost counted too.
            return True
        written = attempt.reply.written
        totals: dict[tuple[int, str], int] = defaultdict(int)
        trades: dict[int, Trade] = {}
        order = intent.data.get("order", 0)
        for booking in self._history.bookings:
            if booking.isLost:
                continue
            trade = booking.trade
            if booking.applied and booking.applied < delivered:
                pass
            elif not self._wasReservedBy(booking, written):
                break
            elif self._isTooMuch(intent, totals, trades.get(order)):
                return True
            before = trades.get(trade.order)
            totals[trade.account] += _counted(trade) - _counted(before)
            trades[trade.order] = trade
        return self._isTooMuch(intent, totals, trades.get(order))

    def _isNotWaiting(self, attempt: Attempt) -> bool:
        """
        Whether the order in a decision may have been no finance request that waits.
        """
        assert attempt.reply is not None
        generation = self._history.generations[attempt.talk.generation]
        # A decision that was reserved and then lost counted too.
        return (
            generation.hasCrashed
            or generation.hasFailed
            or any(
                each.trade.state != WAITS
                and self._wasReservedBy(each, attempt.reply.written)
                for each in self._history.bookings
                if each.trade.order == attempt.intent.data["order"]
            )
        )

    def _wasReservedBy(self, booking: Booking, moment: Moment) -> bool:
        intent = booking.intent
        return intent is not None and any(
            each.delivered is not None and each.delivered <= moment
            for each in intent.attempts
        )

    def _isTooMuch(
        self,
        intent: Intent,
        totals: dict[tuple[int, str], int],
        before: Trade | None,
    ) -> bool:
        """
        Whether the request would exceed the bounds of these totals.
        """
        if intent.isDelete:
            if before is None:
                return False
            return totals[before.account] < _counted(before)
        if intent.approves:
            return before is not None and totals[before.account] + before.profit < 0
        account = intent.data["login"], TOTALS[intent.cmd]
        return totals[account] + intent.amount - _counted(before) < 0


def _counted(trade: Trade | None) -> int:
    """
    The amount that a trade adds to its account's total.
    """
    return 0 if trade is None else trade.counted


def _member(intent: Intent, member: str) -> object:
    """
    A member of a request, by its name in a 422.
    """
    if member == "command":
        return intent.command
    value = intent.data.get(member.removeprefix("data."))
    return Decimal(value) if member == "data.amount" and value else value
