"""
Looking at the platform: what it shows of an order, or of content.

A look-up that fails shows nothing, and above all not that something is absent.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from attrs import define
from twisted.logger import Logger

from creditsync.gateway._intents import Intent
from creditsync.gateway._interfaces import IUpstream
from creditsync.gateway._outcomes import Kind, Outcome
from creditsync.gateway._records import amountOf, rowsOf, tradeOf
from creditsync.records import Trade

# The trades of a look-up by the filter that are of the finance kind.
FINANCE: Final = 4

# Rows of a page.
PAGE: Final = 500

_NOT_FOUND: Final = 404

_log = Logger()


@define(frozen=True)
class Look:
    """
    What the platform shows of an order.

    @ivar isKnown: Whether it shows anything: otherwise nothing else means anything.
    @ivar trade: The finance trade, or L{None} if there is none.
    @ivar isOther: Whether there is a trade of another kind.
    @ivar unread: What is wrong with a finance trade that can't be taken.
    """

    isKnown: bool
    trade: Trade | None = None
    isOther: bool = False
    unread: str = ""


def isAbsence(outcome: Outcome) -> bool:
    """
    Whether a look-up was answered with that there is no such thing. A command that the
    platform does not have is a 404 too.
    """
    isRefused = outcome.kind is Kind.REFUSED and outcome.status == _NOT_FOUND
    return isRefused and "NOT_FOUND" in outcome.error.upper()


async def lookAt(upstream: IUpstream, order: int) -> Look:
    """
    Look an order up.
    """
    outcome = await upstream.request("GetTradeByOrder", {"order": order})
    if isAbsence(outcome):
        return Look(isKnown=True)
    if outcome.kind is not Kind.DONE or outcome.order != order:
        return Look(isKnown=False)
    trade = tradeOf(outcome.data)
    if isinstance(trade, Trade):
        return Look(isKnown=True, trade=trade)
    return Look(isKnown=True, isOther=not trade.why, unread=trade.why)


async def lookFor(
    upstream: IUpstream, intent: Intent, scale: int | None
) -> list[Trade] | None:
    """
    Look for the trades that an intent may have made: those of its account, its kind and
    its time.

    @param scale: See L{Journal<creditsync.gateway._journal.Journal>}. The time of a
        trade may be in seconds all the same.
    @return: L{None} if the platform does not show it.
    """
    assert intent.openTime is not None
    return await searchMoment(
        upstream, intent.login, intent.cmd, intent.openTime, scale
    )


async def searchMoment(
    upstream: IUpstream, login: int, cmd: int, openTime: int, scale: int | None
) -> list[Trade] | None:
    """
    Find the finance trades of an account, a kind and a time.

    @param openTime: In seconds.
    @param scale: See L{lookFor}.
    @return: L{None} if the platform does not show them.
    """
    found: list[Trade] = []
    for each in sorted({1, scale or 1000}):
        where = [
            ["login", "==", login],
            ["cmd", "==", cmd],
            ["open_time", "==", openTime * each],
        ]
        shown = await searchAll(upstream, where)
        if shown is None:
            return None
        found += shown
    return found


async def searchAll(
    upstream: IUpstream, where: Sequence[Sequence[Any]]
) -> list[Trade] | None:
    """
    Find all finance trades that meet the conditions and can be read.

    A page with fewer rows than were asked for need not be the last one, as a platform
    may give fewer at a time. Only an empty one is the end.

    @return: L{None} if the platform does not show them.
    """
    # A page may have a trade twice, if others were added while it was read.
    found: dict[int, Trade] = {}
    last = 0
    while True:
        rest = [*where, ["order", ">", last]]
        rows = await search(upstream, rest, by=("order",))
        if rows is None:
            return None
        if not rows:
            return list(found.values())
        trades = [each for each in map(tradeOf, rows) if isinstance(each, Trade)]
        found.update((each.order, each) for each in trades)
        orders = [row.get("order") for row in rows]
        if not all(type(order) is int and order > last for order in orders):
            _log.error("the platform's look-up gives other orders than asked for")
            return None
        last = max(order for order in orders if order is not None)


async def search(
    upstream: IUpstream,
    where: Sequence[Sequence[Any]],
    by: Sequence[str] = ("update_time", "order"),
) -> list[Mapping[str, Any]] | None:
    """
    Find finance trades.

    @param by: What they are sorted by: the last change and the number by default.
    @return: The records of a page, or L{None} if the platform does not show it.
    """
    found = await page(upstream, where, by)
    return None if isinstance(found, str) else found


async def page(
    upstream: IUpstream,
    where: Sequence[Sequence[Any]],
    by: Sequence[str] = ("update_time", "order"),
) -> list[Mapping[str, Any]] | str:
    """
    Find finance trades.

    @param by: What they are sorted by: the last change and the number by default.
    @return: The records of a page, or why the platform does not show it.
    """
    outcome = await upstream.request(
        "MngGetTradesByFilter",
        {
            "tradeType": FINANCE,
            "where": where,
            "orderBy": [[name, "asc"] for name in by],
            "limit": PAGE,
        },
    )
    if outcome.kind is Kind.REFUSED:
        _log.warn(
            "the platform refuses a look-up of trades: {status} {error}, {message}",
            status=outcome.status,
            error=outcome.error,
            message=outcome.message,
        )
    if outcome.kind is not Kind.DONE:
        return f"{outcome.error or outcome.kind.value}, {outcome.message}"
    rows, found = outcome.data.get("rows"), list(rowsOf(outcome.data))
    if not isinstance(rows, list) or len(found) != len(rows):
        return "the reply has no rows that can be read"
    return found


def ordersOf(trades: Iterable[Trade]) -> str:
    """
    The numbers of some trades, for people.
    """
    return ", ".join(str(trade.order) for trade in trades)


def absence(intent: Intent, found: Iterable[Trade], heard: Iterable[int] = ()) -> str:
    """
    What a look-up shows that does not show an intent's trade: for the person who has to
    decide, above all those that it may have become when somebody changed it.

    @param heard: The orders as which events have shown it, before the platform lost
        them.
    """
    changed = [
        trade
        for trade in found
        if trade.comment == intent.comment or amountOf(trade) == intent.amount
    ]
    why = "the platform does not show it"
    if changed:
        why = f"the platform shows only what differs from it: {ordersOf(changed)}"
    if heard:
        orders = ", ".join(map(str, sorted(heard)))
        why = f"{why}; events have shown it as order {orders}"
    return why
