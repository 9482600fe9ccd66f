"""
The ledger on PostgreSQL as it is at one moment, as a file for the commands that read
one; and what only PostgreSQL has, and can be wrong.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from creditsync.ledger._journal import MEMBERS
from creditsync.ledger._picturing import picture
from creditsync.methods import TOTALS
from creditsync.postgres._blocking import CommandSession
from creditsync.postgres._connection import Row
from creditsync.postgres._schema import STREAM
from creditsync.records import TRADE_MEMBERS

_PAGE: Final = 5000

_SNAPSHOT: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_JOURNAL: Final = f"""
    SELECT {{}}, link.hash
    FROM event LEFT JOIN link ON link.stream = event.stream AND link.hi = event.seq
    WHERE event.stream = {STREAM} {{}} ORDER BY event.seq
"""
# The end of the journal is there for every account: it tells that nothing is missing.
_OF_LOGIN: Final = f"""
    AND (login = %s OR seq = (SELECT max(hi) FROM link WHERE stream = {STREAM}))
"""

# What a file does not have: a rule's name, what selects the cases that break it, and
# the message.
RULES: Final = (
    (
        "link",
        "SELECT lo, hi FROM (SELECT lo, hi, lag(hi, 1, 0::bigint) OVER (ORDER BY hi)"
        f" AS before FROM link WHERE stream = {STREAM}) AS links WHERE lo <> before + 1"
        " OR hi < lo",
        "the link of places {} to {} does not begin behind the one before it",
    ),
    (
        "item",
        "SELECT event.seq FROM event JOIN link ON link.stream = event.stream"
        " AND link.lo <= event.seq AND event.seq <= link.hi"
        " WHERE (event.node, event.batch) <> (link.node, link.batch)",
        "place {} of the journal is not of the batch of its link",
    ),
    (
        "key",
        "SELECT coalesce(keyed.key, event.key) FROM keyed FULL JOIN"
        " (SELECT * FROM event WHERE key IS NOT NULL) AS event"
        " ON keyed.stream = event.stream AND keyed.seq = event.seq"
        " AND keyed.principal = event.principal AND keyed.key = event.key"
        " WHERE keyed.key IS NULL OR event.key IS NULL",
        "the key {} does not lead to the place that was booked under it",
    ),
    (
        "epoch",
        "SELECT stream.epoch FROM stream WHERE epoch <> (SELECT epoch FROM life"
        " WHERE life.stream = stream.id ORDER BY number DESC LIMIT 1)",
        "the journal has the epoch {}, which is not that of its last life",
    ),
)


def pictureOf(
    session: CommandSession,
    path: str,
    login: int | None = None,
    hasJournal: bool = True,
) -> list[tuple[str, str]]:
    """
    Make the file.

    @param login: Only what is of this account.
    @param hasJournal: Whether the journal and the trades are wanted.
    @return: Rules that only PostgreSQL can break, and does, each with a message. They
        are looked at with the whole ledger only.
    @raise LedgerProblem: There are no tables, or others.
    """
    session.checkReadable()
    session.rows(_SNAPSHOT)
    picture(path, _tables(session, login, hasJournal))
    if login is not None or not hasJournal:
        return []
    return [
        (name, message.format(*row))
        for name, statement, message in RULES
        for row in session.rows(statement)
    ]


def _tables(
    session: CommandSession, login: int | None, hasJournal: bool
) -> Iterator[tuple[str, Sequence[str], Iterator[Row]]]:
    where, values = ("", []) if login is None else ("WHERE login = %s", [login])

    def selected(statement: str, values: Sequence[Any] = ()) -> Iterator[Row]:
        # With a name it fetches page by page.
        with session.session.cursor("creditsync") as cursor:
            cursor.itersize = _PAGE
            yield from cursor.execute(statement.encode(), values or None)

    def whole(
        name: str, columns: Sequence[str], rest: str = "", values: Sequence[Any] = ()
    ) -> tuple[str, Sequence[str], Iterator[Row]]:
        quoted = _quoted(columns)
        return name, columns, selected(f"SELECT {quoted} FROM {name} {rest}", values)

    yield whole("operation", ("cmd", *TOTALS, "sign", "label"))
    yield whole(
        "life",
        ("number", "epoch", "head", "cause", "timestamp"),
        f"WHERE stream = {STREAM}",
    )
    mark = "SELECT 1, next FROM block"
    yield "order_mark", ("id", "next_order"), selected(mark)
    yield whole("account", ("login", "group", *TOTALS), where, values)
    if hasJournal:
        yield whole("trade", (*TRADE_MEMBERS, "revision", "place"), where, values)
        ofLogin = "" if login is None else _OF_LOGIN
        rows = selected(_JOURNAL.format(_quoted(MEMBERS), ofLogin), values)
        yield "journal", (*MEMBERS, "hash"), rows


def _quoted(names: Sequence[str]) -> str:
    return ", ".join('"seq"' if name == "place" else f'"{name}"' for name in names)
