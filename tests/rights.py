"""
Tokens of all kinds on one server, whose accounts move from group to group::

    python -m tests.rights [--rounds N] [--seed N] [--plant BUG]

Clients ask for what they may and for what they may not, change their tokens and have
them revoked, and catch up. Each must get exactly the events and the replies that a
model of the rights expects, which shares no code with the server.
"""

import re
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from itertools import count
from math import inf
from random import Random
from typing import Any

from attrs import Factory, define

from creditsync.records import Operation, Principal, Trade, TradeEvent
from tests.planted.bugs import plant
from tests.resuming import CHANNELS, Site
from tests.test_session import Client

LOGINS = (1001, 1002, 1003, 1004)
GROUPS = ("", "a", "ab", "abb", "b", "ba", "A")
ROLES = (1, 1, 1, 2, 3, 4, 0, 0, 5, 9, 9, 10, 11)
PATTERNS = ("*", "a", "a*", "ab*", "*b", "b", "b*", "A*", "a*b", "")
STEPS = 40


def maskSelects(mask: str, group: str) -> bool:
    """
    Whether a mask selects a group, as the protocol has it.
    """
    for pattern in mask.split(","):
        found = re.match(r"(!?)([^*]*(?:\*[^*]*)*)$", pattern)
        assert found is not None
        expression = "(?s:.*)".join(re.escape(each) for each in found[2].split("*"))
        if pattern and re.fullmatch(expression, group):
            return not found[1]
    return False


def sees(token: Principal, login: int, group: str) -> bool:
    """
    Whether a token may see an account, as the protocol has it.
    """
    if token.role == 3:
        return True
    if token.role == 0:
        return login == (token.id if token.login is None else token.login)
    if token.role == 9:
        return login in (token.logins or ())
    if token.role in (1, 2, 4, 10, 11):
        return token.groups is None or maskSelects(token.groups, group)
    return False


@define(eq=False)
class Listener:
    """
    A client and what it has to receive.

    @ivar token: The one that was accepted last, if it is still valid.
    @ivar expected: The type and the order of each event.
    """

    client: Client
    token: Principal | None = None
    expected: list[tuple[int, int]] = Factory(list)


class Course:
    """
    One random course of things.
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.site = Site()
        self.groups: dict[int, str] = {}
        self.trades: dict[int, Trade] = {}
        self.published: list[TradeEvent] = []
        self.tokens: list[Principal] = []
        self.numbers = count(1)
        self.revoked: set[str | None] = set()
        # The principals of finance requests, by their orders.
        self.makers: dict[int, int] = {}
        self.listeners = [Listener(Client(self.site.sessions)) for _ in range(5)]
        self.site.events.addObserver(self.publish)

    def run(self) -> None:
        """
        Let things happen, and check each of them.
        """
        for _ in range(12):
            self.mint()
        things = (
            [self.book] * 3
            + [self.credit, self.update, self.delete, self.lookUp] * 2
            + [self.find, self.request, self.decide, self.decide]
            + [self.renew, self.revoke, self.move, self.catchUp, self.leave]
        )
        for _ in range(STEPS):
            self.random.choice(things)()
            for listener in self.listeners:
                self.hear(listener)

    def mint(self) -> None:
        """
        Make a token.
        """
        random, name = self.random, f"token-{next(self.numbers)}"
        mask = None
        if random.random() < 0.8:
            mask = ",".join(
                random.choice(("", "", "!")) + random.choice(PATTERNS)
                for _ in range(random.randint(1, 3))
            )
        login = random.choice((None, *LOGINS))
        logins = tuple(each for each in LOGINS if random.random() < 0.5)
        token = Principal(
            random.choice(LOGINS),
            random.choice(ROLES),
            inf,
            name,
            mask,
            login,
            random.choice((None, logins, logins)),
        )
        self.tokens.append(token)
        self.site.authenticator.accept(name, token)

    def maySee(self, token: Principal, login: int) -> bool:
        """
        Whether a token may see an account now.
        """
        return sees(token, login, self.groups.get(login, ""))

    def publish(self, events: Sequence[TradeEvent]) -> None:
        """
        Note what is published, and who has to receive it.
        """
        for event in events:
            assert isinstance(event.data, Trade)
            self.trades[event.order] = event.data
            self.published.append(event)
            for listener in self.listeners:
                token = listener.token
                if token is not None and self.maySee(token, event.data.login):
                    listener.expected.append((event.type, event.order))

    def ask(self, command: str, data: Any) -> tuple[Principal, Any]:
        """
        Have a client ask for something, mostly with its token.

        @return: The token, and the reply if it was accepted.
        """
        listener = self.random.choice(self.listeners)
        token = listener.token
        if token is None or self.random.random() < 0.3:
            token = self.random.choice(self.tokens)
        isAccepted = token.jti not in self.revoked
        if isAccepted:
            listener.token = token
        listener.client.asks(command, "r", data, token.jti)
        self.site.settle()
        [reply] = self.hear(listener)
        if not isAccepted:
            _same(reply["status"], 401)
            return token, None
        return token, reply

    def hear(self, listener: Listener) -> list[Any]:
        """
        Check the events that a client received.

        @return: The replies.
        """
        heard = listener.client.hears()
        events = [
            (each["type"], each["data"]["order"]) for each in heard if "event" in each
        ]
        _same(events, listener.expected)
        listener.expected = []
        return [each for each in heard if "event" not in each]

    def book(self) -> None:
        """
        Have something booked, several events at once.
        """
        for _ in range(self.random.randint(1, 4)):
            login = self.random.choice(LOGINS)
            self.site.runtime.submit(Operation("CreditIn", 7, login, 100, "x"))
        self.site.settle()

    def _judge(
        self, token: Principal, reply: Any, *expected: Any, users: bool = False
    ) -> None:
        if reply is not None:
            told = reply["status"], reply.get("error"), reply.get("message")
            if token.role not in ((0, 1, 2, 3) if users else (1, 2, 3)):
                _same(told[:2], (403, "FORBIDDEN"))
            else:
                _same(told[: len(expected)], expected)

    def credit(self) -> None:
        """
        Credit an account.
        """
        login = self.random.choice(LOGINS)
        command = self.random.choice(("CreditIn", "CreditInSync", "BalanceIn"))
        data = {"login": login, "amount": 1, "comment": "x"}
        token, reply = self.ask(command, data)
        if self.maySee(token, login):
            self._judge(token, reply, 200)
        else:
            self._judge(token, reply, 403, "FORBIDDEN")

    def _order(self) -> tuple[int, Trade | None]:
        order = self.random.randint(1, len(self.trades) + 1)
        return order, self.trades.get(order)

    def update(self) -> None:
        """
        Update an order, or try to.
        """
        login, (order, trade) = self.random.choice(LOGINS), self._order()
        data = {"login": login, "amount": 1, "comment": "y", "order": order}
        token, reply = self.ask("CreditIn", data)
        if not self.maySee(token, login):
            self._judge(token, reply, 403, "FORBIDDEN")
        elif trade is None:
            self._judge(token, reply, 200)
        elif (trade.login, trade.cmd, trade.state) != (login, 7, 3):
            self._judge(token, reply, 409, "INCORRECT_ORDER")
        else:
            self._judge(token, reply, 200)

    def delete(self) -> None:
        """
        Delete an order, or try to.
        """
        order, trade = self._order()
        command = self.random.choice(("DeleteCredit", "DeleteCreditSync"))
        token, reply = self.ask(command, {"order": order})
        if trade is None or not self.maySee(token, trade.login):
            missing = f"there is no order {order}"
            self._judge(token, reply, 404, "NOT_FOUND", missing)
        elif (trade.cmd, trade.state) != (7, 3):
            self._judge(token, reply, 409, "INCORRECT_ORDER")
        else:
            self._judge(token, reply, 200)

    def request(self) -> None:
        """
        Make a finance request.
        """
        login = self.random.choice(LOGINS)
        data = {"login": login, "cmd": 7, "amount": 1, "comment": "x"}
        token, reply = self.ask("MngCreateFinanceRequest", data)
        if self.maySee(token, login):
            self._judge(token, reply, 200)
        else:
            self._judge(token, reply, 403, "FORBIDDEN")
        if reply is not None and reply["status"] == 200:
            self.makers[reply["data"]["order"]] = token.id

    def decide(self) -> None:
        """
        Approve or decline a finance request, or try to.
        """
        order, trade = self._order()
        if self.makers and self.random.random() < 0.7:
            order = self.random.choice([*self.makers])
            trade = self.trades[order]
        forms = ("ApproveFinanceRequest", "ApproveFinanceRequestSync")
        form = self.random.choice((*forms, "DeclineFinanceRequest"))
        token, reply = self.ask(f"Mng{form}", {"order": order})
        if trade is None or not self.maySee(token, trade.login):
            missing = f"there is no order {order}"
            self._judge(token, reply, 404, "NOT_FOUND", missing)
        elif trade.state != 17:
            self._judge(token, reply, 409, "INCORRECT_ORDER")
        elif form in forms and self.makers[order] == token.id:
            self._judge(token, reply, 403, "FORBIDDEN")
        else:
            self._judge(token, reply, 200)

    def lookUp(self) -> None:
        """
        Look an order or its account up.
        """
        order, trade = self._order()
        login = 1000 if trade is None else trade.login
        command, data, missing = self.random.choice(
            (
                ("GetOperation", {"order": order}, ("NOT_FOUND", "order", order)),
                (
                    "GetTradeByOrder",
                    {"order": order},
                    ("TRADE_NOT_FOUND", "order", order),
                ),
                (
                    "GetTradeByOrders",
                    {"orders": [order]},
                    ("TRADE_NOT_FOUND", "order", order),
                ),
                (
                    "GetAccountByLogin",
                    {"login": login},
                    ("USER_NOT_FOUND", "account", login),
                ),
            )
        )
        token, reply = self.ask(command, data)
        if token.role == 0 and command == "GetOperation":
            self._judge(token, reply)
        elif trade is None or not self.maySee(token, trade.login):
            error, kind, number = missing
            there = f"there is no {kind} {number}"
            self._judge(token, reply, 404, error, there, users=True)
        else:
            self._judge(token, reply, 200, users=True)

    def find(self) -> None:
        """
        Look for all trades, and for the groups.
        """
        token, reply = self.ask("MngGetTradesByFilter", {})
        self._judge(token, reply, 200)
        if reply is not None and reply["status"] == 200:
            _same(
                [row[0] for row in reply["data"]["rows"]],
                [
                    n
                    for n in sorted(self.trades)
                    if self.maySee(token, self.trades[n].login)
                ],
            )
        token, reply = self.ask("GetGroups", {})
        self._judge(token, reply, 200)
        if reply is not None and reply["status"] == 200:
            known = {trade.login for trade in self.trades.values()} | set(self.groups)
            groups = {
                self.groups.get(login, "")
                for login in known
                if self.maySee(token, login)
            }
            _same(reply["data"]["groups"], sorted(groups))

    def renew(self) -> None:
        """
        Ask for something that is for everybody.
        """
        _, reply = self.ask("HealthCheck", {})
        if reply is not None:
            _same(reply["status"], 200)

    def revoke(self) -> None:
        """
        Revoke a token, and make another one.
        """
        token = self.random.choice(self.tokens)
        assert token.jti is not None
        self.tokens.remove(token)
        self.revoked.add(token.jti)
        self.site.authenticator.revoked.add(token.jti)
        for listener in self.listeners:
            if listener.token is token:
                listener.token = None
        self.mint()

    def move(self) -> None:
        """
        Move an account, or try to.
        """
        login, group = self.random.choice(LOGINS), self.random.choice(GROUPS)
        data = {"login": login, "group": group}
        token, reply = self.ask("MngSetAccountGroup", data)
        if reply is None:
            return
        isAdmin = token.role == 3
        _same(reply["status"], 200 if isAdmin else 403)
        if not isAdmin:
            self.site.runtime.setGroup(login, group)
            self.site.settle()
        self.groups[login] = group

    def catchUp(self) -> None:
        """
        Have a client begin at an earlier place.
        """
        listener = self.random.choice(self.listeners)
        token = listener.token
        if token is None:
            return
        place = self.random.randint(0, len(self.published))
        cursor = f"{self.site.ledger.epoch}-{place}"
        data = {**CHANNELS, "since": cursor}
        listener.client.asks("Subscribe", "s", data, token.jti)
        for event in self.published[place:]:
            assert isinstance(event.data, Trade)
            if self.maySee(token, event.data.login):
                listener.expected.append((event.type, event.order))
        self.site.settle()
        _same(len(self.hear(listener)), 1)

    def leave(self) -> None:
        """
        Have a client go, and another one come.
        """
        listener = self.listeners.pop(0)
        listener.client.session.ended()
        self.listeners.append(Listener(Client(self.site.sessions)))


def _same(found: object, expected: object) -> None:
    if found != expected:
        raise AssertionError(f"{found!r}, expected {expected!r}")


def main() -> None:
    """
    Run as many courses as the command line says.
    """
    parser = ArgumentParser(description="Try the rights of tokens.")
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plant", metavar="BUG")
    options = parser.parse_args()
    plant(options.plant)
    for seed in range(options.seed, options.seed + options.rounds):
        try:
            Course(seed).run()
        except Exception as e:
            print(f"VIOLATION: seed {seed}: {e!r}")
            sys.exit(1)
    print(f"{options.rounds} courses, nothing wrong")


if __name__ == "__main__":
    main()
