"""
How a reply that breaks a rule is reported.
"""

from tests.simulation.history import Attempt
from tests.simulation.world import Violation


def blame(rule: str, message: str, attempt: Attempt) -> Violation:
    """
    The fault in the reply to a request.
    """
    return Violation(
        rule,
        f"{message}: {attempt.intent.command} {attempt.extID} on"
        f" {attempt.talk.name} got {attempt.reply and attempt.reply.raw!r}",
        (attempt.extID or attempt.talk.name, attempt.talk.name),
    )
