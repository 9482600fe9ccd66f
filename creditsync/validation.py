"""
The judge of what clients send: the wire contract's JSON Schemas, applied.

A compiled validator says yes to what is right, in a microsecond. Only what it
refuses is judged by C{jsonschema}, which has the last word and gives the reason
that the client is told. A property test holds the two to the same verdicts.

They differ in one thing: whether a C{Decimal} without a fraction is an integer.
None of our integers can be one. L{creditsync._wire.decode} yields a C{Decimal}
only where a C{float} does not have the exact value, and a C{float} has that of
every integer up to 2^53; beyond it both refuse because it is too great.

A pattern means what ECMA-262 says, to either of them: C{jsonschema}, which
would read it as one of Python's, is given the translation.

A site may bring schemas of its own, which can only tighten ours.
"""

import json
from collections.abc import Callable, Iterator
from fractions import Fraction
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import jsonschema_rs
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from creditsync._patterns import fromECMA
from creditsync.errors import InvalidData
from creditsync.methods import FINANCE_METHODS

# The schemas of what clients send; COMMON is what these refer to.
REQUESTS = (
    "request",
    *dict.fromkeys(method.schema for method in FINANCE_METHODS),
    "get_operation",
    "health_check",
    "subscribe",
)
COMMON = "common"
# In characters. What the client chose can be part of a message only where a
# site's schema is about names, or has a keyword that _SENTENCES does not know.
_MAX_MESSAGE = 255


def load(name: str) -> dict[str, Any]:
    """
    Read one of our schemas.

    @param name: Its file's name without C{.json}.
    @raise ValueError: This build doesn't have it.
    """
    try:
        text = _folder().joinpath(f"{name}.json").read_bytes()
    except FileNotFoundError:
        raise ValueError(f"this creditsync has no schemas/{name}.json") from None
    schema: dict[str, Any] = json.loads(text)
    return schema


def _folder() -> Traversable:
    """
    Where our schemas are: a package when installed, a folder beside ours in a
    bare checkout.
    """
    try:
        return files("creditsync.schemas")
    except ModuleNotFoundError:
        return Path(__file__).parent.parent / "schemas"


class Schemas:
    """
    Our schemas of what clients send, and the site's.
    """

    def __init__(self, site: Path | None = None) -> None:
        """
        @param site: A folder of schemas that have the names of ours; what they
            are for must pass both. They may refer to C{common.json}.
        @raise ValueError: One of its files can't be used, and why.
        """
        common = f"{COMMON}.json"
        compiled = jsonschema_rs.Registry([(common, load(COMMON))])
        # The schemas that are prepared, by their identity.
        self._prepared: set[int] = set()
        self._registry: Registry[Any] = Registry()
        self._registry = Registry().with_contents(
            [(common, self._prepare(load(COMMON)))]
        )
        self._isValid = {}
        self._ours = {}
        for name in REQUESTS:
            schema = load(name)
            self._isValid[name] = jsonschema_rs.Draft202012Validator(
                schema, registry=compiled
            ).is_valid
            self._ours[name] = self._validator(schema)
        self._site = {} if site is None else dict(self._loadSite(site))

    def check(self, name: str, value: object, prefix: str = "") -> None:
        """
        Judge a value.

        @param name: One of L{REQUESTS}.
        @param prefix: What the value itself is called: C{"data"}, or nothing
            for the envelope.
        @raise InvalidData: It breaks the schema; the message names the member.
        """
        if not self._isValid[name](value):
            _judge(self._ours[name], value, prefix)
        if name in self._site:
            _judge(self._site[name], value, prefix)

    def hasSite(self, name: str) -> bool:
        """
        Whether the site has a schema of this name.
        """
        return name in self._site

    def isOurs(self, name: str, value: object) -> bool:
        """
        Whether a value passes our own schema, whatever the site's says.
        """
        return bool(self._isValid[name](value))

    def _loadSite(self, site: Path) -> Iterator[tuple[str, Draft202012Validator]]:
        """
        Read the site's schemas.
        """
        if not site.is_dir():
            raise ValueError(f"{site} is not a folder")
        for path in sorted(site.iterdir()):
            if path.suffix != ".json" or path.stem not in REQUESTS:
                names = ", ".join(f"{name}.json" for name in REQUESTS)
                raise ValueError(f"{path} does not have a name that is used: {names}")
            schema = _read(path)
            try:
                yield path.stem, self._validator(schema)
            except Unresolvable as e:
                raise ValueError(f"{path} refers to {e.ref}, which is not there") from e
            except ValueError as e:
                raise ValueError(f"{path} has a pattern that can't be used: {e}") from e

    def _validator(self, schema: Any) -> Draft202012Validator:
        """
        Make the judge for one schema; it never fetches another one.

        @raise Unresolvable: It refers to what is not there.
        @raise ValueError: It has a pattern that can't be used.
        """
        return _Validator(self._prepare(schema), registry=self._registry)

    def _prepare(self, schema: Any) -> Any:
        """
        Translate the patterns of a schema, in place, and look up all that it
        refers to: a wrong C{$ref} would otherwise be noticed only when a value
        meets it.

        @return: The same schema.
        """
        root = DRAFT202012.create_resource(schema)
        left = [(root, self._registry.resolver_with_root(root))]
        while left:
            resource, resolver = left.pop()
            contents = resource.contents
            if not isinstance(contents, dict) or id(contents) in self._prepared:
                continue
            self._prepared.add(id(contents))
            _translate(contents)
            for keyword in {"$ref", "$dynamicRef"} & contents.keys():
                found = resolver.lookup(contents[keyword])
                # It may stand where no keyword has a schema.
                other = DRAFT202012.create_resource(found.contents)
                left.append((other, found.resolver))
            left.extend(
                (each, resolver.in_subresource(each))
                for each in resource.subresources()
            )
        return schema


def _read(path: Path) -> Any:
    """
    Read a schema that is not ours.

    @raise ValueError: It is none, and why.
    """
    try:
        schema = json.loads(path.read_bytes())
        # By default it would check that patterns are those of Python.
        Draft202012Validator.check_schema(schema, FormatChecker(()))
    except OSError as e:
        raise ValueError(f"{path} can't be read: {e.strerror}") from e
    except ValueError as e:
        raise ValueError(f"{path} is not JSON: {e}") from e
    except SchemaError as e:
        raise ValueError(
            f"{path} is not a valid schema: {e.message} at {e.json_path}"
        ) from e
    if isinstance(schema, dict) and schema.get("$schema", _DIALECT) != _DIALECT:
        raise ValueError(f"{path} is not of JSON Schema 2020-12")
    return schema


_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def _translate(schema: dict[str, Any]) -> None:
    """
    Make what one schema itself has of patterns into those of Python.

    @raise ValueError: One has no equivalent.
    """
    # What is only referred to was not checked, and may be anything.
    if isinstance(schema.get("pattern"), str):
        schema["pattern"] = fromECMA(schema["pattern"])
    if isinstance(schema.get("patternProperties"), dict):
        properties: dict[str, Any] = {}
        for pattern, each in schema["patternProperties"].items():
            name = fromECMA(pattern)
            while name in properties:
                # Two that are the same in Python. This matches nothing more.
                name += "(?:)"
            properties[name] = each
        schema["patternProperties"] = properties


def _multipleOf(
    validator: Draft202012Validator, unit: Any, value: Any, schema: object
) -> Iterator[ValidationError]:
    """
    The keyword C{multipleOf}, in decimals: 19.99 is a multiple of 0.01, which
    their doubles are not. And the library can't divide a C{Decimal} by a
    C{float}.
    """
    if validator.is_type(value, "number"):
        ratio = Fraction(str(value)) / Fraction(str(unit))
        if ratio.denominator != 1:
            yield ValidationError(f"{value} is not a multiple of {unit}")


_Validator: type[Draft202012Validator] = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator, {"multipleOf": _multipleOf}
)


def _judge(validator: Draft202012Validator, value: object, prefix: str) -> None:
    """
    Refuse a value for the first error in the order of its schema: ours name
    the type first, then the members that are required.
    """
    error = next(validator.iter_errors(value), None)
    if error is None:
        return
    message = _explain(error, prefix)
    if len(message) > _MAX_MESSAGE:
        message = f"{message[: _MAX_MESSAGE - 3]}..."
    raise InvalidData(message)


def _explain(error: ValidationError, prefix: str) -> str:
    """
    Say what is wrong in a sentence whose subject is the member.
    """
    keyword = str(error.validator)
    asked: Any = error.validator_value
    path = list(error.absolute_path)
    if keyword == "required" and isinstance(error.instance, dict):
        # Only the first error is asked for, so it is about the first of these.
        path.append(next(name for name in asked if name not in error.instance))
    subject = _name(path, prefix)
    if keyword == "not" and subject in _MISPLACED:
        return f"{subject} {_MISPLACED[subject]}"
    say = _SENTENCES.get(keyword)
    if say is None:
        return f"{subject}: {error.message}"
    return f"{subject} {say(asked)}"


def _name(path: list[str | int], prefix: str) -> str:
    """
    Name a member as one would in a program: C{data.chanels[0]}.
    """
    name = prefix
    for step in path:
        name += f"[{step}]" if isinstance(step, int) else f".{step}"
    return name.removeprefix(".") or "the request"


def _either(types: str | list[str]) -> str:
    """
    Name JSON types for people.
    """
    names = [types] if isinstance(types, str) else types
    return " or ".join(_TYPES[name] for name in names)


def _exactlyOne(forms: list[Any]) -> str:
    """
    Say what C{oneOf} asks for: which members, if it is only about them.
    """
    if all(isinstance(form, dict) and set(form) == {"required"} for form in forms):
        names = " and ".join(", ".join(form["required"]) for form in forms)
        return f"must have exactly one of {names}"
    return "must have exactly one of the forms in its schema"


_TYPES = {
    "array": "an array",
    "boolean": "true or false",
    "integer": "an integer",
    "null": "null",
    "number": "a number",
    "object": "an object",
    "string": "a string",
}

# Where a member belongs that our schemas do not allow in its place.
_MISPLACED = {
    "data.idempotencyKey": "is in the wrong place: an idempotencyKey is a member of"
    " the request itself, beside data",
}

# What each keyword of JSON Schema asks for, given its value.
_SENTENCES: dict[str, Callable[[Any], str]] = {
    "type": lambda types: f"must be {_either(types)}",
    "required": lambda names: "is required",
    "minimum": "must be at least {}".format,
    "maximum": "must be at most {}".format,
    "exclusiveMinimum": "must be greater than {}".format,
    "exclusiveMaximum": "must be less than {}".format,
    "multipleOf": "must be a multiple of {}".format,
    "minLength": "must have at least {} character(s)".format,
    "maxLength": "must have at most {} characters".format,
    "minItems": "must have at least {} item(s)".format,
    "maxItems": "must have at most {} items".format,
    "pattern": lambda pattern: "does not match the required pattern",
    "oneOf": _exactlyOne,
}
