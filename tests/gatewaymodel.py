"""
A gateway, a platform and clients in a world where everything can go wrong, driven by
one random number generator, and a judge that knows nothing of the gateway.

The judge compares three things at the end: what the platform has booked, what the
clients were told, and what the gateway's journal has. Each request has a comment that
no other request has, by which the judge knows its bookings. To look at many worlds:

    python -m tests.gatewaymodel --seeds 10000
"""

import sys
from argparse import ArgumentParser
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from attrs import Factory, define
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from creditsync.errors import OutcomeUnknown, Refusal
from creditsync.events import TradeEvents
from creditsync.gateway._intents import Intent
from creditsync.gateway._runtime import GatewayRuntime
from creditsync.gateway._states import State
from creditsync.gateway._tags import Tags
from creditsync.records import Deletion, Operation, Reservation, Trade, TradeEvent
from tests.figures import Figures
from tests.gateways import ONE, HeldIntentLog, deletion, operation
from tests.platforms import NOW, Link, Platform

LOGINS = (1001, 1002, 1003, 1004)

WAYS = ("one-shot", "two-phase")

# What a client's request may end with.
BOOKED, REFUSED, UNKNOWN, LOST = "booked", "refused", "unknown", "lost"


@define(eq=False)
class Attempt:
    """
    One try of a request.

    @ivar life: The life of the gateway in which it was made.
    @ivar answer: What the client was told, or L{None} as long as it waits.
    @ivar told: The trade of a 200.
    """

    request: "Request"
    life: int
    since: float
    answer: str | None = None
    why: Refusal | None = None
    told: Trade | None = None
    reservation: Reservation | None = None


@define(eq=False)
class Request:
    """
    What a client wants, over all its tries.

    @ivar comment: By which the judge knows it.
    """

    comment: str
    key: str | None
    login: int
    amount: int
    order: int = 0
    isDeletion: bool = False
    attempts: list[Attempt] = Factory(list)

    def asked(self) -> Operation | Deletion:
        """
        The operation of one try.
        """
        if self.isDeletion:
            return deletion(self.order, self.key)
        return operation(
            self.amount,
            self.login,
            key=self.key,
            order=self.order,
            comment=self.comment,
        )


class CheckedLink(Link):
    """
    A link that notes what is sent before it is durable.
    """

    log: Any
    wrong: list[str]

    def request(
        self, command: str, data: Mapping[str, Any], tag: object = None
    ) -> "Deferred[Any]":
        """
        See L{Link.request}.
        """
        if tag is not None:
            numbers = {each.number for each in self.log.unfinished()}
            if tag not in numbers:
                self.wrong.append(f"{command} was sent before it was durable")
        return super().request(command, data, tag)


class World:
    """
    Everything.

    @ivar wrong: What the judge has found.
    """

    makeLog: Callable[[], Any] = HeldIntentLog

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.clock = Clock()
        self.platform = Platform(self.now)
        self.platform.showsQueued = self.random.random() < 0.7
        if self.random.random() < 0.3:
            self.platform.hides.add(17)
        self.platform.showsEarly = self.random.random() < 0.3
        self.way = self.random.choice(WAYS)
        self.tags = Tags(Random(f"tags {seed}").random() < 0.5)
        self.log = type(self).makeLog()
        self.log.isHeld = True
        self.wrong: list[str] = []
        self.alarms: list[str] = []
        self.requests: list[Request] = []
        self.waiting: list[Attempt] = []
        self.published: list[TradeEvent] = []
        self.life = 0
        self.lostOrders: set[int] = set()
        self.changed: set[int] = set()
        # In a third of the worlds nothing goes wrong, in another third not much.
        self.trouble = self.random.choice((0.0, 0.3, 1.0))
        self._begin()
        self._settle()

    def now(self) -> float:
        """
        The UNIX time.
        """
        return NOW + self.clock.seconds()

    # The gateway's process.

    def _begin(self) -> None:
        self.life += 1
        self.link = CheckedLink(self.clock, self.platform, isAutomatic=False)
        self.link.log, self.link.wrong = self.log, self.wrong
        events = TradeEvents()
        events.addObserver(self._published)
        self.gateway = GatewayRuntime(
            self.clock,
            self.log,
            self.link,
            events,
            now=self.now,
            maxQueued=50,
            way=self.way,
            alarm=self.alarms.append,
            tags=self.tags,
        )
        self.gateway.startService()
        self.gateway.whenFailed().addErrback(
            lambda why: self.wrong.append(f"the gateway has failed: {why.value}")
        )
        self.link.connect()

    def crash(self) -> None:
        """
        Kill the gateway, and start it. Of what was being written, any part is on disk.
        """
        if self.random.random() < 0.5:
            self.log.finish()
        self.link.abandon()
        onTheWay = self.link.requests
        self.log.lose()
        for call in list(self.clock.getDelayedCalls()):
            call.cancel()
        for attempt in self.waiting:
            attempt.answer = LOST
        self.waiting.clear()
        self._begin()
        # What was sent may still arrive.
        self.link.requests.extend(onTheWay)

    def _published(self, events: Any) -> None:
        self.published.extend(events)
        for event in events:
            for attempt in list(self.waiting):
                promised = attempt.reservation
                if promised is None or event.operation is not promised.operation:
                    continue
                if event.type != promised.type:
                    self.wrong.append(f"{promised.order}: an event of another type")
                self._answer(attempt, BOOKED, told=event.data)

    # The clients.

    def _answer(
        self,
        attempt: Attempt,
        answer: str,
        told: Trade | None = None,
        why: Refusal | None = None,
    ) -> None:
        request = attempt.request
        if answer is BOOKED and not request.isDeletion:
            times = self._bookings(request)
            if times != 1:
                self.wrong.append(f"{request.comment}: told booked at {times} bookings")
        if attempt in self.waiting:
            self.waiting.remove(attempt)
            attempt.answer, attempt.told, attempt.why = answer, told, why

    def ask(self, request: Request) -> None:
        """
        Have a client try a request.
        """
        attempt = Attempt(request, self.life, self.clock.seconds())
        request.attempts.append(attempt)
        self.waiting.append(attempt)
        reserved = maybeDeferred(self.gateway.submit, request.asked())
        reserved.addCallbacks(
            self._reserved, self._refused, [attempt], errbackArgs=[attempt]
        )

    def _reserved(self, reservation: Reservation, attempt: Attempt) -> None:
        if reservation.isReplay:
            self._answer(attempt, BOOKED, told=reservation.trade)
        else:
            attempt.reservation = reservation
            reservation.whenDurable().addErrback(lambda why: None)

    def _refused(self, why: Failure, attempt: Attempt) -> None:
        if not isinstance(why.value, Refusal):
            self.wrong.append(f"the gateway raises {why.value!r}")
            return
        isUnknown = isinstance(why.value, OutcomeUnknown)
        self._answer(attempt, UNKNOWN if isUnknown else REFUSED, why=why.value)

    def _timeOut(self) -> None:
        for attempt in list(self.waiting):
            if self.clock.seconds() - attempt.since >= 5:
                self._answer(attempt, UNKNOWN)

    # What happens.

    def run(self, steps: int) -> None:
        """
        Let things happen, then let everything come to rest, and judge.
        """
        for _ in range(steps):
            self.step()
        self.rest()
        self.judge()

    def step(self) -> None:
        """
        Let one thing happen.
        """
        random = self.random
        weights = [
            weight * (self.trouble if name in _TROUBLE else 1.0)
            for name, weight in _STEPS
        ]
        what = random.choices([name for name, _ in _STEPS], weights)[0]
        getattr(self, f"_{what}")()
        self.clock.advance(0)
        self._timeOut()

    def _new(self) -> None:
        number = len(self.requests)
        random = self.random
        request = Request(
            f"request {number}",
            f"key {number}" if random.random() < 0.8 else None,
            random.choice(LOGINS),
            random.randrange(1, 4),
        )
        booked = [each for each in self.platform.trades.values() if each["cmd"] == 7]
        if booked and random.random() < 0.3:
            trade = random.choice(booked)
            request.order, request.login = trade["order"], trade["login"]
            request.isDeletion = random.random() < 0.4
        self.requests.append(request)
        self.ask(request)

    def _again(self) -> None:
        keyed = [
            each
            for each in self.requests
            if each.key and all(a.answer for a in each.attempts)
        ]
        if keyed:
            self.ask(self.random.choice(keyed))

    def _request(self) -> None:
        if self.link.requests:
            self.link.deliverRequest(self.random.randrange(len(self.link.requests)))

    def _loseRequest(self) -> None:
        if self.link.requests:
            del self.link.requests[self.random.randrange(len(self.link.requests))]

    def _reply(self) -> None:
        if self.link.replies:
            at = self.random.randrange(len(self.link.replies))
            self.link.deliverReply(at, isLast=self.random.random() < 0.9)

    def _loseReply(self) -> None:
        if self.link.replies:
            del self.link.replies[self.random.randrange(len(self.link.replies))]

    def _event(self) -> None:
        self.link.deliverEvent(isLast=self.random.random() < 0.9)

    def _loseEvent(self) -> None:
        if self.link.events:
            del self.link.events[self.random.randrange(len(self.link.events))]

    def _work(self) -> None:
        self.platform.work(1)

    def _write(self) -> None:
        self.log.release()

    def _cut(self) -> None:
        self.link.cut()

    def _connect(self) -> None:
        if not self.link.isConnected:
            self.link.connect()

    def _crash(self) -> None:
        self.crash()

    def _platformCrash(self) -> None:
        before = set(self.platform.trades)
        self.platform.crash()
        self.link.cut()
        self.lostOrders |= before - set(self.platform.trades)

    def _wait(self) -> None:
        self.clock.advance(self.random.choice((0.5, 1, 3, 11, 31)))

    def _person(self) -> None:
        self.platform.person(self.random.choice(LOGINS), 6, 1)

    def _personChanges(self) -> None:
        booked = [e for e in self.platform.trades.values() if e["state"] == 3]
        if booked:
            trade = self.random.choice(booked)
            self.platform.change(trade["order"], profit=self.random.randrange(5, 9))
            self.changed.add(trade["order"])

    def _settle(self) -> None:
        """
        Deliver everything that is on its way.
        """
        for _ in range(10_000):
            if self.link.requests:
                self.link.deliverRequest()
            elif self.link.replies:
                self.link.deliverReply()
            elif self.link.events:
                self.link.deliverEvent()
            elif self.log._writes:
                self.log.release()
            elif self.platform.isBusy:
                self.platform.work(1)
            else:
                self.clock.advance(0)
                if not (self.link.requests or self.log._writes):
                    return
            self.clock.advance(0)
        self.wrong.append("the gateway does not come to rest")

    def rest(self) -> None:
        """
        Let nothing go wrong any more, for some minutes.
        """
        self.platform.hides.clear()
        self._connect()
        if not self.trouble:
            self._settle()
            # Nothing was lost, so no look-up is needed to complete the journal. But of
            # two changes in one second, a look-up may have shown the second first.
            self._judgeJournal(self.changed)
        for _ in range(22):
            self._settle()
            self._timeOut()
            self.clock.advance(15)
            self._connect()
        self._settle()
        self._timeOut()

    # The judge.

    def judge(self) -> None:
        """
        Compare what was booked, told and written.
        """
        for request in self.requests:
            self._judgeRequest(request)
        for attempt in self.waiting:
            self.wrong.append(f"{attempt.request.comment} has no answer")
        self._judgeIntents()
        self._judgeJournal()
        for order, record in self.platform.trades.items():
            if record["state"] not in (3, 6, 18):
                self.wrong.append(f"order {order} is left in state {record['state']}")

    def _bookings(self, request: Request) -> int:
        applied = map(self.tags.off, self.platform.applied)
        return sum(each == request.comment for each in applied)

    def _judgeRequest(self, request: Request) -> None:
        bookings, who = self._bookings(request), request.comment
        answers = [each.answer for each in request.attempts]
        if request.isDeletion:
            trade = self.platform.trades.get(request.order)
            if BOOKED in answers and trade is not None and trade["state"] != 6:
                self.wrong.append(f"{who}: told deleted, and it is not")
            return
        if bookings > 1:
            self.wrong.append(f"{who}: booked {bookings} times")
        if BOOKED in answers and bookings != 1:
            self.wrong.append(f"{who}: told booked, and booked {bookings} times")
        if set(answers) == {REFUSED} and bookings:
            self.wrong.append(f"{who}: refused each time, and booked")
        for each in request.attempts:
            told = each.told
            if told is not None and (told.login, told.comment) != (request.login, who):
                self.wrong.append(f"{who}: told another trade, {told}")

    def _judgeIntents(self) -> None:
        for intent in self.log.unfinished():
            who = f"operation {intent.number} ({intent.comment})"
            if intent.state is not State.HELD:
                self.wrong.append(f"{who} is {intent.state.value} at the end")
                continue
            if not intent.why or not any(
                f"operation {intent.number} " in alarm for alarm in self.alarms
            ):
                self.wrong.append(f"{who} is held, and nobody was told why")
            if intent.type == 0 and self._isShown(intent):
                self.wrong.append(f"{who} is held, and the platform shows it booked")

    def _isShown(self, intent: Intent) -> bool:
        """
        Whether the platform shows what an operation has made, as it was made.
        """
        return any(
            (each["comment"], each["profit"] * ONE) == (intent.comment, intent.amount)
            for each in self.platform.trades.values()
            if each["state"] in (3, 6)
        )

    def _judgeJournal(self, but: Collection[int] = ()) -> None:
        ledger = self.log.ledger
        for order, record in self.platform.trades.items():
            if order in but or record["state"] not in (3, 6):
                continue
            trade = ledger.trade(order)
            want = record["login"], record["state"], int(record["profit"] * ONE)
            have = trade and (trade.login, trade.state, trade.profit)
            if have != want:
                self.wrong.append(f"order {order}: journal {have}, platform {want}")
        journal = ledger.events(0, ledger.head)
        places = [each.place for each in self.published]
        if len(set(places)) < len(places):
            self.wrong.append("an event was published twice")
        changes = [(each.order, each.type, each.data) for each in journal]
        added = [order for order, type, _ in changes if type == 0]
        if len(set(added)) < len(added):
            self.wrong.append("an order was added twice")
        for before, after in pairwise(changes):
            if before == after:
                self.wrong.append(f"a change is there twice: {after}")
        for order in added:
            if order not in self.platform.trades and order not in self.lostOrders:
                self.wrong.append(f"the journal has order {order}, the platform not")


# What may happen, and how often.
_STEPS = (
    ("new", 6),
    ("again", 3),
    ("request", 14),
    ("loseRequest", 1),
    ("reply", 14),
    ("loseReply", 1),
    ("event", 8),
    ("loseEvent", 1),
    ("work", 8),
    ("write", 16),
    ("cut", 1),
    ("connect", 3),
    ("crash", 1),
    ("platformCrash", 0.5),
    ("wait", 4),
    ("person", 1),
    ("personChanges", 0.5),
)
# What goes wrong.
_TROUBLE = frozenset(
    {"loseRequest", "loseReply", "loseEvent", "cut", "crash", "platformCrash"}
)


def violations(
    seeds: Iterable[int], steps: int = 150, figures: Figures | None = None
) -> Iterator[str]:
    """
    What the judge finds in some worlds.

    @param figures: Where to count what has happened in them.
    """
    figures = Figures() if figures is None else figures
    figures |= dict.fromkeys(("worlds", "requests", "bookings", "held"), 0)
    for seed in seeds:
        world = World(seed)
        world.run(steps)
        for name, count in (
            ("worlds", 1),
            ("requests", len(world.requests)),
            ("bookings", len(world.platform.applied)),
            ("held", len(world.log.unfinished())),
        ):
            figures[name] = int(str(figures[name])) + count
        yield from (f"seed {seed}: {each}" for each in world.wrong)


def main() -> None:
    """
    Look at as many worlds as the command line says.
    """
    parser = ArgumentParser(description="Have a gateway meet every fault.")
    parser.add_argument("--seeds", type=int, default=500, help="how many worlds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--steps", type=int, default=150, help="in each of them")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    figures = Figures()
    found = next(violations(seeds, options.steps, figures), None)
    figures.show(options.json)
    if found is not None:
        print(f"VIOLATION: {found}")
        sys.exit(1)
    print(f"sound: {options.seeds} worlds from seed {options.first} on")


if __name__ == "__main__":
    main()
