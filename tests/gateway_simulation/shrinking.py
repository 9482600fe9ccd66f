"""
Shrinks a seed that breaks a rule to the shortest useful trace.

Faults and clients are left out and requests made fewer, as long as the same rule is
still broken.
"""

import re

from attrs import evolve

from tests.gateway_simulation.running import Outcome, simulate
from tests.gateway_simulation.setting import CLIENTS, FAULTS, Plan

# The maximum number of runs for shrinking, and of lines that are shown.
_RUNS = 60
_LINES = 60
_WIDTH = 170
_TOKEN = re.compile(r'"__token": ?"[^"]*",? ?')


def shrink(outcome: Outcome) -> Outcome:
    """
    Search for a smaller plan that breaks the same rule.
    """
    assert outcome.violation is not None
    rule, best, left = outcome.violation.rule, outcome, _RUNS

    def attempt(plan: Plan) -> bool:
        nonlocal best, left
        if not left:
            return False
        left -= 1
        found = simulate(plan)
        if found.violation is None or found.violation.rule != rule:
            return False
        best = found
        return True

    while best.plan.requests > CLIENTS and attempt(
        evolve(best.plan, requests=best.plan.requests // 2)
    ):
        pass
    for fault in [name for name in FAULTS if best.counts[name] or name == "clock"]:
        attempt(evolve(best.plan, without=best.plan.without | {fault}))
    for client in range(CLIENTS):
        attempt(evolve(best.plan, absent=best.plan.absent | {client}))
    return best


def told(outcome: Outcome) -> str:
    """
    The broken rule, how to reproduce it, and what led to it.
    """
    violation, plan = outcome.violation, outcome.plan
    assert violation is not None
    options = f"--seed {plan.seed} --requests {plan.requests}"
    if plan.way is not None:
        options += f" --way {plan.way}"
    if plan.only:
        options += " --only " + ",".join(sorted(plan.only))
    if plan.without:
        options += " --without " + ",".join(sorted(plan.without))
    if plan.absent:
        options += " --absent " + ",".join(map(str, sorted(plan.absent)))
    lines = [
        text
        for entry in outcome.trace
        if (text := _line(entry, tuple(filter(None, violation.about))))
    ]
    happened = [f"{name} {n}" for name, n in sorted(outcome.counts.items()) if n]
    return "\n".join(
        [
            f"seed {plan.seed} ({outcome.way}) breaks {violation}",
            f"again: python -m tests.gateway_simulation {options}",
            f"with: {', '.join(happened)}",
            *lines[-_LINES:],
        ]
    )


def _line(entry: tuple[float, str, str, bytes], about: tuple[str, ...]) -> str:
    time, who, what, data = entry
    text = _TOKEN.sub("", data.decode(errors="replace"))
    shown = [
        each
        for each in text.splitlines()
        if '"structure"' not in each and any(one in each for one in about)
    ]
    isGeneral = not data and (
        "is killed" in what or "starts" in what or "people" in what or who == "world"
    )
    if not (shown or isGeneral or any(one in what for one in about)):
        return ""
    return f"{time:11.4f}  {who} {what} {' | '.join(shown)[:_WIDTH]}".rstrip()
