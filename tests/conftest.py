"""
What holds for all tests: each ends within its time, none is skipped unnoticed,
and signals reach the processes that they start.
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
    Let the processes that tests start have signals' default actions.

    A shell's background job ignores SIGINT, C{nohup} has SIGHUP ignored, and
    a child process inherits what is ignored. It doesn't inherit what is handled,
    so here these signals are handled, by doing nothing.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """
    In CI a skipped test has failed: what it lacks has to be installed there.
    """
    return _neverSkipped((yield))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    """
    So has a skipped module.
    """
    return _neverSkipped((yield))


def _neverSkipped(report: Any) -> Any:
    isExpected = hasattr(report, "wasxfail")
    if report.skipped and not isExpected and os.environ.get("CI") == "true":
        *_, reason = report.longrepr
        report.outcome = "failed"
        report.longrepr = f"In CI no test may be skipped. {reason}"
    return report
