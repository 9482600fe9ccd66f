"""
Requests of the application that has mounted the server.

A L{Call} is a session for one request, which L{Sessions.call
<creditsync._conversation.sessions.Sessions.call>} opens. The request becomes a line
and goes the way of every line; only its reply goes elsewhere, as it ends a Deferred.
What a session asks of a client is answered here: a call has no token but a principal,
no C{extID}, and it receives no events.
"""

from math import inf
from typing import Any, ClassVar

from attrs import define
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from creditsync import _wire as wire
from creditsync._conversation.session import Session
from creditsync._conversation.waiter import Waiter
from creditsync.errors import (
    InvalidJSON,
    OutcomeUnknown,
    Refusal,
    Unauthorized,
    UnknownCommand,
)
from creditsync.records import Principal, Request, Reservation

_log = Logger()


@define(eq=False, repr=False)
class Call(Session):
    """
    The session of one request of the application.
    """

    peer: str = "the application"
    _needsExtID: ClassVar[bool] = False
    # Until it has fired: the console keeps the sessions of recent requests, but not
    # what the application has attached to their results.
    _result: "Deferred[dict[str, Any]] | None" = None

    def ask(
        self, command: str, data: object, principal: Principal, key: str | None
    ) -> "Deferred[dict[str, Any]]":
        """
        Make the request.

        @return: Fires with the C{data} of the reply, or fails with the L{Refusal}.
        """
        result: Deferred[dict[str, Any]] = Deferred(self._cancelled)
        self.principal, self._result = principal, result
        members = {"command": command, "data": data}
        if key is not None:
            members["idempotencyKey"] = key
        try:
            line = wire.encodeData(members)
        except Exception as e:
            # The library raises many kinds of them.
            refusal = InvalidJSON(f"the request can't be written as JSON: {e}")
            self.refuseUnread(b"", refusal)
        else:
            self.lineReceived(line)
        return result

    def _cancelled(self, result: "Deferred[dict[str, Any]]") -> None:
        self._result = None
        self.ended()

    def _authenticate(self, token: str | None) -> Principal:
        principal = self.principal
        assert principal is not None
        if not self._authenticator.isCurrent(principal):
            raise Unauthorized("the principal has expired or was revoked")
        return principal

    def subscribe(self, subscribed: bool, after: int | None = None) -> None:
        """
        Refuse to change which events the application receives.
        """
        raise UnknownCommand("an application observes trade events without a command")

    def _answer(
        self,
        asked: Request | Waiter,
        line: bytes,
        outcome: Reservation | Refusal | None = None,
    ) -> None:
        """
        End the Deferred, once the reply is recorded and counted like any other.
        """
        super()._answer(asked, line, outcome)
        result, self._result = self._result, None
        if result is None:
            return
        if self._counters is not None:
            # There may be no turn of the connections in which this would be done.
            self._counters.settle()
        if isinstance(outcome, Refusal):
            # The console keeps recent refusals, and a traceback would keep the frames
            # of the application that has called.
            result.errback(outcome.with_traceback(None))
            return
        try:
            data = wire.decode(line, maxMarks=inf)["data"]
        except Exception:
            # Only data of another runtime can be such that no client may send it.
            _log.failure("a reply can't be read")
            order = asked.order if isinstance(asked, Waiter) else None
            result.errback(OutcomeUnknown("the reply can't be read", order))
        else:
            result.callback(data)
