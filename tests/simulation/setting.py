"""
The choices of a seed: which faults may happen, how tight the limits are and
how fast everything is.
"""

from random import Random
from typing import Any

from attrs import define, evolve

from creditsync.records import Limits
from tests.simulation.limiting import SiteRule, rulesOf
from tests.simulation.network import Conditions

# The clients that follow the journal have the numbers after those of all others.
CLIENTS, READERS = 7, 2

# The accounts, and the groups to which they are moved.
LOGINS = (1001, 1002, 1003, 2**53 - 1)
GROUPS = ("", "real", "real", "real-vip", "demo", "Real", "demo-real")

# Every kind of fault, with a description.
FAULTS = {
    "cut": "a line arrives in pieces",
    "delay": "the network takes its time",
    "short-write": "the system takes only a part of what is written",
    "dropped-by-client": "a client goes without a word",
    "dropped-by-net": "a connection breaks, with what is under way",
    "half-close": "a client ends its side and reads on",
    "stall": "a client does not read",
    "cut-off": "the server cuts off a client that does not read",
    "unfinished-line": "a line is not finished in time",
    "too-long": "a line is too long",
    "burst": "a client sends many requests at once",
    "duplicate-extid": "an extID is used again while it waits",
    "retry": "a key is used again",
    "other-content": "a key is used again for something else",
    "wrong": "a request is wrong",
    "expired": "a token expires",
    "revoked": "a token is revoked",
    "over-limit": "a request is refused because there are too many",
    "slow-start": "a ledger takes seconds to open",
    "slow-commit": "a commit takes seconds",
    "commit-errs-before": "a commit errs and wrote nothing",
    "commit-errs-after": "a commit errs after it wrote all",
    "sync-errs": "a sync of the disk fails",
    "torn-commit": "the power is cut inside of a commit",
    "power-cut": "the power is cut",
    "kill": "the process is killed",
    "stop": "the server is stopped under load",
    "clock-step": "the wall clock is set forward",
    "clock-step-back": "the wall clock is set back",
    "observer-fails": "an observer of events raises",
    "reserved-later": "a foreign runtime reserves later",
    "refused-later": "a foreign runtime refuses later",
    "reservation-fails": "a foreign runtime fails to reserve",
    "runtime-fails": "a foreign runtime fails for good",
    "unmarked-event": "a foreign event is not marked with its operation",
    "late-event": "a foreign event comes after the timeout",
    "repeated-event": "a foreign event comes twice",
    "missing-event": "a foreign event never comes",
    "unasked-event": "a foreign event was caused by nobody here",
    "unwritable-event": "a foreign event can't be written",
    "slow-page": "a page of the journal takes its time",
    "page-errs": "a page of the journal can't be read",
    "other-place": "a place is of no ledger, of another one, or ahead",
    "dropped-in-page": "a client goes in the middle of a page of the journal",
    "dropped-in-commit": "a client goes in the middle of a commit",
    "restricted": "tokens are restricted to some of the accounts",
    "token-changed": "a client goes on with another token",
    "moved": "an account is moved to another group",
    "over-rule": "a rule of the site does not allow an operation",
    "rules-read-again": "the rules of the site are read again",
    "four-eyes": "a finance request is made, approved or declined",
    "decided-together": "a finance request is decided by several at once",
}


@define
class Plan:
    """
    The run to simulate: a seed, or less than it to find out what matters.

    @ivar without: Faults that may not happen although the seed has them.
    @ivar absent: Numbers of clients that do nothing.
    """

    seed: int
    requests: int = 500
    without: frozenset[str] = frozenset()
    absent: frozenset[int] = frozenset()


@define
class Setting:
    """
    A seed's choices.

    @ivar isForeign: Whether the server works on a foreign trading runtime.
    @ivar isMarked: Whether that marks its events with their operations.
    @ivar pace: Seconds between a client's doings, on average.
    @ivar speed: The greatest usual duration of a commit, in seconds.
    @ivar clients: How many clients there are.
    @ivar requests: How many requests they send in all, beside the last retries.
    @ivar readers: How many clients follow the journal.
    @ivar page: How many events a page of the journal has.
    @ivar requiresGroups: Whether a token that could have groups and names none has no
        accounts.
    @ivar hasGroups: Whether accounts have groups.
    @ivar groups: Those of accounts that there are at first.
    @ivar rules: How much the site allows to be booked.
    """

    isForeign: bool
    isMarked: bool
    isExtIDIdempotent: bool
    limits: Limits
    conditions: Conditions
    pace: float
    speed: float
    clients: int
    requests: int
    readers: int
    page: int
    requiresGroups: bool
    hasGroups: bool
    groups: dict[int, str]
    rules: tuple[SiteRule, ...]


def faultsOf(seed: int) -> frozenset[str]:
    """
    The faults that a seed may have: none in some, all in some, else a half.
    """
    random = Random(f"faults of {seed}")
    share = random.choice((0.0, 0.3, 0.5, 0.5, 0.7, 1.0))
    return frozenset(fault for fault in FAULTS if random.random() < share)


def settingOf(
    random: Random, requests: int, isRestricted: bool, hasRules: bool
) -> Setting:
    """
    Draw a setting.

    @param isRestricted: Whether tokens are restricted to some of the accounts.
    @param hasRules: Whether the site has rules, unless the runtime is a foreign one.
    """
    isForeign, isMarked = random.random() < 0.2, random.random() < 0.6
    hasGroups = not isForeign or (isRestricted and random.random() < 0.5)
    isExtIDIdempotent = random.random() < 0.1
    limits = _limits(random)
    return Setting(
        isForeign=isForeign,
        isMarked=isMarked,
        isExtIDIdempotent=isExtIDIdempotent,
        limits=limits,
        conditions=Conditions(
            latency=random.choice((0.0, 0.001, 0.02, 0.3)),
            grain=random.choice((0.0, 0.001, 0.01)),
            window=random.choice((2_000, 10_000, 100_000)),
            buffer=random.choice((1_000, 10_000, 65_536)),
        ),
        pace=random.choice((0.02, 0.1, 0.5)),
        speed=random.choice((0.0, 0.002, 0.05, 0.5, 6.0)),
        clients=random.randint(3, CLIENTS),
        requests=requests,
        # Each keeps a connection, and at least one is left for all others.
        readers=0 if isForeign else min(READERS, limits.maxConnections - 1),
        page=random.choice((1, 3, 16, 128)),
        requiresGroups=isRestricted and random.random() < 0.3,
        hasGroups=hasGroups,
        groups=(
            {login: random.choice(GROUPS) for login in LOGINS if random.random() < 0.8}
            if isRestricted and hasGroups
            else {}
        ),
        rules=rulesOf(random) if hasRules and not isForeign else (),
    )


def _limits(random: Random) -> Limits:
    """
    Limits of which some are tight.
    """
    limits = Limits(maxLineLength=2_000, stopTimeout=random.choice((1.0, 6.0, 10.0)))
    tight: dict[str, Any] = {
        "maxPending": random.randint(2, 12),
        "maxPendingPerSession": random.randint(1, 6),
        "maxQueued": random.randint(1, 10),
        "maxUnread": random.randint(500, 5_000),
        "maxConnections": random.randint(2, 6),
        "linesPerTurn": random.randint(1, 4),
        "lineTimeout": random.uniform(1.0, 10.0),
    }
    chosen = {name: value for name, value in tight.items() if random.random() < 0.25}
    return evolve(limits, **chosen)
