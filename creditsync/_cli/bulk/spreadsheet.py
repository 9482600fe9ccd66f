"""
Reads CSV as spreadsheets and programs write it, to records of text.

CSV files differ in their encoding and in their separator. Both are determined at
the beginning of the file: the byte order mark tells the encoding, the header tells
the separator. A file in which either is uncertain is refused, with the cause.
"""

import csv
import re
from collections.abc import Generator, Iterator
from io import TextIOWrapper
from itertools import chain
from typing import BinaryIO, Final


class RowProblem(ValueError):
    """
    Why a row can't be booked.
    """


class Unreadable(RowProblem):
    """
    Why neither a row nor anything after it can be read.
    """


_SEPARATORS: Final = {",": "commas", ";": "semicolons", "\t": "tabs"}
# Excel takes such a first line as the name of the separator.
_SEP: Final = re.compile(r'"?sep=([^"\r\n]?)', re.IGNORECASE)

# By the file's first two bytes: the codec, and the error handler that makes a
# lone surrogate of what is invalid, so that it is reported with its line.
_UTF_16: Final = ("utf-16", "surrogatepass")
_ENCODINGS: Final = {b"\xff\xfe": _UTF_16, b"\xfe\xff": _UTF_16}
_UTF_8: Final = ("utf-8-sig", "surrogateescape")
_INVALID: Final = re.compile("[\ud800-\udfff]")

# White space, and characters without width, which copied text often has at its
# ends. U+FEFF is the byte order mark of a file that was appended to another one.
_UNSEEN: Final = "".join(
    [
        *(each for each in map(chr, range(0x3001)) if each.isspace()),
        *map(chr, range(0x200B, 0x2010)),
        *map(chr, range(0x202A, 0x202F)),
        *map(chr, range(0x2060, 0x2070)),
        "\xad\u061c\u180e\ufeff",
    ]
)
# The start of a field that was meant to be quoted. The reader skips spaces, so
# a field that still begins with one was quoted.
_LATE_QUOTE: Final = re.compile(f'[{_UNSEEN.replace(" ", "")}][{_UNSEEN}]*"')

_SAVE_AS: Final = "save it as CSV UTF-8"


def records(file: BinaryIO) -> Generator[tuple[int, list[str]]]:
    """
    Read the header and the rows, each with the number of the line on which it
    begins. Empty lines before the header are skipped. The fields still need
    L{clean}.

    @raise Unreadable: The rest of the file is not CSV.
    """
    file.seek(0)
    encoding, errors = _ENCODINGS.get(file.read(2), _UTF_8)
    file.seek(0)
    text = TextIOWrapper(file, encoding, errors, newline="")
    try:
        yield from _records(text)
    except UnicodeDecodeError:
        raise Unreadable("the file is not valid UTF-16, or is cut off") from None
    finally:
        text.detach()


def _records(text: TextIOWrapper) -> Iterator[tuple[int, list[str]]]:
    before, header, separator = _header(text)
    lines = chain([header], text)
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    while True:
        line = before + reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as e:
            raise Unreadable(f"line {line}: is not CSV: {e}") from None
        yield line, fields


def _header(text: TextIOWrapper) -> tuple[int, str, str]:
    """
    Find the header and its separator.

    @return: The number of lines before it, the header, and the separator.
    @raise Unreadable: The separator is uncertain.
    """
    named = ""
    for before, header in enumerate(text):
        if sep := _SEP.match(header):
            named = sep[1]
            if named not in _SEPARATORS:
                raise Unreadable(
                    f"line {before + 1}: sep= must name a comma, semicolon or tab"
                )
        elif header.strip(f'{_UNSEEN},;"'):
            return before, header, _separator(before + 1, header, named)
    return 0, "", ","


def _separator(line: int, header: str, named: str) -> str:
    """
    @param named: The separator that a C{sep=} line names, or empty.
    """
    if "\0" in header:
        raise Unreadable(f"the file is not text in UTF-8 or UTF-16: {_SAVE_AS}")
    possible = [each for each in _SEPARATORS if each == named or each in header]
    if len(possible) > 1:
        names = " or ".join(_SEPARATORS[each] for each in possible)
        raise Unreadable(f"line {line}: it is unclear whether {names} separate columns")
    return possible[0] if possible else ","


def clean(fields: list[str]) -> list[str]:
    """
    Strip white space and invisible characters from the ends of each field.

    @raise RowProblem: A field is certainly not what was meant.
    """
    for field in fields:
        if _INVALID.search(field):
            raise RowProblem(f"is not valid Unicode: {_SAVE_AS}")
        if _LATE_QUOTE.match(field):
            raise RowProblem("has a quote that is not the first character of its field")
    return [field.strip(_UNSEEN) for field in fields]
