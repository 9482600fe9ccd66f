"""
Failovers of PostgreSQL.

    python -m tests.postgres.promoted --failovers 20 --losses 5 --doubts 20

 - The primary is killed under load, and its synchronous standby is promoted: nothing
   that was acknowledged is lost.
 - Without synchronous replication a standby is promoted that lacks what was
   acknowledged last. Each node notices: it acknowledges nothing more, its C{/ready} is
   503, and its log has one critical line with the numbers. No look-up says that what
   was told does not exist.
 - A commit's wait for the synchronous standby is cancelled. That is success to the
   client of PostgreSQL, and everybody sees its rows. The clients of the node that has
   booked it, and those of another, are told nothing before the standby has it: not by
   an event, a reply, a look-up or a repetition. In every other round the standby is
   promoted without it.

A judge recomputes the whole ledger of the last primary, and compares it with all that
was told.
"""

import asyncio
import random
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from tests.family import ADD
from tests.figures import Figures
from tests.postgres import ground
from tests.postgres.cluster import Cluster, Node, address, nodes
from tests.postgres.crowd import Client, Crowd, Load
from tests.postgres.judge import Violation, judge
from tests.postgres.proxy import Proxy
from tests.postgres.suite import parser, run
from tests.postgres.told import Asked, Told

# Seconds until a 504: a failover takes longer than usual on a busy machine.
_TIMEOUT = "30"
# Seconds within which a node notices that something is lost.
_NOTICED = 15.0
_CRITICAL = "PostgreSQL has lost acknowledged operations"


class Pair:
    """
    A primary and its standby, behind a proxy that leads to the primary.
    """

    def __init__(self) -> None:
        # The default is 5 s, which a promotion may have to wait.
        self.primary = ground.start(wal_retrieve_retry_interval="100ms")
        self.database = self.primary.database()
        self.standby = self.primary.standby()
        self.ports = [self.primary.port, self.standby.port]
        self.proxy = Proxy(self.primary.port)

    @property
    def address(self) -> str:
        """
        What C{--ledger} says.
        """
        return address(self.database, self.proxy.port)

    @property
    def hosts(self) -> str:
        """
        The same without the proxy: both servers, of which the one that can be written
        to is the primary.
        """
        hosts = ",".join(f"127.0.0.1:{each}" for each in self.ports)
        return (
            f"postgresql://{ground.SUPERUSER}@{hosts}/{self.database.name}"
            "?target_session_attrs=read-write&sslmode=disable&gssencmode=disable"
        )

    def part(self) -> None:
        """
        Have nothing reach the standby any more. To stop its processes would not do:
        it could read on later in what its kernel has received.
        """
        self.standby.configure(primary_conninfo="")
        ground.until(lambda: not self.primary.replicas())

    def failOver(self) -> None:
        """
        Kill the primary, and promote the standby, from which nothing is replicated.
        """
        self.primary.kill()
        self.standby.configure(synchronous_standby_names="")
        self.standby.promote()
        self.primary = self.standby
        self.database = ground.Database(self.primary, self.database.name)
        self.proxy.target = self.primary.port
        self.proxy.cut()

    def renew(self) -> None:
        """
        Give the new primary a synchronous standby, where the former one was.
        """
        [free] = {*self.ports} - {self.primary.port}
        self.standby = self.primary.standby(port=free)
        self.primary.replicateSynchronously()

    def close(self) -> None:
        """
        End all.
        """
        self.proxy.close()
        self.standby.kill()
        self.primary.kill()


@contextmanager
def _site(options: Namespace, count: int, *more: str) -> Iterator[tuple[Pair, Cluster]]:
    with ExitStack() as stack:
        pair = Pair()
        stack.callback(pair.close)
        cluster = stack.enter_context(
            nodes(
                *[pair.address] * count,
                plant=options.plant,
                options=["--timeout", _TIMEOUT],
            )
        )
        yield pair, cluster


async def synchronous(options: Namespace, figures: Figures) -> None:
    """
    Fail over to a synchronous standby.
    """
    chance = random.Random(options.seed)
    load = Load(Told(), chance, float("inf"))
    outages: list[float] = []
    promotions: list[float] = []
    with _site(options, 2) as (pair, cluster):
        pair.primary.replicateSynchronously()
        clients = [
            Client(load, lambda node=node: [node.port], 6, follows)
            for node in cluster.nodes
            for follows in (True, False)
        ]
        async with Crowd(load, clients) as crowd:
            for number in range(options.failovers):
                if number:
                    await asyncio.to_thread(pair.renew)
                load.pace = 0.0
                await crowd.acknowledged(chance.randint(50, 400))
                await crowd.rest(chance.random() / 10)
                began = time.monotonic()
                failing = asyncio.create_task(asyncio.to_thread(pair.failOver))
                await crowd.until(failing.done, "the standby is promoted")
                failing.result()
                promoted = time.monotonic()
                promotions.append(promoted - began)
                await crowd.acknowledged(30)
                outages.append(time.monotonic() - promoted)
                load.pace = 0.1
            await crowd.finish()
        cluster.check()
        journal = judge(pair.database.dsn())
        load.told.compare(journal)
    figures["failovers"] = options.failovers
    figures["acknowledged"] = load.told.counts["acknowledged"]
    figures["booked"] = len(journal.events)
    figures["from the kill to the promotion, s, at most"] = round(max(promotions), 2)
    figures["from there to 30 acknowledged, s, at most"] = round(max(outages), 2)


async def lossy(options: Namespace, figures: Figures) -> None:
    """
    Promote a standby that lacks something.
    """
    lost = 0
    for number in range(options.losses):
        chance = random.Random(options.seed + number)
        with _site(options, 2) as (pair, cluster):
            lost += await _lose(pair, cluster.nodes, chance)
    figures["losses noticed"] = options.losses
    figures["acknowledged and lost"] = lost


async def _lose(pair: Pair, nodes: list[Node], chance: random.Random) -> int:
    """
    Book on one node only, or on both; then lose some of that.

    @return: How much was lost.
    """
    load = Load(Told(), chance, float("inf"))
    booking = nodes if chance.random() < 0.5 else nodes[:1]
    clients = [Client(load, lambda node=node: [node.port], 4) for node in booking]
    listeners = [Client(load, lambda node=node: [node.port], 0) for node in nodes]
    async with Crowd(load, [*clients, *listeners]) as crowd:
        await crowd.acknowledged(50)
        await asyncio.to_thread(pair.part)
        await crowd.acknowledged(100)
        # Each node has told something that is lost.
        last = max(each.place for each in crowd.clients)
        await crowd.until(
            lambda: all(each.place > last for each in crowd.clients), "all hear more"
        )
        pair.primary.kill()
        await asyncio.to_thread(pair.failOver)
        promoted = load.told.counts["acknowledged"]
        [(head,)] = pair.database.rows("SELECT coalesce(max(hi), 0) FROM link")
        await asyncio.gather(*[_lookUpLost(node, load.told, head) for node in nodes])
        for node in nodes:
            await crowd.until(
                lambda node=node: _CRITICAL in node.log(1000),
                f"node {node.name} notices the loss behind place {head}",
                _NOTICED,
            )
            lines = [each for each in node.log(1000).splitlines() if _CRITICAL in each]
            if len(lines) != 1:
                raise Violation(f"node {node.name} has said: {lines}")
            ready = await asyncio.to_thread(node.ready)
            if ready != 503:
                raise Violation(f"/ready of node {node.name} is {ready}")
        await crowd.rest(1)
        after = load.told.counts["acknowledged"] - promoted
        if after:
            raise Violation(f"{after} acknowledged after a loss")
    return max(load.told.events) - head


async def doubtful(options: Namespace, figures: Figures) -> None:
    """
    Cancel the wait for the standby.
    """
    cancel = (
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
        " WHERE wait_event = 'SyncRep' AND application_name LIKE '%%writer'"
    )
    chance = random.Random(options.seed)
    load = Load(Told(), chance, 0)
    told, cancelled, promoted = load.told, 0, 0
    with _site(options, 2) as (pair, cluster):
        clients = [
            Client(load, lambda node=node: [node.port]) for node in cluster.nodes
        ]
        async with Crowd(load, clients) as crowd:
            await asyncio.to_thread(pair.primary.replicateSynchronously)
            for number in range(options.doubts):
                asked = told.ask("CreditInSync", login=1001, amount=1)
                looking: asyncio.Task[dict[str, Any]] | None = None
                isLost = number % 2 == 1
                with ExitStack() as stack:
                    if isLost:
                        await asyncio.to_thread(pair.part)
                    else:
                        stack.enter_context(pair.standby.frozen())
                    clients[0].ask(asked)
                    for _ in range(chance.randint(1, 3)):
                        await crowd.until(
                            lambda: pair.primary.rows(cancel), "a commit waits"
                        )
                        cancelled += 1
                        if looking is None:
                            # Now it can be seen.
                            clients[1].ask(asked)
                            looking = _lookUp(cluster.nodes[1], asked)
                        await crowd.rest(0.6)
                        if asked.isSettled or any(
                            each.place > asked.number for each in clients
                        ):
                            raise Violation(f"told before it is replicated: {asked}")
                        if looking.done() and looking.result()["status"] == 200:
                            raise Violation(f"found before it is replicated: {asked}")
                if isLost:
                    await asyncio.to_thread(pair.failOver)
                    promoted += 1
                await crowd.until(
                    lambda asked=asked: len(asked.answers) == 2, f"{asked} is answered"
                )
                assert looking is not None
                # After a failover it may be too early for the look-up.
                if (await looking)["status"] not in (200, 404, 503):
                    raise Violation(f"not found: {asked}: {looking.result()}")
                if isLost and number + 1 < options.doubts:
                    await asyncio.to_thread(pair.renew)
            await crowd.finish()
        cluster.check()
        told.compare(judge(pair.database.dsn()))
    if told.counts["replies 504"]:
        raise Violation("an outcome stayed unknown")
    figures["waits cancelled"] = cancelled
    figures["promoted without it"] = promoted


async def _lookUpLost(node: Node, told: Told, head: int) -> None:
    """
    Look up an order that was told and is lost, before a node may have noticed.
    """
    orders = [
        data["order"]
        for place, (type, data) in told.events.items()
        if place > head and type == ADD
    ]
    for order in orders[:5]:
        reply = await asyncio.to_thread(
            node.ask, "GetOperation", {"order": order}, float(_TIMEOUT) + 5
        )
        if reply["status"] not in (503, 504):
            raise Violation(f"order {order} was told, is lost, and has {reply}")


def _lookUp(node: Node, asked: Asked) -> "asyncio.Task[dict[str, Any]]":
    """
    Begin to look an operation up by its key.
    """
    data = {"idempotencyKey": asked.key}
    return asyncio.create_task(
        asyncio.to_thread(node.ask, "GetOperation", data, float(_TIMEOUT) + 5)
    )


def main() -> None:
    """
    Run what the command line asks for.
    """
    options = parser("Have PostgreSQL fail over.")
    add = options.add_argument
    add("--failovers", type=int, default=2, help="to a synchronous standby")
    add("--losses", type=int, default=1, help="to a standby that lacks something")
    add("--doubts", type=int, default=2, help="cancelled waits")
    run(options.parse_args(), [doubtful, lossy, synchronous])


if __name__ == "__main__":
    main()
