"""
Tests for the commands that read a ledger's journal: C{creditsync statement --history}
and C{--at}, C{creditsync export --journal}, and C{creditsync upgrade}.
"""

import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from creditsync.ledger import _history as journal
from creditsync.records import (
    AnyOperation,
    Decision,
    Deletion,
    Operation,
    Reservation,
    Trade,
)
from tests.test_cli_ledger import CommandTestCase

NOON = 1767182400  # 2025-12-31T12:00:00Z
STORED = Path(__file__).parent / "ledgers"


def change(
    type: int, order: int, profit: int, time: int, key: str | None = None
) -> Reservation:
    """
    A credit of account 1001 by principal 7, booked at this time; it opened at 100.
    """
    asked: Operation | Deletion
    if type == 2:
        asked = Deletion("DeleteCredit", order, frozenset({7, 9}), 8, key)
    else:
        named = order if type else 0
        asked = Operation(
            "CreditInSync", 7, 1001, profit, "Böni", named, 100, None, 7, key
        )
    state = 6 if type == 2 else 3
    return Reservation(
        type, Trade(order, 1001, 7, state, profit, "Böni", 100, 200, time), asked
    )


class JournalCase(CommandTestCase):
    """
    A ledger in which one order is made, changed and deleted, and another one is made.
    """

    def setUp(self) -> None:
        """
        Book them.
        """
        super().setUp()
        self.book(
            change(0, 1, 300_00000000, NOON, "promo-1"),
            change(1, 1, 200_50000000, NOON + 10),
        )
        self.book(
            change(0, 2, 7, NOON + 20),
            change(2, 1, 200_50000000, NOON + 30),
        )

    def cursor(self, place: int) -> str:
        """
        The cursor of a place.
        """
        return f"{self.ledger.epoch}-{place}"


class HistoryTests(JournalCase):
    """
    C{creditsync statement --history}.
    """

    def history(self, *arguments: str) -> list[list[str]]:
        """
        The words of each line but the first.
        """
        lines = self.text("statement", "1001", "--history", *arguments).splitlines()
        return [line.split() for line in lines[1:]]

    def test_changes(self) -> None:
        """
        It prints each change of each order in the order of booking, with the totals
        after it and who requested it.
        """
        one, two, three, four = self.history()
        self.assertEqual(
            one,
            [
                self.cursor(1),
                "2025-12-31T12:00:00Z",
                "1",
                "add",
                "credit-in",
                "300.00",
                "0.00",
                "300.00",
                "7",
                "CreditInSync",
                "B\\xf6ni",
            ],
        )
        self.assertEqual(
            two[2:8], ["1", "update", "credit-in", "200.50", "0.00", "200.50"]
        )
        self.assertEqual(three[2:4] + three[7:8], ["2", "add", "200.50000007"])
        self.assertEqual(
            four[2:],
            [
                "1",
                "delete",
                "credit-in",
                "200.50",
                "0.00",
                "0.00000007",
                "8",
                "DeleteCredit",
                "B\\xf6ni",
            ],
        )

    def test_financeRequests(self) -> None:
        """
        A finance request, its approval and its refusal are told from what else is made
        and changed; in a statement what was not approved is in brackets.
        """
        made = [
            Operation(
                "MngCreateFinanceRequest", 7, 1001, 5, "x", principal=7, isRequest=True
            )
            for _ in range(3)
        ]
        steps: list[tuple[int, int, int, AnyOperation]] = [
            *((0, order, 17, asked) for order, asked in enumerate(made, 3)),
            (1, 3, 3, Decision("MngApproveFinanceRequestSync", 3, True, principal=8)),
            (1, 4, 18, Decision("MngDeclineFinanceRequest", 4, False, principal=9)),
        ]
        self.book(
            *(
                Reservation(
                    type, Trade(order, 1001, 7, state, 5, "x", 1, 2, NOON), asked
                )
                for type, order, state, asked in steps
            )
        )
        self.assertEqual(
            [(line[2], *line[3:5], *line[8:10]) for line in self.history()[4:]],
            [
                ("3", "request", "credit-in", "7", "MngCreateFinanceRequest"),
                ("4", "request", "credit-in", "7", "MngCreateFinanceRequest"),
                ("5", "request", "credit-in", "7", "MngCreateFinanceRequest"),
                ("3", "approve", "credit-in", "8", "MngApproveFinanceRequestSync"),
                ("4", "decline", "credit-in", "9", "MngDeclineFinanceRequest"),
            ],
        )
        lines = [line.split() for line in self.text("statement", "1001").splitlines()]
        self.assertEqual(
            [(line[0], line[3]) for line in lines if line[0] in "345"],
            [("3", "0.00000005"), ("4", "(0.00000005)"), ("5", "(0.00000005)")],
        )

    def test_period(self) -> None:
        """
        A period is by the time of booking, without its end.
        """
        found = self.history("--from", str(NOON + 10), "--to", str(NOON + 30))
        self.assertEqual([line[0] for line in found], [self.cursor(2), self.cursor(3)])

    def test_unknown(self) -> None:
        """
        An account that does not exist has no history.
        """
        code, _ = self.ends("statement", "1003", "--history")
        self.assertEqual(code, "creditsync statement: there is no account 1003")

    def test_damaged(self) -> None:
        """
        If the end of the journal is missing, the ledger is named.
        """
        with closing(sqlite3.connect("creditsync.db")) as connection:
            connection.executescript(
                "DROP TRIGGER journal_deleted;"
                "DELETE FROM journal WHERE place = (SELECT max(place) FROM journal);"
            )
        code, _ = self.ends("statement", "1001", "--history")
        self.assertIn(
            "the journal of the ledger creditsync.db ends at place 3", str(code)
        )


class AtTests(JournalCase):
    """
    C{creditsync statement --at}.
    """

    def at(self, time: object) -> list[str]:
        """
        The balance and the credit then.
        """
        last = self.text("statement", "1001", "--at", str(time)).splitlines()[-1]
        return last.split()[-2:]

    def test_totals(self) -> None:
        """
        The totals are those after everything that was booked up to that second,
        whatever open_time it has.
        """
        for time, credit in (
            (0, "0.00"),
            (NOON - 1, "0.00"),
            (NOON, "300.00"),
            (NOON + 9, "300.00"),
            (NOON + 10, "200.50"),
            (NOON + 20, "200.50000007"),
            (NOON + 30, "0.00000007"),
            ("2026-02-01", "0.00000007"),
        ):
            self.assertEqual((time, self.at(time)), (time, ["0.00", credit]))

    def test_line(self) -> None:
        """
        The line has the time.
        """
        self.assertIn(
            "2025-12-31T12:00:10Z  totals ",
            self.text("statement", "1001", "--at", str(NOON + 10)),
        )

    def test_unknown(self) -> None:
        """
        An account that does not exist has no totals.
        """
        code, _ = self.ends("statement", "1003", "--at", "5")
        self.assertEqual(code, "creditsync statement: there is no account 1003")

    def test_notWithPeriod(self) -> None:
        """
        A moment can't be combined with a period or a history.
        """
        for more in (["--from", "5"], ["--to", "5"], ["--history"]):
            code, message = self.ends("statement", "1001", "--at", "5", *more)
            self.assertEqual(code, 2)
            self.assertIn("--at", message)


class ExportTests(JournalCase):
    """
    C{creditsync export --journal}.
    """

    def lines(self, *arguments: str) -> list[Any]:
        """
        The exported rows.
        """
        text = self.text("export", "--journal", *arguments)
        return [json.loads(line) for line in text.splitlines()]

    def test_all(self) -> None:
        """
        It writes each row as a JSON object, with exact amounts.
        """
        found = self.lines()
        with closing(sqlite3.connect("creditsync.db")) as connection:
            hashes = [
                row[0].hex() for row in connection.execute("SELECT hash FROM link")
            ]
        self.assertEqual(
            found[0],
            {
                "cursor": self.cursor(1),
                "type": 0,
                "order": 1,
                "login": 1001,
                "cmd": 7,
                "state": 3,
                "profit": 300.0,
                "comment": "Böni",
                "open_time": 100,
                "close_time": 200,
                "timestamp": NOON,
                "balance": 0.0,
                "credit": 300.0,
                "principal": 7,
                "role": None,
                "command": "CreditInSync",
                "asked_order": 0,
                "key": "promo-1",
                "asked_open_time": 100,
                "asked_close_time": None,
                "hash": None,
            },
        )
        self.assertEqual(
            [each["hash"] for each in found], [None, hashes[0], None, hashes[1]]
        )
        self.assertIn('"credit":200.50000007,', self.text("export", "--journal"))

    def test_resumed(self) -> None:
        """
        An export since a cursor goes on behind it, so parts make up the whole.
        """
        whole = self.lines()
        for place in range(5):
            since = self.cursor(place)
            self.assertEqual(self.lines("--since", since), whole[place:])
        self.assertEqual(self.lines("--since", "first"), whole)

    def test_pages(self) -> None:
        """
        A long journal is read in pages.
        """
        whole = self.lines()
        self.patch(journal, "_PAGE", 1)
        self.assertEqual(self.lines(), whole)
        self.patch(journal, "_PAGE", 3)
        self.assertEqual(self.lines(), whole)

    def test_otherCursor(self) -> None:
        """
        A cursor of another ledger, or ahead of this one, ends in a sentence that has
        the last one.
        """
        for cursor in ("00000000-1", self.cursor(5), "five", ""):
            code, _ = self.ends("export", "--journal", "--since", cursor)
            self.assertEqual(
                code,
                f"creditsync export: the cursor {cursor} is not one of the ledger"
                " creditsync.db, or is ahead of it: its last one is"
                f" {self.cursor(4)}",
            )

    def test_login(self) -> None:
        """
        It can be limited to one account.
        """
        self.assertEqual(len(self.lines("--login", "1001")), 4)
        self.assertEqual(self.lines("--login", "1002"), [])

    def test_iso(self) -> None:
        """
        Times can be written for people.
        """
        one = self.lines("--iso")[0]
        self.assertEqual(one["timestamp"], "2025-12-31T12:00:00Z")
        self.assertEqual(one["asked_open_time"], "1970-01-01T00:01:40Z")
        self.assertIsNone(one["asked_close_time"])

    def test_options(self) -> None:
        """
        A period is for trades, and a cursor for the journal.
        """
        for arguments in (
            ["--journal", "--from", "5"],
            ["--journal", "--to", "5"],
            ["--since", "first"],
        ):
            code, message = self.ends("export", *arguments)
            self.assertEqual(code, 2)
            self.assertIn(" --journal", message)


class UpgradeTests(CommandTestCase):
    """
    C{creditsync upgrade}, and what the commands tell of an upgraded ledger.
    """

    def test_upgrade(self) -> None:
        """
        It upgrades a ledger once, and keeps the old one.
        """
        for version in (1, 2):
            shutil.copyfile(STORED / f"v{version}.db", "old.db")
            self.assertEqual(
                self.text("upgrade", "--ledger", "old.db"),
                f"old.db was upgraded from version {version} to 3; the old ledger is"
                f" old.db.v{version}\n",
            )
            self.assertEqual(
                self.text("upgrade", "--ledger", "old.db"),
                "old.db has version 3 already\n",
            )
            self.assertTrue(os.path.exists(f"old.db.v{version}"))
            self.assertIn("is sound", self.text("check", "--ledger", "old.db"))

    def test_link(self) -> None:
        """
        If the ledger is named by a link, the old one is beside the file itself, and
        that is the path that is printed.
        """
        Path("data").mkdir()
        shutil.copyfile(STORED / "v2.db", "data/real.db")
        os.symlink("data/real.db", "link.db")
        text = self.text("upgrade", "--ledger", "link.db")
        old = os.path.realpath("data/real.db.v2")
        self.assertTrue(os.path.exists(old))
        self.assertIn(f"; the old ledger is {old}\n", text)

    def test_missing(self) -> None:
        """
        It creates no ledger.
        """
        code, _ = self.ends("upgrade", "--ledger", "none.db")
        self.assertEqual(
            code,
            "creditsync upgrade: there is no ledger none.db: name another file",
        )
        Path("empty.db").touch()
        code, _ = self.ends("upgrade", "--ledger", "empty.db")
        self.assertIn("empty.db is an empty file", str(code))
        self.assertEqual(os.path.getsize("empty.db"), 0)

    def test_inUse(self) -> None:
        """
        The ledger of a running server is not touched.
        """
        code, _ = self.ends("upgrade")
        self.assertIn("has the ledger", str(code))

    def test_notRecorded(self) -> None:
        """
        What the old version did not record is shown as such; totals are known from
        the last change that it had booked.
        """
        shutil.copyfile(STORED / "v1.db", "old.db")
        self.text("upgrade", "--ledger", "old.db")
        lines = self.text(
            "statement", "1001", "--history", "--ledger", "old.db"
        ).splitlines()
        self.assertEqual(
            lines[3].split()[3:],
            ["add", "credit-out", "-100.00", "-", "-", "-", "-", "Back"],
        )
        code, _ = self.ends("statement", "1001", "--at", "39", "--ledger", "old.db")
        self.assertIn("at that time were not recorded", str(code))
        then = self.text("statement", "1001", "--at", "40", "--ledger", "old.db")
        self.assertEqual(then.split()[-2:], ["0.00", "150.50"])
        exported = self.text("export", "--journal", "--ledger", "old.db").splitlines()
        third = json.loads(exported[2])
        self.assertEqual(
            [third[name] for name in ("balance", "credit", "principal", "command")],
            [None] * 4,
        )
