"""
The goals, and whether they are met.

Each goal finds its figure in the results of one command; if a peer was left
out, there is no figure.
"""

from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import Any, Final, TypeVar

from attrs import define

from benchmarks.figures import ratio

Results = Mapping[str, Any]

_Of = TypeVar("_Of")

# The shapes that the goals name: connections x outstanding requests on each.
SHAPES: Final = ("1x1", "1x64", "16x16", "256x1", "256x16")


@define(frozen=True)
class Goal:
    """
    One goal.

    @ivar command: Whose results have its figure.
    @ivar isLeast: Whether the figure must be at least the bound, rather than
        at most.
    @ivar figure: Finds it, or raises L{LookupError}.
    """

    name: str
    command: str
    isLeast: bool
    bound: float
    figure: Callable[[Results], float]

    def isMet(self, value: float) -> bool:
        """
        Whether this figure is good enough.
        """
        return value >= self.bound if self.isLeast else value <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.isLeast else '≤'} {self.bound:,.10g}"


def _ofEcho(peer: str) -> Callable[[Results], float]:
    return lambda results: ratio(
        results["rounds"]["16x16"][peer], results["rounds"]["16x16"]["echo"]
    )


def _of(peer: str, shape: str) -> Callable[[Results], float]:
    """
    The ratio of the durable server to this peer in one shape.
    """
    return lambda results: ratio(
        results["rounds"][shape]["durable"], results["rounds"][shape][peer]
    )


def _worst(one: str, other: str) -> Callable[[Results], float]:
    """
    The smallest ratio of one peer to another, over all shapes.
    """

    def figure(results: Results) -> float:
        shapes = results["rounds"].values()
        return min(ratio(each[one], each[other]) for each in shapes)

    return figure


def _ofCommit(rounds: list[Any], percentile: str, commits: list[Any]) -> float:
    return ratio(
        [{"ms": each[percentile]} for each in rounds],
        [{"ms": each["p50"]} for each in commits],
        "ms",
    )


def _most(sizes: Mapping[str, _Of]) -> _Of:
    """
    What belongs to the largest size.
    """
    return sizes[max(sizes, key=int)]


def _audit(nanoseconds: Mapping[str, float]) -> float:
    """
    What the trail adds to the whole way of a credit.
    """
    return nanoseconds["running, with an audit trail"] - nanoseconds["running"]


def _beside(case: str, name: str) -> Callable[[Results], float]:
    """
    The median of a figure beside sessions that catch up.
    """
    return lambda results: median(each[name] for each in results["rounds"][case])


def _added(results: Results) -> float:
    """
    The most memory in MiB that sessions that catch up add.
    """
    rounds = [each for case in results["rounds"].values() for each in case]
    return max(float(each["peak"] - each["before"]) for each in rounds) / 2**20


def _start(name: str) -> Callable[[Results], float]:
    """
    Seconds of a start with the largest ledger.
    """
    return lambda results: median(
        each[name] for each in _most(results["rounds"]["trades"])
    )


def _nodes(servers: str, name: str) -> Callable[[Results], float]:
    """
    The median of a figure of whole servers at 16x16.
    """
    return lambda results: median(
        each["ends"]["16x16"][servers][name] for each in results["rounds"]
    )


GOALS: Final = (
    Goal("memory ledger, of echo, 16x16", "throughput", True, 0.5, _ofEcho("memory")),
    Goal("durable, of echo, 16x16", "throughput", True, 0.25, _ofEcho("durable")),
    Goal(
        "durable, of the obvious with group commit, 16x16",
        "throughput",
        True,
        5,
        _of("obvious-group", "16x16"),
    ),
    Goal(
        "with metrics and console, of without, worst shape",
        "throughput",
        True,
        0.97,
        _worst("watched", "durable"),
    ),
    *(
        Goal(
            f"durable, of Node.js, {shape}",
            "throughput",
            True,
            0.8,
            _of("node", shape),
        )
        for shape in SHAPES
    ),
    Goal(
        "durable, of Rust, worst shape",
        "throughput",
        True,
        0.4,
        _worst("durable", "rust"),
    ),
    Goal(
        "p50 at 1x1, of one row's commit",
        "throughput",
        False,
        2,
        lambda results: _ofCommit(
            results["rounds"]["1x1"]["durable"], "p50", results["commits"]
        ),
    ),
    Goal(
        "p99 at half of the peak, of one row's commit",
        "throughput",
        False,
        20,
        lambda results: _ofCommit(
            results["open"]["durable"], "p99", results["commits"]
        ),
    ),
    Goal(
        "audit trail, µs a credit",
        "components",
        False,
        2,
        lambda results: _audit(results["nanoseconds"]) / 1000,
    ),
    Goal(
        "broadcast to 1,000, µs of processor time for each subscriber",
        "broadcast",
        False,
        3,
        lambda results: results["perSubscriber"]["one by one"]["1000"],
    ),
    Goal(
        "the same, 16 events at once",
        "broadcast",
        False,
        3,
        lambda results: results["perSubscriber"]["16 at once"]["1000"],
    ),
    Goal(
        "memory of an idle session, KiB",
        "scale",
        False,
        2,
        lambda results: _most(results["bytesEach"]["sessions"]) / 1024,
    ),
    Goal(
        "memory of a pending waiter, KiB",
        "scale",
        False,
        1,
        lambda results: _most(results["bytesEach"]["waiters"]) / 1024,
    ),
    Goal(
        "throughput with most waiters pending, of empty",
        "scale",
        True,
        0.9,
        lambda results: _most(results["ofEmpty"]["waiters"]),
    ),
    Goal(
        "throughput with most trades in the ledger, of empty",
        "scale",
        True,
        0.9,
        lambda results: _most(results["ofEmpty"]["trades"]),
    ),
    Goal(
        "start with most trades in the ledger, port open, s",
        "scale",
        False,
        0.5,
        _start("open"),
    ),
    Goal(
        "start with most trades in the ledger, first answer, s",
        "scale",
        False,
        5,
        _start("answer"),
    ),
    *(
        Goal(
            f"p99 of a credit beside sessions that catch up, {case}, ms",
            "catchup",
            False,
            20,
            _beside(case, "p99"),
        )
        for case in ("all read the same", "each reads a part")
    ),
    Goal(
        "events per second that such sessions get together, all read the same",
        "catchup",
        True,
        1_000_000,
        _beside("all read the same", "rate"),
    ),
    Goal("memory that such sessions add, MiB", "catchup", False, 64, _added),
    Goal(
        "two nodes on PostgreSQL, 16x16, credits/s",
        "cluster",
        True,
        5000,
        _nodes("2 on PostgreSQL", "rate"),
    ),
    Goal(
        "the same, p99, ms",
        "cluster",
        False,
        60,
        _nodes("2 on PostgreSQL", "p99"),
    ),
    Goal(
        "one node on PostgreSQL, 16x16, of the bare book() with 100 a batch",
        "cluster",
        True,
        0.5,
        lambda results: median(
            each["ends"]["16x16"]["1 on PostgreSQL"]["rate"]
            / each["book"]["1 node, 100 a batch"]
            for each in results["rounds"]
        ),
    ),
    Goal(
        "book() beside a snapshot that is held open, of without",
        "cluster",
        True,
        0.8,
        lambda results: median(
            each["book"]["1 node, 100 a batch, beside a snapshot"]
            / each["book"]["1 node, 100 a batch"]
            for each in results["rounds"]
        ),
    ),
)


def reached(results: Results) -> Iterator[tuple[str, float, str, str]]:
    """
    The goals for which these results have figures.

    @return: The name, the figure, the goal, and whether it is met.
    """
    for goal in GOALS:
        if goal.command != results["command"]:
            continue
        try:
            value = goal.figure(results)
        except LookupError:
            continue
        yield goal.name, value, str(goal), "met" if goal.isMet(value) else "not met"
