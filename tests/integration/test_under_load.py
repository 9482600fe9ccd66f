"""
The commands of L{tests.load} at their smallest, on real servers.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.integration.processes import Site

pytestmark = pytest.mark.proof


class CommandTests(SynchronousTestCase):
    """
    Tests that the commands find a sound server sound, and write their figures,
    and that they find a bug.
    """

    def setUp(self) -> None:
        """
        Make a folder for the figures.
        """
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.site = Site(Path(folder.name))

    def last(self, command: str, *options: str) -> tuple[int, str]:
        """
        Run a command.

        @return: Its exit status, and its last line.
        """
        done = self.site.run(
            sys.executable,
            "-m",
            f"tests.load.{command}",
            *options,
            f"--json={self.site.folder / 'figures'}",
        )
        assert done.stdout, done.stderr
        return done.returncode, done.stdout.splitlines()[-1]

    def test_stopping(self) -> None:
        """
        A plain stop, and one while the ledger is held, are sound.
        """
        status, last = self.last("stopping", "--stops=2")
        assert (status, last[:6]) == (0, "sound:"), last
        figures = json.loads((self.site.folder / "figures").read_text())
        assert figures["stops"] == 2
        assert figures["answered by 504"] > 0

    def test_clocksPlanted(self) -> None:
        """
        Timers that use the wall clock are found.
        """
        status, last = self.last("clocks", "--steps=5", "--plant=wall-clock-timers")
        assert (status, last[:10]) == (1, "VIOLATION:"), last
