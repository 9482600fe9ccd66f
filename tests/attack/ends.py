"""
Compares the waits that must end with those that do, for both state machines.
"""

from collections.abc import Callable
from typing import Any

from attrs import Factory, define
from hypothesis.strategies import integers, sampled_from
from twisted.python.failure import Failure

TIMEOUT = 5.0
# The smallest time before or after something is due.
MOMENT = 2.0**-20

# Which one of several, and quarters of a second.
ANY = integers(0, 1_000_000)
PAUSES = sampled_from([0, 1, 1, 1, 2, 3, 5, 24])
DIFFERENCES = sampled_from([-MOMENT, 0.0, MOMENT])


@define
class Ends:
    """
    The waits that one call must end, in this order.
    """

    waits: list[Any]
    check: Callable[[object], bool]


@define
class Expectations:
    """
    The waits that the calls under way must end, the innermost call last.
    """

    _calls: list[Ends] = Factory(list)

    def during(self, ends: Ends, call: Callable[..., object], *args: object) -> None:
        """
        Make a call, and check that it ends all waits that it must.
        """
        self._calls.append(ends)
        call(*args)
        assert self._calls.pop() is ends
        assert not ends.waits, f"{len(ends.waits)} waits did not end"

    def ended(self, wait: object, result: object) -> None:
        """
        Record that a wait has ended.
        """
        assert self._calls, "a wait has ended by nothing"
        ends = self._calls[-1]
        assert ends.waits, "a wait has ended that should not"
        assert ends.waits.pop(0) is wait, "another wait has ended first"
        assert ends.check(result), f"a wait has ended with {result!r}"


def isFailure(kind: type[Exception]) -> Callable[[object], bool]:
    """
    Whether a result is a failure of this kind.
    """
    return lambda result: isinstance(result, Failure) and bool(result.check(kind))
