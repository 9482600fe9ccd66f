"""
Tests for L{creditsync._wire} and L{creditsync._money}.
"""

import contextlib
import random
from decimal import Decimal
from fractions import Fraction
from math import inf, nextafter, ulp
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from creditsync import _wire as wire
from creditsync._money import fromUnits, toUnits
from creditsync._wire import salvaging
from creditsync.errors import Busy, IncorrectOrder, InvalidJSON
from creditsync.records import Trade, TradeEvent

SEED_REQUEST = b"""{
"command": "CreditInSync",
"extID": "credit-req-1001",
"data": {
"login": 1001,
"amount": 300.0,
"comment": "Promotion credit"
}
}"""


class _Verdicts(SynchronousTestCase):
    """
    What the tests of L{wire.decode} have in common.
    """

    def yields(self, text: bytes, expected: Any) -> None:
        """
        Assert that C{text}, as a member's value, is read as C{expected}, of
        the same type.
        """
        value = wire.decode(b'{"m":' + text + b"}")["m"]
        self.assertEqual(value, expected, text)
        self.assertIs(type(value), type(expected), text)

    def refused(self, line: bytes, why: str) -> None:
        """
        Assert that C{line} is refused with exactly this message.
        """
        refusal = self.assertRaises(InvalidJSON, wire.decode, line)
        self.assertEqual(refusal.message, why, line[:80])

    def malformed(self, *lines: bytes) -> None:
        """
        Assert that each line is refused as no JSON, in a sentence that shows
        nothing of Python.
        """
        for line in lines:
            refusal = self.assertRaises(InvalidJSON, wire.decode, line)
            self.assertRegex(
                refusal.message,
                r"^the line is not valid JSON: [a-zA-Z0-9 ,:'\]}()-]+$",
                line[:80],
            )


class DecodeStructureTests(_Verdicts):
    """
    Which lines are one JSON object.
    """

    def test_seed(self) -> None:
        """
        The request of C{docs/protocol.rst}, "A credit", is read as it stands.
        """
        self.assertEqual(
            wire.decode(SEED_REQUEST),
            {
                "command": "CreditInSync",
                "extID": "credit-req-1001",
                "data": {
                    "login": 1001,
                    "amount": 300.0,
                    "comment": "Promotion credit",
                },
            },
        )

    def test_emptyObject(self) -> None:
        """
        An object may be empty.
        """
        self.assertEqual(wire.decode(b"{}"), {})

    def test_whiteSpace(self) -> None:
        """
        JSON's four white space characters may stand around every token.
        """
        self.assertEqual(
            wire.decode(b' \t\r\n{ \t"a" \n:\r 1 , "b" : [ 2 , 3 ] } \r\n'),
            {"a": 1, "b": [2, 3]},
        )

    def test_literals(self) -> None:
        """
        C{true}, C{false} and C{null} are values.
        """
        self.yields(b"[true,false,null]", [True, False, None])

    def test_otherValues(self) -> None:
        """
        A line that is a JSON value but no object is refused.
        """
        for line in (b"[]", b"1", b"-0.5", b'"{}"', b"null", b"true", b'[{"a":1}]'):
            self.refused(line, "the line is not a JSON object")

    def test_nothing(self) -> None:
        """
        A line with nothing on it ends too early.
        """
        for line in (b"", b"  ", b"\r\n"):
            self.refused(line, "the line is not valid JSON: it ends too early")

    def test_cutOff(self) -> None:
        """
        No beginning of a good line is a good line.
        """
        line = b'{"a":[1,-2.5e3,"x\\u00e9"],"b":{"c":null}}'
        self.assertEqual(wire.decode(line)["b"], {"c": None})
        self.malformed(*(line[:end] for end in range(len(line))))

    def test_position(self) -> None:
        """
        The message says where the line stops being JSON.
        """
        self.refused(
            b'{"a":1,}', "the line is not valid JSON: trailing comma in object (byte 7)"
        )

    def test_commas(self) -> None:
        """
        Commas stand between values, one at a time.
        """
        self.malformed(
            b'{"a":1,}',
            b'{,"a":1}',
            b'{"a":1,,"b":2}',
            b'{"a":[1,]}',
            b'{"a":[,1]}',
            b'{"a":[1,,2]}',
            b'{"a":[,]}',
            b'{"a":1 "b":2}',
            b'{"a":[1 2]}',
            b"{,}",
        )

    def test_members(self) -> None:
        """
        A member is a quoted name, a colon and a value.
        """
        self.malformed(
            b"{a:1}",
            b"{'a':1}",
            b"{1:1}",
            b"{null:1}",
            b'{"a"}',
            b'{"a",1}',
            b'{"a" 1}',
            b'{"a"::1}',
            b'{"a":}',
            b'{:"a"}',
            b'{"a":1:2}',
        )

    def test_brackets(self) -> None:
        """
        What is opened is closed, by its own kind and once.
        """
        self.malformed(
            b'{"a":[1}',
            b'{"a":{]}',
            b'{"a":1]',
            b'{"a":1}}',
            b'{"a":[1]]}',
            b"}",
            b"{{}}",
        )

    def test_afterwards(self) -> None:
        """
        Nothing but white space follows the object.
        """
        self.malformed(
            b"{}{}", b"{} 1", b'{"a":1},', b"{}#", b"{}//", b"{}\x00", b"{}\x0c", b"{};"
        )

    def test_comments(self) -> None:
        """
        JSON has no comments.
        """
        self.malformed(b'{/**/"a":1}', b'{"a":1}//', b'{"a"://\n1}', b'#\n{"a":1}')

    def test_literalsMisspelt(self) -> None:
        """
        There are three literals, in lower case and whole.
        """
        self.malformed(
            *(
                b'{"a":' + word + b"}"
                for word in (
                    b"True FALSE nul nullx tru truex None undefined NaN nan -NaN "
                    b"Infinity -Infinity inf"
                ).split()
            )
        )

    def test_otherWhiteSpace(self) -> None:
        """
        Other white space is none to JSON.
        """
        self.malformed(
            b"\x0c{}",
            b"{\x0b}",
            b"\xc2\xa0{}",
            b"\xe2\x81\xa0{}",
            b"{\xe2\x80\xa8}",
            b"\x00{}",
        )


class DecodeNumberTests(_Verdicts):
    """
    Which numbers there are, and what they are read as.
    """

    def test_integers(self) -> None:
        """
        A number without point and exponent is an integer.
        """
        self.yields(b"0", 0)
        self.yields(b"-0", 0)
        self.yields(b"1001", 1001)
        self.yields(b"-123", -123)

    def test_greatestIntegers(self) -> None:
        """
        Integers go to 2^53-1 on both sides.
        """
        self.yields(b"9007199254740991", 9007199254740991)
        self.yields(b"-9007199254740991", -9007199254740991)

    def test_greaterIntegers(self) -> None:
        """
        An integer beyond that is refused, wherever it stands and however long
        it is.
        """
        why = "an integer is not between -9007199254740991 and 9007199254740991"
        for text in (
            b"9007199254740992",
            b"-9007199254740992",
            b"18446744073709551616",
            b"-9223372036854775809",
            b"9" * 400,
            b"-" + b"1" * 5000,
        ):
            self.refused(b'{"a":' + text + b"}", why)
            self.refused(b'{"a":[{"b":[' + text + b"]}]}", why)

    def test_doubles(self) -> None:
        """
        A number with a point or an exponent is a float if that is exact.
        """
        self.yields(b"300.0", 300.0)
        self.yields(b"-0.5", -0.5)
        self.yields(b"0.1", 0.1)
        self.yields(b"1001.0", 1001.0)
        self.yields(b"1e5", 100000.0)
        self.yields(b"1E+2", 100.0)
        self.yields(b"25e-2", 0.25)
        self.yields(b"1.50000000000000000000", 1.5)
        self.yields(b"1.7976931348623157e308", 1.7976931348623157e308)
        self.yields(b"5e-324", 5e-324)

    def test_zeros(self) -> None:
        """
        Zero can be written in many ways.
        """
        for text in (b"0.0", b"0e0", b"0.000", b"0E+999", b"0.0e-999"):
            self.yields(text, 0.0)
        self.assertEqual(str(wire.decode(b'{"a":-0.0}')["a"]), "-0.0")

    def test_exact(self) -> None:
        """
        A number that no double has is kept exactly: money is not rounded.
        """
        for text in (
            "9999999999.12345678",
            "-9999999999.12345678",
            "0.10000000000000001",
            "1001.0000000000000001",
            "9007199254740993.0",
            "1.7976931348623158e308",
            "4e-324",
        ):
            self.yields(text.encode(), Decimal(text))

    def test_tooGreat(self) -> None:
        """
        A number greater than every double is refused.
        """
        for text in (
            b"1e400",
            b"-1e400",
            b"1.8e308",
            b"1e999999999",
        ):
            self.refused(b'{"a":' + text + b"}", "a number is too great for a double")

    def test_tooSmall(self) -> None:
        """
        A number that would become zero is refused.
        """
        for text in (b"1e-400", b"-1e-400", b"0.01e-9999"):
            self.refused(b'{"a":' + text + b"}", "a number is too small for a double")

    def test_long(self) -> None:
        """
        A number may have 1,000 characters.
        """
        self.yields(b"1." + b"0" * 998, 1.0)
        self.refused(
            b'{"a":1.' + b"0" * 999 + b"}", "a number has more than 1000 characters"
        )

    def test_noNumbers(self) -> None:
        """
        What looks like a number and is none in JSON is refused.
        """
        self.malformed(
            *(
                b'{"a":' + text + b"}"
                for text in (
                    b"01 -01 00 0123.5 +1 ++1 --1 - .5 -.5 5. -2. 1.e1 . 1..2 1.2.3 1e "
                    b"1e+ 1E- 1ee2 1e1.5 e5 1.0e 0e+-1 0x1F 1f 1L 1_000 1,000.0e 1a "
                    b"0b1 $1 1/2 1+2 \xef\xbc\x91"
                ).split()
            )
        )
        self.malformed(b'{"a":- 1}', b'{"a":1 000}')


class DecodeStringTests(_Verdicts):
    """
    Which strings there are.
    """

    def test_escapes(self) -> None:
        """
        JSON's escapes are read.
        """
        self.yields(
            rb'"\"\\\/\b\f\n\r\t\u0041\u00E9\u20ac"', '"\\/\b\f\n\r\tA\xe9\u20ac'
        )

    def test_astral(self) -> None:
        """
        A pair of surrogates is one character, as is four bytes of UTF-8.
        """
        self.yields(rb'"\ud83d\ude00"', "\U0001f600")
        self.yields(b'"\xf0\x9f\x98\x80"', "\U0001f600")

    def test_utf8(self) -> None:
        """
        UTF-8 of every length is read, and so are U+007F and U+2028.
        """
        self.yields(b'"A\xc3\xa9\xe2\x82\xac\x7f\xe2\x80\xa8"', "A\xe9\u20ac\x7f\u2028")

    def test_escapedControlCharacters(self) -> None:
        """
        Control characters may stand escaped, even in a name.
        """
        self.assertEqual(wire.decode(rb'{"\u0000":"\u001f"}'), {"\x00": "\x1f"})

    def test_likeEscapes(self) -> None:
        """
        An escaped backslash begins no further escape.
        """
        self.yields(rb'"\\u0041\\n"', "\\u0041\\n")
        self.yields(rb'"\\uffff"', "\\uffff")

    def test_controlCharacters(self) -> None:
        """
        Control characters may not stand as they are.
        """
        self.malformed(
            b'{"a":"\n"}',
            b'{"a":"\t"}',
            b'{"a":"\x00"}',
            b'{"a":"\x1f"}',
            b'{"\x01":1}',
        )

    def test_wrongEscapes(self) -> None:
        """
        There are no other escapes.
        """
        self.malformed(
            *(
                b'{"a":"' + text + b'"}'
                for text in (
                    rb"\x41",
                    rb"\a",
                    rb"\0",
                    rb"\v",
                    rb"\'",
                    rb"\U0041",
                    rb"\u",
                    rb"\u00",
                    rb"\u00g0",
                    rb"\u+041",
                    b"\\",
                    b"\\\n",
                    b"\\\xc3\xa9",
                )
            )
        )

    def test_quotes(self) -> None:
        """
        Strings have double quotes, on both sides.
        """
        self.malformed(
            b"{'a':1}",
            b"{\"a\":'b'}",
            b'{"a":b}',
            b'{"a":"b}',
            b'{"a":b"}',
            b'{"a":"b"c"}',
        )

    def test_halfAPairAtTheEnd(self) -> None:
        """
        An emoji that was cut in two, in the last member of a line, is named, and
        not taken for the end of the line.
        """
        self.refused(
            rb'{"data":{"comment":"x\ud83d"}}',
            "the line is not valid JSON: a string ends with half of a surrogate pair",
        )

    def test_loneSurrogates(self) -> None:
        """
        Half of a pair of surrogates is refused, as is a pair the wrong way
        round.
        """
        self.malformed(
            *(
                b'{"a":"' + text + b'"}'
                for text in (
                    rb"\ud800 \udc00 \uDFFFabcdefgh \ud83dabcdefgh \ud83d\n "
                    rb"\ud83d\u0041 \ud83d\ud83d \ude00\ud83d \ud83d\ud83d\ude00 "
                    rb"1\ud83d1\ude00"
                ).split()
            )
        )
        self.malformed(rb'{"\ud800":1}', rb'{"\udc00abc":1}')

    def test_noncharacters(self) -> None:
        """
        I-JSON has none of Unicode's noncharacters, however they are written.
        """
        for text in (
            b"\xef\xb7\x90",
            b"\xef\xb7\xaf",
            b"\xef\xbf\xbe",
            b"\xef\xbf\xbf",
            b"\xf0\x9f\xbf\xbe",
            b"\xf4\x8f\xbf\xbf",
            rb"\ufdd0",
            rb"\uFDEF",
            rb"\uFFFE",
            rb"\uffff",
            rb"\ud83f\udffe",
            rb"\uDBFF\uDFFF",
        ):
            why = "a string has a Unicode noncharacter"
            self.refused(b'{"a":["x' + text + b'"]}', why)
            self.refused(b'{"a":{"' + text + b'":1}}', why)

    def test_besideNoncharacters(self) -> None:
        """
        The characters next to them are good.
        """
        self.yields(
            rb'"\ufdcf\uFDF0\ufffd\ud83e\udffe\ud83f\udffd"',
            "\ufdcf\ufdf0\ufffd\U0001fbfe\U0001fffd",
        )
        self.yields(
            b'"\xef\xb7\x8f\xef\xb7\xb0\xef\xbf\xbd\xd0\xbf\xf0\x9f\xbf\xbd"',
            "\ufdcf\ufdf0\ufffd\u043f\U0001fffd",
        )


class DecodeEncodingTests(_Verdicts):
    """
    Which bytes are UTF-8.
    """

    def test_byteOrderMark(self) -> None:
        """
        A line has no byte order mark; inside a string it is a character.
        """
        for line in (b"\xef\xbb\xbf{}", b"\xef\xbb\xbf"):
            e = self.assertRaises(InvalidJSON, wire.decode, line)
            self.assertEqual(e.message, "the line begins with a byte order mark")
        self.yields(b'"\xef\xbb\xbf"', "\ufeff")

    def test_otherEncodings(self) -> None:
        """
        UTF-16 and UTF-32 are refused, with a mark and without.
        """
        self.malformed(
            b'\xff\xfe{\x00"\x00a\x00"\x00:\x001\x00}\x00',
            b'\xfe\xff\x00{\x00"\x00a\x00"\x00:\x001\x00}',
            b'{\x00"\x00a\x00"\x00:\x001\x00}\x00',
            b'\x00{\x00"\x00a\x00"\x00:\x001\x00}',
            b"{\x00\x00\x00}\x00\x00\x00",
        )

    def test_badUTF8(self) -> None:
        """
        What is not UTF-8 is refused: stray, missing and overlong bytes,
        surrogates, and what is beyond Unicode.
        """
        for text in (
            b"\x80 \xbf\xbf \xff \xfe \xe9 \xc3 \xe2\x82 \xf0\x9f\x98 \xc0\x80 "
            b"\xc1\xbf \xe0\x80\xaf \xf0\x80\x80\xaf \xed\xa0\x80 \xed\xbf\xbf "
            b"\xed\xa0\xbd\xed\xb8\x80 \xf4\x90\x80\x80 \xf8\x88\x80\x80\x80 caf\xe9"
        ).split():
            for line in (b'{"a":"' + text + b'"}', b'{"' + text + b'":1}'):
                self.refused(line, "the line is not valid UTF-8")

    def test_badBytesOutside(self) -> None:
        """
        Outside a string such bytes are no JSON in the first place.
        """
        self.malformed(b"{\xff}", b"\xe9", b'{"a":\x80}', b"{}\xff")


class DecodeSizeTests(_Verdicts):
    """
    How much a line may list.
    """

    def test_most(self) -> None:
        """
        1,100 commas and opening brackets are good.
        """
        line = b'{"a":[' + b"1," * 1098 + b"1]}"
        self.assertEqual(wire.decode(line), {"a": [1] * 1099})
        line = b'{"a":[' + b"{},[]," * 274 + b"{}]}"
        self.assertEqual(len(wire.decode(line)["a"]), 549)

    def test_tooMany(self) -> None:
        """
        One more is refused, before anything else is looked at.
        """
        self.refused(
            b'{"a":[' + b"1," * 1099 + b"1]}",
            "the line has more than 1100 commas and opening brackets",
        )
        self.refused(
            b"," * 1101, "the line has more than 1100 commas and opening brackets"
        )


class DecodeNestingTests(_Verdicts):
    """
    How deep a line may be.
    """

    def test_deepest(self) -> None:
        """
        Sixteen levels are good, the line's object being the first.
        """
        wire.decode(b'{"a":' + b"[" * 15 + b"1" + b"]" * 15 + b"}")
        wire.decode(b'{"a":' * 15 + b"{}" + b"}" * 15)

    def test_tooDeep(self) -> None:
        """
        A seventeenth is refused, even an empty one, be it array or object.
        """
        for line in (
            b'{"a":' + b"[" * 16 + b"]" * 16 + b"}",
            b'{"a":' * 16 + b"{}" + b"}" * 16,
            b'{"b":1,"a":' + b'[{"a":' * 8 + b"1" + b"}]" * 8 + b"}",
        ):
            self.refused(line, "the line is nested deeper than 16")

    def test_farTooDeep(self) -> None:
        """
        A line that would exhaust the stack of some Pythons is refused as calmly.
        """
        for opening, closing in (
            (b"[[", b"]]"),
            (b'{"a":{"a":', b"}}"),
            (b'[{"a":', b"}]"),
        ):
            self.refused(
                b'{"a":' + opening * 490 + b"1" + closing * 490 + b"}",
                "the line is nested deeper than 16",
            )

    def test_farTooDeepAndCut(self) -> None:
        """
        One that also ends too early is refused for either, as that Python's stack
        reaches.
        """
        for opening in (b"[" * 2, b'{"a":' * 2, b'[{"a":'):
            with self.assertRaises(InvalidJSON) as raised:
                wire.decode(b'{"a":' + opening * 490)
            self.assertIn(
                raised.exception.message,
                (
                    "the line is nested deeper than 16",
                    "the line is not valid JSON: it ends too early",
                ),
            )


class DecodeRepeatedNameTests(_Verdicts):
    """
    No object names a member twice.
    """

    why = "an object has two members of the same name"

    def test_repeated(self) -> None:
        """
        Two members of one name are refused, at every level, with equal values
        too.
        """
        for line in (
            b'{"a":1,"a":2}',
            b'{"a":1,"b":2,"a":1}',
            b'{"a":{"b":1,"b":1}}',
            b'{"a":[1,{"b":{},"b":[]}]}',
            b'{"":1,"":1}',
            b'{"data" : {"amount" : 1, "amount" : 1000000}}',
        ):
            self.refused(line, self.why)

    def test_spelling(self) -> None:
        """
        Names are compared as what they say, not as they are written.
        """
        self.refused(rb'{"amount":1,"\u0061mount":2}', self.why)
        self.refused(rb'{"\u00e9":1,' + b'"\xc3\xa9":2}', self.why)

    def test_besideColons(self) -> None:
        """
        A colon in a string hides no repeated name.
        """
        self.refused(b'{"a":"12:30","b":1,"b":2}', self.why)
        self.refused(b'{"a:b":1,"a:b":2}', self.why)

    def test_colons(self) -> None:
        """
        A colon in a string is no reason to refuse, nor does it change what the
        line is read as.
        """
        self.assertEqual(
            wire.decode(b'{"a:b":"::","n":1.5,"big":9999999999.12345678}'),
            {"a:b": "::", "n": 1.5, "big": Decimal("9999999999.12345678")},
        )

    def test_elsewhere(self) -> None:
        """
        Two objects may each have a member of one name, and names differ by
        case.
        """
        self.assertEqual(
            wire.decode(b'{"a":{"a":1},"A":[{"a":2},{"a":3}]}'),
            {"a": {"a": 1}, "A": [{"a": 2}, {"a": 3}]},
        )


class SalvageTests(SynchronousTestCase):
    """
    The C{extID} of a line that is refused.
    """

    def salvaged(self, extID: str | int | float, *lines: bytes) -> None:
        """
        Assert that this is what is read of each of these lines, which are no
        I-JSON.
        """
        for line in lines:
            self.assertRaises(InvalidJSON, wire.decode, line)
            self.assertEqual(wire.salvage(line), {"extID": extID}, line[:80])

    def lost(self, *lines: bytes) -> None:
        """
        Assert that nothing is read of these.
        """
        for line in lines:
            self.assertEqual(wire.salvage(line), {}, line[:80])

    def test_wrongValues(self) -> None:
        """
        It is read in front of and behind whatever is not I-JSON.
        """
        for value in (
            b"NaN",
            b"-Infinity",
            b"1e400",
            b"9007199254740992",
            b"1" * 5000,
            b"0.%b" % (b"1" * 64),
            b"01",
            b"+1",
            b"undefined",
            b'"\\ud83d"',
            b'"\\ufffe"',
            b'"\\x41"',
            b'"\xff"',
            b'"\xc3"',
            b'"\xed\xa0\x80"',
            b'"a\tb"',
            b'"\\\\"',
            b'{"a":1,"a":2}',
            b'{"a":1,5}',
            b"[1,]",
            b'[{"a":NaN},["}]",{}]]',
            b"[" * 17 + b"]" * 17,
            b"[" * 900 + b"]" * 900,
            b"[%b]" % b",".join([b"{}"] * 600),
        ):
            self.salvaged(
                "x",
                b'{"extID":"x","a":NaN,"b":%b}' % value,
                b'{"a":NaN,"b":%b,"extID":"x"}' % value,
                b' { "b" : %b , "extID" : "x" , "a" : NaN } ' % value,
            )

    def test_values(self) -> None:
        """
        It has its type, and is good I-JSON itself. Whether it may be an extID
        is not asked here.
        """
        for text, extID in (
            (b'"\\u00e9"', "\xe9"),
            ('"\xe9\U0001f4b6"'.encode(), "\xe9\U0001f4b6"),
            (b'"a\\"b"', 'a"b'),
            (b"7", 7),
            (b"-7.0", -7.0),
        ):
            self.salvaged(extID, b'{"extID":%b,"a":NaN}' % text)
        self.lost(
            *(
                b'{"extID":%b,"a":NaN}' % text
                for text in (
                    b"NaN",
                    b'"\\ud83d"',
                    b'"\\ufffe"',
                    b'"\xff"',
                    b'"a\tb"',
                    b'"\\x41"',
                    b"9007199254740992",
                    b"01",
                    b"7a",
                    b"{}",
                    b'["x"]',
                    b'"a"b"',
                    b"'x'",
                    b"",
                )
            )
        )

    def test_broken(self) -> None:
        """
        Where a line ends to be JSON does no harm to what stands before it.
        """
        for rest in (
            b"",
            b'"data":{"comment":"It ends he',
            b'"data":{"comment":"He said "hi"","amount":1}}',
            b"'data':{}}",
            b'"a":1}}',
            b'"a":1} {}',
            b"}",
            b'"a":[1}]',
            b'"a":/* one */1}',
            b"[" * 30000,
            b'"a":' + b"[" * 60000,
            b'"a":"' + b"x" * 70000,
            b'"a":[' + b"0," * 30000 + b"0]}",
        ):
            self.salvaged("x", b'{"command":"X","extID":"x",' + rest)
        self.salvaged("x", b'\xef\xbb\xbf{"extID":"x"}')

    def test_doubt(self) -> None:
        """
        What there might be another one of is not taken, nor what may be cut
        off.
        """
        self.lost(
            b'{"extID":"x","extID":"x"}',
            b'{"extID":"x","extID":"y","a":NaN}',
            b'{"extID":"x","e\\u0078tID":"y"}',
            b'{"extID":"x","a":1}{"extID":"y"}',
            b'{"extID":"x","a":1},{"extID":"y"}',
            b'{"extID":"x","a":"\\"},"extID":"y"}',
            b'{"extID":"x",\'a\':1,"extID":"y"}',
            b'{"extID":"x",\'a\':1,"\\u0065xtID":"y"}',
            b'{"extID":"x","extID":"y',
            b'{"extID":"x"',
            b'{"extID":12',
            b'{"extID":"x" "y":1}',
            b'{"extID":"x":1}',
        )
        self.salvaged("x", b'{"\\u0065xt\\u0049D":"x","a":NaN}')

    def test_elsewhere(self) -> None:
        """
        One that stands in another object or inside of a string is never
        taken, whatever is wrong with the line.
        """
        self.lost(
            b'{"data":{"extID":"x","a":NaN}}',
            b'{"data":[{"extID":"x"}],"a":NaN}',
            b'[{"extID":"x","a":NaN}]',
            b'"extID":"x"',
            b'{"a":"\\"extID\\":\\"x\\"","b":NaN}',
            b'{"a":"\\\\\\",\\"extID\\":\\"x\\"","b":NaN}',
            b'{"a":\'","extID":"x","b":"\'}',
            b'{"a":{"b":\'},"extID":"x","c":"\'}}',
            b'{"a":{/*},"extID":"x",*/"b":1}}',
            b'{"a":{"b":[},"extID":"x"]}}',
            b'{"a":{"b":1]},"extID":"x"}',
            b'{"a":[1},"extID":"x"}',
            b'{"a":{"b":"c"d"},"extID":"x"}',
            b'{"extid":"x","ext":"ID","a":NaN}',
            b'{extID:"x"}',
            b"extID",
            b"",
        )
        self.salvaged("x", b'{"extID":"x","data":{"extID":"y","a":NaN}}')
        self.salvaged("x", b'{"data":{"extID":"y","a":NaN},"extID":"x"}')

    def test_cost(self) -> None:
        """
        Of a line that is made to be expensive only so many members and
        brackets are looked at.
        """
        matches: list[int] = []

        class Counting:
            def __init__(self, pattern: Any) -> None:
                self.pattern = pattern

            def match(self, line: bytes, at: int) -> Any:
                matches.append(at)
                return self.pattern.match(line, at)

        for name in ("_MEMBER", "_BRACKET"):
            self.patch(salvaging, name, Counting(getattr(salvaging, name)))
        for line in (
            b'{"extID":"x","a":' + b"[" * 65000,
            b'{"extID":"x","a":' + b'[{"":' * 13000,
            b'{"extID":"x",' + b'"":0,' * 13000,
            b'{"extID":"x",' + b'"":[],' * 11000,
        ):
            matches.clear()
            self.salvaged("x", line)
            self.assertLess(len(matches), 2300)


class UnitsTests(SynchronousTestCase):
    """
    Amounts to and from integers of 10⁻⁸ units.
    """

    def test_toUnits(self) -> None:
        """
        Every amount that has at most 8 decimals has its exact units.
        """
        for amount, units in (
            (300.0, 30000000000),
            (300, 30000000000),
            (0.1, 10000000),
            (-0.5, -50000000),
            (19.99, 1999000000),
            (0.00000001, 1),
            (1e-8, 1),
            (0.29, 29000000),
            (1234567.12345678, 123456712345678),
            (99999999.99999999, 9999999999999999),
            (123456789.1, 12345678910000000),
            (1e10, 1000000000000000000),
            (9007199254740991, 900719925474099100000000),
            (Decimal("9999999999.12345678"), 999999999912345678),
            (Decimal("-9999999999.12345678"), -999999999912345678),
            (Decimal("1.2000000000000000000000000000000000"), 120000000),
            (Decimal("1E+2"), 10000000000),
            (0.0, 0),
        ):
            self.assertEqual(toUnits(amount), units, amount)

    def test_noise(self) -> None:
        """
        What programs write for a double is the amount of at most 8 decimals
        that it was meant for: in 15, 16 or 17 digits or in all of them, with an
        exponent or without, and one unit in the last place above or below.
        """
        for text, units in (
            ("3.1800000000000002", 318000000),
            ("0.10000000000000001", 10000000),
            ("-0.10000000000000001", -10000000),
            ("0.30000000000000004", 30000000),
            ("434.99999999999994", 43500000000),
            ("56.99999999999999", 5700000000),
            ("0.7999999999999999", 80000000),
            ("3.1800000000000002e0", 318000000),
            ("318000000000000020e-17", 318000000),
            ("0.29999999999999998889776975374843459576368331909", 30000000),
            ("0.1000000000000000055511151231257827021181583404541015625", 10000000),
            ("1001.0000000000000001", 100100000000),
            ("9.9999999999999995e-09", 1),
            ("0.000000010000000000000000000000000000000000001", 1),
            ("12345678.120000001", 1234567812000000),
            ("9999999999.123456789", 999999999912345679),
        ):
            self.assertEqual(toUnits(Decimal(text)), units, text)
            amount = wire.decode(b'{"m":%b}' % text.encode())["m"]
            self.assertEqual(toUnits(amount), units, text)

    def test_exactIsLiteral(self) -> None:
        """
        A number of at most 8 decimals is what it says, however near another
        one is that a double could be.
        """
        for text, units in (
            ("9999999999.9999999", 999999999999999990),
            ("234567890.09999999", 23456789009999999),
            ("9999999999.99999999", 999999999999999999),
            ("123456789.12345678", 12345678912345678),
        ):
            self.assertEqual(toUnits(Decimal(text)), units, text)

    def test_tooFine(self) -> None:
        """
        Any other amount with more than 8 decimals has no units; none becomes 0.
        """
        for amount in (
            0.000000001,
            1.123456789,
            -1e-9,
            1e-300,
            5e-324,
            -5e-324,
            4e-9,
            6e-9,
            0.3000000000000001,
            Decimal("3.180000000000001"),
            Decimal("3.1800000000000006"),
            Decimal("3.1799999999999993"),
            Decimal("0.1000000000000001"),
            Decimal("0.0000000100000000000001"),
            Decimal("1e-400"),
            Decimal("1e-999999"),
            Decimal("1." + "1" * 65000),
            Decimal("sNaN"),
            float("inf"),
            float("nan"),
        ):
            self.assertRaises(ValueError, toUnits, amount)

    @settings(derandomize=True, database=None, deadline=None, max_examples=1000)
    @given(
        st.integers(-(10**18), 10**18) | st.integers(-(10**10), 10**10),
        st.integers(-3, 3),
        st.sampled_from([".17g", "r", ".15e", ".20f", ".25g"]),
    )
    def test_asFractions(self, units: int, steps: int, form: str) -> None:
        """
        The rule, by fractions, for each way to write a double near an amount.
        """
        value = units / 10**8
        for _ in range(abs(steps)):
            value = nextafter(value, inf if steps > 0 else -inf)
        text = repr(value) if form == "r" else format(value, form)
        exact = Fraction(text)
        nearest = round(exact * 10**8)
        apart = min(
            abs(exact - Fraction(nearest, 10**8)),
            abs(Fraction(float(text)) - Fraction(nearest, 10**8)),
        )
        isNoise = nearest != 0 and apart <= Fraction(ulp(nearest / 10**8))
        isGood = isNoise or exact * 10**8 == nearest
        amounts: list[Any] = [Decimal(text)]
        with contextlib.suppress(InvalidJSON):
            amounts.append(wire.decode(b'{"m":%b}' % text.encode())["m"])
        for amount in amounts:
            if isGood:
                self.assertEqual(toUnits(amount), nearest, text)
            else:
                self.assertRaises(ValueError, toUnits, amount)

    def test_fromUnits(self) -> None:
        """
        Units are written with at least one decimal and never an exponent.
        """
        for units, text in (
            (30000000000, "300.0"),
            (-50000000, "-0.5"),
            (1, "0.00000001"),
            (-1, "-0.00000001"),
            (999999999912345678, "9999999999.12345678"),
            (0, "0.0"),
            (1000000000000000000, "10000000000.0"),
            (1999000000, "19.99"),
            (-30010000000, "-300.1"),
        ):
            self.assertEqual(fromUnits(units), text)


def creditIn(**changes: Any) -> Trade:
    """
    The trade of C{docs/protocol.rst}, "A credit", booked at second 1764000000,
    with changes.
    """
    members: dict[str, Any] = {
        "order": 1242281,
        "login": 1001,
        "cmd": 7,
        "state": 3,
        "profit": 30000000000,
        "comment": "Promotion credit",
        "openTime": 1764000000,
        "closeTime": 1764000001,
        "timestamp": 1764000002,
    }
    return Trade(**(members | changes))


class WriteTests(SynchronousTestCase):
    """
    The lines that are written, byte for byte.
    """

    def test_trade(self) -> None:
        """
        A trade begins with the six members of C{docs/protocol.rst}, "Trade
        events", in that order.
        """
        self.assertEqual(
            wire.encodeData(creditIn()),
            b'{"order":1242281,"login":1001,"cmd":7,"state":3,"profit":300.0,'
            b'"comment":"Promotion credit","symbol":"","volume":0,"open_price":0.0,'
            b'"close_price":0.0,"open_time":1764000000,"close_time":1764000001,'
            b'"sl":0.0,"tp":0.0,"storage":0.0,"commission":0.0,"reason":7,'
            b'"timestamp":1764000002}',
        )

    def test_tradeProfit(self) -> None:
        """
        A trade's profit is written to its last unit.
        """
        data = wire.encodeData(creditIn(profit=-999999999912345678))
        self.assertIn(b',"profit":-9999999999.12345678,', data)

    def test_tradeProfitIsExact(self) -> None:
        """
        A trade's profit is written as L{fromUnits} does, great or small.
        """
        choose = random.Random(1)
        near = [10**digits + more for digits in range(19) for more in (-1, 0, 1)]
        some = [choose.randrange(10 ** choose.randrange(1, 19)) for _ in range(2000)]
        for units in near + some:
            for profit in (units, -units):
                self.assertIn(
                    f',"profit":{fromUnits(profit)},'.encode("ascii"),
                    wire.encodeData(creditIn(profit=profit)),
                )

    def test_tradeComment(self) -> None:
        """
        A trade's comment is written so that every client can read it.
        """
        data = wire.encodeData(creditIn(comment="it's \xe9, ]\t\"\\\U0001f600"))
        self.assertIn(
            rb',"comment":"it\u0027s \u00e9\u002c ]\t\"\\\ud83d\ude00",', data
        )

    def test_foreignTrade(self) -> None:
        """
        The record of another runtime keeps its members, their order and their
        values.
        """
        record = {
            "order": 5,
            "profit": Decimal("9999999999.12345678"),
            "x": [None, 0.5],
        }
        self.assertEqual(
            wire.encodeData(record),
            b'{"order":5,"profit":9999999999.12345678,"x":[null,0.5]}',
        )

    def test_notANumber(self) -> None:
        """
        A float that JSON has no number for is null.
        """
        self.assertEqual(wire.encodeData({"a": float("nan")}), b'{"a":null}')

    def test_event(self) -> None:
        """
        An event is the envelope around the data, with CR LF.
        """
        self.assertEqual(
            wire.event(1, b'{"order":5}'),
            b'{"event":"trade:event","type":1,"data":{"order":5}}\r\n',
        )

    def test_reply(self) -> None:
        """
        A reply is the C{extID}, the status and the data, with CR LF.
        """
        self.assertEqual(
            wire.reply("credit-req-1001", b'{"order":5}'),
            b'{"extID":"credit-req-1001","status":200,"data":{"order":5}}\r\n',
        )

    def test_extID(self) -> None:
        """
        An C{extID} keeps its JSON type and value.
        """
        for sent in (b'"7"', b"7", b"-7", b"7.0", b'""', rb'"\u0027\\"', rb'"\u044f"'):
            extID = wire.decode(b'{"extID":' + sent + b"}")["extID"]
            self.assertEqual(
                wire.reply(extID, b"{}"),
                b'{"extID":' + sent + b',"status":200,"data":{}}\r\n',
            )

    def test_noExtID(self) -> None:
        """
        Without an C{extID} a reply has no such member.
        """
        self.assertEqual(wire.reply(None, b"{}"), b'{"status":200,"data":{}}\r\n')
        self.assertEqual(
            wire.refusal(None, IncorrectOrder("the order is another login's")),
            b'{"status":409,"error":"INCORRECT_ORDER",'
            rb'"message":"the order is another login\u0027s"}'
            b"\r\n",
        )

    def test_success(self) -> None:
        """
        A reply whose data is a mapping is written in one step.
        """
        self.assertEqual(
            wire.success(3, {"accepted": True, "amount": 300.0}),
            b'{"extID":3,"status":200,"data":{"accepted":true,"amount":300.0}}\r\n',
        )

    def test_refusal(self) -> None:
        """
        A refusal says its status, name and sentence.
        """
        self.assertEqual(
            wire.refusal("a", InvalidJSON("the line is not a JSON object")),
            b'{"extID":"a","status":400,"error":"INVALID_JSON",'
            b'"message":"the line is not a JSON object"}\r\n',
        )

    def test_refusalWithData(self) -> None:
        """
        A refusal has data where the contract has it.
        """
        self.assertEqual(
            wire.refusal(1, Busy("try again")),
            b'{"extID":1,"status":503,"error":"BUSY","message":"try again",'
            b'"data":{"retry_after_ms":250}}\r\n',
        )


class ClientRuleTests(SynchronousTestCase):
    """
    What the platform's clients need of strings, in everything that is written.
    """

    def writes(self, text: str, expected: bytes) -> None:
        """
        Assert that a string is written as this, wherever it stands.
        """
        self.assertIn(
            b'"comment":' + expected + b",", wire.encodeData(creditIn(comment=text))
        )
        self.assertEqual(
            wire.encodeData({text: [text]}), b"{" + expected + b":[" + expected + b"]}"
        )
        self.assertIn(b'{"extID":' + expected + b",", wire.reply(text, b"{}"))
        refusal = wire.refusal(text, InvalidJSON(text))
        self.assertIn(b'{"extID":' + expected + b",", refusal)
        self.assertIn(b',"message":' + expected + b"}", refusal)

    def test_ascii(self) -> None:
        """
        What is not ASCII is escaped, in pairs of surrogates if need be.
        """
        self.writes(
            "\u0411\xe9 \u20ac\U0001f600\U0010fffd",
            rb'"\u0411\u00e9 \u20ac\ud83d\ude00\udbff\udffd"',
        )

    def test_lineEnds(self) -> None:
        """
        No line end stands in a line.
        """
        self.writes("a\r\nb\u2028", rb'"a\r\nb\u2028"')

    def test_apostrophe(self) -> None:
        """
        An apostrophe is escaped, after a backslash too.
        """
        self.writes("it's '\\'", rb'"it\u0027s \u0027\\\u0027"')

    def test_commaBeforeCloser(self) -> None:
        """
        A comma before a closing bracket is escaped, with spaces between too.
        """
        self.writes("[1,]", rb'"[1\u002c]"')
        self.writes("{a,  }", rb'"{a\u002c  }"')
        self.writes(",,]", rb'",\u002c]"')

    def test_otherCommas(self) -> None:
        """
        Other commas stay.
        """
        self.writes("a,b", b'"a,b"')
        self.writes("a,b]", b'"a,b]"')
        self.writes("], }", rb'"]\u002c }"')

    def test_lastComma(self) -> None:
        """
        A comma that ends a string is apart from the bracket behind it.
        """
        self.writes("a,", b'"a,"')

    def test_readBack(self) -> None:
        """
        What is escaped is read back as it was.
        """
        text = "it's [1, ] {,}\\' \U0001f600\t\x7f"
        line = wire.success("x", {"comment": text})
        self.assertEqual(wire.decode(line)["data"], {"comment": text})


# Comments, and how they are written in JSON.
_COMMENTS = (
    ("Promotion credit", b'"Promotion credit"'),
    ("", b'""'),
    ("a\nb\r\nc", b'"a\\nb\\r\\nc"'),
    ("\x85\u2028\u2029\x0b", b'"\\u0085\\u2028\\u2029\\u000b"'),
    ("it's", b'"it\\u0027s"'),
    ("a,}b, ]", b'"a\\u002c}b\\u002c ]"'),
    ("a, b", b'"a, b"'),
    ("B\xf6ni \U0001f600", b'"B\\u00f6ni \\ud83d\\ude00"'),
    ('"\\\t\x7f', b'"\\"\\\\\\t\\u007f"'),
)
_AMOUNTS = (
    (30000000000, b"300.0"),
    (1, b"0.00000001"),
    (-9999, b"-0.00009999"),
    (10000, b"0.0001"),
    (10**15 - 1, b"9999999.99999999"),
    (10**15 + 1, b"10000000.00000001"),
    (-(10**18), b"-10000000000.0"),
)


def _trade(comment: str = "x", units: int = 30000000000) -> Trade:
    return Trade(1, 1001, 7, 3, units, comment, 5, 6, 7)


def _written(comment: bytes = b'"x"', amount: bytes = b"300.0") -> bytes:
    return (
        b'{"order":1,"login":1001,"cmd":7,"state":3,"profit":%b,"comment":%b,'
        b'"symbol":"","volume":0,"open_price":0.0,"close_price":0.0,"open_time":5,'
        b'"close_time":6,"sl":0.0,"tp":0.0,"storage":0.0,"commission":0.0,"reason":7,'
        b'"timestamp":7}' % (amount, comment)
    )


class EncodeEventsTests(SynchronousTestCase):
    """
    Tests for L{wire.encodeEvents}.
    """

    def test_none(self) -> None:
        """
        Of no events it gives nothing.
        """
        self.assertEqual(wire.encodeEvents([], None), ([], []))

    def test_comments(self) -> None:
        """
        Each trade is one text, whatever its comment, without a line end, an
        apostrophe or anything but ASCII inside.
        """
        events = [TradeEvent(0, _trade(comment)) for comment, _ in _COMMENTS]
        could, encoded = wire.encodeEvents(events, None)
        self.assertEqual(could, events)
        self.assertEqual(
            encoded, [_written(comment=written) for _, written in _COMMENTS]
        )

    def test_amounts(self) -> None:
        """
        Each amount is written exactly.
        """
        events = [TradeEvent(0, _trade(units=units)) for units, _ in _AMOUNTS]
        _, encoded = wire.encodeEvents(events, None)
        self.assertEqual(encoded, [_written(amount=written) for _, written in _AMOUNTS])

    def test_places(self) -> None:
        """
        An event that has a place has a cursor, if its journal has an epoch.
        """
        events = [TradeEvent(0, _trade(), place=7), TradeEvent(0, _trade())]
        without = _written()
        withCursor = without[:-1] + b',"cursor":"9f3c1a7e-7"}'
        self.assertEqual(
            wire.encodeEvents(events, "9f3c1a7e"), (events, [withCursor, without])
        )
        self.assertEqual(wire.encodeEvents(events, None), (events, [without, without]))

    @settings(derandomize=True, database=None, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.text(
                    st.characters(exclude_categories=["Cs"])
                    | st.sampled_from("',}] \n\r\u2028\\\"")
                ),
                st.integers(-(10**18), 10**18),
            )
        )
    )
    def test_asOneByOne(self, trades: list[tuple[str, int]]) -> None:
        """
        Together they are written as each is by itself.
        """
        events = [
            TradeEvent(0, _trade(*each), place=place)
            for place, each in enumerate(trades)
        ]
        self.assertEqual(
            wire.encodeEvents(events, "9f3c1a7e"),
            (
                events,
                [
                    wire.encodeData(event.data, f"9f3c1a7e-{event.place}")
                    for event in events
                ],
            ),
        )

    def test_others(self) -> None:
        """
        One that can't be encoded is reported and left out, and a mapping is encoded
        like any other.
        """
        unspeakable: Any = _trade()
        unspeakable.login = object()
        good = TradeEvent(0, _trade())
        other = TradeEvent(0, {"order": 1}, place=3)
        odd = TradeEvent(0, unspeakable)
        self.assertEqual(
            wire.encodeEvents([good, other, odd, good], "9f3c1a7e"),
            (
                [good, other, good],
                [_written(), b'{"order":1,"cursor":"9f3c1a7e-3"}', _written()],
            ),
        )
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_loneSurrogate(self) -> None:
        """
        Of a trade with a lone surrogate it gives an escape.
        """
        _, encoded = wire.encodeEvents([TradeEvent(0, _trade("\ud800"))], None)
        self.assertEqual(encoded, [_written(comment=b'"\\ud800"')])


class EventsTests(SynchronousTestCase):
    """
    Tests for L{wire.events}.
    """

    def test_one(self) -> None:
        """
        One event is one line.
        """
        self.assertEqual(
            wire.events([0], [b'{"order":1}']),
            b'{"event":"trade:event","type":0,"data":{"order":1}}\r\n',
        )

    def test_types(self) -> None:
        """
        Several are a line each, in order and each with its type, be they of one type
        or of different ones.
        """
        for types in ([0, 0, 0], [2, 2, 2], [0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 1, 2]):
            lines = wire.events(types, [b'{"order":1}', b"{}", b'{"order":3}'])
            self.assertEqual(
                lines,
                b'{"event":"trade:event","type":%d,"data":{"order":1}}\r\n'
                b'{"event":"trade:event","type":%d,"data":{}}\r\n'
                b'{"event":"trade:event","type":%d,"data":{"order":3}}\r\n'
                % tuple(types),
            )

    def test_percent(self) -> None:
        """
        Data with what a format could take for its own is written as it is.
        """
        data = [b'{"comment":"100%d %b %%"}'] * 2
        line = b'{"event":"trade:event","type":0,"data":' + data[0] + b"}\r\n"
        self.assertEqual(wire.events([0, 0], data), line * 2)
