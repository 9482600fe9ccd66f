"""
Tokens that were taken back before they expire: a file of their ids.

Each line of the file is the C{jti} of a token, with or without a remark behind
it: C{0f3a5c7e9b1d2f40 # John's laptop}. To revoke a token is to append a line,
as the file is read again whenever it has changed.

What is on this list is kept out, so doubts are decided for keeping out. A file
that can't be read or understood as a whole is refused at the start, and later
leaves in force what was read last. A line that can be read in two ways revokes
both, and a warning names it.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from stat import S_ISREG
from typing import Final, NamedTuple

from twisted.logger import Logger

# How many lines a warning names.
_NAMED: Final = 5

_LINE_END: Final = re.compile(r"\r\n|\r|\n")
_REMARK: Final = re.compile(r"(?:^|\s)#")
_UNUSUAL: Final = re.compile(r"[^\s!-~]")
_MARKS: Final = re.compile(r"""[\s#,;"']+""")
# What `creditsync token` gives a token for its jti.
_OURS: Final = re.compile(r"[0-9a-f]{16}")
_OURS_JOINED: Final = re.compile(r"(?:[0-9a-f]{16}){2,}")
# One or more of them, joined, with something else around.
_OURS_INSIDE: Final = re.compile(r"(?<![0-9A-Za-z])(?:[0-9a-f]{16})+(?![0-9A-Za-z])")


class _Doubt(NamedTuple):
    """
    A kind of line that is perhaps not what its author meant.

    @ivar applies: Whether an entry is of this kind.
    @ivar words: What is told of it, after the lines' numbers.
    """

    applies: Callable[[str], object]
    words: str


# The first that applies to an entry is told.
_DOUBTS: Final = (
    _Doubt(
        _UNUSUAL.search,
        "there is a character that is invisible or not ASCII; the id without it is"
        " revoked too",
    ),
    _Doubt(
        _MARKS.search,
        "there is white space or one of # , ; \" ' inside; one id per line is"
        " expected, and a remark begins with white space and #. The first word, and"
        " each id of `creditsync token` in the line, is revoked too",
    ),
    _Doubt(
        _OURS_JOINED.fullmatch,
        "this may be several ids of `creditsync token` with no line end between"
        " them; each of them is revoked too",
    ),
    _Doubt(
        lambda entry: not _OURS.fullmatch(entry),
        "this can't be the id of a token by `creditsync token`, which has 16 of the"
        " characters 0-9 and a-f; it is right only if another program makes your"
        " tokens",
    ),
)

_NO_END: Final = "the last line has no line end: what is appended next will run into it"
_RUN_INTO: Final = (
    "this was appended to a line that had no line end; both parts are revoked, and"
    " the whole"
)


class _List(NamedTuple):
    """
    What a file says.

    @ivar warnings: Sentences that name lines.
    """

    ids: frozenset[str]
    warnings: tuple[str, ...]


class Revocations:
    """
    The file of revoked token ids, as it was last understood.

    Anyone who rewrites it should replace it as a whole, by a rename: half a
    file is half the revocations.

    @ivar problem: Why what is in force is not what the file says now, or
        L{None} if it is.
    """

    _log = Logger()

    def __init__(self, path: Path) -> None:
        """
        @raise ValueError: The file can't be read or understood.
        """
        self.problem: str | None = None
        self._path = path
        self._version: tuple[int, ...] | None = None
        self._text = ""
        # Where text was appended to a line without an end.
        self._seams: list[int] = []
        self._list = _List(frozenset(), ())
        try:
            self._load()
        except OSError as e:
            raise ValueError(f"the revocations in {path} {_unreadable(e)}") from e
        except ValueError as e:
            raise ValueError(f"the revocations in {path} {e}") from None

    @property
    def warnings(self) -> tuple[str, ...]:
        """
        What in the file is perhaps not as it was meant: sentences.
        """
        return self._list.warnings

    def isRevoked(self, jti: str | None) -> bool:
        """
        Whether the file, as it was last understood, has this C{jti}.
        """
        return jti in self._list.ids

    def refresh(self) -> None:
        """
        Look whether the file has changed, and if so read it again. While it
        can't be understood, what was read last stays in force.
        """
        try:
            self._load()
        except OSError as e:
            # Its end may leave no trace in the version.
            self._version = None
            self._complain(_unreadable(e))
        except ValueError as e:
            self._complain(str(e))

    def reload(self) -> None:
        """
        Read the file again, and log what is wrong with it even if that was
        logged before.
        """
        self.problem = self._version = None
        self.refresh()

    def _load(self) -> None:
        stat = self._path.stat()
        # The change time is there for a chmod, which moves nothing else.
        version = stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino
        if version == self._version:
            return
        # What is not understood won't be before it changes.
        self._version = version
        if not S_ISREG(stat.st_mode):
            # A pipe would block the reactor.
            raise ValueError("are not a regular file")
        self._take(_decoded(self._path.read_bytes()))
        self.problem = None

    def _take(self, text: str) -> None:
        """
        Let what the file says now be in force.
        """
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
                "The revocations in {path} no longer have {count} ids that they had;"
                " tokens with these ids are good again.",
                path=str(self._path),
                count=gone,
            )
        if self.problem is not None:
            self._log.info(
                "The revocations in {path} are read again.", path=str(self._path)
            )

    def _complain(self, cause: str) -> None:
        """
        Log, but once for each cause and not for each command.
        """
        if cause == self.problem:
            return
        self.problem = cause
        self._log.error(
            "The revocations in {path} {cause}; those read before stay in force.",
            path=str(self._path),
            cause=cause,
        )


def _decoded(data: bytes) -> str:
    """
    The text of a file.

    @raise ValueError: It is not UTF-8, or is UTF-16 that looks like it: ASCII
        with zero bytes.
    """
    if b"\0" in data:
        raise ValueError("are not UTF-8, but UTF-16 or no text at all")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("are not UTF-8") from None


def _parse(text: str, seams: Sequence[int]) -> _List:
    """
    Understand a text.

    @param seams: Where it may lack a line end.
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
    The ids in a text, with their lines' numbers.
    """
    # A byte order mark is in the middle where two files were joined.
    lines = _LINE_END.split(text.replace("\ufeff", ""))
    for number, line in enumerate(lines, 1):
        entry = _REMARK.split(line, maxsplit=1)[0].strip()
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
    Name lines: the last ones, as what is new is at the end.
    """
    named = [str(number) for number in numbers[-_NAMED:]]
    more = len(numbers) - len(named)
    text = f"line{'s' if len(numbers) > 1 else ''} {', '.join(named)}"
    return f"{text} and {more} more" if more else text


def _isEnded(text: str) -> bool:
    return text in ("", "\ufeff") or text.endswith(("\n", "\r"))


def _unreadable(e: OSError) -> str:
    return f"can't be read ({e.strerror})"
