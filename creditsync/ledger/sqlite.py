"""
The ledger in an SQLite file.

One connection writes and checkpoints; a second one, read-only, answers
L{SQLiteLedger.trade} and L{SQLiteLedger.account} in the reactor's thread. A
lock file beside the database keeps other processes out: SQLite 3.7.0 to 3.51.2
can damage a WAL file when two connections write at once.

A batch of up to 1,024 trades is one statement, which is also its transaction.
The GIL is the reason: C{execute} releases it, and a thread beside a busy reactor
can wait 5 ms (C{sys.getswitchinterval}) to get it back. With BEGIN, a statement
for each row and COMMIT it would wait each time. So a statement has all values of
its rows as parameters, and the triggers in C{002.sql} update the totals.

SQLite takes as long to prepare such a statement as to execute it. So there is one
for each power of two, which is prepared when it is first needed and then cached;
if a batch has fewer rows, the rest is filled with rows that the statement skips.
A larger batch takes several of the largest statements in one transaction.

L{creditsync.ledger._opening} has what happens before the first order.

A client may learn an order number (from a 504) although its trade is not yet
committed, or never will be. Numbers are therefore reserved on disk, a block at a
time, before the first of them is assigned. After a crash the rest of the block
is skipped, so no number is ever assigned twice.
"""

import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from functools import cache
from typing import Any, Final, TypeAlias

from attrs import define, field
from msgspec.structs import astuple
from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred
from twisted.python.failure import Failure
from zope.interface import implementer

from creditsync._locking import ALONE, folderLocked
from creditsync.codes import EV_RECORD_DELETE
from creditsync.errors import Busy, LedgerProblem
from creditsync.interfaces import ILedger
from creditsync.ledger._checking import firstOrder
from creditsync.ledger._opening import (
    checkFiles,
    connectReader,
    explainErrors,
    giveAway,
    prepare,
    releaseLock,
    sync,
    takeLock,
    versionOf,
)
from creditsync.ledger._operations import tryMethods
from creditsync.ledger._schema import ASKED, COLUMNS, SCRIPTS
from creditsync.records import (
    TRADE_MEMBERS,
    Account,
    Deletion,
    Operation,
    Reservation,
    Trade,
)

# Order numbers reserved at a time.
BLOCK: Final = 100_000

# Rows of the largest statement. SQLite allows 32,766 parameters, and a row with a
# key has 16.
_MAX_ROWS: Final = 1024

_BOOK: Final = f"""
    INSERT INTO trade ({COLUMNS})
    {{rows}}
    ON CONFLICT ("order") DO UPDATE SET
        {", ".join(f"{name} = excluded.{name}" for name in TRADE_MEMBERS[1:])},
        revision = revision + 1
"""

# The same through a view that also records keys, which is slower.
_BOOK_KEYED: Final = f"""
    INSERT INTO keyed_booking ({", ".join(ASKED)}, {COLUMNS})
    {{rows}}
"""

# All values of a row that is skipped. The first value of a real row is an integer,
# so it can't be this. NULL would be clearer, but sqlite3 binds it much more slowly.
_NO_VALUE: Final = 0.5

_REPLAY: Final = f"""
    SELECT command, type, asked_order, asked_open_time, asked_close_time, {COLUMNS}
    FROM keyed_operation WHERE principal = ? AND key = ?
"""

_SET_MARK: Final = "UPDATE order_mark SET next_order = ?"

# Seconds that a commit waits if another program has the database locked, which
# none should. After that the commit fails, and the server stops.
_LOCK_TIMEOUT: Final = 30.0

# Instructions of SQLite's virtual machine, some tenths of a second, after which an
# opening looks whether it is still wanted. It needs the GIL for that.
_PROGRESS: Final = 10_000_000

# What opening has made: the connection that writes, the one that reads, and the next
# order.
_Opened: TypeAlias = tuple[sqlite3.Connection, sqlite3.Connection, int]


@implementer(ILedger)
@define(eq=False)
class SQLiteLedger:
    """
    A ledger that outlives its process.

    @ivar path: The database file; its C{-wal}, C{-shm} and C{.lock} are beside it.
    @ivar _run: Calls a blocking function in another thread, as an
        L{OwnThread<creditsync.ledger.thread.OwnThread>} does; the Deferred fires
        when the function has returned.
    @ivar _next: The order number to assign next.
    @ivar _mark: The first number that is not reserved on disk.
    """

    path: str
    _run: Callable[[Callable[[], None]], Deferred[None]]
    _held: ExitStack | None = field(default=None, init=False)
    _writer: sqlite3.Connection | None = field(default=None, init=False)
    _reader: sqlite3.Connection | None = field(default=None, init=False)
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
            writer = _connect(path)
            held.callback(_closeAlone, writer, path)
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
            prepare(writer, path, SCRIPTS)
            order = firstOrder(writer, path)
            tryMethods(writer, path)
            writer.execute(_SET_MARK, (order + BLOCK,))
            # SQLite syncs the folder of its new WAL file too, but ignores an error.
            # A power failure could then lose the file, and with it acknowledged
            # operations.
            sync(os.path.dirname(path))
            reader = self._held.enter_context(closing(connectReader(path)))
            writer.set_progress_handler(None, 0)
            return writer, reader, order

    def _opened(self, result: Failure | None, made: list[_Opened]) -> Failure | None:
        isWanted, self._isOpening = self._isOpening, False
        if isinstance(result, Failure):
            # If it was only cancelled, the thread may still be at it.
            if self._held is not None and not result.check(CancelledError):
                held, self._held = self._held, None
                held.close()
            return result
        [(self._writer, self._reader, order)] = made
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
        held, writer = self._held, self._writer
        if held is None or writer is None:
            self._isOpening = False
            return
        self._held = self._writer = self._reader = None
        self._mark = self._next
        with held:
            if not self._failed:
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

    def account(self, login: int) -> Account | None:
        """
        The committed totals of this account.
        """
        row = self._read(
            "SELECT login, balance, credit FROM account WHERE login = ?", login
        )
        return None if row is None else Account(*row)

    def replay(self, principal: int, key: str) -> Reservation | None:
        """
        The operation that was committed with this key.
        """
        row = self._read(_REPLAY, principal, key)
        if row is None:
            return None
        command, eventType, order, openTime, closeTime, *trade = row
        booked = Trade(*trade)
        asked: Operation | Deletion
        if eventType == EV_RECORD_DELETE:
            asked = Deletion(command, order, frozenset({booked.cmd}), principal, key)
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
            )
        return Reservation(eventType, booked, asked, isReplay=True)

    def commit(self, reservations: Sequence[Reservation]) -> Deferred[None]:
        """
        Write the trades of these reservations, update their accounts' totals
        and record their keys, in one transaction.

        @return: Fires when all of it is on disk. If it fails, it is unknown what
            is on disk, and every later commit fails at once: only opening the
            ledger again can tell.
        """
        assert reservations
        assert not self._committing, "a commit is pending"
        # Such an order could be above the mark, and the next start would then
        # report a damaged ledger.
        assert all(0 < each.order < self._next for each in reservations), (
            "an order was never assigned"
        )
        if self._failed:
            return fail(LedgerProblem("a previous commit failed: reopen the ledger"))
        self._committing = True
        return maybeDeferred(self._book, reservations).addBoth(self._ended)

    def addAccounts(self, logins: Iterable[int]) -> list[int]:
        """
        Open accounts with empty totals, in one transaction.

        @return: Those that did not exist before.
        """
        writer = self._writer
        assert writer is not None, "the ledger is not open"
        assert not self._committing, "a commit is pending"
        new = [login for login in dict.fromkeys(logins) if self.account(login) is None]
        with writer:
            writer.execute("BEGIN IMMEDIATE")
            writer.executemany(
                "INSERT INTO account (login) VALUES (?)", [(login,) for login in new]
            )
        return new

    def _book(self, reservations: Sequence[Reservation]) -> Deferred[int]:
        """
        Write the batch in the other thread. If less than half a block of order
        numbers is left, reserve more first.

        @return: Fires with the mark that is now on disk.
        """
        writer = self._writer
        assert writer is not None, "the ledger is not open"
        statements = [
            _booking(reservations[at : at + _MAX_ROWS])
            for at in range(0, len(reservations), _MAX_ROWS)
        ]
        mark = self._mark
        low = mark - self._next < BLOCK // 2
        if low:
            mark = self._next + BLOCK

        def write() -> None:
            if low:
                writer.execute(_SET_MARK, (mark,))
            # This ends the transaction, if one was begun.
            with writer:
                if len(statements) > 1:
                    writer.execute("BEGIN IMMEDIATE")
                for statement, values in statements:
                    writer.execute(statement, values)

        return self._run(write).addCallback(lambda _: mark)

    def _ended(self, result: int | Failure) -> Failure | None:
        """
        Note that a commit has ended, with the mark or with a failure.
        """
        self._committing = False
        if isinstance(result, Failure):
            self._failed = True
            return result
        self._mark = result
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


def _booking(reservations: Sequence[Reservation]) -> tuple[str, Sequence[Any]]:
    """
    The statement that books up to L{_MAX_ROWS} reservations, and its parameters.
    """
    values: list[Any] = []
    if all(each.operation.key is None for each in reservations):
        book = _BOOK
        for each in reservations:
            values += astuple(each.data)
    else:
        book = _BOOK_KEYED
        for each in reservations:
            values += _keyed(each)
            values += astuple(each.data)
    count = len(reservations)
    width = len(values) // count
    size = 1 << (count - 1).bit_length()
    values += [_NO_VALUE] * (width * (size - count))
    return _withRows(book, width, size), values


@cache
def _withRows(book: str, width: int, size: int) -> str:
    """
    A statement with a parameter for each value of C{size} rows. It skips those
    that are only there to fill it.
    """
    row = f"({', '.join('?' * width)})"
    rows = ", ".join([row] * size)
    # LIMIT would be simpler, but with it newer versions of SQLite prepare the
    # statement again at each execution.
    return book.format(
        rows=f"SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT {_NO_VALUE}"
    )


def _keyed(reservation: Reservation) -> tuple[Any, ...]:
    """
    The values of L{ASKED}.
    """
    asked = reservation.operation
    times: tuple[int | None, int | None] = (None, None)
    if isinstance(asked, Operation):
        times = asked.openTime, asked.closeTime
    return (
        asked.principal,
        asked.key,
        asked.command,
        reservation.type,
        asked.order,
        *times,
    )


def _connect(path: str) -> sqlite3.Connection:
    """
    Open the one connection that writes.
    """
    if sqlite3.sqlite_version_info < (3, 38):
        raise LedgerProblem(
            f"SQLite {sqlite3.sqlite_version} is too old: 3.38 or newer is needed"
        )
    return sqlite3.connect(
        path, timeout=_LOCK_TIMEOUT, check_same_thread=False, isolation_level=None
    )


def _closeAlone(writer: sqlite3.Connection, path: str) -> None:
    """
    Close the connection while nobody is about to read the ledger: the last one
    to close deletes the C{-wal} and C{-shm} files, and a reader that still needs
    them would create new ones, which may keep the server from starting.
    """
    with folderLocked(os.path.dirname(path), ALONE):
        writer.close()
