"""
Tests for L{creditsync._patterns}.
"""

import re

import jsonschema_rs
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from creditsync._patterns import fromECMA


class MeaningTests(SynchronousTestCase):
    """
    Tests for the meaning of patterns, by ECMA-262 with the flag C{u}.
    """

    def hold(self, pattern: str, good: str, bad: str) -> None:
        """
        Assert that a pattern matches each character of one text, and none of
        another.
        """
        found = re.compile(fromECMA(pattern)).search
        for text, isGood in ((good, True), (bad, False)):
            for character in text:
                case = pattern, character
                self.assertEqual((case, bool(found(character))), (case, isGood))

    def match(self, pattern: str, text: str) -> bool:
        """
        Whether a pattern is found in a text.
        """
        return re.search(fromECMA(pattern), text) is not None

    def test_ends(self) -> None:
        """
        C{^} and C{$} match at the very ends of the text.
        """
        self.assertTrue(self.match("^a$", "a"))
        self.assertTrue(self.match("a\\n$", "a\n"))
        for text in ("a\n", "a\r\n", "\na", "b\na"):
            self.assertFalse(self.match("^a$", text), text)

    def test_classes(self) -> None:
        """
        Digits and letters are those of ASCII, white space is Unicode's and the
        byte order mark.
        """
        space = "\t\n\v\f\r \xa0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
        others = "\x1c\x85\u180e\u200b"
        self.hold(r"^\d$", "09", "a\u0661\u0967\uff11\xb2")
        self.hold(r"^\D$", "a\u0661\n", "09")
        self.hold(r"^\w$", "azAZ09_", "\xe9\u017f\u212a\u0661-")
        self.hold(r"^\W$", "\xe9\u017f- \n", "azAZ09_")
        self.hold(r"^\s$", space, "a" + others)
        self.hold(r"^\S$", "a" + others, space)

    def test_dot(self) -> None:
        """
        A dot matches any character, of any plane, except line terminators.
        """
        self.hold("^.$", "a \x85\x0b\U0001f4b6", "\n\r\u2028\u2029")

    def test_sets(self) -> None:
        r"""
        Square brackets contain classes, ranges and escapes; only C{\}, C{]}, a
        hyphen and a leading C{^} have a special meaning.
        """
        self.hold(r"^[\d\s]$", "1\xa0", "a\u0661")
        self.hold(r"^[^\d\S]$", " \n", "1a")
        self.hold(r"^[\D]$", "a\u0661", "1")
        self.hold(r"^[^\w]$", "\xe9", "a_")
        self.hold("^[a-c-]$", "abc-", "d")
        self.hold("^[-a]$", "-a", "b")
        self.hold(r"^[\w-]$", "a-", ".")
        self.hold("^[!--]$", "!-,", ".")
        self.hold(r"^[a\-c]$", "a-c", "b")
        self.hold(r"^[\]\\^$.]$", "]\\^$.", "a")
        self.hold("^[[a&&b||c~~d]$", "[a&b|c~d", "e]")
        self.hold("^[[:alpha:]]$", "", "a:[")
        self.hold(r"^[\b]$", "\b", "b")
        self.hold("^[\U0001f4b6]$", "\U0001f4b6", "\U0001f4b7")
        self.hold("[]", "", "a\n")
        self.hold("^[^]$", "a\n", "")

    def test_escapes(self) -> None:
        """
        Characters may be written by number or by name.
        """
        for pattern, text in (
            (r"^\u0061\x61\u{61}\u{000061}$", "aaaa"),
            (r"^\ud83d\udcb6[\uD83D\uDCB6]\u{1f4b6}$", "\U0001f4b6" * 3),
            (r"^\t\n\v\f\r\0\cJ\cj$", "\t\n\v\f\r\0\n\n"),
            (r"^\.\*\+\?\(\)\[\]\{\}\|\/\^\$\\\-\@\ \_$", r".*+?()[]{}|/^$\-@ _"),
            ("^#a b}]$", "#a b}]"),
        ):
            self.assertTrue(self.match(pattern, text), pattern)

    def test_groups(self) -> None:
        """
        Groups, alternatives, repetitions and lookarounds are supported.
        """
        for pattern, good, bad in (
            ("^(a|b)(?:c|d)(?<name>e)$", "ace", "abe"),
            ("^a{2}b{1,}c{0,1}d*e+f?$", "aabbe", "abe"),
            ("^a+?b*?c??d{1,2}?$", "aad", "b"),
            ("^(?=a)(?!ab).*$", "ac", "ab"),
            ("(?<=a)b", "ab", "cb"),
            ("(?<!a)b", "cb", "ab"),
            ("^(?!\\w)", "\u017f", "s"),
        ):
            self.assertTrue(self.match(pattern, good), pattern)
            self.assertFalse(self.match(pattern, bad), pattern)

    def test_boundaries(self) -> None:
        r"""
        Word boundaries are those of C{\w}.
        """
        self.assertTrue(self.match(r"\bcat\b", "a cat."))
        self.assertTrue(self.match(r"\bcat\b", "\xe9cat\xe9"))
        self.assertFalse(self.match(r"\bcat\b", "cats"))
        self.assertFalse(self.match(r"\b", "\xe9"))
        self.assertTrue(self.match(r"\Bs", "cats"))
        self.assertFalse(self.match(r"\Bs", "a s"))

    def test_refused(self) -> None:
        """
        A construct that is not in ECMA-262, or that Python can't express, is
        refused; nothing is given another meaning.
        """
        for pattern in (
            "(", ")", "[", "[a", "*", "a**", "a*+", "a{2}{3}", "a{,3}", "{", "a{x}",
            "\\", r"\A", r"\Z", r"\z", r"\G", r"\h", r"\e", r"\a", r"\y", r"\K",
            r"\u", r"\u12", r"\u{}", r"\u{110000}", r"\x1", r"\x{61}", r"\U00000061",
            r"\c", r"\c1", r"\01", r"\1", r"(a)\1", r"(?<n>a)\k<n>", r"\p{L}", r"\P{L}",
            r"\pL", r"\N{DIGIT ONE}", "(?i)a", "(?i:a)", "(?P<n>a)", "(?P=n)", "(?#a)",
            "(?>a)", "(?x)a", "(?|a)", "(?<=a+)b", "[z-a]", r"[\d-z]", r"[a-\d]",
            r"[\B]", r"[\1]", r"[\A]", r"[\p{L}]", "a{99999999999}", "\\\xe9",
        ):  # fmt: skip
            self.assertRaises(ValueError, fromECMA, pattern)

    def test_message(self) -> None:
        """
        The error names the pattern, and the place of the error in it.
        """
        error = self.assertRaises(ValueError, fromECMA, "^[a-z]+\\Z")
        self.assertEqual(str(error), "'^[a-z]+\\\\Z' can't be understood from '\\\\Z'")
        error = self.assertRaises(ValueError, fromECMA, "^(a")
        self.assertEqual(str(error), "'^(a' can't be understood")


# Constructs that the compiled validator reads as ECMA-262 does: neither C{\b}
# nor any that makes it change to its other engine, as lookarounds do.
_atoms = st.sampled_from(
    [
        *(r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", ".", "^", "$", "|", "a", "b", "\n"),
        *("[a-c]", "[^a-c]", r"[\d\s]", r"[^\w]", r"[\W\d]", "[a-]", r"\.", r"\u0061"),
        *("(a)", "(?:a|b)", "\U0001f4b6", r"\u{1F4B6}", r"\x41", r"\n"),
    ]
)
# Nor C{*} beside C{+}: it finds C{a+a*a+} in a single C{a}.
_repeats = st.sampled_from(["", "", "", "+", "?", "{2}", "{1,2}", "{1,}", "+?"])
_patterns = st.lists(
    st.tuples(_atoms, _repeats).map(
        lambda pair: pair[0] if pair[0] in "^$|" else "".join(pair)
    ),
    min_size=1,
    max_size=4,
).map("".join)
_texts = st.text(
    st.sampled_from("abcA09_-. \n\r\t\x85\xa0\xe9\u0661\u017f\u2028\ufeff\U0001f4b6"),
    max_size=4,
)


class AgreementTests(SynchronousTestCase):
    """
    Tests that the two validators agree.
    """

    @settings(derandomize=True, database=None, deadline=None, max_examples=500)
    @given(_patterns, _texts)
    @example("^a$", "a\n")
    @example(r"^\d$", "\u0661")
    @example("^.$", "\r")
    def test_same(self, pattern: str, text: str) -> None:
        """
        The compiled validator finds a pattern where Python finds its
        translation.
        """
        compiled = jsonschema_rs.Draft202012Validator({"pattern": pattern})
        found = re.search(fromECMA(pattern), text)
        self.assertEqual(compiled.is_valid(text), found is not None)
