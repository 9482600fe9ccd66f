"""
The totals that the trading runtime would put into reservations, for tests that commit
reservations of their own.
"""

from collections.abc import Iterable

from creditsync.interfaces import ILedger
from creditsync.records import Account, Reservation, Trade

# cmd 6 and 8 count for the balance, 7 and 9 for the credit.
_BALANCE = (6, 8)


def withTotals(
    ledger: ILedger, reservations: Iterable[Reservation]
) -> list[Reservation]:
    """
    Put the totals after each reservation into it.
    """
    accounts: dict[int, Account] = {}
    trades: dict[int, Trade | None] = {}
    done = []
    for each in reservations:
        trade = each.trade
        if trade.login not in accounts:
            found = ledger.account(trade.login)
            accounts[trade.login] = found or Account(trade.login)
        if trade.order not in trades:
            trades[trade.order] = ledger.trade(trade.order)
        account, before = accounts[trade.login], trades[trade.order]
        units = trade.counted - (0 if before is None else before.counted)
        if trade.cmd in _BALANCE:
            account.balance += units
        else:
            account.credit += units
        trades[trade.order] = trade
        each.balance, each.credit = account.balance, account.credit
        done.append(each)
    return done
