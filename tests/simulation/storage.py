"""
The disk, and the thread that writes to it.

SQLite's real files are in a folder, with a L{Disk <tests.crash.disk.Disk>}
below them that knows what is synced. Commits run "elsewhere": at a later
simulated time, and sometimes they fail, before or after they are written. A
crash leaves what a power cut, or the end of the process, may leave, and the
next server starts with that.
"""

import sqlite3
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from errno import EIO
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, execute, fail

from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.records import Reservation
from tests.crash.disk import Disk, Fault
from tests.crash.platter import SYNC, Call, place
from tests.simulation.history import Booking, History, committed
from tests.simulation.world import World

_NAME = "ledger.db"


class _RecordedLedger(SQLiteLedger):
    """
    The real ledger, which records its commits.
    """

    told: Callable[[Sequence[Reservation]], None]
    toldGroups: Callable[[Mapping[int, str]], None]

    def commit(self, reservations: Sequence[Reservation]) -> "Deferred[None]":
        """
        See L{creditsync.interfaces.ILedger.commit}.
        """
        self.told(reservations)
        return super().commit(reservations)

    def setGroups(self, groups: Mapping[int, str]) -> "Deferred[None]":
        """
        See L{creditsync.interfaces.ILedger.setGroups}.
        """
        self.toldGroups(groups)
        return super().setGroups(groups)


class Storage:
    """
    A computer's disk, as one server after another uses it.

    @ivar bookings: The commits of this server's ledger, by operation.
    @ivar crashed: Called when the power is cut inside of a commit.
    @ivar handed: Called when a commit begins.
    """

    def __init__(
        self,
        world: World,
        history: History,
        folder: Path,
        speed: float,
        crashed: Callable[[], None],
        groups: Mapping[int, str],
    ) -> None:
        """
        @param folder: An empty one.
        @param speed: The greatest usual duration of a commit, in seconds.
        @param groups: Accounts that there are at first, with their groups.
        """
        self._world = world
        self._random = world.generator()
        self._history = history
        self._root = folder
        self._speed = speed
        self._crashed = crashed
        self._process = 0
        self._told: deque[list[Booking]] = deque()
        self._torn: dict[str, bytes] | None = None
        self._ledger: _RecordedLedger | None = None
        self.handed: Callable[[], object] = lambda: None
        self.bookings: dict[object, Booking] = {}
        self._place({})
        self._makeLedger(groups)

    def _place(self, files: Mapping[str, bytes]) -> None:
        """
        Make a new disk with these files.
        """
        self._folder = self._root / str(self._process)
        self._folder.mkdir()
        place(files, self._folder)
        self._disk = Disk(self._folder)
        self._disk.install()

    def _makeLedger(self, groups: Mapping[int, str]) -> None:
        """
        Make a ledger without trades. SQLite draws its epoch, so it has to be made on
        the disk of this seed: only there is SQLite's randomness the seed's.
        """
        ledger = SQLiteLedger(str(self._folder / _NAME), execute)
        ledger.open()
        for login, group in groups.items():
            ledger.addAccounts([login], group)
        ledger.close()

    def ledger(self) -> SQLiteLedger:
        """
        The ledger for a new server.
        """
        process = self._process

        def run(function: Callable[[], None]) -> "Deferred[None]":
            return self._run(function, process)

        self._told.clear()
        self.bookings.clear()
        self._ledger = _RecordedLedger(str(self._folder / _NAME), run)
        self._ledger.told = self._tell
        self._ledger.toldGroups = self._tellGroups
        return self._ledger

    def rows(self, statement: str) -> list[Any]:
        """
        Read the rows in the file.
        """
        uri = (self._folder / _NAME).as_uri() + "?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            return connection.execute(statement).fetchall()

    def execute(self, statement: str) -> None:
        """
        Change the file past the server.
        """
        with closing(sqlite3.connect(self._folder / _NAME)) as connection:
            connection.execute(statement)
            connection.commit()

    # The journal.

    @property
    def head(self) -> int:
        """
        Its last place.
        """
        [[head]] = self.rows("SELECT ifnull(max(place), 0) FROM journal")
        return int(head)

    def read(self, function: Callable[[], Any]) -> "Deferred[Any]":
        """
        Read a page of the journal elsewhere: it has what was on disk at some moment
        before it comes.
        """
        if self._chance("page-errs", 0.02):
            return fail(sqlite3.OperationalError("disk I/O error"))
        read: Deferred[Any] = execute(function)
        if not self._chance("slow-page", 0.2):
            return read
        late: Deferred[Any] = Deferred()
        delay = self._random.random() * 2.0
        self._world.later(delay, self._pageCame, read, late, self._process)
        return late

    def readSums(self, function: Callable[[], Any]) -> "Deferred[Any]":
        """
        Read elsewhere what counts for the rules of a day.
        """
        if not self._chance("slow-page", 0.5):
            return execute(function)
        late: Deferred[Any] = Deferred()
        delay = self._random.random() * 2.0
        self._world.later(delay, self._pageCame, execute(function), late, self._process)
        return late

    def _pageCame(
        self, read: "Deferred[Any]", late: "Deferred[Any]", process: int
    ) -> None:
        if process == self._process:
            read.chainDeferred(late)
        else:
            # With its process nobody is there whom its failure would concern.
            read.addErrback(lambda _: None)

    # Commits.

    def _tell(self, reservations: Sequence[Reservation]) -> None:
        """
        Record what is about to be committed.
        """
        moment = self._world.now, self._world.turn
        batch = []
        for each in reservations:
            asked = each.operation
            booking = Booking(
                self._process,
                each.eventType,
                committed(each.trade),
                asked.principal,
                asked.key,
                asked.command,
                moment,
            )
            # The operation identifies the event as this booking's.
            self.bookings[asked] = booking
            batch.append(booking)
        self._told.append(batch)
        self._history.bookings += batch
        orders = " ".join(str(each.order) for each in reservations)
        self._world.note("ledger", f"is told {orders}")
        self.handed()

    def _tellGroups(self, groups: Mapping[int, str]) -> None:
        """
        Record that accounts are about to be moved: a commit without a booking.
        """
        self._told.append([])
        self._world.note("ledger", f"is told {dict(groups)}")

    def _run(self, function: Callable[[], None], process: int) -> "Deferred[None]":
        """
        Run a blocking function elsewhere.
        """
        world, random = self._world, self._random
        done: Deferred[None] = Deferred()
        if not self._told:
            # It opens the ledger, and commits nothing.
            if not self._chance("slow-start", 0.3):
                return execute(function)
            world.later(random.random() * 7.0, self._open, function, done, process)
            return done
        delay = 0.0 if random.random() < 0.2 else random.random() * self._speed
        if world.mayHappen("slow-commit") and random.random() < 0.05:
            world.happens("slow-commit")
            delay = random.random() * 7.0
        batch = self._told.popleft()
        world.later(delay, self._execute, function, batch, done, process)
        return done

    def _open(
        self, function: Callable[[], None], done: "Deferred[None]", process: int
    ) -> None:
        if process == self._process:
            execute(function).chainDeferred(done)

    def _execute(
        self,
        function: Callable[[], None],
        batch: list[Booking],
        done: "Deferred[None]",
        process: int,
    ) -> None:
        world, random = self._world, self._random
        if process != self._process:
            return
        if self._chance("commit-errs-before", 0.006):
            self._err(done, "erred before it wrote")
            return
        self._arm()
        try:
            function()
        except sqlite3.Error as error:
            # The next server finds out the truth.
            _doubt(batch)
            if self._disk.fault is None:
                world.blame("ledger", f"a commit fails without a cause: {error}")
            self._err(done, f"has failed: {error}")
            return
        finally:
            self._disk.fault = None
        if self._torn is not None:
            _doubt(batch)
            self._crashed()
            return
        for booking in batch:
            booking.applied = world.now, world.turn
        world.note("ledger", f"has written {len(batch)}")
        if self._chance("commit-errs-after", 0.006):
            self._err(done, "erred after it wrote")
            return
        wait = 0.0 if random.random() < 0.5 else random.random() * self._speed
        world.later(wait, self._finish, done, process)

    def _chance(self, fault: str, chance: float) -> bool:
        """
        Whether a fault happens now.
        """
        if not self._world.mayHappen(fault) or self._random.random() >= chance:
            return False
        self._world.happens(fault)
        return True

    def _arm(self) -> None:
        """
        Make one of the next calls of the disk fail, or be the last one.
        """
        if self._chance("sync-errs", 0.003):
            done = self._random.randrange(4)
            self._disk.fault = lambda call: (
                Fault(EIO, done) if call.kind == SYNC else None
            )
        elif self._world.mayHappen("torn-commit") and self._random.random() < 0.01:
            left = self._random.randrange(1, 8)

            def tear(call: Call) -> None:
                nonlocal left
                left -= 1
                if not left:
                    self._torn = self._disk.crash(self._random)

            self._disk.fault = tear

    def _err(self, done: "Deferred[None]", how: str) -> None:
        self._world.note("ledger", how)
        self._world.happens("commit-failed")
        done.errback(sqlite3.OperationalError("disk I/O error"))

    def _finish(self, done: "Deferred[None]", process: int) -> None:
        if process == self._process:
            done.callback(None)

    # The end of a process.

    @property
    def isClosed(self) -> bool:
        """
        Whether the server has closed its ledger.
        """
        return self._ledger is None or self._ledger._held is None

    def stopped(self) -> None:
        """
        The server has stopped in order, and the next one may start.
        """
        self._process += 1
        self._loseRest()
        self._release()

    def crash(self, isPowerCut: bool) -> None:
        """
        End the process at once; keep of the disk what may be left then.
        """
        self._process += 1
        files = self._torn
        if files is None and isPowerCut:
            files = self._disk.crash(self._random)
        if files is None:
            files = self._disk.written()
        self._torn = None
        self._loseRest()
        self._remove()
        self._place(files)

    def _loseRest(self) -> None:
        """
        Record that the rest will never reach the disk.
        """
        for booking in self.bookings.values():
            booking.isLost = not (booking.applied or booking.isDoubtful)

    def _release(self) -> None:
        """
        Close the files, if the server has not done so.
        """
        held = None if self._ledger is None else self._ledger._held
        if held is not None:
            with suppress(sqlite3.Error):
                held.close()

    def _remove(self) -> None:
        self._disk.powerOff()
        self._release()
        self._disk.uninstall()

    def end(self) -> None:
        """
        Release everything.
        """
        self._remove()


def _doubt(batch: Sequence[Booking]) -> None:
    """
    Record that it is unknown whether these are on disk.
    """
    for booking in batch:
        booking.isDoubtful = True
