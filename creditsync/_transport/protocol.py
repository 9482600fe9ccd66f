"""
Lines over a transport: framing, limits and back-pressure; nothing of JSON.

Bytes become lines here, when L{creditsync._transport.fairness} says whose turn it
is, and what a session sends is joined into one write for each turn. A socket gets it
at once: to have the reactor wait until it may be written would cost as much as a
request. A client that does not read is not read from either, and is cut off
when what waits for it passes its bound.

A connection ends in order. First its input ends; then the requests that came
in get their replies; then the server says good-bye and drops what it is still
sent, until the other side is gone too or the time for that is over. To close
a socket with unread input would make the kernel throw away replies that are
still under way.
"""

from collections.abc import Collection
from contextlib import suppress
from ipaddress import IPv6Address
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableDescriptor,
    IHalfCloseableProtocol,
    IHandshakeListener,
    IPullProducer,
    IPushProducer,
    IReactorTime,
    ISSLTransport,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from creditsync._conversation.session import Session
from creditsync._conversation.sessions import Sessions
from creditsync._timeouts import EqualTimeouts
from creditsync._transport.fairness import FairScheduler
from creditsync._transport.tls import BEGINNINGS
from creditsync.errors import LineTooLong
from creditsync.records import Limits, Principal

_CR = ord("\r")
# Bytes that are written at a time: what a transport buffers without asking for
# a pause. More would only wait there, as a copy for each session.
_WRITE = 65536
# Bytes of lines that may wait for their turn while their client is still read.
_AHEAD = 16384
# Connections that a port accepts in one reactor turn when more are waiting. By
# itself it takes more in each turn, until everybody else waits for them.
_ACCEPTS = 10


@implementer(IHalfCloseableProtocol, IHandshakeListener, IPullProducer, IPushProducer)
class LineProtocol(Protocol):
    """
    One connection.

    It registers as its transport's producer, to hear when what it writes is
    not read: L{pauseProducing} and L{resumeProducing} are the transport's
    calls, while C{transport.pauseProducing} is ours and stops the reading.

    Where it can send at once it sees by itself what does not leave. Only that
    goes to the transport, which then has no more to say than when all of it has
    left: as it does for a pull producer.
    """

    factory: "LineFactory"
    # What an endpoint gives: more than ITransport, but not always the same.
    transport: Any

    def __init__(self, factory: "LineFactory") -> None:
        self.factory = factory
        self._limits = factory.limits
        self._session: Session = factory.sessions.open(self.send)
        self._partial = bytearray()
        # Whole lines, of which those before _at are handled. They are not split
        # at once: a read may be nothing but line ends, each then an object.
        self._lines = b""
        self._at = 0
        self._output: list[bytes] = []
        self._unwritten = 0
        self._isReading = True
        self._isStalled = False
        self._isNew = True
        self._sendsAtOnce = False
        self._inputEnded = False
        self._peerEnded = False
        self._outputEnded = False
        self.isQueued = False
        self.account = factory.turns.account(None)
        self._principal: Principal | None = None

    def connectionMade(self) -> None:
        """
        Keep the connection alive, and ask to hear when what is written has left.
        """
        transport = self.transport
        if ITCPTransport.providedBy(transport):
            transport.setTcpKeepAlive(True)
            transport.setTcpNoDelay(True)
        isTLS = ISSLTransport.providedBy(transport)
        # What wraps a transport, as TLS does, shows the other's methods as its
        # own, but nothing may pass it by.
        self._sendsAtOnce = isinstance(transport, FileDescriptor) and not isTLS
        transport.registerProducer(self, not self._sendsAtOnce)
        self.factory.opened(self)
        if isTLS:
            # A handshake may take as long as a line, the first of which comes
            # after it.
            self.factory.lineTimeouts.start(self)

    def handshakeCompleted(self) -> None:
        """
        TLS stands.
        """
        self.factory.lineTimeouts.end(self)

    # Input: from bytes to lines, and no more of them than fit into a turn.

    def dataReceived(self, data: bytes) -> None:
        """
        Take bytes as they arrive.
        """
        if self._inputEnded:
            return
        if self._isNew:
            # A proxy's header, which names the client, is read only now.
            self._isNew = False
            self._session.peer = addressText(self.transport.getPeer())
        wasWaiting = bool(self._lines)
        partial = self._partial
        end = data.rfind(b"\n") + 1
        if end:
            lines, data = data[:end], data[end:]
            self._addLines(self._takePartial() + lines if partial else lines)
        if data:
            if not partial:
                self.factory.lineTimeouts.start(self)
            partial += data
        if len(partial) > self._limits.maxLineLength + len(b"\r"):
            self._addLines(self._takePartial() + b"\n")
        elif partial.startswith(BEGINNINGS):
            # A client that speaks TLS here waits for an answer, and any that is
            # not TLS tells it at once.
            self._addLines(self._takePartial() + b"\n")
        self.factory.hasLines(self)
        if wasWaiting or len(self._lines) > _AHEAD:
            # Not sooner: most clients say no more until they are answered, and
            # to stop reading and to read again costs two calls of the system.
            self._balance()

    def _addLines(self, lines: bytes) -> None:
        self._lines = self._lines[self._at :] + lines
        self._at = 0

    def _dropLines(self) -> None:
        self._lines = b""
        self._at = 0

    def _takePartial(self) -> bytes:
        line = bytes(self._partial)
        self._partial.clear()
        self.factory.lineTimeouts.end(self)
        return line

    def handleLines(self, until: float) -> int:
        """
        Handle lines, if the other side reads what is said to them.

        @return: How many.
        """
        handled = 0
        most = self._limits.linesPerTurn
        seconds = self.factory.clock.seconds
        while self.isWaiting:
            lines, at = self._lines, self._at
            end = lines.index(b"\n", at)
            self._at = end + 1
            if self._at == len(lines):
                self._dropLines()
            # What stands before an empty line is the end of a line too.
            line = lines[at : end - 1 if lines[end - 1] == _CR else end]
            if len(line) > self._limits.maxLineLength:
                self._refuseTooLong(line)
            elif line and not line.isspace():
                self._session.lineReceived(line)
            handled += 1
            if handled == most or seconds() >= until:
                break
        if not self._lines:
            self._balance()
        self._settleAccount()
        return handled

    def _settleAccount(self) -> None:
        """
        From now on use the time of whom the session speaks for.
        """
        principal = self._session.principal
        if principal is not self._principal:
            self._principal = principal
            id = None if principal is None else principal.id
            self.account = self.factory.turns.account(id)

    @property
    def isWaiting(self) -> bool:
        """
        Whether there are lines that could be handled.
        """
        return bool(self._lines) and not self._isStalled

    def _refuseTooLong(self, line: bytes) -> None:
        most = self._limits.maxLineLength
        refusal = LineTooLong(f"a line has at most {most} bytes")
        self._session.refuseUnread(line, refusal)
        self._dropLines()
        self.finish()

    def _balance(self) -> None:
        """
        Read on only when what was read is handled and what was said is read.
        """
        if not self._outputEnded:
            self._read(not self._lines and not self._isStalled)
        if self._inputEnded and not self._lines:
            self.factory.willFlush(self)

    def _read(self, wanted: bool) -> None:
        if wanted == self._isReading or self._peerEnded:
            return
        self._isReading = wanted
        if wanted:
            self.transport.resumeProducing()
        else:
            self.transport.pauseProducing()

    def lineTimedOut(self) -> None:
        """
        A line has not ended in time.
        """
        if not self._isReading:
            # It is this side that does not read on.
            self.factory.lineTimeouts.start(self)
            return
        self.factory.limited("line-timeout")
        self.finish()

    # Output: one write for each turn, and a bound on what is not read.

    def send(self, data: bytes) -> None:
        """
        Say something, at the latest in the next reactor turn.
        """
        if self._outputEnded:
            return
        if not self._output:
            self.factory.willFlush(self)
        self._output.append(data)
        self._unwritten += len(data)
        if self._isStalled and self._unwritten > self._limits.maxUnread:
            self.factory.log.warn(
                "{peer} does not read, its connection is cut off",
                peer=self._session.peer,
            )
            self.factory.limited("max-unread")
            self.cutOff()

    @property
    def session(self) -> Session:
        """
        The conversation that it carries.
        """
        return self._session

    @property
    def isStalled(self) -> bool:
        """
        Whether the other side does not read.
        """
        return self._isStalled

    @property
    def unread(self) -> int:
        """
        How many bytes were said and have not left this process.
        """
        below = self.transport
        while below is not None and not isinstance(below, FileDescriptor):
            below = getattr(below, "transport", None)
        if below is None:
            return self._unwritten
        # What was written and is not yet joined stands under a private name.
        buffered = len(below.dataBuffer) - below.offset + below._tempDataLen
        return int(self._unwritten + buffered)

    def flush(self) -> None:
        """
        Write what was said, unless the other side does not read; say good-bye
        if there is nothing left to say.
        """
        if self._isStalled or self._outputEnded:
            return
        while self._output and not self._isStalled:
            self._write(self._takeOutput())
        if self._output:
            return
        if self._inputEnded and not self._lines and self._session.isIdle:
            self._sayGoodbye()

    def _write(self, data: bytes) -> None:
        """
        Send what can be sent at once, and leave the rest to the transport.
        """
        if self._sendsAtOnce:
            sent = self.transport.writeSomeData(data)
            if sent == len(data):
                return
            self.pauseProducing()
            # Else it is an error: the connection is lost, which the reactor will
            # find out in its turn.
            if isinstance(sent, int):
                data = data[sent:]
        self.transport.write(data)

    def _takeOutput(self) -> bytes:
        """
        Take what was said, but not more than should be written at a time.
        """
        output = self._output
        if self._unwritten <= _WRITE:
            data = b"".join(output)
            output.clear()
        else:
            count, size = 1, len(output[0])
            while count < len(output) and size + len(output[count]) <= _WRITE:
                size += len(output[count])
                count += 1
            data = b"".join(output[:count])
            del output[:count]
        self._unwritten -= len(data)
        return data

    def pauseProducing(self) -> None:
        """
        What was written does not leave: the other side does not read.
        """
        self._isStalled = True
        self._balance()

    def resumeProducing(self) -> None:
        """
        All that was written has left.
        """
        if not self._isStalled:
            # A pull producer is also asked as soon as it is registered.
            return
        self._isStalled = False
        self.flush()
        self._balance()
        self.factory.hasLines(self)

    def stopProducing(self) -> None:
        """
        The connection is lost, of which L{connectionLost} will tell.
        """

    # The end, in order.

    def finish(self) -> None:
        """
        Take no more input, and say good-bye once every request that came in
        has its reply.
        """
        if self._inputEnded:
            return
        self._inputEnded = True
        self._takePartial()
        self.factory.finishTimeouts.start(self)
        self.factory.willFlush(self)

    def _sayGoodbye(self) -> None:
        self._outputEnded = True
        transport = self.transport
        transport.unregisterProducer()
        self._read(True)
        # A TLS transport passes for half-closeable, but would close the
        # connection below it with its own last bytes unsent.
        canHalfClose = IHalfCloseableDescriptor.providedBy(
            transport
        ) and not ISSLTransport.providedBy(transport)
        if self._peerEnded or not canHalfClose:
            transport.loseConnection()
            return
        transport.loseWriteConnection()

    def readConnectionLost(self) -> None:
        """
        The other side has sent all that it wants to send.
        """
        self._peerEnded = True
        if self._outputEnded:
            self.transport.loseConnection()
        else:
            self.finish()

    def writeConnectionLost(self) -> None:
        """
        What this side said is written, and its good-bye after it.
        """

    def cutOff(self) -> None:
        """
        End the connection at once, whatever is still unread.
        """
        self._outputEnded = True
        self._output.clear()
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Let go of everything.
        """
        self._inputEnded = self._outputEnded = self._peerEnded = True
        # It may be some time until the rest of it is found to be garbage.
        self._takePartial()
        self._dropLines()
        self._output.clear()
        self.factory.finishTimeouts.end(self)
        self._session.ended()
        self.factory.closed(self)


def addressText(address: object) -> str:
    """
    An address for people to read: C{192.0.2.1:4242}, C{[2001:db8::1]:4242}, or
    C{local} where there is no host, as on a UNIX socket.
    """
    host = getattr(address, "host", None)
    if host is None:
        return "local"
    port = getattr(address, "port", "")
    if ":" not in host:
        return f"{host}:{port}"
    with suppress(ValueError):
        # A proxy's header may spell all of its zeros out.
        host = str(IPv6Address(host))
    return f"[{host}]:{port}"


class _Unwelcome(Protocol):
    """
    A connection for which there is no room.
    """

    transport: Any

    def connectionMade(self) -> None:
        """
        Close it at once.
        """
        self.transport.abortConnection()


class LineFactory(Factory):
    """
    All connections of one server, on whatever endpoints it listens.
    """

    noisy = False
    log = Logger()

    def __init__(
        self, clock: IReactorTime, sessions: Sessions, limits: Limits, endTimeout: float
    ) -> None:
        """
        @param endTimeout: Seconds from the end of a connection's input to the
            moment when it is cut off.
        """
        self.clock = clock
        self.sessions = sessions
        self.limits = limits
        self.lineTimeouts: EqualTimeouts[LineProtocol] = EqualTimeouts(
            clock, limits.lineTimeout, LineProtocol.lineTimedOut
        )
        self.finishTimeouts: EqualTimeouts[LineProtocol] = EqualTimeouts(
            clock, endTimeout, LineProtocol.cutOff
        )
        # The TCP ports that accept its connections.
        self.ports: list[Any] = []
        self._connections: dict[LineProtocol, None] = {}
        self.turns = FairScheduler(clock)
        self._unflushed: list[LineProtocol] = []
        self._nextTurn: IDelayedCall | None = None
        self._allClosed: Deferred[None] | None = None

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        """
        Take a connection, or close it at once if there are too many.
        """
        if self.ports:
            self._turnLater()
        if len(self._connections) >= self.limits.maxConnections:
            self.log.warn(
                "{addr} is refused: too many connections", addr=addressText(addr)
            )
            self.limited("max-connections")
            # Not None, which a TLS factory around this one can't take.
            return _Unwelcome()
        connection = LineProtocol(self)
        connection.session.peer = addressText(addr)
        return connection

    @property
    def connections(self) -> Collection[LineProtocol]:
        """
        Those that stand.
        """
        return self._connections

    def limited(self, limit: str) -> None:
        """
        Count that a limit was reached.
        """
        if self.sessions.counters is not None:
            self.sessions.counters.limited(limit)

    def opened(self, connection: LineProtocol) -> None:
        """
        Know a connection.
        """
        self._connections[connection] = None

    def closed(self, connection: LineProtocol) -> None:
        """
        Forget a connection.
        """
        self._connections.pop(connection, None)
        if self._connections:
            return
        self.turns.clear()
        if self._nextTurn is not None:
            self._nextTurn.cancel()
            self._nextTurn = None
        # There may be no turn for a long time: forget those that had something
        # to say, and count what they were told.
        self.flush()
        if self._allClosed is not None:
            allClosed, self._allClosed = self._allClosed, None
            allClosed.callback(None)

    def hasLines(self, connection: LineProtocol) -> None:
        """
        Handle lines of a connection, now or when its turn comes.
        """
        self.turns.serve(connection)
        self._turnLater()

    def willFlush(self, connection: LineProtocol) -> None:
        """
        Flush a connection at the latest in the next reactor turn.
        """
        self._unflushed.append(connection)
        self._turnLater()

    def _turnLater(self) -> None:
        if self._nextTurn is None:
            self._nextTurn = self.clock.callLater(0, self._turn)

    def _turn(self) -> None:
        """
        Begin a reactor turn, and write what was said.
        """
        self._nextTurn = None
        for port in self.ports:
            port.numberAccepts = _ACCEPTS
        self.turns.next()
        if self.turns:
            self._turnLater()
        self.flush()

    def flush(self) -> None:
        """
        Write what was said in this turn, in one write for each connection.
        """
        connections, self._unflushed = self._unflushed, []
        for connection in connections:
            connection.flush()
        if self.sessions.counters is not None:
            self.sessions.counters.settle()

    def finish(self) -> "Deferred[None]":
        """
        End every connection in order.

        @return: Fires when the last is closed.
        """
        if not self._connections:
            return succeed(None)
        self._allClosed = Deferred()
        for connection in list(self._connections):
            connection.finish()
        return self._allClosed

    def cutOff(self) -> None:
        """
        End every connection at once.
        """
        for connection in list(self._connections):
            connection.cutOff()
