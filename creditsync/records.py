"""
Plain data passed between modules: no I/O, no logic.

Only the creator of a record may modify it, and only before passing it on, unless
its docstring says otherwise.

They are C{msgspec.Struct}s: every credit makes several of them, and C{attrs}
classes are slower to make. With C{gc=False}, which is only right for a
record that can't be part of a cycle, the garbage collector skips them.

Amounts are integers in 10⁻⁸ units, times are UNIX seconds.
"""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from creditsync._filter import Condition as Condition
from creditsync._filter import FoundTrades as FoundTrades
from creditsync._filter import TradeFilter as TradeFilter
from creditsync.codes import TS_CLOSED_NORMAL

# Its place until 0.1, from which embedding applications still import it.
from creditsync.limits import Limits as Limits

ExtID: TypeAlias = str | int | float

# Names on the wire and in a ledger that differ from the attribute's.
NAMES = {
    "token": "__token",
    "key": "idempotencyKey",
    "openTime": "open_time",
    "closeTime": "close_time",
}
ATTRIBUTES = {name: attribute for attribute, name in NAMES.items()}


class Request(Struct, gc=False, rename=NAMES):
    """
    One line from a client, with its envelope checked. It has the members that the
    server reads.

    @ivar extID: The client's correlation id, echoed with its JSON type.
    @ivar token: The C{__token} as received, or L{None}.
    @ivar data: The command's parameters as received.
    @ivar key: The C{idempotencyKey}, which makes it safe to send the request again,
        or L{None}.
    @ivar operation: What the data asks for, once that is known. Then the data was
        checked, and is no longer needed.
    @ivar line: The line itself, if it was decoded as a whole.
    """

    command: str
    extID: ExtID | None
    token: str | None
    data: dict[str, Any]
    key: str | None = None
    operation: "AnyOperation | None" = None
    line: bytes = b""


class Principal(Struct, gc=False):
    """
    The principal of a token (docs/protocol.rst, "Tokens and roles").

    @ivar id: The principal's number.
    @ivar role: One of the C{SESSION_*} codes.
    @ivar expires: The UNIX time from which the token is no longer valid.
    @ivar jti: The token's own id, by which it can be revoked.
    @ivar groups: Masks of the groups whose accounts it is for, separated by commas;
        L{None} if the token does not limit them.
    @ivar login: The account of a user, if the token names it.
    @ivar logins: The accounts of a customer, if the token names them.
    @ivar signedBy: What identifies the key of the token, if that key can be taken out
        of a L{creditsync.auth.KeyFile}.
    """

    id: int
    role: int
    expires: float
    jti: str | None = None
    groups: str | None = None
    login: int | None = None
    logins: tuple[int, ...] | None = None
    signedBy: str | None = None


class Trade(Struct, gc=False, rename=NAMES):
    """
    A finance trade at one moment: a row of the ledger, or the data of a trade event.
    Every other list of its members is derived from C{TRADE_MEMBERS} or tested
    against it.

    @ivar order: The number of the finance transaction.
    @ivar cmd: One of the C{OP_*} codes.
    @ivar state: One of the C{TS_*} codes.
    @ivar profit: The amount, signed, in 10⁻⁸ units.
    @ivar openTime: UNIX seconds.
    @ivar closeTime: UNIX seconds.
    @ivar timestamp: The last change, in UNIX seconds.
    """

    order: int
    login: int
    cmd: int
    state: int
    profit: int
    comment: str
    openTime: int
    closeTime: int
    timestamp: int

    @property
    def counted(self) -> int:
        """
        The part of this trade in its account's total, in 10⁻⁸ units.
        """
        return self.profit if self.state == TS_CLOSED_NORMAL else 0


def loginOf(data: "Trade | Mapping[str, Any]") -> int | None:
    """
    The account of a trade record, or L{None} if another runtime's record does not
    say it.
    """
    login = data.login if isinstance(data, Trade) else data.get("login")
    return login if isinstance(login, int) else None


# The members of a trade by their names on the wire and in a ledger.
TRADE_MEMBERS = Trade.__struct_encode_fields__


class Account(Struct, gc=False):
    """
    An account: its totals, in 10⁻⁸ units, are the sums of its booked trades.

    The runtime modifies them when it reserves an operation.

    @ivar group: By which tokens are restricted to some of the accounts.
    """

    login: int
    balance: int = 0
    credit: int = 0
    group: str = ""


class Operation(Struct, eq=False, gc=False, rename=NAMES):
    """
    The request of a finance command to the trading runtime: to make a trade, or to
    update one.

    Two requests with the same key are the same if they agree in all members, except
    those that C{_NOT_DATA} lists.

    Two operations are never equal, because the event of an operation is recognized
    by the object itself.

    @ivar command: The asynchronous or C{*Sync} command.
    @ivar cmd: One of the C{OP_*} codes.
    @ivar amount: Signed, in 10⁻⁸ units.
    @ivar order: The existing order to update, or 0 for a new one.
    @ivar openTime: UNIX seconds; L{None} is the time of booking, or leaves an
        existing trade's unchanged.
    @ivar closeTime: As C{openTime}.
    @ivar principal: The C{id} of the token.
    @ivar key: The C{idempotencyKey}, by which a repeated request of the same
        principal is recognized, or L{None}.
    @ivar isBooked: Set by the runtime when the operation is on disk.
    @ivar role: The C{role} of the token, or L{None} if there was none.
    @ivar isRequest: Whether it only makes a finance request, which moves no money
        until another principal approves it.
    @ivar reserved: The order that its reservation will have, if the runtime knows it
        before: a request whose time is over is told that.
    """

    command: str
    cmd: int
    login: int
    amount: int
    comment: str
    order: int = 0
    openTime: int | None = None
    closeTime: int | None = None
    principal: int = 0
    key: str | None = None
    isBooked: bool = False
    role: int | None = None
    isRequest: bool = False
    reserved: int | None = None


class Deletion(Struct, eq=False, gc=False):
    """
    The request of C{DeleteCredit} and C{DeleteBalance} to the trading runtime.

    @ivar cmds: The C{OP_*} codes of the trades that the command may delete.
    @ivar isBooked: Set by the runtime when the operation is on disk.
    @ivar role: The C{role} of the token, or L{None} if there was none.
    """

    command: str
    order: int
    cmds: frozenset[int]
    principal: int = 0
    key: str | None = None
    isBooked: bool = False
    role: int | None = None

    @property
    def reserved(self) -> int:
        """
        The order that its reservation will have.
        """
        return self.order


class BookedElsewhere(Deletion, eq=False, gc=False):
    """
    The mark of an event that another node has booked: it is no request of this one.
    """


class Decision(Struct, eq=False, gc=False):
    """
    The approval or the refusal of a finance request.

    @ivar isApproval: Whether the trade is booked; otherwise it is declined.
    @ivar comment: Becomes the comment of the trade. "" leaves that as it is: then the
        runtime sets this to it, so that a repetition finds it again.
    @ivar isBooked: Set by the runtime when the decision is on disk.
    @ivar role: The C{role} of the token, or L{None} if there was none.
    """

    command: str
    order: int
    isApproval: bool
    comment: str = ""
    principal: int = 0
    key: str | None = None
    isBooked: bool = False
    role: int | None = None

    @property
    def reserved(self) -> int:
        """
        The order that its reservation will have.
        """
        return self.order


# What a trading runtime can be asked to do.
AnyOperation: TypeAlias = Operation | Deletion | Decision


# Members of an operation that are not in the data of its request.
_NOT_DATA = frozenset(
    {
        "command",
        "cmd",
        "principal",
        "idempotencyKey",
        "isBooked",
        "role",
        "isRequest",
        "reserved",
    }
)

# The members of the data of a request that makes or updates a trade.
DATA_MEMBERS = tuple(
    name for name in Operation.__struct_encode_fields__ if name not in _NOT_DATA
)

# The attributes in which equal requests agree, by their names for the client. The cmd
# follows from most commands, but a finance request names it.
_CONTENT = {
    name if name == "command" else f"data.{name}": attribute
    for name, attribute in zip(
        Operation.__struct_encode_fields__, Operation.__struct_fields__, strict=True
    )
    if name in {"command", "cmd", *DATA_MEMBERS}
}


def difference(earlier: AnyOperation, repeated: AnyOperation) -> str | None:
    """
    The name of the first member in which a repeated request differs from the earlier
    one, or L{None}.
    """
    for member, attribute in _CONTENT.items():
        asked = getattr(repeated, attribute, None)
        if asked != getattr(earlier, attribute, None):
            if attribute == "comment" and not asked:
                # A decision that leaves the comment as it is.
                continue
            return member
    return None


class _Placed(Struct, kw_only=True):
    """
    What may have a place in a journal. It is given by name, so that the arguments of
    those that inherit it keep their order.
    """

    place: int | None = None


class TradeEvent(_Placed):
    """
    One broadcast of the trading runtime.

    @ivar type: One of the C{EV_RECORD_*} codes.
    @ivar data: The trade record: a L{Trade}, or the members of another runtime's
        record, which must have C{order}.
    @ivar operation: The operation that caused it, if the source knows it; never on
        the wire.
    @ivar place: Its place in the journal, 1, 2, 3 ... in the order of booking; L{None}
        if the source has none.
    """

    type: int
    data: Trade | Mapping[str, Any]
    operation: AnyOperation | None = None

    @property
    def order(self) -> int:
        """
        The order of the trade.
        """
        data = self.data
        return data.order if isinstance(data, Trade) else data["order"]

    @property
    def login(self) -> int | None:
        """
        The account, or L{None} if another runtime's record does not say it.
        """
        return loginOf(self.data)


class Reservation(TradeEvent, eq=False):
    """
    The runtime's promise that an operation has its order and will be booked. It is
    the event to come: once it is booked, the runtime publishes it as it is.

    As the C{__deferred} of a response it tells the session that the reply has to
    wait: for this event if the response is empty, and otherwise until it is on disk.

    @ivar data: The trade that the operation makes.
    @ivar isReplay: Whether it was booked before with the same key, and is not booked
        again. A reply that has it as C{__deferred} is sent at once.
    @ivar awaited: The Deferreds of L{whenDurable}. Don't set it, and don't copy a
        reservation: the copy would share them. Make a new one instead.
    @ivar balance: The account's balance after this operation; the runtime sets it.
    @ivar credit: The account's credit after this operation.
    """

    data: Trade
    operation: AnyOperation
    isReplay: bool = False
    awaited: "tuple[Deferred[None], ...]" = ()
    balance: int | None = None
    credit: int | None = None

    @property
    def eventType(self) -> int:
        """
        The type of the event, as C{type}.
        """
        return self.type

    @property
    def trade(self) -> Trade:
        """
        The trade that the operation makes, as C{data}.
        """
        return self.data

    def whenDurable(self) -> "Deferred[None]":
        """
        Wait until the operation can no longer be lost. Call this before it is
        booked.

        @return: Fires when the operation is on disk, or fails if that is unknown.
        """
        durable: Deferred[None] = Deferred()
        self.awaited += (durable,)
        return durable

    def booked(self) -> None:
        """
        Report that the operation is on disk. The runtime calls this.
        """
        for durable in self.awaited:
            durable.callback(None)

    def lost(self, why: Failure) -> None:
        """
        Report that it is unknown whether the operation is on disk. The runtime
        calls this.
        """
        for durable in self.awaited:
            durable.errback(why)


class Movement(Struct, gc=False):
    """
    What an operation moves, or the sum of what several of a kind moved: what the rules
    of a site judge and add up.

    @ivar principal: The C{id} of the token, or L{None} if it was not recorded.
    @ivar role: The role of the token, or L{None}.
    @ivar method: The name of the asynchronous command.
    @ivar amount: What counts, without a sign, in 10⁻⁸ units.
    @ivar group: The group of the account.
    """

    principal: int | None
    role: int | None
    login: int
    method: str
    amount: int
    group: str = ""


# The member of a response that tells the session what to do with it. The session
# takes it out first, so that no client ever sees it (docs/protocol.rst, "Runtime
# flow").
DEFERRED: Final = "__deferred"


class Located(Struct, gc=False):
    """
    A trade as a look-up finds it.

    @ivar cursor: The place of its last change in the journal, as clients see it, or
        L{None}.
    """

    data: Trade | Mapping[str, Any]
    cursor: str | None


# A trade, and the group of its account.
GroupedTrade: TypeAlias = tuple[Trade | Mapping[str, Any], str]


# What a command returns: the C{data} of its reply. C{bytes} are encoded already.
Response: TypeAlias = Trade | Mapping[str, Any] | Located | bytes
