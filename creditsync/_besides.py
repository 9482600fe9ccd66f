"""
What a trading runtime may provide besides
L{ITradingRuntime<creditsync.interfaces.ITradingRuntime>}, each with what it makes
possible.

L{creditsync.interfaces} has these too, for those who import them from there.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from creditsync.methods import PassedCommand
from creditsync.records import (
    Account,
    FoundTrades,
    GroupedTrade,
    Response,
    Trade,
    TradeEvent,
    TradeFilter,
)

_T = TypeVar("_T")


class IReadiness(Interface):
    """
    Whether a trading runtime can book just now. The runtime may provide it besides
    C{ITradingRuntime}, if it can recover by itself.
    """

    problem: str | None = Attribute(
        "Why nothing can be booked at the moment, as a phrase for operators; L{None} if"
        " it can."
    )


class IQueue(Interface):
    """
    What a trading runtime has yet to book, for metrics and readiness. The runtime may
    provide it besides C{ITradingRuntime}.
    """

    queued: int = Attribute("How many operations wait for their commit.")
    queuedSince: float | None = Attribute(
        "When the oldest of them was queued, by the clock, or L{None}."
    )


class INode(Interface):
    """
    The state of one of several servers that act as one, for its metrics.
    """

    name: str = Attribute("Which no other has.")
    incarnation: int = Attribute("How often it has connected to book, over all starts.")
    isSynchronous: bool = Attribute(
        "Whether a commit waits until it is on a second machine."
    )
    laneCount: int = Attribute("How many batches can be under way at a time.")
    unknowns: int = Attribute("How many commits of unknown outcome were settled.")
    retries: int = Attribute("How many batches were judged again because of a lock.")
    isHeard: bool = Attribute("Whether notifications of other nodes arrive.")
    rings: int = Attribute("How many of them have arrived.")
    polls: int = Attribute("How often it has looked without being notified.")
    held: int = Attribute("How many events are known and can't be published yet.")
    behind: int = Attribute("How many were booked, at the last look, and are not here.")
    readAge: float = Attribute(
        "Seconds since the journal was last read to its end, in which other nodes'"
        " events may be missing here."
    )


class IClustered(Interface):
    """
    A trading runtime of one of several servers, besides C{ITradingRuntime}.
    """

    state: INode = Attribute("Of this server.")

    def whenPublished(place: int) -> "Deferred[None]":
        """
        Wait until this server has published the event at a place.

        @return: Fires then, and also if no server has booked so far.
        """


class IOperations(Interface):
    """
    What a trading runtime knows of an operation before it has an order. The runtime
    provides it besides C{ITradingRuntime} if it reserves elsewhere, and C{GetOperation}
    then asks it about keys.
    """

    def operation(
        principal: int, key: str
    ) -> "Deferred[Trade | Mapping[str, Any] | None]":
        """
        Look up what was requested under a key.

        @return: As C{ITradingRuntime.trade}. If the order is not known yet, it is 0.
        """


class IHeldOperations(Interface):
    """
    Operations that wait for a person's decision. A gateway provides it besides
    C{ITradingRuntime}; without it there is no C{MngResolveOperation}.
    """

    def resolve(number: int, order: int | None, principal: int) -> "Deferred[Response]":
        """
        Decide what became of an operation.

        @param order: That of its trade, or L{None} if it was never booked.
        @param principal: The C{id} of the token of the one who decides.
        @return: Fires with C{operation} and C{outcome} when the decision is durable. It
            may fail with what this may raise.
        @raise creditsync.errors.Refusal: Nothing has changed.
        """


class IPassThrough(Interface):
    """
    Commands of another platform that are passed on to it. A gateway provides it besides
    C{ITradingRuntime}.
    """

    passed: Sequence[PassedCommand] = Attribute("These commands.")

    def passOn(
        command: PassedCommand, data: bytes, token: str | None
    ) -> "Deferred[bytes]":
        """
        Send a command, once.

        @param data: Its data as a JSON text.
        @param token: That of the client, or L{None} if it has none.
        @return: Fires with the data of the reply as a JSON text that any client can
            read. Fails with a L{Refusal<creditsync.errors.Refusal>}, which is an
            L{OutcomeUnknown<creditsync.errors.OutcomeUnknown>} if it may have been
            carried out.
        """


class IJournal(Interface):
    """
    All events of a trading runtime, from the first: what clients need to resume the
    stream from a place. The runtime provides it besides C{ITradingRuntime}, and its
    events have places; without it C{since} is refused.
    """

    epoch: str = Attribute(
        "8 hexadecimal digits. Places of one epoch are of one journal: a copy of it has"
        " another one."
    )
    head: int = Attribute("The last place; 0 if there is none.")

    def events(after: int, limit: int) -> "Deferred[Sequence[TradeEvent]]":
        """
        Read the journal. The next call follows when this one has ended.

        @param after: A place up to the head, or 0 for the beginning.
        @param limit: How many events to read at most.
        @return: Fires with the events at the next places, in their order.
        """

    def placeOf(order: int) -> int | None:
        """
        The place of the last booked change of this order.
        """


class IAccountGroups(Interface):
    """
    The groups of the accounts of a trading runtime, by which tokens are restricted. The
    runtime provides it besides C{ITradingRuntime}; without it no account has a group,
    and there is no C{MngSetAccountGroup}.
    """

    def groupOf(login: int) -> str:
        """
        The group of an account: "" if it has none, or does not exist. This is called
        for the events and requests of restricted tokens, so it has to be quick.
        """

    def setGroup(login: int, group: str) -> "Deferred[None]":
        """
        Move an account to a group.

        @return: Fires when L{groupOf} says so, and no crash can undo it. It may also
            fail with what this may raise.
        @raise creditsync.errors.Refusal: Nothing has changed.
        """


class ILookups(Interface):
    """
    What a trading runtime can look up besides single orders. The runtime provides it
    besides C{ITradingRuntime}; without it C{GetAccountByLogin}, C{GetGroups} and
    C{MngGetTradesByFilter} are refused.
    """

    def account(login: int) -> "Deferred[Account | None]":
        """
        Look up an account with its booked totals.

        @return: Fires with L{None} if there is no such account.
        """

    def groups() -> "Deferred[Sequence[str]]":
        """
        List the groups of all accounts.

        @return: Fires with each of them once.
        """

    def search(
        filter: TradeFilter, page: Callable[[Sequence[GroupedTrade]], _T]
    ) -> "Deferred[FoundTrades[_T]]":
        """
        Find the booked and deleted trades that a filter selects, as they are at one
        moment. The next call follows when this one has ended.

        @param page: Called for some hundred of the trades that are returned at a
            time, in their order; in any thread.
        @return: Fires with what C{page} has returned, and with what the filter selects.
            Fails with L{TookTooLong<creditsync.errors.TookTooLong>} if the filter's
            time is over.
        """


class IFinanceRequests(Interface):
    """
    A trading runtime whose C{submit} takes finance requests too: an C{Operation} with
    C{isRequest}, which makes a trade in state 17, and a C{Decision} about one. The
    runtime provides it besides C{ITradingRuntime}; without it there are no commands for
    finance requests.

    A request is approved or declined at most once, and approved only by another
    principal than the one that has made it.
    """

    def makerOf(order: int) -> int | None:
        """
        Who has made a finance request that waits for approval: the C{id} of the token;
        L{None} if that is not known. This is called for the console, so it has to be
        quick.
        """
