"""
Accounts that are opened before their first operation, while nodes run.
"""

from collections.abc import Collection, Sequence

from creditsync.postgres._blocking import CommandSession
from creditsync.postgres._schema import STREAM

_ADD = """
    INSERT INTO account (login) SELECT unnest(%s::bigint[]) ON CONFLICT DO NOTHING
    RETURNING login
"""
_MOVE = "SELECT move_1(%s, %s, %s, true)"


def addAccounts(
    session: CommandSession, logins: Sequence[int], group: str
) -> Collection[int]:
    """
    Open accounts.

    @param group: Of those that are new.
    @return: The logins that are.
    @raise LedgerProblem: There are no tables.
    """
    session.checkReadable()
    with session.session.transaction():
        rows = session.rows(_ADD, [sorted(set(logins))])
        added = sorted(login for (login,) in rows)
        if group:
            for login in added:
                session.rows(_MOVE, [STREAM, login, group])
    return added
