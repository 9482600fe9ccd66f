"""
Tests for L{creditsync.logs}.
"""

import io
import json
import sys
from typing import Any

from twisted.logger import Logger, LogLevel, LogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from creditsync import logs
from creditsync.logs import JSONLog

# The header and the claims of a token, and a text in place of its signature.
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJpZCI6Nywicm9sZSI6MX0.c2lnbmF0dXJl-_"


class Unspeakable:
    """
    An object that can't be formatted in any way.
    """

    def __repr__(self) -> str:
        raise RuntimeError("nothing to be said")

    def __format__(self, how: str) -> str:
        raise RuntimeError("nothing to be said")


class BrokenFile(io.StringIO):
    """
    A file on a full disk.
    """

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


class JSONLogTests(SynchronousTestCase):
    """
    Tests for the log as JSON.
    """

    def setUp(self) -> None:
        self.out = io.StringIO()
        self.publisher = LogPublisher(JSONLog(self.out))
        self.log = Logger("creditsync.test", observer=self.publisher)

    def lines(self) -> list[dict[str, Any]]:
        """
        The lines that were written, decoded.
        """
        text = self.out.getvalue()
        assert text.isascii() and text.endswith("\n")
        return [json.loads(line) for line in text.splitlines()]

    def line(self) -> dict[str, Any]:
        """
        The one line that was written, decoded.
        """
        [line] = self.lines()
        return line

    def test_event(self) -> None:
        """
        A line has the time, the level, the namespace, the text, and the values
        in the text.
        """
        JSONLog(self.out)(
            {
                "log_time": 1767225600.25,
                "log_level": LogLevel.warn,
                "log_namespace": "creditsync._process.keys",
                "log_format": "{path} has {count} of {what}",
                "path": "/x",
                "count": 3,
                "what": None,
            }
        )
        self.assertEqual(
            self.out.getvalue(),
            '{"time": "2026-01-01T00:00:00.250Z", "level": "warn", "namespace":'
            ' "creditsync._process.keys", "text": "/x has 3 of None",'
            ' "fields": {"path": "/x", "count": 3, "what": null}}\n',
        )

    def test_failure(self) -> None:
        """
        A failure has its traceback, in the same line.
        """
        try:
            raise ZeroDivisionError("by zero")
        except ZeroDivisionError:
            self.log.failure("it went {how}", how="wrong")
        line = self.line()
        self.assertEqual(line["level"], "critical")
        self.assertEqual(line["text"], "it went wrong")
        self.assertIn("Traceback", line["exception"])
        self.assertIn("ZeroDivisionError: by zero", line["exception"])

    def test_noLineInALine(self) -> None:
        """
        Whatever a text contains, an event is one line.
        """
        self.log.info("{text}", text="one\ntwo\u2028three \ud800 \N{EURO SIGN}\x00")
        self.assertEqual(
            self.line()["text"], "one\ntwo\u2028three \ud800 \N{EURO SIGN}\x00"
        )

    def test_onlyPlainFields(self) -> None:
        """
        Objects that JSON has no type for are only in the text.
        """
        self.log.info("{a} {b.imag}", a=[1], b=1j, c=b"x", d=True)
        line = self.line()
        self.assertEqual(line["text"], "[1] 1.0")
        self.assertEqual(line["fields"], {"d": True})

    def test_noNumber(self) -> None:
        """
        A number that JSON can't represent does not spoil the line.
        """
        self.log.info("{x}", x=float("nan"), y=float("inf"))
        line = self.line()
        self.assertEqual((line["text"], line["fields"]), ("nan", {"x": None}))

    def test_unspeakable(self) -> None:
        """
        An event that can't be formatted does not raise, and is a line all the
        same.
        """
        self.log.info("{what}", what=Unspeakable())
        self.log.info("{what} {nothing}", what=1)
        self.log.info(None)  # type: ignore[arg-type]
        JSONLog(self.out)({})
        JSONLog(self.out)({"log_time": "noon", "log_level": 7})
        self.assertEqual(len(self.lines()), 5)

    def test_noToken(self) -> None:
        """
        Whatever looks like a token is not written, wherever it is.
        """
        try:
            raise ValueError(TOKEN)
        except ValueError:
            why = Failure()
        self.log.failure("{token}!", why, token=TOKEN, text=f"x {TOKEN} y")
        written = self.out.getvalue()
        self.assertEqual(written.count("[token]"), 4)
        for part in TOKEN.split("."):
            self.assertNotIn(part, written)
        self.assertEqual(self.line()["text"], "[token]!")

    def test_brokenFile(self) -> None:
        """
        A log that can't be written does not raise.
        """
        JSONLog(BrokenFile())({"log_format": "x"})
        closed = io.StringIO()
        closed.close()
        JSONLog(closed)({"log_format": "x"})

    def test_factory(self) -> None:
        """
        The function to name with C{twistd --logger} writes to the stdout of
        the moment at which it is called.
        """
        self.patch(sys, "stdout", self.out)
        observer = logs.json()
        self.patch(sys, "stdout", io.StringIO())
        observer({"log_format": "x"})
        self.assertEqual(self.line()["text"], "x")
