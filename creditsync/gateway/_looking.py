"""
Looking at the platform: what it shows of an order, or of content.

A look-up that fails shows nothing, and above all not that something is absent.
"""

from collections.abc import Sequence
from typing import Any, Final

from attrs import define
from twisted.logger import Logger

from creditsync.gateway._intents import Intent
from creditsync.gateway._outcomes import Kind, Outcome
from creditsync.gateway._records import Unread, rowsOf, tradeOf
from creditsync.gateway._upstream import IUpstream
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


async def lookFor(upstream: IUpstream, intent: Intent) -> list[Trade] | None:
    """
    Look for the trades that an intent may have made: those of its account, its kind and
    its time.

    @return: L{None} if the platform does not show it.
    """
    where: list[list[Any]] = [
        ["login", "==", intent.login],
        ["cmd", "==", intent.cmd],
        ["open_time", "==", intent.openTime],
    ]
    found = await search(upstream, where)
    if found is None or len(found) >= PAGE:
        return None
    return [trade for trade in found if isinstance(trade, Trade)]


async def search(
    upstream: IUpstream,
    where: Sequence[Sequence[Any]],
    by: Sequence[str] = ("update_time", "order"),
) -> list[Trade | Unread] | None:
    """
    Find finance trades.

    @param by: What they are sorted by: the last change and the number by default.
    @return: A page, or L{None} if the platform does not show it.
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
    if outcome.kind is not Kind.DONE or not isinstance(outcome.data.get("rows"), list):
        return None
    rows = outcome.data["rows"]
    found = [tradeOf(row) for row in rowsOf(outcome.data)]
    return found if len(found) == len(rows) else None
