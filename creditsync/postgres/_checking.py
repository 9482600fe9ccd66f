"""
The rules that a ledger on PostgreSQL has to keep: those of every ledger, and those of
the tables that only PostgreSQL has.
"""

import re
from collections.abc import Iterator
from typing import Final

from creditsync.ledger._checking import (
    SUM,
    Finding,
    Rule,
    contentFindings,
    ruleFindings,
    wrongTotalsBy,
)
from creditsync.postgres._reading import PostgresSource
from creditsync.postgres._schema import GATEWAY, IS_GATEWAYS, SCRIPTS, STREAM

_FUNCTION: Final = re.compile(r"CREATE FUNCTION (\w+)\(.*?AS \$\$(.*?)\$\$", re.S)
_FUNCTIONS: Final = dict(_FUNCTION.findall("".join(SCRIPTS)))
_GATEWAYS_FUNCTIONS: Final = dict(_FUNCTION.findall(GATEWAY))

# What no table may have twice.
_KEYS: Final = {
    ("stream", "id"),
    ("life", "stream,number"),
    ("node", "id"),
    ("node", "name,lane"),
    ("link", "stream,hi"),
    ("link", "node,batch"),
    ("event", "stream,seq"),
    ("trade", "order"),
    ("opened", "login"),
    ("moved", "number"),
    ("keyed", "principal,key"),
    ("block", "id"),
    ("rule", "id"),
    ("counted", "day,rule,key,seq"),
    ("operation", "cmd"),
}
_GATEWAYS_KEYS: Final = {
    ("intent", "number"),
    ("caught_up", "id"),
    ("alarm", "number"),
}

_BODIES: Final = """
    SELECT name, prosrc
    FROM unnest(%s::text[]) AS known (name)
    LEFT JOIN pg_proc ON pg_proc.oid = to_regproc(name)
"""
_UNIQUE: Final = """
    SELECT name, string_agg(attname, ',' ORDER BY position)
    FROM unnest(%s::text[]) AS known (name)
    JOIN pg_index ON indrelid = to_regclass(name)
    CROSS JOIN unnest(indkey) WITH ORDINALITY AS at (attnum, position)
    JOIN pg_attribute ON attrelid = indrelid AND pg_attribute.attnum = at.attnum
    WHERE indisunique AND indisvalid AND indpred IS NULL AND position <= indnkeyatts
    GROUP BY name, indexrelid
"""
_FOREIGN: Final = """
    SELECT 'table ' || name || ' has the trigger ' || tgname
    FROM unnest(%(tables)s::text[]) AS known (name)
    JOIN pg_trigger ON tgrelid = to_regclass(name)
    WHERE NOT tgisinternal
    UNION ALL
    SELECT 'table ' || name || ' has the rule ' || rulename
    FROM unnest(%(tables)s::text[]) AS known (name)
    JOIN pg_rewrite ON ev_class = to_regclass(name)
    UNION ALL
    SELECT 'table ' || name || ' is not kept over a crash: it is unlogged'
    FROM unnest(%(tables)s::text[]) AS known (name)
    JOIN pg_class ON pg_class.oid = to_regclass(name)
    WHERE relpersistence <> 'p'
"""

_RULES: Final = (
    Rule(
        "link",
        f"""
        SELECT lo, hi FROM (
            SELECT lo, hi, lag(hi, 1, 0::bigint) OVER (ORDER BY hi) AS former
            FROM link WHERE stream = {STREAM}
        ) AS each
        WHERE lo <> former + 1 OR hi < lo
        """,
        "the commit of places {} to {} does not begin behind the one before it",
    ),
    Rule(
        "batch",
        f"""
        SELECT event.seq FROM event LEFT JOIN link USING (stream, node, batch)
        WHERE event.stream = {STREAM}
            AND (link.hi IS NULL OR event.seq NOT BETWEEN link.lo AND link.hi)
        """,
        "place {} of the journal is not in the commit that it names",
    ),
    Rule(
        "batch",
        f"""
        SELECT lo, hi FROM (
            SELECT lo, hi, batch,
                   lag(batch) OVER (PARTITION BY node ORDER BY hi) AS former
            FROM link WHERE stream = {STREAM}
        ) AS each
        WHERE batch <= former
        """,
        "the commit of places {} to {} was made before an earlier one of its node",
    ),
    Rule(
        "batch",
        f"""
        SELECT seq FROM (
            SELECT seq, item,
                   lag(item) OVER (PARTITION BY node, batch ORDER BY seq) AS former
            FROM event WHERE stream = {STREAM}
        ) AS each
        WHERE item <= coalesce(former, 0)
        """,
        "place {} of the journal is not in the order of its commit",
    ),
    Rule(
        "node",
        """
        SELECT DISTINCT node FROM link WHERE node NOT IN (SELECT id FROM node)
        """,
        "node {} has booked, but is not in the table node",
    ),
    Rule(
        "key",
        """
        SELECT keyed.principal, keyed.key FROM keyed LEFT JOIN event USING (stream, seq)
        WHERE event.key IS DISTINCT FROM keyed.key
            OR event.principal IS DISTINCT FROM keyed.principal
        """,
        "principal {} has the key {}, under which the journal has booked nothing",
    ),
    Rule(
        "key",
        f"""
        SELECT event.seq FROM event LEFT JOIN keyed USING (stream, seq)
        WHERE event.stream = {STREAM} AND event.key IS NOT NULL AND keyed.key IS NULL
        """,
        "place {} of the journal has a key that is not in the table keyed",
    ),
    Rule(
        "life",
        f"""
        SELECT stream.epoch, life.epoch FROM stream LEFT JOIN (
            SELECT * FROM life WHERE stream = {STREAM} ORDER BY number DESC LIMIT 1
        ) AS life ON life.stream = stream.id
        WHERE stream.id = {STREAM} AND life.epoch IS DISTINCT FROM stream.epoch
        UNION ALL
        SELECT 'none', 'none'
        WHERE NOT EXISTS (SELECT 1 FROM stream WHERE id = {STREAM})
        """,
        "the journal has the epoch {}, but its last life has {}",
    ),
    Rule(
        "group",
        """
        SELECT last.login, last."group" FROM (
            SELECT DISTINCT ON (login) login, "group" FROM moved
            ORDER BY login, number DESC
        ) AS last LEFT JOIN account USING (login)
        WHERE account."group" IS DISTINCT FROM last."group"
        """,
        "account {} was moved to the group {} last, and has another one",
    ),
)


def findings(ledger: PostgresSource, noted: bytes | None = None) -> Iterator[Finding]:
    """
    Check all rules.

    @param noted: A hash that the journal must have.
    """
    for message in _schemaProblems(ledger):
        yield Finding("schema", message)
    yield from ruleFindings(ledger, _RULES)
    wrong = ledger.execute(wrongTotalsBy(ledger, SUM))
    yield from contentFindings(ledger, wrong, noted)


def _schemaProblems(ledger: PostgresSource) -> Iterator[str]:
    """
    What of the tables and functions is not as a start makes it, as far as what is in
    the tables does not tell.
    """
    functions, keys = _FUNCTIONS, _KEYS
    for [isGateways] in ledger.select(IS_GATEWAYS):
        if isGateways:
            functions = functions | _GATEWAYS_FUNCTIONS
            keys = keys | _GATEWAYS_KEYS
    tables = sorted({table for table, _ in keys})
    for name, body in ledger.select(_BODIES, [list(functions)]):
        if body != functions[name]:
            state = "missing" if body is None else "not the one of this creditsync"
            yield f"the function {name} is {state}"
    found = {(name, key) for name, key in ledger.select(_UNIQUE, [tables])}
    for table, key in sorted(keys - found):
        yield f"table {table} may have the same {key} twice: an index is missing"
    for [message] in ledger.select(_FOREIGN, {"tables": tables}):
        yield message
