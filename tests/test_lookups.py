"""
Tests for L{creditsync._conversation.lookups}: docs/protocol.rst, "Look-ups".
"""

import json
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from creditsync._conversation import lookups
from creditsync._conversation.lookups import LOOKUPS
from creditsync._conversation.rights import Rights
from creditsync._conversation.session import Session
from creditsync.errors import TookTooLong
from creditsync.events import TradeEvents
from creditsync.interfaces import ICommand, ILookups, ITradeEvents, ITradingRuntime
from creditsync.ledger.memory import MemoryLedger
from creditsync.limits import Limits
from creditsync.records import (
    Account,
    FoundTrades,
    Principal,
    Trade,
    TradeFilter,
)
from creditsync.runtime import TradingRuntime
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator, FakeTradingRuntime
from tests.observed import turnOnce

NOW = 1767225600

# The roles that may use each command.
STAFF, WITH_USERS = {1, 2, 3}, {0, 1, 2, 3}

COLUMNS = [
    "order", "login", "cmd", "state", "profit", "comment", "symbol", "volume",
    "open_price", "close_price", "open_time", "close_time", "sl", "tp", "storage",
    "commission", "reason", "timestamp",
]  # fmt: skip


# sl, tp, storage, commission, and the reason.
NO_PRICES = [0.0, 0.0, 0.0, 0.0, 7]


class OnlyLogins(Rights):
    """
    Rights to the accounts in a set, and to the groups in another one.
    """

    def __init__(self, logins: set[int], groups: set[str]) -> None:
        super().__init__()
        self._logins = logins
        self._groups = groups

    def maySee(self, principal: Principal, login: int | None) -> bool:
        """
        See L{Rights.maySee}.
        """
        return login in self._logins

    def seesGroup(self, principal: Principal, group: str) -> bool:
        """
        See L{Rights.seesGroup}.
        """
        return group in self._groups


class Case(SynchronousTestCase):
    """
    A client of a server in memory.
    """

    def setUp(self) -> None:
        """
        Start the server, and open a conversation.
        """
        self.clock = Clock()
        self.events = TradeEvents()
        self.serve(self.makeRuntime())

    def makeRuntime(self) -> ITradingRuntime:
        """
        The server's own.
        """
        return TradingRuntime(
            self.clock, MemoryLedger(), self.events, now=lambda: NOW, maxQueued=100
        )

    def serve(self, runtime: ITradingRuntime, limits: Limits | None = None) -> None:
        """
        Start a server with this trading runtime.
        """
        self.runtime: Any = runtime
        self.service = CreditSync(
            self.clock,
            runtime=runtime,
            events=self.events,
            authenticator=FakeAuthenticator(),
            listen=[],
            limits=limits,
        )
        self.service.startService()
        self.heard: list[bytes] = []
        self.extIDs = count(1)
        self.session = self.open()

    def open(self) -> Session:
        """
        Begin another conversation.
        """
        return self.service.sessions.open(self.heard.append)

    def restrict(self, rights: Rights) -> None:
        """
        Give all clients these rights.
        """
        for command in self.commands().values():
            command._lookups.rights = rights

    def commands(self) -> dict[str, Any]:
        """
        The look-ups of the server, by their names.
        """
        commands = self.service.sessions.requests._commands
        return {name: commands[name] for name, *_ in LOOKUPS}

    def say(
        self,
        command: str,
        token: str = "manager",
        session: Session | None = None,
        **data: Any,
    ) -> None:
        """
        Send a request.
        """
        extID = next(self.extIDs)
        request = {"command": command, "extID": extID, "__token": token, "data": data}
        (session or self.session).lineReceived(json.dumps(request).encode())

    def replies(self) -> list[dict[str, Any]]:
        """
        The replies since the last call, decoded, without events.
        """
        lines = b"".join(self.heard).splitlines()
        self.heard.clear()
        found = [json.loads(line) for line in lines]
        return [line for line in found if "event" not in line]

    def ask(self, command: str, token: str = "manager", **data: Any) -> Any:
        """
        Send a request, and let it have its turn.

        @return: The C{data} of the reply, or the status and the error.
        """
        self.say(command, token, **data)
        self.clock.advance(0)
        self.clock.advance(0.05)
        [reply] = self.replies()
        if reply["status"] == 200:
            return reply["data"]
        return reply["status"], reply["error"], reply["message"]

    def credit(self, login: int, amount: float = 10, comment: str = "Bonus") -> None:
        """
        Book a credit.
        """
        self.ask("CreditInSync", login=login, amount=amount, comment=comment)


class CommandTests(Case):
    """
    The table of commands.
    """

    def test_table(self) -> None:
        """
        There are five look-ups, each for its roles, and none needs an C{extID}.
        """
        self.assertEqual(
            {name: set(each.roles) for name, each in self.commands().items()},
            {
                "GetTradeByOrder": WITH_USERS,
                "GetTradeByOrders": WITH_USERS,
                "MngGetTradesByFilter": STAFF,
                "GetAccountByLogin": WITH_USERS,
                "GetGroups": STAFF,
            },
        )
        for each in self.commands().values():
            verifyObject(ICommand, each)
            self.assertIs(each.needsExtID, False)

    def test_runtime(self) -> None:
        """
        The server's own trading runtime provides all look-ups.
        """
        verifyObject(ILookups, self.runtime)

    def test_own(self) -> None:
        """
        A user sees the account that is its own, and of others as little as of what
        does not exist.
        """
        user = FakeAuthenticator().authenticate("user").id
        self.credit(user)
        self.credit(1001)
        self.assertEqual(self.ask("GetTradeByOrder", "user", order=1)["login"], user)
        self.assertEqual(
            self.ask("GetTradeByOrder", "user", order=2),
            (404, "TRADE_NOT_FOUND", "there is no order 2"),
        )
        self.assertEqual(
            self.ask("GetAccountByLogin", "user", login=1001),
            (404, "USER_NOT_FOUND", "there is no account 1001"),
        )
        for command in ("GetGroups", "MngGetTradesByFilter"):
            self.assertEqual(self.ask(command, "user")[:2], (403, "FORBIDDEN"))


class OrderTests(Case):
    """
    C{GetTradeByOrder} and C{GetTradeByOrders}.
    """

    def test_one(self) -> None:
        """
        A trade is found as C{GetOperation} finds it, with its cursor.
        """
        self.credit(1001, 10.5, "It's a crédit")
        found = self.ask("GetTradeByOrder", order=1)
        self.assertEqual(found, self.ask("GetOperation", order=1))
        self.assertEqual((found["order"], found["comment"]), (1, "It's a crédit"))
        self.assertIn("cursor", found)

    def test_pending(self) -> None:
        """
        An operation that is not booked yet is found with the state of its request.
        """
        self.say("CreditInSync", login=1001, amount=1, comment="c")
        self.say("GetTradeByOrder", order=1)
        [reply] = self.replies()
        self.assertEqual(reply["data"]["state"], 10)

    def test_several(self) -> None:
        """
        Rows are in the order in which they were asked for, and an order may be asked
        for twice.
        """
        for login in (1001, 1002, 1003):
            self.credit(login, 10.5, "a, [b]")
        found = self.ask("GetTradeByOrders", orders=[3, 1, 3.0])
        self.assertEqual(found["structure"], COLUMNS)
        self.assertEqual(
            [row[:2] for row in found["rows"]], [[3, 1003], [1, 1001], [3, 1003]]
        )
        self.assertEqual(
            found["rows"][1],
            [1, 1001, 7, 3, 10.5, "a, [b]", "", 0, 0.0, 0.0, NOW, NOW, *NO_PRICES, NOW],
        )

    def test_asTrade(self) -> None:
        """
        A row has the members of a trade, in their order and with their values.
        """
        self.credit(1001, 0.00000001, "'")
        trade = self.ask("GetTradeByOrder", order=1)
        del trade["cursor"]
        found = self.ask("GetTradeByOrders", orders=[1])
        self.assertEqual(list(trade), found["structure"])
        self.assertEqual(list(trade.values()), found["rows"][0])

    def test_missing(self) -> None:
        """
        If one is not found, it is named, and none is returned.
        """
        self.credit(1001)
        self.assertEqual(
            self.ask("GetTradeByOrders", orders=[1, 8, 9]),
            (404, "TRADE_NOT_FOUND", "there is no order 8"),
        )

    def test_hidden(self) -> None:
        """
        One that the token may not see is answered like one that does not exist.
        """
        self.credit(1001)
        self.credit(1002)
        self.restrict(OnlyLogins({1001}, set()))
        for command, data in (
            ("GetTradeByOrder", {"order": 2}),
            ("GetTradeByOrders", {"orders": [1, 2]}),
        ):
            self.assertEqual(
                self.ask(command, **data),
                (404, "TRADE_NOT_FOUND", "there is no order 2"),
            )

    def test_most(self) -> None:
        """
        A thousand orders are found at once, 50 in each turn of the reactor; one more
        is refused.
        """
        for _ in range(3):
            self.credit(1001)
        orders = [1, 2, 3, 1] * 250
        self.say("GetTradeByOrders", orders=orders)
        self.assertEqual(self.replies(), [])
        self.clock.advance(0)
        [reply] = self.replies()
        self.assertEqual([row[0] for row in reply["data"]["rows"]], orders)
        self.assertEqual(
            self.ask("GetTradeByOrders", orders=[*orders, 1])[2],
            "data.orders must have at most 1000 items",
        )

    def test_turns(self) -> None:
        """
        Others have a turn of the reactor after each 50 orders.
        """
        self.credit(1001)
        trade, found, seen = self.runtime.trade, list[int](), list[int]()

        def counted(order: int) -> Any:
            found.append(order)
            return trade(order)

        def later(clock: Clock, seconds: float) -> "Deferred[None]":
            seen.append(len(found))
            return deferLater(clock, seconds)

        self.runtime.trade = counted
        self.patch(lookups, "deferLater", later)
        rows = self.ask("GetTradeByOrders", orders=[1] * 120)["rows"]
        self.assertEqual((seen, len(found), len(rows)), ([50, 100], 120, 120))


class AccountTests(Case):
    """
    C{GetAccountByLogin} and C{GetGroups}.
    """

    def test_account(self) -> None:
        """
        An account has its group and its booked totals, exactly.
        """
        self.credit(1001, 0.00000001)
        self.ask("BalanceInSync", login=1001, amount=9999999999.5)
        self.assertEqual(
            self.ask("GetAccountByLogin", login=1001),
            {
                "login": 1001,
                "group": "",
                "balance": 9999999999.5,
                "credit": 0.00000001,
                "enable": 1,
            },
        )

    def test_none(self) -> None:
        """
        One that does not exist and one that is hidden are the same.
        """
        self.credit(1001)
        self.restrict(OnlyLogins(set(), set()))
        for login in (1001, 1002):
            self.assertEqual(
                self.ask("GetAccountByLogin", login=login),
                (404, "USER_NOT_FOUND", f"there is no account {login}"),
            )

    def test_groups(self) -> None:
        """
        Groups that the token may not see are left out.
        """
        groups = succeed(["", "real", "test"])
        self.runtime.groups = lambda: groups
        self.assertEqual(self.ask("GetGroups"), {"groups": ["", "real", "test"]})
        self.restrict(OnlyLogins(set(), {"test"}))
        self.runtime.groups = lambda: succeed(["", "real", "test"])
        self.assertEqual(self.ask("GetGroups"), {"groups": ["test"]})

    def test_manyGroups(self) -> None:
        """
        Others have a turn of the reactor after each 500 groups.
        """
        self.runtime.groups = lambda: succeed([f"g{n:04}" for n in range(1200)])
        self.say("GetGroups")
        asked: list[str] = []

        def seesGroup(principal: Principal, group: str) -> bool:
            asked.append(group)
            return group < "g1100"

        rights = OnlyLogins(set(), set())
        self.patch(OnlyLogins, "seesGroup", lambda self, *args: seesGroup(*args))
        self.restrict(rights)
        counts = []
        for _ in range(3):
            turnOnce(self.clock)
            counts.append(len(asked))
        [reply] = self.replies()
        self.assertEqual(counts, [500, 1000, 1200])
        self.assertEqual(len(reply["data"]["groups"]), 1100)


class FilterTests(Case):
    """
    C{MngGetTradesByFilter}. That it finds the right trades is tested by
    L{tests.attack.filters}.
    """

    def refused(self, why: str, **data: Any) -> None:
        """
        Assert that a filter is refused.
        """
        self.assertEqual(
            self.ask("MngGetTradesByFilter", **data), (400, "INVALID_DATA", why)
        )

    def test_found(self) -> None:
        """
        The rows are those of the limit, and the count and the totals those of all
        that was found.
        """
        for login in (1001, 1002, 1003):
            self.credit(login, 10.5)
        self.ask("BalanceInSync", login=1002, amount=3)
        self.ask("DeleteCredit", order=3)
        found = self.ask(
            "MngGetTradesByFilter",
            where=[["login", ">", 1001]],
            orderBy=[["profit", "desc"]],
            limit=1,
            offset=1,
        )
        self.assertEqual(found["structure"], [*COLUMNS, "group", "update_time"])
        self.assertEqual(
            found["rows"],
            [
                [
                    3,
                    1003,
                    7,
                    6,
                    10.5,
                    "Bonus",
                    "",
                    0,
                    0.0,
                    0.0,
                    NOW,
                    NOW,
                    *NO_PRICES,
                    NOW,
                    "",
                    NOW,
                ]
            ],
        )
        self.assertEqual(found["count"], 3)
        self.assertEqual(found["totals"], {"balance": 3.0, "credit": 10.5})

    def test_defaults(self) -> None:
        """
        Without any member all trades are found, up to a thousand rows.
        """
        for _ in range(3):
            self.credit(1001)
        asked: list[TradeFilter] = []
        search = self.runtime.search

        def watched(filter: TradeFilter, page: Any) -> Any:
            asked.append(filter)
            return search(filter, page)

        self.runtime.search = watched
        found = self.ask("MngGetTradesByFilter")
        self.assertEqual([row[0] for row in found["rows"]], [1, 2, 3])
        self.assertEqual((asked[0].limit, asked[0].offset), (1000, 0))
        self.assertEqual(asked[0].seconds, 3.0)

    def test_unknown(self) -> None:
        """
        An unknown field or operator is named.
        """
        fields = ", ".join([*COLUMNS, "group"]) + " or update_time"
        for field in ('"order"', "1 = 1 OR login", "place"):
            self.refused(
                f'data.where[0][0] is "{field}", expected {fields}',
                where=[[field, "==", 1]],
            )
        self.refused(
            'data.whereNot[1][1] is "IN", expected ==, !=, >, <, >=, <= or like',
            whereNot=[["login", "==", 1], ["login", "IN", 1]],
        )
        self.refused(
            'data.orderBy[0][1] is "DESC", expected asc or desc',
            orderBy=[["login", "DESC"]],
        )

    def test_kinds(self) -> None:
        """
        A value of another kind than its field's is refused.
        """
        for why, data in [
            (
                "data.where[0][2] must be an integer, as login is",
                {"where": [["login", "==", "1001"]]},
            ),
            (
                "data.where[0][2] must be an integer, as login is",
                {"where": [["login", "==", 1.5]]},
            ),
            (
                "data.whereIn[0][1][1] must be a string, as comment is",
                {"whereIn": [["comment", ["a", 1]]]},
            ),
            (
                "data.whereNotBetween[0][1][1] must be a number, as profit is",
                {"whereNotBetween": [["profit", [1, "2"]]]},
            ),
            (
                "data.where[0][2] must have at most 8 decimals",
                {"where": [["profit", "==", 0.000000001]]},
            ),
            (
                "data.where[0][1] is like, but profit is not a string",
                {"where": [["profit", "like", "1%"]]},
            ),
            (
                "data.where[0][2] must be a string or a number",
                {"where": [["login", "==", None]]},
            ),
        ]:
            self.refused(why, **data)

    def test_bounds(self) -> None:
        """
        The rows, the conditions and the values have bounds.
        """
        self.refused("data.limit must be at most 50000", limit=50001)
        self.refused("data.limit must be at least 1", limit=0)
        self.refused(
            "data.where must have at most 16 items", where=[["login", "==", 1]] * 17
        )
        self.refused(
            "data.where[0][2] must have at most 255 characters",
            where=[["comment", "like", "%" * 256]],
        )

    def test_groupFilter(self) -> None:
        """
        A mask restricts what the token may see, and extends nothing.
        """
        self.credit(1001)
        asked: list[TradeFilter] = []

        def search(filter: TradeFilter, page: Any) -> Any:
            asked.append(filter)
            return succeed(FoundTrades([], 0, 0, 0))

        self.runtime.search = search
        self.restrict(OnlyLogins(set(), {"real", "test"}))
        self.ask("MngGetTradesByFilter", groupFilter="!test,*")
        names = ["", "real", "test", "other"]
        self.assertEqual([n for n in names if asked[0].seesGroup(n)], ["real"])

    def test_tooLarge(self) -> None:
        """
        A reply whose rows would be longer than the limit is refused.
        """
        self.patch(lookups, "MAX_ROWS_SIZE", 200)
        self.credit(1001)
        self.credit(1001)
        self.assertEqual(
            self.ask("MngGetTradesByFilter", limit=2),
            (
                400,
                "INVALID_DATA",
                "the rows have more than 200 bytes: ask for fewer",
            ),
        )
        self.assertEqual(len(self.ask("MngGetTradesByFilter", limit=1)["rows"]), 1)


@implementer(ILookups)
class Searching(FakeTradingRuntime):
    """
    A trading runtime whose searches end when the test says so.

    @ivar searches: Those that have begun.
    """

    def __init__(self, events: ITradeEvents) -> None:
        super().__init__(events)
        self.searches: list[Deferred[Any]] = []

    def account(self, login: int) -> "Deferred[Account | None]":
        """
        See L{ILookups.account}.
        """
        return succeed(Account(login))

    def groups(self) -> "Deferred[Sequence[str]]":
        """
        See L{ILookups.groups}.
        """
        return succeed([""])

    def search(self, filter: TradeFilter, page: Any) -> "Deferred[Any]":
        """
        See L{ILookups.search}.
        """
        search: Deferred[Any] = Deferred()
        self.searches.append(search)
        return search


class SearchTests(Case):
    """
    Searches that take their time.
    """

    def makeRuntime(self) -> ITradingRuntime:
        """
        One whose searches end when the test says so.
        """
        return Searching(self.events)

    def test_tookTooLong(self) -> None:
        """
        A search that was given up is the filter's fault, not a reason to repeat it.
        """
        self.say("MngGetTradesByFilter")
        self.clock.advance(0)
        self.runtime.searches[0].errback(TookTooLong())
        [reply] = self.replies()
        self.assertEqual((reply["status"], reply["error"]), (400, "INVALID_DATA"))
        self.assertEqual(
            reply["message"],
            "the filter takes longer than 3 seconds: add conditions, or ask for fewer"
            " rows",
        )

    def test_neverEnds(self) -> None:
        """
        A search that never ends is given up before the timeout of the request.
        """
        self.say("MngGetTradesByFilter")
        self.clock.advance(0)
        self.clock.advance(3.5)
        [reply] = self.replies()
        self.assertEqual((reply["status"], reply["error"]), (400, "INVALID_DATA"))
        self.clock.advance(5)
        self.assertEqual(self.replies(), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_groupsNeverCome(self) -> None:
        """
        Another look-up that never ends is no fault of its client.
        """
        self.runtime.groups = Deferred
        self.say("GetGroups")
        self.clock.advance(0)
        self.clock.advance(3.5)
        [reply] = self.replies()
        self.assertEqual((reply["status"], reply["error"]), (503, "BUSY"))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_fault(self) -> None:
        """
        A search that fails is a fault of the server, and is logged.
        """
        self.say("MngGetTradesByFilter")
        self.clock.advance(0)
        self.runtime.searches[0].errback(Failure(ZeroDivisionError()))
        [reply] = self.replies()
        self.assertEqual((reply["status"], reply["error"]), (500, "TECH_PROBLEM"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_busy(self) -> None:
        """
        A client that has too many look-ups waiting is refused, and so is one whose
        turn does not come; neither gets an unknown outcome.
        """
        for _ in range(18):
            self.say("MngGetTradesByFilter", session=self.open())
            self.clock.advance(0)
        [reply] = self.replies()
        self.assertEqual((reply["status"], reply["error"]), (503, "BUSY"))
        self.assertEqual(reply["message"], "you have too many look-ups waiting")
        self.clock.advance(2)
        found: FoundTrades[bytes] = FoundTrades([], 0, 0, 0)
        self.runtime.searches[0].callback(found)
        self.clock.advance(0.02)
        replies = self.replies()
        self.assertEqual(
            [(r["status"], r.get("message")) for r in replies],
            [(200, None)] + [(503, "the server has too many look-ups waiting")] * 16,
        )
        self.assertEqual(len(self.runtime.searches), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_ended(self) -> None:
        """
        A look-up of a client that is gone does not begin.
        """
        self.say("MngGetTradesByFilter")
        self.session.ended()
        self.clock.advance(0)
        self.assertEqual(self.runtime.searches, [])
        self.assertEqual(self.replies(), [])

    def test_endedDuringIt(self) -> None:
        """
        A search whose client is gone ends without a reply, and the next one begins.
        """
        self.say("MngGetTradesByFilter")
        self.clock.advance(0)
        self.session.ended()
        self.say("MngGetTradesByFilter", session=self.open())
        self.runtime.searches[0].callback(FoundTrades([], 0, 0, 0))
        self.clock.advance(0.02)
        self.assertEqual(len(self.runtime.searches), 2)
        self.assertEqual(self.replies(), [])

    def test_ordersGoOn(self) -> None:
        """
        A search delays no other look-up.
        """
        self.say("MngGetTradesByFilter")
        self.clock.advance(0)
        self.assertEqual(self.ask("GetGroups"), {"groups": [""]})
        self.assertEqual(self.ask("GetTradeByOrders", orders=[7])[0], 404)
        self.assertEqual(self.ask("GetAccountByLogin", login=7)["login"], 7)


class Foreign(FakeTradingRuntime):
    """
    A trading runtime without L{ILookups}, whose records may be mappings.
    """

    def __init__(self, events: ITradeEvents) -> None:
        super().__init__(events)
        self.trades: dict[int, Trade | Mapping[str, Any]] = {}

    def trade(self, order: int) -> "Deferred[Trade | Mapping[str, Any] | None]":
        """
        See L{ITradingRuntime.trade}.
        """
        return succeed(self.trades.get(order))


class ForeignTests(Case):
    """
    A trading runtime without L{ILookups}.
    """

    def makeRuntime(self) -> ITradingRuntime:
        """
        One that knows its trades only.
        """
        return Foreign(self.events)

    def test_refused(self) -> None:
        """
        What it can't answer is refused with a sentence.
        """
        for command, data in (
            ("MngGetTradesByFilter", {}),
            ("GetAccountByLogin", {"login": 1}),
            ("GetGroups", {}),
        ):
            self.assertEqual(
                self.ask(command, **data),
                (
                    404,
                    "UNKNOWN_COMMAND",
                    f"{command} can't be used: this server's trading runtime does not"
                    " provide it",
                ),
            )

    def test_trades(self) -> None:
        """
        Orders are found, also where a record is a mapping with less or more members.
        """
        self.runtime.trades = {
            7: {"order": 7, "login": 1, "cmd": 7, "state": 3, "profit": 1.5,
                "comment": "It's", "magic": 5, "symbol": "EURUSD"},
            8: Trade(8, 1, 7, 3, 100_000_000, "b", 1, 2, 3),
        }  # fmt: skip
        self.assertEqual(self.ask("GetTradeByOrder", order=7)["magic"], 5)
        found = self.ask("GetTradeByOrders", orders=[7, 8])
        self.assertEqual(
            found["rows"],
            [
                [
                    7,
                    1,
                    7,
                    3,
                    1.5,
                    "It's",
                    "EURUSD",
                    0,
                    0.0,
                    0.0,
                    None,
                    None,
                    *NO_PRICES,
                    None,
                ],
                [8, 1, 7, 3, 1.0, "b", "", 0, 0.0, 0.0, 1, 2, *NO_PRICES, 3],
            ],
        )


class CallTests(Case):
    """
    Look-ups of the application itself.
    """

    def test_rows(self) -> None:
        """
        A reply may have more values than a request.
        """
        for _ in range(60):
            self.credit(1001)
        principal = FakeAuthenticator().authenticate("manager")
        result = self.service.call("MngGetTradesByFilter", {}, principal)
        self.clock.advance(0)
        self.assertEqual(len(self.successResultOf(result)["rows"]), 60)
