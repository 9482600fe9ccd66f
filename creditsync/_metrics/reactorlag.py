"""
How late the reactor makes the calls that it was asked for.
"""

from typing import Final

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from creditsync.counters import Histogram

# Seconds between two measurements.
_PERIOD: Final = 0.25


@define(eq=False)
class ReactorLag:
    """
    Measures the lag of a reactor.

    @ivar last: Seconds by which the last call was late.
    @ivar histogram: All of them since the start.
    """

    _clock: IReactorTime
    last: float = field(init=False, default=0.0)
    histogram: Histogram = field(init=False, factory=Histogram)
    _call: IDelayedCall | None = field(init=False, default=None)

    def start(self) -> None:
        """
        Measure from now on.
        """
        self._call = self._clock.callLater(
            _PERIOD, self._called, self._clock.seconds() + _PERIOD
        )

    def stop(self) -> None:
        """
        Stop measuring.
        """
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _called(self, due: float) -> None:
        self.last = max(0.0, self._clock.seconds() - due)
        self.histogram.add(self.last)
        self.start()
