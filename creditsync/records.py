"""
The values that travel through the house; no I/O, and nothing that decides.

Who makes one may complete it; nobody changes it once it was handed on, except
where its docstring says so.
They are C{msgspec.Struct}s, which take less than half as long to make as C{attrs}
classes: every credit makes six of them. Those that can't be part of a cycle say
so (C{gc=False}), and the garbage collector has no work with them.

Money is always an integer number of 10⁻⁸ units, time is UNIX seconds.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from creditsync.codes import TS_CLOSED_NORMAL

# Its place until 0.1, where applications that embed a server still find it.
from creditsync.limits import Limits as Limits

ExtID: TypeAlias = str | int | float

# The names on the wire and in a ledger, where they are not the attributes'.
_NAMES = {
    "token": "__token",
    "key": "idempotencyKey",
    "openTime": "open_time",
    "closeTime": "close_time",
}


class Request(Struct, gc=False, rename=_NAMES):
    """
    One line from a client, its envelope checked and its data not yet. Its
    members are those that the server reads of a line.

    @ivar extID: The client's correlation id, echoed with its JSON type.
    @ivar token: The C{__token} as it came, or L{None} without one.
    @ivar data: The command's parameters as they came.
    @ivar key: What makes a repetition of this request safe: the
        C{idempotencyKey}, or L{None} without one.
    """

    command: str
    extID: ExtID | None
    token: str | None
    data: dict[str, Any]
    key: str | None = None


class Principal(Struct, gc=False):
    """
    Whom a token speaks for (wire contract, section 5).

    @ivar id: The principal's number.
    @ivar role: One of the C{SESSION_*} codes.
    @ivar expires: The UNIX time from which the token is no longer good.
    @ivar jti: The token's own id, by which it can be revoked.
    """

    id: int
    role: int
    expires: float
    jti: str | None = None


class Trade(Struct, gc=False, rename=_NAMES):
    """
    A finance trade as it is at one moment: what the ledger keeps as a row and
    a trade event carries as its data. Its members and their order are those of
    C{TRADE_MEMBERS}, and everything else that lists them is made of these or
    tested against them.

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
        What this trade adds to its account's total, in 10⁻⁸ units.
        """
        return self.profit if self.state == TS_CLOSED_NORMAL else 0


# The members of a trade as they are called on the wire and in a ledger.
TRADE_MEMBERS = Trade.__struct_encode_fields__


class Account(Struct, gc=False):
    """
    An account's totals, in 10⁻⁸ units: the sums of its booked trades.

    The runtime changes them as it takes operations in.
    """

    login: int
    balance: int = 0
    credit: int = 0


class Operation(Struct, eq=False, gc=False, rename=_NAMES):
    """
    What a finance command asks of the trading runtime: a new trade, or the
    update of one.

    A member that is added here makes two requests with one key differ, as long
    as it is not among those of which L{DATA_MEMBERS} says otherwise.

    Two operations are never equal: each is the mark by which the event that
    it causes is known.

    @ivar command: The asynchronous or C{*Sync} command that asks.
    @ivar cmd: One of the C{OP_*} codes.
    @ivar amount: Signed, in 10⁻⁸ units.
    @ivar order: The existing order to update, or 0 for a new one.
    @ivar openTime: UNIX seconds; L{None} is the time of booking, or leaves an
        existing trade's as it is.
    @ivar closeTime: As C{openTime}.
    @ivar principal: Who asks: the C{id} of the token.
    @ivar key: The C{idempotencyKey}, by which a repeated request of the same
        principal is known, or L{None}.
    @ivar isBooked: The runtime's note that the operation is on disk.
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


class Deletion(Struct, eq=False, gc=False):
    """
    What C{DeleteCredit} and C{DeleteBalance} ask of the trading runtime.

    @ivar cmds: The C{OP_*} codes of the trades that the command may delete.
    @ivar isBooked: The runtime's note that the operation is on disk.
    """

    command: str
    order: int
    cmds: frozenset[int]
    principal: int = 0
    key: str | None = None
    isBooked: bool = False


# Members of an operation that are not in the data of its request: what the
# command stands for, who asked under which key, and the runtime's note.
_NOT_DATA = frozenset({"command", "cmd", "principal", "idempotencyKey", "isBooked"})

# The members of the data of a request that makes or updates a trade.
DATA_MEMBERS = tuple(
    name for name in Operation.__struct_encode_fields__ if name not in _NOT_DATA
)

# What makes two requests the same: each attribute by the name that a client is
# told.
_CONTENT = {
    name if name == "command" else f"data.{name}": attribute
    for name, attribute in zip(
        Operation.__struct_encode_fields__, Operation.__struct_fields__, strict=True
    )
    if name == "command" or name in DATA_MEMBERS
}


def difference(one: Operation | Deletion, other: Operation | Deletion) -> str | None:
    """
    The name of the first member in which two requests differ, if any.
    """
    for member, attribute in _CONTENT.items():
        if getattr(one, attribute, None) != getattr(other, attribute, None):
            return member
    return None


class Reservation(Struct, eq=False):
    """
    The runtime's word that an operation has its order and will be booked.

    @ivar eventType: The C{EV_RECORD_*} of the event that the booking emits.
    @ivar trade: The trade as the operation makes it.
    @ivar isReplay: Whether it was booked before, under the same key, and is
        not booked again.
    @ivar awaited: What L{whenDurable} gave, which nobody else sets. A copy would
        share it: to make another reservation of the same is better.
    """

    eventType: int
    trade: Trade
    operation: Operation | Deletion
    isReplay: bool = False
    awaited: "tuple[Deferred[None], ...]" = ()

    @property
    def order(self) -> int:
        """
        The order, new or reused.
        """
        return self.trade.order

    def whenDurable(self) -> "Deferred[None]":
        """
        Wait until the operation can no longer be lost; to be called before it
        is booked.

        @return: Fires when the operation is on disk, or fails when nobody
            knows whether it is.
        """
        durable: Deferred[None] = Deferred()
        self.awaited += (durable,)
        return durable

    def booked(self) -> None:
        """
        The runtime's call: the operation is on disk.
        """
        for durable in self.awaited:
            durable.callback(None)

    def lost(self, why: Failure) -> None:
        """
        The runtime's call: nobody knows whether the operation is on disk.
        """
        for durable in self.awaited:
            durable.errback(why)


class Deferral(Struct):
    """
    The service object that a finance command adds to its response as
    C{__deferred}: what the reply has to wait for.

    @ivar durable: With it, the reply is the response itself, sent as soon as
        this fires; without it, the reply is the data of the event that
        C{operation} causes.
    """

    order: int
    eventType: int
    operation: Operation | Deletion
    durable: "Deferred[None] | None" = None


class Replay(Struct, gc=False):
    """
    The service object that stands under C{__deferred} where nothing has to be
    waited for: the operation was booked before.

    @ivar trade: The trade as it was booked then, if that is the reply;
        without it, the reply is the response itself.
    """

    order: int
    trade: Trade | None = None


class TradeEvent(Struct):
    """
    One broadcast of the trading runtime.

    @ivar type: One of the C{EV_RECORD_*} codes.
    @ivar data: The trade record: ours, or the members of a foreign one, which
        must have C{order}.
    @ivar operation: The operation that caused it, if the source knows; never
        on the wire.
    """

    type: int
    data: Trade | Mapping[str, Any]
    operation: Operation | Deletion | None = None

    @property
    def order(self) -> int:
        """
        The order that this event is about.
        """
        data = self.data
        return data.order if isinstance(data, Trade) else data["order"]
