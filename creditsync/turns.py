"""
Whose turn it is: the reactor's time, shared out by what everybody's lines cost.

Lines are handled at once as long as there is time left in a reactor turn. When
it is spent, who still has lines queues, and the next one is always who has used
the least time so far (start-time fair queueing). So a client with a line now and
then does not wait for those who have thousands, nor for those, however many,
whose every line is dear.
"""

from heapq import heappop, heappush
from itertools import count
from typing import Protocol

from attrs import Factory, define
from twisted.internet.interfaces import IReactorTime

# Seconds of each reactor turn that go to lines, before the reactor looks again
# at what else there is to do.
_TURN = 0.0025
# What a line costs at least, and what one turn of somebody's costs at most,
# whatever the clock says, which may have been put back or forward meanwhile.
_LINE = 0.00001
_DEAREST = 1.0


class Client(Protocol):
    """
    Somebody whose lines are to be handled.

    @ivar used: Seconds that this one's lines took, or would have taken if it
        had always had some.
    @ivar isQueued: Whether it has to wait for its turn.
    """

    used: float
    isQueued: bool

    @property
    def isWaiting(self) -> bool:
        """
        Whether there are lines that could be handled.
        """

    def handleLines(self, until: float) -> int:
        """
        Handle one line or more, the last of them before C{until} by the clock.

        @return: How many.
        """


@define(eq=False)
class Turns:
    """
    The turns of all clients.
    """

    _clock: IReactorTime
    _queue: list[tuple[float, int, Client]] = Factory(list)
    _arrivals: "count[int]" = Factory(count)
    _spent: float = 0.0
    # The time that the one who was last taken from the queue had used.
    _least: float = 0.0

    def __bool__(self) -> bool:
        return bool(self._queue)

    def serve(self, client: Client) -> None:
        """
        Handle lines of a client now, if there is time left in this turn.
        """
        if client.isQueued:
            return
        # Who was silent has saved up one turn's time, and no more.
        client.used = max(client.used, self._least - _TURN)
        if self._spent < _TURN:
            self._handle(client)
        self._enqueue(client)

    def next(self) -> None:
        """
        Begin a turn, with those who wait for it.
        """
        self._spent = 0.0
        while self._queue and self._spent < _TURN:
            self._least, _, client = heappop(self._queue)
            client.isQueued = False
            if client.isWaiting:
                self._handle(client)
                self._enqueue(client)

    def clear(self) -> None:
        """
        Nobody is left.
        """
        self._queue.clear()

    def _handle(self, client: Client) -> None:
        started = self._clock.seconds()
        lines = client.handleLines(started + _TURN - self._spent)
        cost = max(self._clock.seconds() - started, lines * _LINE)
        client.used += min(cost, _DEAREST)
        self._spent += cost

    def _enqueue(self, client: Client) -> None:
        if client.isWaiting:
            client.isQueued = True
            heappush(self._queue, (client.used, next(self._arrivals), client))
