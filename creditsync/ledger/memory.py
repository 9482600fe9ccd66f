"""
The ledger in dictionaries, for tests, embedding and benchmarks.

It behaves like the one on disk, except that nothing outlives the process and a
commit is complete when it returns.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from creditsync._cursor import newEpoch
from creditsync.codes import EV_RECORD_DELETE, SECONDS_PER_DAY, UNAPPROVED
from creditsync.interfaces import ILedger
from creditsync.ledger._filtering import copied, search
from creditsync.methods import METHOD_OF
from creditsync.records import (
    Account,
    AnyOperation,
    FoundTrades,
    GroupedTrade,
    Movement,
    Reservation,
    Trade,
    TradeEvent,
    TradeFilter,
)

_T = TypeVar("_T")


@implementer(ILedger)
@define(eq=False)
class MemoryLedger:
    """
    A ledger that lasts as long as this object.

    @ivar nextOrder: The order number to assign next.
    @ivar epoch: Tells the places of this ledger from those of others.
    """

    nextOrder: int = 1
    epoch: str = field(factory=newEpoch)
    # The type, the trade and the operation of each event.
    _journal: list[tuple[int, Trade, AnyOperation]] = field(factory=list, init=False)
    # The last place of each order.
    _places: dict[int, int] = field(factory=dict, init=False)
    # The balance and the credit of each login.
    _accounts: dict[int, tuple[int, int]] = field(factory=dict, init=False)
    _groups: dict[int, str] = field(factory=dict, init=False)
    _keyed: dict[tuple[int, str], Reservation] = field(factory=dict, init=False)

    def open(self) -> None:
        """
        Do nothing.
        """

    def close(self) -> None:
        """
        Do nothing.
        """

    def newOrder(self) -> int:
        """
        Assign the next number.
        """
        order = self.nextOrder
        self.nextOrder = order + 1
        return order

    def trade(self, order: int) -> Trade | None:
        """
        The committed trade with this order.
        """
        place = self._places.get(order)
        return None if place is None else self._journal[place - 1][1]

    def placeOf(self, order: int) -> int | None:
        """
        The place of this order's last committed change.
        """
        return self._places.get(order)

    def principalOf(self, order: int) -> int | None:
        """
        Who has requested this order's last committed change.
        """
        place = self._places.get(order)
        return None if place is None else self._journal[place - 1][2].principal

    def account(self, login: int) -> Account | None:
        """
        This account, with its committed totals.
        """
        totals = self._accounts.get(login)
        if totals is None:
            return None
        return Account(login, *totals, self._groups.get(login, ""))

    def replay(self, principal: int, key: str) -> Reservation | None:
        """
        The operation that was committed with this key.
        """
        return self._keyed.get((principal, key))

    def groups(self) -> list[str]:
        """
        The groups of all accounts.
        """
        return sorted({account.group for account in self._allAccounts()})

    def search(
        self, filter: TradeFilter, page: Callable[[Sequence[GroupedTrade]], _T]
    ) -> FoundTrades[_T]:
        """
        The committed trades that a filter selects. They are copied for each search,
        which is for tests.
        """
        trades = (self._journal[place - 1][1] for place in self._places.values())
        with closing(copied(trades, self._allAccounts())) as connection:
            return search(connection, filter, page)

    def _allAccounts(self) -> Iterator[Account]:
        for login in self._accounts:
            account = self.account(login)
            assert account is not None
            yield account

    @property
    def head(self) -> int:
        """
        The last place.
        """
        return len(self._journal)

    def events(self, after: int, limit: int) -> list[TradeEvent]:
        """
        The events at the next places after this one, in their order.
        """
        events = self._journal[after : after + limit]
        return [
            TradeEvent(type, trade, place=place)
            for place, (type, trade, _) in enumerate(events, after + 1)
        ]

    def movements(self, day: int, upTo: int) -> list[Movement]:
        """
        The sums of what was booked on this day, up to this place.
        """
        before: dict[int, int] = {}
        sums: Counter[tuple[int | None, int | None, int, str]] = Counter()
        for type, trade, asked in self._journal[:upTo]:
            former = before.get(trade.order, 0)
            before[trade.order] = trade.profit
            if trade.state in UNAPPROVED:
                continue
            if trade.timestamp // SECONDS_PER_DAY == day:
                method = METHOD_OF[trade.cmd, type == EV_RECORD_DELETE]
                key = asked.principal, asked.role, trade.login, method
                sums[key] += max(abs(trade.profit), abs(trade.profit - former))
        return [
            Movement(*key, amount, self._groups.get(key[2], ""))
            for key, amount in sums.items()
        ]

    def commit(self, reservations: Sequence[Reservation]) -> Deferred[None]:
        """
        Keep these reservations, each with the next place of the journal.

        @return: Has already fired.
        """
        assert reservations
        journal, accounts, end = self._journal, self._accounts, self.nextOrder
        for reservation in reservations:
            trade, asked = reservation.data, reservation.operation
            assert 0 < trade.order < end, "an order was never assigned"
            balance, credit = reservation.balance, reservation.credit
            assert balance is not None and credit is not None
            journal.append((reservation.type, trade, asked))
            reservation.place = self._places[trade.order] = len(journal)
            accounts[trade.login] = balance, credit
            if asked.key is not None:
                self._keyed[asked.principal, asked.key] = Reservation(
                    reservation.type,
                    trade,
                    asked,
                    isReplay=True,
                    place=reservation.place,
                    balance=balance,
                    credit=credit,
                )
        return succeed(None)

    def setGroups(self, groups: Mapping[int, str]) -> Deferred[None]:
        """
        Move accounts to groups, and open those that don't exist.

        @return: Has already fired.
        """
        self.addAccounts(groups)
        self._groups.update(groups)
        return succeed(None)

    def addAccounts(self, logins: Iterable[int], group: str = "") -> list[int]:
        """
        Open accounts with empty totals in a group.

        @return: Those that did not exist before.
        """
        new = [login for login in dict.fromkeys(logins) if login not in self._accounts]
        self._accounts.update((login, (0, 0)) for login in new)
        self._groups.update(dict.fromkeys(new, group))
        return new
