"""
The root of the site: all its pages.
"""

import secrets
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from prometheus_client.registry import CollectorRegistry
from twisted.internet.defer import Deferred

from creditsync.metrics import Metrics
from creditsync.metrics import registry as ownRegistry
from creditsync.web._feed import Feed
from creditsync.web._gateway import HeldPage
from creditsync.web._history import History
from creditsync.web._origins import Origins, normalized
from creditsync.web._page import Folder
from creditsync.web._probes import HealthPage, MetricsPage, ReadyPage
from creditsync.web._responses import SiteResource
from creditsync.web._search import Searching, SearchPage
from creditsync.web._signing import Attempts, SessionPage, SignIns

if TYPE_CHECKING:
    from creditsync.ledger._searching import Found


class Root(SiteResource):
    """
    All pages of one server. Call L{start} and L{stop} with the site.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        run: "Callable[[Callable[[], Found]], Deferred[Found]]",
        ledger: str | None = None,
        registry: CollectorRegistry | None = None,
        origins: Iterable[str] = (),
        instance: str | None = None,
    ) -> None:
        """
        @param run: Runs a blocking function in a thread.
        @param ledger: The path of the SQLite ledger in which logins and keys
            are searched, or the address of a PostgreSQL.
        @param registry: What C{metrics} serves; by default these metrics and
            those of the process.
        @param origins: Those under which a proxy serves this site, such as
            C{https://console.example.com}.
        @param instance: A name that tells this site from all others, after a
            restart too; by default it lasts until then. Cookies are named by it.
        @raise ValueError: One of the origins is not an origin.
        """
        super().__init__()
        self._metrics = metrics
        self._history = History(metrics)
        known = Origins(frozenset(map(normalized, origins)))
        signIns = SignIns(
            metrics.service.sessions.authenticator,
            known,
            instance or secrets.token_hex(16),
            Attempts(metrics.clock),
            metrics.service.isRestricted,
        )
        self._feed = Feed(metrics, signIns, self._history)
        static = Folder()
        searching = Searching(metrics, ledger, run)
        for name, page in {
            b"": static.children[b"index.html"],
            b"static": static,
            b"metrics": MetricsPage(registry or ownRegistry(metrics), known),
            b"health": HealthPage(metrics),
            b"ready": ReadyPage(metrics),
            b"session": SessionPage(signIns),
            b"feed": self._feed,
            b"search": SearchPage(signIns, searching),
            b"held": HeldPage(signIns, metrics.service),
        }.items():
            self.putChild(name, page)

    def start(self) -> None:
        """
        Measure and record from now on.
        """
        self._metrics.reactorLag.start()
        self._history.start()

    def stop(self) -> None:
        """
        End the feeds, and stop measuring.
        """
        self._metrics.reactorLag.stop()
        self._history.stop()
        self._feed.stop()
