"""
The client: one connection, many requests, a Deferred for each.

A request is encoded once and then tried until it has an answer that ends it,
or its time is over. Each try goes out under an C{extID} of its own; every one
of an operation's tries carries the same C{idempotencyKey}, so that the server
books it once, whatever became of the replies. Requests queue while there is
no connection or too many are in flight; those whose connection was lost go
back to the front of the queue, in their order.

A request ends in one of four ways: with data, as L{Refused} or L{Unanswered}
(nothing has happened), or as L{OutcomeUnknown} (it may have).

Where TLS does not work out, or what answers is not a server of ours, waiting
helps nobody: a request that was never sent then ends at once, with the cause.
One that may be booked is still tried again, since only that can find out.
"""

import random as _random
from collections import OrderedDict
from collections.abc import Callable, Mapping
from decimal import Decimal
from itertools import count
from typing import Any, TypeAlias
from uuid import uuid4

from attrs import define, field
from twisted.application.internet import ClientService
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import (
    IDelayedCall,
    IHandshakeListener,
    IReactorTime,
    ISSLTransport,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from creditsync import errors, wire
from creditsync._timeouts import EqualTimeouts
from creditsync._transport.tls import (
    BEGINNINGS,
    SPEAKS_TLS,
    handshakeProblem,
    isRefusedCertificate,
)
from creditsync.codes import TRADE_EVENT
from creditsync.errors import SPOKEN, InvalidJSON, Spoken

Data: TypeAlias = dict[str, Any]
Amount: TypeAlias = Decimal | int | float
# Called with the type of a trade event, one of the EV_RECORD_* codes, and its
# data.
Observer: TypeAlias = Callable[[int, Data], object]

# Bytes in one line, either way, without its end: the server's own default.
MAX_LINE_LENGTH = 65536

# Seconds: the first wait before a repetition, which doubles with each further
# one, and the longest.
FIRST_DELAY = 0.1
MAX_DELAY = 5.0

# Seconds after which an observed connection shows its token again. The server
# ends the event stream of a token that has expired without a word.
RENEWAL = 30.0

# Seconds that a connection may take to close in order when the client stops.
GOODBYE = 2.0

# Commands that change nothing, and therefore need no key.
_READ_ONLY = frozenset({"GetOperation", "HealthCheck", "Subscribe", "Unsubscribe"})

# How a connection ended that was not closed for any reason of its own.
_CLOSED = (
    "the server closed the connection without an answer: does it speak TLS there, or"
    " is it stopping?"
)
_CLOSED_TLS = "the server closed the connection without an answer"
_CLOSED_IN_HANDSHAKE = "the connection was closed during the TLS handshake"
_NO_HANDSHAKE = "no TLS handshake in time: does the server speak TLS there?"
_SILENT = "no reply in time"
_SPEAKS_TLS = "the server speaks TLS there, and this client does not"

# These may be otherwise with the next connection.
_PASSING = frozenset({_SILENT, _NO_HANDSHAKE})

# Refusals of the moment: the same request may be taken later.
_MOMENTARY = frozenset({429, 503})

# The members of a trade and of an accepted command that are money.
_MONEY = ("profit", "amount")


class Answer(dict[str, Any]):
    """
    The data of a reply, its money as C{Decimal}.

    @ivar isReplay: Whether the operation was booked before, under the same
        key, and was not booked again.
    """

    def __init__(self, data: Data, isReplay: bool) -> None:
        super().__init__(data)
        self.isReplay = isReplay


class Refused(Exception):
    """
    The server refused the request: nothing has happened.

    @ivar status: The status, of HTTP's kind.
    @ivar error: The name of what happened, for instance C{TRADE_NO_MONEY}.
    @ivar message: A sentence that names the member or the cause.
    @ivar data: What travels beside the message, or L{None}.
    """

    def __init__(
        self, status: int, error: str, message: str, data: Data | None = None
    ) -> None:
        super().__init__(f"{status} {error}: {message}")
        self.status = status
        self.error = error
        self.message = message
        self.data = data


class Unanswered(Exception):
    """
    There is no answer, and nothing has happened: the request has never been
    sent, or it only reads.
    """


class OutcomeUnknown(errors.OutcomeUnknown):
    """
    Nobody could say what became of the operation: it may be booked, or may
    still be.

    To find out, ask L{CreditClient.getOperation} for its key, or ask for the
    same operation once more with the same key.

    @ivar order: The order that was reserved for it, or L{None} if the client
        was not told.
    @ivar key: Its C{idempotencyKey}.
    """

    def __init__(self, cause: str, order: int | None, key: str) -> None:
        super().__init__(f"{cause} (idempotencyKey {key})", order)
        self.order = order
        self.key = key


class _NotOurs(Exception):
    """
    What came is nothing that a server of ours would send.
    """


@define(eq=False)
class _Request:
    """
    One request, over all its tries.

    @ivar body: The members that all tries have in common, as a JSON object.
    @ivar extID: The name of the try that is in flight, if one is.
    @ivar tries: How many answers of the moment it has had.
    @ivar mayBeBooked: Whether a try that is over has left that open.
    @ivar wasLost: Whether a try may still be on its way in: its connection was
        lost before its reply, or the server could not name an order.
    @ivar order: The order that a try has reserved, as far as it is known.
    @ivar refusal: The last refusal of the moment.
    @ivar nextTry: The end of the wait for the next try.
    """

    command: str
    key: str | None
    body: bytes
    ended: "Deferred[Answer]" = field(init=False)
    extID: str | None = None
    tries: int = 0
    mayBeBooked: bool = False
    wasLost: bool = False
    order: int | None = None
    refusal: Refused | None = None
    nextTry: IDelayedCall | None = None

    def isEndedBy(self, refusal: Refused) -> bool:
        """
        Whether a refusal of this try says that no other one was booked, nor
        can be any more.
        """
        if not self.mayHaveHappened:
            return True
        spoken = SPOKEN.get(refusal.error, Spoken.BEFORE_KEY)
        return spoken is Spoken.BY_KEY or (
            spoken is Spoken.AFTER_KEY and not self.wasLost
        )

    @property
    def mayHaveHappened(self) -> bool:
        """
        Whether a try has been sent that may be booked. What only reads has
        nothing to be booked.
        """
        return self.key is not None and (self.mayBeBooked or self.extID is not None)

    def unfinished(self, cause: str) -> Exception:
        """
        What there is to say if nothing more is done for this request.
        """
        if self.key is not None and self.mayHaveHappened:
            return OutcomeUnknown(f"{self.command}: {cause}", self.order, self.key)
        return self.refusal or Unanswered(f"{self.command}: {cause}")


class CreditClient(ClientService):
    """
    A client of one server, as a service: it connects when it is started, and
    again whenever the connection is lost.

    Operations that are under way together have no order among themselves
    once one of them has to be tried again; who needs an order waits for the
    answer.
    """

    _log = Logger()

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
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
        @param token: The JWT; or what gives it, called for each try, where it
            has to be renewed.
        @param random: Gives a number from 0 to 1, by which the waits of many
            clients are spread.
        @param observer: Called with the type and the data of each trade event
            that the server broadcasts. Events between two connections are
            missed.
        @param timeout: Seconds from a try to its reply; longer than the
            server's own (seed: 5). A connection that misses it is dropped.
        @param patience: Seconds from a request to its end, over all its tries.
        @param maxInFlight: How many requests may be in flight, which is below
            what the server allows to one session; further ones queue.
        """
        factory = Factory.forProtocol(lambda: _Connection(self))
        factory.noisy = False
        super().__init__(endpoint, factory, self._reconnectDelay, clock)
        self._clock = clock
        self._token = token
        self._random = random
        self._observer = observer
        self._maxInFlight = maxInFlight
        # As many as may be in flight now: half of it after each connection
        # that was lost with some, one more with each reply. A connection that
        # is cut again and again still gets a few through.
        self._window = maxInFlight
        self._connection: _Connection | None = None
        # Why the last connection was of no use, if it was of none.
        self._uselessness = ""
        self._handshakeTimeout = timeout
        self._attempts = 0
        self._extIDs = count(1)
        self._queue: OrderedDict[_Request, None] = OrderedDict()
        # By extID; None stands for the connection's own subscription.
        self._inFlight: dict[str, _Request | None] = {}
        self._renewal: IDelayedCall | None = None
        self._timeouts: EqualTimeouts[str] = EqualTimeouts(
            clock, timeout, self._timedOut
        )
        self._patience: EqualTimeouts[_Request] = EqualTimeouts(
            clock, patience, self._giveUp
        )

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
            account's currency. It is written as it is, and never rounded.
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
        Take credit out of an account, or update a credit-out; see L{creditIn}.

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
        Take out of an account's balance, or update a balance-out; see
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
        Delete a credit-in or credit-out; see L{creditIn} for what comes back.
        """
        return self.delete("DeleteCredit", order, key=key)

    def deleteBalance(
        self, order: int, *, key: str | None = None
    ) -> "Deferred[Answer]":
        """
        Delete a balance-in or balance-out; see L{creditIn} for what comes
        back.
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
        Make or update a trade by any method that the server has; see
        L{creditIn}.

        @param method: The name without C{Sync}, such as C{"CreditIn"}.
        @param amount: As the method wants it: greater than 0 what is put in,
            less than 0 what is taken out.
        """
        members = {
            "login": login,
            "amount": amount,
            "comment": comment,
            "order": order or None,
            "open_time": openTime,
            "close_time": closeTime,
        }
        return self.request(f"{method}Sync", _present(members), key)

    def delete(
        self, method: str, order: int, *, key: str | None = None
    ) -> "Deferred[Answer]":
        """
        Delete a trade by any method that the server has for that; see
        L{creditIn} for what comes back.

        @param method: The name without C{Sync}, such as C{"DeleteCredit"}.
        """
        return self.request(f"{method}Sync", {"order": order}, key)

    def getOperation(
        self, *, order: int | None = None, key: str | None = None
    ) -> "Deferred[Answer]":
        """
        Ask for a trade as it is now, by its order or by the key under which
        this token's principal had it booked.

        @return: Fires with the trade; fails with L{Refused} of status 404 if
            there is none.
        """
        data = _present({"order": order, "idempotencyKey": key})
        return self.request("GetOperation", data)

    def healthCheck(self) -> "Deferred[Answer]":
        """
        Ask how the server is.
        """
        return self.request("HealthCheck", {})

    def request(
        self, command: str, data: Mapping[str, Any], key: str | None = None
    ) -> "Deferred[Answer]":
        """
        Send any command.

        @param key: The C{idempotencyKey}, under which every try is the same
            request. By default a fresh one, but for commands that only read.
        @return: Fires with the reply's data; fails as L{creditIn} does. To
            cancel it is to lose interest: the server may book it all the same.
        """
        if not self.running:
            return fail(Unanswered(f"{command}: the client is not running"))
        if key is None and command not in _READ_ONLY:
            key = uuid4().hex
        try:
            body = _encode(command, dict(data), key)
        except Exception:
            return fail()
        request = _Request(command, key, body)
        request.ended = Deferred(lambda _: self._forget(request))
        self._patience.start(request)
        self._enqueue(request)
        return request.ended

    # The service.

    def stopService(self) -> "Deferred[None]":
        """
        Close the connection, and end what is under way: with L{Unanswered}
        or L{Refused} where nothing has happened, else L{OutcomeUnknown}.

        @return: Fires when the connection is closed.
        """
        stopped = super().stopService()
        connection = self._connection
        if connection is not None:
            connection.isOver = True
            self._disconnected(connection)
            cut = self._clock.callLater(GOODBYE, connection.cutOff)
            stopped.addBoth(_cancel, cut)
        for request in self._patience.waiting():
            self._fail(request, request.unfinished("the client was stopped"))
        return stopped

    def _awaitHandshake(self, connection: "_Connection") -> IDelayedCall:
        """
        Give up a connection on which TLS does not stand in time.
        """
        return self._clock.callLater(
            self._handshakeTimeout, connection.giveUp, _NO_HANDSHAKE
        )

    def _connected(self, connection: "_Connection") -> None:
        """
        There is a connection.
        """
        if not self.running:
            connection.cutOff()
            return
        self._connection = connection
        self._subscribe()
        self._pump()

    def _disconnected(self, connection: "_Connection") -> None:
        """
        A connection is lost, or given up: what was in flight goes back to the
        front of the queue. Nobody knows what became of it, unless the other
        side could not understand any of it.
        """
        if connection is not self._connection:
            return
        self._connection = None
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None
        inFlight, self._inFlight = self._inFlight, {}
        if inFlight:
            self._window = max(1, self._window // 2)
        for extID, request in reversed(inFlight.items()):
            self._timeouts.end(extID)
            if request is not None and not request.ended.called:
                request.extID = None
                if not connection.isNotUnderstood:
                    request.mayBeBooked = request.wasLost = True
                self._queue[request] = None
                self._queue.move_to_end(request, last=False)

    def _ofNoUse(self, cause: str, isHopeless: bool) -> None:
        """
        A connection has ended without one answer of a server of ours.

        @param isHopeless: Whether the next one would end in the same way. Then
            all that can end, ends. If not, a health check does all the same,
            as it asks for the state of this moment.
        """
        self._uselessness = cause
        for request in self._patience.waiting():
            isCheck = request.command == "HealthCheck"
            if (isHopeless or isCheck) and not request.mayHaveHappened:
                self._fail(request, request.unfinished(cause))

    def _reconnectDelay(self, failedAttempts: int) -> float:
        # Not the argument: it starts again with each connection, also with
        # one that is of no use.
        self._attempts += 1
        return self._delay(self._attempts)

    def _delay(self, attempt: int) -> float:
        """
        Seconds to wait after the n-th failure in a row, which is 1 or more.
        """
        longest = min(FIRST_DELAY * 2.0 ** min(attempt - 1, 30), MAX_DELAY)
        return longest * (1 + self._random()) / 2

    # The way out.

    def _enqueue(self, request: _Request) -> None:
        request.nextTry = None
        self._queue[request] = None
        self._pump()

    def _pump(self) -> None:
        """
        Send what may be sent.
        """
        while (
            self._queue
            and self._connection is not None
            and len(self._inFlight) < self._window
        ):
            request, _ = self._queue.popitem(last=False)
            try:
                request.extID = self._send(request.body, request)
            except Exception as e:
                if request.mayBeBooked:
                    self._fail(request, request.unfinished(f"no further try, {e}"))
                else:
                    self._fail(request, e)

    def _send(self, body: bytes, request: _Request | None) -> str:
        """
        Send a try under a name of its own.

        @return: The name.
        @raise Exception: There is no token, or the line would not be taken;
            nothing was sent.
        """
        assert self._connection is not None
        token = self._token() if callable(self._token) else self._token
        if not token.isascii():
            # Not every character may stand in a line, and no JWT has others.
            raise ValueError("the token is not ASCII")
        extID = str(next(self._extIDs))
        head = wire.encodeData({"extID": extID, "__token": token})
        line = head[:-1] + b"," + body[1:]
        if len(line) > MAX_LINE_LENGTH:
            raise Refused(
                413, "LINE_TOO_LONG", f"a line has at most {MAX_LINE_LENGTH} bytes"
            )
        self._inFlight[extID] = request
        self._timeouts.start(extID)
        self._connection.send(line + b"\r\n")
        return extID

    def _subscribe(self) -> None:
        """
        Say whether this connection wants trade events. The server would send
        them to every connection that has shown a good token.
        """
        command = "Unsubscribe" if self._observer is None else "Subscribe"
        body = _encode(command, {"chanels": [TRADE_EVENT]})
        with self._log.failureHandler("the subscription was not sent"):
            self._send(body, None)
        if self._observer is not None:
            self._renewal = self._clock.callLater(RENEWAL, self._renew)

    def _renew(self) -> None:
        # A connection that has lived so long is a good one.
        self._attempts = 0
        self._subscribe()

    # The way in.

    def _lineReceived(self, line: bytes) -> None:
        """
        Take one line from the connection.

        @raise InvalidJSON: It is no JSON of ours.
        @raise _NotOurs: It is JSON, and neither an event nor a reply.
        """
        members = wire.decode(line)
        if "event" in members:
            self._eventReceived(members)
        else:
            self._replyReceived(members)

    def _complained(self, connection: "_Connection", complaint: Refused) -> None:
        """
        The server says something to nobody.
        """
        self._log.warn("the server complains: {answer}", answer=complaint)
        if not connection.hasAnswered and complaint.message == SPEAKS_TLS:
            # Not one of the lines that were sent means anything to the other side.
            # Any other complaint may be about what a proxy put before them.
            connection.isNotUnderstood = True
            connection.cause = complaint.message

    def _eventReceived(self, members: Data) -> None:
        if members["event"] != TRADE_EVENT or self._observer is None:
            return
        type, data = members.get("type"), members.get("data")
        if not isinstance(type, int) or not isinstance(data, dict):
            raise _NotOurs("a trade event has no type or no data")
        self._attempts = 0
        with self._log.failureHandler("the observer of trade events failed"):
            self._observer(type, _exact(data))

    def _replyReceived(self, members: Data) -> None:
        answer = _answer(members)
        extID = members.get("extID")
        connection = self._connection
        if extID is None and isinstance(answer, Refused) and connection is not None:
            self._complained(connection, answer)
        if not isinstance(extID, str) or extID not in self._inFlight:
            return
        if connection is not None:
            connection.hasAnswered = True
            self._uselessness = ""
        self._timeouts.end(extID)
        request = self._inFlight.pop(extID)
        self._window = min(self._window + 1, self._maxInFlight)
        if request is not None:
            self._attempts = 0
            request.extID = None
            self._answered(request, answer)
        elif isinstance(answer, Refused):
            self._log.warn("no subscription: {answer}", answer=answer)
        self._pump()

    def _answered(self, request: _Request, answer: Answer | Refused) -> None:
        """
        A try has its reply, which ends the request or asks for another try.
        """
        if request.ended.called:
            return
        if not isinstance(answer, Refused):
            self._forget(request)
            request.ended.callback(answer)
        elif answer.status == 504:
            order = _order(answer)
            request.mayBeBooked = True
            request.wasLost = request.wasLost or order is None
            request.order = order or request.order
            self._tryAgain(request)
        elif answer.status in _MOMENTARY:
            request.refusal = answer
            self._tryAgain(request, _retryAfter(answer))
        elif request.isEndedBy(answer):
            self._fail(request, answer)
        else:
            self._fail(request, request.unfinished(f"no further try, {answer}"))

    def _tryAgain(self, request: _Request, seconds: float = 0.0) -> None:
        """
        Try once more, no earlier than the server asks for.
        """
        request.tries += 1
        delay = seconds + self._delay(request.tries)
        request.nextTry = self._clock.callLater(delay, self._enqueue, request)

    # The end.

    def _timedOut(self, extID: str) -> None:
        """
        The connection is silent. Another one may tell what this one doesn't.
        """
        if extID in self._inFlight and self._connection is not None:
            self._connection.giveUp(_SILENT)

    def _giveUp(self, request: _Request) -> None:
        # A try that is in flight keeps its place until its reply or timeout:
        # the server still works on it, and silence ends the connection.
        cause = "no answer in time"
        if self._uselessness:
            cause = f"{cause}, {self._uselessness}"
        self._fail(request, request.unfinished(cause))

    def _fail(self, request: _Request, why: Exception) -> None:
        if not request.ended.called:
            self._forget(request)
            request.ended.errback(why)

    def _forget(self, request: _Request) -> None:
        """
        Do nothing more for a request.
        """
        self._patience.end(request)
        self._queue.pop(request, None)
        if request.nextTry is not None:
            request.nextTry.cancel()
            request.nextTry = None


@implementer(IHandshakeListener)
class _Connection(Protocol):
    """
    One connection: bytes to lines, within a bound. Nothing is sent before TLS,
    if it is spoken, stands.

    @ivar isOver: Whether what still comes is of no interest.
    @ivar hasAnswered: Whether a request has had its reply here.
    @ivar isNotUnderstood: Whether nothing that is sent here can be understood
        on the other side, so that nothing of it has happened.
    @ivar cause: Why it is given up, if it is.
    """

    # What an endpoint gives: more than ITransport, but not always the same.
    transport: Any

    _log = Logger()

    def __init__(self, client: CreditClient) -> None:
        self._client = client
        self._partial = bytearray()
        self._handshake: IDelayedCall | None = None
        self.isOver = False
        self.hasAnswered = False
        self.isNotUnderstood = False
        self.cause = ""

    def connectionMade(self) -> None:
        """
        Begin, or wait for TLS.
        """
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpKeepAlive(True)
            self.transport.setTcpNoDelay(True)
        if ISSLTransport.providedBy(self.transport):
            self._handshake = self._client._awaitHandshake(self)
        else:
            self._client._connected(self)

    def handshakeCompleted(self) -> None:
        """
        TLS stands.
        """
        if not self.isOver:
            self._endHandshake()
            self._client._connected(self)

    def _endHandshake(self) -> None:
        if self._handshake is not None and self._handshake.active():
            self._handshake.cancel()
        self._handshake = None

    def send(self, line: bytes) -> None:
        """
        Say a line.
        """
        self.transport.write(line)

    def dataReceived(self, data: bytes) -> None:
        """
        Take bytes as they arrive.
        """
        if self.isOver:
            return
        if not self.hasAnswered and data.startswith(BEGINNINGS):
            self.isNotUnderstood = True
            self.giveUp(_SPEAKS_TLS)
            return
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = bytes(self._partial) + lines[0]
            self._partial.clear()
        self._partial += rest
        try:
            for line in lines:
                if self.isOver:
                    return
                self._lineReceived(line)
            self._checkLength(self._partial)
        except (InvalidJSON, _NotOurs) as e:
            self.giveUp(f"the server does not speak this protocol: {e}")

    def _lineReceived(self, line: bytes) -> None:
        self._checkLength(line)
        if line and not line.isspace():
            self._client._lineReceived(line)

    def _checkLength(self, line: bytes | bytearray) -> None:
        if len(line) > MAX_LINE_LENGTH + len(b"\r"):
            raise _NotOurs(f"a line has more than {MAX_LINE_LENGTH} bytes")

    def giveUp(self, cause: str) -> None:
        """
        Leave a connection that is of no use.
        """
        if self.isOver:
            return
        self._log.warn(
            "the connection to {peer} is given up: {cause}",
            peer=self.transport.getPeer(),
            cause=cause,
        )
        self.cause = self.cause or cause
        self.cutOff()
        self._client._disconnected(self)
        self._tellUselessness(isHopeless=cause not in _PASSING)

    def cutOff(self) -> None:
        """
        End the connection at once, whatever is still unsaid.
        """
        self.isOver = True
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Let the client know.
        """
        wasOver, self.isOver = self.isOver, True
        isInHandshake = self._handshake is not None
        self._endHandshake()
        problem = handshakeProblem(reason, self.transport)
        if problem and not self.hasAnswered:
            self.cause = problem
            self.isNotUnderstood = isInHandshake or isRefusedCertificate(reason)
        isHopeless = bool(self.cause)
        self.cause = self.cause or self._closed(isInHandshake)
        self._client._disconnected(self)
        if not wasOver:
            self._tellUselessness(isHopeless)

    def _closed(self, isInHandshake: bool) -> str:
        """
        How to say that it was closed by the other side, which didn't say why.
        """
        if isInHandshake:
            return _CLOSED_IN_HANDSHAKE
        return _CLOSED_TLS if ISSLTransport.providedBy(self.transport) else _CLOSED

    def _tellUselessness(self, isHopeless: bool) -> None:
        if not self.hasAnswered:
            self._client._ofNoUse(self.cause, isHopeless)


def _present(members: Data) -> Data:
    return {name: value for name, value in members.items() if value is not None}


def _encode(command: str, data: Data, key: str | None = None) -> bytes:
    """
    Write a request once for all its tries, by the rules of the server: it
    could not say whom it answers if a line were not I-JSON.

    @raise Refused: It breaks them.
    """
    members = {"command": command, "idempotencyKey": key, "data": data}
    body = wire.encodeData(_present(members))
    try:
        wire.decode(body)
    except InvalidJSON as e:
        raise Refused(e.status, e.error, e.message) from None
    return body


def _answer(members: Data) -> Answer | Refused:
    """
    What a reply says.

    @raise _NotOurs: It is no reply.
    """
    status, data = members.get("status"), members.get("data")
    if status == 200 and isinstance(data, dict):
        return Answer(_exact(data), members.get("replayed") is True)
    error, message = members.get("error"), members.get("message")
    if (
        not isinstance(status, int)
        or not isinstance(error, str)
        or not isinstance(message, str)
        or not isinstance(data, dict | None)
    ):
        raise _NotOurs("a line is neither an event nor a reply")
    return Refused(status, error, message, data)


def _exact(data: Data) -> Data:
    """
    Give money as C{Decimal} only: C{wire} gives a C{float} wherever that has
    the same value, and the two don't add up.
    """
    for name in _MONEY:
        value = data.get(name)
        if isinstance(value, float):
            data[name] = Decimal(repr(value))
    return data


def _order(refusal: Refused) -> int | None:
    """
    The order that a refusal names, if it does.
    """
    order = (refusal.data or {}).get("order")
    return order if isinstance(order, int) else None


def _retryAfter(refusal: Refused) -> float:
    """
    Seconds for which the server asks not to be asked again.
    """
    milliseconds = (refusal.data or {}).get("retry_after_ms")
    return max(milliseconds, 0) / 1000 if isinstance(milliseconds, int) else 0.0


def _cancel(result: Any, call: IDelayedCall) -> Any:
    if call.active():
        call.cancel()
    return result
