"""
Connections between the processes of a simulated world.

What is written arrives in order, after a moment. A connection may be cut at any byte,
or go silent, so that neither side learns that nothing arrives any more. When a process
is killed, what it has written still arrives, and then its connections end.
"""

from collections.abc import Callable
from random import Random
from typing import Any

from attrs import Factory, define
from twisted.internet.base import DelayedCall
from twisted.internet.defer import Deferred
from twisted.internet.error import (
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
)
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.piped import Pipe
from tests.simulation.world import Reactor, World


class MovingReactor(Reactor):
    """
    A clock whose calls may be moved.
    """

    def _moved(self, call: DelayedCall) -> None:
        self._world.at(call.getTime(), self._call, call)

    def _call(self, call: DelayedCall) -> None:
        if call.called or call.cancelled:
            return
        if call.getTime() > self._world.now:
            # It was moved on.
            self._world.at(call.getTime(), self._call, call)
        else:
            super()._call(call)


@define(eq=False)
class Process:
    """
    Something that can be killed.

    @ivar reactor: Its clock, which ends with it.
    @ivar ends: Its ends of connections.
    """

    world: World
    name: str
    reactor: Reactor
    isAlive: bool = True
    ends: "dict[End, None]" = Factory(dict)

    def kill(self) -> None:
        """
        End it without a word.
        """
        self.isAlive = False
        self.reactor.end()
        for end in list(self.ends):
            end.vanish()
        self.world.note(self.name, "is killed")


class End(Pipe):
    """
    One end of a connection.

    @ivar tap: Called with each line that is written, before it is sent.
    @ivar heard: Called with the bytes that arrive, before the protocol has them, and
        with L{None} after that.
    @ivar isSilent: Whether nothing is carried any more.
    @ivar isMute: Whether no events are written any more.
    @ivar disconnecting: Whether it is closed.
    """

    protocol: Any
    other: "End"

    def __init__(
        self, process: Process, random: Random, tap: Callable[[bytes], None] | None
    ) -> None:
        self.process = process
        self._world = process.world
        self._random = random
        self.tap = tap
        self.heard: Callable[[bytes | None], None] | None = None
        self.disconnecting = self._isLost = self.isSilent = False
        self.isMute = False
        self._last = 0.0
        self._cutAt: int | None = None
        self._written = b""
        process.ends[self] = None

    def _send(self, function: Callable[..., object], *args: Any) -> None:
        self._last = max(
            self._last, self._world.now + self._random.choice((0.0001, 0.0005, 0.002))
        )
        self._world.at(self._last, function, *args)

    def write(self, data: bytes) -> None:
        """
        See L{ITransport.write}.
        """
        if self.disconnecting or self._isLost or not self.process.isAlive:
            return
        if self.tap is not None:
            *lines, self._written = (self._written + bytes(data)).split(b"\r\n")
            for line in lines:
                self.tap(line)
        if not self.process.isAlive:
            return
        if self.isMute:
            lines = bytes(data).splitlines(keepends=True)
            data = b"".join(line for line in lines if b'"trade:event"' not in line)
        if self._cutAt is not None:
            self._send(self.other.arrives, bytes(data)[: self._cutAt])
            self.lose()
            return
        self._send(self.other.arrives, bytes(data))

    def arrives(self, data: bytes) -> None:
        """
        Bytes of the other end.
        """
        if self._isLost or not self.process.isAlive:
            return
        if self.isSilent or self.other.isSilent or not data:
            return
        if self.heard is not None:
            self.heard(data)
        if self.process.isAlive:
            self.protocol.dataReceived(data)
        if self.heard is not None and self.process.isAlive:
            self.heard(None)

    def cutSoon(self, size: int) -> None:
        """
        Lose the connection when something is written next, after so many bytes.
        """
        self._cutAt = size

    def lose(self) -> None:
        """
        The network loses the connection.
        """
        self.disconnecting = self.other.disconnecting = True
        for end in (self, self.other):
            self._send(end.ends, Failure(ConnectionLost()))

    def loseConnection(self) -> None:
        """
        See L{ITransport.loseConnection}.
        """
        if self.disconnecting:
            return
        self.disconnecting = True
        why = Failure(ConnectionDone())
        if not self.isSilent and not self.other.isSilent:
            self._send(self.other.ends, why)
        self._world.later(0, self.ends, why)

    def vanish(self) -> None:
        """
        The process is gone.
        """
        self.process.ends.pop(self, None)
        self._isLost = self.disconnecting = True
        self._send(self.other.ends, Failure(ConnectionLost()))

    def ends(self, why: Failure) -> None:
        """
        The connection has ended.
        """
        self.process.ends.pop(self, None)
        self.disconnecting = True
        if not self._isLost and self.process.isAlive:
            self._isLost = True
            self.protocol.connectionLost(why)


@implementer(IStreamClientEndpoint)
@define(eq=False)
class Wires:
    """
    The way from one process to another.

    @ivar server: Returns the process and its factory, or L{None} if it does not listen.
    @ivar made: Called with both ends of a new connection.
    """

    client: Process
    random: Random
    server: Callable[[], tuple[Process, Any] | None]
    made: Callable[[End, End], None] = lambda ours, theirs: None

    def connect(self, factory: Any) -> "Deferred[Any]":
        """
        See L{IStreamClientEndpoint.connect}.
        """
        done: Deferred[Any] = Deferred()
        self.client.world.later(0.001, self._connect, factory, done)
        return done

    def _connect(self, factory: Any, done: "Deferred[Any]") -> None:
        if not self.client.isAlive:
            return
        found = self.server()
        if found is None:
            done.errback(ConnectionRefusedError())
            return
        process, server = found
        ours = End(self.client, self.random, None)
        theirs = End(process, self.random, None)
        ours.other, theirs.other = theirs, ours
        ours.protocol = factory.buildProtocol(ours.getPeer())
        theirs.protocol = server.buildProtocol(ours.getPeer())
        self.made(ours, theirs)
        theirs.protocol.makeConnection(theirs)
        ours.protocol.makeConnection(ours)
        done.callback(ours.protocol)
