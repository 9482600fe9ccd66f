"""
Tests for L{creditsync._cli.bulk}, and for the rows, results and progress that
it is made of.
"""

import io
import os
import sys
import tracemalloc
from argparse import Namespace
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from creditsync.__main__ import main
from creditsync._cli.bulk import command as bulk
from creditsync._cli.bulk.checking import Extent
from creditsync._cli.bulk.duplicates import KeyIndex
from creditsync._cli.bulk.progress import Lines
from creditsync._cli.bulk.results import Results, WrongResults
from creditsync._cli.bulk.rows import COMMANDS, BulkFile, Row, check, checkPoint
from creditsync._cli.bulk.sending import BulkRun
from creditsync._cli.bulk.spreadsheet import RowProblem, Unreadable
from creditsync._conversation import finance
from creditsync.client import Answer, OutcomeUnknown, Refused, Unanswered
from creditsync.validation import Schemas

# The payload is {"id":7,"role":1,"exp":9999999999}.
TOKEN = "e30.eyJpZCI6Nywicm9sZSI6MSwiZXhwIjo5OTk5OTk5OTk5fQ.c2ln"
# The first half of the SHA-256 of "CreditInSync\n7\n" and of THREE, as
# sha256sum gives it.
THREE_NAME = "a6d0e88ffe098b60609d49f182817afb"
THREE = """\
login,amount,comment
1001,300,Promotion credit
1002,0.10,"two
lines"
1001,300,Promotion credit
"""


class FolderTestCase(SynchronousTestCase):
    """
    A test in a folder of its own.
    """

    def setUp(self) -> None:
        """
        Make the folder.
        """
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.path = self.folder / "promotion.csv"

    def file(
        self, text: str | bytes, command: str | None = None, principal: str = "7"
    ) -> BulkFile:
        """
        Make a bulk file with this content.
        """
        content = text if isinstance(text, bytes) else text.encode()
        self.path.write_bytes(content)
        file = self.path.open("rb")
        self.addCleanup(file.close)
        return BulkFile(file, command, principal)


class RowTests(FolderTestCase):
    """
    From CSV to requests.
    """

    def only(self, text: str | bytes, command: str | None = None) -> Row:
        """
        The row of a file that has one.
        """
        (row,) = self.file(text, command).rows()
        assert isinstance(row, Row)
        return row

    def assertProblem(self, text: str | bytes, *problems: str) -> None:
        """
        A file has these problems.
        """
        found = []
        try:
            for row in self.file(text).rows():
                found.append(str(row))  # noqa: PERF401 - what came before counts
        except Unreadable as e:
            found.append(str(e))
        self.assertEqual(found, list(problems))

    def test_rows(self) -> None:
        """
        Each row is a request under the name of the file and the number of its
        line, so that two equal rows are two requests.
        """
        self.assertEqual(
            list(self.file(THREE).rows()),
            [
                Row(
                    2,
                    "CreditInSync",
                    {"login": 1001, "amount": 300, "comment": "Promotion credit"},
                    f"{THREE_NAME}-2",
                ),
                Row(
                    3,
                    "CreditInSync",
                    {
                        "login": 1002,
                        "amount": Decimal("0.1"),
                        "comment": "two\nlines",
                    },
                    f"{THREE_NAME}-3",
                ),
                Row(
                    5,
                    "CreditInSync",
                    {"login": 1001, "amount": 300, "comment": "Promotion credit"},
                    f"{THREE_NAME}-5",
                ),
            ],
        )

    def test_twice(self) -> None:
        """
        The rows can be read any number of times.
        """
        file = self.file(THREE)
        self.assertEqual(list(file.rows()), list(file.rows()))

    def test_name(self) -> None:
        """
        The name depends on the content, the command and the principal, and is
        the same if the default command is given.
        """
        names = {
            file.name
            for file in (
                self.file(THREE),
                self.file(THREE + "1,1,x\n"),
                self.file(THREE.replace("300", "301")),
                self.file(THREE, "BalanceInSync"),
                self.file(THREE, principal="8"),
            )
        }
        self.assertEqual(len(names), 5)
        self.assertEqual(self.file(THREE, "CreditInSync").name, THREE_NAME)

    def test_columns(self) -> None:
        """
        The columns may be in any order, a row may have its own command, key
        and order, and an empty field is the same as none.
        """
        file = self.file(
            "key, order ,comment,amount,login,command\r\n"
            " k 1 , 5 ,  x , 1.5 , 7 , BalanceInSync \r\n"
            ",,,2,8,\r\n"
        )
        self.assertEqual(
            list(file.rows()),
            [
                Row(
                    2,
                    "BalanceInSync",
                    {
                        "order": 5,
                        "comment": "x",
                        "amount": Decimal("1.5"),
                        "login": 7,
                    },
                    "k 1",
                ),
                Row(3, "CreditInSync", {"amount": 2, "login": 8}, f"{file.name}-3"),
            ],
        )

    def test_command(self) -> None:
        """
        All rows have the command of C{--command}.
        """
        row = self.only("login,amount\n1,5\n", "BalanceInSync")
        self.assertEqual(row.command, "BalanceInSync")

    def test_out(self) -> None:
        """
        A withdrawal is written without a sign and sent with one, and keeps all
        of its digits.
        """
        row = self.only(
            "login,amount\n1,12345678901234567890123456789.5\n", "BalanceOutSync"
        )
        self.assertEqual(str(row.data["amount"]), "-12345678901234567890123456789.5")

    def test_spreadsheet(self) -> None:
        """
        A byte order mark and empty lines are skipped.
        """
        row = self.only(b"\xef\xbb\xbflogin,amount,comment\r\n\r\n1,5,\xc3\xa9\r\n\r\n")
        self.assertEqual((row.line, row.data["comment"]), (3, "é"))

    def test_header(self) -> None:
        """
        Errors in the header are reported first.
        """
        for header, problem in [
            ("comment\n", "has no login and no amount"),
            (
                "login|amount|comment\n",
                "has an unknown column 'login|amount|comment': the columns are login,"
                " amount, comment, command, key, order",
            ),
            ("login,comment\n", "has no amount"),
            (
                "login,amount,coment\n",
                "has an unknown column 'coment': the columns are login, amount,"
                " comment, command, key, order",
            ),
            ("login,amount,login\n", "has a column twice"),
        ]:
            self.assertProblem(header + "1,5,x\n", f"line 1: the header {problem}")

    def test_twoCommands(self) -> None:
        """
        C{--command} and a column of commands exclude each other.
        """
        file = self.file("login,amount,command\n1,5,\n", "CreditInSync")
        e = self.assertRaises(Unreadable, list, file.rows())
        self.assertEqual(
            str(e), "line 1: there can't be a column command with --command"
        )

    def test_form(self) -> None:
        """
        An error in the form of a row is reported with its line, and the other
        rows are read all the same.
        """
        self.assertProblem(
            b"login,amount,comment,command,order\n"
            b"x,1,a,,\n"
            b"1.0,1,a,,\n"
            b"\xd9\xa3,1,a,,\n"
            b"1,1e2,a,,\n"
            b'1,"1,000",a,,\n'
            b"1,0,a,,\n"
            b"1,-5,a,CreditOutSync,\n"
            b"1,1,\xff,,\n"
            b"1,1,a,CreditIn,\n"
            b"1,1,a,,first\n"
            b"1,1\n",
            "line 2: login must be a whole number, not 'x'",
            "line 3: login must be a whole number, not '1.0'",
            "line 4: login must be a whole number, not '٣'",
            "line 5: amount must be a plain number such as 300 or 19.99, not '1e2'",
            "line 6: amount must be a plain number such as 300 or 19.99, not '1,000'",
            "line 7: amount must be greater than 0, withdrawals too, without a sign",
            "line 8: amount must be greater than 0, withdrawals too, without a sign",
            "line 9: is not valid Unicode: save it as CSV UTF-8",
            f"line 10: command must be one of {', '.join(COMMANDS)}",
            "line 11: order must be a whole number, not 'first'",
            "line 12: expected 5 fields, found 2",
        )

    def test_notCSV(self) -> None:
        """
        A quote that is never closed is reported with the line on which it is
        opened.
        """
        self.assertProblem(
            'login,amount\nx,1\n1,"5\n6,7\n',
            "line 2: login must be a whole number, not 'x'",
            "line 3: is not CSV: unexpected end of data",
        )

    def test_longField(self) -> None:
        """
        A field that is too long is an error before it fills the memory.
        """
        text = 'login,amount\n1,"5\n' + "6,7\n" * 50_000
        self.assertProblem(
            text, "line 2: is not CSV: field larger than field limit (131072)"
        )

    def test_changed(self) -> None:
        """
        A file that changes while it is read is refused: its keys would be
        wrong.
        """
        file = self.file(THREE)
        rows = file.rows()
        next(rows)
        with self.path.open("a") as more:
            more.write("1,1,x\n")
        e = self.assertRaises(Unreadable, next, rows)
        self.assertEqual(str(e), "the file has changed meanwhile")

    def test_emptyCells(self) -> None:
        """
        Rows and columns that were emptied in a spreadsheet are skipped.
        """
        rows = self.file(
            "login,amount,comment,,\r\n1,5,x,,\r\n,,,,\r\n , ,\xa0,,\r\n2,6,y,,\r\n"
        ).rows()
        self.assertEqual(
            [(each.line, each.data) for each in rows if isinstance(each, Row)],
            [
                (2, {"login": 1, "amount": 5, "comment": "x"}),
                (5, {"login": 2, "amount": 6, "comment": "y"}),
            ],
        )

    def test_columnWithoutName(self) -> None:
        """
        A field in a column without a name is an error.
        """
        self.assertProblem(
            "login,amount,\n1,5,x\n", "line 2: has a field in a column without a name"
        )

    def test_decimalComma(self) -> None:
        """
        An amount with a decimal comma is refused, whatever separates the
        columns, and even if an empty comment follows it.
        """
        self.assertProblem(
            "login;amount;comment\n1;300,50;x\n2;1.000,50;x\n",
            "line 2: amount must be a plain number such as 300 or 19.99, not '300,50'",
            "line 3: amount must be a plain number such as 300 or 19.99, not"
            " '1.000,50'",
        )
        self.assertProblem(
            "login,amount,comment\n1,300,50,x\n1,300,50,\n1,300,50,,\n",
            "line 2: expected 3 fields, found 4",
            "line 3: expected 3 fields, found 4",
            "line 4: expected 3 fields, found 5",
        )

    def test_unseen(self) -> None:
        """
        White space and invisible characters around a field are removed in
        every column.
        """
        row = self.only(
            "\ufeff\ufefflogin,\xa0amount,comment\u200b,command,key,order\n"
            "\ufeff1\xa0,\u202f5\u200b,\u200bx\xa0,\xa0BalanceInSync\u2060,"
            "\ufeffpay-1\xa0 ,\u200e7\u2069\n"
        )
        self.assertEqual(
            row,
            Row(
                2,
                "BalanceInSync",
                {"login": 1, "amount": 5, "comment": "x", "order": 7},
                "pay-1",
            ),
        )

    def test_blankKey(self) -> None:
        """
        A key of white space only is the same as none.
        """
        file = self.file("login,amount,key\n1,5, \xa0\u200b\n")
        (row,) = file.rows()
        assert isinstance(row, Row)
        self.assertEqual((row.key, file.hasOwnKey(row)), (f"{file.name}-2", False))

    def test_shortenedKey(self) -> None:
        """
        A key of which a spreadsheet has kept the first digits only is refused:
        other keys would be the same.
        """
        for key in (
            "9.87654E+18",
            '"9,87654E+18"',
            "9.87654321098765E+018",
            "98.8E+18",
            "1E+20",
            "-1.5e-07",
        ):
            self.assertProblem(
                f"login,amount,key\n1,5,{key}\n",
                "line 2: key is a number that a spreadsheet has shortened to"
                f" {key.strip(chr(34))}, and its digits are lost: format the column as"
                " text in the spreadsheet",
            )
        for key in ("9876543210987654321", "5e18", "1E+", "PAY-1E+20", "E+20"):
            self.assertEqual(self.only(f"login,amount,key\n1,5,{key}\n").key, key)


class CheckTests(FolderTestCase):
    """
    What the server would refuse.
    """

    schemas = Schemas()

    def problem(self, fields: str, columns: str = "login,amount,comment") -> str | None:
        """
        The error in a row, if there is one.
        """
        (row,) = self.file(f"{columns}\n{fields}\n").rows()
        assert isinstance(row, Row)
        try:
            check(row, self.schemas)
        except RowProblem as e:
            return str(e)
        return None

    def test_good(self) -> None:
        """
        Valid rows pass, up to the last digit that is allowed.
        """
        for fields in (
            "1,300,x",
            "9007199254740991,0.00000001,x",
            "1,10000000000,x",
            "1,9999999999.99999999,x",
            "1,1.1000000000000000000,x",
            "1,3.1800000000000002,x",
            "1,0.10000000000000001,x",
            f"1,1,{'é' * 255}",
        ):
            self.assertIs(self.problem(fields), None)
        columns = "login,amount,command"
        self.assertIs(self.problem("1,5,BalanceOutSync", columns), None)

    def test_bad(self) -> None:
        """
        An error is reported with the name of its column.
        """
        for fields, problem in [
            ("0,5,x", "login must be at least 1"),
            (
                "9007199254740992,5,x",
                "an integer is not between -9007199254740991 and 9007199254740991",
            ),
            ("1,10000000000.00000001,x", "amount must be at most 10000000000"),
            ("1,0.123456789,x", "amount must have at most 8 decimals"),
            ("1,5,", "comment is required"),
            (f"1,5,{'x' * 256}", "comment must have at most 255 characters"),
            ("1,5,\x07", "comment does not match the required pattern"),
            ("1,5,\ufffe", "a string has a Unicode noncharacter"),
            (",5,x", "login is required"),
            ("1,,x", "amount is required"),
        ]:
            self.assertEqual(
                (fields, self.problem(fields)), (fields, f"line 2: {problem}")
            )

    def test_command(self) -> None:
        """
        Each command has its own rules.
        """
        columns = "login,amount,command"
        self.assertEqual(
            self.problem("1,5,CreditOutSync", columns), "line 2: comment is required"
        )
        self.assertEqual(
            self.problem("1,20000000000,BalanceOutSync", columns),
            "line 2: amount must be at least -10000000000",
        )

    def test_amountRule(self) -> None:
        """
        The decimals of an amount are checked by the same function as in the
        server, and by nothing else.
        """

        def refuse(amount: object) -> int:
            raise ValueError

        self.patch(finance, "toUnits", lambda amount: 5)
        self.assertIs(self.problem("1,0.12345678901234567,x"), None)
        self.patch(finance, "toUnits", refuse)
        self.assertEqual(
            self.problem("1,5,x"), "line 2: amount must have at most 8 decimals"
        )

    def test_key(self) -> None:
        """
        A key is checked by the same rule as in the server.
        """
        columns = "login,amount,comment,key"
        self.assertIs(self.problem(f"1,5,x,{'k' * 128}", columns), None)
        self.assertEqual(
            self.problem(f"1,5,x,{'k' * 129}", columns),
            "line 2: key must have at most 128 characters",
        )
        self.assertEqual(
            self.problem("1,5,x,é", columns),
            "line 2: key does not match the required pattern",
        )


class PointTests(FolderTestCase):
    """
    L{checkPoint}.
    """

    def problem(self, amount: str, command: str = "CreditInSync") -> str | None:
        """
        The error in the point of an amount, if there is one.
        """
        (row,) = self.file(f"login,amount\n1,{amount}\n", command).rows()
        assert isinstance(row, Row)
        try:
            checkPoint(row)
        except RowProblem as e:
            return str(e)
        return None

    def test_thousands(self) -> None:
        """
        One to three digits, a point and three digits may be thousands.
        """
        for amount, thousands, decimal in [
            ("1.000", "1000", "1"),
            ("12.500", "12500", "12.5"),
            ("100.000", "100000", "100"),
            ("999.999", "999999", "999.999"),
            ("001.250", "1250", "1.25"),
        ]:
            for command in ("CreditInSync", "CreditOutSync"):
                self.assertEqual(
                    self.problem(amount, command),
                    f"line 2: amount {amount.lstrip('0')} can mean {thousands} or"
                    f" {decimal}: don't write three decimals, or confirm the latter"
                    " with --three-decimals",
                )

    def test_decimals(self) -> None:
        """
        No other amount can be mistaken for thousands.
        """
        for amount in (
            *("1000", "1.00", "1.0000", "12.5", "1.", ".125", "0.125", "1000.000"),
            *("1234.567", "19.99", "0.00000001", "1.12345678"),
        ):
            self.assertEqual((amount, self.problem(amount)), (amount, None))

    def test_noAmount(self) -> None:
        """
        A row without an amount has no error in its point.
        """
        self.assertIs(self.problem(""), None)


class KeysTests(SynchronousTestCase):
    """
    L{KeyIndex}.
    """

    def repeats(self, *keys: str, most: int = 100) -> list[str]:
        """
        The problems of these keys, which are on lines 2, 3, ...
        """
        rows = [Row(line, "", {}, key) for line, key in enumerate(keys, 2)]
        found = KeyIndex()
        for row in rows:
            found.add(row.key)
        return [str(each) for each in found.repeats(rows, most)]

    def test_repeats(self) -> None:
        """
        Each row that has the key of an earlier one is reported, with both
        lines.
        """
        self.assertEqual(
            self.repeats("a", "b", "a", "c", "b", "a"),
            [
                "line 4: has the same key as line 2",
                "line 6: has the same key as line 3",
                "line 7: has the same key as line 2",
            ],
        )

    def test_different(self) -> None:
        """
        Keys that differ in one character are different.
        """
        self.assertEqual(self.repeats("a", "A", "a ", "aa", ""), [])

    def test_notReadAgain(self) -> None:
        """
        If no key is repeated, the rows are not read a second time.
        """
        keys = KeyIndex()
        keys.add("a")
        rows = iter([Row(2, "", {}, "a")])
        self.assertEqual(list(keys.repeats(rows, 100)), [])
        self.assertEqual(len(list(rows)), 1)

    def test_sameHash(self) -> None:
        """
        Different keys with the same hash are different.
        """

        class Text(str):
            def __hash__(self) -> int:
                return -7

        one, two = Text("a"), Text("b")
        self.assertEqual(self.repeats(one, two), [])
        self.assertEqual(
            self.repeats(one, two, one), ["line 4: has the same key as line 2"]
        )

    def test_most(self) -> None:
        """
        The second reading looks for no more keys than problems are wanted, and
        reports each of them.
        """
        keys = [f"k{n}" for n in range(1000)]
        self.assertEqual(len(self.repeats(*keys, *keys, most=10)), 10)
        self.assertEqual(len(self.repeats(*["k"] * 50, most=10)), 49)

    def test_memory(self) -> None:
        """
        A key takes eight bytes, plus a little spare room.
        """
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        keys = KeyIndex()
        for n in range(50_000):
            keys.add(f"a key of some length, {n}")
        self.assertEqual(list(keys.repeats([], 100)), [])
        self.assertLess(tracemalloc.get_traced_memory()[1], 12 * 50_000)


def row(line: int) -> Row:
    """
    A row of this line.
    """
    return Row(line, "CreditInSync", {"login": 1001, "amount": 1}, f"k{line}")


HEADER = "line,login,order,error,message,run\n"


class ResultsTests(FolderTestCase):
    """
    L{Results}.
    """

    def setUp(self) -> None:
        """
        Name a file that does not exist.
        """
        super().setUp()
        self.path = self.folder / "promotion.results.csv"

    def results(self, name: str = "n1", lines: int = 100) -> Results:
        """
        Open the results.
        """
        results = Results(self.path, name, lines)
        self.addCleanup(results.__exit__)
        return results

    def test_new(self) -> None:
        """
        The outcome of a row is in the file at once, on one line.
        """
        results = self.results()
        self.assertEqual(self.path.read_text(), HEADER)
        results.write(row(3), 1242281)
        results.write(row(2), None, "TRADE_NO_MONEY", 'not\r\n"enough", he said')
        self.assertEqual(
            self.path.read_text(),
            HEADER + "3,1001,1242281,,,n1\n"
            '2,1001,,TRADE_NO_MONEY,"not ""enough"", he said",n1\n',
        )
        self.assertEqual(os.listdir(self.folder), ["promotion.results.csv"])

    def test_goesOn(self) -> None:
        """
        Rows that were booked are done. Rows that were refused, whose outcome
        is unknown, or whose line a kill has cut off are not, and are removed.
        """
        kept = HEADER + "3,1001,5,,,n1\n100,1001,6,,,n1\n"
        self.path.write_text(
            kept + "4,1001,,USER_NOT_FOUND,there is no account 1001,n1\n"
            "5,1001,7,SYNC_TIMEOUT,the outcome is unknown,n1\n"
            "6,1001,8"
        )
        results = self.results()
        done = [line for line in range(1, 101) if results.isDone(line)]
        self.assertEqual((done, results.count), ([3, 100], 2))
        results.write(row(4), 9)
        self.assertEqual(self.path.read_text(), kept + "4,1001,9,,,n1\n")

    def test_cutOffName(self) -> None:
        """
        A line that was cut off in its last column is not taken for one of
        another run.
        """
        self.path.write_text(HEADER + "3,1001,5,,,n")
        self.assertEqual(self.results().count, 0)

    def test_empty(self) -> None:
        """
        If the file lost everything in a crash, no row is done.
        """
        self.path.write_text("")
        self.assertEqual(self.results().count, 0)

    def test_once(self) -> None:
        """
        A row that is in the file twice counts once, and a line that no row has
        does not count.
        """
        self.path.write_text(
            HEADER + "3,1,5,,,n1\n3,1,5,,,n1\n1,1,5,,,n1\n101,1,5,,,n1\nx,1,5,,,n1\n"
        )
        self.assertEqual(self.results().count, 1)

    def test_otherRows(self) -> None:
        """
        Results of other rows are refused, and left as they are.
        """
        text = HEADER + "3,1001,5,,,n1\n"
        self.path.write_text(text)
        e = self.assertRaises(WrongResults, self.results, "n2")
        self.assertIn(f"{self.path} has the results of other rows", str(e))
        self.assertEqual(self.path.read_text(), text)
        self.assertEqual(os.listdir(self.folder), ["promotion.results.csv"])

    def test_noRegularFile(self) -> None:
        """
        A device, which may never end, a pipe and a folder are neither read nor
        replaced by a file.
        """
        os.mkfifo(self.folder / "pipe")
        device = Path("/dev/full").stat()
        for path in (Path("/dev/full"), self.folder / "pipe", self.folder):
            e = self.assertRaises(WrongResults, Results, path, "n1", 100)
            self.assertEqual(
                str(e), f"{path} is not a regular file: name another one with --results"
            )
        self.assertEqual(Path("/dev/full").stat(), device)
        self.assertEqual(os.listdir(self.folder), ["pipe"])

    def test_diskFull(self) -> None:
        """
        A result that can't be written fails once, and not again at the end, where
        it would change the exit status.
        """
        self.path.write_text("")
        results = self.results()
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, results._file.fileno())
        os.close(full)
        self.assertRaises(OSError, results.write, row(3), 5)
        results.__exit__()

    def test_diskFullAtTheStart(self) -> None:
        """
        Nothing is left where the file can't even be begun.
        """
        (self.folder / "promotion.results.csv.new").symlink_to("/dev/full")
        self.assertRaises(OSError, self.results)
        self.assertEqual(os.listdir(self.folder), [])

    def test_otherFile(self) -> None:
        """
        A file that is not a results file is not overwritten.
        """
        for text in (THREE, "x"):
            self.path.write_text(text)
            e = self.assertRaises(WrongResults, self.results)
            self.assertIn(f"{self.path} exists, and is not a results file", str(e))
            self.assertEqual(self.path.read_text(), text)


class ProgressTests(SynchronousTestCase):
    """
    L{Lines}.
    """

    def test_lines(self) -> None:
        """
        Every five seconds there is a line with the rate of this run and the
        time left, and one at the end.
        """
        said = io.StringIO()
        clock = Clock()
        lines = Lines(400, 100, said, clock)
        for _ in range(100):
            lines.update()
            clock.advance(0.125)
        # At 5, 10 and 12.5 seconds, eight rows each.
        expected = [
            "141 of 400 rows,  8.20 rows/s, 00:31 left",
            "181 of 400 rows,  8.10 rows/s, 00:27 left",
        ]
        self.assertEqual(said.getvalue().splitlines(), expected)
        lines.close()
        self.assertEqual(
            said.getvalue().splitlines(),
            [*expected, "200 of 400 rows,  8.00 rows/s, 00:25 left"],
        )


class FakeClient:
    """
    A client that notes its requests.
    """

    def __init__(self) -> None:
        self.requests: dict[str, Deferred[Any]] = {}
        self.most = 0
        self.answer: Deferred[Any] | None = None

    def request(
        self, command: str, data: dict[str, Any], key: str
    ) -> "Deferred[dict[str, Any]]":
        """
        Note a request.
        """
        if self.answer is not None:
            answer, self.answer = self.answer, None
            return answer
        self.requests[key] = Deferred()
        self.most = max(self.most, len(self.requests))
        return self.requests[key]

    def end(self, key: str, answer: Any) -> None:
        """
        Answer a request.
        """
        request = self.requests.pop(key)
        if isinstance(answer, Exception):
            request.errback(answer)
        else:
            members = dict(answer)
            isReplay = members.pop("replayed", False)
            request.callback(Answer(members, isReplay))

    def stopService(self) -> None:
        """
        End what is pending.
        """
        for key in list(self.requests):
            self.end(key, OutcomeUnknown("the client was stopped", None, key))


class FakeResults:
    """
    Results in memory.
    """

    def __init__(self) -> None:
        self.written: list[tuple[object, ...]] = []
        self.path = Path("promotion.results.csv")
        self.count = 0
        self.unwritable = {13}

    def write(
        self, row: Row, order: int | None, error: str = "", message: str = ""
    ) -> None:
        """
        Keep a result.
        """
        if row.line in self.unwritable:
            raise OSError(28, "No space left on device")
        self.written.append((row.line, order, error, message))

    def isDone(self, line: int) -> bool:
        """
        No row is done.
        """
        return False


class NoProgress:
    """
    Progress that is counted, but not shown.
    """

    def __init__(self) -> None:
        self.count = 0

    def update(self) -> None:
        """
        Count.
        """
        self.count += 1

    def close(self) -> None:
        """
        Nothing.
        """


class BulkRunTests(SynchronousTestCase):
    """
    L{BulkRun}.
    """

    def setUp(self) -> None:
        """
        Make ten rows, from line 2 on, with three in flight at a time.
        """
        self.client: Any = FakeClient()
        self.results: Any = FakeResults()
        self.progress = NoProgress()
        self.taken: list[int] = []
        self.begin(range(2, 12))

    def begin(self, lines: Any) -> None:
        """
        Start a run.
        """
        rows = self.rows(lines)
        self.run_ = BulkRun(self.client, rows, self.results, 3, self.progress)
        self.ended = self.run_.start()

    def rows(self, lines: Any) -> Iterator[Row]:
        """
        The rows, counted as they are taken.
        """
        for line in lines:
            self.taken.append(line)
            yield row(line)

    def test_window(self) -> None:
        """
        No more rows are in flight, or even read, than the window allows.
        """
        self.assertEqual(list(self.client.requests), ["k2", "k3", "k4"])
        self.assertEqual(self.taken, [2, 3, 4])
        self.client.end("k3", {"order": 5})
        self.assertEqual(list(self.client.requests), ["k2", "k4", "k5"])
        self.assertEqual(self.taken, [2, 3, 4, 5])

    def test_all(self) -> None:
        """
        The run ends when the last row is answered.
        """
        for line in range(2, 12):
            self.assertNoResult(self.ended)
            self.client.end(f"k{line}", {"order": line + 100})
        self.successResultOf(self.ended)
        self.assertEqual(
            self.results.written, [(line, line + 100, "", "") for line in range(2, 12)]
        )
        self.assertEqual((self.run_.booked, self.run_.cause), (10, ""))
        self.assertEqual(self.run_._first, {})
        self.assertEqual((self.client.most, self.progress.count), (3, 10))

    def test_nothing(self) -> None:
        """
        Without rows the run ends at once.
        """
        self.begin([])
        self.successResultOf(self.ended)

    def test_counts(self) -> None:
        """
        Booked, replayed and refused rows are counted, with their results; a
        refused row does not affect the others.
        """
        self.client.end("k2", {"order": 5})
        self.client.end("k3", {"order": 6, "replayed": True})
        self.client.end("k4", Refused(409, "TRADE_NO_MONEY", "not enough credit"))
        self.client.end("k5", Refused(500, "TECH_PROBLEM", "a fault"))
        run = self.run_
        self.assertEqual((run.booked, run.replayed, run.refused), (1, 1, 2))
        self.assertEqual(
            self.results.written,
            [
                (2, 5, "", ""),
                (3, 6, "", ""),
                (4, None, "TRADE_NO_MONEY", "not enough credit"),
                (5, None, "TECH_PROBLEM", "a fault"),
            ],
        )
        self.assertEqual(list(self.client.requests), ["k6", "k7", "k8"])

    def test_attached(self) -> None:
        """
        A row with the key of another one in flight gets the same answer, and
        counts as a replay.
        """
        asked: list[Deferred[Any]] = []

        def request(command: str, data: object, key: str) -> Deferred[Any]:
            asked.append(Deferred())
            return asked[-1]

        self.client.request = request
        rows = [Row(line, "CreditInSync", {"login": 1}, "k") for line in (2, 3, 4)]
        run = BulkRun(self.client, iter(rows), self.results, 2, self.progress)
        ended = run.start()
        asked[0].callback(Answer({"order": 5}, False))
        asked[1].callback(Answer({"order": 5}, False))
        asked[2].callback(Answer({"order": 5}, True))
        self.successResultOf(ended)
        self.assertEqual((run.booked, run.replayed), (1, 2))
        self.assertEqual(
            self.results.written, [(2, 5, "", ""), (3, 5, "", ""), (4, 5, "", "")]
        )

    def test_hopeless(self) -> None:
        """
        A refusal that every row would get ends the run.
        """
        for status in (401, 403, 429, 503):
            self.client.requests.clear()
            self.begin(range(2, 12))
            self.client.end("k2", Refused(status, "SO", "so it is"))
            self.assertEqual(list(self.client.requests), ["k3", "k4"])
            self.assertEqual(self.run_.cause, "so it is")

    def test_unknown(self) -> None:
        """
        An unknown outcome is written with what is known of it, and ends the
        run when the other rows in flight are answered.
        """
        self.client.end("k2", OutcomeUnknown("no answer in time", 5, "k2"))
        self.client.end("k3", {"order": 6})
        self.assertNoResult(self.ended)
        self.client.end("k4", {"order": 7})
        self.successResultOf(self.ended)
        self.assertEqual((self.run_.unknown, self.run_.booked), (1, 2))
        self.assertEqual(self.run_.cause, "the outcome of some rows is unknown")
        line, order, error, message = self.results.written[0]
        self.assertEqual((line, order, error), (2, 5, "SYNC_TIMEOUT"))
        self.assertIn("idempotencyKey k2", message)

    def test_unanswered(self) -> None:
        """
        If the server is away the run ends; the row was not booked, and has no
        result.
        """
        self.client.end("k2", Unanswered("no answer in time"))
        self.assertEqual(list(self.client.requests), ["k3", "k4"])
        self.assertEqual(self.run_.cause, "no answer in time")
        self.assertEqual((self.results.written, self.run_.answered), ([], 0))

    def test_cancel(self) -> None:
        """
        Cancelling the run ends the rows in flight, with an unknown outcome.
        """
        self.run_.stop("interrupted")
        self.assertNoResult(self.ended)
        self.ended.cancel()
        self.successResultOf(self.ended)
        self.assertEqual((self.run_.unknown, self.run_.cause), (3, "interrupted"))

    def test_answersAtOnce(self) -> None:
        """
        However many requests are answered at once, the stack does not grow.
        """
        client = self.client
        client.request = lambda *_: succeed(Answer({"order": 5}, False))
        self.begin(range(20, 5020))
        self.successResultOf(self.ended)
        self.assertEqual(self.run_.booked, 5000)

    def test_notSent(self) -> None:
        """
        A row that can't even be sent ends the run.
        """
        self.client.answer = fail(ValueError("the token is not ASCII"))
        self.begin(range(20, 30))
        self.assertEqual(self.run_.cause, "the token is not ASCII")
        self.assertEqual(self.taken[-1], 20)
        self.successResultOf(self.ended)

    def test_resultsFail(self) -> None:
        """
        A full disk ends the run; its rows will be replays in the next one.
        """
        self.client.requests.clear()
        self.begin(range(13, 20))
        self.client.end("k13", {"order": 5})
        self.assertEqual(self.run_.cause, "[Errno 28] No space left on device")
        self.assertEqual(list(self.client.requests), ["k14", "k15"])

    def test_fileChanges(self) -> None:
        """
        A file that can't be read any further ends the run.
        """

        def rows() -> Iterator[Row]:
            yield row(20)
            raise Unreadable("the file has changed meanwhile")

        self.run_ = BulkRun(self.client, rows(), self.results, 3, self.progress)
        ended = self.run_.start()
        self.assertEqual(self.run_.cause, "the file has changed meanwhile")
        self.assertNoResult(ended)
        self.client.end("k20", {"order": 5})
        self.successResultOf(ended)


class BookTests(FolderTestCase):
    """
    A run from its start to its summary and exit status.
    """

    def setUp(self) -> None:
        """
        Start with three rows, of which two may be in flight.
        """
        super().setUp()
        self.client: Any = FakeClient()
        self.clock = Clock()
        self.stopped: Deferred[None] = Deferred()
        self.said, self.complained = io.StringIO(), io.StringIO()
        self.results: Any = FakeResults()
        options = Namespace(name="bulk", in_flight=2)
        with redirect_stderr(self.complained):
            self.ended = Deferred.fromCoroutine(
                bulk.book(
                    *(options, self.file(THREE), Extent(3, 5), self.results),
                    *(self.clock, self.client, self.stopped),
                )
            )

    def answer(self, line: int, answer: Any) -> None:
        """
        Answer a row.
        """
        with redirect_stdout(self.said), redirect_stderr(self.complained):
            self.client.end(f"{THREE_NAME}-{line}", answer)

    def assertEnded(self, status: int, summary: str, cause: str = "") -> None:
        """
        The run has ended with this status, and printed this.
        """
        self.assertEqual(self.successResultOf(self.ended), status)
        self.assertEqual(
            self.said.getvalue(), f"{summary} of 3 rows: promotion.results.csv\n"
        )
        sentence = f"creditsync bulk: {cause}; run it again for the rest\n"
        complaints = [
            line
            for line in self.complained.getvalue().splitlines(keepends=True)
            if " rows/s, " not in line
        ]
        self.assertEqual(complaints, [sentence] if cause else [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_done(self) -> None:
        """
        Status 0: all rows are booked.
        """
        self.answer(2, {"order": 5})
        self.answer(3, {"order": 6, "replayed": True})
        self.answer(5, {"order": 7})
        self.assertEnded(
            0,
            "booked 2, replayed 1, refused 0, unknown 0, done by earlier runs 0,"
            " left 0",
        )

    def test_resultsAreLost(self) -> None:
        """
        Status 0 also if all rows are booked and the last result can't be written;
        but that is said.
        """
        self.results.unwritable = {5}
        self.answer(2, {"order": 5})
        self.answer(3, {"order": 6})
        self.answer(5, {"order": 7})
        self.assertEqual(self.successResultOf(self.ended), 0)
        self.assertIn(
            "creditsync bulk: [Errno 28] No space left on device;"
            " promotion.results.csv lacks results of this run\n",
            self.complained.getvalue(),
        )

    def test_refused(self) -> None:
        """
        Status 3: all rows were answered, and some were refused.
        """
        self.answer(2, {"order": 5})
        self.answer(3, Refused(409, "TRADE_NO_MONEY", "not enough"))
        self.answer(5, {"order": 7})
        self.assertEnded(
            3,
            "booked 2, replayed 0, refused 1, unknown 0, done by earlier runs 0,"
            " left 0",
        )

    def test_left(self) -> None:
        """
        Status 1: rows are left, whatever the outcome of the others.
        """
        self.answer(2, Refused(401, "UNAUTHORIZED", "the token has expired"))
        self.answer(3, {"order": 6})
        self.assertEnded(
            1,
            "booked 1, replayed 0, refused 1, unknown 0, done by earlier runs 0,"
            " left 1",
            "the token has expired",
        )

    def test_unknown(self) -> None:
        """
        Status 4: the outcome of some rows is unknown.
        """
        self.answer(2, OutcomeUnknown("no answer", 5, "k"))
        self.answer(3, Refused(409, "TRADE_NO_MONEY", "not enough"))
        self.assertEnded(
            4,
            "booked 0, replayed 0, refused 1, unknown 1, done by earlier runs 0,"
            " left 1",
            "the outcome of some rows is unknown",
        )

    def test_interrupted(self) -> None:
        """
        Status 130: after Ctrl-C no more rows are sent, and those in flight get
        their answers.
        """
        self.stopped.callback(None)
        self.answer(2, {"order": 5})
        self.answer(3, {"order": 6})
        self.assertEnded(
            130,
            "booked 2, replayed 0, refused 0, unknown 0, done by earlier runs 0,"
            " left 1",
            "interrupted",
        )

    def test_interruptedTooLate(self) -> None:
        """
        An interruption when no rows are left is not reported.
        """
        self.answer(2, {"order": 5})
        self.stopped.callback(None)
        self.answer(3, {"order": 6})
        self.answer(5, {"order": 7})
        self.assertEnded(
            0,
            "booked 3, replayed 0, refused 0, unknown 0, done by earlier runs 0,"
            " left 0",
        )

    def test_grace(self) -> None:
        """
        After Ctrl-C the rows in flight have five seconds to be answered; then
        their outcome is unknown.
        """
        self.stopped.callback(None)
        self.clock.advance(4.9)
        self.assertNoResult(self.ended)
        with redirect_stdout(self.said), redirect_stderr(self.complained):
            self.clock.advance(0.2)
        self.assertEnded(
            4,
            "booked 0, replayed 0, refused 0, unknown 2, done by earlier runs 0,"
            " left 1",
            "interrupted",
        )


class CommandTests(FolderTestCase):
    """
    C{creditsync bulk}, until it would connect.
    """

    def setUp(self) -> None:
        """
        Use a folder of its own, with a token.
        """
        super().setUp()
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        self.patch(os, "environ", {"CREDITSYNC_TOKEN": TOKEN})
        self.runs: list[dict[str, Any]] = []
        self.patch(bulk, "runWithClient", lambda *_, **given: self.runs.append(given))

    def command(self, *arguments: str) -> None:
        """
        Run the command.
        """
        self.patch(sys, "argv", ["creditsync", "bulk", *arguments])
        main()

    def assertEnds(self, status: int, *arguments: str) -> str:
        """
        The command exits with this status before it connects. Returns what it
        prints to stdout and stderr.
        """
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said):
            e = self.assertRaises(SystemExit, self.command, *arguments)
        self.assertEqual((e.code, self.runs), (status, []))
        return said.getvalue()

    def test_sends(self) -> None:
        """
        The rows of a valid file are sent, and the results are in the same
        folder.
        """
        Path("promotion.csv").write_text(THREE)
        self.command("promotion.csv")
        self.command("promotion.csv", "--in-flight=7", "--results=other.csv")
        self.assertEqual(self.runs, [{"maxInFlight": 256}, {"maxInFlight": 7}])
        self.assertEqual(
            sorted(os.listdir()),
            ["other.csv", "promotion.csv", "promotion.results.csv"],
        )

    def test_problems(self) -> None:
        """
        Every error of form and content is reported, and nothing is sent or
        written.
        """
        Path("promotion.csv").write_text(
            "login,amount,comment\n1,5,x\nx,5,x\n1,0.123456789,x\n1,5,\n"
        )
        self.assertEqual(
            self.assertEnds(2, "promotion.csv"),
            "promotion.csv: line 3: login must be a whole number, not 'x'\n"
            "promotion.csv: line 4: amount must have at most 8 decimals\n"
            "promotion.csv: line 5: comment is required\n"
            "creditsync bulk: problems: 3; nothing was booked\n",
        )
        self.assertEqual(os.listdir(), ["promotion.csv"])

    def test_manyProblems(self) -> None:
        """
        The command stops after a hundred errors.
        """
        Path("promotion.csv").write_text("login,amount\n" + "1,5\n" * 1000)
        said = self.assertEnds(2, "promotion.csv").splitlines()
        self.assertEqual(len(said), 101)
        self.assertEqual(said[99], "promotion.csv: line 101: comment is required")
        self.assertEqual(
            said[100], "creditsync bulk: too many problems; nothing was booked"
        )

    def test_keyTwice(self) -> None:
        """
        Rows that have the same key are reported with both lines, after the
        other errors: only one of them could be booked.
        """
        Path("promotion.csv").write_text(
            "login,amount,comment,key\n1,5,x,k1\n1,5,x, k1\xa0\n2,6,,k2\n3,7,z,k1\n"
            "4,8,x,\n4,8,x,\n"
        )
        self.assertEqual(
            self.assertEnds(2, "promotion.csv"),
            "promotion.csv: line 4: comment is required\n"
            "promotion.csv: line 3: has the same key as line 2\n"
            "promotion.csv: line 5: has the same key as line 2\n"
            "creditsync bulk: problems: 3; nothing was booked\n",
        )

    def test_threeDecimals(self) -> None:
        """
        Amounts that could be meant as thousands must be confirmed.
        """
        Path("promotion.csv").write_text("login,amount,comment\n1,1.000,x\n2,300,y\n")
        self.assertEqual(
            self.assertEnds(2, "promotion.csv"),
            "promotion.csv: line 2: amount 1.000 can mean 1000 or 1: don't write three"
            " decimals, or confirm the latter with --three-decimals\n"
            "creditsync bulk: problems: 1; nothing was booked\n",
        )
        self.command("promotion.csv", "--three-decimals")
        self.assertEqual(len(self.runs), 1)

    def test_noRows(self) -> None:
        """
        A file with only a header is refused.
        """
        Path("promotion.csv").write_text("login,amount\n\n")
        self.assertEqual(
            self.assertEnds(2, "promotion.csv"),
            "creditsync bulk: promotion.csv has no rows\n",
        )

    def test_noFile(self) -> None:
        """
        A file that does not exist is refused, and so is one that can't be read
        twice, like a pipe.
        """
        self.assertEqual(
            self.assertEnds(2, "nowhere.csv"),
            "creditsync bulk: nowhere.csv can't be read: No such file or directory\n",
        )
        self.assertEqual(
            self.assertEnds(2, "/dev/null"),
            "creditsync bulk: /dev/null is not a regular file\n",
        )

    def test_allDone(self) -> None:
        """
        If no rows are left, nothing is sent.
        """
        Path("promotion.csv").write_text(THREE)
        Path("promotion.results.csv").write_text(
            HEADER + "".join(f"{line},1,5,,,{THREE_NAME}\n" for line in (2, 3, 5))
        )
        self.assertEqual(
            self.assertEnds(0, "promotion.csv"),
            "all 3 rows were done by earlier runs: promotion.results.csv\n",
        )

    def test_otherResults(self) -> None:
        """
        A file that was changed after some of its rows were booked is refused.
        """
        Path("promotion.csv").write_text(THREE + "1,5,x\n")
        Path("promotion.results.csv").write_text(HEADER + f"2,1,5,,,{THREE_NAME}\n")
        self.assertIn(
            "promotion.results.csv has the results of other rows",
            self.assertEnds(2, "promotion.csv"),
        )

    def test_anotherRun(self) -> None:
        """
        Two runs of a file at the same time are refused: they would spoil each
        other's results.
        """
        Path("promotion.csv").write_text(THREE)
        options = Namespace(file=Path("promotion.csv"), name="bulk")
        with bulk._open(options):
            self.assertEqual(
                self.assertEnds(1, "promotion.csv"),
                "creditsync bulk: another run of promotion.csv is in progress\n",
            )

    def test_mistakes(self) -> None:
        """
        Invalid options are refused.
        """
        Path("promotion.csv").write_text(THREE)
        for arguments in [
            [],
            ["promotion.csv", "--in-flight=0"],
            ["promotion.csv", "--in-flight=901"],
            ["promotion.csv", "--command=CreditIn"],
        ]:
            self.assertIn("error: ", self.assertEnds(2, *arguments))
