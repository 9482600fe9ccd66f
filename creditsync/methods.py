"""
The methods of the finance family, as one table.

A row has everything in which a method differs from the others. The commands, the
command line, bulk files, the console, the audit trail, the runtime and the ledgers
use it. Each start checks the schemas and the ledger against it, so a build that
can't carry out one of its methods does not start.

Each method has two commands: the asynchronous one and the C{Sync} one.

Finance requests have methods of their own: what they move is a row of the finance
family.
"""

import re
from typing import Final, TypeAlias

from attrs import define

from creditsync.codes import (
    OP_BALANCE_IN,
    OP_BALANCE_OUT,
    OP_CREDIT_IN,
    OP_CREDIT_OUT,
)

# The totals of an account, by their names in a record and in a ledger.
BALANCE: Final = "balance"
CREDIT: Final = "credit"
TOTALS: Final = (BALANCE, CREDIT)

# The platform's comment for a balance operation without one.
_BALANCE_COMMENT: Final = "Finance"


@define(frozen=True)
class BookingMethod:
    """
    A method that makes or updates a trade.

    @ivar name: The asynchronous command; its C{Sync} form is named after it.
    @ivar cmd: The C{OP_*} code of its trades, which no other method has.
    @ivar total: The total of the account that its trades count for.
    @ivar sign: The sign of its amounts: 1 for deposits, -1 for withdrawals.
    @ivar label: The name of its trades for people. The subcommand and the schema are
        named after it.
    @ivar help: A phrase for the command line, beginning with a verb.
    @ivar comment: The comment of a request without one; L{None} where a
        request must have one.
    """

    name: str
    cmd: int
    total: str
    sign: int
    label: str
    help: str
    comment: str | None = None

    @property
    def schema(self) -> str:
        """
        The name of the schema of its data.
        """
        return self.label.replace(" ", "_")

    @property
    def subcommand(self) -> str:
        """
        Its name on the command line.
        """
        return self.label.replace(" ", "-")


@define(frozen=True)
class DeletingMethod:
    """
    A method that deletes a trade.

    @ivar name: The asynchronous command; its C{Sync} form is named after it.
    @ivar total: The total of the trades that it may delete.
    """

    name: str
    total: str
    schema = "delete"

    @property
    def cmds(self) -> frozenset[int]:
        """
        The C{OP_*} codes of the trades that it may delete.
        """
        return frozenset(cmd for cmd, total in TOTAL_OF.items() if total == self.total)


BOOKING_METHODS: Final = (
    BookingMethod(
        "CreditIn",
        OP_CREDIT_IN,
        CREDIT,
        1,
        "credit in",
        "add credit to an account",
    ),
    BookingMethod(
        "CreditOut",
        OP_CREDIT_OUT,
        CREDIT,
        -1,
        "credit out",
        "take credit out of an account",
    ),
    BookingMethod(
        "BalanceIn",
        OP_BALANCE_IN,
        BALANCE,
        1,
        "balance in",
        "add to an account's balance",
        _BALANCE_COMMENT,
    ),
    BookingMethod(
        "BalanceOut",
        OP_BALANCE_OUT,
        BALANCE,
        -1,
        "balance out",
        "take out of an account's balance",
        _BALANCE_COMMENT,
    ),
)

DELETING_METHODS: Final = (
    DeletingMethod("DeleteCredit", CREDIT),
    DeletingMethod("DeleteBalance", BALANCE),
)

FINANCE_METHODS: Final = (*BOOKING_METHODS, *DELETING_METHODS)


@define(frozen=True)
class RequestMethod:
    """
    A method that makes a finance request or decides one.

    @ivar name: The asynchronous command.
    @ivar hasSync: Whether it has a C{Sync} form.
    @ivar isApproval: What it decides, or L{None} if it makes a request.
    """

    name: str
    schema: str
    hasSync: bool
    isApproval: bool | None


REQUEST_METHODS: Final = (
    RequestMethod("MngCreateFinanceRequest", "mng_create_finance_request", False, None),
    RequestMethod(
        "MngApproveFinanceRequest", "mng_approve_finance_request", True, True
    ),
    RequestMethod(
        "MngDeclineFinanceRequest", "mng_decline_finance_request", False, False
    ),
)

Method: TypeAlias = BookingMethod | DeletingMethod | RequestMethod

_OF_CMD: Final = {method.cmd: method for method in BOOKING_METHODS}

# The total that a trade counts for, by its cmd.
TOTAL_OF: Final = {method.cmd: method.total for method in BOOKING_METHODS}

# The name of the method that moves a trade, by its cmd and whether it is deleted.
METHOD_OF: Final = {
    **{(method.cmd, False): method.name for method in BOOKING_METHODS},
    **{(cmd, True): method.name for method in DELETING_METHODS for cmd in method.cmds},
}


def ofCmd(cmd: object) -> BookingMethod | None:
    """
    The method that makes trades of a C{cmd}, or L{None}: another trading runtime may
    use further values.
    """
    return _OF_CMD.get(cmd) if isinstance(cmd, int) else None


def syncName(method: Method) -> str:
    """
    The command whose reply has the booked trade.
    """
    return f"{method.name}Sync"


def commands(method: Method) -> tuple[str, ...]:
    """
    The commands of a method.
    """
    if isinstance(method, RequestMethod) and not method.hasSync:
        return (method.name,)
    return method.name, syncName(method)


# The commands that decide a finance request, and what they decide.
DECISIONS: Final = {
    command: method.isApproval
    for method in REQUEST_METHODS
    if method.isApproval is not None
    for command in commands(method)
}


def flaw(methods: tuple[BookingMethod, ...] = BOOKING_METHODS) -> str | None:
    """
    A sentence about an error in the table, or L{None}.
    """
    for number, method in enumerate(methods):
        if method.total not in TOTALS:
            return f"{method.name} counts for {method.total}, which is not a total"
        if method.sign not in (1, -1):
            return f"{method.name} has the sign {method.sign}, expected 1 or -1"
        for other in methods[:number]:
            for member in ("name", "cmd", "label"):
                if getattr(method, member) == getattr(other, member):
                    return f"{other.name} and {method.name} have the same {member}"
    return None


@define(frozen=True)
class PassedCommand:
    """
    A command of the platform behind a gateway that the gateway passes on.

    @ivar isClients: Whether it is sent with the token of the client; otherwise with
        that of the gateway.
    @ivar roles: The C{SESSION_*} codes that may use it.
    """

    name: str
    isClients: bool
    roles: frozenset[int]


# Names under which platforms move money: those of the table, and what others call the
# same, also with the prefix that newer releases of a platform put before them.
_MONEY: Final = re.compile(
    "(?:mng)?(?:add|approve|change|create|decline|delete|make|new|remove|set|update)?"
    f"(?:{'|'.join((*TOTALS, 'deposit', 'withdraw', 'finance'))})"
)


def movesMoney(name: str) -> bool:
    """
    Whether a command of a platform moves money, as far as its name tells.
    """
    return _MONEY.match(name.lower()) is not None
