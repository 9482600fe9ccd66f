"""
A sandbox in memory, with a clock that is set forward by hand, and its clients.
"""

import json
from typing import Any

from attrs import Factory, define, field
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from creditsync._sandbox.life import Life
from creditsync._sandbox.script import Script
from creditsync._sandbox.service import OURS, Sandbox
from creditsync.events import TradeEvents
from creditsync.ledger.memory import MemoryLedger
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator

NOW = 1767225600

CREDIT = {"login": 1001, "amount": 300.0, "comment": "Promotion credit"}


def quiet(seed: int = 0) -> Script:
    """
    A script in which nothing happens.
    """
    script = Script(seed)
    script.clear()
    return script


@define(eq=False)
class Platform:
    """
    A sandbox in memory.

    @ivar ledger: What a crash does not touch.
    """

    script: Script = Factory(quiet)
    unknown: frozenset[str] = OURS
    clock: Clock = Factory(Clock)
    ledger: MemoryLedger = Factory(lambda: MemoryLedger(1242281))
    authenticator: FakeAuthenticator = Factory(FakeAuthenticator)
    sandbox: Sandbox = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.sandbox = Sandbox(
            self.clock, self._server, self.script, unknown=self.unknown
        )
        self.sandbox.startService()

    def _server(self, life: Life) -> CreditSync:
        events = TradeEvents()
        ledger = life.ledger(self.ledger)
        return CreditSync(
            self.clock,
            runtime=life.runtime(
                self.clock,
                ledger,
                events,
                now=lambda: NOW + self.clock.seconds(),
                maxQueued=1000,
                selfApproval=True,
            ),
            events=events,
            authenticator=self.authenticator,
            listen=[],
        )

    def client(self) -> "Client":
        """
        Connect.
        """
        return Client(self)

    def passes(self, seconds: float) -> None:
        """
        Let a time pass, in small steps.
        """
        for _ in range(round(seconds * 100)):
            self.clock.advance(0.01)

    def stop(self) -> "Deferred[None]":
        """
        Stop it in order.
        """
        stopped = self.sandbox.stopService()
        self.passes(6)
        return stopped

    def booked(self) -> list[tuple[int, int, str]]:
        """
        What is on disk: the order, the state and the comment of each event.
        """
        events = self.ledger.events(0, 1000)
        trades = [event.data for event in events]
        return [(each.order, each.state, each.comment) for each in trades]  # type: ignore[union-attr]


@define(eq=False)
class Client:
    """
    One connection to it.
    """

    _platform: Platform
    wire: Any = Factory(lambda: StringTransport(lenient=True))
    protocol: Any = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.protocol = self._platform.sandbox.factory.buildProtocol(None)
        self.protocol.makeConnection(self.wire)

    @property
    def isOpen(self) -> bool:
        """
        Whether the platform has not closed it.
        """
        return not self.wire.disconnecting

    def send(
        self,
        command: str,
        extID: object = 1,
        data: object = None,
        token: str = "manager",
        **members: object,
    ) -> None:
        """
        Send a request.
        """
        line = {"command": command, "extID": extID, "__token": token, **members}
        line["data"] = CREDIT if data is None else data
        self.protocol.dataReceived(json.dumps(line).encode() + b"\r\n")

    def ask(self, *arguments: Any, **named: Any) -> Any:
        """
        Send a request, and return its reply, which comes at once.
        """
        self.send(*arguments, **named)
        self._platform.passes(0.02)
        [reply] = [line for line in self.lines() if "extID" in line]
        return reply

    def fault(self, name: str, **members: object) -> None:
        """
        Set a fault.
        """
        reply = self.ask("SandboxFault", 0, {"name": name, **members}, "admin")
        assert reply["status"] == 200, reply

    def lines(self) -> list[Any]:
        """
        The lines since the last call.
        """
        data = self.wire.value()
        self.wire.clear()
        return [json.loads(line) for line in data.splitlines()]

    def told(self, seconds: float = 1.0) -> list[tuple[object, ...]]:
        """
        Let a time pass, and return what was sent until then: C{("reply", extID,
        status)} and C{("event", order, state)}.
        """
        self._platform.passes(seconds)
        return [
            ("reply", line["extID"], line["status"])
            if "extID" in line
            else ("event", line["data"]["order"], line["data"]["state"])
            for line in self.lines()
        ]

    def close(self) -> None:
        """
        End the connection.
        """
        self.protocol.connectionLost(Failure(ConnectionDone()))
