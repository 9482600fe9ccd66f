"""
A server in memory with counters, and clients of it.
"""

import json
from typing import Any

from attrs import Factory, define, field
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from creditsync.counters import Counters
from creditsync.events import TradeEvents
from creditsync.ledger.memory import MemoryLedger
from creditsync.metrics import Metrics
from creditsync.records import Limits, Reservation
from creditsync.runtime import TradingRuntime
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator, FakeTradingRuntime, HeldLedger

NOW = 1767225600.0
# With which the cursors of its events begin.
EPOCH = "9f3c1a7e"
DATA = {"login": 1001, "amount": 300.0, "comment": "Promotion credit"}


@define(eq=False)
class Client:
    """
    One client of a server in memory.
    """

    server: CreditSync
    peer: IPv4Address = Factory(lambda: IPv4Address("TCP", "192.0.2.7", 5123))
    wire: Any = Factory(
        lambda self: StringTransport(peerAddress=self.peer, lenient=True),
        takes_self=True,
    )
    protocol: Any = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.protocol = self.server.factory.buildProtocol(self.peer)
        self.protocol.makeConnection(self.wire)

    def asks(
        self,
        command: str = "CreditInSync",
        extID: object = "a",
        data: object = DATA,
        token: str = "manager",
        **members: object,
    ) -> None:
        """
        Send one command.
        """
        request = {
            "command": command,
            "extID": extID,
            "__token": token,
            "data": data,
            **members,
        }
        self.says(json.dumps(request).encode())

    def says(self, line: bytes) -> None:
        """
        Send one line.
        """
        self.protocol.dataReceived(line + b"\r\n")

    def outcomes(self) -> list[tuple[Any, int]]:
        """
        Return the replies received since the last call, each as its extID and
        status.
        """
        lines = [json.loads(line) for line in self.wire.value().splitlines()]
        self.wire.clear()
        return [
            (line.get("extID"), line["status"]) for line in lines if "event" not in line
        ]

    def goes(self) -> None:
        """
        Close the connection.
        """
        self.protocol.connectionLost(Failure(ConnectionDone()))


class ObservedTestCase(SynchronousTestCase):
    """
    A server in memory with counters; its commits end when the test says so.
    """

    def setUp(self) -> None:
        """
        Start the server without limits of its own.
        """
        self.serve()

    def serve(self, **limits: Any) -> None:
        """
        Start the server with these limits.
        """
        self.reactor = MemoryReactorClock()
        self.counters = Counters(self.reactor, lambda: NOW + self.reactor.seconds())
        self.events = TradeEvents()
        self.ledger = HeldLedger(MemoryLedger(epoch=EPOCH))
        self.authenticator = FakeAuthenticator()
        self.runtime = TradingRuntime(
            self.reactor,
            self.ledger,
            self.events,
            now=lambda: NOW,
            maxQueued=limits.get("maxQueued", 100),
            counters=self.counters,
        )
        self.server = CreditSync(
            self.reactor,
            runtime=self.runtime,
            events=self.events,
            authenticator=self.authenticator,
            listen=["tcp:8080"],
            limits=Limits(**limits),
            counters=self.counters,
        )
        self.server.startService()
        self.metrics = Metrics(self.reactor, self.server, self.counters)

    def turns(self) -> None:
        """
        Run everything that is due on the reactor.
        """
        for _ in range(3):
            self.reactor.advance(0)

    def commits(self, seconds: float = 0.0) -> None:
        """
        Commit everything that was requested, this many seconds from now.
        """
        self.turns()
        self.reactor.advance(seconds)
        while self.ledger.commits:
            self.ledger.release()
            self.turns()


def turnOnce(clock: Clock) -> None:
    """
    Let a reactor turn once: what is scheduled meanwhile is for the next turn, where
    L{Clock.advance} would do it at once.
    """
    for call in list(clock.getDelayedCalls()):
        if call.active() and call.getTime() <= clock.seconds():
            function, args, keywords = call.func, call.args, call.kw
            call.cancel()
            function(*args, **keywords)


class LaterRuntime(FakeTradingRuntime):
    """
    A runtime that reserves when the test says so.
    """

    def submit(self, operation: Any) -> Any:
        """
        See L{ITradingRuntime.submit}.
        """
        self.asked.append((operation, Deferred()))
        return self.asked[-1][1]

    def reserve(self) -> Reservation:
        """
        Give the oldest submission an order.
        """
        operation, reserved = self.asked.pop(0)
        reservation = FakeTradingRuntime.submit(self, operation)
        reserved.callback(reservation)
        return reservation
