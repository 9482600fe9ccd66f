"""
Fakes for tests of applications that embed the server, and for its own tests.

They implement their interfaces completely, but without a disk, a clock or
signatures.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from attrs import Factory, define, field
from msgspec.structs import replace
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from creditsync._failing import FailureNotifier
from creditsync.codes import (
    EV_RECORD_ADD,
    EV_RECORD_DELETE,
    EV_RECORD_UPDATE,
    REQUEST_STATES,
    SESSION_ADMIN,
    SESSION_DEALER,
    SESSION_MANAGER,
    SESSION_USER,
    TS_CLOSED_NORMAL,
    TS_DELETED,
)
from creditsync.errors import NotFound, Refusal, Unauthorized
from creditsync.interfaces import (
    IAccountGroups,
    IAuthenticator,
    ILedger,
    ITradeEvents,
    ITradingRuntime,
)
from creditsync.ledger.memory import MemoryLedger
from creditsync.records import (
    Account,
    AnyOperation,
    Decision,
    Deletion,
    FoundTrades,
    GroupedTrade,
    Movement,
    Principal,
    Reservation,
    Trade,
    TradeEvent,
    TradeFilter,
)

_T = TypeVar("_T")


@implementer(IAuthenticator)
@define(eq=False)
class FakeAuthenticator:
    """
    Accepts the tokens C{"manager"}, C{"dealer"}, C{"admin"} and C{"user"}.

    @ivar revoked: Tokens that are no longer valid.
    """

    revoked: set[str] = Factory(set)
    _principals: dict[str, Principal] = field(
        init=False,
        factory=lambda: {
            "manager": Principal(7, SESSION_MANAGER, float("inf"), "manager"),
            "dealer": Principal(8, SESSION_DEALER, float("inf"), "dealer"),
            "admin": Principal(9, SESSION_ADMIN, float("inf"), "admin"),
            "user": Principal(10, SESSION_USER, float("inf"), "user"),
        },
    )

    def accept(self, token: str, principal: Principal) -> None:
        """
        Accept another token.

        @param principal: Its C{jti} has to be the token, if it is to be revoked.
        """
        self._principals[token] = principal

    def authenticate(self, token: str | None) -> Principal:
        """
        See L{IAuthenticator.authenticate}.
        """
        if token is None or token in self.revoked or token not in self._principals:
            raise Unauthorized("__token is not valid")
        return self._principals[token]

    def isCurrent(self, principal: Principal) -> bool:
        """
        See L{IAuthenticator.isCurrent}.
        """
        return principal.jti not in self.revoked


@implementer(ITradingRuntime, IAccountGroups)
@define(eq=False)
class FakeTradingRuntime:
    """
    Reserves at once, and books when the test calls L{book}. It ignores
    idempotency keys, and its events have no places: there is no C{cursor}, and
    C{since} is refused. A test that needs them has a
    L{TradingRuntime<creditsync.runtime.TradingRuntime>} on a L{HeldLedger}.

    @ivar nextOrder: The number of the next new order.
    @ivar now: The time of booking, in UNIX seconds.
    @ivar refusal: Raised for the next operations, unless it is L{None}.
    @ivar reserved: The reservations that are not booked yet, in order.
    @ivar groupOfLogin: The group of each account.
    """

    _events: ITradeEvents
    nextOrder: int = 1242281
    now: int = 1767225600
    refusal: Refusal | None = None
    reserved: list[Reservation] = field(init=False, factory=list)
    groupOfLogin: dict[int, str] = field(init=False, factory=dict)
    _trades: dict[int, Trade] = field(init=False, factory=dict)
    _failing: FailureNotifier = field(init=False, factory=FailureNotifier)

    def submit(self, operation: AnyOperation) -> Reservation:
        """
        See L{ITradingRuntime.submit}.
        """
        if self.refusal is not None:
            raise self.refusal
        reservation = self._reserve(operation)
        self._trades[reservation.order] = reservation.data
        self.reserved.append(reservation)
        return reservation

    def _reserve(self, operation: AnyOperation) -> Reservation:
        assert not isinstance(operation, Decision), "it takes no finance requests"
        existing = self._trades.get(operation.order)
        if isinstance(operation, Deletion):
            if existing is None:
                raise NotFound(f"there is no order {operation.order}")
            deleted = replace(existing, state=TS_DELETED, timestamp=self.now)
            return Reservation(EV_RECORD_DELETE, deleted, operation)
        eventType, order = EV_RECORD_UPDATE, operation.order
        if existing is None:
            eventType, order = EV_RECORD_ADD, self.nextOrder
            self.nextOrder += 1
        trade = Trade(
            order=order,
            login=operation.login,
            cmd=operation.cmd,
            state=TS_CLOSED_NORMAL,
            profit=operation.amount,
            comment=operation.comment,
            openTime=self.now if operation.openTime is None else operation.openTime,
            closeTime=self.now if operation.closeTime is None else operation.closeTime,
            timestamp=self.now,
        )
        return Reservation(eventType, trade, operation)

    def trade(self, order: int) -> "Deferred[Trade | Mapping[str, Any] | None]":
        """
        See L{ITradingRuntime.trade}.
        """
        for latest in reversed(self.reserved):
            if latest.order == order:
                state = REQUEST_STATES[latest.type]
                return succeed(replace(latest.data, state=state))
        return succeed(self._trades.get(order))

    def orderOf(self, principal: int, key: str) -> "Deferred[int | None]":
        """
        See L{ITradingRuntime.orderOf}.
        """
        return succeed(None)

    def groupOf(self, login: int) -> str:
        """
        See L{IAccountGroups.groupOf}.
        """
        return self.groupOfLogin.get(login, "")

    def setGroup(self, login: int, group: str) -> "Deferred[None]":
        """
        See L{IAccountGroups.setGroup}.
        """
        self.groupOfLogin[login] = group
        return succeed(None)

    def whenFailed(self) -> "Deferred[None]":
        """
        See L{ITradingRuntime.whenFailed}.
        """
        return self._failing.whenFailed()

    def fail(self, why: Exception) -> None:
        """
        Make L{whenFailed} fail.
        """
        self._failing.fail(Failure(why))

    def book(self, reservation: Reservation) -> None:
        """
        Book a reservation: publish its event, and report that it is durable.
        """
        self.reserved.remove(reservation)
        self._events.publish([reservation])
        reservation.booked()


@implementer(ILedger)
@define(eq=False)
class HeldLedger:
    """
    A ledger in memory whose commits end when the test calls L{release} or L{fail}.

    @ivar commits: The commits that have not ended, oldest first.
    """

    _ledger: MemoryLedger = Factory(MemoryLedger)
    commits: "list[tuple[list[Reservation], Deferred[None]]]" = field(
        init=False, factory=list
    )

    def open(self) -> None:
        """
        See L{ILedger.open}.
        """
        self._ledger.open()

    def close(self) -> None:
        """
        See L{ILedger.close}.
        """
        self._ledger.close()

    def newOrder(self) -> int:
        """
        See L{ILedger.newOrder}.
        """
        return self._ledger.newOrder()

    def trade(self, order: int) -> Trade | None:
        """
        See L{ILedger.trade}.
        """
        return self._ledger.trade(order)

    def principalOf(self, order: int) -> int | None:
        """
        See L{ILedger.principalOf}.
        """
        return self._ledger.principalOf(order)

    def movements(self, day: int, upTo: int) -> list[Movement]:
        """
        See L{ILedger.movements}.
        """
        return self._ledger.movements(day, upTo)

    def account(self, login: int) -> Account | None:
        """
        See L{ILedger.account}.
        """
        return self._ledger.account(login)

    @property
    def epoch(self) -> str:
        """
        See L{ILedger.epoch}.
        """
        return self._ledger.epoch

    @property
    def head(self) -> int:
        """
        See L{ILedger.head}.
        """
        return self._ledger.head

    def placeOf(self, order: int) -> int | None:
        """
        See L{ILedger.placeOf}.
        """
        return self._ledger.placeOf(order)

    def events(self, after: int, limit: int) -> list[TradeEvent]:
        """
        See L{ILedger.events}.
        """
        return self._ledger.events(after, limit)

    def replay(self, principal: int, key: str) -> Reservation | None:
        """
        See L{ILedger.replay}.
        """
        return self._ledger.replay(principal, key)

    def groups(self) -> list[str]:
        """
        See L{ILedger.groups}.
        """
        return self._ledger.groups()

    def search(
        self, filter: TradeFilter, page: Callable[[Sequence[GroupedTrade]], _T]
    ) -> FoundTrades[_T]:
        """
        See L{ILedger.search}.
        """
        return self._ledger.search(filter, page)

    def commit(self, reservations: Sequence[Reservation]) -> "Deferred[None]":
        """
        See L{ILedger.commit}.
        """
        done: Deferred[None] = Deferred()
        self.commits.append((list(reservations), done))
        return done

    def setGroups(self, groups: Mapping[int, str]) -> "Deferred[None]":
        """
        See L{ILedger.setGroups}. This is not held.
        """
        return self._ledger.setGroups(groups)

    def release(self) -> None:
        """
        Let the oldest commit succeed.
        """
        reservations, done = self.commits.pop(0)
        self._ledger.commit(reservations).chainDeferred(done)

    def fail(self, why: Exception) -> None:
        """
        Let the oldest commit fail.
        """
        _, done = self.commits.pop(0)
        done.errback(why)
