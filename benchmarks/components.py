"""
C{python -m benchmarks.components}: what each step of one credit costs.

Two tables. The first has the processor time of each step by itself in
nanoseconds, as the minimum of many short runs: a disturbance can only add to
it. Its last rows are the whole way on a server that has been running for a
while: alone, with what metrics and console count, and with an audit trail. The
second table has what one credit costs in each module on its way from the bytes
of the request to those of its reply, in counts that are the same in every run:
Python instructions and calls. With C{--against} and earlier results, a
regression shows in its module.
"""

import argparse
import gc
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace
from twisted.internet.defer import Deferred, execute, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport

from benchmarks import canned, traffic
from benchmarks.bench import Bench, addOptions, bench, surroundings
from benchmarks.counting import Run, Step, counted
from benchmarks.processes import Wrong
from benchmarks.results import Results, Table, save
from creditsync import _wire as wire
from creditsync._auditfile import INTERVAL
from creditsync._conversation.waiter import Waiter
from creditsync._conversation.waiters import Waiters
from creditsync.audit import AuditTrail
from creditsync.auth import TokenAuthenticator
from creditsync.codes import EV_RECORD_ADD, OP_CREDIT_IN, UNITS_PER_ONE
from creditsync.counters import Counters
from creditsync.events import TradeEvents
from creditsync.ledger.memory import MemoryLedger
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.records import Operation, Reservation, TradeEvent
from creditsync.runtime import TradingRuntime
from creditsync.service import CreditSync
from creditsync.validation import Schemas

# Credits in one run: as many as share a commit on a busy server.
BATCH: Final = 64
_QUEUED: Final = 10 * BATCH

# In the order in which a credit passes through them.
STEPS: Final = (
    "decode",
    "validate",
    "authorize",
    "reserve",
    "match",
    "encode",
    "write",
)


# The whole way, alone and with each of its observers.
OBSERVED: Final = {
    "running": "whole",
    "running, with metrics": "watched",
    "running, with an audit trail": "audited",
}
# They are compared, so they take turns: the machine may be slower for a second.
_TURNS: Final = 20


def _operations() -> list[Operation]:
    return [
        Operation(
            command="CreditInSync",
            cmd=OP_CREDIT_IN,
            login=1000 + number,
            amount=200 * UNITS_PER_ONE,
            comment="Promotion credit",
        )
        for number in range(BATCH)
    ]


def _runtime(
    clock: Any, events: TradeEvents, counters: Counters | None = None
) -> TradingRuntime:
    return TradingRuntime(
        clock,
        MemoryLedger(),
        events,
        now=time.time,
        maxQueued=_QUEUED,
        counters=counters,
    )


def _lines(token: str) -> list[bytes]:
    return [
        traffic.request(traffic.FIRST + number, token.encode("ascii"))
        for number in range(BATCH)
    ]


class Steps:
    """
    The steps of a credit, each to be run by itself.
    """

    def __init__(self, place: Bench) -> None:
        self._place = place
        self._token = place.token()
        self._requests = _lines(self._token)

    def decode(self) -> Run:
        """
        Parse a line into its members.
        """
        lines = self._requests
        return lambda: [wire.decode(line) for line in lines]

    def validate(self) -> Run:
        """
        Validate the envelope and the data against their schemas.
        """
        members, check = list(map(wire.decode, self._requests)), Schemas().check

        def run() -> None:
            for each in members:
                check("request", each)
                check("credit_in", each["data"], "data")

        return run

    def authorize(self) -> Run:
        """
        Check a cached token.
        """
        authenticate = TokenAuthenticator(self._place.key).authenticate
        token = self._token
        authenticate(token)
        return lambda: [authenticate(token) for _ in range(BATCH)]

    def reserve(self) -> Run:
        """
        Accept an operation and assign its order.
        """
        runtime = _runtime(Clock(), TradeEvents())
        runtime.startService()
        operations = _operations()
        return lambda: [runtime.submit(each) for each in operations]

    def match(self) -> Run:
        """
        Register a waiter with its timeout, and match the event that ends it.
        """
        waiters, session = Waiters(Clock(), 5.0), _Session()
        reservations = [
            Reservation(EV_RECORD_ADD, replace(canned.TRADE, order=order), operation)
            for order, operation in enumerate(_operations(), canned.TRADE.order)
        ]
        encoded = [b"{}"] * BATCH

        def run() -> None:
            for extID, reservation in enumerate(reservations):
                waiters.add(Waiter(extID, session, "CreditInSync", 0.0, reservation))
            waiters.match(reservations, encoded)

        return run

    def encode(self) -> Run:
        """
        Encode the data once, and the event and the reply around it.
        """

        events = [
            TradeEvent(EV_RECORD_ADD, canned.TRADE, place=place)
            for place in range(1, BATCH + 1)
        ]

        def run() -> None:
            _, encoded = wire.encodeEvents(events, "9f3c1a7e")
            wire.events([EV_RECORD_ADD] * BATCH, encoded)
            for extID, data in enumerate(encoded):
                wire.reply(extID, data)

        return run

    def write(self) -> Run:
        """
        Send the replies of a turn in one write; without the system call.
        """
        connection, _ = self._server(MemoryReactorClock())
        line = canned.HEAD + b"10000000" + canned.TAIL
        flush = connection.factory.flush

        def run() -> None:
            for _ in range(BATCH):
                connection.send(line)
            flush()

        return run

    def whole(self) -> Run:
        """
        The whole way with a ledger in memory, from the bytes that were read to
        those that are to be written.
        """
        return self._whole(MemoryReactorClock())

    def watched(self) -> Run:
        """
        The whole way, with the counters of metrics and console.
        """
        clock = MemoryReactorClock()
        return self._whole(clock, counters=Counters(clock, time.time))

    def audited(self) -> Run:
        """
        The whole way, with an audit trail that is written at its end.
        """
        clock, path = MemoryReactorClock(), self._place.folder / "audit"
        whole = self._whole(clock, audit=AuditTrail(path, clock, time.time, execute))

        def run() -> None:
            whole()
            clock.advance(INTERVAL)

        return run

    def _whole(self, clock: MemoryReactorClock, **observer: Any) -> Run:
        connection, transport = self._server(clock, **observer)
        received = b"".join(self._requests)

        def run() -> None:
            transport.clear()
            connection.dataReceived(received)
            for _ in range(BATCH):
                clock.advance(0)
                if transport.value().count(b'{"extID":') == BATCH:
                    return
            raise Wrong(f"there are not {BATCH} replies: {transport.value()!r}")

        return run

    def _server(
        self, clock: MemoryReactorClock, **observer: Any
    ) -> tuple[Any, StringTransport]:
        """
        A server without a socket, and one connection to it.

        @param observer: Counters or an audit trail, as the server's argument.
        """
        events = TradeEvents()
        server = CreditSync(
            clock,
            runtime=_runtime(clock, events, observer.get("counters")),
            events=events,
            authenticator=TokenAuthenticator(self._place.key),
            listen=[],
            **observer,
        )
        server.startService()
        connection: Any = server.factory.buildProtocol(None)
        transport = StringTransport()
        connection.makeConnection(transport)
        # So that the token is cached and the session receives events.
        unknown = b'{"command":"none","extID":1,"__token":"%b"}\r\n'
        connection.dataReceived(unknown % self._token.encode("ascii"))
        clock.advance(0)
        transport.clear()
        return connection, transport


@contextmanager
def _committing(place: Bench) -> Iterator[Step]:
    """
    Commit rows to disk in batches, in this thread: the processor time only.
    """

    def here(work: Callable[[], None]) -> Deferred[None]:
        work()
        return succeed(None)

    ledger = SQLiteLedger(str(place.ledger), here)
    ledger.open()
    template = canned.TRADE

    def commit() -> Run:
        reservations = [
            Reservation(
                EV_RECORD_ADD,
                replace(template, order=ledger.newOrder()),
                each,
                balance=0,
                credit=template.profit,
            )
            for each in _operations()
        ]
        return lambda: ledger.commit(reservations)

    try:
        yield commit
    finally:
        ledger.close()
        place.clear(place.ledger)


class _Session:
    """
    Stands for a session.
    """

    def waitEnded(self, waiter: Waiter, data: bytes | None) -> None:
        """
        Stands for what a session does with a reply.
        """


def nanoseconds(step: Step, runs: int) -> float:
    """
    The processor time of one credit: the minimum of so many runs.
    """
    best = None
    for _ in range(runs):
        run = step()
        gc.collect(0)
        start = time.thread_time_ns()
        run()
        took = time.thread_time_ns() - start
        best = took if best is None else min(best, took)
    assert best is not None
    return best / BATCH


def observed(steps: Steps, runs: int) -> dict[str, float]:
    """
    The whole way on a server each, again and again: its processor time alone and
    with observers.
    """
    best = dict.fromkeys(OBSERVED, math.inf)
    ways = {name: getattr(steps, step)() for name, step in OBSERVED.items()}
    for _ in range(_TURNS):
        for name, run in ways.items():
            took = nanoseconds(lambda run=run: run, max(1, runs // _TURNS))
            best[name] = min(best[name], took)
    return best


def measure(place: Bench, runs: int) -> dict[str, Any]:
    """
    Measure all steps and all modules.
    """
    steps = Steps(place)
    gc.disable()
    took = {name: nanoseconds(getattr(steps, name), runs) for name in STEPS}
    with _committing(place) as commit:
        took["commit, per row"] = nanoseconds(commit, max(1, runs // 4))
    took["whole, in memory"] = nanoseconds(steps.whole, runs)
    took |= observed(steps, runs)
    modules = counted(steps.whole, BATCH)
    gc.enable()
    return {"batch": BATCH, "nanoseconds": took, **modules}


def tables(results: Results) -> Iterator[Table]:
    """
    The steps and the modules, beside earlier results if there are any.
    """
    before = results.get("against") or {}
    steps: list[list[object]] = [["step", "ns a credit", "change"]]
    for name, value in results["nanoseconds"].items():
        steps.append([name, value, _change(value, before, "nanoseconds", name)])
    modules: list[list[object]] = [
        ["module", "instructions", "change", "calls", "change"]
    ]
    for module, value in results["instructions"].items():
        calls = results["calls"].get(module, 0.0)
        changed = _change(value, before, "instructions", module)
        modules.append(
            [module, value, changed, calls, _change(calls, before, "calls", module)]
        )
    totals: list[object] = ["all"]
    for kind in ("instructions", "calls"):
        total = sum(results[kind].values())
        earlier = sum(before.get(kind, {}).values())
        totals += [total, f"{total / earlier - 1:+.1%}" if earlier else ""]
    yield Table("Each step by itself", steps)
    yield Table("One credit from request to reply, by module", [*modules, totals])


def _change(value: float, before: dict[str, Any], kind: str, name: str) -> str:
    if not before:
        return ""
    earlier = before[kind].get(name)
    return f"{value / earlier - 1:+.1%}" if earlier else "new"


def main() -> None:
    """
    Measure as the command line says.
    """
    parser = argparse.ArgumentParser("python -m benchmarks.components")
    addOptions(parser, "components")
    parser.add_argument("--runs", type=int, help="of each step (default: 400)")
    parser.add_argument(
        "--against",
        metavar="JSON",
        type=Path,
        help="earlier results, to tell what has changed",
    )
    options = parser.parse_args()
    options.runs = options.runs or (5 if options.quick else 400)
    with bench(options) as place:
        where = surroundings(place) | {"rounds": f"{options.runs} runs of {BATCH}"}
        measured = measure(place, options.runs)
        results = {"command": "components", "where": where, **measured}
    if options.against:
        before = json.loads(options.against.read_text())
        results["against"] = {name: before[name] for name in measured}
    save(results, tables(results), options)


if __name__ == "__main__":
    main()
