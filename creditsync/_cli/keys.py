"""
The keys of a bulk file: whether one stands there twice.
"""

from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from creditsync._cli.rows import Row
from creditsync._cli.spreadsheet import Problem

_PARTS: Final = 256


class Keys:
    """
    The keys that were seen, in eight bytes each, whatever their length: what
    is kept is a hash. Keys that share one are compared in a second reading.
    """

    def __init__(self) -> None:
        # In parts, as one set of all would take ten times the memory.
        self._parts = [array("q") for _ in range(_PARTS)]

    def add(self, key: str) -> None:
        """
        See a key.
        """
        number = hash(key)
        self._parts[number % _PARTS].append(number)

    def repeats(self, rows: Iterable[Row | Problem], most: int) -> Iterator[Problem]:
        """
        Find the rows that have the key of an earlier one.

        @param rows: All rows of the file once more; they are not read if no
            key can stand there twice.
        @param most: How many are wanted. For a file with more of them, these
            are not the first ones.
        """
        suspects = set(islice(self._repeated(), most))
        if not suspects:
            return
        lines: dict[str, int] = {}
        for row in rows:
            if isinstance(row, Row) and hash(row.key) in suspects:
                first = lines.setdefault(row.key, row.line)
                if first != row.line:
                    yield Problem(f"line {row.line}: has the key of line {first}")

    def _repeated(self) -> Iterator[int]:
        for part in self._parts:
            seen: set[int] = set()
            for number in part:
                if number in seen:
                    yield number
                seen.add(number)
