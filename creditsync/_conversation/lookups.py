"""
The look-ups that the platform has too (docs/protocol.rst, "Look-ups").

A row of L{LOOKUPS} is a command. What a token may not see is not there: it is answered
like what does not exist.

Orders are looked up with the trading runtime itself. The other look-ups need what
a trading runtime may lack, L{ILookups}; without it they are refused.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from math import inf
from typing import Any, Final, TypeAlias, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from zope.interface import implementer

from creditsync import _wire as wire
from creditsync._conversation.broadcast import Broadcast
from creditsync._conversation.filters import filterOf
from creditsync._conversation.lookupqueue import LookupQueue
from creditsync._conversation.rights import Rights
from creditsync._masks import matches
from creditsync.codes import (
    FINANCE_SESSIONS,
    MAX_ROWS_SIZE,
    SESSION_ADMIN,
    SESSION_USER,
)
from creditsync.errors import (
    Busy,
    InvalidData,
    TookTooLong,
    TradeNotFound,
    UnknownCommand,
    UserNotFound,
)
from creditsync.interfaces import ICommand, ILookups, ISession, ITradingRuntime
from creditsync.limits import Limits
from creditsync.records import (
    GroupedTrade,
    Principal,
    Request,
    Response,
    Trade,
)

_T = TypeVar("_T")

# Parts of the timeout, which together are less than it: how long a look-up waits for
# its turn, how long a search may take, and when it is no longer waited for.
_PATIENCE: Final = 0.25
_SEARCH: Final = 0.6
_GIVE_UP: Final = 0.7

# Seconds between two searches. While one reads the ledger, SQLite can't begin its -wal
# file anew, and without a pause it would grow for as long as there are searches.
_PAUSE: Final = 0.02

# Orders that are looked up, and groups that are matched with masks, in one reactor
# turn, in about a millisecond.
_ORDERS: Final = 50
_GROUPS: Final = 500


class _Itself:
    """
    The server, where it has a look-up of its own. To L{LookupQueue} it is a session.
    """

    principal: Final = Principal(0, SESSION_ADMIN, inf)
    isStalled: Final = False
    isIdle: Final = False


@define(eq=False)
class Lookups:
    """
    What look-ups need.

    @ivar searchSeconds: How long a search may take.
    """

    _clock: IReactorTime
    runtime: ITradingRuntime
    broadcast: Broadcast
    rights: Rights
    _limits: Limits
    _timeout: float
    searchSeconds: float = field(init=False)
    _searches: LookupQueue = field(init=False)
    _orders: LookupQueue = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.searchSeconds = _SEARCH * self._timeout
        self._searches, self._orders = (
            LookupQueue(
                self._clock,
                self._limits.maxLookups,
                _PATIENCE * self._timeout,
                _GIVE_UP * self._timeout,
                pause,
            )
            for pause in (_PAUSE, 0.0)
        )

    def provider(self, command: str) -> Any:
        """
        The trading runtime as an L{ILookups}.

        @raise UnknownCommand: It isn't one.
        """
        if not ILookups.providedBy(self.runtime):
            raise UnknownCommand(
                f"{command} can't be used: this server's trading runtime does not"
                " provide it"
            )
        return self.runtime

    async def visible(
        self, principal: Principal, order: int
    ) -> Trade | Mapping[str, Any]:
        """
        A trade that a principal may see.

        @raise TradeNotFound: There is none by this order.
        """
        trade = await self.runtime.trade(order)
        maySee = await self.rights.mayLookUp(principal, trade)
        if trade is None or not maySee:
            raise TradeNotFound(f"there is no order {order}")
        return trade

    async def search(
        self, session: ISession, begin: "Callable[[], Deferred[_T]]"
    ) -> _T:
        """
        Begin when it is the turn of this search.

        @raise InvalidData: It takes too long. That is for the client to change, who
            would only repeat it after L{Busy<creditsync.errors.Busy>}.
        """
        try:
            found: _T = await self._searches.add(session, begin)
        except TookTooLong:
            raise InvalidData(
                f"the filter takes longer than {self.searchSeconds:g} seconds: add"
                " conditions, or ask for fewer rows"
            ) from None
        return found

    def searchItself(self, begin: "Callable[[], Deferred[_T]]") -> "Deferred[_T]":
        """
        Begin a search of the server's own when it is its turn.

        @return: Fails with L{TookTooLong<creditsync.errors.TookTooLong>} if it does.
        """
        itself: Any = _Itself
        return self._searches.add(itself, begin)

    async def inTurn(
        self, session: ISession, begin: "Callable[[], Deferred[_T]]"
    ) -> _T:
        """
        Begin when it is the turn of this look-up, which takes less time than a search.

        @raise Busy: It takes too long, which is not the fault of its client.
        """
        try:
            found: _T = await self._orders.add(session, begin)
        except TookTooLong:
            raise Busy("the trading runtime takes too long") from None
        return found

    def pause(self) -> "Deferred[None]":
        """
        Give the others a turn of the reactor.
        """
        return deferLater(self._clock, 0)


async def _tradeByOrder(
    lookups: Lookups, session: ISession, principal: Principal, data: dict[str, Any]
) -> Response:
    order = int(data["order"])
    trade = await lookups.visible(principal, order)
    return lookups.broadcast.located(trade, lookups.broadcast.placeOf(order))


async def _tradesByOrders(
    lookups: Lookups, session: ISession, principal: Principal, data: dict[str, Any]
) -> Response:
    orders = [int(order) for order in data["orders"]]

    async def rows() -> Response:
        pages = []
        for start in range(0, len(orders), _ORDERS):
            if start:
                await lookups.pause()
            trades = [
                await lookups.visible(principal, order)
                for order in orders[start : start + _ORDERS]
            ]
            pages.append(wire.encodeRows(trades))
        return wire.encodeTable(pages)

    return await lookups.inTurn(session, lambda: Deferred.fromCoroutine(rows()))


async def _tradesByFilter(
    lookups: Lookups, session: ISession, principal: Principal, data: dict[str, Any]
) -> Response:
    provider = lookups.provider("MngGetTradesByFilter")
    mask = data.get("groupFilter", "*")

    def seesGroup(group: str) -> bool:
        return matches(mask, group) and lookups.rights.seesGroup(principal, group)

    size = 0

    def encode(page: Sequence[GroupedTrade]) -> bytes:
        nonlocal size
        rows = wire.encodeGroupedRows(page)
        size += len(rows)
        if size > MAX_ROWS_SIZE:
            raise InvalidData(
                f"the rows have more than {MAX_ROWS_SIZE} bytes: ask for fewer"
            )
        return rows

    filter = filterOf(data, seesGroup, lookups.searchSeconds)
    found = await lookups.search(session, lambda: provider.search(filter, encode))
    return wire.encodeFound(found)


async def _accountByLogin(
    lookups: Lookups, session: ISession, principal: Principal, data: dict[str, Any]
) -> Response:
    login = int(data["login"])
    account = await lookups.provider("GetAccountByLogin").account(login)
    await lookups.rights.upToDate(principal)
    if account is None or not lookups.rights.maySee(principal, login):
        raise UserNotFound(f"there is no account {login}")
    return {
        "login": login,
        "group": account.group,
        "balance": wire.amount(account.balance),
        "credit": wire.amount(account.credit),
        "enable": 1,
    }


async def _groups(
    lookups: Lookups, session: ISession, principal: Principal, data: dict[str, Any]
) -> Response:
    provider = lookups.provider("GetGroups")

    async def seen() -> Response:
        groups = await provider.groups()
        found: list[str] = []
        for start in range(0, len(groups), _GROUPS):
            if start:
                await lookups.pause()
            found += (
                group
                for group in groups[start : start + _GROUPS]
                if lookups.rights.seesGroup(principal, group)
            )
        return {"groups": found}

    return await lookups.inTurn(session, lambda: Deferred.fromCoroutine(seen()))


_Find: TypeAlias = Callable[
    [Lookups, ISession, Principal, dict[str, Any]], Coroutine[Any, Any, Response]
]


@implementer(ICommand)
@define(eq=False)
class Lookup:
    """
    A command that looks something up.
    """

    name: str
    schema: str
    roles: frozenset[int]
    _find: _Find
    _lookups: Lookups
    needsExtID = False
    isReadOnly = True

    def execute(self, session: ISession, request: Request) -> "Deferred[Response]":
        """
        See L{ICommand.execute}.
        """
        principal = session.principal
        assert principal is not None
        found = self._find(self._lookups, session, principal, request.data)
        return Deferred.fromCoroutine(found)


_ANY_ACCOUNT: Final = FINANCE_SESSIONS | {SESSION_USER}

# The name, the schema, the roles that may use it, and what it does.
LOOKUPS: Final[tuple[tuple[str, str, frozenset[int], _Find], ...]] = (
    ("GetTradeByOrder", "get_trade_by_order", _ANY_ACCOUNT, _tradeByOrder),
    ("GetTradeByOrders", "get_trade_by_orders", _ANY_ACCOUNT, _tradesByOrders),
    (
        "MngGetTradesByFilter",
        "mng_get_trades_by_filter",
        FINANCE_SESSIONS,
        _tradesByFilter,
    ),
    ("GetAccountByLogin", "get_account_by_login", _ANY_ACCOUNT, _accountByLogin),
    ("GetGroups", "get_groups", FINANCE_SESSIONS, _groups),
)


def lookupCommands(lookups: Lookups) -> list[Lookup]:
    """
    The commands of the table.
    """
    return [Lookup(*row, lookups) for row in LOOKUPS]
