"""
The requests that are waiting: for their trade event, or for their commit.

The request of a C{*Sync} command waits here, by its order and event type, until
L{Waiters.match} is given its event (docs/protocol.rst, "Event matching"). Each
wait has one Deferred, one timer and one end: matched, timed out, its session
gone, or the server stopping.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from attrs import Factory, define, field
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from creditsync._conversation.waiter import Waiter
from creditsync._timeouts import EqualTimeouts
from creditsync.counters import UNKNOWN, Counters
from creditsync.errors import OutcomeUnknown, SessionEnded
from creditsync.interfaces import ISession
from creditsync.records import Deferral, ExtID, TradeEvent


@define(eq=False)
class _WaiterGroup:
    """
    The waiters for one order and event type, where there is more than one.
    However many there are, each of them is found at once, both by age and by
    operation.
    """

    # Ordered so that its first is found at once, however many went before.
    _byAge: OrderedDict[Waiter, None] = Factory(OrderedDict)
    _byOperation: dict[object, dict[Waiter, None]] = Factory(dict)

    def __len__(self) -> int:
        return len(self._byAge)

    def add(self, waiter: Waiter) -> None:
        """
        Add a waiter as the youngest.
        """
        self._byAge[waiter] = None
        self._byOperation.setdefault(waiter.operation, {})[waiter] = None

    def discard(self, waiter: Waiter) -> None:
        """
        Remove a waiter, if it is there.
        """
        if self._byAge.pop(waiter, self) is self:
            return
        same = self._byOperation[waiter.operation]
        del same[waiter]
        if not same:
            del self._byOperation[waiter.operation]

    def oldest(self) -> Waiter:
        """
        The one that has been waiting longest.
        """
        return next(iter(self._byAge))

    def of(self, operation: object) -> list[Waiter]:
        """
        Those that are waiting for this operation.
        """
        return list(self._byOperation.get(operation, ()))


@define(eq=False)
class Waiters:
    """
    All the requests that are waiting, each for at most C{timeout} seconds.
    """

    _clock: IReactorTime
    _timeout: float
    _counters: Counters | None = None
    _timeouts: EqualTimeouts[Waiter] = field(init=False)
    # By order and event type: nearly always one waiter, by itself.
    _byEvent: dict[tuple[int, int], Waiter | _WaiterGroup] = field(
        init=False, factory=dict
    )

    def __attrs_post_init__(self) -> None:
        self._timeouts = EqualTimeouts(self._clock, self._timeout, self._timedOut)

    def __len__(self) -> int:
        return len(self._timeouts)

    def __iter__(self) -> Iterator[Waiter]:
        """
        Those that are waiting, the oldest first.
        """
        return iter(self._timeouts)

    def wait(
        self, extID: ExtID | None, session: ISession, command: str = UNKNOWN
    ) -> Waiter:
        """
        Have a request wait from now on; L{expect} tells for what.
        """
        waiter = Waiter(extID, session, command)
        waiter.since = self._timeouts.start(waiter)
        return waiter

    def expect(self, waiter: Waiter, deferral: Deferral) -> None:
        """
        Have a waiter that has not ended yet wait for what C{deferral} names.
        """
        waiter.deferral = deferral
        if deferral.durable is not None:
            deferral.durable.addCallbacks(
                lambda _: self._committed(waiter), lambda why: self._lost(waiter, why)
            )
        elif waiter in self._timeouts:
            event = deferral.order, deferral.eventType
            found = self._byEvent.setdefault(event, waiter)
            if found is not waiter:
                self._addTo(found, event, waiter)

    def _addTo(
        self, found: "Waiter | _WaiterGroup", event: tuple[int, int], waiter: Waiter
    ) -> None:
        if isinstance(found, Waiter):
            several = self._byEvent[event] = _WaiterGroup()
            several.add(found)
            found = several
        found.add(waiter)

    def match(self, event: TradeEvent, data: bytes) -> None:
        """
        End the waits that this event answers.

        An event that names its operation answers every request that is waiting
        for that operation, and no other: the first one, and those that repeated
        it under the same key. An event that names none answers the oldest.

        @param data: The event's data, encoded.
        """
        answered = self._answeredBy(event)
        for waiter in answered:
            waiter.ended.callback(data)
        if not answered and self._counters is not None:
            self._counters.unanswered(event)

    def _answeredBy(self, event: TradeEvent) -> Sequence[Waiter]:
        """
        Take the waiters that an event answers out of every table. One whose
        time is over, but whose timer has not fired yet, is not among them.
        """
        key, operation = (event.order, event.type), event.operation
        found = self._byEvent.get(key)
        if found is None:
            return ()
        if isinstance(found, Waiter):
            if operation is not None and operation is not found.operation:
                return ()
            del self._byEvent[key]
            return (found,) if self._timeouts.end(found) else ()
        if operation is not None:
            return [w for w in found.of(operation) if self.release(w)]
        while found:
            oldest = found.oldest()
            if self.release(oldest):
                return [oldest]
        return ()

    def abandon(self, waiter: Waiter) -> None:
        """
        End a wait whose session is gone. The operation is booked all the same.
        """
        if self.release(waiter):
            waiter.ended.errback(SessionEnded())

    def endAll(self, cause: str) -> None:
        """
        End every wait with an unknown outcome.

        @param cause: The beginning of the message in each reply.
        """
        everyone = [w for w in self._timeouts.waiting() if self.release(w)]
        for waiter in everyone:
            waiter.ended.errback(OutcomeUnknown(cause, waiter.order))

    def release(self, waiter: Waiter) -> bool:
        """
        Take a waiter out of every table, before anything fires.

        @return: Whether it was still waiting.
        """
        self._forgetEvent(waiter)
        return self._timeouts.end(waiter)

    def _forgetEvent(self, waiter: Waiter) -> None:
        deferral = waiter.deferral
        if deferral is None or deferral.durable is not None:
            return
        event = deferral.order, deferral.eventType
        found = self._byEvent.get(event)
        if found is waiter:
            del self._byEvent[event]
        elif isinstance(found, _WaiterGroup):
            found.discard(waiter)
            if not found:
                del self._byEvent[event]

    def _timedOut(self, waiter: Waiter) -> None:
        self._forgetEvent(waiter)
        if self._counters is not None:
            self._counters.timeouts += 1
        cause = f"no answer within {self._timeout * 1000:.0f} ms"
        waiter.ended.errback(OutcomeUnknown(cause, waiter.order))

    def _committed(self, waiter: Waiter) -> None:
        if self.release(waiter):
            waiter.ended.callback(None)
        elif self._counters is not None:
            self._counters.late += 1

    def _lost(self, waiter: Waiter, why: Failure) -> None:
        if self.release(waiter):
            waiter.ended.errback(why)
