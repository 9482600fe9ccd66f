"""
What the modules count while they work, for the metrics and the console.

Nothing here knows Prometheus, whose own counters cost a microsecond and more
at each call. To count a request is to append its waiter to a list;
L{Counters.settle} adds all that was answered in a reactor turn to plain integers,
and reads the clock once for it. L{creditsync.metrics} reads those integers when it
is asked.

A module that was given no counters counts nothing.
"""

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from attrs import Factory, define, field
from twisted.internet.interfaces import IReactorTime

from creditsync._conversation.waiter import Waiter
from creditsync.errors import Refusal
from creditsync.interfaces import ISession
from creditsync.records import BookedElsewhere, ExtID, Request, TradeEvent

# Upper bounds of histograms: seconds, and operations in a batch.
SECONDS: Final = (
    *(0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03),
    *(0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)
# The bounds of each bucket, the last of which has what is above them all.
_LOWER: Final = (-math.inf, *SECONDS)
_UPPER: Final = (*SECONDS, math.inf)
SIZES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 50_000)

# How many answers, refusals and events are kept for the console.
_RECENT: Final = 100
# How many of one turn at most: to keep more costs a busy server more than the
# counting does.
_SAMPLE: Final = 8
# The label of any command that this server doesn't have.
UNKNOWN: Final = "unknown"


@define(eq=False)
class Histogram:
    """
    How many values there were up to each bound.

    @ivar counts: For each bound, the values up to it and above the one before;
        the last is for values above all bounds.
    """

    bounds: Sequence[float] = SECONDS
    counts: list[int] = field(
        init=False, default=Factory(lambda self: [0] * (len(self.bounds) + 1), True)
    )
    sum: float = field(init=False, default=0.0)

    def add(self, value: float, times: int = 1) -> None:
        """
        Count a value that came so many times.
        """
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


@define
class RecentRefusal:
    """
    A refusal, for the console.

    @ivar when: UNIX seconds.
    """

    when: float
    session: ISession
    command: str
    extID: ExtID | None
    refusal: Refusal


@define(eq=False)
class Counters:
    """
    The counts of one server.

    @ivar now: The UNIX time.
    @ivar answered: The waiters whose requests succeeded in this turn; the
        sessions append to it.
    @ivar took: Seconds from a request to the writing of its reply, by command.
    @ivar refusals: By command, status and error.
    @ivar limits: Refusals by the limit that was reached.
    @ivar rules: Refusals by the rule of the site that was applied.
    @ivar timeouts: Requests that timed out (504).
    @ivar late: Bookings whose waiters had ended before.
    @ivar unmatched: Events that no request to this server had caused.
    @ivar acknowledged: Operations that were answered with 200.
    @ivar booked: Operations in commits that have ended.
    @ivar published: Events that were published.
    @ivar unbooked: Operations that were acknowledged or published before they
        were booked, which must never be.
    @ivar books: Whether the runtime is one that counts here too.
    @ivar lastCommit: The UNIX time of the last commit's end, if any.
    """

    _clock: IReactorTime
    now: Callable[[], float]
    answered: list[Waiter] = field(init=False, factory=list)
    took: dict[str, Histogram] = field(init=False, factory=dict)
    refusals: dict[tuple[str, int, str], int] = field(init=False, factory=dict)
    limits: dict[str, int] = field(init=False, factory=dict)
    rules: dict[str, int] = field(init=False, factory=dict)
    timeouts: int = field(init=False, default=0)
    late: int = field(init=False, default=0)
    unmatched: int = field(init=False, default=0)
    acknowledged: int = field(init=False, default=0)
    booked: int = field(init=False, default=0)
    published: int = field(init=False, default=0)
    unbooked: int = field(init=False, default=0)
    books: bool = field(init=False, default=False)
    queuedToCommitted: Histogram = field(init=False, factory=Histogram)
    committedToMatched: Histogram = field(init=False, factory=Histogram)
    commits: Histogram = field(init=False, factory=Histogram)
    batches: Histogram = field(init=False, factory=lambda: Histogram(SIZES))
    lastCommit: float | None = field(init=False, default=None)
    recentlyAnswered: deque[Waiter] = field(
        init=False, factory=lambda: deque(maxlen=_RECENT)
    )
    recentlyRefused: deque[RecentRefusal] = field(
        init=False, factory=lambda: deque(maxlen=_RECENT)
    )
    recentEvents: deque[TradeEvent] = field(
        init=False, factory=lambda: deque(maxlen=_RECENT)
    )
    _atOnce: dict[str, int] = field(init=False, factory=dict)
    _turnBegan: float = field(init=False, default=0.0)
    _commitEnded: float = field(init=False, default=0.0)

    def answeredAtOnce(self, command: str) -> None:
        """
        A request was answered in the turn in which it arrived.
        """
        if not self._atOnce:
            self._turnBegan = self._clock.seconds()
        self._atOnce[command] = self._atOnce.get(command, 0) + 1

    def refused(
        self, session: ISession, asked: Request | Waiter, refusal: Refusal
    ) -> None:
        """
        A request was refused.

        @param asked: The request; as a waiter, if it had waited.
        """
        command = asked.command
        if isinstance(asked, Waiter):
            self._tookOf(command).add(self._clock.seconds() - asked.since)
        else:
            self.answeredAtOnce(command)
        key = command, refusal.status, refusal.error
        self.refusals[key] = self.refusals.get(key, 0) + 1
        if refusal.limit is not None:
            self.limited(refusal.limit)
        if refusal.rule is not None:
            self.rules[refusal.rule] = self.rules.get(refusal.rule, 0) + 1
        self.recentlyRefused.append(
            RecentRefusal(self.now(), session, command, asked.extID, refusal)
        )

    def limited(self, limit: str) -> None:
        """
        A limit was reached.

        @param limit: The name of its option.
        """
        self.limits[limit] = self.limits.get(limit, 0) + 1

    def unanswered(self, event: TradeEvent) -> None:
        """
        An event came for which no request is waiting.
        """
        if event.operation is None or isinstance(event.operation, BookedElsewhere):
            self.unmatched += 1
        elif event.operation.command.endswith("Sync"):
            self.late += 1

    def committed(self, count: int, queued: float, started: float) -> None:
        """
        A batch is on disk.

        @param queued: When the first of the batch was queued; the others are
            counted as if they had been queued then too.
        @param started: When the commit began.
        """
        # What is not settled yet belongs to the commit before.
        self.settle()
        self._commitEnded = ended = self._clock.seconds()
        self.lastCommit = self.now()
        self.booked += count
        self.batches.add(count)
        self.commits.add(ended - started)
        self.queuedToCommitted.add(ended - queued, count)

    def publishing(self, events: Sequence[TradeEvent]) -> None:
        """
        Events are about to be sent.
        """
        self.published += len(events)
        self.recentEvents.extend(events[-_SAMPLE:])
        if self.books and events:
            for event in (events[0], events[-1]):
                if event.operation is not None and not event.operation.isBooked:
                    self.unbooked += 1

    def settle(self) -> None:
        """
        Count what was answered since the last time; its replies are written now.
        """
        if self._atOnce:
            self._settleAtOnce()
        if self.answered:
            answered, self.answered = self.answered, []
            self._settle(answered)

    def _settleAtOnce(self) -> None:
        atOnce, self._atOnce = self._atOnce, {}
        seconds = self._clock.seconds() - self._turnBegan
        for command, count in atOnce.items():
            self._tookOf(command).add(seconds, count)

    def _settle(self, answered: list[Waiter]) -> None:
        # The hot loop of all counting. The requests of one batch mostly fall into
        # the same bucket of the histogram, so they are added to it together.
        now = self._clock.seconds()
        acknowledged = unbooked = alike = bucket = 0
        total = start = end = 0.0
        command, histogram, operation = "", None, None
        for waiter in answered:
            since = waiter.since
            if not start <= since < end or waiter.command != command:
                if histogram is not None:
                    histogram.counts[bucket] += alike
                    histogram.sum += alike * now - total
                command, alike, total = waiter.command, 0, 0.0
                histogram = self.took.get(command) or self._tookOf(command)
                bucket = bisect_left(SECONDS, now - since)
                start, end = now - _UPPER[bucket], now - _LOWER[bucket]
            alike += 1
            total += since
            reservation = waiter.reservation
            # Repetitions under one key, of one operation, are answered in a row.
            if reservation is not None and reservation.operation is not operation:
                operation = reservation.operation
                acknowledged += 1
                if not operation.isBooked:
                    unbooked += 1
        assert histogram is not None
        histogram.counts[bucket] += alike
        histogram.sum += alike * now - total
        self.acknowledged += acknowledged
        self.recentlyAnswered.extend(answered[-_SAMPLE:])
        if self.books and acknowledged:
            self.unbooked += unbooked
            self.committedToMatched.add(now - self._commitEnded, acknowledged)

    def _tookOf(self, command: str) -> Histogram:
        histogram = self.took.get(command)
        if histogram is None:
            histogram = self.took[command] = Histogram()
        return histogram
