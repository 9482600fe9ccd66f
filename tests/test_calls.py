"""
Tests for L{creditsync._conversation.calls}, by C{CreditSync.call}.
"""

import gc
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from weakref import ref

from twisted.internet.defer import CancelledError, Deferred, execute
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from creditsync._conversation.calls import Call
from creditsync.audit import AuditTrail
from creditsync.codes import SESSION_MANAGER, SESSION_USER
from creditsync.counters import Counters
from creditsync.errors import (
    Busy,
    Forbidden,
    IdempotencyKeyReused,
    InvalidData,
    InvalidJSON,
    NoMoney,
    NotFound,
    OutcomeUnknown,
    Refusal,
    ShuttingDown,
    TechProblem,
    Unauthorized,
    UnknownCommand,
)
from creditsync.events import TradeEvents
from creditsync.limits import Limits
from creditsync.records import Principal, TradeEvent
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator, FakeTradingRuntime
from creditsync.validation import Schemas
from tests import counts
from tests.observed import DATA, NOW, Client, LaterRuntime, ObservedTestCase

CASHIER = Principal(12, SESSION_MANAGER, math.inf)

# The reply to DATA on a new ledger.
TRADE = {
    "order": 1,
    "login": 1001,
    "cmd": 7,
    "state": 3,
    "profit": 300.0,
    "comment": "Promotion credit",
    "symbol": "",
    "volume": 0,
    "open_price": 0.0,
    "close_price": 0.0,
    "open_time": 1767225600,
    "close_time": 1767225600,
    "sl": 0.0,
    "tp": 0.0,
    "storage": 0.0,
    "commission": 0.0,
    "reason": 7,
    "timestamp": 1767225600,
    "cursor": "9f3c1a7e-1",
}


class CallTestCase(ObservedTestCase):
    """
    A server in memory with counters and an audit trail.
    """

    def serve(self, **limits: Any) -> None:
        """
        Start the server.
        """
        super().serve(**limits)
        self.trail()

    def trail(self) -> None:
        """
        Give the server an audit trail.
        """
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = Path(folder.name, "audit")
        trail = AuditTrail(path, self.reactor, lambda: NOW, execute)
        trail.open()
        self.server.audit = self.server.sessions.audit = trail
        self.events.addObserver(trail.booked)

    def call(
        self,
        command: str = "CreditInSync",
        data: Any = DATA,
        key: str | None = None,
        principal: Principal = CASHIER,
    ) -> "Deferred[dict[str, Any]]":
        """
        Ask the server.
        """
        return self.server.call(command, data, principal, key)

    def refusal(self, result: "Deferred[Any]", kind: type[Refusal]) -> Refusal:
        """
        The refusal of exactly this kind with which a call has failed.
        """
        refusal = self.failureResultOf(result).value
        self.assertIs(type(refusal), kind)
        assert isinstance(refusal, Refusal)
        return refusal

    def recorded(self) -> list[Any]:
        """
        The lines of the audit trail, without their time.
        """
        self.reactor.advance(1)
        audit = self.server.audit
        assert audit is not None
        lines = [json.loads(line) for line in audit.path.read_text().splitlines()]
        for line in lines:
            del line["time"]
        return lines

    def assertNothingLeft(self) -> None:
        """
        Assert that all counts are zero, and that no call is kept waiting or timed.
        """
        self.turns()
        self.reactor.advance(1)
        self.assertEqual(counts.left(self.server), {})
        self.assertEqual(self.reactor.getDelayedCalls(), [])


class AnswerTests(CallTestCase):
    """
    Tests for calls that succeed.
    """

    def test_sync(self) -> None:
        """
        A call of a Sync command fires with the data of the event, when that has been
        published.
        """
        result = self.call()
        self.turns()
        self.assertNoResult(result)
        self.commits()
        self.assertEqual(self.successResultOf(result), TRADE)
        self.assertNothingLeft()

    def test_asynchronous(self) -> None:
        """
        A call of the other form fires when the operation is on disk, with the data
        of the usual reply.
        """
        result = self.call("CreditIn")
        self.turns()
        self.assertNoResult(result)
        self.commits()
        self.assertEqual(
            self.successResultOf(result),
            {
                "accepted": True,
                "order": 1,
                "state": 10,
                "login": 1001,
                "cmd": 7,
                "amount": 300,
            },
        )
        self.assertNothingLeft()

    def test_family(self) -> None:
        """
        Every finance command can be called.
        """
        account = {"login": 1001, "comment": "x"}
        for command, data, order in (
            ("BalanceInSync", {**account, "amount": 9}, 1),
            ("BalanceOutSync", {**account, "amount": -9}, 2),
            ("CreditInSync", {**account, "amount": 9}, 3),
            ("CreditOutSync", {**account, "amount": -1}, 4),
            ("DeleteCreditSync", {"order": 4}, 4),
            ("DeleteBalance", {"order": 2}, 2),
        ):
            result = self.call(command, data)
            self.commits()
            self.assertEqual(self.successResultOf(result)["order"], order)

    def test_health(self) -> None:
        """
        A call of HealthCheck fires at once.
        """
        self.assertEqual(
            self.successResultOf(self.call("HealthCheck", {}))["pending"], 0
        )
        self.assertNothingLeft()

    def test_getOperation(self) -> None:
        """
        A call of GetOperation finds what the same principal has called for.
        """
        self.call(key="k")
        self.commits()
        for data in ({"order": 1}, {"idempotencyKey": "k"}):
            found = self.successResultOf(self.call("GetOperation", data))
            self.assertEqual(found, TRADE)
        other = Principal(13, SESSION_MANAGER, math.inf)
        result = self.call("GetOperation", {"idempotencyKey": "k"}, None, other)
        self.refusal(result, NotFound)
        self.assertNothingLeft()

    def test_exact(self) -> None:
        """
        Amounts mean what they would mean in a line, and come back exact.
        """
        for amount, profit in (
            (Decimal("20.50"), 20.5),
            (Decimal("1E+2"), 100.0),
            (0.1 + 0.2, 0.3),
            (7, 7.0),
            (Decimal("9999999999.12345678"), Decimal("9999999999.12345678")),
        ):
            result = self.call(data={**DATA, "amount": amount})
            self.commits()
            found = self.successResultOf(result)["profit"]
            self.assertEqual((found, type(found)), (profit, type(profit)))

    def test_text(self) -> None:
        """
        Text comes back as it was given.
        """
        comment = "It's a cr\u00e9dit, \U0001f600}\n\\"
        result = self.call(data={**DATA, "comment": comment})
        self.commits()
        self.assertEqual(self.successResultOf(result)["comment"], comment)

    def test_clients(self) -> None:
        """
        Clients receive the event of a call, and nothing else.
        """
        client = Client(self.server)
        client.asks("HealthCheck", 1, {})
        self.turns()
        client.wire.clear()
        self.call()
        self.commits()
        [line] = client.wire.value().splitlines()
        self.assertEqual(
            json.loads(line), {"event": "trade:event", "type": 0, "data": TRADE}
        )

    def test_sameKey(self) -> None:
        """
        Two calls under one key, the second before the first was booked or after
        that, are one operation, and both fire with its data.
        """
        first, second = self.call(key="k"), self.call(key="k")
        self.commits()
        third = self.call(key="k")
        for result in (first, second, third):
            self.assertEqual(self.successResultOf(result), TRADE)
        result = self.call("BalanceInSync", key="k")
        refusal = self.refusal(result, IdempotencyKeyReused)
        self.assertEqual(refusal.data, {"order": 1})
        self.assertEqual(
            [line["outcome"] for line in self.recorded()],
            ["replayed", "booked", "replayed", "refused"],
        )
        self.assertNothingLeft()

    def test_sameKeyAsClient(self) -> None:
        """
        A call under the key of the same principal's request by a line is the same
        operation.
        """
        client = Client(self.server)
        client.asks(idempotencyKey="k")
        result = self.call(key="k", principal=Principal(7, SESSION_MANAGER, math.inf))
        self.commits()
        self.assertEqual(client.outcomes(), [("a", 200)])
        self.assertEqual(self.successResultOf(result), TRADE)

    def test_noKey(self) -> None:
        """
        Calls without a key are operations of their own, even on a server that uses
        the C{extID} as the key.
        """
        self.server = CreditSync(
            self.reactor,
            runtime=FakeTradingRuntime(self.events),
            events=self.events,
            authenticator=self.authenticator,
            listen=[],
            isExtIDIdempotent=True,
        )
        self.server.startService()
        runtime: Any = self.server.runtime
        self.call()
        self.call()
        self.assertEqual(
            [(each.order, each.operation.key) for each in runtime.reserved],
            [(1242281, None), (1242282, None)],
        )

    def test_callAgain(self) -> None:
        """
        What the application does when a call fires may make another call, cancel
        one that is answered by the same commit, or fail: others are not affected.
        """
        results = [self.call() for _ in range(4)]
        later: list[Deferred[dict[str, Any]]] = []

        def again(data: dict[str, Any]) -> None:
            later.append(self.call("HealthCheck", {}))
            later.append(self.call())
            results[1].cancel()
            raise KeyError("a fault of the application")

        results[0].addCallback(again)
        self.commits()
        self.failureResultOf(results[0], KeyError)
        self.failureResultOf(results[1], CancelledError)
        orders = [self.successResultOf(each)["order"] for each in results[2:]]
        self.assertEqual(orders, [3, 4])
        health, credit = map(self.successResultOf, later)
        self.assertEqual((health["status"], credit["order"]), ("ok", 5))
        self.assertNothingLeft()


class RefusalTests(CallTestCase):
    """
    Tests for calls that fail.
    """

    def test_refused(self) -> None:
        """
        A call fails with the refusal that a client would be sent.
        """
        user = Principal(10, SESSION_USER, math.inf)
        less = {**DATA, "amount": -1}
        keyed = {**DATA, "idempotencyKey": "k"}
        for result, kind, message in (
            (self.call("Nonsense"), UnknownCommand, "unknown command"),
            (
                self.call("", {}),
                InvalidData,
                "command must have at least 1 character(s)",
            ),
            (
                self.call(principal=user),
                Forbidden,
                "this token's role may not use CreditInSync",
            ),
            (self.call(data={}), InvalidData, "data.login is required"),
            (self.call(data=less), InvalidData, "data.amount must be greater than 0"),
            (self.call(data=[]), InvalidData, "data must be an object"),
            (
                self.call(data=keyed),
                InvalidData,
                "data.idempotencyKey is in the wrong place: an idempotencyKey is a"
                " member of the request itself, beside data",
            ),
            (
                self.call(key=""),
                InvalidData,
                "idempotencyKey must have at least 1 character(s)",
            ),
            (
                self.call("CreditOutSync", less),
                NoMoney,
                "account 1001 does not have enough credit",
            ),
        ):
            self.assertEqual(self.refusal(result, kind).message, message)
        self.assertEqual(self.runtime.queued, 0)
        self.assertNothingLeft()

    def test_notJSON(self) -> None:
        """
        Data that no line could have are a refusal, whatever is wrong with them.
        """
        circle: dict[str, Any] = {}
        circle["circle"] = circle
        deep: dict[str, Any] = {}
        for _ in range(20):
            deep = {"deep": deep}
        for data, kind in (
            ({**DATA, "comment": object()}, InvalidJSON),
            ({**DATA, "comment": "\ud800"}, InvalidJSON),
            ({**DATA, "comment": "\ufffe"}, InvalidJSON),
            ({**DATA, "order": 2**53}, InvalidJSON),
            ({**DATA, "order": 2**70}, InvalidJSON),
            ({**DATA, "amount": Decimal("NaN")}, InvalidJSON),
            ({**DATA, "amount": Decimal("Infinity")}, InvalidJSON),
            ({**DATA, "amount": Decimal("1E+400")}, InvalidJSON),
            ({**DATA, "amount": math.nan}, InvalidData),
            ({**DATA, "amount": Decimal("0.123456789")}, InvalidData),
            ({**DATA, "others": circle}, InvalidJSON),
            ({**DATA, "others": deep}, InvalidJSON),
        ):
            self.refusal(self.call(data=data), kind)
        self.assertEqual(self.runtime.queued, 0)
        self.assertNothingLeft()

    def test_site(self) -> None:
        """
        The site's own schemas are applied.
        """
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        schema = {"properties": {"login": {"maximum": 1000}}}
        Path(folder.name, "credit_in.json").write_text(json.dumps(schema))
        self.server = CreditSync(
            self.reactor,
            runtime=FakeTradingRuntime(self.events),
            events=self.events,
            authenticator=self.authenticator,
            listen=[],
            schemas=Schemas(Path(folder.name)),
        )
        self.server.startService()
        refusal = self.refusal(self.call(), InvalidData)
        self.assertEqual(refusal.message, "data.login must be at most 1000")
        self.assertNoResult(self.call(data={**DATA, "login": 1000}))

    def test_notCurrent(self) -> None:
        """
        A principal that the authenticator does not find current is refused.
        """
        revoked = Principal(7, SESSION_MANAGER, math.inf, "manager")
        self.assertNoResult(self.call(principal=revoked))
        self.authenticator.revoked.add("manager")
        refusal = self.refusal(self.call(principal=revoked), Unauthorized)
        self.assertEqual(refusal.message, "the principal has expired or was revoked")

    def test_subscribe(self) -> None:
        """
        A call can't subscribe: it has no connection to receive events.
        """
        channels = {"chanels": ["trade:event"]}
        for command in ("Subscribe", "Unsubscribe"):
            self.refusal(self.call(command, channels), UnknownCommand)
        self.assertNothingLeft()
        self.assertEqual(counts.left(self.server, isClosed=True), {})

    def test_limits(self) -> None:
        """
        Calls count among all requests in flight, and each is a session of its own.
        """
        self.serve(maxPending=3, maxPendingPerSession=1)
        results = [self.call() for _ in range(3)]
        refusal = self.refusal(self.call(), Busy)
        self.assertEqual(refusal.limit, "max-pending")
        self.assertEqual(self.counters.limits, {"max-pending": 1})
        client = Client(self.server)
        client.asks()
        self.turns()
        self.assertEqual(client.outcomes(), [("a", 503)])
        self.commits()
        orders = [self.successResultOf(each)["order"] for each in results]
        self.assertEqual(orders, [1, 2, 3])
        self.assertNothingLeft()

    def test_timeout(self) -> None:
        """
        After the timeout a call fails with an unknown outcome that has the order,
        in both forms. The operation is booked all the same.
        """
        results = [self.call(), self.call("CreditIn")]
        self.turns()
        self.reactor.advance(4.9)
        for result in results:
            self.assertNoResult(result)
        self.reactor.advance(0.1)
        for order, result in enumerate(results, 1):
            refusal = self.refusal(result, OutcomeUnknown)
            self.assertEqual(refusal.data, {"order": order})
        self.assertEqual(self.counters.timeouts, 2)
        self.commits()
        found = self.call("GetOperation", {"order": 1})
        self.assertEqual(self.successResultOf(found)["state"], 3)
        self.assertEqual(self.counters.late, 2)
        self.assertNothingLeft()

    def test_fault(self) -> None:
        """
        A fault of the server is a refusal too, and is logged.
        """
        self.patch(self.runtime, "submit", lambda operation: 1 / 0)
        self.refusal(self.call(), TechProblem)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertNothingLeft()

    def test_runtimeFails(self) -> None:
        """
        If the runtime fails, the outcome of pending calls is unknown, and later ones
        are refused.
        """
        result = self.call()
        self.turns()
        self.server.whenFailed().addErrback(lambda why: None)
        self.ledger.fail(OSError("disk"))
        self.turns()
        self.assertEqual(self.refusal(result, OutcomeUnknown).data, {"order": 1})
        self.refusal(self.call(), ShuttingDown)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)


class CancelTests(CallTestCase):
    """
    Tests for calls that are cancelled.
    """

    def test_pending(self) -> None:
        """
        A call that is cancelled before it was booked fails at once, leaves nothing
        behind, and its operation is booked.
        """
        for number, command in enumerate(("CreditInSync", "CreditIn"), 1):
            result = self.call(command)
            self.turns()
            with capturedLogs() as logs:
                result.cancel()
                self.failureResultOf(result, CancelledError)
                self.assertEqual(len(self.server.waiters), 0)
                self.commits()
                gc.collect()
            self.assertEqual([log for log in logs if "log_failure" in log], [])
            found = self.call("GetOperation", {"order": number})
            self.assertEqual(self.successResultOf(found)["state"], 3)
            self.assertNothingLeft()
        self.assertEqual(self.counters.late, 2)

    def test_answered(self) -> None:
        """
        To cancel a call that has fired does nothing.
        """
        result = self.call()
        self.commits()
        result.cancel()
        self.assertEqual(self.successResultOf(result), TRADE)
        self.assertNothingLeft()

    def test_atTheStop(self) -> None:
        """
        A stop does not wait for a call that was cancelled.
        """
        result = self.call()
        stopped = self.server.sessions.stop()
        self.assertNoResult(stopped)
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.successResultOf(stopped)

    def test_references(self) -> None:
        """
        The server, which remembers recent requests and those to be booked, keeps
        nothing of what the application holds in a call's Deferred, neither after its
        reply nor after it was cancelled.
        """
        ended = []
        for isCancelled in (False, True):
            for command in ("CreditInSync", "Nonsense"):
                result = self.call(command)
                result.addErrback(lambda why: None)
                ended.append(ref(result))
                if isCancelled:
                    result.cancel()
                else:
                    self.commits()
                del result
        gc.collect()
        self.assertEqual([each() for each in ended], [None] * 4)


class StateTests(CallTestCase):
    """
    Tests for calls before the start, during the stop and after it.
    """

    def test_notStarted(self) -> None:
        """
        A call before the start is refused.
        """
        server = CreditSync(
            self.reactor,
            runtime=FakeTradingRuntime(self.events),
            events=self.events,
            authenticator=self.authenticator,
            listen=[],
        )
        refusal = self.refusal(server.call("HealthCheck", {}, CASHIER), ShuttingDown)
        self.assertEqual(refusal.message, "the server has not started or has stopped")

    def test_stop(self) -> None:
        """
        The stop waits for the reply of a call, and refuses later ones: first those
        which it still counts and records, at last all.
        """
        pending = self.call()
        self.turns()
        stopped = self.server.stopService()
        refusal = self.refusal(self.call(), ShuttingDown)
        self.assertEqual(refusal.message, "the server is stopping")
        self.assertNoResult(pending)
        self.commits()
        self.assertEqual(self.successResultOf(pending), TRADE)
        for _ in range(3):
            self.reactor.advance(1)
        self.successResultOf(stopped)
        refusal = self.refusal(self.call(), ShuttingDown)
        self.assertEqual(refusal.message, "the server has not started or has stopped")
        self.assertEqual(self.counters.refusals, {("CreditInSync", 503, "SHUTDOWN"): 1})
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual(counts.left(self.server, isClosed=True), {})


class ObservedTests(CallTestCase):
    """
    Tests for what operators see of calls.
    """

    def test_audit(self) -> None:
        """
        The audit trail tells who has called, in lines like those of clients'
        requests.
        """
        late = [self.call(key="k")]
        self.refusal(self.call("CreditOut", {**DATA, "amount": -999}), NoMoney)
        self.call("HealthCheck", {})
        revoked = Principal(7, SESSION_MANAGER, math.inf, "manager")
        self.authenticator.revoked.add("manager")
        self.refusal(self.call(principal=revoked), Unauthorized)
        late.append(self.call("CreditIn"))
        self.turns()
        self.reactor.advance(5)
        for result in late:
            self.refusal(result, OutcomeUnknown)
        self.commits()
        who = {"principal": 12, "peer": "the application", "extID": None}
        booked = {
            "outcome": "booked",
            **who,
            "done": "add",
            "login": 1001,
            "cmd": 7,
            "amount": 300,
            "comment": "Promotion credit",
        }
        message = (
            "no answer within 5000 ms: the outcome of order {} is unknown, it may still"
            " be booked; ask with GetOperation, or repeat the request under its"
            " idempotencyKey"
        )
        unknown = {"outcome": "unknown", **who, "status": 504, "error": "SYNC_TIMEOUT"}
        self.assertEqual(
            self.recorded(),
            [
                {
                    "outcome": "refused",
                    "command": "CreditOut",
                    **who,
                    "session": 2,
                    "login": 1001,
                    "amount": -999,
                    "status": 409,
                    "error": "TRADE_NO_MONEY",
                    "message": "account 1001 does not have enough credit",
                },
                {
                    "outcome": "refused",
                    "command": "CreditInSync",
                    **who,
                    "principal": None,
                    "session": 4,
                    "login": 1001,
                    "amount": 300,
                    "status": 401,
                    "error": "UNAUTHORIZED",
                    "message": "the principal has expired or was revoked",
                },
                {
                    **unknown,
                    "command": "CreditInSync",
                    "session": 1,
                    "order": 1,
                    "message": message.format(1),
                },
                {
                    **unknown,
                    "command": "CreditIn",
                    "session": 5,
                    "order": 2,
                    "message": message.format(2),
                },
                {
                    **booked,
                    "command": "CreditInSync",
                    "session": 1,
                    "idempotencyKey": "k",
                    "order": 1,
                    "place": 1,
                },
                {
                    **booked,
                    "command": "CreditIn",
                    "session": 5,
                    "order": 2,
                    "place": 2,
                },
            ],
        )

    def test_counters(self) -> None:
        """
        Calls are counted like lines, at once.
        """
        self.call()
        self.commits(0.25)
        self.call("HealthCheck", {})
        self.refusal(self.call("CreditOut", {**DATA, "amount": -999}), NoMoney)
        self.call("GetOperation", {"order": 1})
        self.assertEqual(
            {name: sum(took.counts) for name, took in self.counters.took.items()},
            {"CreditInSync": 1, "HealthCheck": 1, "CreditOut": 1, "GetOperation": 1},
        )
        self.assertEqual(self.counters.took["CreditInSync"].sum, 0.25)
        self.assertEqual(
            self.counters.refusals, {("CreditOut", 409, "TRADE_NO_MONEY"): 1}
        )
        self.assertEqual((self.counters.acknowledged, self.counters.unbooked), (1, 0))
        [refused] = self.counters.recentlyRefused
        self.assertEqual(refused.session.peer, "the application")


class ForeignTests(SynchronousTestCase):
    """
    Tests for calls on another runtime, which reserves later.
    """

    def setUp(self) -> None:
        """
        Start a server.
        """
        self.reactor = MemoryReactorClock()
        self.events = TradeEvents()
        self.runtime = LaterRuntime(self.events)
        self.runtime.asked = []
        self.counters = Counters(self.reactor, lambda: NOW)
        self.server = CreditSync(
            self.reactor,
            runtime=self.runtime,
            events=self.events,
            authenticator=FakeAuthenticator(),
            listen=[],
            limits=Limits(),
            counters=self.counters,
        )
        self.server.startService()

    def call(self, command: str = "CreditInSync") -> "Deferred[dict[str, Any]]":
        """
        Ask the server for a credit.
        """
        return self.server.call(command, DATA, CASHIER)

    def assertNothingLeft(self) -> None:
        """
        Assert that all counts are zero, and that nothing is timed.
        """
        self.assertEqual(counts.left(self.server, isClosed=True), {})
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def publish(self, data: Mapping[str, Any]) -> None:
        """
        Publish an event that does not name its operation.
        """
        self.events.publish([TradeEvent(0, data)])

    def test_booked(self) -> None:
        """
        A call fires once it was reserved and then booked, in both forms.
        """
        for command in ("CreditInSync", "CreditIn"):
            result = self.call(command)
            reservation = self.runtime.reserve()
            self.assertNoResult(result)
            self.runtime.book(reservation)
            found = self.successResultOf(result)
            self.assertEqual(found["order"], reservation.order)
            self.assertNothingLeft()

    def test_ownRecord(self) -> None:
        """
        A call fires with the members of the runtime's own record.
        """
        result = self.call()
        order = self.runtime.reserve().order
        self.publish({"order": order, "desk": ["a", None], "profit": Decimal("0.1")})
        self.assertEqual(
            self.successResultOf(result),
            {"order": order, "desk": ["a", None], "profit": 0.1},
        )

    def test_unreadable(self) -> None:
        """
        A record that is not I-JSON is no refusal of what was booked: the outcome is
        unknown to the application, and the log says why.
        """
        result = self.call()
        order = self.runtime.reserve().order
        self.publish({"order": order, "number": 2**60})
        refusal = self.failureResultOf(result, OutcomeUnknown).value
        self.assertEqual(refusal.data, {"order": order})
        self.assertEqual(len(self.flushLoggedErrors(InvalidJSON)), 1)
        self.assertNothingLeft()

    def test_refused(self) -> None:
        """
        A call fails with the refusal of a runtime that refuses later.
        """
        result = self.call()
        why = NoMoney("no")
        self.runtime.asked.pop()[1].errback(why)
        self.assertIs(self.failureResultOf(result).value, why)
        self.assertNothingLeft()

    def test_neverReserved(self) -> None:
        """
        A call whose order is not reserved in time fails without an order.
        """
        result = self.call()
        self.reactor.advance(5)
        refusal = self.failureResultOf(result, OutcomeUnknown).value
        self.assertIsNone(refusal.data)
        self.runtime.book(self.runtime.reserve())
        self.assertNothingLeft()

    def test_cancelled(self) -> None:
        """
        A call may be cancelled before it is reserved. It is booked all the same.
        """
        for command in ("CreditInSync", "CreditIn"):
            result = self.call(command)
            result.cancel()
            self.failureResultOf(result, CancelledError)
            self.runtime.book(self.runtime.reserve())
            self.assertNothingLeft()
        result = self.call()
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.runtime.asked.pop()[1].errback(NoMoney("no"))
        self.assertNothingLeft()

    def test_sessions(self) -> None:
        """
        A call is a session as others are: what it waits with is one of the waiters.
        """
        self.call()
        [waiter] = self.server.waiters
        self.assertEqual(type(waiter.session), Call)
        self.assertEqual((waiter.session.number, waiter.extID), (1, None))
