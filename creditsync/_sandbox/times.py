"""
Other ways to write times, as some platforms have them in look-ups.

The ledger counts whole seconds. A L{Form} writes them otherwise in a reply, and reads
the conditions of a request in the same way, so that a search that goes on behind the
last row of a page finds the next one.
"""

from collections.abc import Callable, Mapping
from math import ceil, floor
from typing import Any, Final

from attrs import define

from creditsync.codes import MAX_SAFE_INTEGER

# Those that are the platform's own, and those that a request may have chosen, which
# are whole seconds in any form.
_CHANGED: Final = frozenset({"update_time", "timestamp"})
_TIMES: Final = _CHANGED | {"open_time", "close_time"}


def _exact(seconds: float) -> int:
    """
    The same whole seconds, or what no trade has.
    """
    return int(seconds) if seconds == int(seconds) else -1


# With which whole seconds a comparison has the same result.
_COMPARED: Final[Mapping[str, Callable[[float], int]]] = {
    "==": _exact,
    "!=": _exact,
    ">": floor,
    "<=": floor,
    ">=": ceil,
    "<": ceil,
}


@define(frozen=True)
class Form:
    """
    A way to write times.

    @ivar name: The fault that brings it about.
    @ivar scale: How many of it are a second.
    @ivar rest: What the time of a change has besides its whole seconds.
    """

    name: str
    scale: int
    rest: float

    def asked(self, members: Mapping[str, Any]) -> dict[str, Any]:
        """
        A request, with the times in its conditions as the ledger has them.
        """
        data = members.get("data")
        if not isinstance(data, dict):
            return dict(members)
        data = dict(data)
        for member in ("where", "whereNot"):
            if isinstance(data.get(member), list):
                data[member] = [self._compared(item) for item in data[member]]
        return {**members, "data": data}

    def _compared(self, item: Any) -> Any:
        match item:
            case [str(name), str(operator), value] if name in _TIMES:
                if operator in _COMPARED and _isTime(value):
                    seconds = (value - self._restOf(name)) / self.scale
                    return [name, operator, _COMPARED[operator](seconds)]
        return item

    def answered(self, members: Mapping[str, Any]) -> dict[str, Any]:
        """
        A reply, with its times in this form.
        """
        data = members.get("data")
        if not isinstance(data, dict):
            return dict(members)
        if "rows" not in data:
            return {**members, "data": self._written(data)}
        names = data["structure"]
        rows = [
            list(self._written(dict(zip(names, row, strict=True))).values())
            for row in data["rows"]
        ]
        return {**members, "data": {**data, "rows": rows}}

    def _written(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: value * self.scale + self._restOf(name) if name in _TIMES else value
            for name, value in record.items()
        }

    def _restOf(self, name: str) -> float:
        return self.rest if name in _CHANGED else 0


def _isTime(value: object) -> bool:
    isNumber = type(value) in (int, float)
    return isNumber and -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER  # type: ignore[operator]


# The look-ups that show times.
LOOKUPS: Final = frozenset(
    {"GetTradeByOrder", "GetTradeByOrders", "MngGetTradesByFilter"}
)

# The first that happens counts.
FORMS: Final = (
    Form("millisecond-times", 1000, 250),
    Form("fraction-times", 1, 0.25),
)
