"""
What the connection to the platform counts, for the metrics and the console.
"""

from collections import deque
from typing import Final

from attrs import Factory, define

from creditsync.counters import Histogram

# Replies by which the console shows how fast the platform is.
_RECENT: Final = 100


@define
class Figures:
    """
    What the connection counts.

    @ivar lost: Replies that did not come in time.
    @ivar late: Replies that came after that.
    @ivar doubled: Replies that came again.
    @ivar dropped: Lines that were neither a reply to a request nor a trade event.
    @ivar since: When the connection became what it is, by the clock.
    @ivar took: Seconds from a request to its reply, unless that was lost.
    @ivar recent: The same of the last replies.
    """

    connections: int = 0
    requests: int = 0
    events: int = 0
    lost: int = 0
    late: int = 0
    doubled: int = 0
    dropped: int = 0
    since: float = 0.0
    took: Histogram = Factory(Histogram)
    recent: deque[float] = Factory(lambda: deque(maxlen=_RECENT))

    def replied(self, seconds: float) -> None:
        """
        A reply has come in time.
        """
        self.took.add(seconds)
        self.recent.append(seconds)
