"""
What several nodes have to get right only now and then.

    python -m tests.postgres.cases --operations 5000 --rounds 20 --seconds 60

 - The rows of a batch are read before the writer has its answer, which a proxy delays;
   then other nodes' rows come later than the answer. Nobody is answered 504 who was
   booked, and each is answered with the event of its own operation, although others
   change the same orders.
 - A second process takes the name of a node under load. The first one ends, and what it
   had under way is booked once.
 - A place is taken out of the journal behind a node's back. The node stops, and nothing
   that is behind it is told.
 - A transaction is left open, which keeps what is outdated from being cleaned up. A
   batch costs the server at most 1.25 times as much: the rate is at least 0.8 of what
   it is without.
"""

import asyncio
import random
import signal
import time
from argparse import Namespace
from contextlib import closing

import psutil
import psycopg

from creditsync.records import Operation
from tests.figures import Figures
from tests.postgres import ground
from tests.postgres.cluster import address, nodes
from tests.postgres.crowd import Client, Crowd, Load
from tests.postgres.engine import Node as Writer
from tests.postgres.engine import makeTables
from tests.postgres.judge import Violation, judge
from tests.postgres.proxy import Proxy
from tests.postgres.suite import parser, run
from tests.postgres.told import Told

# Seconds that a node has to notice what is wrong.
_NOTICED = 10.0
# Operations of a batch whose cost is measured, and their accounts: each is in many
# batches, so that it would have many versions.
_BATCH = 100
_LOGINS = range(1001, 1501)
# The least rate beside an open transaction.
_RATE = 0.8


async def slowAnswer(options: Namespace, figures: Figures) -> None:
    """
    Delay the answers to what is booked.
    """
    await _delayed(options, figures, "writer")


async def slowFeed(options: Namespace, figures: Figures) -> None:
    """
    Delay what is read of other nodes.
    """
    await _delayed(options, figures, "feed")


async def _delayed(options: Namespace, figures: Figures, use: str) -> None:
    database = ground.database()
    told = Told()
    chance = random.Random(options.seed)
    load = Load(told, chance, options.operations, logins=range(1001, 1004), shared=4)
    with closing(Proxy(database.server.port)) as proxy:
        proxy.application = use
        with nodes(*[address(database, proxy.port)] * 2, plant=options.plant) as site:
            proxy.delay = 0.03
            clients = [
                Client(load, lambda node=node: [node.port], 16, follows)
                for node in site.nodes
                for follows in (True, False)
            ]
            async with Crowd(load, clients, site.check) as crowd:
                await crowd.until(
                    lambda: load.left <= 0 or told.counts["replies 504"],
                    "all is sent",
                    3600,
                )
                if not told.counts["replies 504"]:
                    await crowd.finish()
            site.check()
    if told.counts["replies 504"]:
        raise Violation(f"{told.counts['replies 504']} false 504s")
    told.compare(judge(database.dsn()))
    database.drop()
    figures[f"acknowledged, slow {use}"] = told.counts["acknowledged"]


async def sameName(options: Namespace, figures: Figures) -> None:
    """
    Start a node a second time.
    """
    database = ground.database()
    told = Told()
    chance = random.Random(options.seed)
    load = Load(told, chance, float("inf"))
    with nodes(*[address(database)] * 2, plant=options.plant) as site:
        former, later = site.nodes
        later.kill()
        later.name = former.name
        clients = [Client(load, site.ports, 4, each == 0) for each in range(3)]
        async with Crowd(load, clients) as crowd:
            for _ in range(options.rounds):
                load.pace = 0.0
                await crowd.acknowledged(chance.randint(50, 150))
                load.pace = 0.02
                starting = asyncio.create_task(asyncio.to_thread(later.start))
                await crowd.until(
                    lambda former=former: not former.isRunning,
                    "the first process of the name ends",
                    _NOTICED,
                )
                await crowd.until(starting.done, "the second one starts")
                starting.result()
                if "another process books as node a" not in former.log():
                    raise Violation(f"it has ended with: {former.log()}")
                former, later = later, former
            await crowd.finish()
        if not former.isRunning:
            raise Violation(f"the last process has ended: {former.log()}")
    told.compare(judge(database.dsn()))
    database.drop()
    figures["sameName: started twice"] = options.rounds
    figures["sameName: acknowledged"] = told.counts["acknowledged"]


async def gap(options: Namespace, figures: Figures) -> None:
    """
    Take a place away that a node has not read.
    """
    database = ground.database()
    told = Told()
    load = Load(told, random.Random(options.seed), 0)
    with nodes(*[address(database)] * 2, plant=options.plant) as site:
        node, blind = site.nodes
        writer = Client(load, lambda: [node.port])
        reader = Client(load, lambda: [blind.port])
        async with Crowd(load, [writer, reader]) as crowd:

            async def book() -> None:
                asked = told.ask("CreditInSync", login=1001, amount=1)
                writer.ask(asked)
                await crowd.settled(asked)

            await book()
            await crowd.until(lambda: reader.place == 1, "the event is told")
            blind.signal(signal.SIGSTOP)
            for _ in range(3):
                await book()
            database.rows("DELETE FROM event WHERE seq = 3")
            blind.signal(signal.SIGCONT)
            await crowd.until(
                lambda: not blind.isRunning, "a node stops at a gap", _NOTICED
            )
            if reader.heard > 2:
                raise Violation(f"told behind a gap: {reader.heard}")
        if "place 4 where 3 should be" not in blind.log():
            raise Violation(f"it has ended with: {blind.log()}")
    database.drop()
    figures["gap: stopped"] = 1


async def snapshot(options: Namespace, figures: Figures) -> None:
    """
    Leave a transaction open.
    """
    costs: dict[bool, list[float]] = {False: [], True: []}
    rates: dict[bool, float] = {}
    for isOpen in (False, True):
        database = ground.database()
        makeTables(database)
        writer = Writer(database)
        with psycopg.connect(database.dsn()) as idle:
            # Both have the same tables when it begins.
            _book(writer, 2.0)
            if isOpen:
                idle.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                idle.execute("SELECT count(*) FROM event")
            # What it costs at the end counts, when most is left.
            count = 0
            for _ in range(3):
                done, cost = _book(writer, options.seconds / 3)
                costs[isOpen].append(cost / done)
                count += done
            rates[isOpen] = count / options.seconds
        writer.connection.close()
        database.drop()
    ratio = costs[False][-1] / costs[True][-1]
    for isOpen, name in ((False, "without"), (True, "beside an open transaction")):
        figures[f"snapshot: batches/s {name}"] = round(rates[isOpen])
        figures[f"snapshot: ms of processor a batch {name}"] = [
            round(1000 * each, 2) for each in costs[isOpen]
        ]
    figures["snapshot: rate by that"] = round(ratio, 2)
    if ratio < _RATE:
        raise Violation(f"the rate beside an open transaction is {ratio:.2f}")


def _book(writer: Writer, seconds: float) -> tuple[int, float]:
    """
    Book for so long.

    @return: How many batches, and the seconds of the server's processor for them.
    """
    backend = psutil.Process(writer.connection.info.backend_pid)
    before, count = backend.cpu_times(), 0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        writer.book(
            *(
                Operation(
                    "CreditIn",
                    7,
                    random.choice(_LOGINS),
                    1,
                    "snapshot",
                    principal=7,
                    key=f"{writer.batch}.{number}",
                )
                for number in range(_BATCH)
            )
        )
        count += 1
    after = backend.cpu_times()
    return count, after.user + after.system - before.user - before.system


def main() -> None:
    """
    Run what the command line asks for.
    """
    options = parser("Have rare things happen to several nodes.")
    add = options.add_argument
    add("--operations", type=int, default=600, help="with slow answers")
    add("--rounds", type=int, default=1, help="starts under a name that is taken")
    add("--seconds", type=float, default=2.0, help="beside an open transaction")
    run(options.parse_args(), [gap, slowAnswer, slowFeed, sameName, snapshot])


if __name__ == "__main__":
    main()
