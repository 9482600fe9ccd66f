"""
Tests for the finance methods from a client's line to its reply and the ledger.
"""

import json
import os
import random
import tempfile
from collections import Counter
from typing import Any

from attrs import Factory, define
from jsonschema import Draft202012Validator
from msgspec.structs import replace
from referencing import Registry
from twisted.internet.defer import execute, maybeDeferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from creditsync._conversation.broadcast import Broadcast
from creditsync._conversation.commands import GetOperation, HealthCheck
from creditsync._conversation.finance import financeCommands
from creditsync._conversation.session import Session
from creditsync._conversation.sessions import Sessions
from creditsync._conversation.waiters import Waiters
from creditsync.errors import Refusal
from creditsync.events import TradeEvents
from creditsync.interfaces import ILedger
from creditsync.ledger.memory import MemoryLedger
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.records import (
    Account,
    AnyOperation,
    Decision,
    Deletion,
    Limits,
    Operation,
    Trade,
    TradeEvent,
)
from creditsync.runtime import TradingRuntime
from creditsync.testing import FakeAuthenticator, HeldLedger
from creditsync.validation import Schemas, load
from tests import family
from tests.family import Family, Request

SCHEMAS = Schemas()
ADD, UPDATE, DELETE = 0, 1, 2
BALANCE_IN, CREDIT_IN, BALANCE_OUT, CREDIT_OUT = 6, 7, 8, 9
BOOKED, DELETED = 3, 6
NOW = 1767225600
ONE = 100_000_000

# The data of docs/protocol.rst, "A credit".
SEED = {"login": 1001, "amount": 300.0, "comment": "Promotion credit"}


@define(eq=False)
class Client:
    """
    The lines that one client sends and receives.

    @ivar heard: The lines sent to it, unchanged.
    """

    sessions: Sessions
    token: str = "manager"
    heard: list[bytes] = Factory(list)
    session: Session = Factory(
        lambda self: self.sessions.open(self.heard.append), takes_self=True
    )

    def asks(
        self, command: str, data: object, extID: object = "a", **others: object
    ) -> None:
        """
        Send one command; an C{extID} of L{None} is left out.
        """
        members = {"command": command, "__token": self.token, "data": data, **others}
        if extID is not None:
            members["extID"] = extID
        self.session.lineReceived(json.dumps(members).encode())

    def lines(self) -> list[bytes]:
        """
        Return the lines received since the last call.
        """
        lines = b"".join(self.heard).splitlines(keepends=True)
        self.heard.clear()
        return lines

    def hears(self) -> list[Any]:
        """
        Return what was received since the last call, each line as its value.
        """
        return [json.loads(line) for line in self.lines()]

    def replies(self) -> list[Any]:
        """
        Return the replies received since the last call, without the events.
        """
        return [line for line in self.hears() if "event" not in line]

    def reply(self) -> Any:
        """
        Return the one reply received since the last call.
        """
        [reply] = self.replies()
        return reply

    def outcome(self) -> tuple[int, str | None]:
        """
        Return the one reply as its status and its error.
        """
        reply = self.reply()
        return reply["status"], reply.get("error")


class FamilyCase(SynchronousTestCase):
    """
    A whole server without its connections and its disk: commits end when the
    test says so, and the first order is 1.
    """

    isExtIDIdempotent = False
    maxQueued = 100

    def setUp(self) -> None:
        """
        Put the modules together.
        """
        self.ledger = HeldLedger(self.kept())
        self.start()

    def kept(self) -> Any:
        """
        The ledger for commits that are released.
        """
        return MemoryLedger()

    def start(self) -> None:
        """
        Start a server on the ledger.
        """
        self.clock = Clock()
        self.now = NOW
        self.events = TradeEvents()
        self.published: list[TradeEvent] = []
        self.events.addObserver(self.published.extend)
        self.runtime = TradingRuntime(
            self.clock,
            self.ledger,
            self.events,
            now=lambda: self.now,
            maxQueued=self.maxQueued,
        )
        self.runtime.startService()
        self.waiters = Waiters(self.clock, 5.0)
        authenticator = FakeAuthenticator()
        broadcast = Broadcast(authenticator, self.waiters)
        self.sessions = Sessions(
            commands=[
                *financeCommands(self.runtime, self.isExtIDIdempotent),
                GetOperation(self.runtime, broadcast),
                HealthCheck(self.clock, self.waiters, broadcast),
            ],
            authenticator=authenticator,
            schemas=SCHEMAS,
            waiters=self.waiters,
            broadcast=broadcast,
            limits=Limits(),
        )
        self.events.addObserver(self.sessions.broadcast.tradeEvents)
        self.client = Client(self.sessions)

    def tearDown(self) -> None:
        """
        All requests were answered, and nothing is scheduled.
        """
        stopped = self.runtime.stopService()
        while self.ledger.commits:
            self.ledger.release()
        self.successResultOf(stopped)
        self.assertEqual(self.sessions.pending, 0)
        self.assertEqual(len(self.waiters), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def turn(self) -> None:
        """
        Let the reactor turn, so that queued operations are committed.
        """
        self.clock.advance(0)

    def book(self) -> None:
        """
        Let everything that was requested be booked.
        """
        self.turn()
        while self.ledger.commits:
            self.ledger.release()

    def booked(self, command: str, **data: object) -> Any:
        """
        Have another client's C{Sync} command booked.

        @return: The data of its reply.
        """
        client = Client(self.sessions)
        client.asks(command, {"login": 1001, "comment": "Before", **data})
        self.book()
        reply = client.reply()
        client.session.ended()
        self.client.heard.clear()
        self.assertEqual(reply["status"], 200, reply)
        return reply["data"]

    def answered(self, command: str, extID: object = "a", **data: object) -> Any:
        """
        Send a command, let it be booked, and return the one reply.
        """
        self.client.asks(command, data, extID)
        self.book()
        return self.client.reply()

    def refused(self, command: str, **data: object) -> tuple[int, str, str]:
        """
        Send a command that is refused and changes nothing.

        @return: The reply's status, error and message.
        """
        before = self.state()
        self.client.asks(command, data)
        reply = self.client.reply()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.state(), before)
        self.assertNotIn("data", reply)
        return reply["status"], reply["error"], reply["message"]

    def state(self) -> object:
        """
        The whole content of the ledger, and the next order.
        """
        memory = self.ledger._ledger
        return (
            memory.nextOrder,
            list(memory._journal),
            dict(memory._accounts),
            self.ledger.commits,
            list(self.published),
        )

    def totals(self, login: int = 1001) -> tuple[int, int]:
        """
        The totals of this account: balance and credit, in units.
        """
        account = self.ledger.account(login)
        assert account is not None
        return account.balance, account.credit


class BookingTests(FamilyCase):
    """
    Tests for the methods that make or update a trade.
    """

    def test_creditOut(self) -> None:
        """
        C{CreditOutSync} takes credit out, and its reply is the data of its
        event.
        """
        self.booked("CreditInSync", amount=300.0)
        self.client.asks(
            "CreditOutSync",
            {"login": 1001, "amount": -100.25, "comment": "Promotion over"},
        )
        self.book()
        [event, reply] = self.client.lines()
        data = (
            b'{"order":2,"login":1001,"cmd":9,"state":3,"profit":-100.25,'
            b'"comment":"Promotion over","symbol":"","volume":0,"open_price":0.0,'
            b'"close_price":0.0,"open_time":1767225600,"close_time":1767225600,'
            b'"sl":0.0,"tp":0.0,"storage":0.0,"commission":0.0,"reason":7,'
            b'"timestamp":1767225600}'
        )
        self.assertEqual(
            event, b'{"event":"trade:event","type":0,"data":' + data + b"}\r\n"
        )
        self.assertEqual(reply, b'{"extID":"a","status":200,"data":' + data + b"}\r\n")
        self.assertEqual(self.totals(), (0, 199_75000000))

    def test_balanceIn(self) -> None:
        """
        C{BalanceInSync} adds to the balance, and without a comment it has the
        platform's.
        """
        reply = self.answered("BalanceInSync", login=1001, amount=0.00000001)
        data = reply["data"]
        self.assertEqual(
            [data[name] for name in ("order", "login", "cmd", "state", "comment")],
            [1, 1001, 6, 3, "Finance"],
        )
        self.assertEqual(data["profit"], 0.00000001)
        self.assertEqual(self.totals(), (1, 0))

    def test_balanceOut(self) -> None:
        """
        C{BalanceOutSync} takes balance out.
        """
        self.booked("BalanceInSync", amount=300)
        reply = self.answered("BalanceOutSync", login=1001, amount=-300)
        data = reply["data"]
        self.assertEqual(
            [data[name] for name in ("order", "login", "cmd", "state", "comment")],
            [2, 1001, 8, 3, "Finance"],
        )
        self.assertEqual(data["profit"], -300.0)
        self.assertEqual(self.totals(), (0, 0))

    def test_givenComment(self) -> None:
        """
        A balance operation may have a comment of its own.
        """
        for command, amount in (("BalanceInSync", 5), ("BalanceOutSync", -5)):
            reply = self.answered(command, login=1001, amount=amount, comment="Desk 3")
            self.assertEqual(reply["data"]["comment"], "Desk 3")

    def test_update(self) -> None:
        """
        Each method updates a trade of its own kind; the event is an UPDATE and
        the total changes by the difference.
        """
        self.booked("CreditInSync", amount=100)
        self.booked("BalanceInSync", amount=100)
        for order, command, first, second, totals in (
            (3, "CreditInSync", 10, 20, (100, 120)),
            (4, "CreditOutSync", -10, -30, (100, 90)),
            (5, "BalanceInSync", 10, 40, (140, 90)),
            (6, "BalanceOutSync", -10, -50, (90, 90)),
        ):
            self.booked(command, amount=first)
            self.client.asks(
                command,
                {"login": 1001, "amount": second, "comment": "After", "order": order},
            )
            self.book()
            [event, reply] = self.client.hears()
            self.assertEqual(event["type"], 1)
            self.assertEqual(event["data"], reply["data"])
            self.assertEqual(
                (reply["data"]["order"], reply["data"]["state"]), (order, 3)
            )
            self.assertEqual(reply["data"]["profit"], second)
            self.assertEqual(reply["data"]["comment"], "After")
            balance, credit = totals
            self.assertEqual(self.totals(), (balance * ONE, credit * ONE))

    def test_signs(self) -> None:
        """
        The amount of a deposit is greater than 0 and that of a withdrawal
        less, in both forms.
        """
        for method, amount, message in (
            ("CreditIn", -300, "data.amount must be greater than 0"),
            ("BalanceIn", -300, "data.amount must be greater than 0"),
            ("CreditOut", 300, "data.amount must be less than 0"),
            ("BalanceOut", 300, "data.amount must be less than 0"),
        ):
            for command in (method, f"{method}Sync"):
                for wrong in (amount, 0):
                    self.assertEqual(
                        self.refused(command, login=1001, amount=wrong, comment="x"),
                        (400, "INVALID_DATA", message),
                    )

    def test_commentOfACredit(self) -> None:
        """
        A credit operation requires a comment.
        """
        for command, amount in (
            ("CreditIn", 1),
            ("CreditInSync", 1),
            ("CreditOut", -1),
            ("CreditOutSync", -1),
        ):
            self.assertEqual(
                self.refused(command, login=1001, amount=amount),
                (400, "INVALID_DATA", "data.comment is required"),
            )

    def test_emptyComment(self) -> None:
        """
        A given comment has at least one character, for a balance operation
        too.
        """
        for command, amount in (("BalanceIn", 1), ("BalanceOut", -1)):
            self.assertEqual(
                self.refused(command, login=1001, amount=amount, comment=""),
                (
                    400,
                    "INVALID_DATA",
                    "data.comment must have at least 1 character(s)",
                ),
            )

    def test_otherKind(self) -> None:
        """
        A trade is updated by the method of its kind and by no other.
        """
        amounts = {
            "CreditIn": 100,
            "CreditOut": -1,
            "BalanceIn": 100,
            "BalanceOut": -1,
        }
        orders = {
            method: self.booked(f"{method}Sync", amount=amount)["order"]
            for method, amount in amounts.items()
        }
        self.assertEqual(list(orders.values()), [1, 2, 3, 4])
        for method, amount in amounts.items():
            for other, order in orders.items():
                if other == method:
                    continue
                for command in (method, f"{method}Sync"):
                    self.assertEqual(
                        self.refused(
                            command,
                            login=1001,
                            amount=amount,
                            comment="x",
                            order=order,
                        ),
                        (
                            409,
                            "INCORRECT_ORDER",
                            f"order {order} is a different kind of transaction",
                        ),
                    )

    def test_otherLogin(self) -> None:
        """
        A trade of another login is not updated.
        """
        self.booked("BalanceInSync", amount=100)
        self.assertEqual(
            self.refused("BalanceInSync", login=1002, amount=1, order=1),
            (409, "INCORRECT_ORDER", "order 1 does not belong to login 1002"),
        )

    def test_noMoney(self) -> None:
        """
        A withdrawal can't exceed its total, and a balance does not count as
        credit.
        """
        self.booked("CreditInSync", amount=300)
        self.booked("BalanceInSync", amount=200)
        for command, amount, kind in (
            ("CreditOut", -300.00000001, "credit"),
            ("CreditOutSync", -300.00000001, "credit"),
            ("BalanceOut", -200.00000001, "balance"),
            ("BalanceOutSync", -200.00000001, "balance"),
        ):
            self.assertEqual(
                self.refused(command, login=1001, amount=amount, comment="x"),
                (409, "TRADE_NO_MONEY", f"account 1001 does not have enough {kind}"),
            )
        for command, amount in (("CreditOutSync", -300), ("BalanceOutSync", -200)):
            self.answered(command, login=1001, amount=amount, comment="x")
        self.assertEqual(self.totals(), (0, 0))

    def test_noMoneyByUpdate(self) -> None:
        """
        An update can't withdraw more than the total either: of a deposit, to
        less than was spent, or of a withdrawal, to more than there is.
        """
        for method, kind in (("Credit", "credit"), ("Balance", "balance")):
            first = self.booked(f"{method}InSync", amount=300)["order"]
            second = self.booked(f"{method}OutSync", amount=-200)["order"]
            for form in ("", "Sync"):
                for command, amount, order in (
                    (f"{method}In{form}", 199.99999999, first),
                    (f"{method}Out{form}", -300.00000001, second),
                ):
                    self.assertEqual(
                        self.refused(
                            command,
                            login=1001,
                            amount=amount,
                            comment="x",
                            order=order,
                        ),
                        (
                            409,
                            "TRADE_NO_MONEY",
                            f"account 1001 does not have enough {kind}",
                        ),
                    )
            for command, amount, order in (
                (f"{method}OutSync", -300, second),
                (f"{method}OutSync", -50, second),
                (f"{method}InSync", 50, first),
            ):
                reply = self.answered(
                    command, login=1001, amount=amount, comment="x", order=order
                )
                self.assertEqual(reply["status"], 200)
        self.assertEqual(self.totals(), (0, 0))

    def test_noExtID(self) -> None:
        """
        Each C{Sync} command requires an C{extID}; its asynchronous form does
        not.
        """
        self.booked("CreditInSync", amount=100)
        self.booked("BalanceInSync", amount=100)
        for method, data in (
            ("CreditIn", {"login": 1001, "amount": 1, "comment": "x"}),
            ("CreditOut", {"login": 1001, "amount": -1, "comment": "x"}),
            ("BalanceIn", {"login": 1001, "amount": 1}),
            ("BalanceOut", {"login": 1001, "amount": -1}),
            ("DeleteCredit", {"order": 1}),
            ("DeleteBalance", {"order": 2}),
        ):
            self.client.asks(f"{method}Sync", data, extID=None)
            reply = self.client.reply()
            self.assertEqual((reply["status"], reply["error"]), (400, "INVALID_DATA"))
            self.assertEqual(reply["message"], f"extID is required by {method}Sync")
            reply = self.answered(method, extID=None, **data)
            self.assertEqual(list(reply), ["status", "data"])

    def test_roles(self) -> None:
        """
        Manager, dealer and admin may use the finance methods, a user may not.
        """
        for token in ("manager", "dealer", "admin"):
            client = Client(self.sessions, token)
            client.asks("BalanceInSync", {"login": 1001, "amount": 100})
            self.book()
            self.assertEqual(client.outcome(), (200, None))
            client.session.ended()
        user = Client(self.sessions, "user")
        for method, data in (
            ("CreditIn", {"login": 1001, "amount": 1, "comment": "x"}),
            ("CreditOut", {"login": 1001, "amount": -1, "comment": "x"}),
            ("BalanceIn", {"login": 1001, "amount": 1}),
            ("BalanceOut", {"login": 1001, "amount": -1}),
            ("DeleteCredit", {"order": 1}),
            ("DeleteBalance", {"order": 1}),
        ):
            for command in (method, f"{method}Sync"):
                user.asks(command, data)
                self.assertEqual(user.outcome(), (403, "FORBIDDEN"))


class DeletionTests(FamilyCase):
    """
    Tests for the methods that delete a trade.
    """

    def test_sync(self) -> None:
        """
        C{DeleteCreditSync} is answered with the data of its DELETE event: the
        trade as it was, with the state of a deleted one and a new timestamp.
        """
        self.booked("CreditInSync", amount=300, open_time=1700, close_time=1800)
        self.now = NOW + 60
        self.client.asks("DeleteCreditSync", {"order": 1})
        self.assertEqual(self.client.heard, [])
        self.book()
        [event, reply] = self.client.lines()
        data = (
            b'{"order":1,"login":1001,"cmd":7,"state":6,"profit":300.0,'
            b'"comment":"Before","symbol":"","volume":0,"open_price":0.0,'
            b'"close_price":0.0,"open_time":1700,"close_time":1800,'
            b'"sl":0.0,"tp":0.0,"storage":0.0,"commission":0.0,"reason":7,'
            b'"timestamp":1767225660}'
        )
        self.assertEqual(
            event, b'{"event":"trade:event","type":2,"data":' + data + b"}\r\n"
        )
        self.assertEqual(reply, b'{"extID":"a","status":200,"data":' + data + b"}\r\n")
        self.assertEqual(
            self.ledger.trade(1),
            Trade(1, 1001, 7, 6, 30000000000, "Before", 1700, 1800, 1767225660),
        )
        self.assertEqual(self.totals(), (0, 0))

    def test_totals(self) -> None:
        """
        A deletion changes its own total by the trade's amount, up or down.
        """
        self.booked("CreditInSync", amount=300)
        self.booked("CreditOutSync", amount=-100)
        self.booked("BalanceInSync", amount=50)
        self.booked("BalanceOutSync", amount=-20)
        self.assertEqual(self.totals(), (30 * ONE, 200 * ONE))
        for command, order, balance, credit in (
            ("DeleteCreditSync", 2, 30, 300),
            ("DeleteCreditSync", 1, 30, 0),
            ("DeleteBalanceSync", 4, 50, 0),
            ("DeleteBalanceSync", 3, 0, 0),
        ):
            reply = self.answered(command, order=order)
            self.assertEqual(
                (reply["data"]["order"], reply["data"]["state"]), (order, 6)
            )
            self.assertEqual(self.totals(), (balance * ONE, credit * ONE))

    def test_afterAnUpdate(self) -> None:
        """
        A deletion after an update takes back the updated amount.
        """
        self.booked("CreditInSync", amount=300)
        self.booked("CreditInSync", amount=40)
        self.booked("CreditInSync", amount=100, order=1)
        reply = self.answered("DeleteCreditSync", order=1)
        self.assertEqual(reply["data"]["profit"], 100.0)
        self.assertEqual(self.totals(), (0, 40 * ONE))

    def test_unknown(self) -> None:
        """
        An unknown order can't be deleted.
        """
        for command in (
            "DeleteCredit",
            "DeleteCreditSync",
            "DeleteBalance",
            "DeleteBalanceSync",
        ):
            self.assertEqual(
                self.refused(command, order=1242281),
                (404, "NOT_FOUND", "there is no order 1242281"),
            )

    def test_twice(self) -> None:
        """
        A deleted trade can't be deleted again.
        """
        self.booked("CreditInSync", amount=300)
        self.booked("DeleteCreditSync", order=1)
        for command in ("DeleteCredit", "DeleteCreditSync"):
            self.assertEqual(
                self.refused(command, order=1),
                (409, "INCORRECT_ORDER", "order 1 was deleted"),
            )

    def test_updateOfADeleted(self) -> None:
        """
        A deleted trade can't be updated, and its number does not make a new
        one.
        """
        self.booked("BalanceInSync", amount=300)
        self.booked("DeleteBalanceSync", order=1)
        self.assertEqual(
            self.refused("BalanceInSync", login=1001, amount=1, order=1),
            (409, "INCORRECT_ORDER", "order 1 was deleted"),
        )

    def test_otherKind(self) -> None:
        """
        C{DeleteCredit} deletes credit operations only, C{DeleteBalance}
        balance operations.
        """
        self.booked("CreditInSync", amount=300)
        self.booked("CreditOutSync", amount=-1)
        self.booked("BalanceInSync", amount=300)
        self.booked("BalanceOutSync", amount=-1)
        for command, orders in (
            ("DeleteBalance", (1, 2)),
            ("DeleteBalanceSync", (1, 2)),
            ("DeleteCredit", (3, 4)),
            ("DeleteCreditSync", (3, 4)),
        ):
            for order in orders:
                self.assertEqual(
                    self.refused(command, order=order),
                    (
                        409,
                        "INCORRECT_ORDER",
                        f"order {order} is a different kind of transaction",
                    ),
                )

    def test_noMoney(self) -> None:
        """
        A deletion can't take back money that was spent.
        """
        self.booked("CreditInSync", amount=300)
        self.booked("CreditInSync", amount=50)
        self.booked("CreditOutSync", amount=-60)
        self.booked("BalanceInSync", amount=300)
        self.booked("BalanceOutSync", amount=-0.00000001)
        for command, order, kind in (
            ("DeleteCredit", 1, "credit"),
            ("DeleteCreditSync", 1, "credit"),
            ("DeleteBalance", 4, "balance"),
            ("DeleteBalanceSync", 4, "balance"),
        ):
            self.assertEqual(
                self.refused(command, order=order),
                (409, "TRADE_NO_MONEY", f"account 1001 does not have enough {kind}"),
            )
        self.answered("DeleteCreditSync", order=2)
        self.assertEqual(self.totals(), (299_99999999, 240 * ONE))

    def test_badOrder(self) -> None:
        """
        A deletion requires an order.
        """
        for command in ("DeleteCredit", "DeleteBalanceSync"):
            self.assertEqual(
                self.refused(command),
                (400, "INVALID_DATA", "data.order is required"),
            )
            self.assertEqual(
                self.refused(command, order=0),
                (400, "INVALID_DATA", "data.order must be at least 1"),
            )
            self.assertEqual(
                self.refused(command, order="1"),
                (400, "INVALID_DATA", "data.order must be an integer"),
            )

    def test_underWay(self) -> None:
        """
        A pending trade can be deleted; each command is answered with the event
        of its own operation.
        """
        self.client.asks("CreditInSync", SEED, extID="add")
        self.client.asks("DeleteCreditSync", {"order": 1}, extID="delete")
        self.book()
        lines = self.client.hears()
        self.assertEqual(
            [(line["type"], line["data"]["state"]) for line in lines[:2]],
            [(0, 3), (2, 6)],
        )
        self.assertEqual(
            [(line["extID"], line["data"]["state"]) for line in lines[2:]],
            [("add", 3), ("delete", 6)],
        )
        self.assertEqual(self.totals(), (0, 0))

    def test_deletionUnderWay(self) -> None:
        """
        A trade whose deletion is pending counts as deleted for later requests.
        """
        self.booked("CreditInSync", amount=300)
        self.booked("CreditInSync", amount=100)
        self.client.asks("DeleteCreditSync", {"order": 1}, extID="delete")
        for command, data in (
            ("DeleteCreditSync", {"order": 1}),
            ("CreditInSync", {**SEED, "order": 1}),
        ):
            self.client.asks(command, data)
            reply = self.client.reply()
            self.assertEqual(
                (reply["status"], reply["error"], reply["message"]),
                (409, "INCORRECT_ORDER", "order 1 was deleted"),
            )
        self.client.asks(
            "CreditOutSync", {"login": 1001, "amount": -100.01, "comment": "x"}
        )
        self.assertEqual(self.client.outcome(), (409, "TRADE_NO_MONEY"))
        self.book()
        self.assertEqual(self.client.reply()["data"]["state"], 6)
        self.assertEqual(self.totals(), (0, 100 * ONE))


class AcceptedTests(FamilyCase):
    """
    Tests for the replies of the asynchronous forms.
    """

    def test_afterTheCommit(self) -> None:
        """
        The reply of an asynchronous form is sent when the operation is on
        disk, after the line of its event.
        """
        self.client.asks("BalanceIn", {"login": 1001, "amount": 300})
        self.turn()
        self.clock.advance(4)
        self.assertEqual(self.client.heard, [])
        self.book()
        [event, reply] = self.client.lines()
        self.assertTrue(event.startswith(b'{"event":"trade:event","type":0,'))
        self.assertEqual(
            reply,
            b'{"extID":"a","status":200,"data":{"accepted":true,"order":1,"state":10,'
            b'"login":1001,"cmd":6,"amount":300.0}}\r\n',
        )

    def test_whole(self) -> None:
        """
        The reply of each asynchronous form has the order, the state that was
        requested, the login, the operation code and the signed amount.
        """
        for command, data, expected in (
            (
                "CreditIn",
                {"login": 1001, "amount": 300, "comment": "x"},
                (1, 10, 1001, 7, 300.0),
            ),
            (
                "CreditOut",
                {"login": 1001, "amount": -0.5, "comment": "x"},
                (2, 10, 1001, 9, -0.5),
            ),
            ("BalanceIn", {"login": 1002, "amount": 19.99}, (3, 10, 1002, 6, 19.99)),
            ("BalanceOut", {"login": 1002, "amount": -9}, (4, 10, 1002, 8, -9.0)),
            (
                "CreditIn",
                {"login": 1001, "amount": 200, "comment": "x", "order": 1},
                (1, 11, 1001, 7, 200.0),
            ),
            (
                "BalanceOut",
                {"login": 1002, "amount": -8, "order": 4},
                (4, 11, 1002, 8, -8.0),
            ),
            (
                "BalanceIn",
                {"login": 1002, "amount": 1, "order": 77},
                (5, 10, 1002, 6, 1.0),
            ),
            ("DeleteCredit", {"order": 2}, (2, 12, 1001, 9, -0.5)),
            ("DeleteBalance", {"order": 3}, (3, 12, 1002, 6, 19.99)),
        ):
            if command == "DeleteBalance":
                self.answered("DeleteBalance", order=4)
            order, state, login, cmd, amount = expected
            self.assertEqual(
                self.answered(command, **data),
                {
                    "extID": "a",
                    "status": 200,
                    "data": {
                        "accepted": True,
                        "order": order,
                        "state": state,
                        "login": login,
                        "cmd": cmd,
                        "amount": amount,
                    },
                },
            )
        self.assertEqual(self.totals(1001), (0, 200 * ONE))
        self.assertEqual(self.totals(1002), (1 * ONE, 0))

    def test_exactAmount(self) -> None:
        """
        An amount that a double can't represent is returned exactly, for a
        deletion too.
        """
        line = (
            b'{"command":"BalanceIn","__token":"manager",'
            b'"data":{"login":1001,"amount":9999999999.99999999}}'
        )
        self.client.session.lineReceived(line)
        self.book()
        self.assertIn(b'"amount":9999999999.99999999}}', self.client.lines()[1])
        self.client.asks("DeleteBalance", {"order": 1})
        self.book()
        [event, reply] = self.client.lines()
        self.assertIn(b'"profit":9999999999.99999999,', event)
        self.assertIn(b'"amount":9999999999.99999999}}', reply)

    def test_lost(self) -> None:
        """
        If it is unknown whether the operation is on disk, the reply is 504
        with the order.
        """
        self.booked("CreditInSync", amount=300)
        self.client.asks("DeleteCredit", {"order": 1})
        self.turn()
        self.ledger.fail(OSError("EIO"))
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        self.failureResultOf(self.runtime.whenFailed(), OSError)
        reply = self.client.reply()
        self.assertEqual((reply["status"], reply["data"]), (504, {"order": 1}))


class GetOperationTests(FamilyCase):
    """
    Tests for looking up the outcome of an operation.
    """

    def asked(self, extID: object = "a", **data: object) -> Any:
        """
        Look an operation up, and return the reply, which comes at once.
        """
        self.client.asks("GetOperation", data, extID)
        return self.client.reply()

    def stateOf(self, **data: object) -> tuple[int, int, float]:
        """
        The order, state and profit of an operation.
        """
        told = self.asked(**data)["data"]
        return told["order"], told["state"], told["profit"]

    def test_byOrder(self) -> None:
        """
        The reply is the trade record, as its event had it.
        """
        self.client.asks("CreditInSync", SEED)
        self.book()
        reply = self.client.lines()[1]
        self.client.asks("GetOperation", {"order": 1})
        self.assertEqual(self.client.lines(), [reply])

    def test_asItIsNow(self) -> None:
        """
        The trade is returned in its current state: updated, or deleted.
        """
        self.booked("CreditInSync", amount=300)
        self.booked("CreditInSync", amount=200, order=1)
        self.assertEqual(self.stateOf(order=1), (1, 3, 200.0))
        self.booked("DeleteCreditSync", order=1)
        self.assertEqual(self.stateOf(order=1), (1, 6, 200.0))

    def test_queued(self) -> None:
        """
        An operation that is queued or being committed has the state of a
        request: 10 new, 11 update, 12 delete, with the requested amount.
        """
        self.booked("CreditInSync", amount=300)
        self.booked("CreditInSync", amount=200)
        self.client.asks("CreditInSync", SEED, extID="add")
        self.client.asks("CreditInSync", {**SEED, "amount": 5, "order": 1}, extID="up")
        self.client.asks("DeleteCreditSync", {"order": 2}, extID="delete")
        for _ in range(2):
            self.assertEqual(self.stateOf(order=3), (3, 10, 300.0))
            self.assertEqual(self.stateOf(order=1), (1, 11, 5.0))
            self.assertEqual(self.stateOf(order=2), (2, 12, 200.0))
            self.turn()
        self.assertEqual(len(self.ledger.commits), 1)
        self.book()
        self.assertEqual(len(self.client.replies()), 3)
        self.assertEqual(self.stateOf(order=3), (3, 3, 300.0))
        self.assertEqual(self.stateOf(order=1), (1, 3, 5.0))
        self.assertEqual(self.stateOf(order=2), (2, 6, 200.0))

    def test_lastAsked(self) -> None:
        """
        Of several pending operations on an order the last one is returned.
        """
        self.client.asks("CreditIn", SEED, extID="add")
        self.client.asks("CreditIn", {**SEED, "amount": 5, "order": 1}, extID="up")
        self.assertEqual(self.stateOf(order=1), (1, 11, 5.0))
        self.client.asks("DeleteCredit", {"order": 1}, extID="delete")
        self.assertEqual(self.stateOf(order=1), (1, 12, 5.0))
        self.book()
        self.client.heard.clear()

    def test_byKey(self) -> None:
        """
        A key finds its operation, both pending and booked.
        """
        self.client.asks("CreditInSync", SEED, "add", idempotencyKey="promo-1")
        self.assertEqual(self.stateOf(idempotencyKey="promo-1"), (1, 10, 300.0))
        self.turn()
        self.assertEqual(self.stateOf(idempotencyKey="promo-1"), (1, 10, 300.0))
        self.book()
        self.client.heard.clear()
        self.assertEqual(self.stateOf(idempotencyKey="promo-1"), (1, 3, 300.0))

    def test_byKeyAsItIsNow(self) -> None:
        """
        A look-up by key returns the trade in its current state, and not as it
        was booked under the key.
        """
        self.client.asks("CreditInSync", SEED, idempotencyKey="promo-1")
        self.book()
        self.booked("CreditInSync", amount=200, order=1)
        self.assertEqual(self.stateOf(idempotencyKey="promo-1"), (1, 3, 200.0))
        self.client.asks("DeleteCreditSync", {"order": 1}, "delete")
        self.assertEqual(self.stateOf(idempotencyKey="promo-1"), (1, 12, 200.0))
        self.book()
        self.client.heard.clear()
        self.assertEqual(self.stateOf(idempotencyKey="promo-1"), (1, 6, 200.0))

    def test_afterATimeout(self) -> None:
        """
        After a 504 a look-up by order or by key returns the outcome.
        """
        self.client.asks("CreditInSync", SEED, idempotencyKey="promo-1")
        self.turn()
        self.clock.advance(5)
        reply = self.client.reply()
        self.assertEqual((reply["status"], reply["data"]), (504, {"order": 1}))
        self.assertEqual(self.stateOf(order=1), (1, 10, 300.0))
        self.book()
        self.client.heard.clear()
        self.assertEqual(self.stateOf(order=1), (1, 3, 300.0))
        self.assertEqual(self.stateOf(idempotencyKey="promo-1"), (1, 3, 300.0))

    def test_noOrder(self) -> None:
        """
        An unknown order is 404, even if its number comes next.
        """
        self.booked("CreditInSync", amount=300)
        for order in (2, 1242281):
            reply = self.asked(order=order)
            self.assertEqual((reply["status"], reply["error"]), (404, "NOT_FOUND"))
            self.assertNotIn("data", reply)

    def test_noKey(self) -> None:
        """
        An unused key is 404, and so is one whose request was refused.
        """
        self.client.asks(
            "CreditOutSync",
            {**SEED, "amount": -1},
            idempotencyKey="promo-2",
        )
        self.assertEqual(self.client.outcome(), (409, "TRADE_NO_MONEY"))
        for key in ("promo-1", "promo-2"):
            reply = self.asked(idempotencyKey=key)
            self.assertEqual((reply["status"], reply["error"]), (404, "NOT_FOUND"))

    def test_principals(self) -> None:
        """
        Keys can be looked up by their own principal only, orders by any.
        """
        self.client.asks("CreditInSync", SEED, "add", idempotencyKey="promo-1")
        dealer = Client(self.sessions, "dealer")
        for _ in range(2):
            dealer.asks("GetOperation", {"idempotencyKey": "promo-1"})
            self.assertEqual(dealer.outcome(), (404, "NOT_FOUND"))
            dealer.asks("GetOperation", {"order": 1})
            self.assertEqual(dealer.outcome(), (200, None))
            self.book()
            dealer.heard.clear()
        self.client.heard.clear()
        self.assertEqual(self.stateOf(idempotencyKey="promo-1"), (1, 3, 300.0))

    def test_oneName(self) -> None:
        """
        C{GetOperation} takes exactly one of order and key.
        """
        message = "data must have exactly one of order and idempotencyKey"
        for data in ({}, {"order": 1, "idempotencyKey": "promo-1"}):
            reply = self.asked(**data)
            self.assertEqual(
                (reply["status"], reply["error"], reply["message"]),
                (400, "INVALID_DATA", message),
            )

    def test_wholeFloat(self) -> None:
        """
        C{1.0} is an integer for C{GetOperation} as well.
        """
        self.booked("CreditInSync", amount=300)
        self.assertEqual(self.stateOf(order=1.0), (1, 3, 300.0))

    def test_noExtID(self) -> None:
        """
        Without an C{extID} the reply has none.
        """
        self.booked("CreditInSync", amount=300)
        self.assertEqual(list(self.asked(extID=None, order=1)), ["status", "data"])

    def test_user(self) -> None:
        """
        A user's token may not look up operations.
        """
        user = Client(self.sessions, "user")
        user.asks("GetOperation", {"order": 1})
        self.assertEqual(user.outcome(), (403, "FORBIDDEN"))


class ContractTests(FamilyCase):
    """
    Tests that all lines of the server match the published schemas.
    """

    def test_lines(self) -> None:
        """
        Every line that the server sends for the finance methods is a reply or
        an event of the published schemas.
        """
        schemas = {
            name: load(name)
            for name in ("common", "trade", "delete", "event", "reply", "request")
        }
        registry: Registry[Any] = Registry().with_contents(
            (f"{name}.json", schema) for name, schema in schemas.items()
        )
        reply, event = (
            Draft202012Validator(schemas[name], registry=registry)
            for name in ("reply", "event")
        )
        for command, data in (
            ("CreditInSync", SEED),
            ("CreditIn", {**SEED, "order": 1}),
            ("CreditOut", {**SEED, "amount": -1}),
            ("BalanceInSync", {"login": 1001, "amount": 1e-8}),
            ("BalanceOut", {"login": 1001, "amount": -1e-8}),
            ("GetOperation", {"order": 3}),
            ("DeleteCreditSync", {"order": 2}),
            ("DeleteBalance", {"order": 4}),
            ("GetOperation", {"order": 4}),
            ("GetOperation", {"order": 42}),
            ("CreditOut", {**SEED, "amount": -1000}),
            ("DeleteCredit", {"order": 3}),
            ("DeleteCredit", {"order": 42}),
        ):
            for again in ("first", "replayed", "reused"):
                asked = data if again != "reused" else {**data, "order": 7}
                self.client.asks(
                    command, asked, again, idempotencyKey=str((command, data))
                )
                self.book()
        told: Counter[object] = Counter()
        for line in self.client.hears():
            isEvent = "event" in line
            (event if isEvent else reply).validate(line)
            told[line["type"] if isEvent else line["status"]] += 1
            told["replayed"] += "replayed" in line
        self.assertEqual(
            told, {0: 4, 1: 1, 2: 2, 200: 18, 404: 9, 409: 5, 422: 7, "replayed": 7}
        )


def requestOf(asked: AnyOperation) -> Request:
    """
    The request of an operation, in the model's form.
    """
    if isinstance(asked, Decision):
        return Request(
            asked.command,
            comment=asked.comment,
            order=asked.order,
            principal=asked.principal,
            key=asked.key,
            approves=asked.isApproval,
        )
    if isinstance(asked, Deletion):
        deletes = "credit" if CREDIT_IN in asked.cmds else "balance"
        return Request(
            asked.command,
            deletes=deletes,
            order=asked.order,
            principal=asked.principal,
            key=asked.key,
        )
    return Request(
        asked.command,
        asked.cmd,
        None,
        asked.login,
        asked.amount,
        asked.comment,
        asked.order,
        asked.openTime,
        asked.closeTime,
        asked.principal,
        asked.key,
        asked.isRequest,
    )


def recordOf(trade: family.Trade, **changes: int) -> Trade:
    """
    The server's record of a trade of the model.
    """
    members = {**trade._asdict(), **changes}
    members["openTime"] = members.pop("open_time")
    members["closeTime"] = members.pop("close_time")
    return Trade(**members)


class ModelBehaviour:
    """
    Compares the runtime on any ledger with L{Family}; C{kept} makes the
    ledger.
    """

    maxQueued = 12

    def begin(self: Any, seed: int) -> None:
        """
        Start a runtime on a fresh ledger.
        """
        self.chance = random.Random(seed)
        self.clock = Clock()
        self.now = NOW
        self.model = Family()
        self.published: list[TradeEvent] = []
        self.asked: list[AnyOperation] = []
        self.durable: dict[int, str] = {}
        self.kept = self.made()
        self.ledger = HeldLedger(self.kept)
        events = TradeEvents()
        events.addObserver(self.published.extend)
        self.isStopping = False
        events.addObserver(self.observe)
        self.runtime = TradingRuntime(
            self.clock,
            self.ledger,
            events,
            now=lambda: self.now,
            maxQueued=self.maxQueued,
        )
        self.runtime.startService()

    def test_model(self: Any) -> None:
        """
        However submissions, turns and commits are interleaved, each operation
        is accepted or refused as if it were the only one and booked at once,
        and exactly the accepted operations are published, kept and remembered.
        """
        seen: set[str] = set()
        for seed in range(self.seeds):
            self.begin(seed)
            for _ in range(self.steps):
                seen.add(self.step())
            self.finish()
        self.assertEqual(
            seen,
            {
                "booked 0",
                "booked 1",
                "booked 2",
                "replayed",
                "attached",
                "BUSY",
                "FORBIDDEN",
                "IDEMPOTENCY_KEY_REUSED",
                "INCORRECT_ORDER",
                "INVALID_DATA",
                "NOT_FOUND",
                "TRADE_NO_MONEY",
            },
        )

    def step(self: Any) -> str:
        """
        Submit one operation, and perhaps let the reactor turn or a commit end.

        @return: The outcome of the operation.
        """
        outcome: str = self.submit(self.operation())
        chance = self.chance
        if chance.random() < 0.1:
            self.now += chance.randint(1, 100)
        if chance.random() < 0.3:
            self.clock.advance(0)
        if self.ledger.commits and chance.random() < 0.25:
            self.ledger.release()
        self.assertLessEqual(len(self.ledger.commits), 1)
        if chance.random() < 0.2:
            self.lookUp()
        return outcome

    def observe(self: Any, events: object) -> None:
        """
        An observer that submits an operation because of an event.
        """
        if not self.isStopping and self.chance.random() < 0.5:
            self.submit(self.operation())

    def operation(self: Any) -> AnyOperation:
        """
        A random operation, sometimes one that was requested before.
        """
        chance = self.chance
        principal = chance.choice((7, 8))
        key = f"key-{chance.randint(1, 60)}" if chance.random() < 0.4 else None
        if self.asked and chance.random() < 0.15:
            earlier: AnyOperation = chance.choice(
                chance.choice((self.asked, self.asked[-4:]))
            )
            if earlier.key is not None or chance.random() < 0.2:
                repeated = replace(earlier)
                if isinstance(repeated, Decision) and chance.random() < 0.5:
                    repeated.comment = ""
                return repeated
        order = chance.randint(0, self.model.nextOrder + 1)
        if chance.random() < 0.15:
            return self.decision(order or 1, principal, key)
        if chance.random() < 0.15:
            command, cmds = chance.choice(
                (
                    ("DeleteCredit", {CREDIT_IN, CREDIT_OUT}),
                    ("DeleteBalanceSync", {BALANCE_IN, BALANCE_OUT}),
                )
            )
            return Deletion(command, order or 1, frozenset(cmds), principal, key)
        cmd = chance.choice((BALANCE_IN, CREDIT_IN, BALANCE_OUT, CREDIT_OUT))
        login = chance.randint(1001, 1003)
        old = self.model.trades.get(order)
        if chance.random() < 0.6:
            order = 0
        elif old is not None and chance.random() < 0.8:
            login, cmd = old.login, old.cmd
        amount = chance.choice((1, 2, 5, 30 * ONE, 10**17))
        times = [chance.choice((None, None, None, None, 0, NOW, NOW + 500))] * 2
        if chance.random() < 0.2:
            times[1] = NOW + 50
        asked = Operation(
            chance.choice(("CreditIn", "CreditInSync")),
            cmd,
            login,
            amount if cmd in (BALANCE_IN, CREDIT_IN) else -amount,
            chance.choice(("Promotion credit", "Böni\t'1'")),
            order,
            *times,
            principal,
            key,
        )
        if chance.random() < 0.15:
            asked.command, asked.isRequest = "MngCreateFinanceRequest", True
            asked.order, asked.closeTime = 0, None
        return asked

    def decision(self: Any, order: int, principal: int, key: str | None) -> Decision:
        """
        A random decision, in most cases about a request that waits.
        """
        chance = self.chance
        waiting = [
            each.order
            for each in self.model.trades.values()
            if each.state == family.WAITS
        ]
        if waiting and chance.random() < 0.8:
            order = chance.choice(waiting)
        if chance.random() < 0.7:
            command = chance.choice(
                ("MngApproveFinanceRequest", "MngApproveFinanceRequestSync")
            )
            return Decision(command, order, True, "", principal, key)
        comment = chance.choice(("", "No papers"))
        command = "MngDeclineFinanceRequest"
        return Decision(command, order, False, comment, principal, key)

    def submit(self: Any, asked: AnyOperation) -> str:
        """
        Submit an operation to the runtime and to the model.

        @return: Its outcome.
        """
        history = len(self.model.history)
        isFull = history - len(self.published) >= self.maxQueued
        isKnown = (asked.principal, asked.key) in self.model.keys
        request = requestOf(asked)
        result = maybeDeferred(self.runtime.submit, asked)
        if isFull and not isKnown:
            return self.refusal(result, "BUSY")
        expected = self.model.ask(request, self.now, asked)
        if isinstance(expected, str):
            return self.refusal(result, expected)
        self.asked.append(asked)
        reservation = self.successResultOf(result)
        booked = self.model.history[expected]
        self.assertEqual(reservation.eventType, booked.type)
        self.assertEqual(reservation.trade, recordOf(booked.trade))
        if expected < len(self.published):
            self.assertIs(reservation.isReplay, True)
            return "replayed"
        self.assertIs(reservation.isReplay, False)
        self.assertIs(reservation.operation, booked.asked)
        place = expected
        reservation.whenDurable().addCallback(lambda _: self.told(place))
        return "attached" if expected < history else f"booked {booked.type}"

    def told(self: Any, place: int) -> None:
        """
        Assert that an operation that is reported as durable is on disk, and
        that its event was published.
        """
        self.assertLess(place, len(self.published))
        self.durable[place] = "told"

    def refusal(self: Any, result: Any, error: str) -> str:
        """
        Assert that an operation was refused with this error.
        """
        failures: list[Failure] = []
        result.addErrback(failures.append)
        [failure] = failures
        assert isinstance(failure.value, Refusal), failure
        self.assertEqual(failure.value.error, error)
        return error

    def lookUp(self: Any) -> None:
        """
        Look up any order in its current state, and any key.
        """
        order = self.chance.randint(1, self.model.nextOrder)
        told = self.successResultOf(self.runtime.trade(order))
        trade = self.model.trades.get(order)
        underWay = [
            family.underWay(each.type, each.request)
            for each in self.model.history[len(self.published) :]
            if each.trade.order == order
        ]
        if trade is None:
            self.assertIs(told, None)
        elif underWay:
            self.assertEqual(told, recordOf(trade, state=underWay[-1]))
        else:
            self.assertEqual(told, recordOf(trade))
        key = f"key-{self.chance.randint(1, 60)}"
        place = self.model.keys.get((7, key))
        found = None if place is None else self.model.history[place].trade.order
        self.assertEqual(self.successResultOf(self.runtime.orderOf(7, key)), found)

    def finish(self: Any) -> None:
        """
        Stop the runtime, and compare its final state with the model.
        """
        self.isStopping = True
        stopped = self.runtime.stopService()
        while self.ledger.commits:
            self.ledger.release()
        self.successResultOf(stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        model, history = self.model, self.model.history
        self.assertEqual(
            [(each.type, each.data) for each in self.published],
            [(each.type, recordOf(each.trade)) for each in history],
        )
        for event, each in zip(self.published, history, strict=True):
            self.assertIs(event.operation, each.asked)
        self.assertEqual(sorted(self.durable), list(range(len(history))))
        self.kept.open()
        for order in range(1, model.nextOrder):
            self.assertEqual(self.kept.trade(order), recordOf(model.trades[order]))
        self.assertIs(self.kept.trade(model.nextOrder), None)
        for login, (balance, credit) in family.totals(model.trades.values()).items():
            self.assertEqual(self.kept.account(login), Account(login, balance, credit))
        for (principal, key), place in model.keys.items():
            replay = self.kept.replay(principal, key)
            booked = history[place]
            self.assertEqual(
                (replay.eventType, replay.trade), (booked.type, recordOf(booked.trade))
            )
            self.assertEqual(
                requestOf(replay.operation).content, booked.request.content
            )
        self.assertEqual(self.kept.newOrder(), model.nextOrder)
        self.kept.close()


class MemoryModelTests(ModelBehaviour, SynchronousTestCase):
    """
    Tests for the runtime on a ledger in memory.
    """

    seeds = 6
    steps = 800

    def made(self) -> ILedger:
        """
        Make a ledger.
        """
        return MemoryLedger()


class SQLiteModelTests(ModelBehaviour, SynchronousTestCase):
    """
    Tests for the runtime on a ledger on disk, which verifies its totals when
    it is opened again.
    """

    seeds = 2
    steps = 800

    def made(self) -> ILedger:
        """
        Make a ledger.
        """
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        return SQLiteLedger(os.path.join(folder.name, "ledger.db"), execute)
