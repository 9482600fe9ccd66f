"""
One law, three ledgers: a state machine that has memory, SQLite and PostgreSQL book the
same operations, and compares what becomes of them. It books those of
C{tests/postgres/lives.py}, one life for each rule, and then what it draws.

The runtime judges for memory and SQLite, book.sql for PostgreSQL, where two nodes take
turns. All three get the same order numbers, so that every number and every hash of
their journals can be compared. ::

    python -m tests.postgres.conformance --examples 5000 --seed 7
"""

import os
import shutil
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import psycopg
from attrs import evolve
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import Deferred, execute
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
from creditsync.methods import ofCmd
from creditsync.postgres._booking import (
    BOOK,
    Site,
    Submission,
    Verdict,
    refusal,
    values,
)
from creditsync.postgres._limits import REGISTER, registered
from creditsync.postgres._searching import search
from creditsync.records import (
    AnyOperation,
    Operation,
    Reservation,
    TradeFilter,
)
from creditsync.runtime import TradingRuntime
from tests.figures import Figures
from tests.postgres import ground
from tests.postgres.drawn import LOGINS, REPEATED, RULES, filters, operations
from tests.postgres.engine import NOW, Node, makeTables
from tests.postgres.lines import Line, Lines
from tests.postgres.lives import LIVES, Life

# An order that nobody makes.
UNKNOWN = 7
# Far from the orders that are made: a reserved number that stays unused.
UNUSED = 1_000_000

TABLES = ("rule", "counted", "event", "link", "trade", "opened", "keyed")

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
        self.made: dict[int, tuple[int, int]] = {}
        self.keyed: list[AnyOperation] = []
        self.now = NOW
        memory.addAccounts(sorted(existing), "real")
        sqlite.addAccounts(sorted(existing), "real")
        for login in sorted(existing):
            self.nodes[0].rows("INSERT INTO account VALUES (%s, 'real')", login)
        for node in self.nodes:
            node.site = site
        self._register(site)

    def _change(self, rules: tuple[Rule, ...]) -> None:
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
        drawn=st.lists(
            st.tuples(operations(), st.booleans(), REPEATED), min_size=1, max_size=12
        ),
        number=st.integers(0, 1),
        later=st.sampled_from((0, 0, 60, 86400)),
        rules=st.sampled_from((None, None, *RULES)),
        filter=st.none() | filters(),
    )
    def book(
        self,
        drawn: list[tuple[AnyOperation, bool, int | None]],
        number: int,
        later: int,
        rules: tuple[Rule, ...] | None,
        filter: TradeFilter | None,
    ) -> None:
        """
        Book a batch on each of them, through one of the nodes, and search them.

        @param drawn: The operations, each with whether it fits the order that it names,
            and the number of one with a key, from the end, which is repeated instead.
        @param rules: Put into force before that.
        """
        self.now += later
        if rules is not None:
            self._change(rules)
        asked = [self._asked(*each) for each in drawn]
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
        for outcome in outcomes[0]:
            if outcome[0] == "booked" and outcome[1] == 0:
                trade = outcome[3]
                self.made[trade.order] = trade.login, trade.cmd
        if filter is not None:
            self._search(filter)

    def _search(self, filter: TradeFilter) -> None:
        outcomes = [books.ledger.search(filter, list) for books in self.books]
        assert outcomes[0] == outcomes[1]
        [node, *_] = self.nodes
        line: Any = Line(Lines(node.database), "search", node.connection)
        found: list[Any] = []
        searching = Deferred.fromCoroutine(search(line, filter, list))
        searching.addBoth(found.append)
        assert found == [outcomes[0]], (found, outcomes[0])

    def _asked(
        self, operation: AnyOperation, fits: bool, repeated: int | None
    ) -> AnyOperation:
        if repeated is not None and repeated < len(self.keyed):
            again = copied(self.keyed[-1 - repeated])
            if fits:
                # All but the order is the same.
                again.order = self._named(operation.order)
            return again
        operation.order = order = self._named(operation.order)
        if fits and isinstance(operation, Operation) and order in self.made:
            operation.login, operation.cmd = self.made[order]
            operation.amount = ofCmd(operation.cmd).sign * abs(operation.amount)
        if operation.key is not None:
            self.keyed.append(copied(operation))
        return operation

    def _named(self, order: int) -> int:
        if order == -1:
            return 0
        if order == -3:
            ledger = self.books[0].ledger
            assert isinstance(ledger, MemoryLedger)
            return ledger.nextOrder
        made = [*self.made][-1 - order :][:1] if order >= 0 else []
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


@contextmanager
def connected() -> Iterator[list[Node]]:
    """
    Connect the machine's two nodes to a database of their own.
    """
    database = ground.database()
    try:
        makeTables(database)
        nodes = [Node(database, 1), Node(database, 2)]
        ConformanceMachine.nodes = nodes
        try:
            yield nodes
        finally:
            for node in nodes:
                node.connection.close()
    finally:
        database.drop()


def live(life: Life) -> None:
    """
    Have the machine book one life.

    @raise AssertionError: The ledgers differ.
    """
    machine = ConformanceMachine()
    try:
        machine.open(life.site, life.existing)
        for number, batch in enumerate(life.batches):
            drawn = [(copied(each), False, None) for each in batch.operations]
            machine.book(drawn, number % 2, batch.later, batch.rules, None)
    finally:
        machine.teardown()


def run(examples: int, seeded: int | None = None) -> None:
    """
    Run the machine.

    @param seeded: Which examples; always the same ones if it is L{None}.
    @raise AssertionError: The ledgers differ.
    """
    machine: Any = ConformanceMachine
    if seeded is not None:
        machine = seed(seeded)(machine)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=6,
            deadline=None,
            database=None,
            derandomize=seeded is None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )


def main(arguments: Sequence[str]) -> int:
    """
    Run the command.

    @return: The exit status.
    """
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    with connected():
        try:
            for life in LIVES.values():
                live(life)
            run(options.examples, options.seed)
        except (AssertionError, psycopg.Error) as e:
            print(f"VIOLATION: {e}")
            return 1
    Figures(examples=options.examples).show(options.json)
    count = len(LIVES) + options.examples
    print(f"sound: {count} lives of a ledger are the same on all three")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
