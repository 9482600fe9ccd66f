"""
Bugs that are planted into C{book.sql}, one for each rule: the state machine of
C{tests/postgres/conformance.py} has to find each of them. ::

    python -m tests.postgres.planted
"""

import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Final

import psycopg

from tests.figures import Figures
from tests.postgres.conformance import connected, run
from tests.postgres.engine import Node

# What is planted in book.sql: a line, and what stands there instead.
PLANTED: Final = {
    "a total below zero": ("ELSIF total + change < 0 THEN", "ELSIF false THEN"),
    "a total that is too great": (
        "IF change > 0 AND total > max_total - change THEN",
        "IF total = max_total THEN",
    ),
    "an order of another login": (
        "IF t_logins[t] <> op.login THEN",
        "IF t_logins[t] < op.login THEN",
    ),
    "an order of another kind": (
        "ELSIF t_cmds[t] <> op.cmd THEN",
        "ELSIF t_cmds[t] < op.cmd THEN",
    ),
    "an update of a deleted order": (
        "ELSIF t_cmds[t] <> op.cmd THEN\n                    refusal := 'other kind';\n"
        "                ELSIF t_states[t] = 6",
        "ELSIF t_cmds[t] <> op.cmd THEN\n                    refusal := 'other kind';\n"
        "                ELSIF false",
    ),
    "what an update adds": (
        "change := op.amount - t_profits[t];",
        "change := op.amount;",
    ),
    "the times of an update": (
        "opened := t_opens[t];\n                closed := t_closes[t];\n"
        "                IF t_logins",
        "opened := this_time;\n                closed := this_time;\n"
        "                IF t_logins",
    ),
    "times in the wrong order": (
        "IF refusal IS NULL AND closed < opened THEN",
        "IF false THEN",
    ),
    "what differs under a key": (
        "WHEN first.asked_order IS DISTINCT FROM op.asked_order\n",
        "WHEN false\n",
    ),
    "the comment of a decision under its key": (
        "WHEN first.comment <> nullif(op.comment, '')",
        "WHEN first.comment <> op.comment",
    ),
    "an approval by its maker": (
        "IF maker = op.principal AND NOT self_approval THEN",
        "IF false THEN",
    ),
    "an approval by its maker in one batch": (
        "IF t_items[t] IS NOT NULL THEN",
        "IF false THEN",
    ),
    "an approval of what is booked": (
        "ELSIF t_states[t] <> 17 THEN",
        "ELSIF t_states[t] NOT IN (3, 17) THEN",
    ),
    "an update of what is not approved": (
        "ELSIF t_states[t] <> 3 THEN\n                    refusal := 'not approved';\n"
        "                ELSE",
        "ELSIF false THEN\n                    refusal := 'not approved';\n"
        "                ELSE",
    ),
    "a deletion of what is not approved": (
        "ELSIF t_states[t] <> 3 THEN\n                    refusal := 'not approved';\n"
        "                END IF",
        "END IF",
    ),
    "a finance request that moves money": (
        "CASE op.kind WHEN 1 THEN 0 ELSE op.amount END",
        "op.amount",
    ),
    "what a rule has counted": (
        "sum_amounts[broken] := sum_amounts[broken] + moved;",
        "NULL;",
    ),
    "the sum that has counted last": (
        "ORDER BY counted.seq DESC LIMIT 1",
        "ORDER BY counted.seq LIMIT 1",
    ),
    "the event that has the totals": (
        "WHERE event.login = each.login ORDER BY event.seq DESC LIMIT 1",
        "WHERE event.login = each.login ORDER BY event.seq LIMIT 1",
    ),
    "what an update counts": (
        "moved := greatest(abs(to_profit), abs(change));",
        "moved := abs(to_profit);",
    ),
    "what was booked before there was a rule": (
        "sum(CASE each.type WHEN 1",
        "sum(CASE each.type WHEN 5",
    ),
    "a rule for which no request helps": ("EXIT WHEN NOT rule_requests[i];", "EXIT;"),
    "when an approval closes": (
        "closed := greatest(this_time, opened);",
        "closed := this_time;",
    ),
    "a key that was refused": (
        "WHERE each.seq IS NULL AND each.item IS NULL",
        "WHERE false",
    ),
    "an account that was refused": ("WHERE NOT each.changed", "WHERE false"),
    "a revision": ("t_revisions[t] + 1, 0)", "t_revisions[t], 0)"),
    "a hash": ("former || convert_to", "convert_to"),
    "the total that counts": (
        "CASE WHEN (credit_cmds >> of_cmd) & 1 = 1\n"
        "                    THEN a_credits[a] ELSE a_balances[a] END",
        "a_credits[a]",
    ),
}

# Examples of the machine, which takes less than a minute for so many.
EXAMPLES: Final = 400


def plant(node: Node, name: str) -> None:
    """
    Plant a bug.
    """
    former, planted = PLANTED[name]
    script = files("creditsync.postgres").joinpath("book.sql").read_text("utf-8")
    assert script.count(former) == 1, former
    script = script.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
    node.rows(script.replace(former, planted))


def isFound(name: str) -> bool:
    """
    Whether the machine finds a planted bug.
    """
    with connected() as nodes:
        plant(nodes[0], name)
        try:
            run(EXAMPLES)
        except (AssertionError, psycopg.Error):
            # Some break a constraint of the tables.
            return True
        return False


def main(arguments: Sequence[str]) -> int:
    """
    Plant one bug after the other.

    @return: The exit status.
    """
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    figures, missed = Figures(), []
    for name in PLANTED:
        began = time.monotonic()
        if not isFound(name):
            missed.append(name)
        figures[name] = round(time.monotonic() - began, 1)
        print(f"{name}: {figures[name]} s", flush=True)
    figures.show(options.json)
    if missed:
        print(f"VIOLATION: not found: {', '.join(missed)}")
        return 1
    print(f"sound: {len(PLANTED)} bugs, found within the seconds above")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
