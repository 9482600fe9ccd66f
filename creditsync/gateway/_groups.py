"""
The groups of accounts, as the platform has them.

A group is what C{GetAccountByLogin} says, and is kept in the gateway's ledger. It is
looked up when an account is seen, unless that was done in the last minutes: there is no
round through all accounts, and none after a reconnect. Until an account was looked up
for the first time, and if the platform has no group for it, it has none here, and no
mask selects it.

A record of the platform waits for that in front of the journal, in a L{Gate}: so it is
shown to those who may see the account now, and the order of events stays that of the
journal.
"""

import re
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from attrs import Factory, define, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from creditsync._patterns import fromECMA
from creditsync.errors import Busy
from creditsync.gateway._interfaces import IUpstream
from creditsync.gateway._journal import Journal
from creditsync.gateway._looking import isAbsence
from creditsync.gateway._outcomes import Kind, Outcome
from creditsync.records import Trade
from creditsync.validation import COMMON, load

# Seconds for which a group counts that was looked up.
FRESH: Final = 600.0

# Seconds after which a look-up that has failed is tried again.
RETRY: Final = 30.0

# Look-ups in flight: further ones wait.
MAX_IN_FLIGHT: Final = 8

# Accounts that wait for their look-up, and records that wait for those.
MAX_WAITING: Final = 10_000

# Accounts of which is remembered when they were looked up.
_REMEMBERED: Final = 100_000

# When an account was looked up that was not.
_NEVER: Final = 0.0, False

_GROUP: Final = re.compile(fromECMA(load(COMMON)["$defs"]["group"]["pattern"]))
_MAX_LENGTH: Final = load(COMMON)["$defs"]["group"]["maxLength"]

_log = Logger()


@define(eq=False)
class PlatformGroups:
    """
    The groups of the platform's accounts.

    @ivar _stored: The group of an account in the ledger, "" if it has none.
    @ivar _moving: The groups that are not durable yet, by login.
    @ivar _looked: When what a look-up of an account has shown ceases to count, by the
        clock, and whether the platform has told its group, or that it has none.
    @ivar _queue: The accounts whose look-up was not sent yet.
    @ivar _waiting: Those that wait, by the account that is to be looked up.
    """

    _clock: IReactorTime
    _upstream: IUpstream
    _journal: Journal
    _stored: Callable[[int], str]
    _moving: dict[int, str] = field(factory=dict, init=False)
    _looked: OrderedDict[int, tuple[float, bool]] = field(
        factory=OrderedDict, init=False
    )
    _queue: deque[int] = field(factory=deque, init=False)
    _waiting: "dict[int, list[Deferred[object]]]" = field(factory=dict, init=False)
    _inFlight: int = field(default=0, init=False)
    _isPumping: bool = field(default=False, init=False)
    _hasWarned: bool = field(default=False, init=False)

    def connected(self) -> None:
        """
        Something may have changed in the time without a connection: look each account
        up again when it is seen next.
        """
        self._looked.clear()
        self._hasWarned = False

    def of(self, login: int) -> str:
        """
        The group of an account, as far as it is known.
        """
        group = self._moving.get(login)
        return self._stored(login) if group is None else group

    def whenFresh(self, login: int) -> "Deferred[object] | None":
        """
        Look an account up, unless that was done lately, can't be done, or too many
        wait for that.

        @return: Fires when that has ended, whatever it has shown; L{None} if there is
            nothing to wait for.
        """
        until, _ = self._looked.get(login, _NEVER)
        if until > self._clock.seconds() or not self._upstream.isConnected:
            return None
        if login not in self._waiting:
            if len(self._waiting) >= MAX_WAITING:
                return None
            self._waiting[login] = []
            self._queue.append(login)
        done: Deferred[object] = Deferred()
        self._waiting[login].append(done)
        self._pump()
        return done

    def whenKnown(self, login: int) -> "Deferred[object] | None":
        """
        Look an account up as L{whenFresh} does, for one who has to know its group.

        @return: Fires when its group is known, or that it has none; fails with L{Busy}
            if nothing is known, and can't be found out now. L{None} if there is nothing
            to wait for.
        """
        waiting = self.whenFresh(login)
        if waiting is None:
            if self._isKnown(login):
                return None
            waiting = succeed(None)
        return waiting.addCallback(lambda _: self._checkKnown(login))

    def _isKnown(self, login: int) -> bool:
        _, isKnown = self._looked.get(login, _NEVER)
        return isKnown or bool(self.of(login))

    def _checkKnown(self, login: int) -> None:
        if not self._isKnown(login):
            raise Busy(
                f"the platform does not tell the group of account {login}",
                retryAfter=int(RETRY * 1000),
            )

    def learn(self, login: int, group: str) -> None:
        """
        The platform has told the group of an account.
        """
        self._count(login, FRESH, True)
        if group == self.of(login):
            return
        _log.info(
            "account {login} is in group {group!r} at the platform now",
            login=login,
            group=group,
        )
        self._moving[login] = group
        self._journal.move(login, group).addCallback(self._moved, login, group)

    def _moved(self, _: None, login: int, group: str) -> None:
        if self._moving.get(login) == group:
            del self._moving[login]

    def take(self, login: int, outcome: Outcome) -> None:
        """
        Learn what a look-up of an account shows. One that fails shows nothing.
        """
        group = outcome.data.get("group")
        if isAbsence(outcome):
            self.learn(login, "")
        elif outcome.kind is not Kind.DONE or outcome.data.get("login") != login:
            self._count(login, RETRY, False)
            self._warn(f"{outcome.error or outcome.kind.value}, {outcome.message}")
        elif isinstance(group, str) and _isName(group):
            self.learn(login, group)
        else:
            # No mask could name it, so no mask is to select it.
            self.learn(login, "")
            self._warn("its name can't be used here")

    def _count(self, login: int, seconds: float, isKnown: bool) -> None:
        self._looked[login] = self._clock.seconds() + seconds, isKnown
        self._looked.move_to_end(login)
        if len(self._looked) > _REMEMBERED:
            self._looked.popitem(last=False)

    def _warn(self, why: str) -> None:
        """
        Log, once for each connection, that groups can't be taken over.
        """
        if not self._hasWarned and self._upstream.isConnected:
            self._hasWarned = True
            _log.warn("the platform does not tell an account's group: {why}", why=why)

    def _pump(self) -> None:
        # Without a connection each request ends at once, and may call this.
        if self._isPumping:
            return
        self._isPumping = True
        while self._queue and self._inFlight < MAX_IN_FLIGHT:
            login = self._queue.popleft()
            self._inFlight += 1
            asked = self._upstream.request("GetAccountByLogin", {"login": login})
            asked.addCallback(self._told, login)
        self._isPumping = False

    def _told(self, outcome: Outcome, login: int) -> None:
        self._inFlight -= 1
        try:
            self.take(login, outcome)
        finally:
            for done in self._waiting.pop(login, ()):
                done.callback(None)
            self._pump()


def _isName(group: str) -> bool:
    """
    Whether a group may have this name here.
    """
    return len(group) <= _MAX_LENGTH and _GROUP.search(group) is not None


@define
class _Entry:
    """
    A record that waits.

    @ivar book: Called with it.
    """

    trade: Trade
    book: Callable[[Trade], None]


@define(eq=False)
class Gate:
    """
    The records of the platform that wait for the groups of their accounts. Those of an
    account leave it in the order in which they have come.
    """

    _groups: PlatformGroups
    _waiting: dict[int, list[_Entry]] = Factory(dict)
    _count: int = 0

    def holds(
        self, trade: Trade, book: Callable[[Trade], None], isBusy: bool = False
    ) -> bool:
        """
        Have a record wait until the group of its account is known, unless there is
        nothing to wait for, or too many wait.

        @param book: Called with it then.
        @param isBusy: Whether records of the account don't wait now. None does then.
        @return: Whether it waits.
        """
        login, fresh = trade.login, None
        if login not in self._waiting:
            if self._count < MAX_WAITING:
                fresh = self._groups.whenFresh(login)
            if fresh is None or isBusy:
                return False
        self._waiting.setdefault(login, []).append(_Entry(trade, book))
        self._count += 1
        if fresh is not None:
            # Last, because it may have fired.
            fresh.addCallback(lambda _: self.release(login))
        return True

    def release(self, login: int) -> None:
        """
        Let the records of an account go on.
        """
        entries = self._waiting.pop(login, [])
        self._count -= len(entries)
        for each in entries:
            with _log.failureHandler("a record can't be booked"):
                each.book(each.trade)

    def oldest(self) -> int | None:
        """
        The time of the oldest change that waits, and so is not in the journal yet.
        """
        times = [
            each.trade.timestamp for some in self._waiting.values() for each in some
        ]
        return min(times, default=None)
