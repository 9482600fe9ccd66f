"""
A server that is stopped in the middle of its work, again and again on one
ledger:

    python -m tests.load.stopping [--stops 70]

Each stop has eight clients with many requests in flight, which send no more
once they are told C{SHUTDOWN}, and one that sends on as if it had not heard.
Every line gets its one final answer (200, 503, 504) before its connection ends
in order; what was answered by 200 is in the ledger and what by 503 is not; the
process ends within the sum of its bounds, by the signal that it was sent; and
the next start finds a sound ledger. One stop in seven is of each L{Kind}.
"""

import time
from argparse import Namespace
from collections import Counter, defaultdict
from contextlib import closing
from signal import SIGINT, SIGKILL, SIGTERM, Signals, default_int_handler, signal
from statistics import median
from typing import Final

from attrs import Factory, define, field

from creditsync.service import GOODBYE, LAST_CALL
from tests.figures import Figures
from tests.integration.processes import Server, Site
from tests.load.clients import Client, Stubborn
from tests.load.record import Record, compare, health, token
from tests.load.running import conclude, parser, rows, site, start, unsound
from tests.load.talks import Conversation, Talks

CLIENTS: Final = 8
# Sessions that never read, where there are some, and their receive buffers.
SILENT: Final = 10
TINY: Final = 4096
# Seconds of load before the signal.
BEFORE: Final = 0.2
STOP_TIMEOUT: Final = 1.0
# Seconds that a stop may take by its own bounds: closing the port, answering
# pending requests, the last call, closing the sessions, leaving the event
# stream (twice), stopping the runtime.
BOUND: Final = GOODBYE + STOP_TIMEOUT + LAST_CALL + 3 * GOODBYE + STOP_TIMEOUT
# Seconds that the process may take besides, until it is gone; and that it may
# take in all at a second signal.
EXIT: Final = 1.5


@define
class Kind:
    """
    What is special about a stop.

    @ivar isHeld: Somebody else holds the ledger until everyone is answered, so
        that nothing can be booked.
    @ivar isTwice: The signal is sent a second time, while the ledger is held:
        the process ends at once, and nobody is promised an answer.
    @ivar isHalfClosed: Half of the clients end their input before the signal.
    @ivar isLingering: Clients do not close when the server has said good-bye.
    @ivar silent: Sessions that never read hang on.
    """

    name: str
    signal: Signals = SIGTERM
    isHeld: bool = False
    isTwice: bool = False
    isHalfClosed: bool = False
    isLingering: bool = False
    silent: int = 0


KINDS: Final = (
    Kind("plain"),
    Kind("ledger held", isHeld=True),
    Kind("half-closed", isHalfClosed=True),
    Kind("slow readers", silent=SILENT),
    Kind("signalled twice", isHeld=True, isTwice=True),
    Kind("lingering", isLingering=True),
    Kind("SIGINT", SIGINT),
)


@define(eq=False)
class Stop:
    """
    One stop.

    @ivar seconds: How long it took.
    """

    site: Site
    server: Server
    kind: Kind
    name: str
    clients: list[Client] = Factory(list)
    seconds: float = 0.0
    problems: list[str] = Factory(list)
    _silent: list[Conversation] = Factory(list)
    _talks: Talks = Factory(Talks)
    _signalled: float = field(init=False, default=0.0)

    def join(self) -> None:
        """
        Connect the clients.
        """
        # Long comments, of six bytes a letter, make long events, which fill
        # the buffers of clients that do not read them.
        long = "\N{CYRILLIC SMALL LETTER ZHE}" * 200 if self.kind.silent else ""
        for number in range(CLIENTS + 1):
            conversation = Conversation(self.server.port)
            kind = Stubborn if number == CLIENTS else Client
            record = Record(f"{self.name}{long}-{number}")
            client = kind(conversation, record, self.kind.isLingering)
            self.clients.append(client)
            self._talks.add(conversation, client.hear)
        for _ in range(self.kind.silent):
            conversation = Conversation(self.server.port, TINY)
            conversation.send(health(token()))
            self._silent.append(conversation)

    def load(self, seconds: float) -> None:
        """
        Let them work.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._turn()

    def _turn(self) -> None:
        for client in self.clients:
            client.ask()
        self._talks.turn(0.002)

    def run(self) -> None:
        """
        Work, signal, and wait for the end.
        """
        self.join()
        self.load(BEFORE)
        if self.kind.isHalfClosed:
            for client in self.clients[: CLIENTS // 2]:
                client.endInput()
        if self.kind.isHeld:
            self._stopHeld()
        else:
            self._signal()
            self._untilExit()
        self._untilEnded()
        self._check()
        self._talks.close()
        for conversation in self._silent:
            conversation.close()

    def _stopHeld(self) -> None:
        with closing(self.site.holdLedger()):
            self.load(BEFORE)
            self._signal()
            if self.kind.isTwice:
                self.load(BEFORE)
                self._signal()
                self._untilExit()
            else:
                self._untilEnded()
        self._untilExit()

    def _signal(self) -> None:
        if self.server.process.poll() is not None:
            self.problems.append(f"{self.name}: the server is gone before its time")
        self._signalled = time.monotonic()
        self.server.signal(self.kind.signal)

    def _untilEnded(self) -> None:
        deadline = self._signalled + BOUND
        while time.monotonic() < deadline and any(
            not client.conversation.ending for client in self.clients
        ):
            self._turn()

    def _untilExit(self) -> None:
        bound = EXIT if self.kind.isTwice else BOUND + EXIT
        deadline = self._signalled + bound
        while self.server.process.poll() is None and time.monotonic() < deadline:
            self._turn()
        self.seconds = time.monotonic() - self._signalled
        if self.server.process.poll() is None:
            self.problems.append(f"{self.name}: no end after {bound:.1f} s")
            self.server.process.kill()

    def _check(self) -> None:
        status = self.server.end()
        if status not in (-self.kind.signal, -SIGKILL):
            self.problems.append(f"{self.name}: it ended with status {status}")
        for client in self.clients:
            self.problems += client.record.problems
            if not self.kind.isTwice:
                self._checkEnd(client)

    def _checkEnd(self, client: Client) -> None:
        name = client.record.name
        missing = client.missing(self._signalled)
        if missing:
            self.problems.append(
                f"{len(missing)} requests of {name} have no answer, such as"
                f" {missing[0]} of {len(client.record.sent)}"
            )
        if client.conversation.ending != "closed":
            ending = client.conversation.ending or "never ended"
            self.problems.append(f"the connection of {name} was {ending}")
        late = max(client.record.arrived) - self._signalled
        if late > STOP_TIMEOUT + LAST_CALL + GOODBYE:
            self.problems.append(f"{name} had its last answer after {late:.1f} s")

    def compare(self, rows: list[tuple[int, str]]) -> list[str]:
        """
        Compare the records with the ledger. If every connection ended in
        order, a request without a reply was not booked.
        """
        records = [client.record for client in self.clients]
        found = compare(rows, records)
        if self.kind.isTwice:
            return found
        dropped = {
            f"{record.name}-{serial}"
            for record in records
            for serial in record.unanswered()
        }
        found += [
            f"{comment} was dropped at the end, and is booked"
            for _, comment in rows
            if comment in dropped
        ]
        return found


def measure(options: Namespace, figures: Figures) -> list[str]:
    """
    Stop the server repeatedly, and return what was wrong.
    """
    problems: list[str] = []
    answers: Counter[int] = Counter()
    took: defaultdict[str, list[float]] = defaultdict(list)
    arguments = (f"--stop-timeout={STOP_TIMEOUT}",)
    with site() as here:
        for number in range(options.stops):
            kind = KINDS[number % len(KINDS)]
            server = start(here, options.plant, *arguments)
            stop = Stop(here, server, kind, f"stop {number} ({kind.name})")
            stop.run()
            problems += stop.problems + stop.compare(rows(here))
            took[kind.name].append(stop.seconds)
            for client in stop.clients:
                answers.update(client.record.statuses)
        problems += unsound(here)
    figures["stops"] = options.stops
    for status in (200, 503, 504):
        figures[f"answered by {status}"] = answers[status]
    figures["without an answer"] = answers[0]
    for name, seconds in took.items():
        figures[f"{name}, median s"] = round(median(seconds), 2)
        figures[f"{name}, longest s"] = round(max(seconds), 2)
    figures["allowed s"] = round(BOUND + EXIT, 2)
    figures["checked"] = (
        f"{options.stops} stops under load, and every answer was final and true"
    )
    return problems


def main() -> None:
    """
    Run what the command line asks for.
    """
    command = parser("stopping", __doc__)
    command.add_argument("--stops", type=int, default=len(KINDS))
    options = command.parse_args()
    # A shell without job control has what runs in its background ignore it, and
    # all that this starts would.
    signal(SIGINT, default_int_handler)
    figures = Figures()
    conclude(options, figures, measure(options, figures))


if __name__ == "__main__":
    main()
