"""
What a deployer may replace, and what the rooms expect of one another.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from creditsync._conversation.session import Session
    from creditsync.records import (
        Account,
        Deletion,
        Operation,
        Principal,
        Request,
        Reservation,
        Trade,
        TradeEvent,
    )

TradeObserver: TypeAlias = "Callable[[Sequence[TradeEvent]], None]"


class ITradingRuntime(Interface):
    """
    The backend that books finance operations and emits their events.

    If it is a L{twisted.application.service.IService} too, the server starts
    it with itself, before the reactor serves anybody, and stops it after the
    last session was answered.
    """

    def submit(
        operation: "Operation | Deletion",
    ) -> "Reservation | Deferred[Reservation]":
        """
        Reserve a new order, or reuse the one that is named, and queue the
        operation. If its principal has booked the same under the same key, or
        that is under way, give the reservation of then.

        Nothing may be emitted for the operation before the reservation is
        known: the session registers its waiter in that same reactor turn.

        @return: The reservation, now or later. A Deferred may also fail with
            what this may raise.
        @raise creditsync.errors.Refusal: Nothing has happened, and nothing
            will.
        """

    def trade(order: int) -> "Deferred[Trade | Mapping[str, Any] | None]":
        """
        Look a trade up as it is now, with one of the request states if what
        was last asked of it is not booked yet.

        @return: Fires with L{None} if there is no such order.
        """

    def orderOf(principal: int, key: str) -> "Deferred[int | None]":
        """
        Look up the order that was booked, or is under way, under a key.

        @return: Fires with L{None} if there is none.
        """

    def whenFailed() -> "Deferred[None]":
        """
        Wait for the end of this runtime's ability to book.

        @return: Fails with the cause, once; never fires otherwise. Operations
            under way then have an unknown outcome.
        """


class ITradeEvents(Interface):
    """
    The stream of what was booked.
    """

    def addObserver(observer: TradeObserver) -> None:
        """
        Call C{observer} with each sequence of events that is published, in
        the order in which observers were added.
        """

    def removeObserver(observer: TradeObserver) -> None:
        """
        Stop calling C{observer}.

        @raise ValueError: It was not there.
        """

    def publish(events: "Sequence[TradeEvent]") -> None:
        """
        Hand events to every observer, in booking order, after their commit.
        An observer that raises is logged and does not harm the others.
        """


class ILedger(Interface):
    """
    The durable record of trades and account totals.

    Reads see what was committed; the runtime knows what is under way.
    """

    def open() -> None:
        """
        Make the ledger ready, creating or checking it first.

        @raise creditsync.errors.LedgerProblem: It can't be used.
        """

    def close() -> None:
        """
        Let go of it; nothing may be under way.
        """

    def newOrder() -> int:
        """
        Give out an order number that was never given out before, not even by
        a process that died since.

        @raise creditsync.errors.Busy: The durably reserved numbers are used
            up; the next commit reserves more.
        """

    def trade(order: int) -> "Trade | None":
        """
        The committed trade with this order.
        """

    def account(login: int) -> "Account | None":
        """
        The committed totals of this account; a fresh record that the caller
        may change.
        """

    def replay(principal: int, key: str) -> "Reservation | None":
        """
        What was committed under this key, as it was booked then.
        """

    def commit(reservations: "Sequence[Reservation]") -> "Deferred[None]":
        """
        Write the trades of these reservations, in this order, move their
        accounts' totals by the differences and remember their keys, all in
        one durable transaction. The next commit may start only when this one
        has ended.

        @return: Fires when all of it is on disk. If it fails, nobody knows
            what is.
        """


class IAuthenticator(Interface):
    """
    The judge of tokens.
    """

    def authenticate(token: str | None) -> "Principal":
        """
        Say whom this token speaks for.

        @raise creditsync.errors.Unauthorized: It is not good, and why.
        """

    def isCurrent(principal: "Principal") -> bool:
        """
        Whether a principal that was once authenticated still is: neither
        expired nor revoked.
        """


class ICommand(Interface):
    """
    One command of the wire contract.
    """

    name = Attribute("The C{command} that asks for it.")
    schema = Attribute("The name of the JSON Schema of its data.")
    roles = Attribute("The C{SESSION_*} codes that may use it.")
    needsExtID = Attribute("Whether a request without C{extID} is refused.")

    def execute(
        session: "Session", request: "Request"
    ) -> "Trade | Mapping[str, Any] | Deferred[Any]":
        """
        Carry the request out; its data has passed the schema.

        @return: The C{data} of a 200 reply, now or later. If it is a C{dict}
            with a member C{__deferred}, the session does with that what
            L{creditsync.records.Deferral} or L{creditsync.records.Replay}
            says.
        @raise creditsync.errors.Refusal: What the client is told instead.
        """
