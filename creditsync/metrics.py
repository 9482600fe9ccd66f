"""
What a monitoring system may know, in Prometheus' format.

L{Metrics} is a collector: it turns the plain counts of a
L{Counters<creditsync.counters.Counters>}, and what the rooms can tell of themselves at
that moment, into metric families when it is asked, and costs nothing in
between. L{registry} makes a registry of its own with it; an application that
has one already calls C{REGISTRY.register(metrics)} instead, and the metrics
stand among its own. All names begin with C{creditsync_}.

C{prometheus_client.twisted} is not used: it imports the global reactor.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final, TypeAlias

from attrs import define, field
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from creditsync import __version__
from creditsync.codes import (
    SESSION_ADMIN,
    SESSION_DEALER,
    SESSION_FIX,
    SESSION_MANAGER,
    SESSION_SYSTEM,
    SESSION_USER,
)
from creditsync.counters import Counters, Histogram
from creditsync.errors import Unauthorized
from creditsync.revocations import Revocations
from creditsync.runtime import TradingRuntime
from creditsync.service import CreditSync

# Seconds between two looks at how late the reactor is.
_PULSE: Final = 0.25

ROLES: Final[Mapping[int | None, str]] = {
    None: "none",
    SESSION_USER: "user",
    SESSION_MANAGER: "manager",
    SESSION_DEALER: "dealer",
    SESSION_ADMIN: "admin",
    SESSION_SYSTEM: "system",
    SESSION_FIX: "fix",
}

_Labels: TypeAlias = tuple[str, ...]
_Families: TypeAlias = Iterator[Metric]


@define(eq=False)
class ReactorLag:
    """
    Sees how late the reactor calls what it was asked to call.

    @ivar lag: Seconds by which it was late the last time.
    @ivar lags: All of them since the start.
    """

    _clock: IReactorTime
    lag: float = field(init=False, default=0.0)
    lags: Histogram = field(init=False, factory=Histogram)
    _call: IDelayedCall | None = field(init=False, default=None)

    def start(self) -> None:
        """
        Look from now on.
        """
        self._call = self._clock.callLater(
            _PULSE, self._beat, self._clock.seconds() + _PULSE
        )

    def stop(self) -> None:
        """
        Look no more.
        """
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _beat(self, due: float) -> None:
        self.lag = max(0.0, self._clock.seconds() - due)
        self.lags.add(self.lag)
        self.start()


@define(eq=False, slots=False)
class Metrics(Collector):
    """
    The metrics of one server.

    @ivar revocations: What the service's authenticator reads, if it reads such a
        file.
    @ivar runtime: The service's trading runtime, if it is the embedded one.
    @ivar pulse: Whoever made this starts and stops it.
    """

    clock: IReactorTime
    service: CreditSync
    counters: Counters
    revocations: Revocations | None = None
    runtime: TradingRuntime | None = field(init=False)
    pulse: ReactorLag = field(init=False)

    def __attrs_post_init__(self) -> None:
        runtime = self.service.runtime
        self.runtime = runtime if isinstance(runtime, TradingRuntime) else None
        self.pulse = ReactorLag(self.clock)

    def collect(self) -> Iterable[Metric]:
        """
        Tell everything as it is now; the registry's call.
        """
        self.counters.settle()
        yield from self._requests()
        yield from self._waits()
        yield from self._sessions()
        if self.counters.books:
            yield from self._bookings()
        if self.runtime is not None:
            yield from self._queue(self.runtime)
        yield _histogram(
            "creditsync_reactor_lag_seconds",
            "How late the reactor made a call that it was asked for.",
            {(): self.pulse.lags},
        )
        yield from self._files()
        yield InfoMetricFamily(
            "creditsync_build", "The running version.", {"version": __version__}
        )

    def problem(self) -> str | None:
        """
        Why requests can't be served now, if there is a reason: the service is
        not running or has no open port, the runtime has failed, or an operation
        waits for its commit for longer than a request may take. That nothing
        was booked for a long time is none.
        """
        if self.service.problem is not None or self.runtime is None:
            return self.service.problem
        since = self.runtime.queuedSince
        waited = 0.0 if since is None else self.clock.seconds() - since
        if waited <= self.service.timeout:
            return None
        return f"the ledger has not ended a commit for {waited:.0f} s"

    def _requests(self) -> _Families:
        labels = ("command", "status", "error")
        yield _counter(
            "creditsync_requests",
            "Requests that were answered, by the outcome that their clients were told.",
            requestCounts(self.counters),
            labels,
        )
        yield _histogram(
            "creditsync_request_seconds",
            "From taking a request to writing its reply.",
            {(command,): each for command, each in self.counters.took.items()},
            ("command",),
        )
        yield _counter(
            "creditsync_limit_refusals",
            "Requests and connections refused or cut off, by the option of the limit"
            " that they reached.",
            {(limit,): count for limit, count in self.counters.limits.items()},
            ("limit",),
        )
        yield _counter(
            "creditsync_token_rejections",
            "Requests whose token was missing or not good.",
            {(): rejections(self.counters)},
        )

    def _waits(self) -> _Families:
        waiters, counters = self.service.waiters, self.counters
        yield _gauge(
            "creditsync_waiters", "Replies that wait.", {(): float(len(waiters))}
        )
        oldest = next(iter(waiters), None)
        yield _gauge(
            "creditsync_oldest_waiter_seconds",
            "How long the oldest of them has waited; 0 without one.",
            {(): 0.0 if oldest is None else self.clock.seconds() - oldest.since},
        )
        yield _counter(
            "creditsync_timeouts",
            "Waits that ended in 504 because their time was over.",
            {(): counters.timeouts},
        )
        yield _counter(
            "creditsync_late_events",
            "Bookings whose client was told 504 before, or was gone.",
            {(): counters.late},
        )
        yield _counter(
            "creditsync_unmatched_events",
            "Trade events that no request of this server has caused.",
            {(): counters.unmatched},
        )

    def _sessions(self) -> _Families:
        connections = self.service.factory.connections
        roles: dict[_Labels, float] = {(role,): 0.0 for role in ROLES.values()}
        unread = stalled = 0
        for connection in connections:
            principal = connection.session.principal
            role = None if principal is None else principal.role
            roles[ROLES[role],] += 1
            unread += connection.unread
            stalled += connection.isStalled
        yield _gauge(
            "creditsync_sessions",
            "Connections, by the role of their last good token.",
            roles,
            ("role",),
        )
        yield _gauge(
            "creditsync_unread_bytes",
            "What was said to all clients and has not left this process.",
            {(): float(unread)},
        )
        yield _gauge(
            "creditsync_stalled_sessions",
            "Connections that are not read from, because they do not read.",
            {(): float(stalled)},
        )
        yield _counter(
            "creditsync_aborted_readers",
            "Connections cut off because what they left unread reached its limit.",
            {(): self.counters.limits.get("max-unread", 0)},
        )

    def _files(self) -> _Families:
        yield _gauge(
            "creditsync_certificate_expiry_timestamp_seconds",
            "When the certificate of a port ends, in UNIX time.",
            {(file,): float(end) for file, end in self.service.expiries.items()},
            ("file",),
        )
        audit = self.service.audit
        yield _counter(
            "creditsync_audit_lines_lost",
            "Lines of the audit trail that could not be written.",
            {(): 0 if audit is None else audit.lost},
        )
        if self.revocations is not None:
            # Where no command comes, nobody else looks.
            self.revocations.refresh()
        problem = self.revocations and self.revocations.problem
        yield _gauge(
            "creditsync_revocations_stale",
            "1 while the file of revoked tokens can't be read or understood, and what"
            " was read last stays in force; otherwise 0.",
            {(): float(problem is not None)},
        )

    def _bookings(self) -> _Families:
        counters = self.counters
        for name, help, value in (
            ("acknowledged", "Operations answered with 200.", counters.acknowledged),
            ("booked", "Operations in commits that have ended.", counters.booked),
            ("published", "Trade events published.", counters.published),
        ):
            yield _counter(f"creditsync_operations_{name}", help, {(): value})
        yield _gauge(
            "creditsync_operations_unbooked",
            "Operations acknowledged or published before they were booked: must be 0.",
            {(): float(counters.unbooked)},
        )
        yield _gauge(
            "creditsync_operations_unpublished",
            "Operations booked and not yet published: one batch at most, 0 at rest.",
            {(): float(counters.booked - counters.published)},
        )
        yield _histogram(
            "creditsync_queued_to_committed_seconds",
            "From queueing an operation to the end of its commit; the oldest of a"
            " batch counts for all of it.",
            {(): counters.queuedToCommitted},
        )
        yield _histogram(
            "creditsync_committed_to_matched_seconds",
            "From the end of a commit to the writing of the replies that it allows.",
            {(): counters.committedToMatched},
        )
        yield _histogram(
            "creditsync_commit_seconds",
            "From handing a batch to the ledger to hearing that it is on disk.",
            {(): counters.commits},
        )
        yield _histogram(
            "creditsync_commit_operations",
            "Operations in one commit.",
            {(): counters.batches},
        )
        yield _gauge(
            "creditsync_last_commit_timestamp_seconds",
            "When the last commit ended, in UNIX time; 0 before the first.",
            {(): counters.lastCommit or 0.0},
        )

    def _queue(self, runtime: TradingRuntime) -> _Families:
        since = runtime.queuedSince
        yield _gauge(
            "creditsync_queued_operations",
            "Operations that wait for the end of their commit.",
            {(): float(runtime.queued)},
        )
        yield _gauge(
            "creditsync_oldest_queued_seconds",
            "How long the oldest of them has waited; 0 without one.",
            {(): 0.0 if since is None else self.clock.seconds() - since},
        )


def registry(metrics: Metrics) -> CollectorRegistry:
    """
    A registry with these metrics and those of the process.
    """
    made = CollectorRegistry(auto_describe=True)
    made.register(metrics)
    ProcessCollector(registry=made)
    return made


def exposition(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """
    Tell all metrics in the format that a scraper prefers.

    @param accept: Its C{Accept} header.
    @return: The text and its content type.
    """
    encoder: Callable[[CollectorRegistry], bytes]
    encoder, contentType = choose_encoder(accept)
    return encoder(registry), contentType


def requestCounts(counters: Counters) -> dict[tuple[str, ...], int]:
    """
    How many requests were answered, by command, status and error.
    """
    counts: dict[tuple[str, ...], int] = {}
    refused: Counter[str] = Counter()
    for (command, status, error), count in counters.refusals.items():
        counts[command, str(status), error] = count
        refused[command] += count
    for command, histogram in counters.took.items():
        succeeded = sum(histogram.counts) - refused[command]
        if succeeded:
            counts[command, "200", ""] = succeeded
    return counts


def rejections(counters: Counters) -> int:
    """
    How many requests had no good token.
    """
    return sum(
        count
        for (_, _, error), count in counters.refusals.items()
        if error == Unauthorized.error
    )


def _counter(
    name: str, help: str, values: Mapping[_Labels, int], labels: _Labels = ()
) -> Metric:
    family = CounterMetricFamily(name, help, labels=labels)
    for each, value in values.items():
        family.add_metric(each, value)
    return family


def _gauge(
    name: str, help: str, values: Mapping[_Labels, float], labels: _Labels = ()
) -> Metric:
    family = GaugeMetricFamily(name, help, labels=labels)
    for each, value in values.items():
        family.add_metric(each, value)
    return family


def _histogram(
    name: str, help: str, values: Mapping[_Labels, Histogram], labels: _Labels = ()
) -> Metric:
    family = HistogramMetricFamily(name, help, labels=labels)
    for each, histogram in values.items():
        bounds = [*map(str, histogram.bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
        family.add_metric(each, buckets, histogram.sum)
    return family
