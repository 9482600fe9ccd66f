"""
A one-shot failure that several callers can wait for.
"""

from attrs import Factory, define
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure


@define(eq=False)
class FailureNotifier:
    """
    A failure that happens once or never. Each caller that waits for it gets a
    Deferred of its own.

    @ivar cause: The failure, once it has happened.
    """

    cause: Failure | None = None
    _waiting: "list[Deferred[None]]" = Factory(list)

    def whenFailed(self) -> "Deferred[None]":
        """
        Wait for the failure.

        @return: Fails with the cause, at once if that has happened already;
            never fires otherwise.
        """
        failed: Deferred[None] = Deferred()
        if self.cause is None:
            self._waiting.append(failed)
        else:
            failed.errback(self.cause)
        return failed

    def fail(self, cause: Failure) -> None:
        """
        Notify all callers. Later causes are ignored.
        """
        if self.cause is not None:
            return
        self.cause = cause
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.errback(cause)
