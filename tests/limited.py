"""
Sixteen principals who book within the rules of a site, in random order::

    python -m tests.limited [--rounds N] [--seed N] [--plant BUG]

Commits and reads of the journal end when chance says so, rules change, days pass, and
the server restarts or crashes. A plain reference, which adds up everything anew for
each operation, must come to the same verdict.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from attrs import Factory, define
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock

from creditsync._bookingrules import Rule
from creditsync._rulebook import RuleBook
from creditsync.errors import (
    Forbidden,
    IncorrectOrder,
    LimitExceeded,
    NoMoney,
    NotFound,
)
from creditsync.events import TradeEvents
from creditsync.ledger.memory import MemoryLedger
from creditsync.records import Decision, Deletion, Operation
from creditsync.runtime import TradingRuntime
from creditsync.testing import HeldLedger
from tests.planted.bugs import plant

DAY = 86_400
NOON = 20_454 * DAY + 43_200

MANAGER, DEALER, ADMIN = 1, 2, 3
# By the id of a principal.
ROLES = [MANAGER, DEALER, DEALER, ADMIN] * 4
LOGINS = (1001, 1002, 1003)

# By cmd: the name of the method, that of the one which deletes, the sign of amounts,
# and the total.
METHODS = {
    6: ("BalanceIn", "DeleteBalance", 1, "balance"),
    7: ("CreditIn", "DeleteCredit", 1, "credit"),
    8: ("BalanceOut", "DeleteBalance", -1, "balance"),
    9: ("CreditOut", "DeleteCredit", -1, "credit"),
}
OF_TOTAL = {"balance": frozenset({6, 8}), "credit": frozenset({7, 9})}

Asked = Operation | Deletion | Decision


class Wrong(Exception):
    """
    The server and the reference disagree.
    """


@define
class Booked:
    """
    An operation that was accepted.

    @ivar left: The amount of the trade after it, 0 if it was deleted or declined.
    @ivar counts: For the sums of its day.
    @ivar waits: Whether it is a finance request, which moves no money yet.
    """

    order: int
    login: int
    cmd: int
    left: int
    principal: int
    role: int
    method: str
    counts: int
    day: int
    waits: bool = False


@define
class Reference:
    """
    What was accepted, and the rules, without any sum.
    """

    rules: Sequence[Rule] = ()
    accepted: list[Booked] = Factory(list)

    def last(self, order: int) -> Booked | None:
        """
        The last operation on an order.
        """
        return next((b for b in reversed(self.accepted) if b.order == order), None)

    def total(self, login: int, name: str) -> int:
        """
        The total of an account.
        """
        last = {b.order: b for b in self.accepted if b.login == login}
        return sum(
            b.left for b in last.values() if METHODS[b.cmd][3] == name and not b.waits
        )

    def judge(self, asked: Asked, day: int) -> Booked | str:
        """
        What an operation books, with order 0 if that is a new one; or the cause for
        which it is refused: the name of a rule, C{money}, C{order} or C{maker}.
        """
        before = self.last(asked.order)
        if isinstance(asked, Decision):
            return self._decide(asked, before, day)
        if before is not None and before.waits:
            return "order"
        if isinstance(asked, Deletion):
            if before is None or before.cmd not in asked.cmds or not before.left:
                return "order"
            login, cmd, left = before.login, before.cmd, 0
            method, counts = METHODS[cmd][1], abs(before.left)
        else:
            login, cmd, left = asked.login, asked.cmd, asked.amount
            method, counts = METHODS[cmd][0], abs(left)
            if before is not None:
                if (before.login, before.cmd) != (login, cmd) or not before.left:
                    return "order"
                counts = max(counts, abs(left - before.left))
        change = left - (0 if before is None else before.left)
        if isinstance(asked, Operation) and asked.isRequest:
            change = 0
        if self.total(login, METHODS[cmd][3]) + change < 0:
            return "money"
        assert asked.role is not None
        order = 0 if before is None else before.order
        booked = Booked(
            order, login, cmd, left, asked.principal, asked.role, method, counts, day
        )
        if isinstance(asked, Operation) and asked.isRequest:
            return self._requested(booked)
        broken = [rule for rule in self.rules if self._isBroken(rule, booked)]
        broken.sort(key=lambda rule: rule.over == "request")
        return broken[0].name if broken else booked

    def _decide(self, asked: Decision, before: Booked | None, day: int) -> Booked | str:
        if before is None or not before.waits:
            return "order"
        assert asked.role is not None
        booked = Booked(
            before.order,
            before.login,
            before.cmd,
            before.left,
            asked.principal,
            asked.role,
            METHODS[before.cmd][0],
            abs(before.left),
            day,
        )
        if not asked.isApproval:
            booked.left = booked.counts = 0
            return booked
        if before.principal == asked.principal:
            return "maker"
        if self.total(before.login, METHODS[before.cmd][3]) + before.left < 0:
            return "money"
        return self._hard(booked) or booked

    def _requested(self, booked: Booked) -> Booked | str:
        broken = self._hard(booked)
        if broken is not None:
            return broken
        booked.counts, booked.waits = 0, True
        return booked

    def _hard(self, booked: Booked) -> str | None:
        """
        The first rule that it breaks and for which no request helps.
        """
        for rule in self.rules:
            if rule.over != "request" and self._isBroken(rule, booked):
                return rule.name
        return None

    def _isBroken(self, rule: Rule, booked: Booked) -> bool:
        if not _applies(rule, booked):
            return False
        if rule.maxAmount is not None and booked.counts > rule.maxAmount:
            return True
        if rule.maxPerDay is None:
            return False
        sum = booked.counts
        for each in self.accepted:
            isSame = rule.per == "all" or (
                getattr(each, rule.per) == getattr(booked, rule.per)
            )
            if each.day == booked.day and isSame and _applies(rule, each):
                sum += each.counts
        return sum > rule.maxPerDay


def _applies(rule: Rule, booked: Booked) -> bool:
    if rule.roles and booked.role not in rule.roles:
        return False
    if rule.principals and booked.principal not in rule.principals:
        return False
    if rule.logins and booked.login not in rule.logins:
        return False
    return not rule.commands or booked.method in rule.commands


class Course:
    """
    One course of random events.
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now = float(NOON)
        self.memory = MemoryLedger()
        self.reference = Reference(self._someRules())
        self.refused = 0
        self._open(self.reference.rules)

    def _open(self, rules: Sequence[Rule]) -> None:
        self.clock = Clock()
        self.ledger = HeldLedger(self.memory)
        self.reads: list[tuple[Callable[[], Any], Deferred[Any]]] = []
        self.rules = RuleBook(self.ledger, rules, lambda: self.now, self._read)
        self.runtime = TradingRuntime(
            self.clock,
            self.ledger,
            TradeEvents(),
            now=lambda: self.now,
            maxQueued=1000,
            rules=self.rules,
        )
        self.runtime.startService()
        self.endReads()

    def _read(self, function: Callable[[], Any]) -> "Deferred[Any]":
        held: Deferred[Any] = Deferred()
        self.reads.append((function, held))
        return held

    def endReads(self) -> None:
        """
        Have all reads of the journal end.
        """
        while self.reads:
            function, held = self.reads.pop(0)
            maybeDeferred(function).chainDeferred(held)

    def run(self, steps: int = 80) -> None:
        """
        Let things happen.
        """
        happenings = (
            [self.ask] * 24
            + [self.release, self.turn] * 6
            + [self.endReads] * 3
            + [self.reload] * 2
            + [self.tomorrow, self.restart, self.crash]
        )
        for _ in range(steps):
            self.random.choice(happenings)()

    def ask(self) -> None:
        """
        Ask for something, and compare the verdicts.
        """
        asked = self._something()
        wanted = self.reference.judge(asked, int(self.now) // DAY)
        got: object
        try:
            reservation = self.runtime.submit(asked)
        except LimitExceeded as e:
            got = e.rule
            self.refused += 1
        except NoMoney:
            got = "money"
        except (IncorrectOrder, NotFound):
            got = "order"
        except Forbidden:
            got = "maker"
        else:
            got = wanted
            if not isinstance(wanted, Booked):
                raise Wrong(f"{asked} was accepted in spite of {wanted}")
            wanted.order = reservation.order
            self.reference.accepted.append(wanted)
        if got != wanted:
            raise Wrong(f"{asked} was refused for {got} instead of {wanted}")

    def _something(self) -> Asked:
        random = self.random
        principal = random.randrange(len(ROLES))
        cmd = random.choice([6, 7, 7, 7, 8, 9])
        known = self.reference.accepted
        other = random.choice(known) if known and random.random() < 0.4 else None
        role = ROLES[principal]
        waiting = [b.order for b in known if b.waits]
        if waiting and random.random() < 0.2:
            approves = random.random() < 0.8
            command = f"Mng{'Approve' if approves else 'Decline'}FinanceRequest"
            decision = Decision(
                command, random.choice(waiting), approves, principal=principal
            )
            decision.role = role
            return decision
        if other is not None and random.random() < 0.4:
            total = METHODS[other.cmd][3]
            command = METHODS[other.cmd][1]
            deletion = Deletion(command, other.order, OF_TOTAL[total], principal)
            deletion.role = role
            return deletion
        if other is not None:
            cmd = other.cmd
        isRequest = other is None and random.random() < 0.2
        return Operation(
            "MngCreateFinanceRequest" if isRequest else METHODS[cmd][0],
            cmd,
            random.choice(LOGINS) if other is None else other.login,
            METHODS[cmd][2] * random.randint(1, 60),
            "x",
            0 if other is None else other.order,
            principal=principal,
            role=role,
            isRequest=isRequest,
        )

    def _someRules(self) -> list[Rule]:
        return [self._someRule(str(n)) for n in range(self.random.randint(0, 4))]

    def _someRule(self, name: str) -> Rule:
        random = self.random

        def maybe(value: Any) -> Any:
            return value if random.random() < 0.3 else None

        perDay = random.choice([None, 50, 120, 300])
        names = [name for row in METHODS.values() for name in row[:2]]
        return Rule(
            name,
            random.randint(20, 60) if perDay is None else maybe(50),
            perDay,
            random.choice(["principal", "login", "role", "all"]),
            random.choice(["refuse", "request"]),
            maybe(frozenset(random.sample([MANAGER, DEALER, ADMIN], 2))),
            maybe(frozenset(random.sample(range(16), 8))),
            maybe(frozenset(random.sample(LOGINS, 2))),
            None,
            maybe(frozenset(random.sample(names, 4))),
        )

    def release(self) -> None:
        """
        Have a commit end.
        """
        if self.ledger.commits:
            self.ledger.release()

    def turn(self) -> None:
        """
        Have a commit begin.
        """
        self.clock.advance(0)

    def reload(self) -> None:
        """
        Change the rules.
        """
        rules = self._someRules()

        def used(_: object) -> None:
            # Unless others were to be used later.
            if self.rules.rules == tuple(rules):
                self.reference.rules = rules

        self.rules.use(rules).addCallback(used)

    def tomorrow(self) -> None:
        """
        A day ends.
        """
        self.now += DAY

    def restart(self) -> None:
        """
        Stop in order, and start.
        """
        stopped = self.runtime.stopService()
        while not stopped.called:
            self.ledger.release()
        self.crash()

    def crash(self) -> None:
        """
        Lose what is not committed, and start.
        """
        del self.reference.accepted[self.memory.head :]
        self._open(self.reference.rules)


def main() -> None:
    """
    Run as many courses as the command line says.
    """
    parser = ArgumentParser(description="Book within rules.")
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plant", metavar="BUG")
    options = parser.parse_args()
    plant(options.plant)
    refused = 0
    for seed in range(options.seed, options.seed + options.rounds):
        course = Course(seed)
        try:
            course.run()
        except Exception as e:
            print(f"VIOLATION: seed {seed}: {e!r}")
            sys.exit(1)
        refused += course.refused
    print(f"{options.rounds} courses, {refused} refusals, nothing wrong")


if __name__ == "__main__":
    main()
