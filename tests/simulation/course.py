"""
The course of one seed: the activity of the clients, the faults, and the quiet
period at the end, after which everything is checked.
"""

import gc
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests import counts
from tests.simulation.answers import Answers
from tests.simulation.asking import Market
from tests.simulation.audience import Audience
from tests.simulation.books import Books
from tests.simulation.causes import Causes
from tests.simulation.clients import Client
from tests.simulation.history import History, Moment, Talk
from tests.simulation.limiting import Limiting
from tests.simulation.lookups import Lookups
from tests.simulation.permits import Permits
from tests.simulation.places import Places
from tests.simulation.readers import Reader
from tests.simulation.replies import Replies
from tests.simulation.rights import Rights
from tests.simulation.setting import CLIENTS, Plan, settingOf
from tests.simulation.site import Log, Site
from tests.simulation.waits import Waits
from tests.simulation.wardrobe import otherOf, readerTokens, tokenOf, wardrobeOf
from tests.simulation.world import BEGINNING, Violation, World

# The clients whose tokens expire and are revoked.
_EXPIRES, _REVOKED = 3, 4


class Course:
    """
    Everything that belongs to one seed.
    """

    def __init__(self, world: World, plan: Plan, folder: Path, log: Log) -> None:
        self._world = world
        self._plan = plan
        self._log = log
        self._random = world.generator()
        self._isRestricted = isRestricted = world.mayHappen("restricted")
        self.setting = setting = settingOf(
            world.generator(),
            plan.requests,
            isRestricted,
            world.mayHappen("over-rule"),
        )
        self.history = history = History(setting.isForeign)
        self.site = Site(world, history, setting, folder)
        self._books = self.newBooks()
        market = Market(
            world.generator(),
            history,
            not setting.isForeign,
            isRestricted,
            world.mayHappen("moved"),
            setting.hasGroups,
            world.mayHappen("four-eyes") and not setting.isForeign,
        )
        # About as long as the clients need for all their requests.
        self._length = plan.requests / setting.clients * setting.pace / 1.9
        if isRestricted:
            world.happens("restricted")
        self._tokens = Random(f"tokens of {plan.seed}")
        self._clients = self._people(market)
        self._readers = self._followers(market)
        self.site.storage.handed = self._commitBegins
        self._followed: dict[Talk, tuple[int, Moment]] = {}

    def newBooks(self) -> Books:
        """
        Empty books.
        """
        return Books(self._world, self.history, self.setting.isExtIDIdempotent)

    def _people(self, market: Market) -> list[Client]:
        clients = []
        for number in range(self.setting.clients):
            tokens = [tokenOf(number, self._expires(number))]
            if self._isRestricted:
                mayExpire = self._world.mayHappen("expired")
                tokens += wardrobeOf(number, self._tokens, self._length, mayExpire)
            # One that may become invalid is alone.
            isAlone = number in (_EXPIRES, _REVOKED)
            other = tokens[0] if isAlone else otherOf(number)
            client = Client(
                number, self._world, self.site, market, self.setting, tokens, other
            )
            if number not in self._plan.absent:
                clients.append(client)
            else:
                client.isFinishing = True
        return clients

    def _followers(self, market: Market) -> list[Reader]:
        """
        The clients that follow the journal.
        """
        numbers = range(CLIENTS, CLIENTS + self.setting.readers)
        random = self._tokens if self._isRestricted else None
        return [
            Reader(
                number,
                self._world,
                self.site,
                market,
                self.setting,
                readerTokens(number, random, isForAll=number == CLIENTS),
            )
            for number in numbers
            if number not in self._plan.absent
        ]

    def _commitBegins(self) -> None:
        """
        Perhaps lose a reader before the commit ends.
        """
        world, random = self._world, self._random
        if not world.mayHappen("dropped-in-commit") or random.random() > 0.05:
            return
        for reader in self._readers[:1]:
            world.happens("dropped-in-commit")
            world.later(random.random() * self.setting.speed, reader.drop)

    def _expires(self, number: int) -> float | None:
        drawn = self._random.random()
        if number != _EXPIRES or not self._world.mayHappen("expired"):
            return None
        self._world.happens("expired")
        return BEGINNING + round(drawn * self._length, 3)

    def go(self) -> None:
        """
        Run the seed, then check it.
        """
        self.site.booted = self._booted
        self.site.boot()
        self._plague()
        self._bustle()
        self._settle()
        self._checkRest()
        self._stop()
        self.judge()
        # An unhandled error is logged when it is garbage collected.
        gc.collect()
        self._log.check(self._world)

    def _booted(self) -> None:
        if not self.setting.isForeign:
            self._books.check(self.site.storage)
            self.site.generation.head = self._books.head

    # What befalls them.

    def _plague(self) -> None:
        """
        Schedule the faults from outside, each kind a few times.
        """
        site, random = self.site, self._random
        crash = site.crash
        self._often("kill", 1.2, lambda: crash("kill"))
        self._often("power-cut", 1.2, lambda: crash("power-cut"))
        self._often("stop", 1.5, lambda: self._happens("stop", site.stop))
        self._often("stall", 4, lambda: self._one().stall(random.random() * 8.0))
        self._often("dropped-by-client", 4, lambda: self._one().drop())
        self._often("dropped-by-net", 4, lambda: self._one().breakLink())
        self._often("clock-step", 1.5, lambda: self._world.step(self._jump()))
        self._often("clock-step-back", 1.5, lambda: self._world.step(-self._jump()))
        self._often("runtime-fails", 1, site.fail)
        self._often("revoked", 4 if self._isRestricted else 1, self._revoke)
        self._often("rules-read-again", 3, site.readRules)

    def _often(self, fault: str, times: float, strike: Callable[[], object]) -> None:
        """
        Schedule a function so many times on average.
        """
        random = Random(self._random.getrandbits(64))
        time = random.expovariate(times / self._length)
        while self._world.mayHappen(fault) and time < self._length:
            self._world.at(time, strike)
            time += random.expovariate(times / self._length)

    def _happens(self, fault: str, strike: Callable[[], object]) -> None:
        if self.site.service is not None:
            self._world.happens(fault)
            strike()

    def _one(self) -> Client:
        return self._random.choice([*self._clients, *self._readers])

    def _jump(self) -> float:
        return 2.0 + self._random.choice((10.0, 4000.0)) * self._random.random()

    def _revoke(self) -> None:
        tokens = [c.main for c in self._clients if c.number == _REVOKED]
        if self._isRestricted:
            tokens += [c.token for c in self._clients if c.token is c.tokens[1]]
        for token in tokens:
            if token.revoked is None:
                self._world.happens("revoked")
                token.revoked = self._world.now
                self.site.revoke(token.jti)
                return

    # The course of it.

    def _bustle(self) -> None:
        """
        Run until every client has sent all its requests.
        """
        world = self._world
        while not all(client.isDone for client in self._clients):
            world.run(world.now + max(0.1, self._length / 20))
            # Each unfinished line may delay its client by this time.
            lineTimeout = self.setting.limits.lineTimeout
            if world.now > 20 * self._length + 100 + 20 * lineTimeout:
                raise Violation("clients", "they do not come to an end")

    def _settle(self) -> None:
        """
        Stop all faults, and have all unsettled requests repeated.
        """
        world = self._world
        world.faults = frozenset()
        for _ in range(1000):
            for client in [*self._clients, *self._readers]:
                # One after the other, as only one connection may be allowed.
                world.later(8.0 * self._random.random(), client.finish)
            world.run(world.now + 10.0)
            unsettled = any(client.unsettled for client in self._trusted())
            if not unsettled and all(each.isFollowing for each in self._readers):
                break
        else:
            if not unsettled:
                raise Violation("no-seam", "a reader can't go on")
            [first, *_] = [c for c in self._trusted() if c.unsettled]
            intent = next(iter(first.unsettled))
            raise Violation(
                "retries-end",
                f"{intent.command} {intent.data} of {first.name} is never settled",
                (f'"{intent.key}"',),
            )
        # The last stall is over, and every wait.
        world.run(world.now + 45.0)
        if not all(each.isFollowing for each in self._readers):
            # One had still to leave, and comes back.
            for reader in self._readers:
                reader.finish()
            world.run(world.now + 45.0)
        head, moment = self.site.storage.head, (world.now, world.turn)
        for reader in self._readers:
            reader.check(head)
            self._followed[reader.talk] = head, moment

    def _trusted(self) -> list[Client]:
        """
        The clients whose requests must be settled in the end.
        """
        return [c for c in self._clients if c.main.role and not c.main.isLimited]

    def _checkRest(self) -> None:
        """
        At rest nothing is pending, and all counts are zero.
        """
        service = self.site.service
        if service is None:
            raise Violation("rest", "no server runs in the end")
        left = counts.left(service)
        if timers := len(self.site.reactor.getDelayedCalls()):
            left["timers"] = timers
        if left:
            raise Violation("rest", f"these are left: {left}")

    def _stop(self) -> None:
        """
        Stop the last server in order.
        """
        world = self._world
        assert self.site.service is not None
        self.site.isLast = True
        self.site.stop()
        world.run(world.now + 60.0)
        if self.site.service is not None:
            raise Violation("stop", "the server does not stop")
        if self.site.reactor.getDelayedCalls():
            raise Violation("rest", "timers are left after the stop")
        if not self.setting.isForeign:
            self._books.check(self.site.storage)

    def judge(self) -> None:
        """
        Check everything that was recorded against the rules.
        """
        world, history = self._world, self.history
        places = Places(history)
        rights = Rights(history, self.setting.requiresGroups)
        audience = Audience(world, history, places, rights, self._followed)
        audience.check()
        permits = Permits(history, rights)
        limiting = Limiting(world, history, rights, self.setting.rules)
        limiting.check()
        causes = Causes(world, history, self.setting, places, permits, limiting)
        lookups = Lookups(history, places, rights)
        answers = Answers(history, causes, audience, places, permits, lookups)
        Replies(world, history, self.setting, causes, answers, permits).check()
        if self.setting.isForeign:
            Waits(history, self.site.foreign).check()
        else:
            answers.checkBookings()
