"""
Tests that the replies of a server and of a gateway have the forms of
C{schemas/reply.json} and C{schemas/passed_reply.json}.
"""

import json
from tempfile import TemporaryDirectory
from typing import Any, Final

from jsonschema import Draft202012Validator
from referencing import Registry
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from creditsync import _wire as wire
from creditsync._conversation.commands import ResolveOperation
from creditsync._process.profile import OWN
from creditsync.records import Principal, Request
from creditsync.validation import load
from tests.gateways import GatewayTestCase, operation
from tests.test_gateway_passing import PassingTestCase
from tests.test_protocol_doc import Documented
from tests.test_schemas import NAMES

_REGISTRY: Registry[Any] = Registry().with_contents(
    (f"{name}.json", load(name)) for name in NAMES
)

_CREDIT: Final = {"login": 1001, "amount": 300, "comment": "gift"}
_BALANCE: Final = {"login": 1001, "amount": 300}
_ASKED: Final = {"login": 1001, "cmd": 7, "amount": 300, "comment": "gift"}
_CHANNELS: Final = {"chanels": ["trade:event"]}

# What is sent to a server whose first order is 1242281, in this order: the command, its
# data, whose token it has, and the form of its reply.
_CONVERSATION: Final[list[tuple[str, dict[str, Any], str, str]]] = [
    ("CreditIn", _CREDIT, "MANAGER", "accepted"),
    ("CreditInSync", _CREDIT, "MANAGER", "trade"),
    ("BalanceIn", _BALANCE, "MANAGER", "accepted"),
    ("BalanceInSync", _BALANCE, "MANAGER", "trade"),
    ("CreditOut", {**_CREDIT, "amount": -1}, "MANAGER", "accepted"),
    ("CreditOutSync", {**_CREDIT, "amount": -1}, "MANAGER", "trade"),
    ("BalanceOut", {**_BALANCE, "amount": -1}, "MANAGER", "accepted"),
    ("BalanceOutSync", {**_BALANCE, "amount": -1}, "MANAGER", "trade"),
    ("DeleteCredit", {"order": 1242285}, "MANAGER", "accepted"),
    ("DeleteCreditSync", {"order": 1242286}, "MANAGER", "trade"),
    ("DeleteBalance", {"order": 1242287}, "MANAGER", "accepted"),
    ("DeleteBalanceSync", {"order": 1242288}, "MANAGER", "trade"),
    ("MngCreateFinanceRequest", _ASKED, "MANAGER", "accepted"),
    ("MngCreateFinanceRequest", _ASKED, "MANAGER", "accepted"),
    ("MngCreateFinanceRequest", _ASKED, "MANAGER", "accepted"),
    ("GetOperation", {"order": 1242289}, "MANAGER", "trade"),
    ("MngApproveFinanceRequest", {"order": 1242289}, "ADMIN", "accepted"),
    ("MngApproveFinanceRequestSync", {"order": 1242290}, "ADMIN", "trade"),
    ("MngDeclineFinanceRequest", {"order": 1242291}, "ADMIN", "accepted"),
    ("GetTradeByOrder", {"order": 1242291}, "MANAGER", "trade"),
    ("GetTradeByOrders", {"orders": [1242281, 1242282]}, "MANAGER", "table"),
    ("MngGetTradesByFilter", {"limit": 2}, "MANAGER", "table"),
    ("GetAccountByLogin", {"login": 1001}, "MANAGER", "account"),
    ("MngSetAccountGroup", {"login": 1001, "group": "real"}, "ADMIN", "moved"),
    ("GetGroups", {}, "MANAGER", "answer"),
    ("HealthCheck", {}, "MANAGER", "answer"),
    ("Unsubscribe", _CHANNELS, "MANAGER", "answer"),
    ("Subscribe", {**_CHANNELS, "since": "first"}, "MANAGER", "answer"),
    # Only a gateway has it: see below.
    ("MngResolveOperation", {"operation": 1, "outcome": "absent"}, "ADMIN", "error"),
]


def forms(schema: str, reply: object) -> list[str]:
    """
    The forms of a schema that a reply has.
    """
    return [
        name
        for name in load(schema)["$defs"]
        if Draft202012Validator(
            {"$ref": f"{schema}.json#/$defs/{name}"}, registry=_REGISTRY
        ).is_valid(reply)
    ]


class ServerTests(SynchronousTestCase):
    """
    The replies of a server.
    """

    def test_all(self) -> None:
        """
        No command lacks a form, and the reply to each has exactly that.
        """
        self.assertEqual({command for command, *_ in _CONVERSATION}, OWN)
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        server = Documented(folder.name)
        server.connect()
        for number, (command, data, whose, form) in enumerate(_CONVERSATION):
            written = json.dumps(data, separators=(",", ":"))
            server.send(
                f'{{"command":"{command}","extID":{number},"__token":"{whose}",'
                f'"data":{written}}}'
            )
            lines = [json.loads(line) for line in server.received()]
            [reply] = [each for each in lines if each.get("extID") == number]
            self.assertEqual(forms("reply", reply), [form], reply)
        server.cut()
        self.successResultOf(server.stop())


class GatewayTests(GatewayTestCase):
    """
    The replies that only a gateway gives.
    """

    def formsOf(self, data: "Deferred[Any]") -> list[str]:
        """
        The forms of a reply with this data.
        """
        self.turn()
        return forms("reply", json.loads(wire.success(7, self.successResultOf(data))))

    def test_unplaced(self) -> None:
        """
        An operation whose order is not known has a form of its own, also while it is
        held.
        """
        self.link.losesRequest.append("CreditIn")
        self.request(operation(key="k"))
        for _ in range(2):
            found = self.formsOf(self.gateway.operation(7, "k"))
            self.assertEqual(found, ["unplaced"])
            self.wait(151)
        self.assertEqual(self.states(), ["held"])

    def test_replaced(self) -> None:
        """
        So has a change whose order the platform shows as another trade: clients are not
        told that order.
        """
        self.request(operation())
        self.platform.work()
        self.turn()
        self.link.losesReply.append("CreditIn")
        self.request(operation(order=5001, amount=5, key="k"))
        self.platform.trades[5001]["cmd"] = 0
        self.wait(151)
        self.assertEqual(self.states(), ["held"])
        found = self.formsOf(self.gateway.operation(7, "k"))
        self.assertEqual(found, ["unplaced"])

    def test_byHand(self) -> None:
        """
        A trade that a person has made at the platform may have a comment that no client
        of the gateway may send.
        """
        self.platform.person(1001, 7, 300, comment="x" * 300)
        self.turn()
        [event] = self.published
        line = json.loads(wire.event(event.type, wire.encodeData(event.data)))
        valid = Draft202012Validator(load("event"), registry=_REGISTRY).is_valid
        self.assertTrue(valid(line), line)
        self.assertEqual(self.formsOf(self.gateway.trade(5001)), ["trade"])

    def test_resolved(self) -> None:
        """
        A decision has a form of its own.
        """
        self.link.losesRequest.append("CreditIn")
        self.request(operation())
        self.wait(151)
        command = ResolveOperation(self.gateway)
        data = {"operation": 1, "outcome": "absent"}
        request = Request(command.name, 7, "admin", data)
        session: Any = Session()
        self.assertEqual(self.formsOf(command.execute(session, request)), ["resolved"])


class Session:
    """
    A session of an admin.
    """

    principal = Principal(9, 3, 9999999999)


class PassedTests(PassingTestCase):
    """
    The replies to commands that are passed on.
    """

    def formsOf(self) -> list[str]:
        """
        The forms of the one reply that has come.
        """
        [reply] = self.received()
        return forms("passed_reply", reply)

    def test_passed(self) -> None:
        """
        The data of the platform's 200 may be anything.
        """
        for data in ("[1,[2]]", '"x"', "null", '{"order":1,"rows":[]}'):
            self.send()
            self.reply(f'"status":200,"data":{data}')
            self.assertEqual(self.formsOf(), ["passed"])

    def test_refused(self) -> None:
        """
        The platform's refusals have its own errors, which may be long.
        """
        for members in (
            '"status":423,"error":"LOCKED","message":"no","data":{"until":5}',
            f'"status":401,"error":"{"E" * 200}","message":"{"m" * 2000}"',
            '"status":404,"error":{"code":"NO_SUCH_SYMBOL","message":""}',
        ):
            self.send()
            self.reply(members)
            self.assertEqual(self.formsOf(), ["refused"])

    def test_own(self) -> None:
        """
        The gateway's own errors are those of all replies.
        """
        self.send()
        self.reply('"status":500,"error":"X","message":"x"')
        found = Draft202012Validator(load("passed_reply"), registry=_REGISTRY)
        [unknown] = self.received()
        self.assertEqual(unknown["status"], 504)
        self.assertTrue(found.is_valid(unknown))
        self.lose()
        self.send()
        [busy] = self.received()
        self.assertEqual(busy["status"], 503)
        self.assertTrue(found.is_valid(busy))
        self.assertFalse(found.is_valid({**busy, "error": "OTHER"}))
