"""
Searches by the filters of clients, on a connection that is used for nothing else.

As in L{creditsync.ledger._filtering}, no word of a client becomes SQL text. A search is
several statements in one read-only transaction, whose snapshot is of one moment.

Whether a trade may be seen is looked at before everything else: otherwise the time of a
search would tell how many hidden trades meet the other conditions.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias, TypeVar

import psycopg

from creditsync._fields import FIELDS, GROUP, LIKE, OPERATORS, Kind
from creditsync.codes import MAX_TOTAL, TS_CLOSED_NORMAL, TS_FINANCE_OPEN_PENDING
from creditsync.errors import TookTooLong
from creditsync.methods import BALANCE, CREDIT, TOTAL_OF
from creditsync.postgres._connection import Connection, ConnectionLost
from creditsync.records import (
    TRADE_MEMBERS,
    Condition,
    FoundTrades,
    GroupedTrade,
    Trade,
    TradeFilter,
)

_T = TypeVar("_T")

# Trades of a page. To decode and to encode one takes about 1 ms of the reactor's time.
_PAGE: Final = 400

GROUPS: Final = 'SELECT DISTINCT "group" FROM account ORDER BY "group"'

COLUMNS: Final = ", ".join(f'"{name}"' for name in TRADE_MEMBERS)

_GROUP: Final = '(SELECT "group" FROM account WHERE account.login = trade.login)'
_IS_SEEN: Final = '"group" = ANY (%s::text[])'
# What may be seen. OFFSET keeps PostgreSQL from looking at other conditions first.
_OF_ACCOUNTS: Final = """
    (SELECT * FROM trade WHERE login IN (SELECT login FROM account WHERE {}) OFFSET 0)
    AS trade
"""
# Fields that are the same for all trades of an account.
_OF_ACCOUNT: Final = ("login", GROUP)

# A condition in SQL, and its parameters.
_Term: TypeAlias = tuple[str, list[Any]]

# What selects the finance requests that wait for approval. Their index is for this
# very number.
_WAITS: Final = Condition("state", "==", (TS_FINANCE_OPEN_PENDING,))

# Seconds of matching groups with masks, after which the reactor has its turn.
_SLICE: Final = 0.001

_TRADES: Final = f'SELECT {COLUMNS}, {_GROUP} FROM trade WHERE "order" = ANY (%s)'

# In the order of bytes, as in other ledgers, whatever the database sorts by.
_BYTES: Final = 'COLLATE "C"'


async def search(
    connection: Connection,
    filter: TradeFilter,
    page: Callable[[Sequence[GroupedTrade]], _T],
    now: Callable[[], float] = time.monotonic,
) -> FoundTrades[_T]:
    """
    Find the trades that a filter selects; see L{creditsync.interfaces.ILookups.search}.

    @raise TookTooLong: The filter's time is over.
    """
    end = now() + filter.seconds
    execute = connection.execute

    async def bounded(statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        left = int((end - now()) * 1000)
        if left <= 0:
            raise TookTooLong()
        await execute(f"SET LOCAL statement_timeout = {left}")
        return await execute(statement, values)

    await execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        known = [group for (group,) in await bounded(GROUPS, ())]
        seen = []
        began = now()
        for group in known:
            if filter.seesGroup(group):
                seen.append(group)
            if now() - began > _SLICE:
                await bounded("SELECT", ())
                began = now()
        trades, where, values = _where(filter, None if seen == known else seen)
        [sums] = await bounded(f"SELECT {_SUMS} FROM {trades} WHERE {where}", values)
        count, balance, credit = sums
        orders: list[int] = []
        if count > filter.offset:
            order = _ordered(filter)
            rows = await bounded(
                f'SELECT "order" FROM {trades} WHERE {where} ORDER BY {order}'
                " LIMIT %s OFFSET %s",
                [*values, filter.limit, filter.offset],
            )
            orders = [number for (number,) in rows]
        pages = []
        for start in range(0, len(orders), _PAGE):
            numbers = orders[start : start + _PAGE]
            rows = await bounded(_TRADES, [numbers])
            found = {row[0]: (Trade(*row[:-1]), row[-1]) for row in rows}
            pages.append(page([found[number] for number in numbers]))
        return FoundTrades(pages, count, int(balance), int(credit))
    except psycopg.errors.QueryCanceled as e:
        raise TookTooLong() from e
    finally:
        with suppress(ConnectionLost):
            await execute("ROLLBACK")


def _where(
    filter: TradeFilter, seen: Sequence[str] | None
) -> tuple[str, str, list[Any]]:
    """
    The trades that may be seen, the conditions in SQL, and the parameters of both.

    @param seen: The groups that may be seen, or L{None} for all.
    """
    ofAccount: list[_Term] = []
    ofTrade: list[_Term] = []
    for condition in filter.conditions:
        isOfAccount = condition.field in _OF_ACCOUNT
        (ofAccount if isOfAccount else ofTrade).append(_condition(condition))
    if seen is not None:
        ofAccount.insert(0, (_IS_SEEN, [seen]))
    elif all(condition.field != GROUP for condition in filter.conditions):
        where, values = _all(ofAccount + ofTrade)
        return "trade", where, values
    accounts, first = _all(ofAccount)
    where, values = _all(ofTrade)
    return _OF_ACCOUNTS.format(accounts), where, first + values


def _all(terms: Sequence[_Term]) -> _Term:
    values = [value for _, each in terms for value in each]
    return " AND ".join(sql for sql, _ in terms) or "true", values


def _condition(condition: Condition) -> _Term:
    term, values = _term(condition)
    return f"NOT ({term})" if condition.isNegated else term, values


def _term(condition: Condition) -> _Term:
    if condition == _WAITS:
        return f"state = {TS_FINANCE_OPEN_PENDING}", []
    field, given = _expression(condition.field), list(condition.values)
    kind = "text" if FIELDS[condition.field].kind is Kind.TEXT else "bigint"
    if kind == "bigint" and any(abs(int(each)) > MAX_TOTAL for each in given):
        kind = "numeric"
    if condition.operator == "in":
        return f"{field} = ANY (%s::{kind}[])", [given]
    if condition.operator == "between":
        return f"{field} BETWEEN %s::{kind} AND %s::{kind}", given
    if condition.operator == LIKE:
        # No character escapes another.
        return f"{field} LIKE %s::text ESCAPE ''", given
    return f"{field} {OPERATORS[condition.operator]} %s::{kind}", given


def _expression(name: str) -> str:
    """
    A field in SQL.
    """
    field = FIELDS[name]
    if name == GROUP:
        return f'"group" {_BYTES}'
    if field.member is None:
        return f"{field.neutral!r}"
    return f'"{field.member}"' + (f" {_BYTES}" if field.kind is Kind.TEXT else "")


def _counted(total: str) -> str:
    cmds = ", ".join(str(cmd) for cmd, name in TOTAL_OF.items() if name == total)
    counts = f"state = {TS_CLOSED_NORMAL} AND cmd IN ({cmds})"
    return f"coalesce(sum(profit) FILTER (WHERE {counts}), 0)"


# The number of the selected trades, and their totals.
_SUMS: Final = f"count(*), {_counted(BALANCE)}, {_counted(CREDIT)}"


def _ordered(filter: TradeFilter) -> str:
    order = [
        (f"{_GROUP} {_BYTES}" if name == GROUP else _expression(name))
        + (" DESC" if isDescending else "")
        for name, isDescending in filter.orderBy
        # A value that all trades have does not order them, and SQL would take the
        # number 7 for the seventh column.
        if FIELDS[name].neutral is None
    ]
    return ", ".join([*order, '"order"'])
