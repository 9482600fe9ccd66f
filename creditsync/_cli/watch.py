"""
C{creditsync watch}: the stream of trade events, as long as one likes.
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
    DONE,
    STATUSES,
    addConnection,
    complain,
    readToken,
    talk,
)
from creditsync._cli.operations import describe
from creditsync._cli.output import silence
from creditsync.client import CreditClient, Data, Unanswered

# Seconds after which the server is asked whether it is still there, and still
# takes the token: it ends the stream of one that has expired without a word.
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
        help="watch what is booked",
        description="Print a line for each trade event, until Ctrl-C. Events between"
        " two\nconnections are missed; export has all that was ever booked.",
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
    Watch until the process is stopped, or nobody reads on.
    """
    printer = Printer(asJSON if options.json else asText)
    work = partial(watch, options, printer)
    talk(options, readToken(options), work, printer.print)


def asJSON(type: int, data: Data) -> str:
    """
    A trade event for machines.
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
    Prints events, as long as somebody reads.

    @ivar unread: Fires when nobody does any more; fails when it can't be written.
    """

    _write: Callable[[int, Data], str]
    unread: "Deferred[None]" = field(factory=Deferred, init=False)

    def print(self, type: int, data: Data) -> None:
        """
        Print an event at once: who reads a pipe waits for it.
        """
        if self.unread.called:
            return
        try:
            print(self._write(type, data), flush=True)
        except BrokenPipeError:
            silence(sys.stdout)
            self.unread.callback(None)
        except OSError as e:
            silence(sys.stdout)
            self.unread.errback(e)


async def watch(
    options: Namespace,
    printer: Printer,
    clock: IReactorTime,
    client: CreditClient,
    stopped: "Deferred[None]",
) -> int:
    """
    Let the printer print, until there is an end to it.

    @raise Refused: The token is no longer good.
    @raise OSError: The events can't be written.
    @return: The exit status.
    """
    heart = LoopingCall(_beat, options, client)
    heart.clock = clock
    ends: list[Deferred[Any]] = [stopped, printer.unread, heart.start(HEARTBEAT)]
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
            complain(options, f"{e}; events are missed meanwhile")
