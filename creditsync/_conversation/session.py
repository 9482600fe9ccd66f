"""
One conversation with a client, free of any transport.

A L{Session} takes lines and sends lines. Each request goes the same way: it is
read, authenticated, checked and executed, and it is answered exactly once. Only how
it is read differs: L{Session.linesReceived} takes several lines at once, as long as
nothing in them is unusual, and L{Session.lineReceived} takes any line.

If the response of a command has a C{__deferred}, that is intercepted here: the
response is not sent, and the request waits (L{creditsync._conversation.waiters}).
Every reply, however its request ended, leaves through L{Session._answer}, which
is where the audit trail and the counters learn of it.
"""

from collections.abc import Callable
from typing import Any, ClassVar

from attrs import Factory, define
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from creditsync import _wire as wire
from creditsync._conversation.broadcast import Broadcast
from creditsync._conversation.requests import Requests
from creditsync._conversation.waiter import Waiter
from creditsync._conversation.waiters import Waiters
from creditsync.audit import AuditTrail
from creditsync.counters import Counters
from creditsync.errors import (
    Busy,
    DuplicateExtID,
    OutcomeUnknown,
    Refusal,
    SessionEnded,
    TechProblem,
    TooManyRequests,
)
from creditsync.interfaces import IAuthenticator, ICommand, ISession
from creditsync.limits import Limits
from creditsync.records import (
    DEFERRED,
    ExtID,
    Principal,
    Request,
    Reservation,
    Response,
)

_log = Logger()


@implementer(ISession)
@define(eq=False, repr=False)
class Session:
    """
    One conversation.

    @ivar send: Sends lines to the client.
    @ivar isStalled: Whether the client does not read what it is sent. The transport
        sets it, and calls C{readOn} when that is over.
    """

    send: Callable[[bytes], None]
    number: int
    _requests: Requests
    _authenticator: IAuthenticator
    _limits: Limits
    _waiters: Waiters
    _broadcast: Broadcast
    _counters: Counters | None
    _audit: AuditTrail | None
    principal: Principal | None = None
    peer: str = "local"
    isStalled: bool = False
    _isSubscribed: bool = True
    # Whether the client has to tell replies apart by their extID.
    _needsExtID: ClassVar[bool] = True
    # The requests that are waiting, by extID; without one, by the waiter itself.
    _pending: dict[object, Waiter] = Factory(dict)

    @property
    def isIdle(self) -> bool:
        """
        Whether every request has been answered.
        """
        return not self._pending

    @property
    def inFlight(self) -> int:
        """
        How many requests have not been answered yet.
        """
        return len(self._pending)

    def linesReceived(self, lines: bytes) -> int:
        """
        Take lines, each with its end, up to the first that has something unusual,
        and answer them now or later.

        @return: How many. The next one is for L{lineReceived}.
        """
        requests = self._requests.plain(lines)
        if not requests:
            return 0
        since = self._waiters.now()
        try:
            principal = self._authenticate(requests[0].token)
        except Exception as e:
            refusal = _refusalOf(e)
            for request in requests:
                self._refuse(refusal, request)
            return len(requests)
        command = self._requests.command
        for request in requests:
            try:
                self._execute(command(request, principal), request, since)
            except Exception as e:
                self._refuse(_refusalOf(e), request)
        return len(requests)

    def lineReceived(self, line: bytes) -> None:
        """
        Take one line, without its end, and answer it now or later.
        """
        members: dict[str, Any] = {}
        request: Request | None = None
        try:
            members = wire.decode(line)
            request = self._requests.request(members)
            request.line = line
            principal = self._authenticate(request.token)
            command = self._requests.command(request, principal, self._needsExtID)
            self._execute(command, request, self._waiters.now())
        except Exception as e:
            refusal = _refusalOf(e)
            self._refuse(refusal, self._requests.refused(request, members, line))

    def refuseUnread(self, line: bytes, refusal: Refusal) -> None:
        """
        Refuse a line without decoding it as a request.

        @param line: The line, or its beginning.
        """
        self._refuse(refusal, self._requests.refused(None, {}, line))

    def _authenticate(self, token: str | None) -> Principal:
        principal = self._authenticator.authenticate(token)
        if principal is not self.principal:
            self.principal = principal
            self.subscribe(self._isSubscribed)
        return principal

    def subscribe(self, subscribed: bool, after: int | None = None) -> None:
        """
        See L{ISession.subscribe}.
        """
        self._isSubscribed = subscribed
        if subscribed and self.principal is not None:
            self._broadcast.add(self, self.principal, after)
        else:
            self._broadcast.remove(self)

    def readOn(self) -> None:
        """
        The client has read what it was sent.
        """
        self._broadcast.readOn(self)

    def _execute(self, command: ICommand, request: Request, since: float) -> None:
        """
        Carry out a request, and do what the response says: answer the request with
        it, or have it wait for what the C{__deferred} promises.

        @param since: The clock's time at which the request arrived.
        """
        extID, pending, limits = request.extID, self._pending, self._limits
        if extID in pending:
            raise DuplicateExtID(
                "a request with this extID is already pending on this connection"
            )
        if len(pending) >= limits.maxPendingPerSession:
            raise TooManyRequests(f"this session has {len(pending)} requests in flight")
        if len(self._waiters.entries) >= limits.maxPending:
            raise Busy("the server has too many requests in flight", "max-pending")
        response = command.execute(self, request)
        reservation = None
        # A response is nearly always a dict, and isinstance is slow to find that
        # something is no Deferred, which is an abstract base class.
        if isinstance(response, dict):
            reservation = response.pop(DEFERRED, None)
        elif isinstance(response, Deferred):
            waiter = Waiter(
                extID, self, request.command, since, asked=request.operation
            )
            waiter.isReadOnly = command.isReadOnly
            self._wait(waiter)
            response.addCallback(self._respondLater, waiter)
            response.addErrback(self._failed, waiter)
            return
        if reservation is None or reservation.isReplay:
            line = self._line(extID, response, reservation)
            self._answer(request, line, reservation)
            return
        waiter = Waiter(
            extID, self, request.command, since, reservation, response or None
        )
        if self._audit is not None:
            self._audit.accepted(waiter)
        self._wait(waiter)

    def _respondLater(self, response: Response, waiter: Waiter) -> None:
        """
        The same for a request that has been waiting for its response.
        """
        reservation: Reservation | None = None
        if isinstance(response, dict):
            reservation = response.pop(DEFERRED, None)
        if reservation is not None and not reservation.isReplay:
            waiter.reservation, waiter.response = reservation, response or None
            if self._audit is not None:
                self._audit.accepted(waiter)
            self._waiters.reserved(waiter)
            return
        # Encoded before the wait ends, so that a response for which that fails is
        # still a refusal.
        line = self._line(waiter.extID, response, reservation)
        if self._waiters.release(waiter):
            self._answer(waiter, line, reservation)
        elif reservation is not None and self._audit is not None:
            # It was answered with 504, or its session has ended; the trail tells
            # all the same that nothing more is booked.
            self._audit.replayed(self, waiter, reservation)

    def _line(
        self, extID: ExtID | None, response: Response, replay: Reservation | None
    ) -> bytes:
        """
        The reply that has a response.

        @param replay: If the operation was booked before, its reservation.
        """
        if replay is None:
            return wire.success(extID, response)
        if not response:
            response = self._broadcast.located(replay.data, replay.place)
        return wire.replay(extID, wire.encodeData(response))

    def _failed(self, why: Failure, waiter: Waiter) -> None:
        """
        Refuse a request whose response was to come later, and failed.
        """
        if self._waiters.release(waiter):
            self.waitFailed(waiter, why)
        elif not why.check(Refusal):
            _log.failure("a request failed after its time was over", why)

    def _wait(self, waiter: Waiter) -> None:
        self._pending[waiter if waiter.extID is None else waiter.extID] = waiter
        self._waiters.add(waiter)

    def waitEnded(self, waiter: Waiter, data: bytes | None) -> None:
        """
        See L{ISession.waitEnded}.
        """
        extID = waiter.extID
        try:
            if data is None:
                assert waiter.response is not None
                data = wire.encodeData(waiter.response)
            line = wire.reply(extID, data)
        except Exception:
            self.waitFailed(waiter, Failure())
        else:
            self._answer(waiter, line)

    def waitFailed(self, waiter: Waiter, why: Failure) -> None:
        """
        See L{ISession.waitFailed}.
        """
        if why.check(SessionEnded):
            return
        refusal = why.value
        if not isinstance(refusal, Refusal):
            _log.failure("a request failed", why)
            refusal = _fault(waiter.order)
        self._refuse(refusal, waiter)

    def _refuse(self, refusal: Refusal, asked: Request | Waiter) -> None:
        self._answer(asked, wire.refusal(asked.extID, refusal), refusal)

    def _answer(
        self,
        asked: Request | Waiter,
        line: bytes,
        outcome: Reservation | Refusal | None = None,
    ) -> None:
        """
        Send the one reply of a request. Here the audit trail and the counters
        learn of every reply.

        @param outcome: What the reply tells, unless it is a plain success: a
            refusal, or what was booked before.
        """
        if isinstance(asked, Waiter):
            key = asked if asked.extID is None else asked.extID
            if self._pending.pop(key, None) is None:
                # Another of the replies of this turn has made the session end.
                return
        self.send(line)
        if outcome is not None and self._audit is not None:
            self._audit.answered(self, asked, outcome)
        counters = self._counters
        if counters is None:
            return
        if isinstance(outcome, Refusal):
            counters.refused(self, asked, outcome)
        elif isinstance(asked, Waiter):
            counters.answered.append(asked)
        else:
            counters.answeredAtOnce(asked.command)

    def ended(self) -> None:
        """
        The client is gone. Its requests need no reply any more, but what they
        asked for is booked all the same.
        """
        pending, self._pending = self._pending, {}
        self._broadcast.remove(self)
        for waiter in pending.values():
            self._waiters.abandon(waiter)


def _refusalOf(why: Exception) -> Refusal:
    """
    The reply to a request that failed before anything was reserved. What is no refusal
    is a fault of the server.
    """
    if isinstance(why, Refusal):
        return why
    _log.failure("a request failed", Failure(why))
    return _fault()


def _fault(order: int | None = None) -> Refusal:
    """
    The reply to a request that failed through a fault of the server: that nothing
    happened, only if nothing was reserved.
    """
    if order is None:
        return TechProblem("the server failed to carry out this request")
    return OutcomeUnknown("the server failed", order)
