"""
PgBouncer between nodes and PostgreSQL, in transaction mode: each transaction may be in
another session, and notifications are swallowed.

    python -m tests.postgres.pooled --operations 20000 --backends 200 --commits 20

 - Two nodes book under load while the pooler's sessions are terminated. Pairs of
   requests with the same key are sent to both. Each key is booked once, each node
   finds the events of the other by its poll, and no node ends.
 - The role has C{synchronous_commit} off, and the standby is away. A session that the
   pooler has just made has nothing of what a node has set; still, nothing is
   acknowledged before the standby is there.

At the end a judge recomputes the whole ledger, and compares it with all that was told.
Without a PgBouncer the suite says so, and does nothing.
"""

import asyncio
import random
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg

from tests.figures import Figures
from tests.postgres import ground
from tests.postgres.cluster import Cluster, address, nodes
from tests.postgres.crowd import Client, Crowd, Load
from tests.postgres.judge import Violation, judge
from tests.postgres.pooler import FOUND, Pooler
from tests.postgres.suite import parser, run
from tests.postgres.told import Told

# Seconds within which an event is told by the other node, which polls: with what a busy
# machine needs.
_POLLED = 3.0
# Seconds for which a commit without its standby is watched.
_WATCHED = 0.3


@contextmanager
def _pooled(
    database: ground.Database, options: Namespace, count: int
) -> Iterator[Cluster]:
    """
    Some nodes behind a pooler.
    """
    folder = Path(tempfile.mkdtemp(dir=database.server.folder))
    with closing(Pooler(folder, database, "transaction")) as between:
        ground.until(lambda: _answers(between))
        ledgers = [address(database, between.port)] * count
        with nodes(*ledgers, plant=options.plant) as cluster:
            yield cluster


def _answers(between: Pooler) -> bool:
    try:
        psycopg.connect(between.dsn(), connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


async def pairs(options: Namespace, figures: Figures) -> None:
    """
    Book under load, while sessions end.
    """
    database = ground.database()
    chance = random.Random(options.seed)
    told = Told()
    ended, latest, pairs = 0, 0.0, []
    with _pooled(database, options, 2) as cluster:
        halves = [Load(told, chance, float("inf"), shared=20) for _ in cluster.nodes]
        clients = [
            Client(half, lambda node=node: [node.port], 4, follows)
            for half, node in zip(halves, cluster.nodes, strict=True)
            for follows in (True, False)
        ]
        async with Crowd(halves[0], clients, cluster.check) as crowd:
            while ended < options.backends or len(told.asked) < options.operations:
                for _ in range(4):
                    login = chance.randint(1001, 1010)
                    asked = told.ask("CreditInSync", login=login, amount=1)
                    pairs.append(asked)
                    for half in halves:
                        half.again.append(asked)
                await crowd.acknowledged(chance.randint(1, 60))
                if ended < options.backends:
                    ended += await asyncio.to_thread(database.terminateBackends)
            for half in halves:
                half.left = 0
            await crowd.finish()
            await crowd.until(lambda: not halves[1].again, "all is answered")
            [one, *_, other] = clients
            for _ in range(20):
                asked = told.ask("CreditInSync", login=1001, amount=1)
                one.ask(asked)
                await crowd.settled(asked)
                place, since = one.place, time.monotonic()
                await crowd.until(
                    lambda place=place: other.place >= place, "it is polled", _POLLED
                )
                latest = max(latest, time.monotonic() - since)
            await crowd.finish()
        for node in cluster.nodes:
            if "connection pooler" not in node.log(100_000):
                raise Violation(f"no word of the pooler: {node.log()}")
    journal = judge(database.dsn())
    told.compare(journal)
    if told.counts["replies 504"]:
        raise Violation(f"{told.counts['replies 504']} requests were answered 504")
    for asked in pairs:
        if asked.first != 1:
            raise Violation(f"{asked.first} nodes told it as new: {asked}")
    database.drop()
    figures["pairs: sessions ended"] = ended
    figures["pairs: booked"] = len(journal.events)
    for name in ("acknowledged", "replays"):
        figures[f"pairs: {name}"] = told.counts[name]
    figures["pairs: polled within, s, at most"] = round(latest, 3)


async def durable(options: Namespace, figures: Figures) -> None:
    """
    Book while the standby is away, in sessions that don't wait for it by themselves.
    """
    server = ground.start()
    database = server.database()
    server.rows(f"ALTER ROLE {ground.SUPERUSER} SET synchronous_commit = off")
    told = Told()
    load = Load(told, random.Random(options.seed), 0)
    with _pooled(database, options, 1) as cluster:
        [node] = cluster.nodes
        client = Client(load, lambda: [node.port])
        async with Crowd(load, [client], cluster.check) as crowd:
            for _ in range(options.commits):
                await asyncio.to_thread(_part, database)
                asked = told.ask("CreditInSync", login=1001, amount=1)
                client.ask(asked)
                await crowd.until(
                    lambda asked=asked: asked.answers or _waits(server),
                    "a commit waits, or does not",
                    _POLLED,
                )
                await crowd.rest(_WATCHED)
                if asked.answers:
                    raise Violation(f"acknowledged without the standby: {asked}")
                await asyncio.to_thread(server.configure, synchronous_standby_names="")
                await crowd.settled(asked)
            await crowd.finish()
    told.compare(judge(database.dsn()))
    server.kill()
    figures["durable: commits that have waited"] = options.commits


def _part(database: ground.Database) -> None:
    """
    Have commits wait for a standby that is not there, and end all sessions.
    """
    server = database.server
    server.configure(synchronous_standby_names="away")
    # The server does so only a while after it was told.
    probe = database.dsn(options="-c synchronous_commit=on")
    with closing(psycopg.connect(probe, autocommit=True)) as connection:
        session = connection.pgconn

        def waits() -> bool:
            session.consume_input()
            if not session.is_busy():
                while session.get_result():
                    pass
                session.send_query(b"SELECT pg_logical_emit_message(true, '', '')")
                session.flush()
            return _waits(server)

        ground.until(waits)
        database.terminateBackends()
    ground.until(lambda: not _waits(server))


def _waits(server: ground.Server) -> bool:
    found = server.rows("SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
    return bool(found)


def main() -> None:
    """
    Run what the command line asks for.
    """
    options = parser("Put a connection pooler between nodes and PostgreSQL.")
    add = options.add_argument
    add("--operations", type=int, default=600, help="at least, while sessions end")
    add("--backends", type=int, default=10, help="sessions to end, at least")
    add("--commits", type=int, default=2, help="without their standby")
    if FOUND is None:
        options.parse_args()
        print("sound: nothing was done, as there is no PgBouncer")
        return
    run(options.parse_args(), [pairs, durable])


if __name__ == "__main__":
    main()
