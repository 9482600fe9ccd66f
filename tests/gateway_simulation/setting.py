"""
What a seed decides before anything happens: the way of the gateway, the faults, and how
often they happen.
"""

from random import Random
from typing import Final

from attrs import define, field

from creditsync._sandbox.booking import MAX_CUT
from creditsync._sandbox.table import FAULTS as SANDBOX_FAULTS
from creditsync._sandbox.table import Where
from creditsync.codes import MAX_COMMENT
from creditsync.validation import Schemas

# Compiled once: a world starts many servers.
SCHEMAS: Final = Schemas()

ONE_SHOT: Final = "one-shot"
TWO_PHASE: Final = "two-phase"

# Clients that request things.
CLIENTS: Final = 4

LOGINS: Final = (1001, 1002, 1003, 1004, 1005)

# The groups of the accounts, where the platform's groups count, before any moves.
GROUPS: Final = {login: "real-eur" if login % 2 else "demo" for login in LOGINS}

# For how many seconds the gateway takes a group for known, where accounts move.
FRESH: Final = 20.0

# What goes wrong besides what the sandbox's own script does.
OWN: Final = {
    "gateway-kill": "the gateway is killed at any moment",
    "gateway-point": "the gateway is killed before or after a line or a write",
    "gateway-stop": "the gateway is stopped in order, and started again",
    "platform-kill": "the platform is killed at any moment",
    "link-cut": "a connection to the platform is lost at any byte",
    "link-silence": "a connection to the platform carries nothing any more",
    "client-cut": "a client's connection is lost",
    "slow-disk": "a write of the gateway takes up to a second",
    "clock": "the clocks of the gateway and the platform differ",
    "renamed": "the platform has other names for some commands",
    "renamed-suddenly": "it has them for some time, and the gateway does not know",
    "person": "people book, change and delete at the platform",
    "gateway-away": "the gateway is away for minutes, while people change much",
}

# The same, drawn by themselves, so that they change nothing for the other faults.
LATER: Final = {
    "events-stop": "the platform sends no events any more on a connection that lives",
    "account-moves": "accounts move between groups, where the platform's groups count",
    "decisions": "people approve and decline the gateway's finance requests",
}

# Those of the sandbox. The lines in between are no faults, but they are there.
FAULTS: Final = {
    **OWN,
    **LATER,
    **{fault.name: fault.help for fault in SANDBOX_FAULTS},
}

# With these, two phases are not sound, and the probe finds it.
UNSOUND: Final = frozenset({"approve-twice", "minute-times"})

# With these alone every valid request is booked, and nothing is held.
HARMLESS: Final = frozenset(
    {
        "person",
        "account-moves",
        "quotes",
        "notices",
        "staff",
        "double-event",
        "double-reply",
        "added-update",
        "object-error",
        "short-page",
        "millisecond-times",
        "fraction-times",
        "cut-comments",
        "swapped-orders",
        "renamed",
    }
)

# With these the platform shows a finance request as soon as it was made.
SHOWN: Final = HARMLESS | {
    "decisions",
    "lose-reply",
    "lose-event",
    "silent-request",
    "gateway-kill",
    "client-cut",
}

# What a platform does always, or never.
HABITS: Final = frozenset(
    {"millisecond-times", "fraction-times", "hidden-deletions", "cut-comments"}
)

# How long each may take, where it is not the sandbox's own time.
_SECONDS: Final = {
    "late-request": (0.5, 8.0, 40.0, 150.0),
    "late-reply": (0.5, 4.0, 8.0, 40.0),
    "late-event": (0.5, 4.0, 40.0),
    "overtaken-reply": (1.0, 5.0, 20.0),
    "slow-queue": (1.0, 6.0, 30.0),
    "lost-tail": (0.5, 3.0),
}
# For how long a reply may wait for its event without harm.
_SOON: Final = 0.3

# Those that are drawn by themselves, so that they change nothing for the others.
_LATER: Final = HABITS | {
    "minute-times",
    "unsorted-page",
    "double-request",
    "swapped-orders",
}

# So rare that a seed is not only crashes.
_RARE: Final = frozenset(
    fault.name for fault in SANDBOX_FAULTS if "crash" in fault.name
) | {"refuse-401"}


@define(frozen=True)
class Plan:
    """
    What is to be simulated.

    @ivar requests: How many the clients make.
    @ivar without: Faults that may not happen.
    @ivar absent: Clients that do nothing.
    @ivar way: That of the gateway, or L{None} if the seed decides.
    @ivar only: If it is not empty, no other faults happen than these.
    """

    seed: int
    requests: int = 40
    without: frozenset[str] = frozenset()
    absent: frozenset[int] = frozenset()
    way: str | None = None
    only: frozenset[str] = frozenset()


@define
class Setting:
    """
    What the seed of a plan decides.

    @ivar rates: How often each fault of the sandbox happens.
    @ivar seconds: How long those take that take a time.
    @ivar own: The other faults.
    @ivar delay: Of the platform, from accepting to booking.
    @ivar page: Rows of a page of the catch-up.
    @ivar isTagged: Whether the comments at the platform have tags.
    @ivar isGrouped: Whether the gateway takes over the platform's groups.
    @ivar skew: How far the gateway's clock is ahead of the platform's, in seconds.
    """

    way: str
    rates: dict[str, float] = field(factory=dict)
    seconds: dict[str, float] = field(factory=dict)
    own: frozenset[str] = frozenset()
    delay: float = 0.05
    isTagged: bool = False
    isGrouped: bool = False
    skew: float = 0.0
    page: int = 500

    @property
    def longest(self) -> int:
        """
        Characters of a comment that the platform keeps, as the gateway's profile says.
        """
        return MAX_CUT if "cut-comments" in self.rates else MAX_COMMENT

    @property
    def isMoving(self) -> bool:
        """
        Whether accounts move, and that counts.
        """
        return self.isGrouped and "account-moves" in self.own

    @property
    def faults(self) -> frozenset[str]:
        """
        All that may go wrong.
        """
        return self.own | {name for name, rate in self.rates.items() if rate}

    @property
    def harm(self) -> frozenset[str]:
        """
        What may go wrong so that clients notice.
        """
        harmless = {"clock"}
        if self.seconds.get("overtaken-reply", 0.0) <= _SOON:
            # The reply to a look-up, which no event follows, is only a little late.
            harmless.add("overtaken-reply")
        return self.faults - harmless


def settingOf(plan: Plan) -> Setting:
    """
    What a plan's seed decides. What is left out changes nothing for the rest.
    """
    random = Random(f"gateway {plan.seed}")
    way = random.choice((ONE_SHOT, TWO_PHASE))
    # In a fifth of the seeds only what does no harm goes wrong.
    share = random.choice((0.0, 0.15, 0.3, 0.3, 0.6))
    setting = Setting(plan.way or way, delay=random.choice((0.01, 0.05, 0.3)))
    setting.isTagged = Random(f"tags {plan.seed}").random() < 0.5
    setting.isGrouped = Random(f"groups {plan.seed}").random() < 0.3
    setting.page = random.choice((5, 8, 500))
    own = []
    for name in OWN:
        isChosen = random.random() < _shareOf(name, share)
        if isChosen or name in plan.only:
            own.append(name)
    for name in LATER:
        dice = Random(f"{name} {plan.seed}").random()
        isChosen = dice < _shareOf(name, share)
        if isChosen or name in plan.only:
            own.append(name)
    shared = random
    skew = random.choice((-40.0, -3.0, 1.0, 2.0, 30.0))
    for fault in SANDBOX_FAULTS:
        isLater = fault.name in _LATER
        random = Random(f"{fault.name} {plan.seed}") if isLater else shared
        isChosen = random.random() < _shareOf(fault.name, share)
        rate = random.choice((0.02, 0.05, 0.2))
        seconds = random.choice(_SECONDS.get(fault.name, (fault.seconds,)))
        if not share and fault.name == "overtaken-reply":
            isChosen, seconds = random.random() < 0.5, _SOON
        if fault.where is Where.BETWEEN:
            isChosen = random.random() < 0.3
        if fault.name in plan.only:
            isChosen, rate = True, 0.2
        if fault.name in _RARE:
            rate = min(rate, 0.03)
        if fault.name in HABITS:
            rate = 1.0
        if isChosen and _isAllowed(plan, setting, fault.name):
            setting.rates[fault.name] = rate
            setting.seconds[fault.name] = seconds
    if "approve-twice" in setting.rates:
        # Nobody but people decides the same request again.
        own.append("person")
    setting.own = frozenset(name for name in own if _isAllowed(plan, setting, name))
    if "clock" in setting.own:
        setting.skew = skew
    return setting


def _shareOf(name: str, share: float) -> float:
    if name == "gateway-away":
        return share / 3
    return 0.4 if name in HARMLESS and not share else share


def _isAllowed(plan: Plan, setting: Setting, name: str) -> bool:
    isUnsound = setting.way == TWO_PHASE and name in UNSOUND
    if plan.only:
        return name in plan.only and not isUnsound
    return name not in plan.without and not isUnsound
