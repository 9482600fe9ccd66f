"""
What a ledger is read from: SQLite, or another engine that takes the same statements.

The statements of this package that read more than one row are in the SQL that both
engines know, with C{?} for a value. They name the tables of SQLite;
L{creditsync.postgres._reading} has what stands for these on PostgreSQL.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol


class Rows(Protocol):
    """
    What a statement selects. It is read as it is asked for, and only once.
    """

    def __iter__(self) -> Iterator[Any]:
        """
        The rows that are left.
        """

    def fetchone(self) -> Any:
        """
        The next row, or L{None}.
        """

    def fetchmany(self, size: int, /) -> list[Any]:
        """
        The next rows; none at the end.
        """

    def fetchall(self) -> list[Any]:
        """
        The rows that are left.
        """


class Source(Protocol):
    """
    A ledger as it is at one moment.
    """

    def execute(self, statement: str, values: Sequence[Any] = ..., /) -> Rows:
        """
        Select rows.
        """
