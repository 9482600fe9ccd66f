"""
A Twisted client of the server, or of several that act as one: one connection, many
requests, a Deferred for each.

A request is encoded once and then tried until a reply ends it, or its time is
over. All tries of an operation carry the same C{idempotencyKey}, so that the
server books it once, whatever became of the replies.

A request ends in one of four ways: with an L{Answer}, with L{Refused} or
L{Unanswered} (nothing has happened), or with L{OutcomeUnknown} (it may have).

Trade events are resumed behind the last one on each connection, so that an observer
gets each event once and in order.

If TLS fails, or if the other side is not such a server, waiting does not help: a
request that was never sent then ends at once, with the cause. One that may be
booked is still tried again, since only that can find out.
"""

import random as _random
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any
from uuid import uuid4

from twisted.application.internet import ClientService
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from creditsync._client.approving import FinanceRequests
from creditsync._client.backoff import Backoff
from creditsync._client.connection import Connection
from creditsync._client.cursors import checkCursor
from creditsync._client.deliveries import Observer
from creditsync._client.endpoints import InTurn
from creditsync._client.lines import encode, present
from creditsync._client.outcomes import (
    Amount,
    Answer,
    CursorGone,
    Data,
    OutcomeUnknown,
    Refused,
    Unanswered,
)
from creditsync._client.pipeline import Pipeline
from creditsync._client.request import Call, Request
from creditsync.methods import movesMoney

__all__ = [
    "Amount",
    "Answer",
    "CreditClient",
    "CursorGone",
    "Data",
    "Observer",
    "OutcomeUnknown",
    "Refused",
    "Unanswered",
]

# Commands that change nothing, and therefore need no key.
_READ_ONLY = frozenset(
    {
        "GetAccountByLogin",
        "GetGroups",
        "GetOperation",
        "GetTradeByOrder",
        "GetTradeByOrders",
        "HealthCheck",
        "MngGetTradesByFilter",
        "Subscribe",
        "Unsubscribe",
    }
)

# Tracebacks and documentation name these by the path that applications import.
for _each in (Answer, CursorGone, OutcomeUnknown, Refused, Unanswered):
    _each.__module__ = __name__

_log = Logger()


class CreditClient(FinanceRequests, ClientService):
    """
    A client as a service: it connects when it is started, and again whenever the
    connection is lost, to the next server if there are several.

    Operations that are in flight together have no order among themselves once
    one of them has to be tried again. If the order matters, wait for each answer.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint | Sequence[IStreamClientEndpoint],
        token: str | Callable[[], str],
        *,
        clock: IReactorTime,
        random: Callable[[], float] = _random.random,
        observer: Observer | None = None,
        timeout: float = 8.0,
        patience: float = 30.0,
        maxInFlight: int = 500,
    ) -> None:
        """
        @param endpoint: The server's; or those of several that act as one, which are
            tried in turn.
        @param token: The JWT; or, where it has to be renewed, a function that
            returns it, called for each try.
        @param random: Returns a number from 0 to 1, which spreads the waits of
            many clients.
        @param observer: Gets the trade events from now on, as with L{events}. If
            they can't be resumed, this is logged, and they go on from the newest
            one.
        @param timeout: Seconds from a try to its reply; longer than the
            server's own (C{--timeout}, 5 by default). A connection that misses
            it is dropped.
        @param patience: Seconds from a request to its end, over all its tries.
        @param maxInFlight: How many requests may be in flight; further ones
            queue. It must not exceed the server's limit for one session.
        """
        endpoints = endpoint if isinstance(endpoint, Sequence) else [endpoint]
        backoff = Backoff(random)
        self._pipeline = pipeline = Pipeline(
            clock,
            token,
            isRunning=lambda: self.running,
            backoff=backoff,
            timeout=timeout,
            patience=patience,
            maxInFlight=maxInFlight,
            servers=len(endpoints),
        )
        where = endpoints[0] if len(endpoints) == 1 else InTurn(endpoints, clock)
        factory = Factory.forProtocol(lambda: Connection(pipeline, clock, timeout))
        factory.noisy = False
        super().__init__(where, factory, backoff.reconnectDelay, clock)
        if observer is not None:
            self._observe(observer)

    # What a server can be asked.

    def creditIn(
        self,
        login: int,
        amount: Amount,
        comment: str,
        *,
        order: int = 0,
        openTime: int | None = None,
        closeTime: int | None = None,
        key: str | None = None,
    ) -> "Deferred[Answer]":
        """
        Add credit to an account, or update a credit-in.

        @param amount: Greater than 0, with at most 8 decimals, in the
            account's currency. It is sent as it is, and never rounded.
        @param comment: 1 to 255 characters.
        @param order: The credit-in to update, or 0 for a new one; one that is
            not found becomes a new one.
        @param openTime: UNIX seconds; by default the time of booking.
        @param closeTime: UNIX seconds; by default the time of booking.
        @param key: The C{idempotencyKey}; by default a fresh one.
        @return: Fires with the trade as it was booked: the data of its trade
            event, with its C{profit} as a C{Decimal}. Fails with L{Refused},
            L{Unanswered} or L{OutcomeUnknown}.
        """
        return self.book(
            "CreditIn",
            login,
            amount,
            comment,
            order=order,
            openTime=openTime,
            closeTime=closeTime,
            key=key,
        )

    def creditOut(
        self,
        login: int,
        amount: Amount,
        comment: str,
        *,
        order: int = 0,
        openTime: int | None = None,
        closeTime: int | None = None,
        key: str | None = None,
    ) -> "Deferred[Answer]":
        """
        Withdraw credit from an account, or update a credit-out; see
        L{creditIn}.

        @param amount: Less than 0.
        """
        return self.book(
            "CreditOut",
            login,
            amount,
            comment,
            order=order,
            openTime=openTime,
            closeTime=closeTime,
            key=key,
        )

    def balanceIn(
        self,
        login: int,
        amount: Amount,
        comment: str | None = None,
        *,
        order: int = 0,
        openTime: int | None = None,
        closeTime: int | None = None,
        key: str | None = None,
    ) -> "Deferred[Answer]":
        """
        Add to an account's balance, or update a balance-in; see L{creditIn}.

        @param comment: By default the server's own, C{"Finance"}.
        """
        return self.book(
            "BalanceIn",
            login,
            amount,
            comment,
            order=order,
            openTime=openTime,
            closeTime=closeTime,
            key=key,
        )

    def balanceOut(
        self,
        login: int,
        amount: Amount,
        comment: str | None = None,
        *,
        order: int = 0,
        openTime: int | None = None,
        closeTime: int | None = None,
        key: str | None = None,
    ) -> "Deferred[Answer]":
        """
        Withdraw from an account's balance, or update a balance-out; see
        L{creditIn}.

        @param amount: Less than 0.
        @param comment: By default the server's own, C{"Finance"}.
        """
        return self.book(
            "BalanceOut",
            login,
            amount,
            comment,
            order=order,
            openTime=openTime,
            closeTime=closeTime,
            key=key,
        )

    def deleteCredit(self, order: int, *, key: str | None = None) -> "Deferred[Answer]":
        """
        Delete a credit-in or credit-out; see L{creditIn} for the result.
        """
        return self.delete("DeleteCredit", order, key=key)

    def deleteBalance(
        self, order: int, *, key: str | None = None
    ) -> "Deferred[Answer]":
        """
        Delete a balance-in or balance-out; see L{creditIn} for the result.
        """
        return self.delete("DeleteBalance", order, key=key)

    def book(
        self,
        method: str,
        login: int,
        amount: Amount,
        comment: str | None = None,
        *,
        order: int = 0,
        openTime: int | None = None,
        closeTime: int | None = None,
        key: str | None = None,
    ) -> "Deferred[Answer]":
        """
        Make or update a trade by any booking method that the server has; see
        L{creditIn}.

        @param method: The name without C{Sync}, such as C{"CreditIn"}.
        @param amount: With the method's sign: greater than 0 for a deposit, less
            than 0 for a withdrawal.
        """
        members = {
            "login": login,
            "amount": amount,
            "comment": comment,
            "order": order or None,
            "open_time": openTime,
            "close_time": closeTime,
        }
        return self.request(f"{method}Sync", present(members), key)

    def delete(
        self, method: str, order: int, *, key: str | None = None
    ) -> "Deferred[Answer]":
        """
        Delete a trade by any deleting method that the server has; see
        L{creditIn} for the result.

        @param method: The name without C{Sync}, such as C{"DeleteCredit"}.
        """
        return self.request(f"{method}Sync", {"order": order}, key)

    def getOperation(
        self, *, order: int | None = None, key: str | None = None
    ) -> "Deferred[Answer]":
        """
        Look up a trade as it is now, by its order or by the key under which
        this token's principal had it booked.

        @return: Fires with the trade; fails with L{Refused} of status 404 if
            there is none.
        """
        data = present({"order": order, "idempotencyKey": key})
        return self.request("GetOperation", data)

    def getTradeByOrder(self, order: int) -> "Deferred[Answer]":
        """
        Look up a trade as it is now.

        @return: Fires with the trade; fails with L{Refused} of status 404 if there is
            none, or none that the token may see.
        """
        return self.request("GetTradeByOrder", {"order": order})

    def getTradeByOrders(self, orders: Sequence[int]) -> "Deferred[Answer]":
        """
        Look up trades as they are now.

        @param orders: Up to 1,000.
        @return: Fires with C{structure} and C{rows}, which are in this order; fails
            with L{Refused} of status 404 if there is one of them that the token may
            not see, or that does not exist.
        """
        return self.request("GetTradeByOrders", {"orders": list(orders)})

    def getTradesByFilter(self, **members: Any) -> "Deferred[Answer]":
        """
        Find trades.

        @param members: Those of docs/protocol.rst, "Look-ups", such as
            C{where=[["login", "==", 1001]], limit=10}.
        @return: Fires with C{structure}, C{rows}, C{count} and C{totals}.
        """
        return self.request("MngGetTradesByFilter", members)

    def getAccountByLogin(self, login: int) -> "Deferred[Answer]":
        """
        Look up an account, with its totals as C{Decimal}.

        @return: Fires with the account; fails with L{Refused} of status 404 if there
            is none, or none that the token may see.
        """
        return self.request("GetAccountByLogin", {"login": login})

    def getGroups(self) -> "Deferred[Answer]":
        """
        List the groups of accounts that the token may see, as C{groups}.
        """
        return self.request("GetGroups", {})

    def healthCheck(self) -> "Deferred[Answer]":
        """
        Ask for the server's state.
        """
        return self.request("HealthCheck", {})

    def request(
        self, command: str, data: Mapping[str, Any], key: str | None = None
    ) -> "Deferred[Answer]":
        """
        Send any command.

        @param key: The C{idempotencyKey}, which makes all tries the same
            request. By default a fresh one, except for commands that only read.
        @return: Fires with the reply's data; fails as L{creditIn} does.
            Cancelling it does not stop the server, which may still book the
            operation.
        """
        if not self.running:
            return fail(Unanswered(f"{command}: the client is not running"))
        if key is None and command not in _READ_ONLY:
            key = uuid4().hex
        try:
            body = encode(command, data, key)
        except Exception:
            return fail()
        return self._pipeline.add(Request(command, key, body))

    def call(
        self, command: str, data: Mapping[str, Any] | None = None
    ) -> "Deferred[Any]":
        """
        Send a command that a gateway passes on to its platform (docs/gateway.rst,
        "Commands of the platform"). It has no C{idempotencyKey} and is sent once:
        repeat it only if the platform may carry it out twice.

        @param data: Nothing, by default.
        @return: Fires with the data of the platform's reply, whatever it is: a number
            with a point is a C{float} where that is exact, and a C{Decimal} otherwise.
            Fails with L{Refused}, also if the gateway is busy; with L{Unanswered}; or
            with L{OutcomeUnknown}, also if the connection is lost before the reply.
        """
        if movesMoney(command):
            why = f"{command} moves money: send it by request, with a key"
            return fail(ValueError(why))
        if not self.running:
            return fail(Unanswered(f"{command}: the client is not running"))
        try:
            body = encode(command, data or {})
        except Exception:
            return fail()
        answered = self._pipeline.add(Call(command, None, body))
        return answered.addCallback(itemgetter("data"))

    # Trade events.

    def events(self, observer: Observer, since: str | None = None) -> "Deferred[None]":
        """
        Have an observer called with each trade event that the token may see, once
        and in order, over any number of connections and restarts of the server.

        If the events of a server have no cursors, those between two connections
        are missed; L{resumes} tells.

        @param observer: Called with the type and the data of an event. If it
            returns a Deferred or a coroutine, the next event waits for its end. If
            it fails, that is logged, and it gets the next event.
        @param since: The cursor behind which the events begin, as L{cursor} gave
            it to this client or to an earlier one; or C{"first"}, for all of the
            ledger's; by default they begin now.
        @return: Never fires. Fails if the events end: with L{CursorGone} where this
            ledger does not have the cursor, or with another L{Refused} where the
            server does not accept it. After that, events can be observed again.
            Cancel it to end them.
        @raise ValueError: C{since} can't be a cursor.
        @raise RuntimeError: This client's events have an observer.
        """
        if since is not None:
            checkCursor(since)
        return self._pipeline.subscription.observe(observer, since)

    @property
    def cursor(self) -> str | None:
        """
        The place of the last event that the observer is done with, or that where
        the events begin. An application that keeps it misses no event when it is
        started again. L{None} while it is not known, or if events have no cursors.
        """
        return self._pipeline.subscription.cursor

    @property
    def resumes(self) -> bool | None:
        """
        Whether the server's events have cursors, so that none is missed; L{None}
        until it has answered.
        """
        return self._pipeline.subscription.resumes

    def _observe(self, observer: Observer, since: str | None = None) -> None:
        def goOn(failure: Failure) -> None:
            failure.trap(Refused)
            _log.error("trade events may be missed: {why}", why=failure.value)
            head = getattr(failure.value, "head", None)
            # A server that has just refused its own head gets no third chance.
            self._observe(observer, None if head == since else head)

        self.events(observer, since).addErrback(goOn)

    # The service.

    def stopService(self) -> "Deferred[None]":
        """
        Close the connection, and end all requests: with L{Unanswered} or
        L{Refused} where nothing has happened, else with L{OutcomeUnknown}.

        @return: Fires when the connection is closed.
        """
        stopped = super().stopService()
        self._pipeline.stop(stopped)
        return stopped
