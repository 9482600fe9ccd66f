"""
The ledger in dictionaries, for tests, embedding and benchmarks.

It behaves like the one on disk, except that nothing outlives the process and a
commit is complete when it returns.
"""

from collections.abc import Iterable, Sequence

from attrs import define, field
from msgspec.structs import replace
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from creditsync._cursor import newEpoch
from creditsync.interfaces import ILedger
from creditsync.records import Account, Reservation, Trade, TradeEvent


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
    _journal: list[Reservation] = field(factory=list, init=False)
    _latest: dict[int, Reservation] = field(factory=dict, init=False)
    _accounts: dict[int, Account] = field(factory=dict, init=False)
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
        latest = self._latest.get(order)
        return None if latest is None else latest.data

    def placeOf(self, order: int) -> int | None:
        """
        The place of this order's last committed change.
        """
        latest = self._latest.get(order)
        return None if latest is None else latest.place

    def account(self, login: int) -> Account | None:
        """
        A copy of this account's committed totals.
        """
        account = self._accounts.get(login)
        return None if account is None else replace(account)

    def replay(self, principal: int, key: str) -> Reservation | None:
        """
        The operation that was committed with this key.
        """
        booked = self._keyed.get((principal, key))
        if booked is None:
            return None
        return Reservation(
            booked.type,
            booked.data,
            booked.operation,
            isReplay=True,
            balance=booked.balance,
            credit=booked.credit,
            place=booked.place,
        )

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
        return [
            TradeEvent(each.type, each.data, place=each.place)
            for each in self._journal[after : after + limit]
        ]

    def commit(self, reservations: Sequence[Reservation]) -> Deferred[None]:
        """
        Keep these reservations, each with the next place of the journal.

        @return: Has already fired.
        """
        assert reservations
        latest, accounts, end = self._latest, self._accounts, self.nextOrder
        journal = self._journal
        for reservation in reservations:
            trade, asked = reservation.data, reservation.operation
            balance, credit = reservation.balance, reservation.credit
            order, login = trade.order, trade.login
            assert 0 < order < end, "an order was never assigned"
            assert balance is not None and credit is not None
            if asked.key is not None:
                self._keyed[asked.principal, asked.key] = reservation
            account = accounts.get(login)
            if account is None:
                accounts[login] = Account(login, balance, credit)
            else:
                account.balance, account.credit = balance, credit
            latest[order] = reservation
            journal.append(reservation)
            reservation.place = len(journal)
        return succeed(None)

    def addAccounts(self, logins: Iterable[int]) -> list[int]:
        """
        Open accounts with empty totals.

        @return: Those that did not exist before.
        """
        new = [login for login in dict.fromkeys(logins) if login not in self._accounts]
        self._accounts.update((login, Account(login)) for login in new)
        return new
