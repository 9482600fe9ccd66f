"""
The load: closed-loop connections, in a process of their own.

Each connection keeps the same number of requests outstanding: for every reply
that is read, the next request is sent. Every reply is verified: it is a 200,
its C{extID} is outstanding on this connection and is answered once, and login,
operation, state, amount and comment are those of its request. Orders are kept,
for the caller to see that each was given once.

The loop works on chunks, not on lines. Requests are slices of a ring that was
made beforehand, and the verification of a chunk is a few calls that loop in C;
the cost of one reply is about that of its share in the system calls.
"""

import argparse
import gc
import json
import select
import socket
import time
from collections.abc import Sequence
from typing import Any

from attrs import Factory, define, field

from benchmarks import traffic
from benchmarks.figures import percentile

# Seconds after which a server that says nothing is given up.
PATIENCE = 10.0
_chunk = memoryview(bytearray(1 << 18))


class Unexpected(Exception):
    """
    The server said what it must not say, or nothing.
    """


@define(eq=False)
class Ring:
    """
    The requests of one connection, sent again and again in the same order.

    @ivar extIDs: Those of the requests, twice over, so that any run of them
        is one slice.
    @ivar outcomes: What the reply to each C{extID} must say of the trade.
    """

    extIDs: list[bytes]
    outcomes: dict[bytes, bytes]
    _lines: memoryview
    _lineLength: int
    _length: int
    _next: int = 0

    @classmethod
    def make(cls, first: int, length: int, token: bytes, canned: bool) -> "Ring":
        """
        Make the lines from C{first} on.

        @param canned: The server has one reply for all: that to
            L{traffic.FIRST}, under the request's C{extID}.
        """
        serials = range(first, first + length)
        lines = [traffic.request(serial, token) for serial in serials]
        extIDs = [b"%d" % serial for serial in serials]
        outcomes = [
            traffic.outcome(traffic.FIRST if canned else serial) for serial in serials
        ]
        return cls(
            extIDs * 2,
            dict(zip(extIDs, outcomes, strict=True)),
            memoryview(b"".join(lines * 2)),
            len(lines[0]),
            length,
        )

    def take(self, count: int) -> tuple[list[bytes], memoryview]:
        """
        The next so many requests: their extIDs and their lines.
        """
        start, end = self._next, self._next + count
        self._next = end % self._length
        size = self._lineLength
        return self.extIDs[start:end], self._lines[start * size : end * size]


def verified(
    lines: bytes, outcomes: dict[bytes, bytes]
) -> tuple[Sequence[bytes], Sequence[bytes], int]:
    """
    Read whole lines, and see that each is an event or a good reply.

    @return: The extIDs and the orders of the replies, and the number of events.
    @raise Unexpected: A line is something else, or a reply is not the right
        one for its C{extID}.
    """
    replies = traffic.REPLY.findall(lines)
    events = lines.count(b"\n") - len(replies)
    if events and events != lines.count(traffic.EVENT):
        raise Unexpected(_firstOdd(lines))
    if not replies:
        return (), (), events
    extIDs, orders, found = zip(*replies, strict=True)
    if found != tuple(map(outcomes.get, extIDs)):
        raise Unexpected(f"a reply is not that of its request, in {lines!r}")
    return extIDs, orders, events


def _firstOdd(lines: bytes) -> str:
    for line in lines.splitlines():
        if not traffic.REPLY.match(line + b"\r") and traffic.EVENT not in line:
            return line.decode(errors="replace")
    return "a line does not end in CR LF"


@define(eq=False)
class Connection:
    """
    One connection and what is outstanding on it.

    @ivar outstanding: When each C{extID} was sent.
    """

    socket: socket.socket
    ring: Ring
    outstanding: dict[bytes, float] = Factory(dict)
    _partial: bytes = b""
    _unsent: bytes = b""

    def ask(self, count: int) -> bool:
        """
        Send the next so many requests.

        @return: Whether all of it went out; if not, L{push} has to follow.
        """
        expected = len(self.outstanding) + count
        extIDs, lines = self.ring.take(count)
        self.outstanding.update(dict.fromkeys(extIDs, time.perf_counter()))
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
        Send what did not go out.

        @return: Whether all of it did now.
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
        Read what has come, as whole lines.
        """
        # recv() would make and shrink an object of the whole size each time.
        count = self.socket.recv_into(_chunk)
        if not count:
            raise Unexpected("the server closed a connection")
        data = self._partial + _chunk[:count]
        end = data.rfind(b"\n") + 1
        self._partial = data[end:]
        return data[:end]


@define(eq=False)
class Load:
    """
    All the connections, and what was seen on them.

    @ivar orders: Of all replies, in the order of their arrival and as they
        were written.
    @ivar latencies: Seconds from sending a request to having read its reply.
    @ivar events: The number of trade events received.
    """

    _connections: dict[int, Connection]
    orders: list[bytes] = Factory(list)
    latencies: list[float] = Factory(list)
    events: int = 0
    _poll: Any = field(factory=lambda: select.epoll())

    def start(self, outstanding: int) -> None:
        """
        Send the first requests of each connection.
        """
        for descriptor, connection in self._connections.items():
            self._poll.register(descriptor, select.EPOLLIN)
            self._ask(descriptor, connection, outstanding)

    def exchange(self, seconds: float) -> float:
        """
        Send a request for each reply, for so long.

        @return: How long it really was.
        """
        start = time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            self._turn(asking=True)
        return elapsed

    def drain(self) -> None:
        """
        Take the replies that are still due.
        """
        while any(each.outstanding for each in self._connections.values()):
            self._turn(asking=False)

    def _turn(self, asking: bool) -> None:
        ready = self._poll.poll(PATIENCE)
        if not ready:
            raise Unexpected(f"the server said nothing for {PATIENCE:.0f} s")
        for descriptor, mask in ready:
            connection = self._connections[descriptor]
            if mask & select.EPOLLOUT and connection.push():
                self._poll.modify(descriptor, select.EPOLLIN)
            if mask & ~select.EPOLLOUT:
                count = self._read(connection)
                if asking and count:
                    self._ask(descriptor, connection, count)

    def _read(self, connection: Connection) -> int:
        """
        @return: The number of replies that have come.
        """
        outstanding = connection.outstanding
        lines = connection.receive()
        now = time.perf_counter()
        extIDs, orders, events = verified(lines, connection.ring.outcomes)
        try:
            self.latencies += [now - then for then in map(outstanding.pop, extIDs)]
        except KeyError as e:
            raise Unexpected(f"a second reply under extID {e}") from e
        self.orders += orders
        self.events += events
        return len(extIDs)

    def _ask(self, descriptor: int, connection: Connection, count: int) -> None:
        if not connection.ask(count):
            self._poll.modify(descriptor, select.EPOLLIN | select.EPOLLOUT)


def connect(port: int, first: int, token: bytes, events: bool) -> socket.socket:
    """
    Connect, and say whether events are wanted.
    """
    connection = socket.create_connection(("127.0.0.1", port), PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(traffic.subscription(first, token, events))
    answer = b""
    while not answer.endswith(b"\n"):
        answer += connection.recv(4096) or b"no answer\n"
    if not answer.startswith(b'{"extID":%d,"status":200,' % first):
        raise Unexpected(answer.decode(errors="replace"))
    connection.setblocking(False)
    return connection


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """
    Load the server, and say what was seen.
    """
    token = options.token.encode("ascii")
    length = traffic.ringLength(options.outstanding)
    connections = {}
    for number in range(options.connections):
        first = traffic.FIRST + number * length
        opened = connect(options.port, first, token, options.events)
        ring = Ring.make(first, length, token, options.canned)
        connections[opened.fileno()] = Connection(opened, ring)
    # Nothing here is cyclic, and a collection would be seen as latency.
    gc.disable()
    load = Load(connections)
    load.start(options.outstanding)
    load.exchange(options.warm_up)
    del load.latencies[:]
    events, busy = load.events, time.process_time()
    elapsed = load.exchange(options.seconds)
    busy = time.process_time() - busy
    latencies = sorted(load.latencies)
    events = load.events - events
    load.drain()
    orders = list(map(int, load.orders))
    return {
        "rate": len(latencies) / elapsed,
        "p50": percentile(latencies, 50) * 1000,
        "p99": percentile(latencies, 99) * 1000,
        "busy": busy / elapsed,
        "events": events / elapsed,
        "answered": len(orders),
        "orders": len(set(orders)),
        "sumOfOrders": sum(orders),
    }


def main() -> None:
    """
    Load the server on the command line, and print what was seen as JSON.
    """
    parser = argparse.ArgumentParser("python -m benchmarks.generator")
    parser.add_argument("port", type=int)
    parser.add_argument("--token", required=True)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--outstanding", type=int, default=16)
    parser.add_argument("--warm-up", type=float, default=0.5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--events", action="store_true")
    parser.add_argument("--canned", action="store_true")
    print(json.dumps(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
