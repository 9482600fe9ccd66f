"""
Tests for L{creditsync._cursor}.
"""

from twisted.trial.unittest import SynchronousTestCase

from creditsync._cursor import cursorOf, newEpoch, placeIn


class CursorTests(SynchronousTestCase):
    """
    Tests for cursors as texts.
    """

    def test_written(self) -> None:
        """
        A cursor has the epoch and the place.
        """
        self.assertEqual(cursorOf("9f3c1a7e", 1042), "9f3c1a7e-1042")

    def test_longest(self) -> None:
        """
        A cursor has at most 64 characters, up to the last place there can be.
        """
        self.assertEqual(len(cursorOf(newEpoch(), 2**63 - 1)), 28)

    def test_epoch(self) -> None:
        """
        An epoch has 8 hexadecimal digits, and no two are the same.
        """
        self.assertRegex(newEpoch(), "^[0-9a-f]{8}$")
        self.assertNotEqual(newEpoch(), newEpoch())

    def test_read(self) -> None:
        """
        A cursor of this life is read, from the beginning up to the head.
        """
        for place in (0, 1, 1042):
            found = placeIn(f"9f3c1a7e-{place}", "9f3c1a7e", 1042)
            self.assertEqual(found, place)

    def test_gone(self) -> None:
        """
        A cursor of another life, one that is ahead, and what is not a cursor at
        all name no place.
        """
        for cursor in (
            "9f3c1a7e-1043",
            "9f3c1a7f-1",
            "",
            "first",
            "9f3c1a7e",
            "9f3c1a7e-",
            "9f3c1a7e--1",
            "9f3c1a7e-+1",
            "9f3c1a7e-01",
            "9f3c1a7e-1 ",
            "9f3c1a7e-1\n",
            "9f3c1a7e-1.0",
            "9f3c1a7e-\u0661",
            "9F3C1A7E-1",
            "-1",
            "9f3c1a7e-" + "9" * 5000,
        ):
            self.assertIsNone(placeIn(cursor, "9f3c1a7e", 1042), cursor)
