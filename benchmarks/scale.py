"""
C{python -m benchmarks.scale}: how cost grows with the number of sessions,
waiters and trades.

The same server and the same load, in turn: empty; beside thousands of idle
sessions; beside as many requests that never get a reply; with millions of
trades in its ledger. The report has the ratio to the empty server of the same
round, the memory of each session and each waiter, and how long after the start of
the process its port is open and its first answer comes.
"""

import argparse
import hashlib
import json
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks import figures, traffic
from benchmarks.bench import Bench, Shape, addOptions, bench, note, surroundings
from benchmarks.fill import fill
from benchmarks.generator import connect, subscribe
from benchmarks.peers.forgetful import FORGOTTEN
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
from creditsync.ledger._schema import SCRIPTS

# Seconds that a start may take.
_PATIENCE: Final = 300.0
# Connections from one address: it has ports for some 28,000.
_OF_ONE_ADDRESS: Final = 10_000
# Pending requests on each connection that has some.
_WAITING: Final = 500

# The sizes of each kind, in a quick run and otherwise.
SIZES: Final = {
    "sessions": ([100], [1000, 10_000]),
    "waiters": ([1000], [10_000, 100_000]),
    "trades": ([10_000], [1_000_000, 10_000_000]),
}
KINDS: Final = tuple(SIZES)

Prepare = Callable[[ExitStack, int, bytes], object]


def _server(place: Bench, port: int, ledger: Path) -> list[str]:
    """
    Start creditsync with limits high enough for all cases, and a long timeout.
    """
    options = {
        "listen": endpoint(port),
        "ledger": str(ledger),
        "key": place.keyFile,
        "timeout": "100000",
        "max-connections": "1000000",
        "max-pending": "10000000",
        "stop-timeout": "1",
    }
    given = [f"--{name}={value}" for name, value in options.items()]
    return module("benchmarks.peers.forgetful", *given)


def health(port: int, token: bytes) -> dict[str, Any]:
    """
    Ask for the server's health, and wait for as long as it takes to start.
    """
    with closing(socket.create_connection(("127.0.0.1", port), _PATIENCE)) as opened:
        opened.sendall(b'{"command":"HealthCheck","__token":"%b"}\r\n' % token)
        with opened.makefile("rb") as lines:
            reply: dict[str, Any] = json.loads(lines.readline() or b"{}")
    if reply.get("status") != 200:
        raise Wrong(f"the server is not well: {reply}")
    data: dict[str, Any] = reply["data"]
    return data


@contextmanager
def _serving(place: Bench, ledger: Path) -> Iterator[tuple[int, int, dict[str, float]]]:
    """
    @return: The server's port, its process id, and the seconds from its start until
        its port was open, and until it answered.
    """
    port, token = freePort(), place.token().encode("ascii")
    start = time.perf_counter()
    command = _server(place, port, ledger)
    with running(command, place.serverCPU, port, _PATIENCE) as pid:
        opened = time.perf_counter() - start
        health(port, token)
        yield port, pid, {"open": opened, "answer": time.perf_counter() - start}


def _idle(count: int) -> Prepare:
    """
    Sessions that have sent their token once, and have unsubscribed.
    """

    def prepare(opened: ExitStack, port: int, token: bytes) -> None:
        for number in range(count):
            _quiet(opened, port, token, number)

    return prepare


def _waiting(count: int) -> Prepare:
    """
    Requests for logins whose operations are forgotten, on a few sessions.
    """

    def prepare(opened: ExitStack, port: int, token: bytes) -> None:
        credit = traffic.request(traffic.FIRST, token)
        login = b'"login":%d' % (1000 + traffic.FIRST % 1000)
        credit = credit.replace(login, b'"login":%d' % FORGOTTEN)
        first = b"%d" % traffic.FIRST
        for start in range(0, count, _WAITING):
            session = _quiet(opened, port, token, start // _WAITING)
            serials = range(start, min(start + _WAITING, count))
            session.sendall(
                b"".join(credit.replace(first, b"%d" % (10**7 + n)) for n in serials)
            )
            # Once a later request has a reply, the server has read all of
            # them.
            subscribe(session, 1, token, False)
        pending = health(port, token)["pending"]
        if pending != count:
            raise Wrong(f"{pending} requests wait, and not {count}")

    return prepare


def _quiet(opened: ExitStack, port: int, token: bytes, number: int) -> socket.socket:
    """
    An additional session that has unsubscribed.
    """
    address = f"127.0.0.{2 + number // _OF_ONE_ADDRESS}"
    session = opened.enter_context(closing(connect(port, address)))
    subscribe(session, 1, token, False)
    return session


def measure(
    place: Bench, options: argparse.Namespace, ledger: Path, prepare: Prepare | None
) -> dict[str, float]:
    """
    Start the server, add the sessions or waiters of a case, and load it.

    @return: Rate and latencies, the requests for each second of processor
        time, the seconds of the start until the port is open and until the
        first answer, and the bytes that the sessions or waiters added.
    """
    token = place.token().encode("ascii")
    load = ["--connections", str(options.shape.connections)]
    load += ["--outstanding", str(options.shape.outstanding)]
    warmUp = ["--warm-up", "0.1", "--seconds", str(options.warm_up)]
    with ExitStack() as opened, _serving(place, ledger) as (port, pid, start):
        # One-time allocations are made before memory is measured.
        place.load(port, *load, *warmUp)
        before = residentBytes(pid)
        if prepare is not None:
            prepare(opened, port, token)
        added, used = residentBytes(pid) - before, CPUTime.of(pid)
        measured = place.load(
            port, *load, "--warm-up", "0.1", "--seconds", str(options.seconds)
        )
        measured["cpu"] = measured["answered"] / CPUTime.of(pid).since(used).all
        measured |= {"added": added, "resident": residentBytes(pid), **start}
        # These waiters are never answered: a stop must not wait for them.
        opened.close()
    return measured


def large(folder: Path, trades: int) -> Path:
    """
    The ledger with this many trades, made once and kept.
    """
    # A ledger with an older schema would be refused.
    schema = hashlib.sha256("".join(SCRIPTS).encode()).hexdigest()[:8]
    path = folder / f"creditsync-trades-{trades}-{schema}.db"
    if not path.exists():
        note(f"making a ledger of {trades:,} trades in {path}")
        start = time.perf_counter()
        fill(path, trades)
        note(f"that took {time.perf_counter() - start:.0f} s")
    return path


def cases(
    place: Bench, options: argparse.Namespace
) -> Iterator[tuple[str, int, Path, Prepare | None]]:
    """
    What the load is measured beside: its kind, its size, the ledger, and how
    it is prepared.
    """
    yield "empty", 0, place.ledger, None
    for count in options.sessions:
        yield "sessions", count, place.ledger, _idle(count)
    for count in options.waiters:
        yield "waiters", count, place.ledger, _waiting(count)
    for count in options.trades:
        yield "trades", count, large(options.folder, count), None


def run(place: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """
    All rounds.
    """
    everything = list(cases(place, options))
    rounds: dict[str, dict[str, list[dict[str, float]]]] = {}
    for number in range(options.rounds):
        first = number % len(everything)
        for kind, count, ledger, prepare in everything[first:] + everything[:first]:
            measured = measure(place, options, ledger, prepare)
            place.clear(place.ledger)
            rounds.setdefault(kind, {}).setdefault(str(count), []).append(measured)
            note(
                f"round {number + 1}/{options.rounds}  {count:,} {kind}"
                f"  {measured['rate']:,.0f}/s  p99 {measured['p99']:.2f} ms"
                f"  port open {measured['open']:.2f} s"
                f"  first answer {measured['answer']:.2f} s"
            )
    empty = rounds["empty"]["0"]
    return {
        "rounds": {kind: rounds[kind] for kind in ("empty", *KINDS)},
        "ofEmpty": _ofEmpty(rounds, empty, "rate"),
        "ofEmptyCPU": _ofEmpty(rounds, empty, "cpu"),
        "bytesEach": {
            kind: {
                count: median(each["added"] for each in r) / int(count)
                for count, r in rounds[kind].items()
            }
            for kind in ("sessions", "waiters")
        },
    }


def _ofEmpty(
    rounds: Mapping[str, Mapping[str, list[dict[str, float]]]],
    empty: list[dict[str, float]],
    name: str,
) -> dict[str, dict[str, float]]:
    return {
        kind: {count: figures.ratio(r, empty, name) for count, r in sizes.items()}
        for kind, sizes in rounds.items()
        if kind != "empty"
    }


def tables(results: Results) -> Iterator[Table]:
    """
    Each case beside the empty server.
    """
    head = ["", "how many", "requests/s", "of empty", "for the same CPU", "p50 ms"]
    head += ["p99", "port open s", "first answer s", "memory MiB", "bytes each"]
    table: list[list[object]] = [list(head)]
    for kind, sizes in results["rounds"].items():
        for count, rounds in sizes.items():
            row: list[object] = [kind, int(count), _median(rounds, "rate")]
            row.append(results["ofEmpty"].get(kind, {}).get(count, 1.0))
            row.append(results["ofEmptyCPU"].get(kind, {}).get(count, 1.0))
            row += [_median(rounds, each) for each in ("p50", "p99", "open", "answer")]
            row.append(_median(rounds, "resident") / 2**20)
            row.append(results["bytesEach"].get(kind, {}).get(count, ""))
            table.append(row)
    yield Table("The same load, beside other things", table)


def _median(rounds: list[dict[str, float]], name: str) -> float:
    return median(each[name] for each in rounds)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.scale")
    addOptions(parser, "scale")
    for kind, (_, sizes) in SIZES.items():
        default = " ".join(f"{each:,}" for each in sizes)
        parser.add_argument(
            f"--{kind}", type=int, nargs="+", help=f"ascending (default: {default})"
        )
    parser.add_argument("--rounds", type=int, help="(default: 5)")
    parser.add_argument("--seconds", type=float, help="of each load (default: 2)")
    parser.add_argument(
        "--shape",
        metavar="NxM",
        type=Shape.fromString,
        default=Shape(16, 16),
        help="of the load (default: 16x16)",
    )
    options = parser.parse_args(arguments)
    quick = options.quick
    for kind, (few, many) in SIZES.items():
        if getattr(options, kind) is None:
            setattr(options, kind, few if quick else many)
    options.rounds = options.rounds or (1 if quick else 5)
    options.seconds = options.seconds or (0.2 if quick else 2.0)
    options.warm_up = 0.1 if quick else 0.5
    return options


def main() -> None:
    """
    Measure as the command line says.
    """
    options = _options(sys.argv[1:])
    wanted = max(*options.sessions, max(options.waiters) // _WAITING) + 1000
    if allowDescriptors(wanted) < wanted:
        raise SystemExit(f"this needs {wanted} descriptors: see ulimit -n")
    with bench(options) as place:
        rounds = f"{options.rounds} of {options.seconds} s each, {options.shape}"
        where = surroundings(place) | {"rounds": rounds}
        results = {"command": "scale", "where": where, **run(place, options)}
    save(results, tables(results), options)


if __name__ == "__main__":
    main()
