"""
Floods on a real server, for a moment each: L{tests.attack.floods}.

No latency is asserted here: the command prints them.
"""

from argparse import Namespace

import pytest

from tests.attack.attackers import QUICK
from tests.attack.floods import Innocent, Result, afterwards, attack, misses, serving
from tests.integration.processes import SERVE

pytestmark = pytest.mark.proof

SECONDS = 0.3


@pytest.mark.parametrize("name", [*QUICK[:4], "catch-ups from everywhere"])
def test_attack(name: str) -> None:
    """
    An attack reaches the server, and nothing goes wrong there.
    """
    result = attack(name, SERVE, SECONDS)
    assert result.wrong == []
    assert result.latencies
    assert result.peak >= result.before > 1
    assert int(result.done) > 0


def test_deadServer() -> None:
    """
    A server that does not survive an attack is reported.
    """
    with serving(SERVE) as server:
        innocent = Innocent(server.connect())
        innocent.ask(0.05)
        assert innocent.unanswered == 0
        assert innocent.refused == []
        server.process.kill()
        server.end()
        [wrong] = afterwards("a", server, innocent)
    assert wrong.startswith("a: nobody is served afterwards")


def test_misses() -> None:
    """
    Latencies and memory beyond the goals are reported.
    """
    options = Namespace(goal=20, memory=256)
    fine = Result("a", [0.001] * 999 + [0.5], before=60, peak=300)
    assert list(misses(fine, options)) == []
    bad = Result("a", [0.001] * 980 + [0.021] * 20, before=60, peak=317)
    assert list(misses(bad, options)) == [
        "a: the p99 is 21.00 ms",
        "a: the server took 317 MB",
    ]
    assert list(misses(Result("a", [], 60), options)) == ["a: nobody was answered"]
