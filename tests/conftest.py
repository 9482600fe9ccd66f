"""
Rules for all tests: each ends within its time, none is skipped unnoticed, and
signals reach the processes that they start.
"""

import os
import signal
from collections.abc import Generator
from typing import Any

import pytest

pytest_plugins = ("tests.deadlines",)


@pytest.fixture(scope="session", autouse=True)
def signalsAreNotIgnored() -> None:
    """
    Give the processes that tests start the default actions of signals.

    A shell's background job ignores SIGINT, C{nohup} ignores SIGHUP, and a
    child process inherits ignored signals. It doesn't inherit handlers, so
    these signals are handled here, by doing nothing.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def pytest_xdist_auto_num_workers() -> int:
    """
    Tests that run at once: two for each processor, as many of them wait for processes
    and disks.
    """
    return 2 * (os.cpu_count() or 1)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """
    In CI a skipped test fails: whatever it lacks has to be installed there.
    """
    return _neverSkipped((yield))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    """
    In CI a skipped module fails too.
    """
    return _neverSkipped((yield))


def _neverSkipped(report: Any) -> Any:
    isExpected = hasattr(report, "wasxfail")
    if report.skipped and not isExpected and os.environ.get("CI") == "true":
        *_, reason = report.longrepr
        report.outcome = "failed"
        report.longrepr = f"In CI no test may be skipped. {reason}"
    return report
