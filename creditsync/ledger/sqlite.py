"""
The ledger in an SQLite file.

One connection writes and checkpoints; a second one, read-only, answers
L{SQLiteLedger.trade} and L{SQLiteLedger.account} in the reactor's thread. A
sidecar lock file keeps a second process out: this house runs on SQLite
versions that can damage a WAL file when two connections write at once.

A batch is one autocommit statement, because the GIL decides. A worker thread
beside a busy reactor waits for the GIL after every statement, so that BEGIN,
rows and COMMIT one by one take many times as long as one C{execute} that holds
the whole transaction with its fsync. The rows therefore are its parameters, one
for each value, and the triggers in C{002.sql} move the totals.

SQLite takes as long to prepare such a statement as to carry it out. So there is
one of each power of two, prepared when it is first needed and then kept, and a
batch that has fewer rows is filled up with some that are left out. A batch that is
larger than the largest travels as a JSON text, which costs SQLite twice as much for
each row. That JSON is an argument to SQLite and no part of the wire, so it is made
here and not in L{creditsync._wire}.

What happens before the first order is in L{creditsync.ledger._opening}.

An order number may be told to a client (in a 504) before its trade is
committed, or without it ever being. Numbers are therefore reserved durably, a
block at a time, before the first of them is given out; after a crash the rest
of the block is skipped, and nothing is given out twice.
"""

import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from functools import cache
from typing import Any, Final

from attrs import define, field
from msgspec.json import Encoder
from msgspec.structs import astuple
from twisted.internet.defer import Deferred, fail, maybeDeferred
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
    explained,
    giveAway,
    prepare,
    releaseLock,
    sync,
    takeLock,
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

# Rows in the largest statement that has a parameter for each value: SQLite
# allows 32,766 of them in one.
_LARGEST: Final = 1024

_BOOK: Final = f"""
    INSERT INTO trade ({COLUMNS})
    {{rows}}
    ON CONFLICT ("order") DO UPDATE SET
        {", ".join(f"{name} = excluded.{name}" for name in TRADE_MEMBERS[1:])},
        revision = revision + 1
"""

# The same through a view that also remembers keys, for which it takes three
# times as long.
_BOOK_KEYED: Final = f"""
    INSERT INTO keyed_booking ({", ".join(ASKED)}, {COLUMNS})
    {{rows}}
"""

# What fills up a batch: never the first value of a row, which is a whole number.
# NULL would say it better, but Python takes ten times as long to bind it.
_NO_VALUE: Final = 0.5

_REPLAY: Final = f"""
    SELECT command, type, asked_order, asked_open_time, asked_close_time, {COLUMNS}
    FROM keyed_operation WHERE principal = ? AND key = ?
"""

_SET_MARK: Final = "UPDATE order_mark SET next_order = ?"

# Seconds for which a commit waits while somebody else, against all advice, has
# the database locked; then it fails, and nobody knows what is on disk.
_PATIENCE: Final = 30.0

_encoder = Encoder()


@implementer(ILedger)
@define(eq=False)
class SQLiteLedger:
    """
    A ledger that outlives its process.

    @ivar path: The database file; its C{-wal}, C{-shm} and C{.lock} stand
        beside it.
    @ivar _run: Executes a blocking function elsewhere, as an
        L{OwnThread<creditsync.ledger.thread.OwnThread>} does, and fires when it
        has ended.
    @ivar _next: The order number that is given out next.
    @ivar _mark: The first number that is not reserved on disk.
    """

    path: str
    _run: Callable[[Callable[[], None]], Deferred[None]]
    _held: ExitStack | None = field(default=None, init=False)
    _writer: sqlite3.Connection | None = field(default=None, init=False)
    _reader: sqlite3.Connection | None = field(default=None, init=False)
    _next: int = field(default=0, init=False)
    _mark: int = field(default=0, init=False)
    _committing: bool = field(default=False, init=False)
    _failed: bool = field(default=False, init=False)

    def open(self) -> None:
        """
        Lock, create or upgrade, check, and reserve the first order numbers.

        @raise LedgerInUse: Another process has it.
        @raise LedgerDamaged: It breaks an invariant, or is no ledger of ours.
        @raise LedgerProblem: It can't be used for another reason.
        """
        assert self._held is None, "the ledger is open"
        # One file is one lock, by whatever symbolic link it was named.
        path = os.path.realpath(self.path)
        with ExitStack() as held, explained(path):
            # Let go in the opposite order, so the read-only connection goes
            # first: the last one to close empties the WAL file into the
            # database, and that one may not.
            held.callback(releaseLock, takeLock(path))
            checkFiles(path)
            # The last connection takes the files of the WAL away, which nobody may
            # do while a reader is about to open them: it would make new ones.
            isNew = not os.path.exists(path)
            writer = _connect(path)
            held.callback(_closeAlone, writer, path)
            if isNew:
                # The first statement makes the file; others come later.
                writer.execute("PRAGMA user_version")
                giveAway(path, os.path.dirname(path))
            prepare(writer, path, SCRIPTS)
            order = firstOrder(writer, path)
            tryMethods(writer, path)
            writer.execute(_SET_MARK, (order + BLOCK,))
            # SQLite syncs the folder of its new WAL file too, but takes no
            # notice of a failure: a power cut would then take the file away,
            # and with it all that was acknowledged.
            sync(os.path.dirname(path))
            reader = held.enter_context(closing(connectReader(path)))
            self._held = held.pop_all()
        self._writer, self._reader = writer, reader
        self._next, self._mark = order, order + BLOCK

    def close(self) -> None:
        """
        Put back the order numbers that were not given out, and let go.

        Nothing may be under way. It may be called again.
        """
        assert not self._committing, "a commit is under way"
        held, writer = self._held, self._writer
        self._held = self._writer = self._reader = None
        self._mark = self._next
        if held is None or writer is None:
            return
        with held:
            if not self._failed:
                writer.execute(_SET_MARK, (self._next,))
                # Closing does so too, but not beside somebody else's reader.
                writer.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def newOrder(self) -> int:
        """
        Give out the next of the reserved numbers.

        @raise Busy: There is none left until the next commit.
        """
        order = self._next
        if order >= self._mark:
            raise Busy("all reserved order numbers are given out")
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
        What was committed under this key.
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
        Write the trades of these reservations, move their accounts' totals
        and remember their keys, in one transaction.

        @return: Fires when all of it is on disk. If it fails nobody knows
            what is, and every later commit fails at once: only a new start
            finds the truth.
        """
        assert reservations
        assert not self._committing, "a commit is under way"
        # Such an order would stand above the mark, and the next start would
        # find the ledger damaged.
        assert all(0 < each.order < self._next for each in reservations), (
            "an order was never given out"
        )
        if self._failed:
            return fail(LedgerProblem("an earlier commit failed: start again"))
        self._committing = True
        return maybeDeferred(self._book, reservations).addBoth(self._ended)

    def addAccounts(self, logins: Iterable[int]) -> list[int]:
        """
        Open accounts that have nothing in them yet, in one transaction.

        @return: Those that were not there before.
        """
        assert self._writer is not None, "the ledger is not open"
        assert not self._committing, "a commit is under way"
        new = [login for login in dict.fromkeys(logins) if self.account(login) is None]
        self._writer.execute(
            "INSERT INTO account (login) SELECT value FROM json_each(?)",
            (_encoder.encode(new).decode(),),
        )
        return new

    def _book(self, reservations: Sequence[Reservation]) -> Deferred[int]:
        """
        Have the batch written elsewhere, after more numbers are reserved if
        less than half a block is left.

        @return: Fires with the mark as it now is on disk.
        """
        writer = self._writer
        assert writer is not None, "the ledger is not open"
        statement, values = _booking(reservations)
        mark = self._mark
        low = mark - self._next < BLOCK // 2
        if low:
            mark = self._next + BLOCK

        def write() -> None:
            if low:
                writer.execute(_SET_MARK, (mark,))
            writer.execute(statement, values)

        return self._run(write).addCallback(lambda _: mark)

    def _ended(self, result: int | Failure) -> Failure | None:
        """
        A commit has ended, with the mark or with a failure.
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


def _booking(reservations: Sequence[Reservation]) -> tuple[str, Sequence[Any]]:
    """
    The statement that books a batch, and its parameters.

    @raise ValueError: A comment has a NUL character. SQLite's JSON functions would
        silently cut it off there, and whether it is fine must not depend on
        how many come with it.
    """
    if "\0" in "".join([each.trade.comment for each in reservations]):
        raise ValueError("a comment has a NUL character")
    values: list[Any] = []
    if all(each.operation.key is None for each in reservations):
        book = _BOOK
        for each in reservations:
            values += astuple(each.trade)
    else:
        book = _BOOK_KEYED
        for each in reservations:
            values += _keyed(each)
            values += astuple(each.trade)
    count = len(reservations)
    width = len(values) // count
    if count > _LARGEST:
        rows = [values[at : at + width] for at in range(0, len(values), width)]
        return _fromJSON(book, width), (_encoder.encode(rows).decode(),)
    size = 1 << (count - 1).bit_length()
    values += [_NO_VALUE] * (width * (size - count))
    return _fromValues(book, width, size), values


@cache
def _fromValues(book: str, width: int, size: int) -> str:
    """
    A statement with a parameter for each value of so many rows, of which it
    leaves out those that fill it up.
    """
    row = f"({', '.join('?' * width)})"
    rows = ", ".join([row] * size)
    # LIMIT would do, but newer versions of SQLite then prepare it each time.
    return book.format(
        rows=f"SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT {_NO_VALUE}"
    )


@cache
def _fromJSON(book: str, width: int) -> str:
    """
    A statement with all rows in one parameter.
    """
    columns = ", ".join(f"value->>{column}" for column in range(width))
    # "WHERE true" keeps SQLite from reading ON CONFLICT as a join's ON.
    return book.format(rows=f"SELECT {columns} FROM json_each(?) WHERE true")


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
        reservation.eventType,
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
        path, timeout=_PATIENCE, check_same_thread=False, isolation_level=None
    )


def _closeAlone(writer: sqlite3.Connection, path: str) -> None:
    with folderLocked(os.path.dirname(path), ALONE):
        writer.close()
