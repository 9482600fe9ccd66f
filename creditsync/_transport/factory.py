"""
All connections of one server: accepting them, their reactor turns, their end.

Connections are served in reactor turns, with one C{callLater} for all of them. In
each turn their lines are handled first, in the order of
L{creditsync._transport.fairness}, and then what is to be sent is written, in one
write for each connection.

Connections are accepted before their lines can be answered: until
L{LineFactory.serve} is called, lines wait, and a client that sends more than it may
have waiting is not read on.
"""

from collections.abc import Collection
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger

from creditsync._conversation.sessions import Sessions
from creditsync._timeouts import EqualTimeouts
from creditsync._transport.fairness import FairScheduler
from creditsync._transport.protocol import LineProtocol, addressText
from creditsync.limits import Limits

# Connections that a port accepts in one reactor turn when more are waiting. Left
# alone it takes more in each turn, until everybody else waits for them.
_ACCEPTS: Final = 10


class _Unwelcome(Protocol):
    """
    A connection too many.
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
        self.replyTimeouts: EqualTimeouts[LineProtocol] = EqualTimeouts(
            clock, limits.lineTimeout, LineProtocol.replyTimedOut
        )
        # The TCP ports that accept its connections.
        self.ports: list[Any] = []
        self._isServing = False
        self._connections: dict[LineProtocol, None] = {}
        self.scheduler = FairScheduler(clock)
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
            # Not None, which a TLS factory around this one can't handle.
            return _Unwelcome()
        connection = LineProtocol(self)
        connection.session.peer = addressText(addr)
        return connection

    @property
    def connections(self) -> Collection[LineProtocol]:
        """
        Those that are open.
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
        Add a connection.
        """
        self._connections[connection] = None

    def closed(self, connection: LineProtocol) -> None:
        """
        Remove a connection.
        """
        self._connections.pop(connection, None)
        if self._connections:
            return
        self.scheduler.clear()
        if self._nextTurn is not None:
            self._nextTurn.cancel()
            self._nextTurn = None
        # There may be no turn for a long time: forget those that had something
        # to send, and count the replies.
        self.flush()
        if self._allClosed is not None:
            allClosed, self._allClosed = self._allClosed, None
            allClosed.callback(None)

    def serve(self) -> None:
        """
        Handle lines from now on, and first those that wait. Calling it again does
        nothing.
        """
        if self._isServing:
            return
        self._isServing = True
        # A copy, as what a line leads to may end its connection.
        for connection in list(self._connections):
            if connection.isEnding:
                self.finishTimeouts.start(connection)
            if connection.isWaiting:
                self.hasLines(connection)

    def hasLines(self, connection: LineProtocol) -> None:
        """
        Handle lines of a connection, now or when its turn comes.
        """
        if not self._isServing:
            return
        self.scheduler.serve(connection)
        self._turnLater()

    def inputEnded(self, connection: LineProtocol) -> None:
        """
        Cut a connection off if it does not end in time, which begins when requests are
        answered.
        """
        if self._isServing:
            self.finishTimeouts.start(connection)

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
        Begin a reactor turn: handle lines, then write what is to be sent.
        """
        self._nextTurn = None
        for port in self.ports:
            port.numberAccepts = _ACCEPTS
        self.scheduler.next()
        if self.scheduler:
            self._turnLater()
        self.flush()

    def flush(self) -> None:
        """
        Write what was sent in this turn, in one write for each connection.
        """
        connections, self._unflushed = self._unflushed, []
        for connection in connections:
            connection.flush()
        if self.sessions.counters is not None:
            self.sessions.counters.settle()

    def finish(self) -> "Deferred[None]":
        """
        End every connection in order.

        @return: Fires when the last one is closed.
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
