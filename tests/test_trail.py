"""
Tests for L{creditsync._wire.trail}.
"""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from creditsync import _wire as wire

TIME = "2026-01-01T00:00:00.250000Z"


def booking(**members: Any) -> wire.Booking:
    """
    A credit that was booked, with other values for some of its members.
    """
    values = {
        "time": TIME,
        "outcome": "booked",
        "command": "CreditInSync",
        "principal": 7,
        "session": 1,
        "peer": "192.0.2.1:4242",
        "extID": "a",
        "key": wire.OMITTED,
        "done": "add",
        "order": 5,
        "login": 1001,
        "cmd": 7,
        "amount": wire.amount(30_000_000_000),
        "comment": "Promotion",
        "place": 12,
    }
    return wire.Booking(**{**values, **members})


class BookingsTests(SynchronousTestCase):
    """
    Tests for the lines of bookings.
    """

    def test_bytes(self) -> None:
        """
        A line has these bytes.
        """
        self.assertEqual(
            wire.bookings([booking()]),
            b'{"time":"2026-01-01T00:00:00.250000Z","outcome":"booked",'
            b'"command":"CreditInSync","principal":7,"session":1,'
            b'"peer":"192.0.2.1:4242","extID":"a","done":"add","order":5,'
            b'"login":1001,"cmd":7,"amount":300.0,"comment":"Promotion","place":12}\n',
        )

    def test_omitted(self) -> None:
        """
        Members that a booking doesn't have are missing, and an extID that the
        request did not have is null.
        """
        omitted = dict.fromkeys(
            ("command", "principal", "session", "peer", "login", "cmd", "place"),
            wire.OMITTED,
        )
        line = booking(**omitted, amount=wire.OMITTED, comment=wire.OMITTED, extID=None)
        self.assertEqual(
            wire.bookings([line]),
            b'{"time":"2026-01-01T00:00:00.250000Z","outcome":"booked","extID":null,'
            b'"done":"add","order":5}\n',
        )

    def test_key(self) -> None:
        """
        An idempotency key has its name on the wire.
        """
        self.assertIn(
            b'"extID":7,"idempotencyKey":"k","done"',
            wire.bookings([booking(extID=7, key="k")]),
        )

    def test_amounts(self) -> None:
        """
        Amounts are exact, without an exponent.
        """
        for units, text in (
            (1, b"0.00000001"),
            (-1, b"-0.00000001"),
            (10_000, b"0.0001"),
            (-7_000_000, b"-0.07"),
            (100_000_000, b"1.0"),
            (999_999_900_000_001, b"9999999.00000001"),
            (9_223_372_036_854_775_807, b"92233720368.54775807"),
        ):
            line = wire.bookings([booking(amount=wire.amount(units))])
            self.assertIn(b'"amount":%b,"comment"' % text, line)

    def test_unusual(self) -> None:
        """
        Everything outside of printable ASCII is escaped as Python's JSON does it;
        the other lines of the same commit are as they were.
        """
        usual = booking()
        for comment, escaped in (
            ('"\\\n\x00\x1f', rb"\"\\\n\u0000\u001f"),
            ("\x7f", rb"\u007f"),
            ("\N{EURO SIGN}", rb"\u20ac"),
            ("\U0001f600", rb"\ud83d\ude00"),
            ("it's,}", b"it's,}"),
        ):
            lines = wire.bookings([usual, booking(comment=comment), usual])
            before, unusual, after = lines.splitlines(keepends=True)
            self.assertEqual((before, after), (wire.bookings([usual]),) * 2)
            self.assertIn(b'"comment":"%b","place":' % escaped, unusual)

    @given(st.lists(st.tuples(st.text(), st.text(), st.text() | st.integers(0, 9))))
    def test_anyTexts(self, texts: list[tuple[str, str, str | int]]) -> None:
        """
        Whatever the texts are, the lines are those that Python's own JSON writes,
        one for each booking.
        """
        lines = wire.bookings(
            [booking(comment=a, peer=b, extID=extID) for a, b, extID in texts]
        )
        self.assertEqual(lines.count(b"\n"), len(texts))
        for line, (comment, peer, extID) in zip(lines.splitlines(), texts, strict=True):
            members = json.loads(line)
            self.assertEqual(
                (members["comment"], members["peer"], members["extID"]),
                (comment, peer, extID),
            )
            text = json.dumps(members, separators=(",", ":"))
            self.assertEqual(line, text.encode("ascii"))

    def test_nothing(self) -> None:
        """
        Without bookings there are no lines.
        """
        self.assertEqual(wire.bookings([]), b"")

    def test_noText(self) -> None:
        """
        Half of a surrogate pair can't be written.
        """
        self.assertRaises(ValueError, wire.bookings, [booking(comment="\ud83d")])
