"""
The connection to the platform.

Requests are pipelined: each has an C{extID} of its own, by which its reply is found.
No request is ever sent again on its own, because the platform would book it again: one
whose connection is lost, or whose reply does not come, has an unknown outcome, and what
follows from that is not decided here. There is one exception. A refusal of the token
proves that nothing has happened, so if the token's file has another one by then, the
request is sent again with that.

What comes in and is not understood is dropped, and never logged: the platform's other
lines carry prices, notices, and records of its staff with their passwords.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import Factory, define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.logger import Logger
from zope.interface import implementer

from creditsync import _wire as wire
from creditsync._client.connection import NO_REPLY, Connection
from creditsync._client.lines import MAX_REPLY_LENGTH, encode, encodeTry
from creditsync.codes import TRADE_EVENT
from creditsync.gateway._connecting import Explained
from creditsync.gateway._figures import Figures
from creditsync.gateway._interfaces import IUpstream, IUpstreamObserver
from creditsync.gateway._link import SILENCE, Link
from creditsync.gateway._outcomes import Kind, Outcome, outcomeOf, unknown, unsent
from creditsync.gateway._tokenfile import TokenFile

# Seconds to wait for a reply, after which the outcome is unknown.
REPLY_TIMEOUT: Final = 10.0

# Seconds after which a token that the platform refuses is read and tried again.
TOKEN_RETRY: Final = 5.0

# Requests in flight; further ones wait, unsent.
MAX_IN_FLIGHT: Final = 256

# Replies that are overdue, and replies that have come, by which a late one and a
# doubled one are recognized.
_REMEMBERED: Final = 10_000

_log = Logger()


@define(eq=False)
class _Request:
    """
    A request.

    @ivar token: With which it was sent last.
    @ivar sentAt: When that was, by the clock.
    """

    body: bytes
    tag: object
    token: str = ""
    sentAt: float = 0.0
    isIntroduction: bool = False
    done: "Deferred[Outcome]" = Factory(Deferred)


@implementer(IUpstream)
class Upstream(Link):
    """
    One connection to the platform, made again with jitter whenever it is lost.
    """

    def __init__(
        self,
        clock: IReactorTime,
        endpoint: IStreamClientEndpoint,
        token: TokenFile,
        *,
        random: Callable[[], float],
        timeout: float = REPLY_TIMEOUT,
        maxInFlight: int = MAX_IN_FLIGHT,
        names: Mapping[str, str] | None = None,
    ) -> None:
        """
        See L{Link<creditsync.gateway._link.Link>}.

        @param names: What the platform calls commands that it has under another name.
        """
        explained = Explained(endpoint, self._notConnected)
        super().__init__(clock, explained, token, random, timeout)
        self._maxInFlight = maxInFlight
        self._names = names or {}
        self._observer: IUpstreamObserver | None = None
        self.isConnected = False
        self.figures = Figures()
        self._queue: deque[_Request] = deque()
        self._inFlight: dict[str, _Request] = {}
        self._overdue: OrderedDict[str, object] = OrderedDict()
        self._answered: OrderedDict[str, None] = OrderedDict()
        self._heard = 0.0
        self._retry: IDelayedCall | None = None
        self._isIntroducing = False
        # Why the connection is to be given up as soon as nothing is in flight.
        self._renewal = ""

    def start(self, observer: IUpstreamObserver) -> None:
        """
        See L{IUpstream.start}.
        """
        self._observer = observer
        self.figures.since = self._clock.seconds()
        self._service.startService()

    def stop(self) -> "Deferred[None]":
        """
        See L{IUpstream.stop}.
        """
        self._observer = None
        return super().stop()

    # The connection.

    def _opened(self) -> None:
        self.figures.connections += 1
        self._heard = self._clock.seconds()
        self._introduce()

    def _notConnected(self, why: str) -> None:
        self.problem = f"there is no connection to the platform: {why}"

    def _introduce(self) -> None:
        """
        Show the platform a token, after which it sends events on this connection.
        """
        self._retry = None
        if self._isIntroducing:
            return
        try:
            self._token.read()
        except (OSError, ValueError) as e:
            self.problem = f"the gateway has no token: {e}"
            self._introduceLater()
            return
        self._isIntroducing = True
        # Whether the platform has this command does not matter: a token that is not
        # refused was accepted.
        name = self._names.get("Subscribe", "Subscribe")
        body = encode(name, {"chanels": [TRADE_EVENT]})
        request = _Request(body, None, isIntroduction=True)
        request.done.addCallback(self._introduced)
        self._send(request)

    def _introduced(self, outcome: Outcome) -> None:
        self._isIntroducing = False
        if outcome.kind in (Kind.DONE, Kind.REFUSED):
            self._accepted()
        else:
            self._introduceLater()

    def _introduceLater(self) -> None:
        if self._retry is None and self._connection is not None:
            self._retry = self._clock.callLater(TOKEN_RETRY, self._introduce)

    def _accepted(self) -> None:
        if self._connection is None or self.isConnected:
            return
        self._connection.hasAnswered = True
        self._backoff.reset()
        self.isConnected, self.problem = True, ""
        self.figures.since = self._clock.seconds()
        if self._observer is not None:
            self._observer.connected()
        self._pump()

    def _interrupt(self, problem: str) -> None:
        wasConnected, self.isConnected = self.isConnected, False
        self.problem = problem
        if wasConnected:
            self.figures.since = self._clock.seconds()
            if self._observer is not None:
                self._observer.interrupted()

    def disconnected(self, connection: Connection) -> None:
        """
        See L{Owner.disconnected
        <creditsync._client.connection.Owner.disconnected>}. What was in flight may have
        happened, unless the other side can't have understood any of it.
        """
        if connection is not self._connection:
            return
        self._connection, self._renewal = None, ""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        inFlight, self._inFlight = self._inFlight, {}
        queued, self._queue = self._queue, deque()
        outcome = unknown("the connection to the platform was lost")
        if connection.isNotUnderstood:
            outcome = unsent("the platform does not understand the gateway")
        for extID in inFlight:
            self._timeouts.end(extID)
            self._remember(self._overdue, extID, inFlight[extID].tag)
        self._interrupt(self._whyLost(connection))
        for request in inFlight.values():
            request.done.callback(outcome)
        for request in queued:
            request.done.callback(unsent("the connection to the platform was lost"))

    def _whyLost(self, connection: Connection) -> str:
        if not connection.hasAnswered and connection.cause:
            return connection.cause
        if connection.hasAnswered and not self.isConnected:
            # It was of no use, and why is known: the token was refused.
            return self.problem
        return "the connection to the platform was lost"

    def renew(self, why: str) -> None:
        """
        See L{IUpstream.renew}. What is in flight is answered first, or overdue: its
        outcome would be unknown otherwise.
        """
        if self._connection is not None:
            self._renewal = why
            self._pump()

    # The way out.

    def request(
        self, command: str, data: Mapping[str, Any], tag: object = None
    ) -> "Deferred[Outcome]":
        """
        See L{IUpstream.request}.
        """
        try:
            name = self._names.get(command, command)
            request = _Request(encode(name, data), tag)
        except Exception as e:
            request = _Request(b"", tag)
            request.done.callback(unsent(f"it can't be written: {e}"))
            return request.done
        if not self.isConnected:
            request.done.callback(unsent(f"no platform: {self.problem}"))
        else:
            self._queue.append(request)
            self._pump()
        return request.done

    def _pump(self) -> None:
        while (
            self._queue
            and self._connection is not None
            and len(self._inFlight) < self._maxInFlight
            and not self._renewal
        ):
            self._send(self._queue.popleft())
        if self._renewal and self._connection is not None and not self._inFlight:
            self._connection.giveUp(self._renewal)

    def _send(self, request: _Request) -> None:
        assert self._connection is not None
        extID = self._newExtID()
        try:
            request.token = self._token.current()
            line = encodeTry(request.body, extID, request.token)
        except Exception as e:
            request.done.callback(unsent(f"it can't be written: {e}"))
            return
        self._inFlight[extID] = request
        request.sentAt = self._clock.seconds()
        self._timeouts.start(extID)
        self.figures.requests += 1
        self._connection.send(line)

    # The way in.

    def lineReceived(self, line: bytes) -> None:
        """
        See L{Owner.lineReceived
        <creditsync._client.connection.Owner.lineReceived>}.
        """
        self._heard = self._clock.seconds()
        members = _read(line)
        if members is None:
            self.figures.dropped += 1
        elif "event" in members:
            self._eventReceived(members)
        else:
            self._replyReceived(members)

    def lineTooLong(self, beginning: bytes) -> None:
        """
        See L{Owner.lineTooLong<creditsync._client.connection.Owner.lineTooLong>}. What
        it is the reply to, if that is ours, is overdue some time later.
        """
        self._heard = self._clock.seconds()
        self.figures.dropped += 1
        _log.warn(
            "a line of the platform is dropped: it has more than {most} bytes",
            most=MAX_REPLY_LENGTH,
        )

    def _eventReceived(self, members: Mapping[str, Any]) -> None:
        type, data = members.get("type"), members.get("data")
        if members["event"] != TRADE_EVENT or not isinstance(data, dict):
            self.figures.dropped += 1
            return
        self.figures.events += 1
        if self._observer is not None:
            # Only its record counts, so the type may be missing.
            self._observer.eventReceived(type if isinstance(type, int) else 0, data)

    def _replyReceived(self, members: Mapping[str, Any]) -> None:
        extID = members.get("extID")
        if not isinstance(extID, str):
            self.figures.dropped += 1
            return
        outcome = outcomeOf(members)
        request = self._inFlight.pop(extID, None)
        if request is None:
            self._unexpected(extID, outcome)
            return
        self._timeouts.end(extID)
        self.figures.replied(self._clock.seconds() - request.sentAt)
        self._remember(self._answered, extID, None)
        if outcome.kind is Kind.TOKEN:
            self._tokenRefused(request, outcome)
        else:
            request.done.callback(outcome)
        self._pump()

    def _unexpected(self, extID: str, outcome: Outcome) -> None:
        """
        A reply to a request that nobody waits for.
        """
        if extID in self._overdue:
            tag = self._overdue.pop(extID)
            self._remember(self._answered, extID, None)
            self.figures.late += 1
            if tag is not None and self._observer is not None:
                self._observer.repliedLate(tag, outcome)
        elif extID in self._answered:
            self.figures.doubled += 1
        else:
            self.figures.dropped += 1

    def _tokenRefused(self, request: _Request, outcome: Outcome) -> None:
        """
        Nothing has happened. Events have stopped, too, if the token has expired.
        """
        try:
            isRenewed = self._token.read() != request.token
        except (OSError, ValueError):
            isRenewed = False
        if self._connection is not None:
            self._connection.hasAnswered = True
        self._interrupt(f"the platform refuses the gateway's token: {outcome.message}")
        if not isRenewed:
            request.done.callback(outcome)
            if request.isIntroduction:
                self._introduceLater()
            else:
                # It may be only this request that the token does not allow.
                self._introduce()
        elif request.isIntroduction:
            self._send(request)
        else:
            self._introduce()
            self._send(request)

    def _timedOut(self, extID: str) -> None:
        request = self._inFlight.pop(extID, None)
        if request is None:
            return
        self.figures.lost += 1
        self._remember(self._overdue, extID, request.tag)
        request.done.callback(unknown(NO_REPLY))
        isSilent = self._clock.seconds() - self._heard >= SILENCE
        if self._connection is not None and isSilent:
            # Nothing at all has come: another connection may be better.
            self._connection.giveUp(NO_REPLY)
        self._pump()

    def _remember(
        self, where: "OrderedDict[str, Any]", extID: str, tag: object
    ) -> None:
        where[extID] = tag
        if len(where) > _REMEMBERED:
            where.popitem(last=False)


def _read(line: bytes) -> dict[str, Any] | None:
    """
    The members of a line, or L{None} if it is none of ours. Arrays are not even parsed.

    If a page of trades were dropped for one strange value, it would be read again and
    again, and what is behind it never.
    """
    if line.lstrip().startswith(b"["):
        return None
    return wire.decodeTolerantly(line)
