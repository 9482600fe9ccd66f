"""
What an embedding application may replace, and what the modules need of one
another.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import Attribute, Interface

from creditsync._besides import IAccountGroups as IAccountGroups
from creditsync._besides import IClustered as IClustered
from creditsync._besides import IFinanceRequests as IFinanceRequests
from creditsync._besides import IHeldOperations as IHeldOperations
from creditsync._besides import IJournal as IJournal
from creditsync._besides import ILookups as ILookups
from creditsync._besides import INode as INode
from creditsync._besides import IOperations as IOperations
from creditsync._besides import IPassThrough as IPassThrough
from creditsync._besides import IQueue as IQueue
from creditsync._besides import IReadiness as IReadiness
from creditsync.records import (
    Account,
    AnyOperation,
    FoundTrades,
    GroupedTrade,
    Movement,
    Principal,
    Request,
    Reservation,
    Response,
    Trade,
    TradeEvent,
    TradeFilter,
)

_T = TypeVar("_T")

TradeObserver: TypeAlias = Callable[[Sequence[TradeEvent]], None]


class ITradingRuntime(Interface):
    """
    The backend that books finance operations and emits their events.

    If it is a L{twisted.application.service.IService} too, the server starts
    it with itself, before the first request is handled, and stops it after the
    last one was answered. Its C{startService} may return a Deferred that fires
    when it is ready; requests wait until then. If that fails, the server fails
    with it, and stops the runtime when it is stopped itself, which may also be
    before the Deferred has fired.
    """

    def submit(
        operation: AnyOperation,
    ) -> "Reservation | Deferred[Reservation]":
        """
        Reserve a new order, or reuse the one that is named, and queue the
        operation. If its principal has submitted the same operation under the
        same key before, return the reservation of that.

        No event may be published for the operation before the reservation is
        known: the session registers its waiter in that same reactor turn.

        @return: The reservation, now or later. A Deferred may also fail with
            what this may raise.
        @raise creditsync.errors.Refusal: Nothing has happened, and nothing
            will.
        """

    def trade(order: int) -> "Deferred[Trade | Mapping[str, Any] | None]":
        """
        Look up a trade as it is now, with one of the request states if its
        last operation is not booked yet.

        @return: Fires with L{None} if there is no such order.
        """

    def orderOf(principal: int, key: str) -> "Deferred[int | None]":
        """
        Look up the order that was booked, or is to be booked, under a key.

        @return: Fires with L{None} if there is none.
        """

    def whenFailed() -> "Deferred[None]":
        """
        Wait until this runtime can't book any more.

        @return: Fails with the cause, once; never fires otherwise. The outcome
            of pending operations is unknown then.
        """


class ITradeEvents(Interface):
    """
    The stream of trade events inside the process.
    """

    def addObserver(observer: TradeObserver) -> None:
        """
        Call C{observer} with each sequence of events that is published, in
        the order in which observers were added.
        """

    def removeObserver(observer: TradeObserver) -> None:
        """
        Stop calling C{observer}.

        @raise ValueError: It is no observer.
        """

    def publish(events: Sequence[TradeEvent]) -> None:
        """
        Pass events to every observer, in booking order, after their commit.
        What an observer raises is logged, and the others are called all the
        same.
        """


class ILedger(Interface):
    """
    The durable record of trades and account totals.

    Reads see what was committed; only the runtime knows what is pending.

    Its journal has every operation that was booked, with its place: 1, 2, 3 ... in the
    order of booking, without a gap. C{epoch}, C{head} and C{events} are for an open
    ledger.
    """

    epoch: str = Attribute(
        "8 hexadecimal digits. Places of one epoch are of one journal: a copy of the"
        " ledger has another one."
    )
    head: int = Attribute("The last committed place; 0 if there is none.")

    def open() -> "Deferred[None] | None":
        """
        Make the ledger ready, creating or checking it first.

        @return: L{None} if it is ready, or a Deferred that fires when it is. It
            fails with a L{LedgerProblem<creditsync.errors.LedgerProblem>} if the
            ledger can't be used.
        @raise creditsync.errors.LedgerProblem: It can't be used, which was found
            out at once.
        """

    def close() -> None:
        """
        Close it; no commit may be running. If it is being opened, that fails soon,
        and leaves nothing open.
        """

    def newOrder() -> int:
        """
        Return an order number that was never returned before, not even to a
        process that has died since.

        @raise creditsync.errors.Busy: The durably reserved numbers are used
            up; the next commit reserves more.
        """

    def trade(order: int) -> Trade | None:
        """
        The committed trade with this order.
        """

    def placeOf(order: int) -> int | None:
        """
        The place of the last committed change of this order.
        """

    def events(after: int, limit: int) -> list[TradeEvent]:
        """
        Read the journal. Other threads may call this too, one at a time, while the
        ledger is open; a commit does not wait for it.

        @param after: A place up to the head, or 0 for the beginning.
        @param limit: How many events to read at most.
        @return: The committed events at the next places, in their order.
        """

    def movements(day: int, upTo: int) -> Sequence[Movement]:
        """
        Add up what was booked on one day. Other threads may call this too; it may take
        seconds, for which no commit waits.

        A trade that is made, or deleted, moves its amount. An update moves its new
        amount, or what that differs from the amount before if that is more.

        @param day: The UTC day by its number, counted from 1970-01-01: the
            C{timestamp} of a trade divided by 86,400.
        @param upTo: The last place to look at.
        @return: Sums for all combinations of principal, role, login and method.
        @raise creditsync.errors.LedgerProblem: It can't be read.
        """

    def account(login: int) -> Account | None:
        """
        This account with its committed totals and group; a fresh record that the
        caller may change.
        """

    def principalOf(order: int) -> int | None:
        """
        Who has requested the last committed change of this order: the C{id} of the
        token; L{None} if that is not recorded.
        """

    def replay(principal: int, key: str) -> Reservation | None:
        """
        What was committed under this key, as it was booked.
        """

    def groups() -> list[str]:
        """
        List the groups of all accounts, each once. Other threads may call this too
        while the ledger is open.
        """

    def search(
        filter: TradeFilter, page: Callable[[Sequence[GroupedTrade]], _T]
    ) -> FoundTrades[_T]:
        """
        Find the committed trades that a filter selects: see L{ILookups.search}.
        Other threads may call this too while the ledger is open; a commit does not
        wait for it.

        @raise creditsync.errors.TookTooLong: The filter's time is over.
        """

    def commit(reservations: Sequence[Reservation]) -> "Deferred[None]":
        """
        Append these reservations to the journal, in this order, and give each its
        place. Their trades and their accounts' totals become the present ones. All
        of it is one durable transaction. The next commit may start only when this
        one has ended.

        @param reservations: Each with the totals after it.

        @return: Fires when all of it is on disk. If it fails, it is unknown
            what is.
        """

    def setGroups(groups: Mapping[int, str]) -> "Deferred[None]":
        """
        Move accounts to groups, by their logins, and open those that don't exist. No
        commit may be running, and none may start before this has ended.

        @return: As L{commit}.
        """


class IAuthenticator(Interface):
    """
    Decides which tokens are valid.
    """

    def authenticate(token: str | None) -> Principal:
        """
        Return the principal of this token.

        @raise creditsync.errors.Unauthorized: It is not valid, and why.
        """

    def isCurrent(principal: Principal) -> bool:
        """
        Whether the token of a principal is still valid: neither expired nor
        revoked.
        """


class ISession(Interface):
    """
    One conversation with a client, as commands and other modules see it.
    """

    number: int = Attribute("Its serial number on this server, from 1.")
    isStalled: bool = Attribute("Whether its client does not read what it is sent.")
    isIdle: bool = Attribute("Whether it has no request that waits for its reply.")
    peer: str = Attribute("The client's address, for people to read.")
    principal: Principal | None = Attribute(
        "The principal of the last token that was accepted, while that is valid."
    )

    def subscribe(subscribed: bool, after: int | None = None) -> None:
        """
        Begin or cease to receive trade events.

        @param after: A place: begin with all events behind it.
        """

    def send(data: bytes) -> None:
        """
        Send lines to the client, each with CR LF at its end.
        """

    def waitEnded(waiter: Any, data: bytes | None) -> None:
        """
        Answer a request: what it was waiting for has come.

        @param waiter: One of this session's.
        @param data: The data of the event, which is the reply's; or L{None}, and
            the reply has the waiter's response.
        """

    def waitFailed(waiter: Any, why: Failure) -> None:
        """
        Refuse a request: what it was waiting for will not come.
        """


class ICommand(Interface):
    """
    One command of docs/protocol.rst.
    """

    name = Attribute("The C{command} of its requests.")
    schema = Attribute("The name of the JSON Schema of its data.")
    roles = Attribute("The C{SESSION_*} codes that may use it.")
    needsExtID = Attribute("Whether a request without C{extID} is refused.")
    isReadOnly = Attribute("Whether it changes nothing that is kept.")

    def execute(session: ISession, request: Request) -> "Response | Deferred[Response]":
        """
        Carry out a request whose data has passed the schema.

        @return: The C{data} of a 200 reply, now or later. If it is a C{dict}
            with a member C{__deferred}, that is never sent: it is the
            L{Reservation<creditsync.records.Reservation>} for which the reply
            waits.
        @raise creditsync.errors.Refusal: The reply instead.
        """
