"""
Run the simulator:

    python -m tests.simulation [--seeds N | --minutes M] [--first N] [--jobs N]
    python -m tests.simulation --seed N

The first form runs one seed after the other; the second runs one and prints
the hash of all that happened. A seed that breaks a rule is made smaller and
shown with its trace, and ends the run.
"""

import sys
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

from tests.figures import Figures
from tests.planted.bugs import BUGS
from tests.simulation.many import manyOutcomes, prepare
from tests.simulation.running import Outcome, simulate
from tests.simulation.setting import FAULTS, Plan
from tests.simulation.shrinking import shrink, told

# With this many seeds each kind of fault must have happened.
_MANY = 300


def _options() -> Namespace:
    parser = ArgumentParser(description="Simulate a server and all that befalls it.")
    parser.add_argument("--seed", type=int, help="run this seed only")
    parser.add_argument("--seeds", type=int, default=30, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--minutes", type=float, help="run seeds for so long")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--requests", type=int, default=500, help="requests of a seed")
    parser.add_argument(
        "--without",
        type=lambda text: frozenset(text.split(",")),
        default=frozenset(),
        help="faults that may not happen",
    )
    parser.add_argument(
        "--absent",
        type=lambda text: frozenset(map(int, text.split(","))),
        default=frozenset(),
        help="clients that do nothing",
    )
    parser.add_argument("--plant", choices=[*BUGS], help="plant a bug")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    return parser.parse_args()


def _outcomes(options: Namespace) -> Iterator[Outcome]:
    """
    Run the seeds that the command line names.
    """
    first = options.first if options.seed is None else options.seed
    plans: Iterator[Plan] = (
        Plan(seed, options.requests, options.without, options.absent)
        for seed in count(first)
    )
    if options.seed is not None:
        yield simulate(next(plans))
        return
    if options.minutes is None:
        plans = islice(plans, options.seeds)
    end = None if options.minutes is None else 60 * options.minutes
    yield from manyOutcomes(simulate, plans, end, options.jobs, options.plant)


class _Sum:
    """
    The figures of all outcomes.
    """

    def __init__(self) -> None:
        self._started = time.monotonic()
        self.seeds = 0
        self._numbers: Counter[str] = Counter()
        self._statuses: Counter[int] = Counter()
        self._faults: Counter[str] = Counter()
        self._seconds = 0.0

    def add(self, outcome: Outcome) -> None:
        """
        Add one outcome.
        """
        self.seeds += 1
        self._seconds += outcome.seconds
        self._statuses += outcome.statuses
        self._faults += outcome.counts
        self._numbers += Counter(
            requests=outcome.requests,
            events=outcome.events,
            processes=outcome.processes,
            crashes=outcome.crashes,
        )

    def figures(self) -> Figures:
        """
        All figures, in order.
        """
        real = time.monotonic() - self._started
        figures = Figures(seeds=self.seeds)
        figures["requests"] = self._numbers["requests"]
        for status, number in sorted(self._statuses.items()):
            figures[f"replies {status}" if status else "no reply"] = number
        figures["events received"] = self._numbers["events"]
        figures["server processes"] = self._numbers["processes"]
        figures["crashes"] = self._numbers["crashes"]
        figures["simulated seconds"] = round(self._seconds)
        figures["real seconds"] = round(real, 1)
        figures["simulated seconds per real one"] = round(self._seconds / real, 1)
        for fault, what in FAULTS.items():
            figures[f"fault {fault} ({what})"] = self._faults[fault]
        return figures

    def missing(self) -> list[str]:
        """
        The faults that never happened.
        """
        return [fault for fault in FAULTS if not self._faults[fault]]


def main() -> None:
    """
    Run what the command line asks for.
    """
    options = _options()
    prepare(options.plant)
    total = _Sum()
    broken = None
    for outcome in _outcomes(options):
        total.add(outcome)
        if outcome.violation is not None:
            broken = outcome
            break
        if total.seeds % 1000 == 0:
            print(f"{total.seeds} seeds", flush=True)
    total.figures().show(options.json)
    if broken is not None:
        print(told(shrink(broken)))
        print(f"VIOLATION: seed {broken.plan.seed}: {broken.violation}")
        sys.exit(1)
    if options.seed is not None:
        print(f"hash {outcome.digest}")
    missing = total.missing()
    if missing and total.seeds >= _MANY and not options.without:
        print(f"VIOLATION: faults that never happened: {', '.join(missing)}")
        sys.exit(1)
    print(f"sound: {total.seeds} seeds break no rule")


if __name__ == "__main__":
    main()
