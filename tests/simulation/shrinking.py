"""
Shrinks a seed that breaks a rule to the shortest useful trace.

Faults and clients are left out and requests made fewer, as long as the same
rule is still broken. Then only those lines of the trace are shown that concern
the violation, and what happened to the server.
"""

import re
import time

from attrs import evolve

from tests.simulation.running import Outcome, simulate
from tests.simulation.setting import CLIENTS, FAULTS, READERS, Plan

# The maximum number of runs for shrinking, and of seconds after which none begins.
_RUNS = 80
_SECONDS = 10.0
# The maximum number of lines that are shown, and of bytes in each.
_LINES = 40
_TOKEN = re.compile('"__token":"[^"]*",')
_WIDTH = 240


class _Shrinking:
    """
    The smallest outcome so far.
    """

    def __init__(self, outcome: Outcome) -> None:
        assert outcome.violation is not None
        self.best = outcome
        self._rule = outcome.violation.rule
        self._left = _RUNS
        self._end = time.monotonic() + _SECONDS

    def attempt(self, plan: Plan) -> bool:
        """
        Whether this smaller plan breaks the rule too.
        """
        if not self._left or time.monotonic() > self._end:
            return False
        self._left -= 1
        outcome = simulate(plan)
        if outcome.violation is None or outcome.violation.rule != self._rule:
            return False
        self.best = outcome
        return True

    @property
    def plan(self) -> Plan:
        """
        The smallest plan so far.
        """
        return self.best.plan


def shrink(outcome: Outcome) -> Outcome:
    """
    Search for a smaller plan that breaks the same rule.
    """
    shrinking = _Shrinking(outcome)
    while shrinking.plan.requests > 10 and shrinking.attempt(
        evolve(shrinking.plan, requests=shrinking.plan.requests // 2)
    ):
        pass
    happened = [fault for fault in FAULTS if shrinking.best.counts[fault]]
    for fault in happened:
        without = shrinking.plan.without | {fault}
        shrinking.attempt(evolve(shrinking.plan, without=without))
    for client in range(CLIENTS + READERS):
        absent = shrinking.plan.absent | {client}
        shrinking.attempt(evolve(shrinking.plan, absent=absent))
    return shrinking.best


def told(outcome: Outcome) -> str:
    """
    The broken rule, how to reproduce it, and what led to it.
    """
    violation, plan = outcome.violation, outcome.plan
    assert violation is not None
    options = f"--seed {plan.seed} --requests {plan.requests}"
    if plan.without:
        options += " --without " + ",".join(sorted(plan.without))
    if plan.absent:
        options += " --absent " + ",".join(map(str, sorted(plan.absent)))
    lines = [line for entry in outcome.trace if (line := _line(entry, violation.about))]
    return "\n".join(
        [
            f"seed {plan.seed} breaks {violation}",
            f"again: python -m tests.simulation {options}",
            *lines[-_LINES:],
        ]
    )


def _line(entry: tuple[float, str, str, bytes], about: tuple[str, ...]) -> str:
    """
    A line of the trace, or nothing if it does not concern the violation.
    """
    time, who, what, data = entry
    text = _TOKEN.sub("", data.decode(errors="replace"))
    isGeneral = who in ("server", "the wall clock")
    isAbout = any(f"{each}" in text + what for each in about) and data
    isOfOrder = who == "ledger" and any(each in what.split() for each in about)
    isEnd = not data and who in about
    if not (isGeneral or isAbout or isOfOrder or isEnd):
        return ""
    parts = [part for part in text.splitlines() if any(e in part for e in about)]
    shown = " | ".join(parts)[:_WIDTH]
    return f"{time:12.6f}  {who} {what} {shown}".rstrip()
