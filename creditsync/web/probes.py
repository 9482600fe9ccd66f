"""
What machines ask: the metrics, whether the process lives, whether it serves.

None of these asks for a sign-in, as those who ask have none to give.
"""

from prometheus_client.registry import CollectorRegistry
from twisted.web.http import Request

from creditsync.metrics import Metrics, exposition
from creditsync.web.answers import Answer, answer


class MetricsPage(Answer):
    """
    C{GET metrics}.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        self._registry = registry

    def render_GET(self, request: Request) -> bytes:
        """
        All metrics, in the format that is asked for.
        """
        accept = request.getHeader("Accept") or ""
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
        problem = self._metrics.problem()
        if problem is None:
            return answer(request, 200, {"status": "ready"})
        return answer(request, 503, {"status": "not ready", "reason": problem})
