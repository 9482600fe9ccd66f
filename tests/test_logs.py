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

# The header and the claims of a token, and what would be its signature.
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJpZCI6Nywicm9sZSI6MX0.c2lnbmF0dXJl-_"


class Unspeakable:
    """
    What can't be written in any way.
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
    The log as JSON.
    """

    def setUp(self) -> None:
        self.out = io.StringIO()
        self.publisher = LogPublisher(JSONLog(self.out))
        self.log = Logger("creditsync.test", observer=self.publisher)

    def lines(self) -> list[dict[str, Any]]:
        """
        What was written.
        """
        text = self.out.getvalue()
        assert text.isascii() and text.endswith("\n")
        return [json.loads(line) for line in text.splitlines()]

    def line(self) -> dict[str, Any]:
        """
        The one line that was written.
        """
        [line] = self.lines()
        return line

    def test_event(self) -> None:
        """
        A line has the time, the level, the namespace, the text, and what the
        text was made of.
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
        A failure is told with its traceback, in the same line.
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
        Whatever a text has, a line is a line.
        """
        self.log.info("{text}", text="one\ntwo\u2028three \ud800 \N{EURO SIGN}\x00")
        self.assertEqual(
            self.line()["text"], "one\ntwo\u2028three \ud800 \N{EURO SIGN}\x00"
        )

    def test_onlyPlainFields(self) -> None:
        """
        Objects are in the text if anywhere.
        """
        self.log.info("{a} {b.imag}", a=[1], b=1j, c=b"x", d=True)
        line = self.line()
        self.assertEqual(line["text"], "[1] 1.0")
        self.assertEqual(line["fields"], {"d": True})

    def test_noNumber(self) -> None:
        """
        A number that JSON doesn't have does not spoil the line.
        """
        self.log.info("{x}", x=float("nan"), y=float("inf"))
        line = self.line()
        self.assertEqual((line["text"], line["fields"]), ("nan", {"x": None}))

    def test_unspeakable(self) -> None:
        """
        What can't be formatted is no reason to raise, or to write no line.
        """
        self.log.info("{what}", what=Unspeakable())
        self.log.info("{what} {nothing}", what=1)
        self.log.info(None)  # type: ignore[arg-type]
        JSONLog(self.out)({})
        JSONLog(self.out)({"log_time": "noon", "log_level": 7})
        self.assertEqual(len(self.lines()), 5)

    def test_noToken(self) -> None:
        """
        What looks like a token is not written, wherever it stands.
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
        A log that can't be written harms nobody.
        """
        JSONLog(BrokenFile())({"log_format": "x"})
        closed = io.StringIO()
        closed.close()
        JSONLog(closed)({"log_format": "x"})

    def test_factory(self) -> None:
        """
        What C{twistd --logger} names writes to the standard output of the
        moment in which it is made.
        """
        self.patch(sys, "stdout", self.out)
        observer = logs.json()
        self.patch(sys, "stdout", io.StringIO())
        observer({"log_format": "x"})
        self.assertEqual(self.line()["text"], "x")
