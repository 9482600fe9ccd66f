"""
Clients of several nodes, in one thread: each keeps operations under way on one node,
moves to another one when its connection ends, and sends again there, under the same
keys, what had no answer. Each also follows the journal, over all nodes.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from json import dumps
from typing import Any, Final

import msgspec
from attrs import Factory, define, field

from creditsync.auth import mint
from tests.family import ADD
from tests.integration.processes import SECRET
from tests.postgres.judge import Violation
from tests.postgres.told import PRINCIPAL, Asked, Told

# Seconds without any answer after which all are given up.
PATIENCE: Final = 30.0


@define(eq=False)
class Load:
    """
    Operations of the finance family.

    @ivar logins: The accounts, of which few are hot.
    @ivar left: How many new ones there are to come.
    @ivar shared: How many orders are changed over and over by all.
    @ivar pace: Seconds that each client waits before it sends more.
    """

    told: Told
    random: random.Random
    left: float
    logins: Sequence[int] = range(1001, 1041)
    shared: int = 200
    pace: float = 0.0
    again: deque[Asked] = Factory(deque)
    _orders: deque[Asked] = Factory(deque)

    def next(self) -> Asked | None:
        """
        What is sent next, or L{None} if there is nothing.
        """
        if self.again:
            return self.again.popleft()
        if self.left <= 0:
            return None
        self.left -= 1
        return self._new()

    def back(self, asked: Asked) -> None:
        """
        It has to be sent once more; without a key it can't.
        """
        if asked.key is not None:
            self.again.append(asked)

    def done(self, asked: Asked) -> None:
        """
        It was booked.
        """
        if asked.type == ADD:
            self._orders.append(asked)
            if len(self._orders) > self.shared:
                self._orders.popleft()

    def _new(self) -> Asked:
        chance = self.random.random()
        if chance < 0.3 and self._orders:
            return self._change(self.random.choice(self._orders))
        if chance < 0.34 and self._orders:
            made = self._orders.popleft()
            kind = "Credit" if "Credit" in made.command else "Balance"
            return self.told.ask(
                f"Delete{kind}{self._sync()}", order=made.answers[0]["order"]
            )
        method, amount = self.random.choice(
            [("CreditIn", 9), ("BalanceIn", 9), ("CreditOut", -9), ("BalanceOut", -9)]
        )
        login = self.random.choice(self.logins)
        return self._ask(method, login=login, amount=self._amount(amount))

    def _change(self, made: Asked) -> Asked:
        data = made.data
        sign = 9 if data["amount"] > 0 else -9
        return self._ask(
            made.command.removesuffix("Sync"),
            login=data["login"],
            amount=self._amount(sign),
            order=made.answers[0]["order"],
        )

    def _amount(self, most: int) -> float:
        return (1 if most > 0 else -1) * self.random.randint(1, 100 * abs(most)) / 100

    def _sync(self) -> str:
        return "Sync" if self.random.random() < 0.7 else ""

    def _ask(self, method: str, **data: Any) -> Asked:
        return self.told.ask(method + self._sync(), self.random.random() < 0.75, **data)


@define(eq=False)
class Client:
    """
    One client.

    @ivar _ports: The nodes that it may go to.
    @ivar window: How many operations it has under way.
    @ivar follows: Whether it goes on behind the last place wherever it comes to. Then
        replies don't wait for their events, as long as it catches up.
    @ivar place: Of the last event that it has heard, or 0.
    @ivar port: Of its node.
    @ivar token: With which it asks.
    @ivar heard: The last place of which it has ever heard.
    @ivar mine: What it and nobody else is to send.
    @ivar waiting: What it waits for, by C{extID}.
    """

    load: Load
    _ports: Callable[[], Sequence[int]]
    window: int = 8
    follows: bool = True
    place: int = 0
    port: int = 0
    waiting: dict[str, Asked] = field(init=False, factory=dict)
    heard: int = field(init=False, default=0)
    mine: deque[Asked] = field(init=False, factory=deque)
    token: str = field(init=False)
    _transport: asyncio.Transport | None = field(init=False, default=None)
    # Whether events count.
    _isHearing: bool = field(init=False, default=False)
    _pause: float = field(init=False, default=0.0)
    _extIDs: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        now = time.time()
        self.token = mint(SECRET, id=PRINCIPAL, role=1, expires=86400, now=now)

    @property
    def told(self) -> Told:
        """
        What all were told.
        """
        return self.load.told

    async def talk(self) -> None:
        """
        Go on for ever.

        @raise Violation: It was told something wrong.
        """
        loop = asyncio.get_running_loop()
        while True:
            ports = self._ports()
            ended: asyncio.Future[None] = loop.create_future()
            try:
                if ports:
                    self.port = self.load.random.choice(ports)
                    await loop.create_connection(
                        lambda ended=ended: _Connection(self, ended),
                        "127.0.0.1",
                        self.port,
                    )
                    self.told.counts["connections"] += 1
                    await self._converse(ended)
            except OSError:
                pass
            finally:
                self._ended()
            await asyncio.sleep(0.02)

    def ask(self, asked: Asked) -> None:
        """
        Have it, and nobody else, send an operation.
        """
        self.mine.append(asked)
        if self._transport is not None:
            self.fill()

    def leave(self) -> None:
        """
        Lose the connection.
        """
        if self._transport is not None:
            self._transport.abort()

    async def _converse(self, ended: "asyncio.Future[None]") -> None:
        self._isHearing = not self.follows
        if self.follows:
            self._subscribe()
        else:
            self.place = 0
        while not ended.done():
            self.fill()
            await asyncio.wait([ended], timeout=0.05)
        ended.result()

    def received(self, line: bytes) -> None:
        """
        Take a line.
        """
        message = msgspec.json.decode(line)
        if "event" in message:
            self._hear(message)
        elif message["extID"] == "s":
            self._subscribed(message)
        else:
            self._take(message)

    def connected(self, transport: asyncio.Transport) -> None:
        """
        There is a connection.
        """
        self._transport = transport

    def _subscribe(self) -> None:
        since = f"{self.told.epoch}-{self.place}" if self.place else "first"
        data = {"chanels": ["trade:event"], "since": since}
        line = {"command": "Subscribe", "extID": "s", "__token": self.token}
        self._write(dumps({**line, "data": data}).encode() + b"\r\n")

    def _subscribed(self, reply: dict[str, Any]) -> None:
        if reply["status"] == 503:
            # Its events come from now on, and it wants those before, too.
            self.leave()
        elif reply["status"] != 200:
            raise Violation(f"behind place {self.place}: {reply}")
        else:
            self._isHearing = True

    def _hear(self, message: dict[str, Any]) -> None:
        if not self._isHearing:
            return
        place = self.told.heard(message)
        self.heard = max(self.heard, place)
        if place != self.place + 1 and (self.follows or self.place):
            raise Violation(f"after place {self.place} came {message}")
        self.place = place

    def fill(self) -> None:
        """
        Send as much as there may be under way.
        """
        if time.monotonic() < self._pause or not self._isHearing:
            return
        lines = []
        while len(self.waiting) < self.window:
            asked = self.mine.popleft() if self.mine else self.load.next()
            if asked is None:
                break
            asked.sent += 1
            self._extIDs += 1
            extID = f"{self._extIDs}.{asked.number}"
            self.waiting[extID] = asked
            lines.append(asked.line(extID, self.token))
        if lines:
            self._pause = time.monotonic() + self.load.pace
            self._write(b"".join(lines))

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def _take(self, reply: dict[str, Any]) -> None:
        asked = self.waiting.pop(reply["extID"], None)
        if asked is None:
            raise Violation(f"a reply that nobody waits for: {reply}")
        place = self.told.replied(asked, reply)
        isLate = place is not None and place > self.place
        if (
            isLate
            and not self.follows
            and not (reply.get("replayed") and not self.place)
        ):
            raise Violation(f"answered {reply} before the event, at {self.place}")
        if reply["status"] == 200:
            if len(asked.answers) == 1:
                self.load.done(asked)
        elif reply["status"] == 503:
            wait = reply.get("data", {}).get("retry_after_ms", 50)
            self._pause = time.monotonic() + wait / 1000
            self.load.again.append(asked)
        elif reply["status"] == 504:
            self.load.back(asked)

    def _ended(self) -> None:
        """
        Nobody knows what has become of what was under way.
        """
        self.leave()
        self._transport = None
        waiting, self.waiting = self.waiting, {}
        for asked in waiting.values():
            asked.unknown += 1
            self.told.counts["without an answer"] += 1
            self.load.back(asked)


class _Connection(asyncio.Protocol):
    """
    One connection of a client.
    """

    def __init__(self, client: Client, ended: "asyncio.Future[None]") -> None:
        self._client, self._ended = client, ended
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """
        See L{asyncio.Protocol}.
        """
        assert isinstance(transport, asyncio.Transport)
        self._client.connected(transport)

    def data_received(self, data: bytes) -> None:
        """
        See L{asyncio.Protocol}.
        """
        *lines, self._rest = (self._rest + data).split(b"\r\n")
        try:
            for line in lines:
                if not self._ended.done():
                    self._client.received(line)
            if not self._ended.done():
                self._client.fill()
        except Exception as e:
            self._ended.set_exception(e)

    def connection_lost(self, why: Exception | None) -> None:
        """
        See L{asyncio.Protocol}.
        """
        if not self._ended.done():
            self._ended.set_result(None)


@define(eq=False)
class Crowd:
    """
    Some clients, which go on until they are told to finish.

    @ivar _also: Called all the while; raises L{Violation} if something is wrong.
    """

    load: Load
    clients: list[Client]
    _also: Callable[[], object] = bool
    _tasks: "list[asyncio.Task[None]]" = field(init=False, factory=list)

    async def __aenter__(self) -> "Crowd":
        self._tasks = [asyncio.create_task(each.talk()) for each in self.clients]
        return self

    async def __aexit__(self, *_: object) -> None:
        for each in self._tasks:
            each.cancel()
        for each in self._tasks:
            with suppress(asyncio.CancelledError, Exception):
                await each

    @property
    def told(self) -> Told:
        """
        What they were told.
        """
        return self.load.told

    async def until(
        self, condition: Callable[[], object], what: str, seconds: float = PATIENCE
    ) -> None:
        """
        Let them talk until something is so.

        @raise Violation: It does not become so, or somebody was told something wrong.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise Violation(f"not within {seconds} s: {what}")
            await asyncio.sleep(0.01)
        self.check()

    def check(self) -> None:
        """
        @raise Violation: Somebody was told something wrong.
        """
        self._also()
        for each in self._tasks:
            if each.done():
                each.result()

    async def rest(self, seconds: float) -> None:
        """
        Let them talk for a while.
        """
        deadline = time.monotonic() + seconds
        await self.until(lambda: time.monotonic() >= deadline, "", seconds + 1)

    async def acknowledged(self, count: int) -> None:
        """
        Let them talk until so many more operations are acknowledged.
        """
        goal = self.told.counts["acknowledged"] + count
        await self.until(
            lambda: self.told.counts["acknowledged"] >= goal,
            f"{count} acknowledgements",
        )

    async def settled(self, asked: Asked) -> None:
        """
        Let them talk until an operation is settled.
        """
        await self.until(lambda: asked.isSettled, f"{asked} is answered")

    async def finish(self) -> None:
        """
        Send nothing new, and wait until all is settled and all have heard the same.
        """
        self.load.left = 0

        def isSettled() -> bool:
            return not self.load.again and not any(
                each.waiting for each in self.clients
            )

        await self.until(isSettled, "everything is answered")
        last = max(self.told.events, default=0)
        await self.until(
            lambda: all(each.place >= last for each in self.clients if each.follows),
            f"all hear place {last}",
        )
