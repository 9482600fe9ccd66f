"""
A ledger, the lives of the server on it, and a client that outlives them.

A L{Trial} starts the real server as often as it is killed. Through several
connections it keeps dozens of operations of the whole finance family under
way; what got no answer and has a key it sends again, over whichever connection
and in whichever life comes next. Everything goes into its
L{Record<tests.crash.record.Record>}, which is held against the ledger whenever
the server is dead.
"""

import random
import selectors
import signal
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Final

from attrs import Factory, define, field

from creditsync.auth import mint
from creditsync.ledger._checking import findings
from creditsync.ledger._opening import connectReader, upgrade
from creditsync.ledger._schema import SCRIPTS
from tests.crash.asked import PRINCIPAL, Asked
from tests.crash.following import Follower
from tests.crash.load import Connection, Load
from tests.crash.record import Record, Violation
from tests.family import ADD
from tests.integration.processes import SECRET, Server, Site

CONNECTIONS: Final = 4
# Pending operations on each connection.
OUTSTANDING: Final = 12

# Lives after which the whole ledger is checked, and not only what the last
# life has changed.
_EVERY: Final = 20


@define(eq=False)
class Trial:
    """
    One ledger and its history.

    @ivar command: The command that starts the server, without the options.
    @ivar restarts: Seconds from each start of a process to the first
        acknowledgement of that life.
    @ivar verified: How often the ledger was compared with the record.
    @ivar follower: A client that follows the journal over all lives.
    @ivar newcomer: One that follows it in one life, from any place.
    @ivar followed: How often one of them went on behind a place, and how many events
        they got.
    """

    folder: Path
    random: random.Random
    command: Sequence[str]
    record: Record = Factory(Record)
    restarts: list[float] = Factory(list)
    verified: int = 0
    site: Site = field(init=False)
    load: Load = field(init=False)
    follower: Follower = field(init=False)
    newcomer: Follower = field(init=False)
    followed: Counter[str] = Factory(Counter)
    server: Server | None = field(init=False, default=None)
    _token: str = field(init=False)
    _port: int = field(init=False, default=0)
    _started: float = field(init=False, default=0.0)
    _isAcknowledged: bool = field(init=False, default=False)
    # The last place of the journal when this life began.
    _head: int = field(init=False, default=0)
    # From now on only repetitions are sent.
    _isLastCall: bool = field(init=False, default=False)
    # Operations that a stopping server refused.
    _deferred: list[Asked] = field(init=False, factory=list)
    _connections: list[Connection] = field(init=False, factory=list)
    _selector: selectors.BaseSelector = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.folder.mkdir()
        self.site = Site(self.folder)
        self.load = Load(self.record, self.random)
        self._token = mint(SECRET, id=PRINCIPAL, role=1, expires=86400, now=time.time())
        self.follower = self.newcomer = Follower(self._token)

    # A life.

    def start(self, *launcher: str, timeout: float = 5.0) -> None:
        """
        Start the server.

        @param launcher: What starts it, if it is not the usual command.
        @param timeout: The seconds until a 504.
        """
        self._port = _freePort(self.random)
        self._isAcknowledged = False
        self._head = self._headOfDead()
        # It has at least half of the journal to read.
        place = self.random.randint(0, self.follower.place // 2)
        self.newcomer = Follower(self._token, place, self.follower.epoch)
        self._selector = selectors.DefaultSelector()
        self._started = time.monotonic()
        self.server = Server(
            self.site,
            [
                *(launcher or self.command),
                *("--listen", f"tcp:{self._port}:interface=127.0.0.1"),
                *("--timeout", str(timeout)),
            ],
        )

    @property
    def process(self) -> Any:
        """
        The server's process.
        """
        assert self.server is not None
        return self.server.process

    def drive(
        self, done: Callable[[], bool], seconds: float = 30.0, pause: float = 0.0
    ) -> bool:
        """
        Send requests and receive replies.

        @param done: Whether to stop.
        @param seconds: After so many seconds it stops too.
        @param pause: Seconds between one round and the next.
        @return: Whether C{done} returned true.
        """
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end or self.process.poll() is not None:
                return done()
            self._round()
            time.sleep(pause)
        return True

    def driveFor(self, seconds: float, pause: float = 0.0) -> None:
        """
        Send requests and receive replies for so long.
        """
        self.drive(lambda: False, seconds, pause)

    def driveUntilAcknowledged(self, count: int) -> None:
        """
        Continue until so many more operations are acknowledged.

        @raise Violation: They aren't.
        """
        wanted = self.record.acknowledged + count
        if not self.drive(lambda: self.record.acknowledged >= wanted):
            raise Violation(f"the server does not answer: {self.complaint()}")

    def driveUntilFollowed(self) -> None:
        """
        Continue until those who follow the journal have what it had at the start.

        @raise Violation: They don't get it.
        """
        both = self.follower, self.newcomer
        if not self.drive(lambda: all(each.place >= self._head for each in both)):
            raise Violation(
                f"places {[each.place for each in both]} of {self._head} were sent:"
                f" {self.complaint()}"
            )

    def complaint(self) -> str:
        """
        The server's message about its end, or about its failure to start.
        """
        assert self.server is not None
        status = self.process.poll()
        lines = self.server.errors.read_text().strip().splitlines()
        return f"its status is {status} and it says {lines[-1:]}"

    def _round(self) -> None:
        if not self._connections and not self._connect():
            time.sleep(0.003)
            return
        for ready, _ in self._selector.select(0.02):
            if not ready.data():
                self._selector.unregister(ready.fileobj)
        if self.random.random() < 0.005:
            self._follow(self.follower)
        for each in self._connections:
            self._fill(each)

    def _connect(self) -> bool:
        try:
            for _ in range(CONNECTIONS):
                connection = Connection(self._port)
                self._connections.append(connection)
                receive = partial(self._receive, connection)
                self._selector.register(
                    connection.socket, selectors.EVENT_READ, receive
                )
            self._follow(self.follower)
            self._follow(self.newcomer)
        except ConnectionError:
            return bool(self._connections)
        return True

    def _follow(self, follower: Follower) -> None:
        """
        Have it go on, on a new connection.
        """
        if follower.connection is not None:
            with suppress(KeyError):
                self._selector.unregister(follower.connection.socket)
            follower.drop()
        with suppress(ConnectionError):
            follower.connect(self._port)
            assert follower.connection is not None
            self._selector.register(
                follower.connection.socket, selectors.EVENT_READ, follower.receive
            )

    def _fill(self, connection: Connection) -> None:
        lines = []
        while connection.isOpen and len(connection.waiting) < OUTSTANDING:
            if self._isLastCall and not self.load.again:
                break
            asked = self.load.next()
            self.record.sending(asked)
            lines.append(connection.line(asked, self._token))
        if lines:
            connection.send(b"".join(lines))

    def _receive(self, connection: Connection) -> bool:
        for message in connection.receive():
            self._take(connection, message)
        return connection.isOpen

    def _take(self, connection: Connection, message: dict[str, Any]) -> None:
        if "event" in message:
            self.record.event(message["type"], message["data"], connection.seen)
            return
        asked = connection.waiting.pop(message.get("extID", ""), None)
        if asked is None:
            raise Violation(f"a reply that nobody waits for: {message}")
        wasAnswered = asked.answer is not None
        self.record.replied(asked, message, connection.seen)
        if message["status"] == 503:
            self._deferred.append(asked)
        elif asked.answer is None:
            self._sendAgain(asked)
        elif not wasAnswered:
            self._acknowledged(asked)

    def _acknowledged(self, asked: Asked) -> None:
        if asked.type == ADD:
            self.load.made(asked.order)
        if not self._isAcknowledged:
            self._isAcknowledged = True
            self.restarts.append(time.monotonic() - self._started)

    def _sendAgain(self, asked: Asked) -> None:
        if asked.isOwed:
            self.load.again.append(asked)

    # Its end.

    def kill(self) -> None:
        """
        Kill the server, read its remaining output, and check its ledger.

        @raise Violation: It was dead already.
        """
        self.process.kill()
        self.bury(signal.SIGKILL)

    def stop(self) -> None:
        """
        Stop the server in order, and check its ledger.
        """
        self.process.terminate()
        self.drive(lambda: False, 20, pause=0.005)
        if self.process.poll() is None:
            raise Violation("the server did not stop within 20 s")
        self.bury(signal.SIGTERM)

    def bury(self, *wanted: signal.Signals) -> None:
        """
        Read the dead server's remaining output, and check its ledger.

        @param wanted: The expected causes of its end.
        @raise Violation: It ended for another reason.
        """
        self.process.wait(20)
        self.process.stdin.close()
        connections, self._connections = self._connections, []
        for connection in connections:
            for message in connection.drain():
                self._take(connection, message)
        for follower in (self.follower, self.newcomer):
            follower.drop(isDead=True)
        deferred, self._deferred = self._deferred, []
        for asked in chain(deferred, *(each.waiting.values() for each in connections)):
            self._sendAgain(asked)
        self._selector.close()
        self._verify()
        if -self.process.returncode not in wanted:
            raise Violation(f"the server ended by itself: {self.complaint()}")

    def _verify(self) -> None:
        self.verified += 1
        with _dead(self.site.ledger) as ledger:
            self.record.check(ledger)
            for follower in (self.follower, self.newcomer):
                follower.check(ledger)
            self.followed += self.newcomer.counts
            if self.verified % _EVERY == 0:
                prove(ledger)

    def finish(self) -> None:
        """
        Repeat requests until everything has a reply, and check the whole
        ledger.
        """
        self.start()
        self.driveUntilAcknowledged(1)
        self.driveUntilFollowed()
        self._isLastCall = True
        self.drive(self._isQuiet)
        self.stop()
        owed = next((each for each in self.record.asked if each.isOwed), None)
        if owed is not None:
            raise Violation(f"a repetition is not answered: {owed}")
        with _dead(self.site.ledger) as ledger:
            self.record.checkAll(ledger)
            prove(ledger)
        self.followed += self.follower.counts
        if self.follower.place != self._headOfDead():
            raise Violation(
                f"the journal has {self._headOfDead()} places, and"
                f" {self.follower.place} were sent to the end"
            )

    def _headOfDead(self) -> int:
        """
        The last place in the journal of a dead server.
        """
        with _dead(self.site.ledger) as ledger:
            [[head]] = ledger.execute("SELECT ifnull(max(place), 0) FROM journal")
        return int(head)

    def _isQuiet(self) -> bool:
        return not (self.load.again or any(each.waiting for each in self._connections))

    def end(self) -> None:
        """
        End all processes.
        """
        if self.server is not None:
            self.process.kill()
            self.process.wait(20)


@contextmanager
def _dead(path: Path) -> Iterator[sqlite3.Connection]:
    """
    A copy of the ledger that a dead server has left; an empty one if it had
    not created it yet.
    """
    with closing(connectReader(str(path)) if path.exists() else _nothing()) as ledger:
        isMade = ledger.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        with closing(ledger if isMade else _nothing()) as ledger:
            ledger.execute("BEGIN")
            yield ledger


def _nothing() -> sqlite3.Connection:
    """
    A ledger without any trade.
    """
    ledger = sqlite3.connect(":memory:", isolation_level=None)
    upgrade(ledger, ":memory:", SCRIPTS)
    return ledger


def prove(ledger: sqlite3.Connection) -> None:
    """
    Check everything that must hold in a ledger.

    @raise Violation: Something does not hold.
    """
    problem = next(findings(ledger), None)
    if problem is not None:
        raise Violation(f"the ledger is not sound: {problem.rule}: {problem.message}")


def _freePort(chance: random.Random) -> int:
    """
    A free port, below the range that a system uses for clients: a client that
    tries to connect from the same port while no process listens could
    otherwise connect to itself.
    """
    while True:
        port = chance.randrange(15_000, 30_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
