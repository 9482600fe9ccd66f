"""
Which ways through the server's code were taken: edges between lines.

The standard library's C{sys.settrace}, kept to the server's own files. It works
on every Python and platform that the server does, and gives figures, which a
fuzzing engine that takes the process over does not.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import creditsync

_FOLDER = str(Path(creditsync.__file__).parent)

# A place in the code, and the previous place in the same function.
Edge = tuple[CodeType, int, int]
Tracer = Callable[[FrameType, str, Any], Any]


class Coverage:
    """
    All edges taken so far.
    """

    def __init__(self) -> None:
        self._seen: set[Edge] = set()
        self._tracers: dict[CodeType, Tracer | None] = {}

    def __len__(self) -> int:
        return len(self._seen)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """
        Count what runs meanwhile.
        """
        before = sys.gettrace()
        sys.settrace(self._called)
        try:
            yield
        finally:
            sys.settrace(before)

    def _called(self, frame: FrameType, what: str, argument: Any) -> Tracer | None:
        code = frame.f_code
        try:
            return self._tracers[code]
        except KeyError:
            isOurs = code.co_filename.startswith(_FOLDER)
            tracer = self._tracers[code] = self._tracer(code) if isOurs else None
            return tracer

    def _tracer(self, code: CodeType) -> Tracer:
        """
        A trace function that counts the edges of one function. Its calls share
        the previous line, so that recursion shows as edges too.
        """
        before = 0
        add = self._seen.add

        def trace(frame: FrameType, what: str, argument: Any) -> Tracer:
            nonlocal before
            if what == "line":
                line = frame.f_lineno
                add((code, before, line))
                before = line
            return trace

        return trace
