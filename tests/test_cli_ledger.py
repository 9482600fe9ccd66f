"""
Tests for the commands that read a ledger: L{creditsync._cli.statement},
L{creditsync._cli.check}, L{creditsync._cli.backup} and L{creditsync._cli.export}.
"""

import csv
import io
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.internet.defer import execute
from twisted.trial.unittest import SynchronousTestCase

from creditsync.__main__ import main
from creditsync.ledger._reading import reading
from creditsync.ledger.sqlite import SQLiteLedger
from creditsync.records import Operation, Reservation, Trade
from tests.totals import withTotals

CHECKOUT = Path(__file__).parents[1]

# 2026-01-31T12:00:00Z
NOON = 1769860800
DAY = 86400


def booked(
    order: int,
    profit: int,
    time: int = NOON,
    cmd: int = 7,
    state: int = 3,
    comment: str = "Bonus",
    login: int = 1001,
) -> Reservation:
    """
    What books this trade.
    """
    trade = Trade(order, login, cmd, state, profit, comment, time, time + 1, time + 2)
    return Reservation(0, trade, Operation("CreditIn", cmd, login, profit, comment))


class CommandTestCase(SynchronousTestCase):
    """
    A test of a command beside a server that has C{creditsync.db} open.
    """

    def setUp(self) -> None:
        """
        Start with an empty ledger.
        """
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(folder.name)
        self.ledger = SQLiteLedger("creditsync.db", execute)
        self.ledger.open()
        self.addCleanup(self.ledger.close)

    def book(self, *reservations: Reservation) -> None:
        """
        Book these, with orders from 1 on.
        """
        for _ in reservations:
            self.ledger.newOrder()
        self.successResultOf(self.ledger.commit(withTotals(self.ledger, reservations)))

    def bytes(self, *arguments: str) -> bytes:
        """
        Run the command in this process, and return what it prints.
        """
        self.patch(sys, "argv", ["creditsync", *arguments])
        # A locale that knows hardly a character.
        said = io.TextIOWrapper(io.BytesIO(), "ascii")
        with redirect_stdout(said):
            try:
                main()
            finally:
                said.flush()
                self.said = said.buffer.getvalue()  # type: ignore[attr-defined]
        return self.said

    def text(self, *arguments: str) -> str:
        """
        Run the command, and return what it prints as text.
        """
        return self.bytes(*arguments).decode("utf-8")

    def ends(self, *arguments: str) -> tuple[object, str]:
        """
        The status or message with which the command ends, and what it prints
        to stderr itself.
        """
        complaint = io.StringIO()
        with redirect_stderr(complaint):
            e = self.assertRaises(SystemExit, self.bytes, *arguments)
        return e.code, complaint.getvalue()


class StatementTests(CommandTestCase):
    """
    C{creditsync statement}.
    """

    def setUp(self) -> None:
        """
        Book trades of each kind.
        """
        super().setUp()
        self.book(
            booked(1, 300_00000000),
            booked(2, 12_34567890, NOON + DAY, cmd=6),
            booked(3, -1, NOON + 2 * DAY, cmd=9, comment="a\tb\x1b[2J\u202e é"),
            booked(4, 50_50000000, NOON + 2 * DAY, state=6),
            booked(5, -2_00000000, NOON + 2 * DAY, cmd=8),
        )

    def test_all(self) -> None:
        """
        It prints a line for each trade between the opening and the closing
        totals, and nothing that moves the cursor.
        """
        self.assertEqual(
            self.text("statement", "1001").splitlines(),
            [
                "     order  time                  what                 amount"
                "         balance          credit  comment",
                "                                  opening                  "
                "              0.00            0.00",
                "         1  2026-01-31T12:00:00Z  credit-in            300.00"
                "            0.00          300.00  Bonus",
                "         2  2026-02-01T12:00:00Z  balance-in       12.3456789"
                "      12.3456789          300.00  Bonus",
                "         3  2026-02-02T12:00:00Z  credit-out      -0.00000001"
                "      12.3456789    299.99999999  a\\tb\\x1b[2J\\u202e \\xe9",
                "         4  2026-02-02T12:00:00Z  credit-in           (50.50)"
                "      12.3456789    299.99999999  Bonus",
                "         5  2026-02-02T12:00:00Z  balance-out           -2.00"
                "      10.3456789    299.99999999  Bonus",
                "                                  closing                  "
                "        10.3456789    299.99999999",
            ],
        )

    def orders(self, *period: str) -> list[str]:
        """
        The first word of each line.
        """
        lines = self.text("statement", "1001", *period).splitlines()[1:]
        return [line.split()[0] for line in lines]

    def test_period(self) -> None:
        """
        A period includes its first second and excludes its last, in whatever
        form they are given.
        """
        for start, end in [
            ("2026-02-01", "2026-02-02"),
            ("2026-02-01T12:00:00", "2026-02-02T12:00"),
            ("2026-02-01T13:00:00+01:00", "2026-02-02T12:00:00Z"),
            ("1769947200", "1770033600"),
            ("2026-02-01T11:59:59.5Z", "2026-02-02T12:00:00Z"),
            ("2026-01-31T12:00:00.5Z", "2026-02-01T12:00:00.5Z"),
        ]:
            self.assertEqual(
                self.orders("--from", start, "--to", end), ["opening", "2", "closing"]
            )

    def test_openingTotals(self) -> None:
        """
        A statement begins with the totals before its period.
        """
        lines = self.text("statement", "1001", "--from", "2026-02-02").splitlines()
        self.assertEqual(lines[1].split(), ["opening", "12.3456789", "300.00"])

    def test_farTime(self) -> None:
        """
        A time after the year 9999 is printed as UNIX seconds.
        """
        self.book(booked(6, 5, 2**52))
        self.assertIn("  4503599627370496      ", self.text("statement", "1001"))

    def test_badTime(self) -> None:
        """
        An invalid time is refused, and so is a date that could be UNIX
        seconds.
        """
        for wrong in ("yesterday", "20260131", "-1", "2026-13-01"):
            status, complaint = self.ends("statement", "1001", f"--from={wrong}")
            self.assertEqual(status, 2)
            self.assertIn(f"2026-01-31T12:30:00 or UNIX seconds: {wrong}", complaint)

    def test_badLogin(self) -> None:
        """
        An invalid login is refused.
        """
        for wrong in ("0", "x", "9007199254740992"):
            status, complaint = self.ends("statement", wrong)
            self.assertEqual(status, 2)
            self.assertIn(f"a login is a number from 1 to 2^53-1: {wrong}", complaint)

    def test_unknown(self) -> None:
        """
        An account that does not exist is an error, and nothing is printed to
        stdout.
        """
        self.assertEqual(
            self.ends("statement", "1002"),
            ("creditsync statement: there is no account 1002", ""),
        )
        self.assertEqual(self.said, b"")


class CheckTests(CommandTestCase):
    """
    C{creditsync check}.
    """

    def damage(self) -> None:
        """
        Make a total wrong and a mark too low.
        """
        self.book(booked(1, 300))
        self.ledger.close()
        with closing(sqlite3.connect("creditsync.db")) as connection:
            connection.execute("UPDATE account SET credit = 301")
            connection.execute("UPDATE order_mark SET next_order = 1")
            connection.commit()

    def test_sound(self) -> None:
        """
        For a sound ledger it prints one line, while a server has it open.
        """
        self.book(booked(1, 300), booked(2, 300, login=1002))
        with reading("creditsync.db") as ledger:
            [(hash,)] = ledger.execute("SELECT hex(hash) FROM link")
        self.assertEqual(
            self.text("check"),
            "creditsync.db is sound: 2 trades, 2 accounts, 0 keys\n"
            f"head: place 2, hash {hash.lower()}\n",
        )
        self.assertEqual(
            json.loads(self.text("check", "--json")),
            {
                "sound": True,
                "problems": [],
                "head": {"place": 2, "hash": hash.lower()},
            },
        )

    def test_head(self) -> None:
        """
        C{--head} proves that a noted hash is part of the journal.
        """
        zeros = "0" * 64
        self.assertIn("is sound", self.text("check", "--head", zeros))
        self.book(booked(1, 300))
        noted = json.loads(self.text("check", "--json"))["head"]["hash"]
        self.book(booked(2, 300))
        self.assertIn("is sound", self.text("check", "--head", noted))
        self.assertIn("is sound", self.text("check", "--head", noted.upper()))
        self.assertEqual(self.ends("check", "--head", zeros), (1, ""))
        self.assertEqual(
            self.said.decode(),
            f"head: the hash {zeros} is that of an empty journal, which proves nothing"
            " of this one: note the hash of a later place\n",
        )
        other = "1" * 64
        self.assertEqual(self.ends("check", "--head", other), (1, ""))
        self.assertEqual(
            self.said.decode(),
            f"head: no commit has the hash {other}: the journal is not the"
            " continuation of the one in which it was noted\n",
        )

    def test_unsound(self) -> None:
        """
        It prints a line for each problem, and exits with status 1.
        """
        self.damage()
        self.assertEqual(self.ends("check"), (1, ""))
        self.assertEqual(
            self.said.decode(),
            "order-mark: order 1 is not below the order mark 1\n"
            "total: account 1001 has balance 0 and credit 301, but its trades add up"
            " to balance 0 and credit 300\n",
        )

    def test_json(self) -> None:
        """
        With C{--json} it prints one object, for programs.
        """
        self.assertEqual(
            json.loads(self.text("check", "--json")),
            {
                "sound": True,
                "problems": [],
                "head": {"place": 0, "hash": "0" * 64},
            },
        )
        self.damage()
        self.assertEqual(self.ends("check", "--json"), (1, ""))
        found = json.loads(self.said)
        self.assertEqual(found["sound"], False)
        self.assertEqual(
            found["problems"][0],
            {
                "rule": "order-mark",
                "message": "order 1 is not below the order mark 1",
            },
        )

    def test_missing(self) -> None:
        """
        A ledger that does not exist is one sentence, and is not created.
        """
        status, complaint = self.ends("check", "--ledger", "other.db")
        path = os.path.realpath("other.db")
        self.assertEqual(
            status,
            f"creditsync check: there is no ledger {path}: name another file",
        )
        self.assertEqual(complaint, "")
        self.assertFalse(os.path.exists("other.db"))


class BackupTests(CommandTestCase):
    """
    C{creditsync backup}.
    """

    def test_backup(self) -> None:
        """
        The copy is made while a server has the ledger open, and can be read
        like the ledger.
        """
        self.book(booked(1, 300))
        self.assertEqual(
            self.text("backup", "copy.db"),
            "copy.db is a sound copy of creditsync.db\n",
        )
        self.assertIn(
            "copy.db is sound: 1 trades, 1 accounts, 0 keys\n",
            self.text("check", "--ledger", "copy.db"),
        )

    def test_force(self) -> None:
        """
        An existing file is replaced with C{--force} only.
        """
        Path("copy.db").write_text("precious")
        status, _ = self.ends("backup", "copy.db")
        path = os.path.realpath("copy.db")
        self.assertEqual(
            status,
            f"creditsync backup: {path} already exists and is not replaced",
        )
        self.assertEqual(Path("copy.db").read_text(), "precious")
        self.text("backup", "--force", "copy.db")
        self.assertIn("is sound", self.text("check", "--ledger", "copy.db"))


class ExportTests(CommandTestCase):
    """
    C{creditsync export}.
    """

    def test_all(self) -> None:
        """
        Amounts are exact, times are UNIX seconds, and the text is UTF-8 in
        every locale.
        """
        self.book(
            booked(1, 300_00000000),
            booked(2, -1, cmd=9, state=6, comment='é, "x"', login=1002),
        )
        self.assertEqual(
            self.bytes("export"),
            b"order,login,cmd,state,profit,comment,open_time,close_time,timestamp\r\n"
            b"1,1001,7,3,300.0,Bonus,1769860800,1769860801,1769860802\r\n"
            b'2,1002,9,6,-0.00000001,"\xc3\xa9, ""x""",'
            b"1769860800,1769860801,1769860802\r\n",
        )

    def test_comment(self) -> None:
        """
        A comment is read back as it was, with line ends of all kinds in it.
        """
        comment = "a\rb\nc\r\nd\te\"'\u2028,;"
        self.book(booked(1, 1, comment=comment))
        rows = csv.DictReader(io.StringIO(self.text("export"), newline=""))
        self.assertEqual([row["comment"] for row in rows], [comment])

    def test_iso(self) -> None:
        """
        With C{--iso} times are written as in ISO 8601.
        """
        self.book(booked(1, 300_00000000))
        self.assertEqual(
            self.text("export", "--iso").splitlines()[1],
            "1,1001,7,3,300.0,Bonus,"
            "2026-01-31T12:00:00Z,2026-01-31T12:00:01Z,2026-01-31T12:00:02Z",
        )

    def test_selection(self) -> None:
        """
        C{--login} and a period select trades.
        """
        self.book(
            booked(1, 1, NOON),
            booked(2, 1, NOON + DAY),
            booked(3, 1, NOON + DAY, login=1002),
            booked(4, 1, NOON + 2 * DAY),
        )
        said = self.text(
            *("export", "--login", "1001"),
            *("--from", "2026-02-01", "--to", "2026-02-02"),
        )
        self.assertEqual([line[:2] for line in said.splitlines()], ["or", "2,"])

    def process(self, out: int) -> "subprocess.Popen[str]":
        """
        Run the command in a process of its own, whose output is buffered.
        """
        return subprocess.Popen(
            [sys.executable, "-m", "creditsync", "export"],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": ""},
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
        )

    def test_unread(self) -> None:
        """
        If the reader closes the pipe, it exits with status 1 and prints
        nothing to stderr.
        """
        self.book(*(booked(order, 1) for order in range(1, 5001)))
        with self.process(subprocess.PIPE) as process:
            assert process.stdout is not None and process.stderr is not None
            process.stdout.close()
            self.assertEqual(process.stderr.read(), "")
        self.assertEqual(process.returncode, 1)

    def test_fullDisk(self) -> None:
        """
        If the disk is full, it exits with one sentence.
        """
        if not os.path.exists("/dev/full"):
            self.skipTest("needs /dev/full")
        with open("/dev/full", "wb") as full, self.process(full.fileno()) as process:
            assert process.stderr is not None
            self.assertEqual(
                process.stderr.read(),
                "creditsync export: [Errno 28] No space left on device\n",
            )
        self.assertEqual(process.returncode, 1)
