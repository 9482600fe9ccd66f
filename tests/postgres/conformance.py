"""
One law, three ledgers: a state machine that has memory, SQLite and PostgreSQL book the
same operations, and compares what becomes of them.

The runtime judges for memory and SQLite, book.sql for PostgreSQL, where two nodes take
turns. All three get the same order numbers, so that every number and every hash of
their journals can be compared.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Any, ClassVar

from attrs import evolve
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from twisted.internet.defer import execute
from twisted.internet.task import Clock

from creditsync._bookingrules import Rule
from creditsync._rulebook import RuleBook
from creditsync.errors import Refusal
from creditsync.events import TradeEvents
from creditsync.interfaces import ILedger
from creditsync.ledger._journal import MEMBERS
from creditsync.ledger._reading import reading
from creditsync.ledger._schema import COLUMNS, columns
from creditsync.ledger.memory import MemoryLedger
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.methods import BOOKING_METHODS, DELETING_METHODS, syncName
from creditsync.postgres._booking import (
    BOOK,
    Site,
    Submission,
    Verdict,
    refusal,
    values,
)
from creditsync.postgres._limits import REGISTER, registered
from creditsync.records import (
    AnyOperation,
    Decision,
    Deletion,
    Operation,
    Reservation,
)
from creditsync.runtime import TradingRuntime
from tests.postgres.engine import NOW, Node

LOGINS = (1001, 1002, 1065)
KEYS = (None, None, None, "a", "b", "c")
# An order that nobody makes.
UNKNOWN = 7
# Far from the orders that are made: a reserved number that stays unused.
UNUSED = 1_000_000

# The commands that decide finance requests.
DECIDING = (
    ("MngApproveFinanceRequest", True),
    ("MngApproveFinanceRequestSync", True),
    ("MngDeclineFinanceRequest", False),
)

# Rules of a site, of which one set is in force at a time.
RULES = (
    (),
    (Rule("one", maxAmount=2),),
    (Rule("day", maxPerDay=6),),
    (
        Rule("login", maxPerDay=4, per="login", over="request"),
        Rule("group", maxAmount=1, groups="!demo,re*l", roles=frozenset({1, 2})),
    ),
    (
        Rule(
            "all",
            maxPerDay=5,
            per="all",
            commands=frozenset({"CreditOut", "DeleteCredit", "BalanceIn"}),
        ),
        Rule("seven", maxPerDay=8, per="role", principals=frozenset({7})),
        Rule("1002", maxAmount=0, logins=frozenset({1002}), over="request"),
    ),
)

TABLES = ("rule", "counted", "event", "link", "trade", "account", "keyed")

# What SQLite's ledger and PostgreSQL's select alike.
SAME = (
    (
        f"SELECT {columns(MEMBERS)} FROM journal ORDER BY place",
        f"SELECT seq, {columns(MEMBERS[1:])} FROM event ORDER BY seq",
    ),
    ("SELECT lo, hi, hash FROM link ORDER BY hi",) * 2,
    (
        f'SELECT {COLUMNS}, revision, place FROM trade ORDER BY "order"',
        f'SELECT {COLUMNS}, revision, seq FROM trade ORDER BY "order"',
    ),
    ('SELECT login, "group", balance, credit FROM account ORDER BY login',) * 2,
    (
        "SELECT principal, key, place FROM journal WHERE key IS NOT NULL"
        " ORDER BY place",
        "SELECT principal, key, seq FROM keyed ORDER BY seq",
    ),
)

# What became of an operation: the words for a refusal, or what was booked.
Outcome = tuple[Any, ...]


@st.composite
def operations(draw: Callable[[st.SearchStrategy[Any]], Any]) -> AnyOperation:
    """
    An operation; its order is the number of one of those made so far, from the end, or
    -1 for none, or -2 for one that does not exist.
    """
    principal = draw(st.sampled_from((7, 7, 8)))
    key = draw(st.sampled_from(KEYS))
    order = draw(st.integers(-2, 6))
    isSync = draw(st.booleans())
    deciding = draw(st.sampled_from((None,) * 6 + DECIDING))
    if deciding is not None:
        command, isApproval = deciding
        comment = draw(st.sampled_from(("", "", "why")))
        return Decision(command, order, isApproval, comment, principal, key, role=1)
    deleting = draw(st.sampled_from((None, None, None, *DELETING_METHODS)))
    if deleting is not None:
        return Deletion(
            syncName(deleting) if isSync else deleting.name,
            order,
            deleting.cmds,
            principal,
            key,
            role=1,
        )
    method = draw(st.sampled_from(BOOKING_METHODS))
    times = st.sampled_from((None, None, None, 0, NOW - 1, NOW + 1))
    if draw(st.sampled_from((False, False, False, True))):
        return Operation(
            "MngCreateFinanceRequest",
            method.cmd,
            draw(st.sampled_from(LOGINS)),
            method.sign * draw(st.sampled_from((1, 2, 10**18))),
            draw(st.sampled_from(("a", "b"))),
            -1,
            draw(times),
            None,
            principal,
            key,
            role=1,
            isRequest=True,
        )
    return Operation(
        syncName(method) if isSync else method.name,
        method.cmd,
        draw(st.sampled_from(LOGINS)),
        method.sign * draw(st.sampled_from((1, 2, 3, 10**18, 2**63 - 1))),
        draw(st.sampled_from(("", "a", '"\\\n\t', "é😀"))),
        draw(st.sampled_from((-1, -1, order))),
        draw(times),
        draw(times),
        principal,
        key,
        role=draw(st.sampled_from((None, 1, 2))),
    )


class Books:
    """
    A ledger in this process, and the runtime that judges for it.
    """

    def __init__(self, ledger: ILedger, site: Site) -> None:
        self.ledger = ledger
        self.clock = Clock()
        self.now = NOW
        self.rules = RuleBook(ledger, site.rules, lambda: self.now)
        self.runtime = TradingRuntime(
            self.clock,
            ledger,
            TradeEvents(),
            now=lambda: self.now,
            maxQueued=10_000,
            knownAccountsOnly=site.knownAccountsOnly,
            selfApproval=site.selfApproval,
            rules=self.rules,
        )
        self.runtime.startService()

    def book(self, asked: list[AnyOperation]) -> list[Outcome]:
        """
        Book one batch.
        """
        found: list[Reservation | Refusal] = []
        for each in asked:
            try:
                found.append(self.runtime.submit(each))
            except Refusal as refused:
                found.append(refused)
        self.clock.advance(0)
        outcomes: list[Outcome] = []
        for number, each in enumerate(found):
            if isinstance(each, Refusal):
                outcomes.append(said(each))
            elif each.isReplay or found.index(each) < number:
                outcomes.append(("again", *booked(each)))
            else:
                outcomes.append(("booked", *booked(each)))
        return outcomes


def said(refused: Refusal) -> Outcome:
    """
    All that a client is told by a refusal.
    """
    return type(refused).__name__, refused.message, refused.data, refused.rule


def booked(reservation: Reservation) -> Outcome:
    """
    What was booked, with its place.
    """
    each = reservation
    return each.type, each.place, each.data, each.balance, each.credit


class ConformanceMachine(RuleBasedStateMachine):
    """
    Books one batch after the other.

    @cvar nodes: Of PostgreSQL.
    """

    nodes: ClassVar[list[Node]] = []

    @initialize(
        site=st.builds(Site, st.booleans(), st.booleans(), st.sampled_from(RULES)),
        existing=st.sets(st.sampled_from(LOGINS)),
    )
    def open(self, site: Site, existing: set[int]) -> None:
        """
        Open three empty ledgers with the same accounts.
        """
        self.folder = tempfile.mkdtemp()
        self.path = os.path.join(self.folder, "ledger.db")
        self.nodes[0].rows(f"TRUNCATE {', '.join(TABLES)}")
        memory = MemoryLedger()
        sqlite = SQLiteLedger(self.path, execute)
        self.books = [Books(memory, site), Books(sqlite, site)]
        self.orders: list[int] = []
        self.now = NOW
        memory.addAccounts(sorted(existing), "real")
        sqlite.addAccounts(sorted(existing), "real")
        for login in sorted(existing):
            self.nodes[0].rows("INSERT INTO account VALUES (%s, 'real')", login)
        for node in self.nodes:
            node.site = site
        self._register(site)

    @rule(rules=st.sampled_from(RULES), later=st.sampled_from((0, 86400)))
    def change(self, rules: tuple[Rule, ...], later: int) -> None:
        """
        Put other rules into force, maybe on the next day.
        """
        self.now += later
        for books in self.books:
            books.now = self.now
            books.rules.use(rules)
        for node in self.nodes:
            node.site = evolve(node.site, rules=rules)
        self._register(self.nodes[0].site)

    def _register(self, site: Site) -> None:
        connection = self.nodes[0].connection
        connection.execute(REGISTER.encode(), registered(site.rules, self.now))

    @rule(
        asked=st.lists(operations(), min_size=1, max_size=12),
        number=st.integers(0, 1),
        later=st.sampled_from((0, 0, 60)),
    )
    def book(self, asked: list[AnyOperation], number: int, later: int) -> None:
        """
        Book a batch on each of them, through one of the nodes.
        """
        self.now += later
        for each in asked:
            each.order = self._named(each.order)
        outcomes = []
        for books in self.books:
            books.now = self.now
            outcomes.append(books.book([copied(each) for each in asked]))
        assert outcomes[0] == outcomes[1]
        fresh = [
            outcome[3].order
            if outcome[0] == "booked" and outcome[1] == 0
            else UNUSED + number
            for number, outcome in enumerate(outcomes[0])
        ]
        theirs = self._onPostgres(asked, fresh, self.nodes[number])
        for ours, other in zip(outcomes[0], theirs, strict=True):
            assert other == ours, (other, ours)
        self.orders += [order for order in fresh if order < UNUSED]

    def _named(self, order: int) -> int:
        if order == -1:
            return 0
        made = self.orders[-1 - order :][:1] if order >= 0 else []
        return made[0] if made else UNKNOWN * UNUSED

    def _onPostgres(
        self, asked: list[AnyOperation], fresh: list[int], node: Node
    ) -> list[Outcome]:
        node.batch += 1
        submitted = [
            Submission(each, order if isinstance(each, Operation) else 0)
            for each, order in zip(asked, fresh, strict=True)
        ]
        rows = node.connection.execute(
            BOOK.encode(),
            values(
                node.number,
                node.incarnation,
                node.batch,
                self.now,
                node.site,
                submitted,
            ),
        ).fetchall()
        verdicts = [Verdict(*row) for row in rows]
        outcomes: list[Outcome] = []
        for verdict, operation in zip(verdicts, asked, strict=True):
            refused = refusal(verdict, operation, node.site)
            if refused is not None:
                outcomes.append(said(refused))
                continue
            word, of = "booked", verdict
            if verdict.verdict == "twin":
                assert verdict.seq is not None
                word, of = "again", verdicts[verdict.seq - 1]
            elif verdict.verdict == "replay":
                word = "again"
            outcomes.append((word, of.type, of.seq, of.trade, of.balance, of.credit))
        return outcomes

    def teardown(self) -> None:
        """
        Compare the ledgers, row by row.
        """
        if not hasattr(self, "books"):
            return
        for books in self.books:
            books.runtime.stopService()
        try:
            with reading(self.path) as connection:
                for ours, theirs in SAME:
                    found = [tuple(row) for row in connection.execute(ours)]
                    assert found == self.nodes[0].rows(theirs), theirs
        finally:
            shutil.rmtree(self.folder)


def copied(operation: AnyOperation) -> AnyOperation:
    """
    An equal operation, as each runtime marks its own.
    """
    members = {name: getattr(operation, name) for name in operation.__struct_fields__}
    return type(operation)(**members)
