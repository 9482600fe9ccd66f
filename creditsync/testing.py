"""
Fakes for those who embed the server, and for its own tests.

They are whole providers of their interfaces with nothing behind them: no
disk, no clock, no signatures.
"""

from typing import Any

from attrs import Factory, define, field
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from creditsync.codes import (
    EV_RECORD_ADD,
    EV_RECORD_UPDATE,
    SESSION_ADMIN,
    SESSION_DEALER,
    SESSION_MANAGER,
    SESSION_USER,
    TS_CLOSED_NORMAL,
)
from creditsync.errors import Refusal, Unauthorized
from creditsync.interfaces import (
    IAuthenticator,
    ILedger,
    ITradeEvents,
    ITradingRuntime,
)
from creditsync.ledger.memory import MemoryLedger
from creditsync.records import (
    Account,
    Operation,
    Principal,
    Reservation,
    Trade,
    TradeEvent,
)


@implementer(IAuthenticator)
@define(eq=False)
class FakeAuthenticator:
    """
    Knows the tokens C{"manager"}, C{"dealer"}, C{"admin"} and C{"user"}.

    @ivar revoked: Tokens that are not good any more.
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

    def authenticate(self, token: str | None) -> Principal:
        """
        See L{IAuthenticator.authenticate}.
        """
        if token is None or token in self.revoked or token not in self._principals:
            raise Unauthorized("__token is not good")
        return self._principals[token]

    def isCurrent(self, principal: Principal) -> bool:
        """
        See L{IAuthenticator.isCurrent}.
        """
        return principal.jti not in self.revoked


@implementer(ITradingRuntime)
@define(eq=False)
class FakeTradingRuntime:
    """
    Reserves at once, and books when the test says so.

    @ivar operations: What was submitted and is not booked yet, in order.
    @ivar refusal: What the next operations are refused with, if anything.
    @ivar firstOrder: The number of the first new order.
    """

    _events: ITradeEvents
    firstOrder: int = 1242281
    refusal: Refusal | None = None
    operations: list[Operation] = field(init=False, factory=list)
    _reservations: dict[Operation, Reservation] = field(init=False, factory=dict)
    _failed: "Deferred[None]" = field(init=False, factory=Deferred)
    _known: set[int] = field(init=False, factory=set)

    def submit(self, operation: Operation) -> "Deferred[Reservation]":
        """
        See L{ITradingRuntime.submit}.
        """
        if self.refusal is not None:
            return fail(self.refusal)
        if operation.order in self._known:
            reservation = Reservation(operation.order, EV_RECORD_UPDATE, operation)
        else:
            order = self.firstOrder + len(self._known)
            self._known.add(order)
            reservation = Reservation(order, EV_RECORD_ADD, operation)
        self.operations.append(operation)
        self._reservations[operation] = reservation
        return succeed(reservation)

    def whenFailed(self) -> "Deferred[None]":
        """
        See L{ITradingRuntime.whenFailed}.
        """
        return self._failed

    def fail(self, why: Exception) -> None:
        """
        Be unable to book from now on.
        """
        self._failed.errback(why)

    def book(self, operation: Operation, now: int = 1767225600) -> None:
        """
        Book a submitted operation: publish its event, and say that it is
        durable.

        @param now: The time of booking, in UNIX seconds.
        """
        self.operations.remove(operation)
        reservation = self._reservations.pop(operation)
        self._events.publish([_event(reservation, now)])
        reservation.booked()


def _event(reservation: Reservation, now: int) -> TradeEvent:
    operation = reservation.operation
    trade = Trade(
        order=reservation.order,
        login=operation.login,
        cmd=operation.cmd,
        state=TS_CLOSED_NORMAL,
        profit=operation.amount,
        comment=operation.comment,
        openTime=now if operation.openTime is None else operation.openTime,
        closeTime=now if operation.closeTime is None else operation.closeTime,
        timestamp=now,
    )
    return TradeEvent(reservation.eventType, trade, operation)


@implementer(ILedger)
@define(eq=False)
class HeldLedger:
    """
    A ledger in memory whose commits end when the test says so.

    @ivar commits: The commits that have not ended, oldest first.
    """

    _ledger: MemoryLedger = Factory(MemoryLedger)
    commits: "list[tuple[list[Trade], Deferred[None]]]" = field(
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

    def account(self, login: int) -> Account | None:
        """
        See L{ILedger.account}.
        """
        return self._ledger.account(login)

    def commit(self, trades: Any) -> "Deferred[None]":
        """
        See L{ILedger.commit}.
        """
        done: Deferred[None] = Deferred()
        self.commits.append((list(trades), done))
        return done

    def release(self) -> None:
        """
        Let the oldest commit succeed.
        """
        trades, done = self.commits.pop(0)
        self._ledger.commit(trades).chainDeferred(done)

    def fail(self, why: Exception) -> None:
        """
        Let the oldest commit fail.
        """
        _, done = self.commits.pop(0)
        done.errback(why)
