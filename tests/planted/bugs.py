"""
The bugs, as one table: what each breaks, and which suite must find it.

Each is a mistake that anyone could make in good faith: a reply that is sent
too early, a missing check, a shortcut. A patch replaces as little as possible,
so that the rest of the server is the real one.
"""

import math
import re
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import compress
from typing import Any

import msgspec
from attrs import define, evolve
from msgspec.structs import replace
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from creditsync import _bookingrules, _changes, _masks, runtime, tap
from creditsync import _wire as wire
from creditsync._accounts import AccountCache
from creditsync._conversation import broadcast, finance, plain, restricted, rights
from creditsync._conversation.broadcast import Broadcast
from creditsync._conversation.catchups import CatchUps
from creditsync._conversation.commands import GetOperation
from creditsync._conversation.finance import FinanceCommand
from creditsync._conversation.lookups import Lookups
from creditsync._conversation.plain import PlainLines
from creditsync._conversation.restricted import RestrictedReceivers
from creditsync._conversation.rights import Rights
from creditsync._conversation.session import Session
from creditsync._conversation.waiters import Waiters
from creditsync._cursor import newEpoch
from creditsync._rulebook import RuleBook
from creditsync._timeouts import TimedTable
from creditsync._transport import factory, protocol
from creditsync._transport.output import Output
from creditsync._wire import decoding
from creditsync.auth import TokenAuthenticator
from creditsync.codes import EV_RECORD_UPDATE, SESSION_MANAGER
from creditsync.errors import (
    Busy,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    SessionEnded,
    TechProblem,
    TooManyRequests,
    TradeNotFound,
)
from creditsync.ledger import _filtering, sqlite
from creditsync.ledger import _opening as opening
from creditsync.ledger._journal import MEMBERS, Row
from creditsync.ledger._proving import JournalProof
from creditsync.ledger.memory import MemoryLedger
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.limits import Limits
from creditsync.records import (
    AnyOperation,
    Decision,
    Movement,
    Principal,
    Request,
    Reservation,
    Trade,
    TradeEvent,
    loginOf,
)
from creditsync.runtime import TradingRuntime
from creditsync.service import CreditSync
from tests.planted import gateway
from tests.planted.gateway import planting
from tests.planted.postgres import POSTGRES


@define
class Bug:
    """
    One bug.

    @ivar what: What it does, as the end of "a server that ...".
    @ivar plant: Patches the server; this process can't undo it.
    @ivar caughtBy: The suite that must find it: a module and its options.
    """

    what: str
    plant: Callable[[], None]
    caughtBy: tuple[str, ...]


def plant(name: str | None) -> None:
    """
    Plant a bug in this process, before anything is built.

    @param name: One of L{BUGS}; with L{None} nothing is done.
    """
    if name is None:
        return
    BUGS[name].plant()
    print(f"planted: {name}", file=sys.stderr)


def _acknowledgeBeforeCommit() -> None:
    commit = SQLiteLedger.commit
    last: dict[int, Deferred[None]] = {}
    places: dict[int, int] = {}

    def early(
        self: SQLiteLedger, reservations: Sequence[Reservation]
    ) -> Deferred[None]:
        first = places.get(id(self), self.head) + 1
        for place, each in enumerate(reservations, first):
            each.place = places[id(self)] = place
        done = last.get(id(self), succeed(None))
        done.addCallback(lambda _: commit(self, reservations))
        done.addErrback(lambda _: None)
        last[id(self)] = done
        return succeed(None)

    SQLiteLedger.commit = early  # type: ignore[method-assign]


def _eventBeforeCommit() -> None:
    construct = TradingRuntime.__init__

    class Hasty:
        def __init__(self, ledger: Any, events: Any) -> None:
            self._ledger, self._events = ledger, events

        def commit(self, reservations: Sequence[Reservation]) -> Deferred[None]:
            first = self._ledger.head + 1
            done: Deferred[None] = self._ledger.commit(reservations)
            for place, each in enumerate(reservations, first):
                each.place = place
            self._events.publish(reservations)
            return done

        def __getattr__(self, name: str) -> Any:
            return getattr(self._ledger, name)

    class Silent:
        def publish(self, events: object) -> None:
            pass

    def build(
        self: TradingRuntime, clock: Any, ledger: Any, events: Any, **options: Any
    ) -> None:
        construct(self, clock, Hasty(ledger, events), Silent(), **options)

    TradingRuntime.__init__ = build  # type: ignore[method-assign,assignment]


def _synchronousNormal() -> None:
    prepare = sqlite.prepare

    def hasty(writer: sqlite3.Connection, *arguments: Any) -> tuple[int, int]:
        found = prepare(writer, *arguments)
        writer.execute("PRAGMA synchronous = NORMAL")
        return found

    sqlite.prepare = hasty  # type: ignore[attr-defined]


def _orderNumbersReused() -> None:
    def firstOrder(writer: sqlite3.Connection, *_: Any) -> int:
        greatest = writer.execute('SELECT max("order") FROM trade').fetchone()[0]
        return (greatest or 0) + 1

    opening.firstOrder = firstOrder  # type: ignore[attr-defined]


def _keyOnlyInMemory() -> None:
    remembered: dict[tuple[int, int, str], Reservation] = {}
    commit = SQLiteLedger.commit

    def book(self: SQLiteLedger, reservations: Sequence[Reservation]) -> Any:
        for each in reservations:
            asked = each.operation
            if asked.key is not None:
                key = id(self), asked.principal, asked.key
                remembered[key] = each
        return commit(self, reservations)

    def replay(self: SQLiteLedger, principal: int, key: str) -> Reservation | None:
        booked = remembered.get((id(self), principal, key))
        if booked is None:
            return None
        trade, place = booked.data, booked.place
        return Reservation(
            booked.type, trade, booked.operation, isReplay=True, place=place
        )

    def unkeyed(reservations: Sequence[Reservation], head: int) -> list[Row]:
        return [(*row[:at], None, *row[at + 1 :]) for row in honest(reservations, head)]

    at, honest = MEMBERS.index("key"), sqlite.rowsOf
    SQLiteLedger.commit = book  # type: ignore[method-assign]
    SQLiteLedger.replay = replay  # type: ignore[method-assign]
    sqlite.rowsOf = unkeyed


def _placeLeftOut() -> None:
    honest = sqlite.rowsOf

    def gapped(reservations: Sequence[Reservation], head: int) -> list[Row]:
        return honest(reservations, head + (head % 16 == 15))

    sqlite.rowsOf = gapped


def _chainNotVerified() -> None:
    JournalProof._chain = _trusting  # type: ignore[method-assign]


def _trusting(self: JournalProof, hash: bytes) -> Iterator[tuple[str, str]]:
    self._hash = hash
    self._open.clear()
    self._isNoted = self._isNoted or hash == self.noted
    yield from ()


def _notedHashNotLookedFor() -> None:
    problems = JournalProof.problems

    def forgetful(self: JournalProof) -> Iterator[tuple[str, str]]:
        self.noted = None
        return problems(self)

    JournalProof.problems = forgetful  # type: ignore[method-assign]


def _waiterAfterHandOver() -> None:
    add = Waiters.add

    def late(self: Waiters, waiter: Any) -> None:
        self._clock.callLater(0.001, add, self, waiter)

    Waiters.add = late  # type: ignore[method-assign]


def _firstWaiterTakesAll() -> None:
    match = Waiters.match

    def unmarked(self: Waiters, events: Any, encoded: Any) -> None:
        match(self, [TradeEvent(each.type, each.data) for each in events], encoded)

    Waiters.match = unmarked  # type: ignore[method-assign]


def _timeoutLeavesItsWaiter() -> None:
    def timedOut(self: Waiters, waiter: Any) -> None:
        cause = f"no answer within {self._timeout * 1000:.0f} ms"
        waiter.fail(Failure(OutcomeUnknown(cause, waiter.order)))
        self._relax()

    Waiters._timedOut = timedOut  # type: ignore[method-assign]


def _wallClockTimers() -> None:
    settle = tap.settleProcess

    def unsettled(reactor: Any) -> None:
        settle(reactor)
        reactor.seconds = lambda: time.time()

    tap.settleProcess = unsettled


def _revokedTokenAccepted() -> None:
    verify = TokenAuthenticator._refuseRevoked
    judged: set[int] = set()

    def onlyOnce(self: TokenAuthenticator, principal: Any, revocations: Any) -> None:
        if id(principal) not in judged:
            verify(self, principal, revocations)
            judged.add(id(principal))

    def isCurrent(self: TokenAuthenticator, principal: Any) -> bool:
        return bool(self._now() < principal.expires)

    TokenAuthenticator._refuseRevoked = onlyOnce  # type: ignore[method-assign]
    TokenAuthenticator.isCurrent = isCurrent  # type: ignore[method-assign]


def _tokenWithoutEnd() -> None:
    from creditsync import auth

    time_ = auth._time

    def lenient(claims: Any, name: str) -> float | None:
        found = time_(claims, name)
        return math.inf if name == "exp" and found is None else found

    auth._time = lenient


def _binaryFloatingPoint() -> None:
    finance.toUnits = lambda amount: int(float(amount) * 1e8)  # type: ignore[attr-defined]


def _refusedAfterBooking() -> None:
    execute = Session._execute

    def late(self: Session, command: Any, request: Any, since: float) -> None:
        limits, before = self._limits, len(self._pending)
        self._limits = evolve(
            limits, maxPending=sys.maxsize, maxPendingPerSession=sys.maxsize
        )
        try:
            execute(self, command, request, since)
        finally:
            self._limits = limits
        if len(self._pending) == before:
            return
        waiter = next(reversed(self._pending.values()))
        if before >= limits.maxPendingPerSession:
            self._waiters.release(waiter)
            waiter.fail(Failure(TooManyRequests("this session has too many")))
        elif len(self._waiters) > limits.maxPending:
            self._waiters.release(waiter)
            waiter.fail(Failure(Busy("the server has too many", "max-pending")))

    Session._execute = late  # type: ignore[method-assign]


def _readerNeverCutOff() -> None:
    construct = protocol.LineProtocol.__init__

    def boundless(self: Any, connections: Any) -> None:
        construct(self, connections)
        limits: Limits = connections.limits
        self._limits = evolve(limits, maxUnread=sys.maxsize)

    protocol.LineProtocol.__init__ = boundless  # type: ignore[method-assign]


def _replyBeforeEvent() -> None:
    def tradeEvents(self: Broadcast, events: Any) -> None:
        if self._counters is not None:
            self._counters.publishing(events)
        catchUps = self._catchUps
        epoch = None if catchUps is None else catchUps.journal.epoch
        events, encoded = wire.encodeEvents(events, epoch)
        if catchUps is not None and events and events[-1].place is not None:
            catchUps.published = events[-1].place
        self._waiters.match(events, encoded)
        lines = wire.events([event.type for event in events], encoded)
        for session in self._currentReceivers():
            session.send(lines)
        if self._restricted:
            self._restricted.send([event.login for event in events], lines)

    Broadcast.tradeEvents = tradeEvents  # type: ignore[method-assign]


def _eventsTwice() -> None:
    receivers = Broadcast._currentReceivers

    def twice(self: Broadcast) -> list[Any]:
        return [session for session in receivers(self) for _ in range(2)]

    Broadcast._currentReceivers = twice  # type: ignore[method-assign]


def _noTimeToRetry() -> None:
    from creditsync.errors import Refusal

    def vague(self: Busy, message: str, *_: Any) -> None:
        Refusal.__init__(self, message)

    Busy.__init__ = vague  # type: ignore[method-assign]


def _judgedByTheLedgerAlone() -> None:
    settled = AccountCache.account

    def account(self: AccountCache, login: int) -> Any:
        self.cached.pop(login, None)
        return settled(self, login)

    AccountCache.account = account  # type: ignore[method-assign]


def _failedCommitIsNothing() -> None:
    lost = Reservation.lost

    def nothing(self: Reservation, why: Failure) -> None:
        lost(self, Failure(TechProblem("the operation was not booked")))

    Reservation.lost = nothing  # type: ignore[method-assign]


def _failedCommitIsForgiven() -> None:
    ended = SQLiteLedger._ended

    def forgiving(self: SQLiteLedger, result: Any) -> Any:
        outcome = ended(self, result)
        self._failed = False
        return None if isinstance(outcome, Failure) else outcome

    SQLiteLedger._ended = forgiving  # type: ignore[method-assign]


def _stopDropsReplies() -> None:
    finish = factory.LineFactory.finish

    def hasty(self: Any) -> Any:
        self.cutOff()
        return finish(self)

    stop = CreditSync._stop

    async def drop(self: CreditSync) -> None:
        hasty(self.factory)
        await stop(self)

    CreditSync._stop = drop  # type: ignore[method-assign]


def _repeatedNamesAccepted() -> None:
    decoding._refuseRepeatedNames = lambda line: None


def _fastPathRounds() -> None:
    # As if a double told all amounts apart.
    plain._EXACT = 10**30  # type: ignore[misc]


def _totalsNotMoved() -> None:
    changed = runtime.changed  # type: ignore[attr-defined]

    def unmoved(*given: Any) -> tuple[int, Any, int]:
        type, trade, change = changed(*given)
        return type, trade, 0 if type == EV_RECORD_UPDATE else change

    runtime.changed = unmoved  # type: ignore[attr-defined]


def _onlyOneGivenBack() -> None:
    def ended(self: Session) -> None:
        pending, self._pending = self._pending, {}
        self._broadcast.remove(self)
        for waiter in list(pending.values())[:1]:
            self._waiters.abandon(waiter)

    Session.ended = ended  # type: ignore[method-assign]


def _unknownNotGivenBack() -> None:
    answer = Session._answer

    def answering(self: Session, asked: Any, line: bytes, outcome: Any = None) -> None:
        pending = dict(self._pending)
        answer(self, asked, line, outcome)
        if isinstance(outcome, OutcomeUnknown):
            self._pending = pending

    Session._answer = answering  # type: ignore[method-assign]


def _abandonedWaitsStay() -> None:
    def abandon(self: Waiters, waiter: Any) -> None:
        key = waiter.order if self.entries.get(waiter.order) is waiter else waiter
        if self.entries.pop(key, None) is not None:
            waiter.fail(Failure(SessionEnded()))
        self._relax()

    Waiters.abandon = abandon  # type: ignore[method-assign]


def _deadSessionsListen() -> None:
    remove = Broadcast.remove

    def removing(self: Broadcast, session: Any) -> None:
        # Only a session that unsubscribes is removed.
        if not session._isSubscribed:
            remove(self, session)

    Broadcast.remove = removing  # type: ignore[method-assign]


def _cutOffConnectionsCount() -> None:
    closed = factory.LineFactory.closed

    def close(self: Any, connection: Any) -> None:
        if not connection.isStalled:
            closed(self, connection)

    factory.LineFactory.closed = close  # type: ignore[method-assign]


def _updatesStayUnderWay() -> None:
    publish = TradingRuntime._publish

    def publishing(self: TradingRuntime, booked: list[Reservation]) -> None:
        publish(self, booked)
        for each in booked:
            if each.type == EV_RECORD_UPDATE:
                self._queue.orders.setdefault(each.order, each)

    TradingRuntime._publish = publishing  # type: ignore[method-assign]


def _plainAsAWhole(isTaken: Callable[[int, int], bool]) -> None:
    read = PlainLines.read

    def reading(self: PlainLines, lines: bytes) -> list[Request]:
        try:
            values = msgspec.json.Decoder().decode_lines(lines)
        except msgspec.DecodeError:
            return read(self, lines)
        if isTaken(len(values), lines.count(b"\n")):
            lines = b"".join(msgspec.json.encode(each) + b"\n" for each in values)
        return read(self, lines)

    PlainLines.read = reading  # type: ignore[method-assign]
    received = Session.linesReceived

    def receiving(self: Session, lines: bytes) -> int:
        return min(received(self, lines), lines.count(b"\n"))

    Session.linesReceived = receiving  # type: ignore[method-assign]


def _limitCountsCommittedOnly() -> None:
    reserved = RuleBook.reserved

    def late(self: RuleBook, reservation: Reservation, movement: Movement) -> None:
        durable = reservation.whenDurable()
        durable.addCallback(lambda _: reserved(self, reservation, movement))

    RuleBook.reserved = late  # type: ignore[method-assign]


def _makerApproves() -> None:
    TradingRuntime._checkApprover = lambda self, approval: None  # type: ignore[method-assign]


def _decidedIn(*states: int) -> None:
    """
    Let finance requests in further states be decided.
    """
    decided = _changes._decided

    def decide(existing: Trade, decision: Decision, now: int) -> tuple[int, Trade, int]:
        if existing.state in states:
            existing = replace(existing, state=17)
        return decided(existing, decision, now)

    _changes._decided = decide


def _approvedTwice() -> None:
    _decidedIn(3)


def _declinedIsOpen() -> None:
    _decidedIn(18)


def _approvalsJudgedByTheLedger() -> None:
    current = TradingRuntime._current
    reserve = TradingRuntime._reserve

    def reserving(self: TradingRuntime, operation: AnyOperation) -> Reservation:
        def booked(order: int) -> Trade | None:
            return self._ledger.trade(order) or current(self, order)

        isDecision = isinstance(operation, Decision)
        TradingRuntime._current = (  # type: ignore[method-assign]
            (lambda _, order: booked(order)) if isDecision else current
        )
        return reserve(self, operation)

    TradingRuntime._reserve = reserving  # type: ignore[method-assign]


def _limitForgetsAtRestart() -> None:
    def movements(self: MemoryLedger, day: int, upTo: int) -> list[Movement]:
        return []

    MemoryLedger.movements = movements  # type: ignore[method-assign]


def _limitCountsWhatAnUpdateLeaves() -> None:
    judge = RuleBook.judge

    def judging(self: RuleBook, operation: Any, trade: Trade, change: int) -> Movement:
        return judge(self, operation, trade, trade.profit)

    RuleBook.judge = judging  # type: ignore[method-assign]


def _requestsSplitOverLines() -> None:
    _plainAsAWhole(lambda values, lines: values < lines)


def _requestsOnOneLine() -> None:
    _plainAsAWhole(lambda values, lines: values > lines)


def _windowsHalfDoneTwice() -> None:
    received = Session.linesReceived

    def receiving(self: Session, lines: bytes) -> int:
        taken = received(self, lines)
        # Those before an unusual line are done, and count as if they were not.
        return taken if taken == lines.count(b"\n") else 0

    Session.linesReceived = receiving  # type: ignore[method-assign]


def _linesSkipped() -> None:
    received = Session.linesReceived

    def receiving(self: Session, lines: bytes) -> int:
        taken, count = received(self, lines), lines.count(b"\n")
        # The unusual line is dropped with those before it.
        return taken + 1 if 0 < taken < count else taken

    Session.linesReceived = receiving  # type: ignore[method-assign]


def _firstTokenForAll() -> None:
    read = PlainLines.read
    token = re.compile(rb'(?<="__token":")[^"]*')

    def reading(self: PlainLines, lines: bytes) -> list[Request]:
        first = token.search(lines)
        if first is not None:
            lines = token.sub(first[0], lines)
        return read(self, lines)

    PlainLines.read = reading  # type: ignore[method-assign]


def _timersArmedOnce() -> None:
    def relax(self: TimedTable[Any]) -> None:
        if not self.entries and self._call is not None and self._call.active():
            self._call.cancel()

    TimedTable.relax = relax  # type: ignore[method-assign]


def _neighboursLost() -> None:
    encode = wire.encodeEvents

    def encoded(events: Sequence[TradeEvent], epoch: str | None) -> Any:
        could, lines = encode(events, epoch)
        lost = next((n for n, each in enumerate(could) if each is not events[n]), None)
        return could[:lost], lines[:lost]

    wire.encodeEvents = encoded


def _outputNotCounted() -> None:
    # Only what is written is counted.
    counted: Any = Output.size
    Output.size = property(  # type: ignore[method-assign,assignment]
        lambda self: 0 if self.isStalled else counted.fget(self)
    )


_SIMULATION = ("tests.simulation", "--seeds", "60")

_TWO_PHASE = (
    *("tests.gateway_simulation", "--seeds", "20", "--way", "two-phase"),
    *("--only", "lose-request,lose-reply"),
)

# The platform shows at once what people decide.
_DECIDED = (
    *("tests.gateway_simulation", "--seeds", "20", "--way", "two-phase"),
    *("--only", "decisions,lose-reply,lose-event,silent-request"),
)

# Each is a mistake of tests.planted.gateway.
_GATEWAY = ("tests.gateway_simulation", "--seeds", "60")

# Few of those worlds have a gateway that is away, and no habit that hides this one.
_AWAY = (*_GATEWAY, "--only", "gateway-away")

_TAMPERING = ("tests.crash.tampering",)


def _offByOne() -> None:
    placeAt = Broadcast.placeAt

    def late(self: Broadcast, cursor: str) -> int:
        return placeAt(self, cursor) + 1

    Broadcast.placeAt = late  # type: ignore[method-assign]


def _missBooked() -> None:
    begin, goOn = CatchUps.begin, CatchUps._goOn
    ends: dict[Any, int] = {}

    def begun(self: CatchUps, session: Any, principal: Any, after: int) -> None:
        ends[session] = self.published
        begin(self, session, principal, after)

    def gone(self: CatchUps, session: Any, reading: Any) -> None:
        if reading.after < ends[session]:
            goOn(self, session, reading)
            return
        self.stop(session)
        self._caughtUp(session, reading.principal)

    CatchUps.begin = begun  # type: ignore[method-assign]
    CatchUps._goOn = gone  # type: ignore[method-assign]


def _doubleBooked() -> None:
    begin = CatchUps.begin

    def begun(self: CatchUps, session: Any, principal: Any, after: int) -> None:
        self._caughtUp(session, principal)
        begin(self, session, principal, after)

    CatchUps.begin = begun  # type: ignore[method-assign]


def _ignoreEpoch() -> None:
    def anywhere(cursor: str, epoch: str, head: int) -> int | None:
        return min(int(cursor.partition("-")[2]), head)

    broadcast.placeIn = anywhere  # type: ignore[attr-defined]


def _epochOfEachStart() -> None:
    journalEnd = sqlite.journalEnd

    def restarted(writer: sqlite3.Connection, path: str) -> tuple[str, int, bytes]:
        _, place, hash = journalEnd(writer, path)
        return newEpoch(), place, hash

    sqlite.journalEnd = restarted  # type: ignore[attr-defined]


def _eventsAsTheyAreNow() -> None:
    read = SQLiteLedger.events

    def events(self: SQLiteLedger, after: int, limit: int) -> list[TradeEvent]:
        found = read(self, after, limit)
        return [
            TradeEvent(each.type, self.trade(each.order), place=each.place)
            for each in found
        ]

    SQLiteLedger.events = events  # type: ignore[method-assign]


_RIGHTS = ("tests.rights",)


def _eventsForAll() -> None:
    def addAll(
        self: Broadcast, session: Any, principal: Any, after: Any = None
    ) -> None:
        add(self, session, principal, after)
        if self._catchUps is None or session not in self._catchUps:
            self._forget(session)
            self._receivers[session] = principal

    add = Broadcast.add
    Broadcast.add = addAll  # type: ignore[method-assign]


def _catchUpsForAll() -> None:
    CatchUps._visible = lambda self, principal, page: page.lines  # type: ignore[method-assign]


def _exclusionsFirst() -> None:
    def matches(mask: str, group: str) -> bool:
        fitting = [
            isSelected
            for isSelected, parts in _masks.patternsOf(mask)
            if _masks._fits(parts, group)
        ]
        return bool(fitting) and all(fitting)

    for module in (rights, _bookingrules):
        module.matches = matches  # type: ignore[attr-defined]


def _exclusionsIgnored() -> None:
    def matches(mask: str, group: str) -> bool:
        return any(
            isSelected and _masks._fits(parts, group)
            for isSelected, parts in _masks.patternsOf(mask)
        )

    for module in (rights, _bookingrules):
        module.matches = matches  # type: ignore[attr-defined]


def _formerTokenListens() -> None:
    authenticate = Session._authenticate

    def lazy(self: Session, token: str | None) -> Any:
        if self.principal is None:
            return authenticate(self, token)
        self.principal = self._authenticator.authenticate(token)
        return self.principal

    Session._authenticate = lazy  # type: ignore[method-assign]


def _lookUpTellsForbidden() -> None:
    find = GetOperation._find

    async def telling(self: GetOperation, session: Any, data: Any) -> Any:
        try:
            return await find(self, session, data)
        except NotFound:
            trade = await self._runtime.trade(int(data.get("order", 0)))
            if trade is not None:
                raise Forbidden("this token may not see this order") from None
            raise

    GetOperation._find = telling  # type: ignore[method-assign]


def _rightsOfTheFirstGroup() -> None:
    groups: dict[tuple[int, int], str] = {}
    maySee = Rights.maySee

    def remembering(self: Rights, principal: Any, login: Any) -> bool:
        groupOf = self.groupOf
        self.groupOf = lambda login: groups.setdefault(
            (id(self), login), groupOf(login)
        )
        try:
            return maySee(self, principal, login)
        finally:
            self.groupOf = groupOf

    Rights.maySee = remembering  # type: ignore[method-assign]


def _catchUpsKeepTheirToken() -> None:
    CatchUps.renew = lambda self, session, principal: None  # type: ignore[method-assign]


def _pagesOfTheirFirstReader() -> None:
    pageRead = CatchUps._pageRead

    def kept(self: CatchUps, page: Any, session: Any, reading: Any) -> None:
        maySee = [self._rights.maySee(reading.principal, each) for each in page.logins]
        page.lines = restricted.linesOf(page.lines, maySee)
        page.logins = list(compress(page.logins, maySee))
        pageRead(self, page, session, reading)

    CatchUps._pageRead = kept  # type: ignore[method-assign]


def _catchUpsWithoutGroups() -> None:
    visible = CatchUps._visible

    def seen(self: CatchUps, principal: Principal, page: Any) -> bytes:
        if principal.role == SESSION_MANAGER and principal.groups is None:
            return bytes(page.lines)
        return visible(self, principal, page)

    CatchUps._visible = seen  # type: ignore[method-assign]


def _moveBeforeCommit() -> None:
    move = TradingRuntime._move

    async def hasty(self: TradingRuntime, batch: Any) -> None:
        for login, group in batch.groups.items():
            self._accounts.account(login).group = group
        moves, batch.moves = batch.moves, []
        for moved in moves:
            moved.callback(None)
        await move(self, batch)

    TradingRuntime._move = hasty  # type: ignore[method-assign]


def _firstMoveWins() -> None:
    setGroup = TradingRuntime.setGroup

    def queued(self: TradingRuntime, login: int, group: str) -> Deferred[None]:
        earlier = self._queue.groups.get(login)
        moved = setGroup(self, login, group)
        if earlier is not None:
            self._queue.groups[login] = earlier
        return moved

    TradingRuntime.setGroup = queued  # type: ignore[method-assign]


def _keyBeforeRight() -> None:
    execute = FinanceCommand.execute

    def executing(self: FinanceCommand, session: Any, request: Request) -> Any:
        try:
            return execute(self, session, request)
        except Forbidden:
            asked, principal = request.operation, session.principal
            runtime: Any = self._runtime
            key = principal.id, request.key
            if request.key is None or runtime._withKey(*key) is None:
                raise
            assert asked is not None
            return self._submit(asked)

    FinanceCommand.execute = executing  # type: ignore[method-assign]


def _hiddenOrdersAreNew() -> None:
    execute = FinanceCommand.execute

    def executing(self: FinanceCommand, session: Any, request: Request) -> Any:
        asked: Any = request.operation
        order = request.data.get("order", 0) if asked is None else asked.order
        trade: Any = self._runtime.trade(int(order))
        login = None if trade.result is None else loginOf(trade.result)
        if login and not self._rights.maySee(session.principal, login):
            request.data = {**request.data, "order": 0}
            if asked is not None:
                asked.order = 0
        return execute(self, session, request)

    FinanceCommand.execute = executing  # type: ignore[method-assign]


def _groupsOfReservations() -> None:
    reserve, tradeEvents = TradingRuntime._reserve, Broadcast.tradeEvents
    groups: dict[int, str] = {}

    def reserving(self: TradingRuntime, operation: Any) -> Reservation:
        reservation = reserve(self, operation)
        groups[id(operation)] = self.groupOf(reservation.data.login)
        return reservation

    def telling(self: Broadcast, events: Sequence[TradeEvent]) -> None:
        groupOf = self._rights.groupOf
        then = {each.login: groups.get(id(each.operation)) for each in events}

        def reserved(login: int) -> str:
            group = then.get(login)
            return groupOf(login) if group is None else group

        self._rights.groupOf = reserved
        try:
            tradeEvents(self, events)
        finally:
            self._rights.groupOf = groupOf

    TradingRuntime._reserve = reserving  # type: ignore[method-assign]
    Broadcast.tradeEvents = telling  # type: ignore[method-assign]


def _groupsRememberedWithMasks() -> None:
    send = RestrictedReceivers.send
    groups: dict[tuple[int, int], str] = {}

    def sending(self: RestrictedReceivers, logins: Any, lines: bytes) -> None:
        if not self._selecting:
            groups.clear()
        groupOf = self._rights.groupOf

        def remembered(login: int) -> str:
            return groups.setdefault((id(self), login), groupOf(login))

        self._rights.groupOf = remembered
        try:
            send(self, logins, lines)
        finally:
            self._rights.groupOf = groupOf

    RestrictedReceivers.send = sending  # type: ignore[method-assign]


def _oneTokenPerPrincipal() -> None:
    def authenticate(self: Session, token: str | None) -> Principal:
        principal = self._authenticator.authenticate(token)
        before, self.principal = self.principal, principal
        if before is None or before.id != principal.id:
            self.subscribe(self._isSubscribed)
        return principal

    Session._authenticate = authenticate  # type: ignore[method-assign]


def _restrictedSessionsStay() -> None:
    def removing(self: Broadcast, session: Any) -> None:
        self._receivers.pop(session, None)
        if not session._isSubscribed:
            self._restricted.remove(session)
        if self._catchUps is not None:
            self._catchUps.stop(session)

    Broadcast.remove = removing  # type: ignore[method-assign]


def _restrictedTokensDontExpire() -> None:
    def sendTo(self: RestrictedReceivers, sessions: Any, lines: bytes) -> None:
        for session in list(sessions):
            session.send(lines)

    RestrictedReceivers._sendTo = sendTo  # type: ignore[method-assign]


def _tellHidden() -> None:
    async def found(self: Lookups, principal: Principal, order: int) -> Any:
        trade: Any = await self.runtime.trade(order)
        if trade is None:
            raise TradeNotFound(f"there is no order {order}")
        if not self.rights.maySee(principal, trade.login):
            raise Forbidden("the account is outside of the token's groups")
        return trade

    Lookups.visible = found  # type: ignore[method-assign]


def _filterAllGroups() -> None:
    _filtering._IS_SEEN = "length(?)"  # type: ignore[misc]


def _likeIgnoresCase() -> None:
    like = {"like": "lower({}) GLOB lower(?)"}
    _filtering._FORMS = {**_filtering._FORMS, **like}  # type: ignore[misc]


_FILTERS = ("tests.attack.filters",)

_RESUMING = ("tests.resuming",)

_LIMITED = ("tests.limited",)

_APPROVING = ("tests.approving",)

BUGS = {
    "maker-approves": Bug(
        "lets who has made a finance request approve it",
        _makerApproves,
        _APPROVING,
    ),
    "approved-twice": Bug(
        "books a finance request for each who approves it",
        _approvedTwice,
        _APPROVING,
    ),
    "approvals-judged-by-the-ledger": Bug(
        "books a second approval while the first one is not on disk yet",
        _approvalsJudgedByTheLedger,
        _APPROVING,
    ),
    "declined-is-open": Bug(
        "approves a finance request that was declined",
        _declinedIsOpen,
        _APPROVING,
    ),
    # Found by the model that judges a whole server amid crashes and restarts too.
    "maker-approves-amid-faults": Bug(
        "lets who has made a finance request approve it",
        _makerApproves,
        _SIMULATION,
    ),
    "approved-twice-amid-faults": Bug(
        "books a finance request for each who approves it",
        _approvedTwice,
        _SIMULATION,
    ),
    "approvals-judged-by-the-ledger-amid-faults": Bug(
        "books a second approval while the first one is not on disk yet",
        _approvalsJudgedByTheLedger,
        _SIMULATION,
    ),
    "look-up-tells-hidden": Bug(
        "tells an order that is hidden from one that does not exist",
        _tellHidden,
        _FILTERS,
    ),
    "filter-sees-all": Bug(
        "finds trades of groups that the token may not see",
        _filterAllGroups,
        _FILTERS,
    ),
    "like-ignores-case": Bug(
        "finds trades that are like a pattern but for case",
        _likeIgnoresCase,
        _FILTERS,
    ),
    "resume-off-by-one": Bug(
        "sends a session that resumes not the next event, but the one after it",
        _offByOne,
        _RESUMING,
    ),
    "catch-up-misses-booked": Bug(
        "does not send what is booked during a catch-up",
        _missBooked,
        _RESUMING,
    ),
    "catch-up-doubles-booked": Bug(
        "sends what is booked during a catch-up twice",
        _doubleBooked,
        _RESUMING,
    ),
    "limit-counts-committed-only": Bug(
        "counts for a limit only what is on disk",
        _limitCountsCommittedOnly,
        _LIMITED,
    ),
    "limit-forgets-at-restart": Bug(
        "begins each limit of a day anew when it starts",
        _limitForgetsAtRestart,
        _LIMITED,
    ),
    "limit-counts-what-is-left": Bug(
        "counts of an update only what it leaves, not what it takes away",
        _limitCountsWhatAnUpdateLeaves,
        _LIMITED,
    ),
    "epoch-ignored": Bug(
        "takes the cursors of other ledgers",
        _ignoreEpoch,
        _RESUMING,
    ),
    "epoch-of-each-start": Bug(
        "takes no cursor from before its start",
        _epochOfEachStart,
        ("tests.crash.kill",),
    ),
    "events-as-they-are-now": Bug(
        "sends trades of the journal as they are now, and not as they were then",
        _eventsAsTheyAreNow,
        _SIMULATION,
    ),
    "acknowledge-before-commit": Bug(
        "says that an operation is booked before it is on disk",
        _acknowledgeBeforeCommit,
        ("tests.crash.kill",),
    ),
    "event-before-commit": Bug(
        "publishes an event before its place is on disk",
        _eventBeforeCommit,
        _SIMULATION,
    ),
    "synchronous-normal": Bug(
        "runs SQLite with synchronous=NORMAL",
        _synchronousNormal,
        ("tests.crash.power",),
    ),
    "order-numbers-reused": Bug(
        "forgets after a crash which order numbers it has told",
        _orderNumbersReused,
        _SIMULATION,
    ),
    "key-only-in-memory": Bug(
        "remembers idempotency keys in memory only",
        _keyOnlyInMemory,
        ("tests.crash.kill",),
    ),
    "place-left-out": Bug(
        "leaves out a place of the journal", _placeLeftOut, _SIMULATION
    ),
    "chain-not-verified": Bug(
        "checks a journal without its hashes", _chainNotVerified, _TAMPERING
    ),
    "noted-hash-not-looked-for": Bug(
        "checks a journal without looking for the hash that was noted",
        _notedHashNotLookedFor,
        _TAMPERING,
    ),
    "events-for-all": Bug(
        "sends an event to a session that may not see it", _eventsForAll, _RIGHTS
    ),
    "catch-ups-for-all": Bug(
        "sends all of the journal to a session that may see a part of it",
        _catchUpsForAll,
        _RIGHTS,
    ),
    "exclusions-first": Bug(
        "lets an exclusion decide that comes second in its mask",
        _exclusionsFirst,
        _RIGHTS,
    ),
    "exclusions-ignored": Bug(
        "overlooks an exclusion if a later pattern selects the group",
        _exclusionsIgnored,
        _RIGHTS,
    ),
    "former-token-listens": Bug(
        "goes on to send what a session's former token may see",
        _formerTokenListens,
        _RIGHTS,
    ),
    "look-up-tells-forbidden": Bug(
        "tells an order that a token may not see from one that does not exist",
        _lookUpTellsForbidden,
        _RIGHTS,
    ),
    "first-group-for-ever": Bug(
        "goes on to judge an account by the group that it had first",
        _rightsOfTheFirstGroup,
        _RIGHTS,
    ),
    "catch-ups-keep-their-token": Bug(
        "goes on to send a catch-up for the token with which it began",
        _catchUpsKeepTheirToken,
        _SIMULATION,
    ),
    "pages-of-their-first-reader": Bug(
        "keeps a page of the journal as its first reader may see it",
        _pagesOfTheirFirstReader,
        _SIMULATION,
    ),
    "catch-ups-without-groups": Bug(
        "sends all of the journal to tokens without groups where groups are required",
        _catchUpsWithoutGroups,
        _SIMULATION,
    ),
    "move-before-commit": Bug(
        "says that an account is moved before that is on disk",
        _moveBeforeCommit,
        _SIMULATION,
    ),
    "first-move-wins": Bug(
        "carries out the first of several moves of an account in one commit",
        _firstMoveWins,
        _SIMULATION,
    ),
    "key-before-right": Bug(
        "looks at a key before it asks whether the token may use the account",
        _keyBeforeRight,
        _SIMULATION,
    ),
    "hidden-orders-are-new": Bug(
        "makes a new order of the update of one that the token may not see",
        _hiddenOrdersAreNew,
        _SIMULATION,
    ),
    "groups-of-reservations": Bug(
        "sends an event to those who could see the account when it was asked for",
        _groupsOfReservations,
        _SIMULATION,
    ),
    "groups-remembered-with-masks": Bug(
        "remembers the group of an account as long as its sessions have the same masks",
        _groupsRememberedWithMasks,
        _SIMULATION,
    ),
    "one-token-per-principal": Bug(
        "goes on to send what the first token of a principal may see",
        _oneTokenPerPrincipal,
        _SIMULATION,
    ),
    "restricted-sessions-stay": Bug(
        "keeps sessions with restricted tokens after they have ended",
        _restrictedSessionsStay,
        _SIMULATION,
    ),
    "restricted-tokens-do-not-expire": Bug(
        "sends events to sessions whose restricted token is no longer valid",
        _restrictedTokensDontExpire,
        _SIMULATION,
    ),
    "waiter-after-hand-over": Bug(
        "lets a waiter stand only after the operation was handed over",
        _waiterAfterHandOver,
        _SIMULATION,
    ),
    "first-waiter-takes-all": Bug(
        "gives an event to the oldest waiter of its order, whose operation it isn't",
        _firstWaiterTakesAll,
        _SIMULATION,
    ),
    "timeout-leaves-its-waiter": Bug(
        "answers 504 and keeps the waiter in its table",
        _timeoutLeavesItsWaiter,
        ("tests.attack.waiters",),
    ),
    "wall-clock-timers": Bug(
        "measures its timeouts with the wall clock",
        _wallClockTimers,
        ("tests.load.clocks",),
    ),
    "revoked-token-accepted": Bug(
        "goes on to accept a remembered token after it was revoked",
        _revokedTokenAccepted,
        _SIMULATION,
    ),
    "token-without-end": Bug(
        "accepts a token without exp", _tokenWithoutEnd, ("tests.attack.tokens",)
    ),
    "binary-floating-point": Bug(
        "counts money in binary floating point", _binaryFloatingPoint, _SIMULATION
    ),
    "refused-after-booking": Bug(
        "looks at its limits after it has booked",
        _refusedAfterBooking,
        ("tests.load.overload",),
    ),
    "reader-never-cut-off": Bug(
        "keeps all that a client doesn't read",
        _readerNeverCutOff,
        ("tests.load.slow_readers",),
    ),
    "reply-before-event": Bug(
        "sends a reply before its event", _replyBeforeEvent, _SIMULATION
    ),
    "events-twice": Bug("sends an event twice to a session", _eventsTwice, _SIMULATION),
    "no-time-to-retry": Bug(
        "says that it is busy, and not when to try again",
        _noTimeToRetry,
        _SIMULATION,
    ),
    "judged-by-the-ledger-alone": Bug(
        "overlooks what is under way when it asks whether there is enough money",
        _judgedByTheLedgerAlone,
        _SIMULATION,
    ),
    "failed-commit-is-nothing": Bug(
        "says that nothing has happened when a commit erred",
        _failedCommitIsNothing,
        ("tests.crash.disk_errors",),
    ),
    "failed-commit-is-forgiven": Bug(
        "goes on as if a commit that erred had gone well",
        _failedCommitIsForgiven,
        ("tests.crash.disk_errors",),
    ),
    "stop-drops-replies": Bug(
        "cuts its connections when it stops",
        _stopDropsReplies,
        ("tests.load.stopping",),
    ),
    "repeated-names-accepted": Bug(
        "takes a line that names a member twice",
        _repeatedNamesAccepted,
        ("tests.attack.fuzz",),
    ),
    "fast-path-rounds": Bug(
        "reads an amount as a double if its line takes the fast path",
        _fastPathRounds,
        ("tests.attack.paths",),
    ),
    "totals-not-moved": Bug(
        "loses an update from its account's total", _totalsNotMoved, _SIMULATION
    ),
    "one-given-back": Bug(
        "ends one request only when a session ends with several in flight",
        _onlyOneGivenBack,
        _SIMULATION,
    ),
    "unknown-not-given-back": Bug(
        "goes on to count a request that was answered with 504",
        _unknownNotGivenBack,
        _SIMULATION,
    ),
    "abandoned-waits-stay": Bug(
        "keeps the waits of a session that has ended among those for their events",
        _abandonedWaitsStay,
        ("tests.attack.waiters",),
    ),
    "dead-sessions-listen": Bug(
        "goes on to send events to sessions that have ended",
        _deadSessionsListen,
        _SIMULATION,
    ),
    "cut-off-connections-count": Bug(
        "goes on to count a connection that ended while its client did not read",
        _cutOffConnectionsCount,
        _SIMULATION,
    ),
    "updates-stay-under-way": Bug(
        "keeps an order that was updated after the update is booked",
        _updatesStayUnderWay,
        _SIMULATION,
    ),
    "requests-split-over-lines": Bug(
        "takes a request that is split over two lines",
        _requestsSplitOverLines,
        _SIMULATION,
    ),
    "requests-on-one-line": Bug(
        "takes two requests that are on one line", _requestsOnOneLine, _SIMULATION
    ),
    "windows-half-done-twice": Bug(
        "carries out the lines before an unusual one a second time",
        _windowsHalfDoneTwice,
        _SIMULATION,
    ),
    "lines-skipped": Bug(
        "skips an unusual line behind others", _linesSkipped, _SIMULATION
    ),
    "first-token-for-all": Bug(
        "authenticates only the first of the lines that it reads at once",
        _firstTokenForAll,
        _SIMULATION,
    ),
    "timers-armed-once": Bug(
        "starts no timer any more once no request was waiting",
        _timersArmedOnce,
        _SIMULATION,
    ),
    "neighbours-lost": Bug(
        "loses the events behind one that can't be encoded",
        _neighboursLost,
        _SIMULATION,
    ),
    "output-not-counted": Bug(
        "does not count what it sends to a client that does not read",
        _outputNotCounted,
        ("tests.load.slow_readers",),
    ),
    **{name: Bug(*row) for name, row in POSTGRES.items()},
    "sent-before-durable": Bug(
        "sends an operation to the platform before that is on disk",
        planting(gateway.sentBeforeDurable),
        _GATEWAY,
    ),
    "resent-on-silence": Bug(
        "sends an operation to the platform again when no reply comes",
        planting(gateway.resentOnSilence),
        _GATEWAY,
    ),
    "matched-by-type": Bug(
        "takes the platform's event of an addition for a booking",
        planting(gateway.matchedByType),
        _GATEWAY,
    ),
    "overtaking-event-dropped": Bug(
        "drops an event that comes before the reply that names its order",
        planting(gateway.overtakingEventDropped),
        _GATEWAY,
    ),
    "absent-taken-for-never": Bug(
        "takes an operation that the platform does not show for one that never was",
        planting(gateway.absentTakenForNever),
        _GATEWAY,
    ),
    "chosen-declined": Bug(
        "declines the finance request that it has chosen, with those made in vain",
        planting(gateway.chosenDeclined),
        _TWO_PHASE,
    ),
    "approved-before-chosen": Bug(
        "approves a finance request before it is on disk which one",
        planting(gateway.approvedBeforeChosen),
        _GATEWAY,
    ),
    "person-not-seen": Bug(
        "makes a finance request again that a person has approved",
        planting(gateway.personNotSeen),
        _DECIDED,
    ),
    "catch-up-by-offset": Bug(
        "reads the pages of what it has missed by an offset",
        planting(gateway.catchUpByOffset),
        _AWAY,
    ),
}
