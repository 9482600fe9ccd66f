"""
The metrics of a server, in Prometheus' format.

L{Metrics} is a collector: when it is asked, it turns the plain counts of
L{Counters<creditsync.counters.Counters>}, and the state of the server at that
moment, into metric families; it costs nothing in between. L{registry} makes a
registry with it; an application that has one already calls
C{REGISTRY.register(metrics)} instead. All names begin with C{creditsync_}; what is
measured is L{a table<creditsync._metrics.table>}.

C{prometheus_client.twisted} is not used: it imports the global reactor.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import Any, Final

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
from twisted.internet.interfaces import IReactorTime

from creditsync import __version__
from creditsync._bookingrules import RulesFile
from creditsync._metrics.reactorlag import ReactorLag
from creditsync._metrics.reading import Reading
from creditsync._metrics.table import ALWAYS, OF_BOOKING, OF_GATEWAY, OF_QUEUE, Row
from creditsync.auth import KeyFile
from creditsync.counters import Counters, Histogram
from creditsync.revocations import Revocations
from creditsync.runtime import TradingRuntime
from creditsync.service import CreditSync

_FAMILIES: Final[Mapping[str, Any]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


@define(eq=False, slots=False)
class Metrics(Collector):
    """
    The metrics of one server.

    @ivar revocations: What the service's authenticator reads, if it reads such a
        file.
    @ivar keys: The same of its keys.
    @ivar rules: The file of the runtime's rules, if there is one.
    @ivar runtime: The service's trading runtime, if it is the embedded one.
    @ivar reactorLag: Whoever made this starts and stops it.
    """

    clock: IReactorTime
    service: CreditSync
    counters: Counters
    revocations: Revocations | None = None
    keys: KeyFile | None = None
    rules: RulesFile | None = None
    runtime: TradingRuntime | None = field(init=False)
    reactorLag: ReactorLag = field(init=False)

    def __attrs_post_init__(self) -> None:
        runtime = self.service.runtime
        self.runtime = runtime if isinstance(runtime, TradingRuntime) else None
        self.reactorLag = ReactorLag(self.clock)

    def read(self) -> Reading:
        """
        Look at the server as it is now.
        """
        return Reading(
            self.clock,
            self.service,
            self.runtime,
            self.counters,
            self.reactorLag,
            self.revocations,
            self.keys,
            self.rules,
        )

    def collect(self) -> Iterable[Metric]:
        """
        Read all metrics; called by the registry.
        """
        self.counters.settle()
        reading = self.read()
        rows = ALWAYS
        if self.counters.books:
            rows += OF_BOOKING
        if self.runtime is not None:
            rows += OF_QUEUE
        if reading.gateway:
            rows += OF_GATEWAY
        for row in rows:
            yield _family(row, reading)
        yield InfoMetricFamily(
            "creditsync_build", "The running version.", {"version": __version__}
        )

    def problem(self) -> str | None:
        """
        Why requests can't be served now, if there is a reason: the service is
        not running or has no open port, the runtime has failed, or an operation
        has waited for its commit for longer than a request may take. Having
        booked nothing for a long time is not a problem.
        """
        waited = self.read().oldestQueued
        if self.service.problem is not None or waited <= self.service.timeout:
            return self.service.problem
        return f"the ledger has not ended a commit for {waited:.0f} s"


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
    Write all metrics in the format that a scraper prefers.

    @param accept: Its C{Accept} header.
    @return: The text and its content type.
    """
    encoder: Callable[[CollectorRegistry], bytes]
    encoder, contentType = choose_encoder(accept)
    return encoder(registry), contentType


def _family(row: Row, reading: Reading) -> Metric:
    family = _FAMILIES[row.kind](f"creditsync_{row.name}", row.help, labels=row.labels)
    read = row.read(reading)
    for labels, value in (read if isinstance(read, Mapping) else {(): read}).items():
        if isinstance(value, Histogram):
            family.add_metric(labels, _buckets(value), value.sum)
        else:
            family.add_metric(labels, value)
    made: Metric = family
    return made


def _buckets(histogram: Histogram) -> list[tuple[str, int]]:
    bounds = [*map(str, histogram.bounds), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))
