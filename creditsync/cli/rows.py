"""
The rows of a bulk file: CSV to requests, within a memory that does not grow
with the file.

A file is read twice, once to check all of it and once to book it, and so it
has a name that is made of its content: with its line's number that is the key
of each row which has none of its own, and the same row of the same file is the
same request whenever it is sent.
"""

import csv
import hashlib
import os
import re
from collections.abc import Iterator
from decimal import Decimal
from io import TextIOWrapper
from typing import Any, BinaryIO, Final

from attrs import define

from creditsync import wire
from creditsync.cli.operations import signed
from creditsync.errors import Refusal
from creditsync.finance import operation
from creditsync.methods import BOOKING_METHODS, syncName
from creditsync.validation import Schemas

DEFAULT_COMMAND: Final = "CreditInSync"
_METHODS: Final = {syncName(method): method for method in BOOKING_METHODS}
COMMANDS: Final = tuple(_METHODS)
# Those of which each row must have a comment.
NEED_COMMENT: Final = tuple(
    command for command, method in _METHODS.items() if method.comment is None
)

_REQUIRED: Final = ("login", "amount")
_COLUMNS: Final = (*_REQUIRED, "comment", "command", "key", "order")

# Plain ASCII, as a program writes it: no thousands' separators, no exponents,
# and no more digits than anything can have that is valid.
_INTEGER: Final = re.compile(r"\d{1,20}", re.ASCII)
_AMOUNT: Final = re.compile(r"-?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})", re.ASCII)
# What stands for a byte that is not UTF-8, see surrogateescape.
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class Problem(ValueError):
    """
    A line that can't be booked, and why.
    """


class Unreadable(Problem):
    """
    The same, and what follows it can't be read either.
    """


@define
class Row:
    """
    A row as the request that it is.

    @ivar line: The line of the file on which it begins; the header is 1.
    @ivar data: The C{data} of the request.
    """

    line: int
    command: str
    data: dict[str, Any]
    key: str


class BulkFile:
    """
    A bulk file that was opened.

    @ivar name: What is made of its content, the command and the principal.
    """

    def __init__(self, file: BinaryIO, command: str | None, principal: str) -> None:
        """
        @param command: The command of all its rows; by default a row can have
            one of its own.
        @param principal: For whom it is sent, which is the scope of keys.
        """
        self._file = file
        self._state = self._stat()
        self._command = command
        prefix = f"{command or DEFAULT_COMMAND}\n{principal}\n"
        digest = hashlib.sha256(prefix.encode())
        while block := file.read(1 << 20):
            digest.update(block)
        self.name = digest.hexdigest()[:32]

    def rows(self) -> "Iterator[Row | Problem]":
        """
        Read all rows, or what is wrong with them: their form, while L{check}
        judges what they say.

        @raise Unreadable: The header is wrong, or the file has changed.
        """
        self._file.seek(0)
        text = TextIOWrapper(self._file, "utf-8-sig", "surrogateescape", newline="")
        try:
            records = _records(text)
            line, header = next(records, (1, []))
            columns = self._columns(header)
            for line, fields in records:
                if not fields:
                    continue
                self._checkUnchanged()
                try:
                    yield self._row(line, columns, fields)
                except Problem as e:
                    yield Problem(f"line {line}: {e}")
        finally:
            text.detach()

    def _columns(self, header: list[str]) -> list[str]:
        columns = [name.strip() for name in header]
        missing = [name for name in _REQUIRED if name not in columns]
        unknown = [name for name in columns if name not in _COLUMNS]
        if missing:
            raise Unreadable(f"line 1: the header has no {' and no '.join(missing)}")
        if unknown:
            raise Unreadable(
                f"line 1: the header has an unknown column {unknown[0]!r}: there are"
                f" {', '.join(_COLUMNS)}"
            )
        if len(set(columns)) < len(columns):
            raise Unreadable("line 1: the header has a column twice")
        if self._command is not None and "command" in columns:
            raise Unreadable("line 1: with --command there can be no column command")
        return columns

    def _row(self, line: int, columns: list[str], fields: list[str]) -> Row:
        """
        @raise Problem: It has not the form of a row.
        """
        if len(fields) != len(columns):
            raise Problem(f"has {len(fields)} fields, and the header {len(columns)}")
        # An empty field is one that is not there.
        given = {name: text for name, text in zip(columns, fields, strict=True) if text}
        if any(_SURROGATE.search(text) for text in fields):
            raise Problem("is not valid UTF-8")
        command = given.pop("command", "").strip() or self._command or DEFAULT_COMMAND
        if command not in _METHODS:
            raise Problem(f"command must be one of {', '.join(COMMANDS)}")
        key = given.pop("key", f"{self.name}-{line}")
        data: dict[str, Any] = dict(given)
        for name in ("login", "order"):
            if name in given:
                data[name] = _integer(name, given[name].strip())
        if "amount" in given:
            data["amount"] = _signed(command, given["amount"].strip())
        return Row(line, command, data, key)

    def _stat(self) -> tuple[int, int]:
        now = os.fstat(self._file.fileno())
        return now.st_size, now.st_mtime_ns

    def _checkUnchanged(self) -> None:
        # Its name, and with it the keys, would be those of another content.
        if self._stat() != self._state:
            raise Unreadable("the file has been changed meanwhile")


def _records(text: TextIOWrapper) -> Iterator[tuple[int, list[str]]]:
    """
    The records of a CSV file, and the line on which each begins.

    @raise Unreadable: It is none from there on.
    """
    reader = csv.reader(text, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as e:
            raise Unreadable(f"line {line}: is not CSV: {e}") from None
        yield line, fields


def _integer(name: str, text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise Problem(f"{name} must be a whole number")
    return int(text)


def _signed(command: str, text: str) -> Decimal:
    """
    An amount as it is on the wire; people write it without a sign.
    """
    if not _AMOUNT.fullmatch(text):
        raise Problem("amount must be a plain number such as 300 or 19.99")
    amount = Decimal(text)
    if amount <= 0:
        raise Problem("amount must be greater than 0, also of what is taken out")
    return signed(_METHODS[command], amount)


def check(row: Row, schemas: Schemas) -> None:
    """
    Judge a row just as the server does.

    @raise Problem: It would be refused, and why.
    """
    method = _METHODS[row.command]
    members = {"command": row.command, "idempotencyKey": row.key, "data": row.data}
    try:
        # As the server reads it, and not as it was meant.
        request = wire.decode(wire.encodeData(members))
        schemas.check("request", request)
        schemas.check(method.schema, request["data"])
        operation(method, row.command, request["data"], 0, row.key)
    except Refusal as e:
        # The names of columns, where there is another one on the wire.
        message = e.message.removeprefix("data.").replace("idempotencyKey", "key")
        raise Problem(f"line {row.line}: {message}") from None
