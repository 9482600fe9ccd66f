"""
The proof of a ledger's journal: that its places have no gap, that its hashes are those
of its rows, and that each row follows from the rows before it.

It is one pass over all rows, in the order of their places. It remembers only orders
that were changed, because an order that was only added has no more than one row.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from attrs import Factory, define, field

from creditsync.codes import (
    EV_RECORD_ADD,
    EV_RECORD_DELETE,
    EV_RECORD_UPDATE,
    TS_CLOSED_NORMAL,
    TS_DELETED,
    TS_FINANCE_DECLINED,
    TS_FINANCE_OPEN_PENDING,
)
from creditsync.ledger._journal import FORMER, MEMBERS, NO_HASH, Row, chained
from creditsync.ledger._operations import totalOf
from creditsync.ledger._schema import columns
from creditsync.ledger._source import Source
from creditsync.methods import TOTALS

# Rows that are fetched at a time.
_PAGE: Final = 1000

_ROWS: Final = f"SELECT {columns(MEMBERS)}, hash FROM journal ORDER BY place"
_CHANGED: Final = 'SELECT DISTINCT "order" FROM journal WHERE type <> 0'

# The types of a row with a state, and the states before it; None is no such order.
_BEFORE: Final[dict[tuple[int, int], frozenset[int | None]]] = {
    (EV_RECORD_ADD, TS_CLOSED_NORMAL): frozenset({None}),
    (EV_RECORD_ADD, TS_FINANCE_OPEN_PENDING): frozenset({None}),
    (EV_RECORD_UPDATE, TS_CLOSED_NORMAL): frozenset(
        {TS_CLOSED_NORMAL, TS_FINANCE_OPEN_PENDING}
    ),
    (EV_RECORD_UPDATE, TS_FINANCE_DECLINED): frozenset({TS_FINANCE_OPEN_PENDING}),
    (EV_RECORD_DELETE, TS_DELETED): frozenset({TS_CLOSED_NORMAL}),
}

# The values of a row that have to be recorded, except in rows from an older version.
_RECORDED: Final = ("balance", "credit", "principal", "command", "asked_order")
_RECORDED_AT: Final = tuple(MEMBERS.index(name) for name in _RECORDED)

# The account's totals in a row, in the order of L{TOTALS}.
_TOTALS: Final = slice(MEMBERS.index("balance"), MEMBERS.index("credit") + 1)

# A rule's name and what is wrong.
Problem = tuple[str, str]


@define
class JournalProof:
    """
    The pass over one ledger's journal.

    @ivar noted: A hash that somebody has noted earlier, or L{None}.
    @ivar _hash: The hash of the last commit, as the ledger has it.
    @ivar _open: The rows since then.
    @ivar _totals: The totals of each login so far, in the order of L{TOTALS}.
    @ivar _before: The last row of each order that was changed.
    """

    _connection: Source
    noted: bytes | None = None
    _last: int = field(default=0, init=False)
    _hash: bytes = field(default=NO_HASH, init=False)
    _open: list[Row] = field(default=Factory(list), init=False)
    _totals: dict[int, list[int]] = field(default=Factory(dict), init=False)
    _before: dict[int, Row] = field(default=Factory(dict), init=False)
    _changed: frozenset[int] = field(default=frozenset(), init=False)
    _former: int = field(default=0, init=False)
    _isNoted: bool = field(default=False, init=False)
    _totalAt: dict[int, int] = field(default=Factory(dict), init=False)

    def problems(self) -> Iterator[Problem]:
        """
        Run it, and describe what is wrong.
        """
        select = self._connection.execute
        self._isNoted = self.noted is None
        self._changed = frozenset(order for [order] in select(_CHANGED))
        [[self._former]] = select(FORMER)
        self._totalAt = {
            cmd: TOTALS.index(total) for cmd, total in totalOf(self._connection).items()
        }
        found = select(_ROWS)
        while page := found.fetchmany(_PAGE):
            for *values, hash in page:
                row = tuple(values)
                yield from self._placed(row[0])
                yield from self._follows(row)
                self._open.append(row)
                if hash is not None:
                    yield from self._chain(hash)
        if self._open:
            yield "chain", f"places {self._range()} have no hash"
        if self.noted == NO_HASH and self._last:
            yield (
                "head",
                f"the hash {NO_HASH.hex()} is that of an empty journal, which proves"
                " nothing of this one: note the hash of a later place",
            )
        elif self.noted != NO_HASH and not self._isNoted:
            assert self.noted is not None
            yield (
                "head",
                f"no commit has the hash {self.noted.hex()}: the journal is not the"
                f" continuation of the one in which it was noted",
            )

    def _placed(self, place: int) -> Iterator[Problem]:
        missing, self._last = self._last + 1, place
        if place != missing:
            yield "place", f"the journal has place {place} where {missing} should be"

    def _chain(self, hash: bytes) -> Iterator[Problem]:
        if chained(self._hash, self._open) != hash:
            yield (
                "chain",
                f"the hash of places {self._range()} is not the hash of their rows"
                f" after the one before",
            )
        # From here on as the ledger has it: what follows is proved by itself.
        self._hash = hash
        self._open.clear()
        self._isNoted = self._isNoted or hash == self.noted

    def _range(self) -> str:
        return f"{self._open[0][0]} to {self._open[-1][0]}"

    def _follows(self, row: Row) -> Iterator[Problem]:
        """
        Whether this row is a possible continuation of the rows before it.
        """
        place, _, order, login, cmd = row[:5]
        isFormer = place <= self._former
        before = self._before.get(order)
        if order in self._changed:
            self._before[order] = row
        wrong = _wrongChange(row, before, isFormer)
        if wrong is not None:
            yield "change", f"place {place} {wrong}"
        units = _counted(row) - (0 if before is None else _counted(before))
        totals = self._totals.setdefault(login, [0] * len(TOTALS))
        if cmd in self._totalAt:
            totals[self._totalAt[cmd]] += units
        if isFormer:
            # Or the life of the older version was made to last longer, so that
            # nothing would have to be recorded.
            if row[_TOTALS] != (None, None):
                yield "recorded", f"place {place} has totals from before the upgrade"
            return
        missing = [
            name
            for name, at in zip(_RECORDED, _RECORDED_AT, strict=True)
            if row[at] is None
        ]
        if missing:
            yield "recorded", f"place {place} has no {missing[0]}"
        elif totals != list(row[_TOTALS]):
            balance, credit = row[_TOTALS]
            yield (
                "total-after",
                f"place {place} has balance {balance} and credit {credit} of account"
                f" {login}, expected {_listed(totals)}",
            )
            totals[:] = row[_TOTALS]


def _counted(row: Row) -> int:
    """
    The part of a row's trade in the account's total.
    """
    state, profit = row[5:7]
    return profit if state == TS_CLOSED_NORMAL else 0


def _listed(totals: Sequence[int]) -> str:
    return " and ".join(map(str, totals))


def _wrongChange(row: Row, before: Row | None, isFormer: bool) -> str | None:
    """
    Why a row can't follow the one before it of the same order, if it can't.
    """
    type, order, login, cmd, state, profit = row[1:7]
    possible = _BEFORE.get((type, state))
    if possible is None:
        return f"has type {type}, but state {state}"
    if type == EV_RECORD_ADD:
        return None if before is None else f"adds order {order}, which exists"
    if before is None:
        # Of an order that an older version had changed, the beginning may be missing.
        return None if isFormer else f"changes order {order}, which does not exist"
    if before[5] not in possible:
        return f"changes order {order}, {_ENDS.get(before[5], 'which is no request')}"
    if before[3:5] != (login, cmd):
        return f"changes order {order} to another login or another cmd"
    if before[5] == TS_FINANCE_OPEN_PENDING and before[6] != profit:
        return f"approves order {order} with another amount"
    return None


_ENDS: Final = {
    TS_DELETED: "which was deleted",
    TS_FINANCE_DECLINED: "which was declined",
    TS_FINANCE_OPEN_PENDING: "which was not approved",
}
