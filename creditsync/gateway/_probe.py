"""
Trying on a test account what the platform's pages leave open.

The probe books two credits of 0.01 and deletes them again. It finds out whether one
shot can identify a trade by its content, and whether two phases are sound: that only
what is pending can be approved, and that only once.
"""

from collections.abc import Mapping
from typing import Any, Final

from attrs import Factory, define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from zope.interface import implementer

from creditsync.codes import (
    MAX_COMMENT,
    OP_CREDIT_IN,
    TS_CLOSED_NORMAL,
    TS_DELETED,
    TS_FINANCE_DECLINED,
    TS_FINANCE_OPEN_PENDING,
    UNITS_PER_ONE,
)
from creditsync.gateway._interfaces import IUpstream, IUpstreamObserver
from creditsync.gateway._looking import (
    lookAt,
    search,
    searchAll,
    searchMoment,
)
from creditsync.gateway._outcomes import Kind, Outcome
from creditsync.gateway._records import contentOf, isInMilliseconds
from creditsync.records import Trade

_COMMENT: Final = "creditsync probe"
# As long as any that has a number of a gateway's log.
_TAG: Final = " ~0000.zzzzzz"
_AMOUNT: Final = 0.01
_UNITS: Final = UNITS_PER_ONE // 100

# How often, and how many times, an order is looked at until it is as expected.
_INTERVAL: Final = 0.5
_LOOKS: Final = 40

_APPROVE: Final = "MngApproveFinanceRequest"
_DECLINE: Final = "MngDeclineFinanceRequest"


@implementer(IUpstreamObserver)
@define(eq=False)
class Arrival:
    """
    Waits for the platform. What it tells does not matter here.

    @ivar arrived: Fires when the platform has accepted the token.
    """

    arrived: Deferred[None] = Factory(Deferred)

    def connected(self) -> None:
        """
        See L{IUpstreamObserver.connected}.
        """
        if not self.arrived.called:
            self.arrived.callback(None)

    def interrupted(self) -> None:
        """
        See L{IUpstreamObserver.interrupted}.
        """

    def eventReceived(self, type: int, data: Mapping[str, Any]) -> None:
        """
        See L{IUpstreamObserver.eventReceived}.
        """

    def repliedLate(self, tag: object, outcome: Outcome) -> None:
        """
        See L{IUpstreamObserver.repliedLate}.
        """


@define(frozen=True)
class Finding:
    """
    What was found out.

    @ivar way: Of which way it is a condition.
    @ivar isMet: Whether it is met.
    """

    way: str
    isMet: bool
    text: str


@define(eq=False)
class Probe:
    """
    One probe.

    @ivar longest: Characters that a comment may have; after the probe no more than the
        platform keeps.
    @ivar _second: The C{open_time} of the next trade: one that no earlier trade has.
    """

    _clock: IReactorTime
    _upstream: IUpstream
    _login: int
    _second: int
    longest: int = MAX_COMMENT
    findings: list[Finding] = Factory(list)

    async def run(self) -> list[Finding]:
        """
        Try everything.
        """
        await self._oneShot()
        await self._twoPhases()
        return self.findings

    def isSound(self, way: str) -> bool:
        """
        Whether all conditions of a way are met.
        """
        found = [each.isMet for each in self.findings if each.way == way]
        return bool(found) and all(found)

    def _note(self, way: str, isMet: bool, text: str) -> bool:
        self.findings.append(Finding(way, isMet, text))
        return isMet

    async def _ask(self, command: str, **data: Any) -> Outcome:
        return await self._upstream.request(command, data)

    def _content(self) -> dict[str, Any]:
        self._second += 1
        return {
            "login": self._login,
            "amount": _AMOUNT,
            "comment": _COMMENT,
            "open_time": self._second,
        }

    async def _until(self, order: int, state: int) -> Trade | None:
        """
        Wait until an order is in a state.

        @return: Its trade, or L{None} if that takes too long.
        """
        for _ in range(_LOOKS):
            look = await lookAt(self._upstream, order)
            if look.trade is not None and look.trade.state == state:
                return look.trade
            await deferLater(self._clock, _INTERVAL)
        return None

    async def _oneShot(self) -> None:
        way, data = "one-shot", self._content()
        outcome = await self._ask("CreditIn", **data)
        order = outcome.order if outcome.kind is Kind.DONE else None
        if not self._note(
            way,
            order is not None,
            f"a CreditIn is accepted with an order{_why(outcome)}",
        ):
            return
        assert order is not None
        trade = await self._until(order, TS_CLOSED_NORMAL)
        if not self._note(way, trade is not None, "it is looked up as booked, state 3"):
            return
        assert trade is not None
        isKept = self._isKept(trade)
        self._note(way, isKept, "its amount, comment and open_time are kept")
        found = await self._found(order)
        self._note(way, found == [order], "MngGetTradesByFilter finds it, and only it")
        await self._comments(order)
        await self._ask("DeleteCredit", order=order)
        deleted = await self._until(order, TS_DELETED)
        self._note(way, deleted is not None, "it is deleted, state 6")

    def _isKept(self, trade: Trade) -> bool:
        """
        Whether a trade has the content that was sent last: operations are found by it,
        and finance requests that were made in vain.
        """
        wanted = self._login, OP_CREDIT_IN, _UNITS, _COMMENT, self._second
        return contentOf(trade) == wanted

    async def _comments(self, order: int) -> None:
        """
        Find out how much of a comment is kept, and whether that much keeps a tag.
        """
        comment, seen, why = await self._comment(order, _COMMENT)
        if len(_COMMENT) < len(seen) < len(comment) and comment.startswith(seen):
            self.longest = len(seen)
            why = "; longer ones are cut"
            comment, seen, problem = await self._comment(order, seen)
            why += problem
        self._note(
            "comment-tag",
            seen == comment and len(_TAG) < self.longest,
            f"a comment of {self.longest} characters keeps the tag at its end{why}",
        )

    async def _comment(self, order: int, former: str) -> tuple[str, str, str]:
        """
        Give a trade the longest comment, with a tag at its end.

        @param former: The comment that it has.
        @return: The comment, what the platform shows of it, and what it said if it has
            refused that.
        """
        room = max(self.longest - len(_TAG), 0)
        comment, seen = _COMMENT.ljust(room, ".")[:room] + _TAG, former
        data = {"login": self._login, "amount": _AMOUNT, "comment": comment}
        outcome = await self._ask("CreditIn", **data, order=order)
        for _ in range(_LOOKS):
            if outcome.kind is not Kind.DONE or seen != former:
                break
            await deferLater(self._clock, _INTERVAL)
            look = await lookAt(self._upstream, order)
            seen = seen if look.trade is None else look.trade.comment
        return comment, seen, _why(outcome)

    async def _found(self, order: int) -> list[int]:
        """
        The orders that a look-up shows of the time that was sent last.

        @param order: The one that was made then.
        """
        rows = await search(self._upstream, [["order", "==", order]]) or ()
        scale = 1000 if any(map(isInMilliseconds, rows)) else 1
        found = await searchMoment(
            self._upstream, self._login, OP_CREDIT_IN, self._second, scale
        )
        return [trade.order for trade in found or ()]

    async def _create(self, way: str) -> int | None:
        outcome = await self._ask(
            "MngCreateFinanceRequest",
            cmd=OP_CREDIT_IN,
            gw_source="creditsync",
            gw_uuid="probe",
            **self._content(),
        )
        order = outcome.order if outcome.kind is Kind.DONE else None
        self._note(
            way,
            order is not None,
            f"a finance request is accepted with an order{_why(outcome)}",
        )
        if order is not None:
            # Approved is what this reply names: with these it can't be another's.
            named = outcome.data.get("login"), outcome.data.get("cmd")
            self._note(
                way,
                named == (self._login, OP_CREDIT_IN),
                "the reply to that names its account and kind of trade",
            )
        return order

    async def _twoPhases(self) -> None:
        way = "two-phase"
        order = await self._create(way)
        if order is None:
            return
        pending = await self._until(order, TS_FINANCE_OPEN_PENDING)
        self._note(way, pending is not None, "it is looked up as pending, state 17")
        isKept = pending is not None and self._isKept(pending)
        self._note(way, isKept, "its amount, comment and open_time are kept")
        waiting = [["state", "==", TS_FINANCE_OPEN_PENDING]]
        found = await searchAll(self._upstream, waiting)
        orders = [trade.order for trade in found or ()]
        self._note(way, order in orders, "MngGetTradesByFilter finds it by its state")
        approved = await self._ask(_APPROVE, order=order)
        self._note(
            way,
            approved.kind is Kind.DONE and approved.order == order,
            f"its maker may approve it{_why(approved)}",
        )
        again = await self._ask(_APPROVE, order=order)
        self._note(way, again.kind is Kind.REFUSED, "a second approval is refused")
        booked = await self._until(order, TS_CLOSED_NORMAL)
        self._note(way, booked is not None, "it is booked under its order, state 3")
        late = await self._ask(_APPROVE, order=order)
        self._note(way, late.kind is Kind.REFUSED, "one after its booking is refused")
        self._note(way, await self._found(order) == [order], "it was booked once")
        await self._ask("DeleteCredit", order=order)
        await self._decline(way)

    async def _decline(self, way: str) -> None:
        order = await self._create(way)
        if order is None:
            return
        await self._ask(_DECLINE, order=order)
        declined = await self._until(order, TS_FINANCE_DECLINED)
        self._note(way, declined is not None, "another one is declined, state 18")
        late = await self._ask(_APPROVE, order=order)
        self._note(way, late.kind is Kind.REFUSED, "its approval is refused then")


def _why(outcome: Outcome) -> str:
    """
    What the platform said instead.
    """
    if outcome.kind is Kind.DONE:
        return ""
    return f" ({outcome.error or outcome.kind.value}: {outcome.message})"


def profileOf(probe: Probe, former: Mapping[str, Any]) -> str:
    """
    The profile that says what a probe has found.

    @param former: The one before, whose choices for comments are kept. There is no tag
        where the platform does not keep it, and the length is never more than that.
    """
    lines = []
    longest = min(former.get("comment-length", MAX_COMMENT), probe.longest)
    if "comment-length" in former or longest < MAX_COMMENT:
        lines.append(f"comment-length = {longest}")
    if former.get("comment-tag"):
        isKept = "true" if probe.isSound("comment-tag") else "false"
        lines.append(f"comment-tag = {isKept}")
    findings = [
        f"# {each.way}: {'yes' if each.isMet else 'NO '} {each.text}"
        for each in probe.findings
    ]
    isSound = "true" if probe.isSound("two-phase") else "false"
    first = "# Written by creditsync gateway probe."
    return "\n".join([first, *findings, f"two-phase = {isSound}", *lines, ""])
