"""
Percentiles, medians and ratios of many numbers, and a table for people.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final

# The figures of each round of a peer.
_NAMES: Final = (
    "rate",
    "cpu",
    "p50",
    "p90",
    "p99",
    "p999",
    "max",
    "late",
    "busy",
    "others",
)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """
    The smallest of these values that at least C{percent} of them do not exceed
    (nearest rank).

    @param ordered: At least one, in ascending order.
    """
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def ratio(
    ours: Sequence[Mapping[str, float]],
    theirs: Sequence[Mapping[str, float]],
    name: str = "rate",
) -> float:
    """
    Our figure relative to theirs, as the median of each round's ratio:
    whatever slows the machine down for a while slows down both.
    """
    return median(
        our[name] / their[name] for our, their in zip(ours, theirs, strict=True)
    )


def summary(
    rounds: Sequence[Mapping[str, float]],
    echo: Sequence[Mapping[str, float]],
    durable: Sequence[Mapping[str, float]],
) -> dict[str, float]:
    """
    The medians of a peer's rounds.

    @param echo: The rounds of the echo, in the same order.
    @param durable: Those of creditsync.
    """
    medians = {name: median(each[name] for each in rounds) for name in _NAMES}
    medians["ofEcho"] = ratio(rounds, echo)
    medians["durable"] = ratio(durable, rounds)
    medians["slowest"] = min(each["rate"] for each in rounds)
    medians["fastest"] = max(each["rate"] for each in rounds)
    return medians


def aligned(rows: Sequence[Sequence[object]]) -> str:
    """
    A table whose first row is its header; numbers are aligned to the right.
    """
    texts = [[text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = []
    for row, shown in zip([*rows[-1:], *rows[1:]], texts, strict=True):
        cells = [
            f"{t:>{w}}" if isinstance(cell, int | float) else f"{t:<{w}}"
            for cell, t, w in zip(row, shown, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def text(value: object) -> str:
    """
    A cell of a table: numbers have four significant digits.
    """
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
