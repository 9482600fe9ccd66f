"""
Ten times as many requests as the server can carry out:

    python -m tests.load.overload [--seconds 60]

First a closed loop finds out the capacity; then ten times as much is offered in
an open loop, by processes of their own, while polite sessions with one request
at a time are there too. What is not carried out is refused, quickly, at less cost
than a credit's and before anything is booked, or stays unread in the sockets; and
afterwards all is as before.
"""

from argparse import Namespace
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from typing import Any, Final, TypeVar

from attrs import Factory, define

from tests.figures import Figures
from tests.integration.processes import Server
from tests.load import flood
from tests.load.polite import Polite
from tests.load.record import REFUSALS, Record, compare
from tests.load.running import (
    MIB,
    addLatency,
    busy,
    conclude,
    memory,
    parser,
    rows,
    site,
    start,
    unsound,
)

TIMES: Final = 10
# The load's processes, the connections of each, and the outstanding requests
# of each connection while the capacity is measured.
PROCESSES: Final = 2
CONNECTIONS: Final = 3
OUTSTANDING: Final = 100
# By default the server would read no faster than it books, and leave the rest
# in the sockets. With such low limits it has to refuse: with 429 the excess of
# a connection, with 503 that of the queue.
QUEUED: Final = 1000
PENDING: Final = 170
POLITE: Final = 4
# The most that a refusal may cost, of what a credit does. How much is booked
# meanwhile says little: while the disk is slow, more is refused.
REFUSAL: Final = 1.0
# The part of the capacity that must be there afterwards.
AFTERWARDS: Final = 0.3
# Seconds that a refusal may take at p99, to a session with one request.
QUICK: Final = 0.5
# Bytes that a pending operation may take, with its waiter, its event, its
# reply and its row.
OPERATION: Final = 8 * 1024
# Bytes of a connection's lines that are read and not yet handled, and of its
# replies that are not yet read.
CONNECTION: Final = 1 * MIB
# Other growth of memory: arenas, SQLite's cache, cached accounts.
BESIDES: Final = 64 * MIB

_Part = TypeVar("_Part")


@define(eq=False)
class Run:
    """
    One run on one server.

    @ivar records: Of all clients so far.
    """

    _server: Server
    _pool: Executor
    _figures: Figures
    records: list[Record] = Factory(list)

    def booked(self) -> int:
        """
        How many requests were answered by 200 so far.
        """
        return sum(record.statuses.count(200) for record in self.records)

    def perBusySecond(self, act: Callable[[], float]) -> tuple[float, float]:
        """
        Run a function.

        @return: Its result, and how much was booked meanwhile in a second of
            the server's processor time.
        """
        booked, used = self.booked(), busy(self._server)
        result = act()
        return result, (self.booked() - booked) / (busy(self._server) - used)

    def best(self, name: str) -> float:
        """
        The capacity in the better of two seconds.
        """
        return max(self.capacity(f"{name}{number} ", 1.0) for number in range(2))

    def capacity(self, name: str, seconds: float) -> float:
        """
        How many credits a second the server books for clients that wait for
        its replies.
        """
        done = self._together(
            lambda number: self._pool.submit(
                flood.exchange,
                self._server.port,
                f"{name}{number}",
                CONNECTIONS,
                OUTSTANDING,
                seconds,
            )
        )
        self.records += [record for record, _ in done]
        return sum(rate for _, rate in done)

    def ceiling(self, rate: float) -> float:
        """
        How many lines a second the load's processes can really send to a
        reader.
        """
        with flood.sink() as port:
            return sum(
                self._together(
                    lambda _: self._pool.submit(
                        flood.ceiling, port, CONNECTIONS, rate / PROCESSES, 1.0
                    )
                )
            )

    def overload(self, rate: float, seconds: float) -> float:
        """
        Offer so many requests a second for so long.

        @return: How many were booked a second.
        """
        polite = Polite(self._server.port)
        polite.join(POLITE)
        done = self._together(
            lambda number: self._pool.submit(
                flood.offer,
                self._server.port,
                f"over{number}",
                CONNECTIONS,
                rate / PROCESSES,
                seconds,
            ),
            polite.turn,
        )
        polite.finish()
        records = [record for record, _ in done]
        self.records += [*records, polite.record]
        self._addAnswers("flood", records)
        self._addAnswers("polite", [polite.record])
        addLatency(self._figures, "polite, booked", polite.record.latencies(200))
        return self._addLoad(records, sum(due for _, due in done), seconds)

    def _together(
        self,
        begin: "Callable[[int], Future[_Part]]",
        meanwhile: Callable[[], Any] | None = None,
    ) -> list[_Part]:
        """
        Have every process do its part.
        """
        parts = [begin(number) for number in range(PROCESSES)]
        while meanwhile is not None and not all(part.done() for part in parts):
            meanwhile()
        return [part.result() for part in parts]

    def _addLoad(self, records: list[Record], due: int, seconds: float) -> float:
        figures = self._figures
        sent = sum(len(record.sent) for record in records)
        figures["offered, requests a second"] = round(due / seconds)
        figures["taken by the sockets, a second"] = round(sent / seconds)
        figures["left with the senders, back-pressure, %"] = round(
            100 * (1 - sent / due), 1
        )
        inTime = [
            status
            for record in records
            for status, arrived in zip(record.statuses, record.arrived, strict=True)
            if arrived < record.sent[0] + seconds
        ]
        figures["taken, and unread at the end"] = sent - len(inTime)
        return inTime.count(200) / seconds

    def _addAnswers(self, who: str, records: list[Record]) -> None:
        for status in (200, 429, 503, 504):
            count = sum(record.statuses.count(status) for record in records)
            self._figures[f"{who}, answered by {status}"] = count
        times = [each for record in records for each in record.latencies(*REFUSALS)]
        addLatency(self._figures, f"{who}, refused", sorted(times))


def measure(options: Namespace, figures: Figures) -> list[str]:
    """
    Run, and return what was wrong.
    """
    with site() as here, flood.processes(PROCESSES) as pool:
        limits = (
            f"--max-queued={QUEUED}",
            f"--max-pending-per-session={PENDING}",
        )
        server = start(here, options.plant, *limits)
        run = Run(server, pool, figures)
        run.capacity("warm", 0.5)
        before = memory(server)
        # The better one: otherwise less than ten times as much would be
        # offered.
        capacity, usual = run.perBusySecond(lambda: run.best("before"))
        figures["capacity, requests a second"] = round(capacity)
        rate = TIMES * capacity
        figures["the senders could offer, a second"] = round(run.ceiling(rate))
        goodput, now = run.perBusySecond(lambda: run.overload(rate, options.seconds))
        figures["goodput, requests a second"] = round(goodput)
        figures["goodput of capacity"] = round(goodput / capacity, 2)
        figures["a refusal's processor time, of a credit's"] = round(
            _refusalCost(usual / now, figures), 2
        )
        figures["capacity afterwards, of before"] = round(
            run.best("after") / capacity, 2
        )
        peak = memory(server, "VmHWM")
        connections = PROCESSES * CONNECTIONS + POLITE
        allowed = QUEUED * OPERATION + connections * CONNECTION + BESIDES
        figures["memory before MiB"] = round(before / MIB, 1)
        figures["memory peak MiB"] = round(peak / MIB, 1)
        figures["memory allowed MiB"] = round((before + allowed) / MIB, 1)
        problems = [p for record in run.records for p in record.problems]
        problems += compare(rows(here), run.records) + unsound(here)
    problems += judge(figures)
    if peak > before + allowed:
        problems.append(f"memory reached {peak:,} bytes")
    asked = sum(len(record.sent) for record in run.records)
    figures["checked"] = (
        f"each of {asked:,} requests has its one answer, and it is true"
    )
    return problems


def _refusalCost(now: float, figures: Mapping[str, Any]) -> float:
    """
    What a refusal costs, of what a credit does.

    @param now: The processor time of a credit under overload with the refusals
        beside it, of the usual time of a credit.
    """
    booked, *refused = (
        sum(figures[f"{who}, answered by {status}"] for who in ("flood", "polite"))
        for status in (200, 429, 503)
    )
    return (now - 1) * booked / max(1, sum(refused))


def judge(figures: Mapping[str, Any]) -> list[str]:
    """
    The faults in the figures alone.
    """
    found = []
    if (
        figures["the senders could offer, a second"]
        < 0.9 * TIMES * figures["capacity, requests a second"]
    ):
        found.append("the senders can't offer that much: this says nothing")
    cost = figures["a refusal's processor time, of a credit's"]
    if cost > REFUSAL:
        found.append(f"a refusal costs {cost} of a credit")
    afterwards = figures["capacity afterwards, of before"]
    if afterwards < AFTERWARDS:
        found.append(f"the capacity afterwards is {afterwards} of before")
    if not figures["flood, answered by 503"] + figures["flood, answered by 429"]:
        found.append("nothing was refused: this was no overload")
    slowest = figures.get("polite, refused p99 ms", 0)
    if slowest > QUICK * 1000:
        found.append(f"refusals took {slowest} ms at p99")
    return found


def main() -> None:
    """
    Run what the command line asks for.
    """
    command = parser("overload", __doc__)
    command.add_argument("--seconds", type=float, default=3)
    options = command.parse_args()
    figures = Figures()
    conclude(options, figures, measure(options, figures))


if __name__ == "__main__":
    main()
