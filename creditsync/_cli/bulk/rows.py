"""
The rows of a bulk file: turns records of text into requests, in memory that
does not grow with the file.

A file has a name that is made from its content. The key of a row that has none of
its own is this name with the number of its line, so that the same row of the same
file is the same request whenever it is sent.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from typing import Any, BinaryIO, Final

from attrs import define

from creditsync import _wire as wire
from creditsync._cli.bulk.spreadsheet import (
    RowProblem,
    Unreadable,
    clean,
    records,
)
from creditsync._cli.operations import signed
from creditsync._conversation.finance import operation
from creditsync.errors import Refusal
from creditsync.methods import BOOKING_METHODS, syncName
from creditsync.validation import Schemas

DEFAULT_COMMAND: Final = "CreditInSync"
_METHODS: Final = {syncName(method): method for method in BOOKING_METHODS}
COMMANDS: Final = tuple(_METHODS)
# Those whose rows must have a comment.
NEED_COMMENT: Final = tuple(
    command for command, method in _METHODS.items() if method.comment is None
)

_REQUIRED: Final = ("login", "amount")
_COLUMNS: Final = (*_REQUIRED, "comment", "command", "key", "order")

# Plain ASCII, as programs write it: no thousands separators, no exponents, and no
# more digits than a valid number can have.
_INTEGER: Final = re.compile(r"\d{1,20}", re.ASCII)
_AMOUNT: Final = re.compile(r"-?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})", re.ASCII)
# How a spreadsheet writes a number that is too long for it.
_SHORTENED: Final = re.compile(r"-?\d+(?:[.,]\d+)?E[+-]\d+", re.ASCII | re.IGNORECASE)


@define
class Row:
    """
    The request of a row.

    @ivar line: The line of the file on which it begins; the header is 1.
    @ivar data: The C{data} of the request.
    """

    line: int
    command: str
    data: dict[str, Any]
    key: str


class BulkFile:
    """
    An open bulk file.

    @ivar name: A hash of its content, the command and the principal.
    """

    def __init__(self, file: BinaryIO, command: str | None, principal: str) -> None:
        """
        @param command: The command of all its rows; with L{None} each row can
            have its own.
        @param principal: The principal's id, which is the scope of keys.
        """
        self._file = file
        self._state = self._stat()
        self._command = command
        prefix = f"{command or DEFAULT_COMMAND}\n{principal}\n"
        digest = hashlib.sha256(prefix.encode())
        while block := file.read(1 << 20):
            digest.update(block)
        self.name = digest.hexdigest()[:32]

    def rows(self) -> "Iterator[Row | RowProblem]":
        """
        Read all rows, or what is wrong with their form. L{check} checks their
        content.

        @raise Unreadable: The header is wrong, or the file has changed.
        """
        with closing(records(self._file)) as lines:
            line, header = next(lines, (1, []))
            columns = self._columns(line, header)
            for line, texts in lines:
                self._checkUnchanged()
                try:
                    fields = clean(texts)
                    if any(fields):
                        yield self._row(line, columns, fields)
                except RowProblem as e:
                    yield RowProblem(f"line {line}: {e}")

    def _columns(self, line: int, header: list[str]) -> list[str]:
        """
        The names of the columns. A spreadsheet may have added one without a
        name.
        """
        try:
            columns = clean(header)
            self._checkColumns(columns)
        except RowProblem as e:
            raise Unreadable(f"line {line}: {e}") from None
        return columns

    def _checkColumns(self, columns: list[str]) -> None:
        names = [name for name in columns if name]
        missing = [name for name in _REQUIRED if name not in names]
        unknown = [name for name in names if name not in _COLUMNS]
        if unknown:
            raise RowProblem(
                f"the header has an unknown column {unknown[0]!r}: the columns are"
                f" {', '.join(_COLUMNS)}"
            )
        if missing:
            raise RowProblem(f"the header has no {' and no '.join(missing)}")
        if len(set(names)) < len(names):
            raise RowProblem("the header has a column twice")
        if self._command is not None and "command" in names:
            raise RowProblem("there can't be a column command with --command")

    def _row(self, line: int, columns: list[str], fields: list[str]) -> Row:
        """
        @raise RowProblem: It does not have the form of a row.
        """
        # A surplus empty field counts too: in 1001,300,50, with three columns the
        # 50 are the decimals of an amount, and not a comment.
        if len(fields) != len(columns):
            raise RowProblem(f"expected {len(columns)} fields, found {len(fields)}")
        # An empty field is the same as none.
        given = {name: text for name, text in zip(columns, fields, strict=True) if text}
        if "" in given:
            raise RowProblem("has a field in a column without a name")
        command = given.pop("command", "") or self._command or DEFAULT_COMMAND
        if command not in _METHODS:
            raise RowProblem(f"command must be one of {', '.join(COMMANDS)}")
        key = given.pop("key", f"{self.name}-{line}")
        if _SHORTENED.fullmatch(key):
            raise RowProblem(
                f"key is a number that a spreadsheet has shortened to {key}, and its"
                " digits are lost: format the column as text in the spreadsheet"
            )
        data: dict[str, Any] = dict(given)
        for name in ("login", "order"):
            if name in given:
                data[name] = _integer(name, given[name])
        if "amount" in given:
            data["amount"] = _signed(command, given["amount"])
        return Row(line, command, data, key)

    def hasOwnKey(self, row: Row) -> bool:
        """
        Whether the file has a key for a row.
        """
        return not row.key.startswith(self.name)

    def _stat(self) -> tuple[int, int]:
        now = os.fstat(self._file.fileno())
        return now.st_size, now.st_mtime_ns

    def _checkUnchanged(self) -> None:
        # Its name, and with it the keys, would belong to the former content.
        if self._stat() != self._state:
            raise Unreadable("the file has changed meanwhile")


def _integer(name: str, text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise RowProblem(f"{name} must be a whole number, not {text[:40]!r}")
    return int(text)


def _signed(command: str, text: str) -> Decimal:
    """
    The amount of a request on the wire, for one that people write without a
    sign.
    """
    if not _AMOUNT.fullmatch(text):
        raise RowProblem(
            f"amount must be a plain number such as 300 or 19.99, not {text[:40]!r}"
        )
    amount = Decimal(text)
    if amount <= 0:
        raise RowProblem(
            "amount must be greater than 0, withdrawals too, without a sign"
        )
    return signed(_METHODS[command], amount)


def check(row: Row, schemas: Schemas) -> None:
    """
    Check a row as the server does.

    @raise RowProblem: The server would refuse it.
    """
    method = _METHODS[row.command]
    members = {"command": row.command, "idempotencyKey": row.key, "data": row.data}
    try:
        # What the server will read, not what was written here.
        request = wire.decode(wire.encodeData(members))
        schemas.check("request", request)
        schemas.check(method.schema, request["data"])
        operation(method, row.command, request["data"])
    except Refusal as e:
        # The column has another name than the member on the wire.
        message = e.message.removeprefix("data.").replace("idempotencyKey", "key")
        raise RowProblem(f"line {row.line}: {message}") from None


def checkPoint(row: Row) -> None:
    """
    Check that the point in an amount can only be a decimal point.

    @raise RowProblem: It may separate thousands, as in many languages.
    """
    amount = row.data.get("amount", Decimal()).copy_abs()
    if amount.as_tuple().exponent == -3 and 1 <= amount < 1000:
        raise RowProblem(
            f"line {row.line}: amount {amount} can mean {amount.scaleb(3):f} or"
            f" {amount.normalize():f}: don't write three decimals, or confirm the"
            " latter with --three-decimals"
        )
