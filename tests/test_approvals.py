"""
Tests for L{creditsync._approvals}.
"""

from collections.abc import Mapping
from typing import Any

from attrs import Factory, define
from twisted.internet.defer import Deferred
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from creditsync import _approvals
from creditsync._approvals import Approvals
from creditsync.errors import TookTooLong
from creditsync.interfaces import IFinanceRequests, ILookups
from creditsync.records import (
    Decision,
    FoundTrades,
    GroupedTrade,
    Operation,
    Trade,
    TradeEvent,
)
from creditsync.service import CreditSync
from tests import observed
from tests.observed import NOW, Client, ObservedTestCase

# Someone else's trade runtime sends such data.
Data = Trade | Mapping[str, Any]


def trade(order: int, state: int = 17, time: int = 1000) -> Trade:
    """
    A trade of 300 in this state.
    """
    return Trade(order, 1001, 7, state, 300_00000000, "For the move", 5, 5, time)


def made(order: int, principal: int = 7) -> TradeEvent:
    """
    The event of a new finance request.
    """
    asked = Operation("MngCreateFinanceRequest", 7, 1001, 1, "x", isRequest=True)
    asked.principal = principal
    return TradeEvent(0, trade(order), asked)


def decided(order: int, state: int) -> TradeEvent:
    """
    The event of its approval or its refusal.
    """
    asked = Decision("MngApproveFinanceRequestSync", order, state == 3)
    return TradeEvent(1, trade(order, state), asked)


@define
class Search:
    """
    A search that ends when the test says so.

    @ivar page: What makes something of each page.
    """

    page: Any
    ended: "Deferred[FoundTrades[Any]]" = Factory(Deferred)

    def finds(self, *trades: Trade) -> None:
        """
        End it with these trades, the first of which have a page of their own.
        """
        rows: list[GroupedTrade] = [(each, "real") for each in trades]
        pages = [self.page(each) for each in (rows[:2], rows[2:])]
        self.ended.callback(FoundTrades(pages, len(rows), 0, 0))


@implementer(ILookups, IFinanceRequests)
@define(eq=False)
class Runtime:
    """
    A trading runtime that can look up.

    @ivar makers: Who has made which order.
    @ivar asked: The orders whose makers were asked for.
    """

    makers: dict[int, int] = Factory(dict)
    asked: list[int] = Factory(list)
    filters: list[Any] = Factory(list)
    searches: "list[Search]" = Factory(list)

    def search(self, filter: Any, page: Any) -> "Deferred[FoundTrades[Any]]":
        """
        See L{ILookups.search}.
        """
        self.filters.append(filter)
        self.searches.append(Search(page))
        return self.searches[-1].ended

    def account(self, login: int) -> Any:
        """
        See L{ILookups.account}.
        """

    def groups(self) -> Any:
        """
        See L{ILookups.groups}.
        """

    def makerOf(self, order: int) -> int | None:
        """
        See L{IFinanceRequests.makerOf}.
        """
        self.asked.append(order)
        return self.makers.get(order)


class ApprovalsTests(SynchronousTestCase):
    """
    What is known of the finance requests that wait.
    """

    def setUp(self) -> None:
        self.runtime: Any = Runtime()
        self.approvals = Approvals(self.runtime)

    def orders(self) -> list[int]:
        """
        Those that wait, the newest first.
        """
        return [event.order for event, _ in self.approvals.newest(99)]

    def find(self) -> "Search":
        """
        Begin to search for those made before the start.
        """
        self.approvals.find(3.0, lambda begin: begin())
        [search] = self.runtime.searches
        return search

    def test_cameAndWent(self) -> None:
        """
        A request waits from its first event until it is approved or declined.
        """
        self.approvals.observe([made(1), made(2), made(3)])
        self.assertEqual((len(self.approvals), self.orders()), (3, [3, 2, 1]))
        self.approvals.observe([decided(2, 3), decided(1, 18)])
        self.assertEqual((len(self.approvals), self.orders()), (1, [3]))

    def test_otherTrades(self) -> None:
        """
        Trades that are booked at once, changed or deleted are none of them.
        """
        self.approvals.observe(
            [
                TradeEvent(type, trade(5, state))
                for type, state in ((0, 3), (1, 3), (2, 6))
            ]
        )
        self.assertEqual(self.orders(), [])

    def test_oneCommit(self) -> None:
        """
        A request that is made and decided in one commit does not wait.
        """
        self.approvals.observe([made(1), decided(1, 3)])
        self.assertEqual((len(self.approvals), self.approvals.since), (0, None))

    def test_newest(self) -> None:
        """
        Only as many as are wanted are given, each with its maker.
        """
        self.approvals.observe([made(1, 7), made(2, 8), made(3, 9)])
        newest = [(event.order, maker) for event, maker in self.approvals.newest(2)]
        self.assertEqual(newest, [(3, 9), (2, 8)])
        self.assertEqual(self.runtime.asked, [])

    def test_since(self) -> None:
        """
        The time of the oldest is the one at which it was made.
        """
        first = TradeEvent(0, trade(1, time=500))
        self.approvals.observe([first, TradeEvent(0, trade(2, time=600))])
        self.assertEqual(self.approvals.since, 500)
        self.approvals.observe([decided(1, 3)])
        self.assertEqual(self.approvals.since, 600)

    def test_foreign(self) -> None:
        """
        Events of another trading runtime count too, with whatever they have.
        """
        approvals = Approvals(object())  # type: ignore[arg-type]
        approvals.observe([TradeEvent(0, {"order": 5, "state": 17, "timestamp": "?"})])
        approvals.observe([TradeEvent(0, {"order": 6})])
        [(event, maker)] = approvals.newest(9)
        self.assertEqual((event.order, maker, approvals.since), (5, None, None))
        approvals.observe([TradeEvent(1, {"order": 5, "state": 3})])
        self.assertEqual(len(approvals), 0)
        approvals.find(3.0, lambda begin: self.fail("it can't search"))
        self.assertFalse(approvals.isComplete)

    def test_bound(self) -> None:
        """
        Of very many the first ones are kept.
        """
        self.patch(_approvals, "MAX_KEPT", 2)
        self.approvals.observe([made(1), made(2), made(3)])
        self.assertEqual(self.orders(), [2, 1])

    def test_before(self) -> None:
        """
        Those made before the start are found by one search for the newest of all
        accounts, and stand before those that have come meanwhile.
        """
        search = self.find()
        self.assertFalse(self.approvals.isComplete)
        self.approvals.observe([made(9)])
        search.finds(trade(8), trade(7), trade(5))
        self.assertTrue(self.approvals.isComplete)
        self.assertEqual(self.orders(), [9, 8, 7, 5])
        [filter] = self.runtime.filters
        [condition] = filter.conditions
        self.assertEqual(
            (condition.field, condition.operator, condition.values),
            ("state", "==", (17,)),
        )
        self.assertEqual(filter.orderBy, (("order", True),))
        self.assertEqual(
            (filter.limit, filter.offset, filter.seconds), (100_000, 0, 3.0)
        )
        self.assertTrue(filter.seesGroup("any"))

    def test_decidedMeanwhile(self) -> None:
        """
        What is decided while the search runs is not among them, whatever the search has
        seen.
        """
        search = self.find()
        self.approvals.observe([decided(7, 3), made(9), decided(9, 18)])
        search.finds(trade(9), trade(8), trade(7))
        self.assertEqual(self.orders(), [8])

    def test_madeMeanwhile(self) -> None:
        """
        One that is made while the search runs counts once, with its maker.
        """
        search = self.find()
        self.approvals.observe([made(9, 8)])
        search.finds(trade(9))
        [(event, maker)] = self.approvals.newest(9)
        self.assertEqual((event.order, maker), (9, 8))

    def test_makers(self) -> None:
        """
        The runtime is asked once who has made each of them, and only for those that are
        shown.
        """
        self.runtime.makers = {7: 70}
        self.find().finds(trade(8), trade(7), trade(5))
        for _ in range(2):
            makers = [maker for _, maker in self.approvals.newest(2)]
            self.assertEqual(makers, [None, 70])
        self.assertEqual(self.runtime.asked, [8, 7])
        self.approvals.observe([decided(8, 3), decided(7, 3)])
        self.assertEqual(self.approvals._makers, {})

    def test_notFound(self) -> None:
        """
        A search that fails is a warning, and nothing is taken for complete.
        """
        log: list[Any] = []
        globalLogPublisher.addObserver(log.append)
        self.addCleanup(globalLogPublisher.removeObserver, log.append)
        self.approvals.observe([made(9)])
        self.find().ended.errback(TookTooLong())
        self.assertFalse(self.approvals.isComplete)
        self.assertEqual(self.orders(), [9])
        [text] = [formatEvent(each) for each in log if "why" in each]
        self.assertEqual(
            text,
            "The finance requests that were made before this start are missing in the"
            " console and the metrics: TookTooLong",
        )


class ServerTests(ObservedTestCase):
    """
    What a server knows.
    """

    def test_live(self) -> None:
        """
        A request waits as soon as its event is published, until it is decided.
        """
        client = Client(self.server)
        data = {"login": 1001, "cmd": 7, "amount": 300.0, "comment": "For the move"}
        client.asks("MngCreateFinanceRequest", data=data)
        self.turns()
        assert self.server.approvals is not None
        self.assertTrue(self.server.approvals.isComplete)
        self.assertEqual(len(self.server.approvals), 0)
        self.commits()
        [(event, maker)] = self.server.approvals.newest(9)
        self.assertEqual((event.order, maker), (1, 7))
        self.assertEqual(self.server.approvals.since, NOW)
        client.asks("MngApproveFinanceRequestSync", "b", {"order": 1}, token="dealer")
        self.commits()
        self.assertEqual(client.outcomes(), [("a", 200), ("b", 200)])
        self.assertEqual(len(self.server.approvals), 0)

    def test_pending(self) -> None:
        """
        The maker of a request that is not on disk yet is known: it can't approve it.
        """
        client = Client(self.server)
        data = {"login": 1001, "cmd": 7, "amount": 300.0, "comment": "For the move"}
        client.asks("MngCreateFinanceRequest", "a", data)
        client.asks("MngApproveFinanceRequest", "b", {"order": 1})
        client.asks("MngApproveFinanceRequest", "c", {"order": 1}, token="dealer")
        self.commits()
        self.assertEqual(client.outcomes(), [("b", 403), ("a", 200), ("c", 200)])

    def test_makerOfUndecided(self) -> None:
        """
        While a decision is not on disk, the maker of the request is still the maker.
        """
        client = Client(self.server)
        data = {"login": 1001, "cmd": 7, "amount": 300.0, "comment": "For the move"}
        client.asks("MngCreateFinanceRequest", data=data)
        self.commits()
        client.asks("MngDeclineFinanceRequest", "b", {"order": 1}, token="dealer")
        self.turns()
        self.assertEqual(self.runtime.makerOf(1), 7)
        self.commits()

    def test_restart(self) -> None:
        """
        After a start those that wait are known, with their makers.
        """
        data = {"login": 1001, "cmd": 7, "amount": 300.0, "comment": "For the move"}
        Client(self.server).asks("MngCreateFinanceRequest", data=data, token="admin")
        self.commits()
        ledger = self.ledger
        self.patch(observed, "HeldLedger", lambda _: ledger)
        self.serve()
        self.turns()
        assert self.server.approvals is not None
        [(event, maker)] = self.server.approvals.newest(9)
        self.assertEqual((event.order, maker), (1, 9))

    def test_withoutCounters(self) -> None:
        """
        A server that nobody measures does not watch.
        """
        server = CreditSync(
            self.reactor,
            runtime=self.runtime,
            events=self.events,
            authenticator=self.authenticator,
            listen=[],
        )
        self.assertIsNone(server.approvals)
