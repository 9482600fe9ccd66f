"""
The requests of one client: queued, in flight, or waiting for their next try.

Requests queue while there is no connection or too many are in flight. Each try
goes out under an C{extID} of its own. Those whose connection was lost go back to
the front of the queue, in their order.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import count
from math import inf
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from creditsync import _wire as wire
from creditsync import errors
from creditsync._client.backoff import Backoff
from creditsync._client.connection import NO_REPLY, Connection
from creditsync._client.events import Subscription
from creditsync._client.lines import (
    MAX_REPLY_LENGTH,
    UnexpectedLine,
    decodeReply,
    encodeTry,
)
from creditsync._client.outcomes import Answer, Data, Refused
from creditsync._client.request import Request
from creditsync._timeouts import EqualTimeouts
from creditsync._transport.tls import SPEAKS_TLS

# Seconds that a connection may take to close in order when the client stops.
GOODBYE = 2.0

# The refusals for which one of several servers is left.
_LEFT = frozenset({errors.ShuttingDown.error, errors.OutcomeUnknown.error})

_NO_REPLY_YET = "the connection ended before the reply"

_log = Logger("creditsync.client")


class Pipeline:
    """
    The requests of one client. It owns the current connection.

    @ivar subscription: The client's trade events.
    @ivar _isRunning: Tells whether the client still wants a connection.
    @ivar _servers: How many servers there are to connect to.
    """

    def __init__(
        self,
        clock: IReactorTime,
        token: str | Callable[[], str],
        *,
        isRunning: Callable[[], object],
        backoff: Backoff,
        timeout: float,
        patience: float,
        maxInFlight: int,
        servers: int = 1,
    ) -> None:
        self._clock = clock
        self._token = token
        self._isRunning = isRunning
        self._backoff = backoff
        self._maxInFlight = maxInFlight
        # How many may be in flight now: halved when a connection is lost with
        # some in flight, one more with each reply. So a few get through even if
        # connections are cut again and again.
        self._window = maxInFlight
        self._connection: Connection | None = None
        # Why the last connection was of no use, if it was not; and of the last one to
        # each server, whether that is permanent.
        self._uselessness = ""
        self._servers = servers
        self._arePermanent: deque[bool] = deque(maxlen=servers)
        self._extIDs = count(1)
        self._queue: OrderedDict[Request, None] = OrderedDict()
        # By extID; None stands for a command of the subscription.
        self._inFlight: dict[str, Request | None] = {}
        self.subscription = Subscription(
            clock, backoff, lambda body: self._send(body, None)
        )
        self._timeouts: EqualTimeouts[str] = EqualTimeouts(
            clock, timeout, self._timedOut
        )
        self._patience: EqualTimeouts[Request] = EqualTimeouts(
            clock, patience, self._outOfPatience
        )

    def add(self, request: Request) -> "Deferred[Answer]":
        """
        Send a request, again if need be, until it ends.

        @return: Fires as L{CreditClient.request
            <creditsync.client.CreditClient.request>} does.
        """
        request.ended = Deferred(lambda _: self._forget(request))
        self._patience.start(request)
        self._enqueue(request)
        return request.ended

    # The connection.

    def connected(self, connection: Connection) -> None:
        """
        See L{Owner.connected<creditsync._client.connection.Owner.connected>}.
        """
        if not self._isRunning():
            connection.cutOff()
            return
        self._connection = connection
        self.subscription.begin()
        self._pump()

    def disconnected(self, connection: Connection) -> None:
        """
        Put what was in flight back to the front of the queue, and end what is sent
        once. Its outcome is unknown, unless the other side could not understand any of
        it.
        """
        if connection is not self._connection:
            return
        self._connection = None
        self.subscription.end()
        inFlight, self._inFlight = self._inFlight, {}
        if inFlight:
            self._window = max(1, self._window // 2)
        ended = []
        for extID, request in reversed(inFlight.items()):
            self._timeouts.end(extID)
            if request is None or request.ended.called:
                continue
            if connection.isNotUnderstood:
                request.extID = None
            else:
                request.lose()
                if request.isOnce:
                    ended.append(request)
                    continue
            self._queue[request] = None
            self._queue.move_to_end(request, last=False)
        for request in reversed(ended):
            self._fail(request, request.unfinished(_NO_REPLY_YET))

    def uselessConnection(self, cause: str, isPermanent: bool) -> None:
        """
        End what need not wait for another connection, once that is so with each
        server: everything, if that would not help; else health checks, which ask for
        the state of this moment.

        What may have been booked is tried again all the same, as only that can
        find out.
        """
        self._uselessness = cause
        self._arePermanent.append(isPermanent)
        if len(self._arePermanent) < self._servers:
            return
        for request in self._patience.waiting():
            isCheck = request.command == "HealthCheck"
            if (all(self._arePermanent) or isCheck) and not request.mayHaveHappened:
                self._fail(request, request.unfinished(cause))

    # The way out.

    def _enqueue(self, request: Request) -> None:
        request.nextTry = None
        self._queue[request] = None
        self._pump()

    def _pump(self) -> None:
        """
        Send as many queued requests as may be in flight.
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

    def _send(self, body: bytes, request: Request | None) -> str:
        """
        Send a try.

        @return: Its C{extID}.
        @raise Exception: There is no token, or the line would not be accepted;
            nothing was sent.
        """
        assert self._connection is not None
        token = self._token() if callable(self._token) else self._token
        extID = str(next(self._extIDs))
        line = encodeTry(body, extID, token)
        self._inFlight[extID] = request
        self._timeouts.start(extID)
        self._connection.send(line)
        return extID

    # The way in.

    def lineReceived(self, line: bytes) -> None:
        """
        See L{Owner.lineReceived
        <creditsync._client.connection.Owner.lineReceived>}.
        """
        members = wire.decode(line, maxMarks=inf)
        if "event" in members:
            self.subscription.received(members)
        else:
            self._replyReceived(members)

    def lineTooLong(self, beginning: bytes) -> None:
        """
        See L{Owner.lineTooLong<creditsync._client.connection.Owner.lineTooLong>}. No
        server of this protocol sends such a line.
        """
        raise UnexpectedLine(f"a line has more than {MAX_REPLY_LENGTH} bytes")

    def _replyReceived(self, members: Data) -> None:
        extID = members.get("extID")
        request = self._inFlight.get(extID) if isinstance(extID, str) else None
        reply = decodeReply(members) if request is None else request.decode(members)
        connection = self._connection
        if extID is None and isinstance(reply, Refused) and connection is not None:
            self._unaddressedRefusal(connection, reply)
        if not isinstance(extID, str) or extID not in self._inFlight:
            return
        if connection is not None:
            connection.hasAnswered = True
            self._uselessness = ""
            self._arePermanent.clear()
        self._timeouts.end(extID)
        del self._inFlight[extID]
        self._window = min(self._window + 1, self._maxInFlight)
        if request is None:
            self.subscription.replied(extID, reply)
        else:
            self._backoff.reset()
            if not request.isOnce:
                # Else a 401 may be the platform's, and says nothing of the events.
                self.subscription.tokenJudged(reply)
            request.extID = None
            self._answered(request, reply)
        if self._servers > 1 and _isLeft(request, reply) and not self._inFlight:
            # Not before: it may have answers for what is in flight.
            assert connection is not None
            connection.giveUp(str(reply))
        self._pump()

    def _unaddressedRefusal(self, connection: Connection, refusal: Refused) -> None:
        """
        The server refuses a line without saying which.
        """
        _log.warn("the server complains: {answer}", answer=refusal)
        if not connection.hasAnswered and refusal.message == SPEAKS_TLS:
            # The other side can't understand any of the lines that were sent. Any
            # other refusal may be about what a proxy put before them.
            connection.isNotUnderstood = True
            connection.cause = refusal.message

    def _answered(self, request: Request, reply: Answer | Refused) -> None:
        """
        A try has its reply, which ends the request or calls for another try.
        """
        if request.ended.called:
            return
        outcome = request.judge(reply)
        if isinstance(outcome, float):
            request.tries += 1
            delay = outcome + self._backoff.delay(request.tries)
            request.nextTry = self._clock.callLater(delay, self._enqueue, request)
        elif isinstance(outcome, Exception):
            self._fail(request, outcome)
        else:
            self._forget(request)
            request.ended.callback(outcome)

    # The end.

    def _timedOut(self, extID: str) -> None:
        """
        The connection is silent. Another one may bring the reply.
        """
        if extID in self._inFlight and self._connection is not None:
            self._connection.giveUp(NO_REPLY)

    def _outOfPatience(self, request: Request) -> None:
        # A try that is in flight keeps its place until its reply or timeout:
        # the server still works on it, and silence ends the connection.
        cause = "no answer in time"
        if self._uselessness:
            cause = f"{cause}, {self._uselessness}"
        self._fail(request, request.unfinished(cause))

    def _fail(self, request: Request, why: Exception) -> None:
        if not request.ended.called:
            self._forget(request)
            request.ended.errback(why)

    def _forget(self, request: Request) -> None:
        """
        Do nothing more for a request.
        """
        self._patience.end(request)
        self._queue.pop(request, None)
        if request.nextTry is not None:
            request.nextTry.cancel()
            request.nextTry = None

    def stop(self, disconnected: "Deferred[None]") -> None:
        """
        End all requests.

        @param disconnected: Fires when the connection is closed, which is cut
            off if that takes too long.
        """
        connection = self._connection
        if connection is not None:
            connection.isOver = True
            self.disconnected(connection)
            cut = self._clock.callLater(GOODBYE, connection.cutOff)
            disconnected.addBoth(_cancel, cut)
        self.subscription.stop()
        for request in self._patience.waiting():
            self._fail(request, request.unfinished("the client was stopped"))


def _isLeft(request: Request | None, reply: Answer | Refused) -> bool:
    """
    Whether another server may do better: this one takes no more operations, or can't
    book them in time. With what it passes on, it may be the platform that can't.
    """
    isPassed = request is not None and request.isOnce
    return isinstance(reply, Refused) and reply.error in _LEFT and not isPassed


def _cancel(result: Any, call: IDelayedCall) -> Any:
    if call.active():
        call.cancel()
    return result
