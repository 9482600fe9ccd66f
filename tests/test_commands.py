"""
Tests for L{creditsync._conversation.commands}.
"""

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from creditsync._conversation.broadcast import Broadcast
from creditsync._conversation.commands import (
    GetOperation,
    HealthCheck,
    SetAccountGroup,
    Subscription,
)
from creditsync._conversation.waiter import Waiter
from creditsync._conversation.waiters import Waiters
from creditsync.errors import NotFound
from creditsync.interfaces import ICommand
from creditsync.records import (
    Operation,
    Principal,
    Request,
    Reservation,
    Trade,
    TradeEvent,
)
from creditsync.testing import FakeAuthenticator

EVERY_ROLE = {0, 1, 2, 3, 4, 5, 9, 10, 11}


def request(name: str, **data: Any) -> Request:
    """
    A request whose data has been validated.
    """
    return Request(name, "1", "manager", data)


def withoutPlaces() -> Broadcast:
    """
    A broadcast of a trading runtime that has no journal.
    """
    return Broadcast(FakeAuthenticator(), Waiters(Clock(), 5.0))


class Session:
    """
    A session, as far as a waiter needs one.
    """

    def waitEnded(self, waiter: Any, data: bytes | None) -> None:
        """
        See L{ISession.waitEnded}.
        """


class HealthCheckTests(SynchronousTestCase):
    """
    Tests for L{HealthCheck}.
    """

    def setUp(self) -> None:
        """
        Make the command 1000 seconds after the clock's beginning.
        """
        self.clock = Clock()
        self.clock.advance(1000)
        self.waiters = Waiters(self.clock, 60.0)
        self.healthCheck = HealthCheck(
            self.clock, self.waiters, Broadcast(FakeAuthenticator(), self.waiters)
        )

    def execute(self) -> Any:
        """
        Execute it.
        """
        return self.healthCheck.execute(object(), request("HealthCheck"))  # type: ignore[arg-type]

    def test_interface(self) -> None:
        """
        L{HealthCheck} provides the whole interface.
        """
        verifyObject(ICommand, self.healthCheck)

    def test_attributes(self) -> None:
        """
        Every role may use it, with or without an C{extID}.
        """
        self.assertEqual(self.healthCheck.name, "HealthCheck")
        self.assertEqual(self.healthCheck.schema, "health_check")
        self.assertEqual(self.healthCheck.roles, EVERY_ROLE)
        self.assertIs(self.healthCheck.needsExtID, False)

    def test_response(self) -> None:
        """
        The response has the status of the server, its version, and the number
        of pending requests.
        """
        self.patch(__import__("creditsync"), "__version__", "1.2.3")
        self.assertEqual(
            self.execute(),
            {"status": "ok", "version": "1.2.3", "uptime": 0, "pending": 0},
        )

    def test_uptime(self) -> None:
        """
        The uptime is in whole seconds since the start.
        """
        self.clock.advance(61.75)
        self.assertEqual(self.execute()["uptime"], 61)
        self.assertIs(type(self.execute()["uptime"]), int)

    def test_pending(self) -> None:
        """
        Requests that wait for an event or for a commit are counted while they
        wait.
        """
        operation = Operation("CreditInSync", 7, 1001, 1, "")
        reservation = Reservation(0, Trade(1, 1001, 7, 3, 1, "", 0, 0, 0), operation)
        session = Session()
        forEvent = Waiter("1", session, "CreditInSync", 1000, reservation)
        forCommit = Waiter("2", session, "CreditIn", 1000, reservation, {"order": 1})
        self.waiters.add(forEvent)
        self.waiters.add(forCommit)
        self.assertEqual(self.execute()["pending"], 2)
        self.waiters.match([TradeEvent(0, {"order": 1}, operation)], [b""])
        self.assertEqual(self.execute()["pending"], 1)
        reservation.booked()
        self.assertEqual(self.execute()["pending"], 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class KnowingRuntime:
    """
    A runtime, as far as L{GetOperation} needs one.

    @ivar asked: The look-ups, in order.
    """

    def __init__(self) -> None:
        self.trades: dict[int, Any] = {}
        self.orders: dict[tuple[int, str], int] = {}
        self.asked: list[object] = []

    def trade(self, order: int) -> Any:
        """
        See L{ITradingRuntime.trade}.
        """
        self.asked.append(order)
        return succeed(self.trades.get(order))

    def orderOf(self, principal: int, key: str) -> Any:
        """
        See L{ITradingRuntime.orderOf}.
        """
        self.asked.append((principal, key))
        return succeed(self.orders.get((principal, key)))


class GroupingRuntime:
    """
    A runtime that notes where accounts are moved.
    """

    def __init__(self) -> None:
        self.moved: list[tuple[int, str]] = []
        self.done: Deferred[None] = Deferred()

    def setGroup(self, login: int, group: str) -> "Deferred[None]":
        """
        See L{IAccountGroups.setGroup}.
        """
        self.moved.append((login, group))
        return self.done


class SetAccountGroupTests(SynchronousTestCase):
    """
    Tests for L{SetAccountGroup}.
    """

    def setUp(self) -> None:
        """
        Make the command.
        """
        self.runtime: Any = GroupingRuntime()
        self.command = SetAccountGroup(self.runtime)

    def test_interface(self) -> None:
        """
        L{SetAccountGroup} provides the whole interface.
        """
        verifyObject(ICommand, self.command)

    def test_attributes(self) -> None:
        """
        Only admins may use it, with or without an C{extID}.
        """
        self.assertEqual(self.command.name, "MngSetAccountGroup")
        self.assertEqual(self.command.schema, "set_account_group")
        self.assertEqual(self.command.roles, {3})
        self.assertIs(self.command.needsExtID, False)

    def test_moves(self) -> None:
        """
        The reply is the data of the request, once the runtime has moved the account,
        and the log says who asked for it.
        """
        said: list[str] = []

        def observe(event: Any) -> None:
            said.append(formatEvent(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        session: Any = AskingSession()
        asked = request("MngSetAccountGroup", login=1001.0, group="real")
        response = self.command.execute(session, asked)
        self.assertEqual(self.runtime.moved, [(1001, "real")])
        self.assertIs(type(self.runtime.moved[0][0]), int)
        self.assertNoResult(response)
        self.runtime.done.callback(None)
        self.assertEqual(
            self.successResultOf(response), {"login": 1001, "group": "real"}
        )
        self.assertIn("principal 7 has moved account 1001 to group 'real'", said)


class AskingSession:
    """
    A session, as far as L{GetOperation} needs one.
    """

    principal = Principal(7, 1, float("inf"))


class GetOperationTests(SynchronousTestCase):
    """
    Tests for L{GetOperation}.
    """

    def setUp(self) -> None:
        """
        Make the command with a runtime that knows order 5.
        """
        self.trade = Trade(5, 1001, 7, 3, 1, "Promotion credit", 1, 2, 3)
        self.runtime: Any = KnowingRuntime()
        self.runtime.trades[5] = self.trade
        self.command = GetOperation(self.runtime, withoutPlaces())

    def execute(self, **data: Any) -> Any:
        """
        Execute it.
        """
        session: Any = AskingSession()
        return self.command.execute(session, request("GetOperation", **data))

    def test_interface(self) -> None:
        """
        L{GetOperation} provides the whole interface.
        """
        verifyObject(ICommand, self.command)

    def test_attributes(self) -> None:
        """
        Manager, dealer and admin may use it, with or without an C{extID}.
        """
        self.assertEqual(self.command.name, "GetOperation")
        self.assertEqual(self.command.schema, "get_operation")
        self.assertEqual(self.command.roles, {1, 2, 3})
        self.assertIs(self.command.needsExtID, False)

    def test_order(self) -> None:
        """
        The trade is returned as the runtime has it.
        """
        self.assertIs(self.successResultOf(self.execute(order=5)), self.trade)

    def test_wholeFloat(self) -> None:
        """
        C{5.0} is an integer, as JSON Schema has it.
        """
        self.successResultOf(self.execute(order=5.0))
        self.assertEqual([type(each) for each in self.runtime.asked], [int])

    def test_foreignTrade(self) -> None:
        """
        The record of a foreign runtime is returned unchanged.
        """
        self.runtime.trades[6] = {"order": 6, "magic": 17}
        self.assertEqual(
            self.successResultOf(self.execute(order=6)), {"order": 6, "magic": 17}
        )

    def test_key(self) -> None:
        """
        A key is looked up for the requesting principal, and then its order.
        """
        self.runtime.orders[7, "promo-1"] = 5
        told = self.successResultOf(self.execute(idempotencyKey="promo-1"))
        self.assertIs(told, self.trade)
        self.assertEqual(self.runtime.asked, [(7, "promo-1"), 5])

    def test_noOrder(self) -> None:
        """
        An unknown order is 404.
        """
        why = self.failureResultOf(self.execute(order=42), NotFound).value
        self.assertEqual((why.status, why.error), (404, "NOT_FOUND"))
        self.assertEqual(why.message, "there is no order 42")

    def test_noKey(self) -> None:
        """
        A key that this principal did not use is 404, and no order is looked
        up.
        """
        self.runtime.orders[8, "promo-1"] = 5
        why = self.failureResultOf(self.execute(idempotencyKey="promo-1"), NotFound)
        self.assertIn("data.idempotencyKey", why.value.message)
        self.assertEqual(self.runtime.asked, [(7, "promo-1")])

    def test_later(self) -> None:
        """
        A runtime may answer a look-up later.
        """
        later: Deferred[Trade] = Deferred()
        self.runtime.trade = lambda order: later
        response = self.execute(order=5)
        self.assertNoResult(response)
        later.callback(self.trade)
        self.assertIs(self.successResultOf(response), self.trade)


class SubscriberSession:
    """
    A session, as far as a subscription needs one.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[bool, int | None]] = []

    def subscribe(self, subscribed: bool, after: int | None = None) -> None:
        """
        Record it.
        """
        self.calls.append((subscribed, after))


class SubscriptionTests(SynchronousTestCase):
    """
    Tests for L{Subscription}.
    """

    def setUp(self) -> None:
        """
        Make both commands.
        """
        self.session: Any = SubscriberSession()
        self.on = Subscription("Subscribe", True, withoutPlaces())
        self.off = Subscription("Unsubscribe", False, withoutPlaces())

    def test_interface(self) -> None:
        """
        Both provide the whole interface.
        """
        verifyObject(ICommand, self.on)
        verifyObject(ICommand, self.off)

    def test_attributes(self) -> None:
        """
        Every role may use both, with or without an C{extID}.
        """
        self.assertEqual([self.on.name, self.off.name], ["Subscribe", "Unsubscribe"])
        for command in (self.on, self.off):
            self.assertEqual(command.schema, "subscribe")
            self.assertEqual(command.roles, EVERY_ROLE)
            self.assertIs(command.needsExtID, False)

    def test_subscribe(self) -> None:
        """
        C{Subscribe} turns the session's events on, and returns the channels.
        """
        response = self.on.execute(
            self.session, request("Subscribe", chanels=["trade:event"])
        )
        self.assertEqual(response, {"chanels": ["trade:event"]})
        self.assertEqual(self.session.calls, [(True, None)])

    def test_unsubscribe(self) -> None:
        """
        C{Unsubscribe} turns the session's events off.
        """
        response = self.off.execute(
            self.session, request("Unsubscribe", chanels=["trade:event"])
        )
        self.assertEqual(response, {"chanels": ["trade:event"]})
        self.assertEqual(self.session.calls, [(False, None)])

    def test_unknownChannel(self) -> None:
        """
        An unknown channel is 404 and changes nothing, even beside a known one.
        """
        for channels in (["quotes"], ["trade:event", "quotes"], ["Trade:Event"]):
            why = self.assertRaises(
                NotFound,
                self.off.execute,
                self.session,
                request("Unsubscribe", chanels=channels),
            )
            self.assertEqual((why.status, why.error), (404, "NOT_FOUND"))
            self.assertEqual(
                why.message,
                "data.chanels names an unknown channel, there is trade:event",
            )
        self.assertEqual(self.session.calls, [])
