"""
An auditor, who knows docs/ledger.rst and none of the server's code.

The L{Auditor} reads a ledger's journal as it grows, and recomputes what the document
says of it: places without a gap, the chain of hashes, the totals after each row, and
the present state that the rows add up to. It remembers how far it has read, and the
next audit begins there.
"""

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

from attrs import Factory, define, field

from tests.family import BOOKED, COLUMNS, TOTALS

Row = Sequence[Any]

# The columns before the hash.
_WIDTH = 20
# In the order of the columns.
_TOTALS = ("balance", "credit")


@define(eq=False)
class Auditor:
    """
    An audit of one ledger.

    @ivar place: The last place of the last whole commit.
    @ivar hash: The hash of that commit.
    """

    place: int = 0
    hash: bytes = bytes(32)
    _totals: dict[int, list[int]] = field(factory=dict, init=False)
    # The last row of each order, and the number of its rows.
    _last: dict[int, tuple[Row, int]] = Factory(dict)

    def flaw(self, select: Callable[[str], Sequence[Row]]) -> str | None:
        """
        Read on.

        @param select: Executes a statement on the ledger.
        @return: What is wrong, or L{None}.
        """
        [[noted]] = select(
            f"SELECT ifnull(max(hash), zeroblob(32)) FROM journal"
            f" WHERE place = {self.place}"
        )
        if noted != self.hash:
            return f"place {self.place} had another hash before"
        text, changed = b"", set()
        expected = self.place
        for row in select(
            f"SELECT * FROM journal WHERE place > {self.place} ORDER BY place"
        ):
            expected += 1
            if row[0] != expected:
                return f"place {expected} is missing: {row}"
            wrong = self._book(row)
            if wrong is not None:
                return wrong
            changed.add(row[2])
            text += (
                json.dumps(
                    row[:_WIDTH], ensure_ascii=False, separators=(",", ":")
                ).encode()
                + b"\n"
            )
            if row[_WIDTH] is not None:
                self.hash, text = sha256(self.hash + text).digest(), b""
                self.place = row[0]
                if self.hash != row[_WIDTH]:
                    return f"the hash of place {self.place} is wrong"
        if text:
            return f"the rows after place {self.place} have no hash"
        return self._wrongState(select, changed)

    def _book(self, row: Row) -> str | None:
        """
        Add up a row.
        """
        place, type, order, login, cmd, state, profit = row[:7]
        before, count = self._last.get(order, (None, 0))
        if (type == 0) != (before is None):
            return f"place {place} has type {type} after {before}"
        # The role is only there if the operation came with a token.
        if None in (*row[11:14], *row[15:17]):
            return f"something was not recorded: {row}"
        units = profit if state == BOOKED else 0
        if before is not None and before[5] == BOOKED:
            units -= before[6]
        totals = self._totals.setdefault(login, [0, 0])
        totals[_TOTALS.index(TOTALS[cmd])] += units
        if totals != list(row[11:13]):
            return f"the totals after place {place} are {totals}: {row}"
        self._last[order] = row, count + 1
        return None

    def _wrongState(
        self, select: Callable[[str], Sequence[Row]], orders: set[int]
    ) -> str | None:
        """
        How the present state differs from what the journal adds up to.
        """
        for order in orders:
            row, count = self._last[order]
            found = select(
                f'SELECT {COLUMNS}, revision, place FROM trade WHERE "order" = {order}'
            )
            wanted = [*row[2:11], count - 1, row[0]]
            if [list(each) for each in found] != [wanted]:
                return f"order {order} is {found}, and should be {wanted}"
        for login in {self._last[order][0][3] for order in orders}:
            found = select(f"SELECT balance, credit FROM account WHERE login = {login}")
            if [list(each) for each in found] != [self._totals[login]]:
                return f"login {login} has {found}, expected {self._totals[login]}"
        return None
