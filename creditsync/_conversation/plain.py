"""
The fast way of most lines: requests to make a trade that have nothing unusual.

The schemas of these requests become the types of one parser, so that a line is
checked by being parsed, and several lines are read at once. What this takes,
L{wire.decode<creditsync._wire.decode>}, the schemas and
L{operation<creditsync._conversation.finance.operation>} would take with the same
values; anything else is left to them. A property test proves that the two agree.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import reduce
from itertools import takewhile
from operator import or_
from typing import Annotated, Any, Final, NoReturn

import msgspec
from msgspec import Meta
from msgspec.structs import astuple

from creditsync._patterns import fromECMA
from creditsync.codes import MAX_MARKS, MAX_NUMBER, UNITS_PER_ONE
from creditsync.methods import BOOKING_METHODS, BookingMethod, syncName
from creditsync.records import ATTRIBUTES, NAMES, Operation, Request
from creditsync.validation import COMMON, load

# What a plain line doesn't have. As numbers: a byte is found four times as
# fast by its number as by a string of one byte.
_ESCAPE, _DEL, _ARRAY = b"\\\x7f["
_UNUSUAL: Final = re.compile(rb"[\\\[\x7f-\xff]")
# The characters that its strings may have.
_CHARACTERS: Final = "".join(map(chr, range(ord(" "), _DEL)))

# In bytes. Such a line can't have more marks or a longer number than any line may.
_MAX_LENGTH: Final = min(MAX_MARKS, MAX_NUMBER)

# Up to here each amount of whole units has a double of its own.
_EXACT: Final = 10**15

_TYPES: Final[Mapping[str, type]] = {"integer": int, "number": float, "string": str}
# What the types say of a schema's keywords, by the types that they are about.
_BOUNDS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "minimum": ("ge", ("integer", "number")),
    "maximum": ("le", ("integer", "number")),
    "exclusiveMinimum": ("gt", ("integer", "number")),
    "exclusiveMaximum": ("lt", ("integer", "number")),
    "minLength": ("min_length", ("string",)),
    "maxLength": ("max_length", ("string",)),
}

# The keywords of the schema of an object, with those that check nothing.
_OBJECT: Final = frozenset(
    {"$schema", "$id", "title", "description", "type", "required", "properties"}
)
# The schema of a member that no line may have.
_NEVER: Final[Mapping[str, Any]] = {"not": {}}


class PlainLines:
    """
    Reads lines that have nothing unusual.
    """

    def __init__(self, methods: tuple[BookingMethod, ...] = BOOKING_METHODS) -> None:
        forms = list(_forms(methods))
        self._parse: Callable[[bytes], Any] = _refuse
        if forms:
            self._parse = msgspec.json.Decoder(reduce(or_, forms)).decode

    def read(self, lines: bytes) -> list[Request]:
        """
        Read whole lines, each with its end, up to the first that is not plain.

        @return: The requests of those before it, all with the same token, and with
            their operations.
        """
        if not lines.isascii() or _ESCAPE in lines or _DEL in lines or _ARRAY in lines:
            lines = _usual(lines)
        each = lines.split(b"\n")
        del each[-1]
        if max(map(len, each), default=0) > _MAX_LENGTH:
            each = list(takewhile(_isShort, each))
        plains: list[Any] = []
        with suppress(msgspec.DecodeError, RecursionError):
            # Those before a line for which this fails are kept.
            plains.extend(map(self._parse, each))
        requests: list[Request] = []
        members = 0
        for plain in plains:
            data = plain.data
            amount, openTime, closeTime = data.amount, data.openTime, data.closeTime
            units = round(amount * UNITS_PER_ONE)
            if units / UNITS_PER_ONE != amount or not -_EXACT < units < _EXACT:
                break
            if openTime is not None and closeTime is not None and closeTime < openTime:
                break
            token = plain.token
            if requests and token != requests[0].token:
                break
            members += plain.required
            operation = Operation(
                plain.command,
                plain.cmd,
                data.login,
                units,
                data.comment or plain.comment,
                data.order or 0,
                openTime,
                closeTime,
            )
            requests.append(
                Request(plain.command, plain.extID, token, {}, plain.key, operation)
            )
        # Each member has a colon, so one that comes twice has a colon too many. A
        # colon in a string sends its line the long way needlessly.
        if len(requests) == len(each) and lines.count(b":") == members:
            return requests
        for number, plain in enumerate(plains[: len(requests)]):
            if each[number].count(b":") != _members(plain):
                return requests[:number]
        return requests


def _refuse(line: bytes) -> NoReturn:
    """
    Read no line: no schema can be expressed by types.
    """
    raise msgspec.DecodeError


def _usual(lines: bytes) -> bytes:
    """
    The lines before the first that has a character that plain lines don't have.
    """
    found = _UNUSUAL.search(lines)
    assert found is not None
    return lines[: lines.rfind(b"\n", 0, found.start()) + 1]


def _isShort(line: bytes) -> bool:
    return len(line) <= _MAX_LENGTH


def _members(plain: Any) -> int:
    """
    How many members a line has, with those of its data.
    """
    values = (*astuple(plain), *astuple(plain.data))
    # One of them is the data, and the command is not among them.
    return 1 + sum(value is not None for value in values)


def _forms(methods: Iterable[BookingMethod]) -> Iterator[Any]:
    """
    The types of the lines that request one of these methods, by either command.
    """
    envelope = load("request")
    properties = envelope["properties"]
    # The command is the tag by which the parser chooses a type.
    del properties["command"]
    for method in methods:
        schema = load(method.schema)
        # If a type can't express a schema, its lines all go the long way.
        with suppress(ValueError):
            properties["data"] = _struct(method.schema, schema, schema["required"])
            for command, required in (
                (method.name, ("__token", "data")),
                (syncName(method), ("__token", "data", "extID")),
            ):
                yield _struct(
                    command,
                    envelope,
                    required,
                    tag_field="command",
                    tag=command,
                    namespace={
                        "command": command,
                        "cmd": method.cmd,
                        "comment": method.comment,
                        "required": 1 + len(required) + len(schema["required"]),
                    },
                )


def _struct(
    name: str, schema: Mapping[str, Any], required: Collection[str], **options: Any
) -> Any:
    """
    The type of the objects that a schema accepts in a plain line, which have no
    members that the schema does not name.

    @param required: The members that none of them may lack.
    @raise ValueError: The schema has a keyword that no type can express.
    """
    _checkKeywords(schema, _OBJECT)
    fields: list[Any] = []
    members = {each: _resolved(wanted) for each, wanted in schema["properties"].items()}
    for member in sorted(members, key=lambda each: each not in required):
        wanted = members[member]
        if wanted == _NEVER:
            continue
        attribute = ATTRIBUTES.get(member, member)
        if member in required:
            fields.append((attribute, _type(wanted)))
        else:
            fields.append((attribute, _type(wanted) | None, None))
    return msgspec.defstruct(
        name, fields, rename=NAMES, forbid_unknown_fields=True, gc=False, **options
    )


def _resolved(schema: Any) -> Any:
    """
    The schema to which one refers, if it does, without what is for people.
    """
    if not isinstance(schema, dict):
        return schema
    found = {name: each for name, each in schema.items() if name != "description"}
    if "$ref" not in found:
        return found
    _, _, name = found.pop("$ref").partition(f"{COMMON}.json#/$defs/")
    return {**_resolved(load(COMMON)["$defs"][name]), **found}


def _type(schema: Any) -> Any:
    """
    The type of the values that a schema accepts in a plain line.

    @param schema: A schema, or the type itself.
    @raise ValueError: It has a keyword that no type can express.
    """
    if not isinstance(schema, dict):
        return schema
    _checkKeywords(schema, {"type", "pattern", *_BOUNDS})
    pattern = schema.get("pattern")
    # Our patterns exclude characters, none of which a plain line can have.
    if pattern is not None and not re.search(fromECMA(pattern), _CHARACTERS):
        raise ValueError(f"the pattern {pattern} excludes more than characters")
    kinds = schema["type"]
    kinds = [kinds] if isinstance(kinds, str) else kinds
    return reduce(or_, [_bounded(kind, schema) for kind in kinds])


def _bounded(kind: str, schema: Mapping[str, Any]) -> Any:
    bounds = {
        bound: schema[keyword]
        for keyword, (bound, kinds) in _BOUNDS.items()
        if keyword in schema and kind in kinds
    }
    return Annotated[_TYPES[kind], Meta(**bounds)]


def _checkKeywords(schema: Mapping[str, Any], known: Collection[str]) -> None:
    unknown = schema.keys() - known
    if unknown:
        raise ValueError(f"no type can express {', '.join(sorted(unknown))}")
