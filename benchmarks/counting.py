"""
What a run takes in each room: instructions of Python, and calls. They are counts,
the same in every run, whatever else the machine does.
"""

import gc
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import creditsync

_HOUSE: Final = Path(creditsync.__file__).parent

Run = Callable[[], object]
# Makes ready, uncounted, what is run once.
Step = Callable[[], Run]


def counted(step: Step, credits: int) -> dict[str, dict[str, float]]:
    """
    What one credit takes in each room: instructions of Python, and calls.

    @param credits: How many there are in one run.
    @return: C{instructions} and C{calls}, each by the room's name.
    """
    # What is done once only, such as filling caches, is done before.
    step()()
    instructions: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    run = step()
    # What others left behind would be finalized, and counted, in the middle.
    gc.collect()
    gc.disable()
    try:
        _count(step, run, instructions, calls)
    finally:
        gc.enable()
    return {
        "instructions": {room: n / credits for room, n in instructions.most_common()},
        "calls": {room: n / credits for room, n in calls.most_common()},
    }


def _count(
    step: Step, run: Run, instructions: Counter[str], calls: Counter[str]
) -> None:
    # Python 3.12 asks for it before it begins to trace, and for once in all.
    sys._getframe().f_trace_opcodes = True
    sys.settrace(_tracer(instructions))
    try:
        run()
    finally:
        sys.settrace(None)
    run = step()
    sys.setprofile(_profiler(calls))
    try:
        run()
    finally:
        sys.setprofile(None)


def _tracer(instructions: Counter[str]) -> Callable[[Any, str, Any], Any]:
    """
    What counts instructions, by the room of the code that has them.
    """
    rooms: dict[str, str] = {}

    def trace(frame: Any, event: str, argument: object) -> Any:
        file = frame.f_code.co_filename
        room = rooms.get(file)
        if room is None:
            room = rooms[file] = _room(file)
        if event == "opcode":
            instructions[room] += 1
        else:
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        return trace

    return trace


def _profiler(calls: Counter[str]) -> Callable[[Any, str, Any], None]:
    """
    What counts calls, by the room of the code that makes them (of what is
    written in C) or is called.
    """

    def profile(frame: Any, event: str, argument: object) -> None:
        if event in ("call", "c_call"):
            calls[_room(frame.f_code.co_filename)] += 1

    return profile


def _room(file: str) -> str:
    """
    The room that a file belongs to.
    """
    path = Path(file)
    if path.is_relative_to(_HOUSE):
        parts = path.relative_to(_HOUSE).with_suffix("").parts
        return ".".join(parts)
    if "twisted" in path.parts:
        return "(twisted)"
    return "(others)"
