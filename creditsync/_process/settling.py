"""
What a process of ours changes about the reactor and the interpreter.
"""

import gc
import sys
import time
from typing import Any, Final

# Seconds after which a thread hands the GIL over. A commit beside a busy
# reactor takes 1.0 ms with it, and 5.6 ms with Python's own 0.005.
_SWITCH_INTERVAL: Final = 0.0005

# What waits for a commit is young but no garbage: with Python's own (700, 10,
# 10) the collector goes through all of it again and again. These give an
# eighth more credits a second, and half the p99.
_GC_THRESHOLDS: Final = (50_000, 20, 100)


def settleProcess(reactor: Any) -> None:
    """
    Prepare this process for a server or a client. Call it before the first
    timer is set.
    """
    # reactor.seconds is time.time: a step of the wall clock would fire
    # timers early or late by as much.
    reactor.seconds = time.monotonic
    sys.setswitchinterval(_SWITCH_INTERVAL)
    gc.set_threshold(*_GC_THRESHOLDS)
