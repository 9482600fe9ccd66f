"""
The trading runtime of a node.

An operation gets its order number and waits for a batch; PostgreSQL judges it. So a
refusal comes later here than from L{creditsync.runtime}, and nothing is known of an
operation before that. When the answer to a batch is here, its reservations are fired in
their order, which has each request wait for its event in this same reactor turn; only
then does L{Feed} publish.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from random import random
from secrets import token_hex
from typing import Any, TypeVar

import psycopg
from attrs import evolve
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from creditsync._bookingrules import Rule
from creditsync._failing import FailureNotifier
from creditsync._foreigngroups import ILearnedGroups
from creditsync.codes import SECONDS_PER_DAY
from creditsync.counters import Counters
from creditsync.errors import Busy, LedgerProblem, OutcomeUnknown, ShuttingDown
from creditsync.interfaces import (
    IClustered,
    IFinanceRequests,
    IJournal,
    ILookups,
    IQueue,
    IReadiness,
    ITradeEvents,
    ITradingRuntime,
)
from creditsync.postgres._booking import Site
from creditsync.postgres._connection import Connection, ConnectionLost
from creditsync.postgres._doorbell import Doorbell
from creditsync.postgres._feed import Feed
from creditsync.postgres._groups import Groups
from creditsync.postgres._kinds import checkOwn
from creditsync.postgres._lane import Fenced, Lane, Lost
from creditsync.postgres._limits import register
from creditsync.postgres._lookups import UNREACHABLE, Lookups, Readers
from creditsync.postgres._noted import Noted
from creditsync.postgres._numbers import RESERVE, Numbers
from creditsync.postgres._queues import Queues
from creditsync.postgres._schema import EPOCH, STREAM
from creditsync.postgres._starting import check
from creditsync.postgres._state import NodeState
from creditsync.records import (
    Account,
    AnyOperation,
    FoundTrades,
    GroupedTrade,
    Reservation,
    Trade,
    TradeEvent,
    TradeFilter,
)

_T = TypeVar("_T")


@implementer(
    ITradingRuntime,
    IFinanceRequests,
    IQueue,
    IReadiness,
    IJournal,
    ILearnedGroups,
    ILookups,
    IClustered,
)
class PostgresRuntime(Service):
    """
    A node. It is a service: starting connects it, stopping books what is queued.
    """

    name = "trading runtime on PostgreSQL"
    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        connect: Callable[[str], "Deferred[Connection]"],
        events: ITradeEvents,
        *,
        node: str,
        now: Callable[[], float],
        maxQueued: int,
        knownAccountsOnly: bool = False,
        selfApproval: bool = False,
        rules: Sequence[Rule] = (),
        counters: Counters | None = None,
        lanes: int = 1,
        random: Callable[[], float] = random,
    ) -> None:
        """
        @param connect: Connects, for the use that is its argument: C{writer},
            C{reader}, C{feed}, C{search}, C{groups} or C{doorbell}.
        @param node: Its name, which no other has.
        @param now: The time of booking, in UNIX seconds.
        @param maxQueued: How many operations may be waiting for their verdict.
        @param knownAccountsOnly: Refuse a login without an account.
        @param selfApproval: A principal may approve its own finance request.
        @param rules: Bound what may be booked.
        @param counters: Counts what is booked, or L{None}.
        @param lanes: How many batches may be under way at a time. The operations of an
            account are always in one of them.
        """
        self._clock = clock
        self._events = events
        self._now = now
        self._maxQueued = maxQueued
        self._knownAccountsOnly = knownAccountsOnly
        if counters is not None:
            counters.books = True
        owner = token_hex(8)
        site = Site(knownAccountsOnly, selfApproval)
        self._rules = tuple(rules)
        # The UTC day on which that was done last.
        self._registered = 0
        self._groups = Groups()
        self.lanes = [
            Lane(clock, connect, node, number, owner, now, random, site, self._groups)
            for number in range(lanes)
        ]
        self.feed = Feed(
            clock,
            connect,
            self._publish,
            self._failed,
            self.lanes,
            random,
            lambda: self._queues.prove(),
            self._groups,
        )
        self.doorbell = Doorbell(
            clock, lambda: connect("doorbell"), self._heard, self._proof, random
        )
        self._numbers = Numbers(self._reserveNumbers)
        self.state = NodeState(clock, self.lanes, self.feed, self.doorbell)
        self._queues = Queues(
            clock,
            self.feed,
            self._numbers,
            self.lanes,
            self.doorbell.ring,
            self._failed,
            counters,
        )
        self._noted = Noted()
        self._readers = Readers(connect, self.feed, self.lanes, self._failed)
        self._lookups = Lookups(self._readers, self.feed, self._groups)
        self._opening: Deferred[None] | None = None
        self._isReadingGroups = False
        self._loss: str | None = None
        self._failing = FailureNotifier()
        self.epoch = ""

    # The start and the stop.

    def startService(self) -> "Deferred[None]":
        """
        Connect, make the tables or bring them up to date, and shut out whoever has
        booked under this name.

        @return: Fires when it is ready. Fails with
            L{LedgerProblem<creditsync.errors.LedgerProblem>}.
        """
        self._opening = Deferred.fromCoroutine(self._open())
        return self._opening

    async def _open(self) -> None:
        try:
            reader = await self._readers.of("reader")
            for warning in await check(reader, self._now):
                self._log.warn("{warning}", warning=warning)
            [(self.epoch,)] = await reader.execute(EPOCH, [STREAM])
            await self.useRules(self._rules)
            await checkOwn(reader)
            for lane in self.lanes:
                await lane.open()
            # A gateway that has begun meanwhile has shut out those before it only.
            await checkOwn(reader)
            await self._numbers.start()
            await self._groups.start(reader)
            await self.feed.start()
            # What was there, but may be lost, must not be told as something that is.
            await self.lanes[0].prove()
            self.feed.isProven(self.lanes[0].server, self.feed.cursor)
            # Behind that: a request that is decided meanwhile is still published.
            self._noted.makers = await self._lookups.makers()
        except BaseException as e:
            self._close()
            if isinstance(e, ConnectionLost):
                raise LedgerProblem(str(e)) from e
            if isinstance(e, psycopg.Error):
                raise LedgerProblem(f"PostgreSQL refuses: {str(e).strip()}") from e
            raise
        self._readers.areChecked = True
        self.doorbell.start()
        super().startService()  # type: ignore[no-untyped-call]

    def stopService(self) -> "Deferred[None]":
        """
        Book what is queued, then disconnect. If that is cancelled, what is left may be
        booked all the same.
        """
        if self.running:
            super().stopService()  # type: ignore[no-untyped-call]
        elif self._opening is not None:
            self._opening.addErrback(lambda why: why.trap(CancelledError))
            self._opening.cancel()
        return Deferred.fromCoroutine(self._drain())

    async def _drain(self) -> None:
        try:
            await self._queues.drain()
        finally:
            self._close()

    def _close(self) -> None:
        self.doorbell.stop()
        self.feed.stop()
        for lane in self.lanes:
            lane.close()
        self._readers.close()

    @property
    def problem(self) -> str | None:
        """
        See L{IReadiness}.
        """
        if self._loss is not None:
            return self._loss
        if self.feed.isCut:
            # The lanes may have nothing to do, and not have noticed.
            return UNREACHABLE
        return next((lane.problem for lane in self.lanes if lane.problem), None)

    @property
    def queued(self) -> int:
        """
        See L{IQueue}.
        """
        return self._queues.count

    @property
    def queuedSince(self) -> float | None:
        """
        See L{IQueue}.
        """
        return self._queues.since

    def whenFailed(self) -> "Deferred[None]":
        """
        See L{ITradingRuntime.whenFailed}.
        """
        return self._failing.whenFailed()

    # What is submitted.

    def submit(self, operation: AnyOperation) -> "Deferred[Reservation]":
        """
        See L{ITradingRuntime.submit}. Refusals by what is stored come by the Deferred.

        @raise Busy: Too many operations are queued.
        @raise ShuttingDown: The runtime is stopping, or has failed.
        """
        self._checkServing()
        if self._queues.count >= self._maxQueued:
            raise Busy("too many operations are waiting to be booked", "max-queued")
        return self._queues.submit(operation)

    def _checkServing(self) -> None:
        if not self.running or self._failing.cause is not None:
            raise ShuttingDown()
        if self._loss is not None:
            raise ShuttingDown(f"this request has booked nothing: {self._loss}")

    def useRules(self, rules: Sequence[Rule]) -> "Deferred[None]":
        """
        Put rules into force, from the next batch on.

        @return: Fires when they are. If it fails, the former ones stay.
        """
        return Deferred.fromCoroutine(self._useRules(tuple(rules)))

    async def _useRules(self, rules: tuple[Rule, ...]) -> None:
        await self._register(await self._readers.of("reader"), rules)
        for lane in self.lanes:
            lane.site = evolve(lane.site, rules=rules)
        self._rules = rules

    async def _register(self, reader: Connection, rules: Sequence[Rule]) -> None:
        now = int(self._now())
        await register(reader, rules, now)
        self._registered = now // SECONDS_PER_DAY

    # What is published.

    def _proof(self) -> str:
        """
        What other nodes are told by a ring: what is proven, and of which journal.
        """
        return " ".join(map(str, (self.epoch, *self._queues.proof)))

    def _heard(self, proof: str) -> None:
        """
        There may be something new.

        @param proof: What a ring has said: see L{_proof}.
        """
        epoch, _, rest = proof.partition(" ")
        server, _, place = rest.partition(" ")
        if epoch == self.epoch and place.isdecimal():
            self.feed.isProven(server, int(place))
        self.feed.heard()
        if self.running and not self._isReadingGroups:
            self._isReadingGroups = True
            Deferred.fromCoroutine(self._readGroups()).addBoth(self._groupsRead)

    async def _readGroups(self) -> None:
        # If it can't be read now, it can later; or never, at the end of this node.
        with suppress(ConnectionLost, psycopg.Error, CancelledError):
            reader = await self._readers.of("reader")
            await self._groups.read(reader)
            await self.state.look(reader)
            if self._now() // SECONDS_PER_DAY > self._registered:
                await self._register(reader, self._rules)

    def _groupsRead(self, result: object) -> None:
        self._isReadingGroups = False
        if isinstance(result, Failure):
            self._log.failure("the groups of accounts can't be read", result)

    def _publish(self, events: Sequence[TradeEvent]) -> None:
        self._noted.note(events)
        self._events.publish(events)
        for event in events:
            if isinstance(event, Reservation) and event.awaited:
                event.booked()

    def makerOf(self, order: int) -> int | None:
        """
        See L{IFinanceRequests.makerOf}.
        """
        return self._noted.makers.get(order)

    def _failed(self, why: Failure) -> None:
        """
        Acknowledge nothing more. If work is lost, the node stays, so that nobody takes
        its end for a cure.
        """
        if why.check(CancelledError):
            # The stop took too long.
            self._queues.giveUp("the server is stopping")
            return
        if why.check(Lost):
            if self._loss is None:
                self._loss = "PostgreSQL has lost acknowledged operations"
                self._log.critical(
                    "PostgreSQL has lost acknowledged operations, and this node"
                    " acknowledges nothing more: {why}.",
                    why=why.getErrorMessage(),
                )
            # Places may have been given a second time.
            self.feed.stop()
            self._lookups.problem = self._loss
            self._queues.giveUp(self._loss)
            return
        # No fault of this process: the sentence that is logged with its end is enough.
        if not why.check(Fenced):
            self._log.failure("the ledger failed, no more operations are booked", why)
        self._queues.giveUp("the ledger failed")
        self._failing.fail(why)

    # What is looked up.

    def trade(self, order: int) -> "Deferred[Trade | Mapping[str, Any] | None]":
        """
        See L{ITradingRuntime.trade}. If it waits for its verdict, so does this.
        """
        return Deferred.fromCoroutine(self._trade(order))

    async def _trade(self, order: int) -> Trade | None:
        await self._queues.settledOrder(order)
        found = await self._lookups.trade(order)
        if found is None:
            return None
        place, trade = found
        self._noted.found(order, place)
        return trade

    def orderOf(self, principal: int, key: str) -> "Deferred[int | None]":
        """
        See L{ITradingRuntime.orderOf}. If that waits for its verdict, so does this.
        """
        return Deferred.fromCoroutine(self._orderOf(principal, key))

    async def _orderOf(self, principal: int, key: str) -> int | None:
        await self._queues.settledKey(principal, key)
        return await self._lookups.orderOf(principal, key)

    @property
    def head(self) -> int:
        """
        See L{IJournal.head}: what this node has published.
        """
        return self.feed.cursor

    def whenPublished(self, place: int) -> "Deferred[None]":
        """
        See L{IClustered.whenPublished}.
        """
        return Deferred.fromCoroutine(self._lookups.published(place))

    def placeOf(self, order: int) -> int | None:
        """
        See L{IJournal.placeOf}; known if L{trade} has just been called for it.
        """
        return self._noted.placeOf(order)

    def events(self, after: int, limit: int) -> "Deferred[Sequence[TradeEvent]]":
        """
        See L{IJournal.events}.
        """
        return Deferred.fromCoroutine(self._lookups.events(after, limit))

    def groupOf(self, login: int) -> str:
        """
        See L{IAccountGroups.groupOf}. What another node has changed is known here
        before the next event is published, and with L{whenKnown}.
        """
        return self._groups.of(login)

    def whenKnown(self, login: int) -> "Deferred[object]":
        """
        See L{ILearnedGroups.whenKnown}.
        """
        return Deferred.fromCoroutine(self._lookups.moves())

    def setGroup(self, login: int, group: str) -> "Deferred[None]":
        """
        See L{IAccountGroups.setGroup}.

        @raise ShuttingDown: The runtime is stopping, or has failed.
        """
        self._checkServing()
        return Deferred.fromCoroutine(self._move(login, group))

    async def _move(self, login: int, group: str) -> None:
        reader = await self._lookups.reader()
        try:
            await self._groups.move(
                reader, login, group, self._knownAccountsOnly, self._queues.prove
            )
        except ConnectionLost as e:
            raise OutcomeUnknown(UNREACHABLE) from e
        self.doorbell.ring()

    def account(self, login: int) -> "Deferred[Account | None]":
        """
        See L{ILookups.account}.
        """
        return Deferred.fromCoroutine(self._lookups.account(login))

    def groups(self) -> "Deferred[Sequence[str]]":
        """
        See L{ILookups.groups}.
        """
        return Deferred.fromCoroutine(self._lookups.groups())

    def search(
        self, filter: TradeFilter, page: Callable[[Sequence[GroupedTrade]], _T]
    ) -> "Deferred[FoundTrades[_T]]":
        """
        See L{ILookups.search}.
        """
        return Deferred.fromCoroutine(self._lookups.search(filter, page))

    def _reserveNumbers(self, count: int) -> "Deferred[int]":
        return Deferred.fromCoroutine(self._reserve(count))

    async def _reserve(self, count: int) -> int:
        reader = await self._readers.of("reader")
        [(end,)] = await reader.execute(RESERVE, [count])
        first: int = end - count
        return first
