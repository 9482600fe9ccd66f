"""
The log as JSON, one object a line, for those who collect logs::

    twistd --nodaemon --pidfile= --logger=creditsync.logs.json creditsync ...

No event keeps it from writing, and none makes it raise: a log must never harm
what it tells of. What looks like a token is not written.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from json import dumps
from typing import Any, Final, TextIO

from attrs import define
from twisted.logger import ILogObserver, LogEvent, formatEvent
from zope.interface import implementer

_PLAIN: Final = (str, int, float, bool, type(None))

# Of events that were made by the older twisted.python.log; the text has it.
_LEGACY: Final = frozenset(
    {"format", "isError", "message", "printed", "system", "time", "why"}
)

# A JSON Web Token: a JSON object, a dot, another one, a dot, a signature.
_TOKEN: Final = re.compile(r"eyJ[\w-]+\.eyJ[\w-]+(\.[\w-]*)?")


def json() -> "JSONLog":
    """
    Make the observer that writes to the standard output, as C{twistd}'s
    C{--logger} asks for it.
    """
    # twistd makes sys.stdout a part of the log as soon as it has this.
    return JSONLog(sys.stdout)


@implementer(ILogObserver)
@define(eq=False)
class JSONLog:
    """
    Writes each event as a line.
    """

    _out: TextIO

    def __call__(self, event: LogEvent) -> None:
        """
        See L{ILogObserver}.
        """
        try:
            line = dumps(dict(_members(event)), allow_nan=False)
        except Exception as e:
            line = dumps({"level": "error", "text": f"an event can't be told: {e!r}"})
        try:
            self._out.write(f"{_TOKEN.sub('[token]', line)}\n")
            self._out.flush()
        except (OSError, ValueError):
            # There is nobody left who could be told.
            pass


def _members(event: LogEvent) -> Iterator[tuple[str, Any]]:
    """
    What is written of an event.
    """
    moment = datetime.fromtimestamp(event.get("log_time", 0.0), UTC)
    yield "time", f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"
    level = event.get("log_level")
    yield "level", "info" if level is None else level.name
    yield "namespace", str(event.get("log_namespace", ""))
    yield "text", formatEvent(event)
    fields = dict(_fields(event))
    if fields:
        yield "fields", fields
    failure = event.get("log_failure")
    if failure is not None:
        yield "exception", failure.getTraceback()


def _fields(event: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """
    What the event was made with, as far as it is plain.
    """
    for name, value in event.items():
        if name.startswith("log_") or name in _LEGACY or "." in name:
            continue
        # An infinite number is none in JSON.
        if isinstance(value, _PLAIN) and value not in (float("inf"), -float("inf")):
            yield name, value if value == value else None
