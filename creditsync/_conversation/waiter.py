"""
One request that is waiting for its reply.

The session makes it (L{creditsync._conversation.waiters} keeps it); when it has
ended, the counters and the console read it.
"""

from typing import Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from creditsync.interfaces import ISession
from creditsync.records import AnyOperation, ExtID, Reservation, Response

_log = Logger()

# A Deferred does not tell in public whether it has callbacks; before Twisted 25.5 the
# list of them had no underscore.
_CALLBACKS: Final = "_callbacks" if hasattr(Deferred(), "_callbacks") else "callbacks"


class Waiter(Deferred[bytes | None]):
    """
    A request that is waiting for its reply.

    It fires with the encoded data of the matched event, or with L{None} for a
    commit; it fails with L{OutcomeUnknown<creditsync.errors.OutcomeUnknown>} when
    neither came, or with L{SessionEnded<creditsync.errors.SessionEnded>}. Its session
    is told by a call just before that: nearly always nobody else has to be told, and
    callbacks would take three times as long.

    @ivar session: The session that sent it, and gets the reply.
    @ivar since: The clock's time at which the wait began.
    @ivar reservation: What it waits for, or L{None} while the runtime has not
        yet reserved the order.
    @ivar response: The reply's data where it waits for a commit; an event brings
        its own.
    @ivar asked: The operation of the request, if it has one and is not reserved yet.
    @ivar isReadOnly: Whether the request changes nothing, whatever becomes of it.
    """

    # Set later, and nearly never: making a waiter has to be quick.
    isReadOnly = False

    def __init__(
        self,
        extID: ExtID | None,
        session: ISession,
        command: str,
        since: float,
        reservation: Reservation | None = None,
        response: Response | None = None,
        asked: AnyOperation | None = None,
    ) -> None:
        # Not by super(), which takes longer than all the rest of this.
        Deferred.__init__(self)
        self.extID = extID
        self.session = session
        self.command = command
        self.since = since
        self.reservation = reservation
        self.response = response
        self.asked = asked

    def end(self, data: bytes | None) -> None:
        """
        Tell the session, and fire.
        """
        try:
            self.session.waitEnded(self, data)
        except Exception:
            _log.failure("a reply failed")
        if getattr(self, _CALLBACKS):
            self.callback(data)
        else:
            # All that callback() would do, in a fifth of the time.
            self.called, self.result = True, data

    def fail(self, why: Failure) -> None:
        """
        Tell the session, and fail.
        """
        try:
            self.session.waitFailed(self, why)
        except Exception:
            _log.failure("a reply failed")
        self.errback(why)
        # The session was told. Whoever else wants to know has an errback there.
        self.addErrback(lambda why: None)

    @property
    def order(self) -> int | None:
        """
        The order, if it is reserved, or known before that.
        """
        if self.reservation is not None:
            return self.reservation.data.order
        return None if self.asked is None else self.asked.reserved

    @property
    def operation(self) -> AnyOperation | None:
        """
        The operation whose event it waits for, if it is reserved.
        """
        return None if self.reservation is None else self.reservation.operation
