"""
For machines: the metrics, whether the process is alive, whether it serves.

None of these requires a sign-in, as monitoring systems have no token.
"""

from prometheus_client.registry import CollectorRegistry
from twisted.logger import Logger
from twisted.web.http import Request

from creditsync.metrics import Metrics, exposition
from creditsync.web._origins import Origins
from creditsync.web._responses import (
    SiteResource,
    header,
    printable,
    respond,
    respondError,
)

_log = Logger()


class MetricsPage(SiteResource):
    """
    C{GET metrics}.
    """

    def __init__(self, registry: CollectorRegistry, origins: Origins) -> None:
        super().__init__()
        self._registry = registry
        self._origins = origins

    def render_GET(self, request: Request) -> bytes:
        """
        All metrics, in the format that the scraper accepts.
        """
        if self._origins.isRebound(request):
            return misdirected(request, self._origins)
        accept = header(request, "Accept")
        text, contentType = exposition(self._registry, accept)
        request.setHeader(b"Content-Type", contentType.encode("ascii"))
        return text


class HealthPage(SiteResource):
    """
    C{GET health}: any answer at all means healthy.
    """

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()
        self._metrics = metrics

    def render_GET(self, request: Request) -> bytes:
        """
        200, and the reactor's lag at the last measurement.
        """
        return respond(
            request,
            200,
            {"status": "ok", "lag": round(self._metrics.reactorLag.last, 6)},
        )


class ReadyPage(SiteResource):
    """
    C{GET ready}: whether requests are served (L{Metrics.problem}).
    """

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()
        self._metrics = metrics

    def render_GET(self, request: Request) -> bytes:
        """
        200, or 503 and why not.
        """
        reason = self._metrics.problem()
        if reason is None:
            return respond(request, 200, {"status": "ready"})
        return respond(request, 503, {"status": "not ready", "reason": reason})


def misdirected(request: Request, origins: Origins) -> bytes:
    """
    Refuse a request for a host name that is not this site's.
    """
    host = printable(header(request, "Host"))
    _log.warn(
        "/metrics for {peer} is refused: it was requested under the name {host}, which"
        " is neither an address nor in --web-origin.",
        peer=origins.client(request),
        host=host,
    )
    message = f"{host} is not a name of this site: use its address, or --web-origin"
    return respondError(request, 403, "FORBIDDEN", message)
