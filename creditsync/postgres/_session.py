"""
What every session of a server has, whoever connects: what the connection string does
not say, the settings that must hold, and what is said if there is none.

No password is ever in a sentence: a server is named by its user, host and database.
"""

import re
from itertools import zip_longest
from typing import Final
from urllib.parse import quote, urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Conninfo

from creditsync.errors import LedgerProblem

# What the connection string says goes before this. The kernel notices a host that is
# gone within 5 + 3 x 2 s when nothing is sent, and within 10 s when something is.
_DEFAULTS: Final[dict[str, str | int]] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}

# Each session's, whatever the role or the database has as its own.
_EACH: Final = {
    "default_transaction_isolation": "read committed",
    # A deadlock or a lock that is held too long comes before the commit: try again.
    "lock_timeout": "2s",
    # A connection waits for rows or notifications as long as the server runs.
    "idle_session_timeout": "0",
    # A backend whose client is gone lets go of its locks within this time.
    "client_connection_check_interval": "1s",
    # Compiling takes longer than any statement of this server.
    "jit": "off",
}

# A role may have it off, or local; what waits for more than this server's disk is the
# administrator's choice.
_DURABLE: Final = (
    "SELECT set_config('synchronous_commit', 'on', false)"
    " WHERE current_setting('synchronous_commit') IN ('off', 'local')"
)

# The oldest that its makers still mend; older ones lack settings of the above.
LEAST_VERSION: Final = 15

# One that was promoted, and one that was started again, has another time.
_SERVER: Final = (
    "SELECT extract(epoch FROM pg_postmaster_start_time())::text, pg_is_in_recovery()"
)

# The row that they end with tells the server, and whether it is a standby.
SETTINGS: Final = "; ".join(
    [*(f"SET {name} = '{value}'" for name, value in _EACH.items()), _DURABLE, _SERVER]
)


# What libpq says, and what to do then.
_HINTS: Final = (
    ("no password supplied", "give it in PGPASSWORD or ~/.pgpass"),
    ("password authentication failed", "check PGPASSWORD or ~/.pgpass"),
    ("Connection refused", "check the host and the port, and that it runs"),
    ("timeout expired", "check the host and the port, and that no firewall is between"),
    ("too many clients", "raise max_connections, or stop what holds connections"),
    ("too many connections for", "raise the CONNECTION LIMIT that it has"),
    (
        "no pg_hba.conf entry",
        "let the role in there; it may demand TLS, which is sslmode=require",
    ),
    ("failed to resolve host", "check the name of the host, and the DNS"),
    (
        "session is read-only",
        "name all hosts; if that is so, none is the primary, or may be written to",
    ),
    ("permission denied for", "do this as the owner of the tables"),
    (
        "in a read-only transaction",
        "name the primary, or all hosts with target_session_attrs=read-write",
    ),
)

# What libpq asks at the end of a refusal, and what psycopg has before those of all
# hosts.
_QUESTION: Final = "Is the server running "
_LISTED: Final = "All failures were:"

# Parts of a connection string, and what is in none of them unless it was taken apart at
# the wrong place.
_ODD: Final = (("host", "@"), ("port", "[^0-9,]"), ("dbname", "[@/]"), ("user", "[@/]"))


def placeOf(conninfo: str) -> str:
    """
    Name the server of a connection string, without its password.

    @raise LedgerProblem: It is not a connection string.
    """
    try:
        given = conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        given = {"host": "@"}
    parts = {name: str(value) for name, value in given.items() if value is not None}
    if any(re.search(odd, parts.get(name, "")) for name, odd in _ODD):
        # Nothing of it is repeated, nor of what psycopg says: it may be a part of a
        # password with such a character.
        raise LedgerProblem(
            "--ledger is not a valid connection string of PostgreSQL, such as"
            " postgresql://creditsync@db.example.com/creditsync; an @ or / within one"
            " of its parts is written as %40 or %2F, and only parameters of libpq may"
            " be behind a ?"
        )
    if "service" in parts:
        return f"service {parts['service']}"
    user = f"{parts['user']}@" if "user" in parts else ""
    hosts = _hosts(parts.get("host", parts.get("hostaddr", "")), parts.get("port", ""))
    return f"postgresql://{user}{hosts}/{parts.get('dbname', '')}"


def addressOf(conninfo: str) -> str:
    """
    The address of a connection string, with its parameters, but without passwords and
    whatever else libpq marks as not to be shown.

    @raise LedgerProblem: It is not a connection string.
    """
    place = placeOf(conninfo)
    given = conninfo_to_dict(conninfo)
    named = {"user", "host", "port", "dbname"}
    if "host" not in given:
        named.add("hostaddr")
    if "service" in given:
        place, named = "postgresql:///", set()
    shown = [
        each.keyword.decode() for each in Conninfo.get_defaults() if not each.dispchar
    ]
    more = {name: given[name] for name in shown if name in given and name not in named}
    # For libpq a + is no space.
    query = urlencode(more, safe="/:,", quote_via=quote)
    return f"{place}?{query}" if more else place


def causeOf(error: object) -> str:
    """
    What PostgreSQL or its client has said, for a line of the log: not in which line of
    which function.
    """
    said = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return " ".join((said or str(error)).split())


def _hosts(hosts: str, ports: str) -> str:
    """
    Put each port behind its host. A single one is that of all hosts.
    """
    if "," not in hosts:
        return f"{hosts}:{ports}" if ports else hosts
    each = hosts.split(",")
    listed = ports.split(",") if "," in ports else [ports] * len(each)
    pairs = zip_longest(each, listed, fillvalue="")
    return ",".join(f"{host}:{port}" if port else host for host, port in pairs)


def unreachable(conninfo: str, cause: str) -> str:
    """
    The sentence for a server that can't be connected to.

    @param cause: What psycopg has said.
    """
    lines = (line.strip() for line in cause.splitlines())
    cause = " ".join(line for line in lines if not line.startswith(_QUESTION))
    # Of several hosts, the last one is in front of the list of all of them.
    listed = cause.partition(_LISTED)[2].replace(" - host: ", "; host: ")
    cause = " ".join((listed.removeprefix("; ") or cause).split())
    for prefix in ("connection failed: ", "connection is bad: "):
        cause = cause.removeprefix(prefix)
    return f"PostgreSQL can't be used at {placeOf(conninfo)}: {hinted(cause)}"


def hinted(cause: str) -> str:
    """
    What PostgreSQL or its client has said, and what can be done about it.
    """
    hints = [hint for text, hint in _HINTS if text in cause]
    return f"{cause}; {hints[0]}" if hints else cause


def complete(conninfo: str, applicationName: str) -> str:
    """
    A connection string with everything that it does not say.
    """
    given = conninfo_to_dict(conninfo)
    return make_conninfo(
        conninfo,
        **{name: _DEFAULTS[name] for name in _DEFAULTS if name not in given},
        application_name=applicationName,
        client_encoding="UTF8",
    )


def isStandby(place: str) -> str:
    """
    The sentence for a server that nobody can write to.
    """
    return (
        f"{place} is a read-only standby: name its primary, or all hosts with"
        " target_session_attrs=read-write"
    )


def tooOld(version: int) -> str | None:
    """
    Why a server of this major version can't be used, if it can't.
    """
    if version >= LEAST_VERSION:
        return None
    return (
        f"the server is PostgreSQL {version}, and {LEAST_VERSION} is the oldest that is"
        " supported: upgrade it"
    )
