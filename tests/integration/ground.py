"""
Tests for the rules of L{tests.conftest} and L{tests.deadlines}, in test runs
of their own::

    python -m pytest tests/integration/ground.py

They wait for time limits to pass, so that they take as long as a third of all other
tests, and are not collected with those; C{.ci/run} runs them.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SynchronousTestCase

import tests.deadlines

ROOT = Path(tests.deadlines.__file__).parent.parent

HANGING = """
import signal
import time

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase


def test_before():
    pass


@pytest_twisted.ensureDeferred
async def test_coroutine():
    try:
        await Deferred()
    finally:
        print("The coroutine's end was run.")


@pytest_twisted.inlineCallbacks
def test_generator():
    yield Deferred()


def test_returned():
    return Deferred()


@pytest_twisted.ensureDeferred
async def test_everyTryHangs():
    while True:
        try:
            await Deferred()
        except CancelledError:
            pass


@pytest_twisted.ensureDeferred
async def test_passesTooLate():
    try:
        await Deferred()
    except CancelledError:
        pass


@pytest_twisted.async_fixture
async def neverReady():
    await Deferred()


def test_setUp(neverReady):
    pass


@pytest_twisted.async_yield_fixture
async def neverGone():
    yield
    await Deferred()


def test_tearDown(neverGone):
    pass


def test_blocksTheReactor():
    time.sleep(60)


class HangingTests(SynchronousTestCase):
    def test_synchronous(self):
        time.sleep(60)

    def test_caught(self):
        started = Deferred()
        started.addCallback(lambda _: time.sleep(60))
        started.addErrback(lambda _: None)
        started.callback(None)


@pytest_twisted.ensureDeferred
async def test_after():
    fires = Deferred()
    reactor.callLater(0, fires.callback, None)
    await fires
"""

# Trial runs the reactor itself for these, which nothing else may run then.
TRIAL = """
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase


class HangingTests(TestCase):
    def test_hangs(self):
        return Deferred()

    def test_hangsAtTheEnd(self):
        self.addCleanup(Deferred)

    def test_passes(self):
        fires = Deferred()
        reactor.callLater(0, fires.callback, None)
        return fires
"""

DEAF = """
import signal
import time


def test_deaf():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(60)


def test_after():
    pass
"""

SKIPPED = """
import unittest

import pytest


@pytest.mark.skipif(True, reason="no Chromium")
def test_mark():
    pass


@unittest.skipUnless(False, "no Node")
class SkippedTests(unittest.TestCase):
    def test_class(self):
        pass


class RaisingTests(unittest.TestCase):
    def test_raises(self):
        self.skipTest("no rustc")


@pytest.mark.xfail
def test_expected():
    assert False
"""

SKIPPED_MODULE = """
import pytest

pytest.skip("no PostgreSQL", allow_module_level=True)
"""

CHILD = """
import signal
import subprocess
import sys

import pytest

WAITS = "import time; print(flush=True); time.sleep(60)"


@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM"])
def test_child(name):
    number = signal.Signals[name]
    command = [sys.executable, "-c", WAITS]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    child.stdout.readline()
    signal.raise_signal(number)
    child.send_signal(number)
    assert child.wait(20) == -number
    child.stdout.close()
"""


def ignoreSignals() -> None:
    """
    Ignore signals as a shell does for a background job, and C{nohup}.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class GroundTests(SynchronousTestCase):
    """
    Runs of pytest with this project's configuration.
    """

    def setUp(self) -> None:
        """
        Make an empty project.
        """
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "conftest.py").write_text("from tests.conftest import *\n")
        self.output = ""

    def run_(
        self,
        source: str,
        *options: str,
        environment: dict[str, str] | None = None,
        before: Callable[[], None] | None = None,
    ) -> dict[str, str]:
        """
        Run the tests of a module.

        @return: The outcome of each test, by its name.
        """
        (self.folder / "test_it.py").write_text(source)
        inherited = {n: v for n, v in os.environ.items() if n != "CI"}
        inherited.pop("PYTEST_XDIST_WORKER", None)
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-c", ROOT / "setup.cfg"),
                *("--rootdir", self.folder, "--color=no", "-p", "no:cacheprovider"),
                *("-rA", "--timeout=1", *options, self.folder),
            ],
            env={**inherited, "PYTHONPATH": str(ROOT), **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=55,
            preexec_fn=before,
        )
        self.output = ended.stdout
        summary = self.output.partition("short test summary info")[2]
        found = re.findall(r"^([A-Z]+) \S*test_it\.py(\S*)", summary, re.MULTILINE)
        return {name.rpartition("::")[2]: outcome for outcome, name in found}

    def assertHangingFail(self, *options: str) -> None:
        """
        Assert that the tests that hang fail by name, and no others do.
        """
        self.assertEqual(
            self.run_(HANGING, *options),
            {
                "test_before": "PASSED",
                "test_coroutine": "FAILED",
                "test_generator": "FAILED",
                "test_returned": "FAILED",
                "test_everyTryHangs": "FAILED",
                "test_passesTooLate": "FAILED",
                "test_setUp": "ERROR",
                "test_tearDown": "ERROR",
                "test_blocksTheReactor": "FAILED",
                "test_synchronous": "FAILED",
                "test_caught": "FAILED",
                "test_after": "PASSED",
            },
            self.output,
        )
        self.assertIn("The coroutine's end was run.", self.output)
        self.assertRegex(self.output, r">       await Deferred\(\)\n")

    def test_hanging(self) -> None:
        """
        A test that waits for something that never happens ends within its
        time, and the tests after it are run.
        """
        self.assertHangingFail("-n0")

    def test_hangingInWorkers(self) -> None:
        """
        A test that hangs in a process of pytest-xdist ends within its time.
        """
        self.assertHangingFail("-n2")

    def test_hangingInTrial(self) -> None:
        """
        Trial's asynchronous tests end within their time too.
        """
        expected = {
            "test_hangs": "FAILED",
            "test_hangsAtTheEnd": "FAILED",
            "test_passes": "PASSED",
        }
        for option in ("-n0", "-n1"):
            self.assertEqual(self.run_(TRIAL, option), expected, self.output)

    def test_deaf(self) -> None:
        """
        A test that no alarm can interrupt loses its process and is named, and
        the others are run in a new one.
        """
        options = ("-n1", "-o", "faulthandler_timeout=2")
        outcomes = self.run_(DEAF, *options)
        self.assertEqual(
            outcomes, {"test_deaf": "FAILED", "test_after": "PASSED"}, self.output
        )

    def test_skippedInCI(self) -> None:
        """
        In CI a skipped test fails, and names what it lacks.
        """
        outcomes = self.run_(SKIPPED, "-n0", environment={"CI": "true"})
        self.assertEqual(
            outcomes,
            {
                "test_mark": "ERROR",
                "test_class": "ERROR",
                "test_raises": "FAILED",
                "test_expected": "XFAIL",
            },
            self.output,
        )
        for reason in ("no Chromium", "no Node", "no rustc"):
            self.assertIn(
                f"In CI no test may be skipped. Skipped: {reason}", self.output
            )

    def test_skippedModuleInCI(self) -> None:
        """
        In CI a skipped module fails, and names what it lacks.
        """
        outcomes = self.run_(SKIPPED_MODULE, "-n1", environment={"CI": "true"})
        self.assertEqual(outcomes, {"": "ERROR"}, self.output)

    def test_skippedElsewhere(self) -> None:
        """
        Outside CI a skipped test is skipped.
        """
        self.run_(SKIPPED, "-n0")
        self.assertIn("3 skipped, 1 xfailed in", self.output)

    def test_ignoredSignals(self) -> None:
        """
        Signals that are ignored by C{nohup}, or by a shell for its background
        jobs, still reach the processes that tests start.
        """
        for option in ("-n0", "-n1"):
            outcomes = self.run_(CHILD, option, "--timeout=30", before=ignoreSignals)
            self.assertEqual(
                outcomes,
                {
                    "test_child[SIGHUP]": "PASSED",
                    "test_child[SIGINT]": "PASSED",
                    "test_child[SIGQUIT]": "PASSED",
                    "test_child[SIGTERM]": "PASSED",
                },
                self.output,
            )
