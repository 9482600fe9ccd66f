"""
Tests for the trade events of L{creditsync.client}: that an observer gets each one
once and in order, whatever happens to the connection.

The server is a fake one that does what C{docs/protocol.rst}, "Trade events" says,
or what a test has it do wrong.
"""

import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from random import Random
from runpy import run_path
from tempfile import TemporaryDirectory
from textwrap import dedent
from typing import Any, ClassVar

from test_client import ClientTestCase
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from creditsync._client import deliveries
from creditsync._client.cursors import Places
from creditsync._client.deliveries import MAX_WAITING
from creditsync.client import CursorGone, Data, Refused

DOCS = Path(__file__).parents[1] / "docs"


def event(place: int | None) -> bytes:
    """
    The event of a credit whose order is its place, or of order 0 without one.
    """
    data: dict[str, Any] = {"order": place or 0, "profit": 300.0}
    if place is not None:
        data["cursor"] = f"9f3c1a7e-{place}"
    line = {"event": "trade:event", "type": 0, "data": data}
    return json.dumps(line).encode() + b"\r\n"


class EventsTestCase(ClientTestCase):
    """
    A client, and an observer that notes the orders of its events.
    """

    def setUp(self) -> None:
        super().setUp()
        self.orders: list[int] = []
        self.requests: list[dict[str, Any]] = []

    def observe(self, type: int, data: Data) -> object:
        """
        Note an event.
        """
        self.orders.append(data["order"])
        return None

    def events(
        self,
        since: str | None = None,
        observer: Callable[[int, Data], object] | None = None,
    ) -> "Deferred[None]":
        """
        Observe.
        """
        self.server.acknowledge()
        self.server.lines()
        return self.client.events(observer or self.observe, since)

    def said(self) -> list[tuple[str, str | None]]:
        """
        The commands that the client has sent since the last call, each with its
        C{since}.
        """
        requests = [json.loads(line) for line in self.server.lines()]
        self.requests = requests or self.requests
        return [(r["command"], r["data"].get("since")) for r in requests]

    def reply(self, **members: Any) -> None:
        """
        Reply to the last command that L{said} has returned.
        """
        line = {"extID": self.requests[-1]["extID"], **members}
        self.server.receive(json.dumps(line).encode() + b"\r\n")

    def accept(self, head: int | None, since: str | None = None) -> None:
        """
        Accept the subscription behind a place, which has to be the last command.
        """
        self.assertEqual(self.said()[-1:], [("Subscribe", since)])
        data: dict[str, Any] = {"chanels": ["trade:event"]}
        if head is not None:
            data["cursor"] = f"9f3c1a7e-{head}"
        self.reply(status=200, data=data)

    def refuse(self, status: int, error: str, data: Any = None) -> None:
        """
        Refuse the last command.
        """
        self.said()
        members = {"status": status, "error": error, "message": "a sentence"}
        self.reply(**members, **({} if data is None else {"data": data}))

    def send(self, *places: int | None) -> None:
        """
        Send events.
        """
        self.server.receive(b"".join(map(event, places)))

    def reconnect(self) -> None:
        """
        Lose the connection, and wait for the next.
        """
        self.server.lose()
        self.advanceTo(self.clock.seconds() + 1)

    def logged(self, level: str) -> list[str]:
        """
        What is logged at a level from now on.
        """
        logged: list[str] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            if event["log_level"].name == level:
                logged.append(event["log_format"].format(**event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        return logged


class ResumeTests(EventsTestCase):
    """
    Tests for the places at which events go on.
    """

    def test_fromNow(self) -> None:
        """
        Without C{since}, events begin at the head that the server reports, and
        the application can keep that place before there is any event.
        """
        self.events()
        self.assertIsNone(self.client.cursor)
        self.assertIsNone(self.client.resumes)
        self.accept(7)
        self.assertEqual(self.client.cursor, "9f3c1a7e-7")
        self.assertIs(self.client.resumes, True)
        self.reconnect()
        self.accept(9, "9f3c1a7e-7")
        self.send(8, 9)
        self.assertEqual(self.orders, [8, 9])
        self.assertEqual(self.client.cursor, "9f3c1a7e-9")

    def test_headBehindAnEvent(self) -> None:
        """
        An event that came before the head was reported is the place to go on
        from.
        """
        self.events()
        self.send(8)
        self.accept(7)
        self.reconnect()
        self.accept(8, "9f3c1a7e-8")
        self.assertEqual(self.orders, [8])

    def test_first(self) -> None:
        """
        From C{"first"} on, the observer gets all that was ever booked.
        """
        self.events("first")
        self.assertEqual(self.client.cursor, "first")
        self.accept(2, "first")
        self.send(1, 2, 3)
        self.assertEqual(self.orders, [1, 2, 3])

    def test_kept(self) -> None:
        """
        An application begins at a cursor that it has kept.
        """
        self.events("9f3c1a7e-41")
        self.accept(42, "9f3c1a7e-41")
        self.send(42)
        self.assertEqual(self.orders, [42])

    def test_beforeTheStart(self) -> None:
        """
        Events may be asked for before the client is started.
        """
        self.stop()
        self.events("first")
        self.client.startService()
        self.clock.advance(0)
        self.accept(1, "first")

    def test_noCursor(self) -> None:
        """
        What can't be a cursor is not sent.
        """
        for since in ("", "a b", "x" * 65, "é", "a\n"):
            self.assertRaises(ValueError, self.events, since)

    def test_oneObserver(self) -> None:
        """
        There is one observer at a time.
        """
        self.events()
        self.assertRaises(RuntimeError, self.events)

    def test_beforeTheReply(self) -> None:
        """
        A new connection receives live events as soon as its token is accepted.
        Those before the reply to its subscription come again in the catch-up, and
        the observer does not get them early.
        """
        self.events("9f3c1a7e-1")
        self.accept(2, "9f3c1a7e-1")
        self.send(2)
        self.reconnect()
        self.send(5, 6)
        self.accept(6, "9f3c1a7e-2")
        self.send(3, 4, 5, 6, 7)
        self.assertEqual(self.orders, [2, 3, 4, 5, 6, 7])

    def test_insideACatchUp(self) -> None:
        """
        A connection that is lost in the middle of a catch-up, and of a line, is
        replaced by one that goes on with that line.
        """
        self.events("first")
        self.accept(9, "first")
        self.send(1, 2)
        self.server.receive(event(3)[:-1])
        self.reconnect()
        self.accept(9, "9f3c1a7e-2")
        self.send(3)
        self.reconnect()
        self.accept(9, "9f3c1a7e-3")
        self.send(4)
        self.assertEqual(self.orders, [1, 2, 3, 4])

    def test_lostBeforeTheReply(self) -> None:
        """
        A connection that brings events but no reply to the subscription changes
        nothing.
        """
        self.events("first")
        self.send(8)
        self.reconnect()
        self.send(8)
        self.accept(8, "first")
        self.assertEqual(self.orders, [])

    def test_creditsMeanwhile(self) -> None:
        """
        A credit is answered during a catch-up, which has not come to its event
        yet.
        """
        self.events("first")
        self.accept(1000, "first")
        self.send(1, 2)
        result = self.credit()
        self.server.answer(self.sent())
        self.assertEqual(self.successResultOf(result)["order"], 1242281)
        self.send(3)
        self.assertEqual(self.orders, [1, 2, 3])

    def test_stopped(self) -> None:
        """
        A client that was stopped and started goes on behind the last event.
        """
        self.events("first")
        self.accept(3, "first")
        self.send(1)
        self.stop()
        self.client.startService()
        self.clock.advance(0)
        self.accept(3, "9f3c1a7e-1")
        self.send(2)
        self.assertEqual(self.orders, [1, 2])

    def test_cancelled(self) -> None:
        """
        Cancelling ends the events, and the server is asked for no more. They can
        be observed again.
        """
        ended = self.events("first")
        self.accept(3, "first")
        self.send(1)
        ended.cancel()
        self.failureResultOf(ended, CancelledError)
        self.assertEqual(self.said(), [("Unsubscribe", None)])
        self.send(2)
        self.assertEqual(self.orders, [1])
        self.reconnect()
        self.assertEqual(self.said(), [("Unsubscribe", None)])
        self.events(self.client.cursor)
        self.accept(3, "9f3c1a7e-1")
        self.send(2)
        self.assertEqual(self.orders, [1, 2])

    def test_cancelledByTheObserver(self) -> None:
        """
        An observer that cancels gets no further event, also not one that has
        arrived already.
        """

        def observe(type: int, data: Data) -> None:
            self.observe(type, data)
            ended.cancel()

        ended = self.events("first", observe)
        self.accept(3, "first")
        self.send(1, 2)
        self.failureResultOf(ended, CancelledError)
        self.assertEqual(self.orders, [1])


class RenewalTests(EventsTestCase):
    """
    Tests for the events of a connection that lasts, and for tokens.
    """

    def test_renewal(self) -> None:
        """
        The token is renewed by a command that does not begin the events anew.
        """
        self.events()
        self.accept(7)
        for time in (30, 60):
            self.advanceTo(time + 0.1)
            self.assertEqual(self.said(), [("HealthCheck", None)])
            self.reply(status=200, data={"status": "ok", "cursor": "9f3c1a7e-99"})
        self.send(8)
        self.assertEqual(self.orders, [8])
        self.reconnect()
        self.accept(8, "9f3c1a7e-8")

    def test_tokenRefused(self) -> None:
        """
        After a token was refused, the server may have left events out. Once it
        accepts one again, those behind the last one are asked for, and what it
        sends before is ignored.
        """
        self.events()
        self.accept(7)
        self.send(8)
        result = self.ask(self.client.getOperation(order=1))
        self.refuse(401, "UNAUTHORIZED")
        self.failureResultOf(result, Refused)
        self.send(10)
        self.ask(self.client.getOperation(order=1))
        self.said()
        self.reply(status=200, data={})
        self.accept(11, "9f3c1a7e-8")
        self.send(9, 10, 11)
        self.assertEqual(self.orders, [8, 9, 10, 11])

    def test_renewalRefused(self) -> None:
        """
        A renewal whose token is refused is followed by a subscription behind the
        last event, with the next renewal.
        """
        self.events()
        self.accept(7)
        self.advanceTo(30.1)
        self.refuse(401, "UNAUTHORIZED")
        self.send(9)
        self.advanceTo(60.2)
        self.accept(9, "9f3c1a7e-7")
        self.send(8, 9)
        self.assertEqual(self.orders, [8, 9])

    def test_subscriptionRefused(self) -> None:
        """
        A subscription whose token is refused is sent again with the next
        renewal. Until then, no event is taken.
        """
        self.events("first")
        self.refuse(401, "UNAUTHORIZED")
        self.advanceTo(29.9)
        self.assertEqual(self.said(), [])
        self.send(5)
        self.advanceTo(30.1)
        self.accept(5, "first")
        self.assertEqual(self.orders, [])

    def test_noToken(self) -> None:
        """
        A subscription for which there is no token is sent with the next renewal.
        """
        tokens = iter(["one", "", "two"])

        def token() -> str:
            return next(tokens) or 1 / 0  # type: ignore[return-value]

        self.start(token)
        self.events("first")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.said(), [])
        self.advanceTo(30.1)
        self.accept(5, "first")

    def test_busy(self) -> None:
        """
        A subscription that is refused for the moment is sent again after the
        time that the server asks for, and the wait of any request.
        """
        self.events("first")
        self.refuse(503, "BUSY", {"retry_after_ms": 250})
        self.advanceTo(0.34)
        self.assertEqual(self.said(), [])
        self.advanceTo(0.36)
        self.assertEqual(self.said(), [("Subscribe", "first")])
        self.refuse(429, "TOO_MANY_REQUESTS")

    def test_busyTwice(self) -> None:
        """
        The waits of a subscription that is refused again and again grow.
        """
        self.events("first")
        for sent in (0.1, 0.3, 0.7):
            self.assertEqual(self.said(), [("Subscribe", "first")])
            self.reply(status=429, error="TOO_MANY_REQUESTS", message="m")
            self.advanceTo(sent - 0.02)
            self.assertEqual(self.said(), [])
            self.advanceTo(sent + 0.02)
        self.accept(1, "first")


class GoneTests(EventsTestCase):
    """
    Tests for places that the server does not have.
    """

    GONE: ClassVar = {"head": "0badcafe-3"}

    def test_gone(self) -> None:
        """
        After a restart with another ledger the events end with an error that has
        the head, and the application goes on from there.
        """
        ended = self.events()
        self.accept(7)
        self.reconnect()
        self.assertEqual(self.said(), [("Subscribe", "9f3c1a7e-7")])
        self.reply(status=410, error="CURSOR_GONE", message="m", data=self.GONE)
        gone = self.failureResultOf(ended, CursorGone).value
        self.assertEqual((gone.cursor, gone.head), ("9f3c1a7e-7", "0badcafe-3"))
        self.assertEqual((gone.status, gone.error), (410, "CURSOR_GONE"))
        self.assertEqual(self.said(), [("Unsubscribe", None)])
        self.send(8)
        self.events(gone.head)
        self.accept(9, "0badcafe-3")
        self.send(9)
        self.assertEqual(self.orders, [9])

    def test_noHead(self) -> None:
        """
        A server may leave out the head.
        """
        ended = self.events("first")
        self.refuse(410, "CURSOR_GONE")
        self.assertIsNone(self.failureResultOf(ended, CursorGone).value.head)

    def test_constructed(self) -> None:
        """
        For an observer of the constructor it is logged, and the events go on from
        the head.
        """
        self.start(observer=self.observe)
        self.accept(7)
        self.reconnect()
        errors = self.logged("error")
        self.refuse(410, "CURSOR_GONE", self.GONE)
        self.assertEqual(
            errors,
            ["trade events may be missed: 410 CURSOR_GONE: a sentence"],
        )
        self.accept(8, "0badcafe-3")
        self.send(8)
        self.assertEqual(self.orders, [8])

    def test_headIsGoneToo(self) -> None:
        """
        A server that refuses its own head is asked for events from now on.
        """
        self.start(observer=self.observe)
        self.accept(7)
        self.reconnect()
        self.refuse(410, "CURSOR_GONE", self.GONE)
        self.refuse(410, "CURSOR_GONE", self.GONE)
        self.accept(8)

    def test_afterThoseThatWait(self) -> None:
        """
        The error comes after the events that came before it.
        """
        isDone: Deferred[None] = Deferred()

        def observe(type: int, data: Data) -> object:
            self.observe(type, data)
            return isDone

        ended = self.events("first", observe)
        self.accept(2, "first")
        self.send(1, 2)
        self.reconnect()
        self.refuse(410, "CURSOR_GONE", self.GONE)
        self.assertNoResult(ended)
        isDone.callback(None)
        self.assertEqual(self.orders, [1, 2])
        self.failureResultOf(ended, CursorGone)

    def test_malformed(self) -> None:
        """
        A server with cursors that refuses one as malformed ends the events with
        that refusal, and none is missed silently.
        """
        ended = self.events("something")
        self.refuse(400, "INVALID_DATA")
        self.send(8)
        self.accept(8)
        refused = self.failureResultOf(ended, Refused).value
        self.assertEqual((refused.status, refused.error), (400, "INVALID_DATA"))
        self.assertEqual(self.orders, [])


class UnsupportedTests(EventsTestCase):
    """
    Tests for servers whose events have no cursors.
    """

    SAID = (
        "the events of this server have no cursors: those between two connections"
        " are missed",
    )

    def test_fromNow(self) -> None:
        """
        The observer gets what comes, and it is logged once that events are
        missed.
        """
        warnings = self.logged("warn")
        self.events()
        self.send(None)
        for _ in range(3):
            self.accept(None)
            self.send(None)
            self.reconnect()
        self.assertEqual(self.orders, [0] * 4)
        self.assertEqual(warnings, [*self.SAID])
        self.assertIsNone(self.client.cursor)
        self.assertIs(self.client.resumes, False)

    def test_refused(self) -> None:
        """
        If the server refuses C{since}, events come from now on.
        """
        for status, error in ((400, "INVALID_DATA"), (404, "NOT_FOUND")):
            self.start()
            self.orders.clear()
            warnings = self.logged("warn")
            ended = self.events("9f3c1a7e-7")
            self.send(None)
            self.refuse(status, error)
            self.accept(None)
            self.send(None)
            self.assertEqual(self.orders, [0, 0])
            self.assertEqual(
                warnings,
                [
                    f"the subscription was refused: {status} {error}: a sentence",
                    *self.SAID,
                ],
            )
            self.assertNoResult(ended)
            self.assertIsNone(self.client.cursor)

    def test_ignored(self) -> None:
        """
        If the server ignores C{since}, as it ignores any member that it doesn't
        know, events come from now on.
        """
        self.events("9f3c1a7e-7")
        self.accept(None, "9f3c1a7e-7")
        self.assertIs(self.client.resumes, False)
        self.send(None)
        self.assertEqual(self.orders, [0])

    def test_rolledBack(self) -> None:
        """
        A place outlives a server without cursors that sends no event.
        """
        self.events("9f3c1a7e-7")
        self.accept(None, "9f3c1a7e-7")
        self.reconnect()
        self.accept(8, "9f3c1a7e-7")
        self.assertIs(self.client.resumes, True)
        self.send(8)
        self.assertEqual(self.orders, [8])

    def test_bothRefused(self) -> None:
        """
        If the server refuses both subscriptions, they are sent again with the
        next renewal.
        """
        self.events("9f3c1a7e-7")
        self.refuse(404, "UNKNOWN_COMMAND")
        self.refuse(404, "UNKNOWN_COMMAND")
        self.assertEqual(self.said(), [])
        self.advanceTo(30.1)
        self.assertEqual(self.said(), [("Subscribe", "9f3c1a7e-7")])


class WrongServerTests(EventsTestCase):
    """
    Tests for servers that break the rules about events.
    """

    def setUp(self) -> None:
        super().setUp()
        self.errors = self.logged("error")

    def test_repeated(self) -> None:
        """
        An event that comes twice on a connection reaches the observer once, and
        the first mistake of a connection is logged.
        """
        self.events("first")
        self.accept(3, "first")
        self.send(1, 2, 1, 2, 3)
        self.assertEqual(self.orders, [1, 2, 3])
        self.assertEqual(
            self.errors,
            [
                "the server sends wrong events: 9f3c1a7e-1 came twice, the second is"
                " ignored"
            ],
        )

    def test_inclusive(self) -> None:
        """
        A server that begins a catch-up with the event named by C{since}, not
        behind it, repeats it on each connection: each time, that is logged, and
        the observer does not get it again.
        """
        self.events("first")
        self.accept(3, "first")
        self.send(1, 2)
        self.reconnect()
        self.accept(3, "9f3c1a7e-2")
        self.send(2, 3)
        self.reconnect()
        self.accept(3, "9f3c1a7e-3")
        self.send(3)
        self.assertEqual(self.orders, [1, 2, 3])
        self.assertEqual(len(self.errors), 2)

    def test_reordered(self) -> None:
        """
        An event that comes too late is logged, and it is not lost.
        """
        self.events("first")
        self.accept(3, "first")
        self.send(1, 3, 2)
        self.assertEqual(self.orders, [1, 3, 2])
        self.assertEqual(
            self.errors, ["the server sends wrong events: 9f3c1a7e-2 came too late"]
        )

    def test_malformed(self) -> None:
        """
        A cursor that is not a string is none.
        """
        self.events("first")
        self.accept(3, "first")
        self.server.receive(
            b'{"event":"trade:event","type":0,"data":{"order":1,"cursor":7}}\r\n'
        )
        self.assertEqual(self.orders, [1])


class PlacesTests(SynchronousTestCase):
    """
    Tests for L{Places}.
    """

    def assertBehind(self, last: str, cursor: str, expected: bool) -> None:
        """
        Whether a cursor is recognized as coming before the last one.
        """
        places = Places()
        self.assertIs(places.isBehind(cursor), False)
        places.add(last)
        self.assertIs(places.isBehind(cursor), expected)

    def test_isBehind(self) -> None:
        """
        Only cursors of one ledger whose places are counted are compared.
        """
        self.assertBehind("9f3c1a7e-10", "9f3c1a7e-9", True)
        self.assertBehind("9f3c1a7e-9", "9f3c1a7e-10", False)
        self.assertBehind("9f3c1a7e-10", "0badcafe-9", False)
        self.assertBehind("10", "9", False)
        self.assertBehind("a-b", "a-9", False)
        self.assertBehind("a-9", "a-", False)

    def test_forgotten(self) -> None:
        """
        Only the last events are remembered.
        """
        places = Places()
        for place in range(5000):
            places.add(f"9f3c1a7e-{place}")
        self.assertNotIn("9f3c1a7e-903", places)
        self.assertIn("9f3c1a7e-904", places)


class SlowObserverTests(EventsTestCase):
    """
    Tests for observers that take their time, or fail.
    """

    def setUp(self) -> None:
        super().setUp()
        self.waits: list[Deferred[None]] = []

    def slow(self, type: int, data: Data) -> "Deferred[None]":
        """
        Take an event until the test fires its Deferred.
        """
        self.observe(type, data)
        self.waits.append(Deferred())
        return self.waits[-1]

    def test_one(self) -> None:
        """
        An event waits until the observer is done with the one before it. Only
        then is that one's cursor the place to keep.
        """
        self.events("first", self.slow)
        self.accept(2, "first")
        self.send(1, 2)
        self.assertEqual(self.orders, [1])
        self.assertEqual(self.client.cursor, "first")
        self.waits[0].callback(None)
        self.assertEqual(self.orders, [1, 2])
        self.assertEqual(self.client.cursor, "9f3c1a7e-1")
        self.waits[1].callback(None)
        self.assertEqual(self.client.cursor, "9f3c1a7e-2")

    def test_coroutine(self) -> None:
        """
        An observer may be a coroutine function.
        """
        done: list[int] = []

        async def observe(type: int, data: Data) -> None:
            await self.slow(type, data)
            done.append(data["order"])

        self.events("first", observe)
        self.accept(2, "first")
        self.send(1, 2)
        self.waits[0].callback(None)
        self.assertEqual((self.orders, done), ([1, 2], [1]))

    def test_raises(self) -> None:
        """
        An observer that raises, or whose Deferred fails, gets the next event, and
        no event twice.
        """

        def observe(type: int, data: Data) -> object:
            self.observe(type, data)
            if data["order"] == 1:
                raise RuntimeError("observer")
            return self.slow(type, data) if data["order"] == 2 else None

        self.events("first", observe)
        self.accept(3, "first")
        self.send(1, 2, 3)
        self.waits[0].errback(RuntimeError("observer"))
        self.assertEqual(self.orders, [1, 2, 2, 3])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)
        self.reconnect()
        self.accept(3, "9f3c1a7e-3")

    def test_waitOutlivesTheConnection(self) -> None:
        """
        Events that wait are not asked for again on the next connection.
        """
        self.events("first", self.slow)
        self.accept(3, "first")
        self.send(1, 2)
        self.reconnect()
        self.accept(3, "9f3c1a7e-2")
        self.send(3)
        for wait in range(3):
            self.waits[wait].callback(None)
        self.assertEqual(self.orders, [1, 2, 3])

    def test_stopped(self) -> None:
        """
        After a stop the observer is not called. Started again, the client asks
        for what waited, but not for the event that the observer is busy with.
        """
        self.events("first", self.slow)
        self.accept(3, "first")
        self.send(1, 2)
        self.stop()
        self.client.startService()
        self.clock.advance(0)
        self.accept(3, "9f3c1a7e-1")
        self.send(2)
        self.assertEqual(self.orders, [1])
        self.waits[0].callback(None)
        self.assertEqual(self.orders, [1, 2])

    def test_recursion(self) -> None:
        """
        As many events may wait as can, for an observer whose Deferreds have
        fired.
        """
        wait: Deferred[None] = Deferred()

        def observe(type: int, data: Data) -> "Deferred[None]":
            self.observe(type, data)
            fired: Deferred[None] = Deferred()
            fired.callback(None)
            return wait if data["order"] == 1 else fired

        self.events("first", observe)
        self.accept(9, "first")
        self.send(*range(1, MAX_WAITING + 2))
        wait.callback(None)
        self.assertEqual(self.orders, list(range(1, MAX_WAITING + 2)))

    def test_full(self) -> None:
        """
        When enough events wait, the server is asked for a pause, and what it has
        already sent is ignored. When the observer has caught up, they are asked
        for again. Replies come meanwhile.
        """
        self.events("first", self.slow)
        self.accept(9999, "first")
        last = MAX_WAITING + 1
        self.send(*range(1, last + 1))
        self.assertEqual(self.said(), [])
        self.send(last + 1, last + 2)
        self.assertEqual(self.said(), [("Unsubscribe", None)])
        self.reply(status=200, data={"chanels": ["trade:event"]})
        self.send(last + 3)
        result = self.credit()
        self.server.answer(self.sent())
        self.successResultOf(result)
        for wait in range(last):
            self.assertEqual(self.said(), [])
            self.waits[wait].callback(None)
        self.accept(9999, f"9f3c1a7e-{last}")
        self.send(last + 1)
        self.assertEqual(self.orders, list(range(1, last + 2)))

    def test_fullAndDisconnected(self) -> None:
        """
        A connection that is made while enough events wait is not asked for more.
        """
        self.events("first", self.slow)
        self.accept(9999, "first")
        last = MAX_WAITING + 1
        self.send(*range(1, last + 2))
        self.reconnect()
        self.assertEqual(self.said(), [("Unsubscribe", None)])
        self.server.lose()
        for wait in range(last):
            self.waits[wait].callback(None)
        self.advanceTo(self.clock.seconds() + 1)
        self.accept(9999, f"9f3c1a7e-{last}")

    def test_share(self) -> None:
        """
        An observer that blocks leaves the reactor its turn, so that a reply behind
        many events does not wait for all of them.
        """

        def observe(type: int, data: Data) -> None:
            self.observe(type, data)
            self.clock.rightNow += 0.004

        self.events("first", observe)
        self.accept(9, "first")
        result = self.credit()
        request = self.sent()
        self.send(*range(1, 9))
        self.server.answer(request)
        self.assertEqual(self.orders, [1, 2, 3])
        self.successResultOf(result)
        self.clock.advance(0)
        self.assertEqual(self.orders, [1, 2, 3, 4, 5, 6, 7, 8])
        self.send(9)
        self.assertEqual(self.orders[-1], 9)

    def test_stoppedInItsTurn(self) -> None:
        """
        A stop leaves no turn behind.
        """

        def observe(type: int, data: Data) -> None:
            self.observe(type, data)
            self.clock.rightNow += 0.02

        self.events("first", observe)
        self.accept(9, "first")
        self.send(1, 2)
        self.client.stopService()
        self.assertNotIn("_endTurn", str(self.clock.getDelayedCalls()))
        self.clock.advance(0)
        self.assertEqual(self.orders, [1])


class ExampleTests(EventsTestCase):
    """
    Tests for the example of C{docs/client.rst}, "Trade events".
    """

    EXAMPLE = DOCS / "examples" / "events.py"

    def setUp(self) -> None:
        super().setUp()
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.place = Path(folder.name, "place")

    def follow(self) -> None:
        """
        Run the example until the end of the test.
        """
        self.server.acknowledge()
        self.server.lines()
        follow = run_path(str(self.EXAMPLE))["follow"]
        running = Deferred.fromCoroutine(follow(self.client, self.place))
        self.addCleanup(running.addErrback, lambda e: e.trap(CancelledError))
        self.addCleanup(running.cancel)

    def test_program(self) -> None:
        """
        It prints each event once over its restarts, and goes on from the head if
        the ledger does not have its place.
        """
        said = io.StringIO()
        with redirect_stdout(said):
            self.follow()
            self.accept(2, "first")
            self.send(1, 2)
            self.start()
            self.follow()
            self.assertEqual(self.said(), [("Subscribe", "9f3c1a7e-2")])
            self.refuse(410, "CURSOR_GONE", {"head": "9f3c1a7e-0"})
            self.accept(1, "9f3c1a7e-0")
            self.send(1)
        self.assertEqual(
            said.getvalue(),
            "event 0: order 1, 300.0\n"
            "event 0: order 2, 300.0\n"
            "events are missed: a sentence\n"
            "event 0: order 1, 300.0\n",
        )
        self.assertEqual(self.place.read_text(), "9f3c1a7e-1")

    def test_documentation(self) -> None:
        """
        What the documentation shows is the example that was run.
        """
        text = (DOCS / "client.rst").read_text("utf-8")
        block = text.split(".. code-block:: python\n\n")[-1].partition("\n\nThis ")[0]
        self.assertIn(dedent(block) + "\n", self.EXAMPLE.read_text("utf-8"))


class FakeJournal:
    """
    A server with cursors, as the protocol has it: it handles a command some time
    after its token is accepted, and sends live events meanwhile.

    @ivar booked: How many events there are.
    """

    def __init__(self, test: EventsTestCase, random: Random) -> None:
        self.test = test
        self.random = random
        self.booked = 0
        self.connection: Any = None

    def step(self) -> None:
        """
        Do one thing.
        """
        if self.connection is not self.test.server:
            self.connection = self.test.server
            self.place: int | None = None
            self.isAccepted = False
            self.commands: list[dict[str, Any]] = []
            self.partial = b""
        if self.connection.isLost:
            self.test.advanceTo(self.test.clock.seconds() + 1)
            return
        self.commands += map(json.loads, self.connection.lines())
        self.random.choice(
            [self.book, self.book, self.accept, self.handle, self.page, self.page]
            + [self.cut] * (self.random.random() < 0.2)
        )()

    def book(self) -> None:
        """
        Book some trades. Whoever is caught up gets them at once.
        """
        isLive = self.isAccepted and self.place in (None, self.booked)
        for _ in range(self.random.randint(1, 3)):
            self.booked += 1
            if isLive:
                self.send(self.booked)

    def accept(self) -> None:
        """
        Accept the token of what has come.
        """
        self.isAccepted = self.isAccepted or bool(self.commands)

    def handle(self) -> None:
        """
        Handle a command.
        """
        if not self.commands:
            return
        self.isAccepted = True
        command = self.commands.pop(0)
        data: dict[str, Any] = {"cursor": f"9f3c1a7e-{self.booked}"}
        since = command["data"].get("since")
        if command["command"] == "Unsubscribe":
            self.isAccepted = False
            self.place = None
        elif since is not None:
            self.place = 0 if since == "first" else int(since.rpartition("-")[2])
        reply = {"extID": command["extID"], "status": 200, "data": data}
        self.write(json.dumps(reply).encode() + b"\r\n")

    def page(self) -> None:
        """
        Send a page of a catch-up.
        """
        self.write(b"")
        for _ in range(self.random.randint(1, 4)):
            if self.place is not None and self.place < self.booked:
                self.send(self.place + 1)

    def send(self, place: int) -> None:
        """
        Send an event.
        """
        if self.place is not None:
            self.place = place
        self.write(event(place))

    def write(self, data: bytes) -> None:
        """
        Write, with the end held back now and then.
        """
        data = self.partial + data
        cut = self.random.choice([len(data), len(data), self.random.randrange(50)])
        self.partial = data[cut:]
        self.connection.receive(data[:cut])

    def cut(self) -> None:
        """
        Lose the connection, and what is on its way.
        """
        self.connection.lose()


class HistoryTests(EventsTestCase):
    """
    Tests of many histories.
    """

    def history(self, seed: int) -> None:
        """
        A server books and loses connections, with an observer that is now fast
        and now slow. In the end it got all that was booked.
        """
        random = Random(seed)
        waits: list[Deferred[None]] = []

        def observe(type: int, data: Data) -> object:
            self.observe(type, data)
            if random.random() < 0.5:
                return None
            waits.append(Deferred())
            return waits[-1]

        self.start()
        self.orders.clear()
        self.events("first", observe)
        journal = FakeJournal(self, random)
        for step in range(600):
            journal.step()
            if waits and (step > 200 or random.random() < 0.3):
                waits.pop().callback(None)
            if step == 200:
                journal.book = journal.cut = lambda: None  # type: ignore[method-assign]
        self.assertEqual(self.orders, list(range(1, journal.booked + 1)), seed)
        self.assertEqual(self.client.cursor, f"9f3c1a7e-{journal.booked}")

    def test_histories(self) -> None:
        """
        The observer gets each event once and in order, whatever happens.
        """
        self.patch(deliveries, "MAX_WAITING", 5)
        errors = self.logged("error")
        for seed in range(40):
            self.history(seed)
        self.assertEqual(errors, [])
