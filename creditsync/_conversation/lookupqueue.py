"""
Look-ups that wait for their turn.

A search can keep a processor and the disk busy for seconds, so searches are carried
out one at a time. The principals take turns, so that one who sends many of them delays
each of the others by one at most. What can't begin soon is refused with C{BUSY}.

A look-up does not begin while its client does not read, as its reply may be large: no
more than one such reply waits for a client.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Final

from attrs import Factory, define
from twisted.internet.defer import Deferred, TimeoutError, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from creditsync.errors import Busy, TookTooLong
from creditsync.interfaces import ISession

# Seconds after which clients that do not read are looked at again.
_LOOK_AGAIN: Final = 0.1


@define(eq=False)
class _Lookup:
    """
    One look-up that waits.

    @ivar since: When it began to wait.
    """

    session: ISession
    begin: Callable[[], "Deferred[Any]"]
    since: float
    done: "Deferred[Any]" = Factory(Deferred)


@define(eq=False)
class LookupQueue:
    """
    Look-ups that are carried out one at a time.

    @ivar _most: How many of one principal may be waiting.
    @ivar _patience: Seconds that one may wait for its turn.
    @ivar _seconds: Seconds after which one that has begun is given up.
    @ivar _pause: Seconds between two of them.
    """

    _clock: IReactorTime
    _most: int
    _patience: float
    _seconds: float
    _pause: float = 0.0
    # Those that wait, by the id of their principal, whose turn it is first.
    _waiting: "OrderedDict[int, deque[_Lookup]]" = Factory(OrderedDict)
    _isBusy: bool = False
    _call: IDelayedCall | None = None

    def add(
        self, session: ISession, begin: Callable[[], "Deferred[Any]"]
    ) -> "Deferred[Any]":
        """
        Have a look-up wait for its turn.

        @param begin: Called then. Its Deferred says when the next one may begin.
        @return: Fires as that of C{begin} does.
        @raise Busy: Too many of this principal are waiting.
        """
        assert session.principal is not None
        lookups = self._waiting.setdefault(session.principal.id, deque())
        if len(lookups) >= self._most:
            raise Busy("you have too many look-ups waiting", "max-lookups")
        lookup = _Lookup(session, begin, self._clock.seconds())
        lookups.append(lookup)
        self._turnLater(0)
        return lookup.done

    def _turnLater(self, seconds: float) -> None:
        # Not now: the session has to register that the request waits first.
        if self._waiting and self._call is None and not self._isBusy:
            self._call = self._clock.callLater(seconds, self._turn)

    def _turn(self) -> None:
        self._call = None
        lookup = self._next()
        if lookup is None:
            self._turnLater(_LOOK_AGAIN)
            return
        self._isBusy = True
        begun = maybeDeferred(lookup.begin)
        begun.addTimeout(self._seconds, self._clock)
        begun.addErrback(self._explain)
        begun.addBoth(self._ended, lookup)

    def _explain(self, why: Any) -> Any:
        why.trap(TimeoutError)
        raise TookTooLong()

    def _ended(self, result: Any, lookup: _Lookup) -> None:
        self._isBusy = False
        self._turnLater(self._pause)
        lookup.done.callback(result)

    def _next(self) -> _Lookup | None:
        """
        Take the next look-up whose client reads, if there is one, and refuse those that
        have waited too long.
        """
        oldest = self._clock.seconds() - self._patience
        for id, lookups in list(self._waiting.items()):
            while lookups and (lookups[0].since < oldest or lookups[0].session.isIdle):
                expired = lookups.popleft()
                expired.done.errback(Busy("the server has too many look-ups waiting"))
            found = None
            if lookups and not lookups[0].session.isStalled:
                found = lookups.popleft()
            if not lookups:
                del self._waiting[id]
            elif found is not None:
                self._waiting.move_to_end(id)
            if found is not None:
                return found
        return None
