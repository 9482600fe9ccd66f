"""
One seed, from its plan to its outcome.
"""

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from random import Random

from attrs import define, field

from creditsync.gateway import _groups, _looking
from creditsync.gateway._states import State
from creditsync.records import Principal
from tests.gateway_simulation.clients import Client, Follower
from tests.gateway_simulation.gateway import MASKED, Gateway
from tests.gateway_simulation.judge import Judge
from tests.gateway_simulation.observer import Observer
from tests.gateway_simulation.platform import Platform
from tests.gateway_simulation.setting import (
    CLIENTS,
    FRESH,
    LOGINS,
    Plan,
    Setting,
    settingOf,
)
from tests.gateway_simulation.wires import End
from tests.simulation.world import Violation, World

# Seconds in which things go wrong, and in which nothing does any more: a request that
# comes late is the longest to wait for, and then what is unseen is held.
TROUBLE = 90.0
REST = 400.0

# How often an account moves, where they do.
MOVES = 12

# How many seconds there are between two looks of a person at what waits for approval.
DECISIONS = 0.5

# For how long a gateway may be away: more than the margin of its catch-up.
AWAY = 200.0

_ADMIN = Principal(9, 3, float("inf"), "admin")


@define
class Outcome:
    """
    The outcome of a seed.

    @ivar digest: The same for the same history.
    @ivar counts: How often each fault has happened.
    @ivar held: How many operations were held in the end.
    """

    plan: Plan
    way: str
    digest: str
    violation: Violation | None
    counts: Counter[str]
    statuses: Counter[int]
    booked: int
    held: int
    gateways: int
    platforms: int
    seconds: float
    trace: list[tuple[float, str, str, bytes]] = field(repr=False)


class Course:
    """
    Everything that a seed needs.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.setting = settingOf(plan)
        self.world = world = World(plan.seed, self.setting.faults)
        self.random = world.generator()
        self._faults = {name: world.generator() for name in sorted(_SCHEDULED)}
        self.platform = Platform(world, self.setting)
        self.observer = Observer(world, self.platform)
        self.gateway = Gateway(world, self.setting, self.platform, self.observer)
        self.observer.disk = self.gateway.disk
        numbers = count(1)
        share = plan.requests // CLIENTS
        self.clients = [
            Client(
                world,
                f"client-{n}",
                self.gateway,
                0 if n in plan.absent else share,
                numbers,
            )
            for n in range(CLIENTS)
        ]
        self.follower = Follower(world, self.gateway)
        # What a token that is for some groups sees: always, and twice in the end.
        self.restricted: list[Follower] = []
        self._people = count(1)
        self.held = 0

    def go(self) -> None:
        """
        Let everything happen, and judge.

        @raise Violation: A rule is broken.
        """
        world = self.world
        world.run(1.0)
        for client in self.clients:
            client.start()
        self.follower.connect()
        if self.setting.isGrouped:
            self._restrict()
            # The first to ask has the groups looked up that are not known.
            world.at(TROUBLE + REST + 50, self._restrict)
            world.at(TROUBLE + REST + 60, self._restrict)
        for name, every in _SCHEDULED.items():
            if world.mayHappen(name):
                self._schedule(name, every)
        if world.mayHappen("events-stop"):
            moment = Random(f"events stop {self.plan.seed}").uniform(1, TROUBLE)
            world.at(moment, self._stopEvents)
        if self.setting.isMoving:
            self._move()
        if world.mayHappen("decisions"):
            self._decide(Random(f"decisions {self.plan.seed}"))
        if world.mayHappen("gateway-away"):
            world.at(TROUBLE - 1, self._away)
        world.run(TROUBLE)
        for client in self.clients:
            client.isQuiet = True
        self._heal()
        world.run(TROUBLE + REST)
        self._repeat()
        world.run(TROUBLE + REST + 20)
        # What was booked last is looked at again.
        self._cut(0)
        if self.setting.isMoving:
            # An account's group is looked up when it is seen.
            for login in LOGINS:
                world.at(world.now + 10, self.platform.addFor, login, "person sees it")
        # Two minutes after it was sent, a deletion that the platform hides is held.
        world.run(TROUBLE + REST + 160)
        self._judge().judge()
        self._resolve()
        world.run(TROUBLE + REST + 190)
        self._resolved()

    def _judge(self) -> Judge:
        return Judge(
            self.platform,
            self.gateway,
            self.clients,
            self.follower,
            self.restricted,
            self.observer,
            self.setting.harm,
        )

    def _move(self) -> None:
        random = Random(f"moves {self.plan.seed}")
        for _ in range(MOVES):
            moment = random.uniform(1, TROUBLE)
            login, group = random.choice(LOGINS), random.choice(("real-eur", "demo"))
            self.world.at(moment, self.platform.move, login, group)

    def _decide(self, random: Random) -> None:
        if self.world.now < TROUBLE:
            self.platform.decide(random)
            pause = random.expovariate(1 / DECISIONS)
            self.world.later(pause, self._decide, random)

    def _restrict(self) -> None:
        follower = Follower(self.world, self.gateway, MASKED)
        self.restricted.append(follower)
        follower.connect()

    # What goes wrong.

    def _schedule(self, name: str, every: float) -> None:
        random = self._faults[name]
        self.world.later(random.expovariate(1 / every), self._happen, name, every)

    def _happen(self, name: str, every: float) -> None:
        if self.world.now >= TROUBLE:
            return
        does: Callable[[Random], None] = getattr(self, "_" + name.replace("-", ""))
        does(self._faults[name])
        self._schedule(name, every)

    def _gatewaykill(self, random: Random) -> None:
        if self.gateway.process.isAlive:
            self.world.happens("gateway-kill")
            self.gateway.kill()

    def _away(self) -> None:
        self.world.happens("gateway-away")
        for number in range(40):
            self.world.later(1.1 + number / 10, self.platform.add, f"person a{number}")
        self.world.later(AWAY - 0.1, self.platform.changeOld, 300)
        if self.gateway.process.isAlive:
            self.gateway.kill(AWAY)

    def _gatewaystop(self, random: Random) -> None:
        self.gateway.stop()

    def _platformkill(self, random: Random) -> None:
        self.platform.kill(random.choice((0.1, 1.0, 15.0)))

    def _linkcut(self, random: Random) -> None:
        self.world.happens("link-cut")
        end = self._link()
        if end is not None:
            which = random.choice((end, end.other))
            which.cutSoon(random.randrange(200))

    def _linksilence(self, random: Random) -> None:
        end = self._link()
        if end is not None:
            self.world.happens("link-silence")
            end.isSilent = True

    def _stopEvents(self) -> None:
        end = self._link()
        if end is not None:
            self.world.happens("events-stop")
            self.world.note("platform", "sends no events on this connection")
            end.other.isMute = True

    def _link(self) -> End | None:
        links = [each for each in self.gateway.process.ends if each.tap is not None]
        links = [each for each in links if each in self.gateway.connections]
        return links[-1] if links else None

    def _cut(self, size: int) -> None:
        end = self._link()
        if end is not None and not end.disconnecting:
            end.lose()

    def _clientcut(self, random: Random) -> None:
        client = random.choice([*self.clients, self.follower])
        if client.end is not None and not client.end.disconnecting:
            self.world.happens("client-cut")
            client.end.lose()

    def _renamedsuddenly(self, random: Random) -> None:
        self.platform.renameSuddenly(random.choice((1.0, 10.0)))

    def _person(self, random: Random) -> None:
        self.platform.person(next(self._people))

    def _heal(self) -> None:
        self.world.note("world", "nothing goes wrong any more")
        self.gateway.isHealthy = True
        self.platform.heal()
        end = self._link()
        if end is not None and end.isSilent:
            end.lose()

    # The end.

    def _repeat(self) -> None:
        """
        Repeat what has a key, as a program does that starts again.
        """
        for client in self.clients:
            for asked in client.asked:
                if asked.key is not None and self.random.random() < 0.5:
                    client.ask(asked)

    def _resolve(self) -> None:
        """
        Have a person decide what is held, by what the platform has.
        """
        held = self.gateway.disk.unfinished()
        self.held = len(held)
        for intent in held:
            data = {"operation": intent.number, "outcome": "absent"}
            done = self.gateway.server.call("MngResolveOperation", data, _ADMIN)
            done.addErrback(
                lambda why: self.world.note("admin", f"is refused: {why.value}")
            )

    def _resolved(self) -> None:
        for intent in self.gateway.disk.unfinished():
            raise Violation("resolved", f"operation {intent.number} is still held")
        for intent in self.gateway.disk._rows.values():
            if intent.state is State.ABSENT and intent.decidedBy != "principal 9":
                raise Violation("resolved", f"nobody has decided {intent.number}")


# How many seconds there are between two, on average.
_SCHEDULED = {
    "gateway-kill": 15.0,
    "gateway-stop": 30.0,
    "platform-kill": 25.0,
    "link-cut": 10.0,
    "link-silence": 30.0,
    "client-cut": 10.0,
    "renamed-suddenly": 30.0,
    "person": 4.0,
}


@contextmanager
def _repeatable(seed: int) -> Iterator[None]:
    """
    Have the operating system's random bytes depend on the seed, and no garbage be
    collected in between.
    """
    real = os.urandom
    os.urandom = Random(seed).randbytes
    gc.disable()
    try:
        yield
    finally:
        os.urandom = real
        gc.enable()


@contextmanager
def _having(setting: Setting) -> Iterator[None]:
    """
    Have the gateway's constants as a seed decides.
    """
    before = _looking.PAGE, _groups.FRESH
    _looking.PAGE = setting.page
    if setting.isMoving:
        _groups.FRESH = FRESH
    try:
        yield
    finally:
        _looking.PAGE, _groups.FRESH = before


def simulate(plan: Plan) -> Outcome:
    """
    Run a seed.
    """
    violation = None
    with _repeatable(plan.seed), _having(settingOf(plan)):
        course = Course(plan)
        try:
            course.go()
        except Violation as found:
            violation = found
    world = course.world
    world.counts += course.platform.counts()
    statuses = Counter(
        status
        for client in course.clients
        for asked in client.asked
        for status in asked.statuses
    )
    return Outcome(
        plan,
        course.setting.way,
        world.digest,
        violation,
        world.counts,
        statuses,
        sum(type == 0 for type, _, _ in course.platform.published),
        course.held,
        course.gateway.lives,
        course.platform.lives + course.platform.crashes,
        world.now,
        world.trace,
    )
