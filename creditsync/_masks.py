"""
Masks of groups, as the platform writes them: C{real\\*,!real\\vip,demo}.

A mask is a list of patterns, separated by commas. C{*} stands for any characters, and a
pattern that begins with C{!} excludes. The first that fits decides; case counts.
"""

from functools import lru_cache


@lru_cache(maxsize=10_000)
def matches(mask: str, group: str) -> bool:
    """
    Whether a mask selects a group. Exclusions alone select nothing.
    """
    for each in mask.split(","):
        text = each.strip(" ")
        pattern = text.removeprefix("!").strip(" ")
        # A comma too many must not select the accounts without a group.
        if text and _fits(pattern.split("*"), group):
            return pattern == text
    return False


def _fits(parts: list[str], group: str) -> bool:
    """
    Whether a group has these parts in their order, the first at its beginning and the
    last at its end. A regular expression with many asterisks would take too long.
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
