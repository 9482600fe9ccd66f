"""
The platform's refusals, as the gateway's clients get them.
"""

from creditsync.errors import Refusal, TechProblem
from creditsync.gateway._outcomes import Kind, Outcome


class PlatformRefusal(Refusal):
    """
    The platform has refused the operation; its status, its error and its message are
    those of the reply.
    """

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(f"the platform: {outcome.message}")
        self.status = outcome.status
        self.error = outcome.error


class Declined(Refusal):
    """
    Somebody at the platform has declined the finance request of an operation.
    """

    status, error = 409, "DECLINED"

    def __init__(self, order: int) -> None:
        super().__init__(f"order {order} was declined at the platform")


def platformRefusal(outcome: Outcome) -> Refusal:
    """
    What a client gets for a refusal.
    """
    if outcome.kind is Kind.TOKEN:
        # It is the gateway's token, not the client's.
        return TechProblem("the platform refuses the gateway's token")
    return PlatformRefusal(outcome)
