"""
The ledger in an SQLite file.

One connection writes and checkpoints; a second one, read-only, answers
L{SQLiteLedger.trade} and L{SQLiteLedger.account} in the reactor's thread. A
lock file beside the database keeps other processes out: SQLite 3.7.0 to 3.51.2
can damage a WAL file when two connections write at once.

L{creditsync.ledger._appending} has the statement of a commit, and
L{creditsync.ledger._opening} has what happens before the first order.

A client may learn an order number (from a 504) although its trade is not yet
committed, or never will be. Numbers are therefore reserved on disk, a block at a
time, before the first of them is assigned. After a crash the rest of the block
is skipped, so no number is ever assigned twice.
"""

import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from typing import Any, Final, TypeAlias, TypeVar

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred
from twisted.python.failure import Failure
from zope.interface import implementer

from creditsync.errors import Busy, LedgerProblem
from creditsync.interfaces import ILedger
from creditsync.ledger._appending import MAX_ROWS, appending
from creditsync.ledger._filtering import groups, search
from creditsync.ledger._journal import (
    NO_HASH,
    chained,
    events,
    journalEnd,
    replayed,
    rowsOf,
)
from creditsync.ledger._movements import movements
from creditsync.ledger._opening import (
    checkFiles,
    checkKind,
    closeAlone,
    connectReader,
    connectWriter,
    explainErrors,
    giveAway,
    prepare,
    releaseLock,
    sync,
    takeLock,
    versionOf,
)
from creditsync.ledger._presence import Presence
from creditsync.ledger._reading import reading
from creditsync.ledger._schema import COLUMNS, SCRIPTS
from creditsync.ledger._upgrading import Progress, loggedProgress
from creditsync.records import (
    Account,
    FoundTrades,
    GroupedTrade,
    Movement,
    Reservation,
    Trade,
    TradeEvent,
    TradeFilter,
)

_T = TypeVar("_T")

# The mark, the last place and the last hash that are on disk.
_End: TypeAlias = tuple[int, int, bytes]

# Gives statements, each with its parameters.
Also: TypeAlias = Callable[[], Iterable[tuple[str, Sequence[Any]]]]

# Order numbers reserved at a time.
BLOCK: Final = 100_000

_SET_MARK: Final = "UPDATE order_mark SET next_order = ?"

_SET_GROUP: Final = """
    INSERT INTO account (login, "group") VALUES (?, ?)
    ON CONFLICT (login) DO UPDATE SET "group" = excluded."group"
"""

# Instructions of SQLite's virtual machine, some tenths of a second, after which an
# opening looks whether it is still wanted. It needs the GIL for that.
_PROGRESS: Final = 10_000_000

# What opening has made: the connection that writes, the two that read, and the next
# order.
_Opened: TypeAlias = tuple[
    sqlite3.Connection, sqlite3.Connection, sqlite3.Connection, int
]


@implementer(ILedger)
@define(eq=False)
class SQLiteLedger:
    """
    A ledger that outlives its process.

    @ivar path: The database file; its C{-wal}, C{-shm} and C{.lock} are beside it.
    @ivar _run: Calls a blocking function in another thread, as an
        L{OwnThread<creditsync.ledger.thread.OwnThread>} does; the Deferred fires
        when the function has returned.
    @ivar _progress: Called during an upgrade with the number of rows that are
        written, and of all; by default the log has it every few seconds.
    @ivar _isGateways: Whether the orders are those of another platform. A ledger is of
        one kind for ever.
    @ivar versionFound: The version that the file had; 0 for a new one.
    @ivar _next: The order number to assign next.
    @ivar _mark: The first number that is not reserved on disk.
    @ivar _stream: The connection of L{events}, which may be used by another thread.
    @ivar _hash: The hash of the last commit.
    @ivar _files: Those that were opened.
    """

    path: str
    _run: Callable[[Callable[[], None]], Deferred[None]]
    _progress: Progress = field(factory=loggedProgress)
    _isGateways: bool = False
    versionFound: int = field(default=0, init=False)
    _held: ExitStack | None = field(default=None, init=False)
    _writer: sqlite3.Connection | None = field(default=None, init=False)
    _reader: sqlite3.Connection | None = field(default=None, init=False)
    _stream: sqlite3.Connection | None = field(default=None, init=False)
    _epoch: str = field(default="", init=False)
    _head: int = field(default=0, init=False)
    _hash: bytes = field(default=NO_HASH, init=False)
    _files: Presence | None = field(default=None, init=False)
    _next: int = field(default=0, init=False)
    _mark: int = field(default=0, init=False)
    _isOpening: bool = field(default=False, init=False)
    _committing: bool = field(default=False, init=False)
    _failed: bool = field(default=False, init=False)

    def open(self) -> "Deferred[None] | None":
        """
        Lock and check the file. Then, in the other thread, create or upgrade the
        tables, prove the totals, and reserve the first order numbers.

        @return: L{None} if C{_run} has done so already, or a Deferred that fires
            when it is done, or fails with one of these:
        @raise LedgerInUse: Another process has it open.
        @raise LedgerDamaged: It breaks an invariant, or is not a creditsync ledger.
        @raise LedgerProblem: It can't be used for another reason.
        """
        assert self._held is None, "the ledger is open"
        # Two symbolic links to one file must not lead to two locks.
        path = os.path.realpath(self.path)
        with ExitStack() as held, explainErrors(path):
            # These are released in the opposite order, so the read-only connection
            # is closed first: the last one to close copies the WAL file into the
            # database, which a read-only one can't.
            held.callback(releaseLock, takeLock(path))
            checkFiles(path)
            isNew = not os.path.exists(path)
            writer = connectWriter(path)
            held.callback(closeAlone, writer, path)
            if isNew:
                # The first statement creates the file, and giveAway() needs it.
                writer.execute("PRAGMA user_version")
                giveAway(path, os.path.dirname(path))
            # Also known to those who wait for a daemon's start.
            versionOf(writer, path, len(SCRIPTS))
            self._held = held.pop_all()
        self._isOpening = True
        made: list[_Opened] = []
        opened = self._run(lambda: made.append(self._prove(writer, path)))
        return _raisedAtOnce(opened.addBoth(self._opened, made))

    def _prove(self, writer: sqlite3.Connection, path: str) -> _Opened:
        """
        Do what takes longer with a large ledger.
        """
        assert self._held is not None
        with explainErrors(path):
            writer.set_progress_handler(lambda: not self._isOpening, _PROGRESS)
            self.versionFound, order = prepare(writer, path, SCRIPTS, self._progress)
            self._epoch, self._head, self._hash = journalEnd(writer, path)
            checkKind(writer, path, self._isGateways)
            writer.execute(_SET_MARK, (order + BLOCK,))
            # SQLite syncs the folder of its new WAL file too, but ignores an error.
            # A power failure could then lose the file, and with it acknowledged
            # operations.
            sync(os.path.dirname(path))
            reader, stream = (
                self._held.enter_context(closing(connectReader(path))) for _ in range(2)
            )
            writer.set_progress_handler(None, 0)
            self._files = Presence.now(path)
            return writer, reader, stream, order

    def _opened(self, result: Failure | None, made: list[_Opened]) -> Failure | None:
        isWanted, self._isOpening = self._isOpening, False
        if isinstance(result, Failure):
            # If it was only cancelled, the thread may still be at it.
            if self._held is not None and not result.check(CancelledError):
                held, self._held = self._held, None
                held.close()
            return result
        [(self._writer, self._reader, self._stream, order)] = made
        self._next, self._mark = order, order + BLOCK
        if not isWanted:
            self.close()
            raise LedgerProblem(f"the ledger {self.path} was closed while it opened")
        return None

    def close(self) -> None:
        """
        Return the order numbers that were not assigned, and release everything. If
        it is being opened, that fails soon, and releases everything then.

        No commit may be pending. Calling it again does nothing.
        """
        assert not self._committing, "a commit is pending"
        held, writer, files = self._held, self._writer, self._files
        if held is None or writer is None or files is None:
            self._isOpening = False
            return
        self._held = self._writer = self._reader = self._stream = None
        self._mark = self._next
        with held:
            if not self._failed:
                # What is gone is noted for the next start.
                with suppress(LedgerProblem):
                    files.check()
                writer.execute(_SET_MARK, (self._next,))
                # Closing does so too, but not while another process is reading.
                writer.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def newOrder(self) -> int:
        """
        Assign the next of the reserved numbers.

        @raise Busy: None is left until the next commit.
        """
        order = self._next
        if order >= self._mark:
            raise Busy("all reserved order numbers are assigned")
        self._next = order + 1
        return order

    def trade(self, order: int) -> Trade | None:
        """
        The committed trade with this order.
        """
        row = self._read(f'SELECT {COLUMNS} FROM trade WHERE "order" = ?', order)
        return None if row is None else Trade(*row)

    def placeOf(self, order: int) -> int | None:
        """
        The place of this order's last committed change.
        """
        row = self._read('SELECT place FROM trade WHERE "order" = ?', order)
        return None if row is None else row[0]

    def principalOf(self, order: int) -> int | None:
        """
        Who has requested this order's last committed change.
        """
        row = self._read(
            "SELECT principal FROM journal JOIN trade USING (place)"
            ' WHERE trade."order" = ?',
            order,
        )
        return None if row is None else row[0]

    @property
    def epoch(self) -> str:
        """
        Tells the places of this ledger from those of others.
        """
        return self._epoch

    @property
    def head(self) -> int:
        """
        The last committed place.
        """
        return self._head

    def events(self, after: int, limit: int) -> list[TradeEvent]:
        """
        The committed events at the next places after this one, in their order.
        Another thread may call this.
        """
        assert self._stream is not None, "the ledger is not open"
        return events(self._stream, after, limit)

    def movements(self, day: int, upTo: int) -> list[Movement]:
        """
        The sums of what was booked on this day, up to this place. Another thread may
        call this: it has a connection of its own.

        @raise LedgerProblem: The ledger can't be read, or was closed meanwhile.
        """
        with reading(self.path) as connection:
            connection.set_progress_handler(lambda: self._held is None, _PROGRESS)
            found = movements(connection, day, upTo)
        if self._held is None:
            raise LedgerProblem(f"the ledger {self.path} was closed while it was read")
        return found

    def account(self, login: int) -> Account | None:
        """
        This account, with its committed totals.
        """
        row = self._read(
            'SELECT login, balance, credit, "group" FROM account WHERE login = ?', login
        )
        return None if row is None else Account(*row)

    def replay(self, principal: int, key: str) -> Reservation | None:
        """
        The operation that was committed with this key.
        """
        assert self._reader is not None, "the ledger is not open"
        return replayed(self._reader, principal, key)

    def groups(self) -> list[str]:
        """
        The groups of all accounts. Another thread may call this.
        """
        with reading(self.path) as connection:
            return groups(connection)

    def search(
        self, filter: TradeFilter, page: Callable[[Sequence[GroupedTrade]], _T]
    ) -> FoundTrades[_T]:
        """
        The committed trades that a filter selects. Another thread may call this.
        """
        with reading(self.path) as connection:
            return search(connection, filter, page)

    def noteOrder(self, order: int) -> None:
        """
        Take note of an order that another system has assigned. It may be committed
        from now on, and the numbers of L{newOrder} are above it.
        """
        self._next = max(self._next, order + 1)

    def select(self, statement: str, *values: int | str) -> list[tuple[Any, ...]]:
        """
        The committed rows that a statement selects.
        """
        assert self._reader is not None, "the ledger is not open"
        return self._reader.execute(statement, values).fetchall()

    def commit(
        self, reservations: Sequence[Reservation], also: Also | None = None
    ) -> Deferred[None]:
        """
        Append these reservations to the journal in one transaction, which also
        updates their trades and their accounts' totals.

        @param also: Gives what else the transaction executes, once the reservations
            have their places.
        @return: Fires when all of it is on disk. If it fails, it is unknown what
            is on disk, and every later commit fails at once: only opening the
            ledger again can tell.
        """
        assert reservations or also
        assert not self._committing, "a commit is pending"
        # Such an order could be above the mark, and the next start would then
        # report a damaged ledger.
        assert all(0 < each.order < self._next for each in reservations), (
            "an order was never assigned"
        )
        assert all(each.balance is not None for each in reservations), (
            "the totals after an operation are missing"
        )
        if self._failed:
            return fail(LedgerProblem("a previous commit failed: reopen the ledger"))
        self._committing = True
        return maybeDeferred(self._book, reservations, also).addBoth(self._ended)

    def setGroups(self, groups: Mapping[int, str]) -> Deferred[None]:
        """
        Move accounts to groups, and open those that don't exist, in one transaction.

        @return: As L{commit}.
        """
        writer, files = self._writer, self._files
        assert writer is not None and files is not None, "the ledger is not open"
        assert not self._committing, "a commit is pending"
        if self._failed:
            return fail(LedgerProblem("a previous commit failed: reopen the ledger"))
        self._committing = True
        end = self._mark, self._head, self._hash

        def write() -> None:
            files.check()
            with writer:
                writer.execute("BEGIN IMMEDIATE")
                writer.executemany(_SET_GROUP, list(groups.items()))

        return self._run(write).addCallback(lambda _: end).addBoth(self._ended)

    def addAccounts(self, logins: Iterable[int], group: str = "") -> list[int]:
        """
        Open accounts with empty totals in a group, in one transaction.

        @return: Those that did not exist before.
        """
        writer = self._writer
        assert writer is not None, "the ledger is not open"
        assert not self._committing, "a commit is pending"
        new = [login for login in dict.fromkeys(logins) if self.account(login) is None]
        with writer:
            writer.execute("BEGIN IMMEDIATE")
            writer.executemany(
                'INSERT INTO account (login, "group") VALUES (?, ?)',
                [(login, group) for login in new],
            )
        return new

    def _book(
        self, reservations: Sequence[Reservation], also: Also | None
    ) -> Deferred[_End]:
        """
        Write the batch in the other thread. If less than half a block of order
        numbers is left, reserve more first.

        @return: Fires with what is now on disk.
        """
        writer, files = self._writer, self._files
        assert writer is not None and files is not None, "the ledger is not open"
        rows = rowsOf(reservations, self._head)
        place, hash = self._head, self._hash
        if rows:
            place, hash = rows[-1][0], chained(hash, rows)
        statements = [
            appending(rows[at : at + MAX_ROWS], hash, place)
            for at in range(0, len(rows), MAX_ROWS)
        ]
        others = [] if also is None else list(also())
        mark = self._mark
        low = mark - self._next < BLOCK // 2
        if low:
            mark = self._next + BLOCK

        def write() -> None:
            files.check()
            if low:
                writer.execute(_SET_MARK, (mark,))
            # This ends the transaction, if one was begun.
            with writer:
                if len(statements) + len(others) > 1:
                    writer.execute("BEGIN IMMEDIATE")
                for statement, values in (*statements, *others):
                    writer.execute(statement, values)

        end = mark, place, hash
        return self._run(write).addCallback(lambda _: end)

    def _ended(self, result: _End | Failure) -> Failure | None:
        """
        Note that a commit has ended, with what is on disk or with a failure.
        """
        self._committing = False
        if isinstance(result, Failure):
            self._failed = True
            return result
        self._mark, self._head, self._hash = result
        return None

    def _read(self, statement: str, *key: int | str) -> Any:
        """
        The one row with this key, or C{None}.
        """
        assert self._reader is not None, "the ledger is not open"
        return self._reader.execute(statement, key).fetchone()


def _raisedAtOnce(opened: Deferred[None]) -> Deferred[None] | None:
    """
    What has not fired yet; what has fired already is done, or raised.
    """
    if not opened.called:
        return opened
    problems: list[Failure] = []
    opened.addErrback(problems.append)
    for each in problems:
        each.raiseException()
    return None
