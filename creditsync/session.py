"""
Conversations with clients, free of any transport.

A L{Session} takes lines and gives lines. Each request goes the same way:
decode, authenticate, look the command up, check its role and the limits,
validate the data, execute, and answer exactly once. This is the place that
intercepts C{__deferred}: such a response is not sent, the reply waits.

L{Sessions} are all the conversations of one server, and the audience of its
trade events.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from attrs import Factory, define
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from creditsync import wire
from creditsync.errors import (
    Busy,
    DuplicateExtID,
    Forbidden,
    InvalidData,
    OutcomeUnknown,
    Refusal,
    SessionEnded,
    ShuttingDown,
    TechProblem,
    TooManyRequests,
    UnknownCommand,
)
from creditsync.interfaces import IAuthenticator, ICommand
from creditsync.records import (
    ExtID,
    Limits,
    Principal,
    Replay,
    Request,
    Trade,
    TradeEvent,
)
from creditsync.validation import Schemas
from creditsync.waiters import Waiter, Waiters

# The member of a response that never reaches a client (seed, "Runtime Flow").
_DEFERRED = "__deferred"


@define(eq=False)
class Session:
    """
    One conversation.

    @ivar principal: Whom the last good token of this session spoke for.
    """

    _sessions: "Sessions"
    _send: Callable[[bytes], None]
    principal: Principal | None = None
    _subscribed: bool = True
    # What is in flight, by its extID or, without one, by a mark of its own;
    # with the waiter as soon as there is one.
    _pending: dict[object, Waiter | None] = Factory(dict)

    _log = Logger()

    @property
    def isIdle(self) -> bool:
        """
        Whether every request has been answered.
        """
        return not self._pending

    def lineReceived(self, line: bytes) -> None:
        """
        Take one line, without its end, and answer it now or later.
        """
        members: dict[str, Any] = {}
        try:
            members = wire.decode(line)
            self._execute(self._sessions.request(members))
        except Refusal as refusal:
            self._send(wire.refusal(self._sessions.extIDOf(members), refusal))
        except Exception:
            self._log.failure("a request failed")
            self._send(wire.refusal(self._sessions.extIDOf(members), _fault()))

    def subscribe(self, subscribed: bool) -> None:
        """
        Begin or cease to receive trade events.
        """
        self._subscribed = subscribed
        self._sessions.listen(self, self.principal if subscribed else None)

    def receive(self, events: bytes) -> None:
        """
        Send lines of trade events.
        """
        self._send(events)

    def ended(self) -> None:
        """
        The client is gone: nobody waits any more, what it asked for is booked
        all the same.
        """
        pending, self._pending = self._pending, {}
        self._sessions.close(self, len(pending))
        for waiter in pending.values():
            if waiter is not None:
                self._sessions.waiters.abandon(waiter)

    def _execute(self, request: Request) -> None:
        principal = self._authenticate(request.token)
        command = self._sessions.command(request, principal)
        self._admit(request)
        extID = request.extID
        key = object() if extID is None else extID
        self._pending[key] = None
        self._sessions.pending += 1
        response: Deferred[Any]
        response = maybeDeferred(command.execute, self, request)
        if not response.called:
            self._sessions.bound(response)
        response.addCallback(self._respond, key, extID)
        response.addErrback(self._refuse, key, extID)

    def _authenticate(self, token: str | None) -> Principal:
        principal = self._sessions.authenticator.authenticate(token)
        if principal is not self.principal:
            self.principal = principal
            self.subscribe(self._subscribed)
        return principal

    def _admit(self, request: Request) -> None:
        if request.extID is not None and request.extID in self._pending:
            raise DuplicateExtID("this session already waits under this extID")
        self._sessions.admit(len(self._pending))

    def _respond(
        self,
        response: Trade | Mapping[str, Any],
        key: object,
        extID: ExtID | None,
    ) -> None:
        if key not in self._pending:
            # The session ended while a runtime reserved the order.
            return
        deferred = response.pop(_DEFERRED, None) if isinstance(response, dict) else None
        if deferred is None:
            self._answer(key, wire.success(extID, response))
        elif isinstance(deferred, Replay):
            data = deferred.trade or response
            self._answer(key, wire.replay(extID, wire.encodeData(data)))
        else:
            waiter = self._sessions.waiters.wait(deferred, extID, self)
            self._pending[key] = waiter
            waiter.ended.addCallback(self._complete, response, key, extID)
            waiter.ended.addErrback(self._refuse, key, extID)

    def _complete(
        self,
        data: bytes | None,
        response: Trade | Mapping[str, Any],
        key: object,
        extID: ExtID | None,
    ) -> None:
        """
        What was waited for has come.

        @param data: The data of the event, which is the whole of a C{*Sync}
            reply's data; or L{None} where the response itself is the answer.
        """
        if data is None:
            self._answer(key, wire.success(extID, response))
        else:
            self._answer(key, wire.reply(extID, data))

    def _refuse(self, why: Failure, key: object, extID: ExtID | None) -> None:
        if why.check(SessionEnded):
            return
        if isinstance(why.value, Refusal):
            self._answer(key, wire.refusal(extID, why.value))
            return
        self._log.failure("a request failed", why)
        self._answer(key, wire.refusal(extID, _fault(self._pending.get(key))))

    def _answer(self, key: object, line: bytes) -> None:
        """
        Send the one reply of a request.
        """
        missing = object()
        if self._pending.pop(key, missing) is missing:
            return
        self._send(line)
        self._sessions.answered()


def _fault(waiter: Waiter | None = None) -> Refusal:
    """
    What a client is told of a fault of ours: that nothing happened, only if
    nothing was reserved.
    """
    if waiter is None:
        return TechProblem("the server failed to carry out this request")
    return OutcomeUnknown("the server failed", waiter.deferral.order)


class Sessions:
    """
    All the conversations of one server.

    @ivar pending: The number of requests in flight, in all sessions.
    """

    def __init__(
        self,
        clock: IReactorTime,
        *,
        commands: Iterable[ICommand],
        authenticator: IAuthenticator,
        schemas: Schemas,
        waiters: Waiters,
        limits: Limits,
        timeout: float,
        isExtIDIdempotent: bool = False,
    ) -> None:
        """
        @param timeout: Seconds for which a runtime may take to reserve an
            order.
        @param isExtIDIdempotent: Take the C{extID} of a request as its
            C{idempotencyKey} where it has none.
        """
        self._clock = clock
        self._commands = {command.name: command for command in commands}
        self._schemas = schemas
        self._limits = limits
        self._timeout = timeout
        self._isExtIDIdempotent = isExtIDIdempotent
        self._audience: dict[Session, Principal] = {}
        self._stopping = False
        self._idle: Deferred[None] | None = None
        self.authenticator = authenticator
        self.waiters = waiters
        self.pending = 0

    def open(self, send: Callable[[bytes], None]) -> Session:
        """
        Begin a conversation.

        @param send: Called with each line for the client, CR LF at its end,
            or with several at once.
        """
        return Session(self, send)

    def close(self, session: Session, pending: int) -> None:
        """
        Forget a session that had C{pending} requests in flight.
        """
        self._audience.pop(session, None)
        self._settle(pending)

    def answered(self) -> None:
        """
        One request less is in flight.
        """
        self._settle(1)

    def _settle(self, count: int) -> None:
        self.pending -= count
        if not self.pending and self._idle is not None:
            idle, self._idle = self._idle, None
            idle.callback(None)

    def extIDOf(self, members: dict[str, Any]) -> ExtID | None:
        """
        The C{extID} to answer under: as it came if it is a good one, whatever
        is wrong with the other members.
        """
        extID: ExtID | None = members.get("extID")
        if extID is None:
            return None
        try:
            self._schemas.check("request", {"command": "any", "extID": extID})
        except InvalidData:
            return None
        return extID

    def request(self, members: dict[str, Any]) -> Request:
        """
        Check the envelope.

        @raise InvalidData: A member of it breaks the schema.
        @raise ShuttingDown: The server is stopping.
        """
        if self._isExtIDIdempotent and "extID" in members:
            members = {"idempotencyKey": str(members["extID"]), **members}
        self._schemas.check("request", members)
        if self._stopping:
            raise ShuttingDown()
        return Request(
            members["command"],
            members.get("extID"),
            members.get("__token"),
            members.get("data", {}),
            members.get("idempotencyKey"),
        )

    def command(self, request: Request, principal: Principal) -> ICommand:
        """
        The command that a request asks for, if it may be carried out.

        @raise UnknownCommand: There is none of that name.
        @raise Forbidden: The principal's role may not use it.
        @raise InvalidData: A member is missing or breaks its schema.
        """
        command = self._commands.get(request.command)
        if command is None:
            raise UnknownCommand("command names no command of this server")
        if principal.role not in command.roles:
            raise Forbidden(f"this token's role may not use {command.name}")
        if command.needsExtID and request.extID is None:
            raise InvalidData(f"extID is required by {command.name}")
        self._schemas.check(command.schema, request.data, "data")
        return command

    def admit(self, pendingInSession: int) -> None:
        """
        Let one more request in.

        @raise TooManyRequests: Its session has as many as it may have.
        @raise Busy: So has the server.
        """
        if pendingInSession >= self._limits.maxPendingPerSession:
            raise TooManyRequests(
                f"this session has {pendingInSession} requests in flight"
            )
        if self.pending >= self._limits.maxPending:
            raise Busy("the server has too many requests in flight")

    def bound(self, response: "Deferred[Any]") -> None:
        """
        Do not wait for ever for a runtime that does not reserve at once.
        """

        def unanswered(result: object, timeout: float) -> NoReturn:
            raise OutcomeUnknown(
                f"no order was reserved within {timeout * 1000:.0f} ms"
            )

        response.addTimeout(self._timeout, self._clock, unanswered)

    def listen(self, session: Session, principal: Principal | None) -> None:
        """
        Count a session in the audience of trade events for as long as this
        principal is current; with L{None}, count it out.
        """
        if principal is None:
            self._audience.pop(session, None)
        else:
            self._audience[session] = principal

    def tradeEvents(self, events: Sequence[TradeEvent]) -> None:
        """
        Broadcast events to the audience, then answer who waits for them, so
        that an event's line comes before its reply's.
        """
        encoded = [wire.encodeData(event.data) for event in events]
        audience = self._currentAudience()
        if audience:
            lines = b"".join(
                wire.event(event.type, data)
                for event, data in zip(events, encoded, strict=True)
            )
            for session in audience:
                session.receive(lines)
        for event, data in zip(events, encoded, strict=True):
            self.waiters.match(event, data)

    def _currentAudience(self) -> list[Session]:
        """
        Those of the audience whose token is still good; the others have to
        show a good one first.
        """
        audience = self._audience
        isCurrent = self.authenticator.isCurrent
        for session in [s for s in audience if not isCurrent(audience[s])]:
            session.principal = None
            del audience[session]
        return list(audience)

    def stop(self) -> "Deferred[None]":
        """
        Take no more requests.

        @return: Fires when each that was taken has its answer.
        """
        self._stopping = True
        if not self.pending:
            return succeed(None)
        self._idle = Deferred()
        return self._idle
