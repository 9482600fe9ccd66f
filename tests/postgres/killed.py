"""
kill -9 for nodes: their sessions move to other nodes, and nothing that was acknowledged
is lost or booked twice.

    python -m tests.postgres.killed --kills 50 --quiet 200

 - Under load on three nodes, one is killed at a time, at any moment. Its clients go to
   the others and send again there, under the same keys, what had no answer. They go on
   behind the place that they had reached. Meanwhile the node is started again.
 - Without any load, a node is killed in the milliseconds after it was sent one request.
   If that is booked, another node tells it within its poll; the same request to that
   one gets the same order.

At the end a judge recomputes the whole ledger, and compares it with all that was told.
"""

import asyncio
import random
import socket
import time
from argparse import Namespace

from tests.figures import Figures
from tests.postgres import ground
from tests.postgres.cluster import address, nodes
from tests.postgres.crowd import Client, Crowd, Load
from tests.postgres.judge import Violation, judge
from tests.postgres.suite import parser, run
from tests.postgres.told import Told

# Seconds within which a node must tell what another one has booked, whatever that one
# could still do: two polls, and what a busy machine needs.
_HEARD = 3.0


async def underLoad(options: Namespace, figures: Figures) -> None:
    """
    Kill nodes under load.
    """
    database = ground.database()
    chance = random.Random(options.seed)
    told = Told()
    load = Load(told, chance, float("inf"))
    with nodes(*[address(database)] * 3, plant=options.plant) as cluster:
        clients = [Client(load, cluster.ports, 4, each % 2 == 0) for each in range(4)]
        async with Crowd(load, clients) as crowd:
            await crowd.acknowledged(50)
            for _ in range(options.kills):
                await crowd.acknowledged(chance.randint(1, 200))
                busy = {each.port for each in clients}
                node = chance.choice(
                    [each for each in cluster.nodes if each.port in busy]
                )
                await crowd.rest(chance.random() / 20)
                node.kill()
                # The others go on, slowly: the node has to start beside them.
                load.pace = 0.1
                await crowd.acknowledged(chance.randint(1, 50))
                starting = asyncio.create_task(asyncio.to_thread(node.start))
                await crowd.until(starting.done, "the node starts", 60)
                starting.result()
                cluster.check()
                load.pace = 0.0
            await crowd.finish()
        journal = judge(database.dsn())
        told.compare(journal)
    database.drop()
    if told.counts["replies 504"]:
        raise Violation(f"{told.counts['replies 504']} requests were answered 504")
    figures["kills under load"] = options.kills
    figures["booked"] = len(journal.events)
    for name in ("acknowledged", "replays", "without an answer", "connections"):
        figures[name] = told.counts[name]


async def quiet(options: Namespace, figures: Figures) -> None:
    """
    Kill a node in the moments after it was asked for something.
    """
    database = ground.database()
    chance = random.Random(options.seed)
    told = Told()
    latest: list[float] = []
    with nodes(*[address(database)] * 2, plant=options.plant) as cluster:
        node, other = cluster.nodes
        load = Load(told, chance, 0)
        client = Client(load, lambda: [other.port])
        async with Crowd(load, [client]) as crowd:
            for _ in range(options.quiet):
                asked = told.ask("CreditInSync", login=1001, amount=1)
                with socket.create_connection(("127.0.0.1", node.port)) as connection:
                    asked.sent += 1
                    connection.sendall(asked.line("x", client.token))
                    time.sleep(chance.random() * chance.choice([0.004, 0.03]))
                    node.kill()
                asked.unknown += 1
                [(head,)] = database.rows("SELECT coalesce(max(hi), 0) FROM link")
                if head > client.place:
                    killed = time.monotonic()
                    await crowd.until(
                        lambda head=head: client.place >= head,
                        f"the other node tells place {head}",
                        _HEARD,
                    )
                    latest.append(time.monotonic() - killed)
                load.again.append(asked)
                await crowd.until(lambda asked=asked: asked.answers, "it is answered")
                await asyncio.to_thread(node.start)
            await crowd.finish()
        told.compare(judge(database.dsn()))
    database.drop()
    figures["quiet kills"] = options.quiet
    figures["quiet kills after the commit"] = len(latest)
    figures["events of the dead, heard within s"] = round(max(latest, default=0), 2)


def main() -> None:
    """
    Run what the command line asks for.
    """
    options = parser("Kill nodes, and see that nothing is lost.")
    options.add_argument("--kills", type=int, default=3, help="under load")
    options.add_argument("--quiet", type=int, default=3, help="kills without a load")
    run(options.parse_args(), [underLoad, quiet])


if __name__ == "__main__":
    main()
