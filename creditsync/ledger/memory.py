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

from creditsync.codes import TS_CLOSED_NORMAL
from creditsync.interfaces import ILedger
from creditsync.methods import CREDIT, TOTAL_OF
from creditsync.records import Account, Reservation, Trade


@implementer(ILedger)
@define(eq=False)
class MemoryLedger:
    """
    A ledger that lasts as long as this object.

    @ivar nextOrder: The order number to assign next.
    """

    nextOrder: int = 1
    _trades: dict[int, Trade] = field(factory=dict, init=False)
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
        return self._trades.get(order)

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
        return self._keyed.get((principal, key))

    def commit(self, reservations: Sequence[Reservation]) -> Deferred[None]:
        """
        Keep the trades of these reservations, update their accounts' totals and
        record their keys.

        @return: Has already fired.
        """
        assert reservations
        trades, accounts, end = self._trades, self._accounts, self.nextOrder
        for reservation in reservations:
            trade, asked = reservation.data, reservation.operation
            order = trade.order
            assert 0 < order < end, "an order was never assigned"
            if asked.key is not None:
                self._keyed[asked.principal, asked.key] = Reservation(
                    reservation.type, trade, asked, isReplay=True
                )
            before = trades.get(order)
            units = trade.profit if trade.state == TS_CLOSED_NORMAL else 0
            if before is not None:
                units -= before.counted
            account = accounts.get(trade.login)
            if account is None:
                account = accounts[trade.login] = Account(trade.login)
            if TOTAL_OF[trade.cmd] == CREDIT:
                account.credit += units
            else:
                account.balance += units
            trades[order] = trade
        return succeed(None)

    def addAccounts(self, logins: Iterable[int]) -> list[int]:
        """
        Open accounts with empty totals.

        @return: Those that did not exist before.
        """
        new = [login for login in dict.fromkeys(logins) if login not in self._accounts]
        self._accounts.update((login, Account(login)) for login in new)
        return new
