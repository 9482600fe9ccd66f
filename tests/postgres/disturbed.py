"""
Several nodes in one process, on a real PostgreSQL, whose connections are terminated all
the time. The same requests go to two nodes under the same key. ::

    python -m tests.postgres.disturbed --seconds 60 --nodes 3 --kill 5

With C{--kill} the server is killed too, after so many seconds each time.

In the end each key must be booked once, every answer must be what the journal has, and
every node must have published the whole journal, in its order.
"""

import random
import sys
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import LoopingCall, deferLater
from twisted.python.failure import Failure

from creditsync.errors import Refusal
from creditsync.events import TradeEvents
from creditsync.ledger._journal import MEMBERS, NO_HASH, chained
from creditsync.ledger._schema import columns
from creditsync.postgres._connection import connect
from creditsync.postgres._runtime import PostgresRuntime
from creditsync.records import Operation, Reservation, Trade, TradeEvent
from tests.figures import Figures
from tests.postgres import ground

LOGINS = range(1001, 1013)
# Operations that each node has under way at a time.
WINDOW = 40
# Seconds between two disturbances.
PAUSE = 0.05


@define(eq=False)
class Node:
    """
    A node, and what it has said.
    """

    name: str
    runtime: PostgresRuntime
    published: list[TradeEvent] = field(factory=list)


@define(eq=False)
class Run:
    """
    One run.

    @ivar answers: What was said to each request: its key, and the order or the error.
    """

    reactor: Any
    database: ground.Database
    chance: random.Random
    nodes: list[Node] = field(factory=list)
    answers: list[tuple[str, Trade | str]] = field(factory=list)
    terminated: int = 0
    killed: int = 0
    _key: int = 0
    _isOver: bool = False
    _waiting: list[Deferred[None]] = field(factory=list)

    async def start(self, count: int) -> None:
        """
        Start the nodes.
        """
        for number in range(count):
            name, events = f"n{number}", TradeEvents()
            runtime = PostgresRuntime(
                self.reactor,
                lambda use, name=name: connect(  # type: ignore[misc]
                    self.reactor, self.database.dsn(), f"{name} {use}"
                ),
                events,
                node=name,
                now=time.time,
                maxQueued=10_000,
                lanes=1 + number % 2,
            )
            node = Node(name, runtime)
            events.addObserver(node.published.extend)
            await runtime.startService()
            self.nodes.append(node)

    async def drive(self, seconds: float, kill: float) -> None:
        """
        Send requests for so long, and wait for all answers.
        """
        disturbing = LoopingCall(self._disturb)
        disturbing.start(PAUSE, now=False).addErrback(self._broken)
        killing = LoopingCall(self._kill)
        if kill:
            killing.start(kill, now=False).addErrback(self._broken)
        for node in self.nodes:
            for _ in range(WINDOW):
                self._ask(node)
        await deferLater(self.reactor, seconds)
        for each in (disturbing, killing):
            if each.running:
                each.stop()
        self._isOver = True
        await DeferredList(self._waiting)
        # One poll, and a little more.
        await deferLater(self.reactor, 2.0)

    def _ask(self, node: Node) -> None:
        """
        Send the next request to this node, and often to another one too.
        """
        if self._isOver:
            return
        self._key += 1
        key, chance = str(self._key), self.chance
        amount = chance.choice((3, 2, 1, -1, -2))
        asked = {
            "command": "CreditIn" if amount > 0 else "CreditOut",
            "cmd": 7 if amount > 0 else 9,
            "login": chance.choice(LOGINS),
            "amount": amount,
            "comment": f"for {key}",
            "principal": 7,
            "role": 1,
            "key": key,
        }
        where = [node]
        if chance.random() < 0.5:
            where.append(chance.choice(self.nodes))
        done = [self._submit(each, Operation(**asked)) for each in where]  # type: ignore[arg-type]
        answered: Deferred[None] = Deferred()
        self._waiting.append(answered)

        def next(_: object) -> None:
            self._waiting.remove(answered)
            answered.callback(None)
            self.reactor.callLater(0, self._ask, node)

        DeferredList(done).addCallback(next)

    def _submit(self, node: Node, operation: Operation) -> Deferred[None]:
        assert operation.key is not None
        key = operation.key

        def booked(reservation: Reservation) -> None:
            self.answers.append((key, reservation.data))

        def refused(why: Failure) -> None:
            why.trap(Refusal)
            self.answers.append((key, why.value.error))  # type: ignore[attr-defined]

        return node.runtime.submit(operation).addCallbacks(booked, refused)

    def _disturb(self) -> None:
        """
        Terminate some connection of some node, or all of one kind.
        """
        use = self.chance.choice(("writer", "feed", "reader", "doorbell", "%"))
        name = self.chance.choice([*(node.name for node in self.nodes), "n_"])
        self.terminated += self.database.terminateBackends(f"{name} {use}")

    def _kill(self) -> None:
        self.database.server.restart()
        self.killed += 1

    def _broken(self, why: Failure) -> None:
        why.printTraceback()

    def problems(self) -> list[str]:
        """
        What is wrong in the end.
        """
        rows = self.database.rows(
            f"SELECT seq, {columns(MEMBERS[1:])} FROM event ORDER BY seq"
        )
        at = {name: number for number, name in enumerate(MEMBERS)}
        found = []
        if [row[0] for row in rows] != [*range(1, len(rows) + 1)]:
            found.append("the journal has a gap")
        hash = NO_HASH
        for lo, hi, expected in self.database.rows(
            "SELECT lo, hi, hash FROM link ORDER BY hi"
        ):
            hash = chained(hash, rows[lo - 1 : hi])
            if hash != expected:
                found.append(f"the hash at place {hi} is wrong")
                break
        keys = Counter(row[at["key"]] for row in rows)
        found += [f"key {key} is booked twice" for key, n in keys.items() if n > 1]
        orders = Counter(row[at["order"]] for row in rows)
        found += [
            f"order {order} is given twice" for order, n in orders.items() if n > 1
        ]
        booked = {row[at["key"]]: row[at["order"]] for row in rows}
        told: dict[str, int] = {}
        for key, answer in self.answers:
            if isinstance(answer, Trade):
                told[key] = answer.order
                if booked.get(key) != answer.order:
                    found.append(f"key {key} was told order {answer.order}")
        found += [f"key {key} was told nobody" for key in booked if key not in told]
        for node in self.nodes:
            places = [event.place for event in node.published]
            if places != [row[0] for row in rows]:
                found.append(f"{node.name} has published {len(places)} events")
            published = [event.order for event in node.published]
            if published != [row[at["order"]] for row in rows]:
                found.append(f"{node.name} has published other events")
            if node.runtime.problem is not None:
                found.append(f"{node.name}: {node.runtime.problem}")
        wrong = self.database.rows(
            "SELECT login FROM account WHERE credit <> (SELECT sum(profit) FROM trade"
            " WHERE trade.login = account.login)"
        )
        found += [f"the total of account {login} is wrong" for (login,) in wrong]
        return found


async def run(
    reactor: Any,
    seconds: float,
    nodes: int,
    seed: int,
    kill: float,
    figures: Figures,
) -> list[str]:
    """
    Run once.

    @return: What is wrong.
    """
    server = ground.start() if kill else ground.shared()
    database = server.database()
    this = Run(reactor, database, random.Random(seed))
    try:
        await this.start(nodes)
        await this.drive(seconds, kill)
        problems = this.problems()
        for node in this.nodes:
            await node.runtime.stopService()
    finally:
        database.drop()
    lanes = [lane for node in this.nodes for lane in node.runtime.lanes]
    figures.update(
        {
            "operations booked": len(this.nodes[0].published),
            "answers": len(this.answers),
            "connections terminated": this.terminated,
            "kills of the server": this.killed,
            "unknown outcomes settled": sum(lane.unknowns for lane in lanes),
        }
    )
    return problems


def main(arguments: Sequence[str]) -> int:
    """
    Run the command.
    """
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kill", type=float, default=0.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    from twisted.internet import reactor

    figures, status = Figures(), 1

    def end(problems: Any) -> None:
        nonlocal status
        figures.show(options.json)
        if isinstance(problems, Failure):
            problems.printTraceback()
        elif problems:
            print(f"VIOLATION: {'; '.join(problems)}")
        else:
            print("sound: each key is booked once, and each node has published all")
            status = 0
        reactor.stop()  # type: ignore[attr-defined]

    running = run(
        reactor, options.seconds, options.nodes, options.seed, options.kill, figures
    )
    reactor.callWhenRunning(  # type: ignore[attr-defined]
        lambda: Deferred.fromCoroutine(running).addBoth(end)
    )
    reactor.run()  # type: ignore[attr-defined]
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
