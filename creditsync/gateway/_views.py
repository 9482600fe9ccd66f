"""
What a gateway shows of its journal, of the operations that are under way, and of the
platform's trades and accounts.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred, succeed

from creditsync._failing import FailureNotifier
from creditsync.errors import Busy, Forbidden, InvalidData, ShuttingDown
from creditsync.gateway._groups import PlatformGroups
from creditsync.gateway._intents import IIntentLog, Intent
from creditsync.gateway._interfaces import IUpstream
from creditsync.gateway._journal import Journal
from creditsync.gateway._looking import isAbsence, lookAt
from creditsync.gateway._operations import Operations
from creditsync.gateway._outcomes import Kind
from creditsync.gateway._records import shown, unitsOf
from creditsync.records import (
    Account,
    FoundTrades,
    GroupedTrade,
    Trade,
    TradeEvent,
    TradeFilter,
)

_T = TypeVar("_T")


class Views:
    """
    The part of a gateway that only shows what there is, and keeps the groups of
    accounts.
    """

    journal: Journal
    operations: Operations
    running: Any
    _log: IIntentLog
    _upstream: IUpstream
    _failing: FailureNotifier
    _groups: PlatformGroups | None
    _read: "Callable[[Callable[[], Any]], Deferred[Any]]"

    def groupOf(self, login: int) -> str:
        """
        See L{IAccountGroups.groupOf}.
        """
        if self._groups is None:
            return self._storedGroup(login)
        group = self._groups.of(login)
        if not group:
            # Soon it will be.
            self._groups.whenFresh(login)
        return group

    def _storedGroup(self, login: int) -> str:
        account = self._log.ledger.account(login)
        return "" if account is None else account.group

    def whenKnown(self, login: int) -> "Deferred[object] | None":
        """
        See L{ILearnedGroups.whenKnown
        <creditsync._foreigngroups.ILearnedGroups.whenKnown>}.
        """
        return None if self._groups is None else self._groups.whenKnown(login)

    def setGroup(self, login: int, group: str) -> "Deferred[None]":
        """
        See L{IAccountGroups.setGroup}.

        @raise ShuttingDown: The gateway is stopping, or has failed.
        @raise Forbidden: The groups are those of the platform.
        """
        if not self.running or self._failing.cause is not None:
            raise ShuttingDown()
        if self._groups is not None:
            raise Forbidden(
                "groups of accounts are taken over from the platform: move the account"
                " there"
            )
        return self.journal.move(login, group)

    @property
    def epoch(self) -> str:
        """
        See L{IJournal.epoch}.
        """
        return self._log.ledger.epoch

    @property
    def head(self) -> int:
        """
        See L{IJournal.head}.
        """
        return self._log.ledger.head

    def placeOf(self, order: int) -> int | None:
        """
        See L{IJournal.placeOf}.
        """
        return self._log.ledger.placeOf(order)

    def events(self, after: int, limit: int) -> "Deferred[Sequence[TradeEvent]]":
        """
        See L{IJournal.events}.
        """
        return self._read(lambda: self._log.ledger.events(after, limit))

    def trade(self, order: int) -> "Deferred[Trade | Mapping[str, Any] | None]":
        """
        See L{ITradingRuntime.trade}. Fails with L{Busy} if only the platform may know,
        and does not answer.
        """
        course = self.operations.courses.withOrder(order)
        if course is not None and course.intent.toldOrder == order:
            return succeed(shown(course.intent))
        trade = self._log.ledger.trade(order)
        if trade is not None:
            return succeed(trade)
        return Deferred.fromCoroutine(self._atPlatform(order))

    async def _atPlatform(self, order: int) -> Trade | Mapping[str, Any] | None:
        look = await lookAt(self._upstream, order)
        if not look.isKnown:
            raise Busy("the platform does not answer a look-up")
        # Of other trades than those of the finance kind nothing is passed on.
        return None if look.trade is None else self.journal.tags.plain(look.trade)

    def orderOf(self, principal: int, key: str) -> "Deferred[int | None]":
        """
        See L{ITradingRuntime.orderOf}. Fails with L{Busy} if it is not known whether
        another gateway has taken over.
        """
        known = maybeDeferred(self._known, principal, key)
        return known.addCallback(lambda found: (found and found.toldOrder) or None)

    def operation(
        self, principal: int, key: str
    ) -> "Deferred[Trade | Mapping[str, Any] | None]":
        """
        See L{IOperations.operation}. Fails as L{orderOf} does.
        """
        return maybeDeferred(self._operation, principal, key)

    def _operation(
        self, principal: int, key: str
    ) -> "Deferred[Trade | Mapping[str, Any] | None]":
        intent = self._known(principal, key)
        if intent is None:
            return succeed(None)
        if self.operations.courses.withNumber(intent.number) is not None:
            return succeed(shown(intent))
        return self.trade(intent.order)

    def _known(self, principal: int, key: str) -> Intent | None:
        course = self.operations.courses.withKey(principal, key)
        if course is not None:
            return course.intent
        found = self._log.withKey(principal, key)
        if found is None and self._log.problem is not None:
            # Another gateway may have taken over, and have sent it.
            raise Busy(f"the operation can't be looked up: {self._log.problem}")
        return found

    def account(self, login: int) -> "Deferred[Account | None]":
        """
        See L{ILookups.account}: the totals are those of the platform.
        """
        return Deferred.fromCoroutine(self._account(login))

    async def _account(self, login: int) -> Account | None:
        outcome = await self._upstream.request("GetAccountByLogin", {"login": login})
        if self._groups is not None:
            self._groups.take(login, outcome)
        if isAbsence(outcome):
            return None
        data = outcome.data
        if outcome.kind is not Kind.DONE or data.get("login") != login:
            raise Busy("the platform does not answer a look-up")
        balance, credit = unitsOf(data.get("balance")), unitsOf(data.get("credit"))
        if balance is None or credit is None:
            raise InvalidData("the platform's account can't be read")
        return Account(login, balance, credit, self.groupOf(login))

    def groups(self) -> "Deferred[Sequence[str]]":
        """
        See L{ILookups.groups}.
        """
        return self._read(self._log.ledger.groups)

    def search(
        self, filter: TradeFilter, page: Callable[[Sequence[GroupedTrade]], _T]
    ) -> "Deferred[FoundTrades[_T]]":
        """
        See L{ILookups.search}: among what the journal has.
        """
        return self._read(lambda: self._log.ledger.search(filter, page))
