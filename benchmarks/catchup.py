"""
C{python -m benchmarks.catchup}: what a client notices of others that catch up.

One session requests a credit at fixed times, whether or not the last one was
answered, and a latency counts from the time at which a request was due: first alone,
then beside sessions that read the journal as fast as they can (L{benchmarks.readers}).
They either read all of it together, or each a part of its own, so that no two of them
need the same events.
"""

import argparse
import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any, Final

from attrs import Factory, define

from benchmarks import traffic
from benchmarks.bench import Bench, addOptions, bench, note, surroundings
from benchmarks.figures import percentile
from benchmarks.generator import OPEN_RING, connect, subscribe
from benchmarks.load import PATIENCE, Connection, Ring, verified
from benchmarks.processes import (
    CPUTime,
    Wrong,
    allowDescriptors,
    endpoint,
    freePort,
    module,
    residentBytes,
    running,
)
from benchmarks.results import Results, Table, save
from benchmarks.scale import health, large

# Seconds that a start may take.
_START: Final = 300.0

# The arguments of the readers in each case: none are started if there are none.
CASES: Final[dict[str, list[str] | None]] = {
    "alone": None,
    "all read the same": [],
    "each reads a part": ["--apart"],
}


@define
class Innocent:
    """
    The session that requests credits.

    @ivar latencies: Seconds from when a request was due to having read its reply.
    """

    _connection: Connection
    latencies: list[float] = Factory(list)

    @classmethod
    def connected(cls, port: int, token: bytes) -> "Innocent":
        """
        Connect. It receives no events.
        """
        opened = connect(port)
        subscribe(opened, traffic.FIRST, token, False)
        opened.setblocking(False)
        serials = range(traffic.FIRST, traffic.FIRST + OPEN_RING)
        lines = [traffic.request(serial, token) for serial in serials]
        outcomes = [traffic.outcome(serial) for serial in serials]
        return cls(Connection(opened, Ring.make(serials, lines, outcomes)))

    def request(self, rate: float, isOver: Callable[[], bool]) -> None:
        """
        Request credits until it is over, then wait for the last reply.

        @param rate: Requests per second.
        @raise Wrong: One got no reply.
        """
        due = time.perf_counter()
        while not isOver():
            self._hear(due - time.perf_counter())
            if time.perf_counter() >= due:
                self._connection.ask([due])
                due += 1 / rate
        patience = time.perf_counter() + PATIENCE
        while self._connection.outstanding:
            self._hear(1.0)
            if time.perf_counter() > patience:
                raise Wrong("a request got no reply")

    def _hear(self, seconds: float) -> None:
        """
        Receive what comes within this time.
        """
        connection = self._connection
        if not select.select([connection.socket], [], [], max(0.0, seconds))[0]:
            return
        lines = connection.receive()
        now = time.perf_counter()
        extIDs, _, _ = verified(lines, connection.ring.outcomes)
        self.latencies += [now - connection.outstanding.pop(each) for each in extIDs]

    def close(self) -> None:
        """
        Disconnect.
        """
        self._connection.socket.close()


def _during(seconds: float) -> Callable[[], bool]:
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() > end


def peakBytes(pid: int) -> int:
    """
    The most resident memory that a process has had.
    """
    status = Path(f"/proc/{pid}/status").read_text()
    [kilobytes] = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(kilobytes) * 1024


def measure(
    place: Bench, options: argparse.Namespace, arguments: list[str] | None
) -> dict[str, float]:
    """
    Start the server, and measure one case.
    """
    port, token = freePort(), place.token()
    ledger = large(options.folder, options.events)
    server = module("creditsync", "serve", "--listen", endpoint(port))
    server += ["--ledger", str(ledger), "--key", place.keyFile]
    with running(server, place.serverCPU, port, _START) as pid:
        epoch = health(port, token.encode("ascii"))["cursor"].partition("-")[0]
        with closing(Innocent.connected(port, token.encode("ascii"))) as innocent:
            innocent.request(options.rate, _during(options.warm_up))
            innocent.latencies.clear()
            before, used = residentBytes(pid), CPUTime.of(pid)
            figures = {}
            if arguments is None:
                innocent.request(options.rate, _during(options.seconds))
            else:
                command = module("benchmarks.readers", str(port), epoch, *arguments)
                command += ["--token", token, "--readers", str(options.readers)]
                command += ["--events", str(options.events)]
                figures = _beside(innocent, command, options)
                cpu = CPUTime.of(pid).since(used).all
                figures["cpu"] = cpu / figures["events"] * 1e6
            peak = peakBytes(pid)
    latencies = sorted(innocent.latencies)
    return {
        "p50": percentile(latencies, 50) * 1000,
        "p99": percentile(latencies, 99) * 1000,
        "max": latencies[-1] * 1000,
        "requests": len(latencies),
        "before": before,
        "peak": peak,
        **figures,
    }


def _beside(
    innocent: Innocent, command: list[str], options: argparse.Namespace
) -> dict[str, float]:
    """
    Have the session request credits for as long as the readers read.
    """
    readers = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        innocent.request(options.rate, lambda: readers.poll() is not None)
        output, errors = readers.communicate()
    finally:
        readers.kill()
        readers.wait()
    if readers.returncode:
        raise Wrong(f"the readers failed: {errors[-2000:]}")
    seconds = json.loads(output)["seconds"]
    events = options.events
    if "--apart" not in command:
        events *= options.readers
    return {"seconds": seconds, "events": events, "rate": events / seconds}


def run(place: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """
    Run all rounds of all cases.
    """
    if place.generatorCPU is not None:
        os.sched_setaffinity(0, {place.generatorCPU})
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in CASES}
    for number in range(options.rounds):
        for name, arguments in CASES.items():
            measured = measure(place, options, arguments)
            rounds[name].append(measured)
            note(
                f"round {number + 1}/{options.rounds}  {name}"
                f"  p50 {measured['p50']:.2f} ms  p99 {measured['p99']:.2f} ms"
                f"  {measured.get('rate', 0):,.0f} events/s"
                f"  peak {measured['peak'] / 2**20:.0f} MiB"
            )
    return {"readers": options.readers, "events": options.events, "rounds": rounds}


def tables(results: Results) -> Iterator[Table]:
    """
    Each case.
    """
    head: list[object] = ["", "p50 ms", "p99", "max", "events/s", "CPU µs an event"]
    rows = [[*head, "memory before, MiB", "peak"]]
    for name, rounds in results["rounds"].items():
        row: list[object] = [name]
        row += [median(each[of] for each in rounds) for of in ("p50", "p99", "max")]
        for of in ("rate", "cpu"):
            row.append(median(each[of] for each in rounds) if of in rounds[0] else "")
        row += [median(r[of] for r in rounds) / 2**20 for of in ("before", "peak")]
        rows.append(row)
    readers, events = results["readers"], results["events"]
    title = f"A credit beside {readers:,} sessions that catch up, {events:,} events"
    yield Table(title, rows)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.catchup")
    addOptions(parser, "catchup")
    parser.add_argument("--readers", type=int, help="sessions (default: 100)")
    parser.add_argument(
        "--events", type=int, help="of the journal (default: 1,000,000)"
    )
    parser.add_argument("--rounds", type=int, help="(default: 1)", default=1)
    parser.add_argument("--seconds", type=float, help="alone (default: 20)")
    parser.add_argument(
        "--rate",
        type=float,
        default=100.0,
        help="credits per second (default: %(default)g)",
    )
    options = parser.parse_args(arguments)
    quick = options.quick
    options.readers = options.readers or (5 if quick else 100)
    options.events = options.events or (5000 if quick else 1_000_000)
    options.seconds = options.seconds or (0.5 if quick else 20.0)
    options.warm_up = 0.1 if quick else 1.0
    return options


def main() -> None:
    """
    Measure as the command line says.
    """
    options = _options(sys.argv[1:])
    wanted = options.readers + 100
    if allowDescriptors(wanted) < wanted:
        raise SystemExit(f"this needs {wanted} descriptors: see ulimit -n")
    with bench(options) as place:
        where = surroundings(place) | {
            "load": f"{options.rate:g} credits/s beside {options.readers} sessions",
            "rounds": str(options.rounds),
        }
        # Neither requests nor readers need a compiled generator.
        where["generator"] = "python"
        results = {"command": "catchup", "where": where, **run(place, options)}
    save(results, tables(results), options)


if __name__ == "__main__":
    main()
