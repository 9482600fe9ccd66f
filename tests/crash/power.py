"""
What a power cut leaves of the ledger, at every moment of a real run:

    python -m tests.crash.power [--states N] [--operations N] [--seed N] [--jobs N]
                                [--plant NAME] [--json FILE]

L{tests.crash.run} records the run. Then, for each point of it, the files are made
anew as a power cut at that point could leave them (L{tests.crash.platter}), the
ledger is opened as the server opens it, and it must have what was acknowledged by
then, and nothing that was not asked for by then (L{tests.crash.ledgers}).
"""

import argparse
import os
import pickle
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from hashlib import blake2b
from itertools import count
from operator import ge
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final

from attrs import Factory, define

from tests.crash.ledgers import Ledgers
from tests.crash.platter import Platter, inMemory, place
from tests.crash.record import Violation
from tests.crash.run import LEDGER, Point, Run, record
from tests.figures import Figures
from tests.planted.bugs import plant

# Violations after which a process stops looking for more.
_ENOUGH: Final = 3


@define
class Outcome:
    """
    The outcome for some of the points.

    @ivar states: The states, each by its digest, with the strictest demands
        that it met.
    @ivar opened: How often a ledger was opened.
    """

    states: dict[bytes, tuple[int, int, int]] = Factory(dict)
    opened: int = 0
    violations: list[str] = Factory(list)


def examine(run: Run, part: range, states: int, seed: int) -> Outcome:
    """
    Cut the power at some of the points, until so many different states were
    seen, or there seem to be no more.
    """
    outcome = Outcome()
    ledgers = Ledgers(run.booked)
    with TemporaryDirectory(dir=inMemory()) as folder:
        for turn in count():
            before = len(outcome.states)
            share = min(1.0, (states - before) / len(part))
            for number, platter in _replayed(run, part):
                random = Random(f"{seed} {turn} {number}")
                if turn == 0:
                    cuts = platter.plain()
                elif random.random() < share:
                    cuts = iter([platter.crash(random)])
                else:
                    continue
                point = run.points[number]
                for files in cuts:
                    _try(Path(folder), files, ledgers, point, outcome)
                if len(outcome.violations) >= _ENOUGH:
                    return outcome
            new = len(outcome.states) - before
            if len(outcome.states) >= states or new <= len(part) * share / 100:
                return outcome
    raise AssertionError


def _replayed(run: Run, part: range) -> Iterator[tuple[int, Platter]]:
    """
    The disk as it was at each point.
    """
    platter = Platter({})
    done = 0
    for number in range(part.stop):
        calls = run.points[number].calls
        for call in run.calls[done:calls]:
            platter.do(call)
        done = calls
        if number in part:
            yield number, platter


def _try(
    folder: Path,
    files: dict[str, bytes],
    ledgers: Ledgers,
    point: Point,
    outcome: Outcome,
) -> None:
    """
    Check the ledger that is left.
    """
    digest = blake2b(pickle.dumps(sorted(files.items())), digest_size=16).digest()
    demands = point.fewest, -point.most, point.last
    met = outcome.states.get(digest)
    if met is not None and all(map(ge, met, demands)):
        return
    outcome.states[digest] = demands
    for path in folder.iterdir():
        path.unlink()
    place(files, folder)
    outcome.opened += 1
    try:
        ledgers.check(folder / LEDGER, point.fewest, point.most, point.last)
    except Violation as violation:
        outcome.violations.append(f"after {point.calls} calls of the disk: {violation}")


def main(arguments: Sequence[str]) -> int:
    """
    @return: The exit status.
    """
    options = _options(arguments)
    start = time.monotonic()
    try:
        with TemporaryDirectory(dir=inMemory()) as folder:
            run = record(Path(folder), options.operations, options.seed, options.plant)
    except Violation as violation:
        print(f"VIOLATION: while it was recorded: {violation}")
        return 1
    size = -(-len(run.points) // options.jobs)
    everywhere = range(len(run.points))
    parts = [everywhere[n * size : (n + 1) * size] for n in range(options.jobs)]
    share = -(-options.states // options.jobs)
    with ProcessPoolExecutor(options.jobs, None, plant, (options.plant,)) as pool:
        ends = [pool.submit(examine, run, each, share, options.seed) for each in parts]
        outcomes = [end.result() for end in ends]
    figures = _figures(run, outcomes)
    figures["seconds"] = round(time.monotonic() - start, 1)
    figures.show(options.json)
    violations = [each for outcome in outcomes for each in outcome.violations]
    for each in violations[:_ENOUGH]:
        print(f"VIOLATION: {each}")
    if violations:
        return 1
    print(f"sound: {figures['different states']} states, and nothing lost in any")
    return 0


def _figures(run: Run, outcomes: Sequence[Outcome]) -> Figures:
    figures = Figures()
    figures["operations booked"] = len(run.booked)
    figures["answers without an outcome (504)"] = run.unknown
    for kind, number in Counter(call.kind for call in run.calls).items():
        figures[f"calls of the disk: {kind}"] = number
    figures["points"] = len(run.points)
    figures["different states"] = len({s for each in outcomes for s in each.states})
    figures["ledgers opened"] = sum(outcome.opened for outcome in outcomes)
    return figures


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.crash.power")
    add = parser.add_argument
    add("--states", type=int, default=3000, help="different states to see, about")
    add("--operations", type=int, default=120, help="operations of the recorded run")
    add("--seed", type=int, default=1)
    add("--jobs", type=int, default=os.cpu_count() or 1, help="processes that look")
    add("--plant", metavar="NAME", help="a bug to plant in the server")
    add("--json", type=Path, metavar="FILE", help="where to write the figures")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
