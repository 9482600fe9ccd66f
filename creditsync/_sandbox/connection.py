"""
One connection of the sandbox: what stands between a transport and the server, and
sees every line that passes either way.

A line passes unless a fault happens to it (L{creditsync._sandbox.table}). What is no
request passes as it is, and the server refuses it.
"""

from collections.abc import Callable
from math import inf
from typing import Any, Final

from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from zope.interface import implementer

from creditsync import _wire as wire
from creditsync._sandbox.foreign import COMMANDS, answer, mayBeForeign
from creditsync._sandbox.life import Life
from creditsync._sandbox.lines import Line, orderOf
from creditsync._sandbox.table import Where
from creditsync._sandbox.times import FORMS, LOOKUPS, Form
from creditsync.errors import InvalidJSON, Refusal, UnknownCommand

# The command that sets faults.
CONTROL: Final = "SandboxFault"

# Bytes of a line that has not ended, from which on it is left to the server.
_LONGEST: Final = 1 << 20

# Requests whose replies are awaited, at most: some are lost.
_MOST_ASKED: Final = 10_000


@implementer(IHalfCloseableProtocol, IHandshakeListener)
class Connection(ProtocolWrapper):
    """
    One connection.
    """

    wrappedProtocol: Any
    transport: Any

    def __init__(self, life: Life, wrapped: Any) -> None:
        super().__init__(life, wrapped)  # type: ignore[arg-type]
        self._life = life
        self._in = self._out = b""
        # The command of each request that has no reply yet, and the form of the times
        # in its reply.
        self._asked: dict[object, tuple[str, Form | None]] = {}
        # Replies that wait for the event of their order.
        self._held: dict[int, list[bytes]] = {}
        # Whether nothing passes any more, and whether the server knows.
        self._isOver = self._isLost = False
        self._hasProducer = False

    # What arrives.

    def handshakeCompleted(self) -> None:
        """
        TLS is established.
        """
        self.wrappedProtocol.handshakeCompleted()

    def dataReceived(self, data: bytes) -> None:
        """
        Take bytes as they arrive.
        """
        if self._isOver:
            return
        *lines, self._in = (self._in + data).split(b"\n")
        for line in lines:
            self._request(line + b"\n")
        if len(self._in) > _LONGEST:
            rest, self._in = self._in, b""
            self.handOn(rest)

    def _request(self, data: bytes) -> None:
        if self._isOver:
            return
        members = _decoded(data)
        name = members.get("command")
        if not isinstance(name, str):
            return self.handOn(data)
        script = self._life.script
        command = script.commandOf(name)
        if command == CONTROL:
            return self.deliver(self._life.control(members))
        line = Line(data, members, 0.0, 0)
        if command is None or command in self._life.unknown:
            unknown = UnknownCommand("unknown command")
            return self.deliver(wire.refusal(line.extID, unknown))
        form = self._formOf(command)
        if form is not None:
            members = form.asked(members)
        if form is not None or command != name:
            data = wire.encodeData({**members, "command": command}) + b"\r\n"
        if line.extID is not None:
            if len(self._asked) >= _MOST_ASKED:
                del self._asked[next(iter(self._asked))]
            self._asked[type(line.extID), line.extID] = command, form
        self._pass(Where.REQUEST, command, data, members, self.handOn)

    def _formOf(self, command: str) -> Form | None:
        """
        The form of the times in a look-up, unless it is that of the ledger.
        """
        if command not in LOOKUPS:
            return None
        happens = self._life.script.happens
        found = [form for form in FORMS if happens(form.name, command) is not None]
        return found[0] if found else None

    def handOn(self, data: bytes) -> None:
        """
        Let the server have a request, without this connection if that is lost.
        """
        if self._life.isOver:
            return
        if mayBeForeign(data):
            members = _decoded(data)
            if members.get("command") in COMMANDS:
                return self._line(answer(self._life.authenticate, members))
        if not self._isOver:
            self.wrappedProtocol.dataReceived(data)
            return
        members = _decoded(data)
        try:
            principal = self._life.authenticate(members.get("__token"))
        except Refusal:
            return
        server = self._life.server
        asked = server.call(members["command"], members.get("data", {}), principal)
        asked.addErrback(lambda why: why.trap(Refusal))

    # What is sent.

    def write(self, data: bytes) -> None:
        """
        Take bytes from the server.
        """
        isTouched = self._out or self._held or self._life.script.touchesOutput
        if not isTouched and data.endswith(b"\r\n"):
            # These are whole lines to which nothing can happen.
            self.deliver(data)
            return
        *lines, self._out = (self._out + data).split(b"\r\n")
        for line in lines:
            self._line(line + b"\r\n")

    def writeSequence(self, data: Any) -> None:
        """
        Take bytes from the server.
        """
        self.write(b"".join(data))

    def _line(self, data: bytes) -> None:
        if self._isOver:
            return
        members = _decoded(data)
        for between in self._life.script.every(Where.BETWEEN):
            assert between.fault.does is not None
            between.fault.does(self, Line(data, members, 0.0, 0))
        if "event" not in members:
            extID = members.get("extID")
            asked = self._asked.pop((type(extID), extID), (None, None))
            command, form = asked
            if form is not None:
                members = form.answered(members)
                data = wire.encodeData(members) + b"\r\n"
            self._pass(Where.REPLY, command, data, members, self.deliver)
            return
        self._pass(Where.EVENT, None, data, members, self.deliver)
        for held in self._held.pop(orderOf(members), []):
            self.deliver(held)

    def deliver(self, data: bytes) -> None:
        """
        Send a line.
        """
        if not self._isOver:
            self.transport.write(data)

    def _pass(
        self,
        where: Where,
        command: str | None,
        data: bytes,
        members: dict[str, Any],
        on: Callable[[bytes], None],
    ) -> None:
        """
        Have a line pass, or a fault happen to it.
        """
        setting = self._life.script.first(where, command, members)
        if setting is None:
            on(data)
            return
        part = setting.random.randrange(len(data))
        assert setting.fault.does is not None
        setting.fault.does(self, Line(data, members, setting.seconds, part))

    # What faults do. See creditsync._sandbox.table.Connection.

    def later(
        self, seconds: float, function: Callable[[bytes], None], data: bytes
    ) -> None:
        """
        Do something with a line later.
        """
        self._life.later(seconds, function, data)

    def hold(self, line: Line) -> None:
        """
        Hold a reply until the event of its order was sent.
        """
        order = orderOf(line.members)
        self._held.setdefault(order, []).append(line.data)
        self.later(line.seconds, lambda _: self._release(order), b"")

    def _release(self, order: int) -> None:
        for held in self._held.pop(order, []):
            self.deliver(held)

    def cut(self, data: bytes) -> None:
        """
        Send this, and close the connection.
        """
        self.deliver(data)
        self._isOver = True
        # The server is writing to it, or being given a line.
        self._life.later(0, self.end)

    def crash(self, seconds: float) -> None:
        """
        End the process.
        """
        self._life.crash(seconds)

    # The end.

    def stop(self) -> None:
        """
        Let nothing pass any more.
        """
        self._isOver = True

    def end(self) -> None:
        """
        Close it, and tell the server.
        """
        self._isOver = True
        if self._isLost:
            return
        self._lost(Failure(ConnectionLost()))
        if self._hasProducer:
            # A transport with a producer would stay open.
            self.unregisterProducer()
        self.transport.loseConnection()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """
        The server wants to know when what it has written has left.
        """
        self._hasProducer = True
        self.transport.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """
        The server does not want to know it any more.
        """
        self._hasProducer = False
        self.transport.unregisterProducer()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        The client is gone.
        """
        self._isOver = True
        if not self._isLost:
            self._lost(reason)

    def _lost(self, reason: Failure) -> None:
        self._isLost = True
        self._life.connections.pop(self, None)
        self.wrappedProtocol.connectionLost(reason)

    def readConnectionLost(self) -> None:
        """
        The client has closed its side.
        """
        if not self._isOver:
            self.wrappedProtocol.readConnectionLost()

    def writeConnectionLost(self) -> None:
        """
        This side is closed.
        """
        if not self._isOver:
            self.wrappedProtocol.writeConnectionLost()


def _decoded(data: bytes) -> dict[str, Any]:
    """
    The members of a line; none if it has no valid ones.
    """
    try:
        return wire.decode(data, maxMarks=inf)
    except InvalidJSON:
        return {}
