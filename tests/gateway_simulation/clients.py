"""
The clients of the gateway: one kind requests operations and repeats them under their
keys, the other follows the journal.
"""

import json
from random import Random
from typing import Any

from attrs import Factory, define
from twisted.internet.protocol import Protocol

from creditsync.codes import MAX_COMMENT
from tests.gateway_simulation.gateway import Gateway
from tests.gateway_simulation.setting import LOGINS
from tests.gateway_simulation.wires import End, Process, Wires
from tests.simulation.world import Reactor, World

# What makes some comments longer than a platform may keep, with a tag or without.
_LONGER = ("", " for the spring promotion", " for clients that come back in spring")

# Seconds after which a request on a connection that is there must have its reply: the
# server's timeout, and a moment.
PATIENCE = 6.0
# How often a request with a key is tried.
TRIES = 6

CMDS = {"BalanceIn": 6, "CreditIn": 7, "BalanceOut": 8, "CreditOut": 9}


@define(eq=False)
class Attempt:
    """
    One try of a request.

    @ivar since: When it was sent.
    @ivar reply: The line of its reply, or L{None}.
    @ivar isLost: Whether its connection has ended before that.
    """

    since: float
    reply: dict[str, Any] | None = None
    until: float | None = None
    isLost: bool = False

    @property
    def status(self) -> int:
        """
        That of its reply, or 0.
        """
        return 0 if self.reply is None else int(self.reply["status"])


@define(eq=False)
class Asked:
    """
    What a client wants, over all its tries.

    @ivar comment: As the platform keeps it the judge knows it by that; others may have
        the same.
    @ivar kind: C{"add"}, C{"update"} or C{"delete"}.
    @ivar order: That it changes.
    """

    number: int
    command: str
    kind: str
    login: int
    cmd: int
    amount: int
    comment: str
    key: str | None
    longest: int
    order: int = 0
    attempts: list[Attempt] = Factory(list)

    @property
    def kept(self) -> str:
        """
        Its comment, as the platform keeps it.
        """
        return self.comment[: self.longest]

    @property
    def statuses(self) -> list[int]:
        """
        Those of all its tries.
        """
        return [each.status for each in self.attempts]

    def line(self, extID: str) -> dict[str, Any]:
        """
        The request of a try.
        """
        data: dict[str, Any] = {"order": self.order}
        if self.kind != "delete":
            data = {"login": self.login, "amount": self.amount, "comment": self.comment}
            if self.order:
                data["order"] = self.order
        line = {
            "command": self.command,
            "extID": extID,
            "__token": "manager",
            "data": data,
        }
        return line if self.key is None else {**line, "idempotencyKey": self.key}


class Client(Protocol):
    """
    One program, over all its connections.

    @ivar wants: How many requests it still makes.
    @ivar asked: Those that it has made.
    """

    def __init__(
        self, world: World, name: str, gateway: Gateway, wants: int, numbers: Any
    ) -> None:
        self.world = world
        self.name = name
        self.random = world.generator()
        self._network = world.generator()
        self._gateway = gateway
        self.wants = wants
        self._numbers = numbers
        self.asked: list[Asked] = []
        self.found: list[tuple[float, Asked, dict[str, Any]]] = []
        self.process = Process(world, name, Reactor(world))
        self.end: End | None = None
        self._waiting: dict[str, tuple[Asked, Attempt]] = {}
        self._looking: dict[str, Asked] = {}
        self._extIDs = 0
        self._input = b""
        self.orders: list[tuple[int, int, int]] = []
        self.isQuiet = False
        self.problems: list[str] = []

    def start(self) -> None:
        """
        Connect, and begin.
        """
        self.connect()
        self.world.later(self.random.random(), self._next)

    def connect(self) -> None:
        """
        Connect, unless it is connected.
        """
        if self.end is None:
            wires = Wires(
                self.process, self._network, self._gateway.listening, self._made
            )
            wires.connect(self).addErrback(self._later)

    def buildProtocol(self, address: object) -> Protocol:
        """
        It is its own factory.
        """
        return self

    def _made(self, ours: End, theirs: End) -> None:
        self.end = ours
        theirs.tap = self._answered
        self._input = b""

    def _answered(self, line: bytes) -> None:
        """
        The gateway is about to send a line to it.
        """
        self.world.note(self.name, "is told", line)
        members = json.loads(line)
        data = members.get("data")
        if members.get("status") != 200 or members.get("extID") not in self._waiting:
            return
        if isinstance(data, dict) and data.get("state") in (3, 6):
            record = self._gateway.disk.ledger.trade(data["order"])
            if record is None:
                self.problems.append(
                    f"order {data['order']}: 200 before it is on the gateway's disk"
                )

    def connectionMade(self) -> None:
        """
        Nothing is said first.
        """

    def _later(self, why: object) -> None:
        self.end = None
        self.world.later(0.2 + self.random.random(), self.connect)

    def connectionLost(self, reason: Any = None) -> None:
        """
        What was sent has no reply, and never will.
        """
        waiting, self._waiting = self._waiting, {}
        self._looking.clear()
        for asked, attempt in waiting.values():
            attempt.isLost, attempt.until = True, self.world.now
            self._again(asked)
        self._later(None)

    def dataReceived(self, data: bytes) -> None:
        """
        Take lines.
        """
        *lines, self._input = (self._input + data).split(b"\r\n")
        for line in lines:
            self.lineReceived(json.loads(line))

    def lineReceived(self, members: dict[str, Any]) -> None:
        """
        Take a line.
        """
        extID = members.get("extID")
        if extID in self._looking:
            self.found.append((self.world.now, self._looking.pop(extID), members))
        if extID not in self._waiting:
            return
        asked, attempt = self._waiting.pop(extID)
        attempt.reply, attempt.until = members, self.world.now
        data = members.get("data")
        if members["status"] == 200 and isinstance(data, dict):
            self.orders.append((data["order"], asked.login, asked.cmd))
        elif members["status"] in (429, 500, 503, 504):
            self._again(asked)

    # What it wants.

    def _next(self) -> None:
        if self.isQuiet or not self.wants:
            return
        self.wants -= 1
        self.ask(self._new())
        pause = self.random.choice((0.0, 0.02, 0.5, 2.0, 5.0))
        self.world.later(pause, self._next)

    def _new(self) -> Asked:
        random, number = self.random, next(self._numbers)
        form = random.choice(("Sync", "Sync", ""))
        kind = random.choice(("add",) * 6 + ("update", "delete"))
        key = f"key {number}" if random.random() < 0.8 else None
        if kind != "add" and self.orders:
            order, login, cmd = random.choice(self.orders)
        else:
            kind, order, login = "add", 0, random.choice(LOGINS)
            cmd = random.choice((6, 7, 7, 7, 8, 9))
        method = next(name for name, each in CMDS.items() if each == cmd)
        amount = random.randrange(1, 4) * (-1 if cmd > 7 else 1)
        # Some are alike, as two credits of the same promotion are.
        comment = "alike" if random.random() < 0.2 and kind == "add" else f"r{number}"
        longest = self._gateway.setting.longest
        if comment != "alike" and longest < MAX_COMMENT:
            comment += Random(f"{self.world.seed} {number}").choice(_LONGER)
        command = f"{method}{form}"
        if kind == "delete":
            command = f"Delete{'Credit' if cmd in (7, 9) else 'Balance'}{form}"
        return Asked(
            number, command, kind, login, cmd, amount, comment, key, longest, order
        )

    def ask(self, asked: Asked) -> None:
        """
        Try a request.
        """
        if asked not in self.asked:
            self.asked.append(asked)
        attempt = Attempt(self.world.now)
        if self.end is None or self.end.disconnecting:
            # It was never sent, and so it is no try.
            if asked.key is not None or not asked.attempts:
                self.world.later(1.0, self.ask, asked)
            return
        asked.attempts.append(attempt)
        self._extIDs += 1
        extID = f"{self.name}-{self._extIDs}"
        self._waiting[extID] = asked, attempt
        self.world.note(self.name, f"asks {asked.number}")
        self._send(asked.line(extID))
        self.world.later(PATIENCE, self._overdue, extID, asked, attempt)

    def _send(self, line: dict[str, Any]) -> None:
        assert self.end is not None
        self.end.write(json.dumps(line).encode() + b"\r\n")

    def _overdue(self, extID: str, asked: Asked, attempt: Attempt) -> None:
        if extID in self._waiting and attempt.reply is None:
            self.problems.append(f"request {asked.number} has no reply in time")

    def _again(self, asked: Asked) -> None:
        if asked.key is None or len(asked.attempts) >= TRIES:
            return
        pause = self.random.choice((0.1, 1.0, 10.0, 60.0))
        self.world.later(pause, self._repeat, asked)

    def _repeat(self, asked: Asked) -> None:
        if not self.isQuiet:
            self.ask(asked)

    def lookUp(self) -> None:
        """
        Look at what became of everything that has a key.
        """
        for asked in self.asked:
            if asked.key is None or self.end is None:
                continue
            self._extIDs += 1
            extID = f"{self.name}-{self._extIDs}"
            self._looking[extID] = asked
            data = {"idempotencyKey": asked.key}
            self._send(
                {
                    "command": "GetOperation",
                    "extID": extID,
                    "__token": "manager",
                    "data": data,
                }
            )


class Follower(Protocol):
    """
    A program that follows the journal, over all its connections.

    @ivar token: With which it does.
    @ivar events: The place, the type and the data of each event.
    @ivar times: When it came.
    """

    name = "follower"

    def __init__(self, world: World, gateway: Gateway, token: str = "manager") -> None:
        self.world = world
        self.token = token
        self._gateway = gateway
        self._random: Random = world.generator()
        self.process = Process(world, self.name, Reactor(world))
        self.events: list[tuple[int, int, dict[str, Any]]] = []
        self.times: list[float] = []
        self.problems: list[str] = []
        self.end: End | None = None
        self._cursor = "first"
        self._input = b""

    def connect(self) -> None:
        """
        Connect.
        """
        wires = Wires(self.process, self._random, self._gateway.listening, self._made)
        wires.connect(self).addErrback(self._later)

    def buildProtocol(self, address: object) -> Protocol:
        """
        It is its own factory.
        """
        return self

    def _made(self, ours: End, theirs: End) -> None:
        self.end = ours
        self._input = b""

    def _later(self, why: object) -> None:
        self.end = None
        self.world.later(0.5, self.connect)

    def connectionMade(self) -> None:
        """
        Go on behind the last event.
        """
        assert self.end is not None
        line = {
            "command": "Subscribe",
            "extID": "s",
            "__token": self.token,
            "data": {"chanels": ["trade:event"], "since": self._cursor},
        }
        self.end.write(json.dumps(line).encode() + b"\r\n")

    def connectionLost(self, reason: Any = None) -> None:
        """
        Connect again.
        """
        self._later(None)

    def dataReceived(self, data: bytes) -> None:
        """
        Take lines.
        """
        *lines, self._input = (self._input + data).split(b"\r\n")
        for line in lines:
            members = json.loads(line)
            if "event" not in members:
                # It may come while the gateway stops, and comes again then.
                if members["status"] != 200 and members["error"] != "SHUTDOWN":
                    self.problems.append(f"the follower is refused: {members}")
                continue
            self._cursor = members["data"]["cursor"]
            place = int(self._cursor.rpartition("-")[2])
            self.events.append((place, members["type"], members["data"]))
            self.times.append(self.world.now)
            if self._gateway.disk.ledger.head < place:
                self.problems.append(f"event {place} comes before it is on disk")
