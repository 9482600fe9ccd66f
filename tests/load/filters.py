"""
A hundred sessions that send the most expensive filters, on a large ledger:

    python -m tests.load.filters [--trades 10000000] [--seconds 60]

Polite sessions send credits before it and beside it. The filters scan all trades, sort
them by their comments and ask for as many rows as there may be. Each is answered
before the timeout of a request, with rows or with a refusal; what is booked waits for
none of them.
"""

import sqlite3
import time
from argparse import Namespace
from collections import Counter
from contextlib import closing
from functools import partial
from random import Random
from typing import Final

from twisted.internet.defer import maybeDeferred

from creditsync.auth import mint
from creditsync.ledger.sqlite import SQLiteLedger
from tests.figures import Figures
from tests.integration.processes import SECRET
from tests.load import flood
from tests.load.polite import Polite
from tests.load.record import Record, compare
from tests.load.running import (
    MIB,
    addLatency,
    conclude,
    memory,
    parser,
    rows,
    site,
    start,
)
from tests.load.talks import Conversation, Talks

POLITE: Final = 4
ACCOUNTS: Final = 10_000
# Seconds after which a filter must have its answer, and between a refusal and the next
# filter of a session.
ANSWERED: Final = 5.0
PAUSE: Final = 0.25

_FILTERS: Final = (
    '{"orderBy":[["comment","desc"]],"limit":50000}',
    '{"where":[["comment","like","%a%a%a%a%z%"]],"limit":50000}',
    '{"whereNot":[["comment","like","%9%8%7%"]],"orderBy":[["profit","asc"],'
    '["comment","desc"]],"limit":50000,"offset":1000000}',
    '{"limit":50000}',
    '{"groupFilter":"!x,*","orderBy":[["group","desc"],["comment","asc"]],'
    '"limit":50000}',
)

# A trade with each number; the journal has only the last.
_FILL: Final = """
    INSERT INTO trade
    WITH RECURSIVE numbers (n) AS (
        SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :trades
    )
    SELECT n, n * 7919 % :accounts + 1, 6 + n % 2, 3, (n * 104729 % 100000 + 1) * 1000,
           'Promotion credit ' || (n * 2654435761 % 1000003), 1700000000 + n,
           1700000000 + n, 1700000000 + n, 0, 1
    FROM numbers
"""
_SUM: Final = """
    INSERT INTO account (login, balance, credit)
    SELECT login, sum(profit * (cmd = 6)), sum(profit * (cmd = 7)) FROM trade
    GROUP BY login
"""
_JOURNAL: Final = """
    INSERT INTO journal (
        place, type, "order", login, cmd, state, profit, comment, open_time,
        close_time, timestamp, balance, credit, hash
    )
    SELECT 1, 0, "order", login, cmd, state, profit, comment, open_time, close_time,
           timestamp, account.balance, account.credit, zeroblob(32)
    FROM trade JOIN account USING (login) WHERE "order" = :trades
"""


def fill(path: str, trades: int) -> None:
    """
    Give an empty ledger so many trades.
    """
    values = {"trades": trades, "accounts": ACCOUNTS}
    with closing(sqlite3.connect(path)) as ledger, ledger:
        for statement in (_FILL, _SUM, _JOURNAL):
            ledger.execute(statement, values)
        ledger.execute("UPDATE order_mark SET next_order = ?", (trades + 1,))


def send(
    port: int, sessions: int, seconds: float
) -> "tuple[Counter[str], list[float], int]":
    """
    Send filters from so many sessions, each when the one before is answered.

    @return: How many replies had which status, the seconds that each took, and how
        many bytes were read.
    """
    answers, took, talks, random = Counter[str](), list[float](), Talks(), Random(1)
    conversations, waiting = list[Conversation](), dict[Conversation, float]()
    ready, tokens = dict[Conversation, float](), dict[Conversation, str]()

    def hear(conversation: Conversation, lines: list[bytes]) -> None:
        for line in lines:
            if line.startswith(b'{"event"'):
                continue
            now = time.monotonic()
            took.append(now - waiting.pop(conversation))
            status = line[:40].partition(b'"status":')[2][:3].decode()
            answers[status] += 1
            ready[conversation] = now + (0 if status == "200" else PAUSE)
        if conversation.ending:
            answers[conversation.ending] += 1
            ready.pop(conversation, None)

    for number in range(sessions):
        conversation = Conversation(port)
        # Ten principals, with ten sessions each.
        token = mint(
            SECRET, id=100 + number % 10, role=1, expires=3600, now=time.time()
        )
        conversations.append(conversation)
        talks.add(conversation, partial(hear, conversation))
        ready[conversation] = 0
        tokens[conversation] = token
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end + ANSWERED and (now < end or waiting):
        for conversation in [c for c, at in ready.items() if at <= now < end]:
            del ready[conversation]
            waiting[conversation] = now
            conversation.send(_request(tokens[conversation], random.choice(_FILTERS)))
        talks.turn(0.005)
    answers["none"] = len(waiting)
    talks.close()
    return answers, took, sum(each.read for each in conversations)


def _request(token: str, data: str) -> bytes:
    return (
        f'{{"command":"MngGetTradesByFilter","extID":1,"__token":"{token}",'
        f'"data":{data}}}\r\n'
    ).encode()


def measure(options: Namespace, figures: Figures) -> list[str]:
    """
    Run, and return what was wrong.
    """
    problems = []
    with site() as here, flood.processes(1) as pool:
        ledger = SQLiteLedger(str(here.ledger), maybeDeferred)
        ledger.open()
        ledger.close()
        fill(str(here.ledger), options.trades)
        server = start(here, options.plant)
        alone = Polite(server.port)
        alone.join(POLITE)
        until = time.monotonic() + options.seconds / 4
        while time.monotonic() < until:
            alone.turn()
        alone.finish()
        addLatency(figures, "credit before", alone.record.latencies(200))
        beside = Polite(server.port, Record("beside"))
        sending = pool.submit(send, server.port, options.sessions, options.seconds)
        beside.join(POLITE)
        while not sending.done():
            beside.turn()
        beside.finish()
        addLatency(figures, "credit beside filters", beside.record.latencies(200))
        answers, took, read = sending.result()
        addLatency(figures, "filter", sorted(took))
        for status, count in sorted(answers.items()):
            figures[f"filters, {status}"] = count
        figures["replies MiB"] = round(read / MIB)
        figures["memory peak MiB"] = round(memory(server, "VmHWM") / MIB)
        records = [alone.record, beside.record]
        problems += [each for record in records for each in record.problems]
        booked = [row for row in rows(here) if row[0] > options.trades]
        problems += compare(booked, records)
    problems += [
        f"{count} filters: {status}"
        for status, count in answers.items()
        if count and status not in ("200", "400", "503")
    ]
    if took and max(took) > ANSWERED:
        problems.append(f"a filter took {max(took):.1f} s")
    slow = figures.get("credit beside filters p99 ms", 0)
    if options.goal and slow > options.goal:
        problems.append(f"credits took {slow} ms at p99")
    figures["checked"] = f"{len(took):,} filters were answered in time"
    return problems


def main() -> None:
    """
    Run what the command line asks for.
    """
    command = parser("filters", __doc__)
    command.add_argument("--trades", type=int, default=200_000)
    command.add_argument("--sessions", type=int, default=100)
    command.add_argument("--seconds", type=float, default=6)
    command.add_argument(
        "--goal", type=float, default=0, help="milliseconds of a credit at p99"
    )
    options = command.parse_args()
    figures = Figures()
    conclude(options, figures, measure(options, figures))


if __name__ == "__main__":
    main()
