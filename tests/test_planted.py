"""
Tests for L{tests.planted.bugs}: each patch replaces a part that the server has.

A patch of something that was renamed would change nothing, and its suite would be
blamed for not finding it; or it would only raise, and be found without the mistake
that it stands for.
"""

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.trial.unittest import SynchronousTestCase

from tests.planted.bugs import BUGS

pytestmark = pytest.mark.proof


def _owners() -> Iterator[Any]:
    """
    The modules of the server, and their classes.
    """
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "creditsync":
            yield module
            for value in list(vars(module).values()):
                if isinstance(value, type) and value.__module__ == name:
                    yield value


class PatchTests(SynchronousTestCase):
    """
    Tests for each patch alone.
    """

    def planted(self, name: str) -> dict[str, bool]:
        """
        Plant a bug, and remove it again.

        @return: What it replaced, each with whether that had existed.
        """
        before = [(owner, dict(vars(owner))) for owner in _owners()]
        existed = dict[str, bool]()
        try:
            BUGS[name].plant()
        finally:
            for owner, values in before:
                for member, value in list(vars(owner).items()):
                    if value is values.get(member):
                        continue
                    delattr(owner, member)
                    key = f"{owner.__name__}.{member}"
                    existed[key] = member in values or hasattr(owner, member)
                    if member in values:
                        setattr(owner, member, values[member])
        return existed

    def test_replaced(self) -> None:
        """
        Each bug replaces something, and only what exists.
        """
        for name in BUGS:
            with self.subTest(name):
                replaced = self.planted(name)
                self.assertTrue(replaced)
                self.assertEqual(replaced, dict.fromkeys(replaced, True))

    def test_undone(self) -> None:
        """
        Planting each bug and removing it again leaves the server as it was.
        """
        before = [(owner, dict(vars(owner))) for owner in _owners()]
        for name in BUGS:
            self.planted(name)
        for owner, values in before:
            self.assertEqual(dict(vars(owner)), values)
