"""
Copies of the tree, in which tests add what a maintainer would add.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

from twisted.trial.unittest import SynchronousTestCase

from tests.test_ledger import environment

CHECKOUT = Path(__file__).parent.parent


class CopyCase(SynchronousTestCase):
    """
    A test with a copy of some files and folders of the tree.

    @cvar copied: Their paths.
    @ivar root: Where the copy is.
    """

    copied: ClassVar[tuple[str, ...]]

    def setUp(self) -> None:
        """
        Make the copy.
        """
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        self.root = Path(made.name)
        for path in self.copied:
            source, target = CHECKOUT / path, self.root / path
            if source.is_file():
                shutil.copy(source, target)
                continue
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, target, ignore=ignored)

    def edit(self, file: str, old: str, new: str) -> None:
        """
        Change the one place of a file in which something stands.
        """
        path = self.root / file
        text = path.read_text("utf-8")
        self.assertEqual(text.count(old), 1, f"{old!r} in {file}")
        path.write_text(text.replace(old, new), "utf-8")

    def run_(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """
        Run Python in the copy.
        """
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.root,
            env={**environment(), "PYTHONPATH": str(self.root)},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
