"""
Sends the rows of a bulk file, a bounded number at a time.
"""

from collections.abc import Iterator
from typing import Final

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from creditsync._cli.bulk.progress import Progress
from creditsync._cli.bulk.results import Results
from creditsync._cli.bulk.rows import Row
from creditsync._cli.bulk.spreadsheet import RowProblem
from creditsync.client import Answer, CreditClient, OutcomeUnknown, Refused

# Statuses of refusals that the next row would get too: those of the token, and
# those of a server that has been full for as long as the client retries.
_STOPPING_STATUSES: Final = frozenset({401, 403, 429, 503})


@define(eq=False)
class BulkRun:
    """
    Sends rows, up to C{window} at a time, and writes the outcome of each.

    @ivar cause: Why rows are left, if any are.
    @ivar lacksResults: Whether some results could not be written.
    """

    _client: CreditClient
    _rows: Iterator[Row]
    _results: Results
    _window: int
    _progress: Progress
    booked: int = field(default=0, init=False)
    replayed: int = field(default=0, init=False)
    refused: int = field(default=0, init=False)
    unknown: int = field(default=0, init=False)
    cause: str = field(default="", init=False)
    lacksResults: bool = field(default=False, init=False)
    _inFlight: int = field(default=0, init=False)
    # The line that was sent first under each key that is in flight.
    _first: dict[str, int] = field(factory=dict, init=False)
    _isFilling: bool = field(default=False, init=False)
    _ended: "Deferred[None]" = field(init=False)

    @property
    def answered(self) -> int:
        """
        How many rows have an outcome, be it that the outcome is unknown.
        """
        return self.booked + self.replayed + self.refused + self.unknown

    def start(self) -> "Deferred[None]":
        """
        Begin.

        @return: Fires when no row is in flight any more. Cancelling it stops the
            client, which ends all that are in flight.
        """
        self._ended = Deferred(self._cancel)
        self._fill()
        return self._ended

    def _cancel(self, ended: "Deferred[None]") -> None:
        self._client.stopService()

    def stop(self, cause: str) -> None:
        """
        Send no more rows.
        """
        self._rows = iter(())
        self.cause = self.cause or cause

    def _fill(self) -> None:
        # A request may be answered at once, which calls this again.
        if self._isFilling:
            return
        self._isFilling = True
        try:
            while self._inFlight < self._window:
                row = next(self._rows, None)
                if row is None:
                    break
                self._inFlight += 1
                self._first.setdefault(row.key, row.line)
                asked = self._client.request(row.command, row.data, row.key)
                asked.addBoth(self._answered, row)
        except (RowProblem, OSError) as e:
            self.stop(str(e))
        finally:
            self._isFilling = False
        if not self._inFlight and not self._ended.called:
            self._ended.callback(None)

    def _answered(self, answer: Answer | Failure, row: Row) -> None:
        self._inFlight -= 1
        isFirst = self._first.get(row.key) == row.line
        if isFirst:
            del self._first[row.key]
        try:
            if isinstance(answer, Failure):
                self._failed(answer, row)
            else:
                # A row with the key of another one in flight has joined its
                # operation, and gets the same answer.
                self._booked(answer, row, answer.isReplay or not isFirst)
            self._progress.update()
        except Exception as e:
            # Either nothing was booked, or the result can't be written, and the
            # row will be a replay in the next run.
            self.lacksResults |= isinstance(e, OSError)
            self.stop(str(e))
        self._fill()

    def _booked(self, data: Answer, row: Row, isReplay: bool) -> None:
        if isReplay:
            self.replayed += 1
        else:
            self.booked += 1
        self._results.write(row, data.get("order"))

    def _failed(self, why: Failure, row: Row) -> None:
        """
        @raise Exception: The row has no outcome: it is left.
        """
        e = why.value
        if isinstance(e, Refused):
            self.refused += 1
            if e.status in _STOPPING_STATUSES:
                self.stop(e.message)
            self._results.write(row, None, e.error, e.message)
        elif isinstance(e, OutcomeUnknown):
            self.unknown += 1
            self.stop("the outcome of some rows is unknown")
            self._results.write(row, e.order, e.error, e.message)
        else:
            why.raiseException()
