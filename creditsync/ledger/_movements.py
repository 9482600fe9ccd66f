"""
What was booked on one day, added up for the rules of a site.

The journal has no index by time. But its places are in the order of booking, so the
rows of a day are found from its end: behind the last row from before that day.
"""

import sqlite3
from typing import Any, Final

from msgspec.json import Decoder

from creditsync.codes import (
    EV_RECORD_DELETE,
    EV_RECORD_UPDATE,
    MAX_SET_BACK,
    SECONDS_PER_DAY,
    UNAPPROVED,
)
from creditsync.methods import METHOD_OF
from creditsync.records import Movement

# The sum of a day may exceed SQLite's integers, which its two parts don't.
_PART: Final = 1_000_000

# Rows from an older version are not in the order of booking: if none after them is from
# before the day, they are all looked at.
_START: Final = """
    SELECT ifnull(max(place), 0) FROM (
        SELECT place FROM journal
        WHERE timestamp < ? AND place <= ?
            AND place > (SELECT ifnull(max(head), 0) FROM life WHERE cause = 'upgraded')
        ORDER BY place DESC LIMIT 1
    )
"""

_decode: Final = Decoder(list[Any]).decode

_OF_DAY: Final = "place > ? AND place <= ? AND timestamp >= ? AND timestamp < ?"

# Sums of amounts, by what rules look at. They come in one row, as a JSON array: sqlite3
# releases the GIL for each row, and a thread beside a busy reactor waits each time to
# get it back.
_SUMMED: Final = f"""
    SELECT json_group_array(json_array(
        principal, role, login, cmd, type = {EV_RECORD_DELETE}, large, small
    )) FROM (
        SELECT principal, role, login, cmd, type,
               sum(amount / {_PART}) AS large, sum(amount % {_PART}) AS small
        FROM ({{}}) GROUP BY principal, role, login, cmd, type
    )
"""

_MOVES: Final = f"state NOT IN ({', '.join(map(str, sorted(UNAPPROVED)))})"

# An added or deleted trade counts with its amount.
_OTHERS: Final = _SUMMED.format(f"""
    SELECT *, abs(profit) AS amount FROM journal
    WHERE {_OF_DAY} AND type <> {EV_RECORD_UPDATE} AND {_MOVES}
""")

_IS_UPDATED: Final = f"""
    SELECT 1 FROM journal WHERE {_OF_DAY} AND type = {EV_RECORD_UPDATE} LIMIT 1
"""

# An updated trade may have been made at any time before. There is no index for that
# either: this reads the whole journal.
_UPDATES: Final = _SUMMED.format(f"""
    SELECT *, max(abs(profit), abs(profit - former)) AS amount
    FROM (
        SELECT place, timestamp, type, state, principal, role, login, cmd, profit,
               lag(profit, 1, 0) OVER (PARTITION BY "order" ORDER BY place) AS former
        FROM journal WHERE "order" IN (
            SELECT "order" FROM journal WHERE {_OF_DAY} AND type = {EV_RECORD_UPDATE}
        )
    ) WHERE {_OF_DAY} AND type = {EV_RECORD_UPDATE} AND {_MOVES}
""")

_GROUPS: Final = 'SELECT login, "group" FROM account WHERE "group" <> \'\''


def movements(connection: sqlite3.Connection, day: int, upTo: int) -> list[Movement]:
    """
    See L{ILedger.movements<creditsync.interfaces.ILedger.movements>}.
    """
    select = connection.execute
    begin, end = day * SECONDS_PER_DAY, (day + 1) * SECONDS_PER_DAY
    # If the clock was set back, rows of the day may stand before older ones.
    [[start]] = select(_START, (begin - MAX_SET_BACK, upTo))
    period = start, upTo, begin, end
    [[found]] = select(_OTHERS, period)
    sums = _decode(found)
    if select(_IS_UPDATED, period).fetchone() is not None:
        [[found]] = select(_UPDATES, (*period, *period))
        sums += _decode(found)
    groups = dict(select(_GROUPS))
    return [
        Movement(
            principal,
            role,
            login,
            METHOD_OF[cmd, bool(isDeleted)],
            large * _PART + small,
            groups.get(login, ""),
        )
        for principal, role, login, cmd, isDeleted, large, small in sums
    ]
