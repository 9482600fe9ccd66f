"""
C{creditsync gateway}: what people do about a gateway, and what they have to know of it.
"""

import json
import random
import time
import tomllib
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.endpoints import clientFromString
from twisted.internet.task import react
from twisted.logger import globalLogBeginner

from creditsync._cli.arguments import login, operation, order
from creditsync._cli.connection import (
    addConnection,
    exitWith,
    readToken,
    runWithClient,
)
from creditsync._cli.ledger import addLedger, errorsAsExit, opened
from creditsync._cli.output import printLine
from creditsync._cli.statuses import DONE, FAILED, STATUSES, UNKNOWN
from creditsync._cli.wording import exact, printable
from creditsync.client import CreditClient
from creditsync.codes import MAX_COMMENT
from creditsync.methods import METHOD_OF

_PROBE_STATUSES: Final = """\
exit status:
  0    the profile is written, and one shot at least is sound
  1    it is not, or there is no platform
  2    the command line is wrong
"""

# Seconds within which the platform has to accept the token.
_CONNECT: Final = 15.0


def addCommand(commands: Any) -> None:
    """
    Add the subcommand to the command line.
    """
    parser = commands.add_parser(
        "gateway", help="held operations of a server in front of another platform"
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION", title="actions")
    _addReading(
        actions,
        "held",
        "list the operations that wait for a person",
        "List the operations of which the gateway can't find out what became of them,"
        " each with what to look for at the platform. A server may have the ledger"
        " open.",
        _runHeld,
    )
    _addReading(
        actions,
        "report",
        "summarize the log of a gateway",
        "Count the operations of a gateway by their states, and list those that are not"
        " settled, and those that people have decided. A server may have the ledger"
        " open.",
        _runReport,
    )
    _addResolve(actions)
    _addProbe(actions)


def _addReading(actions: Any, name: str, help: str, text: str, run: Any) -> None:
    parser = actions.add_parser(name, help=help, description=text)
    addLedger(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead")
    parser.set_defaults(name=f"gateway {name}", run=run)


def _addResolve(actions: Any) -> None:
    parser: ArgumentParser = actions.add_parser(
        "resolve",
        help="decide what became of a held operation",
        description="Decide what became of a held operation, through the gateway that"
        " runs. The token must be an admin's.",
        epilog=STATUSES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "operation", metavar="NUMBER", type=operation, help="its number in the log"
    )
    outcome = parser.add_mutually_exclusive_group(required=True)
    outcome.add_argument(
        "--booked",
        metavar="ORDER",
        type=order,
        help="the platform has booked it as this order",
    )
    outcome.add_argument(
        "--absent",
        action="store_true",
        help="it was never booked and never will be; its key is free again",
    )
    addConnection(parser)
    parser.set_defaults(name="gateway resolve", run=_runResolve)


def _addProbe(actions: Any) -> None:
    parser: ArgumentParser = actions.add_parser(
        "probe",
        help="find out which ways are sound on a platform",
        description="Find out which ways are sound on a platform, and write a profile"
        " for --upstream-profile. It books two credits of 0.01 on a test account and"
        " deletes them again, and makes two finance requests.",
        epilog=_PROBE_STATUSES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--upstream", metavar="ENDPOINT", required=True, help="as for the server"
    )
    parser.add_argument(
        "--upstream-token",
        metavar="FILE",
        required=True,
        type=Path,
        help="as for the server",
    )
    parser.add_argument(
        "--login",
        metavar="LOGIN",
        required=True,
        type=login,
        help="a test account of the platform",
    )
    parser.add_argument(
        "--profile",
        metavar="FILE",
        required=True,
        type=Path,
        help="the file to write; commands in it that have other names are used, and"
        " kept, as are those that are passed on, and what it says of comments",
    )
    parser.set_defaults(name="gateway probe", run=_runProbe)


def _runProbe(options: Namespace) -> None:
    # What went wrong is said in a sentence, and Twisted's tracebacks add nothing.
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False)
    react(_probe, (options,))


async def _probe(reactor: Any, options: Namespace) -> None:
    """
    Try everything, and write the profile.

    @raise SystemExit: With status 1 if one shot is not sound, or there is no platform.
    """
    from creditsync._process.profile import checkMembers
    from creditsync.gateway._probe import Arrival, Probe, profileOf
    from creditsync.gateway._tokenfile import TokenFile
    from creditsync.gateway._upstream import Upstream

    kept: dict[str, Any] = {}
    if options.profile.exists():
        try:
            kept = tomllib.loads(options.profile.read_text("utf-8"))
            checkMembers(kept)
        except ValueError as e:
            # What it does not know would not be in the new one.
            exitWith(options, FAILED, f"{options.profile} is not a profile: {e}")
    upstream = Upstream(
        reactor,
        clientFromString(reactor, options.upstream),
        TokenFile(options.upstream_token),
        random=random.random,
        names=kept.get("commands", {}),
    )
    arrival = Arrival()
    upstream.start(arrival)
    try:
        await arrival.arrived.addTimeout(_CONNECT, reactor)
    except TimeoutError:
        exitWith(options, FAILED, upstream.problem)
    # No earlier trade of this account has these seconds.
    second = int(time.time()) - 3600
    longest = kept.get("comment-length", MAX_COMMENT)
    probe = Probe(reactor, upstream, options.login, second, longest)
    for each in await probe.run():
        printLine(f"{each.way}: {'yes' if each.isMet else 'NO '} {each.text}")
    await upstream.stop()
    text = profileOf(probe, kept) + "".join(
        table(name, kept[name]) for name in ("commands", "pass") if name in kept
    )
    options.profile.write_text(text, "utf-8")
    printLine(f"written: {options.profile}")
    if not probe.isSound("one-shot"):
        raise SystemExit(FAILED)


def table(name: str, rows: Mapping[str, Any]) -> str:
    """
    A table of the profile that people have written, as the text of a file.
    """
    lines = (f"{row} = {_value(value)}" for row, value in rows.items())
    return "\n".join(["", f"[{name}]", *lines, ""])


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        members = (f"{name} = {json.dumps(each)}" for name, each in value.items())
        return f"{{ {', '.join(members)} }}"
    return json.dumps(value)


def _runHeld(options: Namespace) -> None:
    # What it needs is loaded only where it is used.
    from creditsync.gateway._listing import held

    with errorsAsExit(options), opened(options) as ledger:
        found = list(held(ledger, options.ledger))
    if options.json:
        print(json.dumps([_members(each) for each in found]))
        return
    for each in found:
        printLine(_described(each))


def _runReport(options: Namespace) -> None:
    from creditsync.gateway._listing import report

    with errorsAsExit(options), opened(options) as ledger:
        found = report(ledger, options.ledger)
    if options.json:
        kinds = ("unsettled", "decided")
        lists = {kind: [_members(each) for each in found[kind]] for kind in kinds}
        print(json.dumps({**found, **lists}))
        return
    counts = ", ".join(f"{count} {state}" for state, count in found["counts"].items())
    printLine(f"operations: {counts or 'none'}")
    caughtUp = found["caughtUp"]
    printLine(f"complete up to: {_moment(caughtUp) if caughtUp else 'not yet known'}")
    for kind in ("unsettled", "decided"):
        for each in found[kind]:
            printLine(f"{kind}: {_described(each)}")
    for when, text in found["alarms"]:
        printLine(f"alarm: {_moment(when)}: {text}")


def _described(intent: Any) -> str:
    """
    An operation in one line.
    """
    method = METHOD_OF.get((intent.cmd, intent.type == 2), "operation")
    order = f" of order {intent.order}" if intent.order else ""
    decided = f", decided by {intent.decidedBy}" if intent.decidedBy else ""
    return (
        f"{intent.number}: {method}{order} of account {intent.login},"
        f" {exact(intent.amount)}, {printable(intent.comment)!r}, sent"
        f" {_moment(intent.sentAt)}, is {intent.state.value}: {intent.why}{decided}"
    )


def _moment(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _members(intent: Any) -> dict[str, Any]:
    return {
        "operation": intent.number,
        "state": intent.state.value,
        "type": intent.type,
        "order": intent.order or None,
        "login": intent.login,
        "cmd": intent.cmd,
        "amount": exact(intent.amount),
        "comment": intent.comment,
        "open_time": intent.openTime,
        "principal": intent.operation.principal,
        "key": intent.operation.key,
        "sent_at": intent.sentAt,
        "why": intent.why,
        "decided_by": intent.decidedBy or None,
    }


def _runResolve(options: Namespace) -> None:
    runWithClient(options, readToken(options), partial(resolve, options))


async def resolve(
    options: Namespace,
    reactor: Any,
    client: CreditClient,
    stopped: "Deferred[None]",
) -> int:
    """
    Decide, and print what was decided.

    @return: The exit status.
    """
    stopped.addCallback(lambda _: client.stopService())
    data: dict[str, Any] = {"operation": options.operation, "outcome": "absent"}
    if options.booked is not None:
        data |= {"outcome": "booked", "order": options.booked}
    options.status = UNKNOWN
    done = await client.request("MngResolveOperation", data)
    options.status = DONE
    printLine(f"operation {done['operation']} is {done['outcome']}")
    return DONE
