"""
Sessions that receive only some of the trade events, because their tokens are
restricted to some of the accounts (L{creditsync._conversation.rights}).

They are kept by what restricts them, so that the work for an event depends on how many
of them may see it. Each mask is matched with each group once, and all sessions of a
mask receive the same lines; sessions for single accounts are found by the login of the
event.
"""

from collections.abc import Callable, Sequence
from itertools import compress
from typing import Final

from attrs import Factory, define

from creditsync._conversation.rights import Accounts, Rights
from creditsync.interfaces import ISession
from creditsync.records import Principal

# Groups whose masks are remembered.
_MAX_GROUPS: Final = 10_000

_Sessions = dict[ISession, Principal]


@define(eq=False)
class RestrictedReceivers:
    """
    The sessions with a restricted token that receive trade events.
    """

    _rights: Rights
    _isCurrent: Callable[[Principal], bool]
    _principals: _Sessions = Factory(dict)
    _byMask: dict[str, _Sessions] = Factory(dict)
    _byLogin: dict[int, _Sessions] = Factory(dict)
    # The masks that select a group.
    _selecting: dict[str, list[str]] = Factory(dict)

    def __len__(self) -> int:
        return len(self._principals)

    def add(self, session: ISession, principal: Principal) -> None:
        """
        Send a session the events that this principal may see. It is not in here yet.
        """
        self._principals[session] = principal
        accounts = self._rights.accounts(principal)
        if isinstance(accounts, str) and accounts not in self._byMask:
            self._selecting.clear()
        for sessions in self._tablesFor(accounts):
            sessions[session] = principal

    def remove(self, session: ISession) -> None:
        """
        Send a session nothing more.
        """
        principal = self._principals.pop(session, None)
        if principal is None:
            return
        accounts = self._rights.accounts(principal)
        for sessions in self._tablesFor(accounts):
            del sessions[session]
        if isinstance(accounts, str):
            if not self._byMask[accounts]:
                del self._byMask[accounts]
                self._selecting.clear()
            return
        for login in accounts or ():
            if not self._byLogin[login]:
                del self._byLogin[login]

    def _tablesFor(self, accounts: Accounts) -> list[_Sessions]:
        if isinstance(accounts, str):
            return [self._byMask.setdefault(accounts, {})]
        return [self._byLogin.setdefault(login, {}) for login in accounts or ()]

    def send(self, logins: Sequence[int | None], lines: bytes) -> None:
        """
        Send each session those of these events that it may see.

        @param logins: The account of each event.
        @param lines: The lines of all of them.
        """
        if self._byMask:
            self._sendByMask(logins, lines)
        if not self._byLogin:
            return
        own: dict[ISession, list[bytes]] = {}
        byLogin = self._byLogin
        for login, line in zip(logins, lines.splitlines(keepends=True), strict=True):
            for session in byLogin.get(login, ()) if login is not None else ():
                own.setdefault(session, []).append(line)
        for session, visible in own.items():
            principal = self._principals.get(session)
            if principal is not None:
                self._sendTo({session: principal}, b"".join(visible))

    def _sendByMask(self, logins: Sequence[int | None], lines: bytes) -> None:
        groupOf = self._rights.groupOf
        groups = [None if login is None else groupOf(login) for login in logins]
        distinct = set(groups)
        if len(distinct) == 1:
            for mask in self._masksFor(groups[0]):
                self._sendTo(self._byMask.get(mask, {}), lines)
            return
        # The groups of these events that a mask selects.
        selected: dict[str, frozenset[str | None]] = {}
        for group in distinct:
            alone = frozenset({group})
            for mask in self._masksFor(group):
                selected[mask] = selected.get(mask, alone) | alone
        chosen = {frozenset(distinct): lines}
        each = lines.splitlines(keepends=True)
        for mask, visible in selected.items():
            some = chosen.get(visible)
            if some is None:
                some = b"".join(compress(each, map(visible.__contains__, groups)))
                chosen[visible] = some
            self._sendTo(self._byMask.get(mask, {}), some)

    def _masksFor(self, group: str | None) -> list[str]:
        """
        The masks that select a group.

        @param group: L{None} is that of an unknown account, which no mask selects.
        """
        if group is None:
            return []
        masks = self._selecting.get(group)
        if masks is None:
            if len(self._selecting) >= _MAX_GROUPS:
                self._selecting.clear()
            selects = self._rights.selects
            masks = [mask for mask in self._byMask if selects(mask, group)]
            self._selecting[group] = masks
        return masks

    def _sendTo(self, sessions: _Sessions, lines: bytes) -> None:
        """
        Send lines to those of these sessions whose token is still valid; the others
        are removed, until they send a valid one.
        """
        isCurrent = self._isCurrent
        for session, principal in list(sessions.items()):
            if isCurrent(principal):
                session.send(lines)
            else:
                session.principal = None
                self.remove(session)


def linesOf(lines: bytes, isVisible: Sequence[bool]) -> bytes:
    """
    Some of the lines of several events.

    @param isVisible: Whether each of them is among these.
    """
    return b"".join(compress(lines.splitlines(keepends=True), isVisible))
