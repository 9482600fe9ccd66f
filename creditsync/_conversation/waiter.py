"""
One request that is waiting for its reply.

The session makes it (L{creditsync._conversation.waiters} keeps it); when it has
ended, the counters and the console read it.
"""

from msgspec import Struct, field
from twisted.internet.defer import Deferred

from creditsync.interfaces import ISession
from creditsync.records import Deferral, Deletion, ExtID, Operation, Response


class Waiter(Struct, eq=False):
    """
    A request that is waiting for its reply.

    @ivar session: The session that sent it, and gets the reply.
    @ivar since: The clock's time at which the wait began.
    @ivar deferral: What it waits for, or L{None} while the runtime has not
        yet reserved the order.
    @ivar response: The reply's data where it waits for a commit; an event brings
        its own.
    @ivar ended: Fires with the encoded data of the matched event, or with
        L{None} for a commit; fails with
        L{OutcomeUnknown<creditsync.errors.OutcomeUnknown>} when neither came,
        or with L{SessionEnded<creditsync.errors.SessionEnded>}.
    """

    extID: ExtID | None
    session: ISession
    command: str
    since: float = 0.0
    deferral: Deferral | None = None
    response: Response | None = None
    ended: "Deferred[bytes | None]" = field(default_factory=Deferred)

    @property
    def order(self) -> int | None:
        """
        The order, if it is reserved.
        """
        return None if self.deferral is None else self.deferral.order

    @property
    def operation(self) -> Operation | Deletion | None:
        """
        The operation whose event it waits for, if it is reserved.
        """
        return None if self.deferral is None else self.deferral.operation
