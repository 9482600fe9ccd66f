"""
Tests for L{creditsync._conversation.catchups}, and for what sessions and commands make
of it.
"""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from attrs import Factory, define
from twisted.internet.defer import Deferred, execute, maybeDeferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from creditsync._conversation import catchups
from creditsync._conversation.broadcast import Broadcast
from creditsync._conversation.commands import GetOperation, HealthCheck, Subscription
from creditsync._conversation.finance import financeCommands
from creditsync._conversation.sessions import Sessions
from creditsync._conversation.waiters import Waiters
from creditsync.events import TradeEvents
from creditsync.interfaces import IJournal
from creditsync.ledger.memory import MemoryLedger
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.records import Limits, Operation, TradeEvent
from creditsync.runtime import TradingRuntime
from creditsync.testing import FakeAuthenticator, HeldLedger
from creditsync.validation import Schemas
from tests.test_session import Client, SessionTestCase

SCHEMAS = Schemas()
EPOCH = "9f3c1a7e"
CHANNELS = {"chanels": ["trade:event"]}
Read = tuple[Callable[[], Any], "Deferred[Any]"]


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
        self.broadcast = Broadcast(self.authenticator, self.waiters)
        self.sessions = Sessions(
            commands=[
                *financeCommands(self.runtime),
                GetOperation(self.runtime, self.broadcast),
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
        Let the reactor turn once: what is scheduled meanwhile is for the next turn,
        where L{Clock.advance} would do it at once.
        """
        for call in self.clock.getDelayedCalls():
            if call.active() and call.getTime() <= self.clock.seconds():
                function, args, keywords = call.func, call.args, call.kw
                call.cancel()
                function(*args, **keywords)

    def turn(self) -> None:
        """
        Let the reactor turn until nothing is to be done now.
        """
        while any(
            each.getTime() <= self.clock.seconds()
            for each in self.clock.getDelayedCalls()
        ):
            self.clock.advance(0)


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


class CatchUpCase(SynchronousTestCase):
    """
    A server whose pages have four events.
    """

    def setUp(self) -> None:
        """
        Start it.
        """
        self.patch(catchups, "_PAGE", 4)
        self.site = Site()

    def client(self) -> Client:
        """
        Start a session.
        """
        return Client(self.site.sessions)

    def assertAtRest(self) -> None:
        """
        Nothing of a catch-up is left.
        """
        self.site.turn()
        catchUps = self.site.catchUps
        self.assertEqual(len(catchUps), 0)
        self.assertEqual(len(catchUps._queue), 0)
        self.assertEqual(len(catchUps._pages), 0)
        self.assertIs(catchUps._isReading, False)
        self.assertEqual(self.site.clock.getDelayedCalls(), [])


class PlaceTests(CatchUpCase):
    """
    The places from which a session can begin.
    """

    def test_everyPlace(self) -> None:
        """
        A session gets exactly the events behind its place, in their order.
        """
        self.site.book(11)
        for after in range(12):
            client = self.client()
            since(client, f"{EPOCH}-{after}")
            self.site.turn()
            self.assertEqual(places(client), list(range(after + 1, 12)))
            client.session.ended()
        self.assertAtRest()

    def test_first(self) -> None:
        """
        C{"first"} is the beginning of the journal, also of an empty one.
        """
        client = self.client()
        since(client, "first")
        self.site.turn()
        self.assertEqual(places(client), [])
        self.site.book(2)
        self.assertEqual(places(client), [1, 2])
        since(client, "first")
        self.site.turn()
        self.assertEqual(places(client), [1, 2])
        self.assertAtRest()

    def test_replyFirst(self) -> None:
        """
        The reply has the head of that moment, and comes before the events.
        """
        self.site.book(2)
        client = self.client()
        since(client, "first")
        self.site.turn()
        reply, *events = client.hears()
        self.assertEqual(
            reply,
            {
                "extID": "s",
                "status": 200,
                "data": {"chanels": ["trade:event"], "cursor": "9f3c1a7e-2"},
            },
        )
        self.assertEqual(len(events), 2)
        self.assertEqual(list(events[0]["data"])[-1], "cursor")

    def test_gone(self) -> None:
        """
        A place ahead of the head, one of another epoch, and what only looks like a
        cursor are 410 with the head, and change nothing.
        """
        self.site.book(3)
        client = self.client()
        for cursor in (
            "9f3c1a7e-4",
            "9f3c1a7e-9999999999999999",
            "00000000-1",
            "9f3c1a7e",
            "9f3c1a7e-01",
            "9F3C1A7E-1",
            "First",
            "-",
        ):
            since(client, cursor)
            [reply] = client.hears()
            self.assertEqual((reply["status"], reply["error"]), (410, "CURSOR_GONE"))
            self.assertEqual(reply["data"], {"head": "9f3c1a7e-3"})
        self.assertAtRest()
        self.site.book(1)
        self.assertEqual(places(client), [4])

    def test_malformed(self) -> None:
        """
        What can't be a cursor of any ledger is 400.
        """
        client = self.client()
        for cursor in ("", "a" * 65, "9f3c1a7e 1", "9f3c1a7e-1\n", "é", 1, None, []):
            since(client, cursor)
            [reply] = client.hears()
            self.assertEqual((reply["status"], reply["error"]), (400, "INVALID_DATA"))
            self.assertIn("data.since", reply["message"])

    def test_unsubscribe(self) -> None:
        """
        C{Unsubscribe} ignores C{since}, whatever place it names.
        """
        self.site.book(2)
        client = self.client()
        client.asks("Unsubscribe", "u", {**CHANNELS, "since": "00000000-1"})
        self.site.turn()
        self.assertEqual([line["status"] for line in client.hears()], [200])
        self.site.book(1)
        self.assertEqual(client.hears(), [])
        self.assertAtRest()

    def test_unknownChannel(self) -> None:
        """
        An unknown channel is 404, and nothing is sent from the place.
        """
        self.site.book(2)
        client = self.client()
        client.asks("Subscribe", "s", {"chanels": ["quotes"], "since": "first"})
        self.site.turn()
        self.assertEqual(client.outcomes(), [("s", 404, "NOT_FOUND")])

    def test_committedNotPublished(self) -> None:
        """
        The cursor of a look-up is a place that C{since} takes, also while that place
        is not published yet.
        """
        self.site.book(1)
        client = self.client()
        # As with a reader that sees a commit before the reactor hears of its end.
        self.site.journal.placeOf = lambda order: 2
        client.asks("GetOperation", "g", {"order": 1})
        [reply] = client.hears()
        self.assertEqual(reply["data"]["cursor"], "9f3c1a7e-1")


class SeamTests(CatchUpCase):
    """
    Where a catch-up meets what is being booked.
    """

    def test_bookedMeanwhile(self) -> None:
        """
        What is booked before, during and after each step of a catch-up comes once.
        """
        for moment in range(9):
            self.site = Site(holdsReads=True)
            self.site.book(6)
            client = self.client()
            steps: list[Callable[[], object]] = [
                partial(since, client, "9f3c1a7e-1"),
                self.site.step,
                self.endFirst,
                self.site.step,
                self.endFirst,
                self.site.step,
                self.endFirst,
                self.site.step,
            ]
            for number, step in enumerate(steps):
                if number == moment:
                    self.site.book(3)
                step()
            if moment == len(steps):
                self.site.book(3)
            self.site.holdsReads = False
            self.endFirst()
            self.site.turn()
            got = places(client)
            # Before its reply, the connection was not known.
            self.assertEqual(got, list(range(2, 10)), moment)
            self.assertAtRest()

    def endFirst(self) -> None:
        """
        End a read, if there is one.
        """
        if self.site.reads:
            self.site.endRead()

    def test_commitHeldBack(self) -> None:
        """
        An event whose commit ends after a catch-up is sent then.
        """
        self.site.book(2)
        self.site.ask(1)
        client = self.client()
        since(client, "first")
        self.site.turn()
        self.assertEqual(places(client), [1, 2])
        self.site.ledger.release()
        self.assertEqual(places(client), [3])

    def test_ownCredit(self) -> None:
        """
        A credit during one's own catch-up is answered when it is booked; its event
        comes in its place.
        """
        self.site.holdsReads = True
        self.site.book(5)
        client = self.client()
        since(client, "first")
        client.hears()
        client.asks(extID="c")
        self.site.clock.advance(0)
        self.site.ledger.release()
        self.assertEqual(
            [(line["extID"], line["data"]["cursor"]) for line in client.hears()],
            [("c", "9f3c1a7e-6")],
        )
        self.site.holdsReads = False
        self.site.endRead()
        self.site.turn()
        self.assertEqual(places(client), [1, 2, 3, 4, 5, 6])

    def test_anotherSince(self) -> None:
        """
        Another C{since} in the middle of a page begins there.
        """
        self.site.holdsReads = True
        self.site.book(9)
        client = self.client()
        since(client, "first")
        self.site.turn()
        since(client, "9f3c1a7e-7")
        self.site.holdsReads = False
        self.site.endRead()
        self.site.turn()
        self.assertEqual(places(client), [8, 9])

    def test_subscribeGoesOn(self) -> None:
        """
        C{Subscribe} without C{since} leaves a catch-up as it is.
        """
        self.site.book(9)
        client = self.client()
        since(client, "first")
        client.asks("Subscribe", "s", CHANNELS)
        self.site.turn()
        self.assertEqual(places(client), list(range(1, 10)))

    def test_unsubscribed(self) -> None:
        """
        C{Unsubscribe} ends a catch-up, also one whose page is being read.
        """
        self.site.holdsReads = True
        self.site.book(9)
        client = self.client()
        since(client, "first")
        self.site.turn()
        client.asks("Unsubscribe", "u", CHANNELS)
        self.site.endRead()
        self.assertAtRest()
        self.assertEqual(places(client), [])

    def test_sessionEnds(self) -> None:
        """
        A session that ends while a page is read leaves nothing behind.
        """
        self.site.holdsReads = True
        self.site.book(9)
        client = self.client()
        since(client, "first")
        self.site.turn()
        client.session.ended()
        self.site.endRead()
        self.assertAtRest()

    def test_revoked(self) -> None:
        """
        A catch-up ends with its token, and the session has no principal.
        """
        self.site.book(9)
        client = self.client()
        since(client, "first")
        self.site.step()
        self.site.authenticator.revoked.add("manager")
        self.assertAtRest()
        self.assertEqual(places(client), [1, 2, 3, 4])
        self.assertIsNone(client.session.principal)

    def test_renewed(self) -> None:
        """
        A catch-up goes on under another token, also if the first one has expired.
        """
        self.site.book(9)
        client = self.client()
        since(client, "first")
        self.site.step()
        self.site.authenticator.revoked.add("manager")
        client.asks("HealthCheck", "h", {}, "admin")
        self.site.turn()
        self.assertEqual(places(client), list(range(1, 10)))

    def test_replayHasItsCursor(self) -> None:
        """
        A replay has the cursor of the booking, and a look-up that of the last change.
        """
        client = self.client()
        for extID in ("a", "b"):
            client.asks(extID=extID, idempotencyKey="promo-1")
            self.site.turn()
            while self.site.ledger.commits:
                self.site.ledger.release()
        one, again = client.replies()
        self.assertEqual(one["data"]["cursor"], "9f3c1a7e-1")
        self.assertEqual(again["data"], one["data"])
        self.assertIs(again["replayed"], True)
        client.asks("GetOperation", "g", {"order": one["data"]["order"]})
        [found] = client.hears()
        self.assertEqual(found["data"], one["data"])

    def test_anyOrder(self) -> None:
        """
        Whatever happens between, in whatever order, each session gets each event
        behind its place once and in order.
        """
        for seed in range(150):
            with self.subTest(seed=seed):
                _Course(self, seed).run()
                self.assertAtRest()


@define(eq=False)
class _Follower:
    """
    A client, and the place of the event that it has to get next.
    """

    client: Client
    token: str = "manager"
    next: int | None = None


class _Course:
    """
    One random course of things.
    """

    def __init__(self, case: CatchUpCase, seed: int) -> None:
        self.random = Random(seed)
        self.case = case
        self.site = case.site = Site(holdsReads=True)
        self.followers = [_Follower(case.client()) for _ in range(4)]

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
                self.case.assertEqual(follower.next, self.site.ledger.head + 1)

    @property
    def one(self) -> _Follower:
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

    def subscribe(self, follower: _Follower | None = None) -> None:
        """
        Begin at any place.
        """
        follower = follower or self.one
        self.hear()
        place = self.random.randint(0, self.site.catchUps.published)
        since(follower.client, f"{EPOCH}-{place}", follower.token)
        follower.next = place + 1

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
        follower.client = self.case.client()
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
        if follower.next is not None and follower.client.session.principal is None:
            self.case.fail("a session without a principal")

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
                self.case.assertEqual(place, follower.next)
                follower.next += 1


class PaceTests(CatchUpCase):
    """
    How fast, and at whose cost.
    """

    def test_shared(self) -> None:
        """
        Sessions that read together share the pages.
        """
        self.site.book(8)
        clients = [self.client() for _ in range(3)]
        for client in clients:
            since(client, "first")
        self.site.turn()
        for client in clients:
            self.assertEqual(places(client), list(range(1, 9)))
        self.assertEqual(self.site.pages, [(0, 4), (4, 4)])

    def test_aligned(self) -> None:
        """
        Pages begin at the same places, wherever a session begins, and end where
        nothing more is published.
        """
        self.site.book(10)
        since(self.client(), "9f3c1a7e-3")
        self.site.turn()
        self.assertEqual(self.site.pages, [(3, 1), (4, 4), (8, 2)])

    def test_keptPagesAreBounded(self) -> None:
        """
        Of a long journal only some pages are kept.
        """
        self.patch(catchups, "_MAX_PAGES", 2)
        self.site.book(40)
        stalled, client = self.client(), self.client()
        since(stalled, "first")
        since(client, "first")
        stalled.session.isStalled = True
        for _ in range(14):
            self.site.step()
            self.assertLessEqual(len(self.site.catchUps._pages), 2)
        self.assertEqual(places(client), list(range(1, 41)))

    def test_onePageATurn(self) -> None:
        """
        In a reactor turn one session gets one page.
        """
        self.site.book(8)
        one, two = self.client(), self.client()
        since(one, "first")
        since(two, "first")
        got = []
        for _ in range(4):
            self.site.step()
            got.append((places(one), places(two)))
        self.assertEqual(
            got,
            [
                ([1, 2, 3, 4], []),
                ([], [1, 2, 3, 4]),
                ([5, 6, 7, 8], []),
                ([], [5, 6, 7, 8]),
            ],
        )

    def test_stalled(self) -> None:
        """
        A client that does not read gets no page, and does not hold up others. When it
        has read, it goes on.
        """
        self.site.book(8)
        slow, other = self.client(), self.client()
        since(slow, "first")
        since(other, "first")
        self.site.step()
        slow.session.isStalled = True
        self.site.turn()
        self.assertEqual(places(slow), [1, 2, 3, 4])
        self.assertEqual(places(other), list(range(1, 9)))
        slow.session.isStalled = False
        slow.session.readOn()
        self.site.turn()
        self.assertEqual(places(slow), [5, 6, 7, 8])
        self.assertAtRest()

    def test_lastOfTheQueueLeaves(self) -> None:
        """
        If the only session that could go on leaves while another one is stalled,
        nothing is scheduled.
        """
        self.site.book(8)
        slow, other = self.client(), self.client()
        since(slow, "first")
        slow.session.isStalled = True
        self.site.turn()
        since(other, "first")
        other.session.ended()
        self.assertEqual(self.site.clock.getDelayedCalls(), [])
        slow.session.ended()
        self.assertAtRest()


class FaultTests(CatchUpCase):
    """
    Journals that fail.
    """

    def test_unreadable(self) -> None:
        """
        A journal that can't be read is read again each second, and that is logged
        once until it succeeds.
        """
        self.site.book(6)
        read, failing = self.site.journal.events, [True]

        def events(after: int, limit: int) -> Any:
            if failing[0]:
                raise OSError("the disk is gone")
            return read(after, limit)

        self.site.journal.events = events  # type: ignore[method-assign]
        client, other = self.client(), self.client()
        since(client, "first")
        since(other, "first")
        for _ in range(4):
            self.site.turn()
            self.site.clock.advance(1)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        failing[0] = False
        self.site.clock.advance(1)
        self.site.turn()
        self.assertEqual(places(client), [1, 2, 3, 4, 5, 6])
        self.assertEqual(places(other), [1, 2, 3, 4, 5, 6])
        self.assertAtRest()

    def test_nothingThere(self) -> None:
        """
        A journal that has nothing where an event was published is not asked again at
        once.
        """
        self.site.book(2)
        self.site.journal.events = lambda after, limit: succeed([])  # type: ignore[method-assign]
        client = self.client()
        since(client, "first")
        self.site.turn()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(places(client), [])
        client.session.ended()
        self.assertAtRest()

    def test_notEncodable(self) -> None:
        """
        An event that can't be encoded is left out of its page.
        """
        self.site.book(3)
        read = self.site.ledger.events

        def events(after: int, limit: int) -> Any:
            return succeed(
                [
                    TradeEvent(0, {"order": object()}, place=2)
                    if each.place == 2
                    else each
                    for each in read(after, limit)
                ]
            )

        self.site.journal.events = events  # type: ignore[method-assign]
        client = self.client()
        since(client, "first")
        self.site.turn()
        self.assertEqual(places(client), [1, 3])
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)
        self.assertAtRest()

    def test_failingSession(self) -> None:
        """
        A session that fails does not hold up the others.
        """
        self.site.book(6)
        bad, good = self.client(), self.client()
        since(bad, "first")
        since(good, "first")

        def fail(data: bytes) -> None:
            raise OSError("no connection")

        bad.session.send = fail
        self.site.holdsReads = True
        self.site.step()
        self.site.endRead()
        self.site.holdsReads = False
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        for _ in range(4):
            self.site.step()
        self.assertEqual(places(good), [1, 2, 3, 4, 5, 6])


@implementer(IJournal)
class ForeignJournal:
    """
    The journal of a foreign runtime, whose events are mappings.
    """

    epoch = "upstream"
    head = 1

    def events(self, after: int, limit: int) -> "Deferred[Sequence[TradeEvent]]":
        """
        See L{IJournal.events}.
        """
        return succeed([TradeEvent(0, {"order": 5}, place=1)])

    def placeOf(self, order: int) -> int | None:
        """
        See L{IJournal.placeOf}.
        """
        return 1


class ForeignTests(SessionTestCase):
    """
    Foreign runtimes.
    """

    def test_withoutPlaces(self) -> None:
        """
        Without a journal C{since} is 400, and there are no cursors.
        """
        client = self.client()
        for cursor in ("first", "9f3c1a7e-1"):
            since(client, cursor)
            [reply] = client.hears()
            self.assertEqual((reply["status"], reply["error"]), (400, "INVALID_DATA"))
            self.assertEqual(
                reply["message"],
                "data.since can't be used:"
                " this server's trading runtime has no journal",
            )
        client.asks("HealthCheck", "h", {})
        [reply] = client.hears()
        self.assertNotIn("cursor", reply["data"])

    def test_withPlaces(self) -> None:
        """
        With a journal its events have their cursors; one without a place has none.
        """
        journal = ForeignJournal()
        self.sessions.broadcast.start(self.clock, journal)  # type: ignore[arg-type]
        client = self.client()
        since(client, "first")
        while len(client.heard) < 2:
            self.clock.advance(0)
        self.clock.advance(0)
        reply, event = client.hears()
        self.assertEqual(reply["data"]["cursor"], "upstream-1")
        self.assertEqual(event["data"], {"order": 5, "cursor": "upstream-1"})
        self.events.publish([TradeEvent(1, {"order": 5}, place=2)])
        self.publish(2, {"order": 5})
        self.assertEqual(
            [line["data"] for line in client.hears()],
            [{"order": 5, "cursor": "upstream-2"}, {"order": 5}],
        )


class SQLiteTests(SynchronousTestCase):
    """
    The journal on disk.
    """

    def test_otherThread(self) -> None:
        """
        Pages are read in another thread while commits are made.
        """
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        clock = Clock()
        ledger = SQLiteLedger(str(Path(folder.name, "creditsync.db")), execute)
        runtime = TradingRuntime(
            clock, ledger, TradeEvents(), now=lambda: 1767225600.0, maxQueued=10_000
        )
        runtime.startService()
        got: list[int] = []
        total = 3000

        def follow() -> None:
            while len(got) < total:
                after = len(got)
                got.extend(each.place or 0 for each in ledger.events(after, 100))

        thread = threading.Thread(target=follow)
        thread.start()
        for _ in range(total // 30):
            for _ in range(30):
                runtime.submit(Operation("CreditIn", 7, 1001, 100_000_000, "x"))
            clock.advance(0)
        thread.join(30)
        self.assertEqual(got, list(range(1, total + 1)))
        self.successResultOf(runtime.stopService())

    def test_stopWhileReading(self) -> None:
        """
        A runtime that is stopped while a page is read closes its ledger afterwards.
        """
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        reads: list[Read] = []

        def hold(function: Callable[[], Any]) -> "Deferred[Any]":
            reads.append((function, Deferred()))
            return reads[-1][1]

        clock = Clock()
        ledger = SQLiteLedger(str(Path(folder.name, "creditsync.db")), execute)
        runtime = TradingRuntime(
            clock,
            ledger,
            TradeEvents(),
            now=lambda: 1767225600.0,
            maxQueued=10,
            read=hold,
        )
        runtime.startService()
        runtime.submit(Operation("CreditIn", 7, 1001, 100_000_000, "x"))
        clock.advance(0)
        page = runtime.events(0, 10)
        stopped = runtime.stopService()
        self.assertNoResult(stopped)
        [(function, held)] = reads
        held.callback(function())
        self.successResultOf(stopped)
        self.assertEqual([each.place for each in self.successResultOf(page)], [1])
