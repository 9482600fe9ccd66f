"""
A TCP proxy in front of a server that cuts, stalls, delays, strands and mutes
connections, at a given byte if need be, and only those of some applications. It runs in
threads of its own, so that tests may block.
"""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from attrs import define, field

_CHUNK: Final = 65536
# SO_LINGER with no time: close() resets the connection.
_RESET: Final = struct.pack("ii", 1, 0)
# The type of PostgreSQL's NotificationResponse, and what precedes the body of any
# message: a byte for the type, and four for the length, which they are part of.
_NOTIFICATION: Final = ord("A")
_HEADER: Final = 5


@define(eq=False)
class _Link:
    """
    One connection through the proxy.
    """

    client: socket.socket
    server: socket.socket
    application: str = ""
    isStranded: bool = False
    # While this is not set, nothing reaches the server.
    flowing: threading.Event = field(init=False, factory=threading.Event)

    def __attrs_post_init__(self) -> None:
        self.flowing.set()

    def startup(self, data: bytes) -> None:
        """
        Read its application's name in the first message of the client. The connection
        must be without TLS.
        """
        parts = data[8:].split(b"\0")
        named = dict(zip(parts[::2], parts[1::2], strict=False))
        self.application = named.get(b"application_name", b"").decode()

    def strand(self) -> None:
        """
        Reset the client's half, and keep what it has sent.
        """
        self.isStranded = True
        with suppress(OSError):
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        with suppress(OSError):
            self.client.shutdown(socket.SHUT_RDWR)
        self.client.close()

    def close(self) -> None:
        """
        Reset both of its halves.
        """
        for each in (self.client, self.server):
            with suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            # close() alone would leave a thread that reads from it waiting.
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@define(eq=False)
class _Unnotified:
    """
    What a server sends, less the notifications. The connection must be without TLS.
    """

    _rest: bytes = b""

    def __call__(self, data: bytes) -> bytes:
        """
        Take what has come, and give what is to be passed on of it.
        """
        data = self._rest + data
        passed = []
        while len(data) >= _HEADER:
            end = 1 + int.from_bytes(data[1:_HEADER])
            if len(data) < end:
                break
            if data[0] != _NOTIFICATION:
                passed.append(data[:end])
            data = data[end:]
        self._rest = data
        return b"".join(passed)


@define(eq=False)
class Proxy:
    """
    Passes connections to a server on.

    @ivar port: Where it listens, on 127.0.0.1.
    @ivar target: The port of the server; connections that come later go to another
        one if it is changed.
    @ivar isMuted: Whether notifications are swallowed on connections that come later.
    @ivar application: What the name of an application has to end with for its
        connections to be cut at a byte, counted, delayed or stranded; all by default.
    @ivar delay: Seconds for which each part of what the server sends is kept.
    @ivar toServer: How many bytes clients have sent through it.
    @ivar toClient: How many bytes the server has sent through it.
    """

    target: int
    isMuted: bool = False
    application: str = ""
    delay: float = 0.0
    toServer: int = 0
    toClient: int = 0
    port: int = field(init=False)
    _listener: socket.socket = field(init=False)
    _links: set[_Link] = field(init=False, factory=set)
    _flowing: threading.Event = field(init=False, factory=threading.Event)
    # How many bytes may still pass in each direction, if that is limited.
    _limits: dict[str, int] = field(init=False, factory=dict)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)

    def __attrs_post_init__(self) -> None:
        """
        Begin to listen.
        """
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self._flowing.set()
        self._spawn(self._accept)

    def _spawn(self, target: object, *arguments: object) -> None:
        threading.Thread(target=target, args=arguments, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = _Link(client, server)
            self._links.add(link)
            self._spawn(self._pass, link, "toServer", client, server)
            self._spawn(self._pass, link, "toClient", server, client)

    def _pass(
        self, link: _Link, way: str, source: socket.socket, target: socket.socket
    ) -> None:
        """
        Pass on what comes one way, until the connection ends.
        """
        silenced = _Unnotified() if self.isMuted and way == "toClient" else None
        isFirst = way == "toServer"
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                if isFirst:
                    link.startup(data)
                    isFirst = False
                self._flowing.wait()
                link.flowing.wait()
                passed = data if silenced is None else silenced(data)
                allowed = len(passed)
                if link.application.endswith(self.application):
                    allowed = self._allowed(way, allowed)
                    if way == "toClient":
                        time.sleep(self.delay)
                target.sendall(passed[:allowed])
                if link.isStranded:
                    # Reset at once, the server might not read it.
                    time.sleep(1)
                if allowed < len(passed):
                    # At once behind this byte, and not after the next read.
                    break
        link.close()
        self._links.discard(link)

    def _allowed(self, way: str, size: int) -> int:
        """
        How many of these bytes may pass.
        """
        with self._lock:
            allowed = min(size, self._limits.get(way, size))
            if allowed < size:
                del self._limits[way]
            elif way in self._limits:
                self._limits[way] -= allowed
            setattr(self, way, getattr(self, way) + allowed)
            return allowed

    def cut(self, application: str = "") -> int:
        """
        Reset all connections of an application.

        @return: How many there were.
        """
        links = self._of(application)
        for each in links:
            each.close()
        return len(links)

    def _of(self, application: str) -> list[_Link]:
        links = list(self._links)
        return [each for each in links if each.application.endswith(application)]

    @contextmanager
    def stranded(self, application: str) -> Iterator[Callable[[], None]]:
        """
        Keep what the connections of an application send from now on. When the context
        ends, it reaches the server, if these connections were reset before.

        @return: Resets them, only for the client.
        """
        links = self._of(application)
        for each in links:
            each.flowing.clear()
        try:
            yield lambda: [each.strand() for each in links] and None
        finally:
            for each in links:
                each.flowing.set()

    def cutAfter(self, way: str, size: int) -> None:
        """
        Reset the first connection that exceeds this many bytes from now on.

        @param way: C{toServer} or C{toClient}.
        """
        with self._lock:
            self._limits[way] = size

    def unlimited(self) -> None:
        """
        Forget what L{cutAfter} has limited.
        """
        with self._lock:
            self._limits.clear()

    def stall(self) -> None:
        """
        Keep all that is sent from now on, and the connections open.
        """
        self._flowing.clear()

    def resume(self) -> None:
        """
        Pass on what was kept, and all else again.
        """
        self._flowing.set()

    def close(self) -> None:
        """
        Reset all connections, and refuse further ones.
        """
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._flowing.set()
        self.cut()
