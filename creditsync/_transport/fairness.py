"""
Whose turn it is: the reactor's time, shared out by what everybody's lines cost.

Lines are handled at once as long as there is time left in a reactor turn. When
it is spent, who still has lines queues, and the next one is always who has used
the least time so far (start-time fair queueing). So a client with a line now and
then does not wait for those who have thousands, nor for those, however many,
whose every line is dear.

Time is charged to who asks and not to connections, of which anybody can have as
many as he likes: all those of one principal have one account, and so have all
those that nobody has spoken for yet.
"""

from heapq import heappop, heappush
from itertools import count
from typing import Protocol
from weakref import WeakValueDictionary

from attrs import Factory, define
from twisted.internet.interfaces import IReactorTime

# Seconds of each reactor turn that go to lines, before the reactor looks again
# at what else there is to do. A credit takes three turns, so that under a flood
# its client waits for three times this and what else a turn costs.
_TURN = 0.001
# What a line costs at least, and what one turn of somebody's costs at most,
# whatever the clock says, which may have been put back or forward meanwhile.
_LINE = 0.00001
_MAX_COST = 1.0


@define(eq=False)
class Account:
    """
    The time of one principal, or of all connections without one.

    @ivar used: Seconds that their lines took, or would have taken if there had
        always been some.
    """

    used: float = 0.0


class Client(Protocol):
    """
    A connection whose lines are to be handled.

    @ivar account: Whose time it uses.
    @ivar isQueued: Whether it has to wait for its turn.
    """

    account: Account
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
class FairScheduler:
    """
    The turns of all connections.
    """

    _clock: IReactorTime
    _accounts: WeakValueDictionary[int | None, Account] = Factory(WeakValueDictionary)
    _queue: list[tuple[float, int, Client]] = Factory(list)
    _arrivals: "count[int]" = Factory(count)
    _spent: float = 0.0
    # What the one who was last served had used.
    _least: float = 0.0

    def __bool__(self) -> bool:
        return bool(self._queue)

    def account(self, principal: int | None) -> Account:
        """
        The account of a principal, or with L{None} of all others.
        """
        account = self._accounts.get(principal)
        if account is None:
            account = self._accounts[principal] = Account()
        return account

    def serve(self, client: Client) -> None:
        """
        Handle lines of a connection now, if there is time left in this turn.
        """
        if client.isQueued:
            return
        # Who was silent has saved up one turn's time, and no more.
        account = client.account
        account.used = max(account.used, self._least - _TURN)
        if self._spent < _TURN:
            self._handle(client)
            if not self._queue:
                self._least = max(self._least, account.used)
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
        account = client.account
        started = self._clock.seconds()
        lines = client.handleLines(started + _TURN - self._spent)
        cost = max(self._clock.seconds() - started, lines * _LINE)
        account.used += min(cost, _MAX_COST)
        self._spent += cost

    def _enqueue(self, client: Client) -> None:
        if client.isWaiting:
            client.isQueued = True
            used = client.account.used
            heappush(self._queue, (used, next(self._arrivals), client))
