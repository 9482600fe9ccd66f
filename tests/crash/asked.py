"""
One operation of a client, and everything that the client knows of it.

An operation is identified in the ledger by its comment, which begins with its
number. A deletion writes no comment, so there is at most one for each order.
"""

from collections.abc import Mapping
from typing import Any, Final

from attrs import define

from tests.family import (
    ADD,
    DELETE,
    METHODS,
    UPDATE,
    Request,
    Trade,
    made,
    units,
)

# The token's id, to which keys belong.
PRINCIPAL: Final = 7


@define(eq=False)
class Asked:
    """
    One operation that the driver has sent, once or more often.

    @ivar method: The command without C{Sync}.
    @ivar target: The order that it names, or 0.
    @ivar sent: How often it was sent.
    @ivar shut: How often the reply was 503: that request was not booked.
    @ivar order: The order that it was booked under, as far as is known.
    @ivar bookedIn: The life of the server in which it was first known to be
        booked.
    @ivar trade: The trade that it made, if that is known.
    @ivar answer: The data of its 200.
    @ivar isRefused: Whether a reply said that nothing was booked.
    """

    number: int
    method: str
    isSync: bool
    data: dict[str, Any]
    key: str | None
    sent: int = 0
    shut: int = 0
    order: int = 0
    bookedIn: int | None = None
    trade: Trade | None = None
    answer: dict[str, Any] | None = None
    isRefused: bool = False

    def __str__(self) -> str:
        """
        Enough to find it in the ledger and among the requests.
        """
        key = "no key" if self.key is None else f"the key {self.key}"
        return f"operation {self.number} ({self.command} with {key}, {self.data})"

    @property
    def command(self) -> str:
        """
        The command as it is sent.
        """
        return self.method + ("Sync" if self.isSync else "")

    @property
    def target(self) -> int:
        """
        The order that it changes, or 0.
        """
        return int(self.data.get("order", 0))

    @property
    def type(self) -> int:
        """
        The type of its event.
        """
        if self.method not in METHODS:
            return DELETE
        return UPDATE if self.target else ADD

    @property
    def isOpen(self) -> bool:
        """
        Whether its outcome is still unknown.
        """
        return self.bookedIn is None and not self.isRefused

    @property
    def isOwed(self) -> bool:
        """
        Whether it was sent, may be sent again, and has no reply.
        """
        isSendable = self.sent > 0 and self.key is not None
        return isSendable and self.answer is None and not self.isRefused

    @property
    def mayBeTwice(self) -> bool:
        """
        Whether it may be pending twice: a refusal for lack of money is decided
        afresh each time, so one of the two may be booked.
        """
        isSure = self.type == ADD and self.data["amount"] > 0
        return self.key is not None and (isSure or self.answer is not None)

    def accepts(self, trade: Trade) -> bool:
        """
        Whether a trade matches this operation, as far as it says.
        """
        # Members that it leaves open are unchanged, and its state is another
        # matter.
        wanted = made(self.request, trade, trade.order, trade.timestamp)
        return trade == wanted._replace(state=trade.state)

    @property
    def request(self) -> Request:
        """
        Its request, in the model's form.
        """
        return requestOf(self.command, self.data)


def requestOf(command: str, data: Mapping[str, Any]) -> Request:
    """
    The request of a command, in the model's form.
    """
    method = METHODS.get(command.removesuffix("Sync"))
    if method is None:
        return Request(command, order=data["order"])
    amount = units(data["amount"])
    assert amount is not None, data
    return Request(
        command,
        method.cmd,
        login=data["login"],
        amount=amount,
        comment=data["comment"],
        order=data.get("order", 0),
        open_time=data.get("open_time"),
        close_time=data.get("close_time"),
    )
