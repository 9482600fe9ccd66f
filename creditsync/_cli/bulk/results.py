"""
The results of a bulk file: the outcome of each row, for people and for the next
run.

Only rows that were booked count as done. A missing result costs no more than a
replay, so a results file that a kill or a full disk has cut short does no harm.
"""

import csv
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, TextIO

from creditsync._cli.bulk.rows import Row


class WrongResults(Exception):
    """
    The file is not a results file, or belongs to another bulk file.
    """


_HEADER: Final = ("line", "login", "order", "error", "message", "run")


class Results:
    """
    The results file: a line for each row that has an outcome.

    Its last column is the name of the rows (L{BulkFile.name}), so that results
    are never taken for those of other rows.

    @ivar path: The file.
    @ivar count: The number of rows that earlier runs have booked.
    """

    def __init__(self, path: Path, name: str, lines: int) -> None:
        """
        Open the file for writing, and keep its lines of rows that are done. Rows
        that were refused, or whose outcome was unknown, are tried again.

        @param name: The name of the rows.
        @param lines: The line on which the last row begins.
        @raise WrongResults: It has other results, or something else.
        """
        if path.exists() and not path.is_file():
            # A device or a pipe would be replaced by a file below, if to read it
            # ever came to an end.
            raise WrongResults(
                f"{path} is not a regular file: name another one with --results"
            )
        self.path = path
        self._name = name
        self._lines = lines
        # A bit for each line of the file.
        self._done = bytearray(lines // 8 + 1)
        self.count = 0
        new = path.with_name(f"{path.name}.new")
        self._file: TextIO = new.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")
        try:
            self._writer.writerow(_HEADER)
            for fields in self._kept():
                self._writer.writerow(fields)
            self._file.flush()
            new.replace(path)
        except BaseException:
            self.__exit__()
            new.unlink()
            raise
        self._file.reconfigure(line_buffering=True)

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, *why: object) -> None:
        # What a full disk has refused already changes nothing in what was booked:
        # a row without a result will be a replay.
        with suppress(OSError):
            self._file.close()

    def isDone(self, line: int) -> bool:
        """
        Whether the row of this line was booked by an earlier run.
        """
        return bool(self._done[line >> 3] & (1 << (line & 7)))

    def write(
        self, row: Row, order: int | None, error: str = "", message: str = ""
    ) -> None:
        """
        Write the outcome of a row.

        @param error: Empty if it is booked.
        """
        message = " ".join(message.split())
        fields = (row.line, row.data["login"], order, error, message, self._name)
        self._writer.writerow(fields)

    def _kept(self) -> "Iterator[list[str]]":
        """
        The lines of rows that are done.
        """
        try:
            file = self.path.open(encoding="utf-8", errors="replace", newline="")
        except FileNotFoundError:
            return
        with file:
            header = file.readline()
            if header and header != f"{','.join(_HEADER)}\n":
                raise WrongResults(
                    f"{self.path} exists, and is not a results file: name another file"
                    " with --results"
                )
            # A kill may have cut off the last line.
            whole = (line for line in file if line.endswith("\n"))
            for fields in csv.reader(whole):
                if len(fields) == len(_HEADER) and self._isBooked(fields):
                    yield fields

    def _isBooked(self, fields: list[str]) -> bool:
        """
        Whether a line says that a row was booked, and is the first to say so.
        """
        number, _, order, error, _, name = fields
        if name != self._name:
            raise WrongResults(
                f"{self.path} has the results of other rows: the file or the command"
                " has changed since, or the token has another id. Rows without a key of"
                " their own would be booked again. Put the rows that are left in a"
                " separate file; or, if these are new rows, name another results file"
                " with --results"
            )
        line = int(number) if number.isdecimal() else 0
        if error or not order or not 1 < line <= self._lines or self.isDone(line):
            return False
        self._done[line >> 3] |= 1 << (line & 7)
        self.count += 1
        return True
