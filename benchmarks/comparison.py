"""
Tables that compare the throughput of the servers.
"""

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any, Final

from benchmarks import figures
from benchmarks.results import Results, Table

# Added to the name of a peer that is taken from another checkout.
BEFORE: Final = "-before"
# If the generator was busy for more than this part of the time, it may be what
# was measured.
_GENERATOR_BUSY: Final = 0.9
# Processors that other processes may use during a measurement.
_OTHERS_BUSY: Final = 0.1
# Above this p99 in milliseconds the generator itself was late.
_LATE: Final = 0.5


def summaries(results: dict[str, Any]) -> dict[str, Any]:
    """
    The medians of each shape and peer, and of the open loop.
    """
    kinds = {**results["rounds"]}
    if results["open"]:
        kinds["open loop"] = results["open"]
    return {
        shape: {
            name: figures.summary(each, peers["echo"], peers["durable"])
            for name, each in peers.items()
        }
        for shape, peers in kinds.items()
    }


def tables(results: Results) -> Iterator[Table]:
    """
    A table for each shape, and warnings where the figures can't be trusted.
    """
    for shape, peers in results["summary"].items():
        rows = [_row(name, row) for name, row in peers.items()]
        title = f"{shape} (connections x outstanding)"
        if shape == "open loop":
            title = "Open loop, at a part of each peer's own peak"
        yield Table(title, [list(_HEAD), *rows])
    yield from _beforeAndAfter(results)
    commits = [each["p50"] for each in results["commits"]]
    alone: list[object] = ["one row, committed", median(commits)]
    yield Table("SQLite alone, synchronous=FULL", [["", "p50 ms"], alone])
    notes = [[name, why] for name, why in results["left"].items()]
    notes += [["warning", each] for each in _warnings(results["summary"])]
    if notes:
        yield Table("Notes", [["", ""], *notes])


def _beforeAndAfter(results: Results) -> Iterator[Table]:
    """
    Each figure relative to that of the other checkout, if one was measured.
    """
    kinds = {**results["rounds"], "open loop": results["open"]}
    rows: list[list[object]] = [
        [name.removesuffix(BEFORE), shape]
        + [
            figures.ratio(peers[name.removesuffix(BEFORE)], peers[name], figure)
            for figure in ("rate", "cpu", "p50", "p99")
        ]
        for shape, peers in kinds.items()
        for name in peers
        if name.endswith(BEFORE)
    ]
    if rows:
        head: list[object] = ["", "", "requests/s", "CPU µs", "p50", "p99"]
        yield Table("Of the other checkout", [head, *rows])


_HEAD: Final = (
    "",
    "requests/s",
    "slowest-fastest",
    "of echo",
    "durable is",
    "CPU µs",
    "p50 ms",
    "p90",
    "p99",
    "p99.9",
    "max",
    "load busy",
    "others",
)


def _row(name: str, row: Mapping[str, float]) -> list[object]:
    cells: list[object] = [name, row["rate"]]
    cells.append(f"{row['slowest']:,.0f}-{row['fastest']:,.0f}")
    cells += [row["ofEcho"], f"{row['durable']:.3g}x"]
    cells += [row[each] for each in ("cpu", "p50", "p90", "p99", "p999", "max")]
    return [*cells, f"{row['busy']:.0%}", f"{row['others']:.0%}"]


def _warnings(summary: Mapping[str, Any]) -> Iterator[str]:
    """
    Reasons not to trust the figures.
    """
    for shape, peers in summary.items():
        for name, row in peers.items():
            isOpen = shape == "open loop"
            if not isOpen and name != "ceiling" and row["busy"] > _GENERATOR_BUSY:
                busy = f"{row['busy']:.0%} busy with {name}"
                yield f"at {shape} the generator was {busy}"
            if isOpen and row["late"] > _LATE:
                late = f"{row['late']:.2f} ms late with {name} (p99)"
                yield f"in the open loop the generator was {late}"
    rows = [row for peers in summary.values() for row in peers.values()]
    if any(row["others"] > _OTHERS_BUSY for row in rows):
        yield "other processes were running; see the last column"
