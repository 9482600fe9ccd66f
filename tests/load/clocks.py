"""
A wall clock that steps while the server works:

    python -m tests.load.clocks [--steps 200] [--timeout 5]

Four sessions ask for credits all the time, and for stretches longer than the
timeout somebody holds the ledger. Whatever the wall clock does, by a second or
by ten years: each 504 comes C{--timeout} after its request, each 200 as soon as
the ledger is free, and a line that is not finished is given up in its time. What
has to follow the wall clock does: the C{timestamp} of a booking, the end of a
token and of its session's events. A valid token is never refused.
"""

import sys
import time
from argparse import Namespace
from functools import partial
from typing import Final

from attrs import Factory, define, field

from benchmarks.figures import percentile
from tests.figures import Figures
from tests.integration.processes import LISTEN, Server, Site
from tests.load.disturbing import Dripper, Holding
from tests.load.record import Record, compare, decode
from tests.load.running import conclude, parser, rows, site, unsound
from tests.load.talks import Conversation, Talks
from tests.load.tokens import Tokens
from tests.load.wall import EARLY, LATE, Wall

SESSIONS: Final = 4
DRIPPERS: Final = 3
# Seconds between the requests of a session, and between steps.
PACE: Final = 0.02
STEP: Final = 0.2
LINE_TIMEOUT: Final = 1.5


@define(eq=False)
class Run:
    """
    One run on one server.

    @ivar published: When the first of its sessions received each order.
    """

    _site: Site
    _server: Server
    _options: Namespace
    wall: Wall
    record: Record = Factory(lambda: Record("clock"))
    problems: list[str] = Factory(list)
    tokens: Tokens = field(init=False)
    holding: Holding = field(init=False)
    drippers: list[Dripper] = field(init=False)
    published: dict[int, float] = Factory(dict)
    _talks: Talks = Factory(Talks)
    _sessions: list[Conversation] = Factory(list)
    _booked: dict[int, int] = Factory(dict)
    _nextAsking: float = 0.0

    def __attrs_post_init__(self) -> None:
        port = self._server.port
        self.tokens = Tokens(port, self.wall, self._talks)
        self.holding = Holding(self._site.ledger, self._options.timeout)
        self.drippers = [Dripper(port, LINE_TIMEOUT) for _ in range(DRIPPERS)]
        for number in range(SESSIONS):
            session = Conversation(port)
            self._sessions.append(session)
            self._talks.add(session, partial(self._hear, number))

    def _hear(self, number: int, lines: list[bytes]) -> None:
        now = time.monotonic()
        for line in lines:
            message = decode(line)
            if message.event is None:
                serial = self.record.answered(message)
                if message.status == 200:
                    self._booked[serial] = message.data.timestamp
            elif number == 0:
                self.published[message.data.order] = now
        if self._sessions[number].ending:
            self.problems.append("a session's connection was closed")

    def run(self) -> None:
        """
        Make all steps, and receive the last replies.
        """
        started = nextStep = time.monotonic()
        while self.wall.steps < self._options.steps or not self.tokens.isAnswered:
            now = time.monotonic()
            if self.tokens.isAnswered and now >= nextStep:
                nextStep = now + STEP
                self.tokens.willStep()
                self.wall.step()
                self.tokens.show()
            elif not self.tokens.isAnswered and now - self.wall.steppedAt > 2 * LATE:
                self.problems.append("after a step the server said nothing")
                break
            self._turn()
        self.tokens.willStep()
        self.holding.release()
        deadline = time.monotonic() + self._options.timeout + 2 * LATE
        while self.record.inFlight and time.monotonic() < deadline:
            self._talks.turn(0.002)
        self.tokens.check(self.published, time.monotonic() - started)
        self._talks.close()
        self.holding.close()
        for dripper in self.drippers:
            dripper.close()

    def _turn(self) -> None:
        now = time.monotonic()
        if now >= self._nextAsking:
            self._nextAsking = now + PACE
            for session in self._sessions:
                session.send(self.record.ask())
        for dripper in self.drippers:
            dripper.turn()
        self.holding.turn()
        self._talks.turn(0.002)

    def check(self) -> list[str]:
        """
        The replies that were early, late or untrue.
        """
        record = self.record
        found = self.problems + self.tokens.problems + record.problems
        for serial, status in enumerate(record.statuses):
            sent, arrived = record.sent[serial], record.arrived[serial]
            late = self.holding.wrong(status, sent, arrived)
            if late:
                found.append(f"{record.name}-{serial} {late}")
        found += [
            f"{record.name}-{serial} was booked at {timestamp} by the wall clock"
            for serial, timestamp in self._booked.items()
            if not self._wasSaid(timestamp, record.sent[serial])
        ]
        found += [
            f"a line that did not end was borne for {seconds:.3f} s"
            for dripper in self.drippers
            for seconds in dripper.lasted
            if not LINE_TIMEOUT - EARLY <= seconds <= LINE_TIMEOUT + LATE
        ]
        return found

    def lateness(self) -> list[float]:
        """
        How long each booked request waited while the ledger was free.
        """
        record = self.record
        return sorted(
            self.holding.wait(record.sent[serial], record.arrived[serial])
            for serial in self._booked
        )

    def _wasSaid(self, timestamp: int, sent: float) -> bool:
        """
        Whether the wall clock had this time within a moment of this one.
        """
        return any(
            int(start) <= timestamp <= end
            for start, end in self.wall.said(sent - EARLY, sent + LATE)
        )


def measure(options: Namespace, figures: Figures) -> list[str]:
    """
    Run, and return what was wrong.
    """
    with site() as here:
        wall = Wall(here.folder / "clock")
        stepping = [sys.executable, "-m", "tests.load.stepping", str(wall.file)]
        server = here.start(
            *stepping,
            options.plant or "",
            *LISTEN,
            f"--timeout={options.timeout}",
            f"--line-timeout={LINE_TIMEOUT}",
        )
        run = Run(here, server, options, wall)
        run.run()
        problems = run.check() + compare(rows(here), [run.record])
        here.killAll()
        problems += unsound(here)
    record = run.record
    figures["steps of the wall clock"] = wall.steps
    figures["requests"] = len(record.sent)
    for status in (200, 504):
        figures[f"answered by {status}"] = record.statuses.count(status)
    addTimes(figures, "504 after", record.latencies(504))
    addTimes(figures, "200 late by", run.lateness())
    borne = sorted(each for dripper in run.drippers for each in dripper.lasted)
    figures["lines that did not end"] = len(borne)
    addTimes(figures, "given up after", borne)
    figures["tokens judged"] = run.tokens.shown
    figures["events heard while a token was good"] = len(run.tokens.heard)
    figures["checked"] = (
        f"{wall.steps} steps, and nothing was early, late or untrue by them"
    )
    return problems


def addTimes(figures: Figures, name: str, ordered: list[float]) -> None:
    """
    Add the earliest and the latest of these seconds, and what lies between.
    """
    for label, percent in (("earliest", 0), ("p50", 50), ("p99", 99), ("latest", 100)):
        if ordered:
            figures[f"{name}, {label} s"] = round(percentile(ordered, percent), 3)


def main() -> None:
    """
    Run what the command line asks for.
    """
    command = parser("clocks", __doc__)
    command.add_argument("--steps", type=int, default=40)
    command.add_argument(
        "--timeout", type=float, default=1.0, help="seconds to 504 (default: 1)"
    )
    options = command.parse_args()
    figures = Figures()
    conclude(options, figures, measure(options, figures))


if __name__ == "__main__":
    main()
