"""
Attack a real server, while an innocent session asks for credits.

The server is a process of its own on one core; the attacker is another one, on
the other core and at the lowest priority, so that what is measured is the
server and not the scheduler. The innocent session sends a C{CreditInSync} at
fixed times, whether or not the last one was answered, and a latency counts from
the time at which it had to be sent. Each must be answered 200, the 99th
percentile stay under the goal, the server's memory stay bounded, its log be
free of tracebacks, and whoever connects afterwards be served.
"""

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any

from attrs import Factory, define, field

from benchmarks.fill import fill
from tests.attack import command
from tests.attack.attackers import ATTACKS, QUICK, TRADES
from tests.figures import Figures
from tests.integration.processes import LISTEN, SERVE, Client, Server, Site

# Seconds between two requests of the innocent session.
_EVERY = 0.02
_QUIET = 0.3
# Seconds after which a request counts as not answered.
_PATIENCE = 6.0


@define
class Innocent:
    """
    A session that asks for a credit at fixed times.

    @ivar latencies: Seconds from the time at which each had to be asked for to
        its reply.
    @ivar refused: The replies that are not 200.
    """

    _client: Client
    latencies: list[float] = Factory(list)
    refused: list[bytes] = Factory(list)
    _asked: dict[bytes, float] = field(init=False, factory=dict)
    _partial: bytes = field(init=False, default=b"")
    _count: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self._client.socket.setblocking(False)

    def ask(self, seconds: float) -> None:
        """
        Send requests for so long, then wait for the last reply.
        """
        due = time.monotonic()
        end = due + seconds
        while due < end:
            self._hear(due - time.monotonic())
            if time.monotonic() >= due:
                self._send(due)
                due += _EVERY
        patience = time.monotonic() + _PATIENCE
        while self._asked and time.monotonic() < patience:
            self._hear(0.1)

    @property
    def unanswered(self) -> int:
        """
        How many requests still have no reply.
        """
        return len(self._asked)

    def _send(self, due: float) -> None:
        self._count += 1
        extID = b"i%d" % self._count
        line = (
            b'{"command":"CreditInSync","extID":"%s","__token":"%s",'
            b'"data":{"login":1001,"amount":1,"comment":"innocent"}}\r\n'
        )
        self._asked[extID] = due
        self._client.socket.sendall(line % (extID, self._client.token.encode()))

    def _hear(self, seconds: float) -> None:
        """
        Receive what comes within this time.
        """
        connection = self._client.socket
        if not select.select([connection], [], [], max(0.0, seconds))[0]:
            return
        now = time.monotonic()
        data = connection.recv(65536)
        if not data:
            raise ConnectionError("the innocent session was closed")
        *lines, self._partial = (self._partial + data).split(b"\r\n")
        for line in lines:
            if line.startswith(b'{"extID":"'):
                self._answered(line, now)

    def _answered(self, line: bytes, now: float) -> None:
        extID = line[10 : line.index(b'"', 10)]
        self.latencies.append(now - self._asked.pop(extID))
        if b'"status":200,' not in line:
            self.refused.append(line)


@define
class Result:
    """
    What came of one attack; memory is in MB.

    @ivar starved: The part of the time in which the server wanted its core
        and others had it, which is nothing that the server can help.
    @ivar done: What the attacker has done.
    @ivar logged: The bytes of the server's log.
    """

    name: str
    latencies: list[float]
    before: float
    peak: float = 0
    after: float = 0
    starved: float = 0
    done: str = "0"
    logged: int = 0
    wrong: list[str] = Factory(list)

    def __str__(self) -> str:
        p50, p99, most = (quantile(self.latencies, of) for of in (0.5, 0.99, 1))
        return (
            f"p50 {p50:.2f}, p99 {p99:.2f}, max {most:.2f} ms;"
            f" {self.before:.0f}, {self.peak:.0f}, {self.after:.0f} MB;"
            f" {self.logged:,} bytes of log; {self.done} done;"
            f" {self.starved:.0%} starved"
        )


def quantile(latencies: Sequence[float], of: float) -> float:
    """
    A quantile of seconds, in milliseconds.
    """
    ordered = sorted(latencies) or [0.0]
    return ordered[min(len(ordered) - 1, int(len(ordered) * of))] * 1000


class Memory(Thread):
    """
    Watches how much memory a process uses.

    @ivar peak: The maximum seen, in MB.
    """

    def __init__(self, pid: int) -> None:
        """
        @param pid: The process.
        """
        super().__init__(daemon=True)
        self._status = Path(f"/proc/{pid}/status")
        self._enough = Event()
        self.peak = 0.0

    def now(self) -> float:
        """
        The current use.
        """
        text = self._status.read_text()
        resident = float(text.partition("VmRSS:")[2].split()[0]) / 1024
        self.peak = max(self.peak, resident)
        return resident

    def run(self) -> None:
        """
        Watch until it is stopped.
        """
        while not self._enough.wait(0.05):
            self.now()

    def end(self) -> None:
        """
        Stop watching.
        """
        self._enough.set()
        self.join()


@contextmanager
def serving(serve: Sequence[str], trades: int = 0) -> Iterator[Server]:
    """
    A server on a core of its own.

    @param trades: How many trades its ledger has.
    """
    with TemporaryDirectory() as folder:
        site = Site(Path(folder))
        if trades:
            fill(site.ledger, trades)
        try:
            # A process that it starts inherits its core, as its threads do.
            with _onCore(0):
                server = site.start(*serve, *LISTEN)
            yield server
        finally:
            site.killAll()


@contextmanager
def _onCore(core: int) -> Iterator[None]:
    """
    Stay on one core, if there are several and the system allows the choice.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {_CORES[core % len(_CORES)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


_CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


def attack(name: str | None, serve: Sequence[str], seconds: float) -> Result:
    """
    Attack a server.

    @param name: One of L{ATTACKS}, or L{None} for no attack.
    @return: The result.
    """
    with serving(serve, TRADES.get(name or "", 0)) as server, _onCore(1):
        innocent = Innocent(server.connect())
        innocent.ask(_QUIET)
        innocent.latencies.clear()
        memory = Memory(server.process.pid)
        result = Result(name or "quiet", innocent.latencies, memory.now())
        attacker = _start(name, server.port, seconds)
        memory.start()
        starved, began = _starved(server.process.pid), time.monotonic()
        try:
            innocent.ask(seconds)
        except OSError as e:
            result.wrong.append(f"{name}: {e}")
        starved = _starved(server.process.pid) - starved
        result.starved = starved / (time.monotonic() - began)
        memory.end()
        if attacker is not None:
            result.done = attacker.communicate(timeout=60)[0].strip() or "nothing"
        result.wrong += afterwards(result.name, server, innocent)
        result.peak, result.after = memory.peak, memory.now()
        log = server.output.read_text() + server.errors.read_text()
        result.logged = len(log)
        if "Traceback" in log or "Unhandled" in log:
            result.wrong.append(f"{name}: the log has a traceback")
        return result


def _start(
    name: str | None, port: int, seconds: float
) -> "subprocess.Popen[str] | None":
    """
    Start an attacker, and wait until it begins.
    """
    if name is None:
        return None
    started = subprocess.Popen(
        [sys.executable, "-m", "tests.attack.attackers", name, str(port), str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    return started


def _starved(pid: int) -> float:
    """
    Seconds for which a process was ready to run and had no core.
    """
    schedule = Path(f"/proc/{pid}/schedstat")
    return int(schedule.read_text().split()[1]) / 1e9 if schedule.exists() else 0.0


def afterwards(name: str, server: Server, innocent: Innocent) -> Iterator[str]:
    """
    The faults found once the attack is over.
    """
    if innocent.refused:
        yield f"{name}: an innocent request got {innocent.refused[0]!r}"
    if innocent.unanswered:
        yield f"{name}: {innocent.unanswered} innocent requests got no answer"
    try:
        client = server.connect()
        client.send("afterwards")
        reply = next(client.replies())
        client.close()
    except (OSError, StopIteration) as e:
        yield f"{name}: nobody is served afterwards: {e!r}"
        return
    if reply["status"] != 200:
        yield f"{name}: afterwards the answer is {reply}"


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the attacks, and print their results.
    """
    made = command.parser(__doc__)
    made.add_argument(
        "--seconds", type=float, default=1, help="of each attack [%(default)s]"
    )
    made.add_argument(
        "--attack",
        action="append",
        choices=[*ATTACKS, "all"],
        metavar="NAME",
        help=f"all, or one of: {', '.join(ATTACKS)}; may be given several times"
        " [a few quick ones]",
    )
    made.add_argument(
        "--goal", type=float, default=20, help="ms, of the p99 [%(default)s]"
    )
    made.add_argument(
        "--memory", type=float, default=256, help="MB more at most [%(default)s]"
    )
    options = made.parse_args(arguments)
    serve = SERVE
    if options.plant:
        serve = [sys.executable, "-m", "tests.planted.server", options.plant]
    figures, violations = Figures(), list[str]()
    figures["quiet"] = str(attack(None, serve, options.seconds))
    chosen = options.attack or QUICK
    for name in ATTACKS if "all" in chosen else chosen:
        result = attack(name, serve, options.seconds)
        figures[name] = str(result)
        print(f"{name}: {result}", file=sys.stderr)
        violations += [*result.wrong, *misses(result, options)]
    sound = f"p99 under {options.goal:g} ms in each of {len(figures) - 1} attacks"
    return command.end(options, figures, violations, sound)


def misses(result: Result, options: Any) -> Iterator[str]:
    """
    The goals that the server missed during an attack.
    """
    if not result.latencies:
        yield f"{result.name}: nobody was answered"
        return
    p99 = quantile(result.latencies, 0.99)
    if p99 >= options.goal:
        yield f"{result.name}: the p99 is {p99:.2f} ms"
    if result.peak - result.before > options.memory:
        yield f"{result.name}: the server took {result.peak:.0f} MB"


if __name__ == "__main__":
    sys.exit(main())
