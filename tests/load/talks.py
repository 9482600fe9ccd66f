"""
Many conversations in one thread, on sockets that never block.
"""

import select
import socket
from collections.abc import Callable
from typing import Any, Final

from attrs import define, field

# Seconds without any data after which a server that owes a reply is given up.
PATIENCE: Final = 20.0
CHUNK: Final = 1 << 18
_chunk = memoryview(bytearray(CHUNK))


@define(eq=False)
class Conversation:
    """
    One connection: lines out, lines in.

    @ivar ending: How it ended: C{"closed"} in order or C{"cut off"}; empty as
        long as it goes on.
    @ivar read: How many bytes were read.
    """

    port: int
    receiveBuffer: int | None = None
    socket: "socket.socket" = field(init=False)
    ending: str = ""
    read: int = 0
    _unsent: bytes = b""
    _partial: bytes = b""

    def __attrs_post_init__(self) -> None:
        self.socket = socket.socket()
        if self.receiveBuffer is not None:
            # Before connect(), which tells the other side the window.
            self.socket.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVBUF, self.receiveBuffer
            )
        self.socket.settimeout(10)
        self.socket.connect(("127.0.0.1", self.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)

    @property
    def isFull(self) -> bool:
        """
        Whether something is still to be sent.
        """
        return bool(self._unsent)

    def send(self, data: bytes) -> None:
        """
        Send as much as possible at once, and the rest later.
        """
        self._unsent += data
        self.push()

    def push(self) -> None:
        """
        Send the rest.
        """
        if not self._unsent:
            return
        try:
            self._unsent = self._unsent[self.socket.send(self._unsent) :]
        except BlockingIOError:
            pass
        except ConnectionError:
            # Received data may still be readable; that will show the end.
            self._unsent = b""

    def receive(self, most: int = CHUNK) -> list[bytes]:
        """
        Read at most so many bytes, as complete lines.
        """
        if self.ending:
            return []
        try:
            count = self.socket.recv_into(_chunk, min(most, CHUNK))
        except BlockingIOError:
            return []
        except ConnectionError:
            count, self.ending = 0, "cut off"
        if not count:
            self.ending = self.ending or "closed"
            return []
        self.read += count
        *lines, self._partial = (self._partial + _chunk[:count]).split(b"\r\n")
        return lines

    def endInput(self) -> None:
        """
        Send nothing more, and go on reading.
        """
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """
        Close the socket.
        """
        self.ending = self.ending or "left"
        self.socket.close()


@define(eq=False)
class Talks:
    """
    Conversations, and the callback for the lines of each.
    """

    _poll: Any = field(init=False, factory=lambda: select.epoll())
    _hearers: dict[int, tuple[Conversation, Callable[[list[bytes]], None]]] = field(
        init=False, factory=dict
    )
    _masks: dict[int, int] = field(init=False, factory=dict)

    def add(
        self, conversation: Conversation, hear: Callable[[list[bytes]], None]
    ) -> None:
        """
        Read a conversation from now on.

        @param hear: Is given its lines, and no lines at all at its end.
        """
        number = conversation.socket.fileno()
        self._hearers[number] = conversation, hear
        self._masks[number] = select.EPOLLIN
        self._poll.register(number, select.EPOLLIN)

    def turn(self, seconds: float) -> None:
        """
        Wait for so long for something to happen, and send and receive what is
        possible.
        """
        self._watchWriting()
        for number, mask in self._poll.poll(max(seconds, 0)):
            conversation, hear = self._hearers[number]
            if mask & select.EPOLLOUT:
                conversation.push()
            if mask & ~select.EPOLLOUT:
                lines = conversation.receive()
                if conversation.ending:
                    self.leave(conversation)
                hear(lines)

    def _watchWriting(self) -> None:
        for number, (conversation, _) in self._hearers.items():
            mask = select.EPOLLIN | (select.EPOLLOUT if conversation.isFull else 0)
            if mask != self._masks[number]:
                self._masks[number] = mask
                self._poll.modify(number, mask)

    def leave(self, conversation: Conversation) -> None:
        """
        Stop reading it.
        """
        number = conversation.socket.fileno()
        del self._hearers[number], self._masks[number]
        self._poll.unregister(number)

    def close(self) -> None:
        """
        Close all.
        """
        for conversation, _ in self._hearers.values():
            conversation.close()
        self._poll.close()
