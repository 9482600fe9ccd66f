"""
Tests for L{creditsync._locking}.
"""

import os
import threading
import time
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SynchronousTestCase

from creditsync import _locking as locking
from creditsync._locking import ALONE, TOGETHER, folderLocked


class FolderTests(SynchronousTestCase):
    """
    Tests for L{folderLocked}.
    """

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.now = 0.0

    def tires(self) -> None:
        """
        Let time pass only while the lock is waited for.
        """

        def sleep(seconds: float) -> None:
            self.now += seconds

        self.patch(locking.time, "monotonic", lambda: self.now)
        self.patch(locking.time, "sleep", sleep)

    def waits(self, how: int) -> float:
        """
        The seconds until it goes on.
        """
        began = self.now
        with folderLocked(self.folder, how):
            return self.now - began

    def test_alone(self) -> None:
        """
        While one has it alone, others wait, but not for ever.
        """
        self.tires()
        with folderLocked(self.folder, ALONE):
            self.assertApproximates(self.waits(ALONE), 2, 0.01)
            self.assertApproximates(self.waits(TOGETHER), 2, 0.01)
        self.assertEqual(self.waits(ALONE), 0)

    def test_together(self) -> None:
        """
        Those who only look don't wait for each other, and keep away those who
        act.
        """
        self.tires()
        with folderLocked(self.folder, TOGETHER):
            self.assertEqual(self.waits(TOGETHER), 0)
            self.assertApproximates(self.waits(ALONE), 2, 0.01)

    def test_waits(self) -> None:
        """
        Whoever waits goes on as soon as the other has let go.
        """
        held, went = threading.Event(), list[str]()

        def hold() -> None:
            with folderLocked(self.folder, ALONE):
                held.set()
                time.sleep(0.05)
                went.append("first")

        first = threading.Thread(target=hold)
        first.start()
        self.assertTrue(held.wait(20))
        with folderLocked(self.folder, ALONE):
            went.append("second")
        first.join()
        self.assertEqual(went, ["first", "second"])

    def test_noFolder(self) -> None:
        """
        A folder that can't be locked keeps nobody from their work.
        """
        with folderLocked("/nowhere", ALONE):
            pass

    def test_here(self) -> None:
        """
        The folder at hand has no name in a relative path.
        """
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        self.tires()
        with folderLocked("", ALONE):
            self.assertApproximates(self.waits(ALONE), 2, 0.01)

    def test_nothingLeft(self) -> None:
        """
        It leaves no file behind, and no descriptor.
        """
        before = os.listdir("/proc/self/fd")
        with folderLocked(self.folder, ALONE):
            pass
        self.assertEqual(os.listdir(self.folder), [])
        self.assertEqual(os.listdir("/proc/self/fd"), before)
