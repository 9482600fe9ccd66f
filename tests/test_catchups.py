"""
Tests for L{creditsync._conversation.catchups}, and for what sessions and commands make
of it.
"""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet.defer import Deferred, execute, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from creditsync._conversation import catchups
from creditsync.errors import Busy
from creditsync.events import TradeEvents
from creditsync.interfaces import IClustered, IJournal
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.records import Operation, TradeEvent
from creditsync.runtime import TradingRuntime
from tests.resuming import CHANNELS, EPOCH, Course, Journal, Read, Site, places, since
from tests.test_session import Client, SessionTestCase


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


@implementer(IClustered)
class JournalOfSeveral(Journal):
    """
    A journal in which other servers book too.

    @ivar reached: Fires when this server has published what a test asked for.
    """

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.wanted: list[int] = []
        self.reached: Deferred[None] = Deferred()

    def whenPublished(self, place: int) -> "Deferred[None]":
        """
        See L{IClustered.whenPublished}.
        """
        self.wanted.append(place)
        self.reached = Deferred()
        return self.reached


class AheadTests(CatchUpCase):
    """
    The places that a client has from another server, which has published more.
    """

    def setUp(self) -> None:
        """
        Publish three events.
        """
        super().setUp()
        self.journal = JournalOfSeveral(self.site)
        self.site.broadcast.start(self.site.clock, self.journal)  # type: ignore[arg-type]
        self.site.book(3)

    def test_waits(self) -> None:
        """
        The reply waits until this server has published that place, and the events go
        on behind it.
        """
        client = self.client()
        since(client, f"{EPOCH}-4")
        self.assertEqual(client.hears(), [])
        self.assertEqual(self.journal.wanted, [4])
        self.site.book(1)
        client.hears()
        self.journal.reached.callback(None)
        [reply] = client.hears()
        self.assertEqual(reply["data"]["cursor"], f"{EPOCH}-4")
        # A catch-up rests while requests wait, and this one still did.
        self.site.clock.advance(1.0)
        self.site.book(1)
        self.assertEqual(places(client), [5])
        self.assertAtRest()

    def test_nowhere(self) -> None:
        """
        A place that no server has booked is 410.
        """
        client = self.client()
        since(client, f"{EPOCH}-9")
        self.journal.reached.callback(None)
        [reply] = client.hears()
        self.assertEqual((reply["status"], reply["error"]), (410, "CURSOR_GONE"))
        self.assertAtRest()

    def test_tooLong(self) -> None:
        """
        If that takes too long, the client is to try again.
        """
        client = self.client()
        since(client, f"{EPOCH}-4")
        self.site.clock.advance(1.0)
        [reply] = client.hears()
        self.assertEqual((reply["status"], reply["error"]), (503, "BUSY"))
        self.assertAtRest()

    def test_changesItsMind(self) -> None:
        """
        What the client asks for meanwhile is what counts.
        """
        client = self.client()
        since(client, f"{EPOCH}-4")
        client.asks("Unsubscribe", "none", CHANNELS)
        self.assertEqual(
            [(each["extID"], each["status"]) for each in client.hears()],
            [("s", 503), ("none", 200)],
        )
        self.site.book(1)
        self.assertEqual(client.hears(), [])
        self.assertAtRest()

    def test_leaves(self) -> None:
        """
        For a client that is gone nothing is waited for.
        """
        client = self.client()
        since(client, f"{EPOCH}-4")
        client.session.ended()
        self.assertEqual(self.site.broadcast._ahead, {})
        self.site.book(1)
        self.assertAtRest()


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

    def test_endsWithItsLastPage(self) -> None:
        """
        A session that has got everything receives what is published at once, even if
        that is before its next turn.
        """
        self.site.book(5)
        client = self.client()
        since(client, "first")
        self.site.step()
        self.site.step()
        self.assertEqual(places(client), [1, 2, 3, 4, 5])
        self.assertNotIn(client.session, self.site.catchUps)
        self.site.book(1)
        self.assertEqual(places(client), [6])
        self.assertEqual(self.site.pages, [(0, 4), (4, 1)])
        self.assertAtRest()

    def test_endsWhileItIsSent(self) -> None:
        """
        A session that ends because it is sent its last page receives nothing more.
        """
        self.site.book(3)
        client = self.client()
        since(client, "first")
        client.session.send = lambda lines: client.session.ended()
        self.site.turn()
        self.assertEqual(len(self.site.broadcast._receivers), 0)
        self.assertAtRest()

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

    def test_revokedWhileReading(self) -> None:
        """
        A page that was read while the token ended is not sent.
        """
        self.site.book(9)
        client = self.client()
        self.site.holdsReads = True
        since(client, "first")
        self.site.turn()
        self.site.authenticator.revoked.add("manager")
        self.site.endRead()
        self.assertEqual(places(client), [])
        self.assertIsNone(client.session.principal)
        self.assertAtRest()

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
                course = Course(seed)
                course.run()
                self.site = course.site
                self.assertAtRest()


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

    def test_restsForRequests(self) -> None:
        """
        While a request waits for its event the next page comes a millisecond later, and
        otherwise in the next reactor turn.
        """
        self.site.book(13)
        client, other = self.client(), self.client()
        since(client, "first")
        self.site.step()
        self.assertEqual(places(client), [1, 2, 3, 4])
        other.asks(extID="c")
        got = []
        for seconds in (0, 0.0009, 0.0002):
            self.site.clock.advance(seconds)
            self.site.turn()
            got.append(places(client))
        # The first of these was due already.
        self.assertEqual(got, [[5, 6, 7, 8], [], [9, 10, 11, 12]])
        self.site.ledger.release()
        self.site.clock.advance(0.001)
        self.site.turn()
        self.assertEqual(places(client), [13, 14])
        self.assertAtRest()

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

    def test_unreachable(self) -> None:
        """
        A journal whose database is away is no fault of the server: the log has a
        sentence.
        """
        self.site.book(1)
        self.site.journal.events = lambda after, limit: fail(Busy("it is away"))  # type: ignore[method-assign]
        log: list[Any] = []
        globalLogPublisher.addObserver(log.append)
        self.addCleanup(globalLogPublisher.removeObserver, log.append)
        client = self.client()
        since(client, "first")
        for _ in range(3):
            self.site.turn()
            self.site.clock.advance(1)
        self.assertEqual(
            [formatEvent(each) for each in log],
            ["The journal can't be read, trying again each second: it is away"],
        )
        client.session.ended()
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

    def test_gap(self) -> None:
        """
        After a page in which places are missing, its last event is not sent again.
        """
        journal = ForeignJournal()
        journal.head = 3
        journal.events = lambda after, limit: succeed(  # type: ignore[method-assign]
            [
                TradeEvent(0, {"order": place}, place=place)
                for place in (1, 3)
                if after < place
            ]
        )
        self.sessions.broadcast.start(self.clock, journal)  # type: ignore[arg-type]
        client = self.client()
        since(client, "first")
        for _ in range(5):
            self.clock.advance(0)
        _, *events = client.hears()
        self.assertEqual(
            [event["data"]["cursor"] for event in events], ["upstream-1", "upstream-3"]
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
