"""
The wall clock of a server under L{tests.load.stepping}, from outside.
"""

import math
import random
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from attrs import Factory, define, field

from tests.load.record import YEARS
from tests.load.stepping import shared

# Each is made forwards and backwards, in a random order, before the next round.
STEPS: Final = (1.0, 10.0, 60.0, 600.0, 3600.0, 86400.0, 10 * YEARS)


# Seconds by which anything may be late: less than the smallest step.
LATE: Final = 0.9
# How early anything may be: a rounding error.
EARLY: Final = 0.001


@define(eq=False)
class Wall:
    """
    A clock that is stepped.

    @ivar file: The file that the server reads.
    @ivar steps: How often it was stepped.
    """

    file: Path
    steps: int = 0
    _offset: "memoryview[float]" = field(init=False)
    _base: float = Factory(lambda: time.time() - time.monotonic())
    # The offset of the clock, and since when, by the monotonic clock.
    _history: list[tuple[float, float]] = Factory(lambda: [(-math.inf, 0.0)])
    _planned: Iterator[float] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.file.write_bytes(struct.pack("d", 0.0))
        self._offset = shared(self.file)
        self._planned = _plan(random.Random(4))

    @property
    def now(self) -> float:
        """
        The time on the clock.
        """
        return self._base + time.monotonic() + self._offset[0]

    @property
    def steppedAt(self) -> float:
        """
        When it was last stepped, by the monotonic clock.
        """
        return self._history[-1][0]

    def step(self) -> None:
        """
        Make the next step.
        """
        self.steps += 1
        self._offset[0] += next(self._planned)
        self._history.append((time.monotonic(), self._offset[0]))

    def said(self, start: float, end: float) -> list[tuple[float, float]]:
        """
        The clock's times between two moments of the monotonic clock, as
        stretches without a step.
        """
        ends = [since for since, _ in self._history[1:]] + [math.inf]
        return [
            (
                max(start, since) + self._base + offset,
                min(end, until) + self._base + offset,
            )
            for (since, offset), until in zip(self._history, ends, strict=True)
            if since <= end and until >= start
        ]


def _plan(source: random.Random) -> Iterator[float]:
    while True:
        everything = [sign * step for step in STEPS for sign in (1, -1)]
        source.shuffle(everything)
        yield from everything
