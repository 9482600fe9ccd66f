"""
What every session of a server has, whoever connects: what the connection string does
not say, and the settings that must hold.
"""

from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

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

SETTINGS: Final = "; ".join(
    [*(f"SET {name} = '{value}'" for name, value in _EACH.items()), _DURABLE]
)


def complete(conninfo: str, applicationName: str) -> str:
    """
    A connection string with everything that it does not say.

    @raise ValueError: It is not one.
    """
    try:
        given = conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        # Whose text may have a part of the password in it.
        raise ValueError("this is not a connection string of PostgreSQL") from None
    return make_conninfo(
        conninfo,
        **{name: _DEFAULTS[name] for name in _DEFAULTS if name not in given},
        application_name=applicationName,
        client_encoding="UTF8",
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
