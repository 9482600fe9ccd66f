"""
The types of the server's options: functions that read the text of a value, and
refuse one that can't be used with a C{usage.UsageError}.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from twisted.internet.endpoints import clientFromString
from twisted.python import usage

from creditsync._auditfile import checkKind
from creditsync._process.address import NODE
from creditsync._transport import listening


def positive(name: str, kind: type[float]) -> Callable[[str], float]:
    """
    The type of an option that is a positive quantity.

    @param kind: C{int} for what is counted, C{float} for what is measured.
    """

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = kind(0)
        if not 0 < value < math.inf:
            whole = "whole " if kind is int else ""
            raise usage.UsageError(f"--{name} must be a positive {whole}number: {text}")
        return value

    return read


def seconds(name: str) -> Callable[[str], float]:
    """
    The type of an option that is a time in seconds and may be 0.
    """

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf:
            raise usage.UsageError(f"--{name} must be 0 or a positive number: {text}")
        return value

    return read


def oneOf(name: str, *choices: str) -> Callable[[str], str]:
    """
    The type of an option that takes one of a few words.
    """
    allowed = f"{', '.join(choices[:-1])} or {choices[-1]}"

    def read(text: str) -> str:
        if text not in choices:
            raise usage.UsageError(f"--{name} must be {allowed}: {text}")
        return text

    return read


def path(name: str) -> Callable[[str], str]:
    """
    The type of an option that names a file or a folder. An empty one, for instance
    from an unset variable, would mean the working folder, or nothing.
    """

    def read(text: str) -> str:
        if not text:
            raise usage.UsageError(f"--{name} is empty: it must name a file or folder")
        return text

    return read


def text(name: str) -> Callable[[str], str]:
    """
    The type of an option that is any text. An empty one is most likely from an unset
    variable.
    """

    def read(text: str) -> str:
        if not text:
            raise usage.UsageError(f"--{name} is empty")
        return text

    return read


def nodeName(name: str) -> Callable[[str], str]:
    """
    The type of an option that names a server among several.
    """

    def read(text: str) -> str:
        if not NODE.fullmatch(text):
            raise usage.UsageError(
                f"--{name} must be 1 to 40 letters, digits, dots, hyphens and"
                f" underscores, and begin with a letter or a digit: {text}"
            )
        return text

    return read


def listenEndpoint(description: str) -> str:
    """
    The type of C{--listen}.
    """
    _checkEndpoint("listen", description)
    return description


def webEndpoint(description: str) -> str:
    """
    The type of C{--web}.
    """
    # What --web needs is loaded only where it is used.
    from creditsync.web._service import onLoopback

    _checkEndpoint("web", onLoopback(description))
    return description


def upstreamEndpoint(description: str) -> str:
    """
    The type of C{--upstream}.
    """
    # By now the reactor is chosen: twistd parses its own options first.
    from twisted.internet import reactor

    try:
        clientFromString(reactor, description)
    except Exception as e:
        raise usage.UsageError(
            f"--upstream {description} is not a valid endpoint: {e}"
        ) from e
    return description


def webOrigin(text: str) -> str:
    """
    The type of C{--web-origin}.
    """
    # As for --web.
    from creditsync.web._origins import normalized

    with namingOption("web-origin"):
        return normalized(text)


def _checkEndpoint(option: str, description: str) -> None:
    """
    @raise usage.UsageError: It is not a valid endpoint.
    """
    # By now the reactor is chosen: twistd parses its own options first.
    from twisted.internet import reactor

    try:
        listening.endpoint(reactor, description)
    except Exception as e:
        # Each kind of endpoint, plugins included, raises what it likes.
        raise usage.UsageError(
            f"--{option} {description} is not a valid endpoint: {e}"
        ) from e


@contextmanager
def namingOption(option: str) -> Iterator[None]:
    """
    Turn what is wrong with a value into an error that names the option.
    """
    try:
        yield
    except (ValueError, OSError) as e:
        raise usage.UsageError(f"--{option}: {e}") from e


def folder(text: str) -> Path:
    """
    A folder that must exist.

    @raise ValueError: It does not.
    """
    path = Path(text)
    if not path.is_dir():
        raise ValueError(f"the folder {path} does not exist")
    return path


def auditFile(text: str) -> Path:
    """
    The file of an audit trail. Only its folder must exist.

    @raise ValueError: It can't be one.
    """
    path = Path(text).absolute()
    folder(str(path.parent))
    checkKind(path)
    return path
