"""
Tests for L{creditsync._conversation.rights}.
"""

import re
import time
from math import inf

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from creditsync._conversation.rights import Rights
from creditsync._masks import matches
from creditsync.codes import ALL_SESSIONS
from creditsync.records import Principal

# The groups of the accounts; every other account has none.
GROUPS = {1001: "real\\gold", 1002: "real\\vip", 1003: "demo", 1004: "Real\\gold"}
LOGINS = (1001, 1002, 1003, 1004, 1005)


def groupOf(login: int) -> str:
    """
    The group of an account.
    """
    return GROUPS.get(login, "")


class MaskTests(SynchronousTestCase):
    """
    Tests for the masks of groups.
    """

    def hold(self, mask: str, good: list[str], bad: list[str]) -> None:
        """
        Assert that a mask selects some groups, and does not select others.
        """
        for groups, isGood in ((good, True), (bad, False)):
            for group in groups:
                self.assertEqual(
                    (mask, group, matches(mask, group)), (mask, group, isGood)
                )

    def test_plain(self) -> None:
        """
        A pattern without an asterisk is the whole name of one group.
        """
        self.hold("demo", ["demo"], ["demo1", "1demo", "dem", ""])

    def test_case(self) -> None:
        """
        Case counts.
        """
        self.hold("Demo*", ["Demo", "Demo1"], ["demo", "DEMO", "demo1"])

    def test_asterisk(self) -> None:
        """
        An asterisk stands for any characters, also for none, anywhere and more than
        once.
        """
        self.hold("*", ["", "a", "real\\gold", "a\nb", "!a", "*"], [])
        self.hold("real*", ["real", "real\\gold"], ["areal", "rea", ""])
        self.hold("*gold", ["gold", "real\\gold"], ["golden", "old"])
        self.hold("r*g*d", ["rgd", "real\\gold", "rggd"], ["rd", "rdg", "rgdx", "xrgd"])
        self.hold("*l*l*", ["ll", "real\\gold"], ["l", "gold", ""])
        self.hold("**", ["", "a"], [])

    def test_asteriskNeedsRoom(self) -> None:
        """
        The parts of a pattern don't overlap in a group's name.
        """
        self.hold("ab*ba", ["abba", "abxba"], ["aba", "ab", "ba"])
        self.hold("a*b*b", ["abb", "axbxb"], ["ab", "axb"])
        self.hold("aa*a", ["aaa"], ["aa"])

    def test_literal(self) -> None:
        """
        All characters but the asterisk, the comma and a leading exclamation mark
        stand for themselves.
        """
        self.hold("a.c", ["a.c"], ["abc"])
        self.hold("a?c", ["a?c"], ["abc"])
        self.hold("[ab]", ["[ab]"], ["a"])
        self.hold("a!b", ["a!b"], ["a"])
        self.hold("real\\*", ["real\\", "real\\gold"], ["real*", "real"])

    def test_list(self) -> None:
        """
        A mask may have several patterns.
        """
        self.hold("demo,real\\vip", ["demo", "real\\vip"], ["real\\gold", ""])

    def test_exclusionFirst(self) -> None:
        """
        What is excluded before it is selected is not selected.
        """
        self.hold("!real\\vip,real*", ["real", "real\\gold"], ["real\\vip", "demo"])
        self.hold("!*vip*,*", ["", "demo"], ["vip", "real\\vip1"])

    def test_exclusionSecond(self) -> None:
        """
        The first pattern that fits decides: what is selected before it is excluded
        stays selected.
        """
        self.hold("real*,!real\\vip", ["real", "real\\gold", "real\\vip"], ["demo"])
        self.hold("a*,!ab*,abc", ["a", "ab", "abc"], ["b"])
        self.hold("abc,!ab*,a*", ["a", "abc"], ["ab", "abd"])

    def test_exclusionsAlone(self) -> None:
        """
        Exclusions alone select nothing.
        """
        self.hold("!demo", [], ["demo", "real", ""])
        self.hold("!demo,!test", [], ["demo", "test", "real", ""])

    def test_nothing(self) -> None:
        """
        An empty mask selects nothing, and a comma too many nothing more: not the
        accounts without a group.
        """
        for mask in ("", " ", ",", ",,", " , "):
            self.hold(mask, [], ["", "demo", ",", " "])
        self.hold("demo,", ["demo"], [""])
        self.hold(",demo", ["demo"], [""])

    def test_groupless(self) -> None:
        """
        Accounts without a group are selected by an asterisk, and excluded by an
        exclamation mark alone.
        """
        self.hold("!,*", ["a"], [""])

    def test_spaces(self) -> None:
        """
        Spaces around a pattern don't count: an exclusion behind a space is still one.
        """
        self.hold(" demo , real* ", ["demo", "real"], [" demo ", "x"])
        self.hold("!a*, !b*, *", ["c"], ["a", "b"])
        self.hold("! a,*", ["b"], ["a"])
        self.hold("a b", ["a b"], ["a", "b"])

    def test_manyAsterisks(self) -> None:
        """
        A pattern with many asterisks takes no long time.
        """
        started = time.monotonic()
        self.assertFalse(matches("*a" * 4000 + "b", "a" * 8000))
        self.assertLess(time.monotonic() - started, 1)

    @given(
        st.lists(st.text("ab*! ", max_size=6), max_size=4).map(",".join),
        st.text("ab!", max_size=6),
    )
    def test_reference(self, mask: str, group: str) -> None:
        """
        A mask means the same as one that is read by regular expressions.
        """
        expected = None
        for each in mask.split(","):
            found = re.fullmatch(" *(!?) *(.*?) *", each)
            assert found is not None
            if found[0].strip(" ") and expected is None:
                pattern = re.escape(found[2]).replace(r"\*", ".*")
                if re.fullmatch(pattern, group):
                    expected = not found[1]
        self.assertEqual(matches(mask, group), bool(expected))


def _principal(
    role: int,
    groups: str | None = None,
    login: int | None = None,
    logins: tuple[int, ...] | None = None,
    id: int = 1001,
) -> Principal:
    return Principal(id, role, inf, None, groups, login, logins)


ALL = LOGINS
NONE: tuple[int, ...] = ()

# A principal, the accounts that it may see, and those with --require-groups.
CASES: list[tuple[Principal, tuple[int, ...], tuple[int, ...]]] = [
    # Staff without the claim.
    *((_principal(role), ALL, NONE) for role in (1, 2, 4, 10, 11)),
    # The others have nothing to do with groups.
    (_principal(3), ALL, ALL),
    (_principal(0), (1001,), (1001,)),
    (_principal(5), NONE, NONE),
    (_principal(9), NONE, NONE),
    # A role that the platform does not have.
    (_principal(6), NONE, NONE),
    # Staff with the claim.
    *(
        (_principal(role, mask), accounts, accounts)
        for role in (1, 2, 4, 10, 11)
        for mask, accounts in (
            ("", NONE),
            ("*", ALL),
            ("real\\*", (1001, 1002)),
            ("real\\gold", (1001,)),
            ("*\\gold", (1001, 1004)),
            ("REAL*", NONE),
            ("demo,real\\vip", (1002, 1003)),
            ("!real\\vip,real*", (1001,)),
            ("real*,!real\\vip", (1001, 1002)),
            ("!real*,!demo", NONE),
            ("!real*,*", (1003, 1004, 1005)),
            ("!,*", (1001, 1002, 1003, 1004)),
        )
    ),
    # Claims of other roles count for nothing.
    (_principal(1, None, 1003, (1003,)), ALL, NONE),
    (_principal(1, "demo", 1001, (1001,)), (1003,), (1003,)),
    (_principal(3, "demo", 1001, (1001,)), ALL, ALL),
    (_principal(0, "*", None, ALL), (1001,), (1001,)),
    (_principal(9, "*", 1001), NONE, NONE),
    (_principal(5, "*", 1001, ALL), NONE, NONE),
    # A user's own account.
    (_principal(0, None, 1003), (1003,), (1003,)),
    (_principal(0, None, 7), NONE, NONE),
    (_principal(0, None, 0), NONE, NONE),
    (_principal(0, id=7), NONE, NONE),
    # A customer's accounts.
    (_principal(9, None, None, (1002, 1005)), (1002, 1005), (1002, 1005)),
    (_principal(9, None, None, ()), NONE, NONE),
]


class RoleTests(SynchronousTestCase):
    """
    Tests for the accounts of each role.
    """

    def test_accounts(self) -> None:
        """
        Each role has the accounts that the protocol gives it.
        """
        free, strict = Rights(groupOf), Rights(groupOf, True)
        for principal, accounts, required in CASES:
            with self.subTest(principal):
                for rights, expected in ((free, accounts), (strict, required)):
                    seen = [each for each in LOGINS if rights.maySee(principal, each)]
                    self.assertEqual(seen, list(expected))

    def test_unknownAccount(self) -> None:
        """
        An event that does not say its account is only for tokens that may see all.
        """
        rights = Rights(groupOf)
        for principal in (_principal(3), _principal(1)):
            self.assertTrue(rights.maySee(principal, None))
        for principal in (_principal(1, "*"), _principal(0), _principal(5)):
            self.assertFalse(rights.maySee(principal, None))

    def test_groups(self) -> None:
        """
        A token sees a group if it may see each account in it.
        """
        rights, strict = Rights(groupOf), Rights(groupOf, True)
        self.assertTrue(rights.seesGroup(_principal(1), "demo"))
        self.assertFalse(strict.seesGroup(_principal(1), "demo"))
        self.assertTrue(strict.seesGroup(_principal(3), "demo"))
        self.assertTrue(rights.seesGroup(_principal(1, "!real*,*"), "demo"))
        self.assertFalse(rights.seesGroup(_principal(1, "!real*,*"), "real"))
        for principal in (_principal(0), _principal(9, None, None, (1003,))):
            self.assertFalse(rights.seesGroup(principal, "demo"))

    def test_withoutGroups(self) -> None:
        """
        Where nobody says the group of an account, it is "".
        """
        self.assertTrue(Rights().maySee(_principal(1, "*"), 1001))
        self.assertFalse(Rights().maySee(_principal(1, "real*"), 1001))

    def test_everyRole(self) -> None:
        """
        The table above has every role.
        """
        self.assertEqual(ALL_SESSIONS, {0, 1, 2, 3, 4, 5, 9, 10, 11})
        self.assertLess(ALL_SESSIONS, {case[0].role for case in CASES})
