"""
Searches by the filters of clients, on a connection that is used for nothing else.

As in L{creditsync.ledger._filtering}, no word of a client becomes SQL text. A search is
several statements in one read-only transaction, whose snapshot is of one moment.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import psycopg

from creditsync._fields import FIELDS, GROUP, LIKE, OPERATORS, Kind
from creditsync.codes import MAX_TOTAL, TS_CLOSED_NORMAL
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
_IS_SEEN: Final = (
    'login IN (SELECT login FROM account WHERE "group" = ANY (%s::text[]))'
)
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
        where, values = _where(filter, known)
        [sums] = await bounded(_sums(where), values)
        count, balance, credit = sums
        orders: list[int] = []
        if count > filter.offset:
            order = _ordered(filter)
            found = await bounded(
                f'SELECT "order" FROM trade WHERE {where} ORDER BY {order}'
                " LIMIT %s OFFSET %s",
                [*values, filter.limit, filter.offset],
            )
            orders = [number for (number,) in found]
        pages = []
        for start in range(0, len(orders), _PAGE):
            numbers = orders[start : start + _PAGE]
            trades: dict[int, GroupedTrade] = {
                row[0]: (Trade(*row[:-1]), row[-1])
                for row in await bounded(_TRADES, [numbers])
            }
            pages.append(page([trades[number] for number in numbers]))
        return FoundTrades(pages, count, int(balance), int(credit))
    except psycopg.errors.QueryCanceled as e:
        raise TookTooLong() from e
    finally:
        with suppress(ConnectionLost):
            await execute("ROLLBACK")


def _where(filter: TradeFilter, known: Sequence[str]) -> tuple[str, list[Any]]:
    """
    The conditions in SQL, and their parameters.

    @param known: All groups.
    """
    terms, values = [], []
    for condition in filter.conditions:
        term, parameters = _condition(condition)
        terms.append(f"NOT ({term})" if condition.isNegated else term)
        values += parameters
    seen = [group for group in known if filter.seesGroup(group)]
    if len(seen) < len(known):
        terms.append(_IS_SEEN)
        values.append(seen)
    return " AND ".join(terms) or "true", values


def _condition(condition: Condition) -> tuple[str, list[Any]]:
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
        return f"{_GROUP} {_BYTES}"
    if field.member is None:
        return f"{field.neutral!r}"
    return f'"{field.member}"' + (f" {_BYTES}" if field.kind is Kind.TEXT else "")


def _sums(where: str) -> str:
    """
    The statement for the number of the selected trades and their totals.
    """
    sums = ["count(*)"]
    for total in (BALANCE, CREDIT):
        cmds = ", ".join(str(cmd) for cmd, name in TOTAL_OF.items() if name == total)
        counts = f"state = {TS_CLOSED_NORMAL} AND cmd IN ({cmds})"
        sums.append(f"coalesce(sum(profit) FILTER (WHERE {counts}), 0)")
    return f"SELECT {', '.join(sums)} FROM trade WHERE {where}"


def _ordered(filter: TradeFilter) -> str:
    order = [
        _expression(name) + (" DESC" if isDescending else "")
        for name, isDescending in filter.orderBy
        # A value that all trades have does not order them, and SQL would take the
        # number 7 for the seventh column.
        if FIELDS[name].neutral is None
    ]
    return ", ".join([*order, '"order"'])
