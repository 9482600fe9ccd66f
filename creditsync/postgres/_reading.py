"""
Reading a ledger on PostgreSQL with the statements of L{creditsync.ledger}, whether or
not nodes book there, and on a standby too.

Everything is read as it is at one moment, in a transaction that can't write. As long as
it is open the server keeps the old versions of rows that change meanwhile, so it should
be short.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any, Final, TypeAlias

from attrs import define, field
from psycopg.types.numeric import IntLoader

from creditsync.ledger._journal import MEMBERS
from creditsync.ledger._schema import columns
from creditsync.ledger._source import Rows
from creditsync.postgres._blocking import CommandSession, connected
from creditsync.postgres._schema import IS_MADE, STREAM, VERSION

_Values: TypeAlias = Sequence[Any] | Mapping[str, Any]

# Rows that are fetched at a time.
_PAGE: Final = 1000

# What stands for the tables of SQLite. Each is merged into the statement that uses it,
# so that the indexes of its table are used. The schema is asked only whether the ledger
# is a gateway's.
_TABLES: Final = f"""
    journal AS NOT MATERIALIZED (
        SELECT event.seq AS place, {columns(MEMBERS[1:])}, link.hash
        FROM event LEFT JOIN link ON link.stream = event.stream AND link.hi = event.seq
        WHERE event.stream = {STREAM}
    ),
    trade AS NOT MATERIALIZED (SELECT *, seq AS place FROM trade),
    life AS NOT MATERIALIZED (SELECT * FROM life WHERE stream = {STREAM}),
    order_mark AS NOT MATERIALIZED (SELECT next AS next_order FROM block),
    sqlite_schema AS NOT MATERIALIZED (
        SELECT 'intent' AS name WHERE to_regclass('intent') IS NOT NULL
    )
"""

_BEGIN: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
# All rows are wanted, not only the first.
_PLAN: Final = "SET LOCAL cursor_tuple_fraction = 1"


@define(eq=False)
class PostgresSource:
    """
    A L{Source<creditsync.ledger._source.Source>} on PostgreSQL.
    """

    session: CommandSession
    _cursors: ExitStack
    _numbers: Iterator[int] = field(init=False, factory=count)

    @property
    def place(self) -> str:
        """
        The server, for people.
        """
        return self.session.place

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> Rows:
        """
        Select rows by a statement that names the tables of SQLite.
        """
        begin, rest = statement.split(maxsplit=1)
        rest = f", {rest}" if begin == "WITH" else f"{begin} {rest}"
        rest = rest.replace("%", "%%").replace("?", "%s")
        return self.select(f"WITH {_TABLES}{rest}", values)

    def select(self, statement: str, values: _Values = ()) -> Rows:
        """
        Select rows by a statement of PostgreSQL.
        """
        # A cursor with a name fetches page by page.
        name = f"creditsync_{next(self._numbers)}"
        cursor = self._cursors.enter_context(self.session.session.cursor(name))
        cursor.itersize = _PAGE
        rows: Rows = cursor.execute(statement.encode(), values)
        return rows


@contextmanager
def reading(address: str, command: str) -> Iterator[PostgresSource]:
    """
    Open a ledger to read it as it is at this moment.

    @param command: Who reads, for the server's administrator.
    @raise LedgerProblem: It can't be read.
    """
    with connected(address, command) as session:
        # All of these numbers are whole ones: sums.
        session.session.adapters.register_loader("numeric", IntLoader)
        session.checkReadable()
        session.rows(_BEGIN)
        session.rows(_PLAN)
        with ExitStack() as cursors:
            yield PostgresSource(session, cursors)


def versionOf(session: CommandSession) -> int:
    """
    The version of the tables; 0 if there are none.
    """
    [(isMade,)] = session.rows(IS_MADE)
    if not isMade:
        return 0
    [(version,)] = session.rows(VERSION)
    return int(version)
