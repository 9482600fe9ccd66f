"""
The state of a node, for its metrics.
"""

from collections.abc import Collection

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from creditsync.interfaces import INode
from creditsync.postgres._connection import Connection
from creditsync.postgres._doorbell import Doorbell
from creditsync.postgres._feed import Feed
from creditsync.postgres._lane import Lane
from creditsync.postgres._starting import IS_SYNCHRONOUS

# Seconds between two looks at what may be changed while the server runs.
_LOOK: float = 5.0


@implementer(INode)
@define(eq=False)
class NodeState:
    """
    What is known of a node.
    """

    _clock: IReactorTime
    _lanes: Collection[Lane]
    _feed: Feed
    _doorbell: Doorbell
    isSynchronous: bool = field(init=False, default=False)
    _lookedAt: float | None = field(init=False, default=None)

    async def look(self, connection: Connection) -> None:
        """
        Ask the server, if that was not done just now.
        """
        now = self._clock.seconds()
        if self._lookedAt is None or now - self._lookedAt >= _LOOK:
            self._lookedAt = now
            [(self.isSynchronous,)] = await connection.execute(IS_SYNCHRONOUS)

    @property
    def laneCount(self) -> int:
        """
        See L{INode.laneCount}.
        """
        return len(self._lanes)

    @property
    def unknowns(self) -> int:
        """
        See L{INode.unknowns}.
        """
        return sum(lane.unknowns for lane in self._lanes)

    @property
    def retries(self) -> int:
        """
        See L{INode.retries}.
        """
        return sum(lane.retries for lane in self._lanes)

    @property
    def isHeard(self) -> bool:
        """
        See L{INode.isHeard}.
        """
        return self._doorbell.isHeard

    @property
    def rings(self) -> int:
        """
        See L{INode.rings}.
        """
        return self._doorbell.heardRings

    @property
    def held(self) -> int:
        """
        See L{INode.held}.
        """
        return self._feed.held

    @property
    def readAge(self) -> float:
        """
        See L{INode.readAge}.
        """
        return self._clock.seconds() - self._feed.readAt
