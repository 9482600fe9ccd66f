"""
The numbers and names that travel on the wire.

All of them are the platform's own (its public reference and SDK headers), so
that its clients work against this server unmodified; the limits at the end
are decisions of this project.
"""

from typing import Final

# Types of a trade event.
EV_RECORD_ADD: Final = 0
EV_RECORD_UPDATE: Final = 1
EV_RECORD_DELETE: Final = 2

# What a finance trade does ("cmd"); creditsync.methods says what each counts for.
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

# The state of what is asked for but not booked yet, by the event to come.
REQUEST_STATES: Final = {
    EV_RECORD_ADD: TS_FINANCE_OPEN_REQUEST,
    EV_RECORD_UPDATE: TS_FINANCE_UPDATE_REQUEST,
    EV_RECORD_DELETE: TS_FINANCE_DELETE_REQUEST,
}

# Who made the trade ("reason").
TR_REASON_API: Final = 7

# What a session may do: the "role" of its token.
SESSION_USER: Final = 0
SESSION_MANAGER: Final = 1
SESSION_DEALER: Final = 2
SESSION_ADMIN: Final = 3
SESSION_SYSTEM: Final = 4
SESSION_FIX: Final = 5

ALL_SESSIONS: Final = frozenset(range(SESSION_USER, SESSION_FIX + 1))
# docs/protocol.rst, "Tokens and roles": the roles that may use the finance family.
FINANCE_SESSIONS: Final = frozenset({SESSION_MANAGER, SESSION_DEALER, SESSION_ADMIN})

# The only event channel there is.
TRADE_EVENT: Final = "trade:event"

# Money is an integer number of these: 10⁻⁸ of the account's currency.
UNITS_PER_ONE: Final = 100_000_000

# RFC 7493 (I-JSON), section 2.2: what every double holds exactly.
MAX_SAFE_INTEGER: Final = 2**53 - 1
# The end of the year 9999, in UNIX seconds: what is later is no time, but
# milliseconds.
MAX_TIME: Final = 253402300799
# The deepest nesting of arrays and objects that a line may have.
MAX_DEPTH: Final = 16
# The most commas and opening brackets that a line may have together: no command
# has anywhere near as many members, and to look at tens of thousands of values
# would hold up everybody else.
MAX_MARKS: Final = 1000
# The longest that a number may be written: of a million digits it takes longer
# to see what they come to.
MAX_NUMBER: Final = 64
# What SQLite's INTEGER holds: the greatest total of an account, in units.
MAX_TOTAL: Final = 2**63 - 1
