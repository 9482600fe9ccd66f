"""
What machines ask: the metrics, whether the process lives, whether it serves.

None of these asks for a sign-in, as those who ask have none to give.
"""

from prometheus_client.registry import CollectorRegistry
from twisted.logger import Logger
from twisted.web.http import Request

from creditsync.metrics import Metrics, exposition
from creditsync.web._answers import Answer, answer, header, printable, problem
from creditsync.web._origins import Origins

_log = Logger()


class MetricsPage(Answer):
    """
    C{GET metrics}.
    """

    def __init__(self, registry: CollectorRegistry, origins: Origins) -> None:
        super().__init__()
        self._registry = registry
        self._origins = origins

    def render_GET(self, request: Request) -> bytes:
        """
        All metrics, in the format that is asked for.
        """
        if self._origins.isRebound(request):
            return misdirected(request, self._origins)
        accept = header(request, "Accept")
        text, contentType = exposition(self._registry, accept)
        request.setHeader(b"Content-Type", contentType.encode("ascii"))
        return text


class HealthPage(Answer):
    """
    C{GET health}: to answer at all is to be healthy.
    """

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()
        self._metrics = metrics

    def render_GET(self, request: Request) -> bytes:
        """
        200, and how late the reactor was the last time that it was looked at.
        """
        return answer(
            request, 200, {"status": "ok", "lag": round(self._metrics.pulse.lag, 6)}
        )


class ReadyPage(Answer):
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
            return answer(request, 200, {"status": "ready"})
        return answer(request, 503, {"status": "not ready", "reason": reason})


def misdirected(request: Request, origins: Origins) -> bytes:
    """
    Refuse a request under a name that is not known here.
    """
    host = printable(header(request, "Host"))
    _log.warn(
        "/metrics for {peer} is refused: it was asked for under the name {host},"
        " which is neither an address nor named by --web-origin.",
        peer=origins.client(request),
        host=host,
    )
    message = f"{host} is not a name of this site: use its address, or --web-origin"
    return problem(request, 403, "FORBIDDEN", message)
