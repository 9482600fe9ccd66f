"""
C{creditsync watch}: trade events as they happen, until it is stopped.
"""

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList, FirstError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from creditsync import _wire as wire
from creditsync import codes
from creditsync._cli.connection import (
    addConnection,
    readToken,
    reportError,
    runWithClient,
)
from creditsync._cli.output import discardOutput
from creditsync._cli.statuses import DONE, STATUSES
from creditsync._cli.wording import describe
from creditsync.client import CreditClient, Data, Unanswered

# Seconds between two health checks. They find out whether the server is still
# there and still accepts the token: once it has expired, no more events come, and
# nothing else says so.
HEARTBEAT: Final = 10.0

_TYPES: Final = {
    codes.EV_RECORD_ADD: "add",
    codes.EV_RECORD_UPDATE: "update",
    codes.EV_RECORD_DELETE: "delete",
}


def addCommand(commands: Any) -> None:
    """
    Add the subcommand to the command line.
    """
    parser: ArgumentParser = commands.add_parser(
        "watch",
        help="print trade events as they happen",
        description="Print a line for each trade event, until Ctrl-C. Events between"
        " two\nconnections are missed; export has every trade that was ever booked.",
        epilog=STATUSES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    addConnection(parser)
    parser.add_argument(
        "--json", action="store_true", help="print each event as a JSON object"
    )
    parser.set_defaults(name="watch", run=run)


def run(options: Namespace) -> None:
    """
    Print events until the process is stopped, or its output is closed.
    """
    printer = Printer(asJSON if options.json else asText)
    work = partial(watch, options, printer)
    runWithClient(options, readToken(options), work, printer.print)


def asJSON(type: int, data: Data) -> str:
    """
    A trade event for programs.
    """
    event = {"event": codes.TRADE_EVENT, "type": type, "data": data}
    return wire.encodeData(event).decode("ascii")


def asText(type: int, data: Data) -> str:
    """
    A trade event for people, with its time in UTC.
    """
    when = _time(data.get("timestamp"))
    return f"{when}  {_TYPES.get(type, f'type {type}'):6}  {describe(data)}"


def _time(timestamp: Any) -> str:
    try:
        when = datetime.fromtimestamp(timestamp, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return f"{timestamp}"
    return f"{when:%Y-%m-%dT%H:%M:%SZ}"


@define(eq=False)
class Printer:
    """
    Prints events until its output is closed.

    @ivar closed: Fires when the reader of the output has closed it; fails when
        it can't be written for another reason.
    """

    _write: Callable[[int, Data], str]
    closed: "Deferred[None]" = field(factory=Deferred, init=False)

    def print(self, type: int, data: Data) -> None:
        """
        Print an event, and flush it: the reader of a pipe waits for it.
        """
        if self.closed.called:
            return
        try:
            print(self._write(type, data), flush=True)
        except BrokenPipeError:
            discardOutput(sys.stdout)
            self.closed.callback(None)
        except OSError as e:
            discardOutput(sys.stdout)
            self.closed.errback(e)


async def watch(
    options: Namespace,
    printer: Printer,
    clock: IReactorTime,
    client: CreditClient,
    stopped: "Deferred[None]",
) -> int:
    """
    Wait until the process is stopped or the output is closed, and check
    meanwhile that the server is well.

    @raise Refused: The token is no longer valid.
    @raise OSError: The events can't be written.
    @return: The exit status.
    """
    heart = LoopingCall(_beat, options, client)
    heart.clock = clock
    ends: list[Deferred[Any]] = [stopped, printer.closed, heart.start(HEARTBEAT)]
    try:
        await DeferredList(
            ends,
            fireOnOneCallback=True,
            fireOnOneErrback=True,
            consumeErrors=True,
        )
    except FirstError as e:
        e.subFailure.raiseException()
    finally:
        if heart.running:
            heart.stop()
    return DONE


async def _beat(options: Namespace, client: CreditClient) -> None:
    try:
        await client.healthCheck()
    except Unanswered as e:
        if client.running:
            reportError(options, f"{e}; events are missed meanwhile")
