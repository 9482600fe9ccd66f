"""
How a node hears that another one has booked something.

After its commit a node rings: it notifies all that listen, on a connection that is
used for nothing else, and it listens on another one. A notification in the transaction
of the booking would make all commits of the server wait for one another; so would one
that waits for the disk.

A ring tells how far the node knows the journal to be where it has to be: what another
node may publish of it without a commit of its own.

A notification may be lost: its node dies before it has rung, a connection breaks, a
pooler swallows it without a word. So there is a poll underneath, and each node hears
its own notifications too: as long as it does not, it polls more often.
"""

import random
from collections.abc import Callable
from secrets import token_hex
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from creditsync.postgres._connection import Connection, ConnectionLost, retryDelay
from creditsync.postgres._session import causeOf

_log = Logger()

# Seconds between two polls, while notifications are heard and while they are not.
POLL: Final = 0.5
POLL_UNHEARD: Final = 0.05
# Seconds in which a node must have heard itself.
TEST: Final = 5.0

_CHANNEL: Final = "creditsync"
# At the end of a notification by which a node only tries whether it hears itself.
_TRIAL: Final = "?"
# It must not wait for the disk, or for a standby. PostgreSQL doesn't have it wait in
# any case, as it writes nothing, but doesn't promise that either. The setting is of
# this transaction only: a pooler's connection may serve somebody else next.
_NOTIFY: Final = (
    f"SELECT set_config('synchronous_commit', 'off', true), pg_notify('{_CHANNEL}', %s)"
)


@define(eq=False)
class Doorbell:
    """
    One node's.

    @ivar _heard: Called with what another node has said when it rang, and with "" at
        every poll.
    @ivar _say: What is said by a ring.
    @ivar isHeard: Whether notifications arrive.
    @ivar heardRings: How many of other nodes have arrived.
    @ivar polls: How often nothing was waited for.
    """

    _reactor: Any
    _connect: Callable[[], Deferred[Connection]]
    _heard: Callable[[str], None]
    _say: Callable[[], str]
    _random: Callable[[], float] = random.random
    isHeard: bool = field(init=False, default=False)
    heardRings: int = field(init=False, default=0)
    polls: int = field(init=False, default=0)
    _name: str = field(init=False, factory=lambda: token_hex(8))
    _isRunning: bool = field(init=False, default=False)
    # One that listens, and one that rings: a pooler may let a notification through
    # where it was made, and nowhere else.
    _connections: list[Connection] = field(init=False, factory=list)
    _ringer: Connection | None = field(init=False, default=None)
    # Whether there are connections, or soon will be.
    _isOpen: bool = field(init=False, default=False)
    _opening: Deferred[None] | None = field(init=False, default=None)
    _failures: int = field(init=False, default=0)
    _isRinging: bool = field(init=False, default=False)
    _isWanted: bool = field(init=False, default=False)
    _isTested: bool = field(init=False, default=False)
    _hasWarned: bool = field(init=False, default=False)
    _polling: IDelayedCall | None = field(init=False, default=None)
    # Of the next try to connect, or of the next trial.
    _timer: IDelayedCall | None = field(init=False, default=None)

    def start(self) -> None:
        """
        Begin to listen and to poll.
        """
        self._isRunning = True
        self._poll()
        # Unless who was told has stopped it.
        if self._isRunning:
            self._open()

    def stop(self) -> None:
        """
        End both.
        """
        self._isRunning = False
        for timer in (self._polling, self._timer):
            if timer is not None and timer.active():
                timer.cancel()
        self._polling = self._timer = None
        self._end(Failure(CancelledError()))

    def ring(self) -> None:
        """
        Notify the other nodes. Rings that come while one is under way are one.
        """
        self._isWanted = True
        self._ringNow()

    def _poll(self) -> None:
        self._polling = self._reactor.callLater(
            POLL if self.isHeard else POLL_UNHEARD, self._poll
        )
        self.polls += 1
        self._heard("")

    def _open(self) -> None:
        """
        Connect and listen.
        """
        self._timer = None
        self._isOpen = True
        self._opening = Deferred.fromCoroutine(self._begin())
        self._opening.addErrback(self._end)

    async def _begin(self) -> None:
        for _ in range(2):
            connection = await self._connect()
            self._connections.append(connection)
            connection.whenLost().addErrback(self._end)
        listener, ringer = self._connections
        listener.notified = self._notified
        await listener.execute(f"LISTEN {_CHANNEL}")
        self._opening = None
        self._ringer = ringer
        self._failures = 0
        # What was booked before this was perhaps not heard.
        self._heard("")
        if self._ringer is not None:
            self._try()
            self._ringNow()

    def _end(self, why: Failure) -> None:
        """
        One of the connections has ended, or could not be made: connect again, later.
        """
        if not self._isOpen:
            # By one of the steps here.
            return
        self._isOpen = self.isHeard = self._isRinging = False
        self._ringer = None
        opening, self._opening = self._opening, None
        connections, self._connections = self._connections, []
        if opening is not None:
            opening.cancel()
        for each in connections:
            each.close()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if not self._isRunning:
            return
        if not self._failures and not self._hasWarned:
            _log.warn(
                "The connections for notifications were lost or can't be made:"
                " {why}. Until they are there, other nodes' events are found by"
                " polling.",
                why=causeOf(why.value),
            )
        wait = retryDelay(self._failures, self._random())
        self._failures += 1
        self._timer = self._reactor.callLater(wait, self._open)

    def _try(self) -> None:
        """
        Find out whether this node hears itself.
        """
        self._isTested = False
        self._timer = self._reactor.callLater(TEST, self._tested)
        self._send(self._name + _TRIAL)

    def _tested(self) -> None:
        if self._isTested:
            self._try()
            return
        if not self._hasWarned:
            self._hasWarned = True
            _log.warn(
                "PostgreSQL's notifications don't arrive, as with a connection pooler"
                " in between: other nodes' events are found by polling, every"
                " {seconds} s. Let --ledger name the server itself.",
                seconds=POLL_UNHEARD,
            )
        self._end(Failure(ConnectionLost("notifications don't arrive")))

    def _notified(self, channel: str, payload: str, backend: int) -> None:
        name, _, said = payload.partition(" ")
        if name.removesuffix(_TRIAL) == self._name:
            self._isTested = True
            if not self.isHeard:
                self.isHeard = True
                if self._hasWarned:
                    _log.info("PostgreSQL's notifications arrive again.")
                    self._hasWarned = False
        elif not name.endswith(_TRIAL):
            self.heardRings += 1
            self._heard(said)

    def _ringNow(self) -> None:
        if self._isWanted and not self._isRinging and self._ringer is not None:
            self._isWanted = False
            self._isRinging = True
            self._send(f"{self._name} {self._say()}").addCallback(self._rung)

    def _rung(self, _: object) -> None:
        self._isRinging = False
        self._ringNow()

    def _send(self, payload: str) -> Deferred[None]:
        """
        @return: Fires when that is done, or has failed.
        """
        assert self._ringer is not None

        def failed(why: Failure) -> None:
            if not why.check(ConnectionLost):
                # The server refuses: its queue of notifications is full, for instance.
                _log.warn("A notification failed: {why}", why=causeOf(why.value))

        done = self._ringer.execute(_NOTIFY, [payload])
        return done.addCallbacks(lambda _: None, failed)
