"""
C{creditsync credit-in} and the other commands that send one money operation and
print the trade that it booked.
"""

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any, Final, TypeAlias

from twisted.internet.defer import Deferred

from creditsync._cli.arguments import amount, login, order, text
from creditsync._cli.connection import (
    addConnection,
    carriedOut,
    readToken,
    runWithClient,
)
from creditsync._cli.output import printLine
from creditsync._cli.statuses import DONE, STATUSES
from creditsync._cli.wording import answerLine
from creditsync.client import Answer, CreditClient
from creditsync.methods import (
    BOOKING_METHODS,
    DELETING_METHODS,
    BookingMethod,
    syncName,
)

# Sends the request of a command line.
Send: TypeAlias = Callable[[Namespace, CreditClient], "Deferred[Answer]"]

_DELETIONS: Final = {method.total: syncName(method) for method in DELETING_METHODS}

KEY_HELP = (
    "the idempotency key: repeating the command with the same key returns the same"
    " order, and nothing is booked twice (default: a new one, printed if the outcome"
    " is unknown)"
)


def addCommand(commands: Any) -> None:
    """
    Add the subcommands to the command line.
    """
    for method in BOOKING_METHODS:
        _addBooking(commands, method)
    _addDelete(commands)


def _addBooking(commands: Any, method: BookingMethod) -> None:
    parser = tradeParser(
        commands,
        method.subcommand,
        method.help,
        f"{method.help[0].upper()}{method.help[1:]} and print the booked trade.",
    )
    parser.add_argument("login", metavar="LOGIN", type=login, help="the account")
    parser.add_argument(
        "amount",
        metavar="AMOUNT",
        type=amount,
        help="greater than 0, with at most 8 decimals"
        + (", without a sign" if method.sign < 0 else ""),
    )
    if method.comment is None:
        parser.add_argument(
            "comment", metavar="COMMENT", type=text, help="the trade's comment"
        )
    else:
        parser.add_argument(
            "comment",
            metavar="COMMENT",
            type=text,
            nargs="?",
            help=f"the trade's comment (default: the server's, {method.comment})",
        )
    parser.add_argument(
        "--order",
        metavar="N",
        type=order,
        help=f"the {method.subcommand} to update; if this order does not exist, a new"
        " one is made",
    )
    for name in ("open", "close"):
        parser.add_argument(
            f"--{name}-time",
            metavar="TIME",
            type=int,
            help="in UNIX seconds (default: the time of booking)",
        )
    parser.add_argument("--key", type=text, help=KEY_HELP)
    parser.set_defaults(run=partial(_run, partial(_sendBooking, method)))


def _addDelete(commands: Any) -> None:
    parser = tradeParser(
        commands,
        "delete",
        "delete an order",
        "Delete an order and print the trade as it was.",
    )
    parser.add_argument("kind", choices=_DELETIONS, help="which kind of order it is")
    parser.add_argument("order", metavar="ORDER", type=order)
    parser.add_argument("--key", type=text, help=KEY_HELP)
    parser.set_defaults(run=partial(_run, _sendDeletion))


def tradeParser(
    commands: Any, name: str, help: str, description: str
) -> ArgumentParser:
    """
    Add a subcommand that prints one trade, without its own arguments.
    """
    parser: ArgumentParser = commands.add_parser(
        name,
        help=help,
        description=description,
        epilog=STATUSES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    addConnection(parser)
    parser.add_argument(
        "--json", action="store_true", help="print the trade as a JSON object"
    )
    parser.set_defaults(name=name)
    return parser


def _run(send: Send, options: Namespace) -> None:
    """
    Send the operation and print the trade.
    """
    runWithClient(options, readToken(options), partial(operate, send, options))


async def operate(
    send: Send,
    options: Namespace,
    reactor: Any,
    client: CreditClient,
    stopped: "Deferred[None]",
) -> int:
    """
    Send one operation, and print the trade that it booked.

    @return: The exit status, which depends on the answer and nothing else.
    """
    sending = partial(send, options, client)
    data = await carriedOut(options, client, stopped, sending)
    printLine(answerLine(data, options.json))
    return DONE


def _sendBooking(
    method: BookingMethod, options: Namespace, client: CreditClient
) -> "Deferred[Answer]":
    members = {
        "login": options.login,
        "amount": signed(method, options.amount),
        "comment": options.comment,
        "order": options.order,
        "open_time": options.open_time,
        "close_time": options.close_time,
    }
    data = {name: value for name, value in members.items() if value is not None}
    return client.request(syncName(method), data, options.key)


def signed(method: BookingMethod, amount: Decimal) -> Decimal:
    """
    The amount that a request has on the wire, for one that people write
    without a sign. Nothing is rounded.
    """
    return amount.copy_negate() if method.sign < 0 else amount


def _sendDeletion(options: Namespace, client: CreditClient) -> "Deferred[Answer]":
    data = {"order": options.order}
    return client.request(_DELETIONS[options.kind], data, options.key)
