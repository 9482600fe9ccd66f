"""
Validation of requests by the JSON Schemas in C{schemas/}.

A compiled validator (C{jsonschema_rs}) accepts valid requests. Those that it
refuses are checked again by C{jsonschema}, which decides, and whose error becomes
the message for the client. A property test proves that the two agree.

They differ in one case: whether a C{Decimal} without a fraction is an integer. It
does not occur: L{creditsync._wire.decode} makes a C{Decimal} only if a C{float}
would not have the exact value, which it has for every integer up to 2^53, and
greater ones are refused by both.

Patterns are regular expressions of ECMA-262 in both. C{jsonschema} would read them
as Python's, so it gets a translation (L{creditsync._patterns}).

A site can add schemas, which make the rules stricter.
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
from creditsync.methods import FINANCE_METHODS, REQUEST_METHODS

# The schemas of requests; all of them refer to COMMON.
REQUESTS = (
    "request",
    *dict.fromkeys(method.schema for method in FINANCE_METHODS),
    "get_account_by_login",
    "get_groups",
    "get_operation",
    "get_trade_by_order",
    "get_trade_by_orders",
    "set_account_group",
    "resolve_operation",
    "health_check",
    "mng_get_trades_by_filter",
    *(method.schema for method in REQUEST_METHODS),
    "passed",
    "subscribe",
)
COMMON = "common"
# In characters. A message can only contain text of the client if a site's schema
# constrains names of members, or has a keyword that is not in _SENTENCES.
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
    The folder of our schemas: a package if installed, a folder beside the package
    in a bare checkout.
    """
    try:
        return files("creditsync.schemas")
    except ModuleNotFoundError:
        return Path(__file__).parent.parent / "schemas"


class Schemas:
    """
    The schemas of requests: ours and the site's.
    """

    def __init__(self, site: Path | None = None) -> None:
        """
        @param site: A folder of schemas with the names of ours; a value has to
            pass both. They may refer to C{common.json}.
        @raise ValueError: One of its files can't be used.
        """
        common = f"{COMMON}.json"
        compiled = jsonschema_rs.Registry([(common, load(COMMON))])
        # The id() of each prepared schema.
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
        Check a value.

        @param name: One of L{REQUESTS}.
        @param prefix: The name of the value itself: C{"data"}, or nothing for the
            envelope.
        @raise InvalidData: It breaks the schema; the message names the member.
        """
        if not self._isValid[name](value):
            _check(self._ours[name], value, prefix)
        if name in self._site:
            _check(self._site[name], value, prefix)

    def hasSite(self, name: str) -> bool:
        """
        Whether the site has a schema of this name.
        """
        return name in self._site

    def isOurs(self, name: str, value: object) -> bool:
        """
        Whether a value passes our own schema, regardless of the site's.
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
                raise ValueError(f"{path} has an unknown name, expected {names}")
            schema = _read(path)
            try:
                yield path.stem, self._validator(schema)
            except Unresolvable as e:
                raise ValueError(
                    f"{path} refers to {e.ref}, which does not exist"
                ) from e
            except ValueError as e:
                raise ValueError(f"{path} has a pattern that can't be used: {e}") from e

    def _validator(self, schema: Any) -> Draft202012Validator:
        """
        Make the validator for a schema. It never downloads another schema.

        @raise Unresolvable: The schema refers to one that does not exist.
        @raise ValueError: It has a pattern that can't be used.
        """
        return _Validator(self._prepare(schema), registry=self._registry)

    def _prepare(self, schema: Any) -> Any:
        """
        Translate the patterns of a schema, in place, and resolve its references:
        otherwise a wrong C{$ref} would only be noticed when a value gets there.

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
                # It may be in a place that subresources() does not visit.
                other = DRAFT202012.create_resource(found.contents)
                left.append((other, found.resolver))
            left.extend(
                (each, resolver.in_subresource(each))
                for each in resource.subresources()
            )
        return schema


def _read(path: Path) -> Any:
    """
    Read a schema of a site.

    @raise ValueError: It is not a valid schema.
    """
    try:
        schema = json.loads(path.read_bytes())
        # The default format checker would require patterns to be valid in Python.
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
        raise ValueError(f"{path} is not written for JSON Schema 2020-12")
    return schema


_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def _translate(schema: dict[str, Any]) -> None:
    """
    Translate the patterns of one schema, without its subschemas, into Python's.

    @raise ValueError: One has no equivalent.
    """
    # A schema outside of the usual places was not checked and may contain anything.
    if isinstance(schema.get("pattern"), str):
        schema["pattern"] = fromECMA(schema["pattern"])
    if isinstance(schema.get("patternProperties"), dict):
        properties: dict[str, Any] = {}
        for pattern, each in schema["patternProperties"].items():
            name = fromECMA(pattern)
            while name in properties:
                # Two patterns became the same. An empty group makes them differ
                # without changing what they match.
                name += "(?:)"
            properties[name] = each
        schema["patternProperties"] = properties


def _multipleOf(
    validator: Draft202012Validator, unit: Any, value: Any, schema: object
) -> Iterator[ValidationError]:
    """
    The keyword C{multipleOf}, calculated in decimal fractions: 19.99 is a multiple
    of 0.01, but not as binary floating point numbers. Besides, the library can't
    divide a C{Decimal} by a C{float}.
    """
    if validator.is_type(value, "number"):
        ratio = Fraction(str(value)) / Fraction(str(unit))
        if ratio.denominator != 1:
            yield ValidationError(f"{value} is not a multiple of {unit}")


_Validator: type[Draft202012Validator] = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator, {"multipleOf": _multipleOf}
)


def _check(validator: Draft202012Validator, value: object, prefix: str) -> None:
    """
    Refuse a value with the first error in the order of the schema: our schemas
    name the type first, then the required members.
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
    Describe an error in a sentence whose subject is the member.
    """
    keyword = str(error.validator)
    required: Any = error.validator_value
    path = list(error.absolute_path)
    if keyword == "required" and isinstance(error.instance, dict):
        # This is the first error, so it is about the first missing member.
        path.append(next(name for name in required if name not in error.instance))
    subject = _name(path, prefix)
    if keyword == "not" and subject in _MISPLACED:
        return f"{subject} {_MISPLACED[subject]}"
    if keyword == "enum" and isinstance(error.instance, str):
        # Otherwise a client would have to guess which of its words is meant.
        return f'{subject} is "{error.instance:.64}", expected {_choice(required)}'
    sentence = _SENTENCES.get(keyword)
    if sentence is None:
        return f"{subject}: {error.message}"
    return f"{subject} {sentence(required)}"


def _name(path: list[str | int], prefix: str) -> str:
    """
    The name of a member, such as C{data.chanels[0]}.
    """
    name = prefix
    for step in path:
        name += f"[{step}]" if isinstance(step, int) else f".{step}"
    return name.removeprefix(".") or "the request"


def _either(types: str | list[str]) -> str:
    """
    The names of JSON types for people.
    """
    names = [types] if isinstance(types, str) else types
    return " or ".join(_TYPES[name] for name in names)


def _choice(values: list[Any]) -> str:
    """
    The values that C{enum} allows.
    """
    *others, last = map(str, values)
    return f"{', '.join(others)} or {last}" if others else last


def _exactlyOne(forms: list[Any]) -> str:
    """
    What C{oneOf} requires; if it is about members, their names.
    """
    if all(isinstance(form, dict) and set(form) == {"required"} for form in forms):
        names = " and ".join(", ".join(form["required"]) for form in forms)
        return f"must have exactly one of {names}"
    return "must match exactly one of the forms in its schema"


_TYPES = {
    "array": "an array",
    "boolean": "true or false",
    "integer": "an integer",
    "null": "null",
    "number": "a number",
    "object": "an object",
    "string": "a string",
}

# The right places of members that our schemas refuse in others.
_MISPLACED = {
    "data.idempotencyKey": "is in the wrong place: an idempotencyKey is a member of"
    " the request itself, beside data",
}

# The sentence for each keyword of JSON Schema, given its value.
_SENTENCES: dict[str, Callable[[Any], str]] = {
    "type": lambda types: f"must be {_either(types)}",
    "required": lambda names: "is required",
    "enum": lambda values: f"must be {_choice(values)}",
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
