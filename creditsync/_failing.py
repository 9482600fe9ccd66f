"""
The end of somebody's ability to work, of which several want to hear.
"""

from attrs import Factory, define
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure


@define(eq=False)
class FailureNotifier:
    """
    A failure that comes once or never, told to each who asks on a Deferred of
    its own.

    @ivar cause: The failure, if it has come.
    """

    cause: Failure | None = None
    _told: "list[Deferred[None]]" = Factory(list)

    def whenFailed(self) -> "Deferred[None]":
        """
        Wait for the failure.

        @return: Fails with its cause, at once if it has come already; never
            fires otherwise.
        """
        told: Deferred[None] = Deferred()
        if self.cause is None:
            self._told.append(told)
        else:
            told.errback(self.cause)
        return told

    def fail(self, cause: Failure) -> None:
        """
        Tell everybody. Only the first cause counts.
        """
        if self.cause is not None:
            return
        self.cause = cause
        told, self._told = self._told, []
        for each in told:
            each.errback(cause)
