"""
Tokens that become valid and expire as the wall clock steps.
"""

import time
from functools import partial
from typing import Final

from attrs import Factory, define, field

from tests.load.record import YEARS, Message, decode, health, token
from tests.load.talks import Conversation, Talks
from tests.load.wall import LATE, Wall

# Seconds after the start at which the listener's token ends, by the wall clock.
ENDS: Final = 1800.0
# Seconds around a step in which an event may come before or after it.
EDGE: Final = 0.05


@define(eq=False)
class Tokens:
    """
    Tokens that are good or not by the wall clock, shown after each step, and a
    listener that is sent events for as long as its own is good.

    @ivar heard: When the listener heard of each order.
    @ivar listening: The stretches in which it had to hear of everything.
    @ivar uptimes: What the server said of its own age.
    """

    _port: int
    _wall: Wall
    _talks: Talks
    shown: int = 0
    heard: dict[int, float] = Factory(dict)
    listening: list[tuple[float, float]] = Factory(list)
    uptimes: list[int] = Factory(list)
    problems: list[str] = Factory(list)
    _letIn: float | None = None
    _expected: dict[int, tuple[str, int]] = Factory(dict)
    _ends: float = field(init=False)
    _token: str = field(init=False)
    _probe: Conversation = field(init=False)
    _listener: Conversation = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._ends = self._wall.now + ENDS
        self._token = token(start=self._wall.now - 30 * YEARS, lasts=30 * YEARS + ENDS)
        self._probe, self._listener = Conversation(self._port), Conversation(self._port)
        self._talks.add(self._probe, self._hear)
        self._talks.add(self._listener, self._hearListener)

    @property
    def isAnswered(self) -> bool:
        """
        Whether every token that was sent has a reply.
        """
        return not self._expected

    def show(self) -> None:
        """
        Send tokens, and record the reply that each must get now.
        """
        wall = self._wall.now
        fresh = partial(token, jti=f"shown {self.shown}")
        self._say(self._listener, "the listener's", self._token, wall < self._ends)
        self._say(self._probe, "a new", fresh(start=wall - 2, lasts=7200), True)
        self._say(self._probe, "an ended", fresh(start=wall - 100, lasts=98), False)
        self._say(self._probe, "a coming", fresh(start=wall + 60, lasts=60), False)

    def _say(self, where: Conversation, which: str, shown: str, isGood: bool) -> None:
        self.shown += 1
        self._expected[self.shown] = which, 200 if isGood else 401
        where.send(health(shown, str(self.shown)))

    def _hear(self, lines: list[bytes]) -> None:
        for line in lines:
            message = decode(line)
            if message.event is None:
                self._judged(message)

    def _hearListener(self, lines: list[bytes]) -> None:
        now = time.monotonic()
        for line in lines:
            message = decode(line)
            if message.event is not None:
                self._heardOf(message.data.order, now)
                continue
            self._judged(message)
            self._letIn = now if message.status == 200 else None

    def _heardOf(self, order: int, now: float) -> None:
        if order in self.heard:
            self.problems.append(f"the listener heard twice of order {order}")
        self.heard[order] = now
        # An event may have been sent a moment ago, when its token was valid.
        said = self._wall.said(now - LATE / 2, now)
        if all(wall >= self._ends for wall, _ in said):
            self.problems.append(f"an ended token's session heard of order {order}")

    def _judged(self, message: Message) -> None:
        which, status = self._expected.pop(int(message.extID or 0), ("no", 0))
        if message.status != status:
            self.problems.append(
                f"{which} token was answered {message.status}, not {status}, when the"
                f" wall clock said {self._wall.now:.0f}"
            )
        if message.status == 200:
            self.uptimes.append(message.data.uptime)

    def willStep(self) -> None:
        """
        Record until when the listener was let in.
        """
        if self._letIn is not None:
            self.listening.append((self._letIn, time.monotonic()))
            self._letIn = None

    def check(self, published: dict[int, float], seconds: float) -> None:
        """
        Check that the listener received every order that another session did,
        and that the server's uptime is no longer than it has been running.

        @param published: When another session received each order.
        @param seconds: How long all of this took.
        """
        for since, until in self.listening:
            self.problems += [
                f"a good token's session did not hear of order {order}"
                for order, at in published.items()
                if since + EDGE < at < until - EDGE and order not in self.heard
            ]
        if not self.uptimes:
            self.problems.append("the server never told its uptime")
            return
        first, last = self.uptimes[0], self.uptimes[-1]
        if self.uptimes != sorted(self.uptimes) or last - first > seconds + 1:
            self.problems.append(f"the server's uptime went from {first} to {last} s")
