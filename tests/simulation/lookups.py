"""
The rules of look-ups (C{docs/protocol.rst}, "Other commands" and "Look-ups"): what they
tell was so at some moment between the request and its reply, and it is all that the
token may see.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from attrs import define, field

from tests.family import REQUESTED, TOTALS, Trade, eventData
from tests.simulation.history import Attempt, Booking, History, Moment
from tests.simulation.places import Places
from tests.simulation.rights import Rights, selects

_MEMBERS = ["order", "login", "cmd", "state", "profit", "comment", "symbol", "volume"]
_MEMBERS += ["open_price", "close_price", "open_time", "close_time", "sl", "tp"]
_MEMBERS += ["storage", "commission", "reason", "timestamp"]
_WITH_GROUP = [*_MEMBERS, "group", "update_time"]


@define
class _Found:
    """
    An order that a filter may have found.

    @ivar isSure: Whether it has to be found.
    @ivar trades: What it may have been.
    """

    isSure: bool
    trades: list[Trade]


@define(eq=False)
class Lookups:
    """
    The checks of successful look-ups.
    """

    _history: History
    _places: Places
    _rights: Rights
    # Of each order.
    _bookings: dict[int, list[Booking]] = field(
        init=False, factory=lambda: defaultdict(list)
    )

    def __attrs_post_init__(self) -> None:
        for each in self._history.bookings:
            self._bookings[each.trade.order].append(each)

    def isTrue(self, attempt: Attempt, data: dict[str, Any]) -> bool | None:
        """
        Whether this is the answer to a look-up; L{None} if the request is none.
        """
        judges: dict[str, Callable[[Attempt, dict[str, Any]], bool]] = {
            "GetOperation": self._isVersion,
            "GetTradeByOrder": self._isVersion,
            "GetTradeByOrders": self._areVersions,
            "GetAccountByLogin": self._isAccount,
            "GetGroups": self._areGroups,
            "MngGetTradesByFilter": self._areFound,
        }
        judge = judges.get(attempt.intent.command)
        if judge is None:
            return None
        # Nothing is known of the books of a foreign runtime.
        return self._history.isForeign or judge(attempt, data)

    # Orders.

    def _isVersion(self, attempt: Attempt, data: dict[str, Any]) -> bool:
        """
        Whether an order was, or was going to be, in this state.
        """
        cursor = data.pop("cursor", None)
        order = attempt.intent.data.get("order", data["order"])
        isPending = data["state"] in REQUESTED.values()
        if data["order"] != order:
            return False
        shown = self._shown(attempt, data)
        if shown is not None:
            booking = None if isPending else shown
            return self._places.isLastChange(attempt, booking, cursor)
        # An operation that was reserved and never handed to the ledger can't
        # be compared.
        return isPending

    def _shown(self, attempt: Attempt, data: Mapping[str, Any]) -> Booking | None:
        """
        The booking whose trade this is, or is going to be.
        """
        assert attempt.delivered is not None
        told = self._bookings.get(data["order"], [])
        before = [b for b in told if b.applied and b.applied < attempt.delivered]
        current = told[told.index(before[-1]) :] if before else told
        states = {data["state"]} & set(REQUESTED.values())
        for booking in current:
            for state in {booking.trade.state, *states}:
                if data == eventData(booking.trade._replace(state=state)):
                    return booking
        return None

    def _areVersions(self, attempt: Attempt, data: dict[str, Any]) -> bool:
        """
        Whether orders were in these states, in the order in which they were asked for.
        """
        if list(data) != ["structure", "rows"] or data["structure"] != _MEMBERS:
            return False
        rows = [dict(zip(_MEMBERS, row, strict=True)) for row in data["rows"]]
        return [row["order"] for row in rows] == attempt.intent.data["orders"] and all(
            self._shown(attempt, row) or row["state"] in REQUESTED.values()
            for row in rows
        )

    # Accounts.

    def _isAccount(self, attempt: Attempt, data: dict[str, Any]) -> bool:
        """
        Whether an account was in this state, as the ledger had it.
        """
        first, last = _span(attempt)
        login = attempt.intent.data["login"]
        isGroup = data.pop("group") in self._rights.groups(login, first, last)
        return isGroup and any(
            data == {"login": login, **_amounts(state), "enable": 1}
            for state in self._statesOf(login, attempt)
        )

    def _statesOf(self, login: int, attempt: Attempt) -> list[dict[str, int]]:
        """
        The totals that an account may have had while a request was answered.
        """
        first, _ = _span(attempt)
        totals, states = {"balance": 0, "credit": 0}, [{"balance": 0, "credit": 0}]
        counted: dict[int, int] = {}
        for booking in self._history.bookings:
            trade = booking.trade
            if trade.login != login or not _mayBeOnDisk(booking, attempt):
                continue
            change = trade.counted - counted.get(trade.order, 0)
            totals[trade.account[1]] += change
            counted[trade.order] = trade.counted
            if booking.applied is not None and booking.applied < first:
                states.clear()
            states.append(dict(totals))
        return states

    def _areGroups(self, attempt: Attempt, data: dict[str, Any]) -> bool:
        """
        Whether accounts were in these groups, and in no others that the token may see.
        """
        first, last = _span(attempt)
        token, found = attempt.token, data["groups"]
        logins = {each.login for each in self._history.moves}
        # Until it is moved, or something is booked, there is no account.
        known = {each.login for each in self._history.moves if each.isThere}
        known |= {each.trade.login for each in self._history.bookings}
        possible, sure = {""}, set[str]()
        for login in logins | known:
            groups = self._rights.groups(login, first, last)
            possible |= groups
            if groups != {""} and len(groups) == 1:
                sure |= groups
        isSeen = all(self._rights.seesGroup(token, group) for group in found)
        sure = {group for group in sure if self._rights.seesGroup(token, group)}
        isSorted = found == sorted(set(found))
        return isSorted and isSeen and sure <= set(found) <= possible

    # Filters.

    def _areFound(self, attempt: Attempt, data: dict[str, Any]) -> bool:
        """
        Whether these are the trades that a filter had to find.
        """
        if list(data) != ["structure", "rows", "count", "totals"]:
            return False
        candidates = dict(self._candidates(attempt))
        sure = [each for each in candidates.values() if each.isSure]
        rows, count = data["rows"], data["count"]
        isCount = len(sure) <= count <= len(candidates)
        limit = min(count, attempt.intent.data["limit"])
        if data["structure"] != _WITH_GROUP or not isCount or len(rows) != limit:
            return False
        orders = [row[0] for row in rows]
        return (
            orders == sorted(set(orders))
            and all(self._isFound(row, candidates, attempt) for row in rows)
            and self._isTotal(data["totals"], candidates.values())
        )

    def _isFound(
        self, row: list[Any], candidates: Mapping[int, _Found], attempt: Attempt
    ) -> bool:
        shown = dict(zip(_WITH_GROUP, row, strict=True))
        found = candidates.get(shown["order"])
        group, changed = shown.pop("group"), shown.pop("update_time")
        first, last = _span(attempt)
        return (
            found is not None
            and changed == shown["timestamp"]
            and group in self._rights.groups(shown["login"], first, last)
            and any(shown == eventData(trade) for trade in found.trades)
        )

    def _isTotal(
        self, totals: Mapping[str, Decimal], candidates: Iterable[_Found]
    ) -> bool:
        """
        Whether these are the sums, if it is known of what.
        """
        sums = {"balance": 0, "credit": 0}
        for each in candidates:
            if not each.isSure or len(each.trades) != 1:
                return True
            sums[TOTALS[each.trades[0].cmd]] += each.trades[0].counted
        return totals == _amounts(sums)

    def _candidates(self, attempt: Attempt) -> Iterator[tuple[int, _Found]]:
        """
        The orders that a filter may find.
        """
        first, last = _span(attempt)
        intent = attempt.intent
        [[_, _, wanted]] = intent.data["where"]
        mask = intent.data["groupFilter"]
        for order, told in self._bookings.items():
            login = told[0].trade.login
            may = [each for each in told if _mayBeOnDisk(each, attempt)]
            sees = self._rights.sees(attempt.token, login, first, last)
            groups = self._rights.groups(login, first, last)
            isSelected = {selects(mask, group) for group in groups}
            if login != wanted or not may or True not in sees or True not in isSelected:
                continue
            before = [n for n, b in enumerate(may) if b.applied and b.applied < first]
            isSure = bool(before) and sees == isSelected == {True}
            trades = [each.trade for each in may[before[-1] if before else 0 :]]
            yield order, _Found(isSure, trades)


def _mayBeOnDisk(booking: Booking, attempt: Attempt) -> bool:
    """
    Whether a booking may have been on disk before a request was answered. What became
    of a commit that failed is only known afterwards.
    """
    _, last = _span(attempt)
    isHere = booking.generation == attempt.talk.generation
    isDoubtful = isHere and booking.isDoubtful and booking.handed <= last
    return isDoubtful or (booking.applied is not None and booking.applied <= last)


def _span(attempt: Attempt) -> tuple[Moment, Moment]:
    assert attempt.delivered is not None and attempt.reply is not None
    return attempt.delivered, attempt.reply.written


def _amounts(totals: Mapping[str, int]) -> dict[str, Decimal]:
    return {name: Decimal(units).scaleb(-8) for name, units in totals.items()}
