"""
What can be read of a ledger besides single orders, in the reactor or beside it.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from creditsync.interfaces import IJournal, ILedger, ILookups
from creditsync.records import (
    Account,
    FoundTrades,
    GroupedTrade,
    TradeEvent,
    TradeFilter,
)

_T = TypeVar("_T")


@implementer(IJournal, ILookups)
class LedgerReader:
    """
    The reading part of a trading runtime on a ledger.
    """

    def __init__(
        self, ledger: ILedger, read: "Callable[[Callable[[], Any]], Deferred[Any]]"
    ) -> None:
        """
        @param read: Calls a blocking function that reads the ledger, in another
            thread or at once, and fires with its result.
        """
        self._ledger = ledger
        self._read = read
        self._reading: Deferred[None] | None = None

    async def _readingEnded(self) -> None:
        """
        Wait until the journal is no longer being read.
        """
        if self._reading is not None:
            await self._reading

    @property
    def epoch(self) -> str:
        """
        See L{IJournal.epoch}.
        """
        return self._ledger.epoch

    @property
    def head(self) -> int:
        """
        See L{IJournal.head}.
        """
        return self._ledger.head

    def placeOf(self, order: int) -> int | None:
        """
        See L{IJournal.placeOf}.
        """
        return self._ledger.placeOf(order)

    def events(self, after: int, limit: int) -> "Deferred[Sequence[TradeEvent]]":
        """
        See L{IJournal.events}.
        """
        ended: Deferred[None] = Deferred()
        self._reading = ended
        read = self._read(lambda: self._ledger.events(after, limit))

        def end(result: Any) -> Any:
            self._reading = None
            ended.callback(None)
            return result

        return read.addBoth(end)

    def account(self, login: int) -> "Deferred[Account | None]":
        """
        See L{ILookups.account}.
        """
        return succeed(self._ledger.account(login))

    def groups(self) -> "Deferred[Sequence[str]]":
        """
        See L{ILookups.groups}.
        """
        return self._read(self._ledger.groups)

    def search(
        self, filter: TradeFilter, page: Callable[[Sequence[GroupedTrade]], _T]
    ) -> "Deferred[FoundTrades[_T]]":
        """
        See L{ILookups.search}.
        """
        return self._read(lambda: self._ledger.search(filter, page))
