"""
What has changed from second to second: the points of the console's plots.

A point is a JSON object; times are UNIX seconds, durations seconds::

    {"time": 1767225600.2,
     "ok": 412, "refused": 3, "unknown": 0,      replies per second: 200, all
                                                 others, and 504
     "p50": 0.003, "p90": 0.004, "p99": 0.012,   from request to reply; null if
                                                 there was none
     "lag": 0.0004, "waiters": 16, "queued": 8, "unread": 0,
     "booked": 412, "commits": 210,              per second
     "commit_p50": 0.002, "commit_p99": 0.005}

C{queued} is L{None} where the trading runtime is not the embedded one.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Final

from twisted.internet.interfaces import IDelayedCall

from creditsync._metrics.reading import requestCounts
from creditsync._transport.protocol import LineProtocol
from creditsync.counters import SECONDS
from creditsync.errors import OutcomeUnknown
from creditsync.metrics import Metrics
from creditsync.web._rows import JSON

# Seconds between two points.
PERIOD: Final = 1.0
# Points that are kept.
_KEPT: Final = 300
# Connections that are looked at: more would hold up everybody's requests.
_LOOKED_AT: Final = 2000


class History:
    """
    Makes a point each second, and keeps the last of them.

    @ivar points: The oldest first.
    @ivar started: The clock's time at the beginning.
    @ivar requests: How many requests were answered up to the last point, by
        command, status and error.
    @ivar rates: The same, per second of the last point.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._counters = metrics.counters
        self._clock = metrics.clock
        self.points: deque[JSON] = deque(maxlen=_KEPT)
        self.started = self._lookedAt = self._clock.seconds()
        self.requests: Mapping[tuple[str, ...], int] = {}
        self.rates: dict[tuple[str, ...], float] = {}
        self._took = self._commits = (0,) * (len(SECONDS) + 1)
        self._booked = 0
        self._call: IDelayedCall | None = None

    def start(self) -> None:
        """
        Make points from now on.
        """
        self._call = self._clock.callLater(PERIOD, self._look)

    def stop(self) -> None:
        """
        Make no more.
        """
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _look(self) -> None:
        self.start()
        self.points.append(self._point())

    def last(self) -> JSON:
        """
        The last point, made now if there is none yet.
        """
        return self.points[-1] if self.points else self._point()

    def _point(self) -> JSON:
        """
        What has changed since the last point.
        """
        counters, now = self._counters, self._clock.seconds()
        counters.settle()
        seconds = max(now - self._lookedAt, 0.001)
        self._lookedAt = now
        requests = requestCounts(counters)
        self.rates = {
            key: round((count - self.requests.get(key, 0)) / seconds, 1)
            for key, count in requests.items()
        }
        self.requests = requests
        each = [histogram.counts for histogram in counters.took.values()]
        took = tuple(map(sum, zip(*each, strict=True))) or self._took
        commits = tuple(counters.commits.counts)
        tookNow, commitsNow = _less(took, self._took), _less(commits, self._commits)
        booked = counters.booked - self._booked
        self._took, self._commits, self._booked = took, commits, counters.booked
        runtime = self._metrics.runtime
        return {
            "time": counters.now(),
            **self._outcomeRates(),
            "p50": quantile(tookNow, 0.5),
            "p90": quantile(tookNow, 0.9),
            "p99": quantile(tookNow, 0.99),
            "lag": round(self._metrics.reactorLag.last, 6),
            "waiters": len(self._metrics.service.waiters),
            "queued": None if runtime is None else runtime.queued,
            "booked": round(booked / seconds, 1),
            "commits": round(sum(commitsNow) / seconds, 1),
            "unread": sum(each.unread for each in someConnections(self._metrics)),
            "commit_p50": quantile(commitsNow, 0.5),
            "commit_p99": quantile(commitsNow, 0.99),
        }

    def _outcomeRates(self) -> JSON:
        rates = {"ok": 0.0, "refused": 0.0, "unknown": 0.0}
        for (_, status, _), rate in self.rates.items():
            if status == "200":
                rates["ok"] += rate
            elif status == str(OutcomeUnknown.status):
                rates["unknown"] += rate
            else:
                rates["refused"] += rate
        return {name: round(rate, 1) for name, rate in rates.items()}


def someConnections(metrics: Metrics) -> Sequence[LineProtocol]:
    """
    The connections, or as many of them as may be looked at.
    """
    return list(islice(metrics.service.factory.connections, _LOOKED_AT))


def quantile(counts: Sequence[int], part: float) -> float | None:
    """
    The value below which this part of the counted values lies, as exactly as the
    bounds of L{SECONDS} allow; L{None} if nothing was counted.
    """
    wanted = part * sum(counts)
    if not wanted:
        return None
    below, low = 0, 0.0
    for count, bound in zip(counts, SECONDS, strict=False):
        if below + count >= wanted:
            return round(low + (bound - low) * (wanted - below) / count, 6)
        below, low = below + count, bound
    return low


def _less(now: Sequence[int], before: Sequence[int]) -> tuple[int, ...]:
    return tuple(a - b for a, b in zip(now, before, strict=True))
