"""
Fixtures for pytest: a sandbox for the tests of those who integrate with a platform.

It is no plugin that pytest finds by itself, as others would pay for it. Name it in
C{conftest.py}::

    pytest_plugins = ["creditsync.pytest_plugin"]
"""

from collections.abc import Iterator

import pytest

from creditsync.sandbox import SandboxProcess


@pytest.fixture(scope="session")
def creditsync_sandbox_options() -> list[str]:
    """
    The options of the sandbox: none. Override this fixture to have some.
    """
    return []


@pytest.fixture(scope="session")
def creditsync_sandbox_process(
    creditsync_sandbox_options: list[str],
) -> Iterator[SandboxProcess]:
    """
    A sandbox for all tests.
    """
    with SandboxProcess(creditsync_sandbox_options) as process:
        yield process


@pytest.fixture
def creditsync_sandbox(
    creditsync_sandbox_process: SandboxProcess,
) -> SandboxProcess:
    """
    That sandbox, in which nothing goes wrong before the test says so. The ledger has
    what earlier tests have booked.
    """
    creditsync_sandbox_process.reset()
    return creditsync_sandbox_process
