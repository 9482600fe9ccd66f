"""
The rows of a bulk file: records of text to requests, within a memory that does
not grow with the file.

A file is read twice, once to check all of it and once to book it, and so it
has a name that is made of its content: with its line's number that is the key
of each row which has none of its own, and the same row of the same file is the
same request whenever it is sent.
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
from creditsync._cli.operations import signed
from creditsync._cli.spreadsheet import Problem, Unreadable, clean, records
from creditsync._conversation.finance import operation
from creditsync.errors import Refusal
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
# How a spreadsheet writes a number that is too long for it.
_SHORTENED: Final = re.compile(r"-?\d+(?:[.,]\d+)?E[+-]\d+", re.ASCII | re.IGNORECASE)


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
        with closing(records(self._file)) as lines:
            line, header = next(lines, (1, []))
            columns = self._columns(line, header)
            for line, texts in lines:
                self._checkUnchanged()
                try:
                    fields = clean(texts)
                    if any(fields):
                        yield self._row(line, columns, fields)
                except Problem as e:
                    yield Problem(f"line {line}: {e}")

    def _columns(self, line: int, header: list[str]) -> list[str]:
        """
        The names of the columns. One that a spreadsheet has left empty has
        none.
        """
        try:
            columns = clean(header)
            self._checkColumns(columns)
        except Problem as e:
            raise Unreadable(f"line {line}: {e}") from None
        return columns

    def _checkColumns(self, columns: list[str]) -> None:
        names = [name for name in columns if name]
        missing = [name for name in _REQUIRED if name not in names]
        unknown = [name for name in names if name not in _COLUMNS]
        if unknown:
            raise Problem(
                f"the header has an unknown column {unknown[0]!r}: there are"
                f" {', '.join(_COLUMNS)}"
            )
        if missing:
            raise Problem(f"the header has no {' and no '.join(missing)}")
        if len(set(names)) < len(names):
            raise Problem("the header has a column twice")
        if self._command is not None and "command" in names:
            raise Problem("with --command there can be no column command")

    def _row(self, line: int, columns: list[str], fields: list[str]) -> Row:
        """
        @raise Problem: It does not have the form of a row.
        """
        # An empty field too many is not skipped either: in 1001,300,50, with
        # three columns the 50 are the decimals of an amount, and no comment.
        if len(fields) != len(columns):
            raise Problem(f"expected {len(columns)} fields, found {len(fields)}")
        # An empty field is one that is not there.
        given = {name: text for name, text in zip(columns, fields, strict=True) if text}
        if "" in given:
            raise Problem("has a field in a column without a name")
        command = given.pop("command", "") or self._command or DEFAULT_COMMAND
        if command not in _METHODS:
            raise Problem(f"command must be one of {', '.join(COMMANDS)}")
        key = given.pop("key", f"{self.name}-{line}")
        if _SHORTENED.fullmatch(key):
            raise Problem(
                f"key is a number that a spreadsheet has shortened to {key}: its digits"
                " are lost, so keep the column as text there"
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
        Whether the file says the key of a row.
        """
        return not row.key.startswith(self.name)

    def _stat(self) -> tuple[int, int]:
        now = os.fstat(self._file.fileno())
        return now.st_size, now.st_mtime_ns

    def _checkUnchanged(self) -> None:
        # Its name, and with it the keys, would be those of another content.
        if self._stat() != self._state:
            raise Unreadable("the file has been changed meanwhile")


def _integer(name: str, text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise Problem(f"{name} must be a whole number, not {text[:40]!r}")
    return int(text)


def _signed(command: str, text: str) -> Decimal:
    """
    An amount as it is on the wire; people write it without a sign.
    """
    if not _AMOUNT.fullmatch(text):
        raise Problem(
            f"amount must be a plain number such as 300 or 19.99, not {text[:40]!r}"
        )
    amount = Decimal(text)
    if amount <= 0:
        raise Problem("amount must be greater than 0, withdrawals too, without a sign")
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


def checkPoint(row: Row) -> None:
    """
    Judge whether the point in an amount can only be a decimal point.

    @raise Problem: It may stand between thousands, as in many languages.
    """
    amount = row.data.get("amount", Decimal()).copy_abs()
    if amount.as_tuple().exponent == -3 and 1 <= amount < 1000:
        raise Problem(
            f"line {row.line}: amount {amount} can mean {amount.scaleb(3):f} or"
            f" {amount.normalize():f}: don't write three decimals, or confirm the"
            " second with --three-decimals"
        )
