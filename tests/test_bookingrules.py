"""
Tests for L{creditsync._bookingrules}: rules, and the file that they are read from.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from textwrap import indent

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from creditsync._bookingrules import Rule, RulesFile, readRules
from creditsync.errors import LedgerProblem, ShuttingDown
from creditsync.records import Movement
from tests.test_readme import CHECKOUT

ONE = 100_000_000
MANAGER, DEALER, ADMIN = 1, 2, 3

EXAMPLE = r"""
[[limit]]
name = "large"
max-amount = 10000
over = "request"

[[limit]]
name = "dealers a day"
roles = ["dealer"]
max-per-day = 5000.5

[[limit]]
name = "blocked"
logins = [1003]
max-amount = 0
"""

PART = """
[[limit]]
name = "n"
"""


class RulesCase(SynchronousTestCase):
    """
    A file of rules.
    """

    def setUp(self) -> None:
        """
        Make a folder for it.
        """
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        self.path = Path(made.name) / "limits.toml"

    def read(self, text: str) -> tuple[Rule, ...]:
        """
        Read a file with this text.
        """
        return readRules(text.encode("utf-8"))


class ReadTests(RulesCase):
    """
    Tests for L{readRules}.
    """

    def assertRefused(self, sentence: str, text: str) -> None:
        """
        Assert that a file with this text is refused with this message.
        """
        e = self.assertRaises(ValueError, self.read, text)
        self.assertEqual(str(e), sentence)

    def test_example(self) -> None:
        """
        Amounts become units, and what is left out is its default.
        """
        large, dealers, blocked = self.read(EXAMPLE)
        self.assertEqual(
            large, Rule("large", 10_000 * ONE, None, "principal", "request")
        )
        self.assertEqual(
            dealers,
            Rule("dealers a day", None, 500_050_000_000, roles=frozenset({DEALER})),
        )
        self.assertEqual(blocked, Rule("blocked", 0, logins=frozenset({1003})))
        self.assertEqual(
            [each.mayBeRequested for each in (large, dealers, blocked)],
            [True, False, False],
        )

    def test_document(self) -> None:
        """
        It is the one of docs/operations.rst.
        """
        text = (CHECKOUT / "docs" / "operations.rst").read_text("utf-8")
        self.assertIn(indent(EXAMPLE, "    ").strip("\n"), text)

    def test_allMembers(self) -> None:
        """
        A rule may have all members.
        """
        text = r"""
        [[limit]]
        name = "all of it"
        max-amount = 0.00000001
        max-per-day = 3.18
        per = "login"
        over = "refuse"
        roles = ["manager", "admin"]
        principals = [7, 0]
        logins = [1001]
        groups = "real\\*,!demo"
        commands = ["CreditIn", "DeleteBalance"]
        """
        self.assertEqual(
            self.read(text),
            (
                Rule(
                    "all of it",
                    1,
                    318_000_000,
                    "login",
                    "refuse",
                    frozenset({MANAGER, ADMIN}),
                    frozenset({0, 7}),
                    frozenset({1001}),
                    r"real\*,!demo",
                    frozenset({"CreditIn", "DeleteBalance"}),
                ),
            ),
        )

    def test_exact(self) -> None:
        """
        Amounts are the decimal numbers of the file, not the nearest doubles.
        """
        [rule] = self.read(PART + "max-per-day = 90071992547.40993001")
        self.assertEqual(rule.maxPerDay, 9007199254740993001)

    def test_unknown(self) -> None:
        """
        Unknown members are refused, and named.
        """
        self.assertRefused(
            "have an unknown member limits: write [[limit]]", "[[limits]]\n"
        )
        self.assertRefused(
            "are wrong: limit 2: unknown member max_amount",
            PART + 'max-amount = 1\n[[limit]]\nname = "m"\nmax_amount = 2',
        )

    def test_values(self) -> None:
        """
        A wrong value is refused, with its member and what it must be.
        """
        amount = "must be a number of at least 0 with at most 8 decimals"
        for line, message in (
            ("max-amount = -1", f"max-amount {amount}: -1"),
            ("max-amount = true", f"max-amount {amount}: true"),
            ('max-amount = "1"', f'max-amount {amount}: "1"'),
            ("max-per-day = nan", f"max-per-day {amount}: NaN"),
            ("max-per-day = inf", f"max-per-day {amount}: Infinity"),
            ("max-per-day = 1e999999", f"max-per-day {amount}: 1E+999999"),
            ("max-per-day = 0.000000001", f"max-per-day {amount}: 1E-9"),
            ('per = "group"', 'per must be principal, login, role or all: "group"'),
            ("over = 1", "over must be refuse or request: 1"),
            (
                'roles = "dealer"',
                'roles must be a list of manager, dealer or admin: "dealer"',
            ),
            (
                'roles = ["user"]',
                'roles must be a list of manager, dealer or admin: ["user"]',
            ),
            ("roles = []", "roles must be a list of manager, dealer or admin: []"),
            ("principals = [-1]", "principals must be a list of ids of tokens: [-1]"),
            (
                "principals = [true]",
                "principals must be a list of ids of tokens: [true]",
            ),
            ("principals = 7", "principals must be a list of ids of tokens: 7"),
            ("logins = [0]", "logins must be a list of logins: [0]"),
            ("logins = [1.5]", "logins must be a list of logins: [1.5]"),
            *(
                (
                    f"groups = {value}",
                    "groups must be a mask that selects groups, such as !demo,*:"
                    f" {value}",
                )
                for value in ("1", '" ,"', '"!demo"', '"!demo, !real*"')
            ),
            (
                'commands = ["CreditInSync"]',
                "commands must be a list of CreditIn, CreditOut, BalanceIn, BalanceOut,"
                " DeleteCredit or DeleteBalance, which stand for their Sync forms too:"
                ' ["CreditInSync"]',
            ),
        ):
            self.assertRefused(f"are wrong: limit 1: {message}", PART + line)

    def test_names(self) -> None:
        """
        A rule has a name of its own, which fits on a line.
        """
        wanted = "name must be 1 to 64 printable characters"
        for value, shown in (('""', '""'), ('"a\\nb"', '"a\nb"'), ("7", "7")):
            self.assertRefused(
                f"are wrong: limit 1: {wanted}: {shown}",
                f"[[limit]]\nname = {value}\nmax-amount = 1",
            )
        self.assertRefused(
            "are wrong: limit 1: name is missing", "[[limit]]\nmax-amount = 1"
        )
        self.assertRefused(
            'are wrong: limit 2: name is taken: "n"', (PART + "max-amount = 1") * 2
        )

    def test_nothingBounded(self) -> None:
        """
        A rule has to bound something, and C{per} only means something for a day.
        """
        self.assertRefused(
            "are wrong: limit 1: it has neither max-amount nor max-per-day", PART
        )
        self.assertRefused(
            "are wrong: limit 1: per is only for max-per-day",
            PART + 'max-amount = 1\nper = "all"',
        )

    def test_notTables(self) -> None:
        """
        A single table instead of a list of them is a likely mistake.
        """
        sentence = "have a limit that is not a list of tables: write [[limit]]"
        for text in ('[limit]\nname = "n"', "limit = 1", "limit = [1]"):
            self.assertRefused(sentence, text)

    def test_notTOML(self) -> None:
        """
        What is not TOML in UTF-8 is refused.
        """
        self.assertRefused(
            "are not valid TOML: Expected '=' after a key in a key/value pair (at end"
            " of document)",
            "name",
        )
        self.assertRefused(
            "begin with a byte order mark; save the file without one", "\ufeff"
        )
        e = self.assertRaises(ValueError, readRules, b"\xff\xfe")
        self.assertEqual(str(e), "are not UTF-8")

    def test_empty(self) -> None:
        """
        A file without a rule is refused, as it is most likely incomplete. That there
        are to be none has to be written.
        """
        why = "have no [[limit]] (if there are to be none, write limit = [])"
        for text in ("", "\n", "# [[limit]]\n"):
            self.assertRefused(why, text)
        self.assertEqual(self.read("limit = []"), ())


class BindingTests(SynchronousTestCase):
    """
    Tests for L{Rule.binds} and L{Rule.keyOf}.
    """

    movement = Movement(7, DEALER, 1001, "CreditIn", 5, r"real\a")

    def test_conditions(self) -> None:
        """
        A rule binds what fulfils all of its conditions, and one without any binds
        everything.
        """
        self.assertTrue(Rule("n").binds(self.movement))
        for name, met, unmet in (
            ("roles", frozenset({DEALER}), frozenset({ADMIN})),
            ("principals", frozenset({6, 7}), frozenset({6})),
            ("logins", frozenset({1001}), frozenset({1002})),
            ("groups", r"real\*", "demo*"),
            ("commands", frozenset({"CreditIn"}), frozenset({"CreditOut"})),
        ):
            self.assertTrue(Rule("n", **{name: met}).binds(self.movement), name)
            self.assertFalse(Rule("n", **{name: unmet}).binds(self.movement), name)
        both = Rule("n", roles=frozenset({DEALER}), logins=frozenset({1002}))
        self.assertFalse(both.binds(self.movement))

    def test_keys(self) -> None:
        """
        Each C{per} has its key.
        """
        found = {
            per: Rule("n", None, 1, per).keyOf(self.movement)
            for per in ("principal", "login", "role", "all")
        }
        self.assertEqual(
            found, {"principal": 7, "login": 1001, "role": DEALER, "all": None}
        )


class RulesFileTests(RulesCase):
    """
    Tests for L{RulesFile}.
    """

    def setUp(self) -> None:
        """
        Make a file that can be used.
        """
        super().setUp()
        self.path.write_text(EXAMPLE)
        self.used: list[list[str]] = []
        self.result: Deferred[None] = succeed(None)
        self.logged: list[tuple[LogLevel, str]] = []

        def use(rules: Sequence[Rule]) -> Deferred[None]:
            self.used.append([rule.name for rule in rules])
            return self.result

        self.file = RulesFile(self.path)
        self.file.use = use

        def observe(event: object) -> None:
            assert isinstance(event, dict)
            text = event["log_format"].format(**event)
            self.logged.append((event["log_level"], text))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

    def test_rules(self) -> None:
        """
        It has the rules of the file, and nobody uses them yet.
        """
        self.assertEqual(
            [rule.name for rule in self.file.rules],
            ["large", "dealers a day", "blocked"],
        )
        self.assertEqual(self.used, [])
        self.successResultOf(RulesFile(self.path).use(()))

    def test_wrong(self) -> None:
        """
        A file that can't be used at the start is an error that names it.
        """
        self.path.write_text("x = 1")
        e = self.assertRaises(ValueError, RulesFile, self.path)
        self.assertEqual(
            str(e),
            f"the limits in {self.path} have an unknown member x: write [[limit]]",
        )

    def test_noFile(self) -> None:
        """
        A file that is missing, or is no regular file, is refused without being read.
        """
        for cause in ("can't be read (No such file or directory)", None):
            self.path.unlink()
            if cause is None:
                os.mkfifo(self.path)
                cause = "are not a regular file"
            e = self.assertRaises(ValueError, RulesFile, self.path)
            self.assertEqual(str(e), f"the limits in {self.path} {cause}")
            self.path.touch()

    def test_stale(self) -> None:
        """
        It is stale while the last reload has failed, whatever the reason.
        """
        good, outcomes = self.path.read_text(), [self.file.isStale]
        for text, result in (
            ("x = 1", None),
            (good, succeed(None)),
            (good, fail(LedgerProblem("no"))),
            ("", None),
            (good, succeed(None)),
        ):
            self.path.write_text(text)
            if result is not None:
                self.result = result
            self.file.reload()
            outcomes.append(self.file.isStale)
        self.flushLoggedErrors(LedgerProblem)
        self.assertEqual(outcomes, [False, True, False, True, True, False])

    def test_reloaded(self) -> None:
        """
        A reload uses the rules of the file, and logs it once they are in force.
        """
        self.path.write_text(PART + "max-amount = 1")
        self.result = Deferred()
        self.file.reload()
        self.assertEqual((self.used, self.logged), ([["n"]], []))
        self.result.callback(None)
        self.assertEqual(
            self.logged,
            [(LogLevel.info, f"The limits in {self.path} are in force: n.")],
        )

    def test_nowWrong(self) -> None:
        """
        One that can't be used any more changes nothing, and the log says so each time.
        """
        self.path.write_text("x = 1")
        self.file.reload()
        self.file.reload()
        self.assertEqual(self.used, [])
        self.assertEqual(
            self.logged,
            [
                (
                    LogLevel.error,
                    f"The limits in {self.path} have an unknown member x: write"
                    " [[limit]]; the previous ones stay in force.",
                )
            ]
            * 2,
        )

    def test_stopping(self) -> None:
        """
        Nothing is logged if the server stops before the rules are in force.
        """
        self.result = fail(ShuttingDown())
        self.file.reload()
        self.assertEqual(self.used, [["large", "dealers a day", "blocked"]])
        self.assertEqual(self.logged, [])
        self.assertFalse(self.file.isStale)

    def test_notUsed(self) -> None:
        """
        If the sums of the day can't be read, the log has the cause.
        """
        self.result = fail(LedgerProblem("no"))
        self.file.reload()
        self.assertEqual(
            self.logged,
            [
                (
                    LogLevel.error,
                    f"The limits in {self.path} could not be put into force; the"
                    " previous ones stay.",
                )
            ],
        )
        self.assertEqual(len(self.flushLoggedErrors(LedgerProblem)), 1)
