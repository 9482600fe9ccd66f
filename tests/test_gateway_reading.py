"""
Tests for L{creditsync.gateway._reading}.
"""

from decimal import Decimal

from twisted.trial.unittest import SynchronousTestCase

from creditsync.gateway._reading import membersOf


class ReadingTests(SynchronousTestCase):
    """
    Tests for L{membersOf}.
    """

    def test_strict(self) -> None:
        """
        Numbers keep their exact values.
        """
        line = b'{"a":1.10,"b":3.1800000000000002,"c":1e2,"d":"x"}\r'
        self.assertEqual(
            membersOf(line),
            {"a": 1.1, "b": Decimal("3.1800000000000002"), "c": 100.0, "d": "x"},
        )

    def test_numbers(self) -> None:
        """
        What can't be had exactly is null, and all the rest counts.
        """
        line = (
            b'{"order":5,"profit":1.10,"ticket":9223372036854775807,"big":1e400,'
            b'"not":NaN,"long":' + b"9" * 5000 + b',"least":-9007199254740991}'
        )
        self.assertEqual(
            membersOf(line),
            {
                "order": 5,
                "profit": 1.1,
                "ticket": None,
                "big": None,
                "not": None,
                "long": None,
                "least": -9007199254740991,
            },
        )

    def test_characters(self) -> None:
        """
        Halves of characters, as of a comment that was cut within one, noncharacters and
        bytes that are no UTF-8 are replaced.
        """
        for comment in (
            b"cut \\ud83d",
            b"cut \\uffff",
            b"cut \xf0\x9f\x98",
            b"cut \xff",
        ):
            members = membersOf(b'{"order":5,"comment":"' + comment + b'"}')
            self.assertEqual(members, {"order": 5, "comment": "cut \ufffd"}, comment)
        whole = membersOf(b'{"a":"\\ud83d\\ude00","b":9007199254740993}')
        self.assertEqual(whole, {"a": "\U0001f600", "b": None})

    def test_deep(self) -> None:
        """
        What is nested deeper does not matter, unless it is beyond reason.
        """
        deep = membersOf(b'{"a":1,"b":' + b"[" * 40 + b"]" * 40 + b"}")
        assert deep is not None
        self.assertEqual(deep["a"], 1)
        self.assertIsNone(membersOf(b'{"b":' + b"[" * 100_000 + b"]" * 100_000 + b"}"))

    def test_none(self) -> None:
        """
        An array, something else, what is no JSON, and an object in which a name comes
        twice, are none of ours.
        """
        for line in (
            b'["m",1,"secret"]',
            b' ["t"]',
            b"7",
            b"hello",
            b'{"order":5',
            b'{"order":5,"order":6}',
            b'{"order":5,"big":9007199254740993,"order":6}',
            b"",
        ):
            self.assertIsNone(membersOf(line), line)
