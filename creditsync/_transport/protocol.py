"""
One connection: its session between its input and its output.

L{LineProtocol} handles lines (L{creditsync._transport.framing}) when
L{creditsync._transport.fairness} gives it time, passes them to its session, and
sends what the session gives it (L{creditsync._transport.output}). A client that does
not read is not read from either, and is cut off when what it has not read passes
its limit. How a connection ends is described in L{creditsync._transport.states}.
"""

import typing
from contextlib import suppress
from ipaddress import IPv6Address
from typing import Any, Final

from twisted.internet.interfaces import (
    IHalfCloseableDescriptor,
    IHalfCloseableProtocol,
    IHandshakeListener,
    IPullProducer,
    IPushProducer,
    IReactorTime,
    ISSLTransport,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from creditsync._conversation.session import Session
from creditsync._conversation.sessions import Sessions
from creditsync._timeouts import EqualTimeouts
from creditsync._transport.fairness import FairScheduler
from creditsync._transport.framing import LineBuffer
from creditsync._transport.output import WRITE, Output
from creditsync._transport.states import State
from creditsync.errors import LineTooLong
from creditsync.limits import Limits
from creditsync.records import Principal

# Bytes of lines that the session is given together, at most: some reads of a busy
# connection; and after a line that it has not taken so, which is one or two lines.
_WIDE: Final = 8192
_NARROW: Final = 256

# Bytes of lines that may wait for their turn while their client is still read.
_AHEAD: Final = 16384

# Compared with at each read; looked up in the enumeration it would cost a call
# on Python 3.11.
_OPEN: Final = State.OPEN


class Connections(typing.Protocol):
    """
    All connections of a server, as one of them needs them.

    @ivar lineTimeouts: Those in which a line, or a TLS handshake, has begun and
        has not ended.
    @ivar finishTimeouts: Those whose input has ended.
    @ivar replyTimeouts: Those that have stopped to read a long reply.
    """

    clock: IReactorTime
    sessions: Sessions
    limits: Limits
    log: Logger
    scheduler: FairScheduler
    lineTimeouts: "EqualTimeouts[LineProtocol]"
    finishTimeouts: "EqualTimeouts[LineProtocol]"
    replyTimeouts: "EqualTimeouts[LineProtocol]"

    def opened(self, connection: "LineProtocol") -> None:
        """
        Add a connection.
        """

    def closed(self, connection: "LineProtocol") -> None:
        """
        Remove a connection.
        """

    def hasLines(self, connection: "LineProtocol") -> None:
        """
        Call its C{handleLines}, now or in its turn.
        """

    def inputEnded(self, connection: "LineProtocol") -> None:
        """
        Cut it off if it does not end in time.
        """

    def willFlush(self, connection: "LineProtocol") -> None:
        """
        Call its C{flush}, at the latest in the next reactor turn.
        """

    def limited(self, limit: str) -> None:
        """
        Count that a limit was reached, by the name of its option.
        """


@implementer(IHalfCloseableProtocol, IHandshakeListener, IPullProducer, IPushProducer)
class LineProtocol(Protocol):
    """
    One connection.

    It registers as its transport's producer, to learn when what it writes is
    not read: L{pauseProducing} and L{resumeProducing} are the transport's
    calls, while C{transport.pauseProducing} is ours and stops the reading.

    @ivar share: Whose time it uses.
    @ivar isQueued: Whether it waits for its turn.
    """

    factory: Connections
    # What an endpoint gives: more than ITransport, but not always the same.
    transport: Any

    def __init__(self, factory: Connections) -> None:
        self.factory = factory
        self._limits = limits = factory.limits
        self._session: Session = factory.sessions.open(self.send)
        self._input = LineBuffer(self, factory.lineTimeouts, limits.maxLineLength)
        # Bytes of lines that the session is given together, now and at most: none of
        # them can be longer than a line may be.
        self._window = self._widest = min(_WIDE, limits.maxLineLength)
        self._output = Output(self)
        self._state = State.NEW
        self._isReading = True
        self.isQueued = False
        self.share = factory.scheduler.share(None)
        self._principal: Principal | None = None

    @property
    def session(self) -> Session:
        """
        Its conversation.
        """
        return self._session

    @property
    def isStalled(self) -> bool:
        """
        Whether the client does not read.
        """
        return self._output.isStalled

    @property
    def unread(self) -> int:
        """
        How many bytes for the client have not left this process.
        """
        return self._output.unread

    def connectionMade(self) -> None:
        """
        Keep the connection alive, and ask to learn when what is written has left.
        """
        transport = self.transport
        if ITCPTransport.providedBy(transport):
            transport.setTcpKeepAlive(True)
            transport.setTcpNoDelay(True)
        self._output.begin(transport)
        self.factory.opened(self)
        if ISSLTransport.providedBy(transport):
            # A handshake may take as long as a line, the first of which comes
            # after it.
            self.factory.lineTimeouts.start(self)

    def handshakeCompleted(self) -> None:
        """
        TLS is established.
        """
        self.factory.lineTimeouts.end(self)

    # Input: no more lines than fit into a turn.

    def dataReceived(self, data: bytes) -> None:
        """
        Take bytes as they arrive.
        """
        if self._state is not _OPEN and not self._opens():
            return
        input = self._input
        wasWaiting = bool(input.lines)
        input.add(data)
        self.factory.hasLines(self)
        if wasWaiting or len(input.lines) > _AHEAD:
            # Not sooner: most clients send no more until they are answered, and
            # to stop reading and to read on costs two system calls.
            self._balance()

    def _opens(self) -> bool:
        """
        Whether these are the first bytes.
        """
        if self._state is not State.NEW:
            return False
        self._state = State.OPEN
        # A proxy's header, which has the client's address, is read only now.
        self._session.peer = addressText(self.transport.getPeer())
        return True

    def handleLines(self, until: float) -> int:
        """
        Handle lines, if the client reads what it is sent.

        @return: How many.
        """
        handled = 0
        most = self._limits.linesPerTurn
        seconds = self.factory.clock.seconds
        input, output, session = self._input, self._output, self._session
        while input.lines and not output.isStalled:
            # Several lines together, as many as the session takes so.
            window, count = input.window(self._window, most - handled)
            taken = 0
            if len(window) <= self._widest:
                taken = session.linesReceived(window)
            if not input.lines:
                # The connection was lost by it.
                break
            if taken == count:
                input.drop(len(window))
                self._window = min(2 * self._window, self._widest)
            else:
                for _ in range(taken):
                    input.take()
                self._handleLine(input.take())
                taken += 1
                # The next may be like it, and would be read twice.
                self._window = min(_NARROW, self._widest)
            handled += taken
            if handled == most or seconds() >= until:
                break
        if not input.lines:
            self._balance()
        self._settleShare()
        return handled

    def _handleLine(self, line: bytes) -> None:
        if len(line) > self._limits.maxLineLength:
            self._refuseTooLong(line)
        elif line and not line.isspace():
            self._session.lineReceived(line)

    def _settleShare(self) -> None:
        """
        From now on use the time of the session's principal.
        """
        principal = self._session.principal
        if principal is not self._principal:
            self._principal = principal
            id = None if principal is None else principal.id
            self.share = self.factory.scheduler.share(id)

    @property
    def isWaiting(self) -> bool:
        """
        Whether there are lines that could be handled.
        """
        return bool(self._input.lines) and not self._output.isStalled

    @property
    def isEnding(self) -> bool:
        """
        Whether no more input is taken.
        """
        return not self._state.takesInput

    def _refuseTooLong(self, line: bytes) -> None:
        most = self._limits.maxLineLength
        refusal = LineTooLong(f"a line has at most {most} bytes")
        self._session.refuseUnread(line, refusal)
        self._input.dropLines()
        self.finish()

    def _balance(self) -> None:
        """
        Read on only when what was received is handled and what was sent is read.
        """
        state, hasLines = self._state, bool(self._input.lines)
        if state.isPausable:
            self._read(not hasLines and not self._output.isStalled)
        if not hasLines and not state.takesInput and state.takesOutput:
            # It may have been the last thing to do.
            self.factory.willFlush(self)

    def _read(self, wanted: bool) -> None:
        if wanted == self._isReading:
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

    # Output: a bound on what is not read.

    def send(self, data: bytes) -> None:
        """
        Send this, at the latest in the next reactor turn.
        """
        if not self._state.takesOutput:
            return
        output = self._output
        if not output.chunks:
            self.factory.willFlush(self)
        output.chunks.append(data)
        if len(data) > WRITE:
            output.addedLong(data)
            self._timeReply()
        if output.isStalled and output.excess > self._limits.maxUnread:
            self._cutOffReader()

    def _timeReply(self) -> None:
        """
        If the client does not read, and has a long reply to read, cut it off unless it
        reads on in time: such replies have no other bound.
        """
        output, timeouts = self._output, self.factory.replyTimeouts
        timeouts.end(self)
        if output.isStalled and output.hasLongReply:
            timeouts.start(self)

    def replyTimedOut(self) -> None:
        """
        Nothing of a long reply was read for too long.
        """
        self._cutOffReader()

    def _cutOffReader(self) -> None:
        self.factory.log.warn(
            "{peer} does not read, its connection is cut off",
            peer=self._session.peer,
        )
        self.factory.limited("max-unread")
        self.cutOff()

    def flush(self) -> None:
        """
        Write what is to be sent, unless the client does not read; say goodbye if
        nothing more will have to be sent.
        """
        output = self._output
        if output.isStalled or not self._state.takesOutput:
            return
        output.flush()
        if output.chunks or self._input.lines or self._state.takesInput:
            return
        if self._session.isIdle:
            self._sayGoodbye()

    def pauseProducing(self) -> None:
        """
        What was written does not leave: the client does not read.
        """
        self._output.isStalled = self._session.isStalled = True
        self._timeReply()
        self._balance()

    def resumeProducing(self) -> None:
        """
        All that was written has left.
        """
        if not self._output.isStalled:
            # A pull producer is also asked as soon as it is registered.
            return
        self._output.isStalled = self._session.isStalled = False
        self._timeReply()
        self.flush()
        self._balance()
        self.factory.hasLines(self)
        self._session.readOn()

    def stopProducing(self) -> None:
        """
        The connection is lost, which L{connectionLost} will report.
        """

    # The end: each of these is an event in the table of L{State}.

    def finish(self) -> None:
        """
        Take no more input, and say goodbye once every request that came in has
        its reply.
        """
        if self._state.takesInput:
            self._endInput(State.FINISHING)

    def readConnectionLost(self) -> None:
        """
        The client has closed its side.
        """
        if self._state.takesInput:
            self._endInput(State.HALF_CLOSED)
        elif self._state is State.FINISHING:
            self._state = State.HALF_CLOSED
        elif self._state is State.GOODBYE:
            self._state = State.CLOSING
            self.transport.loseConnection()

    def _endInput(self, state: State) -> None:
        self._state = state
        self._input.dropPartial()
        self.factory.inputEnded(self)
        self.factory.willFlush(self)

    def _sayGoodbye(self) -> None:
        transport = self.transport
        isClientOpen = self._state is State.FINISHING
        # A TLS transport passes for half-closeable, but would close the
        # connection below it with its own last bytes unsent.
        canHalfClose = IHalfCloseableDescriptor.providedBy(
            transport
        ) and not ISSLTransport.providedBy(transport)
        self._state = State.GOODBYE if isClientOpen and canHalfClose else State.CLOSING
        transport.unregisterProducer()
        # Events are not sent any more, so nothing has to be read for them.
        self._session.ended()
        if isClientOpen:
            self._read(True)
        if self._state is State.GOODBYE:
            transport.loseWriteConnection()
        else:
            transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """
        What was sent is written, and this side is closed.
        """

    def cutOff(self) -> None:
        """
        End the connection at once, whatever is still unread.
        """
        if self._state is State.LOST:
            return
        self._state = State.CUT_OFF
        self._output.clear()
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Let go of everything.
        """
        self._state = State.LOST
        # It may be some time until the rest of it is found to be garbage.
        self._input.dropPartial()
        self._input.dropLines()
        self._output.clear()
        self.factory.finishTimeouts.end(self)
        self.factory.replyTimeouts.end(self)
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
        # A proxy's header may have all of its zeros written out.
        host = str(IPv6Address(host))
    return f"[{host}]:{port}"
