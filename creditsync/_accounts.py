"""
The accounts of a trading runtime, cached, with all pending operations counted in.
"""

from collections import OrderedDict
from collections.abc import Mapping

from attrs import Factory, define

from creditsync.errors import UserNotFound
from creditsync.interfaces import ILedger
from creditsync.records import Account

# Cached accounts, so that a busy one is not read from the ledger for each of its
# operations. Those with pending operations stay cached even beyond this.
MAX_CACHED_ACCOUNTS = 100_000


class CachedAccount(Account, gc=False):
    """
    An account as it will be after all pending operations are committed.

    @ivar changedIn: The number of the last batch that changes it.
    """

    changedIn: int = 0


@define(eq=False)
class AccountCache:
    """
    The accounts of one ledger.

    @ivar lastOnDisk: The number of the last batch that is on disk.
    @ivar cached: By login; the least recently used first, once there are many.
    """

    _ledger: ILedger
    _knownOnly: bool = False
    lastOnDisk: int = 0
    cached: OrderedDict[int, CachedAccount] = Factory(OrderedDict)

    def account(self, login: int) -> CachedAccount:
        """
        An account, which the caller may change. One that does not exist is opened.

        @raise UserNotFound: It does not exist, and none is opened.
        """
        cached = self.cached
        account = cached.get(login)
        if account is None:
            return self._load(login)
        if len(cached) >= MAX_CACHED_ACCOUNTS:
            # Only now does it matter which was used last.
            cached.move_to_end(login)
        return account

    def groupOf(self, login: int) -> str:
        """
        The group of an account, "" if there is none.
        """
        account = self.cached.get(login) or self._ledger.account(login)
        return "" if account is None else account.group

    def move(self, groups: Mapping[int, str]) -> None:
        """
        Note the groups to which accounts were moved, by their logins.
        """
        for login, group in groups.items():
            account = self.cached.get(login)
            if account is not None:
                account.group = group

    def checkKnown(self, login: int) -> None:
        """
        Check that there is an account, if none is opened.

        @raise UserNotFound: There is none.
        """
        if self._knownOnly and self._ledger.account(login) is None:
            raise UserNotFound(f"there is no account {login}")

    def _load(self, login: int) -> CachedAccount:
        account = self._ledger.account(login)
        if account is None:
            self.checkKnown(login)
            account = Account(login)
        loaded = CachedAccount(login, account.balance, account.credit, account.group)
        self.cached[login] = loaded
        self._evict()
        return loaded

    def _evict(self) -> None:
        """
        Evict the least recently used accounts, up to the first with an operation
        that is not in the ledger yet.
        """
        while len(self.cached) > MAX_CACHED_ACCOUNTS:
            login, oldest = next(iter(self.cached.items()))
            if oldest.changedIn > self.lastOnDisk:
                return
            del self.cached[login]
