"""
A model of the finance methods according to C{docs/protocol.rst}, as simple as
possible: every suite compares the server with it, and it shares nothing with
the server.

Money is an integer number of 10⁻⁸ units, time is UNIX seconds. Nothing here is
ever pending: an operation is booked at once or refused, and a total is added
up each time it is needed.
"""

import math
from collections.abc import Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final, NamedTuple

from attrs import define, field

# The types of trade events, and the states of a trade: booked, deleted, or
# requested by an operation of this type.
ADD, UPDATE, DELETE = 0, 1, 2
BOOKED, DELETED = 3, 6
REQUESTED: Final = {ADD: 10, UPDATE: 11, DELETE: 12}
# A finance request that waits for approval, and one that was declined.
WAITS, DECLINED = 17, 18

# Manager, dealer and admin: the roles that may use the finance methods.
ROLES: Final = (1, 2, 3)
# The role of a user, who may see only one account.
USER: Final = 0


class Method(NamedTuple):
    """
    A method that makes or updates a trade.

    @ivar cmd: The kind of its trades.
    @ivar total: Which of an account's totals they count for.
    @ivar sign: The sign of their amounts.
    @ivar schema: The published schema of its data.
    """

    cmd: int
    total: str
    sign: int
    schema: str


METHODS: Final = {
    "BalanceIn": Method(6, "balance", 1, "balance_in"),
    "CreditIn": Method(7, "credit", 1, "credit_in"),
    "BalanceOut": Method(8, "balance", -1, "balance_out"),
    "CreditOut": Method(9, "credit", -1, "credit_out"),
}
# The methods that delete a trade, by the total for which it counts.
DELETIONS: Final = {"balance": "DeleteBalance", "credit": "DeleteCredit"}
DELETION_SCHEMA: Final = "delete"

NAMES: Final = {method.cmd: name for name, method in METHODS.items()}
TOTALS: Final = {method.cmd: method.total for method in METHODS.values()}

# The members of a trade event that finance trades don't use.
_NEUTRAL: Final = {
    "symbol": "",
    "volume": 0,
    "open_price": 0,
    "close_price": 0,
    "sl": 0,
    "tp": 0,
    "storage": 0,
    "commission": 0,
    "reason": 7,
}


class Trade(NamedTuple):
    """
    A trade at one moment, with the member names of the wire and the ledger's
    columns.
    """

    order: int
    login: int
    cmd: int
    state: int
    profit: int
    comment: str
    open_time: int
    close_time: int
    timestamp: int

    @property
    def account(self) -> tuple[int, str]:
        """
        The total for which it counts: a login, and the name of the total.
        """
        return self.login, TOTALS[self.cmd]

    @property
    def counted(self) -> int:
        """
        The amount that it adds to that total.
        """
        return self.profit if self.state == BOOKED else 0


# As in the ledger's tables.
COLUMNS: Final = ", ".join(f'"{name}"' for name in Trade._fields)


def units(amount: int | float | Decimal) -> int | None:
    """
    An amount in 10⁻⁸ units, or L{None} if it has more than 8 decimals that are
    not the rounding error of a double ("Money and time").

    @param amount: A C{float} stands for the shortest decimal that reads as it.
    """
    exact = Fraction(Decimal(repr(amount)) if isinstance(amount, float) else amount)
    nearest = Fraction(round(exact * 10**8), 10**8)
    if exact == nearest:
        return round(exact * 10**8)
    # A number other than 0 must not become 0.
    unit = Fraction(math.ulp(float(nearest))) if nearest else Fraction(0)
    distances = abs(exact - nearest), abs(Fraction(float(amount)) - nearest)
    return round(nearest * 10**8) if min(distances) <= unit else None


def eventData(trade: Trade) -> dict[str, Any]:
    """
    The data of the event of a trade ("Trade events").
    """
    amount = Decimal(trade.profit).scaleb(-8)
    return {**trade._asdict(), "profit": amount, **_NEUTRAL}


def tradeOf(data: Mapping[str, Any]) -> Trade:
    """
    The trade in an event's data.
    """
    members = {name: data[name] for name in Trade._fields}
    profit = units(data["profit"])
    assert profit is not None, data
    return Trade(**{**members, "profit": profit})


def underWay(type: int, request: "Request") -> int:
    """
    The state of a trade whose last operation is not booked yet.
    """
    return REQUESTED[ADD if request.approves else type]


def acceptedData(type: int, trade: Trade) -> dict[str, Any]:
    """
    The data of the reply to the asynchronous form of a command ("The finance
    family").
    """
    return {
        "accepted": True,
        "order": trade.order,
        "state": REQUESTED[type],
        "login": trade.login,
        "cmd": trade.cmd,
        "amount": Decimal(trade.profit).scaleb(-8),
    }


def totals(trades: Iterable[Trade]) -> dict[int, tuple[int, int]]:
    """
    The balance and the credit of each login that has a trade.
    """
    sums: dict[int, dict[str, int]] = {}
    for trade in trades:
        login, total = trade.account
        sums.setdefault(login, {"balance": 0, "credit": 0})[total] += trade.counted
    return {login: (each["balance"], each["credit"]) for login, each in sums.items()}


class Request(NamedTuple):
    """
    The content of a finance command; a deletion has nothing but its order, and the
    decision of a finance request its order and a comment.

    @ivar cmd: The kind of trade, or L{None} for a deletion.
    @ivar deletes: The total for which a trade counts that may be deleted.
    @ivar amount: Signed, in 10⁻⁸ units.
    @ivar isRequest: Whether it makes a finance request.
    @ivar approves: Whether it approves one, or declines it; L{None} if neither.
    """

    command: str
    cmd: int | None = None
    deletes: str | None = None
    login: int = 0
    amount: int = 0
    comment: str = ""
    order: int = 0
    open_time: int | None = None
    close_time: int | None = None
    principal: int = 0
    key: str | None = None
    isRequest: bool = False
    approves: bool | None = None

    @property
    def content(self) -> tuple[object, ...]:
        """
        The content that two requests under one key must have in common ("Safe
        retries").
        """
        return (
            self.command,
            self.cmd,
            self.login,
            self.amount,
            self.comment,
            self.order,
            self.open_time,
            self.close_time,
        )

    def about(self, earlier: "Request") -> "Request":
        """
        This request as it compares with an earlier one: a decision without a comment
        has any.
        """
        if self.approves is None or self.comment:
            return self
        return self._replace(comment=earlier.comment)


def made(request: Request, before: Trade | None, order: int, now: int) -> Trade:
    """
    The trade that a request would make, whether it is booked or refused.

    @param before: The trade that it changes, if there is one.
    @param order: The number of a new one.
    """
    if request.approves is not None:
        assert before is not None, request
        return before._replace(
            state=BOOKED if request.approves else DECLINED,
            comment=request.comment or before.comment,
            close_time=(
                max(now, before.open_time) if request.approves else before.close_time
            ),
            timestamp=now,
        )
    if request.cmd is None:
        assert before is not None, request
        return before._replace(state=DELETED, timestamp=now)
    opened, closed = (now, now) if before is None else (before[6], before[7])
    return Trade(
        order if before is None else before.order,
        request.login,
        request.cmd,
        WAITS if request.isRequest else BOOKED,
        request.amount,
        request.comment,
        opened if request.open_time is None else request.open_time,
        closed if request.close_time is None else request.close_time,
        now,
    )


class Booked(NamedTuple):
    """
    One operation that was booked.

    @ivar asked: The caller's name for it, see L{Family.ask}.
    """

    type: int
    trade: Trade
    request: Request
    asked: object


@define(eq=False)
class Family:
    """
    A ledger, and the outcome of each request.

    @ivar trades: Each order's trade, in its current state.
    @ivar history: All that was booked, in order.
    @ivar keys: The booking under each key of each principal, as its place in
        the history.
    """

    nextOrder: int = 1
    trades: dict[int, Trade] = field(factory=dict)
    history: list[Booked] = field(factory=list)
    keys: dict[tuple[int, str], int] = field(factory=dict)

    def ask(self, request: Request, now: int, asked: object = None) -> str | int:
        """
        Book a request, or refuse it.

        @return: The name of the error, or the place in the history of the
            booking that answers it.
        """
        if request.key is not None:
            place = self.keys.get((request.principal, request.key))
            if place is not None:
                earlier = self.history[place].request
                isSame = earlier.content == request.about(earlier).content
                return place if isSame else "IDEMPOTENCY_KEY_REUSED"
        before = self.trades.get(request.order)
        error = self._refusal(request, before, now)
        if error is not None:
            return error
        type = ADD if before is None else UPDATE
        if request.deletes is not None:
            type = DELETE
        trade = made(request, before, self.nextOrder, now)
        if request.approves is not None:
            request = request._replace(comment=trade.comment)
        self.nextOrder += type == ADD
        self.trades[trade.order] = trade
        self.history.append(Booked(type, trade, request, asked))
        place = len(self.history) - 1
        if request.key is not None:
            self.keys[request.principal, request.key] = place
        return place

    def maker(self, order: int) -> int:
        """
        The principal that has made a finance request.
        """
        [principal] = [
            each.request.principal
            for each in self.history
            if each.trade.order == order and each.type == ADD
        ]
        return principal

    def _refusal(self, request: Request, before: Trade | None, now: int) -> str | None:
        if request.approves is not None:
            if before is None:
                return "NOT_FOUND"
            if before.state != WAITS:
                return "INCORRECT_ORDER"
            if request.approves and self.maker(before.order) == request.principal:
                return "FORBIDDEN"
            return self._broke(request, before, now)
        if request.cmd is None:
            if before is None:
                return "NOT_FOUND"
            isOfKind = before.account[1] == request.deletes
        else:
            same = request.login, request.cmd
            isOfKind = before is None or (before.login, before.cmd) == same
        if not isOfKind or (before is not None and before.state != BOOKED):
            return "INCORRECT_ORDER"
        return self._broke(request, before, now)

    def _broke(self, request: Request, before: Trade | None, now: int) -> str | None:
        trade = made(request, before, self.nextOrder, now)
        if trade.close_time < trade.open_time:
            return "INVALID_DATA"
        after = totals({**self.trades, trade.order: trade}.values())
        return "TRADE_NO_MONEY" if min(after[trade.login]) < 0 else None
