"""
All the conversations of one server: how they begin, and what they share.
"""

from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from creditsync._conversation.broadcast import Broadcast
from creditsync._conversation.calls import Call
from creditsync._conversation.requests import Requests
from creditsync._conversation.session import Session
from creditsync._conversation.waiters import Waiters
from creditsync.audit import AuditTrail
from creditsync.counters import Counters
from creditsync.interfaces import IAuthenticator, ICommand
from creditsync.records import Limits, Principal
from creditsync.validation import Schemas

_S = TypeVar("_S", bound=Session)


class Sessions:
    """
    All the conversations of one server, and what they share.

    @ivar requests: What may be asked.
    @ivar broadcast: Who receives trade events.
    @ivar counters: Where requests are counted, if anywhere.
    @ivar audit: The audit trail, or L{None}.
    """

    def __init__(
        self,
        *,
        commands: Iterable[ICommand],
        authenticator: IAuthenticator,
        schemas: Schemas,
        waiters: Waiters,
        limits: Limits,
        counters: Counters | None = None,
        audit: AuditTrail | None = None,
    ) -> None:
        self.requests = Requests(commands, schemas)
        self.authenticator = authenticator
        self.limits = limits
        self.waiters = waiters
        self.broadcast = Broadcast(authenticator, waiters, counters)
        self.counters = counters
        self.audit = audit
        self._numbers = count(1)

    def open(self, send: Callable[[bytes], None]) -> Session:
        """
        Begin a conversation.

        @param send: Called with each line for the client, CR LF at its end,
            or with several at once.
        """
        return self._open(Session, send)

    def call(
        self, command: str, data: object, principal: Principal, key: str | None = None
    ) -> "Deferred[dict[str, Any]]":
        """
        Make a request of the application itself. See L{Call.ask}.
        """
        call = self._open(Call, lambda line: None)
        return call.ask(command, data, principal, key)

    def _open(self, kind: type[_S], send: Callable[[bytes], None]) -> _S:
        return kind(
            send,
            number=next(self._numbers),
            requests=self.requests,
            authenticator=self.authenticator,
            limits=self.limits,
            waiters=self.waiters,
            broadcast=self.broadcast,
            counters=self.counters,
            audit=self.audit,
        )

    @property
    def pending(self) -> int:
        """
        How many requests are in flight, in all sessions.
        """
        return len(self.waiters)

    def stop(self) -> "Deferred[None]":
        """
        Refuse every request from now on.

        @return: Fires when no request is in flight any more.
        """
        self.requests.stop()
        return self.waiters.whenIdle()
