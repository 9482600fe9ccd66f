"""
The commands for people against a real server, most of all C{creditsync bulk}:
however often it is killed, each row is booked once.

With another number of rows than 5,000::

    CREDITSYNC_BULK_ROWS=50000 python -m pytest tests/integration/test_bulk.py
"""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from select import select

import pytest
from processes import LISTEN, SECRET, SERVE, Completed
from test_launch import ProcessTestCase

from creditsync.auth import mint

pytestmark = pytest.mark.proof

ROWS = int(os.environ.get("CREDITSYNC_BULK_ROWS", "5000"))

CREDITSYNC = [sys.executable, "-m", "creditsync"]


class CommandTestCase(ProcessTestCase):
    """
    A test with a server, and a token in the folder of its site.
    """

    def setUp(self) -> None:
        """
        Start the server.
        """
        super().setUp()
        self.server = self.site.start(*SERVE, *LISTEN)
        token = mint(SECRET, id=7, role=1, expires=86400, now=time.time())
        Path(self.site.folder, "token").write_text(f"{token}\n")
        self.site.environment["CREDITSYNC_CONNECT"] = f"127.0.0.1:{self.server.port}"

    def creditsync(self, name: str, *arguments: str) -> Completed:
        """
        Run a command to its end.
        """
        return self.site.run(*CREDITSYNC, name, "--token", "token", *arguments)

    def begin(self, name: str, *arguments: str) -> "subprocess.Popen[str]":
        """
        Run a command that does not end soon.
        """
        process = subprocess.Popen(
            [*CREDITSYNC, name, "--token", "token", *arguments],
            cwd=self.site.folder,
            env=self.site.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

        def end() -> None:
            process.kill()
            process.communicate()

        self.addCleanup(end)
        return process

    def assertSays(self, said: str, name: str, *arguments: str) -> None:
        """
        Assert that a command succeeds and prints one line.
        """
        ended = self.creditsync(name, *arguments)
        self.assertEqual(
            (ended.returncode, ended.stdout, ended.stderr), (0, f"{said}\n", "")
        )

    def assertEnds(self, status: int, said: str, name: str, *arguments: str) -> None:
        """
        Assert that a command ends with this status and this message.
        """
        ended = self.creditsync(name, *arguments)
        self.assertEqual(
            (ended.returncode, ended.stdout, ended.stderr),
            (status, "", f"creditsync {name}: {said}\n"),
        )


class OperationTests(CommandTestCase):
    """
    Tests for the commands that book one operation.
    """

    def test_family(self) -> None:
        """
        Each command of the family does what its name says, and C{show} prints
        the result.
        """
        self.assertSays(
            "order 1  login 1001  credit-in 300.0  Promotion credit  booked",
            *("credit-in", "1001", "300", "Promotion credit"),
        )
        self.assertSays(
            "order 1  login 1001  credit-in 250.5  Corrected  booked",
            *("credit-in", "1001", "250.5", "Corrected", "--order", "1"),
        )
        self.assertSays(
            "order 2  login 1001  credit-out -50.25  Back  booked",
            *("credit-out", "1001", "50.25", "Back"),
        )
        self.assertSays(
            "order 3  login 1001  balance-in 10.0  Finance  booked",
            *("balance-in", "1001", "10"),
        )
        self.assertSays(
            "order 4  login 1001  balance-out -0.00000001  Card  booked",
            *("balance-out", "1001", "0.00000001", "Card"),
        )
        self.assertSays(
            "order 2  login 1001  credit-out -50.25  Back  deleted",
            *("delete", "credit", "2"),
        )
        self.assertSays(
            "order 2  login 1001  credit-out -50.25  Back  deleted", "show", "2"
        )

    def test_key(self) -> None:
        """
        Under the same key nothing is booked twice, and a key finds its order.
        """
        again = ("credit-in", "1001", "300", "x", "--key", "k1")
        said = "order 1  login 1001  credit-in 300.0  x  booked"
        self.assertSays(said, *again)
        self.assertSays(f"{said}, earlier under the same key", *again)
        self.assertSays(said, "show", "--key", "k1")
        self.assertEqual(self.site.orders(), {1: (30_000_000_000, "x")})

    def test_json(self) -> None:
        """
        C{--json} prints the data of the reply.
        """
        ended = self.creditsync("credit-in", "1001", "0.1", "x", "--json")
        data = json.loads(ended.stdout)
        self.assertEqual((data["order"], data["profit"], data["reason"]), (1, 0.1, 7))

    def test_refused(self) -> None:
        """
        A refusal ends the command with status 3.
        """
        self.assertEnds(
            3,
            "refused: account 1001 does not have enough credit (409 TRADE_NO_MONEY)",
            *("credit-out", "1001", "5", "x"),
        )
        ended = self.creditsync("show", "9")
        self.assertEqual(ended.returncode, 3)
        self.assertIn("(404 NOT_FOUND)", ended.stderr)
        self.site.environment["CREDITSYNC_TOKEN"] = "a.b.c"
        ended = self.site.run(*CREDITSYNC, "credit-in", "1001", "5", "x")
        self.assertEqual(ended.returncode, 3)
        self.assertIn("(401 UNAUTHORIZED)", ended.stderr)
        self.assertEqual(self.site.orders(), {})

    def test_noServer(self) -> None:
        """
        Without a server the command ends with status 1, at once.
        """
        ended = self.creditsync("show", "9", "--connect", "127.0.0.1:1")
        self.assertEqual(ended.returncode, 1)
        self.assertIn("no connection to 127.0.0.1:1: ", ended.stderr)
        self.assertEqual(ended.stderr.count("\n"), 1)

    def test_badEndpoint(self) -> None:
        """
        An invalid address is an error of the command line.
        """
        ended = self.creditsync("show", "9", "--connect", "nowhere")
        self.assertEqual(ended.returncode, 2)
        self.assertEqual(ended.stderr.count("\n"), 1)

    def test_unknown(self) -> None:
        """
        An unknown outcome ends the command with status 4; it can be looked up
        later.
        """
        other = self.site.holdLedger()
        self.addCleanup(other.close)
        ended = self.creditsync(
            *("credit-in", "1001", "5", "x", "--key", "k1", "--timeout", "1")
        )
        self.assertEqual((ended.returncode, ended.stdout), (4, ""))
        self.assertIn("(idempotencyKey k1)", ended.stderr)
        other.execute("ROLLBACK")
        self.assertSays(
            "order 1  login 1001  credit-in 5.0  x  booked", "show", "--key", "k1"
        )


class WatchTests(CommandTestCase):
    """
    Tests for C{creditsync watch}.
    """

    def firstLine(self, process: "subprocess.Popen[str]") -> str:
        """
        Book credits until the first of them is printed.
        """
        client = self.server.connect()
        self.addCleanup(client.close)
        assert process.stdout is not None
        while not select([process.stdout], [], [], 0.05)[0]:
            client.send("1")
            next(client.replies())
        return process.stdout.readline()

    def assertEndsAtCtrlC(self, process: "subprocess.Popen[str]") -> None:
        """
        Assert that Ctrl-C ends the command with status 0.
        """
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        self.assertEqual((process.returncode, errors), (0, ""))

    def test_text(self) -> None:
        """
        Each booking is printed at once.
        """
        process = self.begin("watch")
        self.assertIn(
            "  login 1001  credit-in 300.0  for 1  booked\n", self.firstLine(process)
        )
        self.assertEndsAtCtrlC(process)

    def test_json(self) -> None:
        """
        With C{--json} each booking is printed at once as JSON.
        """
        process = self.begin("watch", "--json")
        event = json.loads(self.firstLine(process))
        self.assertEqual((event["event"], event["type"]), ("trade:event", 0))
        self.assertEqual(event["data"]["profit"], 300.0)
        self.assertEndsAtCtrlC(process)


class BulkTests(CommandTestCase):
    """
    Tests for C{creditsync bulk}.
    """

    def setUp(self) -> None:
        """
        Write a file in which no two rows have the same comment.
        """
        super().setUp()
        self.file = self.site.folder / "promotion.csv"
        self.results = self.site.folder / "promotion.results.csv"
        with self.file.open("w") as file:
            file.write("login,amount,comment\n")
            for n in range(ROWS):
                file.write(f"{1001 + n % 100},{n % 700}.01,row {n}\n")

    def bulk(self) -> "subprocess.Popen[str]":
        """
        Start a run.
        """
        return self.begin("bulk", "promotion.csv")

    def waitForResults(self, process: "subprocess.Popen[str]", rows: int) -> None:
        """
        Wait until a run has this many more results.
        """
        before = self.countResults()
        deadline = time.monotonic() + 50
        while self.countResults() < before + rows:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def countResults(self) -> int:
        """
        The number of lines in the results.
        """
        return self.results.read_bytes().count(b"\n") if self.results.exists() else 1

    def assertEndsWith(
        self, process: "subprocess.Popen[str]", status: int, *said: str
    ) -> str:
        """
        Assert that a run ends with this status, and with these texts in its
        summary.
        """
        output, errors = process.communicate(timeout=55)
        self.assertEqual(process.returncode, status, errors)
        for each in said:
            self.assertIn(each, output)
        self.assertNotIn("Traceback", errors)
        return errors

    def assertEachOnce(self) -> None:
        """
        Assert that the ledger has each row once, and the results have the
        order of each.
        """
        booked = self.site.orders()
        self.assertEqual(len(booked), ROWS)
        self.assertEqual(
            set(booked.values()),
            {((n % 700) * 100_000_000 + 1_000_000, f"row {n}") for n in range(ROWS)},
        )
        results = [line.split(",") for line in self.results.read_text().splitlines()]
        self.assertEqual(
            results.pop(0), ["line", "login", "order", "error", "message", "run"]
        )
        # The first row is on line 2.
        self.assertEqual(
            {int(line): booked[int(order)][1] for line, _, order, *_ in results},
            {n + 2: f"row {n}" for n in range(ROWS)},
        )
        self.assertEqual(len(results), ROWS)

    def test_killed(self) -> None:
        """
        A run that is killed three times and repeated each time books each row
        once.
        """
        for _ in range(3):
            process = self.bulk()
            self.waitForResults(process, ROWS // 5)
            process.kill()
            self.assertEqual(process.wait(20), -signal.SIGKILL)
        self.assertEndsWith(self.bulk(), 0, "refused 0, unknown 0", f"of {ROWS} rows")
        self.assertEachOnce()

    def test_resultsLost(self) -> None:
        """
        Even without the results of the first run, the second one books
        nothing, and has the same orders.
        """
        self.assertEndsWith(self.bulk(), 0, f"booked {ROWS}, replayed 0,")
        self.results.unlink()
        self.assertEndsWith(self.bulk(), 0, f"booked 0, replayed {ROWS},")
        self.assertEachOnce()
        self.assertEndsWith(self.bulk(), 0, f"all {ROWS} rows were done by earlier")

    def test_interrupted(self) -> None:
        """
        Ctrl-C ends a run in order, and it can be repeated.
        """
        process = self.bulk()
        self.waitForResults(process, ROWS // 5)
        process.send_signal(signal.SIGINT)
        errors = self.assertEndsWith(process, 130, "refused 0, unknown 0")
        self.assertIn("creditsync bulk: interrupted; run it again", errors)
        self.assertEndsWith(self.bulk(), 0, "replayed 0, refused 0, unknown 0")
        self.assertEachOnce()

    def test_serverKilled(self) -> None:
        """
        A server that is killed and restarted costs a run nothing but time.
        """
        process = self.bulk()
        self.waitForResults(process, ROWS // 5)
        self.server.signal(signal.SIGKILL)
        self.server.end()
        self.site.start(
            *SERVE, "--listen", f"tcp:{self.server.port}:interface=127.0.0.1"
        )
        self.assertEndsWith(process, 0, "refused 0, unknown 0")
        self.assertEachOnce()

    def test_refused(self) -> None:
        """
        Rows that were refused are tried again by the next run.
        """
        self.file.write_text(
            "login,amount,comment,command\n1,5,back,CreditOutSync\n2,7,in,\n"
        )
        self.assertEndsWith(self.bulk(), 3, "booked 1, replayed 0, refused 1,")
        line = self.results.read_text().splitlines()[1:]
        self.assertIn(
            "2,1,,TRADE_NO_MONEY,account 1 does not have enough credit,",
            [each[: each.rindex(",") + 1] for each in line],
        )
        self.creditsync("credit-in", "1", "5", "first")
        self.assertEndsWith(
            self.bulk(),
            0,
            "booked 1, replayed 0, refused 0, unknown 0, done by earlier runs 1,",
        )
        self.assertEqual(
            sorted(self.site.orders().values()),
            [(-500_000_000, "back"), (500_000_000, "first"), (700_000_000, "in")],
        )

    def test_keyTwice(self) -> None:
        """
        Rows with the same key, as a spreadsheet makes them of long numbers,
        are reported before anything is booked.
        """
        self.file.write_text(
            "login,amount,comment,key\n" + "1001,300,Bonus,9.87654E+18\n" * 5
        )
        errors = self.assertEndsWith(self.bulk(), 2)
        self.assertEqual(errors.count("key is a number that a spreadsheet"), 5)
        self.file.write_text("login,amount,comment,key\n" + "1001,300,Bonus,k1\n" * 5)
        errors = self.assertEndsWith(self.bulk(), 2)
        self.assertIn("promotion.csv: line 6: has the same key as line 2\n", errors)
        self.assertEqual(self.site.orders(), {})

    def test_spreadsheets(self) -> None:
        """
        The same rows in the formats of different spreadsheets are booked once:
        their keys are the same.
        """
        table = [
            ["login", "amount", "comment", "key"],
            ["1001", "300.50", "Zahlung Müller", "pay-1"],
            ["1002", "19.99", "a; b, c", " pay-2\xa0"],
            ["", "", "", ""],
        ]
        booked = "booked 2, replayed 0, refused 0"
        for separator, encoding, beginning in [
            (",", "utf-8-sig", ""),
            (";", "utf-8-sig", ""),
            (";", "utf-8", "sep=;\r\n"),
            ("\t", "utf-16", ""),
        ]:
            text = io.StringIO(newline="")
            text.write(beginning)
            csv.writer(text, delimiter=separator).writerows(table)
            self.file.write_bytes(text.getvalue().encode(encoding))
            self.results.unlink(missing_ok=True)
            self.assertEndsWith(self.bulk(), 0, booked, "left 0 of 2 rows")
            booked = "booked 0, replayed 2, refused 0"
        self.assertEqual(
            self.site.orders(),
            {1: (30_050_000_000, "Zahlung Müller"), 2: (1_999_000_000, "a; b, c")},
        )
