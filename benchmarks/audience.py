"""
Sessions that receive events: those that read them, the requester, and those
that stall.
"""

import select
import socket
import time
from array import array
from collections.abc import Iterator
from fcntl import ioctl
from termios import FIONREAD
from typing import Any, Final

from attrs import define, field

from benchmarks import traffic
from benchmarks.load import PATIENCE
from benchmarks.processes import Wrong

# The bytes that a stalled session has unread before anything is measured: more
# than the kernel buffers, less than the server's bound of 4 MiB.
_UNREAD: Final = 1 << 20


@define(eq=False)
class Audience:
    """
    Sessions that receive events, and count them.

    @ivar received: How many complete events each session has received.
    """

    _sessions: dict[int, socket.socket]
    received: dict[int, int] = field(init=False)
    _poll: Any = field(factory=lambda: select.epoll())

    def __attrs_post_init__(self) -> None:
        self.received = dict.fromkeys(self._sessions, 0)
        for descriptor in self._sessions:
            self._poll.register(descriptor, select.EPOLLIN)

    def fileno(self) -> int:
        """
        Readable when one of the sessions is.
        """
        descriptor: int = self._poll.fileno()
        return descriptor

    def read(self, seconds: float) -> None:
        """
        Read what has arrived.

        @raise Wrong: It is not an event, or a connection has ended.
        """
        for descriptor, _ in self._poll.poll(seconds):
            lines = self._sessions[descriptor].recv(1 << 18)
            if not lines:
                raise Wrong("a session that reads was cut off")
            self.received[descriptor] += lines.count(b"\n")

    def readAll(self, count: int) -> None:
        """
        Wait until every session has received this many events.

        @raise Wrong: A session received more, or not as many in time.
        """
        end = time.monotonic() + PATIENCE
        while min(self.received.values(), default=count) < count:
            if time.monotonic() > end:
                raise Wrong("an event did not come to every session")
            self.read(1.0)
        if max(self.received.values(), default=count) > count:
            raise Wrong("an event came more than once")


def _ask(
    asking: socket.socket, serials: range, token: bytes, audience: Audience
) -> Iterator[tuple[int, bytes]]:
    """
    Request credits and read their events and replies, while the audience reads
    too.

    @return: The extID and the outcome of each reply.
    @raise Wrong: Something else came, or a reply before its event.
    """
    asking.sendall(b"".join(traffic.request(serial, token) for serial in serials))
    received, poll = b"", select.poll()
    for each in (asking, audience):
        poll.register(each, select.POLLIN)
    while received.count(b"\n") < 2 * len(serials):
        ready = poll.poll(PATIENCE * 1000)
        if not ready:
            raise Wrong("no reply came")
        if asking.fileno() in dict(ready):
            received += asking.recv(65536)
        audience.read(0)
    announced = set()
    for line in received.splitlines(keepends=True):
        event, reply = traffic.EVENT.match(line), traffic.REPLY.match(line)
        if event:
            announced.add(event[1])
        elif not reply or reply[2] not in announced:
            raise Wrong(f"neither an event nor a reply after its event: {line!r}")
        else:
            yield int(reply[1]), reply[3]


def askAll(
    asking: socket.socket,
    serials: range,
    token: bytes,
    audience: Audience,
    isCanned: bool,
) -> None:
    """
    Request credits, and check that each has its own reply.
    """
    start, end = (traffic.FIRST + each for each in (serials.start, serials.stop))
    asked = range(start, end)
    expected = [
        (extID, traffic.outcome(traffic.FIRST if isCanned else extID))
        for extID in asked
    ]
    if sorted(_ask(asking, asked, token, audience)) != expected:
        raise Wrong("the replies are not those of their requests")


def stall(asking: socket.socket, held: list[socket.socket], token: bytes) -> None:
    """
    Publish more events than the kernel buffers for sessions that do not read.

    @raise Wrong: The kernel buffered all of them.
    """
    received = 0
    requests = [traffic.request(traffic.FIRST + n, token) for n in range(500)]
    while received < _UNREAD:
        asking.sendall(b"".join(requests))
        lines = 0
        while lines < 2 * len(requests):
            chunk = asking.recv(1 << 18)
            if not chunk:
                raise Wrong("the server closed a connection")
            lines += chunk.count(b"\n")
            received += len(chunk) // 2
    for each in held:
        if _unread(each) > _UNREAD // 2:
            raise Wrong("the kernel keeps too much for a session that stalls")


def _unread(connection: socket.socket) -> int:
    """
    Bytes that the kernel has buffered for this socket.
    """
    count = array("i", [0])
    ioctl(connection, FIONREAD, count)
    return count[0]
