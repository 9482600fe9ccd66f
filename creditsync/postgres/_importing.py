"""
A ledger of SQLite is moved to PostgreSQL: all of it in one transaction, or nothing.

The journal keeps its places, its hashes and its epoch, so cursors and noted hashes stay
good. Before the commit both ledgers are read from the beginning to the end and
compared, and the chain of hashes is computed from what PostgreSQL returns. The rows get
the node 0, which is no server's.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import count, zip_longest
from typing import Any, Final

from attrs import define
from psycopg import sql

from creditsync.errors import LedgerProblem
from creditsync.ledger._checking import findings
from creditsync.ledger._journal import MEMBERS, NO_HASH, chained
from creditsync.ledger._opening import releaseLock, takeLock
from creditsync.ledger._reading import reading
from creditsync.ledger._schema import columns
from creditsync.postgres._blocking import CommandSession
from creditsync.postgres._numbers import SLOTS
from creditsync.postgres._restoring import blockAfter
from creditsync.postgres._schema import STREAM
from creditsync.records import TRADE_MEMBERS

Row = tuple[Any, ...]

_NODE: Final = 0
# Rows that are fetched at a time, and between two reports.
_PAGE: Final = 5000

# Of the tables that begin empty; "version", "operation" and "life" don't.
_EMPTY: Final = ("node", "link", "event", "trade", "opened", "moved", "keyed")

_TRADE: Final = (*TRADE_MEMBERS, "revision", "place")
_ACCOUNT: Final = ("login", "group", "balance", "credit")
_LIFE: Final = ("number", "epoch", "head", "cause", "timestamp")

# The columns of a row that a table has under other names.
_RENAMED: Final = {"place": "seq"}


@define
class _Table:
    """
    A table that both have, less what only PostgreSQL has.

    @ivar order: The column by which it is read.
    @ivar added: The columns that only PostgreSQL has, and their values.
    @ivar renamed: The columns that it has under other names.
    """

    source: str
    target: str
    members: Sequence[str]
    order: str
    added: Sequence[tuple[str, object]] = ()
    renamed: Mapping[str, str] = _RENAMED

    def here(self) -> str:
        """
        The statement that reads it from SQLite.
        """
        names = ", ".join(f'"{name}"' for name in self.members)
        return f'SELECT {names} FROM {self.source} ORDER BY "{self.order}"'

    def there(self) -> str:
        """
        The statement that reads it from PostgreSQL.
        """
        names = _quoted(self.members, self.renamed)
        order = _quoted([self.order], self.renamed)
        return f"SELECT {names} FROM {self.target} ORDER BY {order}"


def _quoted(names: Sequence[str], renamed: Mapping[str, str] = _RENAMED) -> str:
    return ", ".join(f'"{renamed.get(name, name)}"' for name in names)


_TABLES: Final = (
    _Table("trade", "trade", _TRADE, "order"),
    _Table("account", "opened", _ACCOUNT, "login"),
    _Table("life", "life", _LIFE, "number", [("stream", STREAM)]),
    _Table(
        "(SELECT * FROM journal WHERE key IS NOT NULL)",
        "keyed",
        ("principal", "key", "place"),
        "place",
        [("stream", STREAM)],
    ),
)
# The tables of a gateway's log; their first columns are their keys.
_GATEWAYS: Final = ("intent", "caught_up", "alarm")
_EVENTS: Final = f"SELECT {columns(MEMBERS)}, hash FROM journal ORDER BY place"
_EVENTS_THERE: Final = f"""
    SELECT {_quoted(MEMBERS)}, link.hash
    FROM event LEFT JOIN link ON link.stream = event.stream AND link.hi = event.seq
    ORDER BY event.seq
"""


@define
class Imported:
    """
    What was moved.

    @ivar head: The last place of the journal.
    @ivar hash: Its hash.
    @ivar isDoubtful: Whether a standby may lack it yet.
    """

    head: int
    hash: bytes
    trades: int
    accounts: int
    isDoubtful: bool


def importLedger(
    path: str, session: CommandSession, report: Callable[[str], None]
) -> Imported:
    """
    Move a ledger. Nobody may book on either meanwhile.

    @param path: Of the ledger on SQLite, whose server is stopped.
    @param report: Told how far it is.
    @raise LedgerProblem: Nothing was moved, and why.
    """
    with ExitStack() as stack:
        path = os.path.realpath(path)
        with reading(path):
            # It is a ledger; the lock would make a file beside anything else.
            pass
        stack.callback(releaseLock, takeLock(path))
        ledger = stack.enter_context(reading(path))
        report("checking the ledger")
        for finding in findings(ledger):
            raise LedgerProblem(
                f"the ledger {path} is not sound ({finding.message}): run creditsync"
                " check, and restore a backup"
            )
        mover = _Mover(ledger, session, report)
        with session.transaction() as commit:
            mover.checkEmpty()
            mover.makeGateway()
            mover.copy()
            mover.compare()
            imported = mover.counted()
        imported.isDoubtful = commit.isDoubtful
    mover.compareEnd(imported)
    return imported


@define
class _Mover:
    _ledger: Any
    _session: CommandSession
    _report: Callable[[str], None]
    _tables: tuple[_Table, ...] = _TABLES

    def checkEmpty(self) -> None:
        """
        @raise LedgerProblem: There is something in the tables, or a node has reserved
            numbers.
        """
        # Whoever books waits for this, and whoever reserves numbers for the next.
        self._session.rows("SELECT id FROM stream FOR UPDATE")
        [(first,)] = self._session.rows("SELECT next FROM block FOR UPDATE")
        filled = [
            name
            for name in _EMPTY
            if self._session.rows(f"SELECT 1 FROM {name} LIMIT 1")
        ]
        if filled or first != SLOTS:
            what = filled[0] if filled else "block"
            raise LedgerProblem(
                f"the tables at {self._session.place} are in use already: there are"
                f' rows in "{what}"; import into a new database, before any node has'
                " started on it"
            )

    def makeGateway(self) -> None:
        """
        Make the tables of a gateway's log, if the ledger has one.
        """
        tables = []
        for name in _GATEWAYS:
            columns = self._ledger.execute(f"PRAGMA table_info({name})").fetchall()
            if columns:
                names = [column[1] for column in columns]
                added = () if name == "caught_up" else [("batch", 0)]
                tables.append(_Table(name, name, names, names[0], added, {}))
        if tables:
            self._session.makeGateway()
            self._session.rows("DELETE FROM caught_up")
            self._tables = (*_TABLES, *tables)

    def copy(self) -> None:
        """
        Copy all rows.
        """
        node = "INSERT INTO node VALUES (%s, 'imported', -1, 0, 'import')"
        self._session.rows(node, [_NODE])
        self._session.rows("DELETE FROM life")
        self._copyJournal()
        for table in self._tables:
            self._report(f"copying {table.target}")
            names = [*table.members, *(name for name, _ in table.added)]
            added = tuple(value for _, value in table.added)
            rows = ((*row, *added) for row in self._ledger.execute(table.here()))
            self._copyRows(table.target, names, rows, table.renamed)
        [[mark, epoch]] = self._ledger.execute(
            "SELECT (SELECT next_order FROM order_mark),"
            " (SELECT epoch FROM life ORDER BY number DESC)"
        )
        self._session.rows(
            "UPDATE stream SET epoch = %s WHERE id = %s", [epoch, STREAM]
        )
        self._session.rows("UPDATE block SET next = %s", [blockAfter(mark)])

    def _copyJournal(self) -> None:
        links: list[Row] = []
        names = (*MEMBERS, "stream", "node", "batch", "item")
        self._copyRows("event", names, self._events(links))
        self._copyRows(
            "link", ("stream", "lo", "hi", "node", "batch", "hash"), iter(links)
        )

    def _events(self, links: list[Row]) -> Iterator[Row]:
        """
        The rows of the journal, each in the batch of its commit.

        @param links: Gets the row of each commit.
        """
        batch, first = 1, 1
        for *row, hash in self._ledger.execute(_EVENTS):
            place = row[0]
            if place % _PAGE == 0:
                self._report(f"copying the journal: place {place}")
            yield (*row, STREAM, _NODE, batch, place - first + 1)
            if hash is not None:
                links.append((STREAM, first, place, _NODE, batch, hash))
                batch, first = batch + 1, place + 1

    def _copyRows(
        self,
        table: str,
        names: Sequence[str],
        rows: Iterator[Sequence[Any]],
        renamed: Mapping[str, str] = _RENAMED,
    ) -> None:
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
            sql.Identifier(table),
            sql.SQL(", ").join(
                sql.Identifier(renamed.get(name, name)) for name in names
            ),
        )
        with self._session.session.cursor().copy(statement) as copy:
            for row in rows:
                copy.write_row(row)

    def compare(self) -> None:
        """
        Read both, and compare them.

        @raise LedgerProblem: They differ.
        """
        self._compareJournal()
        for table in self._tables:
            self._report(f"comparing {table.target}")
            here = self._ledger.execute(table.here())
            for ours, theirs in zip_longest(here, self._there(table.there())):
                if ours != theirs:
                    raise self._differs(f'"{table.target}"', ours, theirs)

    def _compareJournal(self) -> None:
        here = self._ledger.execute(_EVENTS)
        there = self._there(_EVENTS_THERE)
        hash, rows = NO_HASH, []
        for place, (ours, theirs) in zip(count(1), zip_longest(here, there)):
            if place % _PAGE == 0:
                self._report(f"comparing the journal: place {place}")
            if ours != theirs or ours[0] != place:
                raise self._differs("the journal", ours, theirs)
            rows.append(theirs[:-1])
            if theirs[-1] is not None:
                hash = chained(hash, rows)
                if hash != theirs[-1]:
                    raise self._differs("the chain of hashes", hash, theirs[-1])
                rows.clear()

    def _there(self, statement: str) -> Iterator[Row]:
        # With a name it fetches page by page.
        with self._session.session.cursor("creditsync") as cursor:
            cursor.itersize = _PAGE
            yield from cursor.execute(statement.encode())

    def _differs(self, what: str, ours: object, theirs: object) -> LedgerProblem:
        return LedgerProblem(
            f"{what} at {self._session.place} is not what was copied, so nothing was"
            f" imported: {ours} became {theirs}"
        )

    def counted(self) -> Imported:
        """
        How much there is.
        """
        [(head, trades, accounts)] = self._session.rows(
            "SELECT (SELECT coalesce(max(hi), 0) FROM link),"
            " (SELECT count(*) FROM trade), (SELECT count(*) FROM account)"
        )
        return Imported(head, self._lastHash(), trades, accounts, False)

    def _lastHash(self) -> bytes:
        statement = "SELECT hash FROM link ORDER BY hi DESC LIMIT 1"
        rows = self._session.rows(statement)
        return rows[0][0] if rows else NO_HASH

    def compareEnd(self, imported: Imported) -> None:
        """
        Check that what was committed is there.

        @raise LedgerProblem: It is not.
        """
        if self._lastHash() != imported.hash:
            raise LedgerProblem(
                f"what was committed at {self._session.place} is not there: restore"
                " the database, and import again"
            )
