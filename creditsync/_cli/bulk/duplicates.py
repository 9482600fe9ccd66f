"""
Finds rows of a bulk file that have the same idempotency key.
"""

from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from creditsync._cli.bulk.rows import Row
from creditsync._cli.bulk.spreadsheet import RowProblem

_PARTS: Final = 256


class KeyIndex:
    """
    The keys of the rows in eight bytes each, whatever their length: only a hash
    is kept. Keys with the same hash are compared when the rows are read once
    more.
    """

    def __init__(self) -> None:
        # In parts, because one set of all hashes would take ten times the memory.
        self._parts = [array("q") for _ in range(_PARTS)]

    def add(self, key: str) -> None:
        """
        Add the key of a row.
        """
        number = hash(key)
        self._parts[number % _PARTS].append(number)

    def repeats(
        self, rows: Iterable[Row | RowProblem], limit: int
    ) -> Iterator[RowProblem]:
        """
        Find the rows that have the key of an earlier one.

        @param rows: All rows of the file once more. They are not read if no two
            keys have the same hash.
        @param limit: How many are wanted. If the file has more, those that are
            found are not the first ones.
        """
        suspects = set(islice(self._repeated(), limit))
        if not suspects:
            return
        lines: dict[str, int] = {}
        for row in rows:
            if isinstance(row, Row) and hash(row.key) in suspects:
                first = lines.setdefault(row.key, row.line)
                if first != row.line:
                    yield RowProblem(
                        f"line {row.line}: has the same key as line {first}"
                    )

    def _repeated(self) -> Iterator[int]:
        for part in self._parts:
            seen: set[int] = set()
            for number in part:
                if number in seen:
                    yield number
                seen.add(number)
