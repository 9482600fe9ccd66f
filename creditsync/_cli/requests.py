"""
C{creditsync requests}: finance requests, which another person has to approve.
"""

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeAlias

from twisted.internet.defer import Deferred

from creditsync import _wire as wire
from creditsync import codes
from creditsync._cli.arguments import amount, login, order, text
from creditsync._cli.connection import (
    addConnection,
    carriedOut,
    readToken,
    reportError,
    runWithClient,
)
from creditsync._cli.ledger import asISO
from creditsync._cli.operations import KEY_HELP, signed
from creditsync._cli.output import printLine
from creditsync._cli.statuses import (
    DONE,
    FAILED,
    INTERRUPTED,
    REFUSED,
    STATUSES,
    UNKNOWN,
)
from creditsync._cli.wording import answerLine, cmdName, exact, printable
from creditsync._money import toUnits
from creditsync.client import (
    Answer,
    CreditClient,
    Data,
    OutcomeUnknown,
    Refused,
    Unanswered,
)
from creditsync.methods import BOOKING_METHODS

_KINDS: Final = {method.subcommand: method for method in BOOKING_METHODS}

# Rows of one reply: with the longest comments they have half of the bytes that it may
# have.
_PAGE: Final = 5000

_LINE: Final = "{:20}  {:>10}  {:>10}  {:12}  {:11}  {:>14}  {}"
_HEADINGS: Final = ("since", "order", "login", "group", "kind", "amount", "comment")

# Of several orders, the first of these that applies to one of them.
_GRAVITY: Final = (UNKNOWN, INTERRUPTED, FAILED, REFUSED, DONE)

_STATUSES: Final = f"""\
{STATUSES}
With several orders, it is the status of the order that went worst: 4, else 130 or
1, else 3. With 130 and 1 the orders that are left are printed.
"""

# Decides about one finance request.
_Decide: TypeAlias = Callable[[CreditClient, int], Awaitable[Answer]]


def addCommand(commands: Any) -> None:
    """
    Add the subcommand to the command line.
    """
    parser = commands.add_parser(
        "requests", help="list, make, approve and decline finance requests"
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION", title="actions")
    _addList(actions)
    _addCreate(actions)
    _addApprove(actions)
    _addDecline(actions)


def _addList(actions: Any) -> None:
    parser = _actionParser(
        actions,
        "list",
        "print what waits for approval",
        "Print the finance requests that wait for approval, the oldest first.",
    )
    _addJSON(parser, "print each request as a JSON object")
    parser.set_defaults(run=partial(_run, listWaiting))


def _addCreate(actions: Any) -> None:
    parser = _actionParser(
        actions,
        "create",
        "make a finance request",
        "Ask for an operation that another person has to approve. Until then it moves"
        " no money.",
    )
    parser.add_argument("kind", choices=_KINDS, help="which kind of operation it is")
    parser.add_argument(
        "--login", metavar="N", type=login, required=True, help="the account"
    )
    parser.add_argument(
        "--amount",
        metavar="A",
        type=amount,
        required=True,
        help="greater than 0, with at most 8 decimals, without a sign",
    )
    needComment = [kind for kind, method in _KINDS.items() if method.comment is None]
    parser.add_argument(
        "--comment",
        type=text,
        help=f"the trade's comment; required for {' and '.join(needComment)}",
    )
    parser.add_argument("--key", type=text, help=KEY_HELP)
    _addJSON(parser, "print the server's answer as a JSON object")
    parser.set_defaults(run=partial(_runCreate, parser))


def _addApprove(actions: Any) -> None:
    parser = _actionParser(
        actions,
        "approve",
        "approve finance requests",
        "Approve finance requests that another person has made, and print the booked"
        " trades.",
        _STATUSES,
    )
    parser.add_argument("orders", metavar="ORDER", type=order, nargs="+")
    _addJSON(parser, "print each trade as a JSON object")
    parser.set_defaults(run=partial(_run, partial(decide, _approve, answerLine)))


def _addDecline(actions: Any) -> None:
    parser = _actionParser(
        actions,
        "decline",
        "decline finance requests",
        "Decline finance requests, which ends them. They never move money.",
        _STATUSES,
    )
    parser.add_argument("orders", metavar="ORDER", type=order, nargs="+")
    parser.add_argument(
        "--comment",
        type=text,
        help="becomes the comment of the requests (default: theirs stay)",
    )
    _addJSON(parser, "print each answer of the server as a JSON object")
    parser.set_defaults(run=_runDecline)


def _actionParser(
    actions: Any, name: str, help: str, description: str, epilog: str = STATUSES
) -> ArgumentParser:
    parser: ArgumentParser = actions.add_parser(
        name,
        help=help,
        description=description,
        epilog=epilog,
        formatter_class=RawDescriptionHelpFormatter,
    )
    addConnection(parser)
    parser.set_defaults(name=f"requests {name}")
    return parser


def _addJSON(parser: ArgumentParser, help: str) -> None:
    parser.add_argument("--json", action="store_true", help=help)


def _run(work: Callable[..., Awaitable[int]], options: Namespace) -> None:
    runWithClient(options, readToken(options), partial(work, options))


async def listWaiting(
    options: Namespace,
    reactor: Any,
    client: CreditClient,
    stopped: "Deferred[None]",
) -> int:
    """
    Print a line for each finance request that waits.

    Each page begins behind the last order of the one before: requests that end
    meanwhile would change an offset.

    @return: The exit status.
    @raise OSError: It can't be printed.
    """
    stopped.addCallback(lambda _: client.stopService())
    if not options.json:
        print(_LINE.format(*_HEADINGS))
    last, isMore = 0, True
    while isMore:
        found = await client.getTradesByFilter(
            where=[
                ["state", "==", codes.TS_FINANCE_OPEN_PENDING],
                ["order", ">", last],
            ],
            limit=_PAGE,
        )
        for row in found["rows"]:
            trade = dict(zip(found["structure"], row, strict=True))
            print(_waitingLine(trade, options.json))
            last = trade["order"]
        isMore = len(found["rows"]) == _PAGE
    # What can't be written has to fail before the status is 0.
    print(end="", flush=True)
    return DONE


def _waitingLine(trade: Data, asJSON: bool) -> str:
    if asJSON:
        return wire.encodeData(trade).decode("ascii")
    line = _LINE.format(
        asISO(trade["timestamp"]),
        trade["order"],
        trade["login"],
        printable(trade["group"]),
        cmdName(trade["cmd"]),
        exact(toUnits(trade["profit"])),
        printable(trade["comment"]),
    )
    return line.rstrip()


def _runCreate(parser: ArgumentParser, options: Namespace) -> None:
    method = _KINDS[options.kind]
    if options.comment is None and method.comment is None:
        parser.error(f"--comment is required for {options.kind}")
    _run(create, options)


async def create(
    options: Namespace,
    reactor: Any,
    client: CreditClient,
    stopped: "Deferred[None]",
) -> int:
    """
    Make a finance request, and print it.

    @return: The exit status, which depends on the answer and nothing else.
    """
    method = _KINDS[options.kind]
    comment = method.comment if options.comment is None else options.comment
    sending = partial(
        client.createFinanceRequest,
        method.name,
        options.login,
        signed(method, options.amount),
        options.comment,
        key=options.key,
    )
    data = await carriedOut(options, client, stopped, sending)
    printLine(_acceptedLine(comment, data, options.json))
    return DONE


def _runDecline(options: Namespace) -> None:
    def decline(client: CreditClient, order: int) -> Awaitable[Answer]:
        return client.declineFinanceRequest(order, options.comment)

    _run(partial(decide, decline, partial(_acceptedLine, options.comment)), options)


def _approve(client: CreditClient, order: int) -> Awaitable[Answer]:
    return client.approveFinanceRequest(order)


async def decide(
    ask: _Decide,
    line: Callable[[Answer, bool], str],
    options: Namespace,
    reactor: Any,
    client: CreditClient,
    stopped: "Deferred[None]",
) -> int:
    """
    Decide about finance requests, one after the other, and print what became of each.
    Those behind one that is refused, or whose outcome is unknown, are decided about
    all the same.

    @param line: What is printed for one that is done.
    @return: The exit status.
    """
    stopped.addCallback(lambda _: client.stopService())
    options.status = UNKNOWN
    orders, statuses = list(dict.fromkeys(options.orders)), [DONE]
    for number, each in enumerate(orders):
        try:
            data = await ask(client, each)
        except Refused as e:
            statuses.append(REFUSED)
            reportError(
                options, f"order {each}: refused: {e.message} ({e.status} {e.error})"
            )
        except OutcomeUnknown as e:
            statuses.append(UNKNOWN)
            reportError(options, f"order {each}: {e.message}")
        except Unanswered as e:
            statuses.append(INTERRUPTED if stopped.called else FAILED)
            why = "interrupted" if stopped.called else e
            left = ", ".join(map(str, orders[number:]))
            reportError(options, f"{why}; left: {left}")
            break
        else:
            printLine(line(data, options.json))
    return next(status for status in _GRAVITY if status in statuses)


def _acceptedLine(comment: str | None, data: Answer, asJSON: bool) -> str:
    """
    What was accepted, as a trade on one line. The reply has neither its comment nor its
    C{profit}.
    """
    if not asJSON:
        shown = {**data, "profit": data["amount"], "comment": comment or ""}
        data = Answer(shown, data.isReplay)
    return answerLine(data, asJSON)
