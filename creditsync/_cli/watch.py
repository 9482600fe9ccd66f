"""
C{creditsync watch}: trade events as they happen, until it is stopped.
"""

import sys
from argparse import (
    ArgumentParser,
    ArgumentTypeError,
    Namespace,
    RawDescriptionHelpFormatter,
)
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList, FirstError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall

from creditsync import _wire as wire
from creditsync import codes
from creditsync._cli.connection import (
    addConnection,
    exitWith,
    readToken,
    reportError,
    runWithClient,
)
from creditsync._cli.output import discardOutput, syncOutput
from creditsync._cli.place import NoPlace, PlaceFile
from creditsync._cli.statuses import DONE, STATUSES, USAGE
from creditsync._cli.wording import describe, typeName
from creditsync._client.cursors import checkCursor
from creditsync._cursor import FIRST
from creditsync.client import CreditClient, CursorGone, Data, Unanswered

# Seconds between two health checks. They find out whether the server is still
# there and still accepts the token: once it has expired, no more events come, and
# nothing else says so.
HEARTBEAT: Final = 10.0


def addCommand(commands: Any) -> None:
    """
    Add the subcommand to the command line.
    """
    parser: ArgumentParser = commands.add_parser(
        "watch",
        help="print trade events as they happen",
        description="Print a line for each trade event, until Ctrl-C. After a lost"
        " connection\nit goes on where it was. With --state it also does after its"
        " own end.",
        epilog=STATUSES,
        formatter_class=RawDescriptionHelpFormatter,
    )
    addConnection(parser)
    parser.add_argument(
        "--json",
        action="store_true",
        help="print each event as a JSON object, with its place in data.cursor",
    )
    parser.add_argument(
        "--since",
        metavar="CURSOR",
        type=_cursor,
        help="begin behind this place, or with first at the ledger's first event"
        " (default: now)",
    )
    parser.add_argument(
        "--state",
        metavar="FILE",
        type=Path,
        help="go on behind the place in this file, and keep it there; if the file does"
        " not exist, begin as --since says",
    )
    parser.set_defaults(name="watch", run=run)


def _cursor(argument: str) -> str:
    try:
        return checkCursor(argument)
    except ValueError:
        raise ArgumentTypeError(f"must be a cursor, or {FIRST}: {argument}") from None


def run(options: Namespace) -> None:
    """
    Print events until the process is stopped, or its output is closed.
    """
    token = readToken(options)
    place = None if options.state is None else PlaceFile(options.state)
    try:
        since = (place and place.read()) or options.since
    except NoPlace as e:
        exitWith(options, USAGE, str(e))
    runWithClient(options, token, partial(watch, options, place, since))


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
    return f"{when}  {typeName(type):6}  {describe(data)}"


def _time(timestamp: Any) -> str:
    try:
        when = datetime.fromtimestamp(timestamp, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return f"{timestamp}"
    return f"{when:%Y-%m-%dT%H:%M:%SZ}"


@define(eq=False)
class Printer:
    """
    Prints events until its output is closed, and keeps the place of the last one.

    The place is kept once for all events that were printed in one turn of the
    reactor: a process that is killed in it will print these events again, but none
    that came before.

    @ivar closed: Fires when the reader of the output has closed it; fails when
        it, or the place, can't be written for another reason.
    """

    _clock: IReactorTime
    _client: CreditClient
    _place: PlaceFile | None
    _write: Callable[[int, Data], str]
    closed: "Deferred[None]" = field(factory=Deferred, init=False)
    _keeping: IDelayedCall | None = field(default=None, init=False)

    def print(self, type: int, data: Data) -> None:
        """
        Print an event, and flush it: the reader of a pipe waits for it.
        """
        try:
            print(self._write(type, data), flush=True)
        except OSError as e:
            # The client's cursor is still that of the event before.
            self._keepOrClose()
            discardOutput(sys.stdout)
            self._close(None if isinstance(e, BrokenPipeError) else e)
        else:
            if self._place is not None and self._keeping is None:
                self._keeping = self._clock.callLater(0, self._keepOrClose)

    def keep(self) -> None:
        """
        Keep the place of the last event that was printed. An event in a file is on
        disk before its place is, so that a power cut loses none.

        @raise OSError: One of them can't be written.
        """
        if self._keeping is not None and self._keeping.active():
            self._keeping.cancel()
        self._keeping = None
        if self._place is not None:
            syncOutput()
            self._place.keep(self._client.cursor)

    def _keepOrClose(self) -> None:
        try:
            self.keep()
        except OSError as e:
            self._close(e)

    def _close(self, error: OSError | None) -> None:
        if self.closed.called:
            return
        if error is None:
            self.closed.callback(None)
        else:
            self.closed.errback(error)


async def watch(
    options: Namespace,
    place: PlaceFile | None,
    since: str | None,
    clock: IReactorTime,
    client: CreditClient,
    stopped: "Deferred[None]",
) -> int:
    """
    Print events until the process is stopped or the output is closed, and check
    meanwhile that the server is well.

    @raise Refused: The token is no longer valid, or the server does not have the
        place.
    @raise OSError: The events or the place can't be written.
    @return: The exit status.
    """
    printer = Printer(clock, client, place, asJSON if options.json else asText)
    events = client.events(printer.print, since)
    heart = LoopingCall(Heartbeat(options, client, printer).beat)
    heart.clock = clock
    ends: list[Deferred[Any]] = [
        stopped,
        printer.closed,
        events,
        heart.start(HEARTBEAT),
    ]
    try:
        await DeferredList(
            ends,
            fireOnOneCallback=True,
            fireOnOneErrback=True,
            consumeErrors=True,
        )
    except FirstError as e:
        error = e.subFailure.value
        if isinstance(error, CursorGone):
            reportError(options, _gone(options, error))
        e.subFailure.raiseException()
    finally:
        events.cancel()
        if heart.running:
            heart.stop()
        printer.keep()
    return DONE


def _gone(options: Namespace, gone: CursorGone) -> str:
    """
    What to do if the server does not have the place.
    """
    remove = "" if options.state is None else f" remove {options.state},"
    since = "without --since" if gone.head is None else f"with --since {gone.head}"
    return (
        f"the ledger does not have the place {gone.cursor}, perhaps because a backup"
        f" was restored: look up what matters,{remove} and go on {since}"
    )


@define(eq=False)
class Heartbeat:
    """
    Checks that the server is well, and says what that means for the events.
    """

    _options: Namespace
    _client: CreditClient
    _printer: Printer
    _hasSaid: bool = field(default=False, init=False)

    async def beat(self) -> None:
        """
        Check once.
        """
        try:
            await self._client.healthCheck()
        except Unanswered as e:
            if self._client.running:
                what = (
                    "events are missed meanwhile"
                    if self._client.cursor is None
                    else "events will follow"
                )
                reportError(self._options, f"{e}; {what}")
            return
        self._printer.keep()
        asked = self._options.since or self._options.state
        if asked and self._client.resumes is False and not self._hasSaid:
            self._hasSaid = True
            reportError(
                self._options,
                "the events of this server have no cursors: they begin now, and those"
                " between two connections are missed",
            )
