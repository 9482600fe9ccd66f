"""
Which accounts a token may see and touch: one rule for events, commands and look-ups.
"""

from functools import lru_cache

from creditsync.codes import FINANCE_SESSIONS
from creditsync.records import Principal


class Rights:
    """
    The rights of all tokens of a server.
    """

    def maySee(self, principal: Principal, login: int | None) -> bool:
        """
        Whether a token may see and touch an account.
        """
        return principal.role in FINANCE_SESSIONS or login == principal.id

    def seesGroup(self, principal: Principal, group: str) -> bool:
        """
        Whether a token may see all accounts of a group.
        """
        return principal.role in FINANCE_SESSIONS


@lru_cache(maxsize=10_000)
def matches(mask: str, group: str) -> bool:
    """
    Whether a mask selects a group: the first of its patterns that fits decides.
    """
    for each in mask.split(","):
        text = each.strip(" ")
        pattern = text.removeprefix("!").strip(" ")
        if text and _fits(pattern.split("*"), group):
            return pattern == text
    return False


def _fits(parts: list[str], group: str) -> bool:
    """
    Whether a group has these parts in their order, the first at its beginning and the
    last at its end.
    """
    first, *others = parts
    if not others:
        return group == first
    *between, last = others
    start, end = len(first), len(group) - len(last)
    if start > end or not (group.startswith(first) and group.endswith(last)):
        return False
    for part in between:
        found = group.find(part, start, end)
        if found < 0:
            return False
        start = found + len(part)
    return True
