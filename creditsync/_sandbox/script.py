"""
What goes wrong, and when: the settings of the faults, and the dice.

Each fault has its own source of randomness, made of the seed and its name, so that
to set one fault changes nothing for the others. ::

    seed = 7

    [[fault]]
    name = "lose-reply"
    rate = 0.1                # of those that it may happen to; 1 by default
    after = 1                 # so many times it does not happen first; 0 by default
    times = 3                 # at most; without a limit by default
    seconds = 2.0             # for those that take a time
    commands = ["CreditIn"]   # all by default

    [rename]
    MngApproveFinanceRequest = "MngConfirmFinanceRequest"
"""

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from random import Random
from typing import Any

from attrs import define, field

from creditsync._sandbox.table import FAULTS, Fault, Where

_MEMBERS = ("name", "rate", "after", "times", "seconds", "commands")


@define(eq=False)
class Setting:
    """
    How one fault is set.

    @ivar rate: How often it happens, from 0 to 1.
    @ivar after: How often it does not happen first, although the dice say so.
    @ivar times: How often it may still happen, or L{None}.
    @ivar commands: The commands to which it may happen, or L{None} for all.
    @ivar happened: How often it has happened.
    """

    fault: Fault
    random: Random
    rate: float = 0.0
    after: int = 0
    times: int | None = None
    seconds: float = 0.0
    commands: Collection[str] | None = None
    happened: int = field(default=0, init=False)

    def throw(self, command: str | None) -> bool:
        """
        Throw the dice.

        @param command: That of the request, or L{None} if there is none.
        """
        if not self.rate or self.times == 0:
            return False
        if self.commands is not None and command not in self.commands:
            return False
        if self.random.random() >= self.rate:
            return False
        if self.after:
            self.after -= 1
            return False
        return True

    def take(self) -> None:
        """
        It happens.
        """
        self.happened += 1
        if self.times is not None:
            self.times -= 1

    def describe(self) -> dict[str, Any]:
        """
        What C{SandboxFault} says of it.
        """
        return {
            "name": self.fault.name,
            "rate": self.rate,
            "after": self.after,
            "times": self.times,
            "seconds": self.seconds,
            "commands": None if self.commands is None else sorted(self.commands),
            "happened": self.happened,
        }


class Script:
    """
    The faults of one sandbox.

    @ivar names: What clients call a renamed command, by its own name.
    @ivar touchesOutput: Whether something may happen to what is sent.
    """

    def __init__(self, seed: int | str = 0) -> None:
        self.names: dict[str, str] = {}
        self._settings: dict[str, Setting] = {}
        self._at: dict[Where, list[Setting]] = {where: [] for where in Where}
        for fault in FAULTS:
            setting = Setting(fault, Random(f"{seed}:{fault.name}"))
            setting.rate, setting.seconds = fault.rate, fault.seconds
            self._settings[fault.name] = setting
            self._at[fault.where].append(setting)
        self._settled()

    def _settled(self) -> None:
        self.touchesOutput = any(
            each.rate
            for where in (Where.REPLY, Where.LOOKUP, Where.EVENT, Where.BETWEEN)
            for each in self._at[where]
        )

    def set(
        self,
        name: str,
        rate: float = 1.0,
        after: int = 0,
        times: int | None = None,
        seconds: float | None = None,
        commands: Collection[str] | None = None,
    ) -> Setting:
        """
        Set a fault.

        @raise ValueError: There is no such fault, or it can't be set so.
        """
        setting = self._settings.get(name)
        if setting is None:
            raise ValueError(f"there is no fault {name}")
        if not _isNumber(rate) or not 0 <= rate <= 1:
            raise ValueError(f"the rate of {name} must be a number from 0 to 1")
        for member, count in (("after", after), ("times", times)):
            if count is not None and (type(count) is not int or count < 0):
                raise ValueError(f"the {member} of {name} must be a whole number")
        if seconds is None:
            seconds = setting.fault.seconds
        if not _isNumber(seconds) or not 0 <= seconds <= 3600:
            raise ValueError(f"the seconds of {name} must be a number from 0 to 3600")
        if commands is not None and not _areNames(commands):
            raise ValueError(f"the commands of {name} must be a list of strings")
        setting.rate, setting.after, setting.times = float(rate), after, times
        setting.seconds, setting.commands = float(seconds), commands
        self._settled()
        return setting

    def clear(self) -> None:
        """
        Let nothing go wrong any more, and no line come in between.
        """
        self.names.clear()
        for name in self._settings:
            self.set(name, 0.0)

    def rename(self, names: Mapping[str, str]) -> None:
        """
        Give commands new names; the old ones are unknown from now on.

        @raise ValueError: These are no names.
        """
        if not isinstance(names, Mapping) or not _areNames([*names.values()]):
            raise ValueError("rename must have the new name of each command")
        self.names.update(names)

    def commandOf(self, name: str) -> str | None:
        """
        The command that a client means, or L{None} if its name is no longer known.
        """
        if not self.names:
            return name
        if name in self.names:
            return None
        return next((own for own, new in self.names.items() if new == name), name)

    def load(self, path: Path) -> None:
        """
        Read the settings of a file.

        @raise ValueError: It is not valid; the message says where.
        @raise OSError: It can't be read.
        """
        try:
            members = tomllib.loads(path.read_bytes().decode("utf-8"))
            self.take(members)
        except ValueError as e:
            raise ValueError(f"{path}: {e}") from e

    def take(self, members: Mapping[str, Any]) -> None:
        """
        Apply the members of a file, but for its C{seed}.

        @raise ValueError: They are not valid.
        """
        for member in members.keys() - {"seed", "fault", "rename"}:
            raise ValueError(f"unknown member {member}")
        faults = members.get("fault", [])
        if not isinstance(faults, list):
            raise ValueError("a fault is written as [[fault]]")
        for fault in faults:
            self.takeFault(fault)
        self.rename(members.get("rename", {}))

    def takeFault(self, members: Mapping[str, Any]) -> Setting:
        """
        Apply the members of one fault.

        @raise ValueError: They are not valid.
        """
        for member in members.keys() - set(_MEMBERS):
            raise ValueError(f"unknown member {member} of a fault")
        if not isinstance(members.get("name"), str):
            raise ValueError("a fault has no name")
        return self.set(**members)

    def settings(self) -> list[Setting]:
        """
        Those that may happen, or have happened.
        """
        return [each for each in self._settings.values() if each.rate or each.happened]

    def first(
        self, where: Where, command: str | None, members: Mapping[str, Any]
    ) -> Setting | None:
        """
        Throw the dice of every fault that may happen to a line, and take the first in
        the order of the table that happens.

        @param members: Those of the line.
        """
        # All of them, so that none changes what happens to the others.
        found = [
            each
            for each in self._at[where]
            if each.fault.mayHappen(members) and each.throw(command)
        ]
        if not found:
            return None
        found[0].take()
        return found[0]

    def every(self, where: Where) -> list[Setting]:
        """
        Throw them, and take all that happen.
        """
        found = [each for each in self._at[where] if each.throw(None)]
        for each in found:
            each.take()
        return found

    def happens(self, name: str, command: str | None = None) -> float | None:
        """
        Throw the dice of one fault.

        @return: The seconds that it takes if it happens, and otherwise L{None}.
        """
        setting = self._settings[name]
        if not setting.throw(command):
            return None
        setting.take()
        return setting.seconds


def seedOf(path: Path) -> str:
    """
    The seed in a file of faults; 0 if it has none.

    @raise ValueError: It is not valid.
    @raise OSError: It can't be read.
    """
    try:
        return str(tomllib.loads(path.read_bytes().decode("utf-8")).get("seed", 0))
    except ValueError as e:
        raise ValueError(f"{path}: {e}") from e


def _isNumber(value: object) -> bool:
    return type(value) in (int, float)


def _areNames(values: object) -> bool:
    return isinstance(values, (list, tuple, set, frozenset)) and all(
        isinstance(each, str) for each in values
    )
