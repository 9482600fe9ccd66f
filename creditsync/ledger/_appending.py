"""
The statement that appends a batch to the journal of a ledger.

A batch of up to 1,024 trades is one statement, which is also its transaction.
The GIL is the reason: C{execute} releases it, and a thread beside a busy reactor
can wait 5 ms (C{sys.getswitchinterval}) to get it back. With BEGIN, a statement
for each row and COMMIT it would wait each time. So a statement has all values of
its rows as parameters. It appends them to the journal, and the triggers in
C{003.sql} bring the present trades and totals up to date.

SQLite takes as long to prepare such a statement as to execute it. So there is one
for each power of two, which is prepared when it is first needed and then cached;
if a batch has fewer rows, the rest is filled with rows that the statement skips.
A larger batch takes several of the largest statements in one transaction.
"""

from collections.abc import Sequence
from functools import cache
from operator import itemgetter
from typing import Any, Final

from creditsync.ledger._journal import MEMBERS, Row
from creditsync.ledger._schema import columns

# Rows of the largest statement. SQLite allows 32,766 parameters, and a row has up to
# 20.
MAX_ROWS: Final = 1024

# All values of a row that is skipped. The first value of a real row is an integer,
# so it can't be this. NULL would be clearer, but sqlite3 binds it much more slowly.
_NO_VALUE: Final = 0.5

# The columns of a row without a key and without requested times.
_MIN_WIDTH: Final = MEMBERS.index("key")


def appending(rows: Sequence[Row], hash: bytes, place: int) -> tuple[str, list[Any]]:
    """
    The statement that appends up to L{MAX_ROWS} rows, and its parameters.

    @param hash: The hash of the commit.
    @param place: The last place of the commit, whose row has the hash.
    """
    # sqlite3 binds None so slowly that it takes half of the time. So the last columns
    # are left out if no row has a value there.
    width = len(MEMBERS)
    while width > _MIN_WIDTH and set(map(itemgetter(width - 1), rows)) == {None}:
        width -= 1
    values: list[Any] = [place, hash]
    for row in rows:
        values += row[:width]
    size = 1 << (len(rows) - 1).bit_length()
    values += [_NO_VALUE] * (width * (size - len(rows)))
    return _statement(width, size), values


@cache
def _statement(width: int, size: int) -> str:
    """
    A statement with a parameter for each of the first C{width} values of C{size} rows,
    after two for the place and the value of the hash. It skips rows that are only
    there to fill it.
    """
    row = f"({', '.join('?' * width)})"
    # LIMIT would be simpler than the condition, but with it newer versions of SQLite
    # prepare the statement again at each execution.
    return f"""
        INSERT INTO journal (hash, {columns(MEMBERS[:width])})
        SELECT iif(column1 = ?, ?, NULL), * FROM (VALUES {", ".join([row] * size)})
        WHERE column1 IS NOT {_NO_VALUE}
    """
