"""
Tests for C{creditsync requests} as a process, beside a server that is also killed.
"""

import json
import signal
import subprocess
import sys
import time

import pytest
from processes import SECRET, SERVE
from test_command import CommandTestCase

from creditsync.auth import mint

pytestmark = [pytest.mark.proof, pytest.mark.timeout(120, method="thread")]

CREATE = ("requests", "create", "credit-in", "--login=1001", "--comment=For the move")


class FinanceRequestTests(CommandTestCase):
    """
    Two people, each with the command.
    """

    def setUp(self) -> None:
        super().setUp()
        self.tokens = {
            id: mint(SECRET, id=id, role=role, expires=86400, now=time.time())
            for id, role in ((7, 1), (8, 2))
        }

    def as_(self, id: int, *arguments: str) -> tuple[int, str]:
        """
        Run the command for a person, and return its status and what it prints.
        """
        self.environment["CREDITSYNC_TOKEN"] = self.tokens[id]
        status, out, errors = self.end(*arguments)
        return status, (out + errors).decode()

    def waitUntilPending(self) -> None:
        """
        Wait until the server has a request that waits for its commit.
        """
        client = self.server.connect()
        self.addCleanup(client.close)
        deadline = time.monotonic() + 20
        while True:
            client.send("n", command="HealthCheck", data={})
            if next(client.replies())["data"]["pending"]:
                return
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)

    def test_fourEyes(self) -> None:
        """
        One makes requests and can't approve them; the other one approves and declines
        them.
        """
        for amount in ("25000", "0.5"):
            status, said = self.as_(7, *CREATE, "--amount", amount)
            self.assertEqual(status, 0, said)
            self.assertIn("waits for approval\n", said)
        status, said = self.as_(8, "requests", "list", "--json")
        listed = [json.loads(line) for line in said.splitlines()]
        self.assertEqual(
            [(status, each["order"], each["profit"]) for each in listed],
            [(0, 1, 25000.0), (0, 2, 0.5)],
        )
        status, said = self.as_(7, "requests", "approve", "1")
        self.assertEqual(status, 3)
        self.assertIn("order 1: refused: ", said)
        self.assertIn("(403 FORBIDDEN)\n", said)
        self.assertEqual(
            self.as_(8, "requests", "approve", "1"),
            (0, "order 1  login 1001  credit-in 25000.0  For the move  booked\n"),
        )
        status, said = self.as_(8, "requests", "approve", "1", "2")
        self.assertEqual(status, 3)
        self.assertIn("order 1: refused: ", said)
        self.assertIn(
            "order 2  login 1001  credit-in 0.5  For the move  booked\n", said
        )
        self.assertEqual(self.as_(7, *CREATE, "--amount=3")[0], 0)
        self.assertEqual(
            self.as_(7, "requests", "decline", "3", "--comment=Not now"),
            (0, "order 3  login 1001  credit-in 3.0  Not now  declined\n"),
        )
        status, said = self.as_(7, "requests", "list")
        self.assertEqual((status, len(said.splitlines())), (0, 1))
        status, said = self.as_(7, "statement", "1001", "--history")
        changes = [line.split()[2:4] for line in said.splitlines()[1:]]
        self.assertEqual(
            changes,
            [
                ["1", "request"],
                ["2", "request"],
                ["1", "approve"],
                ["2", "approve"],
                ["3", "request"],
                ["3", "decline"],
            ],
        )

    def test_killed(self) -> None:
        """
        An approval that loses its server, which may have booked it or not, is approved
        once when the server is back, and says so.
        """
        self.assertEqual(self.as_(7, *CREATE, "--amount=300")[0], 0)
        self.environment["CREDITSYNC_TOKEN"] = self.tokens[8]
        other = self.site.holdLedger()
        process = self.begin("requests", "approve", "1")
        self.waitUntilPending()
        self.server.signal(signal.SIGKILL)
        self.server.end()
        other.close()
        self.site.start(
            *SERVE, "--listen", f"tcp:{self.server.port}:interface=127.0.0.1"
        )
        out, errors = process.communicate(timeout=40)
        self.assertEqual((process.returncode, errors), (0, b""))
        self.assertEqual(
            out, b"order 1  login 1001  credit-in 300.0  For the move  booked\n"
        )
        status, said = self.as_(8, "requests", "approve", "1")
        self.assertEqual(status, 3, said)
        checked = subprocess.run(
            [sys.executable, "-m", "creditsync", "check"],
            cwd=self.site.folder,
            env=self.site.environment,
            capture_output=True,
            check=False,
        )
        self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)

    def test_interrupted(self) -> None:
        """
        A signal before the answer ends with status 4 and names the order and the key;
        those that are left are named too.
        """
        for amount in ("1", "2"):
            self.assertEqual(self.as_(7, *CREATE, "--amount", amount)[0], 0)
        self.environment["CREDITSYNC_TOKEN"] = self.tokens[8]
        other = self.site.holdLedger()
        process = self.begin("requests", "approve", "1", "2")
        self.waitUntilPending()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
        other.close()
        self.assertEqual(process.returncode, 4)
        self.assertIn(b"approve: order 1: ", errors)
        self.assertIn(b"(idempotencyKey ", errors)
        self.assertIn(b"approve: interrupted; left: 2\n", errors)
