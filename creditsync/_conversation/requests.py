"""
From lines to requests, and to the commands that carry them out.

Most lines have nothing unusual: L{Requests.plain} reads them, several at once, and
checks them completely. Any other line is decoded first (L{creditsync._wire.decode});
then L{Requests.request} checks its members, and L{Requests.command} its data. Both
ways give the same requests.
"""

from collections.abc import Iterable
from typing import Any

from creditsync import _wire as wire
from creditsync._conversation.plain import PlainLines
from creditsync.counters import UNKNOWN
from creditsync.errors import Forbidden, InvalidData, ShuttingDown, UnknownCommand
from creditsync.interfaces import ICommand
from creditsync.methods import BOOKING_METHODS
from creditsync.records import ExtID, Principal, Request
from creditsync.validation import Schemas


def _nonePlain(lines: bytes) -> list[Request]:
    """
    Treat no line as plain.
    """
    return []


class Requests:
    """
    What clients may ask of one server.

    @ivar plain: Reads lines up to the first that has something unusual
        (L{PlainLines.read}). It reads none if a site's own schema has to check such
        lines too, or if the server is stopping.
    """

    def __init__(self, commands: Iterable[ICommand], schemas: Schemas) -> None:
        self._commands = {command.name: command for command in commands}
        self._schemas = schemas
        self._isStopping = False
        checking = {"request", *(method.schema for method in BOOKING_METHODS)}
        hasSite = any(map(schemas.hasSite, checking))
        self.plain = _nonePlain if hasSite else PlainLines().read

    @property
    def names(self) -> frozenset[str]:
        """
        The names of all commands.
        """
        return frozenset(self._commands)

    def request(self, members: dict[str, Any]) -> Request:
        """
        Check the envelope of a line that was decoded.

        @raise InvalidData: A member of it breaks the schema.
        @raise ShuttingDown: The server is stopping.
        """
        self._schemas.check("request", members)
        if self._isStopping:
            raise ShuttingDown()
        return Request(
            members["command"],
            members.get("extID"),
            members.get("__token"),
            members.get("data", {}),
            members.get("idempotencyKey"),
        )

    def command(
        self, request: Request, principal: Principal, needsExtID: bool = True
    ) -> ICommand:
        """
        The command that a request asks for, if it may be carried out.

        @param needsExtID: Whether its replies are told apart by their C{extID}.
        @raise UnknownCommand: There is none of that name.
        @raise Forbidden: The principal's role may not use it.
        @raise InvalidData: A member is missing or breaks its schema.
        """
        command = self._commands.get(request.command)
        if command is None:
            raise UnknownCommand("unknown command")
        if principal.role not in command.roles:
            raise Forbidden(f"this token's role may not use {command.name}")
        if request.operation is None:
            if needsExtID and command.needsExtID and request.extID is None:
                raise InvalidData(f"extID is required by {command.name}")
            self._schemas.check(command.schema, request.data, "data")
        return command

    def refused(
        self, request: Request | None, members: dict[str, Any], line: bytes
    ) -> Request:
        """
        What is known of a request that is refused, whatever is wrong with it: a
        request without a token, with C{UNKNOWN} in place of a command that
        doesn't exist, and with the C{extID} of the reply.

        @param request: The request, if its envelope was valid.
        @param members: The members of its line, if that was decoded.
        """
        if request is None:
            members = members or wire.salvage(line)
            command, data = members.get("command"), members.get("data")
            request = Request(
                command if isinstance(command, str) else UNKNOWN,
                self._validExtID(members.get("extID")),
                None,
                data if isinstance(data, dict) else {},
            )
        if request.command in self._commands:
            return request
        return Request(UNKNOWN, request.extID, None, {})

    def _validExtID(self, extID: Any) -> ExtID | None:
        if extID is None:
            return None
        members = {"command": "any", "extID": extID}
        return extID if self._schemas.isOurs("request", members) else None

    def stop(self) -> None:
        """
        Refuse every request from now on.
        """
        self._isStopping = True
        self.plain = _nonePlain
