"""
Clients that subscribe from places, read in pages, drop and resume, in random order::

    python -m tests.resuming [--rounds N] [--seed N] [--plant BUG] [--json FILE]

Commits and page reads end when chance says so, clients stall and leave, and tokens
change and expire. Whatever happens, each client must get each event behind its place
once and in order.
"""

import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from attrs import Factory, define
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock

from creditsync._conversation import catchups
from creditsync._conversation.broadcast import Broadcast
from creditsync._conversation.commands import (
    GetOperation,
    HealthCheck,
    SetAccountGroup,
    Subscription,
)
from creditsync._conversation.finance import financeCommands
from creditsync._conversation.lookups import Lookups, lookupCommands
from creditsync._conversation.rights import Rights
from creditsync._conversation.sessions import Sessions
from creditsync._conversation.waiters import Waiters
from creditsync.events import TradeEvents
from creditsync.ledger.memory import MemoryLedger
from creditsync.records import Limits, Operation
from creditsync.runtime import TradingRuntime
from creditsync.testing import FakeAuthenticator, HeldLedger
from creditsync.validation import Schemas
from tests.figures import Figures
from tests.observed import turnOnce
from tests.planted.bugs import plant
from tests.test_session import Client

SCHEMAS = Schemas()
EPOCH = "9f3c1a7e"
CHANNELS = {"chanels": ["trade:event"]}

# A page that a course needs some of.
PAGE = 4

Read = tuple[Callable[[], Any], "Deferred[Any]"]


class Wrong(Exception):
    """
    A client got something else than it has to.
    """


def _same(got: object, wanted: object) -> None:
    if got != wanted:
        raise Wrong(f"{got} instead of {wanted}")


class Journal:
    """
    The journal of a trading runtime, whose parts a test can replace.
    """

    def __init__(self, site: "Site") -> None:
        self._site = site
        self.placeOf: Any = site.runtime.placeOf
        self.epoch = site.runtime.epoch

    @property
    def head(self) -> int:
        """
        See L{IJournal.head}.
        """
        head: int = self._site.runtime.head
        return head

    def events(self, after: int, limit: int) -> Any:
        """
        See L{IJournal.events}.
        """
        self._site.pages.append((after, limit))
        return self._site.runtime.events(after, limit)


@define(eq=False, slots=False)
class Site:
    """
    A server without connections, on a ledger whose commits and page reads end when the
    test says so.

    @ivar holdsReads: Whether page reads are held back.
    @ivar reads: Those that are.
    @ivar pages: The places behind which pages were read, each with how many events
        were wanted.
    """

    clock: Clock = Factory(Clock)
    authenticator: FakeAuthenticator = Factory(FakeAuthenticator)
    events: TradeEvents = Factory(TradeEvents)
    ledger: Any = Factory(lambda: HeldLedger(MemoryLedger(epoch=EPOCH)))
    holdsReads: bool = False
    reads: list[Read] = Factory(list)
    pages: list[tuple[int, int]] = Factory(list)

    def __attrs_post_init__(self) -> None:
        """
        Start it.
        """
        self.runtime: Any = TradingRuntime(
            self.clock,
            self.ledger,
            self.events,
            now=lambda: 1767225600.0,
            maxQueued=10_000,
            read=self._read,
        )
        self.runtime.startService()
        self.journal = Journal(self)
        self.waiters = Waiters(self.clock, 5.0)
        rights = Rights(self.runtime.groupOf)
        self.broadcast = Broadcast(self.authenticator, self.waiters, rights=rights)
        lookups = Lookups(
            self.clock, self.runtime, self.broadcast, rights, Limits(), 5.0
        )
        self.sessions = Sessions(
            commands=[
                *financeCommands(self.runtime, rights=rights),
                SetAccountGroup(self.runtime),
                GetOperation(self.runtime, self.broadcast, rights),
                *lookupCommands(lookups),
                HealthCheck(self.clock, self.waiters, self.broadcast),
                Subscription("Subscribe", True, self.broadcast),
                Subscription("Unsubscribe", False, self.broadcast),
            ],
            authenticator=self.authenticator,
            schemas=SCHEMAS,
            waiters=self.waiters,
            broadcast=self.broadcast,
            limits=Limits(),
        )
        self.events.addObserver(self.broadcast.tradeEvents)
        self.broadcast.start(self.clock, self.journal)  # type: ignore[arg-type]

    @property
    def catchUps(self) -> Any:
        """
        The sessions that are catching up.
        """
        return self.broadcast._catchUps

    def _read(self, function: Callable[[], Any]) -> "Deferred[Any]":
        if not self.holdsReads:
            return maybeDeferred(function)
        held: Deferred[Any] = Deferred()
        self.reads.append((function, held))
        return held

    def endRead(self) -> None:
        """
        Have the oldest page read end.
        """
        function, held = self.reads.pop(0)
        maybeDeferred(function).chainDeferred(held)

    def ask(self, count: int) -> None:
        """
        Submit credits, whose commit begins.
        """
        for _ in range(count):
            self.runtime.submit(Operation("CreditIn", 7, 1001, 100_000_000, "x"))
        self.clock.advance(0)

    def book(self, count: int) -> None:
        """
        Book credits.
        """
        self.ask(count)
        while self.ledger.commits:
            self.ledger.release()

    def step(self) -> None:
        """
        Let the reactor turn once.
        """
        turnOnce(self.clock)

    def turn(self) -> None:
        """
        Let the reactor turn until nothing is to be done now.
        """
        while any(
            each.getTime() <= self.clock.seconds()
            for each in self.clock.getDelayedCalls()
        ):
            self.clock.advance(0)

    def settle(self) -> None:
        """
        Let all that was asked for be done.
        """
        self.turn()
        while self.ledger.commits:
            self.ledger.release()
            self.turn()
        # The pause after a search.
        self.clock.advance(0.02)


def since(client: Client, cursor: object, token: str = "manager") -> None:
    """
    Subscribe from a place.
    """
    client.asks("Subscribe", "s", {**CHANNELS, "since": cursor}, token)


def places(client: Client) -> list[int]:
    """
    Take the places of the events among the received lines.
    """
    return [
        int(line["data"]["cursor"].removeprefix(f"{EPOCH}-"))
        for line in client.hears()
        if "event" in line
    ]


@define(eq=False)
class Follower:
    """
    A client, and the place of the event that it has to get next.
    """

    client: Client
    token: str = "manager"
    next: int | None = None


class Course:
    """
    One random course of things.
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.site = Site(holdsReads=True)
        self.followers = [Follower(Client(self.site.sessions)) for _ in range(4)]

    def run(self) -> None:
        """
        Do things, then let all end.
        """
        things = [
            self.book,
            self.release,
            self.release,
            self.endRead,
            self.endRead,
            self.turn,
            self.turn,
            self.turn,
            self.subscribe,
            self.subscribeElsewhere,
            self.resubscribe,
            self.stall,
            self.readOn,
            self.leave,
            self.unsubscribe,
            self.renew,
            self.expire,
        ]
        for _ in range(150):
            self.random.choice(things)()
            self.hear()
        self.site.holdsReads = False
        for follower in self.followers:
            follower.client.session.isStalled = False
            follower.client.session.readOn()
        while self.site.ledger.commits or self.site.reads:
            self.release()
            self.endRead()
            self.site.turn()
        self.site.turn()
        self.hear()
        for follower in self.followers:
            if follower.next is not None:
                _same(self.site.ledger.head + 1, follower.next)

    @property
    def one(self) -> Follower:
        """
        Any of them.
        """
        return self.random.choice(self.followers)

    def book(self) -> None:
        """
        Ask for some credits.
        """
        self.site.ask(self.random.randint(1, 6))

    def release(self) -> None:
        """
        Let a commit end.
        """
        if self.site.ledger.commits:
            self.site.ledger.release()

    def endRead(self) -> None:
        """
        Let a page read end.
        """
        if self.site.reads:
            self.site.endRead()

    def turn(self) -> None:
        """
        Let the reactor turn once.
        """
        self.site.step()

    def subscribe(self, follower: Follower | None = None) -> None:
        """
        Begin at any place.
        """
        follower = follower or self.one
        self.hear()
        place = self.random.randint(0, self.site.catchUps.published)
        since(follower.client, f"{EPOCH}-{place}", follower.token)
        follower.next = place + 1

    def subscribeElsewhere(self) -> None:
        """
        Ask for a place of another ledger: that changes nothing.
        """
        follower = self.one
        self.hear()
        since(follower.client, "00000000-0", follower.token)
        [reply] = follower.client.replies()
        _same(reply["status"], 410)

    def resubscribe(self) -> None:
        """
        Subscribe without a place: what was on goes on.
        """
        follower = self.one
        follower.client.asks("Subscribe", "s", CHANNELS, follower.token)
        if follower.next is None:
            follower.next = self.site.catchUps.published + 1

    def unsubscribe(self) -> None:
        """
        Want no more.
        """
        follower = self.one
        follower.client.asks("Unsubscribe", "s", CHANNELS, follower.token)
        self.hear()
        follower.next = None

    def stall(self) -> None:
        """
        Stop reading.
        """
        self.one.client.session.isStalled = True

    def readOn(self) -> None:
        """
        Read on.
        """
        session = self.one.client.session
        session.isStalled = False
        session.readOn()

    def leave(self) -> None:
        """
        Lose the connection, and resume on another one.
        """
        follower = self.one
        self.hear()
        follower.client.session.ended()
        follower.client = Client(self.site.sessions)
        if follower.next is not None:
            cursor = f"{EPOCH}-{follower.next - 1}"
            since(follower.client, cursor, follower.token)

    def renew(self) -> None:
        """
        Go on under another token.
        """
        follower = self.one
        follower.token = "admin" if follower.token == "manager" else "manager"
        command = "HealthCheck" if follower.next is not None else "Unsubscribe"
        data = {} if follower.next is not None else CHANNELS
        follower.client.asks(command, "h", data, follower.token)

    def expire(self) -> None:
        """
        Have a token expire; whoever had it resumes with one that is valid again.
        """
        self.hear()
        self.site.authenticator.revoked.add("manager")
        for _ in range(self.random.randint(0, 3)):
            self.turn()
        self.site.authenticator.revoked.clear()
        for follower in self.followers:
            self.hear()
            if follower.token == "manager" and follower.next is not None:
                cursor = f"{EPOCH}-{follower.next - 1}"
                since(follower.client, cursor, follower.token)

    def hear(self) -> None:
        """
        Check what came.
        """
        for follower in self.followers:
            for place in places(follower.client):
                if follower.next is None:
                    # Before its first command, or without a wish: live events.
                    continue
                _same(place, follower.next)
                follower.next += 1


def main() -> None:
    """
    Run as many courses as the command line says.
    """
    parser = ArgumentParser(description="Let clients resume.")
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plant", metavar="BUG")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    plant(options.plant)
    started = time.monotonic()
    catchups._PAGE = PAGE  # type: ignore[misc]
    for seed in range(options.seed, options.seed + options.rounds):
        try:
            Course(seed).run()
        except Exception as e:
            print(f"VIOLATION: seed {seed}: {e!r}")
            sys.exit(1)
    figures = Figures(courses=options.rounds)
    figures["seconds"] = round(time.monotonic() - started, 1)
    figures.show(options.json)
    print(f"sound: {options.rounds} courses, and no event missed or sent twice")


if __name__ == "__main__":
    main()
