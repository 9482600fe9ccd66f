"""
Several nodes on one PostgreSQL, without disturbances.

    python -m tests.postgres.together --pairs 10000 --operations 100000

 - Pairs of requests with the same key are sent to two nodes at the same time: each is
   booked once, and both are told the same.
 - Four nodes book on few accounts and change the same orders: no total falls below
   zero, and each request is answered with the event of its own operation.
 - They book on many accounts. Here and there a reader reads what is behind the last
   place that it has seen, over and over: no place is missed, and none comes late.

Every client hears all events of its node, each once and in order, before the replies to
their operations. At the end a judge recomputes the whole ledger, and compares it with
all that was told.
"""

import random
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from attrs import Factory, define

from tests.figures import Figures
from tests.postgres import ground
from tests.postgres.cluster import address, nodes
from tests.postgres.crowd import Client, Crowd, Load
from tests.postgres.judge import Violation, judge
from tests.postgres.suite import parser, run
from tests.postgres.told import Told

# Operations that each client has under way.
_WINDOW = 16


@define(eq=False)
class Reader:
    """
    Reads the journal beside those who write it.
    """

    dsn: str
    place: int = 0
    reads: int = 0
    problem: str | None = None
    _isOver: threading.Event = Factory(threading.Event)

    def check(self) -> None:
        """
        @raise Violation: A place was missing, or came late.
        """
        if self.problem is not None:
            raise Violation(self.problem)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """
        Read in a thread.
        """
        thread = threading.Thread(target=self._read)
        thread.start()
        try:
            yield
        finally:
            self._isOver.set()
            thread.join()

    def _read(self) -> None:
        statement = "SELECT seq FROM event WHERE seq > %s ORDER BY seq"
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            while self.problem is None:
                isOver = self._isOver.is_set()
                for (place,) in connection.execute(statement, (self.place,)):
                    if place != self.place + 1:
                        self.problem = f"after place {self.place} was place {place}"
                    self.place = place
                self.reads += 1
                if isOver:
                    return
                time.sleep(0.001)


async def pairs(options: Namespace, figures: Figures) -> None:
    """
    Send each request to two nodes.
    """
    database = ground.database()
    chance = random.Random(options.seed)
    told = Told()
    with nodes(*[address(database)] * 2, plant=options.plant) as cluster:
        halves = [Load(told, chance, 0) for _ in cluster.nodes]
        clients = [
            Client(half, lambda node=node: [node.port], _WINDOW, follows)
            for half, node in zip(halves, cluster.nodes, strict=True)
            for follows in (True, False)
        ]
        async with Crowd(halves[0], clients, cluster.check) as crowd:
            left = options.pairs
            while left:
                # Few at a time, so that both nodes have them at the same time.
                count = min(left, 2 * _WINDOW)
                left -= count
                for _ in range(count):
                    login, amount = chance.randint(1001, 1010), chance.randint(1, 9)
                    asked = told.ask("CreditInSync", login=login, amount=amount)
                    for half in halves:
                        half.again.append(asked)
                pairs = told.asked[-count:]
                await crowd.until(
                    lambda pairs=pairs: all(len(each.answers) == 2 for each in pairs),
                    "both nodes answer",
                )
            await crowd.finish()
        cluster.check()
        _compare(database, told, figures, "pairs")
    for asked in told.asked:
        if asked.first != 1:
            raise Violation(f"{asked.first} nodes told it as new: {asked}")
    figures["pairs: replays"] = told.counts["replays"]


async def hot(options: Namespace, figures: Figures) -> None:
    """
    Book on few accounts, and change few orders.
    """
    await _book(options, figures, "hot", range(1001, 1004), 8)


async def beside(options: Namespace, figures: Figures) -> None:
    """
    Book on many accounts, so that nothing but its places keeps the nodes from booking
    at the same time.
    """
    await _book(options, figures, "beside", range(1001, 9001), 2000)


async def _book(
    options: Namespace, figures: Figures, part: str, logins: range, shared: int
) -> None:
    """
    Book from four nodes beside a reader.
    """
    database = ground.database()
    told = Told()
    chance = random.Random(options.seed)
    load = Load(told, chance, options.operations, logins, shared)
    reader = Reader(database.dsn())
    with nodes(*[address(database)] * 4, plant=options.plant) as cluster:
        clients = [
            Client(load, lambda node=node: [node.port], _WINDOW, number % 2 == 0)
            for number, node in enumerate(cluster.nodes)
        ]

        def check() -> None:
            cluster.check()
            reader.check()

        with reader.reading():
            started = time.monotonic()
            async with Crowd(load, clients, check) as crowd:
                await crowd.until(lambda: load.left <= 0, "all is sent", 3600)
                seconds = time.monotonic() - started
                await crowd.finish()
        check()
        _compare(database, told, figures, part)
    if reader.place != len(told.events):
        raise Violation(f"{reader.place} places were read of {len(told.events)}")
    figures[f"{part}: reads beside the writers"] = reader.reads
    figures[f"{part}: operations/s"] = round(options.operations / seconds)


def _compare(
    database: ground.Database, told: Told, figures: Figures, part: str
) -> None:
    journal = judge(database.dsn())
    told.compare(journal)
    if told.counts["replies 504"]:
        raise Violation(f"{told.counts['replies 504']} requests were answered 504")
    database.drop()
    figures[f"{part}: booked"] = len(journal.events)
    for name in ("acknowledged", "replies 409", "events heard"):
        figures[f"{part}: {name}"] = told.counts[name]


def main() -> None:
    """
    Run what the command line asks for.
    """
    options = parser("Let several nodes book together.")
    options.add_argument("--pairs", type=int, default=600)
    options.add_argument("--operations", type=int, default=2000, help="of four nodes")
    run(options.parse_args(), [pairs, hot, beside])


if __name__ == "__main__":
    main()
