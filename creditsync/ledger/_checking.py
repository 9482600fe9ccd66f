"""
The rules that every ledger has to keep, and the proof that it does.

L{firstOrder} is the proof at each start of the server, before it assigns an
order: that totals are the sums of their trades, and that every order is below the
mark. L{findings} checks all rules. It takes longer; people run it while the
server runs, or on a copy.
"""

import os
import sqlite3
from collections.abc import Iterator
from typing import Any, Final

from attrs import define

from creditsync.codes import MAX_SAFE_INTEGER
from creditsync.errors import LedgerDamaged
from creditsync.ledger._operations import methodDifferences, totalOf
from creditsync.ledger._schema import SCRIPTS, changes
from creditsync.methods import TOTALS
from creditsync.records import TRADE_MEMBERS

# Accounts whose totals are not the sums of their booked trades, and logins
# that have trades but no account.
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

# {0} selects the trades that count for a total, as the table operation says.
_SUM: Final = "sum(profit) {0}"

# sum() fails as soon as it exceeds 64 bits, even if later trades would bring it
# back. Summing quotients and remainders separately avoids that.
_EXACT_SUM: Final = (
    "sum(profit / 1000000000) {0} * 1000000000 + sum(profit % 1000000000) {0}"
)


def firstOrder(connection: sqlite3.Connection, path: str) -> int:
    """
    Prove that totals are the sums of their trades, and that every order is below
    the mark.

    @return: The first order number that may be assigned.
    @raise LedgerDamaged: One of them is not so.
    """
    wrong = next(_wrongTotals(connection), None)
    if wrong is not None:
        login, balance, credit, balanceSum, creditSum = wrong
        raise LedgerDamaged(
            f"account {login} of the ledger {path} has balance {balance} and credit "
            f"{credit}, but its trades add up to balance {balanceSum} and credit "
            f"{creditSum} (10⁻⁸ units): find out which other program wrote to it, or "
            f"restore a backup"
        )
    mark, last = _markAndLast(connection)
    if mark is None or mark <= last:
        raise LedgerDamaged(
            f"the ledger {path} has order {last}, but its order mark is {mark}, and "
            f"every order must be below the mark: find out which other program wrote "
            f"to it, or restore a backup"
        )
    return mark


def _wrongTotals(connection: sqlite3.Connection) -> Iterator[Any]:
    """
    Each account with a wrong total: login, balance, credit, and the two sums.
    """
    # Most of the time goes into sorting the trades by login, which SQLite does
    # in more threads if it may. On one processor a second thread only costs: a
    # tenth of the whole, with ten million trades.
    processors = _processors()
    connection.execute(f"PRAGMA threads = {processors if processors > 1 else 0}")
    try:
        yield from connection.execute(_wrongTotalsBy(connection, _SUM))
    except sqlite3.OperationalError as e:
        # This is raised before the first row, when all sums are computed. So no
        # row has been yielded yet.
        if str(e) != "integer overflow":
            raise
        yield from connection.execute(_wrongTotalsBy(connection, _EXACT_SUM))


def _processors() -> int:
    """
    How many processors this process may use.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _wrongTotalsBy(connection: sqlite3.Connection, sum: str) -> str:
    """
    The statement that finds wrong totals with this expression for a sum.
    """
    totals = totalOf(connection)
    # A list of numbers, because with a subquery the sums take twice as long.
    cmds = {
        name: ", ".join(str(cmd) for cmd, total in totals.items() if total == name)
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
class Finding:
    """
    One case in which a ledger breaks a rule.

    @ivar rule: The rule's name.
    @ivar message: What is wrong, in one line.
    """

    rule: str
    message: str


@define
class _Rule:
    """
    A rule that every ledger has to keep.

    @ivar broken: The statement that selects a row for each case that breaks it.
        The columns are the arguments of the message.
    """

    name: str
    broken: str
    message: str


# Deposits are positive, withdrawals are negative.
_WRONG_SIGN: Final = "JOIN operation USING (cmd) WHERE sign(profit) <> operation.sign"
_WRONG_TIMES: Final = "open_time < 0 OR close_time < open_time"
_THE_KEY: Final = "the key {1!r} of principal {0} "
_KEYS: Final = (
    'SELECT k.principal, k.key, k."order", t.revision, k.revision'
    ' FROM keyed_operation AS k JOIN trade AS t USING ("order") WHERE '
)

# Whether the row of a key and its trade differ in a column that an update may
# change.
_DIFFERS: Final = " OR ".join(
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
        "order {} belongs to login {}, which is not a valid login",
    ),
    _Rule(
        "order",
        f'SELECT "order" FROM trade WHERE "order" < 1 OR "order" > {MAX_SAFE_INTEGER}',
        "order {} is not a valid order number",
    ),
    _Rule(
        "cmd",
        'SELECT "order", cmd FROM trade WHERE cmd NOT IN (SELECT cmd FROM operation)',
        "order {} has cmd {}, which is not in the table operation",
    ),
    _Rule(
        "state",
        'SELECT "order", state FROM trade WHERE state NOT IN (3, 6, 10, 11, 12)',
        "order {} has state {}, expected 3, 6, 10, 11 or 12",
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
        _THE_KEY + "booked order {2}, which does not exist",
    ),
    _Rule(
        "key-of-other-trade",
        f"{_KEYS} k.login <> t.login OR k.cmd <> t.cmd",
        _THE_KEY + "booked order {2} with another login or another cmd",
    ),
    _Rule(
        "key-ahead",
        f"{_KEYS} k.revision > t.revision",
        _THE_KEY + "made revision {4} of order {2}, which has only revision {3}",
    ),
    _Rule(
        "key-differs",
        f"{_KEYS} k.revision = t.revision AND ({_DIFFERS})",
        _THE_KEY + "was the last to change order {2}, but booked other values",
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
        _THE_KEY + "booked order {2}, but requested another order or other times",
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
        _THE_KEY + "booked order {2}, which opens at {3} and closes at {4}",
    ),
    _Rule(
        "keys-of-one-change",
        'SELECT "order", revision, count(*) FROM keyed_operation'
        ' GROUP BY "order", revision HAVING count(*) > 1',
        "revision {1} of order {0} was booked under {2} keys",
    ),
)


def findings(connection: sqlite3.Connection) -> Iterator[Finding]:
    """
    Check all rules. Within an open transaction that is the state at one moment.
    """
    try:
        for message in changes(connection, SCRIPTS):
            yield Finding("schema", message)
        for message in methodDifferences(connection):
            yield Finding("operation", message)
        for [message] in connection.execute("PRAGMA integrity_check"):
            if message != "ok":
                yield Finding("integrity", message)
        yield from _markFindings(connection)
        for login, balance, credit, *sums in _wrongTotals(connection):
            yield Finding(
                "total",
                f"account {login} has balance {balance} and credit {credit}, but its"
                f" trades add up to balance {sums[0]} and credit {sums[1]}",
            )
        for rule in _RULES:
            for row in connection.execute(rule.broken):
                yield Finding(rule.name, rule.message.format(*row))
    except sqlite3.DatabaseError as e:
        yield Finding("unreadable", f"the rest can't be read: {e}")


def _markFindings(connection: sqlite3.Connection) -> Iterator[Finding]:
    mark, last = _markAndLast(connection)
    if mark is None:
        yield Finding("order-mark", "there is no order mark")
    elif mark <= last:
        yield Finding("order-mark", f"order {last} is not below the order mark {mark}")
