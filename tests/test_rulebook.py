"""
Tests for L{creditsync._rulebook}: rules that bound what a trading runtime books.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, execute, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from creditsync._bookingrules import Rule
from creditsync._conversation.broadcast import Broadcast
from creditsync._conversation.finance import financeCommands
from creditsync._conversation.sessions import Sessions
from creditsync._conversation.waiters import Waiters
from creditsync._rulebook import RuleBook
from creditsync.errors import (
    Busy,
    IncorrectOrder,
    LedgerProblem,
    LimitExceeded,
    NoMoney,
    OutcomeUnknown,
    ShuttingDown,
)
from creditsync.events import TradeEvents
from creditsync.ledger.memory import MemoryLedger
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.records import Deletion, Limits, Operation, Principal, Reservation
from creditsync.runtime import TradingRuntime
from creditsync.testing import FakeAuthenticator, HeldLedger
from tests.limited import Course
from tests.test_session import SCHEMAS, Client

MANAGER, DEALER, ADMIN = 1, 2, 3
BALANCE_IN, CREDIT_IN, BALANCE_OUT, CREDIT_OUT = 6, 7, 8, 9
ONE = 100_000_000
DAY = 86_400
# 2026-01-01T12:00:00Z
NOON = 1767268800
MIDNIGHT = NOON + 43_200

ADAY = Rule("a day", maxPerDay=100 * ONE)


def credit(
    amount: int,
    order: int = 0,
    login: int = 1001,
    principal: int = 7,
    role: int = MANAGER,
    cmd: int = CREDIT_IN,
    key: str | None = None,
) -> Operation:
    """
    An operation with a whole amount.
    """
    return Operation(
        "CreditInSync",
        cmd,
        login,
        amount * ONE,
        "Bonus",
        order,
        principal=principal,
        role=role,
        key=key,
    )


def deletion(order: int, principal: int = 7) -> Deletion:
    """
    The deletion of a credit.
    """
    cmds = frozenset({CREDIT_IN, CREDIT_OUT})
    return Deletion("DeleteCredit", order, cmds, principal, role=MANAGER)


class RulesCase(SynchronousTestCase):
    """
    A runtime with rules, whose commits end when the test says so.
    """

    maxQueued = 100

    def setUp(self) -> None:
        """
        Prepare what outlives a restart.
        """
        self.now = float(NOON)
        self.clock = Clock()
        self.memory = MemoryLedger()
        self.isHeld = False
        self.reads: list[tuple[Callable[[], Any], Deferred[Any]]] = []

    def read(self, function: Callable[[], Any]) -> "Deferred[Any]":
        """
        Read the ledger, at once or when the test calls L{endRead}.
        """
        if not self.isHeld:
            return maybeDeferred(function)
        held: Deferred[Any] = Deferred()
        self.reads.append((function, held))
        return held

    def endRead(self) -> None:
        """
        Have the oldest read end.
        """
        function, held = self.reads.pop(0)
        maybeDeferred(function).chainDeferred(held)

    def start(self, *rules: Rule) -> None:
        """
        Start a runtime on the ledger in memory.
        """
        self.ledger = HeldLedger(self.memory)
        self.rules = RuleBook(self.ledger, rules, lambda: self.now, self.read)
        self.runtime = TradingRuntime(
            self.clock,
            self.ledger,
            TradeEvents(),
            now=lambda: self.now,
            maxQueued=self.maxQueued,
            rules=self.rules,
        )
        self.started = self.runtime.startService()

    def takes(self, operation: Operation | Deletion) -> Reservation:
        """
        Submit an operation that is accepted.
        """
        reservation = self.runtime.submit(operation)
        assert isinstance(reservation, Reservation)
        return reservation

    def books(self, *operations: Operation | Deletion) -> list[int]:
        """
        Book operations.

        @return: Their orders.
        """
        orders = [self.takes(each).order for each in operations]
        self.commit()
        return orders

    def commit(self) -> None:
        """
        Have everything that is queued committed.
        """
        self.clock.advance(0)
        while self.ledger.commits:
            self.ledger.release()

    def refuses(self, operation: Operation | Deletion, rule: str = "a day") -> str:
        """
        Submit an operation that a rule does not allow.

        @return: The sentence.
        """
        e = self.assertRaises(LimitExceeded, self.runtime.submit, operation)
        self.assertEqual(e.rule, rule)
        return e.message


class AmountTests(RulesCase):
    """
    Tests for C{max-amount}.
    """

    def test_one(self) -> None:
        """
        An operation may have the amount of the rule, and no more, whatever its sign.
        """
        self.start(Rule("large", 100 * ONE))
        self.books(credit(100))
        above = credit(100)
        above.amount += 1
        self.assertEqual(
            self.refuses(above, "large"),
            'the limit "large" allows at most 100.0 in one operation, and this counts'
            " 100.00000001",
        )
        self.books(credit(100))
        self.assertIn("101.0", self.refuses(credit(-101, cmd=CREDIT_OUT), "large"))
        self.books(credit(-100, cmd=CREDIT_OUT))

    def test_request(self) -> None:
        """
        If the rule says so, the refusal names the way over it.
        """
        self.start(Rule("large", 100 * ONE, over="request"))
        self.assertEqual(
            self.refuses(credit(300), "large"),
            'the limit "large" allows at most 100.0 in one operation, and this counts'
            " 300.0; ask for it with MngCreateFinanceRequest",
        )

    def test_severest(self) -> None:
        """
        Of several rules one is named for which no request helps.
        """
        soft = Rule("soft", 10 * ONE, over="request")
        self.start(
            soft, Rule("softer", 5 * ONE, over="request"), Rule("hard", ONE * 20)
        )
        self.refuses(credit(11), "soft")
        self.refuses(credit(7), "softer")
        self.refuses(credit(21), "hard")

    def test_blocked(self) -> None:
        """
        With 0 an account is blocked, for updates and deletions too.
        """
        self.start()
        [order] = self.books(credit(5))
        self.successResultOf(
            self.rules.use([Rule("blocked", 0, logins=frozenset({1001}))])
        )
        for each in (credit(1), credit(5, order), deletion(order)):
            self.refuses(each, "blocked")
        self.books(credit(1, login=1002))

    def test_update(self) -> None:
        """
        An update counts its new amount, or the difference if that is more: a large
        trade can't be taken back in one step either.
        """
        self.start()
        [order] = self.books(credit(500))
        self.successResultOf(self.rules.use([Rule("large", 100 * ONE)]))
        self.refuses(credit(101, order), "large")
        self.assertIn("counts 400.0", self.refuses(credit(100, order), "large"))
        self.assertIn("counts 500.0", self.refuses(deletion(order), "large"))


class DayTests(RulesCase):
    """
    Tests for C{max-per-day}.
    """

    def test_underWay(self) -> None:
        """
        What is under way counts like what is booked.
        """
        self.start(ADAY)
        self.takes(credit(60))
        self.assertEqual(
            self.refuses(credit(41)),
            'the limit "a day" allows at most 100.0 a day for each principal, which'
            " this would exceed",
        )
        self.clock.advance(0)
        self.refuses(credit(41))
        self.commit()
        self.refuses(credit(41))
        self.books(credit(40))
        above = credit(0)
        above.amount = 1
        self.refuses(above)

    def test_keys(self) -> None:
        """
        Each principal, login or role has its own sum, or there is one for all.
        """
        for per, same, other in (
            ("principal", credit(50, login=1002, role=ADMIN), credit(50, principal=8)),
            ("login", credit(50, principal=8, role=ADMIN), credit(50, login=1002)),
            ("role", credit(50, principal=8, login=1002), credit(50, role=ADMIN)),
            ("all", credit(50, principal=8, login=1002, role=ADMIN), None),
        ):
            self.memory = MemoryLedger()
            self.start(Rule("a day", maxPerDay=100 * ONE, per=per))
            self.books(credit(60))
            self.refuses(same)
            if other is not None:
                self.books(other)

    def test_conditions(self) -> None:
        """
        Only what a rule binds counts for it.
        """
        self.start(
            Rule(
                "a day",
                maxPerDay=100 * ONE,
                commands=frozenset({"CreditIn"}),
                roles=frozenset({DEALER}),
            )
        )
        self.books(credit(90, role=DEALER), credit(90), credit(90))
        self.books(credit(90, role=DEALER, cmd=BALANCE_IN))
        self.refuses(credit(11, role=DEALER))
        self.books(credit(10, role=DEALER))

    def test_groups(self) -> None:
        """
        The group of an account can be a condition.
        """
        self.start(Rule("a day", maxPerDay=100 * ONE, groups="real*"))
        self.rules.groupOf = {1001: "real1", 1002: "demo"}.__getitem__
        self.books(credit(70), credit(900, login=1002))
        self.refuses(credit(31))

    def test_changes(self) -> None:
        """
        Updates and deletions count too, and a deletion gives nothing back.
        """
        self.start(ADAY)
        [order] = self.books(credit(30))
        self.books(credit(40, order))
        self.books(credit(10, order))
        # 30 and 40, and the 30 that the last one took back.
        self.refuses(deletion(order))
        self.refuses(credit(1))
        self.books(deletion(order, principal=8))
        self.refuses(credit(91, principal=8))
        self.books(credit(90, principal=8))

    def test_refused(self) -> None:
        """
        What is refused does not count, whatever it is refused for.
        """
        self.start(ADAY)
        [order] = self.books(credit(10))
        self.refuses(credit(91))
        self.assertRaises(NoMoney, self.runtime.submit, credit(-50, cmd=CREDIT_OUT))
        self.assertRaises(IncorrectOrder, self.runtime.submit, credit(50, order, 1002))

        def busy(ledger: HeldLedger) -> int:
            raise Busy("no numbers")

        patched = self.patch(HeldLedger, "newOrder", busy)
        self.assertRaises(Busy, self.runtime.submit, credit(50))
        patched.restore()
        self.books(credit(90))

    def test_repeated(self) -> None:
        """
        A request that is repeated under its key counts once, and is never refused.
        """
        self.start(ADAY)
        first = self.takes(credit(100, key="k"))
        self.assertIs(self.takes(credit(100, key="k")), first)
        self.commit()
        self.assertTrue(self.takes(credit(100, key="k")).isReplay)
        self.refuses(credit(1, key="another"))

    def test_nextDay(self) -> None:
        """
        The sums begin anew with each UTC day.
        """
        self.start(ADAY)
        self.now = NOON + 43_199.5
        self.books(credit(100))
        self.refuses(credit(1))
        self.now = NOON + 43_200
        self.books(credit(100))
        self.refuses(credit(1))

    def test_clockSetBack(self) -> None:
        """
        A clock that is set back over midnight finds the sums of the day before.
        """
        self.start(ADAY)
        self.now = NOON + 43_199
        self.books(credit(60))
        self.now = NOON + 43_201
        self.books(credit(70))
        self.now = NOON + 43_199
        self.refuses(credit(41))
        self.now = NOON + 43_201
        self.refuses(credit(31))

    def test_refusalsLeaveNothing(self) -> None:
        """
        Refusals take no memory, and days gone by neither.
        """
        self.start(Rule("a day", maxPerDay=0, per="login"))
        for login in range(1, 50):
            self.now += DAY
            self.refuses(credit(1, login=login))
        self.assertEqual([*map(len, self.rules._day._sums.values())], [0, 0])


class RestartTests(RulesCase):
    """
    Tests for the sums of a new process.
    """

    def test_restarted(self) -> None:
        """
        What was booked today counts, and nothing else.
        """
        self.start(ADAY)
        self.now = NOON - DAY
        self.books(credit(100))
        self.now = NOON
        self.books(credit(60))
        self.start(ADAY)
        self.refuses(credit(41))
        self.books(credit(40))

    def test_lost(self) -> None:
        """
        What was lost with the process before does not count any more.
        """
        self.start(ADAY)
        self.books(credit(60))
        self.takes(credit(40))
        self.start(ADAY)
        self.refuses(credit(41))
        self.books(credit(40))

    def test_clockSetBackBefore(self) -> None:
        """
        If the clock was set back over midnight before the start, what was booked on
        the next day counts as soon as that comes.
        """
        self.start(ADAY)
        self.now = MIDNIGHT + 10
        self.books(credit(60))
        self.now = MIDNIGHT - 3590
        self.start(ADAY)
        self.books(credit(100))
        self.now = MIDNIGHT + 20
        self.refuses(credit(41))
        self.books(credit(40))

    def test_clockSetBackAfter(self) -> None:
        """
        If it is set back over midnight after the start, what was booked on the day
        before counts.
        """
        self.start(ADAY)
        self.now = MIDNIGHT - 10
        self.books(credit(60))
        self.now = MIDNIGHT + 3590
        self.start(ADAY)
        self.books(credit(100))
        self.now = MIDNIGHT - 5
        self.refuses(credit(41))
        self.books(credit(40))

    def test_waits(self) -> None:
        """
        Nothing is accepted before the sums are read.
        """
        self.isHeld = True
        self.start(ADAY)
        assert self.started is not None
        self.assertNoResult(self.started)
        self.assertRaises(ShuttingDown, self.runtime.submit, credit(1))
        self.endRead()
        self.successResultOf(self.started)
        self.takes(credit(1))

    def test_reloadedMeanwhile(self) -> None:
        """
        If other rules are to be used while the sums are read for the first ones,
        these are in force until then: nothing is accepted without rules.
        """
        self.isHeld = True
        self.start(ADAY)
        used = self.rules.use([Rule("other", 50 * ONE)])
        assert self.started is not None
        self.endRead()
        self.successResultOf(self.started)
        self.refuses(credit(101))
        self.books(credit(30))
        self.endRead()
        self.successResultOf(used)
        self.refuses(credit(51), "other")

    def test_reloadedBefore(self) -> None:
        """
        Rules that are to be used before the ledger is open take the place of the
        first ones.
        """
        ledger = HeldLedger(self.memory)
        rules = RuleBook(ledger, [Rule("former", 0)], lambda: self.now)
        self.successResultOf(rules.use([ADAY]))
        ledger.open()
        self.successResultOf(rules.start())
        self.assertEqual(rules.rules, (ADAY,))

    def test_unreadable(self) -> None:
        """
        If they can't be read, the runtime does not start.
        """
        self.isHeld = True
        self.start(ADAY)
        self.reads.pop()[1].errback(LedgerProblem("no"))
        assert self.started is not None
        self.failureResultOf(self.started, LedgerProblem)
        self.assertRaises(ShuttingDown, self.runtime.submit, credit(1))

    def test_failed(self) -> None:
        """
        After a failed commit nothing is accepted; the next start counts what is on
        disk.
        """
        self.start(ADAY)
        lost = self.takes(credit(60)).whenDurable()
        self.clock.advance(0)
        self.ledger.fail(OSError("no"))
        self.failureResultOf(lost, OutcomeUnknown)
        self.flushLoggedErrors(OSError)
        self.failureResultOf(self.runtime.whenFailed(), OSError)
        self.assertRaises(ShuttingDown, self.runtime.submit, credit(1))
        self.start(ADAY)
        self.books(credit(100))


class ReloadTests(RulesCase):
    """
    Tests for L{RuleBook.use}: other rules come into force.
    """

    def test_counted(self) -> None:
        """
        New rules count what was booked before, and what is under way.
        """
        self.start()
        self.books(credit(30))
        self.takes(credit(20))
        self.clock.advance(0)
        self.takes(credit(10))
        used = self.rules.use([ADAY])
        self.takes(credit(5))
        self.assertNoResult(used)
        self.commit()
        self.successResultOf(used)
        self.assertEqual(self.rules.rules, (ADAY,))
        self.refuses(credit(36))
        self.books(credit(35))

    def test_meanwhile(self) -> None:
        """
        While the sums are read the former rules are in force, and what is booked
        counts for the new ones, once.
        """
        self.start(Rule("former", 60 * ONE))
        self.books(credit(30))
        self.isHeld = True
        used = self.rules.use([ADAY])
        self.books(credit(60))
        self.refuses(credit(61), "former")
        self.endRead()
        self.successResultOf(used)
        self.refuses(credit(11))
        self.books(credit(10))

    def test_last(self) -> None:
        """
        Of several reloads at once the last one wins, in whatever order they end.
        """
        self.start()
        self.isHeld = True
        first = self.rules.use([Rule("first", 0)])
        second = self.rules.use([ADAY])
        self.reads.reverse()
        self.endRead()
        self.endRead()
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertEqual(self.rules.rules, (ADAY,))

    def test_unreadable(self) -> None:
        """
        If the sums can't be read, the former rules stay.
        """
        self.start(ADAY)
        self.books(credit(60))
        self.isHeld = True
        used = self.rules.use([])
        self.reads.pop()[1].errback(LedgerProblem("no"))
        self.failureResultOf(used, LedgerProblem)
        self.assertEqual(self.rules._coming, [])
        self.refuses(credit(41))

    def test_lifted(self) -> None:
        """
        Without rules there is no limit.
        """
        self.start(ADAY)
        self.books(credit(100))
        self.successResultOf(self.rules.use([]))
        self.books(credit(500))


class Sixteen(FakeAuthenticator):
    """
    Tokens of sixteen dealers.
    """

    def authenticate(self, token: str | None) -> Principal:
        """
        The token is the id.
        """
        return Principal(int(token or 0), DEALER, float("inf"), token)


class SessionTests(RulesCase):
    """
    Tests for rules with sessions.
    """

    def setUp(self) -> None:
        """
        Start a server with sixteen clients.
        """
        super().setUp()
        self.start(Rule("all of us", maxPerDay=100 * ONE, per="all"))
        events = self.runtime._events
        waiters = Waiters(self.clock, 5.0)
        authenticator = Sixteen()
        broadcast = Broadcast(authenticator, waiters)
        events.addObserver(broadcast.tradeEvents)
        self.sessions = Sessions(
            commands=list(financeCommands(self.runtime)),
            authenticator=authenticator,
            schemas=SCHEMAS,
            waiters=waiters,
            broadcast=broadcast,
            limits=Limits(),
        )
        self.clients = [Client(self.sessions) for _ in range(16)]

    def ask(self, number: int, amount: int = 9, command: str = "CreditInSync") -> None:
        """
        Have one client ask.
        """
        self.clients[number].asks(
            command,
            data={"login": 1001, "amount": amount, "comment": "Bonus"},
            token=str(number + 1),
        )

    def outcomes(self) -> list[tuple[int, str | None]]:
        """
        The status and error of each reply.
        """
        return [
            (status, error)
            for client in self.clients
            for _, status, error in client.outcomes()
        ]

    def test_together(self) -> None:
        """
        Sixteen sessions that ask at once don't pass together what one may not, with
        either form of the command.
        """
        for number in range(16):
            self.ask(number, command="CreditIn" if number % 2 else "CreditInSync")
        self.assertEqual(self.outcomes(), [(409, "LIMIT_EXCEEDED")] * 5)
        self.commit()
        self.clock.advance(0)
        self.assertEqual(self.outcomes(), [(200, None)] * 11)
        self.assertEqual(self.memory.head, 11)

    def test_inTurns(self) -> None:
        """
        Nor do they when commits end in between.
        """
        accepted = 0
        for turn in range(5):
            for number in range(16):
                self.ask(number, amount=1 + (turn + number) % 3)
            self.clock.advance(0)
            if self.ledger.commits:
                self.ledger.release()
            accepted += self.outcomes().count((200, None))
        self.commit()
        accepted += self.outcomes().count((200, None))
        account = self.memory.account(1001)
        assert account is not None
        self.assertEqual(account.credit, 100 * ONE)
        self.assertEqual(accepted, self.memory.head)

    def test_named(self) -> None:
        """
        The refusal names the rule.
        """
        self.ask(0, 101)
        [reply] = self.clients[0].replies()
        self.assertEqual(
            reply,
            {
                "extID": "a",
                "status": 409,
                "error": "LIMIT_EXCEEDED",
                "message": 'the limit "all of us" allows at most 100.0 a day in all,'
                " which this would exceed",
            },
        )


class ReferenceTests(SynchronousTestCase):
    """
    A comparison with L{tests.limited}'s plain reference.
    """

    def test_courses(self) -> None:
        """
        Whatever happens, the verdicts are those of the reference.
        """
        refused = 0
        for seed in range(60):
            course = Course(seed)
            course.run()
            refused += course.refused
        self.assertGreater(refused, 100)


class SQLiteTests(SynchronousTestCase):
    """
    The sums of a day in a ledger on disk.
    """

    def test_restarted(self) -> None:
        """
        A server that starts again goes on with the sums of the day.
        """
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        path = os.path.join(made.name, "ledger.db")
        clock, now = Clock(), NOON

        def runtime(rules: Sequence[Rule]) -> TradingRuntime:
            ledger = SQLiteLedger(path, execute)
            made = TradingRuntime(
                clock,
                ledger,
                TradeEvents(),
                now=lambda: now,
                maxQueued=10,
                rules=RuleBook(ledger, rules, lambda: now),
            )
            made.startService()
            return made

        first = runtime([ADAY])
        for asked in (credit(40), credit(90, principal=8)):
            first.submit(asked)
        clock.advance(0)
        first.submit(credit(10, order=1, principal=9))
        self.assertRaises(LimitExceeded, first.submit, credit(61))
        clock.advance(0)
        self.successResultOf(first.stopService())
        second = runtime([Rule("a day", maxPerDay=250 * ONE, per="all")])
        # 40 and 90, and the 30 that the update took back.
        self.assertRaises(LimitExceeded, second.submit, credit(91))
        second.submit(credit(90))
        clock.advance(0)
        self.successResultOf(second.stopService())
