"""
C{SandboxFault}, the command by which a test sets faults while the sandbox runs.
"""

from collections.abc import Callable
from typing import Any

from creditsync import _wire as wire
from creditsync._sandbox.lines import extIDOf
from creditsync._sandbox.script import Script
from creditsync.codes import SESSION_ADMIN
from creditsync.errors import Forbidden, InvalidData, Refusal
from creditsync.records import Principal


def answer(
    script: Script,
    authenticate: Callable[[str | None], Principal],
    members: dict[str, Any],
) -> bytes:
    """
    Do what a request asks for.

    @param members: Those of its line.
    @return: The line of the reply. It has every fault that may happen, or has
        happened.
    """
    extID = extIDOf(members)
    try:
        token = members.get("__token")
        principal = authenticate(token if isinstance(token, str) else None)
        if principal.role != SESSION_ADMIN:
            raise Forbidden("this token's role may not use SandboxFault")
        _apply(script, members.get("data", {}))
    except Refusal as refusal:
        return wire.refusal(extID, refusal)
    faults = [setting.describe() for setting in script.settings()]
    return wire.success(extID, {"faults": faults, "rename": dict(script.names)})


def _apply(script: Script, data: Any) -> None:
    """
    @raise InvalidData: The data asks for nothing that there is.
    """
    if not isinstance(data, dict):
        raise InvalidData("data must be an object")
    fault = dict(data)
    isReset, names = fault.pop("reset", False), fault.pop("rename", {})
    try:
        if isReset:
            script.clear()
        if fault:
            script.takeFault(fault)
        script.rename(names)
    except ValueError as e:
        raise InvalidData(f"data: {e}") from e
