"""
How far a bulk run has come: a bar with the rate and the time left, or a line
now and then where no terminal shows it.
"""

import sys
from typing import Final, Protocol, TextIO

from attrs import define, field
from tqdm import tqdm
from twisted.internet.interfaces import IReactorTime

from creditsync._cli.output import say

# Seconds from one line to the next.
LINE_INTERVAL: Final = 5.0


class Progress(Protocol):
    """
    What shows how far a run has come.
    """

    def update(self) -> object:
        """
        One row more has its answer.
        """

    def close(self) -> object:
        """
        The run is over.
        """


class _Bar(tqdm):  # type: ignore[type-arg]
    """
    Progress on a terminal. It needs no thread that watches over it.
    """

    monitor_interval = 0


@define(eq=False)
class Lines:
    """
    Progress where there is no terminal: a line now and then.
    """

    _total: int
    _done: int
    _stream: TextIO
    _clock: IReactorTime
    _first: int = field(init=False)
    _begin: float = field(init=False)
    _last: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._first = self._done
        self._begin = self._last = self._clock.seconds()

    def update(self) -> None:
        """
        See L{Progress}.
        """
        self._done += 1
        now = self._clock.seconds()
        if now - self._last >= LINE_INTERVAL:
            self._last = now
            self._print(now - self._begin)

    def close(self) -> None:
        """
        See L{Progress}.
        """
        self._print(self._clock.seconds() - self._begin)

    def _print(self, elapsed: float) -> None:
        line = tqdm.format_meter(
            self._done,
            self._total,
            elapsed,
            initial=self._first,
            unit=" rows",
            bar_format="{n_fmt} of {total_fmt} rows, {rate_noinv_fmt},"
            " {remaining} left",
        )
        say(line, self._stream)


def progress(total: int, done: int, clock: IReactorTime) -> Progress:
    """
    Show progress on stderr.

    @param total: How many rows there are.
    @param done: How many of them are done before this run.
    """
    if sys.stderr.isatty():
        return _Bar(total=total, initial=done, unit=" rows", file=sys.stderr)
    return Lines(total, done, sys.stderr, clock)
