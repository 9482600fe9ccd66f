"""
Hold the look-ups of a server against a plain reference, in whole conversations.

A server on a ledger on disk has trades of several groups of accounts, of which each
client may see some. It gets filters: right ones, made of what the trades have, and ones
of which something was replaced. The reference is written from C{docs/protocol.rst},
"Look-ups", and shares nothing with the server: it selects, sorts and adds up in Python.
What it says has to be the reply, to the last value; and what it refuses has to be
refused.

Orders and accounts are looked up too, and what a client may not see has to be answered
like what does not exist.
"""

import json
import re
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from decimal import Decimal
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Final

from referencing import Registry
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock

from creditsync._conversation.rights import Rights
from creditsync.errors import Refusal
from creditsync.events import TradeEvents
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.limits import Limits
from creditsync.records import Deletion, Operation, Principal
from creditsync.runtime import TradingRuntime
from creditsync.service import CreditSync
from creditsync.testing import FakeAuthenticator
from tests.attack import command
from tests.attack.judge import _load, _Validator
from tests.attack.stack import problems
from tests.family import METHODS, TOTALS, Trade, units
from tests.figures import Figures

_LOOKUPS_PER_SITE = 1000
_TRADES = 120
_NOW = 1767225600

GROUPS: Final = ["", "real", "real\\eu", "real\\us", "test", "Test*", "démo,1"]
# A client for each: which groups it may see.
TOKENS: Final = {
    "manager": frozenset(GROUPS),
    "dealer": frozenset(["real\\eu", "test", ""]),
    "admin": frozenset[str](),
}
_WORDS: Final = [
    "Promotion", "promotion", "100%", "a_b", "a*b", "a?b", "[x]", "[", "]", "%", "_",
    "It's", "é", "😀", '"', ";--", "' OR 1=1", "\\", "\t", ",]", "^", "-", "aaaaaaaab",
]  # fmt: skip

STRUCTURE: Final = [
    "order", "login", "cmd", "state", "profit", "comment", "symbol", "volume",
    "open_price", "close_price", "open_time", "close_time", "sl", "tp", "storage",
    "commission", "reason", "timestamp", "group", "update_time",
]  # fmt: skip
_STRINGS: Final = {"comment", "symbol", "group"}
_AMOUNTS: Final = {
    "profit", "open_price", "close_price", "sl", "tp", "storage", "commission",
}  # fmt: skip

_validator = _Validator(
    _load("mng_get_trades_by_filter"),
    registry=Registry().with_contents([("common.json", _load("common"))]),
)


class Seeing(Rights):
    """
    The rights of the clients of L{TOKENS}.
    """

    def __init__(self, groups: dict[int, str], seen: dict[int, frozenset[str]]) -> None:
        super().__init__()
        self._groups = groups
        self._seen = seen

    def maySee(self, principal: Principal, login: int | None) -> bool:
        """
        By the group of the account.
        """
        return login is not None and self.seesGroup(principal, self._groups[login])

    def seesGroup(self, principal: Principal, group: str) -> bool:
        """
        By the table.
        """
        return group in self._seen[principal.id]


# The reference.


class Invalid(Exception):
    """
    The filter has to be refused.
    """


def rowOf(trade: Trade, group: str) -> dict[str, Any]:
    """
    A trade with all fields, its amounts in units.
    """
    return {
        **dict.fromkeys(STRUCTURE, 0),
        **trade._asdict(),
        "symbol": "",
        "reason": 7,
        "group": group,
        "update_time": trade.timestamp,
    }


def isLike(text: str, pattern: str) -> bool:
    """
    Whether a text is like a pattern.
    """
    parts = {"%": ".*", "_": "."}
    expression = "".join(parts.get(each) or re.escape(each) for each in pattern)
    return re.fullmatch(expression, text, re.DOTALL) is not None


def isSelected(mask: str, group: str) -> bool:
    """
    Whether a mask of groups selects one.
    """
    for each in mask.split(","):
        pattern = each.strip(" ").removeprefix("!").strip(" ")
        expression = ".*".join(map(re.escape, pattern.split("*")))
        if each.strip(" ") and re.fullmatch(expression, group, re.DOTALL):
            return not each.strip(" ").startswith("!")
    return False


def valueOf(name: str, value: Any) -> Any:
    """
    A value of a filter in the terms of a row.

    @raise Invalid: It is not of the kind of its field.
    """
    if isinstance(value, str) != (name in _STRINGS):
        raise Invalid
    if isinstance(value, str):
        return value
    if name in _AMOUNTS:
        exact = units(value)
        if exact is None:
            raise Invalid
        return exact
    if value != int(value):
        raise Invalid
    return int(value)


def holds(row: dict[str, Any], name: str, operator: str, value: Any) -> bool:
    """
    Whether a comparison holds for a row.
    """
    mine = row[name]
    return {
        "==": lambda: mine == value,
        "!=": lambda: mine != value,
        ">": lambda: mine > value,
        "<": lambda: mine < value,
        ">=": lambda: mine >= value,
        "<=": lambda: mine <= value,
        "like": lambda: isLike(mine, value),
    }[operator]()


def _passes(row: dict[str, Any], data: dict[str, Any]) -> bool:
    for end, wanted in ("", True), ("Not", False):
        for name, operator, value in data.get(f"where{end}", []):
            if holds(row, name, operator, valueOf(name, value)) != wanted:
                return False
        for name, values in data.get(f"where{end}In", []):
            if (row[name] in [valueOf(name, each) for each in values]) != wanted:
                return False
        for name, (start, stop) in data.get(f"where{end}Between", []):
            isIn = valueOf(name, start) <= row[name] <= valueOf(name, stop)
            if isIn != wanted:
                return False
    return True


def _check(data: dict[str, Any]) -> None:
    """
    @raise Invalid: The filter has to be refused.
    """
    if not _validator.is_valid(data):
        raise Invalid
    for end in ("", "Not"):
        for name, operator, value in data.get(f"where{end}", []):
            valueOf(name, value)
            if operator == "like" and name not in _STRINGS:
                raise Invalid
        for member in ("In", "Between"):
            for name, values in data.get(f"where{end}{member}", []):
                for value in values:
                    valueOf(name, value)


def found(
    rows: Sequence[dict[str, Any]], data: dict[str, Any], seen: frozenset[str]
) -> dict[str, Any]:
    """
    What the reply's data has to be, with amounts in units.

    @raise Invalid: The filter has to be refused.
    """
    _check(data)
    mask = data.get("groupFilter", "*")
    selected = [
        row
        for row in rows
        if row["group"] in seen and isSelected(mask, row["group"])
        if _passes(row, data)
    ]
    selected.sort(key=lambda row: row["order"])
    for name, way in reversed(data.get("orderBy", [])):
        selected.sort(key=lambda row: row[name], reverse=way == "desc")
    first = int(data.get("offset", 0))
    returned = selected[first : first + int(data.get("limit", 1000))]
    return {
        "structure": STRUCTURE,
        "rows": [[row[name] for name in STRUCTURE] for row in returned],
        "count": len(selected),
        "totals": {
            total: sum(
                row["profit"]
                for row in selected
                if row["state"] == 3 and TOTALS[row["cmd"]] == total
            )
            for total in ("balance", "credit")
        },
    }


def inUnits(data: dict[str, Any]) -> dict[str, Any]:
    """
    The data of a reply, with amounts in units.
    """
    amounts = [at for at, name in enumerate(STRUCTURE) if name in _AMOUNTS]
    for row in data["rows"]:
        for at in amounts:
            row[at] = units(row[at])
    data["totals"] = {name: units(each) for name, each in data["totals"].items()}
    return data


# The server.


class Site:
    """
    A server with trades, and its clients.

    @ivar rows: All of its trades.
    """

    def __init__(self, folder: str, random: Random) -> None:
        self.clock = Clock()
        path = f"{folder}/creditsync.db"
        ledger = SQLiteLedger(path, maybeDeferred)
        self.groups = {login: random.choice(GROUPS) for login in range(1, 13)}
        events, authenticator = TradeEvents(), FakeAuthenticator()
        runtime = TradingRuntime(
            self.clock, ledger, events, now=self._now, maxQueued=1000
        )
        self.service = CreditSync(
            self.clock,
            runtime=runtime,
            events=events,
            authenticator=authenticator,
            listen=[],
            limits=Limits(maxLookups=1),
        )
        seen = {
            authenticator.authenticate(token).id: groups
            for token, groups in TOKENS.items()
        }
        rights = Seeing(self.groups, seen)
        for each in self.service.sessions.requests._commands.values():
            if hasattr(each, "_lookups"):
                each._lookups.rights = rights
        self.service.startService()
        self._book(runtime, random)
        with closing(sqlite3.connect(path)) as file, file:
            file.executemany(
                'UPDATE account SET "group" = ? WHERE login = ?',
                [(group, login) for login, group in self.groups.items()],
            )
            trades = file.execute(
                'SELECT "order", login, cmd, state, profit, comment, open_time,'
                " close_time, timestamp FROM trade"
            ).fetchall()
        self.rows = [rowOf(Trade(*trade), self.groups[trade[1]]) for trade in trades]
        self.heard: list[bytes] = []
        self._session = self.service.sessions.open(self.heard.append)

    def _now(self) -> float:
        return _NOW + self.clock.seconds()

    def _book(self, runtime: TradingRuntime, random: Random) -> None:
        for order in range(1, _TRADES + 1):
            method = random.choice(list(METHODS.values()))
            amount = random.choice(
                [1, 10**8, 5 * 10**7, 10**18, random.randrange(1, 10**12)]
            )
            login = random.choice(list(self.groups))
            comment = "".join(random.choices(_WORDS, k=random.randrange(1, 4)))
            asked: Operation | Deletion = Operation(
                "CreditIn", method.cmd, login, method.sign * amount, comment,
                openTime=random.choice([None, 0, 7]),
            )  # fmt: skip
            if random.random() < 0.1:
                asked = Deletion("Delete", random.randrange(1, order + 1),
                                 frozenset([method.cmd]))  # fmt: skip
            try:
                runtime.submit(asked)
            except Refusal:
                continue
            self.clock.advance(random.choice([0, 1]))
        self.clock.advance(1)

    def ask(self, name: str, data: object, token: str) -> dict[str, Any]:
        """
        Look something up.

        @return: The reply.
        """
        request = {"command": name, "extID": "x", "__token": token, "data": data}
        self._session.lineReceived(json.dumps(request).encode())
        while not self.heard:
            self.clock.advance(0.05)
        [line] = self.heard
        self.heard.clear()
        reply: dict[str, Any] = json.loads(line, parse_float=Decimal)
        return reply

    def stop(self) -> None:
        """
        Stop the server.
        """
        self.service.stopService()
        self.clock.advance(1)


class Filters:
    """
    Filters, of what a site's trades have.
    """

    def __init__(self, site: Site, random: Random) -> None:
        self._random = random
        self._rows = site.rows

    def value(self, name: str) -> Any:
        """
        A value for a field, near one that a trade has.
        """
        random = self._random
        value = random.choice(self._rows)[name]
        if name in _STRINGS:
            return random.choice([value, value[:1], random.choice(_WORDS), ""])
        value += random.choice([0, 0, 0, 1, -1])
        if name in _AMOUNTS:
            return random.choice([float(value) / 1e8, value // 10**8, 0.1, 0.5])
        return random.choice([value, float(value)]) if abs(value) < 2**53 else 0

    def pattern(self, name: str) -> str:
        """
        A pattern for C{like}.
        """
        random = self._random
        text = str(random.choice(self._rows)[name])
        if random.random() < 0.2:
            text = text.swapcase()
        letters = [random.choice([each, each, "%", "_", "%%"]) for each in text[:20]]
        return "".join(letters) + random.choice(["", "%"])

    def filter(self) -> dict[str, Any]:
        """
        A right filter.
        """
        random = self._random
        data: dict[str, Any] = {}
        for _ in range(random.choice([0, 1, 1, 2, 3])):
            end = random.choice(["", "", "Not"])
            form = random.choice(["", "", "In", "Between"])
            name = random.choice(["profit", "comment", "group", *STRUCTURE])
            item: list[Any]
            if form == "In":
                item = [name, [self.value(name) for _ in range(random.randrange(4))]]
            elif form == "Between":
                item = [name, [self.value(name), self.value(name)]]
            elif name in _STRINGS and random.random() < 0.6:
                item = [name, "like", self.pattern(name)]
            else:
                operator = random.choice(["==", "!=", ">", "<", ">=", "<="])
                item = [name, operator, self.value(name)]
            data.setdefault(f"where{end}{form}", []).append(item)
        if random.random() < 0.6:
            names = random.sample(STRUCTURE, random.choice([1, 1, 2, 3]))
            data["orderBy"] = [[each, random.choice(["asc", "desc"])] for each in names]
        if random.random() < 0.4:
            data["limit"] = random.choice([1, 2, 7, 50000, 3.0])
        if random.random() < 0.3:
            data["offset"] = random.choice([0, 1, 5, 119, 10**6, 2**53 - 1])
        if random.random() < 0.3:
            masks = ["*", "real*", "!test,*", "*,!test", "!*", "", ",", "real\\eu,test"]
            data["groupFilter"] = random.choice(masks)
        if random.random() < 0.1:
            data["tradeType"] = random.choice([0, 4])
        return data

    def mutated(self, value: Any) -> Any:
        """
        A filter of which something was replaced.
        """
        random = self._random
        if isinstance(value, dict) and value and random.random() < 0.95:
            name = random.choice(list(value))
            return {**value, name: self.mutated(value[name])}
        if isinstance(value, list) and value and random.random() < 0.9:
            at = random.randrange(len(value))
            if random.random() < 0.1:
                return [*value[:at], *value[at + 1 :]]
            return [*value[:at], self.mutated(value[at]), *value[at + 1 :]]
        return random.choice(
            [
                None, True, False, 0, 1, -1, 1.5, 1e-9, 0.30000000000000004, 2**53 - 1,
                -(2**53), 1e300, "", "x", "order", '"order"', "order; DROP TABLE trade",
                "login = 1 OR 1", "(SELECT 1)", "like", "=", "IN", "GLOB", "desc",
                "' OR '1'='1", "1); DELETE FROM trade; --", "\0", "é" * 256, "%" * 255,
                [], [1], [[]], {}, {"$ne": 1}, "rowid", "place", "revision", "ORDER",
                "trade.login", "account.balance", "\\", "?", "?1", ":a", "*", "[a-z]",
            ]
        )  # fmt: skip


class Difference(Exception):
    """
    A reply was not as the reference says.
    """


def checkIntegers(value: Any) -> None:
    """
    Check that the integers of a request are such as I-JSON has, also in members that
    mean nothing.

    @raise Invalid: One is not.
    """
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            checkIntegers(each)
    elif isinstance(value, int) and abs(value) >= 2**53:
        raise Invalid()


def judgeFilter(site: Site, data: Any, token: str) -> str:
    """
    Send a filter.

    @return: The reply's error, or C{"found"}.
    @raise Difference: The reference says otherwise.
    """
    reply = site.ask("MngGetTradesByFilter", data, token)
    # As it was written: 3.0 is an integer in JSON Schema.
    data = json.loads(json.dumps(data), parse_float=Decimal)
    outcome = "found" if reply["status"] == 200 else str(reply["error"])
    try:
        checkIntegers(data)
        wanted = found(site.rows, data, TOKENS[token])
    except Invalid:
        if outcome in ("INVALID_DATA", "INVALID_JSON"):
            return outcome
        raise Difference(f"{data!r} has the answer {outcome}") from None
    if outcome != "found":
        raise Difference(f"{data!r} is refused: {reply['message']}")
    got = inUnits(reply["data"])
    for name, value in wanted.items():
        if got[name] != value:
            raise Difference(f"{data!r}: {name} is {got[name]!r}, not {value!r}")
    return outcome if wanted["rows"] else "found none"


def judgeHidden(site: Site, random: Random, token: str) -> str:
    """
    Look an order and an account up that may be hidden, and ones that don't exist.

    @raise Difference: The replies tell the one from the other.
    """
    row, nobody = random.choice(site.rows), 10**6
    isSeen = row["group"] in TOKENS[token]
    for name, member in (
        ("GetTradeByOrder", "order"),
        ("GetTradeByOrders", "orders"),
        ("GetAccountByLogin", "login"),
    ):
        asked = row[member.removesuffix("s")]
        said = []
        for number in (asked, nobody):
            data = {member: [number] if member == "orders" else number}
            text = json.dumps(site.ask(name, data, token), default=str)
            said.append(re.sub(rf"\b{number}\b", "N", text))
        if not isSeen and said[0] != said[1]:
            raise Difference(f"{name} of {asked}, which is hidden: {said[0]}")
        if isSeen and '"status": 200' not in said[0]:
            raise Difference(f"{name} of {asked}, which is not hidden: {said[0]}")
    return "seen" if isSeen else "hidden"


def run(seed: int) -> "tuple[Counter[str], list[str]]":
    """
    Make a site, and look things up.

    @return: How many look-ups had which outcome, and the faults.
    """
    random, outcomes, wrong = Random(seed), Counter[str](), list[str]()
    with TemporaryDirectory() as folder, problems() as logged:
        site = Site(folder, random)
        filters = Filters(site, random)
        for _ in range(_LOOKUPS_PER_SITE):
            token = random.choice(["manager", "manager", *TOKENS])
            try:
                if random.random() < 0.05:
                    outcomes[judgeHidden(site, random, token)] += 1
                    continue
                data = filters.filter()
                while random.random() < 0.4:
                    data = filters.mutated(data)
                outcomes[judgeFilter(site, data, token)] += 1
            except Difference as e:
                wrong.append(f"seed {seed}: {e}")
        site.stop()
        wrong += [f"seed {seed}: {each}" for each in logged]
    return outcomes, wrong


def runs(first: int, lookups: int) -> "Iterator[tuple[Counter[str], list[str]]]":
    """
    Look up so many things, in processes.
    """
    seeds = range(first, first + -(-lookups // _LOOKUPS_PER_SITE))
    with ProcessPoolExecutor() as pool:
        yield from pool.map(run, seeds)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run it by the command line.

    @return: The exit status.
    """
    parser = command.parser(__doc__)
    parser.add_argument("--lookups", type=int, default=20_000, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    options = command.begin(parser, arguments)
    started = time.monotonic()
    outcomes, wrong = Counter[str](), list[str]()
    results = (
        # A planted bug is in this process only.
        map(run, range(options.seed, options.seed + 3))
        if options.plant
        else runs(options.seed, options.lookups)
    )
    for counted, faults in results:
        outcomes += counted
        wrong += faults
    figures = Figures()
    figures["look-ups"] = f"{outcomes.total():,}"
    figures["outcomes"] = ", ".join(f"{n:,} {o}" for o, n in outcomes.most_common())
    figures["seconds"] = f"{time.monotonic() - started:.1f}"
    return command.end(options, figures, wrong, "every reply is as the reference says")


if __name__ == "__main__":
    sys.exit(main())
