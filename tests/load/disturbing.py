"""
Disturbances while the wall clock steps: clients whose lines do not end, and a
process that keeps the server from committing.
"""

import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from attrs import Factory, define, field

from tests.load.talks import Conversation
from tests.load.wall import EARLY, LATE

# Seconds between the bytes of a dripper.
DRIP: Final = 0.1
# How long the ledger is held, as a multiple of the timeout, and how long it is
# free once the queue is booked.
HELD: Final = 2.2
FREE: Final = 1.0
# Seconds after the ledger is free within which the queue is booked; SQLite
# itself retries every 0.1 s.
CATCH_UP: Final = 1.5


@define(eq=False)
class Dripper:
    """
    A client whose line does not end.

    @ivar timeout: How many seconds a line may take.
    @ivar lasted: How long each of its connections stayed open.
    """

    port: int
    timeout: float
    lasted: list[float] = Factory(list)
    _conversation: Conversation = field(init=False)
    _started: float = 0.0
    _next: float = 0.0

    def __attrs_post_init__(self) -> None:
        self._connect()

    def _connect(self) -> None:
        self._conversation = Conversation(self.port)
        self._started = self._next = time.monotonic()

    def turn(self) -> None:
        """
        Send a byte if it is time, and reconnect if it was cut off.
        """
        now = time.monotonic()
        self._conversation.receive()
        borne = now - self._started
        if self._conversation.ending or borne > self.timeout + LATE:
            self.lasted.append(borne)
            self._conversation.close()
            self._connect()
        elif now >= self._next:
            self._next = now + DRIP
            self._conversation.send(b"x")

    def close(self) -> None:
        """
        Give it up.
        """
        self._conversation.close()


@define(eq=False)
class Holding:
    """
    A connection that locks the ledger for stretches of time.

    @ivar stretches: The beginning and end of each.
    """

    _ledger: Path
    _timeout: float
    stretches: list[tuple[float, float]] = Factory(list)
    _connection: sqlite3.Connection = field(init=False)
    _since: float | None = None
    _next: float = 0.0

    def __attrs_post_init__(self) -> None:
        # Without waiting, which would block everything else here.
        self._connection = sqlite3.connect(
            self._ledger, timeout=0, isolation_level=None
        )

    def turn(self) -> None:
        """
        Lock or unlock the ledger, if it is time and no other process has it.
        """
        if time.monotonic() < self._next:
            return
        if self._since is not None:
            self.release()
            return
        with suppress(sqlite3.OperationalError):
            self._connection.execute("BEGIN IMMEDIATE")
            self._since = time.monotonic()
            self._next = self._since + HELD * self._timeout

    def release(self) -> None:
        """
        Unlock it.
        """
        if self._since is not None:
            self._connection.execute("ROLLBACK")
            self.stretches.append((self._since, time.monotonic()))
            self._since = None
        self._next = time.monotonic() + FREE * self._timeout + CATCH_UP

    def close(self) -> None:
        """
        Leave the ledger alone.
        """
        self._connection.close()

    def freedAfter(self, sent: float) -> float | None:
        """
        If the ledger was locked when a request was sent, or shortly after,
        when it was unlocked.
        """
        for since, until in self.stretches:
            if since - LATE <= sent <= until:
                return until
        return None

    def wait(self, sent: float, arrived: float) -> float:
        """
        The part of a wait that was not for the ledger.
        """
        freed = self.freedAfter(sent)
        return arrived - (sent if freed is None or freed > arrived else freed)

    def wasHeld(self, moment: float) -> bool:
        """
        Whether nothing, or hardly anything, could be booked at this moment.
        """
        return any(
            since <= moment <= until + CATCH_UP for since, until in self.stretches
        )

    def wrong(self, status: int, sent: float, arrived: float) -> str:
        """
        The fault in a reply of this status to a good request, or in a missing
        reply; or nothing.
        """
        if status == 200:
            late = self.wait(sent, arrived)
            allowed = LATE if self.freedAfter(sent) is None else CATCH_UP
            return f"was answered 200 {late:.3f} s late" if late > allowed else ""
        if status != 504:
            return f"was answered {status}" if status else "has no answer"
        took = arrived - sent
        if not self._timeout - EARLY <= took <= self._timeout + LATE:
            return f"was answered 504 after {took:.3f} s"
        if not self.wasHeld(sent + self._timeout):
            return "was answered 504 while the ledger was free"
        return ""
