"""
The options of the server in a file.

It is TOML, and its keys are the names of the options. It may have the values that
the command line may have, as the options themselves read them. ::

    listen = ["tcp:8080:interface=127.0.0.1", "unix:/run/creditsync/sock"]
    ledger = "/var/lib/creditsync/ledger.db"
    timeout = 3.0
    idempotent-extid = true
"""

import tomllib
from codecs import BOM_UTF8
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from twisted.python import usage

_Take: TypeAlias = Callable[[Any], None]
_Option: TypeAlias = "tuple[tuple[type, ...], str, _Take]"


def fill(options: usage.Options, path: Path, given: Collection[str]) -> set[str]:
    """
    Set options to the values in a file.

    @param given: The names of options that keep their values. Those in the file
        must be valid all the same.
    @return: The names of the options that were set.
    @raise usage.UsageError: The file can't be read, or has an unknown option or
        a value of the wrong type; the message begins with the file's name.
    """
    takers = dict(_takers(options))
    taken = set()
    try:
        for key, value in _load(path).items():
            if key not in takers:
                raise usage.UsageError(f"unknown option {key}")
            kinds, wanted, take = takers[key]
            if not _isOf(value, kinds):
                raise usage.UsageError(f"{key} must be {wanted}")
            if key not in given:
                take(value)
                taken.add(key)
    except usage.UsageError as e:
        raise usage.UsageError(f"{path}: {e}") from e
    return taken


def _load(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
        if data.startswith(BOM_UTF8):
            raise usage.UsageError(
                "it begins with a byte order mark; save it without one"
            )
        return tomllib.loads(data.decode("utf-8"))
    except OSError as e:
        raise usage.UsageError(f"it can't be read ({e.strerror})") from e
    except UnicodeDecodeError as e:
        raise usage.UsageError("it is not UTF-8") from e
    except tomllib.TOMLDecodeError as e:
        raise usage.UsageError(f"it is not valid TOML: {e}") from e


def _takers(options: Any) -> Iterator[tuple[str, _Option]]:
    """
    For each option, the types of its values, a description of them, and the
    function that sets it.
    """
    for name, _, default, _, *reads in options.optParameters:
        if name == "config":
            continue
        kinds, wanted = _KINDS[type(default)]
        yield name, (kinds, wanted, _parameter(options, name, *reads))
    for name, *_ in options.optFlags:
        yield name, ((bool,), "true or false", _flag(options, name))
    for name, value in options.items():
        if isinstance(value, list):
            repeated = getattr(options, f"opt_{name.replace('-', '_')}")
            yield name, ((list,), "a list of strings", _each(repeated))


_KINDS: dict[type, tuple[tuple[type, ...], str]] = {
    float: ((int, float), "a number"),
    int: ((int,), "a whole number"),
    str: ((str,), "a string"),
    type(None): ((str,), "a string"),
}


def _parameter(
    options: usage.Options, name: str, read: Callable[[str], Any] = str
) -> _Take:
    def take(value: Any) -> None:
        options[name] = read(str(value))

    return take


def _flag(options: usage.Options, name: str) -> _Take:
    def take(value: bool) -> None:
        options[name] = int(value)

    return take


def _each(repeated: Callable[[str], None]) -> _Take:
    def take(values: list[str]) -> None:
        for value in values:
            repeated(value)

    return take


def _isOf(value: object, kinds: tuple[type, ...]) -> bool:
    # The exact type, as a bool is also an int.
    if type(value) not in kinds:
        return False
    return not isinstance(value, list) or all(type(each) is str for each in value)
