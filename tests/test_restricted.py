"""
Tests for what restricted tokens may see and touch, in whole sessions
(C{docs/protocol.rst}, "Rights").
"""

from math import inf
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from creditsync._conversation import catchups, restricted
from creditsync._conversation import rights as rightsModule
from creditsync._conversation.broadcast import Broadcast
from creditsync._conversation.finance import financeCommands
from creditsync._conversation.restricted import RestrictedReceivers
from creditsync._conversation.rights import Rights
from creditsync._conversation.waiters import Waiters
from creditsync._masks import matches
from creditsync.codes import ALL_SESSIONS
from creditsync.errors import NotFound
from creditsync.records import Operation, Principal, Trade, TradeEvent
from creditsync.service import CreditSync
from tests.resuming import CHANNELS, Site
from tests.rights import Course
from tests.test_session import Client, SessionTestCase

# An account of each group, and one without.
GROUPS: Final = {1001: "real", 1002: "real-vip", 1003: "demo", 1004: ""}

OK: Final = (200, None)
FORBIDDEN: Final = (403, "FORBIDDEN")
NOT_FOUND: Final = (404, "NOT_FOUND")
NO_TRADE: Final = (404, "TRADE_NOT_FOUND")
NO_USER: Final = (404, "USER_NOT_FOUND")
INCORRECT: Final = (409, "INCORRECT_ORDER")

_CREDIT: Final = {"amount": 1, "comment": "x"}
_DEBIT: Final = {"amount": -1, "comment": "x"}

# Each request about an account or one of its orders, and what comes of it: for a token
# of the finance family that may see the account; for one that may not; for any other.
# The key "k" stands for that of a credit.
REQUESTS: Final[list[tuple[str, dict[str, Any], Any, Any, Any]]] = [
    ("CreditIn", _CREDIT, OK, FORBIDDEN, FORBIDDEN),
    ("CreditInSync", _CREDIT, OK, FORBIDDEN, FORBIDDEN),
    ("CreditOut", _DEBIT, OK, FORBIDDEN, FORBIDDEN),
    ("CreditOutSync", _DEBIT, OK, FORBIDDEN, FORBIDDEN),
    ("BalanceIn", _CREDIT, OK, FORBIDDEN, FORBIDDEN),
    ("BalanceInSync", _CREDIT, OK, FORBIDDEN, FORBIDDEN),
    ("BalanceOut", _DEBIT, OK, FORBIDDEN, FORBIDDEN),
    ("BalanceOutSync", _DEBIT, OK, FORBIDDEN, FORBIDDEN),
    # Order 1 stands for a credit of the account, order 2 for a balance, order 3 for a
    # finance request, order 4 for one that the token's own principal has made.
    ("CreditInSync", {**_CREDIT, "order": 1}, OK, FORBIDDEN, FORBIDDEN),
    ("BalanceInSync", {**_CREDIT, "order": 2}, OK, FORBIDDEN, FORBIDDEN),
    ("DeleteCredit", {"order": 1}, OK, NOT_FOUND, FORBIDDEN),
    ("DeleteCreditSync", {"order": 1}, OK, NOT_FOUND, FORBIDDEN),
    ("DeleteBalance", {"order": 2}, OK, NOT_FOUND, FORBIDDEN),
    ("DeleteBalanceSync", {"order": 2}, OK, NOT_FOUND, FORBIDDEN),
    # An order of the other kind.
    ("DeleteBalance", {"order": 1}, INCORRECT, NOT_FOUND, FORBIDDEN),
    (
        *("MngCreateFinanceRequest", {**_CREDIT, "cmd": 7}),
        *(OK, FORBIDDEN, FORBIDDEN),
    ),
    ("MngApproveFinanceRequest", {"order": 3}, OK, NOT_FOUND, FORBIDDEN),
    ("MngApproveFinanceRequestSync", {"order": 3}, OK, NOT_FOUND, FORBIDDEN),
    ("MngDeclineFinanceRequest", {"order": 3}, OK, NOT_FOUND, FORBIDDEN),
    ("MngApproveFinanceRequest", {"order": 4}, FORBIDDEN, NOT_FOUND, FORBIDDEN),
    ("MngApproveFinanceRequestSync", {"order": 4}, FORBIDDEN, NOT_FOUND, FORBIDDEN),
    ("MngDeclineFinanceRequest", {"order": 4}, OK, NOT_FOUND, FORBIDDEN),
    ("MngApproveFinanceRequest", {"order": 1}, INCORRECT, NOT_FOUND, FORBIDDEN),
    ("MngDeclineFinanceRequest", {"order": 1}, INCORRECT, NOT_FOUND, FORBIDDEN),
    ("GetOperation", {"order": 1}, OK, NOT_FOUND, FORBIDDEN),
    ("GetOperation", {"order": 3}, OK, NOT_FOUND, FORBIDDEN),
    ("GetOperation", {"idempotencyKey": "k"}, OK, NOT_FOUND, FORBIDDEN),
    # An order that does not exist.
    ("DeleteCredit", {"order": 9}, NOT_FOUND, NOT_FOUND, FORBIDDEN),
    ("MngApproveFinanceRequest", {"order": 9}, NOT_FOUND, NOT_FOUND, FORBIDDEN),
    ("MngDeclineFinanceRequest", {"order": 9}, NOT_FOUND, NOT_FOUND, FORBIDDEN),
    ("GetOperation", {"order": 9}, NOT_FOUND, NOT_FOUND, FORBIDDEN),
]

# The look-ups of an account or one of its orders: what comes of them for the same
# tokens; for a user whose own account it is; for any other user; for all others.
LOOKUPS: Final[list[tuple[str, dict[str, Any], Any, Any, Any, Any, Any]]] = [
    ("GetTradeByOrder", {"order": 1}, OK, NO_TRADE, OK, NO_TRADE, FORBIDDEN),
    ("GetTradeByOrder", {"order": 3}, OK, NO_TRADE, OK, NO_TRADE, FORBIDDEN),
    ("GetTradeByOrder", {"order": 9}, *[NO_TRADE] * 4, FORBIDDEN),
    ("GetTradeByOrders", {"orders": [2, 1]}, OK, NO_TRADE, OK, NO_TRADE, FORBIDDEN),
    ("GetTradeByOrders", {"orders": [1, 9]}, *[NO_TRADE] * 4, FORBIDDEN),
    ("GetAccountByLogin", {"login": 0}, OK, NO_USER, OK, NO_USER, FORBIDDEN),
]

# What is about no account.
FOR_EVERYBODY: Final[dict[str, dict[str, Any]]] = {
    "HealthCheck": {},
    "Subscribe": CHANNELS,
    "Unsubscribe": CHANNELS,
}

# What a token may do with an account. One of the finance family: all, or nothing; a
# user: see it because it is its own, or not; any other: receive its events, or not.
ALL, NOTHING = "all", "nothing"
OWN, FOREIGN = "own", "foreign"
HEARS, DEAF = "hears", "deaf"
SEES: Final = (ALL, OWN, HEARS)


def token(
    role: int,
    groups: str | None = None,
    login: int | None = None,
    logins: tuple[int, ...] | None = None,
    id: int = 7,
) -> Principal:
    """
    The principal of a token.
    """
    return Principal(id, role, inf, "t", groups, login, logins)


YES, NO = True, False

# A mask of groups, and whether it selects C{real}, C{real-vip}, C{demo}, and accounts
# without a group.
MASKS: Final[list[tuple[str | None, bool, bool, bool, bool]]] = [
    (None, YES, YES, YES, YES),
    ("*", YES, YES, YES, YES),
    ("", NO, NO, NO, NO),
    ("real", YES, NO, NO, NO),
    ("Real*", NO, NO, NO, NO),
    ("real*", YES, YES, NO, NO),
    (" real-*, demo ", NO, YES, YES, NO),
    ("*vip,demo", NO, YES, YES, NO),
    ("!*vip,real*", YES, NO, NO, NO),
    ("real*,!*vip", YES, YES, NO, NO),
    ("!real*,*", NO, NO, YES, YES),
    ("!real*,!demo", NO, NO, NO, NO),
    ("!,*", YES, YES, YES, NO),
    ("*e*a*,,", YES, YES, NO, NO),
]

# What a role makes of it: where the mask selects the account, and where it does not.
BY_ROLE: Final[dict[int, tuple[str, str]]] = {
    3: (ALL, ALL),
    1: (ALL, NOTHING),
    2: (ALL, NOTHING),
    4: (HEARS, DEAF),
    10: (HEARS, DEAF),
    11: (HEARS, DEAF),
    0: (FOREIGN, FOREIGN),
    9: (DEAF, DEAF),
    5: (DEAF, DEAF),
}

# Tokens, and what each may do with these accounts: all roles with all masks, and those
# that are for single accounts.
TOKENS: Final[list[tuple[Principal, str, str, str, str]]] = [
    *(
        (
            token(role, mask),
            *((yes if first else no), (yes if second else no)),
            *((yes if third else no), (yes if fourth else no)),
        )
        for role, (yes, no) in BY_ROLE.items()
        for mask, first, second, third, fourth in MASKS
    ),
    (token(0, id=1003), FOREIGN, FOREIGN, OWN, FOREIGN),
    (token(0, login=1002, id=1003), FOREIGN, OWN, FOREIGN, FOREIGN),
    (token(0, "*", logins=(1001,)), FOREIGN, FOREIGN, FOREIGN, FOREIGN),
    (token(9, logins=(1001, 1004)), HEARS, DEAF, DEAF, HEARS),
    (token(9, "*", 1002, (1003,)), DEAF, DEAF, HEARS, DEAF),
    (token(5, "*", 1001, (1001,), 1001), DEAF, DEAF, DEAF, DEAF),
]


class RightsCase(SynchronousTestCase):
    """
    A server with an account of each group.
    """

    def setUp(self) -> None:
        """
        Start it.
        """
        self.site = self.started()

    def started(self) -> Site:
        """
        Start a server.
        """
        site = Site()
        for login, group in GROUPS.items():
            site.ledger.setGroups({login: group})
        return site

    def book(self, login: int, cmd: int = 7, **more: Any) -> int:
        """
        Have something booked.

        @return: Its order.
        """
        asked = Operation("CreditIn", cmd, login, 5_00000000, "x", **more)
        order: int = self.site.runtime.submit(asked).order
        return order

    def client(self, principal: Principal, name: str = "t") -> Client:
        """
        A client whose token was accepted, and which has received nothing since.
        """
        self.site.authenticator.accept(name, principal)
        client = Client(self.site.sessions)
        client.asks("HealthCheck", None, {}, name)
        client.hears()
        return client

    def heard(self, client: Client) -> list[int]:
        """
        The accounts of the events that a client has received since the last call.
        """
        self.site.settle()
        return [each["data"]["login"] for each in client.hears() if each.get("event")]

    def outcome(
        self, client: Client, command: str, data: object, name: str = "t", **more: Any
    ) -> tuple[int, str | None]:
        """
        The outcome of a request.
        """
        reply = self.reply(client, command, data, name, **more)
        return reply["status"], reply.get("error")

    def reply(
        self, client: Client, command: str, data: object, name: str = "t", **more: Any
    ) -> Any:
        """
        The reply to a request.
        """
        client.asks(command, "r", data, name, **more)
        self.site.settle()
        [reply] = client.replies()
        return reply


class MatrixTests(RightsCase):
    """
    Each token with each account and each request.
    """

    def test_events(self) -> None:
        """
        A session receives the events of the accounts that its token may see, those of
        finance requests too.
        """
        clients = [self.client(row[0], f"t{n}") for n, row in enumerate(TOKENS)]
        for login in GROUPS:
            self.book(login)
            self.book(login, isRequest=True)
        self.site.settle()
        for client, (principal, *rights) in zip(clients, TOKENS, strict=True):
            with self.subTest(principal):
                expected = [
                    login
                    for login, right in zip(GROUPS, rights, strict=True)
                    for _ in ("credit", "request")
                    if right in SEES
                ]
                self.assertEqual(self.heard(client), expected)

    def test_eventsAlone(self) -> None:
        """
        The same holds if each event is published alone.
        """
        clients = [self.client(row[0], f"t{n}") for n, row in enumerate(TOKENS)]
        for number, login in enumerate(GROUPS, 1):
            self.book(login)
            self.site.settle()
            for client, row in zip(clients, TOKENS, strict=True):
                with self.subTest((row[0], login)):
                    hears = row[number] in SEES
                    self.assertEqual(self.heard(client), [login] * hears)

    def test_catchUp(self) -> None:
        """
        A catch-up has the events of the accounts that the token may see.
        """
        for login in GROUPS:
            self.book(login)
        self.site.settle()
        for principal, *rights in TOKENS:
            with self.subTest(principal):
                client = self.client(principal)
                data = {**CHANNELS, "since": "first"}
                client.asks("Subscribe", "s", data, "t")
                expected = [
                    login
                    for login, right in zip(GROUPS, rights, strict=True)
                    if right in SEES
                ]
                self.assertEqual(self.heard(client), expected)

    def test_requests(self) -> None:
        """
        Each request about an account has the outcome that the token has a right to.
        """
        for principal, *rights in TOKENS:
            self.site = self.started()
            client = self.client(principal)
            for login, right in zip(GROUPS, rights, strict=True):
                # Withdrawals need something to take out.
                self.book(login, 6)
                self.book(login, principal=principal.id, key=f"k{login}")
                for command, data, all, nothing, other in REQUESTS:
                    expected = {ALL: all, NOTHING: nothing}.get(right, other)
                    with self.subTest((principal, login, command, data)):
                        about = self.about(login, data, principal.id)
                        found = self.outcome(client, command, about)
                        self.assertEqual(found, expected)

    def test_lookups(self) -> None:
        """
        So has each look-up.
        """
        for principal, *rights in TOKENS:
            self.site = self.started()
            client = self.client(principal)
            for login, right in zip(GROUPS, rights, strict=True):
                for command, data, all, nothing, own, foreign, other in LOOKUPS:
                    expected = {ALL: all, NOTHING: nothing, OWN: own, FOREIGN: foreign}
                    with self.subTest((principal, login, command, data)):
                        found = self.outcome(client, command, self.about(login, data))
                        self.assertEqual(found, expected.get(right, other))

    def about(
        self, login: int, data: dict[str, Any], principal: int = 0
    ) -> dict[str, Any]:
        """
        Fill in the account and its orders.
        """
        data = dict(data)
        if "amount" in data or "login" in data:
            data["login"] = login
        if "idempotencyKey" in data:
            data["idempotencyKey"] = f"k{login}"
        if "order" in data:
            data["order"] = self.order(login, data["order"], principal)
        if "orders" in data:
            data["orders"] = [self.order(login, n, principal) for n in data["orders"]]
        self.site.settle()
        return data

    def order(self, login: int, number: int, principal: int) -> int:
        """
        The order that stands for a number in the tables.
        """
        if number == 9:
            return 1_000_000
        if number == 2:
            return self.book(login, 6)
        more = {1: {}, 3: {"isRequest": True}}.get(
            number, {"isRequest": True, "principal": principal}
        )
        return self.book(login, **more)

    def test_found(self) -> None:
        """
        A filter finds the trades that the token may see, and there are the groups of
        their accounts; whatever it asks for.
        """
        for login in GROUPS:
            self.book(login)
        self.site.settle()
        filters = [{}, {"groupFilter": "*"}, {"where": [["group", "!=", "x"]]}]
        filters += [{"where": [["login", "==", login]]} for login in GROUPS]
        for principal, *rights in TOKENS:
            client = self.client(principal)
            seen = [
                login
                for login, right in zip(GROUPS, rights, strict=True)
                if right == ALL
            ]
            isAllowed = ALL in rights or NOTHING in rights
            for number, data in enumerate(filters, -2):
                expected = (
                    seen if number < 1 else [n for n in seen if n == 1000 + number]
                )
                with self.subTest((principal, data)):
                    found = self.reply(client, "MngGetTradesByFilter", data)
                    if isAllowed:
                        logins = [row[1] for row in found["data"]["rows"]]
                        count, totals = found["data"]["count"], found["data"]["totals"]
                        self.assertEqual((logins, count), (expected, len(expected)))
                        self.assertEqual(totals["credit"], 5.0 * len(expected))
                    else:
                        self.assertEqual(found["error"], "FORBIDDEN")
            with self.subTest(principal):
                found = self.reply(client, "GetGroups", {})
                if isAllowed:
                    groups = sorted(GROUPS[login] for login in seen)
                    self.assertEqual(found["data"], {"groups": groups})
                else:
                    self.assertEqual(found["error"], "FORBIDDEN")

    def test_move(self) -> None:
        """
        Only admins may move an account.
        """
        for principal, *_ in TOKENS:
            client = self.client(principal)
            for login, group in GROUPS.items():
                data = {"login": login, "group": group}
                with self.subTest((principal, login)):
                    found = self.outcome(client, "MngSetAccountGroup", data)
                    expected = OK if principal.role == 3 else FORBIDDEN
                    self.assertEqual(found, expected)

    def test_forEverybody(self) -> None:
        """
        What is about no account is for every token.
        """
        for principal, *_ in TOKENS:
            client = self.client(principal)
            for command, data in FOR_EVERYBODY.items():
                with self.subTest((principal, command)):
                    self.assertEqual(self.outcome(client, command, data), OK)

    def test_everyCommand(self) -> None:
        """
        All commands are in one of these tables, and so are all roles.
        """
        named = {row[0] for row in (*REQUESTS, *LOOKUPS)} | set(FOR_EVERYBODY)
        named |= {"MngGetTradesByFilter", "GetGroups", "MngSetAccountGroup"}
        service = CreditSync(
            self.site.clock,
            runtime=self.site.runtime,
            events=self.site.events,
            authenticator=self.site.authenticator,
            listen=[],
        )
        for sessions in (self.site.sessions, service.sessions):
            self.assertEqual(set(sessions.requests._commands), named)
        self.assertEqual({row[0].role for row in TOKENS}, ALL_SESSIONS)


class CommandTests(RightsCase):
    """
    What a restricted token is told of an account that it may not see.
    """

    def test_sameWords(self) -> None:
        """
        An order that a token may not see is refused in the same words as one that does
        not exist.
        """
        self.book(1003)
        self.site.settle()
        client = self.client(token(1, "real*"))
        for command in ("GetOperation", "DeleteCredit", "DeleteCreditSync"):
            for order in (1, 2):
                client.asks(command, "r", {"order": order}, "t")
                self.site.settle()
                self.assertEqual(
                    client.hears(),
                    [
                        {
                            "extID": "r",
                            "status": 404,
                            "error": "NOT_FOUND",
                            "message": f"there is no order {order}",
                        }
                    ],
                )

    def test_sameWordsByKey(self) -> None:
        """
        A key whose trade a token may no longer see is refused in the same words as one
        that was never used.
        """
        client = self.client(token(1))
        data = {"login": 1003, **_CREDIT}
        asked = self.outcome(client, "CreditIn", data, idempotencyKey="k")
        self.assertEqual(asked, OK)
        narrow = self.client(token(1, "real*"), "narrow")
        told = []
        for key in ("k", "never used"):
            narrow.asks("GetOperation", "r", {"idempotencyKey": key}, "narrow")
            told += narrow.hears()
        self.assertEqual(told[0]["status"], 404)
        self.assertEqual(told[0], told[1])

    def test_forbidden(self) -> None:
        """
        The refusal names the account.
        """
        client = self.client(token(1, "real*"))
        client.asks("CreditIn", "r", {"login": 1003, **_CREDIT}, "t")
        [reply] = client.hears()
        self.assertEqual(reply["message"], "this token may not use account 1003")

    def test_beforeTheKey(self) -> None:
        """
        The account is judged before the key is looked up: a request that was carried
        out is refused too, if the token is narrower now, and so is one that would
        differ.
        """
        client = self.client(token(1))
        data = {"login": 1003, **_CREDIT}
        asked = self.outcome(client, "CreditIn", data, idempotencyKey="k")
        self.assertEqual(asked, OK)
        narrow = self.client(token(1, "real*"), "narrow")
        for amount in (1, 2):
            asked = self.outcome(
                narrow,
                "CreditIn",
                {**data, "amount": amount},
                "narrow",
                idempotencyKey="k",
            )
            self.assertEqual(asked, FORBIDDEN)

    def test_unknownAccount(self) -> None:
        """
        An account that does not exist has no group.
        """
        client = self.client(token(1, "real*"))
        data = {"login": 5000, **_CREDIT}
        self.assertEqual(self.outcome(client, "CreditIn", data), FORBIDDEN)
        client = self.client(token(1, "*"))
        self.assertEqual(self.outcome(client, "CreditIn", data), OK)

    def test_otherLogin(self) -> None:
        """
        An update on one's own account that names an order of another one is refused
        alike whether one may see that or not.
        """
        self.book(1003)
        self.book(1002)
        self.site.settle()
        client = self.client(token(1, "real*"))
        for order in (1, 2):
            client.asks(
                "CreditIn", "r", {"login": 1001, **_CREDIT, "order": order}, "t"
            )
            [reply] = client.hears()
            self.assertEqual(
                (reply["status"], reply["error"], reply["message"]),
                (
                    409,
                    "INCORRECT_ORDER",
                    f"order {order} does not belong to login 1001",
                ),
            )

    def test_deletionRepeated(self) -> None:
        """
        A deletion that is repeated under its key is answered like the first one, also
        if the token may no longer see the account: otherwise it would say that nothing
        was booked.
        """
        self.book(1003)
        self.site.settle()
        client = self.client(token(1))
        data = {"order": 1}
        first = self.outcome(client, "DeleteCreditSync", data, idempotencyKey="k")
        self.assertEqual(first, OK)
        client = self.client(token(1, "real*"), "narrow")
        client.asks("DeleteCreditSync", "r", data, "narrow", idempotencyKey="k")
        [reply] = client.replies()
        self.assertEqual((reply["status"], reply["replayed"]), (200, True))
        again = self.outcome(client, "DeleteCreditSync", data, "narrow")
        self.assertEqual(again, NOT_FOUND)

    def test_pending(self) -> None:
        """
        An order that is not booked yet is as invisible as one that is.
        """
        self.book(1003)
        self.site.turn()
        client = self.client(token(1, "real*"))
        client.asks("GetOperation", "r", {"order": 1}, "t")
        client.asks("DeleteCredit", "d", {"order": 1}, "t")
        self.assertEqual(client.outcomes(), [("r", *NOT_FOUND), ("d", *NOT_FOUND)])

    def test_plainLines(self) -> None:
        """
        Lines that are read several at once are judged alike.
        """
        client = self.client(token(1, "real*"))
        lines = b"".join(
            b'{"command":"CreditInSync","extID":%d,"__token":"t","data":{"login":%d,'
            b'"amount":1,"comment":"x"}}\r\n' % (login, login)
            for login in GROUPS
        )
        self.assertEqual(client.session.linesReceived(lines), 4)
        self.site.settle()
        self.assertEqual(
            client.outcomes(),
            [
                (1003, 403, "FORBIDDEN"),
                (1004, 403, "FORBIDDEN"),
                (1001, 200, None),
                (1002, 200, None),
            ],
        )

    def test_call(self) -> None:
        """
        A request of the application is judged by its principal.
        """
        for login, expected in ((1001, None), (1003, 403)):
            asked = self.site.sessions.call(
                "CreditIn", {"login": login, **_CREDIT}, token(1, "real*")
            )
            self.site.settle()
            if expected is None:
                self.assertEqual(self.successResultOf(asked)["login"], login)
            else:
                self.assertEqual(self.failureResultOf(asked).value.status, expected)


class StreamTests(RightsCase):
    """
    How the events of a session change with its tokens and with groups.
    """

    def test_replyIsNotFiltered(self) -> None:
        """
        Who may credit an account gets the reply, though a narrower token was accepted
        meanwhile that may not see the event.
        """
        client = self.client(token(1, "real*"))
        self.site.authenticator.accept("narrow", token(1, "demo"))
        client.asks("CreditInSync", "r", {"login": 1001, **_CREDIT}, "t")
        client.asks("HealthCheck", "h", {}, "narrow")
        self.site.settle()
        self.assertEqual(
            [(each.get("event"), each.get("extID")) for each in client.hears()],
            [(None, "h"), (None, "r")],
        )

    def test_narrows(self) -> None:
        """
        A session receives what the last of its tokens may see.
        """
        client = self.client(token(1))
        for number, (principal, expected) in enumerate(
            [
                (token(1, "real*"), [1001, 1002]),
                (token(1, "real"), [1001]),
                (token(0, id=1003), [1003]),
                (token(9, logins=(1002, 1004)), [1002, 1004]),
                (token(5), []),
                (token(3), [1001, 1002, 1003, 1004]),
                (token(1, "demo"), [1003]),
                (token(1), [1001, 1002, 1003, 1004]),
            ]
        ):
            self.site.authenticator.accept(f"t{number}", principal)
            client.asks("HealthCheck", None, {}, f"t{number}")
            client.hears()
            for login in GROUPS:
                self.book(login)
            self.assertEqual((principal, self.heard(client)), (principal, expected))

    def test_revoked(self) -> None:
        """
        A restricted token that is revoked ends the events at once.
        """
        for principal in (token(1, "real*"), token(0, id=1001)):
            client = self.client(principal)
            self.book(1001)
            self.assertEqual(self.heard(client), [1001])
            self.site.authenticator.revoked.add("t")
            self.book(1001)
            self.assertEqual(self.heard(client), [])
            self.assertIsNone(client.session.principal)
            self.site.authenticator.revoked.clear()
            self.book(1001)
            self.assertEqual(self.heard(client), [])
            client.asks("HealthCheck", None, {}, "t")
            client.hears()
            self.book(1001)
            self.assertEqual(self.heard(client), [1001])

    def test_unsubscribed(self) -> None:
        """
        A restricted session that has unsubscribed receives nothing, until it subscribes
        again.
        """
        for principal in (token(1, "real*"), token(0, id=1001)):
            client = self.client(principal)
            client.asks("Unsubscribe", "u", CHANNELS, "t")
            self.book(1001)
            self.assertEqual(self.heard(client), [])
            client.asks("Subscribe", "u", CHANNELS, "t")
            self.book(1001)
            self.assertEqual(self.heard(client), [1001])

    def test_moved(self) -> None:
        """
        When an account is moved to another group, who may see it changes at once, with
        the reply to the one who has moved it.
        """
        reals, demos = (
            self.client(token(1, "real*"), "r"),
            self.client(token(1, "demo"), "d"),
        )
        admin = self.client(token(3), "a")
        data = {"login": 1001, "group": "demo"}
        self.assertEqual(self.outcome(admin, "MngSetAccountGroup", data, "a"), OK)
        self.book(1001)
        self.assertEqual((self.heard(reals), self.heard(demos)), ([], [1001]))
        data = {"login": 1001, **_CREDIT}
        self.assertEqual(self.outcome(reals, "CreditIn", data, "r"), FORBIDDEN)
        self.assertEqual(self.outcome(demos, "CreditIn", data, "d"), OK)

    def test_movedWhileCatchingUp(self) -> None:
        """
        A catch-up is judged by the groups at the time at which it is sent.
        """
        self.patch(catchups, "_PAGE", 1)
        for _ in range(4):
            self.book(1001)
        self.site.settle()
        client = self.client(token(1, "real*"))
        client.asks("Subscribe", "s", {**CHANNELS, "since": "first"}, "t")
        self.site.step()
        # This is done in the next turn, after the second event.
        self.site.runtime.setGroup(1001, "demo")
        self.assertEqual(self.heard(client), [1001, 1001])

    def test_movedElsewhereWhileCatchingUp(self) -> None:
        """
        A page that was kept for others is sent when it is known which accounts other
        servers have moved meanwhile.
        """
        self.patch(catchups, "_PAGE", 1)
        self.book(1001)
        self.site.settle()
        waiting: list[Deferred[object]] = []

        def whenKnown(login: int) -> "Deferred[object]":
            waiting.append(Deferred())
            return waiting[-1]

        self.site.broadcast._rights._whenKnown = whenKnown
        clients = {name: self.client(token(1, "real*"), name) for name in ("x", "y")}
        for name, client in clients.items():
            client.asks("Subscribe", "s", {**CHANNELS, "since": "first"}, name)
        self.site.step()
        self.site.step()
        [known] = waiting
        self.site.runtime.setGroup(1001, "demo")
        self.site.settle()
        known.callback(None)
        self.assertEqual([self.heard(each) for each in clients.values()], [[1001], []])

    def test_caughtUp(self) -> None:
        """
        A session that has caught up goes on with what its token may see.
        """
        client = self.client(token(1, "real*"))
        client.asks("Subscribe", "s", {**CHANNELS, "since": "first"}, "t")
        self.site.settle()
        for login in GROUPS:
            self.book(login)
        self.assertEqual(self.heard(client), [1001, 1002])

    def test_together(self) -> None:
        """
        In one batch each session gets its events in their order, of several groups and
        accounts.
        """
        clients = [
            self.client(token(1, "real*,demo"), "a"),
            self.client(token(1, "real*"), "b"),
            self.client(token(9, logins=(1003, 1001)), "c"),
        ]
        for login in (1003, 1001, 1004, 1003, 1002, 1001):
            self.book(login)
        self.site.settle()
        self.assertEqual(
            [self.heard(each) for each in clients],
            [
                [1003, 1001, 1003, 1002, 1001],
                [1001, 1002, 1001],
                [1003, 1001, 1003, 1001],
            ],
        )

    def test_courses(self) -> None:
        """
        Random courses of all of this agree with a model of the rights.
        """
        for seed in range(1000, 1040):
            Course(seed).run()


class Sent:
    """
    A session, as far as the receivers need one.
    """

    principal: Principal | None = None

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def send(self, lines: bytes) -> None:
        """
        Keep them.
        """
        self.lines.append(lines)


class ReceiverTests(SynchronousTestCase):
    """
    Tests for L{RestrictedReceivers}.
    """

    def setUp(self) -> None:
        """
        Make one that counts how often it asks.
        """
        self.asked: list[int] = []
        self.current: list[Principal] = []
        self.receivers: Any = RestrictedReceivers(Rights(self.groupOf), self.isCurrent)

    def groupOf(self, login: int) -> str:
        """
        The group of an account.
        """
        self.asked.append(login)
        return GROUPS[login]

    def isCurrent(self, principal: Principal) -> bool:
        """
        All are.
        """
        self.current.append(principal)
        return True

    def add(self, principal: Principal, count: int = 1) -> list[Any]:
        """
        Add sessions.
        """
        sessions = [Sent() for _ in range(count)]
        for each in sessions:
            self.receivers.add(each, principal)
        return sessions

    def test_oneMatch(self) -> None:
        """
        A mask and a group are matched once, however many sessions and events there
        are; a new mask is matched too.
        """
        matched: list[tuple[str, str]] = []

        def counting(mask: str, group: str) -> bool:
            matched.append((mask, group))
            return matches(mask, group)

        self.patch(rightsModule, "matches", counting)
        self.add(token(1, "real*"), 10)
        self.add(token(2, "real*"), 10)
        for _ in range(5):
            self.receivers.send([1001, 1001], b"1\r\n2\r\n")
        self.assertEqual(matched, [("real*", "real")])
        [late] = self.add(token(1, "*"))
        self.receivers.send([1001], b"3\r\n")
        self.assertEqual(matched[1:], [("real*", "real"), ("*", "real")])
        self.assertEqual(late.lines, [b"3\r\n"])

    def test_sameLines(self) -> None:
        """
        All sessions of all masks that see the same events are sent the same object.
        """
        sessions = self.add(token(1, "real*"), 2) + self.add(token(1, "real"), 1)
        self.receivers.send([1001, 1003], b"1\r\n2\r\n")
        sent = [each.lines for each in sessions]
        self.assertEqual(sent, [[b"1\r\n"]] * 3)
        self.assertEqual(len({id(each[0]) for each in sent}), 1)

    def test_loginsAreFound(self) -> None:
        """
        An event costs nothing for the sessions of other accounts, and no group is
        asked for.
        """
        for login in range(2000, 2100):
            self.add(token(0, login=login))
        [mine] = self.add(token(0, login=1001))
        self.receivers.send([1001, 1002], b"1\r\n2\r\n")
        self.assertEqual(mine.lines, [b"1\r\n"])
        self.assertEqual((len(self.current), self.asked), (1, []))

    def test_nothingIsLeft(self) -> None:
        """
        Sessions that are removed leave nothing behind.
        """
        sessions = [
            *self.add(token(1, "real*"), 2),
            *self.add(token(0, login=1001), 2),
            *self.add(token(9, logins=(1001, 1002))),
            *self.add(token(9)),
            *self.add(token(5)),
        ]
        self.assertEqual(len(self.receivers), 7)
        for each in sessions:
            self.receivers.remove(each)
            self.receivers.remove(each)
        self.assertEqual(len(self.receivers), 0)
        self.assertEqual(self.receivers._byMask, {})
        self.assertEqual(self.receivers._byLogin, {})

    def test_groupsAreBounded(self) -> None:
        """
        However many groups there are, a bounded number is remembered.
        """
        self.patch(restricted, "_MAX_GROUPS", 3)
        [session] = self.add(token(1, "*"))
        for login in (1001, 1002, 1003, 1004, 1001):
            self.receivers.send([login], b"x\r\n")
            self.assertLessEqual(len(self.receivers._selecting), 3)
        self.assertEqual(len(session.lines), 5)

    def test_unknownAccount(self) -> None:
        """
        An event that does not say its account is sent to nobody here.
        """
        sessions = [*self.add(token(1, "*")), *self.add(token(0, login=1001))]
        self.receivers.send([None, 1001], b"1\r\n2\r\n")
        self.assertEqual([each.lines for each in sessions], [[b"2\r\n"]] * 2)


class ForeignTests(SessionTestCase):
    """
    Tests on a runtime that reserves later, and whose events have no places.
    """

    def test_foreignRecord(self) -> None:
        """
        The account of another runtime's record is its C{login}; one that is not a
        number is unknown.
        """
        self.authenticator.accept("own", token(0, login=1001))
        client = self.client()
        client.asks("HealthCheck", None, {}, "own")
        client.hears()
        for login in (1001, 1002, "1001", [1001], None, 1001):
            self.publish(0, {"order": 1, "login": login})
        self.publish(0, {"order": 1})
        self.assertEqual([each["data"]["login"] for each in client.hears()], [1001] * 2)

    def test_later(self) -> None:
        """
        A deletion waits for the look-up of its order, and then for its reservation.
        """
        asked: list[Any] = []

        class Later:
            def trade(self, order: int) -> "Deferred[Trade | None]":
                asked.append(Deferred())
                found: Deferred[Trade | None] = asked[-1]
                return found

            def submit(self, operation: Any) -> "Deferred[Any]":
                asked.append(operation)
                return Deferred()

        command: Any = {
            each.name: each
            for each in financeCommands(Later(), rights=Rights())  # type: ignore[arg-type]
        }["DeleteCredit"]
        request = self.sessions.requests.request(
            {"command": "DeleteCredit", "data": {"order": 1}}
        )
        client = self.client()
        client.session.principal = token(9, logins=(1001,))
        waiting = command.execute(client.session, request)
        self.assertNoResult(waiting)
        asked[0].callback(Trade(1, 1001, 7, 3, 1, "x", 0, 0, 0))
        self.assertNoResult(waiting)
        self.assertEqual(asked[1].order, 1)
        # One that does not exist is refused as early as one that is hidden.
        del asked[:]
        for found in (None, Trade(1, 1002, 7, 3, 1, "x", 0, 0, 0)):
            waiting = command.execute(client.session, request)
            asked.pop().callback(found)
            why = self.failureResultOf(waiting, NotFound).value
            self.assertEqual(why.message, "there is no order 1")
        self.assertEqual(asked, [])

    def test_unrestricted(self) -> None:
        """
        Where no token is restricted, no group is asked for.
        """

        def groupOf(login: int) -> str:
            raise AssertionError("a group was asked for")

        broadcast = Broadcast(
            self.authenticator, Waiters(self.clock, 5.0), None, Rights(groupOf)
        )
        session: Any = Sent()
        broadcast.add(session, token(1))
        broadcast.tradeEvents([TradeEvent(0, {"order": 1, "login": 1001})])
        self.assertEqual(len(session.lines), 1)
