"""
Tests for L{creditsync.postgres._runtime} and what it is made of, on a real PostgreSQL
whose answers come when the test says so.
"""

from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

from attrs import evolve
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from creditsync._bookingrules import Rule
from creditsync.errors import (
    Busy,
    Forbidden,
    IncorrectOrder,
    LedgerDamaged,
    LedgerProblem,
    LimitExceeded,
    NoMoney,
    NotFound,
    OutcomeUnknown,
    ShuttingDown,
    UserNotFound,
)
from creditsync.events import TradeEvents
from creditsync.interfaces import (
    IAccountGroups,
    IJournal,
    ILookups,
    IQueue,
    IReadiness,
    ITradingRuntime,
)
from creditsync.postgres._connection import ConnectionLost
from creditsync.postgres._feed import Feed
from creditsync.postgres._lane import Fenced
from creditsync.postgres._limits import idOf
from creditsync.postgres._runtime import PostgresRuntime
from creditsync.records import (
    Account,
    BookedElsewhere,
    Condition,
    Decision,
    Operation,
    Reservation,
    Trade,
    TradeEvent,
    TradeFilter,
)
from tests.postgres.engine import NOW, emptied
from tests.postgres.lines import Lines
from tests.postgres.test_book import credit, deletion, withdrawal


class Node:
    """
    A runtime with what it has said.
    """

    def __init__(self, test: "RuntimeCase", name: str = "a", **options: Any) -> None:
        self.clock = Clock()
        self.now = NOW + 0.75
        self.lines = Lines(test.database)
        events = TradeEvents()
        events.addObserver(self.publish)
        self.published: list[TradeEvent] = []
        # The group of the account of each, at that moment.
        self.groups: list[str] = []
        self.log: list[str] = []
        options = {"maxQueued": 1000, **options}
        self.runtime = PostgresRuntime(
            self.clock,
            self.lines.connect,
            events,
            node=name,
            now=lambda: self.now,
            random=lambda: 0.5,
            **options,
        )

    def publish(self, events: Sequence[TradeEvent]) -> None:
        """
        Note what is published.
        """
        self.published += events
        self.groups += [self.runtime.groupOf(event.login or 0) for event in events]
        self.log += [f"event {event.place}" for event in events]

    def submit(self, operation: Any) -> "Deferred[Reservation]":
        """
        Submit an operation, and note when its reservation is known.
        """

        def known(reservation: Reservation) -> Reservation:
            self.log.append(f"reservation {reservation.place}")
            return reservation

        return self.runtime.submit(operation).addCallback(known)

    def look(self) -> None:
        """
        Let it read what others have booked, and prove that.
        """
        self.clock.pump([1, 1])

    @property
    def places(self) -> list[int | None]:
        """
        The places that were published.
        """
        return [event.place for event in self.published]


class RuntimeCase(SynchronousTestCase):
    """
    Tests with a database and a node of their own.
    """

    def setUp(self) -> None:
        """
        Start a node.
        """
        self.database = emptied()
        self.node = self.start()

    def start(self, name: str = "a", **options: Any) -> Node:
        """
        Start a node, which the end of the test stops.
        """
        node = Node(self, name, **options)
        self.successResultOf(node.runtime.startService())
        self.addCleanup(self.stop, node)
        return node

    def stop(self, node: Node) -> None:
        """
        A stopped node leaves no connection and no delayed call.
        """
        node.lines.held.clear()
        while node.lines.statements:
            node.lines.statements.popleft().answer()
        stopped = node.runtime.stopService()
        stopped.addErrback(lambda _: None)
        stopped.cancel()
        self.assertEqual(node.lines.open, [])
        self.assertEqual(node.clock.getDelayedCalls(), [])

    def booked(self, operation: Any, node: Node | None = None) -> Reservation:
        """
        Have an operation booked.
        """
        node = node or self.node
        reserved = node.submit(operation)
        node.clock.advance(0)
        return self.successResultOf(reserved)

    def refused(self, operation: Any, why: type[Exception]) -> Any:
        """
        Have an operation refused.
        """
        reserved = self.node.submit(operation)
        self.node.clock.advance(0)
        return self.failureResultOf(reserved, why).value


class BookingTests(RuntimeCase):
    """
    Tests for one node without disturbances.
    """

    def test_interfaces(self) -> None:
        """
        It provides all that the server may want of a runtime.
        """
        for each in (
            *(ITradingRuntime, IQueue, IReadiness),
            *(IJournal, IAccountGroups, ILookups),
        ):
            verifyObject(each, self.node.runtime)

    def test_booked(self) -> None:
        """
        The reservation has what was booked. It is known before it is published, as the
        same object, and its commit is reported after that.
        """
        reserved = self.node.submit(credit(login=1001))
        self.assertNoResult(reserved)
        reserved.addCallback(
            lambda it: (
                it.whenDurable().addCallback(lambda _: self.node.log.append("durable"))
                and it
            )
        )
        self.node.clock.advance(0)
        self.assertEqual(self.node.log, ["reservation 1", "event 1", "durable"])
        [event] = self.node.published
        # 1001 % 64 == 41, and the first number that can be reserved is 64.
        self.assertEqual(
            event.data,
            Trade(105, 1001, 7, 3, 300, "Promotion credit", NOW, NOW, NOW),
        )
        assert isinstance(event, Reservation)
        self.assertEqual((event.balance, event.credit), (0, 300))
        self.assertTrue(event.operation.isBooked)

    def test_batch(self) -> None:
        """
        All requests of a batch are told in their order, before the first event.
        """
        for amount in (1, 2, 3):
            self.node.submit(credit(amount))
        self.node.clock.advance(0)
        self.assertEqual(
            self.node.log,
            [
                *("reservation 1", "reservation 2", "reservation 3"),
                *("event 1", "event 2", "event 3"),
            ],
        )

    def test_nextBatchFirst(self) -> None:
        """
        PostgreSQL has the next batch before requests are told of the one before it.
        """
        self.node.lines.held.add("writer")
        underWay = []
        told = self.node.submit(credit(1))
        told.addCallback(lambda _: underWay.append(len(self.node.lines.statements)))
        self.node.clock.advance(0)
        following = self.node.submit(credit(2))
        self.node.clock.advance(0)
        self.node.lines.statements.popleft().answer()
        self.assertEqual(underWay, [1])
        self.assertNoResult(following)
        self.node.lines.statements.popleft().answer()
        self.assertEqual(self.node.places, [1, 2])

    def test_nextBatchAndFailure(self) -> None:
        """
        If the telling of a batch fails, nothing is known of the one under way, and all
        who wait are told so.
        """
        self.node.lines.held.add("writer")
        self.node.submit(credit(1))
        self.node.clock.advance(0)
        following = self.node.submit(credit(2))
        self.patch(Feed, "settled", lambda *_: 1 / 0)
        self.node.lines.statements.popleft().answer()
        self.failureResultOf(following, OutcomeUnknown)
        self.failureResultOf(self.node.runtime.whenFailed(), ZeroDivisionError)
        self.node.lines.of("writer").lose()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_refused(self) -> None:
        """
        A refusal comes later, with the words that the other ledgers have.
        """
        problem = self.refused(withdrawal(5), NoMoney)
        self.assertEqual(problem.message, "account 1001 does not have enough credit")
        self.refused(deletion(5), NotFound)
        made = self.booked(credit()).order
        self.refused(credit(order=made, login=1002), IncorrectOrder)
        self.assertEqual(self.node.places, [1])

    def test_key(self) -> None:
        """
        A repetition gets what was booked; in the same batch, the same reservation.
        """
        first, second = (self.node.submit(credit(key="a")) for _ in range(2))
        self.node.clock.advance(0)
        self.assertIs(self.successResultOf(first), self.successResultOf(second))
        third = self.booked(credit(key="a"))
        self.assertTrue(third.isReplay)
        self.assertEqual((third.order, third.place), (105, 1))
        self.assertEqual(self.node.places, [1])

    def test_reserved(self) -> None:
        """
        The order is known as soon as an operation is submitted.
        """
        one, other = credit(), credit(order=7)
        self.node.submit(one)
        self.node.submit(other)
        self.assertEqual((one.reserved, other.reserved), (105, 7))
        self.assertEqual(deletion(9).reserved, 9)

    def test_busy(self) -> None:
        """
        The queue has a bound.
        """
        node = self.start("b", maxQueued=1)
        node.submit(credit())
        self.assertRaises(Busy, node.runtime.submit, credit())
        node.clock.advance(0)
        node.runtime.submit(credit())
        node.clock.advance(0)

    def test_largeBatch(self) -> None:
        """
        A batch has at most 200 operations.
        """
        for _ in range(201):
            self.node.submit(credit())
        self.node.clock.advance(0)
        self.assertEqual(
            self.database.rows("SELECT hi FROM link ORDER BY hi"), [(200,), (201,)]
        )

    def test_manyNumbers(self) -> None:
        """
        The numbers of one slot go beyond a block, and each is given once.
        """
        take = self.node.runtime._numbers.take
        taken = [take(1001) for _ in range(20_000)]
        self.assertEqual(len(set(taken)), 20_000)
        self.assertEqual({each % 64 for each in taken}, {1001 % 64})

    def test_lookups(self) -> None:
        """
        Trades, keys, accounts, groups and searches are read from the database.
        """
        runtime = self.node.runtime
        made = self.booked(credit(key="a")).order
        trade = self.successResultOf(runtime.trade(made))
        self.assertEqual((trade.profit, runtime.placeOf(made)), (300, 1))
        self.assertIsNone(self.successResultOf(runtime.trade(5)))
        self.assertEqual(self.successResultOf(runtime.orderOf(7, "a")), made)
        self.assertIsNone(self.successResultOf(runtime.orderOf(8, "a")))
        self.assertEqual(
            self.successResultOf(runtime.account(1001)), Account(1001, 0, 300)
        )
        self.assertIsNone(self.successResultOf(runtime.account(1002)))
        self.assertEqual(self.successResultOf(runtime.groups()), [""])
        found = self.successResultOf(
            runtime.search(
                TradeFilter(
                    (
                        Condition("comment", "like", ("Promo%",)),
                        Condition("login", "in", (1001, 1002)),
                        Condition("profit", "between", (1, 2), True),
                        Condition("symbol", "==", ("",)),
                    ),
                    (("comment", True),),
                    10,
                    0,
                    lambda group: True,
                    5.0,
                ),
                list,
            )
        )
        self.assertEqual(found.pages, [[(trade, "")]])
        self.assertEqual((found.count, found.balance, found.credit), (1, 0, 300))
        [event] = self.successResultOf(runtime.events(0, 10))
        self.assertEqual((event.place, event.data), (1, trade))
        self.assertEqual(runtime.head, 1)

    def test_lookupWaits(self) -> None:
        """
        While an operation has no verdict nobody is told that there is none.
        """
        asked = credit(key="a")
        self.node.lines.held.add("writer")
        self.node.submit(asked)
        self.node.clock.advance(0)
        byKey = self.node.runtime.orderOf(7, "a")
        byOrder = self.node.runtime.trade(105)
        self.assertNoResult(byKey)
        self.node.lines.statements.popleft().answer()
        self.assertEqual(self.successResultOf(byKey), 105)
        self.assertEqual(self.successResultOf(byOrder).order, 105)

    def test_groups(self) -> None:
        """
        An account is moved on one node, and the others know it when they next look.
        """
        other = self.start("b")
        self.successResultOf(self.node.runtime.setGroup(1001, "real"))
        self.assertEqual(self.node.runtime.groupOf(1001), "real")
        self.assertEqual(other.runtime.groupOf(1001), "")
        other.clock.advance(1)
        self.assertEqual(other.runtime.groupOf(1001), "real")
        self.assertEqual(self.start("c").runtime.groupOf(1001), "real")
        with other.lines.of("reader").connection.transaction():
            other.lines.of("reader").connection.execute("SELECT FROM stream FOR UPDATE")
            self.node.lines.of("reader").connection.execute("SET lock_timeout = '20ms'")
            self.failureResultOf(self.node.runtime.setGroup(1001, "x"), Busy)
        self.assertEqual(self.node.runtime.groupOf(1001), "real")
        known = self.start("d", knownAccountsOnly=True)
        self.failureResultOf(known.runtime.setGroup(5, "real"), UserNotFound)

    def test_movesBeforeEvents(self) -> None:
        """
        What was moved on another node is known before the next event is published, be
        that booked here or there, and even if the outcome of a batch was lost.
        """
        other = self.start("b")
        other.lines.held.add("reader")
        self.successResultOf(self.node.runtime.setGroup(1001, "real"))
        self.booked(credit(), other)
        self.assertEqual(other.groups, ["real"])
        self.successResultOf(self.node.runtime.setGroup(1001, "vip"))
        self.booked(credit())
        other.look()
        self.assertEqual(other.groups, ["real", "vip"])
        self.successResultOf(self.node.runtime.setGroup(1001, "demo"))
        other.lines.held.add("writer")
        reserved = other.submit(credit())
        other.clock.advance(0)
        [batch] = [each for each in other.lines.statements if "book_1" in each.text]
        batch.perform()
        other.lines.held.remove("writer")
        other.lines.of("writer").lose()
        other.clock.pump([1] * 5)
        self.successResultOf(reserved)
        self.assertEqual(other.groups, ["real", "vip", "demo"])

    def test_movesBeforeRequests(self) -> None:
        """
        What was moved on another node can be waited for, and is known when the journal
        was read. Those who wait while moves are read share the next read.
        """
        other = self.start("b")
        self.successResultOf(self.node.runtime.setGroup(1001, "real"))
        self.successResultOf(other.runtime.whenKnown(1001))
        self.assertEqual(other.runtime.groupOf(1001), "real")
        self.booked(credit())
        self.successResultOf(self.node.runtime.setGroup(1001, "vip"))
        self.successResultOf(other.runtime.events(0, 10))
        self.assertEqual(other.runtime.groupOf(1001), "vip")
        other.lines.held.add("reader")
        first = other.runtime.whenKnown(1001)
        self.successResultOf(self.node.runtime.setGroup(1001, "demo"))
        others = [other.runtime.whenKnown(1001) for _ in range(3)]
        self.assertEqual(len(other.lines.statements), 1)
        other.lines.statements.popleft().answer()
        self.successResultOf(first)
        self.assertEqual(len(other.lines.statements), 1)
        self.assertNoResult(others[0])
        other.lines.statements.popleft().answer()
        for each in others:
            self.successResultOf(each)
        self.assertEqual(other.runtime.groupOf(1001), "demo")

    def test_movesUnknown(self) -> None:
        """
        If the server can't be reached, nobody is told what a token may see.
        """
        self.node.lines.of("reader").lose()
        self.node.lines.isCut = True
        self.failureResultOf(self.node.runtime.whenKnown(1001), Busy)
        self.node.lines.isCut = False
        self.successResultOf(self.node.runtime.whenKnown(1001))

    def test_rules(self) -> None:
        """
        The rules of a site hold for all nodes, whatever was booked before them, and
        can be changed.
        """
        self.booked(credit(60))
        rule = Rule("a day", maxPerDay=100 * 10**8, over="request")
        other = self.start("b", rules=[rule])
        amount = 100 * 10**8 - 60
        self.booked(credit(amount), other)
        reserved = other.submit(credit(1))
        other.clock.advance(0)
        why = self.failureResultOf(reserved, LimitExceeded).value
        self.assertEqual(
            (why.message, why.rule),
            (
                'the limit "a day" allows at most 100.0 a day for each principal, which'
                " this would exceed; ask for it with MngCreateFinanceRequest",
                "a day",
            ),
        )
        self.successResultOf(
            other.runtime.useRules([evolve(rule, maxPerDay=101 * 10**8)])
        )
        self.booked(credit(1), other)
        self.successResultOf(self.node.runtime.useRules([Rule("one", maxAmount=5)]))
        self.assertEqual(
            self.refused(credit(6), LimitExceeded).message,
            'the limit "one" allows at most 0.00000005 in one operation, and this'
            " counts 0.00000006",
        )

    def test_rulesEnd(self) -> None:
        """
        A rule that no node has registered for a week ends, with what it has counted;
        one that a node has is registered by it every day.
        """
        rule, other = Rule("a", maxPerDay=1000), Rule("b", maxPerDay=1000, per="login")
        last = Rule("c", maxAmount=1000)
        self.successResultOf(self.node.runtime.useRules([rule, other, last]))
        self.booked(credit())
        self.successResultOf(self.node.runtime.useRules([rule]))
        ids = "SELECT id FROM rule WHERE number < 3 ORDER BY number"
        for day, count in ((1, 2), (7, 2), (8, 1), (9, 1)):
            self.node.now = NOW + day * 86400
            self.node.clock.advance(1)
            found = [each for (each,) in self.database.rows(ids)]
            self.assertEqual(found, [idOf(rule), idOf(other)][:count], day)
            self.booked(credit())
        self.assertEqual(
            self.database.rows(
                "SELECT min(day), count(DISTINCT (day, rule)) FROM counted"
            ),
            [(NOW // 86400 + 7, 4)],
        )
        # It may come back.
        self.successResultOf(self.node.runtime.useRules([other]))
        self.assertEqual(self.refused(credit(701), LimitExceeded).rule, "b")

    def test_ruleEndedWhileAway(self) -> None:
        """
        A rule that has ended although a node has it, as that was away, is registered
        again when the node books by it.
        """
        rule = Rule("a", maxPerDay=100)
        self.successResultOf(self.node.runtime.useRules([rule]))
        self.database.rows("DELETE FROM rule")
        self.booked(credit(60))
        self.assertEqual(self.refused(credit(60), LimitExceeded).rule, "a")

    def test_financeRequests(self) -> None:
        """
        A finance request is approved by another principal.
        """
        made = self.booked(
            Operation(
                *("MngCreateFinanceRequest", 7, 1001, 5, "x"),
                principal=7,
                isRequest=True,
            )
        )
        self.assertEqual((made.type, made.data.state, made.credit), (0, 17, 0))
        other = self.start("b")
        self.assertEqual(other.runtime.makerOf(made.order), 7)
        self.assertEqual(self.node.runtime.makerOf(made.order), 7)
        approve = "MngApproveFinanceRequest"
        self.refused(Decision(approve, made.order, True, principal=7), Forbidden)
        done = self.booked(Decision(approve, made.order, True, principal=8))
        self.assertEqual((done.type, done.data.state, done.credit), (1, 3, 5))
        self.refused(Decision(approve, made.order, True, principal=8), IncorrectOrder)
        other.look()
        self.assertIsNone(other.runtime.makerOf(made.order))

    def test_stop(self) -> None:
        """
        What is queued is booked before the end, and nothing is accepted after.
        """
        reserved = self.node.submit(credit())
        self.successResultOf(self.node.runtime.stopService())
        self.assertEqual(self.successResultOf(reserved).place, 1)
        self.assertRaises(ShuttingDown, self.node.runtime.submit, credit())

    def test_unreachable(self) -> None:
        """
        A start without a server says so.
        """
        node = Node(self, "b")
        node.lines.isCut = True
        started = node.runtime.startService()
        problem = self.failureResultOf(started, LedgerProblem).getErrorMessage()
        self.assertEqual(problem, "refused")

    def test_away(self) -> None:
        """
        While PostgreSQL is away, who looks something up or moves an account is told so,
        and not where it is. If a move was sent, it may have been carried out.
        """
        runtime, lines = self.node.runtime, self.node.lines
        lines.held.add("reader")
        unknown = runtime.setGroup(1001, "real")
        self.node.clock.advance(0)
        lines.isCut = True
        lines.of("reader").lose()
        why = self.failureResultOf(unknown, OutcomeUnknown)
        self.assertEqual(
            why.getErrorMessage(),
            "PostgreSQL can't be reached: the outcome is unknown",
        )
        for asked in (runtime.account(1001), runtime.setGroup(1001, "real")):
            busy = self.failureResultOf(asked, Busy)
            self.assertEqual(busy.getErrorMessage(), "PostgreSQL can't be reached")


class NodesTests(RuntimeCase):
    """
    Tests for two nodes on one database.
    """

    def setUp(self) -> None:
        """
        Start a second node.
        """
        super().setUp()
        self.other = self.start("b")

    def test_elsewhere(self) -> None:
        """
        What one node has booked is published by the other, with a mark that is no
        operation of its own.
        """
        self.booked(credit(key="k"))
        self.other.look()
        [event] = self.other.published
        self.assertEqual(event.data, self.node.published[0].data)
        assert isinstance(event.operation, BookedElsewhere)
        self.assertTrue(event.operation.isBooked)
        self.assertEqual(event.operation.key, "k")

    def test_cursorAhead(self) -> None:
        """
        A place that another node has published is waited for; one that nobody has
        booked is not.
        """
        place = self.booked(credit(), self.other).place
        assert place is not None
        here = self.node.runtime.whenPublished(place)
        self.assertNoResult(here)
        self.node.look()
        self.assertEqual(self.node.places, [place])
        self.successResultOf(here)
        self.successResultOf(self.node.runtime.whenPublished(place))
        self.successResultOf(self.node.runtime.whenPublished(place + 1))

    def test_inOrder(self) -> None:
        """
        A node that books behind another's events publishes those first.
        """
        for amount in (1, 2):
            self.booked(credit(amount))
        self.booked(credit(3), self.other)
        self.assertEqual(
            self.other.log, ["reservation 3", "event 1", "event 2", "event 3"]
        )
        self.node.look()
        self.assertEqual(self.node.places, [1, 2, 3])

    def test_sameKey(self) -> None:
        """
        The same request to both is booked once. The second is answered when its node
        has published what it is told.
        """
        first = self.booked(credit(key="a"))
        self.other.lines.held.add("feed")
        reserved = self.other.submit(credit(key="a"))
        self.other.clock.advance(0)
        self.assertNoResult(reserved)
        self.other.lines.statements.popleft().answer()
        second = self.successResultOf(reserved)
        self.assertTrue(second.isReplay)
        self.assertEqual(second.data, first.data)
        self.assertEqual(self.other.log, ["event 1", "reservation 1"])

    def test_readBeforeTheAnswer(self) -> None:
        """
        Rows of this node are held back while their batch has no answer, and so is all
        behind them.
        """
        self.node.lines.held.add("writer")
        reserved = self.node.submit(credit())
        self.node.clock.advance(0)
        [statement] = self.node.lines.statements
        statement.perform()
        self.booked(credit(), self.other)
        self.node.clock.advance(1)
        self.assertEqual(self.node.log, [])
        self.node.lines.statements.popleft().answer()
        self.node.lines.held.clear()
        self.assertEqual(self.node.log, ["reservation 1", "event 1"])
        self.node.look()
        self.assertEqual(self.node.log, ["reservation 1", "event 1", "event 2"])
        self.assertIs(self.node.published[0], self.successResultOf(reserved))

    def test_gap(self) -> None:
        """
        A place that is missing stops the node, and nothing behind it is published.
        """
        for amount in (1, 2, 3):
            self.booked(credit(amount))
        self.database.rows("DELETE FROM event WHERE seq = 2")
        failed = self.other.runtime.whenFailed()
        self.other.clock.advance(1)
        problem = self.failureResultOf(failed, LedgerDamaged).getErrorMessage()
        self.assertIn("place 3 where 2 should be", problem)
        self.assertEqual(self.other.places, [])
        self.assertEqual(len(self.flushLoggedErrors(LedgerDamaged)), 1)
        self.assertRaises(ShuttingDown, self.other.runtime.submit, credit())

    def test_fenced(self) -> None:
        """
        Of two processes with the same name, the first books no more. There is no
        traceback in the log, as it is no fault of the program.
        """
        later = self.start("a")
        failed = self.node.runtime.whenFailed()
        reserved = self.node.submit(credit())
        self.node.clock.advance(0)
        self.failureResultOf(failed, Fenced)
        unknown = self.failureResultOf(reserved, OutcomeUnknown).value
        self.assertEqual(unknown.data, {"order": 105})
        self.booked(credit(), later)

    def test_fencedAtRest(self) -> None:
        """
        It also notices by the events of the second.
        """
        later = self.start("a")
        self.booked(credit(), later)
        failed = self.node.runtime.whenFailed()
        self.node.clock.advance(1)
        self.failureResultOf(failed, Fenced)

    def test_numbersTaken(self) -> None:
        """
        Numbers that are given out a second time are replaced before anything is booked
        under them.
        """
        self.booked(credit(key="a"))
        self.database.rows("UPDATE block SET next = 64")
        again = self.start("c")
        reserved = self.booked(credit(5), again)
        self.assertNotEqual(reserved.order, 105)
        self.assertEqual(
            self.database.rows('SELECT count(*), count(DISTINCT "order") FROM event'),
            [(2, 2)],
        )


class ProofTests(RuntimeCase):
    """
    Tests for what another node has booked and may still be lost.
    """

    def setUp(self) -> None:
        """
        Have a second node book with a commit that did not wait for its standby.
        """
        super().setUp()
        self.other = self.start("b")
        self.other.lines.doubtful = 1000
        asked = credit(key="k")
        self.reserved = self.other.submit(asked)
        self.order = asked.reserved
        self.addCleanup(self.reserved.addErrback, lambda _: None)
        self.other.clock.advance(0)
        self.assertNoResult(self.reserved)

    def search(self) -> "Deferred[Any]":
        """
        Search everything.
        """
        every = TradeFilter((), (), 10, 0, lambda group: True, 5.0)
        return self.node.runtime.search(every, list)

    def test_proven(self) -> None:
        """
        It is published, and found, as soon as a commit of this node has reached the
        standby.
        """
        runtime = self.node.runtime
        found = [
            runtime.trade(self.order),
            runtime.orderOf(7, "k"),
            runtime.account(1001),
            self.search(),
        ]
        self.node.lines.doubtful = 3
        self.node.look()
        self.node.clock.advance(0.1)
        self.assertEqual(self.node.places, [])
        for each in found:
            self.assertNoResult(each)
        self.node.clock.advance(0.1)
        self.assertEqual(self.node.places, [1])
        trade, order, account, page = map(self.successResultOf, found)
        self.assertEqual((trade.order, order), (self.order, self.order))
        self.assertEqual(account.credit, 300)
        self.assertEqual(page.count, 1)

    def test_provenByBatch(self) -> None:
        """
        A batch of its own that comes meanwhile is such a commit.
        """
        self.node.clock.advance(1)
        self.assertEqual(self.node.runtime.feed.held, 1)
        self.booked(credit())
        self.assertEqual(self.node.places, [1, 2])
        self.node.look()
        self.assertIsNone(self.node.runtime.queuedSince)

    def test_ring(self) -> None:
        """
        Without a commit it is published when a node that knows says so: of this
        journal, and of the server from which it was read.
        """
        self.node.clock.advance(0.06)
        self.node.lines.held.add("writer")
        for proof in ("", "x", "0a1b2c3d", "other one 1", "0a1b2c3d two 1"):
            self.node.runtime._heard(proof)
            self.assertEqual(self.node.places, [])
        self.node.runtime._heard("0a1b2c3d one 1")
        self.assertEqual(self.node.places, [1])
        self.assertEqual(self.node.runtime._proof(), "0a1b2c3d  0")
        self.node.clock.pump([1, 1])
        self.assertEqual(list(self.node.lines.statements), [])

    def test_said(self) -> None:
        """
        A node says what its last batch has proven.
        """
        self.other.lines.doubtful = 0
        self.other.clock.advance(1)
        self.successResultOf(self.reserved)
        self.booked(credit(), self.other)
        self.assertEqual(self.other.runtime._proof(), "0a1b2c3d one 2")
        self.booked(credit(key="k"))
        self.assertEqual(self.node.runtime._proof(), "0a1b2c3d one 1")

    def test_replay(self) -> None:
        """
        A repetition of the request to another node is answered when its own commit has
        reached the standby.
        """
        self.node.lines.doubtful = 1
        replay = self.node.submit(credit(key="k"))
        self.node.clock.advance(0)
        self.assertNoResult(replay)
        self.node.clock.advance(0.1)
        self.assertTrue(self.successResultOf(replay).isReplay)
        self.assertEqual(self.node.places, [1])

    def test_otherServer(self) -> None:
        """
        What the new server has after a failover proves nothing of what was read from
        the old one, which is read from no more.
        """
        self.node.lines.of("feed").server = "old"
        self.node.clock.advance(1)
        self.booked(credit())
        self.assertEqual(self.node.places, [])
        self.node.clock.advance(1)
        self.assertEqual(self.node.places, [])
        self.node.clock.pump([1, 1, 1])
        self.assertEqual(self.node.places, [1, 2])
        self.assertEqual(self.node.lines.of("feed").server, "one")

    def test_failedOverMeanwhile(self) -> None:
        """
        Nor does a proof that was asked for before the failover.
        """
        self.node.clock.advance(1)
        self.node.lines.held.add("writer")
        self.node.clock.advance(0.1)
        [proof] = self.node.lines.statements
        self.node.lines.of("feed").lose()
        for table in ("event", "link", "trade", "opened", "keyed"):
            self.database.rows(f"DELETE FROM {table}")
        self.node.clock.advance(1)
        self.node.lines.statements.clear()
        self.node.lines.held.clear()
        proof.answer()
        self.assertEqual(self.node.runtime.feed.proven, 0)

    def test_start(self) -> None:
        """
        What is there at the start may be lost as well: the start proves it.
        """
        node = Node(self, "c")
        self.addCleanup(self.stop, node)
        node.lines.held.add("writer")
        started = node.runtime.startService()
        for _ in range(2):
            node.lines.statements.popleft().answer()
        node.lines.doubtful = 1
        node.lines.statements.popleft().answer()
        node.lines.held.clear()
        self.assertNoResult(started)
        node.clock.advance(0.1)
        self.successResultOf(started)
        found = node.runtime.trade(self.order)
        self.assertEqual(self.successResultOf(found).order, self.order)

    def test_proofBroken(self) -> None:
        """
        If the connection breaks during a proof, another one makes it.
        """
        self.node.clock.advance(1)
        self.node.lines.held.add("writer")
        self.node.clock.advance(0.1)
        self.node.lines.held.clear()
        self.node.lines.of("writer").lose()
        self.node.clock.advance(1)
        self.assertEqual(self.node.places, [1])
        self.assertEqual(self.node.runtime.lanes[0].incarnation, 2)

    def test_proofRefused(self) -> None:
        """
        If the server refuses it, as its row is locked, it is tried again.
        """
        writer = self.node.lines.of("writer").connection
        writer.execute("SET lock_timeout = '20ms'")
        reader = self.node.lines.of("reader").connection
        with reader.transaction():
            reader.execute("SELECT FROM node FOR UPDATE")
            self.node.look()
            self.assertEqual(self.node.places, [])
        self.node.clock.advance(1)
        self.assertEqual(self.node.places, [1])

    def test_lookupAtStop(self) -> None:
        """
        A look-up that waits for a proof is answered at the latest when nothing is read
        any more.
        """
        found = self.node.runtime.trade(self.order)
        self.assertNoResult(found)
        self.successResultOf(self.node.runtime.stopService())
        self.failureResultOf(found, Busy)
        self.failureResultOf(self.node.runtime.trade(self.order), Busy)

    def test_loss(self) -> None:
        """
        So is one that waits when the node finds out that something is lost, and a move
        of an account, of which nobody knows what has become.
        """
        self.booked(credit())
        self.node.lines.held.add("writer")
        self.node.lines.doubted, self.node.lines.doubtful = {"reader"}, 1
        moved = self.node.runtime.setGroup(1001, "real")
        self.node.clock.advance(0)
        self.assertNoResult(moved)
        self.database.rows("DELETE FROM link")
        self.node.lines.held.clear()
        self.node.lines.of("writer").lose()
        self.node.clock.advance(1)
        self.failureResultOf(moved, OutcomeUnknown)
        self.failureResultOf(self.node.runtime._queues.prove(), OutcomeUnknown)

    def test_move(self) -> None:
        """
        The move of an account to another group is acknowledged when it has reached the
        standby.
        """
        self.node.lines.doubted, self.node.lines.doubtful = {"reader"}, 1
        self.node.lines.held.add("writer")
        moved = self.node.runtime.setGroup(1001, "real")
        self.node.clock.advance(0)
        self.assertNoResult(moved)
        self.node.lines.held.clear()
        self.node.lines.statements.popleft().answer()
        self.successResultOf(moved)


class DisturbedTests(RuntimeCase):
    """
    Tests for connections that break.
    """

    def held(self, *operations: Any) -> "list[Deferred[Reservation]]":
        """
        Send a batch whose answer is held.
        """
        self.node.lines.held.add("writer")
        reserved = [self.node.submit(each) for each in operations]
        self.node.clock.advance(0)
        return reserved

    def cut(self, isBooked: bool) -> None:
        """
        Break the connection that books before its answer.
        """
        [statement] = self.node.lines.statements
        if isBooked:
            statement.perform()
        self.node.lines.held.clear()
        statement.line.lose()

    def test_bookedUnknown(self) -> None:
        """
        A batch whose answer is lost is found by its number.
        """
        [reserved] = self.held(credit())
        self.cut(True)
        self.assertEqual(self.successResultOf(reserved).place, 1)
        self.assertEqual(self.node.log, ["reservation 1", "event 1"])
        self.assertEqual(self.database.rows("SELECT count(*) FROM event"), [(1,)])
        self.assertEqual(self.node.runtime.lanes[0].unknowns, 1)

    def test_notBookedUnknown(self) -> None:
        """
        One that was not carried out is sent again.
        """
        [reserved] = self.held(credit())
        self.cut(False)
        self.assertEqual(self.successResultOf(reserved).place, 1)
        self.assertEqual(self.database.rows("SELECT count(*) FROM event"), [(1,)])

    def test_partlyBooked(self) -> None:
        """
        What was refused in a batch whose answer is lost is judged again, and what was
        a repetition is one again.
        """
        self.booked(credit(key="a"))
        replay, refused, booked = self.held(
            credit(key="a"), withdrawal(500), credit(700)
        )
        self.cut(True)
        self.assertEqual(self.successResultOf(booked).place, 2)
        self.assertTrue(self.successResultOf(replay).isReplay)
        self.assertEqual(self.successResultOf(refused).place, 3)

    def test_shutOut(self) -> None:
        """
        A batch that the server begins only after the node has connected again is shut
        out, as it was sent again.
        """
        [reserved] = self.held(credit())
        [statement] = self.node.lines.statements
        self.cut(False)
        self.successResultOf(reserved)
        late = self.node.lines.of("reader").perform(statement.text, statement.values)
        self.assertEqual(late.value.sqlstate, "CS001")

    def test_away(self) -> None:
        """
        While the server is away the node is not ready; then it goes on by itself, and
        books once.
        """
        [reserved] = self.held(credit())
        self.node.lines.isCut = True
        self.cut(True)
        self.node.clock.pump([1] * 20)
        self.assertNoResult(reserved)
        self.assertEqual(self.node.runtime.problem, "PostgreSQL can't be reached")
        self.node.lines.isCut = False
        self.node.clock.pump([1] * 10)
        self.assertEqual(self.successResultOf(reserved).place, 1)
        self.assertIsNone(self.node.runtime.problem)

    def test_doubtful(self) -> None:
        """
        A commit that came with a warning is acknowledged when a later one has none.
        """
        self.node.lines.doubtful = 2
        reserved = self.node.submit(credit())
        self.node.clock.advance(0)
        self.assertNoResult(reserved)
        self.node.clock.advance(0.1)
        self.assertNoResult(reserved)
        self.assertEqual(self.node.published, [])
        self.node.clock.advance(0.1)
        self.assertEqual(self.successResultOf(reserved).place, 1)

    def test_doubtfulThenBroken(self) -> None:
        """
        If the connection breaks before that, the batch is looked up and not sent again.
        """
        self.node.lines.doubtful = 1
        reserved = self.node.submit(credit())
        self.node.clock.advance(0)
        self.node.lines.of("writer").lose()
        self.node.clock.advance(1)
        self.assertEqual(self.successResultOf(reserved).place, 1)
        self.assertEqual(self.database.rows("SELECT count(*) FROM event"), [(1,)])

    def test_doubtfulOrLost(self) -> None:
        """
        If the server has lost it by then, it is booked again, and was never told.
        """
        self.node.lines.doubtful = 1
        reserved = self.node.submit(credit())
        self.node.clock.advance(0)
        for table in ("event", "link", "trade", "opened"):
            self.database.rows(f"DELETE FROM {table}")
        self.node.lines.of("writer").lose()
        self.node.clock.advance(1)
        self.assertEqual(self.successResultOf(reserved).place, 1)
        self.assertEqual(self.node.places, [1])

    def test_lookupsAfterLoss(self) -> None:
        """
        Nobody is told that what was acknowledged and is lost was never booked: nothing
        is looked up after a loss.
        """
        self.booked(credit())
        order = self.booked(credit()).order
        self.lost()
        reserved = self.node.submit(credit())
        self.node.clock.advance(1)
        self.failureResultOf(reserved, OutcomeUnknown)
        runtime = self.node.runtime
        for lookup in (
            runtime.trade(order),
            runtime.orderOf(7, "key"),
            runtime.account(1001),
            runtime.events(0, 10),
            runtime.groups(),
        ):
            self.node.clock.advance(0)
            busy = self.failureResultOf(lookup, Busy).value
            self.assertEqual(str(busy), "PostgreSQL has lost acknowledged operations")

    def lost(self) -> list[str]:
        """
        Have the server lose the last batch, and the connection that books.

        @return: What is logged as critical after that.
        """
        critical: list[str] = []

        def observe(event: Any) -> None:
            if event["log_level"].name == "critical":
                critical.append(event["log_format"].format(**event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        self.database.rows("DELETE FROM link WHERE batch = 2")
        self.database.rows("DELETE FROM event WHERE batch = 2")
        self.node.lines.of("writer").lose()
        return critical

    def test_loss(self) -> None:
        """
        A server that lacks what was acknowledged is noticed: nothing more is
        acknowledged, and the log names the numbers.
        """
        self.booked(credit())
        self.booked(credit())
        critical = self.lost()
        reserved = self.node.submit(credit())
        self.node.clock.advance(1)
        self.failureResultOf(reserved, OutcomeUnknown)
        self.assertEqual(
            critical,
            [
                "PostgreSQL has lost acknowledged operations, and this node"
                " acknowledges nothing more: node a has acknowledged batch 2 with place"
                " 2, but PostgreSQL has its batches only up to 1."
            ],
        )
        self.assertEqual(
            self.node.runtime.problem, "PostgreSQL has lost acknowledged operations"
        )
        runtime = self.node.runtime
        for act in (
            lambda: runtime.submit(credit()),
            lambda: runtime.setGroup(1001, "real"),
        ):
            e = self.assertRaises(ShuttingDown, act)
            self.assertEqual(
                str(e),
                "this request has booked nothing: PostgreSQL has lost acknowledged"
                " operations",
            )
        other = self.start("b")
        for _ in range(3):
            self.booked(credit(), other)
        self.node.clock.pump([1] * 3)
        self.assertEqual(self.node.places, [1, 2])

    def test_lossOfStart(self) -> None:
        """
        A server that lacks even the start of a node is no reason to end: one that is
        started again would not know of the loss.
        """
        self.booked(credit())
        self.booked(credit())
        critical = self.lost()
        self.database.rows("DELETE FROM node")
        self.node.submit(credit()).addErrback(lambda _: None)
        self.node.clock.advance(1)
        [line] = critical
        self.assertIn("node a has incarnation 1, but PostgreSQL knows none", line)

    def lookedUp(self, order: int) -> None:
        """
        Look up what is lost, after the connection has ended.
        """
        runtime = self.node.runtime
        self.node.lines.of("reader").lose()
        for lookup in (runtime.trade(order), runtime.orderOf(7, "k")):
            busy = self.failureResultOf(lookup, Busy).value
            self.assertEqual(str(busy), "PostgreSQL has lost acknowledged operations")
            self.assertEqual(runtime.problem, str(busy))

    def test_lossSeenByLookup(self) -> None:
        """
        A look-up that connects again, to a server that has failed over, is the first to
        notice: nobody is told that what was published is not there.
        """
        order = self.booked(credit(key="k")).order
        self.database.rows("DELETE FROM event")
        self.lookedUp(order)

    def test_lossOfAcknowledgedSeenByLookup(self) -> None:
        """
        So it is if what was acknowledged is not published yet.
        """
        self.node.lines.held.add("feed")
        self.booked(credit(), self.start("b"))
        order = self.booked(credit(key="k")).order
        self.database.rows("DELETE FROM link WHERE hi = 2")
        self.lookedUp(order)

    def test_lookupsUnreachable(self) -> None:
        """
        All look-ups that wait for the same connection are told that it can't be made.
        """
        connecting: Deferred[Any] = Deferred()
        tries = [connecting]

        def connect(use: str) -> Deferred[Any]:
            return tries.pop() if tries else fail(ConnectionLost("refused"))

        with patch.object(self.node.runtime._readers, "_connect", connect):
            self.node.lines.of("reader").lose()
            first, second = self.node.runtime.trade(5), self.node.runtime.account(5)
            self.assertNoResult(second)
            connecting.errback(ConnectionLost("refused"))
            for each in (first, second):
                self.failureResultOf(each, Busy)

    def test_lookupRefused(self) -> None:
        """
        A server that refuses the proof is not asked.
        """
        self.booked(credit())
        self.node.lines.of("reader").lose()
        self.database.rows("ALTER TABLE link RENAME TO away")
        self.addCleanup(self.database.rows, "ALTER TABLE away RENAME TO link")
        self.failureResultOf(self.node.runtime.trade(5), Busy)

    def test_lossSeenByOneLane(self) -> None:
        """
        What another lane has under way then is not acknowledged either.
        """
        node = self.start("two", lanes=2)
        self.booked(credit(login=1), node)
        self.booked(credit(login=1), node)
        first, second = (each for each in node.lines.open if each.use == "writer")
        node.lines.held.add("writer")
        reserved = node.submit(credit(login=2))
        node.clock.advance(0)
        [statement] = node.lines.statements
        assert statement.line is first
        statement.perform()
        node.lines.held.clear()
        self.database.rows("DELETE FROM link WHERE hi = 2")
        second.lose()
        unknown = node.submit(credit(login=1))
        node.clock.advance(1)
        self.failureResultOf(unknown, OutcomeUnknown)
        self.assertNoResult(reserved)
        statement.answer()
        node.lines.statements.clear()
        self.failureResultOf(reserved, OutcomeUnknown)
        self.assertEqual(node.places, [1, 2])

    def test_lossOfPublished(self) -> None:
        """
        Also by what reads: what was published is another event now.
        """
        self.booked(credit())
        self.booked(credit())
        critical = self.lost()
        self.node.lines.of("feed").lose()
        self.node.clock.pump([1] * 3)
        self.assertEqual(len(critical), 1)
        self.assertIn("up to place 2, but PostgreSQL has others now", critical[0])

    def test_feedBroken(self) -> None:
        """
        A connection that reads and breaks loses no event and doubles none.
        """
        other = self.start("b")
        self.booked(credit(), other)
        self.node.clock.advance(1)
        self.node.lines.of("feed").lose()
        self.booked(credit(), other)
        self.node.clock.pump([1] * 3)
        self.assertEqual(self.node.places, [1, 2])

    def test_heldThenLost(self) -> None:
        """
        Rows of a batch without an answer that were read from a server which failed over
        without them are forgotten: their places are others'.
        """
        other = self.start("b")
        [reserved] = self.held(credit())
        [statement] = self.node.lines.statements
        statement.perform()
        self.node.clock.advance(1)
        self.assertEqual(self.node.runtime.feed.held, 1)
        for table in ("event", "link", "trade", "opened"):
            self.database.rows(f"DELETE FROM {table}")
        self.booked(credit(), other)
        self.node.lines.of("feed").lose()
        self.node.lines.held.clear()
        statement.line.lose()
        self.node.clock.pump([1] * 3)
        self.assertEqual(self.successResultOf(reserved).place, 2)
        self.assertEqual(self.node.places, [1, 2])

    def test_lockTimeout(self) -> None:
        """
        A lock that is held too long has certainly changed nothing: the batch is tried
        again.
        """
        self.booked(credit())
        writer = self.node.lines.of("writer")
        writer.connection.execute("SET lock_timeout = '20ms'")
        reader = self.node.lines.of("reader").connection
        with reader.transaction():
            reader.execute("SELECT FROM account FOR UPDATE")
            reserved = self.node.submit(credit())
            self.node.clock.advance(0)
            self.assertNoResult(reserved)
        self.node.clock.advance(1)
        self.assertEqual(self.successResultOf(reserved).place, 2)
        self.assertEqual(self.node.runtime.lanes[0].retries, 1)
