"""
Connections under load: their requests, when each is due, and whether the
replies are right. C{load.rs} beside this file is the same loop for machines
with a C{rustc}.

Every reply is verified: it is a 200, its C{extID} is outstanding on this
connection and is answered once, and login, operation, state, amount and
comment are those of its request. On a connection that has subscribed to
C{trade:event} the event with its order must have come before. Orders are kept,
so that the caller can check that each was given once.

The loop works on chunks, not on lines. Requests are slices of a prepared ring,
and a chunk is verified in a few calls that loop in C.
"""

import select
import socket
import time
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any

from attrs import Factory, define, field

from benchmarks import traffic

# Seconds without any data after which a server is given up.
PATIENCE = 30.0
_chunk = memoryview(bytearray(1 << 18))


class Unexpected(Exception):
    """
    The server sent something wrong, or nothing.
    """


@define(eq=False)
class Ring:
    """
    The requests of one connection, sent again and again in the same order.

    @ivar extIDs: Those of the requests, stored twice in a row, so that any run
        of them is one slice.
    @ivar outcomes: What the reply to each C{extID} must contain of the trade.
    """

    extIDs: list[bytes]
    outcomes: dict[bytes, bytes]
    _lines: memoryview
    _lineLength: int
    _length: int
    _next: int = 0

    @classmethod
    def make(cls, serials: range, lines: list[bytes], outcomes: list[bytes]) -> "Ring":
        """
        @param lines: The request of each serial number.
        @param outcomes: What its reply must contain.
        """
        extIDs = [b"%d" % serial for serial in serials]
        return cls(
            extIDs * 2,
            dict(zip(extIDs, outcomes, strict=True)),
            memoryview(b"".join(lines * 2)),
            len(lines[0]),
            len(lines),
        )

    def take(self, count: int) -> tuple[list[bytes], memoryview]:
        """
        The next C{count} requests: their extIDs and their lines.
        """
        start, end = self._next, self._next + count
        self._next = end % self._length
        size = self._lineLength
        return self.extIDs[start:end], self._lines[start * size : end * size]


def verified(
    lines: bytes, outcomes: dict[bytes, bytes]
) -> tuple[Sequence[bytes], Sequence[bytes], list[bytes]]:
    """
    Verify that each of these complete lines is an event or a good reply; other
    lines of an HTTP response are skipped.

    @return: The extIDs and the orders of the replies, and the orders of the
        events.
    @raise Unexpected: A line is something else, or a reply does not fit its
        C{extID}.
    """
    replies = traffic.REPLY.findall(lines)
    others = lines.count(b"\n") - len(replies)
    events = traffic.EVENT.findall(lines) if others else []
    if others != len(events):
        others -= len(traffic.HTTP.findall(lines))
    if others != len(events):
        raise Unexpected(_firstOdd(lines))
    if not replies:
        return (), (), events
    extIDs, orders, found = zip(*replies, strict=True)
    if found != tuple(map(outcomes.get, extIDs)):
        raise Unexpected(f"a reply is not that of its request, in {lines!r}")
    return extIDs, orders, events


def _firstOdd(lines: bytes) -> str:
    known = (traffic.REPLY, traffic.EVENT, traffic.HTTP)
    for line in lines.split(b"\n")[:-1]:
        if not any(pattern.match(line) for pattern in known):
            return line.decode(errors="replace")
    return "lines that are no messages"


@define(eq=False)
class Connection:
    """
    One connection and its outstanding requests.

    @ivar announced: The orders of the events that came, if this connection has
        subscribed to them.
    @ivar outstanding: When each C{extID} was sent, or was due.
    """

    socket: socket.socket
    ring: Ring
    announced: set[bytes] | None = None
    outstanding: dict[bytes, float] = Factory(dict)
    _partial: bytes = b""
    _unsent: bytes = b""

    def ask(self, times: Sequence[float]) -> bool:
        """
        Send the next requests, one for each of the times at which they are
        due.

        @return: Whether everything was sent; if not, L{push} has to follow.
        """
        expected = len(self.outstanding) + len(times)
        extIDs, lines = self.ring.take(len(times))
        self.outstanding.update(zip(extIDs, times, strict=True))
        if len(self.outstanding) != expected:
            raise Unexpected("a request was overtaken by all the others of its ring")
        if self._unsent:
            self._unsent += lines
            return False
        sent = self._send(lines)
        if sent == len(lines):
            return True
        self._unsent = bytes(lines[sent:])
        return False

    def push(self) -> bool:
        """
        Send the rest of the requests.

        @return: Whether everything is sent now.
        """
        self._unsent = self._unsent[self._send(self._unsent) :]
        return not self._unsent

    def _send(self, data: bytes | memoryview) -> int:
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0

    def receive(self) -> bytes:
        """
        Read what has come, as complete lines.
        """
        # recv() would allocate and shrink a buffer of the full size each time.
        count = self.socket.recv_into(_chunk)
        if not count:
            raise Unexpected("the server closed a connection")
        data = self._partial + _chunk[:count]
        end = data.rfind(b"\n") + 1
        self._partial = data[end:]
        return data[:end]

    def announce(self, lines: bytes) -> None:
        """
        Check that the event of each reply came before it.
        """
        if self.announced is None:
            return
        for line in lines.splitlines(keepends=True):
            event = traffic.EVENT.match(line)
            reply = traffic.REPLY.match(line)
            if event:
                self.announced.add(event[1])
            elif reply and reply[2] not in self.announced:
                raise Unexpected(f"a reply came before its event: {line!r}")


@define(eq=False)
class Load:
    """
    All connections, and what was measured on them.

    @ivar orders: Those of all replies, in the order of their arrival and as
        they were written.
    @ivar latencies: Seconds from when a request was due to having read its
        reply.
    @ivar events: The orders of the trade events that came.
    @ivar late: Seconds from when a request of an open loop was due to when it
        was sent.
    """

    _connections: dict[int, Connection]
    _now: Callable[[], float] = time.perf_counter
    orders: list[bytes] = Factory(list)
    latencies: list[float] = Factory(list)
    events: list[bytes] = Factory(list)
    late: list[float] = Factory(list)
    _poll: Any = field(factory=lambda: select.epoll())

    def __attrs_post_init__(self) -> None:
        for descriptor in self._connections:
            self._poll.register(descriptor, select.EPOLLIN)

    def start(self, outstanding: int) -> None:
        """
        Send the first requests of each connection of a closed loop.
        """
        for descriptor in self._connections:
            self._ask(descriptor, [self._now()] * outstanding)

    def exchange(self, seconds: float) -> float:
        """
        Send a request for each reply, for this many seconds.

        @return: How long it really took.
        """
        start = self._now()
        while (elapsed := self._now() - start) < seconds:
            self._turn(PATIENCE, asking=True)
        return elapsed

    def pace(self, seconds: float, rate: float) -> float:
        """
        Send requests at a fixed rate, for this many seconds.

        @return: How long it really took.
        """
        start = self._now()
        asked, descriptors = 0, list(self._connections)
        while (elapsed := self._now() - start) < seconds:
            for serial in range(asked, int(elapsed * rate) + 1):
                due = start + serial / rate
                self._ask(descriptors[serial % len(descriptors)], [due])
                self.late.append(self._now() - due)
                asked += 1
            self._turn(0, asking=False)
        return elapsed

    def drain(self, eventsOfEach: int) -> None:
        """
        Receive the outstanding replies and events.

        @param eventsOfEach: How many sessions receive each event.
        """
        while any(each.outstanding for each in self._connections.values()):
            self._turn(PATIENCE, asking=False)
        while len(self.events) < eventsOfEach * len(self.orders):
            self._turn(PATIENCE, asking=False)

    def _turn(self, patience: float, asking: bool) -> None:
        ready = self._poll.poll(patience)
        if not ready and patience:
            raise Unexpected(f"the server said nothing for {PATIENCE:.0f} s")
        for descriptor, mask in ready:
            connection = self._connections[descriptor]
            if mask & select.EPOLLOUT and connection.push():
                self._poll.modify(descriptor, select.EPOLLIN)
            if mask & ~select.EPOLLOUT:
                count = self._read(connection)
                if asking and count:
                    now = self._now()
                    self._ask(descriptor, list(repeat(now, count)))

    def _read(self, connection: Connection) -> int:
        """
        @return: The number of replies that have come.
        """
        outstanding = connection.outstanding
        lines = connection.receive()
        now = self._now()
        extIDs, orders, events = verified(lines, connection.ring.outcomes)
        connection.announce(lines)
        try:
            self.latencies += [now - then for then in map(outstanding.pop, extIDs)]
        except KeyError as e:
            raise Unexpected(f"a second reply under extID {e}") from e
        self.orders += orders
        self.events += events
        return len(extIDs)

    def _ask(self, descriptor: int, times: Sequence[float]) -> None:
        if not self._connections[descriptor].ask(times):
            self._poll.modify(descriptor, select.EPOLLIN | select.EPOLLOUT)
