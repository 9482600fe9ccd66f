"""
The server's end of a connection: what Twisted's transports do.
"""

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IHalfCloseableDescriptor, ITCPTransport
from twisted.internet.main import CONNECTION_LOST
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.simulation.history import Moment
from tests.simulation.world import World

if TYPE_CHECKING:
    from tests.simulation.network import Link


@implementer(ITCPTransport, IHalfCloseableDescriptor)
class Transport:
    """
    A transport that only buffers what is written, like those above a socket.

    @ivar protocol: The protocol that it serves.
    """

    protocol: Any
    disconnecting = False

    def __init__(self, world: World, link: "Link") -> None:
        self._world = world
        self._link = link
        self.isConnected = True
        self.isReading = True
        self._buffer = bytearray()
        self._writes: deque[tuple[int, Moment]] = deque()
        self._written = self._sent = 0
        self._producer: Any = None
        self._isStreaming = True
        self._isPaused = False
        self._isPumping = False
        self._isAborting = False
        self._endsOutput = False
        self._outputEnded = False

    def start(self, protocol: Any) -> None:
        """
        Become this protocol's transport.
        """
        self.protocol = protocol
        protocol.makeConnection(self)

    def getPeer(self) -> IPv4Address:
        """
        See L{ITCPTransport.getPeer}.
        """
        return IPv4Address("TCP", "192.0.2.1", 1024)

    def getHost(self) -> IPv4Address:
        """
        See L{ITCPTransport.getHost}.
        """
        return IPv4Address("TCP", "192.0.2.2", 8080)

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """
        See L{ITCPTransport.setTcpKeepAlive}.
        """

    def setTcpNoDelay(self, enabled: bool) -> None:
        """
        See L{ITCPTransport.setTcpNoDelay}.
        """

    def getTcpKeepAlive(self) -> bool:
        """
        See L{ITCPTransport.getTcpKeepAlive}.
        """
        return True

    def getTcpNoDelay(self) -> bool:
        """
        See L{ITCPTransport.getTcpNoDelay}.
        """
        return True

    # Reading.

    def pauseProducing(self) -> None:
        """
        Stop reading from the client.
        """
        self.isReading = False

    def resumeProducing(self) -> None:
        """
        Resume reading in the next turn.
        """
        if self.isConnected and not self.disconnecting:
            self.isReading = True
            self._world.later(0, self._link.deliver)

    def inputEnded(self) -> None:
        """
        The client will send nothing more.
        """
        self.isReading = False
        self.protocol.readConnectionLost()

    # Writing.

    def write(self, data: bytes) -> None:
        """
        See L{ITCPTransport.write}.
        """
        if not self.isConnected or self._outputEnded or not data:
            return
        self._buffer += data
        self._written += len(data)
        self._writes.append((self._written, (self._world.now, self._world.turn)))
        producer = self._producer
        if producer is not None and not self._isStreaming:
            self._pause()
        elif producer is not None and len(self._buffer) > self._link.bufferSize:
            self._pause()
            producer.pauseProducing()
        self._pumpLater()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """
        See L{ITCPTransport.writeSequence}.
        """
        self.write(b"".join(data))

    def _pause(self) -> None:
        if not self._isPaused:
            self._isPaused = True
            self._link.talk.stalls.append([self._world.now, float("inf")])

    def _pumpLater(self) -> None:
        if not self._isPumping:
            self._isPumping = True
            self._world.later(0, self.pump)

    def pump(self) -> None:
        """
        Send as much as the window allows.
        """
        self._isPumping = False
        if not self.isConnected:
            return
        while self._buffer and self._link.room > 0:
            end, written = self._writes[0]
            size = min(end - self._sent, self._link.room)
            data = bytes(self._buffer[:size])
            del self._buffer[:size]
            self._sent += size
            if self._sent == end:
                self._writes.popleft()
            self._link.carry(data, written)
        if self._buffer:
            return
        if self._isPaused:
            self._isPaused = False
            self._link.talk.stalls[-1][1] = self._world.now
            if self._producer is not None:
                self._producer.resumeProducing()
                return
        if self.disconnecting:
            self.close(ConnectionDone(), self._link.hasUnread)
        elif self._endsOutput and not self._outputEnded:
            self._outputEnded = True
            self._link.carry(None, (self._world.now, self._world.turn))
            self.protocol.writeConnectionLost()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """
        See L{ITCPTransport.registerProducer}.
        """
        if not self.isConnected:
            producer.stopProducing()
            return
        self._producer, self._isStreaming = producer, streaming
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        """
        See L{ITCPTransport.unregisterProducer}.
        """
        self._producer = None
        # A protocol does so when it has nothing more to send.
        self._link.talk.goodbye = self._world.now, self._world.turn
        self._pumpLater()

    # The end.

    def loseConnection(self) -> None:
        """
        See L{ITCPTransport.loseConnection}.
        """
        if self.isConnected and not self.disconnecting:
            self.disconnecting = True
            self.isReading = False
            self._pumpLater()

    def abortConnection(self) -> None:
        """
        See L{ITCPTransport.abortConnection}.
        """
        if self.isConnected and not self._isAborting:
            self._isAborting = True
            self.isReading = False
            self._link.talk.abortedAt = self._world.now
            self._world.later(0, self.close, ConnectionAborted(), True)

    def loseWriteConnection(self) -> None:
        """
        See L{IHalfCloseableDescriptor.loseWriteConnection}.
        """
        self._endsOutput = True
        self._pumpLater()

    def readConnectionLost(self, reason: Failure) -> None:
        """
        See L{IHalfCloseableDescriptor.readConnectionLost}.
        """

    def writeConnectionLost(self, reason: Failure) -> None:
        """
        See L{IHalfCloseableDescriptor.writeConnectionLost}.
        """

    def close(self, reason: Exception, isAborted: bool) -> None:
        """
        Close, and tell the protocol so.
        """
        if not self.isConnected:
            return
        self.isConnected = False
        self.loseUnsent()
        if self._isPaused:
            self._link.talk.stalls[-1][1] = self._world.now
        self._world.note(self._link.talk.name, f"is closed: {type(reason).__name__}")
        self._link.closed(isAborted)
        self.protocol.connectionLost(Failure(reason))

    def loseUnsent(self) -> None:
        """
        Lose the bytes that did not fit on the way to the client.
        """
        if self._buffer:
            written, _ = self._writes[0][1]
            self._link.talk.lostAt = min(self._link.talk.lostAt, written)
            self._buffer.clear()


class Socket(Transport, FileDescriptor):
    """
    A transport that can send at once, like L{FileDescriptor}: only its type is
    taken from there, and none of its behaviour.
    """

    _tempDataLen = 0

    @property
    def dataBuffer(self) -> bytes:
        """
        The data that was written and not yet sent.
        """
        return bytes(self._buffer)

    def writeSomeData(self, data: bytes) -> int | BaseException:
        """
        See L{FileDescriptor.writeSomeData}.
        """
        assert not self._buffer, "what waits must not be overtaken"
        if self._link.isBroken:
            return CONNECTION_LOST
        size = self._link.taken(len(data))
        if size:
            self._link.carry(data[:size], (self._world.now, self._world.turn))
        return size
