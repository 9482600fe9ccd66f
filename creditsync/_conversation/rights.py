"""
Which accounts a token may see and touch: one rule for events, commands and look-ups
(docs/protocol.rst, "Rights").

The role of a token decides what selects its accounts: a mask of groups, logins, or
nothing at all.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from attrs import define
from twisted.internet.defer import Deferred

from creditsync._masks import matches
from creditsync.codes import (
    SESSION_ADMIN,
    SESSION_CRM_ADMIN,
    SESSION_CRM_MANAGER,
    SESSION_CUSTOMER,
    SESSION_DEALER,
    SESSION_FIX,
    SESSION_MANAGER,
    SESSION_SYSTEM,
    SESSION_USER,
)
from creditsync.records import Principal, Trade, loginOf

# A mask of groups, or logins; None stands for all accounts.
Accounts: TypeAlias = str | frozenset[int] | None

_NO_ACCOUNTS: Final[frozenset[int]] = frozenset()


def _all(principal: Principal) -> Accounts:
    return None


def _own(principal: Principal) -> Accounts:
    login = principal.login
    return frozenset({principal.id if login is None else login})


def _listed(principal: Principal) -> Accounts:
    return frozenset(principal.logins or ())


def _none(principal: Principal) -> Accounts:
    return _NO_ACCOUNTS


# A role that is not in this table has no accounts.
_ROLES: Final[Mapping[int, Callable[[Principal], Accounts] | None]] = {
    SESSION_ADMIN: _all,
    # None: by the claim groups. It is no function, because every credit asks.
    SESSION_MANAGER: None,
    SESSION_DEALER: None,
    SESSION_SYSTEM: None,
    SESSION_CRM_MANAGER: None,
    SESSION_CRM_ADMIN: None,
    SESSION_USER: _own,
    SESSION_CUSTOMER: _listed,
    SESSION_FIX: _none,
}


def _ungrouped(login: int) -> str:
    return ""


def _known(login: int) -> None:
    return None


@define(eq=False)
class Rights:
    """
    The rights of all tokens of a server.

    @ivar groupOf: The group of an account, "" by default.
    @ivar _requireGroups: Whether a token that could have groups, and has none, has no
        accounts. Otherwise it has all.
    @ivar hidesUngrouped: Whether no mask selects an account without a group, because
        that is one whose group is not known.
    @ivar _whenKnown: See L{ILearnedGroups.whenKnown
        <creditsync._foreigngroups.ILearnedGroups.whenKnown>}.
    """

    groupOf: Callable[[int], str] = _ungrouped
    _requireGroups: bool = False
    hidesUngrouped: bool = False
    _whenKnown: "Callable[[int], Deferred[object] | None]" = _known

    def accounts(self, principal: Principal) -> Accounts:
        """
        What selects the accounts of a token.
        """
        select = _ROLES.get(principal.role, _none)
        if select is not None:
            return select(principal)
        if principal.groups is None and self._requireGroups:
            return _NO_ACCOUNTS
        return principal.groups

    def maySee(self, principal: Principal, login: int | None) -> bool:
        """
        Whether a token may see and touch an account.

        @param login: L{None} if it is unknown: then only a token for all accounts may.
        """
        accounts = self.accounts(principal)
        if accounts is None:
            return True
        if login is None:
            return False
        if isinstance(accounts, str):
            return self.selects(accounts, self.groupOf(login))
        return login in accounts

    def selects(self, mask: str, group: str) -> bool:
        """
        Whether a mask selects the accounts of a group.
        """
        if not group and self.hidesUngrouped:
            return False
        return matches(mask, group)

    def whenKnown(self, principal: Principal, login: int) -> "Deferred[object] | None":
        """
        Wait until it is known whether a token may see an account.

        @return: It fails with a refusal if that can't be found out. L{None} if there is
            nothing to wait for.
        """
        if isinstance(self.accounts(principal), str):
            return self._whenKnown(login)
        return None

    def whenUpToDate(self, principal: Principal) -> "Deferred[object] | None":
        """
        Wait until it is known which accounts other servers have moved to other groups,
        if that matters for a token. This takes as long for every account.

        @return: As L{whenKnown}.
        """
        return None if self.hidesUngrouped else self.whenKnown(principal, 0)

    async def upToDate(self, principal: Principal) -> None:
        """
        The same.

        @raise Busy: It can't be found out.
        """
        waiting = self.whenUpToDate(principal)
        if waiting is not None:
            await waiting

    async def mayLookUp(
        self, principal: Principal, trade: Trade | Mapping[str, Any] | None
    ) -> bool:
        """
        Whether a token may see a trade, by what is known of another system's groups.

        @param trade: L{None} if there is none: then it takes as long, and may not.
        @raise Busy: It can't be found out.
        """
        await self.upToDate(principal)
        return trade is not None and self.maySee(principal, loginOf(trade))

    async def mayChange(
        self, principal: Principal, trade: Trade | Mapping[str, Any] | None
    ) -> bool:
        """
        The same for a change, which waits for another system.

        @raise Busy: It can't be found out.
        """
        if trade is not None and self.hidesUngrouped:
            login = loginOf(trade)
            waiting = None if login is None else self.whenKnown(principal, login)
            if waiting is not None:
                await waiting
        return await self.mayLookUp(principal, trade)

    def seesGroup(self, principal: Principal, group: str) -> bool:
        """
        Whether a token may see all accounts of a group.
        """
        accounts = self.accounts(principal)
        if isinstance(accounts, str):
            return self.selects(accounts, group)
        return accounts is None
