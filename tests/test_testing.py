"""
Tests for L{creditsync.testing}: the fakes behave like what they replace.
"""

from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from creditsync.errors import NoMoney, NotFound, Unauthorized
from creditsync.events import TradeEvents
from creditsync.interfaces import (
    IAccountGroups,
    IAuthenticator,
    ILedger,
    ITradingRuntime,
)
from creditsync.ledger.memory import MemoryLedger
from creditsync.records import (
    Account,
    Deletion,
    Operation,
    Principal,
    Reservation,
    Trade,
    TradeEvent,
)
from creditsync.runtime import TradingRuntime
from creditsync.testing import FakeAuthenticator, FakeTradingRuntime, HeldLedger
from tests.totals import withTotals

NOW = 1767225600


def credit(
    amount: int = 300_00000000,
    order: int = 0,
    comment: str = "Promotion credit",
    openTime: int | None = None,
    closeTime: int | None = None,
) -> Operation:
    """
    A credit-in; by default that of C{docs/protocol.rst}, "A credit".
    """
    return Operation(
        "CreditInSync", 7, 1001, amount, comment, order, openTime, closeTime
    )


class FakeAuthenticatorTests(SynchronousTestCase):
    """
    Tests for L{FakeAuthenticator}.
    """

    def setUp(self) -> None:
        """
        Make a fake authenticator.
        """
        self.authenticator = FakeAuthenticator()

    def test_interface(self) -> None:
        """
        L{FakeAuthenticator} provides the whole interface.
        """
        verifyObject(IAuthenticator, self.authenticator)

    def test_tokens(self) -> None:
        """
        Each token of the fake authenticates a principal of its role.
        """
        seen = {}
        for token in ("manager", "dealer", "admin", "user"):
            principal = self.authenticator.authenticate(token)
            seen[token] = (principal.id, principal.role)
        self.assertEqual(
            seen,
            {"manager": (7, 1), "dealer": (8, 2), "admin": (9, 3), "user": (10, 0)},
        )

    def test_accept(self) -> None:
        """
        Other tokens can be accepted, and revoked.
        """
        principal = Principal(1, 9, 1e9, "customer", logins=(1001,))
        self.authenticator.accept("customer", principal)
        self.assertIs(self.authenticator.authenticate("customer"), principal)
        self.assertTrue(self.authenticator.isCurrent(principal))
        self.authenticator.revoked.add("customer")
        self.assertFalse(self.authenticator.isCurrent(principal))

    def test_samePrincipal(self) -> None:
        """
        The same token authenticates the same principal each time.
        """
        self.assertIs(
            self.authenticator.authenticate("manager"),
            self.authenticator.authenticate("manager"),
        )

    def test_others(self) -> None:
        """
        No other token is accepted, and neither is a missing one.
        """
        for token in (None, "", "Manager", "root"):
            self.assertRaises(Unauthorized, self.authenticator.authenticate, token)

    def test_revoked(self) -> None:
        """
        A revoked token is no longer accepted, and its principal not current;
        the others are.
        """
        manager = self.authenticator.authenticate("manager")
        dealer = self.authenticator.authenticate("dealer")
        self.assertIs(self.authenticator.isCurrent(manager), True)
        self.authenticator.revoked.add("manager")
        self.assertIs(self.authenticator.isCurrent(manager), False)
        self.assertRaises(Unauthorized, self.authenticator.authenticate, "manager")
        self.assertIs(self.authenticator.isCurrent(dealer), True)

    def test_revokedHere(self) -> None:
        """
        A token that is revoked on one fake is not revoked on another.
        """
        self.authenticator.revoked.add("manager")
        FakeAuthenticator().authenticate("manager")


class RuntimeBehaviour:
    """
    Tests for every provider of L{ITradingRuntime}; C{setUp} makes
    C{self.runtime}, whose first order is 1242281.
    """

    runtime: Any
    events: TradeEvents

    def book(self) -> None:
        """
        Let everything be booked.
        """
        raise NotImplementedError

    def note(self) -> None:
        """
        Start recording what is published.
        """
        self.published: list[TradeEvent] = []
        self.events.addObserver(self.published.extend)

    def submit(self, amount: int = 300_00000000, order: int = 0) -> Reservation:
        """
        Submit a credit-in that is accepted.
        """
        reservation: Reservation = self.successResultOf(  # type: ignore[attr-defined]
            maybeDeferred(self.runtime.submit, credit(amount, order))
        )
        return reservation

    def test_interface(self: Any) -> None:
        """
        The runtime provides the whole interface.
        """
        verifyObject(ITradingRuntime, self.runtime)
        verifyObject(IAccountGroups, self.runtime)

    def test_groups(self: Any) -> None:
        """
        Accounts have no group until they are moved to one.
        """
        self.assertEqual(self.runtime.groupOf(1001), "")
        moved = self.runtime.setGroup(1001, "real")
        self.book()
        self.successResultOf(moved)
        self.assertEqual(self.runtime.groupOf(1001), "real")
        self.assertEqual(self.runtime.groupOf(1002), "")

    def test_new(self: Any) -> None:
        """
        New operations get fresh orders, and ADD.
        """
        first, second = self.submit(), self.submit()
        self.assertEqual((first.order, first.eventType), (1242281, 0))
        self.assertEqual((second.order, second.eventType), (1242282, 0))

    def test_orderNotFound(self: Any) -> None:
        """
        An unknown order gets a fresh one, and ADD.
        """
        reservation = self.submit(order=42)
        self.assertEqual((reservation.order, reservation.eventType), (1242281, 0))

    def test_update(self: Any) -> None:
        """
        A known order, booked or pending, is reused, with UPDATE.
        """
        self.submit()
        early = self.submit(order=1242281)
        self.book()
        late = self.submit(order=1242281)
        self.assertEqual((early.order, early.eventType), (1242281, 1))
        self.assertEqual((late.order, late.eventType), (1242281, 1))
        self.assertEqual(self.submit().order, 1242282)

    def test_nothingYet(self: Any) -> None:
        """
        The reservation comes before anything is published or durable.
        """
        durable = self.submit().whenDurable()
        self.assertEqual(self.published, [])
        self.assertNoResult(durable)
        self.book()
        self.assertIs(self.successResultOf(durable), None)

    def test_event(self: Any) -> None:
        """
        The event has the booked trade, and is marked with its operation.
        """
        reservation = self.submit()
        self.book()
        expected = Trade(
            1242281, 1001, 7, 3, 30000000000, "Promotion credit", NOW, NOW, NOW
        )
        self.assertEqual(self.published, [reservation])
        self.assertEqual((reservation.type, reservation.data), (0, expected))

    def test_givenTimes(self: Any) -> None:
        """
        Given times are kept, including 0.
        """
        operation = credit(openTime=0, closeTime=1700)
        self.successResultOf(maybeDeferred(self.runtime.submit, operation))
        self.book()
        data = self.published[0].data
        self.assertEqual((data.openTime, data.closeTime), (0, 1700))

    def test_bookingOrder(self: Any) -> None:
        """
        Events come in booking order, each once.
        """
        self.submit(1)
        self.submit(2, 1242281)
        self.submit(3)
        self.book()
        self.assertEqual(
            [(event.order, event.type, event.data.profit) for event in self.published],
            [(1242281, 0, 1), (1242281, 1, 2), (1242282, 0, 3)],
        )

    def test_eventFirst(self: Any) -> None:
        """
        The event is published before its operation is reported as durable.
        """
        seen: list[str] = []
        self.events.addObserver(lambda events: seen.append("event"))
        self.submit().whenDurable().addCallback(lambda _: seen.append("durable"))
        self.book()
        self.assertEqual(seen, ["event", "durable"])

    def test_reservation(self: Any) -> None:
        """
        The reservation has the trade as it will be booked, and is not a
        replay.
        """
        operation = credit()
        reservation = self.successResultOf(
            maybeDeferred(self.runtime.submit, operation)
        )
        self.assertIs(reservation.operation, operation)
        self.assertIs(reservation.isReplay, False)
        self.assertEqual(
            reservation.trade,
            Trade(1242281, 1001, 7, 3, 30000000000, "Promotion credit", NOW, NOW, NOW),
        )

    def test_delete(self: Any) -> None:
        """
        A deletion gives the trade the state 6, and DELETE.
        """
        self.submit()
        self.book()
        deletion = Deletion("DeleteCredit", 1242281, frozenset({7, 9}))
        reservation = self.successResultOf(maybeDeferred(self.runtime.submit, deletion))
        self.assertEqual((reservation.order, reservation.eventType), (1242281, 2))
        self.book()
        expected = Trade(
            1242281, 1001, 7, 6, 30000000000, "Promotion credit", NOW, NOW, NOW
        )
        self.assertEqual(self.published[1:], [reservation])
        self.assertEqual((reservation.type, reservation.data), (2, expected))
        self.assertIs(reservation.operation, deletion)

    def test_deleteUnknown(self: Any) -> None:
        """
        An unknown order can't be deleted.
        """
        deletion = Deletion("DeleteCredit", 42, frozenset({7, 9}))
        self.failureResultOf(maybeDeferred(self.runtime.submit, deletion), NotFound)

    def test_lookUp(self: Any) -> None:
        """
        A booked trade can be looked up; an unknown one is L{None}.
        """
        self.submit()
        self.book()
        self.assertEqual(
            self.successResultOf(self.runtime.trade(1242281)),
            Trade(1242281, 1001, 7, 3, 30000000000, "Promotion credit", NOW, NOW, NOW),
        )
        self.assertIs(self.successResultOf(self.runtime.trade(1242282)), None)

    def test_lookUpUnderWay(self: Any) -> None:
        """
        A pending trade has the state of a request: 10 new, 11 update, 12
        delete.
        """
        states = []
        for operation in (
            credit(),
            credit(1, 1242281),
            Deletion("DeleteCredit", 1242281, frozenset({7, 9})),
        ):
            self.successResultOf(maybeDeferred(self.runtime.submit, operation))
            states.append(self.successResultOf(self.runtime.trade(1242281)).state)
            self.book()
            states.append(self.successResultOf(self.runtime.trade(1242281)).state)
        self.assertEqual(states, [10, 3, 11, 3, 12, 6])

    def test_unknownKey(self: Any) -> None:
        """
        A key that nobody used has no order.
        """
        self.submit()
        self.book()
        self.assertIs(self.successResultOf(self.runtime.orderOf(7, "promo-1")), None)

    def test_notFailed(self: Any) -> None:
        """
        C{whenFailed} does not fire as long as the runtime works.
        """
        self.submit()
        self.book()
        self.assertNoResult(self.runtime.whenFailed())


class FakeTradingRuntimeTests(RuntimeBehaviour, SynchronousTestCase):
    """
    Tests for L{FakeTradingRuntime}.
    """

    def setUp(self) -> None:
        """
        Make a fake runtime.
        """
        self.events = TradeEvents()
        self.note()
        self.runtime = FakeTradingRuntime(self.events)

    def book(self) -> None:
        """
        Book everything that was submitted.
        """
        for reservation in list(self.runtime.reserved):
            self.runtime.book(reservation)

    def test_reserved(self) -> None:
        """
        Operations that were submitted and not booked can be listed, in order.
        """
        first, second = self.submit(), self.submit()
        self.assertEqual(self.runtime.reserved, [first, second])
        self.runtime.book(first)
        self.assertEqual(self.runtime.reserved, [second])

    def test_anyOrder(self) -> None:
        """
        The test chooses what is booked when, and at what time.
        """
        self.submit()
        self.runtime.now = 5
        second = self.submit()
        self.runtime.book(second)
        self.assertEqual(len(self.published), 1)
        self.assertEqual(self.published[0].order, 1242282)
        self.assertEqual(self.published[0].data.timestamp, 5)

    def test_firstOrder(self) -> None:
        """
        The first number can be chosen.
        """
        self.runtime = FakeTradingRuntime(self.events, nextOrder=7)
        self.assertEqual([self.submit().order, self.submit().order], [7, 8])

    def test_refusal(self) -> None:
        """
        The fake refuses with the error that the test has set, as long as it is
        set; nothing is submitted then.
        """
        why = NoMoney("account 1001 does not have enough credit")
        self.runtime.refusal = why
        refused = maybeDeferred(self.runtime.submit, credit())
        self.assertIs(self.failureResultOf(refused, NoMoney).value, why)
        self.assertEqual(self.runtime.reserved, [])
        self.runtime.refusal = None
        self.assertEqual(self.submit().order, 1242281)

    def test_fail(self) -> None:
        """
        The fake fails when the test says so.
        """
        why = OSError("EIO")
        failed = self.runtime.whenFailed()
        self.runtime.fail(why)
        self.assertIs(self.failureResultOf(failed, OSError).value, why)


class RealTradingRuntimeTests(RuntimeBehaviour, SynchronousTestCase):
    """
    Tests that the embedded runtime does what the fake one does.
    """

    def setUp(self) -> None:
        """
        Start a runtime on a ledger in memory.
        """
        self.clock = Clock()
        self.events = TradeEvents()
        self.note()
        self.runtime = TradingRuntime(
            self.clock,
            MemoryLedger(nextOrder=1242281),
            self.events,
            now=lambda: NOW,
            maxQueued=10,
        )
        self.runtime.startService()

    def tearDown(self) -> None:
        """
        Nothing stays scheduled.
        """
        self.successResultOf(self.runtime.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def book(self) -> None:
        """
        Book everything that was submitted.
        """
        self.clock.advance(0)


class HeldLedgerTests(SynchronousTestCase):
    """
    Tests for L{HeldLedger}.
    """

    def setUp(self) -> None:
        """
        Open a ledger that has assigned its first three orders.
        """
        self.memory = MemoryLedger()
        self.ledger = HeldLedger(self.memory)
        self.ledger.open()
        self.assertEqual([self.ledger.newOrder() for _ in range(3)], [1, 2, 3])

    def trade(self, order: int) -> Trade:
        """
        A credit of one unit.
        """
        return Trade(order, 1001, 7, 3, 1, "", 1, 2, 3)

    def reservation(self, order: int, key: str | None = None) -> Reservation:
        """
        The reservation for that credit.
        """
        operation = Operation("CreditIn", 7, 1001, 1, "", principal=7, key=key)
        return Reservation(0, self.trade(order), operation)

    def test_interface(self) -> None:
        """
        L{HeldLedger} provides the whole interface.
        """
        verifyObject(ILedger, self.ledger)

    def test_byItself(self) -> None:
        """
        Without another ledger it keeps its data in memory.
        """
        self.assertEqual(HeldLedger().newOrder(), 1)

    def test_held(self) -> None:
        """
        A commit neither ends nor is visible before it is released.
        """
        done = self.ledger.commit(withTotals(self.ledger, [self.reservation(1)]))
        self.assertNoResult(done)
        self.assertIs(self.ledger.trade(1), None)
        self.assertIs(self.ledger.account(1001), None)
        self.ledger.release()
        self.assertIs(self.successResultOf(done), None)
        self.assertEqual(self.ledger.trade(1), self.trade(1))
        self.assertEqual(self.ledger.account(1001), Account(1001, 0, 1))
        self.assertEqual(self.ledger.commits, [])

    def test_oldestFirst(self) -> None:
        """
        Pending commits can be listed, and are released oldest first.
        """
        first = self.ledger.commit(
            withTotals(self.ledger, [self.reservation(1), self.reservation(2)])
        )
        second = self.ledger.commit(withTotals(self.ledger, [self.reservation(3)]))
        self.assertEqual(
            [[each.order for each in batch] for batch, _ in self.ledger.commits],
            [[1, 2], [3]],
        )
        self.ledger.release()
        self.successResultOf(first)
        self.assertNoResult(second)

    def test_fail(self) -> None:
        """
        A commit that fails has written nothing to this fake.
        """
        why = OSError("EIO")
        done = self.ledger.commit(withTotals(self.ledger, [self.reservation(1)]))
        self.ledger.fail(why)
        self.assertIs(self.failureResultOf(done, OSError).value, why)
        self.assertIs(self.ledger.trade(1), None)
        self.assertEqual(self.ledger.commits, [])

    def test_asItWas(self) -> None:
        """
        A later change of the caller's sequence does not change the commit.
        """
        reservations = [self.reservation(1)]
        self.ledger.commit(withTotals(self.ledger, reservations))
        reservations.append(self.reservation(2))
        self.ledger.release()
        self.assertIs(self.ledger.trade(2), None)

    def test_key(self) -> None:
        """
        A key is not known before its commit is released.
        """
        self.ledger.commit(withTotals(self.ledger, [self.reservation(1, "promo-1")]))
        self.assertIs(self.ledger.replay(7, "promo-1"), None)
        self.ledger.release()
        replay = self.ledger.replay(7, "promo-1")
        self.assertEqual((replay.order, replay.isReplay), (1, True))

    def test_close(self) -> None:
        """
        The ledger can be closed.
        """
        self.ledger.close()
