"""
C{python -m benchmarks.cluster}: several servers on one PostgreSQL.

A private PostgreSQL, with fsync, stores the ledger in the folder for temporary files
(C{TMPDIR}), so on whatever disk that is. Measured are the function that books, without
a server around it; the same while a snapshot is held open, as by a C{pg_dump}; one
server and two, end to end, beside one on SQLite; and how long an event takes from one
server to a client of another. Everything runs on the same processors.
"""

import argparse
import json
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from typing import Any, Final

import psycopg

from benchmarks.bench import Bench, Shape, addOptions, bench, note, surroundings
from benchmarks.contenders import PEERS
from benchmarks.figures import percentile
from benchmarks.processes import (
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

# Nodes, and operations in a batch.
_BARE: Final = ((1, 1), (1, 10), (1, 100), (2, 100), (4, 100))
_SHAPES: Final = ("16x16", "256x1")
_LOGINS: Final = 500
_EVENTS: Final = 200


def main() -> None:
    """
    Run the command.
    """
    if sys.argv[1:2] == ["--book"]:
        _book(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm-up", type=float, default=1.0)
    parser.add_argument("--events", default="one")
    addOptions(parser, "cluster")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.warm_up = 0.5, 0.2
    allowDescriptors(4096)
    server = ground.start(fsync="on")
    try:
        with bench(options) as place:
            results: dict[str, Any] = {
                "command": "cluster",
                "where": surroundings(place),
            }
            results["book"] = [_bare(server, each, options) for each in _BARE]
            results["held"] = _bare(server, (1, 100), options, isHeld=True)
            results["ends"] = list(_ends(place, server, options))
            results["events"] = _events(place, server, options)
    finally:
        server.kill()
    save(results, _tables(results), options)


def _bare(
    server: ground.Server,
    how: tuple[int, int],
    options: argparse.Namespace,
    isHeld: bool = False,
) -> dict[str, Any]:
    """
    Call the function that books, from a process for each node.
    """
    nodes, batch = how
    note(f"book(), {nodes} nodes, {batch} a batch")
    database = server.database()
    makeTables(database)
    with ExitStack() as stack, ThreadPoolExecutor(nodes) as pool:
        stack.callback(database.drop)
        if isHeld:
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
        booked = [each["rate"] for each in pool.map(lambda c: run(c, None), commands)]
    return {"nodes": nodes, "batch": batch, "rate": sum(booked)}


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
    place: Bench, server: ground.Server, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """
    Load whole servers.
    """
    for name in _SHAPES:
        shape = Shape.fromString(name)
        note(f"{name}, on SQLite")
        measured = measure(place, PEERS["durable"], shape, options)
        yield {"servers": "one on SQLite", "shape": name, **_kept([measured])}
        for nodes in (1, 2):
            note(f"{name}, {nodes} on PostgreSQL")
            all = _loaded(place, server, shape, nodes, options)
            yield {"servers": f"{nodes} on PostgreSQL", "shape": name, **_kept(all)}


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
        clients = []
        for name in ("a", "b"):
            port = freePort()
            command = _serve(place, _address(database), name, port)
            stack.enter_context(running(command, place.serverCPU, port))
            client = socket.create_connection(("127.0.0.1", port), timeout=10)
            clients.append((client, stack.enter_context(client.makefile("rb"))))
        (here, hereLines), (there, thereLines) = clients
        token = place.token()
        there.sendall(_line("HealthCheck", "up", token, {}))
        thereLines.readline()
        for number in range(20 if options.quick else _EVENTS):
            data = {"login": 1001, "amount": 1, "comment": "x"}
            began = time.perf_counter()
            here.sendall(_line("CreditInSync", str(number), token, data))
            hereLines.readline()
            hereLines.readline()
            replies.append(time.perf_counter() - began)
            thereLines.readline()
            events.append(time.perf_counter() - began)
    return {
        name: {f"p{part}": percentile(sorted(of), part) * 1000 for part in (50, 99)}
        for name, of in (("reply", replies), ("event on another", events))
    }


def _line(command: str, extID: str, token: str, data: dict[str, Any]) -> bytes:
    request = {"command": command, "extID": extID, "__token": token, "data": data}
    return json.dumps(request).encode() + b"\r\n"


def _tables(results: dict[str, Any]) -> Iterator[Table]:
    rates = {(each["nodes"], each["batch"]): each["rate"] for each in results["book"]}
    book = [[*of, round(rate)] for of, rate in rates.items()]
    yield Table("book()", [["nodes", "operations a batch", "operations/s"], *book])
    free, held = rates[1, 100], results["held"]["rate"]
    yield Table(
        "With a snapshot held open",
        [["operations/s", "of the rate without"], [round(held), round(held / free, 2)]],
    )
    ends = [
        [each["shape"], each["servers"], round(each["rate"]), each["p50"], each["p99"]]
        for each in results["ends"]
    ]
    yield Table("End to end", [["", "servers", "credits/s", "p50 ms", "p99 ms"], *ends])
    times = [[name, of["p50"], of["p99"]] for name, of in results["events"].items()]
    yield Table("After a request", [["", "p50 ms", "p99 ms"], *times])


if __name__ == "__main__":
    main()
