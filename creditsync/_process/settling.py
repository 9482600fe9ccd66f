"""
What a process of ours changes about the reactor and the interpreter.
"""

import gc
import time
from typing import Any, Final

# The objects of requests that wait for a commit are young, but they are not
# garbage: with Python's own (700, 10, 10) the collector scans them again and
# again. With these, python -m benchmarks.throughput --shapes 16x16 has 49,100
# credits a second instead of 46,200, each for 4 % less processor time.
_GC_THRESHOLDS: Final = (50_000, 20, 100)


def settleProcess(reactor: Any) -> None:
    """
    Prepare this process for a server or a client. Call it before the first
    timer is set.
    """
    # reactor.seconds is time.time, so that a step of the wall clock would fire
    # timers too early or too late.
    reactor.seconds = time.monotonic
    gc.set_threshold(*_GC_THRESHOLDS)
