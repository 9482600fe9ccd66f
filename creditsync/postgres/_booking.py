"""
Batches of operations, as the function of C{book.sql} takes them, and its verdicts.

The function judges; here is only what its words mean for the client. A verdict comes as
one row for each operation, in the order of submission.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from attrs import Factory, define
from twisted.internet.defer import Deferred

from creditsync._bookingrules import Rule
from creditsync._rulebook import tooMuchInOne, tooMuchOnOneDay
from creditsync.errors import (
    Forbidden,
    IdempotencyKeyReused,
    IncorrectOrder,
    InvalidData,
    LimitExceeded,
    NoMoney,
    NotFound,
    Refusal,
    UserNotFound,
)
from creditsync.methods import TOTAL_OF
from creditsync.postgres._limits import allowed
from creditsync.postgres._schema import STREAM
from creditsync.records import (
    AnyOperation,
    Deletion,
    Operation,
    Reservation,
    Trade,
)

# The SQLSTATE of a node that was shut out.
FENCED: Final = "CS001"

# The kinds of operations.
_MAKES, _REQUESTS, _DELETES, _APPROVES, _DECLINES = range(5)

# The types of the function's parameters, in their order.
_PARAMETERS: Final = (
    "integer",
    "integer",
    "bigint",
    "bigint",
    "bigint",
    "boolean",
    "boolean",
    "text[]",
    "numeric[]",
    "numeric[]",
    "boolean[]",
    "bigint[]",
    "text[]",
    "bigint[]",
    "smallint[]",
    "bigint[]",
    "bigint[]",
    "smallint[]",
    "bigint[]",
    "text[]",
    "bigint[]",
    "bigint[]",
    "bigint[]",
    "bigint[]",
    "text[]",
    "bigint[]",
    "smallint[]",
    "integer[]",
)

# Those with a value for each operation.
_COLUMNS: Final = _PARAMETERS[-14:]

BOOK: Final = (
    f"SELECT * FROM book_1({', '.join(f'%s::{each}' for each in _PARAMETERS)})"
)

# The verdicts on what was booked at these places.
VERDICTS: Final = """
    SELECT item, 'booked', NULL, seq, type, "order", login, cmd, state, profit, comment,
           open_time, close_time, timestamp, balance, credit,
           (SELECT coalesce(max(number), 0) FROM moved)
    FROM event WHERE stream = %s AND seq BETWEEN %s AND %s ORDER BY seq
"""


class Verdict(NamedTuple):
    """
    What became of an operation.

    @ivar item: Its number in the batch, from 1.
    @ivar verdict: C{booked}; C{replay} if it was booked before under its key, and
        C{twin} if that was in this batch; or why it was refused.
    @ivar detail: The member that differs, of a C{key reused}; the number of the rule
        that does not allow it, whose C{profit} is what would count.
    @ivar seq: Its place; for a C{twin} the item that was booked.
    @ivar moves: The number of the last move of an account to another group.
    """

    item: int
    verdict: str
    detail: str | None
    seq: int | None
    type: int | None
    order: int
    login: int
    cmd: int
    state: int
    profit: int
    comment: str
    openTime: int
    closeTime: int
    timestamp: int
    balance: int | None
    credit: int | None
    moves: int

    @property
    def trade(self) -> Trade:
        """
        The trade as it was booked.
        """
        return Trade(*self[5:14])


@define(frozen=True)
class Site:
    """
    What a site allows.

    @ivar knownAccountsOnly: Refuse a login without an account.
    @ivar selfApproval: A principal may approve its own finance request.
    @ivar rules: Bound what may be booked. They are registered.
    """

    knownAccountsOnly: bool = False
    selfApproval: bool = False
    rules: tuple[Rule, ...] = ()


@define(eq=False)
class Submission:
    """
    An operation on its way into a batch.

    @ivar fresh: The order that is reserved for it, which it gets if it names none that
        exists; 0 if it can only change an order.
    @ivar reserved: Fires with its reservation, or fails with what refuses it.
    @ivar settled: Fires after that, for those who look it up.
    """

    operation: AnyOperation
    fresh: int
    reserved: "Deferred[Reservation]" = Factory(Deferred)
    settled: "list[Deferred[None]]" = Factory(list)


def values(
    node: int,
    incarnation: int,
    batch: int,
    now: int,
    site: Site,
    submissions: Sequence[Submission],
) -> tuple[Any, ...]:
    """
    The parameters of L{BOOK}.

    @param now: The time of booking, in UNIX seconds.
    """
    keys = sorted(
        {
            (each.operation.principal, each.operation.key)
            for each in submissions
            if each.operation.key is not None
        }
    )
    numberOf: dict[tuple[int, str | None], int] = {
        pair: number for number, pair in enumerate(keys, 1)
    }
    orders = {each.operation.order for each in submissions}
    orders.update(each.fresh for each in submissions)
    orders.discard(0)
    columns = zip(*(_row(each, numberOf) for each in submissions), strict=True)
    return (
        STREAM,
        node,
        incarnation,
        batch,
        now,
        site.knownAccountsOnly,
        site.selfApproval,
        *allowed(site.rules),
        _array(principal for principal, _ in keys),
        _texts(key for _, key in keys),
        _array(sorted(orders)),
        *(
            (_texts if type == "text[]" else _array)(column)
            for type, column in zip(_COLUMNS, columns, strict=True)
        ),
    )


def _array(column: Iterable[int | None]) -> str:
    """
    Write an array as PostgreSQL does, in a quarter of the time that psycopg takes.
    """
    return "{" + ",".join(map(str, column)).replace("None", "NULL") + "}"


def _texts(column: Iterable[str | None]) -> str:
    return "{" + ",".join(map(_quoted, column)) + "}"


def _quoted(text: str | None) -> str:
    if text is None:
        return "NULL"
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _row(
    submission: Submission, numberOf: Mapping[tuple[int, str | None], int]
) -> tuple[Any, ...]:
    asked = submission.operation
    number = numberOf.get((asked.principal, asked.key))
    if not isinstance(asked, Operation):
        kind, deletable, comment = _DELETES, None, None
        if isinstance(asked, Deletion):
            deletable = sum(1 << cmd for cmd in asked.cmds)
        else:
            kind = _APPROVES if asked.isApproval else _DECLINES
            comment = asked.comment
        return (
            kind,
            deletable,
            None,
            None,
            None,
            comment,
            asked.order,
            None,
            None,
            None,
            asked.command,
            asked.principal,
            asked.role,
            number,
        )
    return (
        _REQUESTS if asked.isRequest else _MAKES,
        None,
        asked.login,
        asked.cmd,
        asked.amount,
        asked.comment,
        asked.order,
        asked.openTime,
        asked.closeTime,
        submission.fresh,
        asked.command,
        asked.principal,
        asked.role,
        number,
    )


def refusal(verdict: Verdict, asked: AnyOperation, site: Site) -> Refusal | None:
    """
    What the client is told, unless the operation was booked, now or before.

    @param site: By which it was judged.
    """
    if verdict.verdict in _OVER:
        assert verdict.detail is not None
        rule = site.rules[int(verdict.detail) - 1]
        return LimitExceeded(_OVER[verdict.verdict](rule, verdict.profit), rule.name)
    make = _REFUSALS.get(verdict.verdict)
    return None if make is None else make(verdict, asked)


# How much a rule does not allow.
_OVER: Final[Mapping[str, Callable[[Rule, int], str]]] = {
    "over amount": tooMuchInOne,
    "over day": lambda rule, _: tooMuchOnOneDay(rule),
}


def _otherLogin(verdict: Verdict, asked: AnyOperation) -> Refusal:
    assert isinstance(asked, Operation)
    return IncorrectOrder(f"order {asked.order} does not belong to login {asked.login}")


def _tooGreat(verdict: Verdict, asked: AnyOperation) -> Refusal:
    return InvalidData(
        f"data.amount would take the {TOTAL_OF[verdict.cmd]} of account"
        f" {verdict.login} above 92233720368.54775807"
    )


def _times(verdict: Verdict, asked: AnyOperation) -> Refusal:
    return InvalidData(
        "data.close_time must not be before data.open_time"
        f" ({verdict.closeTime} is before {verdict.openTime})"
    )


def _keyReused(verdict: Verdict, asked: AnyOperation) -> Refusal:
    assert verdict.detail is not None
    return IdempotencyKeyReused(verdict.detail, verdict.order)


_REFUSALS: Final[Mapping[str, Callable[[Verdict, AnyOperation], Refusal]]] = {
    "not found": lambda _, asked: NotFound(f"there is no order {asked.order}"),
    "other login": _otherLogin,
    "other kind": lambda _, asked: IncorrectOrder(
        f"order {asked.order} is a different kind of transaction"
    ),
    "deleted": lambda _, asked: IncorrectOrder(f"order {asked.order} was deleted"),
    "not approved": lambda _, asked: IncorrectOrder(
        f"order {asked.order} is a finance request that was not approved"
    ),
    "no request": lambda _, asked: IncorrectOrder(
        f"order {asked.order} is not a finance request that waits for approval"
    ),
    "own request": lambda _, asked: Forbidden(
        f"finance request {asked.order} was made by this token's principal: another one"
        " has to approve it"
    ),
    "times": _times,
    "no account": lambda verdict, _: UserNotFound(
        f"there is no account {verdict.login}"
    ),
    "no money": lambda verdict, _: NoMoney(
        f"account {verdict.login} does not have enough {TOTAL_OF[verdict.cmd]}"
    ),
    "too great": _tooGreat,
    "key reused": _keyReused,
}
