"""
What a line may be answered with, by C{docs/protocol.rst}, "Errors", alone.

The judge reads a line with L{tests.attack.ijson}, holds it against the
published schemas with C{jsonschema}, and says which pairs of status and error
may come back. It knows nothing of the code that answers.
"""

import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from attrs import define
from jsonschema import Draft202012Validator
from jsonschema.validators import extend
from referencing import Registry

from tests.attack import ijson
from tests.family import DELETION_SCHEMA, DELETIONS, METHODS, NAMES, ROLES, units

Outcome = tuple[int, str | None]

ADMIN = 3

OK: Outcome = (200, None)
TIMED_OUT: Outcome = (504, "SYNC_TIMEOUT")
_BUSY: Outcome = (503, "BUSY")

# The schema of each finance method's data, and its cmd or None for a deletion.
FINANCE: dict[str, tuple[str, int | None]] = {
    **{name: (method.schema, method.cmd) for name, method in METHODS.items()},
    **dict.fromkeys(DELETIONS.values(), (DELETION_SCHEMA, None)),
}
# The schema of the data of each command about finance requests.
REQUESTS = {
    "MngCreateFinanceRequest": "mng_create_finance_request",
    "MngApproveFinanceRequest": "mng_approve_finance_request",
    "MngApproveFinanceRequestSync": "mng_approve_finance_request",
    "MngDeclineFinanceRequest": "mng_decline_finance_request",
}
# What a finance request has in common with the command that books its cmd.
_SHARED = ("login", "amount", "comment", "open_time")
OTHERS = {
    "HealthCheck": "health_check",
    "GetOperation": "get_operation",
    "MngSetAccountGroup": "set_account_group",
    "Subscribe": "subscribe",
    "Unsubscribe": "subscribe",
    "GetTradeByOrder": "get_trade_by_order",
    "GetTradeByOrders": "get_trade_by_orders",
    "MngGetTradesByFilter": "mng_get_trades_by_filter",
    "GetAccountByLogin": "get_account_by_login",
    "GetGroups": "get_groups",
}
# Which roles may use a look-up, and how it may end if its data is valid. All other
# commands that move no money are for every role ("Tokens and roles").
_LOOKUPS: dict[str, tuple[tuple[int, ...], set[Outcome]]] = {
    "GetOperation": (ROLES, {OK, (404, "NOT_FOUND")}),
    "GetTradeByOrder": ((0, *ROLES), {OK, (404, "TRADE_NOT_FOUND")}),
    "GetTradeByOrders": ((0, *ROLES), {OK, (404, "TRADE_NOT_FOUND"), _BUSY}),
    # tests.attack.filters says which of them.
    "MngGetTradesByFilter": (ROLES, {OK, (400, "INVALID_DATA"), _BUSY}),
    "GetAccountByLogin": ((0, *ROLES), {OK, (404, "USER_NOT_FOUND")}),
    "GetGroups": (ROLES, {OK, _BUSY}),
}
_REFUSED_LATER = {
    (400, "INVALID_DATA"),
    (404, "NOT_FOUND"),
    (409, "INCORRECT_ORDER"),
    (409, "TRADE_NO_MONEY"),
    (422, "IDEMPOTENCY_KEY_REUSED"),
}

_FOLDER = Path(__file__).parents[2] / "schemas"


def _isInteger(checker: object, value: object) -> bool:
    """
    An integer as in JSON Schema: by value, not by how it is written.
    """
    if isinstance(value, Decimal):
        return value == value.to_integral_value()
    return isinstance(value, int) and not isinstance(value, bool)


_Validator = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", _isInteger),
)


def _load(name: str) -> Any:
    return json.loads((_FOLDER / f"{name}.json").read_bytes())


_REGISTRY: Registry[Any] = Registry().with_contents(
    [(f"{name}.json", _load(name)) for name in ("common", "trade")]
)
_VALIDATORS = {
    name: _Validator(_load(name), registry=_REGISTRY)
    for name in {
        "request",
        "reply",
        "event",
        *OTHERS.values(),
        *REQUESTS.values(),
        *(schema for schema, _ in FINANCE.values()),
    }
}


def isValid(schema: str, value: object) -> bool:
    """
    Whether a value is valid against a published schema.
    """
    return bool(_VALIDATORS[schema].is_valid(value))


@define
class Verdict:
    """
    What a line may be answered with.

    @ivar outcomes: The pairs of status and error, or nothing at all for a
        blank line.
    @ivar members: The line's members, if it is I-JSON.
    @ivar extIDs: What the reply may echo, L{None} for no C{extID}: only one
        where there is no doubt.
    """

    outcomes: set[Outcome]
    members: dict[str, Any]
    extIDs: list[str | int | Decimal | None]

    @property
    def isBooking(self) -> bool:
        """
        Whether a successful reply means that money has moved.
        """
        return self._method in FINANCE or str(self.members.get("command")) in REQUESTS

    @property
    def asked(self) -> dict[str, Any]:
        """
        The members that the trade must have, if this is a booking.
        """
        if self._method not in FINANCE:
            return dict(self.members["data"])
        _, cmd = FINANCE[self._method]
        if cmd is None:
            return {}
        return {**self.members["data"], "cmd": cmd}

    @property
    def _method(self) -> str:
        return str(self.members.get("command")).removesuffix("Sync")


def verdict(line: bytes, tokens: Mapping[str, int], longest: int) -> Verdict:
    """
    The possible replies to a line.

    @param tokens: The role of each valid token.
    @param longest: The limit of a line's length.
    """
    if len(line) > longest:
        # How much of such a line is read is not specified.
        some = ijson.extIDs(line) + ijson.extIDs(line[:longest]) + [None]
        return Verdict({(413, "LINE_TOO_LONG")}, {}, _good(some))
    if not line.strip():
        return Verdict(set(), {}, [])
    try:
        members = ijson.decode(line)
    except ijson.NotIJSON:
        return Verdict({(400, "INVALID_JSON")}, {}, _good(ijson.extIDs(line)))
    return Verdict(_outcomes(members, tokens), members, _good([members.get("extID")]))


def _good(extIDs: list[Any]) -> list[Any]:
    """
    None for each that breaks its own rule.
    """
    return [
        extID if isValid("request", {"command": "any", "extID": extID}) else None
        for extID in extIDs
    ]


def _outcomes(members: dict[str, Any], tokens: Mapping[str, int]) -> set[Outcome]:
    if not isValid("request", members):
        return {(400, "INVALID_DATA")}
    role = tokens.get(members.get("__token", ""))
    if role is None:
        return {(401, "UNAUTHORIZED")}
    command = members["command"]
    isSync = command.endswith("Sync")
    finance = FINANCE.get(command.removesuffix("Sync"))
    schema = finance[0] if finance else {**OTHERS, **REQUESTS}.get(command)
    if schema is None:
        return {(404, "UNKNOWN_COMMAND")}
    roles, outcomes = _LOOKUPS.get(command, (None, {OK}))
    if finance is not None or command in REQUESTS:
        roles = ROLES
    if command == "MngSetAccountGroup":
        roles = (ADMIN,)
    if roles is not None and role not in roles:
        return {(403, "FORBIDDEN")}
    if isSync and "extID" not in members:
        return {(400, "INVALID_DATA")}
    data = members.get("data", {})
    if not isValid(schema, data):
        return {(400, "INVALID_DATA")}
    if finance is not None:
        return _bookingOutcomes({} if finance[1] is None else data)
    if command in REQUESTS:
        # A decision has no cmd, and other members are ignored.
        return _requestOutcomes(data if command == "MngCreateFinanceRequest" else {})
    if OTHERS[command] == "subscribe" and set(data["chanels"]) != {"trade:event"}:
        return {(404, "NOT_FOUND")}
    return outcomes


def _bookingOutcomes(data: dict[str, Any]) -> set[Outcome]:
    """
    The rules that no schema can express; beyond them, the trades and totals
    decide.
    """
    if "amount" in data and units(data["amount"]) is None:
        return {(400, "INVALID_DATA")}
    opened, closed = data.get("open_time"), data.get("close_time")
    if opened is not None and closed is not None and closed < opened:
        return {(400, "INVALID_DATA")}
    return {OK, TIMED_OUT, *_REFUSED_LATER}


def _requestOutcomes(data: dict[str, Any]) -> set[Outcome]:
    """
    A finance request follows the rules of the command that books its cmd; who has made
    one may not approve it.
    """
    if "cmd" not in data:
        return {OK, TIMED_OUT, (403, "FORBIDDEN"), *_REFUSED_LATER}
    shared = {name: data[name] for name in _SHARED if name in data}
    name = NAMES.get(int(data["cmd"]))
    if name is None or not isValid(METHODS[name].schema, shared):
        return {(400, "INVALID_DATA")}
    return _bookingOutcomes(shared)
