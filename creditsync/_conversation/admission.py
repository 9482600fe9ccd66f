"""
How many requests are in flight, and whether there may be one more.
"""

from attrs import Factory, define
from twisted.internet.defer import Deferred, succeed

from creditsync.errors import Busy, TooManyRequests
from creditsync.records import Limits


@define(eq=False)
class Admission:
    """
    The count of the requests in flight, of all sessions of one server.

    @ivar pending: That count. A session adds each of its requests.
    """

    _limits: Limits
    pending: int = 0
    _idle: "list[Deferred[None]]" = Factory(list)

    def check(self, pendingInSession: int) -> None:
        """
        Check that there may be one more.

        @raise TooManyRequests: Its session has as many as it may have.
        @raise Busy: The server has as many as it may have.
        """
        if pendingInSession >= self._limits.maxPendingPerSession:
            raise TooManyRequests(
                f"this session has {pendingInSession} requests in flight"
            )
        if self.pending >= self._limits.maxPending:
            raise Busy("the server has too many requests in flight", "max-pending")

    def release(self, count: int) -> None:
        """
        Count so many fewer: they are answered, or their session has ended.
        """
        self.pending -= count
        if not self.pending:
            idle, self._idle = self._idle, []
            for each in idle:
                each.callback(None)

    def whenIdle(self) -> "Deferred[None]":
        """
        Wait until no request is in flight.
        """
        if not self.pending:
            return succeed(None)
        idle: Deferred[None] = Deferred()
        self._idle.append(idle)
        return idle
