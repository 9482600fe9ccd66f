"""
Run the simulator of the gateway:

    python -m tests.gateway_simulation [--seeds N | --minutes M] [--first N] [--jobs N]
    python -m tests.gateway_simulation --seed N

The first form runs one seed after the other; the second runs one and prints the hash
of all that happened. A seed that breaks a rule is made smaller and shown with its
trace, and ends the run.
"""

import sys
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

from tests.figures import Figures
from tests.gateway_simulation.running import Outcome, simulate
from tests.gateway_simulation.setting import FAULTS, ONE_SHOT, TWO_PHASE, Plan
from tests.gateway_simulation.shrinking import shrink, told
from tests.planted.bugs import BUGS
from tests.simulation.many import manyOutcomes, prepare

# With this many seeds each fault must have happened.
_MANY = 300


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split(","))


def _options() -> Namespace:
    parser = ArgumentParser(description="Simulate a gateway and all that befalls it.")
    add = parser.add_argument
    add("--seed", type=int, help="run this seed only")
    add("--seeds", type=int, default=30, help="how many seeds")
    add("--first", type=int, default=0, help="the first seed")
    add("--minutes", type=float, help="run seeds for so long")
    add("--jobs", type=int, default=1, help="processes")
    add("--requests", type=int, default=40, help="requests of a seed")
    add("--way", choices=(ONE_SHOT, TWO_PHASE), help="of the gateway, in each seed")
    add("--without", type=_names, default=frozenset(), help="faults that don't happen")
    add("--only", type=_names, default=frozenset(), help="the only faults")
    add(
        "--absent",
        type=lambda text: frozenset(map(int, text.split(","))),
        default=frozenset(),
        help="clients that do nothing",
    )
    add("--plant", choices=[*BUGS], help="plant a bug")
    add("--json", type=Path, help="write the figures to this file")
    return parser.parse_args()


def _plans(options: Namespace) -> Iterator[Plan]:
    for seed in count(options.first if options.seed is None else options.seed):
        yield Plan(
            seed,
            options.requests,
            options.without,
            options.absent,
            options.way,
            options.only,
        )


def _outcomes(options: Namespace) -> Iterator[Outcome]:
    plans = _plans(options)
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
        self.counts: Counter[str] = Counter()
        self._statuses: Counter[int] = Counter()
        self._numbers: Counter[str] = Counter()

    def add(self, outcome: Outcome) -> None:
        """
        Add one outcome.
        """
        self.seeds += 1
        self.counts += outcome.counts
        self._statuses += outcome.statuses
        self._numbers.update(
            {
                f"seeds {outcome.way}": 1,
                "booked": outcome.booked,
                "held in the end": outcome.held,
                "gateway processes": outcome.gateways,
                "platform processes": outcome.platforms,
                "simulated seconds": round(outcome.seconds),
            }
        )

    def figures(self) -> Figures:
        """
        All figures, in order.
        """
        figures = Figures(seeds=self.seeds)
        for name, number in sorted(self._numbers.items()):
            figures[name] = number
        for status, number in sorted(self._statuses.items()):
            figures[f"replies {status}" if status else "no reply"] = number
        figures["real seconds"] = round(time.monotonic() - self._started, 1)
        for fault, what in FAULTS.items():
            figures[f"fault {fault} ({what})"] = self.counts[fault]
        return figures


def main() -> None:
    """
    Run what the command line asks for.
    """
    options = _options()
    prepare(options.plant)
    total, broken = _Sum(), None
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
    missing = [name for name in FAULTS if not total.counts[name] and name in _COUNTED]
    if missing and total.seeds >= _MANY and not (options.without or options.only):
        print(f"VIOLATION: faults that never happened: {', '.join(missing)}")
        sys.exit(1)
    print(f"sound: {total.seeds} seeds break no rule")


# The clock, and names that both sides know, are no events.
_COUNTED = FAULTS.keys() - {"clock", "renamed"}


if __name__ == "__main__":
    main()
