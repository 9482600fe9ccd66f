"""
The rules of a site: how much may be booked, in one operation and on one day.

A rule is a table C{[[limit]]} in the file of C{--limits}; docs/operations.rst, "Limits
of what may be booked", has its members. This module reads the file, and
L{creditsync._rulebook} judges operations by its rules.

The word for them here is rules, because L{creditsync.limits} has the technical limits
of the server. Those protect the server from its clients, and are options; these bound
money, and are a table that a site writes.
"""

import tomllib
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from attrs import define, fields
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from creditsync._masks import matches, patternsOf
from creditsync._money import fromUnits, toUnits
from creditsync._watching import WatchedFile
from creditsync.codes import (
    MAX_SAFE_INTEGER,
    SESSION_ADMIN,
    SESSION_DEALER,
    SESSION_MANAGER,
)
from creditsync.errors import ShuttingDown
from creditsync.methods import FINANCE_METHODS
from creditsync.records import Movement

# The roles that may book, by their names in a file.
_ROLES: Final = {
    "manager": SESSION_MANAGER,
    "dealer": SESSION_DEALER,
    "admin": SESSION_ADMIN,
}

_METHODS: Final = tuple(method.name for method in FINANCE_METHODS)

# What the sums of a day are kept for, each with its key in a movement.
_KEYS: Final[Mapping[str, Callable[[Movement], int | None]]] = {
    "principal": lambda movement: movement.principal,
    "login": lambda movement: movement.login,
    "role": lambda movement: movement.role,
    "all": lambda movement: None,
}

_REFUSE: Final = "refuse"
_REQUEST: Final = "request"

# More than can be booked. An amount of millions of digits would be slow to read.
_MAX_AMOUNT: Final = 10**18

# Characters of a rule's name: it is a label of a metric, and part of a sentence.
_MAX_NAME: Final = 64


@define(frozen=True)
class Rule:
    """
    One rule. Its conditions are L{None} where the file has none, and a movement that
    does not fulfil all of them is not bound.

    @ivar name: What a refusal names.
    @ivar maxAmount: Of one operation, in 10⁻⁸ units.
    @ivar maxPerDay: Of all on one UTC day, in 10⁻⁸ units.
    @ivar per: What has a sum of its own: C{principal}, C{login}, C{role}, or C{all}
        for one sum.
    @ivar over: C{request} if what is refused may be asked for with
        C{MngCreateFinanceRequest}, otherwise C{refuse}.
    @ivar groups: A mask.
    @ivar commands: The names of asynchronous commands. Their C{Sync} forms are bound
        too.
    """

    name: str
    maxAmount: int | None = None
    maxPerDay: int | None = None
    per: str = "principal"
    over: str = _REFUSE
    roles: frozenset[int] | None = None
    principals: frozenset[int] | None = None
    logins: frozenset[int] | None = None
    groups: str | None = None
    commands: frozenset[str] | None = None

    @property
    def mayBeRequested(self) -> bool:
        """
        Whether what it refuses may be asked for.
        """
        return self.over == _REQUEST

    @property
    def conditions(self) -> str:
        """
        Its conditions, for people.
        """
        found = []
        if self.roles is not None:
            names = [name for name, role in _ROLES.items() if role in self.roles]
            found.append(f"roles {', '.join(names)}")
        if self.principals is not None:
            found.append(f"principals {', '.join(map(str, sorted(self.principals)))}")
        if self.logins is not None:
            found.append(f"logins {', '.join(map(str, sorted(self.logins)))}")
        if self.groups is not None:
            found.append(f"groups {self.groups}")
        if self.commands is not None:
            found.append(f"commands {', '.join(sorted(self.commands))}")
        return "; ".join(found)

    def binds(self, movement: Movement) -> bool:
        """
        Whether a movement fulfils all conditions.
        """
        return (
            (self.roles is None or movement.role in self.roles)
            and (self.principals is None or movement.principal in self.principals)
            and (self.logins is None or movement.login in self.logins)
            and (self.commands is None or movement.method in self.commands)
            and (self.groups is None or matches(self.groups, movement.group))
        )

    def keyOf(self, movement: Movement) -> int | None:
        """
        The key of the sum for which a movement counts.
        """
        return _KEYS[self.per](movement)

    @property
    def inOne(self) -> str:
        """
        What it allows in one operation, for people; "" if it does not say.
        """
        if self.maxAmount is None:
            return ""
        return f"{fromUnits(self.maxAmount)} in one operation"

    @property
    def onOneDay(self) -> str:
        """
        What it allows on one day, for people; "" if it does not say.
        """
        if self.maxPerDay is None:
            return ""
        whose = "in all" if self.per == "all" else f"for each {self.per}"
        return f"{fromUnits(self.maxPerDay)} a day {whose}"


def readRules(data: bytes) -> tuple[Rule, ...]:
    """
    Read the content of a file of rules.

    @raise ValueError: It can't be used; the message continues a sentence about the
        limits in the file, such as C{are not UTF-8}.
    """
    if data.startswith(BOM_UTF8):
        raise ValueError("begin with a byte order mark; save the file without one")
    try:
        # Amounts are decimal numbers, so no digit may be lost.
        document = tomllib.loads(data.decode("utf-8"), parse_float=Decimal)
    except UnicodeDecodeError as e:
        raise ValueError("are not UTF-8") from e
    except ValueError as e:
        # Also of a number with thousands of digits.
        raise ValueError(f"are not valid TOML: {e}") from e
    return _rules(document)


def _rules(document: Mapping[str, Any]) -> tuple[Rule, ...]:
    for name in document:
        if name != "limit":
            raise ValueError(f"have an unknown member {name}: write [[limit]]")
    if "limit" not in document:
        # Most likely the file was being written. Not to bound anything has to be meant.
        raise ValueError(
            "have no [[limit]] (if there are to be none, write limit = [])"
        )
    tables = document["limit"]
    if not isinstance(tables, list) or not all(isinstance(t, dict) for t in tables):
        raise ValueError("have a limit that is not a list of tables: write [[limit]]")
    rules: dict[str, Rule] = {}
    for number, table in enumerate(tables, 1):
        try:
            rule = _rule(table)
            if rule.name in rules:
                raise ValueError(f"name is taken: {_shown(rule.name)}")
        except ValueError as e:
            raise ValueError(f"are wrong: limit {number}: {e}") from e
        rules[rule.name] = rule
    return tuple(rules.values())


def _rule(table: Mapping[str, Any]) -> Rule:
    values = {}
    for member, value in table.items():
        if member not in _MEMBERS:
            raise ValueError(f"unknown member {member}")
        attribute, wanted, read = _MEMBERS[member]
        try:
            values[attribute] = read(value)
        except ValueError as e:
            raise ValueError(f"{member} must be {wanted}: {_shown(value)}") from e
    if "name" not in values:
        raise ValueError("name is missing")
    if "maxPerDay" not in values:
        if "maxAmount" not in values:
            raise ValueError("it has neither max-amount nor max-per-day")
        if "per" in values:
            raise ValueError("per is only for max-per-day")
    return Rule(**values)


def _name(value: object) -> str:
    if isinstance(value, str) and value.isprintable() and 0 < len(value) <= _MAX_NAME:
        return value
    raise ValueError


def _amount(value: object) -> int:
    # A bool is an int too.
    if type(value) not in (int, Decimal):
        raise ValueError
    amount = Decimal(str(value))
    if not (amount.is_finite() and 0 <= amount <= _MAX_AMOUNT):
        raise ValueError
    return toUnits(amount)


def _oneOf(*words: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if not isinstance(value, str) or value not in words:
            raise ValueError
        return value

    return read


def _some(isOne: Callable[[Any], bool]) -> Callable[[object], frozenset[Any]]:
    """
    The type of a list. An empty one is refused: its rule would bind nobody.
    """

    def read(value: object) -> frozenset[Any]:
        if not isinstance(value, list) or not value or not all(map(isOne, value)):
            raise ValueError
        return frozenset(value)

    return read


def _isNumber(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_SAFE_INTEGER


def _isLogin(value: object) -> bool:
    return _isNumber(value) and value != 0


def _roles(value: object) -> frozenset[int]:
    return frozenset(map(_ROLES.__getitem__, _some(_isIn(_ROLES))(value)))


def _isIn(names: Any) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and value in names


def _mask(value: object) -> str:
    # One that selects nothing is most likely meant to bind all others.
    if not isinstance(value, str) or not any(
        isSelected for isSelected, _ in patternsOf(value)
    ):
        raise ValueError
    return value


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


_AMOUNT: Final = "a number of at least 0 with at most 8 decimals"

# For each member of a file: the attribute of a rule, what its value must be, and the
# function that reads it.
_MEMBERS: Final[Mapping[str, tuple[str, str, Callable[[object], Any]]]] = {
    "name": ("name", f"1 to {_MAX_NAME} printable characters", _name),
    "max-amount": ("maxAmount", _AMOUNT, _amount),
    "max-per-day": ("maxPerDay", _AMOUNT, _amount),
    "per": ("per", _listed(tuple(_KEYS)), _oneOf(*_KEYS)),
    "over": ("over", _listed((_REFUSE, _REQUEST)), _oneOf(_REFUSE, _REQUEST)),
    "roles": ("roles", f"a list of {_listed(tuple(_ROLES))}", _roles),
    "principals": ("principals", "a list of ids of tokens", _some(_isNumber)),
    "logins": ("logins", "a list of logins", _some(_isLogin)),
    "groups": ("groups", "a mask that selects groups, such as !demo,*", _mask),
    "commands": (
        "commands",
        f"a list of {_listed(_METHODS)}, which stand for their Sync forms too",
        _some(_isIn(_METHODS)),
    ),
}
assert {attribute for attribute, *_ in _MEMBERS.values()} == {
    each.name for each in fields(Rule)
}


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _ignore(rules: Sequence[Rule]) -> Deferred[None]:
    return succeed(None)


class RulesFile:
    """
    The rules of a file. It is read again only when that is asked for, so that several
    changes can come into force together.

    @ivar rules: As they were read last.
    @ivar use: Called with the rules of each reload. Its Deferred fires when they are in
        force, or fails, with L{ShuttingDown} if that is because the server stops.
    """

    _log = Logger()

    def __init__(self, path: Path) -> None:
        """
        @raise ValueError: The file can't be used.
        """
        self.rules: tuple[Rule, ...] = ()
        self.use: Callable[[Sequence[Rule]], Deferred[None]] = _ignore
        self._file = WatchedFile(path, "limits", self._take, self._log)
        self._file.read()
        self._isUnused = False

    @property
    def isStale(self) -> bool:
        """
        Whether the last reload has failed, so that former rules are in force.
        """
        return self._file.problem is not None or self._isUnused

    def reload(self) -> None:
        """
        Read the file again. If that is not possible, the rules stay as they were.
        """
        self._file.reload()
        if self._file.problem is None:
            self.use(self.rules).addCallbacks(self._used, self._notUsed, (self.rules,))

    def _take(self, data: bytes) -> None:
        self.rules = readRules(data)

    def _used(self, _: None, rules: Sequence[Rule]) -> None:
        self._isUnused = False
        self._log.info(
            "The limits in {path} are in force: {names}.",
            path=str(self._file.path),
            names=", ".join(rule.name for rule in rules) or "none",
        )

    def _notUsed(self, why: Failure) -> None:
        if why.check(ShuttingDown):
            return
        self._isUnused = True
        self._log.failure(
            "The limits in {path} could not be put into force; the previous ones stay.",
            why,
            LogLevel.error,
            path=str(self._file.path),
        )
