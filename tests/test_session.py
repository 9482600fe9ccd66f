"""
Tests for L{creditsync._conversation.session}.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest import mock

from attrs import Factory, define
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from creditsync import _wire as wire
from creditsync._conversation.commands import GetOperation, HealthCheck, Subscription
from creditsync._conversation.finance import financeCommands
from creditsync._conversation.session import Session, Sessions
from creditsync._conversation.waiters import Waiters
from creditsync.codes import ALL_SESSIONS
from creditsync.errors import Busy, IncorrectOrder, LedgerProblem, Refusal
from creditsync.events import TradeEvents
from creditsync.interfaces import (
    IAuthenticator,
    ICommand,
    ITradeEvents,
    ITradingRuntime,
)
from creditsync.records import (
    Deferral,
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
    What one client says and hears.

    @ivar heard: What was sent to it, as it was sent.
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
        Take what was heard since the last time, each line as its value.
        """
        lines = b"".join(self.heard).split(b"\r\n")
        self.heard.clear()
        assert lines.pop() == b""
        return [json.loads(line) for line in lines]

    def replies(self) -> list[Any]:
        """
        Take the replies of what was heard, and drop the events.
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
    A booked credit under this order.
    """
    return Trade(order, 1001, 7, 3, 300_00000000, "x", 0, 0, 1767225600)


@implementer(ITradingRuntime)
@define(eq=False)
class SlowRuntime:
    """
    Reserves, and looks up, when the test says so.

    @ivar asked: What each submission fires, in order.
    @ivar sought: What each look-up fires, with the order or the key that is
        looked for.
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
        reservation = Reservation(0, credit(order), operation, isReplay)
        answer.callback(reservation)
        return reservation

    def find(self, expected: object, found: object) -> None:
        """
        Answer the oldest look-up, which must be for this.
        """
        what, answer = self.sought.pop(0)
        assert what == expected, what
        answer.callback(found)


@implementer(ICommand)
@define
class Scripted:
    """
    A command that does what the test says.
    """

    response: Any
    name: str = "Scripted"
    schema: str = "health_check"
    roles: frozenset[int] = ALL_SESSIONS
    needsExtID: bool = False

    def execute(self, session: Session, request: Request) -> Any:
        """
        See L{ICommand.execute}.
        """
        if isinstance(self.response, Exception):
            raise self.response
        return self.response


class SessionTestCase(SynchronousTestCase):
    """
    A server's conversations without its connections.
    """

    def setUp(self) -> None:
        """
        Put them together on fakes.
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
        Make the conversations of a server on this runtime.
        """
        self.waiters = Waiters(self.clock, 5.0)
        self.sessions = Sessions(
            commands=[
                *financeCommands(runtime, isExtIDIdempotent),
                GetOperation(runtime),
                HealthCheck(self.clock, self.waiters),
                Subscription("Subscribe", True),
                Subscription("Unsubscribe", False),
                *commands,
            ],
            authenticator=authenticator or self.authenticator,
            schemas=schemas,
            waiters=self.waiters,
            limits=limits or Limits(),
        )
        self.events.addObserver(self.sessions.tradeEvents)

    def client(self) -> Client:
        """
        Begin a conversation.
        """
        return Client(self.sessions)

    def bookAll(self) -> None:
        """
        Book all that was submitted, oldest first.
        """
        for reservation in list(self.runtime.reserved):
            self.runtime.book(reservation)

    def publish(self, type: int, data: Mapping[str, Any]) -> None:
        """
        Publish an event as a source does that knows no marks.
        """
        self.events.publish([TradeEvent(type, data)])

    def assertAtRest(self) -> None:
        """
        Nothing waits, and nothing is left for the clock.
        """
        self.assertEqual(self.sessions.pending, 0)
        self.assertEqual(len(self.waiters), 0)
        self.assertEqual(self.waiters._byEvent, {})
        self.assertEqual(self.clock.getDelayedCalls(), [])


class CreditInSyncTests(SessionTestCase):
    """
    C{CreditInSync}, as C{docs/protocol.rst}, "Runtime flow", describes it.
    """

    def test_nothingBeforeTheEvent(self) -> None:
        """
        The intermediate response is not sent: the request stays open.
        """
        client = self.client()
        client.says(SEED_REQUEST)
        self.assertEqual(client.heard, [])
        self.assertFalse(client.session.isIdle)

    def test_seedExample(self) -> None:
        """
        The request of C{docs/protocol.rst}, "A credit", gets the event's line and
        then its reply.
        """
        client = self.client()
        client.says(SEED_REQUEST)
        self.bookAll()
        self.assertEqual(client.heard, [SEED_EVENT, SEED_REPLY])
        self.assertTrue(client.session.isIdle)
        self.assertAtRest()

    def test_operation(self) -> None:
        """
        The runtime is asked for what the request says, money in units.
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
        For an existing order the UPDATE event is what is waited for.
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
        An event about another order ends no wait.
        """
        client = self.client()
        client.asks()
        self.publish(0, {"order": 1242282})
        self.assertEqual(client.replies(), [])

    def test_anotherTypeAnswersNobody(self) -> None:
        """
        An event of another type about the same order ends no wait.
        """
        client = self.client()
        client.asks()
        self.publish(1, {"order": 1242281})
        self.publish(2, {"order": 1242281})
        self.assertEqual(client.replies(), [])

    def test_timeout(self) -> None:
        """
        Without its event the reply is a 504 after 5000 ms, with the order.
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
        After a 504 its event is broadcast, and nothing more is sent under
        that extID.
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
        The event of an operation that timed out does not answer a later
        request under the same extID.
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
        An extID that was answered may be used again.
        """
        client = self.client()
        for _ in range(2):
            client.asks()
            self.bookAll()
            self.assertEqual(client.outcomes(), [("a", 200, None)])

    def test_deferredIsNeverSent(self) -> None:
        """
        The service object stays inside, in both forms of a command.
        """
        client = self.client()
        client.asks("CreditInSync", "a")
        client.asks("CreditIn", "b")
        self.bookAll()
        self.assertNotIn(b"deferred", b"".join(client.heard))

    def test_roles(self) -> None:
        """
        Manager, admin and dealer may use it, a user may not.
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
        What a session may do is what its token says.
        """
        client = self.client()
        client.asks(token="user", data={**DATA, "__access": 3})
        self.assertEqual(client.outcomes(), [("a", 403, "FORBIDDEN")])

    def test_unknownMembersAreIgnored(self) -> None:
        """
        Older clients send a top-level C{from}.
        """
        client = self.client()
        client.asks(**{"from": "crm"})
        self.bookAll()
        self.assertEqual(client.outcomes(), [("a", 200, None)])

    def test_exactAmount(self) -> None:
        """
        An amount that no double holds comes back digit by digit.
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
        What the runtime refuses with is the reply, and nothing waits.
        """
        self.runtime.refusal = IncorrectOrder("order 5 is not of login 1001")
        client = self.client()
        client.asks()
        self.assertEqual(
            client.hears(),
            [
                {
                    "extID": "a",
                    "status": 409,
                    "error": "INCORRECT_ORDER",
                    "message": "order 5 is not of login 1001",
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
        It is answered when its operation can no longer be lost, with the
        accepted command.
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
        An accepted update is in the state of an update request.
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
        Without an extID it is answered without one.
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
        An operation of which nobody knows whether it is durable is a 504.
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
    No event is mixed up.
    """

    def test_oneReplyForTheOneWhoAsked(self) -> None:
        """
        Every session receives the event, and the requester its reply too.
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
        Two sessions that wait at one order each get the event of their own
        operation, in whatever order these are published.
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
        So do two requests of one session.
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
        For a deletion the DELETE event is what is waited for.
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
        An extID correlates within its session only.
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
        A marked event whose operation nobody waits for answers nobody, though
        order and type are those of a waiter.
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
        Events without a mark answer by order and type, the oldest first.
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
        What a foreign source puts into an event's data is the reply's data,
        all of it and in its order.
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
        An event that can't be encoded is logged; those published with it go
        their way.
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
        Events that are published together come in booking order, and before
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
        One event is encoded once, however many sessions receive it.
        """
        asking = self.client()
        asking.asks()
        for listening in [self.client(), self.client()]:
            listening.asks("HealthCheck", None, {})
        with mock.patch.object(wire, "encodeData", wraps=wire.encodeData) as encode:
            self.bookAll()
        self.assertEqual(encode.call_count, 1)


class SlowRuntimeTests(SessionTestCase):
    """
    A runtime that takes its time to reserve.
    """

    def setUp(self) -> None:
        """
        Serve a runtime that reserves when the test says so.
        """
        super().setUp()
        self.slow = SlowRuntime()
        self.serve(self.slow)

    def test_reservesLater(self) -> None:
        """
        The waiter stands in the turn in which the order is reserved.
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
        Replies come as their outcomes do, whatever was asked first.
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
        A refusal may come later too.
        """
        client = self.client()
        client.asks()
        [(_, answer)] = self.slow.asked
        answer.errback(IncorrectOrder("no"))
        self.assertEqual(client.outcomes(), [("a", 409, "INCORRECT_ORDER")])
        self.assertAtRest()

    def test_neverReserves(self) -> None:
        """
        Nobody waits for ever: without an order the outcome is unknown.
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

    def test_reservesAfterTheTimeout(self) -> None:
        """
        A reservation after the 504 answers nobody, and nothing waits for its
        event.
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
        Nor does it answer a later request under the same extID.
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
        Nor does a failure after the 504, which may be logged, answer anybody.
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
        The timeout is counted from the request, not from the reservation.
        """
        client = self.client()
        client.asks()
        self.clock.advance(4)
        self.slow.reserve(77)
        self.clock.advance(1)
        self.assertEqual(client.outcomes(), [("a", 504, "SYNC_TIMEOUT")])

    def test_neverReservesInsideACallback(self) -> None:
        """
        A runtime whose Deferred has fired, but goes on with one that has not,
        does not keep anybody waiting for ever either.
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
        A reservation for a session that is gone is nobody's error, and leaves
        nothing.
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
        A session that is gone leaves nothing for the clock.
        """
        client = self.client()
        client.asks()
        client.session.ended()
        self.assertAtRest()

    def test_sessionEndedBeforeALostCommit(self) -> None:
        """
        If the operation of a session that is gone is lost after all, nobody
        is told, and it is not an unhandled error.
        """
        client = self.client()
        client.asks("CreditIn")
        client.session.ended()
        reservation = self.slow.reserve(77)
        reservation.lost(Failure(LedgerProblem("disk")))
        del reservation
        self.assertEqual(client.heard, [])


class EmbeddedTestCase(SessionTestCase):
    """
    Conversations on the embedded runtime, which remembers keys.
    """

    def setUp(self) -> None:
        """
        Serve it on a ledger whose commits end when the test says so.
        """
        super().setUp()
        self.ledger = HeldLedger()
        self.embedded = TradingRuntime(
            self.clock, self.ledger, self.events, now=lambda: 1767225600, maxQueued=9
        )
        self.embedded.startService()
        self.serve(self.embedded)

    def commit(self) -> None:
        """
        Let the runtime book all that is queued.
        """
        self.clock.advance(0)
        self.ledger.release()

    def bookedTwice(self, client: Client, **second: Any) -> list[Any]:
        """
        Book a credit under a key, and send the same again, in whatever these
        members make different.

        @return: What is heard of the second request.
        """
        client.asks(extID="first", idempotencyKey="k")
        self.commit()
        client.hears()
        client.asks(**{"idempotencyKey": "k", **second})
        return client.hears()


class ReplayTests(EmbeddedTestCase):
    """
    What was booked before under the same key is not booked again.
    """

    # What a client is told of the first credit under a key.
    data = (
        b'{"order":1,"login":1001,"cmd":7,"state":3,"profit":300.0,'
        b'"comment":"Promotion credit","symbol":"","volume":0,"open_price":0.0,'
        b'"close_price":0.0,"open_time":1767225600,"close_time":1767225600,"sl":0.0,'
        b'"tp":0.0,"storage":0.0,"commission":0.0,"reason":7,"timestamp":1767225600}'
    )

    def test_sync(self) -> None:
        """
        The same data comes at once, marked at the top level as replayed, and
        there is no second event.
        """
        client = self.client()
        client.asks(extID=1, idempotencyKey="k")
        self.commit()
        client.heard.clear()
        client.asks(extID=2, idempotencyKey="k")
        self.assertEqual(
            client.heard,
            [
                b'{"extID":2,"status":200,"data":%b,"replayed":true}\r\n' % self.data,
            ],
        )
        self.assertAtRest()
        self.assertEqual(self.ledger.commits, [])

    def test_asynchronous(self) -> None:
        """
        So does the accepted command of the asynchronous form.
        """
        client = self.client()
        client.asks("CreditIn", 1, idempotencyKey="k")
        self.commit()
        client.heard.clear()
        client.asks("CreditIn", 2, idempotencyKey="k")
        self.assertEqual(
            client.heard,
            [
                b'{"extID":2,"status":200,"data":{"accepted":true,"order":1,'
                b'"state":10,"login":1001,"cmd":7,"amount":300.0},"replayed":true}\r\n',
            ],
        )
        self.assertAtRest()

    def test_withoutExtID(self) -> None:
        """
        Without an extID it is answered without one.
        """
        client = self.client()
        for _ in range(2):
            client.asks("CreditIn", None, idempotencyKey="k")
            self.clock.advance(0)
        self.ledger.release()
        client.hears()
        client.asks("CreditIn", None, idempotencyKey="k")
        [reply] = client.hears()
        self.assertNotIn("extID", reply)
        self.assertIs(reply["replayed"], True)

    def test_firstIsNoReplay(self) -> None:
        """
        The first request under a key is not marked.
        """
        client = self.client()
        client.asks(idempotencyKey="k")
        self.commit()
        [reply] = client.replies()
        self.assertEqual(sorted(reply), ["data", "extID", "status"])

    def test_anotherSession(self) -> None:
        """
        The key is the principal's: it is replayed on another connection too.
        """
        gone = self.client()
        gone.asks(idempotencyKey="k")
        gone.session.ended()
        self.commit()
        client = self.client()
        client.asks(extID="again", idempotencyKey="k")
        [reply] = client.hears()
        self.assertEqual(
            (reply["extID"], reply["data"]["order"], reply["replayed"]),
            ("again", 1, True),
        )

    def test_anotherPrincipal(self) -> None:
        """
        Another principal's equal key is another key.
        """
        client = self.client()
        self.assertEqual(self.bookedTwice(client, token="dealer"), [])
        self.commit()
        [reply] = client.replies()
        self.assertEqual(reply["data"]["order"], 2)
        self.assertNotIn("replayed", reply)

    def test_asItWasBooked(self) -> None:
        """
        The data is that of then, though the order was updated since.
        """
        client = self.client()
        client.asks(extID=1, idempotencyKey="k")
        self.commit()
        client.asks(extID=2, data={**DATA, "amount": 7, "order": 1})
        self.commit()
        client.hears()
        client.asks(extID=3, idempotencyKey="k")
        [reply] = client.hears()
        self.assertEqual((reply["data"]["profit"], reply["replayed"]), (300.0, True))

    def test_otherContent(self) -> None:
        """
        The same key with other content is 422, which names the member that
        differs and the first order.
        """
        client = self.client()
        self.assertEqual(
            self.bookedTwice(client, data={**DATA, "amount": 301}),
            [
                {
                    "extID": "a",
                    "status": 422,
                    "error": "IDEMPOTENCY_KEY_REUSED",
                    "message": "data.amount differs from the first request with this"
                    " idempotencyKey, which has order 1",
                    "data": {"order": 1},
                }
            ],
        )
        self.assertAtRest()

    def test_otherForm(self) -> None:
        """
        C{CreditIn} and C{CreditInSync} are not the same request.
        """
        [reply] = self.bookedTwice(self.client(), command="CreditIn")
        self.assertEqual((reply["status"], reply["data"]), (422, {"order": 1}))
        self.assertTrue(reply["message"].startswith("command differs "))

    def test_afterA504(self) -> None:
        """
        Who was told that the outcome is unknown learns it by asking again.
        """
        client = self.client()
        client.asks(idempotencyKey="k")
        self.clock.advance(5)
        self.assertEqual(client.outcomes(), [("a", 504, "SYNC_TIMEOUT")])
        self.ledger.release()
        client.hears()
        client.asks(idempotencyKey="k")
        [reply] = client.hears()
        self.assertEqual((reply["data"]["order"], reply["replayed"]), (1, True))


class AttachTests(EmbeddedTestCase):
    """
    What is under way under the same key is waited for, and not booked twice.
    """

    def test_sync(self) -> None:
        """
        One event answers all who wait for its operation, each on its session.
        """
        first, second = self.client(), self.client()
        first.asks(extID=1, idempotencyKey="k")
        first.asks(extID=2, idempotencyKey="k")
        self.clock.advance(0)
        second.asks(extID=3, idempotencyKey="k")
        self.assertEqual(first.heard + second.heard, [])
        self.ledger.release()
        event, one, two = first.hears()
        self.assertEqual(
            [one, two],
            [
                {"extID": 1, "status": 200, "data": event["data"]},
                {"extID": 2, "status": 200, "data": event["data"]},
            ],
        )
        self.assertEqual(
            second.hears(),
            [event, {"extID": 3, "status": 200, "data": event["data"]}],
        )
        self.assertEqual(self.ledger.commits, [])
        self.assertAtRest()

    def test_asynchronous(self) -> None:
        """
        So does one commit.
        """
        client = self.client()
        client.asks("CreditIn", 1, idempotencyKey="k")
        self.clock.advance(0)
        client.asks("CreditIn", 2, idempotencyKey="k")
        self.assertEqual(client.heard, [])
        self.ledger.release()
        one, two = client.replies()
        self.assertEqual((one["extID"], two["extID"]), (1, 2))
        self.assertEqual((one["data"]["order"], two["data"]["order"]), (1, 1))
        self.assertNotIn("replayed", two)
        self.assertAtRest()

    def test_eachHasItsTime(self) -> None:
        """
        Who attaches has a timeout of its own, from its own request on.
        """
        client = self.client()
        client.asks(extID=1, idempotencyKey="k")
        self.clock.advance(4)
        client.asks(extID=2, idempotencyKey="k")
        self.clock.advance(1)
        self.assertEqual(client.outcomes(), [(1, 504, "SYNC_TIMEOUT")])
        self.clock.advance(3.9)
        self.ledger.release()
        self.assertEqual(client.outcomes(), [(2, 200, None)])
        self.assertAtRest()

    def test_firstIsGone(self) -> None:
        """
        Who attaches is answered though who asked first is gone.
        """
        first, second = self.client(), self.client()
        first.asks(idempotencyKey="k")
        second.asks(idempotencyKey="k")
        first.session.ended()
        self.commit()
        self.assertEqual(first.heard, [])
        self.assertEqual(second.outcomes(), [("a", 200, None)])
        self.assertAtRest()

    def test_lost(self) -> None:
        """
        A commit that fails is an unknown outcome for each of them.
        """
        client = self.client()
        client.asks("CreditIn", 1, idempotencyKey="k")
        client.asks("CreditIn", 2, idempotencyKey="k")
        self.clock.advance(0)
        self.ledger.fail(LedgerProblem("disk"))
        self.assertEqual(
            [
                (reply["extID"], reply["status"], reply["data"])
                for reply in client.hears()
            ],
            [(1, 504, {"order": 1}), (2, 504, {"order": 1})],
        )
        self.failureResultOf(self.embedded.whenFailed(), LedgerProblem)
        self.assertEqual(len(self.flushLoggedErrors(LedgerProblem)), 1)
        self.assertAtRest()


class SlowReplayTests(SessionTestCase):
    """
    A runtime that takes its time to know a key again.
    """

    def setUp(self) -> None:
        """
        Serve a runtime that reserves when the test says so.
        """
        super().setUp()
        self.slow = SlowRuntime()
        self.serve(self.slow)

    def test_sync(self) -> None:
        """
        A replay that is known later is answered then, and marked.
        """
        client = self.client()
        client.asks(idempotencyKey="k")
        [(operation, _)] = self.slow.asked
        self.assertEqual((operation.principal, operation.key), (7, "k"))
        self.assertEqual(client.heard, [])
        self.slow.reserve(77, isReplay=True)
        [reply] = client.hears()
        self.assertEqual(
            (reply["extID"], reply["status"], reply["replayed"]), ("a", 200, True)
        )
        self.assertEqual((reply["data"]["order"], reply["data"]["state"]), (77, 3))
        self.assertAtRest()

    def test_asynchronous(self) -> None:
        """
        So is the accepted command.
        """
        client = self.client()
        client.asks("CreditIn", None, idempotencyKey="k")
        self.slow.reserve(77, isReplay=True)
        self.assertEqual(
            client.heard,
            [
                b'{"status":200,"data":{"accepted":true,"order":77,"state":10,'
                b'"login":1001,"cmd":7,"amount":300.0},"replayed":true}\r\n'
            ],
        )
        self.assertAtRest()

    def test_afterTheTimeout(self) -> None:
        """
        After the 504 it answers nobody.
        """
        client = self.client()
        client.asks(idempotencyKey="k")
        self.clock.advance(5)
        client.hears()
        self.slow.reserve(77, isReplay=True)
        self.assertEqual(client.heard, [])
        self.assertAtRest()

    def test_sessionEnded(self) -> None:
        """
        Nor does it answer a session that is gone.
        """
        client = self.client()
        client.asks(idempotencyKey="k")
        client.session.ended()
        self.slow.reserve(77, isReplay=True)
        self.assertEqual(client.heard, [])
        self.assertAtRest()

    def test_attach(self) -> None:
        """
        A reservation that is given for two requests answers both, one by one
        as they were told of it.
        """
        first, second = self.client(), self.client()
        first.asks(idempotencyKey="k")
        second.asks(idempotencyKey="k")
        reservation = self.slow.reserve(77)
        [(_, answer)] = self.slow.asked
        answer.callback(reservation)
        self.events.publish([TradeEvent(0, {"order": 77}, reservation.operation)])
        for client in (first, second):
            self.assertEqual(
                client.replies(),
                [{"extID": "a", "status": 200, "data": {"order": 77}}],
            )
        self.assertAtRest()


class GetOperationTests(SessionTestCase):
    """
    What became of an operation, at a runtime that takes its time to look.
    """

    def setUp(self) -> None:
        """
        Serve it.
        """
        super().setUp()
        self.slow = SlowRuntime()
        self.serve(self.slow)

    def test_found(self) -> None:
        """
        The trade is the reply's data, once the runtime has it.
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
        A foreign trade comes whole and in its order.
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
        By a key it is the order of this principal that is looked up first.
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
        An order that there is not is 404.
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
        So is a key under which nothing was booked.
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
        Others are answered while it is looked for, and look-ups in whatever
        order they are found.
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
        Nobody waits for ever, and what comes after the 504 answers nobody.
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
        A look-up for a session that is gone is nobody's error.
        """
        client = self.client()
        client.asks("GetOperation", data={"order": 77})
        client.session.ended()
        self.assertAtRest()
        self.slow.find(77, None)
        self.assertEqual(client.heard, [])

    def test_fails(self) -> None:
        """
        A look-up that fails is 500.
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
        A foreign trade that can't be written is 500 too, and the request is
        over.
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
        It is for those who may use the finance family.
        """
        client = self.client()
        client.asks("GetOperation", data={"order": 77}, token="user")
        self.assertEqual(client.outcomes(), [("a", 403, "FORBIDDEN")])
        self.assertEqual(self.slow.sought, [])

    def test_embedded(self) -> None:
        """
        The embedded runtime tells the request's state until it is booked.
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


class IdempotentExtIDTests(EmbeddedTestCase):
    """
    A server that takes the extID of a request for its key.
    """

    def setUp(self) -> None:
        """
        Serve the embedded runtime so.
        """
        super().setUp()
        self.serve(self.embedded, isExtIDIdempotent=True)

    def test_replayed(self) -> None:
        """
        The same request under the same extID is booked once.
        """
        client = self.client()
        client.asks()
        self.commit()
        client.hears()
        client.asks()
        [reply] = client.hears()
        self.assertEqual(
            (reply["extID"], reply["data"]["order"], reply["replayed"]), ("a", 1, True)
        )

    def test_otherContent(self) -> None:
        """
        Another request under the same extID is 422.
        """
        client = self.client()
        client.asks()
        self.commit()
        client.hears()
        client.asks(data={**DATA, "amount": 301})
        self.assertEqual(client.outcomes(), [("a", 422, "IDEMPOTENCY_KEY_REUSED")])

    def test_attach(self) -> None:
        """
        Another connection attaches to what is under way; the same one is told
        that it waits already.
        """
        first, second = self.client(), self.client()
        first.asks()
        first.asks()
        self.assertEqual(first.outcomes(), [("a", 409, "DUPLICATE_EXTID")])
        second.asks()
        self.commit()
        for client in (first, second):
            [reply] = client.replies()
            self.assertEqual((reply["status"], reply["data"]["order"]), (200, 1))
        self.assertAtRest()

    def test_ownKeyCounts(self) -> None:
        """
        A key that a request has is its key.
        """
        client = self.client()
        for key in ("k", "l"):
            client.asks(idempotencyKey=key)
            self.commit()
        self.assertEqual([reply["data"]["order"] for reply in client.replies()], [1, 2])
        client.asks(extID="b", idempotencyKey="k")
        [reply] = client.hears()
        self.assertEqual((reply["data"]["order"], reply["replayed"]), (1, True))

    def test_number(self) -> None:
        """
        An integer is written as a key, and found by it.
        """
        client = self.client()
        client.asks(extID=5)
        self.commit()
        client.hears()
        client.asks("GetOperation", "g", {"idempotencyKey": "#5"})
        [reply] = client.hears()
        self.assertEqual((reply["status"], reply["data"]["order"]), (200, 1))

    def test_sameNumber(self) -> None:
        """
        5 and 5.0 are one integer, and so one key.
        """
        client = self.client()
        client.asks(extID=5)
        self.commit()
        client.hears()
        client.asks(extID=5.0)
        [reply] = client.hears()
        self.assertEqual((reply["data"]["order"], reply["replayed"]), (1, True))

    def test_withoutExtID(self) -> None:
        """
        A request that has neither is booked each time.
        """
        client = self.client()
        client.asks("CreditIn", None)
        client.asks("CreditIn", None)
        self.commit()
        self.assertEqual([reply["data"]["order"] for reply in client.replies()], [1, 2])

    def test_badExtID(self) -> None:
        """
        An extID that is none is refused as such.
        """
        client = self.client()
        bad: list[object] = [True, 1.5, "", "x" * 129, [], {}]
        for extID in bad:
            client.asks(extID=extID)
            [reply] = client.hears()
            self.assertEqual((reply["status"], reply["error"]), (400, "INVALID_DATA"))
            self.assertTrue(reply["message"].startswith("extID "), reply["message"])

    def test_notUnlessAsked(self) -> None:
        """
        By default an extID only correlates: reused, it books again.
        """
        self.serve(self.embedded)
        client = self.client()
        client.asks()
        self.commit()
        client.asks()
        self.commit()
        self.assertEqual([reply["data"]["order"] for reply in client.replies()], [1, 2])


class EndTests(SessionTestCase):
    """
    The client is gone.
    """

    def test_bookingGoesOn(self) -> None:
        """
        What it asked for is booked and broadcast, without a reply, an error
        or anything left behind.
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
        So is what waits for its commit only.
        """
        client = self.client()
        client.asks("CreditIn")
        client.session.ended()
        self.bookAll()
        self.assertEqual(client.heard, [])
        self.assertAtRest()

    def test_lostAfterTheEnd(self) -> None:
        """
        A commit that fails afterwards is not an unhandled error.
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
        Another session that waits at the same order is not touched.
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
        A session that ends while it is sent one of several replies is sent no
        other, and none is waited for.
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


class ExtIDTests(SessionTestCase):
    """
    The client's correlation id.
    """

    def assertEchoed(self, extID: bytes) -> None:
        """
        A success and a refusal both echo this extID as it is written.
        """
        client = self.client()
        client.says(b'{"command":"HealthCheck","extID":%b,"__token":"manager"}' % extID)
        client.says(b'{"command":"HealthCheck","extID":%b}' % extID)
        success, refusal = client.heard
        self.assertTrue(success.startswith(b'{"extID":%b,"status":200,' % extID))
        self.assertTrue(refusal.startswith(b'{"extID":%b,"status":401,' % extID))

    def test_echoedWithItsType(self) -> None:
        """
        It comes back with its JSON type and value unchanged.
        """
        for extID in (
            b"1",
            b'"1"',
            b"1.0",
            b"0",
            b"-1",
            b"9007199254740991",
            b"-9007199254740991",
            b'"%b"' % (b"x" * 128),
            b'"\\u00e9\\u0027"',
        ):
            self.assertEchoed(extID)

    def test_refused(self) -> None:
        """
        An extID that is none is not echoed, and the refusal names it.
        """
        bad: list[object] = [True, 1.5, "", "x" * 129, [], {}, 9007199254740991.5]
        for extID in bad:
            client = self.client()
            client.asks("HealthCheck", extID, {})
            [reply] = client.hears()
            self.assertNotIn("extID", reply)
            self.assertEqual((reply["status"], reply["error"]), (400, "INVALID_DATA"))
            self.assertIn("extID", reply["message"])

    def test_null(self) -> None:
        """
        Null is no extID.
        """
        client = self.client()
        client.says(b'{"command":"HealthCheck","extID":null,"__token":"manager"}')
        [reply] = client.hears()
        self.assertNotIn("extID", reply)
        self.assertEqual(reply["status"], 400)

    def test_ofABadEnvelope(self) -> None:
        """
        A good extID is echoed whatever is wrong with the other members.
        """
        client = self.client()
        client.says(b'{"extID":"x"}')
        client.says(b'{"extID":"y","command":7}')
        client.says(b'{"extID":"z","command":"HealthCheck","data":[]}')
        client.says(b'{"extID":1,"command":"HealthCheck","__token":7}')
        client.says(b'{"extID":2,"command":"HealthCheck","idempotencyKey":""}')
        replies = client.hears()
        self.assertEqual(
            [reply["extID"] for reply in replies],
            ["x", "y", "z", 1, 2],
        )
        self.assertEqual({reply["error"] for reply in replies}, {"INVALID_DATA"})
        for reply, member in zip(
            replies,
            ["command", "command", "data", "__token", "idempotencyKey"],
            strict=True,
        ):
            self.assertIn(member, reply["message"])

    def test_echoedUnderASiteSchema(self) -> None:
        """
        So it is when a site's schema asks more of the envelope.
        """
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        Path(made.name, "request.json").write_text('{"required": ["from"]}')
        self.serve(self.runtime, schemas=Schemas(Path(made.name)))
        client = self.client()
        client.asks("HealthCheck", "x", {})
        self.assertEqual(client.outcomes(), [("x", 400, "INVALID_DATA")])

    def test_ofNoJSON(self) -> None:
        """
        A line that is refused as no I-JSON is answered under its extID if that
        is good in itself.
        """
        for line, extID in (
            (b'{"extID":"x","data":{"amount":NaN}}', "x"),
            (b'{"data":{"comment":"\\ud83d"},"extID":7}', 7),
            (b'{"extID":"x","data":{"comment":"\xff"}}', "x"),
            (b'{"extID":"x","extID":"y"}', None),
            (b'{"extID":1.5,"data":{"amount":NaN}}', None),
            (b'{"extID":"","data":{"amount":NaN}}', None),
            (b'{"extID":true,"data":{"amount":NaN}}', None),
            (b'{"extID":null,"data":{"amount":NaN}}', None),
            (b'{"extID":"%b","data":NaN}' % (b"x" * 128), "x" * 128),
            (b'{"extID":"%b","data":NaN}' % (b"x" * 129), None),
            (b"{", None),
            (b"", None),
        ):
            client = self.client()
            client.says(line)
            self.assertEqual(client.outcomes(), [(extID, 400, "INVALID_JSON")], line)

    def test_unread(self) -> None:
        """
        So is a line that is not read at all, as it is too long.
        """
        client = self.client()
        line = b'{"extID":"x","data":{"comment":"' + b"x" * 70_000
        client.session.refuseUnread(line, Busy("too long"))
        client.session.refuseUnread(b"x" * 70_000, Busy("too long"))
        self.assertEqual(client.outcomes(), [("x", 503, "BUSY"), (None, 503, "BUSY")])

    def test_misplacedKey(self) -> None:
        """
        An idempotency key inside of data is refused, and nothing happens.
        """
        client = self.client()
        client.asks(data={**DATA, "idempotencyKey": "k"})
        client.asks("DeleteCreditSync", "b", {"order": 5, "idempotencyKey": "k"})
        for reply in client.hears():
            self.assertEqual((reply["status"], reply["error"]), (400, "INVALID_DATA"))
            self.assertIn("beside data", reply["message"])
        self.assertEqual(self.runtime.reserved, [])

    def test_requiredBySync(self) -> None:
        """
        A C{*Sync} command without an extID is refused, and nothing happens.
        """
        client = self.client()
        client.asks(extID=None)
        [reply] = client.hears()
        self.assertEqual((reply["status"], reply["error"]), (400, "INVALID_DATA"))
        self.assertIn("extID", reply["message"])
        self.assertEqual(self.runtime.reserved, [])

    def test_duplicate(self) -> None:
        """
        While a request waits, another one under its extID is refused, and the
        first gets its own reply.
        """
        client = self.client()
        client.asks()
        client.asks()
        self.assertEqual(client.outcomes(), [("a", 409, "DUPLICATE_EXTID")])
        self.assertEqual(len(self.runtime.reserved), 1)
        self.bookAll()
        self.assertEqual(client.outcomes(), [("a", 200, None)])
        self.assertAtRest()

    def test_duplicateOfAnotherCommand(self) -> None:
        """
        It is the extID that counts, not the command.
        """
        client = self.client()
        client.asks("CreditIn")
        client.asks("HealthCheck", data={})
        self.assertEqual(client.outcomes(), [("a", 409, "DUPLICATE_EXTID")])

    def test_sameNumberIsADuplicate(self) -> None:
        """
        1 and 1.0 are one JSON number, which a client could not tell apart.
        """
        client = self.client()
        client.asks(extID=1)
        client.asks(extID=1.0)
        [line] = client.heard
        self.assertTrue(line.startswith(b'{"extID":1.0,"status":409,'))

    def test_textIsNoNumber(self) -> None:
        """
        1 and "1" are different extIDs, each with its own reply.
        """
        client = self.client()
        client.asks(extID=1)
        client.asks(extID="1")
        self.assertEqual(client.heard, [])
        self.bookAll()
        self.assertEqual(client.outcomes(), [(1, 200, None), ("1", 200, None)])

    def test_duplicateWhileReserving(self) -> None:
        """
        A request waits from the moment when it is taken.
        """
        self.serve(SlowRuntime())
        client = self.client()
        client.asks()
        client.asks()
        self.assertEqual(client.outcomes(), [("a", 409, "DUPLICATE_EXTID")])
        client.session.ended()
        self.clock.advance(5)


class RefusalTests(SessionTestCase):
    """
    What is refused before anything happens.
    """

    def assertRefused(self, status: int, error: str, named: str, **ask: Any) -> None:
        """
        Such a request is refused with this, and the session lives on.
        """
        client = self.client()
        client.asks(**ask)
        [reply] = client.hears()
        self.assertEqual(
            (reply["extID"], reply["status"], reply["error"]), ("a", status, error)
        )
        self.assertIn(named, reply["message"])
        self.assertEqual(self.runtime.reserved, [])
        client.asks("HealthCheck", "b", {})
        self.assertEqual(client.outcomes(), [("b", 200, None)])

    def test_notJSON(self) -> None:
        """
        What is not I-JSON is 400, and the session lives on.
        """
        client = self.client()
        for line in (b"nonsense", b"[]", b'{"a":1,"a":2}', b'{"a":NaN}', b"\xff"):
            client.says(line)
        self.assertEqual(client.outcomes(), [(None, 400, "INVALID_JSON")] * 5)
        client.asks("HealthCheck", "b", {})
        self.assertEqual(client.outcomes(), [("b", 200, None)])

    def test_data(self) -> None:
        """
        Data that breaks its schema is 400 and names the member.
        """
        for member, value in (
            ("login", True),
            ("login", "1001"),
            ("login", 0),
            ("amount", 0),
            ("amount", -1),
            ("amount", 1.123456789),
            ("comment", ""),
            ("order", -1),
            ("open_time", 1.5),
        ):
            self.assertRefused(
                400, "INVALID_DATA", f"data.{member}", data={**DATA, member: value}
            )

    def test_missing(self) -> None:
        """
        A missing member is named.
        """
        self.assertRefused(
            400, "INVALID_DATA", "data.comment", data={"login": 1, "amount": 1}
        )

    def test_noData(self) -> None:
        """
        Absent data means C{{}}.
        """
        client = self.client()
        client.says(b'{"command":"HealthCheck","__token":"manager"}')
        self.assertEqual(client.outcomes(), [(None, 200, None)])

    def test_times(self) -> None:
        """
        A transaction can't close before it opens.
        """
        self.assertRefused(
            400,
            "INVALID_DATA",
            "data.close_time",
            data={**DATA, "open_time": 2, "close_time": 1},
        )

    def test_unknownCommand(self) -> None:
        """
        A command that there is not is 404.
        """
        self.assertRefused(404, "UNKNOWN_COMMAND", "command", command="CreditUp")

    def test_noToken(self) -> None:
        """
        Without a token a command is 401, and the connection stays open.
        """
        self.assertRefused(401, "UNAUTHORIZED", "__token", token=None)

    def test_badToken(self) -> None:
        """
        So it is with a bad one.
        """
        self.assertRefused(401, "UNAUTHORIZED", "__token", token="forged")

    def test_strangersLearnNothing(self) -> None:
        """
        Without a good token nobody learns which commands there are.
        """
        self.assertRefused(
            401, "UNAUTHORIZED", "__token", token=None, command="CreditUp"
        )

    def test_forbidden(self) -> None:
        """
        A role that may not use a command is told so before its data is judged.
        """
        self.assertRefused(403, "FORBIDDEN", "CreditInSync", token="user", data={})


class LimitTests(SessionTestCase):
    """
    Everything that can queue has a bound and a refusal.
    """

    def test_perSession(self) -> None:
        """
        A session over its limit is told 429; another one is not.
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
        Each answer makes room for one more.
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
        A server over its limit says 503 BUSY, and when to come again.
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
        What a session had in flight no longer counts when it is gone.
        """
        self.serve(self.runtime, limits=Limits(maxPending=1))
        first, second = self.client(), self.client()
        first.asks()
        first.session.ended()
        second.asks()
        self.assertEqual(second.heard, [])


class FaultTests(SessionTestCase):
    """
    Faults of ours: one fixed answer on the wire, the cause in the log.
    """

    def test_raised(self) -> None:
        """
        A command that raises is 500, as nothing was reserved.
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
        So is one whose Deferred fails.
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
        Of a runtime that reserves elsewhere and fails, nobody knows whether it
        has reserved: 504, and the cause in the log.
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
        A command that gives no response is 500.
        """
        self.serve(self.runtime, Scripted(None))
        client = self.client()
        client.asks("Scripted", data={})
        self.assertEqual(client.outcomes(), [("a", 500, "TECH_PROBLEM")])
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_authenticatorFails(self) -> None:
        """
        An authenticator that fails is 500.
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
        A fault after the reservation is never "nothing happened": it is a
        504 with the order.
        """
        durable: Deferred[None] = Deferred()
        response = {
            "unspeakable": object(),
            "__deferred": Deferral(77, 0, Operation("CreditIn", 7, 1, 1, "x"), durable),
        }
        self.serve(self.runtime, Scripted(response))
        client = self.client()
        client.asks("Scripted", data={})
        durable.callback(None)
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
        So is one of an operation that is durable as soon as it is reserved.
        """
        operation = Operation("CreditIn", 7, 1, 1, "x")
        response = {
            "unspeakable": object(),
            "__deferred": Deferral(77, 0, operation, succeed(None)),
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
        A commit that fails with whatever cause is a 504 with the order.
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
        A runtime that refuses with a bare L{Refusal}, which has no status,
        still gets its client one answer.
        """
        self.runtime.refusal = Refusal("the account is frozen")
        client = self.client()
        client.asks()
        self.assertEqual(client.outcomes(), [("a", 500, "TECH_PROBLEM")])
        self.flushLoggedErrors()
        self.assertAtRest()

    def test_sessionLivesOn(self) -> None:
        """
        After a fault the session and its extID are as good as before.
        """
        self.serve(self.runtime, Scripted(ZeroDivisionError()))
        client = self.client()
        client.asks("Scripted", data={})
        client.asks("HealthCheck", data={})
        self.assertEqual(
            client.outcomes(), [("a", 500, "TECH_PROBLEM"), ("a", 200, None)]
        )
        self.flushLoggedErrors(ZeroDivisionError)


class StreamTests(SessionTestCase):
    """
    Who receives trade events.
    """

    def listening(self, token: str = "manager") -> Client:
        """
        A client whose token was accepted, and which heard nothing since.
        """
        client = self.client()
        client.asks("HealthCheck", None, {}, token)
        client.hears()
        return client

    def assertListens(self, client: Client, listens: bool = True) -> None:
        """
        This client receives an event, or does not.
        """
        self.publish(0, {"order": 1})
        self.assertEqual(
            client.hears(),
            [{"event": "trade:event", "type": 0, "data": {"order": 1}}] * listens,
        )

    def test_strangersHearNothing(self) -> None:
        """
        A connection without an accepted token receives no events.
        """
        silent, refused = self.client(), self.client()
        refused.asks(token="forged")
        refused.hears()
        self.assertListens(silent, False)
        self.assertListens(refused, False)

    def test_anyRoleListens(self) -> None:
        """
        Every session with an accepted token does, whatever its role.
        """
        self.assertListens(self.listening("user"))

    def test_refusedCommandListens(self) -> None:
        """
        It is the token that must be accepted, not the command.
        """
        client = self.client()
        client.asks("CreditUp")
        client.hears()
        self.assertListens(client)

    def test_unsubscribe(self) -> None:
        """
        C{Unsubscribe} stops the stream, C{Subscribe} resumes it.
        """
        client = self.listening()
        client.asks("Unsubscribe", 1, {"chanels": ["trade:event"]})
        self.assertEqual(
            client.hears(),
            [{"extID": 1, "status": 200, "data": {"chanels": ["trade:event"]}}],
        )
        self.assertListens(client, False)
        client.asks("Subscribe", None, {"chanels": ["trade:event"]})
        self.assertEqual(
            client.hears(), [{"status": 200, "data": {"chanels": ["trade:event"]}}]
        )
        self.assertListens(client)

    def test_unsubscribedForTheConnection(self) -> None:
        """
        Another connection goes on to listen.
        """
        client, other = self.listening(), self.listening()
        client.asks("Unsubscribe", 1, {"chanels": ["trade:event"]})
        self.assertListens(other)

    def test_unsubscribedWaitsAllTheSame(self) -> None:
        """
        Who does not listen still gets the reply that it waits for.
        """
        client = self.listening()
        client.asks("Unsubscribe", 1, {"chanels": ["trade:event"]})
        client.hears()
        client.says(SEED_REQUEST)
        self.bookAll()
        self.assertEqual(client.heard, [SEED_REPLY])

    def test_unsubscribedStaysSo(self) -> None:
        """
        Another good token on the connection does not resume the stream.
        """
        client = self.listening()
        client.asks("Unsubscribe", 1, {"chanels": ["trade:event"]})
        client.asks("HealthCheck", None, {}, "admin")
        client.hears()
        self.assertListens(client, False)

    def test_unknownChannel(self) -> None:
        """
        An unknown channel is 404, and nothing has changed.
        """
        client = self.listening()
        client.asks("Unsubscribe", 1, {"chanels": ["trade:event", "quotes"]})
        self.assertEqual(client.outcomes(), [(1, 404, "NOT_FOUND")])
        self.assertListens(client)

    def test_channelsAreRequired(self) -> None:
        """
        The platform's spelling is the member's name.
        """
        client = self.listening()
        client.asks("Subscribe", 1, {"channels": ["trade:event"]})
        [reply] = client.hears()
        self.assertEqual((reply["status"], reply["error"]), (400, "INVALID_DATA"))
        self.assertIn("data.chanels", reply["message"])

    def test_revoked(self) -> None:
        """
        When its token is revoked a session's stream stops, and its next
        command is 401.
        """
        client = self.listening()
        self.authenticator.revoked.add("manager")
        self.assertListens(client, False)
        client.asks("HealthCheck", 1, {})
        self.assertEqual(client.outcomes(), [(1, 401, "UNAUTHORIZED")])

    def test_resumesWithAGoodToken(self) -> None:
        """
        A good token resumes it, be it another or the same one again.
        """
        client = self.listening()
        self.authenticator.revoked.add("manager")
        self.assertListens(client, False)
        client.asks("HealthCheck", 1, {}, "admin")
        client.hears()
        self.assertListens(client)
        self.authenticator.revoked = {"admin"}
        self.assertListens(client, False)
        client.asks("HealthCheck", 1, {}, "manager")
        client.hears()
        self.assertListens(client)

    def test_latestTokenCounts(self) -> None:
        """
        It is the token that a session used last whose end stops its stream.
        """
        client = self.listening("manager")
        client.asks("HealthCheck", None, {}, "admin")
        client.hears()
        self.authenticator.revoked = {"manager"}
        self.assertListens(client)
        self.authenticator.revoked = {"admin"}
        self.assertListens(client, False)

    def test_sameTokenGoodAgain(self) -> None:
        """
        So does the same token, once it is good again.
        """
        client = self.listening()
        self.authenticator.revoked.add("manager")
        self.assertListens(client, False)
        self.authenticator.revoked.clear()
        self.assertListens(client, False)
        client.asks("HealthCheck", None, {})
        client.hears()
        self.assertListens(client)

    def test_badTokenOfAGoodSession(self) -> None:
        """
        A command with a bad token does not end the stream that a good one
        began.
        """
        client = self.listening()
        client.asks(token="forged")
        client.hears()
        self.assertListens(client)

    def test_revokedWhileWaiting(self) -> None:
        """
        Who waits when its token is revoked still gets its reply.
        """
        client = self.client()
        client.says(SEED_REQUEST)
        self.authenticator.revoked.add("manager")
        self.bookAll()
        self.assertEqual(client.heard, [SEED_REPLY])

    def test_othersListenOn(self) -> None:
        """
        One session's end of stream is not another's.
        """
        self.listening("manager")
        other = self.listening("admin")
        self.authenticator.revoked.add("manager")
        self.assertListens(other)

    def test_expired(self) -> None:
        """
        A token that expires stops the stream as a revoked one does.
        """
        expires = Principal(7, 1, 10.0, "brief")

        class Brief(FakeAuthenticator):
            now = 0.0

            def authenticate(self, token: str | None) -> Principal:
                return expires

            def isCurrent(self, principal: Principal) -> bool:
                return principal is expires and self.now < principal.expires

        brief = Brief()
        self.serve(self.runtime, authenticator=brief)
        client = self.listening()
        brief.now = 9.0
        self.assertListens(client)
        brief.now = 10.0
        self.assertListens(client, False)


class HealthCheckTests(SessionTestCase):
    """
    What the server says of itself.
    """

    def test_health(self) -> None:
        """
        Its status, version, seconds up and number of waiters.
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


class StopTests(SessionTestCase):
    """
    The server is stopping.
    """

    def test_refusesWhatIsNew(self) -> None:
        """
        A new request is 503 SHUTDOWN and says when to come again.
        """
        client = self.client()
        self.successResultOf(self.sessions.stop())
        client.asks()
        self.assertEqual(
            client.hears(),
            [
                {
                    "extID": "a",
                    "status": 503,
                    "error": "SHUTDOWN",
                    "message": "the server is stopping",
                    "data": {"retry_after_ms": 5000},
                }
            ],
        )
        self.assertEqual(self.runtime.reserved, [])

    def test_waitsForAnswers(self) -> None:
        """
        It has stopped when each request that was taken has its answer.
        """
        first, second = self.client(), self.client()
        first.asks("CreditIn")
        second.asks()
        stopped = self.sessions.stop()
        accepted, booked = self.runtime.reserved
        self.runtime.book(accepted)
        self.assertNoResult(stopped)
        self.runtime.book(booked)
        self.successResultOf(stopped)
        self.assertEqual(first.outcomes(), [("a", 200, None)])
        self.assertEqual(second.outcomes(), [("a", 200, None)])

    def test_endedSessionsNeedNone(self) -> None:
        """
        A session that is gone is not waited for.
        """
        client = self.client()
        client.asks()
        stopped = self.sessions.stop()
        client.session.ended()
        self.successResultOf(stopped)

    def test_twice(self) -> None:
        """
        Who asks twice is told both times.
        """
        client = self.client()
        client.asks()
        stops: Sequence[Deferred[None]] = [self.sessions.stop(), self.sessions.stop()]
        self.bookAll()
        for stopped in stops:
            self.successResultOf(stopped)
