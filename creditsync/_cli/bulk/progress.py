"""
The progress of a bulk run: a bar with the rate and the time left, or an
occasional line where there is no terminal.
"""

import sys
from typing import Final, Protocol, TextIO

from attrs import define, field
from tqdm import tqdm
from twisted.internet.interfaces import IReactorTime

from creditsync._cli.output import printLine

# Seconds between two lines.
LINE_INTERVAL: Final = 5.0


class Progress(Protocol):
    """
    Shows the progress of a run.
    """

    def update(self) -> object:
        """
        One more row has its answer.
        """

    def close(self) -> object:
        """
        The run is over.
        """


class _Bar(tqdm):  # type: ignore[type-arg]
    """
    Progress on a terminal, without the thread in which tqdm watches its bars.
    """

    monitor_interval = 0


@define(eq=False)
class Lines:
    """
    Progress where there is no terminal: an occasional line.
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
        printLine(line, self._stream)


def progress(total: int, done: int, clock: IReactorTime) -> Progress:
    """
    Show progress on stderr.

    @param total: The number of rows.
    @param done: How many of them earlier runs have done.
    """
    if sys.stderr.isatty():
        return _Bar(total=total, initial=done, unit=" rows", file=sys.stderr)
    return Lines(total, done, sys.stderr, clock)
