"""
C{creditsync show}: one trade, by its order or by the key it was booked under.
"""

from argparse import Namespace
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred

from creditsync._cli.arguments import order, text
from creditsync._cli.connection import readToken, runWithClient
from creditsync._cli.operations import tradeParser
from creditsync._cli.statuses import DONE
from creditsync._cli.wording import answerLine
from creditsync.client import CreditClient


def addCommand(commands: Any) -> None:
    """
    Add the subcommand to the command line.
    """
    parser = tradeParser(
        commands,
        "show",
        "show an order, or what was booked under a key",
        "Print a trade as it is now. Exit status 3 means that it does not exist.",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("order", metavar="ORDER", type=order, nargs="?")
    which.add_argument(
        "--key",
        type=text,
        help="an idempotency key that was used with a token of the same id",
    )
    parser.set_defaults(run=run)


def run(options: Namespace) -> None:
    """
    Look the trade up and print it.
    """
    runWithClient(options, readToken(options), partial(show, options))


async def show(
    options: Namespace,
    reactor: Any,
    client: CreditClient,
    stopped: "Deferred[None]",
) -> int:
    """
    Look one trade up, and print it.

    @return: The exit status.
    @raise OSError: It can't be printed.
    """
    stopped.addCallback(lambda _: client.stopService())
    data = await client.getOperation(order=options.order, key=options.key)
    print(answerLine(data, options.json), flush=True)
    return DONE
