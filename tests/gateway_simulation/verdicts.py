"""
How the judges of a simulated world say what is wrong.
"""

from tests.simulation.world import Violation

# Without harm no look-up is needed to learn that something is booked, and its client
# learns it in a moment.
SOON = 1.0


def broken(rule: str, message: str, *about: str) -> Violation:
    """
    A rule is broken.

    @param about: Texts by which the lines of the trace are known that belong to it.
    """
    return Violation(rule, message, about)
