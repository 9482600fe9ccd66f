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
    for isSelected, parts in _patterns(mask):
        if _fits(parts, group):
            return isSelected
    return False


# Few: clients send masks too, and one of a thousand characters takes 70 KB.
@lru_cache(maxsize=100)
def _patterns(mask: str) -> tuple[tuple[bool, list[str]], ...]:
    """
    The patterns of a mask: whether each selects or excludes, and its text, divided at
    the asterisks.
    """
    patterns = []
    for each in mask.split(","):
        text = each.strip(" ")
        pattern = text.removeprefix("!").strip(" ")
        # An empty one would select the accounts without a group: with a comma too
        # many, a token would have more accounts than was meant.
        if text:
            patterns.append((pattern == text, pattern.split("*")))
    return tuple(patterns)


def _fits(parts: list[str], group: str) -> bool:
    """
    Whether a group has these parts in their order, the first at its beginning and the
    last at its end. No regular expression: for one with many asterisks that would
    take too long.
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
