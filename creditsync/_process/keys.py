"""
The file with the key of the tokens: where it is, what is in it, and how a new
one is made.
"""

import os
import secrets
import tempfile
from pathlib import Path
from typing import Final

from twisted.logger import Logger

from creditsync._jwks import hasSecret
from creditsync._process.defaults import DEFAULT_KEY, KEY_VARIABLE
from creditsync._process.starting import CannotStart
from creditsync.auth import keyReadings

# The warning about a key file that earlier releases read differently.
TWO_READINGS: Final = (
    "begins with a byte order mark, which is not part of the key, or is binary and"
    " begins or ends with white space, which is; tokens signed with the key as"
    " earlier releases read it are accepted too"
)

_log = Logger()


def keyPath(named: str | None) -> Path:
    """
    The key file.

    @param named: The value of C{--key}, or L{None} without that option.
    """
    return Path(named or DEFAULT_KEY)


def isFromEnvironment(named: str | None) -> bool:
    """
    Whether the key is that of the environment.

    @param named: The value of C{--key}, or L{None} without that option.
    """
    return named is None and bool(os.environb.get(KEY_VARIABLE.encode()))


def readKey(named: str | None) -> list[bytes]:
    """
    Find and read the key that tokens are signed or verified with.

    @param named: The value of C{--key}, or L{None}. It takes precedence over
        the environment, which takes precedence over the default file.
    @return: See L{keyReadings}; empty if the file does not exist.
    @raise ValueError: The file can't be read.
    """
    if isFromEnvironment(named):
        return _readings(KEY_VARIABLE, os.environb[KEY_VARIABLE.encode()])
    path = keyPath(named)
    try:
        key = path.read_bytes()
        mode = path.stat().st_mode
    except FileNotFoundError:
        return []
    except OSError as e:
        raise ValueError(f"the key {path} can't be read ({e.strerror})") from e
    readings = _readings(str(path), key)
    isPublic = b"PUBLIC KEY" in key or not hasSecret(readings[0])
    if mode & 0o077 and not isPublic and not _isCredential(path):
        _log.warn(
            "Others can read the key {path}: restrict it with chmod 600.", path=path
        )
    return readings


def _readings(source: str, data: bytes) -> list[bytes]:
    """
    The readings of a key. If there are two, the log has a warning.
    """
    readings = keyReadings(data)
    if readings[1:]:
        _log.warn("The key {source} {reading}.", source=source, reading=TWO_READINGS)
    return readings


def _isCredential(path: Path) -> bool:
    """
    Whether systemd provides this file as a credential, which only the service
    can read, whatever the file's mode.
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return folder is not None and path.absolute().is_relative_to(folder)


def makeKey(path: Path) -> bytes:
    """
    Make a new secret for HS256 in a file that only this user can read. The file
    appears with all of its content or not at all, and never replaces another.

    @raise CannotStart: It can't be created.
    """
    key = secrets.token_hex(32).encode()
    try:
        draft, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with open(draft, "wb") as file:
                file.write(key + b"\n")
                file.flush()
                os.fsync(draft)
            os.link(name, path)
        finally:
            os.unlink(name)
    except OSError as e:
        raise CannotStart(f"--key: can't create the key {path}: {e.strerror}") from e
    _log.warn(
        "Created the key {path}. Mint a token with:"
        " creditsync token --key {path} --id 7 --role manager",
        path=path,
    )
    return key
