"""
Bugs that are planted into C{book.sql}, one for each rule: the life of a ledger that
C{tests/postgres/lives.py} has for the rule has to show each of them. Without a bug
nothing may be found. ::

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
from tests.postgres.conformance import connected, live
from tests.postgres.engine import Node
from tests.postgres.lives import LIVES

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
    "an account that does not exist": ("    IF known_only THEN", "    IF false THEN"),
    "an order that does not exist": (
        "refusal := 'not found';",
        "refusal := 'deleted';",
    ),
    "a deletion of another kind": (
        "IF (op.deletable >> of_cmd) & 1 = 0 THEN",
        "IF false THEN",
    ),
    "a deletion of a deleted order": (
        "refusal := 'other kind';\n                ELSIF t_states[t] = 6 THEN\n"
        "                    refusal := 'deleted';\n"
        "                ELSIF t_states[t] <> 3 THEN\n"
        "                    refusal := 'not approved';\n                END IF;",
        "refusal := 'other kind';\n"
        "                ELSIF t_states[t] NOT IN (3, 6) THEN\n"
        "                    refusal := 'not approved';\n                END IF;",
    ),
    "what a deletion takes away": ("change := -to_profit;", "change := 0;"),
    "an approval that the site allows": (
        "IF maker = op.principal AND NOT self_approval THEN",
        "IF maker = op.principal THEN",
    ),
    "what an approval adds": (
        "to_state := 3;\n                    change := to_profit;",
        "to_state := 3;\n                    change := 0;",
    ),
    "a refusal that moves no money": (
        "to_state := 18;\n                    change := 0;",
        "to_state := 18;\n                    change := to_profit;",
    ),
    "a repetition": ("IF key_seqs[op.key_number] IS NOT NULL THEN", "IF false THEN"),
    "a key of another principal": (
        "JOIN keyed ON keyed.principal = each.principal AND keyed.key = each.key;",
        "JOIN keyed ON keyed.key = each.key;",
    ),
    "what differs under a key in one batch": (
        "WHEN r_comments[a] <> nullif(op.comment, '') THEN 'data.comment'\n",
        "",
    ),
    "how much a rule allows": ("IF moved > rule_amounts[i] THEN", "IF false THEN"),
    "what a rule counts on another day": (
        "of_day      CONSTANT bigint := this_time / 86400;\n    sum_ids",
        "of_day      CONSTANT bigint := 0;\n    sum_ids",
    ),
    "whom a rule binds": (
        "AND (rule.principals IS NULL OR principal = ANY (rule.principals))",
        "AND true",
    ),
    "which group a rule binds": (
        "coalesce(of_group, '') LIKE rule.patterns[i]",
        "true",
    ),
    "for whom a rule counts": ("WHEN 'login' THEN login", "WHEN 'login' THEN 0"),
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


def plant(node: Node, name: str | None) -> None:
    """
    Plant a bug instead of the one that is there; with L{None} there is none any more.
    """
    script = files("creditsync.postgres").joinpath("book.sql").read_text("utf-8")
    if name is not None:
        former, planted = PLANTED[name]
        assert script.count(former) == 1, former
        script = script.replace(former, planted)
    node.rows(script.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))


def isFound(name: str) -> bool:
    """
    Whether its life shows what is planted.
    """
    try:
        live(LIVES[name])
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
    figures, slowest = Figures(), 0.0
    with connected() as [node, _]:
        wrong = [f"{name} is found without a bug" for name in LIVES if isFound(name)]
        for name in PLANTED:
            began = time.monotonic()
            plant(node, name)
            if not isFound(name):
                wrong.append(f"{name} is not found")
            slowest = max(slowest, time.monotonic() - began)
    figures["bugs"] = len(PLANTED)
    figures["found within, s, at most"] = round(slowest, 2)
    figures.show(options.json)
    if wrong:
        print(f"VIOLATION: {'; '.join(wrong)}")
        return 1
    print(f"sound: {len(PLANTED)} bugs, and each is found")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
