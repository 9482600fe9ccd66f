"""
One life of the server without its sockets and its threads, on a clock of its
own, and a client of it. Only its ledger is on a disk.
"""

from collections.abc import Callable
from json import loads
from pathlib import Path
from typing import Any, Final

from attrs import Factory, define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.testing import (
    MemoryReactorClock,
    StringTransportWithDisconnection,
)

from creditsync.errors import LedgerProblem
from creditsync.events import TradeEvents
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.runtime import TradingRuntime
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator
from tests.crash.dialogue import Dialogue
from tests.crash.record import Violation

# The time of every booking.
NOW: Final = 1767225600

# Seconds between one round and the next, and the number of rounds for a reply:
# no request times out in them.
_ROUND: Final = 0.001
_ROUNDS: Final = 20
# Seconds after which a stop must have ended.
_STOP: Final = 30


@define(eq=False)
class Life:
    """
    One life of the server, and one client of it.
    """

    path: Path
    dialogue: Dialogue
    clock: MemoryReactorClock = Factory(MemoryReactorClock)
    wire: Any = Factory(StringTransportWithDisconnection)
    failures: list[Any] = Factory(list)
    server: CreditSync = field(init=False)
    client: Any = field(init=False)

    def __attrs_post_init__(self) -> None:
        def run(write: Callable[[], None]) -> "Deferred[None]":
            # Requests that come meanwhile are the next batch.
            return deferLater(self.clock, _ROUND, write)

        events = TradeEvents()
        ledger = SQLiteLedger(str(self.path), run)
        runtime = TradingRuntime(
            self.clock, ledger, events, now=lambda: NOW, maxQueued=1000
        )
        self.server = CreditSync(
            self.clock,
            runtime=runtime,
            events=events,
            authenticator=FakeAuthenticator(),
            listen=[],
        )

    def start(self) -> bool:
        """
        Start the server, and wait until its ledger is open.

        @return: Whether it started.
        """
        try:
            self.server.startService()
        except LedgerProblem:
            return False
        self.server.whenFailed().addErrback(self.failures.append)
        ready: list[object] = []
        self.server.whenReady().addCallback(ready.append)
        while not ready:
            if self.failures:
                return False
            self.clock.advance(_ROUND)
        self.wire.protocol = self.client = self.server.factory.buildProtocol(None)
        self.client.makeConnection(self.wire)
        return True

    def talk(self, operations: int) -> None:
        """
        Send so many operations, and receive the replies.

        @raise Violation: There are none, or wrong ones.
        """
        end = len(self.dialogue.asked) + operations
        while len(self.dialogue.asked) < end:
            size = self.dialogue.random.choice((1, 2, 5))
            self.client.dataReceived(self.dialogue.ask(size))
            self._hear(self.dialogue.random.choice((0, 1, 2, _ROUNDS)))
        self._hear(_ROUNDS)
        if self.dialogue.waiting:
            raise Violation(f"{self.dialogue.waiting} requests have no answer")
        if not self.failures and self._unknown():
            raise Violation("an answer was 504, and the server goes on")

    def _unknown(self) -> bool:
        return any(asked.status == 504 for asked in self.dialogue.asked)

    def _hear(self, rounds: int) -> None:
        for _ in range(rounds):
            hadFailed = bool(self.failures)
            self.clock.advance(_ROUND)
            for message in map(loads, self.wire.value().splitlines()):
                self.dialogue.take(message)
                if hadFailed and message.get("status", 200) == 200:
                    raise Violation(f"after a commit had failed: {message}")
            self.wire.clear()

    def stop(self) -> None:
        """
        Stop the server.

        @raise Violation: It does not end.
        """
        stopped: list[object] = []
        self.server.stopService().addBoth(stopped.append)
        end = self.clock.seconds() + _STOP
        while not stopped and self.clock.seconds() < end:
            self.clock.advance(0.1)
        if stopped != [None]:
            raise Violation(f"the server does not stop: {stopped}")
