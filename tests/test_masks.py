"""
Tests for L{creditsync._masks}.
"""

import re
import time
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from creditsync._masks import matches


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
        self.hold("aba*aba", ["abaaba"], ["ababa"])
        self.hold("a*ab", ["aab", "axab"], ["ab"])

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

    def test_memory(self) -> None:
        """
        Masks that were used once take little memory.
        """
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for number in range(1000):
            matches(f"{number:05},{'!a,' * 331}", "b")
        used, _ = tracemalloc.get_traced_memory()
        self.assertLess(used, 20_000_000)

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
