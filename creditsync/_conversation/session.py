"""
Conversations with clients, free of any transport.

A L{Session} takes lines and gives lines. Each request goes the same way:
decode, authenticate, look the command up, check its role, validate the data,
check the limits, execute, and answer exactly once. This is the place that
intercepts C{__deferred}: such a response is not sent, the reply waits.

L{Sessions} are all the conversations of one server, and the audience of its
trade events.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from attrs import Factory, define
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from creditsync import _wire as wire
from creditsync._conversation.waiters import Waiter, Waiters
from creditsync.counters import UNKNOWN, Counters
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
    Deferral,
    ExtID,
    Limits,
    Principal,
    Replay,
    Request,
    Trade,
    TradeEvent,
)
from creditsync.validation import Schemas

if TYPE_CHECKING:
    from creditsync.audit import AuditTrail

# The member of a response that never reaches a client (seed, "Runtime Flow").
_DEFERRED = "__deferred"

_log = Logger()


@define(eq=False)
class Session:
    """
    One conversation.

    @ivar send: Gives lines to the client.
    @ivar principal: Whom the last good token of this session spoke for.
    @ivar peer: The client's address, for people to read.
    @ivar number: The how manieth of this server it is.
    """

    _sessions: "Sessions"
    send: Callable[[bytes], None]
    principal: Principal | None = None
    peer: str = "local"
    number: int = 0
    _subscribed: bool = True
    # What waits for its answer, by its extID or, without one, by itself.
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
            request = self._sessions.plainRequest(line)
            if request is None:
                members = wire.decode(line)
                request = self._sessions.request(members)
            self._execute(request)
        except Refusal as refusal:
            self.refuse(_read(line, request, members), refusal)
        except Exception:
            _log.failure("a request failed")
            self.refuse(_read(line, request, members), _fault())

    def refuseUnread(self, line: bytes, refusal: Refusal) -> None:
        """
        Answer a line that is not read for what it asks.

        @param line: It, or as much of it as there is.
        """
        self.refuse(wire.salvage(line), refusal)

    def refuse(self, members: dict[str, Any], refusal: Refusal) -> None:
        """
        Answer at once that a request is not carried out.

        @param members: What could be read of it.
        """
        extID = self._sessions.extIDOf(members)
        self.send(wire.refusal(extID, refusal))
        counters = self._sessions.counters
        if counters is not None:
            command = self._sessions.commandOf(members)
            counters.answeredAtOnce(command)
            counters.refused(self, command, extID, refusal)
        if self._sessions.audit is not None:
            self._sessions.audit.refused(self, members, extID, refusal)

    def subscribe(self, subscribed: bool) -> None:
        """
        Begin or cease to receive trade events.
        """
        self._subscribed = subscribed
        self._sessions.listen(self, self.principal if subscribed else None)

    def ended(self) -> None:
        """
        The client is gone: nobody waits any more, what it asked for is booked
        all the same.
        """
        pending, self._pending = self._pending, {}
        self._sessions.listen(self, None)
        for waiter in pending.values():
            self._sessions.waiters.abandon(waiter)
        self._sessions.answered(len(pending))

    def _execute(self, request: Request) -> None:
        sessions = self._sessions
        principal = sessions.authenticator.authenticate(request.token)
        if principal is not self.principal:
            self.principal = principal
            self.subscribe(self._subscribed)
        command = sessions.command(request, principal)
        if request.extID in self._pending:
            raise DuplicateExtID("this session already waits under this extID")
        sessions.admit(len(self._pending))
        response = command.execute(self, request)
        deferral = _takeDeferral(response)
        if deferral is not None:
            self._expect(self._wait(request.extID, command), deferral, response)
        elif isinstance(response, Deferred):
            self._respondLater(response, request.extID, command)
        else:
            self.send(self._line(response, request.command, request.extID))
            if sessions.counters is not None:
                sessions.counters.answeredAtOnce(request.command)

    def _line(
        self, response: Trade | Mapping[str, Any], command: str, extID: ExtID | None
    ) -> bytes:
        """
        The reply that is a response for which nothing has to be waited for,
        whether it was given at once or later.
        """
        replay = response.pop(_DEFERRED, None) if isinstance(response, dict) else None
        if not isinstance(replay, Replay):
            return wire.success(extID, response)
        line = wire.replay(extID, wire.encodeData(replay.trade or response))
        if self._sessions.audit is not None:
            self._sessions.audit.replayed(self, command, extID, replay.order)
        return line

    def _expect(self, waiter: Waiter, deferral: Deferral, response: object) -> None:
        if deferral.durable is not None:
            # An event's data answers for itself, and its wait may be long.
            waiter.response = response
        if self._sessions.audit is not None:
            self._sessions.audit.asked(self, waiter.extID, deferral)
        self._sessions.waiters.expect(waiter, deferral)

    def _respondLater(
        self, response: "Deferred[Any]", extID: ExtID | None, command: ICommand
    ) -> None:
        """
        Wait for a runtime that does not reserve at once.
        """
        waiter = self._wait(extID, command)
        response.addCallback(self._reserved, waiter)
        response.addErrback(self._notReserved, waiter)

    def _reserved(self, response: Trade | Mapping[str, Any], waiter: Waiter) -> None:
        waiters = self._sessions.waiters
        deferral = _takeDeferral(response)
        if deferral is not None:
            self._expect(waiter, deferral, response)
            return
        # Before the wait is over: what can't be written is refused.
        line = self._line(response, waiter.command, waiter.extID)
        if waiters.release(waiter):
            self.answer(waiter, line)

    def _notReserved(self, why: Failure, waiter: Waiter) -> None:
        if self._sessions.waiters.release(waiter):
            _refuse(why, waiter)
        elif not why.check(Refusal):
            _log.failure("a request failed after its time was over", why)

    def _wait(self, extID: ExtID | None, command: ICommand) -> Waiter:
        sessions = self._sessions
        waiter = sessions.waiters.wait(extID, self, command.name)
        self._pending[waiter if extID is None else extID] = waiter
        sessions.pending += 1
        # Nothing here is the waiter's own but this: there may be 100,000.
        arguments = (waiter,)
        waiter.ended.addCallbacks(_complete, _refuse, arguments, errbackArgs=arguments)
        return waiter

    def answer(
        self, waiter: Waiter, line: bytes, refusal: Refusal | None = None
    ) -> None:
        """
        Send the one reply of a request that waited.
        """
        key = waiter if waiter.extID is None else waiter.extID
        if self._pending.pop(key, None) is None:
            # The session ended while it was sent another of these replies.
            return
        self.send(line)
        sessions = self._sessions
        sessions.answered(1)
        if refusal is None:
            if sessions.counters is not None:
                sessions.counters.answered.append(waiter)
            return
        if sessions.audit is not None:
            sessions.audit.refusedLater(self, waiter, refusal)
        if sessions.counters is not None:
            sessions.counters.refusedLater(self, waiter, refusal)


def _complete(data: bytes | None, waiter: Waiter) -> None:
    """
    Answer a request: what it waited for has come.

    @param data: The data of the event, which is the whole of a C{*Sync}
        reply's data; or L{None} where the response itself is the answer.
    """
    if data is not None:
        waiter.session.answer(waiter, wire.reply(waiter.extID, data))
        return
    try:
        line = wire.success(waiter.extID, waiter.response)
    except Exception:
        _refuse(Failure(), waiter)
    else:
        waiter.session.answer(waiter, line)


def _refuse(why: Failure, waiter: Waiter) -> None:
    """
    Answer a request: what it waited for will not come.
    """
    if why.check(SessionEnded):
        return
    refusal = why.value
    if not isinstance(refusal, Refusal):
        _log.failure("a request failed", why)
        refusal = _fault(waiter.order)
    line = wire.refusal(waiter.extID, refusal)
    waiter.session.answer(waiter, line, refusal)


def _read(
    line: bytes, request: Request | None, members: dict[str, Any]
) -> dict[str, Any]:
    """
    What could be read of a line: as a request, or else as members, or else
    only its C{extID}.
    """
    if request is None:
        return members or wire.salvage(line)
    return {"command": request.command, "extID": request.extID, "data": request.data}


def _takeDeferral(response: object) -> Deferral | None:
    """
    Take what a response has to wait for out of it, if there is anything.
    """
    if isinstance(response, dict):
        deferral = response.get(_DEFERRED)
        if isinstance(deferral, Deferral):
            del response[_DEFERRED]
            return deferral
    return None


def _fault(order: int | None = None) -> Refusal:
    """
    What a client is told of a fault of ours: that nothing happened, only if
    nothing was reserved.
    """
    if order is None:
        return TechProblem("the server failed to carry out this request")
    return OutcomeUnknown("the server failed", order)


def _notPlain(line: bytes) -> None:
    """
    Take no line for a plain one.
    """


class Sessions:
    """
    All the conversations of one server.

    @ivar pending: The number of requests in flight, in all sessions.
    @ivar plainRequest: Reads a line that has nothing unusual. It gives L{None}
        if it has, or if our own schema is not all that an envelope has to
        pass: then the line has to go the long way.
    @ivar counters: Where requests are counted, if anywhere.
    @ivar audit: Where is written who asked for what, if anywhere.
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
        audit: "AuditTrail | None" = None,
    ) -> None:
        self._commands = {command.name: command for command in commands}
        self._schemas = schemas
        self._limits = limits
        self._audience: dict[Session, Principal] = {}
        self._stopping = False
        self._idle: list[Deferred[None]] = []
        self.authenticator = authenticator
        self.waiters = waiters
        self.counters = counters
        self.audit = audit
        self._numbers = count(1)
        self.pending = 0
        hasSite = schemas.hasSite("request")
        self.plainRequest = _notPlain if hasSite else wire.plainRequest

    def open(self, send: Callable[[bytes], None]) -> Session:
        """
        Begin a conversation.

        @param send: Called with each line for the client, CR LF at its end,
            or with several at once.
        """
        return Session(self, send, number=next(self._numbers))

    def answered(self, count: int) -> None:
        """
        So many requests less are in flight.
        """
        self.pending -= count
        if not self.pending:
            idle, self._idle = self._idle, []
            for each in idle:
                each.callback(None)

    def extIDOf(self, members: dict[str, Any]) -> ExtID | None:
        """
        The C{extID} to answer under: as it came if it is a good one, whatever
        is wrong with the other members.
        """
        extID: ExtID | None = members.get("extID")
        if extID is None:
            return None
        good = self._schemas.isOurs("request", {"command": "any", "extID": extID})
        return extID if good else None

    def commandOf(self, members: dict[str, Any]) -> str:
        """
        The command that a request names, if it is one of this server.
        """
        name = members.get("command")
        return name if isinstance(name, str) and name in self._commands else UNKNOWN

    def request(self, members: dict[str, Any]) -> Request:
        """
        Check the envelope.

        @raise InvalidData: A member of it breaks the schema.
        @raise ShuttingDown: The server is stopping.
        """
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
            raise Busy("the server has too many requests in flight", "max-pending")

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
        if self.counters is not None:
            self.counters.publishing(events)
        encoded = self._encoded(events)
        audience = self._currentAudience()
        if audience:
            lines = b"".join(wire.event(event.type, data) for event, data in encoded)
            for session in audience:
                session.send(lines)
        for event, data in encoded:
            self.waiters.match(event, data)

    def _encoded(self, events: Sequence[TradeEvent]) -> list[tuple[TradeEvent, bytes]]:
        """
        Encode the data of each event, once; what can't be encoded does not
        keep the others from their sessions.
        """
        encoded = []
        for event in events:
            try:
                encoded.append((event, wire.encodeData(event.data)))
            except Exception:
                _log.failure("a trade event can't be encoded")
        return encoded

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
        self.plainRequest = _notPlain
        if not self.pending:
            return succeed(None)
        idle: Deferred[None] = Deferred()
        self._idle.append(idle)
        return idle
