"""
The bugs of nodes on PostgreSQL: what each does, its patch, and what must find it.

Those of the function that judges and books are changes of its text, which are there
when the first node makes the tables. What that function judges has bugs of its own:
L{tests.postgres.planted}.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from creditsync.postgres import _feed, _lane, _schema
from creditsync.postgres._connection import Connection
from creditsync.postgres._doorbell import POLL, Doorbell
from creditsync.postgres._feed import HEAD, Feed
from creditsync.postgres._lane import Lane
from creditsync.postgres._lookups import Readers
from creditsync.postgres._numbers import Numbers
from creditsync.postgres._schema import STREAM
from creditsync.records import TradeEvent


def _replaced(*changes: tuple[str, str]) -> None:
    """
    Change the text of the function that books.
    """
    *others, last = _schema.SCRIPTS
    for former, planted in changes:
        assert last.count(former) == 1, former
        last = last.replace(former, planted)
    _schema.SCRIPTS = (*others, last)  # type: ignore[misc]


def _placesWithoutLock() -> None:
    _replaced(
        (
            "-- Book one batch of a node:",
            "CREATE SEQUENCE place;\n-- Book one batch of a node:",
        ),
        (
            "        PERFORM FROM stream WHERE id = this_stream FOR UPDATE;\n"
            "        IF NOT FOUND THEN\n"
            "            RAISE EXCEPTION 'there is no stream",
            "        PERFORM pg_advisory_lock(16);\n"
            "        base := nextval('place') - 1;\n"
            "        PERFORM setval('place', base + n);\n"
            "        PERFORM pg_advisory_unlock(16);\n"
            "        IF NOT FOUND THEN\n"
            "            RAISE EXCEPTION 'there is no stream",
        ),
        (
            "SELECT link.hi, link.hash INTO base, former FROM link",
            "SELECT link.hash INTO former FROM link",
        ),
    )


def _keysOutside() -> None:
    _replaced(
        (
            "        INSERT INTO keyed (principal, key, stream)\n"
            "        SELECT each.principal, each.key, this_stream\n"
            "        FROM unnest(key_principals, keys) AS each (principal, key)\n"
            "        ON CONFLICT DO NOTHING;\n",
            "",
        ),
        (
            "        JOIN keyed ON keyed.principal",
            "        LEFT JOIN keyed ON keyed.principal",
        ),
        (
            "            UPDATE keyed SET seq = base + r_numbers[each.item]\n"
            "            FROM unnest",
            "            INSERT INTO keyed\n"
            "            SELECT each.principal, each.key, this_stream,"
            " base + r_numbers[each.item]\n"
            "            FROM unnest",
        ),
        (
            "            WHERE each.item IS NOT NULL\n"
            "                AND keyed.principal = each.principal"
            " AND keyed.key = each.key;",
            "            WHERE each.item IS NOT NULL ON CONFLICT DO NOTHING;",
        ),
    )


def _keysOfEachNode() -> None:
    _replaced(
        (
            "        JOIN keyed ON keyed.principal = each.principal"
            " AND keyed.key = each.key;",
            "        JOIN keyed ON keyed.principal = each.principal"
            " AND keyed.key = each.key\n"
            "        LEFT JOIN event AS own ON own.seq = keyed.seq;",
        ),
        (
            "        SELECT array_agg(keyed.seq ORDER BY each.number)\n",
            "        SELECT array_agg(\n"
            "            CASE WHEN own.node = this_node THEN keyed.seq END"
            " ORDER BY each.number)\n",
        ),
    )


def _accountsNotLocked() -> None:
    _replaced(
        (
            "ON CONFLICT (login) DO UPDATE SET login = excluded.login WHERE false",
            "ON CONFLICT (login) DO NOTHING",
        )
    )


def _notDurable() -> None:
    _replaced(
        (
            "IF current_setting('synchronous_commit', true) IN ('off', 'local') THEN",
            "IF false THEN",
        )
    )


def _notFenced() -> None:
    _replaced(
        (
            "IF NOT FOUND THEN\n        RAISE EXCEPTION 'another process",
            "IF false THEN\n        RAISE EXCEPTION 'another process",
        )
    )


def _nameNotTaken() -> None:
    _lane._ENLIST = _lane._ENLIST.replace(  # type: ignore[misc]
        "SET incarnation = node.incarnation + 1,", "SET"
    )


def _unknownIsLost() -> None:
    async def lost(self: Lane, *_: object) -> None:
        self.batch += 1

    Lane._found = lost  # type: ignore[method-assign,assignment]


def _noticeIgnored() -> None:
    async def trusting(self: Lane, connection: Connection) -> None:
        pass

    Lane._prove = trusting  # type: ignore[method-assign]


def _doubtfulRowsPublished() -> None:
    Feed.proven = property(  # type: ignore[assignment]
        lambda self: 2**63, lambda self, place: None
    )


def _ownRowsPublished() -> None:
    Feed._isHeld = lambda self, row: False  # type: ignore[method-assign]


def _foreignRowsUnmarked() -> None:
    honest = _feed._row

    def unmarked(place: int, row: Sequence[Any]) -> Any:
        made = honest(place, row)
        event = made.event
        made.event = TradeEvent(event.type, event.data, place=place)
        return made

    _feed._row = unmarked


def _gapSkipped() -> None:
    taken = Feed._taken

    def skipping(self: Feed, rows: Sequence[tuple[Any, ...]], after: int) -> None:
        if rows and rows[0][0] != after + 1 and not self._rows:
            after = self.cursor = rows[0][0] - 1
        count = next(
            (n for n, row in enumerate(rows) if row[0] != after + 1 + n), len(rows)
        )
        taken(self, rows[:count], after)
        if count < len(rows):
            skipping(self, rows[count:], after + count)

    Feed._taken = skipping  # type: ignore[method-assign]


def _resumedAtHead() -> None:
    async def atHead(self: Feed, connection: Connection) -> None:
        [(head,)] = await connection.execute(HEAD, [STREAM])
        self.cursor = max(self.cursor, head)
        self._rows.clear()

    Feed.checkSource = atHead  # type: ignore[method-assign]


def _notPolled() -> None:
    def idle(self: Doorbell) -> None:
        self._polling = self._reactor.callLater(POLL, self._poll)

    Doorbell._poll = idle  # type: ignore[method-assign]


def _lossNotNoticed() -> None:
    async def trusting(self: Any, connection: Connection) -> None:
        pass

    Lane.checkLoss = trusting  # type: ignore[method-assign]
    Feed.checkSource = trusting  # type: ignore[method-assign]


def _startNotMissed() -> None:
    async def shutOut(self: Any, connection: Connection) -> Any:
        return self.fenced()

    Lane._shutOut = shutOut  # type: ignore[method-assign]


def _lookedUpUnchecked() -> None:
    async def trusting(self: Any, connection: Connection) -> None:
        pass

    Readers._check = trusting  # type: ignore[method-assign]


def _replayBeforeEvent() -> None:
    def hasty(self: Feed, place: int, call: Callable[[], None]) -> None:
        call()

    Feed.whenPublished = hasty  # type: ignore[method-assign]


def _numbersOfOneSlot() -> None:
    take = Numbers.take
    Numbers.take = lambda self, login: take(self, 0)  # type: ignore[method-assign]


def _by(suite: str, part: str) -> tuple[str, ...]:
    return (f"tests.postgres.{suite}", "--part", part)


# For each: what a server does that has it, the patch, and the suite.
POSTGRES: Final[dict[str, tuple[str, Callable[[], None], tuple[str, ...]]]] = {
    "places-without-lock": (
        "gives places out under a lock that ends before the commit",
        _placesWithoutLock,
        _by("together", "beside"),
    ),
    "accounts-not-locked": (
        "judges by totals that another node is about to change",
        _accountsNotLocked,
        _by("together", "hot"),
    ),
    "numbers-of-one-slot": (
        "assigns orders that do not tell the slot of their account",
        _numbersOfOneSlot,
        _by("together", "hot"),
    ),
    "keys-looked-up-outside": (
        "looks a key up without waiting for who is about to book under it",
        _keysOutside,
        _by("together", "pairs"),
    ),
    "keys-of-each-node": (
        "finds only those keys that it has booked itself",
        _keysOfEachNode,
        _by("killed", "underLoad"),
    ),
    "replay-before-event": (
        "answers a replay before it has published its event",
        _replayBeforeEvent,
        _by("together", "pairs"),
    ),
    "commit-not-durable": (
        "relies on what its session has set, which a pooler has replaced",
        _notDurable,
        _by("pooled", "durable"),
    ),
    "node-not-fenced": (
        "books what arrives from a connection that was given up",
        _notFenced,
        _by("broken", "stranded"),
    ),
    "name-not-taken": (
        "books beside another process of its name",
        _nameNotTaken,
        _by("cases", "sameName"),
    ),
    "unknown-is-lost": (
        "takes a batch of unknown outcome for one that was not carried out",
        _unknownIsLost,
        _by("broken", "everyByte"),
    ),
    "not-polled": (
        "relies on notifications alone",
        _notPolled,
        _by("broken", "listeners"),
    ),
    "resumed-at-head": (
        "reads on at the end of the journal when it has connected again",
        _resumedAtHead,
        _by("broken", "backends"),
    ),
    "notice-ignored": (
        "acknowledges a commit that did not wait for its standby",
        _noticeIgnored,
        _by("promoted", "doubtful"),
    ),
    "doubtful-rows-published": (
        "tells what another node has booked before a standby has it",
        _doubtfulRowsPublished,
        _by("promoted", "doubtful"),
    ),
    "loss-not-noticed": (
        "goes on after a failover that has lost what it had acknowledged",
        _lossNotNoticed,
        _by("promoted", "lossy"),
    ),
    "start-not-missed": (
        "takes a server that lacks its start for one on which it was shut out",
        _startNotMissed,
        (*_by("gatewaylost", "noticed"), "--losses", "2"),
    ),
    "looked-up-unchecked": (
        "looks up what was acknowledged on a server that may have lost it",
        _lookedUpUnchecked,
        _by("promoted", "lossy"),
    ),
    "own-rows-published": (
        "publishes its own rows before it has the answer to their batch",
        _ownRowsPublished,
        _by("cases", "slowAnswer"),
    ),
    "foreign-rows-unmarked": (
        "gives a waiter the event of another node's operation on its order",
        _foreignRowsUnmarked,
        # Of some hundred changes of the few orders, one meets another node's.
        (*_by("cases", "slowFeed"), "--operations", "6000"),
    ),
    "gap-skipped": (
        "goes on behind a place that is missing",
        _gapSkipped,
        _by("cases", "gap"),
    ),
}
