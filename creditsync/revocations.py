"""
Tokens that were revoked before they expire: a file of their ids.

Each line of the file is the C{jti} of a token, with or without a comment after it:
C{0f3a5c7e9b1d2f40 # John's laptop}. A token is revoked by appending a line: the
file is read again whenever it has changed.

The list keeps people out, so in doubt more is revoked. If the file can't be read,
the server does not start, or, if it is running, keeps the revocations that it has.
A line that can be read in two ways revokes both ids, and a warning names the line.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from twisted.logger import Logger

from creditsync._watching import WatchedFile

# Line numbers in a warning.
_MAX_NAMED: Final = 5

_LINE_END: Final = re.compile(r"\r\n|\r|\n")
_COMMENT: Final = re.compile(r"(?:^|\s)#")
_UNUSUAL: Final = re.compile(r"[^\s!-~]")
_MARKS: Final = re.compile(r"""[\s#,;"']+""")
# A jti made by `creditsync token`.
_OURS: Final = re.compile(r"[0-9a-f]{16}")
_OURS_JOINED: Final = re.compile(r"(?:[0-9a-f]{16}){2,}")
# One or more of them, joined, with something else around.
_OURS_INSIDE: Final = re.compile(r"(?<![0-9A-Za-z])(?:[0-9a-f]{16})+(?![0-9A-Za-z])")


class _Doubt(NamedTuple):
    """
    A kind of line whose meaning is doubtful.

    @ivar applies: Whether an entry is of this kind.
    @ivar words: The warning, after the line numbers.
    """

    applies: Callable[[str], object]
    words: str


# An entry gets the first warning that applies.
_DOUBTS: Final = (
    _Doubt(
        _UNUSUAL.search,
        "there is a character that is invisible or not ASCII; the id without it is"
        " revoked too",
    ),
    _Doubt(
        _MARKS.search,
        "there is white space or one of # , ; \" ' inside; one id per line is"
        " expected, and a comment begins with white space and #. The first word, and"
        " each id of `creditsync token` in the line, is revoked too",
    ),
    _Doubt(
        _OURS_JOINED.fullmatch,
        "this may be several ids of `creditsync token` without line ends between"
        " them; each of them is revoked too",
    ),
    _Doubt(
        lambda entry: not _OURS.fullmatch(entry),
        "this can't be an id of `creditsync token`, which has 16 of the characters"
        " 0-9 and a-f; it is right only if another program makes your tokens",
    ),
)

_NO_END: Final = "the last line has no line end: the next one would be appended to it"
_RUN_INTO: Final = (
    "this was appended to a line without a line end; both parts are revoked, and the"
    " whole line too"
)


class _List(NamedTuple):
    """
    The content of a file.

    @ivar warnings: Sentences that name lines.
    """

    ids: frozenset[str]
    warnings: tuple[str, ...]


class Revocations:
    """
    The ids of revoked tokens, from a file.

    A program that rewrites the file should replace it by a rename. Otherwise half of
    it may be read, with half of the revocations.
    """

    _log = Logger()

    def __init__(self, path: Path) -> None:
        """
        @raise ValueError: The file can't be read.
        """
        self._path = path
        self._text = ""
        # Positions at which text was appended to a line without a line end.
        self._seams: list[int] = []
        self._list = _List(frozenset(), ())
        self._file = WatchedFile(path, "revocations", self._take, self._log)
        self._file.read()

    @property
    def problem(self) -> str | None:
        """
        Why the file can't be read now, so that earlier revocations are in force;
        L{None} if it can.
        """
        return self._file.problem

    @property
    def warnings(self) -> tuple[str, ...]:
        """
        Sentences about lines whose meaning is doubtful.
        """
        return self._list.warnings

    def isRevoked(self, jti: str | None) -> bool:
        """
        Whether this C{jti} is revoked.
        """
        return jti in self._list.ids

    def refresh(self) -> None:
        """
        Read the file again if it has changed. If it can't be read, the revocations
        stay as they were.
        """
        self._file.refresh()

    def reload(self) -> None:
        """
        Read the file again, and log its problem even if that was logged before.
        """
        self._file.reload()

    def _take(self, data: bytes) -> None:
        """
        Put the content of the file into force.

        @raise ValueError: It is not text.
        """
        text = _decoded(data)
        known, former = self._text, self._list
        if not text.startswith(known):
            self._seams = []
        elif not _isEnded(known) and text[len(known) :][:1] not in ("", "\r", "\n"):
            self._seams.append(len(known))
        self._text = text
        self._list = _parse(text, self._seams)
        for warning in self._list.warnings:
            if warning not in former.warnings:
                self._log.warn(
                    "The revocations in {path}: {warning}.",
                    path=str(self._path),
                    warning=warning,
                )
        gone = len(former.ids - self._list.ids)
        if gone:
            self._log.warn(
                "The revocations in {path} no longer contain {count} ids; tokens with"
                " these ids are valid again.",
                path=str(self._path),
                count=gone,
            )


def _decoded(data: bytes) -> str:
    """
    The text of a file.

    @raise ValueError: It is not UTF-8. ASCII text saved as UTF-16 could be decoded
        as UTF-8, but it has zero bytes.
    """
    if b"\0" in data:
        raise ValueError("are not UTF-8, but UTF-16 or not text")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("are not UTF-8") from None


def _parse(text: str, seams: Sequence[int]) -> _List:
    """
    Parse a text.

    @param seams: Positions at which a line end may be missing.
    """
    ids: set[str] = set()
    doubtful: dict[str, list[int]] = {doubt.words: [] for doubt in _DOUBTS}
    for number, entry in _entries(text):
        ids.add(entry)
        doubt = next((each for each in _DOUBTS if each.applies(entry)), None)
        if doubt is not None:
            ids.update(_otherReadings(entry))
            doubtful[doubt.words].append(number)
    warnings = [f"{_lines(n)}: {words}" for words, n in doubtful.items() if n]
    if seams:
        ids |= _parse(_cut(text, seams), ()).ids
        at = [len(_LINE_END.split(text[:seam])) for seam in seams]
        warnings.append(f"{_lines(at)}: {_RUN_INTO}")
    if not _isEnded(text):
        warnings.append(_NO_END)
    return _List(frozenset(ids), tuple(warnings))


def _otherReadings(entry: str) -> Iterator[str]:
    """
    The ids that an entry may have been meant for, besides itself. It may be
    doubtful for several reasons at once, as C{id John\u2019s laptop} is.
    """
    yield _UNUSUAL.sub("", entry)
    for filler in ("", " "):
        text = _UNUSUAL.sub(filler, entry)
        yield from [word for word in _MARKS.split(text) if word][:1]
        for joined in _OURS_INSIDE.findall(text):
            yield from _OURS.findall(joined)


def _entries(text: str) -> Iterator[tuple[int, str]]:
    """
    The ids in a text, with their line numbers.
    """
    # Concatenated files have byte order marks in the middle.
    lines = _LINE_END.split(text.replace("\ufeff", ""))
    for number, line in enumerate(lines, 1):
        entry = _COMMENT.split(line, maxsplit=1)[0].strip()
        if entry:
            yield number, entry


def _cut(text: str, seams: Sequence[int]) -> str:
    """
    The text with a line end at each seam.
    """
    bounds = [0, *seams, len(text)]
    return "\n".join(text[start:end] for start, end in pairwise(bounds))


def _lines(numbers: Sequence[int]) -> str:
    """
    Name lines. If there are many, only the last, because new lines are at the end.
    """
    named = [str(number) for number in numbers[-_MAX_NAMED:]]
    more = len(numbers) - len(named)
    text = f"line{'s' if len(numbers) > 1 else ''} {', '.join(named)}"
    return f"{text} and {more} more" if more else text


def _isEnded(text: str) -> bool:
    return text in ("", "\ufeff") or text.endswith(("\n", "\r"))
