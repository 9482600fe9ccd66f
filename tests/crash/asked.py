"""
One operation that a client asks for, and all that it knows of it.

An operation is known in the ledger by its comment, which begins with its
number. A deletion writes no comment, and so there is at most one for each
order.
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
    One operation that the driver has asked for, once or more often.

    @ivar method: The command without C{Sync}.
    @ivar target: The order that it names, or 0.
    @ivar sent: How often it was sent.
    @ivar shut: How often the answer was 503: nothing came of that sending.
    @ivar order: What it was booked under, as far as is known.
    @ivar bookedIn: The life of the server in which it was first known to be
        booked.
    @ivar trade: What it made, if that was told.
    @ivar answer: The data of its 200.
    @ivar isRefused: Whether it was told that nothing had happened.
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
        Enough to find it in the ledger and among what was sent.
        """
        key = "no key" if self.key is None else f"the key {self.key}"
        return f"operation {self.number} ({self.command} with {key}, {self.data})"

    @property
    def command(self) -> str:
        """
        As it is sent.
        """
        return self.method + ("Sync" if self.isSync else "")

    @property
    def target(self) -> int:
        """
        The order that it is to change, or 0.
        """
        return int(self.data.get("order", 0))

    @property
    def type(self) -> int:
        """
        Of the event that it causes.
        """
        if self.method not in METHODS:
            return DELETE
        return UPDATE if self.target else ADD

    @property
    def isOpen(self) -> bool:
        """
        Whether nobody has said yet what became of it.
        """
        return self.bookedIn is None and not self.isRefused

    @property
    def isOwed(self) -> bool:
        """
        Whether it was sent, may be sent again, and has no answer.
        """
        isSendable = self.sent > 0 and self.key is not None
        return isSendable and self.answer is None and not self.isRefused

    @property
    def mayBeTwice(self) -> bool:
        """
        Whether it may be under way twice: what could be refused for want of
        money is judged afresh each time, and then one of the two may be booked.
        """
        isSure = self.type == ADD and self.data["amount"] > 0
        return self.key is not None and (isSure or self.answer is not None)

    def accepts(self, trade: Trade) -> bool:
        """
        Whether a trade is what this asked for, as far as it did.
        """
        # What it leaves open is as it was, and its state is another question.
        wanted = made(self.request, trade, trade.order, trade.timestamp)
        return trade == wanted._replace(state=trade.state)

    @property
    def request(self) -> Request:
        """
        What it asks for, as the model has it.
        """
        return requestOf(self.command, self.data)


def requestOf(command: str, data: Mapping[str, Any]) -> Request:
    """
    What a command asks for, as the model has it.
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
