"""
Short lives of a ledger, one for each rule by which C{book.sql} judges and books: what
is booked on memory, SQLite and PostgreSQL is the same only if the rule holds.

The machine of C{tests/postgres/conformance.py} books them before it draws others.
"""

from collections.abc import Sequence
from typing import Any, Final

from attrs import define, field

from creditsync._bookingrules import Rule
from creditsync.codes import (
    OP_BALANCE_IN,
    OP_BALANCE_OUT,
    OP_CREDIT_IN,
    OP_CREDIT_OUT,
)
from creditsync.postgres._booking import Site
from creditsync.records import AnyOperation, Decision, Deletion, Operation
from tests.postgres.engine import NOW

# Which order an operation names, as the machine has it: none, the one that was made
# last, and the next that is made.
NEW: Final = -1
LAST: Final = 0
NEXT: Final = -3


@define(frozen=True)
class Batch:
    """
    What is booked together.

    @ivar later: Seconds since the batch before it.
    @ivar rules: Put into force before it, or L{None}.
    """

    operations: Sequence[AnyOperation]
    later: int = 0
    rules: tuple[Rule, ...] | None = None


@define(frozen=True)
class Life:
    """
    One life of a ledger.

    @ivar existing: The accounts that exist before, in the group C{real}.
    """

    batches: Sequence[Batch]
    site: Site = field(factory=Site)
    existing: frozenset[int] = frozenset()


def credit(amount: int = 3, order: int = NEW, login: int = 1001, **more: Any) -> Any:
    """
    A credit, which is taken away if it is negative.
    """
    command, cmd = ("CreditIn", OP_CREDIT_IN)
    if amount < 0:
        command, cmd = ("CreditOut", OP_CREDIT_OUT)
    return _operation(command, cmd, amount, order, login, **more)


def balance(amount: int = 3, order: int = NEW, login: int = 1001, **more: Any) -> Any:
    """
    The same of the balance.
    """
    command, cmd = ("BalanceIn", OP_BALANCE_IN)
    if amount < 0:
        command, cmd = ("BalanceOut", OP_BALANCE_OUT)
    return _operation(command, cmd, amount, order, login, **more)


def request(amount: int = 3, **more: Any) -> Any:
    """
    A finance request for a credit.
    """
    return _operation(
        *("MngCreateFinanceRequest", OP_CREDIT_IN, amount, NEW, 1001),
        isRequest=True,
        **more,
    )


def _operation(
    command: str, cmd: int, amount: int, order: int, login: int, **more: Any
) -> Operation:
    members = {"comment": "a", "principal": 7, "role": 1, **more}
    return Operation(command, cmd, login, amount, order=order, **members)


def decision(isApproval: bool, order: int = LAST, **more: Any) -> Any:
    """
    A decision on a finance request, by another principal if not told otherwise.
    """
    command = "MngApproveFinanceRequest" if isApproval else "MngDeclineFinanceRequest"
    return Decision(command, order, isApproval, **{"principal": 8, "role": 1, **more})


def deletion(order: int = LAST, **more: Any) -> Any:
    """
    A deletion of a credit.
    """
    cmds = frozenset({OP_CREDIT_IN, OP_CREDIT_OUT})
    return Deletion("DeleteCredit", order, cmds, principal=7, role=1, **more)


def life(*batches: "Any | list[Any] | Batch", **more: Any) -> Life:
    """
    A life with these batches, of one operation or of several.
    """

    def batch(each: Any) -> Batch:
        if isinstance(each, Batch):
            return each
        return Batch(each if isinstance(each, list) else [each])

    return Life([*map(batch, batches)], **more)


_DAY = Site(rules=(Rule("day", maxPerDay=6),))

LIVES: Final[dict[str, Life]] = {
    "a total below zero": life(credit(3), credit(-5)),
    "a total that is too great": life(credit(2**63 - 2), credit(2)),
    "the total that counts": life(balance(3), balance(-3)),
    "an account that does not exist": life(
        credit(login=1002),
        site=Site(knownAccountsOnly=True),
        existing=frozenset({1001}),
    ),
    "an account that was refused": life(credit(-3)),
    "an order that does not exist": life(deletion()),
    "an order of another login": life(credit(login=1002), credit(order=LAST)),
    "an order of another kind": life(credit(), balance(order=LAST)),
    "a deletion of another kind": life(balance(), deletion()),
    "a deletion of a deleted order": life([credit(), credit()], deletion(), deletion()),
    "an update of a deleted order": life(credit(), deletion(), credit(order=LAST)),
    "what a deletion takes away": life([credit(2), credit(5)], deletion()),
    "what an update adds": life(credit(2), credit(5, LAST)),
    "a revision": life([credit(2), credit(5, NEXT)]),
    "the times of an update": life(credit(), Batch([credit(order=LAST)], 60)),
    "times in the wrong order": life(credit(closeTime=NOW - 1)),
    "an approval by its maker": life(request(), decision(True, principal=7)),
    "an approval by its maker in one batch": life(
        [request(), decision(True, NEXT, principal=7)]
    ),
    "an approval that the site allows": life(
        request(), decision(True, principal=7), site=Site(selfApproval=True)
    ),
    "an approval of what is booked": life(credit(), decision(True)),
    "what an approval adds": life(request(), decision(True)),
    "when an approval closes": life(
        request(openTime=NOW + 1, closeTime=NOW + 1), decision(True)
    ),
    "a refusal that moves no money": life([credit(), request()], decision(False)),
    "a finance request that moves money": life(request()),
    "an update of what is not approved": life(request(), credit(order=LAST)),
    "a deletion of what is not approved": life(request(), deletion()),
    "a repetition": life(credit(key="k"), credit(key="k")),
    "a key of another principal": life(
        credit(key="k"), credit(key="k", principal=8), credit(key="k")
    ),
    "what differs under a key": life(credit(key="k"), credit(order=LAST, key="k")),
    "what differs under a key in one batch": life(
        [credit(key="k"), credit(key="k", comment="b")]
    ),
    "the comment of a decision under its key": life(
        request(), decision(True, key="k"), decision(True, key="k")
    ),
    "a key that was refused": life(credit(-3, key="k")),
    "a hash": life(credit(), credit()),
    "how much a rule allows": life(
        credit(3), site=Site(rules=(Rule("one", maxAmount=2),))
    ),
    "what a rule has counted": life([credit(4), credit(4)], site=_DAY),
    "what a rule counts on another day": life(
        credit(4), Batch([credit(4)], 86400), site=_DAY
    ),
    "the sum that has counted last": life(credit(4), credit(4), site=_DAY),
    "the event that has the totals": life(credit(2), credit(3), credit(-4)),
    "what an update counts": life(credit(5), credit(1, LAST), site=_DAY),
    "what was booked before there was a rule": life(
        credit(5), credit(1, LAST), Batch([credit(2)], 0, (Rule("day", maxPerDay=10),))
    ),
    "a rule for which no request helps": life(
        credit(3),
        site=Site(rules=(Rule("a", maxAmount=1, over="request"), Rule("b", 1))),
    ),
    "whom a rule binds": life(
        [credit(3, principal=8), credit(3)],
        site=Site(rules=(Rule("one", maxAmount=2, principals=frozenset({7})),)),
    ),
    "which group a rule binds": life(
        [credit(3), credit(3, login=1002)],
        site=Site(rules=(Rule("one", maxAmount=2, groups="!demo,re*l"),)),
        existing=frozenset({1001}),
    ),
    "for whom a rule counts": life(
        [credit(4), credit(4, login=1002)],
        site=Site(rules=(Rule("login", maxPerDay=6, per="login"),)),
    ),
}
