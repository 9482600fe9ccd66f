"""
Named points of the code at which a server, or a copy, kills itself.

    python -m tests.crash.points NAME N [command line of creditsync]

runs C{creditsync} with one change: when it passes the point for the N-th time,
it is killed by SIGKILL at once. The code has no hooks for that; what stands at
the point is wrapped before anything is built.

A client's record is held against the ledger after each (L{tests.crash.rounds}).
What each group of points proves:

 - L{LOAD}, on an operation's way in (line, key, judgement, order number,
   queue, waiter): what dies before its commit has left nothing but perhaps a
   number that is never used again. In the commit (hand-over, order mark,
   statement, each before and after): the batch is booked as a whole or not at
   all, and what is booked without an answer is answered to its repetition with
   the data that it was booked with. On the way out (settled, published, event
   before reply, reply before the write, after the write): an event or a reply
   that anybody saw is on disk, also if the other one never came.
 - L{NEW}: a ledger that was begun is no obstacle for the next start, and half a
   schema is never taken for a ledger.
 - L{REOPENED}: to die between any two steps of opening a ledger loses nothing
   that it had, and gives out no number twice, also while recovery's work is
   not yet checkpointed.
 - L{STOPPING}: what was acknowledged before or during an orderly stop stays,
   whichever of its steps is the last; numbers that were given out are not put
   back, and neither the mark nor the checkpoint is needed for the next start.
 - L{COPYING}: a copy that was cut off has no final name, or is whole; the server
   goes on and the next copy can be made.
"""

import inspect
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from functools import reduce, wraps
from importlib import import_module
from itertools import count
from typing import Any, Final

from attrs import define

from creditsync.__main__ import main

LOAD: Final = "under load"
NEW: Final = "on a new ledger"
REOPENED: Final = "at a restart"
STOPPING: Final = "during a stop"
COPYING: Final = "in a copy"

BEFORE: Final = "before"
AFTER: Final = "after"

# So few order numbers at a time that a short life has to reserve more; yet
# more than the driver has pending.
_BLOCK: Final = 200


@define
class Point:
    """
    A point of the code.

    @ivar where: A module and a name in it; or C{SQL} and how a statement
        begins.
    @ivar first: The first pass that is of interest.
    @ivar last: The last.
    """

    during: str
    moment: str
    where: str
    first: int = 1
    last: int = 1

    @property
    def name(self) -> str:
        """
        Its name, the same in every run.
        """
        name = self.where.removeprefix("creditsync.")
        return f"{self.moment} {name} {self.during}"


def _both(during: str, where: str, first: int = 1, last: int = 1) -> list[Point]:
    return [Point(during, moment, where, first, last) for moment in (BEFORE, AFTER)]


_OPENING: Final = [
    "creditsync.ledger.sqlite:takeLock",
    "creditsync.ledger.sqlite:connectWriter",
    "creditsync.ledger.sqlite:prepare",
    "SQL:PRAGMA journal_mode = wal",
    "creditsync.ledger._opening:firstOrder",
    "creditsync.ledger.sqlite:journalEnd",
    "SQL:UPDATE order_mark",
    "creditsync.ledger.sqlite:sync",
    "creditsync.ledger.sqlite:connectReader",
]

POINTS: Final = [
    # On the way in: n-th operation.
    Point(LOAD, BEFORE, "creditsync._conversation.session:Session._execute", 1, 60),
    Point(LOAD, BEFORE, "creditsync.runtime:TradingRuntime.submit", 1, 60),
    Point(LOAD, AFTER, "creditsync.ledger.sqlite:SQLiteLedger.replay", 1, 30),
    *_both(LOAD, "creditsync.ledger.sqlite:SQLiteLedger.newOrder", 1, 30),
    *_both(LOAD, "creditsync.runtime:TradingRuntime._reserve", 1, 60),
    Point(LOAD, AFTER, "creditsync.runtime:TradingRuntime.submit", 1, 60),
    *_both(LOAD, "creditsync._conversation.waiters:Waiters.add", 1, 60),
    # The commit: n-th batch.
    Point(LOAD, BEFORE, "creditsync.runtime:TradingRuntime._start", 1, 3),
    *_both(LOAD, "creditsync.ledger.sqlite:SQLiteLedger.commit", 1, 10),
    # The first time is when the ledger is opened.
    *_both(LOAD, "SQL:UPDATE order_mark", 2, 4),
    *_both(LOAD, "SQL:INSERT INTO journal", 1, 10),
    *_both(LOAD, "creditsync.runtime:TradingRuntime._publish", 1, 10),
    # A page of the journal, to who goes on behind a place.
    *_both(LOAD, "creditsync._conversation.broadcast:Broadcast.placeAt", 1, 2),
    *_both(LOAD, "creditsync.ledger.sqlite:SQLiteLedger.events"),
    *_both(LOAD, "creditsync._conversation.catchups:CatchUps._send"),
    # On the way out: n-th batch, then n-th event, operation, connection.
    *_both(LOAD, "creditsync.events:TradeEvents.publish", 1, 10),
    *_both(LOAD, "creditsync._conversation.waiters:Waiters.match", 1, 10),
    *_both(LOAD, "creditsync.records:Reservation.booked", 1, 60),
    *_both(LOAD, "creditsync._transport.protocol:LineProtocol.flush", 1, 40),
    *_both(LOAD, "creditsync.service:CreditSync._flush", 1, 10),
    *(point for where in _OPENING for point in _both(NEW, where)),
    *_both(NEW, "creditsync.ledger._opening:upgrade"),
    *_both(NEW, "creditsync.ledger._opening:writeMethods"),
    *_both(NEW, "creditsync.service:CreditSync._listen"),
    Point(NEW, AFTER, "creditsync.ledger.sqlite:SQLiteLedger.open"),
    *(point for where in _OPENING for point in _both(REOPENED, where)),
    Point(REOPENED, AFTER, "creditsync.ledger.sqlite:SQLiteLedger.open"),
    # Six steps: a port, pending requests, sessions, two observers, the
    # runtime.
    *_both(STOPPING, "creditsync.service:CreditSync._step", 1, 6),
    *_both(STOPPING, "creditsync._conversation.sessions:Sessions.stop"),
    *_both(STOPPING, "creditsync._conversation.waiters:Waiters.endAll"),
    *_both(STOPPING, "creditsync._transport.factory:LineFactory.finish"),
    *_both(STOPPING, "creditsync.runtime:TradingRuntime._drain"),
    *_both(STOPPING, "creditsync.ledger.sqlite:SQLiteLedger.close"),
    *_both(STOPPING, "SQL:UPDATE order_mark", 2, 2),
    *_both(STOPPING, "SQL:PRAGMA wal_checkpoint"),
    *_both(COPYING, "creditsync.ledger._copying:_copy"),
    *_both(COPYING, "creditsync.ledger._copying:_checkCopy"),
    # Before and after it has its final name.
    *_both(COPYING, "creditsync.ledger._copying:sync", 1, 2),
    *_both(COPYING, "creditsync.ledger._copying:_finish"),
]


def arm(point: Point, nth: int) -> None:
    """
    Kill this process when it passes a point for the n-th time.
    """
    if point.during == LOAD:
        sqlite: Any = import_module("creditsync.ledger.sqlite")
        sqlite.BLOCK = _BLOCK
    module, _, name = point.where.partition(":")
    passed = count(1)

    def passing() -> None:
        if next(passed) == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    if module == "SQL":
        _armStatement(name, point.moment, passing)
        return
    owner, last = target(point)
    setattr(owner, last, _armed(getattr(owner, last), point.moment, passing))


def target(point: Point) -> tuple[Any, str]:
    """
    The owner of a point other than a statement, and its name there.
    """
    module, _, name = point.where.partition(":")
    *outer, last = name.split(".")
    return reduce(getattr, outer, import_module(module)), last


def _armed(
    function: Callable[..., Any], moment: str, passing: Callable[[], None]
) -> Callable[..., Any]:
    """
    A wrapper that reports when the function is entered, or when its work is
    done.
    """

    @wraps(function)
    def before(*arguments: Any, **named: Any) -> Any:
        passing()
        return function(*arguments, **named)

    @wraps(function)
    def after(*arguments: Any, **named: Any) -> Any:
        result = function(*arguments, **named)
        passing()
        return result

    @wraps(function)
    async def afterAll(*arguments: Any, **named: Any) -> Any:
        result = await function(*arguments, **named)
        passing()
        return result

    if moment == BEFORE:
        return before
    return afterAll if inspect.iscoroutinefunction(function) else after


def _armStatement(start: str, moment: str, passing: Callable[[], None]) -> None:
    """
    Make every connection report the statements that begin like this.
    """

    class Telling(sqlite3.Connection):
        def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
            execute: Callable[..., sqlite3.Cursor] = super().execute
            if statement.strip().startswith(start):
                execute = _armed(execute, moment, passing)
            return execute(statement, *parameters)

    connect: Any = sqlite3.connect
    sqlite3.connect = lambda *arguments, **named: connect(
        *arguments, **named, factory=Telling
    )


if __name__ == "__main__":
    [chosen] = (each for each in POINTS if each.name == sys.argv[1])
    arm(chosen, int(sys.argv[2]))
    sys.argv[1:] = sys.argv[3:]
    main()
