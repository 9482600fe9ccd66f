"""
The whole server from lines to its ledger, in memory, on a clock that only moves
when it is told to.

The modules are the real ones, put together by the real service; only the ledger
has no disk, and commits when it is told to, so that a reply can be late.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogLevel, globalLogPublisher
from twisted.python.failure import Failure

from creditsync._transport.protocol import LineProtocol
from creditsync.auth import TokenAuthenticator, mint
from creditsync.counters import Counters
from creditsync.events import TradeEvents
from creditsync.interfaces import IAuthenticator
from creditsync.ledger.memory import MemoryLedger
from creditsync.records import Limits
from creditsync.runtime import TradingRuntime
from creditsync.service import CreditSync
from creditsync.testing import HeldLedger
from creditsync.validation import Schemas

SECRET = "0123456789abcdef0123456789abcdef"
NOW = 1767225600
TIMEOUT = 5.0
# Of every stack, so that two of them can be compared.
EPOCH = "9f3c1a7e"
LIMITS = Limits(maxLineLength=8192)

_SCHEMAS = Schemas()

# The valid tokens, each with its role.
TOKENS = {
    mint(SECRET, id=role + 1, role=role, expires=3600, now=NOW, jti=f"j{role}"): role
    for role in (0, 1, 2, 3, 4, 5, 9, 10, 11)
}
MANAGER = next(token for token, role in TOKENS.items() if role == 1)
USER = next(token for token, role in TOKENS.items() if role == 0)


class Stack:
    """
    One server.
    """

    def __init__(self, authenticator: IAuthenticator | None = None) -> None:
        self.clock = Clock()
        self.ledger = HeldLedger(MemoryLedger(epoch=EPOCH))
        self.counters = Counters(self.clock, lambda: NOW)
        events = TradeEvents()
        self.service = CreditSync(
            self.clock,
            runtime=TradingRuntime(
                self.clock,
                self.ledger,
                events,
                now=lambda: NOW,
                maxQueued=100,
                counters=self.counters,
            ),
            events=events,
            authenticator=authenticator or TokenAuthenticator(SECRET, now=lambda: NOW),
            listen=[],
            schemas=_SCHEMAS,
            timeout=TIMEOUT,
            limits=LIMITS,
            counters=self.counters,
        )
        self.service.startService()

    def connect(self) -> "Connection":
        """
        Open a connection.
        """
        return Connection(self)

    def settle(self) -> None:
        """
        Run what is due now, without advancing the clock.
        """
        now = self.clock.seconds()
        while any(call.getTime() <= now for call in self.clock.getDelayedCalls()):
            self.clock.advance(0)

    def book(self) -> None:
        """
        Let every waiting commit succeed.
        """
        while self.ledger.commits:
            self.ledger.release()
            self.settle()

    def expire(self) -> None:
        """
        Advance the clock past the timeout of pending requests.
        """
        self.clock.advance(TIMEOUT)
        self.settle()


class Connection:
    """
    A client of a stack.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._transport = StringTransport()
        self._protocol: Any = stack.service.factory.buildProtocol(_NOWHERE)
        assert isinstance(self._protocol, LineProtocol)
        self._protocol.makeConnection(self._transport)

    @property
    def isOpen(self) -> bool:
        """
        Whether the server keeps it open.
        """
        return not self._transport.disconnecting

    def say(self, *chunks: bytes) -> None:
        """
        Send bytes, each chunk as a read of its own.
        """
        # No transport delivers an empty read.
        for chunk in filter(None, chunks):
            self._protocol.dataReceived(chunk)
        self._stack.settle()

    def hear(self) -> bytes:
        """
        Return what the server sent since the last call.
        """
        heard: bytes = self._transport.value()
        self._transport.clear()
        return heard

    def lose(self) -> None:
        """
        Close the connection.
        """
        self._protocol.connectionLost(Failure(connectionDone.value))
        self._stack.settle()


_NOWHERE: IAddress | None = None


@contextmanager
def problems() -> Iterator[list[str]]:
    """
    Collect what is logged as a problem: failures, errors, and everything else
    that is worse than a warning.
    """
    found: list[str] = []

    def observe(event: dict[str, Any]) -> None:
        if event.get("log_failure") is not None:
            found.append(event["log_failure"].getBriefTraceback())
        elif event.get("log_level", LogLevel.info) >= LogLevel.error:
            found.append(str(event.get("log_format")))

    globalLogPublisher.addObserver(observe)
    try:
        yield found
    finally:
        globalLogPublisher.removeObserver(observe)
