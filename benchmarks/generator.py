"""
The load: connections that request credits, in a process of their own.

In a closed loop each connection keeps the same number of requests outstanding:
for every reply that is read, the next request is sent. In an open loop
requests are sent at a fixed rate, whatever the server does, and a latency
counts from the moment at which its request was due: a server that stalls
delays everything that was due meanwhile, and not just the one request that it
was handling (coordinated omission).

The loop itself is in L{benchmarks.load}. Where C{load.rs} has been compiled,
L{main} turns into it once it has made the requests and opened the connections:
it does the same at a fraction of the cost.
"""

import argparse
import gc
import json
import os
import socket
import time
from typing import Any, Final

from attrs import define

from benchmarks import traffic
from benchmarks.figures import percentile
from benchmarks.load import PATIENCE, Connection, Load, Ring, Unexpected

# How many requests may be outstanding on each connection of an open loop: with
# fewer, a stall of a tenth of a second ends a run at half of the echo's peak.
OPEN_RING = 4096
# From linux/in.h; not every Python 3.11 has it.
_IP_BIND_ADDRESS_NO_PORT: Final = 24


def connect(
    port: int, source: str = "127.0.0.1", buffer: int | None = None
) -> socket.socket:
    """
    Connect.

    @param source: The address to connect from: one has ports for some 28,000
        connections.
    @param buffer: The approximate size of the kernel's receive buffer, in
        bytes.
    """
    connection = socket.socket()
    connection.settimeout(PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    # Let the kernel choose the port when it connects. To choose it in bind()
    # would be to find one that no connection to any server has used for a
    # minute.
    connection.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
    connection.bind((source, 0))
    connection.connect(("127.0.0.1", port))
    return connection


def subscribe(
    connection: socket.socket, first: int, token: bytes, wanted: bool
) -> None:
    """
    Subscribe to events, or unsubscribe.
    """
    connection.sendall(traffic.subscription(first, token, wanted))
    answer = b""
    while not answer.endswith(b"\n"):
        answer += connection.recv(4096) or b"no answer\n"
    if not answer.startswith(b'{"extID":%d,"status":200,' % first):
        raise Unexpected(answer.decode(errors="replace"))


@define
class Plan:
    """
    The requests of each connection.

    @ivar length: How many requests each connection has, which it repeats.
    @ivar subscribed: How many of the connections receive events.
    """

    sockets: list[socket.socket]
    length: int
    subscribed: int
    lines: list[bytes]
    outcomes: list[bytes]

    @classmethod
    def make(cls, options: argparse.Namespace) -> "Plan":
        """
        Open the connections and make the requests.
        """
        token = options.token.encode("ascii")
        length = traffic.ringLength(options.outstanding)
        if options.rate:
            length = OPEN_RING
        subscribed = {"none": 0, "one": 1, "all": options.connections}[options.events]
        sockets = []
        for number in range(options.connections):
            opened = connect(options.port)
            if not options.http:
                first = traffic.FIRST + number * length
                subscribe(opened, first, token, number < subscribed)
            sockets.append(opened)
        serials = range(traffic.FIRST, traffic.FIRST + length * len(sockets))
        lines = [traffic.request(serial, token) for serial in serials]
        if options.http:
            lines = list(map(traffic.post, lines))
        outcomes = [traffic.outcome(serial) for serial in serials]
        if options.canned:
            outcomes = outcomes[:1] * len(serials)
        return cls(sockets, length, subscribed, lines, outcomes)

    def connections(self, http: bool) -> dict[int, Connection]:
        """
        The connections, each with its share of the requests.
        """
        made = {}
        for number, opened in enumerate(self.sockets):
            opened.setblocking(False)
            start, end = number * self.length, (number + 1) * self.length
            ring = Ring.make(
                range(traffic.FIRST + start, traffic.FIRST + end),
                self.lines[start:end],
                self.outcomes[start:end],
            )
            announced = None if http or number >= self.subscribed else set[bytes]()
            made[opened.fileno()] = Connection(opened, ring, announced)
        return made


def measure(plan: Plan, options: argparse.Namespace) -> dict[str, Any]:
    """
    Load the server, and return what was measured.
    """
    load = Load(plan.connections(options.http))
    # Nothing here is cyclic, and a garbage collection would count as latency.
    gc.disable()
    if options.rate:
        load.pace(options.warm_up, options.rate)
    else:
        load.start(options.outstanding)
        load.exchange(options.warm_up)
    before, busy = len(load.latencies), time.process_time()
    del load.late[:]
    if options.rate:
        elapsed = load.pace(options.seconds, options.rate)
    else:
        elapsed = load.exchange(options.seconds)
    busy = (time.process_time() - busy) / elapsed
    answered = len(load.latencies)
    load.drain(0 if options.http else plan.subscribed)
    if not options.rate:
        # In an open loop the late ones matter most.
        del load.latencies[answered:]
    latencies = sorted(load.latencies[before:])
    if not latencies:
        raise Unexpected("nothing was answered in time")
    orders, events = list(map(int, load.orders)), list(map(int, load.events))
    return {
        "rate": (answered - before) / elapsed,
        "p50": percentile(latencies, 50) * 1000,
        "p90": percentile(latencies, 90) * 1000,
        "p99": percentile(latencies, 99) * 1000,
        "p999": percentile(latencies, 99.9) * 1000,
        "max": latencies[-1] * 1000,
        "late": percentile(sorted(load.late) or [0.0], 99) * 1000,
        "busy": busy,
        "answered": len(orders),
        "orders": len(set(orders)),
        "sumOfOrders": sum(orders),
        "events": len(events),
        "sumOfEvents": sum(events),
        "generator": "python",
    }


def become(native: str, plan: Plan, options: argparse.Namespace) -> None:
    """
    Replace this process with the compiled program, which does the rest.
    """
    rings = os.memfd_create("rings", 0)
    with open(os.dup(rings), "wb") as file:
        file.write(b"".join(plan.lines))
        file.write(b"".join(plan.outcomes))
    for opened in plan.sockets:
        opened.set_inheritable(True)
    os.set_inheritable(rings, True)
    numbers = [
        rings,
        traffic.FIRST,
        plan.length,
        len(plan.lines[0]),
        len(plan.outcomes[0]),
        options.outstanding,
        options.warm_up,
        options.seconds,
        options.rate,
        plan.subscribed,
    ]
    protocol = "http" if options.http else "lines"
    descriptors = ",".join(str(opened.fileno()) for opened in plan.sockets)
    os.execv(native, [native, *map(str, numbers), protocol, descriptors])


def main() -> None:
    """
    Load the server on the command line, and print the measurements as JSON.
    """
    parser = argparse.ArgumentParser("python -m benchmarks.generator")
    parser.add_argument("port", type=int)
    parser.add_argument("--token", required=True)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--outstanding", type=int, default=16)
    parser.add_argument(
        "--rate",
        type=float,
        default=0.0,
        help="an open loop, at this many requests a second",
    )
    parser.add_argument("--warm-up", type=float, default=0.5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument(
        "--events",
        choices=("none", "one", "all"),
        default="one",
        help="how many of the connections receive the event stream",
    )
    parser.add_argument(
        "--canned", action="store_true", help="the server sends one canned reply"
    )
    parser.add_argument("--http", action="store_true", help="POST each request")
    parser.add_argument("--native", help="the compiled load.rs")
    options = parser.parse_args()
    plan = Plan.make(options)
    if options.native:
        become(options.native, plan, options)
    print(json.dumps(measure(plan, options)))


if __name__ == "__main__":
    main()
