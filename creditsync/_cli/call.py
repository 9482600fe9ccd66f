"""
C{creditsync call}: a command of the platform behind a gateway.
"""

from argparse import ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred

from creditsync import _wire as wire
from creditsync._cli.arguments import text
from creditsync._cli.connection import (
    addConnection,
    carriedOut,
    readToken,
    runWithClient,
)
from creditsync._cli.output import printLine
from creditsync._cli.statuses import DONE, STATUSES
from creditsync.client import CreditClient
from creditsync.errors import InvalidJSON
from creditsync.methods import movesMoney

_STATUSES: Final = f"""\
{STATUSES}
With status 4 the platform may have carried the command out. It has neither a key nor
an order: only the platform can tell.
"""


def addCommand(commands: Any) -> None:
    """
    Add the subcommand to the command line.
    """
    parser = commands.add_parser(
        "call",
        help="send a command that a gateway passes on to its platform",
        description="Send a command that a gateway passes on to its platform, and"
        " print the data of the reply as JSON. It is sent once, without a key:"
        " repeating it may carry it out again.",
        epilog=_STATUSES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "command",
        metavar="COMMAND",
        type=_command,
        help="one of those that the gateway's profile passes on",
    )
    parser.add_argument(
        "--data",
        metavar="JSON",
        type=_object,
        default={},
        help="the command's data, a JSON object (default: {})",
    )
    addConnection(parser)
    parser.set_defaults(name="call", run=run)


def _command(argument: str) -> str:
    name = text(argument)
    if movesMoney(name):
        raise ArgumentTypeError(
            f"{name} moves money, which needs a key: see creditsync --help for the"
            " command that does it"
        )
    return name


def _object(argument: str) -> dict[str, Any]:
    given = text(argument)
    try:
        return wire.decode(given.encode())
    except InvalidJSON as e:
        # The sentence is one about a line.
        why = e.message.removeprefix("the line ")
        raise ArgumentTypeError(f"{why}: {given}") from None


def run(options: Namespace) -> None:
    """
    Send the command and print the data of the reply.
    """
    runWithClient(options, readToken(options), partial(call, options))


async def call(
    options: Namespace,
    reactor: Any,
    client: CreditClient,
    stopped: "Deferred[None]",
) -> int:
    """
    Send one command, and print the data of its reply.

    @return: The exit status, which depends on the answer and nothing else.
    """
    sending = partial(client.call, options.command, options.data)
    data = await carriedOut(options, client, stopped, sending)
    # A line of its own has an object: what is in it may be anything.
    written = wire.encodeData({"data": data})
    printLine(written[len(b'{"data":') : -1].decode("ascii"))
    return DONE
