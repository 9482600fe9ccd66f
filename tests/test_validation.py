"""
Tests for L{creditsync.validation}.
"""

import json
import shutil
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from creditsync import _wire as wire
from creditsync import validation
from creditsync.errors import InvalidData, InvalidJSON
from creditsync.validation import REQUESTS, Schemas, load

SEED = {"login": 1001, "amount": 300.0, "comment": "Promotion credit"}


def temporaryFolder(test: SynchronousTestCase) -> Path:
    """
    Make a folder that is removed after the test. (Without trial's own runner,
    C{mktemp} would leave it in the working directory.)
    """
    folder = tempfile.mkdtemp()
    test.addCleanup(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


class LoadTests(SynchronousTestCase):
    """
    Tests for where the schemas come from.
    """

    def test_load(self) -> None:
        """
        A schema is found by its file's name without the extension.
        """
        schema = load("credit_in")
        self.assertEqual(schema["required"], ["login", "amount", "comment"])

    def test_package(self) -> None:
        """
        If the schemas are installed as a package, they are read from there.
        """
        folder = temporaryFolder(self)
        (folder / "delete.json").write_text('{"title": "installed"}')
        self.patch(validation, "files", {"creditsync.schemas": folder}.__getitem__)
        self.assertEqual(load("delete"), {"title": "installed"})

    def test_checkout(self) -> None:
        """
        Without such a package, they are read from the folder beside.
        """

        def noPackage(name: str) -> Path:
            raise ModuleNotFoundError(name)

        self.patch(validation, "files", noPackage)
        self.assertEqual(load("delete")["required"], ["order"])


class _Checks(SynchronousTestCase):
    """
    Shared by the tests of L{Schemas.check}.
    """

    def setUp(self) -> None:
        self.schemas = Schemas()

    def refused(self, name: str, value: object, why: str) -> None:
        """
        Assert that a value is refused with exactly this message.
        """
        prefix = "" if name == "request" else "data"
        refusal = self.assertRaises(
            InvalidData, self.schemas.check, name, value, prefix
        )
        self.assertEqual(refusal.message, why)


class AcceptTests(_Checks):
    """
    Tests for values that are accepted.
    """

    def test_seed(self) -> None:
        """
        The data of C{docs/protocol.rst}, "A credit", is good.
        """
        self.schemas.check("credit_in", SEED, "data")

    def test_limits(self) -> None:
        """
        Each member may be at its limits.
        """
        for change in (
            {"login": 1},
            {"login": 9007199254740991},
            {"login": 1001.0},
            {"amount": 0.00000001},
            {"amount": 10000000000},
            {"amount": Decimal("9999999999.12345678")},
            {"comment": "x"},
            {"comment": "\U0001f600" * 255},
            {"comment": "a\tb\r\nc\n"},
            {"order": 0},
            {"order": 9007199254740991},
            {"open_time": 0, "close_time": 253402300799},
            {"__access": {"role": 3}},
        ):
            self.schemas.check("credit_in", SEED | change, "data")

    def test_others(self) -> None:
        """
        The data of the other commands is valid by their own rules.
        """
        for name, value in (
            ("credit_out", SEED | {"amount": -300.0}),
            ("balance_in", {"login": 1, "amount": 5}),
            ("balance_out", {"login": 1, "amount": -10000000000}),
            ("delete", {"order": 1}),
            ("get_operation", {"order": 1242281}),
            ("get_operation", {"idempotencyKey": " ~"}),
            ("health_check", {}),
            ("subscribe", {"chanels": ["trade:event"] * 16}),
        ):
            self.schemas.check(name, value, "data")

    def test_envelope(self) -> None:
        """
        An envelope needs a command; its other members may be unknown.
        """
        for value in (
            {"command": "x"},
            {"command": "x", "extID": "e" * 128, "__token": "", "data": {}},
            {"command": "x", "extID": -9007199254740991, "from": None},
            {"command": "x", "extID": 0, "idempotencyKey": "k" * 128},
        ):
            self.schemas.check("request", value)


class RefuseTests(_Checks):
    """
    Tests for values that are refused, and their messages.
    """

    def test_required(self) -> None:
        """
        A missing member is named; the first one, if there are more.
        """
        self.refused("credit_in", {"login": 1, "amount": 1}, "data.comment is required")
        self.refused("credit_in", {"comment": ""}, "data.login is required")
        self.refused("delete", {}, "data.order is required")
        self.refused("subscribe", {}, "data.chanels is required")
        self.refused("request", {"extID": 1}, "command is required")

    def test_integers(self) -> None:
        """
        C{true}, fractions, strings and floats too large to be exact are not
        integers.
        """
        for login in (True, 1.5, "1001", None, [], Decimal("1001.0000000000000001")):
            self.refused(
                "credit_in", SEED | {"login": login}, "data.login must be an integer"
            )

    def test_integerLimits(self) -> None:
        """
        The message for an integer beyond its limit has the limit.
        """
        for change, why in (
            ({"login": 0}, "data.login must be at least 1"),
            ({"login": -1.0}, "data.login must be at least 1"),
            ({"login": 1e16}, "data.login must be at most 9007199254740991"),
            ({"order": -1}, "data.order must be at least 0"),
            ({"open_time": -1}, "data.open_time must be at least 0"),
            (
                {"close_time": 253402300800},
                "data.close_time must be at most 253402300799",
            ),
        ):
            self.refused("credit_in", SEED | change, why)

    def test_deposits(self) -> None:
        """
        A deposit must be greater than zero and within its limit, by however
        little it is not.
        """
        for name in ("credit_in", "balance_in"):
            for amount, why in (
                (0, "data.amount must be greater than 0"),
                (-0.0, "data.amount must be greater than 0"),
                (-300.0, "data.amount must be greater than 0"),
                (10000000001, "data.amount must be at most 10000000000"),
                (
                    Decimal("10000000000.000000000001"),
                    "data.amount must be at most 10000000000",
                ),
                ("300.0", "data.amount must be a number"),
                (True, "data.amount must be a number"),
            ):
                self.refused(name, SEED | {"amount": amount}, why)

    def test_withdrawals(self) -> None:
        """
        A withdrawal must be less than zero and within its limit.
        """
        for name in ("credit_out", "balance_out"):
            for amount, why in (
                (0.0, "data.amount must be less than 0"),
                (300, "data.amount must be less than 0"),
                (-10000000000.5, "data.amount must be at least -10000000000"),
            ):
                self.refused(name, SEED | {"amount": amount}, why)

    def test_comments(self) -> None:
        """
        A comment is a string of 1 to 255 characters.
        """
        for comment, why in (
            ("", "data.comment must have at least 1 character(s)"),
            ("x" * 256, "data.comment must have at most 255 characters"),
            (5, "data.comment must be a string"),
        ):
            self.refused("balance_in", SEED | {"comment": comment}, why)

    def test_controlCharacters(self) -> None:
        """
        A comment has no control character except tab and line ends.
        """
        for character in "\x00\x08\x0b\x0c\x0e\x1f\x7f\x80\x9f":
            self.refused(
                "credit_in",
                SEED | {"comment": f"a{character}b"},
                "data.comment does not match the required pattern",
            )

    def test_extID(self) -> None:
        """
        An C{extID} is a string of 1 to 128 characters or an integer.
        """
        for extID, why in (
            ("", "extID must have at least 1 character(s)"),
            ("e" * 129, "extID must have at most 128 characters"),
            (1.5, "extID must be a string or an integer"),
            (None, "extID must be a string or an integer"),
            (True, "extID must be a string or an integer"),
            (1e16, "extID must be at most 9007199254740991"),
        ):
            self.refused("request", {"command": "x", "extID": extID}, why)

    def test_envelope(self) -> None:
        """
        The other members of the envelope have their types.
        """
        for members, why in (
            ({"command": ""}, "command must have at least 1 character(s)"),
            ({"command": 7}, "command must be a string"),
            ({"command": "x", "__token": None}, "__token must be a string"),
            ({"command": "x", "data": []}, "data must be an object"),
            ({"command": "x", "data": None}, "data must be an object"),
        ):
            self.refused("request", members, why)

    def test_idempotencyKey(self) -> None:
        """
        An idempotency key is printable ASCII, without a line end at its end.
        """
        why = "idempotencyKey does not match the required pattern"
        for key in ("a\n", "a\tb", "\xe9", "a\x7f", "\U0001f600", "\x00"):
            self.refused("request", {"command": "x", "idempotencyKey": key}, why)

    def test_misplacedKey(self) -> None:
        """
        An idempotency key in the data of a finance command is refused,
        whatever it is: it would be ignored there, and a repetition booked
        twice.
        """
        why = (
            "data.idempotencyKey is in the wrong place: an idempotencyKey is a member"
            " of the request itself, beside data"
        )
        for key in ("k", "", None, 7, {}):
            for name, data in (
                ("credit_in", SEED),
                ("credit_out", SEED | {"amount": -1}),
                ("balance_in", SEED),
                ("balance_out", SEED | {"amount": -1}),
                ("delete", {"order": 1}),
            ):
                self.schemas.check(name, data, "data")
                self.refused(name, data | {"idempotencyKey": key}, why)

    def test_oneName(self) -> None:
        """
        C{GetOperation} takes exactly one of order and key.
        """
        why = "data must have exactly one of order and idempotencyKey"
        self.refused("get_operation", {}, why)
        self.refused("get_operation", {"order": 1, "idempotencyKey": "k"}, why)

    def test_elements(self) -> None:
        """
        An element is named by its index.
        """
        for chanels, why in (
            ("trade:event", "data.chanels must be an array"),
            ([], "data.chanels must have at least 1 item(s)"),
            (["x"] * 17, "data.chanels must have at most 16 items"),
            (["trade:event", 7], "data.chanels[1] must be a string"),
        ):
            self.refused("subscribe", {"chanels": chanels}, why)

    def test_noObject(self) -> None:
        """
        A value that is not an object is named by its own name.
        """
        self.refused("credit_in", [SEED], "data must be an object")
        self.refused("request", "x", "the request must be an object")

    def test_judgeHasTheLastWord(self) -> None:
        """
        A value that only the compiled validator refuses is accepted.
        """
        self.patch(self.schemas, "_isValid", {"credit_in": lambda value: False})
        self.schemas.check("credit_in", SEED, "data")
        self.refused("credit_in", {}, "data.login is required")


class SiteTests(SynchronousTestCase):
    """
    Tests for a site's own schemas.
    """

    def setUp(self) -> None:
        self.folder = temporaryFolder(self)

    def bring(self, schema: object, name: str = "credit_in.json") -> Schemas:
        """
        Load a site's folder with this one schema in it.
        """
        (self.folder / name).write_text(json.dumps(schema))
        return Schemas(self.folder)

    def message(self, schemas: Schemas, value: object) -> str:
        """
        Have a C{credit_in} refused.

        @return: The message.
        """
        refusal = self.assertRaises(
            InvalidData, schemas.check, "credit_in", value, "data"
        )
        message: str = refusal.message
        return message

    def test_empty(self) -> None:
        """
        A folder without schemas changes nothing.
        """
        Schemas(self.folder).check("credit_in", SEED, "data")

    def test_tightens(self) -> None:
        """
        A value has to pass the site's schema too.
        """
        schemas = self.bring({"properties": {"amount": {"maximum": 500}}})
        schemas.check("credit_in", SEED, "data")
        self.assertEqual(
            self.message(schemas, SEED | {"amount": 500.5}),
            "data.amount must be at most 500",
        )

    def test_neverLoosens(self) -> None:
        """
        A site's schema that allows everything does not replace ours.
        """
        self.assertEqual(
            self.message(self.bring(True), SEED | {"amount": 0}),
            "data.amount must be greater than 0",
        )

    def test_onlyItsOwn(self) -> None:
        """
        A site's schema applies only to the commands of the same name.
        """
        schemas = self.bring({"required": ["order"]}, "credit_out.json")
        schemas.check("credit_in", SEED, "data")

    def test_reference(self) -> None:
        """
        A site's schema may refer to the definitions in our common schema, and
        to itself.
        """
        schemas = self.bring(
            {
                "required": ["parent", "other"],
                "properties": {
                    "parent": {"$ref": "common.json#/$defs/existing_order"},
                    "other": {"$ref": "#/properties/parent"},
                },
            }
        )
        schemas.check("credit_in", SEED | {"parent": 1, "other": 1}, "data")
        self.assertEqual(
            self.message(schemas, SEED | {"parent": 1, "other": 0}),
            "data.other must be at least 1",
        )

    def test_multipleOf(self) -> None:
        """
        A site may require whole cents, and this is decided in decimals.
        """
        schemas = self.bring({"properties": {"amount": {"multipleOf": 0.01}}})
        for amount in (300, 300.0, 19.99, 0.07, Decimal("9999999999.12")):
            schemas.check("credit_in", SEED | {"amount": amount}, "data")
        for amount in (0.001, 19.999, 1e-8, Decimal("9999999999.12345678")):
            self.assertEqual(
                self.message(schemas, SEED | {"amount": amount}),
                "data.amount must be a multiple of 0.01",
            )
        self.assertEqual(
            self.message(schemas, SEED | {"amount": "x"}),
            "data.amount must be a number",
        )

    def test_pattern(self) -> None:
        r"""
        Patterns have the meaning of ECMA-262: C{$} is the very end, and C{\d}
        is a digit of ASCII.
        """
        schemas = self.bring({"properties": {"comment": {"pattern": "^[a-z]+\\d$"}}})
        schemas.check("credit_in", SEED | {"comment": "abc1"}, "data")
        for comment in ("abc1\n", "abc\u0661", "abc"):
            self.assertEqual(
                self.message(schemas, SEED | {"comment": comment}),
                "data.comment does not match the required pattern",
            )

    def test_patternsOfNames(self) -> None:
        """
        Patterns for the names of members have the meaning of ECMA-262 too, for
        every keyword that has them.
        """
        for schema in (
            {"patternProperties": {"^x\\d$": False}},
            {"propertyNames": {"not": {"pattern": "^x\\d$"}}},
            {"patternProperties": {"^(?!x\\d$)": True}, "additionalProperties": False},
            {"patternProperties": {"^(?!x\\d$)": True}, "unevaluatedProperties": False},
            {"$ref": "#/x/a", "x": {"a": {"patternProperties": {"^x\\d$": False}}}},
            {"patternProperties": {"^x\\d$": False, "^x[0-9]$": True}},
        ):
            schemas = self.bring(schema)
            for name in ("x", "x\u0661", "x1\n"):
                schemas.check("credit_in", SEED | {name: 1}, "data")
            self.message(schemas, SEED | {"x1": 1})

    def test_patternOfOurs(self) -> None:
        """
        A definition of ours that a site's schema refers to keeps its meaning.
        """
        schemas = self.bring(
            {"properties": {"key": {"$ref": "common.json#/$defs/idempotencyKey"}}}
        )
        schemas.check("credit_in", SEED | {"key": "k 1"}, "data")
        self.assertEqual(
            self.message(schemas, SEED | {"key": "k\n"}),
            "data.key does not match the required pattern",
        )

    def test_otherKeyword(self) -> None:
        """
        For a keyword that ours do not use the library's message is returned.
        """
        schemas = self.bring({"properties": {"comment": {"const": "Bonus"}}})
        self.assertEqual(
            self.message(schemas, SEED), "data.comment: 'Bonus' was expected"
        )

    def test_otherOneOf(self) -> None:
        """
        Alternatives that are about more than members are left to the schema.
        """
        schemas = self.bring({"oneOf": [{"required": ["order"]}, False]})
        self.assertEqual(
            self.message(schemas, SEED),
            "data must match exactly one of the forms in its schema",
        )

    def test_noEcho(self) -> None:
        """
        A client's own value is not sent back at length.
        """
        for schema in (
            {"additionalProperties": {"type": "null"}},
            {"properties": {"x": {"enum": [1]}}, "maxProperties": 3},
        ):
            schemas = self.bring(schema)
            for value in (SEED | {"y" * 60000: 1}, SEED | {"x": "y" * 60000}):
                self.assertLessEqual(len(self.message(schemas, value)), 255)

    def refused(self, why: str) -> None:
        """
        Assert that the folder is refused with exactly this message, after its
        own name.
        """
        error = self.assertRaises(ValueError, Schemas, self.folder)
        self.assertEqual(str(error), f"{self.folder}{why}")

    def test_noFolder(self) -> None:
        """
        A missing folder is refused.
        """
        self.folder.rmdir()
        self.refused(" is not a folder")

    def test_unknownName(self) -> None:
        """
        A file that would never be used is refused.
        """
        for name in ("creditin.json", "credit_in.yaml", "event.json", "common.json"):
            path = self.folder / name
            path.write_text("{}")
            error = self.assertRaises(ValueError, Schemas, self.folder)
            self.assertIn(f"{path} has an unknown name, expected", str(error))
            path.unlink()

    def test_noJSON(self) -> None:
        """
        A file that is not JSON is refused.
        """
        (self.folder / "delete.json").write_text("{")
        self.refused(
            "/delete.json is not JSON: Expecting property name enclosed in double "
            "quotes: line 1 column 2 (char 1)"
        )

    def test_unreadable(self) -> None:
        """
        A file that can't be read is refused.
        """
        (self.folder / "delete.json").mkdir()
        self.refused("/delete.json can't be read: Is a directory")

    def test_noSchema(self) -> None:
        """
        A file that is not a schema is refused.
        """
        for schema, why in (
            ({"type": "int"}, "'int' is not valid under any of the given schemas"),
            ({"maximum": "5"}, "'5' is not of type 'number'"),
            ({"pattern": 5}, "5 is not of type 'string'"),
        ):
            error = self.assertRaises(ValueError, self.bring, schema)
            self.assertIn(f"credit_in.json is not a valid schema: {why}", str(error))

    def test_noPattern(self) -> None:
        """
        A pattern without a meaning here is refused, wherever it is.
        """
        bad = {"pattern": "^a\\Z"}
        for schema in (
            bad,
            {"properties": {"comment": {"allOf": [bad]}}},
            {"patternProperties": {"^a\\Z": True}},
            {"propertyNames": bad},
            {"$defs": {"a": bad}},
            {"$ref": "#/x/a", "x": {"a": bad}},
        ):
            error = self.assertRaises(ValueError, self.bring, schema)
            self.assertEqual(
                str(error),
                f"{self.folder}/credit_in.json has a pattern that can't be used:"
                " '^a\\\\Z' can't be understood from '\\\\Z'",
            )

    def test_otherDialect(self) -> None:
        """
        A schema of another dialect, which would be misread, is refused.
        """
        path = self.folder / "credit_in.json"
        path.write_text('{"$schema": "http://json-schema.org/draft-07/schema#"}')
        self.refused("/credit_in.json is not written for JSON Schema 2020-12")

    def test_wrongReference(self) -> None:
        """
        A schema with an unknown reference is refused, and nothing is fetched.
        """
        for where in ("other.json", "common.json#/$defs/x", "http://127.0.0.1:9/x"):
            for keyword in ("$ref", "$dynamicRef"):
                path = self.folder / "credit_in.json"
                path.write_text(json.dumps({"properties": {"a": {keyword: where}}}))
                error = self.assertRaises(ValueError, Schemas, self.folder)
                self.assertIn(f"{path} refers to ", str(error))


def near(*limits: int) -> list[Any]:
    """
    Numbers at and around these limits and their negatives, of every type that
    the wire yields.
    """
    return [
        sign * value
        for sign in (1, -1)
        for limit in limits
        for value in (
            limit - 1,
            limit,
            limit + 1,
            float(limit),
            limit + 0.5,
            Decimal(f"{limit}.00000000001"),
            Decimal(f"{limit}.0") + 2**53 + 1,
        )
    ]


def long(*limits: int) -> list[Any]:
    """
    Strings of about these lengths, and short ones with each unusual character.
    """
    lengths = [limit + more for limit in limits for more in (-1, 0, 1)]
    odd = "\x00\x08\t\n\x0b\x0c\r\x0e\x1f ~\x7f\x80\x9f\xa0\u2028\ufeff\U0001f600"
    return [
        *(
            character * length
            for length in lengths
            for character in "x\xe9\U0001f600\n"
        ),
        *(f"{before}{character}" for character in odd for before in ("", "x")),
        *(f"{character}\n" for character in odd),
    ]


# Valid data and envelopes, and nearly valid values for their members.
GOOD = {
    "login": 1001,
    "amount": 300.0,
    "comment": "Promotion credit",
    "order": 1242281,
    "chanels": ["trade:event"],
    "command": "CreditInSync",
}
EDGES = {
    "login": near(1, 2**53 - 1),
    "amount": near(0, 10**10),
    "comment": long(1, 255),
    "order": near(0, 1, 2**53 - 1),
    "open_time": near(0, 253402300799),
    "close_time": near(0, 253402300799),
    "chanels": [["trade:event"] * count for count in (0, 1, 16, 17)],
    "command": long(1),
    "extID": near(0, 2**53 - 1) + long(1, 128),
    "__token": long(1),
    "data": [{}, [], {"x": {}}],
    "idempotencyKey": long(1, 128),
}
scalars = (
    st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6)
    | st.booleans()
    | st.none()
)
junk = st.recursive(
    scalars,
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.dictionaries(st.sampled_from(["", "order", "x"]), inside)
    ),
    max_leaves=5,
)


@st.composite
def values(draw: st.DrawFn) -> dict[str, Any]:
    """
    Data or envelopes for any schema, valid except for a member or two.
    """
    value: dict[str, Any] = dict(GOOD)
    if draw(st.booleans()):
        value["amount"] = -300.0
    for name in draw(st.lists(st.sampled_from(list(EDGES)), max_size=2)):
        value[name] = draw(st.sampled_from(EDGES[name]) | junk)
    value.pop(draw(st.sampled_from(["", "", "", *GOOD])), None)
    return value


class AgreementTests(SynchronousTestCase):
    """
    Tests that the compiled validator and C{jsonschema} agree.
    """

    schemas = Schemas()

    def agree(self, value: dict[str, Any]) -> None:
        """
        Assert that the two give the same verdict by each of our schemas, if
        this value can come from the wire at all.
        """
        try:
            value = wire.decode(wire.encodeData(value))
        except InvalidJSON:
            return
        for name in REQUESTS:
            self.assertEqual(
                self.schemas._isValid[name](value),
                self.schemas._ours[name].is_valid(value),
                (name, value),
            )

    def test_limits(self) -> None:
        """
        The two validators agree on every member at each of its limits.
        """
        for name, edges in EDGES.items():
            for edge in edges:
                self.agree({**GOOD, name: edge})

    @settings(derandomize=True, database=None, deadline=None, max_examples=500)
    @given(values())
    def test_anything(self, value: dict[str, Any]) -> None:
        """
        The two validators agree on any other value of a member.
        """
        self.agree(value)

    @settings(derandomize=True, database=None, deadline=None, max_examples=100)
    @given(junk)
    def test_noObject(self, value: Any) -> None:
        """
        The two validators agree on values that are not objects.
        """
        for name in REQUESTS:
            self.assertEqual(
                self.schemas._isValid[name](value),
                self.schemas._ours[name].is_valid(value),
                (name, value),
            )

    def test_wholeDecimals(self) -> None:
        """
        A C{Decimal} without a fraction, which only the compiled validator
        accepts as an integer, is beyond the limits of all our integers.
        """
        login = wire.decode(b'{"login":9007199254740993.0}')["login"]
        self.assertEqual(login, Decimal("9007199254740993"))
        for value in (SEED | {"login": login}, SEED | {"order": login}):
            self.assertFalse(self.schemas._isValid["credit_in"](value))
            self.assertRaises(InvalidData, self.schemas.check, "credit_in", value)
