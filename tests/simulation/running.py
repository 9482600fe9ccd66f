"""
One seed, from its number to its outcome.
"""

import gc
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from attrs import define, field

from creditsync._conversation import catchups
from tests.crash.vfs import repeatable
from tests.simulation.course import Course
from tests.simulation.setting import Plan, faultsOf
from tests.simulation.site import Log
from tests.simulation.world import Violation, World

# A folder in memory, where there is one: nothing has to be really synced.
_MEMORY = Path("/dev/shm")


@define
class Outcome:
    """
    The outcome of a seed.

    @ivar digest: The same for the same history.
    @ivar counts: How often each kind of fault happened.
    @ivar statuses: Replies by status.
    @ivar seconds: How much time has passed in the simulated world.
    """

    plan: Plan
    digest: str
    violation: Violation | None
    counts: Counter[str]
    statuses: Counter[int]
    requests: int
    events: int
    crashes: int
    processes: int
    seconds: float
    trace: list[tuple[float, str, str, bytes]] = field(repr=False)


def simulate(plan: Plan) -> Outcome:
    """
    Run a seed.
    """
    world = World(plan.seed, faultsOf(plan.seed) - plan.without)
    violation = None
    with prepared(world, plan) as course:
        try:
            course.go()
        except Violation as found:
            violation = found
    return _outcome(world, plan, course, violation)


@contextmanager
def prepared(world: World, plan: Plan) -> Iterator[Course]:
    """
    Make everything that a seed needs, for as long as it runs.
    """
    memory = _MEMORY if _MEMORY.is_dir() else None
    with (
        TemporaryDirectory(dir=memory) as folder,
        repeatable(plan.seed),
        Log() as log,
        _clocks(world),
        _noCollector(),
    ):
        course = Course(world, plan, Path(folder).resolve(), log)
        try:
            with _pagesOf(course.setting.page):
                yield course
        finally:
            course.site.storage.end()


@contextmanager
def _pagesOf(size: int) -> Iterator[None]:
    """
    Have so many events in a page of the journal.
    """
    catchUps: Any = catchups
    real, catchUps._PAGE = catchUps._PAGE, size
    try:
        yield
    finally:
        catchUps._PAGE = real


@contextmanager
def _clocks(world: World) -> Iterator[None]:
    """
    Replace the system's clocks by those of the world.
    """
    real = time.time, time.monotonic
    time.time, time.monotonic = world.wall, lambda: world.now
    try:
        yield
    finally:
        time.time, time.monotonic = real


@contextmanager
def _noCollector() -> Iterator[None]:
    """
    Turn garbage collection off: what it finds is logged at a moment that does
    not depend on the seed.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _outcome(
    world: World, plan: Plan, course: Course, violation: Violation | None
) -> Outcome:
    history = course.history
    attempts = [a for talk in history.talks for a in talk.attempts]
    for talk in history.talks:
        if talk.wasHeldUp(talk.abortedAt, talk.abortedAt):
            world.happens("cut-off")
    return Outcome(
        plan,
        world.digest,
        violation,
        world.counts,
        Counter(attempt.status for attempt in attempts),
        len(attempts),
        sum(len(talk.events) for talk in history.talks),
        sum(generation.hasCrashed for generation in history.generations),
        len(history.generations),
        world.now,
        world.trace,
    )
