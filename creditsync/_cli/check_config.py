"""
C{creditsync check-config}: prints the options that a server would have, and
checks that it could use them.

Nothing is started, and no file is created.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from twisted.python.usage import UsageError

from creditsync._bookingrules import Rule
from creditsync._process.address import isPostgres
from creditsync._process.composition import authenticator, describeRights
from creditsync._process.keys import TWO_READINGS, keyPath
from creditsync._process.options import Options
from creditsync._process.profile import described
from creditsync.ledger._opening import inTheWay

_USAGE = """\
Usage: creditsync check-config [FILE] [options of the server]

Print the options that a server started with --config FILE and these options would
have, with the source of each, and check that it could use them. Nothing is
started, and no file is created. The exit status is 1 if something is wrong.
"""


def run(arguments: Sequence[str]) -> None:
    """
    Print and check the options, and exit with status 1 if something is wrong.

    @param arguments: A configuration file, which may be left out, and options of
        the server.
    """
    words = list(arguments)
    if words[:1] in (["--help"], ["-h"]):
        print(_USAGE, end="")
        return
    if words and not words[0].startswith("-"):
        words.insert(0, "--config")
    options = Options()
    try:
        options.parseOptions(words)  # type: ignore[no-untyped-call]
    except UsageError as e:
        raise SystemExit(f"creditsync check-config: {e}") from e
    for line in _lines(options):
        print(line)
    print(f"# Tokens: {_tokens(options)}.")
    print(f"# Rights: {describeRights(options)}.")
    for warning in _warnings(options):
        print(f"creditsync check-config: warning: {warning}", file=sys.stderr)
    problems = list(_problems(options))
    for problem in problems:
        print(f"creditsync check-config: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)
    print("Configuration OK.")


def _lines(options: Options) -> Iterator[str]:
    """
    Each option as a line of a configuration file, with its source as a comment.
    """
    names = [name for name, *_ in (*options.optParameters, *options.optFlags)]
    flags = {name for name, *_ in options.optFlags}
    for name in ("listen", "web-origin", *names):
        value = bool(options[name]) if name in flags else options[name]
        if name != "config" and value not in (None, []):
            shown = _withoutPassword(str(value)) if name == "ledger" else value
            yield f"{name} = {_toml(shown)}  # {_source(options, name)}"
    if options["rules"] is not None:
        yield from map(_described, options["rules"].rules)
    for command in options["profile"]["pass"]:
        yield f"# passed on: {described(command)}"


def _withoutPassword(ledger: str) -> str:
    if not isPostgres(ledger):
        return ledger
    # What PostgreSQL needs is loaded only where it is used.
    from creditsync.postgres._session import addressOf

    return addressOf(ledger)


def _described(rule: Rule) -> str:
    """
    A rule as a comment: it is in a file of its own.
    """
    bounds = " and ".join(filter(None, (rule.inOne, rule.onOneDay)))
    conditions = f" ({rule.conditions})" if rule.conditions else ""
    return f'# limit "{rule.name}"{conditions}: at most {bounds}, or {rule.over}'


def _tokens(options: Options) -> str:
    """
    Which tokens are accepted. A key that has yet to be made is a secret like any.
    """
    return authenticator(options, options["secret"] or bytes(32)).describe()


def _source(options: Options, name: str) -> str:
    if name in options.given:
        return "command line"
    return str(options["config"]) if name in options.filed else "default"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return str(value)


def _warnings(options: Options) -> Iterator[str]:
    """
    What can be used, but may not be what was meant.
    """
    if options["revocations"] is not None:
        for warning in options["revocations"].warnings:
            yield f"--revoked: {options['revoked']}: {warning}"
    if options["keys"] is not None:
        for warning in options["keys"].warnings:
            yield f"--key: {keyPath(options['key'])}: {warning}"
    if options["formerSecrets"]:
        yield f"--key: the key {TWO_READINGS}"


def _problems(options: Options) -> Iterator[str]:
    """
    The files that the server would only create or open when it starts.
    """
    if options["secret"] is None:
        yield from _uncreatable("key", keyPath(options["key"]))
    if not isPostgres(options["ledger"]):
        yield from _unusable(options["ledger"])
    if options["audit"]:
        yield from _uncreatable("audit", Path(options["audit"]))


def _unusable(ledger: str) -> Iterator[str]:
    """
    What keeps a file from being opened as the ledger.
    """
    yield from _uncreatable("ledger", Path(ledger))
    both = os.R_OK | os.W_OK
    # A lock that can only be read locks as well.
    for end, mode in (("-wal", both), ("-shm", both), (".lock", os.R_OK)):
        problem = inTheWay(os.path.realpath(ledger) + end, mode)
        if problem:
            yield f"--ledger: {problem}"


def _uncreatable(option: str, path: Path) -> Iterator[str]:
    """
    What keeps a file from being written or created.
    """
    folder = path.absolute().parent
    if path.is_dir():
        yield f"--{option}: {path} is a folder"
    elif path.exists():
        if not os.access(path, os.R_OK | os.W_OK):
            yield f"--{option}: {path} can't be read and written by this user"
    elif not folder.is_dir():
        yield f"--{option}: the folder {folder} does not exist"
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield f"--{option}: {path} can't be created by this user"
