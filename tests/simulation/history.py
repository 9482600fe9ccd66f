"""
The record of one run as seen from outside, against which the server is
checked.

Clients record what they sent and received, with the times; the storage records
what it was told to commit and when that was on disk; an observer of the event
stream records what was published.
"""

from collections.abc import Mapping
from decimal import Decimal
from json import JSONDecoder
from typing import Any

from attrs import define, field

from creditsync import records
from tests.family import WAITS, Trade, units

# A moment: seconds, and the turn of the world.
Moment = tuple[float, int]
NEVER: Moment = (float("inf"), 0)

# Reads a JSON text; no amount is ever rounded.
parse = JSONDecoder(parse_float=Decimal).decode


def committed(trade: records.Trade) -> Trade:
    """
    A trade of the server, in the model's form.
    """
    return Trade(
        order=trade.order,
        login=trade.login,
        cmd=trade.cmd,
        state=trade.state,
        profit=trade.profit,
        comment=trade.comment,
        open_time=trade.openTime,
        close_time=trade.closeTime,
        timestamp=trade.timestamp,
    )


@define(eq=False)
class Token:
    """
    The token of a client's requests.

    @ivar expires: The UNIX time at which it expires, if that is in this
        history.
    @ivar revoked: When it was revoked, in seconds of the monotonic clock.
    @ivar groups: The claim of this name, as are C{login} and C{logins}.
    """

    text: str
    principal: int
    role: int
    jti: str
    expires: float | None = None
    revoked: float | None = None
    groups: str | None = None
    login: int | None = None
    logins: tuple[int, ...] | None = None

    @property
    def isLimited(self) -> bool:
        """
        Whether it is, or may become, invalid.
        """
        return self.expires is not None or self.revoked is not None


@define(eq=False)
class Intent:
    """
    What a client wants, however often it has to ask for it.

    @ivar command: The command, or the text of a line that is none.
    @ivar data: The parameters, amounts as exact texts turned into C{Decimal}.
    @ivar cmd: The C{cmd} of the trades, or 0 where none is booked.
    @ivar allowed: The errors that may come of it by what it is, beside those
        which the state of the server causes.
    @ivar isGood: Whether 200 is a possible answer.
    @ivar line: The line, where it is not made of the members above; C{{extID}}
        and C{{token}} stand in it for what they say.
    """

    number: int
    token: Token
    command: str
    data: Mapping[str, Any]
    cmd: int = 0
    key: str | None = None
    allowed: frozenset[str] = frozenset()
    isGood: bool = True
    line: str | None = None
    bookings: "list[Booking]" = field(factory=list)
    attempts: "list[Attempt]" = field(factory=list)

    @property
    def isSync(self) -> bool:
        """
        Whether the reply has the event's data.
        """
        return self.command.endswith("Sync")

    @property
    def resumes(self) -> bool:
        """
        Whether it is a C{Subscribe} from a place.
        """
        return self.command == "Subscribe" and "since" in self.data

    @property
    def isMove(self) -> bool:
        """
        Whether it moves an account to a group.
        """
        return self.command == "MngSetAccountGroup"

    @property
    def waitsForTurn(self) -> bool:
        """
        Whether it is a look-up that is carried out when it is its turn.
        """
        names = ("GetTradeByOrders", "MngGetTradesByFilter", "GetGroups")
        return self.command in names

    @property
    def isFinance(self) -> bool:
        """
        Whether it can book something.
        """
        return bool(self.cmd) or self.isOfOrder

    @property
    def isDelete(self) -> bool:
        """
        Whether it deletes a trade.
        """
        return self.command.startswith("Delete")

    @property
    def isRequest(self) -> bool:
        """
        Whether it makes a finance request.
        """
        return self.command == "MngCreateFinanceRequest"

    @property
    def approves(self) -> bool | None:
        """
        Whether it approves a finance request, or declines it; L{None} if neither.
        """
        if self.command.startswith("MngApproveFinanceRequest"):
            return True
        return False if self.command == "MngDeclineFinanceRequest" else None

    @property
    def isOfOrder(self) -> bool:
        """
        Whether it has little more than an order, of which it can be booked only once:
        so several of them may be the same.
        """
        return self.isDelete or self.approves is not None

    @property
    def amount(self) -> int:
        """
        In 10⁻⁸ units.
        """
        exact = units(Decimal(self.data["amount"]))
        assert exact is not None, self.data
        return exact


@define(eq=False)
class Attempt:
    """
    One request: one line that was sent.

    @ivar token: The token in it: that of its intent, or another one of the same
        principal and role.
    @ivar extID: The C{extID} as it stands in the line, or C{""}.
    @ivar end: Where the line ends in what its connection sent.
    @ivar begun: When the server had a part of it, but not all.
    @ivar delivered: When the server had all of it.
    @ivar reserved: When a foreign runtime reserved its order.
    """

    intent: Intent
    talk: "Talk"
    token: Token
    extID: str
    end: int
    sent: Moment
    begun: float | None = None
    delivered: Moment | None = None
    reply: "Reply | None" = None
    reserved: Moment | None = None

    @property
    def status(self) -> int:
        """
        The status of the reply, or 0 while there is none.
        """
        return 0 if self.reply is None else self.reply.status


@define(eq=False)
class Reply:
    """
    A line that answers.

    @ivar position: Which of its connection's lines it was.
    @ivar written: When it left the server.
    """

    status: int
    raw: bytes
    value: dict[str, Any]
    position: int
    written: Moment

    @property
    def error(self) -> str:
        """
        The error's name, or C{""}.
        """
        return str(self.value.get("error", ""))

    @property
    def dataText(self) -> bytes:
        """
        The text of C{data}.
        """
        text = self.raw[self.raw.index(b'"data":') + 7 : -1]
        return text.removesuffix(b',"replayed":true')


@define(eq=False)
class Talk:
    """
    One connection, as its client saw it.

    @ivar events: The event lines, each with its position among all lines and
        the moment when it left the server.
    @ivar lostAt: From when on what the server sent may be lost.
    @ivar abortedAt: When the server cut it off.
    @ivar goodbye: When the server ended its output.
    @ivar closed: When the server's end was closed.
    @ivar halfClosed: Whether the client ended its output.
    @ivar isUnfinished: Whether the client left a line unfinished.
    @ivar stalls: The times in which the server was kept from writing or
        reading, or from either, with an end of infinity while it lasts.
    """

    name: str
    generation: int
    opened: float
    token: Token
    attempts: list[Attempt] = field(factory=list)
    events: list[tuple[bytes, int, Moment]] = field(factory=list)
    lostAt: float = float("inf")
    abortedAt: float = float("inf")
    goodbye: Moment = NEVER
    closed: Moment = NEVER
    halfClosed: bool = False
    isUnfinished: bool = False
    stalls: list[list[float]] = field(factory=list)

    @property
    def isEnding(self) -> bool:
        """
        Whether its client did something that ends it.
        """
        return (
            self.halfClosed
            or self.isUnfinished
            or any("LINE_TOO_LONG" in each.intent.allowed for each in self.attempts)
        )

    def wasHeldUp(self, first: float, last: float) -> bool:
        """
        Whether this connection was kept from being served in this time.
        """
        return any(start <= last and end >= first for start, end in self.stalls)


@define(eq=False)
class Booking:
    """
    A trade as it was to be committed.

    @ivar handed: When the ledger was told.
    @ivar applied: When its transaction was on disk, or L{None} while it isn't.
    @ivar place: Its place in the journal, once it is known to be on disk.
    @ivar raw: The line of its event, as it was seen first, in whichever process.
    @ivar isDoubtful: Whether only the next server can tell if it is.
    @ivar isLost: Whether it never will be.
    """

    generation: int
    type: int
    trade: Trade
    principal: int
    key: str | None
    command: str
    handed: Moment
    applied: Moment | None = None
    isDoubtful: bool = False
    isLost: bool = False
    place: int | None = None
    raw: bytes | None = None
    published: "Publication | None" = None
    intent: Intent | None = None

    @property
    def isDecision(self) -> bool:
        """
        Whether it approves or declines a finance request.
        """
        return self.command.startswith(("MngApprove", "MngDecline"))

    @property
    def isOfRequests(self) -> bool:
        """
        Whether it makes or decides a finance request.
        """
        return self.isDecision or self.trade.state == WAITS

    @property
    def dataText(self) -> bytes | None:
        """
        The text of C{data}, if any client has got its event.
        """
        return None if self.raw is None else _dataOf(self.raw)


def _dataOf(line: bytes) -> bytes:
    return line[line.index(b'"data":') + 7 : -1]


@define(eq=False)
class Publication:
    """
    An event as it was published.

    @ivar data: The trade in it.
    @ivar operation: The operation with which it was marked, if it was.
    """

    generation: int
    type: int
    data: Trade
    at: Moment
    wall: float
    booking: Booking | None = None
    operation: object = None
    _raw: bytes | None = field(init=False, default=None)

    @property
    def raw(self) -> bytes | None:
        """
        Its line, as it was seen first.
        """
        return self._raw if self.booking is None else self.booking.raw

    @raw.setter
    def raw(self, line: bytes) -> None:
        if self.booking is None:
            self._raw = line
        else:
            self.booking.raw = line

    @property
    def dataText(self) -> bytes | None:
        """
        The text of C{data}, if any client has got it.
        """
        return None if self.raw is None else _dataOf(self.raw)


@define(eq=False)
class Move:
    """
    A move of an account to a group, as it was handed to the trading runtime; or the
    group that an account was found to have.

    @ivar begun: When it was handed over.
    @ivar ended: When the runtime said that it is in force and can't be undone.
    @ivar isThere: Whether there is such an account after it.
    """

    login: int
    group: str
    begun: Moment
    ended: Moment = NEVER
    isThere: bool = True


@define(eq=False)
class Generation:
    """
    The life of one server process.

    @ivar head: The last place that it found in its ledger.
    @ivar ready: When its ledger was open, and requests that had come were handled.
    @ivar stopping: From when on it was told to stop, or has failed.
    @ivar ended: When it ended.
    """

    number: int
    started: Moment
    head: int = 0
    ready: float = float("inf")
    stopping: float = float("inf")
    ended: float = float("inf")
    hasFailed: bool = False
    hasCrashed: bool = False
    failures: list[str] = field(factory=list)


@define(eq=False)
class History:
    """
    All of it.

    @ivar epoch: That of the ledger, the same in all processes.
    """

    isForeign: bool
    epoch: str = ""
    intents: list[Intent] = field(factory=list)
    talks: list[Talk] = field(factory=list)
    bookings: list[Booking] = field(factory=list)
    publications: list[Publication] = field(factory=list)
    generations: list[Generation] = field(factory=list)
    moves: list[Move] = field(factory=list)

    def makerOf(self, comment: str) -> Intent | None:
        """
        The intent whose trade has this comment, which begins with its number: L{None}
        if nobody has asked for it.
        """
        number = comment.split(" ")[0]
        return self.intents[int(number)] if number.isdigit() else None
