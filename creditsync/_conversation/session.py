"""
One conversation with a client, free of any transport.

A L{Session} takes lines and sends lines. Each request goes the same way: it is
read, authenticated, checked and executed, and it is answered exactly once.

What the command returns is taken by L{Session._respond}, at once or when its
Deferred fires. If the response has a C{__deferred}, that is intercepted here: the
response is not sent, and the request waits (L{creditsync._conversation.waiters}).
Every reply, however its request ended, leaves through L{Session._answer}, which
is where the audit trail and the counters learn of it.
"""

from collections.abc import Callable
from typing import Any

from attrs import Factory, define
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from creditsync import _wire as wire
from creditsync._conversation.admission import Admission
from creditsync._conversation.broadcast import Broadcast
from creditsync._conversation.requests import Requests
from creditsync._conversation.waiter import Waiter
from creditsync._conversation.waiters import Waiters
from creditsync.audit import AuditTrail
from creditsync.counters import Counters
from creditsync.errors import (
    DuplicateExtID,
    OutcomeUnknown,
    Refusal,
    SessionEnded,
    TechProblem,
)
from creditsync.interfaces import IAuthenticator, ISession
from creditsync.records import (
    DEFERRED,
    Deferral,
    Principal,
    Replay,
    Request,
    Response,
    ServiceObject,
)

_log = Logger()


@implementer(ISession)
@define(eq=False, repr=False)
class Session:
    """
    One conversation.

    @ivar send: Sends lines to the client.
    """

    send: Callable[[bytes], None]
    number: int
    _requests: Requests
    _authenticator: IAuthenticator
    _admission: Admission
    _waiters: Waiters
    _broadcast: Broadcast
    _counters: Counters | None
    _audit: AuditTrail | None
    principal: Principal | None = None
    peer: str = "local"
    _isSubscribed: bool = True
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

    def lineReceived(self, line: bytes) -> None:
        """
        Take one line, without its end, and answer it now or later.
        """
        members: dict[str, Any] = {}
        request: Request | None = None
        try:
            request = self._requests.plain(line)
            if request is None:
                members = wire.decode(line)
                request = self._requests.request(members)
            self._execute(request)
        except Refusal as refusal:
            self._refuse(refusal, self._requests.refused(request, members, line))
        except Exception:
            _log.failure("a request failed")
            self._refuse(_fault(), self._requests.refused(request, members, line))

    def refuseUnread(self, line: bytes, refusal: Refusal) -> None:
        """
        Refuse a line without decoding it as a request.

        @param line: The line, or its beginning.
        """
        self._refuse(refusal, self._requests.refused(None, {}, line))

    def _execute(self, request: Request) -> None:
        principal = self._authenticator.authenticate(request.token)
        if principal is not self.principal:
            self.principal = principal
            self.subscribe(self._isSubscribed)
        command = self._requests.command(request, principal)
        if request.extID in self._pending:
            raise DuplicateExtID(
                "a request with this extID is already pending on this connection"
            )
        self._admission.check(len(self._pending))
        response = command.execute(self, request)
        # A response is nearly always a dict, and isinstance is slow to find that
        # something is no Deferred, which is an abstract base class.
        if isinstance(response, dict) or not isinstance(response, Deferred):
            self._respond(response, request)
            return
        waiter = self._wait(request)
        response.addCallback(self._respond, waiter)
        response.addErrback(self._failed, waiter)

    def subscribe(self, subscribed: bool) -> None:
        """
        See L{ISession.subscribe}.
        """
        self._isSubscribed = subscribed
        if subscribed and self.principal is not None:
            self._broadcast.add(self, self.principal)
        else:
            self._broadcast.remove(self)

    def _respond(self, response: Response, asked: Request | Waiter) -> None:
        """
        Do what the response of a command says: answer its request with it, or
        have the request wait for what its C{__deferred} names.

        @param asked: The request; as a waiter, if the response came later.
        """
        service: ServiceObject | None = None
        if isinstance(response, dict):
            service = response.pop(DEFERRED, None)
        if not isinstance(service, Deferral):
            self._answerWith(response, service, asked)
            return
        waiter = self._wait(asked) if isinstance(asked, Request) else asked
        if service.durable is not None:
            # Not needed with an event, and the wait for one may be long.
            waiter.response = response
        if self._audit is not None:
            self._audit.accepted(waiter, service)
        self._waiters.expect(waiter, service)

    def _answerWith(
        self, response: Response, service: Replay | None, asked: Request | Waiter
    ) -> None:
        # Encoded before the wait ends, so that a response for which that fails is
        # still a refusal.
        if service is None:
            line = wire.success(asked.extID, response)
        else:
            line = wire.replay(asked.extID, wire.encodeData(service.trade or response))
        if isinstance(asked, Waiter) and not self._waiters.release(asked):
            # It was answered with 504, or its session has ended; the trail tells
            # all the same that nothing more is booked.
            if service is not None and self._audit is not None:
                self._audit.replayed(self, asked, service)
            return
        self._answer(asked, line, service)

    def _failed(self, why: Failure, waiter: Waiter) -> None:
        """
        Refuse a request whose response was to come later, and failed.
        """
        if self._waiters.release(waiter):
            _waitFailed(why, self, waiter)
        elif not why.check(Refusal):
            _log.failure("a request failed after its time was over", why)

    def _wait(self, request: Request) -> Waiter:
        extID = request.extID
        waiter = self._waiters.wait(extID, self, request.command)
        self._pending[waiter if extID is None else extID] = waiter
        self._admission.pending += 1
        # One tuple and no bound methods, as 100,000 requests may be waiting.
        arguments = (self, waiter)
        waiter.ended.addCallbacks(
            _waitEnded, _waitFailed, arguments, errbackArgs=arguments
        )
        return waiter

    def _refuse(self, refusal: Refusal, asked: Request | Waiter) -> None:
        self._answer(asked, wire.refusal(asked.extID, refusal), refusal)

    def _answer(
        self,
        asked: Request | Waiter,
        line: bytes,
        outcome: Replay | Refusal | None = None,
    ) -> None:
        """
        Send the one reply of a request. Here the audit trail and the counters
        learn of every reply.

        @param outcome: What the reply tells, unless it is a plain success.
        """
        if isinstance(asked, Waiter):
            key = asked if asked.extID is None else asked.extID
            if self._pending.pop(key, None) is None:
                # Another of the replies of this turn has made the session end.
                return
            self.send(line)
            self._admission.release(1)
        else:
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
        self._admission.release(len(pending))


def _waitEnded(data: bytes | None, session: Session, waiter: Waiter) -> None:
    """
    Answer a request: what it waited for has come.

    @param data: The data of the event, which is all the data of a C{*Sync}
        command's reply; or L{None}, and the reply is the response.
    """
    if data is not None:
        session._answer(waiter, wire.reply(waiter.extID, data))
        return
    try:
        assert waiter.response is not None
        line = wire.success(waiter.extID, waiter.response)
    except Exception:
        _waitFailed(Failure(), session, waiter)
    else:
        session._answer(waiter, line)


def _waitFailed(why: Failure, session: Session, waiter: Waiter) -> None:
    """
    Refuse a request: what it waited for will not come.
    """
    if why.check(SessionEnded):
        return
    refusal = why.value
    if not isinstance(refusal, Refusal):
        _log.failure("a request failed", why)
        refusal = _fault(waiter.order)
    session._refuse(refusal, waiter)


def _fault(order: int | None = None) -> Refusal:
    """
    The reply to a request that failed through a fault of the server: that nothing
    happened, only if nothing was reserved.
    """
    if order is None:
        return TechProblem("the server failed to carry out this request")
    return OutcomeUnknown("the server failed", order)
