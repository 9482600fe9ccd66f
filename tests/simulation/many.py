"""
Many seeds, in one process or in several.
"""

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing import get_context
from typing import Any, Protocol, TypeVar

from twisted.logger import globalLogBeginner

from tests.planted.bugs import plant

# Seeds that are handed to a process at a time.
_PORTION = 10


def prepare(bug: str | None) -> None:
    """
    Make a process ready to simulate: quiet, and with a bug if one is planted.
    """
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    plant(bug)
    # What was imported is never garbage, and need not be looked through again
    # and again.
    gc.collect()
    gc.freeze()


class AnOutcome(Protocol):
    """
    What came of a plan.
    """

    violation: Any
    trace: list[Any]


_Plan = TypeVar("_Plan")
_Outcome = TypeVar("_Outcome", bound=AnOutcome)


def manyOutcomes(
    simulate: Callable[[_Plan], _Outcome],
    plans: Iterator[_Plan],
    seconds: float | None,
    jobs: int,
    bug: str | None,
) -> Iterator[_Outcome]:
    """
    Run plans, for a limited time if C{seconds} are given.

    @param simulate: Runs one; a function that another process can import.
    @param jobs: In how many processes. With one it is this one, which is
        prepared.
    """
    end = float("inf") if seconds is None else time.monotonic() + seconds
    if jobs == 1:
        while time.monotonic() < end and (plan := next(plans, None)):
            yield simulate(plan)
        return
    context = get_context("spawn")
    some = partial(_some, simulate)
    with ProcessPoolExecutor(jobs, context, prepare, (bug,)) as pool:
        while time.monotonic() < end:
            portions = [list(islice(plans, _PORTION)) for _ in range(2 * jobs)]
            if not portions[0]:
                return
            for outcomes in pool.map(some, portions):
                yield from outcomes


def _some(
    simulate: Callable[[_Plan], _Outcome], plans: Iterable[_Plan]
) -> list[_Outcome]:
    """
    Run plans up to the first that breaks a rule.
    """
    outcomes = []
    for plan in plans:
        outcome = simulate(plan)
        outcomes.append(outcome)
        if outcome.violation is not None:
            break
        # It would only be carried from one process to the other.
        outcome.trace.clear()
    return outcomes
