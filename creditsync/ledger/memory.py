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

from creditsync.interfaces import ILedger
from creditsync.methods import TOTAL_OF
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
        assert all(0 < each.order < self.nextOrder for each in reservations), (
            "an order was never assigned"
        )
        for reservation in reservations:
            trade, asked = reservation.trade, reservation.operation
            if asked.key is not None:
                self._keyed[asked.principal, asked.key] = Reservation(
                    reservation.eventType, trade, asked, isReplay=True
                )
            before = self._trades.get(trade.order)
            if before is not None:
                self._move(before, -before.counted)
            self._move(trade, trade.counted)
            self._trades[trade.order] = trade
        return succeed(None)

    def addAccounts(self, logins: Iterable[int]) -> list[int]:
        """
        Open accounts with empty totals.

        @return: Those that did not exist before.
        """
        new = [login for login in dict.fromkeys(logins) if login not in self._accounts]
        self._accounts.update((login, Account(login)) for login in new)
        return new

    def _move(self, trade: Trade, units: int) -> None:
        """
        Add to the total that this trade counts for.
        """
        account = self._accounts.get(trade.login)
        if account is None:
            account = self._accounts[trade.login] = Account(trade.login)
        kind = TOTAL_OF[trade.cmd]
        setattr(account, kind, getattr(account, kind) + units)
