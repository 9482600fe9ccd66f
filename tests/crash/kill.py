"""
kill -9: real servers are killed, and nothing they acknowledged is lost.

    python -m tests.crash.kill --kills 1000 --operations 100000

A client keeps dozens of operations of the whole finance family under way, on
several connections, most of them with a key. The server is killed with SIGKILL

 - under load, at any moment;
 - during its start, before or after it has its ledger;
 - at its first acknowledgement, as soon as the client reads it;
 - during the orderly stop that a SIGTERM began;
 - while its commit waits for somebody else's lock, so that order numbers were
   told in a 504 which will never be booked;
 - while C{creditsync backup} copies its ledger.

Then it is started again on the same ledger, and what had no answer and has a
key is sent again. Each time, and at the end for all there is, the client's own
record is held against the ledger: what was acknowledged or seen in an event is
there, once, under the number that was told and with the data that was told;
what was refused is not; what was not answered and has no key is there at most
once; no number ever meant two operations; repetitions got the same data; and
the ledger passes C{creditsync check}. L{tests.crash.record} has the rules. Clients
that follow the journal, one over all kills and one in each life from anywhere, get it
without a gap or a repetition: L{tests.crash.following}.

    python -m tests.crash.kill --points

kills the server at named points of its code instead: see L{tests.crash.points}.

C{--plant} runs servers that have a bug of L{tests.planted.bugs}, to see that it
is found. C{--folder} keeps the ledgers in a new folder.
"""

import random
import secrets
import signal
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles

from attrs import Factory, define

from tests.crash.driver import Trial
from tests.crash.moments import MOMENTS, whileCommitWaits
from tests.crash.points import NEW, POINTS, Point
from tests.crash.record import Violation
from tests.crash.rounds import hit
from tests.figures import Figures
from tests.integration.processes import SERVE
from tests.planted.bugs import BUGS


@define
class Outcome:
    """
    The outcome for one ledger.

    @ivar restarts: Seconds from a start to the first acknowledgement.
    """

    violation: str | None = None
    counts: Counter[str] = Factory(Counter)
    restarts: list[float] = Factory(list)

    def note(self, trial: Trial) -> None:
        """
        Add the figures of its record.
        """
        record = trial.record
        self.restarts += trial.restarts
        isUnknown = [each.isOpen and each.key is None for each in record.asked]
        self.counts.update(
            {
                "operations asked for": len(record.asked),
                "acknowledged": record.acknowledged,
                "sent again": record.resent,
                "answered as repetitions": record.replayed,
                "refused (409, 503)": record.refused,
                "told 504": record.unknown,
                "without key and answer": sum(isUnknown),
                "events seen": record.events,
                "checks of the ledger": trial.verified,
            }
        )
        self.counts.update(trial.followed)


@define
class Job:
    """
    The work of one process, with a folder of its own.
    """

    folder: Path
    seed: int
    command: Sequence[str]

    def run(self) -> Outcome:
        """
        Work until it is done or any process finds a violation.
        """
        self.folder.mkdir()
        outcome = Outcome()
        try:
            self.kill(outcome)
        except Violation as e:
            outcome.violation = f"{e} [{self.folder.name}]"
            self._violation.touch()
        return outcome

    def kill(self, outcome: Outcome) -> None:
        """
        Kill servers, and count.

        @raise Violation: One of them broke a promise.
        """
        raise NotImplementedError

    def killed(self, outcome: Outcome, when: str) -> None:
        """
        Count a kill.
        """
        outcome.counts["kills"] += 1
        outcome.counts[f"kills {when}"] += 1
        if outcome.counts["kills"] % 100 == 0:
            print(f"{outcome.counts['kills']} kills [{self.folder.name}]", flush=True)

    @property
    def isOver(self) -> bool:
        """
        Whether any process has found a violation.
        """
        return self._violation.exists()

    @property
    def _violation(self) -> Path:
        return self.folder.parent / "violation"

    @contextmanager
    def trial(self, name: str, outcome: Outcome) -> Iterator[Trial]:
        """
        Run on a new ledger, and check all of it in the end.
        """
        trial = Trial(self.folder / name, random.Random(self.seed), self.command)
        try:
            yield trial
            trial.finish()
        finally:
            trial.end()
            outcome.note(trial)


@define
class Kills(Job):
    """
    Kills from outside, until there are so many kills and acknowledgements.
    """

    kills: int
    operations: int

    def kill(self, outcome: Outcome) -> None:
        """
        See L{Job.kill}.
        """
        usual = max(1, round(self.operations / self.kills))
        kinds = [kind for kind, (_, often) in MOMENTS.items() for _ in range(often)]
        moments: list[Callable[[Trial, int], None]] = []
        counts = outcome.counts
        with self.trial("ledger", outcome) as trial:
            while not self.isOver and (
                counts["kills"] < self.kills
                or trial.record.acknowledged < self.operations
            ):
                if not moments:
                    # At the end, and therefore first: it finds the most.
                    moments = [
                        *trial.random.sample(kinds, len(kinds)),
                        whileCommitWaits,
                    ]
                moment = moments.pop()
                moment(trial, trial.random.randint(1, 2 * usual))
                if trial.process.returncode == -signal.SIGKILL:
                    self.killed(outcome, MOMENTS[moment][0])


@define
class SelfKills(Job):
    """
    Rounds through points of the code.
    """

    points: Sequence[Point]
    rounds: int

    def kill(self, outcome: Outcome) -> None:
        """
        See L{Job.kill}.
        """
        with self.trial("ledger", outcome) as old:
            for number in range(self.rounds):
                for point in self.points:
                    if self.isOver:
                        return
                    if point.during == NEW:
                        name = f"{number}-{self.points.index(point)}"
                        with self.trial(name, outcome) as new:
                            hit(new, point)
                    else:
                        hit(old, point)
                    self.killed(outcome, point.during)


def figuresOf(outcomes: Sequence[Outcome]) -> Figures:
    """
    The figures of all of them.
    """
    counts: Counter[str] = sum((each.counts for each in outcomes), Counter())
    figures = Figures(counts)
    restarts = sorted(1000 * each for outcome in outcomes for each in outcome.restarts)
    if len(restarts) > 1:
        figures["start to first acknowledgement, median, ms"] = round(median(restarts))
        p99 = quantiles(restarts, n=100, method="inclusive")[98]
        figures["start to first acknowledgement, p99, ms"] = round(p99)
    return figures


def _options() -> Namespace:
    parser = ArgumentParser(description="Kill servers, and see that nothing is lost.")
    add = parser.add_argument
    add("--kills", type=int, default=30, help="so many, and at least")
    add("--operations", type=int, default=6000, help="so many acknowledged")
    add("--points", action="store_true", help="self-kills at named points instead")
    add("--rounds", type=int, default=1, help="rounds through the points")
    add("--jobs", type=int, default=2, help="ledgers that are tried at once")
    add("--seed", type=int, default=secrets.randbelow(10**6))
    add("--plant", choices=BUGS, metavar="NAME", help="plant a bug")
    add("--folder", type=Path, help="keep what the servers leave in this new folder")
    add("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if options.points and options.plant:
        parser.error("the points are for a server without a planted bug")
    return options


def _jobs(options: Namespace, folder: Path) -> Iterator[Job]:
    command = SERVE
    if options.plant is not None:
        command = [sys.executable, "-m", "tests.planted.server", options.plant]
    for index in range(options.jobs):
        where = folder / str(index), options.seed + index, command
        if options.points:
            yield SelfKills(*where, POINTS[index :: options.jobs], options.rounds)
        else:
            share = [options.kills, options.operations]
            yield Kills(*where, *(-(-each // options.jobs) for each in share))


def main() -> None:
    """
    Run what the command line asks for.
    """
    options = _options()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kill-") as scratch:
        if options.folder is not None:
            options.folder.mkdir()
        jobs = list(_jobs(options, options.folder or Path(scratch)))
        with ProcessPoolExecutor(len(jobs)) as pool:
            outcomes = list(pool.map(Job.run, jobs))
    figures = Figures(seed=options.seed, **figuresOf(outcomes))
    if options.points:
        figures["points"] = len(POINTS)
    figures["seconds"] = round(time.monotonic() - started, 1)
    figures.show(options.json)
    for outcome in outcomes:
        if outcome.violation is not None:
            print(f"VIOLATION: {outcome.violation}")
            sys.exit(1)
    print(f"sound: {figures['kills']} kills, {figures['acknowledged']} acknowledged")


if __name__ == "__main__":
    main()
