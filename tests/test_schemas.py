"""
Tests for the JSON Schemas of C{docs/protocol.rst}, "Schemas".
"""

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry
from twisted.trial.unittest import SynchronousTestCase

from creditsync import errors
from creditsync.validation import REQUESTS, load

NAMES = (*REQUESTS, "common", "trade", "event", "reply", "passed_reply")

# The example of docs/protocol.rst, "A credit".
REQUEST = {
    "command": "CreditInSync",
    "extID": "credit-req-1001",
    "data": {"login": 1001, "amount": 300.0, "comment": "Promotion credit"},
}
TRADE = {
    "order": 1242281,
    "login": 1001,
    "cmd": 7,
    "state": 3,
    "profit": 300.0,
    "comment": "Promotion credit",
}
REPLY = {"extID": "credit-req-1001", "status": 200, "data": TRADE}

ACCEPTED = {
    "extID": 7,
    "status": 200,
    "data": {
        "accepted": True,
        "order": 1242281,
        "state": 10,
        "login": 1001,
        "cmd": 7,
        "amount": 300.0,
    },
}
REFUSED = {
    "extID": "credit-req-1001",
    "status": 400,
    "error": "INVALID_DATA",
    "message": "data.amount must be greater than 0",
}
EVENT = {"event": "trade:event", "type": 0, "data": TRADE}


def without(members: dict[str, Any], name: str) -> dict[str, Any]:
    """
    The value without one member.
    """
    return {each: members[each] for each in members if each != name}


class FileTests(SynchronousTestCase):
    """
    Tests for the files themselves.
    """

    def test_valid(self) -> None:
        """
        Every file is a valid schema of the dialect that it names.
        """
        for name in NAMES:
            schema = load(name)
            self.assertEqual(
                schema["$schema"], "https://json-schema.org/draft/2020-12/schema"
            )
            Draft202012Validator.check_schema(schema)

    def test_names(self) -> None:
        """
        Every file's C{$id} is its name, so that C{$ref} finds it.
        """
        for name in NAMES:
            self.assertEqual(load(name)["$id"], f"{name}.json")

    def test_noOthers(self) -> None:
        """
        There is no unknown file.
        """
        folder = Path(__file__).parent.parent / "schemas"
        found = sorted(path.stem for path in folder.glob("*.json"))
        self.assertEqual(found, sorted(NAMES))

    def test_described(self) -> None:
        """
        Every member in a C{$defs} or the trade record has a description.
        """
        members = {**load("common")["$defs"], **load("trade")["properties"]}
        for name, schema in members.items():
            self.assertTrue("description" in schema or "$ref" in schema, name)


class ContractTests(SynchronousTestCase):
    """
    Tests for the values that the schemas accept and refuse.
    """

    registry: Registry[Any] = Registry().with_contents(
        (f"{name}.json", load(name)) for name in NAMES
    )

    def isValid(self, name: str, value: object) -> bool:
        """
        Whether a value is valid, as it would be sent.
        """
        validator = Draft202012Validator(load(name), registry=self.registry)
        return validator.is_valid(json.loads(json.dumps(value)))

    def passes(self, name: str, *values: object) -> None:
        """
        Assert that all these values are valid.
        """
        for value in values:
            self.assertTrue(self.isValid(name, value), value)

    def fails(self, name: str, *values: object) -> None:
        """
        Assert that none of these values is valid.
        """
        for value in values:
            self.assertFalse(self.isValid(name, value), value)

    def test_seedRequest(self) -> None:
        """
        The example's request is one, and its data is a credit-in's.
        """
        self.passes("request", REQUEST)
        self.passes("credit_in", REQUEST["data"])

    def test_seedReply(self) -> None:
        """
        The example's reply is one.
        """
        self.passes("reply", REPLY)

    def test_fullTrade(self) -> None:
        """
        The record that this server writes is valid in a reply and in an event.
        """
        full = {
            **TRADE,
            "symbol": "",
            "volume": 0,
            "open_price": 0.0,
            "close_price": 0.0,
            "open_time": 1764000000,
            "close_time": 1764000000,
            "sl": 0.0,
            "tp": 0.0,
            "storage": 0.0,
            "commission": 0.0,
            "reason": 7,
            "timestamp": 1764000000,
        }
        self.passes("reply", {**REPLY, "data": full})
        self.passes("event", {**EVENT, "data": full})

    def test_tradeReply(self) -> None:
        """
        A trade reply has an C{extID} or none, and a booked one may be a
        replay.
        """
        self.passes(
            "reply",
            without(REPLY, "extID"),
            {**REPLY, "extID": -3},
            {**REPLY, "replayed": True},
        )

    def test_noTradeReply(self) -> None:
        """
        An event's envelope is not a trade reply, and the record of a reply is
        complete.
        """
        self.fails(
            "reply",
            {**REPLY, "event": None},
            {**REPLY, "type": 0},
            {**REPLY, "status": 201},
            {**REPLY, "status": "200"},
            {**REPLY, "extID": None},
            {**REPLY, "data": EVENT | {"order": 1}},
            {**REPLY, "data": {**TRADE, "cmd": 5}},
            {**REPLY, "data": {**TRADE, "state": 1}},
            {**REPLY, "data": {**TRADE, "profit": "300.0"}},
            without(REPLY, "status"),
            without(REPLY, "data"),
            *({**REPLY, "data": without(TRADE, name)} for name in TRADE),
        )

    def test_accepted(self) -> None:
        """
        The reply to an accepted operation has what was accepted, and not the
        service object.
        """
        data: dict[str, Any] = ACCEPTED["data"]  # type: ignore[assignment]
        self.passes("reply", ACCEPTED, without(ACCEPTED, "extID"))
        self.fails(
            "reply",
            {**ACCEPTED, "data": {**data, "accepted": False}},
            {**ACCEPTED, "data": {**data, "state": 3}},
            {**ACCEPTED, "data": {**data, "__deferred": {}}},
            {**ACCEPTED, "error": "BUSY"},
            *({**ACCEPTED, "data": without(data, name)} for name in data),
        )

    def test_answer(self) -> None:
        """
        A command that is not about a trade answers with an object.
        """
        self.passes("reply", {"extID": 1, "status": 200, "data": {"status": "ok"}})
        self.passes("reply", {"status": 200, "data": {}})
        self.fails("reply", {"status": 200, "data": []}, {"status": 200})

    def test_error(self) -> None:
        """
        An error has a status, the name for it, and a message.
        """
        self.passes("reply", REFUSED, without(REFUSED, "extID"))
        self.fails(
            "reply",
            {**REFUSED, "status": 404},
            {**REFUSED, "error": "BAD_DATA"},
            {**REFUSED, "message": ""},
            {**REFUSED, "event": "error"},
            {**REFUSED, "status": 200},
            without(REFUSED, "error"),
            without(REFUSED, "message"),
        )

    def test_errorData(self) -> None:
        """
        The error of a full queue has the time to retry, that of an unknown
        outcome has the order.
        """
        busy = {"status": 503, "error": "BUSY", "message": "x"}
        late = {"status": 504, "error": "SYNC_TIMEOUT", "message": "x"}
        self.passes("reply", {**busy, "data": {"retry_after_ms": 250}})
        self.passes("reply", {**late, "data": {"order": 1242281}})
        self.fails("reply", busy, {**busy, "data": {"order": 1}})
        self.fails("reply", {**late, "data": {"order": 0}})

    def test_key(self) -> None:
        """
        A key is 1 to 128 printable ASCII characters; a request may have one,
        and C{GetOperation} takes it or an order.
        """
        printable = "".join(chr(each) for each in range(0x20, 0x7F))
        for key in ("a", printable, "x" * 128):
            self.passes("request", {**REQUEST, "idempotencyKey": key})
            self.passes("get_operation", {"idempotencyKey": key})
        for bad in ("", "x" * 129, "böse", "a\n", "a\x7f", "\t", 7, None, ["a"]):
            self.fails("request", {**REQUEST, "idempotencyKey": bad})
            self.fails("get_operation", {"idempotencyKey": bad})

    def test_getOperation(self) -> None:
        """
        C{GetOperation} takes exactly one of order and key.
        """
        self.passes("get_operation", {"order": 1}, {"order": 1.0, "x": 0})
        self.fails(
            "get_operation",
            {},
            {"order": 0},
            {"order": None},
            {"order": 1, "idempotencyKey": "a"},
        )

    def test_delete(self) -> None:
        """
        A deletion requires an order, and nothing else.
        """
        self.passes("delete", {"order": 1}, {"order": 2**53 - 1, "login": 1001})
        self.fails("delete", {}, {"order": 0}, {"order": -1}, {"order": "1"})

    def test_misplacedKey(self) -> None:
        """
        The schema refuses an idempotency key in the data, where it would not
        make a repetition safe. The look-up has one there.
        """
        data = {"login": 1001, "amount": 1, "comment": "x"}
        out = {**data, "amount": -1}
        key = {"idempotencyKey": "k"}
        for name in ("credit_in", "balance_in"):
            self.passes(name, data)
            self.fails(name, {**data, **key})
        for name in ("credit_out", "balance_out"):
            self.passes(name, out)
            self.fails(name, {**out, **key})
        self.fails("delete", {"order": 1, **key})
        self.passes("get_operation", key)

    def test_family(self) -> None:
        """
        Deposits are greater than 0 and withdrawals are less; a credit
        operation has a comment, a balance operation may have one.
        """
        for name, good, bad in (
            ("credit_in", 1e-8, -1e-8),
            ("balance_in", 1e-8, -1e-8),
            ("credit_out", -1e-8, 1e-8),
            ("balance_out", -1e-8, 1e-8),
        ):
            data = {"login": 1001, "amount": good, "comment": "x"}
            self.passes(name, data, {**data, "amount": good * 10**18})
            self.fails(
                name,
                {**data, "amount": bad},
                {**data, "amount": 0},
                {**data, "amount": good * 1.1 * 10**18},
                {**data, "comment": ""},
                without(data, "login"),
                without(data, "amount"),
            )
        data = {"login": 1001, "amount": 1}
        self.passes("balance_in", data)
        self.passes("balance_out", {**data, "amount": -1})
        self.fails("credit_in", data)
        self.fails("credit_out", {**data, "amount": -1})

    def test_states(self) -> None:
        """
        A trade is booked, deleted, or one of three requests; an accepted
        operation is a request.
        """
        data: dict[str, Any] = ACCEPTED["data"]  # type: ignore[assignment]
        for state in (3, 6, 10, 11, 12):
            self.passes("reply", {**REPLY, "data": {**TRADE, "state": state}})
        for state in (10, 11, 12):
            self.passes("reply", {**ACCEPTED, "data": {**data, "state": state}})
        for state in (0, 6, 13):
            self.fails("reply", {**ACCEPTED, "data": {**data, "state": state}})

    def test_replayed(self) -> None:
        """
        Either kind of success may be marked as a replay or not, and never as
        false; a refusal is never a replay.
        """
        for reply in (REPLY, ACCEPTED):
            self.passes("reply", {**reply, "replayed": True})
            self.fails("reply", {**reply, "replayed": False})
        self.fails("reply", {**REFUSED, "replayed": True})

    def test_reused(self) -> None:
        """
        The error for a reused key has the order of the first request.
        """
        reused = {"status": 422, "error": "IDEMPOTENCY_KEY_REUSED", "message": "x"}
        self.passes("reply", {**reused, "data": {"order": 1242281}})
        self.fails("reply", {**reused, "data": {"order": 0}}, {**reused, "status": 409})

    def test_everyRefusal(self) -> None:
        """
        The schema has each error of the server.
        """
        kinds = errors.Refusal.__subclasses__()
        self.assertGreater(len(kinds), 10)
        for kind in kinds:
            reply = {"status": kind.status, "error": kind.error, "message": "x"}
            if kind.status == 503:
                reply["data"] = {"retry_after_ms": 1}
            if kind.status == 410:
                reply["data"] = {"head": "9f3c1a7e-1042"}
            self.passes("reply", reply)

    def test_event(self) -> None:
        """
        An event has its channel, one of three types, and a trade.
        """
        self.passes("event", EVENT, {**EVENT, "type": 1}, {**EVENT, "type": 2})
        self.fails(
            "event",
            {**EVENT, "extID": "credit-req-1001"},
            {**EVENT, "event": "error"},
            {**EVENT, "type": 3},
            {**EVENT, "type": "0"},
            {**EVENT, "data": without(TRADE, "order")},
            without(EVENT, "type"),
            without(EVENT, "data"),
        )
