"""
Finance requests on real servers that are killed, approved by two at once::

    python -m tests.crash.approvals [--requests N] [--kills N] [--plant BUG]

One client makes requests, and two others approve all of them at the same time, each in
an order of its own and with a key for each. The server is killed with SIGKILL while
they do, and started again on the same ledger; what had no reply is sent again. In the
end each request was approved by one of the two, who was told so, and the other one was
told that it comes too late.
"""

import json
import signal
import socket
import sqlite3
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from threading import Timer
from typing import Any, Final

from creditsync.auth import mint
from tests.crash.record import Violation
from tests.integration.processes import LISTEN, SECRET, SERVE, Server, Site

MAKER: Final = 7
APPROVERS: Final = (8, 9)
# Requests that are under way together, and how long one may take to be answered.
BATCH: Final = 100
PATIENCE: Final = 30.0
# Seconds after which the server is killed, at most.
SOON: Final = 0.1


class Party:
    """
    A principal, with what it has asked for and was told.
    """

    def __init__(self, id: int) -> None:
        self.id = id
        self.token = mint(SECRET, id=id, role=1, expires=86_400, now=time.time())
        self.open: dict[str, dict[str, Any]] = {}
        self.told: dict[str, dict[str, Any]] = {}

    def asks(self, key: str, command: str, **data: Any) -> None:
        """
        Have something to ask for.
        """
        self.open[key] = {
            "command": command,
            "extID": key,
            "__token": self.token,
            "idempotencyKey": key,
            "data": data,
        }

    def connect(self, port: int) -> None:
        """
        Connect, and send all that has no reply.
        """
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        lines = "".join(f"{json.dumps(each)}\r\n" for each in self.open.values())
        self.socket.sendall(lines.encode())

    def listens(self) -> None:
        """
        Take the replies that come until all are there, or the connection ends.
        """
        with closing(self.socket), self.socket.makefile("rb") as lines:
            try:
                while self.open:
                    line = lines.readline()
                    if not line.endswith(b"\r\n"):
                        return
                    self._heard(json.loads(line))
            except ConnectionError:
                return

    def _heard(self, line: dict[str, Any]) -> None:
        key = line.get("extID")
        if key is None:
            return
        if key not in self.open:
            raise Violation(f"a second reply: {line}")
        if line["status"] == 503:
            return
        del self.open[key]
        self.told[key] = line


class Trial:
    """
    All requests on one ledger.
    """

    def __init__(self, site: Site, command: Sequence[str], seed: int) -> None:
        self.random = Random(seed)
        self.site = site
        self.command = [*command, *LISTEN, "--ledger", str(site.ledger)]
        self.parties = {id: Party(id) for id in (MAKER, *APPROVERS)}
        self.server: Server | None = None
        self.kills = 0
        self.orders: list[int] = []

    def run(self, requests: int, kills: int) -> None:
        """
        Have so many requests approved, with so many kills.
        """
        batches = -(-requests // BATCH)
        deadly = [2 * batches * n // kills for n in range(kills)]
        for number in range(batches):
            for half, step in enumerate((self._make, self._approve)):
                step(number)
                self._answer(deadly.count(2 * number + half))

    def _make(self, number: int) -> None:
        for n in range(number * BATCH, (number + 1) * BATCH):
            self.parties[MAKER].asks(
                f"m{n}",
                "MngCreateFinanceRequest",
                login=1001 + n % 7,
                cmd=6 + n % 2,
                amount=n + 1,
                comment=f"request {n}",
            )

    def _approve(self, number: int) -> None:
        told = self.parties[MAKER].told
        orders = [
            told[f"m{n}"]["data"]["order"]
            for n in range(number * BATCH, (number + 1) * BATCH)
        ]
        self.orders += orders
        for id in APPROVERS:
            self.random.shuffle(orders)
            for order in orders:
                form = self.random.choice(("", "Sync"))
                command = f"MngApproveFinanceRequest{form}"
                self.parties[id].asks(f"a{order}", command, order=order)

    def _answer(self, kills: int) -> None:
        """
        Have everything answered, with so many kills meanwhile.
        """
        deadline = time.monotonic() + PATIENCE + kills * 10
        while any(party.open for party in self.parties.values()):
            if time.monotonic() > deadline:
                raise Violation("not everything was answered")
            if self.server is None:
                self.server = self.site.start(*self.command)
            killer = None
            if kills:
                kills -= 1
                killer = Timer(self.random.random() * SOON, self._kill, [self.server])
                killer.start()
            self._talk(self.server)
            if killer is not None:
                killer.join()
                self.server = None

    def _talk(self, server: Server) -> None:
        asking = [party for party in self.parties.values() if party.open]
        try:
            for party in asking:
                party.connect(server.port)
        except OSError:
            # It was killed before that.
            return
        for party in asking:
            party.listens()

    def _kill(self, server: Server) -> None:
        server.signal(signal.SIGKILL)
        server.end()
        self.kills += 1

    def judge(self) -> None:
        """
        Compare what was told with the ledger.
        """
        if self.server is not None:
            self.server.signal(signal.SIGTERM)
            self.server.end()
        checked = self.site.run(
            sys.executable,
            "-m",
            "creditsync",
            "check",
            "--ledger",
            str(self.site.ledger),
        )
        if checked.returncode:
            raise Violation(f"the ledger is not sound: {checked.stdout}")
        rows: dict[int, list[tuple[int, int]]] = {}
        with closing(sqlite3.connect(self.site.ledger)) as ledger:
            for order, state, principal in ledger.execute(
                'SELECT "order", state, principal FROM journal ORDER BY place'
            ):
                rows.setdefault(order, []).append((state, principal))
            [[total]] = ledger.execute("SELECT sum(balance + credit) FROM account")
        if sorted(rows) != sorted(set(self.orders)):
            raise Violation("a request was made twice, or lost")
        for order, changes in rows.items():
            outcomes = {
                id: self.parties[id].told[f"a{order}"].get("error", "won")
                for id in APPROVERS
            }
            [winner] = [id for id in APPROVERS if outcomes[id] == "won"] or [0]
            wanted = [(17, MAKER), (3, winner)]
            if changes != wanted or set(outcomes.values()) != {
                "won",
                "INCORRECT_ORDER",
            }:
                raise Violation(f"order {order}: told {outcomes}, booked {changes}")
        if total != sum(range(1, len(rows) + 1)) * 100_000_000:
            raise Violation(f"the totals add up to {total}")


def main() -> None:
    """
    Run one trial.
    """
    parser = ArgumentParser(description="Kill servers while requests are approved.")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plant", metavar="BUG")
    options = parser.parse_args()
    command = SERVE
    if options.plant is not None:
        command = [sys.executable, "-m", "tests.planted.server", options.plant]
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder))
        trial = Trial(site, command, options.seed)
        try:
            trial.run(options.requests, options.kills)
            trial.judge()
        except Violation as e:
            print(f"VIOLATION: {e}")
            sys.exit(1)
        finally:
            site.killAll()
    print(f"{len(trial.orders)} requests approved once each, {trial.kills} kills")


if __name__ == "__main__":
    main()
