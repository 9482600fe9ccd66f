"""
C{creditsync demo}: runs the server on a temporary ledger, and sends it the request
of C{docs/protocol.rst}, "A credit", over TCP.
"""

import json
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, TimeoutError, maybeDeferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.error import ConnectError
from twisted.internet.task import react
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.usage import UsageError

from creditsync import __version__
from creditsync._cli.arguments import text
from creditsync._cli.output import printLine
from creditsync._cli.statuses import INTERRUPTED
from creditsync._cli.stopping import untilStopped
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
        " TCP and print what goes each way; then serve until Ctrl-C. It leaves no"
        " files behind.",
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
    parser.set_defaults(run=run)


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
    react(demo, (options.listen, options.once))


async def demo(reactor: Any, listen: str | None, once: bool) -> None:
    """
    Serve, send one credit, and go on serving.

    @param once: Do not go on.
    @raise SystemExit: The server can't start, or the credit was not booked.
    """
    settleProcess(reactor)
    with (
        TemporaryDirectory(prefix="creditsync-demo-") as folder,
        untilStopped(reactor, lambda: INTERRUPTED) as stopped,
    ):
        key = makeKey(Path(folder, "creditsync.key"))
        server = _start(reactor, folder, key, listen)
        try:
            address = server.creditSync.ports[0].getHost()
            assert isinstance(address, (IPv4Address, IPv6Address))
            token = mint(
                key, id=7, role=SESSION_MANAGER, expires=86400, now=time.time()
            )
            printLine(f"creditsync {__version__} on {address.host}:{address.port}\n")
            await _show(reactor, address, token)
            if once:
                return
            _invite(address, token)
            await stopped
        finally:
            await maybeDeferred(server.stopService)


def _start(reactor: Any, folder: str, key: bytes, listen: str | None) -> Server:
    """
    Start the server, on any free port if the usual one is taken.

    @raise CannotStart: It can't start.
    """
    try:
        return _startOn(reactor, folder, key, listen or DEFAULT_LISTEN)
    except CannotStart:
        if listen is not None:
            raise
    printLine("Port 8080 is taken; using another one.")
    return _startOn(reactor, folder, key, _ANY_PORT)


def _startOn(reactor: Any, folder: str, key: bytes, listen: str) -> Server:
    options = Options()
    options.parseOptions(  # type: ignore[no-untyped-call]
        [
            *("--listen", listen),
            *("--ledger", f"{folder}/creditsync.db"),
            *("--key", f"{folder}/creditsync.key"),
        ]
    )
    server = Server(reactor, creditSync(reactor, options, key))
    server.privilegedStartService()
    server.startService()
    return server


class _Conversation(LineOnlyReceiver):
    """
    A client that prints what it receives.

    @ivar reply: Fires with the reply to its request.
    """

    def __init__(self) -> None:
        self.reply: Deferred[dict[str, Any]] = Deferred()

    def lineReceived(self, line: bytes) -> None:
        """
        Print a line from the server.
        """
        printLine(f"<- {line.decode('ascii')}")
        message = json.loads(line)
        if "event" not in message and not self.reply.called:
            self.reply.callback(message)


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


async def _show(reactor: Any, address: _Address, token: str) -> None:
    """
    Send one credit and print what goes each way.

    @raise SystemExit: There was no reply, or it was not booked.
    """
    endpoint = HostnameEndpoint(reactor, address.host, address.port)
    try:
        client = await connectProtocol(endpoint, _Conversation())
        printLine(f"-> {_request('credit-req-1001', f'{token[:12]}...')}")
        client.sendLine(_request("credit-req-1001", token).encode())
        reply = await client.reply.addTimeout(_PATIENCE, reactor)
        client.transport.loseConnection()
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
