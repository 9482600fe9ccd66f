"""
C{creditsync token}: mints a token.
"""

import math
import time
from argparse import ArgumentTypeError, Namespace
from typing import Any, Final

from creditsync._process.defaults import DEFAULT_KEY, KEY_VARIABLE
from creditsync._process.keys import keyPath, readKey
from creditsync.auth import ALGORITHMS, mint
from creditsync.codes import (
    MAX_SAFE_INTEGER,
    MAX_TIME,
    SESSION_ADMIN,
    SESSION_DEALER,
    SESSION_MANAGER,
    SESSION_USER,
)

_ROLES: Final = {
    "manager": SESSION_MANAGER,
    "dealer": SESSION_DEALER,
    "admin": SESSION_ADMIN,
    "user": SESSION_USER,
}


def addCommand(commands: Any) -> None:
    """
    Add the subcommand to the command line.
    """
    parser = commands.add_parser(
        "token",
        help="mint a token for a client",
        description="Print a new token and nothing else.",
    )
    parser.add_argument(
        "--key",
        metavar="FILE",
        help=f"the secret of HS256, or the PEM private key of the others (default:"
        f" {KEY_VARIABLE} in the environment, or else the file {DEFAULT_KEY})",
    )
    parser.add_argument("--algorithm", choices=ALGORITHMS, default="HS256")
    parser.add_argument("--id", required=True, type=_id, help="the principal's id")
    parser.add_argument(
        "--role",
        choices=_ROLES,
        default="manager",
        help="the principal's role: every role but user may use the finance commands"
        " (default: manager)",
    )
    parser.add_argument(
        "--expires",
        metavar="SECONDS",
        type=_seconds,
        default=86400.0,
        help="how long it is valid (default: 86400, a day)",
    )
    parser.set_defaults(run=run)


def run(options: Namespace) -> None:
    """
    Print the token.
    """
    try:
        readings = readKey(options.key)
        if not readings:
            raise ValueError(
                f"there is no key at {keyPath(options.key)}: name it with --key, or"
                f" start the server once, which creates one"
            )
        token = mint(
            readings[0],
            options.algorithm,
            id=options.id,
            role=_ROLES[options.role],
            expires=options.expires,
            now=time.time(),
        )
    except ValueError as e:
        raise SystemExit(f"creditsync token: {e}") from e
    print(token)


def _id(text: str) -> int:
    if not text.isdecimal() or not int(text) <= MAX_SAFE_INTEGER:
        raise ArgumentTypeError(f"must be a whole number up to 2^53-1: {text}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_TIME:
        raise ArgumentTypeError(f"must be a positive number of seconds: {text}")
    return seconds
