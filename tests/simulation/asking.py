"""
The requests of the clients: good ones of every command, and wrong ones.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from attrs import define, field

from tests.family import DELETIONS, METHODS, NAMES, TOTALS, WAITS
from tests.simulation.history import History, Intent, Token, parse
from tests.simulation.rights import ADMIN
from tests.simulation.setting import GROUPS, LOGINS

# The weight of each method among the requests.
_WEIGHTS = {"BalanceIn": 2, "CreditIn": 3, "BalanceOut": 1, "CreditOut": 1}
_CMDS = [METHODS[name].cmd for name, times in _WEIGHTS.items() for _ in range(times)]

_AMOUNTS = ("300", "300.0", "1e2", "19.99", "0.1", "0.00000001", "33.33333333")
_FINE_AMOUNTS = ("12345678.90123456", "987654321.12345678", "0.29", "4.35", "1.15")
_GREAT_AMOUNTS = ("10000000000", "9999999999.99999999")
_COMMENTS = ("Promotion credit", "it's, }here", "Ünïcödé \U0001f4b6", 'a "b" \\ \t c,]')

# Wrong lines, with the error that each must get. All are answered under their
# extID, except those whose extID can't be known.
_HEAD = '{"extID":<extID>,"__token":"<token>","command":'
_WRONG = (
    (_HEAD + '"CreditInSync","data":{"login":1001,"amount":1}}', "INVALID_DATA"),
    (_HEAD + '"CreditInSync","data":[]}', "INVALID_DATA"),
    (_HEAD + '"CreditIn"}', "INVALID_DATA"),
    (
        _HEAD + '"CreditIn","data":{"login":1001,"amount":0,"comment":"c"}}',
        "INVALID_DATA",
    ),
    (
        _HEAD + '"CreditIn","data":{"login":1001,"amount":-1,"comment":"c"}}',
        "INVALID_DATA",
    ),
    (
        _HEAD + '"CreditIn","data":{"login":"1001","amount":1,"comment":"c"}}',
        "INVALID_DATA",
    ),
    (
        _HEAD + '"CreditIn","data":{"login":true,"amount":1,"comment":"c"}}',
        "INVALID_DATA",
    ),
    (
        _HEAD + '"CreditIn","data":{"login":1001,"amount":0.123456789,"comment":"c"}}',
        "INVALID_DATA",
    ),
    (
        _HEAD + '"CreditInSync","data":{"login":1001,"amount":1,"comment":"\\u0000"}}',
        "INVALID_DATA",
    ),
    (_HEAD + '"BalanceOut","data":{"login":1001,"amount":1}}', "INVALID_DATA"),
    (
        _HEAD + '"BalanceIn","data":{"login":1001,"amount":1,"open_time":2,'
        '"close_time":1}}',
        "INVALID_DATA",
    ),
    (_HEAD + '"BalanceIn","data":{"login":1.5,"amount":1}}', "INVALID_DATA"),
    (
        _HEAD + '"BalanceIn","data":{"login":1,"amount":1},"idempotencyKey":"ä"}',
        "INVALID_DATA",
    ),
    (_HEAD + '"DeleteCreditSync","data":{"order":0}}', "INVALID_DATA"),
    (_HEAD + '"GetOperation","data":{}}', "INVALID_DATA"),
    (_HEAD + '"Subscribe","data":{"chanels":["quotes"]}}', "NOT_FOUND"),
    (_HEAD + '"CreditInTwice","data":{}}', "UNKNOWN_COMMAND"),
    ('{"extID":<extID>,"command":"HealthCheck"}', "UNAUTHORIZED"),
    (
        '{"extID":<extID>,"command":"BalanceIn","__token":"a.b.c",'
        '"data":{"login":1,"amount":1}}',
        "UNAUTHORIZED",
    ),
)
_WRONG_WITHOUT_EXTID = (
    (
        '{"command":"BalanceInSync","__token":"<token>","data":{"login":1,"amount":1}}',
        "INVALID_DATA",
    ),
    ('{"command":"HealthCheck","__token":"<token>"', "INVALID_JSON"),
    ('{"command":"HealthCheck","__token":"<token>","data":{"a":NaN}}', "INVALID_JSON"),
    (
        '{"command":"BalanceIn","__token":"<token>",'
        '"data":{"login":1,"login":2,"amount":1}}',
        "INVALID_JSON",
    ),
    ("[]", "INVALID_JSON"),
    (
        '{"command":"BalanceIn","__token":"<token>","data":{"login":1,"amount":1}}'
        '{"command":"BalanceIn","__token":"<token>","data":{"login":1,"amount":1}}',
        "INVALID_JSON",
    ),
)
# Places of no ledger, and of another one; the last three break the schema.
_OTHER_PLACES = (
    "0badcafe-1",
    "0BADCAFE-1",
    "-1",
    "1",
    "0badcafe-01",
    "f" * 64,
    "f" * 65,
    "",
    "0badcafe 1",
)
_BROKEN_PLACES = _OTHER_PLACES[-3:]
# A request that is split over two lines.
_SPLIT = (
    '{"command":"BalanceIn","__token":"<token>",',
    '"data":{"login":1,"amount":1}}',
)


@define(eq=False)
class Market:
    """
    The orders that clients know.

    @ivar _isRestricted: Whether clients ask for what is about rights too.
    @ivar _moves: Whether they ask for accounts to be moved.
    @ivar _hasGroups: Whether that can be done.
    @ivar hasRequests: Whether they make and decide finance requests.
    """

    _random: Random
    _history: History
    _hasKeys: bool
    _isRestricted: bool = False
    _moves: bool = False
    _hasGroups: bool = False
    hasRequests: bool = False
    # Finance requests, the latest one last.
    _requests: dict[int, None] = field(init=False, factory=dict)
    orders: dict[int, tuple[int, int]] = field(factory=dict)
    # The cursors that were received, the latest one last.
    _cursors: dict[str, None] = field(factory=dict)
    _parsed: dict[bytes, Mapping[str, Any]] = field(factory=dict)

    def heard(self, line: bytes) -> None:
        """
        Learn from an event.
        """
        if line not in self._parsed:
            self._parsed[line] = event = parse(line.decode())
            self.learn(event["data"])

    def learn(self, data: Mapping[str, Any]) -> None:
        """
        Learn from a trade, and from anything with a cursor.
        """
        if "cursor" in data:
            self._cursors.pop(data["cursor"], None)
            self._cursors[data["cursor"]] = None
        if "order" in data and "login" in data:
            self.orders[data["order"]] = data["login"], data["cmd"]
            if data.get("state") == WAITS:
                self._requests[data["order"]] = None

    def _intent(self, token: Token, command: str, data: Any, **rest: Any) -> Intent:
        intent = Intent(len(self._history.intents), token, command, data, **rest)
        self._history.intents.append(intent)
        return intent

    def ask(self, token: Token) -> Intent:
        """
        A good request.
        """
        kinds: list[tuple[float, Callable[[Token], Intent]]] = [
            (0.5, self._booking),
            (0.7, self._update),
            (0.82, self._deletion),
            (0.9, self._lookUp),
            (0.95, self._subscription),
            (1.0, self._health),
        ]
        if self.hasRequests and self._random.random() < 0.25:
            return self._ofRequests(token)
        share = 0.35 if token.role == ADMIN else 0.15
        if self._isRestricted and self._random.random() < share:
            return self._ofRights(token)
        drawn = self._random.random()
        return next(make(token) for most, make in kinds if drawn < most)

    def _ofRequests(self, token: Token) -> Intent:
        """
        A finance request, or the decision of one.
        """
        if not self._requests or self._random.random() < 0.4:
            return self._request(token)
        return self._decision(token, self._chosen())

    def _request(self, token: Token) -> Intent:
        random = self._random
        cmd, number = random.choice(_CMDS), len(self._history.intents)
        data: dict[str, Any] = {
            "login": random.choice(LOGINS),
            "cmd": cmd,
            "amount": self._amount(cmd)[0],
            "comment": f"{number} {random.choice(_COMMENTS)}",
        }
        if random.random() < 0.1:
            data["open_time"] = random.randrange(1_000_000)
        key = self._key(number)
        return self._intent(token, "MngCreateFinanceRequest", data, cmd=cmd, key=key)

    def _chosen(self) -> int:
        """
        The order of a finance request: mostly one of the latest, which may still wait.
        """
        known = list(self._requests)
        return self._random.choice(known[-3:] if self._random.random() < 0.8 else known)

    def decidedTogether(self, tokens: Sequence[Token]) -> list[Intent]:
        """
        Several decisions of one finance request, if there is one.
        """
        if not self._requests:
            return [self._request(tokens[0])]
        order, count = self._chosen(), self._random.randint(2, 4)
        return [
            self._decision(self._random.choice(tokens), order) for _ in range(count)
        ]

    def _decision(self, token: Token, order: int) -> Intent:
        random, number = self._random, len(self._history.intents)
        data: dict[str, Any] = {"order": order}
        allowed = {"NOT_FOUND", "INCORRECT_ORDER"}
        if random.random() < 0.75:
            command = self._form("MngApproveFinanceRequest")
            allowed |= {"TRADE_NO_MONEY", "INVALID_DATA"}
        else:
            command = "MngDeclineFinanceRequest"
            if random.random() < 0.5:
                data["comment"] = f"{number} {random.choice(_COMMENTS)}"
        if random.random() < 0.05:
            # Perhaps an order that is no finance request.
            data["order"] = random.choice(list(self.orders))
        key = self._key(number)
        return self._intent(token, command, data, key=key, allowed=frozenset(allowed))

    def _ofRights(self, token: Token) -> Intent:
        """
        A request that shows what a token may see; or a move, mostly of an admin.
        """
        random = self._random
        if random.random() < (0.7 if token.role == ADMIN else 0.05) and self._moves:
            return self._move(token)
        kinds = self._account, self._trade, self._trade, self._trades, self._found
        return random.choice(kinds)(token)

    def _move(self, token: Token) -> Intent:
        random, isGood = self._random, self._hasGroups
        return self._intent(
            token,
            "MngSetAccountGroup",
            {"login": random.choice(LOGINS), "group": random.choice(GROUPS)},
            allowed=frozenset() if isGood else frozenset({"UNKNOWN_COMMAND"}),
            isGood=isGood,
        )

    def _account(self, token: Token) -> Intent:
        # A foreign runtime has no look-up of accounts.
        error = "UNKNOWN_COMMAND" if self._history.isForeign else "USER_NOT_FOUND"
        return self._intent(
            token,
            "GetAccountByLogin",
            {"login": self._random.choice(LOGINS)},
            allowed=frozenset({error}),
            isGood=not self._history.isForeign,
        )

    def _trade(self, token: Token) -> Intent:
        if not self.orders:
            return self._account(token)
        order = self._random.choice(list(self.orders)[-20:])
        command = self._random.choice(("GetTradeByOrder", "GetOperation"))
        error = "NOT_FOUND" if command == "GetOperation" else "TRADE_NOT_FOUND"
        return self._intent(
            token, command, {"order": order}, allowed=frozenset({error})
        )

    def _trades(self, token: Token) -> Intent:
        if not self.orders or self._random.random() < 0.2:
            return self._ofLedger(token, "GetGroups", {})
        known = list(self.orders)[-20:]
        orders = self._random.sample(known, min(len(known), self._random.randint(1, 4)))
        return self._intent(
            token,
            "GetTradeByOrders",
            {"orders": orders},
            allowed=frozenset({"TRADE_NOT_FOUND"}),
        )

    def _found(self, token: Token) -> Intent:
        random = self._random
        data = {
            "groupFilter": random.choice(("*", "*", "real*", "!real,*")),
            "where": [["login", "==", random.choice(LOGINS)]],
            "limit": random.choice((1, 3, 1000)),
        }
        return self._ofLedger(token, "MngGetTradesByFilter", data)

    def _ofLedger(self, token: Token, command: str, data: Any) -> Intent:
        """
        A look-up that a foreign runtime does not have.
        """
        isForeign = self._history.isForeign
        allowed = {"UNKNOWN_COMMAND"} if isForeign else set[str]()
        return self._intent(
            token, command, data, allowed=frozenset(allowed), isGood=not isForeign
        )

    def _key(self, number: int) -> str | None:
        if not self._hasKeys or self._random.random() < 0.6:
            return None
        return f"key-{number}"

    def _form(self, name: str) -> str:
        return name + ("Sync" if self._random.random() < 0.6 else "")

    def _amount(self, cmd: int) -> tuple[str, bool]:
        """
        A random amount, and whether it is so large that a total may overflow.
        """
        random = self._random
        drawn = random.random()
        if drawn < 0.02:
            amount = random.choice(_GREAT_AMOUNTS)
        elif drawn < 0.5:
            amount = random.choice(_FINE_AMOUNTS)
        else:
            amount = random.choice(_AMOUNTS)
        return "-" + amount if _isOut(cmd) else amount, drawn < 0.02

    def booking(self, token: Token, **more: Any) -> Intent:
        """
        A new trade, or with C{order} the update of one.
        """
        random = self._random
        cmd = more.pop("cmd", None) or random.choice(_CMDS)
        number = len(self._history.intents)
        amount, isGreat = self._amount(cmd)
        comment = f"{number} {random.choice(_COMMENTS)}"
        key = more.pop("key", None) or self._key(number)
        data: dict[str, Any] = {"login": random.choice(LOGINS), "amount": amount}
        isRisky = _isOut(cmd) or "order" in more
        allowed = {"TRADE_NO_MONEY"} if isRisky else set()
        if isGreat:
            allowed.add("INVALID_DATA")
        if random.random() < 0.1:
            # A time after that of the booking would be refused.
            data["open_time"] = random.randrange(1_000_000)
            if random.random() < 0.5:
                data["close_time"] = data["open_time"] + random.randrange(1_000_000)
        data |= {"comment": comment, **more}
        if "order" in more:
            allowed |= {"INCORRECT_ORDER", "INVALID_DATA"}
        command = self._form(NAMES[cmd])
        return self._intent(
            token, command, data, cmd=cmd, key=key, allowed=frozenset(allowed)
        )

    _booking = booking

    def _update(self, token: Token) -> Intent:
        if not self.orders:
            return self.booking(token)
        random = self._random
        order = random.choice(list(self.orders)[-8:])
        login, cmd = self.orders[order]
        if random.random() < 0.05:
            return self.booking(token, order=random.randrange(10**6, 10**7))
        if random.random() < 0.1:
            return self.booking(token, order=order)
        if self._isRestricted and random.random() < 0.3:
            # Perhaps one account is the token's and the other one is not.
            return self.booking(token, order=order, cmd=cmd)
        return self.booking(token, order=order, login=login, cmd=cmd)

    def _deletion(self, token: Token) -> Intent:
        random = self._random
        if not self.orders:
            return self.booking(token)
        order = random.choice(list(self.orders)[-30:])
        _, cmd = self.orders[order]
        name = DELETIONS[TOTALS[cmd]]
        if random.random() < 0.1:
            name = random.choice(list(DELETIONS.values()))
        if random.random() < 0.05:
            order = random.randrange(10**6, 10**7)
        allowed = {"NOT_FOUND", "INCORRECT_ORDER", "TRADE_NO_MONEY"}
        return self._intent(
            token,
            self._form(name),
            {"order": order},
            key=self._key(len(self._history.intents)),
            allowed=frozenset(allowed),
        )

    def _lookUp(self, token: Token) -> Intent:
        random = self._random
        data: dict[str, Any]
        if self.orders and random.random() < 0.7:
            data = {"order": random.choice(list(self.orders)[-20:])}
        else:
            data = {"idempotencyKey": f"key-{random.randrange(500)}"}
        return self._intent(
            token, "GetOperation", data, allowed=frozenset({"NOT_FOUND"})
        )

    def _subscription(self, token: Token) -> Intent:
        random = self._random
        command = random.choice(("Subscribe", "Subscribe", "Unsubscribe"))
        if command == "Subscribe" and random.random() < 0.5:
            return self.resume(token, self._place())
        return self._intent(token, command, {"chanels": ["trade:event"]})

    def _place(self) -> str:
        """
        A place that is, or may be, one of this ledger.
        """
        random = self._random
        if not self._cursors or random.random() < 0.2:
            return "first"
        latest = list(self._cursors)[-1]
        if random.random() < 0.7:
            return random.choice(list(self._cursors)[-200:])
        # Some events before it, or ahead of it.
        epoch, _, place = latest.partition("-")
        return f"{epoch}-{max(0, int(place) + random.randint(-9, 3))}"

    def resume(self, token: Token, since: str | None) -> Intent:
        """
        Go on behind a place; without one, from now on.
        """
        data = {"chanels": ["trade:event"]}
        if since is None:
            return self._intent(token, "Subscribe", data)
        allowed = frozenset(
            {"INVALID_DATA" if self._history.isForeign else "CURSOR_GONE"}
        )
        return self._intent(
            token,
            "Subscribe",
            {**data, "since": since},
            allowed=allowed,
            isGood=not self._history.isForeign,
        )

    def resumeElsewhere(self, token: Token) -> Intent:
        """
        Go on behind a place that this ledger can't have.
        """
        since = self._random.choice((*_OTHER_PLACES, self._ahead()))
        isBroken = self._history.isForeign or since in _BROKEN_PLACES
        return self._intent(
            token,
            "Subscribe",
            {"chanels": ["trade:event"], "since": since},
            allowed=frozenset({"INVALID_DATA" if isBroken else "CURSOR_GONE"}),
            isGood=False,
        )

    def _ahead(self) -> str:
        """
        A place of this ledger that it will never reach.
        """
        epoch = next(reversed(self._cursors), "0badcafe-1").partition("-")[0]
        return f"{epoch}-{self._random.choice((10**6, 10**15, 10**16))}"

    def _health(self, token: Token) -> Intent:
        return self._intent(token, "HealthCheck", {})

    def health(self, token: Token) -> Intent:
        """
        The smallest request.
        """
        return self._health(token)

    def wrong(self, token: Token) -> Intent:
        """
        A request that must be refused.
        """
        random = self._random
        lines = _WRONG if random.random() < 0.8 else _WRONG_WITHOUT_EXTID
        line, error = random.choice(lines)
        return self._intent(
            token, "wrong", {}, allowed=frozenset({error}), isGood=False, line=line
        )

    def split(self, token: Token) -> list[Intent]:
        """
        A request that is split over two lines, neither of which is one.
        """
        allowed = frozenset({"INVALID_JSON"})
        return [
            self._intent(token, "split", {}, allowed=allowed, isGood=False, line=line)
            for line in _SPLIT
        ]

    def plain(self, token: Token) -> Intent:
        """
        A new trade whose line has nothing unusual.
        """
        number = len(self._history.intents)
        return self.booking(token, comment=f"{number} {_COMMENTS[0]}")

    def tooLong(self, token: Token, length: int) -> Intent:
        """
        A line longer than the limit.
        """
        line = _HEAD + '"HealthCheck","data":{"filling":"' + "x" * length + '"}}'
        allowed = frozenset({"LINE_TOO_LONG"})
        return self._intent(
            token, "too long", {}, allowed=allowed, isGood=False, line=line
        )


def _isOut(cmd: int) -> bool:
    """
    Whether a kind of trade is a withdrawal.
    """
    return METHODS[NAMES[cmd]].sign < 0


def lineOf(intent: Intent, extID: str, token: Token) -> bytes:
    """
    The line of a request, without its end.
    """
    if intent.line is not None:
        text = intent.line.replace("<extID>", extID)
        return text.replace("<token>", token.text).encode()
    members = [f'"command":"{intent.command}"']
    if extID:
        members.append(f'"extID":{extID}')
    members.append(f'"__token":"{token.text}"')
    data = ",".join(
        f'"{name}":{value}' if name == "amount" else f'"{name}":{json.dumps(value)}'
        for name, value in intent.data.items()
    )
    members.append('"data":{' + data + "}")
    if intent.key is not None:
        members.append(f'"idempotencyKey":"{intent.key}"')
    return ("{" + ",".join(members) + "}").encode()
