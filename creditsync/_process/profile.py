"""
The file of C{--upstream-profile}: what is known of the platform behind a gateway, and
which of its commands are passed on.
"""

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from creditsync._conversation.commands import (
    GetOperation,
    HealthCheck,
    ResolveOperation,
    SetAccountGroup,
)
from creditsync._conversation.lookups import LOOKUPS
from creditsync.codes import ALL_SESSIONS, MAX_COMMENT, ROLES, SESSION_ADMIN
from creditsync.methods import (
    FINANCE_METHODS,
    REQUEST_METHODS,
    PassedCommand,
    commands,
    movesMoney,
)

# The commands of this server, which are never passed on.
OWN: Final = frozenset(
    {
        *(
            name
            for method in (*FINANCE_METHODS, *REQUEST_METHODS)
            for name in commands(method)
        ),
        *(name for name, *_ in LOOKUPS),
        *(
            each.name
            for each in (HealthCheck, GetOperation, ResolveOperation, SetAccountGroup)
        ),
        "Subscribe",
        "Unsubscribe",
    }
)

_MEMBERS: Final = ("two-phase", "comment-tag", "comment-length", "commands", "pass")

# A name is a label of metrics too.
_NAME: Final = re.compile("[A-Za-z][A-Za-z0-9_]{0,63}")

_TOKENS: Final = ("client", "service")
_EXPECTED: Final = (
    'must be "client" or "service", or a table of token and, if need be, roles'
)


def profileOf(path: str | None) -> dict[str, Any]:
    """
    What is known about the platform behind a gateway.

    @param path: The file that C{creditsync gateway probe} has written, if any.
    @return: C{two-phase}, whether two phases are sound; C{commands}, the names of
        those that have other names there; C{comment-tag}, whether comments get a tag,
        and C{comment-length}, how many characters they may have; C{pass}, a
        L{PassedCommand} for each that is passed on.
    @raise ValueError: It is not a profile.
    @raise OSError: It can't be read.
    """
    if path is None:
        return {"two-phase": False, "commands": {}, **_comments({}), "pass": []}
    try:
        found = tomllib.loads(Path(path).read_text("utf-8"))
        return _read(found)
    except ValueError as e:
        raise ValueError(f"{path} is not a profile: {e}") from e


def checkMembers(found: Mapping[str, Any]) -> None:
    """
    Check that a profile has no member by another name than those that are read: what
    was meant by it would not be done.

    @raise ValueError: It has one.
    """
    for name in found:
        if name not in _MEMBERS:
            raise ValueError(f"{name} is unknown, expected {', '.join(_MEMBERS)}")
    names = found.get("commands", {})
    for name in names if isinstance(names, dict) else ():
        if name not in OWN or name.endswith("Sync"):
            raise ValueError(f"commands.{name} is not a command that the gateway sends")


def _read(found: Mapping[str, Any]) -> dict[str, Any]:
    checkMembers(found)
    isSound, names = found.get("two-phase"), found.get("commands", {})
    if not isinstance(isSound, bool) or not isinstance(names, dict):
        raise ValueError("two-phase must be true or false")
    if not all(isinstance(name, str) for name in names.values()):
        raise ValueError("a command's name must be a string")
    passed = found.get("pass", {})
    if not isinstance(passed, dict):
        raise ValueError("pass must be a table")
    return {
        "two-phase": isSound,
        "commands": names,
        **_comments(found),
        "pass": list(_passed(passed, names)),
    }


def _comments(found: Mapping[str, Any]) -> dict[str, Any]:
    """
    What a profile says of comments.
    """
    isTagged = found.get("comment-tag", False)
    longest = found.get("comment-length", MAX_COMMENT)
    if not isinstance(isTagged, bool):
        raise ValueError("comment-tag must be true or false")
    if type(longest) is not int or not 1 <= longest <= MAX_COMMENT:
        raise ValueError(f"comment-length must be from 1 to {MAX_COMMENT}")
    return {"comment-tag": isTagged, "comment-length": longest}


def _passed(
    passed: Mapping[str, Any], names: Mapping[str, str]
) -> Iterator[PassedCommand]:
    """
    @param names: What the platform calls our commands.
    @raise ValueError: One can't be passed on.
    """
    ours = {*map(_plain, OWN), *map(_plain, names.values())}
    for name, value in passed.items():
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"pass.{name} must be a name of at most 64 letters, digits and"
                " underscores"
            )
        if _plain(name) in ours:
            raise ValueError(f"pass.{name} is a command of the gateway itself")
        if movesMoney(name):
            raise ValueError(
                f"pass.{name} moves money, by its name: the gateway could not keep it"
                " from being booked twice"
            )
        yield _command(name, value)


def _plain(name: str) -> str:
    """
    A name without what a platform may change in it from one release to the next.
    """
    return name.lower().removeprefix("mng")


def _command(name: str, value: Any) -> PassedCommand:
    if isinstance(value, str):
        value = {"token": value}
    if not isinstance(value, dict) or value.get("token") not in _TOKENS:
        raise ValueError(f"pass.{name} {_EXPECTED}")
    for member in value.keys() - {"token", "roles"}:
        raise ValueError(f"pass.{name}.{member} is unknown, expected token and roles")
    isClients = value["token"] == "client"
    if "roles" not in value:
        # The platform judges a client's token itself. The gateway's has all rights.
        roles = ALL_SESSIONS if isClients else frozenset({SESSION_ADMIN})
        return PassedCommand(name, isClients, roles)
    return PassedCommand(name, isClients, _roles(name, value["roles"]))


def _roles(name: str, named: Any) -> frozenset[int]:
    if not isinstance(named, list) or not named:
        raise ValueError(f"pass.{name}.roles must be a list of roles")
    for each in named:
        if not isinstance(each, str) or each not in ROLES:
            raise ValueError(
                f"pass.{name}.roles has {each!r}, expected {', '.join(ROLES)}"
            )
    return frozenset(ROLES[each] for each in named)


def described(command: PassedCommand) -> str:
    """
    A command that is passed on, for people.
    """
    whose = "the client's" if command.isClients else "the gateway's"
    return f"{command.name}, with {whose} token, for {_roleNames(command.roles)}"


def _roleNames(roles: Collection[int]) -> str:
    if roles == ALL_SESSIONS:
        return "all roles"
    return ", ".join(name for name, role in ROLES.items() if role in roles)


def wayOf(profile: Mapping[str, Any], named: str | None) -> str:
    """
    How a platform makes a new trade.

    @param named: What C{--upstream-way} says, if anything.
    @raise ValueError: The profile does not allow it.
    """
    if named == "two-phase" and not profile["two-phase"]:
        raise ValueError("two-phase needs a profile in which the probe has passed")
    return named or ("two-phase" if profile["two-phase"] else "one-shot")
