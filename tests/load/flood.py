"""
More requests than a server can take, from a process of its own.

Lines come due by the clock, whatever is answered: an open loop. A line is made
and written as soon as a socket takes it. While the server does not read, the
sockets fill, and what is due stays with the sender: that is back-pressure, and
it is counted. So that the last of it is answered in some seconds, a sender does
not fill the sockets beyond L{BACKLOG} either.
"""

import multiprocessing
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

from attrs import Factory, define, field

from tests.load.record import Record, decode, token, unsubscribe
from tests.load.talks import PATIENCE, Conversation

# Lines that are written at once.
CHUNK: Final = 32
# Lines that may be unanswered in one process: many times what the server lets in,
# so that it always has more before it than it can do.
BACKLOG: Final = 15_000


@define(eq=False)
class Flood:
    """
    One process's part of the load, on several connections.

    @ivar backlog: How many lines may be unanswered.
    @ivar record: What was asked for and answered.
    @ivar due: How many lines came due.
    """

    port: int
    name: str
    connections: int
    backlog: int = BACKLOG
    record: Record = field(init=False)
    due: int = 0
    _all: dict[int, Conversation] = Factory(dict)
    _poll: Any = Factory(lambda: select.epoll())

    def __attrs_post_init__(self) -> None:
        self.record = Record(self.name)
        for _ in range(self.connections):
            conversation = Conversation(self.port)
            number = conversation.socket.fileno()
            self._all[number] = conversation
            self._poll.register(
                number, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET
            )

    def beQuiet(self) -> None:
        """
        Unsubscribe from events.
        """
        for conversation in self._all.values():
            conversation.send(unsubscribe(token()))

    def offer(self, rate: float, seconds: float) -> None:
        """
        Offer so many lines a second for so long.
        """
        start = time.monotonic()
        asked = len(self.record.sent)
        while (elapsed := time.monotonic() - start) < seconds:
            due = int(rate * elapsed)
            for conversation in self._all.values():
                while (
                    not conversation.isFull
                    and len(self.record.sent) - asked < due
                    and self.record.inFlight < self.backlog
                ):
                    count = min(CHUNK, due - len(self.record.sent) + asked)
                    self._ask(conversation, count)
            self._turn(0.001)
        self.due += int(rate * seconds)

    def exchange(self, outstanding: int, seconds: float) -> float:
        """
        Keep so many requests outstanding on each connection for so long: a
        closed loop.

        @return: How many were answered by 200, a second.
        """
        before = self.record.statuses.count(200)
        start = time.monotonic()
        for conversation in self._all.values():
            self._ask(conversation, outstanding)
        while (elapsed := time.monotonic() - start) < seconds:
            for conversation, answers in self._turn(0.01):
                self._ask(conversation, answers)
        return (self.record.statuses.count(200) - before) / elapsed

    def drain(self) -> None:
        """
        Receive the replies that are still due.
        """
        last = time.monotonic()
        while self.record.inFlight and time.monotonic() - last < PATIENCE:
            if self._turn(0.01):
                last = time.monotonic()
        if self.record.inFlight:
            missing = self.record.inFlight
            self.record.wrong(f"{missing} requests of {self.name} have no answer")

    def _ask(self, conversation: Conversation, count: int) -> None:
        conversation.send(b"".join(self.record.ask() for _ in range(count)))

    def _turn(self, seconds: float) -> list[tuple[Conversation, int]]:
        """
        Send and receive what is possible.

        @return: How many replies came, on which connections.
        """
        answered = []
        for number, _ in self._poll.poll(seconds):
            conversation = self._all[number]
            conversation.push()
            count = sum(map(self._hear, self._lines(conversation)))
            if count:
                answered.append((conversation, count))
            if conversation.ending and conversation.ending != "told":
                self.record.wrong(f"a connection was {conversation.ending}")
                conversation.ending = "told"
        return answered

    def _lines(self, conversation: Conversation) -> Iterator[bytes]:
        # Edge-triggered events come once: read everything that is there.
        while lines := conversation.receive():
            yield from lines

    def _hear(self, line: bytes) -> bool:
        reply = decode(line)
        if reply.extID == "quiet":
            return False
        self.record.answered(reply)
        return True


def exchange(
    port: int, name: str, connections: int, outstanding: int, seconds: float
) -> tuple[Record, float]:
    """
    In a process of its own: measure what the server can do.

    @return: The record, and how many requests were booked a second.
    """
    flood = Flood(port, name, connections)
    flood.beQuiet()
    rate = flood.exchange(outstanding, seconds)
    flood.drain()
    return flood.record, rate


def offer(
    port: int, name: str, connections: int, rate: float, seconds: float
) -> tuple[Record, int]:
    """
    In a process of its own: offer more than the server can do.

    @return: The record, and how many lines came due.
    """
    flood = Flood(port, name, connections)
    flood.beQuiet()
    flood.offer(rate, seconds)
    flood.drain()
    return flood.record, flood.due


def ceiling(port: int, connections: int, rate: float, seconds: float) -> float:
    """
    In a process of its own: how many lines a second it can really send to a
    reader that never replies.
    """
    flood = Flood(port, "ceiling", connections, backlog=sys.maxsize)
    flood.offer(rate, seconds)
    return len(flood.record.sent) / seconds


def processes(count: int) -> ProcessPoolExecutor:
    """
    So many processes for the functions above.
    """
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"))


@contextmanager
def sink() -> Iterator[int]:
    """
    A port where everything is read and nothing is sent.
    """
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)

    def swallow(connection: socket.socket) -> None:
        chunk = bytearray(1 << 20)
        with connection:
            while connection.recv_into(chunk):
                pass

    def welcome() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=swallow, args=(connection,), daemon=True).start()

    threading.Thread(target=welcome, daemon=True).start()
    with listener:
        yield listener.getsockname()[1]
