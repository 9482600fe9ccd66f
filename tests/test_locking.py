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
        The seconds until the lock is acquired.
        """
        began = self.now
        with folderLocked(self.folder, how):
            return self.now - began

    def test_alone(self) -> None:
        """
        An exclusive lock makes others wait, but not for ever.
        """
        self.tires()
        with folderLocked(self.folder, ALONE):
            self.assertApproximates(self.waits(ALONE), 2, 0.01)
            self.assertApproximates(self.waits(TOGETHER), 2, 0.01)
        self.assertEqual(self.waits(ALONE), 0)

    def test_together(self) -> None:
        """
        Shared locks don't wait for each other, and exclude an exclusive one.
        """
        self.tires()
        with folderLocked(self.folder, TOGETHER):
            self.assertEqual(self.waits(TOGETHER), 0)
            self.assertApproximates(self.waits(ALONE), 2, 0.01)

    def test_waits(self) -> None:
        """
        A waiting lock is acquired as soon as the other one is released.
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
        A folder that can't be locked is used without a lock.
        """
        with folderLocked("/nowhere", ALONE):
            pass

    def test_here(self) -> None:
        """
        The current folder is locked too if the path is a bare file name.
        """
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.folder)
        self.tires()
        with folderLocked("", ALONE):
            self.assertApproximates(self.waits(ALONE), 2, 0.01)

    def test_nothingLeft(self) -> None:
        """
        The lock leaves no file and no descriptor behind.
        """
        before = os.listdir("/proc/self/fd")
        with folderLocked(self.folder, ALONE):
            pass
        self.assertEqual(os.listdir(self.folder), [])
        self.assertEqual(os.listdir("/proc/self/fd"), before)
