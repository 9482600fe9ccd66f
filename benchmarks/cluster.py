"""
C{python -m benchmarks.cluster}: several servers on one PostgreSQL.

A private PostgreSQL, with fsync, stores the ledger in the folder for temporary files
(C{TMPDIR}), so on whatever disk that is. Measured are, in turn and in several rounds,
the function that books, without a server around it; the same while a snapshot is held
open, as by a C{pg_dump}; one server and two, end to end, beside one on SQLite. Then,
how long an event takes from one server to a client of another, and how long a credit
takes while PostgreSQL fails over. Everything runs on the same processors, and is not
pinned.
"""

import argparse
import json
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from statistics import median
from typing import IO, Any, Final

import psycopg
from attrs import define

from benchmarks.bench import Bench, Shape, addOptions, bench, note, surroundings
from benchmarks.contenders import PEERS
from benchmarks.figures import percentile
from benchmarks.processes import (
    Wrong,
    allowDescriptors,
    endpoint,
    freePort,
    module,
    run,
    running,
)
from benchmarks.results import Table, save
from benchmarks.throughput import measure
from creditsync.records import Operation
from tests.postgres import ground
from tests.postgres.engine import Node, makeTables

# Nodes, and operations in a batch. A snapshot is held open beside the one named.
_BARE: Final = {
    "1 node, 1 a batch": (1, 1),
    "1 node, 10 a batch": (1, 10),
    "1 node, 100 a batch": (1, 100),
    "1 node, 100 a batch, beside a snapshot": (1, 100),
    "2 nodes, 100 a batch": (2, 100),
    "4 nodes, 100 a batch": (4, 100),
}
_HELD: Final = "1 node, 100 a batch, beside a snapshot"
_SHAPES: Final = ("16x16", "256x1")
_LOGINS: Final = 500
_EVENTS: Final = 200
_FAILOVERS: Final = 5


def main() -> None:
    """
    Run the command.
    """
    if sys.argv[1:2] == ["--book"]:
        _book(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--warm-up", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", default="one")
    addOptions(parser, "cluster")
    # With two processors, two servers and PostgreSQL share what they get.
    parser.set_defaults(cpus="any")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.warm_up, options.rounds = 0.5, 0.2, 1
    allowDescriptors(4096)
    server = ground.start(fsync="on")
    try:
        with bench(options) as place:
            results: dict[str, Any] = {
                "command": "cluster",
                "where": {
                    **surroundings(place),
                    "rounds": f"{options.rounds} of {options.seconds} s each, medians",
                },
                "rounds": [
                    _round(place, server, options) for _ in range(options.rounds)
                ],
                "events": _events(place, server, options),
                "failovers": [
                    _failover(place) for _ in range(1 if options.quick else _FAILOVERS)
                ],
            }
    finally:
        server.kill()
    save(results, _tables(results), options)


def _round(
    place: Bench, server: ground.Server, options: argparse.Namespace
) -> dict[str, Any]:
    return {
        "book": {name: _bare(server, name, options) for name in _BARE},
        "ends": {name: _ends(place, server, name, options) for name in _SHAPES},
    }


def _bare(server: ground.Server, name: str, options: argparse.Namespace) -> float:
    """
    Call the function that books, from a process for each node.

    @return: Operations a second.
    """
    nodes, batch = _BARE[name]
    note(f"book(), {name}")
    database = server.database()
    makeTables(database)
    with ExitStack() as stack, ThreadPoolExecutor(nodes) as pool:
        stack.callback(database.drop)
        if name == _HELD:
            held = stack.enter_context(psycopg.connect(database.dsn()))
            held.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            held.execute("SELECT count(*) FROM event")
        numbers = range(1, nodes + 1)
        commands = [
            module(
                *("benchmarks.cluster", "--book", str(server.port), database.name),
                *(str(number), str(batch), str(options.seconds)),
            )
            for number in numbers
        ]
        return sum(each["rate"] for each in pool.map(lambda c: run(c, None), commands))


def _book(port: str, name: str, number: str, batch: str, seconds: str) -> None:
    """
    Book for so many seconds, and print how much that was.
    """
    server = ground.Server(settings={}, port=int(port))
    node = Node(ground.Database(server, name), int(number))
    login, booked = count(), 0
    end = (began := time.perf_counter()) + float(seconds)
    while time.perf_counter() < end:
        node.book(
            *(
                Operation("CreditIn", 7, 1000 + next(login) % _LOGINS, 1, "x", role=1)
                for _ in range(int(batch))
            )
        )
        booked += int(batch)
    print(json.dumps({"rate": booked / (time.perf_counter() - began)}))


def _serve(place: Bench, address: str, node: str, port: int) -> list[str]:
    return module(
        *("creditsync", "serve", "--listen", endpoint(port), "--key", place.keyFile),
        *("--ledger", address, "--node", node),
    )


def _address(database: ground.Database) -> str:
    port = database.server.port
    return f"postgresql://{ground.SUPERUSER}@127.0.0.1:{port}/{database.name}"


def _ends(
    place: Bench, server: ground.Server, name: str, options: argparse.Namespace
) -> dict[str, Any]:
    """
    Load whole servers.
    """
    shape = Shape.fromString(name)
    note(f"{name}, on SQLite")
    ends = {"1 on SQLite": _kept([measure(place, PEERS["durable"], shape, options)])}
    for nodes in (1, 2):
        note(f"{name}, {nodes} on PostgreSQL")
        all = _loaded(place, server, shape, nodes, options)
        ends[f"{nodes} on PostgreSQL"] = _kept(all)
    return ends


_OF: Final = ("rate", "p50", "p99")


def _kept(measured: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "rate": sum(each["rate"] for each in measured),
        "p50": max(each["p50"] for each in measured),
        "p99": max(each["p99"] for each in measured),
    }


def _loaded(
    place: Bench,
    server: ground.Server,
    shape: Shape,
    nodes: int,
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """
    Load some servers at a time, each with its part of the connections.
    """
    database = server.database()
    with ExitStack() as stack, ThreadPoolExecutor(nodes) as pool:
        stack.callback(database.drop)
        ports = [freePort() for _ in range(nodes)]
        for number, port in enumerate(ports):
            command = _serve(place, _address(database), f"n{number}", port)
            stack.enter_context(running(command, place.serverCPU, port))
        arguments = [
            *("--connections", str(shape.connections // nodes)),
            *("--outstanding", str(shape.outstanding), "--rate", "0"),
            *("--warm-up", str(options.warm_up), "--seconds", str(options.seconds)),
            *("--events", "none"),
        ]
        return list(pool.map(lambda port: place.load(port, *arguments), ports))


def _events(
    place: Bench, server: ground.Server, options: argparse.Namespace
) -> dict[str, Any]:
    """
    Send one credit after the other to one server, and wait for its reply there and for
    its event on another.
    """
    note("events from one server to another")
    database = server.database()
    replies, events = [], []
    with ExitStack() as stack:
        stack.callback(database.drop)
        here, there = (
            stack.enter_context(_client(place, _address(database), name))
            for name in ("a", "b")
        )
        there.ask("HealthCheck", {})
        for _ in range(20 if options.quick else _EVENTS):
            began = time.perf_counter()
            here.credit()
            replies.append(time.perf_counter() - began)
            there.lines.readline()
            events.append(time.perf_counter() - began)
    return {
        name: {f"p{part}": percentile(sorted(of), part) * 1000 for part in (50, 99)}
        for name, of in (("reply", replies), ("event on another", events))
    }


def _failover(place: Bench) -> float:
    """
    Send one credit after the other, while the primary is killed and its synchronous
    standby is promoted.

    @return: The seconds of the one that took longest.
    """
    note("a failover")
    # By default a standby looks for its primary again only after 5 s, and a promotion
    # waits for that.
    primary = ground.start(fsync="on", wal_retrieve_retry_interval="100ms")
    longest = 0.0
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        stack.callback(primary.kill)
        database = primary.database()
        standby = primary.standby()
        stack.callback(standby.kill)
        primary.replicateSynchronously()
        address = (
            f"postgresql://{ground.SUPERUSER}@127.0.0.1:{primary.port},127.0.0.1"
            f":{standby.port}/{database.name}?target_session_attrs=read-write"
        )
        client = stack.enter_context(_client(place, address, "a"))
        client.credit()

        def failOver() -> None:
            primary.kill()
            standby.configure(synchronous_standby_names="")
            standby.promote()

        over = pool.submit(failOver)
        while not over.done():
            began = time.perf_counter()
            client.credit()
            longest = max(longest, time.perf_counter() - began)
        over.result()
    return longest


@define
class _Client:
    """
    A client of one server.
    """

    connection: socket.socket
    lines: IO[bytes]
    token: str

    def ask(self, command: str, data: dict[str, Any]) -> None:
        """
        Send a request, and wait for its reply.

        @raise Wrong: It is not 200.
        """
        request = {"command": command, "extID": "x", "__token": self.token}
        line = json.dumps({**request, "data": data}).encode()
        self.connection.sendall(line + b"\r\n")
        while True:
            message = json.loads(self.lines.readline())
            if "extID" in message:
                break
        if message["status"] != 200:
            raise Wrong(f"{command} was answered with {message}")

    def credit(self) -> None:
        """
        Have a credit booked.
        """
        self.ask("CreditInSync", {"login": 1001, "amount": 1, "comment": "x"})


@contextmanager
def _client(place: Bench, address: str, node: str) -> Iterator[_Client]:
    """
    Run a server, and connect to it.
    """
    port = freePort()
    command = [*_serve(place, address, node, port), "--timeout", "30"]
    with running(command, place.serverCPU, port):
        connection = socket.create_connection(("127.0.0.1", port), timeout=40)
        with connection, connection.makefile("rb") as lines:
            yield _Client(connection, lines, place.token())


def _tables(results: dict[str, Any]) -> Iterator[Table]:
    rounds = results["rounds"]
    book = [
        [name, round(median(each["book"][name] for each in rounds))] for name in _BARE
    ]
    yield Table("book()", [["", "operations/s"], *book])
    ends = [
        [shape, servers, *(round(_middle(rounds, shape, servers, of), 1) for of in _OF)]
        for shape in _SHAPES
        for servers in rounds[0]["ends"][shape]
    ]
    yield Table("End to end", [["", "servers", "credits/s", "p50 ms", "p99 ms"], *ends])
    times = [[name, of["p50"], of["p99"]] for name, of in results["events"].items()]
    yield Table("After a request", [["", "p50 ms", "p99 ms"], *times])
    failovers = sorted(results["failovers"])
    yield Table(
        "A credit during a failover",
        [["median s", "longest s"], [median(failovers), failovers[-1]]],
    )


def _middle(rounds: list[Any], shape: str, servers: str, figure: str) -> float:
    return median(float(each["ends"][shape][servers][figure]) for each in rounds)


if __name__ == "__main__":
    main()
