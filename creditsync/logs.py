"""
The log as JSON, one object per line, for log collectors::

    twistd --nodaemon --pidfile= --logger=creditsync.logs.json creditsync ...

Whatever an event contains, it is written in some form, and nothing is raised: the
log must never harm what it reports. What looks like a token is not written.
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

# Members of events from the older twisted.python.log. The text has them already.
_LEGACY: Final = frozenset(
    {"format", "isError", "message", "printed", "system", "time", "why"}
)

# A JSON Web Token: a JSON object, a dot, another one, a dot, a signature.
_TOKEN: Final = re.compile(r"eyJ[\w-]+\.eyJ[\w-]+(\.[\w-]*)?")


def json() -> "JSONLog":
    """
    Make an observer that writes to standard output. This is the function to name
    with C{twistd}'s C{--logger}.
    """
    # Now, as twistd redirects sys.stdout to the log once it has the observer.
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
            line = dumps(
                {"level": "error", "text": f"an event can't be written: {e!r}"}
            )
        try:
            self._out.write(f"{_TOKEN.sub('[token]', line)}\n")
            self._out.flush()
        except (OSError, ValueError):
            # There is no other place to report it.
            pass


def _members(event: LogEvent) -> Iterator[tuple[str, Any]]:
    """
    The members of the object of an event.
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
    The values that the event was logged with, if JSON has their types.
    """
    for name, value in event.items():
        if name.startswith("log_") or name in _LEGACY or "." in name:
            continue
        # JSON has no infinite numbers.
        if isinstance(value, _PLAIN) and value not in (float("inf"), -float("inf")):
            yield name, value if value == value else None
