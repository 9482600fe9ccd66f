"""
The server in its environment: built by the real service, and restarted after
each end.

A process ends by a stop, by a crash, or because its ledger failed; clients can
reconnect once the next one is up.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, globalLogPublisher
from zope.interface import implementer

from creditsync._bookingrules import RulesFile
from creditsync._process.composition import _useUnlessStopped
from creditsync._rulebook import RuleBook
from creditsync.auth import TokenAuthenticator
from creditsync.counters import Counters
from creditsync.errors import LedgerProblem
from creditsync.events import TradeEvents
from creditsync.interfaces import ILedger
from creditsync.records import Trade, TradeEvent
from creditsync.revocations import Revocations
from creditsync.runtime import TradingRuntime
from creditsync.service import GOODBYE, LAST_CALL, CreditSync
from creditsync.validation import Schemas
from tests import counts
from tests.family import tradeOf
from tests.simulation.foreign import ForeignRuntime, GroupingRuntime
from tests.simulation.history import (
    Generation,
    History,
    Move,
    Publication,
    Talk,
    committed,
)
from tests.simulation.network import Link
from tests.simulation.setting import Setting
from tests.simulation.storage import Storage
from tests.simulation.world import Reactor, Violation, World

SECRET = "a secret of the simulated world, long enough"

# What the log may contain for each provoked fault.
_PROVOKED = {
    "the ledger failed, no more operations are booked": ["commit-failed"],
    "an observer of trade events failed": ["observer-fails"],
    "the trading runtime failed": ["reservation-fails"],
    "a request failed after its time was over": ["reservation-fails"],
    "a request failed": ["page-errs"],
    "a trade event can't be encoded": ["unwritable-event"],
    "the journal can't be read, trying again each second": ["page-errs"],
    # The ledger may fail while the sums of the day are read.
    "The limits in {path} could not be put into force; the previous ones stay.": [
        "commit-failed",
    ],
}


class _RecordedRuntime(TradingRuntime):
    """
    The real runtime, which records the moves of accounts.
    """

    moved: Callable[[int, str, "Deferred[None]"], "Deferred[None]"]

    def setGroup(self, login: int, group: str) -> "Deferred[None]":
        """
        See L{creditsync.interfaces.IAccountGroups.setGroup}.
        """
        return self.moved(login, group, super().setGroup(login, group))


@cache
def _schemas() -> Schemas:
    """
    The validator of requests, which has no state and is slow to build.
    """
    return Schemas()


class Site:
    """
    The environment of one server after another.

    @ivar service: The running server, if there is one.
    @ivar isLast: Whether no other server follows.
    @ivar booted: Called when a server has started.
    """

    def __init__(
        self, world: World, history: History, setting: Setting, folder: Path
    ) -> None:
        self._world = world
        self._random = world.generator()
        self._network = world.generator()
        self._history = history
        self._setting = setting
        self._links: list[Link] = []
        self._revocations = folder / "revoked"
        self._revocations.touch()
        self._rulesPath = folder / "rules.toml"
        self._rulesPath.write_text("".join(each.text for each in setting.rules))
        self._rules: RulesFile | None = None
        groups = setting.groups
        self.storage = Storage(
            world, history, folder, setting.speed, self._torn, groups
        )
        self.foreign = (
            GroupingRuntime(world, setting.isMarked, groups)
            if setting.hasGroups
            else ForeignRuntime(world, setting.isMarked)
        )
        history.moves += [Move(*each, (0.0, 0), (0.0, 0)) for each in groups.items()]
        self.service: CreditSync | None = None
        self.isLast = False
        self.booted: Callable[[], None] = lambda: None

    @property
    def generation(self) -> Generation:
        """
        The running process, or the last one.
        """
        return self._history.generations[-1]

    # The life of a process.

    def boot(self) -> None:
        """
        Start a server.
        """
        world, setting = self._world, self._setting
        number = len(self._history.generations)
        generation = Generation(number, (world.now, world.turn))
        self._history.generations.append(generation)
        world.note("server", f"starts as process {number}")
        self.reactor = Reactor(world)
        counters = Counters(self.reactor, world.wall)
        runtime: Any
        if setting.isForeign:
            runtime, events = self.foreign, self.foreign.events
            self.foreign.moved = self._moved
        else:
            events = TradeEvents()
            ledger = self.storage.ledger()
            runtime = _RecordedRuntime(
                self.reactor,
                ledger,
                events,
                now=world.wall,
                maxQueued=setting.limits.maxQueued,
                counters=counters,
                read=self.storage.read,
                rules=self._ruleBook(ledger),
            )
            runtime.moved = self._moved
            if self._rules is not None:
                self._rules.use = partial(_useUnlessStopped, runtime, self._rules.use)
        self._observe(events)
        service = CreditSync(
            self.reactor,
            runtime=runtime,
            events=events,
            authenticator=TokenAuthenticator(
                SECRET, now=world.wall, revocations=Revocations(self._revocations)
            ),
            listen=[],
            schemas=_schemas(),
            limits=setting.limits,
            isExtIDIdempotent=setting.isExtIDIdempotent,
            requireGroups=setting.requiresGroups,
            counters=counters,
        )
        try:
            service.startService()
        except LedgerProblem as why:
            raise Violation("start", f"a server can't start: {why}") from None
        service.whenReady().addCallback(self._ready, generation)
        service.whenFailed().addErrback(self._failed)
        self.service = service
        self.booted()

    def _ready(self, _: None, generation: Generation) -> None:
        generation.ready = self._world.now

    def _ruleBook(self, ledger: ILedger) -> RuleBook | None:
        """
        The rules of the site for a new server, if it has any.
        """
        if not self._setting.rules:
            return None
        self._rules = RulesFile(self._rulesPath)
        book = RuleBook(
            ledger, self._rules.rules, self._world.wall, self.storage.readSums
        )
        self._rules.use = book.use
        return book

    def readRules(self) -> None:
        """
        Have the running server read its rules again.
        """
        if self._rules is not None and self.service is not None:
            self._world.happens("rules-read-again")
            self._rules.reload()

    def _moved(
        self, login: int, group: str, moved: "Deferred[None]"
    ) -> "Deferred[None]":
        """
        Record that an account is being moved.
        """
        world = self._world
        world.happens("moved")
        move = Move(login, group, (world.now, world.turn))
        self._history.moves.append(move)
        world.note("runtime", f"is to move {login} to {group!r}")

        def end(_: None) -> None:
            move.ended = world.now, world.turn
            world.note("runtime", f"has moved {login} to {group!r}")

        return moved.addCallback(end)

    def _observe(self, events: Any) -> None:
        """
        Record what is published, before any other observer.
        """
        events._observers.clear()
        events.addObserver(self._published)
        if self._world.mayHappen("observer-fails"):
            events.addObserver(self._failingObserver)

    def _failingObserver(self, events: Sequence[TradeEvent]) -> None:
        if self._random.random() < 0.1:
            self._world.happens("observer-fails")
            self.generation.failures.append("observer-fails")
            raise RuntimeError("an observer that is not ours has a bug")

    def _published(self, events: Sequence[TradeEvent]) -> None:
        world = self._world
        for event in events:
            if event.order == 0:
                # It can't be written.
                continue
            publication = Publication(
                self.generation.number,
                event.type,
                committed(event.data)
                if isinstance(event.data, Trade)
                else tradeOf(event.data),
                (world.now, world.turn),
                world.wall(),
                operation=event.operation,
            )
            publication.booking = self.storage.bookings.get(event.operation)
            if publication.booking is not None:
                publication.booking.published = publication
            self._history.publications.append(publication)

    def _failed(self, why: object) -> None:
        """
        The server can't book any more: its process ends.
        """
        self.generation.hasFailed = True
        self.stop()

    def stop(self) -> None:
        """
        Stop the server in order, and start the next one after a while.
        """
        service, generation = self.service, self.generation
        if service is None or generation.stopping <= self._world.now:
            return
        generation.stopping = self._world.now
        self._world.note("server", "is told to stop")
        stopped = service.stopService()
        # A connection that is cut off at the end is closed in the next turn.
        stopped.addBoth(lambda _: self._world.later(0, self._stopped, generation))

    def _stopped(self, generation: Generation) -> None:
        world = self._world
        world.note("server", "has stopped")
        took = world.now - generation.stopping
        # See CreditSync._stop: each step has its bound.
        most = 2 * self._setting.limits.stopTimeout + LAST_CALL + 2 * GOODBYE
        if took > most + 0.01:
            world.blame("stop", f"to stop took {took:.3f} s, not {most:.3f}")
        # A commit may take longer than the stop may: then it is still counted.
        if self._setting.isForeign or self.storage.isClosed:
            self._checkRest()
        self._end(generation)
        if self._setting.isForeign:
            return
        if self.storage.isClosed:
            self.storage.stopped()
        else:
            # A commit takes longer than the stop may.
            generation.hasCrashed = True
            self.storage.crash(False)

    def _checkRest(self) -> None:
        """
        After an orderly stop no counts are left, however its connections
        ended.
        """
        assert self.service is not None
        left = counts.left(self.service, isClosed=True)
        if left:
            self._world.blame("rest", f"these are left after a stop: {left}")

    def _torn(self) -> None:
        self.crash("torn-commit")

    def crash(self, fault: str) -> None:
        """
        End the process at once.
        """
        if self.service is None:
            return
        self._world.happens(fault)
        self._world.note("server", f"is gone: {fault}")
        generation = self.generation
        generation.hasCrashed = True
        self._end(generation)
        if not self._setting.isForeign:
            self.storage.crash(fault != "kill")

    def _end(self, generation: Generation) -> None:
        generation.ended = self._world.now
        self.service = None
        self.reactor.end()
        for link in self._links:
            link.vanish()
        self._links.clear()
        self.foreign.events._observers.clear()
        if not self.isLast:
            self._world.later(0.01 + self._random.random(), self.boot)

    def fail(self) -> None:
        """
        Have the foreign runtime fail, if the server works on one.
        """
        if self._setting.isForeign and self.service is not None:
            self._world.happens("runtime-fails")
            self.foreign.fail()

    def revoke(self, jti: str) -> None:
        """
        Revoke a token.
        """
        self._world.note("server", f"has {jti} revoked")
        with self._revocations.open("a") as file:
            file.write(jti + "\n")

    # Connections.

    def connect(self, talk: Talk) -> Link | None:
        """
        Accept a connection, if a server listens.
        """
        service = self.service
        if service is None or self.generation.stopping <= self._world.now:
            return None
        link = Link(self._world, self._network, self._setting.conditions, talk)
        self._links = [each for each in self._links if each.isOpen]
        self._links.append(link)
        self._history.talks.append(talk)
        self._world.note(talk.name, "is connected")
        address = IPv4Address("TCP", "192.0.2.1", 1024)
        link.transport.start(service.factory.buildProtocol(address))
        return link


@implementer(ILogObserver)
class Log:
    """
    The failures in the server's log.
    """

    def __init__(self) -> None:
        self.failures: list[tuple[str, str]] = []

    def __enter__(self) -> "Log":
        globalLogPublisher.addObserver(self)
        return self

    def __exit__(self, *_: object) -> None:
        globalLogPublisher.removeObserver(self)

    def __call__(self, event: Any) -> None:
        if "log_failure" in event:
            cause = event["log_failure"].getErrorMessage()
            self.failures.append((str(event["log_format"]), cause))

    def check(self, world: World) -> None:
        """
        Check that there is a fault for each failure.
        """
        for text, cause in self.failures:
            if not any(world.counts[fault] for fault in _PROVOKED.get(text, ())):
                raise Violation("log", f"the log has a failure: {text}: {cause}")
