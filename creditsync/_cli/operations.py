"""
C{creditsync credit-in} and its kin: one operation each, and C{creditsync show},
which tells what became of one.
"""

import re
from argparse import (
    ArgumentParser,
    ArgumentTypeError,
    Namespace,
    RawDescriptionHelpFormatter,
)
from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from functools import partial
from typing import Any, Final, TypeAlias

from twisted.internet.defer import Deferred

from creditsync import _wire as wire
from creditsync import codes
from creditsync._cli.connection import (
    DONE,
    STATUSES,
    UNKNOWN,
    addConnection,
    readToken,
    talk,
)
from creditsync._cli.output import say, text
from creditsync._cli.wording import cmdName, printable
from creditsync.client import Answer, CreditClient
from creditsync.methods import (
    BOOKING_METHODS,
    DELETING_METHODS,
    BookingMethod,
    syncName,
)

# Called with the options and a client; gives the Deferred of a trade.
Ask: TypeAlias = Callable[[Namespace, CreditClient], "Deferred[Answer]"]
Perform: TypeAlias = Callable[
    [Ask, Namespace, Any, CreditClient, "Deferred[None]"], Awaitable[int]
]

_DELETIONS: Final = {method.total: syncName(method) for method in DELETING_METHODS}

_STATES: Final[dict[Any, str]] = {
    codes.TS_CLOSED_NORMAL: "booked",
    codes.TS_DELETED: "deleted",
}

_KEY_HELP = (
    "the idempotency key: who repeats the same command under the same key gets the"
    " same order, and nothing is booked twice (default: a fresh one, printed if the"
    " outcome is unknown)"
)


def addCommand(commands: Any) -> None:
    """
    Add the subcommands to the command line.
    """
    for method in BOOKING_METHODS:
        _addBooking(commands, method)
    _addDelete(commands)
    _addShow(commands)


def _addBooking(commands: Any, method: BookingMethod) -> None:
    way = "taken out" if method.sign < 0 else "put in"
    parser = _parser(
        commands,
        method.subcommand,
        method.help,
        f"{method.help[0].upper()}{method.help[1:]} and print the booked trade.",
    )
    parser.add_argument("login", metavar="LOGIN", type=_login, help="the account")
    parser.add_argument(
        "amount",
        metavar="AMOUNT",
        type=_amount,
        help=f"what is {way}: greater than 0, with at most 8 decimals",
    )
    if method.comment is None:
        parser.add_argument(
            "comment", metavar="COMMENT", type=text, help="what it is for"
        )
    else:
        parser.add_argument(
            "comment",
            metavar="COMMENT",
            type=text,
            nargs="?",
            help=f"what it is for (default: the server's, {method.comment})",
        )
    parser.add_argument(
        "--order",
        metavar="N",
        type=_order,
        help=f"update this {method.subcommand}; if there is no order of this number,"
        " a new one is made",
    )
    for name in ("open", "close"):
        parser.add_argument(
            f"--{name}-time",
            metavar="TIME",
            type=int,
            help="in UNIX seconds (default: the time of booking)",
        )
    parser.add_argument("--key", type=text, help=_KEY_HELP)
    parser.set_defaults(run=partial(_run, change, partial(_booking, method)))


def _addDelete(commands: Any) -> None:
    parser = _parser(
        commands,
        "delete",
        "delete an order",
        "Delete an order and print the trade as it was.",
    )
    parser.add_argument("kind", choices=_DELETIONS, help="what the order is one of")
    parser.add_argument("order", metavar="ORDER", type=_order)
    parser.add_argument("--key", type=text, help=_KEY_HELP)
    parser.set_defaults(run=partial(_run, change, _deletion))


def _addShow(commands: Any) -> None:
    parser = _parser(
        commands,
        "show",
        "show an order, or what was booked under a key",
        "Print a trade as it is now. Exit status 3 means that there is none.",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("order", metavar="ORDER", type=_order, nargs="?")
    which.add_argument(
        "--key",
        type=text,
        help="an idempotency key that was used with a token of the same id",
    )
    parser.set_defaults(run=partial(_run, show, _question))


def _parser(commands: Any, name: str, help: str, description: str) -> ArgumentParser:
    """
    Begin a subcommand that has one trade for its result.
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


def _login(text: str) -> int:
    """
    Read the login of an account.
    """
    return _positive("a login", text)


def _order(text: str) -> int:
    """
    Read the number of an order.
    """
    return _positive("an order", text)


def _amount(text: str) -> Decimal:
    """
    Read an amount exactly as it is written.

    @raise ArgumentTypeError: It is no plain number greater than 0.
    """
    if not re.fullmatch(r"[0-9]+(\.[0-9]*)?|\.[0-9]+", text) or not Decimal(text):
        raise ArgumentTypeError(
            f"an amount is a number greater than 0 such as 300 or 19.99: {text}"
        )
    return Decimal(text)


def _positive(what: str, text: str) -> int:
    # Longer ones are too great, and int() is slow with very long ones.
    number = int(text) if re.fullmatch("[0-9]{1,16}", text) else 0
    if not 1 <= number <= codes.MAX_SAFE_INTEGER:
        raise ArgumentTypeError(f"{what} is a number from 1 to 2^53-1: {text}")
    return number


def _run(perform: Perform, ask: Ask, options: Namespace) -> None:
    """
    Ask, and print what comes.
    """
    talk(options, readToken(options), partial(perform, ask, options))


async def change(
    ask: Ask,
    options: Namespace,
    reactor: Any,
    client: CreditClient,
    stopped: "Deferred[None]",
) -> int:
    """
    Have one operation booked, and print the trade.

    @return: The exit status, which is that of the answer and of nothing else.
    """
    # What is under way then fails, and says whether it may have happened.
    stopped.addCallback(lambda _: client.stopService())
    options.status = UNKNOWN
    data = await ask(options, client)
    options.status = DONE
    say(_answer(options, data))
    return DONE


async def show(
    ask: Ask,
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
    print(_answer(options, await ask(options, client)), flush=True)
    return DONE


def _answer(options: Namespace, data: Answer) -> str:
    if options.json:
        return wire.encodeData(data).decode("ascii")
    remark = ", before this and under the same key" if data.isReplay else ""
    return describe(data) + remark


def _booking(
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
    An amount as it is on the wire; people write it without a sign. Nothing is
    rounded.
    """
    return amount.copy_negate() if method.sign < 0 else amount


def _deletion(options: Namespace, client: CreditClient) -> "Deferred[Answer]":
    data = {"order": options.order}
    return client.request(_DELETIONS[options.kind], data, options.key)


def _question(options: Namespace, client: CreditClient) -> "Deferred[Answer]":
    return client.getOperation(order=options.order, key=options.key)


def describe(data: Mapping[str, Any]) -> str:
    """
    A trade on one line, for people.
    """
    state = data.get("state")
    words = [
        f"order {data.get('order')}",
        f"login {data.get('login')}",
        f"{cmdName(data.get('cmd'))} {_plain(data.get('profit'))}",
        printable(str(data.get("comment", ""))),
        _STATES.get(state, f"state {state}"),
    ]
    return "  ".join(words)


def _plain(profit: Any) -> str:
    return f"{profit:f}" if isinstance(profit, Decimal) else str(profit)
