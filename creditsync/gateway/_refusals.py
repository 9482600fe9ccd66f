"""
The platform's refusals, as the gateway's clients get them.
"""

from typing import Any

from creditsync.errors import PlatformRefused, Refusal, TechProblem
from creditsync.gateway._outcomes import Kind, Outcome

# The platform's errors that mean the same here.
_KNOWN = {(kind.status, kind.error): kind for kind in Refusal.__subclasses__()}


def platformRefusal(outcome: Outcome) -> Refusal:
    """
    What a client gets for a refusal: the platform's own status, error and message where
    clients of this server know them.
    """
    if outcome.kind is Kind.TOKEN:
        # It is the gateway's token, not the client's.
        return TechProblem("the platform refuses the gateway's token")
    kind = _KNOWN.get((outcome.status, outcome.error), PlatformRefused)
    text = f"the platform: {outcome.message}"
    if kind is PlatformRefused:
        text = f"the platform: {outcome.status} {outcome.error}, {outcome.message}"
    refusal = kind.__new__(kind)
    # Some kinds make their message of what only this server knows.
    Refusal.__init__(refusal, text)
    # It was the platform's limit, not one of this server.
    refusal.limit = None
    return refusal


def declined(order: int) -> Refusal:
    """
    Somebody at the platform has declined an operation.
    """
    return PlatformRefused(f"order {order} was declined at the platform")


class PassedRefusal(PlatformRefused):
    """
    The platform has refused a command that was passed on. The client gets the
    platform's own words; here it counts as what it inherits from, because the names of
    a platform's errors have no bound.
    """

    def __init__(
        self, status: int, error: str, message: str, data: dict[str, Any] | None
    ) -> None:
        super().__init__(message, data)
        self._sent = status, error

    @property
    def sent(self) -> tuple[int, str]:
        """
        See L{Refusal.sent}.
        """
        return self._sent
