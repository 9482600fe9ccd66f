"""
What the commands that talk to a server share: where it is, which token they
use, and how what happens becomes an exit status.
"""

import os
import re
import sys
import traceback
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn, TypeAlias, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, clientFromString
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import deferLater, react
from twisted.logger import Logger

from creditsync import _wire as wire
from creditsync._cli.arguments import text
from creditsync._cli.output import printLine
from creditsync._cli.statuses import (
    DONE,
    FAILED,
    INTERRUPTED,
    REFUSED,
    UNKNOWN,
    USAGE,
)
from creditsync._cli.stopping import blockSignals, untilStopped
from creditsync._process.settling import settleProcess
from creditsync.client import (
    CreditClient,
    OutcomeUnknown,
    Refused,
    Unanswered,
)
from creditsync.errors import InvalidJSON

_T = TypeVar("_T")

CONNECT_VARIABLE: Final = "CREDITSYNC_CONNECT"
TOKEN_VARIABLE: Final = "CREDITSYNC_TOKEN"
DEFAULT_CONNECT: Final = "127.0.0.1:8080"

_log = Logger()

# Called with the reactor, a connected client, and a Deferred that fires when the
# process is asked to stop; returns the exit status.
Work: TypeAlias = Callable[[Any, CreditClient, "Deferred[None]"], Awaitable[int]]


def addConnection(parser: ArgumentParser) -> None:
    """
    Add the options for the server's address, the token and the timeout.
    """
    group = parser.add_argument_group("connection")
    group.add_argument(
        "--connect",
        metavar="WHERE",
        type=text,
        action="append",
        help="HOST:PORT, or a Twisted client endpoint such as tls:HOST:PORT; may be"
        " given several times, for servers that act as one and are tried in turn"
        f" (default: {CONNECT_VARIABLE} in the environment, where spaces separate"
        f" them, or else {DEFAULT_CONNECT})",
    )
    group.add_argument(
        "--token",
        metavar="FILE",
        help="the file with the token, see creditsync token (default:"
        f" {TOKEN_VARIABLE} in the environment, which is the token itself)",
    )
    group.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=30.0,
        help="how long to try each request, retries included (default: 30)",
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86400:
        raise ArgumentTypeError(f"must be a number of seconds, up to a day: {text}")
    return seconds


def readToken(options: Namespace) -> str:
    """
    Read the token from its file or the environment.

    @raise SystemExit: There is none, or it can't be a token.
    """
    token = os.environ.get(TOKEN_VARIABLE, "")
    if options.token is not None:
        try:
            # Some programs begin every file with a byte order mark.
            token = Path(options.token).read_text("utf-8-sig")
        except UnicodeDecodeError:
            exitWith(options, USAGE, f"the token in {options.token} is not ASCII text")
        except OSError as e:
            exitWith(
                options, USAGE, f"the token can't be read from {options.token}: {e}"
            )
    token = token.strip()
    if not token:
        exitWith(
            options,
            USAGE,
            f"a token is needed: name its file with --token, or put it in"
            f" {TOKEN_VARIABLE}; creditsync token mints one",
        )
    if not token.isascii() or not token.isprintable():
        exitWith(options, USAGE, "the token is malformed")
    return token


def principalOf(token: str) -> str:
    """
    The principal's id that a token claims, which only the server can verify;
    empty if it has none.
    """
    parts = token.split(".")
    try:
        claims = wire.decode(urlsafe_b64decode(parts[1] + "=="))
    except (IndexError, ValueError, InvalidJSON):
        return ""
    return str(claims.get("id", ""))


def reportError(options: Namespace, sentence: str) -> None:
    """
    Print an error to stderr.
    """
    printLine(f"creditsync {options.name}: {sentence}", sys.stderr)


def exitWith(options: Namespace, status: int, sentence: str) -> NoReturn:
    """
    Print an error and exit.
    """
    reportError(options, sentence)
    raise SystemExit(status)


def runWithClient(
    options: Namespace,
    token: str,
    work: Work,
    maxInFlight: int = 1,
) -> None:
    """
    Run C{work} with a client in the global reactor, and exit with the status
    that it returns.

    @param token: See L{readToken}.
    """

    def makeClient(reactor: Any) -> CreditClient:
        return CreditClient(
            [_endpoint(reactor, options, where) for where in servers(options)],
            token,
            clock=reactor,
            patience=options.timeout,
            maxInFlight=maxInFlight,
        )

    try:
        react(workAndExit, (options, makeClient, work))
    finally:
        blockSignals()


async def workAndExit(
    reactor: Any,
    options: Namespace,
    makeClient: Callable[[Any], CreditClient],
    work: Work,
) -> None:
    """
    Connect a client, run C{work} with it, and exit.

    C{options.status} is at each moment the status with which a signal ends the
    process. C{work} that changes something sets it as it goes.

    @raise SystemExit: Always, with the status.
    """
    options.status = INTERRUPTED
    settleProcess(reactor)
    with untilStopped(reactor, lambda: options.status) as stopped:
        client = makeClient(reactor)
        await _setStatus(options, client, partial(work, reactor), stopped)
        # A failure may have been reported by the client itself, in a call from
        # which it can't be stopped.
        await deferLater(reactor, 0)
        with _log.failureHandler("the client was not stopped"):
            await client.stopService()
    raise SystemExit(options.status)


async def carriedOut(
    options: Namespace,
    client: CreditClient,
    stopped: "Deferred[None]",
    send: Callable[[], Awaitable[_T]],
) -> _T:
    """
    Send the one request of a command that changes something. From here until it is
    answered, its outcome is unknown.

    @return: What its reply has.
    """
    # The pending request then fails, with an error that says whether it may have
    # been carried out.
    stopped.addCallback(lambda _: client.stopService())
    options.status = UNKNOWN
    answer = await send()
    options.status = DONE
    return answer


async def _setStatus(
    options: Namespace,
    client: CreditClient,
    work: Callable[[CreditClient, "Deferred[None]"], Awaitable[int]],
    stopped: "Deferred[None]",
) -> None:
    """
    Run C{work} and set C{options.status}; only then print why it is what it is.
    """
    try:
        await _connect(options, client, stopped)
        options.status = await work(client, stopped)
    except Refused as e:
        options.status = REFUSED
        reportError(options, f"refused: {e.message} ({e.status} {e.error})")
    except OutcomeUnknown as e:
        options.status = UNKNOWN
        reportError(options, e.message)
    except (Unanswered, CancelledError) as e:
        options.status = INTERRUPTED if stopped.called else FAILED
        if not stopped.called:
            reportError(options, str(e))
    except OSError as e:
        _failed(options)
        if not isinstance(e, BrokenPipeError):
            reportError(options, str(e))
    except Exception:
        _failed(options)
        reportError(options, traceback.format_exc())


def _failed(options: Namespace) -> None:
    """
    Set the status after an error in this process itself. If an operation was
    sent, the status stays that of its outcome as far as it is known.
    """
    if options.status == INTERRUPTED:
        options.status = FAILED


async def _connect(
    options: Namespace, client: CreditClient, stopped: "Deferred[None]"
) -> None:
    """
    Connect, and check that a server answers and accepts the token: a problem
    with either should show before anything is asked for.
    """
    client.startService()
    connected = client.whenConnected(failAfterFailures=1)
    stopped.addCallback(lambda _: connected.cancel())
    try:
        await connected
    except CancelledError:
        raise
    except Exception as e:
        where = " or ".join(servers(options))
        raise Unanswered(f"no connection to {where}: {e}") from e
    healthCheck = client.healthCheck()
    stopped.addCallback(lambda _: healthCheck.cancel())
    await healthCheck


def servers(options: Namespace) -> list[str]:
    """
    What C{--connect} or the environment says, or else the default.
    """
    given: list[str] = options.connect or os.environ.get(CONNECT_VARIABLE, "").split()
    return given or [DEFAULT_CONNECT]


def _endpoint(reactor: Any, options: Namespace, where: str) -> IStreamClientEndpoint:
    """
    The endpoint of one of them.
    """
    found = re.fullmatch(r"(\[[^\[\]]+\]|[^:\[\]]+):([0-9]{1,5})", where)
    try:
        if found:
            return HostnameEndpoint(reactor, found[1].strip("[]"), int(found[2]))
        endpoint: IStreamClientEndpoint = clientFromString(reactor, where)
    except (LookupError, TypeError, ValueError) as e:
        exitWith(
            options, USAGE, f"--connect takes HOST:PORT or an endpoint: {where} ({e})"
        )
    return endpoint
