"""
C{creditsync demo}: runs the server on a temporary ledger, and sends it the request
of C{docs/protocol.rst}, "A credit", over TCP. With several nodes these are on a
temporary PostgreSQL, and the event of the first one's credit comes on the others too.
"""

import json
import re
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, TimeoutError, maybeDeferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.error import ConnectError
from twisted.internet.task import deferLater, react
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.usage import UsageError

from creditsync import __version__
from creditsync._cli.arguments import text
from creditsync._cli.ledger import errorsAsExit
from creditsync._cli.output import printLine
from creditsync._cli.ownpostgres import ownPostgres
from creditsync._cli.statuses import INTERRUPTED
from creditsync._cli.stopping import untilStopped
from creditsync._process.address import withPsycopg
from creditsync._process.composition import creditSync
from creditsync._process.defaults import DEFAULT_LISTEN
from creditsync._process.keys import makeKey
from creditsync._process.options import Options
from creditsync._process.server import Server
from creditsync._process.settling import settleProcess
from creditsync._process.starting import CannotStart
from creditsync.auth import mint
from creditsync.codes import SESSION_MANAGER

_Address: TypeAlias = IPv4Address | IPv6Address

_ANY_PORT = "tcp:0:interface=127.0.0.1"
# Seconds to wait for the reply: longer than the server's own timeout, after which
# it answers too.
_PATIENCE = 8.0


def addCommand(commands: Any) -> None:
    """
    Add the subcommand to the command line.
    """
    parser: ArgumentParser = commands.add_parser(
        "demo",
        help="try the server with one credit",
        description="Run the server on a temporary ledger, send it one credit over"
        " TCP and print what goes each way; then serve until Ctrl-C. With --nodes 2"
        " there are two servers on a temporary PostgreSQL, and the event of the first"
        " one's credit comes on the second, too. It leaves no files behind.",
    )
    parser.add_argument(
        "--once", action="store_true", help="exit after the first credit"
    )
    parser.add_argument(
        "--listen",
        metavar="ENDPOINT",
        type=_endpoint,
        help=f"a tcp: endpoint (default: {DEFAULT_LISTEN}, or any free port if that"
        " is taken)",
    )
    parser.add_argument(
        "--nodes",
        metavar="NUMBER",
        type=_number,
        default=1,
        help="run so many servers that act as one, on a PostgreSQL of their own",
    )
    parser.set_defaults(name="demo", run=run)


def _number(argument: str) -> int:
    if not re.fullmatch("[1-9]", argument):
        raise ArgumentTypeError(f"must be a number from 1 to 9: {argument}")
    return int(argument)


def _endpoint(argument: str) -> str:
    endpoint = text(argument)
    if not endpoint.startswith("tcp:"):
        raise ArgumentTypeError(f"the demo listens on a tcp: endpoint only: {endpoint}")
    try:
        Options().opt_listen(endpoint)
    except UsageError as e:
        raise ArgumentTypeError(str(e)) from e
    return endpoint


def run(options: Namespace) -> None:
    """
    Run the demo in the global reactor.
    """
    with errorsAsExit(options):
        if options.nodes > 1:
            with withPsycopg():
                import creditsync.postgres._connection  # noqa: F401
        react(demo, (options.listen, options.once, options.nodes))


async def demo(reactor: Any, listen: str | None, once: bool, nodes: int = 1) -> None:
    """
    Serve, send one credit, and go on serving.

    @param once: Do not go on.
    @param nodes: How many servers there are.
    @raise SystemExit: A server can't start, or the credit was not booked.
    """
    settleProcess(reactor)
    with (
        TemporaryDirectory(prefix="creditsync-demo-") as folder,
        ExitStack() as stack,
        untilStopped(reactor, lambda: INTERRUPTED) as stopped,
    ):
        key = makeKey(Path(folder, "creditsync.key"))
        ledger = f"{folder}/creditsync.db"
        if nodes > 1:
            # From here on a signal ends this in order.
            await deferLater(reactor, 0)
            ledger = stack.enter_context(ownPostgres())
        servers: list[Server] = []
        try:
            for number in range(nodes):
                name = f"node-{number + 1}" if nodes > 1 else None
                arguments = _arguments(folder, ledger, name)
                servers.append(_start(reactor, arguments, key, listen, number > 0))
            addresses = [_addressOf(server) for server in servers]
            token = mint(
                key, id=7, role=SESSION_MANAGER, expires=86400, now=time.time()
            )
            for address in addresses:
                printLine(f"creditsync {__version__} on {address.host}:{address.port}")
            printLine("")
            await _show(reactor, addresses, token)
            if once:
                return
            _invite(addresses[-1], token)
            await stopped
        finally:
            for server in servers:
                await maybeDeferred(server.stopService)


def _arguments(folder: str, ledger: str, node: str | None) -> list[str]:
    """
    The options of one server.
    """
    named = [] if node is None else ["--node", node]
    return ["--ledger", ledger, "--key", f"{folder}/creditsync.key", *named]


def _addressOf(server: Server) -> _Address:
    address = server.creditSync.ports[0].getHost()
    assert isinstance(address, (IPv4Address, IPv6Address))
    return address


def _start(
    reactor: Any,
    arguments: Sequence[str],
    key: bytes,
    listen: str | None,
    isFurther: bool,
) -> Server:
    """
    Start a server, on any free port if the usual one is taken.

    @param isFurther: Whether another one has the usual port already.
    @raise CannotStart: It can't start.
    """
    if isFurther:
        return _startOn(reactor, arguments, key, _ANY_PORT)
    try:
        return _startOn(reactor, arguments, key, listen or DEFAULT_LISTEN)
    except CannotStart:
        if listen is not None:
            raise
    printLine("Port 8080 is taken; using another one.")
    return _startOn(reactor, arguments, key, _ANY_PORT)


def _startOn(reactor: Any, arguments: Sequence[str], key: bytes, listen: str) -> Server:
    options = Options()
    options.parseOptions(  # type: ignore[no-untyped-call]
        ["--listen", listen, *arguments]
    )
    server = Server(reactor, creditSync(reactor, options, key))
    server.privilegedStartService()
    server.startService()
    return server


class _Conversation(LineOnlyReceiver):
    """
    A client that prints what it receives.

    @ivar reply: Fires with the reply to its request.
    @ivar event: Fires with an event.
    """

    def __init__(self, name: str = "") -> None:
        """
        @param name: Stands in front of each line, if there are several clients.
        """
        self._name = name
        self.reply: Deferred[dict[str, Any]] = Deferred()
        self.event: Deferred[dict[str, Any]] = Deferred()

    def say(self, line: str, shown: str | None = None) -> None:
        """
        Send a line, and print it.

        @param shown: What is printed instead.
        """
        printLine(f"{self._name}-> {shown or line}")
        self.sendLine(line.encode())  # type: ignore[no-untyped-call]

    def lineReceived(self, line: bytes) -> None:
        """
        Print a line from the server.
        """
        printLine(f"{self._name}<- {line.decode('ascii')}")
        message = json.loads(line)
        awaited = self.event if "event" in message else self.reply
        if not awaited.called:
            awaited.callback(message)


def _request(extID: str, token: str) -> str:
    """
    The request, with a token.
    """
    return json.dumps(
        {
            "command": "CreditInSync",
            "extID": extID,
            "__token": token,
            "data": {"login": 1001, "amount": 300.0, "comment": "Promotion credit"},
        },
        separators=(",", ":"),
    )


def _listening(token: str) -> str:
    """
    The request of a client that only wants to receive events, with a token.
    """
    request = {"command": "HealthCheck", "extID": "health-1", "__token": token}
    return json.dumps({**request, "data": {}}, separators=(",", ":"))


async def _show(reactor: Any, addresses: Sequence[_Address], token: str) -> None:
    """
    Send one credit and print what goes each way.

    @raise SystemExit: There was no reply, or it was not booked, or its event did not
        come from all servers.
    """
    shown = f"{token[:12]}..."
    try:
        clients = []
        for number, address in enumerate(addresses, 1):
            name = f"node-{number} " if len(addresses) > 1 else ""
            endpoint = HostnameEndpoint(reactor, address.host, address.port)
            clients.append(await connectProtocol(endpoint, _Conversation(name)))
        first, *others = clients
        for each in others:
            each.say(_listening(token), _listening(shown))
            await each.reply.addTimeout(_PATIENCE, reactor)
        extID = "credit-req-1001"
        first.say(_request(extID, token), _request(extID, shown))
        reply = await first.reply.addTimeout(_PATIENCE, reactor)
        for each in others:
            await each.event.addTimeout(_PATIENCE, reactor)
        for each in clients:
            each.transport.loseConnection()
    except (ConnectError, TimeoutError) as e:
        raise SystemExit(f"creditsync demo: the server didn't answer: {e}") from e
    if reply["status"] != 200 or reply["data"]["profit"] != 300.0:
        raise SystemExit("creditsync demo: the credit was not booked")


def _invite(address: _Address, token: str) -> None:
    """
    Print how to send another request.
    """
    printLine("\nTry it from another terminal (Ctrl-C ends the demo):\n")
    request = _request("credit-req-1002", token)
    printLine(f"printf '%s\\r\\n' '{request}' | nc -w 2 {address.host} {address.port}")
