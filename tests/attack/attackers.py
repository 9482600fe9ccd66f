"""
Attackers that send a server expensive input, as fast as it accepts it.

Each attack is made of plain sockets and bytes that were built before, so that
it costs the attacker as little as can be. One process is one attack:

    python -m tests.attack.attackers NAME PORT SECONDS

It prints how much it has done: bytes sent, or connections made.
"""

import json
import os
import resource
import selectors
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import cycle, islice
from random import Random

from attrs import Factory, define, field

from creditsync.auth import mint
from tests.attack.token_kinds import b64
from tests.integration.processes import SECRET

_CHUNK = 65536
# Closing with this option sends RST, and leaves no port in TIME_WAIT.
_NO_LINGER = struct.pack("ii", 1, 0)


@define
class Pump:
    """
    Connections that each send a text over and over, and reconnect when they
    are closed.

    With C{deaf} they never read.
    """

    _port: int
    _connections: int
    _text: bytes
    _deaf: bool = False
    _selector: selectors.BaseSelector = Factory(selectors.DefaultSelector)
    _sent: dict[socket.socket, int] = field(init=False, factory=dict)

    def run(self, until: float) -> int:
        """
        @return: The bytes that were sent.
        """
        total = 0
        while time.monotonic() < until:
            if len(self._sent) < self._connections:
                self._open()
            isFull = len(self._sent) == self._connections
            for key, events in self._selector.select(0.1 if isFull else 0):
                assert isinstance(key.fileobj, socket.socket)
                total += self._serve(key.fileobj, events)
        return total

    def _open(self) -> None:
        connection = socket.create_connection(("127.0.0.1", self._port), timeout=10)
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        wanted = selectors.EVENT_WRITE
        if not self._deaf:
            wanted |= selectors.EVENT_READ
        self._selector.register(connection, wanted)
        self._sent[connection] = 0

    def _serve(self, connection: socket.socket, events: int) -> int:
        try:
            if events & selectors.EVENT_READ and not connection.recv(_CHUNK):
                raise ConnectionError
            if not events & selectors.EVENT_WRITE:
                return 0
            at = self._sent[connection] % len(self._text)
            sent = connection.send(self._text[at : at + _CHUNK])
            self._sent[connection] += sent
            return sent
        except BlockingIOError:
            return 0
        except OSError:
            self._selector.unregister(connection)
            del self._sent[connection]
            connection.close()
            return 0


def _pump(
    connections: int, text: bytes, deaf: bool = False
) -> Callable[[int, float], int]:
    return lambda port, until: Pump(port, connections, text, deaf).run(until)


@define
class Windows:
    """
    Connections that send a few lines at once, and the next ones when each of them
    has its reply: so the server reads and handles them together. Each connection
    begins at another place among the windows.
    """

    _port: int
    _connections: int
    _windows: Sequence[bytes]
    _selector: selectors.BaseSelector = Factory(selectors.DefaultSelector)

    def run(self, until: float) -> int:
        """
        @return: The bytes that were sent.
        """
        total = sum(self._open(number) for number in range(self._connections))
        while time.monotonic() < until:
            for key, _ in self._selector.select(0.1):
                assert isinstance(key.fileobj, socket.socket)
                total += self._serve(key.fileobj, key.data)
        return total

    def _open(self, number: int) -> int:
        connection = _connect(self._port)
        first = number * len(self._windows) // self._connections
        conversation = _Conversation(islice(cycle(self._windows), first, None))
        self._selector.register(connection, selectors.EVENT_READ, conversation)
        return conversation.say(connection)

    def _serve(self, connection: socket.socket, conversation: "_Conversation") -> int:
        received = connection.recv(_CHUNK)
        if not received:
            raise ConnectionError("the server has closed a connection")
        return conversation.say(connection) if conversation.isOver(received) else 0


@define
class _Conversation:
    """
    One connection of L{Windows}.
    """

    _windows: Iterator[bytes]
    _awaited: int = 0
    _rest: bytes = b""

    def say(self, connection: socket.socket) -> int:
        window = next(self._windows)
        self._awaited = window.count(b"\n")
        connection.sendall(window)
        return len(window)

    def isOver(self, received: bytes) -> bool:
        """
        Whether each line has its reply. Events have no status.
        """
        received = self._rest + received
        self._awaited -= received.count(_STATUS)
        self._rest = received[1 - len(_STATUS) :]
        return self._awaited <= 0


_STATUS = b'"status":'


def _windows(connections: int, *windows: bytes) -> Callable[[int, float], int]:
    return lambda port, until: Windows(port, connections, windows).run(until)


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    return connection


def _drip(port: int, until: float) -> int:
    """
    Thousands of connections that each send a line byte by byte, one a second.
    """
    dripping: list[socket.socket] = []
    turn = 0
    while time.monotonic() < until:
        if len(dripping) < 3000:
            dripping.append(_connect(port))
        # Thousands a second, and a second for each.
        for _ in range(3):
            at = turn % len(dripping)
            turn += 1
            try:
                dripping[at].send(b"{")
            except OSError:
                # The server has given up its line.
                dripping[at].close()
                dripping[at] = _connect(port)
        time.sleep(0.001)
    return len(dripping)


def _begin(port: int) -> socket.socket:
    """
    Start connecting without waiting: a full backlog would cost a second.
    """
    connection = socket.socket()
    connection.setblocking(False)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    connection.connect_ex(("127.0.0.1", port))
    return connection


def _openAndClose(port: int, until: float) -> int:
    """
    Connections that are closed soon after they were opened, 100 at a time.
    """
    opened: deque[socket.socket] = deque()
    made = 0
    while time.monotonic() < until:
        opened.append(_begin(port))
        made += 1
        if len(opened) > 100:
            opened.popleft().close()
    return made


def _hold(port: int, until: float) -> int:
    """
    As many connections as the server and the kernel allow, and more.
    """
    held: list[socket.socket] = []
    while time.monotonic() < until:
        try:
            held.append(_begin(port))
        except OSError:
            # The limit of our own open files is reached.
            time.sleep(0.01)
    return len(held)


def _halfClose(port: int, until: float) -> int:
    """
    Connections that send a request, close their half, and wait for the end.
    """
    made = 0
    line = _line("HealthCheck")
    while time.monotonic() < until:
        connection = _connect(port)
        connection.sendall(line)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(_CHUNK):
            pass
        connection.close()
        made += 1
    return made


_TOKEN = mint(SECRET, id=666, role=1, expires=86400, now=time.time())


def _line(command: str, data: object = None, token: str = _TOKEN) -> bytes:
    members = {"command": command, "extID": "e", "__token": token, "data": data or {}}
    return json.dumps(members).encode() + b"\n"


def _badTokens() -> Iterator[bytes]:
    """
    Lines with tokens that look valid, no two of them the same.
    """
    random = Random(0)
    head, body, _ = _TOKEN.split(".")
    for _ in range(5000):
        token = f"{head}.{body}.{b64(random.randbytes(32))}"
        yield _line("HealthCheck", token=token)


def _since(cursor: str) -> bytes:
    """
    The line that asks for all events behind a place.
    """
    return _line("Subscribe", {"chanels": ["trade:event"], "since": cursor})


_FIRST = _since("first")
# Events that the journal has when one of these attacks begins.
_JOURNAL = 50_000
TRADES = {
    "catch-ups begun again and again": _JOURNAL,
    "catch-ups that nobody reads": _JOURNAL,
    "catch-ups from everywhere": _JOURNAL,
}


def _fromEverywhere(port: int, until: float) -> int:
    """
    Connections that read a page of the journal here and one there, so that the server
    has to read each page for one of them.
    """
    with closing(_connect(port)) as connection:
        connection.sendall(_line("HealthCheck"))
        with connection.makefile("rb") as lines:
            cursor = json.loads(lines.readline())["data"]["cursor"]
    epoch = cursor.partition("-")[0]
    random = Random(0)
    places = [random.randrange(_JOURNAL) for _ in range(2000)]
    return Windows(port, 100, [_since(f"{epoch}-{each}") for each in places]).run(until)


# A request that has nothing unusual, but is refused, as this account has no credit.
_CREDIT = _line("CreditOut", {"login": 1, "amount": -1.5, "comment": "c"})
_CREDIT = _CREDIT.replace(b": ", b":").replace(b", ", b",")
# With one or two more, as many of them as fit into 8 KB.
_CREDITS = _CREDIT * (8192 // len(_CREDIT) - 2)
# What is unusual in the last one: an escape; a member that comes twice; a number that
# is no double, or has too many decimals; it is broken over two lines; it is two
# requests.
_UNUSUAL = (
    _CREDITS + _CREDIT.replace(b'"c"', b'"\\u0063"'),
    _CREDITS + _CREDIT.replace(b'"comment"', b'"login":1,"comment"'),
    _CREDITS + _CREDIT.replace(b"1.5", b"1e400"),
    _CREDITS + _CREDIT.replace(b"1.5", b"1e-9"),
    _CREDITS + _CREDIT.replace(b'"data"', b'\n"data"'),
    _CREDITS + _CREDIT.rstrip() + _CREDIT,
)

_BIG = b'{"command":"X","x":"' + b"y" * 65500 + b'"}\n'
_LONG = b"x" * 65600 + b"\n"
# As many values as a line may have, and the longest of those that take longest
# to parse.
_COMMAS = b'{"command":"X","x":[' + b"0," * 998 + b"0]}\n"
_COLONS = b'{"command":"X","x":"' + b":" * 60000 + b'"}\n'
_BOMB = b"[" * 65000 + b"\n"
_OBJECTS = b'{"a":' * 13000 + b"\n"
_NESTED = b'{"command":"X","x":[' + (b"[" * 14 + b"]" * 14 + b",") * 66 + b"0]}\n"
_NUMBERS = b'{"command":"X","x":[' + (b"0." + b"1" * 998 + b",") * 65 + b"0]}\n"
# Lines that are searched for an extID when they are refused.
_MEMBERS = b"{" + b'"":0,' * 13000 + b"\n"
_STRINGS = b'{"x":[' + b'"",' * 21000 + b"\n"
_ESCAPES = b'{"command":"X","x":"' + b"\\u0041" * 10000 + b'"}\n'

# The function of each attack, by its name.
ATTACKS: dict[str, Callable[[int, float], int]] = {
    "blank lines": _pump(300, b"\n" * _CHUNK),
    "one-byte lines": _pump(300, b"x\n" * (_CHUNK // 2)),
    "empty objects": _pump(300, b"{}\n" * (_CHUNK // 3)),
    "1000 connections of blank lines": _pump(1000, b"\n" * _CHUNK),
    "drippers": _drip,
    "open and close": _openAndClose,
    "hold connections": _hold,
    "half-closers": _halfClose,
    "nested arrays": _pump(20, _BOMB),
    "nested objects": _pump(20, _OBJECTS),
    "1000 commas": _pump(50, _COMMAS * 32),
    "nested values": _pump(50, _NESTED * 4),
    "long numbers": _pump(50, _NUMBERS * 4),
    "escapes": _pump(50, _ESCAPES),
    "lines of 64 KiB": _pump(50, _BIG),
    "64 KiB of colons": _pump(50, _COLONS),
    "lines too long": _pump(50, _LONG),
    "64 KiB of members": _pump(50, _MEMBERS),
    "64 KiB of strings": _pump(50, _STRINGS),
    "unknown commands": _pump(50, _line("X") * 300),
    "wrong data": _pump(50, _line("CreditInSync", {"login": "x", "amount": []}) * 300),
    "bad tokens": _pump(50, b"".join(_badTokens())),
    "windows of plain lines": _windows(50, _CREDITS + _CREDIT),
    "windows unusual at their end": _windows(50, *_UNUSUAL),
    "managers": _pump(
        50, (_line("HealthCheck") + _line("GetOperation", {"order": 1})) * 200
    ),
    "deaf managers": _pump(50, _line("HealthCheck") * 300, deaf=True),
    "catch-ups begun again and again": _pump(50, _FIRST * 300),
    "catch-ups that nobody reads": _pump(500, _FIRST, deaf=True),
    "catch-ups from everywhere": _fromEverywhere,
}


# The attacks of a short run.
QUICK = (
    "empty objects",
    "drippers",
    "open and close",
    "windows unusual at their end",
    "nested values",
    "bad tokens",
    "catch-ups begun again and again",
    "catch-ups that nobody reads",
    "catch-ups from everywhere",
)


def main() -> None:
    """
    Run the attack that the command line names.
    """
    name, port, seconds = sys.argv[1:]
    os.nice(19)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print("ready", flush=True)
    print(ATTACKS[name](int(port), time.monotonic() + float(seconds)))


if __name__ == "__main__":
    main()
