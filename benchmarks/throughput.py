"""
C{python -m benchmarks.throughput}: how many credits a second, and how fast.

The server and its peers are measured side by side in one run: in each round
each of them is started afresh, loaded by the same generator and stopped, and
who comes first changes from round to round. What is told is the median of the
rounds. See C{README.rst} in this folder for how to read it.
"""

import argparse
import json
import os
import platform
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

import twisted
from attrs import define

import creditsync
from benchmarks import figures, traffic
from creditsync.auth import mint
from creditsync.codes import SESSION_MANAGER

# Seconds that a server has to start, and to stop.
_PATIENCE: Final = 15.0
# Above this part of its time the generator may be what was measured.
_GENERATOR_BUSY: Final = 0.9
_NOT_ON_DISK: Final = ("tmpfs", "ramfs")
_COMMITS: Final = 1000
# Processors that other processes may take while something is measured.
_OTHERS_BUSY: Final = 0.1


class Wrong(Exception):
    """
    What was measured is no measurement: a process failed, or a check did.
    """


@define(frozen=True)
class Shape:
    """
    How the load is spread.
    """

    connections: int
    outstanding: int

    @classmethod
    def fromString(cls, text: str) -> "Shape":
        """
        @param text: Such as C{16x16}.
        """
        connections, _, outstanding = text.partition("x")
        return cls(int(connections), int(outstanding))

    def __str__(self) -> str:
        return f"{self.connections}x{self.outstanding}"


@define
class Bench:
    """
    Where a run takes place.

    @ivar folder: For the key and the ledgers, on the disk to be measured.
    @ivar generatorCPU: Where the generator runs, or L{None} for anywhere.
    @ivar serverCPU: Where the servers run.
    """

    folder: Path
    key: bytes
    generatorCPU: int | None
    serverCPU: int | None

    @property
    def keyFile(self) -> str:
        return str(self.folder / "key")

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.db"

    def token(self) -> str:
        """
        A manager's token.
        """
        return mint(
            self.key, id=7, role=SESSION_MANAGER, expires=86400, now=time.time()
        )


def _ceiling(bench: Bench, port: int, shape: Shape) -> list[str]:
    return ["benchmarks.ceiling", str(port), str(shape.outstanding)]


def _echo(bench: Bench, port: int, shape: Shape) -> list[str]:
    return ["benchmarks.echo", str(port)]


def _memory(bench: Bench, port: int, shape: Shape) -> list[str]:
    return ["benchmarks.memory", _endpoint(port), bench.keyFile]


def _durable(bench: Bench, port: int, shape: Shape) -> list[str]:
    listen = ["--listen", _endpoint(port)]
    ledger = ["--ledger", str(bench.ledger), "--key", bench.keyFile]
    return ["creditsync", *listen, *ledger]


def _endpoint(port: int) -> str:
    return f"tcp:{port}:backlog=1024:interface=127.0.0.1"


# How each peer is started, as a module and its arguments.
PEERS: Final[dict[str, Callable[[Bench, int, Shape], list[str]]]] = {
    "ceiling": _ceiling,
    "echo": _echo,
    "memory": _memory,
    "durable": _durable,
}
# These answer without thinking: the same reply to every request.
CANNED: Final = ("ceiling", "echo")


@contextmanager
def running(command: Sequence[str], cpu: int | None, port: int) -> Iterator[None]:
    """
    Have a server listen on this port.
    """
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=log,
            stderr=log,
            preexec_fn=lambda: _pin(cpu),
        )
        try:
            _awaitPort(server, port)
            yield
            server.send_signal(signal.SIGTERM)
            server.wait(_PATIENCE)
        except Exception as e:
            log.seek(0)
            said = log.read()[-2000:].decode(errors="replace")
            raise Wrong(f"{command[0]}: {e}\n{said}") from e
        finally:
            server.kill()
            server.wait()


def _pin(cpu: int | None) -> None:
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})


def _awaitPort(server: "subprocess.Popen[bytes]", port: int) -> None:
    end = time.monotonic() + _PATIENCE
    while server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if time.monotonic() > end:
            break
        time.sleep(0.02)
    raise Wrong("it does not listen")


def _freePort() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _run(command: Sequence[str], cpu: int | None) -> dict[str, Any]:
    """
    Run a module that prints what it measured.
    """
    done = subprocess.run(
        [sys.executable, "-m", *command],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: _pin(cpu),
    )
    if done.returncode:
        raise Wrong(f"{command[0]} failed: {done.stderr[-2000:]}")
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def measure(
    bench: Bench, peer: str, shape: Shape, options: argparse.Namespace
) -> dict[str, Any]:
    """
    Start a peer, load it, stop it, and check what it says it did.
    """
    port = _freePort()
    load = ["benchmarks.generator", str(port), "--token", bench.token()]
    load += ["--connections", str(shape.connections)]
    load += ["--outstanding", str(shape.outstanding)]
    load += ["--warm-up", str(options.warm_up), "--seconds", str(options.seconds)]
    load += ["--canned"] * (peer in CANNED) + ["--events"] * options.events
    before, start = _usedByOthers(), time.monotonic()
    with running(PEERS[peer](bench, port, shape), bench.serverCPU, port):
        measured = _run(load, bench.generatorCPU)
    elapsed = time.monotonic() - start
    measured["others"] = max(0.0, (_usedByOthers() - before) / elapsed)
    if peer not in CANNED and measured["orders"] != measured["answered"]:
        raise Wrong(f"{peer}: an order was given twice")
    if peer == "durable":
        _checkLedger(bench, measured)
    return measured


def _usedByOthers() -> float:
    """
    Processor time, in seconds, taken so far by processes not started here.
    """
    user, nice, system = Path("/proc/stat").read_text().split(None, 4)[1:4]
    everyone = (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")
    return everyone - sum(os.times()[:4])


def _checkLedger(bench: Bench, measured: dict[str, Any]) -> None:
    """
    See that the ledger has the orders that were answered and no others, and
    put it away.
    """
    with closing(sqlite3.connect(bench.ledger)) as ledger:
        booked = ledger.execute('SELECT count(*), sum("order") FROM trade').fetchone()
    if booked != (measured["answered"], measured["sumOfOrders"]):
        raise Wrong(f"the ledger has {booked}, and the replies {measured}")
    for file in bench.folder.glob(bench.ledger.name + "*"):
        file.unlink()


def measureCommits(bench: Bench) -> dict[str, Any]:
    """
    Let SQLite alone commit rows one by one, on the same disk.
    """
    path = bench.folder / "commits.db"
    measured = _run(["benchmarks.commits", str(path), str(_COMMITS)], bench.serverCPU)
    for file in bench.folder.glob(path.name + "*"):
        file.unlink()
    return measured


def run(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """
    All rounds.

    @return: What was measured, of each shape, peer and round.
    """
    commits: list[dict[str, Any]] = []
    rounds: dict[str, dict[str, list[dict[str, Any]]]] = {
        str(shape): {peer: [] for peer in options.peers} for shape in options.shapes
    }
    for number in range(options.rounds):
        commits.append(measureCommits(bench))
        first = number % len(options.peers)
        for shape in options.shapes:
            for peer in options.peers[first:] + options.peers[:first]:
                measured = measure(bench, peer, shape, options)
                rounds[str(shape)][peer].append(measured)
                print(
                    f"round {number + 1}/{options.rounds}  {shape}  {peer}"
                    f"  {measured['rate']:,.0f}/s",
                    file=sys.stderr,
                )
    return {"commits": commits, "rounds": rounds}


def report(results: dict[str, Any]) -> str:
    """
    The results for people.
    """
    where, parts = results["where"], []
    parts.append("\n".join(f"{name}: {value}" for name, value in where.items()))
    for shape, peers in results["summary"].items():
        parts.append(figures.table(shape, peers))
    commit = median(each["p50"] for each in results["commits"])
    floor = f"SQLite alone, one row with synchronous=FULL: p50 {commit:.3f} ms"
    single = results["summary"].get("1x1", {}).get("durable")
    if single:
        floor += (
            f"; a durable credit at 1x1 takes {single['p50'] / commit:.1f} times that"
        )
    parts.append(floor)
    rows = [
        (shape, name, row)
        for shape, peers in results["summary"].items()
        for name, row in peers.items()
    ]
    parts.extend(
        f"Beware: at {shape} the generator was {row['busy']:.0%} busy with {name}"
        for shape, name, row in rows
        if name != "ceiling" and row["busy"] > _GENERATOR_BUSY
    )
    if any(row["others"] > _OTHERS_BUSY for _, _, row in rows):
        parts.append("Beware: other processes were running; see the last column")
    return "\n\n".join(parts)


def surroundings(bench: Bench, options: argparse.Namespace) -> dict[str, str]:
    """
    On what it was measured, and how often.
    """
    lines = [len(traffic.request(traffic.FIRST, bench.token().encode()))]
    cpus = f"generator on {bench.generatorCPU}, server on {bench.serverCPU}"
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "creditsync": creditsync.__version__,
        "python": platform.python_version(),
        "twisted": twisted.__version__,
        "sqlite": sqlite3.sqlite_version,
        "system": platform.platform(),
        "cpu": f"{_processor()}, {len(os.sched_getaffinity(0))} to run on",
        "pinned": cpus if bench.serverCPU is not None else "no",
        "ledger on": fileSystem(bench.folder),
        "load before": " ".join(f"{each:.2f}" for each in os.getloadavg()),
        "request": f"{lines[0]} bytes",
        "rounds": f"{options.rounds} of {options.seconds} s each, medians",
        "events": "received too" if options.events else "unsubscribed",
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def fileSystem(folder: Path) -> str:
    """
    The kind of file system that a folder is on.
    """
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    above = {str(folder.resolve()), *map(str, folder.resolve().parents)}
    return max((len(m[1]), m[2]) for m in mounts if m[1] in above)[1]


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.throughput")
    parser.add_argument(
        "--quick", action="store_true", help="a smoke run: it says nothing of speed"
    )
    parser.add_argument(
        "--shapes",
        metavar="NxM",
        nargs="+",
        type=Shape.fromString,
        help="connections x outstanding requests on each"
        " (default: 1x1 16x1 16x16 256x1)",
    )
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--rounds", type=int, help="(default: 5)")
    parser.add_argument("--seconds", type=float, help="of each round (default: 2)")
    parser.add_argument(
        "--events", action="store_true", help="leave the event stream on"
    )
    parser.add_argument(
        "--cpus",
        metavar="GENERATOR,SERVER",
        help="the processors to run on, or: any (default: the first two)",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("."),
        help="a folder on the disk to measure (default: this one)",
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=Path("build/throughput.json"),
        help="where every round is written (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    if "echo" not in options.peers:
        parser.error("--peers: the echo is what the others are compared with")
    quick = options.quick
    options.shapes = options.shapes or [
        Shape.fromString(each)
        for each in (["1x1", "16x16"] if quick else ["1x1", "16x1", "16x16", "256x1"])
    ]
    options.rounds = options.rounds or (1 if quick else 5)
    options.seconds = options.seconds or (0.2 if quick else 2.0)
    options.warm_up = 0.1 if quick else 0.5
    return options


def _cpus(wanted: str | None) -> tuple[int | None, int | None]:
    """
    Where the generator and the server run.
    """
    if wanted is None:
        allowed = sorted(os.sched_getaffinity(0))
        return (allowed[0], allowed[1]) if len(allowed) > 1 else (None, None)
    if wanted == "any":
        return None, None
    generator, _, server = wanted.partition(",")
    return int(generator), int(server)


def main() -> None:
    """
    Measure as the command line says.
    """
    options = _options(sys.argv[1:])
    if fileSystem(options.folder) in _NOT_ON_DISK:
        raise SystemExit(
            f"{options.folder} is in memory: name a folder on a disk with --folder"
        )
    generatorCPU, serverCPU = _cpus(options.cpus)
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=options.folder) as folder:
        key = secrets.token_hex(32).encode()
        bench = Bench(Path(folder), key, generatorCPU, serverCPU)
        Path(bench.keyFile).touch(mode=0o600)
        Path(bench.keyFile).write_bytes(key)
        results: dict[str, Any] = {"where": surroundings(bench, options)}
        try:
            results |= run(bench, options)
        except Wrong as e:
            raise SystemExit(str(e)) from e
    results["summary"] = {
        shape: {
            name: figures.summary(each, peers["echo"]) for name, each in peers.items()
        }
        for shape, peers in results["rounds"].items()
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(results, indent=1) + "\n")
    print(report(results))
    print(f"\nEvery round is in {options.json}.")


if __name__ == "__main__":
    main()
