"""
What holds in every ledger, and how it is proved.

L{firstOrder} is what each start of the server proves before it gives out an
order: that the totals are the sums of their trades and that no order stands
above the mark. L{problems} goes
through all there is and takes longer; that is for people, who run it beside the
server or on a copy.
"""

import os
import sqlite3
from collections.abc import Iterator
from typing import Any, Final

from attrs import define

from creditsync.codes import MAX_SAFE_INTEGER
from creditsync.errors import LedgerDamaged
from creditsync.ledger import _operations as operations
from creditsync.ledger._schema import SCRIPTS, changes
from creditsync.methods import TOTALS
from creditsync.records import TRADE_MEMBERS

# Accounts whose totals are not the sums of their booked trades, and logins
# that have trades and no account.
_WRONG_TOTALS: Final = """
    WITH booked AS (
        SELECT login, ifnull({balance}, 0) AS balance, ifnull({credit}, 0) AS credit
        FROM trade WHERE state = 3 GROUP BY login
    )
    SELECT login, account.balance, account.credit,
           ifnull(booked.balance, 0), ifnull(booked.credit, 0)
    FROM account LEFT JOIN booked USING (login)
    WHERE account.balance <> ifnull(booked.balance, 0)
       OR account.credit <> ifnull(booked.credit, 0)
    UNION ALL
    SELECT login, NULL, NULL, balance, credit
    FROM booked WHERE login NOT IN (SELECT login FROM account)
    UNION ALL
    SELECT DISTINCT login, NULL, NULL, 0, 0
    FROM trade WHERE state <> 3 AND login NOT IN (SELECT login FROM account)
                     AND login NOT IN (SELECT login FROM booked)
"""

# What a cmd counts for is told by the ledger itself.
_SUM: Final = "sum(profit) {0}"

# sum() fails as soon as it leaves 64 bits, even if later trades would bring it
# back; in two parts it doesn't.
_EXACT_SUM: Final = (
    "sum(profit / 1000000000) {0} * 1000000000 + sum(profit % 1000000000) {0}"
)


def firstOrder(connection: sqlite3.Connection, path: str) -> int:
    """
    Prove that totals are the sums of their trades, and that no order stands
    above the mark.

    @return: The first order number that may be given out.
    @raise LedgerDamaged: It isn't so.
    """
    wrong = next(_wrongTotals(connection), None)
    if wrong is not None:
        login, balance, credit, balanceSum, creditSum = wrong
        raise LedgerDamaged(
            f"account {login} of the ledger {path} has balance {balance} and credit "
            f"{credit}, but its trades sum up to balance {balanceSum} and credit "
            f"{creditSum} (10⁻⁸ units): find out what else wrote it, or bring back "
            f"a backup"
        )
    mark, last = _markAndLast(connection)
    if mark is None or mark <= last:
        raise LedgerDamaged(
            f"the ledger {path} has order {last}, but its order mark is {mark}, and no "
            f"order may stand above the mark: find out what else wrote it, or bring "
            f"back a backup"
        )
    return mark


def _wrongTotals(connection: sqlite3.Connection) -> Iterator[Any]:
    """
    Each account that is wrong: its login, balance and credit, and the sums.
    """
    # What takes the time is to sort all trades by login, and SQLite does that
    # in a second thread if it may.
    connection.execute(f"PRAGMA threads = {os.cpu_count() or 1}")
    try:
        yield from connection.execute(_wrongTotalsBy(connection, _SUM))
    except sqlite3.OperationalError as e:
        # It comes before the first row: all sums are made by then.
        if str(e) != "integer overflow":
            raise
        yield from connection.execute(_wrongTotalsBy(connection, _EXACT_SUM))


def _wrongTotalsBy(connection: sqlite3.Connection, sum: str) -> str:
    """
    The statement that finds wrong totals by this kind of sum.
    """
    totalOf = operations.totalOf(connection)
    # As a list of numbers: with a subquery for it the sums take twice as long.
    cmds = {
        name: ", ".join(str(cmd) for cmd, total in totalOf.items() if total == name)
        for name in TOTALS
    }
    return _WRONG_TOTALS.format(
        **{name: sum.format(f"FILTER (WHERE cmd IN ({cmds[name]}))") for name in TOTALS}
    )


def _markAndLast(connection: sqlite3.Connection) -> tuple[int | None, int]:
    """
    The first order number that is not reserved, and the last order.
    """
    [row] = connection.execute(
        "SELECT (SELECT max(next_order) FROM order_mark),"
        ' ifnull((SELECT max("order") FROM trade), 0)'
    )
    mark, last = row
    return mark, last


@define
class Problem:
    """
    Something that doesn't hold.

    @ivar rule: What it breaks, in a word.
    @ivar message: What is wrong, in one line.
    """

    rule: str
    message: str


@define
class _Rule:
    """
    Something that holds in every ledger.

    @ivar broken: The statement that gives a row for each case where it
        doesn't; the columns fill the message.
    """

    name: str
    broken: str
    message: str


# What goes in is more than nothing, what goes out is less.
_WRONG_SIGN: Final = "JOIN operation USING (cmd) WHERE sign(profit) <> operation.sign"
_WRONG_TIMES: Final = "open_time < 0 OR close_time < open_time"
_THE_KEY: Final = "the key {1!r} of principal {0} "
_KEYS: Final = (
    'SELECT k.principal, k.key, k."order", t.revision, k.revision'
    ' FROM keyed_operation AS k JOIN trade AS t USING ("order") WHERE '
)

# What an update may change, in a key's row and in its trade.
_OTHERWISE: Final = " OR ".join(
    f"k.{name} <> t.{name}"
    for name in TRADE_MEMBERS
    if name not in ("order", "login", "cmd")
)

_RULES: Final = (
    _Rule(
        "negative-total",
        "SELECT login, balance, credit FROM account WHERE min(balance, credit) < 0",
        "account {} has balance {} and credit {}, and neither may be below zero",
    ),
    _Rule(
        "login",
        'SELECT "order", login FROM trade'
        f" WHERE login NOT BETWEEN 1 AND {MAX_SAFE_INTEGER}",
        "order {} is of login {}, which is none",
    ),
    _Rule(
        "order",
        f'SELECT "order" FROM trade WHERE "order" < 1 OR "order" > {MAX_SAFE_INTEGER}',
        "order {} is no order number",
    ),
    _Rule(
        "cmd",
        'SELECT "order", cmd FROM trade WHERE cmd NOT IN (SELECT cmd FROM operation)',
        "order {} has cmd {}, which the table operation does not have",
    ),
    _Rule(
        "state",
        'SELECT "order", state FROM trade WHERE state NOT IN (3, 6, 10, 11, 12)',
        "order {} has state {}, which is none of 3, 6, 10, 11 and 12",
    ),
    _Rule(
        "sign",
        f'SELECT "order", cmd, profit FROM trade {_WRONG_SIGN}',
        "order {} has cmd {} and profit {}: the sign is wrong",
    ),
    _Rule(
        "times",
        f'SELECT "order", open_time, close_time FROM trade WHERE {_WRONG_TIMES}',
        "order {} opens at {} and closes at {}",
    ),
    _Rule(
        "key-without-trade",
        'SELECT principal, key, "order" FROM keyed_operation'
        ' WHERE "order" NOT IN (SELECT "order" FROM trade)',
        _THE_KEY + "booked order {2}, which is not there",
    ),
    _Rule(
        "key-of-other-trade",
        f"{_KEYS} k.login <> t.login OR k.cmd <> t.cmd",
        _THE_KEY + "booked order {2} for another login or as another cmd",
    ),
    _Rule(
        "key-ahead",
        f"{_KEYS} k.revision > t.revision",
        _THE_KEY + "made revision {4} of order {2}, which has only revision {3}",
    ),
    _Rule(
        "key-differs",
        f"{_KEYS} k.revision = t.revision AND ({_OTHERWISE})",
        _THE_KEY + "was the last to change order {2}, and booked it otherwise",
    ),
    _Rule(
        "key-not-last",
        f"{_KEYS} k.type = 2 AND k.revision < t.revision",
        _THE_KEY + "deleted order {2} as revision {4}, but it has revision {3}",
    ),
    _Rule(
        "key-type",
        'SELECT principal, key, type, "order", revision, state FROM keyed_operation'
        " WHERE (type = 0) <> (revision = 0) OR revision < 0"
        " OR state <> iif(type = 2, 6, 3)",
        _THE_KEY + "has type {2}, but made revision {4} of order {3}, with state {5}",
    ),
    _Rule(
        "key-asked",
        'SELECT principal, key, "order" FROM keyed_operation'
        ' WHERE (type <> 0 AND asked_order <> "order")'
        " OR ifnull(asked_open_time <> open_time, 0)"
        " OR ifnull(asked_close_time <> close_time, 0)",
        _THE_KEY + "booked order {2} otherwise than it asked for",
    ),
    _Rule(
        "key-sign",
        'SELECT principal, key, "order", cmd, profit FROM keyed_operation'
        f" {_WRONG_SIGN}",
        _THE_KEY + "booked order {2} with cmd {3} and profit {4}: the sign is wrong",
    ),
    _Rule(
        "key-times",
        'SELECT principal, key, "order", open_time, close_time FROM keyed_operation'
        f" WHERE {_WRONG_TIMES}",
        _THE_KEY + "booked order {2} to open at {3} and close at {4}",
    ),
    _Rule(
        "keys-of-one-change",
        'SELECT "order", revision, count(*) FROM keyed_operation'
        ' GROUP BY "order", revision HAVING count(*) > 1',
        "revision {1} of order {0} was booked under {2} keys",
    ),
)


def problems(connection: sqlite3.Connection) -> Iterator[Problem]:
    """
    Find all that doesn't hold, as of one moment if a transaction is open.
    """
    try:
        for message in changes(connection, SCRIPTS):
            yield Problem("schema", message)
        for message in operations.differences(connection):
            yield Problem("operation", message)
        for [message] in connection.execute("PRAGMA integrity_check"):
            if message != "ok":
                yield Problem("integrity", message)
        yield from _markProblems(connection)
        for login, balance, credit, *sums in _wrongTotals(connection):
            yield Problem(
                "total",
                f"account {login} has balance {balance} and credit {credit}, but its"
                f" trades sum up to balance {sums[0]} and credit {sums[1]}",
            )
        for rule in _RULES:
            for row in connection.execute(rule.broken):
                yield Problem(rule.name, rule.message.format(*row))
    except sqlite3.DatabaseError as e:
        yield Problem("unreadable", f"the rest can't be read: {e}")


def _markProblems(connection: sqlite3.Connection) -> Iterator[Problem]:
    mark, last = _markAndLast(connection)
    if mark is None:
        yield Problem("order-mark", "there is no order mark")
    elif mark <= last:
        yield Problem("order-mark", f"order {last} stands above the order mark {mark}")
