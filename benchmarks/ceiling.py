"""
The load generator's own ceiling: a responder that is faster than any server.

It counts line ends and answers with the same number of lines of a prepared
block: the generator's connections send their requests in a known order.
"""

import select
import socket
import sys

from attrs import define

from benchmarks.canned import HEAD, TAIL
from benchmarks.traffic import EXT_ID, ringLength


@define(eq=False)
class Answers:
    """
    The replies of one connection, stored twice in a row as in
    L{benchmarks.generator.Ring}.
    """

    _lines: memoryview
    _lineLength: int
    _length: int
    _next: int = 0

    @classmethod
    def make(cls, first: int, length: int) -> "Answers":
        """
        Prepare the replies from the extID C{first} on.
        """
        lines = [HEAD + b"%d" % (first + n) + TAIL for n in range(length)]
        return cls(memoryview(b"".join(lines * 2)), len(lines[0]), length)

    def take(self, count: int) -> memoryview:
        """
        The next C{count} replies.
        """
        start, end = self._next, self._next + count
        self._next = end % self._length
        return self._lines[start * self._lineLength : end * self._lineLength]


def serve(port: int, length: int) -> None:
    """
    Answer for ever.

    @param length: How many extIDs each connection cycles through.
    """
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    connections: dict[int, tuple[socket.socket, Answers]] = {}
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == listener.fileno():
                accepted, _ = listener.accept()
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                poll.register(accepted, select.EPOLLIN)
                # The first line is a subscription, and has the first extID.
                first = accepted.recv(65536)[EXT_ID]
                if not first:
                    # A connection that only checked whether the port is open.
                    poll.unregister(accepted)
                    accepted.close()
                    continue
                accepted.sendall(HEAD + first + TAIL)
                answers = Answers.make(int(first), length)
                connections[accepted.fileno()] = accepted, answers
                continue
            connection, answers = connections[descriptor]
            received = connection.recv(65536)
            if received:
                connection.sendall(answers.take(received.count(b"\n")))
            else:
                del connections[descriptor]
                connection.close()


if __name__ == "__main__":
    serve(int(sys.argv[1]), ringLength(int(sys.argv[2])))
