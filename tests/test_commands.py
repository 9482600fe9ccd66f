"""
Tests for L{creditsync.commands}.
"""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from creditsync.commands import HealthCheck, Subscription
from creditsync.errors import NotFound
from creditsync.interfaces import ICommand
from creditsync.records import Deferral, Operation, Request, TradeEvent
from creditsync.waiters import Waiters

EVERY_ROLE = {0, 1, 2, 3, 4, 5}


def request(name: str, **data: Any) -> Request:
    """
    A request whose data has passed its schema.
    """
    return Request(name, "1", "manager", data)


class HealthCheckTests(SynchronousTestCase):
    """
    Tests for L{HealthCheck}.
    """

    def setUp(self) -> None:
        """
        Make it 1000 seconds after the clock's beginning.
        """
        self.clock = Clock()
        self.clock.advance(1000)
        self.waiters = Waiters(self.clock, 60.0)
        self.healthCheck = HealthCheck(self.clock, self.waiters)

    def execute(self) -> Any:
        """
        Execute it.
        """
        return self.healthCheck.execute(object(), request("HealthCheck"))  # type: ignore[arg-type]

    def test_interface(self) -> None:
        """
        It provides the whole interface.
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
        It tells that the server works, the version, and how much waits.
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
        Replies that wait for an event or for a commit are counted, as long as
        they wait.
        """
        operation = Operation(7, 1001, 1, "")
        durable: Deferred[None] = Deferred()
        self.waiters.wait(Deferral(1, 0, operation), "1", object())
        self.waiters.wait(Deferral(1, 0, operation, durable), "2", object())
        self.assertEqual(self.execute()["pending"], 2)
        self.waiters.match(TradeEvent(0, {"order": 1}, operation), b"")
        self.assertEqual(self.execute()["pending"], 1)
        durable.callback(None)
        self.assertEqual(self.execute()["pending"], 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class SubscriberSession:
    """
    A session, as far as a subscription is concerned.
    """

    def __init__(self) -> None:
        self.calls: list[bool] = []

    def subscribe(self, subscribed: bool) -> None:
        """
        Note it.
        """
        self.calls.append(subscribed)


class SubscriptionTests(SynchronousTestCase):
    """
    Tests for L{Subscription}.
    """

    def setUp(self) -> None:
        """
        Make both commands.
        """
        self.session: Any = SubscriberSession()
        self.on = Subscription("Subscribe", True)
        self.off = Subscription("Unsubscribe", False)

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
        C{Subscribe} lets the session receive events, and tells the channels.
        """
        response = self.on.execute(
            self.session, request("Subscribe", chanels=["trade:event"])
        )
        self.assertEqual(response, {"chanels": ["trade:event"]})
        self.assertEqual(self.session.calls, [True])

    def test_unsubscribe(self) -> None:
        """
        C{Unsubscribe} stops it.
        """
        response = self.off.execute(
            self.session, request("Unsubscribe", chanels=["trade:event"])
        )
        self.assertEqual(response, {"chanels": ["trade:event"]})
        self.assertEqual(self.session.calls, [False])

    def test_unknownChannel(self) -> None:
        """
        An unknown channel is 404, and nothing has changed, not even for a
        known one beside it.
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
