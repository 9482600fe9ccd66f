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
from creditsync.codes import MAX_SAFE_INTEGER, MAX_TIME, ROLES

_FINANCE: Final = ("manager", "dealer", "admin")
_OTHERS: Final = ", ".join(name for name in ROLES if name not in _FINANCE)


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
        help="the secret of HS256, the PEM private key of the others, or a JWK Set"
        f" with one of these (default: {KEY_VARIABLE} in the environment, or else the"
        f" file {DEFAULT_KEY})",
    )
    parser.add_argument(
        "--algorithm",
        choices=ALGORITHMS,
        help="default: HS256, or that of the key in a JWK Set",
    )
    parser.add_argument(
        "--kid",
        type=_text,
        help="which key of a JWK Set to use, if it has several; with any other key, the"
        " kid that the server knows it by",
    )
    parser.add_argument("--id", required=True, type=_id, help="the principal's id")
    parser.add_argument(
        "--role",
        type=_role,
        default="manager",
        help="the principal's role, by its name or number: manager, dealer and admin"
        f" may use the finance commands. The others are {_OTHERS} (default: manager)",
    )
    parser.add_argument(
        "--groups",
        metavar="MASKS",
        type=_text,
        help="the groups whose accounts it is for: masks separated by commas, such as"
        " 'real*,!real-vip'",
    )
    parser.add_argument("--login", type=_login, help="the account of a user")
    parser.add_argument(
        "--logins",
        metavar="LOGIN,...",
        type=_logins,
        help="the accounts of a customer, separated by commas",
    )
    parser.add_argument("--audience", type=_text, help="the claim aud")
    parser.add_argument("--issuer", type=_text, help="the claim iss")
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
            role=options.role,
            expires=options.expires,
            now=time.time(),
            kid=options.kid,
            groups=options.groups,
            login=options.login,
            logins=options.logins,
            audience=options.audience,
            issuer=options.issuer,
        )
    except ValueError as e:
        raise SystemExit(f"creditsync token: {e}") from e
    print(token)


def _id(text: str) -> int:
    if not text.isdecimal() or not int(text) <= MAX_SAFE_INTEGER:
        raise ArgumentTypeError(f"must be a whole number up to 2^53-1: {text}")
    return int(text)


def _role(text: str) -> int:
    numbers = {str(number): number for number in ROLES.values()}
    role = ROLES.get(text, numbers.get(text))
    if role is None:
        names = ", ".join(f"{name} ({number})" for name, number in ROLES.items())
        raise ArgumentTypeError(f"must be one of {names}: {text}")
    return role


def _login(text: str) -> int:
    login = _id(text)
    if login == 0:
        raise ArgumentTypeError("must be at least 1: 0")
    return login


def _logins(text: str) -> list[int]:
    return [_login(each.strip()) for each in text.split(",")]


def _text(text: str) -> str:
    # Most likely from a variable that is not set.
    if not text:
        raise ArgumentTypeError("must not be empty")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_TIME:
        raise ArgumentTypeError(f"must be a positive number of seconds: {text}")
    return seconds
