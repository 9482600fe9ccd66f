"""
The journal of a ledger: one row for each operation that was booked, in the order of
booking, and a chain of hashes over all rows.

A row travels as a tuple in the order of L{MEMBERS}, which is all of its columns but
C{hash}. The hash of a commit is in its last row: the SHA-256 digest of the hash before
it and of the commit's rows, each as a JSON array on a line of its own. An auditor can
recompute it with any language: docs/ledger.rst, "The chain of hashes".
"""

import sqlite3
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final, TypeAlias

from msgspec.json import Decoder, Encoder
from msgspec.structs import astuple

from creditsync.codes import (
    EV_RECORD_DELETE,
    TS_CLOSED_NORMAL,
    TS_FINANCE_OPEN_PENDING,
)
from creditsync.errors import LedgerDamaged
from creditsync.ledger._schema import columns
from creditsync.methods import DECISIONS
from creditsync.records import (
    TRADE_MEMBERS,
    AnyOperation,
    Decision,
    Deletion,
    Operation,
    Reservation,
    Trade,
    TradeEvent,
)

Row: TypeAlias = tuple[Any, ...]

# What was requested, and by whom. Those that most rows lack are the last.
ASKED: Final = (
    "principal",
    "role",
    "command",
    "asked_order",
    "key",
    "asked_open_time",
    "asked_close_time",
)

# The columns of a row, all but its hash.
MEMBERS: Final = ("place", "type", *TRADE_MEMBERS, "balance", "credit", *ASKED)

# The last place that is from an older version of the ledger, or 0: up to it less was
# recorded.
FORMER: Final = "SELECT ifnull(max(head), 0) FROM life WHERE cause = 'upgraded'"

# Before the first commit.
NO_HASH: Final = bytes(32)

_encodeLines: Final = Encoder().encode_lines
_decode: Final = Decoder().decode

_REPLAY: Final = f"""
    SELECT {columns(MEMBERS)} FROM journal WHERE principal = ? AND key = ?
"""
# One row with everything in a JSON array: sqlite3 releases the GIL for each row, and a
# thread beside a busy reactor waits each time to get it back.
_EVENTS: Final = f"""
    SELECT json_group_array(json_array(place, type, {columns(TRADE_MEMBERS)}))
    FROM (SELECT * FROM journal WHERE place > ? AND place <= ? ORDER BY place)
"""
_HEAD: Final = """
    SELECT ifnull(max(place), 0), hash, (SELECT epoch FROM life ORDER BY number DESC),
           (SELECT max(place) FROM (
               SELECT place FROM trade ORDER BY "order" DESC LIMIT 1
           ))
    FROM journal
"""


def chained(previous: bytes, rows: Sequence[Row]) -> bytes:
    """
    The hash of a commit.

    @param previous: The hash of the commit before it, or L{NO_HASH}.
    """
    return sha256(previous + _encodeLines(rows)).digest()


def rowsOf(reservations: Sequence[Reservation], head: int) -> list[Row]:
    """
    The rows that book these reservations, from the place after C{head} on. Each
    reservation gets its place.
    """
    rows: list[Row] = []
    for place, each in enumerate(reservations, start=head + 1):
        each.place = place
        asked = each.operation
        openTime = closeTime = None
        if isinstance(asked, Operation):
            openTime, closeTime = asked.openTime, asked.closeTime
        rows.append(
            (
                place,
                each.type,
                *astuple(each.data),
                each.balance,
                each.credit,
                asked.principal,
                asked.role,
                asked.command,
                asked.order,
                asked.key,
                openTime,
                closeTime,
            )
        )
    return rows


def replayed(
    connection: sqlite3.Connection, principal: int, key: str
) -> Reservation | None:
    """
    The operation that was booked with this key, as it was booked.
    """
    row = connection.execute(_REPLAY, (principal, key)).fetchone()
    if row is None:
        return None
    place, eventType, *trade = row[: 2 + len(TRADE_MEMBERS)]
    balance, credit, _, role, command, order, _, openTime, closeTime = row[
        2 + len(trade) :
    ]
    booked = Trade(*trade)
    asked: AnyOperation
    if command in DECISIONS:
        asked = Decision(
            command,
            order,
            booked.state == TS_CLOSED_NORMAL,
            booked.comment,
            principal,
            key,
            role=role,
        )
    elif eventType == EV_RECORD_DELETE:
        asked = Deletion(
            command, order, frozenset({booked.cmd}), principal, key, role=role
        )
    else:
        asked = Operation(
            command=command,
            cmd=booked.cmd,
            login=booked.login,
            amount=booked.profit,
            comment=booked.comment,
            order=order,
            openTime=openTime,
            closeTime=closeTime,
            principal=principal,
            key=key,
            role=role,
            isRequest=booked.state == TS_FINANCE_OPEN_PENDING,
        )
    return Reservation(
        eventType,
        booked,
        asked,
        isReplay=True,
        balance=balance,
        credit=credit,
        place=place,
    )


def events(connection: sqlite3.Connection, after: int, limit: int) -> list[TradeEvent]:
    """
    The events at the next places after this one, in their order.

    @param limit: How many at most.
    """
    [(rows,)] = connection.execute(_EVENTS, (after, after + limit))
    return [
        TradeEvent(type, Trade(*trade), place=place)
        for place, type, *trade in _decode(rows)
    ]


def journalEnd(connection: sqlite3.Connection, path: str) -> tuple[str, int, bytes]:
    """
    The epoch, the last place, and the last hash.

    @raise LedgerDamaged: The journal does not end as the server leaves it.
    """
    [(place, hash, epoch, newest)] = connection.execute(_HEAD)
    if epoch is None or (hash is None) != (place == 0) or (newest or 0) > place:
        raise LedgerDamaged(
            f"the journal of the ledger {path} ends at place {place}, and rows are"
            f" missing after it: find out which other program wrote to it, or restore"
            f" a backup"
        )
    return epoch, place, hash or NO_HASH
