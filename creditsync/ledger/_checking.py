"""
The rules that every ledger has to keep, and the proof that it does.

L{firstOrder} is the proof at each start of the server, before it assigns an
order: that totals are the sums of their trades, and that every order is below the
mark. L{findings} checks all rules. It takes longer; people run it while the
server runs, or on a copy.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any, Final

from attrs import define

from creditsync.codes import MAX_SAFE_INTEGER
from creditsync.errors import LedgerDamaged
from creditsync.ledger._journal import FORMER
from creditsync.ledger._operations import methodDifferences, totalOf
from creditsync.ledger._proving import JournalProof
from creditsync.ledger._schema import SCRIPTS
from creditsync.ledger._source import Source
from creditsync.ledger._upgrading import changes
from creditsync.methods import TOTALS
from creditsync.records import TRADE_MEMBERS

# Accounts whose totals are not the sums of their booked trades, and logins
# that have trades but no account.
_WRONG_TOTALS: Final = """
    WITH booked AS (
        SELECT login, coalesce({balance}, 0) AS balance, coalesce({credit}, 0) AS credit
        FROM trade WHERE state = 3 GROUP BY login
    )
    SELECT login, account.balance, account.credit,
           coalesce(booked.balance, 0), coalesce(booked.credit, 0)
    FROM account LEFT JOIN booked USING (login)
    WHERE account.balance <> coalesce(booked.balance, 0)
       OR account.credit <> coalesce(booked.credit, 0)
    UNION ALL
    SELECT login, NULL, NULL, balance, credit
    FROM booked WHERE login NOT IN (SELECT login FROM account)
    UNION ALL
    SELECT DISTINCT login, CAST(NULL AS bigint), CAST(NULL AS bigint), 0, 0
    FROM trade WHERE state <> 3 AND login NOT IN (SELECT login FROM account)
                     AND login NOT IN (SELECT login FROM booked)
"""

# {0} selects the trades that count for a total, as the table operation says.
SUM: Final = "sum(profit) {0}"

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
        yield from connection.execute(wrongTotalsBy(connection, SUM))
    except sqlite3.OperationalError as e:
        # This is raised before the first row, when all sums are computed. So no
        # row has been yielded yet.
        if str(e) != "integer overflow":
            raise
        yield from connection.execute(wrongTotalsBy(connection, _EXACT_SUM))


def _processors() -> int:
    """
    How many processors this process may use.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def wrongTotalsBy(connection: Source, sum: str) -> str:
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


def _markAndLast(connection: Source) -> tuple[int | None, int]:
    """
    The first order number that is not reserved, and the last order.
    """
    [row] = connection.execute(
        "SELECT (SELECT max(next_order) FROM order_mark),"
        ' coalesce((SELECT max("order") FROM trade), 0)'
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
class Rule:
    """
    A rule that every ledger has to keep.

    @ivar broken: The statement that selects a row for each case that breaks it.
        The columns are the arguments of the message.
    """

    name: str
    broken: str
    message: str


_THE_PLACE: Final = "place {} of the journal "

# Of what another platform has booked. A gateway's ledger has that as the platform shows
# it, and only what was booked since the gateway began. The platform's clock is another
# than that by which an operation got its open_time, and it may have times of its own.
_NOT_A_GATEWAY: Final = (
    " AND NOT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'intent')"
)

# Whether a trade and the row of its last change differ in a column.
_DIFFERS: Final = " OR ".join(f't."{name}" <> j."{name}"' for name in TRADE_MEMBERS)

_RULES: Final = (
    Rule(
        "account",
        f"SELECT login FROM account WHERE login NOT BETWEEN 1 AND {MAX_SAFE_INTEGER}",
        "account {} does not have a valid login",
    ),
    Rule(
        "negative-total",
        "SELECT login, balance, credit FROM account WHERE (balance < 0 OR credit < 0)"
        + _NOT_A_GATEWAY,
        "account {} has balance {} and credit {}, and neither may be below zero",
    ),
    Rule(
        "trade",
        'SELECT t."order", t.place FROM trade AS t'
        f" LEFT JOIN journal AS j USING (place) WHERE j.place IS NULL OR {_DIFFERS}",
        "order {} is not what place {} of the journal made it",
    ),
    Rule(
        "last-change",
        'SELECT j.place, j."order" FROM journal AS j'
        ' LEFT JOIN trade AS t USING ("order")'
        ' WHERE t."order" IS NULL OR t.place < j.place',
        _THE_PLACE + "changed order {}, whose trade is missing or older",
    ),
    Rule(
        "revision",
        # Of what an older version had booked, the journal may lack some changes.
        'SELECT "order", revision, rows - 1 FROM trade JOIN ('
        '     SELECT "order", count(*) AS rows, min(place) AS first FROM journal'
        '     GROUP BY "order"'
        ' ) AS booked USING ("order")'
        " WHERE revision <> rows - 1 AND (revision < rows - 1"
        f"     OR first > ({FORMER}))",
        "order {} has revision {}, but the journal has {} changes of it",
    ),
    Rule(
        "order",
        'SELECT place, "order" FROM journal'
        f' WHERE "order" NOT BETWEEN 1 AND {MAX_SAFE_INTEGER}',
        _THE_PLACE + "has order {}, which is not a valid order number",
    ),
    Rule(
        "login",
        "SELECT place, login FROM journal"
        f" WHERE login NOT BETWEEN 1 AND {MAX_SAFE_INTEGER}",
        _THE_PLACE + "has login {}, which is not a valid login",
    ),
    Rule(
        "cmd",
        "SELECT place, cmd FROM journal WHERE cmd NOT IN (SELECT cmd FROM operation)",
        _THE_PLACE + "has cmd {}, which is not in the table operation",
    ),
    Rule(
        "sign",
        "SELECT place, cmd, profit FROM journal JOIN operation USING (cmd)"
        " WHERE sign(profit) <> operation.sign" + _NOT_A_GATEWAY,
        _THE_PLACE + "has cmd {} and profit {}: the sign is wrong",
    ),
    Rule(
        "times",
        "SELECT place, open_time, close_time FROM journal"
        " WHERE open_time < 0 OR (close_time < open_time" + _NOT_A_GATEWAY + ")",
        _THE_PLACE + "opens at {} and closes at {}",
    ),
    Rule(
        "asked",
        'SELECT place, "order" FROM journal'
        ' WHERE (type <> 0 AND asked_order <> "order")'
        " OR (asked_open_time <> open_time OR asked_close_time <> close_time)"
        + _NOT_A_GATEWAY,
        _THE_PLACE + "booked order {}, but requested another order or other times",
    ),
    Rule(
        "life",
        "SELECT number, epoch FROM life AS l"
        " WHERE head > (SELECT coalesce(max(place), 0) FROM journal)"
        " OR head < (SELECT max(head) FROM life WHERE number < l.number)"
        " OR (number = 1) <> (cause IN ('created', 'upgraded'))"
        " OR cause NOT IN ('created', 'upgraded', 'copied')"
        " OR (cause = 'created' AND head <> 0)"
        " OR length(epoch) <> 8 OR trim(epoch, '0123456789abcdef') <> ''"
        " OR number > (SELECT count(*) FROM life)"
        " UNION ALL SELECT 1, 'none' WHERE NOT EXISTS (SELECT 1 FROM life)",
        "life {} with epoch {} is not one that the journal can have had",
    ),
)


def findings(
    connection: sqlite3.Connection, noted: bytes | None = None
) -> Iterator[Finding]:
    """
    Check all rules. Within an open transaction that is the state at one moment.

    @param noted: A hash that the journal must have.
    """
    try:
        for message in changes(connection, SCRIPTS):
            yield Finding("schema", message)
        for [message] in connection.execute("PRAGMA integrity_check"):
            if message != "ok":
                yield Finding("integrity", message)
        yield from contentFindings(connection, _wrongTotals(connection), noted)
    except sqlite3.DatabaseError as e:
        yield Finding("unreadable", f"the rest can't be read: {e}")


def contentFindings(
    connection: Source, wrongTotals: Iterable[Any], noted: bytes | None
) -> Iterator[Finding]:
    """
    Check all rules about what is in the tables.

    @param wrongTotals: The rows of L{wrongTotalsBy}.
    @param noted: See L{findings}.
    """
    for message in methodDifferences(connection):
        yield Finding("operation", message)
    yield from _markFindings(connection)
    for login, balance, credit, *sums in wrongTotals:
        yield Finding(
            "total",
            f"account {login} has balance {balance} and credit {credit}, but its"
            f" trades add up to balance {sums[0]} and credit {sums[1]}",
        )
    yield from ruleFindings(connection, _RULES)
    for name, message in JournalProof(connection, noted).problems():
        yield Finding(name, message)


def ruleFindings(connection: Source, rules: Iterable[Rule]) -> Iterator[Finding]:
    """
    Check rules.
    """
    for rule in rules:
        for row in connection.execute(rule.broken):
            yield Finding(rule.name, rule.message.format(*row))


def _markFindings(connection: Source) -> Iterator[Finding]:
    mark, last = _markAndLast(connection)
    if mark is None:
        yield Finding("order-mark", "there is no order mark")
    elif mark <= last:
        yield Finding("order-mark", f"order {last} is not below the order mark {mark}")
