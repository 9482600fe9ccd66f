"""
Commands of the platform that are passed on (docs/gateway.rst, "Commands of the
platform").

They have a connection of their own. To a platform, the last token on a connection may
decide which events are sent there, so no client's token may stand on the one that the
gateway's events come by. And whatever becomes of these commands, operations are not
affected: a reply that is too long, or a connection that hangs, ends only what was
passed on.

Nothing is sent twice. What comes in and is not a reply that somebody waits for is
dropped, and never logged; neither are tokens.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from typing import Any, Final

from attrs import Factory, define
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.logger import Logger

from creditsync import _wire as wire
from creditsync._client.connection import NO_REPLY, Connection
from creditsync._client.lines import MAX_LINE_LENGTH, encodeTry
from creditsync._client.outcomes import Refused
from creditsync.errors import (
    Busy,
    Forbidden,
    InvalidData,
    InvalidJSON,
    OutcomeUnknown,
    Refusal,
    TechProblem,
    UnknownCommand,
)
from creditsync.gateway._link import SILENCE, Link
from creditsync.gateway._outcomes import outcomeOf
from creditsync.gateway._refusals import PassedRefusal
from creditsync.gateway._tokenfile import TokenFile
from creditsync.methods import PassedCommand

# Commands that may be in flight; further ones are refused. Their lines have 4 MiB at
# most.
MAX_IN_FLIGHT: Final = 64

# Bytes in a reply that is passed on.
MAX_REPLY: Final = 4 * 1024 * 1024

# Characters of a platform's sentence, and of its error's name, that are passed on: what
# was refused recently is kept for the console.
_MAX_MESSAGE: Final = 1000
_MAX_ERROR: Final = 100

_UNAUTHORIZED: Final = 401

_log = Logger()


@define(eq=False)
class _Sent:
    """
    A command that was sent.
    """

    command: PassedCommand
    done: "Deferred[bytes]" = Factory(Deferred)

    def unknown(self, why: str) -> None:
        """
        Nobody can tell what became of it.
        """
        self.done.errback(
            OutcomeUnknown(
                f"{why}; {self.command.name} may have been carried out by the platform"
            )
        )


class PassThrough(Link):
    """
    The connection for commands that are passed on, made again whenever it is lost.

    @ivar commands: The commands.
    """

    def __init__(
        self,
        clock: IReactorTime,
        endpoint: IStreamClientEndpoint,
        token: TokenFile,
        commands: Sequence[PassedCommand],
        *,
        random: Callable[[], float],
        timeout: float,
    ) -> None:
        """
        See L{Link<creditsync.gateway._link.Link>}.
        """
        super().__init__(clock, endpoint, token, random, timeout)
        self.commands = commands
        self._inFlight: dict[str, _Sent] = {}
        # Since when replies are awaited and no line has come.
        self._silentSince: float | None = None

    def start(self) -> None:
        """
        Connect, and connect again whenever the connection is lost.
        """
        self._service.startService()

    # The connection.

    def _opened(self) -> None:
        _log.info("commands can be passed on to the platform")
        self._silentSince = None

    def disconnected(self, connection: Connection) -> None:
        """
        See L{Owner.disconnected
        <creditsync._client.connection.Owner.disconnected>}. What was in flight may have
        been carried out, unless the other side can't have understood any of it.
        """
        if connection is not self._connection:
            return
        self._connection = None
        lost = "the connection to the platform was lost"
        self.problem = lost if connection.hasAnswered else connection.cause or lost
        if self._service.running:
            _log.warn("no commands can be passed on: {why}", why=self.problem)
        inFlight, self._inFlight = self._inFlight, {}
        for extID in inFlight:
            self._timeouts.end(extID)
        for sent in inFlight.values():
            if connection.isNotUnderstood:
                sent.done.errback(Busy("the platform does not understand the gateway"))
            else:
                sent.unknown(lost)

    # The way out.

    def passOn(
        self, command: PassedCommand, data: bytes, token: str | None
    ) -> "Deferred[bytes]":
        """
        See L{IPassThrough.passOn<creditsync.interfaces.IPassThrough.passOn>}.
        """
        try:
            line, extID = self._lineOf(command, data, token)
        except Refusal as refusal:
            return fail(refusal)
        assert self._connection is not None
        sent = self._inFlight[extID] = _Sent(command)
        self._timeouts.start(extID)
        if self._silentSince is None:
            self._silentSince = self._clock.seconds()
        self._connection.send(line)
        return sent.done

    def _lineOf(
        self, command: PassedCommand, data: bytes, token: str | None
    ) -> tuple[bytes, str]:
        """
        @raise Refusal: It can't be sent.
        """
        if not command.isClients:
            token = self._ownToken()
        elif token is None:
            raise Forbidden(
                f"{command.name} is sent with the token of its client, and this request"
                " has none"
            )
        if self._connection is None:
            raise Busy(f"the platform can't be reached: {self.problem}")
        if len(self._inFlight) >= MAX_IN_FLIGHT:
            raise Busy("too many commands are with the platform")
        extID = self._newExtID()
        # In JSON it stands for white space here, but in the platform's framing for
        # nobody knows what.
        body = data.replace(b"\r", b" ")
        name = wire.encodeData({"command": command.name})
        try:
            return encodeTry(name[:-1] + b',"data":' + body + b"}", extID, token), extID
        except Refused as e:
            raise InvalidData(
                f"data is too long: to the platform {e.message}, with its token"
            ) from None

    def _ownToken(self) -> str:
        try:
            return self._token.current()
        except (OSError, ValueError):
            raise TechProblem("the gateway has no token for the platform") from None

    # The way in.

    def lineReceived(self, line: bytes) -> None:
        """
        See L{Owner.lineReceived
        <creditsync._client.connection.Owner.lineReceived>}.
        """
        if self._silentSince is not None:
            self._silentSince = self._clock.seconds()
        if line.lstrip().startswith(b"["):
            return
        if len(line) > MAX_REPLY:
            self._unreadable(line, f"has more than {MAX_REPLY} bytes")
            return
        try:
            members = wire.decode(line, maxMarks=inf)
        except InvalidJSON:
            self._unreadable(line, "can't be read")
            return
        if "event" in members:
            return
        sent = self._take(members.get("extID"))
        if sent is not None:
            self._answer(sent, members, line)

    def lineTooLong(self, beginning: bytes) -> None:
        """
        See L{Owner.lineTooLong<creditsync._client.connection.Owner.lineTooLong>}. One
        client's reply must not end what others have asked for.
        """
        if self._silentSince is not None:
            self._silentSince = self._clock.seconds()
        self._unreadable(beginning, f"has more than {MAX_REPLY} bytes")

    def _take(self, extID: object) -> _Sent | None:
        """
        Find what a reply is for; nothing else ever is.
        """
        sent = self._inFlight.pop(extID, None) if isinstance(extID, str) else None
        if sent is not None:
            self._timeouts.end(str(extID))
            if not self._inFlight:
                self._silentSince = None
            if self._connection is not None:
                self._connection.hasAnswered = True
            self._backoff.reset()
        return sent

    def _unreadable(self, line: bytes, why: str) -> None:
        """
        End what a line is the reply to, if that can be told from its beginning.
        """
        sent = self._take(wire.salvage(line[:MAX_LINE_LENGTH]).get("extID"))
        if sent is not None:
            sent.unknown(f"the platform's reply {why}")

    def _answer(self, sent: _Sent, members: dict[str, Any], line: bytes) -> None:
        outcome, data = outcomeOf(members), members.get("data")
        status, error = members.get("status"), members.get("error")
        if type(status) is int and status == 200 and error in (None, ""):
            # Whatever its data is: only what moves money has to name an order in it.
            sent.done.callback(wire.rewritten(wire.dataOf(line)))
        elif not outcome.isNo:
            sent.unknown(outcome.message)
        elif outcome.status == _UNAUTHORIZED and not sent.command.isClients:
            self._refused(sent)
        else:
            isShort = len(line) <= MAX_LINE_LENGTH
            refusal = PassedRefusal(
                outcome.status,
                outcome.error[:_MAX_ERROR],
                (outcome.message or outcome.error)[:_MAX_MESSAGE],
                data if isinstance(data, dict) and isShort else None,
            )
            sent.done.errback(refusal)

    def _refused(self, sent: _Sent) -> None:
        """
        The gateway's own token was refused. The next command is sent with what the file
        has by now.
        """
        with suppress(OSError, ValueError):
            self._token.read()
        sent.done.errback(TechProblem("the platform refuses the gateway's token"))

    def _timedOut(self, extID: str) -> None:
        sent = self._inFlight.pop(extID, None)
        if sent is None:
            # Another one that was overdue at the same moment has ended the connection.
            return
        now, since = self._clock.seconds(), self._silentSince
        sent.unknown("the platform has not replied in time")
        if (
            self._connection is not None
            and since is not None
            and now - since >= SILENCE
        ):
            # Nothing at all has come: another connection may be better.
            self._connection.giveUp(NO_REPLY)


class PassesOn:
    """
    The part of a gateway that passes commands on.
    """

    _passThrough: PassThrough | None

    @property
    def passed(self) -> Sequence[PassedCommand]:
        """
        See L{IPassThrough.passed<creditsync.interfaces.IPassThrough.passed>}.
        """
        return () if self._passThrough is None else self._passThrough.commands

    def passOn(
        self, command: PassedCommand, data: bytes, token: str | None
    ) -> "Deferred[bytes]":
        """
        See L{IPassThrough.passOn<creditsync.interfaces.IPassThrough.passOn>}.
        """
        if self._passThrough is None:
            return fail(UnknownCommand("unknown command"))
        return self._passThrough.passOn(command, data, token)

    def _startPassing(self) -> None:
        if self._passThrough is not None:
            self._passThrough.start()

    def _stopPassing(self) -> "Deferred[None]":
        return succeed(None) if self._passThrough is None else self._passThrough.stop()
