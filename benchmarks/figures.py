"""
From many numbers to few: percentiles, medians, and the table for people.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any


def percentile(ordered: Sequence[float], percent: float) -> float:
    """
    The smallest of these values that C{percent} of them do not pass
    (nearest rank).

    @param ordered: At least one, in ascending order.
    """
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def summary(
    rounds: Sequence[Mapping[str, float]], echo: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """
    The medians of a peer's rounds.

    @param echo: The rounds of the echo, in the same order. The ratio to it is
        the median of the ratios of each round: what slows the machine down for
        a while slows down both.
    """
    names = ("rate", "p50", "p99", "busy", "events", "others")
    medians = {name: median(each[name] for each in rounds) for name in names}
    medians["ofEcho"] = median(
        ours["rate"] / theirs["rate"] for ours, theirs in zip(rounds, echo, strict=True)
    )
    medians["slowest"] = min(each["rate"] for each in rounds)
    medians["fastest"] = max(each["rate"] for each in rounds)
    return medians


_HEAD = (
    f"{'':10}{'requests/s':>11}{'slowest-fastest':>18}{'of echo':>9}"
    f"{'p50 ms':>9}{'p99 ms':>9}{'load busy':>11}{'others':>8}"
)


def table(shape: str, peers: Mapping[str, Mapping[str, Any]]) -> str:
    """
    The results of one shape.

    @param peers: What L{summary} gave, by the peer's name.
    """
    lines = [f"{shape} (connections x outstanding)", _HEAD]
    for name, row in peers.items():
        spread = f"{row['slowest']:,.0f}-{row['fastest']:,.0f}"
        lines.append(
            f"{name:10}{row['rate']:>11,.0f}{spread:>18}{row['ofEcho']:>9.2f}"
            f"{row['p50']:>9.3f}{row['p99']:>9.3f}{row['busy']:>11.0%}{row['others']:>8.0%}"
        )
    return "\n".join(lines)
