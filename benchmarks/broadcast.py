"""
C{python -m benchmarks.broadcast}: the cost of an event that many sessions
receive.

One session requests credits, and every session receives each event. The
server's own processor time is read from the kernel before and after, so the
generator's part does not count; the cost of one subscriber is the slope
between few sessions and many. It is measured with one event at a time, as a
write to each session; with sixteen that are booked together; with additional
sessions that do not read at all, for which the server has to keep what the
kernel no longer buffers; with tokens that are restricted by one mask of groups, and by
1,000; and with the bare Twisted echo, which writes one canned line to each.
"""

import argparse
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import cycle
from statistics import median
from typing import Any, Final, TypeAlias

from attrs import define

from benchmarks import traffic
from benchmarks.audience import Audience, askAll, stall
from benchmarks.bench import Bench, Shape, addOptions, bench, note, surroundings
from benchmarks.contenders import PEERS
from benchmarks.generator import connect, subscribe
from benchmarks.processes import CPUTime, allowDescriptors, freePort, running
from benchmarks.results import Results, Table, save

_SIZES: Final = (10, 100, 1000, 5000)
# Additional sessions that stall, as a part of those that read.
_STALLED: Final = 0.1
_SMALL: Final = 4096
# Events in one round: fewer if many sessions receive them.
_LEAST_EVENTS: Final = 32


# Microseconds for one event: "cpu", the part of it in the "kernel", and
# "wall".
Measured: TypeAlias = dict[str, float]


@define(frozen=True)
class Case:
    """
    One way to broadcast.

    @ivar peer: The server, or L{None} for the one on the command line.
    @ivar stalled: How many additional sessions do not read, for each that
        does.
    @ivar together: How many credits are requested at once.
    @ivar masks: How many different masks of groups the sessions' tokens have.
    """

    peer: str | None = None
    stalled: float = 0.0
    together: int = 1
    masks: int = 0

    def tokens(self, place: Bench, token: bytes) -> Iterator[bytes]:
        """
        A token for each session, with all accounts in the end.

        @param token: One without a mask.
        """
        masks = [f"group-{n}*,*" for n in range(self.masks)]
        return cycle([place.token(each).encode("ascii") for each in masks] or [token])


CASES: Final = {
    "one by one": Case(),
    "a tenth more stall": Case(stalled=_STALLED),
    "16 at once": Case(together=16),
    "one mask": Case(masks=1),
    "1,000 masks": Case(masks=1000),
    "bare Twisted": Case("echo"),
}


def measure(place: Bench, size: int, events: int, case: Case, peer: str) -> Measured:
    """
    Connect this many sessions to a server, and publish this many events.
    """
    port = freePort()
    token = place.token().encode("ascii")
    tokens = case.tokens(place, token)
    server = PEERS[case.peer or peer]
    command = server.command(place, port, Shape(size, 1))
    try:
        with (
            running(command, place.serverCPU, port) as pid,
            ExitStack() as sessions,
        ):

            def session(buffer: int | None = None) -> socket.socket:
                opened = sessions.enter_context(closing(connect(port, buffer=buffer)))
                subscribe(opened, traffic.FIRST, next(tokens), True)
                return opened

            asking = session()
            if case.stalled:
                count = max(1, int(size * case.stalled))
                stall(asking, [session(_SMALL) for _ in range(count)], token)
            others = [session() for _ in range(size - 1)]
            audience = Audience({each.fileno(): each for each in others})
            start, before = time.perf_counter(), CPUTime.of(pid)
            for first in range(0, events, case.together):
                serials = range(first, min(first + case.together, events))
                askAll(asking, serials, token, audience, server.isCanned)
            audience.readAll(events)
            took = CPUTime.of(pid).since(before)
            elapsed = time.perf_counter() - start
            inKernel = took.system / ((took.user + took.system) or 1.0)
            return {
                "cpu": took.all / events * 1e6,
                "kernel": took.all * inKernel / events * 1e6,
                "wall": elapsed / events * 1e6,
            }
    finally:
        place.clear(place.ledger)


def slopes(took: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """
    The cost of each additional subscriber in microseconds, between the
    smallest size and each other: the medians over the rounds.

    @param took: By size, the cost of one event in each round.
    """
    smallest, *others = took
    return {
        size: median(
            (much - little) / (int(size) - int(smallest))
            for much, little in zip(took[size], took[smallest], strict=True)
        )
        for size in others
    }


def run(place: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """
    Run all rounds of all sizes, in each case.
    """
    rounds: dict[str, dict[str, list[Measured]]] = {name: {} for name in CASES}
    for number in range(options.rounds):
        for size in options.sizes:
            events = max(_LEAST_EVENTS, options.deliveries // size)
            for name, case in CASES.items():
                measured = measure(
                    place, size, min(events, 20 * _LEAST_EVENTS), case, options.peer
                )
                rounds[name].setdefault(str(size), []).append(measured)
                note(
                    f"round {number + 1}/{options.rounds}  {size} sessions, {name}"
                    f"  {measured['cpu']:,.0f} µs an event"
                )
    return {
        "rounds": rounds,
        "perSubscriber": _each(rounds, "cpu"),
        "perSubscriberInKernel": _each(rounds, "kernel"),
    }


def _each(
    rounds: Mapping[str, Mapping[str, list[Measured]]], name: str
) -> dict[str, dict[str, float]]:
    """
    The cost of each additional subscriber, by case and size.
    """
    return {
        case: slopes({size: [each[name] for each in r] for size, r in sizes.items()})
        for case, sizes in rounds.items()
    }


def tables(results: Results) -> Iterator[Table]:
    """
    The cost of each event, and of each additional subscriber.
    """
    head: list[object] = ["sessions", "CPU µs an event", "wall µs an event"]
    head += ["CPU µs a subscriber", "of it in the kernel"]
    for case, sizes in results["rounds"].items():
        rows: list[list[object]] = [head]
        for size, rounds in sizes.items():
            row: list[object] = [int(size)]
            row += [median(each[name] for each in rounds) for name in ("cpu", "wall")]
            row.append(results["perSubscriber"][case].get(size, ""))
            row.append(results["perSubscriberInKernel"][case].get(size, ""))
            rows.append(row)
        yield Table(f"One event to this many sessions: {case}", rows)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.broadcast")
    addOptions(parser, "broadcast")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        help=f"sessions, ascending (default: {' '.join(map(str, _SIZES))})",
    )
    parser.add_argument("--rounds", type=int, help="(default: 5)")
    parser.add_argument(
        "--deliveries",
        type=int,
        help="of each round: events times sessions, about (default: 100,000)",
    )
    parser.add_argument(
        "--peer",
        choices=[name for name, peer in PEERS.items() if not peer.isHTTP],
        default="memory",
        help="which server (default: %(default)s, so that no commit is counted)",
    )
    options = parser.parse_args(arguments)
    quick = options.quick
    options.sizes = options.sizes or ([10, 50] if quick else list(_SIZES))
    options.rounds = options.rounds or (1 if quick else 5)
    options.deliveries = options.deliveries or (1000 if quick else 100_000)
    return options


def main() -> None:
    """
    Measure as the command line says.
    """
    options = _options(sys.argv[1:])
    wanted = int(max(options.sizes) * (1 + _STALLED)) + 100
    if allowDescriptors(wanted) < wanted:
        raise SystemExit(f"this needs {wanted} descriptors: see ulimit -n")
    with bench(options) as place:
        rounds = (
            f"{options.rounds} of {options.deliveries:,} deliveries, {options.peer}"
        )
        where = surroundings(place) | {"rounds": rounds}
        results = {"command": "broadcast", "where": where, **run(place, options)}
    save(results, tables(results), options)


if __name__ == "__main__":
    main()
