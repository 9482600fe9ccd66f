"""
A line on its way through a connection of the sandbox, and that connection as a fault
needs it.
"""

import typing
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define

from creditsync.records import ExtID


@define(frozen=True)
class Line:
    """
    A line, with its end, on its way through a connection.

    @ivar members: What it says.
    @ivar seconds: The time that its fault takes.
    @ivar part: How many of its bytes are sent if it is cut.
    """

    data: bytes
    members: Mapping[str, Any]
    seconds: float
    part: int

    @property
    def extID(self) -> ExtID | None:
        """
        That of its request, if it can be echoed.
        """
        return extIDOf(self.members)


class Connection(typing.Protocol):
    """
    One connection, as a fault needs it.
    """

    def handOn(self, data: bytes) -> None:
        """
        Let the server have a request.
        """

    def deliver(self, data: bytes) -> None:
        """
        Send a line.
        """

    def later(
        self, seconds: float, function: Callable[[bytes], None], data: bytes
    ) -> None:
        """
        Do one of these later.
        """

    def hold(self, line: Line) -> None:
        """
        Send a reply only when the event of its order was sent, or its time is over.
        """

    def cut(self, data: bytes) -> None:
        """
        Send this, and close the connection.
        """

    def crash(self, seconds: float) -> None:
        """
        End the process, which is there again after so many seconds.
        """


def extIDOf(members: Mapping[str, Any]) -> ExtID | None:
    """
    The C{extID} of a line, if it can be echoed.
    """
    extID = members.get("extID")
    return extID if type(extID) in (str, int) else None


def memberOf(members: Mapping[str, Any], name: str) -> Any:
    """
    A member of the data, if there is one.
    """
    data = members.get("data")
    return data.get(name) if isinstance(data, Mapping) else None


def orderOf(members: Mapping[str, Any]) -> Any:
    """
    The order that an event or a reply is about, or L{None}.
    """
    return memberOf(members, "order")
