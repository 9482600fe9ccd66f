"""
The tests of a gateway, with its log on a real PostgreSQL.
"""

from collections.abc import Iterator

import pytest

from tests import (
    test_gateway_contradictions,
    test_gateway_runtime,
    test_gateway_twophase,
)
from tests.gatewaymodel import World
from tests.gateways import GatewayTestCase
from tests.postgres.gateways import HeldPostgresLog

pytestmark = [pytest.mark.proof, pytest.mark.timeout(120)]


def _suites() -> Iterator[type[GatewayTestCase]]:
    for module in (
        test_gateway_contradictions,
        test_gateway_runtime,
        test_gateway_twophase,
    ):
        classes = [each for each in vars(module).values() if isinstance(each, type)]
        for each in classes:
            if each.__module__ == module.__name__ and issubclass(each, GatewayTestCase):
                yield each


def _onPostgres(suite: type[GatewayTestCase]) -> type[GatewayTestCase]:
    members = {"makeLog": HeldPostgresLog, "__module__": __name__}
    return type(f"{suite.__name__}OnPostgres", (suite,), members)


globals().update({each.__name__: each for each in map(_onPostgres, _suites())})


class WorldOnPostgres(World):
    """
    A world whose gateway has its log on PostgreSQL.
    """

    makeLog = HeldPostgresLog


@pytest.mark.parametrize("seed", range(12))
def test_world(seed: int) -> None:
    """
    In no world is a request booked twice, a client told something wrong, a change
    missed, or an operation held without a cause.
    """
    world = WorldOnPostgres(seed)
    world.run(150)
    assert world.wrong == []
