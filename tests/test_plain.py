"""
Tests for L{creditsync._conversation.plain}, the fast way of most lines.
"""

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict
from twisted.trial.unittest import SynchronousTestCase

from creditsync import _wire as wire
from creditsync._conversation import plain
from creditsync._conversation.finance import operation
from creditsync._conversation.plain import PlainLines
from creditsync._money import toUnits
from creditsync.errors import Refusal
from creditsync.methods import BOOKING_METHODS, BookingMethod, syncName
from creditsync.records import Operation, Request
from creditsync.validation import Schemas, load

SEED = (
    b'{"command":"CreditInSync","extID":"credit-req-1001","__token":"t",'
    b'"data":{"login":1001,"amount":300.0,"comment":"Promotion credit"}}'
)
DATA = {"login": 1001, "amount": 300.0, "comment": "Promotion credit"}
SAFE = 2**53 - 1
LAST = 253402300799

METHODS = {
    command: method
    for method in BOOKING_METHODS
    for command in (method.name, syncName(method))
}

_schemas = Schemas()
_read = PlainLines().read


def longWay(line: bytes) -> Request | None:
    """
    The request to book that a line is by the strict decoder, the schemas and
    L{operation}, if it is one.
    """
    try:
        members = wire.decode(line)
        _schemas.check("request", members)
        command, data = members["command"], members.get("data", {})
        method = METHODS.get(command)
        if method is None or members.get("__token") is None:
            return None
        if command.endswith("Sync") and members.get("extID") is None:
            return None
        _schemas.check(method.schema, data)
        asked = operation(method, command, data)
    except Refusal:
        return None
    key = members.get("idempotencyKey")
    return Request(command, members.get("extID"), members["__token"], {}, key, asked)


def told(request: Request | None) -> str:
    """
    Everything in a request, with the types of all values.
    """
    if request is None:
        return "nothing"
    asked = request.operation
    assert isinstance(asked, Operation)
    return repr((request, asdict(asked)))


class PlainCase(SynchronousTestCase):
    """
    What the tests of L{PlainLines} have in common.
    """

    def taken(self, line: bytes) -> Request | None:
        """
        The request of one line, if the fast way takes it. It is the same then as by
        the long way.
        """
        requests = _read(line + b"\n")
        if not requests:
            return None
        [request] = requests
        self.assertEqual(told(request), told(longWay(line)), line)
        return request

    def assertTaken(self, line: bytes) -> Request:
        """
        Assert that a line takes the fast way.
        """
        request = self.taken(line)
        assert request is not None, line
        return request

    def assertLong(self, line: bytes) -> None:
        """
        Assert that a line is valid, but takes the long way.
        """
        self.assertIs(self.taken(line), None, line)
        self.assertIsNot(longWay(line), None, line)

    def assertRefused(self, line: bytes) -> None:
        """
        Assert that a line is valid by neither way.
        """
        self.assertIs(self.taken(line), None, line)
        self.assertIs(longWay(line), None, line)


def line(command: str, data: Mapping[str, Any], **members: Any) -> bytes:
    """
    A line with a token and an C{extID}; a member that is L{None} is left out.
    """
    envelope = {"command": command, "extID": "a", "__token": "t", **members}
    envelope["data"] = {name: each for name, each in data.items() if each is not None}
    written = {name: each for name, each in envelope.items() if each is not None}
    return json.dumps(written).encode()


class ExampleTests(PlainCase):
    """
    Tests for lines that are written out.
    """

    def test_seed(self) -> None:
        """
        The line of C{docs/protocol.rst}, "A credit", takes the fast way.
        """
        request = self.assertTaken(SEED)
        self.assertEqual(
            (request.command, request.extID, request.token, request.key),
            ("CreditInSync", "credit-req-1001", "t", None),
        )
        asked = request.operation
        assert isinstance(asked, Operation)
        self.assertEqual(
            asdict(asked),
            {
                "command": "CreditInSync",
                "cmd": 7,
                "login": 1001,
                "amount": 30000000000,
                "comment": "Promotion credit",
                "order": 0,
                "openTime": None,
                "closeTime": None,
                "principal": 0,
                "key": None,
                "isBooked": False,
                "isRequest": False,
                "reserved": None,
                "role": None,
            },
        )

    def test_allMembers(self) -> None:
        """
        So does one with every optional member.
        """
        request = self.assertTaken(
            b'{"command":"CreditOut","extID":7,"idempotencyKey":"k","__token":"t",'
            b'"data":{"login":1001,"amount":-3,"comment":"x","order":9,"open_time":0,'
            b'"close_time":1}}'
        )
        self.assertEqual((request.extID, request.key), (7, "k"))
        asked = request.operation
        assert isinstance(asked, Operation)
        self.assertEqual((asked.cmd, asked.amount, asked.order), (9, -300000000, 9))
        self.assertEqual((asked.openTime, asked.closeTime), (0, 1))

    def test_eachCommand(self) -> None:
        """
        Both commands of each method that books take the fast way, with its cmd and
        its comment by default. Deletions do not, as they have no amount.
        """
        for command, cmd, amount, comment in (
            ("CreditIn", 7, 1, None),
            ("CreditOut", 9, -1, None),
            ("BalanceIn", 6, 1, "Finance"),
            ("BalanceOut", 8, -1, "Finance"),
        ):
            for name in (command, f"{command}Sync"):
                without = line(name, {"login": 1, "amount": amount})
                if comment is None:
                    self.assertRefused(without)
                else:
                    asked: Any = self.assertTaken(without).operation
                    self.assertEqual(asked.comment, comment)
                data = {"login": 1, "amount": amount, "comment": "y"}
                asked = self.assertTaken(line(name, data)).operation
                self.assertEqual(
                    (asked.command, asked.cmd, asked.comment), (name, cmd, "y")
                )
        for name in ("DeleteCredit", "DeleteCreditSync", "DeleteBalance"):
            self.assertIs(self.taken(line(name, {"order": 1})), None)
            self.assertIs(self.taken(line(name, DATA)), None)

    def test_noExtID(self) -> None:
        """
        Only the asynchronous commands do without an C{extID}.
        """
        for command, method in METHODS.items():
            data = {**DATA, "amount": method.sign}
            if command.endswith("Sync"):
                self.assertRefused(line(command, data, extID=None))
            else:
                request = self.assertTaken(line(command, data, extID=None))
                self.assertIs(request.extID, None)

    def test_whiteSpace(self) -> None:
        """
        White space between tokens, and a CR at the end, change nothing.
        """
        spaced = SEED.replace(b":", b" :\t").replace(b",", b"\r,  ")
        for each in (SEED + b"\r", b" \t" + SEED + b"  \r", spaced):
            self.assertTaken(each)

    def test_notPlain(self) -> None:
        """
        Whatever is unusual goes the long way, be it good or bad.
        """
        for old, new in (
            (b"Promotion", b"Pr\xc3\xb6motion"),
            (b"Promotion", b"Prom\\u006ftion"),
            (b"Promotion", b"\x7f"),
            (b"Promotion", b"\t"),
            (b"Promotion", b"\x00"),
            (b"Promotion", b"a:b"),
            (b"Promotion", b"[b"),
            (b'"Promotion credit"', b"[]"),
            (b'"Promotion credit"', b'{"a":{}}'),
            (b'"Promotion credit"', b"{}"),
            (b'"Promotion credit"', b"null"),
            (b"1001,", b'1001,"x":1,'),
            (b"1001,", b'1001,"idempotencyKey":"k",'),
            (b"1001,", b'1001,"order":null,'),
            (b"1001,", b"1001.0,"),
            (b"1001,", b"true,"),
            (b"1001,", b'"1001",'),
            (b"300.0", b"1e400"),
            (b"300.0", b"-1e400"),
            (b"300.0", b"1e-400"),
            (b"300.0", b"NaN"),
            (b"300.0", b"Infinity"),
            (b"300.0", b'"300.0"'),
            (b"300.0", b"1" * 5000),
            (b"300.0", b"1" * 400),
            (b"300.0", b"0.000000009"),
            (b"300.0", b"0.30000000000000004"),
            (b'"credit-req-1001"', b"7.0"),
            (b'"credit-req-1001"', b"null"),
            (b'"credit-req-1001"', b"true"),
            (b'"__token":"t"', b'"__token":null'),
            (b'"__token":"t"', b'"__token":7'),
            (b'"__token":"t",', b""),
            (b'"__token":"t"', b'"__token":"t","from":"x"'),
            (b'"__token":"t"', b'"__token":"t","idempotencyKey":null'),
            (b'"CreditInSync"', b'""'),
            (b'"CreditInSync"', b"7"),
            (b'"CreditInSync"', b"null"),
            (b'"CreditInSync"', b'"HealthCheck"'),
            (b'"command":"CreditInSync",', b""),
            (b"}}", b"}}}"),
            (b"}}", b"}"),
            (SEED, b""),
            (SEED, b"[]"),
            (SEED, b"null"),
            (SEED, b"{}"),
            (SEED, b"[" * 900),
            (SEED, b'{"data":' * 100),
            (SEED, SEED + SEED),
            (SEED, SEED + b" " + SEED),
            (SEED, SEED + b"," + SEED),
        ):
            changed = SEED.replace(old, new, 1)
            self.assertNotEqual(changed, SEED)
            self.assertIs(self.taken(changed), None, changed)

    def test_repeatedMember(self) -> None:
        """
        A member that comes twice, with the same value or another one, is never
        taken.
        """
        whole = line(
            "CreditIn",
            {**DATA, "order": 1, "open_time": 1, "close_time": 2},
            idempotencyKey="k",
        )
        self.assertTaken(whole)
        members = json.loads(whole)
        data = members.pop("data")
        for name, value in members.items():
            for other in (value, "CreditOut" if name == "command" else "z"):
                again = f', "{name}": {json.dumps(other)}}}'.encode()
                self.assertRefused(whole[:-1] + again)
        for name, value in data.items():
            for other in (value, "z" if name == "comment" else 2):
                again = f', "{name}": {json.dumps(other)}}}}}'.encode()
                self.assertRefused(whole[:-2] + again)
        self.assertRefused(
            whole[:-1] + b', "data": ' + json.dumps(data).encode() + b"}"
        )

    def test_length(self) -> None:
        """
        A line of 1,000 bytes takes the fast way, and a longer one does not: so it
        can't have too many marks or too long a number.
        """
        padding = 1000 - len(SEED)
        self.assertTaken(SEED.replace(b",", b"," + b" " * padding, 1))
        self.assertLong(SEED.replace(b",", b"," + b" " * (padding + 1), 1))
        number = b"300." + b"0" * (1000 - len(SEED.replace(b"300.0", b"300.")))
        self.assertTaken(SEED.replace(b"300.0", number))


class BoundTests(PlainCase):
    """
    Tests for every bound of every member, for every method: at the bound, and beside
    it.
    """

    def each(self) -> Iterator[tuple[str, BookingMethod]]:
        """
        Each command.
        """
        yield from METHODS.items()

    def check(
        self, name: str, good: list[Any], long: list[Any], bad: list[Any]
    ) -> None:
        """
        Try these values of a member of the data, or of the envelope.
        """
        for command, method in METHODS.items():
            data = {**DATA, "amount": method.sign}
            for values, check in (
                (good, self.assertTaken),
                (long, self.assertLong),
                (bad, self.assertRefused),
            ):
                for value in values:
                    if name in ("extID", "idempotencyKey", "__token"):
                        check(line(command, data, **{name: value}))
                    elif name == "amount":
                        check(line(command, {**data, name: value * method.sign}))
                    else:
                        check(line(command, {**data, name: value}))

    def test_login(self) -> None:
        """
        A login is from 1 to 2⁵³ - 1.
        """
        self.check("login", [1, 2, SAFE], [], [-1, 0, SAFE + 1, 2**64])

    def test_order(self) -> None:
        """
        An order is from 0, which is none, to 2⁵³ - 1.
        """
        self.check("order", [0, 1, SAFE], [], [-1, SAFE + 1])

    def test_times(self) -> None:
        """
        A time is from 0 to the end of the year 9999.
        """
        for name in ("open_time", "close_time"):
            self.check(name, [0, 1, LAST], [], [-1, LAST + 1])

    def test_timesInOrder(self) -> None:
        """
        The time of closing may be that of opening, but not before it.
        """
        for command, method in self.each():
            data = {**DATA, "amount": method.sign}
            for opens, closes, check in (
                (5, 5, self.assertTaken),
                (5, 6, self.assertTaken),
                (5, 4, self.assertRefused),
                (1, 0, self.assertRefused),
                (0, 0, self.assertTaken),
            ):
                check(line(command, {**data, "open_time": opens, "close_time": closes}))

    def test_amount(self) -> None:
        """
        An amount is not 0, and has the method's sign. Up to 10⁷ it takes the fast
        way, as each has a double of its own there; up to 10¹⁰ it is valid.
        """
        self.check(
            "amount",
            [1e-8, 0.1, 19.99, 1, 9999999.99999999, 9999999],
            [1e7, 10000000, 9999999999.99, 10**10, 10000000000.0],
            [0, 0.0, -1e-8, -1, 10**10 + 1, 1e11, 1e-9, 1.000000001],
        )

    def test_comment(self) -> None:
        """
        A comment has from 1 to 255 characters.
        """
        self.check("comment", ["x", "x" * 255], [], ["", "x" * 256, 7])

    def test_extID(self) -> None:
        """
        An C{extID} has from 1 to 128 characters, or is an integer of up to 2⁵³ - 1
        either way.
        """
        self.check(
            "extID",
            ["x", "x" * 128, 0, 1, -1, SAFE, -SAFE],
            [7.0],
            ["", "x" * 129, SAFE + 1, -SAFE - 1, 1.5, True],
        )

    def test_key(self) -> None:
        """
        A key has from 1 to 128 printable characters.
        """
        self.check("idempotencyKey", [" ", "~", "k" * 128], [], ["", "k" * 129, 7])

    def test_token(self) -> None:
        """
        A token is any string.
        """
        self.check("__token", ["", "t" * 500], ["ü"], [7])


class WindowTests(SynchronousTestCase):
    """
    Tests for several lines at once.
    """

    def test_none(self) -> None:
        """
        No line, or a blank one, is no request.
        """
        for lines in (b"", b"\n", b"\r\n", b" \n\n"):
            self.assertEqual(_read(lines), [])

    def test_upToTheFirst(self) -> None:
        """
        The lines before the first unusual one are read, whatever is unusual about
        it, and whatever comes behind it.
        """
        other = SEED.replace(b"300.0", b"5").replace(b'"credit-req-1001"', b"2")
        for odd in (
            b"",
            b"\r",
            b"{}",
            b"nonsense",
            b"\xff",
            SEED.replace(b"credit", b"cr\xc3\xa9dit"),
            SEED.replace(b"Promotion", b"Prom\\u006ftion"),
            SEED.replace(b"Promotion", b"\x7f"),
            SEED.replace(b"Promotion", b"["),
            SEED.replace(b"Promotion", b"a:b"),
            SEED.replace(b"1001,", b'1001,"login":1002,'),
            SEED.replace(b"1001,", b'1001,"order":null,'),
            SEED.replace(b'"t"', b'"another"'),
            SEED.replace(b"300.0", b"1e400"),
            SEED.replace(b"300.0", b"0.30000000000000004"),
            SEED.replace(b"300.0", b"300.0" + b"0" * 900),
            SEED.replace(b"}}", b',"open_time":2,"close_time":1}}'),
            SEED.replace(b"CreditInSync", b"DeleteCredit"),
            SEED + b" " + SEED,
        ):
            for before in range(1, 4):
                for after in (b"", SEED + b"\n", b"\xff\n", b"{}\n"):
                    good = [SEED, other + b"\r", SEED][:before]
                    lines = b"".join(each + b"\n" for each in [*good, odd])
                    found = _read(lines + after)
                    self.assertEqual(
                        [told(each) for each in found],
                        [told(longWay(each)) for each in good],
                        odd,
                    )

    def test_unusualFirst(self) -> None:
        """
        If the first line is unusual none is read.
        """
        for odd in (b"", b"\xff", b"{}", SEED + SEED, SEED.replace(b"300.0", b"1e400")):
            self.assertEqual(_read(odd + b"\n" + SEED + b"\n"), [])

    def test_brokenLine(self) -> None:
        """
        A request that is broken over two lines is none, wherever it is broken.
        """
        for place in range(1, len(SEED)):
            broken = SEED[:place] + b"\n" + SEED[place:] + b"\n"
            self.assertEqual(_read(broken), [])
            self.assertEqual(len(_read(SEED + b"\n" + broken + SEED + b"\n")), 1)

    def test_colonsOfOthers(self) -> None:
        """
        A member that one line has twice is not made up for by one that another line
        lacks.
        """
        few = SEED.replace(b'"extID":"credit-req-1001",', b"")
        few = few.replace(b"CreditInSync", b"CreditIn")
        many = SEED.replace(b"1001,", b'1001,"login":1002,')
        self.assertEqual(len(_read(few + b"\n" + many + b"\n")), 1)
        self.assertEqual(len(_read(many + b"\n" + few + b"\n")), 0)

    def test_optionalMembers(self) -> None:
        """
        Lines with different optional members are read together.
        """
        lines = [
            SEED,
            SEED.replace(b"}}", b',"order":5}}'),
            SEED.replace(b'"data"', b'"idempotencyKey":"k","data"'),
            SEED.replace(b"}}", b',"open_time":0,"close_time":0}}'),
        ]
        found = _read(b"".join(each + b"\n" for each in lines))
        self.assertEqual(
            [told(each) for each in found], [told(longWay(each)) for each in lines]
        )


class SchemaTests(SynchronousTestCase):
    """
    Tests for the types that are made of the schemas.
    """

    def changed(self, change: Any) -> PlainLines:
        """
        A parser of the schemas as they are after a change, which is a function of a
        schema's name and the schema.
        """

        def changing(name: str) -> Any:
            schema = load(name)
            change(name, schema)
            return schema

        self.patch(plain, "load", changing)
        return PlainLines()

    def assertLeftOut(self, change: Any) -> None:
        """
        Assert that after a change of the schema of credit-in its lines all go the
        long way, and no others.
        """

        def changing(name: str, schema: Any) -> None:
            if name == "credit_in":
                change(schema)

        read = self.changed(changing).read
        for command, method in METHODS.items():
            data = {**DATA, "amount": method.sign}
            found = read(line(command, data) + b"\n")
            self.assertEqual(len(found), "CreditIn" not in command, command)

    def test_unknownKeywords(self) -> None:
        """
        A schema with a keyword that no type can express leaves its method out: of
        the object, of a member, or of a definition that it refers to.
        """
        for name, value in (
            ("additionalProperties", False),
            ("dependentRequired", {}),
            ("minProperties", 3),
            ("not", {}),
            ("if", {}),
        ):
            self.assertLeftOut(lambda schema, n=name, v=value: schema.update({n: v}))
        for name, value in (
            ("multipleOf", 0.01),
            ("enum", [300]),
            ("const", 300),
            ("format", "date"),
            ("anyOf", []),
            ("pattern", "^P"),
        ):
            for member in ("login", "amount", "comment", "order", "open_time"):
                self.assertLeftOut(
                    lambda schema, m=member, n=name, v=value: schema["properties"][
                        m
                    ].update({n: v})
                )

    def test_definition(self) -> None:
        """
        A keyword in a shared definition leaves out all methods that refer to it.
        """

        def change(name: str, schema: Any) -> None:
            if name == "common":
                schema["$defs"]["deposit"]["multipleOf"] = 0.01

        read = self.changed(change).read
        for command, method in METHODS.items():
            data = {**DATA, "amount": method.sign}
            found = read(line(command, data) + b"\n")
            self.assertEqual(len(found), method.sign < 0, command)

    def test_strictness(self) -> None:
        """
        A bound that is changed in a schema is changed for these lines.
        """
        for member, keyword, value, sample in (
            ("login", "minimum", 1002, 1001),
            ("login", "maximum", 1000, 1001),
            ("login", "exclusiveMinimum", 1001, 1001),
            ("login", "exclusiveMaximum", 1001, 1001),
            ("comment", "minLength", 17, "Promotion credit"),
            ("comment", "maxLength", 15, "Promotion credit"),
            ("amount", "maximum", 299.99, 300.0),
            ("amount", "exclusiveMinimum", 300, 300.0),
        ):

            def change(
                name: str,
                schema: Any,
                m: str = member,
                k: str = keyword,
                v: Any = value,
            ) -> None:
                if name == "credit_in":
                    schema["properties"][m][k] = v

            self.assertEqual(DATA[member], sample)
            read = self.changed(change).read
            self.assertEqual(read(SEED + b"\n"), [], keyword)
            other = line("BalanceIn", DATA) + b"\n"
            self.assertEqual(len(read(other)), 1)

    def test_required(self) -> None:
        """
        A member that a schema requires is required of these lines.
        """

        def change(name: str, schema: Any) -> None:
            if name == "balance_in":
                schema["required"].append("comment")

        read = self.changed(change).read
        self.assertEqual(read(line("BalanceIn", {"login": 1, "amount": 1}) + b"\n"), [])
        self.assertEqual(len(read(line("BalanceIn", DATA) + b"\n")), 1)

    def test_envelope(self) -> None:
        """
        A keyword that no type can express in the schema of all lines, or an empty
        table of methods, leaves every line to the long way.
        """

        def change(name: str, schema: Any) -> None:
            if name == "request":
                schema["properties"]["extID"]["not"] = {"const": 13}

        for read in (self.changed(change).read, PlainLines(()).read):
            for command, method in METHODS.items():
                data = {**DATA, "amount": method.sign}
                self.assertEqual(read(line(command, data) + b"\n"), [])

    def test_oneMethod(self) -> None:
        """
        A table of one method gives a parser of its lines only.
        """
        read = PlainLines(BOOKING_METHODS[:1]).read
        self.assertEqual(len(read(SEED + b"\n")), 1)
        self.assertEqual(read(line("BalanceIn", DATA) + b"\n"), [])


_NUMBERS = """
1 1001 300.0 0 -1 -300.5 0.1 1e3 1E-8 1e-9 5e-324 1e400 -1e400 -0 -0.0 0.30 00 1. 1e2
1001.0 9007199254740991 9007199254740992 -9007199254740991 -9007199254740992
253402300799 253402300800 9999999.99999999 10000000 10000000000 10000000000.01
3.1800000000000002 0.30000000000000004 NaN true null
"""
_numbers = st.sampled_from(_NUMBERS.split())
_strings = st.sampled_from(["x", "", "x" * 128, "x" * 129, "x" * 255, "x" * 256]).map(
    json.dumps
)
_oddStrings = st.text(st.sampled_from("ab :,{}[]\"\\'\x7f\té\ud800\u2028"), max_size=5)
_values = st.one_of(
    _numbers,
    _strings,
    st.builds(json.dumps, _oddStrings, ensure_ascii=st.booleans()),
    st.sampled_from(["[]", "{}", '{"a":1}', "[1]"]),
)
_good = {
    "login": st.sampled_from(["1", "1001", "9007199254740991"]),
    "amount": st.sampled_from(["1", "300.0", "-5", "-0.01", "1e3", "19.99"]),
    "comment": st.sampled_from(['"Promotion credit"', '"a"', '"a,b\'c}"']),
    "order": st.sampled_from(["0", "7"]),
    "open_time": st.sampled_from(["0", "5"]),
    "close_time": st.sampled_from(["5", "6"]),
    "extID": st.sampled_from(['"a"', "7", "-7"]),
    "__token": st.sampled_from(['"t"', '"t"', '"t"', '"u"']),
    "idempotencyKey": st.sampled_from(['"k"', '" ~"']),
    "command": st.sampled_from([json.dumps(name) for name in METHODS]),
}
_COMMANDS = st.sampled_from(['"DeleteCredit"', '"HealthCheck"', '"Nothing"'])


@st.composite
def _members(draw: st.DrawFn, names: list[str], optional: list[str]) -> list[str]:
    """
    The members of an object, as JSON texts.
    """
    chosen = [*names, *draw(st.lists(st.sampled_from(optional), unique=True))]
    members = []
    # One in four objects has something that is often wrong.
    odd = draw(st.integers(0, 3 * len(chosen) + len(chosen)))
    for place, name in enumerate(chosen):
        value = draw(_values if place == odd else _good[name])
        members.append(f"{json.dumps(name)}:{value}")
    if draw(st.integers(0, 9)) == 0:
        name = draw(st.sampled_from([*names, *optional, "idempotencyKey", "x"]))
        members.append(f"{json.dumps(name)}:{draw(_good.get(name, _values))}")
    if draw(st.integers(0, 15)) == 0:
        members.pop(draw(st.integers(0, len(members) - 1)))
    return draw(st.permutations(members))


@st.composite
def _lines(draw: st.DrawFn) -> bytes:
    """
    Lines that are often plain and often nearly so.
    """
    comma = draw(st.sampled_from([",", ",", ",", " , ", ",\t", "\r,"]))
    data = comma.join(
        draw(
            _members(
                ["login", "amount", "comment"], ["order", "open_time", "close_time"]
            )
        )
    )
    members = draw(_members(["command", "__token", "extID"], ["idempotencyKey"]))
    members.insert(draw(st.integers(0, len(members))), f'"data":{{{data}}}')
    text = "{" + comma.join(members) + "}"
    if draw(st.integers(0, 19)) == 0:
        text = text.replace('"CreditIn', draw(_COMMANDS)[:-1])
    return text.encode("utf-8", "surrogatepass") + draw(st.sampled_from([b"", b"\r"]))


def _examples(number: int) -> settings:
    return settings(derandomize=True, database=None, deadline=None, max_examples=number)


class AgreementTests(PlainCase):
    """
    The fast way and the long one.
    """

    def assertSame(self, examples: int) -> None:
        """
        Assert that what takes the fast way is what the long one makes of it, to the
        types of its values. Enough do to show something, and enough do not.
        """
        counts = [0, 0]

        @_examples(examples)
        @given(_lines())
        def same(line: bytes) -> None:
            counts[self.taken(line) is not None] += 1

        same()
        self.assertGreater(min(counts), examples // 10)

    def assertTogether(self, examples: int) -> None:
        """
        Assert that of several lines those are taken that would be taken alone, up to
        the first that would not, or that has another token.
        """

        @_examples(examples)
        @given(st.lists(_lines(), max_size=8))
        def together(lines: list[bytes]) -> None:
            self._readTogether(lines)

        together()

    def _readTogether(self, lines: list[bytes]) -> None:
        wanted: list[str] = []
        tokens = set()
        for each in lines:
            request = self.taken(each)
            if request is None:
                break
            tokens.add(request.token)
            if len(tokens) > 1:
                break
            wanted.append(told(request))
        found = _read(b"".join(each + b"\n" for each in lines))
        self.assertEqual([told(each) for each in found], wanted)

    def test_same(self) -> None:
        """
        The two agree on each of some lines.
        """
        self.assertSame(500)

    def test_together(self) -> None:
        """
        The two agree on lines that come together.
        """
        self.assertTogether(100)

    @pytest.mark.proof
    def test_sameOfMany(self) -> None:
        """
        The two agree on each of many lines.
        """
        self.assertSame(5000)

    @pytest.mark.proof
    def test_togetherOfMany(self) -> None:
        """
        The two agree on many lines that come together.
        """
        self.assertTogether(1000)

    @_examples(500)
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
        | st.integers(-(10**15) - 9, 10**15 + 9).map(lambda n: f"{n / 10**8:.8f}")
    )
    @example("3.1800000000000002")
    @example("3.18000000000000001")
    @example("0.30000000000000004")
    @example("9999999999.123456789")
    @example("0.000000009")
    @example("0.0000000099999999999999999")
    @example("9999999.999999995")
    @example("9999999.9999999999999999")
    @example("1e-400")
    @example("1e400")
    def test_amounts(self, text: str) -> None:
        """
        Whichever way it takes, an amount is what it is as it is written.
        """
        command = b"CreditOut" if text.startswith("-") else b"CreditIn"
        line = SEED.replace(b"300.0", text.encode()).replace(b"CreditInSync", command)
        request = self.taken(line)
        if request is not None:
            assert isinstance(request.operation, Operation)
            self.assertEqual(request.operation.amount, toUnits(Decimal(text)))
