"""
Tests for L{tests.simulation}: the same seed gives the same history, a sound
server passes, and each rule can be broken.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from creditsync._conversation.waiter import Waiter
from tests.simulation.breaking import RecordTestCase
from tests.simulation.course import Course
from tests.simulation.history import Attempt, Booking, Reply, Talk
from tests.simulation.running import prepared, simulate
from tests.simulation.setting import FAULTS, Plan, faultsOf
from tests.simulation.world import Violation, World

pytestmark = pytest.mark.proof

ROOT = Path(__file__).parent.parent
# A seed with neither a foreign runtime nor tight limits.
CALM = Plan(seed=22, requests=100, without=frozenset(FAULTS))


def run(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """
    Run the command.
    """
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *options],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


class SeedTests(SynchronousTestCase):
    """
    Tests for L{simulate}.
    """

    def test_sound(self) -> None:
        """
        Seeds with all kinds of setting find nothing wrong.
        """
        for seed in range(5):
            outcome = simulate(Plan(seed, requests=60))
            self.assertIsNone(outcome.violation)
            self.assertGreater(outcome.requests, 50)
        # The provoked errors are in the log.
        self.flushLoggedErrors()

    def test_faultsAreTheSeeds(self) -> None:
        """
        Some seeds have every fault, and some have none.
        """
        numbers = {len(faultsOf(seed)) for seed in range(100)}
        self.assertEqual((min(numbers), max(numbers)), (0, len(FAULTS)))

    def test_sameHistory(self) -> None:
        """
        In another process, with other hashes, the same seed gives the same
        history; another seed gives another one.
        """
        lines = [
            run("--seed", seed, "--requests", "60", PYTHONHASHSEED=hashes).stdout
            for seed, hashes in (("5", "1"), ("5", "2"), ("6", "1"))
        ]
        first, again, other = (text.splitlines()[-2] for text in lines)
        self.assertRegex(first, "^hash [0-9a-f]{16}$")
        self.assertEqual(first, again)
        self.assertNotEqual(first, other)

    def test_alone(self) -> None:
        """
        A seed that follows another one has the same history as in a process of its
        own, so that one that was found in a series can be run again.
        """
        simulate(Plan(5, requests=60))
        outcome = simulate(Plan(6, requests=60))
        alone = run("--seed", "6", "--requests", "60").stdout.splitlines()
        self.assertEqual(f"hash {outcome.digest}", alone[-2])
        # The provoked errors are in the log.
        self.flushLoggedErrors()

    def test_violation(self) -> None:
        """
        A server with a bug is detected: its seed is made smaller, its trace is
        shown, and the command fails.
        """
        done = run("--seeds", "5", "--requests", "60", "--plant", "reply-before-event")
        self.assertEqual(done.returncode, 1)
        *_, last = done.stdout.splitlines()
        self.assertRegex(last, "^VIOLATION: seed [0-4]: event-before-reply: ")
        self.assertIn("again: python -m tests.simulation --seed", done.stdout)


class RestTests(SynchronousTestCase):
    """
    Tests that leftover counts are found, at rest and after each stop.
    """

    def setUp(self) -> None:
        """
        Run a server whose counts become wrong.
        """
        plan = evolve(CALM, absent=frozenset(range(10)))
        self.world = World(plan.seed, faultsOf(plan.seed) - plan.without)
        running = prepared(self.world, plan)
        self.course: Course = running.__enter__()
        self.addCleanup(running.__exit__, None, None, None)
        self.course.site.boot()
        self.world.run(1.0)
        self.course._checkRest()
        assert self.course.site.service is not None
        entries = self.course.site.service.waiters.entries
        entries["lost"] = Waiter("a", Mock(), "CreditInSync", 0.0)

    def test_rest(self) -> None:
        """
        A leftover count is found at rest.
        """
        violation = self.assertRaises(Violation, self.course._checkRest)
        self.assertEqual(
            str(violation), "rest: these are left: {'requests in flight': 1}"
        )

    def test_stop(self) -> None:
        """
        A leftover count is found after a stop, which may be followed by
        another start.
        """
        self.course.site.stop()
        violation = self.assertRaises(Violation, self.world.run, 100.0)
        self.assertEqual(
            str(violation),
            "rest: these are left after a stop: {'requests in flight': 1,"
            " 'waits for all requests to be answered': 1}",
        )


class RuleTests(RecordTestCase):
    """
    Tests that break each rule once, in the record of a run without faults.
    """

    plan = CALM

    def attempts(self, status: int = 200) -> Iterator[Attempt]:
        """
        The finance requests with this answer, on connections that lasted.
        """
        for talk in self.history.talks:
            for attempt in talk.attempts:
                isAnswered = attempt.status == status and talk.lostAt > 1000.0
                if isAnswered and attempt.intent.isFinance:
                    yield attempt

    def synced(self) -> Iterator[Attempt]:
        """
        The C{*Sync} requests that were booked, and not replayed.
        """
        for attempt in self.attempts():
            assert attempt.reply is not None
            if attempt.intent.isSync and "replayed" not in attempt.reply.value:
                yield attempt

    def listener(self) -> Talk:
        """
        A connection that receives what is published.
        """
        return max(
            (talk for talk in self.history.talks if not self.resumes(talk)),
            key=lambda talk: len(talk.events),
        )

    def reader(self) -> Talk:
        """
        A connection that goes on behind a place.
        """
        return max(
            filter(self.resumes, self.history.talks),
            key=lambda talk: len(talk.events),
        )

    def resumes(self, talk: Talk) -> bool:
        """
        Whether a connection goes on behind a place.
        """
        return any(each.intent.resumes for each in talk.attempts)

    def answer(self, isIt: Callable[[Attempt], bool]) -> Reply:
        """
        The first successful reply to such a request.
        """
        return next(
            each.reply
            for talk in self.history.talks
            for each in talk.attempts
            if each.reply is not None and each.status == 200 and isIt(each)
        )

    def booking(self, isRight: Callable[[Booking], object]) -> Booking:
        """
        The first booking that meets this condition.
        """
        return next(each for each in self.history.bookings if isRight(each))

    def test_sound(self) -> None:
        """
        The record without changes breaks no rule.
        """
        self.course.judge()

    def test_noReply(self) -> None:
        """
        A request on a living connection without an answer is reported.
        """
        next(self.attempts()).reply = None
        self.assertBreaks("one-reply")

    def test_late(self) -> None:
        """
        An answer after the timeout is reported, unless its connection was held up.
        """
        reply = next(
            each.reply
            for each in self.attempts()
            if each.delivered is not None
            and not each.talk.wasHeldUp(each.delivered[0], each.delivered[0] + 6.0)
        )
        assert reply is not None
        reply.written = reply.written[0] + 5.1, reply.written[1]
        self.assertBreaks("timeout")

    def test_early(self) -> None:
        """
        A 504 before the timeout is reported.
        """
        reply = next(self.attempts()).reply
        assert reply is not None
        reply.status = 504
        reply.value = {"status": 504, "error": "SYNC_TIMEOUT", "message": "no answer"}
        self.assertBreaks("timeout")

    def test_spoilt(self) -> None:
        """
        A reply with a character that a client can't read is reported.
        """
        reply = next(self.attempts()).reply
        assert reply is not None
        reply.raw = reply.raw.replace(b'"', b"'", 1)
        self.assertBreaks("wire")

    def test_refusalsData(self) -> None:
        """
        A BUSY reply without the time to retry is reported.
        """
        attempt = next(self.attempts())
        assert attempt.reply is not None
        message = {"status": 503, "error": "BUSY", "message": "busy"}
        attempt.reply.status = 503
        for data in ({}, {"data": {"retry_after_ms": "1"}}, {"data": {"order": 1}}):
            members = {"extID": attempt.extID} if attempt.extID else {}
            attempt.reply.value = {**members, **message, **data}
            self.assertBreaks("wire")

    def test_others(self) -> None:
        """
        A reply with the data of another event is reported.
        """
        [one, other] = (each for each, _ in zip(self.synced(), range(2), strict=False))
        one.reply, other.reply = other.reply, one.reply
        assert one.reply is not None and other.reply is not None
        one.reply.written = other.reply.written = max(
            one.reply.written, other.reply.written
        )
        self.assertRaises(Violation, self.course.judge)

    def test_falseRefusal(self) -> None:
        """
        A refusal without a cause is reported.
        """
        reply = next(self.attempts()).reply
        assert reply is not None
        reply.status = 409
        reply.value = {"status": 409, "error": "NO_WAY", "message": "no"}
        self.assertBreaks("status")

    def test_refusedAndBooked(self) -> None:
        """
        A refused operation that was booked is reported.
        """
        attempt = next(a for a in self.synced() if len(a.intent.attempts) == 1)
        assert attempt.reply is not None
        attempt.reply.status = 400
        attempt.reply.value = {
            "status": 400,
            "error": "INVALID_DATA",
            "message": "data.open_time",
        }
        attempt.intent.allowed = frozenset({"INVALID_DATA"})
        self.assertBreaks("nothing-happened")

    def test_notOnDisk(self) -> None:
        """
        An acknowledged operation that is not on disk is reported.
        """
        booking = next(self.synced()).intent.bookings[0]
        booking.applied = None
        booking.published = None
        self.history.publications = [
            each for each in self.history.publications if each.booking is not booking
        ]
        for talk in self.history.talks:
            comment = booking.trade.comment.split(" ")[0].encode()
            mark = b'"comment":"' + comment + b" "
            isIt = [mark in line for line, *_ in talk.events]
            if self.resumes(talk) and any(isIt):
                # What comes behind it can't come without it.
                del talk.events[isIt.index(True) :]
            talk.events = [each for each in talk.events if mark not in each[0]]
        self.assertBreaks("durability")

    def test_beforeCommit(self) -> None:
        """
        An event before its commit is reported.
        """
        booking = self.booking(lambda each: each.published)
        assert booking.applied is not None
        booking.applied = booking.applied[0] + 1000.0, booking.applied[1]
        self.assertBreaks("event-after-commit")

    def test_eventMissing(self) -> None:
        """
        A session that misses an event is reported.
        """
        del self.listener().events[-3]
        self.assertBreaks("every-session")

    def test_eventTwice(self) -> None:
        """
        A session that gets an event twice is reported.
        """
        events = self.listener().events
        events.insert(2, events[2])
        self.assertRaises(Violation, self.course.judge)

    def test_resumedMissing(self) -> None:
        """
        A session that goes on behind a place and misses an event is reported.
        """
        del self.reader().events[3]
        self.assertBreaks("no-seam")

    def test_resumedTwice(self) -> None:
        """
        A session that goes on behind a place and gets an event twice is reported.
        """
        events = self.reader().events
        events.insert(2, events[2])
        self.assertBreaks("no-seam")

    def test_resumedLater(self) -> None:
        """
        A session that does not begin with the next event is reported.
        """
        del self.reader().events[0]
        self.assertBreaks("no-seam")

    def test_resumedOtherwise(self) -> None:
        """
        An event of the journal that differs from that of then is reported.
        """
        events = self.reader().events
        line, *rest = events[3]
        events[3] = line.replace(b'"volume":0,', b'"volume":0.0,'), *rest  # type: ignore[assignment]
        self.assertBreaks("no-seam")

    def test_resumedEarly(self) -> None:
        """
        An event of the journal that is sent before its commit is reported.
        """
        events = self.reader().events
        line, position, _ = events[3]
        events[3] = line, position, (0.0, 0)
        self.assertBreaks("event-after-commit")

    def test_cursor(self) -> None:
        """
        A reply with the cursor of another event is reported.
        """
        reply = next(self.synced()).reply
        assert reply is not None
        booked = reply.value["data"]
        booked["cursor"] = booked["cursor"][:9] + "1000"
        self.assertBreaks("cursor")

    def test_head(self) -> None:
        """
        A reply with the place of an event that is to come is reported.
        """
        for command in ("HealthCheck", "Subscribe"):
            reply = self.answer(lambda each, name=command: each.intent.command == name)  # type: ignore[misc]
            data = reply.value["data"]
            cursor, data["cursor"] = data["cursor"], data["cursor"][:9] + "1000"
            self.assertBreaks("answer")
            data["cursor"] = cursor

    def test_lastChange(self) -> None:
        """
        A look-up with the cursor of another change is reported.
        """
        reply = self.answer(lambda each: each.intent.command == "GetOperation")
        data = reply.value["data"]
        data["cursor"] = data["cursor"][:9] + "1000"
        self.assertBreaks("answer")

    def test_gone(self) -> None:
        """
        A place of this ledger that is refused is reported.
        """
        reply = self.answer(lambda each: each.intent.resumes)
        head = reply.value["data"]["cursor"]
        refusal = {"error": "CURSOR_GONE", "message": "gone", "data": {"head": head}}
        reply.status = 410
        reply.value = {"extID": "", "status": 410, **refusal}
        self.assertBreaks("status")

    def test_takenElsewhere(self) -> None:
        """
        A place of another ledger that is taken is reported.
        """
        attempt = next(each for each in self.reader().attempts if each.intent.resumes)
        attempt.intent.data = {**attempt.intent.data, "since": "0badcafe-1"}
        self.assertBreaks("no-seam")

    def test_wrongHead(self) -> None:
        """
        A refused place of another ledger, with a head that was none, is reported.
        """
        attempt = next(
            each
            for talk in self.history.talks
            for each in talk.attempts
            if each.intent.command == "HealthCheck" and each.status == 200
        )
        intent, reply = attempt.intent, attempt.reply
        assert reply is not None
        intent.command, intent.data = "Subscribe", {"since": "0badcafe-1"}
        intent.allowed = frozenset({"CURSOR_GONE"})
        head = {"data": {"head": f"{self.history.epoch}-1000"}}
        reply.status = 410
        reply.value = {"extID": "", "error": "CURSOR_GONE", "message": "gone", **head}
        reply.value["status"] = 410
        self.assertBreaks("status")

    def test_notToTheEnd(self) -> None:
        """
        A client that follows the journal and lacks its last event is reported.
        """
        head = self.course.site.storage.head
        for reader in self.course._readers:
            reader.check(head)
            violation = self.assertRaises(Violation, reader.check, head + 1)
            self.assertEqual(violation.rule, "no-seam")

    def test_eventOrder(self) -> None:
        """
        Events that don't come in the order of their bookings are reported.
        """
        publications = self.history.publications
        publications[1], publications[2] = publications[2], publications[1]
        self.assertBreaks("event-order")

    def test_unpublished(self) -> None:
        """
        A booking that is not published is reported.
        """
        last = self.history.publications.pop()
        assert last.booking is not None
        last.booking.published = None
        self.assertBreaks("event")

    def test_replyFirst(self) -> None:
        """
        A reply before its event is reported.
        """
        for attempt in self.synced():
            assert attempt.reply is not None
            attempt.reply.position = -1
        self.assertBreaks("event-before-reply")

    def test_orderReused(self) -> None:
        """
        An order number that was sent for two orders is reported.
        """
        intents = [each for each in self.history.intents if each.bookings]
        adds = [each for each in intents if each.bookings[0].type == 0]
        adds[0].bookings.append(adds[1].bookings[0])
        self.assertRaises(Violation, self.course.judge)

    def test_cutOff(self) -> None:
        """
        A session that reads and is cut off is reported.
        """
        talk = self.listener()
        talk.abortedAt = talk.opened + 1.0
        self.assertBreaks("cut-off")

    def test_badToken(self) -> None:
        """
        A request or an event after its token was revoked is reported.
        """
        talk = self.listener()
        talk.token.revoked = talk.opened - 2.0
        self.assertBreaks("no-other-event")
        talk.events.clear()
        self.assertBreaks("token")

    def test_wrongRole(self) -> None:
        """
        A booking by a role without the right is reported.
        """
        # One that may see every account, as a manager does.
        self.listener().token.role = 4
        self.assertBreaks("role")

    def test_notItsAccount(self) -> None:
        """
        An event of an account that a session's token may not see is reported.
        """
        self.listener().token.role = 0
        self.assertBreaks("no-other-event")

    def test_bookedOtherwise(self) -> None:
        """
        A booking that differs from its request by one unit is reported.
        """
        booking = self.booking(lambda each: each.type == 0)
        booking.trade = booking.trade._replace(profit=booking.trade.profit + 1)
        self.assertLedgerBreaks("as-asked-for")

    def test_bookedTwice(self) -> None:
        """
        A request that is booked twice is reported.
        """
        self.history.bookings.append(self.history.bookings[0])
        self.assertLedgerBreaks("order")

    def test_newInsteadOfUpdate(self) -> None:
        """
        A new order that is made although the request names one that there is, is
        reported.
        """
        first, second = (each for each in self.history.bookings[:2] if each.type == 0)
        second.trade = second.trade._replace(order=first.trade.order + 1000)
        assert second.intent is not None
        second.intent.data = {**second.intent.data, "order": first.trade.order}
        self.assertLedgerBreaks("order")

    def test_neverAsked(self) -> None:
        """
        A booking without a known requester is reported.
        """
        self.booking(lambda each: each.type == 0).principal = 99
        self.assertLedgerBreaks("asked-for")

    def test_timeOfBooking(self) -> None:
        """
        A trade with another time than that of its booking is reported.
        """
        booking = self.booking(
            lambda each: each.type == 0 and "open_time" not in each.intent.data
        )
        trade = booking.trade
        booking.trade = trade._replace(
            open_time=trade.open_time + 100,
            close_time=trade.close_time + 100,
            timestamp=trade.timestamp + 100,
        )
        self.assertLedgerBreaks("time")

    def test_lost(self) -> None:
        """
        A row that was on disk and is not in the file is reported.
        """
        self.course.site.storage.execute('DELETE FROM trade WHERE "order" = 2')
        self.assertLedgerBreaks("durability")

    def test_keyLost(self) -> None:
        """
        A key that was on disk and is not in the file is reported.
        """
        self.course.site.storage.execute("DROP TRIGGER journal_updated")
        self.course.site.storage.execute("UPDATE journal SET key = NULL")
        self.assertLedgerBreaks("durability")

    def test_journal(self) -> None:
        """
        A journal that was changed is reported, although trades and keys are right.
        """
        self.course.site.storage.execute("DROP TRIGGER journal_updated")
        self.course.site.storage.execute("UPDATE journal SET asked_open_time = 1")
        self.assertLedgerBreaks("journal")

    def test_epoch(self) -> None:
        """
        A ledger that begins another life by itself is reported.
        """
        self.history.epoch = "0badcafe"
        self.assertLedgerBreaks("epoch")

    def test_places(self) -> None:
        """
        A booking that has another place than before is reported.
        """
        storage = self.course.site.storage
        storage.execute("DROP TRIGGER journal_updated")
        storage.execute("UPDATE journal SET place = 1000 WHERE place = 1")
        self.assertLedgerBreaks("journal")

    def test_totals(self) -> None:
        """
        A total that is not the sum of its trades is reported.
        """
        self.course.site.storage.execute("UPDATE account SET credit = credit + 1")
        self.assertLedgerBreaks("totals")
