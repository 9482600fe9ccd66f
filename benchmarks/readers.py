"""
Sessions that read a ledger's journal as fast as they can, in a process of their own.

They are plain sockets that count line ends, so that they cost as little as can be:
what is to be measured is the server. As the nth event of a journal has place n, the
cursor of the last event that a session counted tells whether it got all of them.
"""

import argparse
import json
import os
import select
import socket
import time
from typing import Any, Final

from attrs import define, field

from benchmarks.generator import connect
from benchmarks.load import PATIENCE
from benchmarks.processes import Wrong

_SUBSCRIPTION: Final = (
    b'{"extID":"r","command":"Subscribe","__token":"%b","data":'
    b'{"chanels":["trade:event"],"since":"%b"}}\r\n'
)
_REPLY: Final = b'{"extID":"r","status":200,'
_CURSOR: Final = b'"cursor":"'

# Bytes that have a whole line in any case.
_LINE: Final = 2048


@define(eq=False)
class Reader:
    """
    One session, which begins behind a place.

    @ivar place: The place of the last event that it has read.
    @ivar last: Where it ends.
    """

    socket: socket.socket
    place: int
    last: int
    _hasReply: bool = False
    _recent: bytes = b""

    def begin(self, cursor: str, token: bytes) -> None:
        """
        Ask for all events behind its place.
        """
        since = cursor if self.place else "first"
        self.socket.sendall(_SUBSCRIPTION % (token, since.encode("ascii")))

    def take(self, received: bytearray, size: int) -> bool:
        """
        Count what was received.

        @return: Whether all that it wanted has come.
        @raise Wrong: It is something else.
        """
        recent = bytes(received[max(0, size - _LINE) : size])
        if not self._hasReply:
            if not received.startswith(_REPLY):
                raise Wrong(f"{recent!r} is no reply to Subscribe")
            self._hasReply = True
            self.place -= 1
        self.place += received.count(b"\n", 0, size)
        self._recent = (self._recent + recent)[-_LINE:]
        if self.place < self.last:
            return False
        self._check()
        return True

    def _check(self) -> None:
        """
        @raise Wrong: The last event is not the one that has to be the last.
        """
        lines = self._recent[: self._recent.rindex(b"\n")]
        _, _, rest = lines.rpartition(_CURSOR)
        place = rest.partition(b'"')[0].rpartition(b"-")[2]
        if place != b"%d" % self.place:
            raise Wrong(f"the last of {self.place} events has place {place!r}")


@define(eq=False)
class Readers:
    """
    All sessions of this process.

    @ivar reading: Those that have not read all that they want.
    """

    reading: dict[int, Reader] = field(factory=dict)
    _buffer: bytearray = field(factory=lambda: bytearray(1 << 18))
    _poll: Any = field(factory=lambda: select.epoll())

    def add(self, reader: Reader) -> None:
        """
        Have a session read.
        """
        descriptor = reader.socket.fileno()
        self.reading[descriptor] = reader
        self._poll.register(descriptor, select.EPOLLIN)

    def read(self) -> None:
        """
        Read until each session has all that it wants, and disconnect it then.

        @raise Wrong: It got something else, or nothing for a long time.
        """
        buffer = self._buffer
        while self.reading:
            ready = self._poll.poll(PATIENCE)
            if not ready:
                raise Wrong(f"{len(self.reading)} sessions got no more events")
            for descriptor, _ in ready:
                reader = self.reading[descriptor]
                size = reader.socket.recv_into(buffer)
                if not size:
                    raise Wrong("the server closed a connection")
                if reader.take(buffer, size):
                    del self.reading[descriptor]
                    reader.socket.close()


def main() -> None:
    """
    Read as the command line says, and print the seconds that it took as JSON.
    """
    parser = argparse.ArgumentParser("python -m benchmarks.readers")
    parser.add_argument("port", type=int)
    parser.add_argument("epoch")
    parser.add_argument("--token", required=True)
    parser.add_argument("--readers", type=int, required=True)
    parser.add_argument("--events", type=int, required=True, help="of the journal")
    parser.add_argument(
        "--apart",
        action="store_true",
        help="each session reads a part of its own, instead of everything",
    )
    options = parser.parse_args()
    # Whoever is measured beside them must not have to wait for them. A process that is
    # only nice is not interrupted for some milliseconds.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    readers, token = Readers(), options.token.encode("ascii")
    count, events = options.readers, options.events
    for number in range(count):
        place, last = 0, events
        if options.apart:
            place, last = number * events // count, (number + 1) * events // count
        readers.add(Reader(connect(options.port), place, last))
    start = time.perf_counter()
    for reader in readers.reading.values():
        reader.begin(f"{options.epoch}-{reader.place}", token)
    readers.read()
    print(json.dumps({"seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()
