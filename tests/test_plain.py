"""
Tests for L{creditsync._wire.plainRequest}, the short way of most lines.
"""

import contextlib
import json
from decimal import Decimal
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from creditsync import _wire as wire
from creditsync._money import toUnits
from creditsync.errors import InvalidJSON, Refusal
from creditsync.records import Request
from creditsync.validation import Schemas

LINE = (
    b'{"command":"CreditInSync","extID":"credit-req-1001","__token":"t",'
    b'"data":{"login":1001,"amount":300.0,"comment":"Promotion credit"}}'
)
DATA = {"login": 1001, "amount": 300.0, "comment": "Promotion credit"}

_schemas = Schemas()


def longWay(line: bytes) -> Request | None:
    """
    The request that a line is by the strict reader and the schema, if it is
    one.
    """
    try:
        members = wire.decode(line)
        _schemas.check("request", members)
    except Refusal:
        return None
    return Request(
        members["command"],
        members.get("extID"),
        members.get("__token"),
        members.get("data", {}),
        members.get("idempotencyKey"),
    )


def units(amount: int | float | Decimal) -> int | None:
    """
    An amount in 10⁻⁸ units, if it can be one.
    """
    try:
        return toUnits(amount)
    except ValueError:
        return None


class PlainTests(SynchronousTestCase):
    """
    Tests for lines of either kind, each written out.
    """

    def test_plain(self) -> None:
        """
        The line that every client sends takes the short way.
        """
        self.assertEqual(
            wire.plainRequest(LINE),
            Request("CreditInSync", "credit-req-1001", "t", DATA, None),
        )

    def test_optionalMembers(self) -> None:
        """
        A line with a key, a number for an extID, an order and times, or without
        an extID, takes the short way too.
        """
        self.assertEqual(
            wire.plainRequest(
                b'{"command":"CreditIn","extID":7,"idempotencyKey":"k","__token":"t",'
                b'"data":{"login":1001,"amount":-3,"order":9,"close_time":0}}'
            ),
            Request(
                "CreditIn",
                7,
                "t",
                {"login": 1001, "amount": -3, "order": 9, "close_time": 0},
                "k",
            ),
        )
        self.assertEqual(
            wire.plainRequest(b'{"command":"HealthCheck","__token":"t","data":{}}'),
            Request("HealthCheck", None, "t", {}, None),
        )

    def test_notPlain(self) -> None:
        """
        Whatever is unusual goes the long way, be it good or bad.
        """
        for old, new in (
            (b"Promotion", b"Pr\xc3\xb6motion"),
            (b"Promotion", b"Prom\\u006ftion"),
            (b"Promotion", b"\x7f"),
            (b"Promotion", b"a:b"),
            (b'"Promotion credit"', b"[]"),
            (b'"Promotion credit"', b'{"a":{}}'),
            (b'"Promotion credit"', b"{}"),
            (b"1001,", b'1001,"login":1002,'),
            (b"1001,", b"9007199254740992,"),
            (b"1001,", b"-9007199254740992,"),
            (b"300.0", b"1e400"),
            (b"300.0", b"NaN"),
            (b"300.0", b"1" * 5000),
            (b'"credit-req-1001"', b'""'),
            (b'"credit-req-1001"', b'"' + b"x" * 129 + b'"'),
            (b'"credit-req-1001"', b"7.0"),
            (b'"credit-req-1001"', b"null"),
            (b'"credit-req-1001"', b"true"),
            (b'"credit-req-1001"', b"9007199254740992"),
            (b'"__token":"t"', b'"__token":null'),
            (b'"__token":"t",', b""),
            (b'"__token":"t"', b'"__token":"t","from":"x"'),
            (b'"__token":"t"', b'"__token":"t","__token":"u"'),
            (b'"__token":"t"', b'"__token":"t","idempotencyKey":""'),
            (b'"__token":"t"', b'"__token":"t","idempotencyKey":null'),
            (b'"CreditInSync"', b'""'),
            (b'"CreditInSync"', b"7"),
            (b"}}", b"}}}"),
            (b"}}", b"}"),
            (LINE, b""),
            (LINE, b"[]"),
        ):
            line = LINE.replace(old, new, 1)
            self.assertNotEqual(line, LINE)
            self.assertIs(wire.plainRequest(line), None, line)


_text = st.text(st.sampled_from("ab :,{}[]\"\\'\x7f\té\ud800"), max_size=5)
_scalar = (
    st.sampled_from([1001, 300.0, "x"])
    | _text
    | st.integers(-(2**54), 2**54)
    | st.floats()
    | st.booleans()
    | st.none()
    | st.sampled_from(["x" * 128, "x" * 129, "", 2**53, {}, {"a": 1}, []])
)
_pairs = st.lists(
    st.tuples(
        st.sampled_from(
            ["login", "amount", "comment", "order", "x", "idempotencyKey", "extID"]
        ),
        _scalar,
    ),
    max_size=5,
)


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """
    Lines that are often plain and often nearly so.
    """

    def text(value: Any) -> str:
        return json.dumps(value, ensure_ascii=draw(st.booleans()))

    def obj(pairs: list[tuple[str, str]]) -> str:
        return "{" + ",".join(f"{json.dumps(n)}:{v}" for n, v in pairs) + "}"

    data = obj([(name, text(value)) for name, value in draw(_pairs)])
    members = [("command", '"CreditIn"'), ("__token", '"t"'), ("data", data)]
    more = st.sampled_from(["extID", "idempotencyKey", "command", "from", "data"])
    extras = draw(st.lists(st.tuples(more, _scalar), max_size=2))
    members += [(name, text(value)) for name, value in extras]
    line = obj(draw(st.permutations(members)))
    return line.encode("utf-8", "surrogatepass")


class AgreementTests(SynchronousTestCase):
    """
    The short way and the long one.
    """

    @settings(derandomize=True, database=None, deadline=None, max_examples=2000)
    @given(lines())
    def test_same(self, line: bytes) -> None:
        """
        What takes the short way is what the long one makes of it, to the
        types of its values.
        """
        plain = wire.plainRequest(line)
        if plain is not None:
            self.assertEqual(repr(plain), repr(longWay(line)))

    @settings(derandomize=True, database=None, deadline=None, max_examples=1000)
    @given(
        st.from_regex(
            r"-?(0|[1-9][0-9]{0,10})(\.[0-9]{1,22})?([eE][+-]?[0-9]{1,3})?",
            fullmatch=True,
            alphabet=st.characters(codec="ascii"),
        )
        | st.tuples(st.floats(-1e10, 1e10), st.sampled_from(["", ".17g", ".20f"])).map(
            lambda pair: format(*pair)
        )
        | st.integers(-(10**12), 10**12).map(lambda n: f"{n / 10**8:.17g}")
    )
    @example("3.1800000000000002")
    @example("0.30000000000000004")
    @example("9999999999.123456789")
    @example("0.000000009")
    def test_amounts(self, text: str) -> None:
        """
        Either way an amount is what it is as it is written.
        """
        line = LINE.replace(b"300.0", text.encode())
        plain, members = wire.plainRequest(line), None
        with contextlib.suppress(InvalidJSON):
            members = wire.decode(line)
        if members is None:
            self.assertIs(plain, None)
            return
        expected = units(Decimal(text))
        self.assertEqual(units(members["data"]["amount"]), expected)
        if plain is not None:
            self.assertEqual(units(plain.data["amount"]), expected)
