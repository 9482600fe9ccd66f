"""
The network: bytes that arrive late, in other pieces, or not at all.

A L{Link} is one TCP connection. At its server's end is a L{Transport
<tests.simulation.transport.Transport>}, mostly one that can send at once; at its
client's end is whoever implements L{Peer}. Each way has its order and its delays.
What the client does not read fills the window, then the transport's buffer, and
then the transport tells its producer to pause.
"""

from collections import deque
from collections.abc import Iterable
from itertools import pairwise
from random import Random
from typing import Protocol

from attrs import define
from twisted.internet.error import ConnectionLost

from tests.simulation.history import Moment, Talk
from tests.simulation.transport import Socket, Transport
from tests.simulation.world import World

_END = None


@define
class Conditions:
    """
    What a network is like.

    @ivar latency: The greatest usual delay, in seconds.
    @ivar grain: Arrivals are at multiples of this many seconds, so that some
        share a reactor turn; 0 for any time.
    @ivar window: Bytes that are under way to a client or unread at its end.
    @ivar buffer: Bytes in the server's transport from which on its producer
        is paused.
    """

    latency: float
    grain: float
    window: int
    buffer: int


class Peer(Protocol):
    """
    The client's end of a connection.
    """

    def received(self, data: bytes, written: Moment) -> None:
        """
        Receive what the server wrote at that moment.
        """

    def ended(self, link: "Link") -> None:
        """
        The server has ended its output.
        """

    def lost(self, link: "Link") -> None:
        """
        The connection is gone.
        """


class Link:
    """
    One connection.
    """

    def __init__(
        self, world: World, random: Random, conditions: Conditions, talk: Talk
    ) -> None:
        self._world = world
        self._random = random
        self._conditions = conditions
        self.talk = talk
        self.peer: Peer | None = None
        self.isOpen = True
        self.isBroken = False
        self._isStalled = False
        # When the last bytes of each direction arrive; nothing may overtake
        # them.
        self._lastIn = self._lastOut = world.now
        self._inbox: deque[bytes | None] = deque()
        self._outbox: deque[tuple[bytes | None, Moment]] = deque()
        self._delivered = 0
        self._unread = 0
        self._awaited = 0
        kind = Socket if random.random() < 0.7 else Transport
        self.transport: Transport = kind(world, self)

    def _arrival(self, last: float) -> float:
        """
        When bytes arrive that are sent now, after those that arrive at
        C{last}.
        """
        random, grain = self._random, self._conditions.grain
        delay = random.random() * self._conditions.latency
        if self._world.mayHappen("delay") and random.random() < 0.01:
            delay += random.random() * 2.0
            self._world.happens("delay")
        time = max(self._world.now + delay, last)
        return time if not grain else -(-time // grain) * grain

    # From the client to the server.

    def send(self, data: bytes) -> None:
        """
        Send bytes to the server.
        """
        for piece in self._pieces(data):
            self._lastIn = self._arrival(self._lastIn)
            self._world.at(self._lastIn, self._arrive, piece)

    def _pieces(self, data: bytes) -> Iterable[bytes]:
        random = self._random
        if not self._world.mayHappen("cut") or random.random() < 0.7:
            return [data]
        self._world.happens("cut")
        cuts = sorted(random.randrange(len(data) + 1) for _ in range(3))
        places = [0, *cuts, len(data)]
        pieces = (data[a:b] for a, b in pairwise(places))
        return [piece for piece in pieces if piece]

    def end(self) -> None:
        """
        Tell the server that nothing more will be sent.
        """
        self._lastIn = self._arrival(self._lastIn)
        self._world.at(self._lastIn, self._arrive, _END)

    def _arrive(self, piece: bytes | None) -> None:
        if not self.isOpen or self.isBroken:
            return
        self._inbox.append(piece)
        self.deliver()

    def deliver(self) -> None:
        """
        Give the protocol what has arrived, while it reads.
        """
        inbox, transport = self._inbox, self.transport
        while inbox and transport.isReading and self.isOpen:
            piece = inbox.popleft()
            if piece is None:
                transport.inputEnded()
                continue
            self._delivered += len(piece)
            self._countDelivered()
            self._world.note(self.talk.name, "gets", piece)
            transport.protocol.dataReceived(piece)

    def _countDelivered(self) -> None:
        attempts, world = self.talk.attempts, self._world
        while self._awaited < len(attempts):
            attempt = attempts[self._awaited]
            if attempt.end > self._delivered:
                start = attempts[self._awaited - 1].end if self._awaited else 0
                if attempt.begun is None and start < self._delivered:
                    attempt.begun = world.now
                return
            attempt.delivered = world.now, world.turn
            self._awaited += 1

    @property
    def hasUnread(self) -> bool:
        """
        Whether the server has not read everything.
        """
        return bool(self._inbox)

    # From the server to the client.

    @property
    def room(self) -> int:
        """
        How many bytes may be sent to the client.
        """
        return self._conditions.window - self._unread

    def taken(self, size: int) -> int:
        """
        How many of so many bytes the system accepts at once.
        """
        size = min(size, self.room)
        if self._world.mayHappen("short-write") and self._random.random() < 0.05:
            self._world.happens("short-write")
            return self._random.randrange(size + 1)
        return size

    @property
    def bufferSize(self) -> int:
        """
        The number of waiting bytes at which the producer is paused.
        """
        return self._conditions.buffer

    def carry(self, data: bytes | None, written: Moment) -> None:
        """
        Carry bytes from the server, or with L{None} its end.
        """
        self._unread += len(data or b"")
        self._lastOut = self._arrival(self._lastOut)
        self._world.at(self._lastOut, self._come, data, written)

    def _come(self, data: bytes | None, written: Moment) -> None:
        if self.peer is None:
            if data and self.isOpen:
                # The client has gone: its system answers with a reset.
                self.break_()
            return
        self._outbox.append((data, written))
        if not self._isStalled:
            self._read()

    def _read(self) -> None:
        outbox = self._outbox
        while outbox and self.peer is not None and not self._isStalled:
            data, written = outbox.popleft()
            if data is None:
                self._world.note(self.talk.name, "hears the end")
                self.peer.ended(self)
                continue
            self._unread -= len(data)
            self._world.note(self.talk.name, "reads", data)
            self.peer.received(data, written)
        if self.isOpen:
            self.transport.pump()

    def stall(self) -> None:
        """
        Stop the client's reading.
        """
        self._isStalled = True

    def resume(self) -> None:
        """
        Resume the client's reading.
        """
        self._isStalled = False
        self._read()

    # The end.

    def leave(self) -> None:
        """
        Close the client's end; it receives nothing more.
        """
        self.peer = None
        if self._outbox:
            # Closing a socket with unread input resets the connection.
            self.break_()
        else:
            self.end()

    def break_(self) -> None:
        """
        Lose the connection, with all bytes on their way; each end learns of it
        later.
        """
        if not self.isOpen or self.isBroken:
            return
        self.isBroken = True
        self._loseUnread()
        peer, self.peer = self.peer, None
        if peer is not None:
            self._world.later(self._random.random(), peer.lost, self)
        self._world.later(
            self._random.random(), self.transport.close, ConnectionLost(), True
        )

    def closed(self, isAborted: bool) -> None:
        """
        The server's end is closed.

        @param isAborted: Whether what is under way to the client is lost.
        """
        self.isOpen = False
        self.talk.closed = self._world.now, self._world.turn
        self._inbox.clear()
        if not isAborted:
            self.carry(_END, (self._world.now, self._world.turn))
            return
        self._loseUnread()
        peer, self.peer = self.peer, None
        if peer is not None:
            self._world.later(self._random.random() * 0.1, peer.lost, self)

    def _loseUnread(self) -> None:
        """
        Lose what the client did not read, and all that comes after it.
        """
        unread = self._outbox[0][1][0] if self._outbox else self._world.now
        self.talk.lostAt = min(self.talk.lostAt, unread)
        self._outbox.clear()

    def vanish(self) -> None:
        """
        The server's process is gone; bytes that it has sent may still arrive.
        """
        if self.isOpen:
            self.talk.lostAt = min(self.talk.lostAt, self._world.now)
            self.transport.loseUnsent()
            self.transport.isConnected = False
            self.closed(self._random.random() < 0.5)
