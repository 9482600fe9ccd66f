"""
The numbers and names on the wire.

They are those of the platform (its public reference and SDK headers), so that its
clients work with this server unmodified. The limits at the end were chosen for this
project.
"""

from typing import Final

# Types of a trade event.
EV_RECORD_ADD: Final = 0
EV_RECORD_UPDATE: Final = 1
EV_RECORD_DELETE: Final = 2

# The operation of a finance trade ("cmd"). creditsync.methods has the total that
# each counts for.
OP_BALANCE_IN: Final = 6
OP_CREDIT_IN: Final = 7
OP_BALANCE_OUT: Final = 8
OP_CREDIT_OUT: Final = 9

# The state of a trade record ("state").
TS_CLOSED_NORMAL: Final = 3
TS_DELETED: Final = 6
TS_FINANCE_OPEN_REQUEST: Final = 10
TS_FINANCE_UPDATE_REQUEST: Final = 11
TS_FINANCE_DELETE_REQUEST: Final = 12
TS_FINANCE_OPEN_PENDING: Final = 17
TS_FINANCE_DECLINED: Final = 18

# The states of a finance request that was not approved: they move no money.
UNAPPROVED: Final = frozenset({TS_FINANCE_OPEN_PENDING, TS_FINANCE_DECLINED})

# The state of an operation that is not booked yet, by the type of its event.
REQUEST_STATES: Final = {
    EV_RECORD_ADD: TS_FINANCE_OPEN_REQUEST,
    EV_RECORD_UPDATE: TS_FINANCE_UPDATE_REQUEST,
    EV_RECORD_DELETE: TS_FINANCE_DELETE_REQUEST,
}

# The origin of a trade ("reason").
TR_REASON_API: Final = 7

# The role of a session: the claim "role" of its token.
SESSION_USER: Final = 0
SESSION_MANAGER: Final = 1
SESSION_DEALER: Final = 2
SESSION_ADMIN: Final = 3
SESSION_SYSTEM: Final = 4
SESSION_FIX: Final = 5
SESSION_CUSTOMER: Final = 9
SESSION_CRM_MANAGER: Final = 10
SESSION_CRM_ADMIN: Final = 11

# The claim of each role, by the name that people call it by.
ROLES: Final = {
    "user": SESSION_USER,
    "manager": SESSION_MANAGER,
    "dealer": SESSION_DEALER,
    "admin": SESSION_ADMIN,
    "system": SESSION_SYSTEM,
    "fix": SESSION_FIX,
    "customer": SESSION_CUSTOMER,
    "crm-manager": SESSION_CRM_MANAGER,
    "crm-admin": SESSION_CRM_ADMIN,
}
ALL_SESSIONS: Final = frozenset(ROLES.values())
# docs/protocol.rst, "Tokens and roles": the roles that may use the finance family.
FINANCE_SESSIONS: Final = frozenset({SESSION_MANAGER, SESSION_DEALER, SESSION_ADMIN})

# The only event channel there is.
TRADE_EVENT: Final = "trade:event"

# Amounts are integers in units of 10⁻⁸ of the account's currency.
UNITS_PER_ONE: Final = 100_000_000

# UNIX time has no leap seconds.
SECONDS_PER_DAY: Final = 86_400
# Up to here a clock that is set back does not spoil the sums of a day.
MAX_SET_BACK: Final = 3600

# RFC 7493 (I-JSON), section 2.2: integers up to this are exact in every double.
MAX_SAFE_INTEGER: Final = 2**53 - 1
# The end of the year 9999, in UNIX seconds. Later values are probably milliseconds.
MAX_TIME: Final = 253402300799
# The maximum number of characters in a comment.
MAX_COMMENT: Final = 255
# The maximum nesting of arrays and objects in a line.
MAX_DEPTH: Final = 16
# The maximum number of commas and opening brackets in a line: a little more than a
# look-up of 1,000 orders has. To decode tens of thousands of values would delay other
# clients.
MAX_MARKS: Final = 1100
# The maximum number of bytes in the rows of a reply. 50,000 trades have some 10 MB, and
# more only if most characters of their comments have to be escaped.
MAX_ROWS_SIZE: Final = 16 * 1024 * 1024
# The maximum number of characters in a number. The time to convert digits to an
# integer grows with the square of their number.
MAX_NUMBER: Final = 1000
# The maximum of SQLite's INTEGER: the greatest total of an account, in units.
MAX_TOTAL: Final = 2**63 - 1
