"""
One connection: bytes to lines, within a bound, and the reason why it ended.

Nothing is sent before a TLS handshake, if there is one, is complete.

Some reasons are permanent: where the certificate is wrong, or the other side
does not speak this protocol, the next connection would end in the same way.
L{Owner.uselessConnection} is told which kind it is, so that requests need not
wait in vain.
"""

import typing
from typing import Any

from twisted.internet.interfaces import (
    IDelayedCall,
    IHandshakeListener,
    IReactorTime,
    ISSLTransport,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from creditsync._client.handshake import handshakeProblem, isRefusedCertificate
from creditsync._client.lines import MAX_LINE_LENGTH, UnexpectedLine, isTooLong
from creditsync._transport.tls import BEGINNINGS
from creditsync.errors import InvalidJSON

# Why a connection ended that the other side closed without giving a reason.
_CLOSED = (
    "the server closed the connection without an answer: does it speak TLS there, or"
    " is it stopping?"
)
_CLOSED_TLS = "the server closed the connection without an answer"
_CLOSED_IN_HANDSHAKE = "the connection was closed during the TLS handshake"
_NO_HANDSHAKE = "no TLS handshake in time: does the server speak TLS there?"
_SPEAKS_TLS = "the server speaks TLS there, and this client does not"
NO_REPLY = "no reply in time"

# The next connection may have better luck.
_TEMPORARY = frozenset({NO_REPLY, _NO_HANDSHAKE})

_log = Logger("creditsync.client")


class Owner(typing.Protocol):
    """
    Whom a connection reports to.
    """

    def connected(self, connection: "Connection") -> None:
        """
        Lines can be sent.
        """

    def lineReceived(self, line: bytes) -> None:
        """
        A line has arrived.

        @raise InvalidJSON: It is not JSON as the protocol allows it.
        @raise UnexpectedLine: It is neither an event nor a reply.
        """

    def lineTooLong(self, beginning: bytes) -> None:
        """
        A line is too long. The rest of it is dropped as it arrives.

        @raise UnexpectedLine: The connection has to end instead.
        """

    def disconnected(self, connection: "Connection") -> None:
        """
        The connection is lost or given up. May be called more than once.
        """

    def uselessConnection(self, cause: str, isPermanent: bool) -> None:
        """
        A connection has ended without a reply to any request.

        @param isPermanent: Whether the next one would end in the same way.
        """


@implementer(IHandshakeListener)
class Connection(Protocol):
    """
    One connection of a client.

    @ivar isOver: Whether whatever still arrives is to be ignored.
    @ivar hasAnswered: Whether a request has had its reply here.
    @ivar isNotUnderstood: Whether the other side can't have understood anything
        that was sent here, so that nothing of it has happened.
    @ivar cause: Why it was given up, if it was.
    """

    # What an endpoint gives: more than ITransport, but not always the same.
    transport: Any

    def __init__(
        self, owner: Owner, clock: IReactorTime, handshakeTimeout: float
    ) -> None:
        self._owner = owner
        self._clock = clock
        self._handshakeTimeout = handshakeTimeout
        self._partial = bytearray()
        # Whether what arrives is the rest of a line that is too long.
        self._isDropping = False
        self._handshake: IDelayedCall | None = None
        self.isOver = False
        self.hasAnswered = False
        self.isNotUnderstood = False
        self.cause = ""

    def connectionMade(self) -> None:
        """
        Begin, or wait for the TLS handshake.
        """
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpKeepAlive(True)
            self.transport.setTcpNoDelay(True)
        if ISSLTransport.providedBy(self.transport):
            self._handshake = self._clock.callLater(
                self._handshakeTimeout, self.giveUp, _NO_HANDSHAKE
            )
        else:
            self._owner.connected(self)

    def handshakeCompleted(self) -> None:
        """
        Begin.
        """
        if not self.isOver:
            self._endHandshake()
            self._owner.connected(self)

    def _endHandshake(self) -> None:
        if self._handshake is not None and self._handshake.active():
            self._handshake.cancel()
        self._handshake = None

    def send(self, line: bytes) -> None:
        """
        Send a line.
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
        if self._isDropping:
            _, end, data = data.partition(b"\n")
            self._isDropping = not end
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
            self._checkPartial()
        except (InvalidJSON, UnexpectedLine) as e:
            self.giveUp(f"the server does not speak this protocol: {e}")

    def _lineReceived(self, line: bytes) -> None:
        if isTooLong(line):
            self._owner.lineTooLong(line[:MAX_LINE_LENGTH])
        elif line and not line.isspace():
            self._owner.lineReceived(line)

    def _checkPartial(self) -> None:
        if isTooLong(self._partial):
            beginning = bytes(self._partial[:MAX_LINE_LENGTH])
            self._partial.clear()
            self._isDropping = True
            self._owner.lineTooLong(beginning)

    def giveUp(self, cause: str) -> None:
        """
        Leave a connection that is of no use.
        """
        if self.isOver:
            return
        _log.warn(
            "giving up the connection to {peer}: {cause}",
            peer=self.transport.getPeer(),
            cause=cause,
        )
        self.cause = self.cause or cause
        self.cutOff()
        self._owner.disconnected(self)
        self._reportUseless(isPermanent=cause not in _TEMPORARY)

    def cutOff(self) -> None:
        """
        End the connection at once, even if not everything was sent.
        """
        self.isOver = True
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Find out why, and tell the owner.
        """
        wasOver, self.isOver = self.isOver, True
        isInHandshake = self._handshake is not None
        self._endHandshake()
        problem = handshakeProblem(reason, self.transport)
        if problem and not self.hasAnswered:
            self.cause = problem
            self.isNotUnderstood = isInHandshake or isRefusedCertificate(reason)
        isPermanent = bool(self.cause)
        self.cause = self.cause or self._closed(isInHandshake)
        self._owner.disconnected(self)
        if not wasOver:
            self._reportUseless(isPermanent)

    def _closed(self, isInHandshake: bool) -> str:
        """
        What is known if the other side closed it without giving a reason.
        """
        if isInHandshake:
            return _CLOSED_IN_HANDSHAKE
        return _CLOSED_TLS if ISSLTransport.providedBy(self.transport) else _CLOSED

    def _reportUseless(self, isPermanent: bool) -> None:
        if not self.hasAnswered:
            self._owner.uselessConnection(self.cause, isPermanent)
