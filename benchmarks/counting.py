"""
What a run costs in each module: Python instructions and calls. These are
counts, the same in every run, whatever else the machine does.
"""

import gc
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import creditsync

_PACKAGE: Final = Path(creditsync.__file__).parent

Run = Callable[[], object]
# Prepares, uncounted, what is run once.
Step = Callable[[], Run]


def counted(step: Step, credits: int) -> dict[str, dict[str, float]]:
    """
    Count what one credit costs in each module: Python instructions and calls.

    @param credits: How many credits there are in one run.
    @return: C{instructions} and C{calls}, each by the module's name.
    """
    # Run it once before, so that one-time work such as filling caches is not
    # counted.
    step()()
    instructions: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    run = step()
    # Garbage of earlier code would be finalized, and counted, in the middle of
    # the run.
    gc.collect()
    gc.disable()
    try:
        _count(step, run, instructions, calls)
    finally:
        gc.enable()
    return {
        "instructions": {
            module: n / credits for module, n in instructions.most_common()
        },
        "calls": {module: n / credits for module, n in calls.most_common()},
    }


def _count(
    step: Step, run: Run, instructions: Counter[str], calls: Counter[str]
) -> None:
    # Python 3.12 wants this before tracing begins, and once is enough.
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
    A trace function that counts instructions by the module they are in.
    """
    modules: dict[str, str] = {}

    def trace(frame: Any, event: str, argument: object) -> Any:
        file = frame.f_code.co_filename
        module = modules.get(file)
        if module is None:
            module = modules[file] = _module(file)
        if event == "opcode":
            instructions[module] += 1
        else:
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        return trace

    return trace


def _profiler(calls: Counter[str]) -> Callable[[Any, str, Any], None]:
    """
    A profile function that counts calls by module: that of the called Python
    function, or, for a function written in C, that of its caller.
    """

    def profile(frame: Any, event: str, argument: object) -> None:
        if event in ("call", "c_call"):
            calls[_module(frame.f_code.co_filename)] += 1

    return profile


def _module(file: str) -> str:
    """
    The name of the module in a file.
    """
    path = Path(file)
    if path.is_relative_to(_PACKAGE):
        parts = path.relative_to(_PACKAGE).with_suffix("").parts
        return ".".join(parts)
    if "twisted" in path.parts:
        return "(twisted)"
    return "(others)"
