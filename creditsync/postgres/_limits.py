"""
The rules of a site on PostgreSQL.

What a rule binds is known to the database by its conditions: a row of the table C{rule}
for each that some node has. All nodes add up what meets them, so a sum holds for all of
them, whatever each has in its own file. What a rule allows is each node's own business,
and goes with each batch. A node registers its rules again every day, and what no node
has registered for a week ends.
"""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

import psycopg
from msgspec.json import encode

from creditsync._bookingrules import Rule
from creditsync._masks import patternsOf
from creditsync.codes import SECONDS_PER_DAY
from creditsync.methods import METHOD_OF
from creditsync.postgres._connection import Connection
from creditsync.postgres._schema import AGAIN, STREAM

# Each waits for the stream as long as a lock is waited for.
_TRIES: Final = 5

# The SQLSTATE of a batch by a rule that has ended, as its node was away for a week.
UNREGISTERED: Final = "CS002"
# It needs no lock that a batch waits for: nothing counts on a day that is over.
_FORGET: Final = "DELETE FROM counted WHERE day < %s"

REGISTER: Final = "SELECT register_1(%s, %s, %s::text[], %s::json[])"


async def register(connection: Connection, rules: Sequence[Rule], now: int) -> None:
    """
    Register the conditions of rules, and delete what has counted more than a week ago.

    @param now: The time, in UNIX seconds.
    """
    for left in reversed(range(_TRIES)):
        try:
            await connection.execute(REGISTER, registered(rules, now))
            await connection.execute(_FORGET, [now // SECONDS_PER_DAY - 7])
            return
        except psycopg.Error as e:
            if e.sqlstate not in AGAIN or not left:
                raise


def registered(rules: Sequence[Rule], now: int) -> tuple[Any, ...]:
    """
    The parameters of L{REGISTER}.
    """
    texts = [_definition(rule) for rule in rules]
    return STREAM, now, [idOf(rule) for rule in rules], texts


def allowed(rules: Sequence[Rule]) -> tuple[list[Any], ...]:
    """
    What rules allow, as a batch says it.
    """
    return (
        [idOf(rule) for rule in rules],
        [rule.maxAmount for rule in rules],
        [rule.maxPerDay for rule in rules],
        [rule.mayBeRequested for rule in rules],
    )


@lru_cache(maxsize=1000)
def idOf(rule: Rule) -> str:
    """
    What tells conditions apart.
    """
    return sha256(_definition(rule).encode()).hexdigest()[:32]


@lru_cache(maxsize=1000)
def _definition(rule: Rule) -> str:
    """
    The conditions of a rule, in JSON: the columns of the table C{rule}.
    """
    patterns = None if rule.groups is None else patternsOf(rule.groups)
    return encode(
        {
            "counts": rule.maxPerDay is not None,
            "per": rule.per,
            "roles": _sorted(rule.roles),
            "principals": _sorted(rule.principals),
            "logins": _sorted(rule.logins),
            "booked": _bits(rule, False),
            "deleted": _bits(rule, True),
            "patterns": patterns and [_like(parts) for _, parts in patterns],
            "excludes": patterns and [not isSelected for isSelected, _ in patterns],
        }
    ).decode()


def _sorted(values: frozenset[int] | None) -> list[int] | None:
    return None if values is None else sorted(values)


def _bits(rule: Rule, isDeletion: bool) -> int | None:
    """
    The cmds whose trades the commands of a rule make, or delete.
    """
    if rule.commands is None:
        return None
    return sum(
        1 << cmd
        for (cmd, deletes), name in METHOD_OF.items()
        if deletes == isDeletion and name in rule.commands
    )


def _like(parts: Sequence[str]) -> str:
    return "%".join(part.translate(_ESCAPED) for part in parts)


_ESCAPED: Final = str.maketrans({each: f"\\{each}" for each in "\\%_"})
