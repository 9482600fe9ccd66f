"""
Reading the journal of a ledger: what was booked, change by change, and the totals of an
account as they were.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final

from attrs import define

from creditsync._cursor import FIRST, cursorOf, placeIn
from creditsync.codes import MAX_SAFE_INTEGER
from creditsync.errors import LedgerProblem
from creditsync.ledger._journal import FORMER, MEMBERS, journalEnd
from creditsync.ledger._operations import totalOf
from creditsync.ledger._reading import checkAccount
from creditsync.ledger._schema import columns
from creditsync.ledger._source import Source
from creditsync.methods import BALANCE, CREDIT, TOTALS
from creditsync.records import TRADE_MEMBERS, Account, Trade

# Places that are read in one transaction.
_PAGE: Final = 10_000

_COLUMNS: Final = f"SELECT {columns(MEMBERS)}, hash FROM journal"
_HISTORY: Final = f"""
    {_COLUMNS} WHERE login = ? AND timestamp >= ? AND timestamp < ? ORDER BY place
"""
_FROM: Final = f"""
    {_COLUMNS} WHERE place > ? AND place <= ? AND login = coalesce(?, login)
    ORDER BY place
"""
_TOTALS_AT: Final = """
    SELECT balance, credit, place FROM journal
    WHERE login = ? AND timestamp <= ? ORDER BY place DESC LIMIT 1
"""
# What an older version has left of an account: the last row of each order.
_FORMER: Final = f"""
    SELECT cmd, CASE state WHEN 3 THEN profit ELSE 0 END, timestamp FROM journal
    WHERE place IN (
        SELECT max(place) FROM journal
        WHERE login = ? AND place <= ({FORMER}) GROUP BY "order"
    )
"""


@define
class Change:
    """
    One row of the journal.

    @ivar cursor: Its place, as clients know it.
    @ivar members: All columns but the place, by their names.
    @ivar trade: The trade as the operation made it.
    """

    cursor: str
    members: dict[str, Any]
    trade: Trade


def history(
    connection: Source,
    path: str,
    login: int,
    start: int | None = None,
    end: int | None = None,
) -> Iterator[Change]:
    """
    Read each change of an account's trades with C{start <= timestamp < end}, in the
    order of booking.

    @param path: The ledger's, for messages.
    @raise LedgerProblem: There is no such account.
    """
    checkAccount(connection, login)
    epoch, _, _ = journalEnd(connection, path)
    period = (0 if start is None else start, MAX_SAFE_INTEGER if end is None else end)
    for row in connection.execute(_HISTORY, (login, *period)):
        yield _change(epoch, row)


def totalsAt(connection: Source, login: int, time: int) -> Account:
    """
    The totals of an account after all that was booked up to this time, and in this
    second.

    @raise LedgerProblem: There is no such account, or an older version of the ledger
        did not record them.
    """
    checkAccount(connection, login)
    row = connection.execute(_TOTALS_AT, (login, time)).fetchone()
    if row is not None and row[0] is not None:
        return Account(login, row[0], row[1])
    totals: dict[str, Any] = dict.fromkeys(TOTALS, 0)
    total, last = totalOf(connection), -1
    for cmd, units, timestamp in connection.execute(_FORMER, (login,)):
        totals[total[cmd]] += units
        last = max(last, timestamp)
    if last > time:
        raise LedgerProblem(
            f"the totals of account {login} at that time were not recorded: they are"
            f" known from its last change before the ledger was upgraded on, which was"
            f" at {last} (UNIX seconds)"
        )
    return Account(login, totals[BALANCE], totals[CREDIT])


def changes(
    opened: Callable[[], AbstractContextManager[Source]],
    path: str,
    since: str,
    login: int | None = None,
) -> Iterator[Change]:
    """
    Read the journal behind a place, up to its present end. It is read in pages, and
    between two of them the server can reuse its C{-wal} file.

    @param opened: Opens the ledger, to read it as it is at that moment.
    @param path: Its name, for messages.
    @param since: A cursor, or L{FIRST<creditsync._cursor.FIRST>}.
    @param login: Only the changes of this account.
    @raise LedgerProblem: The cursor is not of this ledger.
    """
    with opened() as connection:
        epoch, head, _ = journalEnd(connection, path)
    place = 0 if since == FIRST else placeIn(since, epoch, head)
    if place is None:
        raise LedgerProblem(
            f"the cursor {since} is not one of the ledger {path}, or is ahead of it:"
            f" its last one is {cursorOf(epoch, head)}"
        )
    while place < head:
        end = min(place + _PAGE, head)
        with opened() as connection:
            rows = connection.execute(_FROM, (place, end, login)).fetchall()
        for row in rows:
            yield _change(epoch, row)
        place = end


def _change(epoch: str, row: tuple[Any, ...]) -> Change:
    members = dict(zip((*MEMBERS, "hash"), row, strict=True))
    cursor = cursorOf(epoch, members.pop("place"))
    return Change(cursor, members, Trade(*(members[name] for name in TRADE_MEMBERS)))
