"""
Tests for L{creditsync._conversation.session}.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from attrs import Factory, define
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from creditsync import _wire as wire
from creditsync._conversation.broadcast import Broadcast
from creditsync._conversation.commands import GetOperation, HealthCheck, Subscription
from creditsync._conversation.finance import financeCommands
from creditsync._conversation.session import Session
from creditsync._conversation.sessions import Sessions
from creditsync._conversation.waiters import Waiters
from creditsync.codes import ALL_SESSIONS
from creditsync.errors import IncorrectOrder, LedgerProblem, Refusal
from creditsync.events import TradeEvents
from creditsync.interfaces import (
    IAuthenticator,
    ICommand,
    ISession,
    ITradeEvents,
    ITradingRuntime,
)
from creditsync.records import (
    Deletion,
    Limits,
    Operation,
    Principal,
    Request,
    Reservation,
    Trade,
    TradeEvent,
)
from creditsync.runtime import TradingRuntime
from creditsync.testing import FakeAuthenticator, FakeTradingRuntime, HeldLedger
from creditsync.validation import Schemas

SCHEMAS = Schemas()
DATA = {"login": 1001, "amount": 300.0, "comment": "Promotion credit"}

# The request of docs/protocol.rst, "A credit".
SEED_REQUEST = (
    b'{"command":"CreditInSync","extID":"credit-req-1001","__token":"manager",'
    b'"data":{"login":1001,"amount":300.0,"comment":"Promotion credit"}}'
)
# The data of its event and of its reply, with all the members of docs/protocol.rst,
# "Trade events".
SEED_DATA = (
    b'{"order":1242281,"login":1001,"cmd":7,"state":3,"profit":300.0,'
    b'"comment":"Promotion credit","symbol":"","volume":0,"open_price":0.0,'
    b'"close_price":0.0,"open_time":1767225600,"close_time":1767225600,"sl":0.0,'
    b'"tp":0.0,"storage":0.0,"commission":0.0,"reason":7,"timestamp":1767225600}'
)
SEED_REPLY = b'{"extID":"credit-req-1001","status":200,"data":' + SEED_DATA + b"}\r\n"
SEED_EVENT = b'{"event":"trade:event","type":0,"data":' + SEED_DATA + b"}\r\n"


@define(eq=False)
class Client:
    """
    One client, with what it sends and receives.

    @ivar heard: The lines that were sent to it, unparsed.
    """

    sessions: Sessions
    heard: list[bytes] = Factory(list)
    session: Session = Factory(
        lambda self: self.sessions.open(self.heard.append), takes_self=True
    )

    def says(self, line: bytes) -> None:
        """
        Send one line.
        """
        self.session.lineReceived(line)

    def asks(
        self,
        command: str = "CreditInSync",
        extID: object = "a",
        data: object = DATA,
        token: str | None = "manager",
        **others: object,
    ) -> None:
        """
        Send one command; an C{extID} or a token of L{None} is left out.
        """
        members = {"command": command, "data": data, **others}
        if extID is not None:
            members["extID"] = extID
        if token is not None:
            members["__token"] = token
        self.says(json.dumps(members).encode())

    def hears(self) -> list[Any]:
        """
        Take the lines received since the last call, each decoded.
        """
        lines = b"".join(self.heard).split(b"\r\n")
        self.heard.clear()
        assert lines.pop() == b""
        return [json.loads(line) for line in lines]

    def replies(self) -> list[Any]:
        """
        Take the replies among the received lines, and drop the events.
        """
        return [line for line in self.hears() if "event" not in line]

    def outcomes(self) -> list[tuple[Any, int, str | None]]:
        """
        Take the replies, each as its extID, status and error.
        """
        return [
            (reply.get("extID"), reply["status"], reply.get("error"))
            for reply in self.replies()
        ]


def credit(order: int) -> Trade:
    """
    A booked credit for this order.
    """
    return Trade(order, 1001, 7, 3, 300_00000000, "x", 0, 0, 1767225600)


@implementer(ITradingRuntime)
@define(eq=False)
class SlowRuntime:
    """
    A runtime that reserves and looks up when the test tells it to.

    @ivar asked: The Deferred of each submission, in order.
    @ivar sought: The Deferred of each look-up, with the order or the key that
        is looked up.
    """

    asked: "list[tuple[Operation | Deletion, Deferred[Reservation]]]" = Factory(list)
    sought: "list[tuple[object, Deferred[Any]]]" = Factory(list)

    def submit(self, operation: Operation | Deletion) -> "Deferred[Reservation]":
        """
        See L{ITradingRuntime.submit}.
        """
        answer: Deferred[Reservation] = Deferred()
        self.asked.append((operation, answer))
        return answer

    def trade(self, order: int) -> "Deferred[Trade | Mapping[str, Any] | None]":
        """
        See L{ITradingRuntime.trade}.
        """
        return self._seek(order)

    def orderOf(self, principal: int, key: str) -> "Deferred[int | None]":
        """
        See L{ITradingRuntime.orderOf}.
        """
        return self._seek((principal, key))

    def _seek(self, what: object) -> "Deferred[Any]":
        answer: Deferred[Any] = Deferred()
        self.sought.append((what, answer))
        return answer

    def whenFailed(self) -> "Deferred[None]":
        """
        See L{ITradingRuntime.whenFailed}.
        """
        return Deferred()

    def reserve(self, order: int, isReplay: bool = False) -> Reservation:
        """
        Give the oldest submission an order.
        """
        operation, answer = self.asked.pop(0)
        reservation = Reservation(0, credit(order), operation, isReplay=isReplay)
        answer.callback(reservation)
        return reservation

    def find(self, expected: object, found: object) -> None:
        """
        Answer the oldest look-up, which must be for this order or key.
        """
        what, answer = self.sought.pop(0)
        assert what == expected, what
        answer.callback(found)


@implementer(ICommand)
@define
class Scripted:
    """
    A command that does what the test tells it to.
    """

    response: Any
    name: str = "Scripted"
    schema: str = "health_check"
    roles: frozenset[int] = ALL_SESSIONS
    needsExtID: bool = False
    isReadOnly: bool = False

    def execute(self, session: ISession, request: Request) -> Any:
        """
        See L{ICommand.execute}.
        """
        if isinstance(self.response, Exception):
            raise self.response
        return self.response


class SessionTestCase(SynchronousTestCase):
    """
    Sessions of one server, without connections.
    """

    def setUp(self) -> None:
        """
        Assemble the sessions on fakes.
        """
        self.clock = Clock()
        self.authenticator = FakeAuthenticator()
        self.events: ITradeEvents = TradeEvents()
        self.runtime = FakeTradingRuntime(self.events)
        self.serve(self.runtime)

    def serve(
        self,
        runtime: ITradingRuntime,
        *commands: ICommand,
        limits: Limits | None = None,
        schemas: Schemas = SCHEMAS,
        authenticator: IAuthenticator | None = None,
        isExtIDIdempotent: bool = False,
    ) -> None:
        """
        Make the sessions of a server on this runtime.
        """
        self.waiters = Waiters(self.clock, 5.0)
        authenticator = authenticator or self.authenticator
        broadcast = Broadcast(authenticator, self.waiters)
        self.sessions = Sessions(
            commands=[
                *financeCommands(runtime, isExtIDIdempotent),
                GetOperation(runtime, broadcast),
                HealthCheck(self.clock, self.waiters, broadcast),
                Subscription("Subscribe", True, broadcast),
                Subscription("Unsubscribe", False, broadcast),
                *commands,
            ],
            authenticator=authenticator,
            schemas=schemas,
            waiters=self.waiters,
            broadcast=broadcast,
            limits=limits or Limits(),
        )
        self.events.addObserver(self.sessions.broadcast.tradeEvents)

    def client(self) -> Client:
        """
        Start a session.
        """
        return Client(self.sessions)

    def bookAll(self) -> None:
        """
        Book every submitted operation, oldest first.
        """
        for reservation in list(self.runtime.reserved):
            self.runtime.book(reservation)

    def publish(self, type: int, data: Mapping[str, Any]) -> None:
        """
        Publish an event without an operation, as a runtime does that does not
        mark its events.
        """
        self.events.publish([TradeEvent(type, data)])

    def assertAtRest(self) -> None:
        """
        Assert that no request is pending and no delayed call is left.
        """
        self.assertEqual(self.sessions.pending, 0)
        self.assertEqual(len(self.waiters), 0)
        self.assertEqual(self.waiters._crowds, {})
        self.assertEqual(self.clock.getDelayedCalls(), [])


class CreditInSyncTests(SessionTestCase):
    """
    C{CreditInSync}, as C{docs/protocol.rst}, "Runtime flow", describes it.
    """

    def test_interface(self) -> None:
        """
        A session provides the interface that commands and the other modules
        rely on.
        """
        verifyObject(ISession, self.client().session)

    def test_nothingBeforeTheEvent(self) -> None:
        """
        No intermediate response is sent: the request stays open.
        """
        client = self.client()
        client.says(SEED_REQUEST)
        self.assertEqual(client.heard, [])
        self.assertFalse(client.session.isIdle)

    def test_seedExample(self) -> None:
        """
        The client of the request in C{docs/protocol.rst}, "A credit", receives
        the event's line and then the reply.
        """
        client = self.client()
        client.says(SEED_REQUEST)
        self.bookAll()
        self.assertEqual(client.heard, [SEED_EVENT, SEED_REPLY])
        self.assertTrue(client.session.isIdle)
        self.assertAtRest()

    def test_operation(self) -> None:
        """
        The operation submitted to the runtime has the values of the request,
        with amounts in units.
        """
        self.client().says(SEED_REQUEST)
        [reservation] = self.runtime.reserved
        operation = reservation.operation
        assert isinstance(operation, Operation)
        self.assertEqual(
            (operation.cmd, operation.login, operation.amount, operation.comment),
            (7, 1001, 30000000000, "Promotion credit"),
        )
        self.assertEqual(
            (operation.order, operation.openTime, operation.closeTime), (0, None, None)
        )

    def test_updateAnswersTheUpdate(self) -> None:
        """
        A request for an existing order is answered by the UPDATE event.
        """
        client = self.client()
        client.says(SEED_REQUEST)
        self.bookAll()
        client.hears()
        client.asks(data={**DATA, "amount": 5, "order": 1242281})
        self.publish(0, {"order": 1242281})
        self.assertEqual(client.replies(), [])
        self.bookAll()
        [event, reply] = client.hears()
        self.assertEqual(event["type"], 1)
        self.assertEqual(reply["data"]["order"], 1242281)
        self.assertEqual(reply["data"]["profit"], 5.0)

    def test_anotherOrderAnswersNobody(self) -> None:
        """
        An event for another order answers no request.
        """
        client = self.client()
        client.asks()
        self.publish(0, {"order": 1242282})
        self.assertEqual(client.replies(), [])

    def test_anotherTypeAnswersNobody(self) -> None:
        """
        An event of another type for the same order answers no request.
        """
        client = self.client()
        client.asks()
        self.publish(1, {"order": 1242281})
        self.publish(2, {"order": 1242281})
        self.assertEqual(client.replies(), [])

    def test_timeout(self) -> None:
        """
        A request whose event does not come is answered with a 504 after 5000
        ms, and the reply has the order.
        """
        client = self.client()
        client.asks()
        self.clock.advance(4.999)
        self.assertEqual(client.heard, [])
        self.clock.advance(0.001)
        self.assertEqual(
            client.hears(),
            [
                {
                    "extID": "a",
                    "status": 504,
                    "error": "SYNC_TIMEOUT",
                    "message": "no answer within 5000 ms: the outcome of order"
                    " 1242281 is unknown, it may still be booked; ask with"
                    " GetOperation, or repeat the request under its idempotencyKey",
                    "data": {"order": 1242281},
                }
            ],
        )
        self.assertAtRest()

    def test_lateEventAnswersNobody(self) -> None:
        """
        An event that comes after the 504 is broadcast, and no second reply is
        sent under that extID.
        """
        client = self.client()
        client.asks()
        self.clock.advance(5)
        client.hears()
        self.bookAll()
        [event] = client.hears()
        self.assertEqual(event["event"], "trade:event")

    def test_lateEventAnswersNobodyElse(self) -> None:
        """
        The event of a request that timed out does not answer a later request
        with the same extID.
        """
        client = self.client()
        client.asks()
        self.clock.advance(5)
        client.hears()
        client.asks()
        late, current = self.runtime.reserved
        self.runtime.book(late)
        self.assertEqual(client.replies(), [])
        self.runtime.book(current)
        [reply] = client.replies()
        self.assertEqual(reply["data"]["order"], 1242282)

    def test_extIDIsFreeAgain(self) -> None:
        """
        An extID may be used again once its request was answered.
        """
        client = self.client()
        for _ in range(2):
            client.asks()
            self.bookAll()
            self.assertEqual(client.outcomes(), [("a", 200, None)])

    def test_deferredIsNeverSent(self) -> None:
        """
        A Deferred response is never sent to the client, by either form of a
        command.
        """
        client = self.client()
        client.asks("CreditInSync", "a")
        client.asks("CreditIn", "b")
        self.bookAll()
        self.assertNotIn(b"deferred", b"".join(client.heard))

    def test_roles(self) -> None:
        """
        Managers, admins and dealers may use C{CreditInSync}, users may not.
        """
        client = self.client()
        for token in ("manager", "admin", "dealer", "user"):
            client.asks(extID=token, token=token)
        self.bookAll()
        self.assertEqual(
            client.outcomes(),
            [
                ("user", 403, "FORBIDDEN"),
                ("manager", 200, None),
                ("admin", 200, None),
                ("dealer", 200, None),
            ],
        )

    def test_claimedAccessIsIgnored(self) -> None:
        """
        Only the token decides what a session may do; an access level that the
        client claims is ignored.
        """
        client = self.client()
        client.asks(token="user", data={**DATA, "__access": 3})
        self.assertEqual(client.outcomes(), [("a", 403, "FORBIDDEN")])

    def test_unknownMembersAreIgnored(self) -> None:
        """
        Unknown top-level members are ignored: older clients send C{from}.
        """
        client = self.client()
        client.asks(**{"from": "crm"})
        self.bookAll()
        self.assertEqual(client.outcomes(), [("a", 200, None)])

    def test_exactAmount(self) -> None:
        """
        An amount that no double represents exactly is returned digit by digit.
        """
        client = self.client()
        client.says(
            b'{"command":"CreditInSync","extID":1,"__token":"manager","data":'
            b'{"login":1,"amount":9999999999.99999999,"comment":"x"}}'
        )
        self.bookAll()
        self.assertIn(b'"profit":9999999999.99999999,', client.heard[-1])

    def test_refusedByTheRuntime(self) -> None:
        """
        A refusal by the runtime is the reply, and no request stays pending.
        """
        self.runtime.refusal = IncorrectOrder("order 5 does not belong to login 1001")
        client = self.client()
        client.asks()
        self.assertEqual(
            client.hears(),
            [
                {
                    "extID": "a",
                    "status": 409,
                    "error": "INCORRECT_ORDER",
                    "message": "order 5 does not belong to login 1001",
                }
            ],
        )
        self.assertAtRest()


class CreditInTests(SessionTestCase):
    """
    The asynchronous form.
    """

    def test_acceptedOnceDurable(self) -> None:
        """
        C{CreditIn} is answered with the accepted command once its operation is
        durable.
        """
        client = self.client()
        client.asks("CreditIn", 5)
        self.assertEqual(client.heard, [])
        self.bookAll()
        self.assertEqual(
            client.heard[-1],
            b'{"extID":5,"status":200,"data":{"accepted":true,"order":1242281,'
            b'"state":10,"login":1001,"cmd":7,"amount":300.0}}\r\n',
        )
        self.assertAtRest()

    def test_update(self) -> None:
        """
        For an existing order, the accepted command has the state of an update
        request.
        """
        client = self.client()
        client.asks("CreditIn", 1)
        self.bookAll()
        client.hears()
        client.asks("CreditIn", 2, {**DATA, "order": 1242281})
        self.bookAll()
        [reply] = client.replies()
        self.assertEqual(reply["data"]["state"], 11)

    def test_withoutExtID(self) -> None:
        """
        A C{CreditIn} without an extID is answered without one.
        """
        client = self.client()
        client.asks("CreditIn", None)
        client.asks("CreditIn", None)
        self.bookAll()
        first, second = client.replies()
        self.assertNotIn("extID", first)
        self.assertEqual(
            [first["data"]["order"], second["data"]["order"]], [1242281, 1242282]
        )

    def test_timeout(self) -> None:
        """
        A C{CreditIn} that is not known to be durable in time is answered with a
        504.
        """
        client = self.client()
        client.asks("CreditIn", 1)
        self.clock.advance(5)
        [reply] = client.hears()
        self.assertEqual((reply["status"], reply["data"]), (504, {"order": 1242281}))
        self.bookAll()
        self.assertEqual(client.replies(), [])
        self.assertAtRest()


class MatchingTests(SessionTestCase):
    """
    Each event answers the request that caused it.
    """

    def test_oneReplyForTheOneWhoAsked(self) -> None:
        """
        Every session receives the event, and only the requester receives the
        reply.
        """
        asking, listening = self.client(), self.client()
        listening.asks("HealthCheck", None, {})
        listening.hears()
        asking.says(SEED_REQUEST)
        self.bookAll()
        self.assertEqual(asking.heard, [SEED_EVENT, SEED_REPLY])
        self.assertEqual(listening.heard, [SEED_EVENT])

    def test_sameOrderTwoSessions(self) -> None:
        """
        Two sessions with pending requests for one order each receive the reply
        for their own operation, in whatever order the events are published.
        """
        first, second = self.client(), self.client()
        first.asks()
        self.bookAll()
        first.hears()
        first.asks(data={**DATA, "amount": 1, "order": 1242281})
        second.asks(data={**DATA, "amount": 2, "order": 1242281})
        older, newer = self.runtime.reserved
        self.runtime.book(newer)
        self.assertEqual(first.replies(), [])
        [reply] = second.replies()
        self.assertEqual(reply["data"]["profit"], 2.0)
        self.runtime.book(older)
        [reply] = first.replies()
        self.assertEqual(reply["data"]["profit"], 1.0)
        self.assertEqual(second.replies(), [])
        self.assertAtRest()

    def test_sameOrderSameSession(self) -> None:
        """
        Two requests of one session for one order are each answered by the event
        of their own operation.
        """
        client = self.client()
        client.asks()
        self.bookAll()
        client.hears()
        client.asks(extID=1, data={**DATA, "amount": 1, "order": 1242281})
        client.asks(extID=2, data={**DATA, "amount": 2, "order": 1242281})
        older, newer = self.runtime.reserved
        self.runtime.book(newer)
        self.runtime.book(older)
        self.assertEqual(
            [(reply["extID"], reply["data"]["profit"]) for reply in client.replies()],
            [(2, 2.0), (1, 1.0)],
        )

    def test_deleteAnswersTheDelete(self) -> None:
        """
        A deletion is answered by the DELETE event.
        """
        client = self.client()
        client.asks()
        self.bookAll()
        client.hears()
        client.asks("DeleteCreditSync", data={"order": 1242281})
        self.publish(1, {"order": 1242281})
        self.assertEqual(client.replies(), [])
        self.bookAll()
        event, reply = client.hears()
        self.assertEqual((event["type"], reply["data"]["state"]), (2, 6))
        self.assertAtRest()

    def test_sameExtIDTwoSessions(self) -> None:
        """
        An extID identifies a request within its session only.
        """
        first, second = self.client(), self.client()
        first.asks(extID="x")
        second.asks(extID="x")
        _, later = self.runtime.reserved
        self.runtime.book(later)
        self.assertEqual(first.replies(), [])
        self.assertEqual(second.outcomes(), [("x", 200, None)])

    def test_anotherOperationsEvent(self) -> None:
        """
        A marked event whose operation has no pending request answers no
        request, even if a pending one has the same order and type.
        """
        client = self.client()
        client.asks()
        self.events.publish(
            [
                TradeEvent(
                    0, {"order": 1242281}, Operation("CreditIn", 7, 1001, 1, "another")
                )
            ]
        )
        self.assertEqual(client.replies(), [])
        self.bookAll()
        self.assertEqual(client.outcomes(), [("a", 200, None)])

    def test_withoutMarkOldestFirst(self) -> None:
        """
        Unmarked events answer pending requests by order and type, the oldest
        first.
        """
        first, second = self.client(), self.client()
        first.asks()
        self.bookAll()
        first.hears()
        first.asks(data={**DATA, "order": 1242281})
        second.asks(data={**DATA, "order": 1242281})
        self.publish(1, {"order": 1242281, "profit": 1})
        self.assertEqual(second.replies(), [])
        self.publish(1, {"order": 1242281, "profit": 2})
        self.assertEqual(
            first.replies(),
            [{"extID": "a", "status": 200, "data": {"order": 1242281, "profit": 1}}],
        )
        self.assertEqual(
            second.replies(),
            [{"extID": "a", "status": 200, "data": {"order": 1242281, "profit": 2}}],
        )

    def test_foreignDataComesBackWhole(self) -> None:
        """
        The data of a foreign runtime's event is the reply's data, complete and
        in its order.
        """
        client = self.client()
        client.says(SEED_REQUEST)
        self.publish(
            0,
            MappingProxyType(
                {"order": 1242281, "group": "gold", "tags": [1, None], "x": {"y": 0.5}}
            ),
        )
        data = b'{"order":1242281,"group":"gold","tags":[1,null],"x":{"y":0.5}}'
        self.assertEqual(
            client.heard,
            [
                b'{"event":"trade:event","type":0,"data":' + data + b"}\r\n",
                b'{"extID":"credit-req-1001","status":200,"data":' + data + b"}\r\n",
            ],
        )

    def test_unspeakableEvent(self) -> None:
        """
        An event that can't be encoded is logged, and those published with it
        are still sent.
        """
        client = self.client()
        client.says(SEED_REQUEST)
        good = MappingProxyType({"order": 1242281})
        self.events.publish(
            [
                TradeEvent(0, MappingProxyType({"order": 1, "what": object()})),
                TradeEvent(0, good),
            ]
        )
        self.assertEqual(
            client.heard,
            [
                b'{"event":"trade:event","type":0,"data":{"order":1242281}}\r\n',
                b'{"extID":"credit-req-1001","status":200,'
                b'"data":{"order":1242281}}\r\n',
            ],
        )
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_batch(self) -> None:
        """
        Events that are published together are sent in booking order, and before
        their replies.
        """
        client = self.client()
        client.asks(extID=1)
        client.asks(extID=2)
        one, two = self.runtime.reserved
        self.events.publish(
            [
                TradeEvent(0, {"order": 1242281}, one.operation),
                TradeEvent(0, {"order": 1242282}, two.operation),
            ]
        )
        self.assertEqual(
            [line.get("extID", line["data"]["order"]) for line in client.hears()],
            [1242281, 1242282, 1, 2],
        )

    def test_encodedOnce(self) -> None:
        """
        An event is encoded once, however many sessions receive it.
        """
        asking = self.client()
        asking.asks()
        for listening in [self.client(), self.client()]:
            listening.asks("HealthCheck", None, {})
        encoded: list[object] = []
        encodeEvents = wire.encodeEvents

        def encode(events: list[Any], epoch: str | None) -> Any:
            encoded.extend(events)
            return encodeEvents(events, epoch)

        [reservation] = self.runtime.reserved
        self.patch(wire, "encodeEvents", encode)
        self.patch(wire, "encodeData", None)
        self.runtime.book(reservation)
        self.assertEqual(encoded, [reservation])
        self.assertEqual(asking.outcomes(), [("a", 200, None)])


class SlowRuntimeTests(SessionTestCase):
    """
    A runtime that takes its time to reserve.
    """

    def setUp(self) -> None:
        """
        Serve a runtime that reserves when the test tells it to.
        """
        super().setUp()
        self.slow = SlowRuntime()
        self.serve(self.slow)

    def test_reservesLater(self) -> None:
        """
        A request is pending from the reactor turn in which its order is
        reserved.
        """
        client = self.client()
        client.asks()
        self.clock.advance(1)
        self.slow.reserve(77)
        self.publish(0, {"order": 77})
        self.assertEqual(client.outcomes(), [("a", 200, None)])
        self.assertAtRest()

    def test_outOfOrder(self) -> None:
        """
        Replies are sent as the outcomes arrive, whatever was requested first.
        """
        client = self.client()
        client.asks(extID=1)
        client.asks(extID=2)
        self.slow.asked.reverse()
        self.slow.reserve(77)
        self.publish(0, {"order": 77})
        self.assertEqual(client.outcomes(), [(2, 200, None)])

    def test_refusesLater(self) -> None:
        """
        A request that the runtime refuses later is answered with the refusal.
        """
        client = self.client()
        client.asks()
        [(_, answer)] = self.slow.asked
        answer.errback(IncorrectOrder("no"))
        self.assertEqual(client.outcomes(), [("a", 409, "INCORRECT_ORDER")])
        self.assertAtRest()

    def test_neverReserves(self) -> None:
        """
        A request for which no order is ever reserved times out, with an unknown
        outcome.
        """
        client = self.client()
        client.asks()
        self.clock.advance(4.999)
        self.assertEqual(client.heard, [])
        self.clock.advance(0.001)
        self.assertEqual(
            client.hears(),
            [
                {
                    "extID": "a",
                    "status": 504,
                    "error": "SYNC_TIMEOUT",
                    "message": "no answer within 5000 ms: the outcome is unknown",
                }
            ],
        )
        self.assertAtRest()

    def test_numberKnownBefore(self) -> None:
        """
        If the runtime knows the order before it reserves it, the 504 has it.
        """
        client = self.client()
        client.asks()
        [(asked, _)] = self.slow.asked
        assert isinstance(asked, Operation)
        asked.reserved = 77
        self.clock.advance(5)
        [reply] = client.hears()
        self.assertEqual((reply["status"], reply["data"]), (504, {"order": 77}))
        self.assertIn("the outcome of order 77 is unknown", reply["message"])

    def test_reservesAfterTheTimeout(self) -> None:
        """
        An order that is reserved after the 504 causes no reply and no pending
        request.
        """
        client = self.client()
        client.asks()
        self.clock.advance(5)
        client.hears()
        self.slow.reserve(77)
        self.assertAtRest()
        self.publish(0, {"order": 77})
        self.assertEqual(client.replies(), [])

    def test_reservesForAReusedExtID(self) -> None:
        """
        An order that is reserved after the 504 does not answer a later request
        with the same extID.
        """
        client = self.client()
        client.asks()
        self.clock.advance(5)
        client.hears()
        client.asks(data={**DATA, "amount": 2})
        self.slow.reserve(77)
        self.publish(0, {"order": 77})
        self.assertEqual(client.replies(), [])
        self.slow.reserve(78)
        self.publish(0, {"order": 78})
        [reply] = client.replies()
        self.assertEqual(reply["data"], {"order": 78})
        self.assertAtRest()

    def test_failsAfterTheTimeout(self) -> None:
        """
        A reservation that fails after the 504 causes no reply; the failure may
        be logged.
        """
        client = self.client()
        client.asks()
        self.clock.advance(5)
        client.hears()
        [(_, answer)] = self.slow.asked
        answer.errback(LedgerProblem("late"))
        self.assertEqual(client.replies(), [])
        self.flushLoggedErrors(LedgerProblem)
        self.assertAtRest()

    def test_oneTimeoutForAll(self) -> None:
        """
        The timeout counts from the request, not from the reservation.
        """
        client = self.client()
        client.asks()
        self.clock.advance(4)
        self.slow.reserve(77)
        self.clock.advance(1)
        self.assertEqual(client.outcomes(), [("a", 504, "SYNC_TIMEOUT")])

    def test_neverReservesInsideACallback(self) -> None:
        """
        A request times out even if the runtime's Deferred has fired and then
        waits for one that never does.
        """

        class Chained(SlowRuntime):
            def submit(
                self, operation: Operation | Deletion
            ) -> "Deferred[Reservation]":
                return succeed(None).addCallback(
                    lambda _: SlowRuntime.submit(self, operation)
                )

        self.serve(Chained())
        client = self.client()
        client.asks()
        self.clock.advance(5)
        self.assertEqual(client.outcomes(), [("a", 504, "SYNC_TIMEOUT")])

    def test_sessionEndedBeforeTheReservation(self) -> None:
        """
        An order that is reserved after its session has ended causes no error
        and leaves nothing behind.
        """
        client = self.client()
        client.asks()
        client.session.ended()
        self.slow.reserve(77)
        self.publish(0, {"order": 77})
        self.assertEqual(client.heard, [])
        self.assertAtRest()

    def test_sessionEndedAndNeverReserved(self) -> None:
        """
        A request that is never reserved leaves no delayed call behind when its
        session has ended.
        """
        client = self.client()
        client.asks()
        client.session.ended()
        self.assertAtRest()

    def test_sessionEndedBeforeALostCommit(self) -> None:
        """
        A commit that fails after the session has ended causes no reply and no
        unhandled error.
        """
        client = self.client()
        client.asks("CreditIn")
        client.session.ended()
        reservation = self.slow.reserve(77)
        reservation.lost(Failure(LedgerProblem("disk")))
        del reservation
        self.assertEqual(client.heard, [])


class GetOperationTests(SessionTestCase):
    """
    C{GetOperation} on a runtime whose look-ups take time.
    """

    def setUp(self) -> None:
        """
        Serve a runtime whose look-ups end when the test says so.
        """
        super().setUp()
        self.slow = SlowRuntime()
        self.serve(self.slow)

    def test_found(self) -> None:
        """
        The reply's data is the trade, once the runtime has found it.
        """
        client = self.client()
        client.asks("GetOperation", data={"order": 77})
        self.assertEqual(client.heard, [])
        self.slow.find(77, credit(77))
        [reply] = client.hears()
        self.assertEqual((reply["extID"], reply["status"]), ("a", 200))
        self.assertEqual((reply["data"]["order"], reply["data"]["profit"]), (77, 300.0))
        self.assertAtRest()

    def test_foreignTrade(self) -> None:
        """
        The trade of a foreign runtime is returned complete and in its order.
        """
        client = self.client()
        client.asks("GetOperation", None, {"order": 77})
        self.slow.find(77, MappingProxyType({"order": 77, "group": "gold", "x": None}))
        self.assertEqual(
            client.heard,
            [b'{"status":200,"data":{"order":77,"group":"gold","x":null}}\r\n'],
        )

    def test_byKey(self) -> None:
        """
        A look-up by key first looks up the order of this principal.
        """
        client = self.client()
        client.asks("GetOperation", data={"idempotencyKey": "k"}, token="dealer")
        self.slow.find((8, "k"), 77)
        self.assertEqual(client.heard, [])
        self.slow.find(77, {"order": 77})
        self.assertEqual(
            client.hears(), [{"extID": "a", "status": 200, "data": {"order": 77}}]
        )
        self.assertAtRest()

    def test_noOrder(self) -> None:
        """
        An unknown order is answered with 404.
        """
        client = self.client()
        client.asks("GetOperation", data={"order": 77})
        self.slow.find(77, None)
        [reply] = client.hears()
        self.assertEqual((reply["status"], reply["error"]), (404, "NOT_FOUND"))
        self.assertEqual(reply["message"], "there is no order 77")
        self.assertAtRest()

    def test_noKey(self) -> None:
        """
        A key under which nothing was booked is answered with 404.
        """
        client = self.client()
        client.asks("GetOperation", data={"idempotencyKey": "k"})
        self.slow.find((7, "k"), None)
        [reply] = client.hears()
        self.assertEqual((reply["status"], reply["error"]), (404, "NOT_FOUND"))
        self.assertIn("data.idempotencyKey", reply["message"])
        self.assertEqual(self.slow.sought, [])

    def test_otherRepliesMeanwhile(self) -> None:
        """
        Other requests are answered during a look-up, and look-ups in whatever
        order they end.
        """
        client = self.client()
        client.asks("GetOperation", 1, {"order": 77})
        client.asks("GetOperation", 2, {"order": 78})
        client.asks("HealthCheck", 3, {})
        self.slow.sought.reverse()
        self.slow.find(78, {"order": 78})
        self.slow.find(77, {"order": 77})
        self.assertEqual(
            client.outcomes(), [(3, 200, None), (2, 200, None), (1, 200, None)]
        )

    def test_neverFound(self) -> None:
        """
        A look-up that does not end is answered with a 504, and its late result
        causes no reply.
        """
        client = self.client()
        client.asks("GetOperation", data={"order": 77})
        self.clock.advance(4.999)
        self.assertEqual(client.heard, [])
        self.clock.advance(0.001)
        self.assertEqual(client.outcomes(), [("a", 504, "SYNC_TIMEOUT")])
        self.slow.find(77, {"order": 77})
        self.assertEqual(client.heard, [])
        self.assertAtRest()

    def test_sessionEnded(self) -> None:
        """
        A look-up that ends after its session causes no error.
        """
        client = self.client()
        client.asks("GetOperation", data={"order": 77})
        client.session.ended()
        self.assertAtRest()
        self.slow.find(77, None)
        self.assertEqual(client.heard, [])

    def test_fails(self) -> None:
        """
        A look-up that fails is answered with 500.
        """
        client = self.client()
        client.asks("GetOperation", data={"order": 77})
        [(_, answer)] = self.slow.sought
        answer.errback(LedgerProblem("secret"))
        [reply] = client.hears()
        self.assertEqual((reply["status"], reply["error"]), (500, "TECH_PROBLEM"))
        self.assertNotIn("secret", reply["message"])
        self.assertEqual(len(self.flushLoggedErrors(LedgerProblem)), 1)
        self.assertAtRest()

    def test_unspeakable(self) -> None:
        """
        A foreign trade that can't be encoded is answered with 500, and the
        request is no longer pending.
        """
        client = self.client()
        client.asks("GetOperation", data={"order": 77})
        self.slow.find(77, {"order": object()})
        self.assertEqual(client.outcomes(), [("a", 500, "TECH_PROBLEM")])
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)
        self.assertTrue(client.session.isIdle)
        self.assertAtRest()

    def test_forbidden(self) -> None:
        """
        C{GetOperation} is limited to the roles that may use the finance
        commands.
        """
        client = self.client()
        client.asks("GetOperation", data={"order": 77}, token="user")
        self.assertEqual(client.outcomes(), [("a", 403, "FORBIDDEN")])
        self.assertEqual(self.slow.sought, [])

    def test_embedded(self) -> None:
        """
        The embedded runtime returns the state of the request until it is
        booked.
        """
        ledger = HeldLedger()
        runtime = TradingRuntime(
            self.clock, ledger, self.events, now=lambda: 1767225600, maxQueued=9
        )
        runtime.startService()
        self.serve(runtime)
        client = self.client()
        client.asks(extID=1, idempotencyKey="k")
        self.clock.advance(0)
        client.asks("GetOperation", 2, {"idempotencyKey": "k"})
        ledger.release()
        client.asks("GetOperation", 3, {"order": 1})
        self.assertEqual(
            [(reply["extID"], reply["data"]["state"]) for reply in client.replies()],
            [(2, 10), (1, 3), (3, 3)],
        )
        self.assertAtRest()


class EndTests(SessionTestCase):
    """
    Sessions whose client disconnects.
    """

    def test_bookingGoesOn(self) -> None:
        """
        A pending operation is booked and broadcast after its session has ended,
        without a reply or an error, and leaves nothing behind.
        """
        leaving, staying = self.client(), self.client()
        staying.asks("HealthCheck", None, {})
        staying.hears()
        leaving.says(SEED_REQUEST)
        leaving.session.ended()
        self.assertAtRest()
        self.bookAll()
        self.assertEqual(leaving.heard, [])
        self.assertEqual(staying.heard, [SEED_EVENT])
        self.assertAtRest()

    def test_asynchronousToo(self) -> None:
        """
        An asynchronous operation is booked and broadcast after its session has
        ended, and leaves nothing behind.
        """
        client = self.client()
        client.asks("CreditIn")
        client.session.ended()
        self.bookAll()
        self.assertEqual(client.heard, [])
        self.assertAtRest()

    def test_lostAfterTheEnd(self) -> None:
        """
        A commit that fails after the session has ended is not an unhandled
        error.
        """
        self.serve(slow := SlowRuntime())
        client = self.client()
        client.asks("CreditIn")
        reservation = slow.reserve(77)
        client.session.ended()
        reservation.lost(Failure(LedgerProblem("disk")))
        self.assertEqual(client.heard, [])
        self.assertAtRest()

    def test_othersWaitOn(self) -> None:
        """
        The end of one session leaves another session's request for the same
        order pending.
        """
        first, second = self.client(), self.client()
        first.asks()
        self.bookAll()
        first.hears()
        first.asks(data={**DATA, "order": 1242281})
        second.asks(data={**DATA, "order": 1242281})
        first.session.ended()
        self.bookAll()
        self.assertEqual(second.outcomes(), [("a", 200, None)])

    def test_whileItIsTold(self) -> None:
        """
        A session that ends while it is sent the first of several replies is
        sent no other, and none stays pending.
        """
        client = self.client()
        told: list[bytes] = []

        def send(line: bytes) -> None:
            told.append(line)
            client.session.ended()

        client.session = self.sessions.open(send)
        client.asks(extID=1)
        client.asks(extID=2)
        stopped = self.sessions.stop()
        self.waiters.endAll("the server is stopping")
        self.assertEqual(len(told), 1)
        self.successResultOf(stopped)
        self.assertAtRest()

    def test_noMoreEvents(self) -> None:
        """
        A session that has ended receives no more events.
        """
        client = self.client()
        client.asks("HealthCheck", None, {})
        client.hears()
        client.session.ended()
        self.publish(0, {"order": 1})
        self.assertEqual(client.heard, [])


class FaultTests(SessionTestCase):
    """
    Internal errors: the client receives a fixed reply, and the cause is logged.
    """

    def test_raised(self) -> None:
        """
        A command that raises is answered with 500, as nothing was reserved.
        """
        self.serve(self.runtime, Scripted(ZeroDivisionError("secret")))
        client = self.client()
        client.asks("Scripted", data={})
        self.assertEqual(
            client.hears(),
            [
                {
                    "extID": "a",
                    "status": 500,
                    "error": "TECH_PROBLEM",
                    "message": "the server failed to carry out this request",
                }
            ],
        )
        [failure] = self.flushLoggedErrors(ZeroDivisionError)
        self.assertEqual(str(failure.value), "secret")
        self.assertAtRest()

    def test_failedLater(self) -> None:
        """
        A command whose Deferred fails is answered with 500.
        """
        answer: Deferred[dict[str, Any]] = Deferred()
        self.serve(self.runtime, Scripted(answer))
        client = self.client()
        client.asks("Scripted", data={})
        self.assertEqual(client.heard, [])
        answer.errback(ZeroDivisionError("secret"))
        self.assertEqual(client.outcomes(), [("a", 500, "TECH_PROBLEM")])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertAtRest()

    def test_submitFails(self) -> None:
        """
        A submission that fails is answered with a 504, as the order may have
        been reserved, and the cause is logged.
        """
        self.serve(slow := SlowRuntime())
        client = self.client()
        client.asks()
        [(_, answer)] = slow.asked
        answer.errback(LedgerProblem("disk full"))
        self.assertEqual(client.outcomes(), [("a", 504, "SYNC_TIMEOUT")])
        self.assertEqual(len(self.flushLoggedErrors(LedgerProblem)), 1)

    def test_noResponse(self) -> None:
        """
        A command that returns no response is answered with 500.
        """
        self.serve(self.runtime, Scripted(None))
        client = self.client()
        client.asks("Scripted", data={})
        self.assertEqual(client.outcomes(), [("a", 500, "TECH_PROBLEM")])
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_authenticatorFails(self) -> None:
        """
        A request is answered with 500 if the authenticator fails.
        """

        class Broken(FakeAuthenticator):
            def authenticate(self, token: str | None) -> Principal:
                raise ZeroDivisionError

        self.serve(self.runtime, authenticator=Broken())
        client = self.client()
        client.asks()
        self.assertEqual(client.outcomes(), [("a", 500, "TECH_PROBLEM")])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertAtRest()

    def test_afterTheReservation(self) -> None:
        """
        An error after the reservation is answered with a 504 that has the
        order, never as if nothing had happened.
        """
        reservation = Reservation(0, credit(77), Operation("CreditIn", 7, 1, 1, "x"))
        response = {"unspeakable": object(), "__deferred": reservation}
        self.serve(self.runtime, Scripted(response))
        client = self.client()
        client.asks("Scripted", data={})
        reservation.booked()
        self.assertEqual(
            client.hears(),
            [
                {
                    "extID": "a",
                    "status": 504,
                    "error": "SYNC_TIMEOUT",
                    "message": "the server failed: the outcome of order 77 is"
                    " unknown, it may still be booked; ask with GetOperation, or"
                    " repeat the request under its idempotencyKey",
                    "data": {"order": 77},
                }
            ],
        )
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)
        self.assertAtRest()

    def test_afterTheReservationAtOnce(self) -> None:
        """
        An error after an operation that is durable as soon as it is reserved is
        answered with a 504 that has the order.
        """

        class Durable(Reservation):
            def whenDurable(self) -> "Deferred[None]":
                return succeed(None)

        operation = Operation("CreditIn", 7, 1, 1, "x")
        response = {
            "unspeakable": object(),
            "__deferred": Durable(0, credit(77), operation),
        }
        self.serve(self.runtime, Scripted(response))
        client = self.client()
        client.asks("Scripted", data={})
        [reply] = client.hears()
        self.assertEqual((reply["status"], reply.get("data")), (504, {"order": 77}))
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)
        self.assertAtRest()

    def test_commitFails(self) -> None:
        """
        A commit that fails, for whatever cause, is answered with a 504 that has
        the order.
        """
        self.serve(slow := SlowRuntime())
        client = self.client()
        client.asks("CreditIn")
        reservation = slow.reserve(77)
        reservation.lost(Failure(LedgerProblem("secret")))
        [reply] = client.hears()
        self.assertEqual((reply["status"], reply["data"]), (504, {"order": 77}))
        self.assertNotIn("secret", reply["message"])
        self.assertEqual(len(self.flushLoggedErrors(LedgerProblem)), 1)
        self.assertAtRest()

    def test_refusalThatIsNone(self) -> None:
        """
        A bare L{Refusal} of a runtime, which has no status, still causes one
        reply.
        """
        self.runtime.refusal = Refusal("the account is frozen")
        client = self.client()
        client.asks()
        self.assertEqual(client.outcomes(), [("a", 500, "TECH_PROBLEM")])
        self.flushLoggedErrors()
        self.assertAtRest()

    def test_sessionLivesOn(self) -> None:
        """
        A session, and the extID of the failed request, can be used after an
        internal error.
        """
        self.serve(self.runtime, Scripted(ZeroDivisionError()))
        client = self.client()
        client.asks("Scripted", data={})
        client.asks("HealthCheck", data={})
        self.assertEqual(
            client.outcomes(), [("a", 500, "TECH_PROBLEM"), ("a", 200, None)]
        )
        self.flushLoggedErrors(ZeroDivisionError)


class LimitTests(SessionTestCase):
    """
    Every queue has a limit, and what exceeds it is refused.
    """

    def test_perSession(self) -> None:
        """
        A session above its limit is answered with 429; another one is served.
        """
        self.serve(self.runtime, limits=Limits(maxPendingPerSession=2))
        busy, other = self.client(), self.client()
        busy.asks(extID=1)
        busy.asks("CreditIn", None)
        busy.asks(extID=3)
        self.assertEqual(busy.outcomes(), [(3, 429, "TOO_MANY_REQUESTS")])
        other.asks(extID=3)
        self.assertEqual(other.heard, [])
        self.assertEqual(len(self.runtime.reserved), 3)

    def test_roomAgain(self) -> None:
        """
        Each reply makes room for one more request.
        """
        self.serve(self.runtime, limits=Limits(maxPendingPerSession=1))
        client = self.client()
        client.asks(extID=1)
        self.bookAll()
        client.hears()
        client.asks(extID=2)
        self.assertEqual(client.heard, [])

    def test_inAll(self) -> None:
        """
        A server above its limit answers with 503 BUSY and a time to retry
        after.
        """
        self.serve(self.runtime, limits=Limits(maxPending=1))
        first, second = self.client(), self.client()
        first.asks()
        second.asks()
        self.assertEqual(
            second.hears(),
            [
                {
                    "extID": "a",
                    "status": 503,
                    "error": "BUSY",
                    "message": "the server has too many requests in flight",
                    "data": {"retry_after_ms": 250},
                }
            ],
        )

    def test_endedSessionMakesRoom(self) -> None:
        """
        The pending requests of a session that has ended no longer count.
        """
        self.serve(self.runtime, limits=Limits(maxPending=1))
        first, second = self.client(), self.client()
        first.asks()
        first.session.ended()
        second.asks()
        self.assertEqual(second.heard, [])


class LinesTests(SessionTestCase):
    """
    Lines that are taken together, because nothing in them is unusual.
    """

    def line(self, extID: object = "a", token: str = "manager", **data: Any) -> bytes:
        """
        A line that requests a credit, with its end.
        """
        members = {
            "command": "CreditInSync",
            "extID": extID,
            "__token": token,
            "data": {**DATA, **data},
        }
        return json.dumps(members).encode() + b"\r\n"

    def lines(self, count: int) -> bytes:
        """
        So many requests, with the extIDs from 1.
        """
        return b"".join(self.line(number) for number in range(1, count + 1))

    def test_none(self) -> None:
        """
        No lines are not taken.
        """
        client = self.client()
        self.assertEqual(client.session.linesReceived(b""), 0)
        self.assertEqual(client.session.linesReceived(b"\r\n\n"), 0)
        self.assertEqual(client.heard, [])

    def test_seedExample(self) -> None:
        """
        A line that is taken so has the same event and reply as one by itself.
        """
        client = self.client()
        self.assertEqual(client.session.linesReceived(SEED_REQUEST + b"\r\n"), 1)
        self.assertEqual(client.heard, [])
        self.bookAll()
        self.assertEqual(client.heard, [SEED_EVENT, SEED_REPLY])
        self.assertAtRest()

    def test_each(self) -> None:
        """
        Each of them is executed, in order, and gets its own reply.
        """
        client = self.client()
        self.assertEqual(client.session.linesReceived(self.lines(3)), 3)
        self.assertEqual(client.heard, [])
        self.assertEqual(client.session.inFlight, 3)
        first, second, third = self.runtime.reserved
        for reservation in (second, first, third):
            self.runtime.book(reservation)
        self.assertEqual(
            [(reply["extID"], reply["data"]["order"]) for reply in client.replies()],
            [(2, 1242282), (1, 1242281), (3, 1242283)],
        )
        self.assertTrue(client.session.isIdle)
        self.assertAtRest()

    def test_upToTheUnusual(self) -> None:
        """
        Of lines with an unusual one among them those before it are taken. It, and
        those behind it, have not happened: nothing is sent or reserved for them.
        """
        odd = (
            b"{}\n",
            b"\n",
            b"\xff\n",
            self.line(3, token="dealer"),
            self.line(3, comment="B\xf6ni"),
            self.line(3, amount=-1),
            b'{"command":"HealthCheck","extID":3,"__token":"manager"}\n',
        )
        for line in odd:
            for place in range(3):
                client = self.client()
                lines = [self.line(1), self.line(2)]
                lines.insert(place, line)
                # Another token is unusual only behind the first.
                if place == 0 and b"dealer" in line:
                    continue
                taken = client.session.linesReceived(b"".join(lines))
                self.assertEqual(taken, place, line)
                self.assertEqual(client.heard, [])
                self.assertEqual(client.session.inFlight, place)
                self.assertEqual(len(self.runtime.reserved), place)
                self.runtime.reserved.clear()
                client.session.ended()
        self.assertAtRest()

    def test_nothingHasHappened(self) -> None:
        """
        If the first of them is unusual, not even its token was looked at.
        """
        client = self.client()
        self.assertEqual(client.session.linesReceived(b"{}\n" + self.line(1)), 0)
        self.assertIs(client.session.principal, None)

    def test_unauthorized(self) -> None:
        """
        With a token that is not accepted each of them is refused, once.
        """
        client = self.client()
        lines = self.line(1, token="x") + self.line("b", token="x")
        self.assertEqual(client.session.linesReceived(lines), 2)
        self.assertEqual(
            client.outcomes(), [(1, 401, "UNAUTHORIZED"), ("b", 401, "UNAUTHORIZED")]
        )
        self.assertEqual(self.runtime.reserved, [])

    def test_authenticatorFails(self) -> None:
        """
        If the authenticator fails each of them is answered with 500.
        """

        class Broken(FakeAuthenticator):
            def authenticate(self, token: str | None) -> Principal:
                raise ZeroDivisionError

        self.serve(self.runtime, authenticator=Broken())
        client = self.client()
        self.assertEqual(client.session.linesReceived(self.lines(2)), 2)
        self.assertEqual(
            client.outcomes(), [(1, 500, "TECH_PROBLEM"), (2, 500, "TECH_PROBLEM")]
        )
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertAtRest()

    def test_forbidden(self) -> None:
        """
        A role that may not use the command is refused each of them.
        """
        client = self.client()
        lines = self.line(1, token="user") + self.line(2, token="user")
        self.assertEqual(client.session.linesReceived(lines), 2)
        self.assertEqual(
            client.outcomes(), [(1, 403, "FORBIDDEN"), (2, 403, "FORBIDDEN")]
        )
        self.assertEqual(self.runtime.reserved, [])

    def test_unknownCommand(self) -> None:
        """
        A server without the command refuses each of them.
        """
        self.sessions.requests._commands.clear()
        client = self.client()
        self.assertEqual(client.session.linesReceived(self.lines(2)), 2)
        self.assertEqual(
            client.outcomes(),
            [(1, 404, "UNKNOWN_COMMAND"), (2, 404, "UNKNOWN_COMMAND")],
        )

    def test_subscribed(self) -> None:
        """
        Who was authenticated by such lines receives events, and the session has
        the principal.
        """
        client = self.client()
        client.session.linesReceived(self.lines(2))
        assert client.session.principal is not None
        self.assertEqual(client.session.principal.id, 7)
        self.publish(0, {"order": 5})
        [event] = client.hears()
        self.assertEqual(event["data"], {"order": 5})

    def test_duplicateExtID(self) -> None:
        """
        The second of two with one extID is refused, in one read or in two.
        """
        client = self.client()
        client.session.linesReceived(self.line(1) + self.line(1) + self.line(2))
        client.session.linesReceived(self.line(2) + self.line(3))
        self.assertEqual(
            client.outcomes(),
            [(1, 409, "DUPLICATE_EXTID"), (2, 409, "DUPLICATE_EXTID")],
        )
        self.assertEqual(len(self.runtime.reserved), 3)

    def test_tooMany(self) -> None:
        """
        Those above the limit of a session are refused, in the middle of them.
        """
        self.serve(self.runtime, limits=Limits(maxPendingPerSession=2))
        client = self.client()
        client.session.linesReceived(self.lines(4))
        self.assertEqual(
            client.outcomes(),
            [(3, 429, "TOO_MANY_REQUESTS"), (4, 429, "TOO_MANY_REQUESTS")],
        )
        self.assertEqual(len(self.runtime.reserved), 2)

    def test_busy(self) -> None:
        """
        Those above the limit of the server are refused, in the middle of them.
        """
        self.serve(self.runtime, limits=Limits(maxPending=2))
        other, client = self.client(), self.client()
        other.asks()
        client.session.linesReceived(self.lines(3))
        self.assertEqual(client.outcomes(), [(2, 503, "BUSY"), (3, 503, "BUSY")])
        self.assertEqual(len(self.runtime.reserved), 2)

    def test_oneRefused(self) -> None:
        """
        One that the runtime refuses, or for which it fails, leaves the others
        alone.
        """

        class Choosy(FakeTradingRuntime):
            def submit(self, operation: Operation | Deletion) -> Reservation:
                assert isinstance(operation, Operation)
                if operation.login == 2:
                    raise IncorrectOrder("no")
                if operation.login == 3:
                    raise ZeroDivisionError
                return super().submit(operation)

        self.runtime = Choosy(self.events)
        self.serve(self.runtime)
        client = self.client()
        lines = b"".join(self.line(number, login=number) for number in range(1, 5))
        self.assertEqual(client.session.linesReceived(lines), 4)
        self.assertEqual(
            client.outcomes(), [(2, 409, "INCORRECT_ORDER"), (3, 500, "TECH_PROBLEM")]
        )
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.bookAll()
        self.assertEqual(client.outcomes(), [(1, 200, None), (4, 200, None)])
        self.assertAtRest()

    def test_reservedLater(self) -> None:
        """
        A runtime may reserve later, in another order.
        """
        self.serve(slow := SlowRuntime())
        client = self.client()
        client.session.linesReceived(self.lines(2))
        slow.asked.reverse()
        slow.reserve(77)
        slow.reserve(78)
        self.publish(0, {"order": 78})
        self.publish(0, {"order": 77})
        self.assertEqual(
            [(reply["extID"], reply["data"]) for reply in client.replies()],
            [(1, {"order": 78}), (2, {"order": 77})],
        )
        self.assertAtRest()

    def test_timeout(self) -> None:
        """
        Each of them times out 5 seconds after it came.
        """
        client = self.client()
        client.session.linesReceived(self.lines(2))
        self.clock.advance(4.999)
        self.assertEqual(client.heard, [])
        self.clock.advance(0.001)
        self.assertEqual(
            client.outcomes(), [(1, 504, "SYNC_TIMEOUT"), (2, 504, "SYNC_TIMEOUT")]
        )
        self.assertAtRest()

    def test_stopped(self) -> None:
        """
        When the server is stopping none is taken; by itself each is refused.
        """
        client = self.client()
        self.sessions.stop()
        self.assertEqual(client.session.linesReceived(self.lines(1)), 0)
        client.says(self.lines(1))
        self.assertEqual(client.outcomes(), [(1, 503, "SHUTDOWN")])

    def test_siteSchema(self) -> None:
        """
        If a site has a schema of its own for requests, or for the data of any that
        books, none is taken: that schema has to see them.
        """
        for name in ("request", "credit_in", "balance_out"):
            made = tempfile.TemporaryDirectory()
            self.addCleanup(made.cleanup)
            Path(made.name, f"{name}.json").write_text('{"required": ["from"]}')
            self.serve(self.runtime, schemas=Schemas(Path(made.name)))
            client = self.client()
            self.assertEqual(client.session.linesReceived(self.lines(1)), 0)

    def test_otherSiteSchema(self) -> None:
        """
        A site's schema for another command changes nothing for these.
        """
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        Path(made.name, "subscribe.json").write_text('{"required": ["from"]}')
        self.serve(self.runtime, schemas=Schemas(Path(made.name)))
        client = self.client()
        self.assertEqual(client.session.linesReceived(self.lines(1)), 1)

    def test_key(self) -> None:
        """
        The operation has the key and the principal of its request.
        """
        client = self.client()
        line = self.line(1).replace(b'"extID"', b'"idempotencyKey": "k", "extID"')
        self.assertEqual(client.session.linesReceived(line + self.line(2)), 2)
        self.assertEqual(
            [
                (each.operation.principal, each.operation.key)
                for each in self.runtime.reserved
            ],
            [(7, "k"), (7, None)],
        )

    def test_extIDAsKey(self) -> None:
        """
        Where the extID is a key as well, it is for these too.
        """
        self.serve(self.runtime, isExtIDIdempotent=True)
        client = self.client()
        client.session.linesReceived(self.line("a") + self.line(7))
        keys = [each.operation.key for each in self.runtime.reserved]
        self.assertEqual(len({*keys, None}), 3)
        client = self.client()
        client.says(self.line("a"))
        self.assertEqual(self.runtime.reserved[-1].operation.key, keys[0])

    def test_endedInBetween(self) -> None:
        """
        A session that ends while it is told of one refusal leaves nothing pending.
        """
        client = self.client()
        told: list[bytes] = []

        def send(line: bytes) -> None:
            told.append(line)
            client.session.ended()

        client.session = self.sessions.open(send)
        client.session.linesReceived(self.line(1) + self.line(1))
        self.assertEqual(len(told), 1)
        self.bookAll()
        self.assertEqual(len(told), 1)
        self.assertAtRest()


class HealthCheckTests(SessionTestCase):
    """
    The health check.
    """

    def test_health(self) -> None:
        """
        The health check returns the status, the version, the uptime in seconds
        and the number of pending requests.
        """
        client = self.client()
        client.asks(extID="waits")
        self.clock.advance(2.5)
        client.asks("HealthCheck", "h", {})
        [reply] = client.hears()
        self.assertEqual((reply["extID"], reply["status"]), ("h", 200))
        self.assertEqual(
            list(reply["data"]), ["status", "version", "uptime", "pending"]
        )
        del reply["data"]["version"]
        self.assertEqual(reply["data"], {"status": "ok", "uptime": 2, "pending": 1})
