"""
C{python -m benchmarks.throughput}: how many credits a second, and how fast.

The server and its peers are measured side by side in one run: in each round
each of them is started afresh, loaded by the same generator and stopped, and
the order changes from round to round. The medians of the rounds are reported.
Then each peer is loaded at half of its own peak by a generator that does not
wait for replies. See C{README.rst} in this folder for how to read the results.
"""

import argparse
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any, Final

from attrs import define, field

from benchmarks.bench import (
    Bench,
    Shape,
    addOptions,
    bench,
    note,
    revision,
    surroundings,
)
from benchmarks.comparison import summaries, tables
from benchmarks.contenders import CEILING, OURS, PEERS, Missing, Peer, earlier
from benchmarks.goals import SHAPES
from benchmarks.processes import (
    CPUTime,
    Wrong,
    allowDescriptors,
    freePort,
    module,
    run,
    running,
    usedByOthers,
)
from benchmarks.results import save

_QUICK_SHAPES: Final = ("1x1", "16x16")
_COMMITS: Final = 1000
# The open loop has as many connections as the shape that the goals name; for
# HTTP, one for each request that may be outstanding.
_OPEN: Final = Shape(16, 16)

Rounds = list[dict[str, Any]]


def measure(
    bench: Bench,
    peer: Peer,
    shape: Shape,
    options: argparse.Namespace,
    rate: float = 0.0,
) -> dict[str, Any]:
    """
    Start a peer, load it, stop it, and check the orders that it replied with.

    @param rate: Requests a second of an open loop; 0 is a closed loop.
    """
    port = freePort()
    before, start = usedByOthers(), time.monotonic()
    try:
        command = peer.command(bench, port, shape)
        with running(command, bench.serverCPU, port, folder=peer.folder) as pid:
            used = CPUTime.of(pid)
            measured = bench.load(port, *_arguments(peer, shape, options, rate))
            used = CPUTime.of(pid).since(used)
            measured["cpu"] = used.all / measured["answered"] * 1e6
        elapsed = time.monotonic() - start
        measured["others"] = max(0.0, (usedByOthers() - before) / elapsed)
        _check(bench, peer, measured, options)
    finally:
        bench.clear(bench.ledger)
    return measured


def _arguments(
    peer: Peer, shape: Shape, options: argparse.Namespace, rate: float
) -> Iterator[str]:
    """
    The arguments of the generator.
    """
    if peer.isHTTP:
        shape = Shape(shape.connections * shape.outstanding, 1)
        yield "--http"
    if peer.isCanned:
        yield "--canned"
    events = "none" if peer is CEILING else options.events
    numbers = {
        "connections": shape.connections,
        "outstanding": shape.outstanding,
        "rate": rate,
        "warm-up": options.warm_up,
        "seconds": options.seconds,
        "events": events,
    }
    for name, value in numbers.items():
        yield f"--{name}"
        yield str(value)


def _check(
    bench: Bench, peer: Peer, measured: dict[str, Any], options: argparse.Namespace
) -> None:
    """
    Check that no order number was used twice, that each event came once, and
    that the ledger contains the orders in the replies and no others.
    """
    orders = measured["answered"], measured["sumOfOrders"]
    events = measured["events"], measured["sumOfEvents"]
    if options.events == "one" and peer is not CEILING and events != orders:
        raise Wrong(f"the events are {events}, and the replies {orders}")
    if peer.isCanned:
        return
    if measured["orders"] != measured["answered"]:
        raise Wrong("an order was given twice")
    if not peer.hasLedger:
        return
    with closing(sqlite3.connect(bench.ledger)) as ledger:
        booked = ledger.execute('SELECT count(*), sum("order") FROM trade').fetchone()
    if booked != orders:
        raise Wrong(f"the ledger has {booked}, and the replies {orders}")


@define
class Run:
    """
    All rounds.

    @ivar peers: The peers still in the run.
    @ivar left: Why the others were left out.
    """

    _bench: Bench
    _options: argparse.Namespace
    peers: dict[str, Peer]
    left: dict[str, str]
    commits: Rounds = field(factory=list)
    rounds: dict[str, dict[str, Rounds]] = field(factory=dict)
    open: dict[str, Rounds] = field(factory=dict)

    def closed(self) -> None:
        """
        Measure each peer with each shape in every round.
        """
        for number in range(self._options.rounds):
            self.commits.append(self._commits())
            for shape in self._options.shapes:
                peers = self.rounds.setdefault(str(shape), {})
                for name in self._order(number):
                    self._round(number, name, peers, shape)
                self._round(number, "ceiling", peers, shape)

    def opened(self) -> None:
        """
        Measure each peer at a part of its own peak.
        """
        if not self._options.open_loop:
            return
        peaks = {name: self._peak(name) for name in self.peers}
        for number in range(self._options.rounds):
            for name in self._order(number):
                rate = peaks[name] * self._options.open_loop
                self._round(number, name, self.open, _OPEN, rate)

    def _order(self, number: int) -> list[str]:
        names = list(self.peers)
        first = number % len(names)
        names = names[first:] + names[:first]
        # So that none of two neighbours is always measured before the other.
        return names[::-1] if number % 2 else names

    def _peak(self, name: str) -> float:
        rates = [[each["rate"] for each in r[name]] for r in self.rounds.values()]
        return float(max(map(median, rates)))

    def _round(
        self,
        number: int,
        name: str,
        into: dict[str, Rounds],
        shape: Shape,
        rate: float = 0.0,
    ) -> None:
        peer = CEILING if name == "ceiling" else self.peers[name]
        try:
            measured = measure(self._bench, peer, shape, self._options, rate)
        except Wrong as e:
            if name in OURS or name == "ceiling":
                raise Wrong(f"{name} at {shape}: {e}") from e
            self._leave(name, str(e))
            return
        into.setdefault(name, []).append(measured)
        kind = f"open loop of {rate:,.0f}/s" if rate else str(shape)
        note(
            f"round {number + 1}/{self._options.rounds}  {kind}  {name}"
            f"  {measured['rate']:,.0f}/s  p99 {measured['p99']:.2f} ms"
        )

    def _leave(self, name: str, why: str) -> None:
        """
        Continue without a peer that failed.
        """
        note(f"{name} is left out: {why}")
        self.left[name] = why.partition("\n")[0]
        del self.peers[name]
        for peers in (*self.rounds.values(), self.open):
            peers.pop(name, None)

    def _commits(self) -> dict[str, Any]:
        """
        Have SQLite alone commit rows one by one, on the same disk.
        """
        path = self._bench.folder / "commits.db"
        command = module("benchmarks.commits", str(path), str(_COMMITS))
        try:
            return run(command, self._bench.serverCPU)
        finally:
            self._bench.clear(path)


def prepared(names: Sequence[str]) -> tuple[dict[str, Peer], dict[str, str]]:
    """
    Build the peers that must be built.

    @return: The peers that are ready, and why the others are not.
    """
    peers, left = {}, {}
    for name in names:
        try:
            PEERS[name].prepare()
        except Missing as e:
            note(f"{name} is left out: {e}")
            left[name] = str(e)
        else:
            peers[name] = PEERS[name]
    return peers, left


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.throughput")
    addOptions(parser, "throughput")
    parser.add_argument(
        "--shapes",
        metavar="NxM",
        nargs="+",
        type=Shape.fromString,
        help="connections x outstanding requests on each"
        f" (default: {' '.join(SHAPES)})",
    )
    parser.add_argument(
        "--peers",
        nargs="+",
        choices=PEERS,
        help="what to measure beside echo, memory and durable (default: all; with"
        " --quick those that need no compiler)",
    )
    parser.add_argument("--rounds", type=int, help="(default: 5)")
    parser.add_argument("--seconds", type=float, help="of each round (default: 2)")
    parser.add_argument(
        "--events",
        choices=("none", "one", "all"),
        default="one",
        help="how many connections receive the event stream (default: one)",
    )
    parser.add_argument(
        "--open-loop",
        metavar="PART",
        type=float,
        default=0.5,
        help="the part of its peak at which each peer is then loaded; 0: skip it"
        " (default: %(default)s)",
    )
    parser.add_argument(
        "--against",
        metavar="FOLDER",
        type=Path,
        help="another checkout, whose server is measured too: memory-before and"
        " durable-before",
    )
    options = parser.parse_args(arguments)
    if options.against and not (options.against / "creditsync").is_dir():
        parser.error(f"{options.against} is not a checkout of creditsync")
    quick = options.quick
    shapes = _QUICK_SHAPES if quick else SHAPES
    options.shapes = options.shapes or [Shape.fromString(each) for each in shapes]
    options.rounds = options.rounds or (1 if quick else 5)
    options.seconds = options.seconds or (0.2 if quick else 2.0)
    options.warm_up = 0.1 if quick else 0.5
    if options.peers is None:
        options.peers = [
            name for name, peer in PEERS.items() if not (quick and peer.isBuilt)
        ]
    options.peers = [n for n in PEERS if n in OURS or n in options.peers]
    return options


def main() -> None:
    """
    Measure as the command line says.
    """
    options = _options(sys.argv[1:])
    allowDescriptors(10_000)
    peers, left = prepared(options.peers)
    if options.against:
        peers |= earlier(options.against)
    with bench(options) as place:
        where = surroundings(place) | {
            "rounds": f"{options.rounds} of {options.seconds} s each, medians",
            "events": f"{options.events} of the connections",
            "open loop": f"{_OPEN.connections} connections,"
            f" {options.open_loop:g} of the peak",
        }
        if options.against:
            where["before"] = revision(options.against)
        everything = Run(place, options, peers, left)
        everything.closed()
        everything.opened()
    results: dict[str, Any] = {
        "command": "throughput",
        "where": where,
        "left": left,
        "commits": everything.commits,
        "rounds": everything.rounds,
        "open": everything.open,
    }
    results["summary"] = summaries(results)
    save(results, tables(results), options)


if __name__ == "__main__":
    main()
