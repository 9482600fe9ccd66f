"""
The servers of these tests end with them.
"""

from tests.postgres import ground


def pytest_sessionfinish() -> None:
    """
    End those that all tests share.
    """
    ground.atEnd.close()
