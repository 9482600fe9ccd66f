"""
The requests that are waiting: for their trade event, or for their commit.

The request of a C{*Sync} command waits here, by its order and event type, until
L{Waiters.match} is given its event (docs/protocol.rst, "Event matching"). Each
wait is one Deferred (L{Waiter}) and has one timer and one end: matched, timed out,
its session gone, or the server stopping.
"""

from collections.abc import Hashable, Iterator, Sequence

from attrs import Factory, define, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from creditsync._conversation.crowds import Crowds
from creditsync._conversation.waiter import Waiter
from creditsync._timeouts import TimedTable
from creditsync.counters import Counters
from creditsync.errors import OutcomeUnknown, Refusal, SessionEnded, ShuttingDown
from creditsync.records import Reservation, TradeEvent

_log = Logger()


@define(eq=False)
class Waiters:
    """
    All the requests that are waiting, each for at most C{timeout} seconds: one
    waiter for each request in flight.

    @ivar entries: The one table of waiters, the oldest first: by the order for
        whose event they are waiting. The few that can't be found by that are under
        themselves, and in the crowds too if they are waiting for an event.
    """

    _clock: IReactorTime
    _timeout: float
    _counters: Counters | None = None
    entries: dict[Hashable, Waiter] = field(init=False)
    _table: TimedTable[Waiter] = field(init=False)
    _crowds: Crowds = field(init=False, factory=Crowds)
    _idle: "list[Deferred[None]]" = field(init=False, default=Factory(list))

    def __attrs_post_init__(self) -> None:
        self._table = TimedTable(self._clock, self._timeout, self._timedOut)
        self.entries = self._table.entries

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Waiter]:
        """
        Those that are waiting, the oldest first.
        """
        return iter(self.entries.values())

    def now(self) -> float:
        """
        The clock's time, from which a wait that begins now has its timeout.
        """
        return self._clock.seconds()

    def add(self, waiter: Waiter) -> None:
        """
        Have a request wait: for an event; for its commit, if the waiter has a
        response; or for its reservation (L{reserved}), if it has none.
        """
        entries, reservation = self.entries, waiter.reservation
        isAlone = (
            reservation is not None
            and waiter.response is None
            # Whoever is there by the order is older than the crowd.
            and not (self._crowds and self._crowds.isFor(reservation))
            and entries.setdefault(reservation.data.order, waiter) is waiter
        )
        if not isAlone:
            entries[waiter] = waiter
            if reservation is not None:
                self.reserved(waiter)
        if len(entries) == 1:
            self._table.arm()

    def reserved(self, waiter: Waiter) -> None:
        """
        Have a request that was waiting for its reservation, and got it, wait for
        what that promises, unless the wait has ended.
        """
        reservation = waiter.reservation
        assert reservation is not None
        if waiter.response is not None:
            reservation.whenDurable().addCallbacks(
                lambda _: self._committed(waiter), lambda why: self._lost(waiter, why)
            )
        elif waiter in self.entries:
            self._crowds.add(waiter, reservation)

    def match(self, events: Sequence[TradeEvent], encoded: Sequence[bytes]) -> None:
        """
        End the waits that these events answer.

        An event that names its operation answers every request that is waiting
        for that operation, and no other: the first one, and those that repeated
        it under the same key. An event that names none answers the oldest.

        @param encoded: The data of each event.
        """
        entries, crowds = self.entries, self._crowds
        for event, data in zip(events, encoded, strict=True):
            if event.__class__ is Reservation and not crowds:
                # Nearly always: whoever is waiting is waiting for this very event.
                order = event.data.order
                waiter = entries.get(order)
                if waiter is not None and waiter.reservation is event:
                    del entries[order]
                    waiter.end(data)
                    continue
            try:
                self._matchAny(event, data)
            except Exception:
                # An event of another runtime, which lacks its order.
                _log.failure("a trade event can't be matched")
        self._relax()

    def _matchAny(self, event: TradeEvent, data: bytes) -> None:
        answered: list[Waiter] = []
        # Some of a crowd may have timed out in this very moment and not know yet:
        # they give way to the next.
        while not answered and (found := list(self._answeredBy(event))):
            answered = [each for each in found if self._remove(each)]
        for waiter in answered:
            waiter.end(data)
        if not answered and self._counters is not None:
            self._counters.unanswered(event)

    def _answeredBy(self, event: TradeEvent) -> Iterator[Waiter]:
        alone = self.entries.get(event.order)
        operation = event.operation
        if alone is not None and alone.reservation is not None:
            isOf = operation is None or operation is alone.reservation.operation
            if isOf and alone.reservation.type == event.type:
                yield alone
                if operation is None:
                    return
        yield from self._crowds.answeredBy(event)

    def abandon(self, waiter: Waiter) -> None:
        """
        End a wait whose session is gone. The operation is booked all the same.
        """
        if self.release(waiter):
            waiter.fail(Failure(SessionEnded()))

    def endAll(self, cause: str) -> None:
        """
        End every wait with an unknown outcome, but those of requests that change
        nothing: these are refused, as if they had come now.

        @param cause: The beginning of the message in each reply.
        """
        for waiter in [each for each in list(self) if self._remove(each)]:
            refusal: Refusal = OutcomeUnknown(cause, waiter.order)
            if waiter.isReadOnly:
                refusal = ShuttingDown(cause)
            waiter.fail(Failure(refusal))
        self._relax()

    def release(self, waiter: Waiter) -> bool:
        """
        Take a waiter out of every table, before anything fires.

        @return: Whether it was still waiting.
        """
        found = self._remove(waiter)
        self._relax()
        return found

    def _remove(self, waiter: Waiter) -> bool:
        entries, reservation = self.entries, waiter.reservation
        if reservation is not None:
            if entries.get(reservation.data.order) is waiter:
                del entries[reservation.data.order]
                return True
            self._crowds.discard(waiter, reservation)
        return entries.pop(waiter, None) is not None

    def whenIdle(self) -> "Deferred[None]":
        """
        Wait until no request is waiting.
        """
        if not self.entries:
            return succeed(None)
        idle: Deferred[None] = Deferred()
        self._idle.append(idle)
        return idle

    def _relax(self) -> None:
        self._table.relax()
        if self._idle and not self.entries:
            idle, self._idle = self._idle, []
            for each in idle:
                each.callback(None)

    def _timedOut(self, waiter: Waiter) -> None:
        if waiter.reservation is not None:
            self._crowds.discard(waiter, waiter.reservation)
        if self._counters is not None:
            self._counters.timeouts += 1
        cause = f"no answer within {self._timeout * 1000:.0f} ms"
        waiter.fail(Failure(OutcomeUnknown(cause, waiter.order)))
        self._relax()

    def _committed(self, waiter: Waiter) -> None:
        if self.release(waiter):
            waiter.end(None)
        elif self._counters is not None:
            self._counters.late += 1

    def _lost(self, waiter: Waiter, why: Failure) -> None:
        if self.release(waiter):
            waiter.fail(why)
