"""
Fair scheduling: the reactor's time, shared out by what lines cost.

Lines are handled at once as long as there is time left in a reactor turn. When
it is spent, connections with lines left are queued; the one whose principal has
used the least time goes next (start-time fair queueing). So a client with a line
now and then does not wait for those with thousands, nor for any number of
clients whose lines are expensive.

Time is charged to principals and not to connections, of which anybody can open
as many as they like: all connections of one principal have one share, and so
have all those without a principal.
"""

from heapq import heappop, heappush
from itertools import count
from typing import Final, Protocol
from weakref import WeakValueDictionary

from attrs import Factory, define
from twisted.internet.interfaces import IReactorTime

# Seconds of each reactor turn that go to lines, before the reactor looks again
# at what else there is to do. A credit takes three turns, so that under a flood
# its client waits for three times this and what else a turn costs.
_TURN: Final = 0.001
# What a line costs at least, and what one connection's lines cost at most in a
# turn, whatever the clock says: it may have been set back or forward meanwhile.
_LINE: Final = 0.00001
_MAX_COST: Final = 1.0


@define(eq=False)
class Share:
    """
    The time of one principal, or of all connections without one.

    @ivar used: Seconds that their lines took, or would have taken if there had
        always been some.
    """

    used: float = 0.0


class Scheduled(Protocol):
    """
    A connection whose lines are to be handled.

    @ivar share: Whose time it uses.
    @ivar isQueued: Whether it waits for its turn.
    """

    share: Share
    isQueued: bool

    @property
    def isWaiting(self) -> bool:
        """
        Whether there are lines that could be handled.
        """

    def handleLines(self, until: float) -> int:
        """
        Handle one line or more, and begin none after C{until} by the clock.

        @return: How many.
        """


@define(eq=False)
class FairScheduler:
    """
    The turns of all connections.
    """

    _clock: IReactorTime
    _shares: WeakValueDictionary[int | None, Share] = Factory(WeakValueDictionary)
    _queue: list[tuple[float, int, Scheduled]] = Factory(list)
    _arrivals: "count[int]" = Factory(count)
    _spent: float = 0.0
    # What the share that was served last had used.
    _least: float = 0.0

    def __bool__(self) -> bool:
        return bool(self._queue)

    def share(self, principal: int | None) -> Share:
        """
        The share of a principal, or with L{None} of all connections without one.
        """
        share = self._shares.get(principal)
        if share is None:
            share = self._shares[principal] = Share()
        return share

    def serve(self, connection: Scheduled) -> None:
        """
        Handle lines of a connection now, if there is time left in this turn.
        """
        if connection.isQueued:
            return
        # An idle client may bank one turn's time at most.
        share = connection.share
        share.used = max(share.used, self._least - _TURN)
        if self._spent < _TURN:
            self._handle(connection)
            if not self._queue:
                self._least = max(self._least, share.used)
        self._enqueue(connection)

    def next(self) -> None:
        """
        Begin a turn, with the connections that are queued.
        """
        self._spent = 0.0
        while self._queue and self._spent < _TURN:
            self._least, _, connection = heappop(self._queue)
            connection.isQueued = False
            if connection.isWaiting:
                self._handle(connection)
                self._enqueue(connection)

    def clear(self) -> None:
        """
        Forget what is queued: no connection is left.
        """
        self._queue.clear()

    def _handle(self, connection: Scheduled) -> None:
        share = connection.share
        started = self._clock.seconds()
        lines = connection.handleLines(started + _TURN - self._spent)
        cost = max(self._clock.seconds() - started, lines * _LINE)
        share.used += min(cost, _MAX_COST)
        self._spent += cost

    def _enqueue(self, connection: Scheduled) -> None:
        if connection.isWaiting:
            connection.isQueued = True
            used = connection.share.used
            heappush(self._queue, (used, next(self._arrivals), connection))
