"""
One look at a server, for the metrics and the console.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, Final, TypeAlias, cast

from attrs import Factory, define
from twisted.internet.interfaces import IReactorTime

from creditsync import codes
from creditsync._approvals import Approvals
from creditsync._bookingrules import RulesFile
from creditsync._metrics.reactorlag import ReactorLag
from creditsync._transport.protocol import LineProtocol
from creditsync.auth import KeyFile
from creditsync.counters import Counters
from creditsync.errors import Unauthorized
from creditsync.interfaces import IClustered, INode, IQueue
from creditsync.records import Principal
from creditsync.revocations import Revocations
from creditsync.service import CreditSync

ROLES: Final = {number: name for name, number in codes.ROLES.items()}

Labels: TypeAlias = tuple[str, ...]


class Reading:
    """
    A server at one moment.
    """

    def __init__(
        self,
        clock: IReactorTime,
        service: CreditSync,
        runtime: IQueue | None,
        counters: Counters,
        reactorLag: ReactorLag,
        revocations: Revocations | None,
        keys: KeyFile | None,
        rules: RulesFile | None,
    ) -> None:
        self._runtime = runtime
        self._now = clock.seconds()
        self._revocations = revocations
        self._keys = keys
        self._rules = rules
        self.service = service
        self.counters = counters
        self.reactorLag = reactorLag

    @cached_property
    def gateway(self) -> dict[str, Any]:
        """
        The figures of a gateway, if the runtime is one.
        """
        figures: Callable[[], dict[str, Any]] | None
        figures = getattr(self.service.runtime, "gatewayFigures", None)
        return {} if figures is None else figures()

    @property
    def oldestWaiter(self) -> float:
        """
        Seconds for which the oldest request has waited; 0 if there is none.
        """
        oldest = next(iter(self.service.waiters), None)
        return 0.0 if oldest is None else self._now - oldest.since

    @property
    def node(self) -> INode:
        """
        The server as one of several.
        """
        runtime = self.service.runtime
        assert IClustered.providedBy(runtime)
        return cast(IClustered, runtime).state

    @property
    def queued(self) -> int:
        """
        How many operations wait for their commit, as far as this server knows.
        """
        return 0 if self._runtime is None else self._runtime.queued

    @property
    def oldestQueued(self) -> float:
        """
        Seconds for which the oldest of them has waited; 0 if there is none.
        """
        since = None if self._runtime is None else self._runtime.queuedSince
        return 0.0 if since is None else self._now - since

    @property
    def approvals(self) -> dict[Labels, int]:
        """
        How many finance requests wait for approval; nothing if that is not known.
        """
        approvals = self._approvals
        return {} if approvals is None else {(): len(approvals)}

    @property
    def oldestApproval(self) -> dict[Labels, float]:
        """
        Seconds for which the oldest of them has waited, 0 if there is none; nothing if
        that is not known.
        """
        approvals = self._approvals
        if approvals is None:
            return {}
        now, since = self.counters.now(), approvals.since
        return {(): 0.0 if since is None else max(0.0, now - since)}

    @property
    def _approvals(self) -> Approvals | None:
        approvals = self.service.approvals
        return None if approvals is None or not approvals.isComplete else approvals

    @cached_property
    def sessions(self) -> "SessionSums":
        """
        All connections. There may be tens of thousands: they are counted in one
        pass.
        """
        return SessionSums.of(self.service.factory.connections)

    @property
    def areRevocationsStale(self) -> bool:
        """
        Whether the file of revoked tokens can't be used as it is now.
        """
        return _isStale(self._revocations)

    @property
    def areKeysStale(self) -> bool:
        """
        Whether the JWK Set can't be used as it is now.
        """
        return _isStale(self._keys)

    @property
    def areLimitsStale(self) -> bool:
        """
        Whether the last reload of the rules of the site has failed.
        """
        return self._rules is not None and self._rules.isStale


def _isStale(file: Revocations | KeyFile | None) -> bool:
    if file is None:
        return False
    # On a server without requests nothing else would look.
    file.refresh()
    return file.problem is not None


@define
class SessionSums:
    """
    Sums over connections.

    @ivar roles: How many there are, by role.
    @ivar unread: Bytes that their clients have not read.
    @ivar stalled: How many are paused because their client is not reading.
    """

    roles: Counter[str] = Factory(Counter)
    unread: int = 0
    stalled: int = 0

    @classmethod
    def of(cls, connections: Iterable[LineProtocol]) -> "SessionSums":
        """
        Count.
        """
        sums = cls()
        for connection in connections:
            sums.roles[roleOf(connection.session.principal)] += 1
            sums.unread += connection.unread
            sums.stalled += connection.isStalled
        return sums


def roleOf(principal: Principal | None) -> str:
    """
    The role's name, or C{none} before the first valid token.
    """
    return "none" if principal is None else ROLES[principal.role]


def requestCounts(counters: Counters) -> dict[tuple[str, ...], int]:
    """
    How many requests were answered, by command, status and error.
    """
    counts: dict[tuple[str, ...], int] = {}
    refused: Counter[str] = Counter()
    for (command, status, error), count in counters.refusals.items():
        counts[command, str(status), error] = count
        refused[command] += count
    for command, histogram in counters.took.items():
        succeeded = sum(histogram.counts) - refused[command]
        if succeeded:
            counts[command, "200", ""] = succeeded
    return counts


def rejections(counters: Counters) -> int:
    """
    How many requests had no valid token.
    """
    return sum(
        count
        for (_, _, error), count in counters.refusals.items()
        if error == Unauthorized.error
    )
