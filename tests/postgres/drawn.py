"""
What the machine of C{tests/postgres/conformance.py} draws.
"""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from creditsync._bookingrules import Rule
from creditsync.methods import BOOKING_METHODS, DELETING_METHODS, syncName
from creditsync.records import (
    AnyOperation,
    Condition,
    Decision,
    Deletion,
    Operation,
    TradeFilter,
)
from tests.postgres.engine import NOW

LOGINS = (1001, 1002, 1065)
KEYS = (None, None, None, "a", "b", "c")
# The commands that decide finance requests.
DECIDING = (
    ("MngApproveFinanceRequest", True),
    ("MngApproveFinanceRequestSync", True),
    ("MngDeclineFinanceRequest", False),
)

# Rules of a site, of which one set is in force at a time. Often there are none, as they
# refuse much of the rest.
RULES: tuple[tuple[Rule, ...], ...] = (
    *((),) * 5,
    (Rule("one", maxAmount=2),),
    (Rule("day", maxPerDay=6),),
    (
        Rule("login", maxPerDay=4, per="login", over="request"),
        Rule("group", maxAmount=1, groups="!demo,re*l", roles=frozenset({1, 2})),
    ),
    (
        Rule(
            "all",
            maxPerDay=5,
            per="all",
            commands=frozenset({"CreditOut", "DeleteCredit", "BalanceIn"}),
        ),
        Rule("seven", maxPerDay=8, per="role", principals=frozenset({7})),
        Rule("1002", maxAmount=0, logins=frozenset({1002}), over="request"),
    ),
)

# Which of the operations with a key is repeated, if any.
REPEATED = st.sampled_from((None, None, None, None, 0, 1, 2))


@st.composite
def operations(draw: Callable[[st.SearchStrategy[Any]], Any]) -> AnyOperation:
    """
    An operation; its order is the number of one of those made so far, from the end, or
    -1 for none, -2 for one that does not exist, and -3 for the next that is made.
    """
    principal = draw(st.sampled_from((7, 7, 8)))
    key = draw(st.sampled_from(KEYS))
    order = draw(st.integers(-3, 6))
    isSync = draw(st.booleans())
    deciding = draw(st.sampled_from((None,) * 6 + DECIDING))
    if deciding is not None:
        command, isApproval = deciding
        comment = draw(st.sampled_from(("", "", "why")))
        return Decision(command, order, isApproval, comment, principal, key, role=1)
    deleting = draw(st.sampled_from((None, None, None, *DELETING_METHODS)))
    if deleting is not None:
        return Deletion(
            syncName(deleting) if isSync else deleting.name,
            order,
            deleting.cmds,
            principal,
            key,
            role=1,
        )
    method = draw(st.sampled_from(BOOKING_METHODS))
    times = st.sampled_from((None, None, None, 0, NOW - 1, NOW + 1))
    if draw(st.sampled_from((False, False, False, True))):
        return Operation(
            "MngCreateFinanceRequest",
            method.cmd,
            draw(st.sampled_from(LOGINS)),
            method.sign * draw(st.sampled_from((1, 2, 10**18))),
            draw(st.sampled_from(("a", "b"))),
            -1,
            draw(times),
            None,
            principal,
            key,
            role=1,
            isRequest=True,
        )
    return Operation(
        syncName(method) if isSync else method.name,
        method.cmd,
        draw(st.sampled_from(LOGINS)),
        method.sign * draw(st.sampled_from((1, 2, 3, 10**18, 2**63 - 1))),
        draw(st.sampled_from(("", "a", '"\\\n\t', "é😀"))),
        draw(st.sampled_from((-1, order))),
        draw(times),
        draw(times),
        principal,
        key,
        role=draw(st.sampled_from((None, 1, 2))),
    )


# Values of each field, and some that none has.
_VALUES: dict[str, tuple[int | str, ...]] = {
    "order": (1, 2, 3, 5, 10**15),
    "login": LOGINS,
    "cmd": (6, 7, 8, 9, 2**62),
    "state": (3, 6, 17, 18),
    "profit": (-(10**18), -1, 1, 2, 2**62),
    "comment": ("", "a", "b", "%a%", "_", "[a]", "*", "\\", "é%"),
    "group": ("", "real", "r%", "R%"),
    "symbol": ("", "x"),
    "volume": (0, 1),
    "reason": (7, 8),
    "open_time": (0, NOW),
    "update_time": (NOW, NOW + 60),
}


@st.composite
def filters(draw: Callable[[st.SearchStrategy[Any]], Any]) -> TradeFilter:
    """
    A filter of trades.
    """
    conditions = []
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(sorted(_VALUES)))
        value = st.sampled_from(_VALUES[name])
        operators = ["==", "!=", ">", "<", ">=", "<=", "in", "between"]
        if isinstance(_VALUES[name][0], str):
            operators.append("like")
        operator = draw(st.sampled_from(operators))
        count = {"in": draw(st.integers(0, 3)), "between": 2}.get(operator, 1)
        values = tuple(draw(value) for _ in range(count))
        conditions.append(Condition(name, operator, values, draw(st.booleans())))
    order = st.tuples(st.sampled_from(sorted(_VALUES)), st.booleans())
    seen = draw(st.sampled_from(("all", "real", "none")))
    return TradeFilter(
        tuple(conditions),
        tuple(draw(st.lists(order, max_size=2))),
        draw(st.sampled_from((1, 2, 1000))),
        draw(st.sampled_from((0, 0, 1))),
        lambda group: seen == "all" or group == seen,
        10.0,
    )
