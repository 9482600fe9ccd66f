"""
Connections that break at any moment, between nodes and a PostgreSQL that is killed.

    python -m tests.postgres.broken --servers 20 --backends 200 --cuts 500 \\
        --step 1 --listeners 200

 - The server is killed under load, and started again.
 - The processes that serve the nodes' connections are terminated under load.
 - A proxy cuts connections under load, at random.
 - It cuts the connection that books at each byte of what is sent for a batch, and at
   each byte of the answer.
 - The processes that serve the listening connections are terminated; then notifications
   are swallowed. Events of one node are told by the other in time all the same.
 - What a node has sent arrives only after its connection was reset, and the node has
   settled the batch on another one: it is shut out.

No node ends, none is started again, and everything is answered: what had an unknown
outcome is settled before anybody is told anything. At the end of each part a judge
recomputes the whole ledger, and compares it with all that was told.
"""

import asyncio
import random
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from attrs import define

from tests.figures import Figures
from tests.postgres import ground
from tests.postgres.cluster import Cluster, address, nodes
from tests.postgres.crowd import Client, Crowd, Load
from tests.postgres.judge import Violation, judge
from tests.postgres.proxy import Proxy
from tests.postgres.suite import parser, run
from tests.postgres.told import Told

# Seconds within which an event is told by another node: when notifications arrive,
# and when only polls find it. Both with what a busy machine needs.
_HEARD = 2.0
_POLLED = 3.0


@define(eq=False)
class Site:
    """
    Two nodes behind a proxy each, and clients.
    """

    database: ground.Database
    proxies: list[Proxy]
    cluster: Cluster
    crowd: Crowd
    random: random.Random

    @property
    def told(self) -> Told:
        """
        What the clients were told.
        """
        return self.crowd.told


@contextmanager
def _proxies(server: ground.Server, count: int) -> Iterator[list[Proxy]]:
    proxies = [Proxy(server.port) for _ in range(count)]
    try:
        yield proxies
    finally:
        for each in proxies:
            each.close()


@asynccontextmanager
async def _site(
    options: Namespace,
    figures: Figures,
    part: str,
    left: float = float("inf"),
    server: ground.Server | None = None,
) -> AsyncIterator[Site]:
    """
    Run a site, and at the end have it judged.

    @param left: How many operations there are.
    """
    database = (server or ground.shared()).database()
    chance = random.Random(options.seed)
    load = Load(Told(), chance, left)
    with _proxies(database.server, 2) as proxies:
        ledgers = [address(database, each.port) for each in proxies]
        with nodes(*ledgers, plant=options.plant) as cluster:
            clients = [
                Client(load, lambda node=node: [node.port], 4, follows)
                for node in cluster.nodes
                for follows in (True, False)
            ]
            async with Crowd(load, clients, cluster.check) as crowd:
                site = Site(database, proxies, cluster, crowd, chance)
                yield site
                await crowd.finish()
            cluster.check()
        told = site.told
        journal = judge(database.dsn())
        told.compare(journal)
        if told.counts["without an answer"]:
            raise Violation("a node has ended a connection")
    database.drop()
    figures[f"{part}: booked"] = len(journal.events)
    for name in ("acknowledged", "replies 503", "replies 504"):
        figures[f"{part}: {name}"] = told.counts[name]


async def servers(options: Namespace, figures: Figures) -> None:
    """
    Kill the server.
    """
    server = ground.start()
    latest = 0.0
    async with _site(options, figures, "servers", server=server) as site:
        for _ in range(options.servers):
            await site.crowd.acknowledged(site.random.randint(1, 300))
            await site.crowd.rest(site.random.random() / 10)
            await asyncio.to_thread(server.kill)
            await site.crowd.rest(site.random.random() / 2)
            await asyncio.to_thread(server.start)
            started = time.monotonic()
            await site.crowd.acknowledged(50)
            latest = max(latest, time.monotonic() - started)
    server.kill()
    figures["servers: killed"] = options.servers
    figures["servers: 50 acknowledged after a start, s, at most"] = round(latest, 1)


async def backends(options: Namespace, figures: Figures) -> None:
    """
    Terminate the processes that serve the nodes' connections.
    """
    await _repeat(
        options,
        figures,
        "backends",
        options.backends,
        lambda site: site.database.terminateBackends(
            f"%{site.random.choice(['writer', 'writer', 'feed', 'reader', 'a %', ''])}"
        ),
    )


async def cuts(options: Namespace, figures: Figures) -> None:
    """
    Cut connections.
    """

    def cut(site: Site) -> int:
        proxy = site.random.choice(site.proxies)
        return proxy.cut(site.random.choice(["writer", "writer", "feed", ""]))

    await _repeat(options, figures, "cuts", options.cuts, cut)


async def _repeat(
    options: Namespace,
    figures: Figures,
    part: str,
    count: int,
    disturb: Callable[[Site], int],
) -> None:
    """
    Disturb until so many connections were ended.
    """
    ended = 0
    async with _site(options, figures, part) as site:
        await site.crowd.acknowledged(50)
        while ended < count:
            ended += await asyncio.to_thread(disturb, site)
            if site.random.random() < 0.3:
                # Again, before the nodes have settled anything.
                await site.crowd.rest(site.random.random() / 20)
            else:
                await site.crowd.acknowledged(site.random.randint(1, 60))
    figures[f"{part}: connections ended"] = ended


async def everyByte(options: Namespace, figures: Figures) -> None:
    """
    Cut at the bytes of the exchange that books.
    """
    cuts = 0
    async with _site(options, figures, "everyByte", left=0) as site:
        told, load, proxy = site.told, site.crowd.load, site.proxies[0]
        client = site.crowd.clients[1]
        proxy.application = "writer"

        async def book() -> None:
            # Without a key: booked twice, it would be there twice.
            asked = told.ask("CreditInSync", False, login=1001, amount=1)
            client.ask(asked)
            await site.crowd.until(
                lambda: asked.isSettled or asked.unknown, "it is answered"
            )
            if asked.unknown:
                raise Violation(f"its outcome stays unknown: {asked}")

        await book()
        for way in ("toServer", "toClient"):
            before = getattr(proxy, way)
            await book()
            size = getattr(proxy, way) - before
            for byte in range(site.random.randrange(options.step), size, options.step):
                proxy.cutAfter(way, byte)
                await book()
                proxy.unlimited()
                cuts += 1
            figures[f"everyByte: bytes {way}"] = size
        assert not load.again
    if told.counts["replies 504"]:
        raise Violation("an outcome stayed unknown")
    figures["everyByte: cuts"] = cuts


async def listeners(options: Namespace, figures: Figures) -> None:
    """
    Terminate what listens, then mute it.
    """
    times: dict[str, list[float]] = {"heard": [], "terminated": [], "muted": []}
    async with _site(options, figures, "listeners", left=0) as site:
        one, other = site.crowd.clients[1], site.crowd.clients[2]

        async def book(how: str, limit: float) -> None:
            asked = site.told.ask("CreditInSync", login=1001, amount=1)
            one.ask(asked)
            await site.crowd.settled(asked)
            answered = time.monotonic()
            place = int(asked.answers[0]["cursor"].partition("-")[2])
            await site.crowd.until(
                lambda: other.place >= place, f"place {place} is told, {how}", limit
            )
            times[how].append(time.monotonic() - answered)

        for _ in range(20):
            await book("heard", _HEARD)
        ended = 0
        while ended < options.listeners:
            ended += await asyncio.to_thread(
                site.database.terminateBackends, "%doorbell"
            )
            await book("terminated", _POLLED)
            await site.crowd.rest(site.random.random() / 5)
        for proxy in site.proxies:
            proxy.isMuted = True
            proxy.cut("doorbell")
        for _ in range(20):
            await book("muted", _POLLED)
    figures["listeners: terminated"] = ended
    for how, seconds in times.items():
        figures[f"listeners: told elsewhere, s, at most, {how}"] = round(
            max(seconds, default=0), 3
        )


async def stranded(options: Namespace, figures: Figures) -> None:
    """
    Have a batch arrive after another one has settled it.
    """
    async with _site(options, figures, "stranded", left=0) as site:
        told = site.told
        here, there = site.crowd.clients[1], site.crowd.clients[2]
        for number in range(options.stranded):
            login = 2001 + number
            # Without a key, which would keep it from being booked twice.
            asked = told.ask("CreditOutSync", False, login=login, amount=-5)
            with site.proxies[0].stranded("writer") as reset:
                here.ask(asked)
                await site.crowd.rest(0.2)
                reset()
                # Sent again on another connection, it is refused: there is no credit.
                await site.crowd.settled(asked)
                credit = told.ask("CreditInSync", login=login, amount=9)
                there.ask(credit)
                await site.crowd.settled(credit)
            await site.crowd.rest(0.3)
            late = "SELECT seq FROM event WHERE login = %s AND profit < 0"
            if asked.refusal != "TRADE_NO_MONEY" or site.database.rows(late, login):
                raise Violation(f"not refused, or booked all the same: {asked}")
    figures["stranded: batches"] = options.stranded


def main() -> None:
    """
    Run what the command line asks for.
    """
    options = parser("Disturb what is between nodes and PostgreSQL.")
    add = options.add_argument
    add("--servers", type=int, default=2, help="kills of the server")
    add("--backends", type=int, default=20, help="connections terminated")
    add("--cuts", type=int, default=40, help="connections cut")
    add("--step", type=int, default=40, help="bytes from one cut to the next")
    add("--listeners", type=int, default=8, help="listening connections terminated")
    add("--stranded", type=int, default=3, help="batches that arrive late")
    run(
        options.parse_args(),
        [stranded, everyByte, listeners, backends, cuts, servers],
    )


if __name__ == "__main__":
    main()
