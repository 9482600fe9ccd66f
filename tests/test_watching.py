"""
Tests for L{creditsync._watching}. What becomes of a file that can't be used is tested
with the files themselves: L{tests.test_revocations}, L{tests.test_jwks}.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from creditsync._watching import WatchedFile


class WatchedFileTests(SynchronousTestCase):
    """
    When a file is read.
    """

    def test_onlyIfChanged(self) -> None:
        """
        A file that has not changed is read again by a reload only.
        """
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = Path(folder.name) / "file"
        path.write_bytes(b"a")
        contents: list[bytes] = []
        file = WatchedFile(path, "things", contents.append, Logger())
        self.assertEqual(contents, [])
        file.read()
        file.refresh()
        self.assertEqual(contents, [b"a"])
        file.reload()
        file.refresh()
        self.assertEqual(contents, [b"a", b"a"])
        path.write_bytes(b"bc")
        file.refresh()
        file.refresh()
        self.assertEqual(contents, [b"a", b"a", b"bc"])
