"""
Tests for L{creditsync.gateway._groups}: the groups of accounts, taken over from the
platform.
"""

import json
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from creditsync._bookingrules import readRules
from creditsync._foreigngroups import IForeignGroups
from creditsync._rulebook import RuleBook
from creditsync.codes import OP_CREDIT_IN, SESSION_MANAGER
from creditsync.errors import Busy
from creditsync.events import TradeEvents
from creditsync.gateway._groups import (
    FRESH,
    MAX_IN_FLIGHT,
    RETRY,
    Gate,
    PlatformGroups,
)
from creditsync.gateway._memorylog import MemoryIntentLog
from creditsync.gateway._outcomes import Outcome, outcomeOf, unsent
from creditsync.gateway._runtime import GatewayRuntime
from creditsync.records import Principal, Trade
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator
from tests.platforms import NOW, Link, Platform

GIFT = {"amount": 300, "comment": "gift"}


class GroupedTestCase(SynchronousTestCase):
    """
    A gateway that takes groups over, with a client whose token is restricted to them.
    """

    rules = ""

    def setUp(self) -> None:
        """
        Start it, in front of a platform with three accounts.
        """
        self.clock = MemoryReactorClock()
        self.platform = Platform(self.now)
        for login, group in ((1001, "real"), (1002, "demo"), (1003, "real")):
            self.account(login, group)
        self.authenticator = FakeAuthenticator()
        for mask in ("real*", "!demo,*"):
            principal = Principal(20, SESSION_MANAGER, float("inf"), mask, groups=mask)
            self.authenticator.accept(mask, principal)
        self.log = MemoryIntentLog()
        self.begin()

    def begin(self) -> None:
        """
        Start the gateway on the log that there is.
        """
        self.link = Link(self.clock, self.platform)
        events = TradeEvents()
        rules = None
        if self.rules:
            rules = RuleBook(self.log.ledger, readRules(self.rules.encode()), self.now)
        self.gateway = GatewayRuntime(
            self.clock,
            self.log,
            self.link,
            events,
            now=self.now,
            maxQueued=100,
            alarm=lambda text: None,
            rules=rules,
            takesGroups=True,
        )
        self.server = CreditSync(
            self.clock,
            runtime=self.gateway,
            events=events,
            authenticator=self.authenticator,
            listen=[],
        )
        self.server.startService()
        self.turn()

    def account(self, login: int, group: Any) -> None:
        """
        Have an account at the platform.
        """
        members = {"login": login, "balance": 0, "credit": 0, "group": group}
        self.platform.accounts[login] = members

    def now(self) -> float:
        """
        The UNIX time.
        """
        return NOW + self.clock.seconds()

    def turn(self) -> None:
        """
        Let the reactor turn some times.
        """
        for _ in range(12):
            self.clock.advance(0)

    def wait(self, seconds: float) -> None:
        """
        Let time pass.
        """
        for _ in range(int(seconds)):
            self.clock.advance(1)
            self.turn()

    def connect(self, token: str) -> "Conversation":
        """
        Connect, with events.
        """
        client = Conversation(self, token)
        client.ask("HealthCheck", {})
        client.heard()
        return client

    def looked(self) -> list[int]:
        """
        The accounts that were looked up since this was called last.
        """
        found = [
            data["login"]
            for command, data in self.platform.heard
            if command == "GetAccountByLogin"
        ]
        self.platform.heard.clear()
        return found


class Conversation:
    """
    A client.
    """

    def __init__(self, case: GroupedTestCase, token: str) -> None:
        self.case, self.token = case, token
        self.transport = StringTransport()
        self.protocol = case.server.factory.buildProtocol(None)  # type: ignore[arg-type]
        self.protocol.makeConnection(self.transport)

    def ask(self, command: str, data: dict[str, Any], **members: Any) -> None:
        """
        Send a request.
        """
        line = {"command": command, "extID": "e", "__token": self.token, "data": data}
        self.protocol.dataReceived(json.dumps(line | members).encode() + b"\r\n")
        self.case.turn()

    def heard(self) -> list[Any]:
        """
        What has come since this was called last: the order of an event, the status of
        a reply.
        """
        lines = [json.loads(line) for line in self.transport.value().splitlines()]
        self.transport.clear()
        return [
            ("event", line["data"]["order"]) if "event" in line else line["status"]
            for line in lines
        ]


class ServiceTests(GroupedTestCase):
    """
    What clients with restricted tokens get.
    """

    def test_interface(self) -> None:
        """
        The gateway says that its groups are another system's, unless they are its own.
        """
        verifyObject(IForeignGroups, self.gateway)
        own = GatewayRuntime(
            self.clock,
            MemoryIntentLog(),
            self.link,
            TradeEvents(),
            now=self.now,
            maxQueued=1,
        )
        self.assertFalse(IForeignGroups.providedBy(own))

    def test_events(self) -> None:
        """
        The first event of an account waits until its group is known, and those of
        other groups are not shown. The group is in the ledger then.
        """
        real, rest = self.connect("real*"), self.connect("!demo,*")
        admin = self.connect("admin")
        self.link.isAutomatic = False
        first = self.platform.person(1001, 7, 300)
        second = self.platform.person(1002, 7, 300)
        for _ in range(2):
            self.link.deliverEvent()
        self.turn()
        self.assertEqual(admin.heard(), [])
        self.assertEqual(self.log.ledger.head, 0)
        while self.link.requests:
            self.link.deliverRequest()
        while self.link.replies:
            self.link.deliverReply()
        self.turn()
        self.assertEqual(admin.heard(), [("event", first), ("event", second)])
        self.assertEqual(real.heard(), [("event", first)])
        self.assertEqual(rest.heard(), [("event", first)])
        found = [self.log.ledger.account(login) for login in (1001, 1002)]
        self.assertEqual([each and each.group for each in found], ["real", "demo"])

    def test_order(self) -> None:
        """
        The changes of a trade that come while its account is looked up are published
        in their order.
        """
        admin = self.connect("admin")
        order = self.platform.person(1001, 7, 300)
        self.clock.advance(1)
        self.platform.change(order, profit=400)
        self.clock.advance(1)
        self.platform.change(order, state=6)
        self.turn()
        self.assertEqual(admin.heard(), [("event", order)] * 3)
        types = [each.type for each in self.log.ledger.events(0, 9)]
        self.assertEqual(types, [0, 1, 2])

    def test_doubled(self) -> None:
        """
        An event that comes twice while its account is looked up is published once.
        """
        admin = self.connect("admin")
        self.platform.person(1001, 7, 300)
        self.link.deliverEvent(isLast=False)
        self.turn()
        self.assertEqual(admin.heard(), [("event", 5001)])

    def test_moved(self) -> None:
        """
        What was looked up counts for ten minutes. Then the next event of the account
        waits again, and is shown by the group that it has by then.
        """
        real = self.connect("real*")
        self.platform.person(1001, 7, 300)
        self.turn()
        self.assertEqual((real.heard(), self.looked()), ([("event", 5001)], [1001]))
        self.account(1001, "demo")
        self.wait(FRESH - 5)
        self.looked()
        self.platform.person(1001, 7, 300)
        self.turn()
        self.assertEqual((real.heard(), self.looked()), ([("event", 5002)], []))
        self.wait(10)
        self.platform.person(1001, 7, 300)
        self.turn()
        self.assertEqual((real.heard(), self.looked()), ([], [1001]))

    def test_reconnected(self) -> None:
        """
        After a new connection each account is looked up again when it is seen, and no
        other one.
        """
        for login in (1001, 1002):
            self.platform.person(login, 7, 300)
        self.wait(300)
        self.looked()
        self.link.cut()
        self.link.connect()
        self.turn()
        self.assertEqual(self.looked(), [])
        self.platform.person(1002, 7, 300)
        self.turn()
        self.assertEqual(self.looked(), [1002])

    def test_caughtUp(self) -> None:
        """
        What was booked without a connection is judged by its account's group too.
        """
        real, admin = self.connect("real*"), self.connect("admin")
        self.link.cut()
        first = self.platform.person(1002, 7, 300)
        second = self.platform.person(1003, 7, 300)
        self.link.connect()
        self.turn()
        self.assertEqual(real.heard(), [("event", second)])
        self.assertEqual(admin.heard(), [("event", first), ("event", second)])

    def test_killed(self) -> None:
        """
        The mark of the catch-up does not pass what waits for a group, so that it is
        read again if the process is killed.
        """
        self.platform.person(1002, 7, 300)
        self.wait(25)
        self.link.losesReply.append("GetAccountByLogin")
        self.platform.person(1001, 7, 300)
        self.wait(3)
        self.platform.person(1002, 7, 300)
        self.wait(4)
        self.assertEqual(self.log.ledger.head, 2)
        self.assertEqual(self.log.mark, int(NOW) + 25)
        self.link.abandon()
        for call in self.clock.getDelayedCalls():
            call.cancel()
        self.begin()
        events = self.log.ledger.events(0, 9)
        self.assertEqual([each.order for each in events], [5001, 5003, 5002])

    def test_underWay(self) -> None:
        """
        Nothing of an account waits while an operation of it is under way, neither what
        has waited before nor what comes then; it is not shown by a mask.
        """
        real, admin = self.connect("real*"), self.connect("admin")
        self.link.losesReply.append("GetAccountByLogin")
        first = self.platform.person(1001, 7, 300)
        self.turn()
        self.assertEqual(admin.heard(), [])
        admin.ask("CreditInSync", {**GIFT, "login": 1001})
        self.assertEqual(admin.heard(), [("event", first)])
        second = self.platform.person(1001, 7, 500)
        self.turn()
        self.assertEqual(admin.heard(), [("event", second)])
        self.assertEqual(real.heard(), [])

    def test_operation(self) -> None:
        """
        The first operation of a restricted token waits until the group of its account
        is known; on an account of another group, or of none, it is refused.
        """
        self.account(1004, "")
        client = self.connect("!demo,*")
        for login, expected in (
            (1001, []),
            (1002, [403]),
            (1004, [403]),
            (1005, [403]),
        ):
            client.ask("CreditInSync", {**GIFT, "login": login}, extID=login)
            self.assertEqual((login, client.heard()), (login, expected))
        self.platform.work()
        self.turn()
        self.assertEqual(client.heard(), [("event", 5001), 200])

    def test_deletion(self) -> None:
        """
        A deletion waits, too, until it is known whether the token may see the account.
        """
        self.log.ledger.setGroups({1001: "real"})
        client = self.connect("real*")
        order = self.platform.person(1001, 7, 300)
        self.wait(FRESH + 1)
        self.assertEqual(client.heard(), [("event", order)])
        self.account(1001, "demo")
        client.ask("DeleteCreditSync", {"order": order})
        self.assertEqual(client.heard(), [404])
        self.account(1001, "real")
        self.wait(FRESH + 1)
        client.ask("DeleteCreditSync", {"order": order})
        self.platform.work()
        self.turn()
        self.assertEqual(client.heard(), [("event", order), 200])

    def test_unanswered(self) -> None:
        """
        While the platform does not tell a group, operations of restricted tokens are
        refused so that they can be repeated, and those of others are booked. Their
        events are not shown to restricted tokens.
        """
        self.link.losesReply.extend(["GetAccountByLogin"] * 3)
        real, admin = self.connect("real*"), self.connect("admin")
        real.ask("CreditInSync", {**GIFT, "login": 1001})
        self.wait(11)
        self.assertEqual((real.heard(), self.looked()), ([504], [1001]))
        real.ask("CreditInSync", {**GIFT, "login": 1001})
        self.assertEqual((real.heard(), self.looked()), ([503], []))
        admin.ask("CreditInSync", {**GIFT, "login": 1001})
        self.platform.work()
        self.turn()
        self.assertEqual(admin.heard(), [("event", 5001), 200])
        self.assertEqual(real.heard(), [])
        self.wait(RETRY)
        self.link.losesReply.clear()
        real.ask("CreditInSync", {**GIFT, "login": 1001})
        self.platform.work()
        self.turn()
        self.assertEqual(real.heard(), [("event", 5002), 200])

    def test_lookups(self) -> None:
        """
        A look-up of an account tells its group; accounts without one are found by no
        mask, also not by one that selects all.
        """
        client = self.connect("!demo,*")
        for login, expected in ((1001, 200), (1002, 404)):
            client.ask("GetAccountByLogin", {"login": login})
            self.assertEqual((login, client.heard()), (login, [expected]))
        self.assertEqual(self.looked(), [1001, 1002])
        self.log.ledger.setGroups({1009: ""})
        self.link.losesReply.append("GetAccountByLogin")
        self.platform.person(1009, 7, 300)
        self.wait(11)
        client.heard()
        asked = {"tradeType": 4, "where": [], "orderBy": [["order", "asc"]]}
        client.ask("MngGetTradesByFilter", asked)
        reply = json.loads(client.transport.value())
        self.assertEqual((reply["status"], reply["data"]["rows"]), (200, []))
        client.heard()
        client.ask("GetGroups", {})
        reply = json.loads(client.transport.value())
        self.assertEqual(reply["data"], {"groups": ["real"]})

    def test_set(self) -> None:
        """
        Nobody moves an account here.
        """
        admin = self.connect("admin")
        admin.ask("MngSetAccountGroup", {"login": 1001, "group": "vip"})
        reply = json.loads(admin.transport.value())
        self.assertEqual((reply["status"], reply["error"]), (403, "FORBIDDEN"))
        self.assertIn("taken over from the platform", reply["message"])

    def test_restarted(self) -> None:
        """
        A gateway that is started again knows the groups that it knew.
        """
        self.platform.person(1001, 7, 300)
        self.turn()
        stopped = self.server.stopService()
        self.wait(3)
        self.successResultOf(stopped)
        self.begin()
        self.assertEqual(self.gateway.groupOf(1001), "real")

    def test_movedAway(self) -> None:
        """
        An operation of a restricted token waits, too, if its account was looked up long
        ago. If the platform does not answer, what was known counts.
        """
        self.platform.person(1001, 7, 300)
        self.wait(FRESH + 1)
        real = self.connect("real*")
        self.link.losesReply.append("GetAccountByLogin")
        real.ask("CreditInSync", {**GIFT, "login": 1001}, extID=1)
        self.assertEqual(real.heard(), [])
        self.wait(11)
        self.platform.work()
        self.turn()
        self.assertEqual(real.heard(), [504, ("event", 5002)])
        self.account(1001, "demo")
        self.wait(RETRY)
        real.ask("CreditInSync", {**GIFT, "login": 1001}, extID=2)
        self.assertEqual(real.heard(), [403])


class RuleTests(GroupedTestCase):
    """
    Rules of the site for groups of accounts.
    """

    rules = '[[limit]]\nname = "real"\ngroups = "real"\nmax-amount = 100\n'

    def test_judged(self) -> None:
        """
        The first operation of an account is judged by the rules for its group.
        """
        admin = self.connect("admin")
        admin.ask("CreditInSync", {**GIFT, "login": 1001})
        self.assertEqual(admin.heard(), [409])
        admin.ask("CreditInSync", {**GIFT, "login": 1002})
        self.platform.work()
        self.turn()
        self.assertEqual(admin.heard(), [("event", 5001), 200])

    def test_unknown(self) -> None:
        """
        Without its group nothing is sent for an account.
        """
        self.link.losesReply.extend(["GetAccountByLogin"] * 9)
        admin = self.connect("admin")
        admin.ask("CreditInSync", {**GIFT, "login": 1001})
        self.wait(11)
        admin.heard()
        admin.ask("CreditInSync", {**GIFT, "login": 1001})
        self.assertEqual(admin.heard(), [503])
        self.assertNotIn("CreditIn", [each.command for each in self.link.sent])


class Upstream:
    """
    A platform that answers when the test says so.
    """

    isConnected = True

    def __init__(self) -> None:
        self.asked: list[tuple[int, Deferred[Outcome]]] = []

    def request(
        self, command: str, data: Any, tag: object = None
    ) -> "Deferred[Outcome]":
        """
        See L{IUpstream.request<creditsync.gateway._interfaces.IUpstream.request>}.
        """
        if not self.isConnected:
            return succeed(unsent("no connection"))
        done: Deferred[Outcome] = Deferred()
        self.asked.append((data["login"], done))
        return done

    def answer(self, group: object = "real", **members: Any) -> None:
        """
        Answer the oldest look-up.
        """
        login, done = self.asked.pop(0)
        data = {"login": login, "group": group}
        done.callback(outcomeOf({"status": 200, "data": data, **members}))


class Moves:
    """
    A journal that remembers moves, which become durable when the test says so.
    """

    def __init__(self) -> None:
        self.moves: list[tuple[int, str, Deferred[None]]] = []

    def move(self, login: int, group: str) -> "Deferred[None]":
        """
        See L{Journal.move<creditsync.gateway._journal.Journal.move>}.
        """
        done: Deferred[None] = Deferred()
        self.moves.append((login, group, done))
        return done


class GroupsTests(SynchronousTestCase):
    """
    Tests for L{PlatformGroups} and L{Gate}.
    """

    def setUp(self) -> None:
        """
        Make one.
        """
        self.clock = Clock()
        self.upstream, self.journal = Upstream(), Moves()
        self.stored: dict[int, str] = {}
        self.groups = PlatformGroups(
            self.clock,
            self.upstream,  # type: ignore[arg-type]
            self.journal,  # type: ignore[arg-type]
            lambda login: self.stored.get(login, ""),
        )

    def test_bounded(self) -> None:
        """
        A few look-ups are in flight, the others wait, and an account is looked up once
        for all that wait for it.
        """
        waiting: list[Any] = []
        for login in (*range(1, 101), 1, 50):
            done = self.groups.whenFresh(login)
            assert done is not None
            done.addCallback(lambda _, login: waiting.append(login), login)
        self.assertEqual(MAX_IN_FLIGHT, 8)
        self.assertEqual([login for login, _ in self.upstream.asked], list(range(1, 9)))
        self.upstream.answer()
        self.assertEqual(waiting, [1, 1])
        self.assertEqual(
            [login for login, _ in self.upstream.asked], list(range(2, 10))
        )
        while self.upstream.asked:
            self.upstream.answer()
        self.assertEqual(len(waiting), 102)
        self.assertEqual(len(self.journal.moves), 100)

    def test_interrupted(self) -> None:
        """
        When the connection is lost, nobody waits any more, however many there are.
        """
        waiting = [self.groups.whenFresh(login) for login in range(1, 5001)]
        self.upstream.isConnected = False
        for _, done in self.upstream.asked:
            done.callback(unsent("lost"))
        for each in waiting:
            assert each is not None
            self.successResultOf(each)
        self.assertIsNone(self.groups.whenFresh(1))

    def test_notDurableYet(self) -> None:
        """
        A group is in force before it is durable; of two moves the last one is.
        """
        self.groups.learn(1, "a")
        self.groups.learn(1, "b")
        self.assertEqual(self.groups.of(1), "b")
        [(_, first, one), (_, second, two)] = self.journal.moves
        self.assertEqual((first, second), ("a", "b"))
        self.stored[1] = "a"
        one.callback(None)
        self.assertEqual(self.groups.of(1), "b")
        self.stored[1] = "b"
        two.callback(None)
        self.stored[1] = "c"
        self.assertEqual(self.groups.of(1), "c")

    def test_same(self) -> None:
        """
        What is in the ledger already is not written again.
        """
        self.stored[1] = "real"
        self.groups.learn(1, "real")
        self.assertEqual(self.journal.moves, [])

    def test_bad(self) -> None:
        """
        A group whose name no mask could have, and an account that the platform does not
        have, are no group; a look-up that fails leaves the group as it was. People are
        told once for each connection.
        """
        events: list[Any] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        for members, expected in (
            ({"group": "real,vip"}, ""),
            ({"group": "a" * 129}, ""),
            ({"group": None}, ""),
            ({"group": 7}, ""),
            ({"status": 404, "error": "USER_NOT_FOUND", "message": "no"}, ""),
            ({"status": 404, "error": "UNKNOWN_COMMAND", "message": "no"}, "old"),
            ({"status": 403, "error": "FORBIDDEN", "message": "no"}, "old"),
            ({"status": 500, "error": "TECH_PROBLEM", "message": "no"}, "old"),
            ({"data": {"login": 2, "group": "real"}}, "old"),
            ({"group": "real\\vip"}, "real\\vip"),
        ):
            self.setUp()
            self.stored[1] = "old"
            self.groups.whenFresh(1)
            self.upstream.answer(**members)
            self.assertEqual((members, self.groups.of(1)), (members, expected))
        self.groups.learn(3, "x")
        self.setUp()
        events.clear()
        for login in (1, 2):
            self.groups.whenFresh(login)
            self.upstream.answer(status=403, error="FORBIDDEN", message="no")
        self.assertEqual(
            [formatEvent(each) for each in events],
            ["the platform does not tell an account's group: FORBIDDEN, no"],
        )

    def test_failed(self) -> None:
        """
        A look-up that has failed is tried again after a while, and whoever has to know
        the group gets to know that it is not known.
        """
        waiting = self.groups.whenKnown(1)
        assert waiting is not None
        self.upstream.answer(status=500, error="TECH_PROBLEM", message="no")
        self.failureResultOf(waiting, Busy)
        again = self.groups.whenKnown(1)
        assert again is not None
        self.failureResultOf(again, Busy)
        self.assertEqual(self.upstream.asked, [])
        self.clock.advance(RETRY)
        again = self.groups.whenKnown(1)
        assert again is not None
        self.upstream.answer("")
        self.successResultOf(again)
        self.assertIsNone(self.groups.whenKnown(1))

    def test_gate(self) -> None:
        """
        The records of an account leave the gate in their order, and one that can't be
        booked does not stop those behind it; other accounts do not wait.
        """
        gate, booked = Gate(self.groups), []

        def book(trade: Trade) -> None:
            booked.append(trade.order)
            if trade.order == 1:
                raise RuntimeError("as planned")

        for order, login in ((1, 1), (2, 1), (3, 2)):
            self.assertTrue(gate.holds(record(order, login), book))
        self.assertEqual((booked, gate.oldest()), ([], 101))
        self.upstream.answer()
        self.assertEqual((booked, gate.oldest()), ([1, 2], 103))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        gate.release(2)
        self.assertEqual((booked, gate.oldest()), ([1, 2, 3], None))
        self.upstream.answer()
        self.assertFalse(gate.holds(record(4, 1), book))
        self.assertEqual(booked, [1, 2, 3])


def record(order: int, login: int) -> Trade:
    """
    A record of the platform.
    """
    return Trade(order, login, OP_CREDIT_IN, 3, 100, "", 1, 1, 100 + order)
