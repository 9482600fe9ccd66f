"""
Searches in a ledger by the filters of clients.

No word of a client becomes SQL text: fields and operators are looked up in the tables
of L{creditsync._fields}, and values are parameters.

A search is several statements in one read transaction: the sums over all selected
trades, the numbers of those to return, and these trades in pages. SQLite makes each
page one JSON text, because a thread needs the GIL after each row that it fetches, and
beside a busy reactor can wait 5 ms for it each time. Sorting only the numbers
takes less memory than sorting the trades.

The only index is the order, and one of the finance requests that wait for approval, so
nearly every other filter scans all trades. A filter is given up when its time is over.

Whether a trade may be seen is the first condition, although it is an expensive one.
Otherwise the time of a search would tell how many hidden trades meet the others, and a
client can make those as expensive as it likes.
"""

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from typing import Final, TypeAlias, TypeVar

from msgspec.json import decode, encode
from msgspec.structs import astuple

from creditsync._fields import FIELDS, GROUP, LIKE, OPERATORS
from creditsync.codes import TS_CLOSED_NORMAL, TS_FINANCE_OPEN_PENDING, UNITS_PER_ONE
from creditsync.errors import TookTooLong
from creditsync.ledger._schema import COLUMNS, columns
from creditsync.methods import BALANCE, CREDIT, TOTAL_OF
from creditsync.records import (
    TRADE_MEMBERS,
    Account,
    Condition,
    FoundTrades,
    GroupedTrade,
    Trade,
    TradeFilter,
)

_T = TypeVar("_T")

# Trades of a page. To decode and to encode one keeps the GIL for about 1 ms.
_PAGE: Final = 400

# Seconds after which a statement whose time is over is interrupted again: an interrupt
# between two statements has no effect.
_AGAIN: Final = 0.01

# Seconds of matching groups with masks, after which other threads get the GIL for the
# time of a wake-up. Otherwise a reactor would wait for 5 ms each time it needs it.
_SLICE: Final = 0.001
_REST: Final = 0.0001

# A condition in SQL, and its parameters.
_Term: TypeAlias = tuple[str, list[int | str | None]]

_GROUP: Final = '(SELECT "group" FROM account WHERE account.login = trade.login)'

# A condition with the parameters' places. json_each() makes a list of one parameter.
_FORMS: Final = {
    **{name: f"{{}} {sql} ?" for name, sql in OPERATORS.items()},
    "in": "{} IN (SELECT value FROM json_each(?))",
    "between": "{} BETWEEN ? AND ?",
}

# What selects the finance requests that wait for approval.
_WAITS: Final = Condition("state", "==", (TS_FINANCE_OPEN_PENDING,))
_WAITING: Final = "trade INDEXED BY trade_waiting"

# Fields that are the same for all trades of an account, in SQL about accounts.
_OF_ACCOUNT: Final = {"login": "login", GROUP: '"group"'}

_IS_SEEN: Final = '"group" IN (SELECT value FROM json_each(?))'

_TRADES: Final = f"""
    SELECT json_group_array(json_array({COLUMNS}, {_GROUP}))
    FROM trade WHERE "order" IN (SELECT value FROM json_each(?))
"""


def groups(connection: sqlite3.Connection) -> list[str]:
    """
    The groups of all accounts, each once.
    """
    return [
        group
        for (group,) in connection.execute(
            'SELECT DISTINCT "group" FROM account ORDER BY "group"'
        )
    ]


def search(
    connection: sqlite3.Connection,
    filter: TradeFilter,
    page: Callable[[Sequence[GroupedTrade]], _T],
    now: Callable[[], float] = time.monotonic,
) -> FoundTrades[_T]:
    """
    Find the trades that a filter selects; see L{creditsync.interfaces.ILookups.search}.

    @param connection: In a transaction, so that all of it is as it is at one moment.
    @raise TookTooLong: The filter's time is over.
    """
    with _bounded(connection, filter.seconds, now) as check:
        where, values = _where(connection, filter, check)
        trades = _WAITING if _WAITS in filter.conditions else "trade"
        [sums] = connection.execute(_sums(trades, where), values)
        count, first, last, balance, balanceRest, credit, creditRest = sums
        orders = []
        if count > filter.offset:
            # Those between these two need not be looked at again.
            period = f'"order" BETWEEN ? AND ? AND {where}'
            orders = _orders(connection, filter, trades, period, [first, last, *values])
        pages = []
        for start in range(0, len(orders), _PAGE):
            check()
            pages.append(page(_trades(connection, orders[start : start + _PAGE])))
        return FoundTrades(
            pages,
            count,
            balance * UNITS_PER_ONE + balanceRest,
            credit * UNITS_PER_ONE + creditRest,
        )


@contextmanager
def _bounded(
    connection: sqlite3.Connection, seconds: float, now: Callable[[], float]
) -> Iterator[Callable[[], None]]:
    """
    Bound the time of what is executed.

    SQLite looks for an interrupt at each row, without the GIL. A progress handler would
    need the GIL, and so could be called only once in a million instructions, which take
    minutes if they compare long texts with patterns.

    @return: A function that checks the time between the statements.
    """
    end = now() + seconds
    hasEnded = Event()

    def check() -> None:
        if now() > end:
            raise TookTooLong()

    def watch() -> None:
        pause = seconds
        while not hasEnded.wait(pause):
            connection.interrupt()
            pause = _AGAIN

    watching = Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield check
    except sqlite3.OperationalError as e:
        if e.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        raise TookTooLong() from None
    finally:
        # The connection may be closed next.
        hasEnded.set()
        watching.join()


def _where(
    connection: sqlite3.Connection, filter: TradeFilter, check: Callable[[], None]
) -> _Term:
    """
    All conditions.
    """
    ofAccount, ofTrade = [], []
    for condition in filter.conditions:
        column = _OF_ACCOUNT.get(condition.field)
        if column is None:
            ofTrade.append(_term(condition, _expression(condition.field)))
        else:
            ofAccount.append(_term(condition, column))
    known = groups(connection)
    seen = _seen(known, filter.seesGroup, check)
    # It is left out if it would select all, which is as certain as with it: the
    # transaction sees no other groups.
    if len(seen) < len(known):
        ofAccount.insert(0, (_IS_SEEN, [encode(seen).decode()]))
    elif all(condition.field != GROUP for condition in filter.conditions):
        return _all(ofAccount + ofTrade)
    return _all([_ofAccounts(connection, ofAccount), *ofTrade])


def _seen(
    known: Sequence[str], seesGroup: Callable[[str], bool], check: Callable[[], None]
) -> list[str]:
    """
    The groups that may be seen. There may be thousands, and long masks.
    """
    seen = []
    began = time.monotonic()
    for group in known:
        if seesGroup(group):
            seen.append(group)
        if time.monotonic() - began > _SLICE:
            check()
            time.sleep(_REST)
            began = time.monotonic()
    return seen


def _ofAccounts(connection: sqlite3.Connection, terms: Sequence[_Term]) -> _Term:
    """
    The condition that a trade is of one of the accounts that meet all of these.
    """
    where, values = _all(terms)
    [(count, login)] = connection.execute(
        f"SELECT count(*), min(login) FROM account WHERE {where}", values
    )
    if count > 1:
        return f"login IN (SELECT login FROM account WHERE {where})", values
    # Much faster. Without an account it is NULL, which no login equals.
    return "login = ?", [login]


def _all(terms: Sequence[_Term]) -> _Term:
    values = [value for _, each in terms for value in each]
    return " AND ".join(sql for sql, _ in terms) or "true", values


def _term(condition: Condition, expression: str) -> _Term:
    sql = _FORMS[condition.operator].format(expression)
    if condition == _WAITS:
        # For the index SQLite has to see the number.
        sql += f" AND state = {TS_FINANCE_OPEN_PENDING}"
    return f"NOT ({sql})" if condition.isNegated else sql, _parameters(condition)


def _expression(name: str) -> str:
    """
    A field in SQL.
    """
    if name == GROUP:
        return _GROUP
    field = FIELDS[name]
    if field.member is not None:
        return columns([field.member])
    return f"{field.neutral!r}"


def _parameters(condition: Condition) -> list[int | str | None]:
    if condition.operator == "in":
        return [encode(condition.values).decode()]
    if condition.operator == LIKE:
        [pattern] = condition.values
        assert isinstance(pattern, str)
        return [pattern.translate(_GLOB)]
    return list(condition.values)


# From the wildcards of LIKE to those of GLOB, which have no other meaning in LIKE.
_GLOB: Final = str.maketrans(
    {"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"},
)


def _sums(trades: str, where: str) -> str:
    """
    The statement for the number of the selected trades, the first and the last of them,
    and their totals, each as its whole part and the rest in units: a sum of units may
    exceed SQLite's integers.
    """
    sums = ["count(*)", 'min("order")', 'max("order")']
    for total in (BALANCE, CREDIT):
        cmds = ", ".join(str(cmd) for cmd, name in TOTAL_OF.items() if name == total)
        counts = f"state = {TS_CLOSED_NORMAL} AND cmd IN ({cmds})"
        for part in ("/", "%"):
            amount = f"iif({counts}, profit {part} {UNITS_PER_ONE}, 0)"
            sums.append(f"ifnull(sum({amount}), 0)")
    return f"SELECT {', '.join(sums)} FROM {trades} WHERE {where}"


def _orders(
    connection: sqlite3.Connection,
    filter: TradeFilter,
    trades: str,
    where: str,
    values: Sequence[int | str | None],
) -> list[int]:
    """
    The numbers of the trades to return, in their order.
    """
    order = [
        _expression(name) + (" DESC" if isDescending else "")
        for name, isDescending in filter.orderBy
        # A value that all trades have does not order them, and SQL would take the
        # number 7 for the seventh column.
        if FIELDS[name].neutral is None
    ]
    [(found,)] = connection.execute(
        f"""
        SELECT json_group_array(number) FROM (
            SELECT "order" AS number FROM {trades} WHERE {where}
            ORDER BY {", ".join([*order, '"order"'])} LIMIT ? OFFSET ?
        )
        """,
        [*values, filter.limit, filter.offset],
    )
    orders: list[int] = decode(found)
    return orders


def _trades(
    connection: sqlite3.Connection, orders: Sequence[int]
) -> list[GroupedTrade]:
    [(found,)] = connection.execute(_TRADES, (encode(orders).decode(),))
    trades: dict[int, GroupedTrade] = {
        members[0]: (Trade(*members), group) for *members, group in decode(found)
    }
    return [trades[order] for order in orders]


def copied(trades: Iterable[Trade], accounts: Iterable[Account]) -> sqlite3.Connection:
    """
    Copy trades and accounts to a database in memory, which can be searched.
    """
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(
        f"""
        CREATE TABLE trade ({COLUMNS}, PRIMARY KEY ("order")) WITHOUT ROWID;
        CREATE INDEX trade_waiting ON trade ("order") WHERE state = 17;
        CREATE TABLE account (login INTEGER PRIMARY KEY, "group" TEXT NOT NULL);
        """
    )
    marks = ", ".join("?" * len(TRADE_MEMBERS))
    connection.executemany(f"INSERT INTO trade VALUES ({marks})", map(astuple, trades))
    connection.executemany(
        "INSERT INTO account VALUES (?, ?)",
        ((account.login, account.group) for account in accounts),
    )
    return connection
