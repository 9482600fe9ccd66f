"""
Tests for finance requests: trades that wait for another principal's approval.
"""

import json
import os
import sqlite3
import tempfile
from contextlib import closing
from itertools import count
from typing import Any

from twisted.internet.defer import execute
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from creditsync._bookingrules import Rule
from creditsync._rulebook import RuleBook
from creditsync.events import TradeEvents
from creditsync.interfaces import ILedger
from creditsync.ledger._checking import findings
from creditsync.ledger._filtering import search
from creditsync.ledger.memory import MemoryLedger
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.records import Condition, Principal, TradeFilter
from creditsync.runtime import TradingRuntime
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator, FakeTradingRuntime
from tests.approving import Round

NOW = 1767225600
ONE = 100_000_000

MAKER, OTHER, THIRD = "maker", "other", "third"
CREATE = "MngCreateFinanceRequest"
APPROVE = "MngApproveFinanceRequest"
SYNC = "MngApproveFinanceRequestSync"
DECLINE = "MngDeclineFinanceRequest"


class Case(SynchronousTestCase):
    """
    A server in memory, with three managers and an admin.
    """

    rules: tuple[Rule, ...] = ()

    def setUp(self) -> None:
        """
        Start the server.
        """
        self.clock, self.now = Clock(), NOW
        self.authenticator = FakeAuthenticator()
        for id, name in enumerate((MAKER, OTHER, THIRD), start=7):
            self.authenticator.accept(name, Principal(id, 1, float("inf")))
        self.ledger: ILedger = MemoryLedger(epoch="9f3c1a7e")
        self.serve()

    def serve(self, **options: Any) -> None:
        """
        Start a server on the ledger.
        """
        events = TradeEvents()
        self.book = RuleBook(self.ledger, self.rules, lambda: self.now)
        self.runtime = TradingRuntime(
            self.clock,
            self.ledger,
            events,
            now=lambda: self.now,
            maxQueued=100,
            rules=self.book,
            **options,
        )
        self.service = CreditSync(
            self.clock,
            runtime=self.runtime,
            events=events,
            authenticator=self.authenticator,
            listen=[],
        )
        self.service.startService()
        self.heard: list[bytes] = []
        self.session = self.service.sessions.open(self.heard.append)
        self.extIDs = count(1)

    def lines(self) -> list[Any]:
        """
        What the client has received since the last call.
        """
        lines = b"".join(self.heard).split(b"\r\n")
        self.heard.clear()
        return [json.loads(line) for line in lines if line]

    def turn(self) -> None:
        """
        Let all that was asked for be done.
        """
        while any(call.getTime() <= self.clock.seconds() for call in self.calls()):
            self.clock.advance(0)

    def calls(self) -> Any:
        """
        The delayed calls.
        """
        return self.clock.getDelayedCalls()

    def send(self, command: str, token: str, data: Any, key: str | None = None) -> str:
        """
        Send a request.

        @return: Its C{extID}.
        """
        extID = f"q{next(self.extIDs)}"
        members = {"command": command, "extID": extID, "__token": token, "data": data}
        if key is not None:
            members["idempotencyKey"] = key
        self.session.lineReceived(json.dumps(members).encode())
        return extID

    def ask(self, command: str, token: str, data: Any, key: str | None = None) -> Any:
        """
        Send a request, and take its reply without its C{extID}; what events it had is
        kept in C{events}.
        """
        extID = self.send(command, token, data, key)
        self.turn()
        lines = self.lines()
        self.events = [line for line in lines if "event" in line]
        [reply] = [line for line in lines if line.get("extID") == extID]
        del reply["extID"]
        return reply

    def refused(
        self, command: str, token: str, data: Any, key: str | None = None
    ) -> tuple[str, str]:
        """
        Send a request that is refused.

        @return: The error and the message.
        """
        reply = self.ask(command, token, data, key)
        self.assertEqual(self.events, [])
        return reply["error"], reply["message"]

    def request(self, amount: float = 300, cmd: int = 7, login: int = 1001) -> int:
        """
        Make a finance request.

        @return: Its order.
        """
        data = {"login": login, "cmd": cmd, "amount": amount, "comment": "Bonus"}
        order: int = self.ask(CREATE, MAKER, data)["data"]["order"]
        return order

    def totals(self, login: int = 1001) -> tuple[int, int]:
        """
        The balance and the credit on the ledger.
        """
        account = self.ledger.account(login)
        assert account is not None
        return account.balance, account.credit


class LifeTests(Case):
    """
    From the making of a request to its end.
    """

    def test_made(self) -> None:
        """
        A request is accepted as a trade in state 17, everybody hears of it, and no
        money moves.
        """
        data = {"login": 1001, "cmd": 7, "amount": 300.5, "comment": "Bonus"}
        reply = self.ask(CREATE, MAKER, data)
        accepted = {
            "accepted": True,
            "order": 1,
            "state": 17,
            "login": 1001,
            "cmd": 7,
            "amount": 300.5,
        }
        self.assertEqual(reply, {"status": 200, "data": accepted})
        [event] = self.events
        self.assertEqual(event["type"], 0)
        trade = event["data"]
        self.assertEqual(
            (trade["order"], trade["state"], trade["profit"], trade["comment"]),
            (1, 17, 300.5, "Bonus"),
        )
        self.assertEqual((trade["open_time"], trade["close_time"]), (NOW, NOW))
        self.assertEqual(self.totals(), (0, 0))

    def test_approved(self) -> None:
        """
        Another principal's approval books it: the C{Sync} form is answered with the
        event's data. It closes then, and opened when it was requested.
        """
        order = self.request()
        self.now += 60
        reply = self.ask(SYNC, OTHER, {"order": order})
        [event] = self.events
        self.assertEqual(reply, {"status": 200, "data": event["data"]})
        self.assertEqual(event["type"], 1)
        trade = event["data"]
        self.assertEqual(trade["state"], 3)
        self.assertEqual(trade["profit"], 300.0)
        self.assertEqual(trade["open_time"], NOW)
        self.assertEqual((trade["close_time"], trade["timestamp"]), (NOW + 60,) * 2)
        self.assertEqual(trade["cursor"], "9f3c1a7e-2")
        self.assertEqual(self.totals(), (0, 300 * ONE))

    def test_accepted(self) -> None:
        """
        The asynchronous form is answered with state 10.
        """
        reply = self.ask(APPROVE, OTHER, {"order": self.request(-1, 9)})
        self.assertEqual(reply["error"], "TRADE_NO_MONEY")
        reply = self.ask(APPROVE, OTHER, {"order": self.request(20, 6)})
        accepted = {
            "accepted": True,
            "order": 2,
            "state": 10,
            "login": 1001,
            "cmd": 6,
            "amount": 20.0,
        }
        self.assertEqual(reply, {"status": 200, "data": accepted})
        self.assertEqual(self.totals(), (20 * ONE, 0))

    def test_declined(self) -> None:
        """
        A request that is declined, by its maker too, ends in state 18, with the comment
        of who has declined it if there is one.
        """
        for token, comment in ((OTHER, {"comment": "No papers"}), (MAKER, {})):
            order = self.request()
            reply = self.ask(DECLINE, token, {"order": order, **comment})
            self.assertEqual((reply["status"], reply["data"]["state"]), (200, 18))
            [event] = self.events
            told = event["type"], event["data"]["state"], event["data"]["comment"]
            self.assertEqual(told, (1, 18, comment.get("comment", "Bonus")))
        self.assertEqual(self.totals(), (0, 0))

    def test_times(self) -> None:
        """
        A request that names its opening time keeps it, and does not close before.
        """
        data = {"login": 1001, "cmd": 7, "amount": 1, "comment": "x", "open_time": 5}
        order = self.ask(CREATE, MAKER, data)["data"]["order"]
        trade = self.ask(SYNC, OTHER, {"order": order})["data"]
        self.assertEqual((trade["open_time"], trade["close_time"]), (5, NOW))
        order = self.request()
        self.now -= 60
        trade = self.ask(SYNC, OTHER, {"order": order})["data"]
        self.assertEqual((trade["open_time"], trade["close_time"]), (NOW, NOW))

    def test_lookedUp(self) -> None:
        """
        A look-up shows its state, and while a step is not booked yet, 10 or 11.
        """
        order = self.request()

        def state() -> Any:
            return self.ask("GetOperation", THIRD, {"order": order})["data"]["state"]

        self.assertEqual(state(), 17)
        for command, underWay, after in ((APPROVE, 10, 3), (DECLINE, 11, 18)):
            self.send(command, OTHER, {"order": order})
            asked = self.send("GetOperation", THIRD, {"order": order})
            [reply] = [each for each in self.lines() if each.get("extID") == asked]
            self.assertEqual(reply["data"]["state"], underWay)
            self.turn()
            self.assertEqual(state(), after)
            order = self.request()

    def test_found(self) -> None:
        """
        Requests that wait are found by their state, also beside another condition.
        """
        waits = self.request()
        declined = self.request()
        self.ask(DECLINE, OTHER, {"order": declined})
        booked = self.request()
        self.ask(APPROVE, OTHER, {"order": booked})
        for state, order in ((17, waits), (18, declined), (3, booked)):
            for where in ([], [["login", "==", 1001]]):
                data = {"where": [["state", "==", state], *where]}
                found = self.ask("MngGetTradesByFilter", OTHER, data)["data"]
                self.assertEqual([row[0] for row in found["rows"]], [order])
        self.assertEqual(found["totals"], {"balance": 0.0, "credit": 300.0})


class RefusalTests(Case):
    """
    What can't be done, of which nothing is left.
    """

    def test_maker(self) -> None:
        """
        Who has made a request does not approve it, under whatever role.
        """
        order = self.request()
        self.authenticator.accept("maker-as-admin", Principal(7, 3, float("inf")))
        for token in (MAKER, "maker-as-admin"):
            for command in (APPROVE, SYNC):
                told = self.refused(command, token, {"order": order})
                sentence = (
                    f"finance request {order} was made by this token's principal:"
                    " another one has to approve it"
                )
                self.assertEqual(told, ("FORBIDDEN", sentence))
        self.assertEqual(self.ask(SYNC, OTHER, {"order": order})["status"], 200)

    def test_makerUnderWay(self) -> None:
        """
        Also while the request is not on disk yet.
        """
        data = {"login": 1001, "cmd": 7, "amount": 1, "comment": "x"}
        self.send(CREATE, MAKER, data)
        self.send(SYNC, MAKER, {"order": 1})
        self.send(SYNC, OTHER, {"order": 1})
        self.turn()
        replies = [line for line in self.lines() if "event" not in line]
        self.assertEqual(
            sorted((each["extID"], each["status"]) for each in replies),
            [("q1", 200), ("q2", 403), ("q3", 200)],
        )

    def test_selfApproval(self) -> None:
        """
        With the option a maker may.
        """
        self.serve(selfApproval=True)
        order = self.request()
        self.assertEqual(self.ask(SYNC, MAKER, {"order": order})["status"], 200)

    def test_twice(self) -> None:
        """
        A request is decided once, and what was no request, or is gone, never.
        """
        approved = self.request()
        self.ask(SYNC, OTHER, {"order": approved})
        declined = self.request()
        self.ask(DECLINE, OTHER, {"order": declined})
        data = {"login": 1001, "amount": 5, "comment": "x"}
        booked = self.ask("CreditIn", OTHER, data)["data"]["order"]
        deleted = self.ask("CreditIn", OTHER, data)["data"]["order"]
        self.ask("DeleteCredit", OTHER, {"order": deleted})
        for order in (approved, declined, booked, deleted):
            for command in (APPROVE, SYNC, DECLINE):
                error, message = self.refused(command, THIRD, {"order": order})
                self.assertEqual(
                    (error, message),
                    (
                        "INCORRECT_ORDER",
                        f"order {order} is not a finance request that waits for"
                        " approval",
                    ),
                )
        self.assertEqual(self.totals(), (0, 305 * ONE))

    def test_missing(self) -> None:
        """
        An order that does not exist is not found.
        """
        for command in (APPROVE, SYNC, DECLINE):
            self.assertEqual(
                self.refused(command, OTHER, {"order": 99}),
                ("NOT_FOUND", "there is no order 99"),
            )

    def test_changed(self) -> None:
        """
        Before it is approved no other command changes or deletes it; after that it is
        a trade like others.
        """
        waits, declined = self.request(), self.request()
        self.ask(DECLINE, OTHER, {"order": declined})
        data = {"login": 1001, "amount": 5, "comment": "x"}
        for order in (waits, declined):
            sentence = f"order {order} is a finance request that was not approved"
            for command, asked in (
                ("CreditIn", {**data, "order": order}),
                ("DeleteCredit", {"order": order}),
            ):
                self.assertEqual(
                    self.refused(command, OTHER, asked), ("INCORRECT_ORDER", sentence)
                )
        self.ask(APPROVE, OTHER, {"order": waits})
        reply = self.ask("CreditIn", OTHER, {**data, "order": waits})
        self.assertEqual((reply["status"], reply["data"]["state"]), (200, 11))
        reply = self.ask("DeleteCredit", OTHER, {"order": waits})
        self.assertEqual((reply["status"], reply["data"]["state"]), (200, 12))

    def test_noMoney(self) -> None:
        """
        Whether there is enough is judged at the approval, and if there is not, the
        request goes on waiting.
        """
        order = self.request(-300, 9)
        error, _ = self.refused(SYNC, OTHER, {"order": order})
        self.assertEqual(error, "TRADE_NO_MONEY")
        self.ask("CreditIn", OTHER, {"login": 1001, "amount": 301, "comment": "x"})
        self.assertEqual(self.ask(SYNC, OTHER, {"order": order})["status"], 200)
        self.assertEqual(self.totals(), (0, ONE))

    def test_data(self) -> None:
        """
        The data follows the rules of the command that books its cmd; what is wrong is
        named.
        """
        for changes, sentence in (
            ({"cmd": 5}, "data.cmd must be 6, 7, 8 or 9"),
            ({"amount": -1}, "data.amount must be greater than 0 for cmd 7"),
            ({"cmd": 8}, "data.amount must be less than 0 for cmd 8"),
            ({"amount": 0.123456789}, "data.amount must have at most 8 decimals"),
            ({"amount": 0}, "data.amount must be greater than 0 for cmd 7"),
            ({"comment": None}, "data.comment is required for cmd 7"),
            (
                {"open_time": NOW + 1},
                "data.close_time must not be before data.open_time"
                f" ({NOW} is before {NOW + 1})",
            ),
            ({"gw_order": "x"}, "data.gw_order must be an integer"),
        ):
            data = {"login": 1001, "cmd": 7, "amount": 1, "comment": "x", **changes}
            data = {name: value for name, value in data.items() if value is not None}
            told = self.refused(CREATE, MAKER, data)
            self.assertEqual((changes, *told), (changes, "INVALID_DATA", sentence))
        reply = self.ask(CREATE, MAKER, {"login": 1001.0, "cmd": 6.0, "amount": 1})
        self.assertEqual(reply["status"], 200)
        self.assertEqual(self.events[0]["data"]["comment"], "Finance")

    def test_foreignRuntime(self) -> None:
        """
        With another trading runtime there are no such commands, unless it says so.
        """
        events = TradeEvents()
        self.service = CreditSync(
            self.clock,
            runtime=FakeTradingRuntime(events),
            events=events,
            authenticator=self.authenticator,
            listen=[],
        )
        self.service.startService()
        self.session = self.service.sessions.open(self.heard.append)
        for command in (CREATE, APPROVE, SYNC, DECLINE):
            error, _ = self.refused(command, MAKER, {"order": 1})
            self.assertEqual(error, "UNKNOWN_COMMAND")


class RightsTests(Case):
    """
    Requests and the accounts that a token is for.
    """

    def setUp(self) -> None:
        """
        Have an account in a group, and a token that may not see it.
        """
        super().setUp()
        self.authenticator.accept("a", Principal(11, 1, float("inf"), groups="a*"))
        self.runtime.setGroup(1001, "b")
        self.turn()

    def test_outside(self) -> None:
        """
        A request outside of the token's accounts can't be made, and is not there to
        be decided.
        """
        data = {"login": 1001, "cmd": 7, "amount": 1, "comment": "x"}
        self.assertEqual(
            self.refused(CREATE, "a", data),
            ("FORBIDDEN", "this token may not use account 1001"),
        )
        order = self.request()
        for command in (APPROVE, SYNC, DECLINE):
            self.assertEqual(
                self.refused(command, "a", {"order": order}),
                ("NOT_FOUND", f"there is no order {order}"),
            )

    def test_roles(self) -> None:
        """
        Only managers, dealers and admins may use them.
        """
        order = self.request()
        data = {"login": 1001, "cmd": 7, "amount": 1, "comment": "x", "order": order}
        for role in (0, 4, 5, 9, 10, 11):
            self.authenticator.accept("r", Principal(1001, role, float("inf")))
            for command in (CREATE, APPROVE, SYNC, DECLINE):
                error, message = self.refused(command, "r", data)
                self.assertEqual(
                    (role, error, message),
                    (role, "FORBIDDEN", f"this token's role may not use {command}"),
                )


class KeyTests(Case):
    """
    Requests and decisions that are repeated.
    """

    def test_repeated(self) -> None:
        """
        A repetition gets the reply of the first one, and nothing happens.
        """
        data = {"login": 1001, "cmd": 7, "amount": 1, "comment": "x"}
        for command, token, asked in (
            (CREATE, MAKER, data),
            (SYNC, OTHER, {"order": 1}),
            (CREATE, MAKER, {**data, "cmd": 6}),
            (DECLINE, OTHER, {"order": 2, "comment": "No"}),
        ):
            key = f"{command} {asked.get('cmd')}"
            first = self.ask(command, token, asked, key)
            self.assertEqual(first["status"], 200)
            again = self.ask(command, token, asked, key)
            self.assertEqual(again, {**first, "replayed": True})
            self.assertEqual(self.events, [])
        # A decision that leaves the comment as it is agrees with any.
        again = self.ask(DECLINE, OTHER, {"order": 2}, "MngDeclineFinanceRequest None")
        self.assertIs(again["replayed"], True)

    def test_reused(self) -> None:
        """
        The same key with other content is refused, and the member is named.
        """
        data = {"login": 1001, "cmd": 7, "amount": 1, "comment": "x"}
        self.ask(CREATE, MAKER, data, "c")
        self.ask(CREATE, MAKER, data, "d")
        self.ask(DECLINE, OTHER, {"order": 1, "comment": "No"}, "e")
        for command, token, asked, key, member in (
            (CREATE, MAKER, {**data, "cmd": 6}, "c", "data.cmd"),
            (CREATE, MAKER, {**data, "amount": 2}, "c", "data.amount"),
            (DECLINE, OTHER, {"order": 2, "comment": "No"}, "e", "data.order"),
            (DECLINE, OTHER, {"order": 1, "comment": "Yes"}, "e", "data.comment"),
            (APPROVE, OTHER, {"order": 1}, "e", "command"),
        ):
            error, message = self.refused(command, token, asked, key)
            self.assertEqual(error, "IDEMPOTENCY_KEY_REUSED")
            self.assertIn(f"{member} differs", message)

    def test_hidden(self) -> None:
        """
        A decision that is repeated gets its reply though the account has left the
        token's groups.
        """
        self.authenticator.accept("a", Principal(11, 1, float("inf"), groups="a"))
        self.runtime.setGroup(1001, "a")
        self.turn()
        order = self.request()
        first = self.ask(SYNC, "a", {"order": order}, "k")
        self.runtime.setGroup(1001, "b")
        self.turn()
        again = self.ask(SYNC, "a", {"order": order}, "k")
        self.assertEqual(again, {**first, "replayed": True})


class RulesTests(Case):
    """
    Requests and the rules of a site.
    """

    def use(self, *rules: Rule) -> None:
        """
        Put rules into force.
        """
        self.successResultOf(self.book.use(rules))

    def test_overTheLimit(self) -> None:
        """
        A request is the way over a rule that says so, for its making and its
        approval, and what was booked that way counts for who has approved it.
        """
        self.use(
            Rule("large", 100 * ONE, over="request"),
            Rule("a day", maxPerDay=150 * ONE, over="request"),
        )
        data = {"login": 1001, "amount": 120, "comment": "x"}
        error, message = self.refused("CreditIn", MAKER, data)
        self.assertEqual(error, "LIMIT_EXCEEDED")
        self.assertIn("ask for it with MngCreateFinanceRequest", message)
        for _ in range(2):
            order = self.request(120)
            self.assertEqual(self.ask(SYNC, OTHER, {"order": order})["status"], 200)
        data["amount"] = 1
        error, message = self.refused("CreditIn", OTHER, data)
        self.assertIn('the limit "a day"', message)
        self.assertEqual(self.ask("CreditIn", MAKER, data)["status"], 200)

    def test_refused(self) -> None:
        """
        A rule for which no request helps bounds the making and the approval, each for
        who does it.
        """
        dealers = Rule("dealers", 100 * ONE, roles=frozenset({2}))
        self.use(dealers)
        self.authenticator.accept("dealer", Principal(12, 2, float("inf")))
        data = {"login": 1001, "cmd": 7, "amount": 101, "comment": "x"}
        error, message = self.refused(CREATE, "dealer", data)
        self.assertEqual(error, "LIMIT_EXCEEDED")
        self.assertNotIn("MngCreateFinanceRequest", message)
        order = self.request(101)
        error, message = self.refused(SYNC, "dealer", {"order": order})
        self.assertEqual(
            (error, message),
            (
                "LIMIT_EXCEEDED",
                'the limit "dealers" allows at most 100.0 in one operation, and this'
                " counts 101.0",
            ),
        )
        self.assertEqual(self.ask(SYNC, OTHER, {"order": order})["status"], 200)

    def test_notCounted(self) -> None:
        """
        What waits or was declined counts for no sum, also after a restart.
        """
        self.rules = (Rule("a day", maxPerDay=150 * ONE),)
        self.use(*self.rules)
        declined = self.request(140)
        self.ask(DECLINE, MAKER, {"order": declined})
        self.request(140)
        data = {"login": 1001, "amount": 100, "comment": "x"}
        self.assertEqual(self.ask("CreditIn", MAKER, data)["status"], 200)
        for _ in range(2):
            error, _ = self.refused("CreditIn", MAKER, data)
            self.assertEqual(error, "LIMIT_EXCEEDED")
            self.serve()

    def test_counted(self) -> None:
        """
        An approval counts, also after a restart.
        """
        self.rules = (Rule("a day", maxPerDay=150 * ONE),)
        self.use(*self.rules)
        self.ask(SYNC, OTHER, {"order": self.request(100)})
        data = {"login": 1001, "amount": 51, "comment": "x"}
        for _ in range(2):
            error, _ = self.refused("CreditIn", OTHER, data)
            self.assertEqual(error, "LIMIT_EXCEEDED")
            self.serve()
        self.assertEqual(self.ask("CreditIn", MAKER, data)["status"], 200)


class OnDiskCase(Case):
    """
    A server on a ledger on disk.
    """

    rules = (Rule("a day", maxPerDay=10_000 * ONE),)

    def setUp(self) -> None:
        """
        Start a server on a new one.
        """
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "ledger.db")
        self.ledger = SQLiteLedger(self.path, execute)
        self.serve()

    def tearDown(self) -> None:
        """
        Stop it.
        """
        self.successResultOf(self.runtime.stopService())

    def restart(self) -> None:
        """
        Stop the server, and start another one.
        """
        self.successResultOf(self.runtime.stopService())
        self.ledger = SQLiteLedger(self.path, execute)
        self.serve()


class LedgerTests(OnDiskCase):
    """
    What is on disk.
    """

    def test_restart(self) -> None:
        """
        After a restart a request still waits, for another than its maker, a decision
        stays one, and the ledger is sound.
        """
        waits, declined, approved = (self.request() for _ in range(3))
        self.ask(DECLINE, OTHER, {"order": declined, "comment": "No"}, "d")
        told = self.ask(SYNC, OTHER, {"order": approved}, "a")
        self.restart()
        again = self.ask(SYNC, OTHER, {"order": approved}, "a")
        self.assertEqual(again, {**told, "replayed": True})
        again = self.ask(DECLINE, OTHER, {"order": declined}, "d")
        self.assertEqual((again["status"], again["replayed"]), (200, True))
        error, _ = self.refused(SYNC, MAKER, {"order": waits})
        self.assertEqual(error, "FORBIDDEN")
        self.assertEqual(self.ask(SYNC, THIRD, {"order": waits})["status"], 200)
        self.assertEqual(self.totals(), (0, 600 * ONE))
        with closing(sqlite3.connect(self.path)) as connection:
            self.assertEqual(list(findings(connection)), [])

    def test_index(self) -> None:
        """
        Requests that wait are found without a look at all trades, however they are
        asked for.
        """
        waits = Condition("state", "==", (17,))
        statements: list[str] = []
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.set_trace_callback(statements.append)
            self.request()
            for others, orderBy in (
                ((), ()),
                ((Condition("login", "==", (1001,)),), (("comment", True),)),
                ((Condition("order", ">", (0,)),), (("order", False),)),
            ):
                filter = TradeFilter(
                    (*others, waits), orderBy, 10, 0, lambda group: True, 5.0
                )
                found = search(connection, filter, list)
                self.assertEqual(found.count, 1)
            connection.set_trace_callback(None)
            plans = [
                connection.execute(f"EXPLAIN QUERY PLAN {each}").fetchall()
                for each in statements
                if "FROM trade I" in each
            ]
        self.assertEqual(len(plans), 6)
        for plan in plans:
            self.assertTrue(any("trade_waiting" in row[-1] for row in plan), plan)

    def test_movements(self) -> None:
        """
        The sums of a day have what was approved, by who has approved it, and neither
        what waits nor what was declined.
        """
        waits, declined, approved = (self.request(each) for each in (1, 2, 4))
        del waits
        self.ask(DECLINE, OTHER, {"order": declined})
        self.ask(SYNC, OTHER, {"order": approved})
        found = [
            (each.principal, each.method, each.amount)
            for each in self.ledger.movements(NOW // 86_400, 10)
        ]
        self.assertEqual(found, [(8, "CreditIn", 4 * ONE)])


class ProofTests(OnDiskCase):
    """
    Rows that can't follow one another in a ledger.
    """

    def rewritten(self, script: str) -> list[str]:
        """
        The findings of rule "change" after a script that makes no hashes.
        """
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            for name in ("journal_updated", "trade_kept"):
                connection.execute(f"DROP TRIGGER {name}")
            connection.executescript(script)
            return [
                each.message for each in findings(connection) if each.rule == "change"
            ]

    def test_transitions(self) -> None:
        """
        The proof knows which state follows which.
        """
        order = self.request()
        self.ask(SYNC, OTHER, {"order": order})
        self.successResultOf(self.runtime.stopService())
        for changes, message in (
            ("state = 18 WHERE place = 1", "place 1 has type 0, but state 18"),
            ("state = 17 WHERE place = 2", "place 2 has type 1, but state 17"),
            (
                "profit = 1 WHERE place = 2",
                "place 2 approves order 1 with another amount",
            ),
            (
                "type = 2, state = 6 WHERE place = 2",
                "place 2 changes order 1, which was not approved",
            ),
            (
                "state = 3 WHERE place = 1;"
                " UPDATE journal SET state = 18 WHERE place = 2",
                "place 2 changes order 1, which is no request",
            ),
        ):
            with open(self.path, "rb") as file:
                before = file.read()
            self.assertIn(message, self.rewritten(f"UPDATE journal SET {changes}"))
            with open(self.path, "wb") as file:
                file.write(before)
        self.restart()


class ManyTests(SynchronousTestCase):
    """
    Requests that several principals decide at once.
    """

    def test_rounds(self) -> None:
        """
        Each is decided once, whoever comes first: tests/approving.py has the rules.
        """
        outcomes = sum((Round(seed).run() for seed in range(60)), start=Round(60).run())
        self.assertEqual(outcomes[f"{CREATE} 200"], 61)
        for outcome in ("200", "403", "409"):
            self.assertTrue(outcomes[f"{SYNC} {outcome}"])
