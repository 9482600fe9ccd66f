"""
Tests for L{creditsync.counters}, by what servers count there.
"""

from bisect import bisect_left
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from creditsync._conversation.waiter import Waiter
from creditsync.codes import EV_RECORD_ADD
from creditsync.counters import SECONDS, SIZES, Counters, Histogram
from creditsync.errors import LedgerProblem, LimitExceeded, NoMoney
from creditsync.records import BookedElsewhere, Operation, Request, Trade, TradeEvent
from tests.observed import NOW, Client, ObservedTestCase


def filled(histogram: Histogram) -> dict[float, int]:
    """
    The counts of a histogram that are not 0, by their upper bounds.
    """
    bounds = [*histogram.bounds, float("inf")]
    return {b: n for b, n in zip(bounds, histogram.counts, strict=True) if n}


class HistogramTests(SynchronousTestCase):
    """
    Values between bounds.
    """

    def test_bounds(self) -> None:
        """
        A value counts for the first bound that is not below it.
        """
        histogram = Histogram((1, 10))
        for value in (0, 1, 2, 10, 11):
            histogram.add(value)
        self.assertEqual(histogram.counts, [2, 2, 1])
        self.assertEqual(histogram.sum, 24)

    def test_times(self) -> None:
        """
        One that came several times counts as often.
        """
        histogram = Histogram((1, 10))
        histogram.add(5, 3)
        self.assertEqual(histogram.counts, [0, 3, 0])
        self.assertEqual(histogram.sum, 15)

    def test_ascending(self) -> None:
        """
        The bounds ascend.
        """
        for bounds in (SECONDS, SIZES):
            self.assertEqual(sorted(set(bounds)), list(bounds))


class SettleTests(SynchronousTestCase):
    """
    Requests that are counted many at a time.
    """

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["CreditInSync", "CreditIn"]),
                # Beside a bound the last bit of a float would decide.
                st.floats(0, 20).filter(
                    lambda value: all(abs(value - each) > 1e-9 for each in SECONDS)
                ),
            )
        )
    )
    def test_asOneByOne(self, requests: list[tuple[str, float]]) -> None:
        """
        Whatever the order in which they come, the counts are what they would be
        if each request was counted by itself.
        """
        clock = Clock()
        clock.advance(32)
        counters = Counters(clock, clock.seconds)
        expected: dict[str, Counter[float]] = {}
        for command, seconds in requests:
            counters.answered.append(Waiter("a", None, command, 32 - seconds))
            bound = bisect_left(SECONDS, seconds)
            expected.setdefault(command, Counter())[bound] += 1
        counters.settle()
        counted = {
            command: Counter({n: c for n, c in enumerate(each.counts) if c})
            for command, each in counters.took.items()
        }
        self.assertEqual(counted, expected)
        self.assertAlmostEqual(
            sum(each.sum for each in counters.took.values()),
            sum(seconds for _, seconds in requests),
        )


class RequestTests(ObservedTestCase):
    """
    Requests and their outcomes.
    """

    def test_success(self) -> None:
        """
        A credit took as long as its commit and the turns around it.
        """
        client = Client(self.server)
        client.asks()
        self.commits(0.25)
        self.assertEqual(client.outcomes(), [("a", 200)])
        self.assertEqual(filled(self.counters.took["CreditInSync"]), {0.5: 1})
        self.assertEqual(self.counters.took["CreditInSync"].sum, 0.25)
        self.assertEqual(self.counters.refusals, {})

    def test_asynchronous(self) -> None:
        """
        So did one that waits for the commit only.
        """
        client = Client(self.server)
        client.asks("CreditIn")
        self.commits(0.25)
        self.assertEqual(client.outcomes(), [("a", 200)])
        self.assertEqual(filled(self.counters.took["CreditIn"]), {0.5: 1})
        self.assertEqual(self.counters.acknowledged, 1)

    def test_atOnce(self) -> None:
        """
        What needs no commit takes a turn.
        """
        Client(self.server).asks("HealthCheck", data={})
        self.turns()
        self.assertEqual(filled(self.counters.took["HealthCheck"]), {0.0002: 1})
        self.assertEqual(self.counters.acknowledged, 0)

    def test_refusedAtOnce(self) -> None:
        """
        A refusal is counted by command, status and error, and its request too.
        """
        client = Client(self.server)
        client.asks(data={})
        client.asks(token="nobody")
        self.turns()
        self.assertEqual(
            self.counters.refusals,
            {
                ("CreditInSync", 400, "INVALID_DATA"): 1,
                ("CreditInSync", 401, "UNAUTHORIZED"): 1,
            },
        )
        self.assertEqual(sum(self.counters.took["CreditInSync"].counts), 2)

    def test_unknownCommands(self) -> None:
        """
        Whatever a client calls its commands, they share one label.
        """
        client = Client(self.server)
        client.asks("Nonsense")
        client.asks(["CreditInSync"])  # type: ignore[arg-type]
        client.says(b"[")
        client.says(b"x" * 70_000)
        self.turns()
        self.assertEqual(
            self.counters.refusals,
            {
                ("unknown", 404, "UNKNOWN_COMMAND"): 1,
                ("unknown", 400, "INVALID_DATA"): 1,
                ("unknown", 400, "INVALID_JSON"): 1,
                ("unknown", 413, "LINE_TOO_LONG"): 1,
            },
        )
        self.assertEqual(list(self.counters.took), ["unknown"])

    def test_timeout(self) -> None:
        """
        A request without an answer in time is counted as 504, and what becomes
        of it later as late.
        """
        client = Client(self.server)
        client.asks()
        self.turns()
        self.reactor.advance(5)
        self.turns()
        self.assertEqual(client.outcomes(), [("a", 504)])
        self.assertEqual(self.counters.timeouts, 1)
        self.assertEqual(
            self.counters.refusals, {("CreditInSync", 504, "SYNC_TIMEOUT"): 1}
        )
        self.assertEqual(filled(self.counters.took["CreditInSync"]), {5.0: 1})
        self.assertEqual(self.counters.late, 0)
        self.commits()
        self.assertEqual(self.counters.late, 1)
        self.assertEqual((self.counters.acknowledged, self.counters.booked), (0, 1))

    def test_rules(self) -> None:
        """
        What a rule of the site refuses is counted by its name too.
        """
        rule = LimitExceeded("no", "large")
        request = Request("CreditIn", "a", None, {})
        session = Client(self.server).protocol.session
        for _ in range(2):
            self.counters.refused(session, request, rule)
        self.counters.refused(session, request, NoMoney("no"))
        self.assertEqual(self.counters.rules, {"large": 2})
        self.assertEqual(
            self.counters.refusals,
            {
                ("CreditIn", 409, "LIMIT_EXCEEDED"): 2,
                ("CreditIn", 409, "TRADE_NO_MONEY"): 1,
            },
        )
        self.assertEqual(self.counters.limits, {})

    def test_refusedRecently(self) -> None:
        """
        Refusals are kept for people to see.
        """
        client = Client(self.server)
        client.asks("CreditOutSync", data={**DATA_OUT})
        self.turns()
        [refused] = self.counters.recentlyRefused
        self.assertEqual(
            (refused.when, refused.command, refused.extID, refused.refusal.error),
            (NOW, "CreditOutSync", "a", "TRADE_NO_MONEY"),
        )
        self.assertIdentical(refused.session, client.protocol.session)


DATA_OUT = {"login": 1001, "amount": -300.0, "comment": "Out"}


class EventTests(ObservedTestCase):
    """
    Events for which nobody waits.
    """

    def test_sessionGone(self) -> None:
        """
        What was booked for a client that is gone is late, in both forms.
        """
        client = Client(self.server)
        client.asks()
        client.asks("CreditIn", extID="b")
        self.turns()
        client.goes()
        self.commits()
        self.assertEqual(self.counters.late, 2)
        self.assertEqual(self.counters.unmatched, 0)

    def test_asynchronousIsNotLate(self) -> None:
        """
        Nobody waits for the event of an asynchronous command.
        """
        Client(self.server).asks("CreditIn")
        self.commits()
        self.assertEqual((self.counters.late, self.counters.unmatched), (0, 0))

    def test_foreign(self) -> None:
        """
        An event that no request of ours has caused is unmatched.
        """
        self.events.publish([TradeEvent(EV_RECORD_ADD, {"order": 7})])
        self.assertEqual((self.counters.late, self.counters.unmatched), (0, 1))
        self.assertEqual(self.counters.published, 1)

    def test_elsewhere(self) -> None:
        """
        So is one that another node has booked, whoever has waited there.
        """
        mark = BookedElsewhere("CreditInSync", 7, frozenset(), isBooked=True)
        self.events.publish([TradeEvent(EV_RECORD_ADD, {"order": 7}, mark)])
        self.assertEqual((self.counters.late, self.counters.unmatched), (0, 1))


class MoneyTests(ObservedTestCase):
    """
    Acknowledged, booked, published.
    """

    def counts(self) -> tuple[int, int, int, int]:
        """
        The three, and what must never be.
        """
        counters = self.counters
        return (
            counters.acknowledged,
            counters.booked,
            counters.published,
            counters.unbooked,
        )

    def test_inOrder(self) -> None:
        """
        Nothing is counted before it has happened.
        """
        client = Client(self.server)
        client.asks()
        client.asks(extID="b")
        self.turns()
        self.assertEqual(self.counts(), (0, 0, 0, 0))
        self.commits()
        self.assertEqual(self.counts(), (2, 2, 2, 0))

    def test_failedCommit(self) -> None:
        """
        What nobody knows to be booked is not counted as booked.
        """
        Client(self.server).asks()
        self.turns()
        self.ledger.fail(LedgerProblem("the disk is gone"))
        self.turns()
        self.assertEqual(self.counts(), (0, 0, 0, 0))
        self.flushLoggedErrors(LedgerProblem)

    def test_sharedKey(self) -> None:
        """
        Two replies to one operation acknowledge it once, and a replay doesn't.
        """
        first, second = Client(self.server), Client(self.server)
        first.asks(idempotencyKey="k")
        second.asks(idempotencyKey="k")
        self.commits()
        first.asks(idempotencyKey="k")
        self.turns()
        self.assertEqual(first.outcomes(), [("a", 200), ("a", 200)])
        self.assertEqual(second.outcomes(), [("a", 200)])
        self.assertEqual(self.counts(), (1, 1, 1, 0))
        self.assertEqual(sum(self.counters.took["CreditInSync"].counts), 3)

    def test_publishedBeforeItIsBooked(self) -> None:
        """
        An event that comes before its commit shows, and so does the reply.
        """
        client = Client(self.server)
        client.asks()
        self.turns()
        [(reservations, _)] = self.ledger.commits
        for each in reservations:
            self.events.publish(
                [TradeEvent(each.eventType, each.trade, each.operation)]
            )
        self.turns()
        self.assertEqual(client.outcomes(), [("a", 200)])
        # The event's two ends are one, and the reply.
        self.assertEqual(self.counters.unbooked, 3)

    def test_acknowledgedBeforeItIsBooked(self) -> None:
        """
        The reply to an asynchronous command before its booking is counted as
        unbooked, without any event.
        """
        Client(self.server).asks("CreditIn")
        self.turns()
        [(reservations, _)] = self.ledger.commits
        for each in reservations:
            each.booked()
        self.turns()
        self.assertEqual(self.counters.unbooked, 1)

    def test_onlyWhereBookingIsKnown(self) -> None:
        """
        Of a foreign runtime nobody knows what is booked.
        """
        clock = Clock()
        counters = Counters(clock, clock.seconds)
        counters.publishing(
            [TradeEvent(0, aTrade(), Operation("CreditIn", 7, 1, 1, "a"))]
        )
        self.assertEqual((counters.published, counters.unbooked), (1, 0))


def aTrade() -> Trade:
    """
    A trade.
    """
    return Trade(1, 1001, 7, 3, 1, "a", 0, 0, 0)


class CommitTests(ObservedTestCase):
    """
    Batches and their times.
    """

    def test_batch(self) -> None:
        """
        A batch has its size, its duration, and the wait of its oldest counts
        for all of it.
        """
        client = Client(self.server)
        client.asks()
        self.turns()
        self.reactor.advance(0.1)
        client.asks(extID="b")
        client.asks(extID="c")
        self.turns()
        self.assertEqual(self.runtime.queued, 3)
        self.assertEqual(self.runtime.queuedSince, 0.0)
        self.reactor.advance(0.05)
        self.ledger.release()
        self.turns()
        self.assertEqual(self.runtime.queuedSince, 0.1)
        self.reactor.advance(0.25)
        self.ledger.release()
        self.turns()
        self.assertEqual(self.runtime.queuedSince, None)
        self.assertEqual(filled(self.counters.batches), {1: 1, 2: 1})
        self.assertEqual(filled(self.counters.commits), {0.2: 1, 0.5: 1})
        self.assertEqual(filled(self.counters.queuedToCommitted), {0.2: 1, 0.5: 2})
        self.assertEqual(filled(self.counters.committedToMatched), {0.0002: 3})
        self.assertAlmostEqual(self.counters.lastCommit or 0, NOW + 0.4, 3)

    def test_answersOfOneCommit(self) -> None:
        """
        An answer that is still to be written when the next commit ends belongs
        to the commit before.
        """
        client = Client(self.server)
        client.asks("CreditIn")
        self.turns()
        client.asks("CreditIn", extID="b")
        self.ledger.release()
        # Time goes by, and the reactor does not turn.
        self.reactor.rightNow += 0.25
        self.ledger.release()
        self.turns()
        self.assertEqual(self.counters.acknowledged, 2)
        self.assertEqual(filled(self.counters.committedToMatched), {0.0002: 1, 0.5: 1})


class LimitTests(ObservedTestCase):
    """
    Refusals by the limit that was reached.
    """

    def test_requests(self) -> None:
        """
        In a session, in all sessions, in the queue.
        """
        for limit in ("maxPendingPerSession", "maxPending", "maxQueued"):
            self.serve(**{limit: 1})
            client = Client(self.server)
            client.asks()
            client.asks(extID="b")
            self.turns()
            [(option, count)] = self.counters.limits.items()
            self.assertEqual(option.replace("-", ""), limit.lower())
            self.assertEqual(count, 1)

    def test_lines(self) -> None:
        """
        A line that is too long, and one that takes too long.
        """
        Client(self.server).says(b"x" * 70_000)
        Client(self.server).protocol.dataReceived(b"x")
        self.reactor.advance(30)
        self.assertEqual(
            self.counters.limits, {"max-line-length": 1, "line-timeout": 1}
        )

    def test_connections(self) -> None:
        """
        A connection for which there is no room.
        """
        self.serve(maxConnections=1)
        Client(self.server)
        self.server.factory.buildProtocol(None)
        self.assertEqual(self.counters.limits, {"max-connections": 1})

    def test_unread(self) -> None:
        """
        A client that does not read.
        """
        self.serve(maxUnread=1)
        client = Client(self.server)
        client.protocol.pauseProducing()
        client.protocol.send(b"event\r\n")
        self.assertEqual(self.counters.limits, {"max-unread": 1})
