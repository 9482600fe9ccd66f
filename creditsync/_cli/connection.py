"""
What the commands that talk to a server have in common: where it is, for whom
they speak, and what becomes of it as an exit status.
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
from typing import Any, Final, NoReturn, TypeAlias

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, clientFromString
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import deferLater, react
from twisted.logger import Logger

from creditsync import wire
from creditsync._cli.output import FAILED as FAILED
from creditsync._cli.output import INTERRUPTED as INTERRUPTED
from creditsync._cli.output import say, text
from creditsync._cli.stopping import holdSignals, untilStopped
from creditsync.client import (
    CreditClient,
    Observer,
    OutcomeUnknown,
    Refused,
    Unanswered,
)
from creditsync.errors import InvalidJSON
from creditsync.tap import settleProcess

CONNECT_VARIABLE: Final = "CREDITSYNC_CONNECT"
TOKEN_VARIABLE: Final = "CREDITSYNC_TOKEN"
DEFAULT_CONNECT: Final = "127.0.0.1:8080"

# Exit statuses, beside FAILED and INTERRUPTED.
DONE: Final = 0
USAGE: Final = 2
REFUSED: Final = 3
UNKNOWN: Final = 4

STATUSES: Final = """\
exit status:
  0    done
  1    the server could not be reached, or something else went wrong; nothing
       has happened
  2    the command line is wrong
  3    refused by the server: nothing has happened
  4    the outcome is unknown: it may be booked; the order, as far as it is
       known, and the key to ask for are printed
  130  interrupted before anything was sent

Once the server has answered, the status is that of the answer, whatever fails
afterwards: an answer that can't be printed doesn't change it, nor does a signal.
"""

_log = Logger()

# Called with the reactor, a client that has been answered, and a Deferred that
# fires when the process is asked to stop; gives the exit status.
Work: TypeAlias = Callable[[Any, CreditClient, "Deferred[None]"], Awaitable[int]]


def addConnection(parser: ArgumentParser) -> None:
    """
    Add the options that say where the server is and for whom to speak.
    """
    group = parser.add_argument_group("connection")
    group.add_argument(
        "--connect",
        metavar="WHERE",
        type=text,
        default=os.environ.get(CONNECT_VARIABLE) or DEFAULT_CONNECT,
        help="HOST:PORT, or a Twisted client endpoint such as tls:HOST:PORT (default:"
        f" {CONNECT_VARIABLE} in the environment, or else {DEFAULT_CONNECT})",
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
        help="how long to try, over all repetitions of one request (default: 30)",
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

    @raise SystemExit: There is none, or none that can be one.
    """
    token = os.environ.get(TOKEN_VARIABLE, "")
    if options.token is not None:
        try:
            # Some programs begin every file with a byte order mark.
            token = Path(options.token).read_text("utf-8-sig")
        except UnicodeDecodeError:
            end(options, USAGE, f"the token in {options.token} is not ASCII text")
        except OSError as e:
            end(options, USAGE, f"the token can't be read from {options.token}: {e}")
    token = token.strip()
    if not token:
        end(
            options,
            USAGE,
            f"a token is needed: name its file with --token, or put it into"
            f" {TOKEN_VARIABLE}; creditsync token mints one",
        )
    if not token.isascii() or not token.isprintable():
        end(options, USAGE, "the token is malformed")
    return token


def principalOf(token: str) -> str:
    """
    For whom a token says that it speaks, which only the server can verify;
    or nothing if it doesn't say.
    """
    parts = token.split(".")
    try:
        claims = wire.decode(urlsafe_b64decode(parts[1] + "=="))
    except (IndexError, ValueError, InvalidJSON):
        return ""
    return str(claims.get("id", ""))


def complain(options: Namespace, sentence: str) -> None:
    """
    Tell what is wrong.
    """
    say(f"creditsync {options.name}: {sentence}", sys.stderr)


def end(options: Namespace, status: int, sentence: str) -> NoReturn:
    """
    Tell why this is the end.
    """
    complain(options, sentence)
    raise SystemExit(status)


def talk(
    options: Namespace,
    token: str,
    work: Work,
    observer: Observer | None = None,
    maxInFlight: int = 1,
) -> None:
    """
    Run C{work} with a client in the global reactor, and end the process with
    the status that it gives.

    @param token: See L{readToken}.
    @param observer: What is to get the trade events, if they are of interest.
    """

    def connect(reactor: Any) -> CreditClient:
        return CreditClient(
            _endpoint(reactor, options),
            token,
            clock=reactor,
            observer=observer,
            patience=options.timeout,
            maxInFlight=maxInFlight,
        )

    try:
        react(converse, (options, connect, work))
    finally:
        holdSignals()


async def converse(
    reactor: Any,
    options: Namespace,
    connect: Callable[[Any], CreditClient],
    work: Work,
) -> None:
    """
    Do the work, with a client that has been answered, and end.

    What the process ends with if a signal ends it is C{options.status} at each
    moment. Work that books one operation moves it on.

    @raise SystemExit: Always, with the status.
    """
    options.status = INTERRUPTED
    settleProcess(reactor)
    with untilStopped(reactor, lambda: options.status) as stopped:
        client = connect(reactor)
        await _converse(options, client, partial(work, reactor), stopped)
        # What has failed may have been told from inside of the client, which
        # can't be stopped from there.
        await deferLater(reactor, 0)
        with _log.failureHandler("the client was not stopped"):
            await client.stopService()
    raise SystemExit(options.status)


async def _converse(
    options: Namespace,
    client: CreditClient,
    work: Callable[[CreditClient, "Deferred[None]"], Awaitable[int]],
    stopped: "Deferred[None]",
) -> None:
    """
    Do the work, and decide the status; only then tell why it is what it is.
    """
    try:
        await _begin(options, client, stopped)
        options.status = await work(client, stopped)
    except Refused as e:
        options.status = REFUSED
        complain(options, f"refused: {e.message} ({e.status} {e.error})")
    except OutcomeUnknown as e:
        options.status = UNKNOWN
        complain(options, e.message)
    except (Unanswered, CancelledError) as e:
        options.status = INTERRUPTED if stopped.called else FAILED
        if not stopped.called:
            complain(options, str(e))
    except OSError as e:
        _failed(options)
        if not isinstance(e, BrokenPipeError):
            complain(options, str(e))
    except Exception:
        _failed(options)
        complain(options, traceback.format_exc())


def _failed(options: Namespace) -> None:
    """
    Decide the status where something is wrong with this process itself. Where an
    operation was sent, its outcome is what is known of it.
    """
    if options.status == INTERRUPTED:
        options.status = FAILED


async def _begin(
    options: Namespace, client: CreditClient, stopped: "Deferred[None]"
) -> None:
    """
    Connect, and make sure that somebody is there who takes the token: what is
    wrong with either is best known before anything is asked for.
    """
    client.startService()
    connected = client.whenConnected(failAfterFailures=1)
    stopped.addCallback(lambda _: connected.cancel())
    try:
        await connected
    except CancelledError:
        raise
    except Exception as e:
        raise Unanswered(f"no connection to {options.connect}: {e}") from e
    healthCheck = client.healthCheck()
    stopped.addCallback(lambda _: healthCheck.cancel())
    await healthCheck


def _endpoint(reactor: Any, options: Namespace) -> IStreamClientEndpoint:
    """
    Where C{--connect} points to.
    """
    where = options.connect
    found = re.fullmatch(r"(\[[^\[\]]+\]|[^:\[\]]+):([0-9]{1,5})", where)
    try:
        if found:
            return HostnameEndpoint(reactor, found[1].strip("[]"), int(found[2]))
        endpoint: IStreamClientEndpoint = clientFromString(reactor, where)
    except (LookupError, TypeError, ValueError) as e:
        end(options, USAGE, f"--connect takes HOST:PORT or an endpoint: {where} ({e})")
    return endpoint
