"""
Connections in memory between two programs of one clock.
"""

from typing import Any

from attrs import define
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IConsumer,
    IReactorTime,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure
from zope.interface import implementer


@implementer(ITransport, IConsumer)
class Pipe:
    """
    What ends of connections in memory have in common.
    """

    def write(self, data: bytes) -> None:
        """
        See L{ITransport.write}.
        """
        raise NotImplementedError

    def loseConnection(self) -> None:
        """
        See L{ITransport.loseConnection}.
        """
        raise NotImplementedError

    def writeSequence(self, data: Any) -> None:
        """
        See L{ITransport.writeSequence}.
        """
        self.write(b"".join(data))

    def abortConnection(self) -> None:
        """
        See L{twisted.internet.interfaces.ITCPTransport.abortConnection}.
        """
        self.loseConnection()

    def getPeer(self) -> IPv4Address:
        """
        See L{ITransport.getPeer}.
        """
        return IPv4Address("TCP", "127.0.0.1", 8080)

    getHost = getPeer

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """
        See L{IConsumer.registerProducer}. Nothing is ever left unread.
        """

    def unregisterProducer(self) -> None:
        """
        See L{IConsumer.unregisterProducer}.
        """

    def pauseProducing(self) -> None:
        """
        Nothing is sent that is not asked for.
        """

    resumeProducing = stopProducing = pauseProducing


class End(Pipe):
    """
    One end of a connection. What is written arrives in the next turn of the clock,
    in order; the other end learns of a close behind it.

    @ivar disconnecting: Whether it is closed.
    """

    protocol: Any
    other: "End"

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self.disconnecting = self._isLost = False

    def write(self, data: bytes) -> None:
        """
        See L{ITransport.write}.
        """
        if not self.disconnecting:
            self._clock.callLater(0, self.other.arrives, bytes(data))

    def arrives(self, data: bytes) -> None:
        """
        Bytes of the other end.
        """
        if not self._isLost:
            self.protocol.dataReceived(data)

    def loseConnection(self) -> None:
        """
        See L{ITransport.loseConnection}.
        """
        if not self.disconnecting:
            self.disconnecting = True
            self._clock.callLater(0, self.other.ends, Failure(ConnectionDone()))
            self._clock.callLater(0, self.ends, Failure(ConnectionDone()))

    def ends(self, why: Failure) -> None:
        """
        The connection has ended.
        """
        self.disconnecting = True
        if not self._isLost:
            self._isLost = True
            self.protocol.connectionLost(why)


@implementer(IStreamClientEndpoint)
@define(eq=False)
class Piped:
    """
    Where a server in memory listens.
    """

    clock: IReactorTime
    server: Factory

    def connect(self, factory: Any) -> "Deferred[Protocol]":
        """
        See L{IStreamClientEndpoint.connect}.
        """
        ours, theirs = End(self.clock), End(self.clock)
        ours.other, theirs.other = theirs, ours
        address = ours.getPeer()
        ours.protocol = factory.buildProtocol(address)
        theirs.protocol = self.server.buildProtocol(address)
        theirs.protocol.makeConnection(theirs)
        ours.protocol.makeConnection(ours)
        return succeed(ours.protocol)
